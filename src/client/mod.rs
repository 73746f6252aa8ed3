//! The client's half: what the clients of all services have in common.

#[cfg(feature = "tokio")]
mod async_client;
#[cfg(feature = "tokio")]
mod asynchronous;
mod buffers;
pub(crate) mod dispatch;
mod dispatcher;
mod service;
mod service_client;
mod tracking;

pub use self::dispatch::Dispatch;
#[cfg(feature = "tokio")]
pub(crate) use async_client::async_client;
#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncClient, AsyncEvents};
#[cfg(feature = "tokio")]
pub(crate) use asynchronous::{Blocking, stream_until_error};
pub use dispatcher::{ClientId, Control, Dispatcher, DispatcherWaker, EventHandler, Round};
pub(crate) use dispatcher::{EVENTS_PER_TURN, Pump};
pub use service::UnknownEvent;
pub(crate) use service::{Core, SMALL_RING_SIZE, Service, read_reply};
pub use service_client::{Events, ServiceClient};
pub(crate) use service_client::{HasCore, client, common_methods};
pub(crate) use tracking::Tracking;
