//! The server's end of a connection: its rings, and the messages that wait to be sent.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::rings::Rings;
use super::{FlowControl, Overflow, SendError};
use crate::libqb::buffer::Buffer;
use crate::libqb::channel::ChannelError;
use crate::libqb::wake::{BATCH, WakeBytes};
use crate::sys::serve::{Seen, Watch};
use crate::sys::socket;
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for};

/// How many requests of one client are taken before the others have their turn. The same as libqb's
/// for services of medium priority.
const REQUESTS_A_TURN: usize = 5;

/// How many requests are taken at most from the ring of a client that closed. Others may still
/// write to its ring.
const LAST_REQUESTS: usize = 1 << 16;

/// How many bytes of queued events make a client count as behind, and how few end that. While one
/// client of a paced service is behind, the requests of all of them wait. The daemon's totem has
/// room for about as much.
const BEHIND: usize = 4 << 20;
const CAUGHT_UP: usize = 2 << 20;

/// How long the others wait for a client that takes less than [`PROGRESS`] of its events. One
/// client that is stuck must not stop them.
const STANDSTILL: Duration = Duration::from_secs(2);

/// How many bytes of events a client must take within [`STANDSTILL`] so that the others wait for
/// it.
const PROGRESS: usize = 1 << 20;

/// How often a blocked producer checks for ring space.
const BLOCKED_SLICE: Duration = Duration::from_millis(1);

/// A client whose connection is set up.
///
/// Its messages are passed on unread. A ring that breaks the protocol ends the connection.
pub(super) struct Connection {
    socket: OwnedFd,
    rings: Rings,
    pub(super) credentials: Credentials,
    pub(super) service: usize,
    pub(super) max_msg_size: u32,
    /// The rest of the connection reply, which is not sent yet.
    reply: Vec<u8>,
    /// How many wake bytes are owed for events that are in the ring.
    wake_bytes: usize,
    /// How many of them may still be sent, if there is a limit.
    wake_bytes_left: Option<usize>,
    wake: WakeBytes,
    flow_control: FlowControl,
    /// Its requests wait for another client that is behind with its events.
    is_paused: bool,
    /// When it had last taken [`PROGRESS`] of the queued events, or the queue began.
    progress_at: Instant,
    /// How many bytes of queued events it has taken since.
    taken: usize,
    /// Answers that did not fit in the ring. While there are any, no more requests are taken, so
    /// they are few.
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
            wake_bytes: 0,
            wake_bytes_left: None,
            wake: WakeBytes::default(),
            flow_control: FlowControl::Off,
            is_paused: false,
            progress_at: Instant::now(),
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

    /// Returns what to poll: the setup socket, and the socket of requests if they are datagrams.
    pub(super) fn watches(&self) -> [Option<(BorrowedFd<'_>, Watch)>; 2] {
        let takes_requests = self.takes_requests() && !self.is_paused;
        let requests = self.rings.request.socket();
        let setup = Watch {
            // Nothing announces datagrams there, so whatever comes is the end.
            readable: takes_requests || requests.is_some(),
            writable: self.has_something_to_send(),
        };
        let requests = requests
            .map(|socket| (socket.as_fd(), Watch { readable: takes_requests, writable: false }));
        [Some((self.socket.as_fd(), setup)), requests]
    }

    /// Returns true while the setup socket has something to send.
    pub(super) fn has_something_to_send(&self) -> bool {
        !self.reply.is_empty() || self.wake_bytes_due() > 0
    }

    /// Whether a message waits for ring space; no descriptor signals it.
    pub(super) fn waits_for_room(&self) -> bool {
        !self.answers.is_empty() || !self.events.is_empty()
    }

    fn takes_requests(&self) -> bool {
        self.flow_control == FlowControl::Off && self.answers.is_empty() && !self.closed
    }

    /// Whether other clients must wait for this one: many events are queued for it, and it takes
    /// them. `others_wait` says whether they wait already.
    pub(super) fn is_behind(&self, now: Instant, others_wait: bool) -> bool {
        let limit = if others_wait { CAUGHT_UP } else { BEHIND };
        self.event_bytes > limit && now.saturating_duration_since(self.progress_at) < STANDSTILL
    }

    /// Makes its requests wait or not, in addition to [`Connection::set_flow_control`].
    pub(super) fn pause(&mut self, is_paused: bool) {
        if std::mem::replace(&mut self.is_paused, is_paused) != is_paused {
            self.set_flow_control(self.flow_control);
        }
    }

    /// Whether a request can be taken.
    pub(super) fn has_request(&self) -> bool {
        self.takes_requests() && self.rings.request.has_message()
    }

    /// Sends the queued messages and bytes for which there is room. Returns true if there was a
    /// message.
    pub(super) fn flush(&mut self) -> bool {
        self.try_flush().unwrap_or_else(|error| {
            self.failed(&error);
            false
        })
    }

    fn try_flush(&mut self) -> Result<bool, ChannelError> {
        let mut has_sent = false;
        while let Some(answer) = self.answers.front() {
            if !self.rings.response.try_send(&[answer])? {
                break;
            }
            self.answers.pop_front();
            has_sent = true;
        }
        while let Some(event) = self.events.front() {
            if !self.rings.event.try_send(&[event])? {
                break;
            }
            let size = event.len();
            self.event_bytes = self.event_bytes.saturating_sub(cost(event));
            self.events.pop_front();
            has_sent = true;
            self.wake_bytes += usize::from(self.rings.event.has_wake_bytes());
            self.taken += size;
            if self.taken >= PROGRESS {
                (self.progress_at, self.taken) = (Instant::now(), 0);
            }
        }
        self.flush_socket();
        Ok(has_sent)
    }

    /// Returns how many wake bytes to send now.
    fn wake_bytes_due(&self) -> usize {
        self.wake_bytes_left.map_or(self.wake_bytes, |left| left.min(self.wake_bytes))
    }

    /// Sends the connection reply, then wake bytes. As in libqb, what does not fit in the socket is
    /// sent later.
    fn flush_socket(&mut self) {
        const WAKE_BYTES: [u8; BATCH] = [0; BATCH];
        while !self.closed && (!self.reply.is_empty() || self.wake_bytes_due() > 0) {
            let bytes = if self.reply.is_empty() {
                WAKE_BYTES.get(..self.wake_bytes_due().min(BATCH)).unwrap_or_default()
            } else {
                &self.reply
            };
            match socket::send_now(&self.socket, bytes) {
                Ok(sent) if self.reply.is_empty() => {
                    self.wake_bytes = self.wake_bytes.saturating_sub(sent);
                    self.wake_bytes_left =
                        self.wake_bytes_left.map(|left| left.saturating_sub(sent));
                }
                Ok(sent) => drop(self.reply.drain(..sent.min(self.reply.len()))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.close(),
            }
        }
    }

    /// Takes the next request, after `taken` others in this turn.
    pub(super) fn take_request(
        &mut self,
        seen: Seen,
        taken: usize,
        buffer: &mut Buffer,
    ) -> Option<Bytes> {
        let limit = if seen.hung_up { LAST_REQUESTS } else { REQUESTS_A_TURN };
        // The last requests of a client that closed are served even while it is paused.
        if taken >= limit || !self.takes_requests() || (self.is_paused && !seen.hung_up) {
            if taken == 0 && seen.readable && !self.rings.request.has_wake_bytes() {
                // The setup socket is watched all the same, for the end of the client.
                self.take_stray_bytes();
            }
            return None;
        }
        match self.rings.request.try_receive_into(buffer.room()) {
            Ok(true) => {
                if self.rings.request.has_wake_bytes() {
                    let wanted = self.wake.event_taken(self.rings.request.has_message());
                    self.take_bytes(wanted);
                }
                Some(buffer.take())
            }
            Ok(false) => {
                if taken == 0 && seen.readable {
                    self.take_stray_bytes();
                }
                None
            }
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Takes a byte without a request: it was owed, or the client breaks the protocol and the byte
    /// must be taken.
    fn take_stray_bytes(&mut self) {
        self.take_bytes(self.wake.wanted().max(1));
        if !self.wake.forget_stray() {
            self.close();
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
    pub(super) fn reply(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let room = self.rings.response.limit();
        let size = parts.iter().fold(0_usize, |size, part| size.saturating_add(part.len()));
        if !self.rings.response.fits(size) {
            return Err(SendError::TooLarge { size, limit: room });
        }
        let is_sent = self.answers.is_empty()
            && self.rings.response.try_send(parts).map_err(|error| self.failed(&error))?;
        if !is_sent {
            self.answers.push_back(parts.concat().into());
        }
        Ok(())
    }

    /// Sends an event, or queues it while the ring is full. The queue may grow by at most `memory`
    /// bytes.
    pub(super) fn send_event(&mut self, message: &[u8], memory: usize) -> Result<(), SendError> {
        if self.closed {
            return Err(SendError::Closed);
        }
        let limit = (self.max_msg_size as usize).min(self.rings.event.limit());
        if message.len() > limit || !self.rings.event.fits(message.len()) {
            return Err(SendError::TooLarge { size: message.len(), limit });
        }
        if self.events.is_empty() && self.put_event(message)? {
            return Ok(());
        }
        if self.event_bytes + cost(message) > self.limit {
            self.no_room(message)
        } else if cost(message) <= memory {
            if self.events.is_empty() {
                (self.progress_at, self.taken) = (Instant::now(), 0);
            }
            self.event_bytes += cost(message);
            self.events.push_back(Bytes::copy_from_slice(message));
            Ok(())
        } else if self.overflow == Overflow::Disconnect {
            // Another client may have the longer queue.
            Err(SendError::QueueFull)
        } else {
            self.no_room(message)
        }
    }

    /// Handles an event that can be neither sent nor queued.
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
                self.wake_bytes += usize::from(self.rings.event.has_wake_bytes());
                self.flush_socket();
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Waits until the client reads and so makes room.
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
        let word =
            if state == FlowControl::Off && self.is_paused { FlowControl::Sync } else { state };
        // Release: as qb_ipc_shm_fc_set; the client reads it through a full barrier.
        self.rings.request.flow_control().store(word as u32, Ordering::Release);
    }

    pub(super) fn limit_wake_bytes(&mut self, limit: Option<usize>) {
        self.wake_bytes_left = limit;
        self.flush_socket();
    }

    pub(super) fn unsent_wake_bytes(&self) -> usize {
        self.wake_bytes
    }

    pub(super) fn queued_events(&self) -> usize {
        self.events.len()
    }

    /// Returns how many bytes of events are queued.
    pub(super) fn event_bytes(&self) -> usize {
        self.event_bytes
    }

    pub(super) fn ends_on_overflow(&self) -> bool {
        self.overflow == Overflow::Disconnect
    }

    /// Ends the connection: the client closed it, or violated the protocol. Nothing that it sends
    /// after that can be trusted.
    fn failed(&mut self, error: &ChannelError) -> SendError {
        if let ChannelError::Protocol(_source) = error {
            crate::log::warn!(pid = self.credentials.pid, source = %_source, "a client broke the protocol");
        }
        self.close();
        SendError::Closed
    }
}

/// What a queued event takes: its bytes, its place in the queue, and what the allocator adds.
fn cost(event: &[u8]) -> usize {
    const PLACE: usize = 64;
    event.len() + PLACE
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
