//! What corosync-quorumtool prints, taken apart.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use testbed::Node;

/// What `corosync-quorumtool -s` says, in the words of `corosync-ipc --json status`; what its
/// version does not print is missing.
pub(super) fn quorumtool(node: &Node) -> BTreeMap<&'static str, Value> {
    let text = node.tool("corosync-quorumtool", ["-s"]).stdout;
    let field =
        |name: &str| Some(text.lines().find_map(|line| line.strip_prefix(name))?.trim().to_owned());
    let number =
        |name: &str| Some(json!(field(name)?.split_whitespace().next()?.parse::<u64>().ok()?));
    let rows = text.lines().filter_map(|line| {
        // NODEID VOTES [QDEVICE] NAME [(local)]
        let words: Vec<&str> = line.split_whitespace().collect();
        let (id, votes) = (words.first()?.parse::<u32>().ok()?, words.get(1)?.parse::<u32>().ok()?);
        Some((id, votes, words.contains(&"(local)")))
    });
    let members: Vec<Value> = rows.map(|(id, votes, local)| json!([id, votes, local])).collect();
    let found = [
        ("quorum_provider", field("Quorum provider:").map(Value::String)),
        ("node_id", number("Node ID:")),
        ("ring_id", field("Ring ID:").map(|ring| ring_id(&ring))),
        ("quorate", field("Quorate:").map(|answer| json!(answer == "Yes"))),
        ("expected_votes", number("Expected votes:")),
        ("highest_expected", number("Highest expected:")),
        ("total_votes", number("Total votes:")),
        ("quorum", number("Quorum:")),
        (
            "flags",
            field("Flags:")
                .map(|flags| flags.split_whitespace().map(|flag| json!(flag_name(flag))).collect()),
        ),
        ("members", Some(Value::Array(members))),
    ];
    found.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// `1.2c5` in hexadecimal from corosync 3, `1/709` from 2, `709` from 1.99.
fn ring_id(text: &str) -> Value {
    let (node, seq) = if let Some((node, seq)) = text.split_once('.') {
        (u32::from_str_radix(node, 16).ok(), u64::from_str_radix(seq, 16))
    } else if let Some((node, seq)) = text.split_once('/') {
        (node.parse().ok(), seq.parse())
    } else {
        (None, text.parse())
    };
    let seq = seq.expect("a ring id");
    let text = node.map_or(format!("?.{seq:x}"), |node: u32| format!("{node:x}.{seq:x}"));
    json!({ "node_id": node, "seq": seq, "text": text })
}

fn flag_name(flag: &str) -> &str {
    match flag {
        "2Node" => "two_node",
        "Quorate" => "quorate",
        "WaitForAll" => "wait_for_all",
        "LastManStanding" => "last_man_standing",
        "AutoTieBreaker" => "auto_tie_breaker",
        "AllowDownscale" => "allow_downscale",
        "Qdevice" => "qdevice_registered",
        other => other,
    }
}

/// The same of our document.
pub(super) fn comparable(document: &Value) -> BTreeMap<&'static str, Value> {
    let names = [
        "quorum_provider",
        "node_id",
        "ring_id",
        "quorate",
        "expected_votes",
        "highest_expected",
        "total_votes",
        "quorum",
    ];
    let mut found: BTreeMap<&str, Value> =
        names.into_iter().map(|name| (name, document[name].clone())).collect();
    found.insert("flags", document["flags"].clone());
    let members = document["members"].as_array().expect("an array");
    let row = |node: &Value| json!([node["node_id"], node["votes"], node["local"]]);
    found.insert("members", members.iter().map(row).collect());
    found
}
