//! Work that a thread leaves to the thread that has the turn.

use super::turnstile::Turnstile;
use crate::sync::{AtomicBool, Ordering, now};

/// Whether work is wanted of a thread that has the turn.
#[derive(Debug, Default)]
pub(super) struct Wanted(AtomicBool);

impl Wanted {
    /// Asks for the work. The caller then calls [`Wanted::serve`].
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Does the work if it is wanted and no other thread has the turn or waits for it. Those call
    /// this after they left the turnstile. Never blocks. Work that returns `false` stays wanted.
    pub(super) fn serve<T>(&self, turnstile: &Turnstile<T>, mut work: impl FnMut(&mut T) -> bool) {
        // Relaxed: the lock in the turnstile orders it. A thread that finds the turn taken has asked
        // before, and the thread that leaves the turnstile looks here afterwards.
        while self.0.load(Ordering::Relaxed) {
            let Some(mut value) = turnstile.enter(now()) else { return };
            // Another thread may have done it meanwhile. What is asked for from now on needs work
            // of its own.
            if self.0.swap(false, Ordering::Relaxed) && !work(&mut value) {
                return self.0.store(true, Ordering::Relaxed);
            }
        }
    }
}
