//! Rings in memory shared with the peer.
//!
//! The peer can write every byte of that memory at any time. So no reference or slice into it is ever made: words are read once, through
//! atomics, into locals that are checked before use, and payloads are copied out. What a hostile peer can still do is to truncate
//! the files, which ends this process with `SIGBUS`; there is no defence against that short of a signal handler, which is not a
//! library's to install.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod region;
mod ring;
mod sem;
mod spin;
mod sync;

#[cfg(any(test, fuzzing))]
#[allow(clippy::indexing_slicing, clippy::unwrap_used)]
pub(crate) mod heap;
#[cfg(test)]
mod tests;

pub(crate) use region::Mapping;
#[cfg(feature = "server")]
pub(crate) use ring::{CHUNK_MARGIN, HEADER_FILE_SIZE, REQUEST_HEADER_FILE_SIZE};
pub(crate) use ring::{Consumer, Format, HEADER_SIZE, Producer, REQUEST_HEADER_SIZE, Ring};

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "corosync-ipc needs a 64-bit target: the rings hold glibc's 64-bit sem_t, and the 32-bit one is laid out differently"
);
