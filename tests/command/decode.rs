//! `decode`: messages that were captured, cut short and damaged.

use corosync_ipc::wire::{Message, cpg};
use serde_json::{Value, json};
use testbed::{NodeCommand, Output};

use super::{assert_one_line, program};

fn decode(args: &[&str], input: impl Into<Vec<u8>>) -> Output {
    NodeCommand::here(program()).arg("decode").args(args).input(input).run()
}

fn mcast() -> Vec<u8> {
    let message = cpg::Mcast { guarantee: cpg::Guarantee::AGREED, message: "hello".into() };
    message.encode().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X} ")).collect()
}

#[test]
fn a_message_is_printed_field_by_field() {
    let printed = decode(&["cpg", "request"], mcast()).success();
    assert_eq!(printed.lines().next(), Some("req_lib_cpg_mcast, 45 bytes"));
    let row = |name: &str| {
        let line = printed.lines().find(|line| line.split_whitespace().nth(2) == Some(name));
        line.unwrap_or_else(|| panic!("{name}: {printed}")).split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(row("header.id")[4..], ["2"]);
    assert_eq!(row("header.error")[4..], ["1", "(CS_OK)"]);
    assert_eq!(row("guarantee")[4..], ["2", "(agreed)"]);
    assert_eq!(row("message"), ["40", "5", "message", "68656c6c6f", "\"hello\""]);
}

#[test]
fn bytes_and_hex_are_the_same_message() {
    let message = mcast();
    let expected = decode(&["cpg", "request"], message.clone()).success();
    let (first, second) = message.split_at(16);
    let text = format!("# captured\n{}# header\n\n{}\n", hex(first), hex(second));
    assert_eq!(decode(&["cpg", "request"], text).success(), expected);
}

#[test]
fn json_has_every_field_with_its_bytes() {
    let output = decode(&["--json", "cpg", "request"], [mcast(), vec![7; 3]].concat());
    let document: Value = serde_json::from_str(&output.success()).unwrap();
    assert_eq!(document["message"], "req_lib_cpg_mcast");
    assert_eq!(document["rest"], "BwcH");
    assert_eq!(document["error"], Value::Null);
    let fields = document["fields"].as_array().unwrap();
    let bytes = if cfg!(target_endian = "big") { "AAAAAg==" } else { "AgAAAA==" };
    let guarantee = json!({
        "name": "guarantee", "offset": 24, "size": 4, "bytes": bytes, "value": 2,
        "names": ["agreed"],
    });
    assert!(fields.contains(&guarantee), "{document}");
    let message = json!({
        "name": "message", "offset": 40, "size": 5, "bytes": "aGVsbG8=", "value": "hello",
    });
    assert!(fields.contains(&message), "{document}");
}

#[test]
fn a_message_that_is_wrong_is_shown_as_far_as_it_can_be_read() {
    let output = decode(&["cpg", "request"], &mcast()[..42]);
    assert_eq!(output.code(), 1);
    assert!(output.stdout.contains(" msglen "), "{output:?}");
    assert!(!output.stdout.contains(" message "), "{output:?}");
    assert_one_line(&output.stderr, &["req_lib_cpg_mcast", "msglen", "offset 32"]);

    let mut unknown = mcast();
    unknown[0..4].copy_from_slice(&99i32.to_ne_bytes());
    let output = decode(&["cpg", "request", "--json"], unknown);
    assert_eq!(output.code(), 1);
    assert_one_line(&output.stderr, &["unknown message id 99"]);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["message"], "qb_ipc_request_header");
    assert_eq!(document["fields"][0]["value"], 99);
}

#[test]
fn long_values_are_cut_in_text_only() {
    let text = "a b ".repeat(1 << 18);
    let message = cpg::Mcast { guarantee: cpg::Guarantee::AGREED, message: text.clone().into() };
    let message = message.encode().unwrap();
    let output = decode(&["--json", "cpg", "request"], message.clone());
    let document: Value = serde_json::from_str(&output.success()).unwrap();
    assert_eq!(document["fields"].as_array().unwrap().last().unwrap()["value"], text);
    let printed = decode(&["cpg", "request"], message).success();
    assert!(printed.len() < 10_000 && printed.ends_with("..\n"), "{} bytes", printed.len());
}

#[test]
fn input_without_end_is_refused() {
    for input in [vec![0; (2 << 20) + 1], "00 ".repeat((2 << 20) + 1).into(), vec![b' '; 17 << 20]]
    {
        let output = decode(&["cpg", "request"], input);
        assert_eq!(output.code(), 1);
        assert_one_line(&output.stderr, &["more than"]);
    }
}

#[test]
fn what_is_no_message_ends_with_1_and_wrong_usage_with_2() {
    for (input, word) in [("hello", "hex"), ("123", "odd"), ("", "0 are left")] {
        let output = decode(&["cmap", "event"], input);
        assert_eq!(output.code(), 1, "{output:?}");
        assert_one_line(&output.stderr, &[word]);
    }
    let output = decode(&["pload", "event"], "");
    assert_eq!(output.code(), 2, "{output:?}");
    assert_one_line(&output.stderr, &["pload", "votequorum"]);
}
