//! What the integration tests and benches of corosync-ipc stand on: real corosync clusters on this
//! machine, helpers for clients, and the hosts that bodies of tests run against.
//!
//! Every node of a [`Cluster`] has a network, a mount and a uts namespace of its own, with private
//! /dev/shm, /run and /var/lib/corosync. A veth joins it to bridges in one more network namespace,
//! the switch. Nothing is created in the machine's own namespaces, no namespace has a name and
//! every cluster uses the same addresses, so any number of clusters and test binaries run side by
//! side. The module `state` says what is cleaned up when.
//!
//! ```ignore
//! #[test]
//! fn a_value_is_seen_by_the_daemon() {
//!     if testbed::skip() {
//!         return;
//!     }
//!     let cluster = testbed::Cluster::builder().nodes(3).start();
//!     cluster.node(1).run(|| { /* a client here talks to the corosync of node 1 */ });
//!     cluster.partition(&[&[1, 2], &[3]]);
//!     cluster.wait_members(&[1, 2], 2);
//! }
//! ```
//!
//! Environment variables:
//! - `COROSYNC_IPC_REQUIRE_DAEMON=1`: tests that cannot run fail instead of being skipped.
//! - `COROSYNC_IPC_TEST_DAEMON`: another daemon than the installed one; its tools lie next to it.
//! - `COROSYNC_IPC_EXCHANGE_SOCKETS=1`: real daemons have sockets in a directory, and embedded ones
//!   that serve a single body have abstract sockets. By default it is the other way round.

mod cc;
mod clients;
mod cluster;
mod command;
mod config;
mod daemon;
mod diagnosis;
mod headers;
#[cfg(feature = "server")]
pub mod host;
pub mod interop;
mod membership;
mod namespaces;
mod node;
mod patience;
mod pipe;
mod poll;
pub mod raw;
#[cfg(feature = "server")]
mod scripted;
mod state;

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use corosync_ipc::Endpoint;
#[cfg(feature = "server")]
use corosync_ipc::libqb::server::Generation;
use tempfile::TempDir;

use self::namespaces::{Mounts, Namespaces};
use self::poll::say;
use self::state::State;

pub use self::cc::cc;
pub use self::clients::{
    Random, becomes_readable, cs, invalid, is_fd_readable, is_fd_readable_within, is_readable,
    next, next_or_error, next_that, rings, spawn_until_asleep, waiting,
};
pub use self::cluster::{Builder, Cluster};
pub use self::command::{NodeCommand, Output, Process};
pub use self::config::{IpcType, Transport};
pub use self::daemon::Version;
pub use self::diagnosis::diagnosis;
pub use self::headers::declared_functions;
#[cfg(feature = "server")]
pub use self::host::{
    Host, HostKind, HostPaused, NodePaused, Nodes, Setup, at_endpoint, ignored_test_at, since,
};
pub use self::membership::Membership;
pub use self::node::{FullShm, Node, Paused, address};
pub use self::patience::{Patience, WATCHDOG, patiently, patiently_for};
pub use self::pipe::{fill, full_pipe};
pub use self::poll::{Condition, eventually, watchdog};
#[cfg(feature = "server")]
pub use self::scripted::Scripted;

/// Every generation of libqb that the embedded daemon speaks.
#[cfg(feature = "server")]
pub const GENERATIONS: [Generation; 5] = [
    Generation::Libqb010,
    Generation::Libqb013,
    Generation::Libqb014,
    Generation::Libqb015,
    Generation::Libqb104,
];

/// Whether clusters cannot be started here; prints why.
///
/// # Panics
/// Instead of returning true when `COROSYNC_IPC_REQUIRE_DAEMON=1`.
#[must_use]
#[track_caller]
pub fn skip() -> bool {
    static MISSING: OnceLock<Option<String>> = OnceLock::new();
    match MISSING.get_or_init(what_is_missing) {
        Some(reason) => {
            skip_because(reason);
            true
        }
        None => {
            version();
            false
        }
    }
}

/// Whether there is no daemon of the version that the embedded one follows; prints why.
///
/// # Panics
/// As [`skip`], unless another daemon was asked for.
#[must_use]
#[track_caller]
pub fn nothing_to_compare() -> bool {
    if skip() {
        return true;
    }
    let is_other = version()[..3] != [3, 1, 7];
    if is_other && env::var_os("COROSYNC_IPC_TEST_DAEMON").is_none() {
        skip_because("corosync is not 3.1.7, which the embedded one follows");
    }
    is_other
}

/// Whether a program is not installed; prints which.
///
/// # Panics
/// As [`skip`].
#[must_use]
#[track_caller]
pub fn lacks(program: &str) -> bool {
    let is_missing = find_program(program).is_none();
    if is_missing {
        skip_because(&format!("no {program}"));
    }
    is_missing
}

/// One node with the default settings, shared by the tests of this binary. It lives until the end
/// of the process, so tests that use it leave its daemon and its network alone.
#[track_caller]
pub fn shared_one() -> &'static Cluster {
    shared_with(IpcType::Shm)
}

/// As [`shared_one`], with messages that travel so.
#[track_caller]
pub fn shared_with(ipc_type: IpcType) -> &'static Cluster {
    // Never dropped: the cleaner of `state` ends them after the process.
    static SHARED: [OnceLock<Cluster>; 2] = [OnceLock::new(), OnceLock::new()];
    SHARED[ipc_type as usize].get_or_init(|| Cluster::builder().ipc_type(ipc_type.name()).start())
}

/// Whether real daemons have sockets in a directory, and embedded ones abstract sockets.
pub(crate) fn exchanges_sockets() -> bool {
    env::var_os("COROSYNC_IPC_EXCHANGE_SOCKETS").is_some_and(|value| value == "1")
}

/// A private directory for rings and sockets.
pub fn shm_folder() -> TempDir {
    let builder = tempfile::Builder::new().prefix("corosync-ipc-test-").tempdir_in("/dev/shm");
    builder.expect("cannot create a directory in /dev/shm")
}

/// A directory outside of /dev/shm that every user and every node sees. It is removed even if this
/// process is killed.
pub fn folder() -> TempDir {
    let builder = tempfile::Builder::new()
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(&State::get().folder);
    builder.expect("cannot create a directory")
}

/// An endpoint with sockets and rings in a private directory.
pub fn private_endpoint() -> (Endpoint, TempDir) {
    let folder = shm_folder();
    (Endpoint::new().socket_dir(folder.path()).shm_root(folder.path()), folder)
}

/// How long a test goes on that could go on for ever: `COROSYNC_IPC_TEST_SECONDS`, by default 2.
pub fn test_seconds() -> u64 {
    env::var("COROSYNC_IPC_TEST_SECONDS")
        .map_or(2, |seconds| seconds.parse().expect("a number of seconds"))
}

/// The version of the corosync that clusters run by default; a very high one if it cannot be told.
///
/// Known since [`skip`] was asked, outside of every node: corosync 1.99 that is asked inside one
/// for its version ends the corosync that runs there, by making its black box anew.
pub fn version() -> Version {
    daemon::Daemon::find().map_or([u32::MAX, 0, 0, 0], |daemon| daemon.dialect().version())
}

/// Copies a program to a place where every user and every node can run it. The same program is
/// copied once in a test process.
pub fn copy_for_all(program: &Path) -> PathBuf {
    // Held while copying, so that nobody runs a program which is not complete.
    static COPIES: Mutex<Vec<(PathBuf, PathBuf)>> = Mutex::new(Vec::new());
    let mut copies = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, copy)) = copies.iter().find(|(original, _)| original == program) {
        return copy.clone();
    }
    let state = State::get();
    let copy = state.folder.join(format!("program-{}", state.unique()));
    // Not by this process: a child another thread is just starting would inherit the descriptor,
    // and a file open for writing cannot be run.
    let copied = Command::new("cp").arg("--").args([program, &copy]).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {program:?}");
    fs::set_permissions(&copy, Permissions::from_mode(0o755))
        .expect("cannot make a program executable");
    copies.push((program.to_owned(), copy.clone()));
    copy
}

/// Prints why a test is skipped.
///
/// # Panics
/// Instead when `COROSYNC_IPC_REQUIRE_DAEMON=1`.
#[track_caller]
pub fn skip_because(reason: &str) {
    let required = env::var_os("COROSYNC_IPC_REQUIRE_DAEMON").is_some_and(|value| value == "1");
    assert!(!required, "COROSYNC_IPC_REQUIRE_DAEMON=1, but {reason}");
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    say(&format!("{test}: skipped: {reason}"));
}

fn what_is_missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    if daemon::Daemon::find().is_none() {
        return Some("no corosync".to_owned());
    }
    for program in ["ip", "corosync-quorumtool"] {
        if find_program(program).is_none() {
            return Some(format!("no {program}"));
        }
    }
    let mounts =
        Mounts { shm_size: "1m".to_owned(), filesystem_sockets: false, private: Vec::new() };
    match Namespaces::node("probe", &mounts) {
        Ok(probe) => {
            let lines = "link add br0 type bridge\nlink add p0 type veth peer name p1\n";
            probe.try_ip(lines).err().map(|error| format!("no bridge or veth interfaces: {error}"))
        }
        Err(error) => Some(format!("cannot create namespaces: {error}")),
    }
}

/// Finds a program in `PATH` and in the folders of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}
