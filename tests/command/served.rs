//! Where the command finds a daemon: in a node of a real cluster, or at a `corosync-ipc serve`.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use corosync_ipc::Endpoint;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testbed::{Host, Node, NodeCommand, Output, Process};

use super::{lines, program};

/// A place with a daemon, which programs are sent to.
pub(super) trait Place {
    fn at(&self, program: &Path) -> NodeCommand;
}

impl Place for Node {
    fn at(&self, program: &Path) -> NodeCommand {
        self.command(program)
    }
}

impl Place for Host {
    fn at(&self, program: &Path) -> NodeCommand {
        self.command(program)
    }
}

/// A `corosync-ipc serve` with sockets and rings in a directory of its own. Dropping it ends it in
/// good order.
pub(super) struct Served {
    /// `None` once it was waited for.
    process: Option<Process>,
    folder: TempDir,
}

impl Served {
    pub(super) fn start() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(args: &[&str]) -> Self {
        Self::by(&[], args)
    }

    /// Started by another program, with arguments of its own, as a user who may write to the
    /// directory.
    pub(super) fn by(starter: &[&str], args: &[&str]) -> Self {
        let folder = testbed::shm_folder();
        let process = match starter {
            [] => serve(folder.path()),
            [starter, starter_args @ ..] => {
                fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
                let command = NodeCommand::here(starter).args(starter_args).arg(program());
                command.args(serve_args(folder.path()))
            }
        };
        let process = process.args(args).arg("--json").spawn();
        process.wait_stdout("\n");
        Self { process: Some(process), folder }
    }

    /// What it said when it was ready.
    pub(super) fn ready(&self) -> Value {
        lines(&self.process.as_ref().expect("it runs").stdout()).remove(0)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it has in its directory that is no socket.
    pub(super) fn rings(&self) -> Vec<String> {
        let names = fs::read_dir(self.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("qb-")).collect()
    }

    pub(super) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Waits until it has ended by itself, and asserts that nothing is left.
    #[track_caller]
    pub(super) fn ended(mut self) -> Output {
        let output = self.process.take().expect("it runs").wait();
        assert_eq!(fs::read_dir(self.folder.path()).unwrap().count(), 0, "{output:?}");
        output
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Killed, it would leave the private directories of its other nodes behind.
        if let Some(mut process) = self.process.take().filter(|_| !std::thread::panicking()) {
            if process.is_running() {
                process.signal(Signal::SIGTERM);
            }
            process.wait();
        }
    }
}

/// The command that serves in a directory.
pub(super) fn serve(folder: &Path) -> NodeCommand {
    NodeCommand::here(program()).args(serve_args(folder))
}

fn serve_args(folder: &Path) -> [&str; 5] {
    let folder = folder.to_str().unwrap();
    ["serve", "--socket-dir", folder, "--shm-root", folder]
}

impl Place for Served {
    fn at(&self, program: &Path) -> NodeCommand {
        let folder = self.folder.path();
        NodeCommand::here(program)
            .env("COROSYNC_IPC_SOCKET_DIR", folder)
            .env("COROSYNC_IPC_SHM_ROOT", folder)
    }
}

/// Of an embedded corosync of the test.
impl Place for Endpoint {
    fn at(&self, program: &Path) -> NodeCommand {
        // Its sockets and its rings are in one directory.
        let folder = self.shm_root_path();
        NodeCommand::here(program)
            .env("COROSYNC_IPC_SOCKET_DIR", folder)
            .env("COROSYNC_IPC_SHM_ROOT", folder)
    }
}

/// Makes four tests of each body: against a real corosync and against `corosync-ipc serve`, over
/// each transport.
macro_rules! against_both {
    ($($body:ident)*) => {
        mod against_corosync {
            $(
                #[test]
                fn $body() {
                    if !testbed::skip() {
                        super::$body(testbed::shared_one().node(1));
                    }
                }
            )*
        }

        mod against_corosync_with_datagrams {
            $(
                #[test]
                fn $body() {
                    // corosync has datagrams since 2.1.1.
                    if !testbed::skip() && testbed::version() >= [2, 1, 1, 0] {
                        let cluster = testbed::shared_with(testbed::IpcType::Socket);
                        super::$body(cluster.node(1));
                    }
                }
            )*
        }

        mod against_serve {
            $(
                #[test]
                fn $body() {
                    super::$body(&crate::served::Served::start());
                }
            )*
        }

        mod against_serve_with_datagrams {
            $(
                #[test]
                fn $body() {
                    let arguments = ["--transport", "socket"];
                    super::$body(&crate::served::Served::with(&arguments));
                }
            )*
        }
    };
}
pub(super) use against_both;
