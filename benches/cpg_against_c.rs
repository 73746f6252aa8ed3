//! cpg beside libcpg, from the same run against the same real corosync: one member multicasts to
//! itself as fast as it goes.
//!
//! `cargo bench --bench cpg_against_c`; what it needs is what `against_c` needs. Printed are the
//! medians over the rounds of what a message takes and of the processor time the member spends on
//! it.

mod compare;

use std::path::Path;
use std::time::{Duration, Instant};

use corosync_ipc::cpg::{Client, Event, GroupName, Guarantee};
use corosync_ipc::{CsError, Error};
use nix::sys::resource::{UsageWho, getrusage};

const ROUNDS: usize = 7;

/// Multicasts so many messages of a size as a careful program does, which waits for the descriptor
/// when it is to try again, and prints the nanoseconds of time and of processor time.
const C_PROGRAM: &str = r#"
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <corosync/cpg.h>

static long received;
static void deliver(cpg_handle_t h, const struct cpg_name *g, uint32_t n, uint32_t p, void *m, size_t l)
{ (void)h; (void)g; (void)n; (void)p; (void)m; (void)l; received++; }
static void confchg(cpg_handle_t h, const struct cpg_name *g, const struct cpg_address *m, size_t ml, const struct cpg_address *l,
    size_t ll, const struct cpg_address *j, size_t jl)
{ (void)h; (void)g; (void)m; (void)ml; (void)l; (void)ll; (void)j; (void)jl; }
static void check(int error) { if (error != CS_OK) { fprintf(stderr, "error %d\n", error); exit(1); } }
static long long now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }

/* Waits for events, but not for long: nothing announces that multicasts are taken again. */
static void dispatch(cpg_handle_t handle, int fd, int milliseconds)
{
    struct pollfd poll_fd = { fd, POLLIN, 0 };
    poll(&poll_fd, 1, milliseconds);
    check(cpg_dispatch(handle, CS_DISPATCH_ALL));
}

static long long spent(const struct rusage *u)
{ return (u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000000LL + (u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1000LL; }

int main(int argc, char **argv) {
    long count = atol(argv[1]);
    size_t size = (size_t)atol(argv[2]);
    cpg_callbacks_t callbacks = { deliver, confchg };
    struct cpg_name group;
    cpg_handle_t handle;
    struct iovec iov;
    struct rusage before, usage;
    (void)argc;
    memset(&group, 0, sizeof group);
    int fd;
    strcpy(group.value, "bench");
    group.length = 5;
    check(cpg_initialize(&handle, &callbacks));
    check(cpg_join(handle, &group));
    check(cpg_fd_get(handle, &fd));
    iov.iov_base = calloc(1, size);
    iov.iov_len = size;
    getrusage(RUSAGE_SELF, &before);
    long long start = now();
    for (long i = 0; i < count; i++) {
        int error;
        /* CS_ERR_INTERRUPT: libcpg gave up in the middle of the fragments, and all of it has to be sent again. */
        while ((error = cpg_mcast_joined(handle, CPG_TYPE_AGREED, &iov, 1)) == CS_ERR_TRY_AGAIN || error == CS_ERR_INTERRUPT)
            dispatch(handle, fd, 1);
        check(error);
        check(cpg_dispatch(handle, CS_DISPATCH_ALL));
    }
    while (received < count) dispatch(handle, fd, -1);
    long long took = now() - start;
    getrusage(RUSAGE_SELF, &usage);
    printf("%lld %lld\n", took, spent(&usage) - spent(&before));
    return 0;
}
"#;

/// Messages and their size in bytes.
const LOADS: [(u32, usize); 4] = [(10_000, 64), (10_000, 1024), (2_000, 64 << 10), (20, 4 << 20)];

fn ours(count: u32, size: usize) -> (Duration, Duration) {
    let client = Client::connect().unwrap();
    client.set_request_timeout(Duration::from_secs(60));
    client.join(&GroupName::new("bench").unwrap()).unwrap();
    let message = vec![0; size];
    let mut received = 0;
    let mut take = |event: Option<Event>| {
        received += u32::from(matches!(event, Some(Event::Deliver(_))));
        event.is_some().then_some(received)
    };
    let (start, spent) = (Instant::now(), processor_time());
    let mut done = 0;
    for _ in 0..count {
        loop {
            // As libcpg, which cuts a large message into fragments and waits for each.
            let sent = if size > client.max_atomic_message_size() {
                client.multicast(Guarantee::AGREED, &message)
            } else {
                client.try_multicast(Guarantee::AGREED, &message)
            };
            match sent {
                Ok(()) => break,
                Err(Error::Cs { error: CsError::TryAgain, .. }) => {
                    done =
                        take(client.next_event(Duration::from_millis(1)).unwrap()).unwrap_or(done);
                }
                Err(error) => panic!("{error}"),
            }
        }
        while let Some(received) = take(client.poll_event().unwrap()) {
            done = received;
        }
    }
    while done < count {
        done = take(client.next_event(Duration::from_secs(60)).unwrap()).unwrap();
    }
    (start.elapsed(), processor_time() - spent)
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    let time = |time: nix::sys::time::TimeVal| {
        Duration::new(
            time.tv_sec().try_into().unwrap(),
            u32::try_from(time.tv_usec()).unwrap() * 1000,
        )
    };
    time(usage.user_time()) + time(usage.system_time())
}

fn theirs(program: &Path, node: &testbed::Node, count: u32, size: usize) -> (Duration, Duration) {
    let output = node.command(program).args([count.to_string(), size.to_string()]).run().success();
    let mut times =
        output.split_whitespace().map(|nanos| Duration::from_nanos(nanos.parse().unwrap()));
    (times.next().unwrap(), times.next().unwrap())
}

fn main() {
    if testbed::skip() {
        return;
    }
    let Some(program) = testbed::cc(C_PROGRAM, &["cpg"]) else { return };
    let cluster = testbed::Cluster::one();
    let node = cluster.node(1);
    compare::print_head();
    for (count, size) in LOADS {
        let mut rounds = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let (our_time, our_processor) = node.run(|| ours(count, size));
            let (their_time, their_processor) = theirs(&program, node, count, size);
            for (times, time) in
                rounds.iter_mut().zip([our_time, their_time, our_processor, their_processor])
            {
                times.push(time / count);
            }
        }
        let [our_time, their_time, our_processor, their_processor] = rounds;
        compare::print_row(&format!("{size} bytes"), our_time, their_time);
        compare::print_row(&format!("{size} bytes, processor"), our_processor, their_processor);
    }
}
