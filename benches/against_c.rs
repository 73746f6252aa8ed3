//! Our figures beside the C libraries', from the same run against the same real corosync.
//!
//! `cargo bench --bench against_c` starts a one-node corosync of its own (root, corosync, a C
//! compiler and the C libraries' headers are needed), compiles a small C program against libcmap
//! and libquorum, and lets the two take turns. Times are medians over the rounds; what counts is
//! the ratio.

mod compare;

use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use corosync_ipc::{Endpoint, cmap, quorum};

const ROUNDS: usize = 11;

/// Repeats one operation so many times and prints how many nanoseconds that took.
const C_PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <corosync/cmap.h>
#include <corosync/quorum.h>

static void check(int error) { if (error != CS_OK) { fprintf(stderr, "error %d\n", error); exit(1); } }

int main(int argc, char **argv) {
    const char *what = argv[1];
    long count = atol(argv[2]);
    cmap_handle_t cmap;
    quorum_handle_t quorum;
    uint32_t type;
    struct timespec a, b;
    (void)argc;
    check(cmap_initialize(&cmap));
    check(quorum_initialize(&quorum, NULL, &type));
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (long i = 0; i < count; i++) {
        if (!strcmp(what, "get u32")) {
            uint32_t value;
            check(cmap_get_uint32(cmap, "bench.number", &value));
        } else if (!strcmp(what, "get string")) {
            char *value;
            check(cmap_get_string(cmap, "totem.cluster_name", &value));
            free(value);
        } else if (!strcmp(what, "set u32")) {
            check(cmap_set_uint32(cmap, "bench.number", (uint32_t)i));
        } else if (!strcmp(what, "list all keys with values")) {
            cmap_iter_handle_t iter;
            char key[CMAP_KEYNAME_MAXLEN + 1];
            size_t length;
            cmap_value_types_t value_type;
            check(cmap_iter_init(cmap, NULL, &iter));
            while (cmap_iter_next(cmap, iter, key, &length, &value_type) == CS_OK) {
                char *value = malloc(length);
                cmap_get(cmap, key, value, &length, &value_type);
                free(value);
            }
            check(cmap_iter_finalize(cmap, iter));
        } else if (!strcmp(what, "getquorate")) {
            int quorate;
            check(quorum_getquorate(quorum, &quorate));
        } else if (!strcmp(what, "connect and disconnect")) {
            cmap_handle_t other;
            check(cmap_initialize(&other));
            check(cmap_finalize(other));
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &b);
    printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + (b.tv_nsec - a.tv_nsec));
    return 0;
}
"#;

const OPERATIONS: [(&str, u32); 6] = [
    ("get u32", 5000),
    ("get string", 5000),
    ("set u32", 5000),
    ("list all keys with values", 20),
    ("getquorate", 5000),
    ("connect and disconnect", 100),
];

fn ours(what: &str, count: u32) -> Duration {
    let cmap = cmap::Client::connect().unwrap();
    let quorum = quorum::Client::connect().unwrap();
    let start = Instant::now();
    for number in 0..count {
        match what {
            "get u32" => drop(black_box(cmap.get_as::<u32>("bench.number").unwrap())),
            "get string" => drop(black_box(cmap.get_as::<String>("totem.cluster_name").unwrap())),
            "set u32" => cmap.set("bench.number", number).unwrap(),
            "list all keys with values" => drop(black_box(cmap.list("").unwrap())),
            "getquorate" => drop(black_box(quorum.is_quorate().unwrap())),
            "connect and disconnect" => drop(black_box(cmap::Client::connect().unwrap())),
            other => panic!("{other}"),
        }
    }
    start.elapsed()
}

fn theirs(program: &Path, node: &testbed::Node, what: &str, count: u32) -> Duration {
    let output = node.command(program).args([what, &count.to_string()]).run().success();
    Duration::from_nanos(output.trim().parse().unwrap())
}

fn shared_memory() -> u64 {
    fn size(directory: &Path) -> u64 {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| {
                if entry.path().is_dir() {
                    size(&entry.path())
                } else {
                    entry.metadata().unwrap().blocks() * 512
                }
            })
            .sum()
    }
    size(Path::new("/dev/shm"))
}

fn main() {
    if testbed::skip() {
        return;
    }
    let Some(program) = testbed::cc(C_PROGRAM, &["cmap", "quorum"]) else { return };
    let cluster = testbed::Cluster::one();
    let node = cluster.node(1);
    node.run(|| cmap::Client::connect().unwrap().set("bench.number", 1_u32).unwrap());
    compare::print_head();
    for (what, count) in OPERATIONS {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            our_times.push(node.run(|| ours(what, count)) / count);
            their_times.push(theirs(&program, node, what, count) / count);
        }
        compare::print_row(what, our_times, their_times);
    }
    node.run(|| {
        let before = shared_memory();
        let client = cmap::Client::connect().unwrap();
        let ours = shared_memory() - before;
        let other = cmap::Client::connect_to(&Endpoint::new().ring_size(1 << 20)).unwrap();
        let theirs = shared_memory() - before - ours;
        drop((client, other));
        let (ours, theirs) = (ours / 1024, theirs / 1024);
        println!(
            "{:<28} {ours:>8} KiB {theirs:>8} KiB {:>6.2}x",
            "/dev/shm a connection",
            theirs as f64 / ours as f64
        );
    });
}
