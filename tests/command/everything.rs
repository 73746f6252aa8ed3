//! `watch`: what corosync-notifyd tells, and groups.

use std::path::Path;

use corosync_ipc::embedded::Cluster as EmbeddedCluster;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::{Cluster, Host, Process, Transport, eventually, lacks, skip};

use super::{assert_fails, command, lines, ok, outside};

testbed::on_each_host! {
    clients_and_groups_come_and_go;
    the_watch_outlives_the_daemon;
    a_hook_is_told_of_clients_only_where_they_are_named;
}

/// The lines so far that have these members, without their times.
fn found(watch: &Process, members: &Value) -> Vec<Value> {
    let has = |line: &Value| {
        members.as_object().unwrap().iter().all(|(name, value)| line.get(name) == Some(value))
    };
    lines(&watch.stdout()).into_iter().filter(has).collect()
}

/// Waits for a line with these members.
#[track_caller]
fn wait_line(watch: &Process, members: &Value) -> Value {
    eventually(&format!("{members}"), || found(watch, members).pop())
}

fn clients_and_groups_come_and_go(host: &Host) {
    let first = command(host, &["cpg", "join", "of-watch"]).interactive().spawn();
    first.wait_stdout("confchg");
    let watch = command(host, &["--json", "watch", "--interval", "100ms"]).spawn();
    // What is there when a watch begins is no change.
    let line = wait_line(&watch, &json!({ "event": "group", "pid": first.pid() }));
    assert_eq!((&line["joined"], &line["change"]), (&json!(true), &json!(false)));
    let node = wait_line(&watch, &json!({ "event": "node", "node_id": 1 }));
    assert_eq!((&node["joined"], &node["change"]), (&json!(true), &json!(false)));
    let quorum = wait_line(&watch, &json!({ "event": "quorum", "quorate": true }));
    assert_eq!((&quorum["members"], &quorum["change"]), (&json!([1]), &json!(false)));
    // Only of others.
    assert!(found(&watch, &json!({ "event": "client", "pid": watch.pid() })).is_empty());

    let mut member = command(host, &["cpg", "join", "of-watch\\x00"]).interactive().spawn();
    let client = json!({ "event": "client", "service": "cpg", "pid": member.pid() });
    let connected = wait_line(&watch, &client);
    assert_eq!((&connected["connected"], &connected["change"]), (&json!(true), &json!(true)));
    assert!(connected["process"].as_str().is_some_and(|name| !name.is_empty()), "{connected}");
    let group = json!({ "event": "group", "group": "of-watch\\x00", "pid": member.pid() });
    let joined = wait_line(&watch, &group);
    assert_eq!(
        (&joined["node_id"], &joined["joined"], &joined["change"], &joined["group_bytes"]),
        (&json!(1), &json!(true), &json!(true), &json!("b2Ytd2F0Y2gA"))
    );
    let late = command(host, &["--json", "watch", "--events", "groups,clients"]).spawn();
    let line = wait_line(&late, &group);
    assert_eq!(line["change"], json!(false), "{line}");
    // corosync does not survive it if somebody looks for clients while they come and go.
    assert!(found(&late, &json!({ "event": "client", "connected": true })).is_empty());
    member.signal(Signal::SIGTERM);
    member.wait();
    for watch in [&watch, &late] {
        eventually("it has left", || {
            let left = found(watch, &group).pop()?;
            let gone = found(watch, &client).pop()?;
            (left["joined"] == json!(false) && gone["connected"] == json!(false)).then_some(())
        });
        assert_eq!(found(watch, &group).len(), 2);
    }
    assert_eq!((found(&watch, &client).len(), found(&late, &client).len()), (2, 1));
    assert!(found(&late, &json!({ "event": "quorum" })).is_empty());
    assert!(found(&late, &json!({ "event": "node" })).is_empty());

    let text = ok(host, &["watch", "--events", "quorum,nodes", "--count", "2"]);
    assert!(text.contains("Z quorum: quorate, ring ") && text.contains("Z node: 1 ("), "{text}");
    let wrong = command(host, &["watch", "--events", "quorum,weather"]).run();
    assert_eq!(wrong.code(), 2, "{wrong:?}");
}

fn the_watch_outlives_the_daemon(host: &Host) {
    let args = ["--json", "watch", "--interval", "100ms", "--wait", "--reconnect"];
    let watch = command(host, &args).spawn();
    // It has begun.
    eventually("it sees clients", || {
        ok(host, &["cfg", "local"]);
        found(&watch, &json!({ "event": "client", "service": "cfg" })).pop()
    });
    let member = command(host, &["cpg", "join", "g"]).interactive().spawn();
    let group = json!({ "event": "group", "group": "g", "joined": true });
    wait_line(&watch, &group);
    host.kill();
    let gap = wait_line(&watch, &json!({ "event": "gap", "service": "quorum", "over": false }));
    assert!(gap["error"].is_string());
    member.wait();
    host.start();
    wait_line(&watch, &json!({ "event": "gap", "service": "quorum", "over": true }));
    wait_line(&watch, &json!({ "event": "gap", "service": "cmap", "over": true }));
    // What was before and is no more has ended in the gap.
    wait_line(&watch, &json!({ "event": "group", "group": "g", "joined": false, "change": true }));
    let client = json!({ "event": "client", "service": "cpg", "connected": false });
    wait_line(&watch, &client);
    // The node itself was a member before and is one now.
    eventually("it is quorate again", || {
        found(&watch, &json!({ "event": "quorum", "quorate": true })).len() >= 2
    });
    let member = command(host, &["cpg", "join", "g"]).interactive().spawn();
    eventually("it joins", || found(&watch, &group).len() == 2);
    drop(member);
    let mut watch = watch;
    watch.signal(Signal::SIGINT);
    assert_eq!(watch.wait().code(), -(Signal::SIGINT as i32));
}

#[test]
fn what_notifyd_tells_is_told() {
    if skip() || lacks("corosync-notifyd") {
        return;
    }
    let cluster = Cluster::builder().nodes(3).loses_nodes().transport(Transport::Knet).start();
    let node = cluster.node(1);
    let notifyd = node.command("corosync-notifyd").args(["-f", "-o", "-n"]).spawn();
    let watch = command(node, &["--json", "watch"]).spawn();
    for id in 1..=3 {
        let line = wait_line(&watch, &json!({ "event": "node", "node_id": id }));
        assert_eq!(
            (&line["name"], &line["addresses"]),
            (&json!(format!("n{id}")), &json!([cluster.node(id).address()]))
        );
    }
    for id in [2, 3] {
        let link = json!({ "event": "link", "node_id": id, "link": 0, "connected": true });
        assert_eq!(wait_line(&watch, &link)["change"], json!(false));
    }

    cluster.unplug(1);
    let told = |text: &str| eventually(text, || notifyd.stderr().contains(text));
    told("has lost quorum");
    wait_line(&watch, &json!({ "event": "quorum", "quorate": false, "change": true }));
    for id in [2, 3] {
        told(&format!("[{id}] ip:{} left", cluster.node(id).address()));
        let name = format!("n{id}");
        wait_line(
            &watch,
            &json!({ "event": "node", "name": name, "joined": false, "change": true }),
        );
        told(&format!("link 0 to node {id} is now disconnected"));
        wait_line(
            &watch,
            &json!({ "event": "link", "name": name, "connected": false, "change": true }),
        );
    }
    cluster.plug(1);
    told("is now quorate");
    wait_line(&watch, &json!({ "event": "quorum", "quorate": true, "change": true }));
    for id in [2, 3] {
        told(&format!("[{id}] ip:{} joined", cluster.node(id).address()));
        wait_line(
            &watch,
            &json!({ "event": "node", "node_id": id, "joined": true, "change": true }),
        );
        told(&format!("link 0 to node {id} is now operational"));
        wait_line(
            &watch,
            &json!({ "event": "link", "node_id": id, "connected": true, "change": true }),
        );
    }
    node.tool("corosync-cpgtool", [""; 0]).success();
    told("corosync-cpgtoo is now disconnected from corosync");
    for connected in [true, false] {
        wait_line(
            &watch,
            &json!({ "event": "client", "process": "corosync-cpgtoo", "connected": connected }),
        );
    }
}

/// A hook that asks corosync would be told of itself.
fn a_hook_is_told_of_clients_only_where_they_are_named(host: &Host) {
    let folder = testbed::folder();
    let watch = |name: &str, events: &[&str]| {
        let file = folder.path().join(name);
        let hook = format!("echo $COROSYNC_IPC_EVENT >>{}", file.display());
        let args = ["--json", "watch", "--interval", "100ms", "--exec", &hook];
        (command(host, &args).args(events).spawn(), file)
    };
    let (without, of_without) = watch("without", &[]);
    let (with, of_with) = watch("with", &["--events", "clients,groups"]);
    let has_run = |file: &Path, event: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().any(|line| line == event)
    };
    for process in [&without, &with] {
        // It looks for groups and has its connections.
        let first = command(host, &["cpg", "join", "first"]).interactive().spawn();
        wait_line(process, &json!({ "event": "group", "group": "first" }));
        drop(first);
    }
    let member = command(host, &["cpg", "join", "g"]).interactive().spawn();
    for (process, file) in [(&without, &of_without), (&with, &of_with)] {
        wait_line(process, &json!({ "event": "group", "group": "g", "pid": member.pid() }));
        eventually("the hook has run", || has_run(file, "group"));
    }
    eventually("the hook has run", || has_run(&of_with, "client"));
    assert!(!has_run(&of_without, "client"));
    assert!(found(&without, &json!({ "event": "client" })).is_empty(), "{}", without.stdout());
}

#[test]
fn groups_are_not_looked_for_without_a_pause() {
    for interval in ["1ns", "99ms"] {
        assert_fails(&outside(&["watch", "--interval", interval]), 2, &["--interval", "100ms"]);
    }
}

#[test]
fn a_hook_runs_for_each_change() {
    let cluster = EmbeddedCluster::start(3).unwrap();
    let node = cluster.node(1).unwrap().endpoint().clone();
    let folder = testbed::folder();
    let file = folder.path().join("runs");
    let script = format!(
        "echo $COROSYNC_IPC_EVENT $COROSYNC_IPC_NODE_ID $COROSYNC_IPC_QUORATE $COROSYNC_IPC_JOINED >>{}",
        file.display()
    );
    let runs = || {
        let text = std::fs::read_to_string(Path::new(&file)).unwrap_or_default();
        let mut runs: Vec<_> = text.lines().map(str::to_owned).collect();
        runs.sort();
        runs
    };
    let args = ["watch", "--events", "quorum,nodes", "--exec", &script];
    let watch = command(&node, &args).spawn();
    eventually("the present state", || runs() == ["quorum 1 yes"]);
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    eventually("the changes", || {
        runs() == ["node 2 no", "node 3 no", "quorum 1 no", "quorum 1 yes"]
    });
    assert_eq!(watch.stderr(), "");
}
