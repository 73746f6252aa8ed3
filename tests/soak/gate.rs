//! Where workers rest together.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use testbed::Patience;

/// How long a worker may take for one step.
const STEP: Duration = Duration::from_secs(90);

/// Tells workers when to work, to rest and to end.
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Work,
    Rest,
    End,
}

struct State {
    phase: Phase,
    /// Workers by name, and whether each rests.
    workers: Vec<(String, bool)>,
}

impl Gate {
    /// All work.
    pub(crate) fn new() -> Self {
        let state = State { phase: Phase::Work, workers: Vec::new() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds a worker. The number names it in [`Gate::work`].
    pub(crate) fn add(&self, name: String) -> usize {
        let mut state = self.state();
        state.workers.push((name, false));
        state.workers.len() - 1
    }

    /// Works step by step. Before a rest and at the end the worker lets go of what it has.
    pub(crate) fn work<T: Default>(&self, worker: usize, mut step: impl FnMut(&mut T)) {
        let mut has = T::default();
        loop {
            let mut state = self.state();
            if state.phase == Phase::Work {
                drop(state);
                step(&mut has);
                continue;
            }
            drop(state);
            has = T::default();
            state = self.state();
            state.workers[worker].1 = true;
            self.changed.notify_all();
            while state.phase == Phase::Rest {
                state = self.changed.wait(state).unwrap();
            }
            if state.phase == Phase::End {
                return;
            }
            state.workers[worker].1 = false;
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().phase == Phase::End
    }

    /// Lets all work.
    pub(crate) fn open(&self) {
        self.set(Phase::Work);
    }

    /// Waits until all rest.
    ///
    /// # Panics
    /// With the names of those whose step does not end.
    pub(crate) fn close(&self) {
        self.set(Phase::Rest);
        let patience = Patience::of(STEP);
        let mut state = self.state();
        while state.workers.iter().any(|(_, rests)| !rests) {
            let busy = state.workers.iter().filter(|(_, rests)| !rests).map(|(name, _)| name);
            assert!(!patience.is_over(), "hang: {:?}", busy.collect::<Vec<_>>());
            state = self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap().0;
        }
    }

    /// Makes all end.
    pub(crate) fn end(&self) {
        self.set(Phase::End);
    }

    fn set(&self, phase: Phase) {
        self.state().phase = phase;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}
