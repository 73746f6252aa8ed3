//! Futexes in memory shared with another process.

use std::ptr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::libc;
use nix::sys::time::TimeSpec;

/// The index of the low half in the two halves of a 64-bit word.
const LOW_HALF: usize = if cfg!(target_endian = "little") { 0 } else { 1 };

/// The longest sleep. A caller that wants more looks again: wake-ups may be spurious.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn low_half(word: &AtomicU64) -> *mut u32 {
    word.as_ptr().cast::<u32>().wrapping_add(LOW_HALF)
}

/// Sleeps while the low half of `word` is `expected`, at most for `timeout`. May wake up
/// spuriously.
pub(crate) fn wait_low(word: &AtomicU64, expected: u32, timeout: Duration) {
    let timeout = TimeSpec::from(timeout.min(LONGEST));
    // SAFETY: the address is half of an atomic that `word` keeps alive, aligned to 4, and the
    // timespec lives in this frame. The kernel only reads both. FUTEX_PRIVATE_FLAG is not set,
    // since the waker is another process. Another process may change or truncate the memory:
    // the kernel then returns EAGAIN or EFAULT, which like EINTR and ETIMEDOUT mean "look
    // again".
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            low_half(word),
            libc::FUTEX_WAIT,
            expected,
            ptr::from_ref(timeout.as_ref()),
        )
    };
}

/// Wakes one process or thread that sleeps on the low half of `word`.
pub(crate) fn wake_low(word: &AtomicU64) {
    // SAFETY: as in `wait_low`. FUTEX_WAKE does not even read the memory.
    unsafe { libc::syscall(libc::SYS_futex, low_half(word), libc::FUTEX_WAKE, 1) };
}
