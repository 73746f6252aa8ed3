//! Scrapes that go on at the same time are one.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::families::Families;

/// What a scrape may take beyond the time that the daemon has: threads have to run.
const MARGIN: Duration = Duration::from_secs(5);

type Take = dyn Fn() -> Families + Send + Sync;

/// Takes scrapes, one at a time.
pub(crate) struct Scrapes {
    take: Arc<Take>,
    time_limit: Duration,
    /// The scrape that is under way.
    running: Arc<Mutex<Option<Running>>>,
}

type Running = watch::Receiver<Option<Families>>;

impl fmt::Debug for Scrapes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrapes").field("time_limit", &self.time_limit).finish_non_exhaustive()
    }
}

impl Scrapes {
    /// `take` takes a scrape, which needs no more than `time`.
    pub(crate) fn new(time: Duration, take: impl Fn() -> Families + Send + Sync + 'static) -> Self {
        let time_limit = time.saturating_add(MARGIN);
        Self { take: Arc::new(take), time_limit, running: Arc::default() }
    }

    /// The most time that a scrape takes.
    pub(crate) fn time_limit(&self) -> Duration {
        self.time_limit
    }

    /// Takes a scrape, or waits for the one that is under way. `None`: it failed.
    pub(crate) async fn scrape(&self) -> Option<Families> {
        let mut running = self.join();
        let families = timeout(self.time_limit, running.wait_for(Option::is_some)).await;
        families.ok()?.ok()?.clone()
    }

    fn join(&self) -> Running {
        let mut running = lock(&self.running);
        if let Some(running) = &*running {
            return running.clone();
        }
        let (sender, receiver) = watch::channel(None);
        *running = Some(receiver.clone());
        let (take, over) = (Arc::clone(&self.take), Over(Arc::clone(&self.running)));
        spawn_blocking(move || {
            let families = take();
            // Whoever comes now does not get what was asked before.
            drop(over);
            sender.send_replace(Some(families));
        });
        receiver
    }
}

/// Ends the scrape that is under way, even if it panics.
struct Over(Arc<Mutex<Option<Running>>>);

impl Drop for Over {
    fn drop(&mut self) {
        lock(&self.0).take();
    }
}

fn lock(running: &Mutex<Option<Running>>) -> MutexGuard<'_, Option<Running>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}
