//! The map behind cmap: exec/icmap.c over libqb's trie, with the trie's ways where clients see
//! them.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::trackers::{Notice, TrackerId, Trackers, Watcher};
use crate::cmap::{MAX_VALUE_SIZE, TrackEvents, Value, ValueType};
use crate::error::CsError;
use crate::wire::cmap::RawValue;

/// Shortest and longest key. Match `ICMAP_KEYNAME_MINLEN` and `ICMAP_KEYNAME_MAXLEN`.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 3..=255;

/// A place in an iteration. What it stands on stays in the map, though deleted, until it moves on:
/// as in the trie.
#[derive(Debug, Default)]
pub(crate) struct Iter {
    prefix: Bytes,
    at: Position,
}

#[derive(Debug, Default, PartialEq)]
enum Position {
    #[default]
    Start,
    On(Bytes),
    End,
}

#[derive(Debug)]
struct Entry {
    value: RawValue,
    /// 1 for being in the map, and 1 for each iterator that stands here.
    references: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Icmap {
    entries: BTreeMap<Bytes, Entry>,
    trackers: Trackers,
    /// Keys and prefixes (`true`) that clients may not change.
    read_only: Vec<(&'static str, bool)>,
}

/// A value as clients set it.
pub(crate) fn raw(value: impl Into<Value>) -> RawValue {
    let value: Value = value.into();
    // A value of the server's own is never too long.
    value.into_wire().unwrap_or_default()
}

/// A value as clients are told it: text has its NUL.
pub(crate) fn stored(value: impl Into<Value>) -> RawValue {
    let value = raw(value);
    RawValue { data: check(&value).unwrap_or_default(), ..value }
}

impl Icmap {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&RawValue> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// The value of a key that has just this type.
    pub(crate) fn get_as<T: TryFrom<Value>>(&self, key: &str) -> Option<T> {
        T::try_from(Value::from_wire(self.get(key.as_bytes())?.clone())).ok()
    }

    /// Sets a key. Matches `icmap_set_r`.
    pub(crate) fn set(&mut self, key: &[u8], value: &RawValue) -> Result<Vec<Notice>, CsError> {
        let data = check(value)?;
        let stored = RawValue { value_type: value.value_type, data };
        if let Some(entry) = self.entries.get_mut(key) {
            if entry.value == stored {
                return Ok(Vec::new());
            }
            let old = std::mem::replace(&mut entry.value, stored.clone());
            return Ok(self.trackers.notices(TrackEvents::MODIFY, key, &stored, &old));
        }
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(byte);
        if !KEY_LENGTHS.contains(&key.len()) || !key.iter().all(valid) {
            return Err(CsError::NameTooLong);
        }
        self.entries
            .insert(Bytes::copy_from_slice(key), Entry { value: stored.clone(), references: 1 });
        Ok(self.trackers.notices(TrackEvents::ADD, key, &stored, &RawValue::default()))
    }

    /// Adds to an integer, which wraps around. Matches `icmap_adjust_int_r`.
    pub(crate) fn adjust(&mut self, key: &[u8], step: i32) -> Result<Vec<Notice>, CsError> {
        let sum = add(self.get(key).ok_or(CsError::NotExist)?, step)?;
        match sum {
            Some(sum) => self.set(key, &sum),
            None => Ok(Vec::new()),
        }
    }

    /// Counts: as [`Icmap::adjust`], but in place, so that watchers are not told the old value.
    /// Matches `icmap_fast_inc`.
    pub(crate) fn count(&mut self, key: &str) -> Vec<Notice> {
        let Some(entry) = self.entries.get_mut(key.as_bytes()) else {
            return Vec::new();
        };
        let Ok(Some(sum)) = add(&entry.value, 1) else {
            return Vec::new();
        };
        entry.value = sum.clone();
        self.trackers.notices(TrackEvents::MODIFY, key.as_bytes(), &sum, &RawValue::default())
    }

    /// Deletes a key. Matches `icmap_delete_r`.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<Vec<Notice>, CsError> {
        if !self.entries.contains_key(key) {
            return Err(CsError::NotExist);
        }
        Ok(self.release(key))
    }

    /// Gives one reference to a key back. The last one deletes it.
    fn release(&mut self, key: &[u8]) -> Vec<Notice> {
        let Some(entry) = self.entries.get_mut(key) else {
            return Vec::new();
        };
        entry.references -= 1;
        if entry.references > 0 {
            return Vec::new();
        }
        let old = self.entries.remove(key).map(|entry| entry.value).unwrap_or_default();
        self.trackers.notices(TrackEvents::DELETE, key, &RawValue::default(), &old)
    }

    /// Starts an iteration.
    pub(crate) fn iter(prefix: Bytes) -> Iter {
        Iter { prefix, at: Position::Start }
    }

    /// Moves on to the next key. What was deleted while the iterator stood on it is gone now, of
    /// which the notices tell.
    pub(crate) fn next(&mut self, iter: &mut Iter) -> (Option<(Bytes, RawValue)>, Vec<Notice>) {
        let from = match &iter.at {
            Position::Start => Bound::Included(iter.prefix.clone()),
            Position::On(key) => Bound::Excluded(key.clone()),
            Position::End => return (None, Vec::new()),
        };
        let next = self.entries.range((from, Bound::Unbounded)).next();
        let next = next.filter(|(key, _)| key.starts_with(&iter.prefix));
        let found = next.map(|(key, entry)| (key.clone(), entry.value.clone()));
        if let Some((key, _)) = &found {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.references += 1;
            }
        }
        let place = found.as_ref().map_or(Position::End, |(key, _)| Position::On(key.clone()));
        let left = std::mem::replace(&mut iter.at, place);
        (found, self.leave(left))
    }

    /// Ends an iteration.
    pub(crate) fn finish(&mut self, iter: Iter) -> Vec<Notice> {
        self.leave(iter.at)
    }

    /// An iterator stands here no more.
    fn leave(&mut self, place: Position) -> Vec<Notice> {
        match place {
            Position::On(key) => self.release(&key),
            Position::Start | Position::End => Vec::new(),
        }
    }

    /// All keys, in the order in which an iteration finds them.
    pub(crate) fn with_prefix(
        &self,
        prefix: &'static str,
    ) -> impl Iterator<Item = (&Bytes, &RawValue)> {
        let from = Bound::Included(Bytes::from_static(prefix.as_bytes()));
        let all = self.entries.range((from, Bound::Unbounded));
        all.take_while(move |(key, _)| key.starts_with(prefix.as_bytes()))
            .map(|(key, entry)| (key, &entry.value))
    }

    /// Starts to watch a key, a prefix, or with an empty one everything. Matches `icmap_track_add`.
    pub(crate) fn track(
        &mut self,
        key: Bytes,
        events: TrackEvents,
        watcher: Watcher,
    ) -> Result<TrackerId, CsError> {
        let known =
            TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::MODIFY | TrackEvents::PREFIX;
        if !known.contains(events) {
            return Err(CsError::InvalidParam);
        }
        Ok(self.trackers.add(key, events, watcher))
    }

    pub(crate) fn untrack(&mut self, id: TrackerId) {
        self.trackers.remove(id);
    }

    /// From now on clients may not change this key, or any key with this prefix.
    pub(crate) fn protect(&mut self, key: &'static str, prefix: bool) {
        self.read_only.push((key, prefix));
    }

    /// Whether clients may not change a key.
    pub(crate) fn is_read_only(&self, key: &[u8]) -> bool {
        self.read_only.iter().any(|(name, prefix)| {
            if *prefix { key.starts_with(name.as_bytes()) } else { key == name.as_bytes() }
        })
    }
}

/// Checks a value and returns its bytes as they are stored. Matches `icmap_check_value_len`.
fn check(value: &RawValue) -> Result<Bytes, CsError> {
    let length = value.data.len();
    if length > MAX_VALUE_SIZE {
        return Err(CsError::InvalidParam);
    }
    match value.value_type {
        ValueType::BINARY => Ok(value.data.clone()),
        ValueType::STRING => {
            let text = value.data.split(|byte| *byte == 0).next().unwrap_or_default();
            // A NUL may end the text, but nothing may follow it.
            if length > text.len() + 1 {
                return Err(CsError::InvalidParam);
            }
            Ok([text, &[0]].concat().into())
        }
        // What has an unknown type has no length.
        number if length == size(number).unwrap_or(0) => Ok(value.data.clone()),
        _ => Err(CsError::InvalidParam),
    }
}

/// Bytes of a number.
fn size(value_type: ValueType) -> Option<usize> {
    Some(match value_type {
        ValueType::INT8 | ValueType::UINT8 => 1,
        ValueType::INT16 | ValueType::UINT16 => 2,
        ValueType::INT32 | ValueType::UINT32 | ValueType::FLOAT => 4,
        ValueType::INT64 | ValueType::UINT64 | ValueType::DOUBLE => 8,
        _ => return None,
    })
}

/// The sum, of the same type. `None` for a type the daemon does not know, which it leaves alone.
fn add(value: &RawValue, step: i32) -> Result<Option<RawValue>, CsError> {
    let no_integer = [ValueType::FLOAT, ValueType::DOUBLE, ValueType::STRING, ValueType::BINARY];
    if no_integer.contains(&value.value_type) {
        return Err(CsError::InvalidParam);
    }
    macro_rules! sum {
        ($int:ty) => {
            <[u8; size_of::<$int>()]>::try_from(&*value.data).map(|bytes| {
                Bytes::copy_from_slice(
                    &<$int>::from_ne_bytes(bytes).wrapping_add(step as $int).to_ne_bytes(),
                )
            })
        };
    }
    let sum = match size(value.value_type) {
        Some(1) => sum!(u8),
        Some(2) => sum!(u16),
        Some(4) => sum!(u32),
        Some(8) => sum!(u64),
        _ => return Ok(None),
    };
    // `set` lets no number in that has not its type's length.
    Ok(sum.ok().map(|data| RawValue { value_type: value.value_type, data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::node::ClientId;

    fn keys(notices: &[Notice]) -> Vec<u64> {
        let instance = |notice: &Notice| match notice.watcher {
            Watcher::Client { instance, .. } => instance,
            _ => u64::MAX,
        };
        notices.iter().map(instance).collect()
    }

    fn map() -> Icmap {
        let mut map = Icmap::default();
        for key in ["b.one", "a.two", "b", "b.o"] {
            map.entries.insert(Bytes::from(key), Entry { value: raw(1u32), references: 1 });
        }
        map
    }

    #[test]
    fn trackers_are_told_from_the_key_upwards() {
        let mut map = map();
        let all = TrackEvents::ADD | TrackEvents::MODIFY | TrackEvents::DELETE;
        for (instance, (key, events)) in [
            ("", all | TrackEvents::PREFIX),
            ("b.", all | TrackEvents::PREFIX),
            ("b.one", all),
            ("b.one", all | TrackEvents::PREFIX),
            ("b.one", all),
            ("b.one", all | TrackEvents::PREFIX),
            ("", all | TrackEvents::PREFIX),
            ("b.one", TrackEvents::DELETE),
        ]
        .into_iter()
        .enumerate()
        {
            let watcher = Watcher::Client { client: ClientId(1), instance: instance as u64 };
            map.track(Bytes::from(key), events, watcher).unwrap();
        }
        assert_eq!(keys(&map.set(b"b.one", &raw(2u32)).unwrap()), [4, 2, 3, 5, 1, 6, 0]);
        assert!(map.set(b"b.one", &raw(2u32)).unwrap().is_empty());
        assert_eq!(keys(&map.delete(b"b.one").unwrap()), [7, 4, 2, 3, 5, 1, 6, 0]);
    }

    #[test]
    fn a_key_that_an_iterator_stands_on_is_deleted_when_it_moves() {
        let mut map = map();
        map.track(Bytes::new(), TrackEvents::DELETE | TrackEvents::PREFIX, Watcher::ConfigVersion)
            .unwrap();
        let mut iter = Icmap::iter(Bytes::from("b"));
        assert_eq!(map.next(&mut iter).0.unwrap().0, "b");
        assert_eq!(map.next(&mut iter).0.unwrap().0, "b.o");
        assert_eq!(map.delete(b"b.o"), Ok(vec![]));
        assert!(map.get(b"b.o").is_some());
        let (next, notices) = map.next(&mut iter);
        assert_eq!((next.unwrap().0, notices.len()), ("b.one".into(), 1));
        assert!(map.get(b"b.o").is_none());
        assert_eq!(map.next(&mut iter).0, None);
    }

    #[test]
    fn values_are_checked_as_the_daemon_checks_them() {
        let mut map = map();
        let value = |value_type, data: &'static [u8]| RawValue {
            value_type,
            data: Bytes::from_static(data),
        };
        assert_eq!(
            map.set(b"key.a", &value(ValueType::UINT32, b"123")),
            Err(CsError::InvalidParam)
        );
        assert_eq!(
            map.set(b"key.a", &value(ValueType::STRING, b"a\0b")),
            Err(CsError::InvalidParam)
        );
        assert!(map.set(b"key.a", &value(ValueType::STRING, b"a\0")).is_ok());
        assert_eq!(map.get(b"key.a").unwrap().data, &b"a\0"[..]);
        assert_eq!(map.set(b"k", &raw(1u8)), Err(CsError::NameTooLong));
        assert_eq!(map.set(b"key a", &raw(1u8)), Err(CsError::NameTooLong));
        assert!(map.set(b"key.n", &raw(250u8)).is_ok());
        assert!(map.adjust(b"key.n", 10).is_ok());
        assert_eq!(map.get_as::<u8>("key.n"), Some(4));
        assert_eq!(map.adjust(b"key.a", 1), Err(CsError::InvalidParam));
    }
}
