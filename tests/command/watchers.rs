//! Watchers that stay: `--reconnect`, `--wait`, and how they end.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::{Cluster, Host, Process, Setup, eventually, since, skip};

use super::{assert_fails, assert_one_line, command, lines, ok, run};

testbed::on_each_host! {
    a_watch_of_quorum_outlives_the_daemon;
    changes_of_the_map_in_a_gap_are_found;
    a_member_joins_again_and_its_lines_wait, Setup::new();
    a_member_of_evs_joins_again, Setup::new().evs();
    shutdowns_are_refused_after_a_gap_too, since([3, 1, 1, 0]);
    a_daemon_that_is_not_there_yet_is_waited_for;
    a_signal_ends_a_watch_in_a_gap_and_while_it_connects;
    a_status_is_told_again_when_it_changes;
}

/// The lines of an event.
fn told(process: &Process, event: &str) -> Vec<Value> {
    let lines = lines(&process.stdout()).into_iter();
    lines.filter(|line| line["event"] == json!(event)).collect()
}

/// Waits until a gap of the service has begun or is over, as often as told, and returns the last.
#[track_caller]
fn wait_gap(process: &Process, service: &str, over: bool, times: usize) -> Value {
    eventually("a gap", || {
        let gaps = told(process, "gap").into_iter();
        let all: Vec<_> = gaps
            .filter(|gap| gap["service"] == json!(service) && gap["over"] == json!(over))
            .collect();
        (all.len() == times).then(|| all.into_iter().next_back()).flatten()
    })
}

/// Ends it by a signal, of which it dies.
#[track_caller]
fn end(mut process: Process, signal: Signal) {
    process.signal(signal);
    let output = process.wait();
    assert_eq!(output.code(), -(signal as i32), "{output:?}");
}

fn a_watch_of_quorum_outlives_the_daemon(host: &Host) {
    let watch = command(host, &["--json", "quorum", "watch", "--reconnect"]).spawn();
    watch.wait_stdout("\"votequorum\"");
    for times in 1..=2 {
        host.kill();
        let begun = ["quorum", "votequorum"].map(|service| wait_gap(&watch, service, false, times));
        assert_eq!(
            [&begun[0]["seconds"], &begun[0]["missed"], &begun[0]["cs_error"]],
            [&Value::Null, &Value::Null, &json!("CS_ERR_LIBRARY")]
        );
        let seen = watch.stdout().len();
        host.start();
        let over = ["quorum", "votequorum"].map(|service| wait_gap(&watch, service, true, times));
        for (begun, over) in begun.iter().zip(&over) {
            let missed = json!([{ "name": begun["service"], "missed": "states" }]);
            assert_eq!((&over["missed"], &over["since"]), (&missed, &begun["since"]));
            assert_eq!(over["error"], begun["error"]);
            assert!(over["seconds"].as_f64() > Some(0.0) && begun["error"].is_string());
            let seconds = over["seconds"].to_string();
            assert!(
                seconds.split_once('.').is_some_and(|(_, digits)| digits.len() <= 3),
                "{seconds}"
            );
        }
        // The present state follows, and comes after the line.
        for event in ["quorum", "votequorum"] {
            eventually("it is quorate again", || {
                let lines = lines(watch.stdout().get(seen..)?);
                let state = lines.iter().rposition(|line| {
                    line["event"] == json!(event) && line["quorate"] == json!(true)
                })?;
                let gap = lines.iter().position(|line| line["service"] == json!(event))?;
                assert_eq!(lines[gap]["event"], json!("gap"), "{lines:?}");
                (gap < state).then_some(())
            });
        }
    }
    end(watch, Signal::SIGTERM);

    // As text, and gaps do not count.
    let watch = command(host, &["quorum", "watch", "--reconnect", "--count", "100"]).spawn();
    watch.wait_stdout("votequorum: ");
    host.kill();
    watch.wait_stdout("gap: votequorum: ");
    watch.wait_stdout("; from now on events may be missing\n");
    host.start();
    let text = watch.wait_stdout(" what may be missing: states of votequorum\n");
    assert!(text.contains("Z gap: votequorum: over after "), "{text}");
    end(watch, Signal::SIGINT);
}

fn changes_of_the_map_in_a_gap_are_found(host: &Host) {
    let set = |key: &str, value: &str| ok(host, &["cmap", "set", key, "u8", value]);
    for key in ["gap.changes", "gap.goes", "gap.stays", "other.key"] {
        set(key, "1");
    }
    let watch = command(host, &["--json", "-v", "cmap", "watch", "gap.", "no.such.key"])
        .args(["--reconnect"])
        .spawn();
    eventually("watching", || watch.stderr().contains("watching"));
    let mut watch = watch;
    set("gap.changes", "2");
    watch.wait_stdout("\n");
    let notified = lines(&watch.stdout()).remove(0);
    assert_eq!(
        (&notified["event"], &notified["value"], &notified["old_value"], &notified["missed"]),
        (&json!("modify"), &json!(2), &json!(1), &json!(false))
    );

    // It sees nothing of what happens now.
    watch.signal(Signal::SIGSTOP);
    host.kill();
    host.start();
    for (key, value) in [("gap.changes", "3"), ("gap.stays", "1"), ("gap.comes", "1")] {
        set(key, value);
    }
    watch.signal(Signal::SIGCONT);
    let over = wait_gap(&watch, "cmap", true, 1);
    let missed = |name: &str| json!({ "name": name, "missed": "changes" });
    assert_eq!(over["missed"], json!([missed("gap.*"), missed("no.such.key*")]));
    set("gap.last", "1");
    watch.wait_stdout("gap.last");
    let all: Vec<_> = lines(&watch.stdout())
        .into_iter()
        .skip_while(|line| line["over"] != json!(true))
        .skip(1)
        .map(|line| {
            let part = |name: &str| line[name].clone();
            (part("event"), part("key"), part("old_value"), part("value"), part("missed"))
        })
        .collect();
    let change = |event: &str, key: &str, old: Value, new: Value, missed: bool| {
        (json!(event), json!(key), old, new, json!(missed))
    };
    assert_eq!(
        all,
        [
            change("modify", "gap.changes", json!(2), json!(3), true),
            change("set", "gap.comes", Value::Null, json!(1), true),
            change("delete", "gap.goes", json!(1), Value::Null, true),
            change("set", "gap.last", Value::Null, json!(1), false),
        ]
    );
    end(watch, Signal::SIGINT);
}

/// The texts of the messages that were delivered.
fn texts(process: &Process) -> Vec<Value> {
    told(process, "deliver").iter().map(|line| line["text"].clone()).collect()
}

fn a_member_joins_again_and_its_lines_wait(host: &Host) {
    joins_again(host, "cpg", &["one", "two"]);
}

fn a_member_of_evs_joins_again(host: &Host) {
    joins_again(host, "evs", &["one"]);
}

fn joins_again(host: &Host, service: &str, groups: &[&str]) {
    let args = [&["--json", service, "join", "--reconnect", "--"], groups].concat();
    let mut member = command(host, &args).interactive().spawn();
    let confchgs = || told(&member, "confchg").len();
    eventually("it joins", || confchgs() >= groups.len());
    member.write("before\n");
    eventually("it is delivered", || texts(&member).len() == groups.len());
    host.kill();
    eventually("it is gone", || told(&member, "gap").len() == groups.len());
    member.write("in the gap\n");
    host.start();
    eventually("it is delivered too", || texts(&member).len() == 2 * groups.len());
    let mut expected = vec![json!("before"); groups.len()];
    expected.extend(vec![json!("in the gap"); groups.len()]);
    assert_eq!(texts(&member), expected);
    let gaps = told(&member, "gap");
    let missed = gaps.iter().filter(|gap| gap["over"] == json!(true)).map(|gap| &gap["missed"][0]);
    let mut missed: Vec<_> = missed.cloned().collect();
    missed.sort_by_key(|missed| missed["name"].to_string());
    let expected: Vec<_> =
        groups.iter().map(|group| json!({ "name": group, "missed": "messages" })).collect();
    assert_eq!(missed, expected);
    end(member, Signal::SIGTERM);
}

fn shutdowns_are_refused_after_a_gap_too(host: &Host) {
    let watch = command(host, &["--json", "-v", "cfg", "watch", "--refuse", "--reconnect"]).spawn();
    eventually("tracking", || watch.stderr().contains("tracking"));
    host.kill();
    host.start();
    let over = wait_gap(&watch, "cfg", true, 1);
    assert_eq!(over["missed"], json!([{ "name": "shutdowns", "missed": "states" }]));
    let shutdown = run(host, &["cfg", "shutdown"]);
    assert_eq!(shutdown.code(), 1, "{shutdown:?}");
    eventually("it is told", || told(&watch, "shutdown").len() == 1);
    assert_eq!(told(&watch, "shutdown")[0]["answer"], json!("no"));
    end(watch, Signal::SIGTERM);
}

fn a_daemon_that_is_not_there_yet_is_waited_for(host: &Host) {
    host.kill();
    for args in [
        &["quorum", "watch"][..],
        &["cmap", "watch", "totem."],
        &["cfg", "watch"],
        &["cpg", "join", "g"],
    ] {
        // Without the option nobody is waited for, also when it is to connect again.
        let output = command(host, args).arg("--reconnect").run();
        assert_eq!(output.code(), 3, "{output:?}");
        let output = command(host, args).args(["--wait=200ms"]).run();
        assert_eq!((output.code(), output.stdout.as_str()), (3, ""), "{output:?}");
        let last = output.stderr.lines().last().map(|line| line.to_owned() + "\n");
        assert_one_line(&last.unwrap(), &["no daemon within 200ms", "socket"]);
        let output = command(host, args).args(["--json", "--wait=200ms"]).run();
        let last: Value = serde_json::from_str(output.stderr.lines().last().unwrap()).unwrap();
        let cs_error = last["cs_error"].as_str().expect("a cs_error");
        assert!(last["error"].as_str().unwrap().contains(cs_error), "{last}");
    }
    let wrong = command(host, &["quorum", "watch", "--wait=soon"]).run();
    assert_eq!(wrong.code(), 2);
    assert_one_line(&wrong.stderr, &["--wait", "soon"]);

    let waits = |args: &[&str]| {
        let watch = command(host, args).spawn();
        eventually("it waits", || watch.stderr().contains("trying again"));
        watch
    };
    let quorum = waits(&["quorum", "watch", "--wait", "--count", "1"]);
    let cpg = waits(&["cpg", "join", "g", "--wait=1h"]);
    host.start();
    let quorum = quorum.wait();
    assert_eq!((quorum.code(), quorum.stderr.lines().count()), (0, 1), "{quorum:?}");
    assert!(quorum.stdout.contains(" quorum: "), "{quorum:?}");
    cpg.wait_stdout("confchg");
    // It does not stay when the daemon that it waited for ends.
    host.kill();
    assert_eq!(cpg.wait().code(), 3);

    host.start();
    let _paused = host.pause();
    let args = ["quorum", "watch", "--wait=5s", "--timeout", "300ms"];
    let output = command(host, &args).run();
    assert_eq!(output.code(), 3, "{output:?}");
    assert!(output.stderr.contains("timed out after 300ms"), "{output:?}");
    let output = command(host, &["quorum", "watch", "--wait=300ms", "--timeout", "60m"]).run();
    assert_fails(&output, 3, &["no daemon within 300ms: it does not answer"]);
}

fn a_signal_ends_a_watch_in_a_gap_and_while_it_connects(host: &Host) {
    for args in [&["quorum", "watch"][..], &["cmap", "watch", "totem."], &["cpg", "join", "g"]] {
        let watch = command(host, args).args(["-v", "--reconnect"]).interactive().spawn();
        let connected = |watch: &Process| {
            eventually("it is connected", || {
                watch.stdout().contains("quorum") && watch.stdout().contains("votequorum")
                    || watch.stdout().contains("confchg")
                    || watch.stderr().contains("watching")
            });
        };
        connected(&watch);
        host.kill();
        watch.wait_stdout("gap: ");
        end(watch, Signal::SIGTERM);
        host.start();
    }
    let paused = host.pause();
    let watch = command(host, &["-v", "quorum", "watch", "--timeout", "60m"]).spawn();
    // A thread waits for signals, and the other one connects.
    eventually("it connects", || {
        fs::read_dir(format!("/proc/{}/task", watch.pid())).unwrap().count() > 1
    });
    end(watch, Signal::SIGTERM);
    drop(paused);
}

fn a_status_is_told_again_when_it_changes(host: &Host) {
    let watch = command(host, &["--json", "status", "--watch", "--reconnect"]).spawn();
    let last = || told(&watch, "status").pop();
    let first = eventually("a status", last);
    assert_eq!((&first["quorate"], &first["members"][0]["node_id"]), (&json!(true), &json!(1)));
    assert!(first["time"].is_string() && first["services"].is_array(), "{first}");
    let set = |votes: &str| {
        ok(host, &["quorum", "votes", votes]);
        let votes: u32 = votes.parse().unwrap();
        eventually("the votes", || last()?["total_votes"].eq(&json!(votes)).then_some(()));
    };
    set("2");
    host.kill();
    let gap = wait_gap(&watch, "status", false, 1);
    assert_eq!((&gap["seconds"], &gap["missed"]), (&Value::Null, &Value::Null));
    host.start();
    let gap = wait_gap(&watch, "status", true, 1);
    assert_eq!(gap["missed"], json!([{ "name": "status", "missed": "states" }]));
    // corosync has forgotten what was set while it ran.
    eventually("the new daemon's status", || {
        let status = last()?;
        (status["total_votes"] == json!(1) && status["quorate"] == json!(true)).then_some(())
    });
    set("2");
    end(watch, Signal::SIGTERM);

    let text = ok(host, &["status", "--watch", "--count", "1"]);
    let (head, text) = text.split_once('\n').unwrap();
    assert!(head.ends_with("Z status:"), "{head}");
    assert_eq!(text.lines().next(), ok(host, &["status"]).lines().next());
    for option in ["--reconnect", "--wait", "--wait=1s"] {
        assert_fails(&run(host, &["status", option]), 2, &["--watch"]);
    }
    assert_eq!(run(host, &["status", "--count", "1"]).code(), 2);
    host.kill();
    assert_fails(&run(host, &["status", "--watch"]), 3, &["socket"]);
    let late = command(host, &["--json", "status", "--watch", "--wait"]).spawn();
    eventually("it waits", || late.stderr().contains("trying again"));
    host.start();
    eventually("a status", || told(&late, "status").pop());
    host.kill();
    assert_eq!(late.wait().code(), 3);
    let output = run(host, &["status", "--watch", "--wait=200ms"]);
    assert_eq!((output.code(), output.stdout.as_str()), (3, ""), "{output:?}");
}

/// The last notification of quorum that says who the members are.
fn members(watch: &Process) -> Value {
    told(watch, "quorum").last().map_or(Value::Null, |line| line["members"].clone())
}

#[test]
fn no_change_of_a_cluster_is_lost_silently() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).loses_nodes().start();
    let (one, three) = (cluster.node(1), cluster.node(3));
    let watch = command(one, &["--json", "quorum", "watch", "--reconnect"]).spawn();
    eventually("all are members", || members(&watch) == json!([1, 2, 3]));

    // What happens while the daemon is stopped is told when it goes on, without a gap.
    let paused = one.pause();
    cluster.wait_members(&[2, 3], 2);
    three.kill();
    drop(paused);
    eventually("the third is gone", || members(&watch) == json!([1, 2]));
    three.start();
    eventually("the third is back", || members(&watch) == json!([1, 2, 3]));
    assert_eq!(told(&watch, "gap"), [Value::Null; 0]);
    let rings: Vec<_> =
        told(&watch, "quorum").iter().map(|line| line["ring_id"]["seq"].as_u64()).collect();
    assert!(rings.is_sorted(), "{rings:?}");

    // What happens while there is none is in the gap, and the present state follows.
    one.kill();
    wait_gap(&watch, "quorum", false, 1);
    three.kill();
    cluster.wait_members(&[2], 1);
    one.start();
    wait_gap(&watch, "quorum", true, 1);
    eventually("two are members", || members(&watch) == json!([1, 2]));
    one.restart();
    wait_gap(&watch, "quorum", true, 2);
    three.start();
    eventually("all are members", || members(&watch) == json!([1, 2, 3]));
    assert_eq!(told(&watch, "quorum").last().unwrap()["quorate"], json!(true));

    // Each state is that of a connection, and no connection ends or begins without its line.
    let mut connected = true;
    for line in lines(&watch.stdout()) {
        match (line["event"].as_str().unwrap(), line["service"].as_str().unwrap()) {
            ("gap", "quorum") => {
                assert_eq!(line["over"], json!(!connected));
                connected = !connected;
            }
            (_, "quorum") => assert!(connected, "{line}"),
            _ => {}
        }
    }
    end(watch, Signal::SIGTERM);
}
