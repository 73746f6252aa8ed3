//! How much of /dev/shm a connection takes. A small /dev/shm: how many clients it has room for, and
//! what happens when it is full.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::Transport;
use corosync_ipc::{
    Endpoint, Error, MIN_RING_SIZE, ServiceClient, TrackFlags, cfg, cpg, evs, quorum, votequorum,
};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{SysconfVar, sysconf};
use testbed::{Cluster, HostKind, IpcType, Node, Setup, eventually, next, rings, skip, version};

testbed::on_each_host! {
    a_connection_takes_no_more_than_the_table_says;
    a_connection_of_evs_takes_no_more_than_the_table_says, Setup::new().evs();
}

fn a_connection_takes_no_more_than_the_table_says(endpoint: &Endpoint) {
    takes(60, endpoint, quorum::Client::connect_to);
    takes(60, endpoint, votequorum::Client::connect_to);
    takes(72, endpoint, cfg::Client::connect_to);
    takes(156, endpoint, cmap::Client::connect_to);
    takes(3120, endpoint, cpg::Client::connect_to);

    let smallest = endpoint.clone().ring_size(MIN_RING_SIZE);
    takes(60, &smallest, cmap::Client::connect_to);
    takes(60, &smallest, cpg::Client::connect_to);
}

fn a_connection_of_evs_takes_no_more_than_the_table_says(endpoint: &Endpoint) {
    takes(3120, endpoint, evs::Client::connect_to);
}

/// Checks how many KiB of shared memory a connection takes, as the page of `Endpoint::ring_size`
/// says for pages of 4 KiB.
#[track_caller]
fn takes<C: ServiceClient>(
    most: u64,
    endpoint: &Endpoint,
    connect: fn(&Endpoint) -> Result<C, Error>,
) {
    if sysconf(SysconfVar::PAGE_SIZE).unwrap() != Some(4096) {
        return;
    }
    let root = endpoint.shm_root_path();
    eventually("no connection is left", || rings(root).is_empty());
    let client = connect(endpoint).unwrap();
    let taken: u64 = rings(root).iter().map(|name| kibibytes(&root.join(name))).sum();
    let most = match client.transport() {
        Transport::Shm => most,
        // The control file.
        _ => 4,
    };
    assert!((1..=most).contains(&taken), "{}: {taken} KiB", C::SERVICE);
    println!("{}: {taken} KiB", C::SERVICE);
}

/// What a file takes, or the files in a directory.
fn kibibytes(path: &Path) -> u64 {
    let found = path.metadata().unwrap();
    if found.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        return entries.map(|entry| kibibytes(&entry.unwrap().path())).sum();
    }
    found.blocks() * 512 / 1024
}

/// How many programs watch quorum and a key, each with two connections.
const MONITORS: usize = 250;

/// What a container has unless it asks for more.
const SHM_SIZE: &str = "64m";

struct Monitor {
    quorum: quorum::Client,
    cmap: cmap::Client,
}

impl Monitor {
    fn connect(endpoint: &Endpoint) -> Result<Self, Error> {
        let quorum = quorum::Client::connect_to(endpoint)?;
        let cmap = cmap::Client::connect_to(endpoint)?;
        quorum.track_start(TrackFlags::CURRENT | TrackFlags::CHANGES)?;
        cmap.track_add("monitored.", TrackEvents::ALL | TrackEvents::PREFIX)?;
        Ok(Self { quorum, cmap })
    }

    fn sees(&self, value: u32) {
        let cmap::Event::Notification(change) = next(&self.cmap) else { panic!("no change") };
        assert_eq!(change.new_value, Some(Value::U32(value)));
        assert!(self.quorum.is_quorate().unwrap());
    }
}

/// Runs a body where a daemon of this kind has 64 MiB of /dev/shm for itself.
fn in_little_room(kind: HostKind, ipc_type: IpcType, body: impl FnOnce(&Node, &Endpoint) + Send) {
    let builder = Cluster::builder().shm_size(SHM_SIZE).ipc_type(ipc_type.name());
    // The daemon and its clients have four descriptors for a connection of datagrams, in one
    // process if it is embedded.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    match kind {
        HostKind::Real => {
            let cluster = builder.start();
            let node = cluster.node(1);
            let pid = node.pid();
            node.run(|| body(node, &Endpoint::new()));
            assert_eq!(node.pid(), pid);
            assert!(node.membership().is_some());
        }
        HostKind::Embedded => {
            let cluster = builder.create();
            let node = cluster.node(1);
            node.run(|| {
                let endpoint = Endpoint::new().abstract_sockets();
                let embedded = Corosync::builder().endpoint(&endpoint).transport(ipc_type.into());
                let corosync = embedded.start().unwrap();
                body(node, corosync.endpoint());
            });
        }
    }
}

/// Returns how many KiB of /dev/shm are used.
fn used() -> u64 {
    let shm = statvfs("/dev/shm").unwrap();
    (shm.blocks() - shm.blocks_free()) * shm.fragment_size() / 1024
}

#[track_caller]
fn is_full(refused: Result<impl Sized, Error>) {
    let Err(error) = refused else { panic!("there is room") };
    assert!(matches!(error, Error::SharedMemoryFull { .. }), "{error:?}");
    let text = error.to_string();
    for word in ["the daemon's /dev/shm is full", "ENOSPC", "ring_size", "--ring-size"] {
        assert!(text.contains(word), "{text}");
    }
}

fn monitors_fit(kind: HostKind, ipc_type: IpcType) {
    // 1.99 dies of full shared memory, whoever connects.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    in_little_room(kind, ipc_type, |node, endpoint| {
        let before = used();
        let monitors: Vec<Monitor> =
            (0..MONITORS).map(|_| Monitor::connect(endpoint).unwrap()).collect();
        let more = used() - before;
        println!("{before} KiB before, {} KiB for each monitor", more / MONITORS as u64);
        let setter = cmap::Client::connect_to(endpoint).unwrap();
        let all_see = |value: u32| {
            setter.set("monitored.key", value).unwrap();
            monitors.iter().for_each(|monitor| monitor.sees(value));
        };
        all_see(1);

        // A full /dev/shm harms nobody who is connected.
        let full = node.fill_shm(0);
        is_full(Monitor::connect(endpoint));
        is_full(cpg::Client::connect_to(endpoint));
        all_see(2);
        drop(full);
        let _more = eventually("there is room", || Monitor::connect(endpoint).ok());
        all_see(3);
        drop((monitors, setter));
        eventually("the daemon let go", || rings(Path::new("/dev/shm")).len() <= 2);
    });
}

#[test]
fn embedded_has_room_for_250_monitors() {
    monitors_fit(HostKind::Embedded, IpcType::Shm);
}

#[test]
fn real_has_room_for_250_monitors() {
    monitors_fit(HostKind::Real, IpcType::Shm);
}

#[test]
fn embedded_has_room_for_250_monitors_with_datagrams() {
    monitors_fit(HostKind::Embedded, IpcType::Socket);
}

#[test]
fn real_has_room_for_250_monitors_with_datagrams() {
    monitors_fit(HostKind::Real, IpcType::Socket);
}
