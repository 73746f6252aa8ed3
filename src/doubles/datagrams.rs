//! Daemons that violate the datagram transport, or that have died in part.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{private_endpoint, send_reply, serve_one, set_up};
use crate::codec::setup::{ConnectReply, TransportType};
use crate::codec::{Header, Kind};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::libqb::Client;
use crate::libqb::server::rings::Rings;
use crate::libqb::server::{Generation, Transport};
use crate::sys::wait::{Interest, Ready, wait_for};
use crate::sys::{serve, socket};

const SIZE: u32 = 8192;

/// How long a client waits for an answer.
const TIMEOUT: Duration = Duration::from_millis(300);

/// What a call ends with.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Answered,
    TimedOut,
    Disconnected,
    Protocol,
    TooLong,
}
use Outcome::{Answered, Disconnected, Protocol, TimedOut, TooLong};

fn outcome<T: std::fmt::Debug>(result: Result<T>) -> Outcome {
    match result {
        Ok(_) => Answered,
        Err(Error::TimedOut { .. }) => TimedOut,
        Err(Error::Disconnected { .. }) => Disconnected,
        Err(Error::Protocol { .. }) => Protocol,
        Err(Error::InvalidArgument { .. }) => TooLong,
        Err(error) => panic!("{error:?}"),
    }
}

/// How long this thread has used the processor.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn path(name: &[u8]) -> PathBuf {
    std::str::from_utf8(name).unwrap().into()
}

fn request() -> Vec<u8> {
    Header { id: 7, size: 0, error: 0 }.encode(Kind::Request, b"what").unwrap()
}

fn answer() -> Vec<u8> {
    Header { id: 7, size: 0, error: 1 }.encode(Kind::Response, b"this").unwrap()
}

/// The server's ends of a connection.
struct Daemon {
    client: OwnedFd,
    rings: Option<Rings>,
    control: File,
}

impl Daemon {
    fn rings(&mut self) -> &mut Rings {
        self.rings.as_mut().unwrap()
    }

    /// Sets a word of the control file.
    fn set(&self, index: u64, value: u32) {
        self.control.write_all_at(&value.to_ne_bytes(), index * 4).unwrap();
    }

    fn is_hung_up(&self) -> bool {
        wait_for(&self.client, Interest::HangUp, Some(Instant::now())).unwrap() == Ready::HungUp
    }

    /// Answers requests with a message until the client closes.
    fn answer_with(mut self, message: &[u8]) {
        while !self.is_hung_up() {
            let Self { client, rings, .. } = &mut self;
            let rings = rings.as_mut().unwrap();
            if rings.request.receive(Duration::from_millis(5), client).is_ok_and(|it| it.is_some())
            {
                let _ = rings.response.try_send(&[message]);
            }
        }
    }

    fn idle(self) {
        while !self.is_hung_up() {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Connects to a daemon, which prepares itself, makes a request and waits for an event. Returns
/// both outcomes.
fn call<T: Send + 'static>(
    prepare: impl FnOnce(Daemon) -> T + Send + 'static,
    serve: impl FnOnce(T) + Send + 'static,
) -> (Outcome, Outcome) {
    let barrier = Arc::new(Barrier::new(2));
    let daemons = Arc::clone(&barrier);
    let (endpoint, thread, directory) = serve_one(None, Transport::Socket, move |client, rings| {
        let name = path(&rings.names[0]);
        let control = File::options().read(true).write(true).open(name).unwrap();
        // The client is connected.
        daemons.wait();
        let prepared = prepare(Daemon { client, rings: Some(rings), control });
        daemons.wait();
        serve(prepared);
    });
    let client = Client::connect_to(&endpoint, "cpg", SIZE).unwrap();
    barrier.wait();
    barrier.wait();
    client.set_request_timeout(TIMEOUT);
    let (begun, used) = (Instant::now(), processor_time());
    let called = outcome(client.request(&request()));
    let event = match client.next_event(Duration::from_millis(100)) {
        Ok(None) => TimedOut,
        other => outcome(other),
    };
    let (took, used) = (begun.elapsed(), processor_time() - used);
    assert!(took < 20 * TIMEOUT, "{took:?}");
    assert!(used < TIMEOUT / 4, "it spins: {used:?} of {took:?}");
    drop(client);
    thread.join().unwrap();
    let is_kept = |name: &Path| name.file_name().is_some_and(|name| name != "cpg");
    let left: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(!left.iter().any(|it| is_kept(it)), "{left:?}");
    (called, event)
}

fn answering(daemon: Daemon) {
    daemon.answer_with(&answer());
}

#[test]
fn what_a_daemon_counts_does_not_matter() {
    for count in [1, 10, 128, 1000, i32::MAX as u32, 1 << 31, u32::MAX] {
        let counting = move |daemon: Daemon| {
            [0, 2, 4].into_iter().for_each(|word| daemon.set(word, count));
            daemon
        };
        assert_eq!(call(counting, answering), (Answered, TimedOut), "{count}");
    }
}

#[test]
fn flow_control_words_are_waited_for_without_spinning() {
    for (word, called) in [(0, Answered), (1, TimedOut), (2, Answered), (u32::MAX, Answered)] {
        let stopping = move |daemon: Daemon| {
            daemon.set(1, word);
            daemon
        };
        assert_eq!(call(stopping, answering), (called, TimedOut), "{word}");
    }
}

/// A daemon that sends an event of zeros.
fn telling(length: usize) -> impl FnOnce(Daemon) -> Daemon + Send + 'static {
    move |mut daemon| {
        assert!(daemon.rings().event.try_send(&[&vec![0; length]]).unwrap());
        daemon
    }
}

#[test]
fn datagrams_of_any_length_are_borne() {
    for length in [0, 1, 23, 24, SIZE as usize] {
        let answer = move |daemon: Daemon| daemon.answer_with(&vec![0; length]);
        assert_eq!(call(|daemon| daemon, answer), (Answered, TimedOut), "{length}");
        assert_eq!(call(telling(length), answering), (Answered, Answered), "{length}");
    }
    let answer = |daemon: Daemon| daemon.answer_with(&[7; SIZE as usize + 1]);
    assert_eq!(call(|daemon| daemon, answer), (Protocol, Disconnected));
    assert_eq!(call(telling(SIZE as usize + 1), answering), (Answered, Protocol));
}

#[test]
fn a_daemon_that_dies_in_part_keeps_nobody_waiting() {
    crate::guard_against_truncation().unwrap();
    // It takes nothing and connects to nobody.
    assert_eq!(call(|daemon| daemon, Daemon::idle), (TimedOut, TimedOut));
    // Its sockets are closed, its setup socket is not.
    let without_sockets = |daemon| Daemon { rings: None, ..daemon };
    assert_eq!(call(without_sockets, Daemon::idle), (Disconnected, Disconnected));
    // Only its setup socket is closed.
    let without_setup = |daemon: Daemon| daemon.rings;
    assert_eq!(call(without_setup, drop), (Disconnected, Disconnected));
    // The control file is cut off.
    let cut_off = |daemon: Daemon| {
        daemon.control.set_len(0).unwrap();
        daemon
    };
    assert_eq!(call(cut_off, answering), (Disconnected, Disconnected));
}

#[test]
fn a_daemon_that_takes_nothing_is_not_waited_for_by_spinning() {
    let (endpoint, thread, _directory) = serve_one(None, Transport::Socket, |client, rings| {
        let control = File::open(path(&rings.names[0])).unwrap();
        Daemon { client, rings: Some(rings), control }.idle();
    });
    let client = Client::connect_to(&endpoint, "cpg", SIZE).unwrap();
    client.set_request_timeout(TIMEOUT);
    let used = processor_time();
    let sent = (0..100_000).take_while(|_| client.send(&request()).is_ok()).count();
    assert!((1..100_000).contains(&sent), "{sent}");
    assert!(processor_time() - used < TIMEOUT / 2, "it spins");
    drop(client);
    thread.join().unwrap();
}

type Lie = fn(&Path, &mut ConnectReply);

#[test]
fn replies_that_lie_connect_nobody() {
    let lies: [(&str, Lie); 12] = [
        ("a control file cut short", |control, _| {
            File::options().write(true).open(control).unwrap().set_len(23).unwrap();
        }),
        ("no control file", |control, _| fs::remove_file(control).unwrap()),
        ("a directory", |control, _| {
            fs::remove_file(control).unwrap();
            fs::create_dir(control).unwrap();
        }),
        ("a link", |control, _| {
            fs::rename(control, control.with_extension("moved")).unwrap();
            symlink(control.with_extension("moved"), control).unwrap();
        }),
        ("a second name", |control, _| {
            fs::hard_link(control, control.with_extension("more")).unwrap();
        }),
        ("another user's", |control, _| {
            if chown(control, Some(12345), None).is_err() {
                fs::remove_file(control).unwrap();
            }
        }),
        ("elsewhere", |_, reply| reply.request = "/etc/qb-control-cpg".into()),
        ("other sockets", |_, reply| reply.response = "/dev/shm/qb-1/qb-cmap".into()),
        ("no sockets", |_, reply| reply.response = "".into()),
        ("larger messages", |_, reply| reply.max_msg_size = u32::MAX),
        ("an unknown transport", |_, reply| reply.transport = TransportType(2)),
        ("rings", |_, reply| reply.transport = TransportType::SHM),
    ];
    for (what, lie) in lies {
        let connected = connect_to_liar(lie, true);
        assert!(connected.is_err(), "{what}");
    }
    // The daemon closes after the reply.
    let closed = connect_to_liar(|_, _| {}, false).and_then(|client| client.request(&request()));
    assert!(closed.is_err(), "{closed:?}");
    let tiny = connect_to_liar(|_, reply| reply.max_msg_size = 0, true).unwrap();
    assert_eq!(tiny.max_message_size(), 0);
    assert_eq!(outcome(tiny.request(&request())), TooLong);
}

/// As those of a daemon in another network namespace.
#[test]
fn sockets_out_of_reach_are_named() {
    let rename: Lie = |control, reply| {
        let directory = control.parent().unwrap();
        let moved = directory.with_extension("moved");
        fs::rename(directory, &moved).unwrap();
        for name in [&mut reply.request, &mut reply.response] {
            let file = path(name).file_name().unwrap().to_owned();
            *name = moved.join(file).into_os_string().into_vec().into();
        }
    };
    match connect_to_liar(rename, true) {
        Err(Error::SocketsNotVisible { address, .. }) => {
            assert!(address.to_string().ends_with(".moved/qb-cpg-request"), "{address}");
        }
        other => panic!("{other:?}"),
    }
}

/// A client of root could remove the file of any daemon.
#[test]
fn a_daemon_that_closes_makes_its_client_remove_no_file_of_another() {
    let name_another: Lie = |control, reply| {
        let root = control.ancestors().nth(2).unwrap();
        let another = root.join("qb-1-2-3-another");
        fs::create_dir(&another).unwrap();
        fs::write(another.join("qb-control-cpg"), [0; 24]).unwrap();
        let name = |file| another.join(file).into_os_string().into_vec().into();
        (reply.request, reply.response) = (name("qb-control-cpg"), name("qb-cpg"));
    };
    let (connected, directory) = connect_to_liar_in(private_endpoint(), name_another, false);
    assert!(matches!(connected, Err(Error::Disconnected { .. })), "{connected:?}");
    assert!(directory.path().join("qb-1-2-3-another/qb-control-cpg").exists());
}

/// Connects to a daemon that lies in its reply, and closes at once unless it `stays`.
fn connect_to_liar(lie: Lie, stays: bool) -> Result<Client> {
    connect_to_liar_in(private_endpoint(), lie, stays).0
}

fn connect_to_liar_in(
    (endpoint, directory): (Endpoint, TempDir),
    lie: Lie,
    stays: bool,
) -> (Result<Client>, TempDir) {
    let address = endpoint.socket_address("cpg").path().unwrap().to_owned();
    let listener = serve::listen_stream(&socket::path_address(&address).unwrap()).unwrap();
    let root = directory.path().to_owned();
    let daemon = thread::spawn(move || {
        wait_for(&listener, Interest::Readable, None).unwrap();
        let client = serve::accept_stream(&listener).unwrap();
        let (rings, mut reply) =
            set_up(&client, &root, None, Transport::Socket, Generation::default());
        lie(&path(&rings.names[0]), &mut reply);
        send_reply(&client, &reply);
        stays.then_some((client, rings))
    });
    let connected = Client::connect_to(&endpoint.timeout(20 * TIMEOUT), "cpg", SIZE);
    drop(daemon.join().unwrap());
    (connected, directory)
}

/// Whether somebody has a socket of this name.
fn is_bound(name: &str) -> bool {
    fs::read_to_string("/proc/net/unix").unwrap().contains(name)
}

#[test]
fn a_client_that_gave_up_is_there_until_the_daemon_let_go() {
    let generations = [Generation::Libqb104, Generation::Libqb015];
    for (generation, is_finalized) in
        generations.into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let (endpoint, directory) = private_endpoint();
        let address = endpoint.socket_address("cpg").path().unwrap().to_owned();
        let listener = serve::listen_stream(&socket::path_address(&address).unwrap()).unwrap();
        let root = directory.path().to_owned();
        let connect = || {
            thread::scope(|scope| {
                let daemon = scope.spawn(|| {
                    wait_for(&listener, Interest::Readable, None).unwrap();
                    let client = serve::accept_stream(&listener).unwrap();
                    let made = set_up(&client, &root, None, Transport::Socket, generation);
                    send_reply(&client, &made.1);
                    (client, made)
                });
                let client = Client::connect_to(&endpoint, "cpg", SIZE).unwrap();
                client.set_request_timeout(Duration::from_millis(20));
                (client, daemon.join().unwrap())
            })
        };
        let (client, (setup, (mut rings, reply))) = connect();
        let base = String::from_utf8(reply.response.to_vec()).unwrap();
        let own = format!("{base}-response");
        assert_eq!(outcome(client.request(&request())), TimedOut);
        if is_finalized {
            client.finalize();
        }
        drop(client);
        // What the daemon says now reaches somebody.
        assert!(is_bound(&own));
        assert!(rings.response.try_send(&[&answer()]).unwrap());
        assert!(rings.event.try_send(&[&answer()]).unwrap());
        drop((setup, rings));
        // The next one may have the same names.
        let (client, (setup, (mut rings, reply))) = connect();
        assert_eq!(generation == Generation::Libqb015, reply.response == base);
        assert_eq!(generation == Generation::Libqb015, is_bound(&own));
        assert!(rings.response.try_send(&[&answer()]).unwrap());
        assert_eq!(outcome(client.request(&request())), TimedOut);
        drop((setup, rings));
        drop(client);
        assert!(!is_bound(&own));
    }
}
