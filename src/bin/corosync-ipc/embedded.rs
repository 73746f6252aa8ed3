//! `--embedded`: a corosync in this process, and the signals that end it.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use corosync_ipc::Endpoint;
use corosync_ipc::embedded::Corosync;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::failure::Failure;
use crate::watch;

/// A corosync in this process. [`Embedded::end`] or a signal ends it and removes its files.
#[derive(Debug)]
pub(crate) struct Embedded {
    endpoint: Endpoint,
    /// Taken by what ends it.
    corosync: Arc<Mutex<Option<Corosync>>>,
}

impl Embedded {
    pub(crate) fn start() -> Result<Self, Failure> {
        // Before other threads start, which signals would end.
        let signals = Signals::block()?;
        let corosync = Corosync::builder().evs(true).start()?;
        let endpoint = corosync.endpoint().clone();
        let corosync = Arc::new(Mutex::new(Some(corosync)));
        let held = Arc::clone(&corosync);
        signals.die_after(move |_| drop(take(&held)));
        Ok(Self { endpoint, corosync })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Ends it. If a signal ended it already, waits for the signal to end the process.
    pub(crate) fn end(self) {
        if take(&self.corosync).is_none() {
            loop {
                thread::park();
            }
        }
    }
}

fn take(held: &Mutex<Option<Corosync>>) -> Option<Corosync> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// The signals by which people end programs. They are read here, so that the program can clean up
/// first.
#[derive(Debug)]
pub(crate) struct Signals {
    set: SigSet,
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and in the threads it starts from now on.
    pub(crate) fn block() -> Result<Self, Failure> {
        let failed = |error: Errno| Failure::refused(format!("waiting for signals: {error}"));
        let mut signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        // If nohup made it ignored, blocking would make it visible again.
        if !is_ignored(Signal::SIGHUP) {
            signals.add(Signal::SIGHUP);
        }
        signals.thread_block().map_err(failed)?;
        let fd = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(failed)?;
        Ok(Self { set: signals, fd })
    }

    /// Calls `last` at the first signal, then ends the process by it.
    pub(crate) fn die_after(self, last: impl FnOnce(&Self) + Send + 'static) {
        thread::spawn(move || {
            if let Ok(Some(signal)) = self.wait(None) {
                last(&self);
                Self::die_of(signal);
            }
        });
    }

    /// Lets the next signal end the process at once.
    pub(crate) fn let_through(&self) {
        let _ = self.set.thread_unblock();
    }

    /// Waits for a signal, or until a descriptor is readable, which returns `None`.
    pub(crate) fn wait(&self, or: Option<BorrowedFd<'_>>) -> Result<Option<Signal>, Failure> {
        let mut watched = vec![PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        watched.extend(or.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        loop {
            watch::poll_any(&mut watched, "waiting for signals")?;
            let signal = self.fd.read_signal().ok().flatten();
            let signal =
                signal.and_then(|info| Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok());
            let is_over = watched.get(1).and_then(PollFd::any).unwrap_or(false);
            if signal.is_some() || is_over {
                return Ok(signal);
            }
        }
    }

    /// Ends the process as the signal would have.
    fn die_of(signal: Signal) -> ! {
        let _ = SigSet::from(signal).thread_unblock();
        let _ = raise(signal);
        // The signal is ignored, as in a job in the background.
        process::exit(128 + signal as i32)
    }
}

/// Whether the parent process made this signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}
