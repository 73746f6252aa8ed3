//! The cpg service.

mod cluster;
mod flow;
mod interop;
mod requests;
mod support;

testbed::embedded_process!();
