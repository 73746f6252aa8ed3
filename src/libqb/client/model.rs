//! Checks a client's locking in every interleaving: threads take turns at the rings, some give up,
//! late answers reach nobody, and wakes are not lost. `.ci/run loom` runs it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use loom::sync::{Arc, Condvar};
use loom::thread;

use super::answers::{Answers, Source};
use super::turnstile::Turnstile;
use super::waker::Waker;
use super::wanted::Wanted;
use crate::error::RingError;
use crate::libqb::pending::Room;
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
        let work = |done: &mut u32| {
            *done += 1;
            true
        };
        wanted.serve(turnstile, |_| true, work);
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

/// The request half of a connection. Requests are numbers, and an answer is its request.
struct Requests {
    sending: Turnstile<Producer<Heap>>,
    answers: Answers<Consumer<Heap>>,
}

/// A daemon that never ends.
struct Daemon;

impl Source<Consumer<Heap>> for Daemon {
    type Error = RingError;

    fn receive(
        &self,
        receiver: &mut Consumer<Heap>,
        deadline: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<bool, RingError> {
        receiver.receive_into(deadline.saturating_duration_since(now()), reply)
    }

    fn try_receive(
        &self,
        receiver: &mut Consumer<Heap>,
        reply: &mut Vec<u8>,
    ) -> Result<bool, RingError> {
        receiver.try_receive_into(reply)
    }

    fn receive_second(
        &self,
        receiver: &mut Consumer<Heap>,
        reply: &mut Vec<u8>,
    ) -> Result<bool, RingError> {
        receiver.try_receive_into(reply)
    }

    fn is_orphan(&self) {}
}

impl Requests {
    /// As `Connection::request_all`. Returns the answers until the deadline.
    fn request(&self, requests: &[u8], room: Room, deadline: Instant) -> Vec<u8> {
        let mut reply = Vec::new();
        let mut sending = self.sending.enter(far()).unwrap();
        assert!(self.answers.make_way(&Daemon, room, far(), &mut reply).unwrap());
        let (mut posted, count) = self.answers.post(requests.iter().map(|_| room));
        assert_eq!(count, requests.len());
        posted.discard_strays(&Daemon, far(), &mut reply).unwrap();
        requests.iter().for_each(|request| assert!(sending.stage(&[&[*request]]).unwrap()));
        sending.commit().unwrap();
        let _alone = room.is_none().then_some(sending);
        let mut answers = Vec::new();
        while posted.left() > 0 && posted.wait(&Daemon, deadline, &mut reply).unwrap() {
            answers.push(reply[0]);
        }
        answers
    }
}

/// Requests of a thread, with room for each answer, until a deadline.
type Asked = (&'static [u8], Room, fn() -> Instant);

/// Threads make requests. What a thread gets is answers to its own.
fn every_thread_gets_its_own_answers(threads: &[Asked]) {
    let (request, mut requests, ..) = pair(32);
    let (mut replies, response, ..) = pair(32);
    let count: usize = threads.iter().map(|(requests, ..)| requests.len()).sum();
    let daemon = thread::spawn(move || {
        for _ in 0..count {
            let request = requests.receive(LONG).unwrap().unwrap();
            assert!(replies.try_send(&[&request]).unwrap());
        }
    });
    let client = Arc::new(Requests {
        sending: Turnstile::new(request),
        answers: Answers::new(response, 128),
    });
    let ask = |(requests, room, deadline): Asked, client: &Requests| {
        let (deadline, is_patient) = (deadline(), deadline() == far());
        let answers = client.request(requests, room, deadline);
        assert!(requests.starts_with(&answers), "{answers:?}");
        assert!(answers.len() == requests.len() || !is_patient, "{answers:?}");
    };
    let (first, others) = threads.split_first().unwrap();
    let others: Vec<_> = others
        .iter()
        .map(|asked| {
            let (client, asked) = (Arc::clone(&client), *asked);
            thread::spawn(move || ask(asked, &client))
        })
        .collect();
    ask(*first, &client);
    others.into_iter().for_each(|thread| thread.join().unwrap());
    daemon.join().unwrap();
}

#[test]
fn a_reply_that_nobody_waits_for_any_more_reaches_nobody() {
    large_model(|| every_thread_gets_its_own_answers(&[(&[1], None, at_once), (&[2], None, far)]));
}

const ROOM: Room = Some(8);

#[test]
fn requests_under_way_together_get_their_own_answers() {
    large_model(|| every_thread_gets_its_own_answers(&[(&[1], ROOM, far), (&[2], ROOM, far)]));
}

#[test]
fn several_requests_of_a_thread_get_their_own_answers() {
    large_model(|| every_thread_gets_its_own_answers(&[(&[1], ROOM, far), (&[2, 3], ROOM, far)]));
}

#[test]
fn a_request_alone_waits_for_those_under_way() {
    large_model(|| every_thread_gets_its_own_answers(&[(&[1], ROOM, far), (&[2], None, far)]));
}

#[test]
fn who_gives_up_takes_no_answer_from_another_thread() {
    large_model(|| {
        every_thread_gets_its_own_answers(&[(&[1], ROOM, at_once), (&[2], ROOM, far)]);
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
