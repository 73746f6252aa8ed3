//! `embedded::Cluster`: several embedded nodes, driven as a real cluster is.

mod alone;
mod script;
mod scripts;
