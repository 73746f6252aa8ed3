//! Waiting for a file descriptor until a deadline.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

/// The result of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ready {
    /// The descriptor has what was waited for.
    Yes,
    /// The other end closed, or the socket failed. There may still be something to read.
    HungUp,
    /// The deadline passed.
    TimedOut,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
    /// Only that the other end closes.
    HangUp,
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Self::Readable => PollFlags::POLLIN,
            Self::Writable => PollFlags::POLLOUT,
            // poll always reports a hang-up.
            Self::HangUp => PollFlags::empty(),
        }
    }
}

/// Waits until `deadline`; `None` waits for ever. With a deadline in the past it polls once without
/// blocking.
pub(crate) fn wait_for(
    fd: &impl AsFd,
    interest: Interest,
    deadline: Option<Instant>,
) -> io::Result<Ready> {
    let mut fds = [PollFd::new(fd.as_fd(), interest.flags())];
    poll_until(&mut fds, deadline)?;
    let [fd] = fds;
    Ok(readiness(&fd))
}

/// As [`wait_for`], but a hang-up of `peer` ends the wait too, with [`Ready::HungUp`].
pub(crate) fn wait_for_peer(
    fd: &impl AsFd,
    interest: Interest,
    peer: &impl AsFd,
    deadline: Option<Instant>,
) -> io::Result<Ready> {
    let mut fds = [
        PollFd::new(fd.as_fd(), interest.flags()),
        PollFd::new(peer.as_fd(), Interest::HangUp.flags()),
    ];
    poll_until(&mut fds, deadline)?;
    let [fd, peer] = fds;
    Ok(match readiness(&fd) {
        Ready::TimedOut => readiness(&peer),
        ready => ready,
    })
}

/// As [`wait_for`] with [`Interest::Readable`], but `wakeup` ends the wait too. Returns the state
/// of `fd`, and true if `wakeup` is readable. `(TimedOut, false)` means that the deadline passed.
pub(crate) fn wait_or_woken(
    fd: &impl AsFd,
    wakeup: &impl AsFd,
    deadline: Option<Instant>,
) -> io::Result<(Ready, bool)> {
    let mut fds = [
        PollFd::new(fd.as_fd(), PollFlags::POLLIN),
        PollFd::new(wakeup.as_fd(), PollFlags::POLLIN),
    ];
    poll_until(&mut fds, deadline)?;
    let [fd, wakeup] = fds;
    Ok((readiness(&fd), readiness(&wakeup) != Ready::TimedOut))
}

/// Waits until a descriptor is ready or the deadline passes.
pub(super) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match ppoll(fds, left.map(TimeSpec::from), None) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            // The kernel waits for at least as long as it was told.
            Ok(_) => return Ok(()),
        }
    }
}

fn readiness(fd: &PollFd<'_>) -> Ready {
    // `None`: flags that nix does not know.
    let Some(events) = fd.revents() else { return Ready::Yes };
    if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
        Ready::HungUp
    } else if events.is_empty() {
        Ready::TimedOut
    } else {
        Ready::Yes
    }
}

/// Returns the milliseconds until `deadline`, rounded up: a wait that ended early would make its
/// caller spin.
pub(crate) fn millis_until(deadline: Instant) -> i32 {
    let left: Duration = deadline.saturating_duration_since(Instant::now());
    i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}
