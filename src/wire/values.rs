//! Values that several services share, and the macros that declare the peer's flags and
//! enumerations.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::codec::{Plain, Value};

/// The id of a node in corosync's nodelist, `nodelist.node.N.nodeid`. In votequorum 0 stands for
/// the quorum device.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
#[repr(transparent)]
pub struct NodeId(pub u32);

impl Plain for NodeId {
    fn value(&self) -> Value {
        self.0.value()
    }
}

impl From<u32> for NodeId {
    fn from(id: u32) -> Self {
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of a totem ring: the node that formed it and a number that grows with every membership
/// change. Matches `struct cpg_ring_id` and its siblings.
///
/// Prints as in corosync, with both parts in hexadecimal: `1.2c5`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RingId {
    /// The node that formed the ring.
    pub node_id: NodeId,
    /// The sequence number.
    pub seq: u64,
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.node_id.0, self.seq)
    }
}

impl fmt::Debug for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingId({self})")
    }
}

/// Declares a set of flags: a number with named bits. Unknown bits are kept.
macro_rules! flags {
    ($(#[$doc:meta])* pub struct $type:ident: $int:ty { $($(#[$flag_doc:meta])* const $flag:ident = $value:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        #[repr(transparent)]
        pub struct $type($int);

        impl $type {
            $($(#[$flag_doc])* pub const $flag: Self = Self($value);)*

            /// Returns the empty set.
            pub const fn empty() -> Self {
                Self(0)
            }

            /// Returns the flags with these bits, unknown bits included.
            pub const fn from_bits(bits: $int) -> Self {
                Self(bits)
            }

            /// Returns all bits, unknown bits included.
            pub const fn bits(self) -> $int {
                self.0
            }

            /// Returns true if all of `flags` are set.
            pub const fn contains(self, flags: Self) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Returns true if at least one of `flags` is set.
            pub const fn intersects(self, flags: Self) -> bool {
                self.0 & flags.0 != 0
            }

            /// Returns the names of the flags that are set: the names of their constants. Unknown bits
            /// have none.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$((Self::$flag, stringify!($flag))),*].into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
            }
        }

        impl $crate::codec::Plain for $type {
            fn value(&self) -> $crate::codec::Value {
                $crate::codec::Value::Named(self.0.into(), self.names().collect())
            }
        }

        impl std::ops::BitOr for $type {
            type Output = Self;

            fn bitor(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }
        }

        impl std::ops::BitOrAssign for $type {
            fn bitor_assign(&mut self, other: Self) {
                self.0 |= other.0;
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({:#x}", stringify!($type), self.0)?;
                self.names().try_for_each(|name| write!(f, " {name}"))?;
                f.write_str(")")
            }
        }
    };
}
pub(crate) use flags;

flags! {
    /// The notifications that a tracker of quorum or votequorum asks for. The flags combine freely.
    pub struct TrackFlags: u32 {
        /// The current state once. `CS_TRACK_CURRENT`
        const CURRENT = 0x01;
        /// The current state, then every change. `CS_TRACK_CHANGES`
        const CHANGES = 0x02;
        /// Every change from now on. `CS_TRACK_CHANGES_ONLY`
        const CHANGES_ONLY = 0x04;
    }
}

/// Declares an enumeration of the peer's: a number with named values. Unknown values are kept.
macro_rules! open_enum {
    ($(#[$doc:meta])* pub struct $type:ident: $int:ty { $($(#[$value_doc:meta])* const $name:ident = $value:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        #[repr(transparent)]
        pub struct $type(pub $int);

        #[allow(missing_docs)]
        impl $type {
            $($(#[$value_doc])* pub const $name: Self = Self($value);)*

            /// Returns the value's short name. `None` for an unknown value.
            pub fn name(self) -> Option<&'static str> {
                match self { $(Self::$name => Some($text),)* _ => None }
            }
        }

        impl $crate::codec::Plain for $type {
            fn value(&self) -> $crate::codec::Value {
                $crate::codec::Value::Named(self.0.into(), self.name().into_iter().collect())
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() {
                    Some(name) => f.pad(name),
                    None => f.pad(&format!("unknown ({})", self.0)),
                }
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($type))
            }
        }
    };
}
pub(crate) use open_enum;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flag_bits_are_kept() {
        let flags = TrackFlags::CHANGES | TrackFlags::from_bits(1 << 20);
        assert!(flags.contains(TrackFlags::CHANGES));
        assert_eq!(flags.bits(), 0x10_0002);
        assert_eq!(format!("{flags:?}"), "TrackFlags(0x100002 CHANGES)");
    }

    #[test]
    fn a_ring_id_prints_as_corosync_prints_it() {
        assert_eq!(RingId { node_id: NodeId(1), seq: 0x2c5 }.to_string(), "1.2c5");
    }
}
