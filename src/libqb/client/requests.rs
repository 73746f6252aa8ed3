//! Requests and their answers: the turn to send, the exchange, and the requests that nobody waits
//! for.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::call::{Call, FlowControl};
use super::connection::Connection;
use super::link::Link;
use super::lock;
use super::turnstile::{Guard, Turnstile};
use crate::codec::Header;
use crate::error::{CsError, Error, ProtocolError, Result, WireError};
use crate::libqb::exchange::{Before, Exchange, may_be_answered_again};
use crate::libqb::ring::{Consumer, Mapping, Producer};
use crate::sys::socket;
use crate::sys::wait::{Interest, Ready, wait_for};

/// How long to sleep on the reply's semaphore, at first and at most, before looking whether the
/// daemon is still there. Also what a wake-up costs that the daemon's libc fails to send, as musl's
/// does to a waiter that glibc's layout announces: about as long as was waited already. libqb
/// sleeps 2 s each time.
const REPLY_SLICE_FIRST: Duration = Duration::from_millis(20);
const REPLY_SLICE_MOST: Duration = Duration::from_millis(250);

/// How long to sleep, at first and at most, before sending again what the daemon was too busy for.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MOST: Duration = Duration::from_millis(50);

/// How long to sleep at most before looking again at flow control and room in the ring, which no
/// descriptor signals. The daemon looks every millisecond whether it can lift flow control.
const ROOM_MOST: Duration = Duration::from_millis(5);

/// How many requests may wait in the ring. Each has a wake byte in the socket's buffer, which holds
/// 278 of them by default, and the daemon takes the bytes of up to 50 requests after the requests.
/// So with a daemon that reads them, a byte seldom has to wait.
const MOST_BACKLOG: u32 = 128;

/// What a wake byte takes in the socket's buffer at most, in bytes. Linux 6.18 counts 768.
const WAKE_BYTE_COST: usize = 2048;

/// How many answers to nudges are thrown away at a time: twice as many as there are nudges under
/// way.
const MOST_DRAINED: usize = 4;

/// Makes a request that the daemon answers at once, shortly and exactly once, whatever state it is
/// in, and that changes nothing.
pub(crate) type Nudge = fn() -> Result<Vec<u8>, WireError>;

/// What a connection has for requests.
///
/// Locking rules: whoever has `rings` has the turn, and keeps it until the reply is there.
/// `releases` is held for a few instructions only.
pub(super) struct Requests {
    rings: Turnstile<Rings>,
    /// Requests that make the daemon forget what it keeps for this client, and that were not sent
    /// yet.
    releases: Mutex<Vec<Vec<u8>>>,
    nudge: Option<Nudge>,
    /// The event ring was full and is not: a nudge is to be sent. Set by whoever emptied it, who
    /// then takes the turn to send it; cleared by whoever sends it, in the turn. Whoever finds
    /// the turn taken leaves it to the one who has it, who looks after passing it on.
    nudge_wanted: AtomicBool,
}

/// The two rings, what is owed on them, and the socket's room for wake bytes.
struct Rings {
    request: Producer<Mapping>,
    response: Consumer<Mapping>,
    max_request: usize,
    exchange: Exchange,
    /// How many wake bytes the socket is known to have room for.
    wake_room: usize,
    /// How many it has room for when it says that it is writable.
    wake_batch: usize,
}

/// Sole use of the rings for requests and replies: what is sent in one turn follows each other.
/// Passed on when dropped.
pub(crate) struct Turn<'a> {
    connection: &'a Connection,
    rings: Guard<'a, Rings>,
    // Dropped last, when the turn was passed on.
    _after: AfterTurn<'a>,
}

/// Sends the nudge that another thread wanted while the turn was taken, and logs what was noted.
struct AfterTurn<'a>(&'a Connection);

impl Drop for AfterTurn<'_> {
    fn drop(&mut self) {
        self.0.send_wanted_nudge();
        self.0.link.log_notes();
    }
}

impl Requests {
    /// `socket_buffer` is the size of the setup socket's send buffer.
    pub(super) fn new(
        request: Producer<Mapping>,
        response: Consumer<Mapping>,
        max_request: usize,
        socket_buffer: usize,
        nudge: Option<Nudge>,
    ) -> Self {
        // As unix_writable in Linux: it is writable while a quarter is full at most.
        let wake_batch = (socket_buffer / 4 * 3 / WAKE_BYTE_COST).max(1);
        let exchange = Exchange::default();
        let rings = Rings { request, response, max_request, exchange, wake_room: 0, wake_batch };
        Self {
            rings: Turnstile::new(rings),
            releases: Mutex::default(),
            nudge,
            nudge_wanted: AtomicBool::new(false),
        }
    }

    /// Stops being counted as a user of the rings.
    pub(super) fn detach(&self) {
        // Nobody else is left who could have the turn.
        if let Some(rings) = self.rings.enter(Instant::now()) {
            rings.request.ring().detach();
            rings.response.ring().detach();
        }
    }

    /// Asks for a nudge, which [`Connection::send_wanted_nudge`] sends.
    pub(super) fn want_nudge(&self) {
        self.nudge_wanted.store(true, Ordering::Relaxed);
    }
}

impl Connection {
    /// Sends a request and waits for its answer. While the daemon answers that it is busy, the
    /// request is sent again, until the deadline.
    pub(crate) fn request(&self, call: Call, request: &[u8]) -> Result<Bytes> {
        // Others have their turn while this one waits.
        let reply = self.until_not_busy(call, || self.turn(call)?.exchange(call, &[request]));
        self.link.log_notes();
        reply
    }

    /// Sends a message that is not answered.
    pub(crate) fn send(&self, call: Call, message: &[u8]) -> Result<()> {
        let mut turn = self.turn(call)?;
        if turn.send(call, &[message])? {
            Ok(())
        } else {
            drop(turn);
            Err(self.timed_out(call))
        }
    }

    /// Sends a request that makes the daemon forget something, and waits neither to send it nor for
    /// the answer: if it cannot be sent now, it goes before the next request. Only for requests
    /// that the daemon never refuses for being busy.
    pub(crate) fn release(&self, request: Vec<u8>) {
        lock(&self.requests.releases).push(request);
        let now = Instant::now();
        if let Ok(Some(mut turn)) = self.turn_before(now) {
            // A failure ends the connection, and then the daemon forgets everything.
            let _ = turn.send_releases(now);
        }
    }

    /// Exchanges messages until the answer is not that the daemon is busy, or the deadline passes.
    fn until_not_busy(
        &self,
        call: Call,
        mut exchange: impl FnMut() -> Result<Bytes>,
    ) -> Result<Bytes> {
        let mut pause = RETRY_FIRST;
        loop {
            let reply = exchange()?;
            let busy = Header::status_of(&reply).is_some_and(|status| call.is_busy(status));
            // An attempt needs some time too: one that is cut off leaves in doubt what became of
            // it.
            if !busy || Instant::now() + 2 * pause >= call.deadline {
                return Ok(reply);
            }
            self.link.pause(&mut pause, RETRY_MOST, call.deadline)?;
        }
    }

    /// Waits for the turn to send.
    pub(crate) fn turn(&self, call: Call) -> Result<Turn<'_>> {
        self.turn_before(call.deadline)?.ok_or_else(|| self.timed_out(call))
    }

    /// Waits for the turn to send. `None`: the deadline passed first. A deadline that has passed
    /// already asks without waiting.
    pub(crate) fn turn_before(&self, deadline: Instant) -> Result<Option<Turn<'_>>> {
        self.link.check()?;
        let rings = self.requests.rings.enter(deadline);
        Ok(rings.map(|rings| Turn { connection: self, rings, _after: AfterTurn(self) }))
    }

    /// The error of a call whose time is over, whatever it waited for: its turn, room for the
    /// request, or the answer. Not for callers that hold a lock.
    pub(crate) fn timed_out(&self, call: Call) -> Error {
        let error = self.link.timed_out(call);
        self.link.log_notes();
        error
    }

    /// Sends the nudge that is wanted, if one is. Never blocks: while it cannot be sent it stays
    /// wanted.
    pub(super) fn send_wanted_nudge(&self) {
        let Requests { rings, nudge, nudge_wanted, .. } = &self.requests;
        // Relaxed: the lock in the turnstile orders it. Who finds the turn taken has set it before
        // looking there, and who passes the turn on looks here afterwards.
        while nudge_wanted.load(Ordering::Relaxed) {
            let Some(mut rings) = rings.enter(Instant::now()) else { return };
            // Before it is sent: one that is wanted from now on may come too late for it.
            nudge_wanted.store(false, Ordering::Relaxed);
            // What is wrong with the connection, whoever uses it next will be told.
            if !rings.try_nudge(&self.link, *nudge).unwrap_or(false) {
                return nudge_wanted.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Turn<'_> {
    /// Sends a message that is not answered. `false`: the deadline passed before the daemon would
    /// take it, and nothing was sent. A deadline that has passed already sends at once or not
    /// at all.
    pub(crate) fn send(&mut self, call: Call, parts: &[&[u8]]) -> Result<bool> {
        self.rings.send(&self.connection.link, call.flow, call.deadline, parts)
    }

    /// As [`Connection::request`], but keeps the turn.
    pub(crate) fn request(&mut self, call: Call, parts: &[&[u8]]) -> Result<Bytes> {
        self.connection.until_not_busy(call, || self.exchange(call, parts))
    }

    /// As [`Connection::refuse`], where the turn is held.
    pub(crate) fn refuse(&self, source: ProtocolError) -> Error {
        self.connection.link.broken(source)
    }

    /// Sends a message in parts and waits for its answer, whatever that is.
    fn exchange(&mut self, call: Call, parts: &[&[u8]]) -> Result<Bytes> {
        let link = &self.connection.link;
        if !call.waits && self.rings.is_refused(call.flow) {
            return Err(Error::Cs { call: call.name.into(), error: CsError::TryAgain });
        }
        let ready = self.send_releases(call.deadline)? && self.rings.drain(link, call.deadline)?;
        // When the time is over nothing is sent: nobody would wait for the answer.
        if !ready || call.is_over() || !self.send(call, parts)? {
            return Err(link.timed_out(call));
        }
        self.rings.exchange.sent();
        self.rings.answer(link, call.deadline)?.ok_or_else(|| link.timed_out(call))
    }

    /// Sends what is waiting in [`Connection::release`]. `false`: the deadline passed first.
    fn send_releases(&mut self, deadline: Instant) -> Result<bool> {
        let Connection { link, requests: Requests { releases, .. }, .. } = self.connection;
        loop {
            let Some(message) = lock(releases).pop() else { return Ok(true) };
            if !(self.rings.drain(link, deadline)?
                && self.rings.send(link, FlowControl::Request, deadline, &[&message])?)
            {
                lock(releases).push(message);
                return Ok(false);
            }
            self.rings.exchange.sent_unawaited();
        }
    }
}

impl Rings {
    /// Puts a request in the ring and tells the daemon. `false`: the deadline passed first, and
    /// nothing was sent.
    fn send(
        &mut self,
        link: &Link,
        flow: FlowControl,
        deadline: Instant,
        parts: &[&[u8]],
    ) -> Result<bool> {
        let size = parts.iter().map(|part| part.len()).sum();
        if size > self.max_request || !self.request.fits(size) {
            return Err(Error::invalid(
                "message",
                format!("{size} bytes do not fit in the ring: ask for a larger ring size"),
            ));
        }
        let mut pause = RETRY_FIRST;
        // What fills a small ring is usually the request before, whose answer the daemon sends
        // before it gives the room back.
        let mut yields = 32;
        loop {
            link.check()?;
            let ring = self.request.ring();
            // As qb_ipc_shm_fc_get. Acquire: nothing to pair with in C, which reads it through a
            // full barrier.
            if ring.ref_count().load(Ordering::Acquire) != 2 {
                ring.check().map_err(|source| link.broken(source))?;
                return Err(link.hung_up());
            }
            let refused = self.is_refused(flow);
            // First the byte's room, since it must follow the request at once.
            let room =
                !refused && self.request.backlog() < MOST_BACKLOG && self.has_wake_room(link)?;
            if room && self.request.try_send(parts).map_err(|source| link.broken(source))? {
                return self.wake(link).map(|()| true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            if yields > 0 && !refused {
                yields -= 1;
                thread::yield_now();
            } else {
                link.pause(&mut pause, ROOM_MOST, deadline)?;
            }
        }
    }

    /// Whether the daemon takes no such requests now.
    fn is_refused(&self, flow: FlowControl) -> bool {
        let word = self.request.ring().flow_control().load(Ordering::Acquire);
        (1..=flow as u32).contains(&word)
    }

    /// Whether the socket has room for a wake byte. Looks every so many bytes only, since it has
    /// room for some more whenever it says so.
    fn has_wake_room(&mut self, link: &Link) -> Result<bool> {
        if self.wake_room == 0 {
            let ready = wait_for(&link.socket, Interest::Writable, Some(Instant::now()));
            match ready.map_err(|source| Error::system("looking at the setup socket", source))? {
                Ready::Yes => self.wake_room = self.wake_batch,
                Ready::HungUp => return Err(link.hung_up()),
                Ready::TimedOut => {}
            }
        }
        Ok(self.wake_room > 0)
    }

    /// Tells the daemon of a request in the ring. It blocks until it has the byte, so if that
    /// cannot be sent, the connection is ended.
    fn wake(&mut self, link: &Link) -> Result<()> {
        self.wake_room -= 1;
        socket::send_now(&link.socket, &[0]).map(drop).map_err(|_| {
            socket::shut_down(&link.socket);
            link.hung_up()
        })
    }

    /// Receives the answers nobody waits for any more, and throws them away. `false`: the deadline
    /// passed first.
    fn drain(&mut self, link: &Link, deadline: Instant) -> Result<bool> {
        while self.exchange.before() == Before::Drain {
            if self.answer(link, deadline)?.is_none() {
                return Ok(false);
            }
        }
        if self.exchange.take_again() {
            self.response.receive(RETRY_FIRST).map_err(|source| link.broken(source))?;
        }
        // Second answers that came too late for the request they belong to.
        while self.response.try_receive().map_err(|source| link.broken(source))?.is_some()
            && Instant::now() < deadline
        {}
        Ok(true)
    }

    /// Waits for the next answer, the one that counts. `None`: the deadline passed first.
    fn answer(&mut self, link: &Link, deadline: Instant) -> Result<Option<Bytes>> {
        let Some(reply) = self.receive(link, deadline)? else {
            return Ok(None);
        };
        if !may_be_answered_again(&reply) {
            return Ok(Some(reply));
        }
        let second = self.response.receive(RETRY_FIRST).map_err(|source| link.broken(source))?;
        Ok(Some(second.unwrap_or(reply)))
    }

    /// Waits for the next answer. `None`: the deadline passed first.
    fn receive(&mut self, link: &Link, deadline: Instant) -> Result<Option<Bytes>> {
        // Awake for a moment, then asleep.
        self.response.spin(deadline.saturating_duration_since(Instant::now()));
        let mut slice = REPLY_SLICE_FIRST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut reply =
                self.response.receive(left.min(slice)).map_err(|source| link.broken(source))?;
            slice = (slice * 2).min(REPLY_SLICE_MOST);
            let hung_up = reply.is_none() && link.is_hung_up()?;
            if hung_up {
                reply = self.response.try_receive().map_err(|source| link.broken(source))?;
            }
            if let Some(reply) = reply {
                self.exchange.received();
                return Ok(Some(reply));
            }
            if hung_up {
                return Err(link.hung_up());
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Sends a nudge, and throws away the answers to earlier ones. `false`: it cannot be sent now.
    fn try_nudge(&mut self, link: &Link, nudge: Option<Nudge>) -> Result<bool> {
        if !self.exchange.owes_unawaited_only() {
            return Ok(false);
        }
        for _ in 0..MOST_DRAINED {
            match self.response.try_receive().map_err(|source| link.broken(source))? {
                Some(reply) => self.exchange.received_unawaited(&reply),
                None => break,
            }
        }
        if !self.exchange.may_nudge() {
            return Ok(false);
        }
        let Some(Ok(message)) = nudge.map(|nudge| nudge()) else { return Ok(false) };
        // As a multicast it waits while the daemon takes no requests, which spins as long as there
        // are some.
        let sent = self.send(link, FlowControl::Multicast, Instant::now(), &[&message])?;
        if sent {
            self.exchange.sent_unawaited();
        }
        Ok(sent)
    }
}
