//! What operations cost that does not depend on the machine: allocations, and system calls as
//! strace sees them. A change that makes something cheaper lowers its limit here.
//!
//! `benches/instructions.rs` has limits of instructions.

mod allocator;
mod operations;
mod system_calls;

use corosync_ipc::Endpoint;
use testbed::{HostKind, IpcType};

use self::operations::{Operation, Operations};

/// At most so many for one operation, as a median over many. How often a client looks for an answer
/// and sleeps depends on when that comes, so these system calls do not count.
struct Limit {
    operation: Operation,
    allocations: f64,
    allocations_with_datagrams: f64,
    system_calls: f64,
}

#[rustfmt::skip]
const LIMITS: [Limit; 9] = [
    limit(Operation::Get,              1.0,   5.0,  1.0),
    limit(Operation::Set,              3.0,   7.0,  1.0),
    limit(Operation::Quorate,          0.0,   4.0,  1.0),
    limit(Operation::KeyOfList,        9.5,   18.5, 0.2),
    limit(Operation::EventOfCmap,      1.1,   2.1,  0.05),
    limit(Operation::EventOfCpg,       1.1,   2.1,  0.05),
    limit(Operation::Multicast,        1.0,   2.0,  1.0),
    limit(Operation::MulticastOfMany,  0.1,   1.1,  0.2),
    limit(Operation::EmptyDispatch,    0.0,   1.0,  0.05),
];

const fn limit(
    operation: Operation,
    allocations: f64,
    allocations_with_datagrams: f64,
    system_calls: f64,
) -> Limit {
    Limit { operation, allocations, allocations_with_datagrams, system_calls }
}

/// How often each operation is measured.
const ROUNDS: u32 = 50;

testbed::embedded_process!();

mod embedded {
    testbed::on_host!(HostKind::Embedded, IpcType::Shm; rings_keep_the_limits_of_allocations;);
}
mod real {
    testbed::on_host!(HostKind::Real, IpcType::Shm; rings_keep_the_limits_of_allocations;);
}
mod embedded_socket {
    testbed::on_host!(HostKind::Embedded, IpcType::Socket; datagrams_keep_the_limits_of_allocations;);
}
mod real_socket {
    testbed::on_host!(HostKind::Real, IpcType::Socket; datagrams_keep_the_limits_of_allocations;);
}

fn rings_keep_the_limits_of_allocations(endpoint: &Endpoint) {
    count_allocations(endpoint, |limit| limit.allocations);
}

fn datagrams_keep_the_limits_of_allocations(endpoint: &Endpoint) {
    count_allocations(endpoint, |limit| limit.allocations_with_datagrams);
}

fn count_allocations(endpoint: &Endpoint, most: impl Fn(&Limit) -> f64) {
    let mut operations = Operations::connect(endpoint, "allocations");
    for limit in LIMITS {
        let mut costs = Vec::new();
        for round in 0..=ROUNDS {
            operations.prepare(limit.operation);
            let before = allocator::of_this_thread();
            let times = operations.run(limit.operation);
            let allocations = allocator::of_this_thread() - before;
            // The first one is not like the others.
            if round > 0 {
                costs.push(allocations as f64 / f64::from(times));
            }
        }
        judge("allocations", limit.operation, costs, most(&limit));
    }
}

/// Fails if the median is more than the limit.
fn judge(what: &str, operation: Operation, mut costs: Vec<f64>, limit: f64) {
    costs.sort_by(f64::total_cmp);
    let median = costs[costs.len() / 2];
    println!("{operation:?}: {median:.2} {what}, at most {limit}");
    assert!(median <= limit, "{operation:?} has {median} {what}, which is more than {limit}");
}
