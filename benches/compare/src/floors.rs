//! What no library can be faster than.

use std::hint::black_box;
use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::lines::{Floor, Regime, SIZES};
use crate::processes::{Part, Player};
use crate::report::median;

/// In seconds, of one regime.
pub(crate) struct Floors {
    wake: f64,
    /// By size.
    copies: Vec<(usize, f64)>,
}

impl Floors {
    pub(crate) fn measure(regime: Regime) -> Floors {
        let sizes = SIZES.iter().map(|(size, _)| *size).filter(|size| *size > 0);
        Floors { wake: wake(regime), copies: sizes.map(|size| (size, copies(size))).collect() }
    }

    pub(crate) fn of(&self, floor: Floor) -> f64 {
        match floor {
            Floor::Wake => self.wake,
            Floor::Copies(size) => {
                let known = self.copies.iter().find(|(of, _)| *of == size);
                known.expect("each size is measured").1
            }
        }
    }
}

/// Wakes another process, and is woken by it.
fn wake(regime: Regime) -> f64 {
    let mut echo = Player::start(Part::Echo);
    let (input, output) = echo.ends();
    let (pause, count) = match regime.pause() {
        0 => (None, 2_000),
        nanos => (Some(Duration::from_nanos(nanos)), 100),
    };
    let times = (0..count).map(|_| {
        if let Some(pause) = pause {
            thread::sleep(pause);
        }
        let start = Instant::now();
        input.write_all(&[0]).expect("the other process reads");
        output.read_exact(&mut [0]).expect("the other process writes");
        start.elapsed().as_secs_f64()
    });
    median(times.collect())
}

/// Copies a message into a ring and out of it.
fn copies(size: usize) -> f64 {
    let (from, mut ring, mut to) = (vec![1_u8; size], vec![0; size], vec![0; size]);
    let repeats = ((1 << 20) / size).clamp(1, 1_000) as u32;
    let times = (0..50).map(|_| {
        let start = Instant::now();
        for _ in 0..repeats {
            black_box(&mut ring).copy_from_slice(black_box(&from));
            black_box(&mut to).copy_from_slice(black_box(&ring));
        }
        start.elapsed().as_secs_f64() / f64::from(repeats)
    });
    median(times.collect())
}
