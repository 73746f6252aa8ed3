//! The state of a test process: its folder, its mark, and the process that cleans up after it.
//!
//! File descriptors hold the namespaces, which vanish with the last process inside them. So only
//! processes and files can be left behind. Every process that the testbed starts carries an
//! environment variable that names its owner, and every file lies in a folder that names it:
//! - a cluster that is dropped kills what runs in its namespaces;
//! - a small shell process waits on a pipe for the end of the test process, however it ends, and
//!   then kills what carries the mark and removes the folder;
//! - the next test process does the same for owners that no longer exist, should that shell process
//!   have been killed too.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::patience::clock;
use super::poll::poll;

/// The environment variable that every process started by the harness carries.
pub(super) const OWNER_VARIABLE: &str = "COROSYNC_IPC_TEST_OWNER";

const FOLDER_PREFIX: &str = "corosync-ipc-test.";

/// Folders a node covers with its own tmpfs: files there would be invisible inside it.
const HIDDEN_IN_NODES: [&str; 4] = ["/run", "/var/run", "/dev/shm", "/var/lib/corosync"];

/// `$1` is the mark, `$2` the folder. `read` returns when the last write end of the pipe is closed,
/// which only the test process holds.
const CLEAN_UP: &str = r#"
while read -r _; do :; done
for round in 1 2 3 4 5 6 7 8 9 10; do
    found=$(grep -lsF "$1" /proc/[0-9]*/environ)
    [ -n "$found" ] || break
    for file in $found; do
        pid=${file%/environ}
        kill -KILL "${pid#/proc/}"
    done
    sleep 0.1
done
rm -rf "$2"
"#;

/// The state of this test process.
pub(super) struct State {
    /// Holds configurations, logs and compiled programs; readable by every user.
    pub(super) folder: PathBuf,
    owner: Owner,
    next_name: AtomicU32,
    // Keeps the write end of its standard input open for as long as this process lives.
    _cleaner: Child,
}

impl State {
    /// Returns the state, creating it (and cleaning up after dead owners) at the first call.
    pub(super) fn get() -> &'static State {
        static STATE: OnceLock<State> = OnceLock::new();
        STATE.get_or_init(State::new)
    }

    fn new() -> State {
        // The clock's thread is started outside of every node, whose namespaces it would keep.
        let _ = clock();
        let owner = Owner::current();
        clean_up_after_the_dead(&owner);
        let folder = parent_folder().join(format!("{FOLDER_PREFIX}{}", owner.text()));
        // Fails if something is there already: a predictable name must not be followed.
        fs::create_dir(&folder).unwrap_or_else(|e| panic!("cannot create {folder:?}: {e}"));
        let cleaner = Command::new("/bin/sh")
            .args(["-c", CLEAN_UP, "corosync-ipc-test-cleaner"])
            .arg(owner.mark())
            .arg(&folder)
            .env_remove(OWNER_VARIABLE)
            .current_dir("/")
            .process_group(0) // not reached by an interrupt from the terminal
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot start /bin/sh");
        State { folder, owner, next_name: AtomicU32::new(0), _cleaner: cleaner }
    }

    /// Value of [`OWNER_VARIABLE`].
    pub(super) fn owner_value(&self) -> String {
        self.owner.value()
    }

    /// Returns a number that no other caller in this process gets.
    pub(super) fn unique(&self) -> u32 {
        self.next_name.fetch_add(1, Ordering::Relaxed)
    }
}

/// A test process, told apart from another one with the same pid by its start time, and from one in
/// another container by its pid namespace.
#[derive(PartialEq)]
struct Owner {
    pid_namespace: u64,
    pid: i32,
    start_time: u64,
}

impl Owner {
    fn current() -> Owner {
        let pid = Pid::this().as_raw();
        Owner {
            pid_namespace: pid_namespace(),
            pid,
            start_time: start_time(pid).expect("cannot read /proc/self/stat"),
        }
    }

    fn parse(text: &str) -> Option<Owner> {
        let mut fields = text.trim_end_matches(';').split('.');
        let owner = Owner {
            pid_namespace: fields.next()?.parse().ok()?,
            pid: fields.next()?.parse().ok()?,
            start_time: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(owner)
    }

    fn text(&self) -> String {
        format!("{}.{}.{}", self.pid_namespace, self.pid, self.start_time)
    }

    // The end mark keeps one number from being the beginning of another.
    fn value(&self) -> String {
        format!("{};", self.text())
    }

    fn mark(&self) -> String {
        format!("{OWNER_VARIABLE}={}", self.value())
    }

    /// Whether the owner is known to have ended.
    fn is_dead(&self, current: &Owner) -> bool {
        self.pid_namespace == current.pid_namespace && start_time(self.pid) != Some(self.start_time)
    }
}

fn parent_folder() -> PathBuf {
    let folder = std::env::temp_dir();
    if HIDDEN_IN_NODES.iter().any(|hidden| folder.starts_with(hidden)) {
        return PathBuf::from("/tmp");
    }
    folder
}

fn clean_up_after_the_dead(current: &Owner) {
    for pid in pids() {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        let owner = environment.split(|&byte| byte == 0).find_map(|variable| {
            let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
            (name == OWNER_VARIABLE).then(|| Owner::parse(value))?
        });
        if owner.is_some_and(|owner| owner.is_dead(current)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    for entry in fs::read_dir(parent_folder()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix(FOLDER_PREFIX)).and_then(Owner::parse);
        if owner.is_some_and(|owner| owner.is_dead(current)) {
            // Its own cleaner may be at work at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn pid_namespace() -> u64 {
    inode(Path::new("/proc/self/ns/pid")).expect("cannot read /proc/self/ns/pid")
}

/// Start time of a process that is neither a zombie nor gone, in clock ticks since boot.
pub(super) fn start_time(pid: i32) -> Option<u64> {
    // The dot: at the usual path qemu-user shows a process a stat of its own without start time.
    let stat = fs::read_to_string(format!("/proc/./{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the state follows it, the start time is 19
    // further.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Pids of all processes.
pub(super) fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("cannot read /proc");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Pids of the other processes whose network namespace is one of these (inode numbers).
pub(super) fn pids_in(networks: &HashSet<u64>) -> Vec<i32> {
    let own = Pid::this().as_raw();
    pids()
        .filter(|&pid| pid != own)
        .filter(|pid| {
            inode(Path::new(&format!("/proc/{pid}/ns/net")))
                .is_some_and(|net| networks.contains(&net))
        })
        .collect()
}

/// Kills every other process whose network namespace is one of these, until none is left. Returns
/// whether it succeeded.
pub(super) fn kill_all_in(networks: &HashSet<u64>) -> bool {
    poll(Duration::from_secs(20), || {
        let found = pids_in(networks);
        for &pid in &found {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        found.is_empty()
    })
    .is_some()
}

/// Inode number of the namespace behind a link in /proc.
fn inode(link: &Path) -> Option<u64> {
    Some(fs::metadata(link).ok()?.ino())
}
