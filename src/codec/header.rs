//! The header of every libqb message. Nothing else knows the offsets of its fields.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bytes::{Plain, Reader, SLOT, Writer};
use super::fields::Value;
use crate::error::{CsError, WireError};

/// `CS_OK`: the status of a reply with a body, and of every event.
pub(crate) const CS_OK: i32 = 1;

const SIZE_OFFSET: usize = SLOT;
const STATUS_OFFSET: usize = 2 * SLOT;

/// The kind of a message, which decides its header: requests have no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Client to daemon; 16-byte header.
    Request,
    /// The daemon's answer to a request; 24-byte header.
    Response,
    /// Daemon to client, without a request; 24-byte header.
    Event,
}

impl Kind {
    /// The C name of the header.
    pub(crate) fn header_name(self) -> &'static str {
        match self {
            Self::Request => "qb_ipc_request_header",
            Self::Response | Self::Event => "qb_ipc_response_header",
        }
    }
}

/// The header of a message: id, size, and the status unless it is a request.
///
/// Matches `qb_ipc_request_header` and `qb_ipc_response_header`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Message id, counted per service and kind.
    pub id: i32,
    /// The size of the whole message in bytes, as the sender says. Do not trust it.
    pub size: i32,
    /// A `cs_error_t` (1 is `CS_OK`), or in connection replies a negative errno. 0 in requests.
    pub error: i32,
}

impl Header {
    /// Reads a header of the given kind.
    pub fn read(reader: &mut Reader<'_>, kind: Kind) -> Result<Self, WireError> {
        let id = reader.slot("header.id")?;
        let size = reader.slot("header.size")?;
        let error = match kind {
            Kind::Request => 0,
            Kind::Response | Kind::Event => reader.slot::<Status>("header.error")?.0,
        };
        Ok(Self { id, size, error })
    }

    /// Encodes a whole message: this header, with the size filled in, and the body.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for more than 2 GiB.
    pub fn encode(self, kind: Kind, body: &[u8]) -> Result<Vec<u8>, WireError> {
        let mut writer = Writer::new(kind.header_name());
        self.write(&mut writer, kind);
        writer.bytes("body", body);
        writer.finish(0)
    }

    /// Splits a whole message into its header and its body.
    ///
    /// # Errors
    /// [`WireError::Truncated`] for less than a header.
    pub fn split(message: &[u8], kind: Kind) -> Result<(Self, &[u8]), WireError> {
        let mut reader = Reader::new(kind.header_name(), message);
        let header = Self::read(&mut reader, kind)?;
        Ok((header, reader.rest("body")?))
    }

    /// Reads the id of a message of any kind. Returns `None` for fewer bytes than an id has.
    #[cfg(any(test, feature = "server"))]
    pub(crate) fn id_of(message: &[u8]) -> Option<i32> {
        message.first_chunk().map(|id| i32::from_ne_bytes(*id))
    }

    /// Reads the status of a response or an event. Returns `None` for fewer bytes than a header
    /// has.
    pub(crate) fn status_of(message: &[u8]) -> Option<i32> {
        Self::read(&mut Reader::new("qb_ipc_response_header", message), Kind::Response)
            .ok()
            .map(|header| header.error)
    }

    /// Overwrites the size in the header of a message.
    pub(crate) fn set_size(message: &mut [u8], size: u32) {
        set(message, SIZE_OFFSET, size);
    }

    /// Overwrites the status in the header of a response or an event.
    pub(crate) fn set_status(message: &mut [u8], status: i32) {
        set(message, STATUS_OFFSET, status);
    }

    /// Writes a header; the size is filled in when the message is finished.
    pub(crate) fn write(self, writer: &mut Writer, kind: Kind) {
        writer.slot("header.id", self.id);
        writer.slot("header.size", self.size);
        if kind != Kind::Request {
            writer.slot("header.error", self.error);
        }
    }
}

/// The status of a header.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(transparent)]
struct Status(i32);

impl Plain for Status {
    fn value(&self) -> Value {
        let name = match self.0 {
            CS_OK => Some("CS_OK"),
            error => CsError::from_raw(error).c_name(),
        };
        Value::Named(self.0.into(), name.into_iter().collect())
    }
}

/// Overwrites a field, if the message is long enough to have it.
fn set(message: &mut [u8], offset: usize, value: impl Plain) {
    if let Some(field) = message.get_mut(offset..).and_then(|it| it.get_mut(..size_of_val(&value)))
    {
        field.copy_from_slice(value.as_bytes());
    }
}

/// Encodes a refusal as the daemon sends it: a response header without a body.
pub fn encode_refusal(id: i32, error: CsError) -> Result<Vec<u8>, WireError> {
    let mut writer = Writer::new("qb_ipc_response_header");
    Header { id, size: 0, error: error.raw() }.write(&mut writer, Kind::Response);
    writer.finish(0)
}
