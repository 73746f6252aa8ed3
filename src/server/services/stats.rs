//! The stats map: exec/stats.c, of a cluster in which nothing goes wrong.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ClientId;
use super::icmap::raw;
use crate::cmap::{TrackEvents, Value};
use crate::error::CsError;
use crate::wire::cmap::RawValue;

/// Counters that stand still here, with their values after a one-node start.
const COUNTERS: [(&str, Value); 32] = [
    ("stats.pg.msg_queue_avail", Value::U32(0)),
    ("stats.pg.msg_reserved", Value::U32(2)),
    ("stats.srp.avg_backlog_calc", Value::U32(0)),
    ("stats.srp.avg_token_workload", Value::U32(0)),
    ("stats.srp.commit_entered", Value::U64(1)),
    ("stats.srp.commit_token_lost", Value::U64(0)),
    ("stats.srp.consensus_timeouts", Value::U64(0)),
    ("stats.srp.continuous_gather", Value::U32(0)),
    ("stats.srp.continuous_sendmsg_failures", Value::U32(0)),
    ("stats.srp.firewall_enabled_or_nic_failure", Value::U8(0)),
    ("stats.srp.gather_entered", Value::U64(1)),
    ("stats.srp.gather_token_lost", Value::U64(0)),
    ("stats.srp.mcast_retx", Value::U64(0)),
    ("stats.srp.mcast_rx", Value::U64(0)),
    ("stats.srp.mcast_tx", Value::U64(0)),
    ("stats.srp.memb_commit_token_rx", Value::U64(2)),
    ("stats.srp.memb_commit_token_tx", Value::U64(2)),
    ("stats.srp.memb_join_rx", Value::U64(1)),
    ("stats.srp.memb_join_tx", Value::U64(1)),
    ("stats.srp.memb_merge_detect_rx", Value::U64(0)),
    ("stats.srp.memb_merge_detect_tx", Value::U64(0)),
    ("stats.srp.mtt_rx_token", Value::U32(0)),
    ("stats.srp.operational_entered", Value::U64(1)),
    ("stats.srp.operational_token_lost", Value::U64(0)),
    ("stats.srp.orf_token_rx", Value::U64(0)),
    ("stats.srp.orf_token_tx", Value::U64(1)),
    ("stats.srp.recovery_entered", Value::U64(1)),
    ("stats.srp.recovery_token_lost", Value::U64(0)),
    ("stats.srp.rx_msg_dropped", Value::U64(0)),
    ("stats.srp.time_since_token_last_received", Value::U64(0)),
    ("stats.srp.token_hold_cancel_rx", Value::U64(0)),
    ("stats.srp.token_hold_cancel_tx", Value::U64(0)),
];

/// What is left behind `stats.clear.` of the keys that clear counters. As prefixes.
const CLEARED: [&str; 5] = ["knet", "ipc", "totem", "schedmiss", "all"];

const CLEAR: &[u8] = b"stats.clear.";

/// What is counted.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    connections: BTreeMap<ClientId, Connection>,
    closed: u64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
}

#[derive(Debug)]
struct Connection {
    service: u32,
    pid: i32,
    name: String,
    requests: u64,
    responses: u64,
}

impl Stats {
    pub(crate) fn connect(&mut self, client: ClientId, service: u32, pid: i32, name: String) {
        self.connections.insert(client, Connection { service, pid, name, requests: 0, responses: 0 });
    }

    pub(crate) fn disconnect(&mut self, client: ClientId) {
        self.closed += u64::from(self.connections.remove(&client).is_some());
    }

    pub(crate) fn count_request(&mut self, client: ClientId) {
        self.connections.get_mut(&client).into_iter().for_each(|connection| connection.requests += 1);
    }

    pub(crate) fn count_response(&mut self, client: ClientId) {
        self.connections.get_mut(&client).into_iter().for_each(|connection| connection.responses += 1);
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<RawValue> {
        self.all().into_iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    pub(crate) fn iter(&self, prefix: &[u8]) -> std::vec::IntoIter<(Bytes, RawValue)> {
        let mut all = self.all();
        all.retain(|(name, _)| name.starts_with(prefix));
        all.into_iter()
    }

    fn all(&self) -> Vec<(Bytes, RawValue)> {
        let active = self.connections.len() as u64;
        let global = [("stats.ipcs.global.active", active), ("stats.ipcs.global.closed", self.closed)];
        let global = global.map(|(name, count)| (name.to_owned(), Value::U64(count)));
        let counters = COUNTERS.into_iter().map(|(name, value)| {
            let value = match name {
                "stats.srp.mcast_tx" => Value::U64(self.sent),
                "stats.srp.mcast_rx" => Value::U64(self.delivered),
                _ => value,
            };
            (name.to_owned(), value)
        });
        let connections = self.connections.iter().flat_map(|(client, connection)| connection.keys(*client));
        let all = global.into_iter().chain(counters).chain(connections);
        let mut all: Vec<_> = all.map(|(name, value)| (Bytes::from(name), raw(value))).collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }

    /// Matches `stats_map_set`: nothing can be set, and clearing clears nothing here.
    pub(crate) fn set(key: &[u8]) -> Result<(), CsError> {
        let behind = key.strip_prefix(CLEAR).ok_or(CsError::Access)?;
        if CLEARED.iter().any(|name| behind.starts_with(name.as_bytes())) { Ok(()) } else { Err(CsError::NotSupported) }
    }

    /// Matches `stats_map_delete` and `stats_map_adjust_int`.
    pub(crate) fn change(key: &[u8]) -> Result<(), CsError> {
        Err(if key.starts_with(CLEAR) { CsError::NotSupported } else { CsError::Access })
    }

    /// Matches `stats_map_track_add`. Nothing is ever told, since no counter the map has changes without being asked for.
    pub(crate) fn track(events: TrackEvents) -> Result<(), CsError> {
        let known = TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::MODIFY | TrackEvents::PREFIX;
        if known.contains(events) { Ok(()) } else { Err(CsError::InvalidParam) }
    }
}

impl Connection {
    /// What the daemon tells of each connection. The last part of its name is an address in the daemon.
    fn keys(&self, client: ClientId) -> Vec<(String, Value)> {
        let address = 0x5eed_0000_0000 + (client.0 << 4);
        let prefix = format!("stats.ipcs.service{}.{}.{address:#x}", self.service, self.pid);
        let values: [(&str, Value); 13] = [
            ("dispatched", Value::U64(0)),
            ("flow_control", Value::U32(0)),
            ("flow_control_count", Value::U64(0)),
            ("invalid_request", Value::U64(0)),
            ("overload", Value::U64(0)),
            ("procname", Value::String(self.name.clone())),
            ("queued", Value::U32(0)),
            ("queueing", Value::I32(0)),
            ("recv_retries", Value::U64(0)),
            ("requests", Value::U64(self.requests)),
            ("responses", Value::U64(self.responses)),
            ("send_retries", Value::U64(0)),
            ("sent", Value::U32(0)),
        ];
        values.into_iter().map(|(name, value)| (format!("{prefix}.{name}"), value)).collect()
    }
}
