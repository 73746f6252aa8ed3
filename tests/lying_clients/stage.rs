//! The stage of a case: a server in a process of its own, and honest clients beside the liar.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::libqb::{self, Transport};
use corosync_ipc::{Endpoint, quorum};
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testbed::raw::{i32_at, request, response};
use testbed::{NodeCommand, Patience, Process, eventually, next, next_that, shm_folder};

use crate::echo;
use crate::liar::Liar;

/// How long a request of an honest client, its answer and its event may take.
const IN_TIME: Duration = Duration::from_secs(5);

/// How long the server's use of the processor is looked at, and the tenth of it that it may use.
const QUIET: Duration = Duration::from_millis(50);

/// How much more memory than before the liar the server may have: while the liar is there, and
/// afterwards. An allocator keeps some of what was given back.
const ROOM: u64 = 48 << 20;

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// `corosync-ipc serve`.
    Corosync,
    /// An [`echo`] with these settings.
    Echo(&'static str),
}

/// A lie, and what is asserted of it beyond that it harms nobody.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) over: &'static [Transport],
    lie: Box<dyn Fn(&Stage) + Send + Sync>,
}

/// The transports of a case.
pub(crate) const BOTH: &[Transport] = &[Transport::Shm, Transport::Socket];
pub(crate) const RINGS: &[Transport] = &[Transport::Shm];
pub(crate) const DATAGRAMS: &[Transport] = &[Transport::Socket];

/// Makes a case.
pub(crate) fn case(
    name: impl Into<String>,
    over: &'static [Transport],
    lie: impl Fn(&Stage) + Send + Sync + 'static,
) -> Case {
    Case { name: name.into(), over, lie: Box::new(lie) }
}

/// A server and its honest clients.
pub(crate) struct Stage {
    pub(crate) transport: Transport,
    /// Ends before its server.
    honest: Honest,
    server: Server,
    /// What the server had before the first case.
    before: Counts,
    memory_before: u64,
    /// What the liar has until the server is found quiet.
    held: RefCell<Vec<Box<dyn Any>>>,
    /// How much memory the server may take for this case.
    memory: Cell<u64>,
    /// Whether new clients must be able to connect.
    takes_new: Cell<bool>,
}

/// Runs the cases of a transport, one after the other.
pub(crate) fn run(served: Served, transport: Transport, cases: &[Case]) {
    let mut failed = Vec::new();
    let mut cases = cases.iter().filter(|case| case.over.contains(&transport)).peekable();
    while cases.peek().is_some() {
        let mut stage = Stage::start(served, transport);
        for case in cases.by_ref() {
            let begun = Instant::now();
            let played = catch_unwind(AssertUnwindSafe(|| stage.play(case)));
            let (waited, took) = (stage.honest.slowest(), begun.elapsed());
            println!("{transport}: {}: {took:.1?}, others waited {waited:.1?}", case.name);
            if played.is_err() {
                failed.push(&case.name);
            }
            // An allocator keeps some of what was much, and a case that failed may leave anything.
            if played.is_err() || stage.memory.get() > ROOM {
                break;
            }
        }
        assert!(stage.server.process.is_running(), "the server has ended: {failed:?}");
    }
    assert!(failed.is_empty(), "{transport}: {failed:?}");
}

impl Stage {
    fn start(served: Served, transport: Transport) -> Self {
        let server = Server::start(served, transport);
        let honest = match served {
            Served::Corosync => Honest::start(corosync_round(&server.endpoint)),
            Served::Echo(_) => Honest::start(echo_round(&server.endpoint)),
        };
        let mut stage = Self {
            transport,
            honest,
            server,
            before: Counts::default(),
            memory_before: 0,
            held: RefCell::default(),
            memory: Cell::new(ROOM),
            takes_new: Cell::new(true),
        };
        // What the first client costs stays.
        let first = stage.connect(stage.service());
        let directory = first.files().remove(0);
        drop(first);
        eventually("the first client is gone", || !directory.exists());
        eventually("the server has settled", || {
            let now = stage.server.counts();
            let is_settled = now == stage.before;
            stage.before = now;
            is_settled
        });
        stage.memory_before = stage.server.memory();
        stage
    }

    /// Plays a case, and asserts what holds for all of them.
    fn play(&self, case: &Case) {
        self.memory.set(ROOM);
        self.takes_new.set(true);
        self.server.forget_most_memory();
        (case.lie)(self);
        self.others_are_served();
        if self.takes_new.get() {
            self.connects_honestly();
        }
        self.is_quiet();
        let (most, before) = (self.server.most_memory(), self.memory_before);
        assert!(most < before + self.memory.get(), "it took {most} bytes, {before} before");
        self.held.borrow_mut().clear();
        self.is_as_before();
        let room = self.memory.get();
        eventually("memory is given back", || self.server.memory() < before + room);
        self.others_are_served();
    }

    /// A service for lies that have nothing to do with a service.
    pub(crate) fn service(&self) -> &'static str {
        match self.server.served {
            Served::Corosync => "cpg",
            Served::Echo(_) => echo::SERVICE,
        }
    }

    /// The socket of a service.
    pub(crate) fn socket(&self, service: &str) -> PathBuf {
        self.server.folder.path().join(service)
    }

    /// The directory of the rings.
    pub(crate) fn folder(&self) -> &Path {
        self.server.folder.path()
    }

    /// Connects as a client of libqb does.
    #[track_caller]
    pub(crate) fn connect(&self, service: &str) -> Liar {
        Liar::connect(self, service, 65536)
    }

    /// Waits until the honest clients have been served once more.
    pub(crate) fn others_are_served(&self) {
        self.honest.check();
    }

    /// Keeps something until the server was found quiet.
    pub(crate) fn hold(&self, what: impl Any) {
        self.held.borrow_mut().push(Box::new(what));
    }

    /// Lets the server take this much memory while the liar is there.
    pub(crate) fn allows_memory(&self, bytes: u64) {
        self.memory.set(bytes);
    }

    /// The liar keeps new clients out, as it may.
    pub(crate) fn takes_nobody(&self) {
        self.takes_new.set(false);
    }

    /// A new client connects and gets an answer.
    #[track_caller]
    fn connects_honestly(&self) {
        let patience = Patience::of(IN_TIME);
        match self.server.served {
            Served::Corosync => {
                let client = quorum::Client::connect_to(&self.server.endpoint).unwrap();
                assert!(client.is_quorate().unwrap());
            }
            Served::Echo(_) => {
                let client =
                    libqb::Client::connect_to(&self.server.endpoint, echo::SERVICE, 8192).unwrap();
                client.request(&request(echo::ECHO, b"new")).unwrap();
            }
        }
        assert!(!patience.is_over(), "a new client came too late");
    }

    /// Waits until the server uses less than a tenth of a processor while it has nothing to do.
    #[track_caller]
    fn is_quiet(&self) {
        let _pause = self.honest.gate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = String::new();
        let patience = Patience::new();
        while !patience.is_over() {
            let (begun, before) = (Instant::now(), self.server.processor_time());
            thread::sleep(QUIET);
            let (used, time) = (self.server.processor_time() - before, begun.elapsed());
            if used < time / 10 {
                return;
            }
            last = format!("{used:?} of {time:?}");
        }
        panic!("the server is not quiet: it used {last}");
    }

    /// Waits until the server has no more for its clients than before.
    #[track_caller]
    fn is_as_before(&self) {
        let patience = Patience::new();
        loop {
            let (now, before) = (self.server.counts(), &self.before);
            if now == *before {
                return;
            }
            assert!(
                !patience.is_over(),
                "{} descriptors, {} before; {} mappings, {} before; files {:?}",
                now.descriptors,
                before.descriptors,
                now.mappings,
                before.mappings,
                now.files.symmetric_difference(&before.files).take(10).collect::<Vec<_>>()
            );
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A server in a process of its own. Dropping it ends it.
struct Server {
    served: Served,
    process: Process,
    folder: TempDir,
    endpoint: Endpoint,
}

/// What a server has for its clients.
#[derive(Default, PartialEq, Eq)]
struct Counts {
    descriptors: usize,
    /// Mappings of files: those of the allocator come and go.
    mappings: usize,
    files: BTreeSet<PathBuf>,
}

impl Server {
    fn start(served: Served, transport: Transport) -> Self {
        let folder = shm_folder();
        let at = folder.path().to_str().unwrap();
        let process = match served {
            Served::Corosync => {
                let command = NodeCommand::here(env!("CARGO_BIN_EXE_corosync-ipc"));
                let command = command.args(["serve", "--socket-dir", at, "--shm-root", at]);
                command.args(["--transport", &transport.to_string(), "--json"])
            }
            Served::Echo(settings) => echo::command(at, transport, settings),
        };
        let process = process.spawn();
        process.wait_stdout("ready");
        let endpoint = Endpoint::new().socket_dir(at).shm_root(at);
        Self { served, process, folder, endpoint }
    }

    fn proc(&self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.process.pid()).into()
    }

    fn counts(&self) -> Counts {
        let maps = fs::read_to_string(self.proc("maps")).unwrap();
        let files = self.folder.path().to_str().unwrap();
        let mut counts = Counts {
            descriptors: fs::read_dir(self.proc("fd")).unwrap().count(),
            mappings: maps.lines().filter(|line| line.contains(files)).count(),
            files: BTreeSet::new(),
        };
        list(self.folder.path(), &mut counts.files);
        counts
    }

    /// A number of /proc/PID/status in bytes.
    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The memory of its own that it has.
    fn memory(&self) -> u64 {
        self.status("RssAnon")
    }

    /// The most memory that it had, that of files included.
    fn most_memory(&self) -> u64 {
        self.status("VmHWM").max(self.memory())
    }

    fn forget_most_memory(&self) {
        // Some kernels do not have it. What the server has in the end counts all the same.
        let _ = fs::write(self.proc("clear_refs"), "5");
    }

    /// How long its threads have used a processor.
    fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(self.proc("task")).unwrap();
        let of = |task: PathBuf| {
            let text = fs::read_to_string(task.join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        };
        Duration::from_nanos(tasks.map(|task| of(task.unwrap().path())).sum())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !thread::panicking() && self.process.is_running() {
            match self.served {
                Served::Corosync => self.process.signal(Signal::SIGTERM),
                Served::Echo(_) => self.process.close_input(),
            }
            eventually("the server has ended", || !self.process.is_running());
            let left = fs::read_dir(self.folder.path()).unwrap().count();
            assert_eq!(left, 0, "{:?} leaves files", self.served);
        }
    }
}

/// Lists a directory with all that it holds.
fn list(directory: &Path, into: &mut BTreeSet<PathBuf>) {
    // What vanishes meanwhile is not there.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|it| it.is_dir()) {
            list(&entry.path(), into);
        }
        into.insert(entry.path());
    }
}

/// An honest client, which asks all the time.
struct Honest {
    /// Closed while it pauses.
    gate: Arc<Mutex<()>>,
    rounds: Arc<AtomicU64>,
    /// In nanoseconds.
    slowest: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Cell<Option<JoinHandle<()>>>,
}

impl Honest {
    fn start(mut round: impl FnMut(u64) + Send + 'static) -> Self {
        let honest = Self {
            gate: Arc::default(),
            rounds: Arc::default(),
            slowest: Arc::default(),
            is_over: Arc::default(),
            thread: Cell::default(),
        };
        let (gate, rounds) = (Arc::clone(&honest.gate), Arc::clone(&honest.rounds));
        let (slowest, is_over) = (Arc::clone(&honest.slowest), Arc::clone(&honest.is_over));
        honest.thread.set(Some(thread::spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                let open = gate.lock().unwrap();
                let (begun, patience) = (Instant::now(), Patience::of(IN_TIME));
                round(rounds.load(Ordering::SeqCst));
                assert!(!patience.is_over(), "an honest client waited {:?}", begun.elapsed());
                drop(open);
                slowest.fetch_max(begun.elapsed().as_nanos() as u64, Ordering::SeqCst);
                rounds.fetch_add(1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
            }
        })));
        honest
    }

    /// Waits for a whole round from now on.
    fn check(&self) {
        let now = self.rounds.load(Ordering::SeqCst);
        eventually("the honest client is served", || {
            let thread = self.thread.take().unwrap();
            if thread.is_finished() {
                resume_unwind(thread.join().unwrap_err());
            }
            self.thread.set(Some(thread));
            self.rounds.load(Ordering::SeqCst) >= now + 2
        });
    }

    /// The longest round since the last time that this was asked.
    fn slowest(&self) -> Duration {
        Duration::from_nanos(self.slowest.swap(0, Ordering::SeqCst))
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join);
        if let (Some(Err(panic)), false) = (ended, thread::panicking()) {
            resume_unwind(panic);
        }
    }
}

/// Sets a key, is told so, reads it, and sends its group a message.
fn corosync_round(endpoint: &Endpoint) -> impl FnMut(u64) + Send + 'static {
    let map = cmap::Client::connect_to(endpoint).unwrap();
    map.track_add("honest.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let group = GroupName::new("honest").unwrap();
    let member = cpg::Client::connect_to(endpoint).unwrap();
    member.join(&group).unwrap();
    next(&member);
    move |number| {
        map.set("honest.key", number).unwrap();
        let cmap::Event::Notification(told) = next(&map) else { panic!("an unknown event") };
        assert_eq!(told.new_value, Some(Value::U64(number)));
        assert_eq!(map.get("honest.key").unwrap(), Some(Value::U64(number)));
        let message = number.to_ne_bytes();
        member.multicast(Guarantee::AGREED, &message).unwrap();
        let payload = next_that(&member, |event| match event {
            cpg::Event::Deliver(deliver) => Some(deliver.payload),
            _ => None,
        });
        assert_eq!(payload[..], message);
    }
}

/// Asks for an echo and for an event.
fn echo_round(endpoint: &Endpoint) -> impl FnMut(u64) + Send + 'static {
    let client = libqb::Client::connect_to(endpoint, echo::SERVICE, 8192).unwrap();
    move |number| {
        let reply = client.request(&request(echo::ECHO, &number.to_ne_bytes())).unwrap();
        assert_eq!(reply[..], response(echo::ECHO, 1, &number.to_ne_bytes()));
        client.request(&echo::events(1, 64)).unwrap();
        let event = testbed::patiently(|limit| client.next_event(limit).unwrap()).unwrap();
        assert_eq!((i32_at(&event, 0), event.len()), (echo::EVENT, 64));
    }
}

/// Whether the tests' own user may act for others.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The test program, to run one of its tests that are ignored, with this to know.
pub(crate) fn helper(test: &str, know: &[(&str, &str)]) -> NodeCommand {
    let program = NodeCommand::here(env::current_exe().unwrap());
    let program = program.args(["--exact", test, "--ignored", "--nocapture"]);
    know.iter().fold(program, |program, (name, value)| program.env(name, value))
}
