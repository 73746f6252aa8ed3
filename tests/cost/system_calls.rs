//! The limits of system calls, of clients that strace watches.

use std::env;

use corosync_ipc::Endpoint;
use nix::unistd::getppid;
use testbed::host::run;
use testbed::{Host, HostKind, IpcType, Setup};

use crate::operations::Operations;
use crate::{LIMITS, ROUNDS, judge};

#[test]
#[ignore = "run by another test, under strace"]
fn all_operations_between_marks() {
    let mut operations = Operations::connect(&Endpoint::from_env().unwrap(), "calls");
    for limit in LIMITS {
        for _ in 0..=ROUNDS {
            operations.prepare(limit.operation);
            // What nothing else here calls.
            getppid();
            let times = operations.run(limit.operation);
            getppid();
            println!("\ntimes: {times}");
        }
    }
}

#[test]
fn no_operation_does_more_system_calls_than_its_limit() {
    // strace is among what its tests need.
    if testbed::skip() {
        return;
    }
    let body = |host: &Host| {
        let test = "system_calls::all_operations_between_marks";
        let traced = host.command("strace").arg("-f").arg(env::current_exe().unwrap());
        let output = traced.args(["--ignored", "--nocapture", "--exact", test]).run();
        let trace = output.stderr.clone();
        let printed = output.success();
        let times = printed.lines().filter_map(|line| line.strip_prefix("times: "));
        let times: Vec<f64> = times.map(|times| times.trim().parse().unwrap()).collect();
        let calls = calls_between_marks(&trace);
        let each = ROUNDS as usize + 1;
        assert_eq!((times.len(), calls.len()), (LIMITS.len() * each, LIMITS.len() * each));
        let all = times.chunks(each).zip(calls.chunks(each));
        for (limit, (times, calls)) in LIMITS.iter().zip(all) {
            let waits = limit.operation.is_answered();
            let counts = |call: &&&str| !(is_for_memory(call) || waits && is_a_wait(call));
            let costs = times.iter().zip(calls).map(|(times, calls)| {
                let count = calls.iter().filter(counts).count();
                count as f64 / times
            });
            // The first one is not like the others.
            judge("system calls", limit.operation, costs.skip(1).collect(), limit.system_calls);
        }
    };
    run(HostKind::Embedded, body, Setup::new().ipc_type(IpcType::Shm));
}

/// Whether a client does this call while it waits for an answer: it sleeps, or looks whether the
/// daemon lives.
fn is_a_wait(call: &str) -> bool {
    ["futex(", "poll(", "ppoll(", "recvfrom("].iter().any(|wait| call.starts_with(wait))
}

/// Whether the allocator does this call. How often it does depends on the libc, and allocations have
/// limits of their own.
fn is_for_memory(call: &str) -> bool {
    ["brk(", "mmap(", "munmap(", "mremap(", "madvise("].iter().any(|it| call.starts_with(it))
}

/// The calls that the thread that marks did between each pair of marks.
fn calls_between_marks(trace: &str) -> Vec<Vec<&str>> {
    // A call within which strace turned to another thread takes two lines.
    let begun: Vec<&str> = trace.lines().filter(|line| !line.contains(" resumed>")).collect();
    let mark = begun.iter().find_map(|line| line.split_once("getppid("));
    let (thread, _) = mark.expect("strace shows the marks");
    let calls: Vec<&str> = begun.into_iter().filter_map(|line| line.strip_prefix(thread)).collect();
    let parts = calls.split(|call| call.starts_with("getppid("));
    // Every other one is between the marks of two operations.
    parts.skip(1).step_by(2).map(<[_]>::to_vec).collect()
}
