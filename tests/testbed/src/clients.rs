//! Helpers for clients and their descriptors.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use corosync_ipc::{CsError, Error, Result, ServiceClient};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::gettid;

use crate::{Patience, diagnosis, patiently, patiently_for};

/// The error of the daemon that a call ended with.
#[track_caller]
pub fn cs<T: std::fmt::Debug>(result: Result<T, Error>) -> CsError {
    match result {
        Err(Error::Cs { error, .. }) => error,
        other => panic!("not an error of the daemon: {other:?}"),
    }
}

/// The argument that a call refused.
#[track_caller]
pub fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) -> &'static str {
    match result {
        Err(Error::InvalidArgument { argument, .. }) => argument,
        other => panic!("not an invalid argument: {other:?}"),
    }
}

/// Waits for the next event or error.
#[track_caller]
pub fn next_or_error<C: ServiceClient>(client: &C) -> Result<C::Event> {
    let came = patiently(|limit| client.next_event(limit).transpose());
    came.unwrap_or_else(|| panic!("no event came\n{}", diagnosis(client)))
}

/// Waits for the next event.
#[track_caller]
pub fn next<C: ServiceClient>(client: &C) -> C::Event {
    next_or_error(client).unwrap()
}

/// Drops events until `wanted` returns a value, and returns that.
#[track_caller]
pub fn next_that<C: ServiceClient, T>(
    client: &C,
    mut wanted: impl FnMut(C::Event) -> Option<T>,
) -> T {
    let patience = Patience::new();
    loop {
        let event = patiently_for(patience.left(), |limit| client.next_event(limit).unwrap());
        let event =
            event.unwrap_or_else(|| panic!("the event did not come\n{}", diagnosis(client)));
        if let Some(found) = wanted(event) {
            return found;
        }
    }
}

/// All events that wait.
#[track_caller]
pub fn waiting<C: ServiceClient>(client: &C) -> Vec<C::Event> {
    std::iter::from_fn(|| client.poll_event().unwrap()).collect()
}

/// Whether a client's descriptor polls readable now.
pub fn is_readable<C: ServiceClient>(client: &C) -> bool {
    is_fd_readable(client)
}

/// Whether a client's descriptor becomes readable.
pub fn becomes_readable<C: ServiceClient>(client: &C) -> bool {
    patiently(|limit| is_fd_readable_within(client, limit).then_some(())).is_some()
}

/// Whether a descriptor polls readable now.
pub fn is_fd_readable(fd: &impl AsFd) -> bool {
    is_fd_readable_within(fd, Duration::ZERO)
}

/// Whether a descriptor polls readable within a time.
pub fn is_fd_readable_within(fd: &impl AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap();
    poll(&mut fds, timeout).unwrap() == 1
}

/// Starts a thread and returns when it sleeps or has ended.
pub fn spawn_until_asleep<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    body: impl FnOnce() -> T + Send + 'scope,
) -> thread::ScopedJoinHandle<'scope, T> {
    let (sender, receiver) = channel();
    let thread = scope.spawn(move || {
        sender.send(gettid()).unwrap();
        body()
    });
    let stat = format!("/proc/self/task/{}/stat", receiver.recv().unwrap());
    let is_asleep = || {
        fs::read_to_string(&stat)
            .is_ok_and(|stat| stat.rsplit_once(") ").unwrap().1.starts_with('S'))
    };
    let patience = Patience::new();
    while !(thread.is_finished() || is_asleep()) {
        assert!(!patience.is_over(), "the thread neither sleeps nor ends");
        thread::yield_now();
    }
    thread
}

/// The names of the rings that a daemon has for its clients.
pub fn rings(shm_root: &Path) -> Vec<String> {
    let entries = fs::read_dir(shm_root)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    // The daemon's black box begins with qb- too.
    entries.filter(|name| name.starts_with("qb-") && !name.contains("blackbox")).collect()
}

/// Pseudo-random numbers that a seed repeats: xorshift64*.
pub struct Random(u64);

impl Random {
    /// Starts at this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number. `interop` has the same in C.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// The next number, below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.word() >> 33) % limit
    }
}
