//! The evs client. Real daemons with the service are corosync 1.99.0 to 1.99.7, by
//! COROSYNC_IPC_TEST_DAEMON; any other one says that it has none.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::thread;

use corosync_ipc::evs::{
    Client, Confchg, Deliver, Event, GroupName, Guarantee, MAX_GROUPS, MAX_JOINED_GROUPS,
    MAX_MESSAGE_SIZE,
};
use corosync_ipc::{CsError, Deadline, Dispatch, Endpoint, Error, NodeId, Result, TrackFlags};
use corosync_ipc::{cmap, quorum, votequorum};
use testbed::{
    Cluster, Host, Node, Nodes, Setup, cs, eventually, invalid, next, next_that, shared_one, skip,
    version,
};

testbed::on_each_host! {
    the_membership_comes_first, own();
    two_clients_get_what_is_sent_to_their_groups, own();
    three_clients_see_the_same_order, own();
    messages_up_to_a_limit_arrive_whole, own();
    the_four_ways_to_dispatch, own();
    wrong_arguments_are_named_and_nothing_is_sent, own();
    a_dead_daemon_ends_the_connection, own();
    a_message_reaches_the_members_of_its_groups_once, own().nodes(2);
    all_see_the_same_order_and_nothing_twice, own().nodes(3);
    members_come_first_and_then_their_changes, own().nodes(3).loses_nodes();
}

fn own() -> Setup {
    Setup::new().evs().own()
}

testbed::embedded_process!();

#[test]
fn a_daemon_without_evs_is_said_to_have_no_socket_for_it() {
    if skip() || version() < [1, 99, 8, 0] {
        return;
    }
    let node = shared_one().node(1);
    let endpoint = Endpoint::new();
    let (error, address) =
        node.run(|| (Client::connect_to(&endpoint).unwrap_err(), endpoint.socket_address("evs")));
    assert!(matches!(&error, Error::NoSocket { service, .. } if service == "evs"), "{error:?}");
    assert!(error.to_string().starts_with(&format!("no evs socket at {address}")), "{error}");
}

fn ids(ids: &[u32]) -> Vec<NodeId> {
    ids.iter().copied().map(NodeId).collect()
}

/// A client of each node.
fn clients(nodes: &Nodes) -> Vec<Client> {
    nodes.ids().into_iter().map(|id| nodes.on(id, connect)).collect()
}

fn connect(endpoint: &Endpoint) -> Client {
    Client::connect_to(endpoint).unwrap()
}

fn group(name: &str) -> GroupName {
    GroupName::new(name).unwrap()
}

/// Waits for the next message, over changes of membership.
#[track_caller]
fn next_message(client: &Client) -> (NodeId, Vec<u8>) {
    next_that(client, |event| match event {
        Event::Deliver(Deliver { node_id, payload }) => Some((node_id, payload.to_vec())),
        _ => None,
    })
}

fn local(client: &Client) -> NodeId {
    client.membership().unwrap().local_node_id
}

fn the_membership_comes_first(endpoint: &Endpoint) {
    let one = vec![NodeId(1)];
    let client = connect(endpoint);
    let Event::Confchg(Confchg { members, left, joined }) = next(&client) else {
        panic!("a membership comes first")
    };
    assert_eq!((members, left, joined), (one.clone(), vec![], one.clone()));
    let membership = client.membership().unwrap();
    assert_eq!((membership.local_node_id, membership.members), (NodeId(1), one));
    assert_eq!(client.poll_event().unwrap(), None);
}

fn members_come_first_and_then_their_changes(nodes: &Nodes) {
    let client = nodes.on(1, connect);
    let wait = |change| next_that(&client, |event| (event == change).then_some(()));
    let Event::Confchg(Confchg { members, .. }) = next(&client) else {
        panic!("a membership comes first")
    };
    assert_eq!(members, ids(&[1, 2, 3]));
    let membership = client.membership().unwrap();
    assert_eq!((membership.local_node_id, membership.members), (NodeId(1), ids(&[1, 2, 3])));

    nodes.kill(3);
    wait(Event::Confchg(Confchg { members: ids(&[1, 2]), left: ids(&[3]), joined: vec![] }));
    nodes.start(3);
    wait(Event::Confchg(Confchg { members: ids(&[1, 2, 3]), left: vec![], joined: ids(&[3]) }));
    assert_eq!(client.membership().unwrap().members, ids(&[1, 2, 3]));
}

fn two_clients_get_what_is_sent_to_their_groups(endpoint: &Endpoint) {
    a_message_reaches_the_members_once(&[connect(endpoint), connect(endpoint)]);
}

fn a_message_reaches_the_members_of_its_groups_once(nodes: &Nodes) {
    a_message_reaches_the_members_once(&clients(nodes));
}

/// Clients of one node or of two.
fn a_message_reaches_the_members_once(clients: &[Client]) {
    let [one, two] = clients else { panic!("two clients") };
    let (red, green, blue) = (group("red"), group("green"), group("blue"));
    one.join(&[red, green]).unwrap();
    two.join(&[green]).unwrap();
    // To those who joined, from one who did not; to two groups at once; to the groups of the
    // sender; to nobody.
    two.multicast_groups(Guarantee::AGREED, &[red], b"red").unwrap();
    two.multicast_groups(Guarantee::FIFO, &[red, green], b"both").unwrap();
    one.multicast_joined(Guarantee::SAFE, b"joined").unwrap();
    one.multicast_groups(Guarantee::UNORDERED, &[blue], b"nobody").unwrap();
    one.multicast_groups(Guarantee::AGREED, &[red, green, blue], b"").unwrap();
    let from = |client, text: &str| (local(client), text.as_bytes().to_vec());
    let mut at_one: Vec<_> = (0..4).map(|_| next_message(one)).collect();
    let mut at_two: Vec<_> = (0..3).map(|_| next_message(two)).collect();
    assert_eq!(
        at_one[1..].iter().filter(|m| at_two.contains(m)).count(),
        3,
        "{at_one:?} {at_two:?}"
    );
    let by_text = |one: &(NodeId, Vec<u8>), other: &(NodeId, Vec<u8>)| one.1.cmp(&other.1);
    at_one.sort_by(by_text);
    at_two.sort_by(by_text);
    assert_eq!(at_one, [from(one, ""), from(two, "both"), from(one, "joined"), from(two, "red")]);
    assert_eq!(at_two, [from(one, ""), from(two, "both"), from(one, "joined")]);

    one.leave(&[red]).unwrap();
    assert_eq!(cs(one.leave(&[red])), CsError::NotExist);
    two.multicast_groups(Guarantee::AGREED, &[red], b"left").unwrap();
    two.multicast_groups(Guarantee::AGREED, &[green], b"last").unwrap();
    assert_eq!(next_message(one), from(two, "last"));

    // All 32 bytes of a name count.
    let [long, other] = ["x".repeat(32), "x".repeat(31) + "y"].map(|name| group(&name));
    one.join(&[long]).unwrap();
    two.multicast_groups(Guarantee::AGREED, &[other], b"other").unwrap();
    two.multicast_groups(Guarantee::AGREED, &[long], b"long").unwrap();
    assert_eq!(next_message(one), from(two, "long"));
}

fn three_clients_see_the_same_order(endpoint: &Endpoint) {
    all_see_the_same_order(&[connect(endpoint), connect(endpoint), connect(endpoint)]);
}

fn all_see_the_same_order_and_nothing_twice(nodes: &Nodes) {
    all_see_the_same_order(&clients(nodes));
}

/// Clients of one node or of several.
fn all_see_the_same_order(clients: &[Client]) {
    const EACH: usize = 500;
    let name = group("order");
    for client in clients {
        client.join(&[name]).unwrap();
    }
    let received: Vec<Vec<_>> = thread::scope(|scope| {
        for (place, client) in clients.iter().enumerate() {
            // Two threads share a client.
            for sender in 0..2 {
                scope.spawn(move || {
                    for number in 0..EACH {
                        let mut message = format!("{place}.{sender} {number} ").into_bytes();
                        message.resize(1 + number * 37 % 5000 + message.len(), b'.');
                        client.multicast_joined(Guarantee::AGREED, &message).unwrap();
                    }
                });
            }
        }
        let count = 2 * EACH * clients.len();
        let readers: Vec<_> = clients
            .iter()
            .map(|client| scope.spawn(move || (0..count).map(|_| next_message(client)).collect()))
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    assert!(received.iter().all(|one| *one == received[0]), "the same order everywhere");
    let mut last = BTreeMap::new();
    for (node, message) in &received[0] {
        let text = String::from_utf8_lossy(message);
        let mut words = text.split(' ');
        let sender = words.next().unwrap().to_owned();
        let number: usize = words.next().unwrap().parse().unwrap();
        let previous = last.insert((*node, sender), number);
        assert_eq!(
            previous.map_or(0, |previous| previous + 1),
            number,
            "in the order of each sender, none twice"
        );
    }
    assert_eq!(last.len(), 2 * clients.len());
}

fn messages_up_to_a_limit_arrive_whole(endpoint: &Endpoint) {
    let client = connect(endpoint);
    client.join(&[group("size")]).unwrap();
    for size in [0, 1, 3, 4, 1400, 65536, 500_000, MAX_MESSAGE_SIZE] {
        let message: Vec<u8> = (0..size).map(|index: usize| (index % 251) as u8).collect();
        client.multicast_joined(Guarantee::AGREED, &message).unwrap();
        assert!(next_message(&client) == (NodeId(1), message), "{size} bytes");
    }
    assert_eq!(
        invalid(client.multicast_joined(Guarantee::AGREED, &vec![0; MAX_MESSAGE_SIZE + 1])),
        "message"
    );
    assert_eq!(client.membership().unwrap().members, [NodeId(1)]);
}

fn the_four_ways_to_dispatch(endpoint: &Endpoint) {
    let client = connect(endpoint);
    client.join(&[group("dispatch")]).unwrap();
    let send =
        |text: &'static str| client.multicast_joined(Guarantee::AGREED, text.as_bytes()).unwrap();
    let mut seen = Vec::new();
    let mut dispatch = |mode| {
        client.dispatch(mode, |event| {
            let last =
                matches!(&event, Event::Deliver(Deliver { payload, .. }) if payload == "last");
            seen.push(event);
            if last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    };
    // The membership that comes first.
    dispatch(Dispatch::One).unwrap();
    assert_eq!(cs(dispatch(Dispatch::OneNonblocking)), CsError::TryAgain);
    dispatch(Dispatch::All).unwrap();
    send("one");
    dispatch(Dispatch::One).unwrap();
    send("two");
    eventually("it is there", || dispatch(Dispatch::OneNonblocking).is_ok());
    send("three");
    send("last");
    dispatch(Dispatch::Blocking).unwrap();
    let text = |event: &Event| match event {
        Event::Deliver(Deliver { payload, .. }) => String::from_utf8_lossy(payload).into_owned(),
        _ => "membership".to_owned(),
    };
    let seen: Vec<String> = seen.iter().map(text).collect();
    assert_eq!(seen, ["membership", "one", "two", "three", "last"]);
}

fn wrong_arguments_are_named_and_nothing_is_sent(endpoint: &Endpoint) {
    assert_eq!(invalid(GroupName::new("x".repeat(33))), "group name");
    let client = connect(endpoint);
    let many = vec![group("many"); MAX_GROUPS + 1];
    assert_eq!(invalid(client.join(&[])), "groups");
    assert_eq!(invalid(client.leave(&[])), "groups");
    assert_eq!(invalid(client.join(&many)), "groups");
    assert_eq!(invalid(client.multicast_groups(Guarantee::AGREED, &[], b"nobody")), "groups");
    for _ in 0..MAX_JOINED_GROUPS / MAX_GROUPS {
        client.join(&many[1..]).unwrap();
    }
    assert_eq!(invalid(client.join(&many[..1])), "groups");
    // As long as it can be, with as many groups as there can be.
    client.multicast_joined(Guarantee::AGREED, &vec![7; MAX_MESSAGE_SIZE]).unwrap();
    assert_eq!(next_message(&client).1.len(), MAX_MESSAGE_SIZE);
    client.leave(&many[1..]).unwrap();
    client.join(&many[..1]).unwrap();
    assert_eq!(client.membership().unwrap().members, [NodeId(1)]);
}

fn a_dead_daemon_ends_the_connection(host: &Host) {
    let client = connect(&host.endpoint());
    host.kill();
    assert!(matches!(client.membership(), Err(Error::Disconnected { .. })));
    let end = client.events().find_map(Result::err);
    assert!(matches!(end, Some(Error::Disconnected { .. })), "{end:?}");
}

/// With a daemon that has evs, this is the oldest libqb there is.
#[test]
fn the_other_services_of_the_same_daemon_answer() {
    if skip() {
        return;
    }
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
        let lost = |event| matches!(event, Some(votequorum::Event::Quorum(votequorum::QuorumNotification { context: 7, quorate: false, .. })));
        while !lost(votes.next_event(Deadline::NEVER).unwrap()) {}
        assert!(!quorum.is_quorate().unwrap());
        assert_eq!(votes.info(NodeId(1)).unwrap().total_votes, 1);
    });
}
