//! The keys of knet's links. No packets pass over a link here, so the counters keep their initial
//! values.

use crate::cmap::Value;
use crate::wire::values::NodeId;

pub(super) const PREFIX: &str = "stats.knet.";

/// The keys of the knet handle. A minimum starts as the greatest number.
const HANDLE: [&str; 22] = [
    "tx_uncompressed_packets",
    "tx_compressed_packets",
    "tx_compressed_original_bytes",
    "tx_compressed_size_bytes",
    "tx_compress_time_min",
    "tx_compress_time_max",
    "tx_compress_time_ave",
    "rx_compressed_packets",
    "rx_compressed_original_bytes",
    "rx_compressed_size_bytes",
    "rx_compress_time_min",
    "rx_compress_time_max",
    "rx_compress_time_ave",
    "tx_crypt_time_min",
    "tx_crypt_time_max",
    "tx_crypt_time_ave",
    "tx_crypt_byte_overhead",
    "tx_crypt_packets",
    "rx_crypt_time_min",
    "rx_crypt_time_max",
    "rx_crypt_time_ave",
    "rx_crypt_packets",
];

/// The 64-bit counters of a link.
const LINK_LONG: [&str; 22] = [
    "tx_data_packets",
    "rx_data_packets",
    "tx_data_bytes",
    "rx_data_bytes",
    "tx_ping_packets",
    "rx_ping_packets",
    "tx_ping_bytes",
    "rx_ping_bytes",
    "tx_pong_packets",
    "rx_pong_packets",
    "tx_pong_bytes",
    "rx_pong_bytes",
    "tx_pmtu_packets",
    "rx_pmtu_packets",
    "tx_pmtu_bytes",
    "rx_pmtu_bytes",
    "tx_total_packets",
    "rx_total_packets",
    "tx_total_bytes",
    "rx_total_bytes",
    "tx_total_errors",
    "rx_total_retries",
];

/// The 32-bit counters of a link.
const LINK_SHORT: [&str; 13] = [
    "tx_pmtu_errors",
    "tx_pmtu_retries",
    "tx_ping_errors",
    "tx_ping_retries",
    "tx_pong_errors",
    "tx_pong_retries",
    "tx_data_errors",
    "tx_data_retries",
    "latency_max",
    "latency_ave",
    "latency_samples",
    "down_count",
    "up_count",
];

/// Returns a key of the link to a node.
pub(super) fn link_key(node: NodeId, name: &str) -> String {
    format!("{PREFIX}node{node}.link0.{name}")
}

/// Returns the keys of the knet handle with their initial values.
pub(super) fn handle() -> impl Iterator<Item = (String, Value)> {
    HANDLE.into_iter().map(|name| {
        let number = if name.ends_with("_min") { u64::MAX } else { 0 };
        (format!("{PREFIX}handle.{name}"), Value::U64(number))
    })
}

/// Returns the keys of the link to a node that is not connected yet, with their initial values.
pub(super) fn link(node: NodeId, mtu: u32) -> impl Iterator<Item = (String, Value)> {
    let state = [
        ("enabled", Value::U8(1)),
        ("connected", Value::U8(0)),
        ("mtu", Value::U32(mtu)),
        ("latency_min", Value::U32(u32::MAX)),
    ];
    let long = LINK_LONG.into_iter().map(|name| (name, Value::U64(0)));
    let short = LINK_SHORT.into_iter().map(|name| (name, Value::U32(0)));
    state
        .into_iter()
        .chain(long)
        .chain(short)
        .map(move |(name, value)| (link_key(node, name), value))
}
