//! System calls by topic: sockets, waiting, futexes, files, faults. Only this room retries `EINTR`.
//! Only this room and `libqb/ring` use `unsafe`.

#![allow(unsafe_code)]

pub(crate) mod datagram;
pub(crate) mod event;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod futex;
pub(crate) mod process;
#[cfg(feature = "server")]
pub(crate) mod serve;
pub(crate) mod socket;
pub(crate) mod wait;
