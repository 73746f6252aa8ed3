//! What clients take and give back: descriptors, mappings, files and iterators of the daemon.
//!
//! One test in a process of its own: what is counted is the process's.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use corosync_ipc::cmap::{Client, Map, Options, TrackEvents, Value};
use corosync_ipc::{Endpoint, Error, TrackFlags, quorum, votequorum};
use testbed::{Cluster, Patience, eventually, rings, skip, version, waiting};

/// What a process has, and what the daemon has for it.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Counts {
    descriptors: usize,
    /// Mappings of shared memory. Others come and go with the allocator.
    mappings: usize,
    rings: usize,
    daemon_descriptors: usize,
}

impl Counts {
    fn of(daemon: u32) -> Counts {
        let count = |folder: &str| fs::read_dir(folder).unwrap().count();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        Counts {
            descriptors: count("/proc/self/fd"),
            mappings: maps.lines().filter(|line| line.contains("qb-")).count(),
            rings: rings(Path::new("/dev/shm")).len(),
            daemon_descriptors: count(&format!("/proc/{daemon}/fd")),
        }
    }
}

#[test]
fn everything_is_given_back() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().shm_size("64m").start();
    let node = cluster.node(1);
    let pid = node.pid();
    node.run(|| {
        let cycle = |number: usize| {
            let client = Client::connect().unwrap();
            let quorum = quorum::Client::connect().unwrap();
            let votes = votequorum::Client::connect().unwrap();
            client.track_add("resources.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
            client.set("resources.key", number as u64).unwrap();
            quorum.track_start(TrackFlags::CHANGES).unwrap();
            votes.track_start(1, TrackFlags::CHANGES).unwrap();
            // Some leave events behind, or say that they go.
            let mut iterator = client.iter("").unwrap();
            assert!(iterator.next().is_some());
            match number % 4 {
                0 => drop(iterator),
                1 => client.finalize(),
                2 => drop((waiting(&client), waiting(&quorum))),
                _ => std::mem::forget(iterator),
            }
        };
        cycle(0);
        // The daemon lets go a little later.
        let mut before = Counts::of(pid);
        eventually("the daemon let go", || {
            let now = Counts::of(pid);
            let same = now == before;
            before = now;
            same && before.rings == 0
        });
        let held = Client::connect().unwrap();
        let one = Counts::of(pid);
        assert_eq!((one.descriptors, one.mappings), (before.descriptors + 1, 6));
        assert!(one.rings > 0 && one.daemon_descriptors > before.daemon_descriptors);
        drop(held);
        for number in 0..200 {
            cycle(number);
        }
        let mut after = Counts::of(pid);
        let patience = Patience::new();
        while after != before && !patience.is_over() {
            after = Counts::of(pid);
        }
        assert_eq!(after, before);

        // Who is refused leaves nothing either. 1.99 dies of full shared memory, whoever connects.
        if version() >= [2, 0, 0, 0] {
            let full = node.fill_shm(0);
            for _ in 0..20 {
                assert!(matches!(Client::connect(), Err(Error::SharedMemoryFull { .. })));
            }
            drop(full);
        }
        for _ in 0..20 {
            let missing = Client::connect_to(&Endpoint::new().service_name("none"));
            assert!(matches!(missing, Err(Error::NoSocket { .. })));
            let elsewhere = Client::connect_to(&Endpoint::new().shm_root("/none/such"));
            assert!(matches!(elsewhere, Err(Error::RingsNotVisible { .. })), "{elsewhere:?}");
        }
        eventually("nothing is left behind", || Counts::of(pid) == before);
        // Dropped with nothing else in between, what it had is gone at once for this process.
        let client = Client::connect().unwrap();
        client.as_fd().try_clone_to_owned().unwrap();
        drop(client);
        assert_eq!(Counts::of(pid).mappings, 0);

        if version() >= [2, 99, 0, 0] {
            iterators_are_released();
        }
    });
    assert_eq!(node.pid(), pid);
    assert!(node.membership().is_some());
}

/// The daemon counts the requests of a connection: an iteration asks for the release of its
/// iterator.
fn iterators_are_released() {
    let statistics =
        Client::connect_with(&Endpoint::new(), Options::new().map(Map::Stats)).unwrap();
    let prefix = format!("stats.ipcs.service0.{}.", std::process::id());
    let connections = || -> BTreeSet<String> {
        let keys = statistics.iter(&prefix).unwrap().map(|entry| entry.unwrap().key);
        keys.filter(|key| key.ends_with(".requests")).collect()
    };
    let mut others = connections();
    eventually("old connections are forgotten", || {
        others = connections();
        others.len() == 1
    });
    let client = Client::connect().unwrap();
    let mine: Vec<String> = connections().difference(&others).cloned().collect();
    let [key] = mine.as_slice() else { panic!("{mine:?}") };
    let requests = || match statistics.get(key).unwrap() {
        Some(Value::U64(count)) => count,
        other => panic!("{other:?}"),
    };
    let mut total = requests();
    // The release is not waited for.
    let mut expect = |more: u64| {
        total += more;
        eventually("the requests are counted", || requests() >= total);
        assert_eq!(requests(), total);
    };
    // Steps are made several at once, until one of them is behind the end.
    let steps = |keys: u64| {
        let (mut steps, mut at_once) = (0, 8);
        while steps <= keys {
            (steps, at_once) = (steps + at_once, (2 * at_once).min(50));
        }
        steps
    };
    // One to begin, the steps, and the release.
    let keys = client.iter("totem.").unwrap().count() as u64;
    assert!(keys > 1);
    expect(1 + steps(keys) + 1);
    drop(client.iter("none.such.").unwrap());
    expect(1 + steps(0) + 1);
    assert_eq!(client.list("totem.version").unwrap().len(), 1);
    expect(1 + steps(1) + 1 + 1);
}
