//! The listener: its configuration, its handler and its thread.

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
use super::{Generation, Overflow, Transport};
use crate::address::SocketAddress;
use crate::endpoint::{Endpoint, MAX_RING_SIZE, resolve};
use crate::error::{Error, Result};
use crate::sys::event::Wakeup;
use crate::sys::file;
use crate::sys::serve;
use crate::sys::socket::Credentials;

/// Serves the clients of a [`Listener`]. One handler serves all of them on one thread, so it needs
/// no locks.
///
/// While a method runs, the other clients wait.
pub trait Handler: Send + 'static {
    /// The state that the handler keeps for each client.
    type Session: Send + 'static;

    /// Decides whether a client gets a connection. Returns the client's session.
    ///
    /// Matches `connection_accept` of `qb_ipcs_service_handlers`.
    ///
    /// # Errors
    /// The refusal that is sent to the client.
    fn authorize(&mut self, peer: &Peer<'_>) -> std::result::Result<Self::Session, Refusal>;

    /// Returns who may use the files of a client's rings. By default only the client's user may.
    ///
    /// Matches `qb_ipcs_connection_auth_set` called in `connection_accept`.
    fn ring_access(&mut self, peer: &Peer<'_>, session: &Self::Session) -> RingAccess {
        let _ = session;
        RingAccess { uid: peer.credentials.uid, gid: peer.credentials.gid, mode: 0o600 }
    }

    /// Called when a client is connected. Matches `connection_created`.
    fn on_connect(&mut self, conn: &mut Conn<'_, Self::Session>) {
        let _ = conn;
    }

    /// Called for each request of a client. `request` is the whole message; its header is not
    /// checked. Matches `msg_process`.
    fn on_request(&mut self, conn: &mut Conn<'_, Self::Session>, request: Bytes);

    /// Called after a client is gone or was disconnected. It is no longer among the connections.
    /// Matches `connection_closed`.
    fn on_disconnect(
        &mut self,
        connections: &mut Connections<Self::Session>,
        gone: Gone<Self::Session>,
    ) {
        let _ = (connections, gone);
    }

    /// Called at the time set by [`Connections::set_timer`].
    fn on_timer(&mut self, connections: &mut Connections<Self::Session>) {
        let _ = connections;
    }
}

/// A client that asks for a connection.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Peer<'a> {
    /// The service that it connects to.
    pub service: &'a str,
    /// The service's index, in the order in which they were given to the [`Builder`].
    pub service_index: usize,
    /// The credentials of the process, as the kernel recorded them.
    pub credentials: Credentials,
    /// The size of the largest message that it will get, in bytes.
    pub max_message_size: u32,
}

/// The owner and the mode of the files of a connection's rings. Their directory has the same owner
/// and mode 0770.
///
/// A process that can open the files can send requests as this client and can read all messages. A
/// server that may not change the owner of files keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAccess {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The files' permissions, such as 0660. Other bits are ignored.
    pub mode: u32,
}

/// A client that is gone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Gone<S> {
    /// Its id, which is never used again.
    pub id: ConnectionId,
    /// The index of its service.
    pub service_index: usize,
    /// The credentials of its process.
    pub credentials: Credentials,
    /// Its session.
    pub session: S,
}

/// The reason why a client gets no connection: an errno. C clients get it as such; corosync's
/// libraries turn it into a `cs_error_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    errno: i32,
}

impl Refusal {
    /// `EACCES`: the client's user is not allowed to connect.
    pub const NOT_ALLOWED: Self = Self { errno: libc::EACCES };
    /// `EAGAIN`: the service is not ready yet.
    pub const NOT_READY: Self = Self { errno: libc::EAGAIN };
    /// `EMFILE`: there are too many connections.
    pub const TOO_MANY: Self = Self { errno: libc::EMFILE };
    /// `ENOSYS`: there is no such service.
    pub const NO_SERVICE: Self = Self { errno: libc::ENOSYS };

    /// Makes a refusal of any errno above 0. Others become `EINVAL`.
    pub const fn from_errno(errno: i32) -> Self {
        Self { errno: if errno > 0 { errno } else { libc::EINVAL } }
    }

    /// Returns the errno.
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
    /// Starts the configuration of a server. By default it is at libqb's usual addresses and speaks
    /// the protocol of libqb 2.x.
    pub fn builder() -> Builder {
        Builder {
            endpoint: Endpoint::new(),
            marking: None,
            services: Vec::new(),
            settings: Settings {
                generation: Generation::default(),
                transport: Transport::default(),
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

    /// Runs a closure on the server's thread and returns its result. Use it to send events when
    /// something happens on another thread.
    ///
    /// # Errors
    /// [`Error::Finalized`] when the thread has ended because the handler panicked.
    pub fn with<T: Send + 'static>(
        &self,
        body: impl FnOnce(&mut H, &mut Connections<H::Session>) -> T + Send + 'static,
    ) -> Result<T> {
        let (sender, result) = mpsc::sync_channel(1);
        self.post(move |handler, connections| {
            // An error: the waiting thread panicked meanwhile.
            let _ = sender.send(body(handler, connections));
        });
        result.recv().map_err(|_| Error::Finalized)
    }

    /// As [`Listener::with`], but the closure runs after all requests that clients have sent
    /// before. Returns when the consequences are handled: clients that it disconnected find that.
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
        // Nothing is sent. The other end is dropped when the job is done or the thread has ended.
        let _ = is_done.recv();
        result.try_recv().map_err(|_| Error::Finalized)
    }

    /// Runs a closure on the server's thread soon, without waiting for it. Closures run in the
    /// order in which they were posted.
    pub fn post(&self, body: impl FnOnce(&mut H, &mut Connections<H::Session>) + Send + 'static) {
        // A thread that has ended runs nothing; that is no error here.
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

/// The name of a service and the endpoint that it listens at.
#[derive(Clone, Debug)]
pub(super) struct ServiceAddress {
    pub(super) endpoint: Endpoint,
    marking: Option<Arc<Marking>>,
    pub(super) name: String,
}

/// The settings of the event loop.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) generation: Generation,
    pub(super) transport: Transport,
    pub(super) max_msg_size: u32,
    pub(super) max_connections: usize,
    pub(super) shared_memory: u64,
    pub(super) event_queue: usize,
    pub(super) event_memory: usize,
    pub(super) overflow: Overflow,
    pub(super) seed: u64,
    /// The services whose clients cause each other's events, and must not send faster than the
    /// slowest takes them.
    pub(super) paced: BTreeSet<usize>,
}

impl Builder {
    /// Sets the endpoint of the services that are added after this: the kind of socket, and the
    /// directory in which rings are made. The directory must be absolute.
    /// [`Endpoint::client_shm_root`] sets the path that is sent to clients. Timeouts and ring sizes
    /// of the endpoint are not used.
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = endpoint.clone();
        self
    }

    /// Adds a service. The handler distinguishes services by their index, which begins at 0.
    pub fn service(mut self, name: impl Into<String>) -> Self {
        let (endpoint, marking) = (self.endpoint.clone(), self.marking.clone());
        self.services.push(ServiceAddress { endpoint, marking, name: name.into() });
        self
    }

    /// Sets the libqb version whose protocol the server speaks.
    pub fn generation(mut self, generation: Generation) -> Self {
        self.settings.generation = generation;
        self
    }

    /// Sets how messages travel. Clients follow. The default is shared memory.
    ///
    /// With [`Transport::Socket`] the names of abstract sockets begin with the shared memory
    /// directory as clients see it. Connecting fails when such a name is too long for a socket's
    /// address.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.settings.transport = transport;
        self
    }

    /// Sets the size of the largest message that a client may ask for, in bytes. A client that asks
    /// for more gets this. The default is [`MAX_RING_SIZE`]. A connection takes three times as much
    /// shared memory as its client asked for.
    pub fn max_message_size(mut self, bytes: u32) -> Self {
        self.settings.max_msg_size = bytes;
        self
    }

    /// Sets how many bytes of events are queued for a client whose ring is full, and what happens
    /// to events that find no room. Each event counts as 64 bytes more than it has. By default 16
    /// MiB are queued, and then the client is disconnected.
    pub fn event_queue(mut self, bytes: usize, overflow: Overflow) -> Self {
        self.settings.event_queue = bytes;
        self.settings.overflow = overflow;
        self
    }

    /// Sets the marking for the directories of connections to the services that are added after
    /// this.
    pub(crate) fn marking(mut self, marking: Option<Arc<Marking>>) -> Self {
        self.marking = marking;
        self
    }

    /// Makes the clients of these services wait, as by
    /// [`FlowControl::Sync`](super::FlowControl::Sync), while one of them is behind with its events
    /// and takes them. The daemon's totem queue has that effect: a client that floods its group
    /// must try again.
    pub(crate) fn paced(mut self, services: impl IntoIterator<Item = usize>) -> Self {
        self.settings.paced = services.into_iter().collect();
        self
    }

    /// Sets how many clients may be connected. One more is refused with `EMFILE`. The default is
    /// 4096. The process's own limit of descriptors counts too: a client takes three, and eight
    /// more while it connects.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.settings.max_connections = count;
        self
    }

    /// Sets how many bytes of shared memory the rings of all clients may take. A client whose rings
    /// do not fit is refused with `ENOSPC` (`CS_ERR_NO_SPACE` in corosync's libraries). The default
    /// is 4 GiB, enough for about 1300 clients of corosync's libraries.
    pub fn shared_memory(mut self, bytes: u64) -> Self {
        self.settings.shared_memory = bytes;
        self
    }

    /// Sets how many bytes of events are queued for all clients together. When that is reached,
    /// [`Overflow::Disconnect`] disconnects the client with the longest queue; otherwise the event
    /// finds no room. The default is 1 GiB.
    pub fn event_memory(mut self, bytes: usize) -> Self {
        self.settings.event_memory = bytes;
        self
    }

    /// Sets the seed that decides the order in which [`Listener::drive`] serves clients.
    pub(crate) fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Listens, and serves clients on a new thread.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] without a service, or for a name or directory that does not fit
    /// in a socket's address or a ring's name; [`Error::System`] when a socket cannot be made,
    /// because another process listens there or a directory is missing.
    pub fn start<H: Handler>(self, handler: H) -> Result<Listener<H>> {
        if self.services.is_empty() {
            return Err(Error::invalid("services", "a server needs at least one"));
        }
        if self.settings.transport == Transport::Socket && !self.settings.generation.has_datagrams()
        {
            return Err(Error::invalid("generation", "libqb has datagrams since 0.15"));
        }
        let name = self
            .services
            .first()
            .map_or_else(String::new, |service| format!("libqb-{}", service.name));
        let services =
            self.services.into_iter().map(|service| service.bind().map(|bound| (service, bound)));
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

/// The listening socket of a service. Dropping it removes the socket's file.
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) shm_root: PathBuf,
    pub(super) client_root: PathBuf,
    pub(super) marker: Option<Arc<Marker>>,
    pub(super) socket: UnixListener,
    pub(super) address: SocketAddress,
}

/// The longest name of a service. With a longer one, the name of a ring's file would be too long
/// for file systems.
const MAX_SERVICE_NAME: usize = 200;

impl ServiceAddress {
    pub(super) fn bind(&self) -> Result<Bound> {
        let Self { endpoint, marking, name } = self;
        if name.is_empty() || name.len() > MAX_SERVICE_NAME || name.contains(['/', '\0']) {
            let reason = format!("a name has 1 to {MAX_SERVICE_NAME} bytes and no slash or NUL");
            return Err(Error::invalid("service", reason));
        }
        let shm_root = endpoint.shm_root_path();
        let client_root = endpoint.client_shm_root_path();
        if !shm_root.is_absolute() || !client_root.is_absolute() {
            return Err(Error::invalid(
                "endpoint",
                "the shared memory root of a server must be an absolute path",
            ));
        }
        file::open_directory(shm_root, [])
            .map_err(|source| Error::system(format!("opening {}", shm_root.display()), source))?;
        let marker = marking.as_ref().map(|marking| marking.get()).transpose()?;
        let address = endpoint.socket_address(name);
        let resolved = resolve(&address)?;
        let socket = serve::listen_stream(&resolved)
            .map_err(|source| Error::system(format!("listening at {address}"), source))?;
        let (shm_root, client_root) = (shm_root.to_path_buf(), client_root.to_path_buf());
        Ok(Bound { name: name.clone(), shm_root, client_root, marker, socket, address })
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(path) = self.address.path() {
            let _ = std::fs::remove_file(path);
        }
    }
}
