//! Groups that span nodes: order, membership and what happens to fragments when a sender goes.

use std::env;
use std::io::Write;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use corosync_ipc::cpg::{
    Client, Confchg, Deliver, Event, GroupName, Options, Reason, TotemConfchg,
};
use corosync_ipc::{Endpoint, NodeId};
use testbed::{Nodes, Process, Random, Setup};

use crate::support::{
    Change, busy, connect, group, has_fragments, join, next, next_change, next_or_error,
    own_options, pattern, send,
};

testbed::on_each_host! {
    all_nodes_see_all_messages_in_the_same_order, busy(3);
    joins_leaves_and_ends_of_processes_have_their_reasons, Setup::new().nodes(2);
    partitions_and_ends_of_nodes_have_their_reasons, Setup::new().nodes(3).loses_nodes();
    fragments_of_several_senders_are_put_together, busy(3);
    a_sender_killed_within_a_message_leaves_nothing_behind, busy(2);
    a_large_message_survives_changes_of_the_membership, Setup::new().own();
}

/// Which group a child process joins.
const CHILD_GROUP: &str = "COROSYNC_IPC_TEST_CHILD_GROUP";
/// How long a message it sends, in bytes; 0: none.
const CHILD_LENGTH: &str = "COROSYNC_IPC_TEST_CHILD_LENGTH";

/// A member in a process of its own, which waits for its end.
#[test]
#[ignore = "run by other tests"]
fn child() {
    let length = env::var(CHILD_LENGTH).unwrap().parse().unwrap();
    // Many small fragments, so that there is time to end it between two of them.
    let endpoint = Endpoint::from_env().unwrap().ring_size(16 << 10);
    let client = Client::connect_to(&endpoint).unwrap();
    client.join(&group(&env::var(CHILD_GROUP).unwrap())).unwrap();
    writeln!(std::io::stdout(), "joined").unwrap();
    if length > 0 {
        client.set_request_timeout(Duration::from_secs(60));
        send(&client, &vec![7; length]);
    }
    for event in client.events() {
        event.unwrap();
    }
}

fn spawn_child(nodes: &Nodes, id: u32, group: &str, length: usize) -> Process {
    let child = nodes
        .ignored_test(id, "cluster::child")
        .env(CHILD_GROUP, group)
        .env(CHILD_LENGTH, length.to_string());
    let child = child.spawn();
    child.wait_stdout("joined");
    child
}

fn join_on(nodes: &Nodes, id: u32, group: &GroupName) -> Client {
    nodes.on(id, |endpoint| join(endpoint, group))
}

/// Joins on each node; returns the clients when all of them see all.
fn join_on_all(nodes: &Nodes, group: &GroupName) -> Vec<Client> {
    let clients: Vec<Client> =
        nodes.ids().into_iter().map(|id| join_on(nodes, id, group)).collect();
    for (index, client) in clients.iter().enumerate() {
        for seen in index + 2..=clients.len() {
            let change = next_change(client);
            assert_eq!(change.members, members(&clients[..seen]), "{change:?}");
            assert_eq!(change.joined, joined(&clients, &[seen - 1], Reason::JOIN), "{change:?}");
        }
    }
    clients
}

/// The members that clients on the nodes 1, 2, ... make.
fn members(clients: &[Client]) -> Vec<(u32, u32)> {
    (1..).zip(clients).map(|(node, client)| (node, client.pid())).collect()
}

fn joined(clients: &[Client], indices: &[usize], reason: Reason) -> Vec<(u32, u32, Reason)> {
    let members = members(clients);
    indices.iter().map(|index| (members[*index].0, members[*index].1, reason)).collect()
}

fn all_nodes_see_all_messages_in_the_same_order(nodes: &Nodes) {
    const EACH: usize = 3000;
    const SENDERS_PER_NODE: usize = 2;
    let group = group("order");
    let clients: Vec<Client> = (0..3 * SENDERS_PER_NODE)
        .map(|index| {
            nodes.on(1 + (index % 3) as u32, |endpoint| {
                let client = connect(endpoint);
                client.join(&group).unwrap();
                client
            })
        })
        .collect();
    // A join takes its place in the order too: what was sent before it is not seen.
    for client in &clients {
        while next_change(client).members.len() < clients.len() {}
    }
    let total = clients.len() * EACH;
    let orders: Vec<Vec<(NodeId, u32, Bytes)>> = thread::scope(|scope| {
        let receivers: Vec<_> = (0u64..)
            .zip(&clients)
            .map(|(index, client)| {
                client.set_request_timeout(Duration::from_secs(60));
                scope.spawn(move || {
                    let mut random = Random::new(2 * index + 1);
                    for number in 0..EACH as u64 {
                        let length = (random.word() % 2000) as usize;
                        send(
                            client,
                            &[&number.to_ne_bytes()[..], &pattern(number, length)].concat(),
                        );
                    }
                });
                scope.spawn(move || {
                    let mut seen = Vec::with_capacity(total);
                    while seen.len() < total {
                        if let Event::Deliver(Deliver { node_id, pid, payload, .. }) = next(client)
                        {
                            seen.push((node_id, pid, payload));
                        }
                    }
                    seen
                })
            })
            .collect();
        receivers.into_iter().map(|receiver| receiver.join().unwrap()).collect()
    });
    assert!(orders.iter().all(|order| *order == orders[0]));
    for client in &clients {
        let numbers = orders[0].iter().filter(|(_, pid, _)| *pid == client.pid());
        let numbers =
            numbers.map(|(.., payload)| u64::from_ne_bytes(payload[..8].try_into().unwrap()));
        assert!(
            numbers.eq(0..EACH as u64),
            "messages of {} are not in the order they were sent",
            client.pid()
        );
    }
}

fn joins_leaves_and_ends_of_processes_have_their_reasons(nodes: &Nodes) {
    let clients = join_on_all(nodes, &group("reasons"));
    let mut child = spawn_child(nodes, 2, "reasons", 0);
    let both = members(&clients);
    let mut all = both.clone();
    all.push((2, child.pid()));
    all.sort_unstable();
    for client in &clients {
        let expected = Change {
            members: all.clone(),
            left: vec![],
            joined: vec![(2, child.pid(), Reason::JOIN)],
        };
        assert_eq!(next_change(client), expected);
    }
    let pid = child.pid();
    child.signal(nix::sys::signal::Signal::SIGKILL);
    drop(child);
    for client in &clients {
        let expected = Change {
            members: both.clone(),
            left: vec![(2, pid, Reason::PROCDOWN)],
            joined: vec![],
        };
        assert_eq!(next_change(client), expected);
    }
    clients[1].leave(&group("reasons")).unwrap();
    for client in &clients {
        let left = joined(&clients, &[1], Reason::LEAVE);
        assert_eq!(
            next_change(client),
            Change { members: both[..1].to_vec(), left, joined: vec![] }
        );
    }
}

fn partitions_and_ends_of_nodes_have_their_reasons(nodes: &Nodes) {
    let group = group("partition");
    let clients = join_on_all(nodes, &group);
    let all = members(&clients);

    nodes.partition(&[&[1, 2], &[3]]);
    for client in &clients[..2] {
        let left = joined(&clients, &[2], Reason::NODEDOWN);
        assert_eq!(
            next_change(client),
            Change { members: all[..2].to_vec(), left, joined: vec![] }
        );
        assert_eq!(next_totem(client), [1, 2]);
    }
    let change = next_change(&clients[2]);
    let mut left = change.left.clone();
    left.sort_unstable();
    assert_eq!(
        (change.members, left),
        (all[2..].to_vec(), joined(&clients, &[0, 1], Reason::NODEDOWN))
    );
    assert_eq!(next_totem(&clients[2]), [3]);
    // Each part goes on for itself.
    send(&clients[2], b"alone");
    assert!(
        matches!(next(&clients[2]), Event::Deliver(Deliver { payload, .. }) if payload == "alone")
    );

    nodes.heal();
    for (index, client) in clients.iter().enumerate() {
        let change = loop {
            // Nodes may find each other one by one.
            let change = next_change(client);
            assert!(
                change.joined.iter().all(|(.., reason)| *reason == Reason::NODEUP),
                "{change:?}"
            );
            if change.members == all {
                break change;
            }
        };
        assert!(change.left.is_empty(), "node {}: {change:?}", index + 1);
        while next_totem(client) != [1, 2, 3] {}
    }

    let three = clients[2].pid();
    nodes.kill(3);
    for client in &clients[..2] {
        let left = vec![(3, three, Reason::NODEDOWN)];
        assert_eq!(
            next_change(client),
            Change { members: all[..2].to_vec(), left, joined: vec![] }
        );
        while next_totem(client) != [1, 2] {}
    }
    assert!(next_or_error(&clients[2]).is_err());

    nodes.start(3);
    nodes.wait_members(&[1, 2, 3], 3);
    let again = join_on(nodes, 3, &group);
    for client in &clients[..2] {
        assert_eq!(next_change(client).joined, [(3, again.pid(), Reason::JOIN)]);
    }
}

/// The nodes of the next change of the cluster's membership.
fn next_totem(client: &Client) -> Vec<u32> {
    loop {
        if let Event::TotemConfchg(TotemConfchg { members, .. }) = next(client) {
            let mut members: Vec<u32> = members.iter().map(|node| node.0).collect();
            members.sort_unstable();
            return members;
        }
    }
}

fn fragments_of_several_senders_are_put_together(nodes: &Nodes) {
    const EACH: u64 = 3;
    const LENGTH: usize = 3 << 20;
    if !nodes.on(1, has_fragments) {
        return;
    }
    let clients = join_on_all(nodes, &group("interleaved"));
    thread::scope(|scope| {
        for (index, client) in (0u64..).zip(&clients) {
            scope.spawn(move || {
                client.set_request_timeout(Duration::from_secs(60));
                (0..EACH)
                    .for_each(|number| send(client, &pattern(1 + 100 * index + number, LENGTH)));
            });
        }
        for client in &clients {
            let clients = &clients;
            scope.spawn(move || {
                let mut numbers = [0; 3];
                while numbers != [EACH; 3] {
                    if let Event::Deliver(Deliver { node_id, pid, payload, .. }) = next(client) {
                        let index = (node_id.0 - 1) as usize;
                        assert_eq!(pid, clients[index].pid());
                        assert!(
                            payload == pattern(1 + 100 * index as u64 + numbers[index], LENGTH)
                        );
                        numbers[index] += 1;
                    }
                }
            });
        }
    });
}

fn a_sender_killed_within_a_message_leaves_nothing_behind(nodes: &Nodes) {
    if !nodes.on(1, has_fragments) {
        return;
    }
    let name = "killed";
    let clients = join_on_all(nodes, &group(name));
    // Is told of a large message when its first fragment comes.
    let herald = nodes.on(1, |endpoint| {
        let options = own_options().reassembly_limit(1 << 20);
        let client = Client::connect_with(endpoint, options).unwrap();
        client.join(&group(name)).unwrap();
        client
    });
    let child = spawn_child(nodes, 2, name, 100 << 20);
    while !matches!(next(&herald), Event::Discarded(_)) {}
    let pid = child.pid();
    drop(child);
    for client in &clients {
        let left = loop {
            match next(client) {
                Event::Confchg(Confchg { left, .. }) if !left.is_empty() => break left,
                Event::Confchg(_) => {}
                event => panic!("{event:?}"),
            }
        };
        assert_eq!(
            (left[0].node_id, left[0].pid, left[0].reason),
            (NodeId(2), pid, Reason::PROCDOWN)
        );
    }
    // Another process with the same pid is not taken for the one before.
    let successor = nodes.on(2, |endpoint| {
        let client = Client::connect_with(endpoint, Options::new().pid(pid)).unwrap();
        client.join(&group(name)).unwrap();
        client
    });
    send(&successor, &pattern(1, 3 << 20));
    for client in &clients {
        assert_eq!(next_change(client).joined, [(2, pid, Reason::JOIN)]);
        assert!(
            matches!(next(client), Event::Deliver(Deliver { payload, .. }) if payload == pattern(1, 3 << 20))
        );
    }
}

fn a_large_message_survives_changes_of_the_membership(endpoint: &Endpoint) {
    if !has_fragments(endpoint) {
        return;
    }
    let group = group("changes");
    let receiver = join(endpoint, &group);
    let small = endpoint.clone().ring_size(16 << 10);
    let sender = Client::connect_with(&small, own_options()).unwrap();
    sender.set_request_timeout(Duration::from_secs(120));
    sender.join(&group).unwrap();
    let herald = Client::connect_with(endpoint, own_options().reassembly_limit(1 << 20)).unwrap();
    herald.join(&group).unwrap();
    let message = pattern(1, 20 << 20);
    let begun = thread::scope(|scope| {
        scope.spawn(|| send(&sender, &message));
        // When a message begins, its sender is interrupted by a join; at last it is left alone.
        let mut begun = 0;
        let mut passers_by = Vec::new();
        loop {
            match next(&herald) {
                Event::Discarded(_) => {
                    begun += 1;
                    if begun <= 3 {
                        passers_by.push(join(endpoint, &group));
                    } else {
                        break begun;
                    }
                }
                Event::Confchg(_) => {}
                event => panic!("{event:?}"),
            }
        }
    });
    assert_eq!(begun, 4);
    let payload = loop {
        if let Event::Deliver(Deliver { payload, .. }) = next(&receiver) {
            break payload;
        }
    };
    assert!(payload == message);
}
