//! Reads a part of the map into any type: the deserializer behind [`Client::read`].
//!
//! The keys stay a list, sorted by their parts. What is below a key is a range of it, so a hostile
//! list of keys costs no more memory than the list.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod atom;
mod fault;
mod place;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use self::place::{Place, Room};
use super::{Client, MAX_KEY, MIN_KEY, Value};
use crate::error::Result;
use crate::libqb::client::Call;

/// How many keys may be read, and how many values, lists and tables may be made of them. The stats
/// map of 384 nodes with eight links each has some 150,000 keys.
const MOST_KEYS: usize = 1 << 18;

impl Client {
    /// Reads the keys below `prefix` into a value of any type that serde can make.
    ///
    /// ```no_run
    /// use corosync_ipc::{NodeId, cmap};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Node {
    ///     nodeid: NodeId,
    ///     name: Option<String>,
    ///     ring0_addr: String,
    /// }
    ///
    /// let client = cmap::Client::connect()?;
    /// let nodes: Vec<Node> = client.read("nodelist.node.")?;
    /// # let _ = nodes.iter().map(|node| (node.nodeid, &node.name, &node.ring0_addr));
    /// # Ok::<(), corosync_ipc::Error>(())
    /// ```
    ///
    /// The map is a tree. The parts of a key, between its dots, are the names of a struct's fields
    /// or the keys of a map:
    ///
    /// | what is asked for | what it is made of |
    /// | --- | --- |
    /// | struct, map | the keys below, by their next part |
    /// | list, tuple, array | the keys below, whose next parts are numbers, in the order of the numbers, which may have holes. To keep the numbers read a map: `BTreeMap<u32, Node>` |
    /// | integer | an integer that fits, or text of digits |
    /// | float | a `flt`, `dbl` or integer if nothing is lost by it, or text |
    /// | `bool` | what corosync.conf has for it: 0 and 1, `yes` and `no`, `on` and `off`. corosync knows no `true` |
    /// | text, `char` | a `str` |
    /// | bytes, `Vec<u8>` | a `bin` |
    /// | enum | a `str` that names a variant, or one key below with the variant's name and content |
    /// | [`Value`] | the value as it is, with its type |
    /// | `Option` | `None` where there is neither the key nor one below it |
    ///
    /// A key can have a value and others below it, as `a.b` beside `a.b.c`. What is asked for
    /// decides: a type that is made of a value gets that of `a.b`. A struct or a map gets the keys
    /// below, and the value as one more of them, whose name is empty (`#[serde(rename = "")]`).
    /// A list has no place for it and is an error.
    ///
    /// A `prefix` with a dot at its end stands for the keys below it. One without stands for the
    /// key too, so `client.read::<Option<u32>>("totem.token")` reads one value. The empty one is
    /// the whole map. Where there are no keys a list or a map is empty, and a struct lacks its
    /// fields: `#[serde(default)]` says which it can do without.
    ///
    /// serde keeps the parts of some types before it knows what they are for: fields that are
    /// flattened, enums that are untagged or have a tag inside. Their values must have the type that
    /// is asked for, and `yes` is text there.
    ///
    /// This takes the requests of [`Client::list`], in the same time. It is no snapshot: a change
    /// meanwhile is seen in part. [`Watch`](crate::supervise::Watch) reads again then.
    ///
    /// # Errors
    /// [`Error::WrongType`](crate::Error::WrongType) where a value is of no use for the type that is
    /// asked for; [`Error::Unreadable`](crate::Error::Unreadable) where a key is missing, a number
    /// does not fit, and for whatever else `T` does not take. Both name the key.
    /// As [`Client::list`], but [`Error::Protocol`](crate::Error::Protocol) for more than 262,144
    /// keys.
    pub fn read<T: DeserializeOwned>(&self, prefix: &str) -> Result<T> {
        self.read_within(prefix, self.core.call("cmap read"))
    }

    /// As [`Client::read`], and waits while the daemon is too busy whatever the endpoint says.
    pub(crate) fn read_patiently<T: DeserializeOwned>(&self, prefix: &str) -> Result<T> {
        self.read_within(prefix, self.core.call("cmap read").patient())
    }

    fn read_within<T: DeserializeOwned>(&self, prefix: &str, call: Call) -> Result<T> {
        if prefix.is_empty() || prefix.ends_with('.') {
            let found = self.list_within(prefix, MOST_KEYS, call)?;
            return Tree::new(prefix, None, found).read();
        }
        let own = if prefix.len() < MIN_KEY { None } else { self.get_within(prefix, call)? };
        let below = format!("{prefix}.");
        let found = if below.len() > MAX_KEY {
            Vec::new()
        } else {
            self.list_within(&below, MOST_KEYS, call)?
        };
        Tree::new(prefix, own, found).read()
    }
}

/// The keys below a prefix, with their values, and the value of the prefix itself.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Without the dot at its end.
    prefix: String,
    /// How many bytes of the keys belong to the prefix and the dot.
    start: usize,
    own: Option<Value>,
    /// Each once, in the order of [`by_parts`], so that the keys below any part are neighbours.
    keys: Vec<(String, Value)>,
}

impl Tree {
    pub(crate) fn new(prefix: &str, own: Option<Value>, mut keys: Vec<(String, Value)>) -> Self {
        let has_dot = prefix.is_empty() || prefix.ends_with('.');
        let start = prefix.len() + usize::from(!has_dot);
        let prefix = prefix.strip_suffix('.').unwrap_or(prefix).to_owned();
        keys.sort_by(|(a, _), (b, _)| by_parts(a, b));
        keys.dedup_by(|(a, _), (b, _)| a == b);
        Self { prefix, start, own, keys }
    }

    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        let room = Room::new(MOST_KEYS);
        Ok(Place::root(self, &room).read(PhantomData)?)
    }
}

/// Orders keys by one part after the other: numbers by what they count, before all other parts.
fn by_parts(a: &str, b: &str) -> Ordering {
    a.split('.').map(Part).cmp(b.split('.').map(Part))
}

/// What is between two dots of a key.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part<'a>(&'a str);

impl Part<'_> {
    /// The number without leading zeros.
    fn digits(&self) -> Option<&str> {
        let is_number = !self.0.is_empty() && self.0.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| self.0.trim_start_matches('0'))
    }
}

impl Ord for Part<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.digits(), other.digits()) {
            (Some(a), Some(b)) => {
                a.len().cmp(&b.len()).then_with(|| a.cmp(b)).then_with(|| self.0.cmp(other.0))
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => self.0.cmp(other.0),
        }
    }
}

impl PartialOrd for Part<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
