//! Events: taking them from the ring and their wake bytes from the socket, and waiting for them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::link::{Link, State};
use super::lock;
use super::waker::Waker;
use crate::error::{Error, ProtocolError, Result, WireError};
use crate::libqb::buffer::Buffer;
use crate::libqb::channel::Receiver;
use crate::libqb::refill::Refill;

use crate::libqb::wake::{BATCH, MOST_STRAY, WakeBytes};
use crate::sys::event::Poller;
use crate::sys::socket;
use crate::sys::wait::{Ready, wait_or_woken};

/// How often [`Look::Ring`] checks that the daemon is still there. In between it makes no system
/// call.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(1);

/// Where to look for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// In the ring. A caller that finds nothing waits for the descriptor next, and then looks at
    /// the socket too.
    Ring,
    /// In the ring and at the socket. After finding nothing, the descriptor becomes readable again
    /// before there is an event. Loops with edge-triggered readiness need that.
    RingAndSocket,
}

/// The event half of a connection.
pub(super) struct Events {
    /// Held while a message is taken from the ring and an event is made of it, so that fragments
    /// are put together in their order.
    ring: Mutex<EventRing>,
    /// How many messages that are no events, such as fragments, one call of
    /// [`Connection::poll_event`] takes at most: as many as the ring can hold. Whatever is in the
    /// ring after that many came during the call, so its wake bytes make the descriptor readable
    /// again, for loops with edge-triggered readiness too.
    max_messages: usize,
    /// Made for the first wait or the first caller of [`Connection::waker`].
    waker: OnceLock<Waker>,
    /// Both sockets of a connection of datagrams: the one of events, and the setup socket, which
    /// tells that the daemon is gone. `None`: the setup socket is all there is to poll.
    descriptor: Option<Poller>,
}

struct EventRing {
    ring: Receiver,
    /// The message that was taken last.
    message: Buffer,
    wake: WakeBytes,
    refill: Refill,
    /// When the socket was last read.
    last_read: Instant,
}

/// A message was taken from the ring.
struct Taken {
    /// The ring was full and is nearly empty, and the daemon may hold back events: send a nudge.
    refill: bool,
}

impl Events {
    pub(super) fn new(ring: Receiver, descriptor: Option<Poller>) -> Self {
        Self {
            max_messages: ring.most_messages() + 1,
            descriptor,
            ring: Mutex::new(EventRing {
                ring,
                message: Buffer::default(),
                wake: WakeBytes::default(),
                refill: Refill::default(),
                last_read: Instant::now(),
            }),
            waker: OnceLock::new(),
        }
    }

    /// Returns how many bytes of the ring are used.
    pub(super) fn used(&self) -> usize {
        lock(&self.ring).ring.used()
    }

    /// Stops being counted as a user of the ring.
    pub(super) fn detach(&self) {
        lock(&self.ring).ring.detach();
    }

    /// The descriptor to poll for events.
    pub(super) fn descriptor<'a>(&'a self, link: &'a Link) -> BorrowedFd<'a> {
        self.descriptor.as_ref().map_or_else(|| link.socket.as_fd(), AsFd::as_fd)
    }
}

impl Connection {
    /// Takes messages until `make` makes an event of one or no message waits. Never blocks. Stops
    /// at the deadline when many messages are no events.
    ///
    /// Matches `qb_ipcc_event_recv` with a timeout of 0. Unlike there, the ring is read first:
    /// looking at an empty one takes no system call.
    pub(crate) fn poll_event<E>(
        &self,
        look: Look,
        deadline: Option<Instant>,
        make: impl Fn(&mut Buffer) -> Result<Option<E>, WireError>,
    ) -> Result<Option<E>> {
        for _ in 0..self.events.max_messages {
            match self.poll_one(look, &make)? {
                Some(None) if deadline.is_some_and(|deadline| Instant::now() >= deadline) => {
                    return Ok(None);
                }
                Some(None) => {}
                Some(event) => return Ok(event),
                None => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Takes one message, of which `make` makes an event or none. Returns `None` if no message
    /// waits.
    pub(crate) fn poll_one<E>(
        &self,
        look: Look,
        make: impl Fn(&mut Buffer) -> Result<Option<E>, WireError>,
    ) -> Result<Option<Option<E>>> {
        self.check_process()?;
        let event = {
            let mut ring = lock(&self.events.ring);
            ring.poll(&self.link, look).and_then(|taken| {
                let Some(Taken { refill }) = taken else { return Ok(None) };
                if refill {
                    self.requests.want_nudge();
                }
                make(&mut ring.message).map(Some).map_err(|source| self.link.broken(source))
            })
        };
        self.send_wanted_nudge();
        self.link.log_notes();
        event
    }

    /// Waits for the next event. Returns `None` when the deadline passes or the waker is used.
    pub(crate) fn next_event<E>(
        &self,
        deadline: Option<Instant>,
        make: impl Fn(&mut Buffer) -> Result<Option<E>, WireError>,
    ) -> Result<Option<E>> {
        let mut look = Look::Ring;
        loop {
            if self.was_woken() {
                return Ok(None);
            }
            if let Some(event) = self.poll_event(look, deadline, &make)? {
                return Ok(Some(event));
            }
            // What made the descriptor readable must go, or the next wait ends at once.
            look = Look::RingAndSocket;
            // A message need not become an event, so the deadline is checked in any case.
            if !self.wait_event(self.waker()?, deadline)?
                || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(None);
            }
        }
    }

    /// Waits until an event may be there, the waker is used, the connection ends or the deadline
    /// passes. Returns `false` for the deadline.
    pub(crate) fn wait_event(&self, waker: &Waker, deadline: Option<Instant>) -> Result<bool> {
        self.check_process()?;
        {
            let events = lock(&self.events.ring);
            // A datagram makes the descriptor readable by itself.
            if events.ring.has_wake_bytes() && events.ring.has_message() {
                return Ok(true);
            }
        }
        let ready = wait_or_woken(&self.as_fd(), waker.wakeup(), deadline);
        let (ready, woken) = ready.map_err(|source| Error::system("waiting for events", source))?;
        if woken {
            waker.wakeup().clear();
        }
        match ready {
            Ready::Yes => Ok(true),
            Ready::HungUp => {
                // The next poll returns the events that are left, then the error.
                self.link.advance(State::Gone);
                Ok(true)
            }
            Ready::TimedOut => Ok(woken),
        }
    }

    /// The waker that ends a wait.
    pub(crate) fn waker(&self) -> Result<&Waker> {
        if let Some(waker) = self.events.waker.get() {
            return Ok(waker);
        }
        let new = Waker::new()?;
        Ok(self.events.waker.get_or_init(|| new))
    }

    /// Whether the waker was used since the last call of this.
    pub(crate) fn was_woken(&self) -> bool {
        self.events.waker.get().is_some_and(Waker::take)
    }
}

impl EventRing {
    /// Takes the next event's message, if one waits.
    fn poll(&mut self, link: &Link, look: Look) -> Result<Option<Taken>> {
        let state = link.state();
        if state > State::Gone {
            return Err(link.ended());
        }
        if let Some(event) = self.take(link)? {
            return Ok(Some(event));
        }
        let mut wanted = self.wake.wanted();
        if wanted == 0 {
            let now = Instant::now();
            if look == Look::Ring
                && state == State::Open
                && now.duration_since(self.last_read) < LIVENESS_INTERVAL
            {
                return Ok(None);
            }
            self.last_read = now;
            // There may be a byte without an event: either its event is there by now, or the daemon
            // breaks the protocol and the byte must be taken.
            wanted = 1;
        }
        let hung_up = self.take_bytes(link, wanted)?;
        let event = self.take(link)?;
        if event.is_none() {
            link.counters.stray_wake_bytes.add(self.wake.extra());
            if !self.wake.forget_stray() {
                let what = "wake bytes without an event";
                return Err(link.broken(ProtocolError::Endless { what, limit: MOST_STRAY as u64 }));
            }
            if hung_up {
                return Err(link.hung_up());
            }
        }
        Ok(event)
    }

    /// Takes an event from the ring, and wake bytes from the socket when enough are owed.
    fn take(&mut self, link: &Link) -> Result<Option<Taken>> {
        let came = self.ring.try_receive_into(self.message.room());
        if !came.map_err(|source| link.failed(source))? {
            return Ok(None);
        }
        let (size, left, capacity) = self.ring.fill(self.message.len());
        link.counters.events.add(1);
        link.counters.event_ring.note(left + size);
        let refill = self.refill.event_taken(size, left, capacity);
        if self.ring.has_wake_bytes() {
            let wanted = self.wake.event_taken(self.ring.has_message());
            if wanted > 0 {
                self.take_bytes(link, wanted)?;
            }
        }
        Ok(Some(Taken { refill }))
    }

    /// Takes up to `wanted` wake bytes. Returns `true` if the other end closed.
    fn take_bytes(&mut self, link: &Link, wanted: usize) -> Result<bool> {
        let mut buffer = [0; BATCH];
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        match socket::receive_now(&link.socket, room) {
            Ok(0) => Ok(true),
            Ok(count) => {
                self.wake.bytes_taken(count);
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(Error::system("reading the setup socket", error)),
        }
    }
}
