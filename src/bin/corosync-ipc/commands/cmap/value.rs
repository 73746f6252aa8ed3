//! Values of the map as text and as JSON.

use std::fs::File;
use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use corosync_ipc::cmap::{MAX_VALUE_SIZE, Value, ValueType};
use serde_json::{Number, Value as Json, json};

use crate::output::{base64, escaped, printable, quoted};

/// Type of a value, with corosync-cmapctl's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Type {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Flt,
    Dbl,
    Str,
    Bin,
}

impl Type {
    /// The type with this name.
    pub(crate) fn of_name(name: &str) -> Result<Self, String> {
        Self::value_variants().iter().copied().find(|one| one.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::value_variants().iter().map(|one| one.name()).collect();
            format!("unknown type {}: use one of {}", quoted(name), names.join(" "))
        })
    }

    fn value_type(self) -> ValueType {
        match self {
            Self::I8 => ValueType::INT8,
            Self::U8 => ValueType::UINT8,
            Self::I16 => ValueType::INT16,
            Self::U16 => ValueType::UINT16,
            Self::I32 => ValueType::INT32,
            Self::U32 => ValueType::UINT32,
            Self::I64 => ValueType::INT64,
            Self::U64 => ValueType::UINT64,
            Self::Flt => ValueType::FLOAT,
            Self::Dbl => ValueType::DOUBLE,
            Self::Str => ValueType::STRING,
            Self::Bin => ValueType::BINARY,
        }
    }

    fn name(self) -> &'static str {
        self.value_type().name().unwrap_or_default()
    }

    /// The smallest and the largest value of an integer type.
    fn range(self) -> Option<(i128, i128)> {
        Some(match self {
            Self::I8 => (i8::MIN.into(), i8::MAX.into()),
            Self::U8 => (u8::MIN.into(), u8::MAX.into()),
            Self::I16 => (i16::MIN.into(), i16::MAX.into()),
            Self::U16 => (u16::MIN.into(), u16::MAX.into()),
            Self::I32 => (i32::MIN.into(), i32::MAX.into()),
            Self::U32 => (u32::MIN.into(), u32::MAX.into()),
            Self::I64 => (i64::MIN.into(), i64::MAX.into()),
            Self::U64 => (u64::MIN.into(), u64::MAX.into()),
            Self::Flt | Self::Dbl | Self::Str | Self::Bin => return None,
        })
    }

    /// Reads a value from the command line. Never truncates, wraps or guesses; a float rounds to
    /// its precision.
    pub(crate) fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Flt => self.float(text, text.parse().ok()),
            Self::Dbl => self.double(text, text.parse().ok()),
            Self::Str => checked(Value::from(text)),
            Self::Bin => checked(Value::Binary(bytes(text)?.into())),
            _ => {
                let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
                if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(format!(
                        "invalid {} {}: not an integer",
                        self.name(),
                        quoted(text)
                    ));
                }
                self.integer(text, text.parse().ok())
            }
        }
    }

    /// Reads a value as [`to_json`] wrote it.
    pub(crate) fn parse_json(self, json: &Json) -> Result<Value, String> {
        let wrong = |wanted: &str| format!("invalid {} {json}: not {wanted}", self.name());
        match (self, json) {
            (Self::Flt | Self::Dbl, Json::Number(number)) => {
                let (text, number) = (number.to_string(), number.as_f64());
                // Narrowing on purpose: that is what the type holds.
                #[allow(clippy::cast_possible_truncation)]
                let narrow = number.map(|number| number as f32);
                if self == Self::Flt {
                    self.float(&text, narrow)
                } else {
                    self.double(&text, number)
                }
            }
            (Self::Flt | Self::Dbl, Json::String(text))
                if ["NaN", "inf", "-inf"].contains(&text.as_str()) =>
            {
                self.parse(text)
            }
            (Self::Flt | Self::Dbl, _) => Err(wrong("a number")),
            (Self::Str, Json::String(text)) => self.parse(text),
            (Self::Str, _) => Err(wrong("a string")),
            (Self::Bin, Json::String(text)) => checked(Value::Binary(decode(text)?.into())),
            (Self::Bin, _) => Err(wrong("a string of base64")),
            (_, Json::Number(number)) if !number.is_f64() => {
                let wide =
                    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
                self.integer(&number.to_string(), wide)
            }
            _ => Err(wrong("an integer")),
        }
    }

    /// `wide` is `None` for more digits than any type has.
    fn integer(self, text: &str, wide: Option<i128>) -> Result<Value, String> {
        let fits = wide.and_then(|wide| match self {
            Self::I8 => wide.try_into().ok().map(Value::I8),
            Self::U8 => wide.try_into().ok().map(Value::U8),
            Self::I16 => wide.try_into().ok().map(Value::I16),
            Self::U16 => wide.try_into().ok().map(Value::U16),
            Self::I32 => wide.try_into().ok().map(Value::I32),
            Self::U32 => wide.try_into().ok().map(Value::U32),
            Self::I64 => wide.try_into().ok().map(Value::I64),
            Self::U64 => wide.try_into().ok().map(Value::U64),
            Self::Flt | Self::Dbl | Self::Str | Self::Bin => None,
        });
        fits.ok_or_else(|| match self.range() {
            Some((least, most)) => {
                format!(
                    "{text} is out of the range of {name}, {least} to {most}",
                    name = self.name()
                )
            }
            None => format!("invalid {} {text}", self.name()),
        })
    }

    fn float(self, text: &str, number: Option<f32>) -> Result<Value, String> {
        self.finite(text, number.map(f32::is_infinite))?;
        number.map(Value::F32).ok_or_else(|| self.no_number(text))
    }

    fn double(self, text: &str, number: Option<f64>) -> Result<Value, String> {
        self.finite(text, number.map(f64::is_infinite))?;
        number.map(Value::F64).ok_or_else(|| self.no_number(text))
    }

    fn no_number(self, text: &str) -> String {
        format!("invalid {} {}: not a number", self.name(), quoted(text))
    }

    /// Refuses a number that is too large and so became infinite, but not `inf`.
    fn finite(self, text: &str, is_infinite: Option<bool>) -> Result<(), String> {
        let meant = text.to_ascii_lowercase().contains("inf");
        match is_infinite {
            Some(true) if !meant => Err(format!("{text} is out of the range of {}", self.name())),
            _ => Ok(()),
        }
    }
}

/// `@FILE`, `-` for standard input, or base64.
fn bytes(text: &str) -> Result<Vec<u8>, String> {
    if text == "-" {
        return read(io::stdin(), "standard input");
    }
    match text.strip_prefix('@') {
        Some(file) => read(File::open(file).map_err(|error| format!("{file}: {error}"))?, file),
        None => decode(text),
    }
}

/// Reads at most the size of a value.
fn read(from: impl Read, name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let limit = MAX_VALUE_SIZE as u64 + 1;
    from.take(limit).read_to_end(&mut bytes).map_err(|error| format!("{name}: {error}"))?;
    if bytes.len() > MAX_VALUE_SIZE {
        return Err(format!("{name} has more than the {MAX_VALUE_SIZE} bytes a value can have"));
    }
    Ok(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, String> {
    let hint = "write bytes as base64, or name a file as @FILE, or - for standard input";
    // An error of base64 names an offset and a byte; the text may be long.
    STANDARD.decode(text).map_err(|error| format!("invalid base64: {error}; {hint}"))
}

fn checked(value: Value) -> Result<Value, String> {
    value.check().map_err(|error| error.to_string())?;
    Ok(value)
}

/// A line as corosync-cmapctl prints it; bytes in base64.
pub(crate) fn line(key: &str, value: &Value) -> String {
    format!("{} ({}) = {}", printable(key), value.value_type(), text(value))
}

/// The value as text on one line.
pub(crate) fn text(value: &Value) -> String {
    escaped(&bare(value))
}

/// The bare value, as [`Type::parse`] reads it. A string that is not UTF-8 is returned unchanged.
pub(crate) fn bare(value: &Value) -> Vec<u8> {
    match value {
        Value::Other { value_type: ValueType::STRING, data } => {
            data.strip_suffix(&[0]).unwrap_or(data).to_vec()
        }
        value => plain(value).into_bytes(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Binary(data) | Value::Other { data, .. } => base64(data),
        // As corosync-cmapctl, unless digits would be lost.
        Value::F32(number) => decimal(*number, format!("{number:.6}")),
        Value::F64(number) => decimal(*number, format!("{number:.6}")),
        value => value.to_string(),
    }
}

fn decimal<T: std::str::FromStr + PartialEq + ToString>(number: T, six_digits: String) -> String {
    if six_digits.parse().ok().as_ref() == Some(&number) { six_digits } else { number.to_string() }
}

/// The value as JSON: a number or a string, or `null` for bytes that do not fit their type; see
/// [`raw`].
pub(crate) fn to_json(value: &Value) -> Json {
    let non_finite = |number: String| Json::String(number);
    match value {
        Value::I8(number) => json!(number),
        Value::U8(number) => json!(number),
        Value::I16(number) => json!(number),
        Value::U16(number) => json!(number),
        Value::I32(number) => json!(number),
        Value::U32(number) => json!(number),
        Value::I64(number) => json!(number),
        Value::U64(number) => json!(number),
        Value::F32(number) => {
            Number::from_f64(widened(*number)).map_or(non_finite(number.to_string()), Json::Number)
        }
        Value::F64(number) => {
            Number::from_f64(*number).map_or(non_finite(number.to_string()), Json::Number)
        }
        Value::String(text) => json!(text),
        Value::Binary(data) => json!(base64(data)),
        _ => Json::Null,
    }
}

/// The double that prints like the float (0.1, not 0.10000000149011612), if both are the same
/// float.
fn widened(number: f32) -> f64 {
    // Narrows on purpose: this tests the way back.
    #[allow(clippy::cast_possible_truncation)]
    let same = |wide: &f64| *wide as f32 == number;
    number.to_string().parse().ok().filter(same).unwrap_or(number.into())
}

/// The type as JSON: its name, or its number if it has none.
pub(crate) fn type_json(value_type: ValueType) -> Json {
    value_type.name().map_or(json!(value_type.0), |name| json!(name))
}

/// A key with its value, and `raw` where the bytes do not fit their type.
pub(crate) fn entry_json(key: &str, value: &Value) -> Json {
    let mut entry =
        json!({ "key": key, "type": type_json(value.value_type()), "value": to_json(value) });
    if let Some(raw) = raw(value) {
        entry["raw"] = raw;
    }
    entry
}

/// Reads a value that does not fit its type, as [`raw`] wrote it.
pub(crate) fn parse_raw(value_type: &Json, raw: &Json) -> Result<Value, String> {
    let value_type = match (value_type.as_str(), value_type.as_u64().map(u8::try_from)) {
        (Some(name), _) => Type::of_name(name)?.value_type(),
        (None, Some(Ok(number))) => ValueType(number),
        (None, _) => return Err(format!("invalid type {value_type}")),
    };
    let text = raw.as_str().ok_or("\"raw\" is not a string of base64")?;
    checked(Value::Other { value_type, data: decode(text)?.into() })
}

/// The bytes of a value that does not fit its type.
pub(crate) fn raw(value: &Value) -> Option<Json> {
    match value {
        Value::Other { data, .. } => Some(json!(base64(data))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str, text: &str) -> Result<Value, String> {
        Type::of_name(name)?.parse(text)
    }

    #[test]
    fn integers_are_read_strictly() {
        assert_eq!(parse("u8", "255"), Ok(Value::U8(255)));
        assert_eq!(parse("i64", "-9223372036854775808"), Ok(Value::I64(i64::MIN)));
        assert_eq!(parse("u64", "18446744073709551615"), Ok(Value::U64(u64::MAX)));
        assert_eq!(parse("u8", "300"), Err("300 is out of the range of u8, 0 to 255".to_owned()));
        assert_eq!(
            parse("i8", "-129"),
            Err("-129 is out of the range of i8, -128 to 127".to_owned())
        );
        assert!(
            parse("u64", &"9".repeat(60))
                .is_err_and(|error| error.contains("out of the range of u64"))
        );
        for text in ["", "-", "1.0", "0x10", "5 ", "five", "1_000"] {
            assert!(
                parse("u32", text).is_err_and(|error| error.ends_with("not an integer")),
                "{text:?}"
            );
        }
        assert!(parse("u99", "1").is_err_and(|error| error.starts_with("unknown type")));
    }

    #[test]
    fn floats_are_read_strictly() {
        assert_eq!(parse("flt", "0.5"), Ok(Value::F32(0.5)));
        assert_eq!(parse("dbl", "-1e300"), Ok(Value::F64(-1e300)));
        assert_eq!(parse("dbl", "inf"), Ok(Value::F64(f64::INFINITY)));
        for (name, text) in [("flt", "1e300"), ("dbl", "1e400"), ("dbl", "1,5"), ("flt", "")] {
            assert!(parse(name, text).is_err(), "{name} {text}");
        }
    }

    #[test]
    fn bytes_are_base64_or_a_file() {
        assert_eq!(parse("bin", "AAEC"), Ok(Value::Binary(vec![0, 1, 2].into())));
        assert!(parse("bin", "not base64").is_err());
        assert!(
            parse("bin", "@/no/such/file").is_err_and(|error| error.starts_with("/no/such/file: "))
        );
        assert!(
            parse("bin", "@/dev/zero")
                .is_err_and(|error| error.contains("more than the 16384 bytes"))
        );
    }

    #[test]
    fn json_comes_back_as_it_went() {
        for value in [
            Value::I8(-1),
            Value::U64(u64::MAX),
            Value::I64(i64::MIN),
            Value::F32(0.1),
            Value::F32(f32::MAX),
            Value::F64(0.1),
            Value::F64(f64::NEG_INFINITY),
            Value::from("text with \"quotes\" and\nlines"),
            Value::Binary(vec![0, 255].into()),
        ] {
            let entry = entry_json("key", &value);
            let name = entry["type"].as_str().unwrap();
            assert_eq!(
                Type::of_name(name).unwrap().parse_json(&entry["value"]),
                Ok(value),
                "{entry}"
            );
        }
        assert_eq!(to_json(&Value::F32(0.1)).to_string(), "0.1");
        let nan = to_json(&Value::F32(f32::NAN));
        assert_eq!(nan, json!("NaN"));
        assert!(matches!(Type::Flt.parse_json(&nan), Ok(Value::F32(number)) if number.is_nan()));
    }

    #[test]
    fn json_of_another_type_is_refused() {
        for (one, json) in [
            (Type::U8, json!(256)),
            (Type::U8, json!(1.0)),
            (Type::U8, json!("1")),
            (Type::Str, json!(1)),
            (Type::Bin, json!([0])),
            (Type::Flt, json!(1e300)),
            (Type::Dbl, json!("1.5")),
            (Type::Bin, json!("@/etc/hostname")),
            (Type::U32, Json::Null),
        ] {
            assert!(one.parse_json(&json).is_err(), "{one:?} {json}");
        }
    }

    #[test]
    fn values_of_unknown_types_are_shown_as_they_came() {
        let value = Value::Other { value_type: ValueType(77), data: vec![1].into() };
        assert_eq!(
            entry_json("key", &value),
            json!({ "key": "key", "type": 77, "value": null, "raw": "AQ==" })
        );
        assert_eq!(line("key", &value), "key (unknown (77)) = AQ==");
    }

    #[test]
    fn floats_print_as_corosync_cmapctl_prints_them_unless_digits_would_be_lost() {
        assert_eq!(text(&Value::F64(0.0)), "0.000000");
        assert_eq!(text(&Value::F64(1.5)), "1.500000");
        assert_eq!(text(&Value::F64(1e-9)), "0.000000001");
        assert_eq!(text(&Value::F32(0.1)), "0.100000");
    }
}
