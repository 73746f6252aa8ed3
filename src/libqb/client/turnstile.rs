//! A lock that threads take in the order they came, each waiting until its own deadline.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::{PoisonError, TryLockError};
use std::time::Instant;

use crate::sync::{
    AtomicUsize, Mutex, MutexGuard, Ordering, Thread, current, fence, now, park_timeout,
};

/// A lock that is fair and gives up at a deadline. std's does neither.
///
/// Locking rules: `queue` is held for a few instructions only, never while waiting. Nobody waits for
/// `value`: the first in the queue tries to lock it whenever it is woken, and others only while
/// nobody waits.
#[derive(Debug, Default)]
pub(super) struct Turnstile<T> {
    queue: Queue,
    value: Mutex<T>,
}

/// The threads that wait.
#[derive(Debug, Default)]
struct Queue {
    /// How many they are. A thread that leaves the turnstile changes `value` first and reads this
    /// then; one that comes changes this first and tries `value` then. Both have a full fence
    /// between, so one of the two sees the other.
    count: AtomicUsize,
    tickets: Mutex<Tickets>,
}

#[derive(Debug, Default)]
struct Tickets {
    next: u64,
    waiting: VecDeque<(u64, Thread)>,
}

/// The value, until dropped.
#[derive(Debug)]
pub(super) struct Guard<'a, T> {
    // Dropped first: the first in the queue finds the value unlocked.
    value: MutexGuard<'a, T>,
    _leaving: Leaving<'a>,
}

/// Wakes the first in the queue when dropped.
#[derive(Debug)]
struct Leaving<'a>(&'a Queue);

/// How a wait ended.
#[derive(Debug)]
pub(super) enum Entered<'a, T> {
    Turn(Guard<'a, T>),
    /// What was waited for came without a turn.
    Ready,
    /// The deadline passed first.
    TimedOut,
}

impl<T> Turnstile<T> {
    pub(super) fn new(value: T) -> Self {
        Self { queue: Queue::default(), value: Mutex::new(value) }
    }

    /// Waits for the value. Returns `None` if the deadline passes first.
    pub(super) fn enter(&self, deadline: Instant) -> Option<Guard<'_, T>> {
        match self.enter_unless(deadline, &mut || false) {
            Entered::Turn(guard) => Some(guard),
            Entered::Ready | Entered::TimedOut => None,
        }
    }

    /// As [`Turnstile::enter`], but gives up as soon as `ready` returns `true`. Whoever makes it do so
    /// unparks this thread.
    pub(super) fn enter_unless(
        &self,
        deadline: Instant,
        ready: &mut dyn FnMut() -> bool,
    ) -> Entered<'_, T> {
        if let Some(guard) = self.try_enter() {
            return Entered::Turn(guard);
        }
        // Who does not wait must not make others that do not wait believe that somebody does.
        if now() >= deadline {
            return Entered::TimedOut;
        }
        let place = Place::new(self);
        loop {
            if ready() {
                return Entered::Ready;
            }
            if let Some(guard) = place.is_first().then(|| self.try_take()).flatten() {
                return Entered::Turn(guard);
            }
            let left = deadline.saturating_duration_since(now());
            if left.is_zero() {
                return Entered::TimedOut;
            }
            park_timeout(left);
        }
    }

    /// Takes the value if no other thread has it or waits for it.
    pub(super) fn try_enter(&self) -> Option<Guard<'_, T>> {
        // Relaxed: who does not see the others comes a moment before them.
        if self.queue.count.load(Ordering::Relaxed) == 0 { self.try_take() } else { None }
    }

    fn try_take(&self) -> Option<Guard<'_, T>> {
        let value = match self.value.try_lock() {
            Ok(value) => value,
            // A panic while the value is in use would leave nothing half done.
            Err(TryLockError::Poisoned(value)) => value.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Guard { value, _leaving: Leaving(&self.queue) })
    }
}

/// A place in the queue; left when dropped.
struct Place<'a, T> {
    turnstile: &'a Turnstile<T>,
    number: u64,
}

impl<'a, T> Place<'a, T> {
    fn new(turnstile: &'a Turnstile<T>) -> Self {
        let Queue { count, tickets } = &turnstile.queue;
        let number = {
            let mut tickets = lock(tickets);
            let number = tickets.next;
            tickets.next += 1;
            tickets.waiting.push_back((number, current()));
            number
        };
        count.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Self { turnstile, number }
    }

    fn is_first(&self) -> bool {
        let tickets = lock(&self.turnstile.queue.tickets);
        tickets.waiting.front().is_some_and(|(first, _)| *first == self.number)
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let Queue { count, tickets } = &self.turnstile.queue;
        lock(tickets).waiting.retain(|(number, _)| *number != self.number);
        count.fetch_sub(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // This thread may have been woken in place of the next one.
        drop(self.turnstile.try_take());
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        fence(Ordering::SeqCst);
        if self.0.count.load(Ordering::Relaxed) > 0 {
            if let Some((_, thread)) = lock(&self.0.tickets).waiting.front() {
                thread.unpark();
            }
        }
    }
}

/// Locks. A panic while a lock is held would leave nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
                while turnstile.queue.count.load(Ordering::Relaxed) <= number {
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
