//! Wakeups from other threads, timers, and waiting for many descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::socket::retry;
use super::wait::millis_until;

/// Wakes another thread: its descriptor polls readable from [`wake`](Self::wake) until
/// [`clear`](Self::clear).
#[derive(Debug)]
pub(crate) struct Wakeup(EventFd);

impl Wakeup {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the descriptor readable. The thread that calls [`clear`](Self::clear) then sees what
    /// the caller did before.
    pub(crate) fn wake(&self) {
        // A write fails only when the counter is full, and then the descriptor is readable already.
        let _ = retry(|| self.0.write(1));
    }

    /// Makes the descriptor unreadable. Call it before looking for the reason of the wakeup, never
    /// after: else a wakeup in between is lost.
    pub(crate) fn clear(&self) {
        let _ = retry(|| self.0.read());
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A timer whose descriptor polls readable from a given time on.
#[derive(Debug)]
pub(crate) struct Timer(TimerFd);

impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?))
    }

    /// Sets the time from which the descriptor is readable. `None` disarms the timer.
    pub(crate) fn set(&self, at: Option<Instant>) {
        // Both calls fail only for invalid times.
        let _ = match at {
            None => self.0.unset(),
            Some(at) => {
                // A duration of zero would disarm the timer.
                let left =
                    at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.0.set(
                    Expiration::OneShot(TimeSpec::from_duration(left)),
                    TimerSetTimeFlags::empty(),
                )
            }
        };
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for any number of descriptors to become readable. Each has a number. The poller is
/// level-triggered: it reports a descriptor on every wait while it is readable.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

/// The most descriptors that one wait reports. The next wait reports the others first.
pub(crate) const REPORTED: usize = 32;

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    pub(crate) fn add(&self, fd: &impl AsFd, number: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))?)
    }

    pub(crate) fn remove(&self, fd: &impl AsFd) {
        // Fails when the descriptor is closed, and closing has removed it already.
        let _ = self.0.delete(fd);
    }

    /// Appends the numbers of the readable descriptors to `found`. Waits until the deadline for the
    /// first one; `None` waits for ever.
    pub(crate) fn wait(&self, found: &mut Vec<u64>, deadline: Option<Instant>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); REPORTED];
        let count = retry(|| {
            let millis = deadline.map(millis_until);
            let timeout = millis.map_or(EpollTimeout::NONE, |millis| {
                EpollTimeout::try_from(millis).unwrap_or(EpollTimeout::MAX)
            });
            self.0.wait(&mut events, timeout)
        })?;
        found.extend(events.iter().take(count).map(EpollEvent::data));
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}
