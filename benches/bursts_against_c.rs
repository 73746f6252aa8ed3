//! Bursts of notifications beside libcmap, from the same run against the same real corosync.
//!
//! `cargo bench --bench bursts_against_c`; what it needs is what `against_c` needs. One client has
//! up to 1000 trackers of one key, another sets that key, and the time runs from the first set
//! until the last notification was handed over, through rings and as datagrams. Both libraries use
//! the ring size that they ask for by default. Printed are notifications a second, by the medians over the bursts, and what the
//! daemon counted of its own delays: how often its loop was late, and how long the token was away.

mod compare;

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{Client, Map, Options, TrackEvents};
use corosync_ipc::{Dispatch, Endpoint};

const ROUNDS: usize = 5;
const BURSTS: [u32; 3] = [100, 1_000, 10_000];

/// How many bursts of a size one process measures.
const REPEATS: u32 = 5;

/// Prints the nanoseconds of each burst.
const C_PROGRAM: &str = r#"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <corosync/cmap.h>

static long received;
static void notify(cmap_handle_t h, cmap_track_handle_t t, int32_t event, const char *key,
    struct cmap_notify_value new_value, struct cmap_notify_value old_value, void *data)
{ (void)h; (void)t; (void)event; (void)key; (void)new_value; (void)old_value; (void)data; received++; }
static void check(int error) { if (error != CS_OK) { fprintf(stderr, "error %d\n", error); exit(1); } }
static long long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }

int main(int argc, char **argv) {
    long count = atol(argv[1]), repeats = atol(argv[2]);
    long trackers = count < 1000 ? count : 1000;
    unsigned value = 0;
    cmap_handle_t watcher, setter;
    cmap_track_handle_t track;
    struct pollfd fd = { 0, POLLIN, 0 };
    (void)argc;
    check(cmap_initialize(&watcher));
    check(cmap_initialize(&setter));
    check(cmap_set_uint32(setter, "bench.burst", value));
    for (long i = 0; i < trackers; i++)
        check(cmap_track_add(watcher, "bench.burst", CMAP_TRACK_MODIFY, notify, NULL, &track));
    check(cmap_fd_get(watcher, &fd.fd));
    for (long burst = 0; burst < repeats; burst++) {
        long long start = now();
        received = 0;
        for (long i = 0; i < count / trackers; i++) check(cmap_set_uint32(setter, "bench.burst", ++value));
        while (received < count) {
            if (poll(&fd, 1, -1) < 0) { perror("poll"); exit(1); }
            check(cmap_dispatch(watcher, CS_DISPATCH_ALL));
        }
        printf("%lld\n", now() - start);
    }
    return 0;
}
"#;

fn ours(count: u32) -> Vec<Duration> {
    let (watcher, setter) = (Client::connect().unwrap(), Client::connect().unwrap());
    let trackers = count.min(1000);
    let mut value = 0_u32;
    let mut set = || {
        value += 1;
        setter.set("bench.burst", value).unwrap();
    };
    set();
    for _ in 0..trackers {
        watcher.track_add("bench.burst", TrackEvents::MODIFY).unwrap();
    }
    let burst = |_| {
        let start = Instant::now();
        let mut received = 0;
        (0..count / trackers).for_each(|_| set());
        let handler = |_| {
            received += 1;
            if received < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        watcher.dispatch(Dispatch::Blocking, handler).unwrap();
        start.elapsed()
    };
    (0..REPEATS).map(burst).collect()
}

/// What the daemon says of itself.
fn strain() -> String {
    let statistics =
        Client::connect_with(&Endpoint::new(), Options::new().map(Map::Stats)).unwrap();
    let late = statistics
        .iter("stats.schedmiss.")
        .unwrap()
        .filter(|key| key.as_ref().unwrap().key.ends_with(".delay"))
        .count();
    let token = statistics.get_as::<u32>("stats.srp.mtt_rx_token").unwrap();
    let token = token.map_or("unknown".to_owned(), |milliseconds| format!("{milliseconds} ms"));
    format!("scheduling missed {late} times, mean time to the token {token}")
}

fn theirs(program: &Path, node: &testbed::Node, count: u32) -> Vec<Duration> {
    let output =
        node.command(program).args([count.to_string(), REPEATS.to_string()]).run().success();
    output.lines().map(|nanos| Duration::from_nanos(nanos.parse().unwrap())).collect()
}

fn main() {
    if testbed::skip() {
        return;
    }
    let Some(program) = testbed::cc(C_PROGRAM, &["cmap"]) else { return };
    compare::print_head();
    for ipc_type in ["shm", "socket"] {
        let cluster = testbed::Cluster::builder().ipc_type(Some(ipc_type)).start();
        let node = cluster.node(1);
        let before = node.run(strain);
        for count in BURSTS {
            let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                our_times.extend(node.run(|| ours(count)));
                their_times.extend(theirs(&program, node, count));
            }
            let what = format!("{ipc_type}: burst of {count}");
            compare::print_rates(&what, count, our_times, their_times);
        }
        println!("before: {before}\nafter:  {}", node.run(strain));
    }
}
