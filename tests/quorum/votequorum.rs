//! What clients of votequorum do and see, whoever serves them.

use corosync_ipc::votequorum::{
    Client, Event, ExpectedVotesNotification, InfoFlags, LOCAL_NODE, MAX_QDEVICE_EXTRA_INFO,
    MAX_QDEVICE_NAME, NodelistNotification, QdeviceExtraInfoNotification, QuorumNotification,
};
use corosync_ipc::votequorum::{NodeEntry, NodeState, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags};
use testbed::host::run;
use testbed::{
    GENERATIONS, HostKind, Setup, Version, cs, eventually, invalid, next_that, since, waiting,
};

use crate::quorum::{all_track_flags, tells_changes, tells_present};

testbed::on_each_host! {
    the_node_tells_its_votes;
    votequorums_present_state_comes_as_the_flags_say;
    wrong_names_of_quorum_devices_are_refused;
    votes_are_changed_and_told, votes_change();
    a_quorum_device_decides_or_is_refused, device();
    votes_of_the_quorum_device_are_set_or_refused, Setup::new().own();
    extra_info_is_published_or_refused, device();
}

/// The first releases take other changes for sensible.
fn votes_change() -> Setup {
    since([2, 0, 0, 0]).own()
}

/// One vote of the node, one of the quorum device, and quorum is two.
fn device() -> Setup {
    Setup::new()
        .setting("quorum.expected_votes", 3_u32)
        .setting("quorum.device.model", "net")
        .setting("quorum.device.votes", 1_u32)
}

#[test]
fn every_generation_of_libqb_is_spoken() {
    for generation in GENERATIONS {
        run(HostKind::Embedded, votes_are_changed_and_told, Setup::new().generation(generation));
    }
}

const US: NodeId = NodeId(1);

fn the_node_tells_its_votes(endpoint: &Endpoint) {
    let client = Client::connect_to(&endpoint.clone().ring_size(4096)).unwrap();
    let info = client.info(US).unwrap();
    assert_eq!(info.node_id, US);
    assert!(matches!(info.state, Some(NodeState::MEMBER) | None), "{info:?}");
    assert_eq!((info.votes, info.expected_votes, info.highest_expected), (1, 1, 1));
    assert_eq!((info.total_votes, info.quorum), (1, 1));
    assert_eq!((info.qdevice_votes, info.qdevice_name.as_str()), (0, ""));
    assert_eq!(info.flags, InfoFlags::QUORATE);
    assert_eq!(client.local_info().unwrap(), info);
    assert_eq!(client.info(LOCAL_NODE).unwrap(), info);
    for unknown in [NodeId(2), NodeId(u32::MAX - 1)] {
        assert_eq!(cs(client.info(unknown)), CsError::NotExist);
    }
    assert_eq!(client.local_info().unwrap(), info);
}

fn votequorums_present_state_comes_as_the_flags_say(endpoint: &Endpoint, version: Version) {
    // Older daemons do not tell the members of the ring before quorum.
    let nodelist = version >= [2, 4, 0, 0];
    for (flags, context) in all_track_flags().zip(u64::MAX - 20..) {
        let client = Client::connect_to(&endpoint.clone().ring_size(4096)).unwrap();
        let us = NodeEntry { node_id: US, state: NodeState::MEMBER };
        let check = || {
            let mut told = waiting(&client).into_iter();
            if tells_present(flags) {
                if nodelist {
                    let members = vec![US];
                    match told.next().unwrap() {
                        Event::Nodelist(NodelistNotification {
                            ring_id,
                            context: told,
                            members: ids,
                        }) => {
                            assert_eq!((ring_id.node_id, told, ids), (US, context, members));
                            assert!(ring_id.seq > 0);
                        }
                        other => panic!("{flags:?}: {other:?}"),
                    }
                }
                assert_eq!(
                    told.next(),
                    Some(Event::Quorum(QuorumNotification {
                        context,
                        quorate: true,
                        nodes: vec![us]
                    })),
                    "{flags:?}"
                );
            }
            assert_eq!(told.next(), None, "{flags:?}");
        };
        client.track_start(context, flags).unwrap();
        check();
        if tells_changes(flags) {
            assert_eq!(cs(client.track_start(context, flags)), CsError::Exist, "{flags:?}");
        } else {
            client.track_start(context, flags).unwrap();
        }
        check();
        assert_eq!(client.local_info().unwrap().node_id, US);
        let stopped = client.track_stop();
        if tells_changes(flags) {
            stopped.unwrap();
        } else {
            assert_eq!(cs(stopped), CsError::NotExist);
        }
        assert_eq!(cs(client.track_stop()), CsError::NotExist);
        client.track_start(context, flags).unwrap();
        check();
    }
}

fn votes_are_changed_and_told(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    let watchers: Vec<_> = all_track_flags()
        .zip(100..)
        .map(|(flags, context)| {
            let watcher = Client::connect_to(endpoint).unwrap();
            watcher.track_start(context, flags).unwrap();
            waiting(&watcher);
            (flags, context, watcher)
        })
        .collect();
    let votes = || {
        let info = client.local_info().unwrap();
        (info.votes, info.expected_votes, info.highest_expected, info.total_votes, info.quorum)
    };
    // The votes as they must become, and the expected votes that trackers are told on the way.
    let check = |expected: (u32, u32, u32, u32, u32), told: &[u32]| {
        eventually(&format!("votes are {expected:?}"), || votes() == expected);
        for (flags, context, watcher) in &watchers {
            // Older servers tell of quorum whenever they look at the votes.
            let expected_votes = |event| match event {
                Event::ExpectedVotes(ExpectedVotesNotification { context, expected_votes }) => {
                    Some((context, expected_votes))
                }
                Event::Quorum(QuorumNotification { quorate: true, .. }) => None,
                other => panic!("{other:?}"),
            };
            for votes in told.iter().filter(|_| tells_changes(*flags)) {
                assert_eq!(next_that(watcher, expected_votes), (*context, *votes), "{flags:?}");
            }
            assert_eq!(waiting(watcher).into_iter().find_map(expected_votes), None, "{flags:?}");
        }
    };
    check((1, 1, 1, 1, 1), &[]);
    // More than there are would end quorum.
    assert_eq!(cs(client.set_expected(2)), CsError::InvalidParam);
    assert_eq!(cs(client.set_votes(NodeId(77), 1)), CsError::NameNotFound);
    check((1, 1, 1, 1, 1), &[]);

    client.set_votes(US, 3).unwrap();
    check((3, 3, 3, 3, 2), &[3]);
    client.set_expected(5).unwrap();
    check((3, 5, 5, 3, 3), &[5]);
    assert_eq!(cs(client.set_expected(6)), CsError::InvalidParam);
    client.set_votes(LOCAL_NODE, 4).unwrap();
    check((4, 5, 5, 4, 3), &[]);
    client.set_expected(4).unwrap();
    check((4, 4, 4, 4, 3), &[4]);
    assert_eq!(cs(client.set_votes(US, 1)), CsError::InvalidParam);
    client.set_votes(US, 3).unwrap();
    check((3, 4, 4, 3, 3), &[]);
    client.set_expected(3).unwrap();
    check((3, 3, 3, 3, 2), &[3]);
    client.set_votes(US, 2).unwrap();
    check((2, 3, 3, 2, 2), &[]);
    client.set_expected(2).unwrap();
    check((2, 2, 2, 2, 2), &[2]);

    for (flags, _, watcher) in &watchers {
        if tells_changes(*flags) {
            watcher.track_stop().unwrap();
        }
    }
    client.set_votes(US, 5).unwrap();
    eventually("votes", || votes() == (5, 5, 5, 5, 3));
    assert!(watchers.iter().all(|(_, _, watcher)| waiting(watcher).is_empty()));
}

fn wrong_names_of_quorum_devices_are_refused(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for name in ["", "nul\0", &"x".repeat(MAX_QDEVICE_NAME + 1)] {
        assert_eq!(invalid(client.qdevice_register(name)), "name");
        assert_eq!(invalid(client.qdevice_unregister(name)), "name");
        assert_eq!(invalid(client.qdevice_update(name, "new")), "old name");
        assert_eq!(invalid(client.qdevice_update("old", name)), "new name");
        assert_eq!(invalid(client.qdevice_poll(name, true, RingId::default())), "name");
        assert_eq!(invalid(client.qdevice_master_wins(name, true)), "name");
    }
    assert_eq!(
        invalid(client.set_qdevice_extra_info(vec![0; MAX_QDEVICE_EXTRA_INFO + 1])),
        "extra info"
    );
}

fn votes_of_the_quorum_device_are_set_or_refused(endpoint: &Endpoint, version: Version) {
    let client = Client::connect_to(endpoint).unwrap();
    if version < [2, 4, 0, 0] {
        let refused = client.set_qdevice_votes(2);
        return assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    client.set_qdevice_votes(2).unwrap();
    eventually("votes of the device", || client.local_info().unwrap().qdevice_votes == 2);
    assert_eq!(client.local_info().unwrap().votes, 1);
}

fn a_quorum_device_decides_or_is_refused(endpoint: &Endpoint, version: Version) {
    let client = Client::connect_to(endpoint).unwrap();
    if version < [2, 4, 0, 0] {
        let refused = client.qdevice_register("device");
        return assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    let quorum = corosync_ipc::quorum::Client::connect_to(endpoint).unwrap();
    let device_flags = || {
        let info = client.local_info().unwrap();
        InfoFlags::from_bits(info.flags.bits() & !InfoFlags::QUORATE.bits())
    };
    let (name, new_name) = ("device", "n".repeat(MAX_QDEVICE_NAME));

    client.track_start(9, TrackFlags::CURRENT).unwrap();
    let ring_id = next_that(&client, |event| match event {
        Event::Nodelist(NodelistNotification { ring_id, .. }) => Some(ring_id),
        _ => None,
    });
    waiting(&client);
    client.track_start(9, TrackFlags::CHANGES_ONLY).unwrap();
    assert!(!quorum.is_quorate().unwrap());
    assert_eq!(device_flags(), InfoFlags::empty());
    assert_eq!(cs(client.qdevice_poll(name, true, ring_id)), CsError::NotExist);
    assert_eq!(cs(client.qdevice_update(name, &new_name)), CsError::NotExist);
    assert_eq!(cs(client.qdevice_master_wins(name, true)), CsError::NotExist);
    assert_eq!(cs(client.qdevice_unregister(name)), CsError::NotExist);

    client.qdevice_register(name).unwrap();
    client.qdevice_register(name).unwrap();
    assert_eq!(cs(client.qdevice_register("other")), CsError::Exist);
    eventually("the device is registered", || device_flags() == InfoFlags::QDEVICE_REGISTERED);
    let info = client.local_info().unwrap();
    assert_eq!(
        (info.qdevice_name.as_str(), info.qdevice_votes, info.total_votes, info.quorum),
        (name, 1, 1, 2)
    );
    assert!(!quorum.is_quorate().unwrap());

    let over = RingId { seq: ring_id.seq + 4, ..ring_id };
    assert_eq!(cs(client.qdevice_poll(name, true, over)), CsError::MessageError);
    assert_eq!(
        cs(client.qdevice_poll(name, true, RingId { node_id: NodeId(2), ..ring_id })),
        CsError::MessageError
    );
    assert_eq!(cs(client.qdevice_poll("other", true, ring_id)), CsError::InvalidParam);
    assert_eq!(waiting(&client), []);
    let told = |quorate| {
        let (context, nodes) = next_that(&client, |event| match event {
            Event::Quorum(QuorumNotification { context, quorate: told, nodes }) => {
                (told == quorate).then_some((context, nodes))
            }
            other => panic!("{other:?}"),
        });
        let ids: Vec<_> = nodes.iter().map(|node| node.node_id).collect();
        assert_eq!((context, ids), (9, vec![US, QDEVICE_NODE_ID]));
    };
    client.qdevice_poll(name, true, ring_id).unwrap();
    told(true);
    assert!(quorum.is_quorate().unwrap());
    let voting =
        InfoFlags::QDEVICE_REGISTERED | InfoFlags::QDEVICE_ALIVE | InfoFlags::QDEVICE_CAST_VOTE;
    assert_eq!(device_flags(), voting);
    assert_eq!(client.local_info().unwrap().total_votes, 2);
    client.qdevice_poll(name, false, ring_id).unwrap();
    told(false);
    assert!(!quorum.is_quorate().unwrap());
    assert_eq!(device_flags(), InfoFlags::QDEVICE_REGISTERED | InfoFlags::QDEVICE_ALIVE);
    assert_eq!(client.local_info().unwrap().total_votes, 1);

    assert_eq!(cs(client.qdevice_master_wins("other", true)), CsError::InvalidParam);
    client.qdevice_master_wins(name, true).unwrap();
    eventually("master wins", || device_flags().contains(InfoFlags::QDEVICE_MASTER_WINS));
    client.qdevice_master_wins(name, false).unwrap();
    eventually("master wins no more", || !device_flags().contains(InfoFlags::QDEVICE_MASTER_WINS));

    assert_eq!(cs(client.qdevice_update("other", &new_name)), CsError::InvalidParam);
    client.qdevice_update(name, &new_name).unwrap();
    eventually("the device has its new name", || {
        client.local_info().unwrap().qdevice_name == new_name
    });
    client.qdevice_poll(&new_name, true, ring_id).unwrap();
    told(true);
    assert_eq!(cs(client.qdevice_unregister(name)), CsError::InvalidParam);
    client.qdevice_unregister(&new_name).unwrap();
    eventually("the device is gone", || {
        let info = client.local_info().unwrap();
        !info.flags.intersects(voting | InfoFlags::QUORATE) && info.qdevice_name.is_empty()
    });
    client.qdevice_register("other").unwrap();
    client.qdevice_unregister("other").unwrap();
    client.track_stop().unwrap();
}

fn extra_info_is_published_or_refused(endpoint: &Endpoint, version: Version) {
    let client = Client::connect_to(endpoint).unwrap();
    if version <= [3, 1, 10, 0] {
        let results =
            [client.set_qdevice_extra_info("info").err(), client.qdevice_extra_info(US).err()];
        for result in results {
            assert!(matches!(result, Some(Error::Unsupported { .. })), "{result:?}");
        }
        client.local_info().unwrap();
        return;
    }
    client.track_start(3, TrackFlags::CHANGES_ONLY).unwrap();
    assert_eq!(client.qdevice_extra_info(US).unwrap(), "");
    assert_eq!(cs(client.qdevice_extra_info(NodeId(77))), CsError::NotExist);
    assert_eq!(cs(client.set_qdevice_extra_info("nobody's")), CsError::NotExist);
    client.qdevice_register("device").unwrap();
    for extra_info in [vec![1, 0, 255], vec![7; MAX_QDEVICE_EXTRA_INFO], vec![]] {
        client.set_qdevice_extra_info(extra_info.clone()).unwrap();
        let told = next_that(&client, |event| match event {
            Event::QdeviceExtraInfo(QdeviceExtraInfoNotification {
                context: 3,
                node_id: US,
                extra_info,
            }) => Some(extra_info),
            _ => None,
        });
        assert_eq!(told, extra_info);
        assert_eq!(client.qdevice_extra_info(US).unwrap(), extra_info);
        let flags = client.local_info().unwrap().flags;
        assert_eq!(flags.contains(InfoFlags::QDEVICE_HAS_EXTRA_INFO), !extra_info.is_empty());
    }
    client.qdevice_unregister("device").unwrap();
}
