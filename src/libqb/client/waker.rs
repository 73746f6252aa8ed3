//! Ending a wait from another thread.

use std::sync::Arc;

#[cfg(all(test, loom))]
use super::model::Wakeup;
use crate::error::{Error, Result};
use crate::sync::{AtomicBool, Ordering};
#[cfg(not(all(test, loom)))]
use crate::sys::event::Wakeup;

/// Ends a client's wait for events from another thread, or from one of its handlers; made by
/// [`Client::waker`](crate::ServiceClient::waker).
///
/// The connection goes on; [`Client::finalize`](crate::ServiceClient::finalize) would end it.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether a waiter must return. Reading it takes no system call; `wakeup` only interrupts the
    /// sleep.
    woken: AtomicBool,
    wakeup: Wakeup,
}

impl Waker {
    pub(crate) fn new() -> Result<Self> {
        let wakeup = Wakeup::new().map_err(|source| Error::system("making a waker", source))?;
        Ok(Self { shared: Arc::new(Shared { woken: AtomicBool::new(false), wakeup }) })
    }

    /// Ends one wait: the one under way, or else the next. A
    /// [`dispatch`](crate::ServiceClient::dispatch) that may wait, `One` or `Blocking`, then
    /// returns `Ok(())`, [`next_event`](crate::ServiceClient::next_event) returns `Ok(None)`, and
    /// [`events`](crate::ServiceClient::events) ends. Events that wait stay where they are. Used
    /// twice before the wait ended, it ends that one only.
    ///
    /// Never blocks, and takes one system call.
    pub fn wake(&self) {
        // Pairs with the swap in `take`: the woken thread sees what the caller did before.
        self.shared.woken.store(true, Ordering::Release);
        self.shared.wakeup.wake();
    }

    /// Whether it was used since the last call of this. Call it between clearing the wakeup and
    /// sleeping.
    pub(crate) fn take(&self) -> bool {
        // Usually it was not, and then nothing is written.
        self.shared.woken.load(Ordering::Relaxed)
            && self.shared.woken.swap(false, Ordering::Acquire)
    }

    pub(crate) fn wakeup(&self) -> &Wakeup {
        &self.shared.wakeup
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::sys::wait::{Interest, Ready, wait_for};

    #[test]
    fn a_wake_is_taken_once_however_often_it_was_given() {
        let waker = Waker::new().unwrap();
        assert!(!waker.take());
        waker.wake();
        waker.clone().wake();
        assert!(waker.take());
        assert!(!waker.take());
    }

    #[test]
    fn the_bell_rings_until_it_is_silenced() {
        let waker = Waker::new().unwrap();
        let look = || wait_for(waker.wakeup(), Interest::Readable, Some(Instant::now())).unwrap();
        assert_eq!(look(), Ready::TimedOut);
        waker.wake();
        assert_eq!((look(), look()), (Ready::Yes, Ready::Yes));
        waker.wakeup().clear();
        assert_eq!(look(), Ready::TimedOut);
    }
}
