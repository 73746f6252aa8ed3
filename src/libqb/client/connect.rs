//! Setting a connection up: socket, handshake, rings.

use std::borrow::Cow;
use std::io;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::{getegid, geteuid};

use super::call::Call;
use super::connection::Target;
use super::datagrams::BoundSockets;
use super::orphans::Origin;
use super::ring_files::{self, RingFiles};
use crate::address::SocketAddress;
use crate::codec::setup::{ConnectReply, ConnectRequest, Generation, TransportType};
use crate::endpoint::{Endpoint, MAX_RING_SIZE, resolve};
use crate::error::{Error, ProtocolError, Result, RingError, Stage, WireError};
use crate::libqb::channel::{Receiver, Sender};
use crate::libqb::handshake::{
    DATA_SUFFIX, HEADER_SUFFIX, Handshake, RING_NAMES, RingName, has_old_magic, ring_names,
};
use crate::libqb::ring::{CHUNK_MARGIN, Format, HEADER_SIZE, Mapping, REQUEST_HEADER_SIZE, Ring};
use crate::sys::event::Poller;
use crate::sys::file::page_size;
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for};
use crate::sys::{file, socket};

/// How long to wait before trying again when a listener's queue is full.
const QUEUE_RETRY: Duration = Duration::from_millis(5);

/// How long to wait at most before trying again when the daemon is not ready.
const READY_RETRY_MOST: Duration = Duration::from_millis(50);

/// How long a daemon that ends takes at most from the removal of its files, or the end of its first
/// socket, to the end of the setup socket.
const CLOSE_TIME: Duration = Duration::from_millis(100);

/// The largest unit that libqb rounds a ring's data up to: a page of arm64 and ppc64. Most have 4
/// KiB.
const LARGEST_PAGE: u64 = 64 << 10;

/// The parts of a connection.
pub(super) struct Parts {
    pub(super) socket: OwnedFd,
    pub(super) peer: Credentials,
    pub(super) generation: Generation,
    pub(super) is_before_libqb_015: bool,
    pub(super) channels: Channels,
    pub(super) origin: Origin,
}

/// The three directions of a connection.
pub(super) struct Channels {
    pub(super) request: Sender,
    pub(super) response: Receiver,
    pub(super) event: Receiver,
    /// The longest request, in bytes.
    pub(super) max_request: usize,
    /// The longest answer that the daemon can send, in bytes.
    pub(super) max_reply: usize,
    /// Whether the daemon answers requests once and in their order, but for those that
    /// [`Room`](crate::libqb::pending::Room) leaves out.
    pub(super) joins: bool,
    /// The descriptor to poll for events, unless that is the setup socket.
    pub(super) descriptor: Option<Poller>,
    pub(super) sockets: BoundSockets,
}

/// Connects to a service.
pub(super) fn connect(target: Target<'_>, endpoint: &Endpoint, call: Call) -> Result<Parts> {
    let service = target.name;
    let max_msg_size = endpoint.ring_size_or(target.ring_size)?;
    let name = Cow::Owned(endpoint.name(service).to_owned());
    let (timeout, deadline) = (call.timeout, Some(call.deadline));
    let connecting = Connecting { endpoint, service: name, timeout, deadline };
    if call.is_over() {
        return Err(connecting.timed_out(Stage::Socket));
    }
    let mut pause = QUEUE_RETRY;
    let (socket, address, peer, reply) = loop {
        let (socket, address) = connecting.socket(service, max_msg_size)?;
        match connecting.handshake(&socket, max_msg_size) {
            Ok((peer, reply)) => break (socket, address, peer, reply),
            // The daemon is starting, which takes about a second.
            Err(Error::NotReady { .. })
                if deadline.is_none_or(|deadline| Instant::now() + pause < deadline) =>
            {
                thread::sleep(pause);
                pause = (pause * 2).min(READY_RETRY_MOST);
            }
            Err(error) => return Err(error),
        }
    };
    let raised = if target.may_raise_size { reply.max_msg_size.min(MAX_RING_SIZE) } else { 0 };
    let limit = max_msg_size.max(raised);
    let (channels, origin, is_before_libqb_015) = match reply.transport {
        TransportType::SHM => connecting.rings(&socket, peer, &reply, limit)?,
        // Which libqb before 0.15 does not have.
        TransportType::SOCKET => {
            let (channels, origin) =
                connecting.datagrams(&socket, &address, peer, &reply, limit)?;
            (channels, origin, false)
        }
        other => {
            let source = ProtocolError::Transport(other.0);
            return Err(connecting.protocol(Stage::Handshake, source));
        }
    };
    let generation = reply.generation;
    Ok(Parts { socket, peer, generation, is_before_libqb_015, channels, origin })
}

pub(super) struct Connecting<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) service: Cow<'static, str>,
    timeout: Duration,
    deadline: Option<Instant>,
}

impl Connecting<'_> {
    /// Connects to the first address of the service at which somebody listens, and sends the
    /// connection request.
    fn socket(&self, service: &str, max_msg_size: u32) -> Result<(OwnedFd, SocketAddress)> {
        let (first, others) = self.endpoint.socket_addresses(service);
        let mut result = self.socket_at(&first, max_msg_size).map(|socket| (socket, first));
        for address in others {
            if !matches!(result, Err(Error::NoSocket { .. })) {
                break;
            }
            match self.socket_at(&address, max_msg_size) {
                // The first error stays.
                Err(Error::NoSocket { .. }) => {}
                other => result = other.map(|socket| (socket, address)),
            }
        }
        result
    }

    fn socket_at(&self, address: &SocketAddress, max_msg_size: u32) -> Result<OwnedFd> {
        crate::log::debug!(service = %self.service, address = %address, "connecting");
        let resolved = resolve(address)?;
        let request = ConnectRequest { max_msg_size }.encode();
        let request = request.map_err(|source| self.protocol(Stage::Handshake, source.into()))?;
        loop {
            match socket::connect_stream_with(&resolved, &request) {
                Ok((socket, sent)) => {
                    return sent.map(|()| socket).map_err(|error| self.failed(error));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                        return Err(self.timed_out(Stage::Socket));
                    }
                    thread::sleep(QUEUE_RETRY);
                }
                Err(source)
                    if matches!(
                        source.raw_os_error(),
                        Some(libc::ECONNREFUSED | libc::ENOENT | libc::ENOTDIR)
                    ) =>
                {
                    return Err(Error::NoSocket {
                        service: self.service.clone(),
                        address: address.clone(),
                        source,
                    });
                }
                Err(source) => {
                    let operation = format!("connecting to {address}");
                    return Err(system(Stage::Socket, operation, source));
                }
            }
        }
    }

    fn check_server(&self, Credentials { pid, uid, .. }: Credentials) -> Result<()> {
        if self.endpoint.may_serve(uid) {
            return Ok(());
        }
        let is_unmapped = file::is_unmapped(uid);
        Err(Error::UntrustedServer { service: self.service.clone(), uid, pid, is_unmapped })
    }

    /// Collects the reply, which must come from a user who may serve. It carries credentials.
    fn handshake(
        &self,
        socket: &OwnedFd,
        max_msg_size: u32,
    ) -> Result<(Credentials, ConnectReply)> {
        let failed = |source| self.failed(source);
        let protocol = |source: WireError| self.protocol(Stage::Handshake, source.into());
        // The kernel recorded the listener's credentials, so they cannot be forged. The request
        // holds nothing but a size. It is sent before they are checked: servers with libqb 0.10 and
        // 0.11 would wait for it for ever, spinning, even after the client is gone.
        let peer = socket::peer_credentials(socket);
        let peer = peer.map_err(|error| {
            system(Stage::Credentials, "reading the daemon's credentials", error)
        })?;
        self.check_server(peer)?;
        let mut handshake = Handshake::default();
        let reply = loop {
            let ready = wait_for(socket, Interest::Readable, self.deadline).map_err(failed)?;
            if ready == Ready::TimedOut {
                return Err(self.timed_out(Stage::Handshake));
            }
            match socket::receive_from(socket, handshake.room().map_err(protocol)?) {
                Ok((0, _)) => return Err(self.gone(Stage::Handshake)),
                Ok((count, sender)) => {
                    // The listener may have dropped privileges since, or passed the socket on. The
                    // process that answers will read the requests, so it must be trusted too. It
                    // may be another user.
                    sender.map_or(Ok(()), |sender| self.check_server(sender))?;
                    if let Some(reply) = handshake.filled(count).map_err(protocol)? {
                        break reply;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.failed(error)),
            }
        };
        socket::pass_credentials(socket, false).map_err(failed)?;
        if reply.error == 0 {
            Ok((peer, reply))
        } else {
            Err(self.refused(reply.error, max_msg_size))
        }
    }

    fn refused(&self, error: i32, ring_size: u32) -> Error {
        let service = self.service.clone();
        match error.checked_neg() {
            Some(libc::EAGAIN) => Error::NotReady { service },
            Some(libc::EACCES) => {
                Error::NotAllowed { service, uid: geteuid().as_raw(), gid: getegid().as_raw() }
            }
            Some(libc::ENOSPC) => Error::SharedMemoryFull { service, ring_size },
            Some(errno) => Error::Refused { service, source: io::Error::from_raw_os_error(errno) },
            None => Error::Refused { service, source: io::ErrorKind::Other.into() },
        }
    }

    /// Returns the channels, and whether the daemon's libqb is older than 0.15.
    fn rings(
        &self,
        setup: &OwnedFd,
        peer: Credentials,
        reply: &ConnectReply,
        asked: u32,
    ) -> Result<(Channels, Origin, bool)> {
        let names = ring_names(reply, self.endpoint.shm_root_path())
            .map_err(|source| self.protocol(Stage::Rings, source))?;
        let files =
            names.iter().flat_map(|name| [HEADER_SUFFIX, DATA_SUFFIX].map(|it| name.file(it)));
        let origin = Origin::new(self.endpoint, &names[0], files.collect(), peer.pid);
        match self.open_rings(setup, peer, reply, &names, asked) {
            Ok((channels, is_before_libqb_015)) => Ok((channels, origin, is_before_libqb_015)),
            Err(error) => Err(self.unusable(error, setup, &origin)),
        }
    }

    fn open_rings(
        &self,
        setup: &OwnedFd,
        peer: Credentials,
        reply: &ConnectReply,
        names: &[RingName; 3],
        asked: u32,
    ) -> Result<(Channels, bool)> {
        let format = if has_old_magic(reply) { Format::LIBQB_010 } else { Format::LIBQB_014 };
        let [request_files, response_files, event_files] =
            ring_files::open(&self.service, self.endpoint, peer.uid, names)?;
        let [request, response, event] = RING_NAMES;
        let request =
            self.ring(request, format, &request_files, REQUEST_HEADER_SIZE, asked)?.producer();
        let response = self.ring(response, format, &response_files, HEADER_SIZE, asked)?.consumer();
        let event = self.ring(event, format, &event_files, HEADER_SIZE, asked)?.consumer();
        let failed = |source: RingError| self.protocol(Stage::Rings, source.into());
        let (request, response) = (request.map_err(failed)?, response.map_err(failed)?);
        let event = event.map_err(failed)?;
        // The data files of libqb before 0.15 are as large as was asked for, rounded up to a page,
        // and lie directly in the root. Those of libqb 1.0.4 and later lie in a directory of their
        // own.
        let has_no_spare = event.ring().max_chunk() + CHUNK_MARGIN
            <= (reply.max_msg_size as usize).next_multiple_of(page_size());
        let is_before_libqb_015 =
            names.iter().all(|name| name.directories.is_empty()) && has_no_spare;
        self.check_names(setup)?;
        let rings = [request.ring(), response.ring(), event.ring()];
        rings.iter().try_for_each(|ring| ring.check_unused()).map_err(failed)?;
        rings.iter().try_for_each(|ring| ring.attach()).map_err(failed)?;
        let channels = Channels {
            max_reply: response.ring().max_chunk(),
            request: Sender::Ring(request),
            response: Receiver::Ring(response),
            event: Receiver::Ring(event),
            max_request: usize::try_from(reply.max_msg_size).unwrap_or(usize::MAX),
            // A directory of their own shows libqb 1.0.4 or later, so corosync 2.1 or later: libqb is
            // seven years younger than that.
            joins: names.iter().all(|name| !name.directories.is_empty()),
            descriptor: None,
            sockets: BoundSockets::default(),
        };
        Ok((channels, is_before_libqb_015))
    }

    /// Checks that the daemon is there. libqb before 1.0.4 uses names again, so a daemon that was
    /// started meanwhile may have files of the same names, for another client.
    pub(super) fn check_names(&self, setup: &OwnedFd) -> Result<()> {
        if is_hung_up(setup, Instant::now()) { Err(self.gone(Stage::Rings)) } else { Ok(()) }
    }

    /// Makes the error of a daemon's files or sockets that cannot be used. If the daemon ended
    /// meanwhile, that is the cause, and its files are removed.
    pub(super) fn unusable(&self, error: Error, setup: &OwnedFd, origin: &Origin) -> Error {
        let soon = Instant::now() + CLOSE_TIME;
        if !is_hung_up(setup, self.deadline.map_or(soon, |deadline| deadline.min(soon))) {
            return error;
        }
        origin.remove_orphans(4);
        match error {
            error @ Error::System { .. } => error,
            _ => self.gone(Stage::Rings),
        }
    }

    fn ring(
        &self,
        ring: &'static str,
        format: Format,
        files: &RingFiles,
        header_size: usize,
        asked: u32,
    ) -> Result<Ring<Mapping>> {
        let failed = |source| {
            system(Stage::Rings, format!("mapping the {ring} ring of {}", self.service), source)
        };
        let broken = |source: RingError| self.protocol(Stage::Rings, source.into());
        let have = files.header.size;
        if have < header_size as u64 {
            let need = header_size as u64;
            return Err(broken(RingError::TooSmall { ring, file: "header", have, need }));
        }
        let header = Mapping::new(&files.header.file, header_size).map_err(failed)?;
        let size = files.data.size;
        // As qb_rb_open. The size of the ring bounds the work of one poll for events.
        let limit = (u64::from(asked) + CHUNK_MARGIN as u64 + 1).next_multiple_of(LARGEST_PAGE);
        if size > limit {
            return Err(broken(RingError::TooLarge { ring, have: size, limit }));
        }
        let data = Mapping::new(&files.data.file, usize::try_from(size).unwrap_or(usize::MAX))
            .map_err(failed)?;
        Ring::open(ring, format, header, data).map_err(broken)
    }

    pub(super) fn protocol(&self, stage: Stage, source: ProtocolError) -> Error {
        Error::Protocol { service: self.service.clone(), source, stage: Some(stage) }
    }

    /// The handshake failed because of the system, a daemon that is gone, or one that sends
    /// descriptors.
    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                self.gone(Stage::Handshake)
            }
            io::ErrorKind::InvalidData => {
                self.protocol(Stage::Handshake, ProtocolError::Descriptors)
            }
            _ => system(Stage::Handshake, format!("connecting to {}", self.service), error),
        }
    }

    /// The daemon ended.
    pub(super) fn gone(&self, stage: Stage) -> Error {
        Error::Disconnected { service: self.service.clone(), truncated: None, stage: Some(stage) }
    }

    fn timed_out(&self, stage: Stage) -> Error {
        Error::TimedOut {
            operation: format!("connecting to {}", self.service).into(),
            after: self.timeout,
            stage: Some(stage),
        }
    }
}

/// Whether the daemon closes the setup socket until then.
fn is_hung_up(setup: &OwnedFd, until: Instant) -> bool {
    let ready = wait_for(setup, Interest::HangUp, Some(until));
    ready.is_ok_and(|ready| ready == Ready::HungUp)
}

pub(super) fn system(
    stage: Stage,
    operation: impl Into<Cow<'static, str>>,
    source: io::Error,
) -> Error {
    Error::System { operation: operation.into(), source, stage: Some(stage) }
}
