//! The setup socket of a connection, and the state of the connection.

use std::borrow::Cow;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::call::Call;
use super::counters::Counters;
use super::notes::{Note, Notes};
use crate::error::{Error, ProtocolError, Result, RingError};
use crate::libqb::channel::ChannelError;
use crate::sys::socket;
use crate::sys::wait::{Interest, Ready, wait_for, wait_for_peer};

/// The state of a connection. It only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum State {
    Open,
    /// The daemon closed. Events left in the ring are still delivered.
    Gone,
    /// The daemon broke the protocol. Events left in the ring are not read.
    Broken,
    /// The client closed.
    Finalized,
}

/// The setup socket, the state, the notes for the log and the counters.
pub(super) struct Link {
    pub(super) service: Cow<'static, str>,
    pub(super) socket: OwnedFd,
    /// A [`State`].
    state: AtomicU8,
    /// The ring whose file was truncated. Set before the state becomes [`State::Broken`].
    truncated: OnceLock<&'static str>,
    notes: Notes,
    pub(super) counters: Counters,
}

impl Link {
    pub(super) fn new(service: Cow<'static, str>, socket: OwnedFd) -> Self {
        Self {
            service,
            socket,
            state: AtomicU8::new(State::Open as u8),
            truncated: OnceLock::new(),
            notes: Notes::default(),
            counters: Counters::default(),
        }
    }

    pub(super) fn state(&self) -> State {
        // Pairs with the change in `advance`: a thread that sees `Broken` sees `truncated` too.
        match self.state.load(Ordering::Acquire) {
            0 => State::Open,
            1 => State::Gone,
            2 => State::Broken,
            _ => State::Finalized,
        }
    }

    /// Moves to a later state. Returns `true` if the connection was open.
    pub(super) fn advance(&self, state: State) -> bool {
        self.state.fetch_max(state as u8, Ordering::AcqRel) == State::Open as u8
    }

    /// # Errors
    /// [`Link::ended`] when the connection has ended.
    pub(super) fn check(&self) -> Result<()> {
        if self.state() == State::Open { Ok(()) } else { Err(self.ended()) }
    }

    /// The error of every call after the connection ended.
    pub(super) fn ended(&self) -> Error {
        match self.state() {
            State::Finalized => Error::Finalized,
            _ => Error::Disconnected {
                service: self.service.clone(),
                truncated: self.truncated.get().copied(),
                stage: None,
            },
        }
    }

    /// Ends the connection because the daemon closed.
    pub(super) fn hung_up(&self) -> Error {
        if self.advance(State::Gone) {
            self.notes.add(Note::Disconnected);
        }
        self.ended()
    }

    /// Ends the connection because the daemon broke the protocol. Nothing that it sends can be
    /// trusted any more.
    pub(super) fn broken(&self, source: impl Into<ProtocolError>) -> Error {
        let source = source.into();
        self.notes.add(Note::Broken(source));
        let truncated = match source {
            ProtocolError::Ring(RingError::Truncated { ring }) => {
                Some(*self.truncated.get_or_init(|| ring))
            }
            _ => None,
        };
        self.advance(State::Broken);
        socket::shut_down(&self.socket);
        if truncated.is_some() {
            return self.ended();
        }
        Error::protocol(self.service.clone(), source)
    }

    /// Ends the connection because nothing goes through a channel any more.
    pub(super) fn failed(&self, source: ChannelError) -> Error {
        match source {
            ChannelError::Protocol(source) => self.broken(source),
            ChannelError::Closed => {
                // Ends the waits of other threads, which only look at this socket.
                socket::shut_down(&self.socket);
                self.hung_up()
            }
            ChannelError::System(source) => {
                Error::system("using a socket of the connection", source)
            }
        }
    }

    /// The error of a call whose deadline passed.
    pub(super) fn timed_out(&self, call: Call) -> Error {
        self.notes.add(Note::TimedOut(call.name));
        self.counters.timeouts.add(1);
        Error::TimedOut { operation: Cow::Borrowed(call.name), after: call.timeout, stage: None }
    }

    /// Logs the notes. Not for callers that hold a lock.
    pub(super) fn log_notes(&self) {
        self.notes.log(&self.service);
    }

    pub(super) fn is_hung_up(&self) -> Result<bool> {
        let ready = wait_for(&self.socket, Interest::HangUp, Some(Instant::now()));
        Ok(ready.map_err(|source| Error::system("looking for the daemon", source))?
            == Ready::HungUp)
    }

    /// Sleeps until a socket is writable, but not past the deadline. Returns `false` for that.
    ///
    /// # Errors
    /// [`Link::hung_up`] as soon as the daemon closes.
    pub(super) fn wait_writable(&self, socket: &OwnedFd, deadline: Instant) -> Result<bool> {
        let ready = wait_for_peer(socket, Interest::Writable, &self.socket, Some(deadline));
        match ready.map_err(|source| Error::system("waiting for the daemon", source))? {
            Ready::HungUp => Err(self.hung_up()),
            ready => Ok(ready == Ready::Yes),
        }
    }

    /// Sleeps for `pause`, which doubles each time up to `most`, but not past the deadline.
    ///
    /// # Errors
    /// [`Link::hung_up`] as soon as the daemon closes.
    pub(super) fn pause(
        &self,
        pause: &mut Duration,
        most: Duration,
        deadline: Instant,
    ) -> Result<()> {
        let until = deadline.min(Instant::now() + *pause);
        *pause = (*pause * 2).min(most);
        let ready = wait_for(&self.socket, Interest::HangUp, Some(until));
        match ready.map_err(|source| Error::system("waiting for the daemon", source))? {
            Ready::HungUp => Err(self.hung_up()),
            Ready::Yes | Ready::TimedOut => Ok(()),
        }
    }
}
