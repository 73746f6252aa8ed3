//! The corosync to be started, and how its version wants to be called.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::find_program;

/// A corosync, installed or built from source.
#[derive(Clone)]
pub(super) struct Daemon {
    pub(super) program: PathBuf,
    /// For the daemon and for programs next to it.
    pub(super) environment: Vec<(String, String)>,
}

/// What differs between versions; a version that cannot be told is taken for a new one.
#[derive(Clone, Copy)]
pub(super) struct Dialect {
    version: Version,
}

/// Up to four numbers of a version; those a version does not have are 0. Builds from git have a
/// fourth: commits after the release.
pub type Version = [u32; 4];

impl Daemon {
    /// `COROSYNC_IPC_TEST_DAEMON`, or the one installed.
    pub(super) fn find() -> Option<Daemon> {
        let program = match std::env::var_os("COROSYNC_IPC_TEST_DAEMON") {
            Some(path) => PathBuf::from(path),
            None => find_program("corosync")?,
        };
        program.is_file().then(|| Daemon::at(program))
    }

    /// A certain one.
    pub(super) fn at(program: PathBuf) -> Daemon {
        Daemon { program, environment: Vec::new() }
    }

    /// Asks for the version, once for each program: corosync 1.99 makes its black box in /dev/shm
    /// anew even for that, and ends the corosync that has it mapped. So this must first be
    /// called outside of every node, as creating a cluster does.
    pub(super) fn dialect(&self) -> Dialect {
        // Held while asking.
        static KNOWN: Mutex<Vec<(PathBuf, Dialect)>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, dialect)) = known.iter().find(|(program, _)| *program == self.program) {
            return *dialect;
        }
        let ask = || {
            let mut command = Command::new(&self.program);
            let output = command.arg("-v").envs(self.environment.iter().cloned()).output().ok()?;
            parse_version(&String::from_utf8_lossy(&output.stdout))
        };
        // For the same reason one that is asked can end another that is asked, by another test
        // process.
        let dialect =
            Dialect { version: (0..5).find_map(|_| ask()).unwrap_or([u32::MAX, 0, 0, 0]) };
        known.push((self.program.clone(), dialect));
        dialect
    }

    /// The command that starts it in the foreground.
    pub(super) fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("-f").envs(self.environment.iter().cloned());
        if self.dialect().version >= [3, 0, 0, 0] {
            command.arg("-c").arg(config);
        } else {
            // Without real-time scheduling, which `system { sched_rr: no }` says to later ones.
            command.arg("-p").env("COROSYNC_MAIN_CONFIG_FILE", config);
        }
        command
    }

    /// Where a corosync built with a prefix of its own keeps its state; these may not exist.
    pub(super) fn state_folders(&self) -> Vec<PathBuf> {
        let prefix = self.program.parent().and_then(Path::parent).unwrap_or(Path::new("/usr"));
        ["var/lib/corosync", "var/log/corosync", "var/run"].map(|folder| prefix.join(folder)).into()
    }
}

impl Dialect {
    /// The version itself.
    pub(super) fn version(self) -> Version {
        self.version
    }

    /// The most precise kind of time stamp in the log.
    pub(super) fn timestamp(self) -> &'static str {
        if self.version >= [3, 1, 0, 0] { "hires" } else { "on" }
    }

    /// Whether it is a 1.99: udpu needs `interface` besides the list of nodes, and only `secauth`
    /// turns off the encryption.
    pub(super) fn is_1_99(self) -> bool {
        self.version < [2, 0, 0, 0]
    }

    /// Whether the transport of the IPC is `system { qb_ipc_type }`; it was `qb { ipc_type }`.
    pub(super) fn has_ipc_type_in_system(self) -> bool {
        self.version >= [3, 0, 0, 0]
    }
}

/// `Corosync Cluster Engine, version '3.1.7'`.
fn parse_version(text: &str) -> Option<Version> {
    let numbers = text.split_once("version '")?.1.split('\'').next()?;
    let mut version = [0; 4];
    for (into, number) in version.iter_mut().zip(numbers.split(['.', '-'])) {
        *into = number.parse().ok()?;
    }
    Some(version)
}
