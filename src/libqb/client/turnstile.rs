//! Lets threads through one at a time, in the order they came, each until its own deadline.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::time::Instant;

use crate::sync::{Mutex, MutexGuard, Thread, current, park_timeout};

/// A lock that is fair and gives up at a deadline, which std's is not and does not.
///
/// Locking rules: `queue` is held for a few instructions only, never while waiting.
#[derive(Debug, Default)]
pub(crate) struct Turnstile {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    /// The first has the turn, the others sleep.
    waiting: VecDeque<(u64, Thread)>,
}

/// The turn; passes it on when dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turnstile: &'a Turnstile,
    ticket: u64,
}

impl Turnstile {
    /// Waits for the turn. `None`: the deadline passed first.
    pub(crate) fn enter(&self, deadline: Instant) -> Option<Turn<'_>> {
        let mut queue = self.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push_back((ticket, current()));
        drop(queue);
        // Leaves the queue again in every case.
        let turn = Turn { turnstile: self, ticket };
        loop {
            if self.lock().waiting.front().is_some_and(|(first, _)| *first == ticket) {
                return Some(turn);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            park_timeout(left);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing panics while it is held, and the queue would be whole all the same.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut queue = self.turnstile.lock();
        queue.waiting.retain(|(ticket, _)| *ticket != self.ticket);
        if let Some((_, thread)) = queue.waiting.front() {
            thread.unpark();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    fn late() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_turn_that_does_not_come_is_given_up_and_harms_nobody() {
        let turnstile = Turnstile::default();
        let first = turnstile.enter(late()).unwrap();
        assert!(turnstile.enter(soon()).is_none());
        drop(first);
        assert!(turnstile.enter(soon()).is_some());
    }

    #[test]
    fn threads_pass_in_the_order_they_came() {
        let turnstile = Arc::new(Turnstile::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turnstile.enter(late()).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (shared, order) = (Arc::clone(&turnstile), Arc::clone(&order));
                let thread = thread::spawn(move || {
                    let _turn = shared.enter(late()).unwrap();
                    order.lock().unwrap().push(number);
                });
                while turnstile.lock().waiting.len() < number + 2 {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        drop(first);
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..8).collect::<Vec<_>>());
    }
}
