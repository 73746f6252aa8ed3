//! State machines without I/O: what to send, what to wait for and what it means. They know no descriptor, no clock and no mapping.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unreachable)]

#[cfg(feature = "server")]
pub(crate) mod accept;
pub(crate) mod dispatch;
pub(crate) mod exchange;
pub(crate) mod handshake;
pub(crate) mod reassembly;
pub(crate) mod refill;
pub(crate) mod wake;
