//! The traits of messages, and the macro that declares a message once for both directions.

use bytes::Bytes;

use crate::codec::{CS_OK, Header, Kind, Number, Plain, Reader, SLOT, Writer};
use crate::error::WireError;
use crate::wire::values::RingId;

/// A message of a service: encodes and decodes its layout.
pub trait Message: Sized {
    /// The name of the C struct.
    const NAME: &'static str;
    /// The message id in the header.
    const ID: i32;
    /// The direction: request, response or event.
    const KIND: Kind;
    /// The header that the message begins with. Equals [`Message::KIND`], except for the multicasts
    /// of cpg and most requests of evs: they begin with a response header.
    const HEADER: Kind = Self::KIND;

    /// Writes the message without its header.
    ///
    /// # Errors
    /// As [`Message::encode`].
    fn write(&self, writer: &mut Writer) -> Result<(), WireError>;

    /// Reads the message without its header.
    ///
    /// # Errors
    /// As [`Message::decode`].
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError>;

    /// Encodes the message with its header.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for a value of the caller's that the layout has no room for.
    fn encode(&self) -> Result<Vec<u8>, WireError> {
        write_message(self)?.finish(0)
    }

    /// Decodes a message with its header. The status of a response or event is ignored.
    ///
    /// # Errors
    /// [`WireError::UnknownId`] for the id of another message. The other variants for bytes of the
    /// peer's that do not follow this message's layout.
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        Self::decode_from(Reader::new(Self::NAME, bytes))
    }

    /// As [`Message::decode`], from a reader at the first byte of the header.
    ///
    /// # Errors
    /// As [`Message::decode`].
    fn decode_from(mut reader: Reader<'_>) -> Result<Self, WireError> {
        let header = Header::read(&mut reader, Self::HEADER)?;
        if header.id != Self::ID {
            return Err(WireError::UnknownId { message: Self::NAME, id: header.id });
        }
        Self::read(&mut reader)
    }
}

/// A request that the daemon answers.
pub trait Request: Message {
    /// The reply.
    type Reply: Message;

    /// The most bytes of the answer, if the daemon surely gives it at once, only once, and whatever
    /// other requests are under way. `None`: no other request may be under way with this one.
    fn joins(&self) -> Option<usize> {
        None
    }
}

pub(crate) fn write_message<M: Message>(message: &M) -> Result<Writer, WireError> {
    let mut writer = begin_message::<M>(Vec::new());
    message.write(&mut writer)?;
    Ok(writer)
}

/// Begins a message: writes its header over what is in the buffer.
pub(crate) fn begin_message<M: Message>(buffer: Vec<u8>) -> Writer {
    let mut writer = Writer::over(M::NAME, buffer);
    Header { id: M::ID, size: 0, error: CS_OK }.write(&mut writer, M::HEADER);
    writer
}

/// Decodes the reply to a request: the message, or the `cs_error_t` with which the daemon refused.
///
/// The status comes first, and the id is ignored: a refusal may be a bare header with id 0
/// (`CS_ERR_TRY_AGAIN` while the daemon is busy, `CS_ERR_INVALID_PARAM` for an unknown request id),
/// and replies come in the order of requests. Byte strings share the memory of `bytes`.
///
/// # Errors
/// As [`Message::decode`], but for [`WireError::UnknownId`].
pub fn decode_reply<M: Message>(bytes: &Bytes) -> Result<Result<M, i32>, WireError> {
    decode_reply_from(Reader::shared(M::NAME, bytes))
}

/// As [`decode_reply`], from a reader at the first byte of the header.
pub(crate) fn decode_reply_from<M: Message>(
    mut reader: Reader<'_>,
) -> Result<Result<M, i32>, WireError> {
    let header = Header::read(&mut reader, Kind::Response)?;
    if header.error == CS_OK { M::read(&mut reader).map(Ok) } else { Ok(Err(header.error)) }
}

/// The layout of a field. `T` is the type of its value in the API.
pub(crate) trait Encoding<T> {
    /// True for a C flexible array at the end of a struct, which no padding follows.
    const TAIL: bool = false;

    fn write(field: &'static str, value: &T, writer: &mut Writer) -> Result<(), WireError>;
    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<T, WireError>;
}

/// The value without padding.
pub(crate) struct Native;

/// The value in an 8-byte slot, C's `aligned(8)`.
pub(crate) struct Slot;

/// `mar_name_t`: a 16-bit length in a slot and 256 bytes.
pub(crate) struct MarName;

/// `char[N]`: the text ends at the first NUL.
pub(crate) struct Chars<const N: usize>;

/// A 32-bit count in a slot, followed by that many elements or bytes.
pub(crate) struct Counted;

/// As [`Counted`], but the elements begin right behind the count, inside its slot. The message ends
/// with 4 unused bytes: C sends `sizeof(struct)`, which is rounded up to a slot, plus the elements,
/// which begin before that.
pub(crate) struct InSlotCounted;

impl<T: Plain> Encoding<T> for Native {
    fn write(field: &'static str, value: &T, writer: &mut Writer) -> Result<(), WireError> {
        writer.put(field, *value);
        Ok(())
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<T, WireError> {
        reader.get(field)
    }
}

impl<T: Plain> Encoding<T> for Slot {
    fn write(field: &'static str, value: &T, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot(field, *value);
        Ok(())
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<T, WireError> {
        reader.slot(field)
    }
}

/// `mar_quorum_ring_id_t` and `mar_votequorum_ring_id`: both parts in slots.
pub(crate) struct RingIdSlots;

impl Encoding<RingId> for RingIdSlots {
    fn write(_: &'static str, value: &RingId, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("ring_id.nodeid", value.node_id);
        writer.slot("ring_id.seq", value.seq);
        Ok(())
    }

    fn read(_: &'static str, reader: &mut Reader<'_>) -> Result<RingId, WireError> {
        Ok(RingId { node_id: reader.slot("ring_id.nodeid")?, seq: reader.slot("ring_id.seq")? })
    }
}

/// The size of the array in `mar_name_t`. Matches `CS_MAX_NAME_LENGTH`.
pub(crate) const MAR_NAME_SIZE: usize = 256;

impl MarName {
    pub(crate) fn write_slice(
        field: &'static str,
        value: &[u8],
        writer: &mut Writer,
    ) -> Result<(), WireError> {
        let length = writer.length(field, value.len(), MAR_NAME_SIZE)?;
        writer.slot(field, length as u16);
        writer.padded(field, value, MAR_NAME_SIZE, MAR_NAME_SIZE)
    }
}

impl Encoding<Bytes> for MarName {
    fn write(field: &'static str, value: &Bytes, writer: &mut Writer) -> Result<(), WireError> {
        Self::write_slice(field, value, writer)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<Bytes, WireError> {
        let name = Self::read_slice(field, reader)?;
        Ok(reader.own(name))
    }
}

impl MarName {
    /// Reads the name without copying it.
    pub(crate) fn read_slice<'a>(
        field: &'static str,
        reader: &mut Reader<'a>,
    ) -> Result<&'a [u8], WireError> {
        let length = reader.part(".length").number_slot::<u16>(field)?;
        let value = reader.part(".value").take(field, MAR_NAME_SIZE)?;
        let length = reader.bounded(length, value.len())?;
        Ok(value.get(..length).unwrap_or(value))
    }
}

impl<const N: usize> Encoding<Bytes> for Chars<N> {
    fn write(field: &'static str, value: &Bytes, writer: &mut Writer) -> Result<(), WireError> {
        writer.padded(field, value, N, N)
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<Bytes, WireError> {
        let value = reader.bytes(field, N)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        Ok(value.slice(..end))
    }
}

/// A list that follows its count: fixed-size values, or bytes.
pub(crate) trait Elements: Sized {
    /// What the name of the count ends with.
    const COUNT: &'static str;

    fn count(&self) -> usize;
    fn append(&self, field: &'static str, writer: &mut Writer);
    fn take(field: &'static str, count: Number, reader: &mut Reader<'_>)
    -> Result<Self, WireError>;
}

impl<T: Plain> Elements for Vec<T> {
    const COUNT: &'static str = "_entries";

    fn count(&self) -> usize {
        self.len()
    }

    fn append(&self, field: &'static str, writer: &mut Writer) {
        writer.list(field, self);
    }

    fn take(
        field: &'static str,
        count: Number,
        reader: &mut Reader<'_>,
    ) -> Result<Self, WireError> {
        let count = reader.counted(count, size_of::<T>())?;
        reader.list(field, count)
    }
}

impl Elements for Bytes {
    const COUNT: &'static str = "_size";

    fn count(&self) -> usize {
        self.len()
    }

    fn append(&self, field: &'static str, writer: &mut Writer) {
        writer.bytes(field, self);
    }

    fn take(
        field: &'static str,
        count: Number,
        reader: &mut Reader<'_>,
    ) -> Result<Self, WireError> {
        let count = reader.counted(count, 1)?;
        reader.bytes(field, count)
    }
}

impl<E: Elements> Encoding<E> for Counted {
    const TAIL: bool = true;

    fn write(field: &'static str, value: &E, writer: &mut Writer) -> Result<(), WireError> {
        let count = writer.length(field, value.count(), u32::MAX as usize)?;
        writer.slot(field, count);
        value.append(field, writer);
        Ok(())
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<E, WireError> {
        let count = reader.part(E::COUNT).number_slot::<u32>(field)?;
        E::take(field, count, reader)
    }
}

impl<E: Elements> Encoding<E> for InSlotCounted {
    const TAIL: bool = true;

    fn write(field: &'static str, value: &E, writer: &mut Writer) -> Result<(), WireError> {
        let count = writer.length(field, value.count(), u32::MAX as usize)?;
        writer.put(field, count);
        value.append(field, writer);
        writer.padding(SLOT - size_of::<u32>());
        Ok(())
    }

    fn read(field: &'static str, reader: &mut Reader<'_>) -> Result<E, WireError> {
        let count = reader.part(E::COUNT).number::<u32>(field)?;
        E::take(field, count, reader)
    }
}

/// Declares a message: a struct whose fields name their [`Encoding`], in wire order.
///
/// `request 2 "req_lib_x" -> Reply` declares a request and the type of its reply, and `joins(|request|
/// 64)` behind that what [`Request::joins`] returns. `response` and `event` declare the other kinds.
macro_rules! message {
    ($(#[$doc:meta])* $kind:ident $id:literal $name:literal $(-> $reply:ident $(joins($room:expr))?)?:
     pub struct $type:ident { $($(#[$field_doc:meta])* $field:ident: $value:ty as $encoding:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $type { $($(#[$field_doc])* pub $field: $value),* }

        impl $crate::wire::Message for $type {
            const NAME: &'static str = $name;
            const ID: i32 = $id;
            const KIND: $crate::codec::Kind = $crate::wire::message::message!(@kind $kind);

            fn write(&self, writer: &mut $crate::codec::Writer) -> Result<(), $crate::error::WireError> {
                $(<$encoding as $crate::wire::message::Encoding<$value>>::write(stringify!($field), &self.$field, writer)?;)*
                if !(false $(|| <$encoding as $crate::wire::message::Encoding<$value>>::TAIL)*) {
                    writer.align();
                }
                Ok(())
            }

            fn read(reader: &mut $crate::codec::Reader<'_>) -> Result<Self, $crate::error::WireError> {
                $(let $field = <$encoding as $crate::wire::message::Encoding<$value>>::read(stringify!($field), reader)?;)*
                let _ = reader;
                Ok(Self { $($field),* })
            }
        }
        $(impl $crate::wire::Request for $type {
            type Reply = $reply;

            $(fn joins(&self) -> Option<usize> {
                let room: fn(&Self) -> usize = $room;
                Some(room(self))
            })?
        })?
    };
    (@kind request) => { $crate::codec::Kind::Request };
    (@kind response) => { $crate::codec::Kind::Response };
    (@kind event) => { $crate::codec::Kind::Event };
}
pub(crate) use message;

/// Declares an enum of a service's messages of one kind, for code that decodes any of them:
/// servers, tracers, fuzzers.
macro_rules! any_message {
    ($(#[$doc:meta])* pub enum $any:ident { $($type:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        #[allow(clippy::large_enum_variant)]
        pub enum $any {
            $(#[doc = concat!("[`", stringify!($type), "`]")] $type($type),)*
        }

        impl $any {
            /// Decodes the message that the header's id names.
            ///
            /// # Errors
            /// [`UnknownId`](crate::WireError::UnknownId) for an id without a variant here. The other
            /// variants for bytes of the peer's that do not follow the message's layout.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::error::WireError> {
                let reader = |message| $crate::codec::Reader::new(message, bytes);
                Self::decode_with(reader(stringify!($any)), reader)
            }

            /// As [`decode`](Self::decode), but byte strings share the memory of `bytes` instead of
            /// copying it.
            ///
            /// # Errors
            /// As [`decode`](Self::decode).
            pub fn decode_shared(bytes: &bytes::Bytes) -> Result<Self, $crate::error::WireError> {
                let reader = |message| $crate::codec::Reader::shared(message, bytes);
                Self::decode_with(reader(stringify!($any)), reader)
            }

            /// Finds the id by one reader, and decodes the message that it names by another.
            fn decode_with<'a>(
                mut header: $crate::codec::Reader<'_>,
                reader: impl FnOnce(&'static str) -> $crate::codec::Reader<'a>,
            ) -> Result<Self, $crate::error::WireError> {
                use $crate::error::WireError;
                use $crate::codec::{Header, Kind};
                use $crate::wire::Message;
                let header = Header::read(&mut header, Kind::Request)?;
                match header.id {
                    $(<$type as Message>::ID => <$type as Message>::decode_from(reader(<$type as Message>::NAME)).map(Self::$type),)*
                    id => Err(WireError::UnknownId { message: stringify!($any), id }),
                }
            }

            /// Decodes the message and notes its fields, down to the one that is wrong. Returns the
            /// name of its C struct, which is empty for an unknown id.
            pub(crate) fn note(
                bytes: &[u8],
                notes: &mut $crate::codec::Notes,
            ) -> Result<&'static str, (&'static str, $crate::error::WireError)> {
                let header = $crate::codec::Reader::new(stringify!($any), bytes);
                let mut name = "";
                let decoded = Self::decode_with(header, |message| {
                    name = message;
                    $crate::codec::Reader::noting(message, bytes, notes)
                });
                decoded.map(|_| name).map_err(|error| (name, error))
            }

            /// Encodes the message with its header.
            ///
            /// # Errors
            /// [`TooLarge`](crate::WireError::TooLarge) for a value of the caller's that the layout has no
            /// room for.
            pub fn encode(&self) -> Result<Vec<u8>, $crate::error::WireError> {
                match self { $(Self::$type(message) => $crate::wire::Message::encode(message),)* }
            }

            /// The name of the message's C struct.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$type(_) => <$type as $crate::wire::Message>::NAME,)* }
            }
        }
    };
}
pub(crate) use any_message;
