//! The public face of a client: a type of its own for each service, and the trait of all of them.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::{Core, Dispatch, Service};
use crate::endpoint::Deadline;
use crate::error::Result;
use crate::libqb::Transport;
use crate::libqb::client::{ClientStats, Look, Waker};
use crate::sys::socket::Credentials;

/// A client of a service, as this crate sees it.
pub(crate) trait HasCore {
    type Service: Service;

    fn core(&self) -> &Core<Self::Service>;
}

/// The methods that the clients of all services have, with their documentation. `$prefix` is what
/// the names of the matching C functions begin with.
macro_rules! common_methods {
    ($prefix:literal, $visibility:vis, $client:ty, $event:ty) => {
        /// Takes the next event, if one waits. Never blocks.
        ///
        /// The file descriptor polls readable while an event waits that the daemon has announced,
        /// which it does at once unless the socket is full; the reverse need not hold. After
        /// `None` it becomes readable anew when there is an event or the daemon goes, so loops
        /// with edge-triggered readiness take events until `None`. See
        /// [`event_loops`](crate::event_loops).
        ///
        /// # Errors
        /// [`Error::Disconnected`](crate::Error::Disconnected) once the daemon is gone and every
        /// event it left was taken; [`Error::Finalized`](crate::Error::Finalized);
        /// [`Error::Protocol`](crate::Error::Protocol) when the daemon sent a message that cannot
        /// be read.
        $visibility fn poll_event(&self) -> Result<Option<$event>> {
            HasCore::core(self).look(Look::RingAndSocket, None)
        }

        /// Waits for the next event until the deadline: a `Duration`, an `Instant` or
        /// [`Deadline::NEVER`](crate::Deadline::NEVER). `None` when it passed, or when the
        /// [`Waker`](crate::Waker) was used.
        ///
        /// # Errors
        /// As [`poll_event`](Self::poll_event).
        $visibility fn next_event(&self, deadline: impl Into<Deadline>) -> Result<Option<$event>> {
            HasCore::core(self).next_event(deadline.into())
        }

        /// Iterates over events, waiting for each. Ends with the error that ended the connection,
        /// or when the [`Waker`](crate::Waker) was used.
        $visibility fn events(&self) -> Events<'_, $client> {
            Events::new(self)
        }

        /// Hands events to `handler` as `mode` says, until the handler breaks, the
        /// [`Waker`](crate::Waker) is used or the mode is done. [A
        /// table](crate::event_loops#what-dispatch-returns) shows what is returned when.
        ///
        #[doc = concat!("Matches `", $prefix, "_dispatch`.")]
        /// As there, `One` and `OneNonblocking` are done with one message of the daemon, and not
        /// every message is an event: the fragments of a long cpg message become one event when
        /// the last has come, and a notification that was under way when its cmap tracker was
        /// deleted becomes none. The handler is not called then. Use
        /// [`next_event`](Self::next_event) to wait for an event. A signal does not end it.
        ///
        /// Unlike in C, [`finalize`](Self::finalize) ends a dispatch that is under way, whether the
        /// handler or another thread calls it. When nothing waits and the mode does not wait,
        /// this makes no system call, except about once a millisecond to see whether the
        /// daemon is still there.
        ///
        /// # Errors
        /// [`Error::Cs`](crate::Error::Cs) with [`CsError::TryAgain`](crate::CsError::TryAgain)
        /// when no event waits and the mode is
        /// [`Dispatch::OneNonblocking`](crate::Dispatch::OneNonblocking);
        /// [`Error::Disconnected`](crate::Error::Disconnected) when the daemon is gone, after the
        /// events it left; [`Error::Finalized`](crate::Error::Finalized);
        /// [`Error::Protocol`](crate::Error::Protocol).
        $visibility fn dispatch(
            &self,
            mode: Dispatch,
            handler: impl FnMut($event) -> ControlFlow<()>,
        ) -> Result<()> {
            HasCore::core(self).dispatch(mode, handler)
        }

        /// What this client did so far, and how full its rings are. Never waits for the daemon.
        $visibility fn stats(&self) -> ClientStats {
            HasCore::core(self).connection.stats()
        }

        /// Ends the connection for every thread that uses this client: calls that wait return, and
        /// they and all later calls fail with [`Error::Finalized`](crate::Error::Finalized).
        /// Dropping the client ends the connection too.
        ///
        #[doc = concat!("Matches `", $prefix, "_finalize`.")]
        $visibility fn finalize(&self) {
            HasCore::core(self).connection.finalize();
        }

        /// A handle that ends a wait for events from another thread, without ending the
        /// connection. It costs a file descriptor, which the first wait makes anyway.
        ///
        /// # Errors
        /// [`Error::System`](crate::Error::System) when there are no file descriptors left.
        $visibility fn waker(&self) -> Result<Waker> {
            HasCore::core(self).connection.waker().cloned()
        }

        /// The process that serves this connection, as the kernel says.
        $visibility fn peer_credentials(&self) -> Credentials {
            HasCore::core(self).connection.peer()
        }

        /// How messages travel, which the daemon chose.
        $visibility fn transport(&self) -> Transport {
            HasCore::core(self).connection.transport()
        }

        /// How long each call may take, the wait for other threads' requests included. See
        /// [`Endpoint::request_timeout`](crate::Endpoint::request_timeout).
        $visibility fn request_timeout(&self) -> Duration {
            HasCore::core(self).connection.timeout()
        }

        /// Changes [`request_timeout`](Self::request_timeout) for the calls to come.
        $visibility fn set_request_timeout(&self, timeout: Duration) {
            HasCore::core(self).connection.set_timeout(timeout);
        }
    };
}
pub(crate) use common_methods;

/// The client of any service of corosync: what [`Dispatcher`](crate::Dispatcher),
/// [`Supervised`](crate::supervise::Supervised) and their like need of one. Each service's `Client`
/// has the same methods of its own, so programs that use one service do not need this trait. An
/// `Arc` of a client implements it too.
///
/// Only this crate implements it.
#[expect(private_bounds, reason = "nobody else can have a core")]
pub trait ServiceClient:
    HasCore<Service: Service<Event = Self::Event>> + AsFd + fmt::Debug + Send + Sync + Sized + 'static
{
    /// An event of the service.
    type Event: Send + 'static;

    /// The name of the service, such as `cmap`.
    const SERVICE: &'static str;

    common_methods!("*", , Self, Self::Event);
}

impl<C: HasCore> HasCore for Arc<C> {
    type Service = C::Service;

    fn core(&self) -> &Core<C::Service> {
        (**self).core()
    }
}

impl<C: ServiceClient> ServiceClient for Arc<C> {
    type Event = C::Event;

    const SERVICE: &'static str = C::SERVICE;
}

/// Declares the client of a service: the type, its common methods and its traits. Its requests
/// follow in `impl` blocks of the service's module.
macro_rules! client {
    (
        $(#[$doc:meta])*
        pub struct Client: $service:ty as $prefix:literal
    ) => {
        $(#[$doc])*
        ///
        /// A client can be shared between threads. Their requests are sent in the order they came,
        /// and most do not wait for the answers to each other; one thread can wait for events
        /// meanwhile. No lock is held while a handler
        /// runs, so a handler may call the same client.
        ///
        /// A request that the daemon is too busy for (`CS_ERR_TRY_AGAIN`) is sent again until the
        /// request timeout, unless
        /// [`Endpoint::wait_while_busy`](crate::Endpoint::wait_while_busy) says otherwise.
        ///
        /// Dropping a client ends the connection. The daemon then forgets what it kept for it.
        ///
        /// After `fork` a client works on in the child, or in the parent, but not in both: see
        /// [`Endpoint::refuse_forks`](crate::Endpoint::refuse_forks). No thread may be in a call on
        /// it while another one forks. A program that is started with exec does not inherit it: all
        /// descriptors are close-on-exec.
        pub struct Client {
            pub(crate) core: Box<$crate::client::Core<$service>>,
        }

        impl Client {
            /// Connects, with what this client is to remember.
            pub(crate) fn open(
                endpoint: &$crate::endpoint::Endpoint,
                service: $service,
                call: $crate::libqb::client::Call,
            ) -> $crate::error::Result<Self> {
                Ok(Self { core: $crate::client::Core::open(endpoint, service, call)? })
            }
        }

        const _: () = {
            use std::ops::ControlFlow;
            use std::os::fd::{AsFd, BorrowedFd};
            use std::time::Duration;

            use $crate::client::{
                Core, Dispatch, Events, HasCore, Service, ServiceClient, common_methods,
            };
            use $crate::endpoint::Deadline;
            use $crate::error::Result;
            use $crate::libqb::Transport;
            use $crate::libqb::client::{ClientStats, Look, Waker};
            use $crate::sys::socket::Credentials;

            /// # Events, waiting and the connection
            impl Client {
                common_methods!($prefix, pub, Client, Event);
            }

            impl HasCore for Client {
                type Service = $service;

                fn core(&self) -> &Core<$service> {
                    &self.core
                }
            }

            impl ServiceClient for Client {
                type Event = Event;

                const SERVICE: &'static str = <$service as Service>::NAME;
            }

            impl AsFd for Client {
                /// The descriptor to poll for reading. Only poll it: what can be read from it is
                /// not the events.
                ///
                #[doc = concat!("Matches `", $prefix, "_fd_get`.")]
                fn as_fd(&self) -> BorrowedFd<'_> {
                    self.core.connection.as_fd()
                }
            }

            impl std::fmt::Debug for Client {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    self.core.fmt(f)
                }
            }
        };
    };
}
pub(crate) use client;

/// Iterates over a client's events; made by its `events` method.
#[derive(Debug)]
pub struct Events<'a, C: ServiceClient> {
    client: &'a C,
    ended: bool,
}

impl<'a, C: ServiceClient> Events<'a, C> {
    pub(crate) fn new(client: &'a C) -> Self {
        Self { client, ended: false }
    }
}

impl<C: ServiceClient> Iterator for Events<'_, C> {
    type Item = Result<C::Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let event = self.client.next_event(Deadline::NEVER).transpose();
        self.ended = !matches!(event, Some(Ok(_)));
        event
    }
}

impl<C: ServiceClient> FusedIterator for Events<'_, C> {}
