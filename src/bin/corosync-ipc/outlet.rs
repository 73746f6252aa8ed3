//! Standard output for a command that must not wait until somebody reads it.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
    shared: Arc<Shared>,
    /// How many were left out since that was told last.
    left_out: usize,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What is not written yet. The first one is empty while it is being written.
    texts: VecDeque<String>,
    /// Why the thread has ended.
    failure: Option<Failure>,
}

impl Outlet {
    pub(crate) fn new() -> Self {
        Self::writing_by(print)
    }

    fn writing_by(write: fn(String) -> Result<(), Failure>) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let writer = Arc::clone(&shared);
        thread::spawn(move || writer.write_all(write));
        Self { shared, left_out: 0 }
    }

    /// Has a text written, or leaves it out when too many wait already. Fails with what an earlier
    /// one failed with.
    pub(crate) fn print(&mut self, text: String) -> Result<(), Failure> {
        let mut state = self.shared.lock();
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if state.texts.len() >= MOST {
            self.left_out += 1;
            return Ok(());
        }
        state.texts.push_back(text);
        drop(state);
        self.shared.changed.notify_all();
        if self.left_out > 0 && tell(self.left_out) {
            self.left_out = 0;
        }
        Ok(())
    }

    /// Waits a moment for the last ones to be written.
    pub(crate) fn end(self) -> Result<(), Failure> {
        let waits = |state: &mut State| !state.texts.is_empty();
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), GRACE, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let left_out = self.left_out + state.texts.len();
        if left_out > 0 {
            tell(left_out);
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what comes, until that fails.
    fn write_all(&self, write: fn(String) -> Result<(), Failure>) {
        let mut state = self.lock();
        loop {
            let Some(text) = state.texts.front_mut().map(mem::take) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let written = write(text);
            state = self.lock();
            state.texts.pop_front();
            if let Err(failure) = written {
                state.texts.clear();
                state.failure = Some(failure);
            }
            self.changed.notify_all();
            if state.failure.is_some() {
                return;
            }
        }
    }
}

/// Says how many were left out, if standard error takes it.
fn tell(left_out: usize) -> bool {
    try_complain(&format!("standard output was not read: {left_out} lines were left out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_left_out_while_nobody_reads_and_counted() {
        static READ: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
        let mut outlet = Outlet::writing_by(|_| {
            drop(READ.1.wait_while(READ.0.lock().unwrap(), |read| !*read).unwrap());
            Ok(())
        });
        (0..MOST + 10).for_each(|_| outlet.print(String::new()).unwrap());
        assert_eq!(outlet.left_out, 10);
        *READ.0.lock().unwrap() = true;
        READ.1.notify_all();
        while !outlet.shared.lock().texts.is_empty() {
            thread::yield_now();
        }
        outlet.print(String::new()).unwrap();
        assert_eq!(outlet.left_out, 0);
        outlet.end().unwrap();
    }

    #[test]
    fn what_writing_fails_with_is_told() {
        let mut outlet = Outlet::writing_by(|_| Err(Failure::OutputClosed));
        while outlet.print(String::new()).is_ok() {}
        let mut outlet = Outlet::writing_by(|_| Err(Failure::OutputClosed));
        outlet.print(String::new()).unwrap();
        assert!(matches!(outlet.end(), Err(Failure::OutputClosed)));
    }
}
