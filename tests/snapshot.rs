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

/// A daemon with as many nodes as it says, each with 8 links, that may take its time for trackers.
#[cfg(feature = "server")]
mod sluggish {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use corosync_ipc::libqb::server::Listener;
    use corosync_ipc::snapshot::{Change, Watcher};
    use corosync_ipc::wire::{Message, cfg, cmap};
    use corosync_ipc::{CsError, Endpoint, NodeId};
    use testbed::{Patience, Scripted, private_endpoint};

    /// `CS_OK`.
    const OK: i32 = 1;

    /// How long a tracker takes while it takes its time.
    const PAUSE: Duration = Duration::from_millis(300);

    /// The most connections of links that a watcher has itself told of.
    const MOST: usize = 4096;

    #[derive(Default)]
    struct State {
        nodes: AtomicU32,
        is_slow: AtomicBool,
        trackers: AtomicUsize,
    }

    fn answer(message: &impl Message, error: i32) -> Vec<u8> {
        let mut bytes = message.encode().unwrap();
        bytes[16..20].copy_from_slice(&error.to_ne_bytes());
        bytes
    }

    fn string(text: &str) -> cmap::RawValue {
        let data = [text.as_bytes(), b"\0"].concat().into();
        cmap::RawValue { value_type: cmap::ValueType::STRING, data }
    }

    fn serve_cmap(endpoint: &Endpoint, state: &Arc<State>) -> Listener<Scripted> {
        let state = Arc::clone(state);
        // The nodes that an iterator has still to tell.
        let mut iterators: HashMap<u64, u32> = HashMap::new();
        Scripted::serve(endpoint, "cmap", move |conn, request| {
            let reply = match cmap::AnyRequest::decode(&request).unwrap() {
                cmap::AnyRequest::Get(asked) => {
                    let (value, error) = match &asked.key_name[..] {
                        b"quorum.provider" => ("none", OK),
                        key if key.starts_with(b"runtime.members.") => ("joined", OK),
                        _ => ("", CsError::NotExist.raw()),
                    };
                    let value = string(value);
                    let value_len = value.data.len() as u64;
                    answer(&cmap::GetReply { value_len, value }, error)
                }
                cmap::AnyRequest::IterInit(asked) => {
                    let iter_handle = iterators.len() as u64;
                    let has_nodes = asked.prefix.starts_with(b"runtime.members");
                    let nodes = state.nodes.load(Ordering::SeqCst);
                    iterators.insert(iter_handle, if has_nodes { nodes } else { 0 });
                    answer(&cmap::IterInitReply { iter_handle }, OK)
                }
                cmap::AnyRequest::IterNext(asked) => {
                    let left = iterators.get_mut(&asked.iter_handle).unwrap();
                    let error = if *left > 0 { OK } else { CsError::NoSections.raw() };
                    let reply = cmap::IterNextReply {
                        key_name: format!("runtime.members.{left}.status").into(),
                        value_len: 7,
                        value_type: cmap::ValueType::STRING,
                    };
                    *left = left.saturating_sub(1);
                    answer(&reply, error)
                }
                cmap::AnyRequest::IterFinalize(_) => answer(&cmap::IterFinalizeReply {}, OK),
                cmap::AnyRequest::TrackAdd(asked) => {
                    if asked.key_name.starts_with(b"stats.") {
                        state.trackers.fetch_add(1, Ordering::SeqCst);
                        if state.is_slow.load(Ordering::SeqCst) {
                            thread::sleep(PAUSE);
                        }
                    }
                    answer(&cmap::TrackAddReply { track_handle: 1 }, OK)
                }
                cmap::AnyRequest::TrackDelete(_) => {
                    state.trackers.fetch_sub(1, Ordering::SeqCst);
                    answer(&cmap::TrackDeleteReply { track_inst_handle: 1 }, OK)
                }
                cmap::AnyRequest::SetCurrentMap(_) => answer(&cmap::SetCurrentMapReply {}, OK),
                other => panic!("{other:?}"),
            };
            conn.reply(&reply).unwrap();
        })
    }

    fn serve_cfg(endpoint: &Endpoint) -> Listener<Scripted> {
        let link = cfg::Link {
            enabled: 1,
            connected: 1,
            dynconnected: 1,
            mtu: 1400,
            src_ipaddr: "10.0.0.1".into(),
            dst_ipaddr: "10.0.0.2".into(),
        };
        Scripted::serve(endpoint, "cfg", move |conn, request| {
            let reply = match cfg::AnyRequest::decode(&request).unwrap() {
                cfg::AnyRequest::LocalGet(_) => {
                    answer(&cfg::LocalGetReply { local_nodeid: NodeId(1) }, OK)
                }
                cfg::AnyRequest::GetNodeStatus(asked) => {
                    let reply = cfg::NodeStatusReply {
                        nodeid: asked.nodeid,
                        reachable: 1,
                        remote: 0,
                        external: 0,
                        onwire_min: 1,
                        onwire_max: 1,
                        onwire_ver: 1,
                        links: std::array::from_fn(|_| link.clone()),
                    };
                    answer(&reply, OK)
                }
                _ => answer(
                    &cfg::LocalGetReply { local_nodeid: NodeId(1) },
                    CsError::NotSupported.raw(),
                ),
            };
            conn.reply(&reply).unwrap();
        })
    }

    #[test]
    fn a_look_is_bounded_whatever_links_a_daemon_has() {
        let (endpoint, _folder) = private_endpoint();
        let state = Arc::new(State::default());
        state.nodes.store(2, Ordering::SeqCst);
        let _services = [serve_cmap(&endpoint, &state), serve_cfg(&endpoint)];
        let endpoint = endpoint.timeout(Duration::from_secs(5));
        let watcher = Watcher::new(&endpoint).unwrap();
        let mut watcher = watcher.refresh(Duration::from_millis(50));
        let trackers = || state.trackers.load(Ordering::SeqCst);
        let mut until = |is: &dyn Fn(Option<usize>) -> bool| {
            let patience = Patience::new();
            loop {
                assert!(!patience.is_over(), "{} trackers", trackers());
                let change = watcher.next(Duration::from_millis(50)).unwrap();
                let Some(Change::Snapshot(snapshot)) = &change else {
                    assert!(change.is_none(), "{change:?}");
                    if is(None) {
                        return;
                    }
                    continue;
                };
                let links = snapshot.links.as_ref().and_then(|links| links.first());
                if is(links.and_then(|link| link.connected)) {
                    return;
                }
            }
        };
        until(&|_| trackers() == 8);
        state.is_slow.store(true, Ordering::SeqCst);
        state.nodes.store(60, Ordering::SeqCst);
        until(&|connected| connected == Some(59));
        // As many as one timeout allows.
        assert!(trackers() < 100, "{}", trackers());
        state.is_slow.store(false, Ordering::SeqCst);
        until(&|_| trackers() == 59 * 8);
        state.nodes.store(600, Ordering::SeqCst);
        until(&|_| trackers() == MOST);
        until(&|connected| connected.is_none());
        assert_eq!(trackers(), MOST);
    }
}
