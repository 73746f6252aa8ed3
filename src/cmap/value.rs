//! Values of the map: twelve types, and whatever else the daemon may send.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::wire::cmap::{RawValue, ValueType};

/// The longest value, in bytes, without the NUL behind a string. Matches `ICMAP_MAX_VALUE_LEN`.
pub const MAX_VALUE_SIZE: usize = 16 * 1024;

macro_rules! values {
    ($($(#[$doc:meta])* $variant:ident($rust:ty) = $type:ident;)*) => {
        /// A value of the map, with its type.
        ///
        /// Makes itself of the Rust types it holds, so that `client.set("key", 5_u16)` sets a
        /// `u16`.
        #[derive(Clone, Debug, PartialEq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[non_exhaustive]
        pub enum Value {
            $($(#[$doc])* $variant($rust),)*
            /// Text.
            String(String),
            /// Bytes.
            Binary(Bytes),
            /// A value from the daemon that does not fit its type, or whose type is not known.
            Other {
                /// The type it is said to have.
                value_type: ValueType,
                /// The bytes as they came.
                data: Bytes,
            },
        }

        impl Value {
            /// The value's type.
            pub fn value_type(&self) -> ValueType {
                match self {
                    $(Self::$variant(_) => ValueType::$type,)*
                    Self::String(_) => ValueType::STRING,
                    Self::Binary(_) => ValueType::BINARY,
                    Self::Other { value_type, .. } => *value_type,
                }
            }

            /// The names of the variants, as serde has them.
            #[cfg(feature = "serde")]
            pub(super) const VARIANTS: &'static [&'static str] =
                &[$(stringify!($variant),)* "String", "Binary", "Other"];

            /// The name of the variant.
            #[cfg(feature = "serde")]
            pub(super) fn variant(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => stringify!($variant),)*
                    Self::String(_) => "String",
                    Self::Binary(_) => "Binary",
                    Self::Other { .. } => "Other",
                }
            }

            /// The bytes of the value, as they travel.
            fn into_bytes(self) -> Bytes {
                match self {
                    $(Self::$variant(value) => Bytes::copy_from_slice(&value.to_ne_bytes()),)*
                    Self::String(text) => Bytes::from(text),
                    Self::Binary(data) | Self::Other { data, .. } => data,
                }
            }
        }

        /// A string may end with a NUL. Bytes that are no value of their type become
        /// [`Value::Other`].
        impl From<RawValue> for Value {
            fn from(raw: RawValue) -> Self {
                match raw.value_type {
                    ValueType::BINARY => Self::Binary(raw.data),
                    // Takes the memory of bytes that nobody else has.
                    value_type @ ValueType::STRING => match String::from_utf8(raw.data.into()) {
                        Ok(mut text) => {
                            if text.ends_with('\0') {
                                text.pop();
                            }
                            Self::String(text)
                        }
                        Err(error) => {
                            Self::Other { value_type, data: error.into_bytes().into() }
                        }
                    },
                    value_type => Self::of(value_type, &raw.data),
                }
            }
        }

        impl Value {
            /// As of a [`RawValue`], with bytes that are copied.
            pub(super) fn of(value_type: ValueType, data: &[u8]) -> Self {
                match value_type {
                    $(ValueType::$type => {
                        if let Ok(bytes) = <[u8; size_of::<$rust>()]>::try_from(data) {
                            return Self::$variant(<$rust>::from_ne_bytes(bytes));
                        }
                    })*
                    ValueType::STRING => {
                        let text = data.strip_suffix(&[0]).unwrap_or(data);
                        if let Ok(text) = std::str::from_utf8(text) {
                            return Self::String(text.to_owned());
                        }
                    }
                    ValueType::BINARY => return Self::Binary(Bytes::copy_from_slice(data)),
                    _ => {}
                }
                Self::Other { value_type, data: Bytes::copy_from_slice(data) }
            }
        }

        impl fmt::Display for Value {
            /// The bare value; bytes in hexadecimal.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(value) => value.fmt(f),)*
                    Self::String(text) => f.pad(text),
                    Self::Binary(data) | Self::Other { data, .. } => write!(f, "{data:x}"),
                }
            }
        }

        $(impl From<$rust> for Value {
            fn from(value: $rust) -> Self {
                Self::$variant(value)
            }
        }

        impl TryFrom<Value> for $rust {
            type Error = Value;

            /// The value if it has just this type, else the value back.
            fn try_from(value: Value) -> std::result::Result<Self, Value> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(other),
                }
            }
        })*
    };
}

values! {
    /// `i8`
    I8(i8) = INT8;
    /// `u8`
    U8(u8) = UINT8;
    /// `i16`
    I16(i16) = INT16;
    /// `u16`
    U16(u16) = UINT16;
    /// `i32`
    I32(i32) = INT32;
    /// `u32`
    U32(u32) = UINT32;
    /// `i64`
    I64(i64) = INT64;
    /// `u64`
    U64(u64) = UINT64;
    /// `float`
    F32(f32) = FLOAT;
    /// `double`
    F64(f64) = DOUBLE;
}

impl Value {
    /// The value as a Rust type of the same kind of number or a wider one, else the value back.
    pub(crate) fn widened_to<T: TryFrom<Self, Error = Self>>(self) -> std::result::Result<T, Self> {
        T::try_from(self).or_else(|value| {
            let wider = value.next_wider().into_iter().flatten();
            wider.filter_map(|wider| wider.widened_to().ok()).next().ok_or(value)
        })
    }

    /// The same number in the next wider types that hold all of its type.
    fn next_wider(&self) -> [Option<Self>; 2] {
        match *self {
            Self::U8(value) => [Some(Self::U16(value.into())), Some(Self::I16(value.into()))],
            Self::U16(value) => [Some(Self::U32(value.into())), Some(Self::I32(value.into()))],
            Self::U32(value) => [Some(Self::U64(value.into())), Some(Self::I64(value.into()))],
            Self::I8(value) => [Some(Self::I16(value.into())), None],
            Self::I16(value) => [Some(Self::I32(value.into())), None],
            Self::I32(value) => [Some(Self::I64(value.into())), None],
            Self::F32(value) => [Some(Self::F64(value.into())), None],
            _ => [None, None],
        }
    }

    /// Checks that the daemon would neither refuse the value nor cut it short. Sends nothing.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for one that is longer than [`MAX_VALUE_SIZE`], and for a string
    /// with a NUL in it.
    pub fn check(&self) -> Result<()> {
        let len = match self {
            Self::String(text) if text.contains('\0') => {
                return Err(Error::invalid("value", "a string has no NUL in it"));
            }
            Self::String(text) => text.len(),
            Self::Binary(data) | Self::Other { data, .. } => data.len(),
            _ => 0,
        };
        if len > MAX_VALUE_SIZE {
            let reason = format!("{len} bytes are more than the {MAX_VALUE_SIZE} a value can have");
            return Err(Error::invalid("value", reason));
        }
        Ok(())
    }

    pub(crate) fn into_wire(self) -> Result<RawValue> {
        self.check()?;
        Ok(self.into())
    }
}

/// A string has no NUL then.
impl From<Value> for RawValue {
    fn from(value: Value) -> Self {
        Self { value_type: value.value_type(), data: value.into_bytes() }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<Bytes> for Value {
    fn from(data: Bytes) -> Self {
        Self::Binary(data)
    }
}

impl From<&[u8]> for Value {
    fn from(data: &[u8]) -> Self {
        Self::Binary(Bytes::copy_from_slice(data))
    }
}

impl TryFrom<Value> for String {
    type Error = Value;

    fn try_from(value: Value) -> std::result::Result<Self, Value> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        }
    }
}

impl TryFrom<Value> for Bytes {
    type Error = Value;

    fn try_from(value: Value) -> std::result::Result<Self, Value> {
        match value {
            Value::Binary(data) => Ok(data),
            other => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(value: impl Into<Value>) -> RawValue {
        value.into().into_wire().unwrap()
    }

    #[test]
    fn every_type_comes_back_as_it_went() {
        for value in [
            Value::I8(-1),
            Value::U8(255),
            Value::I16(i16::MIN),
            Value::U16(65535),
            Value::I32(-5),
            Value::U32(u32::MAX),
            Value::I64(i64::MIN),
            Value::U64(u64::MAX),
            Value::F32(1.5),
            Value::F64(-0.25),
            Value::String("text".to_owned()),
            Value::Binary(Bytes::from_static(&[0, 1, 2])),
        ] {
            assert_eq!(Value::from(wire(value.clone())), value);
        }
    }

    #[test]
    fn numbers_become_wider_but_never_narrower_nor_another_kind() {
        fn to<T: TryFrom<Value, Error = Value>>(
            value: impl Into<Value>,
        ) -> std::result::Result<T, Value> {
            value.into().widened_to()
        }
        assert_eq!(
            (to::<u8>(200_u8), to::<u16>(200_u8), to::<u32>(200_u8)),
            (Ok(200), Ok(200), Ok(200))
        );
        assert_eq!(
            (to::<u64>(200_u8), to::<i16>(200_u8), to::<i64>(200_u8)),
            (Ok(200), Ok(200), Ok(200))
        );
        assert_eq!(
            (to::<i64>(-5_i8), to::<i32>(-5_i16), to::<f64>(1.5_f32)),
            (Ok(-5), Ok(-5), Ok(1.5))
        );
        assert_eq!((to::<i64>(u32::MAX), to::<i32>(u16::MAX)), (Ok(0xffff_ffff), Ok(0xffff)));
        assert_eq!(to::<u8>(5_u16), Err(Value::U16(5)));
        assert_eq!(to::<i8>(5_u8), Err(Value::U8(5)));
        assert_eq!(to::<u64>(5_i8), Err(Value::I8(5)));
        assert_eq!(to::<i64>(5_u64), Err(Value::U64(5)));
        assert_eq!(to::<f64>(5_u8), Err(Value::U8(5)));
        assert_eq!(to::<String>(5_u8), Err(Value::U8(5)));
    }

    #[test]
    fn a_string_from_the_daemon_loses_its_nul() {
        let raw = RawValue { value_type: ValueType::STRING, data: Bytes::from_static(b"name\0") };
        assert_eq!(Value::from(raw), Value::from("name"));
    }

    #[test]
    fn what_does_not_fit_its_type_is_kept_as_it_came() {
        for (value_type, data) in
            [(ValueType::UINT32, &b"abc"[..]), (ValueType(77), b"?"), (ValueType::STRING, b"\xff")]
        {
            let data = Bytes::from_static(data);
            let value = Value::from(RawValue { value_type, data: data.clone() });
            assert_eq!(value, Value::Other { value_type, data });
        }
    }

    #[test]
    fn what_the_daemon_would_refuse_is_refused() {
        assert!(Value::from("a\0b").into_wire().is_err());
        assert!(Value::from("x".repeat(MAX_VALUE_SIZE)).into_wire().is_ok());
        assert!(Value::from("x".repeat(MAX_VALUE_SIZE + 1)).into_wire().is_err());
    }
}
