//! Faults in mapped files. A process that may write a file can truncate it. The kernel then sends
//! `SIGBUS` to each process that touches a mapped page which the file no longer has. The handler
//! here replaces the mapping with zeroed memory and marks it as lost.
//!
//! The handler allocates nothing, takes no lock and only makes system calls. Mappings are
//! registered even while it is not installed.

use std::array;
use std::io;
use std::iter;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, compiler_fence};
use std::sync::{OnceLock, PoisonError};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_void, siginfo_t};

use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, fence};

/// The registration of a mapping with the handler. Drop it before the mapping: dropping it ends the
/// registration.
pub(crate) struct Guarded(&'static Slot);

impl Guarded {
    /// Registers the `length` bytes from `start` on. `start` is the first byte of a page.
    pub(crate) fn new(start: *mut u8, length: usize) -> Self {
        let slot = REGISTRY.take();
        slot.change(start.addr(), length);
        Self(slot)
    }

    /// Returns true if this process touched a page that was missing. From then on reads return
    /// zeros and writes are lost.
    pub(crate) fn is_lost(&self) -> bool {
        // Keeps the compiler from moving this load before the accesses that the caller asks about.
        // The processor does not move it: a fault is taken at the access itself. The load sees
        // another thread's fault too, since its handler sets the mark before it replaces the page.
        compiler_fence(Ordering::SeqCst);
        self.0.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.change(0, 0);
        lock(&REGISTRY.state).free.push(self.0);
    }
}

/// An entry of the registry for one mapping. It lives as long as the process, so the handler can
/// read it at any time.
///
/// Only its owner writes it. The handler may see a slot change, but never the one it looks for: the
/// access that faulted borrows the mapping, so the mapping's slot does not change meanwhile.
struct Slot {
    /// Odd while the range changes.
    version: AtomicUsize,
    start: AtomicUsize,
    /// 0 when the slot is free.
    length: AtomicUsize,
    lost: AtomicBool,
}

impl Slot {
    fn new() -> Self {
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
        // Pairs with the acquire fence in `range`: a reader of a value stored below finds the
        // version odd or newer.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        // Release: pairs with the acquire in `range`.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Returns start and length. `None` while they change.
    fn range(&self) -> Option<(usize, usize)> {
        // Acquire: pairs with the release in `change`.
        let version = self.version.load(Ordering::Acquire);
        let range = (self.start.load(Ordering::Relaxed), self.length.load(Ordering::Relaxed));
        // Pairs with the release fence in `change`.
        fence(Ordering::Acquire);
        (version % 2 == 0 && self.version.load(Ordering::Relaxed) == version).then_some(range)
    }
}

/// An array of slots and a link to the next array. Never freed.
struct Chunk {
    slots: [Slot; SLOTS],
    next: OnceLock<Box<Chunk>>,
}

/// The slots of a chunk: enough for ten connections. For loom a few, since loom explores each.
const SLOTS: usize = if cfg!(loom) { 2 } else { 60 };

#[cfg(not(loom))]
static REGISTRY: Registry =
    Registry { first: OnceLock::new(), state: Mutex::new(State { free: Vec::new(), last: None }) };

#[cfg(loom)]
loom::lazy_static! {
    static ref REGISTRY: Registry = Registry {
        first: OnceLock::new(),
        state: Mutex::new(State { free: Vec::new(), last: None }),
    };
}

struct Registry {
    /// Where the handler's search begins.
    first: OnceLock<Box<Chunk>>,
    state: Mutex<State>,
}

/// The state of registration. The handler does not use it.
struct State {
    free: Vec<&'static Slot>,
    last: Option<&'static Chunk>,
}

impl Registry {
    fn take(&'static self) -> &'static Slot {
        let mut state = lock(&self.state);
        loop {
            if let Some(slot) = state.free.pop() {
                return slot;
            }
            let link = state.last.map_or(&self.first, |chunk| &chunk.next);
            let chunk = link.get_or_init(|| {
                Box::new(Chunk { slots: array::from_fn(|_| Slot::new()), next: OnceLock::new() })
            });
            state.free.extend(&chunk.slots);
            state.last = Some(chunk);
        }
    }
}

/// Finds the registered mapping that contains an address. Returns its slot, start and length. Safe
/// in a signal handler.
fn find(address: usize) -> Option<(&'static Slot, usize, usize)> {
    let chunks = iter::successors(REGISTRY.first.get(), |chunk| chunk.next.get());
    chunks.flat_map(|chunk| &chunk.slots).find_map(|slot| {
        let (start, length) = slot.range()?;
        (address.wrapping_sub(start) < length).then_some((slot, start, length))
    })
}

/// The action for `SIGBUS` before ours. Signals that are not ours go to it.
struct Previous {
    /// `SIG_DFL`, `SIG_IGN` or a function.
    handler: usize,
    flags: c_int,
}

/// The action before ours. Null: the default action. Never freed, since a handler may be using it.
static PREVIOUS: AtomicPtr<Previous> = AtomicPtr::new(ptr::null_mut());

/// Installs the handler, once in a process.
pub(crate) fn install() -> io::Result<()> {
    static INSTALLED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        // Another handler may have been installed since, and it may pass its faults on to ours.
        // Ours would pass them back, in an endless loop, if it were installed again.
        return Ok(());
    }
    // Read before ours is installed: ours may run at once and must know where to pass a signal on.
    let before = sigaction(None)?;
    remember(&before);
    let mut action = default_action();
    action.sa_sigaction = (on_sigbus as *const ()).expose_provenance();
    // The flags of the previous handler, which ours calls. Without one, the alternate stack, if the
    // thread has one: some runtimes insist on it.
    action.sa_flags = libc::SA_SIGINFO
        | match before.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => libc::SA_ONSTACK,
            _ => before.sa_flags & (libc::SA_ONSTACK | libc::SA_NODEFER | libc::SA_RESTART),
        };
    action.sa_mask = before.sa_mask;
    let replaced = sigaction(Some(&action))?;
    if (replaced.sa_sigaction, replaced.sa_flags) != (before.sa_sigaction, before.sa_flags) {
        // Another thread has installed a handler meanwhile.
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

/// If the fault is in a registered mapping, marks and replaces the mapping, and returns true. The
/// access is then repeated when the handler returns, and succeeds.
fn replace_lost_mapping(info: *mut siginfo_t) -> bool {
    // Excludes signals that a process sent: their siginfo has no address.
    if code(info) != libc::BUS_ADRERR {
        return false;
    }
    // SAFETY: the kernel passes the handler a valid siginfo, which nobody writes to meanwhile.
    let info = unsafe { &*info };
    // SAFETY: with BUS_ADRERR the siginfo has the address that was touched.
    let address = unsafe { info.si_addr() };
    let Some((slot, start, length)) = find(address.addr()) else {
        return false;
    };
    // Stored before the pages are replaced, so that a thread that reads replaced pages finds the
    // mark. Relaxed is enough: the system call orders the two.
    slot.lost.store(true, Ordering::Relaxed);
    // The whole mapping: this takes one fault instead of one per page, and later writes do not
    // reach what is left of the file.
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let (start, protection) =
        (ptr::without_provenance_mut(start), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: MAP_FIXED replaces the mapping at this range, which is one of `libqb::ring`: it was
    // registered when the handler looked, and it is not unmapped meanwhile, since the access that
    // faulted borrows it. Nobody holds a reference into it: all accesses are atomics and copies,
    // for which zeros are as good as any bytes that a hostile peer may write. Unmapping the
    // range later unmaps the new pages.
    unsafe { libc::mmap(start, length, protection, flags, -1, 0) != libc::MAP_FAILED }
}

/// Passes a signal on to the action before ours.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // Acquire: pairs with the release in `remember`.
    let previous = PREVIOUS.load(Ordering::Acquire);
    // SAFETY: null, or a box that `remember` leaked and that nobody writes to.
    let previous = unsafe { previous.as_ref() };
    let Previous { handler, flags } =
        *previous.unwrap_or(&Previous { handler: libc::SIG_DFL, flags: 0 });
    // A fault cannot be ignored: the kernel kills the process.
    let is_fault = code(info) > 0 && code(info) != libc::BUS_MCEERR_AO;
    if handler == libc::SIG_IGN && !is_fault {
        return;
    }
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        return die(signal, info);
    }
    if flags & libc::SA_RESETHAND != 0 {
        // SA_RESETHAND: the handler is called only once.
        PREVIOUS.store(ptr::null_mut(), Ordering::Relaxed);
    }
    let ours = sigaction(None);
    call(handler, flags, signal, info, context);
    // Rust's own handler sets the default action and returns. A fault is then repeated and kills
    // the process; after a signal that a process sent, this process lives on. So the default
    // action becomes the one before ours, and ours is installed again.
    if let (Ok(ours), Ok(libc::sigaction { sa_sigaction: libc::SIG_DFL, .. })) =
        (ours, sigaction(None))
    {
        PREVIOUS.store(ptr::null_mut(), Ordering::Relaxed);
        let _ = sigaction(Some(&ours));
    }
}

/// Calls a handler as the kernel calls it.
fn call(handler: usize, flags: c_int, signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let handler = ptr::with_exposed_provenance::<()>(handler);
    if flags & libc::SA_SIGINFO != 0 {
        // SAFETY: with SA_SIGINFO the handler is a function of this type, by the contract of
        // sigaction.
        let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
            unsafe { mem::transmute(handler) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the handler is a function of this type.
        let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
        handler(signal);
    }
}

/// Makes the default action follow when the handler returns: sets it and sends the same signal to
/// this thread again.
fn die(signal: c_int, info: *mut siginfo_t) {
    // Does not fail: SIG_DFL is valid for SIGBUS.
    let _ = sigaction(Some(&default_action()));
    // SAFETY: makes a system call without arguments.
    let process = unsafe { libc::getpid() };
    // SAFETY: makes a system call without arguments. Made directly, since older versions of musl
    // have no gettid.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    // SAFETY: the kernel reads the siginfo that it wrote itself. If a sandbox denies the call, the
    // access faults again.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info) };
}

fn code(info: *mut siginfo_t) -> c_int {
    // SAFETY: the kernel passes the handler a valid siginfo.
    unsafe { (*info).si_code }
}

fn default_action() -> libc::sigaction {
    // SAFETY: plain data: no flags, an empty mask, and SIG_DFL, which is 0.
    unsafe { mem::zeroed() }
}

/// Sets the action for `SIGBUS`, unless `new` is `None`. Returns the action before.
fn sigaction(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = default_action();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: `new` is null or a valid action with a handler of the right type, and `old` has room
    // for an action.
    Errno::result(unsafe { libc::sigaction(libc::SIGBUS, new, &mut old) })?;
    Ok(old)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handler of a thread looks while other threads register mappings and end registrations.
#[cfg(all(test, loom))]
mod model {
    use loom::thread;

    use super::*;

    /// Two threads with two preemptions find what more would find, and take seconds.
    fn model(body: impl Fn() + Send + Sync + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(body);
    }

    fn register(start: usize, length: usize) -> Guarded {
        Guarded::new(ptr::without_provenance_mut(start), length)
    }

    fn found(address: usize) -> Option<(usize, usize)> {
        find(address).map(|(_, start, length)| (start, length))
    }

    #[test]
    fn a_mapping_is_found_while_others_come_and_go() {
        model(|| {
            let _mine = register(0x1000, 0x100);
            let other = thread::spawn(|| {
                drop(register(0x8000, 0x4000));
                drop(register(0x2000, 0x100));
            });
            assert_eq!(found(0x10ff), Some((0x1000, 0x100)));
            other.join().unwrap();
        });
    }

    #[test]
    fn an_address_between_mappings_is_never_found() {
        model(|| {
            let _mine = register(0x20_0000, 0x100);
            let other = thread::spawn(|| {
                drop(register(0x1000, 0x100));
                drop(register(0x8000, 0x4000));
            });
            // Start and length of one slot at different times would contain it.
            assert_eq!(found(0x3000), None);
            other.join().unwrap();
        });
    }

    #[test]
    fn each_thread_finds_its_mapping_and_no_mark_of_another() {
        model(|| {
            let use_one = |start| {
                let guarded = register(start, 0x100);
                // As the handler, in the thread that faulted.
                find(start).unwrap().0.lost.store(true, Ordering::Relaxed);
                assert!(guarded.is_lost());
                drop(guarded);
                assert!(!register(start, 0x200).is_lost());
            };
            let other = thread::spawn(move || use_one(0x1000));
            use_one(0x2000);
            other.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_while_its_mapping_is_registered() {
        // These addresses are not mapped, and nothing accesses them.
        let address = |number: usize| ptr::without_provenance_mut::<u8>(0x1000 + number * 0x2000);
        let registered =
            |address: *mut u8| find(address.addr()).map(|(_, start, length)| (start, length));
        let mut guarded: Vec<_> =
            (0..3 * SLOTS).map(|number| Guarded::new(address(number), 0x1000)).collect();
        for number in 0..3 * SLOTS {
            let start = address(number);
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
        assert_eq!((registered(address(5)), registered(address(6)).is_some()), (None, true));
        let lost = find(address(7).addr()).unwrap().0;
        lost.lost.store(true, Ordering::Relaxed);
        assert_eq!(guarded.iter().filter(|it| it.is_lost()).count(), 1);
        // Slots are reused without their marks.
        drop(guarded);
        let again: Vec<_> = (0..3 * SLOTS).map(|number| Guarded::new(address(number), 8)).collect();
        assert!(!again.iter().any(Guarded::is_lost));
    }
}
