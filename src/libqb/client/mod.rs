//! The client's half: a connection to a service.

mod connect;
pub(crate) mod connection;
#[cfg(all(test, loom))]
mod model;
mod patience;
mod ring_files;
mod turnstile;
mod waker;

pub(crate) use connection::{Connection, FlowControl, Look, Target};
pub use patience::within;
pub(crate) use patience::{Limit, Patience};
pub use waker::Waker;
