//! One direction of a connection over either transport: a ring or datagrams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::ring::{CHUNK_HEADER_SIZE, Consumer, Mapping, Producer};
use super::{Transport, datagram};
use crate::error::{ProtocolError, RingError};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::wait::{Interest, Ready, wait_for, wait_for_peer};

/// The error of a channel that can be used no more.
#[derive(Debug)]
pub(crate) enum ChannelError {
    /// The peer violates the protocol.
    Protocol(ProtocolError),
    /// The peer closed its end.
    Closed,
    /// A system call failed.
    System(io::Error),
}

impl From<ProtocolError> for ChannelError {
    fn from(source: ProtocolError) -> Self {
        Self::Protocol(source)
    }
}

impl From<RingError> for ChannelError {
    fn from(source: RingError) -> Self {
        Self::Protocol(source.into())
    }
}

/// What a datagram takes of its sender's buffer besides its length, in bytes. Linux 6.18 counts 768.
const DATAGRAM_COST: usize = 768;

/// The sending end.
pub(crate) enum Sender {
    Ring(Producer<Mapping>),
    Datagram(datagram::Sender),
}

impl Sender {
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Ring(_) => Transport::Shm,
            Self::Datagram(_) => Transport::Socket,
        }
    }

    /// Sends the parts as one message. Returns `false` if there is no room.
    #[cfg(feature = "server")]
    pub(crate) fn try_send(&mut self, parts: &[&[u8]]) -> Result<bool, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.try_send(parts)?),
            Self::Datagram(socket) => socket.try_send(parts),
        }
    }

    /// As [`Sender::try_send`], but the other end may learn of a message in a ring only by
    /// [`Sender::commit`].
    pub(crate) fn stage(&mut self, parts: &[&[u8]]) -> Result<bool, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.stage(parts)?),
            Self::Datagram(socket) => socket.try_send(parts),
        }
    }

    /// Shows the other end the messages that were staged.
    pub(crate) fn commit(&mut self) -> Result<(), ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.commit()?),
            Self::Datagram(_) => Ok(()),
        }
    }

    /// Whether a message of this size fits in an empty channel.
    pub(crate) fn fits(&self, size: usize) -> bool {
        match self {
            Self::Ring(ring) => ring.fits(size),
            Self::Datagram(socket) => size <= socket.limit(),
        }
    }

    /// Returns the reason why a message of this size does not fit.
    pub(crate) fn why_too_long(&self, size: usize) -> String {
        match self {
            Self::Ring(_) => {
                format!("{size} bytes do not fit in the ring: ask for a larger ring size")
            }
            Self::Datagram(socket) => socket.why_too_long(size),
        }
    }

    /// Returns the size of the longest message that a server can send, in bytes.
    #[cfg(feature = "server")]
    pub(crate) fn limit(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.ring().max_chunk(),
            Self::Datagram(socket) => socket.limit(),
        }
    }

    /// Whether a file that both ends share was truncated.
    #[cfg(feature = "server")]
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.ring().is_lost(),
            Self::Datagram(socket) => socket.control().is_lost(),
        }
    }

    /// How full the channel is: bytes of a ring, or datagrams. A hint: the other end can make it
    /// any number.
    pub(crate) fn used(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.used(),
            Self::Datagram(socket) => socket.backlog() as usize,
        }
    }

    /// The size of a ring in bytes. `None` for datagrams: the system decides.
    pub(crate) fn capacity(&self) -> Option<usize> {
        match self {
            Self::Ring(ring) => Some(ring.ring().size()),
            Self::Datagram(_) => None,
        }
    }

    /// Returns how many messages the other end has not taken. A hostile one can make it any number.
    pub(crate) fn backlog(&self) -> u32 {
        match self {
            Self::Ring(ring) => ring.backlog(),
            Self::Datagram(socket) => socket.backlog(),
        }
    }

    /// The flow control word, which only the channel for requests has.
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        match self {
            Self::Ring(ring) => ring.ring().flow_control(),
            Self::Datagram(socket) => socket.control().flow_control(),
        }
    }

    /// Whether the other end still uses the ring. That shows a closed connection before the setup
    /// socket does. Always `true` for datagrams.
    pub(crate) fn is_attached(&self) -> Result<bool, ChannelError> {
        let Self::Ring(ring) = self else { return Ok(true) };
        // As qb_ipc_shm_fc_get. Acquire: nothing to pair with in C, which reads it through a full
        // barrier.
        let is_attached = ring.ring().ref_count().load(Ordering::Acquire) == 2;
        if !is_attached {
            ring.ring().check()?;
        }
        Ok(is_attached)
    }

    /// Returns the socket to poll for room. `None` for a ring: no descriptor signals ring space.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Ring(_) => None,
            Self::Datagram(socket) => Some(socket.socket()),
        }
    }

    /// Whether a wake byte on the setup socket follows each message.
    pub(crate) fn has_wake_bytes(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// Stops being counted as a user of a ring.
    pub(crate) fn detach(&self) {
        if let Self::Ring(ring) = self {
            ring.ring().detach();
        }
    }
}

/// The receiving end.
pub(crate) enum Receiver {
    Ring(Consumer<Mapping>),
    Datagram(datagram::Receiver),
}

impl Receiver {
    /// Takes the next message without waiting and writes it over what is in `message`. Returns
    /// `false` if there is none.
    pub(crate) fn try_receive_into(&mut self, message: &mut Vec<u8>) -> Result<bool, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.try_receive_into(message)?),
            Self::Datagram(socket) => socket.try_receive_into(message),
        }
    }

    /// Waits for a message of a ring without sleeping, at most for `timeout`. Does nothing for
    /// datagrams, since a wait for them takes a system call in any case.
    pub(crate) fn spin(&mut self, timeout: Duration) {
        if let Self::Ring(ring) = self {
            ring.spin(timeout);
        }
    }

    /// As [`Receiver::try_receive_into`], sleeping up to `timeout` for a message. A wait for a
    /// datagram ends when the setup socket is closed.
    pub(crate) fn receive_into(
        &mut self,
        timeout: Duration,
        setup: &impl AsFd,
        message: &mut Vec<u8>,
    ) -> Result<bool, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.receive_into(timeout, message)?),
            Self::Datagram(socket) => {
                if socket.try_receive_into(message)? {
                    return Ok(true);
                }
                let deadline = Instant::now().checked_add(timeout);
                wait_for_peer(&**socket.socket(), Interest::Readable, setup, deadline)
                    .map_err(ChannelError::System)?;
                socket.try_receive_into(message)
            }
        }
    }

    /// Whether a message or an error waits. This is a hint: a message may arrive at any time. It
    /// takes a system call for datagrams.
    pub(crate) fn has_message(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_chunk(),
            Self::Datagram(socket) => {
                let ready = wait_for(&**socket.socket(), Interest::Readable, Some(Instant::now()));
                ready.is_ok_and(|ready| ready != Ready::TimedOut)
            }
        }
    }

    /// Returns the socket that messages come from. `None` for a ring: wake bytes on the setup
    /// socket announce them.
    #[cfg(feature = "server")]
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Ring(_) => None,
            Self::Datagram(socket) => Some(socket.socket()),
        }
    }

    /// The flow control word, for the end that takes requests.
    #[cfg(feature = "server")]
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        match self {
            Self::Ring(ring) => ring.ring().flow_control(),
            Self::Datagram(socket) => socket.control().flow_control(),
        }
    }

    /// Whether a file that both ends share was truncated.
    #[cfg(feature = "server")]
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.ring().is_lost(),
            Self::Datagram(socket) => socket.control().is_lost(),
        }
    }

    /// As [`Sender::used`].
    pub(crate) fn used(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.used(),
            Self::Datagram(socket) => socket.backlog() as usize,
        }
    }

    /// As [`Sender::capacity`].
    pub(crate) fn capacity(&self) -> Option<usize> {
        match self {
            Self::Ring(ring) => Some(ring.ring().size()),
            Self::Datagram(_) => None,
        }
    }

    /// Returns how full the channel was before a message of `size` bytes was taken: the room of
    /// that message, of the messages behind it, and of the whole channel, in the same unit.
    pub(crate) fn fill(&self, size: usize) -> (usize, usize, usize) {
        match self {
            Self::Ring(ring) => (size + CHUNK_HEADER_SIZE, self.used(), ring.ring().max_chunk()),
            Self::Datagram(socket) => {
                let cost = size + DATAGRAM_COST;
                (cost, cost.saturating_mul(self.used()), socket.capacity())
            }
        }
    }

    /// Returns how many messages the channel can hold at most.
    pub(crate) fn most_messages(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.ring().max_chunk() / CHUNK_HEADER_SIZE,
            // Half the cost, as other systems may count less.
            Self::Datagram(socket) => socket.largest_buffer() / (DATAGRAM_COST / 2),
        }
    }

    /// Whether a wake byte on the setup socket follows each message.
    pub(crate) fn has_wake_bytes(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// Stops being counted as a user of a ring.
    pub(crate) fn detach(&self) {
        if let Self::Ring(ring) = self {
            ring.ring().detach();
        }
    }
}
