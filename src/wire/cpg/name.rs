//! Names of groups.

use std::fmt;

use crate::error::Escaped;
use crate::error::{Error, Result};

/// The longest name of a group, in bytes. Matches `CPG_MAX_NAME_LENGTH`.
pub const MAX_GROUP_NAME: usize = 128;

/// The name of a group: up to [`MAX_GROUP_NAME`] bytes, which need not be text.
///
/// Two names are the same group if all their bytes are the same. Programs differ in whether the NUL
/// behind a C string belongs to the name: Pacemaker's and Proxmox's groups have it
/// ([`GroupName::with_nul`]), those of others do not ([`GroupName::new`]). Nothing is ever trimmed.
///
/// Prints as text with everything else escaped as `\x00`, and a backslash as `\\`.
/// [`GroupName::from_escaped`] is the reverse, and with the feature `serde` a name is serialized in
/// this form.
///
/// Matches `struct cpg_name`.
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
    /// Zeros behind the name, so that equal names are equal here.
    bytes: [u8; MAX_GROUP_NAME],
}

impl GroupName {
    /// The name made of these bytes, all of them: `GroupName::new("name")`,
    /// `GroupName::new(b"name\0")`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when there are more than [`MAX_GROUP_NAME`]. C calls it
    /// `CS_ERR_NAME_TOO_LONG`.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self> {
        let name = name.as_ref();
        Self::from_wire(name).ok_or_else(|| {
            let reason =
                format!("a group name has at most {MAX_GROUP_NAME} bytes, this one {}", name.len());
            Error::invalid("group name", reason)
        })
    }

    /// The name made of this text and a NUL, for groups of programs whose names' length counts it.
    ///
    /// # Errors
    /// As [`GroupName::new`].
    pub fn with_nul(name: impl AsRef<str>) -> Result<Self> {
        Self::new([name.as_ref().as_bytes(), &[0]].concat())
    }

    /// Reads what `Display` prints: text in which `\x` and two hexadecimal digits stand for any
    /// byte, and `\\` for a backslash.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for another character behind a backslash; as [`GroupName::new`].
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
                    "\"{text}\" has a backslash that neither another one nor x and two digits follow"
                );
                return Err(Error::invalid("group name", reason));
            }
        }
        Self::new(name)
    }

    /// `None`: too long.
    pub(crate) fn from_wire(name: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_GROUP_NAME];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Self { length: u8::try_from(name.len()).ok()?, bytes })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }

    /// Whether it has no bytes. Such a name cannot be joined.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The byte that two hexadecimal digits at the beginning stand for.
fn leading_byte(text: &str) -> Option<(u8, &str)> {
    let (digits, rest) = text.split_at_checked(2)?;
    // A sign would be accepted otherwise.
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
        // No other character has the byte of a backslash in it.
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
