//! What needs no real cluster.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use corosync_ipc::cfg::{self, ShutdownKind};
use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{Confchg, Deliver, Event, GroupName, Guarantee, Options};
use corosync_ipc::embedded::{Builder, Cluster, Refuse};
use corosync_ipc::votequorum::{self, InfoFlags};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, RingId, TrackFlags, cmap, cpg, quorum};
use testbed::{
    WATCHDOG, cs, invalid, next, next_that, private_endpoint, spawn_until_asleep, waiting,
};

/// So long that a test which expects an answer has failed long before, and so short that nothing
/// need be cleaned up.
const NOT_AT_ALL: Duration = Duration::from_millis(50);

fn endpoint(cluster: &Cluster, node: u32) -> Endpoint {
    cluster.node(node).unwrap().endpoint().clone().timeout(WATCHDOG)
}

fn quorum(cluster: &Cluster, node: u32) -> quorum::Client {
    quorum::Client::connect_to(&endpoint(cluster, node)).unwrap()
}

fn map(cluster: &Cluster, node: u32) -> cmap::Client {
    cmap::Client::connect_to(&endpoint(cluster, node)).unwrap()
}

/// A member of the group, which has been told that it is.
fn member(cluster: &Cluster, node: u32, pid: u32) -> cpg::Client {
    let client =
        cpg::Client::connect_with(&endpoint(cluster, node), Options::new().pid(pid)).unwrap();
    client.join(&GroupName::new("group").unwrap()).unwrap();
    next(&client);
    client
}

fn is_quorate(cluster: &Cluster, nodes: &[u32]) -> Vec<bool> {
    nodes.iter().map(|node| quorum(cluster, *node).is_quorate().unwrap()).collect()
}

fn payloads(client: &cpg::Client) -> Vec<String> {
    let payload = |event| match event {
        Event::Deliver(Deliver { payload, .. }) => {
            Some(String::from_utf8(payload.to_vec()).unwrap())
        }
        _ => None,
    };
    waiting(client).into_iter().filter_map(payload).collect()
}

/// The order in which messages that three nodes send at the same time get their place.
fn order(seed: u64) -> Vec<String> {
    let cluster = Cluster::builder().nodes(3).seed(seed).start().unwrap();
    let clients: Vec<_> = (1..=6).map(|number| member(&cluster, 1 + number % 3, number)).collect();
    clients.iter().for_each(|client| drop(waiting(client)));
    (1..=3).for_each(|node| cluster.hold(node, "cpg").unwrap());
    for number in 0..4 {
        for client in &clients {
            let message = format!("{} of {}", number, client.pid());
            client.multicast(Guarantee::AGREED, message.as_bytes()).unwrap();
        }
    }
    assert_eq!(payloads(&clients[0]), [""; 0]);
    cluster.release_all().unwrap();
    let orders: Vec<_> = clients.iter().map(payloads).collect();
    assert!(orders.iter().all(|order| *order == orders[0]), "{orders:?}");
    for client in &clients {
        let own = orders[0].iter().filter(|text| text.ends_with(&format!("of {}", client.pid())));
        assert!(own.map(|text| text[..1].parse::<u32>().unwrap()).eq(0..4), "{:?}", orders[0]);
    }
    orders[0].clone()
}

#[test]
fn the_seed_decides_on_the_order_of_messages_sent_at_the_same_time() {
    let orders: BTreeSet<_> = (0..8).map(order).collect();
    assert!(orders.len() > 1);
    assert_eq!(order(3), order(3));
}

#[test]
fn a_call_serves_what_was_sent_before_it() {
    let cluster = Cluster::start(3).unwrap();
    let clients: Vec<_> = (1..=3).map(|node| member(&cluster, node, node)).collect();
    clients[0].multicast(Guarantee::AGREED, b"before").unwrap();
    drop(map(&cluster, 1));
    cluster.partition(&[&[1]]).unwrap();
    assert_eq!(cluster.node(1).unwrap().connections(), 1);
    for client in &clients {
        let events = waiting(client);
        let said = events.iter().position(|event| matches!(event, Event::Deliver(_)));
        let parted = events.iter().position(|event| matches!(event, Event::TotemConfchg(_)));
        assert!(said.unwrap() < parted.unwrap(), "{events:?}");
    }
}

#[test]
fn quorum_follows_votes() {
    let three = |builder: Builder<Cluster>| {
        builder.node(2, "n2", "127.0.0.2", None).node(3, "n3", "127.0.0.3", None)
    };
    let cluster = three(Cluster::builder().node(1, "n1", "127.0.0.1", Some(3))).start().unwrap();
    assert_eq!(is_quorate(&cluster, &[1, 2, 3]), [true; 3]);
    cluster.partition(&[&[1], &[2, 3]]).unwrap();
    assert_eq!(is_quorate(&cluster, &[1, 2, 3]), [true, false, false]);
    cluster.heal().unwrap();
    assert_eq!(is_quorate(&cluster, &[1, 2, 3]), [true; 3]);
    cluster.kill(1).unwrap();
    assert_eq!(is_quorate(&cluster, &[2, 3]), [false; 2]);
}

#[test]
fn nodes_come_and_go() {
    let cluster = Cluster::builder().nodes(3).down(3).start().unwrap();
    assert!(!cluster.node(3).unwrap().is_running());
    assert!(cmap::Client::connect_to(&endpoint(&cluster, 3)).unwrap_err().is_unreachable());
    let one = map(&cluster, 1);
    let status =
        |node: u32| one.get_as::<String>(&format!("runtime.members.{node}.status")).unwrap();
    let joined = || one.get_as::<u32>("runtime.members.3.join_count").unwrap();
    assert_eq!((status(2).as_deref(), status(3), joined()), (Some("joined"), None, None));
    cluster.start_node(3).unwrap();
    assert_eq!((status(3).as_deref(), joined()), (Some("joined"), Some(1)));

    let three = map(&cluster, 3);
    three.set("test.key", 1_u8).unwrap();
    cluster.kill(3).unwrap();
    assert!(!cluster.node(3).unwrap().is_running());
    assert!(three.get("test.key").unwrap_err().is_unreachable());
    assert_eq!(status(3).as_deref(), Some("left"));
    cluster.start_node(3).unwrap();
    assert_eq!(map(&cluster, 3).get("test.key").unwrap(), None);
    assert_eq!((status(3).as_deref(), joined()), (Some("joined"), Some(2)));

    // Clients end nodes too: their own in good order, another at once.
    let (two, three) = (member(&cluster, 2, 2), member(&cluster, 3, 3));
    let cfg = cfg::Client::connect_to(&endpoint(&cluster, 3)).unwrap();
    let _ = cfg.try_shutdown(ShutdownKind::IMMEDIATE);
    let left = |event| match event {
        Event::Confchg(Confchg { left, .. }) => {
            left.first().map(|left| (left.node_id.0, left.reason))
        }
        _ => None,
    };
    assert_eq!(next_that(&two, left), (3, cpg::Reason::PROCDOWN));
    assert!(three.events().last().unwrap().is_err());
    assert!(!cluster.node(3).unwrap().is_running());
    assert_eq!(status(3).as_deref(), Some("left"));
    let cfg = cfg::Client::connect_to(&endpoint(&cluster, 1)).unwrap();
    let _ = cfg.kill_node(NodeId(2), "test");
    assert!(two.events().last().unwrap().is_err());
    assert_eq!(is_quorate(&cluster, &[1]), [false]);
}

#[test]
fn a_paused_node_answers_nobody_until_it_goes_on() {
    let cluster = Cluster::start(3).unwrap();
    let three = quorum(&cluster, 3);
    cluster.pause(3).unwrap();
    assert_eq!(is_quorate(&cluster, &[1, 2]), [true; 2]);
    three.set_request_timeout(NOT_AT_ALL);
    assert!(matches!(three.is_quorate(), Err(Error::TimedOut { .. })));
    let short = cluster.node(3).unwrap().endpoint().clone().timeout(NOT_AT_ALL);
    assert!(quorum::Client::connect_to(&short).is_err());
    let endpoint = endpoint(&cluster, 3);
    thread::scope(|scope| {
        let waits = spawn_until_asleep(scope, || {
            quorum::Client::connect_to(&endpoint).unwrap().is_quorate()
        });
        cluster.resume(3).unwrap();
        assert!(waits.join().unwrap().unwrap());
    });
    three.set_request_timeout(WATCHDOG);
    assert!(three.is_quorate().unwrap());
}

#[test]
fn requests_are_held_and_refused() {
    let cluster = Cluster::start(2).unwrap();
    let (client, map) = (quorum(&cluster, 1), map(&cluster, 1));
    cluster.hold(1, "quorum").unwrap();
    thread::scope(|scope| {
        let waits = spawn_until_asleep(scope, || client.is_quorate());
        assert_eq!(map.get("test.key").unwrap(), None);
        assert!(quorum(&cluster, 2).is_quorate().unwrap());
        assert!(!waits.is_finished());
        cluster.release(1, "quorum").unwrap();
        assert!(waits.join().unwrap().unwrap());
    });
    // The client tries again as long as it may.
    cluster.refuse(1, "quorum", Refuse::All).unwrap();
    client.set_request_timeout(NOT_AT_ALL);
    let refused = client.is_quorate();
    let is_refused =
        |it| matches!(it, Err(Error::Cs { error: CsError::TryAgain, .. } | Error::TimedOut { .. }));
    assert!(is_refused(refused));
    assert_eq!(map.get("test.key").unwrap(), None);
    cluster.refuse(1, "quorum", Refuse::None).unwrap();
    client.set_request_timeout(WATCHDOG);
    assert!(client.is_quorate().unwrap());
    cluster.refuse(1, "quorum", Refuse::Next(3)).unwrap();
    assert!(client.is_quorate().unwrap());
}

#[test]
fn a_client_that_does_not_wait_is_told_of_the_first_refusal() {
    let cluster = Cluster::start(1).unwrap();
    let endpoint = endpoint(&cluster, 1).wait_while_busy(false);
    let client = quorum::Client::connect_to(&endpoint).unwrap();
    for _ in 0..2 {
        cluster.refuse(1, "quorum", Refuse::Next(1)).unwrap();
        assert_eq!(cs(client.is_quorate()), CsError::TryAgain);
        // It was sent once.
        assert!(client.is_quorate().unwrap());
    }
    let member = cpg::Client::connect_to(&endpoint).unwrap();
    let group = GroupName::new("impatient").unwrap();
    cluster.refuse(1, "cpg", Refuse::Next(1)).unwrap();
    assert_eq!(cs(member.join(&group)), CsError::TryAgain);
    member.join(&group).unwrap();
}

#[test]
fn time_passes_only_when_it_is_told_to() {
    let cluster =
        Cluster::builder().nodes(2).setting("cfg.shutdown_timeout", 3000_u32).start().unwrap();
    assert_eq!(cluster.now().unwrap(), Duration::ZERO);
    let asks = cfg::Client::connect_to(&endpoint(&cluster, 1)).unwrap();
    let silent = cfg::Client::connect_to(&endpoint(&cluster, 1)).unwrap();
    silent.track_start().unwrap();
    thread::scope(|scope| {
        let waits = spawn_until_asleep(scope, || asks.try_shutdown(ShutdownKind::REQUEST));
        next(&silent);
        cluster.advance(Duration::from_millis(2999)).unwrap();
        assert!(!waits.is_finished());
        cluster.advance(Duration::from_millis(1)).unwrap();
        assert_eq!(cs(waits.join().unwrap()), CsError::Busy);
    });
    assert_eq!(cluster.now().unwrap(), Duration::from_secs(3));
}

#[test]
fn the_last_man_stands_when_his_time_has_come() {
    let builder = Cluster::builder().nodes(4).setting("quorum.last_man_standing", 1_u8);
    let cluster = builder.setting("quorum.wait_for_all", 1_u8).start().unwrap();
    cluster.kill(4).unwrap();
    cluster.advance(Duration::from_secs(10)).unwrap();
    cluster.kill(3).unwrap();
    assert_eq!(is_quorate(&cluster, &[1, 2]), [true; 2]);
    cluster.advance(Duration::from_secs(10)).unwrap();
    let votes = votequorum::Client::connect_to(&endpoint(&cluster, 1)).unwrap();
    assert_eq!(votes.local_info().unwrap().expected_votes, 2);
}

#[test]
fn a_ring_waits_for_its_quorum_device() {
    let builder = Cluster::builder().nodes(2).setting("quorum.device.model", "net");
    let cluster = builder.setting("quorum.device.votes", 1_u32).start().unwrap();
    let votes = votequorum::Client::connect_to(&endpoint(&cluster, 1)).unwrap();
    votes.track_start(0, TrackFlags::CHANGES).unwrap();
    let ring = |event| match event {
        votequorum::Event::Nodelist(votequorum::NodelistNotification { ring_id, .. }) => {
            Some(ring_id)
        }
        _ => None,
    };
    let first: RingId = next_that(&votes, ring);
    votes.qdevice_register("device").unwrap();
    votes.qdevice_poll("device", true, first).unwrap();
    let quorum = quorum(&cluster, 1);

    cluster.partition(&[&[1], &[2]]).unwrap();
    let second = next_that(&votes, |event| ring(event).filter(|ring| *ring != first));
    quorum.set_request_timeout(NOT_AT_ALL);
    assert!(
        matches!(quorum.is_quorate(), Err(Error::TimedOut { .. })),
        "a request is served during synchronization"
    );
    assert_eq!(is_quorate(&cluster, &[2]), [false]);
    quorum.set_request_timeout(WATCHDOG);
    votes.qdevice_poll("device", true, second).unwrap();
    assert!(quorum.is_quorate().unwrap());

    // Or for as long as it may take.
    cluster.heal().unwrap();
    cluster.advance(Duration::from_secs(30)).unwrap();
    assert!(!votes.local_info().unwrap().flags.contains(InfoFlags::QDEVICE_ALIVE));
    assert_eq!(is_quorate(&cluster, &[1, 2]), [true; 2]);
}

#[test]
fn wrong_arguments_are_named() {
    let cluster = Cluster::start(3).unwrap();
    assert_eq!(invalid(cluster.node(4)), "node");
    assert_eq!(invalid(cluster.partition(&[&[1], &[4]])), "node");
    assert_eq!(invalid(cluster.partition(&[&[1, 2], &[2, 3]])), "parts");
    assert_eq!(invalid(cluster.partition(&[&[1, 1]])), "parts");
    assert_eq!(invalid(cluster.kill(4)), "node");
    assert_eq!(invalid(cluster.start_node(1)), "node");
    assert_eq!(invalid(cluster.resume(1)), "node");
    assert_eq!(invalid(cluster.hold(1, "evening")), "service");
    assert_eq!(invalid(cluster.refuse(4, "cpg", Refuse::All)), "node");
    assert_eq!(invalid(cluster.advance(Duration::MAX)), "duration");
    cluster.pause(1).unwrap();
    assert_eq!(invalid(cluster.pause(1)), "node");
    assert_eq!(invalid(cluster.stop(1)), "node");
    cluster.kill(1).unwrap();
    for wrong in [cluster.kill(1), cluster.stop(1), cluster.pause(1)] {
        assert_eq!(invalid(wrong), "node");
    }
    let start = |builder: Builder<Cluster>| invalid(builder.start());
    assert_eq!(start(Cluster::builder()), "nodes");
    assert_eq!(start(Cluster::builder().nodes(2).nodes(1)), "nodes");
    assert_eq!(start(Cluster::builder().nodes(385)), "nodes");
    assert_eq!(start(Cluster::builder().nodes(u32::MAX)), "nodes");
    assert_eq!(start(Cluster::builder().nodes(2).down(3)), "down");
    assert_eq!(start(Cluster::builder().nodes(2).endpoint(3, &Endpoint::new())), "endpoint");
    assert_eq!(start(Cluster::builder().node(0, "n0", "127.0.0.1", None)), "node id");
    let conflict = Cluster::builder()
        .nodes(3)
        .setting("quorum.device.model", "net")
        .setting("quorum.two_node", 1_u8);
    assert_eq!(start(conflict), "settings");
    assert_eq!(
        invalid(Cluster::builder().nodes(1).real_time().start().unwrap().advance(WATCHDOG)),
        "clock"
    );
}

#[test]
fn nothing_is_left_behind() {
    let (own, directory) = private_endpoint();
    let cluster = Cluster::builder().nodes(2).endpoint(2, &own).start().unwrap();
    assert_eq!(cluster.node(2).unwrap().endpoint(), &own);
    let clients = [quorum(&cluster, 1), quorum(&cluster, 2)];
    cluster.kill(2).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(clients[1].is_quorate().unwrap_err().is_unreachable());
    cluster.start_node(2).unwrap();
    assert_eq!(is_quorate(&cluster, &[2]), [true]);
    drop(cluster);
    assert!(clients[0].is_quorate().unwrap_err().is_unreachable());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn statistics_are_told_when_the_clock_says_so() {
    let cluster = Cluster::start(2).unwrap();
    let client = cmap::Client::connect_with(
        &endpoint(&cluster, 1),
        cmap::Options::new().map(cmap::Map::Stats),
    )
    .unwrap();
    let told = || -> Vec<(cmap::Tracker, Option<cmap::Value>)> {
        let told = waiting(&client).into_iter().map(|event| match event {
            cmap::Event::Notification(told) => (told.tracker, told.new_value),
            other => panic!("{other:?}"),
        });
        told.collect()
    };
    // The daemon looks every 1.5 s since it started, whenever tracking began.
    cluster.advance(Duration::from_millis(1400)).unwrap();
    let one = client.track_add("stats.srp.operational_entered", TrackEvents::ALL).unwrap();
    let other = client.track_add("stats.srp.gather_entered", TrackEvents::MODIFY).unwrap();
    let before = client.get_as::<u64>("stats.srp.gather_entered").unwrap().unwrap();
    let now = |more: u64| Some(cmap::Value::U64(before + more));
    cluster.partition(&[&[1], &[2]]).unwrap();
    cluster.heal().unwrap();
    cluster.advance(Duration::from_millis(99)).unwrap();
    assert_eq!(told(), []);
    cluster.advance(Duration::from_millis(1)).unwrap();
    assert_eq!(told(), [(other, now(2)), (one, now(2))]);
    // It looks twice in vain, and tells a change once.
    cluster.advance(Duration::from_secs(3)).unwrap();
    cluster.partition(&[&[1], &[2]]).unwrap();
    cluster.advance(Duration::from_secs(6)).unwrap();
    assert_eq!(told(), [(other, now(3)), (one, now(3))]);
    client.track_delete(one).unwrap();
    cluster.heal().unwrap();
    cluster.advance(Duration::from_millis(1500)).unwrap();
    assert_eq!(told(), [(other, now(4))]);
}

#[test]
fn statistics_tell_links_that_come_and_go() {
    let cluster = Cluster::start(3).unwrap();
    let client = cmap::Client::connect_with(
        &endpoint(&cluster, 1),
        cmap::Options::new().map(cmap::Map::Stats),
    )
    .unwrap();
    let link = |node: u32| {
        let numbers = ["connected", "up_count", "down_count"].map(|name| {
            let value =
                client.get(&format!("stats.knet.node{node}.link0.{name}")).unwrap().unwrap();
            value.to_string().parse::<u32>().unwrap()
        });
        <(u32, u32, u32)>::from(numbers)
    };
    assert_eq!([link(1), link(2), link(3)], [(1, 1, 0); 3]);
    cluster.kill(3).unwrap();
    assert_eq!([link(1), link(2), link(3)], [(1, 1, 0), (1, 1, 0), (0, 1, 1)]);
    cluster.start_node(3).unwrap();
    assert_eq!(link(3), (1, 2, 1));
    client.set("stats.clear.knet", 1_u8).unwrap();
    assert_eq!(link(3), (1, 0, 0));
}

#[test]
fn refused_requests_are_overload_in_the_statistics() {
    let cluster = Cluster::start(1).unwrap();
    let stats = cmap::Client::connect_with(
        &endpoint(&cluster, 1),
        cmap::Options::new().map(cmap::Map::Stats),
    )
    .unwrap();
    let client = quorum(&cluster, 1);
    let prefix = format!("stats.ipcs.service3.{}.", std::process::id());
    let counted = || {
        let listed = stats.list(&prefix).unwrap();
        ["requests", "responses", "overload"].map(|name| {
            match listed.iter().find(|(key, _)| key.ends_with(name)) {
                Some((_, cmap::Value::U64(number))) => *number,
                other => panic!("{other:?}"),
            }
        })
    };
    let [requests, responses, _] = counted();
    cluster.refuse(1, "quorum", Refuse::Next(2)).unwrap();
    client.is_quorate().unwrap();
    let after = counted();
    assert_eq!(after, [requests + 3, responses + 3, 2]);
}
