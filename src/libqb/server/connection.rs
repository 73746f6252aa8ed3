//! One client of the server: its rings, what waits to be sent to it, and what it may be believed.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rings::Rings;
use super::{FlowControl, Overflow, SendError};
use crate::error::ProtocolError;
use crate::libqb::wake::{BATCH, WakeBytes};
use crate::sys::serve::{Seen, Watch};
use crate::sys::socket;
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for};

/// At most so many requests of one client are taken before the others have their turn. As libqb's
/// for services of middle priority.
const REQUESTS_A_TURN: usize = 5;

/// At most so many requests are taken that a client left when it closed. Its ring may be written by
/// others still.
const LAST_REQUESTS: usize = 1 << 16;

/// How many bytes of events may wait for a client before those whose requests cause more of them
/// have to wait, and down to how many they do. The daemon's totem has room for about as much.
const BEHIND: usize = 4 << 20;
const CAUGHT_UP: usize = 2 << 20;

/// How long the others wait for a client that does not take [`PROGRESS`] of its events. They are not
/// to stand still with one that does.
const STANDSTILL: Duration = Duration::from_secs(2);

/// How many bytes of events a client takes within [`STANDSTILL`] if it is worth waiting for.
const PROGRESS: usize = 1 << 20;

/// How often a blocked producer looks whether there is room.
const BLOCKED_SLICE: Duration = Duration::from_millis(1);

/// A client whose connection is set up.
///
/// What it sends is looked at only as far as needed to pass it on; everything in its rings that
/// cannot be is the end of the connection.
pub(super) struct Connection {
    socket: OwnedFd,
    rings: Rings,
    pub(super) credentials: Credentials,
    pub(super) service: usize,
    pub(super) max_msg_size: u32,
    /// What is left of the connection reply.
    reply: Vec<u8>,
    /// Bytes owed to the client for events that are in the ring already.
    notifications: usize,
    /// How many of them may still be sent, if there is a limit.
    notifications_left: Option<usize>,
    wake: WakeBytes,
    flow_control: FlowControl,
    /// Its requests wait, since others cannot take in what they cause.
    is_held: bool,
    /// When it had last taken [`PROGRESS`] of the events that waited, or began to be behind.
    took: Instant,
    /// How many bytes of events it has taken since.
    taken: usize,
    /// Answers that did not fit in the ring. While there are any, no more requests are taken, so
    /// there are few.
    answers: VecDeque<Bytes>,
    events: VecDeque<Bytes>,
    event_bytes: usize,
    limit: usize,
    overflow: Overflow,
    closed: bool,
}

impl Connection {
    pub(super) fn new(
        socket: OwnedFd,
        rings: Rings,
        credentials: Credentials,
        service: usize,
        max_msg_size: u32,
        reply: Vec<u8>,
        (limit, overflow): (usize, Overflow),
    ) -> Self {
        Self {
            socket,
            rings,
            credentials,
            service,
            max_msg_size,
            reply,
            notifications: 0,
            notifications_left: None,
            wake: WakeBytes::default(),
            flow_control: FlowControl::Off,
            is_held: false,
            took: Instant::now(),
            taken: 0,
            answers: VecDeque::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            limit,
            overflow,
            closed: false,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed || self.rings.are_lost()
    }

    /// Ends the connection: nothing is sent or received any more.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.events.clear();
        self.event_bytes = 0;
    }

    /// What to wait for.
    pub(super) fn watch(&self) -> Watch {
        Watch {
            readable: self.takes_requests() && !self.is_held,
            writable: !self.reply.is_empty() || self.notifications_due() > 0,
        }
    }

    /// Whether an event waits for ring space; no descriptor signals it.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.answers.is_empty() || !self.events.is_empty()
    }

    fn takes_requests(&self) -> bool {
        self.flow_control == FlowControl::Off && self.answers.is_empty() && !self.closed
    }

    /// Whether those who cause its events are to wait, as they already do or not: there are many,
    /// and it takes them.
    pub(super) fn is_behind(&self, now: Instant, do_wait: bool) -> bool {
        let limit = if do_wait { CAUGHT_UP } else { BEHIND };
        self.event_bytes > limit && now.saturating_duration_since(self.took) < STANDSTILL
    }

    /// Makes its requests wait, or not, beside what [`Connection::set_flow_control`] says.
    pub(super) fn hold(&mut self, is_held: bool) {
        if std::mem::replace(&mut self.is_held, is_held) != is_held {
            self.set_flow_control(self.flow_control);
        }
    }

    /// Whether there is a request to be taken.
    pub(super) fn has_request(&self) -> bool {
        self.takes_requests() && self.rings.request.has_chunk()
    }

    /// Sends what can be sent now.
    pub(super) fn flush(&mut self) {
        if let Err(error) = self.try_flush() {
            self.broken(&error);
        }
    }

    fn try_flush(&mut self) -> Result<(), ProtocolError> {
        while let Some(answer) = self.answers.front() {
            if !self.rings.response.try_send(&[answer])? {
                break;
            }
            self.answers.pop_front();
        }
        while let Some(event) = self.events.front() {
            if !self.rings.event.try_send(&[event])? {
                break;
            }
            let size = event.len();
            self.event_bytes -= size;
            self.events.pop_front();
            self.notifications += 1;
            self.taken += size;
            if self.taken >= PROGRESS {
                (self.took, self.taken) = (Instant::now(), 0);
            }
        }
        self.flush_socket();
        Ok(())
    }

    /// How many bytes that announce events are to be sent now.
    fn notifications_due(&self) -> usize {
        self.notifications_left.map_or(self.notifications, |left| left.min(self.notifications))
    }

    /// Sends the reply, then the bytes that announce events. What does not fit is sent later, as
    /// libqb does it.
    fn flush_socket(&mut self) {
        const NOTIFICATIONS: [u8; BATCH] = [0; BATCH];
        while !self.closed && (!self.reply.is_empty() || self.notifications_due() > 0) {
            let bytes = if self.reply.is_empty() {
                NOTIFICATIONS.get(..self.notifications_due().min(BATCH)).unwrap_or_default()
            } else {
                &self.reply
            };
            match socket::send_now(&self.socket, bytes) {
                Ok(sent) if self.reply.is_empty() => {
                    self.notifications = self.notifications.saturating_sub(sent);
                    self.notifications_left =
                        self.notifications_left.map(|left| left.saturating_sub(sent));
                }
                Ok(sent) => drop(self.reply.drain(..sent.min(self.reply.len()))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.close(),
            }
        }
    }

    /// Takes the next request of a turn in which so many were taken already.
    pub(super) fn take_request(&mut self, seen: Seen, taken: usize) -> Option<Bytes> {
        let limit = if seen.hung_up { LAST_REQUESTS } else { REQUESTS_A_TURN };
        // Who is gone cannot wait for its last requests to be served.
        if taken >= limit || !self.takes_requests() || (self.is_held && !seen.hung_up) {
            return None;
        }
        match self.rings.request.try_receive() {
            Ok(Some(request)) => {
                let wanted = self.wake.event_taken(self.rings.request.has_chunk());
                self.take_bytes(wanted);
                Some(request)
            }
            Ok(None) => {
                if taken == 0 && seen.readable {
                    // A byte without a request: one that was owed, or the client is mad and the
                    // byte must go.
                    self.take_bytes(self.wake.wanted().max(1));
                    if !self.wake.forget_stray() {
                        self.close();
                    }
                }
                None
            }
            Err(error) => {
                self.broken(&error.into());
                None
            }
        }
    }

    fn take_bytes(&mut self, wanted: usize) {
        if wanted == 0 {
            return;
        }
        let mut buffer = [0; BATCH];
        match socket::receive_now(&self.socket, buffer.get_mut(..wanted).unwrap_or_default()) {
            Ok(0) => self.close(),
            Ok(count) => self.wake.bytes_taken(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.close(),
        }
    }

    /// Sends the answer to a request.
    pub(super) fn reply(&mut self, message: &[u8]) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let room = self.rings.response.ring().max_chunk();
        if !self.rings.response.fits(message.len()) {
            return Err(SendError::TooLarge { size: message.len(), limit: room });
        }
        let is_sent = self.answers.is_empty()
            && self
                .rings
                .response
                .try_send(&[message])
                .map_err(|error| self.broken(&error.into()))?;
        if !is_sent {
            self.answers.push_back(Bytes::copy_from_slice(message));
        }
        Ok(())
    }

    /// Sends an event, now or as soon as there is room. What waits takes at most `memory` bytes
    /// more than it does.
    pub(super) fn send_event(&mut self, message: &[u8], memory: usize) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let limit = (self.max_msg_size as usize).min(self.rings.event.ring().max_chunk());
        if message.len() > limit || !self.rings.event.fits(message.len()) {
            return Err(SendError::TooLarge { size: message.len(), limit });
        }
        if self.events.is_empty() && self.put_event(message)? {
            return Ok(());
        }
        if self.event_bytes + message.len() > self.limit {
            self.no_room(message)
        } else if message.len() <= memory {
            if self.events.is_empty() {
                (self.took, self.taken) = (Instant::now(), 0);
            }
            self.event_bytes += message.len();
            self.events.push_back(Bytes::copy_from_slice(message));
            Ok(())
        } else if self.overflow == Overflow::Disconnect {
            // It need not be this client's fault.
            Err(SendError::QueueFull)
        } else {
            self.no_room(message)
        }
    }

    /// What happens to an event that cannot wait.
    fn no_room(&mut self, message: &[u8]) -> Result<(), SendError> {
        match self.overflow {
            Overflow::DropNewest => Err(SendError::QueueFull),
            Overflow::Disconnect => {
                self.close();
                Err(SendError::Closed)
            }
            Overflow::Block(timeout) => self.send_blocking(message, timeout),
        }
    }

    fn put_event(&mut self, message: &[u8]) -> Result<bool, SendError> {
        match self.rings.event.try_send(&[message]) {
            Ok(true) => {
                self.notifications += 1;
                self.flush_socket();
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) => Err(self.broken(&error.into())),
        }
    }

    /// Waits for the client to read, which is all that makes room.
    fn send_blocking(&mut self, message: &[u8], timeout: Duration) -> Result<(), SendError> {
        let deadline = Instant::now().checked_add(timeout);
        loop {
            self.flush();
            if self.closed {
                return Err(SendError::Closed);
            }
            if self.events.is_empty() && self.put_event(message)? {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.close();
                return Err(SendError::Closed);
            }
            match wait_for(&self.socket, Interest::HangUp, Some(Instant::now() + BLOCKED_SLICE)) {
                Ok(Ready::HungUp) | Err(_) => self.close(),
                Ok(Ready::Yes) => thread::sleep(BLOCKED_SLICE),
                Ok(Ready::TimedOut) => {}
            }
        }
    }

    pub(super) fn set_flow_control(&mut self, state: FlowControl) {
        self.flow_control = state;
        let told =
            if state == FlowControl::Off && self.is_held { FlowControl::Sync } else { state };
        // Release: as qb_ipc_shm_fc_set; the client reads it through a full barrier.
        self.rings.request.ring().flow_control().store(told as u32, Ordering::Release);
    }

    pub(super) fn limit_notifications(&mut self, limit: Option<usize>) {
        self.notifications_left = limit;
        self.flush_socket();
    }

    pub(super) fn unsent_notifications(&self) -> usize {
        self.notifications
    }

    pub(super) fn queued_events(&self) -> usize {
        self.events.len()
    }

    /// How many bytes of events wait.
    pub(super) fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    pub(super) fn ends_on_overflow(&self) -> bool {
        self.overflow == Overflow::Disconnect
    }

    /// The client broke the protocol: nothing it says can be believed any more.
    fn broken(&mut self, source: &ProtocolError) -> SendError {
        crate::log::warn!(pid = self.credentials.pid, %source, "a client broke the protocol");
        let _ = source;
        self.close();
        SendError::Closed
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        socket::shut_down(&self.socket);
    }
}
