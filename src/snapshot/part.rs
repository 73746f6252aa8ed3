//! The names of a snapshot's parts, by which [`Snapshot::errors`](super::Snapshot::errors) says why
//! one is missing.

/// Names, addresses, the configuration and the quorum provider.
pub const CMAP: &str = "cmap";
/// The ring, its members, and whether this node is quorate.
pub const QUORUM: &str = "quorum";
/// Votes, states and quorum devices.
pub const VOTEQUORUM: &str = "votequorum";
/// The local node, where no other part tells it.
pub const CFG: &str = "cfg";
/// The links. Those of one node are the part `node N`.
pub const LINKS: &str = "links";

/// All of these.
pub const ALL: [&str; 5] = [CMAP, QUORUM, VOTEQUORUM, CFG, LINKS];
