//! Clients of a daemon whose every word comes from the input.

use std::ops::ControlFlow;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Script, calls};
use crate::client::{Control, Dispatcher, ServiceClient};
use crate::codec::{CS_OK, Header, Kind};
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::libqb::server::{Conn, Handler, Listener, Peer, Refusal, Transport};
use crate::wire::Service;
use crate::{cfg, cmap, cpg, quorum};

/// A daemon that says what the input has, and then nothing.
struct Speaker {
    /// The messages that are left.
    input: Vec<u8>,
    at: usize,
}

impl Speaker {
    /// The next message, and whether it is an event.
    fn next(&mut self, id: i32) -> Option<(bool, Vec<u8>)> {
        let mut script = Script(self.input.get(self.at..).unwrap_or_default());
        if script.is_empty() {
            return None;
        }
        let how = script.byte();
        let body = script.counted();
        self.at = self.input.len() - script.0.len();
        if how & 2 != 0 {
            // Anything at all.
            return Some((how & 1 != 0, body.to_vec()));
        }
        let id = if how & 4 != 0 { i32::from(how >> 3) } else { id };
        let header = Header { id, size: 0, error: CS_OK };
        Some((how & 1 != 0, header.encode(Kind::Response, body).ok()?))
    }
}

impl Handler for Speaker {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        // As the daemon numbers most of its replies.
        let id = Header::id_of(&request).unwrap_or_default();
        while let Some((is_event, message)) = self.next(id) {
            if is_event {
                let _ = conn.send_event(&message);
            } else {
                let _ = conn.reply(&message);
                return;
            }
        }
        let _ = conn.reply(&[0; 24]);
    }
}

/// A daemon for each transport, which run as long as the process.
struct Daemons {
    listeners: [(Endpoint, Listener<Speaker>); 2],
}

fn daemons() -> &'static Mutex<Daemons> {
    static DAEMONS: OnceLock<Mutex<Daemons>> = OnceLock::new();
    DAEMONS.get_or_init(|| {
        let start = |transport, name| {
            let directory = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("there is room for a directory");
            let endpoint = Endpoint::new()
                .socket_dir(&directory)
                .shm_root(&directory)
                .ring_size(1 << 14)
                .request_timeout(Duration::from_millis(10));
            let builder = Listener::<Speaker>::builder().endpoint(&endpoint).transport(transport);
            let names = Service::ALL.iter();
            let builder = names.fold(builder, |builder, service| builder.service(service.name()));
            let speaker = Speaker { input: Vec::new(), at: 0 };
            (endpoint, builder.start(speaker).expect("a listener starts"))
        };
        Mutex::new(Daemons {
            listeners: [start(Transport::Shm, "fuzz-shm"), start(Transport::Socket, "fuzz-socket")],
        })
    })
}

/// Gives a daemon its words and runs `body` against it.
fn against(which: usize, input: &[u8], body: impl FnOnce(&Endpoint)) {
    let daemons = daemons().lock().unwrap_or_else(PoisonError::into_inner);
    let (endpoint, listener) = &daemons.listeners[which % daemons.listeners.len()];
    let input = input.to_vec();
    listener
        .with(move |speaker, _| *speaker = Speaker { input, at: 0 })
        .expect("the listener runs");
    body(endpoint);
}

/// No input makes a daemon that answers at once slower than this.
const LONG: Duration = Duration::from_secs(20);

/// Makes all calls of a client. Checks that they return in time.
pub fn client(data: &[u8]) {
    let mut script = Script(data);
    let which = script.byte();
    let service = Service::ALL[usize::from(which >> 1) % Service::ALL.len()];
    against(usize::from(which & 1), script.0, |endpoint| {
        let start = Instant::now();
        let _ = calls::call(service, endpoint);
        assert!(start.elapsed() < LONG, "{service} took {:?}", start.elapsed());
    });
}

/// Adds and removes clients of a dispatcher and takes their events. Checks that every round returns
/// in time, and that a client is gone when its handler ends it.
pub fn dispatcher(data: &[u8]) {
    let mut script = Script(data);
    let which = script.byte();
    let steps = script.counted();
    against(usize::from(which), script.0, |endpoint| {
        let start = Instant::now();
        let mut dispatcher = Dispatcher::new().expect("there are descriptors");
        let mut added = Vec::new();
        let mut seen = 0_usize;
        for step in steps.iter().take(64) {
            match step % 8 {
                0 => added.extend(add(&mut dispatcher, cmap::Client::connect_to(endpoint), |it| {
                    let _ = it.track_add("a.", cmap::TrackEvents::ALL | cmap::TrackEvents::PREFIX);
                })),
                1 => added.extend(add(&mut dispatcher, cpg::Client::connect_to(endpoint), |it| {
                    let _ = it.join(&cpg::GroupName::default());
                })),
                2 => {
                    added.extend(add(&mut dispatcher, quorum::Client::connect_to(endpoint), |it| {
                        let _ = it.track_start(crate::TrackFlags::CHANGES);
                    }))
                }
                3 => added.extend(add(&mut dispatcher, cfg::Client::connect_to(endpoint), |it| {
                    let _ = it.track_start();
                })),
                4 => {
                    if let Some(id) = added.pop() {
                        dispatcher.remove(id);
                    }
                }
                _ => {
                    let _ = dispatcher.round(&mut seen, Instant::now());
                }
            }
            assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
        }
    });
}

fn add<C: ServiceClient>(
    dispatcher: &mut Dispatcher<usize>,
    client: Result<C>,
    begin: impl FnOnce(&C),
) -> Option<crate::client::ClientId> {
    let client = client.ok()?;
    begin(&client);
    let handler = |seen: &mut usize, event: Result<C::Event>, _: &mut Control<'_, usize>| {
        *seen += 1;
        // Every fourth event is the last.
        if event.is_err() || *seen % 4 == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    dispatcher.add(client, handler).ok()
}
