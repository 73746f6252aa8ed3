//! `corosync-ipc quorum watch`: the notifications of quorum and votequorum.

use std::iter;

use corosync_ipc::quorum::Ring;
use corosync_ipc::snapshot::connect_votequorum;
use corosync_ipc::votequorum::{self, NodeEntry, QDEVICE_NODE_ID};
use corosync_ipc::{Endpoint, Error, NodeId, TrackFlags, UnknownEvent, quorum, within};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{add_payload, words};
use crate::report::ring_json;
use crate::watch::{Line, Watch, ids};

/// Prints notifications until `count` of them were printed.
pub(crate) fn run(context: &Context, count: Option<u64>) -> Result<(), Failure> {
    let (quorum, votequorum) = within(context.deadline, || start(&context.endpoint))?;
    let mut watch = Watch::new(context, count)?;
    watch.add(quorum, |event| Ok(quorum_lines(event)))?;
    if let Some(votequorum) = votequorum {
        watch.add(votequorum, |event| Ok([votequorum_line(event)]))?;
    }
    watch.run()
}

/// Starts notifications. Without votequorum where it is not configured.
fn start(endpoint: &Endpoint) -> Result<(quorum::Client, Option<votequorum::Client>), Error> {
    let quorum = quorum::Client::connect_newest(endpoint)?;
    let votequorum = connect_votequorum(endpoint)?;
    quorum.track_start(TrackFlags::CHANGES)?;
    if let Some(votequorum) = &votequorum {
        votequorum.track_start(0, TrackFlags::CHANGES)?;
    }
    Ok((quorum, votequorum))
}

/// One line, or two for the present state, which includes the list of nodes.
fn quorum_lines(event: quorum::Event) -> impl Iterator<Item = Line> {
    const SERVICE: &str = "quorum";
    let quorum = |quorate: bool, ring: Ring, members: &[NodeId]| Line {
        event: "quorum",
        text: format!("{}, ring {}, members {}", quorate_text(quorate), ring, words(members)),
        members: json!({
            "service": SERVICE,
            "quorate": quorate,
            "ring_id": ring_json(ring),
            "members": ids(members),
        }),
    };
    let nodelist = |event: quorum::NodelistNotification| Line {
        event: "nodelist",
        text: format!(
            "ring {}, members {}, joined {}, left {}",
            event.ring_id,
            words(&event.members),
            words(&event.joined),
            words(&event.left)
        ),
        members: json!({
            "service": SERVICE,
            "ring_id": ring_json(event.ring_id),
            "members": ids(&event.members),
            "joined": ids(&event.joined),
            "left": ids(&event.left),
        }),
    };
    let mut second = None;
    let first = match event {
        quorum::Event::Notification(event) => {
            quorum(event.quorate, Ring { node_id: None, seq: event.ring_seq }, &event.members)
        }
        quorum::Event::Quorum(event) => {
            second = event.nodelist.map(nodelist);
            quorum(event.quorate, event.ring_id.into(), &event.members)
        }
        quorum::Event::Nodelist(event) => nodelist(event),
        quorum::Event::Unknown(UnknownEvent { id, message }) => {
            Line::unknown(SERVICE, id, &message)
        }
        // Events that this command does not know yet.
        _ => Line::unknown(SERVICE, 0, &[]),
    };
    iter::once(first).chain(second)
}

fn votequorum_line(event: votequorum::Event) -> Line {
    const SERVICE: &str = "votequorum";
    match event {
        votequorum::Event::Quorum(votequorum::QuorumNotification { quorate, nodes, .. }) => Line {
            event: "votequorum",
            text: format!(
                "{}, nodes {}",
                quorate_text(quorate),
                words(nodes.iter().map(node_text))
            ),
            members: json!({
                "service": SERVICE,
                "quorate": quorate,
                "nodes": nodes.iter().map(node_json).collect::<Json>(),
            }),
        },
        votequorum::Event::Nodelist(votequorum::NodelistNotification {
            ring_id, members, ..
        }) => Line {
            event: "votequorum_nodelist",
            text: format!("ring {}, members {}", ring_id, words(&members)),
            members: json!({ "service": SERVICE, "ring_id": ring_json(ring_id), "members": ids(&members) }),
        },
        votequorum::Event::ExpectedVotes(votequorum::ExpectedVotesNotification {
            expected_votes,
            ..
        }) => Line {
            event: "expected_votes",
            text: expected_votes.to_string(),
            members: json!({ "service": SERVICE, "expected_votes": expected_votes }),
        },
        votequorum::Event::QdeviceExtraInfo(votequorum::QdeviceExtraInfoNotification {
            node_id,
            extra_info,
            ..
        }) => {
            let mut members = json!({ "service": SERVICE, "node_id": node_id.0 });
            add_payload(&mut members, &extra_info);
            Line {
                event: "qdevice_extra_info",
                text: format!("node {node_id}, {} bytes", extra_info.len()),
                members,
            }
        }
        votequorum::Event::Unknown(UnknownEvent { id, message }) => {
            Line::unknown(SERVICE, id, &message)
        }
        // Events that this command does not know yet.
        _ => Line::unknown(SERVICE, 0, &[]),
    }
}

fn quorate_text(quorate: bool) -> &'static str {
    if quorate { "quorate" } else { "not quorate" }
}

/// The state of a node. The quorum device has none: the daemon sends 0.
fn state(node: &NodeEntry) -> Option<String> {
    (node.node_id != QDEVICE_NODE_ID).then(|| node.state.to_string())
}

fn node_text(node: &NodeEntry) -> String {
    state(node).map_or_else(|| "qdevice".to_owned(), |state| format!("{}={state}", node.node_id))
}

fn node_json(node: &NodeEntry) -> Json {
    json!({ "node_id": node.node_id.0, "state": state(node) })
}
