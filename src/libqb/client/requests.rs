//! Requests and their answers: the turn to send, the exchange, and requests whose answers nobody
//! waits for.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::answers::{Answers, Posted, Source};
use super::call::{Call, FlowControl, Limits};
use super::connection::Connection;
use super::link::{Link, State};
use super::lock;
use super::turnstile::{Guard, Turnstile};
use super::wanted::Wanted;
use crate::codec::Header;
use crate::error::{CsError, Error, ProtocolError, Result, WireError};
use crate::libqb::channel::{ChannelError, Receiver, Sender};
use crate::libqb::pending::Room;
use crate::libqb::ring::CHUNK_HEADER_SIZE;
use crate::sync::Ordering;
use crate::sys::socket;
use crate::sys::wait::{Interest, Ready, wait_for};

/// How long to sleep on the reply's semaphore, at first and at most, before checking that the
/// daemon is still there. libqb sleeps 2 s each time. This also bounds the cost of a wake-up that
/// the daemon's libc does not send: musl's `sem_post` does not see a waiter in glibc's layout.
const REPLY_SLICE_FIRST: Duration = Duration::from_millis(20);
const REPLY_SLICE_MOST: Duration = Duration::from_millis(250);

/// How long to sleep, at first and at most, before sending a request again that the daemon was too
/// busy for.
const RETRY_FIRST: Duration = Duration::from_millis(1);
const RETRY_MOST: Duration = Duration::from_millis(50);

/// How long to sleep, at first and at most, before checking flow control and ring space again; no
/// descriptor signals them. The daemon checks every millisecond whether it can lift flow control. A
/// daemon that has taken a message which fills the ring is done with it after some milliseconds,
/// and has nothing to do if the next one comes later than that: so the first naps are all short.
const ROOM_FIRST: Duration = Duration::from_millis(1);
const ROOM_SHORT_NAPS: u32 = 16;
const ROOM_MOST: Duration = Duration::from_millis(5);

/// How many requests may wait in the ring. Each has a wake byte in the socket's buffer, which holds
/// 278 of them by default. The daemon takes up to 50 requests first and their bytes after them. So
/// the buffer seldom fills while the daemon reads.
const MOST_BACKLOG: u32 = 128;

/// The most bytes of the socket's buffer that a wake byte takes. Linux 6.18 counts 768.
const WAKE_BYTE_COST: usize = 2048;

/// How many answers to nudges are discarded at a time: twice the number of nudges under way.
const MOST_DRAINED: usize = 4;

/// Makes a request that changes nothing. The daemon answers it at once, with a short message, and
/// exactly once, whatever state it is in.
pub(crate) type Nudge = fn() -> Result<Vec<u8>, WireError>;

/// Reads the answer to the request of this number.
type Read<'a> = dyn FnMut(usize, &[u8]) -> Result<(), WireError> + 'a;

/// The request half of a connection.
///
/// Locking rules: a thread takes the turn to send before the turn to receive. It keeps both from a
/// request that is sent alone to its answer. A request that others may join gives the turn to send
/// back before its answer is there. `releases` is held for a few instructions only.
pub(super) struct Requests {
    sending: Turnstile<Sending>,
    answers: Answers<Receiver>,
    /// Whether requests may be under way together.
    joins: bool,
    /// Requests that release resources in the daemon and are not sent yet.
    releases: Mutex<Vec<Vec<u8>>>,
    nudge: Option<Nudge>,
    /// The event ring was full and is nearly empty, so a nudge must be sent. The thread that
    /// emptied the ring asks for it.
    nudge_wanted: Wanted,
}

/// The request ring, and the socket's room for wake bytes.
struct Sending {
    request: Sender,
    max_request: usize,
    /// How many wake bytes the socket is known to have room for.
    wake_room: usize,
    /// How many wake bytes a writable socket has room for.
    wake_batch: usize,
}

/// Exclusive use of the request ring. No other request comes between those of one turn. The next
/// thread has its turn when this is dropped.
pub(crate) struct Turn<'a> {
    connection: &'a Connection,
    sending: Guard<'a, Sending>,
    // Dropped last, after the turn was passed on.
    after: AfterTurn<'a>,
}

/// Sends the nudge that another thread asked for while this one was in its way, and logs the notes.
struct AfterTurn<'a>(&'a Connection);

impl Drop for AfterTurn<'_> {
    fn drop(&mut self) {
        self.0.send_wanted_nudge();
        self.0.link.log_notes();
    }
}

impl Requests {
    /// `joins`: whether the daemon answers requests once and in their order, but for some that are
    /// sent alone. `socket_buffer` is the size of the setup socket's send buffer.
    pub(super) fn new(
        request: Sender,
        response: Receiver,
        [max_request, max_reply]: [usize; 2],
        joins: bool,
        socket_buffer: usize,
        nudge: Option<Nudge>,
    ) -> Self {
        // As unix_writable in Linux: the socket is writable while at most a quarter is full.
        let wake_batch = (socket_buffer / 4 * 3 / WAKE_BYTE_COST).max(1);
        Self {
            sending: Turnstile::new(Sending { request, max_request, wake_room: 0, wake_batch }),
            answers: Answers::new(response, max_reply),
            joins,
            releases: Mutex::default(),
            nudge,
            nudge_wanted: Wanted::default(),
        }
    }

    /// Stops being counted as a user of the rings.
    pub(super) fn detach(&self) {
        // Nobody else is left who could have a turn.
        if let Some(sending) = self.sending.try_enter() {
            sending.request.detach();
        }
        if let Some(response) = self.answers.try_enter() {
            response.detach();
        }
    }

    /// Returns how many bytes of the request ring are used. `None`: another thread has the turn.
    pub(super) fn used(&self) -> Option<usize> {
        self.sending.try_enter().map(|sending| sending.request.used())
    }

    /// Asks for a nudge, which [`Connection::send_wanted_nudge`] sends.
    pub(super) fn want_nudge(&self) {
        self.nudge_wanted.ask();
    }

    /// Whether requests may be under way together.
    pub(super) fn joins(&self) -> bool {
        self.joins
    }

    /// What the answer of this length to a request that may join others takes of the ring.
    fn room(&self, length: Option<usize>) -> Room {
        let room = |length: usize| length.saturating_add(CHUNK_HEADER_SIZE + size_of::<u32>());
        length.filter(|_| self.joins).map(room)
    }
}

impl Connection {
    /// Sends a request and waits for its answer, which is written over what is in `reply`. While
    /// the daemon answers that it is busy, the request is sent again, until the deadline. `joins`: as
    /// `Request::joins` of the wire says.
    pub(crate) fn request(
        &self,
        call: Call,
        joins: Option<usize>,
        request: &[u8],
        reply: &mut Vec<u8>,
    ) -> Result<()> {
        let room = self.requests.room(joins);
        // Other threads have their turn while this one pauses.
        let answered = self.until_not_busy(call, reply, &mut |reply| {
            let Turn { mut sending, after: _after, .. } = self.turn(call)?;
            let mut posted = self.post(&mut sending, call, &[&[request]], &|_| room, reply)?;
            let alone = room.is_none().then_some(sending);
            let answered = self.wait(&mut posted, call, reply);
            // Who sends next may have to discard a second answer, and needs the turn to receive.
            drop(posted);
            drop(alone);
            answered
        });
        self.link.log_notes();
        answered
    }

    /// As [`Connection::request`] for several requests, of which as many as possible are under way
    /// at once. The first of them have the `turn` if there is one. Calls `each` with the number of a
    /// request and its answer, in the order of the requests, but for those that the daemon was busy
    /// for. After an error nothing more is sent.
    pub(crate) fn request_all<'a>(
        &'a self,
        mut turn: Option<Turn<'a>>,
        call: Call,
        requests: &[(Vec<u8>, Option<usize>)],
        each: &mut Read<'_>,
    ) -> Result<()> {
        let (mut reply, mut next, mut busy) = (Vec::new(), 0, Vec::new());
        while let Some(rest) = requests.get(next..).filter(|rest| !rest.is_empty()) {
            let parts: Vec<[&[u8]; 1]> = rest.iter().map(|(message, _)| [&**message]).collect();
            let messages: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
            let room = |at: usize| self.requests.room(rest.get(at).and_then(|(_, joins)| *joins));
            let turn = turn.take().map_or_else(|| self.turn(call), Ok)?;
            let Turn { mut sending, after: _after, .. } = turn;
            let mut posted = self.post(&mut sending, call, &messages, &room, &mut reply)?;
            let alone = room(0).is_none().then_some(sending);
            while posted.left() > 0 {
                self.wait(&mut posted, call, &mut reply)?;
                if Header::status_of(&reply).is_some_and(|status| call.is_busy(status)) {
                    busy.push(next);
                } else {
                    each(next, &reply).map_err(|source| self.link.broken(source))?;
                }
                next += 1;
            }
            // As in `request`.
            drop(posted);
            drop(alone);
        }
        for at in busy {
            if let Some((message, joins)) = requests.get(at) {
                self.request(call, *joins, message, &mut reply)?;
                each(at, &reply).map_err(|source| self.link.broken(source))?;
            }
        }
        self.link.log_notes();
        Ok(())
    }

    /// Sends a message that is not answered.
    pub(crate) fn send(&self, call: Call, message: &[u8]) -> Result<()> {
        let mut turn = self.turn(call)?;
        if turn.send(call.patient(), &[message])? {
            Ok(())
        } else {
            drop(turn);
            Err(self.timed_out(call))
        }
    }

    /// Sends a request that releases something in the daemon, without waiting for the turn, for
    /// room or for the answer. A request that cannot be sent now is sent before the next request.
    /// Only for requests that the daemon never refuses as busy.
    pub(crate) fn release(&self, request: Vec<u8>) {
        lock(&self.requests.releases).push(request);
        let now = Instant::now();
        if let Ok(Some(mut turn)) = self.turn_before(now) {
            // An error ends the connection, and then the daemon releases everything.
            let _ = self.send_releases(&mut turn.sending, now, &mut Vec::new());
        }
    }

    /// Repeats an exchange until the daemon is not busy or the deadline is near.
    fn until_not_busy(
        &self,
        call: Call,
        reply: &mut Vec<u8>,
        exchange: &mut dyn FnMut(&mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let mut pause = RETRY_FIRST;
        loop {
            exchange(reply)?;
            let busy = Header::status_of(reply).is_some_and(|status| call.is_busy(status));
            // The next attempt needs time too: after one that times out nobody knows whether the
            // request was carried out.
            if !busy || Instant::now() + 2 * pause >= call.deadline {
                return Ok(());
            }
            self.link.pause(&mut pause, RETRY_MOST, call.deadline)?;
            self.link.counters.retries.add(1);
        }
    }

    /// Waits for the turn to send.
    pub(crate) fn turn(&self, call: Call) -> Result<Turn<'_>> {
        self.turn_before(call.deadline)?.ok_or_else(|| self.timed_out(call))
    }

    /// Waits for the turn to send. Returns `None` if the deadline passes first. With a deadline in
    /// the past it does not wait.
    pub(crate) fn turn_before(&self, deadline: Instant) -> Result<Option<Turn<'_>>> {
        self.check_process()?;
        self.link.check()?;
        let after = AfterTurn(self);
        let sending = self.requests.sending.enter(deadline);
        Ok(sending.map(|sending| Turn { connection: self, sending, after }))
    }

    /// Makes the error of a call whose deadline passed while it waited for its turn, for ring space
    /// or for the answer. Not for callers that hold a lock.
    pub(crate) fn timed_out(&self, call: Call) -> Error {
        let error = self.link.timed_out(call);
        self.link.log_notes();
        error
    }

    /// Sends a nudge if one is wanted. Never blocks: a nudge that cannot be sent stays wanted.
    pub(super) fn send_wanted_nudge(&self) {
        let Requests { sending, answers, nudge_wanted, .. } = &*self.requests;
        // A thread whose request is under way comes here when it has its answer and has left the
        // turn to receive.
        let may_nudge = |_: &mut Sending| {
            answers.pending().owes_unawaited_only()
                && answers.try_enter().is_some()
                && self.check_process().is_ok()
        };
        // The next user of the connection gets the error of a nudge.
        nudge_wanted.serve(sending, may_nudge, |sending| self.nudge(sending).unwrap_or(false));
    }

    /// Sends the first request, and as many of the others as may join it now. `scratch` is any
    /// buffer.
    fn post(
        &self,
        sending: &mut Sending,
        call: Call,
        messages: &[&[&[u8]]],
        room: &dyn Fn(usize) -> Room,
        scratch: &mut Vec<u8>,
    ) -> Result<Posted<'_, Receiver>> {
        let (link, answers) = (&self.link, &self.requests.answers);
        if !call.waits && sending.is_refused(call.flow) {
            return Err(Error::Cs { call: call.name.into(), error: CsError::TryAgain });
        }
        let ready = self.send_releases(sending, call.deadline, scratch)?
            && answers.make_way(link, room(0), call.deadline, scratch)?;
        // After the deadline nothing is sent: nobody would wait for the answer.
        if !ready || call.is_over() {
            return Err(link.timed_out(call));
        }
        let (mut posted, count) = answers.post((0..messages.len()).map(room));
        let messages = messages.get(..count).unwrap_or_default();
        let sent = posted
            .discard_strays(link, call.deadline, scratch)
            .and_then(|()| sending.send(link, call.patient().limits(), messages));
        posted.not_sent(count - sent.as_ref().copied().unwrap_or_default());
        match sent? {
            0 => Err(link.timed_out(call)),
            _ => Ok(posted),
        }
    }

    /// Waits for the next answer.
    fn wait(
        &self,
        posted: &mut Posted<'_, Receiver>,
        call: Call,
        reply: &mut Vec<u8>,
    ) -> Result<()> {
        if posted.wait(&self.link, call.deadline, reply)? {
            Ok(())
        } else {
            Err(self.link.timed_out(call))
        }
    }

    /// Sends the requests that [`Connection::release`] left waiting. Returns `false` if the
    /// deadline passes first.
    fn send_releases(
        &self,
        sending: &mut Sending,
        deadline: Instant,
        scratch: &mut Vec<u8>,
    ) -> Result<bool> {
        let Requests { releases, .. } = &*self.requests;
        loop {
            let Some(message) = lock(releases).pop() else { return Ok(true) };
            let ready = self.requests.answers.make_way(&self.link, None, deadline, scratch)?;
            let limits = Limits { flow: FlowControl::Request, deadline, waits: true };
            if !ready || sending.send(&self.link, limits, &[&[&message[..]]])? == 0 {
                lock(releases).push(message);
                return Ok(false);
            }
            self.requests.answers.pending().sent_unawaited();
        }
    }

    /// Discards the answers to earlier nudges and sends another nudge. Returns `false` if it cannot
    /// be sent now.
    fn nudge(&self, sending: &mut Sending) -> Result<bool> {
        let (link, Requests { answers, nudge, .. }) = (&self.link, &*self.requests);
        let Some(mut receiver) = answers.try_enter() else { return Ok(false) };
        let mut reply = Vec::new();
        for _ in 0..MOST_DRAINED {
            if !link.try_receive(&mut receiver, &mut reply)? {
                break;
            }
            answers.pending().received_unawaited(&mut reply);
        }
        if !answers.pending().may_nudge() {
            return Ok(false);
        }
        let Some(Ok(message)) = nudge.map(|nudge| nudge()) else { return Ok(false) };
        // Sent as a multicast is: while flow control is on, requests in the ring make the daemon
        // spin.
        let limits = Limits { flow: FlowControl::Multicast, deadline: Instant::now(), waits: true };
        let sent = sending.send(link, limits, &[&[&message[..]]])? > 0;
        if sent {
            answers.pending().sent_unawaited();
            link.counters.nudges.add(1);
        }
        Ok(sent)
    }
}

impl Turn<'_> {
    /// Sends a message that is not answered. Returns `false` if the deadline passes first; then
    /// nothing was sent. With a deadline in the past it sends at once or not at all. A call that
    /// does not wait while the daemon is busy waits only for the socket's room, as C's.
    pub(crate) fn send(&mut self, call: Call, parts: &[&[u8]]) -> Result<bool> {
        Ok(self.send_many(call, &[parts])? > 0)
    }

    /// As [`Turn::send`], with several messages: sends as many as there is room for, and waits for
    /// room for the first one only. Returns how many were sent.
    pub(crate) fn send_many(&mut self, call: Call, messages: &[&[&[u8]]]) -> Result<usize> {
        self.sending.send(&self.connection.link, call.limits(), messages)
    }

    /// As [`Connection::request`], but keeps the turn.
    pub(crate) fn request(
        &mut self,
        call: Call,
        parts: &[&[u8]],
        reply: &mut Vec<u8>,
    ) -> Result<()> {
        let Self { connection, sending, .. } = self;
        connection.until_not_busy(call, reply, &mut |reply| {
            let mut posted = connection.post(sending, call, &[parts], &|_| None, reply)?;
            connection.wait(&mut posted, call, reply)
        })
    }

    /// As [`Connection::refuse`], where the turn is held.
    pub(crate) fn refuse(&self, source: ProtocolError) -> Error {
        self.connection.link.broken(source)
    }
}

impl Sending {
    /// Puts as many of the messages in the ring as there is room for, and wakes the daemon. Each is
    /// parts that follow each other. Waits for room for the first one only. Returns how many were
    /// sent: 0 if the deadline passes first, or, unless it waits, flow control refuses the request or
    /// the ring is full.
    fn send(
        &mut self,
        link: &Link,
        Limits { flow, deadline, waits }: Limits,
        messages: &[&[&[u8]]],
    ) -> Result<usize> {
        let size = |parts: &[&[u8]]| parts.iter().map(|part| part.len()).sum();
        let fits = |size| size <= self.max_request && self.request.fits(size);
        let fitting = messages.iter().take_while(|parts| fits(size(parts))).count();
        if let (0, Some(first)) = (fitting, messages.first()) {
            return Err(Error::invalid("message", self.request.why_too_long(size(first))));
        }
        let messages = messages.get(..fitting).unwrap_or(messages);
        let (mut pause, mut short_naps) = (ROOM_FIRST, ROOM_SHORT_NAPS);
        // A small ring is usually full because of the request before: the daemon sends the answer
        // before it frees the room.
        let mut yields = 32;
        // A socket that is writable and takes no message all the same: the system has no memory.
        let mut is_writable = false;
        loop {
            link.check()?;
            if !self.request.is_attached().map_err(|source| link.failed(source))? {
                return Err(link.hung_up());
            }
            let refused = self.is_refused(flow);
            // The socket's room first, since the bytes must follow the requests at once.
            let room = if refused { 0 } else { self.wake_room(link)? };
            let sent = self.put(messages.get(..room).unwrap_or(messages));
            match sent.map_err(|source| link.failed(source))? {
                0 => {}
                sent => {
                    link.counters.requests.add(sent);
                    link.counters.request_ring.note(self.request.used());
                    return self.wake(link, sent).map(|()| sent);
                }
            }
            let is_busy = refused || room > 0;
            if Instant::now() >= deadline || (is_busy && !waits) {
                return Ok(0);
            }
            if yields > 0 && !refused {
                yields -= 1;
                thread::yield_now();
            } else if let Some(socket) = self.request.socket().filter(|_| !refused && !is_writable)
            {
                is_writable =
                    link.wait_writable(socket, deadline.min(Instant::now() + ROOM_MOST))?;
            } else {
                is_writable = false;
                link.pause(&mut pause, ROOM_MOST, deadline)?;
                if short_naps > 0 {
                    (pause, short_naps) = (ROOM_FIRST, short_naps - 1);
                }
            }
        }
    }

    /// Puts messages in the ring until it is full. Copies all of them before it shows the daemon the
    /// first one: the daemon blocks until it has the wake byte of each that it was shown.
    fn put(&mut self, messages: &[&[&[u8]]]) -> Result<usize, ChannelError> {
        let mut count = 0;
        for parts in messages {
            if !self.request.stage(parts)? {
                break;
            }
            count += 1;
        }
        if count > 0 {
            self.request.commit()?;
        }
        Ok(count)
    }

    /// Whether flow control refuses such a request now.
    fn is_refused(&self, flow: FlowControl) -> bool {
        let word = self.request.flow_control().load(Ordering::Acquire);
        (1..=flow as u32).contains(&word)
    }

    /// How many messages the daemon may be given now: the socket must have room for their wake
    /// bytes, and the daemon must not have left too many in the ring. Polls once for every
    /// `wake_batch` sends: a writable socket has room for that many, and takes the bytes of one send
    /// together.
    fn wake_room(&mut self, link: &Link) -> Result<usize> {
        if !self.request.has_wake_bytes() {
            return Ok(MOST_BACKLOG as usize);
        }
        let room = MOST_BACKLOG.saturating_sub(self.request.backlog());
        if room > 0 && self.wake_room == 0 {
            let ready = wait_for(&link.socket, Interest::Writable, Some(Instant::now()));
            match ready.map_err(|source| Error::system("looking at the setup socket", source))? {
                Ready::Yes => self.wake_room = self.wake_batch,
                Ready::HungUp => return Err(link.hung_up()),
                Ready::TimedOut => {}
            }
        }
        Ok(if self.wake_room > 0 { room as usize } else { 0 })
    }

    /// Sends the wake bytes of requests that are in the ring, in one go. The daemon blocks until it
    /// has them, so an error ends the connection.
    fn wake(&mut self, link: &Link, count: usize) -> Result<()> {
        if !self.request.has_wake_bytes() {
            return Ok(());
        }
        self.wake_room -= 1;
        let bytes = [0; MOST_BACKLOG as usize];
        match socket::send_now(&link.socket, bytes.get(..count).unwrap_or(&bytes)) {
            Ok(sent) if sent == count => Ok(()),
            _ => {
                socket::shut_down(&link.socket);
                Err(link.hung_up())
            }
        }
    }
}

impl Source<Receiver> for Link {
    type Error = Error;

    /// Spins for a moment, then sleeps.
    fn receive(
        &self,
        receiver: &mut Receiver,
        deadline: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<bool> {
        receiver.spin(deadline.saturating_duration_since(Instant::now()));
        let mut slice = REPLY_SLICE_FIRST;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let state = self.state();
            if state > State::Gone {
                return Err(self.ended());
            }
            // After the end nobody posts any more.
            let is_open = state == State::Open;
            let sleep = if is_open { left.min(slice) } else { Duration::ZERO };
            slice = (slice * 2).min(REPLY_SLICE_MOST);
            let received = receiver.receive_into(sleep, &self.socket, reply);
            if received.map_err(|source| self.failed(source))? {
                return Ok(true);
            }
            if !is_open || self.is_hung_up()? {
                return if self.try_receive(receiver, reply)? {
                    Ok(true)
                } else {
                    Err(self.hung_up())
                };
            }
            if left.is_zero() {
                return Ok(false);
            }
        }
    }

    fn try_receive(&self, receiver: &mut Receiver, reply: &mut Vec<u8>) -> Result<bool> {
        receiver.try_receive_into(reply).map_err(|source| self.failed(source))
    }

    fn receive_second(&self, receiver: &mut Receiver, reply: &mut Vec<u8>) -> Result<bool> {
        let received = receiver.receive_into(RETRY_FIRST, &self.socket, reply);
        received.map_err(|source| self.failed(source))
    }

    fn is_orphan(&self) {
        self.counters.orphaned_replies.add(1);
    }
}
