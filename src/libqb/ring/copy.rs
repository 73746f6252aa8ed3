//! Copies to and from memory that another process may write meanwhile.
//!
//! `ptr::copy_nonoverlapping` must not be used there. It is a plain access, so a peer that writes
//! meanwhile makes it a data race, and the compiler may read the source again in place of the copy.
//! [`copy`] calls libc's `memcpy` by an address that the compiler does not know. Unknown code does
//! to memory what its instructions do: loads and stores of every byte, in any order and any number
//! of times. Relaxed atomic loads and stores of bytes may do all of that too, so in the memory model
//! the call is a loop of them. Its result is any mixture of what was there before and after.
//!
//! `cargo bench --bench copies` compares the two. On x86-64 `copy` takes as long as `memcpy` from
//! 256 bytes on, in both directions. Below that a load of the address adds a cycle: 1.1 times as
//! long for 16 bytes.
//!
//! A real loop of relaxed loads and stores is slower, since the compiler makes no wider accesses of
//! it: from 64 bytes on it takes 1.5 to 3 times as long as `memcpy` with words of 64 bits, and 2.5
//! to 5 times with words of 32 bits, to which chunks are aligned. An inline `rep movsb` takes 1.6 to
//! 3 times as long up to 1 KiB, and the same from 8 KiB on.

use std::ptr;

use nix::libc::{self, c_void};

type Memcpy = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> *mut c_void;

static MEMCPY: Memcpy = libc::memcpy;

/// Copies `length` bytes. Another process may write both places meanwhile.
///
/// # Safety
/// `from` is valid for reads of `length` bytes and `to` for writes. The two do not overlap. No
/// reference to either is in use, and no thread of this process writes one of them meanwhile.
pub(super) unsafe fn copy(from: *const u8, to: *mut u8, length: usize) {
    // Volatile, so that the compiler takes it for any function.
    // SAFETY: reads a static that nobody writes.
    let memcpy = unsafe { ptr::read_volatile(&raw const MEMCPY) };
    // SAFETY: the caller promises what memcpy needs, except that another process may write
    // meanwhile. To memcpy's instructions that is the same as any other content.
    unsafe { memcpy(to.cast(), from.cast(), length) };
}
