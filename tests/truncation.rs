//! Ring files that somebody cuts short: a connection ends, no process does.
//!
//! Each test runs in a process of its own with the guard on, so that a death is a failure of one
//! test.

use std::collections::HashSet;
use std::env;
use std::ffi::{c_int, c_void};
use std::fs::{self, File, OpenOptions};
use std::ops::ControlFlow::Continue;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee, Iteration};
use corosync_ipc::embedded::{Cluster, Corosync};
use corosync_ipc::libqb::server::{Connections, FlowControl};
use corosync_ipc::{Dispatch, Endpoint, Error, guard_against_truncation};
use memmap2::MmapRaw;
use nix::errno::Errno;
use nix::libc::{self, siginfo_t};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::unistd::Pid;
use testbed::{
    NodeCommand, Output, Random, Scripted, WATCHDOG, eventually, next, private_endpoint,
    spawn_until_asleep,
};

/// Set in a test's own process.
const OWN_PROCESS: &str = "COROSYNC_IPC_TEST_OWN_PROCESS";

/// How many bytes of a file are left: none, part of a page, a page. Headers have three pages, data
/// more.
const CUTS: [u64; 3] = [0, 1, 4096];

const SERVER: u32 = 1;

/// A value of which three fill more of a ring than any cut leaves.
fn large_value(byte: u8) -> Value {
    Value::Binary(vec![byte; 4000].into())
}

/// Makes tests of which each body runs in a process of its own. What follows the body looks at how
/// that ended.
macro_rules! in_own_process {
    ($($(#[$doc:meta])* fn $name:ident() $body:block => $check:expr;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            if env::var_os(OWN_PROCESS).is_some() {
                // A death that is expected leaves no core file.
                setrlimit(Resource::RLIMIT_CORE, 0, 0).unwrap();
                $body
            } else {
                let program = NodeCommand::here(env::current_exe().unwrap()).env(OWN_PROCESS, "1");
                let output = program.args(["--exact", stringify!($name), "--nocapture"]).run();
                $check(output);
            }
        }
    )*};
}

#[track_caller]
fn lives(output: Output) {
    assert!(output.success().contains("1 passed"));
}

#[track_caller]
fn dies_of_sigbus(output: Output) {
    assert_eq!(output.code(), -(Signal::SIGBUS as i32), "{output:?}");
    assert!(output.stdout.contains("so far so good"), "{output:?}");
}

/// The six files of a connection's rings.
#[derive(Clone, Copy, Debug)]
struct RingFile {
    ring: &'static str,
    part: &'static str,
}

fn files() -> impl Iterator<Item = RingFile> {
    let rings = ["request", "response", "event"].into_iter();
    rings.flat_map(|ring| ["header", "data"].map(|part| RingFile { ring, part }))
}

/// Where a connection's files are.
struct Rings(PathBuf);

impl Rings {
    fn all(endpoint: &Endpoint) -> HashSet<PathBuf> {
        let entries =
            fs::read_dir(endpoint.shm_root_path()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("qb-"))
            .collect()
    }

    /// Those of the connection that a closure makes.
    fn of<T>(endpoint: &Endpoint, connect: impl FnOnce() -> T) -> (T, Rings) {
        let before = Rings::all(endpoint);
        let connection = connect();
        let new: Vec<_> = Rings::all(endpoint).difference(&before).cloned().collect();
        let [directory] = new.as_slice() else { panic!("{new:?}") };
        (connection, Rings(directory.clone()))
    }

    fn open(&self, file: RingFile) -> File {
        let (begin, end) = (format!("qb-{}-", file.ring), format!("-{}", file.part));
        let paths = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let is_it = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with(&begin) && name.ends_with(&end)
        };
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(paths.into_iter().find(is_it).unwrap())
            .unwrap()
    }

    fn cut(&self, file: RingFile, length: u64) {
        self.open(file).set_len(length).unwrap();
    }
}

#[track_caller]
fn assert_disconnected<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) {
    assert!(is_disconnected(&result), "{what}: {result:?}");
}

fn is_disconnected<T>(result: &Result<T, Error>) -> bool {
    cause(result).is_some_and(|error| matches!(error, Error::Disconnected { .. }))
}

/// Why a call failed, if it did.
fn cause<T>(result: &Result<T, Error>) -> Option<&Error> {
    match result {
        Err(Error::PartlySent { source, .. } | Error::NotAllSent { source, .. }) => Some(source),
        result => result.as_ref().err(),
    }
}

/// A call of a client, which says whether it went well.
type Call<C> = (&'static str, fn(&C) -> Result<(), Error>);

const CMAP_REQUESTS: [Call<cmap::Client>; 5] = [
    ("get", |client| client.get("large.key").map(drop)),
    ("set", |client| client.set("large.key", large_value(9))),
    ("list", |client| client.list("large.").map(drop)),
    ("iterate", |client| {
        client.iter("large.").and_then(|mut iter| iter.try_for_each(|entry| entry.map(drop)))
    }),
    ("track", |client| client.track_add("other.key", TrackEvents::ALL).map(drop)),
];

const CMAP_EVENTS: [Call<cmap::Client>; 4] = [
    ("poll event", |client| client.poll_event().map(drop)),
    ("next event", |client| client.next_event(WATCHDOG).map(drop)),
    ("iterate over events", |client| client.events().next().unwrap().map(drop)),
    ("dispatch", |client| client.dispatch(Dispatch::All, |_| Continue(()))),
];

/// A client of a node that is stopped. An event waits for it, and the answer to a request that
/// timed out, and they, like the next request, lie behind everything that a cut leaves.
fn waited_for(cluster: &Cluster) -> (cmap::Client, Rings) {
    let node = cluster.node(SERVER).unwrap();
    // An error if it is not stopped.
    let _ = cluster.resume(SERVER);
    let endpoint = node.endpoint().clone().ring_size(256 << 10);
    let (client, rings) = Rings::of(&endpoint, || cmap::Client::connect_to(&endpoint).unwrap());
    client.track_add("large.key", TrackEvents::ALL).unwrap();
    for byte in 1..4 {
        client.set("large.key", large_value(byte)).unwrap();
        client.get("large.key").unwrap().unwrap();
        next(&client);
    }
    client.set("large.key", large_value(4)).unwrap();
    client.set("late.key", 0_u8).unwrap();
    let other = cmap::Client::connect_to(node.endpoint()).unwrap();
    // On a busy machine the time can be over before the request is sent.
    eventually("the answer is late", || {
        cluster.pause(SERVER).unwrap();
        client.set_request_timeout(Duration::from_millis(5));
        let late = client.increment("late.key");
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
        client.set_request_timeout(WATCHDOG);
        cluster.resume(SERVER).unwrap();
        other.get_as::<u8>("late.key").unwrap() != Some(0)
    });
    drop(other);
    cluster.pause(SERVER).unwrap();
    (client, rings)
}

/// Whatever is called, and in whatever order.
#[track_caller]
fn assert_all_disconnected(client: &cmap::Client) {
    for (what, call) in CMAP_REQUESTS.into_iter().chain(CMAP_EVENTS).chain(CMAP_REQUESTS) {
        assert_disconnected(call(client), what);
    }
    assert_disconnected(client.events().collect::<Result<Vec<_>, _>>(), "events");
    assert!(testbed::is_readable(client), "who polls must see the end");
}

in_own_process! {
    /// The server is stopped, so it is the client that touches what is missing.
    fn a_client_lives_whatever_is_cut_before_a_call() {
        guard_against_truncation().unwrap();
        let cluster = Cluster::start(SERVER).unwrap();
        for (file, cut) in files().flat_map(|file| CUTS.map(|cut| (file, cut))) {
            let calls: &[_] = if file.ring == "event" { &CMAP_EVENTS } else { &CMAP_REQUESTS };
            for (what, call) in calls {
                let (client, rings) = waited_for(&cluster);
                rings.cut(file, cut);
                assert_disconnected(call(&client), &format!("{what} after {file:?} was cut to {cut}"));
                assert_all_disconnected(&client);
                if cut == 0 {
                    client.finalize();
                }
            }
            // Clients that are dropped before they notice.
            let (client, rings) = waited_for(&cluster);
            rings.cut(file, cut);
            drop(client);
            let (client, rings) = waited_for(&cluster);
            rings.cut(file, cut);
            client.finalize();
            let ended = client.poll_event();
            assert!(matches!(ended, Err(Error::Finalized)), "{ended:?}");
            drop(client);
            cluster.resume(SERVER).unwrap();
        }
        assert_eq!(cluster.node(SERVER).unwrap().connections(), 0);
    } => lives;

    fn a_client_lives_whatever_is_cut_during_a_call() {
        guard_against_truncation().unwrap();
        let cluster = Cluster::start(SERVER).unwrap();
        let endpoint = cluster.node(SERVER).unwrap().endpoint().clone();
        let bystander = cmap::Client::connect_to(&endpoint).unwrap();
        for (file, cut) in files().flat_map(|file| CUTS.map(|cut| (file, cut))) {
            for (what, call) in CMAP_REQUESTS {
                let (client, rings) = waited_for(&cluster);
                thread::scope(|scope| {
                    let call = spawn_until_asleep(scope, || call(&client));
                    let queued = spawn_until_asleep(scope, || client.get("large.key"));
                    let event = spawn_until_asleep(scope, || {
                        while client.next_event(WATCHDOG)?.is_some() {}
                        Ok(())
                    });
                    assert!(!call.is_finished() && !queued.is_finished() && !event.is_finished());
                    rings.cut(file, cut);
                    // What the client looks at while it waits it finds by itself.
                    if (file.ring, file.part) == ("response", "header") {
                        assert_disconnected(call.join().unwrap(), what);
                        cluster.resume(SERVER).unwrap();
                    } else {
                        cluster.resume(SERVER).unwrap();
                        // Fills the client's rings all around, if the server has not found out yet.
                        eventually("the server notices", || {
                            bystander.set("large.key", large_value(5)).unwrap();
                            client.get("large.key").is_err()
                        });
                        let ended = call.join().unwrap();
                        // An answer may have been there already.
                        assert!(ended.is_ok() || is_disconnected(&ended), "{what} {file:?} {cut}: {ended:?}");
                    }
                    let ended = queued.join().unwrap();
                    assert!(ended.is_ok() || is_disconnected(&ended), "{file:?} {cut}: {ended:?}");
                    assert_disconnected(event.join().unwrap(), &format!("waiting while {file:?} was cut to {cut}"));
                });
                assert_all_disconnected(&client);
            }
        }
        eventually("the server lets go", || cluster.node(SERVER).unwrap().connections() == 1);
    } => lives;

    /// The daemon is stopped and then killed: the C server has no guard.
    fn a_client_of_a_real_daemon_lives() {
        // Older ones have no directory for each connection.
        if testbed::skip() || testbed::version() < [2, 4, 0, 0] {
            return;
        }
        guard_against_truncation().unwrap();
        let daemon = testbed::Cluster::one();
        let node = daemon.node(1);
        node.run(|| {
            let endpoint = Endpoint::new().request_timeout(WATCHDOG);
            let connect = || Rings::of(&endpoint, || cmap::Client::connect_to(&endpoint).unwrap());
            let clients: Vec<_> = files().map(|file| (file, connect())).collect();
            let (waiting, waiting_rings) = connect();
            let paused = node.pause();
            for (file, (client, rings)) in &clients {
                rings.cut(*file, 0);
                match (file.ring, file.part) {
                    ("request", _) | ("response", "header") => assert_disconnected(client.get("a.key"), "get"),
                    ("event", "header") => assert_disconnected(client.poll_event(), "poll event"),
                    // Nothing lies there that the client would look at.
                    _ => continue,
                }
                assert_all_disconnected(client);
            }
            thread::scope(|scope| {
                let get = spawn_until_asleep(scope, || waiting.get("a.key"));
                assert!(!get.is_finished());
                waiting_rings.cut(RingFile { ring: "response", part: "header" }, 0);
                assert_disconnected(get.join().unwrap(), "get under way");
            });
            node.kill();
            drop(paused);
            drop((clients, waiting));
        });
    } => lives;

    fn a_multicast_in_fragments_and_an_iteration_end_when_files_are_cut() {
        guard_against_truncation().unwrap();
        let cluster = Cluster::start(SERVER).unwrap();
        let endpoint = cluster.node(SERVER).unwrap().endpoint().clone().ring_size(16 << 10).request_timeout(WATCHDOG);
        let group = GroupName::new("cut").unwrap();
        let message = vec![7; 200_000];
        let multicast = |client: &cpg::Client| {
            while client.poll_event()?.is_some() {}
            client.multicast(Guarantee::AGREED, &message)
        };
        // Until the place of the cut is reached: answers are small.
        let multicast_until_it_fails =
            |client: &cpg::Client| (0..100).map(|_| multicast(client)).find(Result::is_err).expect("all went well");
        let iterate = |client: &cpg::Client| -> Result<(), Error> {
            client.iter(Iteration::All)?.try_for_each(|entry| entry.map(drop))
        };
        let mut pids = 1..;
        let mut connect = || {
            let options = cpg::Options::new().pid(pids.next().unwrap());
            let connect = || cpg::Client::connect_with(&endpoint, options).unwrap();
            let (client, rings) = Rings::of(&endpoint, connect);
            client.join(&group).unwrap();
            multicast(&client).unwrap();
            (client, rings)
        };
        let (bystander, _) = connect();
        for (file, cut) in files().flat_map(|file| CUTS.map(|cut| (file, cut))) {
            // Where a part of a page is left, a chunk that was there is zeros, or the half that was
            // written.
            let is_end = |result: &Result<(), Error>| {
                let is_broken = matches!(cause(result), Some(Error::Protocol { .. }));
                (file.part == "data" && cut == 1 && is_broken) || is_disconnected(result)
            };
            let (client, rings) = connect();
            rings.cut(file, cut);
            let ended = multicast_until_it_fails(&client);
            assert!(is_end(&ended), "{file:?} cut to {cut}: {ended:?}");
            assert_disconnected(multicast(&client), "multicast");
            assert_disconnected(iterate(&client), "iterate");

            let (client, rings) = connect();
            cluster.pause(SERVER).unwrap();
            thread::scope(|scope| {
                let sending = spawn_until_asleep(scope, || multicast_until_it_fails(&client));
                assert!(!sending.is_finished());
                rings.cut(file, cut);
                cluster.resume(SERVER).unwrap();
                let ended = sending.join().unwrap();
                assert!(is_end(&ended), "{file:?} cut to {cut} meanwhile: {ended:?}");
            });
            assert_disconnected(client.membership(&group), "membership");
            assert_disconnected(client.next_event(WATCHDOG), "next event");

            // Between two entries. Dropping it tells the server, or tries to.
            let (client, rings) = connect();
            let mut iterator = client.iter(Iteration::All).unwrap();
            iterator.next().unwrap().unwrap();
            rings.cut(file, cut);
            for entry in iterator.by_ref().take(1) {
                let entry = entry.map(drop);
                assert!(entry.is_ok() || is_end(&entry), "{file:?} cut to {cut}: {entry:?}");
            }
            drop(iterator);
            drop(client);
            while bystander.poll_event().unwrap().is_some() {}
            bystander.multicast(Guarantee::AGREED, &message).unwrap();
        }
    } => lives;

    fn a_server_lives_and_its_other_clients_notice_nothing() {
        guard_against_truncation().unwrap();
        let corosync = Corosync::start().unwrap();
        let endpoint = corosync.endpoint();
        let other = cmap::Client::connect_to(endpoint).unwrap();
        other.track_add("large.key", TrackEvents::ALL).unwrap();
        for (file, cut) in files().flat_map(|file| CUTS.map(|cut| (file, cut))) {
            for closes in [false, true] {
                let (client, rings) = Rings::of(endpoint, || cmap::Client::connect_to(endpoint).unwrap());
                client.track_add("large.key", TrackEvents::ALL).unwrap();
                for byte in 0..3 {
                    client.set("large.key", large_value(byte)).unwrap();
                    client.get("large.key").unwrap();
                }
                (0..3).for_each(|_| drop(next(&other)));
                if closes {
                    rings.cut(file, cut);
                    drop(client);
                } else {
                    rings.cut(file, cut);
                    eventually("it is disconnected", || {
                        // It may notice first, and is told nothing else.
                        other.set("large.key", large_value(3)).unwrap();
                        next(&other);
                        let answer = client.get("large.key");
                        assert!(answer.is_ok() || is_disconnected(&answer), "{file:?} cut to {cut}: {answer:?}");
                        answer.is_err()
                    });
                }
                eventually("it is gone", || corosync.connections() == 1);
                other.set("other.key", 5_u8).unwrap();
                assert_eq!(other.get_as::<u8>("other.key").unwrap(), Some(5));
            }
        }
        drop(other);
        eventually("nothing is left", || Rings::all(endpoint).is_empty());
    } => lives;

    /// Nothing else touches the rings then: the client may send nothing, and is sent nothing.
    fn a_server_notices_what_it_finds_when_it_stops_a_client() {
        guard_against_truncation().unwrap();
        let (endpoint, _folder) = private_endpoint();
        let listener = Scripted::silent(&endpoint, "cmap");
        let (client, rings) = Rings::of(&endpoint, || cmap::Client::connect_to(&endpoint).unwrap());
        rings.cut(RingFile { ring: "request", part: "header" }, 0);
        let stop = |_: &mut Scripted, connections: &mut Connections<()>| {
            let ids = connections.ids();
            ids.iter().for_each(|id| connections.get(*id).unwrap().set_flow_control(FlowControl::Requests));
            connections.ids().len()
        };
        assert_eq!(listener.with(stop).unwrap(), 0);
        assert_disconnected(client.next_event(WATCHDOG), "next event");
    } => lives;

    fn nobody_dies_whenever_whatever_is_cut_to_whatever() {
        guard_against_truncation().unwrap();
        let corosync = Corosync::start().unwrap();
        let endpoint = &corosync.endpoint().clone().ring_size(16 << 10);
        let seed = u64::from(process::id());
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let bystander = cmap::Client::connect_to(endpoint).unwrap();
        let files: Vec<_> = files().collect();
        for round in 0..60_u8 {
            let (client, rings) = Rings::of(endpoint, || cmap::Client::connect_to(endpoint).unwrap());
            client.track_add("busy.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
            let file = files[random.below(6) as usize];
            let opened = rings.open(file);
            // The last page goes in any case: what is left of it would live on.
            let cut = random.below((opened.metadata().unwrap().len() - 1) / 4096 * 4096 + 1);
            let moment = Duration::from_micros(random.below(5000));
            println!("{round} {file:?} {cut} {moment:?}");
            let errors = thread::scope(|scope| {
                let requests = scope.spawn(|| -> Result<(), Error> {
                    for value in (0..=u8::MAX).cycle() {
                        client.set("busy.key", large_value(value))?;
                        client.list("busy.")?;
                    }
                    unreachable!("it goes on until it fails")
                });
                let events = scope.spawn(|| client.events().find_map(Result::err).unwrap());
                thread::sleep(moment);
                opened.set_len(cut).unwrap();
                [requests.join().unwrap().unwrap_err(), events.join().unwrap()]
            });
            for error in errors {
                let is_expected = matches!(error, Error::Disconnected { .. } | Error::Protocol { .. });
                assert!(is_expected, "{file:?} cut to {cut} after {moment:?}: {error:?}");
            }
            assert_all_disconnected(&client);
            bystander.set("bystander.key", round).unwrap();
            assert_eq!(bystander.get_as::<u8>("bystander.key").unwrap(), Some(round));
        }
    } => lives;

    fn a_handler_of_before_gets_the_faults_of_others() {
        let foreign = Foreign::new();
        install(SigHandler::SigAction(repair), SaFlags::SA_SIGINFO);
        // The second time it must not become its own predecessor.
        guard_against_truncation().unwrap();
        guard_against_truncation().unwrap();
        lose_a_ring();
        assert_eq!(HANDLED.load(Ordering::Relaxed), 0, "our own fault is nobody else's affair");
        assert_eq!(foreign.touch(), 0);
        assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
        assert_eq!(HANDLED_ADDRESS.load(Ordering::Relaxed), foreign.map.as_ptr().addr());
        foreign.file.set_len(0).unwrap();
        assert_eq!(foreign.touch(), 0);
        assert_eq!(HANDLED.load(Ordering::Relaxed), 2);
        lose_a_ring();
        assert_eq!(HANDLED.load(Ordering::Relaxed), 2);
    } => lives;

    fn a_handler_of_before_that_takes_the_number_only_gets_them_too() {
        let foreign = Foreign::new();
        install(SigHandler::Handler(repair_by_number), SaFlags::empty());
        guard_against_truncation().unwrap();
        Errno::set_raw(77);
        assert_eq!((foreign.touch(), Errno::last_raw()), (0, 77));
        assert_eq!(HANDLED.load(Ordering::Relaxed), 1);
        // A signal that is sent is not a fault.
        kill(Pid::this(), Signal::SIGBUS).unwrap();
        eventually("it is handled", || HANDLED.load(Ordering::Relaxed) == 2);
        lose_a_ring();
        assert_eq!(HANDLED.load(Ordering::Relaxed), 2);
    } => lives;

    fn a_handler_of_before_that_wants_one_call_gets_one() {
        let foreign = Foreign::new();
        install(SigHandler::Handler(repair_by_number), SaFlags::SA_RESETHAND);
        guard_against_truncation().unwrap();
        assert_eq!(foreign.touch(), 0);
        lose_a_ring();
        so_far_so_good();
        foreign.file.set_len(0).unwrap();
        foreign.touch();
    } => dies_of_sigbus;

    fn the_default_action_kills_as_before() {
        let foreign = Foreign::new();
        install(SigHandler::SigDfl, SaFlags::empty());
        guard_against_truncation().unwrap();
        lose_a_ring();
        so_far_so_good();
        foreign.touch();
    } => dies_of_sigbus;

    fn the_default_action_kills_as_before_when_the_signal_is_sent() {
        install(SigHandler::SigDfl, SaFlags::empty());
        guard_against_truncation().unwrap();
        lose_a_ring();
        so_far_so_good();
        kill(Pid::this(), Signal::SIGBUS).unwrap();
        thread::sleep(WATCHDOG);
    } => dies_of_sigbus;

    /// Rust's own handler looks for the end of the stack, and has the default action follow
    /// otherwise.
    fn what_a_program_of_rust_begins_with_kills_as_before() {
        let foreign = Foreign::new();
        guard_against_truncation().unwrap();
        lose_a_ring();
        so_far_so_good();
        foreign.touch();
    } => dies_of_sigbus;

    /// Rust's own handler takes itself away.
    fn the_guard_outlives_a_signal_that_was_sent_to_a_program_of_rust() {
        guard_against_truncation().unwrap();
        // To this thread, which has handled it afterwards.
        raise(Signal::SIGBUS).unwrap();
        lose_a_ring();
        so_far_so_good();
        // The next one kills, as it would without the guard.
        raise(Signal::SIGBUS).unwrap();
    } => dies_of_sigbus;

    fn a_fault_kills_although_the_signal_is_ignored() {
        let foreign = Foreign::new();
        install(SigHandler::SigIgn, SaFlags::empty());
        guard_against_truncation().unwrap();
        kill(Pid::this(), Signal::SIGBUS).unwrap();
        lose_a_ring();
        so_far_so_good();
        foreign.touch();
    } => dies_of_sigbus;

    fn without_the_guard_a_cut_kills() {
        install(SigHandler::SigDfl, SaFlags::empty());
        so_far_so_good();
        lose_a_ring();
    } => dies_of_sigbus;
}

/// What [`dies_of_sigbus`] looks for: the death comes where it is expected.
fn so_far_so_good() {
    println!("so far so good");
}

/// Has a client and a server touch what is missing.
fn lose_a_ring() {
    let corosync = Corosync::start().unwrap();
    let endpoint = corosync.endpoint();
    let (client, rings) = Rings::of(endpoint, || cmap::Client::connect_to(endpoint).unwrap());
    files().for_each(|file| rings.cut(file, 0));
    let ended = client.get("totem.version").unwrap_err();
    assert!(matches!(ended, Error::Disconnected { truncated: Some(_), .. }), "{ended:?}");
    assert!(ended.to_string().contains(" ring was truncated"), "{ended}");
    // The first cause stays.
    assert_eq!(client.poll_event().unwrap_err().to_string(), ended.to_string());
}

/// A mapping of a file without a byte, which is not a ring.
struct Foreign {
    file: File,
    map: MmapRaw,
}

impl Foreign {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let map = MmapRaw::map_raw(&file).unwrap();
        file.set_len(0).unwrap();
        FOREIGN_FILE.store(file.as_raw_fd(), Ordering::Relaxed);
        Self { file, map }
    }

    fn touch(&self) -> u8 {
        // SAFETY: the byte is in the mapping, which is all that this needs to compile; whether it
        // can be read is what is tested.
        unsafe { ptr::read_volatile(self.map.as_ptr()) }
    }
}

static FOREIGN_FILE: AtomicI32 = AtomicI32::new(-1);
static HANDLED: AtomicU32 = AtomicU32::new(0);
static HANDLED_ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// Another library's handler, which gives the file its page back.
extern "C" fn repair(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    assert!(!context.is_null());
    // SAFETY: the kernel's siginfo, handed on.
    let info = unsafe { &*info };
    // SAFETY: a fault has an address.
    let address = unsafe { info.si_addr() };
    HANDLED_ADDRESS.store(address.addr(), Ordering::Relaxed);
    repair_by_number(signal);
}

extern "C" fn repair_by_number(signal: c_int) {
    assert_eq!(signal, Signal::SIGBUS as c_int);
    HANDLED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: changes the length of a file that nothing but the test uses; a system call only.
    unsafe { libc::ftruncate(FOREIGN_FILE.load(Ordering::Relaxed), 4096) };
    Errno::set_raw(libc::EIO);
}

fn install(handler: SigHandler, flags: SaFlags) {
    let action = SigAction::new(handler, flags, SigSet::empty());
    // SAFETY: the handlers here store to atomics and make system calls.
    unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap();
}
