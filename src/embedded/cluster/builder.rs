//! What a cluster is made of.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::daemon::{Clock, Daemon};
use super::super::node::{Age, Config, NodeConfig, ServiceId};
use super::super::world::{ClientOutput, World};
use super::{Cluster, NodeSlot, start_daemons};
use crate::cmap::Value;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::libqb::server::{Generation, Listener, Overflow};
use crate::libqb::server::{Mark, Marker, Marking};
use crate::sys::event::Wakeup;
use crate::sys::{file, serve};
use crate::wire::values::NodeId;

/// How much waits for a client that does not read, in bytes. The daemon has no limit.
const EVENT_QUEUE: usize = 256 << 20;

/// The most nodes of a cluster. Matches `PROCESSOR_COUNT_MAX`.
const MAX_NODES: u32 = 384;

/// Where the private directories of embedded daemons are made. Rings must lie in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Configures a [`Cluster`].
#[must_use]
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    endpoints: BTreeMap<NodeId, Endpoint>,
    generation: Generation,
    seed: u64,
    is_real_time: bool,
    has_evs: bool,
    down: Vec<NodeId>,
    config: Config,
}

impl ClusterBuilder {
    pub(super) fn new() -> Self {
        Self {
            endpoints: BTreeMap::new(),
            generation: Generation::default(),
            seed: 0,
            is_real_time: false,
            has_evs: false,
            down: Vec::new(),
            config: Config {
                age: Age::default(),
                cluster_name: "embedded".to_owned(),
                nodes: Vec::new(),
                settings: Vec::new(),
            },
        }
    }

    /// `totem.cluster_name`. Default: `embedded`.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.config.cluster_name = name.into();
        self
    }

    /// Adds a node: its id, name, address and, where they are configured, votes.
    pub fn node(
        mut self,
        id: impl Into<NodeId>,
        name: impl Into<String>,
        address: impl Into<String>,
        votes: Option<u32>,
    ) -> Self {
        self.config.nodes.push(NodeConfig {
            id: id.into(),
            name: name.into(),
            address: address.into(),
            votes,
        });
        self
    }

    /// Adds the nodes 1 to this number, named `n` and their id, at 127.0.0.1 and so on.
    pub fn nodes(self, count: u32) -> Self {
        // One too many is enough to be refused.
        (1..=count.min(MAX_NODES + 1)).fold(self, |builder, id| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() | id);
            builder.node(id, format!("n{id}"), address.to_string(), None)
        })
    }

    /// Where a node listens and makes its rings. Default: at sockets in a directory of its own,
    /// which is gone with the cluster.
    pub fn endpoint(mut self, id: impl Into<NodeId>, endpoint: &Endpoint) -> Self {
        self.endpoints.insert(id.into(), endpoint.clone());
        self
    }

    /// A node that does not run at first.
    pub fn down(mut self, id: impl Into<NodeId>) -> Self {
        self.down.push(id.into());
        self
    }

    /// Sets a key that corosync.conf would set on all nodes, such as `quorum.two_node` (a `u8`) or
    /// `totem.token` (a `u32`), before the services start. The daemon's parser decides on the
    /// types; a key with another type than its own is not seen by the services.
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.config.settings.push((key.into(), value.into()));
        self
    }

    /// Which libqb the nodes speak as, and the messages of which corosync: 1.99.9 with
    /// [`Generation::Libqb010`], 3.1.7 with [`Generation::Libqb104`], 2.4.6 with those between.
    /// As these do, a node before 3.1.7 ends when it is asked what it does not know.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.generation = generation;
        self.config.age = age(generation);
        self
    }

    /// What decides on every order that nobody gives. The same seed decides the same. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Lets the cluster live in real time instead of by its own clock: for servers rather than
    /// tests.
    pub fn real_time(mut self) -> Self {
        self.is_real_time = true;
        self
    }

    /// Serves evs too, which corosync 1.99 has and 3.1.7 does not.
    pub fn evs(mut self, is_on: bool) -> Self {
        self.has_evs = is_on;
        self
    }

    /// Starts it. When this returns clients can connect, and the nodes have formed their ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a configuration with which corosync does not start, or for
    /// one that names nodes which are not
    /// there; as [`Builder::start`](crate::libqb::server::Builder::start).
    pub fn start(self) -> Result<Cluster> {
        if self.config.nodes.is_empty() {
            return Err(Error::invalid("nodes", "a cluster needs one at least"));
        }
        let ids: Vec<NodeId> = self.config.nodes.iter().map(|node| node.id).collect();
        self.start_only(&ids)
    }

    /// As [`ClusterBuilder::start`]; nodes of the nodelist but these never run.
    pub(in crate::embedded) fn start_only(self, ids: &[NodeId]) -> Result<Cluster> {
        self.check(ids)?;
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
        let beginning = Instant::now();
        let mut world =
            World::new(ids.iter().map(|id| (*id, self.config.clone())).collect(), self.seed);
        let running: Vec<usize> = (0..ids.len())
            .filter(|at| !ids.get(*at).is_some_and(|id| self.down.contains(id)))
            .collect();
        // Nobody is connected yet.
        start_daemons(&mut world, beginning, &running).1?;
        let builder = Listener::<Daemon>::builder()
            .generation(self.generation)
            .seed(self.seed)
            .event_queue(EVENT_QUEUE, Overflow::Disconnect);
        let services = ServiceId::all(self.has_evs);
        let is_paced = |service: &ServiceId| matches!(service, ServiceId::Cpg | ServiceId::Evs);
        let places = nodes.iter().flat_map(|_| services).enumerate();
        let builder =
            builder.paced(places.filter(|(_, service)| is_paced(service)).map(|(place, _)| place));
        let builder = nodes.iter().fold(builder, |builder, node| {
            // What is in a private directory goes with it.
            let marking = node.directory.is_none().then(|| marking(node.endpoint.shm_root_path()));
            let builder = builder.endpoint(&node.endpoint).marking(marking);
            services.iter().fold(builder, |builder, service| builder.service(service.name()))
        });
        let clock =
            if self.is_real_time { Clock::Real } else { Clock::Driven(beginning, Duration::ZERO) };
        let ended = nodes.iter().map(|node| Arc::clone(&node.ended)).collect();
        let listener = builder.start(Daemon::new(world, ended, clock, services))?;
        listener.with(move |daemon, connections| {
            let down = (0..daemon.nodes())
                .filter(|number| !running.contains(number))
                .map(ClientOutput::Exit);
            daemon.drive(connections, |_, _| (down.collect(), ()));
        })?;
        Ok(Cluster { listener, nodes })
    }

    /// Whether there is a nodelist.
    pub(in crate::embedded) fn has_nodes(&self) -> bool {
        !self.config.nodes.is_empty()
    }

    fn check(&self, ids: &[NodeId]) -> Result<()> {
        let listed: Vec<NodeId> = self.config.nodes.iter().map(|node| node.id).collect();
        if listed.len() > MAX_NODES as usize {
            return Err(Error::invalid(
                "nodes",
                format!("{} are more than {MAX_NODES}", listed.len()),
            ));
        }
        for (at, id) in listed.iter().enumerate() {
            if *id == NodeId(0) {
                return Err(Error::invalid("node id", "0 is no node"));
            }
            if listed.iter().skip(at + 1).any(|other| other == id) {
                return Err(Error::invalid("nodes", format!("node {id} is there twice")));
            }
        }
        let named = ids.iter().map(|id| ("nodes", id));
        let named = named.chain(self.endpoints.keys().map(|id| ("endpoint", id)));
        let named = named.chain(self.down.iter().map(|id| ("down", id)));
        for (argument, id) in named {
            if !listed.contains(id) {
                return Err(Error::invalid(argument, format!("node {id} is not among them")));
            }
        }
        Ok(())
    }
}

/// A directory for sockets and rings that is removed with what is left in it.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    parent: OwnedFd,
    name: OsString,
    path: PathBuf,
    /// Dropped last, when the directory is gone.
    _mark: Mark,
}

impl PrivateDirectory {
    fn create(marker: &Arc<Marker>) -> Result<Self> {
        let failed = |source: std::io::Error| {
            Error::system(format!("making a directory in {SHARED_MEMORY}"), source)
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

/// Which corosync was the user of a libqb.
fn age(generation: Generation) -> Age {
    match generation {
        Generation::Libqb010 => Age::V1_99,
        Generation::Libqb013 | Generation::Libqb014 | Generation::Libqb015 => Age::V2_4,
        Generation::Libqb104 => Age::V3_1,
    }
}
