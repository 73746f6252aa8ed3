//! Daemons that end while a client connects, and those that take their places.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{TRANSPORTS, private_endpoint, send_reply, set_up};
use crate::codec::setup::{ConnectReply, ConnectRequest};
use crate::error::{Error, Result, Stage};
use crate::libqb::Client;
use crate::libqb::server::rings::Rings;
use crate::libqb::server::{Generation, Transport};
use crate::sys::wait::{Interest, wait_for};
use crate::sys::{serve, socket};

const GENERATIONS: [Generation; 5] = [
    Generation::Libqb010,
    Generation::Libqb013,
    Generation::Libqb014,
    Generation::Libqb015,
    Generation::Libqb104,
];

/// What a daemon has made for its client when it ends.
struct Daemon<'a> {
    client: OwnedFd,
    rings: Rings,
    reply: ConnectReply,
    root: &'a Path,
}

/// What a client finds.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Connected,
    Gone(Option<Stage>),
    NotVisible,
    Other(String),
}

fn found(result: Result<Client>) -> Found {
    match result {
        Ok(_) => Found::Connected,
        Err(ref error @ Error::Disconnected { stage, .. }) => {
            assert!(error.is_unreachable(), "{error}");
            Found::Gone(stage)
        }
        Err(Error::RingsNotVisible { .. }) => Found::NotVisible,
        Err(error) => Found::Other(format!("{error:?}")),
    }
}

/// Connects to a daemon that serves one client. What `serve` returns lives until the client has its
/// result. Then the directory of the daemon's files must be empty again.
fn connect<T: Send>(
    transport: Transport,
    generation: Generation,
    serve: impl FnOnce(Daemon<'_>) -> T + Send,
) -> Result<Client> {
    let (endpoint, directory) = private_endpoint();
    let address = endpoint.socket_address("cpg").path().unwrap().to_owned();
    let listener = serve::listen_stream(&socket::path_address(&address).unwrap()).unwrap();
    let root = directory.path();
    let result = thread::scope(|scope| {
        let daemon = scope.spawn(|| {
            wait_for(&listener, Interest::Readable, None).unwrap();
            let client = serve::accept_stream(&listener).unwrap();
            let (rings, reply) = set_up(&client, root, transport, generation);
            serve(Daemon { client, rings, reply, root })
        });
        let result = Client::connect_to(&endpoint, "cpg", 8192);
        drop(daemon.join().unwrap());
        result
    });
    let left: Vec<_> = fs::read_dir(root).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(left.iter().all(|it| it.ends_with("cpg")), "{left:?}");
    result
}

fn each(mut test: impl FnMut(Transport, Generation)) {
    for transport in TRANSPORTS {
        for generation in GENERATIONS {
            if transport == Transport::Shm || generation.has_datagrams() {
                test(transport, generation);
            }
        }
    }
}

#[test]
fn one_that_ends_before_its_reply_is_gone() {
    each(|transport, generation| {
        let silent = connect(transport, generation, |_daemon| {});
        assert_eq!(found(silent), Found::Gone(Some(Stage::Handshake)));
        let halfway = connect(transport, generation, |daemon| {
            let reply = daemon.reply.encode().unwrap();
            let half = &reply[..reply.len() / 2];
            assert_eq!(socket::send_now(&daemon.client, half).unwrap(), half.len());
        });
        assert_eq!(found(halfway), Found::Gone(Some(Stage::Handshake)));
    });
}

#[test]
fn one_that_ends_behind_its_reply_is_gone() {
    each(|transport, generation| {
        // It takes its files with it.
        let tidy = connect(transport, generation, |daemon| {
            drop(daemon.rings);
            send_reply(&daemon.client, &daemon.reply);
        });
        assert_eq!(found(tidy), Found::Gone(Some(Stage::Rings)), "{transport:?} {generation:?}");
        // Its files are gone a moment before its socket is.
        let slow = connect(transport, generation, |daemon| {
            drop(daemon.rings);
            send_reply(&daemon.client, &daemon.reply);
            thread::sleep(Duration::from_millis(2));
        });
        assert_eq!(found(slow), Found::Gone(Some(Stage::Rings)), "{transport:?} {generation:?}");
    });
}

#[test]
fn one_whose_files_are_gone_and_that_goes_on_has_no_visible_files() {
    each(|transport, generation| {
        let lost = connect(transport, generation, |daemon| {
            drop(daemon.rings);
            send_reply(&daemon.client, &daemon.reply);
            thread::sleep(Duration::from_millis(200));
            daemon.client
        });
        assert_eq!(found(lost), Found::NotVisible, "{transport:?} {generation:?}");
    });
}

#[test]
fn one_that_closes_with_its_files_in_place_is_gone() {
    each(|transport, generation| {
        let closed = connect(transport, generation, |daemon| {
            send_reply(&daemon.client, &daemon.reply);
            drop(daemon.client);
            daemon.rings
        });
        // The client may be done before the end.
        let closed = closed.and_then(|client| {
            let is_gone = client.send(b"a request that nobody takes");
            assert!(matches!(is_gone, Err(Error::Disconnected { .. })), "{is_gone:?}");
            is_gone.map(|()| client)
        });
        assert!(matches!(closed, Err(Error::Disconnected { .. })), "{closed:?}");
    });
}

/// Before libqb 0.14 the names of the files hold nothing of the daemon.
#[test]
fn files_of_a_daemon_that_took_the_names_are_not_used() {
    each(|transport, generation| {
        // A client that is done before the socket closes cannot know.
        let is_gone = (0..1000).any(|_| {
            let is_used = AtomicBool::new(false);
            let taken = connect(transport, generation, |daemon| {
                let Daemon { client, rings, reply, root } = daemon;
                drop(rings);
                let (ours, theirs) = UnixStream::pair().unwrap();
                let request = ConnectRequest { max_msg_size: 8192 }.encode().unwrap();
                socket::send_now(&ours, &request).unwrap();
                let (rings, new) = set_up(&theirs.into(), root, transport, generation);
                let is_same = new.request == reply.request;
                assert!(is_same != (generation == Generation::Libqb104), "{generation:?}");
                send_reply(&client, &reply);
                drop(client);
                thread::sleep(Duration::from_millis(1));
                is_used.store(rings.response.is_attached().unwrap(), Ordering::SeqCst);
                rings
            });
            match found(taken) {
                Found::Gone(stage) => {
                    assert_eq!(stage, Some(Stage::Rings), "{transport:?} {generation:?}");
                    assert!(transport == Transport::Socket || !is_used.into_inner());
                    true
                }
                found => {
                    assert_eq!(found, Found::Connected);
                    false
                }
            }
        });
        assert!(is_gone, "{transport:?} {generation:?}");
    });
}
