//! The cfg service: the state of nodes and links, reloading the configuration, and ending daemons.
//!
//! Matches libcfg. It works with corosync 1.99.3 and later; calls that came later say since when,
//! and fail with [`Error::Unsupported`] before anything is sent to a daemon that would not survive
//! them.
//!
//! ```no_run
//! use corosync_ipc::cfg::{Client, LOCAL_NODE};
//!
//! let client = Client::connect()?;
//! println!("node {}", client.local_node_id()?);
//! for address in client.node_addresses(LOCAL_NODE)? {
//!     println!("has the address {address}");
//! }
//! for link in client.ring_status()? {
//!     println!("link {:?} {}: {}", link.link, link.address, link.status);
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! # Taking part in a shutdown
//! A client that tracks is asked before the daemon ends on request.
//!
//! ```no_run
//! use corosync_ipc::cfg::{Client, Event, ShutdownAnswer};
//!
//! let client = Client::connect()?;
//! client.track_start()?;
//! for event in client.events() {
//!     if let Event::Shutdown(_) = event? {
//!         client.reply_to_shutdown(ShutdownAnswer::NO)?;
//!     }
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Service, UnknownEvent, client};
use crate::cmap::{Probe, Value};
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result, WireError};
use crate::features::{NODE_STATUS, RELOAD_CONFIG, REOPEN_LOG_FILES, SHUTDOWN_TRACKING};
use crate::libqb::buffer::Buffer;
use crate::libqb::client::Call;
use crate::wire::Message;
use crate::wire::cfg as wire;
#[doc(inline)]
pub use crate::wire::cfg::{ShutdownAnswer, ShutdownKind};
use crate::wire::values::NodeId;

client! {
    /// A connection to the cfg service.
    pub struct Client: Cfg as "corosync_cfg"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Cfg {
    probe: Probe,
}

/// Stands for this node in [`Client::node_addresses`].
pub const LOCAL_NODE: NodeId = NodeId(0);

/// The longest reason to kill a node, in bytes. Matches `CS_MAX_NAME_LENGTH`, less the NUL.
pub const MAX_REASON: usize = 255;

/// How long a daemon waits for the answers of those who track, unless the map says otherwise.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call is put off at most because the daemon says so.
const LONGEST_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(600);

/// Where the map says otherwise, in milliseconds.
const SHUTDOWN_TIMEOUT_KEY: &str = "cfg.shutdown_timeout";

/// One of this node's interfaces, or links. Matches what `corosync_cfg_ring_status_get` hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RingStatus {
    /// Number of the link. `None` from corosync before 2.99, where the first interface is ring 0.
    pub link: Option<u8>,
    /// This node's address on it. Bytes that are no UTF-8 are replaced, here and in the status.
    pub address: String,
    /// Its state. Corosync before 2.99 has a sentence, in which `FAULTY` says just that. From then
    /// on it is `OK` for udp and udpu, and for knet one character for each node, in the order
    /// of their ids: `n` this node, `d` the link is not configured there, `?` the state
    /// could not be found out, or a digit whose bits are 1 enabled, 2 connected, 4 enabled by the
    /// other end.
    pub status: String,
}

impl RingStatus {
    /// The address, if it is one that can be parsed.
    pub fn ip(&self) -> Option<IpAddr> {
        parse_ip(&self.address)
    }

    fn new(interface: &wire::Interface) -> Self {
        let name = text(&interface.name);
        let numbered = name
            .split_once(' ')
            .and_then(|(link, address)| Some((link.parse().ok()?, address.to_owned())));
        let (link, address) =
            numbered.map_or((None, name), |(link, address)| (Some(link), address));
        Self { link, address, status: text(&interface.status) }
    }
}

/// State of a node as seen from this one. Matches `struct corosync_cfg_node_status_v1`.
///
/// With udp and udpu a daemon also answers for a node it does not know, such as one whose id is not
/// the one it made of the node's address, or one that was just taken out of the nodelist: not
/// reachable, and no links. That means unknown, not down: see [`NodeStatus::is_known`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeStatus {
    /// The node asked for.
    pub node_id: NodeId,
    /// Whether it can be reached.
    pub reachable: bool,
    /// Whether it is reached through another node.
    pub remote: bool,
    /// Whether it is outside of the cluster.
    pub external: bool,
    /// Oldest protocol of knet it speaks; 0 when not known.
    pub onwire_min: u8,
    /// Newest protocol of knet it speaks; 0 when not known.
    pub onwire_max: u8,
    /// Protocol of knet in use; 0 when not known.
    pub onwire_version: u8,
    /// The links to it that are configured, at most eight.
    pub links: Vec<LinkStatus>,
}

impl NodeStatus {
    /// Whether the daemon knows the node. If not, nothing here says anything: with udp and udpu it
    /// answers with zeros then, and with knet [`Client::node_status`] fails.
    pub fn is_known(&self) -> bool {
        self.reachable || !self.links.is_empty()
    }
}

/// A link to another node. Matches `struct corosync_knet_link_status_v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LinkStatus {
    /// Its number, from 0 to 7.
    pub link: u8,
    /// Whether it is configured and switched on.
    pub enabled: bool,
    /// Whether data flows, as this node sees it.
    pub connected: bool,
    /// Whether the other end, whose address is dynamic, switched it on.
    pub dynconnected: bool,
    /// Largest packet in bytes, as far as known.
    pub mtu: u32,
    /// This node's address as the daemon writes it; with udpu, the other node's. Bytes that are no
    /// UTF-8 are replaced.
    pub source: String,
    /// The other node's address as the daemon writes it; empty with udpu, and when it is dynamic
    /// and not known yet.
    pub destination: String,
}

impl LinkStatus {
    /// [`LinkStatus::source`], if it is an address that can be parsed.
    pub fn source_ip(&self) -> Option<IpAddr> {
        parse_ip(&self.source)
    }

    /// [`LinkStatus::destination`], if it is an address that can be parsed.
    pub fn destination_ip(&self) -> Option<IpAddr> {
        parse_ip(&self.destination)
    }

    /// `None` for a link that is not configured.
    fn new(number: usize, link: &wire::Link) -> Option<Self> {
        (*link != wire::Link::default()).then(|| Self {
            link: u8::try_from(number).unwrap_or(u8::MAX),
            enabled: link.enabled != 0,
            connected: link.connected != 0,
            dynconnected: link.dynconnected != 0,
            mtu: link.mtu,
            source: text(&link.src_ipaddr),
            destination: text(&link.dst_ipaddr),
        })
    }
}

/// An event of the cfg service, for clients that track.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// Somebody wants this node's corosync to end.
    Shutdown(Shutdown),
    /// Not all answered in time.
    ShutdownTimedOut(ShutdownTimedOut),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// Somebody wants this node's corosync to end. Answer once with [`Client::reply_to_shutdown`].
/// Matches `corosync_cfg_shutdown_callback_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Shutdown {
    /// Whether the answer can prevent it.
    pub kind: ShutdownKind,
}

/// Not all answered in time. A shutdown by request is off; a shutdown regardless of answers begins.
///
/// Do not wait for it: daemons up to 3.1.10 at least, by mistake, tell only trackers that once
/// called [`Client::try_shutdown`] themselves. C cannot tell this from [`Event::Shutdown`]: its
/// callback is called once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ShutdownTimedOut {
    /// The kind of the shutdown.
    pub kind: ShutdownKind,
}

impl Client {
    /// Connects as [`Endpoint::from_env`] says.
    ///
    /// Matches `corosync_cfg_initialize`.
    ///
    /// # Errors
    /// Whatever prevents a connection: the first variants of [`Error`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        Self::open(endpoint, Cfg { probe: Probe::new(endpoint) }, Call::connecting(endpoint))
    }

    /// This node's id.
    ///
    /// Matches `corosync_cfg_local_get`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Cs`] as the daemon says.
    pub fn local_node_id(&self) -> Result<NodeId> {
        Ok(self.core.request(self.core.call("cfg local get"), &wire::LocalGet {})?.local_nodeid)
    }

    /// Addresses of a node, one for each link; [`LOCAL_NODE`] is this one.
    ///
    /// The daemon sends one family for all of them, that of the first link. Where a node has links
    /// of both families, the others' addresses come out wrong, as in C; [`Client::ring_status`]
    /// and [`Client::node_status`] have them right. A daemon that has taken its one address for
    /// two, as [`Client::ring_status`] tells, sends it twice.
    ///
    /// Matches `corosync_cfg_get_node_addrs`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`] for a node without addresses or one that is not
    /// known; [`Error::Protocol`] for a family that is neither IPv4 nor IPv6; as
    /// [`Client::local_node_id`].
    pub fn node_addresses(&self, node: NodeId) -> Result<Vec<IpAddr>> {
        let reply = self.core.request(
            self.core.call("cfg get node addrs"),
            &wire::GetNodeAddresses { nodeid: node },
        )?;
        addresses(&reply).map_err(|source| Error::protocol(Cfg::NAME, source))
    }

    /// State of this node's interfaces, which corosync calls rings or links. From corosync 3.1.1 on
    /// prefer [`Client::node_status`], which tells more and is safe everywhere.
    ///
    /// From 2.99 to the main branch of 2026 this request crashes a daemon whose transport is udp or
    /// udpu and which has more than one address for its own node: from 3.1.5 on it takes its
    /// one address for two when its entry in the nodelist has nothing but that address, and all
    /// of them take a second link that a reload adds. So the daemon is asked for this node's
    /// addresses first, and if there is not exactly one, the stats map is asked whether the
    /// transport is knet. A reload between those questions and this request can still make it
    /// deadly: do not call this while the configuration is being changed.
    ///
    /// Matches `corosync_cfg_ring_status_get`, which asks nothing first.
    ///
    /// # Errors
    /// [`Error::WouldCrash`] when it would; [`Error::InvalidArgument`] when the ring size is too
    /// small for the answer of 10272 bytes; [`Error::Cs`] with [`CsError::NotExist`] while a
    /// daemon that starts has no address yet; as [`Client::local_node_id`].
    pub fn ring_status(&self) -> Result<Vec<RingStatus>> {
        const CALL: &str = "cfg ring status get";
        const REPLY_SIZE: usize = 10272;
        self.check_room(REPLY_SIZE)?;
        let call = self.core.call(CALL);
        self.check_rings(call)?;
        let reply = self.core.request(call, &wire::GetRingStatus {})?;
        Ok(reply.interfaces.iter().map(RingStatus::new).collect())
    }

    /// Fails where ring status reads a status that is not there: the daemon takes as many as this
    /// node has addresses.
    ///
    /// Before 2.1 it reads a number that was never set while it has no address. The question fails
    /// then.
    fn check_rings(&self, call: Call) -> Result<()> {
        let request = wire::GetNodeAddresses { nodeid: LOCAL_NODE };
        let reply = self.core.request(call.step("cfg get node addrs"), &request)?;
        let count = reply.addrs.len();
        if count == 1 || self.core.service.probe.has_status_of_every_ring(call)? {
            return Ok(());
        }
        let reason = format!(
            "with udp and udpu it has the status of one address, and this node has {count} (is there a nodeid in its \
             entry in the nodelist, and one link?); node status tells the same"
        );
        Err(Error::WouldCrash { call: call.name.into(), reason: reason.into() })
    }

    /// Takes rings into use again that were marked faulty.
    ///
    /// Matches `corosync_cfg_ring_reenable`, which is in libcfg until 2.4.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotSupported`] from corosync 2.99 and later, where links come
    /// back by themselves; as [`Client::local_node_id`].
    pub fn ring_reenable(&self) -> Result<()> {
        self.core.request(self.core.call("cfg ring reenable"), &wire::RingReenable {})?;
        Ok(())
    }

    /// State of a node and of the links to it, as this node sees it. Since corosync 3.1.1;
    /// [`Client::ring_status`] is what older ones have.
    ///
    /// With udp and udpu it does not fail for a node that the daemon does not know: see
    /// [`NodeStatus::is_known`]. knet, whose ids are below 65536, looks at the lowest 16 bits
    /// of the id only.
    ///
    /// Matches `corosync_cfg_node_status_get` with `CFG_NODE_STATUS_V1`. Before the first such call
    /// the daemon's map is asked whether it survives it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for node 0, which does not stand for the local node here, and
    /// when the ring size is too small for the answer of 4200 bytes; [`Error::Cs`] with
    /// [`CsError::FailedOperation`] for a node that is not known, where the transport tells;
    /// [`Error::Unsupported`]; as [`Client::local_node_id`].
    pub fn node_status(&self, node: NodeId) -> Result<NodeStatus> {
        const REPLY_SIZE: usize = 4200;
        not_zero(node)?;
        self.check_room(REPLY_SIZE)?;
        let request = wire::GetNodeStatus { nodeid: node, version: wire::NODE_STATUS_V1 };
        let reply = self.core.service.probe.request(
            &self.core,
            &NODE_STATUS,
            "cfg node status get",
            &request,
        );
        let reply = NODE_STATUS.or_unsupported(reply)?;
        let links = reply
            .links
            .iter()
            .enumerate()
            .filter_map(|(number, link)| LinkStatus::new(number, link));
        Ok(NodeStatus {
            node_id: reply.nodeid,
            reachable: reply.reachable != 0,
            remote: reply.remote != 0,
            external: reply.external != 0,
            onwire_min: reply.onwire_min,
            onwire_max: reply.onwire_max,
            onwire_version: reply.onwire_ver,
            links: links.collect(),
        })
    }

    /// Makes all nodes read corosync.conf again. Returns when this node has. Since corosync 2.3.2.
    ///
    /// Matches `corosync_cfg_reload_config`. Before the first such call the daemon's map is asked
    /// whether it survives it.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::InvalidParam`] when this node's file is not valid (the
    /// daemon's log says why; so does the map's key `config.reload_error_message` in later
    /// versions), or with [`CsError::Library`] from corosync 2; [`Error::Unsupported`]; as
    /// [`Client::local_node_id`].
    pub fn reload_config(&self) -> Result<()> {
        self.core.service.probe.request(
            &self.core,
            &RELOAD_CONFIG,
            "cfg reload config",
            &wire::ReloadConfig {},
        )?;
        Ok(())
    }

    /// Makes this node's daemon close and open its log files, after they were rotated. Since
    /// corosync 2.99.4.
    ///
    /// Matches `corosync_cfg_reopen_log_files`. Before the first such call the daemon's map is
    /// asked whether it survives it.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotSupported`] when its libqb cannot; [`Error::Unsupported`];
    /// as [`Client::local_node_id`].
    pub fn reopen_log_files(&self) -> Result<()> {
        let probe = &self.core.service.probe;
        let reply = probe.request(
            &self.core,
            &REOPEN_LOG_FILES,
            "cfg reopen log files",
            &wire::ReopenLogFiles {},
        );
        REOPEN_LOG_FILES.or_unsupported(reply)?;
        Ok(())
    }

    /// Makes a node's corosync end at once, which then logs the reason. Returns when the message is
    /// on its way. It may be this node's.
    ///
    /// Matches `corosync_cfg_kill_node`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for node 0, and for a reason longer than [`MAX_REASON`] or with a
    /// NUL in it; [`Error::Cs`] with [`CsError::NotExist`] for a node that is not a member now,
    /// from corosync 3.1 on: earlier ones do not tell; as [`Client::local_node_id`].
    pub fn kill_node(&self, node: NodeId, reason: &str) -> Result<()> {
        not_zero(node)?;
        if reason.len() > MAX_REASON {
            return Err(Error::invalid(
                "reason",
                format!("{} bytes are more than {MAX_REASON}", reason.len()),
            ));
        }
        if reason.contains('\0') {
            return Err(Error::invalid("reason", "a reason has no NUL in it"));
        }
        let reason = Bytes::copy_from_slice(reason.as_bytes());
        self.core
            .request(self.core.call("cfg kill node"), &wire::KillNode { nodeid: node, reason })?;
        Ok(())
    }

    /// Ends this node's corosync, after asking the clients that track, except this one.
    /// Returns when it is decided; the daemon ends soon after.
    ///
    /// Except for [`ShutdownKind::IMMEDIATE`] this waits for the answers: as long as the daemon
    /// does, which is 5 seconds or the map's `cfg.shutdown_timeout` (in milliseconds) up to 10
    /// minutes, in addition to the request timeout. Other requests of this client wait
    /// meanwhile. A client that is dropped while it waits takes its request back.
    ///
    /// Matches `corosync_cfg_try_shutdown`, which waits for ever.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a kind that has no name; [`Error::Cs`] with [`CsError::Busy`]
    /// when one said no or did not answer in time, with [`CsError::Exist`] while another
    /// shutdown is being decided; as [`Client::local_node_id`].
    pub fn try_shutdown(&self, kind: ShutdownKind) -> Result<()> {
        if kind.name().is_none() {
            return Err(Error::invalid("shutdown kind", format!("{} is none", kind.0)));
        }
        const CALL: &str = "cfg try shutdown";
        let mut call = self.core.call(CALL);
        if kind != ShutdownKind::IMMEDIATE {
            call.extend(self.shutdown_timeout(call));
        }
        self.core.request(call, &wire::TryShutdown { flags: kind })?;
        Ok(())
    }

    /// How long the daemon waits for answers.
    fn shutdown_timeout(&self, call: Call) -> Duration {
        let cmap = self.core.service.probe.cmap(call);
        shutdown_timeout(
            cmap.and_then(|cmap| cmap.get_within(SHUTDOWN_TIMEOUT_KEY, call))
                .ok()
                .flatten()
                .as_ref(),
        )
    }

    /// Answers [`Event::Shutdown`]. The daemon counts answers, not those who give them: answer each
    /// event once.
    ///
    /// Matches `corosync_cfg_replyto_shutdown`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::Access`] when no shutdown is being decided (any more); as
    /// [`Client::local_node_id`].
    pub fn reply_to_shutdown(&self, answer: ShutdownAnswer) -> Result<()> {
        self.core.request(
            self.core.call("cfg reply to shutdown"),
            &wire::ReplyToShutdown { response: answer },
        )?;
        Ok(())
    }

    /// Starts to take part in decisions about shutdown; each comes as [`Event::Shutdown`], the one
    /// being made now too. Starting twice is the same as once. Since corosync 3.1.1; earlier
    /// ones ask nobody.
    ///
    /// Matches `corosync_cfg_trackstart`, whose flags have no meaning. Before the first such call
    /// the daemon's map is asked whether it survives it.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; as [`Client::local_node_id`].
    pub fn track_start(&self) -> Result<()> {
        let request = wire::TrackStart { track_flags: 0 };
        let reply = self.core.service.probe.request(
            &self.core,
            &SHUTDOWN_TRACKING,
            "cfg trackstart",
            &request,
        );
        SHUTDOWN_TRACKING.or_unsupported(reply)?;
        Ok(())
    }

    /// Takes part no more. To a shutdown being decided now this, as the end of the connection, is a
    /// yes.
    ///
    /// Matches `corosync_cfg_trackstop`.
    ///
    /// # Errors
    /// As [`Client::track_start`].
    pub fn track_stop(&self) -> Result<()> {
        let reply = self.core.service.probe.request(
            &self.core,
            &SHUTDOWN_TRACKING,
            "cfg trackstop",
            &wire::TrackStop {},
        );
        SHUTDOWN_TRACKING.or_unsupported(reply)?;
        Ok(())
    }

    /// The daemon silently drops a reply that does not fit.
    fn check_room(&self, size: usize) -> Result<()> {
        let room = self.core.connection.max_reply();
        if room < size {
            let reason =
                format!("an answer of {size} bytes does not fit in a ring with room for {room}");
            return Err(Error::invalid("ring size", reason));
        }
        Ok(())
    }
}

#[cfg(feature = "tokio")]
crate::client::async_client! {
    /// The cfg client for tokio: every request can be awaited.
    pub struct AsyncClient;
    local_node_id() -> NodeId;
    node_addresses(node: NodeId) -> Vec<IpAddr>;
    ring_status() -> Vec<RingStatus>;
    ring_reenable() -> ();
    node_status(node: NodeId) -> NodeStatus;
    reload_config() -> ();
    reopen_log_files() -> ();
    kill_node(node: NodeId, reason: &str) -> ();
    try_shutdown(kind: ShutdownKind) -> ();
    reply_to_shutdown(answer: ShutdownAnswer) -> ();
    track_start() -> ();
    track_stop() -> ();
}

/// The value of the map, up to [`LONGEST_SHUTDOWN_TIMEOUT`]. A map that fails is no reason not to
/// shut down.
fn shutdown_timeout(told: Option<&Value>) -> Duration {
    match told {
        Some(Value::U32(millis)) => {
            Duration::from_millis((*millis).into()).min(LONGEST_SHUTDOWN_TIMEOUT)
        }
        _ => SHUTDOWN_TIMEOUT,
    }
}

fn not_zero(node: NodeId) -> Result<()> {
    if node == LOCAL_NODE {
        Err(Error::invalid("node", "0 stands for no node here"))
    } else {
        Ok(())
    }
}

fn addresses(reply: &wire::NodeAddressesReply) -> Result<Vec<IpAddr>, WireError> {
    use nix::libc;
    reply
        .addrs
        .iter()
        .map(|address| match i32::try_from(reply.family) {
            Ok(libc::AF_INET) => {
                let [a, b, c, d, ..] = *address;
                Ok(Ipv4Addr::new(a, b, c, d).into())
            }
            Ok(libc::AF_INET6) => Ok(Ipv6Addr::from(*address).into()),
            _ => Err(WireError::Invalid {
                message: <wire::NodeAddressesReply as crate::wire::Message>::NAME,
                field: "family",
                offset: 24,
                value: reply.family.into(),
            }),
        })
        .collect()
}

/// An address in text, whose scope, if it has one, has no place in [`IpAddr`].
fn parse_ip(text: &str) -> Option<IpAddr> {
    let without_scope = text.split_once('%').map_or(text, |(address, _)| address);
    without_scope.parse().ok()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Service for Cfg {
    type Event = Event;

    const NAME: &'static str = "cfg";
    /// The largest message is the state of 16 links: 10,272 bytes. With the 13 bytes that libqb adds
    /// a ring has three pages.
    const RING_SIZE: u32 = (12 << 10) - 13;

    fn nudge() -> Result<Vec<u8>, WireError> {
        wire::LocalGet {}.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        Ok(Some(match wire::AnyEvent::decode(message) {
            Ok(wire::AnyEvent::TestShutdown(event)) if event.status == CsError::Timeout.raw() => {
                Event::ShutdownTimedOut(ShutdownTimedOut { kind: event.flags })
            }
            Ok(wire::AnyEvent::TestShutdown(event)) => {
                Event::Shutdown(Shutdown { kind: event.flags })
            }
            Err(WireError::UnknownId { id, .. }) => {
                Event::Unknown(UnknownEvent { id, message: message.take() })
            }
            Err(error) => return Err(error),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_refusal;

    fn ring(name: &'static str) -> (Option<u8>, String, Option<IpAddr>) {
        let name = Bytes::from_static(name.as_bytes());
        let ring = RingStatus::new(&wire::Interface { name, status: Bytes::new() });
        (ring.link, ring.address.clone(), ring.ip())
    }

    #[test]
    fn a_shutdown_is_waited_for_as_long_as_the_map_says_but_not_for_weeks() {
        let waits = |value| shutdown_timeout(Some(&value)).as_millis();
        assert_eq!(shutdown_timeout(None), SHUTDOWN_TIMEOUT);
        assert_eq!(
            [waits(Value::U32(0)), waits(Value::U32(60_000)), waits(Value::U32(u32::MAX))],
            [0, 60_000, 600_000]
        );
        assert_eq!(waits(Value::U64(60_000)), SHUTDOWN_TIMEOUT.as_millis());
    }

    #[test]
    fn rings_of_all_generations_are_taken_apart() {
        let address: Option<IpAddr> = Some([10, 0, 0, 1].into());
        assert_eq!(ring("3 10.0.0.1"), (Some(3), "10.0.0.1".to_owned(), address));
        assert_eq!(ring("10.0.0.1"), (None, "10.0.0.1".to_owned(), address));
        assert_eq!(ring("0 fe80::1%eth0").2, Some("fe80::1".parse().unwrap()));
        // Text that cannot be parsed is kept.
        assert_eq!(ring("x y"), (None, "x y".to_owned(), None));
        assert_eq!(ring("1 "), (Some(1), String::new(), None));
    }

    #[test]
    fn addresses_have_the_family_the_daemon_says() {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[10, 0, 0, 1]);
        let reply = |family| addresses(&wire::NodeAddressesReply { family, addrs: vec![address] });
        assert_eq!(reply(2).unwrap(), [IpAddr::from([10, 0, 0, 1])]);
        assert_eq!(reply(10).unwrap(), [IpAddr::from(address)]);
        assert!(matches!(reply(7), Err(WireError::Invalid { field: "family", value: 7, .. })));
        assert!(
            addresses(&wire::NodeAddressesReply { family: 7, addrs: vec![] }).unwrap().is_empty()
        );
    }

    #[test]
    fn a_question_and_the_end_of_its_time_are_told_apart() {
        let service = Cfg { probe: Probe::new(&Endpoint::new()) };
        let kind = ShutdownKind(77);
        let event = |status| {
            let message = wire::TestShutdown { status, flags: kind }.encode().unwrap();
            service.event(&mut message.into()).unwrap().unwrap()
        };
        assert_eq!(event(1), Event::Shutdown(Shutdown { kind }));
        assert_eq!(
            event(CsError::Timeout.raw()),
            Event::ShutdownTimedOut(ShutdownTimedOut { kind })
        );
        let message = Bytes::from(encode_refusal(99, CsError::Busy).unwrap());
        let unknown = service.event(&mut message.clone().into()).unwrap();
        assert_eq!(unknown, Some(Event::Unknown(UnknownEvent { id: 99, message })));
    }

    #[test]
    fn only_links_that_are_configured_are_shown() {
        assert_eq!(LinkStatus::new(0, &wire::Link::default()), None);
        let link = wire::Link { src_ipaddr: "10.0.0.1".into(), ..wire::Link::default() };
        let status = LinkStatus::new(3, &link).unwrap();
        assert_eq!((status.link, status.enabled, status.destination_ip()), (3, false, None));
    }
}
