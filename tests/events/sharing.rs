//! One client and many threads, for a while; and small threads.

use std::collections::HashMap;
use std::ops::ControlFlow::Continue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, Client, Event, Map, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::supervise::{CmapTracker, Notice, Supervised};
use corosync_ipc::{Control, Dispatch, Dispatcher, Endpoint, Error, NodeId, RingId, TrackFlags};
use corosync_ipc::{cfg, evs, quorum, votequorum};
use testbed::{Setup, eventually, next, patiently, test_seconds, version, waiting};

use crate::source::{ASKS, SHUTDOWN, Source};

testbed::on_each_host! {
    threads_share_a_client_while_one_dispatches;
    a_stack_of_64_kib_is_enough, Setup::new().alone(&SHUTDOWN);
}

const THREADS: u64 = 8;

/// A value of this thread's that no other request is answered with, of a length that varies.
fn value(thread: u64, round: u64) -> String {
    format!(
        "{thread}:{round}:{}",
        "x".repeat(usize::try_from((round * 131 + thread * 17) % 900).unwrap())
    )
}

fn threads_share_a_client_while_one_dispatches(endpoint: &Endpoint) {
    let duration = Duration::from_secs(test_seconds());
    let client = Client::connect_to(endpoint).unwrap();
    client.track_add("sharing.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let (events, end) = (AtomicU64::new(0), Instant::now() + duration);
    thread::scope(|scope| {
        let dispatching = scope.spawn(|| {
            // The rounds of each thread's key come in order, each once: the events of one client
            // are in the order of its changes.
            let mut seen = HashMap::new();
            let result = client.dispatch(Dispatch::Blocking, |event| {
                let Event::Notification(change) = event else { panic!("{event:?}") };
                let thread: u64 = change.key.strip_prefix("sharing.").unwrap().parse().unwrap();
                let last: &mut u64 = seen.entry(thread).or_default();
                let old = (*last > 0).then(|| Value::from(value(thread, *last)));
                *last += 1;
                assert_eq!(
                    (change.new_value, change.old_value),
                    (Some(Value::from(value(thread, *last))), old)
                );
                events.fetch_add(1, Ordering::SeqCst);
                Continue(())
            });
            assert!(matches!(result, Err(Error::Finalized)), "{result:?}");
        });
        let requesting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let client = &client;
                scope.spawn(move || {
                    let key = format!("sharing.{thread}");
                    let mut round = 0;
                    while Instant::now() < end {
                        round += 1;
                        client.set(&key, value(thread, round)).unwrap();
                        assert_eq!(
                            client.get(&key).unwrap(),
                            Some(Value::from(value(thread, round)))
                        );
                        assert_eq!(client.get(&format!("none.{thread}")).unwrap(), None);
                    }
                    round
                })
            })
            .collect();
        let rounds: u64 = requesting.into_iter().map(|thread| thread.join().unwrap()).sum();
        eventually("every event", || {
            events.load(Ordering::SeqCst) == rounds || dispatching.is_finished()
        });
        // One that should not be there would still come.
        client.get("totem.cluster_name").unwrap();
        client.finalize();
        dispatching.join().unwrap();
        assert_eq!(events.load(Ordering::SeqCst), rounds);
        println!("{} requests of {THREADS} threads, {rounds} events in {duration:?}", rounds * 3);
    });
}

/// Calls everything there is, whatever comes of it. What the C libraries need more than a MiB for.
fn a_stack_of_64_kib_is_enough(endpoint: &Endpoint) {
    let endpoint = endpoint.clone();
    let thread = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        call_cmap(&endpoint);
        call_quorum(&endpoint);
        call_votequorum(&endpoint);
        call_cpg_and_dispatcher(&endpoint);
        call_cfg(&endpoint);
        if let Ok(client) = evs::Client::connect_to(&endpoint) {
            call_evs(&client);
        }
        call_supervised(endpoint);
    });
    thread.unwrap().join().unwrap();
}

fn call_cmap(endpoint: &Endpoint) {
    let key = "small.stack";
    let _ = Endpoint::from_env().unwrap();
    let client = cmap::Client::connect_to(endpoint).unwrap();
    let tracker = client.track_add(key, TrackEvents::ALL).unwrap();
    client.set(key, "x".repeat(cmap::MAX_VALUE_SIZE)).unwrap();
    assert!(client.get_as::<String>(key).unwrap().is_some());
    assert_eq!(client.list(key).unwrap().len(), 1);
    client.set(key, 1_u8).unwrap();
    client.increment(key).unwrap();
    client.decrement(key).unwrap();
    client.adjust(key, 3).unwrap();
    client.delete(key).unwrap();
    assert!(client.iter("runtime.").unwrap().count() > 10);
    assert!(client.get("ab").unwrap_err().to_string().contains("key"));
    next(&client);
    assert!(client.events().next().unwrap().is_ok());
    client
        .dispatch(Dispatch::All, |event| {
            drop(format!("{event:?}"));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    client.track_delete(tracker).unwrap();
    client.set_request_timeout(client.request_timeout());
    drop(format!("{client:?} {:?}", client.peer_credentials()));
    let _ = cmap::Client::connect_with(endpoint, cmap::Options::new().map(Map::Stats))
        .map(|client| client.list("").unwrap());
    client.finalize();
    drop(client);
}

fn call_quorum(endpoint: &Endpoint) {
    let client = quorum::Client::connect_to(endpoint).unwrap();
    client.is_quorate().unwrap();
    client.track_start(TrackFlags::CHANGES).unwrap();
    next(&client);
    client.track_stop().unwrap();
    if let Ok(client) =
        quorum::Client::connect_with(endpoint, quorum::Options::new().model(quorum::Model::V1))
    {
        client.track_start(TrackFlags::CURRENT).unwrap();
        assert_eq!(waiting(&client).len(), 1);
    }
    assert!(client.next_event(Duration::from_millis(1)).unwrap().is_none());
}

fn call_votequorum(endpoint: &Endpoint) {
    let client = votequorum::Client::connect_to(endpoint).unwrap();
    let info = client.local_info().unwrap();
    assert!(client.info(NodeId(77)).is_err());
    client.track_start(1, TrackFlags::CHANGES).unwrap();
    next(&client);
    client.track_stop().unwrap();
    // Nothing is changed by these.
    let _ = client.set_expected(info.expected_votes);
    let _ = client.set_votes(votequorum::LOCAL_NODE, info.votes);
    let _ = client.qdevice_poll("device", true, RingId::default());
    let _ = client.qdevice_update("device", "other");
    let _ = client.qdevice_master_wins("device", true);
    let _ = client.qdevice_unregister("device");
    let _ = client.qdevice_register(&"x".repeat(300));
    let _ = client.set_qdevice_extra_info(vec![0; 5000]);
    let _ = client.qdevice_extra_info(NodeId(77));
}

fn call_cpg_and_dispatcher(endpoint: &Endpoint) {
    let group = GroupName::new("small.stack").unwrap();
    let client =
        Arc::new(cpg::Client::connect_with(endpoint, cpg::Options::new().pid(64)).unwrap());
    client.join(&group).unwrap();
    let mut sent = 3 << 20;
    match client.multicast(Guarantee::AGREED, &vec![7; sent]) {
        // Daemons of 1.99 and early ones of 2 know no fragments.
        Err(Error::Unsupported { .. }) => {
            sent = client.max_atomic_message_size();
            client.multicast(Guarantee::AGREED, &vec![7; sent]).unwrap();
        }
        result => result.unwrap(),
    }
    assert!(
        client.membership(&group).unwrap().len() == 1
            && client.iter(cpg::Iteration::All).unwrap().count() > 0
    );
    let mut dispatcher = Dispatcher::<usize>::new().unwrap();
    let handler =
        |length: &mut usize, event: Result<_, Error>, control: &mut Control<'_, usize>| {
            if let cpg::Event::Deliver(cpg::Deliver { payload, .. }) = event.unwrap() {
                *length = payload.len();
                control.stop();
            }
            Continue(())
        };
    dispatcher.add(Arc::clone(&client), handler).unwrap();
    let mut length = 0;
    dispatcher.run(&mut length).unwrap();
    assert_eq!(length, sent);
    client.try_multicast(Guarantee::AGREED, b"last").unwrap();
    client.leave(&group).unwrap();
}

fn call_cfg(endpoint: &Endpoint) {
    let client = cfg::Client::connect_to(endpoint).unwrap();
    assert_eq!(client.local_node_id().unwrap(), NodeId(1));
    assert!(
        !client.node_addresses(cfg::LOCAL_NODE).unwrap().is_empty()
            && !client.ring_status().unwrap().is_empty()
    );
    let _ = client.node_status(NodeId(1));
    let _ = client.ring_reenable();
    let _ = client.reopen_log_files();
    assert!(client.reply_to_shutdown(cfg::ShutdownAnswer::NO).is_err());
    if version() >= ASKS {
        let client = cfg::Client::quiet(endpoint);
        cfg::Client::cause(&client);
        next(&client);
        client.track_stop().unwrap();
    }
}

fn call_evs(client: &evs::Client) {
    let group = evs::GroupName::new("small.stack").unwrap();
    client.join(&[group]).unwrap();
    client.multicast_groups(Guarantee::AGREED, &[group], &vec![7; 100_000]).unwrap();
    client.multicast_joined(Guarantee::AGREED, &vec![7; evs::MAX_MESSAGE_SIZE]).unwrap();
    (0..3).for_each(|_| _ = next(client));
    assert_eq!(client.membership().unwrap().members, [NodeId(1)]);
    client.leave(&[group]).unwrap();
}

fn call_supervised(endpoint: Endpoint) {
    let mut supervised = Supervised::new(move || Client::connect_to(&endpoint));
    supervised.set_up(CmapTracker::new("small.stack", TrackEvents::ALL)).unwrap();
    assert!(matches!(patiently(|limit| supervised.next(limit).unwrap()), Some(Notice::Up(_))));
    supervised.client().unwrap().set("small.stack", "x".repeat(10_000)).unwrap();
    assert!(matches!(patiently(|limit| supervised.next(limit).unwrap()), Some(Notice::Event(_))));
}
