//! A small /dev/shm: how many clients it has room for, and what happens when it is full.

use std::path::Path;

use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::{Endpoint, Error, TrackFlags, cpg, quorum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statvfs::statvfs;
use testbed::{Cluster, HostKind, IpcType, Node, eventually, next, rings, skip, version};

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
