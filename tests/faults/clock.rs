//! A clock that is set changes no deadline.

use std::env;
use std::ops::ControlFlow::Continue;
use std::time::Duration;

use corosync_ipc::embedded::Corosync;
use corosync_ipc::supervise::Supervised;
use corosync_ipc::{Dispatcher, Endpoint, TrackFlags, quorum};
use testbed::{NodeCommand, lacks};

use crate::clients::{Clients, LONG};

/// What a wait that ends at a time of day has in strace's output. A wait of some length on that
/// clock is as long whenever the clock is set.
const BY_DATE: [&str; 4] =
    ["FUTEX_CLOCK_REALTIME", "CLOCK_REALTIME, TIMER_ABSTIME", "CLOCK_REALTIME, TFD", "CLOCK_TAI"];

#[test]
fn no_wait_ends_at_a_time_of_day() {
    if lacks("strace") {
        return;
    }
    let strace = NodeCommand::here("/usr/bin/strace").args(["-f", "-e"]);
    let waits = "trace=futex,futex_waitv,clock_nanosleep,timerfd_create,timerfd_settime,\
         timer_create,setitimer,alarm,mq_timedreceive,semtimedop";
    let this = strace.arg(waits).arg(env::current_exe().unwrap());
    let test = ["--exact", "clock::as_one_that_waits", "--ignored", "--nocapture"];
    let output = this.args(test).limit(LONG).run();
    let trace = output.stderr.clone();
    assert!(output.success().contains("1 passed"));
    for call in ["futex(", "timerfd_create("] {
        assert!(trace.contains(call), "no {call} in {trace}");
    }
    let by_date = |line: &&str| {
        // The wait for a thread's end has no end of its own.
        if line.contains(", NULL, FUTEX_BITSET_MATCH_ANY") {
            return false;
        }
        BY_DATE.iter().any(|it| line.contains(it))
            || line.contains("timerfd_create(CLOCK_REALTIME")
            || line.contains("timer_create(CLOCK_REALTIME")
    };
    let found: Vec<_> = trace.lines().filter(by_date).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
#[ignore = "run by other tests"]
fn as_one_that_waits() {
    let mut corosync = Some(Corosync::start().unwrap());
    let endpoint: Endpoint = corosync.as_ref().unwrap().endpoint().clone().timeout(LONG);
    let clients = Clients::connect(&endpoint).unwrap();
    clients.use_all("clock").unwrap();
    assert!(clients.cmap.next_event(Duration::from_millis(50)).unwrap().is_none());
    let mut supervised = Supervised::new(move || quorum::Client::connect_to(&endpoint));
    supervised.set_up(TrackFlags::CHANGES).unwrap();
    let mut dispatcher = Dispatcher::new().unwrap();
    dispatcher.add_supervised(supervised, |_: &mut (), _, _, _| Continue(())).unwrap();
    // It connects, then loses the connection and tries again.
    for round in 0..6 {
        dispatcher.round(&mut (), Duration::from_millis(50)).unwrap();
        if round == 2 {
            drop(corosync.take());
        }
    }
}
