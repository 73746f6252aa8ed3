//! Events: the four ways of dispatching, and the descriptor to poll.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{Client, Event, TrackEvents, Value};
use corosync_ipc::{CsError, Deadline, Dispatch, Endpoint, Error, Result};

use super::{LIMIT, Random, cs, is_readable, is_readable_within, spawn_until_asleep, waiting};

/// Every way of dispatching.
pub const MODES: [Dispatch; 4] = [Dispatch::One, Dispatch::All, Dispatch::Blocking, Dispatch::OneNonblocking];

/// A client that tracks a key, and one that sets it to 1, 2 and so on, so that events have an order.
pub struct Source {
    pub client: Client,
    setter: Client,
    key: &'static str,
    set: u64,
    seen: u64,
}

impl Source {
    pub fn new(endpoint: &Endpoint, key: &'static str) -> Source {
        let client = Client::connect_to(endpoint).unwrap();
        let setter = Client::connect_to(endpoint).unwrap();
        client.track_add(key, TrackEvents::ADD | TrackEvents::MODIFY).unwrap();
        Source { client, setter, key, set: 0, seen: 0 }
    }

    /// Makes events. When this returns, they wait.
    pub fn make(&mut self, count: u64) {
        for _ in 0..count {
            self.set += 1;
            self.setter.set(self.key, self.set).unwrap();
        }
    }

    /// How many events wait.
    pub fn left(&self) -> u64 {
        self.set - self.seen
    }

    /// Dispatches with a handler that breaks at the event after `limit - 1` others; how many it was handed, all in order.
    pub fn dispatch(&mut self, mode: Dispatch, limit: u64) -> (Result<()>, u64) {
        let before = self.seen;
        let seen = &mut self.seen;
        let result = self.client.dispatch(mode, |event| {
            *seen += 1;
            assert_eq!(number(&event), *seen);
            if *seen - before == limit { Break(()) } else { Continue(()) }
        });
        (result, self.seen - before)
    }

    /// Takes the next event, if one waits.
    fn poll_event(&mut self) -> bool {
        match self.client.poll_event().unwrap() {
            None => false,
            Some(event) => {
                self.seen += 1;
                assert_eq!(number(&event), self.seen);
                true
            }
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = self.setter.delete(self.key);
    }
}

/// The number of an event.
fn number(event: &Event) -> u64 {
    match event {
        Event::Notify(told) => match told.new_value {
            Some(Value::U64(number)) => number,
            _ => panic!("{told:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn ignore(_: Event) -> ControlFlow<()> {
    Continue(())
}

pub fn nothing_waits(endpoint: &Endpoint) {
    let mut source = Source::new(endpoint, "nothing_waits");
    for _ in 0..3 {
        assert!(matches!(source.dispatch(Dispatch::All, 1), (Ok(()), 0)));
        assert_eq!(cs(source.client.dispatch(Dispatch::OneNonblocking, ignore)), CsError::TryAgain);
        assert!(source.client.next_event(Duration::ZERO).unwrap().is_none());
        assert!(source.client.next_event(Duration::from_millis(1)).unwrap().is_none());
        assert!(!is_readable(&source.client));
    }
    // The other two wait until there is one.
    for mode in [Dispatch::One, Dispatch::Blocking] {
        thread::scope(|scope| {
            let waiter = spawn_until_asleep(scope, || {
                let mut handed = 0;
                source.client.dispatch(mode, |_| {
                    handed += 1;
                    Break(())
                })?;
                corosync_ipc::Result::<_>::Ok(handed)
            });
            assert!(!waiter.is_finished());
            source.setter.set(source.key, mode as u64).unwrap();
            assert_eq!(waiter.join().unwrap().unwrap(), 1);
        });
    }
    assert_eq!(waiting(&source.client), []);
}

pub fn events_wait(endpoint: &Endpoint) {
    let mut source = Source::new(endpoint, "events_wait");
    source.make(10);
    let many = u64::MAX;
    assert!(matches!(source.dispatch(Dispatch::One, many), (Ok(()), 1)));
    assert!(matches!(source.dispatch(Dispatch::OneNonblocking, many), (Ok(()), 1)));
    // A handler that breaks leaves the others for later.
    assert!(matches!(source.dispatch(Dispatch::All, 3), (Ok(()), 3)));
    assert!(matches!(source.dispatch(Dispatch::Blocking, 2), (Ok(()), 2)));
    assert!(is_readable(&source.client));
    assert!(matches!(source.dispatch(Dispatch::All, many), (Ok(()), 3)));
    assert_eq!(source.left(), 0);
    assert!(matches!(source.dispatch(Dispatch::All, many), (Ok(()), 0)));
    source.make(2);
    let mut events = source.client.events();
    assert_eq!(number(&events.next().unwrap().unwrap()), 11);
    assert_eq!(number(&events.next().unwrap().unwrap()), 12);
}

pub fn a_handler_may_call_its_client(endpoint: &Endpoint) {
    let mut source = Source::new(endpoint, "a_handler_may_call_its_client");
    source.make(3);
    let client = &source.client;
    let mut inner = 0;
    client
        .dispatch(Dispatch::All, |event| {
            assert_eq!(client.get_as::<u64>(source.key).unwrap(), Some(3));
            assert_eq!(client.list(source.key).unwrap().len(), 1);
            // Dispatching inside a handler takes what the outer dispatch would have.
            if number(&event) == 1 {
                client
                    .dispatch(Dispatch::One, |event| {
                        assert_eq!(number(&event), 2);
                        inner += 1;
                        Continue(())
                    })
                    .unwrap();
            }
            Continue(())
        })
        .unwrap();
    assert_eq!(inner, 1);

    // Its own changes make more events; with `All` these are handed over too.
    let mut handed = 3;
    client.dispatch(Dispatch::All, |_| panic!("nothing waits")).unwrap();
    client.set(source.key, 4_u64).unwrap();
    client
        .dispatch(Dispatch::All, |event| {
            handed += 1;
            assert_eq!(number(&event), handed);
            if handed < 10 {
                client.set(source.key, handed + 1).unwrap();
            }
            Continue(())
        })
        .unwrap();
    assert_eq!(handed, 10);
}

pub fn a_handler_may_finalize(endpoint: &Endpoint) {
    for mode in MODES {
        let mut source = Source::new(endpoint, "a_handler_may_finalize");
        source.make(3);
        let client = &source.client;
        let mut handed = 0;
        let result = client.dispatch(mode, |_| {
            handed += 1;
            client.finalize();
            assert!(matches!(client.get("totem.version"), Err(Error::Finalized)));
            Continue(())
        });
        assert_eq!(handed, 1);
        // After one event the first and the last are done.
        match mode {
            Dispatch::One | Dispatch::OneNonblocking => result.unwrap(),
            Dispatch::All | Dispatch::Blocking => assert!(matches!(result, Err(Error::Finalized))),
        }
        for mode in MODES {
            assert!(matches!(client.dispatch(mode, ignore), Err(Error::Finalized)));
        }
        assert!(matches!(client.poll_event(), Err(Error::Finalized)));
        assert!(matches!(client.next_event(Deadline::NEVER), Err(Error::Finalized)));
        assert!(matches!(client.events().next(), Some(Err(Error::Finalized))));
        client.finalize();
    }
}

pub fn finalizing_wakes_who_waits(endpoint: &Endpoint) {
    for mode in [Dispatch::One, Dispatch::Blocking] {
        let source = Source::new(endpoint, "finalizing_wakes_who_waits");
        thread::scope(|scope| {
            let waiter = spawn_until_asleep(scope, || source.client.dispatch(mode, ignore));
            assert!(!waiter.is_finished());
            source.client.finalize();
            assert!(matches!(waiter.join().unwrap(), Err(Error::Finalized)));
        });
    }
}

/// No concurrency: what the descriptor must say is known at each step.
pub fn the_descriptor_is_readable_while_events_wait(endpoint: &Endpoint) {
    for seed in 1..=8 {
        let mut source = Source::new(endpoint, "the_descriptor_is_readable_while_events_wait");
        let mut random = Random::new(seed);
        for step in 0..150 {
            // Now and then more than are taken note of at a time.
            let burst = if random.below(40) == 0 { 100 } else { random.below(6) };
            if source.left() < 100 {
                source.make(burst);
            }
            for _ in 0..random.below(8) {
                let left = source.left();
                match random.below(5) {
                    0 if left > 0 => assert!(matches!(source.dispatch(Dispatch::One, u64::MAX), (Ok(()), 1))),
                    1 => {
                        let limit = random.below(70) + 1;
                        let (result, handed) = source.dispatch(Dispatch::All, limit);
                        assert_eq!((result.is_ok(), handed), (true, left.min(limit)));
                    }
                    2 => {
                        let (result, handed) = source.dispatch(Dispatch::OneNonblocking, u64::MAX);
                        assert_eq!((result.is_ok(), handed), (left > 0, left.min(1)));
                    }
                    3 => assert_eq!(source.poll_event(), left > 0),
                    _ => {
                        let event = source.client.next_event(Duration::ZERO).unwrap();
                        assert_eq!(event.is_some(), left > 0);
                        source.seen += left.min(1);
                    }
                }
                if source.left() > 0 {
                    assert!(is_readable(&source.client), "seed {seed}, step {step}: {} wait", source.left());
                }
            }
        }
        source.dispatch(Dispatch::All, u64::MAX).0.unwrap();
        assert_eq!(source.left(), 0);
        // It may be readable for nothing, but not for ever.
        let spurious = std::iter::repeat_with(|| {
            assert!(!source.poll_event());
            is_readable(&source.client)
        });
        assert!(spurious.take(5).any(|readable| !readable), "seed {seed}: readable for ever");
    }
}

/// One thread makes events as fast as it can while another waits with poll(2) and takes them.
pub fn a_poll_loop_sees_every_event(endpoint: &Endpoint) {
    const EVENTS: u64 = 3000;
    for seed in 1..=3 {
        let mut source = Source::new(endpoint, "a_poll_loop_sees_every_event");
        let setter = Client::connect_to(endpoint).unwrap();
        let done = AtomicBool::new(false);
        let (mut random, mut wakes, mut looks) = (Random::new(seed), 0_u64, 0_u64);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=EVENTS {
                    setter.set("a_poll_loop_sees_every_event", number).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            while source.seen < EVENTS {
                assert!(is_readable_within(&source.client, LIMIT), "unreadable after {} events", source.seen);
                wakes += 1;
                let handed = match random.below(4) {
                    // Another event is certain to come.
                    0 => source.dispatch(Dispatch::One, u64::MAX),
                    1 => source.dispatch(Dispatch::All, u64::MAX),
                    2 => source.dispatch(Dispatch::OneNonblocking, u64::MAX),
                    _ => (Ok(()), source.poll_event().into()),
                };
                match handed {
                    (Ok(()), _) => {}
                    (Err(error), 0) => assert_eq!(error.cs_error(), Some(CsError::TryAgain)),
                    other => panic!("{other:?}"),
                }
                looks += u64::from(handed.1 == 0);
            }
        });
        assert!(done.load(Ordering::SeqCst));
        assert_eq!(waiting(&source.client), []);
        // A wake-up for nothing belongs to an event that was taken before its byte came.
        assert!(looks <= EVENTS + 1, "seed {seed}: {looks} of {wakes} wake-ups for nothing");
    }
}

pub fn a_small_ring_gets_many_events_in_order(endpoint: &Endpoint) {
    let mut source = Source::new(&endpoint.clone().ring_size(4096), "a_small_ring_gets_many_events");
    source.make(300);
    while source.left() > 0 {
        assert!(is_readable_within(&source.client, LIMIT), "unreadable with {} left", source.left());
        source.dispatch(Dispatch::All, u64::MAX).0.unwrap();
    }
    assert_eq!(waiting(&source.client), []);
}
