//! A ring whose other end writes anything at any time.

use std::cell::RefCell;
use std::rc::Rc;

use super::Script;
use crate::libqb::ring::heap::{self, Heap};
use crate::libqb::ring::{Consumer, Producer, Region};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Uses the bytes as the memory of a ring, as its producer and as its consumer.
pub fn ring(data: &[u8]) {
    heap::use_hostile(data);
}

/// The words of the ring's data.
const WORDS: u32 = 1024;

/// The offsets in a header that the other end writes.
const WRITE_PT: usize = 0;
const READ_PT: usize = 4;
const SEMAPHORE: usize = 8208;

/// Sends and receives through a ring that the other end changes before every access to it. The
/// first bytes are where both ends begin. Checks that no message is larger than the ring, and that
/// every call returns.
pub fn changing_ring(data: &[u8]) {
    let mut script = Script(data);
    let start = script.word() % WORDS;
    let calls = script.byte() % 16;
    let pen = Rc::new(RefCell::new(Pen { script: data.to_vec(), at: 5 }));
    let (header, words) = heap::memory(WORDS);
    let header = Changing { memory: header, is_header: true, pen: Rc::clone(&pen) };
    let words = Changing { memory: words, is_header: false, pen: Rc::clone(&pen) };
    header.memory.word(WRITE_PT).store(start, Ordering::Relaxed);
    header.memory.word(READ_PT).store(start, Ordering::Relaxed);
    let opened = || heap::open(header.clone(), words.clone());
    let (Ok(Ok(mut producer)), Ok(Ok(mut consumer))) =
        (opened().map(|ring| ring.producer()), opened().map(|ring| ring.consumer()))
    else {
        return;
    };
    for call in 0..calls {
        use_both(&mut producer, &mut consumer, data, call);
    }
}

fn use_both<R: Region>(
    producer: &mut Producer<R>,
    consumer: &mut Consumer<R>,
    data: &[u8],
    call: u8,
) {
    let size = WORDS as usize * 4;
    let message = &data[..data.len().min(usize::from(call) * 97)];
    match producer.try_send(&[message, &message[..message.len() / 2]]) {
        Ok(_) | Err(_) => assert!(producer.used() < size),
    }
    let _ = producer.backlog();
    if let Ok(Some(chunk)) = consumer.try_receive() {
        assert!(chunk.len() < size, "{} bytes from a ring of {size}", chunk.len());
    }
    assert!(consumer.used() < size);
}

/// What the other end writes, and when.
struct Pen {
    script: Vec<u8>,
    at: usize,
}

impl Pen {
    fn byte(&mut self) -> u8 {
        let byte = self.script.get(self.at).copied().unwrap_or_default();
        self.at += 1;
        byte
    }
}

/// Memory that is written before it is used, as often as the script says.
#[derive(Clone)]
struct Changing {
    memory: Heap,
    is_header: bool,
    pen: Rc<RefCell<Pen>>,
}

impl Changing {
    fn change(&self, offset: usize) {
        let mut pen = self.pen.borrow_mut();
        let how = pen.byte();
        if how % 4 != 0 {
            return;
        }
        let value = match how / 4 % 8 {
            0 => 0,
            1 => 1,
            2 => WORDS - 1,
            3 => WORDS,
            4 => u32::MAX,
            5 => 0xA1A1_A1A1,
            6 => u32::from(pen.byte()) * 16,
            _ => u32::from_le_bytes([pen.byte(), pen.byte(), pen.byte(), pen.byte()]),
        };
        // The word that is used next, or another one.
        match (how / 32 % 4, self.is_header) {
            (0, true) => self.memory.word(WRITE_PT).store(value, Ordering::Relaxed),
            (1, true) => self.memory.word(READ_PT).store(value, Ordering::Relaxed),
            (2, true) => {
                self.memory.double_word(SEMAPHORE).store(u64::from(value), Ordering::Relaxed);
            }
            (_, true) if offset == SEMAPHORE => {}
            _ => self.memory.word(offset).store(value, Ordering::Relaxed),
        }
    }
}

impl Region for Changing {
    fn size(&self) -> usize {
        self.memory.size()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        self.change(offset);
        self.memory.word(offset)
    }

    fn double_word(&self, offset: usize) -> &AtomicU64 {
        self.change(offset);
        self.memory.double_word(offset)
    }

    fn copy_out(&self, offset: usize, length: usize, out: &mut Vec<u8>) {
        self.memory.copy_out(offset, length, out);
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.memory.copy_in(offset, bytes);
    }

    fn is_lost(&self) -> bool {
        // As a file that is truncated.
        self.pen.borrow_mut().byte() == u8::MAX
    }
}
