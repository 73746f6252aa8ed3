//! The map behind cmap, as exec/icmap.c over libqb's trie. It behaves as the trie where clients
//! notice.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::trackers::{Notice, TrackerId, Trackers, Watcher};
use crate::cmap::{MAX_VALUE_SIZE, TrackEvents, Value, ValueType};
use crate::error::CsError;
use crate::wire::cmap::RawValue;

/// The valid lengths of a key. Match `ICMAP_KEYNAME_MINLEN` and `ICMAP_KEYNAME_MAXLEN`.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 3..=255;

/// The most bytes that clients may fill with keys, values and what each of them takes besides. The
/// daemon's only limit is its memory.
const MAX_BYTES: usize = 32 << 20;

/// What a key takes besides its own bytes and those of its value.
const KEY_COST: usize = 256;

/// An iterator. As in the trie, a key that is deleted while an iterator is on it stays in the map
/// until the iterator moves on.
#[derive(Debug, Default)]
pub(crate) struct Iter {
    prefix: Bytes,
    position: Position,
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
    /// 1 until the key is deleted, plus 1 for each iterator on it.
    references: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Icmap {
    entries: BTreeMap<Bytes, Entry>,
    /// What all entries take.
    bytes: usize,
    trackers: Trackers,
    /// The read-only keys: a key, and true if it is a prefix.
    read_only: Vec<(&'static str, bool)>,
}

/// Encodes a value as a client sends it.
pub(crate) fn raw(value: impl Into<Value>) -> RawValue {
    let value: Value = value.into();
    // The server's own values are never too long.
    value.into_wire().unwrap_or_default()
}

/// Encodes a value as a client receives it: a string ends with a NUL.
pub(crate) fn stored(value: impl Into<Value>) -> RawValue {
    let value = raw(value);
    RawValue { data: check(&value).unwrap_or_default(), ..value }
}

impl Icmap {
    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&RawValue> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// Returns the value of a key if it has exactly this type.
    pub(crate) fn get_as<T: TryFrom<Value>>(&self, key: &str) -> Option<T> {
        T::try_from(Value::from(self.get(key.as_bytes())?.clone())).ok()
    }

    /// Whether there is room for a key with this value.
    pub(crate) fn has_room(&self, key: &[u8], value: &RawValue) -> bool {
        let old = self.entries.get(key).map_or(0, |entry| cost(key, &entry.value));
        self.bytes.saturating_sub(old) + cost(key, value) <= MAX_BYTES
    }

    /// Sets a key. Matches `icmap_set_r`. Returns the notices of the change, as all functions
    /// below.
    pub(crate) fn set(&mut self, key: &[u8], value: &RawValue) -> Result<Vec<Notice>, CsError> {
        let data = check(value)?;
        let stored = RawValue { value_type: value.value_type, data };
        if let Some(entry) = self.entries.get_mut(key) {
            if entry.value == stored {
                return Ok(Vec::new());
            }
            let old = std::mem::replace(&mut entry.value, stored.clone());
            self.bytes = self.bytes.saturating_sub(cost(key, &old)) + cost(key, &stored);
            return Ok(self.trackers.notices(TrackEvents::MODIFY, key, &stored, &old));
        }
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(byte);
        if !KEY_LENGTHS.contains(&key.len()) || !key.iter().all(valid) {
            return Err(CsError::NameTooLong);
        }
        self.bytes += cost(key, &stored);
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

    /// Adds 1 to an integer in place, so that notices have no old value. Matches `icmap_fast_inc`.
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

    /// Drops one reference to a key. The last one deletes the key.
    fn release(&mut self, key: &[u8]) -> Vec<Notice> {
        let Some(entry) = self.entries.get_mut(key) else {
            return Vec::new();
        };
        entry.references -= 1;
        if entry.references > 0 {
            return Vec::new();
        }
        let old = self.entries.remove(key).map(|entry| entry.value).unwrap_or_default();
        self.bytes = self.bytes.saturating_sub(cost(key, &old));
        self.trackers.notices(TrackEvents::DELETE, key, &RawValue::default(), &old)
    }

    /// Starts an iteration.
    pub(crate) fn iter(prefix: Bytes) -> Iter {
        Iter { prefix, position: Position::Start }
    }

    /// Moves on to the next key. A key that was deleted while the iterator was on it is removed
    /// now, and the notices say so.
    pub(crate) fn next(&mut self, iter: &mut Iter) -> (Option<(Bytes, RawValue)>, Vec<Notice>) {
        let from = match &iter.position {
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
        let position = found.as_ref().map_or(Position::End, |(key, _)| Position::On(key.clone()));
        let left = std::mem::replace(&mut iter.position, position);
        (found, self.leave(left))
    }

    /// Ends an iteration.
    pub(crate) fn finish(&mut self, iter: Iter) -> Vec<Notice> {
        self.leave(iter.position)
    }

    /// Releases the key that an iterator was on.
    fn leave(&mut self, position: Position) -> Vec<Notice> {
        match position {
            Position::On(key) => self.release(&key),
            Position::Start | Position::End => Vec::new(),
        }
    }

    /// The keys with a prefix, in the order of an iteration.
    pub(crate) fn with_prefix(
        &self,
        prefix: &'static str,
    ) -> impl Iterator<Item = (&Bytes, &RawValue)> {
        let from = Bound::Included(Bytes::from_static(prefix.as_bytes()));
        let all = self.entries.range((from, Bound::Unbounded));
        all.take_while(move |(key, _)| key.starts_with(prefix.as_bytes()))
            .map(|(key, entry)| (key, &entry.value))
    }

    /// Starts tracking a key, a prefix or, with an empty key, everything. Matches
    /// `icmap_track_add`.
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

    /// Makes a key, or all keys with a prefix, read-only for clients.
    pub(crate) fn protect(&mut self, key: &'static str, is_prefix: bool) {
        self.read_only.push((key, is_prefix));
    }

    /// Returns true if clients must not change a key.
    pub(crate) fn is_read_only(&self, key: &[u8]) -> bool {
        self.read_only.iter().any(|(name, is_prefix)| {
            if *is_prefix { key.starts_with(name.as_bytes()) } else { key == name.as_bytes() }
        })
    }
}

/// What an entry takes.
fn cost(key: &[u8], value: &RawValue) -> usize {
    key.len() + value.data.len() + KEY_COST
}

/// Checks a value and returns the bytes to store. Matches `icmap_check_value_len`.
fn check(value: &RawValue) -> Result<Bytes, CsError> {
    let length = value.data.len();
    if length > MAX_VALUE_SIZE {
        return Err(CsError::InvalidParam);
    }
    match value.value_type {
        ValueType::BINARY => Ok(value.data.clone()),
        ValueType::STRING => {
            let text = value.data.split(|byte| *byte == 0).next().unwrap_or_default();
            // A NUL may end the text, but no byte may follow it.
            if length > text.len() + 1 {
                return Err(CsError::InvalidParam);
            }
            Ok([text, &[0]].concat().into())
        }
        // A value of an unknown type must be empty.
        number if length == size(number).unwrap_or(0) => Ok(value.data.clone()),
        _ => Err(CsError::InvalidParam),
    }
}

/// The size of a number in bytes.
fn size(value_type: ValueType) -> Option<usize> {
    Some(match value_type {
        ValueType::INT8 | ValueType::UINT8 => 1,
        ValueType::INT16 | ValueType::UINT16 => 2,
        ValueType::INT32 | ValueType::UINT32 | ValueType::FLOAT => 4,
        ValueType::INT64 | ValueType::UINT64 | ValueType::DOUBLE => 8,
        _ => return None,
    })
}

/// Returns the sum in the type of `value`. `None` for an unknown type, which the daemon leaves
/// unchanged.
fn add(value: &RawValue, step: i32) -> Result<Option<RawValue>, CsError> {
    let not_integers = [ValueType::FLOAT, ValueType::DOUBLE, ValueType::STRING, ValueType::BINARY];
    if not_integers.contains(&value.value_type) {
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
    // `set` accepts a number only in the length of its type.
    Ok(sum.ok().map(|data| RawValue { value_type: value.value_type, data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::node::ClientNumber;

    fn instances(notices: &[Notice]) -> Vec<u64> {
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
            let watcher = Watcher::Client { client: ClientNumber(1), instance: instance as u64 };
            map.track(Bytes::from(key), events, watcher).unwrap();
        }
        assert_eq!(instances(&map.set(b"b.one", &raw(2u32)).unwrap()), [4, 2, 3, 5, 1, 6, 0]);
        assert!(map.set(b"b.one", &raw(2u32)).unwrap().is_empty());
        assert_eq!(instances(&map.delete(b"b.one").unwrap()), [7, 4, 2, 3, 5, 1, 6, 0]);
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
