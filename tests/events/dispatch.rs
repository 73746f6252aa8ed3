//! The table of `corosync_ipc::event_loops`: what each way of dispatching returns, and when.

use std::ops::ControlFlow::{self, Break, Continue};
use std::os::unix::thread::{JoinHandleExt, RawPthread};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap;
use corosync_ipc::{CsError, Deadline, Dispatch, Endpoint, Error, Result, ServiceClient};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use testbed::{Host, eventually, next, spawn_until_asleep};

use crate::report;
use crate::source::{Source, drain, for_each_service};

const MODES: [Dispatch; 4] =
    [Dispatch::One, Dispatch::All, Dispatch::Blocking, Dispatch::OneNonblocking];
const WAITING: [Dispatch; 2] = [Dispatch::One, Dispatch::Blocking];

for_each_service! {
    modes_that_do_not_wait_say_that_nothing_waits;
    modes_that_wait_sleep_until_an_event_comes;
    all_hands_over_everything_and_one_one_event;
    a_handler_that_breaks_ends_every_mode_well;
    a_client_finalized_by_its_handler_ends_the_modes_that_go_on;
    a_finalized_client_ends_every_mode;
    a_finalize_elsewhere_ends_a_wait;
    a_signal_ends_no_mode;
    a_waker_ends_a_wait_and_the_connection_goes_on;
    a_waker_used_before_ends_the_next_wait_and_only_that;
    a_waker_ends_a_dispatch_that_always_has_events;
    a_handler_may_call_its_client_and_dispatch_and_open_others;
    a_killed_daemon_ends_every_mode_after_its_events;
    a_stopped_daemon_is_waited_for;
}

fn is_try_again(result: &Result<()>) -> bool {
    matches!(result, Err(Error::Cs { error: CsError::TryAgain, .. }))
}

/// Counts the events of one dispatch.
fn count<C: ServiceClient>(client: &C, mode: Dispatch) -> (usize, Result<()>) {
    let mut count = 0;
    let result = client.dispatch(mode, |_| {
        count += 1;
        Continue(())
    });
    (count, result)
}

fn modes_that_do_not_wait_say_that_nothing_waits<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    for _ in 0..3 {
        assert!(matches!(count(&client, Dispatch::All), (0, Ok(()))));
        let (0, result) = count(&client, Dispatch::OneNonblocking) else {
            panic!("an event from nowhere")
        };
        assert!(is_try_again(&result), "{result:?}");
        assert!(client.next_event(Duration::ZERO).unwrap().is_none());
        assert!(client.next_event(Duration::from_millis(1)).unwrap().is_none());
    }
}

fn modes_that_wait_sleep_until_an_event_comes<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    for mode in WAITING {
        thread::scope(|scope| {
            let waiter = spawn_until_asleep(scope, || client.dispatch(mode, |_| Break(())));
            assert!(!waiter.is_finished(), "{mode:?} did not wait");
            C::cause(&client);
            waiter.join().unwrap().unwrap();
        });
        drain(&client);
    }
}

fn all_hands_over_everything_and_one_one_event<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    C::cause(&client);
    let each = drain(&client);
    assert!(each > 0);
    (0..5).for_each(|_| C::cause(&client));
    assert!(matches!(count(&client, Dispatch::One), (1, Ok(()))));
    assert!(matches!(count(&client, Dispatch::OneNonblocking), (1, Ok(()))));
    assert!(client.events().next().unwrap().is_ok());
    let (counted, result) = count(&client, Dispatch::All);
    result.unwrap();
    assert_eq!(counted, 5 * each - 3);
}

fn a_handler_that_breaks_ends_every_mode_well<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    for mode in MODES {
        (0..3).for_each(|_| C::cause(&client));
        let mut handed_over = 0;
        client
            .dispatch(mode, |_| {
                handed_over += 1;
                Break(())
            })
            .unwrap();
        assert_eq!(handed_over, 1, "{mode:?}");
        assert!(drain(&client) >= 2);
    }
}

fn a_client_finalized_by_its_handler_ends_the_modes_that_go_on<C: Source>(endpoint: &Endpoint) {
    for mode in MODES {
        let client = C::quiet(endpoint);
        (0..3).for_each(|_| C::cause(&client));
        let mut handed_over = 0;
        let result = client.dispatch(mode, |_| {
            handed_over += 1;
            client.finalize();
            Continue(())
        });
        assert_eq!(handed_over, 1, "{mode:?}: nothing comes from a client that was finalized");
        match mode {
            Dispatch::One | Dispatch::OneNonblocking => result.unwrap(),
            Dispatch::All | Dispatch::Blocking => {
                assert!(matches!(result, Err(Error::Finalized)), "{result:?}")
            }
        }
    }
}

fn a_finalized_client_ends_every_mode<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    C::cause(&client);
    client.finalize();
    for mode in MODES {
        assert!(matches!(count(&client, mode), (0, Err(Error::Finalized))), "{mode:?}");
    }
    assert!(matches!(client.poll_event(), Err(Error::Finalized)));
    assert!(matches!(client.next_event(Deadline::NEVER), Err(Error::Finalized)));
    assert!(matches!(client.events().next(), Some(Err(Error::Finalized))));
    client.finalize();
}

fn a_finalize_elsewhere_ends_a_wait<C: Source>(endpoint: &Endpoint) {
    for mode in WAITING {
        let client = C::quiet(endpoint);
        thread::scope(|scope| {
            let dispatching = spawn_until_asleep(scope, || client.dispatch(mode, |_| Continue(())));
            assert!(!dispatching.is_finished(), "{mode:?} did not wait");
            client.finalize();
            assert!(matches!(dispatching.join().unwrap(), Err(Error::Finalized)), "{mode:?}");
        });
    }
}

fn a_signal_ends_no_mode<C: Source>(endpoint: &Endpoint) {
    interrupt_system_calls();
    let client = Arc::new(C::quiet(endpoint));
    for mode in WAITING {
        let (shared, ended) = (Arc::clone(&client), Arc::new(AtomicBool::new(false)));
        let end = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let result = shared.dispatch(mode, |_| Break(()));
            end.store(true, Ordering::SeqCst);
            result
        });
        for _ in 0..20 {
            interrupt(thread.as_pthread_t());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(!ended.load(Ordering::SeqCst), "a signal ended {mode:?}");
        C::cause(&client);
        thread.join().unwrap().unwrap();
        drain(&client);
    }
    // And the modes that do not wait, under fire.
    let target = pthread_self() as RawPthread;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                interrupt(target);
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(50) {
            assert!(matches!(count(&client, Dispatch::All), (0, Ok(()))));
            assert!(is_try_again(&count(&client, Dispatch::OneNonblocking).1));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Gives SIGUSR1 a handler without `SA_RESTART`, so that it interrupts what it can.
fn interrupt_system_calls() {
    extern "C" fn handler(_: i32) {}
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
}

/// Sends SIGUSR1 to a thread. musl's `pthread_t` is a pointer, glibc's and std's a number.
fn interrupt(thread: RawPthread) {
    pthread_kill(thread as Pthread, Signal::SIGUSR1).unwrap();
}

fn a_waker_ends_a_wait_and_the_connection_goes_on<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    let mut times = Vec::new();
    for mode in [WAITING; 10].concat() {
        thread::scope(|scope| {
            let dispatching = spawn_until_asleep(scope, || (count(&client, mode), Instant::now()));
            // Made only now: it ends the wait that is under way all the same.
            let waker = client.waker().unwrap();
            let woken = Instant::now();
            waker.wake();
            let ((0, Ok(())), end) = dispatching.join().unwrap() else {
                panic!("{mode:?} did not end well")
            };
            times.push(end.saturating_duration_since(woken));
        });
    }
    report(&format!("{}: from wake to the end of a dispatch", C::SERVICE), times);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| client.next_event(Deadline::NEVER));
        let iterating = scope.spawn(|| client.events().count());
        // One wake ends one wait.
        while !(waiting.is_finished() && iterating.is_finished()) {
            client.waker().unwrap().wake();
            thread::sleep(Duration::from_millis(1));
        }
        assert!(waiting.join().unwrap().unwrap().is_none());
        assert_eq!(iterating.join().unwrap(), 0);
    });
    // A wake that came too late for both.
    let _ = client.next_event(Duration::ZERO).unwrap();
    C::cause(&client);
    next(&client);
}

fn a_waker_used_before_ends_the_next_wait_and_only_that<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    let waker = client.waker().unwrap();
    waker.wake();
    waker.wake();
    // These do not wait, and so leave it alone.
    assert!(matches!(count(&client, Dispatch::All), (0, Ok(()))));
    assert!(is_try_again(&count(&client, Dispatch::OneNonblocking).1));
    assert!(matches!(count(&client, Dispatch::Blocking), (0, Ok(()))));
    C::cause(&client);
    assert!(matches!(count(&client, Dispatch::One), (1, Ok(()))));
}

fn a_waker_ends_a_dispatch_that_always_has_events<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    let waker = client.waker().unwrap();
    C::cause(&client);
    let mut handed_over = 0;
    client
        .dispatch(Dispatch::Blocking, |_| {
            handed_over += 1;
            C::cause(&client);
            if handed_over == 20 {
                waker.wake();
            }
            Continue(())
        })
        .unwrap();
    assert_eq!(handed_over, 20);
    assert!(drain(&client) > 0);
}

fn a_handler_may_call_its_client_and_dispatch_and_open_others<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    C::cause(&client);
    let each = drain(&client);
    (0..2).for_each(|_| C::cause(&client));
    let mut seen = 0;
    client
        .dispatch(Dispatch::All, |_| -> ControlFlow<()> {
            seen += 1;
            if seen <= 3 {
                // Handed over too: by this dispatch, or by the one within, which takes one that the
                // other would have.
                C::cause(&client);
                assert!(matches!(count(&client, Dispatch::One), (1, Ok(()))));
                let other = cmap::Client::quiet(endpoint);
                cmap::Client::cause(&other);
                assert!(matches!(count(&other, Dispatch::One), (1, Ok(()))));
                drop(C::quiet(endpoint));
            }
            Continue(())
        })
        .unwrap();
    assert_eq!(seen + 3, 5 * each);
}

/// What the daemon left is handed over, then every mode tells the end.
fn a_killed_daemon_ends_every_mode_after_its_events<C: Source>(host: &Host) {
    let endpoint = host.endpoint();
    let clients = MODES.map(|mode| (mode, C::quiet(&endpoint)));
    for (_, client) in &clients {
        (0..2).for_each(|_| C::cause(client));
    }
    let waiting = [WAITING; 2]
        .concat()
        .into_iter()
        .map(|mode| (mode, C::quiet(&endpoint)))
        .collect::<Vec<_>>();
    let late = C::quiet(&endpoint);
    thread::scope(|scope| {
        let ends: Vec<_> = waiting
            .iter()
            .map(|(mode, client)| {
                spawn_until_asleep(scope, move || (mode, count(client, *mode), Instant::now()))
            })
            .collect();
        let killed = Instant::now();
        host.kill();
        let times = ends.into_iter().map(|end| {
            let (mode, result, at) = end.join().unwrap();
            assert!(matches!(result, (0, Err(Error::Disconnected { .. }))), "{mode:?}: {result:?}");
            at.saturating_duration_since(killed)
        });
        report(&format!("{}: from SIGKILL to the end of a dispatch", C::SERVICE), times.collect());
    });
    for (mode, client) in &clients {
        let mut handed_over = 0;
        let end = eventually("the end is told", || match count(client, *mode) {
            (events, Err(Error::Disconnected { .. })) => Some(handed_over + events),
            (events, result) => {
                assert!(result.is_ok() || is_try_again(&result), "{mode:?}: {result:?}");
                handed_over += events;
                None
            }
        });
        assert!(end >= 2, "{mode:?}: what the daemon left was not handed over");
        assert!(matches!(count(client, *mode), (0, Err(Error::Disconnected { .. }))), "{mode:?}");
    }
    assert!(matches!(late.next_event(Deadline::NEVER), Err(Error::Disconnected { .. })));
    assert!(matches!(late.events().next(), Some(Err(Error::Disconnected { .. }))));
    // The waker has nothing to end any more.
    late.waker().unwrap().wake();
    assert!(matches!(late.poll_event(), Err(Error::Disconnected { .. })));
}

/// A daemon that is stopped is as one that has nothing to say.
fn a_stopped_daemon_is_waited_for<C: Source>(host: &Host) {
    let client = C::quiet(&host.endpoint());
    (0..2).for_each(|_| C::cause(&client));
    let paused = host.pause();
    assert!(matches!(count(&client, Dispatch::One), (1, Ok(()))));
    let (left, result) = count(&client, Dispatch::All);
    assert!(left >= 1 && result.is_ok());
    assert!(matches!(count(&client, Dispatch::All), (0, Ok(()))));
    assert!(is_try_again(&count(&client, Dispatch::OneNonblocking).1));
    assert!(client.next_event(Duration::from_millis(30)).unwrap().is_none());
    for mode in WAITING {
        thread::scope(|scope| {
            let dispatching = spawn_until_asleep(scope, || count(&client, mode));
            assert!(!dispatching.is_finished(), "{mode:?} did not wait");
            client.waker().unwrap().wake();
            assert!(matches!(dispatching.join().unwrap(), (0, Ok(()))));
        });
    }
    drop(paused);
    C::cause(&client);
    assert!(matches!(count(&client, Dispatch::One), (1, Ok(()))));
}
