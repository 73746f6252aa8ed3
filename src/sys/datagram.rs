//! Unix datagram sockets, which carry the requests, replies and events of a connection without
//! rings.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, sendmsg,
    setsockopt, socket,
};

use super::socket::{Credentials, pass_credentials, receive_with_credentials, retry};

/// The bytes of a send buffer that the kernel keeps for itself. `unix_dgram_sendmsg` refuses a
/// datagram that is larger than the rest with `EMSGSIZE`.
const SEND_BUFFER_OVERHEAD: usize = 32;

/// Creates a socket that receives datagrams at `address`.
pub(crate) fn bind_datagram(address: &UnixAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // Before anybody can send: a datagram carries credentials only if this was on by then.
    pass_credentials(&socket, true)?;
    bind(socket.as_raw_fd(), address)?;
    Ok(socket)
}

/// Connects a socket to `address`: it then sends to this address and receives only from it.
///
/// # Errors
/// `ECONNREFUSED` when no socket is bound to the address.
pub(crate) fn connect_datagram(socket: &impl AsFd, address: &UnixAddr) -> io::Result<()> {
    Ok(retry(|| connect(socket.as_fd().as_raw_fd(), address))?)
}

/// Enlarges the send buffer for datagrams of `size` bytes, up to `net.core.wmem_max`. With `force`
/// it goes beyond that limit if this process has `CAP_NET_ADMIN`. Returns the size of the largest
/// datagram that can be sent.
///
/// The receive buffer has no influence: Linux counts a datagram in its sender's buffer.
pub(crate) fn reserve(socket: &impl AsFd, size: usize, force: bool) -> io::Result<usize> {
    let wanted = size.saturating_add(SEND_BUFFER_OVERHEAD);
    let room = || -> io::Result<usize> { Ok(getsockopt(socket, SndBuf)?) };
    if room()? < wanted {
        setsockopt(socket, SndBuf, &wanted)?;
    }
    if force && room()? < wanted {
        match setsockopt(socket, SndBufForce, &wanted) {
            Ok(()) | Err(Errno::EPERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(room()?.saturating_sub(SEND_BUFFER_OVERHEAD))
}

/// Sends the parts as one datagram. Never blocks and never raises `SIGPIPE`.
pub(crate) fn send_parts(socket: &impl AsFd, parts: &[&[u8]]) -> io::Result<()> {
    let parts: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_fd().as_raw_fd();
    retry(|| sendmsg::<()>(socket, &parts, &[], flags, None))?;
    Ok(())
}

/// Receives a datagram. The buffer gets its beginning. Returns the length of the whole datagram,
/// and the sender's credentials if [`pass_credentials`](super::socket::pass_credentials) is on.
/// They are [`ErrorKind::InvalidData`](io::ErrorKind::InvalidData) when file descriptors arrived,
/// which the kernel closes. Never blocks.
pub(crate) fn receive_datagram(
    socket: &impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, io::Result<Option<Credentials>>)> {
    receive_with_credentials(socket, buffer, MsgFlags::MSG_TRUNC)
}
