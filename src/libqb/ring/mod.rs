//! Rings in memory shared with the peer.
//!
//! The peer can write every byte of that memory at any time. So no reference or slice into it is
//! ever made: words are read once, through atomics, into locals that are checked before use, and
//! payloads are copied out.
//!
//! The peer can also cut the files short, and then the kernel sends `SIGBUS` to whoever touches a
//! page that the file no longer has. After [`guard_against_truncation`] that is the end of the
//! connection and not of the process: `sys::fault` puts memory of zeros in the mapping's place and
//! marks it. Every use of a ring looks at the mark when it is done ([`Ring::check`]), since what it
//! read may be those zeros. A semaphore goes the same way: a wait on a page that is gone returns at
//! once, and the next look at its value faults.

#![allow(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod chunks;
mod region;
mod sem;
mod spin;

#[cfg(any(test, fuzzing))]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
pub(crate) mod heap;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::sys::fault;

pub(crate) use chunks::{
    CHUNK_HEADER_SIZE, CHUNK_MARGIN, Consumer, Format, HEADER_SIZE, Producer, REQUEST_HEADER_SIZE,
    Ring,
};
#[cfg(feature = "server")]
pub(crate) use chunks::{HEADER_FILE_SIZE, REQUEST_HEADER_FILE_SIZE};
pub(crate) use region::Mapping;

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "corosync-ipc needs a 64-bit target: the rings hold glibc's 64-bit sem_t, and the 32-bit one is laid out differently"
);

/// Keeps this process alive when somebody cuts short a file of a ring that it uses.
///
/// A connection's messages travel through files in shared memory. Whoever owns the files can
/// truncate them at any time, by mistake or on purpose. The system then sends `SIGBUS` to the
/// process that touches the missing part, which kills it. This function installs a handler for
/// `SIGBUS`. With it, a fault in a ring ends that ring's connection and nothing else: every call on
/// the client, also one under way, fails with [`Error::Disconnected`], which names the ring; a
/// server disconnects the client and goes on with the others. A call that connects fails with
/// [`Error::Protocol`].
///
/// The handler covers the whole process, connections made before included, and stays. A second call
/// does nothing. The `corosync-ipc` command makes this call. The library never makes it by itself,
/// not for a `libqb::server::Listener` or an embedded daemon either, since signal handlers are the
/// program's affair. The C libraries have nothing like it.
///
/// ```
/// use corosync_ipc::cmap;
///
/// corosync_ipc::guard_against_truncation()?;
/// let client = cmap::Client::connect();
/// # drop(client);
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
///
/// # Limits
/// - Faults in other memory go to the handler that was there before. Without one they kill, as
///   before.
/// - Install other handlers for `SIGBUS`, such as a crash reporter's, before this one. A handler
///   that is installed later must call the handler that it replaces, or the guard is gone.
/// - A fault that the system has no memory for kills: the handler maps zeros in the place of what
///   is missing.
/// - A thread that blocks `SIGBUS` and touches a missing part is killed by the system, and the
///   process with it. Leave it unblocked in threads that use clients, and in the one that starts a
///   `libqb::server::Listener`.
/// - A cut is noticed when the missing part is touched. A call that waits for an answer looks every
///   20 ms. One that waits for events looks when the daemon sends something.
/// - A cut within a page leaves zeros instead of a fault. Messages that lay there are lost, or end
///   the connection with [`Error::Protocol`].
///
/// # Errors
/// [`Error::System`] when the system refuses to install the handler.
pub fn guard_against_truncation() -> Result<()> {
    fault::install().map_err(|source| Error::system("installing a handler for SIGBUS", source))
}
