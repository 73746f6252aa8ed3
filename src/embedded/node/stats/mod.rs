//! The stats map: exec/stats.c, of a cluster in which nothing goes wrong.

mod knet;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::ClientId;
use super::icmap::stored;
use super::trackers::{Notice, TrackerId, Trackers, Watcher};
use crate::cmap::{TrackEvents, Value, ValueType};
use crate::error::CsError;
use crate::wire::cmap::RawValue;
use crate::wire::values::NodeId;

/// How often the daemon looks whether what is tracked has changed. As
/// `corosync_totem_stats_updater`.
const PERIOD: Duration = Duration::from_millis(1500);

const ACTIVE: &str = "stats.ipcs.global.active";
const CLOSED: &str = "stats.ipcs.global.closed";
const SENT: &str = "stats.srp.mcast_tx";
const DELIVERED: &str = "stats.srp.mcast_rx";

/// What is counted when a ring forms.
const ENTERED: [&str; 4] = [
    "stats.srp.gather_entered",
    "stats.srp.commit_entered",
    "stats.srp.recovery_entered",
    "stats.srp.operational_entered",
];

/// What is not of a connection. The token's counters stand still, as those of a real node that is
/// alone do.
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

/// What is told of a connection, in the order in which the keys come and go. What does not happen
/// here is 0.
const OF_A_CONNECTION: [(&str, Read); 13] = [
    ("queueing", |_| Value::I32(0)),
    ("queued", |_| Value::U32(0)),
    ("invalid_request", |connection| Value::U64(connection.counted.invalid)),
    ("overload", |connection| Value::U64(connection.counted.overload)),
    ("sent", |connection| Value::U32(connection.counted.events as u32)),
    ("procname", |connection| Value::String(connection.name.clone())),
    ("requests", |connection| Value::U64(connection.counted.requests)),
    ("responses", |connection| Value::U64(connection.counted.responses)),
    ("dispatched", |connection| Value::U64(connection.counted.events)),
    ("send_retries", |_| Value::U64(0)),
    ("recv_retries", |_| Value::U64(0)),
    ("flow_control", |_| Value::U32(0)),
    ("flow_control_count", |_| Value::U64(0)),
];

const CLEAR: &[u8] = b"stats.clear.";

/// What is counted, and who tracks it.
#[derive(Debug)]
pub(crate) struct Stats {
    keys: BTreeMap<Bytes, Source>,
    connections: BTreeMap<ClientId, Connection>,
    /// To whom knet has links, and whether they are here.
    links: BTreeMap<NodeId, bool>,
    trackers: Trackers,
    /// Those of a key, which the timer looks at.
    watched: BTreeMap<TrackerId, Watched>,
    /// When the daemon started, from which on the timer runs.
    started: Instant,
    /// When the timer ends; nothing while none is watched.
    due: Instant,
}

/// Where the value of a key is.
#[derive(Debug)]
enum Source {
    Own(Value),
    Of(ClientId, Read),
}

#[derive(Debug)]
struct Connection {
    /// What its keys begin with.
    prefix: String,
    name: String,
    counted: Counted,
}

/// What clients cause.
#[derive(Debug, Default)]
pub(crate) struct Counted {
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
    /// The value that was told last. What was not there was 0.
    told: Bytes,
}

/// A place in an iteration, behind the last key that was found.
#[derive(Debug)]
pub(crate) struct Iter {
    prefix: Bytes,
    from: Option<Bound<Bytes>>,
}

impl Stats {
    pub(crate) fn new(now: Instant) -> Self {
        let own = |(name, value): (&'static str, Value)| {
            (Bytes::from_static(name.as_bytes()), Source::Own(value))
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

    /// The node talks with these, itself among them, over knet, in packets of so many bytes at
    /// most.
    pub(crate) fn add_links(&mut self, nodes: impl Iterator<Item = (NodeId, u32)>) {
        let nodes: BTreeMap<NodeId, u32> = nodes.collect();
        self.links = nodes.keys().map(|node| (*node, false)).collect();
        let links = nodes.into_iter().flat_map(|(node, mtu)| knet::link(node, mtu));
        self.keys.extend(
            knet::handle().chain(links).map(|(name, value)| (name.into(), Source::Own(value))),
        );
    }

    // --- what is counted ---

    /// A connection was made, of which those are told who track its keys. Matches
    /// `stats_ipcs_add_connection`.
    pub(crate) fn connect(
        &mut self,
        client: ClientId,
        service: u32,
        pid: i32,
        name: String,
    ) -> Vec<Notice> {
        // The last part is an address in the daemon.
        let address = 0x5eed_0000_0000 + (client.0 << 4);
        let prefix = format!("stats.ipcs.service{service}.{pid}.{address:#x}");
        let connection = Connection { prefix, name, counted: Counted::default() };
        let mut notices = Vec::new();
        for (name, value) in OF_A_CONNECTION {
            let (key, now) = (connection.key(name), stored(value(&connection)));
            notices.extend(self.trackers.notices(TrackEvents::ADD, &key, &now, &now));
            self.keys.insert(key, Source::Of(client, value));
        }
        self.connections.insert(client, connection);
        self.add(ACTIVE, 1);
        notices
    }

    /// A connection is gone. Matches `stats_ipcs_del_connection`.
    pub(crate) fn disconnect(&mut self, client: ClientId) -> Vec<Notice> {
        let Some(connection) = self.connections.remove(&client) else {
            return Vec::new();
        };
        let mut notices = Vec::new();
        for (name, value) in OF_A_CONNECTION {
            let (key, last) = (connection.key(name), stored(value(&connection)));
            notices.extend(self.trackers.notices(TrackEvents::DELETE, &key, &last, &last));
            self.keys.remove(&key);
        }
        // Less than none, once they were cleared.
        self.add(ACTIVE, u64::MAX);
        self.add(CLOSED, 1);
        notices
    }

    /// Counts what a client caused.
    pub(crate) fn count(&mut self, client: ClientId, what: fn(&mut Counted) -> &mut u64) {
        if let Some(connection) = self.connections.get_mut(&client) {
            *what(&mut connection.counted) += 1;
        }
    }

    /// How many there are.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.len() as u64
    }

    pub(crate) fn count_sent(&mut self) {
        self.add(SENT, 1);
    }

    pub(crate) fn count_delivered(&mut self) {
        self.add(DELIVERED, 1);
    }

    /// A ring of these formed.
    pub(crate) fn count_ring(&mut self, members: &[NodeId]) {
        ENTERED.into_iter().for_each(|name| self.add(name, 1));
        let mut links = std::mem::take(&mut self.links);
        for (node, was_here) in &mut links {
            let is_here = members.contains(node);
            if std::mem::replace(was_here, is_here) != is_here {
                self.add(&knet::of_link(*node, if is_here { "up_count" } else { "down_count" }), 1);
                let connected = knet::of_link(*node, "connected").into();
                self.keys.insert(connected, Source::Own(Value::U8(is_here.into())));
            }
        }
        self.links = links;
    }

    /// Adds to a number, which wraps around.
    fn add(&mut self, key: &str, count: u64) {
        match self.keys.get_mut(key.as_bytes()) {
            Some(Source::Own(Value::U64(number))) => *number = number.wrapping_add(count),
            Some(Source::Own(Value::U32(number))) => *number = number.wrapping_add(count as u32),
            _ => {}
        }
    }

    /// Matches `stats_map_set`: nothing can be set but what clears the others.
    pub(crate) fn set(&mut self, key: &[u8]) -> Result<(), CsError> {
        let behind = key.strip_prefix(CLEAR).ok_or(CsError::Access)?;
        let is = |name: &str| behind.starts_with(name.as_bytes());
        let (knet, ipc) = (is("knet") || is("all"), is("ipc") || is("all"));
        // As in the daemon, what is to clear knet's counters clears totem's. There are none of
        // schedmiss here.
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
                .for_each(|connection| connection.counted = Counted::default());
        }
        Ok(())
    }

    /// Sets what is counted of these keys to 0, which nothing of 8 bits is.
    fn clear(&mut self, prefix: &str) {
        let keys = self
            .keys
            .iter_mut()
            .filter(|(key, _)| key.starts_with(prefix.as_bytes()) && !key.ends_with(b".mtu"));
        for (_, source) in keys {
            match source {
                Source::Own(Value::U64(number)) => *number = 0,
                Source::Own(Value::U32(number)) => *number = 0,
                _ => {}
            }
        }
    }

    /// Matches `stats_map_delete` and `stats_map_adjust_int`.
    pub(crate) fn change(key: &[u8]) -> Result<(), CsError> {
        Err(if key.starts_with(CLEAR) { CsError::NotSupported } else { CsError::Access })
    }

    // --- what is read ---

    pub(crate) fn get(&self, key: &[u8]) -> Option<RawValue> {
        self.value(self.keys.get(key)?)
    }

    fn value(&self, source: &Source) -> Option<RawValue> {
        Some(stored(match source {
            Source::Own(value) => value.clone(),
            Source::Of(client, value) => value(self.connections.get(client)?),
        }))
    }

    /// Starts an iteration.
    pub(crate) fn iter(prefix: Bytes) -> Iter {
        Iter { from: Some(Bound::Included(prefix.clone())), prefix }
    }

    /// Moves on to the next key. The daemon does not know the lengths of strings here.
    pub(crate) fn next(&self, iter: &mut Iter) -> Option<(Bytes, RawValue)> {
        let (key, source) = self.keys.range((iter.from.take()?, Bound::Unbounded)).next()?;
        let mut value = self.value(source).filter(|_| key.starts_with(&iter.prefix))?;
        if value.value_type == ValueType::STRING {
            value.data.clear();
        }
        iter.from = Some(Bound::Excluded(key.clone()));
        Some((key.clone(), value))
    }

    // --- who is told ---

    /// Starts to watch. Matches `stats_map_track_add`: prefixes only for what comes and goes;
    /// unknown bits are left alone.
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
                let passed =
                    now.saturating_duration_since(self.started).as_nanos() % PERIOD.as_nanos();
                self.due = now + PERIOD - Duration::from_nanos(passed as u64);
            }
            let told = self.get(&key).map_or(Bytes::from_static(&[0; 8]), |value| value.data);
            self.watched.insert(id, Watched { watcher, key, told });
        }
        Ok(id)
    }

    pub(crate) fn untrack(&mut self, id: TrackerId) {
        self.trackers.remove(id);
        self.watched.remove(&id);
    }

    /// When [`Stats::timer`] is to be called: not before somebody tracks a key.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        (!self.watched.is_empty()).then_some(self.due)
    }

    /// Whom to tell what changed since the timer ended last. Matches `stats_trigger_trackers`: the
    /// newest tracker is the first, whatever events it asked for, and the old value is told to
    /// be the new one.
    pub(crate) fn timer(&mut self, now: Instant) -> Vec<Notice> {
        if self.next_timer().is_none_or(|due| now < due) {
            return Vec::new();
        }
        self.due = now + PERIOD;
        let mut watched = std::mem::take(&mut self.watched);
        let mut notices = Vec::new();
        for Watched { watcher, key, told } in watched.values_mut().rev() {
            // Only so many bytes are compared as the value has.
            if let Some(value) = self.get(key).filter(|value| !told.starts_with(&value.data)) {
                told.clone_from(&value.data);
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
            let watcher = Watcher::Client { client: ClientId(1), instance: 0 };
            stats.track(now, Bytes::from(key), events, watcher).unwrap()
        };
        let comes_and_goes = TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::PREFIX;
        track(&mut stats, start, "stats.", comes_and_goes);
        track(&mut stats, start, "", TrackEvents::ALL);
        assert_eq!(stats.next_timer(), None);
        let one = track(&mut stats, after(2, 1), CLOSED, TrackEvents::MODIFY);
        let other = track(&mut stats, after(2, 2), ACTIVE, TrackEvents::ADD);
        assert_eq!(stats.next_timer(), Some(after(3, 0)));
        assert_eq!(stats.timer(after(3, 0)), []);
        assert_eq!(stats.next_timer(), Some(after(4, 0)));
        stats.untrack(one);
        stats.connect(ClientId(2), 0, 1, String::new());
        assert_eq!(stats.timer(after(3, 1)), []);
        assert_eq!(stats.timer(after(4, 0)).len(), 1);
        stats.untrack(other);
        assert_eq!(stats.next_timer(), None);
        track(&mut stats, after(7, 0), ACTIVE, TrackEvents::MODIFY);
        assert_eq!(stats.next_timer(), Some(after(8, 0)));
    }
}
