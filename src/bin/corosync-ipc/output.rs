//! Standard output and standard error.

use std::io::{self, ErrorKind, Write};
use std::iter;
use std::str;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
use corosync_ipc::Escaped;
use serde_json::{Value, json};
use terminal_size::terminal_size_of;
use unicode_width::UnicodeWidthStr;

use crate::failure::Failure;

/// Writes to standard output and flushes it.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::refused(format!("writing to standard output: {error}")),
    })
}

/// Writes one JSON document.
pub(crate) fn print_document(document: &Value) -> Result<(), Failure> {
    print(ascii_where_it_steers(format!("{document:#}\n")))
}

/// Writes one event as a line: an object with `members`, `event` and `time`.
pub(crate) fn print_event(event: &str, time: SystemTime, members: Value) -> Result<(), Failure> {
    let mut line = json!({ "event": event, "time": rfc3339(time) });
    if let (Some(line), Value::Object(members)) = (line.as_object_mut(), members) {
        line.extend(members);
    }
    print(ascii_where_it_steers(format!("{line}\n")))
}

/// Writes characters that would steer a terminal as `\u` and four digits, as serde_json does with
/// those of ASCII except DEL. Outside of strings JSON has none but line breaks.
fn ascii_where_it_steers(json: String) -> String {
    if json.bytes().all(|byte| byte.is_ascii() && byte != b'\x7f') {
        return json;
    }
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        let text = character.encode_utf8(&mut [0; 4]).to_owned();
        if matches!(character, '\0'..'\x7f') || printable(&text) == text {
            safe.push(character);
        } else {
            let mut units = [0; 2];
            let units = character.encode_utf16(&mut units).iter();
            safe.extend(units.map(|unit| format!("\\u{unit:04x}")));
        }
    }
    safe
}

/// Writes one line to standard error. Ignores errors.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "corosync-ipc: {}", printable(text));
}

/// Writes one line of JSON to standard error. Ignores errors.
pub(crate) fn complain_json(text: &str, cs_error: Option<&str>, exit_status: u8) {
    let line = json!({ "error": text, "cs_error": cs_error, "exit_status": exit_status });
    let _ = io::stderr().write_all(ascii_where_it_steers(format!("{line}\n")).as_bytes());
}

/// The time of an event: UTC, with microseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

/// Bytes in base64, for JSON.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Adds a payload to an object: bytes in base64, and the text if they are UTF-8.
pub(crate) fn add_payload(object: &mut Value, bytes: &[u8]) {
    object["payload"] = json!(base64(bytes));
    if let Ok(text) = str::from_utf8(bytes) {
        object["text"] = json!(text);
    }
}

/// Bytes for people, on one line.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    Escaped(bytes).to_string()
}

/// Text for people, on one line.
pub(crate) fn printable(text: &str) -> String {
    escaped(text.as_bytes())
}

/// The user's input, for an error.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

/// Words separated by blanks, or `-` if there are none.
pub(crate) fn words<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Text(&'static str),
    /// At the right end of the column.
    Number(&'static str),
}

impl Column {
    fn head(self) -> String {
        let (Self::Text(head) | Self::Number(head)) = self;
        head.to_owned()
    }
}

/// Lines up the cells under the heads, escaped as [`printable`] does it.
///
/// On a narrow terminal the last column wraps between words. If its longest word has no room, each
/// row becomes a block with a line for each column.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    layout(columns, rows, terminal_size_of(io::stdout()).map(|(width, _)| width.0))
}

fn layout(columns: &[Column], rows: &[Vec<String>], width: Option<u16>) -> String {
    let heads = columns.iter().map(|column| column.head());
    let table =
        grid(columns, iter::once(heads.clone().collect()).chain(rows.iter().cloned()), width);
    if width.is_none_or(|width| table.lines().all(|line| line.width() <= usize::from(width))) {
        return table;
    }
    let block = |row: &Vec<String>| {
        let lines = heads.clone().zip(row).map(|(head, cell)| vec![head, cell.clone()]);
        grid(&[Column::Text(""); 2], lines, width)
    };
    rows.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// Lines rows up. The last column takes the rest of the width, the others the width of their
/// content.
fn grid(columns: &[Column], rows: impl Iterator<Item = Vec<String>>, width: Option<u16>) -> String {
    let mut longest_word = 1;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    for row in rows {
        let row: Vec<String> = row.iter().map(|cell| printable(cell)).collect();
        let words = row.last().into_iter().flat_map(|cell| cell.split(' '));
        longest_word = words.map(UnicodeWidthStr::width).fold(longest_word, usize::max);
        table.add_row(row);
    }
    // A word is never cut, even if the line becomes too long.
    let least = u16::try_from(longest_word).unwrap_or(u16::MAX);
    if let Some(width) = width {
        table.set_width(width);
    }
    let last = columns.len().saturating_sub(1);
    for (column, kind) in table.column_iter_mut().zip(columns) {
        let is_last = column.index == last;
        column.set_padding((0, if is_last { 0 } else { GAP }));
        column.set_cell_alignment(match kind {
            Column::Text(_) => CellAlignment::Left,
            Column::Number(_) => CellAlignment::Right,
        });
        column.set_constraint(if is_last {
            ColumnConstraint::LowerBoundary(Width::Fixed(least))
        } else {
            ColumnConstraint::ContentWidth
        });
    }
    table.trim_fmt() + "\n"
}

/// Blanks between two columns.
const GAP: u16 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\nc é\u{85}"), r"a\x1b[2Jb\x0ac é\xc2\x85");
        assert_eq!(printable("a\u{202e}b"), r"a\xe2\x80\xaeb");
    }

    #[test]
    fn bytes_that_are_no_text_are_escaped_and_still_there_in_json() {
        assert_eq!(escaped(b"a\xff\xc3\xa9\n"), "a\\xff\u{e9}\\x0a");
        let mut object = json!({});
        add_payload(&mut object, b"\xff");
        assert_eq!(object, json!({ "payload": "/w==" }));
        add_payload(&mut object, b"a");
        assert_eq!(object, json!({ "payload": "YQ==", "text": "a" }));
    }

    #[test]
    fn json_cannot_steer_a_terminal_and_says_the_same() {
        let text = "a\u{9b}31m \u{7f} \u{202e} \u{1b} \n \u{e9} \u{1f600}";
        let json = ascii_where_it_steers(format!("{:#}\n", json!({ "text": text })));
        let safe = "a\\u009b31m \\u007f \\u202e \\u001b \\n \u{e9} \u{1f600}";
        assert!(json.contains(safe), "{json}");
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!({ "text": text }));
    }

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect()
    }

    #[test]
    fn columns_line_up() {
        let table =
            layout(&[Column::Number("ID"), Column::Text("NAME")], &rows(&[&["10", "n"]]), None);
        assert_eq!(table, "ID  NAME\n10  n\n");
        let table =
            layout(&[Column::Number("NODE"), Column::Number("PID")], &rows(&[&["1", "7"]]), None);
        assert_eq!(table, "NODE  PID\n   1    7\n");
        let table =
            layout(&[Column::Text("NAME"), Column::Text("X")], &rows(&[&["\u{4e2d}", "x"]]), None);
        assert_eq!(table, "NAME  X\n\u{4e2d}    x\n");
    }

    #[test]
    fn words_in_a_table_are_never_cut() {
        let columns = [Column::Text("GROUP"), Column::Text("MEMBERS")];
        let rows = rows(&[&["a", "1/1001 1/1002 1/1003"], &["b\n", "1/1"]]);
        assert_eq!(
            layout(&columns, &rows, Some(20)),
            "GROUP  MEMBERS\na      1/1001 1/1002\n       1/1003\nb\\x0a  1/1\n"
        );
        assert_eq!(
            layout(&columns, &rows, Some(10)),
            "GROUP    a\nMEMBERS  1/1001\n         1/1002\n         1/1003\n\nGROUP    b\\x0a\nMEMBERS  1/1\n"
        );
    }
}
