//! The two messages of connection setup, in the layouts of both libqb generations.

use std::fmt;

use bytes::Bytes;

use crate::codec::{Header, Kind, Reader, Writer};
use crate::error::WireError;

/// The id of both messages. Matches `QB_IPC_MSG_AUTHENTICATE`.
pub const AUTHENTICATE: i32 = -1;

/// Size of the request in bytes.
pub const CONNECT_REQUEST_SIZE: usize = 24;

/// The size of a path field. Matches `PATH_MAX` on Linux.
const PATH_SIZE: usize = 4096;

/// How many bytes of a reply must be there before its size and so its generation are known: id and
/// size.
pub const REPLY_PREFIX_SIZE: usize = 16;

/// The generation of the server's libqb. The size of the reply distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// libqb 0.10 to 0.12, used by corosync 1.99. The connection reply, the magic numbers and the
    /// ring sizes differ.
    Libqb010,
    /// libqb 0.13 and later.
    Libqb013,
}

impl Generation {
    /// Returns the size of the connection reply in bytes.
    pub fn reply_size(self) -> usize {
        match self {
            Self::Libqb010 => 12336,
            Self::Libqb013 => 12328,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Libqb010 => "libqb 0.10 to 0.12",
            Self::Libqb013 => "libqb 0.13 or later",
        })
    }
}

/// Asks for a connection. Matches `qb_ipc_connection_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The size of the largest message in bytes. It decides the size of the rings.
    pub max_msg_size: u32,
}

impl ConnectRequest {
    const NAME: &'static str = "qb_ipc_connection_request";

    /// Encodes the whole message.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut writer = Writer::new(Self::NAME);
        Header { id: AUTHENTICATE, size: 0, error: 0 }.write(&mut writer, Kind::Request);
        writer.slot("max_msg_size", self.max_msg_size);
        writer.finish(0)
    }

    /// Decodes the whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(Self::NAME, bytes);
        let header = Header::read(&mut reader, Kind::Request)?;
        if header.id != AUTHENTICATE {
            return Err(WireError::UnknownId { message: Self::NAME, id: header.id });
        }
        Ok(Self { max_msg_size: reader.slot("max_msg_size")? })
    }
}

/// The transport of a connection. Matches `qb_ipc_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransportType(pub i32);

impl TransportType {
    /// Datagram sockets: `QB_IPC_SOCKET`.
    pub const SOCKET: Self = Self(0);
    /// Rings in shared memory: `QB_IPC_SHM`.
    pub const SHM: Self = Self(1);
}

/// Answers a [`ConnectRequest`]. Matches `qb_ipc_connection_response`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectReply {
    /// The layout.
    pub generation: Generation,
    /// 0, or a negative errno that says why there is no connection. Then the other fields have no
    /// meaning.
    pub error: i32,
    /// The transport.
    pub transport: TransportType,
    /// The size of the largest message in bytes. The daemon decides.
    pub max_msg_size: u32,
    /// A number of the daemon's that has no meaning for the client.
    pub cookie: u64,
    /// Name of the ring for requests (or of the control file of the datagram transport).
    pub request: Bytes,
    /// Name of the ring for answers (or the base name of the datagram sockets).
    pub response: Bytes,
    /// Name of the ring for events.
    pub event: Bytes,
}

impl ConnectReply {
    const NAME: &'static str = "qb_ipc_connection_response";

    /// Reads the generation from the first [`REPLY_PREFIX_SIZE`] bytes.
    ///
    /// # Errors
    /// The peer is no libqb server of a known generation.
    pub fn generation(prefix: &[u8]) -> Result<Generation, WireError> {
        let mut reader = Reader::new(Self::NAME, prefix);
        let id: i32 = reader.slot("header.id")?;
        if id != AUTHENTICATE {
            return Err(WireError::UnknownId { message: Self::NAME, id });
        }
        let offset = reader.offset();
        let size: i32 = reader.slot("header.size")?;
        let known = [Generation::Libqb013, Generation::Libqb010];
        known
            .into_iter()
            .find(|generation| usize::try_from(size) == Ok(generation.reply_size()))
            .ok_or_else(|| reader.invalid("header.size", offset, i64::from(size)))
    }

    /// Decodes the whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let generation = Self::generation(bytes)?;
        let mut reader = Reader::new(Self::NAME, bytes);
        let header = Header::read(&mut reader, Kind::Response)?;
        let transport = TransportType(reader.get("connection_type")?);
        let max_msg_size = match generation {
            Generation::Libqb010 => {
                reader.align();
                reader.slot("max_msg_size")?
            }
            Generation::Libqb013 => reader.get("max_msg_size")?,
        };
        let cookie = reader.get("connection")?;
        let mut path = |field| -> Result<Bytes, WireError> {
            let bytes = reader.bytes(field, PATH_SIZE)?;
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            Ok(bytes.slice(..end))
        };
        Ok(Self {
            generation,
            error: header.error,
            transport,
            max_msg_size,
            cookie,
            request: path("request")?,
            response: path("response")?,
            event: path("event")?,
        })
    }

    /// Encodes the whole message.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut writer = Writer::new(Self::NAME);
        Header { id: AUTHENTICATE, size: 0, error: self.error }.write(&mut writer, Kind::Response);
        writer.put("connection_type", self.transport.0);
        match self.generation {
            Generation::Libqb010 => {
                writer.align();
                writer.slot("max_msg_size", self.max_msg_size);
            }
            Generation::Libqb013 => writer.put("max_msg_size", self.max_msg_size),
        }
        writer.put("connection", self.cookie);
        for (field, path) in
            [("request", &self.request), ("response", &self.response), ("event", &self.event)]
        {
            writer.padded(field, path, PATH_SIZE, PATH_SIZE - 1)?;
        }
        writer.finish(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(generation: Generation) -> ConnectReply {
        ConnectReply {
            generation,
            error: 0,
            transport: TransportType::SHM,
            max_msg_size: 1 << 20,
            cookie: 0x1234_5678_9abc,
            request: Bytes::from_static(b"/dev/shm/qb-1-2-30-abcdef/qb-request-cmap"),
            response: Bytes::from_static(b"/dev/shm/qb-1-2-30-abcdef/qb-response-cmap"),
            event: Bytes::from_static(b"/dev/shm/qb-1-2-30-abcdef/qb-event-cmap"),
        }
    }

    #[test]
    fn reply_sizes_tell_the_generations_apart() {
        for generation in [Generation::Libqb010, Generation::Libqb013] {
            let bytes = reply(generation).encode().unwrap();
            assert_eq!(bytes.len(), generation.reply_size());
            assert_eq!(ConnectReply::decode(&bytes).unwrap(), reply(generation));
        }
    }

    #[test]
    fn fields_lie_where_each_generation_has_them() {
        let old = reply(Generation::Libqb010).encode().unwrap();
        assert_eq!(old[24..28], 1i32.to_ne_bytes());
        assert_eq!(old[32..36], (1u32 << 20).to_ne_bytes());
        assert_eq!(old[40..48], 0x1234_5678_9abc_u64.to_ne_bytes());
        assert_eq!(
            (&old[48..56], &old[4144..4152], &old[8240..8248]),
            (&b"/dev/shm"[..], &b"/dev/shm"[..], &b"/dev/shm"[..])
        );
        let new = reply(Generation::Libqb013).encode().unwrap();
        assert_eq!(new[28..32], (1u32 << 20).to_ne_bytes());
        assert_eq!(new[32..40], 0x1234_5678_9abc_u64.to_ne_bytes());
        assert_eq!(
            (&new[40..48], &new[4136..4144], &new[8232..8240]),
            (&b"/dev/shm"[..], &b"/dev/shm"[..], &b"/dev/shm"[..])
        );
    }

    #[test]
    fn another_protocol_is_named_with_field_and_offset() {
        let mut bytes = reply(Generation::Libqb013).encode().unwrap();
        bytes[8..12].copy_from_slice(&12295i32.to_ne_bytes());
        let error = ConnectReply::decode(&bytes).unwrap_err();
        assert_eq!(
            error,
            WireError::Invalid {
                message: ConnectReply::NAME,
                field: "header.size",
                offset: 8,
                value: 12295
            }
        );
        bytes[..4].fill(0);
        assert!(matches!(ConnectReply::decode(&bytes), Err(WireError::UnknownId { .. })));
    }

    #[test]
    fn the_request_is_24_bytes() {
        let bytes = ConnectRequest { max_msg_size: 8192 }.encode().unwrap();
        assert_eq!(bytes.len(), CONNECT_REQUEST_SIZE);
        assert_eq!(ConnectRequest::decode(&bytes), Ok(ConnectRequest { max_msg_size: 8192 }));
    }
}
