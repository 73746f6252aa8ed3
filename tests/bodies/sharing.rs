//! Threads: many on one client, and small ones.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{self, Event, Map, TrackEvents, Value};
use corosync_ipc::{Dispatch, Endpoint, Error, NodeId, RingId, TrackFlags, quorum, votequorum};

use super::{LIMIT, next, waiting};

pub fn threads_share_a_client_while_one_dispatches(endpoint: &Endpoint) {
    const THREADS: u32 = 6;
    const ROUNDS: u32 = 300;
    let prefix = "threads_share_a_client.";
    let client = cmap::Client::connect_to(endpoint).unwrap();
    client.track_add(prefix, TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let told = AtomicU32::new(0);
    thread::scope(|scope| {
        let dispatcher = scope.spawn(|| {
            client.dispatch(Dispatch::Blocking, |event| {
                let Event::Notify(notification) = event else { panic!("{event:?}") };
                assert!(notification.key.starts_with(prefix));
                told.fetch_add(1, Ordering::SeqCst);
                std::ops::ControlFlow::Continue(())
            })
        });
        let requesters: Vec<_> = (0..THREADS)
            .map(|thread| {
                let client = &client;
                scope.spawn(move || {
                    let key = format!("{prefix}{thread}");
                    for round in 1..=ROUNDS {
                        // Answers of different lengths and to different questions.
                        let text = format!("{thread} {round} {}", "x".repeat((round * 7 % 1500) as usize));
                        client.set(&key, text.clone()).unwrap();
                        assert_eq!(client.get(&key).unwrap(), Some(Value::from(text)));
                        assert_eq!(client.get(&format!("{key}.none")).unwrap(), None);
                    }
                    assert_eq!(client.list(&key).unwrap().len(), 1);
                    client.delete(&key).unwrap();
                })
            })
            .collect();
        for requester in requesters {
            requester.join().unwrap();
        }
        let deadline = std::time::Instant::now() + LIMIT;
        while told.load(Ordering::SeqCst) < THREADS * (ROUNDS + 1) {
            assert!(std::time::Instant::now() < deadline && !dispatcher.is_finished(), "{told:?}");
            thread::yield_now();
        }
        client.finalize();
        assert!(matches!(dispatcher.join().unwrap(), Err(Error::Finalized)));
    });
    assert_eq!(told.load(Ordering::SeqCst), THREADS * (ROUNDS + 1));
}

/// Calls everything there is, whatever comes of it, on a stack of 64 KiB.
pub fn a_small_stack_is_enough(endpoint: &Endpoint) {
    let endpoint = endpoint.clone();
    let thread = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        call_cmap(&endpoint);
        call_quorum(&endpoint);
        call_votequorum(&endpoint);
    });
    thread.unwrap().join().unwrap();
}

fn call_cmap(endpoint: &Endpoint) {
    let key = "a_small_stack_is_enough";
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
    let _ = cmap::Client::connect_map(endpoint, Map::Stats).map(|client| client.list("").unwrap());
    client.finalize();
    drop(client);
}

fn call_quorum(endpoint: &Endpoint) {
    let client = quorum::Client::connect_to(endpoint).unwrap();
    client.is_quorate().unwrap();
    client.track_start(TrackFlags::CHANGES).unwrap();
    next(&client);
    client.track_stop().unwrap();
    if let Ok(client) = quorum::Client::connect_model(endpoint, quorum::Model::V1) {
        client.track_start(TrackFlags::CURRENT).unwrap();
        assert_eq!(waiting(&client).len(), 2);
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
