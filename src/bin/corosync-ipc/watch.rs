//! The loop of all commands that print events.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

use corosync_ipc::{Dispatcher, NodeId, ServiceClient};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::output::{base64, print, print_event, rfc3339};

/// An event as text and as JSON.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) event: &'static str,
    /// For people.
    pub(crate) text: String,
    /// The members of the JSON object beside `event` and `time`.
    pub(crate) members: Json,
}

impl Line {
    /// An event that the library does not know.
    pub(crate) fn unknown(service: &str, id: i32, message: &[u8]) -> Self {
        Self {
            event: "unknown",
            text: format!("{service} message {id}, {} bytes", message.len()),
            members: json!({ "service": service, "message_id": id, "payload": base64(message) }),
        }
    }

    fn write(self, json: bool) -> Result<(), Failure> {
        let time = SystemTime::now();
        if json {
            print_event(self.event, time, self.members)
        } else {
            print(format!("{} {}: {}\n", rfc3339(time), self.event, self.text))
        }
    }
}

/// Node ids for JSON.
pub(crate) fn ids(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// Prints the events of clients until `count` lines are printed or a client fails.
pub(crate) struct Watch {
    dispatcher: Dispatcher<Printer>,
    printer: Printer,
}

struct Printer {
    json: bool,
    /// The number of lines to print, or `None` for no limit.
    left: Option<u64>,
    /// The event whose lines count, or `None` for all.
    counted: Option<&'static str>,
    end: Option<Result<(), Failure>>,
}

impl Watch {
    /// Ends after `count` lines.
    pub(crate) fn new(context: &Context, count: Option<u64>) -> Result<Self, Failure> {
        let printer = Printer { json: context.json, left: count, counted: None, end: None };
        Ok(Self { dispatcher: Dispatcher::new()?, printer })
    }

    /// Counts only the lines of this event.
    pub(crate) fn counting(mut self, event: &'static str) -> Self {
        self.printer.counted = Some(event);
        self
    }

    /// Adds a client. `lines` turns an event into lines.
    pub(crate) fn add<C, L>(
        &mut self,
        client: C,
        mut lines: impl FnMut(C::Event) -> Result<L, Failure> + Send + 'static,
    ) -> Result<(), Failure>
    where
        C: ServiceClient,
        L: IntoIterator<Item = Line>,
    {
        self.dispatcher.add(client, move |printer: &mut Printer, event, control| {
            let lines = event.map_err(Failure::from).and_then(&mut lines);
            match lines.and_then(|lines| printer.print(lines)) {
                Ok(()) => {}
                Err(failure) => _ = printer.end.get_or_insert(Err(failure)),
            }
            if printer.end.is_some() {
                control.stop();
            }
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    /// Returns a function that ends the loop from another thread.
    pub(crate) fn ender(&self) -> impl FnOnce(Failure) + Send + use<> {
        let waker = self.dispatcher.waker();
        move |failure| {
            // Fails when the loop has ended already.
            let _ = waker.run(|printer, _| _ = printer.end.get_or_insert(Err(failure)));
        }
    }

    /// Prints events as they arrive. Ends also when nobody reads standard output any more.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let stdout = io::stdout();
        loop {
            // poll always reports the end of standard output; no event needs to be requested.
            let mut watched = [
                PollFd::new(self.dispatcher.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            poll_any(&mut watched, "waiting for events")?;
            if watched[1].any() == Some(true) {
                return Err(Failure::OutputClosed);
            }
            self.dispatcher.round(&mut self.printer, Duration::ZERO)?;
            if let Some(end) = self.printer.end {
                return end;
            }
        }
    }
}

impl Printer {
    fn print(&mut self, lines: impl IntoIterator<Item = Line>) -> Result<(), Failure> {
        for line in lines {
            if self.end.is_some() {
                break;
            }
            let is_counted = self.counted.is_none_or(|event| event == line.event);
            line.write(self.json)?;
            if let Some(left) = self.left.as_mut().filter(|_| is_counted) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.end = Some(Ok(()));
                }
            }
        }
        Ok(())
    }
}

/// Waits until a descriptor has an event.
pub(crate) fn poll_any(watched: &mut [PollFd<'_>], what: &str) -> Result<(), Failure> {
    loop {
        match poll(watched, PollTimeout::NONE) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::refused(format!("{what}: {error}"))),
        }
    }
}
