//! The cpg service against real daemons.

#[path = "../harness/mod.rs"]
mod harness;

mod cluster;
mod flow;
mod interop;
mod requests;
mod support;
