//! Byte cursors: [`Reader`] decodes a message, [`Writer`] encodes one.
//!
//! Every read names its field, so that an error says which field of which message is wrong.

use std::{fmt, mem};

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Header;
use super::fields::{Field, Notes, Value};
use crate::error::WireError;

/// A value with the same bytes in memory and on the wire (host byte order).
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {
    /// Returns the value as that of a [`Field`].
    fn value(&self) -> Value;
}

/// The size of the slots that hold most fields: C's `aligned(8)`.
pub(crate) const SLOT: usize = 8;

/// A count or length from the peer that is not checked yet, and its field for the error.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    field: &'static str,
    offset: usize,
    /// The value that the peer sent.
    pub value: u64,
}

/// Decodes a message, front to back.
#[derive(Debug)]
pub struct Reader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    /// The buffer that decoded byte strings share, if they do.
    shared: Option<&'a Bytes>,
    offset: usize,
    /// Gets every field that is read, if somebody looks.
    notes: Option<&'a mut Notes>,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`. `message` is the C name of the message, for errors.
    pub fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { message, bytes, shared: None, offset: 0, notes: None }
    }

    /// As [`Reader::new`], but adds every field that is read to `notes`.
    pub(crate) fn noting(message: &'static str, bytes: &'a [u8], notes: &'a mut Notes) -> Self {
        Self { notes: Some(notes), ..Self::new(message, bytes) }
    }

    /// As [`Reader::new`], but decoded byte strings share the memory of `bytes` instead of being
    /// copied.
    pub fn shared(message: &'static str, bytes: &'a Bytes) -> Self {
        Self { shared: Some(bytes), ..Self::new(message, bytes) }
    }

    /// Returns the C name of the message.
    pub fn message(&self) -> &'static str {
        self.message
    }

    /// Returns how many bytes are not read yet.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.offset)
    }

    /// Returns the offset of the next byte in the message.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reads a value that is not in a slot.
    pub fn get<T: Plain>(&mut self, field: &'static str) -> Result<T, WireError> {
        let bytes = self.advance(field, size_of::<T>())?;
        let value = T::read_from_bytes(bytes)
            .map_err(|_| self.truncated(field, size_of::<T>(), bytes.len()))?;
        self.note(field, size_of::<T>(), || value.value());
        Ok(value)
    }

    /// Reads a value and the rest of its 8-byte slot. The last slot of a message may end after its
    /// value.
    pub fn slot<T: Plain>(&mut self, field: &'static str) -> Result<T, WireError> {
        let value = self.get(field)?;
        self.skip(SLOT.saturating_sub(size_of::<T>()));
        Ok(value)
    }

    /// Reads a count or length that is not in a slot. Check it with [`Reader::counted`] or
    /// [`Reader::bounded`].
    pub fn number<T: Plain + Into<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<Number, WireError> {
        let offset = self.offset;
        Ok(Number { field, offset, value: self.get::<T>(field)?.into() })
    }

    /// As [`Reader::number`], for one in a slot.
    pub fn number_slot<T: Plain + Into<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<Number, WireError> {
        let offset = self.offset;
        Ok(Number { field, offset, value: self.slot::<T>(field)?.into() })
    }

    /// Reads `length` bytes.
    pub fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], WireError> {
        let taken = self.advance(field, length)?;
        self.note(field, length, || Value::Bytes(Bytes::copy_from_slice(taken)));
        Ok(taken)
    }

    /// Names the next field's part of what it belongs to: `.length`, `[2].pid`. For notes only.
    pub(crate) fn part(&mut self, part: impl fmt::Display) -> &mut Self {
        if let Some(notes) = &mut self.notes {
            notes.part = part.to_string();
        }
        self
    }

    /// Notes the field that ends at the offset.
    fn note(&mut self, name: &'static str, size: usize, value: impl FnOnce() -> Value) {
        if let Some(notes) = &mut self.notes {
            let (offset, part) = (self.offset - size, mem::take(&mut notes.part));
            notes.fields.push(Field { name, part, offset, size, value: value() });
            notes.end = self.offset;
        }
    }

    /// Takes `length` bytes, without a note.
    fn advance(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], WireError> {
        let have = self.remaining();
        let taken = match length {
            // Also at an offset beyond the end, after a slot that ended early.
            0 => Some(&[][..]),
            _ => self.offset.checked_add(length).and_then(|end| self.bytes.get(self.offset..end)),
        };
        let taken = taken.ok_or_else(|| self.truncated(field, length, have))?;
        self.offset += length;
        Ok(taken)
    }

    /// Reads `length` bytes. They are copied unless the reader is [`Reader::shared`].
    pub fn bytes(&mut self, field: &'static str, length: usize) -> Result<Bytes, WireError> {
        let taken = self.take(field, length)?;
        Ok(self.own(taken))
    }

    /// Makes a byte string of what was read: a copy unless the reader is [`Reader::shared`].
    pub(crate) fn own(&self, taken: &'a [u8]) -> Bytes {
        self.shared.map_or_else(|| Bytes::copy_from_slice(taken), |shared| shared.slice_ref(taken))
    }

    /// Reads `count` values that follow each other without padding.
    pub fn list<T: Plain>(
        &mut self,
        field: &'static str,
        count: usize,
    ) -> Result<Vec<T>, WireError> {
        let length = count.checked_mul(size_of::<T>());
        let length = length.ok_or_else(|| self.truncated(field, usize::MAX, self.remaining()))?;
        let bytes = self.advance(field, length)?;
        let values: Vec<T> = bytes
            .chunks_exact(size_of::<T>())
            .filter_map(|chunk| T::read_from_bytes(chunk).ok())
            .collect();
        self.note(field, length, || Value::List(values.iter().map(Plain::value).collect()));
        Ok(values)
    }

    /// Checks a count from the peer: that many elements of `element` bytes must fit in the rest of
    /// the message. So no more memory is allocated than was sent.
    pub fn counted(&self, count: Number, element: usize) -> Result<usize, WireError> {
        self.bounded(count, self.remaining() / element.max(1))
    }

    /// Checks a count or length from the peer against a limit of the protocol.
    pub fn bounded(
        &self,
        Number { field, offset, value }: Number,
        limit: usize,
    ) -> Result<usize, WireError> {
        match usize::try_from(value) {
            Ok(bounded) if bounded <= limit => Ok(bounded),
            _ => Err(WireError::TooLarge {
                message: self.message,
                field,
                offset,
                value,
                limit: limit as u64,
            }),
        }
    }

    /// Reads everything that is left.
    pub fn rest(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        self.take(field, self.remaining())
    }

    /// Skips padding. At the end of the message there may be less of it.
    pub fn skip(&mut self, length: usize) {
        self.offset = self.offset.saturating_add(length);
        if let Some(notes) = &mut self.notes {
            notes.end = self.offset;
        }
    }

    /// Skips padding up to the next multiple of 8.
    pub fn align(&mut self) {
        self.skip(self.offset.next_multiple_of(SLOT) - self.offset);
    }

    /// Makes the error for an invalid value of `field`, which begins at `offset`.
    pub fn invalid(&self, field: &'static str, offset: usize, value: i64) -> WireError {
        WireError::Invalid { message: self.message, field, offset, value }
    }

    fn truncated(&self, field: &'static str, need: usize, have: usize) -> WireError {
        WireError::Truncated { message: self.message, field, offset: self.offset, need, have }
    }
}

/// The room that a new message gets: most fit in it, so that they are allocated once.
pub(crate) const TYPICAL_SIZE: usize = 512;

/// Encodes a message, front to back. Padding is zeros.
#[derive(Debug)]
pub struct Writer {
    message: &'static str,
    bytes: Vec<u8>,
    /// The name, the offset and the size of each field, for tests.
    #[cfg(test)]
    pub(crate) trace: Vec<(&'static str, usize, usize)>,
}

impl Writer {
    /// Starts an empty message. `message` is its C name, for errors.
    pub fn new(message: &'static str) -> Self {
        Self::over(message, Vec::new())
    }

    /// As [`Writer::new`], but writes over what is in a buffer.
    pub(crate) fn over(message: &'static str, mut buffer: Vec<u8>) -> Self {
        buffer.clear();
        buffer.reserve(TYPICAL_SIZE);
        Self {
            message,
            bytes: buffer,
            #[cfg(test)]
            trace: Vec::new(),
        }
    }

    /// Appends a value that is not in a slot.
    pub fn put<T: Plain>(&mut self, field: &'static str, value: T) {
        self.bytes(field, value.as_bytes());
    }

    /// Appends a value and fills its 8-byte slot.
    pub fn slot<T: Plain>(&mut self, field: &'static str, value: T) {
        self.put(field, value);
        self.align();
    }

    /// Appends values without padding between them.
    pub fn list<T: Plain>(&mut self, field: &'static str, values: &[T]) {
        self.bytes(field, values.as_bytes());
    }

    /// Appends bytes.
    pub fn bytes(&mut self, field: &'static str, bytes: &[u8]) {
        #[cfg(test)]
        self.trace.push((field, self.bytes.len(), bytes.len()));
        let _ = field;
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `bytes` and zeros up to `size`: a C array of fixed size.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] for more bytes than `limit` or `size`.
    pub fn padded(
        &mut self,
        field: &'static str,
        bytes: &[u8],
        size: usize,
        limit: usize,
    ) -> Result<(), WireError> {
        self.length(field, bytes.len(), limit.min(size))?;
        #[cfg(test)]
        self.trace.push((field, self.bytes.len(), size));
        let end = self.bytes.len() + size;
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(end, 0);
        Ok(())
    }

    /// Appends `length` zeros that belong to no field.
    pub fn padding(&mut self, length: usize) {
        self.bytes.resize(self.bytes.len() + length, 0);
    }

    /// Appends padding up to the next multiple of 8.
    pub fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(SLOT), 0);
    }

    /// Checks the caller's length against a limit and returns it as a 32-bit field.
    pub fn length(
        &self,
        field: &'static str,
        length: usize,
        limit: usize,
    ) -> Result<u32, WireError> {
        match u32::try_from(length) {
            Ok(value) if length <= limit => Ok(value),
            _ => Err(WireError::TooLarge {
                message: self.message,
                field,
                offset: self.bytes.len(),
                value: length as u64,
                limit: limit.min(u32::MAX as usize) as u64,
            }),
        }
    }

    /// Returns how many bytes were appended.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Ends the message: writes its size into the header. `tail` is the number of bytes that the
    /// caller sends after it.
    pub(crate) fn finish(mut self, tail: usize) -> Result<Vec<u8>, WireError> {
        let size =
            self.length("header.size", self.bytes.len().saturating_add(tail), i32::MAX as usize)?;
        Header::set_size(&mut self.bytes, size);
        Ok(self.bytes)
    }
}
