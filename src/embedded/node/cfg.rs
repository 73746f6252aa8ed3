//! The cfg service, as exec/cfg.c. The daemon's configuration file never changes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::libc;

use super::{ClientNumber, Config, Context, Ending, NodeOutput};
use crate::cfg::ShutdownKind;
use crate::cmap::Value;
use crate::codec::CS_OK;
use crate::error::CsError;
use crate::wire::Message;
use crate::wire::cfg::{
    ADDRESS_SIZE, AnyRequest, GetRingStatus, Interface, KillNode, KillNodeReply, Link,
    LocalGetReply, MAX_LINKS, NODE_STATUS_V1, NodeAddressesReply, NodeStatusReply,
    ReloadConfigReply, ReopenLogFilesReply, ReplyToShutdownReply, RingReenableReply,
    RingStatusReply, TestShutdown, TrackStartReply, TrackStopReply, TryShutdown, TryShutdownReply,
};
use crate::wire::values::NodeId;

/// The largest packet of each transport in bytes: knet's to the node itself, knet's over Ethernet
/// (without knet's headers) and udpu's (without totem's).
const KNET_OWN_MTU: u32 = 65535;
const KNET_MTU: u32 = 1446;
const UDPU_MTU: u32 = 1410;

/// The time to answer a shutdown request, in milliseconds.
const DEFAULT_SHUTDOWN_TIMEOUT: u32 = 5000;

/// A message between nodes, numbered as in the daemon.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Exec {
    Kill(NodeId),
    Shutdown,
    /// Asked for by this client, which waits for the reply.
    Reload(ClientNumber),
}

impl Exec {
    pub(super) fn number(&self) -> u32 {
        match self {
            Self::Kill(_) => 1,
            Self::Shutdown => 2,
            Self::Reload(_) => 3,
        }
    }
}

/// A client that tracks shutdowns, and its answer to the pending one.
#[derive(Debug)]
struct Tracker {
    client: ClientNumber,
    answer: Option<bool>,
}

/// A pending shutdown.
#[derive(Debug)]
struct Shutdown {
    client: ClientNumber,
    kind: ShutdownKind,
    yes: i64,
    no: i64,
    expected: i64,
    until: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Cfg {
    us: NodeId,
    /// The addresses of the nodelist.
    addresses: BTreeMap<NodeId, String>,
    members: Vec<NodeId>,
    is_knet: bool,
    /// In the order in which they started tracking. The newest is notified first.
    trackers: Vec<Tracker>,
    /// The clients that have ever asked for a shutdown.
    requesters: Vec<ClientNumber>,
    shutdown: Option<Shutdown>,
}

impl Cfg {
    pub(crate) fn new(us: NodeId, config: &Config) -> Self {
        let addresses = config.nodes.iter().map(|node| (node.id, node.address.clone())).collect();
        Self {
            us,
            addresses,
            members: Vec::new(),
            is_knet: true,
            trackers: Vec::new(),
            requesters: Vec::new(),
            shutdown: None,
        }
    }

    pub(crate) fn start(&mut self, context: &mut Context<'_>) {
        self.is_knet = context
            .icmap
            .get_as::<String>("totem.transport")
            .is_none_or(|transport| transport == "knet");
    }

    /// Returns true if the transport is knet.
    pub(crate) fn is_knet(&self) -> bool {
        self.is_knet
    }

    /// The largest packet to a node over knet in bytes.
    pub(crate) fn knet_mtu(&self, id: NodeId) -> u32 {
        if id == self.us { KNET_OWN_MTU } else { KNET_MTU }
    }

    pub(crate) fn disconnect(&mut self, context: &mut Context<'_>, client: ClientNumber) {
        self.remove_tracker(context, client);
        self.requesters.retain(|other| *other != client);
    }

    pub(crate) fn configure(&mut self, members: &[NodeId]) {
        self.members = members.to_vec();
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.shutdown.as_ref().and_then(|shutdown| shutdown.until)
    }

    /// Ends the time to answer: a missing answer counts as no.
    pub(crate) fn timer(&mut self, context: &mut Context<'_>) {
        let Some(shutdown) = &mut self.shutdown else {
            return;
        };
        if shutdown.until.is_none_or(|until| until > context.now) {
            return;
        }
        shutdown.no = shutdown.expected;
        let kind = shutdown.kind;
        self.check_shutdown(context);
        // The daemon notifies only trackers that have asked for a shutdown themselves.
        let requesters = &self.requesters;
        for tracker in
            self.trackers.iter().rev().filter(|tracker| requesters.contains(&tracker.client))
        {
            context.event(
                tracker.client,
                &TestShutdown { status: CsError::Timeout.raw(), flags: kind },
            );
        }
    }

    /// The changes that a reload of an unchanged configuration makes to the map, in order.
    pub(crate) const RELOAD: [(&'static str, Value); 5] = [
        ("config.totemconfig_reload_in_progress", Value::U8(1)),
        ("config.reload_in_progress", Value::U8(1)),
        ("config.reload_status", Value::I32(CS_OK)),
        ("config.totemconfig_reload_in_progress", Value::U8(0)),
        ("config.reload_in_progress", Value::U8(0)),
    ];

    pub(crate) fn deliver(&mut self, context: &mut Context<'_>, from: NodeId, exec: Exec) {
        match exec {
            Exec::Kill(node) if node == self.us => {
                context.outputs.push(NodeOutput::Exit(Ending::Killed))
            }
            Exec::Shutdown if from == self.us => {
                context.outputs.push(NodeOutput::Exit(Ending::Stopped))
            }
            Exec::Kill(_) | Exec::Shutdown => {}
            Exec::Reload(client) if from == self.us => context.reply(client, &ReloadConfigReply {}),
            Exec::Reload(_) => {}
        }
    }

    pub(crate) fn request(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        request: AnyRequest,
    ) {
        match request {
            AnyRequest::GetRingStatus(GetRingStatus {}) => {
                let name =
                    format!("0 {}", self.addresses.get(&self.us).map_or("", String::as_str)).into();
                let interface = Interface { name, status: self.ring_status() };
                context.reply(client, &RingStatusReply { interfaces: vec![interface] });
            }
            AnyRequest::RingReenable(_) => {
                context.reply_with(client, &RingReenableReply {}, Err(CsError::NotSupported));
            }
            AnyRequest::KillNode(KillNode { nodeid, .. }) => {
                let status =
                    context.icmap.get_as::<String>(&format!("runtime.members.{nodeid}.status"));
                let status = if status.as_deref() == Some("joined") {
                    Ok(())
                } else {
                    Err(CsError::NotExist)
                };
                if status.is_ok() {
                    context.multicast(super::Exec::Cfg(Exec::Kill(nodeid)));
                }
                context.reply_with(client, &KillNodeReply {}, status);
            }
            AnyRequest::TryShutdown(TryShutdown { flags }) => {
                self.try_shutdown(context, client, flags)
            }
            AnyRequest::ReplyToShutdown(request) => {
                let status = self.answer(client, request.response.0 != 0);
                if status.is_ok() {
                    self.check_shutdown(context);
                }
                context.reply_with(client, &ReplyToShutdownReply {}, status);
            }
            AnyRequest::GetNodeAddresses(request) => {
                self.node_addresses(context, client, request.nodeid)
            }
            AnyRequest::LocalGet(_) => {
                context.reply(client, &LocalGetReply { local_nodeid: self.us })
            }
            AnyRequest::ReloadConfig(_) => {
                context.multicast(super::Exec::Cfg(Exec::Reload(client)))
            }
            AnyRequest::ReopenLogFiles(_) => context.reply(client, &ReopenLogFilesReply {}),
            AnyRequest::GetNodeStatus(request) => {
                self.node_status(context, client, request.nodeid, request.version)
            }
            AnyRequest::TrackStart(_) => {
                self.track(context, client);
                context.reply(client, &TrackStartReply {});
            }
            AnyRequest::TrackStop(_) => {
                self.remove_tracker(context, client);
                context.reply(client, &TrackStopReply {});
            }
        }
    }

    // --- shutdown ---

    fn track(&mut self, context: &mut Context<'_>, client: ClientNumber) {
        if self.trackers.iter().any(|tracker| tracker.client == client) {
            return;
        }
        self.trackers.push(Tracker { client, answer: None });
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.expected += 1;
            context.event(client, &TestShutdown { status: CS_OK, flags: shutdown.kind });
        }
    }

    /// Removes a tracker, which counts as a yes. Matches `remove_ci_from_shutdown`.
    fn remove_tracker(&mut self, context: &mut Context<'_>, client: ClientNumber) {
        if self.shutdown.as_ref().is_some_and(|shutdown| shutdown.client == client) {
            self.shutdown = None;
        }
        let Some(index) = self.trackers.iter().position(|tracker| tracker.client == client) else {
            return;
        };
        let Tracker { answer, .. } = self.trackers.remove(index);
        if let Some(shutdown) = &mut self.shutdown {
            match answer {
                Some(true) => shutdown.yes -= 1,
                Some(false) => shutdown.no -= 1,
                None => {}
            }
            shutdown.yes += 1;
            self.check_shutdown(context);
        }
    }

    fn try_shutdown(
        &mut self,
        context: &mut Context<'_>,
        client: ClientNumber,
        kind: ShutdownKind,
    ) {
        if kind == ShutdownKind::IMMEDIATE {
            context.multicast(super::Exec::Cfg(Exec::Shutdown));
            return context.reply(client, &TryShutdownReply {});
        }
        if self.shutdown.is_some() {
            return context.reply_with(client, &TryShutdownReply {}, Err(CsError::Exist));
        }
        if !self.requesters.contains(&client) {
            self.requesters.push(client);
        }
        let mut expected = 0;
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.client != client) {
            tracker.answer = None;
            expected += 1;
        }
        let timeout =
            context.icmap.get_as::<u32>("cfg.shutdown_timeout").unwrap_or(DEFAULT_SHUTDOWN_TIMEOUT);
        let until =
            context.now.checked_add(Duration::from_millis(timeout.into())).filter(|_| expected > 0);
        self.shutdown = Some(Shutdown { client, kind, yes: 0, no: 0, expected, until });
        if expected == 0 {
            context.reply(client, &TryShutdownReply {});
            return context.multicast(super::Exec::Cfg(Exec::Shutdown));
        }
        for tracker in self.trackers.iter().rev().filter(|tracker| tracker.client != client) {
            context.event(tracker.client, &TestShutdown { status: CS_OK, flags: kind });
        }
    }

    fn answer(&mut self, client: ClientNumber, is_yes: bool) -> Result<(), CsError> {
        let shutdown = self.shutdown.as_mut().ok_or(CsError::Access)?;
        *(if is_yes { &mut shutdown.yes } else { &mut shutdown.no }) += 1;
        let tracker = self.trackers.iter_mut().find(|tracker| tracker.client == client);
        tracker.into_iter().for_each(|tracker| tracker.answer = Some(is_yes));
        Ok(())
    }

    /// Decides on the shutdown once all trackers have answered. Matches `check_shutdown_status`.
    fn check_shutdown(&mut self, context: &mut Context<'_>) {
        let is_decided = |shutdown: &mut Shutdown| shutdown.yes + shutdown.no >= shutdown.expected;
        let Some(shutdown) = self.shutdown.take_if(is_decided) else {
            return;
        };
        let is_confirmed =
            shutdown.yes >= shutdown.expected || shutdown.kind == ShutdownKind::REGARDLESS;
        let status = if is_confirmed { Ok(()) } else { Err(CsError::Busy) };
        context.reply_with(shutdown.client, &TryShutdownReply {}, status);
        if is_confirmed {
            context.multicast(super::Exec::Cfg(Exec::Shutdown));
        }
    }

    // --- nodes ---

    /// The state of this node's interface: with knet one character per node in the order of the
    /// nodelist, else a word.
    fn ring_status(&self) -> Bytes {
        if !self.is_knet {
            return Bytes::from_static(b"OK");
        }
        let state = |id: &NodeId| match id {
            id if *id == self.us => 'n',
            id if self.members.contains(id) => '3',
            _ => '1',
        };
        self.addresses.keys().map(state).collect::<String>().into()
    }

    fn node_addresses(&self, context: &mut Context<'_>, client: ClientNumber, id: NodeId) {
        let id = if id == NodeId(0) { self.us } else { id };
        let address = self.addresses.get(&id);
        let mut bytes = [0; ADDRESS_SIZE];
        let family = match address.map(|address| address.parse::<IpAddr>()) {
            Some(Ok(IpAddr::V4(address))) => {
                bytes.iter_mut().zip(address.octets()).for_each(|(byte, octet)| *byte = octet);
                libc::AF_INET
            }
            Some(Ok(IpAddr::V6(address))) => {
                bytes = address.octets();
                libc::AF_INET6
            }
            _ => {
                let reply = NodeAddressesReply { family: 0, addrs: Vec::new() };
                return context.reply_with(client, &reply, Err(CsError::NotExist));
            }
        };
        context.reply(client, &NodeAddressesReply { family: family as u32, addrs: vec![bytes] });
    }

    /// Matches `totempg_nodestatus_get`, which returns less without knet.
    fn node_status(
        &self,
        context: &mut Context<'_>,
        client: ClientNumber,
        id: NodeId,
        version: u32,
    ) {
        let address = self.addresses.get(&id);
        // The reply to a failed request is a bare header.
        if self.is_knet && address.is_none() {
            return context.refuse(client, NodeStatusReply::ID, CsError::FailedOperation);
        }
        if version != NODE_STATUS_V1 {
            return context.refuse(client, NodeStatusReply::ID, CsError::NotSupported);
        }
        let is_member = u8::from(self.members.contains(&id));
        let mut links: [Link; MAX_LINKS] = Default::default();
        if let (Some(link), Some(address)) = (links.first_mut(), address) {
            let text = |address: &str| Bytes::copy_from_slice(address.as_bytes());
            let our_address = self.addresses.get(&self.us).map_or("", String::as_str);
            // udpu reports the other node's address as this node's.
            let (mtu, source, destination) = if self.is_knet {
                (self.knet_mtu(id), our_address, address.as_str())
            } else {
                (UDPU_MTU, address.as_str(), "")
            };
            let (src_ipaddr, dst_ipaddr) = (text(source), text(destination));
            *link = Link {
                enabled: 1,
                connected: is_member,
                dynconnected: 0,
                mtu,
                src_ipaddr,
                dst_ipaddr,
            };
        }
        // The protocol versions are 0, as from a knet without such versions (Debian's).
        let status = NodeStatusReply {
            nodeid: id,
            reachable: is_member,
            remote: 0,
            external: 0,
            onwire_min: 0,
            onwire_max: 0,
            onwire_ver: 0,
            links,
        };
        context.reply(client, &status);
    }
}
