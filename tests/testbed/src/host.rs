//! The daemons that a body runs against: the embedded one and the real one.
//!
//! A body is a private function of a test binary. [`on_each_host!`] lists it once. The compiler
//! warns "never used" about a body that no list names. The argument of a body says what it needs:
//! - an [`Endpoint`]: a daemon that serves other bodies at the same time and must go on unchanged;
//! - an [`Endpoint`] and a [`Version`]: such a daemon and its version;
//! - a [`Host`]: a daemon of its own, which the body may kill, stop and start;
//! - [`Nodes`]: a cluster of its own.
//!
//! Without a [`Setup`] the daemon is one quorate node with the id 1 and one vote. A body that takes
//! an endpoint prefixes its keys and groups with its own name.
//!
//! [`on_each_host!`]: crate::on_each_host

use std::env;
use std::io::{BufRead, BufReader, Read, stdin};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, Stdio, exit};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corosync_ipc::cmap::Value;
use corosync_ipc::embedded::{self, Corosync};
use corosync_ipc::libqb::server::{self as embedded_server, Generation};
use corosync_ipc::{ENV_SHM_ROOT, ENV_SOCKET_DIR, Endpoint};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::poll::say;
use crate::{
    Builder, Cluster, IpcType, Node, NodeCommand, Version, eventually, exchanges_sockets,
    shared_with, shm_folder, skip, version,
};

/// Makes four tests of each body: `embedded::body`, `real::body`, and both with datagrams,
/// `embedded_socket::body` and `real_socket::body`.
///
/// ```ignore
/// testbed::on_each_host! {
///     keys_are_set_and_deleted;
///     read_only_keys_are_refused, since([2, 0, 0, 0]);
///     a_quorum_device_decides, Setup::new().setting("quorum.device.model", "net");
///     modes_wait = modes_wait::<Cmap>;
/// }
/// ```
#[macro_export]
macro_rules! on_each_host {
    ($($list:tt)*) => {
        mod embedded {
            $crate::on_host!($crate::HostKind::Embedded, $crate::IpcType::Shm; $($list)*);
        }
        mod real {
            $crate::on_host!($crate::HostKind::Real, $crate::IpcType::Shm; $($list)*);
        }
        mod embedded_socket {
            $crate::on_host!($crate::HostKind::Embedded, $crate::IpcType::Socket; $($list)*);
        }
        mod real_socket {
            $crate::on_host!($crate::HostKind::Real, $crate::IpcType::Socket; $($list)*);
        }
    };
}

/// Makes a test of each body of a list, for [`on_each_host!`].
#[doc(hidden)]
#[macro_export]
macro_rules! on_host {
    ($kind:expr, $ipc_type:expr; $($body:ident $(= $path:path)? $(, $setup:expr)?;)*) => {
        #[allow(unused_imports, reason = "a list may have no setup")]
        use super::*;

        $(
            #[test]
            fn $body() {
                let setup = $crate::Setup::default();
                $(let setup = { let _ = setup; $setup };)?
                let setup = setup.ipc_type($ipc_type);
                $crate::host::run($kind, $crate::first!($($path,)? super::$body), setup);
            }
        )*
    };
}

/// The first of its arguments.
#[doc(hidden)]
#[macro_export]
macro_rules! first {
    ($first:path $(, $rest:path)*) => {
        $first
    };
}

/// Lets [`Host`]s of this test binary run an embedded daemon in a process of its own. A binary with
/// bodies that take a [`Host`] needs it once, in its root.
#[macro_export]
macro_rules! embedded_process {
    () => {
        #[test]
        #[ignore = "run by other tests, in a process of its own"]
        fn embedded_daemon() {
            $crate::host::serve();
        }
    };
}

/// Who serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// The one of this crate.
    Embedded,
    /// corosync.
    Real,
}

impl HostKind {
    /// The version of corosync; for the embedded daemon the one that it follows.
    pub fn version(self) -> Version {
        match self {
            HostKind::Embedded => [3, 1, 7, 0],
            HostKind::Real => version(),
        }
    }
}

impl From<IpcType> for embedded_server::Transport {
    fn from(ipc_type: IpcType) -> Self {
        match ipc_type {
            IpcType::Shm => Self::Shm,
            IpcType::Socket => Self::Socket,
        }
    }
}

/// What a body needs of its daemon.
#[must_use]
#[derive(Clone)]
pub struct Setup {
    nodes: u32,
    ipc_type: IpcType,
    since: Version,
    before: Option<Version>,
    is_own: bool,
    evs: bool,
    generation: Option<Generation>,
    loses_nodes: bool,
    settings: Vec<(&'static str, Value)>,
    alone: Option<&'static Mutex<()>>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            nodes: 1,
            ipc_type: IpcType::Shm,
            since: [0; 4],
            before: None,
            is_own: false,
            evs: false,
            generation: None,
            loses_nodes: false,
            settings: Vec::new(),
            alone: None,
        }
    }
}

/// Skips the body with daemons before this version.
pub fn since(version: Version) -> Setup {
    Setup::new().since(version)
}

impl Setup {
    /// One node with the default settings.
    pub fn new() -> Setup {
        Setup::default()
    }

    /// Skips the body with daemons before this version.
    pub fn since(mut self, version: Version) -> Setup {
        self.since = version;
        self
    }

    /// Skips the body with daemons of this version and later ones.
    pub fn before(mut self, version: Version) -> Setup {
        self.before = Some(version);
        self
    }

    /// How messages travel.
    pub fn ipc_type(mut self, ipc_type: IpcType) -> Setup {
        self.ipc_type = ipc_type;
        self
    }

    /// Gives a body that takes an endpoint a daemon of its own.
    pub fn own(mut self) -> Setup {
        self.is_own = true;
        self
    }

    /// The daemon serves evs, as the embedded one and corosync 1.99.0 to 1.99.7 do.
    pub fn evs(mut self) -> Setup {
        self.evs = true;
        self
    }

    /// Which libqb and corosync the embedded daemon speaks as. Its version does not count then.
    pub fn generation(mut self, generation: Generation) -> Setup {
        self.generation = Some(generation);
        self
    }

    /// The number of nodes, for a body that takes [`Nodes`].
    pub fn nodes(mut self, count: u32) -> Setup {
        self.nodes = count;
        self
    }

    /// The body loses nodes, and the others notice it in a second or two.
    pub fn loses_nodes(mut self) -> Setup {
        self.loses_nodes = true;
        self
    }

    /// Sets a key of cmap as corosync.conf sets it.
    pub fn setting(mut self, key: &'static str, value: impl Into<Value>) -> Setup {
        self.settings.push((key, value.into()));
        self
    }

    /// Runs the body while no other body with this lock runs.
    pub fn alone(mut self, lock: &'static Mutex<()>) -> Setup {
        self.alone = Some(lock);
        self
    }

    /// Returns whether to skip the body, and prints why.
    fn skips(&self, kind: HostKind) -> bool {
        if kind == HostKind::Real && skip() {
            return true;
        }
        let version = kind.version();
        let has_evs = kind == HostKind::Embedded || version < [1, 99, 8, 0];
        // corosync has datagrams since 2.1.1.
        let is_socket = self.ipc_type == IpcType::Socket;
        let fits = self.generation.is_some() && kind == HostKind::Embedded
            || version >= self.since
                && self.before.is_none_or(|before| version < before)
                && (has_evs || !self.evs)
                && (!is_socket || version >= [2, 1, 1, 0]);
        if !fits {
            let test = thread::current().name().unwrap_or("?").to_owned();
            say(&format!("{test}: not with corosync {version:?}"));
        }
        !fits
    }

    /// Returns whether the body needs another daemon than the shared one.
    fn is_special(&self) -> bool {
        self.is_own || self.loses_nodes || !self.settings.is_empty()
    }

    /// The real cluster that it describes.
    pub fn real(&self) -> Builder {
        let builder = Cluster::builder().nodes(self.nodes).ipc_type(self.ipc_type.name());
        let builder = if self.loses_nodes { builder.loses_nodes() } else { builder };
        self.settings.iter().fold(builder, |builder, (key, value)| {
            let parts: Vec<&str> = key.split('.').collect();
            match parts[..] {
                [section, name] => builder.setting(section, &format!("{name}: {value}")),
                [.., name] => {
                    let sections = &parts[..parts.len() - 1];
                    let open: String = sections.iter().map(|name| format!("{name} {{\n")).collect();
                    let close = "}\n".repeat(sections.len());
                    builder.extra_config(&format!("{open}{name}: {value}\n{close}"))
                }
                [] => builder,
            }
        })
    }

    fn embedded(&self) -> embedded::Builder<embedded::Cluster> {
        let builder = embedded::Cluster::builder().nodes(self.nodes).real_time().evs(true);
        let builder = builder.transport(self.ipc_type.into());
        let builder = match self.generation {
            Some(generation) => builder.generation(generation),
            None => builder,
        };
        self.settings
            .iter()
            .fold(builder, |builder, (key, value)| builder.setting(*key, value.clone()))
    }
}

/// Runs a body against a daemon, for [`on_each_host!`](crate::on_each_host).
#[track_caller]
pub fn run<Argument>(kind: HostKind, body: impl Body<Argument>, setup: Setup) {
    if setup.skips(kind) {
        return;
    }
    let _alone = setup.alone.map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
    body.run(kind, &setup);
}

/// A body. `Argument` says what it takes.
pub trait Body<Argument> {
    /// Runs it against a daemon.
    fn run(self, kind: HostKind, setup: &Setup);
}

impl<F: FnOnce(&Endpoint) + Send> Body<Endpoint> for F {
    fn run(self, kind: HostKind, setup: &Setup) {
        match kind {
            HostKind::Embedded if exchanges_sockets() && setup.nodes == 1 => {
                in_own_network(|| {
                    let folder = shm_folder();
                    let endpoint = Endpoint::new().abstract_sockets().shm_root(folder.path());
                    let builder = setup.embedded().endpoint(1, &endpoint);
                    let _cluster = builder.start().expect("the embedded daemon starts");
                    self(&endpoint);
                });
            }
            HostKind::Embedded => {
                let cluster = setup.embedded().start().expect("the embedded daemon starts");
                self(cluster.node(1).expect("it is node 1").endpoint());
            }
            HostKind::Real if setup.is_special() => run_inside(setup.real().start().node(1), self),
            HostKind::Real => run_inside(shared_with(setup.ipc_type).node(1), self),
        }
    }
}

impl<F: FnOnce(&Endpoint, Version) + Send> Body<(Endpoint, Version)> for F {
    fn run(self, kind: HostKind, setup: &Setup) {
        (|endpoint: &Endpoint| self(endpoint, kind.version())).run(kind, setup);
    }
}

/// Runs a body where no other process has abstract sockets. Needs root.
fn in_own_network(body: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may have a network namespace");
            body();
        });
        if let Err(panic) = inside.join() {
            resume_unwind(panic);
        }
    });
}

/// Runs a body inside a node, whose daemon must be the same process afterwards.
fn run_inside(node: &Node, body: impl FnOnce(&Endpoint) + Send) {
    let pid = node.pid();
    node.run(|| body(&Endpoint::new()));
    // The tools of corosync 1.99 are sometimes refused.
    eventually("corosync answers", || !node.is_running() || node.membership().is_some());
    assert_eq!(node.pid(), pid);
}

impl<F: FnOnce(&Host) + Send> Body<Host> for F {
    fn run(self, kind: HostKind, setup: &Setup) {
        match kind {
            HostKind::Embedded => self(&Host::Embedded(Embedded::start(setup))),
            HostKind::Real => {
                let cluster = setup.real().start();
                let node = cluster.node(1).clone();
                node.run(|| self(&Host::Real(cluster)));
            }
        }
    }
}

impl<F: FnOnce(&Nodes)> Body<Nodes> for F {
    fn run(self, kind: HostKind, setup: &Setup) {
        self(&match kind {
            HostKind::Embedded => {
                Nodes::Embedded(setup.embedded().start().expect("the embedded cluster starts"))
            }
            HostKind::Real => Nodes::Real(setup.real().start()),
        });
    }
}

/// A daemon of one body, which may kill, stop and start it. The body runs where clients find the
/// daemon.
pub enum Host {
    /// In a process of its own.
    Embedded(Embedded),
    /// On node 1.
    Real(Cluster),
}

/// An embedded daemon in a process of its own, which signals kill and stop. It ends when its
/// standard input ends.
pub struct Embedded {
    process: Mutex<Option<Child>>,
    folder: TempDir,
    ipc_type: IpcType,
}

impl Host {
    /// Who serves.
    pub fn kind(&self) -> HostKind {
        match self {
            Self::Embedded(_) => HostKind::Embedded,
            Self::Real(_) => HostKind::Real,
        }
    }

    /// The version of the daemon.
    pub fn version(&self) -> Version {
        self.kind().version()
    }

    /// Where clients find the daemon.
    pub fn endpoint(&self) -> Endpoint {
        match self {
            Self::Embedded(host) => {
                Endpoint::new().socket_dir(host.folder.path()).shm_root(host.folder.path())
            }
            Self::Real(_) => Endpoint::new(),
        }
    }

    /// Where the daemon makes its rings.
    pub fn shm_root(&self) -> &Path {
        match self {
            Self::Embedded(host) => host.folder.path(),
            Self::Real(_) => Path::new("/dev/shm"),
        }
    }

    /// A program that finds the daemon, if it reads this crate's environment variables.
    pub fn command(&self, program: impl AsRef<Path>) -> NodeCommand {
        match self {
            Self::Embedded(host) => at_endpoint(host.folder.path(), program),
            Self::Real(cluster) => cluster.node(1).command(program.as_ref()),
        }
    }

    /// One ignored test of the running test binary, to be run where clients find the daemon, as
    /// [`Node::ignored_test`].
    pub fn ignored_test(&self, name: &str) -> NodeCommand {
        match self {
            Self::Embedded(host) => ignored_test_at(host.folder.path(), name),
            Self::Real(cluster) => cluster.node(1).ignored_test(name),
        }
    }

    /// Starts the daemon. Clients can connect when this returns.
    #[track_caller]
    pub fn start(&self) {
        match self {
            Self::Embedded(host) => host.begin(),
            Self::Real(cluster) => cluster.node(1).start(),
        }
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    #[track_caller]
    pub fn kill(&self) {
        match self {
            Self::Embedded(host) => host.kill(),
            Self::Real(cluster) => cluster.node(1).kill(),
        }
    }

    /// Ends the daemon in good order and waits until it is gone.
    #[track_caller]
    pub fn stop(&self) {
        match self {
            Self::Embedded(host) => host.stop(),
            Self::Real(cluster) => cluster.node(1).stop(),
        }
    }

    /// Stops the daemon until the guard is dropped.
    #[track_caller]
    pub fn pause(&self) -> HostPaused {
        let pid = match self {
            Self::Embedded(host) => host.pid(),
            Self::Real(cluster) => return HostPaused::Real(cluster.node(1).pause()),
        };
        kill(pid, Signal::SIGSTOP).expect("it runs");
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("it is a child");
        HostPaused::Embedded(pid)
    }

    /// Whether the daemon is running, or stopped by a signal.
    pub fn is_running(&self) -> bool {
        match self {
            Self::Embedded(host) => host.is_running(),
            Self::Real(cluster) => cluster.node(1).is_running(),
        }
    }

    /// Waits until the daemon has ended by itself.
    #[track_caller]
    pub fn wait_ended(&self) {
        eventually("the daemon ends", || !self.is_running());
    }

    /// The pid of the daemon, which is running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        match self {
            Self::Embedded(host) => host.pid().as_raw().unsigned_abs(),
            Self::Real(cluster) => cluster.node(1).pid(),
        }
    }
}

/// A program told where sockets and rings are: in one directory.
pub fn at_endpoint(folder: &Path, program: impl AsRef<Path>) -> NodeCommand {
    NodeCommand::here(program).env(ENV_SOCKET_DIR, folder).env(ENV_SHM_ROOT, folder)
}

/// One ignored test of the running test binary, told where sockets and rings are.
pub fn ignored_test_at(folder: &Path, name: &str) -> NodeCommand {
    let this = env::current_exe().expect("it is known");
    at_endpoint(folder, this).args(["--exact", name, "--ignored", "--nocapture"])
}

/// Tells the process of an embedded daemon to use datagrams.
const ENV_IPC_TYPE: &str = "COROSYNC_IPC_TEST_IPC_TYPE";

/// What the process of an embedded daemon prints when it serves.
const SERVING: &str = "the embedded daemon serves";

impl Embedded {
    fn start(setup: &Setup) -> Embedded {
        assert!(setup.settings.is_empty(), "the process of an embedded daemon takes no settings");
        let (process, folder, ipc_type) = (Mutex::new(None), shm_folder(), setup.ipc_type);
        let host = Embedded { process, folder, ipc_type };
        host.begin();
        host
    }

    fn begin(&self) {
        let mut command = Command::new(env::current_exe().expect("it is known"));
        command.args(["--exact", "embedded_daemon", "--ignored", "--nocapture"]);
        command.env(ENV_SOCKET_DIR, self.folder.path()).env(ENV_SHM_ROOT, self.folder.path());
        if let Some(name) = self.ipc_type.name() {
            command.env(ENV_IPC_TYPE, name);
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test binary runs");
        let lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        assert!(
            lines.map_while(Result::ok).any(|line| line.ends_with(SERVING)),
            "no embedded daemon: the binary needs embedded_process!"
        );
        *self.process() = Some(process);
    }

    fn kill(&self) {
        if let Some(mut process) = self.process().take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it is a child");
        }
    }

    fn stop(&self) {
        if let Some(mut process) = self.process().take() {
            drop(process.stdin.take());
            process.wait().expect("it is a child");
        }
    }

    fn is_running(&self) -> bool {
        self.process()
            .as_mut()
            .is_some_and(|process| process.try_wait().expect("it is a child").is_none())
    }

    fn pid(&self) -> Pid {
        let id = self.process().as_ref().expect("it runs").id();
        Pid::from_raw(id.try_into().expect("a pid"))
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The process of an embedded daemon, for [`embedded_process!`](crate::embedded_process). It ends
/// when its standard input does, or when a client shuts it down.
pub fn serve() {
    let endpoint = Endpoint::from_env().expect("the environment names an endpoint");
    let ipc_type = if env::var_os(ENV_IPC_TYPE).is_some() { IpcType::Socket } else { IpcType::Shm };
    let builder = Corosync::builder().endpoint(&endpoint).transport(ipc_type.into()).evs(true);
    let corosync = builder.start().expect("the embedded daemon starts");
    println!("{SERVING}");
    let (sender, is_over) = channel();
    thread::spawn(move || {
        let _ = stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    let look_again = Err(RecvTimeoutError::Timeout);
    while corosync.is_running() && is_over.recv_timeout(Duration::from_millis(10)) == look_again {}
    drop(corosync);
    // Nobody reads what a test prints at its end.
    exit(0);
}

/// A daemon that is stopped; it goes on when this is dropped.
#[must_use = "the daemon goes on at once"]
pub enum HostPaused {
    /// Its process.
    Embedded(Pid),
    /// Its node's guard.
    Real(crate::Paused),
}

impl Drop for HostPaused {
    fn drop(&mut self) {
        if let Self::Embedded(pid) = self {
            // It may have been killed meanwhile.
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

/// A cluster of one body. Its nodes have the ids 1, 2 and so on.
pub enum Nodes {
    /// In this process.
    Embedded(embedded::Cluster),
    /// In namespaces.
    Real(Cluster),
}

impl Nodes {
    /// Who serves.
    pub fn kind(&self) -> HostKind {
        match self {
            Self::Embedded(_) => HostKind::Embedded,
            Self::Real(_) => HostKind::Real,
        }
    }

    /// The version of the daemons.
    pub fn version(&self) -> Version {
        self.kind().version()
    }

    /// The ids of all nodes.
    pub fn ids(&self) -> Vec<u32> {
        match self {
            Self::Embedded(cluster) => cluster.nodes().map(|node| node.id().0).collect(),
            Self::Real(cluster) => cluster.nodes().iter().map(Node::id).collect(),
        }
    }

    /// Runs a closure where clients find the daemon of a node.
    #[track_caller]
    pub fn on<T: Send>(&self, id: u32, body: impl FnOnce(&Endpoint) -> T + Send) -> T {
        match self {
            Self::Embedded(cluster) => body(cluster.node(id).expect("a node").endpoint()),
            Self::Real(cluster) => cluster.node(id).run(|| body(&Endpoint::new())),
        }
    }

    /// Starts a thread where clients find the daemon of a node.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(
        &self,
        id: u32,
        body: impl FnOnce(&Endpoint) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        match self {
            Self::Embedded(cluster) => {
                let endpoint = cluster.node(id).expect("a node").endpoint().clone();
                thread::spawn(move || body(&endpoint))
            }
            Self::Real(cluster) => cluster.node(id).spawn(|| body(&Endpoint::new())),
        }
    }

    /// One ignored test of the running test binary, to be run where clients find the daemon of a
    /// node, as [`Node::ignored_test`].
    pub fn ignored_test(&self, id: u32, name: &str) -> NodeCommand {
        match self {
            Self::Embedded(_) => {
                let folder = self.on(id, |endpoint| endpoint.shm_root_path().to_owned());
                ignored_test_at(&folder, name)
            }
            Self::Real(cluster) => cluster.node(id).ignored_test(name),
        }
    }

    /// Starts the daemon of a node. Clients can connect when this returns.
    #[track_caller]
    pub fn start(&self, id: u32) {
        match self {
            Self::Embedded(cluster) => cluster.start_node(id).expect("it did not run"),
            Self::Real(cluster) => cluster.node(id).start(),
        }
    }

    /// Kills the daemon of a node as SIGKILL does.
    #[track_caller]
    pub fn kill(&self, id: u32) {
        match self {
            Self::Embedded(cluster) => cluster.kill(id).expect("it runs"),
            Self::Real(cluster) => cluster.node(id).kill(),
        }
    }

    /// Ends the daemon of a node in good order and waits until it is gone.
    #[track_caller]
    pub fn stop(&self, id: u32) {
        match self {
            Self::Embedded(cluster) => cluster.stop(id).expect("it runs"),
            Self::Real(cluster) => cluster.node(id).stop(),
        }
    }

    /// Stops the daemon of a node until the guard is dropped.
    #[track_caller]
    pub fn pause(&self, id: u32) -> NodePaused<'_> {
        match self {
            Self::Embedded(cluster) => {
                cluster.pause(id).expect("it runs");
                NodePaused::Embedded(cluster, id)
            }
            Self::Real(cluster) => NodePaused::Real(cluster.node(id).pause()),
        }
    }

    /// Whether the daemon of a node is running, or stopped by a signal.
    #[track_caller]
    pub fn is_running(&self, id: u32) -> bool {
        match self {
            Self::Embedded(cluster) => cluster.node(id).expect("a node").is_running(),
            Self::Real(cluster) => cluster.node(id).is_running(),
        }
    }

    /// Waits until the daemon of a node has ended by itself.
    #[track_caller]
    pub fn wait_ended(&self, id: u32) {
        eventually("the daemon ends", || !self.is_running(id));
    }

    /// Cuts the network into these groups; nodes not named form one more.
    #[track_caller]
    pub fn partition(&self, groups: &[&[u32]]) {
        match self {
            Self::Embedded(cluster) => cluster.partition(groups).expect("nodes of the cluster"),
            Self::Real(cluster) => cluster.partition(groups),
        }
    }

    /// Undoes [`Nodes::partition`].
    pub fn heal(&self) {
        match self {
            Self::Embedded(cluster) => cluster.heal().expect("it runs"),
            Self::Real(cluster) => cluster.heal(),
        }
    }

    /// Waits until each of these nodes sees this many members and all are on the same ring.
    #[track_caller]
    pub fn wait_members(&self, nodes: &[u32], count: usize) {
        match self {
            // Its nodes form their ring before any of these functions returns.
            Self::Embedded(_) => {}
            Self::Real(cluster) => drop(cluster.wait_members(nodes, count)),
        }
    }
}

/// A daemon of [`Nodes`] that is stopped; it goes on when this is dropped.
#[must_use = "the daemon goes on at once"]
pub enum NodePaused<'a> {
    /// In this process.
    Embedded(&'a embedded::Cluster, u32),
    /// Its node's guard.
    Real(crate::Paused),
}

impl Drop for NodePaused<'_> {
    fn drop(&mut self) {
        if let Self::Embedded(cluster, id) = self {
            // It may have been killed meanwhile.
            let _ = cluster.resume(*id);
        }
    }
}
