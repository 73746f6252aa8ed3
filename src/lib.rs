//! corosync's IPC, spoken natively: no C library is linked, loaded or needed.
//!
//! Each service of corosync has a module with a `Client`: [`cmap`], [`cpg`], [`quorum`],
//! [`votequorum`], [`cfg`](mod@cfg), [`evs`]. All clients take events in the same ways and find the
//! daemon by an [`Endpoint`]; code that works with any of them is generic over [`ServiceClient`].
//!
//! ```no_run
//! use corosync_ipc::{cmap, quorum};
//!
//! let cluster = cmap::Client::connect()?.get_as::<String>("totem.cluster_name")?;
//! let quorate = quorum::Client::connect()?.is_quorate()?;
//! println!("{}: quorate {quorate}", cluster.unwrap_or_default());
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! # How a message travels
//! The caller's values become bytes in [`wire`], which knows every message's layout and does no
//! I/O. A client of [`libqb`] puts them in a ring in shared memory, wakes the daemon through a
//! socket, and waits for the answer with a deadline. Events come the other way, through a ring of
//! their own. Nothing that comes from the daemon is believed before it was checked, and nothing in
//! it that is merely unknown is refused.
//!
//! # Features
//! `default-features = false` gives the clients, with five small dependencies. `cli` is the
//! `corosync-ipc` command, `server` the other end of the wire and the embedded corosync, `tokio`
//! makes streams of events, `tracing` logs connects, disconnects and timeouts, `serde` serializes
//! the values.

#![cfg_attr(docsrs, feature(doc_cfg))]
// Allowed again in `libqb/ring/` and `sys/` alone.
#![deny(unsafe_code)]

mod address;
mod client;
#[cfg(all(test, feature = "server", not(loom)))]
mod doubles;
mod endpoint;
mod error;
mod features;
mod log;
mod sync;
mod sys;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

pub mod cfg;
pub mod cmap;
pub mod codec;
pub mod cpg;
#[cfg(feature = "server")]
pub mod embedded;
pub mod event_loops;
pub mod evs;
#[doc = include_str!("../docs/glossary.md")]
pub mod glossary {}
pub mod libqb;
pub mod quorum;
pub mod supervise;
pub mod votequorum;
pub mod wire;

pub use address::SocketAddress;
#[cfg(feature = "tokio")]
pub use client::{AsyncClient, AsyncEvents};
pub use client::{ClientId, Control, Dispatcher, DispatcherWaker, Round};
pub use client::{Dispatch, Events, ServiceClient};
pub use endpoint::{Deadline, Endpoint, parse_duration};
pub use endpoint::{
    ENV_SERVER_UID, ENV_SHM_ROOT, ENV_SOCKET_DIR, ENV_TIMEOUT, MAX_RING_SIZE, MIN_RING_SIZE,
};
pub use error::{
    CsError, Error, ProtocolError, Result, RingError, RingFileFault, Stage, WireError,
};
pub use libqb::client::{Waker, within};
pub use libqb::ring::guard_against_truncation;
pub use sys::socket::Credentials;
pub use wire::values::{NodeId, RingId, TrackFlags};

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
