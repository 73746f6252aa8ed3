//! Faults in mapped files. Whoever may write a file can cut it short, and then the kernel sends
//! `SIGBUS` to whoever touches a page of the mapping that the file no longer has. The handler here
//! puts memory of zeros in the mapping's place and marks it as lost.
//!
//! The handler allocates nothing, takes no lock and makes system calls only. Mappings are
//! registered whether it is installed or not.

use std::array;
use std::io;
use std::iter;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence, fence};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_void, siginfo_t};

/// A mapping that the handler looks after. Dropping it ends that, so it goes before the mapping
/// does.
pub(crate) struct Guarded(&'static Slot);

impl Guarded {
    /// Registers the `length` bytes from `start` on, a page's first.
    pub(crate) fn new(start: *mut u8, length: usize) -> Self {
        let slot = lock(&REGISTRY).take();
        slot.change(start.addr(), length);
        Self(slot)
    }

    /// Whether a page was missing when this process touched it. What was read since then is zeros,
    /// what was written is nowhere.
    pub(crate) fn is_lost(&self) -> bool {
        // Keeps the compiler from looking before the accesses that the caller asks about. The
        // processor cannot: a fault is taken where it happens. Another thread's fault is
        // seen too: its handler sets the mark before it replaces the page.
        compiler_fence(Ordering::SeqCst);
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.change(0, 0);
        lock(&REGISTRY).free.push(self.0);
    }
}

/// Room for a mapping in the registry. Lives as long as the process, so the handler can look at it
/// at any time.
///
/// Written by its owner alone. The handler may see a slot change that is not the one it looks for:
/// the mapping whose access faulted is borrowed by the access, so its own slot stays as it is.
struct Slot {
    /// Odd while the range changes.
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0 when the slot is free.
    length: AtomicUsize,
    lost: AtomicBool,
}

impl Slot {
    const fn new() -> Self {
        Self {
            version: AtomicUsize::new(0),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        }
    }

    fn change(&self, start: usize, length: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Pairs with the acquire fence in `range`: who reads a value below finds the version odd,
        // or newer.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        // Release: pairs with the acquire in `range`.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Start and length. `None` while they change.
    fn range(&self) -> Option<(usize, usize)> {
        // Acquire: pairs with the release in `change`.
        let version = self.version.load(Ordering::Acquire);
        let range = (self.start.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        // Pairs with the release fence in `change`.
        fence(Ordering::Acquire);
        (version % 2 == 0 && self.version.load(Ordering::Relaxed) == version).then_some(range)
    }
}

/// Slots in a row, and more of them. Never freed.
struct Chunk {
    slots: [Slot; SLOTS],
    next: OnceLock<Box<Chunk>>,
}

/// As many as ten connections need.
const SLOTS: usize = 60;

/// Where the handler begins to look.
static CHUNKS: OnceLock<Box<Chunk>> = OnceLock::new();

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { free: Vec::new(), end: &CHUNKS });

/// What registering needs to know; the handler does without.
struct Registry {
    free: Vec<&'static Slot>,
    /// Where the next chunk goes.
    end: &'static OnceLock<Box<Chunk>>,
}

impl Registry {
    fn take(&mut self) -> &'static Slot {
        loop {
            if let Some(slot) = self.free.pop() {
                return slot;
            }
            let new = || {
                Box::new(Chunk { slots: array::from_fn(|_| Slot::new()), next: OnceLock::new() })
            };
            let chunk = self.end.get_or_init(new);
            self.free.extend(&chunk.slots);
            self.end = &chunk.next;
        }
    }
}

/// The registered mapping that an address lies in: its slot, start and length. Safe in a signal
/// handler.
fn find(address: usize) -> Option<(&'static Slot, usize, usize)> {
    let chunks = iter::successors(CHUNKS.get(), |chunk| chunk.next.get());
    chunks.flat_map(|chunk| &chunk.slots).find_map(|slot| {
        let (start, length) = slot.range()?;
        (address.wrapping_sub(start) < length).then_some((slot, start, length))
    })
}

/// What is done with a `SIGBUS` that is not ours: what was done with it before.
struct Previous {
    /// `SIG_DFL`, `SIG_IGN` or a function.
    handler: usize,
    flags: c_int,
}

/// Null: the default action. Never freed, since a handler may be using it.
static PREVIOUS: AtomicPtr<Previous> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, once in a process.
pub(crate) fn install() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = lock(&INSTALLED);
    if *installed {
        // Not in front of a handler that came later: that one may hand its faults to ours, and they
        // would go round for ever.
        return Ok(());
    }
    // Asked first, so that a handler that runs at once knows whom to hand a fault to.
    let before = sigaction(None)?;
    remember(&before);
    let mut action = default_action();
    action.sa_sigaction = (on_sigbus as *const ()).expose_provenance();
    // As the handler before wants to be called. Where there is none, on the other stack if there is
    // one, as some runtimes insist on.
    action.sa_flags = libc::SA_SIGINFO
        | match before.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => libc::SA_ONSTACK,
            _ => before.sa_flags & (libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART),
        };
    action.sa_mask = before.sa_mask;
    let replaced = sigaction(Some(&action))?;
    if (replaced.sa_sigaction, replaced.sa_flags) != (before.sa_sigaction, before.sa_flags) {
        // Another thread was faster.
        remember(&replaced);
    }
    *installed = true;
    Ok(())
}

fn remember(action: &libc::sigaction) {
    let previous = Previous { handler: action.sa_sigaction, flags: action.sa_flags };
    // Release: pairs with the acquire in `pass_on`.
    PREVIOUS.store(Box::into_raw(Box::new(previous)), Ordering::Release);
}

extern "C" fn on_sigbus(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    if !replace_lost_mapping(info) {
        pass_on(signal, info, context);
    }
    Errno::set_raw(errno);
}

/// If the fault is one of a registered mapping, marks it and makes the access succeed that is tried
/// again when the handler returns.
fn replace_lost_mapping(info: *mut siginfo_t) -> bool {
    // Not a signal that somebody sent, whose siginfo has no address.
    if code(info) != libc::BUS_ADRERR {
        return false;
    }
    // SAFETY: the kernel hands the handler a valid siginfo, which nobody writes to meanwhile.
    let info = unsafe { &*info };
    // SAFETY: with BUS_ADRERR it holds the address that was touched.
    let address = unsafe { info.si_addr() };
    let Some((slot, start, length)) = find(address.addr()) else {
        return false;
    };
    // Before the pages are replaced, for threads that find them replaced. Relaxed: the system call
    // orders the two.
    slot.lost.store(true, Ordering::Relaxed);
    // All of it, so that there is one fault and not one a page, and nothing is written to what is
    // left of the file.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let (place, protection) =
        (ptr::without_provenance_mut(start), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: MAP_FIXED replaces what is mapped at the range, which is a mapping of `shm`: it was
    // registered while the handler looked, and it cannot go, since the access that faulted
    // borrows it. Nobody holds a reference into it, and it is all atomics and copies, to
    // which zeros are as good as whatever the peer might have written. Unmapping it later unmaps
    // the new pages.
    unsafe { libc::mmap(place, length, protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Does with a signal what would have been done without us.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // Acquire: pairs with the release in `remember`.
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: null, or a box that `remember` leaked and nobody writes to.
    let previous = unsafe { previous.as_ref() };
    let Previous { handler, flags } =
        *previous.unwrap_or(&Previous { handler: libc::SIG_DFL, flags: 0 });
    // Faults cannot be ignored: the kernel kills then.
    let is_fault = code(info) > 0 && code(info) != libc::BUS_MCEERR_AO;
    if handler == libc::SIG_IGN && !is_fault {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return die(signal, info);
    }
    if flags & libc::SA_RESETHAND != 0 {
        // It wants to be called once.
        PREVIOUS.store(ptr::null_mut(), Ordering::Relaxed);
    }
    let ours = sigaction(None);
    call(handler, flags, signal, info, context);
    // Rust's own handler has the default action follow. A fault then happens again and kills; after
    // a signal that somebody sent, the process lives on. So the default action becomes the one
    // before ours.
    if let (Ok(ours), Ok(libc::sigaction { sa_sigaction: libc::SIG_DFL, .. })) =
        (ours, sigaction(None))
    {
        PREVIOUS.store(ptr::null_mut(), Ordering::Relaxed);
        let _ = sigaction(Some(&ours));
    }
}

/// Calls a handler as the kernel would.
fn call(handler: usize, flags: c_int, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = ptr::with_exposed_provenance::<()>(handler);
    if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO whoever installed it gave the kernel a function of this type.
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
            unsafe { mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO it is a function of this type.
        let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
        handler(signal);
    }
}

/// Has the default action follow as soon as the handler returns: the signal is sent again, as it
/// was, to this thread.
fn die(signal: c_int, info: *mut siginfo_t) {
    // If it fails, the system has no default action either.
    let _ = sigaction(Some(&default_action()));
    // SAFETY: makes a system call without arguments.
    let process = unsafe { libc::getpid() };
    // SAFETY: makes a system call without arguments. Called directly, since musl has gettid only of
    // late.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    // SAFETY: the kernel reads the siginfo that it wrote itself. Where a sandbox does not allow the
    // call, the fault happens again.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info) };
}

fn code(info: *mut siginfo_t) -> c_int {
    // SAFETY: the kernel hands the handler a valid siginfo.
    unsafe { (*info).si_code }
}

fn default_action() -> libc::sigaction {
    // SAFETY: plain data: no flags, an empty mask, and SIG_DFL, which is 0.
    unsafe { mem::zeroed() }
}

/// Sets what is done with `SIGBUS`, if there is something to set. Returns what was done before.
fn sigaction(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = default_action();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a valid action whose handler is a function for it, `old` has room
    // for one.
    Errno::result(unsafe { libc::sigaction(libc::SIGBUS, new, &mut old) })?;
    Ok(old)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_while_its_mapping_is_registered() {
        // No mappings: nothing touches them.
        let place = |number: usize| ptr::without_provenance_mut::<u8>(0x1000 + number * 0x2000);
        let registered =
            |address: *mut u8| find(address.addr()).map(|(_, start, length)| (start, length));
        let mut guarded: Vec<_> =
            (0..3 * SLOTS).map(|number| Guarded::new(place(number), 0x1000)).collect();
        for number in 0..3 * SLOTS {
            let start = place(number);
            let expected = Some((start.addr(), 0x1000));
            assert_eq!(
                (registered(start), registered(start.wrapping_add(0xfff))),
                (expected, expected)
            );
            assert_eq!(
                (registered(start.wrapping_sub(1)), registered(start.wrapping_add(0x1000))),
                (None, None)
            );
        }
        drop(guarded.remove(5));
        assert_eq!((registered(place(5)), registered(place(6)).is_some()), (None, true));
        let lost = find(place(7).addr()).unwrap().0;
        lost.lost.store(true, Ordering::Relaxed);
        assert_eq!(guarded.iter().filter(|it| it.is_lost()).count(), 1);
        // Slots are used again, without their marks.
        drop(guarded);
        let again: Vec<_> = (0..3 * SLOTS).map(|number| Guarded::new(place(number), 8)).collect();
        assert!(!again.iter().any(Guarded::is_lost));
    }
}
