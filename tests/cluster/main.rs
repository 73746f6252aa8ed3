//! `embedded::Cluster`: several embedded nodes, driven as a real cluster is.

#[path = "../bodies/mod.rs"]
mod bodies;
#[path = "../harness/mod.rs"]
mod harness;

mod alone;
mod script;
mod scripts;
