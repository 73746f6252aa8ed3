//! Time limits of tests, by a clock that slows down while the machine is behind.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take on a machine that keeps up: the default of [`Patience`].
pub const WATCHDOG: Duration = Duration::from_secs(30);

/// How often the clock looks at the machine.
const TICK: Duration = Duration::from_millis(20);

/// A time limit. It grows by the time that threads wait for a processor.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    end: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience::new()
    }
}

impl Patience {
    /// [`WATCHDOG`] from now on.
    pub fn new() -> Patience {
        Patience::of(WATCHDOG)
    }

    /// This long from now on.
    pub fn of(limit: Duration) -> Patience {
        Patience { end: clock() + limit }
    }

    /// The time left if the machine keeps up from now on.
    pub fn left(self) -> Duration {
        self.end.saturating_sub(clock())
    }

    /// Whether the limit is over.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }
}

/// Calls a function that waits up to a time limit, first with [`WATCHDOG`]. When it returns `None`
/// and the machine was behind, calls it again with the time left.
pub fn patiently<T>(wait: impl FnMut(Duration) -> Option<T>) -> Option<T> {
    patiently_for(WATCHDOG, wait)
}

/// As [`patiently`] with another limit.
pub fn patiently_for<T>(limit: Duration, mut wait: impl FnMut(Duration) -> Option<T>) -> Option<T> {
    let patience = Patience::of(limit);
    let mut left = limit;
    loop {
        let found = wait(left.max(TICK));
        left = patience.left();
        if found.is_some() || left.is_zero() {
            return found;
        }
    }
}

/// The time since the first call, reduced to the share that a thread gets of a processor. Needs no
/// root.
pub(super) fn clock() -> Duration {
    static COUNTED: AtomicU64 = AtomicU64::new(0);
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        let loads = File::open("/proc/loadavg").ok();
        let tick = move || {
            let mut last = Instant::now();
            loop {
                thread::sleep(TICK);
                let now = Instant::now();
                // A tick that comes late was behind itself.
                let passed = (now - last).min(2 * TICK).div_f64(behind(loads.as_ref()));
                last = now;
                COUNTED.fetch_add(passed.as_nanos() as u64, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("clock".to_owned()).spawn(tick).expect("cannot start a thread");
    });
    Duration::from_nanos(COUNTED.load(Ordering::Relaxed))
}

/// The number of runnable threads for each processor, at least 1.
fn behind(loads: Option<&File>) -> f64 {
    let running = || -> Option<f64> {
        let mut text = [0; 80];
        let length = loads?.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(&text[..length]).ok()?;
        text.split_whitespace().nth(3)?.split('/').next()?.parse().ok()
    };
    let processors = thread::available_parallelism().map_or(1, usize::from);
    // This one is among them.
    ((running().unwrap_or(1.0) - 1.0) / processors as f64).max(1.0)
}
