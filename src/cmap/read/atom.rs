//! A single value, or a part of a key, as whatever can be made of it without loss.

use std::borrow::Cow;

use serde::de::value::MapDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, Unexpected, VariantAccess, Visitor,
};

use super::fault::{Fault, Result};
use crate::cmap::{Value, ValueType};

/// A value by its kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Atom<'a> {
    Integer(i128, ValueType),
    Single(f32),
    Double(f64),
    Text(&'a str),
    Binary(&'a [u8]),
    /// Bytes that are no value of their type.
    Malformed(ValueType, &'a [u8]),
}

impl<'a> From<&'a Value> for Atom<'a> {
    fn from(value: &'a Value) -> Self {
        let integer = |number: i128| Self::Integer(number, value.value_type());
        match value {
            Value::I8(number) => integer((*number).into()),
            Value::U8(number) => integer((*number).into()),
            Value::I16(number) => integer((*number).into()),
            Value::U16(number) => integer((*number).into()),
            Value::I32(number) => integer((*number).into()),
            Value::U32(number) => integer((*number).into()),
            Value::I64(number) => integer((*number).into()),
            Value::U64(number) => integer((*number).into()),
            Value::F32(number) => Self::Single(*number),
            Value::F64(number) => Self::Double(*number),
            Value::String(text) => Self::Text(text),
            Value::Binary(data) => Self::Binary(data),
            Value::Other { value_type, data } => Self::Malformed(*value_type, data),
        }
    }
}

impl Atom<'_> {
    pub(super) fn wrong_type(&self, asked: &'static str) -> Fault {
        let found = match self {
            Self::Malformed(value_type, _) => {
                return Fault::wrong_type(found_malformed(*value_type), asked);
            }
            Self::Integer(_, value_type) => *value_type,
            Self::Single(_) => ValueType::FLOAT,
            Self::Double(_) => ValueType::DOUBLE,
            Self::Text(_) => ValueType::STRING,
            Self::Binary(_) => ValueType::BINARY,
        };
        Fault::wrong_type(found.to_string().into(), asked)
    }

    /// The integer, or the one that text consists of.
    fn integer<T: TryFrom<i128>>(&self, asked: &'static str) -> Result<T> {
        let (number, value_type) = match self {
            Self::Integer(number, value_type) => (*number, *value_type),
            Self::Text(text) => {
                (text.parse().map_err(|_| self.wrong_type(asked))?, ValueType::STRING)
            }
            _ => return Err(self.wrong_type(asked)),
        };
        T::try_from(number).map_err(|_| does_not_fit(&format!("{value_type} {number}"), asked))
    }
}

/// The type of a value that is none, such as a `str` that is not UTF-8.
fn found_malformed(value_type: ValueType) -> Cow<'static, str> {
    match value_type.name() {
        Some(name) => format!("{name}, but is malformed").into(),
        None => value_type.to_string().into(),
    }
}

fn does_not_fit(found: &str, asked: &str) -> Fault {
    Fault::other(format!("{found} does not fit in {asked}"))
}

macro_rules! integers {
    ($($method:ident($type:ident) => $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(self.integer::<$type>(stringify!($type))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Atom<'de> {
    type Error = Fault;

    integers! {
        deserialize_i8(i8) => visit_i8;
        deserialize_i16(i16) => visit_i16;
        deserialize_i32(i32) => visit_i32;
        deserialize_i64(i64) => visit_i64;
        deserialize_i128(i128) => visit_i128;
        deserialize_u8(u8) => visit_u8;
        deserialize_u16(u16) => visit_u16;
        deserialize_u32(u32) => visit_u32;
        deserialize_u64(u64) => visit_u64;
        deserialize_u128(u128) => visit_u128;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Integer(number, value_type) => {
                // As wide as its type is, since serde keeps that for some types.
                match value_type {
                    ValueType::INT8 => self.deserialize_i8(visitor),
                    ValueType::UINT8 => self.deserialize_u8(visitor),
                    ValueType::INT16 => self.deserialize_i16(visitor),
                    ValueType::UINT16 => self.deserialize_u16(visitor),
                    ValueType::INT32 => self.deserialize_i32(visitor),
                    ValueType::UINT32 => self.deserialize_u32(visitor),
                    ValueType::INT64 => self.deserialize_i64(visitor),
                    ValueType::UINT64 => self.deserialize_u64(visitor),
                    _ => visitor.visit_i128(number),
                }
            }
            Self::Single(number) => visitor.visit_f32(number),
            Self::Double(number) => visitor.visit_f64(number),
            Self::Text(text) => visitor.visit_borrowed_str(text),
            Self::Binary(data) | Self::Malformed(_, data) => visitor.visit_borrowed_bytes(data),
        }
    }

    /// Matches what corosync takes: numbers that are flags, and words.
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_bool(match self {
            Self::Integer(0, _) | Self::Text("no" | "off" | "0") => false,
            Self::Integer(1, _) | Self::Text("yes" | "on" | "1") => true,
            Self::Integer(number, value_type) => {
                return Err(does_not_fit(&format!("{value_type} {number}"), "bool"));
            }
            Self::Text(text) => {
                let reason = format!("{text:?} is none of yes, no, on, off, 0 and 1");
                return Err(Fault::other(reason));
            }
            _ => return Err(self.wrong_type("bool")),
        })
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let lossless = |number: f64| {
            let single = number as f32;
            (f64::from(single) == number || number.is_nan()).then_some(single)
        };
        visitor.visit_f32(match self {
            Self::Single(number) => number,
            Self::Double(number) => {
                lossless(number).ok_or_else(|| does_not_fit(&format!("dbl {number}"), "f32"))?
            }
            Self::Text(text) => text.parse().map_err(|_| self.wrong_type("f32"))?,
            _ => {
                let number = self.integer_as_f64("f32")?;
                lossless(number).ok_or_else(|| does_not_fit(&number.to_string(), "f32"))?
            }
        })
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_f64(match self {
            Self::Single(number) => number.into(),
            Self::Double(number) => number,
            Self::Text(text) => text.parse().map_err(|_| self.wrong_type("f64"))?,
            _ => self.integer_as_f64("f64")?,
        })
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Text(text) => visitor.visit_borrowed_str(text),
            _ => Err(self.wrong_type("text")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self {
            Self::Binary(data) => visitor.visit_borrowed_bytes(data),
            _ => Err(self.wrong_type("bytes")),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self {
            Self::Text(_) => visitor.visit_enum(Name(self)),
            _ => Err(self.wrong_type(name)),
        }
    }

    serde::forward_to_deserialize_any! {
        unit unit_struct seq tuple tuple_struct map struct ignored_any
    }
}

impl Atom<'_> {
    /// An integer of which a `f64` loses nothing.
    fn integer_as_f64(&self, asked: &'static str) -> Result<f64> {
        let number: i128 = match self {
            Self::Integer(number, _) => *number,
            _ => return Err(self.wrong_type(asked)),
        };
        let float = number as f64;
        if float as i128 == number {
            Ok(float)
        } else {
            Err(does_not_fit(&number.to_string(), asked))
        }
    }
}

impl<'a> IntoDeserializer<'a, Fault> for Atom<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The name of a variant that has no content.
struct Name<'a>(Atom<'a>);

impl<'a> EnumAccess<'a> for Name<'a> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self)> {
        Ok((seed.deserialize(self.0)?, self))
    }
}

impl<'a> VariantAccess<'a> for Name<'a> {
    type Error = Fault;

    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, _: T) -> Result<T::Value> {
        Err(without_content())
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, _: V) -> Result<V::Value> {
        Err(without_content())
    }

    fn struct_variant<V: Visitor<'a>>(self, _: &'static [&'static str], _: V) -> Result<V::Value> {
        Err(without_content())
    }
}

fn without_content() -> Fault {
    use serde::de::Error as _;
    Fault::invalid_type(Unexpected::UnitVariant, &"a variant with content")
}

/// Whether an enum is [`Value`], which is made of a value as a whole.
pub(super) fn is_value(name: &str, variants: &[&str]) -> bool {
    name == "Value" && variants == Value::VARIANTS
}

/// A value that becomes a [`Value`].
pub(super) struct Whole<'a>(pub(super) &'a Value);

impl<'a> EnumAccess<'a> for Whole<'a> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Self)> {
        Ok((seed.deserialize(Atom::Text(self.0.variant()))?, self))
    }
}

impl<'a> VariantAccess<'a> for Whole<'a> {
    type Error = Fault;

    fn unit_variant(self) -> Result<()> {
        Err(Atom::from(self.0).wrong_type("()"))
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(Atom::from(self.0))
    }

    fn tuple_variant<V: Visitor<'a>>(self, _: usize, _: V) -> Result<V::Value> {
        Err(Atom::from(self.0).wrong_type("tuple"))
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let fields = match self.0 {
            Value::Other { value_type, data } => [
                ("value_type", Atom::Integer(value_type.0.into(), ValueType::UINT8)),
                ("data", Atom::Binary(data)),
            ],
            value => return Err(Atom::from(value).wrong_type("struct")),
        };
        visitor.visit_map(MapDeserializer::new(fields.into_iter()))
    }
}
