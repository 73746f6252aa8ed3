//! The messages of all services as typed values, one module per service.
//!
//! There is no I/O and no state here: decoding takes bytes and returns values, encoding takes
//! values and returns bytes. Each message is a struct that implements [`Message`]. A tracer, proxy
//! or fuzzer that does not know which message comes decodes a service's `AnyRequest`, `AnyResponse`
//! or `AnyEvent`, such as [`cpg::AnyEvent`].
//!
//! ```
//! use corosync_ipc::wire::{Message, decode_reply, quorum};
//!
//! let request = quorum::GetQuorate {}.encode()?;
//! // A client sends the request ...
//! let received = quorum::AnyRequest::decode(&request)?;
//! assert_eq!(received, quorum::AnyRequest::GetQuorate(quorum::GetQuorate {}));
//! assert_eq!(received.name(), "req_lib_quorum_getquorate");
//! // ... and the daemon replies: the message, or the `cs_error_t` with which it refused.
//! let reply = quorum::GetQuorateReply { quorate: 1 }.encode()?;
//! assert_eq!(decode_reply(&reply.into())?, Ok(quorum::GetQuorateReply { quorate: 1 }));
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```
//!
//! The layouts are those of the tables in the repository's `proto` folder; tests compare the two.
//! Message names are those of the C structs. All integers are in host byte order, since both ends
//! are on one machine.
//!
//! Decoding trusts nothing: a message that is cut short, or a count that the message has no room
//! for, is a [`WireError`](crate::WireError) that names the field and its offset. Unknown flags and
//! enumeration values are kept. Bytes behind the end of a message are ignored.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

mod inspect;
pub(crate) mod message;

pub mod cfg;
pub mod cmap;
pub mod cpg;
pub mod evs;
pub mod quorum;
pub(crate) mod values;
pub mod votequorum;

#[cfg(test)]
pub(crate) mod tables;

#[cfg(any(test, feature = "__fuzzing"))]
pub(crate) use inspect::with_any_message;
pub use inspect::{Inspection, Service, UnknownService, inspect};
pub use message::{Message, Request, decode_reply};
pub(crate) use message::{begin_message, decode_reply_from};
