//! Group names.

use std::fmt;

use crate::error::Escaped;
use crate::error::{Error, Result};

/// The longest group name in bytes. Matches `CPG_MAX_NAME_LENGTH`.
pub const MAX_GROUP_NAME: usize = 128;

/// A group name: up to [`MAX_GROUP_NAME`] bytes, which need not be text. Matches `struct cpg_name`.
///
/// Two names are the same group if all their bytes are equal. The name of a C program may include
/// the NUL of its string: that of Pacemaker and Proxmox does ([`GroupName::with_nul`]), others do
/// not ([`GroupName::new`]). Names are never trimmed.
///
/// Prints as text: other bytes are escaped as `\x00`, and a backslash as `\\`.
/// [`GroupName::from_escaped`] reads this form, and the feature `serde` serializes names in it.
///
/// ```
/// use corosync_ipc::cpg::GroupName;
///
/// let ours = GroupName::new("my group")?;
/// let pacemaker = GroupName::with_nul("crmd")?;
/// assert_eq!(pacemaker.as_bytes(), b"crmd\0");
/// assert_eq!(pacemaker.to_string(), r"crmd\x00");
/// assert_eq!(GroupName::from_escaped(r"crmd\x00")?, pacemaker);
/// # let _ = ours;
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupName {
    length: u8,
    /// The name padded with zeros, so that equal names have equal arrays.
    bytes: [u8; MAX_GROUP_NAME],
}

impl GroupName {
    /// Makes a name of all these bytes: `GroupName::new("name")`, `GroupName::new(b"name\0")`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for more than [`MAX_GROUP_NAME`] bytes. C returns
    /// `CS_ERR_NAME_TOO_LONG`.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        Self::from_wire(name).ok_or_else(|| {
            let reason =
                format!("a group name has at most {MAX_GROUP_NAME} bytes, this one {}", name.len());
            Error::invalid("group name", reason)
        })
    }

    /// Makes a name of this text and a NUL, for groups of programs that count the NUL.
    ///
    /// # Errors
    /// As [`GroupName::new`].
    pub fn with_nul(name: impl AsRef<str>) -> Result<Self> {
        Self::new([name.as_ref().as_bytes(), &[0]].concat())
    }

    /// Parses the form that `Display` prints: text in which `\x` and two hexadecimal digits stand
    /// for any byte, and `\\` for a backslash.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for any other escape; as [`GroupName::new`].
    pub fn from_escaped(text: &str) -> Result<Self> {
        let mut parts = text.split('\\');
        let mut name = parts.next().unwrap_or_default().as_bytes().to_vec();
        while let Some(part) = parts.next() {
            if let Some((byte, rest)) = part.strip_prefix('x').and_then(leading_byte) {
                name.push(byte);
                name.extend_from_slice(rest.as_bytes());
            } else if let (true, Some(rest)) = (part.is_empty(), parts.next()) {
                name.push(b'\\');
                name.extend_from_slice(rest.as_bytes());
            } else {
                let text = Escaped(text.as_bytes());
                let reason = format!(
                    "invalid escape in \"{text}\": write \\\\ for a backslash, \\x and two hexadecimal digits for a byte"
                );
                return Err(Error::invalid("group name", reason));
            }
        }
        Self::new(name)
    }

    /// Makes a name of the peer's bytes. `None` if there are too many.
    pub(crate) fn from_wire(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_GROUP_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { length: u8::try_from(name.len()).ok()?, bytes })
    }

    /// Returns the bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Returns true for the name without bytes. A group with this name cannot be joined.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Parses two hexadecimal digits at the start of `text`. Returns the byte and the rest.
fn leading_byte(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    // `from_str_radix` alone would accept a sign.
    let digits =
        Some(digits).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
    Some((u8::from_str_radix(digits, 16).ok()?, rest))
}

impl Default for GroupName {
    /// The empty name.
    fn default() -> Self {
        Self { length: 0, bytes: [0; MAX_GROUP_NAME] }
    }
}

impl AsRef<[u8]> for GroupName {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl TryFrom<&str> for GroupName {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&[u8]> for GroupName {
    type Error = Error;

    fn try_from(name: &[u8]) -> Result<Self> {
        Self::new(name)
    }
}

impl PartialOrd for GroupName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for GroupName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No multi-byte character contains the byte of a backslash.
        let parts =
            self.as_bytes().split(|byte| *byte == b'\\').map(|part| Escaped(part).to_string());
        f.pad(&parts.collect::<Vec<_>>().join("\\\\"))
    }
}

impl fmt::Debug for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupName({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for GroupName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for GroupName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::from_escaped(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_bytes_with_a_length() {
        assert_eq!(GroupName::with_nul("crmd").unwrap(), GroupName::new(b"crmd\0").unwrap());
        assert_ne!(GroupName::with_nul("crmd").unwrap(), GroupName::new("crmd").unwrap());
        assert!(GroupName::new("").unwrap().is_empty());
        assert_eq!(GroupName::new([b'x'; 128]).unwrap().as_bytes(), [b'x'; 128]);
        let error = GroupName::new([b'x'; 129]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "group name: a group name has at most 128 bytes, this one 129"
        );
        assert!(GroupName::with_nul("x".repeat(128)).is_err());
    }

    #[test]
    fn names_print_as_text_with_escapes() {
        let prints =
            |name: &[u8], text: &str| assert_eq!(GroupName::new(name).unwrap().to_string(), text);
        prints(b"clvmd\0", r"clvmd\x00");
        prints("käse\u{85}".as_bytes(), r"käse\xc2\x85");
        prints(b"a\\b\xff\n", r"a\\b\xff\x0a");
        for text in [r"\", r"a\b", r"\x", r"\x0", r"\xzz", r"\x+1", r"\\\"] {
            assert!(GroupName::from_escaped(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_read_from_what_it_prints(name in prop::collection::vec(any::<u8>(), 0..=128)) {
            let name = GroupName::new(name).unwrap();
            prop_assert_eq!(GroupName::from_escaped(&name.to_string()).unwrap(), name);
        }
    }
}
