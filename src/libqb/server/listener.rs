//! The listener: what it listens at, what a user makes of it, and its thread.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use nix::libc;

use super::connections::{Conn, ConnectionId, Connections};
use super::event_loop::{EventLoop, Job};
use super::marker::{Marker, Marking};
use super::{Generation, Overflow};
use crate::address::SocketAddress;
use crate::endpoint::{Endpoint, MAX_RING_SIZE};
use crate::error::{Error, Result};
use crate::sys::event::Wakeup;
use crate::sys::file;
use crate::sys::serve;
use crate::sys::socket;
use crate::sys::socket::Credentials;

/// What a server does with its clients. One handler serves all of them, on one thread, so it needs
/// no locks.
///
/// Everything a method does keeps the other clients waiting.
pub trait Handler: Send + 'static {
    /// What the handler keeps of each client.
    type Session: Send + 'static;

    /// A client asks for a connection: what to keep of it, or why not.
    ///
    /// Matches `connection_accept` of `qb_ipcs_service_handlers`.
    ///
    /// # Errors
    /// What the client is told.
    fn authorize(&mut self, peer: &Peer<'_>) -> std::result::Result<Self::Session, Refusal>;

    /// Who may use the files of a client's rings. Without it, the client's user, and nobody else.
    ///
    /// Matches what `qb_ipcs_connection_auth_set` is told in `connection_accept`.
    fn ring_access(&mut self, peer: &Peer<'_>, session: &Self::Session) -> RingAccess {
        let _ = session;
        RingAccess { uid: peer.credentials.uid, gid: peer.credentials.gid, mode: 0o600 }
    }

    /// A client is connected. Matches `connection_created`.
    fn on_connect(&mut self, conn: &mut Conn<'_, Self::Session>) {
        let _ = conn;
    }

    /// A client sent a request: the whole message, whose header nobody has looked at. Matches
    /// `msg_process`.
    fn on_request(&mut self, conn: &mut Conn<'_, Self::Session>, request: Bytes);

    /// A client is gone, or was disconnected; it is no longer among the connections. Matches
    /// `connection_closed`.
    fn on_disconnect(
        &mut self,
        connections: &mut Connections<Self::Session>,
        gone: Gone<Self::Session>,
    ) {
        let _ = (connections, gone);
    }

    /// The time set by [`Connections::set_timer`] has come.
    fn on_timer(&mut self, connections: &mut Connections<Self::Session>) {
        let _ = connections;
    }
}

/// Who asks for a connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Peer<'a> {
    /// The service it asks for.
    pub service: &'a str,
    /// The service's number, in the order in which they were given to the [`Builder`].
    pub service_index: usize,
    /// The process that connected, as the kernel says.
    pub credentials: Credentials,
    /// The largest message it will get, in bytes.
    pub max_message_size: u32,
}

/// To whom the files of a connection's rings are given, and their directory, whose mode is 0770.
///
/// Whoever may write to them is whom the server hears, and can read all that it says. A server that
/// may not give files away keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAccess {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The files' permissions, such as 0660; other bits are ignored.
    pub mode: u32,
}

/// What is left of a client.
#[derive(Debug)]
#[non_exhaustive]
pub struct Gone<S> {
    /// Its id, which no other client gets.
    pub id: ConnectionId,
    /// The number of its service.
    pub service_index: usize,
    /// Its process.
    pub credentials: Credentials,
    /// What the handler kept of it.
    pub session: S,
}

/// Why a client gets no connection: an errno, which C clients see as such, and which corosync's
/// libraries turn into a `cs_error_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    errno: i32,
}

impl Refusal {
    /// `EACCES`: this user may not.
    pub const NOT_ALLOWED: Self = Self { errno: libc::EACCES };
    /// `EAGAIN`: not yet.
    pub const NOT_READY: Self = Self { errno: libc::EAGAIN };
    /// `EMFILE`: too many connections.
    pub const TOO_MANY: Self = Self { errno: libc::EMFILE };
    /// `ENOSYS`: there is no such service.
    pub const NO_SERVICE: Self = Self { errno: libc::ENOSYS };

    /// Any errno above 0; others become `EINVAL`.
    pub const fn from_errno(errno: i32) -> Self {
        Self { errno: if errno > 0 { errno } else { libc::EINVAL } }
    }

    /// The errno.
    pub const fn errno(self) -> i32 {
        self.errno
    }
}

/// A running server. Dropping it ends its thread, disconnects its clients and removes its files.
pub struct Listener<H: Handler> {
    jobs: Sender<Job<H>>,
    wakeup: Arc<Wakeup>,
    thread: Option<JoinHandle<H>>,
}

impl<H: Handler> Listener<H> {
    /// Describes a server: libqb 2.x at its usual place.
    pub fn builder() -> Builder {
        Builder {
            endpoint: Endpoint::new(),
            marking: None,
            services: Vec::new(),
            settings: Settings {
                generation: Generation::default(),
                max_msg_size: MAX_RING_SIZE,
                max_connections: 4096,
                shared_memory: 4 << 30,
                event_queue: 16 << 20,
                event_memory: 1 << 30,
                overflow: Overflow::Disconnect,
                seed: 0,
                paced: BTreeSet::new(),
            },
        }
    }

    /// Runs a closure on the server's thread and returns what it returns: the way to send events
    /// when something happens elsewhere.
    ///
    /// # Errors
    /// [`Error::Finalized`] when the thread has ended, by a panic of the handler.
    pub fn with<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut H, &mut Connections<H::Session>) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = mpsc::sync_channel(1);
        self.post(move |handler, connections| {
            // Nobody waits any more: this thread panicked meanwhile.
            let _ = sender.send(body(handler, connections));
        });
        result.recv().map_err(|_| Error::Finalized)
    }

    /// As [`Listener::with`], but the closure runs after everything that clients have done before,
    /// and this returns when all is done that follows from it: clients that it disconnected
    /// find that.
    pub(crate) fn drive<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut H, &mut Connections<H::Session>) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = mpsc::sync_channel(1);
        let (done, is_done) = mpsc::sync_channel(1);
        let body = move |handler: &mut H, connections: &mut Connections<H::Session>| {
            let _ = sender.send(body(handler, connections));
        };
        let _ = self.jobs.send(Job::Drive(Box::new(body), done));
        self.wakeup.wake();
        // Nothing is sent; the other end goes when the job is done, or the thread has ended.
        let _ = is_done.recv();
        result.try_recv().map_err(|_| Error::Finalized)
    }

    /// Runs a closure on the server's thread some time soon. Closures run in the order in which
    /// they were posted.
    pub fn post(&self, body: impl FnOnce(&mut H, &mut Connections<H::Session>) + Send + 'static) {
        // A thread that has ended runs nothing.
        let _ = self.jobs.send(Job::Run(Box::new(body)));
        self.wakeup.wake();
    }

    /// Stops the server and returns its handler.
    ///
    /// # Errors
    /// The handler's panic.
    pub fn stop(mut self) -> thread::Result<H> {
        self.end();
        self.thread.take().map_or_else(|| Err(Box::new("stopped twice") as _), JoinHandle::join)
    }

    fn end(&self) {
        let _ = self.jobs.send(Job::Stop);
        self.wakeup.wake();
    }
}

impl<H: Handler> Drop for Listener<H> {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the handler was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl<H: Handler> fmt::Debug for Listener<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

/// Configures a [`Listener`].
#[must_use]
#[derive(Clone, Debug)]
pub struct Builder {
    endpoint: Endpoint,
    marking: Option<Arc<Marking>>,
    services: Vec<ServiceAddress>,
    settings: Settings,
}

/// Where a service is, and its name.
#[derive(Clone, Debug)]
pub(super) struct ServiceAddress {
    endpoint: Endpoint,
    marking: Option<Arc<Marking>>,
    pub(super) name: String,
}

/// What the event loop must know.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) generation: Generation,
    pub(super) max_msg_size: u32,
    pub(super) max_connections: usize,
    pub(super) shared_memory: u64,
    pub(super) event_queue: usize,
    pub(super) event_memory: usize,
    pub(super) overflow: Overflow,
    pub(super) seed: u64,
    /// Services whose clients cause each other's events, and are not to send faster than the
    /// slowest takes them in.
    pub(super) paced: BTreeSet<usize>,
}

impl Builder {
    /// Where the services given from now on are: the kind of socket, and the directory the rings
    /// are made in. The directory must be absolute; [`Endpoint::client_shm_root`] says what of it
    /// is told to the clients. Timeouts and ring sizes are the clients' affair.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = endpoint.clone();
        self
    }

    /// Adds a service. The handler tells services apart by their number, counted from 0.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        let (endpoint, marking) = (self.endpoint.clone(), self.marking.clone());
        self.services.push(ServiceAddress { endpoint, marking, name: name.into() });
        self
    }

    /// Which libqb the server speaks as.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.settings.generation = generation;
        self
    }

    /// The largest message a client may ask for, in bytes; one that asks for more gets this.
    /// Default: [`MAX_RING_SIZE`]. A connection takes three times as much in shared memory as
    /// its client asked for.
    pub fn max_message_size(mut self, bytes: u32) -> Self {
        self.settings.max_msg_size = bytes;
        self
    }

    /// How many bytes of events wait for a client whose ring is full, and what happens to those
    /// that find no room. Default: 16 MiB, then the client is disconnected.
    pub fn event_queue(mut self, bytes: usize, overflow: Overflow) -> Self {
        self.settings.event_queue = bytes;
        self.settings.overflow = overflow;
        self
    }

    /// With what the directories of the connections to the services given from now on are marked.
    pub(crate) fn marking(mut self, marking: Option<Arc<Marking>>) -> Self {
        self.marking = marking;
        self
    }

    /// Makes the clients of these services wait, as by
    /// [`FlowControl::Sync`](super::FlowControl::Sync), while one of them is behind with
    /// its events and takes them. What the daemon's totem queue does, by which a client that floods
    /// its group is told to try again.
    pub(crate) fn paced(mut self, services: impl IntoIterator<Item = usize>) -> Self {
        self.settings.paced = services.into_iter().collect();
        self
    }

    /// How many clients there may be. One more is refused with `EMFILE`. Default: 4096. The
    /// process's own limit of descriptors counts too: a client takes three, and eight more
    /// while it connects.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.settings.max_connections = count;
        self
    }

    /// How many bytes of shared memory the rings of all clients may take. A client whose rings do
    /// not fit is refused with `ENOSPC` (`CS_ERR_NO_SPACE` in corosync's libraries). Default: 4
    /// GiB, which is what some 1300 clients of corosync's libraries take.
    pub fn shared_memory(mut self, bytes: u64) -> Self {
        self.settings.shared_memory = bytes;
        self
    }

    /// How many bytes of events wait for all clients together. With [`Overflow::Disconnect`] the
    /// client for which the most wait is disconnected then, and otherwise the event is one that
    /// finds no room. Default: 1 GiB.
    pub fn event_memory(mut self, bytes: usize) -> Self {
        self.settings.event_memory = bytes;
        self
    }

    /// What decides on the order in which [`Listener::drive`] serves clients.
    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Listens, and serves on a thread of its own.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without a service, or for a name or directory that does not fit
    /// in a socket's address or a ring's name; [`Error::System`] when a socket cannot be made:
    /// somebody listens there already, or a directory is missing.
    pub fn start<H: Handler>(self, handler: H) -> Result<Listener<H>> {
        if self.services.is_empty() {
            return Err(Error::invalid("services", "a server needs one at least"));
        }
        let name =
            self.services.first().map_or_else(String::new, |place| format!("libqb-{}", place.name));
        let services =
            self.services.into_iter().map(|place| place.bind().map(|bound| (place, bound)));
        let services = services.collect::<Result<Vec<_>>>()?;
        let failed = |source: io::Error| Error::system("starting a server", source);
        let wakeup = Arc::new(Wakeup::new().map_err(failed)?);
        let (jobs, inbox) = mpsc::channel();
        let event_loop =
            EventLoop::new(handler, services, self.settings, Arc::clone(&wakeup), inbox);
        let thread =
            thread::Builder::new().name(name).spawn(move || event_loop.run()).map_err(failed)?;
        Ok(Listener { jobs, wakeup, thread: Some(thread) })
    }
}

/// A service that is listened at. Dropping it removes its socket's file.
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) shm_root: PathBuf,
    pub(super) told_root: PathBuf,
    pub(super) marker: Option<Arc<Marker>>,
    pub(super) socket: UnixListener,
    path: Option<PathBuf>,
}

/// Longest name of a service. With more, a ring's file would have a name that no file system takes.
const MAX_SERVICE_NAME: usize = 200;

impl ServiceAddress {
    pub(super) fn bind(&self) -> Result<Bound> {
        let Self { endpoint, marking, name } = self;
        if name.is_empty() || name.len() > MAX_SERVICE_NAME || name.contains(['/', '\0']) {
            let reason = format!("a name has 1 to {MAX_SERVICE_NAME} bytes, without slash and NUL");
            return Err(Error::invalid("service", reason));
        }
        let shm_root = endpoint.shm_root_path();
        let told_root = endpoint.client_shm_root_path();
        if !shm_root.is_absolute() || !told_root.is_absolute() {
            return Err(Error::invalid(
                "endpoint",
                "the shared memory root of a server is an absolute path",
            ));
        }
        file::open_directory(shm_root, [])
            .map_err(|source| Error::system(format!("opening {}", shm_root.display()), source))?;
        let marker = marking.as_ref().map(|marking| marking.get()).transpose()?;
        let address = endpoint.socket_address(name);
        let (resolved, path) = match &address {
            SocketAddress::Abstract(name) => (socket::abstract_address(name), None),
            SocketAddress::Path(path) => (socket::path_address(path), Some(path.clone())),
        };
        let resolved = resolved.map_err(|_| {
            Error::invalid("endpoint", format!("{address} is too long for a socket's address"))
        })?;
        let socket = serve::listen_stream(&resolved)
            .map_err(|source| Error::system(format!("listening at {address}"), source))?;
        let (shm_root, told_root) = (shm_root.to_path_buf(), told_root.to_path_buf());
        Ok(Bound { name: name.clone(), shm_root, told_root, marker, socket, path })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}
