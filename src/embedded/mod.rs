//! A corosync to be embedded in tests: [`Corosync`] is one daemon, [`Cluster`] several.
//!
//! C programs connect to it as to the real one, and so does this crate. The services are state
//! machines; a [`Listener`](crate::libqb::server::Listener) is their way to clients.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod cluster;
mod corosync;
pub(crate) mod daemon;
pub(crate) mod node;
mod totem;
pub(crate) mod world;

pub use cluster::{Cluster, ClusterBuilder, ClusterNode, Refuse};
pub use corosync::{Corosync, CorosyncBuilder};
