//! cmap against a real corosync.

use std::sync::OnceLock;

use corosync_ipc::cmap::{Client, Event, Map, TrackEvents, Value};
use corosync_ipc::{Endpoint, Error};
use testbed::bodies::cmap as body;
use testbed::{Cluster, Node, against_corosync, eventually, next_that, shared_one, skip, version};

against_corosync! { shared_one().node(1);
    body::every_type_comes_back as every_type_comes_back;
    body::keys_are_set_and_deleted as keys_are_set_and_deleted;
    body::changes_that_corosync_does_not_survive_are_refused as changes_that_corosync_does_not_survive_are_refused;
    the_last_key_or_all as the_last_key_of_a_section_is_kept;
    body::integers_wrap_around as integers_wrap_around;
    read_only_keys as read_only_keys_are_refused;
    body::wrong_keys_are_refused_before_they_are_sent as wrong_keys_are_refused_before_they_are_sent;
    body::values_of_every_size_come_back as values_of_every_size_come_back;
    body::a_number_of_the_wrong_length_is_refused_by_the_daemon as a_number_of_the_wrong_length_is_refused_by_the_daemon;
    body::an_iterator_keeps_to_its_prefix_whatever_is_set_meanwhile as an_iterator_keeps_to_its_prefix_whatever_is_set_meanwhile;
    body::an_iterator_finds_no_key_twice as an_iterator_finds_no_key_twice;
    body::keys_can_be_changed_while_they_are_iterated_over as keys_can_be_changed_while_they_are_iterated_over;
    body::a_tracker_tells_old_and_new as a_tracker_tells_old_and_new;
    body::a_tracker_is_told_what_it_asked_for as a_tracker_is_told_what_it_asked_for;
    body::a_dispatch_of_one_is_done_with_a_notification_of_a_deleted_tracker as a_dispatch_of_one_is_done_with_a_notification_of_a_deleted_tracker;
    body::two_trackers_of_one_client_are_told_apart as two_trackers_of_one_client_are_told_apart;
    body::small_rings_do_for_small_values as small_rings_do_for_small_values;
    body::what_does_not_fit_the_ring_is_said_so as what_does_not_fit_the_ring_is_said_so;
    statistics_or_a_refusal as statistics_are_read_or_refused;
    with_statistics::a_full_event_ring_is_refilled_by_a_request as a_full_event_ring_is_refilled_by_a_request;
    with_statistics::trackers_of_statistics_by_prefix_take_what_comes_and_goes as trackers_of_statistics_by_prefix_take_what_comes_and_goes;
    with_statistics::statistics_are_read_only_but_for_what_clears_them as statistics_are_read_only_but_for_what_clears_them;
}

// Not where the bodies above run: one iterates over all statistics, and this one over all keys.
// What is deleted under an iterator stays, and is not told or later. The bodies here do not disturb
// each other.
against_corosync! { other_one().node(1);
    body::keys_are_found_by_prefix as keys_are_found_by_prefix;
    with_statistics::statistics_tell_connections_that_come_and_go as statistics_tell_connections_that_come_and_go;
    with_statistics::statistics_tell_numbers_that_changed as statistics_tell_numbers_that_changed;
}

against_corosync! { &a_node_of_its_own();
    with_statistics::strings_of_the_statistics_are_not_tracked_by_key as strings_of_the_statistics_are_not_tracked_by_key;
    with_statistics::statistics_are_cleared as statistics_are_cleared;
}

/// One more node that tests share; it lives until the end of the process.
fn other_one() -> &'static Cluster {
    static OTHER: OnceLock<Cluster> = OnceLock::new();
    OTHER.get_or_init(Cluster::one)
}

/// A node that one test has for itself; it lives until the end of the process.
fn a_node_of_its_own() -> Node {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::one()));
    cluster.node(1).clone()
}

/// The bodies that are about the statistics of daemons that have them.
mod with_statistics {
    use super::{Endpoint, body, version};

    macro_rules! bodies {
        ($($since:tt: $($body:ident)*;)*) => {$($(
            pub(super) fn $body(endpoint: &Endpoint) {
                if version() >= $since {
                    body::$body(endpoint);
                }
            }
        )*)*};
    }

    bodies! {
        [2, 99, 0, 0]:
            a_full_event_ring_is_refilled_by_a_request
            statistics_are_read_only_but_for_what_clears_them
            statistics_are_cleared;
        // These track what comes and goes.
        [3, 1, 0, 0]:
            statistics_tell_connections_that_come_and_go
            statistics_tell_numbers_that_changed
            trackers_of_statistics_by_prefix_take_what_comes_and_goes
            strings_of_the_statistics_are_not_tracked_by_key;
    }
}

/// There are none in the first releases.
fn read_only_keys(endpoint: &Endpoint) {
    if version() >= [2, 0, 0, 0] {
        body::read_only_keys_are_refused(endpoint);
    }
}

/// With the libqb of the first releases each key of such a section is as dangerous as its last.
fn the_last_key_or_all(endpoint: &Endpoint) {
    if version() >= [2, 0, 0, 0] {
        body::the_last_key_of_a_section_is_kept(endpoint);
    } else {
        body::no_key_of_some_sections_is_deleted_with_an_old_libqb(endpoint);
    }
}

fn statistics_or_a_refusal(endpoint: &Endpoint) {
    if version() >= [2, 99, 0, 0] {
        body::statistics_are_read(endpoint);
    } else {
        let refused = Client::connect_map(endpoint, Map::Stats);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
}

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
        for (name, value) in body::one_of_each() {
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
        for (name, value) in body::one_of_each() {
            let key = format!("cmapctl_sets.{name}");
            match &value {
                Value::Binary(bytes) => cmapctl(node, &["-s", "--", &key, name, "-"], Some(bytes)),
                value => cmapctl(node, &["-s", "--", &key, name, &value.to_string()], None),
            };
            assert_eq!(client.get(&key).unwrap(), Some(value.clone()));
            next_that(&client, |event| match event {
                Event::Notify(told) => {
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
                matches!(event, Event::Notify(told) if told.event == TrackEvents::DELETE)
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
