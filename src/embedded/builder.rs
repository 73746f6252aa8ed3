//! The configuration of an embedded daemon or cluster.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, NodeSlot, start_daemons};
use super::config_file::{self, Key, Who};
use super::host::{Clock, Host};
use super::node::{Config, NodeConfig, ServiceId, Version};
use super::world::{ClientOutput, World};
use crate::cmap::Value;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::evs;
use crate::libqb::server::{Generation, Listener, Overflow, Transport};
use crate::libqb::server::{Mark, Marker, Marking};
use crate::sys::event::Wakeup;
use crate::sys::{file, process, serve};
use crate::wire::values::NodeId;

/// The most bytes of events that wait for a client that does not read them. The daemon has no
/// limit.
const EVENT_QUEUE: usize = 256 << 20;

/// The most nodes of a cluster. Matches `PROCESSOR_COUNT_MAX`.
pub(super) const MAX_NODES: u32 = 384;

/// The parent of the private directories of embedded daemons. Rings must lie in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Configures a [`Corosync`](super::Corosync) or a [`Cluster`].
///
/// [`Corosync::builder`](super::Corosync::builder) and [`Cluster::builder`] return one.
///
/// ```
/// use corosync_ipc::{embedded::Corosync, quorum};
///
/// let corosync = Corosync::builder()
///     .node(1, "one", "10.0.0.1", None)
///     .node(2, "two", "10.0.0.2", None)
///     .setting("quorum.two_node", 1_u8)
///     .start()?;
/// // With two_node a node waits for the other one before it is quorate, and node 2 never runs.
/// assert!(!quorum::Client::connect_to(corosync.endpoint())?.is_quorate()?);
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
#[must_use]
pub struct Builder<T> {
    pub(super) options: Options,
    target: PhantomData<fn() -> T>,
}

/// A node of a corosync.conf.
#[derive(Default)]
struct Listed {
    id: Option<(usize, NodeId)>,
    address: Option<String>,
    name: String,
    votes: Option<u32>,
}

/// The only quorum provider there is.
const PROVIDER: &str = "corosync_votequorum";

/// The settings of a daemon or cluster.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) config: Config,
    pub(super) endpoints: BTreeMap<NodeId, Endpoint>,
    generation: Generation,
    transport: Transport,
    pub(super) seed: u64,
    pub(super) is_real_time: bool,
    has_evs: bool,
    pub(super) down: Vec<NodeId>,
    /// The node that a [`Corosync`](super::Corosync) runs.
    pub(super) own_id: NodeId,
    pub(super) own_endpoint: Option<Endpoint>,
}

impl<T> Clone for Builder<T> {
    fn clone(&self) -> Self {
        Self { options: self.options.clone(), target: PhantomData }
    }
}

impl<T> fmt::Debug for Builder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish()
    }
}

/// Settings of every node.
impl<T> Builder<T> {
    pub(super) fn new(is_real_time: bool) -> Self {
        let config = Config {
            version: Version::default(),
            cluster_name: "embedded".to_owned(),
            nodes: Vec::new(),
            settings: Vec::new(),
        };
        let options = Options {
            config,
            endpoints: BTreeMap::new(),
            generation: Generation::default(),
            transport: Transport::default(),
            seed: 0,
            is_real_time,
            has_evs: false,
            down: Vec::new(),
            own_id: NodeId(1),
            own_endpoint: None,
        };
        Self { options, target: PhantomData }
    }

    /// Sets `totem.cluster_name`. Default: `embedded`.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.options.config.cluster_name = name.into();
        self
    }

    /// Adds a node to the nodelist: `nodeid`, `name`, `ring0_addr` and, if configured,
    /// `quorum_votes`.
    pub fn node(
        mut self,
        id: impl Into<NodeId>,
        name: impl Into<String>,
        address: impl Into<String>,
        votes: Option<u32>,
    ) -> Self {
        self.options.add_node(id.into(), name.into(), address.into(), votes);
        self
    }

    /// Sets a key of the map on all nodes before the services start, as corosync.conf would:
    /// `quorum.two_node` (a `u8`), `totem.token` (a `u32`) and so on. The value must have the type
    /// that the daemon's parser gives the key. The services ignore a key of another type.
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.options.config.settings.push((key.into(), value.into()));
        self
    }

    /// Takes nodes, votes and settings from the text of a corosync.conf, as pcs and crmsh write it:
    /// the nodelist, `totem.cluster_name`, `system.qb_ipc_type`, `uidgid`, and every other key as
    /// [`Builder::setting`] does. What an embedded daemon can only do in its own way has no effect,
    /// such as timeouts of totem, encryption and logging, but its keys are in the map. As in the
    /// daemon, values may have bytes that are not UTF-8.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the number of the line: what the daemon refuses too, and what
    /// the embedded one cannot do. That is another transport than knet, more than one link, another
    /// quorum provider than votequorum, and nodes without `nodeid` or `ring0_addr`. It has no number
    /// where the whole file has no quorum provider, or no node.
    pub fn config_file(mut self, text: impl AsRef<[u8]>) -> Result<Self> {
        let keys = config_file::read(text.as_ref(), &|who, name| match who {
            Who::User => process::user_id(name),
            Who::Group => process::group_id(name),
        })?;
        self.options.take(keys)?;
        Ok(self)
    }

    /// The ids of the nodelist, in its order.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.options.config.nodes.iter().map(|node| node.id).collect()
    }

    /// Sets the libqb version whose connection protocol the nodes speak, and with it the corosync
    /// version whose messages they speak: 1.99.9 for [`Generation::Libqb010`], 3.1.7 for
    /// [`Generation::Libqb104`] and 2.4.6 for those between. A node before 3.1.7 crashes, as that
    /// corosync does, on a request that it does not know.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.options.generation = generation;
        self.options.config.version = version(generation);
        self
    }

    /// Sets the transport between the nodes and their clients. Default: shared memory.
    ///
    /// Matches `system { qb_ipc_type }` in corosync.conf, and sets that key of the map.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.options.transport = transport;
        self
    }

    /// Sets whether the nodes serve evs too. corosync 1.99 has it, 3.1.7 does not. Default: no.
    pub fn evs(mut self, is_on: bool) -> Self {
        self.options.has_evs = is_on;
        self
    }
}

impl Options {
    /// Takes the keys of a corosync.conf.
    fn take(&mut self, keys: Vec<Key>) -> Result<()> {
        // By position: the line of the first key, and what the node has.
        let mut nodes: BTreeMap<u32, (usize, Listed)> = BTreeMap::new();
        let mut has_provider = false;
        for Key { line, name, value } in keys {
            let of_node = name.strip_prefix("nodelist.node.").and_then(|it| it.split_once('.'));
            if let Some((position, field)) = of_node {
                let position = position.parse().unwrap_or_default();
                let (_, node) = nodes.entry(position).or_insert((line, Listed::default()));
                match (field, value) {
                    ("nodeid", Value::U32(id)) => node.id = Some((line, NodeId(id))),
                    ("ring0_addr", Value::String(address)) => node.address = Some(address),
                    ("ring0_addr", _) => {
                        return Err(config_file::wrong(line, "ring0_addr is not UTF-8"));
                    }
                    ("name", Value::String(name)) => node.name = name,
                    ("quorum_votes", Value::U32(votes)) => node.votes = Some(votes),
                    (field, _) if field.starts_with("ring") && field.ends_with("_addr") => {
                        let what = format!("{field}: an embedded node has one link, ring0_addr");
                        return Err(config_file::wrong(line, what));
                    }
                    (_, value) => self.config.settings.push((name, value)),
                }
                continue;
            }
            match (name.as_str(), &value) {
                ("totem.cluster_name", Value::String(name)) => {
                    self.config.cluster_name.clone_from(name)
                }
                ("totem.cluster_name", _) => {
                    let what = "totem.cluster_name: that of embedded nodes is UTF-8";
                    return Err(config_file::wrong(line, what));
                }
                ("totem.version", Value::U32(2)) => {}
                ("totem.version", _) => {
                    return Err(config_file::wrong(line, "totem.version is 2, and nothing else"));
                }
                ("totem.transport", Value::String(transport)) if transport == "knet" => {}
                ("totem.transport", _) => {
                    let what = "totem.transport: embedded nodes have knet, and nothing else";
                    return Err(config_file::wrong(line, what));
                }
                ("quorum.provider", Value::String(provider)) if provider == PROVIDER => {
                    has_provider = true;
                }
                ("quorum.provider", _) => {
                    let what = format!(
                        "quorum.provider: embedded nodes have {PROVIDER}, and nothing else"
                    );
                    return Err(config_file::wrong(line, what));
                }
                ("system.qb_ipc_type", Value::String(kind)) => {
                    self.transport =
                        if kind == "socket" { Transport::Socket } else { Transport::Shm };
                }
                _ => self.config.settings.push((name, value)),
            }
        }
        if !has_provider {
            let what =
                format!("no quorum.provider: write `provider: {PROVIDER}` in the section quorum");
            return Err(Error::invalid(config_file::FILE, what));
        }
        for (line, node) in nodes.into_values() {
            let missing = |what| config_file::wrong(line, format!("a node without {what}"));
            let (line_of_id, id) = node.id.ok_or_else(|| missing("nodeid"))?;
            let address = node.address.ok_or_else(|| missing("ring0_addr"))?;
            if id == NodeId(0) || self.config.nodes.iter().any(|other| other.id == id) {
                let what = format!("nodeid {id} is 0 or another node's");
                return Err(config_file::wrong(line_of_id, what));
            }
            self.add_node(id, node.name, address, node.votes);
        }
        if self.config.nodes.is_empty() {
            let what = "no node: write a section nodelist, and in it a section node for each, with \
                        nodeid and ring0_addr";
            return Err(Error::invalid(config_file::FILE, what));
        }
        Ok(())
    }

    pub(super) fn add_node(
        &mut self,
        id: NodeId,
        name: String,
        address: String,
        votes: Option<u32>,
    ) {
        self.config.nodes.push(NodeConfig { id, name, address, votes });
    }

    /// Starts a cluster in which only `ids` of the nodelist ever run.
    pub(super) fn start(mut self, ids: &[NodeId]) -> Result<Cluster> {
        self.check(ids)?;
        if self.transport == Transport::Socket {
            let key = match self.generation {
                Generation::Libqb104 => "system.qb_ipc_type",
                _ => "qb.ipc_type",
            };
            self.config.settings.push((key.to_owned(), "socket".into()));
        }
        let mut markings: BTreeMap<PathBuf, Arc<Marking>> = BTreeMap::new();
        let mut marking = |root: &Path| -> Arc<Marking> {
            Arc::clone(
                markings
                    .entry(root.to_path_buf())
                    .or_insert_with_key(|root| Arc::new(Marking::new(root))),
            )
        };
        let mut nodes = Vec::new();
        for id in ids {
            let (endpoint, directory) = match self.endpoints.get(id) {
                Some(endpoint) => (endpoint.clone(), None),
                None => {
                    let directory =
                        PrivateDirectory::create(&marking(Path::new(SHARED_MEMORY)).get()?)?;
                    (
                        Endpoint::new().socket_dir(&directory.path).shm_root(&directory.path),
                        Some(directory),
                    )
                }
            };
            let ended = Arc::new(
                Wakeup::new().map_err(|source| Error::system("starting a server", source))?,
            );
            nodes.push(NodeSlot { id: *id, endpoint, ended, directory });
        }
        let started_at = Instant::now();
        let mut config = self.config.clone();
        if self.has_evs {
            // By which clients know that it is there.
            let number = Value::U16(ServiceId::Evs.number() as u16);
            config.settings.push((evs::SERVICE_ID.to_owned(), number));
        }
        let mut world = World::new(ids.iter().map(|id| (*id, config.clone())).collect(), self.seed);
        let running: Vec<usize> = (0..ids.len())
            .filter(|index| !ids.get(*index).is_some_and(|id| self.down.contains(id)))
            .collect();
        // No client is connected yet, so the outputs are dropped.
        start_daemons(&mut world, started_at, &running).1?;
        let builder = Listener::<Host>::builder()
            .generation(self.generation)
            .transport(self.transport)
            .seed(self.seed)
            .event_queue(EVENT_QUEUE, Overflow::Disconnect);
        let services = ServiceId::all(self.has_evs);
        let is_paced = |service: &ServiceId| matches!(service, ServiceId::Cpg | ServiceId::Evs);
        let indices = nodes.iter().flat_map(|_| services).enumerate();
        let builder =
            builder.paced(indices.filter(|(_, service)| is_paced(service)).map(|(index, _)| index));
        let builder = nodes.iter().fold(builder, |builder, node| {
            // A private directory is removed with its content, so only other roots are marked.
            let marking = node.directory.is_none().then(|| marking(node.endpoint.shm_root_path()));
            let builder = builder.endpoint(&node.endpoint).marking(marking);
            services.iter().fold(builder, |builder, service| builder.service(service.name()))
        });
        let clock =
            if self.is_real_time { Clock::Real } else { Clock::Driven(started_at, Duration::ZERO) };
        let ended = nodes.iter().map(|node| Arc::clone(&node.ended)).collect();
        let listener = builder.start(Host::new(world, ended, clock, services))?;
        listener.with(move |host, connections| {
            let down =
                (0..host.nodes()).filter(|node| !running.contains(node)).map(ClientOutput::Exit);
            host.drive(connections, |_, _| (down.collect(), ()));
        })?;
        Ok(Cluster { listener, nodes, name: self.config.cluster_name, transport: self.transport })
    }

    fn check(&self, ids: &[NodeId]) -> Result<()> {
        let listed: Vec<NodeId> = self.config.nodes.iter().map(|node| node.id).collect();
        if listed.len() > MAX_NODES as usize {
            let reason = format!("{} nodes exceed the maximum of {MAX_NODES}", listed.len());
            return Err(Error::invalid("nodes", reason));
        }
        for (at, id) in listed.iter().enumerate() {
            if *id == NodeId(0) {
                return Err(Error::invalid("node id", "a node id must not be 0"));
            }
            if listed.iter().skip(at + 1).any(|other| other == id) {
                return Err(Error::invalid("nodes", format!("node {id} is listed twice")));
            }
        }
        let named = ids.iter().map(|id| ("nodes", id));
        let named = named.chain(self.endpoints.keys().map(|id| ("endpoint", id)));
        let named = named.chain(self.down.iter().map(|id| ("down", id)));
        for (argument, id) in named {
            if !listed.contains(id) {
                return Err(Error::invalid(argument, format!("node {id} is not in the nodelist")));
            }
        }
        Ok(())
    }
}

/// A directory for sockets and rings. Dropping it removes it with its content.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// The mark must outlive the directory: fields drop after [`Drop::drop`].
    _mark: Mark,
}

impl PrivateDirectory {
    fn create(marker: &Arc<Marker>) -> Result<Self> {
        let failed = |source: std::io::Error| {
            Error::system(format!("creating a directory in {SHARED_MEMORY}"), source)
        };
        let parent = file::open_directory(Path::new(SHARED_MEMORY), []).map_err(failed)?;
        let prefix = format!("corosync-ipc-{}-", std::process::id());
        let (name, directory) = serve::create_directory(&parent, &prefix, 0o700).map_err(failed)?;
        let path = Path::new(SHARED_MEMORY).join(&name);
        let mark = marker.mark(&name, &directory).inspect_err(|_| {
            file::remove_directory(&parent, &name);
        });
        Ok(Self { _mark: mark.map_err(failed)?, parent, name, path })
    }
}

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        file::remove_directory(&self.parent, &self.name);
    }
}

/// Returns the corosync version that goes with a libqb version.
fn version(generation: Generation) -> Version {
    match generation {
        Generation::Libqb010 => Version::V1_99,
        Generation::Libqb013 | Generation::Libqb014 | Generation::Libqb015 => Version::V2_4,
        Generation::Libqb104 => Version::V3_1,
    }
}
