//! Events: taking them from the ring and their wake bytes from the socket, and waiting for them.

use std::io;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connection::Connection;
use super::link::{Link, State};
use super::lock;
use super::waker::Waker;
use crate::error::{Error, ProtocolError, Result, WireError};
use crate::libqb::refill::Refill;
use crate::libqb::ring::{CHUNK_HEADER_SIZE, Consumer, Mapping};
use crate::libqb::wake::{BATCH, MOST_STRAY, WakeBytes};
use crate::sys::socket;
use crate::sys::wait::{Ready, wait_or_woken};

/// How often a glance at the events checks that the daemon is still there; in between it makes no
/// system call.
const LIVENESS_INTERVAL: Duration = Duration::from_millis(1);

/// How thoroughly to look for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// At the ring. Whoever finds nothing polls the descriptor next, or glances again.
    Glance,
    /// At the socket too, so that finding nothing means that the descriptor becomes readable anew
    /// before there is anything. Loops with edge-triggered readiness need that.
    Thorough,
}

/// What a connection has for events.
pub(super) struct Events {
    /// Held while an event is taken from the ring and made of its message, so that messages which
    /// belong together are taken apart in their order.
    ring: Mutex<EventRing>,
    /// How many messages a look at the events takes at most that are no events, such as parts of
    /// one: as many as the ring can hold. When a look ends with that, what is in the ring now
    /// came during the look, so that its wake bytes make the descriptor readable anew,
    /// for loops with edge-triggered readiness too.
    most_silent: usize,
    /// Made for the first wait or the first who asks for it.
    waker: OnceLock<Waker>,
}

struct EventRing {
    ring: Consumer<Mapping>,
    wake: WakeBytes,
    refill: Refill,
    /// When the socket was last looked at.
    looked: Instant,
}

/// A message of the ring.
struct Taken {
    message: Bytes,
    /// The ring was full and is nearly empty: the daemon is to look for events that it holds back.
    refill: bool,
}

impl Events {
    pub(super) fn new(ring: Consumer<Mapping>) -> Self {
        Self {
            most_silent: ring.ring().max_chunk() / CHUNK_HEADER_SIZE + 1,
            ring: Mutex::new(EventRing {
                ring,
                wake: WakeBytes::default(),
                refill: Refill::default(),
                looked: Instant::now(),
            }),
            waker: OnceLock::new(),
        }
    }

    /// Stops being counted as a user of the ring.
    pub(super) fn detach(&self) {
        lock(&self.ring).ring.ring().detach();
    }
}

impl Connection {
    /// Takes messages of events, until `make` makes an event of one or none waits. Never blocks.
    /// Matches `qb_ipcc_event_recv` with a timeout of 0, but looks at the ring first: a glance
    /// at an empty one takes no system call.
    ///
    /// Many messages of which none is an event take no longer than until the deadline.
    pub(crate) fn poll_event<E>(
        &self,
        look: Look,
        deadline: Option<Instant>,
        make: impl Fn(Bytes) -> Result<Option<E>, WireError>,
    ) -> Result<Option<E>> {
        for _ in 0..self.events.most_silent {
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

    /// Takes one message, and makes an event of it if there is one to make. `None`: no message
    /// waits.
    pub(crate) fn poll_one<E>(
        &self,
        look: Look,
        make: impl Fn(Bytes) -> Result<Option<E>, WireError>,
    ) -> Result<Option<Option<E>>> {
        let event = {
            let mut ring = lock(&self.events.ring);
            ring.poll(&self.link, look).and_then(|taken| {
                let Some(Taken { message, refill }) = taken else { return Ok(None) };
                if refill {
                    self.requests.want_nudge();
                }
                make(message).map(Some).map_err(|source| self.link.broken(source))
            })
        };
        self.send_wanted_nudge();
        self.link.log_notes();
        event
    }

    /// Waits for the next event. `None`: the deadline passed, or the waker was used.
    pub(crate) fn next_event<E>(
        &self,
        deadline: Option<Instant>,
        make: impl Fn(Bytes) -> Result<Option<E>, WireError>,
    ) -> Result<Option<E>> {
        loop {
            if self.was_woken() {
                return Ok(None);
            }
            if let Some(event) = self.poll_event(Look::Glance, deadline, &make)? {
                return Ok(Some(event));
            }
            // What waits need not become an event, so the deadline is looked at in any case.
            if !self.wait_event(self.waker()?, deadline)?
                || deadline.is_some_and(|deadline| Instant::now() >= deadline)
            {
                return Ok(None);
            }
        }
    }

    /// Waits until an event may be there, the waker was used, the connection ends or the deadline
    /// passes. Whether it is worth a look.
    pub(crate) fn wait_event(&self, waker: &Waker, deadline: Option<Instant>) -> Result<bool> {
        if lock(&self.events.ring).ring.has_chunk() {
            return Ok(true);
        }
        let ready = wait_or_woken(&self.link.socket, waker.wakeup(), deadline);
        let (ready, woken) = ready.map_err(|source| Error::system("waiting for events", source))?;
        if woken {
            waker.wakeup().clear();
        }
        match ready {
            Ready::Yes => Ok(true),
            Ready::HungUp => {
                // The next look finds the end at once, after the events that are left.
                self.link.advance(State::Gone);
                Ok(true)
            }
            Ready::TimedOut => Ok(woken),
        }
    }

    /// What ends a wait.
    pub(crate) fn waker(&self) -> Result<&Waker> {
        if let Some(waker) = self.events.waker.get() {
            return Ok(waker);
        }
        let new = Waker::new()?;
        Ok(self.events.waker.get_or_init(|| new))
    }

    /// Whether the waker was used since the last time this was asked.
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
            if look == Look::Glance
                && state == State::Open
                && now.duration_since(self.looked) < LIVENESS_INTERVAL
            {
                return Ok(None);
            }
            self.looked = now;
            // A byte without an event: either its event is there by now, or the daemon breaks the
            // protocol and the byte must go.
            wanted = 1;
        }
        let hung_up = self.take_bytes(link, wanted)?;
        let event = self.take(link)?;
        if event.is_none() {
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

    /// Takes an event from the ring, and wake bytes from the socket when it is their time.
    fn take(&mut self, link: &Link) -> Result<Option<Taken>> {
        let message = self.ring.try_receive().map_err(|source| link.broken(source))?;
        let Some(message) = message else { return Ok(None) };
        let (left, capacity) = (self.ring.used(), self.ring.ring().max_chunk());
        let refill = self.refill.event_taken(message.len() + CHUNK_HEADER_SIZE, left, capacity);
        let wanted = self.wake.event_taken(self.ring.has_chunk());
        if wanted > 0 {
            self.take_bytes(link, wanted)?;
        }
        Ok(Some(Taken { message, refill }))
    }

    /// Takes up to `wanted` wake bytes. Whether the other end closed.
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
