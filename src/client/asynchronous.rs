//! Clients in tokio programs.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout_at;

use super::ServiceClient;
use crate::error::{Error, Result};
use crate::libqb::client::Limit;

/// The tokio client of any service: it runs requests as closures, and its events are a
/// [`Stream`](futures_core::Stream). Clones share the connection.
///
/// Each service has a type of its own on top of this, such as
/// [`cmap::AsyncClient`](crate::cmap::AsyncClient), which has a method for each request.
///
/// ```no_run
/// use corosync_ipc::{AsyncClient, cmap};
///
/// # async fn example() -> corosync_ipc::Result<()> {
/// let cmap = AsyncClient::connect(cmap::Client::connect).await?;
/// // Two requests in one go.
/// cmap.call(|cmap| {
///     cmap.set("example.key", 1_u32)?;
///     cmap.increment("example.key")
/// })
/// .await?;
/// # Ok(())
/// # }
/// ```
///
/// The daemon announces answers in shared memory only, which no event loop can wait for. So a
/// request runs on one of tokio's threads for blocking work. A client has one request under way at
/// a time and takes one thread from the pool at most, however many requests wait for a stopped
/// daemon. The runtime's own threads are never blocked.
pub struct AsyncClient<C: ServiceClient> {
    client: ClientHandle<C>,
    turn: Arc<Semaphore>,
}

impl<C: ServiceClient> AsyncClient<C> {
    /// Connects by the function given, such as `cmap::Client::connect`, on a thread for blocking
    /// work. Its time begins when a thread is free.
    ///
    /// # Errors
    /// The function's error.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn connect(connect: impl FnOnce() -> Result<C> + Send + 'static) -> Result<Self> {
        Blocking::start(connect).await.map(Self::new)
    }

    /// Wraps a client. Events that are taken elsewhere do not come here.
    pub fn new(client: impl Into<Arc<C>>) -> Self {
        Self { client: ClientHandle(Some(client.into())), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Runs one or more calls on a thread for blocking work: `client.call(|cmap|
    /// cmap.get("totem.token")).await`. The requests of clones of this one wait for each other
    /// in the order they came.
    ///
    /// All that the closure calls, the wait for other requests and the wait for a thread have one
    /// [`request_timeout`](ServiceClient::request_timeout) together, as set when this is awaited.
    /// Two calls may take longer: a cpg multicast in fragments while it makes
    /// progress, and a shutdown that others are asked about.
    ///
    /// It can be cancelled: when the future is dropped before it is this call's turn, nothing is
    /// sent. When it is dropped later, what the closure does is carried out, its answer is
    /// received and thrown away, and the next request gets its own answer.
    ///
    /// # Errors
    /// The closure's error; [`Error::TimedOut`] when the requests before this one took the
    /// whole time, or no thread was free in time: nothing was sent; [`Error::System`] when the
    /// runtime shuts down.
    ///
    /// # Panics
    /// As the closure; outside of a tokio runtime with a timer.
    pub async fn call<T: Send + 'static>(
        &self,
        request: impl FnOnce(&C) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let connection = &self.client().core().connection;
        let call = connection.call("waiting for other requests");
        let deadline = call.deadline.into();
        let turn = timeout_at(deadline, Arc::clone(&self.turn).acquire_owned()).await;
        let turn = turn.map_err(|_| connection.timed_out(call))?;
        let client = self.client.clone();
        let (begins, begun) = oneshot::channel::<()>();
        let request = Blocking::start(move || {
            // Until the answer is there, awaited or not.
            let _turn = turn;
            drop(begins);
            let _limit = Limit::set(call.deadline);
            request(client.get())
        });
        // It begins when a thread of the pool is free, or ends without when the runtime shuts down.
        if timeout_at(deadline, begun).await.is_err() {
            return Err(connection.timed_out(call));
        }
        request.await
    }

    /// The events, as a stream with a descriptor of its own. Several streams of one client share
    /// its events: each comes to one of them.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O.
    pub fn events(&self) -> Result<AsyncEvents<C>> {
        #[allow(
            deprecated,
            reason = "what replaces it is not in older releases of tokio, and an OwnedFd keeps its promise"
        )]
        let register = || {
            AsyncFd::with_interest(self.client().as_fd().try_clone_to_owned()?, Interest::READABLE)
        };
        let fd = register()
            .map_err(|source| Error::system("registering a client with tokio", source))?;
        Ok(AsyncEvents { fd, client: self.client.clone(), ended: false })
    }

    /// The client inside, for the methods that do not block, such as
    /// [`stats`](ServiceClient::stats) and [`finalize`](ServiceClient::finalize).
    pub fn client(&self) -> &Arc<C> {
        self.client.get()
    }
}

impl<C: ServiceClient> Clone for AsyncClient<C> {
    fn clone(&self) -> Self {
        Self { client: self.client.clone(), turn: Arc::clone(&self.turn) }
    }
}

impl<C: ServiceClient> fmt::Debug for AsyncClient<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncClient").field(self.client()).finish()
    }
}

/// A stream of a client's events; made by [`AsyncClient::events`]. Ends with the error that ended
/// the connection.
pub struct AsyncEvents<C: ServiceClient> {
    /// A descriptor of its own, since tokio knows each only once, and remembers one task that
    /// polls it.
    fd: AsyncFd<OwnedFd>,
    client: ClientHandle<C>,
    ended: bool,
}

impl<C: ServiceClient> AsyncEvents<C> {
    /// Waits for the next event. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// As [`poll_event`](ServiceClient::poll_event); [`Error::System`] when the runtime shuts down.
    pub async fn next_event(&mut self) -> Result<C::Event> {
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Takes the next event, or has the task woken when it is there.
    ///
    /// # Errors
    /// As [`AsyncEvents::next_event`].
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<C::Event>> {
        loop {
            // Also makes a task that always finds an event let others run now and then.
            let ready = ready!(self.fd.poll_read_ready(cx));
            let mut ready = ready.map_err(|source| Error::system("waiting for events", source))?;
            match self.client.get().poll_event()? {
                Some(event) => return Poll::Ready(Ok(event)),
                // It looked at the socket too, so the descriptor becomes readable anew.
                None => ready.clear_ready(),
            }
        }
    }

    /// The client.
    pub fn client(&self) -> &Arc<C> {
        self.client.get()
    }
}

/// Makes a client a stream of what a method polls, which ends with the first error. The client has
/// a field `ended` for that.
macro_rules! stream_until_error {
    ([$($generics:tt)*] $client:ty, $poll:ident: $item:ty) => {
        impl<$($generics)*> futures_core::Stream for $client {
            type Item = $crate::error::Result<$item>;

            fn poll_next(
                mut self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Self::Item>> {
                if self.ended {
                    return std::task::Poll::Ready(None);
                }
                let item = std::task::ready!(self.$poll(cx));
                self.ended = item.is_err();
                std::task::Poll::Ready(Some(item))
            }
        }

        impl<$($generics)*> futures_core::stream::FusedStream for $client {
            fn is_terminated(&self) -> bool {
                self.ended
            }
        }
    };
}
pub(crate) use stream_until_error;

stream_until_error!([C: ServiceClient] AsyncEvents<C>, poll_event: C::Event);

impl<C: ServiceClient> fmt::Debug for AsyncEvents<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncEvents").field(self.client()).finish()
    }
}

/// Keeps a client, and lets it go on a thread for blocking work: the end of a connection whose
/// daemon was killed takes a few dozen milliseconds.
struct ClientHandle<C: ServiceClient>(Option<Arc<C>>);

impl<C: ServiceClient> ClientHandle<C> {
    fn get(&self) -> &Arc<C> {
        self.0.as_ref().expect("only drop takes it")
    }
}

impl<C: ServiceClient> Clone for ClientHandle<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: ServiceClient> Drop for ClientHandle<C> {
    fn drop(&mut self) {
        let last = self.0.take().and_then(Arc::into_inner);
        if let (Some(client), Ok(runtime)) = (last, Handle::try_current()) {
            // When the runtime shuts down, it drops the client at once.
            runtime.spawn_blocking(move || drop(client));
        }
    }
}

/// Something that runs on a thread for blocking work. When it is dropped it does not begin; what
/// has begun goes on to its end.
pub(crate) struct Blocking<T>(JoinHandle<Result<T>>);

impl<T: Send + 'static> Blocking<T> {
    pub(crate) fn start(work: impl FnOnce() -> Result<T> + Send + 'static) -> Self {
        // What the work logs belongs to the task that awaits it.
        #[cfg(feature = "tracing")]
        let work = {
            let span = tracing::Span::current();
            move || span.in_scope(work)
        };
        Self(spawn_blocking(work))
    }
}

impl<T> Future for Blocking<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let joined = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(joined.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => {
                Err(Error::system("running a request", io::Error::other("the runtime shuts down")))
            }
        }))
    }
}

impl<T> Drop for Blocking<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
