//! What clients do and see, whoever serves them: each public function is the body of one test and
//! takes the endpoint of a server that stands for one quorate node with the id 1 and one vote.
//!
//! The keys a body sets begin with its own name, so that bodies run side by side against one
//! server.

#![allow(missing_docs, reason = "the name of a body says what it shows")]

pub mod cmap;
pub mod evs;
pub mod interop;
pub mod quorum;
pub mod votequorum;
