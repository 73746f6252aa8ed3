//! The embedded daemon: its configuration, its handle, and the state machines' way to their clients.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::services::{ClientId, Config, Node, NodeConfig, ServiceId};
use super::totem::{Alone, ClientOutput, World};
use super::{Conn, ConnectionId, Connections, Generation, Gone, Handler, Listener, Overflow, Peer, Refusal};
use crate::cmap::Value;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::sys::event::Bell;
use crate::sys::{file, serve};
use crate::types::NodeId;

/// How much waits for a client that does not read, in bytes. The daemon has no limit.
const EVENT_QUEUE: usize = 256 << 20;

/// Where the private directories of embedded daemons are made. Rings must lie in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// An embedded corosync: one node, alone in its cluster, that answers as corosync 3.1.7 does.
///
/// It serves cmap, cfg, cpg, quorum and votequorum, and [evs](CorosyncBuilder::evs) if wanted, to the clients of this crate and, at abstract addresses in a network namespace of their own, to
/// C programs. Dropping it ends it as if the daemon had been stopped, and leaves no files.
///
/// ```
/// use corosync_ipc::{cmap, server::Corosync};
///
/// let corosync = Corosync::start()?;
/// let client = cmap::Client::connect_to(corosync.endpoint())?;
/// client.set("test.answer", 42_u32)?;
/// assert_eq!(client.get_as::<u32>("test.answer")?, Some(42));
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
#[derive(Debug)]
pub struct Corosync {
    // Before the directory: its files go first.
    listener: Listener<Daemon>,
    endpoint: Endpoint,
    ended: Arc<Bell>,
    _directory: Option<PrivateDirectory>,
}

impl Corosync {
    /// Starts a node with the default configuration, at a private endpoint.
    ///
    /// # Errors
    /// As [`CorosyncBuilder::start`].
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Describes a node.
    pub fn builder() -> CorosyncBuilder {
        CorosyncBuilder {
            endpoint: None,
            generation: Generation::default(),
            node_id: NodeId(1),
            has_evs: false,
            config: Config { cluster_name: "embedded".to_owned(), nodes: Vec::new(), settings: Vec::new() },
        }
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether it ended by itself: a client shut it down or killed its node.
    pub fn has_ended(&self) -> bool {
        self.listener.with(|_, connections| connections.is_shut_down()).unwrap_or(true)
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.listener.with(|_, connections| connections.ids().len()).unwrap_or(0)
    }
}

/// Readable once [`Corosync::has_ended`].
impl AsFd for Corosync {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }
}

/// What an embedded daemon shall be like.
#[must_use]
#[derive(Clone, Debug)]
pub struct CorosyncBuilder {
    endpoint: Option<Endpoint>,
    generation: Generation,
    node_id: NodeId,
    has_evs: bool,
    config: Config,
}

impl CorosyncBuilder {
    /// Where it listens and makes its rings. Default: at sockets in a directory of its own, which is gone with it.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = Some(endpoint.clone());
        self
    }

    /// Which libqb it speaks as. The messages are those of corosync 3.1.7 in any case.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self
    }

    /// The id of this node. Default: 1.
    pub fn node_id(mut self, id: impl Into<NodeId>) -> Self {
        self.node_id = id.into();
        self
    }

    /// `totem.cluster_name`. Default: `embedded`.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.config.cluster_name = name.into();
        self
    }

    /// Adds a node to the nodelist: its id, name, address and, where they are configured, votes. Without this one the nodelist is
    /// made of this node, named `n` and its id, at 127.0.0.1. Other nodes than this one never run.
    pub fn node(
        mut self,
        id: impl Into<NodeId>,
        name: impl Into<String>,
        address: impl Into<String>,
        votes: Option<u32>,
    ) -> Self {
        self.config.nodes.push(NodeConfig { id: id.into(), name: name.into(), address: address.into(), votes });
        self
    }

    /// Sets a key that corosync.conf would set, such as `quorum.two_node` (a `u8`) or `totem.token` (a `u32`), before the services
    /// start. The daemon's parser decides on the types; a key with another type than its own is not seen by the services.
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.config.settings.push((key.into(), value.into()));
        self
    }

    /// Serves evs too, which corosync 1.99 has and 3.1.7 does not.
    pub fn evs(mut self, is_on: bool) -> Self {
        self.has_evs = is_on;
        self
    }

    /// Starts it. When this returns clients can connect, and the node has formed its ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a configuration with which corosync does not start; as [`super::Builder::start`].
    pub fn start(mut self) -> Result<Corosync> {
        if self.node_id == NodeId(0) {
            return Err(Error::invalid("node id", "0 is no node"));
        }
        if self.config.nodes.is_empty() {
            let id = self.node_id;
            self = self.node(id, format!("n{id}"), "127.0.0.1", None);
        }
        if !self.config.nodes.iter().any(|node| node.id == self.node_id) {
            return Err(Error::invalid("nodes", format!("node {} is not among them", self.node_id)));
        }
        let (endpoint, directory) = match self.endpoint {
            Some(endpoint) => (endpoint, None),
            None => {
                let directory = PrivateDirectory::create()?;
                (Endpoint::new().socket_dir(&directory.path).shm_root(&directory.path), Some(directory))
            }
        };
        let now = Instant::now();
        let node = Node::start(now, self.node_id, self.config).map_err(|reason| Error::invalid("settings", reason))?;
        let mut world = World::new(vec![node], Box::new(Alone::new(self.node_id)));
        // Nobody is connected yet.
        let _ = world.settle(now);
        let builder = Listener::<Daemon>::builder()
            .endpoint(&endpoint)
            .generation(self.generation)
            .event_queue(EVENT_QUEUE, Overflow::Disconnect);
        let services = ServiceId::all(self.has_evs);
        let builder = services.iter().fold(builder, |builder, service| builder.service(service.name()));
        let ended = Arc::new(Bell::new().map_err(|source| Error::system("starting a server", source))?);
        let daemon = Daemon { world, services, ended: Arc::clone(&ended) };
        Ok(Corosync { listener: builder.start(daemon)?, endpoint, ended, _directory: directory })
    }
}

/// Serves the nodes' clients. The services of a node follow each other, and the nodes.
struct Daemon {
    world: World,
    services: &'static [ServiceId],
    ended: Arc<Bell>,
}

impl Daemon {
    fn place(&self, service_index: usize) -> Option<(usize, ServiceId)> {
        let count = self.services.len();
        Some((service_index / count, *self.services.get(service_index % count)?))
    }

    /// Lets a node do something and sends clients what follows.
    fn step(
        &mut self,
        connections: &mut Connections<()>,
        service_index: usize,
        body: impl FnOnce(&mut Node, ServiceId, Instant),
    ) {
        let Some((node, service)) = self.place(service_index) else {
            return;
        };
        let now = Instant::now();
        let outputs = self.world.step(now, node, |node| body(node, service, now));
        self.send(connections, outputs);
    }

    fn send(&self, connections: &mut Connections<()>, outputs: Vec<ClientOutput>) {
        for output in outputs {
            // What does not fit in a client's ring is lost, and the daemon tells nobody either.
            match output {
                ClientOutput::Reply { client, mut message, zeros } => {
                    let Some(mut conn) = connections.get(ConnectionId::from_number(client.0)) else {
                        continue;
                    };
                    let room = u64::from(conn.max_message_size()) + 4096;
                    if zeros <= room {
                        message.resize(message.len() + zeros as usize, 0);
                        let _ = conn.reply(&message);
                    }
                }
                // There is one node; with it the server ends.
                ClientOutput::Exit(_) => {
                    connections.shut_down();
                    self.ended.ring();
                }
                ClientOutput::Event { client, message } => {
                    if let Some(mut conn) = connections.get(ConnectionId::from_number(client.0)) {
                        let _ = conn.send_event(&message);
                    }
                }
            }
        }
        connections.set_timer(self.world.next_timer());
    }
}

impl Handler for Daemon {
    type Session = ();

    fn authorize(&mut self, peer: &Peer<'_>) -> std::result::Result<(), Refusal> {
        let node = self.place(peer.service_index).and_then(|(node, _)| self.world.nodes.get(node));
        match node {
            Some(node) if node.allows(peer.credentials) || is_own(peer) => Ok(()),
            Some(_) => Err(Refusal::NOT_ALLOWED),
            None => Err(Refusal::NO_SERVICE),
        }
    }

    fn on_connect(&mut self, conn: &mut Conn<'_, ()>) {
        let (index, client) = (conn.service_index(), client_id(conn.id()));
        let pid = conn.credentials().pid;
        let name = file::process_name(pid).unwrap_or_default();
        self.step(conn.connections(), index, |node, service, now| node.connect(now, service, client, pid, name));
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let (index, client) = (conn.service_index(), client_id(conn.id()));
        self.step(conn.connections(), index, |node, service, now| node.request(now, service, client, &request));
    }

    fn on_disconnect(&mut self, connections: &mut Connections<()>, gone: Gone<()>) {
        let client = client_id(gone.id);
        self.step(connections, gone.service_index, |node, service, now| node.disconnect(now, service, client));
    }

    fn on_timer(&mut self, connections: &mut Connections<()>) {
        let outputs = self.world.timer(Instant::now());
        self.send(connections, outputs);
    }
}

fn client_id(id: ConnectionId) -> ClientId {
    ClientId(id.number())
}

/// The user who runs the embedded daemon may use it, as root may use root's.
fn is_own(peer: &Peer<'_>) -> bool {
    peer.credentials.uid == nix::unistd::geteuid().as_raw()
}

/// A directory for sockets and rings that is removed with what is left in it.
#[derive(Debug)]
struct PrivateDirectory {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl PrivateDirectory {
    fn create() -> Result<Self> {
        let failed = |source: std::io::Error| Error::system(format!("making a directory in {SHARED_MEMORY}"), source);
        let parent = file::open_directory(Path::new(SHARED_MEMORY), []).map_err(failed)?;
        let prefix = format!("corosync-ipc-{}-", std::process::id());
        let (name, _) = serve::create_directory(&parent, &prefix, 0o700).map_err(failed)?;
        let path = Path::new(SHARED_MEMORY).join(&name);
        Ok(Self { parent, name, path })
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        file::remove_directory(&self.parent, &self.name);
    }
}
