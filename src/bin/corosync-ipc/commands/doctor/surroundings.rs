//! What this process sees of the machine, as far as a daemon's reachability depends on it.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use corosync_ipc::{
    ENV_SERVER_UID, ENV_SHM_ROOT, ENV_SOCKET_DIR, ENV_TIMEOUT, Endpoint, SocketAddress,
};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{getegid, geteuid};
use serde_json::{Map, Value as Json, json};

use crate::output::{Cell, Field, words};

/// A part that may be invisible.
const PROCESSES: &str = "processes";

/// Where the system lists Unix sockets.
const SOCKETS: &str = "/proc/net/unix";

/// Where libqb may have been built to keep filesystem sockets.
const SOCKET_DIRECTORIES: [&str; 2] = ["/run", "/tmp"];

/// The machine as seen from this process.
#[derive(Debug)]
pub(crate) struct Surroundings {
    uid: u32,
    gid: u32,
    /// The ids outside of this user namespace, if they differ.
    pub(crate) outside: Option<(u32, u32)>,
    environment: Vec<(&'static str, String)>,
    pub(crate) address: SocketAddress,
    pub(crate) shm_root: PathBuf,
    shm: Result<Shm, String>,
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) sockets: Sockets,
    /// The parts that could not be read, by their JSON member, with the error.
    unseen: Vec<(&'static str, String)>,
}

/// The file system of the rings, in bytes.
#[derive(Clone, Copy, Debug)]
struct Shm {
    size: u64,
    free: u64,
    is_read_only: bool,
}

/// Sockets of cmap in this network namespace and in the usual directories.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) is_abstract: bool,
    pub(crate) files: Vec<PathBuf>,
}

/// A process with the name corosync.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) pid: u32,
    /// `None` if this user may not know.
    pub(crate) same_network: Option<bool>,
    pub(crate) is_stopped: bool,
    /// The directory in which it sees a socket of cmap that is not here. `None` as well if this
    /// user may not know.
    pub(crate) hidden_directory: Option<&'static str>,
}

impl Surroundings {
    pub(crate) fn look(endpoint: &Endpoint) -> Self {
        let shm_root = endpoint.shm_root_path().to_path_buf();
        let names = [ENV_SOCKET_DIR, ENV_SHM_ROOT, ENV_TIMEOUT, ENV_SERVER_UID];
        let value = |name| Some((name, env::var_os(name)?.to_string_lossy().into_owned()));
        let mut unseen = Vec::new();
        let daemons = daemons().unwrap_or_else(|error| {
            unseen.push((PROCESSES, format!("/proc: {error}")));
            Vec::new()
        });
        let listed = fs::read_to_string(SOCKETS).unwrap_or_else(|error| {
            unseen.push(("sockets_seen", format!("{SOCKETS}: {error}")));
            String::new()
        });
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let outside = (outside(UID_MAP, uid).unwrap_or(uid), outside(GID_MAP, gid).unwrap_or(gid));
        Self {
            uid,
            gid,
            outside: Some(outside).filter(|outside| *outside != (uid, gid)),
            environment: names.into_iter().filter_map(value).collect(),
            address: endpoint.socket_address("cmap"),
            shm: Shm::look(&shm_root),
            shm_root,
            daemons,
            sockets: Sockets::look(&listed),
            unseen,
        }
    }

    /// Whether processes are visible, so that an empty list of daemons means that none runs.
    pub(crate) fn sees_processes(&self) -> bool {
        !self.unseen.iter().any(|(part, _)| *part == PROCESSES)
    }

    /// The mount point of a ring's file, or else its path.
    pub(crate) fn mount_of<'a>(&'a self, path: &'a Path) -> std::path::Display<'a> {
        if path.starts_with(&self.shm_root) { self.shm_root.display() } else { path.display() }
    }

    pub(crate) fn fields(&self) -> Vec<Field> {
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let environment =
            if environment.is_empty() { "nothing set".to_owned() } else { environment.join(" ") };
        let shm = match &self.shm {
            Ok(Shm { size, free, is_read_only }) => {
                let mode = if *is_read_only { ", read-only" } else { "" };
                format!("{} KiB, {} KiB free{mode}", size >> 10, free >> 10)
            }
            Err(error) => error.clone(),
        };
        let outside = self
            .outside
            .map(|(uid, gid)| format!("; outside of this user namespace {uid} and {gid}"));
        let user = format!("uid {}, gid {}{}", self.uid, self.gid, outside.unwrap_or_default());
        let mut lines: Vec<Field> = vec![
            ("User", user.into()),
            ("Environment", environment.into()),
            ("Sockets", format!("cmap is looked for at {}", self.address).into()),
            ("Shared memory", format!("{}: {shm}", self.shm_root.display()).into()),
        ];
        for (_, error) in &self.unseen {
            lines.push(("Not seen", Cell::wrong(format!("failed: {error}"))));
        }
        if self.sees_processes() {
            lines.push(("Processes", processes_text(&self.daemons).into()));
        }
        lines
    }

    pub(crate) fn json(&self) -> Json {
        let environment: Map<String, Json> = self
            .environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let daemon = |daemon: &Daemon| {
            json!({
                "pid": daemon.pid,
                "same_network_namespace": daemon.same_network,
                "stopped": daemon.is_stopped,
            })
        };
        json!({
            "uid": self.uid,
            "gid": self.gid,
            "outside_uid": self.outside.map(|(uid, _)| uid),
            "outside_gid": self.outside.map(|(_, gid)| gid),
            "environment": environment,
            "cmap_address": self.address.to_string(),
            "sockets_seen": {
                "abstract": self.sockets.is_abstract,
                "files": self.sockets.files.iter().map(|file| json!(file.to_string_lossy())).collect::<Json>(),
            },
            "shared_memory": {
                "root": self.shm_root.to_string_lossy(),
                "size": self.shm.as_ref().ok().map(|shm| shm.size),
                "free": self.shm.as_ref().ok().map(|shm| shm.free),
                "read_only": self.shm.as_ref().ok().map(|shm| shm.is_read_only),
                "error": self.shm.as_ref().err(),
            },
            "processes": self.daemons.iter().map(daemon).collect::<Json>(),
            "errors": Map::from_iter(self.unseen.iter().map(|(part, error)| {
                ((*part).to_owned(), json!({ "error": error, "cs_error": null }))
            })),
        })
    }
}

impl Shm {
    fn look(root: &Path) -> Result<Self, String> {
        let found = statvfs(root).map_err(|error| error.desc().to_owned())?;
        // The types differ between platforms.
        #[allow(clippy::useless_conversion)]
        let bytes = |blocks| u64::from(blocks).saturating_mul(u64::from(found.fragment_size()));
        let is_read_only = found.flags().contains(FsFlags::ST_RDONLY);
        Ok(Self {
            size: bytes(found.blocks()),
            free: bytes(found.blocks_available()),
            is_read_only,
        })
    }
}

impl Sockets {
    /// `listed`: all Unix sockets.
    fn look(listed: &str) -> Self {
        let files = SOCKET_DIRECTORIES.map(|directory| Path::new(directory).join("cmap"));
        Self {
            // NULs in the padded address are printed as @.
            is_abstract: listed
                .lines()
                .any(|line| line.split(' ').next_back().is_some_and(is_abstract_cmap)),
            files: files.into_iter().filter(|file| is_socket(file)).collect(),
        }
    }
}

/// Counts the daemons and names those that matter.
fn processes_text(daemons: &[Daemon]) -> String {
    /// More are left out.
    const MOST_NAMED: usize = 8;
    if daemons.is_empty() {
        return "no corosync in this process namespace".to_owned();
    }
    let count = |of: &str, is: &dyn Fn(&Daemon) -> bool| {
        let pids: Vec<u32> =
            daemons.iter().filter(|daemon| is(daemon)).map(|daemon| daemon.pid).collect();
        let more = if pids.len() > MOST_NAMED { " ..." } else { "" };
        let named = words(pids.iter().take(MOST_NAMED));
        (!pids.is_empty()).then(|| format!("{} {of} ({named}{more})", pids.len()))
    };
    let parts = [
        count("in this network namespace", &|daemon| daemon.same_network == Some(true)),
        count("in others", &|daemon| daemon.same_network == Some(false)),
        count("in unknown network namespaces", &|daemon| daemon.same_network.is_none()),
        count("stopped", &|daemon| daemon.is_stopped),
    ];
    format!(
        "{} corosync: {}",
        daemons.len(),
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    )
}

/// The maps of this user namespace's ids to the ids outside of it.
const UID_MAP: &str = "/proc/self/uid_map";
const GID_MAP: &str = "/proc/self/gid_map";

fn outside(map: &str, id: u32) -> Option<u32> {
    mapped(&fs::read_to_string(map).ok()?, id)
}

/// Lines of three numbers: the first id here, the first id there, and how many.
fn mapped(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_whitespace().map_while(|number| number.parse::<u32>().ok());
        let (here, there, count) = (numbers.next()?, numbers.next()?, numbers.next()?);
        let distance = id.checked_sub(here).filter(|distance| *distance < count)?;
        there.checked_add(distance)
    })
}

fn is_abstract_cmap(name: &str) -> bool {
    name.strip_prefix("@cmap").is_some_and(|rest| rest.bytes().all(|byte| byte == b'@'))
}

fn daemons() -> io::Result<Vec<Daemon>> {
    let network = fs::read_link("/proc/self/ns/net").ok();
    // An empty directory shows no processes either.
    fs::metadata("/proc/self/stat")?;
    let mut daemons: Vec<Daemon> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The name is in parentheses and may hold anything; the state stands behind it.
            let (head, rest) = stat.rsplit_once(") ")?;
            head.ends_with("(corosync").then(|| Daemon {
                pid,
                same_network: fs::read_link(process.path().join("ns/net"))
                    .ok()
                    .map(|its| Some(its) == network),
                is_stopped: rest.starts_with(['T', 't']),
                hidden_directory: hidden_directory(&process.path().join("root")),
            })
        })
        .collect();
    daemons.sort_unstable_by_key(|daemon| daemon.pid);
    Ok(daemons)
}

/// The directory below another process's root that has a socket of cmap.
fn hidden_directory(root: &Path) -> Option<&'static str> {
    let has_socket = |directory: &&str| is_socket(&root.join(&directory[1..]).join("cmap"));
    SOCKET_DIRECTORIES.into_iter().find(has_socket)
}

fn is_socket(file: &Path) -> bool {
    file.symlink_metadata().is_ok_and(|file| file.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_full_of_daemons_takes_one_line() {
        let daemon = |pid, same_network| Daemon {
            pid,
            same_network,
            is_stopped: pid == 5,
            hidden_directory: None,
        };
        let mut daemons: Vec<_> = (2..25).map(|pid| daemon(pid, Some(false))).collect();
        assert_eq!(processes_text(&[]), "no corosync in this process namespace");
        assert_eq!(
            processes_text(&daemons),
            "23 corosync: 23 in others (2 3 4 5 6 7 8 9 ...), 1 stopped (5)"
        );
        daemons.truncate(1);
        daemons.extend([daemon(70, Some(true)), daemon(71, None)]);
        assert_eq!(
            processes_text(&daemons),
            "3 corosync: 1 in this network namespace (70), 1 in others (2), 1 in unknown network namespaces (71)"
        );
    }

    #[test]
    fn a_user_is_found_in_the_map_of_a_namespace() {
        assert_eq!(mapped("         0          0 4294967295\n", 1000), Some(1000));
        let map = "0 1000 1\n1 100000 65536\n";
        assert_eq!(
            [0, 1, 65536, 65537].map(|id| mapped(map, id)),
            [Some(1000), Some(100_000), Some(165_535), None]
        );
        assert_eq!([mapped("", 0), mapped("x", 0), mapped("0 4294967295 2", 1)], [None; 3]);
    }

    #[test]
    fn an_abstract_socket_is_known_by_its_whole_name() {
        assert!(is_abstract_cmap("@cmap@@@@") && is_abstract_cmap("@cmap"));
        assert!(
            !is_abstract_cmap("@cmapx@@")
                && !is_abstract_cmap("/run/cmap")
                && !is_abstract_cmap("cmap")
        );
    }
}
