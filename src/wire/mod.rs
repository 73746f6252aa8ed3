//! The wire: every message of every service.
//!
//! No I/O here and no state: bytes go in and values come out, or the other way round. Whoever
//! writes a tracer, a proxy or a fuzzer starts with a service's `AnyRequest`, `AnyResponse` or
//! `AnyEvent`. Layouts are those of the tables in the repository's `proto` folder, and tests hold
//! the two together.
//!
//! All integers are in host byte order: both ends are on one machine.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

pub(crate) mod message;

pub mod cfg;
pub mod cmap;
pub mod cpg;
pub mod evs;
pub mod quorum;
pub(crate) mod values;
pub mod votequorum;

#[cfg(test)]
pub(crate) mod tables;

pub use message::{Message, Request, decode_reply};
