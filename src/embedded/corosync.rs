//! One embedded daemon: a cluster of which a single node runs.

use super::builder::Builder;
use super::cluster::Cluster;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::wire::values::NodeId;

/// An embedded corosync: the only running node of its cluster. See [`Cluster`] for several nodes.
///
/// It answers as corosync 3.1.7 does. It serves cmap, cfg, cpg, quorum and votequorum, and
/// [evs](Builder::evs) on request. Clients of this crate connect to it, and so do C programs if it
/// listens at abstract sockets in a network namespace of its own. Dropping it stops the daemon in
/// good order and leaves no files.
///
/// It runs in real time: timers expire by the system's clock.
///
/// ```
/// use corosync_ipc::{cmap, embedded::Corosync};
///
/// let corosync = Corosync::start()?;
/// let client = cmap::Client::connect_to(corosync.endpoint())?;
/// client.set("test.answer", 42_u32)?;
/// assert_eq!(client.get_as::<u32>("test.answer")?, Some(42));
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
#[derive(Debug)]
pub struct Corosync {
    cluster: Cluster,
    endpoint: Endpoint,
}

impl Corosync {
    /// Starts a daemon with the default configuration at a private endpoint.
    ///
    /// # Errors
    /// As the [builder's `start`](Builder#impl-Builder%3CCorosync%3E).
    pub fn start() -> Result<Self> {
        Self::builder().start()
    }

    /// Returns a builder with the default configuration.
    pub fn builder() -> Builder<Self> {
        Builder::new(true)
    }

    /// The endpoint that clients connect to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Returns false once a client has shut the daemon down or killed its node.
    pub fn is_running(&self) -> bool {
        self.cluster.nodes().any(|node| node.is_running())
    }

    /// The number of connected clients.
    pub fn connections(&self) -> usize {
        self.cluster.nodes().map(|node| node.connections()).sum()
    }
}

/// Settings of a single daemon.
impl Builder<Corosync> {
    /// Sets where the daemon listens and creates its rings. Default: sockets in a private
    /// directory, which is removed with the daemon.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.options.own_endpoint = Some(endpoint.clone());
        self
    }

    /// Sets the id of the node that runs. Default: 1.
    ///
    /// Other nodes of the [nodelist](Builder::node) never run. Without a nodelist there is only
    /// this node, named `n` and its id, at 127.0.0.1.
    pub fn node_id(mut self, id: impl Into<NodeId>) -> Self {
        self.options.own_id = id.into();
        self
    }

    /// Starts the daemon. When this returns, clients can connect and the node has formed its ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a node id that is 0 or not in the nodelist, and for a
    /// configuration that corosync does not start with; as
    /// [`libqb::server::Builder::start`](crate::libqb::server::Builder::start).
    pub fn start(mut self) -> Result<Corosync> {
        let options = &mut self.options;
        let id = options.own_id;
        if id == NodeId(0) {
            return Err(Error::invalid("node id", "a node id must not be 0"));
        }
        if options.config.nodes.is_empty() {
            options.add_node(id, format!("n{id}"), "127.0.0.1".to_owned(), None);
        }
        let endpoint = options.own_endpoint.take();
        options.endpoints.extend(endpoint.map(|endpoint| (id, endpoint)));
        let cluster = self.options.start(&[id])?;
        let endpoint = cluster.node(id)?.endpoint().clone();
        Ok(Corosync { cluster, endpoint })
    }
}
