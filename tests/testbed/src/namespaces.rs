//! Namespaces that file descriptors keep alive, and threads inside them.
//!
//! Nothing is named and nothing is bind-mounted: when the descriptors are closed and the last
//! process inside has ended, the kernel removes the namespaces, whatever happened to the test
//! process.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::patience::patiently_for;
use super::poll::say;
use super::state::{OWNER_VARIABLE, State};

/// A closure inside a node that takes longer hangs. Nothing can end its thread, and it may borrow
/// from the caller, so the process is aborted.
const CLOSURE_LIMIT: Duration = Duration::from_secs(300);

/// The mounts of a node.
pub(super) struct Mounts {
    /// The tmpfs `size` option of /dev/shm.
    pub(super) shm_size: String,
    /// Creates /etc/libqb/force-filesystem-sockets.
    pub(super) filesystem_sockets: bool,
    /// Folders that are private if they exist.
    pub(super) private: Vec<PathBuf>,
}

/// A network namespace and, for a node, a mount and a uts namespace.
pub(super) struct Namespaces {
    name: String,
    network: File,
    mount_and_uts: Option<(File, File)>,
}

impl Namespaces {
    /// Creates a network namespace only.
    pub(super) fn network(name: &str) -> io::Result<Namespaces> {
        Self::create(name, CloneFlags::CLONE_NEWNET, || Ok(None))
    }

    /// Creates the namespaces of a node: private /dev/shm, /run and state of the daemon.
    pub(super) fn node(name: &str, mounts: &Mounts) -> io::Result<Namespaces> {
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
        Self::create(name, flags, || {
            fs::write("/proc/sys/kernel/hostname", name)?;
            mount_all(mounts)?;
            Ok(Some((own_namespace("mnt")?, own_namespace("uts")?)))
        })
    }

    fn create(
        name: &str,
        flags: CloneFlags,
        set_up: impl FnOnce() -> io::Result<Option<(File, File)>> + Send,
    ) -> io::Result<Namespaces> {
        // The namespaces of a thread are its own; this one ends, the descriptors stay.
        let created = thread::scope(|scope| {
            scope
                .spawn(|| {
                    unshare(flags)?;
                    let mount_and_uts = set_up()?;
                    Ok(Namespaces {
                        name: name.to_owned(),
                        network: own_namespace("net")?,
                        mount_and_uts,
                    })
                })
                .join()
        });
        created.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A path by which other processes of this machine reach the network namespace.
    pub(super) fn network_path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.network.as_raw_fd())
    }

    /// Inode number of the network namespace.
    pub(super) fn network_inode(&self) -> u64 {
        self.network.metadata().expect("cannot stat a namespace").ino()
    }

    /// Runs a closure on a fresh thread inside the namespaces and returns its value.
    pub(super) fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let (alive, ended) = channel::<()>();
        thread::scope(|scope| {
            let inside = thread::Builder::new().name(self.name.clone()).spawn_scoped(scope, || {
                let _alive = alive;
                self.enter();
                body()
            });
            let inside = inside.expect("cannot start a thread");
            let end = |limit| {
                Some(ended.recv_timeout(limit)).filter(|end| *end != Err(RecvTimeoutError::Timeout))
            };
            if patiently_for(CLOSURE_LIMIT, end).is_none() {
                let test = thread::current().name().unwrap_or("?").to_owned();
                say(&format!("{test}: a closure inside {} hangs; aborting", self.name));
                process::abort();
            }
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts a thread inside the namespaces.
    pub(super) fn spawn_thread<T: Send + 'static>(
        self: &Arc<Self>,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let spaces = Arc::clone(self);
        let thread = thread::Builder::new().name(self.name.clone()).spawn(move || {
            spaces.enter();
            drop(spaces);
            body()
        });
        thread.expect("cannot start a thread")
    }

    /// Starts a process inside the namespaces, in a process group of its own and with the mark of
    /// this test process.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        mark(command);
        self.run(|| command.spawn())
    }

    /// Runs `ip -batch` inside the namespaces; all lines must succeed.
    pub(super) fn ip(&self, lines: &str) {
        if let Err(message) = self.try_ip(lines) {
            panic!("ip in {}: {message}\n{lines}", self.name);
        }
    }

    /// Runs `ip -batch` inside the namespaces; the error is what it says.
    pub(super) fn try_ip(&self, lines: &str) -> Result<(), String> {
        let mut command = Command::new(super::find_program("ip").ok_or("no ip program")?);
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = self.spawn(&mut command).map_err(|error| error.to_string())?;
        // Less than a pipe holds, so this never blocks; a failure shows in what ip says.
        let _ = io::Write::write_all(
            &mut child.stdin.take().expect("stdin is piped"),
            lines.as_bytes(),
        );
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let message = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(message.into_owned()) }
    }

    /// Moves the calling thread. It stays there: only threads that end afterwards may call this.
    fn enter(&self) {
        let folder = env::current_dir();
        let moved = || -> nix::Result<()> {
            setns(&self.network, CloneFlags::CLONE_NEWNET)?;
            if let Some((mount, uts)) = &self.mount_and_uts {
                // A mount namespace is only entered by who shares root and current folder with
                // nobody.
                unshare(CloneFlags::CLONE_FS)?;
                setns(mount, CloneFlags::CLONE_NEWNS)?;
                setns(uts, CloneFlags::CLONE_NEWUTS)?;
            }
            Ok(())
        };
        moved().unwrap_or_else(|e| panic!("cannot enter {}: {e}", self.name));
        // setns(2) goes to the root folder; relative paths of the test go on to work.
        if let Ok(folder) = folder {
            let _ = env::set_current_dir(folder);
        }
    }
}

/// Gives a process to be started a process group of its own and the mark of this test process.
pub(super) fn mark(command: &mut Command) {
    command.env(OWNER_VARIABLE, State::get().owner_value()).process_group(0);
}

/// Kills every process inside.
pub(super) fn kill_all(spaces: &[&Namespaces]) -> bool {
    let networks: HashSet<u64> = spaces.iter().map(|spaces| spaces.network_inode()).collect();
    super::state::kill_all_in(&networks)
}

fn own_namespace(kind: &str) -> io::Result<File> {
    File::open(format!("/proc/thread-self/ns/{kind}"))
}

fn mount_all(mounts: &Mounts) -> io::Result<()> {
    // Mounts made here stay here; those the machine removes are removed here too.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    tmpfs("/dev/shm", &format!("mode=1777,size={}", mounts.shm_size))?;
    tmpfs("/run", "mode=755")?;
    for folder in ["/run/lock", "/run/corosync"] {
        fs::create_dir(folder)?;
    }
    let installed = ["/var/lib/corosync", "/var/log/corosync"].map(PathBuf::from);
    for folder in installed.iter().chain(&mounts.private) {
        if folder.is_dir() {
            tmpfs(folder, "mode=755")?;
        }
    }
    if mounts.filesystem_sockets {
        force_filesystem_sockets()?;
    }
    Ok(())
}

fn tmpfs(folder: impl AsRef<Path>, options: &str) -> io::Result<()> {
    Ok(mount(Some("tmpfs"), folder.as_ref(), Some("tmpfs"), MsFlags::empty(), Some(options))?)
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    Ok(mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Creates libqb's file, and keeps the sockets of the nodes apart: Debian's libqb has them in /tmp.
fn force_filesystem_sockets() -> io::Result<()> {
    // /etc/libqb need not exist, and nothing is to be created in the real /etc.
    shadow("etc", &["libqb"], |private| {
        fs::create_dir(private.join("libqb"))?;
        File::create(private.join("libqb/force-filesystem-sockets")).map(drop)
    })?;
    shadow("tmp", &["cfg", "cmap", "cpg", "evs", "quorum", "votequorum"], |private| {
        fs::set_permissions(private, Permissions::from_mode(0o1777))
    })
}

/// Replaces a folder by a private one with links to the entries of the real one, but for these.
fn shadow(
    folder: &str,
    without: &[&str],
    fill: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let shown = Path::new("/").join(folder);
    let (real, private) =
        (Path::new("/run").join(format!("{folder}.real")), Path::new("/run").join(folder));
    fs::create_dir(&real)?;
    fs::create_dir(&private)?;
    bind(&shown, &real)?;
    for entry in fs::read_dir(&real)? {
        let name = entry?.file_name();
        if !without.iter().any(|hidden| name == *hidden) {
            symlink(real.join(&name), private.join(&name))?;
        }
    }
    fill(&private)?;
    bind(&private, &shown)
}
