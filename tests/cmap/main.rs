//! cmap: what clients do and see, and what corosync-cmapctl prints of it.

mod bodies;
#[cfg(feature = "serde")]
mod read;

use corosync_ipc::cmap::{Client, Event, TrackEvents, Value};
use testbed::{Node, eventually, next_that, shared_one, skip, version};

/// Runs corosync-cmapctl. That of corosync 1.99 is sometimes refused, since it sends its
/// credentials only if the daemon is quick to ask.
fn cmapctl(node: &Node, args: &[&str], input: Option<&[u8]>) -> String {
    let run = || {
        let tool = node.command("corosync-cmapctl").args(args);
        match input {
            Some(input) => tool.input(input).run(),
            None => tool.run(),
        }
    };
    let output = eventually("corosync-cmapctl is let in", || {
        Some(run())
            .filter(|output| version() >= [2, 0, 0, 0] || !output.stderr.contains("CS_ERR_ACCESS"))
    });
    output.success()
}

/// How `corosync-cmapctl -b` prints a value, in one line: `key (type) = value`.
fn printed(key: &str, value: &Value) -> String {
    let name = value.value_type().name().unwrap();
    match value {
        Value::F32(number) => format!("{key} ({name}) = {number:.6}"),
        Value::F64(number) => format!("{key} ({name}) = {number:.6}"),
        Value::Binary(bytes) => {
            format!(
                "{key} ({name}) = {}",
                bytes.iter().map(|byte| format!("\\x{byte:02X}")).collect::<String>()
            )
        }
        value => format!("{key} ({name}) = {value}"),
    }
}

#[test]
fn cmapctl_reads_every_type_that_is_set_here() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    node.run(|| {
        let client = Client::connect().unwrap();
        for (name, value) in bodies::one_of_each() {
            let key = format!("cmapctl_reads.{name}");
            client.set(&key, value.clone()).unwrap();
            let output = cmapctl(node, &["-b", "-g", &key], None);
            assert_eq!(output.trim_end(), printed(&key, &value));
        }
    });
}

#[test]
fn every_type_that_cmapctl_sets_is_read_here() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    node.run(|| {
        let client = Client::connect().unwrap();
        let tracker =
            client.track_add("cmapctl_sets.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
        for (name, value) in bodies::one_of_each() {
            let key = format!("cmapctl_sets.{name}");
            match &value {
                Value::Binary(bytes) => cmapctl(node, &["-s", "--", &key, name, "-"], Some(bytes)),
                value => cmapctl(node, &["-s", "--", &key, name, &value.to_string()], None),
            };
            assert_eq!(client.get(&key).unwrap(), Some(value.clone()));
            next_that(&client, |event| match event {
                Event::Notification(told) => {
                    assert_eq!(
                        (told.tracker, told.key, told.new_value),
                        (tracker, key.clone(), Some(value.clone()))
                    );
                    Some(())
                }
                other => panic!("{other:?}"),
            });
            cmapctl(node, &["-d", &key], None);
            assert_eq!(client.get(&key).unwrap(), None);
            next_that(&client, |event| {
                matches!(event, Event::Notification(told) if told.event == TrackEvents::DELETE)
                    .then_some(())
            });
        }
    });
}

#[test]
fn what_is_listed_here_is_what_cmapctl_lists() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let listed = node.run(|| Client::connect().unwrap().list("nodelist.").unwrap());
    assert!(listed.len() >= 3, "{listed:?}");
    let tool = cmapctl(node, &["nodelist."], None);
    let mut theirs: Vec<&str> = tool.lines().collect();
    let mut ours: Vec<String> = listed.iter().map(|(key, value)| printed(key, value)).collect();
    theirs.sort_unstable();
    ours.sort_unstable();
    assert_eq!(ours, theirs);
}

#[test]
fn cmapctl_is_told_of_what_is_set_here() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let tool =
        node.command("corosync-cmapctl").args(["-T", "cmapctl_is_told."]).interactive().spawn();
    node.run(|| {
        let client = Client::connect().unwrap();
        // The tool does not say when it has begun to track, and writes when it has much to write.
        let mut number = 0_u32;
        eventually("the tool tells", || {
            number += 1;
            client.set("cmapctl_is_told.text", format!("of this {number}")).unwrap();
            client.delete("cmapctl_is_told.text").unwrap();
            tool.stdout().contains("delete> cmapctl_is_told.text")
        });
        assert!(
            tool.stdout().contains("create> cmapctl_is_told.text (str) = of this "),
            "{}",
            tool.stdout()
        );
    });
}
