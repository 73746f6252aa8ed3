//! Being woken by another thread, and waiting for many descriptors.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::socket::retry;
use super::wait::millis_until;

/// Rung by one thread to wake another: its descriptor is readable from then until it is silenced.
#[derive(Debug)]
pub(crate) struct Bell(EventFd);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the descriptor readable. What was done before is seen by whoever
    /// [`silence`](Self::silence)s it.
    pub(crate) fn ring(&self) {
        // Fails only when the counter is full, and then the descriptor is readable already.
        let _ = retry(|| self.0.write(1));
    }

    /// Makes the descriptor unreadable. Look for the reason of the ringing afterwards, never
    /// before.
    pub(crate) fn silence(&self) {
        let _ = retry(|| self.0.read());
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that is readable from some time on.
#[derive(Debug)]
pub(crate) struct Alarm(TimerFd);

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK,
        )?))
    }

    /// Sets when it becomes readable, which it is not before; `None`: never.
    pub(crate) fn set(&self, at: Option<Instant>) {
        // Neither fails with times that are valid.
        let _ = match at {
            None => self.0.unset(),
            Some(at) => {
                // No time at all would unset it.
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

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for any number of descriptors to be readable, each known by a number. Reports them again
/// and again while they are.
#[derive(Debug)]
pub(crate) struct Poller(Epoll);

/// How many descriptors are reported at once. The others come first the next time.
pub(crate) const REPORTED: usize = 32;

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    pub(crate) fn add(&self, fd: &impl AsFd, number: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, number))?)
    }

    pub(crate) fn remove(&self, fd: &impl AsFd) {
        // Whoever closed it removed it.
        let _ = self.0.delete(fd);
    }

    /// Puts the numbers of readable descriptors into `found`, waiting for one until the deadline;
    /// `None` waits for ever.
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
