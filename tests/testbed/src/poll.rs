//! Waiting for conditions.

use std::io::Write;
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::patience::{Patience, WATCHDOG, patiently_for};

/// How long to wait at most before asking again.
const MOST_PAUSE: Duration = Duration::from_millis(200);

/// The result of a polled closure: `bool`, or `Option<T>` to return a value.
pub trait Condition {
    /// The value of a condition that holds.
    type Value;

    /// `Some` if the condition holds.
    fn met(self) -> Option<Self::Value>;
}

impl Condition for bool {
    type Value = ();

    fn met(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn met(self) -> Option<T> {
        self
    }
}

/// Polls until the condition holds and returns its value.
///
/// # Panics
/// After [`WATCHDOG`], with `what` in the message.
#[track_caller]
pub fn eventually<C: Condition>(what: &str, condition: impl FnMut() -> C) -> C::Value {
    match poll(WATCHDOG, condition) {
        Some(value) => value,
        None => panic!("not within {WATCHDOG:?}: {what}"),
    }
}

/// Polls, at least once, until the condition holds or a [`Patience`] of this limit is over.
pub(super) fn poll<C: Condition>(
    limit: Duration,
    mut condition: impl FnMut() -> C,
) -> Option<C::Value> {
    let patience = Patience::of(limit);
    let mut pause = Duration::from_millis(1);
    loop {
        let asked = Instant::now();
        if let Some(value) = condition().met() {
            return Some(value);
        }
        if patience.is_over() {
            return None;
        }
        // What takes its time to ask, as programs do, is not asked all the time.
        thread::sleep(asked.elapsed().clamp(pause, MOST_PAUSE));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Runs a body on a thread of its own and waits this many seconds for its end.
///
/// # Panics
/// With the body's panic, or when the time is over. The body's thread then goes on with all that it
/// owns; the end of the process cleans up what it started.
#[track_caller]
pub fn watchdog<T: Send + 'static>(seconds: u64, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (alive, ended) = channel::<()>();
    let thread = thread::spawn(move || {
        let _alive = alive;
        body()
    });
    let end = |limit| {
        Some(ended.recv_timeout(limit)).filter(|end| *end != Err(RecvTimeoutError::Timeout))
    };
    if patiently_for(Duration::from_secs(seconds), end).is_none() {
        panic!("the body did not end within {seconds} s");
    }
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Writes a line to the standard error of the process, past the capturing of the test framework.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
