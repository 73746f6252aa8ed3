//! The feature `serde`: every value and event of the services survives a round trip.

use std::fmt::Debug;

use bytes::Bytes;
use corosync_ipc::{
    ClientStats, Credentials, CsError, Dispatch, NodeId, RingId, TrackFlags, UnknownEvent, cfg,
    cmap, cpg, evs, quorum, supervise, votequorum,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Serializes the value and reads it back. Returns what it became.
fn round_trip<T: Serialize + DeserializeOwned + Debug + PartialEq>(value: T) -> String {
    let json = serde_json::to_string(&value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), value, "{json}");
    json
}

const NODE: NodeId = NodeId(1);
const RING: RingId = RingId { node_id: NODE, seq: 8 };

fn unknown() -> UnknownEvent {
    UnknownEvent { id: 99, message: Bytes::from_static(b"message") }
}

#[test]
fn values_of_all_services_are_serialized() {
    assert_eq!(round_trip(NODE), "1");
    round_trip(RING);
    round_trip(CsError::TryAgain);
    round_trip(TrackFlags::CHANGES);
    round_trip(Dispatch::OneNonblocking);
    round_trip(Credentials { pid: 1, uid: 2, gid: 3 });
    round_trip(ClientStats::default());
    round_trip(supervise::SupervisedStats::default());
    round_trip(supervise::Missed::States);
    round_trip(supervise::CfgTracker);
    round_trip(supervise::VotequorumTracker { context: 7, flags: TrackFlags::CURRENT });
}

#[test]
fn cmap_is_serialized() {
    for value in [
        cmap::Value::U8(1),
        cmap::Value::F64(0.5),
        cmap::Value::String("text".into()),
        cmap::Value::Binary(Bytes::from_static(&[0, 255])),
    ] {
        round_trip(value);
    }
    round_trip(cmap::Map::Stats);
    round_trip(cmap::TrackEvents::ADD);
    round_trip(cmap::ValueType::UINT8);
    let entry = cmap::Entry { key: "key".into(), value_type: cmap::ValueType::UINT8, value_len: 1 };
    round_trip(entry);
    let mut list = cmap::Nodelist::default();
    list.local_position = Some(2);
    list.nodes.push(cmap::ConfiguredNode::default());
    list.nodes[0].node_id = Some(NODE);
    list.nodes[0].addresses.insert(1, "fd00::1".into());
    list.nodes[0].others.insert("rack".into(), cmap::Value::U8(7));
    round_trip(list);
    round_trip(cmap::Event::Unknown(unknown()));
}

#[test]
fn cpg_is_serialized() {
    let group = cpg::GroupName::new("group").unwrap();
    let address = cpg::Address { node_id: NODE, pid: 2, reason: cpg::Reason::JOIN };
    let (members, joined, left) = (vec![address], vec![address], vec![]);
    let payload = Bytes::from_static(b"payload");
    let deliver = cpg::Deliver { group, node_id: NODE, pid: 2, payload };
    round_trip(cpg::Event::Deliver(deliver));
    round_trip(cpg::Event::Confchg(cpg::Confchg { group, members, joined, left }));
    round_trip(cpg::Event::TotemConfchg(cpg::TotemConfchg { ring_id: RING, members: vec![NODE] }));
    let reason = cpg::Discard::TooLong;
    let discarded = cpg::Discarded { group, node_id: NODE, pid: 2, length: 3, reason };
    round_trip(cpg::Event::Discarded(discarded));
    round_trip(cpg::Event::Unknown(unknown()));
    round_trip(cpg::Iteration::Group(group));
    round_trip(cpg::Entry { group, node_id: NODE, pid: 2 });
    round_trip(cpg::Guarantee::AGREED);
}

#[test]
fn quorum_and_votequorum_are_serialized() {
    let members = vec![NODE];
    let nodelist = quorum::NodelistNotification {
        ring_id: RING,
        members: members.clone(),
        joined: members.clone(),
        left: vec![],
    };
    round_trip(quorum::Event::Nodelist(nodelist.clone()));
    let nodelist = Some(nodelist);
    let told = quorum::QuorumNotification {
        quorate: true,
        ring_id: RING,
        members: members.clone(),
        nodelist,
    };
    round_trip(quorum::Event::Quorum(told));
    let told = quorum::Notification { quorate: true, ring_seq: 8, members: members.clone() };
    round_trip(quorum::Event::Notification(told));
    round_trip(quorum::Event::Unknown(unknown()));
    round_trip(quorum::QuorumType::SET);
    round_trip(quorum::Model::V1);

    let context = 7;
    let nodes = vec![votequorum::NodeEntry { node_id: NODE, state: votequorum::NodeState::MEMBER }];
    let told = votequorum::QuorumNotification { context, quorate: true, nodes };
    round_trip(votequorum::Event::Quorum(told));
    let told = votequorum::NodelistNotification { context, ring_id: RING, members };
    round_trip(votequorum::Event::Nodelist(told));
    let told = votequorum::ExpectedVotesNotification { context, expected_votes: 3 };
    round_trip(votequorum::Event::ExpectedVotes(told));
    let extra_info = Bytes::from_static(b"info");
    let told = votequorum::QdeviceExtraInfoNotification { context, node_id: NODE, extra_info };
    round_trip(votequorum::Event::QdeviceExtraInfo(told));
    round_trip(votequorum::Event::Unknown(unknown()));
    round_trip(votequorum::Info {
        node_id: NODE,
        state: Some(votequorum::NodeState::MEMBER),
        votes: 1,
        expected_votes: 1,
        highest_expected: 1,
        total_votes: 1,
        quorum: 1,
        flags: votequorum::InfoFlags::QUORATE,
        qdevice_votes: 0,
        qdevice_name: String::new(),
    });
}

#[test]
fn cfg_and_evs_are_serialized() {
    let kind = cfg::ShutdownKind::REQUEST;
    round_trip(cfg::Event::Shutdown(cfg::Shutdown { kind }));
    round_trip(cfg::Event::ShutdownTimedOut(cfg::ShutdownTimedOut { kind }));
    round_trip(cfg::Event::Unknown(unknown()));
    round_trip(cfg::ShutdownAnswer::NO);
    let (address, status) = ("127.0.0.1".into(), "OK".into());
    round_trip(cfg::RingStatus { link: Some(0), address, status });
    let link = cfg::LinkStatus {
        link: 0,
        enabled: true,
        connected: true,
        dynconnected: false,
        mtu: 1446,
        source: "127.0.0.1".into(),
        destination: "127.0.0.2".into(),
    };
    round_trip(cfg::NodeStatus {
        node_id: NODE,
        reachable: true,
        remote: false,
        external: false,
        onwire_min: 1,
        onwire_max: 1,
        onwire_version: 1,
        links: vec![link],
    });

    let payload = Bytes::from_static(b"payload");
    round_trip(evs::Event::Deliver(evs::Deliver { node_id: NODE, payload }));
    let members = vec![NODE];
    let confchg = evs::Confchg { members: members.clone(), joined: members.clone(), left: vec![] };
    round_trip(evs::Event::Confchg(confchg));
    round_trip(evs::Event::Unknown(unknown()));
    round_trip(evs::Membership { local_node_id: NODE, members });
    round_trip(evs::GroupName::new("group").unwrap());
    round_trip(evs::Guarantee::AGREED);
}
