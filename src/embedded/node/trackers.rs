//! Who wants to know of changes of a map, in the order of libqb's trie.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ClientId;
use crate::cmap::TrackEvents;
use crate::wire::cmap::RawValue;

/// Who is told of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watcher {
    /// A client, with what it gave to recognize the tracker by.
    Client { client: ClientId, instance: u64 },
    /// votequorum reads its configuration again.
    Votequorum,
    /// The cmap service tells the other nodes the configuration's version.
    ConfigVersion,
}

/// A change, for one watcher.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) watcher: Watcher,
    pub(crate) event: TrackEvents,
    pub(crate) key: Bytes,
    pub(crate) new: RawValue,
    pub(crate) old: RawValue,
}

/// Names a tracker. A later one has a greater name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TrackerId(u64);

#[derive(Debug)]
struct Tracker {
    key: Bytes,
    events: TrackEvents,
    watcher: Watcher,
}

/// The trackers of a map.
#[derive(Debug, Default)]
pub(crate) struct Trackers {
    /// In the order in which they were added.
    all: BTreeMap<TrackerId, Tracker>,
    next: u64,
}

impl Trackers {
    /// Starts to watch a key, a prefix, or with an empty one everything.
    pub(crate) fn add(&mut self, key: Bytes, events: TrackEvents, watcher: Watcher) -> TrackerId {
        let id = TrackerId(self.next);
        self.next += 1;
        self.all.insert(id, Tracker { key, events, watcher });
        id
    }

    pub(crate) fn remove(&mut self, id: TrackerId) {
        self.all.remove(&id);
    }

    /// Who is told, in the trie's order: the key's own node first, then upwards; on a node trackers
    /// of the key itself, the newest first, then those of the prefix, the oldest first;
    /// trackers of everything at last, the newest first.
    pub(crate) fn notices(
        &self,
        event: TrackEvents,
        key: &[u8],
        new: &RawValue,
        old: &RawValue,
    ) -> Vec<Notice> {
        let mut told: Vec<_> =
            self.all.iter().filter(|(_, tracker)| tracker.is_told(event, key)).collect();
        told.sort_by_key(|(id, tracker)| {
            let age = id.0 as i64;
            let is_prefix = tracker.events.contains(TrackEvents::PREFIX) && !tracker.key.is_empty();
            (std::cmp::Reverse(tracker.key.len()), is_prefix, if is_prefix { age } else { -age })
        });
        let notice = |tracker: &Tracker| Notice {
            watcher: tracker.watcher,
            event,
            key: Bytes::copy_from_slice(key),
            new: new.clone(),
            old: old.clone(),
        };
        told.into_iter().map(|(_, tracker)| notice(tracker)).collect()
    }
}

impl Tracker {
    fn is_told(&self, event: TrackEvents, key: &[u8]) -> bool {
        let prefix = self.events.contains(TrackEvents::PREFIX);
        self.events.contains(event)
            && if prefix { key.starts_with(&self.key) } else { key == self.key }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Removing one at a cost that grows with their number would take hours.
    #[test]
    fn many_trackers_go_as_fast_as_few() {
        const MANY: u64 = 1_000_000;
        const WATCHDOG: Duration = Duration::from_secs(300);
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let mut trackers = Trackers::default();
            let watcher = |instance| Watcher::Client { client: ClientId(1), instance };
            let key = Bytes::from_static(b"a.key");
            let ids: Vec<_> = (0..MANY)
                .map(|at| trackers.add(key.clone(), TrackEvents::ALL, watcher(at)))
                .collect();
            // The newest is the last to be found by whoever looks from the beginning.
            ids.into_iter().rev().for_each(|id| trackers.remove(id));
            let value = RawValue::default();
            let _ = done.send(trackers.notices(TrackEvents::ADD, &key, &value, &value));
        });
        assert_eq!(is_done.recv_timeout(WATCHDOG), Ok(Vec::new()));
    }
}
