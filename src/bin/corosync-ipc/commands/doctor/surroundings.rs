//! What this process sees of the machine that matters for reaching a daemon.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use corosync_ipc::{ENV_SERVER_UID, ENV_SHM_ROOT, ENV_SOCKET_DIR, ENV_TIMEOUT, Endpoint};
use nix::sys::statvfs::statvfs;
use nix::unistd::{getegid, geteuid};
use serde_json::{Map, Value as Json, json};

use crate::output::printable;

/// Where the system lists Unix sockets.
const SOCKETS: &str = "/proc/net/unix";

/// Where libqb may have been built to keep filesystem sockets.
const SOCKET_DIRECTORIES: [&str; 2] = ["/run", "/tmp"];

/// What is seen from here.
#[derive(Debug)]
pub(crate) struct Surroundings {
    uid: u32,
    gid: u32,
    environment: Vec<(&'static str, String)>,
    address: String,
    shm_root: PathBuf,
    shm: Result<Shm, String>,
    pub(crate) daemons: Vec<Daemon>,
    pub(crate) sockets: Sockets,
    /// What could not be looked at, by the JSON member that lacks it.
    unseen: Vec<(&'static str, String)>,
}

/// The file system of the rings, in bytes.
#[derive(Clone, Copy, Debug)]
struct Shm {
    size: u64,
    free: u64,
}

/// Sockets of cmap in this network namespace and in the usual directories.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) is_abstract: bool,
    pub(crate) files: Vec<PathBuf>,
}

/// A process that goes by the name corosync.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) pid: u32,
    /// `None`: not allowed to know.
    pub(crate) same_network: Option<bool>,
    pub(crate) is_stopped: bool,
}

impl Surroundings {
    pub(crate) fn look(endpoint: &Endpoint) -> Self {
        let shm_root = endpoint.shm_root_path().to_path_buf();
        let names = [ENV_SOCKET_DIR, ENV_SHM_ROOT, ENV_TIMEOUT, ENV_SERVER_UID];
        let value = |name| Some((name, env::var_os(name)?.to_string_lossy().into_owned()));
        let mut unseen = Vec::new();
        let daemons = daemons().unwrap_or_else(|error| {
            unseen.push(("processes", format!("/proc: {error}")));
            Vec::new()
        });
        let listed = fs::read_to_string(SOCKETS).unwrap_or_else(|error| {
            unseen.push(("sockets_seen", format!("{SOCKETS}: {error}")));
            String::new()
        });
        Self {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
            environment: names.into_iter().filter_map(value).collect(),
            address: endpoint.socket_address("cmap"),
            shm: Shm::look(&shm_root),
            shm_root,
            daemons,
            sockets: Sockets::look(&listed),
            unseen,
        }
    }

    pub(crate) fn text(&self) -> String {
        let environment: Vec<_> = self.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let environment = if environment.is_empty() { "nothing set".to_owned() } else { environment.join(" ") };
        let shm = match &self.shm {
            Ok(Shm { size, free }) => format!("{} KiB, {} KiB free", size >> 10, free >> 10),
            Err(error) => error.clone(),
        };
        let mut lines = vec![
            ("User", format!("uid {}, gid {}", self.uid, self.gid)),
            ("Environment", environment),
            ("Sockets", format!("cmap is looked for at {}", self.address)),
            ("Shared memory", format!("{}: {shm}", self.shm_root.display())),
        ];
        for (_, error) in &self.unseen {
            lines.push(("Not seen", format!("failed: {error}")));
        }
        if self.daemons.is_empty() && !self.unseen.iter().any(|(part, _)| *part == "processes") {
            lines.push(("Processes", "no corosync in this process namespace".to_owned()));
        }
        for daemon in &self.daemons {
            let network = match daemon.same_network {
                Some(true) => "in this network namespace",
                Some(false) => "in another network namespace",
                None => "in a network namespace that cannot be told",
            };
            let stopped = if daemon.is_stopped { ", stopped" } else { "" };
            lines.push(("Processes", format!("corosync {} {network}{stopped}", daemon.pid)));
        }
        lines.iter().map(|(name, value)| format!("{:<15}{}\n", format!("{name}:"), printable(value))).collect()
    }

    pub(crate) fn json(&self) -> Json {
        let environment: Map<String, Json> =
            self.environment.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
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
            "environment": environment,
            "cmap_address": self.address,
            "sockets_seen": {
                "abstract": self.sockets.is_abstract,
                "files": self.sockets.files.iter().map(|file| json!(file.to_string_lossy())).collect::<Json>(),
            },
            "shared_memory": {
                "root": self.shm_root.to_string_lossy(),
                "size": self.shm.as_ref().ok().map(|shm| shm.size),
                "free": self.shm.as_ref().ok().map(|shm| shm.free),
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
        Ok(Self { size: bytes(found.blocks()), free: bytes(found.blocks_available()) })
    }
}

impl Sockets {
    /// `listed`: all Unix sockets.
    fn look(listed: &str) -> Self {
        let files = SOCKET_DIRECTORIES.map(|directory| Path::new(directory).join("cmap"));
        let is_socket = |file: &PathBuf| file.symlink_metadata().is_ok_and(|file| file.file_type().is_socket());
        Self {
            // NULs in the padded address are printed as @.
            is_abstract: listed.lines().any(|line| line.split(' ').next_back().is_some_and(is_abstract_cmap)),
            files: files.into_iter().filter(is_socket).collect(),
        }
    }
}

fn is_abstract_cmap(name: &str) -> bool {
    name.strip_prefix("@cmap").is_some_and(|rest| rest.bytes().all(|byte| byte == b'@'))
}

fn daemons() -> io::Result<Vec<Daemon>> {
    let network = fs::read_link("/proc/self/ns/net").ok();
    let mut daemons: Vec<Daemon> = fs::read_dir("/proc")?
        .flatten()
        .filter_map(|process| {
            let pid = process.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(process.path().join("stat")).ok()?;
            // The name is in parentheses and may hold anything; the state stands behind it.
            let (head, rest) = stat.rsplit_once(") ")?;
            head.ends_with("(corosync").then(|| Daemon {
                pid,
                same_network: fs::read_link(process.path().join("ns/net")).ok().map(|its| Some(its) == network),
                is_stopped: rest.starts_with(['T', 't']),
            })
        })
        .collect();
    daemons.sort_unstable_by_key(|daemon| daemon.pid);
    Ok(daemons)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_abstract_socket_is_known_by_its_whole_name() {
        assert!(is_abstract_cmap("@cmap@@@@") && is_abstract_cmap("@cmap"));
        assert!(!is_abstract_cmap("@cmapx@@") && !is_abstract_cmap("/run/cmap") && !is_abstract_cmap("cmap"));
    }
}
