//! Every call of every client ends by its deadline, however long the daemon takes for each request.

use std::cell::Cell;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::cmap::{Map, TrackEvents};
use crate::cpg::{GroupName, Guarantee, Iteration};
use crate::doubles::SlowDaemon;
use crate::error::{Error, Result};
use crate::libqb::server::Transport;
use crate::quorum::Model;
use crate::supervise::{CmapTracker, Notice, Supervised};
use crate::{Deadline, Endpoint, NodeId, RingId, ServiceClient, TrackFlags, within};
use crate::{cfg, cmap, cpg, evs, quorum, votequorum};

/// A timeout that no test reaches.
const LONG: Duration = Duration::from_secs(120);

/// The outcome of a call to a daemon that takes 0.9 of the timeout for each request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// The call makes one request. The daemon answers it, perhaps with an error.
    Answered,
    /// The call makes several requests, for which there is not enough time.
    TimedOut,
}
use Outcome::{Answered, TimedOut};

/// Makes the daemon slow and starts measuring the time.
struct Start<'a> {
    daemon: &'a SlowDaemon,
    timeout: Duration,
    begun: Cell<Option<Instant>>,
}

impl Start<'_> {
    fn now(&self) {
        self.daemon.set_delay(self.timeout * 9 / 10);
        self.begun.set(Some(Instant::now()));
    }
}

type Attempt = dyn Fn(&Endpoint, &Start<'_>) -> Result<()> + Send + Sync;

/// A call to test.
struct Row {
    name: String,
    outcome: Outcome,
    /// The longest time that the call may take, as a multiple of the timeout.
    limit: f64,
    attempt: Box<Attempt>,
}

impl Row {
    fn new(
        name: impl Into<String>,
        outcome: Outcome,
        attempt: impl Fn(&Endpoint, &Start<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self { name: name.into(), outcome, limit: 1.5, attempt: Box::new(attempt) }
    }

    /// Runs the call. Returns an error that describes the outcome, unless the call has the expected
    /// outcome in time.
    fn try_with(&self, timeout: Duration, transport: Transport) -> Result<(), String> {
        let daemon = SlowDaemon::start(transport);
        let start = Start { daemon: &daemon, timeout, begun: Cell::new(None) };
        let result =
            (self.attempt)(&daemon.endpoint().clone().ring_size(64 << 10).timeout(timeout), &start);
        let Some(took) = start.begun.get().map(|begun| begun.elapsed()) else {
            return Err(format!("{}: {result:?} before it began", self.name));
        };
        daemon.set_delay(Duration::ZERO);
        let outcome = match &result {
            Ok(()) | Err(Error::Cs { .. } | Error::Unsupported { .. }) => Some(Answered),
            Err(Error::TimedOut { .. }) => Some(TimedOut),
            Err(_) => None,
        };
        let is_right = outcome == Some(self.outcome) && took <= timeout.mul_f64(self.limit);
        if is_right {
            Ok(())
        } else {
            Err(format!("{}: {result:?} after {took:?} of {timeout:?}", self.name))
        }
    }
}

/// The calls to test. Each is also tested with an [`AsyncClient`](crate::AsyncClient).
#[derive(Default)]
struct Table(Vec<Row>);

impl Table {
    fn connect<T>(
        &mut self,
        outcome: Outcome,
        name: &str,
        connect: impl Fn(&Endpoint) -> Result<T> + Send + Sync + 'static,
    ) {
        self.0.push(Row::new(name, outcome, move |endpoint, start| {
            start.now();
            connect(endpoint).map(drop)
        }));
    }

    fn call<C: ServiceClient, T: Send + 'static>(
        &mut self,
        client: impl Fn(&Endpoint) -> C + Clone + Send + Sync + 'static,
        outcome: Outcome,
        name: &str,
        call: impl Fn(&C) -> Result<T> + Clone + Send + Sync + 'static,
    ) {
        let name = format!("{} {name}", C::SERVICE);
        #[cfg(feature = "tokio")]
        self.awaited(client.clone(), outcome, &name, call.clone());
        self.prepared(client, outcome, &name, move |client, start| {
            start.now();
            call(client).map(drop)
        });
    }

    #[cfg(feature = "tokio")]
    fn awaited<C: ServiceClient, T: Send + 'static>(
        &mut self,
        client: impl Fn(&Endpoint) -> C + Send + Sync + 'static,
        outcome: Outcome,
        name: &str,
        call: impl Fn(&C) -> Result<T> + Clone + Send + Sync + 'static,
    ) {
        self.0.push(Row::new(format!("{name}, awaited"), outcome, move |endpoint, start| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let client = client(&endpoint.clone().timeout(LONG));
            client.set_request_timeout(start.timeout);
            let client = crate::AsyncClient::new(client);
            start.now();
            runtime.block_on(client.call(call.clone())).map(drop)
        }));
    }

    /// Adds a call that needs preparation before the time starts. The time includes dropping the
    /// client.
    fn prepared<C: ServiceClient>(
        &mut self,
        client: impl Fn(&Endpoint) -> C + Send + Sync + 'static,
        outcome: Outcome,
        name: &str,
        call: impl Fn(&C, &Start<'_>) -> Result<()> + Send + Sync + 'static,
    ) {
        self.0.push(Row::new(name, outcome, move |endpoint, start| {
            let client = client(&endpoint.clone().timeout(LONG));
            client.set_request_timeout(start.timeout);
            call(&client, start)
        }));
    }
}

fn group() -> GroupName {
    GroupName::new("group").unwrap()
}

fn every_call() -> Table {
    let mut table = Table::default();
    let t = &mut table;

    let cmap = |endpoint: &Endpoint| {
        let client = cmap::Client::connect_to(endpoint).unwrap();
        client.set("test.number", 1_u32).unwrap();
        client.set("test.long", "x".repeat(2000)).unwrap();
        client
    };
    t.connect(Answered, "cmap connect", cmap::Client::connect_to);
    t.connect(TimedOut, "cmap connect to stats", |endpoint| {
        cmap::Client::connect_with(endpoint, cmap::Options::new().map(Map::Stats))
    });
    t.call(cmap, Answered, "get", |c| c.get("test.number"));
    t.call(cmap, TimedOut, "get long", |c| c.get("test.long"));
    t.call(cmap, Answered, "get_as", |c| c.get_as::<u32>("test.number"));
    t.call(cmap, Answered, "set", |c| c.set("test.number", 2_u32));
    t.call(cmap, Answered, "delete", |c| c.delete("test.number"));
    t.call(cmap, TimedOut, "delete of a section's key", |c| {
        c.delete("logging.logger_subsys.X.debug")
    });
    t.call(cmap, Answered, "increment", |c| c.increment("test.number"));
    t.call(cmap, Answered, "decrement", |c| c.decrement("test.number"));
    t.call(cmap, Answered, "adjust", |c| c.adjust("test.number", 5));
    t.call(cmap, TimedOut, "iter", |c| c.iter("test.").map(drop));
    t.call(cmap, TimedOut, "list", |c| c.list("test."));
    t.call(cmap, Answered, "track_add", |c| c.track_add("test.number", TrackEvents::ALL));
    t.prepared(cmap, Answered, "cmap track_delete", |c, start| {
        let tracker = c.track_add("test.number", TrackEvents::ALL)?;
        start.now();
        c.track_delete(tracker)
    });

    let cpg = |endpoint: &Endpoint| cpg::Client::connect_to(endpoint).unwrap();
    let joined = move |endpoint: &Endpoint| {
        let client = cpg(endpoint);
        client.join(&group()).unwrap();
        client
    };
    t.connect(Answered, "cpg connect", cpg::Client::connect_to);
    t.connect(Answered, "cpg connect with", |endpoint| {
        cpg::Client::connect_with(endpoint, cpg::Options::new())
    });
    t.call(cpg, TimedOut, "join", |c| c.join(&group()));
    t.call(joined, Answered, "leave", |c| c.leave(&group()));
    t.call(joined, TimedOut, "membership", |c| c.membership(&group()));
    t.call(joined, Answered, "local_node_id", cpg::Client::local_node_id);
    t.call(joined, Answered, "multicast", |c| c.multicast(Guarantee::AGREED, b"message"));
    t.call(joined, Answered, "try_multicast", |c| c.try_multicast(Guarantee::AGREED, b"message"));
    let before = t.0.len();
    t.call(joined, Answered, "multicast in two fragments", |c| {
        c.multicast(Guarantee::AGREED, &[7; 100_000])
    });
    // Only this call may take longer: each fragment has the whole timeout.
    t.0.iter_mut().skip(before).for_each(|row| row.limit = 2.5);
    t.call(joined, Answered, "iter, and its end", |c| c.iter(Iteration::All).map(drop));
    t.prepared(joined, Answered, "cpg iter next, and its end", |c, start| {
        let mut iter = c.iter(Iteration::All)?;
        start.now();
        iter.next().transpose().map(drop)
    });
    t.call(joined, TimedOut, "list", |c| c.list(Iteration::Names));

    let quorum = |endpoint: &Endpoint| quorum::Client::connect_to(endpoint).unwrap();
    t.connect(TimedOut, "quorum connect", quorum::Client::connect_to);
    t.connect(TimedOut, "quorum connect with model 1", |endpoint| {
        quorum::Client::connect_with(endpoint, quorum::Options::new().model(Model::V1))
    });
    t.call(quorum, Answered, "is_quorate", quorum::Client::is_quorate);
    t.call(quorum, Answered, "track_start", |c| c.track_start(TrackFlags::CHANGES));
    t.call(quorum, Answered, "track_stop", quorum::Client::track_stop);

    let votes = |endpoint: &Endpoint| votequorum::Client::connect_to(endpoint).unwrap();
    let ring = RingId::default();
    t.connect(Answered, "votequorum connect", votequorum::Client::connect_to);
    t.call(votes, Answered, "info", |c| c.info(NodeId(1)));
    t.call(votes, Answered, "local_info", votequorum::Client::local_info);
    t.call(votes, Answered, "set_expected", |c| c.set_expected(1));
    t.call(votes, Answered, "set_votes", |c| c.set_votes(NodeId(1), 1));
    t.call(votes, TimedOut, "set_votes of the local node", |c| {
        c.set_votes(votequorum::LOCAL_NODE, 1)
    });
    t.call(votes, Answered, "track_start", |c| c.track_start(1, TrackFlags::CHANGES));
    t.call(votes, Answered, "track_stop", votequorum::Client::track_stop);
    t.call(votes, TimedOut, "qdevice_register", |c| c.qdevice_register("device"));
    t.call(votes, TimedOut, "qdevice_unregister", |c| c.qdevice_unregister("device"));
    t.call(votes, TimedOut, "qdevice_update", |c| c.qdevice_update("device", "other"));
    t.call(votes, TimedOut, "qdevice_poll", move |c| c.qdevice_poll("device", true, ring));
    t.call(votes, TimedOut, "qdevice_master_wins", |c| c.qdevice_master_wins("device", true));
    t.call(votes, TimedOut, "set_qdevice_extra_info", |c| c.set_qdevice_extra_info("info"));
    t.call(votes, TimedOut, "qdevice_extra_info", |c| c.qdevice_extra_info(NodeId(1)));

    let cfg = |endpoint: &Endpoint| cfg::Client::connect_to(endpoint).unwrap();
    t.connect(Answered, "cfg connect", cfg::Client::connect_to);
    t.call(cfg, Answered, "local_node_id", cfg::Client::local_node_id);
    t.call(cfg, Answered, "node_addresses", |c| c.node_addresses(NodeId(1)));
    t.call(cfg, TimedOut, "ring_status", cfg::Client::ring_status);
    t.call(cfg, Answered, "ring_reenable", cfg::Client::ring_reenable);
    t.call(cfg, TimedOut, "node_status", |c| c.node_status(NodeId(1)));
    t.call(cfg, TimedOut, "reload_config", cfg::Client::reload_config);
    t.call(cfg, TimedOut, "reopen_log_files", cfg::Client::reopen_log_files);
    t.call(cfg, Answered, "kill_node", |c| c.kill_node(NodeId(9), "reason"));
    t.call(cfg, Answered, "try_shutdown", |c| c.try_shutdown(cfg::ShutdownKind::IMMEDIATE));
    t.call(cfg, Answered, "reply_to_shutdown", |c| c.reply_to_shutdown(cfg::ShutdownAnswer::NO));
    t.call(cfg, TimedOut, "track_start", cfg::Client::track_start);
    t.call(cfg, TimedOut, "track_stop", cfg::Client::track_stop);

    let evs = |endpoint: &Endpoint| evs::Client::connect_to(endpoint).unwrap();
    let groups = [evs::GroupName::new("group").unwrap()];
    t.connect(Answered, "evs connect", evs::Client::connect_to);
    t.call(evs, Answered, "join", move |c| c.join(&groups));
    t.call(evs, Answered, "leave", move |c| c.leave(&groups));
    t.call(evs, Answered, "multicast_joined", |c| {
        c.multicast_joined(Guarantee::AGREED, b"message")
    });
    t.call(evs, Answered, "multicast_groups", move |c| {
        c.multicast_groups(Guarantee::AGREED, &groups, b"message")
    });
    t.call(evs, Answered, "membership", evs::Client::membership);

    #[cfg(feature = "tokio")]
    t.awaited(cmap, TimedOut, "cmap two calls", |c| {
        c.get("test.number").and_then(|_| c.get("test.number"))
    });
    table
}

/// The number of calls that run at a time, and their timeout, for each attempt. A busy machine
/// delays a call by an absolute time. A call that makes too many requests takes too long by a part
/// of its timeout. So a failed call is repeated with a longer timeout and with fewer calls beside
/// it: a fault shows in each attempt.
const ATTEMPTS: [(usize, Duration); 3] =
    [(24, Duration::from_secs(1)), (8, Duration::from_secs(4)), (2, Duration::from_secs(16))];

/// Runs all calls. Panics if a call fails in every attempt.
fn try_all(rows: Vec<Row>, transport: Transport) {
    let mut rows = Mutex::new(rows);
    let failures = Mutex::new(Vec::new());
    for (at_a_time, timeout) in ATTEMPTS {
        let failed = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..at_a_time {
                scope.spawn(|| {
                    loop {
                        let Some(row) = rows.lock().unwrap().pop() else { break };
                        if let Err(failure) = row.try_with(timeout, transport) {
                            failures.lock().unwrap().push(failure);
                            failed.lock().unwrap().push(row);
                        }
                    }
                });
            }
        });
        rows = failed;
    }
    let failed: Vec<_> = rows.into_inner().unwrap().into_iter().map(|row| row.name).collect();
    assert!(failed.is_empty(), "{failed:?}\n{}", failures.into_inner().unwrap().join("\n"));
}

#[test]
fn every_call_ends_in_one_timeout_with_a_daemon_that_takes_most_of_it_for_each_request() {
    try_all(every_call().0, Transport::Shm);
}

#[test]
fn every_call_ends_in_one_timeout_with_a_daemon_of_datagrams_too() {
    try_all(every_call().0, Transport::Socket);
}

#[test]
fn calls_that_have_one_deadline_end_at_it() {
    let two_calls = |endpoint: &Endpoint, start: &Start<'_>| {
        start.now();
        within(start.timeout, || cmap::Client::connect_to(endpoint)?.get("test.number")).map(drop)
    };
    try_all(vec![Row::new("connect and get", TimedOut, two_calls)], Transport::Shm);
}

#[test]
fn what_begins_after_the_deadline_is_not_sent() {
    let daemon = SlowDaemon::start(Transport::Shm);
    let endpoint = daemon.endpoint().clone().timeout(LONG);
    let client = cpg::Client::connect_to(&endpoint).unwrap();
    client.join(&group()).unwrap();
    let multicast = |message: &[u8]| client.multicast(Guarantee::AGREED, message);
    let over = within(Instant::now(), || {
        (multicast(b"late"), cmap::Client::connect_to(&endpoint).map(drop))
    });
    assert!(matches!(over, (Err(Error::TimedOut { .. }), Err(Error::TimedOut { .. }))), "{over:?}");
    multicast(b"in time").unwrap();
    let delivered = client.events().find_map(|event| match event.unwrap() {
        cpg::Event::Deliver(cpg::Deliver { payload, .. }) => Some(payload),
        _ => None,
    });
    assert_eq!(delivered.unwrap(), &b"in time"[..]);
}

#[test]
fn an_attempt_of_a_supervised_client_has_two_timeouts_however_much_is_set_up() {
    let row = Row::new("attempt", TimedOut, |endpoint, start| {
        let endpoint = endpoint.clone();
        let mut supervised = Supervised::new(move || cmap::Client::connect_to(&endpoint));
        for number in 0..5 {
            supervised.set_up(CmapTracker::new(format!("test.{number}"), TrackEvents::ALL))?;
        }
        start.now();
        match supervised.next(Deadline::NEVER)? {
            Some(Notice::Retry { error, .. }) => Err(error),
            _ => Ok(()),
        }
    });
    try_all(vec![Row { limit: 2.5, ..row }], Transport::Shm);
}

#[cfg(feature = "tokio")]
#[test]
fn a_call_that_gets_no_thread_in_time_is_not_made() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    let daemon = SlowDaemon::start(Transport::Shm);
    let client = cmap::Client::connect_to(daemon.endpoint()).unwrap();
    client.set_request_timeout(Duration::from_millis(50));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let client = crate::AsyncClient::new(client);
    let (free, taken) = mpsc::channel::<()>();
    let ran = Arc::new(AtomicBool::new(false));
    runtime.block_on(async {
        let other = tokio::task::spawn_blocking(move || taken.recv());
        let run = Arc::clone(&ran);
        let error = client
            .call(move |cmap| {
                run.store(true, Ordering::SeqCst);
                cmap.get("test.number")
            })
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        drop(free);
        other.await.unwrap().unwrap_err();
        client.client().set_request_timeout(LONG);
        client.call(|cmap| cmap.get("test.number")).await.unwrap();
    });
    assert!(!ran.load(Ordering::SeqCst));
}
