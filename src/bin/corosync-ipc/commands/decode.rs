//! `corosync-ipc decode`: a message, field by field.

use std::io::{self, Read};

use clap::{Args, ValueEnum};
use corosync_ipc::codec::{Field, Kind, Value};
use corosync_ipc::wire::{Inspection, Service, inspect};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::output::{Column, base64, print, print_document, table};

/// Prints the fields of a message that is read from standard input
///
/// Reads one message, header included, as bytes or in hex, from a capture, a debugger or a log.
/// In hex, blanks and line breaks do not count, and # begins a comment. Prints each field with its
/// offset, its bytes and its value: their beginning if they are long (--json has all). Of a message
/// whose fields are cut short or wrong, prints what can be read, and the exit status is 1. The size
/// in the header is not compared with the input. Numbers are in this machine's byte order.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc decode cpg event <message.bin
  echo '00000000 00000000 18000000 00000000 01000000 00000000' |
    corosync-ipc decode cpg response")]
pub(crate) struct Decode {
    /// The service: cmap, cpg, quorum, votequorum, cfg or evs.
    #[arg(value_parser = parse_service)]
    service: Service,

    /// What the message is.
    #[arg(value_enum)]
    kind: KindArgument,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindArgument {
    /// From a client to the daemon
    Request,
    /// The daemon's answer to a request
    Response,
    /// From the daemon, without a request
    Event,
}

/// More than any message of corosync has, in bytes.
const MOST_MESSAGE: usize = 2 << 20;

/// Room for the longest message in hex, with comments.
const MOST_INPUT: u64 = 16 << 20;

fn parse_service(name: &str) -> Result<Service, String> {
    name.parse().map_err(|_| {
        let names: Vec<&str> = Service::ALL.iter().map(|service| service.name()).collect();
        format!("the services are {}", names.join(", "))
    })
}

impl Decode {
    pub(crate) fn run(self, as_json: bool) -> Result<(), Failure> {
        let mut input = Vec::new();
        io::stdin()
            .take(MOST_INPUT + 1)
            .read_to_end(&mut input)
            .map_err(|error| Failure::refused(format!("reading standard input: {error}")))?;
        if input.len() as u64 > MOST_INPUT {
            return Err(Failure::refused(format!("the input has more than {MOST_INPUT} bytes")));
        }
        let bytes = from_hex(&input)?.unwrap_or(input);
        if bytes.len() > MOST_MESSAGE {
            let text = format!("no message has more than {MOST_MESSAGE} bytes");
            return Err(Failure::refused(text));
        }
        let kind = match self.kind {
            KindArgument::Request => Kind::Request,
            KindArgument::Response => Kind::Response,
            KindArgument::Event => Kind::Event,
        };
        let found = inspect(self.service, kind, &bytes);
        if as_json {
            print_document(&document(self.service, self.kind, &found, &bytes))?;
        } else {
            print(text(&found, &bytes))?;
        }
        found.error.map_or(Ok(()), |error| Err(Failure::refused(error.to_string())))
    }
}

/// The bytes that the input writes in hex. `None` if it is not hex: a message in binary has NULs in
/// its header.
pub(crate) fn from_hex(input: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let Ok(text) = std::str::from_utf8(input) else { return Ok(None) };
    if text.contains('\0') || text.is_empty() {
        return Ok(None);
    }
    let lines = text.lines().map(|line| line.split_once('#').map_or(line, |(hex, _)| hex));
    let digits: String = lines.flat_map(str::split_whitespace).collect();
    let Some(wrong) = digits.chars().find(|digit| !digit.is_ascii_hexdigit()) else {
        if digits.len() % 2 == 1 {
            return Err(Failure::refused("the hex has an odd number of digits"));
        }
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        return Ok(pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect());
    };
    Err(Failure::refused(format!("{wrong:?} is no digit of hex, and no message is only text")))
}

fn document(service: Service, kind: KindArgument, found: &Inspection, bytes: &[u8]) -> Json {
    let kind = kind.to_possible_value().map(|value| value.get_name().to_owned());
    json!({
        "service": service.name(),
        "kind": kind,
        "message": found.message,
        "size": bytes.len(),
        "fields": found.fields.iter().map(|field| field_json(field, bytes)).collect::<Vec<_>>(),
        "rest": base64(rest(found, bytes)),
        "error": found.error.map(|error| error.to_string()),
    })
}

fn field_json(field: &Field, bytes: &[u8]) -> Json {
    let mut object = json!({
        "name": field.path(),
        "offset": field.offset,
        "size": field.size,
        "bytes": base64(bytes_of(field, bytes)),
        "value": value_json(&field.value),
    });
    if let Value::Named(_, names) = &field.value {
        object["names"] = json!(names);
    }
    object
}

/// A number, or text where bytes are text, or null where they are not.
fn value_json(value: &Value) -> Json {
    match value {
        Value::Number(number) | Value::Named(number, _) => {
            serde_json::Number::from_i128(*number).map_or(Json::Null, Json::Number)
        }
        Value::Bytes(_) => json!(std::str::from_utf8(value.text()).ok()),
        Value::List(values) => values.iter().map(value_json).collect(),
        Value::Struct(members) => {
            members.iter().map(|(name, value)| ((*name).to_owned(), value_json(value))).collect()
        }
        _ => Json::Null,
    }
}

fn text(found: &Inspection, bytes: &[u8]) -> String {
    let columns = [
        Column::Number("OFFSET"),
        Column::Number("SIZE"),
        Column::Text("FIELD"),
        Column::Text("BYTES"),
        Column::Text("VALUE"),
    ];
    let mut rows: Vec<Vec<String>> = found
        .fields
        .iter()
        .map(|field| {
            let bytes = hex(bytes_of(field, bytes));
            let (offset, size) = (field.offset.to_string(), field.size.to_string());
            vec![offset, size, field.path(), bytes, shortened(field.value.to_string())]
        })
        .collect();
    let rest = rest(found, bytes);
    if !rest.is_empty() {
        let (offset, size) = (found.end.to_string(), rest.len().to_string());
        rows.push(vec![offset, size, "-".to_owned(), hex(rest), "not read".to_owned()]);
    }
    format!("{}, {} bytes\n{}", found.message, bytes.len(), table(&columns, &rows))
}

fn bytes_of<'a>(field: &Field, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(field.offset..field.offset + field.size).unwrap_or_default()
}

/// What stands behind the last field.
fn rest<'a>(found: &Inspection, bytes: &'a [u8]) -> &'a [u8] {
    bytes.get(found.end..).unwrap_or_default()
}

/// The first characters. Lines that are longer than a table's widest column take time without end.
fn shortened(mut text: String) -> String {
    const SHOWN: usize = 4096;
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push_str("..");
    }
    text
}

/// The first bytes in hex.
fn hex(bytes: &[u8]) -> String {
    const SHOWN: usize = 8;
    let digits: String = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > SHOWN { digits + ".." } else { digits }
}
