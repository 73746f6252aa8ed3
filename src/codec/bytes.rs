//! Byte cursors: [`Reader`] takes a message apart, [`Writer`] puts one together.
//!
//! Every read names its field, so that an error says which field of which message did not fit.

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Header;
use crate::error::WireError;

/// A value with the same bytes in memory and on the wire (host byte order).
pub trait Plain: FromBytes + IntoBytes + Immutable + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + Copy> Plain for T {}

/// Size of the slots most fields sit in: C's `aligned(8)`.
pub(crate) const SLOT: usize = 8;

/// What a field was called and where it was, for the tests that hold the codecs against the tables.
#[cfg(test)]
pub(crate) type Trace = Vec<(&'static str, usize, usize)>;

/// A count or length of the peer's, and where it stood, for the error if it is not to be believed.
#[derive(Clone, Copy, Debug)]
pub struct Number {
    field: &'static str,
    offset: usize,
    /// As it came.
    pub value: u64,
}

/// Takes a message apart, front to back.
#[derive(Debug)]
pub struct Reader<'a> {
    message: &'static str,
    bytes: &'a [u8],
    /// What the bytes are part of, if byte strings shall share it.
    shared: Option<&'a Bytes>,
    offset: usize,
    #[cfg(test)]
    pub(crate) trace: Trace,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `bytes`, which should be a `message` (its C name).
    pub fn new(message: &'static str, bytes: &'a [u8]) -> Self {
        Self {
            message,
            bytes,
            shared: None,
            offset: 0,
            #[cfg(test)]
            trace: Vec::new(),
        }
    }

    /// As [`Reader::new`], but the byte strings that are read share the memory of `bytes` instead
    /// of being copied.
    pub fn shared(message: &'static str, bytes: &'a Bytes) -> Self {
        Self { shared: Some(bytes), ..Self::new(message, bytes) }
    }

    /// C name of the message being read.
    pub fn message(&self) -> &'static str {
        self.message
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.offset)
    }

    /// Where the next byte is, counted from the start of the message.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Reads a value that is not in a slot.
    pub fn get<T: Plain>(&mut self, field: &'static str) -> Result<T, WireError> {
        let bytes = self.take(field, size_of::<T>())?;
        T::read_from_bytes(bytes).map_err(|_| self.truncated(field, size_of::<T>(), bytes.len()))
    }

    /// Reads a value and the rest of its 8-byte slot. The last slot of a message may be cut short
    /// behind its value.
    pub fn slot<T: Plain>(&mut self, field: &'static str) -> Result<T, WireError> {
        let value = self.get(field)?;
        self.skip(SLOT.saturating_sub(size_of::<T>()));
        Ok(value)
    }

    /// Reads a count or length that is not in a slot, to be checked by [`Reader::counted`] or
    /// [`Reader::bounded`].
    pub fn number<T: Plain + Into<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<Number, WireError> {
        let offset = self.offset;
        Ok(Number { field, offset, value: self.get::<T>(field)?.into() })
    }

    /// As [`Reader::number`], of one in a slot.
    pub fn number_slot<T: Plain + Into<u64>>(
        &mut self,
        field: &'static str,
    ) -> Result<Number, WireError> {
        let offset = self.offset;
        Ok(Number { field, offset, value: self.slot::<T>(field)?.into() })
    }

    /// Reads `length` bytes.
    pub fn take(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], WireError> {
        let have = self.remaining();
        let taken = match length {
            // Also behind a slot that is cut short.
            0 => Some(&[][..]),
            _ => self.offset.checked_add(length).and_then(|end| self.bytes.get(self.offset..end)),
        };
        let taken = taken.ok_or_else(|| self.truncated(field, length, have))?;
        #[cfg(test)]
        self.trace.push((field, self.offset, length));
        self.offset += length;
        Ok(taken)
    }

    /// Reads `length` bytes into an owned buffer, or shares them: see [`Reader::shared`].
    pub fn bytes(&mut self, field: &'static str, length: usize) -> Result<Bytes, WireError> {
        let taken = self.take(field, length)?;
        Ok(self
            .shared
            .map_or_else(|| Bytes::copy_from_slice(taken), |shared| shared.slice_ref(taken)))
    }

    /// Reads `count` values that follow each other without padding.
    pub fn list<T: Plain>(
        &mut self,
        field: &'static str,
        count: usize,
    ) -> Result<Vec<T>, WireError> {
        let length = count.checked_mul(size_of::<T>());
        let length = length.ok_or_else(|| self.truncated(field, usize::MAX, self.remaining()))?;
        let bytes = self.take(field, length)?;
        Ok(bytes
            .chunks_exact(size_of::<T>())
            .filter_map(|chunk| T::read_from_bytes(chunk).ok())
            .collect())
    }

    /// Checks a count or length from the peer: everything it announces must fit in what is left of
    /// the message, at `element` bytes each. So nothing is allocated that was not sent.
    pub fn counted(&self, count: Number, element: usize) -> Result<usize, WireError> {
        self.bounded(count, self.remaining() / element.max(1))
    }

    /// Checks a count or length from the peer against what the protocol allows.
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

    /// Everything not yet read.
    pub fn rest(&mut self, field: &'static str) -> Result<&'a [u8], WireError> {
        self.take(field, self.remaining())
    }

    /// Passes over padding; at the end of the message there may be less of it.
    pub fn skip(&mut self, length: usize) {
        self.offset = self.offset.saturating_add(length);
    }

    /// Passes over padding up to the next multiple of 8.
    pub fn align(&mut self) {
        self.skip(self.offset.next_multiple_of(SLOT) - self.offset);
    }

    /// The error for a value that has no meaning in `field`, which begins at `offset`.
    pub fn invalid(&self, field: &'static str, offset: usize, value: i64) -> WireError {
        WireError::Invalid { message: self.message, field, offset, value }
    }

    fn truncated(&self, field: &'static str, need: usize, have: usize) -> WireError {
        WireError::Truncated { message: self.message, field, offset: self.offset, need, have }
    }
}

/// Puts a message together, front to back. Padding is zeros.
#[derive(Debug)]
pub struct Writer {
    message: &'static str,
    bytes: Vec<u8>,
    #[cfg(test)]
    pub(crate) trace: Trace,
}

impl Writer {
    /// An empty `message` (its C name).
    pub fn new(message: &'static str) -> Self {
        Self {
            message,
            bytes: Vec::with_capacity(64),
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

    /// Appends bytes as they are.
    pub fn bytes(&mut self, field: &'static str, bytes: &[u8]) {
        #[cfg(test)]
        self.trace.push((field, self.bytes.len(), bytes.len()));
        let _ = field;
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends `bytes` and zeros up to `size`: a C array of fixed size.
    ///
    /// # Errors
    /// [`WireError::TooLarge`] when they are more than `limit`, which is at most `size`.
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

    /// Checks a length that the caller gave against a limit and returns it as it goes into a 32-bit
    /// field.
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

    /// The bytes appended so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was appended yet.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Ends the message: writes its length plus `tail` (bytes the caller sends behind it) into the
    /// header's size field.
    pub(crate) fn finish(mut self, tail: usize) -> Result<Vec<u8>, WireError> {
        let size =
            self.length("header.size", self.bytes.len().saturating_add(tail), i32::MAX as usize)?;
        Header::set_size(&mut self.bytes, size);
        Ok(self.bytes)
    }
}
