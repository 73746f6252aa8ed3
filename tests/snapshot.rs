//! Snapshots and their changes, compared with what the services say one by one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant, SystemTime};

use corosync_ipc::snapshot::{self, Change, Snapshot, Watcher};
use corosync_ipc::{Endpoint, NodeId, SocketAddress, cmap, quorum, votequorum};
use nix::time::ClockId;
use testbed::{Nodes, Patience, Setup, eventually};

/// The first version without evs.
const NO_EVS: [u32; 4] = [1, 99, 8, 0];

testbed::on_each_host! {
    a_snapshot_has_what_each_service_says, Setup::new().nodes(3);
    who_listens_in_place_of_evs_is_not_asked, Setup::new();
    every_change_gives_a_snapshot, Setup::new().nodes(3).loses_nodes();
    a_daemon_that_is_stopped_or_gone_is_lost_and_comes_back, Setup::new().nodes(3).loses_nodes();
    waiting_takes_no_processor_time, Setup::new().nodes(3);
    changes_are_a_stream, Setup::new().nodes(3).loses_nodes();
}

fn members(snapshot: &Snapshot) -> Vec<u32> {
    snapshot.members.iter().flatten().map(|node| node.node_id.0).collect()
}

fn a_snapshot_has_what_each_service_says(nodes: &Nodes) {
    nodes.on(2, |endpoint| {
        let snapshot = Snapshot::take(endpoint).unwrap();
        assert!(snapshot.errors.is_empty(), "{:?}", snapshot.errors);
        let votes = votequorum::Client::connect_to(endpoint).unwrap();
        let info = votes.local_info().unwrap();
        assert_eq!(snapshot.node_id, Some(info.node_id));
        assert_eq!(snapshot.expected_votes, Some(info.expected_votes));
        assert_eq!(snapshot.total_votes, Some(info.total_votes));
        assert_eq!((snapshot.quorum, snapshot.flags), (Some(info.quorum), Some(info.flags)));

        let membership = quorum::membership(endpoint).unwrap();
        assert_eq!(snapshot.quorate, Some(membership.quorate));
        assert_eq!(snapshot.ring_id, membership.ring_id);
        let told: Vec<u32> = membership.members.unwrap().iter().map(|node| node.0).collect();
        assert_eq!((members(&snapshot), snapshot.absent.as_deref()), (told, Some(&[][..])));

        let cmap = cmap::Client::connect_to(endpoint).unwrap();
        let nodelist = cmap.nodelist().unwrap();
        for node in snapshot.nodes() {
            let configured = nodelist.by_id(node.node_id).unwrap();
            assert_eq!(node.name, configured.name);
            assert_eq!(node.addresses, configured.addresses);
            assert_eq!((node.configured, node.member), (Some(true), true));
            assert_eq!(node.local, node.node_id == NodeId(2));
        }
        assert_eq!(snapshot.local().unwrap().name, snapshot.node_name);

        let daemon = snapshot.daemon.as_ref().unwrap();
        let peer = u32::try_from(votes.peer_credentials().pid).unwrap();
        assert_eq!((daemon.pid, daemon.transport), (Some(peer), votes.transport()));
        assert!(daemon.started.unwrap() <= SystemTime::now());
        if nodes.version() >= [3, 1, 0, 0] {
            assert_eq!(daemon.generation.as_ref().unwrap().since, "3.1");
        }
        let services = &snapshot.services;
        assert!(services.iter().all(|service| service.fault().is_none()), "{services:?}");
        let healthy = || {
            let links = Snapshot::take(endpoint).unwrap().links.unwrap();
            (links.iter().all(|link| link.healthy == Some(true) && link.connected == Some(2)))
                .then_some(links)
        };
        let links = eventually("links are up", healthy);
        assert_eq!(links.len(), 1);
        assert_eq!(links, snapshot::links(endpoint).unwrap().0);
        let (transport, protocol) = (links[0].transport.as_deref(), links[0].protocol.as_deref());
        let configured: Option<String> = cmap.get_as("totem.transport").unwrap();
        assert_eq!((transport, protocol), (configured.as_deref(), Some("udp")));

        #[cfg(feature = "serde")]
        {
            let text = serde_json::to_string(&snapshot).unwrap();
            assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot, "{text}");
        }
    });
}

fn who_listens_in_place_of_evs_is_not_asked(nodes: &Nodes) {
    nodes.on(1, |endpoint| {
        let has_evs = matches!(nodes, Nodes::Embedded(_)) || nodes.version() < NO_EVS;
        let _silent = (!has_evs).then(|| listen(&endpoint.socket_address("evs")));
        let snapshot = Snapshot::take(endpoint).unwrap();
        assert!(snapshot.errors.is_empty(), "{:?}", snapshot.errors);
        for service in &snapshot.services {
            let is_there = has_evs || service.service != "evs";
            assert_eq!((service.reachable, service.configured), (is_there, Some(is_there)));
            assert_eq!(service.error, None);
        }
        assert_eq!(snapshot.services, snapshot::services(endpoint).0);
    });
}

/// Listens, and answers nobody.
fn listen(address: &SocketAddress) -> UnixListener {
    match address {
        SocketAddress::Path(path) => UnixListener::bind(path).unwrap(),
        SocketAddress::Abstract(name) => {
            let mut padded = [0; 107];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            UnixListener::bind_addr(&SocketAddr::from_abstract_name(padded).unwrap()).unwrap()
        }
    }
}

/// A watcher and the last that it told. `None`: lost.
struct Watch {
    watcher: Watcher,
    now: Option<Box<Snapshot>>,
    losses: usize,
}

impl Watch {
    fn new(endpoint: &Endpoint) -> Self {
        let endpoint = endpoint.clone().timeout(Duration::from_secs(2));
        Self { watcher: Watcher::new(&endpoint).unwrap(), now: None, losses: 0 }
    }

    /// Waits until it told what is wanted.
    #[track_caller]
    fn until(&mut self, what: &str, is: impl Fn(Option<&Snapshot>) -> bool) {
        let patience = Patience::new();
        let mut told = false;
        while !told || !is(self.now.as_deref()) {
            assert!(!patience.is_over(), "not told: {what}; last {:#?}", self.now);
            match self.watcher.next(Duration::from_millis(200)).unwrap() {
                Some(Change::Snapshot(snapshot)) => {
                    // Nobody hears the same twice.
                    assert_ne!(self.now.as_ref(), Some(&snapshot), "{what}");
                    (self.now, told) = (Some(snapshot), true);
                }
                Some(Change::Lost { error }) => {
                    assert!(self.now.take().is_some(), "lost twice: {error:?}");
                    self.losses += 1;
                    told = true;
                }
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
    }
}

fn sees(snapshot: Option<&Snapshot>, wanted: &[u32], quorate: bool) -> bool {
    snapshot
        .is_some_and(|snapshot| members(snapshot) == wanted && snapshot.quorate == Some(quorate))
}

fn every_change_gives_a_snapshot(nodes: &Nodes) {
    nodes.on(1, |endpoint| {
        let mut watch = Watch::new(endpoint);
        watch.until("the first", |now| sees(now, &[1, 2, 3], true));
        nodes.kill(3);
        watch.until("node 3 ended", |now| sees(now, &[1, 2], true));
        let absent = watch.now.as_ref().unwrap().absent.as_ref().unwrap();
        assert_eq!((absent[0].node_id, absent[0].configured), (NodeId(3), Some(true)));
        nodes.partition(&[&[1], &[2]]);
        watch.until("alone", |now| {
            let link = |now: &Snapshot| now.links.as_ref()?.first()?.healthy;
            sees(now, &[1], false) && now.and_then(link) == Some(false)
        });
        nodes.heal();
        nodes.start(3);
        watch.until("whole again", |now| sees(now, &[1, 2, 3], true));
        let votes = votequorum::Client::connect_to(endpoint).unwrap();
        votes.set_votes(votequorum::LOCAL_NODE, 2).unwrap();
        watch
            .until("two votes", |now| now.is_some_and(|now| now.local().unwrap().votes == Some(2)));
        assert_eq!(watch.losses, 0);
    });
}

fn a_daemon_that_is_stopped_or_gone_is_lost_and_comes_back(nodes: &Nodes) {
    nodes.on(1, |endpoint| {
        let mut watch = Watch::new(endpoint);
        watch.until("the first", |now| sees(now, &[1, 2, 3], true));
        let started = |watch: &Watch| watch.now.as_ref().unwrap().daemon.as_ref().unwrap().clone();
        let first = started(&watch);
        for kills in [true, false] {
            if kills {
                nodes.kill(1);
            } else {
                nodes.stop(1);
            }
            watch.until("it ended", |now| now.is_none());
            nodes.start(1);
            watch.until("it is back", |now| sees(now, &[1, 2, 3], true));
        }
        if matches!(nodes, Nodes::Real(_)) {
            assert_ne!(started(&watch).pid, first.pid);
        }
        assert_eq!(watch.losses, 2);
    });
}

fn waiting_takes_no_processor_time(nodes: &Nodes) {
    let processor_time = || Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
    nodes.on(1, |endpoint| {
        let mut watcher = Watcher::new(endpoint).unwrap().refresh(Duration::from_millis(400));
        // The first ones, which connecting to further services brings about.
        while watcher.next(Duration::from_millis(500)).unwrap().is_some() {}
        let (before, began) = (processor_time(), Instant::now());
        while began.elapsed() < Duration::from_secs(2) {
            watcher.next(Duration::from_secs(2)).unwrap();
        }
        let (used, time) = (processor_time() - before, began.elapsed());
        assert!(used < time / 10, "{used:?} of {time:?}");
    });
}

#[cfg(feature = "tokio")]
fn changes_are_a_stream(nodes: &Nodes) {
    use std::pin::pin;

    use corosync_ipc::snapshot::{Changes, Options};

    nodes.on(2, |endpoint| {
        let changes = Changes::new(endpoint, Options::new().services(false)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut changes = pin!(changes);
            let mut ended = false;
            let patience = Patience::new();
            loop {
                let change = std::future::poll_fn(|context| {
                    futures_core::Stream::poll_next(changes.as_mut(), context)
                });
                let change = change.await.unwrap().unwrap();
                assert!(!patience.is_over(), "{change:?}");
                let Change::Snapshot(now) = change else { continue };
                if !ended && sees(Some(&now), &[1, 2, 3], true) {
                    nodes.kill(3);
                    ended = true;
                } else if ended && sees(Some(&now), &[1, 2], true) {
                    return;
                }
            }
        });
    });
}

#[cfg(not(feature = "tokio"))]
fn changes_are_a_stream(_: &Nodes) {}
