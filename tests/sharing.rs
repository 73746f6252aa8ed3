//! Many threads share one client: each gets the answers to its own requests, whatever the others
//! ask, whichever calls time out, and while the daemon is stopped, goes on, ends and starts again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::{Client, TrackEvents, Value};
use corosync_ipc::{CsError, Error, cpg, quorum, votequorum, within};
use testbed::{Host, eventually};

testbed::on_each_host! {
    threads_that_share_a_client_get_their_own_answers;
    threads_that_share_a_client_find_its_end_and_share_the_next;
    a_list_takes_what_the_answers_have_room_for;
    requests_of_all_services_are_answered_under_way_together;
}

testbed::embedded_process!();

const THREADS: usize = 8;

/// The key of a thread. Its value tells the thread and grows, and its length differs from those of
/// the others.
fn key(thread: usize) -> String {
    format!("sharing.thread{thread}")
}

fn value(thread: usize, count: usize) -> Value {
    Value::String(format!("{thread} {count} {}", "x".repeat(97 * thread)))
}

/// What a value tells: whose it is, and how far it has come.
fn told(value: &Value) -> (usize, usize) {
    let Value::String(text) = value else { panic!("{value:?} is no value of these tests") };
    let mut numbers = text.split(' ').map(|number| number.parse().ok());
    let (thread, count) = (numbers.next().flatten(), numbers.next().flatten());
    let told = (thread.expect("a thread"), count.expect("a count"));
    assert_eq!(*value, self::value(told.0, told.1));
    told
}

/// What a thread knows of its key.
struct Known {
    thread: usize,
    /// The last value that surely was set, and the last that may be.
    counts: (usize, usize),
}

impl Known {
    fn check(&self, value: &Value) {
        let (thread, count) = told(value);
        assert_eq!(thread, self.thread, "an answer to another thread's request");
        assert!((self.counts.0..=self.counts.1).contains(&count), "{count}: {:?}", self.counts);
    }

    /// Asks in one of several ways. Checks every answer that is there.
    fn ask(&mut self, client: &Client, step: usize) -> Result<(), Error> {
        let key = key(self.thread);
        match step % 7 {
            0 => {
                self.counts.1 += 1;
                client.set(&key, value(self.thread, self.counts.1))?;
                self.counts.0 = self.counts.1;
            }
            1 => {
                let all = client.list("sharing.thread")?;
                assert_eq!(all.len(), THREADS);
                for (listed, value) in all {
                    if listed == key {
                        self.check(&value);
                    }
                    assert_eq!(self::key(told(&value).0), listed);
                }
            }
            2 => {
                let found: Result<Vec<_>, _> = client.iter(&key)?.collect();
                let found = found?;
                assert_eq!(found.len(), 1);
                assert_eq!(found[0].key, key);
            }
            3 => {
                let tracker = client.track_add(&key, TrackEvents::DELETE)?;
                client.track_delete(tracker)?;
            }
            4 => assert_eq!(client.get("sharing.none")?, None),
            _ => self.check(&client.get(&key)?.expect("it was set")),
        }
        Ok(())
    }
}

/// Ends all threads when one of them panics.
struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Lets threads ask until `is_over` or an error that `ends`. Calls time out now and then.
fn share(client: &Client, is_over: &AtomicBool, answers: &AtomicUsize, ends: fn(&Error) -> bool) {
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let _all = EndsAll(is_over);
                let mut known = Known { thread, counts: (0, 0) };
                for step in thread.. {
                    if is_over.load(Ordering::SeqCst) {
                        return;
                    }
                    let answer = if step % 11 == 0 {
                        within(Duration::from_micros(50), || known.ask(client, step))
                    } else {
                        known.ask(client, step)
                    };
                    match answer {
                        Ok(()) => drop(answers.fetch_add(1, Ordering::SeqCst)),
                        Err(Error::TimedOut { .. }) => {}
                        // A tracker whose answer did not come in time.
                        Err(Error::Cs { error: CsError::BadHandle, .. }) => {}
                        Err(error) if ends(&error) => return,
                        Err(error) => panic!("thread {thread}: {error:?}"),
                    }
                }
            });
        }
    });
}

fn set_up(host: &Host) -> Client {
    let client = Client::connect_to(&host.endpoint()).unwrap();
    for thread in 0..THREADS {
        client.set(&key(thread), value(thread, 0)).unwrap();
    }
    client
}

fn threads_that_share_a_client_get_their_own_answers(host: &Host) {
    let client = set_up(host);
    client.set_request_timeout(Duration::from_millis(300));
    let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let sharing = scope.spawn(|| share(&client, &is_over, &answers, |_| false));
        for _ in 0..6 {
            let before = answers.load(Ordering::SeqCst);
            eventually("the threads are answered", || {
                sharing.is_finished() || answers.load(Ordering::SeqCst) > before + 2_000
            });
            let paused = host.pause();
            // Some calls time out meanwhile.
            thread::sleep(Duration::from_millis(450));
            drop(paused);
        }
        is_over.store(true, Ordering::SeqCst);
        sharing.join().unwrap();
    });
    // What is left of calls that timed out reaches nobody.
    client.set_request_timeout(Duration::from_secs(120));
    for thread in 0..THREADS {
        assert_eq!(told(&client.get(&key(thread)).unwrap().unwrap()).0, thread);
    }
}

fn threads_that_share_a_client_find_its_end_and_share_the_next(host: &Host) {
    for round in 0..4 {
        let client = set_up(host);
        let (is_over, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let sharing = scope.spawn(|| {
                share(&client, &is_over, &answers, |error| {
                    matches!(error, Error::Disconnected { .. })
                });
            });
            eventually("the threads are answered", || {
                sharing.is_finished() || answers.load(Ordering::SeqCst) > 1_000
            });
            if round % 2 == 0 {
                host.kill();
            } else {
                host.stop();
            }
            // Every thread finds the end by itself.
            sharing.join().unwrap();
        });
        host.start();
    }
}

/// Answers that do not fit in the ring together are dropped by the daemon without a word.
fn a_list_takes_what_the_answers_have_room_for(host: &Host) {
    let client = Client::connect_to(&host.endpoint().request_timeout(Duration::from_secs(60)));
    let client = client.unwrap();
    let big = |number: usize| Value::String("y".repeat(16_000 - number));
    for number in 0..40 {
        client.set(&format!("sharing.big{number:02}"), big(number)).unwrap();
    }
    for _ in 0..3 {
        let found = client.list("sharing.big").unwrap();
        assert_eq!(found.len(), 40);
        for (number, (key, value)) in found.into_iter().enumerate() {
            assert_eq!((key, value), (format!("sharing.big{number:02}"), big(number)));
        }
    }
    assert_eq!(client.stats().timeouts, 0);
    for number in 0..40 {
        client.delete(&format!("sharing.big{number:02}")).unwrap();
    }
}

fn requests_of_all_services_are_answered_under_way_together(host: &Host) {
    let endpoint = host.endpoint();
    let quorum = quorum::Client::connect_to(&endpoint).unwrap();
    let votes = votequorum::Client::connect_to(&endpoint).unwrap();
    let cpg = cpg::Client::connect_to(&endpoint).unwrap();
    let node = cpg.local_node_id().unwrap();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..200 {
                    assert!(quorum.is_quorate().unwrap());
                    assert_eq!(votes.info(node).unwrap().node_id, node);
                    assert_eq!(cpg.local_node_id().unwrap(), node);
                }
            });
        }
    });
}
