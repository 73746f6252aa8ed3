//! What is wrong with a part of the map, before and after it is known where.

use std::borrow::Cow;
use std::fmt;

use crate::error::Error;

/// The result of reading a part of the map.
pub(super) type Result<T> = std::result::Result<T, Fault>;

/// Why a part of the map cannot be read. It begins without a key, and gets that of the innermost
/// part.
#[derive(Debug)]
pub(super) struct Fault {
    key: Option<String>,
    // In a box: results without a fault are moved around a lot.
    what: Box<What>,
}

#[derive(Debug)]
enum What {
    /// The value has another type.
    Type {
        found: Cow<'static, str>,
        asked: &'static str,
    },
    /// A field that has no key.
    Missing(&'static str),
    Other(String),
}

impl Fault {
    pub(super) fn wrong_type(found: Cow<'static, str>, asked: &'static str) -> Self {
        What::Type { found, asked }.into()
    }

    pub(super) fn other(reason: impl Into<String>) -> Self {
        What::Other(reason.into()).into()
    }

    /// Says where it is, unless that is known.
    pub(super) fn at(self, key: &str) -> Self {
        let Self { key: known, what } = self;
        let key = known.unwrap_or_else(|| match *what {
            What::Missing(field) if key.is_empty() => field.to_owned(),
            What::Missing(field) => format!("{key}.{field}"),
            _ => key.to_owned(),
        });
        Self { key: Some(key), what }
    }

    /// The fault of a part of a key that was read as `text`.
    pub(super) fn of_name(self, text: &str) -> Self {
        match *self.what {
            What::Type { asked, .. } => {
                Self::other(format!("\"{text}\" in the key cannot be read as {asked}"))
            }
            what => what.into(),
        }
    }
}

impl From<What> for Fault {
    fn from(what: What) -> Self {
        Self { key: None, what: Box::new(what) }
    }
}

impl From<Fault> for Error {
    fn from(Fault { key, what }: Fault) -> Self {
        let key = key.unwrap_or_default();
        match *what {
            What::Type { found, asked } => Self::WrongType { key, found, asked },
            What::Missing(_) => Self::Unreadable { key, reason: NO_SUCH_KEY.to_owned() },
            What::Other(reason) => Self::Unreadable { key, reason },
        }
    }
}

pub(super) const NO_SUCH_KEY: &str = "there is no such key";

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { found, asked } => write!(f, "the type {found}, not {asked}"),
            Self::Missing(field) => write!(f, "no key {field}"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{key}: {}", self.what),
            None => self.what.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::other(reason.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        What::Missing(field).into()
    }
}
