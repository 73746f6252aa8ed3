//! The messages of the cmap service. `proto/cmap.json` has their layouts.
//!
//! ```
//! use corosync_ipc::wire::{Message, cmap};
//!
//! let value = cmap::RawValue { value_type: cmap::ValueType::STRING, data: "one".into() };
//! let request = cmap::Set { key_name: "test.key".into(), value };
//! assert_eq!(cmap::Set::decode(&request.encode()?)?, request);
//! # Ok::<(), corosync_ipc::WireError>(())
//! ```

use bytes::Bytes;

use crate::codec::{Header, Kind, Reader, Writer};
use crate::error::WireError;
use crate::wire::Message;
use crate::wire::message::{Encoding, MarName, Slot, any_message, message};
use crate::wire::values::{flags, open_enum};

flags! {
    /// The changes that a tracker asks for, and the change that a notification reports.
    pub struct TrackEvents: i32 {
        /// A key was deleted. `CMAP_TRACK_DELETE`
        const DELETE = 1;
        /// A key's value was changed. `CMAP_TRACK_MODIFY`
        const MODIFY = 2;
        /// A key was added. `CMAP_TRACK_ADD`
        const ADD = 4;
        /// Tracks all keys that begin with the given one. `CMAP_TRACK_PREFIX`
        const PREFIX = 8;
    }
}

impl TrackEvents {
    /// All three changes: added, modified and deleted.
    pub const ALL: Self = Self::from_bits(1 | 2 | 4);
}

open_enum! {
    /// The type of a value. Matches `cmap_value_types_t`. Prints as in corosync-cmapctl: `u32`,
    /// `str`.
    pub struct ValueType: u8 {
        /// `CMAP_VALUETYPE_INT8`
        const INT8 = 1, "i8";
        /// `CMAP_VALUETYPE_UINT8`
        const UINT8 = 2, "u8";
        /// `CMAP_VALUETYPE_INT16`
        const INT16 = 3, "i16";
        /// `CMAP_VALUETYPE_UINT16`
        const UINT16 = 4, "u16";
        /// `CMAP_VALUETYPE_INT32`
        const INT32 = 5, "i32";
        /// `CMAP_VALUETYPE_UINT32`
        const UINT32 = 6, "u32";
        /// `CMAP_VALUETYPE_INT64`
        const INT64 = 7, "i64";
        /// `CMAP_VALUETYPE_UINT64`
        const UINT64 = 8, "u64";
        /// `CMAP_VALUETYPE_FLOAT`
        const FLOAT = 9, "flt";
        /// `CMAP_VALUETYPE_DOUBLE`
        const DOUBLE = 10, "dbl";
        /// `CMAP_VALUETYPE_STRING`
        const STRING = 11, "str";
        /// `CMAP_VALUETYPE_BINARY`
        const BINARY = 12, "bin";
    }
}

/// A value on the wire: its type and its bytes. The bytes need not be valid for the type.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RawValue {
    /// The type that the sender gives.
    pub value_type: ValueType,
    /// The bytes. A string from the daemon ends with a NUL.
    pub data: Bytes,
}

message! {
    /// Sets a key.
    request 0 "req_lib_cmap_set" -> SetReply joins(|_| 64): pub struct Set {
        /// The key.
        key_name: Bytes as MarName,
        /// The new value.
        value: RawValue as LengthTypeBytes,
    }
}

message! {
    /// Deletes a key.
    request 1 "req_lib_cmap_delete" -> DeleteReply: pub struct Delete {
        /// The key.
        key_name: Bytes as MarName,
    }
}

message! {
    /// Reads a key.
    request 2 "req_lib_cmap_get" -> GetReply joins(|get| Get::room(get.value_len)): pub struct Get {
        /// The key.
        key_name: Bytes as MarName,
        /// The room for the value in bytes. The reply is this much longer than its fixed part,
        /// whatever the value's length. A longer value is refused with `CS_ERR_INVALID_PARAM`. 0 asks
        /// for type and length only. With the stats map's `schedmiss` keys 0 crashes the daemon,
        /// which then writes the value through a null pointer.
        value_len: u64 as Slot,
    }
}

impl Get {
    /// As [`Message::write`] of a request with these fields.
    pub(crate) fn write_fields(
        key_name: &[u8],
        value_len: u64,
        writer: &mut Writer,
    ) -> Result<(), WireError> {
        MarName::write_slice("key_name", key_name, writer)?;
        writer.slot("value_len", value_len);
        Ok(())
    }

    /// [`Request::joins`](crate::wire::Request::joins) of a request with this field.
    pub(crate) fn room(value_len: u64) -> usize {
        usize::try_from(value_len).unwrap_or(usize::MAX).saturating_add(64)
    }
}

message! {
    /// Adds to an integer.
    request 3 "req_lib_cmap_adjust_int" -> AdjustIntReply joins(|_| 64): pub struct AdjustInt {
        /// The key.
        key_name: Bytes as MarName,
        /// The number to add. The sum wraps around.
        step: i32 as Slot,
    }
}

message! {
    /// Opens an iterator in the daemon. It reads the prefix again at the first [`IterNext`], from
    /// where this request was: no other request may come between the two.
    request 4 "req_lib_cmap_iter_init" -> IterInitReply: pub struct IterInit {
        /// The prefix of the keys. Empty: all keys.
        prefix: Bytes as MarName,
    }
}

message! {
    /// Asks an iterator for the next key.
    request 5 "req_lib_cmap_iter_next" -> IterNextReply joins(|_| 320): pub struct IterNext {
        /// From [`IterInitReply`].
        iter_handle: u64 as Slot,
    }
}

message! {
    /// Closes an iterator.
    request 6 "req_lib_cmap_iter_finalize" -> IterFinalizeReply: pub struct IterFinalize {
        /// From [`IterInitReply`].
        iter_handle: u64 as Slot,
    }
}

message! {
    /// Starts notifications of a key or of all keys with a prefix.
    request 7 "req_lib_cmap_track_add" -> TrackAddReply: pub struct TrackAdd {
        /// The key or prefix. Empty: all keys.
        key_name: Bytes as MarName,
        /// The changes to report.
        track_type: TrackEvents as Slot,
        /// A value of the client's choice, which every notification returns.
        track_inst_handle: u64 as Slot,
    }
}

message! {
    /// Ends notifications.
    request 8 "req_lib_cmap_track_delete" -> TrackDeleteReply: pub struct TrackDelete {
        /// From [`TrackAddReply`].
        track_handle: u64 as Slot,
    }
}

message! {
    /// Chooses the map that the connection works on. Since corosync 2.99; it crashes earlier daemons.
    request 9 "req_lib_cmap_set_current_map" -> SetCurrentMapReply: pub struct SetCurrentMap {
        /// 0: icmap. 1: stats.
        map: i32 as Slot,
    }
}

message! {
    /// Reply to [`Set`].
    response 0 "res_lib_cmap_set": pub struct SetReply {}
}

message! {
    /// Reply to [`Delete`].
    response 1 "res_lib_cmap_delete": pub struct DeleteReply {}
}

message! {
    /// Reply to [`AdjustInt`].
    response 3 "res_lib_cmap_adjust_int": pub struct AdjustIntReply {}
}

message! {
    /// Reply to [`IterInit`].
    response 4 "res_lib_cmap_iter_init": pub struct IterInitReply {
        /// The iterator's handle on this connection.
        iter_handle: u64 as Slot,
    }
}

message! {
    /// Reply to [`IterNext`]. `CS_ERR_NO_SECTIONS` after the last key.
    response 5 "res_lib_cmap_iter_next": pub struct IterNextReply {
        /// The key.
        key_name: Bytes as MarName,
        /// The length of the value in bytes, including a string's NUL.
        value_len: u64 as Slot,
        /// The type of the value.
        value_type: ValueType as Slot,
    }
}

message! {
    /// Reply to [`IterFinalize`].
    response 6 "res_lib_cmap_iter_finalize": pub struct IterFinalizeReply {}
}

message! {
    /// Reply to [`TrackAdd`].
    response 7 "res_lib_cmap_track_add": pub struct TrackAddReply {
        /// The tracker's handle on this connection.
        track_handle: u64 as Slot,
    }
}

message! {
    /// Reply to [`TrackDelete`].
    response 8 "res_lib_cmap_track_delete": pub struct TrackDeleteReply {
        /// As given to [`TrackAdd`].
        track_inst_handle: u64 as Slot,
    }
}

message! {
    /// Reply to [`SetCurrentMap`].
    response 10 "res_lib_cmap_set_current_map": pub struct SetCurrentMapReply {}
}

/// Reply to [`Get`]. The message has the room for the value that the request asked for, whatever
/// the value's length.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct GetReply {
    /// The length of the value in bytes.
    pub value_len: u64,
    /// The value. Empty if the request asked for type and length only.
    pub value: RawValue,
}

impl Message for GetReply {
    const NAME: &'static str = "res_lib_cmap_get";
    const ID: i32 = 2;
    const KIND: Kind = Kind::Response;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("value_len", self.value_len);
        writer.slot("type", self.value.value_type);
        writer.bytes("value", &self.value.data);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let value_len = reader.number_slot::<u64>("value_len")?;
        let value_type = reader.slot("type")?;
        let sent = if reader.remaining() == 0 { 0 } else { reader.counted(value_len, 1)? };
        let data = reader.bytes("value", sent)?;
        Ok(Self { value_len: value_len.value, value: RawValue { value_type, data } })
    }
}

/// Event: a tracked key was added, modified or deleted.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NotifyCallback {
    /// As given to [`TrackAdd`].
    pub track_inst_handle: u64,
    /// The key.
    pub key_name: Bytes,
    /// The change.
    pub event: TrackEvents,
    /// The value after the change. Type 0 and empty after a delete.
    pub new_value: RawValue,
    /// The value before the change. Type 0 and empty after an add, and where the daemon changed a
    /// number in place.
    pub old_value: RawValue,
}

impl Message for NotifyCallback {
    const NAME: &'static str = "res_lib_cmap_notify_callback";
    const ID: i32 = 9;
    const KIND: Kind = Kind::Event;

    fn write(&self, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("track_inst_handle", self.track_inst_handle);
        <MarName as Encoding<Bytes>>::write("key_name", &self.key_name, writer)?;
        writer.slot("event", self.event);
        writer.slot("new_value_type", self.new_value.value_type);
        writer.slot("old_value_type", self.old_value.value_type);
        writer.slot("new_value_len", self.new_value.data.len() as u64);
        writer.slot("old_value_len", self.old_value.data.len() as u64);
        writer.bytes("new_value", &self.new_value.data);
        writer.bytes("old_value", &self.old_value.data);
        Ok(())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let notify = Notify::read(reader)?;
        let value = |(value_type, data)| RawValue { value_type, data: reader.own(data) };
        Ok(Self {
            track_inst_handle: notify.track_inst_handle,
            key_name: reader.own(notify.key_name),
            event: notify.event,
            new_value: value(notify.new_value),
            old_value: value(notify.old_value),
        })
    }
}

/// A [`NotifyCallback`] in the message that it came in. Each value has its type.
pub(crate) struct Notify<'a> {
    pub(crate) track_inst_handle: u64,
    pub(crate) key_name: &'a [u8],
    pub(crate) event: TrackEvents,
    pub(crate) new_value: (ValueType, &'a [u8]),
    pub(crate) old_value: (ValueType, &'a [u8]),
}

impl<'a> Notify<'a> {
    /// As [`NotifyCallback::decode`].
    pub(crate) fn decode(message: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(NotifyCallback::NAME, message);
        // Of another message no more than this need be there.
        let Header { id, .. } = Header::read(&mut reader, Kind::Request)?;
        if id != NotifyCallback::ID {
            return Err(WireError::UnknownId { message: NotifyCallback::NAME, id });
        }
        let mut reader = Reader::new(NotifyCallback::NAME, message);
        Header::read(&mut reader, NotifyCallback::HEADER)?;
        Self::read(&mut reader)
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, WireError> {
        let track_inst_handle = reader.slot("track_inst_handle")?;
        let key_name = MarName::read_slice("key_name", reader)?;
        let event = reader.slot("event")?;
        let new_type = reader.slot("new_value_type")?;
        let old_type = reader.slot("old_value_type")?;
        let new_length = reader.number_slot::<u64>("new_value_len")?;
        let old_length = reader.number_slot::<u64>("old_value_len")?;
        let mut value = |field, value_type, length| {
            let length = reader.counted(length, 1)?;
            Ok((value_type, reader.take(field, length)?))
        };
        Ok(Self {
            track_inst_handle,
            key_name,
            event,
            new_value: value("new_value", new_type, new_length)?,
            old_value: value("old_value", old_type, old_length)?,
        })
    }
}

any_message! {
    /// Any request of the service.
    pub enum AnyRequest {
        Set, Delete, Get, AdjustInt, IterInit, IterNext, IterFinalize, TrackAdd, TrackDelete, SetCurrentMap,
    }
}

any_message! {
    /// Any reply of the service.
    pub enum AnyResponse {
        SetReply, DeleteReply, GetReply, AdjustIntReply, IterInitReply, IterNextReply, IterFinalizeReply, TrackAddReply,
        TrackDeleteReply, SetCurrentMapReply,
    }
}

any_message! {
    /// Any event of the service.
    pub enum AnyEvent { NotifyCallback }
}

/// A value: its length in a slot, its type in a slot, then the bytes.
pub(crate) struct LengthTypeBytes;

impl Encoding<RawValue> for LengthTypeBytes {
    const TAIL: bool = true;

    fn write(_: &'static str, value: &RawValue, writer: &mut Writer) -> Result<(), WireError> {
        writer.slot("value_len", value.data.len() as u64);
        writer.slot("type", value.value_type);
        writer.bytes("value", &value.data);
        // The daemon looks for a string's NUL beyond the given length.
        writer.padding(1);
        Ok(())
    }

    fn read(_: &'static str, reader: &mut Reader<'_>) -> Result<RawValue, WireError> {
        let length = reader.number_slot::<u64>("value_len")?;
        let value_type = reader.slot("type")?;
        let length = reader.counted(length, 1)?;
        Ok(RawValue { value_type, data: reader.bytes("value", length)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::begin_message;

    #[test]
    fn a_request_is_written_by_its_fields_as_a_whole() {
        let get = Get { key_name: Bytes::from_static(b"totem.token"), value_len: 1024 };
        let mut writer = begin_message::<Get>(Vec::new());
        Get::write_fields(&get.key_name, get.value_len, &mut writer).unwrap();
        assert_eq!(writer.finish(0), get.encode());
    }
}
