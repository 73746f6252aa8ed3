//! Parts of cmap that are read again whenever they change. Keys begin with the name of their body.

use std::fmt::Debug;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::Client;
#[cfg(feature = "tokio")]
use corosync_ipc::supervise::AsyncWatch;
use corosync_ipc::supervise::{Notice, NoticeOfValue, Watch};
use corosync_ipc::{Deadline, Endpoint, Error};
use serde::de::DeserializeOwned;
use testbed::{
    Host, WATCHDOG, eventually, invalid, is_fd_readable, is_fd_readable_within, patiently,
};
#[cfg(feature = "tokio")]
use tokio::runtime::{self, Runtime};

testbed::on_each_host! {
    the_value_comes_first_and_again_after_each_change;
    many_changes_give_few_values_and_the_last_one;
    a_value_is_that_of_one_moment;
    a_part_that_changes_all_the_time_is_given_all_the_same;
    what_cannot_be_read_is_an_error_until_it_changes;
    the_value_comes_again_after_a_gap;
    a_daemon_that_stops_while_it_is_read_is_lost;
    a_waker_and_a_deadline_end_the_wait;
}

/// A watch, and how its notices are had.
enum Way<T> {
    Waits(Watch<T>),
    /// Only when the descriptor is readable, as an event loop does.
    Polls(Watch<T>, OwnedFd),
    #[cfg(feature = "tokio")]
    Awaits(AsyncWatch<T>, Runtime),
}

impl<T: DeserializeOwned + Debug + Send + 'static> Way<T> {
    fn all(endpoint: &Endpoint, prefix: &str) -> Vec<Self> {
        let connect = || {
            let endpoint = endpoint.clone();
            move || Client::connect_to(&endpoint)
        };
        let watch = || Watch::new(connect(), prefix).unwrap().backoff(quickly);
        let mut polled = watch();
        let descriptor = polled.descriptor().unwrap();
        vec![
            Self::Waits(watch()),
            Self::Polls(polled, descriptor),
            #[cfg(feature = "tokio")]
            Self::Awaits(
                AsyncWatch::new(connect(), prefix).unwrap().backoff(quickly),
                runtime::Builder::new_current_thread().enable_all().build().unwrap(),
            ),
        ]
    }

    /// The next notice until the limit.
    fn until(&mut self, limit: Duration) -> Option<NoticeOfValue<T>> {
        match self {
            Self::Waits(watch) => watch.next(limit).unwrap(),
            Self::Polls(watch, descriptor) => {
                let is_readable = is_fd_readable_within(descriptor, limit);
                is_readable.then(|| watch.next(Duration::ZERO).unwrap()).flatten()
            }
            #[cfg(feature = "tokio")]
            Self::Awaits(watch, runtime) => runtime.block_on(async {
                tokio::time::timeout(limit, watch.next()).await.ok().map(Result::unwrap)
            }),
        }
    }

    #[track_caller]
    fn next(&mut self) -> NoticeOfValue<T> {
        patiently(|limit| self.until(limit)).expect("no notice came")
    }

    /// The value, which must be the next notice.
    #[track_caller]
    fn value(&mut self) -> Result<T, Error> {
        match self.next() {
            Notice::Event(value) => value,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until it is connected, whatever fails before.
    #[track_caller]
    fn up(&mut self) {
        loop {
            match self.next() {
                Notice::Up(up) => return assert!(up.restored[0].result.is_ok(), "{up:?}"),
                Notice::Retry { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// There is nothing to do.
    #[track_caller]
    fn is_quiet(&mut self) {
        let notice = self.until(Duration::from_millis(1));
        assert!(notice.is_none(), "{notice:?}");
        if let Self::Polls(_, descriptor) = self {
            assert!(!is_fd_readable(&*descriptor));
        }
    }

    fn set_request_timeout(&self, timeout: Duration) {
        match self {
            Self::Waits(watch) | Self::Polls(watch, _) => {
                watch.supervised().client().unwrap().set_request_timeout(timeout);
            }
            #[cfg(feature = "tokio")]
            Self::Awaits(watch, _) => {
                watch.supervised().client().unwrap().client().set_request_timeout(timeout);
            }
        }
    }
}

fn quickly(_: u32) -> Duration {
    Duration::from_millis(20)
}

fn the_value_comes_first_and_again_after_each_change(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for mut watch in Way::<Vec<u32>>::all(endpoint, "watched_first") {
        client.set("watched_first.0", 1_u32).unwrap();
        watch.up();
        assert_eq!(watch.value().unwrap(), [1]);
        client.set("watched_first.7", 2_u32).unwrap();
        assert_eq!(watch.value().unwrap(), [1, 2]);
        client.set("watched_first.0", 3_u32).unwrap();
        assert_eq!(watch.value().unwrap(), [3, 2]);
        // A key that merely begins in the same way.
        client.set("watched_first_and_last.0", 9_u32).unwrap();
        client.delete("watched_first_and_last.0").unwrap();
        watch.is_quiet();
        client.delete("watched_first.7").unwrap();
        assert_eq!(watch.value().unwrap(), [3]);
        watch.is_quiet();
    }
    let endpoint = endpoint.clone();
    let wrong = Watch::<u32>::new(move || Client::connect_to(&endpoint), "white space");
    assert_eq!(invalid(wrong), "prefix");
}

fn many_changes_give_few_values_and_the_last_one(endpoint: &Endpoint) {
    const CHANGES: u32 = 1000;
    let client = Client::connect_to(endpoint).unwrap();
    for mut watch in Way::<Option<u32>>::all(endpoint, "watched_often") {
        watch.up();
        watch.value().unwrap();
        (1..=CHANGES).for_each(|number| client.set("watched_often", number).unwrap());
        let mut values = 1;
        while watch.value().unwrap() != Some(CHANGES) {
            values += 1;
        }
        // A ring holds about a hundred changes, and the others come when there is room for them.
        assert!(values < CHANGES / 10, "{values}");
        client.delete("watched_often").unwrap();
        while watch.value().unwrap().is_some() {}
    }
}

/// The keys are set one after the other, each to the number of the round. A mix of moments would
/// have a greater number behind a smaller one.
fn a_value_is_that_of_one_moment(endpoint: &Endpoint) {
    const KEYS: usize = 8;
    const ROUNDS: u32 = 30;
    for mut watch in Way::<Vec<u32>>::all(endpoint, "watched_moment.") {
        let seen = AtomicU32::new(0);
        let set = |round: u32| {
            let client = Client::connect_to(endpoint).unwrap();
            for key in 0..KEYS {
                client.set(&format!("watched_moment.{key}"), round).unwrap();
            }
        };
        set(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    set(round);
                    eventually("the round is seen", || seen.load(Ordering::Relaxed) == round);
                }
            });
            watch.up();
            watch.set_request_timeout(WATCHDOG);
            while seen.load(Ordering::Relaxed) < ROUNDS {
                let values = watch.value().unwrap();
                assert_eq!(values.len(), KEYS);
                assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
                seen.store(values[KEYS - 1], Ordering::Relaxed);
            }
        });
    }
}

fn a_part_that_changes_all_the_time_is_given_all_the_same(endpoint: &Endpoint) {
    for mut watch in Way::<Option<u32>>::all(endpoint, "watched_always") {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let changes = scope.spawn(|| {
                let client = Client::connect_to(endpoint).unwrap();
                let going_on = |_: &u32| !is_over.load(Ordering::Relaxed);
                // At some time they end even if nobody says so.
                let numbers = (1_u32..=1_000_000).take_while(going_on);
                numbers.inspect(|now| client.set("watched_always", *now).unwrap()).last().unwrap()
            });
            watch.up();
            let mut last = watch.value().unwrap();
            for _ in 0..3 {
                let now = watch.value().unwrap();
                assert!(now >= last, "{now:?} after {last:?}");
                last = now;
            }
            is_over.store(true, Ordering::Relaxed);
            let end = Some(changes.join().unwrap());
            while last != end {
                last = watch.value().unwrap();
            }
        });
        Client::connect_to(endpoint).unwrap().delete("watched_always").unwrap();
    }
}

fn what_cannot_be_read_is_an_error_until_it_changes(endpoint: &Endpoint) {
    let client = Client::connect_to(endpoint).unwrap();
    for mut watch in Way::<Vec<u32>>::all(endpoint, "watched_wrong.") {
        watch.up();
        assert_eq!(watch.value().unwrap(), []);
        client.set("watched_wrong.0", "one").unwrap();
        assert_eq!(
            watch.value().unwrap_err().to_string(),
            "the value of watched_wrong.0 has the type str, not u32"
        );
        watch.is_quiet();
        client.delete("watched_wrong.0").unwrap();
        assert_eq!(watch.value().unwrap(), []);
    }
}

fn the_value_comes_again_after_a_gap(host: &Host) {
    for mut watch in Way::<Option<u32>>::all(&host.endpoint(), "watched_gap") {
        let set = |value: u32| {
            Client::connect_to(&host.endpoint()).unwrap().set("watched_gap", value).unwrap();
        };
        set(1);
        watch.up();
        assert_eq!(watch.value().unwrap(), Some(1));
        host.kill();
        assert!(matches!(watch.next(), Notice::Lost { error: Error::Disconnected { .. } }));
        assert!(matches!(watch.next(), Notice::Retry { error: Error::NoSocket { .. }, .. }));
        host.start();
        // Whether it is set before or after it is read.
        set(2);
        watch.up();
        while watch.value().unwrap() != Some(2) {}
        set(3);
        while watch.value().unwrap() != Some(3) {}
    }
}

fn a_daemon_that_stops_while_it_is_read_is_lost(host: &Host) {
    let client = Client::connect_to(&host.endpoint()).unwrap();
    for mut watch in Way::<Option<u32>>::all(&host.endpoint(), "watched_stop") {
        watch.up();
        watch.value().unwrap();
        client.set("watched_stop", 1_u32).unwrap();
        let paused = host.pause();
        watch.set_request_timeout(Duration::from_millis(20));
        let notice = watch.next();
        assert!(matches!(notice, Notice::Lost { error: Error::TimedOut { .. } }), "{notice:?}");
        drop(paused);
        watch.up();
        assert_eq!(watch.value().unwrap(), Some(1));
        client.delete("watched_stop").unwrap();
        assert_eq!(watch.value().unwrap(), None);
    }
}

fn a_waker_and_a_deadline_end_the_wait(endpoint: &Endpoint) {
    let endpoint = endpoint.clone();
    let connect = move || Client::connect_to(&endpoint);
    let mut watch = Watch::<Option<u32>>::new(connect, "watched_wait").unwrap();
    let waker = watch.waker().unwrap();
    waker.wake();
    assert!(watch.next(Deadline::NEVER).unwrap().is_none());
    for _ in 0..2 {
        assert!(patiently(|limit| watch.next(limit).unwrap()).is_some());
    }
    assert!(watch.next(Duration::from_millis(1)).unwrap().is_none());
    thread::scope(|scope| {
        scope.spawn(|| waker.wake());
        assert!(watch.next(Deadline::NEVER).unwrap().is_none());
    });
}
