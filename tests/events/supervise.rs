//! Clients that connect again.

use std::fmt::Debug;
use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::evs;
use corosync_ipc::supervise::{
    CfgTracker, CmapTracker, Missed, Notice, NoticeOf, Restored, Supervise, Supervised, Up,
    VotequorumTracker,
};
use corosync_ipc::{
    Control, CsError, Dispatcher, Endpoint, Error, TrackFlags, cfg, quorum, votequorum,
};
use testbed::{
    Cluster, Host, Patience, WATCHDOG, is_fd_readable, is_fd_readable_within, patiently,
    spawn_until_asleep,
};

use crate::report;
use crate::source::{self, ASKS, Source, for_each_service};

for_each_service! { what_was_set_up_is_set_up_again_and_what_may_be_missed_is_told; }

testbed::on_each_host! {
    trackers_of_cmap_outlive_the_daemon_and_keep_their_names;
    the_descriptor_outlives_the_daemon_and_tells_when_there_is_something_to_do;
    a_waker_and_a_request_that_loses_the_connection_make_the_descriptor_readable;
    a_supervised_client_fits_a_dispatcher;
    a_program_can_start_before_the_daemon_and_paces_itself_as_told;
    a_deadline_and_a_waker_end_the_wait_with_a_connection_and_without;
    a_set_up_that_times_out_loses_the_connection_after_its_events;
    what_cannot_be_set_up_is_told_and_ends_nothing;
    a_daemon_that_does_not_ask_about_shutdowns_is_supervised_too;
}

/// The next notice, which must come.
fn next<C: Supervise>(client: &mut Supervised<C>) -> NoticeOf<C> {
    patiently(|limit| client.next(limit).unwrap()).expect("no notice came")
}

/// The next notice that a connection is there; those before must be of failed attempts.
fn up<C: Supervise>(client: &mut Supervised<C>) -> Up<C::Setup>
where
    C::Event: Debug,
{
    loop {
        match next(client) {
            Notice::Up(up) => return up,
            Notice::Retry { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

fn event<C: Supervise>(client: &mut Supervised<C>) -> C::Event
where
    C::Event: Debug,
{
    match next(client) {
        Notice::Event(event) => event,
        other => panic!("{other:?}"),
    }
}

/// The events until the loss, and why it was.
fn events_until_lost<C: Supervise>(client: &mut Supervised<C>) -> (Vec<C::Event>, Error)
where
    C::Event: Debug,
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

/// The next notice, got as an event loop gets it: only when the descriptor is readable.
fn next_when_readable<C: Supervise>(
    client: &mut Supervised<C>,
    descriptor: &OwnedFd,
) -> NoticeOf<C> {
    let notice = patiently(|limit| {
        let is_readable = is_fd_readable_within(descriptor, limit);
        is_readable.then(|| client.next(Duration::ZERO).unwrap()).flatten()
    });
    notice.expect("no notice came")
}

fn the_descriptor_outlives_the_daemon_and_tells_when_there_is_something_to_do(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint));
    client.set_up(CmapTracker::new("polled.", TrackEvents::ALL | TrackEvents::PREFIX)).unwrap();
    let descriptor = client.descriptor().unwrap();
    let other = client.descriptor().unwrap();
    assert!(client.next_attempt_at().is_some_and(|at| at <= Instant::now()));
    assert!(matches!(
        next_when_readable(&mut client, &descriptor),
        Notice::Up(Up { gap: None, .. })
    ));
    for round in 0..2_u8 {
        assert_eq!(client.next_attempt_at(), None);
        assert!(client.next(Duration::ZERO).unwrap().is_none());
        assert!(!is_fd_readable(&descriptor) && !is_fd_readable(&other));
        client.client().unwrap().set("polled.key", round).unwrap();
        assert!(matches!(next_when_readable(&mut client, &descriptor), Notice::Event(_)));

        host.kill();
        assert!(matches!(next_when_readable(&mut client, &descriptor), Notice::Lost { .. }));
        for _ in 0..3 {
            let Notice::Retry { error: Error::NoSocket { .. }, .. } =
                next_when_readable(&mut client, &descriptor)
            else {
                panic!("somebody listens")
            };
            assert!(client.next_attempt_at().is_some());
        }
        host.start();
        // Clients can connect now. So what follows is how late this one does.
        let started = Instant::now();
        let up = loop {
            match next_when_readable(&mut client, &descriptor) {
                Notice::Up(up) => break up,
                Notice::Retry { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        report("from a daemon that is back to a client that is up", vec![started.elapsed()]);
        assert!(up.gap.is_some() && up.restored[0].result.is_ok());
    }
}

fn a_waker_and_a_request_that_loses_the_connection_make_the_descriptor_readable(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint));
    let descriptor = client.descriptor().unwrap();
    up(&mut client);
    let waker = client.waker().unwrap();
    assert!(!is_fd_readable(&descriptor));
    waker.wake();
    assert!(is_fd_readable(&descriptor));
    assert!(client.next(Duration::ZERO).unwrap().is_none());
    assert!(client.next(Duration::ZERO).unwrap().is_none());
    assert!(!is_fd_readable(&descriptor));

    let paused = host.pause();
    client.client().unwrap().set_request_timeout(Duration::from_millis(20));
    client.set_up(CmapTracker::new("late.", TrackEvents::ALL | TrackEvents::PREFIX)).unwrap();
    let lost = next_when_readable(&mut client, &descriptor);
    assert!(matches!(lost, Notice::Lost { error: Error::TimedOut { .. } }), "{lost:?}");
    drop(paused);
    assert!(matches!(
        next_when_readable(&mut client, &descriptor),
        Notice::Up(_) | Notice::Retry { .. }
    ));
}

fn a_supervised_client_fits_a_dispatcher(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint));
    client.set_up(CmapTracker::new("dispatched.", TrackEvents::ALL | TrackEvents::PREFIX)).unwrap();
    let mut dispatcher = Dispatcher::new().unwrap();
    let handler = |seen: &mut Vec<&str>,
                   notice: Result<NoticeOf<cmap::Client>, Error>,
                   client: &mut Supervised<cmap::Client>,
                   _: &mut Control<'_, _>| {
        match notice.unwrap() {
            Notice::Up(_) => {
                seen.push("up");
                // The client of the moment is at hand, also for requests.
                client.client().unwrap().set("dispatched.key", 1_u8).unwrap();
            }
            Notice::Event(_) => seen.push("event"),
            Notice::Lost { .. } => seen.push("lost"),
            // How many of these come depends on how long the daemon takes.
            Notice::Retry { .. } if seen.last() != Some(&"retry") => seen.push("retry"),
            _ => {}
        }
        if seen.iter().filter(|what| **what == "event").count() == 2 {
            Break(())
        } else {
            Continue(())
        }
    };
    dispatcher.add_supervised(client, handler).unwrap();
    let mut seen = Vec::new();
    let mut until = |seen: &mut Vec<&'static str>, last: &str| {
        let came = patiently(|limit| {
            dispatcher.round(seen, limit).unwrap();
            (seen.last() == Some(&last)).then_some(())
        });
        assert!(came.is_some(), "{last} did not come after {seen:?}");
    };
    until(&mut seen, "event");
    host.kill();
    until(&mut seen, "retry");
    host.start();
    // The key is set a second time, or anew.
    until(&mut seen, "event");
    assert_eq!(seen, ["up", "event", "lost", "retry", "up", "event"]);
    assert!(dispatcher.is_empty(), "its handler broke");
}

fn quickly(_: u32) -> Duration {
    Duration::from_millis(20)
}

fn trackers_of_cmap_outlive_the_daemon_and_keep_their_names(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint)).backoff(quickly);
    let tracker = CmapTracker::new("supervised.", TrackEvents::ALL | TrackEvents::PREFIX);
    // Known before there is a connection, and after.
    client.set_up(tracker.clone()).unwrap();
    assert!(matches!(client.client(), Err(Error::NotConnected { .. })));
    let first = up(&mut client);
    assert!(first.gap.is_none());
    assert!(
        matches!(&*first.restored, [one] if one.setup == tracker && one.result.is_ok() && one.missed == Missed::Nothing)
    );
    let late = CmapTracker::new("late.key", TrackEvents::ALL);
    client.set_up(late.clone()).unwrap();

    client.client().unwrap().set("supervised.a", 1_u8).unwrap();
    client.client().unwrap().set("late.key", 2_u8).unwrap();
    for expected in [&tracker, &late] {
        let cmap::Event::Notification(change) = event(&mut client) else { panic!("unknown") };
        assert_eq!(
            (change.tracker, change.key.starts_with(expected.key())),
            (expected.tracker(), true)
        );
    }

    // What the daemon left comes before the loss.
    (0..10_u8).for_each(|number| client.client().unwrap().set("supervised.b", number).unwrap());
    host.kill();
    let (events, error) = events_until_lost(&mut client);
    assert_eq!(events.len(), 10);
    assert!(matches!(error, Error::Disconnected { .. }));
    assert!(client.client().is_err());
    assert!(matches!(
        next(&mut client),
        Notice::Retry { attempts: 1, error: Error::NoSocket { .. }, .. }
    ));
    assert!(matches!(next(&mut client), Notice::Retry { attempts: 2, .. }));
    // Nobody hears of this one.
    host.start();
    cmap::Client::connect_to(&host.endpoint()).unwrap().set("supervised.unheard", 1_u8).unwrap();

    let again = up(&mut client);
    assert!(again.gap.is_some_and(|gap| gap > Duration::from_millis(20)), "{again:?}");
    let restored: Vec<_> =
        again.restored.iter().map(|one| (&one.setup, one.result.is_ok(), one.missed)).collect();
    assert_eq!(restored, [(&tracker, true, Missed::Changes), (&late, true, Missed::Changes)]);
    client.client().unwrap().set("supervised.c", 3_u8).unwrap();
    let cmap::Event::Notification(change) = event(&mut client) else { panic!("unknown") };
    assert_eq!((change.tracker, &*change.key), (tracker.tracker(), "supervised.c"));

    // What was taken down does not come back.
    client.take_down(&tracker).unwrap();
    assert_eq!(client.take_down(&tracker).unwrap_err().cs_error(), CsError::NotExist);
    host.kill();
    events_until_lost(&mut client);
    host.start();
    assert!(matches!(&*up(&mut client).restored, [one] if one.setup == late));
}

/// Something that clients of a service set up.
struct Example<C: Supervise> {
    connect: fn(&Endpoint) -> Result<C, Error>,
    setup: C::Setup,
    /// What may be missed of it in a gap.
    missed: Missed,
    /// Makes an event, where setting it up does not.
    make_event: fn(&C),
    is_of_setup: fn(&C::Event) -> bool,
}

trait HasExample: Supervise<Event: Debug> + Sized {
    fn example() -> Example<Self>;
}

impl HasExample for cmap::Client {
    fn example() -> Example<Self> {
        Example {
            connect: cmap::Client::connect_to,
            setup: CmapTracker::new("supervised.one", TrackEvents::ALL),
            missed: Missed::Changes,
            make_event: |client| client.set("supervised.one", 1_u8).unwrap(),
            is_of_setup: |event| matches!(event, cmap::Event::Notification(change) if change.key == "supervised.one"),
        }
    }
}

impl HasExample for cpg::Client {
    fn example() -> Example<Self> {
        Example {
            connect: cpg::Client::connect_to,
            setup: GroupName::new("supervised").unwrap(),
            missed: Missed::Messages,
            make_event: |client| client.multicast(Guarantee::AGREED, b"message").unwrap(),
            is_of_setup: |event| matches!(event, cpg::Event::Deliver(cpg::Deliver { payload, .. }) if payload == "message"),
        }
    }
}

impl HasExample for quorum::Client {
    fn example() -> Example<Self> {
        Example {
            connect: quorum::Client::connect_to,
            setup: TrackFlags::CHANGES,
            missed: Missed::States,
            make_event: |_| {},
            is_of_setup: |event| matches!(event, quorum::Event::Notification(_)),
        }
    }
}

impl HasExample for votequorum::Client {
    fn example() -> Example<Self> {
        Example {
            connect: votequorum::Client::connect_to,
            setup: VotequorumTracker { context: 77, flags: TrackFlags::CHANGES },
            missed: Missed::States,
            make_event: |_| {},
            is_of_setup: |event| {
                matches!(
                    event,
                    votequorum::Event::Quorum(votequorum::QuorumNotification { context: 77, .. })
                )
            },
        }
    }
}

impl HasExample for cfg::Client {
    fn example() -> Example<Self> {
        Example {
            connect: |endpoint| {
                cfg::Client::connect_to(endpoint)
                    .inspect(|client| source::remember(client, endpoint))
            },
            setup: CfgTracker,
            missed: Missed::States,
            make_event: cfg::Client::cause,
            is_of_setup: |event| matches!(event, cfg::Event::Shutdown(_)),
        }
    }
}

impl HasExample for evs::Client {
    fn example() -> Example<Self> {
        Example {
            connect: evs::Client::connect_to,
            setup: evs::GroupName::new("supervised").unwrap(),
            missed: Missed::Messages,
            make_event: |client| client.multicast_joined(Guarantee::AGREED, b"message").unwrap(),
            is_of_setup: |event| matches!(event, evs::Event::Deliver(evs::Deliver { payload, .. }) if payload == "message"),
        }
    }
}

fn what_was_set_up_is_set_up_again_and_what_may_be_missed_is_told<C: HasExample>(host: &Host) {
    let Example { connect, setup, missed: missed_in_gap, make_event, is_of_setup } = C::example();
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || connect(&endpoint)).backoff(quickly);
    client.set_up(setup.clone()).unwrap();
    assert_eq!(client.set_up(setup.clone()).unwrap_err().cs_error(), CsError::Exist);
    for round in 0..3 {
        let Up { gap, restored } = up(&mut client);
        assert_eq!(gap.is_some(), round > 0);
        let [Restored { setup: restored, result: Ok(()), missed }] = &*restored else {
            panic!("{restored:?}")
        };
        assert_eq!(
            (restored, *missed),
            (&setup, if round == 0 { Missed::Nothing } else { missed_in_gap })
        );
        make_event(client.client().unwrap());
        while !is_of_setup(&event(&mut client)) {}
        host.kill();
        events_until_lost(&mut client);
        assert!(matches!(client.client(), Err(Error::NotConnected { .. })));
        host.start();
    }
}

/// What was set up is not, where the daemon does not know it; the connection is there all the same.
fn a_daemon_that_does_not_ask_about_shutdowns_is_supervised_too(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || cfg::Client::connect_to(&endpoint));
    client.set_up(CfgTracker).unwrap();
    match &*up(&mut client).restored {
        [Restored { result: Ok(()), .. }] => {
            assert!(host.version() >= ASKS)
        }
        [Restored { result: Err(Error::Unsupported { .. }), .. }] => assert!(host.version() < ASKS),
        other => panic!("{other:?}"),
    }
}

/// Another node multicasts numbers all the time. Whatever the supervised member does not get, a
/// notice of the loss stands in its place.
#[test]
fn no_message_is_missing_without_a_notice_of_the_loss() {
    if testbed::skip() {
        return;
    }
    const LOSSES: usize = 3;
    let cluster = Cluster::builder().nodes(2).start();
    let group = GroupName::new("numbers").unwrap();
    let sender = Arc::new(cluster.node(2).run(|| cpg::Client::connect().unwrap()));
    sender.join(&group).unwrap();
    let sending = Arc::clone(&sender);
    let sending = thread::spawn(move || {
        for number in 0_u64.. {
            // Until the client is finalized.
            let Ok(()) = sending.multicast(Guarantee::AGREED, &number.to_ne_bytes()) else {
                return;
            };
            // It is a member too.
            while let Ok(Some(_)) = sending.poll_event() {}
        }
    });
    let node = cluster.node(1);
    node.run(|| {
        let mut client = Supervised::new(cpg::Client::connect).backoff(quickly);
        client.set_up(group).unwrap();
        let (mut last, mut seen, mut lost) = (None, 0, 0);
        while lost <= LOSSES {
            match next(&mut client) {
                Notice::Event(cpg::Event::Deliver(cpg::Deliver { payload, .. })) => {
                    let number = u64::from_ne_bytes(payload[..].try_into().unwrap());
                    let expected = last.replace(number).map_or(number, |last| last + 1);
                    assert_eq!(number, expected, "lost, and nobody told");
                    seen += 1;
                    if seen == 500 {
                        node.kill();
                        node.start_unready();
                    }
                }
                Notice::Lost { .. } => (last, lost) = (None, lost + 1),
                Notice::Up(up) => {
                    seen = 0;
                    let missed = if lost == 0 { Missed::Nothing } else { Missed::Messages };
                    assert_eq!((up.gap.is_some(), up.restored[0].missed), (lost > 0, missed));
                }
                _ => {}
            }
        }
    });
    sender.finalize();
    sending.join().unwrap();
}

fn a_program_can_start_before_the_daemon_and_paces_itself_as_told(host: &Host) {
    host.kill();
    let endpoint = host.endpoint();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let pauses = Arc::clone(&asked);
    let mut client =
        Supervised::new(move || quorum::Client::connect_to(&endpoint)).backoff(move |attempts| {
            pauses.lock().unwrap().push(attempts);
            Duration::from_millis(attempts.into())
        });
    for attempt in 1..=5 {
        let Notice::Retry { error, attempts, pause } = next(&mut client) else {
            panic!("no attempt failed")
        };
        assert!(matches!(error, Error::NoSocket { .. }), "{error}");
        assert_eq!((attempts, pause), (attempt, Duration::from_millis(attempt.into())));
    }
    assert_eq!(*asked.lock().unwrap(), [1, 2, 3, 4, 5]);
    host.start();
    assert!(up(&mut client).gap.is_none());
    assert!(client.client().unwrap().is_quorate().is_ok());
}

fn a_deadline_and_a_waker_end_the_wait_with_a_connection_and_without(host: &Host) {
    let endpoint = host.endpoint();
    let mut client = Supervised::new(move || quorum::Client::connect_to(&endpoint))
        .backoff(|_| Duration::from_secs(3600));
    up(&mut client);
    for connected in [true, false] {
        assert_eq!(client.client().is_ok(), connected);
        assert!(client.next(Duration::ZERO).unwrap().is_none());
        assert!(client.next(Duration::from_millis(20)).unwrap().is_none());
        let waker = client.waker().unwrap();
        thread::scope(|scope| {
            let waiting = spawn_until_asleep(scope, || client.next(WATCHDOG).unwrap().is_none());
            waker.wake();
            assert!(waiting.join().unwrap());
        });
        if connected {
            host.kill();
            assert!(events_until_lost(&mut client).0.is_empty());
            // It was up for less than the pause.
            assert!(client.next(Duration::ZERO).unwrap().is_none());
        }
    }
}

fn what_cannot_be_set_up_is_told_and_ends_nothing(endpoint: &Endpoint) {
    let connecting = endpoint.clone();
    let mut client = Supervised::new(move || cmap::Client::connect_to(&connecting));
    let wrong = CmapTracker::new("white space", TrackEvents::ALL);
    client.set_up(wrong.clone()).unwrap();
    let connected = up(&mut client);
    assert!(
        matches!(&*connected.restored, [one] if matches!(one.result, Err(Error::InvalidArgument { .. })))
    );
    // With a connection it is refused, and not noted.
    let other = CmapTracker::new("white space", TrackEvents::ALL);
    assert!(matches!(client.set_up(other), Err(Error::InvalidArgument { .. })));
    assert_eq!(client.setups(), [wrong]);
    let small = endpoint.clone().ring_size(1);
    // An argument that is wrong for the connection would be for ever.
    let mut never = Supervised::new(move || cmap::Client::connect_to(&small));
    assert!(matches!(never.next(WATCHDOG), Err(Error::InvalidArgument { .. })));
    // Who finalizes it wants no other.
    client.client().unwrap().finalize();
    assert!(matches!(client.next(WATCHDOG), Err(Error::Finalized)));
    assert!(matches!(client.next(WATCHDOG), Err(Error::Finalized)));
}

fn a_set_up_that_times_out_loses_the_connection_after_its_events(host: &Host) {
    let endpoint = host.endpoint().connect_timeout(Duration::from_millis(100));
    let mut client = Supervised::new(move || cmap::Client::connect_to(&endpoint)).backoff(quickly);
    client.set_up(CmapTracker::new("timeout.a", TrackEvents::ALL)).unwrap();
    up(&mut client);
    (0..3_u8).for_each(|number| client.client().unwrap().set("timeout.a", number).unwrap());
    client.client().unwrap().set_request_timeout(Duration::from_millis(100));
    let paused = host.pause();
    client.set_up(CmapTracker::new("timeout.b", TrackEvents::ALL)).unwrap();
    let (events, error) = events_until_lost(&mut client);
    assert_eq!(events.len(), 3);
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(matches!(next(&mut client), Notice::Retry { .. }));
    drop(paused);
    let again = up(&mut client);
    assert!(
        again.gap.is_some()
            && again.restored.len() == 2
            && again.restored.iter().all(|one| one.result.is_ok())
    );
    client.client().unwrap().set("timeout.b", 1_u8).unwrap();
    event(&mut client);
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc::channel;

    use corosync_ipc::supervise::AsyncSupervised;
    use futures_core::Stream;
    use tokio::runtime;
    use tokio::time::timeout;

    use super::*;

    testbed::on_each_host! {
        a_client_of_tokio_goes_on_after_the_daemon_was_killed;
        something_set_up_while_connecting_is_set_up;
    }

    /// The next notice, by waits that are cancelled all the time.
    async fn next<C: Supervise>(client: &mut AsyncSupervised<C>) -> NoticeOf<C> {
        let patience = Patience::new();
        loop {
            if let Ok(notice) = timeout(Duration::from_millis(2), client.next()).await {
                return notice.unwrap();
            }
            assert!(!patience.is_over(), "no notice came");
        }
    }

    fn a_client_of_tokio_goes_on_after_the_daemon_was_killed(host: &Host) {
        let endpoint = host.endpoint();
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let attempts = Arc::new(AtomicU32::new(0));
            let counter = Arc::clone(&attempts);
            let mut client = AsyncSupervised::<cmap::Client>::new(move || {
                counter.fetch_add(1, Ordering::SeqCst);
                cmap::Client::connect_to(&endpoint)
            })
            .backoff(quickly);
            let tracker = CmapTracker::new("supervised.", TrackEvents::ALL | TrackEvents::PREFIX);
            client.set_up(tracker.clone()).await.unwrap();
            assert!(matches!(next(&mut client).await, Notice::Up(up) if up.gap.is_none() && up.restored.len() == 1));
            let late = CmapTracker::new("late.key", TrackEvents::ALL);
            client.set_up(late.clone()).await.unwrap();
            assert_eq!(attempts.load(Ordering::SeqCst), 1, "an attempt was not given up");
            for round in 0..2_u8 {
                for number in 0..5_u8 {
                    let requests = client.client().unwrap().clone();
                    requests.call(move |cmap| cmap.set("supervised.key", round * 10 + number)).await.unwrap();
                }
                host.kill();
                for _ in 0..5 {
                    let notice = next(&mut client).await;
                    assert!(
                        matches!(&notice, Notice::Event(cmap::Event::Notification(change))
                            if change.tracker == tracker.tracker()),
                        "{notice:?}"
                    );
                }
                assert!(matches!(next(&mut client).await, Notice::Lost { error: Error::Disconnected { .. } }));
                assert!(matches!(next(&mut client).await, Notice::Retry { attempts: 1, .. }));
                assert!(client.client().is_err());
                let stats = client.stats();
                assert_eq!(stats.gaps, u64::from(round) + 1);
                assert!(stats.connections.requests > 1 && stats.connections.events > 0);
                host.start();
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
    }

    fn something_set_up_while_connecting_is_set_up(endpoint: &Endpoint) {
        let endpoint = endpoint.clone();
        let (open, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
            let mut client = AsyncSupervised::<cpg::Client>::new(move || {
                // Until the test goes on.
                let _ = gate.lock().unwrap().recv();
                cpg::Client::connect_with(&endpoint, cpg::Options::new().pid(77))
            });
            // Begins an attempt, and does not wait for it.
            assert!(timeout(Duration::ZERO, client.next()).await.is_err());
            client.set_up(GroupName::new("while connecting").unwrap()).await.unwrap();
            drop(open);
            loop {
                match next(&mut client).await {
                    Notice::Up(up) => {
                        break assert!(matches!(&*up.restored, [one] if one.result.is_ok()));
                    }
                    Notice::Retry { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(matches!(next(&mut client).await, Notice::Event(cpg::Event::Confchg(_))));
        });
    }
}
