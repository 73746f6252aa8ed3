//! The dispatcher: many clients on one thread.

use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap;
use corosync_ipc::quorum;
use corosync_ipc::votequorum;
use corosync_ipc::{Deadline, Dispatcher, Endpoint, Error, Round};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testbed::{Host, WATCHDOG, eventually, patiently};

use crate::source::Source;

testbed::on_each_host! {
    clients_of_all_services_share_a_thread_and_a_state;
    a_busy_client_does_not_keep_others_waiting;
    handlers_add_and_remove_clients;
    a_handler_that_removes_its_own_client_is_not_called_again;
    the_same_client_twice_is_an_argument_that_is_wrong;
    a_waker_runs_something_on_the_dispatchers_thread_and_stops_it;
    the_dispatchers_descriptor_is_readable_while_there_is_something_to_do;
    a_panic_in_a_handler_leaves_the_others_alone;
    the_end_of_a_connection_is_told_and_the_client_removed;
}

fn clients_of_all_services_share_a_thread_and_a_state(endpoint: &Endpoint) {
    #[derive(Default)]
    struct Seen {
        cmap: usize,
        quorum: usize,
        votequorum: usize,
    }
    let cmap = Arc::new(cmap::Client::quiet(endpoint));
    let quorum = Arc::new(quorum::Client::quiet(endpoint));
    let votequorum = Arc::new(votequorum::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::new().unwrap();
    dispatcher
        .add(Arc::clone(&cmap), |seen: &mut Seen, event, _| {
            event.unwrap();
            seen.cmap += 1;
            Continue(())
        })
        .unwrap();
    dispatcher
        .add(Arc::clone(&quorum), |seen, event, _| {
            event.unwrap();
            seen.quorum += 1;
            Continue(())
        })
        .unwrap();
    dispatcher
        .add(Arc::clone(&votequorum), |seen, event, control| {
            event.unwrap();
            seen.votequorum += 1;
            if seen.cmap >= 3 && seen.quorum >= 3 && seen.votequorum >= 3 {
                control.stop();
            }
            Continue(())
        })
        .unwrap();
    assert_eq!(dispatcher.len(), 3);
    let mut seen = Seen::default();
    assert_eq!(dispatcher.round(&mut seen, Duration::ZERO).unwrap(), Round::TimedOut);
    for _ in 0..3 {
        cmap::Client::cause(&cmap);
        quorum::Client::cause(&quorum);
    }
    while seen.cmap < 3 || seen.quorum < 3 {
        let round = patiently(|limit| {
            Some(dispatcher.round(&mut seen, limit).unwrap())
                .filter(|round| *round != Round::TimedOut)
        });
        assert_eq!(round, Some(Round::Busy));
    }
    (0..3).for_each(|_| votequorum::Client::cause(&votequorum));
    dispatcher.run(&mut seen).unwrap();
    assert!((seen.cmap, seen.quorum) == (3, 3) && seen.votequorum >= 3);
}

fn a_busy_client_does_not_keep_others_waiting(endpoint: &Endpoint) {
    let (busy, calm) =
        (Arc::new(quorum::Client::quiet(endpoint)), Arc::new(cmap::Client::quiet(endpoint)));
    let mut dispatcher = Dispatcher::new().unwrap();
    let again = Arc::clone(&busy);
    dispatcher
        .add(Arc::clone(&busy), move |seen: &mut (usize, Option<usize>), event, _| {
            event.unwrap();
            seen.0 += 1;
            // There is always one more.
            quorum::Client::cause(&again);
            Continue(())
        })
        .unwrap();
    dispatcher
        .add(Arc::clone(&calm), |seen, event, control| {
            event.unwrap();
            seen.1 = Some(seen.0);
            control.stop();
            Continue(())
        })
        .unwrap();
    (0..100).for_each(|_| quorum::Client::cause(&busy));
    cmap::Client::cause(&calm);
    let mut seen = (0, None);
    dispatcher.run(&mut seen).unwrap();
    assert!(
        seen.1.unwrap() <= 32,
        "the calm client came after {:?} events of the busy one",
        seen.1
    );
}

fn handlers_add_and_remove_clients(endpoint: &Endpoint) {
    let first = Arc::new(cmap::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::new().unwrap();
    let to_open = endpoint.clone();
    let first_id = dispatcher
        .add(Arc::clone(&first), move |seen: &mut Vec<&str>, event, control| {
            event.unwrap();
            seen.push("first");
            if seen.len() == 1 {
                let second = quorum::Client::quiet(&to_open);
                quorum::Client::cause(&second);
                let added = control.add(second, |seen: &mut Vec<&str>, event, _| {
                    event.unwrap();
                    seen.push("second");
                    Break(())
                });
                added.unwrap();
            }
            Continue(())
        })
        .unwrap();
    cmap::Client::cause(&first);
    let mut seen = Vec::new();
    while dispatcher.len() == 2 || seen.len() < 2 {
        dispatcher.round(&mut seen, WATCHDOG).unwrap();
    }
    assert_eq!(seen, ["first", "second"]);
    assert_eq!(dispatcher.len(), 1, "the handler of the second broke");
    assert!(dispatcher.remove(first_id));
    assert!(!dispatcher.remove(first_id));
    // Nothing is left to wait for.
    dispatcher.run(&mut seen).unwrap();
    cmap::Client::cause(&first);
    assert_eq!(dispatcher.round(&mut seen, Duration::ZERO).unwrap(), Round::TimedOut);
    assert!(first.poll_event().unwrap().is_some());
}

fn a_handler_that_removes_its_own_client_is_not_called_again(endpoint: &Endpoint) {
    let client = Arc::new(cmap::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::new().unwrap();
    let dropped = Arc::new(AtomicBool::new(false));
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let on_drop = OnDrop(Arc::clone(&dropped));
    let mut state: (usize, Option<corosync_ipc::ClientId>) = (0, None);
    let id = dispatcher
        .add(
            Arc::clone(&client),
            move |state: &mut (usize, Option<corosync_ipc::ClientId>), event, control| {
                event.unwrap();
                state.0 += 1;
                assert!(!on_drop.0.load(Ordering::SeqCst));
                assert!(control.remove(state.1.unwrap()));
                assert!(!control.remove(state.1.unwrap()));
                Continue(())
            },
        )
        .unwrap();
    state.1 = Some(id);
    (0..5).for_each(|_| cmap::Client::cause(&client));
    dispatcher.run(&mut state).unwrap();
    assert!(state.0 == 1 && dispatcher.is_empty() && dropped.load(Ordering::SeqCst));
}

fn the_same_client_twice_is_an_argument_that_is_wrong(endpoint: &Endpoint) {
    let client = Arc::new(cmap::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::<()>::new().unwrap();
    dispatcher.add(Arc::clone(&client), |_, _, _| Continue(())).unwrap();
    let error = dispatcher.add(Arc::clone(&client), |_, _, _| Continue(())).unwrap_err();
    assert!(matches!(error, Error::InvalidArgument { argument: "client", .. }), "{error}");
}

fn a_waker_runs_something_on_the_dispatchers_thread_and_stops_it(endpoint: &Endpoint) {
    let client = Arc::new(cmap::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::<Vec<u32>>::new().unwrap();
    let added = Arc::clone(&client);
    dispatcher.add(quorum::Client::quiet(endpoint), |_, _, _| Continue(())).unwrap();
    let waker = dispatcher.waker();
    let thread = thread::spawn(move || {
        let mut state = Vec::new();
        dispatcher.run(&mut state).unwrap();
        (dispatcher, state)
    });
    for number in 0..100 {
        assert!(waker.run(move |state, _| state.push(number)));
    }
    let (told, events) = mpsc::channel();
    assert!(waker.run(move |_, control| {
        let added = control.add(added, move |_, event, _| {
            event.unwrap();
            told.send(thread::current().id()).unwrap();
            Continue(())
        });
        added.unwrap();
    }));
    cmap::Client::cause(&client);
    assert_eq!(patiently(|limit| events.recv_timeout(limit).ok()), Some(thread.thread().id()));
    waker.clone().stop();
    let (dispatcher, state) = thread.join().unwrap();
    assert_eq!(state, (0..100).collect::<Vec<_>>());
    drop(dispatcher);
    assert!(!waker.run(|_, _| unreachable!("the dispatcher is gone")));
}

#[test]
fn a_stop_before_the_run_counts_and_what_was_sent_is_run_without_clients() {
    let mut dispatcher = Dispatcher::<usize>::new().unwrap();
    let waker = dispatcher.waker();
    waker.stop();
    assert_eq!(dispatcher.round(&mut 0, Deadline::NEVER).unwrap(), Round::Stopped);
    let mut count = 0;
    let again = waker.clone();
    assert!(waker.run(move |count, _| {
        *count += 1;
        assert!(again.run(|count, _| *count += 10));
    }));
    dispatcher.run(&mut count).unwrap();
    assert_eq!(count, 11);
}

#[test]
fn a_task_that_was_not_run_is_dropped_with_the_dispatcher() {
    let dispatcher = Dispatcher::<()>::new().unwrap();
    let waker = dispatcher.waker();
    let held = Arc::new(());
    let (holding, again) = (Arc::clone(&held), waker.clone());
    assert!(waker.run(move |_, _| drop((holding, again))));
    drop(dispatcher);
    assert_eq!(Arc::strong_count(&held), 1);
}

fn the_dispatchers_descriptor_is_readable_while_there_is_something_to_do(endpoint: &Endpoint) {
    let client = Arc::new(cmap::Client::quiet(endpoint));
    let mut dispatcher = Dispatcher::<usize>::new().unwrap();
    dispatcher
        .add(Arc::clone(&client), |count: &mut usize, event, _| {
            event.unwrap();
            *count += 1;
            Continue(())
        })
        .unwrap();
    let readable = |dispatcher: &Dispatcher<usize>, timeout: PollTimeout| {
        let mut fds = [PollFd::new(dispatcher.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).unwrap() == 1
    };
    assert!(!readable(&dispatcher, PollTimeout::ZERO));
    (0..100).for_each(|_| cmap::Client::cause(&client));
    let mut count = 0;
    while count < 100 {
        assert!(readable(&dispatcher, PollTimeout::NONE));
        dispatcher.round(&mut count, Duration::ZERO).unwrap();
    }
    // What remains readable without an event ends by itself.
    eventually("quiet", || {
        let quiet = !readable(&dispatcher, PollTimeout::ZERO);
        dispatcher.round(&mut count, Duration::ZERO).unwrap();
        quiet
    });
    assert_eq!(count, 100);
}

fn a_panic_in_a_handler_leaves_the_others_alone(endpoint: &Endpoint) {
    let (bad, good) =
        (Arc::new(cmap::Client::quiet(endpoint)), Arc::new(quorum::Client::quiet(endpoint)));
    let mut dispatcher = Dispatcher::<usize>::new().unwrap();
    dispatcher.add(Arc::clone(&bad), |_, _, _| panic!("as asked for")).unwrap();
    dispatcher
        .add(Arc::clone(&good), |count: &mut usize, event, _| {
            event.unwrap();
            *count += 1;
            Continue(())
        })
        .unwrap();
    cmap::Client::cause(&bad);
    let mut count = 0;
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| dispatcher.run(&mut count)));
    assert!(panicked.is_err());
    cmap::Client::cause(&bad);
    quorum::Client::cause(&good);
    while count == 0 || dispatcher.len() == 2 {
        dispatcher.round(&mut count, WATCHDOG).unwrap();
    }
    assert_eq!((count, dispatcher.len()), (1, 1));
}

fn the_end_of_a_connection_is_told_and_the_client_removed(host: &Host) {
    let endpoint = host.endpoint();
    let mut dispatcher = Dispatcher::<Vec<String>>::new().unwrap();
    let client = Arc::new(cmap::Client::quiet(&endpoint));
    let finalized = Arc::new(cmap::Client::quiet(&endpoint));
    let events = Arc::new(AtomicUsize::new(0));
    for client in [&client, &finalized] {
        let events = Arc::clone(&events);
        dispatcher
            .add(
                Arc::clone(client),
                move |ends: &mut Vec<String>, event: Result<cmap::Event, Error>, _| {
                    match event {
                        Ok(_) => _ = events.fetch_add(1, Ordering::Relaxed),
                        Err(error) => ends.push(error.to_string()),
                    }
                    Continue(())
                },
            )
            .unwrap();
    }
    let mut ends = Vec::new();
    finalized.finalize();
    while ends.is_empty() {
        dispatcher.round(&mut ends, WATCHDOG).unwrap();
    }
    assert_eq!((ends.as_slice(), dispatcher.len()), (&[Error::Finalized.to_string()][..], 1));
    (0..50).for_each(|_| cmap::Client::cause(&client));
    host.kill();
    dispatcher.run(&mut ends).unwrap();
    assert_eq!(events.load(Ordering::Relaxed), 50, "what the daemon left was not handed over");
    assert_eq!(
        ends[1..],
        [Error::Disconnected { service: "cmap".into(), truncated: None, stage: None }.to_string()]
    );
    assert!(dispatcher.is_empty());
}
