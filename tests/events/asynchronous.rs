//! Clients in tokio programs.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{self, Event, TrackEvents, Value};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::{AsyncClient, Endpoint, Error, ServiceClient, TrackFlags};
use corosync_ipc::{cfg, cpg, evs, quorum, votequorum};
use futures_core::Stream;
use testbed::{Host, Patience, WATCHDOG};
use tokio::runtime::{self, Runtime};
use tokio::time::{sleep, timeout};

use crate::source::{Source, drain, for_each_service};

for_each_service! {
    a_stream_has_every_event_in_order_and_is_woken_for_each;
    a_client_that_is_finalized_ends_its_stream;
}

testbed::on_each_host! {
    no_event_of_many_is_lost_or_doubled_when_waiting_is_cancelled_all_the_time;
    a_stream_that_never_ends_lets_other_tasks_run;
    many_requests_at_once_each_get_their_own_answer;
    a_request_that_is_dropped_in_flight_leaves_the_next_its_own_answer;
    requests_to_a_stopped_daemon_time_out_and_take_one_thread_only;
    a_panic_in_a_request_reaches_who_awaits_it_and_frees_the_turn;
    a_stream_ends_with_what_a_killed_daemon_left_and_disconnected;
    clients_outlive_their_runtime_and_can_be_dropped_anywhere;
}

/// One thread: whoever blocks it blocks every task.
fn one_thread() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn connect<C: Source>(endpoint: &Endpoint) -> AsyncClient<C> {
    let endpoint = endpoint.clone();
    AsyncClient::connect(move || Ok(C::quiet(&endpoint))).await.unwrap()
}

async fn cause<C: Source>(client: &AsyncClient<C>) {
    let caused = client.call(|client| {
        C::cause(client);
        Ok(())
    });
    caused.await.unwrap();
}

async fn next<T: Stream + Unpin>(stream: &mut T) -> Option<T::Item> {
    let patience = Patience::new();
    loop {
        match timeout(patience.left(), poll_fn(|cx| Pin::new(&mut *stream).poll_next(cx))).await {
            Ok(item) => return item,
            Err(_) => assert!(!patience.is_over(), "no event came"),
        }
    }
}

fn a_stream_has_every_event_in_order_and_is_woken_for_each<C: Source>(endpoint: &Endpoint) {
    one_thread().block_on(async {
        let client = connect::<C>(endpoint).await;
        let mut events = client.events().unwrap();
        cause(&client).await;
        next(&mut events).await.unwrap().unwrap();
        drain(client.client());
        for round in [1, 1, 7, 100] {
            let causing = client.clone();
            let causing = tokio::spawn(async move {
                for _ in 0..round {
                    cause(&causing).await;
                }
            });
            for _ in 0..round {
                next(&mut events).await.unwrap().unwrap();
            }
            causing.await.unwrap();
            // Of services that send several for one cause.
            drain(client.client());
        }
    });
}

fn a_client_that_is_finalized_ends_its_stream<C: Source>(endpoint: &Endpoint) {
    one_thread().block_on(async {
        let client = connect::<C>(endpoint).await;
        let mut events = client.events().unwrap();
        let waiting = tokio::spawn(async move {
            let end = next(&mut events).await;
            (end, next(&mut events).await.is_none())
        });
        // It waits by now.
        tokio::task::yield_now().await;
        client.client().finalize();
        assert!(matches!(waiting.await.unwrap(), (Some(Err(Error::Finalized)), true)));
        assert!(matches!(
            client.call(|client| Ok(client.poll_event()?.is_some())).await,
            Err(Error::Finalized)
        ));
    });
}

fn no_event_of_many_is_lost_or_doubled_when_waiting_is_cancelled_all_the_time(endpoint: &Endpoint) {
    one_thread().block_on(async {
        let client = connect::<cmap::Client>(endpoint).await;
        let key = "async.order";
        client.call(|cmap| cmap.track_add(key, TrackEvents::ALL)).await.unwrap();
        let mut events = client.events().unwrap();
        let setting = client.clone();
        let setting = tokio::spawn(async move {
            for number in 0_u32..2000 {
                setting.call(move |cmap| cmap.set(key, number)).await.unwrap();
            }
        });
        let mut expected = 0_u32;
        while expected < 2000 {
            // Most often it is dropped before an event is there.
            let Ok(event) = timeout(Duration::ZERO, events.next_event()).await else {
                tokio::task::yield_now().await;
                continue;
            };
            let Event::Notification(change) = event.unwrap() else { panic!("an unknown event") };
            assert_eq!(change.new_value, Some(expected.into()));
            expected += 1;
        }
        setting.await.unwrap();
        assert!(timeout(Duration::from_millis(20), events.next_event()).await.is_err());
    });
}

fn a_stream_that_never_ends_lets_other_tasks_run(endpoint: &Endpoint) {
    one_thread().block_on(async {
        let client = connect::<quorum::Client>(endpoint).await;
        for _ in 0..500 {
            cause(&client).await;
        }
        let mut events = client.events().unwrap();
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        let streaming = tokio::spawn(async move {
            for _ in 0..500 {
                events.next_event().await.unwrap();
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        while seen.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert!(
            seen.load(Ordering::Relaxed) < 500,
            "the stream kept the thread until it was drained"
        );
        streaming.await.unwrap();
    });
}

fn many_requests_at_once_each_get_their_own_answer(endpoint: &Endpoint) {
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let client = connect::<cmap::Client>(endpoint).await;
        let tasks: Vec<_> = (0_u32..200)
            .map(|number| {
                let client = client.clone();
                tokio::spawn(async move {
                    let key = format!("async.many.{number}");
                    let write = key.clone();
                    client.call(move |cmap| cmap.set(&write, number)).await.unwrap();
                    client.call(move |cmap| cmap.get_as::<u32>(&key)).await.unwrap()
                })
            })
            .collect();
        for (number, task) in (0_u32..).zip(tasks) {
            assert_eq!(task.await.unwrap(), Some(number));
        }
    });
}

/// Polls a future once.
async fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

fn a_request_that_is_dropped_in_flight_leaves_the_next_its_own_answer(host: &Host) {
    one_thread().block_on(async {
        let client = connect::<cmap::Client>(&host.endpoint()).await;
        for (key, value) in [("async.a", 1_u32), ("async.b", 2)] {
            client.call(move |cmap| cmap.set(key, value)).await.unwrap();
        }
        for round in 0..5 {
            let paused = host.pause();
            let begun = Arc::new(AtomicBool::new(false));
            let begin = Arc::clone(&begun);
            let mut dropped = Box::pin(client.call(move |cmap| {
                begin.store(true, Ordering::SeqCst);
                cmap.get_as::<u32>("async.a")
            }));
            // The runtime's thread goes on meanwhile.
            while !begun.load(Ordering::SeqCst) {
                assert!(poll_once(&mut dropped).await.is_pending());
                tokio::task::yield_now().await;
            }
            sleep(Duration::from_millis(10)).await;
            assert!(poll_once(&mut dropped).await.is_pending());
            drop(dropped);
            // It waits for the answer that nobody awaits.
            let never = client.call(|_| Err::<(), _>(Error::Finalized));
            assert!(timeout(Duration::from_millis(20), never).await.is_err());
            if round % 2 == 0 {
                drop(paused);
                let b = client.call(|cmap| cmap.get_as::<u32>("async.b")).await;
                assert_eq!(b.unwrap(), Some(2));
            } else {
                let next = client.call(|cmap| cmap.get_as::<u32>("async.b"));
                let resume = async { drop(paused) };
                assert_eq!(tokio::join!(next, resume).0.unwrap(), Some(2));
            }
        }
    });
}

fn requests_to_a_stopped_daemon_time_out_and_take_one_thread_only(host: &Host) {
    let runtime = runtime::Builder::new_current_thread()
        .max_blocking_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let endpoint = host.endpoint().request_timeout(Duration::from_millis(300));
        let client = connect::<cmap::Client>(&endpoint).await;
        let sent = || client.client().stats().requests;
        let before = sent();
        let paused = host.pause();
        let requests: Vec<_> = (0..50)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.call(|cmap| cmap.get("totem.token")).await })
            })
            .collect();
        // The other thread of the pool is free.
        let free = timeout(WATCHDOG, tokio::task::spawn_blocking(|| thread::current().id())).await;
        free.expect("the pool was taken up").unwrap();
        for request in requests {
            let error = request.await.unwrap().unwrap_err();
            assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        }
        assert_eq!(sent() - before, 1, "those whose turn did not come must not be sent");
        drop(paused);
        client.client().set_request_timeout(WATCHDOG);
        assert!(client.call(|cmap| cmap.get("totem.cluster_name")).await.unwrap().is_some());
    });
}

fn a_panic_in_a_request_reaches_who_awaits_it_and_frees_the_turn(endpoint: &Endpoint) {
    one_thread().block_on(async {
        let client = connect::<cmap::Client>(endpoint).await;
        let panicking = client.clone();
        let panicked =
            tokio::spawn(async move { panicking.call::<()>(|_| panic!("as asked for")).await })
                .await;
        assert!(panicked.unwrap_err().is_panic());
        assert!(client.call(|cmap| cmap.get("totem.cluster_name")).await.unwrap().is_some());
    });
}

fn a_stream_ends_with_what_a_killed_daemon_left_and_disconnected(host: &Host) {
    one_thread().block_on(async {
        let client = connect::<cmap::Client>(&host.endpoint()).await;
        for _ in 0..5 {
            cause(&client).await;
        }
        let mut events = client.events().unwrap();
        let mut other = client.events().unwrap();
        host.kill();
        for _ in 0..5 {
            next(&mut events).await.unwrap().unwrap();
        }
        let end = next(&mut events).await;
        assert!(matches!(end, Some(Err(Error::Disconnected { .. }))), "{end:?}");
        assert!(next(&mut events).await.is_none());
        assert!(matches!(other.next_event().await, Err(Error::Disconnected { .. })));
        assert!(matches!(
            client.call(|cmap| cmap.get("abc")).await,
            Err(Error::Disconnected { .. })
        ));
    });
}

/// A method for each request, borrowed arguments included.
#[test]
fn every_services_requests_can_be_awaited() {
    fn is_send<T: Send>(future: T) -> T {
        future
    }
    let corosync = Corosync::builder().evs(true).start().unwrap();
    let endpoint = corosync.endpoint();
    let awaited = async {
        let options = cmap::Options::new().map(cmap::Map::Stats);
        let stats = cmap::AsyncClient::connect_with(endpoint, options).await?;
        assert!(!stats.iter("stats.").await?.is_empty());
        let cmap = cmap::AsyncClient::connect_to(endpoint).await?;
        let mut events = cmap.events()?;
        let tracker = cmap.track_add("awaited.", TrackEvents::ALL | TrackEvents::PREFIX).await?;
        cmap.set(&format!("awaited.{}", "key"), 41_u16).await?;
        cmap.clone().increment("awaited.key").await?;
        assert_eq!(cmap.get_as::<u32>("awaited.key").await?, Some(42));
        assert_eq!(cmap.list("awaited.").await?, [("awaited.key".to_owned(), Value::U16(42))]);
        let Event::Notification(change) = events.next_event().await? else {
            panic!("a key was set")
        };
        assert_eq!((change.tracker, change.new_value), (tracker, Some(Value::U16(41))));
        cmap.track_delete(tracker).await?;

        let options = cpg::Options::new().pid(7).initial_totem_confchg(false);
        let cpg = cpg::AsyncClient::connect_with(endpoint, options).await?;
        let group = cpg::GroupName::new("awaited")?;
        let mut events = cpg.events()?;
        cpg.join(&group).await?;
        cpg.multicast_slices(cpg::Guarantee::AGREED, &[b"in ", b"parts"]).await?;
        let payload = loop {
            if let cpg::Event::Deliver(message) = events.next_event().await? {
                break message.payload;
            }
        };
        assert_eq!(payload, "in parts");
        assert_eq!(cpg.membership(&group).await?[0].pid, 7);
        assert_eq!(cpg.list(cpg::Iteration::Names).await?[0].group, group);
        cpg.leave(&group).await?;

        let options = quorum::Options::new().model(quorum::Model::V1);
        let quorum = quorum::AsyncClient::connect_with(endpoint, options).await?;
        let mut events = quorum.events()?;
        quorum.track_start(TrackFlags::CURRENT).await?;
        let quorate = quorum.is_quorate().await?;
        let first = events.next_event().await?;
        assert!(matches!(first, quorum::Event::Quorum(told) if told.quorate == quorate));

        let votequorum = votequorum::AsyncClient::connect_to(endpoint).await?;
        let info = votequorum.local_info().await?;
        assert_eq!(votequorum.info(info.node_id).await?, info);
        votequorum.qdevice_register("device").await?;
        votequorum.qdevice_update("device", "other").await?;
        votequorum.qdevice_unregister("other").await?;

        let cfg = cfg::AsyncClient::connect_to(endpoint).await?;
        assert_eq!(cfg.local_node_id().await?, info.node_id);
        assert_eq!(cfg.node_addresses(cfg::LOCAL_NODE).await?.len(), 1);
        let refused = cfg.kill_node(cfg::LOCAL_NODE, "none").await;
        assert!(matches!(refused, Err(Error::InvalidArgument { .. })));

        let evs = evs::AsyncClient::connect_to(endpoint).await?;
        let mut events = evs.events()?;
        evs.join(&[evs::GroupName::new("awaited")?]).await?;
        evs.multicast_joined(evs::Guarantee::AGREED, b"message").await?;
        assert_eq!(evs.membership().await?.members, [info.node_id]);
        while !matches!(events.next_event().await?, evs::Event::Deliver(told) if told.payload == "message")
        {
        }
        Ok::<(), Error>(())
    };
    one_thread().block_on(is_send(awaited)).unwrap();
}

fn clients_outlive_their_runtime_and_can_be_dropped_anywhere(endpoint: &Endpoint) {
    fn is_send_and_sync<T: Send + Sync>(_: &T) {}
    let (client, events) = one_thread().block_on(async {
        let client = connect::<cmap::Client>(endpoint).await;
        let events = client.events().unwrap();
        (client, events)
    });
    is_send_and_sync(&client);
    is_send_and_sync(&events);
    assert!(client.client().get("totem.cluster_name").unwrap().is_some());
    drop(client);
    let weak = Arc::downgrade(events.client());
    drop(events);
    assert!(weak.upgrade().is_none());
    assert_eq!(cmap::Client::SERVICE, "cmap");
}
