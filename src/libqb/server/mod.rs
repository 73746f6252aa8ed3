//! The server's half: [`Listener`], for anybody's libqb service.
//!
//! C programs connect to it with `qb_ipcc_connect`, and so does this crate. It shares rings and
//! messages with the clients: what is the producer on one side is the consumer on the other.
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

//! # Clients that lie
//! Sizes, indices and messages of a client are checked before use, and one that breaks the protocol
//! is disconnected without harm to others. One attack is left to the program: the files of its
//! rings belong to the client, and one that cuts them short kills the server with `SIGBUS`, as it
//! kills one of libqb. [`guard_against_truncation`](crate::guard_against_truncation) makes that,
//! too, the end of one client. It is not on by itself, since it installs a signal handler for the
//! whole process: a server with clients of other users calls it first. The `corosync-ipc` command
//! does.
//!
//! # Limits
//! | what | by default | who is over it |
//! | --- | --- | --- |
//! | clients | [4096](Builder::max_connections) | is refused with `EMFILE` |
//! | rings of all clients | [4 GiB](Builder::shared_memory) | is refused with `ENOSPC`, `CS_ERR_NO_SPACE` |
//! | a client's events that wait | [16 MiB](Builder::event_queue), 256 MiB in an embedded daemon | is disconnected, if [so chosen](Overflow) |
//! | events of all clients that wait | [1 GiB](Builder::event_memory) | the client for which most wait is disconnected |
//! | connections that have not said what they want | 256, each for 10 s, and the descriptors | the oldest of the user with most is closed |
//!
//! A multicast to a group of an embedded daemon is refused with `CS_ERR_TRY_AGAIN` while 4 MiB of
//! events wait for one of the daemons' clients which takes them.

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

use std::time::Duration;

/// What happens to an event for a client that does not read: its ring is full and its queue too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The client is disconnected.
    Disconnect,
    /// The event is dropped; [`Conn::send_event`] tells so.
    DropNewest,
    /// [`Conn::send_event`] waits for the client, and with it every other client of the listener. A
    /// client that makes no room within this time is disconnected.
    Block(Duration),
}

/// Which requests a client may send. A client looks before each request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowControl {
    /// All.
    #[default]
    Off = 0,
    /// None: they are to be tried again. `QB_IPCS_RATE_OFF`
    Requests = 1,
    /// None but of clients that are configured to look for 1 only; corosync says this while it
    /// synchronizes. `QB_IPCS_RATE_OFF_2`
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
        /// The most there is room for.
        limit: usize,
    },
    /// The client does not read, and the listener drops events then.
    #[error("the client does not read its events")]
    QueueFull,
}
