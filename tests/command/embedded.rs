//! `--embedded`: each command on a machine without a corosync.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::{NodeCommand, Process, eventually};

use super::{assert_fails, lines, program};

fn embedded(args: &[&str]) -> NodeCommand {
    NodeCommand::here(program()).arg("--embedded").args(args)
}

/// What a command that must succeed prints.
#[track_caller]
fn printed(args: &[&str]) -> String {
    let output = embedded(args).run();
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{args:?}");
    output.stdout
}

#[track_caller]
fn document(args: &[&str]) -> Value {
    let text = printed(&[&["--json"], args].concat());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// The directories of embedded daemons of a process.
fn left_by(pid: u32) -> Vec<String> {
    let names = fs::read_dir("/dev/shm")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(&format!("corosync-ipc-{pid}-"))).collect()
}

#[test]
fn the_state_is_that_of_one_quorate_node() {
    let status = document(&["status"]);
    for (member, value) in [
        ("cluster_name", json!("embedded")),
        ("node_id", json!(1)),
        ("ring_id", json!({ "node_id": 1, "seq": 5, "text": "1.5" })),
        ("quorate", json!(true)),
        ("expected_votes", json!(1)),
        ("total_votes", json!(1)),
        ("quorum", json!(1)),
        ("absent", json!([])),
    ] {
        assert_eq!(status[member], value, "{member}");
    }
    let services = status["services"].as_array().unwrap();
    let reachable = services.iter().filter(|service| service["reachable"] == json!(true));
    assert_eq!(reachable.count(), 6, "{services:?}");
    assert!(printed(&["status"]).contains("Quorate:          yes\n"));

    let mut quorum = document(&["quorum", "status", "--check"]);
    quorum["links"] = status["links"].clone();
    quorum["services"] = status["services"].clone();
    // Of another process.
    quorum["daemon"] = status["daemon"].clone();
    assert_eq!(quorum, status);
    let nodes = document(&["quorum", "nodes"]);
    assert_eq!(nodes, status["members"]);
    assert_eq!(nodes[0]["name"], json!("n1"));
    assert_eq!(document(&["cfg", "links"]), status["links"]);

    let doctor = document(&["doctor"]);
    assert_eq!(doctor["ok"], json!(true));
    assert!(
        doctor["services"].as_array().unwrap().iter().all(|service| service["ok"] == json!(true)),
        "{doctor}"
    );
    assert_eq!(doctor["services"].as_array().unwrap().len(), 6);
    assert!(printed(&["doctor"]).contains("evs         ok: "));
}

#[test]
fn the_map_is_read_and_changed() {
    assert!(document(&["cmap", "list"]).as_array().unwrap().len() > 50);
    assert_eq!(printed(&["cmap", "get", "totem.cluster_name"]), "embedded\n");
    let stats = document(&["cmap", "list", "--map", "stats", "stats.ipcs.global.active"]);
    assert_eq!(stats[0]["value"], json!(1));
    for change in [
        &["cmap", "set", "my.key", "u8", "1"][..],
        &["cmap", "increment", "totem.config_version"],
        &["cmap", "decrement", "totem.config_version"],
        &["cmap", "delete", "totem.config_version"],
    ] {
        let output = embedded(change).run();
        // The daemon is a new one each time, and has no such key.
        match change[1] {
            "set" => assert_eq!((output.code(), output.stderr.as_str()), (0, "")),
            _ => assert_fails(&output, 1, &["CS_ERR_NOT_EXIST", "totem.config_version"]),
        }
    }
    let output =
        embedded(&["cmap", "load", "-"]).input("my.key u32 1\n^my.key\n^^nodelist.none\n").run();
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
}

#[test]
fn votes_are_set() {
    assert_eq!(printed(&["quorum", "expected", "1"]), "");
    assert_eq!(printed(&["quorum", "votes", "1"]), "");
    let output = embedded(&["quorum", "expected", "9"]).run();
    assert_fails(&output, 1, &["CS_ERR_INVALID_PARAM"]);
}

#[test]
fn groups_are_joined_and_sent_to() {
    assert_eq!(document(&["cpg", "groups"]), json!([]));
    assert_eq!(document(&["cpg", "members", "g"]), json!([]));
    assert_eq!(document(&["evs", "members"]), json!({ "node_id": 1, "members": [1] }));
    for service in ["cpg", "evs"] {
        assert_eq!(printed(&[service, "send", "g", "text"]), "");
        let joined =
            embedded(&["--json", service, "join", "g", "--count", "2"]).input("one\ntwo\n").run();
        assert_eq!((joined.code(), joined.stderr.as_str()), (0, ""));
        let lines = lines(&joined.stdout);
        let texts: Vec<&Value> = lines.iter().filter_map(|line| line.get("text")).collect();
        assert_eq!(texts, [&json!("one"), &json!("two")], "{service}");
        assert!(lines.iter().any(|line| line["event"] == json!("confchg")), "{service}");
    }
}

#[test]
fn the_node_is_asked_and_ended() {
    assert_eq!(document(&["cfg", "local"]), json!({ "node_id": 1 }));
    assert_eq!(document(&["cfg", "nodes"])[0]["local"], json!(true));
    assert_eq!(
        document(&["cfg", "addresses", "1"]),
        json!({ "node_id": 1, "addresses": ["127.0.0.1"] })
    );
    for end in [
        &["cfg", "reload"][..],
        &["cfg", "reopen-logs"],
        &["cfg", "kill", "1", "because"],
        &["cfg", "shutdown"],
        &["cfg", "shutdown", "--regardless"],
        &["cfg", "shutdown", "--immediate"],
    ] {
        assert_eq!(printed(end), "", "{end:?}");
    }
}

#[test]
fn a_command_that_watches_ends_with_its_signal_and_leaves_nothing() {
    let watch = |args: &[&str], sign: &str| -> Process {
        let process = embedded(args).arg("-v").interactive().spawn();
        eventually("it watches", || {
            process.stdout().contains(sign) || process.stderr().contains(sign)
        });
        assert_eq!(left_by(process.pid()).len(), 1);
        process
    };
    for (args, sign, signal) in [
        (&["cmap", "watch", "my.key"][..], "watching", Signal::SIGINT),
        (&["quorum", "watch"], "votequorum", Signal::SIGTERM),
        (&["cfg", "watch"], "tracking", Signal::SIGHUP),
        (&["cpg", "join", "g"], "confchg", Signal::SIGTERM),
        (&["evs", "join", "g"], "confchg", Signal::SIGINT),
    ] {
        let mut process = watch(args, sign);
        let pid = process.pid();
        process.signal(signal);
        let output = process.wait();
        // The second where SIGINT is ignored, as in jobs of a shell without a terminal.
        assert!(
            [-(signal as i32), 128 + signal as i32].contains(&output.code()),
            "{args:?}: {output:?}"
        );
        assert!(!output.stderr.contains("corosync-ipc: "), "{output:?}");
        assert_eq!(left_by(pid), [""; 0], "{args:?}");
    }
}

#[test]
fn options_that_lead_elsewhere_are_wrong_and_the_environment_does_not_count() {
    for args in [
        &["status", "--socket-dir", "/tmp"][..],
        &["status", "--abstract"],
        &["status", "--shm-root", "/tmp"],
    ] {
        assert_fails(&embedded(args).run(), 2, &["--embedded", args[1]]);
    }
    assert_fails(&embedded(&["serve"]).run(), 2, &["serve", "--embedded"]);
    let elsewhere = embedded(&["cfg", "local", "--timeout", "20s", "--ring-size", "16384"]);
    let elsewhere = elsewhere
        .env("COROSYNC_IPC_SOCKET_DIR", "/no/such")
        .env("COROSYNC_IPC_SHM_ROOT", "/no/such");
    assert_eq!(elsewhere.run().success(), "1\n");
    let nonsense = embedded(&["status"]).env("COROSYNC_IPC_TIMEOUT", "soon").run();
    assert_fails(&nonsense, 2, &["COROSYNC_IPC_TIMEOUT", "soon"]);
}
