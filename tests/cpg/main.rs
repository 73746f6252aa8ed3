//! The cpg service against real daemons.

#[path = "../bodies/mod.rs"]
mod bodies;
#[path = "../harness/mod.rs"]
mod harness;

mod cluster;
mod flow;
mod interop;
mod requests;
mod support;
