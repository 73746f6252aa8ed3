//! The client's half: what the clients of all services have in common.

#[cfg(feature = "tokio")]
mod asynchronous;
pub(crate) mod dispatch;
mod dispatcher;
mod tracking;

use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::dispatch::Dispatch;
use self::dispatch::Next;
#[cfg(feature = "tokio")]
pub(crate) use asynchronous::Blocking;
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncClient, AsyncEvents};
pub use dispatcher::{ClientId, Control, Dispatcher, DispatcherWaker, Round};
pub(crate) use dispatcher::{EVENTS_PER_TURN, Pump};
pub(crate) use tracking::Tracking;

use crate::endpoint::{Deadline, Endpoint};
use crate::error::{CsError, Error, Result};
use crate::libqb::client::{Connection, Look, Patience, Target, Waker};
use crate::sys::socket::Credentials;
use crate::wire::{Message, Request, decode_reply};

/// Room that every message of quorum, votequorum and cfg fits in: the state of 16 links, or all
/// nodes there can be in three lists. They tell little, and seldom.
pub(crate) const SMALL_RING_SIZE: u32 = 16 << 10;

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// A service of corosync. Only this crate implements it.
pub trait Service: sealed::Sealed + Send + Sync + 'static {
    /// What the service tells its clients.
    type Event: Send + 'static;

    /// The name of the service's socket.
    const NAME: &'static str;

    /// Room in each ring that every message of the service fits in, in bytes.
    #[doc(hidden)]
    const RING_SIZE: u32;

    /// A request that the daemon answers at once, shortly and exactly once, whatever state it is
    /// in, and that changes nothing. It is sent when the event ring was full and is empty
    /// again: with a request the daemon also looks whether events wait for room.
    #[doc(hidden)]
    fn nudge() -> Result<Vec<u8>, crate::error::WireError>;

    /// Makes an event of a message. `None`: there is nothing to tell.
    #[doc(hidden)]
    fn event(&self, message: Bytes) -> Result<Option<Self::Event>, crate::error::WireError>;
}

/// A connection to the service `S`, and everything the clients of all services have in common:
/// events, waiting, credentials.
///
/// Use it by the name each service's module gives it, such as
/// [`cmap::Client`](crate::cmap::Client); the requests are there too.
///
/// A client can be shared between threads. Requests are served one at a time in the order they
/// came; one thread can wait for events meanwhile. No lock is held while a handler runs, so a
/// handler may call the same client.
///
/// A request that the daemon is too busy for (`CS_ERR_TRY_AGAIN`) is sent again until the request
/// timeout, unless [`Endpoint::wait_while_busy`] says otherwise.
///
/// Dropping a client ends the connection. The daemon then forgets its trackers and iterators.
pub struct Client<S: Service> {
    pub(crate) connection: Connection,
    pub(crate) service: S,
}

impl<S: Service> Client<S> {
    pub(crate) fn open(endpoint: &Endpoint, service: S, patience: &Patience) -> Result<Self> {
        let target = Target {
            name: S::NAME,
            ring_size: S::RING_SIZE,
            may_raise_size: false,
            nudge: Some(S::nudge),
        };
        Ok(Self { connection: Connection::open(target, endpoint, patience)?, service })
    }

    /// The time of a call that makes several requests.
    pub(crate) fn patience(&self, call: &'static str) -> Patience {
        self.connection.patience(call)
    }

    /// A call of one request.
    pub(crate) fn call<R: Request>(&self, call: &'static str, request: &R) -> Result<R::Reply> {
        self.call_within(&self.patience(call), call, request)
    }

    /// One of several requests of a call.
    pub(crate) fn call_within<R: Request>(
        &self,
        patience: &Patience,
        call: &'static str,
        request: &R,
    ) -> Result<R::Reply> {
        self.call_while(&[CsError::TryAgain], &patience.step(call), request)
    }

    /// As [`Client::call_within`], for requests to which other answers mean "busy" too.
    pub(crate) fn call_while<R: Request>(
        &self,
        busy: &[CsError],
        patience: &Patience,
        request: &R,
    ) -> Result<R::Reply> {
        let unencodable = |source| Error::Unencodable { call: patience.call.into(), source };
        let message = request.encode().map_err(unencodable)?;
        self.decode(patience.call, &self.connection.call(busy, patience, &message)?)
    }

    /// Reads the reply to a request.
    pub(crate) fn decode<M: Message>(&self, call: &'static str, reply: &[u8]) -> Result<M> {
        decode_reply(reply)
            .map_err(|source| self.connection.refuse(source.into()))?
            .map_err(|status| Error::from_status(call, status))
    }

    /// Sends a request that makes the daemon forget something; see [`Connection::release`].
    pub(crate) fn release<R: Request>(&self, request: &R) {
        // One of numbers only always fits its layout.
        if let Ok(message) = request.encode() {
            self.connection.release(message);
        }
    }

    /// Takes the next event, if one waits. Never blocks.
    ///
    /// The file descriptor polls readable while an event waits that the daemon has announced, which
    /// it does at once unless the socket is full; the reverse need not hold. After `None` it
    /// becomes readable anew when there is an event or the daemon goes, so loops with
    /// edge-triggered readiness take events until `None`. See [`event_loops`](crate::event_loops).
    ///
    /// # Errors
    /// [`Error::Disconnected`] once the daemon is gone and every event it left was taken;
    /// [`Error::Finalized`]; [`Error::Protocol`] when the daemon sent what is no event.
    pub fn poll_event(&self) -> Result<Option<S::Event>> {
        self.look(Look::Thorough, None)
    }

    fn look(&self, look: Look, deadline: Option<Instant>) -> Result<Option<S::Event>> {
        self.connection.poll_event(look, deadline, |message| self.service.event(message))
    }

    /// Takes what counts as one in this mode: an event, or a message that need not become one.
    fn look_for_one(&self, mode: Dispatch) -> Result<Option<Option<S::Event>>> {
        if mode.counts_messages() {
            self.connection.poll_one(Look::Glance, |message| self.service.event(message))
        } else {
            Ok(self.look(Look::Glance, None)?.map(Some))
        }
    }

    /// Waits for the next event until the deadline: `Duration`, `Instant` or [`Deadline::NEVER`].
    /// `None` when it passed, or when the [`Waker`] was used.
    ///
    /// # Errors
    /// As [`Client::poll_event`].
    pub fn next_event(&self, deadline: impl Into<Deadline>) -> Result<Option<S::Event>> {
        let deadline = deadline.into().instant();
        self.connection.next_event(deadline, |message| self.service.event(message))
    }

    /// Iterates over events, waiting for each. Ends with the error that ended the connection, or
    /// when the [`Waker`] was used.
    pub fn events(&self) -> Events<'_, S> {
        Events { client: self, ended: false }
    }

    /// Hands events to `handler` in the way `mode` says, until the handler breaks, the [`Waker`] is
    /// used or the mode is done. What is returned when is in [the
    /// table](crate::event_loops#what-dispatch-returns).
    ///
    /// Matches `cmap_dispatch`, `quorum_dispatch`, `votequorum_dispatch` and their siblings. As
    /// there, `One` and `OneNonblocking` are done with one message of the daemon, and not every
    /// message is an event: the pieces of a long cpg message are one when the last has come,
    /// and what was on its way when its cmap tracker was deleted is none. Then the handler is not
    /// called. Use [`Client::next_event`] to wait for an event. A signal does not end it.
    /// Unlike in C, [`Client::finalize`] called meanwhile ends it, from the handler or from
    /// another thread. When nothing waits and the mode does not, that takes no system call, but
    /// for a look about every millisecond whether the daemon is still there.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::TryAgain`] when no event waits and the mode is
    /// [`Dispatch::OneNonblocking`]; [`Error::Disconnected`] when the daemon is gone, after the
    /// events it left; [`Error::Finalized`]; [`Error::Protocol`].
    pub fn dispatch(
        &self,
        mode: Dispatch,
        mut handler: impl FnMut(S::Event) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut next = mode.start();
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
            next = match self.look_for_one(mode)? {
                Some(event) => match event.map_or(ControlFlow::Continue(()), &mut handler) {
                    ControlFlow::Continue(()) => mode.taken(),
                    ControlFlow::Break(()) => Next::Done,
                },
                None if wait => {
                    self.connection.wait_event(self.connection.waker()?, None)?;
                    Next::Wait
                }
                None => mode.nothing_waits(),
            };
        }
    }

    /// Ends the connection for every thread that uses this client: what waits returns, and every
    /// later call fails, with [`Error::Finalized`]. Dropping the client ends it too.
    ///
    /// Matches `cmap_finalize` and its siblings.
    pub fn finalize(&self) {
        self.connection.finalize();
    }

    /// What ends a wait for events from another thread, without ending the connection. It costs a
    /// file descriptor, which the first wait makes anyway.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left.
    pub fn waker(&self) -> Result<Waker> {
        self.connection.waker().cloned()
    }

    /// The process that serves this connection, as the kernel says.
    pub fn peer_credentials(&self) -> Credentials {
        self.connection.peer()
    }

    /// How long each call may take, waiting for other threads' requests included. See
    /// [`Endpoint::request_timeout`].
    pub fn request_timeout(&self) -> Duration {
        self.connection.timeout()
    }

    /// Changes [`Client::request_timeout`] for the calls to come.
    pub fn set_request_timeout(&self, timeout: Duration) {
        self.connection.set_timeout(timeout);
    }
}

impl<S: Service> AsFd for Client<S> {
    /// The descriptor to poll for reading. It is only to be polled: what can be read from it is not
    /// the events.
    ///
    /// Matches `cmap_fd_get` and its siblings.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl<S: Service> std::fmt::Debug for Client<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("service", &S::NAME)
            .field("peer", &self.connection.peer())
            .finish_non_exhaustive()
    }
}

/// Iterates over a client's events; made by [`Client::events`].
#[derive(Debug)]
pub struct Events<'a, S: Service> {
    client: &'a Client<S>,
    ended: bool,
}

impl<S: Service> Iterator for Events<'_, S> {
    type Item = Result<S::Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.client.next_event(Deadline::NEVER).transpose();
        self.ended = !matches!(event, Some(Ok(_)));
        event
    }
}

impl<S: Service> FusedIterator for Events<'_, S> {}
