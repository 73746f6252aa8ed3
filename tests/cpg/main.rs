//! The cpg service against real daemons.

mod cluster;
mod flow;
mod interop;
mod requests;
mod support;
