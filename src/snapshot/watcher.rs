//! A new snapshot whenever anything changes.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Options, Snapshot};
use crate::cmap::{self, Map, TrackEvents};
use crate::endpoint::{Deadline, Endpoint, later};
use crate::error::{Error, Result};
use crate::libqb::client::{Call, Waker};
use crate::quorum;
use crate::supervise::{CmapTracker, Notice, Supervise, Supervised, VotequorumTracker};
use crate::sys::event::{Poller, Timer};
use crate::votequorum;
use crate::wire::values::TrackFlags;

/// What a [`Watcher`] sees.
#[derive(Debug)]
#[non_exhaustive]
pub enum Change {
    /// The first snapshot, or one that differs from the one before.
    Snapshot(Box<Snapshot>),
    /// No service answers: the daemon ended, is stopped, or was never there. The next snapshot ends
    /// this, and what happened in between is not known.
    Lost {
        /// Why.
        error: Error,
    },
}

/// Gives a new [`Snapshot`] whenever anything in it changes, and goes on when the daemon ends and
/// comes back.
///
/// ```no_run
/// use corosync_ipc::snapshot::{Change, Watcher};
/// use corosync_ipc::{Deadline, Endpoint};
///
/// let mut watcher = Watcher::new(&Endpoint::from_env()?)?;
/// while let Some(change) = watcher.next(Deadline::NEVER)? {
///     match change {
///         Change::Snapshot(snapshot) => println!("quorate: {:?}", snapshot.quorate),
///         Change::Lost { error } => println!("nothing is known: {error}"),
///         _ => {}
///     }
/// }
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
///
/// quorum, votequorum, and keys of cmap tell it what changes, connections of links included. What
/// nobody tells, such as the state of links before corosync 2.99, it notices within
/// [`Watcher::refresh`]. Changes that come quickly one after the other give one snapshot, that of
/// the last.
pub struct Watcher {
    endpoint: Endpoint,
    options: Options,
    refresh: Duration,
    poller: Poller,
    timer: Timer,
    waker: Waker,
    quorum: Polled<quorum::Client>,
    cmap: Polled<cmap::Client>,
    /// Where votequorum is configured.
    votequorum: Option<Polled<votequorum::Client>>,
    /// The stats map, where links have keys there.
    stats: Option<Polled<cmap::Client>>,
    /// When to take the next snapshot.
    due: Instant,
    /// Why the connection was lost, until that is told.
    lost: Option<Error>,
    /// `None` at first, and while nothing is known.
    last: Option<Snapshot>,
    is_lost: bool,
}

/// A client whose descriptor the poller watches as long as this lives.
struct Polled<C: Supervise> {
    client: Supervised<C>,
    _descriptor: OwnedFd,
}

impl<C: Supervise> Polled<C> {
    fn new(mut client: Supervised<C>, poller: &Poller) -> Result<Self> {
        let descriptor = client.descriptor()?;
        poller.add(&descriptor, 0).map_err(failed)?;
        Ok(Self { client, _descriptor: descriptor })
    }
}

/// How often to look for what nobody tells, unless the caller says otherwise.
const REFRESH: Duration = Duration::from_secs(10);

/// How often to look while a part is missing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How long to wait for further changes after one.
const SETTLE: Duration = Duration::from_millis(20);

/// The most notices of a client that are taken in one go, so that no flood keeps the others waiting.
const NOTICES: usize = 256;

/// The most connections of links that are watched: those of 8 links to more nodes than a corosync
/// has, which are 384. Others are noticed by the next look.
const CONNECTIONS: usize = 4096;

/// What keys of the map begin with that tell of nodes, links, votes and the configuration.
const PREFIXES: [&str; 7] = [
    "nodelist.",
    "quorum.",
    "totem.",
    "config.",
    "runtime.members.",
    "runtime.totem.pg.mrp.srp.members.",
    "runtime.totem.pg.mrp.rrp.",
];

impl Watcher {
    /// Watches the daemon at this endpoint. It connects in [`Watcher::next`], not now.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        Self::with(endpoint, Options::new())
    }

    /// As [`Watcher::new`], with these parts in the snapshots.
    ///
    /// # Errors
    /// As [`Watcher::new`].
    pub fn with(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let to = endpoint.clone();
        let mut quorum = Supervised::new(move || quorum::Client::connect_to(&to));
        quorum.set_up(TrackFlags::CHANGES)?;
        let to = endpoint.clone();
        let mut cmap = Supervised::new(move || cmap::Client::connect_to(&to));
        for prefix in PREFIXES {
            cmap.set_up(CmapTracker::new(prefix, TrackEvents::ALL | TrackEvents::PREFIX))?;
        }
        let (waker, poller, timer) = (Waker::new()?, Poller::new(), Timer::new());
        let (poller, timer) = (poller.map_err(failed)?, timer.map_err(failed)?);
        poller.add(&timer, 0).map_err(failed)?;
        poller.add(waker.wakeup(), 0).map_err(failed)?;
        let (quorum, cmap) = (Polled::new(quorum, &poller)?, Polled::new(cmap, &poller)?);
        Ok(Self {
            endpoint: endpoint.clone(),
            options,
            refresh: REFRESH,
            poller,
            timer,
            waker,
            quorum,
            cmap,
            votequorum: None,
            stats: None,
            due: Instant::now(),
            lost: None,
            last: None,
            is_lost: false,
        })
    }

    /// How often to look for what nobody tells. Default: 10 seconds.
    pub fn refresh(mut self, every: Duration) -> Self {
        self.refresh = every;
        self
    }

    /// Waits for the next change until the deadline: `Duration`, `Instant` or [`Deadline::NEVER`].
    /// `None` when it passed, or when the [`Watcher::waker`] was used. The first snapshot comes
    /// at once.
    ///
    /// Connecting and taking a snapshot may go beyond the deadline: with a stopped or slow daemon by
    /// the endpoint's [timeout](Endpoint::timeout), a few times.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when connecting fails with it, as it would always;
    /// [`Error::System`] when there are no file descriptors left. That the daemon is lost is a
    /// [`Change`].
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<Change>> {
        let deadline = deadline.into().instant();
        let change = loop {
            if self.waker.take() {
                break None;
            }
            if let Some(change) = self.look()? {
                break Some(change);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break None;
            }
            // A timer that has expired stays readable until it is set again.
            self.timer.set(Some(self.due));
            let until = deadline.map_or(self.due, |deadline| deadline.min(self.due));
            self.poller.wait(&mut Vec::new(), Some(until)).map_err(failed)?;
            self.waker.wakeup().clear();
        };
        self.timer.set(Some(self.due));
        Ok(change)
    }

    /// Ends one [`Watcher::next`] from another thread: the one under way, or else the next.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Takes the notices that wait, and a snapshot if it is due.
    fn look(&mut self) -> Result<Option<Change>> {
        self.pump(|watcher| Some(&mut watcher.quorum))?;
        self.pump(|watcher| Some(&mut watcher.cmap))?;
        self.pump(|watcher| watcher.votequorum.as_mut())?;
        self.pump(|watcher| watcher.stats.as_mut())?;
        if let Some(error) = self.lost.take() {
            if let Some(change) = self.lose(error) {
                return Ok(Some(change));
            }
        }
        if Instant::now() < self.due {
            return Ok(None);
        }
        let snapshot = match Snapshot::take_with(&self.endpoint, self.options) {
            Ok(snapshot) => snapshot,
            Err(error @ Error::InvalidArgument { .. }) => return Err(error),
            Err(error) => {
                self.due = later(Instant::now(), LOOK_AGAIN);
                return Ok(self.lose(error));
            }
        };
        let is_whole = snapshot.errors.is_empty()
            && snapshot.services.iter().all(|service| service.fault().is_none());
        let pause = if is_whole { self.refresh } else { LOOK_AGAIN };
        self.due = later(Instant::now(), pause);
        self.follow(&snapshot)?;
        if self.last.as_ref() == Some(&snapshot) {
            return Ok(None);
        }
        self.is_lost = false;
        self.last = Some(snapshot.clone());
        Ok(Some(Change::Snapshot(Box::new(snapshot))))
    }

    /// `None` if that is told already.
    fn lose(&mut self, error: Error) -> Option<Change> {
        self.last = None;
        (!std::mem::replace(&mut self.is_lost, true)).then_some(Change::Lost { error })
    }

    /// Takes the notices of a client.
    fn pump<C: Supervise>(
        &mut self,
        client: impl Fn(&mut Self) -> Option<&mut Polled<C>>,
    ) -> Result<()> {
        for _ in 0..NOTICES {
            let Some(polled) = client(self) else { break };
            match polled.client.next(Duration::ZERO)? {
                Some(Notice::Event(_) | Notice::Up(_)) => {
                    self.due = self.due.min(later(Instant::now(), SETTLE));
                }
                Some(Notice::Lost { error }) => {
                    self.due = Instant::now();
                    self.lost.get_or_insert(error);
                }
                Some(Notice::Retry { .. }) => {}
                None => break,
            }
        }
        Ok(())
    }

    /// Watches what this snapshot says there is.
    fn follow(&mut self, snapshot: &Snapshot) -> Result<()> {
        match snapshot.has_votequorum() {
            Some(true) if self.votequorum.is_none() => {
                let to = self.endpoint.clone();
                let mut client = Supervised::new(move || votequorum::Client::connect_to(&to));
                client.set_up(VotequorumTracker { context: 0, flags: TrackFlags::CHANGES })?;
                self.votequorum = Some(Polled::new(client, &self.poller)?);
            }
            Some(false) => self.votequorum = None,
            _ => {}
        }
        let keys = link_keys(snapshot);
        if self.stats.is_none() && !keys.is_empty() {
            let to = self.endpoint.clone();
            let options = cmap::Options::new().map(Map::Stats);
            let connect = move || cmap::Client::connect_with(&to, options.clone());
            self.stats = Some(Polled::new(Supervised::new(connect), &self.poller)?);
        }
        let Some(Polled { client: stats, .. }) = &mut self.stats else { return Ok(()) };
        let known = stats.setups().to_vec();
        let is_known: HashSet<&str> = known.iter().map(CmapTracker::key).collect();
        let gone = known.iter().filter(|tracker| !keys.contains(tracker.key()));
        let new = keys.iter().filter(|key| !is_known.contains(key.as_str()));
        // A request that is under way when the time is over goes on, since one that is given up
        // costs the connection. The rest is for the next look.
        let call = Call::request(&self.endpoint, "following links");
        for tracker in gone.take_while(|_| !call.is_over()) {
            // If it fails, so does the connection, or the daemon forgot it.
            let _ = stats.take_down(tracker);
        }
        for key in new.take_while(|_| !call.is_over()) {
            // A link that has just gone has no key. It is noticed by the next look.
            let _ = stats.set_up(CmapTracker::new(key, TrackEvents::MODIFY));
        }
        Ok(())
    }
}

/// Readable when [`Watcher::next`] has something to do: call it then with no time to wait. Only
/// poll it.
impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn failed(source: io::Error) -> Error {
    Error::system("watching a daemon", source)
}

/// The keys that tell whether knet connects another node by a link, at most [`CONNECTIONS`].
fn link_keys(snapshot: &Snapshot) -> BTreeSet<String> {
    let links = snapshot.links.iter().flatten();
    let knet = links.filter(|link| link.transport.as_deref() == Some("knet"));
    let keys = knet.filter_map(|link| Some((link.link?, link.nodes.as_ref()?)));
    keys.flat_map(|(link, nodes)| {
        let is_reported = nodes.iter().filter(|node| node.connected.is_some());
        is_reported.map(move |node| format!("stats.knet.node{}.link{link}.connected", node.node_id))
    })
    .take(CONNECTIONS)
    .collect()
}
