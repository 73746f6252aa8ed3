//! All metrics that there are. docs/monitoring.md has them as a table.

#[cfg(test)]
use super::families::Description;
use super::families::{Kind, Metric};

/// Declares metrics, and `ALL` of them.
macro_rules! metrics {
    ($($id:ident: $labels:literal = $kind:ident $name:literal $list:tt $help:literal;)*) => {
        $(pub(crate) static $id: Metric<$labels> =
            Metric { name: $name, kind: Kind::$kind, labels: $list, help: $help };)*

        /// Every metric, in the order of the table.
        #[cfg(test)]
        pub(crate) static ALL: &[Description] = &[$($id.describe()),*];
    };
}

metrics! {
    // The scrape.
    UP: 0 = Gauge "corosync_up" []
        "Whether a service of corosync answered and let the exporter in";
    PART_FAILED: 1 = Gauge "corosync_scrape_part_failed" ["part"]
        "Whether this part could not be asked, so that its metrics are missing or incomplete";
    SCRAPE_DURATION: 0 = Gauge "corosync_scrape_duration_seconds" []
        "How long the scrape took";
    OMITTED_SAMPLES: 0 = Gauge "corosync_scrape_omitted_samples" []
        "Samples that were left out because their metric had too many";

    // What ha_cluster_exporter has.
    HA_QUORATE: 0 = Gauge "ha_cluster_corosync_quorate" []
        "Whether this node's partition is quorate";
    HA_QUORUM_VOTES: 1 = Gauge "ha_cluster_corosync_quorum_votes" ["type"]
        "Votes: expected_votes, highest_expected, total_votes, and quorum, the votes needed";
    HA_MEMBER_VOTES: 3 = Gauge "ha_cluster_corosync_member_votes" ["node_id", "node", "local"]
        "Votes of each member, and of the quorum device as node 0";
    HA_RINGS: 4 = Gauge "ha_cluster_corosync_rings" ["ring_id", "node_id", "number", "address"]
        "Whether a link of this node is healthy: connected to every node that is on it";
    HA_RING_ERRORS: 0 = Gauge "ha_cluster_corosync_ring_errors" []
        "Links of this node that are not healthy";
    HA_SCRAPE_SUCCESS: 1 = Gauge "ha_cluster_scrape_success" ["collector"]
        "Whether the metrics that begin with ha_cluster_corosync are complete";
    HA_SCRAPE_DURATION: 1 = Gauge "ha_cluster_scrape_duration_seconds" ["collector"]
        "How long the scrape took";

    // The cluster.
    CLUSTER_INFO: 3 = Info "corosync_cluster_info" ["cluster_name", "totem_transport", "quorum_provider"]
        "The cluster's name, the transport between nodes, and the quorum provider";
    LOCAL_NODE_INFO: 3 = Info "corosync_local_node_info" ["node_id", "node", "ipc_transport"]
        "This node, and how clients talk to its corosync";
    START_TIME: 0 = Gauge "corosync_start_time_seconds" []
        "When corosync started, where its process is visible";
    CONFIG_VERSION: 0 = Gauge "corosync_config_version" []
        "totem.config_version of the configuration in use";
    RELOAD_FAILED: 0 = Gauge "corosync_config_reload_failed" []
        "Whether the last reload of corosync.conf could not be applied; 0 before corosync 3.1.9, which does not tell";
    RING_SEQUENCE: 0 = Gauge "corosync_ring_sequence" []
        "The number in the ring id, which grows with each change of the membership";
    MEMBERS: 0 = Gauge "corosync_members" []
        "Members of this node's partition";
    NODE_MEMBER: 2 = Gauge "corosync_node_member" ["node_id", "node"]
        "Whether a node that is configured, or was seen, is a member";
    VOTEQUORUM_FLAG: 1 = Gauge "corosync_votequorum_flag" ["flag"]
        "Options of votequorum that are in force on this node";
    QDEVICE_STATE: 3 = Gauge "corosync_qdevice_state" ["node_id", "node", "state"]
        "State of the quorum device at each member: registered, alive, casts_vote, master_wins";
    QDEVICE_VOTES: 0 = Gauge "corosync_qdevice_votes" []
        "Votes that the quorum device has, whether it casts them or not";

    // Links.
    LINK_CONNECTED: 3 = Gauge "corosync_link_connected" ["link", "node_id", "node"]
        "Whether a link to another node is connected";
    LINK_ENABLED: 3 = Gauge "corosync_link_enabled" ["link", "node_id", "node"]
        "Whether a link to another node is enabled";
    LINK_MTU: 3 = Gauge "corosync_link_mtu_bytes" ["link", "node_id", "node"]
        "Largest packet that a link to another node takes";
    LINK_LATENCY: 3 = Gauge "corosync_link_latency_seconds" ["link", "node_id", "node"]
        "Average time of a ping and its answer";
    LINK_LATENCY_MIN: 3 = Gauge "corosync_link_latency_min_seconds" ["link", "node_id", "node"]
        "Shortest time of a ping and its answer since corosync started";
    LINK_LATENCY_MAX: 3 = Gauge "corosync_link_latency_max_seconds" ["link", "node_id", "node"]
        "Longest time of a ping and its answer since corosync started";
    LINK_DOWN: 3 = Counter "corosync_link_down_total" ["link", "node_id", "node"]
        "How often a link to another node went down";
    LINK_UP: 3 = Counter "corosync_link_up_total" ["link", "node_id", "node"]
        "How often a link to another node came up";
    LINK_TRANSMIT_BYTES: 3 = Counter "corosync_link_transmit_bytes_total" ["link", "node_id", "node"]
        "Bytes sent over a link to another node";
    LINK_RECEIVE_BYTES: 3 = Counter "corosync_link_receive_bytes_total" ["link", "node_id", "node"]
        "Bytes received over a link from another node";
    LINK_TRANSMIT_PACKETS: 3 = Counter "corosync_link_transmit_packets_total" ["link", "node_id", "node"]
        "Packets sent over a link to another node";
    LINK_RECEIVE_PACKETS: 3 = Counter "corosync_link_receive_packets_total" ["link", "node_id", "node"]
        "Packets received over a link from another node";
    LINK_TRANSMIT_ERRORS: 3 = Counter "corosync_link_transmit_errors_total" ["link", "node_id", "node"]
        "Packets that could not be sent over a link to another node";
    LINK_TRANSMIT_RETRIES: 3 = Counter "corosync_link_transmit_retries_total" ["link", "node_id", "node"]
        "Attempts to send a packet again over a link to another node";

    // Totem.
    TOTEM_MESSAGES: 2 = Counter "corosync_totem_messages_total" ["type", "direction"]
        "Messages of totem by type, tx or rx";
    TOTEM_RETRANSMITS: 0 = Counter "corosync_totem_retransmitted_messages_total" []
        "Multicasts that were sent again because a node missed them";
    TOTEM_DROPPED: 0 = Counter "corosync_totem_dropped_messages_total" []
        "Received messages that were dropped";
    TOTEM_STATE_ENTERED: 1 = Counter "corosync_totem_state_entered_total" ["state"]
        "How often totem entered a state; each change of the membership passes through all";
    TOTEM_TOKEN_LOST: 1 = Counter "corosync_totem_token_lost_total" ["state"]
        "How often the token was lost, by the state that totem was in";
    TOTEM_CONSENSUS_TIMEOUTS: 0 = Counter "corosync_totem_consensus_timeouts_total" []
        "How often the nodes did not agree on the membership in time";
    TOTEM_GATHERS: 0 = Gauge "corosync_totem_continuous_gathers" []
        "How often in a row this node could not form a ring";
    TOTEM_SEND_FAILURES: 0 = Gauge "corosync_totem_continuous_send_failures" []
        "How often in a row sending failed";
    TOTEM_FIREWALL: 0 = Gauge "corosync_totem_firewall_or_nic_failure" []
        "Whether corosync believes that a firewall or a failed network card isolates this node";
    TOTEM_TOKEN_INTERVAL: 0 = Gauge "corosync_totem_token_interval_seconds" []
        "Mean time between two arrivals of the token";
    TOTEM_TOKEN_HOLD: 0 = Gauge "corosync_totem_token_hold_seconds" []
        "Mean time that this node holds the token";
    TOTEM_TOKEN_AGE: 0 = Gauge "corosync_totem_token_age_seconds" []
        "Time since the token arrived, as corosync last looked, which it does every 1.5 seconds";
    TOTEM_BACKLOG: 0 = Gauge "corosync_totem_backlog_messages" []
        "Mean number of messages that wait for the token on this node";

    // Clients of corosync.
    IPC_ACTIVE: 0 = Gauge "corosync_ipc_active_connections" []
        "Connections of clients, those of this scrape included";
    IPC_CLOSED: 0 = Counter "corosync_ipc_closed_connections_total" []
        "Connections of clients that have ended, those of scrapes included";
    IPC_CONNECTIONS: 2 = Gauge "corosync_ipc_connections" ["service", "client"]
        "Connections of a program to a service; with --clients";
    IPC_QUEUED: 2 = Gauge "corosync_ipc_queued_events" ["service", "client"]
        "Events that wait in corosync because the program reads its own too slowly; with --clients";
    IPC_OMITTED: 0 = Gauge "corosync_ipc_omitted_clients" []
        "Programs and services without samples, since only the 256 with the most connections have some; with --clients";

    // Groups.
    CPG_GROUPS: 0 = Gauge "corosync_cpg_groups" []
        "Groups of cpg in the cluster";
    CPG_MEMBERS: 1 = Gauge "corosync_cpg_group_members" ["group"]
        "Members of a group of cpg";
    CPG_OMITTED: 0 = Gauge "corosync_cpg_omitted_groups" []
        "Groups without a sample, since only the 256 with the most members have one";

    // corosync's own time.
    SCHEDULE_MISSES: 0 = Gauge "corosync_schedule_misses" []
        "How often the system did not let corosync run in time, of which it remembers 10";
    SCHEDULE_MISS_TIME: 0 = Gauge "corosync_schedule_miss_last_timestamp_seconds" []
        "When the system last did not let corosync run in time";
    SCHEDULE_MISS_DELAY: 0 = Gauge "corosync_schedule_miss_last_delay_seconds" []
        "How long it was that time";

    // The exporter.
    EXPORTER_INFO: 1 = Info "corosync_exporter_build_info" ["version"]
        "The version of corosync-ipc";
    EXPORTER_START: 0 = Gauge "corosync_exporter_start_time_seconds" []
        "When the exporter started; it counts the following since then";
    EXPORTER_SCRAPES: 0 = Counter "corosync_exporter_scrapes_total" []
        "Scrapes of corosync; requests at the same time share one";
    EXPORTER_CONNECTED: 0 = Gauge "corosync_exporter_connected" []
        "Whether the exporter's standing connection to the quorum service is up";
    EXPORTER_GAPS: 0 = Counter "corosync_exporter_connection_gaps_total" []
        "How often that connection was lost";
    EXPORTER_MEMBERSHIP_CHANGES: 0 = Counter "corosync_exporter_membership_changes_total" []
        "Changes of the membership that the exporter saw; a gap counts as one if the members differ";
    EXPORTER_QUORUM_CHANGES: 0 = Counter "corosync_exporter_quorum_changes_total" []
        "How often the exporter saw this node become quorate or not quorate";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value as Json;

    use super::*;

    const PAGE: &str = include_str!("../../../../docs/monitoring.md");
    const ALERTS: &str = include_str!("../../../../docs/alerts.yml");
    const DASHBOARD: &str = include_str!("../../../../docs/grafana-dashboard.json");

    fn row(metric: &Description) -> String {
        let kind = match metric.kind {
            Kind::Gauge | Kind::Info => "gauge",
            Kind::Counter => "counter",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help)
    }

    /// Prints the table that the page should have when it has another one.
    #[test]
    fn the_page_has_every_metric() {
        let table = PAGE.split_once("\n## Metrics\n").expect("a heading").1;
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let all: Vec<String> = ALL.iter().map(row).collect();
        assert_eq!(rows, all, "docs/monitoring.md should have:\n{}\n", all.join("\n"));
    }

    /// The words of a text that look like a metric's name.
    fn names(text: &str) -> BTreeSet<&str> {
        let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let words = text.split(|character| !is_part(character));
        let begins = |word: &str| word.starts_with("corosync_") || word.starts_with("ha_cluster_");
        words.filter(|word| begins(word)).collect()
    }

    #[test]
    fn alerts_and_dashboard_use_metrics_that_there_are() {
        let all: BTreeSet<&str> = ALL.iter().map(|metric| metric.name).collect();
        let dashboard: Json = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
        let panels = dashboard["panels"].as_array().expect("panels");
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{panel}");
            assert!(panel["title"].is_string() && panel["gridPos"]["w"].is_u64(), "{panel}");
            let targets = panel["targets"].as_array();
            assert_eq!(targets.is_none(), panel["type"] == "row", "{panel}");
            for target in targets.into_iter().flatten() {
                assert!(!names(target["expr"].as_str().expect("an expression")).is_empty());
            }
        }
        for text in [ALERTS, DASHBOARD] {
            let used = names(text);
            assert!(used.len() > 15, "{used:?}");
            assert!(used.is_subset(&all), "{:?}", used.difference(&all));
        }
    }

    #[test]
    fn names_are_different_and_say_what_they_are() {
        // OpenMetrics knows a counter and its family by the name without the suffix.
        let family = |metric: &Description| {
            let name = metric.name;
            name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name)
        };
        let families: BTreeSet<&str> = ALL.iter().map(family).collect();
        assert_eq!(families.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{metric:?}");
            assert_eq!(metric.name.ends_with("_info"), metric.kind == Kind::Info, "{metric:?}");
            let labels: BTreeSet<&str> = metric.labels.iter().copied().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{metric:?}");
            assert!(!metric.help.ends_with('.') && !metric.help.contains('|'), "{metric:?}");
        }
    }
}
