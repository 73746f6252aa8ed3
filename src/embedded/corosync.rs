//! The embedded daemon alone: a cluster of one node.

use super::cluster::{Cluster, ClusterBuilder};
use crate::cmap::Value;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::libqb::server::Generation;
use crate::wire::values::NodeId;

/// An embedded corosync: one node, alone in its cluster, that answers as corosync 3.1.7 does. See
/// [`Cluster`] for several.
///
/// It serves cmap, cfg, cpg, quorum and votequorum, and [evs](CorosyncBuilder::evs) if wanted, to
/// the clients of this crate and, at abstract addresses in a network namespace of their own, to C
/// programs. Dropping it ends it as if the daemon had been stopped, and leaves no files.
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
            node_id: NodeId(1),
            cluster: Cluster::builder().real_time(),
        }
    }

    /// Where clients find it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether it ended by itself: a client shut it down or killed its node.
    pub fn has_ended(&self) -> bool {
        self.cluster.nodes().all(|node| node.has_ended())
    }

    /// How many clients are connected.
    pub fn connections(&self) -> usize {
        self.cluster.nodes().map(|node| node.connections()).sum()
    }
}

/// Configures a [`Corosync`].
#[must_use]
#[derive(Clone, Debug)]
pub struct CorosyncBuilder {
    endpoint: Option<Endpoint>,
    node_id: NodeId,
    cluster: ClusterBuilder,
}

impl CorosyncBuilder {
    /// Where it listens and makes its rings. Default: at sockets in a directory of its own, which
    /// is gone with it.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = Some(endpoint.clone());
        self
    }

    /// Which libqb and which corosync it speaks as, as [`ClusterBuilder::generation`].
    pub fn generation(mut self, generation: Generation) -> Self {
        self.cluster = self.cluster.generation(generation);
        self
    }

    /// The id of this node. Default: 1.
    pub fn node_id(mut self, id: impl Into<NodeId>) -> Self {
        self.node_id = id.into();
        self
    }

    /// `totem.cluster_name`. Default: `embedded`.
    pub fn cluster_name(mut self, name: impl Into<String>) -> Self {
        self.cluster = self.cluster.cluster_name(name);
        self
    }

    /// Adds a node to the nodelist: its id, name, address and, where they are configured, votes.
    /// Without this one the nodelist is made of this node, named `n` and its id, at 127.0.0.1.
    /// Other nodes than this one never run.
    pub fn node(
        mut self,
        id: impl Into<NodeId>,
        name: impl Into<String>,
        address: impl Into<String>,
        votes: Option<u32>,
    ) -> Self {
        self.cluster = self.cluster.node(id, name, address, votes);
        self
    }

    /// Sets a key that corosync.conf would set, as [`ClusterBuilder::setting`].
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.cluster = self.cluster.setting(key, value);
        self
    }

    /// Serves evs too, as [`ClusterBuilder::evs`].
    pub fn evs(mut self, is_on: bool) -> Self {
        self.cluster = self.cluster.evs(is_on);
        self
    }

    /// Starts it. When this returns clients can connect, and the node has formed its ring.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a configuration with which corosync does not start; as
    /// [`crate::libqb::server::Builder::start`].
    pub fn start(self) -> Result<Corosync> {
        let Self { endpoint, node_id: id, mut cluster } = self;
        if id == NodeId(0) {
            return Err(Error::invalid("node id", "0 is no node"));
        }
        if !cluster.has_nodes() {
            cluster = cluster.node(id, format!("n{id}"), "127.0.0.1", None);
        }
        cluster = endpoint.iter().fold(cluster, |cluster, endpoint| cluster.endpoint(id, endpoint));
        let cluster = cluster.start_only(&[id])?;
        let endpoint = cluster.node(id)?.endpoint().clone();
        Ok(Corosync { cluster, endpoint })
    }
}
