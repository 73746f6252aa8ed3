//! Events, one line each, and waiting for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::SystemTime;

use corosync_ipc::NodeId;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::output::{base64, print, print_event, rfc3339};

/// An event, ready to be written.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) event: &'static str,
    /// For people.
    pub(crate) text: String,
    /// The object's members beside "event" and "time".
    pub(crate) members: Json,
}

impl Line {
    /// What the library does not know yet.
    pub(crate) fn unknown(service: &str, id: i32, message: &[u8]) -> Self {
        Self {
            event: "unknown",
            text: format!("{service} message {id}, {} bytes", message.len()),
            members: json!({ "service": service, "message_id": id, "payload": base64(message) }),
        }
    }

    pub(crate) fn write(self, json: bool) -> Result<(), Failure> {
        let time = SystemTime::now();
        if json {
            print_event(self.event, time, self.members)
        } else {
            print(format!("{} {}: {}\n", rfc3339(time), self.event, self.text))
        }
    }
}

/// Node ids as JSON has them.
pub(crate) fn ids(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Counts down what `--count` asks for. True: that was the last.
pub(crate) fn is_last(left: &mut Option<u64>) -> bool {
    *left = left.map(|left| left.saturating_sub(1));
    *left == Some(0)
}

/// Waits until something is to be seen of a descriptor.
pub(crate) fn poll_any(watched: &mut [PollFd<'_>], what: &str) -> Result<(), Failure> {
    loop {
        match poll(watched, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::refused(format!("{what}: {error}"))),
        }
    }
}

/// Waits until one of the clients may have an event, and ends the command when nobody reads its
/// output any more.
pub(crate) fn wait(clients: &[BorrowedFd<'_>]) -> Result<(), Failure> {
    let stdout = io::stdout();
    let mut watched: Vec<PollFd<'_>> =
        clients.iter().map(|client| PollFd::new(*client, PollFlags::POLLIN)).collect();
    // Asks for nothing but the end, which is always told.
    watched.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
    poll_any(&mut watched, "waiting for events")?;
    match watched.last().and_then(PollFd::any) {
        Some(true) => Err(Failure::OutputClosed),
        _ => Ok(()),
    }
}
