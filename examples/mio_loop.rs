//! Clients in a loop of mio, whose readiness is edge-triggered.
//!
//! `mio_loop [N]` prints the events of cmap and votequorum, and ends after N of them.

use std::env;
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::{ServiceClient, TrackFlags, votequorum};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

const CMAP: Token = Token(0);
const VOTEQUORUM: Token = Token(1);

fn main() -> Result<(), Box<dyn Error>> {
    let mut left = env::args().nth(1).map_or(Ok(u64::MAX), |number| number.parse())?;
    let cmap = cmap::Client::connect()?;
    let votequorum = votequorum::Client::connect()?;
    let mut poll = Poll::new()?;
    for (fd, token) in [(cmap.as_fd(), CMAP), (votequorum.as_fd(), VOTEQUORUM)] {
        poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
    }
    cmap.track_add("", TrackEvents::ALL | TrackEvents::PREFIX)?;
    votequorum.track_start(0, TrackFlags::CHANGES)?;
    println!("ready");

    let mut events = Events::with_capacity(8);
    while left > 0 {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            match event.token() {
                CMAP => drain(&cmap, &mut left)?,
                _ => drain(&votequorum, &mut left)?,
            }
        }
    }
    Ok(())
}

/// Takes events until none is left. Only then the next event makes another edge.
fn drain<C: ServiceClient<Event: std::fmt::Debug>>(
    client: &C,
    left: &mut u64,
) -> corosync_ipc::Result<()> {
    while let Some(event) = client.poll_event()? {
        println!("{event:?}");
        *left = left.saturating_sub(1);
    }
    Ok(())
}
