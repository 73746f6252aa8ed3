//! The table that both benches print: ours, C's and how much better than C ours is.

#![allow(dead_code, reason = "every bench uses only a part")]

use std::time::Duration;

pub(crate) fn print_head() {
    println!("{:<28} {:>12} {:>12} {:>7}", "", "corosync-ipc", "C library", "ratio");
}

/// Prints the medians of what each round took.
pub(crate) fn print_row(what: &str, ours: Vec<Duration>, theirs: Vec<Duration>) {
    let (ours, theirs) = (median(ours), median(theirs));
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!("{what:<28} {ours:>12.1?} {theirs:>12.1?} {ratio:>6.2}x");
}

/// Prints how many of `count` things there were a second, by the medians of what each round took.
pub(crate) fn print_rates(what: &str, count: u32, ours: Vec<Duration>, theirs: Vec<Duration>) {
    let rate = |times| f64::from(count) / median(times).as_secs_f64();
    let (ours, theirs) = (rate(ours), rate(theirs));
    println!("{what:<28} {ours:>10.0}/s {theirs:>10.0}/s {:>6.2}x", ours / theirs);
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
