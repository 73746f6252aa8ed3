//! What clients count.

use std::thread;
use std::time::Duration;

use corosync_ipc::embedded::{Cluster, Refuse};
use corosync_ipc::supervise::{Notice, Supervised};
use corosync_ipc::{Error, TrackFlags, cmap, quorum};
use testbed::{WATCHDOG, eventually};

#[test]
fn retries_and_late_answers_are_counted() {
    let cluster = Cluster::start(1).unwrap();
    let client = quorum::Client::connect_to(cluster.node(1).unwrap().endpoint()).unwrap();
    client.set_request_timeout(WATCHDOG);
    let connected = client.stats();
    assert_eq!((connected.requests, connected.retries), (1, 0), "the type of quorum");
    cluster.refuse(1, "quorum", Refuse::Next(3)).unwrap();
    client.is_quorate().unwrap();
    let busy = client.stats();
    assert_eq!((busy.requests, busy.retries), (connected.requests + 4, 3));

    cluster.hold(1, "quorum").unwrap();
    client.set_request_timeout(Duration::from_millis(10));
    assert!(matches!(client.is_quorate(), Err(Error::TimedOut { .. })));
    let late = client.stats();
    assert_eq!((late.timeouts, late.orphaned_replies), (1, 0));
    cluster.release(1, "quorum").unwrap();
    client.set_request_timeout(WATCHDOG);
    client.is_quorate().unwrap();
    let after = client.stats();
    assert_eq!((after.requests, after.timeouts, after.orphaned_replies), (busy.requests + 2, 1, 1));
    assert_eq!((after.retries, after.nudges, after.stray_wake_bytes), (3, 0, 0));
}

#[test]
fn the_fill_of_the_rings_shows_who_is_slow() {
    let cluster = Cluster::start(1).unwrap();
    let endpoint = cluster.node(1).unwrap().endpoint().clone();
    let client = cmap::Client::connect_to(&endpoint).unwrap();
    client.set_request_timeout(WATCHDOG);
    client.track_add("stats.", cmap::TrackEvents::ALL | cmap::TrackEvents::PREFIX).unwrap();
    let empty = client.stats().event_ring;
    assert_eq!((empty.used, empty.most_used), (0, 0));
    (0..10_u32).for_each(|number| client.set("stats.key", number).unwrap());
    let slow_program = client.stats();
    assert!(slow_program.event_ring.used > 10 * 64, "{slow_program:?}");
    assert!(Some(slow_program.event_ring.used) < slow_program.event_ring.capacity);
    assert_eq!((slow_program.request_ring.used, slow_program.events), (0, 0));
    assert!(slow_program.request_ring.most_used > 0);
    assert_eq!(std::iter::from_fn(|| client.poll_event().unwrap()).count(), 10);
    let taken = client.stats();
    assert_eq!((taken.events, taken.event_ring.used), (10, 0));
    assert_eq!(taken.event_ring.most_used, slow_program.event_ring.used);

    cluster.pause(1).unwrap();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.get("stats.key"));
        eventually("the paused daemon leaves the request in the ring", || {
            client.stats().request_ring.used > 0
        });
        cluster.resume(1).unwrap();
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(client.stats().request_ring.used, 0);
}

#[test]
fn a_supervised_client_counts_over_all_its_connections() {
    let cluster = Cluster::start(1).unwrap();
    let endpoint = cluster.node(1).unwrap().endpoint().clone();
    let mut client = Supervised::new(move || quorum::Client::connect_to(&endpoint));
    client.set_up(TrackFlags::CHANGES).unwrap();
    let until = |client: &mut Supervised<_>, wanted: fn(&Notice<_, _>) -> bool| {
        while !wanted(&client.next(WATCHDOG).unwrap().expect("a notice comes")) {}
    };
    assert_eq!(client.stats(), Default::default());
    until(&mut client, |notice| matches!(notice, Notice::Event(_)));
    let first = client.stats();
    assert_eq!((first.gaps, first.connections.events, first.connections.requests), (0, 1, 2));
    cluster.kill(1).unwrap();
    until(&mut client, |notice| matches!(notice, Notice::Lost { .. }));
    let lost = client.stats();
    assert_eq!((lost.gaps, lost.connections.requests), (1, 2));
    cluster.start_node(1).unwrap();
    until(&mut client, |notice| matches!(notice, Notice::Event(_)));
    let second = client.stats();
    assert_eq!((second.gaps, second.connections.events, second.connections.requests), (1, 2, 4));
    assert_eq!(client.client().unwrap().stats().requests, 2);
}
