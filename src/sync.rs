//! The facade of atomics, locks, sleeping and time, so that loom can replace them.

#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Mutex, MutexGuard},
    thread::{Thread, current, park_timeout},
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    sync::{Mutex, MutexGuard},
};

/// The time.
#[cfg(not(loom))]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(loom)]
pub(crate) use model::{Thread, current, now, park_timeout};

/// Time and sleep in loom's models. The time passes once, when a thread of the model says so, and
/// loom tries every moment for that. A sleep that lasts longer ends only when it is woken, so loom
/// finds a wake-up that is missing.
#[cfg(loom)]
pub(crate) mod model {
    use std::cell::Cell;
    use std::sync::{Arc, OnceLock};
    use std::time::{Duration, Instant};

    use loom::sync::Condvar;

    use super::{AtomicBool, Mutex, Ordering};

    /// A thread that can be woken. Loom's own would also wake a thread that waits for a lock.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

    impl Thread {
        pub(crate) fn unpark(&self) {
            let (is_woken, changed) = &*self.0;
            *is_woken.lock().unwrap() = true;
            changed.notify_one();
        }

        fn park(&self) {
            let (is_woken, changed) = &*self.0;
            let mut is_woken = is_woken.lock().unwrap();
            while !*is_woken {
                is_woken = changed.wait(is_woken).unwrap();
            }
            *is_woken = false;
        }
    }

    impl PartialEq for Thread {
        fn eq(&self, other: &Self) -> bool {
            Arc::ptr_eq(&self.0, &other.0)
        }
    }

    loom::thread_local! {
        static CURRENT: Thread = Thread::default();
        /// Whether the time had passed when the thread last looked.
        static IS_LATE: Cell<bool> = Cell::new(false);
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Clone::clone)
    }

    #[derive(Default)]
    struct Clock {
        has_passed: AtomicBool,
        sleepers: Mutex<Vec<Thread>>,
    }

    loom::lazy_static! {
        static ref CLOCK: Clock = Clock::default();
    }

    /// How much time passes.
    pub(crate) const STEP: Duration = Duration::from_secs(1);

    /// Makes the time pass, which ends the sleeps that are no longer.
    pub(crate) fn pass_time() {
        CLOCK.has_passed.store(true, Ordering::Relaxed);
        let sleepers: Vec<Thread> = CLOCK.sleepers.lock().unwrap().drain(..).collect();
        sleepers.iter().for_each(Thread::unpark);
    }

    pub(crate) fn now() -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = *START.get_or_init(Instant::now);
        let has_passed = CLOCK.has_passed.load(Ordering::Relaxed);
        IS_LATE.with(|is_late| is_late.set(has_passed));
        if has_passed { start + STEP } else { start }
    }

    /// Sleeps until woken, or until the time passes.
    pub(crate) fn park_timeout(timeout: Duration) {
        let thread = current();
        // For who computed the timeout when the time had passed, it does not pass again.
        if timeout <= STEP && !IS_LATE.with(Cell::get) {
            CLOCK.sleepers.lock().unwrap().push(thread.clone());
            if CLOCK.has_passed.load(Ordering::Relaxed) {
                return;
            }
        }
        thread.park();
    }
}
