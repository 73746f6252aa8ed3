//! Copies to and from the memory of a ring beside plain ones, which call the C library's `memcpy`.
//!
//! `cargo bench --bench copies` needs nothing else. The two take turns. Times are of a thousand
//! copies, and medians over the rounds; what counts is the ratio.

#[path = "../src/libqb/ring/copy.rs"]
mod copy;

use std::hint::black_box;
use std::ptr;
use std::time::{Duration, Instant};

use memmap2::MmapOptions;

const ROUNDS: usize = 41;

const SIZES: [(&str, usize); 8] = [
    ("16 B", 16),
    ("64 B", 64),
    ("256 B", 256),
    ("1 KiB", 1 << 10),
    ("8 KiB", 8 << 10),
    ("64 KiB", 64 << 10),
    ("1 MiB", 1 << 20),
    ("5 MiB", 5 << 20),
];

/// Where a chunk's payload begins.
const OFFSET: usize = 8;

fn main() {
    let largest = SIZES.map(|(_, size)| size).into_iter().max().unwrap();
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len((OFFSET + largest) as u64).unwrap();
    let map = MmapOptions::new().map_raw(&file).unwrap();
    let ring = map.as_mut_ptr().wrapping_add(OFFSET);
    let mut message = vec![1_u8; largest];
    let message = message.as_mut_ptr();
    // SAFETY: both have that many bytes, and nothing else uses them.
    unsafe { ptr::copy_nonoverlapping(message, ring, largest) };
    println!("{:<22} {:>12} {:>12} {:>7}", "", "copy", "memcpy", "ratio");
    for (direction, from, to) in [("to a ring", message, ring), ("from a ring", ring, message)] {
        for (name, size) in SIZES {
            let times = ((16 << 20) / size).clamp(4, 200_000) as u32;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                // SAFETY: both have that many bytes, which nothing else uses.
                ours.push(time(times, || unsafe {
                    copy::copy(black_box(from), black_box(to), black_box(size));
                }));
                // SAFETY: as above.
                theirs.push(time(times, || unsafe {
                    ptr::copy_nonoverlapping(black_box(from), black_box(to), black_box(size));
                }));
            }
            let (ours, theirs) = (median(ours), median(theirs));
            let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
            let what = format!("{name} {direction}");
            println!("{what:<22} {ours:>12.1?} {theirs:>12.1?} {ratio:>6.2}x");
        }
    }
}

fn time(times: u32, work: impl Fn()) -> Duration {
    let start = Instant::now();
    for _ in 0..times {
        work();
    }
    start.elapsed() * 1000 / times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
