//! The signals by which people end programs.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::process;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::failure::Failure;

/// What the first signal does before the process dies of it.
type Action = Box<dyn FnOnce(Signal) + Send>;

/// `None` before there is a thread that waits for signals.
static ACTION: Mutex<Option<Action>> = Mutex::new(None);

/// Calls `action` at the first signal, then ends the process by that signal. A second signal ends
/// it at once, since the daemon may be slow. Takes the place of the action of an earlier call.
///
/// Call it before other threads start, which signals would end.
pub(crate) fn at_first(action: impl FnOnce(Signal) + Send + 'static) -> Result<(), Failure> {
    let mut held = ACTION.lock().unwrap_or_else(PoisonError::into_inner);
    let signals = if held.is_none() { Some(Signals::block()?) } else { None };
    *held = Some(Box::new(action));
    if let Some(signals) = signals {
        thread::spawn(move || {
            if let Ok(Some(signal)) = signals.wait(None) {
                signals.let_through();
                let action = ACTION.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(action) = action {
                    action(signal);
                }
                die_of(signal);
            }
        });
    }
    Ok(())
}

/// Ends the process as the signal would have.
pub(crate) fn die_of(signal: Signal) -> ! {
    let _ = SigSet::from(signal).thread_unblock();
    let _ = raise(signal);
    // The signal is ignored, as in a job in the background.
    process::exit(128 + signal as i32)
}

/// The blocked signals of a program that is started: those that were blocked before.
pub(crate) fn of_a_child() -> SigSet {
    let mut mask = SigSet::thread_get_mask().unwrap_or_else(|_| SigSet::empty());
    ending().iter().for_each(|signal| mask.remove(signal));
    mask
}

/// Signals that are read here, so that the program can clean up first.
#[derive(Debug)]
pub(crate) struct Signals {
    set: SigSet,
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals in this thread and in the threads it starts from now on.
    pub(crate) fn block() -> Result<Self, Failure> {
        let failed = |error: Errno| Failure::refused(format!("waiting for signals: {error}"));
        let set = ending();
        set.thread_block().map_err(failed)?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(failed)?;
        Ok(Self { set, fd })
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
            poll_any(&mut watched, "waiting for signals", None)?;
            let signal = self.fd.read_signal().ok().flatten();
            let signal =
                signal.and_then(|info| Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok());
            let is_over = watched.get(1).and_then(PollFd::any).unwrap_or(false);
            if signal.is_some() || is_over {
                return Ok(signal);
            }
        }
    }
}

/// The signals that end the program.
fn ending() -> SigSet {
    let mut signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    // If nohup made it ignored, blocking would make it visible again.
    if !is_ignored(Signal::SIGHUP) {
        signals.add(Signal::SIGHUP);
    }
    signals
}

/// Whether the parent process made this signal ignored.
fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
}

/// Waits until a descriptor has an event, or until the deadline if there is one.
pub(crate) fn poll_any(
    watched: &mut [PollFd<'_>],
    what: &str,
    deadline: Option<Instant>,
) -> Result<(), Failure> {
    loop {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up, so that the deadline has passed afterwards.
            let left = deadline.saturating_duration_since(Instant::now());
            let left = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(watched, timeout) {
            Ok(0) if deadline.is_none_or(|deadline| Instant::now() < deadline) => {}
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::refused(format!("{what}: {error}"))),
        }
    }
}
