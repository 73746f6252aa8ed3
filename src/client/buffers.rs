//! Memory for messages, which each thread uses again.

use std::cell::Cell;
use std::mem;

use crate::codec::TYPICAL_SIZE;

/// Room for a message in each direction, given back to the thread when dropped.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) request: Vec<u8>,
    pub(crate) reply: Vec<u8>,
}

/// Room that is kept for a reply, in bytes. Most replies need less; for others memory is allocated.
const REPLY_ROOM: usize = 2048;

thread_local! {
    static KEPT: Cell<Option<(Vec<u8>, Vec<u8>)>> = const { Cell::new(None) };
}

impl Buffers {
    /// The buffers of this thread, which hold anything. Who has them already gets new ones.
    pub(crate) fn take() -> Self {
        // A thread that ends may have none any more.
        let kept = KEPT.try_with(Cell::take).ok().flatten();
        let (request, reply) = kept
            .unwrap_or_else(|| (Vec::with_capacity(TYPICAL_SIZE), Vec::with_capacity(REPLY_ROOM)));
        Self { request, reply }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let give_back = |buffer: &mut Vec<u8>, room| {
            if buffer.capacity() == room { mem::take(buffer) } else { Vec::with_capacity(room) }
        };
        let kept =
            (give_back(&mut self.request, TYPICAL_SIZE), give_back(&mut self.reply, REPLY_ROOM));
        let _ = KEPT.try_with(|own| own.set(Some(kept)));
    }
}
