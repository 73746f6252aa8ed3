//! The client side: a connection to a service.

mod answers;
mod call;
mod connect;
mod connection;
mod counters;
mod datagrams;
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
mod wanted;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

pub use call::within;
pub(crate) use call::{Call, Limit};
pub(crate) use connection::{Connection, Target};
pub use counters::{ClientStats, RingFill};
pub(crate) use events::Look;
pub(crate) use requests::Turn;
pub use waker::Waker;

use crate::endpoint::{Deadline, Endpoint};
use crate::error::Result;
use crate::libqb::Transport;
use crate::sys::socket::Credentials;

/// A connection to any libqb service, such as one of Pacemaker's daemons or one's own
/// [`Listener`](super::server::Listener).
///
/// A message is bytes that begin with a header: [`Header`](crate::codec::Header) makes and reads
/// it. For corosync's own services there are clients that know their messages, such as
/// [`cpg::Client`](crate::cpg::Client).
///
/// A client can be shared between threads. Requests are sent one at a time, in the order of the
/// calls. One thread can wait for events meanwhile. After `fork` it works on in one of the
/// processes: see [`Endpoint::refuse_forks`].
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
    /// Connects to the service of this name at the endpoint of the environment: see
    /// [`Endpoint::from_env`].
    ///
    /// # Errors
    /// As [`Client::connect_to`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a
    /// variable with an invalid value.
    pub fn connect(service: &str, max_message_size: u32) -> Result<Self> {
        Self::connect_to(&Endpoint::from_env()?, service, max_message_size)
    }

    /// Connects to the service of this name. Messages of up to `max_message_size` bytes, header
    /// included, fit in each direction. [`Endpoint::ring_size`] and [`Endpoint::service_name`] take
    /// precedence. The service may raise the size, never lower it.
    ///
    /// The server must run as root or as this process's user unless [`Endpoint::server_uids`] names
    /// others.
    ///
    /// Matches `qb_ipcc_connect`.
    ///
    /// # Errors
    /// [`Error::NoSocket`](crate::Error::NoSocket) when nobody listens;
    /// [`Error::UntrustedServer`](crate::Error::UntrustedServer); the service's refusal;
    /// [`Error::Protocol`](crate::Error::Protocol) when the peer is no libqb service;
    /// [`Error::RingsNotVisible`](crate::Error::RingsNotVisible) and
    /// [`Error::RingFile`](crate::Error::RingFile) when its rings cannot be used.
    pub fn connect_to(endpoint: &Endpoint, service: &str, max_message_size: u32) -> Result<Self> {
        let ring_size = max_message_size.max(crate::endpoint::MIN_RING_SIZE);
        let endpoint = endpoint.clone().ring_size(endpoint.ring_size_or(ring_size)?);
        let target = Target { name: service, ring_size, may_raise_size: true, nudge: None };
        let connection = Connection::open(target, &endpoint, Call::connecting(&endpoint))?;
        Ok(Self { connection })
    }

    /// Sends a request and waits for its answer. When a call times out, its late answer is
    /// discarded before the next request is sent.
    ///
    /// Matches `qb_ipcc_sendv_recv`. Use it only for requests that are answered, each once.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut) after [`Client::request_timeout`], whether the
    /// request was sent or not; [`Error::Disconnected`](crate::Error::Disconnected);
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for more than
    /// [`Client::max_message_size`] bytes.
    pub fn request(&self, request: &[u8]) -> Result<Bytes> {
        // Only the caller knows what the status means.
        let call = self.connection.call("request").busy_when(&[]);
        crate::log::in_span!("request", self.connection.service(), call.name, || {
            let mut reply = Vec::new();
            self.connection.request(call, None, request, &mut reply)?;
            Ok(reply.into())
        })
    }

    /// Sends a message that the service does not answer. Waits for ring space, and while flow
    /// control is on.
    ///
    /// Matches `qb_ipcc_send`.
    ///
    /// # Errors
    /// As [`Client::request`]; after [`Error::TimedOut`](crate::Error::TimedOut) nothing was sent.
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
        self.connection.poll_event(Look::RingAndSocket, None, |message| Ok(Some(message.take())))
    }

    /// Waits for the next event until the deadline. Returns `None` when it passes or the [`Waker`]
    /// is used.
    ///
    /// Matches `qb_ipcc_event_recv`.
    ///
    /// # Errors
    /// As [`Client::poll_event`].
    pub fn next_event(&self, deadline: impl Into<Deadline>) -> Result<Option<Bytes>> {
        self.connection.next_event(deadline.into().instant(), |message| Ok(Some(message.take())))
    }

    /// Returns what this client did so far and how full its rings are. Never blocks.
    pub fn stats(&self) -> ClientStats {
        self.connection.stats()
    }

    /// Ends the connection for every thread that uses this client. Dropping the client ends it too.
    ///
    /// Matches `qb_ipcc_disconnect`.
    pub fn finalize(&self) {
        self.connection.finalize();
    }

    /// Returns the waker, which ends a wait for events from another thread.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) when there are no file descriptors left.
    pub fn waker(&self) -> Result<Waker> {
        self.connection.waker().cloned()
    }

    /// Returns the credentials of the server's process, as the kernel recorded them.
    pub fn peer_credentials(&self) -> Credentials {
        self.connection.peer()
    }

    /// Returns how messages travel, which the server chose.
    pub fn transport(&self) -> Transport {
        self.connection.transport()
    }

    /// Returns the size of the longest message that can be sent, in bytes. Matches
    /// `qb_ipcc_get_buffer_size`.
    pub fn max_message_size(&self) -> usize {
        self.connection.max_request()
    }

    /// Returns how long each call may take, including the wait for other threads' requests. See
    /// [`Endpoint::request_timeout`].
    pub fn request_timeout(&self) -> Duration {
        self.connection.timeout()
    }

    /// Changes [`Client::request_timeout`] for later calls.
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

/// Locks. A panic while a lock is held would leave nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
