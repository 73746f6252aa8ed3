//! Clients that connect again, in an event loop of one's own around poll(2).
//!
//! `supervised_loop [N]` prints the events of quorum and cmap, through restarts of corosync. It
//! ends after the quorum connection was lost N times.

use std::env;
use std::error::Error;
use std::fmt::Debug;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::supervise::{CmapTracker, Notice, Supervise, Supervised};
use corosync_ipc::{Endpoint, TrackFlags, quorum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> Result<(), Box<dyn Error>> {
    let most_gaps = env::args().nth(1).map_or(Ok(u64::MAX), |number| number.parse())?;

    // The loop connects, and waits for that meanwhile, so it must not take long.
    let endpoint = Endpoint::from_env()?.connect_timeout(Duration::from_millis(500));
    let here = endpoint.clone();
    let mut quorum = Supervised::new(move || quorum::Client::connect_to(&here));
    quorum.set_up(TrackFlags::CHANGES)?;
    let mut cmap = Supervised::new(move || cmap::Client::connect_to(&endpoint));
    cmap.set_up(CmapTracker::new("followed.", TrackEvents::ALL | TrackEvents::PREFIX))?;

    // One descriptor for each client, which stays the same when it connects again.
    let descriptors = [quorum.descriptor()?, cmap.descriptor()?];
    while quorum.stats().gaps < most_gaps {
        let mut fds = descriptors.each_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [quorum_ready, cmap_ready] = fds.map(|fd| fd.any().unwrap_or(true));
        if quorum_ready {
            serve(&mut quorum)?;
        }
        if cmap_ready {
            serve(&mut cmap)?;
        }
    }
    println!("quorum: {:?}", quorum.stats());
    Ok(())
}

/// Prints a few notices, so that a busy client does not keep the others waiting.
fn serve<C>(client: &mut Supervised<C>) -> corosync_ipc::Result<()>
where
    C: Supervise<Event: Debug>,
{
    for _ in 0..16 {
        let Some(notice) = client.next(Duration::ZERO)? else { break };
        match notice {
            Notice::Event(event) => println!("{}: {event:?}", C::SERVICE),
            Notice::Up(up) => println!("{}: up after {:?}", C::SERVICE, up.gap),
            Notice::Lost { error } => println!("{}: lost: {error}", C::SERVICE),
            _ => {}
        }
    }
    // A loop with timers of its own can use this instead of the descriptor.
    if let Some(at) = client.next_attempt_at() {
        let pause = at.saturating_duration_since(Instant::now());
        println!("{}: next attempt in {pause:?}", C::SERVICE);
    }
    Ok(())
}
