//! What one client or a few can do on one node.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow::Continue;
use std::thread;
use std::time::Duration;

use corosync_ipc::cpg::{
    Client, Confchg, Deliver, Discard, Discarded, Event, GroupName, Guarantee, Iteration,
    MAX_MEMBERS, Options, Reason, TotemConfchg,
};
use corosync_ipc::{CsError, Dispatch, Endpoint, Error};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use testbed::{eventually, patiently};

use crate::support::{
    Change, ONE, assert_cs, assert_invalid, connect, group, has_fragments, is_since_2_99, join,
    next, next_change, next_message, own_options, pattern, send,
};

testbed::on_each_host! {
    a_member_sees_itself_join_and_leave;
    a_join_carries_the_pid_of_the_process_that_joins;
    the_initial_totem_membership_comes_when_asked_for;
    every_guarantee_and_every_size_is_delivered;
    many_messages_at_once_are_delivered_in_order;
    a_message_of_64_mib_is_delivered_whole;
    a_dispatch_of_one_is_done_with_a_fragment;
    a_message_beyond_the_limit_is_told_and_the_next_one_delivered;
    groups_and_members_are_found;
    a_group_has_no_more_members_than_corosync_survives;
    wrong_calls_are_named_and_harm_nothing;
    small_rings_send_fragments;
    large_messages_of_two_threads_do_not_mix;
    names_that_differ_in_a_nul_are_different_groups;
    a_finalized_client_is_gone_for_its_group;
    the_daemon_sees_this_process_as_it_sees_itself;
    many_clients_see_the_same;
    daemons_that_know_no_fragments_are_not_sent_any;
    a_handler_may_use_its_client;
}

fn a_member_sees_itself_join_and_leave(endpoint: &Endpoint) {
    let group = group("join and leave");
    let client = connect(endpoint);
    assert_eq!((client.joined(), client.local_node_id().unwrap()), (None, ONE));
    client.join(&group).unwrap();
    let Event::Confchg(Confchg { group: name, members, left, joined }) = next(&client) else {
        panic!()
    };
    let me = (ONE, client.pid());
    assert_eq!((name, client.joined()), (group, Some(group)));
    assert_eq!(
        (members.len(), members[0].node_id, members[0].pid, members[0].reason),
        (1, me.0, me.1, Reason::UNDEFINED)
    );
    assert_eq!(
        (left.len(), joined.len(), joined[0].pid, joined[0].reason),
        (0, 1, me.1, Reason::JOIN)
    );
    // The same member, though only one of the lists says why it is there.
    assert!(members.contains(&joined[0]) && HashSet::from([members[0]]).contains(&joined[0]));
    assert_eq!(client.membership(&group).unwrap(), joined);
    client.leave(&group).unwrap();
    let left = Change { members: vec![], left: vec![(1, me.1, Reason::LEAVE)], joined: vec![] };
    assert_eq!((next_change(&client), client.joined()), (left, None));
    assert_eq!(client.poll_event().unwrap(), None);
}

fn a_join_carries_the_pid_of_the_process_that_joins(endpoint: &Endpoint) {
    let group = group("forked");
    let client = Client::connect_to(endpoint).unwrap();
    assert_eq!(client.pid(), std::process::id());
    // SAFETY: the child uses nothing of other threads' but the allocator, which is made for
    // that.
    let ForkResult::Parent { child } = (unsafe { fork() }).unwrap() else {
        let joined = client.join(&group).is_ok() && client.pid() == std::process::id();
        // SAFETY: nothing is left to be done in this process.
        unsafe { libc::_exit(i32::from(!joined)) }
    };
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
    // By another client: what the child did is unknown to this one.
    let members = connect(endpoint).membership(&group).unwrap();
    let pids: Vec<_> = members.iter().map(|member| i32::try_from(member.pid).unwrap()).collect();
    assert_eq!(pids, [child.as_raw()]);
}

fn the_initial_totem_membership_comes_when_asked_for(endpoint: &Endpoint) {
    let group = group("totem");
    for asked in [true, false] {
        let client =
            Client::connect_with(endpoint, own_options().initial_totem_confchg(asked)).unwrap();
        client.join(&group).unwrap();
        send(&client, b"after");
        let mut told = Vec::new();
        loop {
            match next(&client) {
                Event::TotemConfchg(TotemConfchg { ring_id, members }) => {
                    told.push((ring_id.seq > 0, members))
                }
                Event::Confchg(_) => {}
                Event::Deliver(_) => break,
                event => panic!("{event:?}"),
            }
        }
        assert_eq!(told, if asked { vec![(true, vec![ONE])] } else { vec![] });
    }
}

fn every_guarantee_and_every_size_is_delivered(endpoint: &Endpoint) {
    let group = group("sizes");
    let client = join(endpoint, &group);
    let most = client.max_atomic_message_size();
    assert_eq!(most, 1024 * 1024 - 1024 - 10_000);
    let mut sizes = vec![0, 1, 3, 4, 5, 1000, 65536, 1_000_000, most];
    if has_fragments(endpoint) {
        sizes.extend([most + 1, 2 * most, 2 * most + 1, 5 << 20]);
    }
    for guarantee in [Guarantee::UNORDERED, Guarantee::FIFO, Guarantee::AGREED, Guarantee::SAFE] {
        for size in &sizes {
            let message = pattern(*size as u64, *size);
            client.multicast(guarantee, &message).unwrap();
            let Event::Deliver(Deliver { group: name, node_id, pid, payload }) = next(&client)
            else {
                panic!()
            };
            assert_eq!((name, node_id, pid), (group, ONE, client.pid()));
            assert!(payload == message, "{size} bytes {guarantee}");
            // In parts of unlike lengths, empty ones among them.
            let (head, tail) = message.split_at(message.len() / 3);
            client.multicast_slices(guarantee, &[b"", head, b"", tail]).unwrap();
            assert!(next_message(&client) == message, "{size} bytes {guarantee} in parts");
            if *size <= most {
                // The daemon may still be at the one before.
                eventually("there is room", || {
                    match client.try_multicast_slices(guarantee, &[head, tail]) {
                        Ok(()) => true,
                        Err(Error::Cs { error: CsError::TryAgain, .. }) => false,
                        Err(error) => panic!("{error}"),
                    }
                });
                assert!(next_message(&client) == message, "{size} bytes {guarantee} tried");
            }
        }
    }
    client.multicast_slices(Guarantee::AGREED, &[]).unwrap();
    assert_eq!(next_message(&client), "");
}

fn many_messages_at_once_are_delivered_in_order(endpoint: &Endpoint) {
    let group = group("many at once");
    let client = join(endpoint, &group);
    // Shorter and longer than what is sent at once, and short ones behind long ones.
    let sizes = [0, 1, 64, 300, 20_000, 5].into_iter().cycle().take(400);
    let mut messages: Vec<_> =
        sizes.enumerate().map(|(number, size)| pattern(number as u64, size)).collect();
    messages.push(pattern(400, client.max_atomic_message_size()));
    if has_fragments(endpoint) {
        messages.insert(200, pattern(401, 2 << 20));
    }
    thread::scope(|scope| {
        let sender = scope.spawn(|| client.multicast_many(Guarantee::AGREED, &messages));
        for (number, message) in messages.iter().enumerate() {
            assert!(next_message(&client) == *message, "{number}");
        }
        sender.join().unwrap().unwrap();
    });
    let none: [&[u8]; 0] = [];
    client.multicast_many(Guarantee::AGREED, &none).unwrap();
    assert_eq!(client.try_multicast_many(Guarantee::AGREED, &none).unwrap(), 0);
    let mut left: &[&str] = &["one", "two", "three"];
    eventually("there is room", || {
        match client.try_multicast_many(Guarantee::AGREED, left) {
            Ok(sent) => left = &left[sent..],
            Err(Error::Cs { error: CsError::TryAgain, .. }) => {}
            Err(error) => panic!("{error}"),
        }
        left.is_empty()
    });
    ["one", "two", "three"].iter().for_each(|message| assert_eq!(next_message(&client), *message));
    assert_eq!(client.poll_event().unwrap(), None);
}

fn a_dispatch_of_one_is_done_with_a_fragment(endpoint: &Endpoint) {
    if !has_fragments(endpoint) {
        return;
    }
    let group = group("fragments count");
    let client = join(endpoint, &group);
    let message = pattern(3, 2 * client.max_atomic_message_size() + 1);
    // As cpg_dispatch, which takes a message each time, and calls back at the last fragment.
    for mode in [Dispatch::One, Dispatch::OneNonblocking] {
        send(&client, &message);
        let mut handed_over = Vec::new();
        for expected in [0, 0, 1] {
            let mut take = |event| {
                handed_over.push(event);
                Continue(())
            };
            eventually("a message waits", || client.dispatch(mode, &mut take).is_ok());
            assert_eq!(handed_over.len(), expected);
        }
        let [Event::Deliver(Deliver { payload, .. })] = &*handed_over else {
            panic!("{handed_over:?}")
        };
        assert!(*payload == message);
    }
}

fn a_message_of_64_mib_is_delivered_whole(endpoint: &Endpoint) {
    if !has_fragments(endpoint) {
        return;
    }
    let group = group("64 MiB");
    let (one, two) = (join(endpoint, &group), join(endpoint, &group));
    let message = pattern(64, 64 << 20);
    send(&one, &message);
    for client in [one, two] {
        let payload = loop {
            if let Event::Deliver(Deliver { payload, .. }) = next(&client) {
                break payload;
            }
        };
        assert!(payload == message);
    }
}

fn a_message_beyond_the_limit_is_told_and_the_next_one_delivered(endpoint: &Endpoint) {
    if !has_fragments(endpoint) {
        return;
    }
    let group = group("limit");
    let client = Client::connect_with(endpoint, own_options().reassembly_limit(3 << 20)).unwrap();
    client.join(&group).unwrap();
    assert!(matches!(next(&client), Event::Confchg(_)));
    send(&client, &pattern(1, 4 << 20));
    send(&client, b"small");
    send(&client, &pattern(2, 2 << 20));
    let expected = Event::Discarded(Discarded {
        group,
        node_id: ONE,
        pid: client.pid(),
        length: 4 << 20,
        reason: Discard::TooLong,
    });
    assert_eq!(next(&client), expected);
    assert_eq!(next_message(&client), "small");
    assert!(next_message(&client) == pattern(2, 2 << 20));
}

fn groups_and_members_are_found(endpoint: &Endpoint) {
    let (first, second) = (group("iterate first"), GroupName::with_nul("iterate second").unwrap());
    let clients = [join(endpoint, &first), join(endpoint, &first), join(endpoint, &second)];
    let asker = connect(endpoint);
    let pids = |group: &GroupName| -> BTreeSet<u32> {
        let members = asker.membership(group).unwrap();
        assert!(
            members
                .iter()
                .all(|member| member.node_id == ONE && member.reason == Reason::UNDEFINED)
        );
        members.iter().map(|member| member.pid).collect()
    };
    assert_eq!(pids(&first), BTreeSet::from([clients[0].pid(), clients[1].pid()]));
    assert_eq!(pids(&second), BTreeSet::from([clients[2].pid()]));
    assert_eq!(pids(&group("nobody's")), BTreeSet::new());

    let found =
        |iteration| -> Vec<_> { asker.iter(iteration).unwrap().map(Result::unwrap).collect() };
    let names = found(Iteration::Names);
    assert!(names.iter().all(|entry| (entry.node_id.0, entry.pid) == (0, 0)));
    for group in [first, second] {
        assert_eq!(names.iter().filter(|entry| entry.group == group).count(), 1, "{group}");
        let of_group = found(Iteration::Group(group));
        assert_eq!(of_group.iter().map(|entry| entry.pid).collect::<BTreeSet<_>>(), pids(&group));
        assert!(of_group.iter().all(|entry| (entry.group, entry.node_id) == (group, ONE)));
        let all = found(Iteration::All);
        assert_eq!(all.iter().filter(|entry| entry.group == group).count(), of_group.len());
    }
    assert_eq!(found(Iteration::Group(group("nobody's"))), []);

    // Dropped before the end and used up: neither leaves anything in the way.
    for _ in 0..100 {
        let mut iter = asker.iter(Iteration::All).unwrap();
        assert!(iter.next().is_some());
    }
    let mut used_up = asker.iter(Iteration::Group(second)).unwrap();
    assert_eq!((used_up.by_ref().count(), used_up.next().is_none()), (1, true));
}

/// With more of them on one node, corosync 3.1.7 crashes on the others when that node goes.
fn a_group_has_no_more_members_than_corosync_survives(endpoint: &Endpoint) {
    let group = group("limit of members");
    let endpoint = endpoint.clone().ring_size(8192);
    let members: Vec<Client> = (0..MAX_MEMBERS).map(|_| connect(&endpoint)).collect();
    for (at, member) in members.iter().enumerate() {
        member.join(&group).unwrap();
        // They join in order, so that the daemon knows of each before the next one asks.
        assert!(matches!(next(member), Event::Confchg(_)));
        // With libqb before 0.14.4 a daemon that has some full rings to look after does nothing
        // else.
        for earlier in &members[..at] {
            while earlier.poll_event().unwrap().is_some() {}
        }
    }
    let late = connect(&endpoint);
    let refused = late.join(&group);
    assert!(matches!(refused, Err(Error::WouldCrash { .. })), "{refused:?}");
    assert_eq!((late.joined(), late.membership(&group).unwrap().len()), (None, MAX_MEMBERS));
    members[7].leave(&group).unwrap();
    eventually("there is room", || late.membership(&group).unwrap().len() < MAX_MEMBERS);
    late.join(&group).unwrap();
}

fn wrong_calls_are_named_and_harm_nothing(endpoint: &Endpoint) {
    let (ours, other) = (group("wrong calls"), group("wrong calls, another"));
    let client = connect(endpoint);
    let works = || assert_eq!(client.local_node_id().unwrap(), ONE);

    assert_cs(client.multicast(Guarantee::AGREED, b"nobody"), CsError::NotExist);
    assert_cs(client.try_multicast(Guarantee::AGREED, b"nobody"), CsError::NotExist);
    assert_cs(client.multicast_many(Guarantee::AGREED, &["nobody"; 2]), CsError::NotExist);
    assert_cs(client.try_multicast_many(Guarantee::AGREED, &["nobody"; 2]), CsError::NotExist);
    assert_cs(client.multicast(Guarantee::AGREED, &pattern(1, 2 << 20)), CsError::NotExist);
    assert_cs(client.leave(&ours), CsError::NotExist);
    assert_invalid(client.join(&GroupName::default()), "group name");
    assert_invalid(GroupName::new([b'x'; 129]), "group name");
    works();

    client.join(&ours).unwrap();
    assert_eq!(next_change(&client).members, [(1, client.pid())]);
    assert_cs(client.join(&ours), CsError::Exist);
    assert_cs(client.join(&other), CsError::Exist);
    assert_cs(client.leave(&other), CsError::NotExist);
    let twin = Client::connect_with(endpoint, Options::new().pid(client.pid())).unwrap();
    let is_taken = |error: Error| {
        let taken = matches!(&error, Error::PidTaken { group, pid } if *group == ours.to_string() && *pid == client.pid());
        assert!(taken && error.cs_error() == CsError::Exist, "{error:?}");
    };
    is_taken(twin.join(&ours).unwrap_err());
    assert_cs(twin.multicast(Guarantee::AGREED, b"nobody"), CsError::NotExist);
    twin.join(&other).unwrap();
    works();

    let most = client.max_atomic_message_size();
    assert_invalid(client.try_multicast(Guarantee::AGREED, &pattern(1, most + 1)), "message");
    // Nothing is sent of those before it either.
    let many = [b"first".to_vec(), pattern(1, most + 1)];
    assert_invalid(client.try_multicast_many(Guarantee::AGREED, &many), "message");
    let mega = pattern(1, 1 << 20);
    assert_invalid(client.multicast_slices(Guarantee::AGREED, &[&mega[..]; 4096]), "message");
    // What the daemon does not know it does not look at.
    client.multicast(Guarantee(77), b"strange").unwrap();
    assert_eq!(next_message(&client), "strange");
    works();

    client.leave(&ours).unwrap();
    assert_cs(client.multicast(Guarantee::AGREED, b"nobody"), CsError::NotExist);
    assert_cs(client.leave(&ours), CsError::NotExist);
    assert_eq!(next_change(&client).left, [(1, client.pid(), Reason::LEAVE)]);
    if is_since_2_99(endpoint) {
        is_taken(client.join(&ours).unwrap_err());
        client.set_request_timeout(Duration::from_secs(2));
        // On a busy machine the last of the attempts may be cut off.
        let busy = patiently(|_| match client.join(&group("wrong calls, a third")) {
            Err(Error::TimedOut { .. }) => None,
            other => Some(other),
        });
        assert_cs(busy.unwrap(), CsError::Busy);
    } else {
        client.join(&ours).unwrap();
        assert_eq!(next_change(&client).joined, [(1, client.pid(), Reason::JOIN)]);
    }
    works();
}

/// Both are in one pid namespace. tests/containers has others.
fn the_daemon_sees_this_process_as_it_sees_itself(endpoint: &Endpoint) {
    let group = group("pid at daemon");
    let client = Client::connect_with(endpoint, Options::new().pid_at_daemon()).unwrap();
    assert!([None, Some(std::process::id())].contains(&client.pid_at_daemon()));
    client.join(&group).unwrap();
    assert_eq!(next_change(&client).members, [(1, std::process::id())]);
    assert_eq!(client.pid(), std::process::id());
}

fn small_rings_send_fragments(endpoint: &Endpoint) {
    let group = group("small rings");
    let receiver = join(endpoint, &group);
    let small = Client::connect_with(&endpoint.clone().ring_size(8192), own_options()).unwrap();
    assert_eq!(small.max_atomic_message_size(), 8192 - 1024);
    small.join(&group).unwrap();
    let message = pattern(1, 8192 - 1024);
    send(&small, &message);
    let mut expected = vec![message];
    if has_fragments(endpoint) {
        let message = pattern(2, 100_000);
        send(&small, &message);
        expected.push(message);
    }
    assert_eq!(next_change(&receiver).members.len(), 2);
    for message in expected {
        assert!(next_message(&receiver) == message);
    }
    let smallest = Client::connect_with(&endpoint.clone().ring_size(4096), own_options()).unwrap();
    assert_eq!(smallest.membership(&group).unwrap().len(), 2);
    assert_eq!(smallest.local_node_id().unwrap(), ONE);
}

fn large_messages_of_two_threads_do_not_mix(endpoint: &Endpoint) {
    if !has_fragments(endpoint) {
        return;
    }
    const EACH: u64 = 10;
    let client = join(endpoint, &group("two threads"));
    thread::scope(|scope| {
        for thread in [1000, 2000] {
            let client = &client;
            scope.spawn(move || {
                for number in 0..EACH {
                    let seed = thread + number;
                    send(client, &[&seed.to_ne_bytes()[..], &pattern(seed, 3 << 20)].concat());
                    send(client, &[&seed.to_ne_bytes()[..], &pattern(seed, 100)].concat());
                }
            });
        }
        let mut last = [0, 0];
        for _ in 0..4 * EACH {
            let message = next_message(&client);
            let (seed, rest) = message.split_at(8);
            let seed = u64::from_ne_bytes(seed.try_into().unwrap());
            assert!(rest == pattern(seed, rest.len()), "{seed}: {} bytes", rest.len());
            let last = &mut last[usize::from(seed >= 2000)];
            assert!(seed >= *last, "{seed} behind {last}");
            *last = seed;
        }
    });
}

fn names_that_differ_in_a_nul_are_different_groups(endpoint: &Endpoint) {
    let names = [
        group("nul"),
        GroupName::with_nul("nul").unwrap(),
        GroupName::new(b"nul\0\0").unwrap(),
        GroupName::new([0xff; 128]).unwrap(),
        GroupName::new([b'x'; 128]).unwrap(),
        GroupName::new([b'x'; 127]).unwrap(),
    ];
    let clients = names.map(|name| join(endpoint, &name));
    for (client, name) in clients.iter().zip(names) {
        send(client, name.as_bytes());
        let Event::Deliver(Deliver { group, payload, .. }) = next(client) else { panic!() };
        assert_eq!((group, &payload[..]), (name, name.as_bytes()));
        assert_eq!(client.membership(&name).unwrap().len(), 1);
        let found: Vec<_> =
            client.iter(Iteration::Group(name)).unwrap().map(Result::unwrap).collect();
        assert_eq!((found.len(), found[0].group), (1, name));
    }
    for client in &clients {
        assert_eq!(client.poll_event().unwrap(), None);
    }
}

fn a_finalized_client_is_gone_for_its_group(endpoint: &Endpoint) {
    let group = group("finalize");
    let (stays, finalized, dropped) =
        (join(endpoint, &group), join(endpoint, &group), join(endpoint, &group));
    next_change(&stays);
    next_change(&stays);
    finalized.finalize();
    assert!(matches!(finalized.multicast(Guarantee::AGREED, b"x"), Err(Error::Finalized)));
    assert!(matches!(finalized.multicast_many(Guarantee::AGREED, &["x"]), Err(Error::Finalized)));
    assert!(matches!(finalized.join(&group), Err(Error::Finalized)));
    assert!(matches!(finalized.poll_event(), Err(Error::Finalized)));
    assert_eq!(next_change(&stays).left, [(1, finalized.pid(), Reason::PROCDOWN)]);
    let pid = dropped.pid();
    drop(dropped);
    assert_eq!(next_change(&stays).left, [(1, pid, Reason::PROCDOWN)]);
    eventually("one member is left", || stays.membership(&group).unwrap().len() == 1);
}

fn many_clients_see_the_same(endpoint: &Endpoint) {
    const CLIENTS: usize = 40;
    const EACH: usize = 20;
    let group = group("many");
    let endpoint = endpoint.clone().ring_size(64 << 10);
    let clients: Vec<_> = (0..CLIENTS).map(|_| join(&endpoint, &group)).collect();
    thread::scope(|scope| {
        let seen: Vec<_> = clients
            .iter()
            .map(|client| {
                scope.spawn(move || {
                    (0..EACH).for_each(|number| send(client, &number.to_ne_bytes()));
                    let mut seen = Vec::new();
                    while seen.len() < CLIENTS * EACH {
                        if let Event::Deliver(Deliver { pid, payload, .. }) = next(client) {
                            seen.push((pid, payload));
                        }
                    }
                    seen
                })
            })
            .collect();
        let seen: Vec<_> = seen.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(seen.iter().all(|one| *one == seen[0]));
    });
}

fn daemons_that_know_no_fragments_are_not_sent_any(endpoint: &Endpoint) {
    let group = group("fragments");
    let client = join(endpoint, &group);
    let result = client.multicast(Guarantee::AGREED, &pattern(1, 1 << 20));
    match result {
        Ok(()) => assert!(has_fragments(endpoint)),
        Err(Error::Unsupported { since, .. }) => {
            assert_eq!((since, has_fragments(endpoint)), ("2.3.5", false))
        }
        Err(error) => panic!("{error}"),
    }
    assert_eq!(client.membership(&group).unwrap().len(), 1);
}

fn a_handler_may_use_its_client(endpoint: &Endpoint) {
    let group = group("handler");
    let client = join(endpoint, &group);
    send(&client, &[1]);
    let mut seen = Vec::new();
    client
        .dispatch(Dispatch::Blocking, |event| {
            let Event::Deliver(Deliver { payload, .. }) = event else { panic!("{event:?}") };
            seen.push(payload[0]);
            assert_eq!(client.membership(&group).unwrap().len(), 1);
            if payload[0] < 5 {
                send(&client, &[payload[0] + 1]);
                std::ops::ControlFlow::Continue(())
            } else {
                std::ops::ControlFlow::Break(())
            }
        })
        .unwrap();
    assert_eq!(seen, [1, 2, 3, 4, 5]);
}
