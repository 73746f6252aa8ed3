//! Dispatching when nothing waits makes no system calls, as strace sees it, and waiting for an
//! answer few.

use std::env;
use std::ops::ControlFlow::Continue;
use std::time::{Duration, Instant};

use corosync_ipc::cmap;
use corosync_ipc::{CsError, Dispatch, Endpoint, Error};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::getppid;
use testbed::host::run;
use testbed::{Host, HostKind, Setup};

use crate::source::Source;

testbed::on_each_host! { a_slow_answer_is_waited_for_asleep; }

fn a_slow_answer_is_waited_for_asleep(host: &Host) {
    let client = cmap::Client::quiet(&host.endpoint());
    client.set_request_timeout(Duration::from_secs(3));
    let _paused = host.pause();
    let sleeps = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().voluntary_context_switches();
    let (before, begun) = (sleeps(), Instant::now());
    let result = client.get("some.key");
    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
    let (slept, seconds) = (sleeps() - before, begun.elapsed().as_secs_f64());
    // Some short ones at first, then four a second; libqb has one every other second.
    assert!(slept as f64 <= 10.0 + 6.0 * seconds, "{slept} times in {seconds} s");
}

const ROUNDS: u32 = 50_000;

/// Dispatches between two marks.
fn dispatch_between_marks<C: Source>(endpoint: &Endpoint) {
    let client = C::quiet(endpoint);
    // The first look may find a byte to take.
    client.dispatch(Dispatch::All, |_| Continue(())).unwrap();
    let start = Instant::now();
    // What nothing else here calls.
    getppid();
    for _ in 0..ROUNDS {
        client.dispatch(Dispatch::All, |_| Continue(())).unwrap();
        let none = client.dispatch(Dispatch::OneNonblocking, |_| Continue(()));
        assert_eq!(none.unwrap_err().cs_error(), CsError::TryAgain);
    }
    getppid();
    println!("\nmilliseconds: {}", start.elapsed().as_millis());
}

#[test]
#[ignore = "run by another test, under strace"]
fn dispatch_every_service_between_marks() {
    let endpoint = Endpoint::from_env().unwrap();
    dispatch_between_marks::<corosync_ipc::cmap::Client>(&endpoint);
    dispatch_between_marks::<corosync_ipc::cpg::Client>(&endpoint);
    dispatch_between_marks::<corosync_ipc::quorum::Client>(&endpoint);
    dispatch_between_marks::<corosync_ipc::votequorum::Client>(&endpoint);
    dispatch_between_marks::<corosync_ipc::cfg::Client>(&endpoint);
    dispatch_between_marks::<corosync_ipc::evs::Client>(&endpoint);
}

#[test]
fn a_dispatch_with_nothing_waiting_makes_no_system_call() {
    // strace is among what its tests need.
    if testbed::skip() {
        return;
    }
    let body = |host: &Host| {
        let test = "system_calls::dispatch_every_service_between_marks";
        let traced = host.command("strace").arg("-f").arg(env::current_exe().unwrap());
        let output = traced.args(["--ignored", "--nocapture", "--exact", test]).run();
        let trace = output.stderr.clone();
        let printed = output.success();
        let millis = printed.lines().filter_map(|line| line.strip_prefix("milliseconds: "));
        let millis: Vec<usize> = millis.map(|millis| millis.trim().parse().unwrap()).collect();
        // A call within which strace turned to another thread takes two lines.
        let begun: Vec<_> = trace.lines().filter(|line| !line.contains(" resumed>")).collect();
        let marks: Vec<_> =
            begun.iter().enumerate().filter(|(_, line)| line.contains("getppid(")).collect();
        assert_eq!((millis.len(), marks.len()), (6, 12));
        for (marks, millis) in marks.chunks(2).zip(millis) {
            let [(first, marked), (last, _)] = marks[..] else { unreachable!("chunks of two") };
            let thread = marked.split("getppid").next().unwrap();
            let between = &begun[first + 1..last];
            let calls: Vec<_> = between.iter().filter(|line| line.starts_with(thread)).collect();
            // One look at the socket about every millisecond, for the daemon's end; nothing for the
            // dispatches themselves.
            assert!(calls.iter().all(|call| call.contains("recvfrom(")), "{calls:#?}");
            assert!(
                calls.len() <= millis + 1,
                "{} calls in {millis} ms of {ROUNDS} rounds",
                calls.len()
            );
            assert!(calls.len() < ROUNDS as usize / 10);
        }
    };
    run(HostKind::Embedded, body, Setup::new());
}
