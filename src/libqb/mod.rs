//! libqb's IPC: the transport of corosync, Pacemaker and others. It knows bytes and their headers,
//! but none of corosync's services.
//!
//! [`Client`] connects to any service; [`server`] is the other end.
//!
//! A message is bytes that begin with a [`codec::Header`](crate::codec::Header).

#[cfg(feature = "server")]
pub(crate) mod accept;
pub(crate) mod channel;
pub(crate) mod client;
pub(crate) mod datagram;
pub(crate) mod handshake;
pub(crate) mod pending;
pub(crate) mod refill;
pub(crate) mod ring;
#[cfg(feature = "server")]
pub mod server;
pub(crate) mod wake;

pub use client::Client;
