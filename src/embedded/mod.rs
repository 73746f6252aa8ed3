//! A corosync for tests that runs in the test's own process: [`Corosync`] is one daemon,
//! [`Cluster`] several.
//!
//! Clients of this crate and C programs connect to it as to corosync. No root, no installed
//! corosync and no network are needed. It is a test double and not a cluster engine: all nodes live
//! in one process, and messages between them are never lost. For anything but tests run corosync.
//!
//! ```
//! use corosync_ipc::cpg::{self, GroupName};
//! use corosync_ipc::embedded::Cluster;
//!
//! let cluster = Cluster::start(2)?;
//! let one = cpg::Client::connect_to(cluster.node(1)?.endpoint())?;
//! let two = cpg::Client::connect_to(cluster.node(2)?.endpoint())?;
//! let group = GroupName::new("group")?;
//! one.join(&group)?;
//! two.join(&group)?;
//! assert_eq!(one.membership(&group)?.len(), 2);
//!
//! // The daemon of node 2 dies as if by SIGKILL.
//! cluster.kill(2)?;
//! assert_eq!(one.membership(&group)?.len(), 1);
//! assert!(two.membership(&group).unwrap_err().is_unreachable());
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! The services are state machines without I/O. A
//! [`Listener`](crate::libqb::server::Listener) connects them to their clients.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod builder;
mod cluster;
pub(crate) mod config_file;
mod corosync;
pub(crate) mod host;
pub(crate) mod node;
mod totem;
pub(crate) mod world;

pub use builder::Builder;
pub use cluster::{Cluster, ClusterNode, Refuse};
pub use corosync::Corosync;
