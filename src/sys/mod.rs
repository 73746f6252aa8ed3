//! System calls: sockets, waiting, futexes, files, faults. The only place that retries `EINTR`, and
//! with `libqb/ring` the only one that may hold `unsafe`.

#![allow(unsafe_code)]

pub(crate) mod event;
pub(crate) mod fault;
pub(crate) mod file;
pub(crate) mod futex;
#[cfg(feature = "server")]
pub(crate) mod serve;
pub(crate) mod socket;
pub(crate) mod wait;
