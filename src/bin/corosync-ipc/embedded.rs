//! `--embedded`: a corosync in this process.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use corosync_ipc::Endpoint;
use corosync_ipc::embedded::Corosync;

use crate::failure::Failure;
use crate::signals;

/// A corosync in this process. [`Embedded::end`] or a signal ends it and removes its files.
#[derive(Debug)]
pub(crate) struct Embedded {
    endpoint: Endpoint,
    /// Taken by what ends it.
    corosync: Arc<Mutex<Option<Corosync>>>,
}

impl Embedded {
    pub(crate) fn start() -> Result<Self, Failure> {
        let corosync = Arc::new(Mutex::new(None));
        // A signal waits until it has started.
        let mut starting = corosync.lock().unwrap_or_else(PoisonError::into_inner);
        let held = Arc::clone(&corosync);
        signals::at_first(move |_| drop(take(&held)))?;
        let started = starting.insert(Corosync::builder().evs(true).start()?);
        let endpoint = started.endpoint().clone();
        drop(starting);
        Ok(Self { endpoint, corosync })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Ends it. If a signal ended it already, waits for the signal to end the process.
    pub(crate) fn end(self) {
        if take(&self.corosync).is_none() {
            loop {
                thread::park();
            }
        }
    }
}

fn take(held: &Mutex<Option<Corosync>>) -> Option<Corosync> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take()
}
