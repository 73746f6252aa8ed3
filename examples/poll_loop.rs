//! Two clients and standard input in one loop around poll(2).
//!
//! `poll_loop` prints the events of cmap and quorum. A line `KEY VALUE` on standard input sets a
//! key. The end of the input ends the program.

use std::error::Error;
use std::io::{self, Read};
use std::os::fd::AsFd;

use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::{TrackFlags, quorum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn main() -> Result<(), Box<dyn Error>> {
    let cmap = cmap::Client::connect()?;
    cmap.track_add("", TrackEvents::ALL | TrackEvents::PREFIX)?;
    let quorum = quorum::Client::connect()?;
    quorum.track_start(TrackFlags::CHANGES)?;
    let mut stdin = io::stdin();
    let mut typed = Vec::new();

    loop {
        let mut fds = [cmap.as_fd(), quorum.as_fd(), stdin.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [cmap_ready, quorum_ready, stdin_ready] = fds.map(|fd| fd.any().unwrap_or(true));
        // Takes a few events of each client, so that a busy one does not delay the other. Events
        // that are left keep the descriptor readable. An error comes after all events and ends the
        // program. A readable descriptor without an event is normal.
        if cmap_ready {
            for _ in 0..16 {
                let Some(event) = cmap.poll_event()? else { break };
                println!("{event:?}");
            }
        }
        if quorum_ready {
            for _ in 0..16 {
                let Some(event) = quorum.poll_event()? else { break };
                println!("{event:?}");
            }
        }
        if stdin_ready {
            let mut buffer = [0; 4096];
            let count = stdin.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            typed.extend_from_slice(&buffer[..count]);
            while let Some(end) = typed.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = typed.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                match line.split_once(' ') {
                    Some((key, value)) => cmap.set(key, value.to_owned())?,
                    None => eprintln!("expected KEY VALUE, not {line:?}"),
                }
            }
        }
    }
}
