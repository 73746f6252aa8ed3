//! Events: every way to wait for them, for every service, from one thread or many, and what ends a
//! wait. Against the embedded daemon and the real one.

#[cfg(feature = "tokio")]
mod asynchronous;
mod descriptor;
mod dispatch;
mod dispatcher;
mod refill;
mod sharing;
mod source;
mod supervise;
mod system_calls;
#[cfg(feature = "serde")]
mod watch;

use std::time::Duration;

testbed::embedded_process!();

/// Prints the median and the worst of what was measured. For people to read: a busy machine can
/// miss any limit.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: median {median:?}, worst {worst:?} of {}", times.len());
}
