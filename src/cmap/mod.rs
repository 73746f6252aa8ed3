//! The cmap service: corosync's configuration and state as a map of typed values.
//!
//! Matches libcmap.
//!
//! ```no_run
//! use corosync_ipc::cmap::{Client, TrackEvents};
//!
//! let client = Client::connect()?;
//! if let Some(name) = client.get("totem.cluster_name")? {
//!     println!("this is cluster {name}");
//! }
//! for node in client.nodelist()?.nodes {
//!     println!("node {:?} at {:?}", node.node_id, node.addresses);
//! }
//! for entry in client.iter("runtime.")? {
//!     println!("{}", entry?.key);
//! }
//! client.track_add("runtime.votequorum.", TrackEvents::ALL | TrackEvents::PREFIX)?;
//! for event in client.events() {
//!     println!("{:?}", event?);
//! }
//! # Ok::<(), corosync_ipc::Error>(())
//! ```
//!
//! With the feature `serde`, `Client::read` reads a part of the map into any type, and
//! `supervise::Watch` reads it again whenever it changes.

#[cfg(feature = "tokio")]
mod asynchronous;
mod danger;
mod nodelist;
mod probe;
#[cfg(feature = "serde")]
mod read;
mod value;

use std::collections::{BTreeSet, HashMap};
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec;

use bytes::Bytes;

#[doc(inline)]
pub use crate::wire::cmap::{TrackEvents, ValueType};
#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use nodelist::{ConfiguredNode, Nodelist};
pub(crate) use probe::Probe;
#[cfg(all(
    any(test, feature = "__fuzzing"),
    feature = "serde",
    feature = "server",
    not(loom)
))]
pub(crate) use read::Tree;
pub use value::{MAX_VALUE_SIZE, Value};

use crate::client::{Service, UnknownEvent, client};
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Escaped, ProtocolError, Result, WireError};
use crate::features::{Feature, STATS_MAP, STATS_TRACKING};
use crate::libqb::buffer::Buffer;
use crate::libqb::client::{Call, Turn};
use crate::wire::Message;
use crate::wire::cmap as wire;

client! {
    /// A connection to the cmap service.
    pub struct Client: Cmap as "cmap"
}

/// The service, with what a client of it remembers.
#[derive(Debug)]
pub(crate) struct Cmap {
    map: Map,
    /// Whether a tracker of the stats map can watch keys come and go without crashing the daemon.
    stats_come_and_go: bool,
    trackers: Mutex<Trackers>,
}

/// The trackers of a client: what the daemon calls them, by what we call them.
#[derive(Debug, Default)]
struct Trackers {
    last: u64,
    handles: HashMap<u64, u64>,
}

/// The longest key, in bytes. Matches `CMAP_KEYNAME_MAXLEN`.
pub const MAX_KEY: usize = 255;

/// The shortest key, in bytes. Matches `CMAP_KEYNAME_MINLEN`.
pub const MIN_KEY: usize = 3;

/// How many keys an iteration may find, and how many bytes of keys and values may be listed, so
/// that a daemon whose list never ends cannot fill the memory. corosync's maps hold some
/// hundred keys, few of which have more than a hundred bytes.
const MOST_KEYS: usize = 1 << 20;
const MOST_BYTES: u64 = 64 << 20;

/// Which of the daemon's maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Map {
    /// Configuration and state. `CMAP_MAP_ICMAP`
    #[default]
    Icmap,
    /// Statistics, read-only but for the keys that clear them. Since corosync 2.99.
    /// `CMAP_MAP_STATS`
    Stats,
}

/// Options of [`Client::connect_with`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    map: Map,
}

impl Options {
    /// The options that [`Client::connect`] uses.
    pub fn new() -> Self {
        Self::default()
    }

    /// The map to connect to. Default: [`Map::Icmap`].
    pub fn map(mut self, map: Map) -> Self {
        self.map = map;
        self
    }
}

/// Names a tracker of one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Tracker(pub(crate) u64);

/// An event of the cmap service.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Event {
    /// A tracked key was added, changed or deleted.
    Notification(Notification),
    /// An event that this version does not know.
    Unknown(UnknownEvent),
}

/// A tracked key was added, changed or deleted. Matches `cmap_notify_fn_t`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Notification {
    /// The tracker that noticed, as [`Client::track_add`] returned it.
    pub tracker: Tracker,
    /// What happened: one of `ADD`, `MODIFY` and `DELETE`.
    pub event: TrackEvents,
    /// The key.
    pub key: String,
    /// The value it has now. `None` after a delete.
    pub new_value: Option<Value>,
    /// The value it had. `None` after an add, and where the daemon changed a counter of its own in
    /// place.
    pub old_value: Option<Value>,
}

/// A key found by iterating.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Type of its value.
    pub value_type: ValueType,
    /// Length of its value in bytes, the NUL behind a string included.
    pub value_len: u64,
}

/// Room for a value that a first request asks for. Few values are longer, and the daemon fills a
/// reply of this size whatever the value is.
const FIRST_ROOM: u64 = 1024;

/// How many requests of a list are made at once, at first and at most. Few prefixes have more keys
/// than the first, and the daemon takes as many as the last before it turns to other work.
const FIRST_BATCH: usize = 8;
const LARGEST_BATCH: usize = 50;

/// Room for any value: the longest string has a NUL behind it.
const MOST_ROOM: u64 = MAX_VALUE_SIZE as u64 + 1;

impl Client {
    /// Connects to the configuration map, as [`Endpoint::from_env`] says.
    ///
    /// Matches `cmap_initialize`.
    ///
    /// # Errors
    /// Whatever prevents a connection: the first variants of [`Error`].
    pub fn connect() -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?)
    }

    /// Connects to the configuration map.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_to(endpoint: &Endpoint) -> Result<Self> {
        Self::connect_with(endpoint, Options::new())
    }

    /// Connects with options, such as to the stats map.
    ///
    /// Matches `cmap_initialize_map`. Before it asks for the stats map, it asks the daemon for a
    /// key that tells its age, since daemons before 2.99 crash on that request.
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::Unsupported`] when the daemon has no such map.
    pub fn connect_with(endpoint: &Endpoint, options: Options) -> Result<Self> {
        Self::connect_within(endpoint, options.map, Call::connecting(endpoint))
    }

    /// As [`Client::connect_with`], as a part of another call.
    pub(crate) fn connect_within(endpoint: &Endpoint, map: Map, call: Call) -> Result<Self> {
        let mut client = Self::open(endpoint, Cmap::new(map), call)?;
        if map == Map::Stats {
            client.require(&STATS_MAP, call)?;
            client.core.service.stats_come_and_go = match client.require(&STATS_TRACKING, call) {
                Err(Error::Unsupported { .. }) => false,
                answer => answer.map(|()| true)?,
            };
            let reply = client
                .core
                .request(call.step("cmap set current map"), &wire::SetCurrentMap { map: 1 });
            STATS_MAP.or_unsupported(reply)?;
        }
        Ok(client)
    }

    /// Makes sure that the daemon has a feature.
    fn require(&self, feature: &Feature, call: Call) -> Result<()> {
        feature.require(|key| Ok(self.get_within(key, call)?.is_some()))
    }

    /// The value of a key. `None` when there is no such key.
    ///
    /// Matches `cmap_get` and its typed siblings, but in one request for values up to 1 KiB,
    /// whatever their type.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what cannot be a key, and when the endpoint's ring size is
    /// too small for the value; [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Cs`].
    pub fn get(&self, key: &str) -> Result<Option<Value>> {
        self.get_within(key, self.core.call("cmap get"))
    }

    /// As [`Client::get`], as a part of another call.
    pub(crate) fn get_within(&self, key: &str, call: Call) -> Result<Option<Value>> {
        check_key(key)?;
        let get = |room| self.get_with_room(key, room, call);
        match get(FIRST_ROOM) {
            // Too little room: the daemon does not say so in any other way.
            Err(Error::Cs { error: CsError::InvalidParam, .. }) => match get(MOST_ROOM) {
                Err(Error::Cs { error: CsError::InvalidParam, .. }) if self.room() < MOST_ROOM => {
                    let reason = format!(
                        "the value of {key} does not fit in an answer: ask for a larger ring size"
                    );
                    Err(Error::invalid("ring size", reason))
                }
                reply => reply,
            },
            reply => reply,
        }
    }

    fn get_with_room(&self, key: &str, room: u64, call: Call) -> Result<Option<Value>> {
        let value_len = room.min(self.room());
        value_of(self.core.request_written::<wire::Get>(
            call.step("cmap get"),
            Some(wire::Get::room(value_len)),
            |writer| wire::Get::write_fields(key.as_bytes(), value_len, writer),
        ))
    }

    /// Room for a value that the largest answer has: it is 40 bytes longer. If it did not fit the
    /// ring, the daemon could not send it.
    fn room(&self) -> u64 {
        self.core.connection.max_reply().saturating_sub(64) as u64
    }

    /// The value of a key as a Rust type: `client.get_as::<u32>("totem.token")?`. `None` when there
    /// is no such key.
    ///
    /// A number whose type is narrower is widened: a `u8` can be had as `u32` or `i64`, an `flt` as
    /// `f64`. Nothing is lost by that; no type is narrowed, whatever the value is.
    ///
    /// # Errors
    /// As [`Client::get`]; [`Error::WrongType`] when the value has a type that is not `T` and does
    /// not fit in it.
    pub fn get_as<T: TryFrom<Value, Error = Value>>(&self, key: &str) -> Result<Option<T>> {
        let value = self.get(key)?.map(Value::widened_to).transpose();
        value.map_err(|found| {
            let asked = std::any::type_name::<T>();
            let asked = asked.rsplit_once("::").map_or(asked, |(_, name)| name);
            Error::WrongType {
                key: key.to_owned(),
                found: found.value_type().to_string().into(),
                asked,
            }
        })
    }

    /// Sets a key, which need not exist, to a value of any type.
    ///
    /// Matches `cmap_set` and its typed siblings.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what cannot be a key or is longer than [`MAX_VALUE_SIZE`],
    /// and for values that corosync takes and crashes on, such as a `totem.token` of 1
    /// ms; [`Error::Cs`] with [`CsError::Access`] when the key is read-only, with
    /// [`CsError::NotSupported`] in the stats map; as [`Client::get`].
    pub fn set(&self, key: &str, value: impl Into<Value>) -> Result<()> {
        let (key_name, value) = (key_bytes(key)?, value.into().into_wire()?);
        // As the daemon will read it, whatever kind of value it was.
        danger::check_set(key, &Value::from(value.clone()))?;
        self.core.request(self.core.call("cmap set"), &wire::Set { key_name, value })?;
        Ok(())
    }

    /// Deletes a key.
    ///
    /// Matches `cmap_delete`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`] when there is no such key, with [`CsError::Access`]
    /// when it is read-only; [`Error::InvalidArgument`] for keys whose deletion crashes
    /// corosync: the last below `logging.logger_subsys.` and some others; as [`Client::get`].
    pub fn delete(&self, key: &str) -> Result<()> {
        let key_name = key_bytes(key)?;
        danger::check_delete(key)?;
        const CALL: &str = "cmap delete";
        let call = self.core.call(CALL);
        if let Some(section) = danger::kept_section(key) {
            if self.core.connection.is_before_libqb_015() {
                return Err(danger::error_in_kept_section(key));
            }
            let entries = self.entries(section, MOST_KEYS, call)?;
            if !entries.is_empty() && entries.iter().all(|entry| entry.key == key) {
                return Err(danger::error_last_of_section(key));
            }
        }
        self.core.request(call, &wire::Delete { key_name })?;
        Ok(())
    }

    /// Adds 1 to an integer.
    ///
    /// Matches `cmap_inc`.
    ///
    /// # Errors
    /// As [`Client::adjust`].
    pub fn increment(&self, key: &str) -> Result<()> {
        self.adjust(key, 1)
    }

    /// Subtracts 1 from an integer.
    ///
    /// Matches `cmap_dec`.
    ///
    /// # Errors
    /// As [`Client::adjust`].
    pub fn decrement(&self, key: &str) -> Result<()> {
        self.adjust(key, -1)
    }

    /// Adds `step` to an integer of any type, which wraps around.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::InvalidParam`] when the value is no integer, with
    /// [`CsError::NotExist`] when there is no such key, with [`CsError::Access`] when it is
    /// read-only; [`Error::InvalidArgument`] for a key with values that [`Client::set`] refuses; as
    /// [`Client::get`].
    pub fn adjust(&self, key: &str, step: i32) -> Result<()> {
        let key_name = key_bytes(key)?;
        danger::check_adjust(key)?;
        self.core.request(self.core.call("cmap adjust"), &wire::AdjustInt { key_name, step })?;
        Ok(())
    }

    /// Iterates over the keys that begin with `prefix`; all of them if it is empty. No key is found
    /// twice.
    ///
    /// The keys are those of now: this asks for all of them, one request for each. corosync does
    /// not survive an iterator of its own that stands on a key while keys are set and deleted,
    /// so there is none when this returns. All requests together have one
    /// [timeout](Endpoint::request_timeout).
    ///
    /// In the stats map, do not iterate over the keys of connections, `stats.ipcs.service*`, nor over
    /// a prefix that has them: corosync from 2.99 on may crash when a process connects and disconnects
    /// again and again meanwhile, before 3.1.4 when any client disconnects.
    ///
    /// Matches `cmap_iter_init`, `cmap_iter_next` and `cmap_iter_finalize`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what no key can begin with; as [`Client::get`].
    /// [`Error::Protocol`] when there is no end to the keys: more than a million, or than 64
    /// MiB with their values.
    pub fn iter(&self, prefix: &str) -> Result<Iter<'_>> {
        let entries = self.entries(prefix, MOST_KEYS, self.core.call("cmap iter"))?;
        Ok(Iter { entries: entries.into_iter(), client: PhantomData })
    }

    /// As [`Client::iter`], as a part of another call, of no more keys than `most`.
    fn entries(&self, prefix: &str, most: usize, call: Call) -> Result<Vec<Entry>> {
        let request = wire::IterInit { prefix: prefix_bytes(prefix)? };
        // The daemon reads the prefix again at the first step, from where the request was. Other
        // requests must not have taken that place: it would look for what they say.
        let mut turn = self.core.connection.turn(call)?;
        match self.core.request_in(&mut turn, call.step("cmap iter init"), &request) {
            Ok(wire::IterInitReply { iter_handle }) => {
                let entries = self.iterate(turn, prefix, iter_handle, most, call);
                self.core.release(&wire::IterFinalize { iter_handle });
                entries
            }
            Err(Error::Cs { error: CsError::NoSections, .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn iterate(
        &self,
        turn: Turn<'_>,
        prefix: &str,
        iter_handle: u64,
        most: usize,
        call: Call,
    ) -> Result<Vec<Entry>> {
        let mut turn = Some(turn);
        let (mut entries, mut found, mut size) = (Vec::new(), BTreeSet::new(), 0);
        let (next, call) = (wire::IterNext { iter_handle }, call.step("cmap iter next"));
        let (mut batch, mut is_over) = (FIRST_BATCH, false);
        // Keys that others set meanwhile split nodes of the daemon's map. Its iterator then leaves
        // the prefix, or finds a key again that moved below the node it had.
        while !is_over {
            // An iterator that is at its end stays there.
            let requests = vec![next.clone(); self.core.connection.at_once(batch)];
            batch = (2 * batch).min(LARGEST_BATCH);
            for reply in self.core.request_all(turn.take(), call, &requests)? {
                let reply = match reply {
                    Err(Error::Cs { error: CsError::NoSections, .. }) => {
                        is_over = true;
                        continue;
                    }
                    reply => reply?,
                };
                let key = String::from_utf8_lossy(&reply.key_name).into_owned();
                if key.starts_with(prefix) && found.insert(key.clone()) {
                    if entries.len() == most {
                        let endless = ProtocolError::Endless {
                            what: "keys of an iteration",
                            limit: most as u64,
                        };
                        return Err(self.core.connection.refuse(endless));
                    }
                    size += key.len() as u64 + reply.value_len.min(MOST_ROOM);
                    self.check_size(size)?;
                    entries.push(Entry {
                        key,
                        value_type: reply.value_type,
                        value_len: reply.value_len,
                    });
                }
            }
        }
        Ok(entries)
    }

    /// All keys that begin with `prefix`, with their values. A key that is deleted meanwhile is
    /// left out.
    ///
    /// This takes a request or two for each key, and all of them together have one
    /// [timeout](Endpoint::request_timeout). In the stats map, the warning of [`Client::iter`] holds.
    ///
    /// # Errors
    /// As [`Client::iter`] and [`Client::get`]; [`Error::Protocol`] also for more than 64 MiB of
    /// keys and values.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Value)>> {
        self.list_within(prefix, MOST_KEYS, self.core.call("cmap list"))
    }

    /// As [`Client::list`], as a part of another call, of no more keys than `most`.
    fn list_within(&self, prefix: &str, most: usize, call: Call) -> Result<Vec<(String, Value)>> {
        let entries = self.entries(prefix, most, call)?;
        let mut found = Vec::with_capacity(entries.len());
        let mut size = 0;
        for entries in entries.chunks(self.core.connection.at_once(LARGEST_BATCH)) {
            // The length is known, so that one request is enough; a value that grew meanwhile takes
            // the usual way. The stats map does not tell the length of strings and writes them
            // whatever room there is: up to 32 bytes.
            let room = |entry: &Entry| entry.value_len.clamp(32, MOST_ROOM);
            let get = |entry: &Entry| wire::Get {
                key_name: Bytes::copy_from_slice(entry.key.as_bytes()),
                value_len: room(entry).min(self.room()),
            };
            let requests: Vec<_> = entries.iter().map(get).collect();
            let replies = self.core.request_all(None, call.step("cmap get"), &requests)?;
            for (entry, reply) in entries.iter().zip(replies) {
                let value = match reply {
                    Err(Error::Cs { error: CsError::InvalidParam, .. }) => {
                        size += MOST_ROOM;
                        self.get_within(&entry.key, call)?
                    }
                    reply => value_of(reply)?,
                };
                size += entry.key.len() as u64 + room(entry);
                self.check_size(size)?;
                found.extend(value.map(|value| (entry.key.clone(), value)));
            }
        }
        Ok(found)
    }

    fn check_size(&self, bytes: u64) -> Result<()> {
        if bytes > MOST_BYTES {
            let endless =
                ProtocolError::Endless { what: "bytes of keys and values", limit: MOST_BYTES };
            return Err(self.core.connection.refuse(endless));
        }
        Ok(())
    }

    /// Starts notifications of a key. The key need not exist. With [`TrackEvents::PREFIX`] they are
    /// about all keys that begin with `key`, and the empty string stands for all keys.
    ///
    /// In the stats map, the daemon checks every 1.5 s whether the value of a tracked key has
    /// changed. It then notifies, whatever `events` says, and sends the new value as the old one
    /// too. A prefix needs both [`TrackEvents::ADD`] and [`TrackEvents::DELETE`], and reports only
    /// the keys of connections that come and go. The daemon never reports the `DELETE` of a key
    /// that an iterator stood on when its connection ended.
    ///
    /// Matches `cmap_track_add`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for what cannot be a key or its beginning, and for a connection's
    /// `procname` in the stats map, which crashes corosync; [`Error::Unsupported`] for `ADD` and
    /// `DELETE` in the stats map of corosync before 3.1; [`Error::Cs`] with
    /// [`CsError::NotSupported`] for a prefix of the stats map without both of them; as
    /// [`Client::get`].
    pub fn track_add(&self, key: &str, events: TrackEvents) -> Result<Tracker> {
        let tracker = {
            let mut trackers = self.core.service.trackers();
            trackers.last += 1;
            Tracker(trackers.last)
        };
        self.track_add_as(tracker, key, events)?;
        Ok(tracker)
    }

    /// As [`Client::track_add`], with a tracker that this client does not have yet.
    pub(crate) fn track_add_as(
        &self,
        tracker: Tracker,
        key: &str,
        events: TrackEvents,
    ) -> Result<()> {
        let key_name =
            if events.contains(TrackEvents::PREFIX) { prefix_bytes(key)? } else { key_bytes(key)? };
        // `stats_trigger_trackers` has room for eight bytes, up to the main branch of August 2026.
        if self.core.service.map == Map::Stats
            && !events.contains(TrackEvents::PREFIX)
            && key.ends_with(".procname")
        {
            return Err(Error::invalid("key", format!("refused: tracking {key} crashes corosync")));
        }
        let comes_or_goes = events.intersects(TrackEvents::ADD | TrackEvents::DELETE);
        if self.core.service.map == Map::Stats
            && comes_or_goes
            && !self.core.service.stats_come_and_go
        {
            return Err(STATS_TRACKING.unsupported());
        }
        // Known before it is asked for: the first notification can be here before the answer.
        self.core.service.trackers().handles.insert(tracker.0, 0);
        let request = wire::TrackAdd { key_name, track_type: events, track_inst_handle: tracker.0 };
        match self.core.request(self.core.call("cmap track add"), &request) {
            Ok(reply) => {
                self.core.service.trackers().handles.insert(tracker.0, reply.track_handle);
                Ok(())
            }
            Err(error) => {
                self.core.service.trackers().handles.remove(&tracker.0);
                Err(error)
            }
        }
    }

    /// Ends notifications. None of this tracker comes after this returned.
    ///
    /// Matches `cmap_track_delete`.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::BadHandle`] when this client has no such tracker; as
    /// [`Client::get`].
    pub fn track_delete(&self, tracker: Tracker) -> Result<()> {
        const CALL: &str = "cmap track delete";
        let handle = self.core.service.trackers().handles.get(&tracker.0).copied();
        let handle = handle.ok_or(Error::Cs { call: CALL.into(), error: CsError::BadHandle })?;
        self.core.request(self.core.call(CALL), &wire::TrackDelete { track_handle: handle })?;
        self.core.service.trackers().handles.remove(&tracker.0);
        Ok(())
    }
}

/// Iterates over keys; made by [`Client::iter`].
#[derive(Debug)]
pub struct Iter<'a> {
    entries: vec::IntoIter<Entry>,
    client: PhantomData<&'a Client>,
}

impl Iterator for Iter<'_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(Ok)
    }
}

impl FusedIterator for Iter<'_> {}

impl Cmap {
    fn new(map: Map) -> Self {
        Self { map, stats_come_and_go: false, trackers: Mutex::default() }
    }

    fn trackers(&self) -> MutexGuard<'_, Trackers> {
        self.trackers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service for Cmap {
    type Event = Event;

    const NAME: &'static str = "cmap";
    /// The largest notification has two values of 16 KiB: 33,104 bytes. A ring holds about a hundred
    /// small ones, and is refilled in time. It has a page more, which tells libqb 0.15 from older
    /// ones ([`Connection::is_before_libqb_015`](crate::libqb::client::Connection)).
    const RING_SIZE: u32 = 36 << 10;

    fn nudge() -> Result<Vec<u8>, WireError> {
        // Of a key that is in neither map.
        wire::Get { key_name: Bytes::from_static(b"..."), value_len: 16 }.encode()
    }

    fn event(&self, message: &mut Buffer) -> Result<Option<Event>, WireError> {
        let notify = match wire::Notify::decode(message) {
            Ok(notify) => notify,
            Err(WireError::UnknownId { id, .. }) => {
                let message = message.take();
                return Ok(Some(Event::Unknown(UnknownEvent { id, message })));
            }
            Err(error) => return Err(error),
        };
        if !self.trackers().handles.contains_key(&notify.track_inst_handle) {
            // Sent before the tracker was deleted.
            return Ok(None);
        }
        let value = |(value_type, data): (ValueType, &[u8])| {
            (value_type != ValueType::default()).then(|| Value::of(value_type, data))
        };
        Ok(Some(Event::Notification(Notification {
            tracker: Tracker(notify.track_inst_handle),
            event: notify.event,
            key: String::from_utf8_lossy(notify.key_name).into_owned(),
            new_value: value(notify.new_value),
            old_value: value(notify.old_value),
        })))
    }
}

/// The value that the daemon answers with, if there is one.
fn value_of(reply: Result<wire::GetReply>) -> Result<Option<Value>> {
    match reply {
        Ok(reply) => Ok(Some(Value::from(reply.value))),
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Checks that a key can be set. Sends nothing.
///
/// # Errors
/// [`Error::InvalidArgument`] for one that is too short, too long or has a character that no key
/// has.
pub fn check_key(key: &str) -> Result<()> {
    if !(MIN_KEY..=MAX_KEY).contains(&key.len()) {
        let reason = format!("a key has {MIN_KEY} to {MAX_KEY} characters, this one {}", key.len());
        return Err(Error::invalid("key", reason));
    }
    check_characters("key", key)
}

/// Checks that keys can begin like this. Sends nothing.
pub(crate) fn check_prefix(prefix: &str) -> Result<()> {
    if prefix.len() > MAX_KEY {
        let reason = format!("a key has at most {MAX_KEY} characters, this has {}", prefix.len());
        return Err(Error::invalid("prefix", reason));
    }
    check_characters("prefix", prefix)
}

fn check_characters(argument: &'static str, text: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(Error::invalid(
            argument,
            format!(
                "'{}' is not allowed in a key: only letters, digits and . _ - / : are",
                Escaped(c.encode_utf8(&mut [0; 4]).as_bytes())
            ),
        )),
        None => Ok(()),
    }
}

fn key_bytes(key: &str) -> Result<Bytes> {
    check_key(key).map(|()| Bytes::copy_from_slice(key.as_bytes()))
}

fn prefix_bytes(prefix: &str) -> Result<Bytes> {
    check_prefix(prefix).map(|()| Bytes::copy_from_slice(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_the_daemon_would_refuse_are_named() {
        assert!(key_bytes("totem.cluster_name").is_ok());
        assert_eq!(
            key_bytes("ab").unwrap_err().to_string(),
            "key: a key has 3 to 255 characters, this one 2"
        );
        assert!(key_bytes(&"k".repeat(255)).is_ok());
        assert!(key_bytes(&"k".repeat(256)).is_err());
        assert!(key_bytes("white space").is_err());
        assert!(prefix_bytes("").is_ok());
    }
}
