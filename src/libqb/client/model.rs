//! Checks a client's locking in every interleaving: threads take turns at the rings, some give up,
//! late answers reach nobody, and wakes are not lost. `.ci/run loom` runs it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use loom::sync::{Arc, Condvar};
use loom::thread;

use super::turnstile::Turnstile;
use super::waker::Waker;
use super::wanted::Wanted;
use crate::libqb::pending::{Before, PendingReplies};
use crate::libqb::ring::heap::{Heap, pair};
use crate::libqb::ring::{Consumer, Producer};
use crate::sync::model::{STEP, pass_time};
use crate::sync::{AtomicU32, Mutex, Ordering, now};

/// Three preemptions find what more would find, and take seconds.
fn model(body: impl Fn() + Send + Sync + 'static) {
    model_with(3, body);
}

/// More threads take longer, and find it with two preemptions.
fn large_model(body: impl Fn() + Send + Sync + 'static) {
    model_with(2, body);
}

fn model_with(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(body);
}

fn far() -> Instant {
    now() + LONG
}

/// A deadline that is over when the time passes.
fn near() -> Instant {
    now() + STEP
}

const LONG: Duration = Duration::from_secs(3600);

/// A deadline that has passed: a thread with it gives up unless it is the first.
fn at_once() -> Instant {
    now()
}

#[test]
fn one_thread_has_the_turn_and_every_thread_gets_it() {
    model(|| {
        let shared = Arc::new((Turnstile::<()>::default(), AtomicU32::new(0)));
        let pass = |shared: &(Turnstile<()>, AtomicU32)| {
            let turn = shared.0.enter(far()).unwrap();
            assert_eq!(shared.1.fetch_add(1, Ordering::Relaxed), 0, "two threads have the turn");
            shared.1.fetch_sub(1, Ordering::Relaxed);
            drop(turn);
        };
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || pass(&shared))
            })
            .collect();
        pass(&shared);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn who_gives_up_keeps_the_turn_from_nobody() {
    model(|| {
        let turnstile = Arc::new(Turnstile::<()>::default());
        let hasty = Arc::clone(&turnstile);
        let hasty = thread::spawn(move || drop(hasty.enter(at_once())));
        let patient = Arc::clone(&turnstile);
        let patient = thread::spawn(move || assert!(patient.enter(far()).is_some()));
        drop(turnstile.enter(far()).unwrap());
        hasty.join().unwrap();
        patient.join().unwrap();
        assert!(turnstile.enter(at_once()).is_some());
    });
}

#[test]
fn who_waits_in_vain_keeps_the_turn_from_nobody() {
    large_model(|| {
        let turnstile = Arc::new(Turnstile::<()>::default());
        let turn = turnstile.enter(far()).unwrap();
        let hasty = Arc::clone(&turnstile);
        let hasty = thread::spawn(move || drop(hasty.enter(near())));
        let patient = Arc::clone(&turnstile);
        let patient = thread::spawn(move || assert!(patient.enter(far()).is_some()));
        let clock = thread::spawn(pass_time);
        drop(turn);
        hasty.join().unwrap();
        patient.join().unwrap();
        clock.join().unwrap();
        assert!(turnstile.enter(at_once()).is_some());
    });
}

/// Asks for work while other threads take their turns, each waiting until one of the deadlines.
fn work_that_is_wanted_is_done(deadlines: &[fn() -> Instant]) {
    let shared = Arc::new((Turnstile::<u32>::default(), Wanted::default()));
    let serve = |(turnstile, wanted): &(Turnstile<u32>, Wanted)| {
        wanted.serve(turnstile, |done| {
            *done += 1;
            true
        });
    };
    let pass = |deadline: Instant| {
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            drop(shared.0.enter(deadline));
            serve(&shared);
        })
    };
    let others: Vec<_> = deadlines.iter().map(|deadline| pass(deadline())).collect();
    let clock = thread::spawn(pass_time);
    shared.1.ask();
    serve(&shared);
    others.into_iter().for_each(|thread| thread.join().unwrap());
    clock.join().unwrap();
    assert_eq!(*shared.0.enter(at_once()).unwrap(), 1);
}

#[test]
fn work_that_is_wanted_is_done_by_the_thread_that_has_the_turn() {
    model(|| work_that_is_wanted_is_done(&[far]));
    model(|| work_that_is_wanted_is_done(&[at_once]));
}

#[test]
fn work_that_is_wanted_is_done_though_a_thread_that_waited_gives_up() {
    large_model(|| work_that_is_wanted_is_done(&[far, near]));
}

/// The request half of a connection.
struct Requests {
    request: Producer<Heap>,
    response: Consumer<Heap>,
    pending: PendingReplies,
}

impl Requests {
    fn send(&mut self, request: u8) {
        assert!(self.request.try_send(&[&[request]]).unwrap());
        self.pending.sent();
    }

    fn receive(&mut self, timeout: Duration) -> Option<u8> {
        let reply = self.response.receive(timeout).unwrap()?;
        self.pending.received();
        Some(reply[0])
    }
}

#[test]
fn a_reply_that_nobody_waits_for_any_more_reaches_nobody() {
    large_model(|| {
        let (request, mut requests, ..) = pair(16);
        let (mut replies, response, ..) = pair(16);
        let daemon = thread::spawn(move || {
            for _ in 0..2 {
                let request = requests.receive(LONG).unwrap().unwrap();
                assert!(replies.try_send(&[&request]).unwrap());
            }
        });
        let pending = PendingReplies::default();
        let client = Arc::new(Turnstile::new(Requests { request, response, pending }));
        let giving_up = Arc::clone(&client);
        let giving_up = thread::spawn(move || {
            let mut requests = giving_up.enter(far()).unwrap();
            if requests.pending.before() == Before::Drain {
                requests.receive(LONG);
            }
            requests.send(1);
            // Its deadline passes, whether the answer has come or not.
            assert!(matches!(requests.receive(Duration::ZERO), None | Some(1)));
        });
        {
            let _ticket = client.queue_up(far()).unwrap();
            let mut requests =
                client.value.try_lock().expect("the lock is free for who has the turn");
            if requests.pending.before() == Before::Drain {
                assert_eq!(requests.receive(LONG), Some(1));
            }
            requests.send(2);
            assert_eq!(requests.receive(LONG), Some(2));
        }
        giving_up.join().unwrap();
        daemon.join().unwrap();
    });
}

/// Stands in for `sys::event::Wakeup`, whose descriptor loom cannot poll.
#[derive(Debug, Default)]
pub(crate) struct Wakeup {
    is_readable: Mutex<bool>,
    changed: Condvar,
}

impl Wakeup {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self::default())
    }

    pub(crate) fn wake(&self) {
        *self.is_readable.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(crate) fn clear(&self) {
        *self.is_readable.lock().unwrap() = false;
    }

    /// Polls without a timeout.
    fn wait(&self) {
        let mut is_readable = self.is_readable.lock().unwrap();
        while !*is_readable {
            is_readable = self.changed.wait(is_readable).unwrap();
        }
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("models do not poll")
    }
}

/// Waits for events, of which none comes, as `Connection::next_event`: it looks, sleeps, and clears
/// the wakeup before it looks again.
fn next_event(waker: &Waker) {
    while !waker.take() {
        waker.wakeup().wait();
        waker.wakeup().clear();
    }
}

#[test]
fn a_wake_ends_the_wait_under_way_or_the_next_and_shows_what_was_done_before() {
    model(|| {
        let shared = Arc::new((Waker::new().unwrap(), AtomicU32::new(0)));
        let other = Arc::clone(&shared);
        let other = thread::spawn(move || {
            for number in 1..3 {
                other.1.store(number, Ordering::Relaxed);
                other.0.wake();
            }
        });
        next_event(&shared.0);
        assert!(shared.1.load(Ordering::Relaxed) > 0);
        other.join().unwrap();
        shared.0.wake();
        next_event(&shared.0);
        assert!(!shared.0.take(), "one wait takes all wakes before it");
    });
}

#[test]
fn a_wake_ends_the_wait_that_follows_another_wake() {
    model(|| {
        let waker = Waker::new().unwrap();
        let others = [(); 2].map(|()| {
            let waker = waker.clone();
            thread::spawn(move || waker.wake())
        });
        next_event(&waker);
        others.map(|thread| thread.join().unwrap());
        // The wakeup may still be readable, or have been cleared.
        waker.wake();
        next_event(&waker);
    });
}
