//! What work costs.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

unsafe extern "C" {
    safe fn c_allocations() -> u64;
    safe fn c_count_tracepoint(id: u64) -> i32;
}

/// Reads the counters of this process and of another one.
pub(crate) struct Meter {
    other: ClockId,
    /// The tracepoint of system calls.
    tracepoint: Option<u64>,
}

/// What the kernel calls the start of a system call, or nothing where tracefs is not mounted.
pub(crate) fn tracepoint() -> Option<u64> {
    ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].iter().find_map(|root| {
        fs::read_to_string(format!("{root}/events/raw_syscalls/sys_enter/id"))
            .ok()?
            .trim()
            .parse()
            .ok()
    })
}

/// What work cost for each of its operations.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Seconds.
    pub(crate) wall: f64,
    /// Processor seconds of this process.
    pub(crate) own: f64,
    /// Processor seconds of the other one.
    pub(crate) other: f64,
    pub(crate) allocations: f64,
    pub(crate) faults: f64,
}

impl Cost {
    fn map(self, other: Cost, combine: impl Fn(f64, f64) -> f64) -> Cost {
        Cost {
            wall: combine(self.wall, other.wall),
            own: combine(self.own, other.own),
            other: combine(self.other, other.other),
            allocations: combine(self.allocations, other.allocations),
            faults: combine(self.faults, other.faults),
        }
    }

    /// What is left without the cost of something else.
    pub(crate) fn without(self, other: Cost) -> Cost {
        self.map(other, |all, part| all - part)
    }
}

impl Meter {
    pub(crate) fn new(other: u32, tracepoint: Option<u64>) -> Self {
        let other = clock_getcpuclockid(Pid::from_raw(other.try_into().expect("a process id")))
            .expect("the process runs");
        Meter { other, tracepoint }
    }

    fn read(&self) -> Cost {
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the kernel counts");
        Cost {
            own: processor_time(ClockId::CLOCK_PROCESS_CPUTIME_ID),
            other: processor_time(self.other),
            allocations: c_allocations() as f64,
            faults: usage.minor_page_faults() as f64,
            wall: 0.0,
        }
    }

    /// What the work cost for each of its operations.
    pub(crate) fn measure(&self, operations: u32, work: impl FnOnce()) -> Cost {
        let (before, start) = (self.read(), Instant::now());
        work();
        let wall = start.elapsed().as_secs_f64();
        let all = Cost { wall, ..self.read().without(before) };
        all.map(Cost::default(), |all, _| all / f64::from(operations))
    }

    /// How many system calls this thread and those that it starts do for each operation. Counting
    /// makes the calls of all processes slower, so what is counted is not timed.
    pub(crate) fn system_calls(&self, operations: u32, work: impl FnOnce()) -> Option<f64> {
        let counter = c_count_tracepoint(self.tracepoint?);
        if counter < 0 {
            return None;
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        let mut counter = unsafe { File::from_raw_fd(counter) };
        let mut count = || {
            let mut count = [0; 8];
            counter.read_exact(&mut count).expect("a counter can be read");
            u64::from_ne_bytes(count) as f64
        };
        let before = count();
        work();
        Some((count() - before) / f64::from(operations))
    }
}

/// What this thread has spent so far, in seconds.
pub(crate) fn time_of_thread() -> f64 {
    processor_time(ClockId::CLOCK_THREAD_CPUTIME_ID)
}

/// In seconds.
fn processor_time(clock: ClockId) -> f64 {
    Duration::from(clock_gettime(clock).expect("the clock of a process that runs")).as_secs_f64()
}
