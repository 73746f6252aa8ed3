//! Notes for the log. They are logged when no lock is held, since a subscriber may use the client.

use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lock;
use crate::error::ProtocolError;

/// Something to log.
pub(super) enum Note {
    TimedOut(&'static str),
    Disconnected,
    Broken(ProtocolError),
}

/// The notes that are not logged yet.
#[derive(Default)]
pub(super) struct Notes {
    waiting: Mutex<Vec<Note>>,
    /// Whether there are any. Relaxed: the thread that adds a note calls [`Notes::log`] afterwards.
    any: AtomicBool,
}

impl Notes {
    pub(super) fn add(&self, note: Note) {
        lock(&self.waiting).push(note);
        self.any.store(true, Ordering::Relaxed);
    }

    /// Logs the notes. Not for callers that hold a lock.
    pub(super) fn log(&self, _service: &str) {
        if !self.any.load(Ordering::Relaxed) || !self.any.swap(false, Ordering::Relaxed) {
            return;
        }
        let notes = mem::take(&mut *lock(&self.waiting));
        for note in notes {
            match note {
                Note::TimedOut(_call) => {
                    crate::log::debug!(service = %_service, call = _call, "timed out");
                }
                Note::Disconnected => {
                    crate::log::debug!(service = %_service, "disconnected");
                }
                Note::Broken(_source) => {
                    crate::log::warn!(service = %_service, source = %_source, "the daemon broke the protocol");
                }
            }
        }
    }
}
