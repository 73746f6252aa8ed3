//! Work that a thread leaves to the thread that has the turn.

use super::turnstile::Turnstile;
use crate::sync::{AtomicBool, Ordering, fence};

/// Whether work is wanted of a thread that has the turn.
#[derive(Debug, Default)]
pub(super) struct Wanted(AtomicBool);

impl Wanted {
    /// Asks for the work. The caller then calls [`Wanted::serve`].
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
        // Pairs with the fence of a thread that leaves the turnstile: this one finds the turn free, or
        // that one finds the work.
        fence(Ordering::SeqCst);
    }

    /// Does the work if it is wanted and no other thread has the turn or waits for it. Those call
    /// this after they left the turnstile. Never blocks. Work that is not `possible`, or that returns
    /// `false`, stays wanted.
    pub(super) fn serve<T>(
        &self,
        turnstile: &Turnstile<T>,
        mut possible: impl FnMut(&mut T) -> bool,
        mut work: impl FnMut(&mut T) -> bool,
    ) {
        // Relaxed: see `ask`.
        while self.0.load(Ordering::Relaxed) {
            let Some(mut value) = turnstile.try_enter() else { return };
            // Still wanted meanwhile: who makes it possible looks here afterwards.
            if !possible(&mut value) {
                return;
            }
            // Another thread may have done it. What is asked for from now on needs work of its own.
            if self.0.swap(false, Ordering::Relaxed) && !work(&mut value) {
                return self.0.store(true, Ordering::Relaxed);
            }
        }
    }
}
