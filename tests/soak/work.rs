//! What clients do on a node.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{self, GroupName, Guarantee, Iteration};
use corosync_ipc::supervise::{
    CfgTracker, CmapTracker, Notice, Supervise, Supervised, VotequorumTracker,
};
use corosync_ipc::{
    Control, CsError, Dispatcher, Endpoint, Error, Result, TrackFlags, cfg, cmap, evs, quorum,
    votequorum,
};
use testbed::{Nodes, Patience};

use crate::gate::Gate;

/// How many threads share a client.
const SHARERS: usize = 3;

/// The longest datagram, in bytes.
const DATAGRAM: u32 = 64 << 10;

/// One of how many messages is in fragments.
const FRAGMENTED: u64 = 10;

/// What is counted, so that nothing stops unnoticed.
#[derive(Clone, Copy)]
pub(crate) enum Activity {
    Connects,
    Requests,
    Lists,
    Messages,
    Fragmented,
    /// Events of each service, at the dispatcher.
    Cmap,
    Quorum,
    Votequorum,
    Cpg,
    Evs,
    /// Supervised clients that are connected again.
    Ups,
    /// Calls that failed as they may while a daemon starts.
    Errors,
}

impl Activity {
    pub(crate) const ALL: [(Self, &str); 12] = [
        (Self::Connects, "connects"),
        (Self::Requests, "requests"),
        (Self::Lists, "lists"),
        (Self::Messages, "messages"),
        (Self::Fragmented, "in fragments"),
        (Self::Cmap, "cmap events"),
        (Self::Quorum, "quorum events"),
        (Self::Votequorum, "votequorum events"),
        (Self::Cpg, "cpg events"),
        (Self::Evs, "evs events"),
        (Self::Ups, "ups"),
        (Self::Errors, "errors"),
    ];
}

/// A node, with what its clients did.
pub(crate) struct Site {
    pub(crate) name: String,
    id: u32,
    has_evs: bool,
    has_datagrams: bool,
    /// Its daemon is killed and stopped.
    pub(crate) restarts: bool,
    /// Who connects or leaves reads, who kills the daemon writes. Nobody removes the files of a
    /// connection that a killed daemon has told nobody of, or whose end it has not seen.
    pub(crate) comings: RwLock<()>,
    counts: [AtomicU64; Activity::ALL.len()],
    watching: AtomicUsize,
    /// A group has one member of a pid on a node.
    next_pid: AtomicU32,
    shared: Mutex<Option<Arc<cmap::Client>>>,
}

impl Site {
    pub(crate) fn new(world: &str, id: u32, has_evs: bool, has_datagrams: bool) -> Arc<Self> {
        Arc::new(Self {
            name: format!("{world} {id}"),
            id,
            has_evs,
            has_datagrams,
            restarts: id == 1,
            comings: RwLock::default(),
            counts: Default::default(),
            watching: AtomicUsize::new(0),
            next_pid: AtomicU32::new(100),
            shared: Mutex::default(),
        })
    }

    /// Starts all clients.
    pub(crate) fn start(self: &Arc<Self>, nodes: &Nodes, gate: &Arc<Gate>) -> Vec<JoinHandle<()>> {
        let worker = |what: &str, body: fn(&Site, &Gate, usize, &Endpoint)| {
            let (site, gate) = (Arc::clone(self), Arc::clone(gate));
            let number = gate.add(format!("{}, {what}", self.name));
            nodes.spawn(self.id, move |endpoint| body(&site, &gate, number, &site.at(endpoint)))
        };
        let mut threads = vec![
            worker("clients that come and go", come_and_go),
            worker("a member that multicasts", multicast),
        ];
        threads.extend((0..SHARERS).map(|_| worker("a thread that shares a client", share)));
        let (site, gate) = (Arc::clone(self), Arc::clone(gate));
        threads.push(nodes.spawn(self.id, move |endpoint| watch(&site, &gate, &site.at(endpoint))));
        threads
    }

    /// The endpoint of a node, with messages so short that corosync has memory for each datagram: it
    /// loses events of 1 MiB while the machine has none in one piece.
    fn at(&self, endpoint: &Endpoint) -> Endpoint {
        let endpoint = endpoint.clone().timeout(Duration::from_secs(20));
        if self.has_datagrams { endpoint.ring_size(DATAGRAM) } else { endpoint }
    }

    pub(crate) fn counts(&self) -> [u64; Activity::ALL.len()] {
        self.counts.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// Whether this activity must go on in each interval.
    pub(crate) fn does(&self, activity: Activity) -> bool {
        match activity {
            Activity::Evs => self.has_evs,
            Activity::Ups => self.restarts,
            Activity::Errors => false,
            _ => true,
        }
    }

    /// Whether all supervised clients are connected.
    pub(crate) fn is_watching(&self) -> bool {
        self.watching.load(Ordering::Relaxed) == 5 + usize::from(self.has_evs)
    }

    /// Drops the client that threads share. They do not use it now.
    pub(crate) fn forget_shared(&self) {
        *self.shared.lock().unwrap() = None;
    }

    fn count(&self, activity: Activity) {
        self.counts[activity as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn pid(&self) -> u32 {
        self.next_pid.fetch_add(1, Ordering::Relaxed)
    }

    fn connect<T>(&self, connect: impl FnOnce() -> Result<T>) -> Result<T> {
        connect().inspect(|_| self.count(Activity::Connects))
    }

    /// Counts errors that a restart explains.
    fn tolerate(&self, result: Result<()>) {
        match result {
            Ok(()) => return,
            // While nodes synchronize.
            Err(Error::Cs { error: CsError::TryAgain, .. }) => {}
            Err(
                Error::Disconnected { .. }
                | Error::NoSocket { .. }
                | Error::TimedOut { .. }
                | Error::PartlySent { .. },
            ) if self.restarts => {}
            Err(error) => panic!("{}: {error:?}", self.name),
        }
        self.count(Activity::Errors);
        thread::sleep(Duration::from_millis(100));
    }
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

fn evs_group() -> evs::GroupName {
    evs::GroupName::new("soak").unwrap()
}

fn come_and_go(site: &Site, gate: &Gate, worker: usize, endpoint: &Endpoint) {
    let mut number = 0;
    gate.work::<()>(worker, |_| {
        {
            let _comes_and_goes = site.comings.read().unwrap();
            site.tolerate(cycle(site, endpoint, number));
        }
        number += 1;
        thread::sleep(Duration::from_millis(800));
    });
}

/// One client of each service. Some leave iterators or events behind, or say that they go.
fn cycle(site: &Site, endpoint: &Endpoint, number: u64) -> Result<()> {
    let cmap = site.connect(|| cmap::Client::connect_to(endpoint))?;
    cmap.track_add("soak.", TrackEvents::ALL | TrackEvents::PREFIX)?;
    cmap.set("soak.cycle", number)?;
    let mut iterator = cmap.iter("totem.")?;
    iterator.next().transpose()?;
    let quorum = site.connect(|| quorum::Client::connect_to(endpoint))?;
    quorum.track_start(TrackFlags::CURRENT | TrackFlags::CHANGES)?;
    let votes = site.connect(|| votequorum::Client::connect_to(endpoint))?;
    votes.track_start(number, TrackFlags::CURRENT | TrackFlags::CHANGES)?;
    votes.local_info()?;
    let cfg = site.connect(|| cfg::Client::connect_to(endpoint))?;
    cfg.track_start()?;
    cfg.ring_status()?;
    let options = cpg::Options::new().pid(site.pid());
    let cpg = site.connect(|| cpg::Client::connect_with(endpoint, options))?;
    cpg.join(&group("cycle"))?;
    cpg.multicast(Guarantee::AGREED, &number.to_ne_bytes())?;
    cpg.list(Iteration::All)?;
    let evs = match site.has_evs {
        true => Some(site.connect(|| evs::Client::connect_to(endpoint))?),
        false => None,
    };
    if let Some(evs) = &evs {
        evs.join(&[evs_group()])?;
        evs.multicast_joined(evs::Guarantee::AGREED, b"to all")?;
    }
    match number % 3 {
        0 => {
            cmap.finalize();
            quorum.finalize();
            votes.finalize();
            cfg.finalize();
            cpg.finalize();
        }
        1 => drop((cmap.poll_event()?, quorum.poll_event()?, votes.poll_event()?)),
        _ => drop(iterator),
    }
    Ok(())
}

#[derive(Default)]
struct Sender {
    client: Option<cpg::Client>,
    sent: u64,
}

fn multicast(site: &Site, gate: &Gate, worker: usize, endpoint: &Endpoint) {
    gate.work(worker, |sender: &mut Sender| {
        let result = multicast_one(site, endpoint, sender);
        if result.is_err() {
            sender.client = None;
        }
        site.tolerate(result);
        thread::sleep(Duration::from_millis(200));
    });
}

/// Sends a message to the watchers, and waits until it is delivered here too.
fn multicast_one(site: &Site, endpoint: &Endpoint, sender: &mut Sender) -> Result<()> {
    let client = match sender.client.take() {
        Some(client) => client,
        None => {
            let _comes = site.comings.read().unwrap();
            let options = cpg::Options::new().pid(site.pid());
            let client = site.connect(|| cpg::Client::connect_with(endpoint, options))?;
            client.join(&group("soak"))?;
            client
        }
    };
    let client = sender.client.insert(client);
    sender.sent += 1;
    let is_long = sender.sent % FRAGMENTED == 0;
    let length = if is_long { client.max_atomic_message_size() + 200_000 } else { 200 };
    let mut message = vec![7; length];
    message[..8].copy_from_slice(&sender.sent.to_ne_bytes());
    client.multicast(Guarantee::AGREED, &message)?;
    let (me, patience) = (client.pid(), Patience::new());
    let here = client.local_node_id()?;
    while !patience.is_over() {
        match client.next_event(Duration::from_secs(1))? {
            Some(cpg::Event::Deliver(deliver)) if deliver.pid == me && deliver.node_id == here => {
                assert_eq!(deliver.payload, message, "{}: another message", site.name);
                site.count(if is_long { Activity::Fragmented } else { Activity::Messages });
                return Ok(());
            }
            _ => {}
        }
    }
    panic!("{}: message {} of {length} bytes is not delivered", site.name, sender.sent);
}

fn share(site: &Site, gate: &Gate, worker: usize, endpoint: &Endpoint) {
    let mut number = 0;
    gate.work(worker, |client: &mut Shared| {
        let result = share_once(site, endpoint, worker, number, client);
        if result.is_err() {
            *client = Shared::default();
            site.forget_shared();
        }
        site.tolerate(result);
        number += 1;
        thread::sleep(Duration::from_millis(200));
    });
}

/// A client that other threads use too.
#[derive(Default)]
struct Shared(Option<Arc<cmap::Client>>);

fn share_once(
    site: &Site,
    endpoint: &Endpoint,
    worker: usize,
    number: u64,
    client: &mut Shared,
) -> Result<()> {
    let client = match &client.0 {
        Some(client) => client,
        None => {
            let _comes = site.comings.read().unwrap();
            let mut shared = site.shared.lock().unwrap();
            let present = match shared.take() {
                Some(present) => present,
                None => Arc::new(site.connect(|| cmap::Client::connect_to(endpoint))?),
            };
            client.0.insert(Arc::clone(shared.insert(present)))
        }
    };
    let key = format!("soak.key{worker}");
    client.set(&key, number)?;
    assert_eq!(client.get_as::<u64>(&key)?, Some(number), "{}", site.name);
    site.count(Activity::Requests);
    if number % 10 == 0 {
        // None while others create keys: then corosync's iterator may leave the prefix at once.
        if !client.list("totem.")?.is_empty() {
            site.count(Activity::Lists);
        }
    }
    Ok(())
}

/// Watches everything until the end.
fn watch(site: &Arc<Site>, gate: &Gate, endpoint: &Endpoint) {
    let mut dispatcher = Dispatcher::new().unwrap();
    let both = TrackFlags::CURRENT | TrackFlags::CHANGES;
    let keys = CmapTracker::new("soak.", TrackEvents::ALL | TrackEvents::PREFIX);
    let votes = VotequorumTracker { context: 1, flags: both };
    let to = endpoint.clone();
    add(&mut dispatcher, site, Activity::Cmap, keys, move || cmap::Client::connect_to(&to));
    let to = endpoint.clone();
    add(&mut dispatcher, site, Activity::Quorum, both, move || quorum::Client::connect_to(&to));
    let to = endpoint.clone();
    let connect = move || votequorum::Client::connect_to(&to);
    add(&mut dispatcher, site, Activity::Votequorum, votes, connect);
    let to = endpoint.clone();
    let connect = move || cpg::Client::connect_with(&to, cpg::Options::new().pid(1));
    add(&mut dispatcher, site, Activity::Cpg, group("soak"), connect);
    let to = endpoint.clone();
    add(&mut dispatcher, site, Activity::Ups, CfgTracker, move || cfg::Client::connect_to(&to));
    if site.has_evs {
        let to = endpoint.clone();
        let connect = move || evs::Client::connect_to(&to);
        add(&mut dispatcher, site, Activity::Evs, evs_group(), connect);
    }
    while !gate.has_ended() {
        dispatcher.round(&mut (), Duration::from_millis(100)).unwrap();
    }
}

/// Adds a supervised client whose events are counted.
fn add<C: Supervise>(
    dispatcher: &mut Dispatcher<()>,
    site: &Arc<Site>,
    activity: Activity,
    setup: C::Setup,
    connect: impl Fn() -> Result<C> + Send + Sync + 'static,
) {
    let to = Arc::clone(site);
    let mut client = Supervised::new(move || to.connect(&connect));
    client.set_up(setup).unwrap();
    let site = Arc::clone(site);
    let handler = move |_: &mut (), notice, _: &mut Supervised<C>, _: &mut Control<'_, ()>| {
        match notice {
            Ok(Notice::Event(_)) => site.count(activity),
            Ok(Notice::Up(up)) => {
                for restored in up.restored {
                    restored.result.unwrap();
                }
                site.count(Activity::Ups);
                site.watching.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Notice::Lost { error }) => {
                assert!(site.restarts, "{}, {}: {error:?}", site.name, C::SERVICE);
                site.watching.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(error) => panic!("{}, {}: {error:?}", site.name, C::SERVICE),
        }
        ControlFlow::Continue(())
    };
    dispatcher.add_supervised(client, handler).unwrap();
}
