//! The trackers of a map, notified in the order of libqb's trie.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ClientNumber;
use crate::cmap::TrackEvents;
use crate::wire::cmap::RawValue;

/// The owner of a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watcher {
    /// A client, and the handle that it chose for the tracker.
    Client { client: ClientNumber, instance: u64 },
    /// votequorum, which reads its configuration again.
    Votequorum,
    /// The cmap service, which multicasts the configuration's version.
    ConfigVersion,
}

/// A change of a key, to be delivered to one watcher.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) watcher: Watcher,
    pub(crate) event: TrackEvents,
    pub(crate) key: Bytes,
    pub(crate) new: RawValue,
    pub(crate) old: RawValue,
}

/// The id of a tracker. Later trackers have greater ids.
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
    /// Adds a tracker of a key, a prefix or, with an empty key, everything.
    pub(crate) fn add(&mut self, key: Bytes, events: TrackEvents, watcher: Watcher) -> TrackerId {
        let id = TrackerId(self.next);
        self.next += 1;
        self.all.insert(id, Tracker { key, events, watcher });
        id
    }

    pub(crate) fn remove(&mut self, id: TrackerId) {
        self.all.remove(&id);
    }

    /// Returns the notices of a change in the trie's order: first the trackers on the key's own
    /// trie node, then those on its ancestors. On one trie node the trackers of the key itself
    /// come first, from the newest to the oldest, then those of the prefix, from the oldest to
    /// the newest. The trackers of everything come last, from the newest to the oldest.
    pub(crate) fn notices(
        &self,
        event: TrackEvents,
        key: &[u8],
        new: &RawValue,
        old: &RawValue,
    ) -> Vec<Notice> {
        let mut matching: Vec<_> =
            self.all.iter().filter(|(_, tracker)| tracker.matches(event, key)).collect();
        matching.sort_by_key(|(id, tracker)| {
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
        matching.into_iter().map(|(_, tracker)| notice(tracker)).collect()
    }
}

impl Tracker {
    fn matches(&self, event: TrackEvents, key: &[u8]) -> bool {
        let is_prefix = self.events.contains(TrackEvents::PREFIX);
        self.events.contains(event)
            && if is_prefix { key.starts_with(&self.key) } else { key == self.key }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A removal whose cost grows with the number of trackers would make this take hours.
    #[test]
    fn many_trackers_go_as_fast_as_few() {
        const MANY: u64 = 1_000_000;
        const WATCHDOG: Duration = Duration::from_secs(300);
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let mut trackers = Trackers::default();
            let watcher = |instance| Watcher::Client { client: ClientNumber(1), instance };
            let key = Bytes::from_static(b"a.key");
            let ids: Vec<_> = (0..MANY)
                .map(|at| trackers.add(key.clone(), TrackEvents::ALL, watcher(at)))
                .collect();
            // The newest first: a search from the beginning would find it last.
            ids.into_iter().rev().for_each(|id| trackers.remove(id));
            let value = RawValue::default();
            let _ = done.send(trackers.notices(TrackEvents::ADD, &key, &value, &value));
        });
        assert_eq!(is_done.recv_timeout(WATCHDOG), Ok(Vec::new()));
    }
}
