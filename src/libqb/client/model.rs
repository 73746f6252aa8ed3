//! Checks a client's locking in every interleaving: threads take turns at the rings, some give up,
//! and late answers reach nobody.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --lib --release client::model`

use std::time::{Duration, Instant};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use super::turnstile::Turnstile;
use crate::libqb::pending::{Before, PendingReplies};
use crate::libqb::ring::heap::{Heap, pair};
use crate::libqb::ring::{Consumer, Producer};

/// Two threads with three preemptions find what more would find, and take seconds.
fn model(body: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(body);
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// A deadline that has passed: a thread with it gives up unless it is the first.
fn at_once() -> Instant {
    Instant::now()
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

    fn receive(&mut self) -> u8 {
        loop {
            if let Some(reply) = self.response.try_receive().unwrap() {
                self.pending.received();
                return reply[0];
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_reply_that_nobody_waits_for_any_more_reaches_nobody() {
    model(|| {
        let (request, mut requests, ..) = pair(16);
        let (mut replies, response, ..) = pair(16);
        let daemon = thread::spawn(move || {
            for _ in 0..2 {
                let request = loop {
                    match requests.try_receive().unwrap() {
                        Some(request) => break request,
                        None => thread::yield_now(),
                    }
                };
                assert!(replies.try_send(&[&request]).unwrap());
            }
        });
        let pending = PendingReplies::default();
        let client = Arc::new(Turnstile::new(Requests { request, response, pending }));
        let giving_up = Arc::clone(&client);
        let giving_up = thread::spawn(move || {
            let mut requests = giving_up.enter(far()).unwrap();
            if requests.pending.before() == Before::Drain {
                requests.receive();
            }
            // Its deadline passes before the answer comes.
            requests.send(1);
        });
        {
            let _ticket = client.queue_up(far()).unwrap();
            let mut requests =
                client.value.try_lock().expect("the lock is free for who has the turn");
            if requests.pending.before() == Before::Drain {
                assert_eq!(requests.receive(), 1);
            }
            requests.send(2);
            assert_eq!(requests.receive(), 2);
        }
        giving_up.join().unwrap();
        daemon.join().unwrap();
    });
}
