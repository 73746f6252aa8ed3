//! quorum and votequorum of one node.

mod quorum;
mod votequorum;
