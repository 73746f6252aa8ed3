//! corosync's IPC, spoken natively: no C library is linked, loaded or needed.
//!
//! Each service of corosync has a module with a `Client`: [`cmap`], [`cpg`], [`quorum`],
//! [`votequorum`], [`cfg`](mod@cfg), [`evs`]. All clients take events in the same ways and find the
//! daemon by an [`Endpoint`]; code that works with any of them is generic over [`ServiceClient`].
//!
//! # Three ways in
//! **Use a service.** A client connects to the corosync of this machine:
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
//! [`event_loops`] compares the ways to wait for events. [`supervise`] has clients that connect
//! again. [`libqb::Client`] talks to services that are not corosync's.
//!
//! `stats` of every client tells who is slow.
//!
//! **Serve one.** `libqb::server` (feature `server`) is a listener for any libqb service. C
//! programs and this crate connect to it:
//!
//! ```no_run
//! # #[cfg(feature = "server")] {
//! use bytes::Bytes;
//! use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal};
//!
//! /// Answers every request with itself.
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = ();
//!
//!     fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
//!         Ok(())
//!     }
//!
//!     fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
//!         let _ = conn.reply(&request);
//!     }
//! }
//!
//! let _listener = Listener::<Echo>::builder().service("echo").start(Echo)?;
//! # }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! **Test with one.** `embedded` (feature `server`) is a corosync, or a whole cluster, in the
//! test's own process:
//!
//! ```
//! # #[cfg(feature = "server")] {
//! use corosync_ipc::{cmap, embedded::Corosync};
//!
//! let corosync = Corosync::start()?;
//! let client = cmap::Client::connect_to(corosync.endpoint())?;
//! client.set("test.answer", 42_u32)?;
//! assert_eq!(client.get_as::<u32>("test.answer")?, Some(42));
//! # }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! [`containers`] says what a container shares with its host. [`glossary`] explains the field's
//! words. [`from_libcpg`] and [`from_rust_corosync`] are for programs that move here.
//!
//! # How a message travels
//! [`wire`] knows the layout of every message, does no I/O, and turns the caller's values into
//! bytes. A client of [`libqb`] puts them into a ring in shared memory, wakes the daemon through a
//! socket, and waits for the answer until its deadline. Events come the other way, through a ring
//! of their own. What comes from the daemon is checked before it is believed. Ids and values that
//! are merely unknown are kept.
//!
//! # Features
//! | feature | default | what it adds |
//! | --- | --- | --- |
//! | (none) | | the clients, with five small dependencies |
//! | `server` | yes | `libqb::server` and `embedded` |
//! | `cli` | yes | the `corosync-ipc` command; includes `server` and `tracing` |
//! | `generate` | yes | its commands `completions` and `man`; includes `cli` |
//! | `decode` | yes | its command `decode`; includes `cli` |
//! | `tokio` | | an `AsyncClient` for each service: awaitable requests, events as a `Stream` |
//! | `tracing` | | a span for each connect and request, logs of disconnects and timeouts |
//! | `serde` | | `Serialize` and `Deserialize` for the values, events and messages of the services; `cmap::Client::read`, `supervise::Watch` |

#![cfg_attr(docsrs, feature(doc_cfg))]
// Allowed again in `libqb/ring/` and `sys/` alone.
#![deny(unsafe_code)]

mod address;
mod client;
#[cfg(all(test, feature = "server", not(loom)))]
mod doubles;
mod endpoint;
mod error;
mod escaped;
mod features;
mod log;
mod sync;
mod sys;

#[cfg(all(any(test, feature = "__fuzzing"), feature = "server", not(loom)))]
#[doc(hidden)]
pub mod fuzzing;

pub mod cfg;
pub mod cmap;
pub mod codec;
#[doc = include_str!("../docs/containers.md")]
pub mod containers {}
pub mod cpg;
#[cfg(feature = "server")]
pub mod embedded;
pub mod event_loops;
pub mod evs;
#[doc = include_str!("../docs/from-libcpg.md")]
pub mod from_libcpg {}
#[doc = include_str!("../docs/from-rust-corosync.md")]
pub mod from_rust_corosync {}
#[doc = include_str!("../docs/glossary.md")]
pub mod glossary {}
pub mod libqb;
pub mod quorum;
pub mod snapshot;
pub mod supervise;
pub mod votequorum;
pub mod wire;

pub use address::SocketAddress;
#[cfg(feature = "tokio")]
pub use client::{AsyncClient, AsyncEvents};
pub use client::{ClientId, Control, Dispatcher, DispatcherWaker, EventHandler, Round};
pub use client::{Dispatch, Events, ServiceClient, UnknownEvent};
pub use endpoint::{Deadline, Endpoint};
pub use endpoint::{
    ENV_SERVER_UID, ENV_SHM_ROOT, ENV_SOCKET_DIR, ENV_TIMEOUT, MAX_RING_SIZE, MIN_RING_SIZE,
};
pub use error::{
    CsError, Error, Escaped, ProtocolError, Result, RingError, RingFileFault, Stage, WireError,
};
pub use libqb::client::{ClientStats, RingFill, Waker, within};
pub use libqb::ring::guard_against_truncation;
pub use sys::socket::Credentials;
pub use wire::values::{NodeId, RingId, TrackFlags};

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
