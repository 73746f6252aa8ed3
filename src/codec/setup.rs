//! The two messages that set a connection up, in the layouts of both libqb generations.

use std::fmt;

use bytes::Bytes;

use crate::codec::{Header, Kind, Reader, Writer};
use crate::error::WireError;

/// Id of both messages. Matches `QB_IPC_MSG_AUTHENTICATE`.
pub const AUTHENTICATE: i32 = -1;

/// Size of the request in bytes.
pub const CONNECT_REQUEST_SIZE: usize = 24;

/// Room for a path. Matches `PATH_MAX` of the C library's builds on Linux.
const PATH_SIZE: usize = 4096;

/// Bytes that must be there before a reply's size, and so its generation, is known: id and size.
pub const REPLY_PREFIX_SIZE: usize = 16;

/// Which libqb the other end was built with; the reply's size tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// libqb 0.10 to 0.12, of corosync 1.99: another connection reply, another magic, another ring
    /// size.
    Libqb010,
    /// libqb 0.13 and later.
    Libqb013,
}

impl Generation {
    /// Size of the connection reply in bytes.
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
    /// Largest message in bytes, which decides the size of the rings.
    pub max_msg_size: u32,
}

impl ConnectRequest {
    const NAME: &'static str = "qb_ipc_connection_request";

    /// The whole message.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut writer = Writer::new(Self::NAME);
        Header { id: AUTHENTICATE, size: 0, error: 0 }.write(&mut writer, Kind::Request);
        writer.slot("max_msg_size", self.max_msg_size);
        writer.finish(0)
    }

    /// Reads the whole message.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(Self::NAME, bytes);
        let header = Header::read(&mut reader, Kind::Request)?;
        if header.id != AUTHENTICATE {
            return Err(WireError::UnknownId { message: Self::NAME, id: header.id });
        }
        Ok(Self { max_msg_size: reader.slot("max_msg_size")? })
    }
}

/// How messages travel on a connection. Matches `qb_ipc_type`.
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
    /// Which layout it had, or is to have.
    pub generation: Generation,
    /// 0, or a negative errno that says why there is no connection; then the other fields mean
    /// nothing.
    pub error: i32,
    /// How messages travel.
    pub transport: TransportType,
    /// Largest message in bytes: the daemon has the last word.
    pub max_msg_size: u32,
    /// The daemon's own; means nothing to the client.
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

    /// Reads from the first [`REPLY_PREFIX_SIZE`] bytes how long the reply is.
    ///
    /// # Errors
    /// The peer is no libqb server of a generation that is known.
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

    /// Reads the whole message.
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

    /// The whole message.
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
        bytes[8] = 7;
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
        bytes[0] = 0;
        assert!(matches!(ConnectReply::decode(&bytes), Err(WireError::UnknownId { .. })));
    }

    #[test]
    fn the_request_is_24_bytes() {
        let bytes = ConnectRequest { max_msg_size: 8192 }.encode().unwrap();
        assert_eq!(bytes.len(), CONNECT_REQUEST_SIZE);
        assert_eq!(ConnectRequest::decode(&bytes), Ok(ConnectRequest { max_msg_size: 8192 }));
    }
}
