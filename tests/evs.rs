//! The evs client: against a daemon that has the service (corosync 1.99.0 to 1.99.7, by
//! COROSYNC_IPC_TEST_DAEMON), and against any other one, where it says so. What the daemon need not
//! be real for is in `embedded` too.

use corosync_ipc::evs::Client;
use corosync_ipc::{Deadline, Endpoint, Error, NodeId, TrackFlags};
use corosync_ipc::{cmap, quorum, votequorum};
use testbed::{Cluster, Node, shared_one, skip, version};

/// A cluster with evs. Where the daemon has none, this asserts that connecting says so, and there
/// is nothing else to test.
fn cluster(nodes: u32) -> Option<Cluster> {
    if skip() {
        return None;
    }
    if version() < [1, 99, 8, 0] {
        return Some(Cluster::builder().nodes(nodes).loses_nodes().start());
    }
    let node = shared_one().node(1);
    let error = node.run(|| Client::connect_to(&Endpoint::new()).unwrap_err());
    assert!(matches!(&error, Error::NoSocket { service, .. } if service == "evs"), "{error:?}");
    assert!(error.to_string().starts_with("no evs socket at the abstract address @evs"), "{error}");
    None
}

fn ids(ids: &[u32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A client of each node.
fn clients(cluster: &Cluster) -> Vec<Client> {
    let connect = || Client::connect_to(&Endpoint::new()).unwrap();
    cluster.nodes().iter().map(|node| node.run(connect)).collect()
}

#[test]
fn members_come_first_and_then_their_changes() {
    let Some(cluster) = cluster(3) else { return };
    let client = clients(&cluster).remove(0);
    let (kill, start) = (|| cluster.node(3).kill(), || cluster.node(3).start());
    testbed::bodies::evs::members_come_first_and_then_their_changes(&client, kill, start);
}

#[test]
fn a_message_reaches_the_members_of_its_groups_once() {
    let Some(cluster) = cluster(2) else { return };
    let clients = clients(&cluster).try_into().expect("two");
    testbed::bodies::evs::a_message_reaches_the_members_of_its_groups_once(clients);
}

#[test]
fn all_see_the_same_order_and_nothing_twice() {
    let Some(cluster) = cluster(3) else { return };
    testbed::bodies::evs::all_see_the_same_order_and_nothing_twice(&clients(&cluster));
}

/// Makes tests of bodies, each against a node of its own.
macro_rules! against_corosync_with_evs {
    ($($body:ident)*) => {$(
        #[test]
        fn $body() {
            let Some(cluster) = cluster(1) else { return };
            cluster.node(1).run(|| testbed::bodies::evs::$body(&Endpoint::new()));
        }
    )*};
}

against_corosync_with_evs! {
    the_membership_comes_first
    messages_up_to_a_limit_arrive_whole
    the_four_ways_to_dispatch
    wrong_arguments_are_named_and_nothing_is_sent
}

#[test]
fn a_dead_daemon_ends_the_connection() {
    let Some(cluster) = cluster(1) else { return };
    let client = clients(&cluster).remove(0);
    testbed::bodies::evs::a_dead_daemon_ends_the_connection(&client, || cluster.node(1).kill());
}

/// With a daemon that has evs, this is the oldest libqb there is.
#[test]
fn the_other_services_of_the_same_daemon_answer() {
    if skip() {
        return;
    }
    let _ = cluster(1);
    let cluster = Cluster::builder().nodes(2).loses_nodes().start();
    let (one, two): (&Node, &Node) = (cluster.node(1), cluster.node(2));
    one.run(|| {
        let map = cmap::Client::connect().unwrap();
        let name = map.get_as::<String>("totem.cluster_name").unwrap();
        assert!(name.is_some());
        map.set("test.key", "value").unwrap();
        assert_eq!(map.get_as::<String>("test.key").unwrap().as_deref(), Some("value"));
        map.delete("test.key").unwrap();

        let quorum = quorum::Client::connect().unwrap();
        assert!(quorum.is_quorate().unwrap());
        quorum.track_start(TrackFlags::CHANGES).unwrap();
        let votes = votequorum::Client::connect().unwrap();
        let info = votes.local_info().unwrap();
        assert_eq!((info.node_id, info.total_votes, info.expected_votes, info.quorum), (NodeId(1), 2, 2, 2));
        votes.track_start(7, TrackFlags::CHANGES).unwrap();

        two.kill();
        let lost = |event| matches!(event, Some(quorum::Event::Notification(event)) if event.members == ids(&[1]));
        while !lost(quorum.next_event(Deadline::NEVER).unwrap()) {}
        let lost = |event| matches!(event, Some(votequorum::Event::Quorum { context: 7, quorate: false, .. }));
        while !lost(votes.next_event(Deadline::NEVER).unwrap()) {}
        assert!(!quorum.is_quorate().unwrap());
        assert_eq!(votes.info(NodeId(1)).unwrap().total_votes, 1);
    });
}
