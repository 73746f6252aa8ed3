//! The memory that messages are received in.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

use std::mem;
use std::ops::Deref;

use bytes::Bytes;

/// The size up to which a message is copied when it is given away, so that the buffer stays. Copying
/// that much takes less time than allocating.
pub(crate) const MOST_COPIED: usize = 2048;

/// The size from which on a message that was given away is remembered, so that its memory is used
/// again once its receiver has dropped it. The system gives memory of this size page by page, which
/// takes longer than copying the message.
const LEAST_REMEMBERED: usize = 64 << 10;

/// How many messages in a row may leave most of a large buffer unused before it is given up.
const MOST_UNUSED: u32 = 64;

/// Receives messages, one after the other, in the same memory where that can be. Dereferences to the
/// message.
///
/// It keeps at most the memory of one message, and remembers one that was given away. Of a large
/// buffer nothing is given away that uses less than half of it: a small message must not keep a
/// large one's memory.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// A large message that was given away. Empty: none is remembered.
    given: Bytes,
    unused: u32,
}

impl Buffer {
    /// The vector to receive the next message in.
    pub(crate) fn room(&mut self) -> &mut Vec<u8> {
        let (size, capacity) = (self.bytes.len(), self.bytes.capacity());
        if size >= capacity / 2 {
            self.unused = 0;
        } else if size > 0 && capacity >= LEAST_REMEMBERED {
            self.unused += 1;
            if self.unused > MOST_UNUSED {
                (self.bytes, self.unused) = (Vec::new(), 0);
            }
        }
        if !self.given.is_empty() {
            match mem::take(&mut self.given).try_into_mut() {
                Ok(mut free) => {
                    // Without what is in it, which would be copied.
                    free.clear();
                    self.bytes = free.into();
                }
                Err(given) => self.given = given,
            }
        }
        self.bytes.clear();
        &mut self.bytes
    }

    /// Gives the message away.
    pub(crate) fn take(&mut self) -> Bytes {
        let size = self.bytes.len();
        if size <= MOST_COPIED || size < self.bytes.capacity() / 2 {
            return Bytes::copy_from_slice(&self.bytes);
        }
        let message = Bytes::from(mem::take(&mut self.bytes));
        if size >= LEAST_REMEMBERED {
            self.given = message.clone();
        }
        message
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
impl<T: Into<Vec<u8>>> From<T> for Buffer {
    fn from(message: T) -> Self {
        Self { bytes: message.into(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(buffer: &mut Buffer, size: usize) -> *const u8 {
        let room = buffer.room();
        if room.capacity() < size {
            *room = Vec::with_capacity(size);
        }
        room.resize(size, 7);
        buffer.as_ptr()
    }

    #[test]
    fn what_nobody_keeps_is_used_again() {
        let mut buffer = Buffer::default();
        for size in [MOST_COPIED + 1, LEAST_REMEMBERED, 1 << 20] {
            let first = receive(&mut buffer, size);
            assert_eq!(receive(&mut buffer, size), first);
            assert_eq!(receive(&mut buffer, 10), first);
        }
        let small = buffer.take();
        assert_eq!(small, vec![7; 10]);
        assert!(buffer.bytes.capacity() >= 1 << 20);
    }

    #[test]
    fn the_memory_of_a_large_message_comes_back_when_its_last_part_is_dropped() {
        let mut buffer = Buffer::default();
        let first = receive(&mut buffer, 1 << 20);
        let mut message = buffer.take();
        let part = message.split_off(1000);
        drop(message);
        assert_ne!(receive(&mut buffer, 1 << 20), first);
        let other = buffer.take();
        assert_eq!(part, vec![7; (1 << 20) - 1000]);
        drop((part, other));
        let again = receive(&mut buffer, 1 << 20);
        drop(buffer.take());
        assert_eq!(receive(&mut buffer, 1 << 20), again);
    }

    #[test]
    fn a_smaller_message_keeps_no_large_memory() {
        let mut buffer = Buffer::default();
        receive(&mut buffer, 1 << 20);
        receive(&mut buffer, 100_000);
        let message = buffer.take();
        assert_eq!(Vec::from(message).capacity(), 100_000);
        receive(&mut buffer, 600_000);
        assert!(Vec::from(buffer.take()).capacity() >= 600_000);
    }

    #[test]
    fn a_large_buffer_is_given_up_when_only_small_messages_come() {
        let mut buffer = Buffer::default();
        receive(&mut buffer, 1 << 20);
        drop(buffer.take());
        for _ in 0..MOST_UNUSED + 2 {
            assert_eq!(buffer.given.len(), if buffer.bytes.capacity() > 0 { 0 } else { 1 << 20 });
            receive(&mut buffer, 100);
        }
        receive(&mut buffer, 100);
        assert!(buffer.bytes.capacity() < 1000 && buffer.given.is_empty());
    }
}
