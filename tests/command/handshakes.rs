//! The connection request follows each connect at once. Daemons with libqb 0.10 and 0.11 wait for
//! it in a busy loop, serve nobody meanwhile, and do not even notice that the client has gone.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_ipc::codec::setup::{
    CONNECT_REQUEST_SIZE, ConnectReply, ConnectRequest, Generation, TransportType,
};
use corosync_ipc::{Endpoint, Error, cfg, cmap, cpg, evs, quorum, votequorum, within};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use tempfile::TempDir;
use testbed::{Output, at_endpoint, eventually};

use super::program;

const SERVICES: [&str; 6] = ["cmap", "cfg", "cpg", "quorum", "votequorum", "evs"];

/// What the double does with a client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// Keeps it waiting until it closes.
    Hold,
    /// Closes.
    Close,
    /// Answers that the daemon is not ready.
    NotReady,
    /// Sends the client's process this signal as soon as it has connected, before it reads.
    Kill(Signal),
}

/// What came first on each connection of a service.
type Seen = Mutex<BTreeMap<&'static str, Vec<Vec<u8>>>>;

/// A daemon that only notes what comes first on each connection.
struct Double {
    folder: TempDir,
    /// Up to twice a connection request.
    seen: Arc<Seen>,
}

impl Double {
    fn start(then: Then) -> Self {
        let folder = testbed::shm_folder();
        let seen = Arc::new(Seen::default());
        for service in SERVICES {
            let listener = UnixListener::bind(folder.path().join(service)).unwrap();
            let seen = Arc::clone(&seen);
            thread::spawn(move || {
                while let Ok((socket, _)) = listener.accept() {
                    let seen = Arc::clone(&seen);
                    if let Then::Kill(signal) = then {
                        let client = getsockopt(&socket, sockopt::PeerCredentials).unwrap();
                        kill(Pid::from_raw(client.pid()), signal).unwrap();
                    }
                    thread::spawn(move || serve(service, socket, then, &seen));
                }
            });
        }
        Self { folder, seen }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::new().socket_dir(self.folder.path()).shm_root(self.folder.path())
    }

    fn run(&self, args: &[&str]) -> Output {
        at_endpoint(self.folder.path(), program()).args(args).run()
    }

    /// Asserts that each connection began with a connection request. Returns how many there were.
    #[track_caller]
    fn assert_greeted(&self, what: &str) -> usize {
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut count = 0;
        for (service, first) in seen {
            for bytes in first {
                assert_eq!(bytes.len(), CONNECT_REQUEST_SIZE, "{what}: {service}: {bytes:?}");
                ConnectRequest::decode(&bytes).unwrap();
                count += 1;
            }
        }
        count
    }
}

fn serve(service: &'static str, mut socket: UnixStream, then: Then, seen: &Seen) {
    let mut first = vec![0; 2 * CONNECT_REQUEST_SIZE];
    let count = socket.read(&mut first).unwrap_or(0);
    first.truncate(count);
    seen.lock().unwrap_or_else(PoisonError::into_inner).entry(service).or_default().push(first);
    if then == Then::NotReady {
        let [request, response, event] = [const { Bytes::new() }; 3];
        let reply = ConnectReply {
            generation: Generation::Libqb013,
            error: -libc::EAGAIN,
            transport: TransportType::SHM,
            max_msg_size: 0,
            cookie: 0,
            request,
            response,
            event,
        };
        let _ = socket.write_all(&reply.encode().unwrap());
    } else if then != Then::Close {
        let _ = socket.read_to_end(&mut Vec::new());
    }
}

type Connect = fn(&Endpoint) -> Result<(), Error>;

const CLIENTS: [Connect; 6] = [
    |endpoint| cmap::Client::connect_to(endpoint).map(drop),
    |endpoint| cfg::Client::connect_to(endpoint).map(drop),
    |endpoint| cpg::Client::connect_to(endpoint).map(drop),
    |endpoint| quorum::Client::connect_to(endpoint).map(drop),
    |endpoint| votequorum::Client::connect_to(endpoint).map(drop),
    |endpoint| evs::Client::connect_to(endpoint).map(drop),
];

#[test]
fn every_client_sends_its_request_with_every_timeout() {
    for then in [Then::Hold, Then::Close, Then::NotReady] {
        let double = Double::start(then);
        for timeout in [1, 1_000, 100_000, 3_000_000, 30_000_000].map(Duration::from_nanos) {
            for connect in CLIENTS {
                connect(&double.endpoint().timeout(timeout)).unwrap_err();
                within(timeout, || connect(&double.endpoint())).unwrap_err();
                within(Instant::now(), || connect(&double.endpoint())).unwrap_err();
            }
        }
        assert!(double.assert_greeted(&format!("{then:?}")) > 0);
    }
}

#[test]
fn every_command_sends_its_requests() {
    for then in [Then::Hold, Then::Close, Then::NotReady] {
        let double = Double::start(then);
        for args in [
            &["doctor"][..],
            &["status"],
            &["cmap", "list"],
            &["cmap", "watch", "key"],
            &["quorum", "status"],
            &["quorum", "watch"],
            &["cpg", "groups"],
            &["cpg", "join", "group"],
            &["cfg", "nodes"],
            &["cfg", "links"],
            &["evs", "members"],
        ] {
            let what = format!("{then:?} {args:?}");
            eventually("it connects before its time is over", || {
                let output = double.run(&[args, &["--timeout", "50ms"]].concat());
                assert!([3, 4].contains(&output.code()), "{what}: {output:?}");
                double.assert_greeted(&what) > 0
            });
        }
    }
}

/// A signal that comes between connecting and sending waits until the request is sent.
#[test]
fn a_command_that_a_signal_ends_has_sent_its_request() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
        let double = Double::start(Then::Kill(signal));
        for _ in 0..40 {
            at_endpoint(double.folder.path(), program()).args(["cmap", "get", "key"]).run();
        }
        let greeted = || {
            let seen = double.seen.lock().unwrap();
            seen.values().map(Vec::len).sum::<usize>() == 40
        };
        eventually("all are seen", greeted);
        assert_eq!(double.assert_greeted(signal.as_str()), 40);
    }
}
