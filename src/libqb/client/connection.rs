//! A connection: the transport, one request under way, the events, and waiting for both.

use std::borrow::Cow;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::connect::{self, Parts};
use super::patience::Patience;
use super::turnstile::{self, Turnstile};
use super::waker::Waker;
use crate::codec::{CS_OK, reply_status};
use crate::endpoint::Endpoint;
use crate::error::WireError;
use crate::error::{CsError, Error, ProtocolError, Result, RingError};
use crate::libqb::exchange::{Before, Exchange, may_be_answered_again};
use crate::libqb::handshake::{RING_NAMES, RingName};
use crate::libqb::refill::Refill;
use crate::libqb::ring::{Consumer, Mapping, Producer};
use crate::libqb::wake::{BATCH, MOST_STRAY, WakeBytes};
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for, wait_or_woken};
use crate::sys::{file, socket};

/// How long to sleep on the reply's semaphore, at first and at most, before looking whether the
/// daemon is still there. Also what a wake-up costs that the daemon's libc fails to send, as musl's
/// does to a waiter that glibc's layout announces: about as long as was waited already. libqb
/// sleeps 2 s each time.
const REPLY_SLICE_FIRST: Duration = Duration::from_millis(20);
const REPLY_SLICE_MOST: Duration = Duration::from_millis(250);

/// How long to sleep, at first and at most, before sending again what the daemon was too busy for.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MOST: Duration = Duration::from_millis(50);

/// How long to sleep at most before looking again at what nothing announces: flow control and room
/// in the ring. The daemon looks every millisecond whether it can lift flow control.
const ROOM_MOST: Duration = Duration::from_millis(5);

/// How many requests may wait in the ring. Each has a wake byte in the socket's buffer, which holds
/// 278 of them by default, and the daemon takes the bytes of up to 50 requests after the requests.
/// So with a daemon that reads them, a byte seldom has to wait.
const MOST_BACKLOG: u32 = 128;

/// What a wake byte takes in the socket's buffer at most, in bytes. Linux 6.18 counts 768.
const WAKE_BYTE_COST: usize = 2048;

/// What the smallest message takes in a ring, and every message besides its length: a chunk's
/// header.
const CHUNK_HEADER: usize = 8;

/// How many answers to nudges are thrown away at a time: twice as many as there are nudges under
/// way.
const MOST_DRAINED: usize = 4;

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

/// A connection to one service.
///
/// Locking rules: `requests` is taken by whoever has the turn, and held for as long, replies
/// included. `events` is held while an event is taken from the ring and made of its message, so
/// that messages which belong together are taken apart in their order. Neither is taken while the
/// other is held, but by `Drop`, when nobody else is left; no user code runs under either, and
/// logging is user code. `releases` and `notes` are held for a few instructions only.
pub(crate) struct Connection {
    service: Cow<'static, str>,
    socket: OwnedFd,
    peer: Credentials,
    max_request: usize,
    max_reply: usize,
    /// How many messages a look at the events takes at most that are no events, such as parts of
    /// one: as many as the ring can hold. When a look ends with that, what is in the ring now
    /// came during the look, so that its wake bytes make the descriptor readable anew,
    /// for loops with edge-triggered readiness too.
    most_silent: usize,
    turnstile: Turnstile,
    requests: Mutex<Requests>,
    /// Requests that make the daemon forget what it keeps for this client, and that were not sent
    /// yet.
    releases: Mutex<Vec<Vec<u8>>>,
    events: Mutex<Events>,
    timeout: AtomicU64,
    /// See [`Endpoint::wait_while_busy`].
    waits_while_busy: bool,
    /// One of the states below; only ever grows.
    state: AtomicU8,
    /// The ring of which a file was cut short. Set before the state says that the connection is
    /// broken.
    truncated: OnceLock<&'static str>,
    /// What is to be logged once the locks are released: whoever gets to see it may use the
    /// client.
    notes: Mutex<Vec<Note>>,
    /// Whether there are any. Relaxed: who notes something looks here afterwards.
    noted: AtomicBool,
    /// Made for the first wait or the first who asks for it.
    waker: OnceLock<Waker>,
    is_before_libqb_015: bool,
    /// See [`Target::nudge`].
    nudge: Option<Nudge>,
    /// The event ring was full and is not: a nudge is to be sent. Set by whoever emptied it, who
    /// then takes the turn to send it; cleared by whoever sends it, in the turn. Whoever finds
    /// the turn taken leaves it to the one who has it, who looks after passing it on.
    nudge_wanted: AtomicBool,
    rings: [RingName; 3],
    shm_root: PathBuf,
}

/// All is well.
const OPEN: u8 = 0;
/// The other end closed. Events left in the ring are still handed over.
const GONE: u8 = 1;
/// The other end broke the protocol. Nothing it left is looked at.
const BROKEN: u8 = 2;
/// This end closed.
const FINALIZED: u8 = 3;

/// What is to be logged.
enum Note {
    TimedOut(&'static str),
    Gone,
    Broken(ProtocolError),
}

struct Requests {
    request: Producer<Mapping>,
    response: Consumer<Mapping>,
    exchange: Exchange,
    /// How many wake bytes the socket is known to have room for.
    wake_room: usize,
    /// How many it has room for when it says that it is writable.
    wake_batch: usize,
}

/// The service to connect to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target<'a> {
    /// The name of its socket.
    pub(crate) name: &'a str,
    /// Room in each ring that every message of the service fits in, in bytes.
    pub(crate) ring_size: u32,
    /// Whether the service may make rings larger than it is asked to. No corosync does.
    pub(crate) may_raise_size: bool,
    /// Makes a request that the daemon answers at once, shortly and exactly once, whatever state it
    /// is in, and that changes nothing. `None`: there is no such request.
    pub(crate) nudge: Option<Nudge>,
}

/// See [`Target::nudge`].
pub(crate) type Nudge = fn() -> Result<Vec<u8>, WireError>;

struct Events {
    ring: Consumer<Mapping>,
    wake: WakeBytes,
    refill: Refill,
    looked: Instant,
}

/// When the daemon is too busy for a request. The values are what `qb_ipcc_fc_enable_max_set`
/// takes: the largest flow control word that refuses the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlowControl {
    /// Refused while the daemon takes no requests at all: every request but a multicast.
    Request = 1,
    /// Refused also while totem's queue is full or the cluster synchronizes: multicasts.
    Multicast = 2,
}

/// Sole use of the rings for requests and replies: what is sent in one turn follows each other.
/// Passed on when dropped.
pub(crate) struct Turn<'a> {
    connection: &'a Connection,
    // Released before the turn is passed on.
    requests: MutexGuard<'a, Requests>,
    _turn: turnstile::Turn<'a>,
    // Looked after when the turn was passed on.
    _left: Left<'a>,
}

/// Sends the nudge that another thread wanted while the turn was taken, and logs what was noted.
struct Left<'a>(&'a Connection);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        self.0.send_wanted_nudge();
        self.0.log_notes();
    }
}

impl Connection {
    /// Connects to a service.
    pub(crate) fn open(
        target: Target<'_>,
        endpoint: &Endpoint,
        patience: &Patience,
    ) -> Result<Self> {
        let Parts {
            socket,
            peer,
            generation: _generation,
            is_before_libqb_015,
            max_msg_size,
            names,
            request,
            response,
            event,
        } = connect::connect(target, endpoint, patience).inspect_err(|_error| {
            crate::log::debug!(service = %endpoint.name(target.name), error = %_error, "cannot connect");
        })?;
        let service: Cow<'static, str> = Cow::Owned(endpoint.name(target.name).to_owned());
        let room = socket::send_buffer(&socket)
            .map_err(|source| Error::system("looking at the setup socket", source))?;
        // As unix_writable in Linux: it is writable while a quarter is full at most.
        let wake_batch = (room / 4 * 3 / WAKE_BYTE_COST).max(1);
        let counts =
            [request.ring().ref_count(), response.ring().ref_count(), event.ring().ref_count()];
        let in_use = |ring| Error::Protocol {
            service: service.clone(),
            source: RingError::InUse { ring }.into(),
        };
        // So far the daemon is the only user. A second one means that the daemon named another
        // connection's ring: both must not use it. Relaxed: a count; the daemon looks at it
        // only after the socket told it something.
        if let Some((_, ring)) =
            counts.iter().zip(RING_NAMES).find(|(count, _)| count.load(Ordering::Relaxed) != 1)
        {
            return Err(in_use(ring));
        }
        for (count, ring) in counts.into_iter().zip(RING_NAMES) {
            count
                .compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed)
                .map_err(|_| in_use(ring))?;
        }
        let timeout = endpoint.request_timeout_value();
        let connection = Self {
            service,
            socket,
            peer,
            max_request: usize::try_from(max_msg_size).unwrap_or(usize::MAX),
            max_reply: response.ring().max_chunk(),
            most_silent: event.ring().max_chunk() / CHUNK_HEADER + 1,
            turnstile: Turnstile::default(),
            requests: Mutex::new(Requests {
                request,
                response,
                exchange: Exchange::default(),
                wake_room: 0,
                wake_batch,
            }),
            releases: Mutex::default(),
            events: Mutex::new(Events {
                ring: event,
                wake: WakeBytes::default(),
                refill: Refill::default(),
                looked: Instant::now(),
            }),
            timeout: AtomicU64::new(0),
            waits_while_busy: endpoint.waits_while_busy(),
            state: AtomicU8::new(OPEN),
            truncated: OnceLock::new(),
            notes: Mutex::default(),
            noted: AtomicBool::new(false),
            waker: OnceLock::new(),
            is_before_libqb_015,
            nudge: target.nudge,
            nudge_wanted: AtomicBool::new(false),
            rings: names,
            shm_root: endpoint.shm_root_path().to_path_buf(),
        };
        connection.set_timeout(timeout);
        crate::log::debug!(service = %connection.service, pid = peer.pid, generation = ?_generation, "connected");
        Ok(connection)
    }

    pub(crate) fn peer(&self) -> Credentials {
        self.peer
    }

    /// Whether the daemon's libqb is older than 0.15, as far as its rings tell; some later ones
    /// look the same.
    pub(crate) fn is_before_libqb_015(&self) -> bool {
        self.is_before_libqb_015
    }

    /// The longest request the daemon takes on this connection, in bytes: the ring size asked for,
    /// unless the daemon raised it.
    pub(crate) fn max_request(&self) -> usize {
        self.max_request
    }

    /// The longest answer the daemon can send on this connection, in bytes.
    pub(crate) fn max_reply(&self) -> usize {
        self.max_reply
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout.load(Ordering::Relaxed))
    }

    pub(crate) fn set_timeout(&self, timeout: Duration) {
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.timeout.store(nanos, Ordering::Relaxed);
    }

    /// The client's timeout, from now on.
    pub(crate) fn patience(&self, call: &'static str) -> Patience {
        Patience::new(call, self.timeout())
    }

    /// Sends a request and waits for its answer, which says that it was carried out. While the
    /// daemon answers that it is busy, in one of these ways, the request is sent again, until
    /// the deadline, unless the endpoint says otherwise; such an answer says that it was not
    /// carried out.
    pub(crate) fn call(
        &self,
        busy: &[CsError],
        patience: &Patience,
        request: &[u8],
    ) -> Result<Bytes> {
        let waits = |busy: &CsError| self.waits_while_busy || *busy != CsError::TryAgain;
        let busy: Vec<_> = busy.iter().copied().filter(waits).collect();
        // Others have their turn while this one waits.
        let reply = self.retry(&busy, patience, || {
            self.patient_turn(patience)?.exchange(&[request], FlowControl::Request, patience)
        });
        self.log_notes();
        reply
    }

    /// Sends a request and waits for its answer, whatever that says.
    pub(crate) fn request(&self, patience: &Patience, request: &[u8]) -> Result<Bytes> {
        let reply = self
            .patient_turn(patience)
            .and_then(|mut turn| turn.exchange(&[request], FlowControl::Request, patience));
        self.log_notes();
        reply
    }

    /// Sends a message that is not answered.
    pub(crate) fn send_unanswered(&self, patience: &Patience, message: &[u8]) -> Result<()> {
        let mut turn = self.patient_turn(patience)?;
        if turn.send(&[message], FlowControl::Request, patience.deadline)? {
            Ok(())
        } else {
            drop(turn);
            Err(self.timed_out(patience))
        }
    }

    /// Sends a request that makes the daemon forget something, and waits neither to send it nor for
    /// the answer: if it cannot be sent now, it goes before the next request. Only for requests
    /// that the daemon never refuses for being busy.
    pub(crate) fn release(&self, request: Vec<u8>) {
        lock(&self.releases).push(request);
        let now = Instant::now();
        if let Ok(Some(mut turn)) = self.turn(now) {
            // A failure ends the connection, and then the daemon forgets everything.
            let _ = turn.send_releases(now);
        }
    }

    /// Exchanges messages until the answer is not that the daemon is busy, or the deadline passes.
    fn retry(
        &self,
        busy: &[CsError],
        patience: &Patience,
        mut exchange: impl FnMut() -> Result<Bytes>,
    ) -> Result<Bytes> {
        let mut pause = RETRY_FIRST;
        loop {
            let reply = exchange()?;
            match reply_status(&reply).map_err(|source| self.broken(source.into()))? {
                CS_OK => return Ok(reply),
                status => {
                    let busy = busy.iter().any(|busy| status == *busy as i32);
                    // An attempt needs some time too: one that is cut off leaves in doubt what
                    // became of it.
                    if !busy || Instant::now() + 2 * pause >= patience.deadline {
                        return Err(Error::from_status(patience.call, status));
                    }
                }
            }
            self.pause(&mut pause, RETRY_MOST, patience.deadline)?;
        }
    }

    /// Waits for the turn to send. `None`: the deadline passed first. A deadline that has passed
    /// already asks without waiting.
    pub(crate) fn turn(&self, deadline: Instant) -> Result<Option<Turn<'_>>> {
        self.check()?;
        let turn = |turn| Turn {
            connection: self,
            requests: lock(&self.requests),
            _turn: turn,
            _left: Left(self),
        };
        Ok(self.turnstile.enter(deadline).map(turn))
    }

    /// As [`Connection::turn`], for whom a turn that does not come in time is an error.
    pub(crate) fn patient_turn(&self, patience: &Patience) -> Result<Turn<'_>> {
        self.turn(patience.deadline)?.ok_or_else(|| self.timed_out(patience))
    }

    /// What a call ends with whose time is over, whatever it waited for: its turn, room for the
    /// request, or the answer.
    pub(crate) fn timed_out(&self, patience: &Patience) -> Error {
        let error = self.late(patience);
        self.log_notes();
        error
    }

    /// As [`Connection::timed_out`], where a lock is held.
    fn late(&self, patience: &Patience) -> Error {
        self.note(Note::TimedOut(patience.call));
        Error::TimedOut { operation: Cow::Borrowed(patience.call), after: patience.timeout }
    }

    fn note(&self, note: Note) {
        lock(&self.notes).push(note);
        self.noted.store(true, Ordering::Relaxed);
    }

    /// Logs what was noted. Not where a lock is held.
    fn log_notes(&self) {
        if !self.noted.load(Ordering::Relaxed) || !self.noted.swap(false, Ordering::Relaxed) {
            return;
        }
        let notes = mem::take(&mut *lock(&self.notes));
        for note in notes {
            match note {
                Note::TimedOut(_call) => {
                    crate::log::debug!(service = %self.service, call = _call, "timed out");
                }
                Note::Gone => {
                    crate::log::debug!(service = %self.service, "disconnected");
                }
                Note::Broken(_source) => {
                    crate::log::warn!(service = %self.service, source = %_source, "the daemon broke the protocol");
                }
            }
        }
    }

    /// Puts a request in the ring and tells the daemon. `false`: the deadline passed first, and
    /// nothing was sent.
    fn send(
        &self,
        requests: &mut Requests,
        parts: &[&[u8]],
        flow: FlowControl,
        deadline: Instant,
    ) -> Result<bool> {
        let size = parts.iter().map(|part| part.len()).sum();
        if size > self.max_request || !requests.request.fits(size) {
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
            self.check()?;
            let ring = &mut requests.request;
            // As qb_ipc_shm_fc_get. Acquire: nothing to pair with in C, which reads it through a
            // full barrier.
            if ring.ring().ref_count().load(Ordering::Acquire) != 2 {
                ring.ring().check().map_err(|source| self.broken(source.into()))?;
                return Err(self.hung_up());
            }
            let refused = is_refused(ring, flow);
            // First the byte's room, since it must follow the request at once.
            let room = !refused && ring.backlog() < MOST_BACKLOG && self.has_wake_room(requests)?;
            if room
                && requests.request.try_send(parts).map_err(|source| self.broken(source.into()))?
            {
                return self.wake(requests).map(|()| true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            if yields > 0 && !refused {
                yields -= 1;
                thread::yield_now();
            } else {
                self.pause(&mut pause, ROOM_MOST, deadline)?;
            }
        }
    }

    /// Whether the socket has room for a wake byte. Looks every so many bytes only, since it has
    /// room for some more whenever it says so.
    fn has_wake_room(&self, requests: &mut Requests) -> Result<bool> {
        if requests.wake_room == 0 {
            let ready = wait_for(&self.socket, Interest::Writable, Some(Instant::now()));
            match ready.map_err(|source| Error::system("looking at the setup socket", source))? {
                Ready::Yes => requests.wake_room = requests.wake_batch,
                Ready::HungUp => return Err(self.hung_up()),
                Ready::TimedOut => {}
            }
        }
        Ok(requests.wake_room > 0)
    }

    /// Tells the daemon of a request in the ring. It blocks until it has the byte, so if that
    /// cannot be sent, the connection is ended.
    fn wake(&self, requests: &mut Requests) -> Result<()> {
        requests.wake_room -= 1;
        socket::send_now(&self.socket, &[0]).map(drop).map_err(|_| {
            socket::shut_down(&self.socket);
            self.hung_up()
        })
    }

    /// Waits for the next answer. `None`: the deadline passed first.
    fn receive(&self, requests: &mut Requests, deadline: Instant) -> Result<Option<Bytes>> {
        let broken = |source: crate::error::RingError| self.broken(source.into());
        // Awake for a moment, then asleep.
        requests.response.spin(deadline.saturating_duration_since(Instant::now()));
        let mut slice = REPLY_SLICE_FIRST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let reply = requests.response.receive(left.min(slice)).map_err(broken)?;
            slice = (slice * 2).min(REPLY_SLICE_MOST);
            let hung_up = reply.is_none() && self.is_hung_up()?;
            let reply =
                if hung_up { requests.response.try_receive().map_err(broken)? } else { reply };
            if let Some(reply) = reply {
                requests.exchange.received();
                return Ok(Some(reply));
            }
            if hung_up {
                return Err(self.hung_up());
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

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
        for _ in 0..self.most_silent {
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
            let mut events = lock(&self.events);
            let message = self.poll_message(&mut events, look);
            message.and_then(|it| {
                it.map(make).transpose().map_err(|source| self.broken(source.into()))
            })
        };
        self.send_wanted_nudge();
        self.log_notes();
        event
    }

    /// Sends the nudge that is wanted, if one is. Never blocks: while it cannot be sent it stays
    /// wanted.
    fn send_wanted_nudge(&self) {
        // Relaxed: the lock in the turnstile orders it. Who finds the turn taken has set it before
        // looking there, and who passes the turn on looks here afterwards.
        while self.nudge_wanted.load(Ordering::Relaxed) {
            let Some(_turn) = self.turnstile.enter(Instant::now()) else { return };
            // Before it is sent: one that is wanted from now on may come too late for it.
            self.nudge_wanted.store(false, Ordering::Relaxed);
            // What is wrong with the connection, whoever uses it next will be told.
            if !self.try_nudge(&mut lock(&self.requests)).unwrap_or(false) {
                return self.nudge_wanted.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Sends a nudge, and throws away the answers to earlier ones. `false`: it cannot be sent now.
    fn try_nudge(&self, requests: &mut Requests) -> Result<bool> {
        if !requests.exchange.owes_unawaited_only() {
            return Ok(false);
        }
        for _ in 0..MOST_DRAINED {
            match requests.response.try_receive().map_err(|source| self.broken(source.into()))? {
                Some(reply) => requests.exchange.received_unawaited(&reply),
                None => break,
            }
        }
        if !requests.exchange.may_nudge() {
            return Ok(false);
        }
        let Some(Ok(message)) = self.nudge.map(|nudge| nudge()) else { return Ok(false) };
        // As a multicast it waits while the daemon takes no requests, which spins as long as there
        // are some.
        let sent = self.send(requests, &[&message], FlowControl::Multicast, Instant::now())?;
        if sent {
            requests.exchange.sent_unawaited();
        }
        Ok(sent)
    }

    /// Takes the next event's message, if one waits.
    fn poll_message(&self, events: &mut Events, look: Look) -> Result<Option<Bytes>> {
        let state = self.state();
        if state > GONE {
            return Err(self.ended());
        }
        if let Some(event) = self.take_event(events)? {
            return Ok(Some(event));
        }
        let mut wanted = events.wake.wanted();
        if wanted == 0 {
            let now = Instant::now();
            if look == Look::Glance
                && state == OPEN
                && now.duration_since(events.looked) < LIVENESS_INTERVAL
            {
                return Ok(None);
            }
            events.looked = now;
            // A byte without an event: either its event is there by now, or the daemon is mad and
            // the byte must go.
            wanted = 1;
        }
        let hung_up = self.take_bytes(events, wanted)?;
        let event = self.take_event(events)?;
        if event.is_none() {
            if !events.wake.forget_stray() {
                let what = "wake bytes without an event";
                return Err(self.broken(ProtocolError::Endless { what, limit: MOST_STRAY as u64 }));
            }
            if hung_up {
                return Err(self.hung_up());
            }
        }
        Ok(event)
    }

    /// Takes an event from the ring, and wake bytes from the socket when it is their time.
    fn take_event(&self, events: &mut Events) -> Result<Option<Bytes>> {
        let event = events.ring.try_receive().map_err(|source| self.broken(source.into()))?;
        if let Some(event) = &event {
            let (left, capacity) = (events.ring.used(), events.ring.ring().max_chunk());
            if events.refill.event_taken(event.len() + CHUNK_HEADER, left, capacity) {
                self.nudge_wanted.store(true, Ordering::Relaxed);
            }
            let wanted = events.wake.event_taken(events.ring.has_chunk());
            if wanted > 0 {
                self.take_bytes(events, wanted)?;
            }
        }
        Ok(event)
    }

    /// Takes up to `wanted` wake bytes. Whether the other end closed.
    fn take_bytes(&self, events: &mut Events, wanted: usize) -> Result<bool> {
        let mut buffer = [0; BATCH];
        let room = buffer.get_mut(..wanted).unwrap_or_default();
        match socket::receive_now(&self.socket, room) {
            Ok(0) => Ok(true),
            Ok(count) => {
                events.wake.bytes_taken(count);
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(true),
            Err(error) => Err(Error::system("reading the setup socket", error)),
        }
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
        if lock(&self.events).ring.has_chunk() {
            return Ok(true);
        }
        let ready = wait_or_woken(&self.socket, waker.wakeup(), deadline);
        let (ready, rung) = ready.map_err(|source| Error::system("waiting for events", source))?;
        if rung {
            waker.wakeup().clear();
        }
        match ready {
            Ready::Yes => Ok(true),
            Ready::HungUp => {
                // The next look finds the end at once, after the events that are left.
                self.advance(GONE);
                Ok(true)
            }
            Ready::TimedOut => Ok(rung),
        }
    }

    /// What ends a wait.
    pub(crate) fn waker(&self) -> Result<&Waker> {
        if let Some(waker) = self.waker.get() {
            return Ok(waker);
        }
        let new = Waker::new()?;
        Ok(self.waker.get_or_init(|| new))
    }

    /// Whether the waker was used since the last time this was asked.
    pub(crate) fn was_woken(&self) -> bool {
        self.waker.get().is_some_and(Waker::take)
    }

    /// Ends the connection for all threads that use it.
    pub(crate) fn finalize(&self) {
        self.advance(FINALIZED);
        socket::shut_down(&self.socket);
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Acquire)
    }

    /// Moves to a later state. Returns the one before.
    fn advance(&self, state: u8) -> u8 {
        self.state.fetch_max(state, Ordering::AcqRel)
    }

    fn check(&self) -> Result<()> {
        if self.state() == OPEN { Ok(()) } else { Err(self.ended()) }
    }

    /// Why nothing can be done any more.
    fn ended(&self) -> Error {
        match self.state() {
            FINALIZED => Error::Finalized,
            _ => Error::Disconnected {
                service: self.service.clone(),
                truncated: self.truncated.get().copied(),
            },
        }
    }

    /// Sleeps a little longer each time, but not past the deadline, and not when the daemon goes.
    fn pause(&self, pause: &mut Duration, most: Duration, deadline: Instant) -> Result<()> {
        let until = deadline.min(Instant::now() + *pause);
        *pause = (*pause * 2).min(most);
        let ready = wait_for(&self.socket, Interest::HangUp, Some(until));
        match ready.map_err(|source| Error::system("waiting for the daemon", source))? {
            Ready::HungUp => Err(self.hung_up()),
            Ready::Yes | Ready::TimedOut => Ok(()),
        }
    }

    fn is_hung_up(&self) -> Result<bool> {
        let ready = wait_for(&self.socket, Interest::HangUp, Some(Instant::now()));
        Ok(ready.map_err(|source| Error::system("looking for the daemon", source))?
            == Ready::HungUp)
    }

    fn hung_up(&self) -> Error {
        if self.advance(GONE) == OPEN {
            self.note(Note::Gone);
        }
        self.ended()
    }

    /// The peer broke the protocol, as its answers show: nothing it says can be believed any more.
    pub(crate) fn refuse(&self, source: ProtocolError) -> Error {
        let error = self.broken(source);
        self.log_notes();
        error
    }

    /// As [`Connection::refuse`], where a lock is held.
    fn broken(&self, source: ProtocolError) -> Error {
        self.note(Note::Broken(source));
        let truncated = match source {
            ProtocolError::Ring(RingError::Truncated { ring }) => {
                Some(*self.truncated.get_or_init(|| ring))
            }
            _ => None,
        };
        self.advance(BROKEN);
        socket::shut_down(&self.socket);
        if truncated.is_some() {
            return self.ended();
        }
        Error::Protocol { service: self.service.clone(), source }
    }
}

impl Turn<'_> {
    /// Sends a message that is not answered. `false`: the deadline passed before the daemon would
    /// take it, and nothing was sent. A deadline that has passed already sends at once or not
    /// at all.
    pub(crate) fn send(
        &mut self,
        parts: &[&[u8]],
        flow: FlowControl,
        deadline: Instant,
    ) -> Result<bool> {
        self.connection.send(&mut self.requests, parts, flow, deadline)
    }

    /// Sends a message and waits for its answer, as [`Connection::call`] does, but keeps the turn.
    pub(crate) fn call(
        &mut self,
        parts: &[&[u8]],
        flow: FlowControl,
        patience: &Patience,
    ) -> Result<Bytes> {
        self.connection
            .retry(&[CsError::TryAgain], patience, || self.exchange(parts, flow, patience))
    }

    /// Sends a message in parts and waits for its answer, whatever that is.
    fn exchange(
        &mut self,
        parts: &[&[u8]],
        flow: FlowControl,
        patience: &Patience,
    ) -> Result<Bytes> {
        let connection = self.connection;
        let waits = connection.waits_while_busy || flow == FlowControl::Multicast;
        if !waits && is_refused(&self.requests.request, flow) {
            return Err(Error::Cs { call: patience.call.into(), error: CsError::TryAgain });
        }
        let ready = self.send_releases(patience.deadline)? && self.drain(patience.deadline)?;
        // When the time is over nothing is sent: nobody would wait for the answer.
        if !ready || patience.is_over() || !self.send(parts, flow, patience.deadline)? {
            return Err(connection.late(patience));
        }
        self.requests.exchange.sent();
        self.answer(patience.deadline)?.ok_or_else(|| connection.late(patience))
    }

    /// Sends what is waiting in [`Connection::release`]. `false`: the deadline passed first.
    fn send_releases(&mut self, deadline: Instant) -> Result<bool> {
        loop {
            let Some(message) = lock(&self.connection.releases).pop() else { return Ok(true) };
            if !(self.drain(deadline)? && self.send(&[&message], FlowControl::Request, deadline)?) {
                lock(&self.connection.releases).push(message);
                return Ok(false);
            }
            self.requests.exchange.sent_unawaited();
        }
    }

    /// Receives the answers nobody waits for any more, and throws them away. `false`: the deadline
    /// passed first.
    fn drain(&mut self, deadline: Instant) -> Result<bool> {
        while self.requests.exchange.before() == Before::Drain {
            if self.answer(deadline)?.is_none() {
                return Ok(false);
            }
        }
        let broken = |source: crate::error::RingError| self.connection.broken(source.into());
        if self.requests.exchange.take_again() {
            self.requests.response.receive(RETRY_FIRST).map_err(broken)?;
        }
        // Second answers that came too late for the request they belong to.
        while self.requests.response.try_receive().map_err(broken)?.is_some()
            && Instant::now() < deadline
        {}
        Ok(true)
    }

    /// Waits for the next answer, the one that counts. `None`: the deadline passed first.
    fn answer(&mut self, deadline: Instant) -> Result<Option<Bytes>> {
        let Some(reply) = self.connection.receive(&mut self.requests, deadline)? else {
            return Ok(None);
        };
        if !may_be_answered_again(&reply) {
            return Ok(Some(reply));
        }
        let second = self.requests.response.receive(RETRY_FIRST);
        Ok(Some(second.map_err(|source| self.connection.broken(source.into()))?.unwrap_or(reply)))
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        {
            let requests = lock(&self.requests);
            let events = lock(&self.events);
            for count in [
                requests.request.ring().ref_count(),
                requests.response.ring().ref_count(),
                events.ring.ring().ref_count(),
            ] {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        // How often to look whether the daemon's process is gone. After `finalize` nothing tells
        // why the socket is closed.
        let looks = match self.state() {
            OPEN if self.is_hung_up().is_ok_and(|hung_up| !hung_up) => 0,
            FINALIZED => 1,
            _ => 4,
        };
        socket::shut_down(&self.socket);
        self.remove_orphaned_rings(looks);
    }
}

impl Connection {
    /// Removes the rings of a daemon that was killed and so left them behind. As the C library, it
    /// gives the process a moment to be gone, and leaves everything alone when it is not
    /// certainly so.
    fn remove_orphaned_rings(&self, looks: u32) {
        if !self.rings.iter().all(|ring| ring.is_made_by(self.peer.pid)) {
            return;
        }
        let gone = (0..looks).any(|look| {
            if look > 0 {
                thread::sleep(Duration::from_millis(10));
            }
            file::process_is_gone(self.peer.pid)
        });
        if !gone {
            return;
        }
        for ring in &self.rings {
            let Ok(directory) =
                file::open_directory(&self.shm_root, ring.directories.iter().map(AsRef::as_ref))
            else {
                continue;
            };
            file::remove_file(&directory, &ring.file("-header"));
            file::remove_file(&directory, &ring.file("-data"));
        }
        if let Some((own, above)) =
            self.rings.first().and_then(|ring| ring.directories.split_last())
        {
            if let Ok(parent) =
                file::open_directory(&self.shm_root, above.iter().map(AsRef::as_ref))
            {
                file::remove_directory(&parent, own);
            }
        }
    }
}

/// Whether the daemon takes no such requests now.
fn is_refused(ring: &Producer<Mapping>, flow: FlowControl) -> bool {
    (1..=flow as u32).contains(&ring.ring().flow_control().load(Ordering::Acquire))
}

/// Locks; a panic of another thread inside the lock would be a bug here, and leaves nothing half
/// done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
