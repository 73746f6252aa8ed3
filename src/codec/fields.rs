//! What a message holds, field by field, for people and programs that look at it.

use std::fmt;

use bytes::Bytes;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::bytes::Plain;
use crate::error::Escaped;

/// A field of a message.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Field {
    /// Its name in the C struct. A [`WireError`](crate::WireError) gives the same.
    pub name: &'static str,
    /// Behind the name where a field has parts: `.length`, `[0].pid`. Else empty.
    pub part: String,
    /// The offset from the start of the message in bytes.
    pub offset: usize,
    /// The size in bytes, without the padding that follows.
    pub size: usize,
    /// The value.
    pub value: Value,
}

impl Field {
    /// Returns the whole name: `group_name.length`, `member_list[0].pid`.
    pub fn path(&self) -> String {
        format!("{}{}", self.name, self.part)
    }
}

/// The fields that a reader has read.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) fields: Vec<Field>,
    /// The offset behind the last one and its padding.
    pub(crate) end: usize,
    /// The part of the next one.
    pub(super) part: String,
}

/// The value of a [`Field`]. Prints as text on one line.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Value {
    /// A number of at most 64 bits.
    Number(i128),
    /// A number that stands for something, or whose bits do: the names of what is known.
    Named(i128, Vec<&'static str>),
    /// Bytes.
    Bytes(Bytes),
    /// Values that follow each other.
    List(Vec<Self>),
    /// The members of a struct.
    Struct(Vec<(&'static str, Self)>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Named(number, names) if names.is_empty() => number.fmt(f),
            Self::Named(number, names) => write!(f, "{number} ({})", names.join(" ")),
            Self::Bytes(_) => write!(f, "\"{}\"", Escaped(self.text())),
            Self::List(values) => {
                f.write_str("[")?;
                separated(f, values, |f, value| value.fmt(f))?;
                f.write_str("]")
            }
            Self::Struct(members) => {
                separated(f, members, |f, (name, value)| write!(f, "{name} {value}"))
            }
        }
    }
}

impl Value {
    /// Returns bytes without the zeros that fill a C array behind its text. Empty for values of
    /// another kind.
    pub fn text(&self) -> &[u8] {
        let Self::Bytes(bytes) = self else { return &[] };
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes.get(..end).unwrap_or(bytes)
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    each: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(index, item)| {
        f.write_str(if index == 0 { "" } else { ", " })?;
        each(f, item)
    })
}

/// Declares how numbers look as the value of a field.
macro_rules! numbers {
    ($($type:ty),*) => {
        $(impl Plain for $type {
            fn value(&self) -> Value {
                Value::Number(i128::from(*self))
            }
        })*
    };
}

numbers!(u8, i8, u16, i16, u32, i32, u64, i64);

impl<const N: usize> Plain for [u8; N]
where
    Self: FromBytes + IntoBytes + Immutable,
{
    fn value(&self) -> Value {
        Value::Bytes(Bytes::copy_from_slice(self))
    }
}
