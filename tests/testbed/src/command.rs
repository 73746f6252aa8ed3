//! Programs inside a node, or where the test runs.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::find_program;
use super::namespaces::{Namespaces, mark};
use super::patience::WATCHDOG;
use super::poll::{eventually, poll};

/// A program to run inside a node. By default it runs as root, with an empty standard input and
/// [`WATCHDOG`] as its time limit.
#[must_use]
pub struct NodeCommand {
    /// `None`: those of the test.
    spaces: Option<Arc<Namespaces>>,
    command: Command,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl NodeCommand {
    /// A name without a slash is looked up next to the daemon first: a tool of another version may
    /// send requests that end the daemon.
    pub(super) fn new(spaces: Arc<Namespaces>, daemon: &Path, program: &OsStr) -> NodeCommand {
        let beside = daemon.with_file_name(program);
        let found = if Path::new(program).components().count() == 1 && beside.is_file() {
            Some(beside)
        } else {
            program.to_str().and_then(find_program)
        };
        NodeCommand::found(Some(spaces), found.as_deref().unwrap_or(Path::new(program)))
    }

    /// A program outside of nodes. Needs no root.
    pub fn here(program: impl AsRef<Path>) -> NodeCommand {
        NodeCommand::found(None, program.as_ref())
    }

    fn found(spaces: Option<Arc<Namespaces>>, program: &Path) -> NodeCommand {
        let mut command = if ignores_signals() {
            let mut command = Command::new("env");
            command.arg("--default-signal=INT,HUP").arg(program);
            command
        } else {
            Command::new(program)
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        NodeCommand { spaces, command, input: None, limit: WATCHDOG }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the program as this user and group, without supplementary groups. The program's file
    /// has to be within the user's reach: see [`super::copy_for_all`].
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.command.uid(uid).gid(gid);
        self
    }

    /// Gives the program these bytes on its standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.input = Some(bytes.into());
        self
    }

    /// Leaves the standard input open for [`Process::write`].
    pub fn interactive(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Limits the time [`NodeCommand::run`] and [`Process::wait`] wait for the end.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    /// If it cannot be started or does not end within its limit; it is killed then.
    #[track_caller]
    pub fn run(self) -> Output {
        self.spawn().wait()
    }

    /// As [`NodeCommand::run`], but returns `None` if the program had to be killed.
    pub fn try_run(self) -> Option<Output> {
        self.spawn().try_wait()
    }

    /// Starts the program.
    #[track_caller]
    pub fn spawn(mut self) -> Process {
        let what = format!("{:?}", self.command.get_program());
        let spawned = match &self.spaces {
            Some(spaces) => spaces.spawn(&mut self.command),
            None => {
                mark(&mut self.command);
                self.command.spawn()
            }
        };
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => panic!("cannot start {what}: {error}"),
        };
        let mut input = child.stdin.take();
        if let Some(bytes) = self.input {
            let mut pipe = input.take();
            // A program that does not read must not stop the test. Ends with the program.
            thread::spawn(move || pipe.as_mut().map(|pipe| pipe.write_all(&bytes)));
        }
        Process {
            stdout: Capture::start(child.stdout.take()),
            stderr: Capture::start(child.stderr.take()),
            what,
            child,
            input,
            limit: self.limit,
        }
    }
}

/// The result of a program that has ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; invalid UTF-8 replaced.
    pub stdout: String,
    /// Its standard error; invalid UTF-8 replaced.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with exit code 0.
    pub fn is_success(&self) -> bool {
        self.status.success()
    }

    /// The exit code, or the negative number of the signal that ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| -self.status.signal().unwrap_or(0))
    }

    /// The standard output of a program that must have succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.is_success(), "{}\n{}{}", self.status, self.stdout, self.stderr);
        self.stdout
    }
}

/// A running program inside a node. Dropping it kills its process group.
pub struct Process {
    what: String,
    child: Child,
    input: Option<ChildStdin>,
    stdout: Capture,
    stderr: Capture,
    limit: Duration,
}

impl Process {
    /// Its pid, which is also its process group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until its standard output contains the text, and returns all of the output.
    #[track_caller]
    pub fn wait_stdout(&self, text: &str) -> String {
        let seen = poll(WATCHDOG, || {
            let ended = self.stdout.is_complete();
            let output = self.stdout();
            if output.contains(text) { Some(Ok(output)) } else { ended.then_some(Err(output)) }
        });
        match seen {
            Some(Ok(output)) => output,
            _ => panic!(
                "{} did not write {text:?} but {:?}; {:?}",
                self.what,
                self.stdout(),
                self.stderr()
            ),
        }
    }

    /// Writes to the standard input of a program started as interactive.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        let input = self.input.as_mut().expect("standard input is not open");
        input.write_all(bytes.as_ref()).expect("cannot write to the program");
    }

    /// Closes the standard input of a program started as interactive.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal to the program and its process group.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the pid cannot belong to anybody else.
        assert!(self.is_running(), "{} has ended", self.what);
        killpg(self.group(), signal).expect("cannot send a signal");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("cannot wait for a program").is_none()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it does not end within the command's limit; it is killed then.
    #[track_caller]
    pub fn wait(self) -> Output {
        let (what, limit) = (self.what.clone(), self.limit);
        match self.finish() {
            (output, true) => output,
            (output, false) => panic!("{what} did not end within {limit:?}: {output:?}"),
        }
    }

    /// As [`Process::wait`], but returns `None` if the program had to be killed.
    pub fn try_wait(self) -> Option<Output> {
        let (output, ended) = self.finish();
        ended.then_some(output)
    }

    /// Kills it with its process group and returns its result.
    pub fn kill(mut self) -> Output {
        self.kill_group();
        self.finish().0
    }

    /// The output, and whether the program ended by itself.
    fn finish(mut self) -> (Output, bool) {
        self.input = None;
        let ended = poll(self.limit, || !self.is_running()).is_some();
        self.kill_group();
        let status = self.child.wait().expect("cannot wait for a program");
        // Whoever the program has left running may hold the pipes open: do not wait for them for
        // ever. On a busy machine the readers may need a second.
        poll(Duration::from_secs(10), || self.stdout.is_complete() && self.stderr.is_complete());
        let output = Output { status, stdout: self.stdout(), stderr: self.stderr() };
        (output, ended)
    }

    fn kill_group(&mut self) {
        if self.is_running() {
            let _ = killpg(self.group(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }

    fn group(&self) -> Pid {
        raw_pid(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// All that a pipe has delivered so far.
struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Capture {
    fn start<R: Read + Send + 'static>(pipe: Option<R>) -> Capture {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let Some(mut pipe) = pipe else { return };
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                into.lock().expect("a reader panicked").extend_from_slice(&buffer[..count]);
            }
        });
        Capture { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("a reader panicked")).into_owned()
    }

    fn is_complete(&self) -> bool {
        self.reader.is_finished()
    }
}

/// Whether this process ignores SIGINT or SIGHUP, as a background job of a script or of nohup does.
/// What it starts would too.
fn ignores_signals() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    [Signal::SIGINT, Signal::SIGHUP].iter().any(|signal| ignored & (1 << (*signal as u32 - 1)) != 0)
}

/// A pid as the system calls take it.
pub(super) fn raw_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a pid is positive"))
}

/// Waits until every thread of a process is stopped.
pub(super) fn wait_stopped(pid: u32) {
    eventually("process is stopped", || {
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
            return false;
        };
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['T', 'Z']))
        })
    });
}
