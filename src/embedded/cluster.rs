//! Several embedded daemons and the network between them.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::{Builder, MAX_NODES, PrivateDirectory};
use super::host::{Clock, Host};
use super::node::{Ending, ServiceId};
use super::world::{ClientOutput, World};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::libqb::server::{Listener, Transport};
use crate::sys::event::Wakeup;
use crate::wire::values::NodeId;

/// The limit of a cluster's clock: a hundred years after its start.
const END_OF_TIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Several embedded daemons in one cluster. Each answers as corosync 3.1.7 does.
///
/// A test partitions the network and kills, stops, starts and pauses nodes; clients see what they
/// see of a real cluster. Such a method first serves the requests that clients sent before the
/// call. When it returns, all consequences have happened and their events are in the clients'
/// rings.
///
/// Nothing depends on real time, unless [`Builder::real_time`] says so: timers, such as that of a
/// quorum device, expire when [`Cluster::advance`] moves the cluster's own clock. The
/// [seed](Builder::seed) decides each order that the test leaves open, such as which of several
/// messages sent at the same time is first. Requests that clients send between two such calls are
/// served in the order of their arrival; [`Cluster::hold`] makes them wait, so that the seed
/// decides their order too.
///
/// ```
/// use corosync_ipc::{quorum, embedded::Cluster};
///
/// let cluster = Cluster::start(3)?;
/// let quorum = quorum::Client::connect_to(cluster.node(1)?.endpoint())?;
/// assert!(quorum.is_quorate()?);
/// cluster.partition(&[&[1], &[2, 3]])?;
/// assert!(!quorum.is_quorate()?);
/// cluster.heal()?;
/// assert!(quorum.is_quorate()?);
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
#[derive(Debug)]
pub struct Cluster {
    // Declared before the directories in `nodes`, so that it removes its files first.
    pub(super) listener: Listener<Host>,
    pub(super) nodes: Vec<NodeSlot>,
    pub(super) name: String,
    pub(super) transport: Transport,
}

/// A node of the nodelist, whether its daemon runs or not.
#[derive(Debug)]
pub(super) struct NodeSlot {
    pub(super) id: NodeId,
    pub(super) endpoint: Endpoint,
    /// Readable while the daemon does not run.
    pub(super) ended: Arc<Wakeup>,
    /// Removed with the slot.
    pub(super) directory: Option<PrivateDirectory>,
}

/// A node of a [`Cluster`].
#[derive(Clone, Copy, Debug)]
pub struct ClusterNode<'a> {
    cluster: &'a Cluster,
    index: usize,
    slot: &'a NodeSlot,
}

impl ClusterNode<'_> {
    /// The node's id.
    pub fn id(&self) -> NodeId {
        self.slot.id
    }

    /// The endpoint that the node's clients connect to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.slot.endpoint
    }

    /// Returns true while the node's daemon runs, paused or not. It does not run before it is
    /// started, after it was killed or stopped, and after a client has shut it down.
    pub fn is_running(&self) -> bool {
        let index = self.index;
        self.cluster
            .listener
            .with(move |host, _| host.world().daemon(index).is_some())
            .unwrap_or(false)
    }

    /// The number of clients connected to the node.
    pub fn connections(&self) -> usize {
        let index = self.index;
        let count = self.cluster.listener.with(move |host, connections| {
            let services = host.services_of(index);
            let ids = connections.ids().into_iter();
            ids.filter_map(|id| Some(connections.get(id)?.service_index()))
                .filter(|service_index| services.contains(service_index))
                .count()
        });
        count.unwrap_or(0)
    }
}

/// The descriptor polls readable while the node's daemon does not run.
impl AsFd for ClusterNode<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.slot.ended.as_fd()
    }
}

/// The requests that [`Cluster::refuse`] makes a node refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// No requests.
    None,
    /// This many requests, from the next one on.
    Next(u32),
    /// All requests, until the next call.
    All,
}

/// Settings of a cluster.
impl Builder<Cluster> {
    /// Adds the nodes 1 to `count`, named `n` and their id, at 127.0.0.1 and the addresses that
    /// follow.
    pub fn nodes(self, count: u32) -> Self {
        // `start` refuses one node too many as well as any larger number.
        (1..=count.min(MAX_NODES + 1)).fold(self, |builder, id| {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() | id);
            builder.node(id, format!("n{id}"), address.to_string(), None)
        })
    }

    /// Sets where a node listens and creates its rings. Default: sockets in a private directory,
    /// which is removed with the cluster.
    pub fn endpoint(mut self, id: impl Into<NodeId>, endpoint: &Endpoint) -> Self {
        self.options.endpoints.insert(id.into(), endpoint.clone());
        self
    }

    /// Leaves a node down when the cluster starts. [`Cluster::start_node`] starts it.
    pub fn down(mut self, id: impl Into<NodeId>) -> Self {
        self.options.down.push(id.into());
        self
    }

    /// Sets the seed of the generator that decides each order which the test leaves open. The same
    /// seed leads to the same order. Default: 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Makes the cluster live in real time instead of by its own clock. For servers rather than
    /// tests.
    pub fn real_time(mut self) -> Self {
        self.options.is_real_time = true;
        self
    }

    /// Starts the cluster. When this returns, clients can connect and the nodes have formed their
    /// ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a cluster without nodes, for a node that is set up but not in
    /// the nodelist, and for a configuration that corosync does not start with; as
    /// [`libqb::server::Builder::start`](crate::libqb::server::Builder::start).
    pub fn start(self) -> Result<Cluster> {
        let ids: Vec<NodeId> = self.options.config.nodes.iter().map(|node| node.id).collect();
        if ids.is_empty() {
            return Err(Error::invalid("nodes", "a cluster needs at least one node"));
        }
        self.options.start(&ids)
    }
}

impl Cluster {
    /// Starts the nodes 1 to `nodes` with the default configuration at private endpoints.
    ///
    /// # Errors
    /// As the [builder's `start`](Builder#impl-Builder%3CCluster%3E).
    pub fn start(nodes: u32) -> Result<Self> {
        Self::builder().nodes(nodes).start()
    }

    /// Returns a builder of a cluster without nodes.
    pub fn builder() -> Builder<Self> {
        Builder::new(false)
    }

    /// Returns the node with this id.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the cluster has no such node.
    pub fn node(&self, id: impl Into<NodeId>) -> Result<ClusterNode<'_>> {
        let id = id.into();
        let node = self.nodes().find(|node| node.id() == id);
        node.ok_or_else(|| Error::invalid("node", format!("the cluster has no node {id}")))
    }

    /// `totem.cluster_name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How messages travel between nodes and their clients.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Returns all nodes in the order in which the builder added them.
    pub fn nodes(&self) -> impl Iterator<Item = ClusterNode<'_>> {
        let nodes = self.nodes.iter().enumerate();
        nodes.map(|(index, slot)| ClusterNode { cluster: self, index, slot })
    }

    // --- the network ---

    /// Partitions the network into these parts. The nodes that no part names form one more part.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have or that is named twice.
    /// [`Error::Finalized`] when the server's thread has ended, as from every method here.
    pub fn partition(&self, parts: &[&[u32]]) -> Result<()> {
        let mut named = Vec::new();
        for id in parts.iter().copied().flatten().copied().map(NodeId) {
            self.node(id)?;
            if named.contains(&id) {
                return Err(Error::invalid("parts", format!("node {id} is named twice")));
            }
            named.push(id);
        }
        let parts: Vec<Vec<NodeId>> =
            parts.iter().map(|part| part.iter().copied().map(NodeId).collect()).collect();
        self.drive(move |world, now| Ok(world.partition(now, &parts)))
    }

    /// Ends the partition: all nodes reach each other again.
    ///
    /// # Errors
    /// [`Error::Finalized`] when the server's thread has ended.
    pub fn heal(&self) -> Result<()> {
        self.partition(&[])
    }

    // --- daemons ---

    /// Kills a node's daemon as SIGKILL does: its clients are disconnected, and the other nodes
    /// lose it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have or that does not run.
    pub fn kill(&self, id: impl Into<NodeId>) -> Result<()> {
        self.end(id.into(), Ending::Killed)
    }

    /// Stops a node's daemon in good order, as `systemctl stop corosync` does: its processes leave
    /// their groups before it leaves the cluster.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have, that does not run or
    /// that is paused.
    pub fn stop(&self, id: impl Into<NodeId>) -> Result<()> {
        self.end(id.into(), Ending::Stopped)
    }

    fn end(&self, id: NodeId, ending: Ending) -> Result<()> {
        let index = self.node(id)?.index;
        self.drive(move |world, now| {
            check(world.daemon(index).is_some(), id, "does not run")?;
            check(ending == Ending::Killed || !world.is_paused(index), id, "is paused")?;
            Ok(world.end(now, index, ending))
        })
    }

    /// Starts the daemon of a node that does not run. It keeps nothing of its last run but the
    /// number of its last ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have or that runs; as
    /// [`libqb::server::Builder::start`](crate::libqb::server::Builder::start).
    pub fn start_node(&self, id: impl Into<NodeId>) -> Result<()> {
        let id = id.into();
        let ClusterNode { index, slot, .. } = self.node(id)?;
        let ended = Arc::clone(&slot.ended);
        let started = self.listener.drive(move |host, connections| {
            check(host.world().daemon(index).is_none(), id, "runs already")?;
            for service in host.services_of(index) {
                if let Err(error) = connections.open_service(service) {
                    host.services_of(index).for_each(|opened| connections.close_service(opened));
                    return Err(error);
                }
            }
            host.drive(connections, |world, now| start_daemons(world, now, &[index]))?;
            ended.clear();
            Ok(())
        });
        started.and_then(|result| result)
    }

    /// Pauses a node as SIGSTOP does: it answers no client, and the other nodes form a ring without
    /// it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have, that does not run or
    /// that is paused already.
    pub fn pause(&self, id: impl Into<NodeId>) -> Result<()> {
        self.set_paused(id.into(), true)
    }

    /// Resumes a paused node, as SIGCONT does. It finds its token lost and joins the other nodes at
    /// once. A real node may form a ring of its own first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that the cluster does not have or that is not paused.
    pub fn resume(&self, id: impl Into<NodeId>) -> Result<()> {
        self.set_paused(id.into(), false)
    }

    fn set_paused(&self, id: NodeId, is_paused: bool) -> Result<()> {
        let index = self.node(id)?.index;
        self.drive(move |world, now| {
            check(world.daemon(index).is_some(), id, "does not run")?;
            let problem = if is_paused { "is paused already" } else { "is not paused" };
            check(world.is_paused(index) != is_paused, id, problem)?;
            Ok(world.pause(now, index, is_paused))
        })
    }

    // --- requests ---

    /// Holds the requests to a service (`cpg`, `quorum`, ...) of a node until [`Cluster::release`].
    /// Clients can still connect and get events. The service also notices only after the release
    /// that a client is gone.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node or service that the cluster does not have.
    pub fn hold(&self, id: impl Into<NodeId>, service: &str) -> Result<()> {
        self.set_held(id.into(), service, true)
    }

    /// Serves the requests that [`Cluster::hold`] has held, in an order that the seed decides.
    ///
    /// # Errors
    /// As [`Cluster::hold`].
    pub fn release(&self, id: impl Into<NodeId>, service: &str) -> Result<()> {
        self.set_held(id.into(), service, false)
    }

    /// Releases the held requests to all services of all nodes.
    ///
    /// # Errors
    /// [`Error::Finalized`] when the server's thread has ended.
    pub fn release_all(&self) -> Result<()> {
        self.listener.drive(Host::release_all)
    }

    fn set_held(&self, id: NodeId, service: &str, is_held: bool) -> Result<()> {
        let service = self.service_index(id, service)?;
        self.listener.drive(move |host, connections| host.hold(connections, service, is_held))
    }

    /// Refuses requests to a service of a node with [`TryAgain`](crate::CsError::TryAgain), as a
    /// busy daemon does. A refused multicast is lost, since no multicast is answered; it counts as
    /// a request. The refusal ends when the node's daemon ends.
    ///
    /// # Errors
    /// As [`Cluster::hold`].
    pub fn refuse(&self, id: impl Into<NodeId>, service: &str, which: Refuse) -> Result<()> {
        let service = self.service_index(id.into(), service)?;
        self.listener.drive(move |host, _| host.refuse(service, which))
    }

    // --- time ---

    /// The time since the cluster's start by its own clock.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a cluster in real time.
    pub fn now(&self) -> Result<Duration> {
        match self.listener.with(|host, _| host.clock())? {
            Clock::Driven(_, elapsed) => Ok(elapsed),
            Clock::Real => Err(Error::invalid("clock", "this cluster runs in real time")),
        }
    }

    /// Advances the cluster's clock. Each timer that is due meanwhile expires at its time.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a time more than a hundred years after the start, and for a
    /// cluster in real time.
    pub fn advance(&self, by: Duration) -> Result<()> {
        if self.now()?.checked_add(by).is_none_or(|until| until > END_OF_TIME) {
            return Err(Error::invalid("duration", "the clock ends after a hundred years"));
        }
        self.listener.drive(move |host, connections| host.advance(connections, by))
    }

    // --- helpers ---

    fn service_index(&self, id: NodeId, service: &str) -> Result<usize> {
        let node = self.node(id)?.index;
        let known = ServiceId::all(true).iter().find(|known| known.name() == service).copied();
        let index = self.listener.with(move |host, _| host.service_index(node, known?))?;
        index.ok_or_else(|| {
            Error::invalid("service", format!("node {id} has no service \"{service}\""))
        })
    }

    fn drive(
        &self,
        body: impl FnOnce(&mut World, Instant) -> Result<Vec<ClientOutput>> + Send + 'static,
    ) -> Result<()> {
        let driven = self.listener.drive(move |host, connections| {
            host.drive(connections, |world, now| match body(world, now) {
                Ok(outputs) => (outputs, Ok(())),
                Err(error) => (Vec::new(), Err(error)),
            })
        });
        driven.and_then(|result| result)
    }
}

fn check(condition: bool, id: NodeId, problem: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::invalid("node", format!("node {id} {problem}"))) }
}

pub(super) fn start_daemons(
    world: &mut World,
    now: Instant,
    nodes: &[usize],
) -> (Vec<ClientOutput>, Result<()>) {
    match world.start(now, nodes) {
        Ok(outputs) => (outputs, Ok(())),
        Err(reason) => (Vec::new(), Err(Error::invalid("settings", reason))),
    }
}
