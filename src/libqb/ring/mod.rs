//! Rings in memory shared with the peer.
//!
//! The peer can write every byte of that memory at any time. So no reference or slice into it is
//! ever made. Words are read once, through atomics, into locals that are checked before use.
//! Payloads are copied by code that the compiler does not know.
//!
//! The peer can also truncate the files. The kernel then sends `SIGBUS` to a process that touches a
//! page that the file no longer has. After [`guard_against_truncation`] that ends the connection
//! and not the process: `sys::fault` replaces the mapping by memory of zeros and marks it. Every
//! use of a ring checks the mark at its end ([`Ring::check`]), since it may have read those zeros.
//! A semaphore behaves the same way: a wait on a page that is gone returns at once, and the next
//! read of its value faults.

#![allow(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod chunks;
#[cfg(not(loom))]
mod copy;
mod region;
mod sem;
mod spin;

#[cfg(any(test, feature = "__fuzzing"))]
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
pub(crate) use region::{Mapping, Region};

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "corosync-ipc needs a 64-bit target: the rings hold glibc's 64-bit sem_t, and the 32-bit one is laid out differently"
);

/// Keeps this process alive when a file of a ring that it uses is truncated.
///
/// A connection's messages travel through files in shared memory. The owner of the files can
/// truncate them at any time, by mistake or on purpose. The system then sends `SIGBUS` to the
/// process that touches the missing part, which kills it. This function installs a handler for
/// `SIGBUS`. With it, a fault in a ring only ends that ring's connection. Every call on the client,
/// also one under way, fails with [`Error::Disconnected`], which names the ring. A server
/// disconnects the client and goes on with the others. A call that connects fails with
/// [`Error::Protocol`].
///
/// The handler covers the whole process, earlier connections included, and stays. A second call
/// does nothing. The `corosync-ipc` command makes this call. The library never does, not for a
/// `libqb::server::Listener` or an embedded daemon either, since signal handlers belong to the
/// program. The C libraries have nothing like it.
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
/// - Faults in other memory go to the handler that was installed before. Without one they kill the
///   process, as before.
/// - Install other handlers for `SIGBUS`, such as a crash reporter's, before this one. A handler
///   that is installed later must call the handler that it replaces, or the guard has no effect.
/// - The handler maps zeros in place of the missing part. If the system has no memory for that, the
///   fault kills the process.
/// - If a thread blocks `SIGBUS` and touches a missing part, the system kills the process. Leave
///   `SIGBUS` unblocked in threads that use clients, and in the thread that starts a
///   `libqb::server::Listener`.
/// - A truncation is noticed when the missing part is touched. A call that waits for an answer
///   checks at first after 20 ms. A call that waits for events checks when the daemon sends
///   something.
/// - A truncation within a page leaves zeros instead of a fault. Messages in that part are lost, or
///   end the connection with [`Error::Protocol`].
///
/// # Errors
/// [`Error::System`] when the system refuses to install the handler.
pub fn guard_against_truncation() -> Result<()> {
    fault::install().map_err(|source| Error::system("installing a handler for SIGBUS", source))
}
