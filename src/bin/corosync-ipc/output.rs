//! Standard output and standard error.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::iter;
use std::os::fd::AsFd;
use std::str;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use corosync_ipc::Escaped;
use corosync_ipc::snapshot::Fault;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use terminal_size::terminal_size_of;
use unicode_width::UnicodeWidthStr;

use crate::failure::{Failure, fault_text};

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

/// Writes one event as a line.
pub(crate) fn print_event(event: &str, time: SystemTime, members: Value) -> Result<(), Failure> {
    print(event_line(event, time, members))
}

/// The line of an event: an object with `members`, `event` and `time`.
pub(crate) fn event_line(event: &str, time: SystemTime, members: Value) -> String {
    let mut line = json!({ "event": event, "time": rfc3339(time) });
    if let (Some(line), Value::Object(members)) = (line.as_object_mut(), members) {
        line.extend(members);
    }
    ascii_where_it_steers(format!("{line}\n"))
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
    try_complain(text);
}

/// As [`complain`]. Returns false where [`print_error`] does.
pub(crate) fn try_complain(text: &str) -> bool {
    let name = red("corosync-ipc:".to_owned(), &io::stderr());
    print_error(&format!("{name} {}\n", printable(text)))
}

/// Writes one line of JSON to standard error. Ignores errors.
pub(crate) fn complain_json(text: &str, cs_error: Option<&str>, exit_status: u8) {
    let line = json!({ "error": text, "cs_error": cs_error, "exit_status": exit_status });
    print_error(&ascii_where_it_steers(format!("{line}\n")));
}

/// Whether standard error is never waited for.
static NEVER_WAIT: AtomicBool = AtomicBool::new(false);

/// From now on [`print_error`] does not wait. For what must go on, and end, although nobody reads
/// its log any more.
pub(crate) fn never_wait_for_standard_error() {
    NEVER_WAIT.store(true, Ordering::Relaxed);
}

/// Writes a line to standard error. Ignores errors. Returns false if the line, or the end of a very
/// long one, is left out because standard error takes none.
pub(crate) fn print_error(line: &str) -> bool {
    let mut stderr = io::stderr().lock();
    if !NEVER_WAIT.load(Ordering::Relaxed) {
        let _ = stderr.write_all(line.as_bytes());
        return true;
    }
    line.as_bytes().chunks(PIPE_BUF).all(|part| {
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        // An error is left to writing.
        let takes_it = !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(0));
        if takes_it {
            let _ = stderr.write_all(part);
        }
        takes_it
    })
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

/// Text for people on one line: escaped, and red where it says that something is wrong.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cell(String);

/// Begins and ends what is red.
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

impl Cell {
    /// Says that something is wrong.
    pub(crate) fn wrong(text: impl Into<Cell>) -> Self {
        Self(red(text.into().0, &io::stdout()))
    }

    /// Says that something is wrong, if it is.
    pub(crate) fn wrong_if(is_wrong: bool, text: impl Into<Cell>) -> Self {
        if is_wrong { Self::wrong(text) } else { text.into() }
    }

    /// Stands in the answer in place of a part that is missing.
    pub(crate) fn failed(fault: &Fault) -> Self {
        Self::wrong(fault_text(fault))
    }

    /// One after the other.
    pub(crate) fn join(cells: impl IntoIterator<Item = Cell>, between: &str) -> Self {
        Self(cells.into_iter().map(|cell| cell.0).collect::<Vec<_>>().join(between))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self(printable(text))
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// On a terminal, unless NO_COLOR or the like says otherwise. Always with CLICOLOR_FORCE.
fn red(text: String, stream: &impl RawStream) -> String {
    match AutoStream::choice(stream) {
        ColorChoice::Never => text,
        _ => format!("{RED}{text}{PLAIN}"),
    }
}

/// The columns that escaped text takes.
fn width_of(text: &str) -> usize {
    text.replace(RED, "").replace(PLAIN, "").width()
}

/// The name of a value, and the value.
pub(crate) type Field = (&'static str, Cell);

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Column {
    Text(&'static str),
    /// At the right end of the column.
    Number(&'static str),
}

impl Column {
    fn head(self) -> Cell {
        let (Self::Text(head) | Self::Number(head)) = self;
        head.into()
    }
}

/// Lines up the cells under the heads.
///
/// On a narrow terminal the last column wraps between words. If its longest word has no room, each
/// row becomes a block with a line for each column; if it has none there either, it stands below the
/// column's name.
pub(crate) fn table<C: Clone + Into<Cell>>(columns: &[Column], rows: &[Vec<C>]) -> String {
    let rows: Vec<Vec<Cell>> =
        rows.iter().map(|row| row.iter().cloned().map(Into::into).collect()).collect();
    layout(columns, &rows, terminal_width())
}

/// A line for each name and its value. On a narrow terminal the values wrap between words, below
/// the name if a word has no room beside it. Without a name, the value goes on with the one before.
pub(crate) fn fields(fields: impl IntoIterator<Item = Field>) -> String {
    let name = |name: &str| {
        let name = if name.is_empty() { String::new() } else { format!("{name}:") };
        // As long as the longest of all.
        format!("{name:<17}").into()
    };
    pairs(fields.into_iter().map(|(field, value)| [name(field), value]), 1)
}

/// Lines values up beside names, as [`fields`], with so many blanks between.
pub(crate) fn pairs(rows: impl IntoIterator<Item = [Cell; 2]>, gap: usize) -> String {
    pairs_within(rows, gap, terminal_width())
}

fn pairs_within(
    rows: impl IntoIterator<Item = [Cell; 2]>,
    gap: usize,
    width: Option<usize>,
) -> String {
    let rows: Vec<Vec<Cell>> = rows.into_iter().map(Vec::from).collect();
    grid(&[Column::Text(""); 2], gap, &rows, width, true)
}

fn terminal_width() -> Option<usize> {
    terminal_size_of(io::stdout()).map(|(width, _)| width.0.into())
}

fn layout(columns: &[Column], rows: &[Vec<Cell>], width: Option<usize>) -> String {
    let heads: Vec<Cell> = columns.iter().map(|column| column.head()).collect();
    let all: Vec<_> = iter::once(heads.clone()).chain(rows.iter().cloned()).collect();
    let table = grid(columns, GAP, &all, width, false);
    if width.is_none_or(|width| table.lines().all(|line| width_of(line) <= width)) {
        return table;
    }
    let block = |row: &Vec<Cell>| {
        pairs_within(iter::zip(heads.clone(), row.clone()).map(<[Cell; 2]>::from), GAP, width)
    };
    rows.iter().map(block).collect::<Vec<_>>().join("\n")
}

/// Lines rows up. The last column takes the rest of the width, the others the width of their
/// content. A word is never cut, even if the line becomes too long; with `below` it is put below
/// the others first.
fn grid(
    columns: &[Column],
    gap: usize,
    rows: &[Vec<Cell>],
    width: Option<usize>,
    below: bool,
) -> String {
    let width_at = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| width_of(&cell.0)).max()
    };
    let widths: Vec<usize> =
        (0..columns.len()).map(|column| width_at(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        let mut start = 0;
        for (index, ((Cell(cell), column), taken)) in
            row.iter().zip(columns).zip(&widths).enumerate()
        {
            line += &" ".repeat(start - width_of(&line));
            if let Column::Number(_) = column {
                line += &" ".repeat(taken - width_of(cell));
            }
            match width.filter(|_| index + 1 == columns.len()) {
                Some(width) => {
                    let longest = cell.split(' ').map(width_of).max().unwrap_or_default();
                    if below && start + longest > width {
                        line.truncate(line.trim_end().len());
                        line.push_str("\n ");
                        start = 1;
                    }
                    wrap(&mut line, cell, start, width);
                }
                None => line += cell,
            }
            start += taken + gap;
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Appends text to the last line; lines that become too long go on at `start`.
fn wrap(line: &mut String, text: &str, start: usize, width: usize) {
    let mut at = line.lines().next_back().map_or(0, width_of);
    for (index, word) in text.split(' ').enumerate() {
        if index > 0 && at + 1 + width_of(word) > width {
            line.push('\n');
            line.extend(iter::repeat_n(' ', start));
            at = start;
        } else if index > 0 {
            line.push(' ');
            at += 1;
        }
        line.push_str(word);
        at += width_of(word);
    }
}

/// Blanks between two columns.
const GAP: usize = 2;

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

    fn rows(rows: &[&[&str]]) -> Vec<Vec<Cell>> {
        rows.iter().map(|row| row.iter().copied().map(Cell::from).collect()).collect()
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
            "GROUP    a\nMEMBERS\n 1/1001\n 1/1002\n 1/1003\n\nGROUP\n b\\x0a\nMEMBERS\n 1/1\n"
        );
        assert_eq!(layout(&columns, &rows[1..], Some(14)), "GROUP  MEMBERS\nb\\x0a  1/1\n");
    }

    #[test]
    fn colour_takes_no_room() {
        let columns = [Column::Text("STATE"), Column::Text("X")];
        let red = Cell(format!("{RED}no no{PLAIN}"));
        let rows = [vec![red.clone(), red]];
        let lines = format!("STATE  X\n{RED}no no{PLAIN}  {RED}no no{PLAIN}\n");
        assert_eq!(layout(&columns, &rows, Some(12)), lines);
        let lines = format!("STATE  X\n{RED}no no{PLAIN}  {RED}no\n       no{PLAIN}\n");
        assert_eq!(layout(&columns, &rows, Some(11)), lines);
        let forged: Cell = RED.into();
        assert_eq!(forged, Cell(r"\x1b[31m".to_owned()));
    }
}
