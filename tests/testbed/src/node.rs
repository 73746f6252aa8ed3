//! One node: its namespaces and its corosync.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::command::{NodeCommand, Output, Process, raw_pid, wait_stopped};
use super::copy_for_all;
use super::daemon::Daemon;
use super::membership::Membership;
use super::namespaces::Namespaces;
use super::patience::WATCHDOG;
use super::poll::poll;

/// A node of a cluster. Clones are handles to the same node; dropping the cluster ends it for all.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    id: u32,
    spaces: Arc<Namespaces>,
    daemon: Daemon,
    config: PathBuf,
    log: PathBuf,
    running: Mutex<Option<Child>>,
}

impl Node {
    pub(super) fn new(id: u32, spaces: Namespaces, folder: &Path, daemon: Daemon) -> Node {
        let inner = Inner {
            id,
            spaces: Arc::new(spaces),
            daemon,
            config: folder.join("corosync.conf"),
            log: folder.join("corosync.log"),
            running: Mutex::new(None),
        };
        File::create(&inner.log).expect("cannot create a log");
        Node { inner: Arc::new(inner) }
    }

    /// The node id, counted from 1. The node's name and host name is `n` followed by it.
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// The id that corosync makes of the node's address, where its entry in the nodelist has none.
    pub fn id_of_address(&self) -> u32 {
        self.address().parse::<Ipv4Addr>().expect("an address").to_bits()
    }

    /// The node's address on its only link.
    pub fn address(&self) -> String {
        address(self.inner.id)
    }

    // --- code and programs inside ---

    /// Runs a closure on a fresh thread inside the node and returns its value; a panic goes on in
    /// the caller. Threads started by the closure are inside too.
    ///
    /// A closure that takes longer than five minutes aborts the process: it borrows from the
    /// caller, so it cannot be left behind. See [`super::watchdog`] for a body that can.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.inner.spaces.run(body)
    }

    /// Starts a thread inside the node.
    pub fn spawn<T: Send + 'static>(
        &self,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.inner.spaces.spawn_thread(body)
    }

    /// A program to be run inside the node. A name without a slash is looked up next to the daemon,
    /// in `PATH` and in the folders of system programs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> NodeCommand {
        let command = NodeCommand::new(
            Arc::clone(&self.inner.spaces),
            &self.inner.daemon.program,
            program.as_ref(),
        );
        self.inner
            .daemon
            .environment
            .iter()
            .fold(command, |command, (name, value)| command.env(name, value))
    }

    /// Starts a program inside the node.
    #[track_caller]
    pub fn spawn_command<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Process {
        self.command(program).args(args).spawn()
    }

    /// Runs a program inside the node to its end.
    #[track_caller]
    pub fn tool<S: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = S>,
    ) -> Output {
        self.command(program).args(args).run()
    }

    /// One ignored test of the running test binary, to be run inside the node in a process of its
    /// own: the way to run code under test as another user.
    ///
    /// The test is marked `#[ignore]` and named with its module path. What it prints is in the
    /// output.
    pub fn ignored_test(&self, name: &str) -> NodeCommand {
        let program = copy_for_all(&std::env::current_exe().expect("cannot tell the test binary"));
        self.command(program).args(["--exact", name, "--ignored", "--nocapture"])
    }

    /// Fills the node's /dev/shm up to this many bytes, until the guard is dropped.
    #[track_caller]
    pub fn fill_shm(&self, leave: u64) -> FullShm {
        let path = Path::new("/dev/shm/filler");
        self.run(|| {
            let mut file = File::create(path).expect("cannot create a file in /dev/shm");
            let zeros = [0; 65536];
            // Large pieces first, then single bytes, so that not even a page is left.
            for size in [zeros.len(), 1] {
                loop {
                    match file.write(&zeros[..size]) {
                        Ok(_) => {}
                        Err(error) if error.kind() == ErrorKind::StorageFull => break,
                        Err(error) => panic!("cannot fill /dev/shm: {error}"),
                    }
                }
            }
            let size = file.metadata().expect("cannot stat the filler").len();
            file.set_len(size.saturating_sub(leave)).expect("cannot shorten the filler");
        });
        FullShm { node: self.clone(), path: path.to_owned() }
    }

    // --- the daemon ---

    /// The daemon's pid.
    ///
    /// # Panics
    /// If it is not running.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = running_pid(&mut self.daemon());
        pid.unwrap_or_else(|| panic!("corosync of node {} is not running", self.id()))
    }

    /// Whether the daemon is running (or stopped by a signal).
    pub fn is_running(&self) -> bool {
        running_pid(&mut self.daemon()).is_some()
    }

    /// Starts the daemon and waits until it answers, whatever membership it then has.
    #[track_caller]
    pub fn start(&self) {
        self.start_unready();
        self.wait_ready();
    }

    /// Starts the daemon and returns while it is still starting.
    #[track_caller]
    pub fn start_unready(&self) {
        let mut daemon = self.daemon();
        assert!(running_pid(&mut daemon).is_none(), "corosync of node {} runs", self.id());
        let log = File::options().append(true).open(&self.inner.log).expect("cannot open the log");
        let mut command = self.inner.daemon.command(&self.inner.config);
        command
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("cannot clone a file"))
            .stderr(log);
        *daemon = Some(self.inner.spaces.spawn(&mut command).expect("cannot start corosync"));
    }

    /// Waits until the daemon answers corosync-quorumtool.
    #[track_caller]
    pub fn wait_ready(&self) {
        let state = poll(WATCHDOG, || match self.membership() {
            Some(_) => Some("ready"),
            None => (!self.is_running()).then_some("gone"),
        });
        assert_eq!(state, Some("ready"), "corosync of node {}:\n{}", self.id(), self.log());
    }

    /// Kills the daemon with SIGKILL and waits until it is gone.
    #[track_caller]
    pub fn kill(&self) {
        self.end(Signal::SIGKILL);
    }

    /// Ends the daemon with SIGTERM, so that it leaves the cluster in good order, and waits until
    /// it is gone.
    #[track_caller]
    pub fn stop(&self) {
        self.end(Signal::SIGTERM);
    }

    /// Stops and starts the daemon.
    #[track_caller]
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// Stops the daemon with SIGSTOP until the guard is dropped.
    #[track_caller]
    pub fn pause(&self) -> Paused {
        self.send(Signal::SIGSTOP);
        wait_stopped(self.pid());
        Paused { node: self.clone() }
    }

    /// Lets a stopped daemon go on.
    #[track_caller]
    pub fn resume(&self) {
        self.send(Signal::SIGCONT);
    }

    /// The configuration file, which may be edited between two starts or before a reload.
    pub fn config_path(&self) -> &Path {
        &self.inner.config
    }

    /// All that the daemon has written since the cluster was created, with time stamps.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.inner.log).unwrap_or_default()).into_owned()
    }

    /// Waits until a line of the log contains the text and returns the line.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        self.wait_log_after(0, text)
    }

    /// As [`Node::wait_log`], but overlooks the first bytes of the log: `node.log().len()` taken
    /// before an action tells its lines from older ones.
    #[track_caller]
    pub fn wait_log_after(&self, skip: usize, text: &str) -> String {
        let line = poll(WATCHDOG, || {
            let log = self.log();
            let line = log.get(skip..)?.lines().find(|line| line.contains(text))?;
            Some(line.to_owned())
        });
        line.unwrap_or_else(|| panic!("node {} did not log {text:?}:\n{}", self.id(), self.log()))
    }

    /// The membership as corosync-quorumtool shows it; `None` if the daemon does not answer.
    pub fn membership(&self) -> Option<Membership> {
        if !self.is_running() {
            return None;
        }
        let tool = self.command("corosync-quorumtool").arg("-s").limit(Duration::from_secs(3));
        // The exit code tells quorate from inquorate; what was printed tells whether it worked.
        Membership::parse(&tool.try_run()?.stdout)
    }

    pub(super) fn spaces(&self) -> &Namespaces {
        &self.inner.spaces
    }

    /// Waits for the daemon after the namespaces were cleared, so that no zombie stays.
    pub(super) fn reap(&self) {
        if let Some(mut child) = self.daemon().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    #[track_caller]
    fn end(&self, signal: Signal) {
        self.send(signal);
        let gone = poll(WATCHDOG, || !self.is_running());
        assert!(gone.is_some(), "corosync of node {} ignores {signal}:\n{}", self.id(), self.log());
    }

    #[track_caller]
    fn send(&self, signal: Signal) {
        // Not reaped before the lock is released, so the pid cannot belong to anybody else.
        let mut daemon = self.daemon();
        match running_pid(&mut daemon) {
            Some(pid) => kill(raw_pid(pid), signal).expect("cannot send a signal"),
            None => panic!("corosync of node {} is not running", self.id()),
        }
    }

    // A test that panicked while it held the lock must not keep the cluster from being taken down.
    fn daemon(&self) -> MutexGuard<'_, Option<Child>> {
        self.inner.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A daemon stopped by SIGSTOP; it goes on when this is dropped.
#[must_use = "the daemon goes on at once"]
pub struct Paused {
    node: Node,
}

impl Drop for Paused {
    fn drop(&mut self) {
        if self.node.is_running() {
            self.node.resume();
        }
    }
}

/// A full /dev/shm; there is room again when this is dropped.
#[must_use = "the room is given back at once"]
pub struct FullShm {
    node: Node,
    path: PathBuf,
}

impl Drop for FullShm {
    fn drop(&mut self) {
        let _ = self.node.run(|| fs::remove_file(&self.path));
    }
}

/// The address of a node. Every cluster has namespaces of its own, so all use the same ones.
pub fn address(id: u32) -> String {
    format!("10.77.0.{id}")
}

fn running_pid(daemon: &mut Option<Child>) -> Option<u32> {
    let child = daemon.as_mut()?;
    let ended = child.try_wait().expect("cannot wait for corosync").is_some();
    (!ended).then_some(child.id())
}
