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
use crate::endpoint::Deadline;
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
/// Changes that come quickly one after the other give few values: each is that of the moment when
/// it is read, and the last change is in one of them in any case. A value is that of one moment,
/// not a mix of before and after, unless the part changes all the time: then it is read 16 times at
/// most before it is given as it is.
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
    /// Connecting and reading may go beyond the deadline: with a stopped daemon they take the
    /// endpoint's connect timeout and the client's request timeout. When reading takes longer the
    /// connection counts as lost.
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
            let limit = deadline.map_or(Deadline::NEVER, Deadline::from);
            let Some(notice) = self.client.next(limit)? else { return Ok(None) };
            if let Some(notice) = self.part.take(notice) {
                return Ok(Some(notice));
            }
            // What changes need not be in the part, so the deadline is looked at in any case.
            if !self.part.is_due && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(None);
            }
        }
    }

    /// Reads the value if that is due. `None` also when the connection is lost by it.
    fn read(&mut self) -> Option<Result<T>> {
        for round in 1.. {
            let client = self.client.client.as_ref().filter(|_| self.client.ending.is_none())?;
            if !self.part.begin(client) {
                return None;
            }
            let value = client.read_patiently(&self.part.prefix);
            match self.part.end(client, value, round) {
                Read::Value(value) => return Some(value),
                Read::Again => {}
                Read::Lost(error) => {
                    self.client.ending = Some(error);
                    return None;
                }
            }
        }
        None
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

    /// Makes the descriptor readable while there is something to read.
    fn keep_readable(&mut self) {
        if let Some(watch) = self.client.watch.as_mut().filter(|_| self.part.is_due) {
            watch.timer.set(Some(Instant::now()));
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

/// How often a value is read while it changes.
const MOST_ROUNDS: usize = 16;

/// How many events are taken before a value is read all the same.
const MOST_EVENTS: usize = 1 << 12;

/// The part of the map that is read, and whether it has to be read again.
struct Part {
    prefix: String,
    is_due: bool,
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
        Ok(Self { prefix: prefix.to_owned(), is_due: false })
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
                self.is_due = true;
                Some(Notice::Up(up))
            }
            Notice::Lost { error } => {
                self.is_due = false;
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
        self.is_due |=
            rest.is_some_and(|rest| is_whole || rest.is_empty() || rest.starts_with('.'));
    }

    /// Takes the events that wait, which what is read now includes. Returns whether it is to be
    /// read.
    fn begin(&mut self, client: &Client) -> bool {
        self.take_events(client);
        std::mem::take(&mut self.is_due)
    }

    /// Looks whether the value that was read is that of one moment. The daemon sends the event of a
    /// change before it answers a request that came later.
    fn end<T>(&mut self, client: &Client, value: Result<T>, round: usize) -> Read<T> {
        match value {
            Err(error) if loses_connection(&error) || is_too_early(&error) => Read::Lost(error),
            value => {
                self.take_events(client);
                if self.is_due && round < MOST_ROUNDS { Read::Again } else { Read::Value(value) }
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
