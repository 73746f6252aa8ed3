//! What the tests have in common.

use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use corosync_ipc::cpg::{
    Address, Client, Confchg, Deliver, Event, GroupName, Guarantee, Options, Reason,
};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, cmap};
use testbed::{Random, Setup, WATCHDOG};

pub(crate) use testbed::{next, next_or_error};

/// A group of its own for each test.
pub(crate) fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// A pid of its own for each client of this process, above all that real processes have.
pub(crate) fn own_pid() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0x4000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn own_options() -> Options {
    Options::new().pid(own_pid())
}

/// Nodes for many messages. How many are sent in one round of the token is what limits them on a
/// busy machine, where a round takes long: by default 50, of 1400 bytes, and 17 of a node.
pub(crate) fn busy(nodes: u32) -> Setup {
    let setup = Setup::new().nodes(nodes);
    setup.setting("totem.window_size", 150_u32).setting("totem.max_messages", 75_u32)
}

/// A client that is in no group. It waits as long as a test does: on a busy machine the daemon's
/// queue is full for long, and takes no fragment meanwhile.
pub(crate) fn connect(endpoint: &Endpoint) -> Client {
    let client = Client::connect_with(endpoint, own_options()).unwrap();
    client.set_request_timeout(WATCHDOG);
    client
}

/// A client that is a member, with the change by which it became one.
pub(crate) fn join(endpoint: &Endpoint, group: &GroupName) -> Client {
    let client = connect(endpoint);
    client.join(group).unwrap();
    let event = next(&client);
    let Event::Confchg(Confchg { joined, .. }) = &event else { panic!("{event:?}") };
    assert_eq!((joined.len(), joined[0].pid), (1, client.pid()), "{event:?}");
    client
}

/// The next message, passing over changes of the cluster's membership: a daemon that was stopped
/// finds its node again.
#[track_caller]
pub(crate) fn next_message(client: &Client) -> Bytes {
    loop {
        match next(client) {
            Event::Deliver(Deliver { payload, .. }) => return payload,
            Event::TotemConfchg(_) => {}
            event => panic!("{event:?}"),
        }
    }
}

/// A change of a group's membership, its members told by node and pid.
#[derive(Debug, PartialEq)]
pub(crate) struct Change {
    pub(crate) members: Vec<(u32, u32)>,
    pub(crate) left: Vec<(u32, u32, Reason)>,
    pub(crate) joined: Vec<(u32, u32, Reason)>,
}

/// The next change of the group's membership; what else comes is passed over.
#[track_caller]
pub(crate) fn next_change(client: &Client) -> Change {
    loop {
        if let Event::Confchg(Confchg { members, left, joined, .. }) = next(client) {
            let with_reason = |list: Vec<Address>| {
                list.iter().map(|one| (one.node_id.0, one.pid, one.reason)).collect()
            };
            let mut members: Vec<_> =
                members.iter().map(|member| (member.node_id.0, member.pid)).collect();
            members.sort_unstable();
            return Change { members, left: with_reason(left), joined: with_reason(joined) };
        }
    }
}

/// Whether the daemon passes on messages in fragments, as corosync does since 2.3.5: cpg's seventh
/// message between nodes.
pub(crate) fn has_fragments(endpoint: &Endpoint) -> bool {
    cmap::Client::connect_to(endpoint).unwrap().get("runtime.services.cpg.6.rx").unwrap().is_some()
        || is_since_2_99(endpoint)
}

/// Whether it is a corosync 3.
pub(crate) fn is_since_2_99(endpoint: &Endpoint) -> bool {
    cmap::Client::connect_to(endpoint).unwrap().get("runtime.connections.active").unwrap().is_none()
}

/// Bytes that differ from those of any other seed and are in the wrong order if a piece is.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    // An even seed is that of its neighbour.
    let mut random = Random::new(2 * seed + 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&random.word().to_ne_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn send(client: &Client, message: &[u8]) {
    client.multicast(Guarantee::AGREED, message).unwrap();
}

#[track_caller]
pub(crate) fn assert_cs<T: std::fmt::Debug>(result: Result<T, Error>, expected: CsError) {
    match result {
        Err(Error::Cs { error, .. }) if error == expected => {}
        other => panic!("{expected} was expected, not {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_invalid<T: std::fmt::Debug>(result: Result<T, Error>, expected: &str) {
    match result {
        Err(Error::InvalidArgument { argument, .. }) if argument == expected => {}
        other => panic!("{expected} should be named, not {other:?}"),
    }
}

pub(crate) const ONE: NodeId = NodeId(1);
