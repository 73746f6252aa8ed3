//! Daemons that violate the protocol. Whatever they answer, every call returns and nothing panics.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::client::{Core, Service};
use crate::codec::{CS_OK, Header, Kind};
use crate::doubles::TRANSPORTS;
use crate::error::WireError;
use crate::libqb::buffer::Buffer;
use crate::libqb::client::{Call, Look};
use crate::libqb::server::{Conn, Handler, Listener, Peer, Random, Refusal, Transport};
use crate::wire::{self, Message, tables};
use crate::{Endpoint, fuzzing};

/// A service that ignores all its events and counts them.
#[derive(Default)]
struct Mute {
    seen: AtomicUsize,
}

impl Service for Mute {
    type Event = ();

    const NAME: &'static str = "mute";
    const RING_SIZE: u32 = 1 << 20;

    fn nudge() -> Result<Vec<u8>, WireError> {
        wire::quorum::GetQuorate {}.encode()
    }

    fn event(&self, _: &mut Buffer) -> Result<Option<()>, WireError> {
        self.seen.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }
}

/// A daemon that sends [`EVENTS`] events before each reply.
struct Talker;

const EVENTS: usize = 1000;

impl Handler for Talker {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, _: Bytes) {
        (0..EVENTS).for_each(|_| conn.send_event(b"no byte announces this").unwrap());
        conn.reply(&wire::quorum::GetQuorateReply { quorate: 1 }.encode().unwrap()).unwrap();
    }
}

/// A daemon that replies with captured messages of the same id, damaged or not, or not at all. It
/// also sends events that no client asked for.
struct Liar {
    random: Random,
    /// Captured replies by service index and id.
    answers: BTreeMap<(usize, i32), Vec<Vec<u8>>>,
    /// Captured events by service index.
    events: BTreeMap<usize, Vec<Vec<u8>>>,
}

impl Liar {
    fn new(seed: u64) -> Self {
        let mut liar =
            Self { random: Random::new(seed), answers: BTreeMap::new(), events: BTreeMap::new() };
        for (index, service) in wire::Service::ALL.into_iter().enumerate() {
            for (kind, bytes) in tables::vectors(service.name()) {
                let id = Header::id_of(&bytes).unwrap();
                match kind {
                    Kind::Response => liar.answers.entry((index, id)).or_default().push(bytes),
                    Kind::Event => liar.events.entry(index).or_default().push(bytes),
                    Kind::Request => {}
                }
            }
        }
        liar
    }

    fn damage(&mut self, mut message: Vec<u8>) -> Vec<u8> {
        const EXTREMES: [u32; 8] = [0, 1, 2, 255, 4096, 0x7fff_ffff, 0x8000_0000, u32::MAX];
        for _ in 0..[0, 0, 1, 3][self.random.below(4)] {
            let offset = self.random.below(message.len().max(4) / 4) * 4;
            let word = EXTREMES[self.random.below(EXTREMES.len())];
            if let Some(field) = message.get_mut(offset..offset + 4) {
                field.copy_from_slice(&word.to_ne_bytes());
            }
        }
        match self.random.below(8) {
            0 => message.truncate(self.random.below(message.len() + 1)),
            1 => message.resize(message.len() + self.random.below(9000), 0xa5),
            _ => {}
        }
        message
    }

    fn one_of(&mut self, messages: Option<Vec<Vec<u8>>>) -> Vec<u8> {
        let messages = messages.unwrap_or_else(|| vec![vec![0; 400]]);
        let chosen = self.random.below(messages.len());
        self.damage(messages[chosen].clone())
    }
}

impl Handler for Liar {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let service = conn.service_index();
        let id = Header::id_of(&request).unwrap_or_default();
        // Messages that do not fit in the client's rings are not sent.
        for _ in 0..self.random.below(3) {
            let event = self.one_of(self.events.get(&service).cloned());
            let _ = conn.send_event(&event);
        }
        for _ in 0..[1, 1, 1, 1, 1, 1, 2, 0][self.random.below(8)] {
            let mut answer = self.one_of(self.answers.get(&(service, id)).cloned());
            if self.random.below(2) == 0 {
                // Most captured replies have an error status.
                Header::set_status(&mut answer, CS_OK);
            }
            let _ = conn.reply(&answer);
        }
    }
}

/// Connects to a [`Liar`] and makes all calls, several times. Returns how often connecting
/// succeeded.
fn exercise_against_liar(seed: u64, transport: Transport, service: wire::Service) -> usize {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let short = Duration::from_millis(10);
    let endpoint = Endpoint::new()
        .socket_dir(directory.path())
        .shm_root(directory.path())
        .request_timeout(short);
    let builder = Listener::<Liar>::builder().endpoint(&endpoint).transport(transport);
    let services = wire::Service::ALL.iter();
    let builder = services.fold(builder, |builder, service| builder.service(service.name()));
    let _listener = builder.start(Liar::new(seed)).unwrap();
    (0..15).filter(|_| fuzzing::call(service, &endpoint).is_ok()).count()
}

#[test]
fn messages_that_are_no_events_keep_nobody_beyond_the_deadline() {
    for transport in TRANSPORTS {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let endpoint = Endpoint::new().socket_dir(directory.path()).shm_root(directory.path());
        let builder = Listener::<Talker>::builder().endpoint(&endpoint).transport(transport);
        let _listener = builder.service("mute").start(Talker).unwrap();
        let client = Core::open(&endpoint, Mute::default(), Call::connecting(&endpoint)).unwrap();
        client.request(client.call("talk"), &wire::quorum::GetQuorate {}).unwrap();
        let seen = || client.service.seen.load(Ordering::Relaxed);
        assert_eq!((client.next_event(Instant::now().into()).unwrap(), seen()), (None, 1));
        // A poll takes all available messages, as edge-triggered loops need.
        assert_eq!(client.look(Look::RingAndSocket, None).unwrap(), None);
        match transport {
            Transport::Shm => assert_eq!(seen(), EVENTS),
            // The rest waits in the daemon, which sends more of it meanwhile.
            Transport::Socket => assert!(seen() > 2, "{}", seen()),
        }
    }
}

#[test]
fn a_daemon_that_lies_harms_nobody() {
    // The test mostly waits for replies, so the services run in parallel, each with its own
    // daemons.
    let connected = thread::scope(|scope| {
        let threads = wire::Service::ALL.map(|service| {
            scope.spawn(move || {
                let daemons = (1..=3).flat_map(|seed| TRANSPORTS.map(|it| (seed, it)));
                let connected = |(seed, it)| exercise_against_liar(seed, it, service);
                daemons.map(connected).sum::<usize>()
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    // Connecting to quorum makes a request, so it may fail too.
    assert!(connected.iter().all(|connected| *connected > 0), "{connected:?}");
}
