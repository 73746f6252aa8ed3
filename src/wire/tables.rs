//! Checks every codec against the tables and vectors in `proto/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Service as WireService;
use super::message::{Message, write_message};
use crate::codec::{Field, Header, Kind, Notes, Reader};
use crate::error::WireError;

/// A service's table and vectors.
struct Service {
    messages: BTreeMap<String, Table>,
    vectors: Vec<Vector>,
}

/// A message of the table.
struct Table {
    id: i32,
    kind: Kind,
    size: usize,
    /// The name, offset and size of each field of the fixed part.
    fields: Vec<(String, usize, usize)>,
    /// The offset of the first list or byte string behind the fixed part.
    tail: Option<usize>,
}

/// A captured message.
struct Vector {
    name: String,
    title: String,
    bytes: Vec<u8>,
}

fn proto(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto").join(file)
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

impl Service {
    fn load(service: &str) -> Self {
        let table = table(service);
        let messages = table["messages"].as_array().unwrap().iter();
        let messages = messages
            .map(|message| (message["name"].as_str().unwrap().to_owned(), Table::new(message)))
            .collect();
        Self { messages, vectors: captured(service, || table) }
    }
}

/// Returns the table of a service.
fn table(service: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(proto(&format!("{service}.json"))).unwrap()).unwrap()
}

/// Returns the captured messages of a service in the machine's byte order.
fn captured(service: &str, table: impl FnOnce() -> Value) -> Vec<Vector> {
    let text = fs::read_to_string(proto(&format!("vectors/{service}.txt"))).unwrap();
    let mut vectors: Vec<_> = text.split("\n@ ").skip(1).map(Vector::new).collect();
    if cfg!(target_endian = "big") {
        let table = table();
        vectors.iter_mut().for_each(|vector| vector.turn(&table));
    }
    vectors
}

/// The captured messages of a service.
pub(crate) fn vectors(service: &str) -> impl Iterator<Item = (Kind, Vec<u8>)> {
    let vectors = captured(service, || table(service)).into_iter();
    vectors.map(|vector| (kind(vector.title.split(' ').next().unwrap()), vector.bytes))
}

fn kind(name: &str) -> Kind {
    match name {
        "request" => Kind::Request,
        "response" => Kind::Response,
        "event" => Kind::Event,
        name => panic!("{name}"),
    }
}

impl Table {
    fn new(message: &Value) -> Self {
        let fields = message["fields"].as_array().unwrap().iter();
        let fields = fields.map(|field| {
            (
                field["name"].as_str().unwrap().to_owned(),
                number(&field["offset"]),
                number(&field["size"]),
            )
        });
        Self {
            id: i32::try_from(message["id"].as_i64().unwrap()).unwrap(),
            kind: kind(message["kind"].as_str().unwrap()),
            size: number(&message["size"]),
            fields: fields.collect(),
            tail: message["tail"].as_array().unwrap().first().map(|tail| number(&tail["offset"])),
        }
    }

    /// The shortest possible message, with zeros in all fields.
    fn blank(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.size];
        bytes[0..4].copy_from_slice(&self.id.to_ne_bytes());
        bytes[8..12].copy_from_slice(&u32::try_from(self.size).unwrap().to_ne_bytes());
        bytes
    }

    /// Returns true if the byte at an offset of the fixed part belongs to a field.
    fn has_field_at(&self, offset: usize) -> bool {
        self.fields.iter().any(|(_, start, size)| (*start..start + size).contains(&offset))
    }
}

impl Vector {
    /// Parses a block, without the `@` that it begins with.
    fn new(block: &str) -> Self {
        let (title, lines) = block.split_once('\n').unwrap();
        let mut bytes = Vec::new();
        for token in
            lines.lines().flat_map(|line| line.split('#').next().unwrap().split_whitespace())
        {
            let (byte, count) = token.split_once('*').unwrap_or((token, "1"));
            let byte = u8::from_str_radix(byte, 16).unwrap();
            bytes.extend(std::iter::repeat_n(byte, count.parse().unwrap()));
        }
        Self { name: title.split(' ').nth(1).unwrap().to_owned(), title: title.to_owned(), bytes }
    }

    /// Turns the numbers, which are little-endian as they were captured, into big-endian ones.
    /// `service` is the table that says where they are.
    fn turn(&mut self, service: &Value) {
        let mut messages = service["messages"].as_array().unwrap().iter();
        let message = messages.find(|message| message["name"] == *self.name).unwrap();
        let numbers = numbers_of_message(message, &service["types"], &self.bytes);
        numbers.into_iter().for_each(|number| self.bytes[number].reverse());
    }
}

/// Where the numbers of a little-endian message are. Behind an error it may have no list, or an
/// undefined count.
fn numbers_of_message(message: &Value, types: &Value, bytes: &[u8]) -> Vec<Range<usize>> {
    let fields = message["fields"].as_array().unwrap();
    let mut numbers: Vec<_> =
        fields.iter().flat_map(|field| numbers_of_field(field, 0, types)).collect();
    let count = |name: &Value| {
        let mut fields = fields.iter();
        let field = fields.find(|field| field["name"] == *name).unwrap();
        let offset = number(&field["offset"]);
        bytes[offset..][..number(&field["size"])]
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | usize::from(*byte))
    };
    let mut end = 0;
    for tail in message["tail"].as_array().unwrap() {
        let offset = tail["offset"].as_u64().map_or(end, |offset| usize::try_from(offset).unwrap());
        end = offset.saturating_add(match tail.get("bytes") {
            Some(length) => count(length),
            None => count(&tail["count"]).saturating_mul(size_of_type(&tail["type"], types)),
        });
        numbers.extend(numbers_of_type(&tail["type"], offset..end.min(bytes.len()), types));
    }
    numbers.retain(|number| number.end <= bytes.len());
    numbers
}

fn numbers_of_field(field: &Value, start: usize, types: &Value) -> Vec<Range<usize>> {
    let start = start + number(&field["offset"]);
    numbers_of_type(&field["type"], start..start + number(&field["size"]), types)
}

/// Where the numbers are in a field or an array of a type.
fn numbers_of_type(name: &Value, range: Range<usize>, types: &Value) -> Vec<Range<usize>> {
    let size = size_of_type(name, types);
    let elements = range.step_by(size);
    match types[name.as_str().unwrap()]["fields"].as_array() {
        Some(fields) => elements
            .flat_map(|start| fields.iter().flat_map(move |it| numbers_of_field(it, start, types)))
            .collect(),
        None => elements.map(|start| start..start + size).collect(),
    }
}

/// The size of a type, `bytes` counted one by one.
fn size_of_type(name: &Value, types: &Value) -> usize {
    match name.as_str().unwrap() {
        "bytes" | "u8" | "i8" => 1,
        "u16" | "i16" => 2,
        "u32" | "i32" | "f32" => 4,
        "u64" | "i64" | "f64" => 8,
        name => number(&types[name]["size"]),
    }
}

/// The names that differ from C's, with C's names.
const OTHER_NAMES: [(&str, &str); 2] = [("value_type", "type"), ("extra_info_size", "ei_size")];

/// The name, the offset and the size of a field.
type Place<'a> = (&'a str, usize, usize);

/// Compares the fields that were read or written with the table. What is written has the first part
/// of a name only.
fn compare_places(context: &str, places: &[Place<'_>], table: &Table, whole_names: bool) {
    let end = table.tail.unwrap_or(usize::MAX);
    let fixed: Vec<_> = places.iter().filter(|(_, offset, _)| *offset < end).collect();
    let actual: Vec<_> = fixed.iter().map(|(_, offset, size)| (*offset, *size)).collect();
    let expected: Vec<_> = table.fields.iter().map(|(_, offset, size)| (*offset, *size)).collect();
    assert_eq!(actual, expected, "{context}: offset and size of the fields");
    for ((name, ..), (expected, ..)) in fixed.iter().zip(&table.fields) {
        let is_other = |(ours, c): &(&str, &str)| {
            *c == expected && if whole_names { ours == name } else { ours.starts_with(name) }
        };
        let is_same = if whole_names { expected == name } else { expected.starts_with(name) };
        assert!(
            is_same || OTHER_NAMES.iter().any(is_other),
            "{context}: {name} in the place of {expected}"
        );
    }
    if let Some((_, offset, _)) = places.iter().find(|(_, offset, _)| *offset >= end) {
        assert_eq!(*offset, end, "{context}: the tail begins here");
    }
}

/// Decodes and encodes a message and compares both with the table. `alias` is the table's name for
/// this layout.
fn check<M: Message + Debug + PartialEq>(service: &Service, alias: &str) {
    let table =
        service.messages.get(alias).unwrap_or_else(|| panic!("{alias} is not in the table"));
    assert_eq!((table.id, table.kind), (M::ID, M::KIND), "{alias}");
    let blank = [("blank".to_owned(), table.blank())];
    let vectors = service.vectors.iter().filter(|vector| vector.name == alias);
    let vectors = vectors.map(|vector| (vector.title.clone(), vector.bytes.clone()));
    let mut refused = 0;
    for (title, bytes) in blank.into_iter().chain(vectors) {
        check_message::<M>(&format!("{alias}: {title}"), &bytes, table);
        refused += check_errors::<M>(&format!("{alias}: {title}"), &bytes, table);
    }
    assert!(refused > 0 || table.tail.is_none(), "{alias}: no count is too large");
}

/// Returns the field and the offset that an error names.
fn field_of(error: WireError) -> (&'static str, usize) {
    match error {
        WireError::Truncated { field, offset, .. }
        | WireError::TooLarge { field, offset, .. }
        | WireError::Invalid { field, offset, .. } => (field, offset),
        WireError::UnknownId { .. } => panic!("{error}"),
    }
}

/// Truncates a message around each field, and sets each number to its largest value. Checks the
/// field and offset of each error. Returns how many numbers were refused.
fn check_errors<M: Message>(context: &str, bytes: &[u8], table: &Table) -> usize {
    let read = |bytes: &[u8]| M::decode(bytes).err().map(|error| (error, field_of(error)));
    let Some((_, fields)) = read_fields::<M>(bytes) else { return 0 };
    let fields: Vec<_> =
        fields.iter().map(|field| (field.name, field.offset, field.size)).collect();
    let fields: Vec<_> = fields.iter().filter(|(_, _, size)| *size > 0).collect();
    for (_, offset, size) in &fields {
        for end in [*offset, offset + 1, offset + size - 1, offset + size] {
            let Some((error, named)) = read(&bytes[..end.min(bytes.len())]) else { continue };
            let is_right = match error {
                WireError::Truncated { field: "words", offset, .. } => {
                    // Too short to identify the layout, and so the names of the words.
                    fields
                        .iter()
                        .find(|(_, offset, size)| offset + size > end)
                        .is_some_and(|cut| cut.1 == offset)
                }
                WireError::Truncated { .. } => {
                    let cut = fields.iter().find(|(_, offset, size)| offset + size > end);
                    cut.is_some_and(|cut| (cut.0, cut.1) == named)
                }
                // A count, which precedes its list.
                _ => fields
                    .iter()
                    .any(|(name, offset, size)| (*name, *offset) == named && offset + size <= end),
            };
            assert!(is_right, "{context} cut at {end}: {error}");
        }
    }
    let mut refused = 0;
    let has_room_behind = read(&[bytes, &[0; 8]].concat()).is_none();
    for (name, offset, size) in
        table.fields.iter().filter(|(name, _, size)| *size <= 8 && !name.starts_with("header"))
    {
        // Messages that may have a tail get one.
        let mut bytes = [bytes, if has_room_behind { &[0; 8][..] } else { &[] }].concat();
        bytes[*offset..offset + size].fill(0xff);
        let Some((error, named)) = read(&bytes) else { continue };
        refused += 1;
        assert_eq!(named.1, *offset, "{context}: {error}, for {name}");
    }
    refused
}

/// Reads a message with its fields. Returns `None` for a refusal: behind an error C sends undefined
/// bytes.
fn read_fields<M: Message>(bytes: &[u8]) -> Option<(M, Vec<Field>)> {
    let mut notes = Notes::default();
    let mut reader = Reader::noting(M::NAME, bytes, &mut notes);
    let header = Header::read(&mut reader, M::HEADER).unwrap();
    assert_eq!(header.id, M::ID, "{}", M::NAME);
    if M::HEADER != Kind::Request && header.error > 1 {
        return None;
    }
    let message = M::read(&mut reader).unwrap_or_else(|error| panic!("{error}"));
    Some((message, notes.fields))
}

fn check_message<M: Message + Debug + PartialEq>(context: &str, bytes: &[u8], table: &Table) {
    let Some((message, fields)) = read_fields::<M>(bytes) else { return };
    let paths: Vec<_> = fields.iter().map(Field::path).collect();
    let places: Vec<_> = paths
        .iter()
        .zip(&fields)
        .map(|(path, field)| (path.as_str(), field.offset, field.size))
        .collect();
    compare_places(&format!("{context}: read"), &places, table, true);
    let writer = write_message(&message).unwrap();
    compare_places(&format!("{context}: written"), &writer.trace, table, false);
    let trace = writer.trace.clone();
    let encoded = writer.finish(0).unwrap();
    assert_eq!(M::decode(&encoded).unwrap(), message, "{context}");
    compare_bytes(context, bytes, &encoded, table, &trace);
}

/// Compares the bytes that have a meaning. In the fixed part these are the fields, without the size
/// and error of the header and without the bytes behind the end of a string in an array. In the
/// tail these are the bytes written, as far as they were captured: a string's NUL may be missing.
fn compare_bytes(
    context: &str,
    captured: &[u8],
    encoded: &[u8],
    table: &Table,
    written: &[Place<'_>],
) {
    let header = 8..24;
    for (name, offset, size) in &table.fields {
        let (captured, encoded) =
            (&captured[*offset..offset + size], &encoded[*offset..offset + size]);
        if header.contains(offset) && name.starts_with("header.") {
            continue;
        }
        let length = if *size > 8 {
            encoded.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
        } else {
            *size
        };
        assert_eq!(captured[..length], encoded[..length], "{context}: {name}");
    }
    let tail = table.tail.unwrap_or(usize::MAX);
    for (name, offset, size) in written.iter().filter(|(_, offset, _)| *offset >= tail) {
        let range = *offset..(offset + size).min(captured.len());
        assert!(
            captured[range.clone()] == encoded[range],
            "{context}: {name} at {offset} in the tail"
        );
    }
    assert!(!table.has_field_at(table.size), "{context}: the table's size ends inside a field");
}

/// Checks the messages of a service, and that its table has no others but those left out for the
/// given reason.
macro_rules! check_service {
    ($name:ident, $module:path, [$($message:ident),* $(,)?], [$(($other:ident, $alias:literal)),* $(,)?], left_out: [$(($left_out:literal, $reason:literal)),* $(,)?]) => {
        #[test]
        fn $name() {
            use $module as messages;
            let service = Service::load(stringify!($name));
            let mut checked = BTreeSet::new();
            $(
                check::<messages::$message>(&service, <messages::$message as Message>::NAME);
                checked.insert(<messages::$message as Message>::NAME);
            )*
            $(
                check::<messages::$other>(&service, $alias);
                checked.insert($alias);
            )*
            let left_out: &[(&str, &str)] = &[$(($left_out, $reason)),*];
            for (name, reason) in left_out {
                assert!(checked.insert(name), "{name} is checked, though {reason}");
            }
            let table: BTreeSet<_> = service.messages.keys().map(String::as_str).collect();
            assert_eq!(checked, table);
            for vector in &service.vectors {
                assert!(table.contains(vector.name.as_str()), "{} is not in the table", vector.title);
            }
        }
    };
}

check_service!(
    cmap,
    super::cmap,
    [
        Set, Delete, Get, AdjustInt, IterInit, IterNext, IterFinalize, TrackAdd, TrackDelete, SetCurrentMap, SetReply,
        DeleteReply, GetReply, AdjustIntReply, IterInitReply, IterNextReply, IterFinalizeReply, TrackAddReply,
        TrackDeleteReply, SetCurrentMapReply, NotifyCallback,
    ],
    [],
    left_out: []
);

check_service!(
    cpg,
    super::cpg,
    [
        Join, Leave, Mcast, MembershipGet, LocalGet, IterationInitialize, IterationNext, IterationFinalize, Finalize,
        PartialMcast, JoinReply, LeaveReply, MembershipReply, LocalGetReply, IterationInitializeReply,
        IterationNextReply, IterationFinalizeReply, FinalizeReply, PartialSendReply, ConfchgCallback, DeliverCallback,
        TotemConfchgCallback, PartialDeliverCallback,
    ],
    [],
    left_out: [
        ("mar_req_coroipcc_zc_alloc_t", "zero copy makes the daemon follow the client's pointers"),
        ("mar_req_coroipcc_zc_free_t", "zero copy makes the daemon follow the client's pointers"),
        ("mar_req_coroipcc_zc_execute_t", "zero copy makes the daemon follow the client's pointers"),
        ("res_lib_cpg_zc_alloc", "no client asks for zero copy"),
        ("res_lib_cpg_zc_free", "no client asks for zero copy"),
        ("res_lib_cpg_mcast", "no client asks for zero copy"),
        ("req_lib_cpg_null", "it does nothing"),
        ("res_lib_cpg_null", "no client asks for it"),
    ]
);

check_service!(
    quorum,
    super::quorum,
    [
        GetQuorate, TrackStart, TrackStop, GetType, ModelGetType, GetQuorateReply, TrackStartReply, TrackStopReply,
        GetTypeReply, ModelGetTypeReply, Notification, QuorumNotification, NodelistNotification,
    ],
    [],
    left_out: []
);

check_service!(
    votequorum,
    super::votequorum,
    [
        GetInfo, SetExpected, SetVotes, TrackStart, TrackStop, QdeviceRegister, QdeviceUnregister, QdeviceUpdate,
        QdevicePoll, QdeviceMasterWins, SetQdeviceExtraInfo, GetQdeviceExtraInfo, Status, GetInfoReply,
        GetQdeviceExtraInfoReply, QuorumNotification, Notification234, Notification199, ExpectedVotesNotification,
        ExpectedVotesNotification199, NodelistNotification, QdeviceExtraInfoNotification,
    ],
    [],
    left_out: [
        ("res_lib_votequorum_getinfo_199", "it is read word by word, see `short_answers_mean_what_their_tables_say`"),
        ("res_lib_votequorum_getinfo_200", "it is read word by word, see `short_answers_mean_what_their_tables_say`"),
        ("req_lib_votequorum_qdevice_poll_200", "the daemon accepts the later layout and reads its beginning"),
        ("req_lib_votequorum_qdevice_poll_210", "the daemon accepts the later layout and reads its beginning"),
        ("req_lib_votequorum_qdevice_getinfo", "it was gone before corosync 2.1"),
        ("res_lib_votequorum_qdevice_getinfo", "it was gone before corosync 2.1"),
    ]
);

check_service!(
    cfg,
    super::cfg,
    [
        GetRingStatus, RingReenable, KillNode, TryShutdown, ReplyToShutdown, GetNodeAddresses, LocalGet, ReloadConfig,
        ReopenLogFiles, GetNodeStatus, TrackStart, TrackStop, RingStatusReply, RingReenableReply, TrackStartReply,
        TrackStopReply, KillNodeReply, TryShutdownReply, NodeAddressesReply, LocalGetReply, ReplyToShutdownReply,
        ReloadConfigReply, ReopenLogFilesReply, TestShutdown,
    ],
    [],
    left_out: [
        ("res_lib_cfg_nodestatusget_v1", "a blank message has no version, see `a_node_status_has_all_its_links`"),
        ("res_lib_cfg_nodestatusget_version", "only its status is set"),
        ("res_lib_cfg_reload_config_232", "it is a bare status, and decoding ignores the ids of replies"),
        ("req_lib_cfg_crypto_set", "it was gone before corosync 2.0"),
        ("res_lib_cfg_crypto_set", "it was gone before corosync 2.0"),
    ]
);

check_service!(
    evs,
    super::evs,
    [
        Join, Leave, McastJoined, McastGroups, GetMembership, JoinReply, LeaveReply, McastJoinedReply, McastGroupsReply,
        MembershipReply, Deliver, Confchg,
    ],
    [],
    left_out: []
);

/// On any host: each number in a comment is where the turned message has it.
#[test]
fn captured_numbers_turn_into_big_endian_ones() {
    let mut compared = 0;
    for service in WireService::ALL {
        let read = |file: String| fs::read_to_string(proto(&file)).unwrap();
        let table = serde_json::from_str(&read(format!("{service}.json"))).unwrap();
        let text = read(format!("vectors/{service}.txt"));
        for block in text.split("\n@ ").skip(1) {
            let mut vector = Vector::new(block);
            vector.turn(&table);
            let mut rest = &vector.bytes[..];
            for line in block.lines().skip(1) {
                let length = Vector::new(&format!("a line\n{line}")).bytes.len();
                let (turned, behind) = rest.split_at(length);
                rest = behind;
                let Some((name, number)) = line.rsplit_once(" = ") else { continue };
                let Ok(number) = number.parse::<i128>() else { continue };
                // A value of cmap is bytes to the table.
                if name.ends_with("value") {
                    continue;
                }
                let value = turned.iter().fold(0, |value, byte| value << 8 | i128::from(*byte));
                let modulus = 1 << (8 * length);
                assert_eq!(value, number.rem_euclid(modulus), "{}: {line}", vector.title);
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

#[test]
fn a_node_status_has_all_its_links() {
    use super::cfg::NodeStatusReply;

    let service = Service::load("cfg");
    let table = &service.messages[NodeStatusReply::NAME];
    let mut bytes = table.blank();
    bytes[24..28].copy_from_slice(&1u32.to_ne_bytes());
    check_message::<NodeStatusReply>("version 1", &bytes, table);
    let vectors = service.vectors.iter().filter(|vector| vector.name == NodeStatusReply::NAME);
    for vector in vectors {
        check_message::<NodeStatusReply>(&vector.title, &vector.bytes, table);
        let status = NodeStatusReply::decode(&vector.bytes).unwrap();
        assert_eq!((status.reachable, status.links[0].mtu), (1, 65535), "{}", vector.title);
    }
    bytes[24..28].copy_from_slice(&2u32.to_ne_bytes());
    assert!(NodeStatusReply::decode(&bytes).is_err());
}

#[test]
fn short_answers_mean_what_their_tables_say() {
    use super::votequorum::{GetInfoReply, NodeInfo};

    let service = Service::load("votequorum");
    for (name, with_state) in
        [("res_lib_votequorum_getinfo_199", false), ("res_lib_votequorum_getinfo_200", true)]
    {
        let table = &service.messages[name];
        let mut bytes = table.blank();
        for (value, (_, offset, size)) in (10u32..).zip(table.fields.iter().skip(3)) {
            bytes[*offset..offset + size].copy_from_slice(&value.to_ne_bytes());
        }
        let field = |name: &str| {
            let index = table.fields.iter().skip(3).position(|(field, ..)| field == name);
            index.map(|index| 10 + u32::try_from(index).unwrap())
        };
        let GetInfoReply::Short(words) = GetInfoReply::decode(&bytes).unwrap() else {
            panic!("{name} is short")
        };
        let info = if with_state { words.with_state() } else { words.without_state() };
        let NodeInfo {
            nodeid,
            state,
            votes,
            expected_votes,
            highest_expected,
            total_votes,
            quorum,
            flags,
            ..
        } = info;
        assert_eq!(
            (Some(nodeid.0), state.map(|state| state.0)),
            (field("nodeid"), field("state")),
            "{name}"
        );
        assert_eq!(
            (Some(votes), Some(expected_votes)),
            (field("votes"), field("expected_votes")),
            "{name}"
        );
        assert_eq!(
            (Some(highest_expected), Some(total_votes)),
            (field("highest_expected"), field("total_votes")),
            "{name}"
        );
        assert_eq!((Some(quorum), Some(flags.bits())), (field("quorum"), field("flags")), "{name}");
    }
}

#[test]
#[cfg(feature = "serde")]
fn every_captured_message_is_serialized() {
    use super::{cfg, cmap, cpg, evs, quorum, votequorum, with_any_message};

    for service in WireService::ALL {
        for (kind, bytes) in vectors(service.name()) {
            macro_rules! round_trip {
                ($service:ident $any:ident) => {
                    if let Ok(message) = $service::$any::decode(&bytes) {
                        let json = serde_json::to_string(&message).unwrap();
                        assert_eq!(serde_json::from_str::<$service::$any>(&json).unwrap(), message);
                    }
                };
            }
            with_any_message!(service, kind, round_trip);
        }
    }
}
