//! Who serves the clients of a test: the embedded daemon or the real one.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use corosync_ipc::embedded::Corosync;
use corosync_ipc::{ENV_SHM_ROOT, ENV_SOCKET_DIR, Endpoint};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use testbed::Cluster;

/// A daemon that a test has for itself, to be ended, stopped and started again.
pub(crate) enum Host {
    Embedded(Embedded),
    Real(Cluster),
}

/// An embedded daemon in a process of its own, which signals can kill and stop. It ends with its
/// standard input.
pub(crate) struct Embedded {
    process: Mutex<Option<Child>>,
    folder: TempDir,
}

impl Host {
    pub(crate) fn endpoint(&self) -> Endpoint {
        match self {
            Self::Embedded(host) => {
                Endpoint::new().socket_dir(host.folder.path()).shm_root(host.folder.path())
            }
            Self::Real(_) => Endpoint::new(),
        }
    }

    /// Starts the daemon. Clients can connect when this returns.
    pub(crate) fn start(&self) {
        match self {
            Self::Embedded(host) => host.start(),
            Self::Real(cluster) => cluster.node(1).start(),
        }
    }

    /// Kills the daemon, and waits until it is gone.
    pub(crate) fn kill(&self) {
        match self {
            Self::Embedded(host) => host.kill(),
            Self::Real(cluster) => cluster.node(1).kill(),
        }
    }

    /// Stops the daemon until the guard is dropped.
    pub(crate) fn pause(&self) -> Paused {
        let pid = match self {
            Self::Embedded(host) => host.pid(),
            Self::Real(cluster) => return Paused::Real(cluster.node(1).pause()),
        };
        kill(pid, Signal::SIGSTOP).unwrap();
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        Paused::Embedded(pid)
    }
}

impl Embedded {
    /// Tells a program where the daemon is.
    pub(crate) fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env(ENV_SOCKET_DIR, self.folder.path()).env(ENV_SHM_ROOT, self.folder.path())
    }

    fn start(&self) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "host::serve", "--ignored", "--nocapture"]);
        let mut process =
            self.tell(&mut command).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(
            lines.any(|line| line.unwrap().ends_with(SERVING)),
            "the embedded daemon does not start"
        );
        *self.process.lock().unwrap() = Some(process);
    }

    fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn pid(&self) -> Pid {
        let process = self.process.lock().unwrap();
        Pid::from_raw(process.as_ref().expect("it runs").id().try_into().unwrap())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A daemon that is stopped.
#[must_use = "the daemon goes on at once"]
pub(crate) enum Paused {
    Embedded(Pid),
    Real(#[allow(dead_code, reason = "for its drop")] testbed::Paused),
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Self::Embedded(pid) = self {
            kill(*pid, Signal::SIGCONT).unwrap();
        }
    }
}

/// What the process of an embedded daemon says when it serves.
const SERVING: &str = "the embedded daemon serves";

#[test]
#[ignore = "run by other tests, in a process of its own"]
fn serve() {
    let _corosync =
        Corosync::builder().endpoint(&Endpoint::from_env().unwrap()).evs(true).start().unwrap();
    println!("{SERVING}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

pub(crate) mod embedded {
    use super::*;

    /// Runs a body that leaves its daemon alone.
    pub(crate) fn shared(body: impl FnOnce(&Endpoint)) {
        body(Corosync::builder().evs(true).start().unwrap().endpoint());
    }

    /// Runs a body that needs a daemon of its own.
    pub(crate) fn own(body: impl FnOnce(&Host)) {
        let folder =
            tempfile::Builder::new().prefix("corosync-ipc-events-").tempdir_in("/dev/shm").unwrap();
        let host = Embedded { process: Mutex::new(None), folder };
        host.start();
        body(&Host::Embedded(host));
    }
}

pub(crate) mod real {
    use super::*;

    /// Runs a body that leaves its daemon alone: one for all of them.
    pub(crate) fn shared(body: impl FnOnce(&Endpoint) + Send) {
        if !testbed::skip() {
            testbed::shared_one().node(1).run(|| body(&Endpoint::new()));
        }
    }

    /// Runs a body that needs a daemon of its own.
    pub(crate) fn own(body: impl FnOnce(&Host) + Send) {
        if !testbed::skip() {
            let cluster = Cluster::one();
            let node = cluster.node(1).clone();
            let host = Host::Real(cluster);
            node.run(|| body(&host));
        }
    }
}

/// Makes tests of bodies, each against the embedded daemon and the real one. A body is called
/// `shared` if it takes the endpoint of a daemon that serves others too, and `own` if it takes a
/// [`Host`].
macro_rules! for_each_host {
    ($($kind:ident $body:ident;)*) => {
        mod embedded {
            $(#[test] fn $body() { $crate::host::embedded::$kind(super::$body); })*
        }
        mod real {
            $(#[test] fn $body() { $crate::host::real::$kind(super::$body); })*
        }
    };
}
pub(crate) use for_each_host;
