//! Clients that connect again when the daemon comes back, repeat what the program set up, and
//! report the gap in between.
//!
//! ```no_run
//! use corosync_ipc::supervise::{Notice, Supervised};
//! use corosync_ipc::{Deadline, TrackFlags, quorum};
//!
//! let mut quorum = Supervised::new(quorum::Client::connect);
//! quorum.set_up(TrackFlags::CHANGES)?;
//! while let Some(notice) = quorum.next(Deadline::NEVER)? {
//!     match notice {
//!         Notice::Event(event) => println!("{event:?}"),
//!         Notice::Lost { error } => println!("{error}: nobody knows whether it is quorate"),
//!         Notice::Retry { error, pause, .. } => println!("{error}: trying again in {pause:?}"),
//!         Notice::Up(up) => println!("connected after {:?}: {:?}", up.gap, up.restored),
//!         _ => {}
//!     }
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! # In an event loop
//! [`Supervised::next`] waits. A loop of one's own polls [`Supervised::descriptor`] among others,
//! and calls `next` with no time to wait when that is readable.
//! [`Dispatcher::add_supervised`](crate::Dispatcher::add_supervised) does so.
//!
//! # Values
//! With the feature `serde`, `Watch` reads a part of cmap again whenever it changes, and gives it as
//! a value of any type.
//!
//! # Guarantees
//! Every event that came is handed over, in order, and a [`Notice::Lost`] stands where the next
//! ones are missing. Nothing is made up: what happened in a gap is not guessed at. [`Notice::Up`]
//! says for each thing set up what may have been [`Missed`]. A request that fails, fails: it is
//! never sent twice. A message multicast shortly before a loss may have been delivered to others or
//! not, and comes back in neither case.

#[cfg(feature = "tokio")]
mod asynchronous;
mod dispatched;
mod services;
#[cfg(feature = "serde")]
mod watch;

use std::fmt;
#[cfg(feature = "tokio")]
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncSupervised;
pub use dispatched::NoticeHandler;
pub use services::{CfgTracker, CmapTracker, VotequorumTracker};
#[cfg(all(feature = "serde", feature = "tokio"))]
pub use watch::AsyncWatch;
#[cfg(feature = "serde")]
pub use watch::{NoticeOfValue, Watch};

#[cfg(feature = "tokio")]
use crate::client::AsyncClient;
use crate::client::ServiceClient;
use crate::endpoint::{Deadline, later};
use crate::error::{CsError, Error, Result};
use crate::libqb::client::{ClientStats, Limit, Waker};
use crate::sys::event::{Poller, Timer};
use crate::sys::wait::{Interest, wait_for};

/// A client that can be supervised, which each service's is. Only this crate implements it.
pub trait Supervise: ServiceClient {
    /// Something that the daemon forgets when the connection ends: a tracker, a group
    /// joined.
    type Setup: Clone + PartialEq + fmt::Debug + Send + Sync + 'static;

    /// The service's client for tokio.
    #[cfg(feature = "tokio")]
    type Async: From<AsyncClient<Self>> + Deref<Target = AsyncClient<Self>> + fmt::Debug + Send;

    /// How many of them a client can have.
    #[doc(hidden)]
    const MOST: usize;

    /// Sets it up.
    #[doc(hidden)]
    fn set_up(client: &Self, setup: &Self::Setup) -> Result<()>;

    /// Takes it down.
    #[doc(hidden)]
    fn take_down(client: &Self, setup: &Self::Setup) -> Result<()>;

    /// Returns what may be missed of it in a gap.
    #[doc(hidden)]
    fn missed(setup: &Self::Setup) -> Missed;
}

/// What may have been missed while there was no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Missed {
    /// Nothing: there was none before.
    Nothing,
    /// States in between. The present one follows as an event.
    States,
    /// Changes, the last one too. Query the current state.
    Changes,
    /// Messages. They do not come again. The group's present membership follows as an event.
    Messages,
}

/// A notice of a supervised client.
#[derive(Debug)]
#[non_exhaustive]
pub enum Notice<E, T> {
    /// An event.
    Event(E),
    /// The connection is lost, after every event that came on it was handed over. What happens from
    /// now on may be missed.
    Lost {
        /// Why it ended.
        error: Error,
    },
    /// An attempt to connect, or to set things up again, failed. There will be another one.
    Retry {
        /// What failed.
        error: Error,
        /// How many attempts failed since the connection was lost.
        attempts: u32,
        /// How long until the next one. While nobody listens at the service's socket and no other
        /// [pause](Supervised::backoff) is set, how long until the next that is told:
        /// meanwhile there are more, see [`default_backoff`].
        pause: Duration,
    },
    /// There is a connection, for the first time or again.
    Up(Up<T>),
}

/// There is a connection: [`Notice::Up`].
#[derive(Debug)]
pub struct Up<T> {
    /// How long there was none; `None` the first time.
    pub gap: Option<Duration>,
    /// What was set up, in the order in which it was first.
    pub restored: Vec<Restored<T>>,
}

/// Something that was set up again, or not.
#[derive(Debug)]
pub struct Restored<T> {
    /// What.
    pub setup: T,
    /// What came of it. After an error it is not set up; it will be tried again after the next
    /// gap.
    pub result: Result<()>,
    /// What may have been missed of it.
    pub missed: Missed,
}

/// The counters of a supervised client over all its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SupervisedStats {
    /// How often the connection was lost.
    pub gaps: u64,
    /// The counters of all connections together. The fill of the rings is that of the present
    /// connection, 0 when there is none.
    pub connections: ClientStats,
}

/// [`Notice`] of a service.
pub type NoticeOf<C> = Notice<<C as ServiceClient>::Event, <C as Supervise>::Setup>;

/// The pause before the second, third and later attempts if nothing else is said: 100 ms, then
/// twice as long each time, at most 5 s.
///
/// While nobody listens at the service's socket, an attempt costs a system call and disturbs no
/// daemon. So meanwhile there is one every 50 ms, and the pauses say only how often that is told.
/// When somebody listens again, they begin anew. So a client is connected some ten milliseconds
/// after a daemon takes connections again.
pub fn default_backoff(attempts: u32) -> Duration {
    const MOST: Duration = Duration::from_secs(5);
    Duration::from_millis(100)
        .saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX))
        .min(MOST)
}

/// A client that connects again when it has to: the blocking one. For tokio there is
/// `AsyncSupervised`.
///
/// It sets up again what was set up by [`Supervised::set_up`], and not what was through the
/// present [`Supervised::client`].
pub struct Supervised<C: Supervise> {
    plan: Plan<C>,
    client: Option<Arc<C>>,
    /// What made the client useless. The events it has left are handed over before.
    ending: Option<Error>,
    waker: Option<Waker>,
    /// Whether the waker ended the last wait.
    was_woken: bool,
    watch: Option<Watched<C>>,
}

/// What [`Supervised::descriptor`] is made of.
struct Watched<C: Supervise> {
    poller: Poller,
    /// Goes off when an attempt is due, or when a client has ended and its socket does not signal
    /// it.
    timer: Timer,
    /// The client whose socket the poller knows.
    client: Option<Arc<C>>,
}

impl<C: Supervise> Supervised<C> {
    /// A client that connects by the function given, such as `quorum::Client::connect`. It does so
    /// in [`Supervised::next`], not now, so a program can start before the daemon.
    pub fn new(connect: impl Fn() -> Result<C> + Send + Sync + 'static) -> Self {
        Self {
            plan: Plan::new(connect),
            client: None,
            ending: None,
            waker: None,
            was_woken: false,
            watch: None,
        }
    }

    /// Sets how long to wait after an attempt, by the number of attempts that failed since the
    /// connection was lost, but 1 at least. Default: [`default_backoff`], with more attempts
    /// while nobody listens. The first attempt follows a loss at once, unless the one before was
    /// less than a pause ago.
    pub fn backoff(mut self, pause: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.plan.pace.backoff = Some(Box::new(pause));
        self
    }

    /// Waits for the next notice until the deadline: `Duration`, `Instant` or [`Deadline::NEVER`].
    /// `None` when it passed, or when the [`Supervised::waker`] was used.
    ///
    /// An attempt to connect may go beyond the deadline: with a stopped daemon it takes the
    /// endpoint's connect timeout. All setups together have one request timeout.
    ///
    /// # Errors
    /// [`Error::Finalized`] when the client was finalized; [`Error::InvalidArgument`] when
    /// connecting fails with it, as it would always; [`Error::System`] when there is no file
    /// descriptor for a waker. Everything else comes as a notice.
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<NoticeOf<C>>> {
        let notice = self.next_notice(deadline.into().instant());
        self.update_watch();
        notice
    }

    fn next_notice(&mut self, deadline: Option<Instant>) -> Result<Option<NoticeOf<C>>> {
        let waker = self.waker()?;
        loop {
            self.was_woken = waker.take();
            if self.was_woken {
                return Ok(None);
            }
            let Some(client) = &self.client else {
                match self.plan.pace.attempt_at {
                    Some(at) if at > Instant::now() => {
                        wait_for(
                            waker.wakeup(),
                            Interest::Readable,
                            Some(deadline.map_or(at, |deadline| deadline.min(at))),
                        )
                        .map_err(|source| Error::system("waiting for the next attempt", source))?;
                        waker.wakeup().clear();
                    }
                    _ => {
                        if let Some(notice) = self.attempt()? {
                            return Ok(Some(notice));
                        }
                    }
                }
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(None);
                }
                continue;
            };
            let waited = match (client.poll_event(), self.ending.take()) {
                (Ok(Some(event)), ending) => {
                    self.ending = ending;
                    return Ok(Some(Notice::Event(event)));
                }
                (Ok(None), None) => client.core().connection.wait_event(&waker, deadline),
                (Err(Error::Finalized), _) => return Err(Error::Finalized),
                (Ok(None), Some(error)) | (Err(_), Some(error)) | (Err(error), None) => Err(error),
            };
            if let Err(error) = waited {
                self.plan.pace.lost(client.stats(), Instant::now());
                self.client = None;
                return Ok(Some(Notice::Lost { error }));
            }
            // What waits need not become an event, so the deadline is looked at in any case.
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Sets something up now and after every gap. Without a connection it is noted, and set up when
    /// there is one: [`Notice::Up`] tells what came of it.
    ///
    /// # Errors
    /// The daemon's refusal, after which it is not noted. [`Error::Cs`] with [`CsError::Exist`]
    /// when it is noted already, or another one where a client can have only one.
    pub fn set_up(&mut self, setup: C::Setup) -> Result<()> {
        self.plan.note(&setup)?;
        let Some(client) = self.client.as_ref().filter(|_| self.ending.is_none()) else {
            return Ok(());
        };
        let result = C::set_up(client, &setup);
        self.ending = self.plan.settle(&setup, result)?;
        self.update_watch();
        Ok(())
    }

    /// Takes something down, and does not set it up again.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`] when it was not set up, and otherwise what the
    /// daemon refuses it with; it is not set up again in any case.
    pub fn take_down(&mut self, setup: &C::Setup) -> Result<()> {
        self.plan.forget(setup)?;
        let Some(client) = self.client.as_ref().filter(|_| self.ending.is_none()) else {
            return Ok(());
        };
        match C::take_down(client, setup) {
            Err(error) if loses_connection(&error) => self.ending = Some(error),
            result => result?,
        }
        self.update_watch();
        Ok(())
    }

    /// The setups that are repeated after a gap.
    pub fn setups(&self) -> &[C::Setup] {
        &self.plan.setups
    }

    /// Returns the counters of this client over all its connections.
    pub fn stats(&self) -> SupervisedStats {
        self.plan.pace.stats(self.client.as_ref().map(|client| client.stats()))
    }

    /// The present client, for requests.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when there is none.
    pub fn client(&self) -> Result<&Arc<C>> {
        self.client.as_ref().ok_or(Error::NotConnected { service: C::SERVICE.into() })
    }

    /// What ends a [`Supervised::next`] from another thread. The waker of the
    /// [client](Self::client) does not.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left.
    pub fn waker(&mut self) -> Result<Waker> {
        match &self.waker {
            Some(waker) => Ok(waker.clone()),
            None => Ok(self.waker.insert(Waker::new()?).clone()),
        }
    }

    /// A descriptor for an event loop of one's own. It polls readable while [`Supervised::next`]
    /// has something to do: there is an event, the connection has ended, an attempt to connect
    /// is due, or the [`Supervised::waker`] was used. Then call `next` with a deadline in the
    /// past, such as [`Duration::ZERO`], at least once; that there is no notice is nothing wrong.
    ///
    /// That `next` does not wait for events, but it connects when that is due. With a daemon that
    /// is stopped this takes the endpoint's [connect
    /// timeout](crate::Endpoint::connect_timeout), 5 seconds by default: set a short one where
    /// the loop must go on.
    ///
    /// It is the same thing over all connections, and outlives them: register it once, for reading
    /// and level-triggered. Only poll it.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left: the first call takes four, later
    /// ones take one.
    pub fn descriptor(&mut self) -> Result<OwnedFd> {
        let waker = self.waker()?;
        let new = || {
            let (poller, timer) = (Poller::new()?, Timer::new()?);
            poller.add(&timer, 0)?;
            poller.add(waker.wakeup(), 0)?;
            Ok(Watched { poller, timer, client: None })
        };
        let failed = |source| Error::system("making a descriptor of a supervised client", source);
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => new().map_err(failed)?,
        };
        let descriptor = self.watch.insert(watch).poller.as_fd().try_clone_to_owned();
        self.update_watch();
        descriptor.map_err(failed)
    }

    /// When the next attempt to connect is due, for event loops with timers of their own; in the
    /// past: at once. `None` while there is a connection. The [`Supervised::descriptor`]
    /// becomes readable then.
    pub fn next_attempt_at(&self) -> Option<Instant> {
        self.client.is_none().then(|| self.plan.pace.attempt_at.unwrap_or_else(Instant::now))
    }

    /// Makes the descriptor readable when [`Supervised::next`] has something to do.
    fn update_watch(&mut self) {
        let Some(watch) = &mut self.watch else { return };
        let as_pointer = |client: &Option<Arc<C>>| client.as_ref().map(Arc::as_ptr);
        if as_pointer(&watch.client) != as_pointer(&self.client) {
            if let Some(old) = watch.client.take() {
                watch.poller.remove(&*old);
            }
            if let Some(new) = &self.client {
                match watch.poller.add(&**new, 0) {
                    Ok(()) => watch.client = Some(Arc::clone(new)),
                    // Without it nobody would hear of its events.
                    Err(source) => {
                        self.ending = Some(Error::system("watching a supervised client", source))
                    }
                }
            }
        }
        let due = if self.ending.is_some() { Some(Instant::now()) } else { None };
        watch.timer.set(match &self.client {
            Some(_) => due,
            None => Some(self.plan.pace.attempt_at.unwrap_or_else(Instant::now)),
        });
    }

    /// Attempts to connect. `None`: nobody listens still, which was told before.
    fn attempt(&mut self) -> Result<Option<NoticeOf<C>>> {
        self.plan.pace.begin(Instant::now());
        match attempt(&*self.plan.connect, &self.plan.setups) {
            Ok((client, restored)) => {
                self.client = Some(Arc::new(client));
                Ok(Some(self.plan.up(restored, Instant::now())))
            }
            Err(error) => self.plan.failed(error, Instant::now()),
        }
    }
}

impl<C: Supervise> fmt::Debug for Supervised<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised")
            .field("client", &self.client)
            .field("setups", &self.plan.setups)
            .finish_non_exhaustive()
    }
}

/// How often to look whether somebody listens again where nobody did.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

type Connect<C> = dyn Fn() -> Result<C> + Send + Sync;

/// The result of an attempt that succeeds.
type Attempt<C> = (C, Vec<Restored<<C as Supervise>::Setup>>);

/// The setups, and when to attempt to connect. No I/O and no clock: time comes in as an argument.
struct Plan<C: Supervise> {
    connect: Arc<Connect<C>>,
    setups: Vec<C::Setup>,
    pace: Pace,
}

/// When to attempt to connect: the same for all services.
#[derive(Default)]
struct Pace {
    /// `None`: the default.
    backoff: Option<Box<dyn Fn(u32) -> Duration + Send + Sync>>,
    /// When the connection was lost, if there ever was one and there is none now.
    lost: Option<Instant>,
    /// When the last attempt began, and how many failed since the last success.
    begun: Option<Instant>,
    failed: u32,
    /// Whether nobody listened at the last attempt, how many failures of the same kind were told,
    /// and when the next is told.
    nobody_listens: bool,
    told: u32,
    tell_at: Option<Instant>,
    /// When the next attempt may begin. `None`: at once.
    attempt_at: Option<Instant>,
    /// How often the connection was lost, and what the clients before did.
    gaps: u64,
    past: ClientStats,
}

impl Pace {
    fn begin(&mut self, now: Instant) {
        self.begun = Some(now);
    }

    /// An attempt failed. Returns the pause that is told, or `None` if nothing is.
    fn failed(&mut self, error: &Error, now: Instant) -> Option<Duration> {
        self.failed = self.failed.saturating_add(1);
        if let Some(backoff) = &self.backoff {
            let pause = backoff(self.failed);
            self.attempt_at = Some(later(now, pause));
            return Some(pause);
        }
        let nobody_listens = matches!(error, Error::NoSocket { .. });
        if nobody_listens != self.nobody_listens {
            (self.nobody_listens, self.told, self.tell_at) = (nobody_listens, 0, None);
        }
        let look_again = now + LOOK_AGAIN;
        if let Some(tell_at) = self.tell_at.filter(|tell_at| nobody_listens && now < *tell_at) {
            self.attempt_at = Some(look_again.min(tell_at));
            return None;
        }
        self.told = self.told.saturating_add(1);
        let pause = default_backoff(self.told);
        self.tell_at = Some(now + pause);
        self.attempt_at = Some(if nobody_listens { look_again } else { now + pause });
        Some(pause)
    }

    /// The pause after one failure.
    fn first_pause(&self) -> Duration {
        self.backoff.as_ref().map_or_else(|| default_backoff(1), |backoff| backoff(1))
    }

    /// There is a connection. Returns how long there was none, unless it is the first.
    fn up(&mut self, now: Instant) -> Option<Duration> {
        (self.failed, self.told, self.tell_at) = (0, 0, None);
        self.lost.take().map(|lost| now.saturating_duration_since(lost))
    }

    /// The connection is lost, whose client has these counters.
    fn lost(&mut self, client: ClientStats, now: Instant) {
        self.past = client.after(&self.past);
        self.lost = Some(now);
        self.gaps += 1;
        // At once, but not all the time with a daemon that accepts connections only to close them.
        self.attempt_at = self.begun.map(|begun| later(begun, self.first_pause()));
    }

    /// `present`: those of the client there is.
    fn stats(&self, present: Option<ClientStats>) -> SupervisedStats {
        let connections = present.unwrap_or_default().after(&self.past);
        SupervisedStats { gaps: self.gaps, connections }
    }
}

impl<C: Supervise> Plan<C> {
    fn new(connect: impl Fn() -> Result<C> + Send + Sync + 'static) -> Self {
        Self { connect: Arc::new(connect), setups: Vec::new(), pace: Pace::default() }
    }

    /// An attempt failed. `None`: that is not told.
    fn failed(&mut self, error: Error, now: Instant) -> Result<Option<NoticeOf<C>>> {
        if matches!(error, Error::InvalidArgument { .. }) {
            return Err(error);
        }
        let pause = self.pace.failed(&error, now);
        let attempts = self.pace.failed;
        Ok(pause.map(|pause| Notice::Retry { error, attempts, pause }))
    }

    fn up(&mut self, mut restored: Vec<Restored<C::Setup>>, now: Instant) -> NoticeOf<C> {
        let gap = self.pace.up(now);
        if gap.is_none() {
            restored.iter_mut().for_each(|restored| restored.missed = Missed::Nothing);
        }
        Notice::Up(Up { gap, restored })
    }

    fn note(&mut self, setup: &C::Setup) -> Result<()> {
        if self.setups.len() >= C::MOST || self.setups.contains(setup) {
            return Err(Error::Cs { call: "set up".into(), error: CsError::Exist });
        }
        self.setups.push(setup.clone());
        Ok(())
    }

    /// What was noted is set up now, or was refused and is forgotten, or else the connection is
    /// lost, by the error returned.
    fn settle(&mut self, setup: &C::Setup, result: Result<()>) -> Result<Option<Error>> {
        match result {
            Ok(()) => Ok(None),
            Err(error) if loses_connection(&error) => Ok(Some(error)),
            Err(error) => {
                self.setups.retain(|noted| noted != setup);
                Err(error)
            }
        }
    }

    fn forget(&mut self, setup: &C::Setup) -> Result<()> {
        let position = self.setups.iter().position(|noted| noted == setup);
        let position =
            position.ok_or(Error::Cs { call: "take down".into(), error: CsError::NotExist })?;
        self.setups.remove(position);
        Ok(())
    }
}

/// Connects, and sets everything up.
fn attempt<C: Supervise>(connect: &Connect<C>, setups: &[C::Setup]) -> Result<Attempt<C>> {
    let client = connect()?;
    // All setups have one deadline, as one call of the user has.
    let _limit = Limit::set(client.core().call("setting up").deadline);
    let restore = |setup: &C::Setup| match C::set_up(&client, setup) {
        Err(error) if loses_connection(&error) || is_too_early(&error) => Err(error),
        result => Ok(Restored { setup: setup.clone(), result, missed: C::missed(setup) }),
    };
    let restored = setups.iter().map(restore).collect::<Result<_>>()?;
    Ok((client, restored))
}

/// Whether a connection is of no use after this error. After a timeout it is not
/// known what is set up and what not.
fn loses_connection(error: &Error) -> bool {
    matches!(
        error,
        Error::Disconnected { .. }
            | Error::TimedOut { .. }
            | Error::Protocol { .. }
            | Error::System { .. }
            | Error::Finalized
            | Error::ForeignProcess { .. }
    )
}

/// Whether the daemon needs more time: it starts, synchronizes, or still has the old connection.
fn is_too_early(error: &Error) -> bool {
    matches!(
        error,
        Error::Cs { error: CsError::TryAgain | CsError::Busy | CsError::Exist, .. }
            | Error::PidTaken { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::SocketAddress;
    use crate::quorum;
    use crate::wire::values::TrackFlags;

    fn plan() -> Plan<quorum::Client> {
        Plan::new(|| Err(Error::Finalized))
    }

    fn gone() -> Error {
        Error::disconnected("quorum")
    }

    #[test]
    fn pauses_double_up_to_five_seconds() {
        let pauses =
            [1, 2, 3, 6, 7, 33, u32::MAX].map(|attempts| default_backoff(attempts).as_millis());
        assert_eq!(pauses, [100, 200, 400, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn failures_are_counted_from_one_success_to_the_next() {
        let (mut plan, now) = (plan(), Instant::now());
        for failed in 1..=3 {
            plan.pace.begin(now);
            let notice = plan.failed(gone(), now).unwrap();
            assert!(matches!(notice, Some(Notice::Retry { attempts, pause, .. })
                if attempts == failed && pause == default_backoff(failed)));
            assert_eq!(plan.pace.attempt_at, Some(now + default_backoff(failed)));
        }
        assert!(matches!(plan.up(Vec::new(), now), Notice::Up(Up { gap: None, .. })));
        assert!(matches!(
            plan.failed(gone(), now).unwrap(),
            Some(Notice::Retry { attempts: 1, .. })
        ));
    }

    /// The notices of attempts that fail until `end`: when, and after how many.
    fn failures(
        plan: &mut Plan<quorum::Client>,
        start: Instant,
        end: Duration,
        error: impl Fn() -> Error,
    ) -> Vec<(Duration, u32)> {
        let (mut now, mut told) = (start, Vec::new());
        while now < start + end {
            plan.pace.begin(now);
            if let Some(Notice::Retry { attempts, .. }) = plan.failed(error(), now).unwrap() {
                told.push((now - start, attempts));
            }
            now = plan.pace.attempt_at.unwrap();
        }
        told
    }

    #[test]
    fn where_nobody_listens_it_is_looked_often_and_told_seldom() {
        let nobody = || {
            let source = std::io::ErrorKind::ConnectionRefused.into();
            let address = SocketAddress::Path("/run/quorum".into());
            Error::NoSocket { service: "quorum".into(), address, source }
        };
        let (mut plan, start) = (plan(), Instant::now());
        let told = failures(&mut plan, start, Duration::from_secs(60), nobody);
        let first: Vec<_> =
            told.iter().take(4).map(|(at, attempts)| (at.as_millis(), *attempts)).collect();
        assert_eq!(first, [(0, 1), (100, 3), (300, 7), (700, 15)]);
        assert!(told.len() < 20 && plan.pace.failed >= 1100, "{told:?}");
        // Whoever listens is left alone for a while when something is wrong, but not for long at
        // first.
        let told = failures(&mut plan, start, Duration::from_secs(1), gone);
        assert_eq!(
            told.iter().map(|(at, _)| at.as_millis()).collect::<Vec<_>>(),
            [0, 100, 300, 700]
        );
        // The caller's pauses are kept exactly.
        plan.pace.backoff = Some(Box::new(|_| Duration::from_secs(1)));
        assert_eq!(failures(&mut plan, start, Duration::from_secs(3), nobody).len(), 3);
    }

    #[test]
    fn a_loss_is_followed_by_an_attempt_at_once_but_not_over_and_over() {
        let (mut plan, start) = (plan(), Instant::now());
        let second = Duration::from_secs(1);
        plan.pace.begin(start);
        plan.up(Vec::new(), start);
        plan.pace.lost(ClientStats::default(), start + second);
        assert!(
            plan.pace.attempt_at.unwrap() < start + second,
            "it was up for longer than a pause"
        );
        plan.pace.begin(start + second);
        let restored =
            vec![Restored { setup: TrackFlags::CHANGES, result: Ok(()), missed: Missed::States }];
        let Notice::Up(up) = plan.up(restored, start + 3 * second) else { panic!("it is up") };
        assert_eq!((up.gap, up.restored[0].missed), (Some(2 * second), Missed::States));
        plan.pace.begin(start + 4 * second);
        plan.pace.lost(ClientStats::default(), start + 4 * second);
        assert_eq!(
            plan.pace.attempt_at,
            Some(start + 4 * second + default_backoff(1)),
            "it was closed at once"
        );
    }

    #[test]
    fn a_pause_without_end_ends_never() {
        let (mut plan, now) = (plan(), Instant::now());
        let day = Duration::from_secs(24 * 3600);
        plan.pace.backoff = Some(Box::new(|_| Duration::MAX));
        plan.pace.begin(now);
        plan.failed(gone(), now).unwrap();
        assert!(plan.pace.attempt_at.unwrap() > now + day);
        plan.pace.begin(now);
        plan.up(Vec::new(), now);
        plan.pace.lost(ClientStats::default(), now);
        assert!(plan.pace.attempt_at.unwrap() > now + day);
    }

    #[test]
    fn what_is_refused_is_forgotten_and_what_a_loss_prevented_is_not() {
        let mut plan = plan();
        plan.note(&TrackFlags::CHANGES).unwrap();
        let exists = plan.note(&TrackFlags::CURRENT).unwrap_err();
        assert_eq!(exists.cs_error(), CsError::Exist);
        assert!(plan.settle(&TrackFlags::CHANGES, Err(gone())).unwrap().is_some());
        assert_eq!(plan.setups, [TrackFlags::CHANGES]);
        let refused = Error::Cs { call: "quorum trackstart".into(), error: CsError::Access };
        assert!(plan.settle(&TrackFlags::CHANGES, Err(refused)).is_err());
        assert!(plan.setups.is_empty());
        assert_eq!(plan.forget(&TrackFlags::CHANGES).unwrap_err().cs_error(), CsError::NotExist);
    }
}
