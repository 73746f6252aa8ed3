//! A C program that sends more than it takes in, to `corosync-ipc serve`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::program;

/// How much more memory the server may need than at its start, in KiB: the rings of one client, and
/// what waits for it.
const MORE: u64 = 32 << 10;

/// The most memory that a process has had so far, in KiB.
fn most_memory(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}
use testbed::{Cluster, Process, WATCHDOG, cc, copy_for_all, skip, test_seconds, version};

#[test]
fn a_c_program_that_drains_is_never_disconnected_and_takes_no_memory() {
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let Some(flood) = cc(include_str!("flood.c"), &["cpg"]) else { return };
    let flood = copy_for_all(&flood);
    for transport in ["shm", "socket"] {
        is_never_disconnected_and_takes_no_memory(&flood, transport);
    }
}

fn is_never_disconnected_and_takes_no_memory(flood: &Path, transport: &str) {
    let cluster = Cluster::builder().create();
    let node = cluster.node(1);
    let served =
        node.command(program()).args(["serve", "--abstract", "--transport", transport]).spawn();
    served.wait_stdout("serving node 1");
    let before = most_memory(&served);
    for how in ["alternating", "threads"] {
        let limit = WATCHDOG + Duration::from_secs(test_seconds());
        let output = node
            .command(flood)
            .args([how, &test_seconds().to_string()])
            .limit(limit)
            .run()
            .success();
        assert!(
            output.ends_with("whole\n") && !output.starts_with("sent 0,"),
            "{transport}, {how}: {output}"
        );
        let more = most_memory(&served) - before;
        assert!(more < MORE, "{transport}, {how}: {more} KiB more: {output}");
    }
}
