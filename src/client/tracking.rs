//! Whether the notifications of quorum or votequorum are on.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{CsError, Error, Result};
use crate::wire::values::TrackFlags;

/// Keeps a client from starting notifications twice. The daemon refuses that since 2.3.5; one
/// before puts the connection in its list of trackers a second time, which makes the list endless,
/// and hangs at the next notification.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    /// Relaxed everywhere: the daemon sees requests in their order, and nothing else depends on
    /// it.
    on: AtomicBool,
}

impl Tracking {
    /// Starts notifications through `send`, which is given the flags to send, unless they are on:
    /// then the present state is all that can be had, and the result is what later daemons
    /// answer.
    pub(crate) fn start(
        &self,
        call: &'static str,
        flags: TrackFlags,
        send: impl Fn(TrackFlags) -> Result<()>,
    ) -> Result<()> {
        let changes = flags.intersects(TrackFlags::CHANGES | TrackFlags::CHANGES_ONLY);
        let were_on = if changes {
            self.on.swap(true, Ordering::Relaxed)
        } else {
            self.on.load(Ordering::Relaxed)
        };
        if !were_on {
            let started = send(flags);
            // Without an answer the daemon may have started them, or may yet.
            if changes && matches!(started, Err(Error::Cs { .. })) {
                self.on.store(false, Ordering::Relaxed);
            }
            return started;
        }
        if flags.intersects(TrackFlags::CURRENT | TrackFlags::CHANGES) {
            send(TrackFlags::CURRENT)?;
        }
        Err(Error::Cs { call: call.into(), error: CsError::Exist })
    }

    /// Ends notifications through `send`.
    pub(crate) fn stop(&self, send: impl Fn() -> Result<()>) -> Result<()> {
        let stopped = send();
        if matches!(stopped, Ok(()) | Err(Error::Cs { error: CsError::NotExist, .. })) {
            self.on.store(false, Ordering::Relaxed);
        }
        stopped
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::*;

    const CALL: &str = "trackstart";

    fn cs(error: CsError) -> Result<()> {
        Err(Error::Cs { call: CALL.into(), error })
    }

    #[test]
    fn changes_are_asked_for_once() {
        let (tracking, sent) = (Tracking::default(), RefCell::new(Vec::new()));
        let start = |flags| {
            tracking.start(CALL, flags, |flags| {
                sent.borrow_mut().push(flags);
                Ok(())
            })
        };
        start(TrackFlags::CURRENT).unwrap();
        start(TrackFlags::CHANGES).unwrap();
        assert_eq!(start(TrackFlags::CHANGES).unwrap_err().cs_error(), CsError::Exist);
        assert_eq!(start(TrackFlags::CHANGES_ONLY).unwrap_err().cs_error(), CsError::Exist);
        assert_eq!(*sent.borrow(), [TrackFlags::CURRENT, TrackFlags::CHANGES, TrackFlags::CURRENT]);
        tracking.stop(|| Ok(())).unwrap();
        start(TrackFlags::CHANGES_ONLY).unwrap();
        assert_eq!(sent.borrow().last(), Some(&TrackFlags::CHANGES_ONLY));
    }

    #[test]
    fn a_start_that_may_have_happened_counts_until_a_stop() {
        let tracking = Tracking::default();
        let is_on = || tracking.on.load(Ordering::Relaxed);
        tracking.start(CALL, TrackFlags::CHANGES, |_| cs(CsError::NoMemory)).unwrap_err();
        assert!(!is_on());
        let late =
            || Err(Error::TimedOut { operation: CALL.into(), after: Duration::ZERO, stage: None });
        tracking.start(CALL, TrackFlags::CHANGES, |_| late()).unwrap_err();
        assert!(is_on());
        tracking.stop(late).unwrap_err();
        assert!(is_on());
        tracking.stop(|| cs(CsError::NotExist)).unwrap_err();
        assert!(!is_on());
    }
}
