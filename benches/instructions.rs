//! User instructions of an operation, as valgrind counts them. They hardly depend on the machine, so
//! they have limits. A change that makes something cheaper lowers its limit here.
//!
//! `cargo bench --bench instructions` needs valgrind. The clients talk to an embedded daemon in
//! another process. `tests/cost/` has the limits of allocations and system calls.

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/cost/operations.rs"]
mod operations;

use std::env;
use std::path::Path;
use std::process::{Command, ExitCode};

use corosync_ipc::embedded::Corosync;
use corosync_ipc::{ENV_SHM_ROOT, ENV_SOCKET_DIR, Endpoint};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use self::operations::{Operation, Operations};

/// At most so many for one operation, a little more than it needs.
#[rustfmt::skip]
const LIMITS: [(Operation, f64); 8] = [
    (Operation::Get,           4900.0),
    (Operation::Set,           4950.0),
    (Operation::Quorate,       3450.0),
    (Operation::KeyOfList,     9400.0),
    (Operation::EventOfCmap,   2400.0),
    (Operation::EventOfCpg,    2020.0),
    (Operation::Multicast,     1800.0),
    (Operation::EmptyDispatch, 500.0),
];

/// How often an operation is done, and twice that. What only the first one does is in both.
const ROUNDS: u32 = 50;

/// The fewest of so many count.
const REPEATS: u32 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, operation, rounds] = &arguments[..] {
        work(operation, rounds.parse().expect("a number"));
        return ExitCode::SUCCESS;
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return ExitCode::SUCCESS;
    }
    use_one_processor();
    let folder = tempfile::tempdir().expect("a folder can be made");
    let endpoint = Endpoint::new().socket_dir(folder.path()).shm_root(folder.path());
    let _daemon = Corosync::builder().endpoint(&endpoint).start().expect("the daemon starts");
    println!("{:<16} {:>12} {:>9}", "", "instructions", "at most");
    let mut exceeded = false;
    for (operation, limit) in LIMITS {
        let counts = (0..REPEATS).map(|_| {
            let count = |rounds| count(folder.path(), operation, rounds);
            let ((few, few_times), (many, many_times)) = (count(ROUNDS), count(2 * ROUNDS));
            (many - few) as f64 / (many_times - few_times) as f64
        });
        let fewest = counts.min_by(f64::total_cmp).expect("it is counted");
        let sign = if fewest > limit { "exceeded" } else { "" };
        println!("{:<16} {fewest:>12.0} {limit:>9.0} {sign}", format!("{operation:?}"));
        exceeded |= fewest > limit;
    }
    ExitCode::from(u8::from(exceeded))
}

/// With one processor a client sleeps until its answer is there. With more it would look for it, and
/// how often depends on when it comes.
fn use_one_processor() {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).expect("the kernel knows");
    let usable = |number: &usize| all.is_set(*number).is_ok_and(|is_set| is_set);
    let first = (0..CpuSet::count()).find(usable).expect("this runs somewhere");
    let mut one = CpuSet::new();
    one.set(first).expect("it was in a set");
    sched_setaffinity(this, &one).expect("a process may use fewer processors");
}

/// Does an operation so often, for valgrind, and prints how often it was.
fn work(operation: &str, rounds: u32) {
    let named = |(known, _): &(Operation, f64)| format!("{known:?}") == operation;
    let (operation, _) = LIMITS.into_iter().find(named).expect("an operation");
    let mut operations = Operations::connect(&Endpoint::from_env().expect("an endpoint"), "count");
    let times: u32 = (0..rounds)
        .map(|_| {
            operations.prepare(operation);
            operations.run(operation)
        })
        .sum();
    println!("{times}");
}

/// How many instructions an operation needs that is done so often, and how often it was.
fn count(folder: &Path, operation: Operation, rounds: u32) -> (u64, u64) {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*Operations*run*")
        .arg(env::current_exe().expect("a program has a path"))
        .args([format!("{operation:?}"), rounds.to_string()])
        .envs([(ENV_SOCKET_DIR, folder), (ENV_SHM_ROOT, folder)])
        .output()
        .expect("valgrind starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let collected = errors.lines().find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.expect("valgrind says what it counted");
    let times = String::from_utf8_lossy(&output.stdout);
    (collected.trim().parse().expect("a number"), times.trim().parse().expect("a number"))
}
