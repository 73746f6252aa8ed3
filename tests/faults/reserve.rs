//! Memory for the heap when the system gives none: Rust ends a program that gets none.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIZE: usize = 64 << 20;

#[repr(align(4096))]
struct Reserve(UnsafeCell<[u8; SIZE]>);

// SAFETY: each byte is handed out once.
unsafe impl Sync for Reserve {}

static RESERVE: Reserve = Reserve(UnsafeCell::new([0; SIZE]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, and the reserve when that has nothing. What is taken of the reserve is
/// not given back.
struct WithReserve;

#[global_allocator]
static ALLOCATOR: WithReserve = WithReserve;

impl WithReserve {
    fn take(layout: Layout) -> *mut u8 {
        let step = |used: usize| {
            let start = used.next_multiple_of(layout.align());
            start.checked_add(layout.size()).filter(|end| *end <= SIZE)
        };
        match USED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step) {
            Ok(used) => {
                let start = RESERVE.0.get().cast::<u8>();
                start.wrapping_add(used.next_multiple_of(layout.align()))
            }
            Err(_) => ptr::null_mut(),
        }
    }

    fn has(block: *mut u8) -> bool {
        let start = RESERVE.0.get().addr();
        (start..start + SIZE).contains(&block.addr())
    }
}

// SAFETY: blocks are the system's, or parts of the reserve that nobody else has.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the conditions of `alloc`.
        let block = unsafe { System.alloc(layout) };
        if block.is_null() { Self::take(layout) } else { block }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !Self::has(block) {
            // SAFETY: the block is the system's.
            unsafe { System.dealloc(block, layout) };
        }
    }
}
