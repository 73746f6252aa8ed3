//! What clients of quorum do and see, whoever serves them.

use corosync_ipc::quorum::{
    Client, Event, Model, NodelistNotification, Notification, Options, QuorumNotification,
    QuorumType,
};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags};
use testbed::{Version, cs, next, next_that, shared_one, skip, version, waiting};

testbed::on_each_host! {
    the_node_is_quorate;
    the_present_state_comes_as_the_flags_say;
    model_v1_tells_rings_or_is_refused;
    the_nodelist_of_model_v1_comes_apart_on_request;
}

/// The first corosync with the model V1.
const MODEL_V1: Version = [3, 1, 0, 0];

#[test]
fn the_ring_is_the_tools_ring() {
    if skip() || version() < MODEL_V1 {
        return;
    }
    let node = shared_one().node(1);
    let theirs = node.membership().unwrap();
    assert_eq!(node.run(|| ring(&Endpoint::new())).to_string(), theirs.ring);
}

/// Every combination of the track flags.
pub(crate) fn all_track_flags() -> impl Iterator<Item = TrackFlags> {
    (0..8).map(TrackFlags::from_bits)
}

/// Whether the present state is sent.
pub(crate) fn tells_present(flags: TrackFlags) -> bool {
    flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES)
}

/// Whether changes are sent.
pub(crate) fn tells_changes(flags: TrackFlags) -> bool {
    flags.intersects(TrackFlags::CHANGES | TrackFlags::CHANGES_ONLY)
}

fn the_node_is_quorate(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    assert!(client.is_quorate().unwrap());
    assert_eq!(client.quorum_type(), QuorumType::SET);
}

fn the_present_state_comes_as_the_flags_say(endpoint: &Endpoint) {
    for flags in all_track_flags() {
        let client = Client::connect_to(&endpoint.clone().ring_size(4096)).unwrap();
        let check = || match waiting(&client).as_slice() {
            [] => assert!(!tells_present(flags), "{flags:?}"),
            [Event::Notification(Notification { quorate: true, ring_seq: 1.., members })] => {
                assert!(tells_present(flags) && *members == [NodeId(1)], "{flags:?} {members:?}");
            }
            other => panic!("{flags:?}: {other:?}"),
        };
        client.track_start(flags).unwrap();
        check();
        if tells_changes(flags) {
            assert_eq!(cs(client.track_start(flags)), CsError::Exist, "{flags:?}");
        } else {
            client.track_start(flags).unwrap();
        }
        check();
        assert!(client.is_quorate().unwrap());
        client.track_stop().unwrap();
        client.track_start(flags).unwrap();
        check();
        // Other than votequorum, quorum does not mind when notifications are off.
        client.track_stop().unwrap();
        client.track_stop().unwrap();
        assert_eq!(waiting(&client), []);
    }
}

fn model_v1_tells_rings_or_is_refused(endpoint: &Endpoint, version: Version) {
    for flags in all_track_flags() {
        let client = match Client::connect_with(endpoint, Options::new().model(Model::V1)) {
            Err(Error::Unsupported { .. }) => return assert!(version < MODEL_V1),
            client => client.unwrap(),
        };
        assert!(version >= MODEL_V1);
        assert_eq!(client.quorum_type(), QuorumType::SET);
        assert!(client.is_quorate().unwrap());
        client.track_start(flags).unwrap();
        if tells_present(flags) {
            let Event::Quorum(quorum) = next(&client) else { panic!("not the whole state first") };
            let ring_id = quorum.ring_id;
            assert_eq!(ring_id.node_id, NodeId(1));
            assert!(ring_id.seq > 0);
            let (members, none) = (vec![NodeId(1)], Vec::new());
            let nodelist = NodelistNotification {
                ring_id,
                members: members.clone(),
                joined: none.clone(),
                left: none,
            };
            let expected =
                QuorumNotification { quorate: true, ring_id, members, nodelist: Some(nodelist) };
            assert_eq!(quorum, expected);
        }
        assert_eq!(waiting(&client), [], "{flags:?}");
        if tells_changes(flags) {
            assert_eq!(cs(client.track_start(TrackFlags::empty())), CsError::Exist);
            assert_eq!(waiting(&client), [], "{flags:?}");
            // Once more while notifications are on.
            assert_eq!(cs(client.track_start(TrackFlags::CHANGES)), CsError::Exist);
            let now = waiting(&client);
            assert!(matches!(&*now, [Event::Quorum(now)] if now.nodelist.is_some()), "{now:?}");
        }
        client.track_stop().unwrap();
    }
}

fn the_nodelist_of_model_v1_comes_apart_on_request(endpoint: &Endpoint, version: Version) {
    if version < MODEL_V1 {
        return;
    }
    let options = Options::new().model(Model::V1).nodelist_apart(true);
    let client = Client::connect_with(endpoint, options).unwrap();
    for _ in 0..2 {
        client.track_start(TrackFlags::CURRENT).unwrap();
        let Event::Nodelist(nodelist) = next(&client) else { panic!("not the nodelist first") };
        let Event::Quorum(quorum) = next(&client) else { panic!("no quorum behind it") };
        assert_eq!(nodelist.members, [NodeId(1)]);
        assert_eq!((quorum.ring_id, quorum.nodelist), (nodelist.ring_id, None));
        assert_eq!(waiting(&client), []);
    }
}

/// The ring a server is on, by model v1.
fn ring(endpoint: &Endpoint) -> RingId {
    let client = Client::connect_with(endpoint, Options::new().model(Model::V1)).unwrap();
    client.track_start(TrackFlags::CURRENT).unwrap();
    next_that(&client, |event| match event {
        Event::Quorum(quorum) => Some(quorum.ring_id),
        _ => None,
    })
}
