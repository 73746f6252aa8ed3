//! Locks and sleeping, from one place, so that loom can put its own in.

#[cfg(not(loom))]
pub(super) use std::{
    sync::{Mutex, MutexGuard},
    thread::{Thread, current, park_timeout},
};

#[cfg(loom)]
pub(super) use loom::{
    sync::{Mutex, MutexGuard},
    thread::{Thread, current},
};

/// Loom has no clock: whoever sleeps until a deadline sleeps until it is woken.
#[cfg(loom)]
pub(super) fn park_timeout(_: std::time::Duration) {
    loom::thread::park();
}
