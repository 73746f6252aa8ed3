//! The descriptor: readable while an event waits whose byte was sent, and not for ever when none
//! does.

use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cfg;
use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::server::{Conn, Listener};
use corosync_ipc::{CsError, Dispatch, Endpoint, Result, ServiceClient, UnknownEvent};
use nix::sys::socket::{MsgFlags, recv};
use tempfile::TempDir;
use testbed::{
    Random, Scripted, becomes_readable, diagnosis, eventually, is_readable, private_endpoint,
    waiting,
};

testbed::on_each_host! {
    the_descriptor_is_readable_while_events_wait;
    a_poll_loop_sees_every_event;
    a_small_ring_gets_many_events_in_order;
}

/// How many bytes whose events were taken before go when there is no event.
const AT_A_LOOK: usize = 64;

/// A client to which events come that are numbered from 1, and what it has seen of them.
struct Taker<C: ServiceClient> {
    client: C,
    number: fn(&C::Event) -> u64,
    seen: u64,
}

impl<C: ServiceClient> Taker<C> {
    /// Every event comes once, in order.
    fn took(&mut self, event: &C::Event) {
        self.seen += 1;
        assert_eq!((self.number)(event), self.seen);
    }

    /// Dispatches with a handler that breaks at the event after `limit - 1` others; how many it was
    /// handed.
    fn dispatch(&mut self, mode: Dispatch, limit: u64) -> (Result<()>, u64) {
        let (before, number, seen) = (self.seen, self.number, &mut self.seen);
        let result = self.client.dispatch(mode, |event| {
            *seen += 1;
            assert_eq!(number(&event), *seen);
            if *seen - before == limit { Break(()) } else { Continue(()) }
        });
        (result, self.seen - before)
    }

    fn poll_event(&mut self) -> bool {
        let event = self.client.poll_event().unwrap();
        event.inspect(|event| self.took(event)).is_some()
    }

    fn next_event(&mut self) -> bool {
        let event = self.client.next_event(Duration::ZERO).unwrap();
        event.inspect(|event| self.took(event)).is_some()
    }

    /// How many bytes wait in the socket, as far as a look tells.
    fn wake_bytes(&self) -> usize {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        recv(self.client.as_fd().as_raw_fd(), &mut [0; 4096], flags).unwrap_or(0)
    }
}

/// Who makes the events.
trait Maker: Send {
    /// Makes the next events. When this returns they wait.
    fn make(&mut self, count: u64);

    /// How many were made.
    fn made(&self) -> u64;

    /// Sends the bytes of some events, or no more of any for now, where that is to be had.
    fn hold_back(&mut self, random: &mut Random) {
        let _ = random;
    }

    /// Sends the bytes of all events.
    fn release(&mut self) {}

    /// To how many events the byte was sent, at least.
    fn announced(&self) -> u64 {
        self.made()
    }
}

/// Sets a key to 1, 2 and so on.
struct Setter {
    client: cmap::Client,
    key: &'static str,
    made: u64,
}

impl Setter {
    fn new(endpoint: &Endpoint, key: &'static str) -> (Setter, Taker<cmap::Client>) {
        let setter = Setter { client: cmap::Client::connect_to(endpoint).unwrap(), key, made: 0 };
        let client = cmap::Client::connect_to(endpoint).unwrap();
        client.track_add(key, TrackEvents::ADD | TrackEvents::MODIFY).unwrap();
        let number = |event: &cmap::Event| match event {
            cmap::Event::Notification(cmap::Notification {
                new_value: Some(Value::U64(number)),
                ..
            }) => *number,
            other => panic!("{other:?}"),
        };
        (setter, Taker { client, number, seen: 0 })
    }
}

impl Maker for Setter {
    fn make(&mut self, count: u64) {
        for _ in 0..count {
            self.made += 1;
            self.client.set(self.key, self.made).unwrap();
        }
    }

    fn made(&self) -> u64 {
        self.made
    }
}

impl Drop for Setter {
    fn drop(&mut self) {
        let _ = self.client.delete(self.key);
    }
}

/// A server that holds back the bytes which announce its events.
struct Late {
    listener: Listener<Scripted>,
    made: u64,
    _folder: TempDir,
}

impl Late {
    fn new() -> (Late, Taker<cfg::Client>) {
        let (endpoint, folder) = private_endpoint();
        let listener = Scripted::silent(&endpoint, "cfg");
        // Room for all events: those that the server queues come when it has the time.
        let client = cfg::Client::connect_to(&endpoint.ring_size(1 << 16)).unwrap();
        let number = |event: &cfg::Event| match event {
            cfg::Event::Unknown(UnknownEvent { message, .. }) => {
                u64::from_ne_bytes(message[16..].try_into().unwrap())
            }
            other => panic!("{other:?}"),
        };
        (Late { listener, made: 0, _folder: folder }, Taker { client, number, seen: 0 })
    }

    /// Does something with the only client.
    fn with<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut Conn<'_, ()>) -> T + Send + 'static,
    ) -> T {
        let with = self.listener.with(|_, connections| {
            let id = connections.ids()[0];
            body(&mut connections.get(id).unwrap())
        });
        with.unwrap()
    }
}

impl Maker for Late {
    /// Each a header with an id that no event has, and its number.
    fn make(&mut self, count: u64) {
        let first = self.made + 1;
        self.made += count;
        let numbers = first..=self.made;
        self.with(move |conn| {
            for number in numbers {
                let header = Header { id: 4711, size: 0, error: 0 };
                let event = header.encode(Kind::Request, &number.to_ne_bytes()).unwrap();
                conn.send_event(&event).unwrap();
            }
        });
    }

    fn made(&self) -> u64 {
        self.made
    }

    fn hold_back(&mut self, random: &mut Random) {
        let limit = (random.below(8) > 0).then(|| random.below(2) * random.below(80));
        self.with(move |conn| conn.limit_wake_bytes(limit.map(|limit| limit as usize)));
    }

    fn release(&mut self) {
        self.with(|conn| conn.limit_wake_bytes(None));
    }

    fn announced(&self) -> u64 {
        self.made - self.with(|conn| conn.unsent_wake_bytes() + conn.queued_events()) as u64
    }
}

fn the_descriptor_is_readable_while_events_wait(endpoint: &Endpoint) {
    for seed in 1..=8 {
        let (setter, taker) = Setter::new(endpoint, "the_descriptor_is_readable_while_events_wait");
        // Fewer than there is room for in the socket: the bytes are there when the answer is.
        take_in_random_ways(seed, setter, taker, 100);
    }
}

/// With bursts for which the socket has no room, so that some bytes are late for that reason too.
#[test]
fn the_descriptor_is_readable_while_events_wait_whose_bytes_came_late() {
    const BURST: u64 = 700;
    for seed in 1..=40 {
        let (mut late, taker) = Late::new();
        late.make(BURST);
        assert!(late.announced() < BURST, "the socket is not full");
        take_in_random_ways(seed, late, taker, BURST);
    }
}

/// One thread does everything, so what the descriptor must say is known at each step.
fn take_in_random_ways<C: ServiceClient>(
    seed: u64,
    mut maker: impl Maker,
    mut taker: Taker<C>,
    most: u64,
) {
    let mut random = Random::new(seed);
    for step in 0..150 {
        let burst = if random.below(40) == 0 { most } else { random.below(6) };
        if maker.made() - taker.seen < most {
            maker.make(burst);
        }
        maker.hold_back(&mut random);
        for _ in 0..random.below(8) {
            let left = maker.made() - taker.seen;
            let all_sent = maker.announced() == maker.made();
            let bytes = taker.wake_bytes();
            match random.below(5) {
                0 if left > 0 => {
                    assert!(matches!(taker.dispatch(Dispatch::One, u64::MAX), (Ok(()), 1)))
                }
                1 => {
                    let limit = random.below(70) + 1;
                    let (result, handed) = taker.dispatch(Dispatch::All, limit);
                    assert_eq!((result.is_ok(), handed), (true, left.min(limit)));
                }
                2 => {
                    let (result, handed) = taker.dispatch(Dispatch::OneNonblocking, u64::MAX);
                    assert_eq!((result.is_ok(), handed), (left > 0, left.min(1)));
                }
                3 => assert_eq!(taker.next_event(), left > 0),
                _ => {
                    assert_eq!(taker.poll_event(), left > 0);
                    if left == 0 && all_sent {
                        // Bytes that came after their events do not pile up.
                        assert_eq!(
                            taker.wake_bytes(),
                            bytes.saturating_sub(AT_A_LOOK),
                            "seed {seed}, step {step}"
                        );
                    }
                }
            }
            let announced = maker.announced();
            assert!(
                announced <= taker.seen || is_readable(&taker.client),
                "seed {seed}, step {step}: {} of {announced} taken, and not readable",
                taker.seen
            );
        }
    }
    maker.release();
    while maker.announced() < maker.made() {
        assert!(
            becomes_readable(&taker.client),
            "the bytes do not come: {}",
            diagnosis(&taker.client)
        );
        taker.poll_event();
    }
    taker.dispatch(Dispatch::All, u64::MAX).0.unwrap();
    assert_eq!(taker.seen, maker.made());
    while is_readable(&taker.client) {
        let bytes = taker.wake_bytes();
        assert!(!taker.poll_event());
        assert_eq!(
            taker.wake_bytes(),
            bytes.saturating_sub(AT_A_LOOK),
            "seed {seed}: readable for ever"
        );
    }
}

fn a_poll_loop_sees_every_event(endpoint: &Endpoint) {
    for seed in 1..=3 {
        let (setter, taker) = Setter::new(endpoint, "a_poll_loop_sees_every_event");
        poll_and_take(seed, setter, taker, 2000);
    }
}

#[test]
fn a_poll_loop_sees_every_event_however_late_its_byte() {
    for seed in 1..=10 {
        let (late, taker) = Late::new();
        poll_and_take(seed, late, taker, 5000);
    }
}

/// One thread makes events as fast as it can while another waits with poll(2) and takes them.
fn poll_and_take<C: ServiceClient>(
    seed: u64,
    mut maker: impl Maker,
    mut taker: Taker<C>,
    events: u64,
) {
    let (mut random, mut looks, seen) = (Random::new(seed), 0, AtomicU64::new(0));
    thread::scope(|scope| {
        let seen = &seen;
        let making = scope.spawn(move || {
            let mut random = Random::new(!seed);
            while maker.made() < events {
                maker.make((1 + random.below(4) * random.below(8)).min(events - maker.made()));
                maker.hold_back(&mut random);
                if random.below(2) == 0 {
                    // No later event makes up for what is amiss with these.
                    maker.release();
                    eventually("all are taken", || seen.load(Ordering::SeqCst) == maker.made());
                }
            }
            maker.release();
            // Which has the connection's other end.
            maker
        });
        while taker.seen < events {
            assert!(
                becomes_readable(&taker.client),
                "seed {seed}: unreadable after {} events: {}",
                taker.seen,
                diagnosis(&taker.client)
            );
            let handed = match random.below(4) {
                // Another event is certain to come.
                0 => taker.dispatch(Dispatch::One, u64::MAX),
                1 => taker.dispatch(Dispatch::All, u64::MAX),
                2 => taker.dispatch(Dispatch::OneNonblocking, u64::MAX),
                _ => (Ok(()), taker.poll_event().into()),
            };
            match handed {
                (Ok(()), _) => {}
                (Err(error), 0) => assert_eq!(error.cs_error(), CsError::TryAgain),
                other => panic!("{other:?}"),
            }
            looks += u64::from(handed.1 == 0);
            seen.store(taker.seen, Ordering::SeqCst);
        }
        let _maker = making.join().unwrap();
        assert!(!taker.poll_event());
    });
    // A wake-up for nothing belongs to an event that was taken before its byte came.
    assert!(looks <= events + 1, "seed {seed}: {looks} wake-ups for nothing");
}

fn a_small_ring_gets_many_events_in_order(endpoint: &Endpoint) {
    let (mut setter, mut taker) =
        Setter::new(&endpoint.clone().ring_size(4096), "a_small_ring_gets_many_events");
    setter.make(300);
    while taker.seen < setter.made {
        assert!(
            becomes_readable(&taker.client),
            "unreadable after {} events: {}",
            taker.seen,
            diagnosis(&taker.client)
        );
        taker.dispatch(Dispatch::All, u64::MAX).0.unwrap();
    }
    assert_eq!(waiting(&taker.client), []);
}
