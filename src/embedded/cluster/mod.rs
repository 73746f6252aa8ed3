//! Several embedded daemons and the network between them, which a test drives.

mod builder;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use builder::ClusterBuilder;

use self::builder::PrivateDirectory;
use super::daemon::{Clock, Daemon};
use super::node::{Ending, ServiceId};
use super::world::{ClientOutput, World};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::libqb::server::Listener;
use crate::sys::event::Wakeup;
use crate::wire::values::NodeId;

/// The latest time there is on a cluster's clock: a hundred years.
const END_OF_TIME: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// Several embedded daemons in one cluster, each of which answers as corosync 3.1.7 does.
///
/// Nodes are parted, killed, stopped, started and paused by the methods of this, and clients see
/// what they see of a real cluster. When such a method returns all that follows has happened, and
/// the events are in the clients' rings. It begins by serving what clients sent before it was
/// called.
///
/// Nothing depends on time: timers, such as that of a quorum device, expire when
/// [`Cluster::advance`] moves the cluster's own clock. What nobody decides on, such as which of
/// several messages sent at the same time is the first, the seed decides on. Clients that send
/// while nobody drives are served as they come; [`Cluster::hold`] makes what they send wait, to be
/// put in the seed's order.
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
    // Before the directories: its files go first.
    listener: Listener<Daemon>,
    nodes: Vec<NodeSlot>,
}

/// A node's place.
#[derive(Debug)]
struct NodeSlot {
    id: NodeId,
    endpoint: Endpoint,
    /// Rings while its daemon does not run.
    ended: Arc<Wakeup>,
    /// Removed with it.
    directory: Option<PrivateDirectory>,
}

/// A node of a [`Cluster`].
#[derive(Clone, Copy, Debug)]
pub struct ClusterNode<'a> {
    cluster: &'a Cluster,
    number: usize,
    seat: &'a NodeSlot,
}

impl ClusterNode<'_> {
    /// Its id.
    pub fn id(&self) -> NodeId {
        self.seat.id
    }

    /// Where its clients find it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.seat.endpoint
    }

    /// Whether it does not run: it was killed or stopped, a client shut it down, or it has not been
    /// started yet.
    pub fn has_ended(&self) -> bool {
        let number = self.number;
        self.cluster
            .listener
            .with(move |daemon, _| daemon.world().daemon(number).is_none())
            .unwrap_or(true)
    }

    /// How many clients are connected to it.
    pub fn connections(&self) -> usize {
        let number = self.number;
        let count = self.cluster.listener.with(move |daemon, connections| {
            let places = daemon.places(number);
            connections
                .ids()
                .into_iter()
                .filter(|id| {
                    connections.get(*id).is_some_and(|it| places.contains(&it.service_index()))
                })
                .count()
        });
        count.unwrap_or(0)
    }
}

/// Readable while [`ClusterNode::has_ended`].
impl AsFd for ClusterNode<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.seat.ended.as_fd()
    }
}

/// Which requests a node refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuse {
    /// None.
    None,
    /// So many that come next.
    Next(u32),
    /// All, until something else is said.
    All,
}

impl Cluster {
    /// Starts the nodes 1 to this number, with the default configuration at private endpoints.
    ///
    /// # Errors
    /// As [`ClusterBuilder::start`].
    pub fn start(nodes: u32) -> Result<Self> {
        Self::builder().nodes(nodes).start()
    }

    /// Describes a cluster.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder::new()
    }

    /// A node by its id.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there is none.
    pub fn node(&self, id: impl Into<NodeId>) -> Result<ClusterNode<'_>> {
        let number = self.number(id.into())?;
        let seat = self.nodes.get(number).ok_or_else(|| Error::invalid("node", "there is none"))?;
        Ok(ClusterNode { cluster: self, number, seat })
    }

    /// All nodes, in the order in which the builder was told of them.
    pub fn nodes(&self) -> impl Iterator<Item = ClusterNode<'_>> {
        self.nodes.iter().enumerate().map(|(number, seat)| ClusterNode {
            cluster: self,
            number,
            seat,
        })
    }

    // --- the network ---

    /// Cuts the network into these parts; nodes that are not named form one more.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there or named twice.
    pub fn partition(&self, parts: &[&[u32]]) -> Result<()> {
        let mut named = Vec::new();
        for id in parts.iter().copied().flatten().copied().map(NodeId) {
            self.number(id)?;
            if named.contains(&id) {
                return Err(Error::invalid(
                    "parts",
                    format!("node {id} is in two of them, or twice in one"),
                ));
            }
            named.push(id);
        }
        let parts: Vec<Vec<NodeId>> =
            parts.iter().map(|part| part.iter().copied().map(NodeId).collect()).collect();
        self.drive(move |world, now| Ok(world.partition(now, &parts)))
    }

    /// Undoes [`Cluster::partition`].
    ///
    /// # Errors
    /// [`Error::Finalized`] when the server's thread has ended, as with all of these.
    pub fn heal(&self) -> Result<()> {
        self.partition(&[])
    }

    // --- daemons ---

    /// Ends a node's daemon as SIGKILL does: its clients find it gone, and the other nodes miss it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there or does not run.
    pub fn kill(&self, id: impl Into<NodeId>) -> Result<()> {
        self.end(id.into(), Ending::Killed)
    }

    /// Stops a node's daemon in good order, as `systemctl stop corosync`: its processes leave their
    /// groups before it leaves the cluster.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there, does not run or is paused.
    pub fn stop(&self, id: impl Into<NodeId>) -> Result<()> {
        self.end(id.into(), Ending::Stopped)
    }

    fn end(&self, id: NodeId, how: Ending) -> Result<()> {
        let number = self.number(id)?;
        self.drive(move |world, now| {
            check(world.daemon(number).is_some(), id, "does not run")?;
            check(how == Ending::Killed || !world.is_paused(number), id, "is paused")?;
            Ok(world.end(now, number, how))
        })
    }

    /// Starts the daemon of a node that does not run, anew: it knows nothing of before but the
    /// number of its last ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there or runs; as
    /// [`crate::libqb::server::Builder::start`].
    pub fn start_node(&self, id: impl Into<NodeId>) -> Result<()> {
        let id = id.into();
        let number = self.number(id)?;
        let ended = self.nodes.get(number).map(|seat| Arc::clone(&seat.ended));
        let started = self.listener.drive(move |daemon, connections| {
            check(daemon.world().daemon(number).is_none(), id, "runs")?;
            for place in daemon.places(number) {
                if let Err(error) = connections.open_service(place) {
                    daemon.places(number).for_each(|place| connections.close_service(place));
                    return Err(error);
                }
            }
            daemon.drive(connections, |world, now| start_daemons(world, now, &[number]))?;
            ended.iter().for_each(|wakeup| wakeup.clear());
            Ok(())
        });
        started.and_then(|result| result)
    }

    /// Stops a node as SIGSTOP does: it answers nobody, and the other nodes form a ring without it.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there, does not run or is paused already.
    pub fn pause(&self, id: impl Into<NodeId>) -> Result<()> {
        self.set_paused(id.into(), true)
    }

    /// Lets a paused node go on. It finds that its ring is gone, and joins the others at once; a
    /// real one may be alone for a while first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node that is not there or not paused.
    pub fn resume(&self, id: impl Into<NodeId>) -> Result<()> {
        self.set_paused(id.into(), false)
    }

    fn set_paused(&self, id: NodeId, is_paused: bool) -> Result<()> {
        let number = self.number(id)?;
        self.drive(move |world, now| {
            check(world.daemon(number).is_some(), id, "does not run")?;
            check(
                world.is_paused(number) != is_paused,
                id,
                if is_paused { "is paused already" } else { "is not paused" },
            )?;
            Ok(world.pause(now, number, is_paused))
        })
    }

    // --- requests ---

    /// Makes the requests of the clients of a service (`cpg`, `quorum`, ...) wait until
    /// [`Cluster::release`]. Clients can connect, and get events; that they are gone is noticed
    /// afterwards too.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node or a service that is not there.
    pub fn hold(&self, id: impl Into<NodeId>, service: &str) -> Result<()> {
        self.set_held(id.into(), service, true)
    }

    /// Serves the requests that wait, in an order that the seed decides on.
    ///
    /// # Errors
    /// As [`Cluster::hold`].
    pub fn release(&self, id: impl Into<NodeId>, service: &str) -> Result<()> {
        self.set_held(id.into(), service, false)
    }

    /// Serves all requests that wait, of whatever node and service.
    ///
    /// # Errors
    /// [`Error::Finalized`].
    pub fn release_all(&self) -> Result<()> {
        self.listener.drive(Daemon::release_all)
    }

    fn set_held(&self, id: NodeId, service: &str, is_held: bool) -> Result<()> {
        let place = self.place(id, service)?;
        self.listener.drive(move |daemon, connections| daemon.hold(connections, place, is_held))
    }

    /// Refuses requests of the clients of a service with [`TryAgain`](crate::CsError::TryAgain),
    /// without looking at them. A multicast, which is never answered, is lost then; it counts
    /// too. This ends with the node.
    ///
    /// # Errors
    /// As [`Cluster::hold`].
    pub fn refuse(&self, id: impl Into<NodeId>, service: &str, which: Refuse) -> Result<()> {
        let place = self.place(id.into(), service)?;
        self.listener.drive(move |daemon, _| daemon.refuse(place, which))
    }

    // --- time ---

    /// How long the cluster has been there, by its own clock.
    ///
    /// # Errors
    /// [`Error::Finalized`]; [`Error::InvalidArgument`] for a cluster in real time.
    pub fn now(&self) -> Result<Duration> {
        match self.listener.with(|daemon, _| daemon.clock())? {
            Clock::Driven(_, passed) => Ok(passed),
            Clock::Real => Err(real_time()),
        }
    }

    /// Moves the cluster's clock on. Whatever is due meanwhile happens, each at its time.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a time more than a hundred years after the start, or a
    /// cluster in real time.
    pub fn advance(&self, by: Duration) -> Result<()> {
        if self.now()?.checked_add(by).is_none_or(|until| until > END_OF_TIME) {
            return Err(Error::invalid("duration", "the clock ends after a hundred years"));
        }
        self.listener.drive(move |daemon, connections| daemon.advance(connections, by))
    }

    // --- helpers ---

    fn number(&self, id: NodeId) -> Result<usize> {
        let number = self.nodes.iter().position(|seat| seat.id == id);
        number.ok_or_else(|| Error::invalid("node", format!("there is no node {id}")))
    }

    fn place(&self, id: NodeId, service: &str) -> Result<usize> {
        let number = self.number(id)?;
        let service = ServiceId::all(true).iter().find(|known| known.name() == service).copied();
        let place = self.listener.with(move |daemon, _| daemon.place(number, service?))?;
        place.ok_or_else(|| Error::invalid("service", "there is none of this name"))
    }

    fn drive(
        &self,
        body: impl FnOnce(&mut World, Instant) -> Result<Vec<ClientOutput>> + Send + 'static,
    ) -> Result<()> {
        let driven = self.listener.drive(move |daemon, connections| {
            daemon.drive(connections, |world, now| match body(world, now) {
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

fn real_time() -> Error {
    Error::invalid("clock", "this cluster lives in real time")
}

fn start_daemons(
    world: &mut World,
    now: Instant,
    numbers: &[usize],
) -> (Vec<ClientOutput>, Result<()>) {
    match world.start(now, numbers) {
        Ok(outputs) => (outputs, Ok(())),
        Err(reason) => (Vec::new(), Err(Error::invalid("settings", reason))),
    }
}
