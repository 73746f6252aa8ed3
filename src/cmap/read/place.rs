//! A place in the map: a value, the keys below it, or both.

use std::cell::Cell;
use std::marker::PhantomData;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::atom::{self, Atom, Whole};
use super::fault::{Fault, NO_SUCH_KEY, Result};
use super::{Part, Tree};
use crate::cmap::Value;

/// How many parts a key may have below what is read. A type that contains itself recurses as deep.
/// Those of corosync have eight at most.
const MOST_PARTS: usize = 32;

/// How many values, lists and tables may yet be made. A type that takes what there is makes a table
/// of each part of a key.
#[derive(Debug)]
pub(super) struct Room {
    most: usize,
    left: Cell<usize>,
}

impl Room {
    pub(super) fn new(most: usize) -> Self {
        Self { most, left: Cell::new(most) }
    }

    fn take(&self) -> Result<()> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| {
            Fault::other(format!("there is more than {} values, lists and tables", self.most))
        })?);
        Ok(())
    }
}

/// A place in the map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The key that leads here.
    key: &'a str,
    own: Option<&'a Value>,
    below: &'a [(String, Value)],
    /// Where in the keys below their next part begins.
    start: usize,
    depth: usize,
    room: &'a Room,
}

impl<'a> Place<'a> {
    pub(super) fn root(tree: &'a Tree, room: &'a Room) -> Self {
        Self {
            key: &tree.prefix,
            own: tree.own.as_ref(),
            below: &tree.keys,
            start: tree.start,
            depth: 0,
            room,
        }
    }

    fn is_absent(&self) -> bool {
        self.own.is_none() && self.below.is_empty()
    }

    /// The value here, where `asked` is made of one.
    fn atom(&self, asked: &'static str) -> Result<Atom<'a>> {
        self.own.map(Atom::from).ok_or_else(|| {
            let reason = match self.below {
                [] => NO_SUCH_KEY.to_owned(),
                _ => format!("it has keys below it and no value, where {asked} is asked for"),
            };
            Fault::other(reason)
        })
    }

    /// The places below, where `asked` is made of them. They include the value here where there are
    /// both.
    fn places(self, asked: &'static str) -> Result<Places<'a>> {
        let alone = self.own.filter(|_| self.below.is_empty());
        if let Some(value) = alone {
            return Err(Atom::from(value).wrong_type(asked));
        }
        if self.depth == MOST_PARTS {
            let reason = format!("a key has more than {MOST_PARTS} parts below what is read");
            return Err(Fault::other(reason));
        }
        Ok(Places { above: self, own: self.own, rest: self.below, content: None })
    }

    /// Reads what is asked for from this place, and says so where a fault is not said to be
    /// further below.
    pub(super) fn read<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value> {
        seed.deserialize(self).map_err(|fault| fault.at(self.key))
    }

    fn list<V: Visitor<'a>>(self, asked: &'static str, visitor: V) -> Result<V::Value> {
        if let (Some(Value::Binary(bytes)), []) = (self.own, self.below) {
            let mut bytes = Bytes { rest: bytes, room: self.room };
            let list = visitor.visit_seq(&mut bytes)?;
            return bytes.is_over().then_some(list).ok_or_else(too_long);
        }
        let mut places = self.places(asked)?;
        if places.own.is_some() {
            let reason = "it has a value and keys below it, and a list has no place for both";
            return Err(Fault::other(reason));
        }
        let list = visitor.visit_seq(&mut places)?;
        places.is_over().then_some(list).ok_or_else(too_long)
    }

    fn table<V: Visitor<'a>>(self, asked: &'static str, visitor: V) -> Result<V::Value> {
        visitor.visit_map(self.places(asked)?)
    }
}

fn too_long() -> Fault {
    Fault::other("it has more elements than are asked for")
}

/// Goes through the places below one.
#[derive(Debug)]
struct Places<'a> {
    above: Place<'a>,
    /// The value of the place above, if it has one, until it was handed over.
    own: Option<&'a Value>,
    rest: &'a [(String, Value)],
    /// What belongs to the name that was handed over last.
    content: Option<Place<'a>>,
}

impl<'a> Places<'a> {
    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next place and its name.
    fn next(&mut self) -> Result<Option<(&'a str, Place<'a>)>> {
        let Place { start, depth, room, .. } = self.above;
        if let Some(own) = self.own.take() {
            room.take()?;
            return Ok(Some(("", Place { own: Some(own), below: &[], ..self.above })));
        }
        let Some((first, value)) = self.rest.first() else { return Ok(None) };
        room.take()?;
        let part = next_part(first, start);
        let end = start + part.len();
        let count = self.rest.iter().take_while(|(key, _)| next_part(key, start) == part).count();
        let (group, rest) = self.rest.split_at_checked(count).unwrap_or((self.rest, &[]));
        self.rest = rest;
        if part.is_empty() && self.above.own.is_some() {
            let reason = format!("its value and that of {first} have the same name");
            return Err(Fault::other(reason));
        }
        // The shortest key is the first, and no key is there twice.
        let own = (first.len() == end).then_some(value);
        let below = if own.is_some() { group.get(1..).unwrap_or_default() } else { group };
        let key = first.get(..end).unwrap_or(first);
        Ok(Some((part, Place { key, own, below, start: end + 1, depth: depth + 1, room })))
    }
}

/// The part of a key that begins at `start`.
fn next_part(key: &str, start: usize) -> &str {
    let rest = key.get(start..).unwrap_or_default();
    rest.split_once('.').map_or(rest, |(part, _)| part)
}

impl<'a> MapAccess<'a> for Places<'a> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        let Some((name, place)) = self.next()? else { return Ok(None) };
        self.content = Some(place);
        let name_read = seed.deserialize(Atom::Text(name));
        name_read.map(Some).map_err(|fault| fault.of_name(name).at(place.key))
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value> {
        match self.content.take() {
            Some(place) => place.read(seed),
            None => Err(Fault::other("a value is asked for before its name")),
        }
    }
}

impl<'a> SeqAccess<'a> for Places<'a> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some((name, place)) = self.next()? else { return Ok(None) };
        if Part(name).digits().is_none() {
            let reason = "a list is asked for, whose keys have numbers here";
            return Err(Fault::other(reason).at(place.key));
        }
        place.read(seed).map(Some)
    }
}

/// A `bin` as a list of its bytes.
struct Bytes<'a> {
    rest: &'a [u8],
    room: &'a Room,
}

impl Bytes<'_> {
    fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

impl<'a> SeqAccess<'a> for Bytes<'a> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'a>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        let Some((byte, rest)) = self.rest.split_first() else { return Ok(None) };
        self.room.take()?;
        self.rest = rest;
        seed.deserialize((*byte).into_deserializer()).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

/// Forwards to the value here, where there is one.
macro_rules! of_a_value {
    ($($method:ident: $asked:literal;)*) => {
        $(fn $method<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
            self.atom($asked)?.$method(visitor)
        })*
    };
}

impl<'a> Deserializer<'a> for Place<'a> {
    type Error = Fault;

    of_a_value! {
        deserialize_bool: "bool";
        deserialize_i8: "i8";
        deserialize_i16: "i16";
        deserialize_i32: "i32";
        deserialize_i64: "i64";
        deserialize_i128: "i128";
        deserialize_u8: "u8";
        deserialize_u16: "u16";
        deserialize_u32: "u32";
        deserialize_u64: "u64";
        deserialize_u128: "u128";
        deserialize_f32: "f32";
        deserialize_f64: "f64";
        deserialize_char: "char";
        deserialize_str: "text";
        deserialize_string: "text";
        deserialize_bytes: "bytes";
        deserialize_byte_buf: "bytes";
        deserialize_identifier: "text";
    }

    fn deserialize_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        match self.own.filter(|_| self.below.is_empty()) {
            Some(value) => Atom::from(value).deserialize_any(visitor),
            None => self.table("map", visitor),
        }
    }

    fn deserialize_option<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        if self.is_absent() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        match self.own {
            None if self.below.is_empty() => visitor.visit_unit(),
            None => Err(Fault::other("it has keys below it, where nothing is asked for")),
            Some(value) => Err(Atom::from(value).wrong_type("()")),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'a>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        self.list("list", visitor)
    }

    fn deserialize_tuple<V: Visitor<'a>>(self, _: usize, visitor: V) -> Result<V::Value> {
        self.list("tuple", visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.list(name, visitor)
    }

    fn deserialize_map<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        self.table("map", visitor)
    }

    fn deserialize_struct<V: Visitor<'a>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.table(name, visitor)
    }

    fn deserialize_enum<V: Visitor<'a>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.own {
            Some(value) if atom::is_value(name, variants) => visitor.visit_enum(Whole(value)),
            Some(value) => Atom::from(value).deserialize_enum(name, variants, visitor),
            None => {
                let mut places = self.places(name)?;
                let variant = places.next()?.ok_or_else(|| Fault::other(NO_SUCH_KEY))?;
                if !places.is_over() {
                    let reason =
                        "it has several keys below it, where one names the variant of an enum";
                    return Err(Fault::other(reason));
                }
                visitor.visit_enum(Variant(variant))
            }
        }
    }

    fn deserialize_ignored_any<V: Visitor<'a>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_unit()
    }
}

/// The name of an enum's variant, and its content.
struct Variant<'a>((&'a str, Place<'a>));

impl<'a> EnumAccess<'a> for Variant<'a> {
    type Error = Fault;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'a>>(self, seed: V) -> Result<(V::Value, Content<'a>)> {
        let Self((name, place)) = self;
        let variant = seed.deserialize(Atom::Text(name)).map_err(|fault| fault.at(place.key))?;
        Ok((variant, Content(place)))
    }
}

/// The content of an enum's variant.
struct Content<'a>(Place<'a>);

impl<'a> Content<'a> {
    fn at_its_key<T>(self, read: impl FnOnce(Place<'a>) -> Result<T>) -> Result<T> {
        read(self.0).map_err(|fault| fault.at(self.0.key))
    }
}

impl<'a> VariantAccess<'a> for Content<'a> {
    type Error = Fault;

    fn unit_variant(self) -> Result<()> {
        self.0.read(PhantomData)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(self, seed: T) -> Result<T::Value> {
        self.0.read(seed)
    }

    fn tuple_variant<V: Visitor<'a>>(self, length: usize, visitor: V) -> Result<V::Value> {
        self.at_its_key(|place| place.deserialize_tuple(length, visitor))
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        self.at_its_key(|place| place.deserialize_map(visitor))
    }
}
