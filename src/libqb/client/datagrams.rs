//! Setup of a datagram connection: the control file and the two sockets of a client.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::connect::{Channels, Connecting, system};
use super::orphans::Origin;
use super::ring_files;
use crate::address::SocketAddress;
use crate::codec::setup::ConnectReply;
use crate::endpoint::{Endpoint, resolve};
use crate::error::{Error, ProtocolError, Result, RingError, Stage};
use crate::libqb::channel;
use crate::libqb::datagram::{CONTROL_SIZE, Control, Direction, Names, Receiver, Sender, Trust};
use crate::libqb::handshake::RingName;
use crate::sys::event::Poller;
use crate::sys::socket::Credentials;
use crate::sys::{datagram, file, socket};

/// The number of both sockets in the poller: one poll finds the readable ones.
const ANY: u64 = 0;

/// The sockets that a client made. Dropping them removes their files, unless they were left with the
/// daemon.
#[derive(Debug, Default)]
pub(super) struct BoundSockets {
    paths: Vec<PathBuf>,
    sockets: Vec<Arc<OwnedFd>>,
    are_left: AtomicBool,
}

impl BoundSockets {
    /// Leaves the sockets with the daemon, until it closes the setup socket or reads from it.
    ///
    /// The daemon connects to a client's sockets when it first sends something. libqb looks for a
    /// socket that is not there for a second, and serves nobody meanwhile. A socket in a message
    /// that nobody has received is there, even after its process has ended. The daemon removes its
    /// file then. Does nothing if the daemon has closed, or has them already.
    pub(super) fn leave_with(&self, setup: &OwnedFd) {
        let sockets: Vec<_> = self.sockets.iter().map(|socket| socket.as_fd()).collect();
        if !sockets.is_empty() && socket::send_descriptors(setup, &sockets).is_ok() {
            self.keep();
        }
    }

    /// Leaves the files where they are.
    pub(super) fn keep(&self) {
        self.are_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for BoundSockets {
    fn drop(&mut self) {
        if !self.are_left.load(Ordering::Relaxed) {
            self.paths.iter().for_each(|path| file::remove_socket(path));
        }
    }
}

impl Connecting<'_> {
    /// Opens the control file, makes the client's sockets and connects them to the daemon's. The
    /// daemon connects its sockets when it first sends something.
    pub(super) fn datagrams(
        &self,
        setup: &OwnedFd,
        service: &SocketAddress,
        peer: Credentials,
        reply: &ConnectReply,
        limit: u32,
    ) -> Result<(Channels, Origin)> {
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
        let names = Names::parse(reply, self.endpoint.shm_root_path())
            .map_err(|source| self.protocol(Stage::Rings, source))?;
        let files = vec![names.control.base.clone()];
        let origin = Origin::new(self.endpoint, &names.control, files, peer.pid);
        match self.open_sockets(setup, service, peer, max_msg_size, &names) {
            Ok(channels) => Ok((channels, origin.shared())),
            Err(error) => Err(self.unusable(error, setup, &origin)),
        }
    }

    fn open_sockets(
        &self,
        setup: &OwnedFd,
        service: &SocketAddress,
        peer: Credentials,
        max_msg_size: usize,
        Names { control: name, base }: &Names,
    ) -> Result<Channels> {
        let control = Arc::new(self.control(name, peer)?);
        self.check_names(setup)?;
        let mut sockets = BoundSockets::default();
        let address = |suffix| Endpoint::connection_address(service, &format!("{base}{suffix}"));
        let mut connected =
            |own, others| self.connected(&address(own), &address(others), &mut sockets);
        let requests = connected("-response", "-request")?;
        let events = connected("-event", "-event-tx")?;
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
        descriptor.add(setup, ANY).map_err(failed)?;
        descriptor.add(&events, ANY).map_err(failed)?;
        let event = receiver(events, Direction::Event).map_err(failed)?;
        Ok(Channels {
            max_request: request.limit(),
            // What the system allows this end, it allows the daemon.
            max_reply: request.limit(),
            // Nobody knows how many answers the socket has room for.
            joins: false,
            request: channel::Sender::Datagram(request),
            response: channel::Receiver::Datagram(response),
            event: channel::Receiver::Datagram(event),
            descriptor: Some(descriptor),
            sockets,
        })
    }

    fn control(&self, name: &RingName, peer: Credentials) -> Result<Control> {
        let failed = |source| {
            system(Stage::Rings, format!("mapping the control file of {}", self.service), source)
        };
        let opened = ring_files::open_control(&self.service, self.endpoint, peer.uid, name)?;
        let (have, need) = (opened.size, CONTROL_SIZE as u64);
        if have < need {
            let (ring, file) = ("socket", "control");
            return Err(
                self.protocol(Stage::Rings, RingError::TooSmall { ring, file, have, need }.into())
            );
        }
        Control::new(&opened.file).map_err(failed)
    }

    /// Makes a socket and connects it to one of the daemon's.
    fn connected(
        &self,
        own: &SocketAddress,
        others: &SocketAddress,
        sockets: &mut BoundSockets,
    ) -> Result<Arc<OwnedFd>> {
        let address = resolve(others)?;
        // As libqb does. An earlier process of the same id left it.
        own.path().into_iter().for_each(file::remove_socket);
        let socket = datagram::bind_datagram(&resolve(own)?)
            .map_err(|source| system(Stage::Rings, format!("binding {own}"), source))?;
        sockets.paths.extend(own.path().map(Path::to_path_buf));
        match datagram::connect_datagram(&socket, &address) {
            Ok(()) => {
                let socket = Arc::new(socket);
                sockets.sockets.push(Arc::clone(&socket));
                Ok(socket)
            }
            Err(source)
                if matches!(source.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound) =>
            {
                Err(Error::SocketsNotVisible { address: others.clone(), source })
            }
            Err(source) => Err(system(Stage::Rings, format!("connecting to {others}"), source)),
        }
    }
}
