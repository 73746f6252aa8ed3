//! A full /dev/shm.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::{Endpoint, Error, cmap, guard_against_truncation, libqb};
use nix::fcntl::{FallocateFlags, fallocate};
use testbed::{
    Cluster, HostKind, IpcType, Node, Scripted, eventually, next_that, private_endpoint, skip,
    version,
};

use crate::clients::{LONG, SERVICES};

/// Runs a body where a daemon of this kind has a small /dev/shm for itself.
fn in_little_room(kind: HostKind, ipc_type: IpcType, body: impl FnOnce(&Node, &Endpoint) + Send) {
    let builder = Cluster::builder().shm_size("32m").ipc_type(ipc_type.name());
    if kind == HostKind::Real {
        let cluster = builder.start();
        let node = cluster.node(1);
        let pid = node.pid();
        node.run(|| body(node, &Endpoint::new().timeout(LONG)));
        assert_eq!(node.pid(), pid);
    } else {
        let cluster = builder.create();
        let node = cluster.node(1);
        node.run(|| {
            let endpoint = Endpoint::new().abstract_sockets().timeout(LONG);
            let embedded = Corosync::builder().endpoint(&endpoint).transport(ipc_type.into());
            let _corosync = embedded.start().unwrap();
            body(node, &endpoint);
        });
    }
}

/// A ring has its memory from the beginning: all of it can be written when there is no more.
fn whole_rings_are_written(kind: HostKind, ipc_type: IpcType) {
    // 1.99 dies of full shared memory, whoever connects.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    in_little_room(kind, ipc_type, |node, endpoint| {
        let group = GroupName::new("full").unwrap();
        let member = |pid| {
            let options = cpg::Options::new().pid(pid);
            let member = cpg::Client::connect_with(endpoint, options).unwrap();
            member.join(&group).unwrap();
            member
        };
        let members = [1, 2].map(member);
        let client = cmap::Client::connect_to(endpoint).unwrap();
        let full = node.fill_shm(0);
        for (service, connect) in SERVICES {
            let error = connect(endpoint).unwrap_err();
            assert!(matches!(error, Error::SharedMemoryFull { .. }), "{service}: {error:?}");
        }
        // Each ring of cpg has 1 MiB, each of cmap 36 KiB.
        for number in 0..40_u8 {
            let message = vec![number; 60_000];
            members[0].multicast(Guarantee::AGREED, &message).unwrap();
            for member in &members {
                let delivered = next_that(member, |event| match event {
                    cpg::Event::Deliver(deliver) => Some(deliver.payload),
                    _ => None,
                });
                assert_eq!(delivered, message);
            }
            let value = vec![number; 8000];
            client.set("full.key", value.as_slice()).unwrap();
            assert_eq!(client.get_as::<bytes::Bytes>("full.key").unwrap().unwrap(), value);
        }
        drop(full);
        SERVICES.iter().for_each(|(_, connect)| connect(endpoint).unwrap());
    });
}

#[test]
fn embedded_rings_have_their_memory() {
    whole_rings_are_written(HostKind::Embedded, IpcType::Shm);
}

#[test]
fn embedded_datagrams_need_no_memory_of_dev_shm() {
    whole_rings_are_written(HostKind::Embedded, IpcType::Socket);
}

#[test]
fn real_rings_have_their_memory() {
    whole_rings_are_written(HostKind::Real, IpcType::Shm);
}

#[test]
fn real_datagrams_need_no_memory_of_dev_shm() {
    whole_rings_are_written(HostKind::Real, IpcType::Socket);
}

/// A server may make rings without memory. With the guard on, the end that finds none ends the
/// connection.
#[test]
fn rings_without_memory_end_a_connection_and_no_process() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().shm_size("32m").create();
    let process = cluster.node(1).ignored_test("shm::as_both_ends_of_rings_without_memory");
    assert!(process.limit(LONG).run().success().contains("1 passed"));
}

#[test]
#[ignore = "run by another test, which the fault kills without the guard"]
fn as_both_ends_of_rings_without_memory() {
    guard_against_truncation().unwrap();
    let (endpoint, folder) = private_endpoint();
    let _server = Scripted::serve(&endpoint, "echo", |conn, request| {
        // An event that finds no memory ends the connection.
        let _ = conn.send_event(&request);
        let _ = conn.reply(&request);
    });
    let connect = || {
        let endpoint = endpoint.clone().timeout(LONG);
        libqb::Client::connect_to(&endpoint, "echo", 1 << 20).unwrap()
    };
    let message =
        Header { id: 0, size: 0, error: 0 }.encode(Kind::Response, &[7; 100_000]).unwrap();
    for ring in ["request", "response", "event"] {
        let client = connect();
        let files = data_files(folder.path(), ring);
        let [file] = files.as_slice() else { panic!("{files:?}") };
        let file = OpenOptions::new().write(true).open(file).unwrap();
        let all = file.metadata().unwrap().len().try_into().unwrap();
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&file, flags, 0, all).unwrap();
        let full = Full::new();
        let error = client.request(&message).unwrap_err();
        assert!(matches!(error, Error::Disconnected { .. }), "{ring}: {error:?}");
        drop((full, client));
        eventually("nothing is left", || data_files(folder.path(), ring).is_empty());
        let other = connect();
        assert_eq!(other.request(&message).unwrap(), message);
        drop(other);
        eventually("nothing is left", || data_files(folder.path(), ring).is_empty());
    }
}

/// The data files of this ring, of all connections.
fn data_files(folder: &Path, ring: &str) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let files = below(folder).into_iter().flat_map(|it| below(&it));
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.contains(ring) && name.ends_with("-data")
    };
    files.filter(is_it).collect()
}

/// Takes all memory of /dev/shm until it is dropped.
struct Full;

impl Full {
    fn new() -> Self {
        let mut file = File::create("/dev/shm/filler").unwrap();
        for size in [65_536, 1] {
            loop {
                match file.write(&[0; 65_536][..size]) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        Self
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        let _ = fs::remove_file("/dev/shm/filler");
    }
}
