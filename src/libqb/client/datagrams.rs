//! Setup of a datagram connection: the control file and the two sockets of a client.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use nix::sys::socket::UnixAddr;

use super::connect::{Channels, Connecting, Parts, system};
use super::lock;
use super::orphans::Origin;
use super::ring_files;
use crate::address::SocketAddress;
use crate::codec::setup::ConnectReply;
use crate::endpoint::resolve;
use crate::error::{Error, ProtocolError, Result, RingError, Stage};
use crate::libqb::channel;
use crate::libqb::datagram::{CONTROL_SIZE, Control, Direction, Names, Receiver, Sender, Trust};
use crate::sys::event::Poller;
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for};
use crate::sys::{datagram, file};

/// How long the sockets of a process that was killed may take to close.
const HANG_UP_DELAY: Duration = Duration::from_millis(100);

/// The number of both sockets in the poller: one poll finds the readable ones.
const ANY: u64 = 0;

/// The sockets that a client made. Dropping them removes their files.
#[derive(Debug, Default)]
pub(super) struct BoundSockets {
    paths: Vec<PathBuf>,
    /// Each with the address of the daemon's socket.
    sockets: Vec<(Arc<OwnedFd>, UnixAddr)>,
}

/// The sockets of connections that ended before the daemon took all of their requests.
///
/// The daemon connects to a client's sockets when it first sends something. libqb looks for a
/// socket that is not there for a second, and serves nobody meanwhile. So these are kept until the
/// daemon has closed its own.
static KEPT: Mutex<Vec<BoundSockets>> = Mutex::new(Vec::new());

/// For how many connections sockets are kept.
const MOST_KEPT: usize = 64;

impl BoundSockets {
    /// Keeps the sockets until the daemon has closed its end. They are dropped when another
    /// connection begins or ends after that.
    pub(super) fn keep(self) {
        if !self.sockets.is_empty() && self.are_connected() {
            let mut kept = drop_those_of_the_past(None);
            if kept.len() >= MOST_KEPT {
                kept.remove(0);
            }
            kept.push(self);
        }
    }

    /// Whether the daemon still has its end. Connecting again changes nothing.
    fn are_connected(&self) -> bool {
        self.sockets
            .iter()
            .all(|(socket, address)| datagram::connect_datagram(&**socket, address).is_ok())
    }
}

/// Drops the sockets that no daemon looks for any more: where it closed its own, and where it gives
/// its address to a new connection. libqb before 1.0.4 uses addresses again.
fn drop_those_of_the_past(new: Option<&UnixAddr>) -> MutexGuard<'static, Vec<BoundSockets>> {
    let mut kept = lock(&KEPT);
    let is_new = |it: &BoundSockets| it.sockets.iter().any(|(_, address)| Some(address) == new);
    kept.retain(|it| !is_new(it) && it.are_connected());
    kept
}

impl Drop for BoundSockets {
    fn drop(&mut self) {
        for path in &self.paths {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Connecting<'_> {
    /// Opens the control file, makes the client's sockets and connects them to the daemon's. The
    /// daemon connects its sockets when it first sends something.
    pub(super) fn datagrams(
        &self,
        setup: OwnedFd,
        peer: Credentials,
        reply: &ConnectReply,
        limit: u32,
    ) -> Result<Parts> {
        if reply.response.is_empty() {
            return Err(self.protocol(Stage::Handshake, ProtocolError::StreamTransport));
        }
        let max_msg_size = reply.max_msg_size;
        if max_msg_size > limit {
            let (have, limit) = (u64::from(max_msg_size), u64::from(limit));
            return Err(self.protocol(
                Stage::Rings,
                RingError::TooLarge { ring: "socket", have, limit }.into(),
            ));
        }
        let max_msg_size = max_msg_size as usize;
        let Names { control: name, base } = Names::parse(reply, self.endpoint.shm_root_path())
            .map_err(|source| self.protocol(Stage::Rings, source))?;
        let control = Arc::new(self.control(&name, peer)?);
        let mut sockets = BoundSockets::default();
        let requests = self.connected(&setup, &base, "-response", "-request", &mut sockets)?;
        let events = self.connected(&setup, &base, "-event", "-event-tx", &mut sockets)?;
        let failed =
            |source| system(Stage::Rings, format!("connecting to {}", self.service), source);
        let request = Sender::new(
            Arc::clone(&requests),
            Arc::clone(&control),
            Direction::Request,
            max_msg_size,
            None,
        )
        .map_err(failed)?;
        // What the system grants this end, it grants the daemon for its events.
        let capacity = datagram::reserve(&*events, max_msg_size, false).map_err(failed)?;
        let receiver = |socket, direction| {
            let endpoint = self.endpoint.clone();
            let trust: Trust = Box::new(move |uid| endpoint.may_serve(uid));
            Receiver::new(socket, Arc::clone(&control), direction, max_msg_size, capacity, trust)
        };
        let response = receiver(requests, Direction::Response).map_err(failed)?;
        let descriptor = Poller::new().map_err(failed)?;
        descriptor.add(&setup, ANY).map_err(failed)?;
        descriptor.add(&events, ANY).map_err(failed)?;
        let event = receiver(events, Direction::Event).map_err(failed)?;
        let files = vec![name.base.clone()];
        Ok(Parts {
            socket: setup,
            peer,
            generation: reply.generation,
            // Which has no datagrams.
            is_before_libqb_015: false,
            channels: Channels {
                max_request: request.limit(),
                // What the system allows this end, it allows the daemon.
                max_reply: request.limit(),
                request: channel::Sender::Datagram(request),
                response: channel::Receiver::Datagram(response),
                event: channel::Receiver::Datagram(event),
                descriptor: Some(descriptor),
                sockets,
            },
            origin: Origin::new(self.endpoint, name, files, peer.pid),
        })
    }

    fn control(
        &self,
        name: &crate::libqb::handshake::RingName,
        peer: Credentials,
    ) -> Result<Control> {
        let failed = |source| {
            system(Stage::Rings, format!("mapping the control file of {}", self.service), source)
        };
        let file = ring_files::open_control(&self.service, self.endpoint, peer.uid, name)?;
        let (have, need) = (file.metadata().map_err(failed)?.len(), CONTROL_SIZE as u64);
        if have < need {
            let (ring, file) = ("socket", "control");
            return Err(
                self.protocol(Stage::Rings, RingError::TooSmall { ring, file, have, need }.into())
            );
        }
        Control::new(&file).map_err(failed)
    }

    /// Makes a socket and connects it to one of the daemon's.
    fn connected(
        &self,
        setup: &OwnedFd,
        base: &str,
        own: &str,
        others: &str,
        sockets: &mut BoundSockets,
    ) -> Result<Arc<OwnedFd>> {
        let address =
            |suffix| self.endpoint.connection_address(&self.service, &format!("{base}{suffix}"));
        let (own, others) = (address(own), address(others));
        let address = resolve(&others)?;
        drop(drop_those_of_the_past(Some(&address)));
        if let SocketAddress::Path(path) = &own {
            // As libqb does. An earlier process of the same id left it.
            file::remove_socket(path);
        }
        let socket = datagram::bind_datagram(&resolve(&own)?)
            .map_err(|source| system(Stage::Rings, format!("binding {own}"), source))?;
        if let SocketAddress::Path(path) = own {
            sockets.paths.push(path);
        }
        match datagram::connect_datagram(&socket, &address) {
            Ok(()) => {
                let socket = Arc::new(socket);
                sockets.sockets.push((Arc::clone(&socket), address));
                Ok(socket)
            }
            Err(source)
                if matches!(source.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
            {
                // A daemon that is killed closes all of its sockets at about the same time.
                let soon = Instant::now() + HANG_UP_DELAY;
                let until = self.deadline.map_or(soon, |deadline| deadline.min(soon));
                match wait_for(setup, Interest::HangUp, Some(until)) {
                    Ok(Ready::HungUp) => Err(Error::disconnected(self.service.clone())),
                    _ => Err(Error::SocketsNotVisible { address: others, source }),
                }
            }
            Err(source) => Err(system(Stage::Rings, format!("connecting to {others}"), source)),
        }
    }
}
