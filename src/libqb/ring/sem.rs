//! glibc's process-shared `sem_t` on 64-bit machines. It is written by hand, since the daemon's
//! libc decides the layout and not the libc of this process.
//!
//! The semaphore is a double word: the value in its low half, the number of waiters in its high
//! half. The C side is `sem_post`, `sem_trywait` and `sem_timedwait` of glibc 2.21 and later.

use std::time::{Duration, Instant};

#[cfg(feature = "server")]
use crate::sync::AtomicU32;
use crate::sync::{AtomicU64, Ordering, now};
#[cfg(not(loom))]
use crate::sys::futex;

const ONE_WAITER: u64 = 1 << 32;

/// The offset of the word in which glibc keeps whether processes share the semaphore.
#[cfg(feature = "server")]
pub(super) const PRIVATE: usize = 8;

/// Turns a semaphore of zeros into one that processes share. As `sem_init` with `pshared`: without
/// it glibc's `sem_post` wakes no waiter in another process.
#[cfg(feature = "server")]
pub(super) fn share(private: &AtomicU32) {
    /// Matches `FUTEX_SHARED` of glibc.
    const SHARED: u32 = 0x80;
    private.store(SHARED, Ordering::Relaxed);
}

/// Returns the value: how many chunks were posted and not taken.
fn value(word: u64) -> u32 {
    word as u32
}

/// Returns how many chunks wait.
pub(super) fn count(sem: &AtomicU64) -> u32 {
    // Relaxed: this is a hint. `try_wait` takes a chunk.
    value(sem.load(Ordering::Relaxed))
}

/// Adds one for each of `chunks` and wakes a waiter.
pub(super) fn post(sem: &AtomicU64, chunks: u32) {
    // Release: pairs with the acquire in the other end's sem_wait, which makes the chunks visible.
    let before = sem.fetch_add(chunks.into(), Ordering::Release);
    if before >= ONE_WAITER {
        wake(sem);
    }
}

/// Takes one without waiting.
pub(super) fn try_wait(sem: &AtomicU64) -> bool {
    take(sem, 1)
}

/// Takes one, sleeping up to `timeout` for it.
pub(super) fn wait(sem: &AtomicU64, timeout: Duration) -> bool {
    try_wait(sem) || wait_until(sem, now() + timeout)
}

/// Takes one, sleeping until the deadline for it.
pub(super) fn wait_until(sem: &AtomicU64, deadline: Instant) -> bool {
    // Relaxed: a poster that does not see the waiter posts before the futex call reads the value.
    sem.fetch_add(ONE_WAITER, Ordering::Relaxed);
    loop {
        if take(sem, 1 + ONE_WAITER) {
            return true;
        }
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            break;
        }
        sleep(sem, left);
    }
    sem.fetch_sub(ONE_WAITER, Ordering::Relaxed);
    // A post between the last check and here counted this waiter.
    try_wait(sem)
}

/// Subtracts `amount` if the value is not 0.
fn take(sem: &AtomicU64, amount: u64) -> bool {
    // Acquire: pairs with the release in the other end's sem_post, so that the chunk it announces
    // is visible.
    sem.fetch_update(Ordering::Acquire, Ordering::Relaxed, |word| {
        (value(word) > 0).then(|| word.wrapping_sub(amount))
    })
    .is_ok()
}

#[cfg(not(loom))]
fn sleep(sem: &AtomicU64, timeout: Duration) {
    futex::wait_low(sem, 0, timeout);
}

#[cfg(not(loom))]
fn wake(sem: &AtomicU64) {
    futex::wake_low(sem);
}

#[cfg(loom)]
use futex::{sleep, wake};

/// What the system does for a futex, in loom's models.
#[cfg(loom)]
mod futex {
    use std::ptr;
    use std::time::Duration;

    use super::value;
    use crate::sync::{AtomicU64, Mutex, Ordering, Thread, current, park_timeout};

    loom::lazy_static! {
        /// The addresses of semaphores, and the threads that sleep on them.
        static ref SLEEPERS: Mutex<Vec<(usize, Thread)>> = Mutex::new(Vec::new());
    }

    pub(super) fn sleep(sem: &AtomicU64, timeout: Duration) {
        let mut sleepers = SLEEPERS.lock().unwrap();
        if value(sem.load(Ordering::Relaxed)) != 0 {
            return;
        }
        sleepers.push((ptr::from_ref(sem).addr(), current()));
        drop(sleepers);
        park_timeout(timeout);
        SLEEPERS.lock().unwrap().retain(|(_, thread)| *thread != current());
    }

    pub(super) fn wake(sem: &AtomicU64) {
        let mut sleepers = SLEEPERS.lock().unwrap();
        if let Some(first) =
            sleepers.iter().position(|(address, _)| *address == ptr::from_ref(sem).addr())
        {
            sleepers.remove(first).1.unpark();
        }
    }
}
