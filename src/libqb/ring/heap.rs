//! A ring on the heap, which tests, loom and fuzzers use in place of the two files.

use std::sync::Arc;

use super::chunks::{Consumer, Format, Producer, Ring};
use super::region::Region;
use crate::error::RingError;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Stands in for both files of a ring.
#[derive(Clone)]
pub(crate) struct Heap(Arc<Words>);

struct Words {
    words: Vec<AtomicU32>,
    semaphore: AtomicU64,
}

impl Heap {
    pub(super) fn new(words: usize) -> Self {
        let words = (0..words).map(|_| AtomicU32::new(0)).collect();
        Self(Arc::new(Words { words, semaphore: AtomicU64::new(0) }))
    }

    /// A header, whose fields are at offsets that need not be filled up to.
    pub(super) fn header(word_size: u32) -> Self {
        let header = Self::new(5);
        header.word(8).store(word_size, Ordering::Relaxed);
        header
    }
}

impl Region for Heap {
    fn size(&self) -> usize {
        self.0.words.len() * 4
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        let word = match offset {
            8204 => 3,
            8240 => 4,
            offset => offset / 4,
        };
        &self.0.words[word]
    }

    fn double_word(&self, _: usize) -> &AtomicU64 {
        &self.0.semaphore
    }

    fn copy_out(&self, offset: usize, length: usize, out: &mut Vec<u8>) {
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let word = self.0.words[at / 4].load(Ordering::Relaxed).to_ne_bytes();
            let part = &word[at % 4..(end - at / 4 * 4).min(4)];
            out.extend_from_slice(part);
            at += part.len();
        }
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let word = &self.0.words[at / 4];
            let (part, behind) = rest.split_at((4 - at % 4).min(rest.len()));
            let mut value = match part.len() {
                4 => [0; 4],
                _ => word.load(Ordering::Relaxed).to_ne_bytes(),
            };
            value[at % 4..][..part.len()].copy_from_slice(part);
            word.store(u32::from_ne_bytes(value), Ordering::Relaxed);
            (at, rest) = (at + part.len(), behind);
        }
    }

    fn is_lost(&self) -> bool {
        false
    }
}

pub(super) fn ring(header: &Heap, data: &Heap) -> Result<Ring<Heap>, RingError> {
    open(header.clone(), data.clone())
}

/// Opens a ring in memory of any kind.
pub(crate) fn open<R: Region>(header: R, data: R) -> Result<Ring<R>, RingError> {
    Ring::open("test", Format::LIBQB_014, header, data)
}

/// The header and the data of a ring of that many words.
pub(crate) fn memory(words: u32) -> (Heap, Heap) {
    (Heap::header(words), Heap::new(words as usize))
}

pub(crate) fn pair(words: u32) -> (Producer<Heap>, Consumer<Heap>, Heap, Heap) {
    pair_at(words, 0)
}

/// Both ends of an empty ring whose indices have gone round as far as `start`.
pub(crate) fn pair_at(words: u32, start: u32) -> (Producer<Heap>, Consumer<Heap>, Heap, Heap) {
    let (header, data) = memory(words);
    header.word(0).store(start, Ordering::Relaxed);
    header.word(4).store(start, Ordering::Relaxed);
    let producer = ring(&header, &data).unwrap().producer().unwrap();
    let consumer = ring(&header, &data).unwrap().consumer().unwrap();
    (producer, consumer, header, data)
}

/// Uses both ends of a ring whose memory, indices and semaphore hold anything.
#[cfg(any(test, feature = "__fuzzing"))]
pub(crate) fn use_hostile(bytes: &[u8]) {
    let (mut producer, mut consumer, header, data) = pair(1024);
    for (at, word) in bytes.chunks_exact(4).take(1027).enumerate() {
        let word = u32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
        match at {
            0 => header.word(0).store(word, Ordering::Relaxed),
            1 => header.word(4).store(word, Ordering::Relaxed),
            2 => header.double_word(8208).store(u64::from(word % 8), Ordering::Relaxed),
            at => data.word((at - 3) * 4).store(word, Ordering::Relaxed),
        }
    }
    for _ in 0..8 {
        if let Ok(Some(chunk)) = consumer.try_receive() {
            assert!(chunk.len() <= 4084);
        }
        let _ = producer.try_send(&[bytes]);
    }
}
