//! The services of corosync as state machines without I/O. Inputs are requests, multicasts,
//! memberships and time. Outputs are replies, events and multicasts, in the order in which the
//! daemon sends them.

#![forbid(unsafe_code)]

mod cfg;
mod cmap;
mod config;
mod cpg;
mod evs;
mod icmap;
mod quorum;
mod services;
mod stats;
mod trackers;
mod votequorum;

pub(crate) use config::{Config, NodeConfig, Version};
pub(crate) use services::{Node, ServiceId, SyncStep};

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use crate::codec::{CS_OK, Header, encode_refusal};
use crate::error::CsError;
use crate::wire::Message;
use crate::wire::values::{NodeId, RingId};
use icmap::Icmap;
use trackers::{Notice, Watcher};

/// The number of a client's connection, which identifies the client for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientNumber(pub(crate) u64);

/// Output of a node, to its clients and to the other nodes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeOutput {
    /// Send a client a reply, followed by `zeros` zero bytes. A reply that does not fit in the ring
    /// is lost, as in the daemon.
    Reply { client: ClientNumber, message: Vec<u8>, zeros: u64 },
    /// Send a client an event.
    Event { client: ClientNumber, message: Vec<u8> },
    /// Send a message to all members of the ring, this node included.
    Multicast(Exec),
    /// End the daemon.
    Exit(Ending),
}

/// The way a daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At once, as by SIGKILL.
    Killed,
    /// In good order: it tells the other nodes first.
    Stopped,
}

/// A message between the services of nodes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Exec {
    /// The version of the sender's configuration.
    ConfigVersion(u64),
    Cfg(cfg::Exec),
    Cpg(cpg::Exec),
    Votequorum(votequorum::Exec),
    Evs(evs::Exec),
}

impl Exec {
    /// The service's name and the message's number in the map's counters.
    fn counted_as(&self) -> (&'static str, u32) {
        match self {
            Self::ConfigVersion(_) => ("cmap", 0),
            Self::Cfg(exec) => ("cfg", exec.number()),
            Self::Cpg(exec) => ("cpg", exec.number()),
            Self::Votequorum(exec) => ("votequorum", exec.number()),
            Self::Evs(_) => ("evs", 0),
        }
    }
}

/// A membership as totem reports it. The lists are sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Membership {
    pub(crate) ring_id: RingId,
    pub(crate) members: Vec<NodeId>,
    pub(crate) joined: Vec<NodeId>,
    pub(crate) left: Vec<NodeId>,
    /// The members that were in the same ring as this node before.
    pub(crate) transitional: Vec<NodeId>,
}

/// What a service uses besides its own state: time, the map and the outputs.
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    pub(crate) icmap: &'a mut Icmap,
    outputs: &'a mut Vec<NodeOutput>,
    /// Pending notices: one for a service, and those that must follow it.
    pending: &'a mut VecDeque<Notice>,
}

impl Context<'_> {
    /// Replies with a message and `CS_OK`.
    fn reply<M: Message>(&mut self, client: ClientNumber, message: &M) {
        self.reply_with(client, message, Ok(()));
    }

    /// Replies with a message and a status.
    fn reply_with<M: Message>(
        &mut self,
        client: ClientNumber,
        message: &M,
        status: Result<(), CsError>,
    ) {
        self.reply_padded(client, message, status, 0);
    }

    /// Replies with a message whose last field is padded with `zeros` zero bytes.
    fn reply_padded<M: Message>(
        &mut self,
        client: ClientNumber,
        message: &M,
        status: Result<(), CsError>,
        zeros: u64,
    ) {
        let Some(mut message) = encode(message) else {
            return self.refuse(client, M::ID, CsError::Library);
        };
        let status = status.map_or_else(CsError::raw, |()| CS_OK);
        Header::set_status(&mut message, status);
        if zeros > 0 {
            let size = (message.len() as u64).saturating_add(zeros) as u32;
            Header::set_size(&mut message, size);
        }
        self.outputs.push(NodeOutput::Reply { client, message, zeros });
    }

    /// Overwrites the size in the header of the last reply.
    fn claim_size(&mut self, size: u32) {
        if let Some(NodeOutput::Reply { message, .. }) = self.outputs.last_mut() {
            Header::set_size(message, size);
        }
    }

    /// Replies with a bare header.
    fn refuse(&mut self, client: ClientNumber, id: i32, status: CsError) {
        let message = encode_refusal(id, status).unwrap_or_default();
        self.outputs.push(NodeOutput::Reply { client, message, zeros: 0 });
    }

    fn event<M: Message>(&mut self, client: ClientNumber, message: &M) {
        self.outputs.extend(encode(message).map(|message| NodeOutput::Event { client, message }));
    }

    /// Sends a message to all members and counts it.
    fn multicast(&mut self, exec: Exec) {
        let (service, number) = exec.counted_as();
        self.count(service, number, "tx");
        self.outputs.push(NodeOutput::Multicast(exec));
    }

    fn count(&mut self, service: &str, number: u32, direction: &str) {
        let notices = self.icmap.count(&format!("runtime.services.{service}.{number}.{direction}"));
        self.notify(notices);
    }

    /// Sets one of the daemon's own keys.
    fn set(&mut self, key: &str, value: impl Into<crate::cmap::Value>) {
        let notices = self.icmap.set(key.as_bytes(), &icmap::raw(value));
        self.notify(notices.unwrap_or_default());
    }

    /// Delivers notices in order. The first one for votequorum, which this context cannot reach,
    /// and all after it stay pending until the current step ends.
    fn notify(&mut self, notices: Vec<Notice>) {
        let mut notices = notices.into_iter();
        while let Some(notice) = notices.next() {
            match notice.watcher {
                Watcher::Client { client, instance } => {
                    let Notice { event, key, new, old, .. } = notice;
                    let message = crate::wire::cmap::NotifyCallback {
                        track_inst_handle: instance,
                        key_name: key,
                        event,
                        new_value: new,
                        old_value: old,
                    };
                    self.event(client, &message);
                }
                Watcher::ConfigVersion => cmap::Cmap::send_config_version(self),
                Watcher::Votequorum => {
                    let rest: Vec<_> = std::iter::once(notice).chain(notices).collect();
                    rest.into_iter().rev().for_each(|notice| self.pending.push_front(notice));
                    return;
                }
            }
        }
    }
}

/// Encodes a message. The server's own messages always fit their layout; one that did not would not
/// be sent.
fn encode<M: Message>(message: &M) -> Option<Vec<u8>> {
    let encoded = message.encode();
    debug_assert!(encoded.is_ok(), "{}: {encoded:?}", M::NAME);
    encoded.ok()
}

/// Returns the bytes before the first NUL, as C reads a string.
fn c_string(bytes: &Bytes) -> Bytes {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.slice(..end)
}
