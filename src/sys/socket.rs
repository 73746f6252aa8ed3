//! Unix stream sockets, which the setup socket of a connection is.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::sockopt::{PassCred, PeerCredentials, SndBuf};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType,
    UnixAddr,
};
use nix::sys::socket::{
    UnixCredentials, connect, getsockopt, recv, recvmsg, send, sendmsg, setsockopt, shutdown,
    socket,
};

/// The credentials of the process at the other end of a connection, as the kernel reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Credentials {
    /// The process id. 0 when the process is in a pid namespace that this process cannot see.
    pub pid: i32,
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

/// The size of an abstract name in bytes: `sun_path` without its leading NUL. libqb pads the name
/// with NULs to this size.
const ABSTRACT_NAME_SIZE: usize = 107;

/// Returns the abstract address of a service.
pub(crate) fn abstract_address(name: &str) -> io::Result<UnixAddr> {
    let mut padded = [0; ABSTRACT_NAME_SIZE];
    let room = padded.get_mut(..name.len()).ok_or(Errno::ENAMETOOLONG)?;
    room.copy_from_slice(name.as_bytes());
    Ok(UnixAddr::new_abstract(&padded)?)
}

/// Returns the address of a socket file.
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

/// As [`connect_stream`], then switches the credentials of received messages on and sends a
/// greeting. The second result is that of the greeting, without which the server may wait for ever:
/// no signal ends or stops this thread before it is sent, except `SIGKILL` and `SIGSTOP`.
pub(crate) fn connect_stream_with(
    address: &UnixAddr,
    greeting: &[u8],
) -> io::Result<(OwnedFd, io::Result<()>)> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let connected = connect_stream(address).map(|socket| {
        let sent = pass_credentials(&socket, true).and_then(|()| send_now(&socket, greeting));
        // So few bytes always fit in the buffer of a new socket.
        let is_whole =
            |sent| if sent == greeting.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) };
        (socket, sent.and_then(is_whole))
    });
    before.thread_set_mask()?;
    connected
}

/// Switches the credentials of received messages on or off (`SO_PASSCRED`).
pub(crate) fn pass_credentials(socket: &impl AsFd, on: bool) -> io::Result<()> {
    Ok(setsockopt(socket, PassCred, &on)?)
}

/// Returns the process at the other end, as the kernel recorded it when that process listened or
/// connected.
pub(crate) fn peer_credentials(socket: &impl AsFd) -> io::Result<Credentials> {
    Ok(getsockopt(socket, PeerCredentials)?.into())
}

impl From<UnixCredentials> for Credentials {
    fn from(credentials: UnixCredentials) -> Self {
        Self { pid: credentials.pid(), uid: credentials.uid(), gid: credentials.gid() }
    }
}

/// Returns the size of the send buffer in bytes, as the kernel counts them.
pub(crate) fn send_buffer(socket: &impl AsFd) -> io::Result<usize> {
    Ok(getsockopt(socket, SndBuf)?)
}

/// Sends as many bytes as fit now. Never blocks and never raises `SIGPIPE`.
pub(crate) fn send_now(socket: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    Ok(retry(|| send(socket.as_fd().as_raw_fd(), bytes, flags))?)
}

/// Sends a byte that carries descriptors. Their files stay open until the other end receives the
/// byte or closes. Never blocks and never raises `SIGPIPE`.
pub(crate) fn send_descriptors(
    socket: &impl AsFd,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let socket = socket.as_fd().as_raw_fd();
    let carried = [ControlMessage::ScmRights(&raw)];
    retry(|| sendmsg::<()>(socket, &[IoSlice::new(&[0])], &carried, flags, None))?;
    Ok(())
}

/// Receives the bytes that are available. Never blocks. Returns 0 when the other end has closed.
pub(crate) fn receive_now(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(retry(|| recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT))?)
}

/// As [`receive_now`], and also returns the sender's credentials if [`pass_credentials`] is on. The
/// kernel never returns bytes of two senders together. There is no room for file descriptors, so
/// the kernel closes any that arrive.
///
/// # Errors
/// As the system call; [`ErrorKind::InvalidData`] when file descriptors arrived.
pub(crate) fn receive_from(
    socket: &impl AsFd,
    buffer: &mut [u8],
) -> io::Result<(usize, Option<Credentials>)> {
    let (count, sender) = receive_with_credentials(socket, buffer, MsgFlags::empty())?;
    Ok((count, sender?))
}

/// Receives bytes or a datagram. The sender is [`ErrorKind::InvalidData`] when file descriptors
/// arrived, which take the room of the credentials.
pub(super) fn receive_with_credentials(
    socket: &impl AsFd,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> io::Result<(usize, io::Result<Option<Credentials>>)> {
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let mut control = cmsg_space!(UnixCredentials);
    let credentials = |message| match message {
        ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.into()),
        _ => None,
    };
    let (length, sender) = retry(|| {
        let mut parts = [IoSliceMut::new(buffer)];
        let received =
            recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags)?;
        // An error says that not all of the control data had room.
        let sender = received.cmsgs().map(|mut messages| messages.find_map(credentials));
        Ok((received.bytes, sender))
    })?;
    Ok((length, sender.map_err(|_| io::Error::from(ErrorKind::InvalidData))))
}

/// Shuts the connection down in both directions and wakes the threads that poll it.
pub(crate) fn shut_down(socket: &impl AsFd) {
    let _ = shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
}

/// Repeats a system call while a signal interrupts it (`EINTR`).
pub(super) fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
