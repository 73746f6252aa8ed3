//! Standard output and standard error.

use std::io::{self, ErrorKind, Write};
use std::str;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use terminal_size::terminal_size_of;

use crate::failure::Failure;

/// Writes to standard output at once.
pub(crate) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::refused(format!("writing to standard output: {error}")),
    })
}

/// Writes one JSON document.
pub(crate) fn print_document(document: &Value) -> Result<(), Failure> {
    print(format!("{document:#}\n"))
}

/// Writes one event as a line: an object with the members given, and `event` and `time`.
pub(crate) fn print_event(event: &str, time: SystemTime, members: Value) -> Result<(), Failure> {
    let mut line = json!({ "event": event, "time": rfc3339(time) });
    if let (Some(line), Value::Object(members)) = (line.as_object_mut(), members) {
        line.extend(members);
    }
    print(format!("{line}\n"))
}

/// Writes one line to standard error, whoever reads that.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "corosync-ipc: {}", printable(text));
}

/// The time as events have it: UTC, with microseconds.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time).to_string()
}

/// Bytes as JSON has them.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Adds bytes to an object, and the text that they are if they are one.
pub(crate) fn add_payload(object: &mut Value, bytes: &[u8]) {
    object["payload"] = json!(base64(bytes));
    if let Ok(text) = str::from_utf8(bytes) {
        object["text"] = json!(text);
    }
}

/// Bytes for people: text as it is, on one line, and other bytes as `\xff`.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .map(|chunk| printable(chunk.valid()) + &hexadecimal(chunk.invalid()))
        .collect()
}

/// The text on one line, with what would steer a terminal as names of groups have it: `\x1b`.
pub(crate) fn printable(text: &str) -> String {
    let one = |c: char| {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        if c.is_control() { hexadecimal(text.as_bytes()) } else { text.to_owned() }
    };
    text.chars().map(one).collect()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
}

/// What somebody wrote, in an error.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

/// Members of a set of words, separated by blanks; `-` for none.
pub(crate) fn words<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(" ") }
}

/// Lines up columns under the heads in the first row: each as wide as its widest cell, numbers
/// (`right`) at its right end.
///
/// Where the terminal is too narrow the words of the last column go on below; if they have no room
/// either, each row becomes a block of lines, one for each head.
pub(crate) fn table(right: &[bool], rows: &[Vec<String>]) -> String {
    let columns = terminal_size_of(io::stdout()).map(|(width, _)| width.0.into());
    layout(right, rows, columns.unwrap_or(usize::MAX))
}

fn layout(right: &[bool], rows: &[Vec<String>], columns: usize) -> String {
    let length = |text: &str| text.chars().count();
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell)).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..right.len()).map(widest).collect();
    let indent: usize = widths.iter().rev().skip(1).map(|width| width + GAP).sum();
    let last = rows.iter().filter_map(|row| row.last());
    let longest_word = last.flat_map(|cell| cell.split(' ')).map(length).max().unwrap_or(0);
    let mut text = String::new();
    if indent + longest_word > columns {
        let Some((heads, rows)) = rows.split_first() else { return text };
        let indent = heads.iter().map(|head| length(head)).max().unwrap_or(0) + GAP;
        let block = |row: &Vec<String>| -> String {
            let line = |(head, cell): (&String, &String)| {
                hanging(&format!("{head:<indent$}"), cell, columns)
            };
            heads.iter().zip(row).map(line).collect()
        };
        return rows.iter().map(block).collect::<Vec<_>>().join("\n");
    }
    for row in rows {
        let Some((last, before)) = row.split_last() else { continue };
        let mut start = String::new();
        for (cell, (right, width)) in before.iter().zip(right.iter().zip(&widths)) {
            start += &if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            start += &" ".repeat(GAP);
        }
        let width = widths.last().copied().unwrap_or(0);
        let last =
            if right.last() == Some(&true) { format!("{last:>width$}") } else { last.clone() };
        text += &hanging(&start, &last, columns);
    }
    text
}

/// Blanks between two columns.
const GAP: usize = 2;

/// The words behind a start, on as many lines as they need, all of them as far to the right.
fn hanging(start: &str, words: &str, columns: usize) -> String {
    let indent = start.chars().count();
    let mut lines = vec![start.to_owned()];
    for (number, word) in words.split(' ').enumerate() {
        let Some(line) = lines.last_mut() else { continue };
        let has_room = line.chars().count() + 1 + word.chars().count() <= columns;
        if number == 0 {
            *line += word;
        } else if has_room {
            *line += " ";
            *line += word;
        } else {
            lines.push(" ".repeat(indent) + word);
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_would_steer_a_terminal_is_escaped() {
        assert_eq!(printable("a\u{1b}[2Jb\nc é\u{85}"), r"a\x1b[2Jb\x0ac é\xc2\x85");
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
    fn columns_line_up() {
        let rows =
            [vec!["ID".to_owned(), "NAME".to_owned()], vec!["10".to_owned(), "n".to_owned()]];
        assert_eq!(layout(&[true, false], &rows, usize::MAX), "ID  NAME\n10  n\n");
        let rows =
            [vec!["NODE".to_owned(), "PID".to_owned()], vec!["1".to_owned(), "7".to_owned()]];
        assert_eq!(layout(&[true, true], &rows, usize::MAX), "NODE  PID\n   1    7\n");
    }
}
