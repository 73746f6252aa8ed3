//! A part of cmap that is read again whenever it changes.

#[cfg(feature = "tokio")]
mod asynchronous;

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncWatch;

use super::{CmapTracker, Notice, Supervised, is_too_early, loses_connection};
use crate::cmap::{self, Client, TrackEvents};
use crate::endpoint::{Deadline, later};
use crate::error::{Error, Result};
use crate::libqb::client::Waker;

/// Gives a part of cmap as a value of any type, first as it is and then whenever something in it
/// changes: [`cmap::Client::read`] over a client that connects again.
///
/// ```no_run
/// use corosync_ipc::supervise::{Notice, Watch};
/// use corosync_ipc::{Deadline, NodeId, cmap};
///
/// #[derive(serde::Deserialize)]
/// struct Node {
///     nodeid: NodeId,
///     ring0_addr: String,
/// }
///
/// let mut nodes = Watch::<Vec<Node>>::new(cmap::Client::connect, "nodelist.node.")?;
/// while let Some(notice) = nodes.next(Deadline::NEVER)? {
///     match notice {
///         Notice::Event(Ok(nodes)) => {
///             nodes.iter().for_each(|node| println!("{} at {}", node.nodeid, node.ring0_addr));
///         }
///         Notice::Event(Err(error)) => println!("not a list of nodes: {error}"),
///         Notice::Lost { error } => println!("{error}: it may change unseen"),
///         _ => {}
///     }
/// }
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
///
/// The notices are those of [`Supervised`], with a value as the event. A value is read after every
/// [`Notice::Up`], so what changed in a gap is in it.
///
/// A change is read at once, and the next ones at the earliest 20 ms later, or as much later as
/// reading took. So many changes give few values and cost the daemon half of its time at most, and
/// the last change is in a value in any case. A value is that of one moment,
/// not a mix of before and after, unless the part changes all the time: then it is given as it is
/// after it was read 16 times, or when that took the client's request timeout.
///
/// Where the part cannot be read into `T`, the event is an error. The watch goes on: the next change
/// is read again.
///
/// The stats map does not tell when values of a part change, but only when keys come and go: see
/// [`Client::track_add`].
pub struct Watch<T> {
    client: Supervised<Client>,
    part: Part,
    value: PhantomData<fn() -> T>,
}

/// [`Notice`] of a [`Watch`]. The error of an event is that of [`cmap::Client::read`].
pub type NoticeOfValue<T> = Notice<Result<T>, CmapTracker>;

impl<T: DeserializeOwned> Watch<T> {
    /// Watches the part of the map that [`cmap::Client::read`] reads from this prefix. The client
    /// connects by the function given, such as `cmap::Client::connect`, in [`Watch::next`], not
    /// now.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what no key can begin with.
    pub fn new(
        connect: impl Fn() -> Result<Client> + Send + Sync + 'static,
        prefix: &str,
    ) -> Result<Self> {
        let part = Part::new(prefix)?;
        let mut client = Supervised::new(connect);
        client.set_up(part.tracker())?;
        Ok(Self { client, part, value: PhantomData })
    }

    /// As [`Supervised::backoff`].
    pub fn backoff(mut self, pause: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.client = self.client.backoff(pause);
        self
    }

    /// Waits for the next notice until the deadline: `Duration`, `Instant` or [`Deadline::NEVER`].
    /// `None` when it passed, or when the [`Watch::waker`] was used.
    ///
    /// Connecting and reading may go beyond the deadline: with a stopped daemon by the endpoint's
    /// connect timeout, or by twice the client's request timeout. A request that times out loses the
    /// connection.
    ///
    /// # Errors
    /// As [`Supervised::next`].
    pub fn next(&mut self, deadline: impl Into<Deadline>) -> Result<Option<NoticeOfValue<T>>> {
        let notice = self.next_notice(deadline.into().instant());
        self.keep_readable();
        notice
    }

    fn next_notice(&mut self, deadline: Option<Instant>) -> Result<Option<NoticeOfValue<T>>> {
        loop {
            if let Some(value) = self.read() {
                return Ok(Some(Notice::Event(value)));
            }
            let limit = deadline.into_iter().chain(self.part.due).min();
            let notice = self.client.next(limit.map_or(Deadline::NEVER, Deadline::from))?;
            if self.client.was_woken {
                return Ok(None);
            }
            if let Some(notice) = notice.and_then(|notice| self.part.take(notice)) {
                return Ok(Some(notice));
            }
            // What changes need not be in the part, so the deadline is looked at in any case.
            let now = Instant::now();
            if !self.part.is_due(now) && deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Reads the value if that is due. `None` also when the connection is lost by it.
    fn read(&mut self) -> Option<Result<T>> {
        loop {
            let client = self.client.client.as_ref().filter(|_| self.client.ending.is_none())?;
            if !self.part.begin(client) {
                return None;
            }
            let value = client.read_patiently(&self.part.prefix);
            match self.part.end(client, value) {
                Read::Value(value) => return Some(value),
                Read::Again => {}
                Read::Lost(error) => {
                    self.client.ending = Some(error);
                    return None;
                }
            }
        }
    }

    /// What ends a [`Watch::next`] from another thread.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left.
    pub fn waker(&mut self) -> Result<Waker> {
        self.client.waker()
    }

    /// A descriptor for an event loop of one's own, as [`Supervised::descriptor`]: when it is
    /// readable, call [`Watch::next`] with no time to wait.
    ///
    /// # Errors
    /// As there.
    pub fn descriptor(&mut self) -> Result<OwnedFd> {
        let descriptor = self.client.descriptor();
        self.keep_readable();
        descriptor
    }

    /// The client inside, for its counters and for requests.
    pub fn supervised(&self) -> &Supervised<Client> {
        &self.client
    }

    /// Makes the descriptor readable when there is something to read.
    fn keep_readable(&mut self) {
        let Supervised { client: Some(_), ending: None, watch: Some(watch), .. } = &mut self.client
        else {
            return;
        };
        if self.part.due.is_some() {
            watch.timer.set(self.part.due);
        }
    }
}

impl<T> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("prefix", &self.part.prefix)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// How long to wait for further changes after a value, if reading it took no longer.
const PAUSE: Duration = Duration::from_millis(20);

/// How often a value is read while it changes.
const MOST_ROUNDS: usize = 16;

/// How many events are taken before a value is read all the same.
const MOST_EVENTS: usize = 1 << 12;

/// The part of the map that is read, and whether it has to be read again.
struct Part {
    prefix: String,
    /// When to read it. `None`: when it changes.
    due: Option<Instant>,
    /// When to read it if it changes.
    not_before: Instant,
    /// How often it was read for the next value, and when for the first time.
    rounds: usize,
    began: Instant,
}

/// What came of reading a value.
enum Read<T> {
    Value(Result<T>),
    /// It changed meanwhile.
    Again,
    Lost(Error),
}

impl Part {
    fn new(prefix: &str) -> Result<Self> {
        cmap::check_prefix(prefix)?;
        let (prefix, now) = (prefix.to_owned(), Instant::now());
        Ok(Self { prefix, due: None, not_before: now, rounds: 0, began: now })
    }

    fn tracker(&self) -> CmapTracker {
        CmapTracker::new(&*self.prefix, TrackEvents::ALL | TrackEvents::PREFIX)
    }

    /// Takes a notice of the client. Returns it if it is one of the watch too.
    fn take<T>(
        &mut self,
        notice: Notice<cmap::Event, CmapTracker>,
    ) -> Option<Notice<Result<T>, CmapTracker>> {
        match notice {
            Notice::Event(event) => {
                self.note(&event);
                None
            }
            Notice::Up(up) => {
                self.due = Some(Instant::now());
                Some(Notice::Up(up))
            }
            Notice::Lost { error } => {
                (self.due, self.rounds) = (None, 0);
                Some(Notice::Lost { error })
            }
            Notice::Retry { error, attempts, pause } => {
                Some(Notice::Retry { error, attempts, pause })
            }
        }
    }

    fn note(&mut self, event: &cmap::Event) {
        let cmap::Event::Notification(change) = event else { return };
        // The tracker tells of keys whose names merely begin in the same way.
        let rest = change.key.strip_prefix(&self.prefix);
        let is_whole = self.prefix.is_empty() || self.prefix.ends_with('.');
        if rest.is_some_and(|rest| is_whole || rest.is_empty() || rest.starts_with('.')) {
            self.due.get_or_insert(self.not_before);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| self.rounds > 0 || due <= now)
    }

    /// Takes the events that wait, which what is read now includes. Returns whether it is to be
    /// read.
    fn begin(&mut self, client: &Client) -> bool {
        self.take_events(client);
        let now = Instant::now();
        let is_due = self.is_due(now);
        if is_due {
            self.due = None;
            if self.rounds == 0 {
                self.began = now;
            }
            self.rounds += 1;
        }
        is_due
    }

    /// Looks whether the value that was read is that of one moment. The daemon sends the event of a
    /// change before it answers a request that came later.
    fn end<T>(&mut self, client: &Client, value: Result<T>) -> Read<T> {
        match value {
            Err(error) if loses_connection(&error) || is_too_early(&error) => Read::Lost(error),
            value => {
                self.take_events(client);
                let took = self.began.elapsed();
                let is_time = took < client.request_timeout() && self.rounds < MOST_ROUNDS;
                if self.due.is_some() && is_time {
                    return Read::Again;
                }
                self.rounds = 0;
                self.not_before = later(Instant::now(), took.max(PAUSE));
                self.due = self.due.map(|_| self.not_before);
                Read::Value(value)
            }
        }
    }

    /// Takes the events that wait. An error comes again from the next wait.
    fn take_events(&mut self, client: &Client) {
        for _ in 0..MOST_EVENTS {
            match client.poll_event() {
                Ok(Some(event)) => self.note(&event),
                Ok(None) | Err(_) => break,
            }
        }
    }
}
