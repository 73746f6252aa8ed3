//! `cmap`.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testbed::{Cluster, IpcType, eventually, shared_one, skip, version};

use super::served::{Place, Served, against_both};
use super::{assert_fails, assert_one_line, command, json, lines, ok, program, run};

against_both! {
    a_list_with_bytes_that_fit_no_type_is_loaded
    files_are_loaded_as_a_whole_or_not_at_all
    changes_are_told_with_old_and_new_value
    a_reader_that_goes_ends_watching_quietly
    the_stats_map_is_read
    changes_of_the_stats_map_are_told
    keys_to_delete_that_are_not_there_are_complained_about
    the_list_of_statistics_leaves_connections_out
    several_keys_are_read_at_once
    several_keys_are_deleted_at_once_and_by_their_beginning
}

/// Key, type and value of every line of corosync-cmapctl, or of ours for people.
fn parse(text: &str) -> BTreeMap<String, (String, String)> {
    let line = |line: &str| {
        let (key, rest) = line.split_once(" (")?;
        let (value_type, value) =
            rest.split_once(") = ").or_else(|| Some((rest.strip_suffix(')')?, "")))?;
        Some((key.to_owned(), (value_type.to_owned(), value.to_owned())))
    };
    text.lines().map(|text| line(text).unwrap_or_else(|| panic!("{text:?}"))).collect()
}

#[test]
fn the_list_is_that_of_corosync_cmapctl() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    for (key, value_type, value) in [
        ("list.i8", "i8", "-128"),
        ("list.u8", "u8", "255"),
        ("list.i16", "i16", "-32768"),
        ("list.u16", "u16", "65535"),
        ("list.i32", "i32", "-2147483648"),
        ("list.u32", "u32", "4294967295"),
        ("list.i64", "i64", "-9223372036854775808"),
        ("list.u64", "u64", "18446744073709551615"),
        ("list.flt", "flt", "0.5"),
        ("list.dbl", "dbl", "-1234.25"),
        ("list.str", "str", "two words"),
    ] {
        ok(node, &["cmap", "set", key, value_type, value]);
    }
    ok(node, &["cmap", "set", "list.bin", "bin", "AP8q"]);

    let tool = || parse(&node.tool("corosync-cmapctl", [""; 0]).success());
    let (before, ours, after) = (tool(), ok(node, &["cmap", "list"]), tool());
    let entries = json(node, &["cmap", "list"]);
    let again = tool();
    // What the daemon changes by itself, while it is asked.
    let changing = |key: &str| {
        // Corosync 2 has keys for each connection: ours, and the tool's.
        let connection = key.starts_with("runtime.connections.");
        connection || before.get(key) != after.get(key) || after.get(key) != again.get(key)
    };
    let settled = |map: &BTreeMap<String, (String, String)>| {
        let mut map = map.clone();
        map.retain(|key, _| !changing(key));
        // The tool shows no bytes unless asked, and then in its own way.
        map.entry("list.bin".to_owned()).and_modify(|(_, value)| value.clear());
        map
    };
    let expected = settled(&before);
    assert!(expected.len() > 50, "{expected:?}");
    assert_eq!(settled(&parse(&ours)), expected);
    assert!(node.tool("corosync-cmapctl", ["-b", "list.bin"]).success().contains("= \\x00\\xFF"));

    let entries = entries.as_array().unwrap();
    let order: Vec<_> = parse_order(&ours).into_iter().filter(|key| !changing(key)).collect();
    let json_order: Vec<_> = entries.iter().map(|entry| entry["key"].as_str().unwrap()).collect();
    assert_eq!(
        json_order.iter().filter(|key| !changing(key)).collect::<Vec<_>>(),
        order.iter().collect::<Vec<_>>()
    );
    for entry in entries {
        let Some((value_type, value)) = expected.get(entry["key"].as_str().unwrap()) else {
            continue;
        };
        assert_eq!(entry["type"], json!(value_type));
        match value_type.as_str() {
            "str" => assert_eq!(entry["value"], json!(value)),
            "bin" => assert_eq!(entry["value"], json!("AP8q")),
            "flt" | "dbl" => assert_eq!(entry["value"].as_f64(), value.parse().ok(), "{entry}"),
            _ => assert_eq!(entry["value"].to_string(), *value, "{entry}"),
        }
    }

    assert_eq!(parse(&ok(node, &["cmap", "list", "list.u"])).len(), 4);
    assert_eq!(ok(node, &["cmap", "list", "no.such.key"]), "");
    assert_eq!(json(node, &["cmap", "list", "no.such.key"]), json!([]));
}

fn parse_order(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split_once(" (").unwrap().0).collect()
}

#[test]
fn what_the_tool_sets_is_read_and_the_other_way_round() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let tool = |args: &[&str]| node.tool("corosync-cmapctl", args).success();
    tool(&["-s", "--", "both.i16", "i16", "-7"]);
    assert_eq!(ok(node, &["cmap", "get", "both.i16"]), "-7\n");
    assert_eq!(
        json(node, &["cmap", "get", "both.i16"]),
        json!({ "key": "both.i16", "type": "i16", "value": -7 })
    );

    ok(node, &["cmap", "set", "both.number", "u8", "255"]);
    ok(node, &["cmap", "increment", "both.number"]);
    assert_eq!(tool(&["-g", "both.number"]), "both.number (u8) = 0\n");
    ok(node, &["cmap", "decrement", "both.number"]);
    assert_eq!(tool(&["-g", "both.number"]), "both.number (u8) = 255\n");
    ok(node, &["cmap", "set", "both.number", "str", "--", "--text"]);
    assert_eq!(tool(&["-g", "both.number"]), "both.number (str) = --text\n");
    ok(node, &["cmap", "delete", "both.number"]);
    assert_eq!(node.tool("corosync-cmapctl", ["-g", "both.number"]).stdout, "");

    let written = command(node, &["cmap", "set", "both.bin", "bin", "-"]).input([0_u8, 1, 2]).run();
    assert_eq!(written.code(), 0);
    assert_eq!(ok(node, &["cmap", "get", "both.bin"]), "AAEC\n");
    let longest = "x".repeat(16 << 10);
    ok(node, &["cmap", "set", "both.long", "str", &longest]);
    assert_eq!(ok(node, &["cmap", "get", "both.long"]).trim_end(), longest);
    ok(node, &["cmap", "set", "both.lines", "str", "one\ntwo\u{1b}[2J"]);
    assert_eq!(ok(node, &["cmap", "get", "both.lines"]), "one\ntwo\u{1b}[2J\n");
    assert_eq!(
        ok(node, &["cmap", "list", "both.lines"]),
        "both.lines (str) = one\\x0atwo\\x1b[2J\n"
    );

    // A string that is no UTF-8.
    let latin = OsStr::from_bytes(b"caf\xe9 \x01");
    node.tool(
        "corosync-cmapctl",
        [OsStr::new("-s"), OsStr::new("both.latin"), OsStr::new("str"), latin],
    )
    .success();
    let shell = format!("{} cmap get both.latin | od -An -tx1", program().display());
    let bytes = node.command("/bin/sh").args(["-c", &shell]).run().success();
    assert_eq!(bytes.trim(), "63 61 66 e9 20 01 0a");
    assert_eq!(ok(node, &["cmap", "list", "both.latin"]), "both.latin (str) = caf\\xe9 \\x01\n");
    let entry = json!({ "key": "both.latin", "type": "str", "value": null, "raw": "Y2Fm6SABAA==" });
    assert_eq!(json(node, &["cmap", "get", "both.latin"]), entry);
}

#[test]
fn getting_a_value_is_one_request() {
    if skip() {
        return;
    }
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(env::var_os("COROSYNC_IPC_REQUIRE_DAEMON").is_none(), "there is no strace");
        return;
    }
    let node = shared_one().node(1);
    let requests = |args: &[&str]| {
        let trace = node
            .command("strace")
            .args(["-f", "-e", "trace=%network,write,writev"])
            .arg(program())
            .args(args);
        let output = trace.run();
        assert!(output.is_success(), "{output:?}");
        // One byte on the socket wakes the daemon for each request, and those of requests that are
        // made at once go together; 24 bytes ask for the connection.
        let sends = output.stderr.lines().filter(|line| line.contains("send"));
        let sent = sends.filter_map(|line| line.rsplit_once(" = ")?.1.parse().ok());
        sent.filter(|bytes: &usize| *bytes < 24).collect::<Vec<_>>()
    };
    assert_eq!(requests(&["cmap", "get", "totem.cluster_name"]), [1]);
    // To know that requests are counted: making an iterator, its first steps, releasing it, and a
    // value for each key.
    ok(node, &["cmap", "set", "requests.a", "u8", "1"]);
    ok(node, &["cmap", "set", "requests.b", "u8", "1"]);
    assert_eq!(requests(&["cmap", "list", "requests."]), [1, 8, 1, 2]);
}

fn files_are_loaded_as_a_whole_or_not_at_all(node: &impl Place) {
    let load = |text: &str| command(node, &["cmap", "load", "-"]).input(text).run();
    let list = || ok(node, &["--json", "cmap", "list", "load."]);

    assert_eq!(
        load("# settings\nload.one u32 1\n\nload.two str two words\nload.three bin AAEC\n").code(),
        0
    );
    assert_eq!(ok(node, &["cmap", "get", "load.two"]), "two words\n");
    let loaded = list();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.json");
    fs::write(&file, &loaded).unwrap();
    assert_eq!(load("^load.one\n^^load.t\n").code(), 0);
    assert_eq!(list(), "[]\n");
    assert_eq!(ok(node, &["cmap", "load", file.to_str().unwrap()]), "");
    assert_eq!(list(), loaded);

    for (text, words) in [
        ("load.one u32 2\nload.four u8 300\n", &["line 2", "0 to 255"][..]),
        ("load.one u32 2\nload.two\n", &["line 2", "KEY TYPE VALUE"]),
        ("load.one u32 2\nload.two u99 1\n", &["line 2", "unknown type \"u99\""]),
        ("load.one u32 2\nload.tw$ u8 1\n", &["line 2", "not allowed in a key"]),
        (
            "[{\"key\":\"load.one\",\"type\":\"u32\",\"value\":2},{\"key\":\"load.two\"}]",
            &["entry 2 (load.two)"],
        ),
    ] {
        assert_fails(&load(text), 2, words);
        assert_eq!(list(), loaded, "{text}");
    }
    assert_fails(&run(node, &["cmap", "load", "/no/such/file"]), 2, &["/no/such/file"]);

    // What only the daemon knows ends it where it is.
    let output = load("load.one u32 2\ntotem.version u32 3\nload.one u32 3\n");
    assert_fails(&output, 1, &["line 2", "1 of 3", "CS_ERR_ACCESS", "totem.version is read-only"]);
    assert_eq!(ok(node, &["cmap", "get", "load.one"]), "2\n");
}

/// Starts watching and waits until the daemon knows.
fn a_list_with_bytes_that_fit_no_type_is_loaded(node: &impl Place) {
    let entry = json!({ "key": "raw.latin", "type": "str", "value": null, "raw": "Y2Fm6Q==" });
    let load = command(node, &["cmap", "load", "-"]).input(entry.to_string().into_bytes()).run();
    assert_eq!((load.code(), load.stderr.as_str()), (0, ""));
    let listed = json(node, &["cmap", "list", "raw."]);
    assert_eq!(listed[0]["value"], json!(null));
    let again = command(node, &["cmap", "load", "-"]).input(listed.to_string().into_bytes()).run();
    assert_eq!((again.code(), again.stderr.as_str()), (0, ""));
    assert_eq!(json(node, &["cmap", "list", "raw."]), listed);
}

fn watch(node: &impl Place, args: &[&str]) -> testbed::Process {
    let process = command(node, &["-v", "cmap", "watch"]).args(args).spawn();
    eventually("watching", || process.stderr().contains("watching"));
    process
}

fn changes_are_told_with_old_and_new_value(node: &impl Place) {
    let watching = watch(node, &["--json", "watched.key", "watched.key.below", "--count", "4"]);
    let cmap = |args: &[&str]| ok(node, &[&["cmap"], args].concat());
    cmap(&["set", "watched.key_other", "u8", "1"]);
    cmap(&["set", "watched.key", "u8", "1"]);
    cmap(&["set", "watched.key", "str", "text"]);
    cmap(&["set", "watched.key.below", "i64", "-1"]);
    cmap(&["delete", "watched.key"]);
    let output = watching.wait();
    assert_eq!(output.code(), 0, "{output:?}");
    let mut events = lines(&output.stdout);
    for event in &mut events {
        let time = event["time"].take();
        let time = time.as_str().unwrap();
        assert!(time.len() == "2026-01-01T00:00:00.000000Z".len() && time.ends_with('Z'), "{time}");
    }
    let null = Value::Null;
    let event =
        |event, key, value_type: &str, value: Value, old_type: Option<&str>, old_value: Value| {
            let value_type = if value.is_null() { Value::Null } else { json!(value_type) };
            json!({
                "event": event, "time": null, "key": key, "type": value_type, "value": value,
                "old_type": old_type, "old_value": old_value, "missed": false,
            })
        };
    assert_eq!(
        events,
        [
            event("set", "watched.key", "u8", json!(1), None, null.clone()),
            event("modify", "watched.key", "str", json!("text"), Some("u8"), json!(1)),
            event("set", "watched.key.below", "i64", json!(-1), None, null.clone()),
            event("delete", "watched.key", "", null.clone(), Some("str"), json!("text")),
        ]
    );

    let watching = watch(node, &["watched.k*", "--count", "3"]);
    cmap(&["set", "watched.key", "u8", "5"]);
    cmap(&["set", "watched.key", "u8", "6"]);
    cmap(&["delete", "watched.key"]);
    let text = watching.wait().success();
    let words: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(
        words,
        [
            "set: watched.key (u8) = 5",
            "modify: watched.key (u8) = 6 (was 5)",
            "delete: watched.key (u8) = 6"
        ]
    );
}

fn a_reader_that_goes_ends_watching_quietly(node: &impl Place) {
    let script = "(\"$0\" -v cmap watch reader.; echo ended $? >&2) | head -n 1";
    let shell = node.at(Path::new("/bin/sh")).args(["-c", script]).arg(program()).spawn();
    eventually("watching", || shell.stderr().contains("watching"));
    ok(node, &["cmap", "set", "reader.key", "u8", "1"]);
    // Nothing else happens to the map: it is the reader's end that is noticed.
    let output = shell.wait();
    assert!(output.stdout.ends_with("set: reader.key (u8) = 1\n"), "{output:?}");
    assert!(
        output.stderr.ends_with("\nended 0\n") && !output.stderr.contains("corosync-ipc:"),
        "{output:?}"
    );
}

fn the_stats_map_is_read(node: &impl Place) {
    let output = run(node, &["cmap", "--map", "stats", "list", "stats.ipcs.global"]);
    if output.code() == 1 {
        // An old daemon, which must survive being asked.
        assert_fails(&output, 1, &["needs corosync", "CS_ERR_NOT_SUPPORTED"]);
        ok(node, &["cmap", "get", "totem.version"]);
        return;
    }
    assert!(parse(&output.success()).contains_key("stats.ipcs.global.active"));
    let refused =
        run(node, &["cmap", "set", "stats.ipcs.global.active", "u64", "1", "--map", "stats"]);
    assert_fails(&refused, 1, &["CS_ERR_", "stats.ipcs.global.active"]);
}

/// corosync may not survive being asked for them.
fn the_list_of_statistics_leaves_connections_out(node: &impl Place) {
    let output = run(node, &["cmap", "list", "--map", "stats"]);
    if output.code() == 1 {
        // An old daemon.
        return;
    }
    assert_one_line(&output.stderr, &["without the keys of connections", "stats.ipcs."]);
    let all = output.success();
    assert!(!all.contains("stats.ipcs.service"), "{all}");
    for key in ["stats.ipcs.global.active", "stats.pg.msg_reserved", "stats.srp.mcast_tx"] {
        assert!(parse(&all).contains_key(key), "{all}");
    }
    let entries = run(node, &["--json", "cmap", "list", "--map", "stats", "stats.", "stats.pg."]);
    assert_one_line(&entries.stderr, &["without the keys of connections"]);
    let entries: Value = serde_json::from_str(&entries.stdout).unwrap();
    let keys = entries.as_array().unwrap().iter().map(|entry| entry["key"].as_str().unwrap());
    let keys: Vec<_> = keys.collect();
    let pg = ok(node, &["cmap", "list", "--map", "stats", "stats.pg."]);
    assert_eq!(keys, [parse_order(&all), parse_order(&pg)].concat());
}

/// Of daemons that no other test makes connections to.
#[test]
fn connections_are_listed_where_their_prefix_is_named() {
    let served = Served::start();
    for prefix in ["stats.ipcs", "stats.ipcs.", "stats.ipcs.service0."] {
        let list = ok(&served, &["cmap", "list", "--map", "stats", prefix]);
        assert!(list.contains(".procname (str) = "), "{list}");
    }
    // Here the prefix is one of the other map.
    assert_eq!(ok(&served, &["cmap", "list", "stats."]), "");
}

/// That map tells changes of a value to whoever tracks just its key.
fn changes_of_the_stats_map_are_told(node: &impl Place) {
    if !run(node, &["cmap", "list", "--map", "stats"]).is_success() {
        // An old daemon.
        return;
    }
    let key = "stats.ipcs.global.closed";
    let watching = watch(node, &["--json", "--map", "stats", key, "--count", "1"]);
    // Each of these closes a connection.
    eventually("a change is told", || {
        ok(node, &["cmap", "get", "totem.version"]);
        !watching.stdout().is_empty()
    });
    let event = lines(&watching.wait().success()).remove(0);
    assert_eq!(
        (&event["event"], &event["key"], &event["type"]),
        (&json!("modify"), &json!(key), &json!("u64"))
    );
    // Corosync sends no other value than the new one.
    assert!(event["value"].as_u64() > Some(0) && event["old_value"].is_null(), "{event}");

    // Below a key, those that come and go.
    let watching = watch(node, &["--json", "--map", "stats", "stats.ipcs.service0"]);
    ok(node, &["cmap", "get", "totem.version"]);
    watching.wait_stdout("\"event\":\"set\"");
    let below = |event: &Value| {
        event["key"].as_str().is_some_and(|key| key.starts_with("stats.ipcs.service0."))
    };
    assert!(lines(&watching.stdout()).iter().all(below), "{}", watching.stdout());
}

/// As corosync-cmapctl does.
fn keys_to_delete_that_are_not_there_are_complained_about(node: &impl Place) {
    let load = |text: &str| command(node, &["cmap", "load", "-"]).input(text).run();
    let output = load("absent.one u8 1\n^absent.none\n^^absent.nothing\nabsent.two u8 2\n");
    assert_eq!((output.code(), output.stdout.as_str()), (0, ""));
    assert_one_line(&output.stderr, &["line 2", "CS_ERR_NOT_EXIST", "no such key: absent.none"]);
    assert_eq!(
        ok(node, &["cmap", "list", "absent."]),
        "absent.one (u8) = 1\nabsent.two (u8) = 2\n"
    );
}

fn several_keys_are_read_at_once(node: &impl Place) {
    for (key, value) in [("several.a", "1"), ("several.b", "2"), ("other.c", "3")] {
        ok(node, &["cmap", "set", key, "u8", value]);
    }
    assert_eq!(
        ok(node, &["cmap", "get", "several.b", "several.a"]),
        "several.b (u8) = 2\nseveral.a (u8) = 1\n"
    );
    let entry = |key: &str, value: u8| json!({ "key": key, "type": "u8", "value": value });
    let [a, b, c] = [entry("several.a", 1), entry("several.b", 2), entry("other.c", 3)];
    assert_eq!(json(node, &["cmap", "get", "several.b", "several.a"]), json!([b, a]));
    // One stays one object.
    assert_eq!(json(node, &["cmap", "get", "several.a"]), a);

    let missing = run(node, &["cmap", "get", "several.a", "no.such.key", "several.b", "nor.this"]);
    assert_eq!(
        (missing.code(), missing.stdout.as_str()),
        (1, "several.a (u8) = 1\nseveral.b (u8) = 2\n")
    );
    assert_one_line(&missing.stderr, &["no.such.key", "CS_ERR_NOT_EXIST", "1 more"]);
    let missing = run(node, &["--json", "cmap", "get", "no.such.key", "several.a"]);
    assert_eq!(missing.code(), 1);
    let none = json!({
        "key": "no.such.key", "type": null, "value": null,
        "error": "cmap get: CS_ERR_NOT_EXIST", "cs_error": "CS_ERR_NOT_EXIST",
    });
    assert_eq!(serde_json::from_str::<Value>(&missing.stdout).unwrap(), json!([none, a]));
    assert_fails(&run(node, &["cmap", "get", "several.a", "a$b"]), 2, &["not allowed in a key"]);

    assert_eq!(json(node, &["cmap", "list", "other.c", "several."]), json!([c, a, b]));
    assert_eq!(json(node, &["cmap", "list", "no.such.key", "other.c"]), json!([c]));
}

#[test]
fn what_was_read_in_time_is_printed() {
    const KEY: &str = "totem.version";
    let served = Served::start();
    // More than can be read within the shortest of the timeouts.
    let keys = vec![KEY; 50_000];
    let cut_short = |options: &[&str], is_cut: &dyn Fn(&str) -> bool| {
        let timeouts = ["100ms", "300ms", "1s", "3s", "10s", "30s", "100s"].into_iter();
        let runs = timeouts.map(|timeout| {
            let args = [options, &["--timeout", timeout, "cmap", "get"], &keys].concat();
            run(&served, &args)
        });
        let mut runs = runs.filter(|output| !output.stdout.is_empty() && is_cut(&output.stdout));
        let output = runs.next().expect("a run that is cut short");
        assert_eq!(output.code(), 4, "{}", output.stderr);
        assert_one_line(&output.stderr, &[KEY, "CS_ERR_TIMEOUT"]);
        output.stdout
    };
    let is_cut = |text: &str| text.lines().count() < keys.len();
    let text = cut_short(&[], &is_cut);
    assert!(text.lines().all(|line| line == "totem.version (u32) = 2"), "{text}");
    let entries = |text: &str| serde_json::from_str::<Vec<Value>>(text).unwrap();
    let is_cut = |text: &str| entries(text).iter().any(|entry| entry["value"].is_null());
    let entries = entries(&cut_short(&["--json"], &is_cut));
    assert_eq!(entries.len(), keys.len());
    let read = entries.iter().take_while(|entry| entry["value"] == json!(2)).count();
    assert!(entries[read..].iter().all(|entry| entry["cs_error"] == json!("CS_ERR_TIMEOUT")));
    assert!(read > 0);
}

fn several_keys_are_deleted_at_once_and_by_their_beginning(node: &impl Place) {
    let keys = |beginning: &str| {
        parse(&ok(node, &["cmap", "list", beginning])).into_keys().collect::<Vec<_>>()
    };
    for key in ["gone.a", "gone.b", "gone.c", "gone.d", "gone.e", "going.a", "stays.a"] {
        ok(node, &["cmap", "set", key, "u8", "1"]);
    }
    assert_eq!(ok(node, &["cmap", "delete", "gone.a", "gone.b"]), "");
    assert_eq!(keys("gone."), ["gone.c", "gone.d", "gone.e"]);

    // One that cannot be deleted does not keep the others.
    let output = run(node, &["cmap", "delete", "gone.a", "totem.version", "gone.c"]);
    assert_fails(&output, 1, &["gone.a: cmap delete: CS_ERR_NOT_EXIST", "(and 1 more)"]);
    assert_eq!(keys("gone."), ["gone.d", "gone.e"]);
    assert_fails(&run(node, &["cmap", "delete", "gone.d", "a$b"]), 2, &["not allowed in a key"]);
    assert_eq!(keys("gone."), ["gone.d", "gone.e"]);

    assert_eq!(ok(node, &["cmap", "delete", "--prefix", "gone.", "goin", "no.such."]), "");
    assert_eq!((keys("gone."), keys("going.")), (vec![], vec![]));
    assert_eq!(keys("stays."), ["stays.a"]);
    assert_eq!(ok(node, &["cmap", "delete", "--prefix", "no.such."]), "");
    let refused = run(node, &["cmap", "delete", "--prefix", "totem.versio"]);
    assert_fails(&refused, 1, &["totem.version: cmap delete: CS_ERR_ACCESS"]);
    // All keys are hardly meant.
    assert_fails(&run(node, &["cmap", "delete", "--prefix", "stays.", ""]), 2, &["empty"]);
    assert_eq!(keys("stays."), ["stays.a"]);
}

/// With daemons of its own, whose statistics no other test looks at.
#[test]
fn statistics_are_cleared() {
    for transport in [IpcType::Shm, IpcType::Socket] {
        assert_clears_statistics(&Served::with(&[
            "--transport",
            transport.name().unwrap_or("shm"),
        ]));
        if !skip() && (transport == IpcType::Shm || version() >= [2, 1, 1, 0]) {
            let cluster = Cluster::builder().ipc_type(transport.name()).start();
            assert_clears_statistics(cluster.node(1));
        }
    }
}

#[track_caller]
fn assert_clears_statistics(node: &impl Place) {
    let clear = |what: &str| run(node, &["cmap", "clear", what]);
    let output = clear("totem");
    if output.code() == 1 {
        // An old daemon, which must survive being asked.
        assert_fails(&output, 1, &["the stats map needs corosync 2.99", "CS_ERR_NOT_SUPPORTED"]);
        ok(node, &["cmap", "get", "totem.version"]);
        return;
    }
    let number =
        |key: &str| json(node, &["cmap", "--map", "stats", "get", key])["value"].as_u64().unwrap();
    let (closed, sent) = ("stats.ipcs.global.closed", "stats.srp.mcast_tx");
    // The daemon multicasts when somebody joins.
    for (what, key) in
        [("ipc", closed), ("totem", sent), ("knet", sent), ("all", sent), ("all", closed)]
    {
        let before = eventually("it is counted", || {
            ok(node, &["cpg", "send", "counted", "text"]);
            Some(number(key)).filter(|number| *number >= 10)
        });
        let cleared = clear(what);
        assert_eq!((cleared.code(), cleared.stdout.as_str(), cleared.stderr.as_str()), (0, "", ""));
        assert!(number(key) < before, "{what} {key}");
    }
    let schedmiss = clear("schedmiss");
    match schedmiss.code() {
        0 => assert_eq!(ok(node, &["cmap", "--map", "stats", "list", "stats.schedmiss."]), ""),
        _ => assert_fails(&schedmiss, 1, &["CS_ERR_NOT_SUPPORTED", "schedmiss needs 3.0.4"]),
    }
    assert_fails(&clear("evs"), 2, &["knet", "schedmiss"]);
}
