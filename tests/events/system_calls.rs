//! Dispatching when nothing waits makes no system calls, as strace sees it.

use std::ops::ControlFlow::Continue;
use std::time::Instant;

use corosync_ipc::{CsError, Dispatch, Endpoint};
use nix::unistd::getppid;

use crate::harness;
use crate::source::Source;

const ROUNDS: u32 = 100_000;

/// Dispatches between two marks. Run under strace by the tests below.
fn dispatch_between_marks<S: Source>() {
    let client = S::client(&Endpoint::new());
    // The first look may find a byte to take.
    client.dispatch(Dispatch::All, |_| Continue(())).unwrap();
    let start = Instant::now();
    // What nothing else here calls.
    getppid();
    for _ in 0..ROUNDS {
        client.dispatch(Dispatch::All, |_| Continue(())).unwrap();
        let none = client.dispatch(Dispatch::OneNonblocking, |_| Continue(()));
        assert_eq!(none.unwrap_err().cs_error(), Some(CsError::TryAgain));
    }
    getppid();
    println!("\nmilliseconds: {}", start.elapsed().as_millis());
}

#[test]
#[ignore = "run by another test, under strace"]
fn dispatch_cmap_between_marks() {
    dispatch_between_marks::<corosync_ipc::cmap::Cmap>();
}

#[test]
#[ignore = "run by another test, under strace"]
fn dispatch_cpg_between_marks() {
    dispatch_between_marks::<corosync_ipc::cpg::Cpg>();
}

#[test]
#[ignore = "run by another test, under strace"]
fn dispatch_quorum_between_marks() {
    dispatch_between_marks::<corosync_ipc::quorum::Quorum>();
}

#[test]
#[ignore = "run by another test, under strace"]
fn dispatch_votequorum_between_marks() {
    dispatch_between_marks::<corosync_ipc::votequorum::Votequorum>();
}

#[test]
fn a_dispatch_with_nothing_waiting_makes_no_system_call() {
    if harness::skip() {
        return;
    }
    let program = harness::copy_for_all(&std::env::current_exe().unwrap());
    for service in ["cmap", "cpg", "quorum", "votequorum"] {
        let test = format!("system_calls::dispatch_{service}_between_marks");
        let node = harness::shared_one().node(1);
        let traced =
            node.command("strace").arg("-f").arg(&program).args(["--exact", &test, "--ignored", "--nocapture"]);
        let output = traced.run();
        let (trace, printed) = (&output.stderr, &output.stdout);
        assert!(output.is_success(), "{printed}{trace}");
        let millis: usize =
            printed.lines().find_map(|line| line.strip_prefix("milliseconds: ")).unwrap().trim().parse().unwrap();
        let marks: Vec<_> = trace.lines().enumerate().filter(|(_, line)| line.contains("getppid()")).collect();
        let [(first, marked), (last, _)] = marks[..] else { panic!("{} marks", marks.len()) };
        let thread = marked.split("getppid").next().unwrap();
        let calls: Vec<_> = trace.lines().take(last).skip(first + 1).filter(|line| line.starts_with(thread)).collect();
        // One look at the socket about every millisecond, for the daemon's end; nothing for the dispatches themselves.
        assert!(calls.iter().all(|call| call.contains("recvfrom(")), "{calls:#?}");
        assert!(calls.len() <= millis + 1, "{} calls in {millis} ms of {ROUNDS} rounds", calls.len());
        assert!(calls.len() < ROUNDS as usize / 10);
    }
}
