//! Standard output for a command that must not wait until somebody reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::Duration;

use crate::failure::Failure;
use crate::output::{print, try_complain};

/// How many texts wait to be written. More are left out.
const MOST: usize = 1000;

/// How long the end waits for what is still to be written.
const GRACE: Duration = Duration::from_secs(1);

/// A thread that writes to standard output. That a descriptor is writable promises less than a
/// whole line, and another process may be faster, so only a thread of its own never keeps the
/// others waiting.
#[derive(Debug)]
pub(crate) struct Outlet {
    texts: SyncSender<String>,
    /// Why the thread has ended.
    ended: Receiver<Failure>,
    given: u64,
    written: Arc<AtomicU64>,
    /// How many were left out since that was told last.
    left_out: u64,
}

impl Outlet {
    pub(crate) fn new() -> Self {
        Self::writing_by(print)
    }

    fn writing_by(write: impl Fn(String) -> Result<(), Failure> + Send + 'static) -> Self {
        let (texts, to_write) = sync_channel::<String>(MOST);
        let (end, ended) = channel();
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        thread::spawn(move || {
            for text in to_write {
                if let Err(failure) = write(text) {
                    // Fails when nobody waits for the end.
                    let _ = end.send(failure);
                    break;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { texts, ended, given: 0, written, left_out: 0 }
    }

    /// Has a text written, or leaves it out when too many wait already. Fails with what an earlier
    /// one failed with.
    pub(crate) fn print(&mut self, text: String) -> Result<(), Failure> {
        match self.texts.try_send(text) {
            Ok(()) => {
                self.given += 1;
                if self.left_out > 0 && tell(self.left_out) {
                    self.left_out = 0;
                }
            }
            Err(TrySendError::Full(_)) => self.left_out += 1,
            Err(TrySendError::Disconnected(_)) => {
                return Err(self.ended.recv().unwrap_or(Failure::OutputClosed));
            }
        }
        Ok(())
    }

    /// Waits a moment for the last ones to be written.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let Self { texts, ended, given, written, left_out } = self;
        drop(texts);
        if let Ok(failure) = ended.recv_timeout(GRACE) {
            return Err(failure);
        }
        let left_out = left_out + given.saturating_sub(written.load(Ordering::Relaxed));
        if left_out > 0 {
            tell(left_out);
        }
        Ok(())
    }
}

/// Says how many were left out, if standard error takes it.
fn tell(left_out: u64) -> bool {
    try_complain(&format!("standard output was not read: {left_out} lines were left out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_left_out_while_nobody_reads_and_counted() {
        let (read, reads) = channel::<()>();
        let mut outlet = Outlet::writing_by(move |_| {
            // Fails when everything is read.
            let _ = reads.recv();
            Ok(())
        });
        let all = MOST + 10;
        (0..all).for_each(|_| outlet.print(String::new()).unwrap());
        let left_out = outlet.left_out;
        // The thread may have taken one.
        assert!([9, 10].contains(&left_out), "{left_out}");
        drop(read);
        while outlet.written.load(Ordering::Relaxed) < outlet.given {
            thread::yield_now();
        }
        outlet.print(String::new()).unwrap();
        assert_eq!((outlet.left_out, outlet.given), (0, all as u64 - left_out + 1));
        outlet.end().unwrap();
    }

    #[test]
    fn what_writing_fails_with_is_told() {
        let mut outlet = Outlet::writing_by(|_| Err(Failure::OutputClosed));
        while outlet.print(String::new()).is_ok() {}
        let outlet = Outlet::writing_by(|_| Err(Failure::OutputClosed));
        outlet.texts.send(String::new()).unwrap();
        assert!(matches!(outlet.end(), Err(Failure::OutputClosed)));
    }
}
