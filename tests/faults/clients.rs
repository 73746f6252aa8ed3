//! Clients of all services, and what they take.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{self, GroupName, Guarantee, Iteration};
use corosync_ipc::{Endpoint, Error, NodeId, Result, TrackFlags, cfg, cmap, quorum, votequorum};
use testbed::{Host, eventually, next_that};

/// No call takes so long.
pub(crate) const LONG: Duration = Duration::from_secs(100);

/// The endpoint that the environment of an ignored test names.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint::from_env().unwrap().timeout(LONG)
}

/// Connects to a service and ends the connection.
pub(crate) type Connect = fn(&Endpoint) -> Result<()>;

/// By name.
pub(crate) const SERVICES: [(&str, Connect); 5] = [
    ("cmap", |endpoint| cmap::Client::connect_to(endpoint).map(drop)),
    ("cpg", |endpoint| cpg::Client::connect_to(endpoint).map(drop)),
    ("quorum", |endpoint| quorum::Client::connect_to(endpoint).map(drop)),
    ("votequorum", |endpoint| votequorum::Client::connect_to(endpoint).map(drop)),
    ("cfg", |endpoint| cfg::Client::connect_to(endpoint).map(drop)),
];

/// A client of each service that every daemon has.
pub(crate) struct Clients {
    pub(crate) cmap: cmap::Client,
    pub(crate) cpg: cpg::Client,
    pub(crate) quorum: quorum::Client,
    pub(crate) votes: votequorum::Client,
    pub(crate) cfg: cfg::Client,
}

impl Clients {
    pub(crate) fn connect(endpoint: &Endpoint) -> Result<Self> {
        Ok(Self {
            cmap: cmap::Client::connect_to(endpoint)?,
            cpg: cpg::Client::connect_to(endpoint)?,
            quorum: quorum::Client::connect_to(endpoint)?,
            votes: votequorum::Client::connect_to(endpoint)?,
            cfg: cfg::Client::connect_to(endpoint)?,
        })
    }

    /// Makes requests of all services, gets the events of each, and multicasts. `name` tells the
    /// group from those of others.
    pub(crate) fn use_all(&self, name: &str) -> Result<()> {
        let tracker = self.cmap.track_add("faults.", TrackEvents::ALL | TrackEvents::PREFIX)?;
        self.cmap.set("faults.key", 7_u32)?;
        next_that(&self.cmap, |event| {
            matches!(event, cmap::Event::Notification(it) if it.tracker == tracker).then_some(())
        });
        self.cmap.track_delete(tracker)?;
        assert_eq!(self.cmap.get_as::<u32>("faults.key")?, Some(7));
        assert!(!self.cmap.list("totem.")?.is_empty());

        let flags = TrackFlags::CURRENT | TrackFlags::CHANGES;
        assert!(self.quorum.is_quorate()?);
        self.quorum.track_start(flags)?;
        next_that(&self.quorum, Some);
        self.quorum.track_stop()?;
        assert_eq!(self.votes.local_info()?.node_id, NodeId(1));
        self.votes.track_start(3, flags)?;
        next_that(&self.votes, Some);
        self.votes.track_stop()?;
        assert_eq!(self.cfg.local_node_id()?, NodeId(1));

        self.cpg.join(&GroupName::new(name)?)?;
        for length in [10, self.cpg.max_atomic_message_size() + 1] {
            let message = vec![length as u8; length];
            self.cpg.multicast(Guarantee::AGREED, &message)?;
            let delivered = next_that(&self.cpg, |event| match event {
                cpg::Event::Deliver(deliver) => Some(deliver),
                _ => None,
            });
            assert_eq!(delivered.payload, message);
            assert_eq!(delivered.pid, self.cpg.pid());
        }
        assert!(!self.cpg.list(Iteration::All)?.is_empty());
        Ok(())
    }
}

/// What is taken of the system.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Taken {
    descriptors: usize,
    /// Mappings of rings and of control files.
    mappings: usize,
    files: Vec<PathBuf>,
}

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, mappings, files } = self;
        let names: Vec<_> = files.iter().filter_map(|path| path.file_name()).collect();
        write!(f, "{descriptors} descriptors, {mappings} mappings, files {names:?}")
    }
}

impl Taken {
    /// By this process.
    pub(crate) fn here() -> Self {
        Self::by("self", None)
    }

    /// By a daemon, once it holds nothing for clients that have gone.
    pub(crate) fn by_daemon(host: &Host) -> Self {
        let pid = host.pid();
        let root: PathBuf = format!("/proc/{pid}/root").into();
        let shm = root.join(host.shm_root().strip_prefix("/").unwrap());
        let look = || Self::by(&pid.to_string(), Some(&shm));
        let mut last = look();
        eventually("the daemon let go", || {
            std::thread::sleep(Duration::from_millis(50));
            let before = std::mem::replace(&mut last, look());
            before == last
        });
        last
    }

    /// By a process, with the files in this directory.
    pub(crate) fn by_process(pid: u32, folder: &Path) -> Self {
        Self::by(&pid.to_string(), Some(folder))
    }

    fn by(process: &str, shm: Option<&Path>) -> Self {
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
        let mut files = Vec::new();
        shm.into_iter().for_each(|shm| collect(shm, &mut files));
        files.sort();
        Self {
            descriptors: fs::read_dir(format!("/proc/{process}/fd")).unwrap().count(),
            mappings: maps.lines().filter(|line| line.contains("/qb-")).count(),
            files,
        }
    }
}

/// Collects files of connections. The sockets of services stay.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, files);
        }
        files.push(path);
    }
}

/// Runs an ignored test where it finds the daemon, which then has what it had before.
#[track_caller]
pub(crate) fn leaves_nothing(host: &Host, test: &str) {
    host.ignored_test("clients::as_one_that_comes_and_goes").run().success();
    let before = Taken::by_daemon(host);
    let pid = host.pid();
    let output = host.ignored_test(test).limit(LONG).run().success();
    assert!(output.contains("1 passed"), "no such test: {output}");
    eventually("nothing is left", || Taken::by_daemon(host) == before);
    assert_eq!(host.pid(), pid);
}

#[test]
#[ignore = "run by other tests"]
fn as_one_that_comes_and_goes() {
    Clients::connect(&endpoint()).unwrap();
}

/// The errno of an error of the system, and what the system refused.
pub(crate) fn refused(error: &Error) -> Option<(i32, &str)> {
    match error {
        Error::System { operation, source, .. } => Some((source.raw_os_error()?, operation)),
        _ => None,
    }
}
