//! The stats map, as exec/stats.c, of a cluster without network faults.

mod knet;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ClientNumber;
use super::icmap::stored;
use super::trackers::{Notice, TrackerId, Trackers, Watcher};
use crate::cmap::{TrackEvents, Value, ValueType};
use crate::error::CsError;
use crate::wire::cmap::RawValue;
use crate::wire::values::NodeId;

/// The interval at which the daemon checks tracked keys for changes. Matches
/// `corosync_totem_stats_updater`.
const PERIOD: Duration = Duration::from_millis(1500);

const ACTIVE: &str = "stats.ipcs.global.active";
const CLOSED: &str = "stats.ipcs.global.closed";
const SENT: &str = "stats.srp.mcast_tx";
const DELIVERED: &str = "stats.srp.mcast_rx";

/// The counters that grow when a ring forms.
const ENTERED: [&str; 4] = [
    "stats.srp.gather_entered",
    "stats.srp.commit_entered",
    "stats.srp.recovery_entered",
    "stats.srp.operational_entered",
];

/// The keys that belong to no connection. The token's counters never change, as on a real node that
/// is alone.
const COUNTERS: [(&str, Value); 34] = [
    (ACTIVE, Value::U64(0)),
    (CLOSED, Value::U64(0)),
    ("stats.pg.msg_queue_avail", Value::U32(0)),
    ("stats.pg.msg_reserved", Value::U32(2)),
    ("stats.srp.avg_backlog_calc", Value::U32(0)),
    ("stats.srp.avg_token_workload", Value::U32(0)),
    ("stats.srp.commit_entered", Value::U64(0)),
    ("stats.srp.commit_token_lost", Value::U64(0)),
    ("stats.srp.consensus_timeouts", Value::U64(0)),
    ("stats.srp.continuous_gather", Value::U32(0)),
    ("stats.srp.continuous_sendmsg_failures", Value::U32(0)),
    ("stats.srp.firewall_enabled_or_nic_failure", Value::U8(0)),
    ("stats.srp.gather_entered", Value::U64(0)),
    ("stats.srp.gather_token_lost", Value::U64(0)),
    ("stats.srp.mcast_retx", Value::U64(0)),
    (DELIVERED, Value::U64(0)),
    (SENT, Value::U64(0)),
    ("stats.srp.memb_commit_token_rx", Value::U64(2)),
    ("stats.srp.memb_commit_token_tx", Value::U64(2)),
    ("stats.srp.memb_join_rx", Value::U64(1)),
    ("stats.srp.memb_join_tx", Value::U64(1)),
    ("stats.srp.memb_merge_detect_rx", Value::U64(0)),
    ("stats.srp.memb_merge_detect_tx", Value::U64(0)),
    ("stats.srp.mtt_rx_token", Value::U32(0)),
    ("stats.srp.operational_entered", Value::U64(0)),
    ("stats.srp.operational_token_lost", Value::U64(0)),
    ("stats.srp.orf_token_rx", Value::U64(0)),
    ("stats.srp.orf_token_tx", Value::U64(1)),
    ("stats.srp.recovery_entered", Value::U64(0)),
    ("stats.srp.recovery_token_lost", Value::U64(0)),
    ("stats.srp.rx_msg_dropped", Value::U64(0)),
    ("stats.srp.time_since_token_last_received", Value::U64(0)),
    ("stats.srp.token_hold_cancel_rx", Value::U64(0)),
    ("stats.srp.token_hold_cancel_tx", Value::U64(0)),
];

type Read = fn(&Connection) -> Value;

/// The keys of a connection, in the order in which they are added and deleted. Keys that count what
/// cannot happen here are 0.
const CONNECTION_KEYS: [(&str, Read); 13] = [
    ("queueing", |_| Value::I32(0)),
    ("queued", |_| Value::U32(0)),
    ("invalid_request", |connection| Value::U64(connection.counters.invalid)),
    ("overload", |connection| Value::U64(connection.counters.overload)),
    ("sent", |connection| Value::U32(connection.counters.events as u32)),
    ("procname", |connection| Value::String(connection.name.clone())),
    ("requests", |connection| Value::U64(connection.counters.requests)),
    ("responses", |connection| Value::U64(connection.counters.responses)),
    ("dispatched", |connection| Value::U64(connection.counters.events)),
    ("send_retries", |_| Value::U64(0)),
    ("recv_retries", |_| Value::U64(0)),
    ("flow_control", |_| Value::U32(0)),
    ("flow_control_count", |_| Value::U64(0)),
];

const CLEAR: &[u8] = b"stats.clear.";

/// The stats map and its trackers.
#[derive(Debug)]
pub(crate) struct Stats {
    keys: BTreeMap<Bytes, Source>,
    connections: BTreeMap<ClientNumber, Connection>,
    /// The nodes that knet has links to. True if the node is a member.
    links: BTreeMap<NodeId, bool>,
    trackers: Trackers,
    /// The trackers of a single key, which the timer checks.
    watched: BTreeMap<TrackerId, Watched>,
    /// The time of the daemon's start, which is when the timer's first interval begins.
    started: Instant,
    /// The end of the timer's interval. Meaningless while `watched` is empty.
    due: Instant,
}

/// The source of a key's value.
#[derive(Debug)]
enum Source {
    Value(Value),
    Connection(ClientNumber, Read),
}

#[derive(Debug)]
struct Connection {
    /// The prefix of the connection's keys.
    prefix: String,
    /// The name of the client's process.
    name: String,
    counters: Counters,
}

/// The counters of a connection.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) requests: u64,
    pub(crate) responses: u64,
    pub(crate) events: u64,
    pub(crate) invalid: u64,
    pub(crate) overload: u64,
}

#[derive(Debug)]
struct Watched {
    watcher: Watcher,
    key: Bytes,
    /// The value that the watcher was last notified of, at first the value at the start of
    /// tracking. Eight zero bytes if the key did not exist.
    last: Bytes,
}

/// An iterator, positioned behind the last key that it returned.
#[derive(Debug)]
pub(crate) struct Iter {
    prefix: Bytes,
    from: Option<Bound<Bytes>>,
}

impl Stats {
    pub(crate) fn new(now: Instant) -> Self {
        let own = |(name, value): (&'static str, Value)| {
            (Bytes::from_static(name.as_bytes()), Source::Value(value))
        };
        Self {
            keys: COUNTERS.into_iter().map(own).collect(),
            connections: BTreeMap::new(),
            links: BTreeMap::new(),
            trackers: Trackers::default(),
            watched: BTreeMap::new(),
            started: now,
            due: now,
        }
    }

    /// Adds the keys of knet's links to those of `packets`: each node, this one too, and the
    /// size of the largest packets to it in bytes.
    pub(crate) fn add_links(&mut self, packets: impl Iterator<Item = (NodeId, u32)>) {
        // `collect` would sort them first, in 3 KB of code.
        let mut nodes = BTreeMap::new();
        nodes.extend(packets);
        self.links = nodes.keys().map(|node| (*node, false)).collect();
        let links = nodes.into_iter().flat_map(|(node, mtu)| knet::link(node, mtu));
        self.keys.extend(
            knet::handle().chain(links).map(|(name, value)| (name.into(), Source::Value(value))),
        );
    }

    // --- counting ---

    /// Adds the keys of a connection and returns the notices. Matches `stats_ipcs_add_connection`.
    pub(crate) fn connect(
        &mut self,
        client: ClientNumber,
        service: u32,
        pid: i32,
        name: String,
    ) -> Vec<Notice> {
        // In the daemon the last part is the address of its connection.
        let address = 0x5eed_0000_0000 + (client.0 << 4);
        let prefix = format!("stats.ipcs.service{service}.{pid}.{address:#x}");
        let connection = Connection { prefix, name, counters: Counters::default() };
        let mut notices = Vec::new();
        for (name, value) in CONNECTION_KEYS {
            let (key, now) = (connection.key(name), stored(value(&connection)));
            notices.extend(self.trackers.notices(TrackEvents::ADD, &key, &now, &now));
            self.keys.insert(key, Source::Connection(client, value));
        }
        self.connections.insert(client, connection);
        self.add(ACTIVE, 1);
        notices
    }

    /// Deletes the keys of a connection and returns the notices. Matches
    /// `stats_ipcs_del_connection`.
    pub(crate) fn disconnect(&mut self, client: ClientNumber) -> Vec<Notice> {
        let Some(connection) = self.connections.remove(&client) else {
            return Vec::new();
        };
        let mut notices = Vec::new();
        for (name, value) in CONNECTION_KEYS {
            let (key, last) = (connection.key(name), stored(value(&connection)));
            notices.extend(self.trackers.notices(TrackEvents::DELETE, &key, &last, &last));
            self.keys.remove(&key);
        }
        // Subtracts 1. As in the daemon, the counter wraps below 0 after a clear.
        self.add(ACTIVE, u64::MAX);
        self.add(CLOSED, 1);
        notices
    }

    /// Adds 1 to a counter of a connection.
    pub(crate) fn count(&mut self, client: ClientNumber, counter: fn(&mut Counters) -> &mut u64) {
        if let Some(connection) = self.connections.get_mut(&client) {
            *counter(&mut connection.counters) += 1;
        }
    }

    /// The number of connections.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.len() as u64
    }

    pub(crate) fn count_sent(&mut self) {
        self.add(SENT, 1);
    }

    pub(crate) fn count_delivered(&mut self) {
        self.add(DELIVERED, 1);
    }

    /// Counts a new ring, and the links that went up or down with it.
    pub(crate) fn count_ring(&mut self, members: &[NodeId]) {
        ENTERED.into_iter().for_each(|name| self.add(name, 1));
        let mut links = std::mem::take(&mut self.links);
        for (node, was_member) in &mut links {
            let is_member = members.contains(node);
            if std::mem::replace(was_member, is_member) != is_member {
                let counter = if is_member { "up_count" } else { "down_count" };
                self.add(&knet::link_key(*node, counter), 1);
                let connected = knet::link_key(*node, "connected").into();
                self.keys.insert(connected, Source::Value(Value::U8(is_member.into())));
            }
        }
        self.links = links;
    }

    /// Adds to a number. The sum wraps around.
    fn add(&mut self, key: &str, count: u64) {
        match self.keys.get_mut(key.as_bytes()) {
            Some(Source::Value(Value::U64(number))) => *number = number.wrapping_add(count),
            Some(Source::Value(Value::U32(number))) => *number = number.wrapping_add(count as u32),
            _ => {}
        }
    }

    /// Clears counters. No other key can be set. Matches `stats_map_set`.
    pub(crate) fn set(&mut self, key: &[u8]) -> Result<(), CsError> {
        let group = key.strip_prefix(CLEAR).ok_or(CsError::Access)?;
        let is = |name: &str| group.starts_with(name.as_bytes());
        let (knet, ipc) = (is("knet") || is("all"), is("ipc") || is("all"));
        // As in the daemon, clearing knet's counters clears totem's too. This map has no schedmiss
        // counters.
        let totem = is("totem") || knet;
        if !(totem || ipc || is("schedmiss")) {
            return Err(CsError::NotSupported);
        }
        if totem {
            self.clear("stats.srp.");
        }
        if knet {
            self.clear(knet::PREFIX);
        }
        if ipc {
            self.clear("stats.ipcs.global.");
            self.connections
                .values_mut()
                .for_each(|connection| connection.counters = Counters::default());
        }
        Ok(())
    }

    /// Sets the counters with a prefix to 0. Values of 8 bits are no counters.
    fn clear(&mut self, prefix: &str) {
        let keys = self
            .keys
            .iter_mut()
            .filter(|(key, _)| key.starts_with(prefix.as_bytes()) && !key.ends_with(b".mtu"));
        for (_, source) in keys {
            match source {
                Source::Value(Value::U64(number)) => *number = 0,
                Source::Value(Value::U32(number)) => *number = 0,
                _ => {}
            }
        }
    }

    /// Refuses to delete or adjust a key. Matches `stats_map_delete` and `stats_map_adjust_int`.
    pub(crate) fn refuse_change(key: &[u8]) -> Result<(), CsError> {
        Err(if key.starts_with(CLEAR) { CsError::NotSupported } else { CsError::Access })
    }

    // --- reading ---

    pub(crate) fn get(&self, key: &[u8]) -> Option<RawValue> {
        self.value(self.keys.get(key)?)
    }

    fn value(&self, source: &Source) -> Option<RawValue> {
        Some(stored(match source {
            Source::Value(value) => value.clone(),
            Source::Connection(client, value) => value(self.connections.get(client)?),
        }))
    }

    /// Starts an iteration.
    pub(crate) fn iter(prefix: Bytes) -> Iter {
        Iter { from: Some(Bound::Included(prefix.clone())), prefix }
    }

    /// Moves on to the next key. As in the daemon, an iterator reports the length 0 for strings.
    pub(crate) fn next(&self, iter: &mut Iter) -> Option<(Bytes, RawValue)> {
        let (key, source) = self.keys.range((iter.from.take()?, Bound::Unbounded)).next()?;
        let mut value = self.value(source).filter(|_| key.starts_with(&iter.prefix))?;
        if value.value_type == ValueType::STRING {
            value.data.clear();
        }
        iter.from = Some(Bound::Excluded(key.clone()));
        Some((key.clone(), value))
    }

    // --- tracking ---

    /// Starts tracking. A prefix can be tracked only for added and deleted keys. Unknown bits are
    /// ignored. Matches `stats_map_track_add`.
    pub(crate) fn track(
        &mut self,
        now: Instant,
        key: Bytes,
        events: TrackEvents,
        watcher: Watcher,
    ) -> Result<TrackerId, CsError> {
        let is_prefix = events.contains(TrackEvents::PREFIX);
        if is_prefix && !events.contains(TrackEvents::ADD | TrackEvents::DELETE) {
            return Err(CsError::NotSupported);
        }
        let id = self.trackers.add(key.clone(), events, watcher);
        if !is_prefix && !key.is_empty() {
            if self.watched.is_empty() {
                let elapsed =
                    now.saturating_duration_since(self.started).as_nanos() % PERIOD.as_nanos();
                self.due = now + PERIOD - Duration::from_nanos(elapsed as u64);
            }
            let last = self.get(&key).map_or(Bytes::from_static(&[0; 8]), |value| value.data);
            self.watched.insert(id, Watched { watcher, key, last });
        }
        Ok(id)
    }

    pub(crate) fn untrack(&mut self, id: TrackerId) {
        self.trackers.remove(id);
        self.watched.remove(&id);
    }

    /// The time of the next call of [`Stats::timer`]. `None` while no single key is tracked.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        (!self.watched.is_empty()).then_some(self.due)
    }

    /// Returns the notices of the values that changed since the timer last expired. Matches
    /// `stats_trigger_trackers`: the newest tracker comes first, each gets `MODIFY` whatever events
    /// it asked for, and the old value is the same as the new one.
    pub(crate) fn timer(&mut self, now: Instant) -> Vec<Notice> {
        if self.next_timer().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.due = now + PERIOD;
        let mut watched = std::mem::take(&mut self.watched);
        let mut notices = Vec::new();
        for Watched { watcher, key, last } in watched.values_mut().rev() {
            // As in the daemon, the comparison has the length of the new value.
            if let Some(value) = self.get(key).filter(|value| !last.starts_with(&value.data)) {
                last.clone_from(&value.data);
                let (new, old) = (value.clone(), value);
                notices.push(Notice {
                    watcher: *watcher,
                    event: TrackEvents::MODIFY,
                    key: key.clone(),
                    new,
                    old,
                });
            }
        }
        self.watched = watched;
        notices
    }
}

impl Connection {
    fn key(&self, name: &str) -> Bytes {
        format!("{}.{name}", self.prefix).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_runs_while_a_key_is_tracked() {
        let start = Instant::now();
        let after =
            |periods: u32, millis: u64| start + PERIOD * periods + Duration::from_millis(millis);
        let mut stats = Stats::new(start);
        let track = |stats: &mut Stats, now, key: &'static str, events| {
            let watcher = Watcher::Client { client: ClientNumber(1), instance: 0 };
            stats.track(now, Bytes::from(key), events, watcher).unwrap()
        };
        let add_delete = TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::PREFIX;
        track(&mut stats, start, "stats.", add_delete);
        track(&mut stats, start, "", TrackEvents::ALL);
        assert_eq!(stats.next_timer(), None);
        let one = track(&mut stats, after(2, 1), CLOSED, TrackEvents::MODIFY);
        let other = track(&mut stats, after(2, 2), ACTIVE, TrackEvents::ADD);
        assert_eq!(stats.next_timer(), Some(after(3, 0)));
        assert_eq!(stats.timer(after(3, 0)), []);
        assert_eq!(stats.next_timer(), Some(after(4, 0)));
        stats.untrack(one);
        stats.connect(ClientNumber(2), 0, 1, String::new());
        assert_eq!(stats.timer(after(3, 1)), []);
        assert_eq!(stats.timer(after(4, 0)).len(), 1);
        stats.untrack(other);
        assert_eq!(stats.next_timer(), None);
        track(&mut stats, after(7, 0), ACTIVE, TrackEvents::MODIFY);
        assert_eq!(stats.next_timer(), Some(after(8, 0)));
    }
}
