//! The client's half: a connection to a service.

mod call;
mod connect;
mod connection;
mod events;
mod link;
#[cfg(all(test, loom))]
mod model;
mod notes;
mod orphans;
mod requests;
mod ring_files;
mod turnstile;
mod waker;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

pub use call::within;
pub(crate) use call::{Call, Limit};
pub(crate) use connection::{Connection, Target};
pub(crate) use events::Look;
pub use waker::Waker;

use crate::endpoint::{Deadline, Endpoint};
use crate::error::Result;
use crate::sys::socket::Credentials;

/// A connection to any libqb service, such as one of Pacemaker's daemons or one's own
/// [`Listener`](super::server::Listener).
///
/// Messages are bytes, with their headers: [`Header`](crate::codec::Header) makes and reads those.
/// corosync's own services have clients that know their messages, such as
/// [`cpg::Client`](crate::cpg::Client).
///
/// A client can be shared between threads. Requests are sent one at a time, in the order they came;
/// one thread can wait for events meanwhile.
///
/// Matches `qb_ipcc_connection_t`. Unlike there, every call has a deadline.
///
/// ```no_run
/// use corosync_ipc::Endpoint;
/// use corosync_ipc::codec::{Header, Kind};
/// use corosync_ipc::libqb::Client;
///
/// // Pacemaker's daemons run as hacluster: `id -u hacluster` prints the number.
/// let endpoint = Endpoint::from_env()?.server_uids([189]);
/// let client = Client::connect_to(&endpoint, "counter", 8192)?;
/// let raise = Header { id: 0, size: 0, error: 0 }.encode(Kind::Request, &[])?;
/// let answer = client.request(&raise)?;
/// let (header, body) = Header::split(&answer, Kind::Response)?;
/// println!("{} answers {body:?}", header.id);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the service of this name, where the environment says: see
    /// [`Endpoint::from_env`].
    ///
    /// # Errors
    /// As [`Client::connect_to`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a
    /// variable that makes no sense.
    pub fn connect(service: &str, max_message_size: u32) -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?, service, max_message_size)
    }

    /// Connects to the service of this name, with room for messages of this many bytes, headers
    /// included, in each direction. [`Endpoint::ring_size`] and [`Endpoint::service_name`] take
    /// precedence. The service may raise the size, never lower it.
    ///
    /// Only root and one's own user may serve unless [`Endpoint::server_uids`] names others.
    ///
    /// Matches `qb_ipcc_connect`.
    ///
    /// # Errors
    /// [`Error::NoSocket`](crate::Error::NoSocket) when nobody listens;
    /// [`Error::UntrustedServer`](crate::Error::UntrustedServer); the service's refusal;
    /// [`Error::Protocol`](crate::Error::Protocol) when the peer is no libqb service; others that
    /// name what stands in the way.
    pub fn connect_to(endpoint: &Endpoint, service: &str, max_message_size: u32) -> Result<Self> {
        let ring_size = max_message_size.max(crate::endpoint::MIN_RING_SIZE);
        let endpoint = endpoint.clone().ring_size(endpoint.ring_size_or(ring_size)?);
        let target = Target { name: service, ring_size, may_raise_size: true, nudge: None };
        let connection = Connection::open(target, &endpoint, Call::connecting(&endpoint))?;
        Ok(Self { connection })
    }

    /// Sends a request and waits for its answer. After a call that timed out, the late answer is
    /// thrown away before the next request is sent.
    ///
    /// Matches `qb_ipcc_sendv_recv`. Use it only for requests that are answered, each once.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) after [`Client::request_timeout`], whether the
    /// request was sent or not; [`Error::Disconnected`](crate::Error::Disconnected);
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for more than
    /// [`Client::max_message_size`] bytes.
    pub fn request(&self, request: &[u8]) -> Result<Bytes> {
        // The status is the service's own affair.
        self.connection.request(self.connection.call("request").busy_when(&[]), request)
    }

    /// Sends a message that the service does not answer. Waits for room in the ring, and while the
    /// service takes no requests.
    ///
    /// Matches `qb_ipcc_send`.
    ///
    /// # Errors
    /// As [`Client::request`]; when the time is over nothing was sent.
    pub fn send(&self, message: &[u8]) -> Result<()> {
        self.connection.send(self.connection.call("send"), message)
    }

    /// Takes the next event, if one waits. Never blocks. See
    /// [`event_loops`](crate::event_loops) for the descriptor.
    ///
    /// # Errors
    /// [`Error::Disconnected`](crate::Error::Disconnected) once the service is gone and every event
    /// it left was taken; [`Error::Finalized`](crate::Error::Finalized).
    pub fn poll_event(&self) -> Result<Option<Bytes>> {
        self.connection.poll_event(Look::Thorough, None, |message| Ok(Some(message)))
    }

    /// Waits for the next event until the deadline. `None` when it passed, or when the [`Waker`]
    /// was used.
    ///
    /// Matches `qb_ipcc_event_recv`.
    ///
    /// # Errors
    /// As [`Client::poll_event`].
    pub fn next_event(&self, deadline: impl Into<Deadline>) -> Result<Option<Bytes>> {
        self.connection.next_event(deadline.into().instant(), |message| Ok(Some(message)))
    }

    /// Ends the connection for every thread that uses this client. Dropping the client ends it too.
    ///
    /// Matches `qb_ipcc_disconnect`.
    pub fn finalize(&self) {
        self.connection.finalize();
    }

    /// Ends a wait for events from another thread.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) when there are no file descriptors left.
    pub fn waker(&self) -> Result<Waker> {
        self.connection.waker().cloned()
    }

    /// The process that serves this connection, as the kernel says.
    pub fn peer_credentials(&self) -> Credentials {
        self.connection.peer()
    }

    /// The longest message that can be sent, in bytes. Matches `qb_ipcc_get_buffer_size`.
    pub fn max_message_size(&self) -> usize {
        self.connection.max_request()
    }

    /// How long each call may take, waiting for other threads' requests included. See
    /// [`Endpoint::request_timeout`].
    pub fn request_timeout(&self) -> Duration {
        self.connection.timeout()
    }

    /// Changes [`Client::request_timeout`] for the calls to come.
    pub fn set_request_timeout(&self, timeout: Duration) {
        self.connection.set_timeout(timeout);
    }
}

impl AsFd for Client {
    /// The descriptor to poll for reading. Matches `qb_ipcc_fd_get`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("peer", &self.connection.peer()).finish_non_exhaustive()
    }
}

/// Locks; a panic of another thread inside the lock would be a bug here, and leaves nothing half
/// done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
