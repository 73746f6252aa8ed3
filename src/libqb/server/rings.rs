//! The server's side of a connection's rings or sockets: creates and removes their files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, chown, fchown};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;

use bytes::Bytes;
use nix::libc;
use nix::unistd::geteuid;

use super::marker::{Mark, Marker};
use super::{Generation, RingAccess, Transport};
use crate::address::SocketAddress;
use crate::codec::setup::TransportType;
use crate::endpoint::{Endpoint, resolve};
use crate::libqb::channel::{Receiver, Sender};
use crate::libqb::datagram::{self, Control, Direction, Trust};
use crate::libqb::handshake::{DATA_SUFFIX, HEADER_SUFFIX, RING_NAMES};
use crate::libqb::ring::{Mapping, Ring};
use crate::sys::datagram::bind_datagram;
use crate::sys::socket::Credentials;
use crate::sys::{file, serve};

/// The files of a connection. Dropping them removes them.
#[derive(Debug)]
pub(crate) struct Files {
    /// The directory that holds the connection's directory or the files.
    root: OwnedFd,
    /// Name and handle of the connection's own directory.
    directory: Option<(OsString, OwnedFd)>,
    names: Vec<OsString>,
    /// Socket files.
    sockets: Vec<PathBuf>,
    /// Open until the files are given to the client.
    open: Vec<File>,
    /// Dropped last, after the directory is removed.
    mark: Option<Mark>,
}

/// The server's ends of a connection's rings or datagram sockets.
pub(crate) struct Rings {
    pub(crate) request: Receiver,
    pub(crate) response: Sender,
    pub(crate) event: Sender,
    pub(crate) transport: TransportType,
    /// The names for the connection reply.
    pub(crate) names: [Bytes; 3],
    _files: Files,
}

/// Describes the rings to make.
pub(crate) struct Request<'a> {
    pub(crate) transport: Transport,
    pub(crate) generation: Generation,
    /// Where the service is, and so the sockets of its connections.
    pub(crate) address: &'a SocketAddress,
    pub(crate) root: &'a Path,
    /// The path of `root` in the mount namespace of the clients.
    pub(crate) client_root: &'a Path,
    pub(crate) marker: Option<&'a Arc<Marker>>,
    pub(crate) service: &'a str,
    pub(crate) client: Credentials,
    pub(crate) access: RingAccess,
    /// The number of the setup socket's descriptor, which is part of names.
    pub(crate) fd: i32,
    pub(crate) max_msg_size: u32,
}

impl Rings {
    /// Makes the rings or sockets. Their files are given to the client's user last, so that the
    /// client cannot interfere while they are made.
    pub(crate) fn create(request: &Request<'_>) -> io::Result<Self> {
        let root = file::open_directory(request.root, [])?;
        let server = process::id();
        let directory = match request.generation.directory(server, request.client, request.fd) {
            Some(prefix) => Some(serve::create_directory(&root, &prefix, 0o770)?),
            None => None,
        };
        let mut path = request.client_root.to_path_buf();
        path.extend(directory.as_ref().map(|(name, _)| name));
        let mut files = Files {
            root,
            directory,
            names: Vec::new(),
            sockets: Vec::new(),
            open: Vec::new(),
            mark: None,
        };
        if let (Some(marker), Some((name, directory))) = (request.marker, &files.directory) {
            files.mark = Some(marker.mark(name, directory)?);
        }
        match request.transport {
            Transport::Shm => Self::create_rings(request, &path, files),
            Transport::Socket => Self::create_sockets(request, &path, files),
        }
    }

    fn create_rings(request: &Request<'_>, path: &Path, mut files: Files) -> io::Result<Self> {
        let server = process::id();
        let mut names = [const { Bytes::new() }; 3];
        let mut rings = Vec::with_capacity(RING_NAMES.len());
        for (ring, name_in_reply) in RING_NAMES.into_iter().zip(&mut names) {
            let name = request.generation.ring_name(
                ring,
                request.service,
                server,
                request.client,
                request.fd,
            );
            let told = request.generation.name_in_reply(path, &name);
            *name_in_reply = Bytes::copy_from_slice(told.as_bytes());
            rings.push(files.create_ring(request, ring, path, &name)?);
        }
        let mut rings = rings.into_iter();
        let (Some(requests), Some(response), Some(event)) =
            (rings.next(), rings.next(), rings.next())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let requests = requests.consumer().map_err(io::Error::other)?;
        let response = response.producer().map_err(io::Error::other)?;
        let event = event.producer().map_err(io::Error::other)?;
        files.give_away(request.access)?;
        Ok(Self {
            request: Receiver::Ring(requests),
            response: Sender::Ring(response),
            event: Sender::Ring(event),
            transport: TransportType::SHM,
            names,
            _files: files,
        })
    }

    /// Makes the control file, and the two sockets of a server.
    fn create_sockets(request: &Request<'_>, path: &Path, mut files: Files) -> io::Result<Self> {
        let (control_name, base) = request.generation.datagram_names(
            request.service,
            process::id(),
            request.client,
            request.fd,
        );
        let control = files.create(&control_name, datagram::CONTROL_SIZE)?;
        let mapped = Arc::new(Control::new(&control)?);
        files.open.push(control);
        let base = match request.generation {
            Generation::Libqb104 => path.join(base).into_os_string(),
            _ => base,
        };
        let base = base.into_string().map_err(|_| io::Error::from_raw_os_error(libc::EILSEQ))?;
        let address = |suffix: &str| {
            let name = format!("{base}{suffix}");
            let address = Endpoint::connection_address(request.address, &name);
            resolve(&address).map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))
        };
        let mut bound = |suffix| -> io::Result<Arc<OwnedFd>> {
            let address = address(suffix)?;
            let path = address.path();
            // As qb_ipc_dgram_sock_setup. The name has this process's id, so nobody else uses it.
            path.into_iter().for_each(file::remove_socket);
            let socket = bind_datagram(&address)?;
            files.sockets.extend(path.map(Path::to_path_buf));
            path.map_or(Ok(()), |path| Self::give_socket(path, request.access.gid))?;
            Ok(Arc::new(socket))
        };
        let (requests, events) = (bound("-request")?, bound("-event-tx")?);
        let max_msg_size = request.max_msg_size as usize;
        let client = request.client.uid;
        // Root may send everywhere.
        let trust: Trust = Box::new(move |uid| uid == client || uid == 0);
        let receiver = datagram::Receiver::new(
            Arc::clone(&requests),
            Arc::clone(&mapped),
            Direction::Request,
            max_msg_size,
            max_msg_size,
            trust,
        )?;
        let mut sender = |socket, direction, client: &str| -> io::Result<_> {
            let address = address(client)?;
            // As qb_ipcs_us_disconnect: the client's files too.
            files.sockets.extend(address.path().map(Path::to_path_buf));
            let control = Arc::clone(&mapped);
            datagram::Sender::new(socket, control, direction, max_msg_size, Some(address))
        };
        let response = sender(requests, Direction::Response, "-response")?;
        let event = sender(events, Direction::Event, "-event")?;
        files.give_away(request.access)?;
        let names =
            [path.join(control_name).into_os_string().into_vec(), base.into_bytes(), Vec::new()];
        Ok(Self {
            request: Receiver::Datagram(receiver),
            response: Sender::Datagram(response),
            event: Sender::Datagram(event),
            transport: TransportType::SOCKET,
            names: names.map(Bytes::from),
            _files: files,
        })
    }

    /// Lets the client's group send to a socket file. Whatever others send is not taken.
    fn give_socket(path: &Path, gid: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(0o660))?;
        // An error is handled as for the files.
        let _ = chown(path, None, Some(gid));
        Ok(())
    }

    /// Whether a file of one of them was truncated.
    pub(crate) fn are_lost(&self) -> bool {
        self.request.is_lost() || self.response.is_lost() || self.event.is_lost()
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        // C clients see by this that the server is gone.
        self.request.detach();
        self.response.detach();
        self.event.detach();
    }
}

impl Files {
    fn create_ring(
        &mut self,
        request: &Request<'_>,
        ring: &'static str,
        directory: &Path,
        name: &str,
    ) -> io::Result<Ring<Mapping>> {
        let sizes = [
            request.generation.header_size(ring),
            request.generation.data_size(request.max_msg_size),
        ];
        let mut parts = Vec::with_capacity(sizes.len());
        for (suffix, size) in [HEADER_SUFFIX, DATA_SUFFIX].into_iter().zip(sizes) {
            let name = OsString::from(format!("{name}{suffix}"));
            let path: PathBuf = directory.join(&name);
            let file = self.create(&name, size)?;
            parts.push((Mapping::new(&file, size)?, path));
            self.open.push(file);
        }
        let mut parts = parts.into_iter();
        let (Some((header, header_path)), Some((data, data_path))) = (parts.next(), parts.next())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let paths = [header_path.as_os_str().as_bytes(), data_path.as_os_str().as_bytes()];
        Ring::create(ring, request.generation.format(), header, data, paths)
            .map_err(io::Error::other)
    }

    /// Makes a file, which is removed with the others.
    fn create(&mut self, name: &OsStr, size: usize) -> io::Result<File> {
        let directory = self.directory.as_ref().map_or(&self.root, |(_, directory)| directory);
        let file = serve::create_file(directory, name, size);
        // A file that was made but could not be filled must be removed. One that existed before is
        // not ours.
        let ours = !matches!(&file, Err(error) if error.kind() == io::ErrorKind::AlreadyExists);
        if ours {
            self.names.push(name.to_owned());
        }
        file
    }

    /// Gives the files and the directory to the client's user.
    fn give_away(&mut self, to: RingAccess) -> io::Result<()> {
        for file in self.open.drain(..) {
            file.set_permissions(Permissions::from_mode(to.mode & 0o777))?;
            match fchown(file, Some(to.uid), Some(to.gid)) {
                // As in C, a server that is not root keeps the files. A client of root can use them
                // all the same. A client of the same user owns them already, whatever their
                // group.
                Err(error)
                    if to.uid == geteuid().as_raw()
                        || error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result?,
            }
        }
        if let Some((_, directory)) = &self.directory {
            // An error is handled as for the files.
            let _ = fchown(directory, Some(to.uid), Some(to.gid));
        }
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.sockets.iter().for_each(|socket| file::remove_socket(socket));
        let directory = self.directory.as_ref().map_or(&self.root, |(_, directory)| directory);
        for name in &self.names {
            file::remove_file(directory, name);
        }
        if let Some((name, directory)) = &self.directory {
            if !file::remove_directory(&self.root, name) {
                serve::empty_directory(directory);
                file::remove_directory(&self.root, name);
            }
        }
    }
}
