//! The core that the clients of all services share: a connection, and the service behind it.

use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::time::Instant;

use bytes::Bytes;

use super::buffers::Buffers;
use super::dispatch::{Dispatch, Next};
use crate::codec::{Reader, Writer};
use crate::endpoint::{Deadline, Endpoint};
use crate::error::{CsError, Error, ProtocolError, Result, WireError};
use crate::libqb::buffer::Buffer;
use crate::libqb::client::{Call, Connection, Look, Target, Turn};
use crate::wire::{Message, Request, begin_message, decode_reply_from};

/// Room that every message of quorum and votequorum fits in: all nodes there can be, in three
/// lists. They tell little, and seldom. A ring of libqb is 13 bytes larger, so it has two pages.
pub(crate) const SMALL_RING_SIZE: u32 = (8 << 10) - 13;

/// A service of corosync, with what a client of it remembers.
pub(crate) trait Service: Send + Sync + 'static {
    /// An event of the service.
    type Event: Send + 'static;

    /// The name of the service's socket.
    const NAME: &'static str;

    /// Room in each ring that every message of the service fits in, in bytes.
    const RING_SIZE: u32;

    /// A request that the daemon answers at once, shortly and exactly once, whatever state it is
    /// in, and that changes nothing. It is sent when the event ring was full and is empty
    /// again: with a request the daemon also looks whether events wait for room.
    fn nudge() -> Result<Vec<u8>, WireError>;

    /// Makes an event of a message. `None`: the message is no event.
    fn event(&self, message: &mut Buffer) -> Result<Option<Self::Event>, WireError>;
}

/// An event that this version does not know, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnknownEvent {
    /// Its message id.
    pub id: i32,
    /// The whole message, its header included.
    pub message: Bytes,
}

/// A connection to the service `S`.
pub(crate) struct Core<S: Service> {
    pub(crate) connection: Connection,
    pub(crate) service: S,
}

impl<S: Service> Core<S> {
    /// Connects. In a box, since a kilobyte that is moved around is too much for a small stack.
    pub(crate) fn open(endpoint: &Endpoint, service: S, call: Call) -> Result<Box<Self>> {
        let target = Target {
            name: S::NAME,
            ring_size: S::RING_SIZE,
            may_raise_size: false,
            nudge: Some(S::nudge),
        };
        let connection = Connection::open(target, endpoint, call)?;
        Ok(Box::new(Self { connection, service }))
    }

    /// A call that begins now.
    pub(crate) fn call(&self, name: &'static str) -> Call {
        self.connection.call(name)
    }

    /// Makes a request, which may be one of several of the call.
    pub(crate) fn request<R: Request>(&self, call: Call, request: &R) -> Result<R::Reply> {
        self.request_written::<R>(call, request.joins(), |writer| request.write(writer))
    }

    /// As [`Core::request`], with what `write` writes behind the header.
    pub(crate) fn request_written<R: Request>(
        &self,
        call: Call,
        joins: Option<usize>,
        write: impl FnOnce(&mut Writer) -> Result<(), WireError>,
    ) -> Result<R::Reply> {
        crate::log::in_span!("request", S::NAME, call.name, || {
            let mut buffers = Buffers::take();
            let Buffers { request, reply } = &mut buffers;
            *request = encode::<R>(call, mem::take(request), write)?;
            self.connection.request(call, joins, request, reply)?;
            read_reply(call, reply, |source| self.connection.refuse(source))
        })
    }

    /// As [`Core::request`], but keeps the turn: no other request of this connection comes between
    /// this one and the next of the turn.
    pub(crate) fn request_in<R: Request>(
        &self,
        turn: &mut Turn<'_>,
        call: Call,
        request: &R,
    ) -> Result<R::Reply> {
        let mut buffers = Buffers::take();
        let Buffers { request: message, reply } = &mut buffers;
        *message = encode::<R>(call, mem::take(message), |writer| request.write(writer))?;
        turn.request(call, &[message], reply)?;
        read_reply(call, reply, |source| turn.refuse(source))
    }

    /// Makes several requests, of which as many as possible are under way at once. The first of them
    /// have the `turn` if there is one. Returns their answers in the order of the requests. After an
    /// error nothing more is sent.
    pub(crate) fn request_all<'a, R: Request>(
        &'a self,
        turn: Option<Turn<'a>>,
        call: Call,
        requests: &[R],
    ) -> Result<Vec<Result<R::Reply>>> {
        if let [request] = requests {
            let answer = match turn {
                Some(mut turn) => self.request_in(&mut turn, call, request),
                None => self.request(call, request),
            };
            return Ok(vec![answer]);
        }
        crate::log::in_span!("request", S::NAME, call.name, || {
            let messages: Vec<_> = requests
                .iter()
                .map(|request| {
                    let message = encode::<R>(call, Vec::new(), |writer| request.write(writer))?;
                    Ok((message, request.joins()))
                })
                .collect::<Result<_>>()?;
            let mut replies: Vec<_> = requests.iter().map(|_| None).collect();
            self.connection.request_all(turn, call, &messages, &mut |at, reply| {
                if let Some(place) = replies.get_mut(at) {
                    let answer = decode_reply_from(Reader::new(R::Reply::NAME, reply))?;
                    *place = Some(answer.map_err(|status| Error::from_status(call.name, status)));
                }
                Ok(())
            })?;
            Ok(replies.into_iter().flatten().collect())
        })
    }

    /// Sends a request that makes the daemon forget something; see [`Connection::release`].
    pub(crate) fn release<R: Request>(&self, request: &R) {
        // One of numbers only always fits its layout.
        if let Ok(message) = request.encode() {
            self.connection.release(message);
        }
    }

    /// Takes the next event, if one waits.
    pub(crate) fn look(&self, look: Look, deadline: Option<Instant>) -> Result<Option<S::Event>> {
        self.connection.poll_event(look, deadline, |message| self.service.event(message))
    }

    /// Takes what counts as one in this mode: an event, or a message that need not become one.
    fn look_for_one(&self, mode: Dispatch, look: Look) -> Result<Option<Option<S::Event>>> {
        if mode.counts_messages() {
            self.connection.poll_one(look, |message| self.service.event(message))
        } else {
            Ok(self.look(look, None)?.map(Some))
        }
    }

    /// See [`ServiceClient::next_event`](super::ServiceClient::next_event).
    pub(crate) fn next_event(&self, deadline: Deadline) -> Result<Option<S::Event>> {
        self.connection.next_event(deadline.instant(), |message| self.service.event(message))
    }

    /// See [`ServiceClient::dispatch`](super::ServiceClient::dispatch).
    pub(crate) fn dispatch(
        &self,
        mode: Dispatch,
        mut handler: impl FnMut(S::Event) -> ControlFlow<()>,
    ) -> Result<()> {
        let (mut next, mut look) = (mode.start(), Look::Ring);
        loop {
            let wait = match next {
                Next::Wait if self.connection.was_woken() => return Ok(()),
                Next::Wait => true,
                Next::Look => false,
                Next::Done => return Ok(()),
                Next::TryAgain => {
                    return Err(Error::Cs { call: "dispatch".into(), error: CsError::TryAgain });
                }
            };
            next = match self.look_for_one(mode, mem::replace(&mut look, Look::Ring))? {
                Some(event) => match event.map_or(ControlFlow::Continue(()), &mut handler) {
                    ControlFlow::Continue(()) => mode.taken(),
                    ControlFlow::Break(()) => Next::Done,
                },
                None if wait => {
                    self.connection.wait_event(self.connection.waker()?, None)?;
                    // As in `Connection::next_event`.
                    look = Look::RingAndSocket;
                    Next::Wait
                }
                None => mode.nothing_waits(),
            };
        }
    }
}

impl<S: Service> fmt::Debug for Core<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("service", &S::NAME)
            .field("peer", &self.connection.peer())
            .finish_non_exhaustive()
    }
}

/// Writes a request over what is in the buffer: its header, and what `write` writes behind it.
fn encode<R: Request>(
    call: Call,
    buffer: Vec<u8>,
    write: impl FnOnce(&mut Writer) -> Result<(), WireError>,
) -> Result<Vec<u8>> {
    let mut writer = begin_message::<R>(buffer);
    let written = write(&mut writer).and_then(|()| writer.finish(0));
    written.map_err(|source| Error::Unencodable { call: call.name.into(), source })
}

/// Reads the reply to a request. `refuse` ends the connection when it breaks the protocol.
pub(crate) fn read_reply<M: Message>(
    call: Call,
    reply: &[u8],
    refuse: impl FnOnce(ProtocolError) -> Error,
) -> Result<M> {
    decode_reply_from(Reader::new(M::NAME, reply))
        .map_err(|source| refuse(source.into()))?
        .map_err(|status| Error::from_status(call.name, status))
}
