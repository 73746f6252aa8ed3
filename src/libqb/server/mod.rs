//! The server side: [`Listener`], for any libqb service.
//!
//! C programs connect to it with `qb_ipcc_connect`, Rust programs with
//! [`libqb::Client`](crate::libqb::Client).
//!
//! ```no_run
//! use bytes::Bytes;
//! use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal, RingAccess};
//!
//! /// Answers every request with itself.
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Session = ();
//!
//!     fn authorize(&mut self, peer: &Peer<'_>) -> Result<(), Refusal> {
//!         if peer.credentials.uid == 0 { Ok(()) } else { Err(Refusal::NOT_ALLOWED) }
//!     }
//!
//!     fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
//!         let _ = conn.reply(&request);
//!     }
//! }
//!
//! let listener = Listener::<Echo>::builder().service("echo").start(Echo)?;
//! # drop(listener);
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! # Hostile clients
//! Sizes, indices and messages of a client are checked before use. A client that breaks the
//! protocol is disconnected without harm to others. One attack is left to the program: the files of
//! the rings belong to the client, and a client that truncates them kills the server with `SIGBUS`,
//! as it kills a server of libqb. After
//! [`guard_against_truncation`](crate::guard_against_truncation) that, too, only ends the client's
//! connection. The library does not call it, since it installs a signal handler for the whole
//! process. A server with clients of other users should call it first, as the `corosync-ipc`
//! command does.
//!
//! # Limits
//! | limit of | default | when it is exceeded |
//! | --- | --- | --- |
//! | clients | [4096](Builder::max_connections) | the client is refused with `EMFILE` |
//! | rings of all clients | [4 GiB](Builder::shared_memory) | the client is refused with `ENOSPC`, `CS_ERR_NO_SPACE` |
//! | queued events of a client | [16 MiB](Builder::event_queue), 256 MiB in an embedded daemon | the client is disconnected, or as [chosen](Overflow) |
//! | queued events of all clients | [1 GiB](Builder::event_memory) | the client with the longest queue is disconnected |
//! | connections without a connection request | 256, each for 10 s, and the descriptors | the oldest of the user with the most is closed |
//!
//! An embedded daemon refuses multicasts with `CS_ERR_TRY_AGAIN` while 4 MiB of events are queued
//! for a client that takes them.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod connection;
mod connections;
mod event_loop;
mod generation;
mod listener;
mod marker;
mod random;
pub(crate) mod rings;

pub(crate) use connections::Serving;
pub use connections::{Conn, ConnectionId, Connections};
pub use generation::Generation;
pub use listener::{Builder, Gone, Handler, Listener, Peer, Refusal, RingAccess};
pub(crate) use marker::{Mark, Marker, Marking};
pub(crate) use random::Random;

pub use super::Transport;

use std::time::Duration;

/// What happens to an event when the client's ring and its queue are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The client is disconnected.
    Disconnect,
    /// The event is dropped, and [`Conn::send_event`] returns [`SendError::QueueFull`].
    DropNewest,
    /// [`Conn::send_event`] waits for the client. All other clients of the listener wait too. A
    /// client that makes no room within this time is disconnected.
    Block(Duration),
}

/// Which requests a client may send. A client checks it before each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowControl {
    /// All.
    #[default]
    Off = 0,
    /// None. Clients try again. `QB_IPCS_RATE_OFF`
    Requests = 1,
    /// All but those for which the client has set `qb_ipcc_fc_enable_max_set` to 2, such as cpg
    /// multicasts. corosync sets this while it synchronizes. `QB_IPCS_RATE_OFF_2`
    Sync = 2,
}

/// Why a message was not sent to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The client is gone, or was just disconnected.
    #[error("the client is gone")]
    Closed,
    /// The message does not fit in a ring of the size the client asked for.
    #[error("a message of {size} bytes does not fit in the client's ring, which takes {limit}")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The size of the largest message that fits.
        limit: usize,
    },
    /// The client does not read, and the event was dropped.
    #[error("the client does not read its events")]
    QueueFull,
}
