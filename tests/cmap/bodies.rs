//! What clients of cmap do and see, whoever serves them. Keys begin with the name of their body.

use std::collections::BTreeMap;

use bytes::Bytes;
use corosync_ipc::cmap::{
    Client, Event, MAX_VALUE_SIZE, Map, Notification, Options, TrackEvents, Tracker, Value,
    ValueType,
};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::libqb::server::Generation;
use corosync_ipc::{CsError, Dispatch, Endpoint, Error, NodeId, TrackFlags, quorum, votequorum};
use testbed::host::run;
use testbed::{
    GENERATIONS, HostKind, Nodes, Patience, Setup, Version, cs, eventually, invalid, next, since,
    waiting,
};

testbed::on_each_host! {
    every_type_comes_back;
    keys_are_set_and_deleted;
    changes_that_corosync_does_not_survive_are_refused;
    the_last_key_of_a_section_is_kept, since([2, 0, 0, 0]);
    integers_wrap_around;
    read_only_keys_are_refused, since([2, 0, 0, 0]);
    wrong_keys_are_refused_before_they_are_sent;
    values_of_every_size_come_back;
    a_number_of_the_wrong_length_is_refused_by_the_daemon;
    keys_are_found_by_prefix, Setup::new().own();
    the_nodelist_is_the_configured_one, Setup::new().nodes(3);
    an_iterator_keeps_to_its_prefix_whatever_is_set_meanwhile;
    an_iterator_finds_no_key_twice;
    keys_can_be_changed_while_they_are_iterated_over, Setup::new().own();
    a_tracker_tells_old_and_new;
    a_tracker_is_told_what_it_asked_for;
    a_dispatch_of_one_is_done_with_a_notification_of_a_deleted_tracker;
    two_trackers_of_one_client_are_told_apart;
    small_rings_do_for_small_values;
    what_does_not_fit_the_ring_is_said_so;
    statistics_are_read_or_refused;
    a_full_event_ring_is_refilled_by_a_request, since(STATISTICS);
    trackers_of_statistics_by_prefix_take_what_comes_and_goes, since(TRACKED);
    statistics_are_read_only_but_for_what_clears_them, since(STATISTICS);
    statistics_tell_connections_that_come_and_go, since(TRACKED).own();
    statistics_tell_numbers_that_changed, since(TRACKED).own();
    strings_of_the_statistics_are_not_tracked_by_key, since(TRACKED).own();
    statistics_are_cleared, since(STATISTICS).own();
}

/// The first corosync with statistics.
pub(crate) const STATISTICS: Version = [2, 99, 0, 0];
/// The first one whose statistics that come and go can be tracked.
const TRACKED: Version = [3, 1, 0, 0];

#[test]
fn every_generation_of_libqb_is_spoken() {
    for generation in GENERATIONS {
        for body in [values_of_every_size_come_back, small_rings_do_for_small_values] {
            run(HostKind::Embedded, body, Setup::new().generation(generation));
        }
    }
}

#[test]
fn no_key_of_some_sections_is_deleted_with_an_old_libqb() {
    let body = no_key_of_some_sections_is_deleted;
    for generation in [Generation::Libqb010, Generation::Libqb013, Generation::Libqb014] {
        run(HostKind::Embedded, body, Setup::new().generation(generation));
    }
    run(HostKind::Real, body, Setup::new().before([2, 0, 0, 0]));
}

/// A value of each of the twelve types.
pub(crate) fn one_of_each() -> Vec<(&'static str, Value)> {
    vec![
        ("i8", Value::I8(i8::MIN)),
        ("u8", Value::U8(u8::MAX)),
        ("i16", Value::I16(i16::MIN)),
        ("u16", Value::U16(u16::MAX)),
        ("i32", Value::I32(i32::MIN)),
        ("u32", Value::U32(u32::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("u64", Value::U64(u64::MAX)),
        ("flt", Value::F32(-1.5)),
        ("dbl", Value::F64(2.25)),
        ("str", Value::from("a text, with ümläuts")),
        ("bin", Value::from(&[0, 1, 127, 0][..])),
    ]
}

/// The next notification.
#[track_caller]
fn next_notification(client: &Client) -> Notification {
    match next(client) {
        Event::Notification(notification) => notification,
        other => panic!("{other:?}"),
    }
}

fn every_type_comes_back(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for (name, value) in one_of_each() {
        let key = format!("every_type_comes_back.{name}");
        client.set(&key, value.clone()).unwrap();
        assert_eq!(client.get(&key).unwrap(), Some(value.clone()));
        let entries: Vec<_> = client.iter(&key).unwrap().map(Result::unwrap).collect();
        assert_eq!((entries.len(), entries[0].value_type.name()), (1, Some(name)));
        assert_eq!(client.list(&key).unwrap(), [(key, value)]);
    }
    let key = "every_type_comes_back.u32";
    assert_eq!(client.get_as::<u32>(key).unwrap(), Some(u32::MAX));
    assert_eq!(client.get_as::<u64>(key).unwrap(), Some(u32::MAX.into()));
    assert_eq!(client.get_as::<i64>("every_type_comes_back.u8").unwrap(), Some(u8::MAX.into()));
    for (asked, result) in [
        ("u16", client.get_as::<u16>(key).map(drop)),
        ("i32", client.get_as::<i32>(key).map(drop)),
        ("String", client.get_as::<String>(key).map(drop)),
        ("Bytes", client.get_as::<Bytes>(key).map(drop)),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.to_string(), format!("the value of {key} has the type u32, not {asked}"));
        assert_eq!(error.cs_error(), CsError::InvalidParam);
    }
    assert_eq!(client.get_as::<u16>("every_type_comes_back.none").unwrap(), None);
}

fn keys_are_set_and_deleted(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let other = Client::connect_to(endpoint).unwrap();
    let key = "keys_are_set_and_deleted";
    assert_eq!(client.get(key).unwrap(), None);
    assert_eq!(cs(client.delete(key)), CsError::NotExist);
    assert_eq!(cs(client.increment(key)), CsError::NotExist);
    client.set(key, 5_u8).unwrap();
    assert_eq!(other.get(key).unwrap(), Some(Value::U8(5)));
    other.set(key, "another type").unwrap();
    assert_eq!(client.get(key).unwrap(), Some(Value::from("another type")));
    client.delete(key).unwrap();
    assert_eq!(other.get(key).unwrap(), None);
}

/// Each of them ends corosync 3.1.7, or keeps it from its work, when it is sent.
fn changes_that_corosync_does_not_survive_are_refused(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for (key, value) in [
        ("runtime.force_gather", Value::U8(1)),
        ("quorum.cancel_wait_for_all", Value::from("yes")),
        (
            "pload.start",
            Value::from(
                "i_totally_understand_pload_will_crash_my_cluster_and_kill_corosync_on_exit",
            ),
        ),
        ("totem.send_join", Value::U32(1 << 29)),
        ("totem.token", Value::U32(1)),
        ("totem.hold", Value::U32(1)),
    ] {
        let before = client.get(key).unwrap();
        let refused = client.set(key, value);
        assert!(
            refused.as_ref().is_err_and(|error| error.to_string().contains(key)),
            "{refused:?}"
        );
        assert_eq!(invalid(refused), "value");
        assert_eq!(client.get(key).unwrap(), before);
    }
    assert_eq!(invalid(client.adjust("totem.token", -1)), "key");
    assert_eq!(invalid(client.delete("quorum.cancel_wait_for_all")), "key");
    assert_eq!(invalid(client.set("nodelist.node.0.ring9_addr", "127.0.0.1")), "key");
    assert_eq!(invalid(client.delete("nodelist.node.0.ring9_addr")), "key");
}

/// corosync 3.1.7 deletes such a key without end, until its stack is full.
fn the_last_key_of_a_section_is_kept(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let keys = ["logging.logger_subsys.LAST.debug", "logging.logger_subsys.LAST.subsys"];
    assert_eq!(cs(client.delete(keys[0])), CsError::NotExist);
    client.set(keys[0], "off").unwrap();
    assert_eq!(invalid(client.delete(keys[0])), "key");
    assert_eq!(client.get(keys[0]).unwrap(), Some("off".into()));
    client.set(keys[1], "LAST").unwrap();
    client.delete(keys[0]).unwrap();
    assert_eq!(cs(client.delete(keys[0])), CsError::NotExist);
    assert_eq!(invalid(client.delete(keys[1])), "key");
}

/// libqb before 0.14.3 finds the key that is being deleted whatever else is in its section, and
/// corosync deletes it again.
fn no_key_of_some_sections_is_deleted(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let keys = ["logging.logger_subsys.LAST.debug", "logging.logger_subsys.LAST.subsys"];
    for (key, value) in keys.into_iter().zip(["off", "LAST"]) {
        client.set(key, value).unwrap();
    }
    for key in keys.into_iter().chain(["nodelist.node.0.nodeid", "nodelist.node.0.none"]) {
        let before = client.get(key).unwrap();
        assert_eq!(invalid(client.delete(key)), "key");
        assert_eq!(client.get(key).unwrap(), before);
    }
    client.set("no_key_of_some_sections.key", 1_u8).unwrap();
    client.delete("no_key_of_some_sections.key").unwrap();
}

fn integers_wrap_around(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let key = "integers_wrap_around";
    let get = || client.get(key).unwrap().unwrap();
    let ends: [(Value, Value); 8] = [
        (i8::MIN.into(), i8::MAX.into()),
        (u8::MIN.into(), u8::MAX.into()),
        (i16::MIN.into(), i16::MAX.into()),
        (u16::MIN.into(), u16::MAX.into()),
        (i32::MIN.into(), i32::MAX.into()),
        (u32::MIN.into(), u32::MAX.into()),
        (i64::MIN.into(), i64::MAX.into()),
        (u64::MIN.into(), u64::MAX.into()),
    ];
    for (least, greatest) in ends {
        client.set(key, greatest.clone()).unwrap();
        client.increment(key).unwrap();
        assert_eq!(get(), least);
        client.decrement(key).unwrap();
        assert_eq!(get(), greatest);
    }
    client.set(key, 10_u8).unwrap();
    client.adjust(key, 300).unwrap();
    assert_eq!(get(), Value::U8(54));
    client.set(key, 10_u64).unwrap();
    client.adjust(key, -11).unwrap();
    assert_eq!(get(), Value::U64(u64::MAX));
    client.set(key, -1_i64).unwrap();
    client.adjust(key, i32::MIN).unwrap();
    assert_eq!(get(), Value::I64(i64::from(i32::MIN) - 1));
    for value in [Value::F32(1.0), Value::F64(1.0), Value::from("1"), Value::from(&b"1"[..])] {
        client.set(key, value.clone()).unwrap();
        assert_eq!(cs(client.increment(key)), CsError::InvalidParam);
        assert_eq!(get(), value);
    }
}

fn read_only_keys_are_refused(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let key = "runtime.services.cmap.service_id";
    let before = client.get(key).unwrap();
    assert!(before.is_some());
    assert_eq!(cs(client.set(key, 7_u8)), CsError::Access);
    assert_eq!(cs(client.delete(key)), CsError::Access);
    assert_eq!(cs(client.increment(key)), CsError::Access);
    assert_eq!(cs(client.set("runtime.services.read_only", 7_u8)), CsError::Access);
    assert_eq!(client.get(key).unwrap(), before);
}

fn wrong_keys_are_refused_before_they_are_sent(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
    for key in ["", "ab", "white space", "nul\0nul", "comma,", "ümlaut", &too_long] {
        assert_eq!(invalid(client.get(key)), "key", "{key:?}");
        assert_eq!(invalid(client.set(key, 1_u8)), "key", "{key:?}");
        assert_eq!(invalid(client.delete(key)), "key", "{key:?}");
        assert_eq!(invalid(client.adjust(key, 1)), "key", "{key:?}");
        assert_eq!(invalid(client.track_add(key, TrackEvents::ALL)), "key", "{key:?}");
    }
    for prefix in ["white space", &too_long] {
        assert_eq!(invalid(client.iter(prefix).map(drop)), "prefix");
        assert_eq!(
            invalid(client.track_add(prefix, TrackEvents::ALL | TrackEvents::PREFIX)),
            "prefix"
        );
    }
    client.set(&longest, 1_u8).unwrap();
    assert_eq!(client.get(&longest).unwrap(), Some(Value::U8(1)));
    assert_eq!(client.list(&longest).unwrap(), [(longest.clone(), Value::U8(1))]);
    client.delete(&longest).unwrap();
    for key in ["key", "Key.with_all-kinds/of:characters.09"] {
        client.set(key, 1_u8).unwrap();
        assert_eq!(client.get(key).unwrap(), Some(Value::U8(1)));
        client.delete(key).unwrap();
    }
}

fn values_of_every_size_come_back(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let prefix = "values_of_every_size_come_back.";
    let mut expected = BTreeMap::new();
    // 1024 bytes is the room that is asked for first; a string takes one byte more than its text.
    for size in [0, 1, 15, 16, 17, 1022, 1023, 1024, 1025, 4096, MAX_VALUE_SIZE - 1, MAX_VALUE_SIZE]
    {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let text: String = (0..size).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
        for (name, value) in [("bin", Value::Binary(bytes.into())), ("str", Value::String(text))] {
            let key = format!("{prefix}{name}{size}");
            client.set(&key, value.clone()).unwrap();
            assert_eq!(client.get(&key).unwrap().as_ref(), Some(&value), "{key}");
            expected.insert(key, value);
        }
    }
    assert_eq!(client.list(prefix).unwrap().into_iter().collect::<BTreeMap<_, _>>(), expected);
    let key = format!("{prefix}refused");
    for value in
        [Value::from("x".repeat(MAX_VALUE_SIZE + 1)), Value::from(&[0; MAX_VALUE_SIZE + 1][..])]
    {
        assert_eq!(invalid(client.set(&key, value)), "value");
    }
    assert_eq!(invalid(client.set(&key, "a\0b")), "value");
    assert_eq!(client.get(&key).unwrap(), None);
    for key in expected.keys() {
        client.delete(key).unwrap();
    }
}

fn a_number_of_the_wrong_length_is_refused_by_the_daemon(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let key = "a_number_of_the_wrong_length";
    let value = Value::Other { value_type: ValueType::UINT32, data: Bytes::from_static(b"abc") };
    assert_eq!(cs(client.set(key, value)), CsError::InvalidParam);
    assert_eq!(client.get(key).unwrap(), None);
}

fn keys_are_found_by_prefix(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let prefix = "keys_are_found_by_prefix.";
    let keys: Vec<String> = (0..50).map(|number| format!("{prefix}{number:02}")).collect();
    for (number, key) in (0_u32..).zip(&keys) {
        client.set(key, number).unwrap();
    }
    client.set("keys_are_found_by_prefiy", 1_u8).unwrap();
    let find = |prefix: &str| -> Vec<String> {
        let mut found: Vec<_> =
            client.iter(prefix).unwrap().map(|entry| entry.unwrap().key).collect();
        found.sort();
        found
    };
    assert_eq!(find(prefix), keys);
    assert_eq!(find("keys_are_found_by_prefix.1"), keys[10..20]);
    assert_eq!(find("keys_are_found_by_prefix.17"), keys[17..18]);
    assert!(find("keys_are_found_by_prefix.none").is_empty());
    let all = find("");
    assert!(
        keys.iter().all(|key| all.contains(key)) && all.iter().any(|key| key.starts_with("totem."))
    );
    for entry in client.iter(prefix).unwrap() {
        let entry = entry.unwrap();
        assert_eq!((entry.value_type, entry.value_len), (ValueType::UINT32, 4));
    }

    // Several at a time, keys deleted meanwhile, and an end that stays.
    let (mut one, mut other) = (client.iter(prefix).unwrap(), client.iter(prefix).unwrap());
    assert!(one.next().unwrap().is_ok() && other.next().unwrap().is_ok());
    for key in &keys {
        client.delete(key).unwrap();
    }
    assert!(one.by_ref().chain(other.by_ref()).all(|entry| entry.unwrap().key.starts_with(prefix)));
    assert!(one.next().is_none() && other.next().is_none());
    client.delete("keys_are_found_by_prefiy").unwrap();
}

/// The iterators of libqb's map lose their prefix when a node above is split.
fn the_nodelist_is_the_configured_one(nodes: &Nodes) {
    for (local, id) in (0..).zip(nodes.ids()) {
        nodes.on(id, |endpoint| {
            let client = Client::connect_to(endpoint).unwrap();
            let list = client.nodelist().unwrap();
            assert_eq!((list.local_position, list.others.len()), (Some(local), 0));
            assert_eq!(list.local().unwrap().node_id, Some(NodeId(id)));
            let positions: Vec<_> = list.nodes.iter().map(|node| node.position).collect();
            assert_eq!(positions, [0, 1, 2]);
            for (node, id) in list.nodes.iter().zip(nodes.ids()) {
                let text = |field: &str| {
                    let key = format!("nodelist.node.{}.{field}", node.position);
                    client.get_as::<String>(&key).unwrap()
                };
                assert_eq!(list.by_id(NodeId(id)), Some(node));
                assert_eq!(node.name, text("name"));
                assert!(node.name.is_some(), "{node:?}");
                assert_eq!(node.addresses.get(&0), text("ring0_addr").as_ref());
                assert_eq!((node.addresses.len(), node.others.len()), (1, 0));
                assert_eq!((node.quorum_votes, node.votes()), (None, 1));
            }
        });
    }
}

fn an_iterator_keeps_to_its_prefix_whatever_is_set_meanwhile(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let key = |name: &str| format!("an_iterator_keeps_to_its_prefix.{name}");
    let mine = [key("abc.1"), key("abc.2")];
    for sibling in ["abd", "ab", "a", "x", "abc", "abcd"].map(key) {
        for begun in [false, true] {
            for key in &mine {
                client.set(key, 1_u8).unwrap();
            }
            let mut iterator = client.iter(&key("abc")).unwrap();
            let first = if begun { iterator.next() } else { None };
            client.set(&sibling, 1_u8).unwrap();
            let found = first.into_iter().chain(iterator).map(|entry| entry.unwrap().key);
            let found: Vec<_> = found
                .filter(|found| *found != sibling || !sibling.starts_with(&key("abc")))
                .collect();
            assert_eq!(found, mine, "{sibling}, {begun}");
            for key in mine.iter().chain([&sibling]) {
                client.delete(key).unwrap();
            }
        }
    }
}

/// In libqb's map a key that was found already moves below a node that is split, where the iterator
/// comes by again. The reference it holds moves too, so that what is deleted afterwards may stay or
/// be gone already.
fn an_iterator_finds_no_key_twice(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for (number, sibling) in ["other", "oz", "o", "oa", "one.more"].into_iter().enumerate() {
        let prefix = format!("an_iterator_finds_no_key_twice.{number}.");
        let (key, sibling) = (format!("{prefix}one"), format!("{prefix}{sibling}"));
        client.set(&key, 1_u8).unwrap();
        let mut iterator = client.iter(&prefix).unwrap();
        let first = iterator.next().unwrap().unwrap().key;
        client.set(&sibling, 1_u8).unwrap();
        let others = iterator.map(|entry| entry.unwrap().key);
        let again: Vec<_> = others.filter(|found| *found != sibling).collect();
        assert_eq!((first, again), (key.clone(), vec![]), "{sibling}");
        let _ = (client.delete(&key), client.delete(&sibling));
    }
}

/// corosync 3.1.7 crashes when one of its iterators goes on from a key that was deleted twice, or
/// whose place became another's.
fn keys_can_be_changed_while_they_are_iterated_over(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let key = |name: &str| format!("keys_can_be_changed_while_they_are_iterated_over.{name}");
    let (here, sibling) = (key("abcdef"), key("abcxyz"));
    client.set(&here, 1_u8).unwrap();
    let mut entries = client.iter(&key("")).unwrap();
    assert_eq!(entries.next().unwrap().unwrap().key, here);
    client.set(&sibling, 1_u8).unwrap();
    client.delete(&sibling).unwrap();
    client.delete(&here).unwrap();
    assert_eq!(cs(client.delete(&here)), CsError::NotExist);
    assert!(entries.next().is_none());
}

fn a_tracker_tells_old_and_new(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let setter = Client::connect_to(endpoint).unwrap();
    let key = "a_tracker_tells_old_and_new";
    let tracker = client.track_add(key, TrackEvents::ALL).unwrap();
    let expect = |event, new_value: Option<Value>, old_value: Option<Value>| {
        let expected = Notification { tracker, event, key: key.to_owned(), new_value, old_value };
        assert_eq!(next_notification(&client), expected);
    };
    setter.set(key, 1_u8).unwrap();
    expect(TrackEvents::ADD, Some(1_u8.into()), None);
    // The same value again is no change, a child or a longer name another key.
    setter.set(key, 1_u8).unwrap();
    setter.set("a_tracker_tells_old_and_new.child", 1_u8).unwrap();
    setter.set("a_tracker_tells_old_and_newer", 1_u8).unwrap();
    setter.set(key, 2_u8).unwrap();
    expect(TrackEvents::MODIFY, Some(2_u8.into()), Some(1_u8.into()));
    setter.set(key, "text").unwrap();
    expect(TrackEvents::MODIFY, Some("text".into()), Some(2_u8.into()));
    setter.set(key, "").unwrap();
    expect(TrackEvents::MODIFY, Some("".into()), Some("text".into()));
    setter.set(key, Value::Binary(Bytes::new())).unwrap();
    expect(TrackEvents::MODIFY, Some(Value::Binary(Bytes::new())), Some("".into()));
    // The client's own changes, and the largest values there are.
    let (long, longer) = ("l".repeat(MAX_VALUE_SIZE - 1), "L".repeat(MAX_VALUE_SIZE));
    client.set(key, long.clone()).unwrap();
    expect(TrackEvents::MODIFY, Some(long.clone().into()), Some(Value::Binary(Bytes::new())));
    client.set(key, longer.clone()).unwrap();
    expect(TrackEvents::MODIFY, Some(longer.clone().into()), Some(long.into()));
    setter.delete(key).unwrap();
    expect(TrackEvents::DELETE, None, Some(longer.into()));
    setter.set(key, 7_i64).unwrap();
    expect(TrackEvents::ADD, Some(7_i64.into()), None);
    setter.increment(key).unwrap();
    expect(TrackEvents::MODIFY, Some(8_i64.into()), Some(7_i64.into()));
    setter.delete(key).unwrap();
    expect(TrackEvents::DELETE, None, Some(8_i64.into()));
    assert_eq!(waiting(&client), []);
    for key in ["a_tracker_tells_old_and_new.child", "a_tracker_tells_old_and_newer"] {
        setter.delete(key).unwrap();
    }
}

fn a_tracker_is_told_what_it_asked_for(endpoint: &Endpoint) {
    let setter = Client::connect_to(endpoint).unwrap();
    let key = "a_tracker_is_told_what_it_asked_for";
    let kinds = [TrackEvents::ADD, TrackEvents::MODIFY, TrackEvents::DELETE];
    let clients: Vec<_> = (0..8)
        .map(|bits| {
            let client = Client::connect_to(endpoint).unwrap();
            client.track_add(key, TrackEvents::from_bits(bits)).unwrap();
            (TrackEvents::from_bits(bits), client)
        })
        .collect();
    setter.set(key, 1_u8).unwrap();
    setter.set(key, 2_u8).unwrap();
    setter.delete(key).unwrap();
    for (asked, client) in &clients {
        let expected: Vec<_> = kinds.into_iter().filter(|kind| asked.contains(*kind)).collect();
        let told: Vec<_> = expected.iter().map(|_| next_notification(client).event).collect();
        assert_eq!((told, waiting(client)), (expected, vec![]), "{asked:?}");
    }
    // Bits that the daemon does not know are its to refuse.
    assert_eq!(cs(setter.track_add(key, TrackEvents::from_bits(1 << 20))), CsError::InvalidParam);
}

fn a_dispatch_of_one_is_done_with_a_notification_of_a_deleted_tracker(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let [key, later] = ["a_dispatch_of_one.deleted", "a_dispatch_of_one.later"];
    let tracker = client.track_add(key, TrackEvents::ALL).unwrap();
    client.track_add(later, TrackEvents::ALL).unwrap();
    for mode in [Dispatch::One, Dispatch::OneNonblocking] {
        client.set(key, mode as u8).unwrap();
    }
    client.track_delete(tracker).unwrap();
    client.set(later, 1_u8).unwrap();
    // As cmap_dispatch, which takes the message and finds that nobody wants it.
    for mode in [Dispatch::One, Dispatch::OneNonblocking] {
        client.dispatch(mode, |event| panic!("{mode:?}: {event:?}")).unwrap();
    }
    assert_eq!(next_notification(&client).key, later);
    assert_eq!(waiting(&client), []);
}

fn two_trackers_of_one_client_are_told_apart(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let prefix = "two_trackers_of_one_client.";
    let key = "two_trackers_of_one_client.key";
    let one = client.track_add(key, TrackEvents::ALL).unwrap();
    let other = client.track_add(prefix, TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    assert_ne!(one, other);
    let told = || -> Vec<(Tracker, String)> {
        let mut told: Vec<_> = waiting(&client)
            .into_iter()
            .map(|event| match event {
                Event::Notification(Notification { tracker, key, .. }) => (tracker, key),
                other => panic!("{other:?}"),
            })
            .collect();
        told.sort_by_key(|(tracker, _)| *tracker != one);
        told
    };
    client.set(key, 1_u8).unwrap();
    assert_eq!(told(), [(one, key.to_owned()), (other, key.to_owned())]);
    let sibling = "two_trackers_of_one_client.sibling";
    client.set(sibling, 1_u8).unwrap();
    assert_eq!(told(), [(other, sibling.to_owned())]);

    // What was sent before the tracker was deleted is not handed over; the other tracker goes on.
    client.set(key, 2_u8).unwrap();
    client.track_delete(one).unwrap();
    assert_eq!(told(), [(other, key.to_owned())]);
    client.set(key, 3_u8).unwrap();
    assert_eq!(told(), [(other, key.to_owned())]);
    assert_eq!(cs(client.track_delete(one)), CsError::BadHandle);
    client.track_delete(other).unwrap();
    client.delete(key).unwrap();
    client.delete(sibling).unwrap();
    assert_eq!(told(), []);

    let all = client.track_add("", TrackEvents::DELETE | TrackEvents::PREFIX).unwrap();
    client.set(key, 1_u8).unwrap();
    client.delete(key).unwrap();
    // Other bodies delete keys too.
    testbed::next_that(&client, |event| match event {
        Event::Notification(notification) => {
            (notification.tracker == all && notification.key == key).then_some(())
        }
        other => panic!("{other:?}"),
    });
}

/// Only for servers that have the map.
fn statistics_are_read_or_refused(endpoint: &Endpoint, version: Version) {
    let client = match Client::connect_with(endpoint, Options::new().map(Map::Stats)) {
        Err(Error::Unsupported { .. }) => return assert!(version < STATISTICS),
        client => client.unwrap(),
    };
    assert!(version >= STATISTICS);
    let active = client.get("stats.ipcs.global.active").unwrap().unwrap();
    assert!(matches!(active, Value::U64(1..)), "{active:?}");
    let found = client.list("stats.ipcs.").unwrap();
    assert!(found.iter().any(|(key, _)| key == "stats.ipcs.global.active"));
    let mine = format!("stats.ipcs.service0.{}.", std::process::id());
    assert!(found.iter().any(|(key, _)| key.starts_with(&mine)), "{mine} {found:?}");
    assert!(client.iter("").unwrap().all(|entry| entry.unwrap().key.starts_with("stats.")));
    // How long a string is an iteration does not tell.
    let lengths = client
        .iter(&mine)
        .unwrap()
        .map(Result::unwrap)
        .map(|entry| (entry.value_type, entry.value_len));
    assert!(lengths.into_iter().any(|entry| entry == (ValueType::STRING, 0)));
    assert_eq!(client.get("totem.version").unwrap(), None);
    assert!(matches!(
        cs(client.set("stats.ipcs.global.active", 5_u64)),
        CsError::NotSupported | CsError::Access
    ));
    // A client of the other map is not disturbed.
    assert!(Client::connect_to(endpoint).unwrap().get("totem.version").unwrap().is_some());
}

/// What the daemon counts of a connection, in the order in which its keys come and go.
const OF_A_CONNECTION: [(&str, ValueType); 13] = [
    ("queueing", ValueType::INT32),
    ("queued", ValueType::UINT32),
    ("invalid_request", ValueType::UINT64),
    ("overload", ValueType::UINT64),
    ("sent", ValueType::UINT32),
    ("procname", ValueType::STRING),
    ("requests", ValueType::UINT64),
    ("responses", ValueType::UINT64),
    ("dispatched", ValueType::UINT64),
    ("send_retries", ValueType::UINT64),
    ("recv_retries", ValueType::UINT64),
    ("flow_control", ValueType::UINT32),
    ("flow_control_count", ValueType::UINT64),
];

/// The beginning of the statistics' keys of this process's connections to a service.
fn statistics_of(service: u32) -> String {
    format!("stats.ipcs.service{service}.{}.", std::process::id())
}

/// The statistics' key of the only connection of this process to a service.
#[track_caller]
fn statistic(client: &Client, service: u32, name: &str) -> String {
    let listed = client.iter(&statistics_of(service)).unwrap().map(|entry| entry.unwrap().key);
    let found: Vec<_> = listed.filter(|key| key.ends_with(&format!(".{name}"))).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap()
}

/// For a server whose statistics nobody else iterates over. For each key of a new connection, and
/// of one that goes, a tracker of a prefix is told the value, as the new one and as the old one.
fn statistics_tell_connections_that_come_and_go(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    // No other body connects to votequorum in this process.
    let tracker =
        client.track_add(&statistics_of(5), TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    let mut keys = Vec::new();
    let mut expect = |event| -> Vec<(String, Value)> {
        let told = OF_A_CONNECTION.map(|_| next_notification(&client)).into_iter().map(|told| {
            assert_eq!(
                (told.tracker, told.event, &told.new_value),
                (tracker, event, &told.old_value)
            );
            (told.key, told.new_value.unwrap())
        });
        let told: Vec<_> = told.collect();
        let of_one =
            told.iter().map(|(key, value)| (key.rsplit_once('.').unwrap().1, value.value_type()));
        assert_eq!(of_one.collect::<Vec<_>>(), OF_A_CONNECTION);
        keys.push(told.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
        assert_eq!(keys[0], *keys.last().unwrap());
        told
    };
    let value = |told: &[(String, Value)], name: &str| {
        told.iter().find(|(key, _)| key.ends_with(&format!(".{name}"))).unwrap().1.clone()
    };

    let other = votequorum::Client::connect_to(endpoint).unwrap();
    let told = expect(TrackEvents::ADD);
    assert_eq!(value(&told, "procname"), Value::from(comm.trim_end()));
    assert_eq!(
        (value(&told, "requests"), value(&told, "responses")),
        (Value::U64(0), Value::U64(0))
    );
    other.local_info().unwrap();
    other.local_info().unwrap();
    drop(other);
    let told = expect(TrackEvents::DELETE);
    assert_eq!(
        (value(&told, "requests"), value(&told, "responses")),
        (Value::U64(2), Value::U64(2))
    );

    client.track_delete(tracker).unwrap();
    votequorum::Client::connect_to(endpoint).unwrap().local_info().unwrap();
    assert_eq!(waiting(&client), []);
}

/// For a server whose statistics nobody else iterates over. Numbers are looked at from time to
/// time. Whoever tracks a key is then told of a change, though it asked for something else, and is
/// told the new value as the old one too; whoever tracks a prefix is not.
fn statistics_tell_numbers_that_changed(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    // No other body of cmap connects to quorum in this process.
    let other = quorum::Client::connect_to(endpoint).unwrap();
    other.is_quorate().unwrap();
    let key = statistic(&client, 3, "requests");
    let Some(Value::U64(before)) = client.get(&key).unwrap() else { panic!("no number") };
    let events = [
        TrackEvents::MODIFY,
        TrackEvents::ALL | TrackEvents::PREFIX,
        TrackEvents::ADD,
        TrackEvents::ALL,
        TrackEvents::from_bits(0),
    ];
    let trackers = events.map(|events| client.track_add(&key, events).unwrap());
    let [modified, prefix, added, all, nothing] = trackers;
    // The newest is told first.
    let expect = |trackers: &[Tracker], event, count: u64| {
        for tracker in trackers {
            let told = next_notification(&client);
            assert_eq!((told.tracker, told.event, &told.key), (*tracker, event, &key));
            assert_eq!((told.new_value, told.old_value), (Some(count.into()), Some(count.into())));
        }
    };
    other.is_quorate().unwrap();
    expect(&[nothing, all, added, modified], TrackEvents::MODIFY, before + 1);
    client.track_delete(added).unwrap();
    other.is_quorate().unwrap();
    expect(&[nothing, all, modified], TrackEvents::MODIFY, before + 2);
    drop(other);
    expect(&[all, prefix], TrackEvents::DELETE, before + 2);
    for tracker in [modified, prefix, all, nothing] {
        client.track_delete(tracker).unwrap();
    }
    assert_eq!(waiting(&client), []);
}

/// The daemon takes no notice of room in an event ring until its loop turns, so a client that
/// emptied a full ring sends a request. It counts them.
fn a_full_event_ring_is_refilled_by_a_request(endpoint: &Endpoint) {
    const EVENTS: u64 = 1000;
    let statistics = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    // No other body of cmap connects to cpg in this process.
    let client = cpg::Client::connect_to(&endpoint.clone().ring_size(16 << 10)).unwrap();
    client.join(&GroupName::new("refill").unwrap()).unwrap();
    let key = statistic(&statistics, 2, "requests");
    let counted = || statistics.get_as::<u64>(&key).unwrap().unwrap();
    let deliver = |expected: u64| loop {
        if let cpg::Event::Deliver(cpg::Deliver { payload, .. }) = next(&client) {
            return assert_eq!(*payload, expected.to_ne_bytes());
        }
    };
    // A daemon that is quicker than its client refills the ring unasked.
    eventually("a request refills the ring", || {
        (0..EVENTS)
            .for_each(|number| client.multicast(Guarantee::AGREED, &number.to_ne_bytes()).unwrap());
        // Answered in order: now the daemon has taken all multicasts.
        client.local_node_id().unwrap();
        // Delivered in order: once it has seen the last of its own, the daemon has sent or queued
        // all.
        let witness = cpg::Client::connect_with(endpoint, cpg::Options::new().pid(1)).unwrap();
        witness.join(&GroupName::new("refill").unwrap()).unwrap();
        next(&witness);
        let before = counted();
        (0..EVENTS).for_each(deliver);
        let nudges = counted() - before;
        assert!(nudges < EVENTS / 10, "{nudges} requests");
        nudges > 0
    });
}

fn trackers_of_statistics_by_prefix_take_what_comes_and_goes(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    let both = TrackEvents::ADD | TrackEvents::DELETE;
    for bits in 0..8 {
        let events = TrackEvents::from_bits(bits);
        let result = client.track_add("stats.none.", events | TrackEvents::PREFIX);
        match events.contains(both) {
            true => drop(result.unwrap()),
            false => assert_eq!(cs(result), CsError::NotSupported, "{events:?}"),
        }
        client.track_add("stats.none.such", events).unwrap();
    }
    // Other than in the other map, unknown bits are left alone.
    client.track_add("stats.none.such", TrackEvents::from_bits(1 << 20)).unwrap();
}

/// The real daemon has room for a number only, and dies when it compares.
fn strings_of_the_statistics_are_not_tracked_by_key(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    let keys: Vec<_> = client.iter("stats.ipcs.").unwrap().map(Result::unwrap).collect();
    let strings: Vec<_> =
        keys.into_iter().filter(|entry| entry.value_type == ValueType::STRING).collect();
    assert!(!strings.is_empty());
    for entry in &strings {
        assert_eq!(invalid(client.track_add(&entry.key, TrackEvents::ALL)), "key", "{}", entry.key);
        client.track_add(&entry.key, TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    }
    let other = Client::connect_to(endpoint).unwrap();
    other
        .track_delete(other.track_add("of.another.map.procname", TrackEvents::ALL).unwrap())
        .unwrap();
}

fn statistics_are_read_only_but_for_what_clears_them(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    for key in [
        "stats.srp.mcast_tx",
        "stats.ipcs.global.closed",
        "stats.none",
        "stats.clear",
        "totem.version",
    ] {
        assert_eq!(cs(client.set(key, 1_u64)), CsError::Access, "{key}");
        assert_eq!(cs(client.delete(key)), CsError::Access, "{key}");
        assert_eq!(cs(client.increment(key)), CsError::Access, "{key}");
    }
    for key in ["stats.clear.", "stats.clear.none", "stats.clear.IPC", "stats.clear.ip"] {
        assert_eq!(cs(client.set(key, 1_u8)), CsError::NotSupported, "{key}");
    }
    for key in ["stats.clear.ipc", "stats.clear.none"] {
        assert_eq!(cs(client.delete(key)), CsError::NotSupported, "{key}");
        assert_eq!(cs(client.increment(key)), CsError::NotSupported, "{key}");
    }
    // There are no such keys though.
    assert_eq!(client.list("stats.clear").unwrap(), []);
}

/// For a server that nobody else uses.
fn statistics_are_cleared(endpoint: &Endpoint) {
    let client = Client::connect_with(endpoint, Options::new().map(Map::Stats)).unwrap();
    let other = quorum::Client::connect_to(endpoint).unwrap();
    other.track_start(TrackFlags::CURRENT).unwrap();
    testbed::next(&other);
    let number = |key: &str| match client.get(key).unwrap() {
        Some(Value::U64(number)) => number,
        Some(Value::U32(number)) => number.into(),
        found => panic!("{key}: {found:?}"),
    };
    let entered = || {
        let states = ["gather", "commit", "recovery", "operational"];
        states.map(|state| number(&format!("stats.srp.{state}_entered")))
    };
    let of_other = || {
        let counted = ["requests", "responses", "dispatched", "sent"];
        counted.map(|name| number(&statistic(&client, 3, name)))
    };
    let global = || ["active", "closed"].map(|name| number(&format!("stats.ipcs.global.{name}")));
    let procname = || client.get(&statistic(&client, 3, "procname")).unwrap();

    let counted = (entered(), of_other());
    assert!(counted.0.iter().chain(&counted.1).all(|number| *number > 0), "{counted:?}");
    client.set("stats.clear.schedmiss", "whatever").unwrap();
    assert_eq!((entered(), of_other()), counted);
    // Those of knet are not all that is cleared with them.
    client.set("stats.clear.knet", 1_u8).unwrap();
    assert_eq!((entered(), of_other()), ([0; 4], counted.1));
    client.set("stats.clear.totem", 1_u8).unwrap();
    let name = procname();
    assert_ne!(global(), [0; 2]);
    client.set("stats.clear.ipc.and.more", Value::F32(0.0)).unwrap();
    assert_eq!((global(), of_other(), procname()), ([0; 2], [0; 4], name));
    // There are fewer connections now than none.
    drop(other);
    let patience = Patience::new();
    while global() != [u64::MAX, 1] {
        assert!(!patience.is_over(), "{:?}", global());
    }
    client.set("stats.clear.all", 1_u8).unwrap();
    assert_eq!(global(), [0; 2]);
}

fn small_rings_do_for_small_values(endpoint: &Endpoint) {
    for ring_size in [4096, 8192] {
        let client = Client::connect_to(&endpoint.clone().ring_size(ring_size)).unwrap();
        let prefix = format!("small_rings_do_for_small_values.{ring_size}.");
        let tracker = client.track_add(&prefix, TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
        let keys: Vec<String> = (0..40).map(|number| format!("{prefix}{number:02}")).collect();
        // More events than the ring has room for: the daemon keeps the rest until there is.
        for (number, key) in (0_u32..).zip(&keys) {
            client.set(key, number).unwrap();
        }
        for (number, key) in (0_u32..).zip(&keys) {
            let told = next_notification(&client);
            assert_eq!(
                (told.tracker, &told.key, told.new_value),
                (tracker, key, Some(number.into()))
            );
        }
        let listed = client.list(&prefix).unwrap();
        assert_eq!(listed.len(), keys.len());
        for (number, key) in (0_u32..).zip(&keys) {
            assert_eq!(client.get(key).unwrap(), Some(Value::U32(number)));
            assert!(listed.contains(&(key.clone(), number.into())));
            client.delete(key).unwrap();
        }
        let text = "x".repeat(ring_size as usize / 2);
        client.set(&keys[0], text.clone()).unwrap();
        assert_eq!(client.get(&keys[0]).unwrap(), Some(text.into()));
        client.delete(&keys[0]).unwrap();
        for _ in 0..keys.len() + 2 {
            next_notification(&client);
        }
        assert_eq!(waiting(&client), []);
    }
}

fn what_does_not_fit_the_ring_is_said_so(endpoint: &Endpoint) {
    let roomy = Client::connect_to(endpoint).unwrap();
    let small = Client::connect_to(&endpoint.clone().ring_size(8192)).unwrap();
    let (key, neighbour) = ("what_does_not_fit_the_ring", "what_does_not_fit_the_ring.neighbour");
    let large = "x".repeat(MAX_VALUE_SIZE);
    assert_eq!(invalid(small.set(key, large.clone())), "message");
    assert_eq!(small.get(key).unwrap(), None);
    roomy.set(key, large).unwrap();
    roomy.set(neighbour, 1_u8).unwrap();
    let refused = small.get(key);
    assert!(
        refused.as_ref().is_err_and(|error| error.to_string().contains("larger ring size")),
        "{refused:?}"
    );
    assert_eq!(invalid(refused), "ring size");
    assert_eq!(invalid(small.list(key)), "ring size");
    // The connection goes on to work, and what fits is found.
    assert_eq!(small.get(neighbour).unwrap(), Some(Value::U8(1)));
    assert_eq!(small.iter(key).unwrap().count(), 2);
    let fits = "y".repeat(8000);
    roomy.set(key, fits.clone()).unwrap();
    assert_eq!(small.get(key).unwrap(), Some(fits.into()));
    roomy.delete(key).unwrap();
    roomy.delete(neighbour).unwrap();
}
