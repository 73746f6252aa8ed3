//! A case: a daemon, what a client does with it, and how that has to end.

use std::any::Any;
use std::cell::Cell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::{Endpoint, Error, Escaped, cfg, cmap, cpg, evs, libqb, quorum, votequorum};
use nix::time::ClockId;

use crate::daemon::{Lair, Script, TRANSPORTS, Transport};
use crate::ledger::{self, Ledger};

/// How long a client waits. On a busy machine threads come late, so a case that fails is tried
/// again with more time: a fault shows each time.
const TIMEOUTS: [Duration; 3] =
    [Duration::from_millis(150), Duration::from_millis(600), Duration::from_millis(2400)];

/// How long the calls before the one that a case is about may take.
const LONG: Duration = Duration::from_secs(30);

/// The size of rings that most cases ask for.
const RING_SIZE: u32 = 16 << 10;

/// The most memory that most cases may need, the daemon's included.
const PEAK: usize = 1 << 20;

type Daemon = dyn Fn(&Lair) + Send + Sync;
type Client = dyn Fn(&Try<'_>) -> Result<(), Error>;

pub(crate) struct Case {
    name: String,
    transport: Transport,
    daemon: Box<Daemon>,
    client: Box<Client>,
    end: String,
    is_busy: bool,
    keeps: bool,
    is_refused: bool,
    checks_files: bool,
    removes: &'static str,
    periods: u32,
    peak: usize,
}

impl Case {
    /// A case that ends as `end` says: `ok`, or how the text of [`kind`] begins. Bars separate
    /// several ends that are right.
    pub(crate) fn new(
        name: impl Into<String>,
        transport: Transport,
        script: Script,
        client: impl Fn(&Try<'_>) -> Result<(), Error> + 'static,
        end: impl Into<String>,
    ) -> Self {
        Self::with_daemon(name, transport, move |lair| lair.serve(&script), client, end)
    }

    /// As [`Case::new`] with a daemon that follows no script.
    pub(crate) fn with_daemon(
        name: impl Into<String>,
        transport: Transport,
        daemon: impl Fn(&Lair) + Send + Sync + 'static,
        client: impl Fn(&Try<'_>) -> Result<(), Error> + 'static,
        end: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            transport,
            daemon: Box::new(daemon),
            client: Box::new(client),
            end: end.into(),
            is_busy: false,
            keeps: false,
            is_refused: false,
            checks_files: true,
            removes: "-liar",
            periods: 1,
            peak: PEAK,
        }
    }

    /// The client has something to do all the time, so its use of the processor does not matter.
    pub(crate) fn busy(self) -> Self {
        Self { is_busy: true, ..self }
    }

    /// The client keeps a connection on purpose.
    pub(crate) fn keeps(self) -> Self {
        Self { keeps: true, checks_files: false, ..self }
    }

    /// It is not known whether there is a client, and so whether it removes the control file.
    pub(crate) fn forgets_files(self) -> Self {
        Self { checks_files: false, ..self }
    }

    /// A client of datagrams removes files whose names contain this.
    pub(crate) fn removes(self, removes: &'static str) -> Self {
        Self { removes, ..self }
    }

    /// There never is a client, so it must not touch a file.
    pub(crate) fn refused(self) -> Self {
        Self { is_refused: true, ..self }
    }

    /// The client makes calls for this many timeouts, one after the other.
    pub(crate) fn periods(self, periods: u32) -> Self {
        Self { periods, ..self }
    }

    /// The most memory that may be needed, the daemon's included, in bytes.
    pub(crate) fn peak(self, peak: usize) -> Self {
        Self { peak, ..self }
    }
}

/// A case for each transport.
pub(crate) fn both(
    cases: &mut Vec<Case>,
    name: &str,
    script: impl Fn() -> Script,
    client: impl Fn(&Try<'_>) -> Result<(), Error> + Copy + 'static,
    end: &str,
) {
    for transport in TRANSPORTS {
        cases.push(Case::new(name, transport, script(), client, end));
    }
}

/// What a case's client works with.
pub(crate) struct Try<'a> {
    pub(crate) lair: &'a Lair,
    begun: Cell<Begun>,
}

#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    processor: Duration,
}

impl Begun {
    fn now() -> Self {
        Self { at: Instant::now(), processor: processor_time() }
    }
}

macro_rules! connects {
    ($($service:ident)*) => {$(
        /// A client with the case's timeout, which takes its time to connect.
        pub(crate) fn $service(&self) -> Result<$service::Client, Error> {
            self.connected(|endpoint| $service::Client::connect_to(&endpoint))
        }
    )*};
}

impl Try<'_> {
    connects! { cmap cpg quorum votequorum cfg evs }

    /// A client of the service `test`.
    pub(crate) fn test(&self) -> Result<libqb::Client, Error> {
        self.connected(|endpoint| libqb::Client::connect_to(&endpoint, "test", RING_SIZE))
    }

    /// Connects somehow, with plenty of time. The time of the case begins anew.
    pub(crate) fn connected<T>(
        &self,
        connect: impl FnOnce(Endpoint) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let client = connect(self.endpoint().connect_timeout(LONG));
        self.start();
        client
    }

    /// Connects to cpg in the case's time.
    pub(crate) fn connect(&self) -> Result<cpg::Client, Error> {
        cpg::Client::connect_to(&self.endpoint())
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        let root = &self.lair.root;
        let endpoint = Endpoint::new().socket_dir(root).shm_root(root);
        endpoint.ring_size(RING_SIZE).timeout(self.timeout())
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.lair.timeout
    }

    /// Has the daemon do what it does when told. The time of the case begins anew.
    pub(crate) fn tell(&self) {
        self.lair.tell();
        self.start();
    }

    /// The time of the case begins now.
    pub(crate) fn start(&self) {
        self.begun.set(Begun::now());
    }

    /// Waits for a condition, which must hold soon.
    pub(crate) fn wait_until(&self, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LONG;
        while !condition() {
            assert!(Instant::now() < end, "not in time");
            thread::sleep(Duration::from_micros(500));
        }
    }

    /// Calls again and again, for the time of one call or until one fails.
    pub(crate) fn for_a_while(
        &self,
        mut call: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let end = Instant::now() + self.timeout();
        while Instant::now() < end {
            call()?;
        }
        Ok(())
    }
}

fn processor_time() -> Duration {
    ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap().into()
}

/// What the failures of a topic begin with.
pub(crate) const FAILURES: &str = "these cases failed:\n";

/// Tries all cases and panics with those that fail.
pub(crate) fn try_all(cases: Vec<Case>) {
    corosync_ipc::guard_against_truncation().unwrap();
    warm_up();
    let before = ledger::anonymous_memory();
    let (count, mut failures) = (cases.len(), String::new());
    for case in cases {
        // The last one that is named is the one that killed the process.
        eprintln!("{} {:?}", case.name, case.transport);
        if let Err(failure) = case.try_out() {
            writeln!(failures, "{}", failure.text).unwrap();
        }
    }
    let after = ledger::anonymous_memory();
    if let Some((before, after)) = before.zip(after) {
        // The buffers of a single leaked connection have less, but there are many of those.
        let is_leaked = after > before + (48 << 20);
        assert!(!is_leaked, "{before} bytes of memory became {after}");
    }
    println!("{count} cases");
    assert!(failures.is_empty(), "{FAILURES}{failures}");
}

/// Has everything allocated that a process allocates once.
fn warm_up() {
    #[cfg(feature = "tokio")]
    drop(tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    for transport in TRANSPORTS {
        let case = |end: &str| {
            let client =
                |it: &Try<'_>| it.cpg().and_then(|client| client.local_node_id().map(drop));
            Case::new("warm-up", transport, Script::honest(), client, end)
        };
        let _ = case("ok").attempt(LONG);
        let failed = case("never").attempt(LONG);
        assert!(failed.is_err_and(|failure| failure.text.contains("ok after")));
    }
}

struct Failure {
    text: String,
    /// More time does not help.
    is_certain: bool,
}

impl Case {
    fn try_out(&self) -> Result<(), Failure> {
        let mut result = Ok(());
        for timeout in TIMEOUTS {
            result = self.attempt(timeout);
            if result.as_ref().is_err_and(|failure| !failure.is_certain) {
                continue;
            }
            break;
        }
        result
    }

    fn attempt(&self, timeout: Duration) -> Result<(), Failure> {
        let folder = testbed::shm_folder();
        let ledger = Ledger::open();
        let mut result = self.run(folder.path(), timeout);
        let peak = ledger.peak();
        if result.is_ok() && peak > self.peak {
            let text = format!("{peak} bytes of memory are more than {}", self.peak);
            result = Err((text, true));
        }
        let result = result.map_err(|(text, is_certain)| Failure {
            text: format!("{} {:?}: {text}", self.name, self.transport),
            is_certain,
        });
        if result.is_ok() && !self.keeps {
            if let Some(text) = ledger.difference() {
                let text = format!("{} {:?}: {text}", self.name, self.transport);
                return Err(Failure { text, is_certain: true });
            }
        }
        result
    }

    fn run(&self, root: &Path, timeout: Duration) -> Result<(), (String, bool)> {
        let lair = Lair::new(root, self.transport, timeout);
        let limit = (timeout * self.periods).mul_f64(1.5) + Duration::from_millis(60);
        let serve = &self.daemon;
        thread::scope(|scope| {
            let daemon = thread::Builder::new()
                .spawn_scoped(scope, || serve(&lair))
                .expect("a thread starts");
            let begun = Cell::new(Begun::now());
            let it = Try { lair: &lair, begun };
            let result = catch_unwind(AssertUnwindSafe(|| (self.client)(&it)));
            let Begun { at, processor } = it.begun.get();
            let (took, used) = (at.elapsed(), processor_time() - processor);
            let left = self.files_left(&lair);
            lair.end();
            // A daemon that panics fails the case.
            daemon.join().map_err(|panic| (format!("daemon: {}", words(&*panic)), false))?;
            let result = result.map_err(|panic| (words(&*panic), false))?;
            let found = kind(&result);
            let timed_out_early = found == "timed out" && took < timeout.mul_f64(0.9);
            let spins = !self.is_busy && used > took / 10 + Duration::from_millis(15);
            let text = || format!("{found} after {took:?} of {timeout:?}, {used:?} of work");
            if !self.end.split(" | ").any(|end| found.starts_with(end)) {
                return Err((format!("{}, not {}", text(), self.end), false));
            }
            let said = result.err().map(|error| error.with_sources().to_string());
            if let Some(said) = said.filter(|said| Escaped(said.as_bytes()).to_string() != *said) {
                return Err((format!("the error would steer a terminal: {said:?}"), true));
            }
            if took > limit || timed_out_early || spins {
                return Err((text(), false));
            }
            left.map_err(|text| (text, true))
        })
    }

    /// Whether the client has left the daemon's files as they were. It removes the control files of
    /// its connections of datagrams.
    fn files_left(&self, lair: &Lair) -> Result<(), String> {
        if !self.checks_files {
            return Ok(());
        }
        let (mut expected, found) = (lair.noted_files(), ledger::files(&lair.root));
        if self.transport == Transport::Datagrams && !self.is_refused {
            expected.retain(|path, _| !path.to_string_lossy().contains(self.removes));
        }
        let differs = |(path, text): &(&PathBuf, &String)| {
            expected.get(*path) != Some(text) || found.get(*path) != Some(text)
        };
        let different: Vec<_> = expected.iter().chain(&found).filter(differs).collect();
        if different.is_empty() { Ok(()) } else { Err(format!("files: {different:?}")) }
    }
}

/// How a call ended, in a few words.
fn kind(result: &Result<(), Error>) -> String {
    result.as_ref().map_or_else(describe, |()| "ok".to_owned())
}

fn describe(error: &Error) -> String {
    match error {
        Error::TimedOut { .. } => "timed out".to_owned(),
        Error::Disconnected { truncated: None, .. } => "gone".to_owned(),
        Error::Disconnected { truncated: Some(ring), .. } => format!("cut: {ring}"),
        Error::Protocol { source, .. } => format!("protocol: {source}"),
        Error::RingFile { fault, .. } => format!("file: {fault}"),
        Error::RingsNotVisible { source, .. } => format!("not visible: {source}"),
        Error::SocketsNotVisible { source, .. } => format!("no sockets: {source}"),
        Error::Refused { source, .. } => format!("refused: {source}"),
        Error::NotReady { .. } => "not ready".to_owned(),
        Error::NotAllowed { .. } => "not allowed".to_owned(),
        Error::SharedMemoryFull { .. } => "full".to_owned(),
        Error::Cs { error, .. } => format!("cs {}", error.raw()),
        Error::PartlySent { source, .. } => format!("partly sent: {}", describe(source)),
        Error::NotAllSent { source, .. } => format!("not all sent: {}", describe(source)),
        error => format!("{error:?}"),
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned()
}
