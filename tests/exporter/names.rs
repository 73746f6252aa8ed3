//! The metrics of ha_cluster_exporter's corosync collector, beside what it would read from the
//! output of corosync's tools.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use corosync_ipc::{cmap, cpg};
use testbed::{
    Cluster, Node, Process, Transport, address, eventually, find_program, skip, skip_because,
    version,
};

use super::{Exporter, Sample, Samples, program};

/// Value by name and labels.
type Values = BTreeMap<String, f64>;

fn key(name: &str, labels: &[(&str, &str)]) -> String {
    let mut labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    labels.sort();
    format!("ha_cluster_corosync_{name}{{{}}}", labels.join(","))
}

/// What ha_cluster_exporter makes of `corosync-quorumtool -p`. It refuses output in which anything
/// of this is missing.
#[track_caller]
fn of_quorumtool(text: &str) -> Values {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name:?}: {text}")).trim()
    };
    let mut values = Values::new();
    let quorate = if field("Quorate:") == "Yes" { 1.0 } else { 0.0 };
    values.insert(key("quorate", &[]), quorate);
    for (name, kind) in [
        ("Expected votes:", "expected_votes"),
        ("Highest expected:", "highest_expected"),
        ("Total votes:", "total_votes"),
        ("Quorum:", "quorum"),
    ] {
        let digits = field(name).split(' ').next().expect("a word");
        values.insert(key("quorum_votes", &[("type", kind)]), digits.parse().expect("a number"));
    }
    let table = text.split_once("Membership information\n").expect("a table").1;
    for line in table.lines().skip(2) {
        // NODEID VOTES [QDEVICE] NAME [(local)], where QDEVICE is any word before another one.
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_list = |word: &&str| word.chars().all(|c| c.is_alphanumeric() || ",_".contains(c));
        let at = if words.len() > 3 && is_list(&words[2]) { 3 } else { 2 };
        let local = if words.get(at + 1) == Some(&"(local)") { "true" } else { "false" };
        let labels = [("node_id", words[0]), ("node", words[at]), ("local", local)];
        values.insert(key("member_votes", &labels), words[1].parse().expect("votes"));
    }
    values
}

/// What it would make of `corosync-cfgtool -s` of corosync 3.1, if it understood it. It looks for
/// "RING ID" or "Link ID", and a line that begins with "status" and has a "=".
fn of_cfgtool(text: &str, quorumtool: &str) -> Values {
    assert!(!text.contains("RING ID") && !text.contains("Link ID"), "it understands: {text}");
    let field = |name: &str| {
        let line = quorumtool.lines().find_map(|line| line.strip_prefix(name));
        line.expect("it was there").trim()
    };
    let mut values = Values::new();
    let mut faulty = 0.0;
    for link in text.split("LINK ID ").skip(1) {
        let number = link.split_whitespace().next().expect("a number");
        let address = link.lines().find_map(|line| line.trim().strip_prefix("addr\t= "));
        let is_faulty = link.contains("disconnected");
        let labels = [
            ("ring_id", field("Ring ID:")),
            ("node_id", field("Node ID:")),
            ("number", number),
            ("address", address.expect("an address")),
        ];
        values.insert(key("rings", &labels), if is_faulty { 0.0 } else { 1.0 });
        faulty += if is_faulty { 1.0 } else { 0.0 };
    }
    values.insert(key("ring_errors", &[]), faulty);
    values
}

/// What the tools say at a node.
fn of_tools(node: &Node) -> Values {
    let quorumtool = node.tool("corosync-quorumtool", ["-p"]).stdout;
    let mut values = of_quorumtool(&quorumtool);
    values.extend(of_cfgtool(&node.tool("corosync-cfgtool", ["-s"]).stdout, &quorumtool));
    values
}

fn ours(metrics: &Samples) -> Values {
    let sample = |sample: &&Sample| {
        let labels: Vec<(&str, &str)> =
            sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let name = sample.name.strip_prefix("ha_cluster_corosync_").expect("as asked for");
        (key(name, &labels), sample.value)
    };
    let found: Vec<&Sample> = metrics.beginning("ha_cluster_corosync_");
    let values: Values = found.iter().map(sample).collect();
    assert_eq!(values.len(), found.len(), "{metrics:?}");
    values
}

/// Waits until both say the same, which is something expected, and returns the metrics.
#[track_caller]
fn agreed(node: &Node, exporter: &Exporter, is_expected: impl Fn(&Values) -> bool) -> Samples {
    let mut last = (Values::new(), Values::new());
    let patience = testbed::Patience::new();
    loop {
        let before = of_tools(node);
        let metrics = node.run(|| exporter.metrics());
        last.0 = ours(&metrics);
        last.1 = of_tools(node);
        if last.0 == before && last.0 == last.1 && is_expected(&before) {
            return metrics;
        }
        assert!(!patience.is_over(), "ours, then the tools': {last:#?}");
    }
}

/// Three nodes with two links, and a quorum device where it is installed.
fn cluster() -> Cluster {
    let device = format!(
        "device {{\nmodel: net\nvotes: 1\nnet {{\nhost: {}\ntls: off\nalgorithm: ffsplit\n}}\n}}",
        address(1)
    );
    let cluster = Cluster::builder()
        .nodes(3)
        .transport(Transport::Knet)
        .setting("quorum", &device)
        .setting("totem", "config_version: 7")
        .create();
    for node in cluster.nodes() {
        let second = |id: u32| format!("10.78.0.{id}");
        let address = format!("{}/24", second(node.id()));
        node.tool("ip", ["addr", "add", &address, "dev", "eth0"]).success();
        let mut config = fs::read_to_string(node.config_path()).unwrap();
        for one in cluster.nodes() {
            let first = format!("ring0_addr: {}\n", one.address());
            let both = format!("{first}ring1_addr: {}\n", second(one.id()));
            assert!(config.contains(&first));
            config = config.replace(&first, &both);
        }
        fs::write(node.config_path(), config).unwrap();
        node.start_unready();
    }
    cluster.nodes().iter().for_each(Node::wait_ready);
    cluster.wait_members(&[1, 2, 3], 3);
    cluster
}

fn start(node: &Node, script: &str) -> Process {
    node.command("sh").args(["-c", script]).spawn()
}

#[test]
fn values_are_those_of_the_tools_while_nodes_links_and_the_device_fail() {
    if skip() {
        return;
    }
    if version() < [3, 1, 1, 0] {
        return skip_because("corosync has no node status");
    }
    if find_program("corosync-qdevice").is_none() || find_program("corosync-qnetd").is_none() {
        return skip_because("no corosync-qdevice or no corosync-qnetd");
    }
    let cluster = cluster();
    let node = cluster.node(1);
    let client = node.run(|| {
        let client = cpg::Client::connect().unwrap();
        client.join(&cpg::GroupName::with_nul("crmd").unwrap()).unwrap();
        client
    });
    let command = node.command(program()).args(["exporter", "--clients"]);
    let exporter = Exporter::spawn(command.args(["--listen", "127.0.0.1:0"]));

    let votes = |node: &str, votes: f64| {
        let node = node.to_owned();
        move |values: &Values| {
            let found = values.iter().find(|(key, _)| key.contains(&format!("node=\"{node}\"")));
            found.is_some_and(|(_, found)| *found == votes)
        }
    };
    let faulty = |values: &Values| values[&key("ring_errors", &[])];
    let all_up = agreed(node, &exporter, |values| faulty(values) == 0.0);
    assert_eq!(all_up.value("ha_cluster_corosync_quorate"), 1.0);
    assert_eq!(all_up.beginning("corosync_qdevice_state"), Vec::<&Sample>::new());
    everything_is_told(&all_up);

    let qnetd = start(node, "mkdir -p /run/corosync-qnetd && exec corosync-qnetd -f -s off");
    let mut devices: Vec<Process> = cluster
        .nodes()
        .iter()
        .map(|node| start(node, "mkdir -p /run/corosync-qdevice && exec corosync-qdevice -f -d"))
        .collect();
    let voting = agreed(node, &exporter, votes("Qdevice", 1.0));
    assert_eq!(
        voting.find("ha_cluster_corosync_quorum_votes", &[("type", "total_votes")]),
        Some(4.0)
    );
    let state = |metrics: &Samples, node: &str, state: &str| {
        metrics.find("corosync_qdevice_state", &[("node", node), ("state", state)])
    };
    assert_eq!(state(&voting, "n1", "casts_vote"), Some(1.0));
    assert_eq!(voting.value("corosync_qdevice_votes"), 1.0);

    // The second link of node 2 goes down, and later node 3.
    cluster.node(2).tool("ip", ["addr", "del", "10.78.0.2/24", "dev", "eth0"]).success();
    let one_link = agreed(node, &exporter, |values| faulty(values) == 1.0);
    let link = |metrics: &Samples, name: &str, link: &str, node: &str| {
        metrics.find(name, &[("link", link), ("node", node)])
    };
    let connected = |metrics: &Samples, number: &str, node: &str| {
        link(metrics, "corosync_link_connected", number, node)
    };
    assert_eq!(connected(&one_link, "1", "n2"), Some(0.0));
    assert_eq!(connected(&one_link, "0", "n2"), Some(1.0));
    assert_eq!(connected(&one_link, "1", "n3"), Some(1.0));
    let downs = |metrics: &Samples| link(metrics, "corosync_link_down_total", "1", "n2").unwrap();
    assert_eq!(downs(&one_link), downs(&all_up) + 1.0);

    devices.remove(2).kill();
    cluster.node(3).kill();
    let two_left = agreed(node, &exporter, |values| {
        faulty(values) == 2.0 && !values.keys().any(|key| key.contains("node=\"n3\""))
    });
    assert_eq!(two_left.value("corosync_members"), 2.0);
    assert_eq!(two_left.find("corosync_node_member", &[("node", "n3")]), Some(0.0));
    assert_eq!(two_left.find("corosync_node_member", &[("node", "n2")]), Some(1.0));
    assert!(two_left.value("corosync_ring_sequence") > all_up.value("corosync_ring_sequence"));
    let changes = |metrics: &Samples| metrics.value("corosync_exporter_membership_changes_total");
    assert!(changes(&two_left) > changes(&all_up), "{two_left:?}");

    // A device that is registered and does not vote. The tool adds words that ha_cluster_exporter
    // takes for a node's name.
    devices.remove(0).kill();
    let silent = eventually("the device is known not to vote", || {
        let metrics = node.run(|| exporter.metrics());
        (state(&metrics, "n1", "casts_vote") == Some(0.0)).then_some(metrics)
    });
    assert_eq!(state(&silent, "n1", "registered"), Some(1.0));
    let ours = ours(&silent);
    let tools = of_tools(node);
    let device =
        |name| key("member_votes", &[("node_id", "0"), ("node", name), ("local", "false")]);
    assert_eq!(
        (ours.get(&device("Qdevice")), tools.get(&device("(votes"))),
        (Some(&0.0), Some(&0.0))
    );
    let rest = |values: &Values| {
        let mut values = values.clone();
        values.retain(|key, _| !key.contains("node_id=\"0\""));
        values
    };
    assert_eq!(rest(&ours), rest(&tools));
    drop((devices, qnetd, client));
    exporter.end();
}

/// What the tools do not tell: each number has a place from which it must come.
#[track_caller]
fn everything_is_told(metrics: &Samples) {
    let info = &metrics.beginning("corosync_cluster_info")[0].labels;
    assert!(info.contains(&("totem_transport".to_owned(), "knet".to_owned())), "{info:?}");
    let provider = ("quorum_provider".to_owned(), "corosync_votequorum".to_owned());
    assert!(info.contains(&provider), "{info:?}");
    let local = [("node_id", "1"), ("node", "n1"), ("ipc_transport", "shm")];
    assert_eq!(metrics.find("corosync_local_node_info", &local), Some(1.0));
    assert_eq!(metrics.value("corosync_config_version"), 7.0);
    assert_eq!(metrics.value("corosync_config_reload_failed"), 0.0);
    assert_eq!(metrics.value("corosync_members"), 3.0);
    assert_eq!(metrics.find("corosync_cpg_group_members", &[("group", r"crmd\x00")]), Some(1.0));
    let cpg = [("service", "cpg")];
    assert_eq!(metrics.find("corosync_ipc_connections", &cpg), Some(1.0));
    for node in ["n2", "n3"] {
        for number in ["0", "1"] {
            let link = |name: &str| {
                let found = metrics.find(name, &[("link", number), ("node", node)]);
                found.unwrap_or_else(|| panic!("no {name} of {number} to {node}"))
            };
            let latency = link("corosync_link_latency_seconds");
            assert!(link("corosync_link_latency_min_seconds") <= latency);
            assert!((1e-6..1.0).contains(&latency), "{latency}");
            assert!(link("corosync_link_transmit_bytes_total") > 100.0);
            assert!(link("corosync_link_receive_packets_total") > 1.0);
            assert!(link("corosync_link_mtu_bytes") > 400.0);
            assert_eq!(link("corosync_link_enabled"), 1.0);
        }
    }
    let token = [("type", "orf_token"), ("direction", "rx")];
    assert!(metrics.find("corosync_totem_messages_total", &token).unwrap() > 1.0);
    let state = [("state", "operational")];
    assert!(metrics.find("corosync_totem_state_entered_total", &state).unwrap() >= 1.0);
    assert!(metrics.value("corosync_start_time_seconds") > 1e9);
}

/// Counters are those of the stats map.
#[test]
fn counters_are_those_of_the_stats_map() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().token(1000).start();
    let node = cluster.node(1);
    let command = node.command(program()).args(["exporter", "--listen", "127.0.0.1:0"]);
    let exporter = Exporter::spawn(command);
    node.run(|| {
        let stats = cmap::Options::new().map(cmap::Map::Stats);
        let stats = cmap::Client::connect_with(&corosync_ipc::Endpoint::new(), stats).unwrap();
        let number = |key: &str| stats.get_as::<u64>(key).unwrap().unwrap() as f64;
        let client = cpg::Client::connect().unwrap();
        let group = cpg::GroupName::new("counted").unwrap();
        client.join(&group).unwrap();
        for _ in 0..10 {
            client.multicast(cpg::Guarantee::AGREED, b"message").unwrap();
        }
        eventually("all are counted", || number("stats.srp.mcast_tx") >= 10.0);
        let metrics = exporter.metrics();
        let sent = [("type", "mcast"), ("direction", "tx")];
        let counted = metrics.find("corosync_totem_messages_total", &sent).unwrap();
        assert!((10.0..=number("stats.srp.mcast_tx")).contains(&counted), "{counted}");
        let closed = metrics.value("corosync_ipc_closed_connections_total");
        assert!(closed > 0.0 && closed <= number("stats.ipcs.global.closed"), "{closed}");
        let late = exporter.metrics().value("corosync_ipc_closed_connections_total");
        assert!(late > closed, "{late} after {closed}");
    });
    // corosync remembers when it could not run for most of the time that a token has.
    let paused = node.pause();
    thread::sleep(Duration::from_secs(2));
    drop(paused);
    let metrics = eventually("the schedule miss is told", || {
        let metrics = node.run(|| exporter.metrics());
        (metrics.value("corosync_schedule_misses") > 0.0).then_some(metrics)
    });
    assert!(metrics.value("corosync_schedule_miss_last_delay_seconds") > 1.0, "{metrics:?}");
    assert!(metrics.value("corosync_schedule_miss_last_timestamp_seconds") > 1e9);
}
