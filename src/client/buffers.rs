//! Memory for messages, which each thread uses again.

use std::cell::Cell;

use crate::codec::TYPICAL_SIZE;

/// Room for one message in each direction.
#[derive(Debug)]
pub(crate) struct Buffers {
    pub(crate) request: Vec<u8>,
    pub(crate) reply: Vec<u8>,
}

/// Room that is kept for a reply, in bytes. Most replies need less; for others memory is allocated.
const REPLY_ROOM: usize = 2048;

thread_local! {
    static BUFFERS: Cell<Option<Buffers>> = const { Cell::new(None) };
}

/// Calls `work` with the buffers of this thread, which hold anything. A call inside another one gets
/// new ones.
pub(crate) fn with<T>(work: impl FnOnce(&mut Buffers) -> T) -> T {
    // A thread that ends may have none any more.
    let kept = BUFFERS.try_with(Cell::take).ok().flatten();
    let mut buffers = kept.unwrap_or_else(|| Buffers {
        request: Vec::with_capacity(TYPICAL_SIZE),
        reply: Vec::with_capacity(REPLY_ROOM),
    });
    let result = work(&mut buffers);
    for (buffer, room) in [(&mut buffers.request, TYPICAL_SIZE), (&mut buffers.reply, REPLY_ROOM)] {
        if buffer.capacity() != room {
            *buffer = Vec::with_capacity(room);
        }
    }
    let _ = BUFFERS.try_with(|kept| kept.set(Some(buffers)));
    result
}
