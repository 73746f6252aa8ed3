//! Clients that connect again.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::cpg::{self, Cpg, GroupName, Guarantee};
use corosync_ipc::quorum::Quorum;
use corosync_ipc::supervise::{
    CfgTracker, CmapTracker, Missed, Notice, NoticeOf, Supervise, Supervised, Up, VotequorumTracker,
};
use corosync_ipc::votequorum::Votequorum;
use corosync_ipc::{Client, CsError, Endpoint, Error, TrackFlags, cfg, quorum, votequorum};

use crate::harness::{self, Cluster, Node, WATCHDOG};

/// The next notice, which must come.
fn next<S: Supervise>(client: &mut Supervised<S>) -> NoticeOf<S> {
    client.next(WATCHDOG).unwrap().expect("no notice came")
}

/// The next notice that a connection is there; those before must be of failed attempts.
fn up<S: Supervise>(client: &mut Supervised<S>) -> Up<S::Setup>
where
    S::Event: Debug,
{
    loop {
        match next(client) {
            Notice::Up(up) => return up,
            Notice::Retry { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn event<S: Supervise>(client: &mut Supervised<S>) -> S::Event
where
    S::Event: Debug,
{
    match next(client) {
        Notice::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// The events until the loss, and why it was.
fn events_until_lost<S: Supervise>(client: &mut Supervised<S>) -> (Vec<S::Event>, Error)
where
    S::Event: Debug,
{
    let mut events = Vec::new();
    loop {
        match next(client) {
            Notice::Event(event) => events.push(event),
            Notice::Lost { error } => return (events, error),
            other => panic!("{other:?}"),
        }
    }
}

fn quickly(_: u32) -> Duration {
    Duration::from_millis(20)
}

#[test]
fn trackers_of_cmap_outlive_the_daemon_and_keep_their_names() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    node.run(|| {
        let mut client = Supervised::new(cmap::Client::connect).backoff(quickly);
        let tracker = CmapTracker::new("supervised.", TrackEvents::ALL | TrackEvents::PREFIX);
        // Known before there is a connection, and after.
        client.set_up(tracker.clone()).unwrap();
        assert!(matches!(client.client(), Err(Error::Disconnected { .. })));
        let first = up(&mut client);
        assert!(first.gap.is_none());
        assert!(matches!(&*first.restored, [one] if one.setup == tracker && one.result.is_ok() && one.missed == Missed::Nothing));
        let late = CmapTracker::new("late.key", TrackEvents::ALL);
        client.set_up(late.clone()).unwrap();

        client.client().unwrap().set("supervised.a", 1_u8).unwrap();
        client.client().unwrap().set("late.key", 2_u8).unwrap();
        for expected in [&tracker, &late] {
            let cmap::Event::Notify(change) = event(&mut client) else { panic!("unknown") };
            assert_eq!((change.tracker, change.key.starts_with(expected.key())), (expected.tracker(), true));
        }

        // What the daemon left comes before the loss.
        (0..10_u8).for_each(|number| client.client().unwrap().set("supervised.b", number).unwrap());
        node.kill();
        let (events, error) = events_until_lost(&mut client);
        assert_eq!(events.len(), 10);
        assert!(matches!(error, Error::Disconnected { .. }));
        assert!(client.client().is_err());
        assert!(matches!(next(&mut client), Notice::Retry { attempts: 1, error: Error::NoSocket { .. }, .. }));
        assert!(matches!(next(&mut client), Notice::Retry { attempts: 2, .. }));
        // Nobody hears of this one.
        node.start();
        node.run(|| cmap::Client::connect().unwrap().set("supervised.unheard", 1_u8).unwrap());

        let again = up(&mut client);
        assert!(again.gap.is_some_and(|gap| gap > Duration::from_millis(20)), "{again:?}");
        let restored: Vec<_> = again.restored.iter().map(|one| (&one.setup, one.result.is_ok(), one.missed)).collect();
        assert_eq!(restored, [(&tracker, true, Missed::Changes), (&late, true, Missed::Changes)]);
        client.client().unwrap().set("supervised.c", 3_u8).unwrap();
        let cmap::Event::Notify(change) = event(&mut client) else { panic!("unknown") };
        assert_eq!((change.tracker, &*change.key), (tracker.tracker(), "supervised.c"));

        // What was taken down does not come back.
        client.take_down(&tracker).unwrap();
        assert_eq!(client.take_down(&tracker).unwrap_err().cs_error(), Some(CsError::NotExist));
        node.kill();
        events_until_lost(&mut client);
        node.start();
        assert!(matches!(&*up(&mut client).restored, [one] if one.setup == late));
    });
}

#[test]
fn a_group_is_joined_again_and_the_gap_is_told() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    node.run(|| {
        let group = GroupName::new("supervised").unwrap();
        let mut client = Supervised::new(cpg::Client::connect).backoff(quickly);
        client.set_up(group).unwrap();
        let other = GroupName::new("other").unwrap();
        assert_eq!(client.set_up(other).unwrap_err().cs_error(), Some(CsError::Exist), "one group a client");
        for round in 0..3 {
            let joined = up(&mut client);
            let missed = if round == 0 { Missed::Nothing } else { Missed::Messages };
            assert_eq!((joined.gap.is_some(), joined.restored[0].missed), (round > 0, missed));
            assert!(joined.restored[0].result.is_ok());
            // The node's own joining of the cluster may still be told.
            let of_group = |client: &mut Supervised<Cpg>| loop {
                match event(client) {
                    cpg::Event::TotemConfchg { .. } => {}
                    event => break event,
                }
            };
            assert!(matches!(of_group(&mut client), cpg::Event::Confchg { members, .. } if members.len() == 1));
            client.client().unwrap().multicast(Guarantee::AGREED, b"message").unwrap();
            assert!(matches!(of_group(&mut client), cpg::Event::Deliver { payload, .. } if payload == b"message"[..]));
            node.kill();
            assert!(events_until_lost(&mut client).0.is_empty());
            node.start();
        }
    });
}

/// Tracking the state of the cluster: after a gap it is told again.
fn state_is_told_again<S: Supervise>(node: &Node, connect: fn() -> Result<Client<S>, Error>, setup: S::Setup)
where
    S::Event: Debug,
{
    node.run(|| {
        let mut client = Supervised::new(connect).backoff(quickly);
        client.set_up(setup.clone()).unwrap();
        assert!(up(&mut client).gap.is_none());
        event(&mut client);
        node.kill();
        events_until_lost(&mut client);
        node.start();
        let again = up(&mut client);
        assert!(again.gap.is_some());
        assert!(matches!(&*again.restored, [one] if one.setup == setup && one.missed == Missed::States));
        event(&mut client);
    });
}

#[test]
fn quorum_and_votequorum_tell_their_state_again() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    state_is_told_again::<Quorum>(node, quorum::Client::connect, TrackFlags::CHANGES);
    let tracker = VotequorumTracker { context: 7, flags: TrackFlags::CHANGES };
    state_is_told_again::<Votequorum>(node, votequorum::Client::connect, tracker);
}

/// The present corosync has no evs, and asks about shutdowns since 3.1.1.
#[test]
fn cfg_is_tracked_again_by_daemons_that_ask() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    node.run(|| {
        let mut client = Supervised::new(cfg::Client::connect).backoff(quickly);
        client.set_up(CfgTracker).unwrap();
        for round in 0..2 {
            let up = up(&mut client);
            let [tracker] = &*up.restored else { panic!("{up:?}") };
            match &tracker.result {
                Ok(()) => assert!(harness::version() >= [3, 1, 1, 0]),
                Err(Error::Unsupported { .. }) => assert!(harness::version() < [3, 1, 1, 0]),
                Err(error) => panic!("{error}"),
            }
            assert_eq!((up.gap.is_some(), tracker.missed == Missed::States), (round > 0, round > 0));
            node.kill();
            assert!(events_until_lost(&mut client).0.is_empty());
            node.start();
        }
    });
}

#[test]
fn a_program_can_start_before_the_daemon_and_paces_itself_as_told() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::builder().create();
    let node = cluster.node(1);
    node.run(|| {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let pauses = Arc::clone(&asked);
        let mut client = Supervised::new(quorum::Client::connect).backoff(move |attempts| {
            pauses.lock().unwrap().push(attempts);
            Duration::from_millis(attempts.into())
        });
        for attempt in 1..=5 {
            let Notice::Retry { error, attempts, pause } = next(&mut client) else { panic!("no attempt failed") };
            assert!(matches!(error, Error::NoSocket { .. }), "{error}");
            assert_eq!((attempts, pause), (attempt, Duration::from_millis(attempt.into())));
        }
        assert_eq!(*asked.lock().unwrap(), [1, 2, 3, 4, 5]);
        node.start();
        assert!(up(&mut client).gap.is_none());
        assert!(client.client().unwrap().is_quorate().is_ok());
    });
}

#[test]
fn a_deadline_and_a_waker_end_the_wait_with_a_connection_and_without() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    node.run(|| {
        let mut client = Supervised::new(quorum::Client::connect).backoff(|_| Duration::from_secs(3600));
        up(&mut client);
        for connected in [true, false] {
            assert_eq!(client.client().is_ok(), connected);
            assert!(client.next(Duration::ZERO).unwrap().is_none());
            assert!(client.next(Duration::from_millis(20)).unwrap().is_none());
            let waker = client.waker().unwrap();
            thread::scope(|scope| {
                let waiting = scope.spawn(|| client.next(WATCHDOG).unwrap().is_none());
                thread::sleep(Duration::from_millis(20));
                waker.wake();
                assert!(waiting.join().unwrap());
            });
            if connected {
                node.kill();
                assert!(events_until_lost(&mut client).0.is_empty());
                // It was up for less than the pause.
                assert!(client.next(Duration::ZERO).unwrap().is_none());
            }
        }
    });
}

#[test]
fn what_cannot_be_set_up_is_told_and_ends_nothing() {
    if harness::skip() {
        return;
    }
    harness::shared_one().node(1).run(|| {
        let mut client = Supervised::new(cmap::Client::connect);
        let wrong = CmapTracker::new("white space", TrackEvents::ALL);
        client.set_up(wrong.clone()).unwrap();
        let connected = up(&mut client);
        assert!(matches!(&*connected.restored, [one] if matches!(one.result, Err(Error::InvalidArgument { .. }))));
        // With a connection it is refused, and not noted.
        let other = CmapTracker::new("white space", TrackEvents::ALL);
        assert!(matches!(client.set_up(other), Err(Error::InvalidArgument { .. })));
        assert_eq!(client.setups(), [wrong]);
        // An argument that is wrong for the connection would be for ever.
        let mut never = Supervised::new(|| cmap::Client::connect_to(&Endpoint::new().ring_size(1)));
        assert!(matches!(never.next(WATCHDOG), Err(Error::InvalidArgument { .. })));
        // Who finalizes it wants no other.
        client.client().unwrap().finalize();
        assert!(matches!(client.next(WATCHDOG), Err(Error::Finalized)));
        assert!(matches!(client.next(WATCHDOG), Err(Error::Finalized)));
    });
}

#[test]
fn a_set_up_that_times_out_loses_the_connection_after_its_events() {
    if harness::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    node.run(|| {
        let endpoint = Endpoint::new().timeout(Duration::from_millis(100));
        let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint)).backoff(quickly);
        client.set_up(CmapTracker::new("timeout.a", TrackEvents::ALL)).unwrap();
        up(&mut client);
        (0..3_u8).for_each(|number| client.client().unwrap().set("timeout.a", number).unwrap());
        let paused = node.pause();
        client.set_up(CmapTracker::new("timeout.b", TrackEvents::ALL)).unwrap();
        let (events, error) = events_until_lost(&mut client);
        assert_eq!(events.len(), 3);
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(matches!(next(&mut client), Notice::Retry { .. }));
        drop(paused);
        let again = up(&mut client);
        assert!(
            again.gap.is_some() && again.restored.len() == 2 && again.restored.iter().all(|one| one.result.is_ok())
        );
        client.client().unwrap().set("timeout.b", 1_u8).unwrap();
        event(&mut client);
    });
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Instant;

    use corosync_ipc::cmap::Cmap;
    use corosync_ipc::supervise::AsyncSupervised;
    use futures_core::Stream;
    use tokio::runtime;
    use tokio::time::timeout;

    use super::*;

    /// The next notice, by waits that are cancelled all the time.
    async fn next<S: Supervise>(client: &mut AsyncSupervised<S>) -> NoticeOf<S> {
        let start = Instant::now();
        loop {
            if let Ok(notice) = timeout(Duration::from_millis(2), client.next()).await {
                return notice.unwrap();
            }
            assert!(start.elapsed() < WATCHDOG, "no notice came");
        }
    }

    #[test]
    fn a_client_of_tokio_goes_on_after_the_daemon_was_killed() {
        if harness::skip() {
            return;
        }
        let cluster = Cluster::one();
        let node = cluster.node(1);
        node.run(|| {
            runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let attempts = Arc::new(AtomicU32::new(0));
                let counter = Arc::clone(&attempts);
                let mut client = AsyncSupervised::<Cmap>::new(move || {
                    counter.fetch_add(1, Ordering::SeqCst);
                    cmap::Client::connect()
                })
                .backoff(quickly);
                let tracker = CmapTracker::new("supervised.", TrackEvents::ALL | TrackEvents::PREFIX);
                client.set_up(tracker.clone()).await.unwrap();
                assert!(
                    matches!(next(&mut client).await, Notice::Up(up) if up.gap.is_none() && up.restored.len() == 1)
                );
                let late = CmapTracker::new("late.key", TrackEvents::ALL);
                client.set_up(late.clone()).await.unwrap();
                assert_eq!(attempts.load(Ordering::SeqCst), 1, "an attempt was not given up");
                for round in 0..2_u8 {
                    for number in 0..5_u8 {
                        let requests = client.client().unwrap().clone();
                        requests.call(move |cmap| cmap.set("supervised.key", round * 10 + number)).await.unwrap();
                    }
                    node.kill();
                    for _ in 0..5 {
                        let notice = next(&mut client).await;
                        assert!(
                            matches!(&notice, Notice::Event(cmap::Event::Notify(change))
                            if change.tracker == tracker.tracker()),
                            "{notice:?}"
                        );
                    }
                    assert!(matches!(next(&mut client).await, Notice::Lost { error: Error::Disconnected { .. } }));
                    assert!(matches!(next(&mut client).await, Notice::Retry { attempts: 1, .. }));
                    assert!(client.client().is_err());
                    node.start();
                    let up = loop {
                        match next(&mut client).await {
                            Notice::Up(up) => break up,
                            Notice::Retry { .. } => {}
                            other => panic!("{other:?}"),
                        }
                    };
                    assert!(up.gap.is_some() && up.restored.iter().all(|one| one.result.is_ok()), "{up:?}");
                    assert_eq!(up.restored.len(), 2 - usize::from(round));
                    if round == 0 {
                        client.take_down(&late).await.unwrap();
                    }
                }
                // As a stream it ends with the error that it cannot go on after.
                client.client().unwrap().client().finalize();
                let mut stream = async || poll_fn(|cx| Pin::new(&mut client).poll_next(cx)).await;
                assert!(matches!(stream().await, Some(Err(Error::Finalized))));
                assert!(stream().await.is_none());
            });
        });
    }

    #[test]
    fn something_set_up_while_connecting_is_set_up() {
        if harness::skip() {
            return;
        }
        harness::shared_one().node(1).run(|| {
            runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let mut client = AsyncSupervised::<Cpg>::new(|| {
                    cpg::Client::connect_with(&Endpoint::new(), cpg::Options::new().pid(77))
                });
                // Begins an attempt, and does not wait for it.
                assert!(timeout(Duration::ZERO, client.next()).await.is_err());
                client.set_up(GroupName::new("while connecting").unwrap()).await.unwrap();
                loop {
                    match next(&mut client).await {
                        Notice::Up(up) => break assert!(matches!(&*up.restored, [one] if one.result.is_ok())),
                        Notice::Retry { .. } => {}
                        other => panic!("{other:?}"),
                    }
                }
                assert!(matches!(next(&mut client).await, Notice::Event(cpg::Event::Confchg { .. })));
            });
        });
    }
}
