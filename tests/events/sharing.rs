//! One client, many threads, for a while.

use std::collections::HashMap;
use std::env;
use std::ops::ControlFlow::Continue;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{Client, Event, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::supervise::{CmapTracker, Notice, Supervised};
use corosync_ipc::{Control, Dispatch, Dispatcher, Endpoint, Error};

use crate::harness::{self, WATCHDOG, eventually};

const THREADS: u64 = 8;

/// How long: `COROSYNC_IPC_TEST_SECONDS`, by default 5 s.
fn duration() -> Duration {
    Duration::from_secs(env::var("COROSYNC_IPC_TEST_SECONDS").map_or(5, |seconds| seconds.parse().unwrap()))
}

/// A value of this thread's that no other request is answered with, of a length that varies.
fn value(thread: u64, round: u64) -> String {
    format!("{thread}:{round}:{}", "x".repeat(usize::try_from((round * 131 + thread * 17) % 900).unwrap()))
}

#[test]
fn eight_threads_of_requests_and_one_of_events_lose_double_and_mix_up_nothing() {
    if harness::skip() {
        return;
    }
    harness::shared_one().node(1).run(|| share(&Endpoint::new(), duration()));
}

/// What the C libraries need more than a MiB for.
#[test]
fn a_stack_of_64_kib_is_enough_for_groups_loops_and_supervision() {
    if harness::skip() {
        return;
    }
    let small = || {
        let group = GroupName::new("small.stack").unwrap();
        let client = Arc::new(cpg::Client::connect_with(&Endpoint::new(), cpg::Options::new().pid(64)).unwrap());
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
        assert!(client.membership(&group).unwrap().len() == 1 && client.iter(cpg::Iteration::All).unwrap().count() > 0);
        let mut dispatcher = Dispatcher::<usize>::new().unwrap();
        let handler = |length: &mut usize, event: Result<_, Error>, control: &mut Control<'_, usize>| {
            if let cpg::Event::Deliver { payload, .. } = event.unwrap() {
                *length = payload.len();
                control.stop();
            }
            Continue(())
        };
        dispatcher.add(Arc::clone(&client), handler).unwrap();
        let mut length = 0;
        dispatcher.run(&mut length).unwrap();
        assert_eq!(length, sent);
        client.leave(&group).unwrap();
        let mut supervised = Supervised::new(Client::connect);
        supervised.set_up(CmapTracker::new("small.stack", TrackEvents::ALL)).unwrap();
        assert!(matches!(supervised.next(WATCHDOG).unwrap(), Some(Notice::Up(_))));
        supervised.client().unwrap().set("small.stack", "x".repeat(10_000)).unwrap();
        assert!(matches!(supervised.next(WATCHDOG).unwrap(), Some(Notice::Event(_))));
    };
    harness::shared_one().node(1).run(|| {
        thread::Builder::new().stack_size(64 << 10).spawn(small).unwrap().join().unwrap();
    });
}

fn share(endpoint: &Endpoint, duration: Duration) {
    let client = Client::connect_to(endpoint).unwrap();
    client.track_add("sharing.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let (events, end) = (AtomicU64::new(0), Instant::now() + duration);
    thread::scope(|scope| {
        let dispatching = scope.spawn(|| {
            // The rounds of each thread's key come in order, each once: the events of one client are in the order of its changes.
            let mut seen = HashMap::new();
            let result = client.dispatch(Dispatch::Blocking, |event| {
                let Event::Notify(change) = event else { panic!("{event:?}") };
                let thread: u64 = change.key.strip_prefix("sharing.").unwrap().parse().unwrap();
                let last: &mut u64 = seen.entry(thread).or_default();
                let old = (*last > 0).then(|| Value::from(value(thread, *last)));
                *last += 1;
                assert_eq!((change.new_value, change.old_value), (Some(Value::from(value(thread, *last))), old));
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
                        assert_eq!(client.get(&key).unwrap(), Some(Value::from(value(thread, round))));
                        assert_eq!(client.get(&format!("none.{thread}")).unwrap(), None);
                    }
                    round
                })
            })
            .collect();
        let rounds: u64 = requesting.into_iter().map(|thread| thread.join().unwrap()).sum();
        eventually("every event", || events.load(Ordering::SeqCst) == rounds || dispatching.is_finished());
        // One that should not be there would still come.
        client.get("totem.cluster_name").unwrap();
        client.finalize();
        dispatching.join().unwrap();
        assert_eq!(events.load(Ordering::SeqCst), rounds);
        println!("{} requests of {THREADS} threads, {rounds} events in {duration:?}", rounds * 3);
    });
}
