//! Spinning for a moment before sleeping.
//!
//! An idle daemon answers in a few microseconds. Sleeping and being woken costs tens of them, on
//! both sides: a poster that sees no waiter makes no system call. So a short spin pays if the
//! daemon has another processor.

use std::hint;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::process::has_several_processors;

/// How long to spin at most and at least.
const MOST: Duration = Duration::from_micros(64);
const LEAST: Duration = Duration::from_micros(16);

/// How many waits do not spin after even the shortest spin was in vain. All processors are busy
/// then, and spinning takes away the one that the daemon needs.
const REST: u32 = 64;

/// How many pauses to make between two reads of the shared word, so that its writer is not slowed
/// down.
const PAUSES: u32 = 32;

/// Learns how long to spin: less after it was in vain, more after it was not.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    rest: u32,
}

impl Spin {
    pub(super) fn new() -> Self {
        Self { budget: MOST, rest: 0 }
    }

    /// Spins until `ready`, but not for long. Returns whether it became ready.
    pub(super) fn until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if self.rest > 0 || !several_processors() {
            self.rest = self.rest.saturating_sub(1);
            return false;
        }
        let (start, budget) = (Instant::now(), self.budget.min(limit));
        while start.elapsed() < budget {
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
            if ready() {
                self.budget = (self.budget * 2).min(MOST);
                return true;
            }
        }
        if budget <= LEAST {
            self.rest = REST;
        }
        self.budget = (self.budget / 2).max(LEAST);
        false
    }
}

fn several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(has_several_processors)
}
