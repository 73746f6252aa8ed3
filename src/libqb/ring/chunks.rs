//! libqb's ring of chunks: one end produces, the other consumes. Matches `lib/ringbuffer.c`.
//!
//! A ring is two files. The header file holds the indices, the semaphore and the flow control word.
//! The data file holds the chunks. A chunk is its size, a magic number, and the payload padded to a
//! word. Indices count words modulo the size of the data. Each index has one writer, which keeps
//! its own copy and never reads it back from memory that the other end can write.

use std::mem;
use std::time::Duration;

#[cfg(any(test, feature = "__fuzzing"))]
use bytes::Bytes;

use super::region::Region;
use super::sem;
use super::spin::Spin;
use crate::error::RingError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

const WRITE_PT: usize = 0;
const READ_PT: usize = 4;
const WORD_SIZE: usize = 8;
#[cfg(feature = "server")]
const HDR_PATH: usize = 12;
#[cfg(feature = "server")]
const DATA_PATH: usize = HDR_PATH + PATH_SIZE;
#[cfg(feature = "server")]
const PATH_SIZE: usize = 4096;
const REF_COUNT: usize = 8204;
const SEMAPHORE: usize = 8208;
const USER_DATA: usize = 8240;

/// How many bytes of the header file are used.
pub(crate) const HEADER_SIZE: usize = USER_DATA;

/// How many bytes of the request ring's header file are used: it has the flow control word too.
pub(crate) const REQUEST_HEADER_SIZE: usize = USER_DATA + 4;

/// The size of a header file that libqb makes: that of the struct, rounded up.
#[cfg(feature = "server")]
pub(crate) const HEADER_FILE_SIZE: usize = 8248;

/// The same with the flow control word.
#[cfg(feature = "server")]
pub(crate) const REQUEST_HEADER_FILE_SIZE: usize = HEADER_FILE_SIZE + 4;

const WORD: usize = size_of::<u32>();

/// Words in front of a chunk's payload: its size and its magic. Matches `QB_RB_CHUNK_HEADER_WORDS`.
const CHUNK_HEADER_WORDS: u32 = 2;

/// The same in bytes: what a message takes in a ring in addition to its length.
pub(crate) const CHUNK_HEADER_SIZE: usize = CHUNK_HEADER_WORDS as usize * WORD;

/// Bytes that must stay free behind a payload. Matches `QB_RB_CHUNK_MARGIN`.
pub(crate) const CHUNK_MARGIN: usize = 12;

/// The size of the smallest data file that is accepted: a page. For loom it is a few words, since
/// loom explores every word.
const MIN_DATA_SIZE: u64 = if cfg!(loom) { 64 } else { 4096 };

/// The size of the largest data file that is accepted. The C libraries ask for 1 MiB, and the
/// daemon may only raise that. It limits the memory of one message: a chunk is never larger than
/// the ring.
const MAX_DATA_SIZE: u64 = 64 << 20;

/// The magic numbers, which differ between the generations of libqb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Marks a chunk that is complete.
    live: u32,
    /// Marks a chunk that was consumed.
    dead: u32,
    /// Marks a chunk being written.
    alloc: u32,
}

impl Format {
    /// libqb 0.14 and later. Matches `QB_RB_CHUNK_MAGIC` and its siblings.
    pub(crate) const LIBQB_014: Self =
        Self { live: 0xA1A1_A1A1, dead: 0xD0D0_D0D0, alloc: 0xA110_CED0 };

    /// libqb 0.10 to 0.13.
    pub(crate) const LIBQB_010: Self = Self { live: 0xAAAA_AAAA, dead: 0, alloc: 0xAAAA_AAAA };
}

/// A ring, as both ends use it.
pub(crate) struct Ring<R> {
    name: &'static str,
    format: Format,
    pub(super) header: R,
    pub(super) data: R,
    words: u32,
}

impl<R: Region> Ring<R> {
    /// Opens a ring that the other end created. Its size is read and checked once, here.
    pub(crate) fn open(
        name: &'static str,
        format: Format,
        header: R,
        data: R,
    ) -> Result<Self, RingError> {
        let have = data.size() as u64;
        if have > MAX_DATA_SIZE {
            return Err(RingError::TooLarge { ring: name, have, limit: MAX_DATA_SIZE });
        }
        // Relaxed: written before the connection reply was sent, and the socket orders the two.
        let words = header.word(WORD_SIZE).load(Ordering::Relaxed);
        if header.is_lost() {
            return Err(RingError::Truncated { ring: name });
        }
        let need = (u64::from(words) * WORD as u64).max(MIN_DATA_SIZE);
        if have < need {
            return Err(RingError::TooSmall { ring: name, file: "data", have, need });
        }
        if u64::from(words) * (WORD as u64) < MIN_DATA_SIZE {
            return Err(RingError::Index { ring: name, index: 0, words });
        }
        Ok(Self { name, format, header, data, words })
    }

    /// Creates a ring in memory that is all zeros. The other end opens the files by the paths in
    /// the header.
    #[cfg(feature = "server")]
    pub(crate) fn create(
        name: &'static str,
        format: Format,
        header: R,
        data: R,
        paths: [&[u8]; 2],
    ) -> Result<Self, RingError> {
        let words = u32::try_from(data.size() / WORD).unwrap_or(u32::MAX);
        header.word(WORD_SIZE).store(words, Ordering::Relaxed);
        for (offset, path) in [HDR_PATH, DATA_PATH].into_iter().zip(paths) {
            header.copy_in(offset, path.get(..PATH_SIZE - 1).unwrap_or(path));
        }
        header.word(REF_COUNT).store(1, Ordering::Relaxed);
        sem::share(header.word(SEMAPHORE + sem::PRIVATE));
        Self::open(name, format, header, data)
    }

    /// Makes the producer of the ring.
    pub(crate) fn producer(self) -> Result<Producer<R>, RingError> {
        let write = self.index(WRITE_PT)?;
        Ok(Producer { ring: self, write, staged: 0 })
    }

    /// Makes the consumer of the ring.
    pub(crate) fn consumer(self) -> Result<Consumer<R>, RingError> {
        let read = self.index(READ_PT)?;
        Ok(Consumer { ring: self, read, spin: Spin::new() })
    }

    /// How many processes use the ring: 2 while both ends do.
    pub(crate) fn ref_count(&self) -> &AtomicU32 {
        self.header.word(REF_COUNT)
    }

    /// Refuses a ring that has another user than its creator: it belongs to another connection.
    pub(crate) fn check_unused(&self) -> Result<(), RingError> {
        // Relaxed: the daemon reads the count only after it read from the socket.
        match self.ref_count().load(Ordering::Relaxed) {
            1 => Ok(()),
            _ => Err(RingError::InUse { ring: self.name }),
        }
    }

    /// Counts this process as the second user.
    pub(crate) fn attach(&self) -> Result<(), RingError> {
        self.ref_count()
            .compare_exchange(1, 2, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
            .map_err(|_| RingError::InUse { ring: self.name })
    }

    /// Stops being counted as a user.
    pub(crate) fn detach(&self) {
        // Relaxed: no other data depends on it.
        self.ref_count().fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a file of the ring was truncated and this process has touched the missing part.
    pub(crate) fn is_lost(&self) -> bool {
        self.header.is_lost() || self.data.is_lost()
    }

    /// Fails if a file of the ring was truncated. Call it after every use of the ring's memory
    /// whose result matters.
    pub(crate) fn check(&self) -> Result<(), RingError> {
        if self.is_lost() { Err(RingError::Truncated { ring: self.name }) } else { Ok(()) }
    }

    /// The flow control word, which only the request ring has.
    pub(crate) fn flow_control(&self) -> &AtomicU32 {
        self.header.word(USER_DATA)
    }

    /// Reads an index from shared memory.
    fn index(&self, field: usize) -> Result<u32, RingError> {
        // Acquire: pairs with the other end's store of the index, after its access to the chunk
        // before the index.
        let index = self.header.word(field).load(Ordering::Acquire);
        if index < self.words {
            Ok(index)
        } else {
            Err(RingError::Index { ring: self.name, index, words: self.words })
        }
    }

    fn semaphore(&self) -> &AtomicU64 {
        self.header.double_word(SEMAPHORE)
    }

    /// The word that is `distance` words after `index`. Both are below `words`, which is below
    /// 2^30.
    fn word(&self, index: u32, distance: u32) -> &AtomicU32 {
        self.data.word(self.offset(index, distance))
    }

    fn offset(&self, index: u32, distance: u32) -> usize {
        ((index + distance) % self.words) as usize * WORD
    }

    /// Returns the index after a chunk of `size` bytes at `index`.
    fn step(&self, index: u32, size: u32) -> u32 {
        (index + CHUNK_HEADER_WORDS + size.div_ceil(WORD as u32)) % self.words
    }

    /// Returns how many of `length` bytes at `offset` lie before the end of the data, where the
    /// ring wraps around.
    fn wrap(&self, offset: usize, length: usize) -> usize {
        length.min(self.words as usize * WORD - offset)
    }

    /// The size of the ring in bytes.
    pub(crate) fn size(&self) -> usize {
        self.words as usize * WORD
    }

    /// The size of the largest chunk that the other end can have written.
    pub(crate) fn max_chunk(&self) -> usize {
        self.size() - CHUNK_MARGIN
    }
}

/// The end of a ring that writes chunks.
pub(crate) struct Producer<R> {
    ring: Ring<R>,
    /// Where the next chunk begins.
    write: u32,
    /// How many chunks were written that the consumer does not know of.
    staged: u32,
}

impl<R: Region> Producer<R> {
    /// The ring.
    pub(crate) fn ring(&self) -> &Ring<R> {
        &self.ring
    }

    /// Returns how many bytes are free. Matches `qb_rb_space_free`. Unlike in C, one word always
    /// stays free: C allows a chunk that fills an empty ring to the last word, and then full and
    /// empty look the same while the reader is busy with the chunk.
    fn free(&self) -> Result<usize, RingError> {
        let ring = &self.ring;
        let read = ring.index(READ_PT)?;
        Ok(((read + ring.words - self.write - 1) % ring.words) as usize * WORD)
    }

    /// Returns how many bytes of the ring are used, chunk headers included. A hostile consumer can
    /// make it any number below the size.
    pub(crate) fn used(&self) -> usize {
        let words = self.ring.words;
        // Relaxed: this is a hint, and any value is harmless.
        let read = self.ring.header.word(READ_PT).load(Ordering::Relaxed) % words;
        ((self.write + words - read) % words) as usize * WORD
    }

    /// Writes the parts as one chunk and shows it to the consumer. Returns `false` if there is no
    /// room.
    #[cfg(any(test, feature = "__fuzzing", feature = "server"))]
    pub(crate) fn try_send(&mut self, parts: &[&[u8]]) -> Result<bool, RingError> {
        let sent = self.stage(parts)?;
        if sent {
            self.commit()?;
        }
        Ok(sent)
    }

    /// Writes the parts as one chunk, which the consumer does not know of before
    /// [`Producer::commit`]. Returns `false` if there is no room.
    pub(crate) fn stage(&mut self, parts: &[&[u8]]) -> Result<bool, RingError> {
        let staged = self.write_chunk(parts);
        // A truncated mapping is replaced in this process only, so the other end would find a chunk
        // that is not live.
        self.ring.check()?;
        staged
    }

    fn write_chunk(&mut self, parts: &[&[u8]]) -> Result<bool, RingError> {
        let ring = &self.ring;
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let free = self.free()?;
        let chunk_size = match u32::try_from(size) {
            Ok(chunk_size) if free >= size.saturating_add(CHUNK_MARGIN) => chunk_size,
            _ => return Ok(false),
        };
        let (start, format) = (self.write, ring.format);
        ring.word(start, 0).store(0, Ordering::Relaxed);
        // Release: pairs with nothing the consumer needs; as qb_rb_chunk_alloc.
        ring.word(start, 1).store(format.alloc, Ordering::Release);
        let mut offset = ring.offset(start, CHUNK_HEADER_WORDS);
        for part in parts {
            let (before, behind) = part.split_at(ring.wrap(offset, part.len()));
            ring.data.copy_in(offset, before);
            if !behind.is_empty() {
                ring.data.copy_in(0, behind);
            }
            offset = (offset + part.len()) % (ring.words as usize * WORD);
        }
        ring.word(start, 0).store(chunk_size, Ordering::Relaxed);
        self.write = ring.step(start, chunk_size);
        self.staged += 1;
        // Release: pairs with the acquire of the magic in qb_rb_chunk_peek, which makes payload and
        // size visible.
        ring.word(start, 1).store(format.live, Ordering::Release);
        Ok(true)
    }

    /// Shows the consumer the chunks that were written since the last call, all at once.
    pub(crate) fn commit(&mut self) -> Result<(), RingError> {
        let ring = &self.ring;
        ring.header.word(WRITE_PT).store(self.write, Ordering::Relaxed);
        // Makes the store of write_pt visible too.
        sem::post(ring.semaphore(), mem::take(&mut self.staged));
        ring.check()
    }

    /// Returns how many chunks the consumer has not taken. A hostile consumer can make it any
    /// number.
    pub(crate) fn backlog(&self) -> u32 {
        sem::count(self.ring.semaphore())
    }

    /// Whether a chunk of this size fits in an empty ring.
    pub(crate) fn fits(&self, size: usize) -> bool {
        size <= self.ring.max_chunk() - WORD
    }
}

/// The end of a ring that reads chunks.
pub(crate) struct Consumer<R> {
    ring: Ring<R>,
    read: u32,
    spin: Spin,
}

impl<R: Region> Consumer<R> {
    /// The ring.
    pub(crate) fn ring(&self) -> &Ring<R> {
        &self.ring
    }

    /// Whether a chunk or an error waits. This is a hint: a chunk may arrive at any time.
    pub(crate) fn has_chunk(&self) -> bool {
        sem::count(self.ring.semaphore()) > 0 || self.ring.is_lost()
    }

    /// Returns how many bytes of the ring are used, chunk headers included; 0 when it is full to
    /// the last word. A hostile producer can make it any number below the size.
    pub(crate) fn used(&self) -> usize {
        let words = self.ring.words;
        // Relaxed: this is a hint, and any value is harmless.
        let write = self.ring.header.word(WRITE_PT).load(Ordering::Relaxed) % words;
        ((write + words - self.read) % words) as usize * WORD
    }

    /// Takes the next chunk, if there is one.
    #[cfg(any(test, feature = "__fuzzing"))]
    pub(crate) fn try_receive(&mut self) -> Result<Option<Bytes>, RingError> {
        let mut chunk = Vec::new();
        Ok(self.try_receive_into(&mut chunk)?.then(|| chunk.into()))
    }

    /// Takes the next chunk and writes it over what is in `chunk`. Returns `false` if there is
    /// none.
    pub(crate) fn try_receive_into(&mut self, chunk: &mut Vec<u8>) -> Result<bool, RingError> {
        let is_there = sem::try_wait(self.ring.semaphore());
        self.take_if(is_there, chunk)
    }

    /// Begins to wait for a chunk, which [`Consumer::receive_into`] goes on with. [`Spin`] decides
    /// whether it spins first, at most for `timeout`.
    pub(crate) fn spin(&mut self, timeout: Duration) {
        let semaphore = self.ring.semaphore();
        self.spin.begin(timeout, || sem::count(semaphore) > 0);
    }

    /// As [`Consumer::try_receive_into`], sleeping up to `timeout` for a chunk.
    pub(crate) fn receive_into(
        &mut self,
        timeout: Duration,
        chunk: &mut Vec<u8>,
    ) -> Result<bool, RingError> {
        let taken = sem::wait(self.ring.semaphore(), timeout);
        if taken {
            self.spin.end();
        }
        self.take_if(taken, chunk)
    }

    #[cfg(test)]
    pub(crate) fn receive(&mut self, timeout: Duration) -> Result<Option<Bytes>, RingError> {
        let mut chunk = Vec::new();
        Ok(self.receive_into(timeout, &mut chunk)?.then(|| chunk.into()))
    }

    fn take_if(&mut self, is_there: bool, chunk: &mut Vec<u8>) -> Result<bool, RingError> {
        let taken = if is_there { self.take(chunk).map(|()| true) } else { Ok(false) };
        self.ring.check()?;
        taken
    }

    /// Copies out the chunk for which the semaphore was posted and frees its room. Matches
    /// `qb_rb_chunk_read`.
    fn take(&mut self, chunk: &mut Vec<u8>) -> Result<(), RingError> {
        let ring = &self.ring;
        let start = self.read;
        // Acquire: pairs with the release of the magic in qb_rb_chunk_commit, or in
        // `Producer::stage`.
        let magic = ring.word(start, 1).load(Ordering::Acquire);
        if magic != ring.format.live {
            return Err(RingError::Magic { ring: ring.name, magic });
        }
        let size = ring.word(start, 0).load(Ordering::Relaxed);
        let limit = ring.max_chunk();
        if size as usize > limit {
            return Err(RingError::ChunkSize { ring: ring.name, size, limit: limit as u32 });
        }
        let length = size as usize;
        let offset = ring.offset(start, CHUNK_HEADER_WORDS);
        let before = ring.wrap(offset, length);
        chunk.clear();
        if chunk.capacity() < length {
            // Not `reserve`, which copies what was there.
            *chunk = Vec::with_capacity(length);
        }
        ring.data.copy_out(offset, before, chunk);
        if before < length {
            ring.data.copy_out(0, length - before, chunk);
        }
        self.read = ring.step(start, size);
        // As _rb_chunk_reclaim: the chunk is cleared before read_pt frees its room.
        ring.word(start, 0).store(0, Ordering::Relaxed);
        ring.word(start, 1).store(ring.format.dead, Ordering::Release);
        // Release: pairs with the acquire of read_pt in the producer's space check, so that it
        // writes after the copy.
        ring.header.word(READ_PT).store(self.read, Ordering::Release);
        Ok(())
    }
}
