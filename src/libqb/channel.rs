//! A direction of a connection, whatever the transport: a ring, or datagrams.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::datagram;
use super::ring::{CHUNK_HEADER_SIZE, Consumer, Mapping, Producer};
use crate::error::{ProtocolError, RingError};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::wait::{Interest, Ready, wait_for, wait_for_peer};

/// Why nothing goes through a channel any more.
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

/// How many datagrams a socket holds: `net.unix.max_dgram_qlen`, which is 10 in old kernels, 512 in
/// newer ones, and may be set to anything.
const SMALLEST_QUEUE: usize = 10;
const LARGEST_QUEUE: usize = 1 << 16;

/// The end that sends.
pub(crate) enum Sender {
    Ring(Producer<Mapping>),
    Datagram(datagram::Sender),
}

impl Sender {
    /// Sends the parts as one message. `false`: there is no room now.
    pub(crate) fn try_send(&mut self, parts: &[&[u8]]) -> Result<bool, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.try_send(parts)?),
            Self::Datagram(socket) => socket.try_send(parts),
        }
    }

    /// Whether a message of this size can ever be sent.
    pub(crate) fn fits(&self, size: usize) -> bool {
        match self {
            Self::Ring(ring) => ring.fits(size),
            Self::Datagram(socket) => size <= socket.limit(),
        }
    }

    /// Why a message of this size cannot be sent.
    pub(crate) fn why_too_long(&self, size: usize) -> String {
        match self {
            Self::Ring(_) => {
                format!("{size} bytes do not fit in the ring: ask for a larger ring size")
            }
            Self::Datagram(socket) => socket.why_too_long(size),
        }
    }

    /// The longest message that the other end may be promised, in bytes.
    #[cfg(feature = "server")]
    pub(crate) fn limit(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.ring().max_chunk(),
            Self::Datagram(socket) => socket.limit(),
        }
    }

    /// Whether the memory that both ends share was cut short.
    #[cfg(feature = "server")]
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.ring().is_lost(),
            Self::Datagram(socket) => socket.control().is_lost(),
        }
    }

    /// How many messages the other end has not taken yet, if it tells the truth.
    pub(crate) fn backlog(&self) -> u32 {
        match self {
            Self::Ring(ring) => ring.backlog(),
            Self::Datagram(socket) => socket.backlog(),
        }
    }

    /// Flow control. In a ring for requests only.
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        match self {
            Self::Ring(ring) => ring.ring().flow_control(),
            Self::Datagram(socket) => socket.control().flow_control(),
        }
    }

    /// Whether the other end still uses a ring, which tells it before the setup socket does.
    /// Datagrams do not tell.
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

    /// The socket to poll for room. `None`: no descriptor signals ring space.
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Ring(_) => None,
            Self::Datagram(socket) => Some(socket.socket()),
        }
    }

    /// Whether a byte on the setup socket announces each message.
    pub(crate) fn has_wake_bytes(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// Stops being counted as a user of the ring.
    pub(crate) fn detach(&self) {
        if let Self::Ring(ring) = self {
            ring.ring().detach();
        }
    }
}

/// The end that receives.
pub(crate) enum Receiver {
    Ring(Consumer<Mapping>),
    Datagram(datagram::Receiver),
}

impl Receiver {
    /// Takes the next message, if there is one.
    pub(crate) fn try_receive(&mut self) -> Result<Option<Bytes>, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.try_receive()?),
            Self::Datagram(socket) => socket.try_receive(),
        }
    }

    /// Waits for a message without sleeping, for as long as that has paid of late, and at most for
    /// `timeout`. A wait for a datagram takes a system call in any case.
    pub(crate) fn spin(&mut self, timeout: Duration) {
        if let Self::Ring(ring) = self {
            ring.spin(timeout);
        }
    }

    /// Takes the next message, sleeping up to `timeout` for it. `setup` is the setup socket, whose
    /// end ends the wait for a datagram.
    pub(crate) fn receive(
        &mut self,
        timeout: Duration,
        setup: &impl AsFd,
    ) -> Result<Option<Bytes>, ChannelError> {
        match self {
            Self::Ring(ring) => Ok(ring.receive(timeout)?),
            Self::Datagram(socket) => {
                if let Some(message) = socket.try_receive()? {
                    return Ok(Some(message));
                }
                let deadline = Instant::now().checked_add(timeout);
                wait_for_peer(&**socket.socket(), Interest::Readable, setup, deadline)
                    .map_err(ChannelError::System)?;
                socket.try_receive()
            }
        }
    }

    /// Whether a message waits, or an error. A hint: one may come at once. For datagrams it takes a
    /// system call.
    pub(crate) fn has_message(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.has_chunk(),
            Self::Datagram(socket) => {
                let ready = wait_for(&**socket.socket(), Interest::Readable, Some(Instant::now()));
                ready.is_ok_and(|ready| ready != Ready::TimedOut)
            }
        }
    }

    /// The socket that messages come from. `None`: the setup socket announces them.
    #[cfg(feature = "server")]
    pub(crate) fn socket(&self) -> Option<&OwnedFd> {
        match self {
            Self::Ring(_) => None,
            Self::Datagram(socket) => Some(socket.socket()),
        }
    }

    /// Flow control, for the end that takes requests.
    #[cfg(feature = "server")]
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        match self {
            Self::Ring(ring) => ring.ring().flow_control(),
            Self::Datagram(socket) => socket.control().flow_control(),
        }
    }

    /// Whether the memory that both ends share was cut short.
    #[cfg(feature = "server")]
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Ring(ring) => ring.ring().is_lost(),
            Self::Datagram(socket) => socket.control().is_lost(),
        }
    }

    /// How full the channel was when it held a message of `size` bytes: what the message took, what
    /// those behind it take, and what all may take at most, in the same unit.
    pub(crate) fn fill(&self, size: usize) -> (usize, usize, usize) {
        match self {
            Self::Ring(ring) => (size + CHUNK_HEADER_SIZE, ring.used(), ring.ring().max_chunk()),
            Self::Datagram(socket) => (1, socket.backlog() as usize, SMALLEST_QUEUE),
        }
    }

    /// How many messages there can be at most.
    pub(crate) fn most_messages(&self) -> usize {
        match self {
            Self::Ring(ring) => ring.ring().max_chunk() / CHUNK_HEADER_SIZE,
            Self::Datagram(_) => LARGEST_QUEUE,
        }
    }

    /// Whether a byte on the setup socket announces each message.
    pub(crate) fn has_wake_bytes(&self) -> bool {
        matches!(self, Self::Ring(_))
    }

    /// Stops being counted as a user of the ring.
    pub(crate) fn detach(&self) {
        if let Self::Ring(ring) = self {
            ring.ring().detach();
        }
    }
}
