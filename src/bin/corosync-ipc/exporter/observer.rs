//! A standing connection to the quorum service, which sees what happens between two scrapes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use corosync_ipc::quorum::{Client, Event, Model, Options};
use corosync_ipc::supervise::{Notice, NoticeOf, Supervised};
use corosync_ipc::{Deadline, Endpoint, Error, NodeId, TrackFlags};

use super::families::Families;
use super::metrics::*;
use crate::failure::Failure;

/// The pause after the system refused something.
const PAUSE: Duration = Duration::from_secs(1);

/// Observes the quorum service until the process ends.
#[derive(Clone, Debug)]
pub(crate) struct Observer {
    seen: Arc<Mutex<Seen>>,
    started: SystemTime,
}

/// What was seen.
#[derive(Debug, Default)]
struct Seen {
    is_connected: bool,
    gaps: u64,
    membership_changes: u64,
    quorum_changes: u64,
    /// `None` before the first event.
    members: Option<Vec<NodeId>>,
    quorate: Option<bool>,
}

impl Observer {
    pub(crate) fn start(endpoint: &Endpoint) -> Result<Self, Failure> {
        let observer = Self { seen: Arc::default(), started: SystemTime::now() };
        let seen = Arc::clone(&observer.seen);
        let endpoint = endpoint.clone();
        let mut quorum = Supervised::new(move || connect(&endpoint));
        quorum.set_up(TrackFlags::CHANGES)?;
        thread::spawn(move || {
            loop {
                match quorum.next(Deadline::NEVER) {
                    Ok(Some(notice)) => lock(&seen).notice(notice),
                    Ok(None) => {}
                    // Descriptors are exhausted.
                    Err(_) => thread::sleep(PAUSE),
                }
            }
        });
        Ok(observer)
    }

    pub(super) fn add(&self, families: &mut Families) {
        let seen = lock(&self.seen);
        families.add(&EXPORTER_CONNECTED, [], seen.is_connected);
        families.add(&EXPORTER_GAPS, [], seen.gaps);
        families.add(&EXPORTER_MEMBERSHIP_CHANGES, [], seen.membership_changes);
        families.add(&EXPORTER_QUORUM_CHANGES, [], seen.quorum_changes);
        if let Ok(started) = self.started.duration_since(SystemTime::UNIX_EPOCH) {
            families.add(&EXPORTER_START, [], started.as_secs_f64());
        }
    }
}

/// Only model v1 tells the members where no quorum provider is configured. corosync has it since
/// 3.1.
fn connect(endpoint: &Endpoint) -> Result<Client, Error> {
    match Client::connect_with(endpoint, Options::new().model(Model::V1)) {
        Err(Error::Unsupported { .. }) => Client::connect_to(endpoint),
        client => client,
    }
}

impl Seen {
    fn notice(&mut self, notice: NoticeOf<Client>) {
        match notice {
            Notice::Event(event) => self.event(event),
            Notice::Up(_) => self.is_connected = true,
            Notice::Lost { .. } => {
                self.is_connected = false;
                self.gaps += 1;
            }
            _ => {}
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Notification(event) => {
                self.quorate(event.quorate);
                self.members(event.members);
            }
            Event::Quorum(event) => {
                self.quorate(event.quorate);
                if let Some(nodelist) = event.nodelist {
                    self.members(nodelist.members);
                }
            }
            Event::Nodelist(event) => self.members(event.members),
            _ => {}
        }
    }

    fn quorate(&mut self, now: bool) {
        let before = self.quorate.replace(now);
        self.quorum_changes += u64::from(before.is_some_and(|before| before != now));
    }

    fn members(&mut self, mut now: Vec<NodeId>) {
        now.sort_unstable();
        let is_new = self.members.as_ref().is_some_and(|before| *before != now);
        self.membership_changes += u64::from(is_new);
        self.members = Some(now);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
