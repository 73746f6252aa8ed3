//! `corosync-ipc cmap load`: many changes from a file.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::slice;

use corosync_ipc::Error;
use corosync_ipc::cmap::{self, Client, Value};
use corosync_ipc::snapshot::Fault;
use indicatif::ProgressBar;
use serde_json::{Deserializer, Value as Json};

use crate::commands::cmap::value::{self, Type};
use crate::commands::cmap::{MapName, delete_prefixes, hint, is_absent};
use crate::failure::{Explain, Failure};
use crate::output::complain;

/// One change, and its place in the file.
#[derive(Debug, PartialEq)]
pub(crate) struct Step {
    place: String,
    change: Change,
}

#[derive(Debug, PartialEq)]
enum Change {
    Set(String, Value),
    Delete(String),
    DeletePrefix(String),
}

/// Reads the file and checks all of it.
pub(crate) fn read(file: &Path) -> Result<Vec<Step>, Failure> {
    let name =
        if file == Path::new("-") { "standard input".into() } else { file.display().to_string() };
    let failed = |error: io::Error| Failure::usage(format!("{name}: {error}"));
    let mut bytes = Vec::new();
    if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map_err(failed)?;
    } else {
        bytes = fs::read(file).map_err(failed)?;
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        Failure::usage(format!("{name}, line {line}: not UTF-8"))
    })?;
    parse(&text).map_err(|error| Failure::usage(format!("{name}, {error}")))
}

/// Reads changes: lines, or JSON as `cmap list` prints it.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    // No key begins like that.
    if text.trim_start().starts_with(['[', '{']) { parse_json(text) } else { parse_lines(text) }
}

fn parse_json(text: &str) -> Result<Vec<Step>, String> {
    let mut entries = Vec::new();
    for document in Deserializer::from_str(text).into_iter::<Json>() {
        match document.map_err(|error| format!("JSON: {error}"))? {
            Json::Array(array) => entries.extend(array),
            entry => entries.push(entry),
        }
    }
    let steps = entries.iter().enumerate().map(|(index, entry)| {
        let place = match entry["key"].as_str() {
            Some(key) => format!("entry {} ({key})", index + 1),
            None => format!("entry {}", index + 1),
        };
        let change = json_change(entry).map_err(|error| format!("{place}: {error}"))?;
        Ok(Step { place, change })
    });
    steps.collect()
}

fn json_change(entry: &Json) -> Result<Change, String> {
    let members = entry.as_object().ok_or("not an object with \"key\", \"type\" and \"value\"")?;
    let known = ["key", "type", "value", "raw"];
    if let Some(name) = members.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(format!(
            "unknown member {}: an entry has \"key\", \"type\", \"value\" and \"raw\"",
            crate::output::quoted(name)
        ));
    }
    let text = |name: &str| {
        let text = members.get(name).and_then(Json::as_str);
        text.ok_or_else(|| format!("{name:?} is missing or not a string"))
    };
    let key = checked(text("key")?)?;
    let value = members.get("value").ok_or("\"value\" is missing")?;
    if let Some(raw) = members.get("raw") {
        if !value.is_null() {
            return Err("\"value\" must be null beside \"raw\"".to_owned());
        }
        return Ok(Change::Set(key, value::parse_raw(&entry["type"], raw)?));
    }
    Ok(Change::Set(key, Type::of_name(text("type")?)?.parse_json(value)?))
}

fn parse_lines(text: &str) -> Result<Vec<Step>, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let steps = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).map(
        |(number, line)| {
            let place = format!("line {number}");
            let change = line_change(line).map_err(|error| format!("{place}: {error}"))?;
            Ok(Step { place, change })
        },
    );
    steps.collect()
}

fn line_change(line: &str) -> Result<Change, String> {
    let (word, rest) = split_word(line);
    if let Some(key) = word.strip_prefix('^') {
        return Ok(match key.strip_prefix('^') {
            Some(prefix) => {
                check_prefix(prefix).map_err(|error| error.to_string())?;
                Change::DeletePrefix(prefix.to_owned())
            }
            None => Change::Delete(checked(key)?),
        });
    }
    let (type_name, value) = split_word(rest);
    if value.is_empty() {
        return Err("a line is KEY TYPE VALUE, ^KEY or ^^PREFIX".to_owned());
    }
    let value_type = Type::of_name(type_name)?;
    if value_type == Type::Bin && value == "-" {
        return Err("standard input cannot be read here: use base64 or @FILE".to_owned());
    }
    Ok(Change::Set(checked(word)?, value_type.parse(value)?))
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace)
        .map_or((text, ""), |(word, rest)| (word, rest.trim_start()))
}

fn checked(key: &str) -> Result<String, String> {
    cmap::check_key(key).map_err(|error| error.to_string())?;
    Ok(key.to_owned())
}

/// Checks a prefix of keys that are to be deleted.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.is_empty() {
        // All of them would hardly be meant, and most keys are read-only.
        let reason = "is empty: it would be all keys".into();
        return Err(Error::InvalidArgument { argument: "prefix", reason });
    }
    // A beginning may be shorter than a key.
    cmap::check_key(&format!("{prefix:.<width$}", width = cmap::MIN_KEY))
}

/// Makes the changes in order until the daemon refuses one. A missing key that is to be deleted is
/// only a warning, as in corosync-cmapctl.
pub(crate) fn run(client: &Client, map: MapName, steps: &[Step]) -> Result<(), Failure> {
    // Shown on a terminal only.
    let progress = ProgressBar::new(steps.len() as u64);
    for (done, step) in steps.iter().enumerate() {
        progress.set_position(done as u64);
        let result = match &step.change {
            Change::Set(key, value) => client.set(key, value.clone()).explain(hint(key)),
            Change::Delete(key) => match client.delete(key) {
                Err(error) if is_absent(&error) => {
                    let text =
                        format!("{}: {}: no such key: {key}", step.place, Fault::describe(&error));
                    progress.suspend(|| complain(&text));
                    Ok(())
                }
                deleted => deleted.explain(hint(key)),
            },
            Change::DeletePrefix(prefix) => delete_prefixes(client, map, slice::from_ref(prefix)),
        };
        if let Err(failure) = result {
            progress.finish_and_clear();
            return Err(failure.while_at(&format!(
                "{} ({done} of {} done)",
                step.place,
                steps.len()
            )));
        }
    }
    progress.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use corosync_ipc::cmap::ValueType;

    use super::*;

    fn changes(text: &str) -> Vec<Change> {
        parse(text).unwrap().into_iter().map(|step| step.change).collect()
    }

    #[test]
    fn lines_of_corosync_cmapctl_are_read() {
        let text = "# comment\n\n  \tmy.key  u32   5\nmy.text str two words \n^old.key\n^^old. ignored\nmy.bin bin AAE=";
        assert_eq!(
            changes(text),
            [
                Change::Set("my.key".into(), Value::U32(5)),
                Change::Set("my.text".into(), Value::from("two words")),
                Change::Delete("old.key".into()),
                Change::DeletePrefix("old.".into()),
                Change::Set("my.bin".into(), Value::Binary(vec![0, 1].into())),
            ]
        );
    }

    #[test]
    fn json_is_an_array_or_one_object_a_line() {
        let entry = r#"{"key":"my.key","type":"u64","value":18446744073709551615}"#;
        let set = || Change::Set("my.key".into(), Value::U64(u64::MAX));
        assert_eq!(changes(&format!("[{entry}]")), [set()]);
        assert_eq!(changes(&format!("{entry}\n{entry}\n")), [set(), set()]);
        assert_eq!(changes("[]"), []);
    }

    #[test]
    fn bytes_that_do_not_fit_their_type_are_read_as_they_are_listed() {
        let other = |number, bytes: &'static [u8]| Value::Other {
            value_type: ValueType(number),
            data: bytes.into(),
        };
        for value in [other(11, b"caf\xe9\0"), other(99, b"\0"), other(2, b"two")] {
            let entry = value::entry_json("my.key", &value).to_string();
            assert_eq!(changes(&entry), [Change::Set("my.key".into(), value)], "{entry}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, error) in [
            ("a.b u32 1\na.c u8 300\n", "line 2: 300 is out of the range of u8, 0 to 255"),
            ("a.b u32", "line 1: a line is KEY TYPE VALUE, ^KEY or ^^PREFIX"),
            ("^^", "line 1: prefix: is empty: it would be all keys"),
            ("a.b bin -", "line 1: standard input cannot be read here: use base64 or @FILE"),
            (
                r#"[{"key":"a.b","type":"u8","value":-1}]"#,
                "entry 1 (a.b): -1 is out of the range of u8, 0 to 255",
            ),
            ("[{}]", "entry 1: \"key\" is missing or not a string"),
            ("[1]", "entry 1: not an object with \"key\", \"type\" and \"value\""),
            (
                r#"{"key":"a.b","type":"u8","value":1,"time":""}"#,
                "entry 1 (a.b): unknown member \"time\": an entry has \"key\", \"type\", \"value\" and \"raw\"",
            ),
            (
                r#"{"key":"a.b","type":"str","value":"x","raw":"eA=="}"#,
                "entry 1 (a.b): \"value\" must be null beside \"raw\"",
            ),
            (
                r#"{"key":"a.b","type":256,"value":null,"raw":"eA=="}"#,
                "entry 1 (a.b): invalid type 256",
            ),
            (
                "^^a b\n^^a,b",
                "line 2: key: ',' is not allowed in a key: only letters, digits and . _ - / : are",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), error);
        }
        assert!(parse("{").unwrap_err().starts_with("JSON: "));
        assert!(parse(&format!("{} u8 1", "k".repeat(256))).unwrap_err().contains("3 to 255"));
        assert!(
            parse(&format!("my.key str {}", "x".repeat(2 << 20)))
                .unwrap_err()
                .contains("2097152 bytes are more")
        );
    }
}
