//! Unix stream sockets: the setup socket of a connection.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{PassCred, PeerCredentials, SndBuf};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
};
use nix::sys::socket::{
    UnixCredentials, connect, getsockopt, recv, recvmsg, send, setsockopt, shutdown, socket,
};

/// Which process is at the other end of a connection, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id; 0 when the process is in a pid namespace this one cannot see.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Bytes in an abstract name: `sun_path` without its leading NUL. libqb pads the name with NULs to
/// all of them.
const ABSTRACT_NAME_SIZE: usize = 107;

/// The abstract address of a service.
pub(crate) fn abstract_address(name: &str) -> io::Result<UnixAddr> {
    let mut padded = [0; ABSTRACT_NAME_SIZE];
    let room = padded.get_mut(..name.len()).ok_or(Errno::ENAMETOOLONG)?;
    room.copy_from_slice(name.as_bytes());
    Ok(UnixAddr::new_abstract(&padded)?)
}

/// The address of a service's socket in a directory.
pub(crate) fn path_address(path: &Path) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(path)?)
}

/// Connects without blocking. `EAGAIN` means that the listener's queue is full.
pub(crate) fn connect_stream(address: &UnixAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    retry(|| connect(socket.as_raw_fd(), address))?;
    Ok(socket)
}

/// Whether messages carry credentials.
pub(crate) fn pass_credentials(socket: &impl AsFd, on: bool) -> io::Result<()> {
    Ok(setsockopt(socket, PassCred, &on)?)
}

/// The process at the other end, as the kernel noted it when it listened or connected.
pub(crate) fn peer_credentials(socket: &impl AsFd) -> io::Result<Credentials> {
    Ok(getsockopt(socket, PeerCredentials)?.into())
}

impl From<UnixCredentials> for Credentials {
    fn from(credentials: UnixCredentials) -> Self {
        Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() }
    }
}

/// Room for what was sent and not received, in bytes as the kernel counts them.
pub(crate) fn send_buffer(socket: &impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(socket, SndBuf)?)
}

/// Sends what fits now. Never blocks, never raises `SIGPIPE`.
pub(crate) fn send_now(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(retry(|| send(socket.as_fd().as_raw_fd(), bytes, flags))?)
}

/// Receives what is there. Never blocks. 0: the other end closed.
pub(crate) fn receive_now(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(retry(|| recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))?)
}

/// As [`receive_now`], and tells who sent the bytes, provided that [`pass_credentials`] is on.
/// Bytes of two senders never come at once. There is no room for file descriptors, so the kernel
/// closes those that come along.
///
/// # Errors
/// Also when something came along, and so it cannot be told who sent the bytes.
pub(crate) fn receive_from(
    socket: &impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<Credentials>)> {
    let mut control = cmsg_space!(UnixCredentials);
    Ok(retry(|| {
        let (mut parts, flags) =
            ([IoSliceMut::new(buffer)], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC);
        let received =
            recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        let sender = received.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.into()),
            _ => None,
        });
        Ok((received.bytes, sender))
    })?)
}

/// Ends the connection for both directions and wakes whoever polls it.
pub(crate) fn shut_down(socket: &impl AsFd) {
    let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
}

/// Calls again after a signal.
pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
