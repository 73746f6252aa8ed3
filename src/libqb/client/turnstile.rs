//! A lock that threads take in the order they came, each waiting until its own deadline.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

use crate::sync::{Mutex, MutexGuard, Thread, current, now, park_timeout};

/// A lock that is fair and gives up at a deadline. std's does neither.
///
/// Locking rules: `queue` is held for a few instructions only, never while waiting. `value` is
/// taken by the first in the queue only, so nobody waits for it.
#[derive(Debug, Default)]
pub(super) struct Turnstile<T> {
    queue: Mutex<Queue>,
    pub(super) value: Mutex<T>,
}

#[derive(Debug, Default)]
struct Queue {
    next_ticket: u64,
    /// The first thread has the turn; the others sleep.
    waiting: VecDeque<(u64, Thread)>,
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    queue: &'a Mutex<Queue>,
    number: u64,
}

/// The value, until dropped.
#[derive(Debug)]
pub(super) struct Guard<'a, T> {
    // Dropped first: the next in the queue finds the value unlocked.
    value: MutexGuard<'a, T>,
    _ticket: Ticket<'a>,
}

impl<T> Turnstile<T> {
    pub(super) fn new(value: T) -> Self {
        Self { queue: Mutex::default(), value: Mutex::new(value) }
    }

    /// Waits for the value. Returns `None` if the deadline passes first. With a deadline in the
    /// past it does not wait.
    pub(super) fn enter(&self, deadline: Instant) -> Option<Guard<'_, T>> {
        let ticket = self.queue_up(deadline)?;
        Some(Guard { value: lock(&self.value), _ticket: ticket })
    }

    /// Waits to be the first in the queue.
    pub(super) fn queue_up(&self, deadline: Instant) -> Option<Ticket<'_>> {
        let mut queue = lock(&self.queue);
        // Who does not wait must not make others that do not wait believe that somebody does.
        if !queue.waiting.is_empty() && now() >= deadline {
            return None;
        }
        let number = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push_back((number, current()));
        drop(queue);
        // Leaves the queue on every return.
        let ticket = Ticket { queue: &self.queue, number };
        loop {
            if lock(&self.queue).waiting.front().is_some_and(|(first, _)| *first == number) {
                return Some(ticket);
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return None;
            }
            park_timeout(left);
        }
    }
}

/// Locks. A panic while a lock is held would leave nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queue = lock(self.queue);
        queue.waiting.retain(|(number, _)| *number != self.number);
        if let Some((_, thread)) = queue.waiting.front() {
            thread.unpark();
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
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

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_turn_that_does_not_come_is_given_up_and_harms_nobody() {
        let turnstile = Turnstile::<()>::default();
        let first = turnstile.enter(far()).unwrap();
        assert!(turnstile.enter(soon()).is_none());
        drop(first);
        assert!(turnstile.enter(soon()).is_some());
    }

    #[test]
    fn threads_pass_in_the_order_they_came() {
        let turnstile = Arc::new(Turnstile::<()>::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turnstile.enter(far()).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let (shared, order) = (Arc::clone(&turnstile), Arc::clone(&order));
                let thread = thread::spawn(move || {
                    let _turn = shared.enter(far()).unwrap();
                    order.lock().unwrap().push(number);
                });
                while turnstile.queue.lock().unwrap().waiting.len() < number + 2 {
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
