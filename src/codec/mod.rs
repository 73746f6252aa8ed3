//! Byte cursors, headers and the messages of connection setup. The transport and the messages of
//! all services are built on them.
//!
//! There is no I/O here and no state: bytes go in and values come out, or the other way round. All
//! integers are in host byte order, since both ends are on one machine.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

mod bytes;
mod fields;
mod header;

pub mod setup;

pub use self::bytes::{Number, Plain, Reader, Writer};
pub(crate) use self::bytes::{SLOT, TYPICAL_SIZE};
pub(crate) use self::fields::Notes;
pub use self::fields::{Field, Value};
pub(crate) use self::header::CS_OK;
pub use self::header::{Header, Kind, encode_refusal};
