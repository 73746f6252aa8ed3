//! The datagram transport: each message is a datagram. Matches `lib/ipc_socket.c`.
//!
//! A connection has four unix datagram sockets and a control file. The daemon sends replies from
//! the socket it receives requests at, and events from a socket of their own. The control file
//! counts the datagrams under way in each direction, and has a word for flow control.
//!
//! ```text
//!   client                                daemon
//!   BASE-response  <------------------->  BASE-request    requests, replies
//!   BASE-event     <-------------------   BASE-event-tx   events
//! ```
//!
//! The daemon binds its sockets before it answers the connection request, and connects them when
//! it first sends something. libqb then looks for the client's sockets for up to a second, during
//! which it serves nobody, so a client binds both of its sockets before its first request.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

mod names;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use memmap2::MmapMut;
use nix::libc;
use nix::sys::socket::UnixAddr;

use super::channel::ChannelError;
use super::ring::{Mapping, Region};
use crate::error::{ProtocolError, RingError};
use crate::sync::{AtomicU32, Ordering};
use crate::sys::datagram;

pub(crate) use names::Names;

/// Bytes of the control file. Matches `SHM_CONTROL_SIZE`.
pub(crate) const CONTROL_SIZE: usize = 24;

/// The longest datagram that is sent, in bytes. The kernel takes most of its memory in one piece,
/// of 4 MiB at most, and refuses it with `ENOBUFS` when there is none. corosync's messages have 1
/// MiB at most.
pub(crate) const MAX_DATAGRAM: usize = 2 << 20;

/// The largest count of datagrams under way. A larger one is a negative number.
const MOST_BACKLOG: u32 = i32::MAX as u32;

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    Request = 0,
    /// To the client, one for each request.
    Response = 1,
    /// To the client, at any time.
    Event = 2,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Event => "event",
        }
    }
}

/// The control file: for each direction a `struct ipc_us_control`.
pub(crate) struct Control(Mapping);

impl Control {
    /// Maps a file that has [`CONTROL_SIZE`] bytes.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        Ok(Self(Mapping::new(file, CONTROL_SIZE)?))
    }

    /// Returns how many datagrams were sent and not received, according to both ends.
    fn sent(&self, direction: Direction) -> &AtomicU32 {
        self.0.word(direction as usize * 8)
    }

    fn backlog(&self, direction: Direction) -> u32 {
        // As the receiver counts down after it received, and may do so before the sender counted
        // up, the count can be below 0 for a moment.
        let sent = self.sent(direction).load(Ordering::Relaxed);
        if sent <= MOST_BACKLOG { sent } else { 0 }
    }

    /// The flow control word for requests.
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        self.0.word(Direction::Request as usize * 8 + 4)
    }

    /// Whether the file was truncated.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.is_lost()
    }

    fn check(&self) -> Result<(), ProtocolError> {
        if self.is_lost() { Err(RingError::Truncated { ring: "control" }.into()) } else { Ok(()) }
    }
}

/// The sending end of a direction.
pub(crate) struct Sender {
    socket: Arc<OwnedFd>,
    control: Arc<Control>,
    direction: Direction,
    max_msg_size: usize,
    /// As [`Sender::limit`].
    limit: usize,
    /// The other end's address, until the socket is connected to it.
    unconnected: Option<UnixAddr>,
}

impl Sender {
    /// Sends through a socket, which is connected unless `address` says where to connect it.
    /// Messages have up to `max_msg_size` bytes, or fewer where the kernel allows fewer.
    ///
    /// A server takes more than `net.core.wmem_max` if it may. A client does not: corosync takes no
    /// more than that, so it could not deliver a longer message, and would lose it.
    pub(crate) fn new(
        socket: Arc<OwnedFd>,
        control: Arc<Control>,
        direction: Direction,
        max_msg_size: usize,
        address: Option<UnixAddr>,
    ) -> io::Result<Self> {
        let is_server = direction != Direction::Request;
        let wanted = max_msg_size.min(MAX_DATAGRAM);
        let limit = datagram::reserve(&*socket, wanted, is_server)?.min(wanted);
        Ok(Self { socket, control, direction, max_msg_size, limit, unconnected: address })
    }

    /// The control file.
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// The longest message, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Returns the reason why a message of this size cannot be sent.
    pub(crate) fn why_too_long(&self, size: usize) -> String {
        let limit = self.limit;
        if limit == self.max_msg_size {
            format!("{size} bytes are more than the {limit} agreed on: ask for a larger ring size")
        } else {
            format!(
                "{size} bytes do not fit in a datagram, {limit} do: net.core.wmem_max limits what \
                 both ends can send, up to {MAX_DATAGRAM}"
            )
        }
    }

    /// Returns how many messages the other end has not received, as it says.
    pub(crate) fn backlog(&self) -> u32 {
        self.control.backlog(self.direction)
    }

    /// Sends the parts as one message. Returns `false` if there is no room.
    pub(crate) fn try_send(&mut self, parts: &[&[u8]]) -> Result<bool, ChannelError> {
        if let Some(address) = &self.unconnected {
            match datagram::connect_datagram(&*self.socket, address) {
                Ok(()) => self.unconnected = None,
                // The client has not bound its socket yet.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::NotFound
                    ) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(closed_or(error)),
            }
        }
        match datagram::send_parts(&*self.socket, parts) {
            Ok(()) => {
                // Relaxed: a count. The other end reads it after it was woken by the socket.
                self.control.sent(self.direction).fetch_add(1, Ordering::Relaxed);
                self.control.check()?;
                Ok(true)
            }
            Err(error) if is_full(&error) => Ok(false),
            Err(error) => Err(closed_or(error)),
        }
    }
}

/// Whether messages of a user are accepted.
pub(crate) type Trust = Box<dyn Fn(u32) -> bool + Send>;

/// How many messages of users that are not trusted one call discards at most.
const MOST_DISCARDED: usize = 64;

/// The receiving end of a direction.
///
/// An abstract address has no permissions: any user can send there until the socket is connected.
/// So a message whose sender is not trusted is discarded.
pub(crate) struct Receiver {
    socket: Arc<OwnedFd>,
    control: Arc<Control>,
    direction: Direction,
    trust: Trust,
    capacity: usize,
    /// Room for the longest message. Mapped, so that only what was used takes memory: the allocator
    /// would clear memory that it uses again.
    buffer: MmapMut,
    max_msg_size: usize,
}

impl Receiver {
    /// Receives messages of up to `max_msg_size` bytes from users that are trusted. All that wait
    /// take up to `capacity` bytes of their sender's buffer.
    pub(crate) fn new(
        socket: Arc<OwnedFd>,
        control: Arc<Control>,
        direction: Direction,
        max_msg_size: usize,
        capacity: usize,
        trust: Trust,
    ) -> io::Result<Self> {
        let buffer = MmapMut::map_anon(max_msg_size.max(1))?;
        Ok(Self { socket, control, direction, trust, capacity, buffer, max_msg_size })
    }

    /// How many bytes of the sender's buffer the messages that wait take at most.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The largest buffer that the sender can have, in bytes, unless it is no libqb server. A server
    /// of root may get what it asks for, of which the system makes twice as much.
    pub(crate) fn largest_buffer(&self) -> usize {
        self.capacity.max(2 * self.max_msg_size.min(MAX_DATAGRAM))
    }

    /// The control file.
    #[cfg(feature = "server")]
    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// The socket.
    pub(crate) fn socket(&self) -> &Arc<OwnedFd> {
        &self.socket
    }

    /// Returns how many messages wait, as the other end says.
    pub(crate) fn backlog(&self) -> u32 {
        self.control.backlog(self.direction)
    }

    /// Takes the next message without waiting and writes it over what is in `message`. Returns
    /// `false` if there is none.
    pub(crate) fn try_receive_into(&mut self, message: &mut Vec<u8>) -> Result<bool, ChannelError> {
        for _ in 0..MOST_DISCARDED {
            let received = datagram::receive_datagram(&*self.socket, &mut self.buffer);
            let (size, sender) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(closed_or(error)),
            };
            let sender = match sender {
                // Descriptors hide the sender. Anybody can send to a server's socket.
                Err(_) if self.direction == Direction::Request => None,
                sender => sender.map_err(closed_or)?,
            };
            if !sender.is_some_and(|sender| (self.trust)(sender.uid)) {
                continue;
            }
            // Relaxed: as in `Sender::try_send`.
            self.control.sent(self.direction).fetch_sub(1, Ordering::Relaxed);
            self.control.check()?;
            let received = self.buffer.get(..size).filter(|_| size <= self.max_msg_size);
            let received = received.ok_or(ProtocolError::DatagramSize {
                direction: self.direction.name(),
                size: size as u64,
                limit: self.max_msg_size as u64,
            })?;
            message.clear();
            message.reserve_exact(size);
            message.extend_from_slice(received);
            return Ok(true);
        }
        Ok(false)
    }
}

/// Whether a message may fit later.
fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Converts an error of a datagram socket.
fn closed_or(source: io::Error) -> ChannelError {
    match source.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::NotConnected
        | ErrorKind::BrokenPipe => ChannelError::Closed,
        ErrorKind::InvalidData => ChannelError::Protocol(ProtocolError::Descriptors),
        _ => ChannelError::System(source),
    }
}
