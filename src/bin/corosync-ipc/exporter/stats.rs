//! What corosync counts, from the stats map. corosync before 2.99 has none.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use corosync_ipc::cmap::{Client, Value};
use corosync_ipc::{Error, NodeId};

use super::families::{Families, Metric, Number};
use super::metrics::*;
use crate::output::escaped;

/// The most programs and services with samples of their own.
const MOST_CLIENTS: usize = 256;

/// The services by their number in the keys of connections. Matches `corosync_service_types`.
const SERVICES: [&str; 8] = ["cmap", "cfg", "cpg", "quorum", "pload", "votequorum", "mon", "wd"];

/// A link to another node.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) link: u8,
    pub(super) node_id: NodeId,
    pub(super) node: String,
}

impl End {
    /// Adds a sample of this link.
    pub(super) fn add(
        &self,
        families: &mut Families,
        metric: &'static Metric<3>,
        value: impl Into<Number>,
    ) {
        let (link, node_id) = (self.link.to_string(), self.node_id.to_string());
        families.add(metric, [&link, &node_id, &self.node], value);
    }
}

/// The number of a key, if it exists.
fn number(stats: &Client, key: &str) -> Result<Option<u64>, Error> {
    Ok(match stats.get(key)? {
        Some(Value::U64(number)) => Some(number),
        Some(Value::U32(number)) => Some(number.into()),
        Some(Value::U16(number)) => Some(number.into()),
        Some(Value::U8(number)) => Some(number.into()),
        _ => None,
    })
}

/// Adds the counters of totem.
pub(super) fn add_totem(stats: &Client, families: &mut Families) -> Result<(), Error> {
    let srp = |name: &str| number(stats, &format!("stats.srp.{name}"));
    for message in [
        "orf_token",
        "memb_merge_detect",
        "memb_join",
        "mcast",
        "memb_commit_token",
        "token_hold_cancel",
    ] {
        for direction in ["tx", "rx"] {
            if let Some(count) = srp(&format!("{message}_{direction}"))? {
                families.add(&TOTEM_MESSAGES, [message, direction], count);
            }
        }
    }
    for state in ["operational", "gather", "commit", "recovery"] {
        if let Some(count) = srp(&format!("{state}_entered"))? {
            families.add(&TOTEM_STATE_ENTERED, [state], count);
        }
        if let Some(count) = srp(&format!("{state}_token_lost"))? {
            families.add(&TOTEM_TOKEN_LOST, [state], count);
        }
    }
    for (name, metric) in [
        ("mcast_retx", &TOTEM_RETRANSMITS),
        ("rx_msg_dropped", &TOTEM_DROPPED),
        ("consensus_timeouts", &TOTEM_CONSENSUS_TIMEOUTS),
        ("continuous_gather", &TOTEM_GATHERS),
        ("continuous_sendmsg_failures", &TOTEM_SEND_FAILURES),
        ("firewall_enabled_or_nic_failure", &TOTEM_FIREWALL),
        ("avg_backlog_calc", &TOTEM_BACKLOG),
    ] {
        if let Some(count) = srp(name)? {
            families.add(metric, [], count);
        }
    }
    for (name, metric) in [
        ("mtt_rx_token", &TOTEM_TOKEN_INTERVAL),
        ("avg_token_workload", &TOTEM_TOKEN_HOLD),
        ("time_since_token_last_received", &TOTEM_TOKEN_AGE),
    ] {
        if let Some(milliseconds) = srp(name)? {
            families.add(metric, [], milliseconds as f64 / 1e3);
        }
    }
    Ok(())
}

/// Adds the counters of knet's links. Other transports have none.
pub(super) fn add_links(
    stats: &Client,
    ends: &[End],
    families: &mut Families,
) -> Result<(), Error> {
    for end in ends {
        let prefix = format!("stats.knet.node{}.link{}.", end.node_id, end.link);
        let link = |name: &str| number(stats, &(prefix.clone() + name));
        for (name, metric) in [
            ("down_count", &LINK_DOWN),
            ("up_count", &LINK_UP),
            ("tx_total_bytes", &LINK_TRANSMIT_BYTES),
            ("rx_total_bytes", &LINK_RECEIVE_BYTES),
            ("tx_total_packets", &LINK_TRANSMIT_PACKETS),
            ("rx_total_packets", &LINK_RECEIVE_PACKETS),
            ("tx_total_errors", &LINK_TRANSMIT_ERRORS),
            // Despite its name: `cs_knet_stats` reads `tx_total_retries`.
            ("rx_total_retries", &LINK_TRANSMIT_RETRIES),
        ] {
            if let Some(count) = link(name)? {
                end.add(families, metric, count);
            }
        }
        // Without samples, the average is 0 and the minimum is the greatest number.
        if link("latency_samples")?.unwrap_or(0) == 0 {
            continue;
        }
        for (name, metric) in [
            ("latency_ave", &LINK_LATENCY),
            ("latency_min", &LINK_LATENCY_MIN),
            ("latency_max", &LINK_LATENCY_MAX),
        ] {
            if let Some(microseconds) = link(name)? {
                end.add(families, metric, microseconds as f64 / 1e6);
            }
        }
    }
    Ok(())
}

/// Adds when the system did not let corosync run in time.
pub(super) fn add_schedule_misses(stats: &Client, families: &mut Families) -> Result<(), Error> {
    let mut misses = 0_usize;
    while misses < 10 && stats.get(&format!("stats.schedmiss.{misses}.timestamp"))?.is_some() {
        misses += 1;
    }
    families.add(&SCHEDULE_MISSES, [], misses);
    // The latest is the first.
    if let Some(milliseconds) = number(stats, "stats.schedmiss.0.timestamp")? {
        families.add(&SCHEDULE_MISS_TIME, [], milliseconds as f64 / 1e3);
    }
    if let Some(Value::F32(milliseconds)) = stats.get("stats.schedmiss.0.delay")? {
        families.add(&SCHEDULE_MISS_DELAY, [], f64::from(milliseconds) / 1e3);
    }
    Ok(())
}

/// The connections of a program to a service.
#[derive(Debug, Default)]
struct Connections {
    count: u64,
    queued: u64,
}

/// Adds how many connections there are and were.
pub(super) fn add_connections(stats: &Client, families: &mut Families) -> Result<(), Error> {
    for (key, metric) in
        [("stats.ipcs.global.active", &IPC_ACTIVE), ("stats.ipcs.global.closed", &IPC_CLOSED)]
    {
        if let Some(count) = number(stats, key)? {
            families.add(metric, [], count);
        }
    }
    Ok(())
}

/// Adds which programs are connected.
///
/// Only an iteration tells. In corosync before 3.1.4 it goes on from freed memory when any client
/// disconnects meanwhile. In later versions it does so when the key that it stands on is deleted
/// twice: when a process disconnects, connects and disconnects again between two steps. So nothing
/// else may connect from here at the same time.
pub(super) fn add_clients(stats: &Client, families: &mut Families) -> Result<(), Error> {
    const PREFIX: &str = "stats.ipcs.service";
    let mut clients: BTreeMap<(String, String), Connections> = BTreeMap::new();
    for entry in stats.iter(PREFIX)? {
        let key = entry?.key;
        let Some(connection) = key.strip_suffix(".procname") else { continue };
        let service = connection.strip_prefix(PREFIX).and_then(|rest| rest.split('.').next());
        let service = service.unwrap_or_default();
        let known = service.parse().ok().and_then(|number: usize| SERVICES.get(number));
        // Missing where it ended meanwhile.
        let client = match stats.get(&key)? {
            Some(Value::String(name)) => name,
            Some(Value::Other { data, .. }) => escaped(&data),
            _ => continue,
        };
        let client = (known.copied().unwrap_or(service).to_owned(), client);
        let connections = clients.entry(client).or_default();
        connections.count += 1;
        let queued = number(stats, &format!("{connection}.queued"))?;
        connections.queued = connections.queued.saturating_add(queued.unwrap_or(0));
    }
    let (shown, omitted) = largest(clients, MOST_CLIENTS, |connections| connections.count);
    for ((service, client), connections) in &shown {
        families.add(&IPC_CONNECTIONS, [service, client], connections.count);
        families.add(&IPC_QUEUED, [service, client], connections.queued);
    }
    families.add(&IPC_OMITTED, [], omitted);
    Ok(())
}

/// Takes the largest entries, the first of those of one size, and how many are left.
pub(super) fn largest<K: Ord, V>(
    entries: BTreeMap<K, V>,
    most: usize,
    size: impl Fn(&V) -> u64,
) -> (Vec<(K, V)>, usize) {
    let mut entries: Vec<(K, V)> = entries.into_iter().collect();
    entries.sort_by_key(|(_, value)| Reverse(size(value)));
    let omitted = entries.len().saturating_sub(most);
    entries.truncate(most);
    (entries, omitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_shown_and_the_others_counted() {
        let entries: BTreeMap<&str, u64> = [("a", 1), ("b", 3), ("c", 1), ("d", 2)].into();
        let show = |most| largest(entries.clone(), most, |size| *size);
        assert_eq!(show(3), (vec![("b", 3), ("d", 2), ("a", 1)], 1));
        assert_eq!(show(4).1, 0);
        assert_eq!(show(0), (vec![], 4));
    }
}
