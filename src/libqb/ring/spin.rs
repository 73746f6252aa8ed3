//! Spinning for a moment before sleeping, where that is faster.
//!
//! An idle daemon answers in a few microseconds. Sleeping and being woken can cost tens of them, on
//! both sides: a poster that sees no waiter makes no system call. So a short spin pays if the daemon
//! runs on another processor. It may not: the system often lets it run on that of the thread that
//! woke it, and expects that thread to sleep. Then a spin only delays the answer, as it does while all
//! processors are busy.

use std::hint;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::sys::process::has_several_processors;

/// How long to spin at most.
const MOST: Duration = Duration::from_micros(64);

/// After how many waits the slower way is tried again, at first and at most. So few are tried that
/// less than one of a hundred waits is longer for it.
const FIRST_INTERVAL: u32 = 4;
const LONGEST_INTERVAL: u32 = 256;

/// A wait that takes longer counts as this: the daemon was busy, and the way made no difference.
const LONGEST: Duration = Duration::from_millis(1);

/// How many pauses to make between two reads of the shared word, so that its writer is not slowed
/// down.
const PAUSES: u32 = 8;

/// Learns which way of waiting is faster.
#[derive(Debug)]
pub(super) struct Spin {
    spun: Average,
    slept: Average,
    /// The number of waits until the slower way is tried again, now and the next time.
    left: u32,
    interval: u32,
    /// When the wait began that is not over yet, and whether it spins.
    begun: Option<(Instant, bool)>,
}

/// How long waits took of late, in nanoseconds. 0: none was measured.
#[derive(Debug, Default)]
struct Average(u32);

impl Average {
    fn add(&mut self, took: Duration) {
        let took = took.min(LONGEST).subsec_nanos().max(1);
        self.0 = if self.0 == 0 { took } else { self.0 - self.0 / 4 + took / 4 };
    }
}

impl Spin {
    pub(super) fn new() -> Self {
        Self {
            spun: Average::default(),
            slept: Average::default(),
            left: FIRST_INTERVAL,
            interval: FIRST_INTERVAL,
            begun: None,
        }
    }

    /// Begins a wait. Spins until `ready`, but not for long, and only where that is the faster way.
    pub(super) fn begin(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) {
        self.begun = None;
        if ready() || !several_processors() {
            return;
        }
        let (begun, spins) = (Instant::now(), self.choose());
        self.begun = Some((begun, spins));
        let most = MOST.min(limit);
        while spins && begun.elapsed() < most {
            for _ in 0..PAUSES {
                hint::spin_loop();
            }
            if ready() {
                return;
            }
        }
    }

    /// Notes that what was waited for is there.
    pub(super) fn end(&mut self) {
        if let Some((begun, spins)) = self.begun.take() {
            let way = if spins { &mut self.spun } else { &mut self.slept };
            way.add(begun.elapsed());
        }
    }

    /// Whether to spin this time.
    fn choose(&mut self) -> bool {
        let spins = self.spun.0 <= self.slept.0;
        self.left -= 1;
        if self.left > 0 {
            return spins;
        }
        // The faster way stays so more often than not.
        self.interval = (2 * self.interval).min(LONGEST_INTERVAL);
        self.left = self.interval;
        !spins
    }
}

fn several_processors() -> bool {
    static SEVERAL: OnceLock<bool> = OnceLock::new();
    *SEVERAL.get_or_init(has_several_processors)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chooses `times` times, and measures what each way takes. Returns how often it spun.
    fn spun(spin: &mut Spin, times: u32, spinning: Duration, sleeping: Duration) -> u32 {
        let chosen = (0..times).filter(|_| {
            let spins = spin.choose();
            let (way, took) =
                if spins { (&mut spin.spun, spinning) } else { (&mut spin.slept, sleeping) };
            way.add(took);
            spins
        });
        chosen.count().try_into().unwrap()
    }

    #[test]
    fn the_faster_way_is_chosen_and_the_other_one_seldom_tried() {
        let [fast, slow] = [3, 60].map(Duration::from_micros);
        let mut spin = Spin::new();
        assert!(spun(&mut spin, 10_000, fast, slow) > 9_900);
        // The daemon runs on the processor of this thread from now on.
        let late = spun(&mut spin, 10_000, slow, fast);
        assert!((1..1_500).contains(&late), "{late}");
        assert!(spun(&mut spin, 10_000, slow, fast) < 100);
        assert!(spun(&mut spin, 10_000, fast, Duration::from_secs(3)) > 9_900);
    }
}
