//! The cfg client.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use corosync_ipc::cfg::{
    Client, Event, LOCAL_NODE, LinkStatus, MAX_REASON, NodeStatus, Shutdown, ShutdownAnswer,
    ShutdownKind, ShutdownTimedOut,
};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, Result, cmap};
use testbed::{
    Cluster, Host, Node, Nodes, Setup, Transport, Version, WATCHDOG, cc, cs, eventually, invalid,
    next, next_or_error, skip, version,
};

testbed::on_each_host! {
    a_node_knows_its_id_addresses_and_rings;
    wrong_arguments_are_named_and_nothing_is_sent;
    a_killed_node_logs_the_reason, Setup::new().nodes(3).loses_nodes();
    a_tracker_that_says_no_prevents_a_shutdown;
    a_shutdown_all_agree_to_happens, Setup::new().nodes(2);
    an_immediate_shutdown_asks_nobody;
    one_shutdown_is_decided_at_a_time_and_newcomers_are_asked;
    silence_is_a_no_and_is_waited_for_longer_than_other_answers;
    a_stopped_daemon_times_requests_out_and_a_dead_one_ends_them;
}

testbed::embedded_process!();

/// First version with node status and shutdown tracking.
const NODE_STATUS: [u32; 4] = [3, 1, 1, 0];
/// First version with knet.
const KNET: [u32; 4] = [2, 99, 0, 0];

fn connect(endpoint: &Endpoint) -> Client {
    Client::connect_to(endpoint).unwrap()
}

/// A client where the test is inside a node.
fn connect_here() -> Client {
    connect(&Endpoint::new())
}

/// Whether a call fails for the age of the daemon, which survives it.
#[track_caller]
fn assert_unsupported<T: std::fmt::Debug>(node: &Node, result: Result<T>) {
    assert!(matches!(result, Err(Error::Unsupported { .. })), "{result:?}");
    assert_eq!(node.run(|| connect_here().local_node_id().unwrap()), NodeId(node.id()));
}

/// Whether the daemon asks before it ends. One that does not refuses to be tracked.
fn asks_before_shutdown(endpoint: &Endpoint, version: Version) -> bool {
    let asks = version >= NODE_STATUS;
    if !asks {
        let client = connect(endpoint);
        let tracked = client.track_start();
        assert!(matches!(tracked, Err(Error::Unsupported { .. })), "{tracked:?}");
        client.local_node_id().unwrap();
    }
    asks
}

/// Starts a client that answers so to every shutdown, until the connection ends. Returns when it
/// tracks.
fn answer_always(
    endpoint: &Endpoint,
    answer: ShutdownAnswer,
) -> thread::JoinHandle<Vec<ShutdownKind>> {
    let client = connect(endpoint);
    client.track_start().unwrap();
    thread::spawn(move || {
        let mut asked = Vec::new();
        while let Ok(event) = next_or_error(&client) {
            if let Event::Shutdown(Shutdown { kind }) = event {
                asked.push(kind);
                // The daemon may be gone before it answers.
                let _ = client.reply_to_shutdown(answer);
            }
        }
        asked
    })
}

fn a_node_knows_its_id_addresses_and_rings(endpoint: &Endpoint, version: Version) {
    let map = cmap::Client::connect_to(endpoint).unwrap();
    let told = map.get_as::<String>("nodelist.node.0.ring0_addr").unwrap().unwrap();
    let address: IpAddr = told.parse().unwrap();
    let client = connect(endpoint);
    assert_eq!(client.local_node_id().unwrap(), NodeId(1));
    assert_eq!(client.node_addresses(LOCAL_NODE).unwrap(), [address]);
    assert_eq!(client.node_addresses(NodeId(1)).unwrap(), [address]);
    assert_eq!(cs(client.node_addresses(NodeId(99))), CsError::NotExist);
    let rings = client.ring_status().unwrap();
    assert_eq!(rings.len(), 1);
    assert_eq!((rings[0].ip(), &rings[0].address), (Some(address), &told));
    assert!(!rings[0].status.is_empty());
    let numbered = version >= KNET;
    assert_eq!(rings[0].link, numbered.then_some(0));
    if numbered {
        assert_eq!(cs(client.ring_reenable()), CsError::NotSupported);
    } else {
        client.ring_reenable().unwrap();
    }
}

#[test]
fn addresses_of_both_families_are_told() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().setting("totem", "ip_version: ipv6").create();
    let node = cluster.node(1);
    if version() < [2, 0, 0, 0] {
        // Needs multicast for IPv6.
        return;
    }
    let config = fs::read_to_string(node.config_path()).unwrap();
    let address = "fd77::1";
    node.tool("ip", ["addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"]).success();
    let with = config.replace(&node.address(), address);
    assert_ne!(with, config);
    fs::write(node.config_path(), with).unwrap();
    node.start();
    node.run(|| {
        let client = connect_here();
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(client.node_addresses(LOCAL_NODE).unwrap(), [address]);
        assert_eq!(client.ring_status().unwrap()[0].ip(), Some(address));
    });
}

#[test]
fn nodes_and_links_are_those_cfgtool_shows() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).transport(Transport::Knet).create();
    let node = cluster.node(1);
    if version() < NODE_STATUS {
        node.start();
        assert_unsupported(node, node.run(|| connect_here().node_status(NodeId(1))));
        return;
    }
    for node in cluster.nodes() {
        node.start_unready();
    }
    cluster.wait_members(&[1, 2, 3], 3);
    let status = |of: u32| node.run(|| connect_here().node_status(NodeId(of)).unwrap());
    // Links may still come up, and their mtu grow, so what is compared was the same before and
    // after the tool ran.
    let tool = eventually("the links rest", || {
        let before: Vec<NodeStatus> = [2, 3].map(status).into();
        let tool = node.tool("corosync-cfgtool", ["-n"]).success();
        let after: Vec<NodeStatus> = [2, 3].map(status).into();
        let up = after.iter().all(|node| node.links.iter().all(|link| link.connected));
        (before == after && up).then_some(tool)
    });
    for status in [2, 3].map(status) {
        assert!(status.reachable && !status.remote && !status.external, "{status:?}");
        let [link] = &status.links[..] else { panic!("one link: {status:?}") };
        assert_eq!(link.source_ip(), Some(node.address().parse().unwrap()));
        assert_eq!(
            link.destination_ip(),
            Some(cluster.node(status.node_id.0).address().parse().unwrap())
        );
        let LinkStatus { link, source, destination, mtu, .. } = link;
        let shown =
            format!("LINK: {link} udp ({source}->{destination}) enabled connected mtu: {mtu}\n");
        let (_, node) = tool.split_once(&format!("nodeid: {} reachable", status.node_id)).unwrap();
        assert!(node.contains(&shown), "{shown:?} is not in {tool}");
    }
    assert_eq!(tool.matches("nodeid:").count(), 2);

    node.run(|| {
        let client = connect_here();
        // One character a node: this one, and two that are enabled and connected.
        let [ring] = &client.ring_status().unwrap()[..] else { panic!("one link") };
        assert_eq!((ring.link, ring.status.as_str()), (Some(0), "n33"));
        let links = node.tool("corosync-cfgtool", ["-s"]).success();
        assert!(links.contains(&format!("addr\t= {}", ring.address)), "{links}");
        for id in 1..=3 {
            let address: IpAddr = cluster.node(id).address().parse().unwrap();
            assert_eq!(client.node_addresses(NodeId(id)).unwrap(), [address]);
        }
        assert_eq!(cs(client.node_status(NodeId(99))), CsError::FailedOperation);
    });

    cluster.unplug(3);
    eventually("node 3 is out of reach", || {
        let status = status(3);
        !status.reachable && !status.links[0].connected
    });
}

/// Adds lines to corosync.conf, and takes others away.
fn edit(node: &Node, changes: &[(&str, &str)]) {
    let config = fs::read_to_string(node.config_path()).unwrap();
    let edited = changes.iter().fold(config, |config, (from, to)| {
        assert!(config.contains(from), "{from:?}: {config}");
        config.replace(from, to)
    });
    fs::write(node.config_path(), edited).unwrap();
}

/// Ring status is refused where it would crash this daemon, which goes on.
#[track_caller]
fn assert_rings_are_not_asked_for(node: &Node) {
    node.run(|| {
        let client = connect_here();
        let refused = client.ring_status();
        let Err(error @ Error::WouldCrash { .. }) = &refused else { panic!("{refused:?}") };
        let text = error.to_string();
        assert!(
            text.starts_with("cfg ring status get refused") && text.contains("has 2"),
            "{text}"
        );
        assert_eq!(error.cs_error(), CsError::NotSupported);
        client.local_node_id().unwrap();
    });
    assert!(node.is_running());
}

#[test]
fn ring_status_is_not_sent_to_a_udp_daemon_that_takes_its_address_for_two() {
    if skip() || version() < KNET {
        return;
    }
    for transport in [Transport::Udpu, Transport::Udp] {
        let cluster = Cluster::builder().nodes(2).transport(transport).bare_nodes(&[1]).start();
        let node = cluster.node(1);
        assert_eq!(
            node.run(|| connect_here().local_node_id().unwrap()),
            NodeId(node.id_of_address())
        );
        // Since 3.1.5 the id that was made is put into the map, and the address found there twice.
        if version() >= [3, 1, 5, 0] {
            assert_rings_are_not_asked_for(node);
        } else {
            assert_eq!(node.run(|| connect_here().ring_status().unwrap().len()), 1);
        }
        // The other node has one address.
        assert_eq!(cluster.node(2).run(|| connect_here().ring_status().unwrap().len()), 1);
    }
}

#[test]
fn ring_status_is_not_sent_to_a_udp_daemon_that_was_given_a_second_link() {
    if skip() || version() < KNET {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    assert_eq!(node.run(|| connect_here().ring_status().unwrap().len()), 1);
    let first = format!("ring0_addr: {}\n", node.address());
    let second = format!("{first}ring1_addr: 10.78.0.1\n");
    // Without the line the map has no transport any more, as if it was knet.
    edit(node, &[(first.as_str(), second.as_str()), ("transport: udpu\n", "")]);
    node.run(|| connect_here().reload_config().unwrap());
    assert_rings_are_not_asked_for(node);
}

#[test]
fn ring_status_of_knet_has_every_link() {
    if skip() || version() < KNET {
        return;
    }
    let cluster = Cluster::builder().transport(Transport::Knet).create();
    let node = cluster.node(1);
    node.tool("ip", ["addr", "add", "10.78.0.1/24", "dev", "eth0"]).success();
    let first = format!("ring0_addr: {}\n", node.address());
    let second = format!("{first}ring3_addr: 10.78.0.1\n");
    // knet is what it uses when nothing is said.
    edit(node, &[(first.as_str(), second.as_str()), ("transport: knet\n", "")]);
    node.start();
    let rings = node.run(|| connect_here().ring_status().unwrap());
    let rings: Vec<_> = rings.iter().map(|ring| (ring.link, ring.address.as_str())).collect();
    assert_eq!(rings, [(Some(0), node.address().as_str()), (Some(3), "10.78.0.1")]);
}

/// Small ones would take links down.
#[test]
fn timers_of_knet_are_not_taken_from_the_map_of_a_running_daemon() {
    if skip() || version() < KNET {
        return;
    }
    let cluster = Cluster::builder().transport(Transport::Knet).start();
    cluster.node(1).run(|| {
        let map = cmap::Client::connect().unwrap();
        let timers = ["knet_ping_interval", "knet_ping_timeout"]
            .map(|name| format!("totem.interface.0.{name}"));
        let used = || {
            timers
                .each_ref()
                .map(|key| map.get_as::<u32>(&format!("runtime.config.{key}")).unwrap().unwrap())
        };
        let before = used();
        timers.iter().for_each(|key| map.set(key, 1_u32).unwrap());
        // Has the daemon configure its links anew.
        map.set("totem.join", 60_u32).unwrap();
        assert_eq!(used(), before);
        connect_here().reload_config().unwrap();
        assert_eq!(
            (timers.each_ref().map(|key| map.get(key).unwrap()), used()),
            ([None, None], before)
        );
    });
}

#[test]
fn a_node_that_a_udpu_daemon_does_not_know_is_not_down() {
    if skip() || version() < NODE_STATUS {
        return;
    }
    let cluster = Cluster::builder().nodes(2).create();
    let node = cluster.node(1);
    node.start();
    node.run(|| {
        let client = connect_here();
        let [own, down, unknown] = [1, 2, 99].map(|id| client.node_status(NodeId(id)).unwrap());
        assert!(own.is_known() && own.reachable && own.links.len() == 1, "{own:?}");
        assert!(down.is_known() && !down.reachable && !down.links[0].connected, "{down:?}");
        assert!(
            !unknown.is_known() && !unknown.reachable && unknown.links.is_empty(),
            "{unknown:?}"
        );
    });
}

#[test]
fn a_reload_changes_the_map() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    if version() < [2, 3, 2, 0] {
        assert_unsupported(node, node.run(|| connect_here().reload_config()));
        return;
    }
    edit(node, &[("token: 10000", "token: 7777")]);
    node.run(|| {
        let client = connect_here();
        let token = || cmap::Client::connect().unwrap().get_as::<u32>("totem.token").unwrap();
        assert_eq!(token(), Some(10_000));
        client.reload_config().unwrap();
        assert_eq!(token(), Some(7777));
        edit(node, &[("totem {", "nonsense")]);
        let refused =
            if version() >= [3, 1, 0, 0] { CsError::InvalidParam } else { CsError::Library };
        assert_eq!(cs(client.reload_config()), refused);
        assert_eq!(token(), Some(7777));
        assert_eq!(client.local_node_id().unwrap(), NodeId(1));
    });
}

#[test]
fn rotated_logs_are_opened_again() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().setting("logging", "to_logfile: yes").create();
    let node = cluster.node(1);
    let log = node.config_path().with_file_name("rotated.log");
    let config = fs::read_to_string(node.config_path()).unwrap();
    let with =
        config.replace("to_logfile: yes", &format!("to_logfile: yes\nlogfile: {}", log.display()));
    fs::write(node.config_path(), with).unwrap();
    node.start();
    assert!(log.exists());
    if version() < [2, 99, 4, 0] {
        assert_unsupported(node, node.run(|| connect_here().reopen_log_files()));
        return;
    }
    fs::rename(&log, Path::new(&log).with_extension("old")).unwrap();
    match node.run(|| connect_here().reopen_log_files()) {
        // Built with a libqb before 1.9.
        Err(Error::Cs { error: CsError::NotSupported, .. }) if version() < [3, 1, 0, 0] => {
            assert!(!log.exists())
        }
        reopened => {
            reopened.unwrap();
            assert!(log.exists());
        }
    }
}

fn a_killed_node_logs_the_reason(nodes: &Nodes) {
    let logs = |id: u32, what: &str| match nodes {
        // It has no log.
        Nodes::Embedded(_) => true,
        Nodes::Real(cluster) => cluster.node(id).log().contains(what),
    };
    let one = nodes.on(1, connect);
    one.kill_node(NodeId(3), "it was in the way").unwrap();
    if let Nodes::Real(cluster) = nodes {
        cluster.node(3).wait_log("Killed by node 1");
    }
    assert!(logs(3, "it was in the way"));
    nodes.wait_ended(3);
    nodes.wait_members(&[1, 2], 2);
    if nodes.version() >= [3, 1, 0, 0] {
        assert_eq!(cs(one.kill_node(NodeId(3), "again")), CsError::NotExist);
    } else {
        one.kill_node(NodeId(3), "again").unwrap();
    }

    let longest = "x".repeat(MAX_REASON);
    one.kill_node(NodeId(2), &longest).unwrap();
    nodes.wait_ended(2);
    assert!(logs(2, &longest[..200]));
    assert!(nodes.is_running(1));

    // Itself, without a reason.
    one.kill_node(NodeId(1), "").unwrap();
    eventually("the connection ends", || one.local_node_id().is_err());
    nodes.wait_ended(1);
}

fn wrong_arguments_are_named_and_nothing_is_sent(endpoint: &Endpoint) {
    let client = connect(endpoint);
    assert_eq!(invalid(client.kill_node(NodeId(1), &"x".repeat(MAX_REASON + 1))), "reason");
    assert_eq!(invalid(client.kill_node(NodeId(1), "two\0parts")), "reason");
    assert_eq!(invalid(client.kill_node(NodeId(0), "nobody")), "node");
    assert_eq!(invalid(client.node_status(NodeId(0))), "node");
    assert_eq!(invalid(client.try_shutdown(ShutdownKind(3))), "shutdown kind");
    let small = connect(&endpoint.clone().ring_size(4096));
    assert_eq!(small.local_node_id().unwrap(), NodeId(1));
    assert_eq!(invalid(small.ring_status()), "ring size");
    assert_eq!(client.local_node_id().unwrap(), NodeId(1));
}

fn a_tracker_that_says_no_prevents_a_shutdown(host: &Host) {
    let endpoint = host.endpoint();
    if !asks_before_shutdown(&endpoint, host.version()) {
        // Nobody is asked: it just ends.
        connect(&endpoint).try_shutdown(ShutdownKind::REQUEST).unwrap();
        host.wait_ended();
        return;
    }
    let yes = answer_always(&endpoint, ShutdownAnswer::YES);
    let no = answer_always(&endpoint, ShutdownAnswer::NO);
    let client = connect(&endpoint);
    assert_eq!(cs(client.try_shutdown(ShutdownKind::REQUEST)), CsError::Busy);
    assert_eq!(cs(client.reply_to_shutdown(ShutdownAnswer::YES)), CsError::Access);
    assert_eq!(client.local_node_id().unwrap(), NodeId(1));
    // Regardless of what they say.
    client.try_shutdown(ShutdownKind::REGARDLESS).unwrap();
    host.wait_ended();
    let asked = [ShutdownKind::REQUEST, ShutdownKind::REGARDLESS];
    assert_eq!((yes.join().unwrap(), no.join().unwrap()), (asked.into(), asked.into()));
}

fn a_shutdown_all_agree_to_happens(nodes: &Nodes) {
    let version = nodes.version();
    if !nodes.on(1, |endpoint| asks_before_shutdown(endpoint, version)) {
        return;
    }
    let trackers =
        [(); 2].map(|()| nodes.on(1, |endpoint| answer_always(endpoint, ShutdownAnswer::YES)));
    nodes.on(1, connect).try_shutdown(ShutdownKind::REQUEST).unwrap();
    nodes.wait_ended(1);
    for tracker in trackers {
        assert_eq!(tracker.join().unwrap(), [ShutdownKind::REQUEST]);
    }
    // The other node is told, and stays.
    if let Nodes::Real(cluster) = nodes {
        cluster.node(2).wait_log("Node 1 was shut down by sysadmin");
    }
    assert!(nodes.is_running(2));
}

fn an_immediate_shutdown_asks_nobody(host: &Host) {
    let endpoint = host.endpoint();
    let tracker = asks_before_shutdown(&endpoint, host.version())
        .then(|| answer_always(&endpoint, ShutdownAnswer::NO));
    connect(&endpoint).try_shutdown(ShutdownKind::IMMEDIATE).unwrap();
    host.wait_ended();
    if let Some(tracker) = tracker {
        assert_eq!(tracker.join().unwrap(), []);
    }
}

fn one_shutdown_is_decided_at_a_time_and_newcomers_are_asked(host: &Host) {
    let endpoint = host.endpoint();
    if !asks_before_shutdown(&endpoint, host.version()) {
        return;
    }
    let asked = Event::Shutdown(Shutdown { kind: ShutdownKind::REQUEST });
    let [first, second, tracker, newcomer] = [(); 4].map(|()| connect(&endpoint));
    tracker.track_start().unwrap();
    tracker.track_start().unwrap();
    // One who asks is not asked.
    second.track_start().unwrap();
    let shutdown =
        |client: Client| thread::spawn(move || client.try_shutdown(ShutdownKind::REQUEST));
    let waiting = shutdown(first);
    assert_eq!(next(&tracker), asked);
    assert_eq!(next(&second), asked);
    assert_eq!(cs(second.try_shutdown(ShutdownKind::REQUEST)), CsError::Exist);
    newcomer.track_start().unwrap();
    assert_eq!(next(&newcomer), asked);
    tracker.reply_to_shutdown(ShutdownAnswer::YES).unwrap();
    second.reply_to_shutdown(ShutdownAnswer::YES).unwrap();
    newcomer.reply_to_shutdown(ShutdownAnswer::NO).unwrap();
    assert_eq!(cs(waiting.join().unwrap()), CsError::Busy);
    assert!(host.is_running());

    // Who stops tracking while asked agrees, and so does who goes.
    let waiting = shutdown(second);
    assert_eq!(next(&tracker), asked);
    assert_eq!(next(&newcomer), asked);
    drop(newcomer);
    tracker.track_stop().unwrap();
    waiting.join().unwrap().unwrap();
    host.wait_ended();
}

fn silence_is_a_no_and_is_waited_for_longer_than_other_answers(host: &Host) {
    let endpoint = host.endpoint();
    if !asks_before_shutdown(&endpoint, host.version()) {
        return;
    }
    let map = cmap::Client::connect_to(&endpoint).unwrap();
    map.set("cfg.shutdown_timeout", 1500_u32).unwrap();
    let tracker = connect(&endpoint);
    tracker.track_start().unwrap();
    let client = connect(&endpoint);
    client.track_start().unwrap();
    client.set_request_timeout(Duration::from_millis(1000));
    assert_eq!(cs(client.try_shutdown(ShutdownKind::REQUEST)), CsError::Busy);
    let kind = ShutdownKind::REQUEST;
    assert_eq!(next(&tracker), Event::Shutdown(Shutdown { kind }));
    // The daemon tells those who once asked for a shutdown.
    assert_eq!(next(&client), Event::ShutdownTimedOut(ShutdownTimedOut { kind }));
    assert_eq!(cs(tracker.reply_to_shutdown(ShutdownAnswer::YES)), CsError::Access);
    client.try_shutdown(ShutdownKind::REGARDLESS).unwrap();
    host.wait_ended();
}

fn a_stopped_daemon_times_requests_out_and_a_dead_one_ends_them(host: &Host) {
    let client = connect(&host.endpoint());
    client.set_request_timeout(Duration::from_millis(100));
    let paused = host.pause();
    assert!(matches!(client.local_node_id(), Err(Error::TimedOut { .. })));
    drop(paused);
    client.set_request_timeout(WATCHDOG);
    // Not the late answer of the request before.
    assert_eq!(client.ring_status().unwrap().len(), 1);
    host.kill();
    assert!(matches!(client.local_node_id(), Err(Error::Disconnected { .. })));
}

/// Tracks and answers every shutdown with its argument.
const C_TRACKER: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <corosync/cfg.h>
static int answer;
static void asked(corosync_cfg_handle_t handle, corosync_cfg_shutdown_flags_t flags)
{
    printf("asked %d\n", flags);
    fflush(stdout);
    corosync_cfg_replyto_shutdown(handle, answer);
}
int main(int argc, char **argv)
{
    corosync_cfg_callbacks_t callbacks = { asked };
    corosync_cfg_handle_t handle;
    answer = argc > 1 ? atoi(argv[1]) : 0;
    if (corosync_cfg_initialize(&handle, &callbacks) != CS_OK) return 1;
    if (corosync_cfg_trackstart(handle, 0) != CS_OK) return 2;
    puts("tracking");
    fflush(stdout);
    corosync_cfg_dispatch(handle, CS_DISPATCH_BLOCKING);
    return 0;
}
"#;

#[test]
fn c_and_rust_ask_and_answer_each_other() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    if !node.run(|| asks_before_shutdown(&Endpoint::new(), version())) {
        return;
    }
    let Some(program) = cc(C_TRACKER, &["cfg"]) else { return };
    let mut no = node.spawn_command(&program, ["0"]);
    no.wait_stdout("tracking");
    node.run(|| assert_eq!(cs(connect_here().try_shutdown(ShutdownKind::REQUEST)), CsError::Busy));
    no.wait_stdout("asked 0");
    assert!(no.is_running());
    drop(no);

    let tracker = node.run(|| answer_always(&Endpoint::new(), ShutdownAnswer::NO));
    let refused = node.tool("corosync-cfgtool", ["-H"]);
    assert!(node.is_running(), "{refused:?}");
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("error = 10"), "{refused:?}");
    let yes = node.spawn_command(&program, ["1"]);
    yes.wait_stdout("tracking");
    node.run(|| connect_here().try_shutdown(ShutdownKind::REGARDLESS).unwrap());
    yes.wait_stdout("asked 1");
    eventually("corosync ends", || !node.is_running());
    assert_eq!(tracker.join().unwrap(), [ShutdownKind::REQUEST, ShutdownKind::REGARDLESS]);
}
