//! `corosync-ipc quorum watch`: the notifications of quorum and votequorum.

use std::iter;
use std::sync::{Arc, Weak};

use corosync_ipc::quorum::Ring;
use corosync_ipc::snapshot::connect_votequorum;
use corosync_ipc::supervise::VotequorumTracker;
use corosync_ipc::votequorum::{self, NodeEntry, QDEVICE_NODE_ID};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, TrackFlags, UnknownEvent, quorum};
use serde_json::{Value as Json, json};

use super::hook::{Hooks, QuorumHook};
use crate::context::Context;
use crate::failure::Failure;
use crate::hook::Exec;
use crate::output::{Cell, add_payload, words};
use crate::report::ring_json;
use crate::watch::{Clients, Line, Losing, Stay, Watch, Watcher, ids};

/// Prints notifications until `count` of them were printed, and runs a hook when quorum changes.
pub(crate) fn run(
    context: &Context,
    stay: &Stay,
    exec: Exec,
    count: Option<u64>,
) -> Result<(), Failure> {
    let mut watch = Watch::new(context, stay, count)?;
    let hooks = Hooks::start(exec, &mut watch, context)?;
    let hook = hooks.as_ref().map(Hooks::quorum);
    let watcher = QuorumWatcher { votequorum: Weak::new(), hook };
    watch.add(quorum::Client::connect_newest, [TrackFlags::CHANGES], watcher)?;
    Hooks::end(hooks, watch.run())
}

/// Prints what quorum notifies of, and has votequorum watched where that is configured.
struct QuorumWatcher {
    /// Held by what watches votequorum.
    votequorum: Weak<()>,
    hook: Option<QuorumHook>,
}

impl Losing for QuorumWatcher {
    fn lost(&mut self, why: &Json) {
        if let Some(hook) = &self.hook {
            hook.lost(why.clone());
        }
    }
}

impl Watcher for QuorumWatcher {
    type Client = quorum::Client;

    fn event(&mut self, _: &quorum::Client, event: quorum::Event) -> Result<Vec<Line>, Failure> {
        if let (Some(hook), Some(quorate)) = (&self.hook, quorate(&event)) {
            hook.tell(quorate);
        }
        Ok(quorum_lines(event).collect())
    }

    fn up(
        &mut self,
        _: &Arc<quorum::Client>,
        _: bool,
        clients: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        // The provider of quorum is another one only after a restart.
        if self.votequorum.upgrade().is_none() {
            let watcher = VotequorumWatcher(Arc::new(()));
            self.votequorum = Arc::downgrade(&watcher.0);
            let tracker = VotequorumTracker { context: 0, flags: TrackFlags::CHANGES };
            let connect = |endpoint: &Endpoint| {
                connect_votequorum(endpoint)?.ok_or_else(|| Error::Cs {
                    call: "votequorum".into(),
                    error: CsError::NotSupported,
                })
            };
            clients.add(connect, [tracker], watcher)?;
        }
        Ok(Vec::new())
    }

    fn name(&self, _: &TrackFlags) -> String {
        "quorum".to_owned()
    }
}

/// Prints what votequorum notifies of. Dropped where it is not configured.
struct VotequorumWatcher(Arc<()>);

impl Losing for VotequorumWatcher {
    fn is_absent(&self, error: &Error) -> bool {
        matches!(error, Error::Cs { error: CsError::NotSupported, .. })
    }
}

impl Watcher for VotequorumWatcher {
    type Client = votequorum::Client;

    fn event(
        &mut self,
        _: &votequorum::Client,
        event: votequorum::Event,
    ) -> Result<Vec<Line>, Failure> {
        Ok(vec![votequorum_line(event)])
    }

    fn name(&self, _: &VotequorumTracker) -> String {
        "votequorum".to_owned()
    }
}

/// Whether this node is quorate, if the event says that.
pub(crate) fn quorate(event: &quorum::Event) -> Option<bool> {
    match event {
        quorum::Event::Notification(event) => Some(event.quorate),
        quorum::Event::Quorum(event) => Some(event.quorate),
        _ => None,
    }
}

/// One line, or two for the present state, which includes the list of nodes.
pub(crate) fn quorum_lines(event: quorum::Event) -> impl Iterator<Item = Line> {
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

fn quorate_text(quorate: bool) -> Cell {
    if quorate { "quorate".into() } else { Cell::wrong("not quorate") }
}

/// The state of a node. The quorum device has none: the daemon sends 0.
fn node_state(node: &NodeEntry) -> Option<String> {
    (node.node_id != QDEVICE_NODE_ID).then(|| node.state.to_string())
}

fn node_text(node: &NodeEntry) -> String {
    node_state(node)
        .map_or_else(|| "qdevice".to_owned(), |state| format!("{}={state}", node.node_id))
}

fn node_json(node: &NodeEntry) -> Json {
    json!({ "node_id": node.node_id.0, "state": node_state(node) })
}
