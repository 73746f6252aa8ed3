//! corosync.conf: from its text to the keys of the map, as the daemon's parser does it.

use bytes::Bytes;

use super::builder::MAX_NODES;
use crate::cmap::{MAX_KEY, Value, ValueType};
use crate::error::{Error, Result};
use crate::wire::cmap::RawValue;

/// The longest line, in bytes, as in the daemon.
const MAX_LINE: usize = 510;

/// A key of the file, as it comes into the map.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    /// The line that says it.
    pub(crate) line: usize,
    pub(crate) name: String,
    pub(crate) value: Value,
}

/// Turns a user or group of this machine into its number.
pub(crate) type Resolve<'a> = &'a dyn Fn(Who, &str) -> Option<u32>;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    User,
    Group,
}

/// The argument that errors name.
pub(crate) const FILE: &str = "corosync.conf";

/// An error in a line.
pub(crate) fn wrong(line: usize, what: impl std::fmt::Display) -> Error {
    Error::invalid(FILE, format!("line {line}: {what}"))
}

/// Reads the keys, in the order of the file. Those of a section with a number of its own, such as
/// `interface`, come at its end. Values and comments may have any bytes but NUL.
///
/// # Errors
/// [`Error::InvalidArgument`] with the line that the daemon would refuse too.
pub(crate) fn read(text: &[u8], resolve: Resolve<'_>) -> Result<Vec<Key>> {
    let mut reader =
        Reader { keys: Vec::new(), path: Vec::new(), nodes: 0, held: Vec::new(), resolve };
    let mut last = 0;
    for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        last = number;
        if line.len() > MAX_LINE {
            return Err(wrong(number, "the line is too long"));
        }
        // The daemon takes what is in front of it, or ends.
        if line.contains(&0) {
            return Err(wrong(number, "a line has no NUL in it"));
        }
        reader.line(number, trim(line.strip_suffix(b"\r").unwrap_or(line)))?;
    }
    match reader.path.last() {
        None => Ok(reader.keys),
        Some(section) => Err(wrong(last, format!("the section {section} is not closed"))),
    }
}

/// Removes blanks and tabs. The daemon removes the byte 0xA0 too from 3.1.8 on, and with it a part of
/// some characters in UTF-8.
fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// What is in front of a byte, and behind it.
fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let (before, rest) = text.split_at_checked(text.iter().position(|byte| *byte == at)?)?;
    Some((before, rest.get(1..)?))
}

struct Reader<'a> {
    keys: Vec<Key>,
    /// The sections that are open.
    path: Vec<String>,
    /// How many nodes the nodelist has so far.
    nodes: u32,
    /// The keys of a section whose number or name may come last.
    held: Vec<Key>,
    resolve: Resolve<'a>,
}

impl Reader<'_> {
    fn line(&mut self, line: usize, text: &[u8]) -> Result<()> {
        if text.is_empty() || text.starts_with(b"#") {
            return Ok(());
        }
        // What is not UTF-8 in a name cannot be in a key either.
        if let Some((section, rest)) = split_once(text, b'{') {
            let section = String::from_utf8_lossy(trim(section));
            let section = section.trim_end_matches([' ', '\t', ':', '{']);
            if section.is_empty() {
                return Err(wrong(line, "a section has no name"));
            }
            if !trim(rest).is_empty() {
                return Err(wrong(line, "only a line break may follow an opening brace"));
            }
            return self.open(line, section);
        }
        if let Some((key, value)) = split_once(text, b':') {
            let key = String::from_utf8_lossy(trim(key));
            if key.is_empty() {
                return Err(wrong(line, "a key has no name"));
            }
            return self.item(line, &key, trim(value));
        }
        match text {
            b"}" => self.close(line),
            _ if text.contains(&b'}') => {
                Err(wrong(line, "a closing brace stands alone in its line"))
            }
            _ => Err(wrong(line, "this is no section, no key with a value, and no closing brace")),
        }
    }

    fn open(&mut self, line: usize, section: &str) -> Result<()> {
        let path = self.full(line, section)?;
        if let "uidgid" | "totem.interface.member" = self.section().as_str() {
            return Err(wrong(line, "this section has no sections of its own"));
        }
        match path.as_str() {
            "nodelist" => self.nodes = 0,
            "nodelist.node" if self.nodes >= MAX_NODES => {
                return Err(wrong(line, format!("more than {MAX_NODES} nodes, the maximum")));
            }
            _ => {}
        }
        self.path.push(section.to_owned());
        Ok(())
    }

    fn section(&self) -> String {
        self.path.join(".")
    }

    /// The name of a key or section in the section that is open.
    fn full(&self, line: usize, name: &str) -> Result<String> {
        let full = self.path.iter().map(String::as_str).chain([name]).collect::<Vec<_>>().join(".");
        if full.len() > MAX_KEY {
            return Err(wrong(line, format!("the key has more than {MAX_KEY} bytes")));
        }
        Ok(full)
    }

    fn item(&mut self, line: usize, name: &str, value: &[u8]) -> Result<()> {
        let full = self.full(line, name)?;
        let section = self.section();
        let is_held = match section.as_str() {
            "totem.interface" => OF_INTERFACE.contains(&name),
            "totem.interface.member" => true,
            section => LOGGERS.iter().any(|logger| section.starts_with(logger)),
        };
        match section.as_str() {
            "uidgid" => {
                let (kind, who) = match name {
                    "uid" => (Who::User, "user"),
                    "gid" => (Who::Group, "group"),
                    _ => return Err(wrong(line, "uidgid has uid and gid, and nothing else")),
                };
                let value = String::from_utf8_lossy(value);
                let id = value.parse().ok().or_else(|| (self.resolve)(kind, &value));
                let id =
                    id.ok_or_else(|| wrong(line, format!("no {who} {value} on this machine")))?;
                self.add(line, format!("uidgid.config.{name}.{id}"), Value::U8(1))
            }
            "totem.interface.member" if name != "memberaddr" => {
                Err(wrong(line, "a member has memberaddr, and nothing else"))
            }
            _ if is_held => {
                // Without the two sections around it.
                let name = full.splitn(3, '.').nth(2).unwrap_or(name).to_owned();
                let value = typed(line, &full, value)?;
                self.held.push(Key { line, name, value });
                Ok(())
            }
            _ if full.starts_with("nodelist.node.") => {
                let value = typed(line, &full, value)?;
                let field = full.get("nodelist.node.".len()..).unwrap_or_default();
                let name = format!("nodelist.node.{}.{field}", self.nodes);
                self.add(line, name, value)
            }
            _ => {
                let value = typed(line, &full, value)?;
                self.add(line, full, value)
            }
        }
    }

    fn close(&mut self, line: usize) -> Result<()> {
        let section = self.section();
        if self.path.pop().is_none() {
            return Err(wrong(line, "no section is open"));
        }
        match section.as_str() {
            "nodelist.node" => self.nodes = self.nodes.saturating_add(1),
            "totem.interface" => {
                let held = std::mem::take(&mut self.held);
                let number = held.iter().rev().find(|key| key.name == "linknumber");
                let number = number.map_or(Value::U8(0), |key| key.value.clone());
                let Value::U8(number) = number else { return Ok(()) };
                let mut members = 0_u32;
                for key in held.into_iter().filter(|key| key.name != "linknumber") {
                    let name = if key.name == "member.memberaddr" {
                        members += 1;
                        format!("member.{}", members - 1)
                    } else {
                        key.name
                    };
                    self.add(key.line, format!("totem.interface.{number}.{name}"), key.value)?;
                }
            }
            "logging.logger_subsys" => {
                let held = std::mem::take(&mut self.held);
                let subsys = named(&held, "subsys")
                    .ok_or_else(|| wrong(line, "the section logger_subsys has no subsys"))?;
                for key in held {
                    let name = format!("logging.logger_subsys.{subsys}.{}", key.name);
                    self.add(key.line, name, key.value)?;
                }
            }
            "logging.logging_daemon" => {
                let held = std::mem::take(&mut self.held);
                let daemon = named(&held, "name")
                    .ok_or_else(|| wrong(line, "the section logging_daemon has no name"))?;
                let subsys = named(&held, "subsys");
                let is_corosync = daemon == "corosync";
                let prefix = match (is_corosync, &subsys) {
                    (true, None) => "logging".to_owned(),
                    (true, Some(subsys)) => format!("logging.logger_subsys.{subsys}"),
                    (false, None) => format!("logging.logging_daemon.{daemon}"),
                    (false, Some(subsys)) => format!("logging.logging_daemon.{daemon}.{subsys}"),
                };
                // The name stands in the other keys already.
                for key in held.into_iter().filter(|key| !is_corosync || key.name != "name") {
                    self.add(key.line, format!("{prefix}.{}", key.name), key.value)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, line: usize, name: String, value: Value) -> Result<()> {
        if crate::cmap::check_key(&name).is_err() {
            return Err(wrong(line, format!("{name} cannot be a key of the map")));
        }
        self.keys.push(Key { line, name, value });
        Ok(())
    }
}

/// Sections whose keys are known only at their end.
const LOGGERS: [&str; 2] = ["logging.logger_subsys", "logging.logging_daemon"];

/// Keys of the section `interface` that have its number in their name.
const OF_INTERFACE: [&str; 12] = [
    "linknumber",
    "bindnetaddr",
    "mcastaddr",
    "broadcast",
    "mcastport",
    "ttl",
    "knet_link_priority",
    "knet_ping_interval",
    "knet_ping_timeout",
    "knet_ping_precision",
    "knet_pong_count",
    "knet_transport",
];

/// The last text of this name.
fn named(keys: &[Key], name: &str) -> Option<String> {
    keys.iter().rev().find(|key| key.name == name).and_then(|key| match &key.value {
        Value::String(text) => Some(text.clone()),
        // It cannot be in a key.
        Value::Other { data, .. } => Some(String::from_utf8_lossy(data).into_owned()),
        _ => None,
    })
}

/// Gives a value the type that the daemon gives it.
fn typed(line: usize, key: &str, bytes: &[u8]) -> Result<Value> {
    let text = &*String::from_utf8_lossy(bytes);
    let number = |value: Option<Value>, range: &str| {
        value.ok_or_else(|| wrong(line, format!("{key} is {text}, not a number from {range}")))
    };
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    match (section, name) {
        ("quorum", "expected_votes" | "votes" | "last_man_standing_window" | "leaving_timeout")
        | ("quorum.device", "timeout" | "sync_timeout" | "votes")
        | (
            "totem",
            "version"
            | "nodeid"
            | "threads"
            | "token"
            | "token_coefficient"
            | "token_retransmit"
            | "token_warning"
            | "hold"
            | "token_retransmits_before_loss_const"
            | "join"
            | "send_join"
            | "consensus"
            | "merge"
            | "downcheck"
            | "fail_recv_const"
            | "seqno_unchanged_const"
            | "heartbeat_failures_allowed"
            | "max_network_delay"
            | "window_size"
            | "max_messages"
            | "miss_count_const"
            | "knet_pmtud_interval"
            | "knet_mtu"
            | "knet_compression_threshold"
            | "netmtu",
        )
        | (
            "totem.interface",
            "knet_ping_interval" | "knet_ping_timeout" | "knet_ping_precision" | "knet_pong_count",
        )
        | ("nodelist.node", "nodeid" | "quorum_votes")
        | ("resources", "watchdog_timeout")
        | ("pload", "count" | "size") => {
            number(text.parse().ok().map(Value::U32), "0 to 4294967295")
        }
        (
            "quorum",
            "two_node"
            | "expected_votes_tracking"
            | "allow_downscale"
            | "wait_for_all"
            | "auto_tie_breaker"
            | "last_man_standing",
        )
        | ("quorum.device", "master_wins")
        | ("totem.interface", "linknumber" | "ttl" | "knet_link_priority") => {
            number(text.parse().ok().map(Value::U8), "0 to 255")
        }
        ("totem.interface", "mcastport") => number(text.parse().ok().map(Value::U16), "0 to 65535"),
        ("totem", "knet_compression_level") => {
            number(text.parse().ok().map(Value::I32), "-2147483648 to 2147483647")
        }
        ("totem", "config_version") => {
            number(text.parse().ok().map(Value::U64), "0 to 18446744073709551615")
        }
        (
            "resources.system"
            | "resources.system.memory_used"
            | "resources.process"
            | "resources.process.memory_used",
            "poll_period",
        ) => number(text.parse().ok().map(Value::U64), "0 to 18446744073709551615"),
        ("totem", "ip_version") => one_of(line, key, text, &["ipv4", "ipv6", "ipv6-4", "ipv4-6"]),
        ("system", "qb_ipc_type") => one_of(line, key, text, &["native", "shm", "socket"]),
        ("system", "sched_rr" | "allow_knet_handle_fallback") => {
            one_of(line, key, text, &["yes", "no"])
        }
        ("system", "move_to_root_cgroup") => one_of(line, key, text, &["yes", "no", "auto"]),
        _ => {
            let data = Bytes::copy_from_slice(bytes);
            Ok(RawValue { value_type: ValueType::STRING, data }.into())
        }
    }
}

fn one_of(line: usize, key: &str, text: &str, values: &[&str]) -> Result<Value> {
    if values.contains(&text) {
        return Ok(Value::String(text.to_owned()));
    }
    Err(wrong(line, format!("{key} is {text}, not one of {}", values.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: impl AsRef<[u8]>) -> Result<Vec<Key>> {
        read(text.as_ref(), &|who, name| (who == Who::User && name == "hacluster").then_some(90))
    }

    fn keys(text: impl AsRef<[u8]>) -> Vec<(String, Value)> {
        parsed(text).unwrap().into_iter().map(|key| (key.name, key.value)).collect()
    }

    #[test]
    fn values_and_comments_may_be_no_utf_8_and_keys_may_not() {
        let (value_type, data) = (ValueType::STRING, Bytes::from_static(b"K\xf6ln"));
        assert_eq!(
            keys(b"a {\n b: K\xf6ln\t \n c: voil\xc3\xa0\n}\n# \xc4"),
            [
                ("a.b".to_owned(), Value::Other { value_type, data }),
                ("a.c".to_owned(), Value::String("voil\u{e0}".to_owned()))
            ]
        );
        for (text, said) in [
            (&b"a {\n \xf6: 1\n}"[..], "line 2: a.\u{fffd} cannot be a key"),
            (b"\xf6 {\n a: 1\n}", "line 2: \u{fffd}.a cannot be a key"),
            (
                b"quorum {\n two_node: 1\xf6\n}",
                "line 2: quorum.two_node is 1\u{fffd}, not a number",
            ),
            (b"uidgid {\n uid: \xf6\n}", "line 2: no user \u{fffd} on this machine"),
            (
                b"logging {\n logger_subsys {\n subsys: \xf6\n}\n}",
                "line 3: logging.logger_subsys.\u{fffd}.subsys cannot be a key",
            ),
            (b"a {\n b: c\0\n}", "line 2: a line has no NUL"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{}: {error}", text.escape_ascii());
        }
    }

    #[test]
    fn a_file_of_pcs_becomes_keys_of_the_map() {
        let text = "totem {\n    version: 2\n    cluster_name: c\n    transport: knet\n\
            interface {\n        knet_transport: sctp\n linknumber: 1\n    }\n}\n\n\
            # a comment\nnodelist {\n    node {\n        ring0_addr: 10.0.0.1\n        name: a\n        nodeid: 1\n    }\n\
            node{\r\n ring0_addr: fd00::2\n nodeid:2\n quorum_votes: 3\n}\n}\n\
            quorum {\n    provider: corosync_votequorum\n    two_node: 1\n}\n\
            uidgid {\n uid: hacluster\n gid: 7\n}\n\
            logging {\n to_logfile: yes\n logger_subsys {\n debug: on\n subsys: QUORUM\n }\n}";
        let text_value = |text: &str| Value::String(text.to_owned());
        let expected = [
            ("totem.version", Value::U32(2)),
            ("totem.cluster_name", text_value("c")),
            ("totem.transport", text_value("knet")),
            ("totem.interface.1.knet_transport", text_value("sctp")),
            ("nodelist.node.0.ring0_addr", text_value("10.0.0.1")),
            ("nodelist.node.0.name", text_value("a")),
            ("nodelist.node.0.nodeid", Value::U32(1)),
            ("nodelist.node.1.ring0_addr", text_value("fd00::2")),
            ("nodelist.node.1.nodeid", Value::U32(2)),
            ("nodelist.node.1.quorum_votes", Value::U32(3)),
            ("quorum.provider", text_value("corosync_votequorum")),
            ("quorum.two_node", Value::U8(1)),
            ("uidgid.config.uid.90", Value::U8(1)),
            ("uidgid.config.gid.7", Value::U8(1)),
            ("logging.to_logfile", text_value("yes")),
            ("logging.logger_subsys.QUORUM.debug", text_value("on")),
            ("logging.logger_subsys.QUORUM.subsys", text_value("QUORUM")),
        ];
        assert_eq!(keys(text), expected.map(|(key, value)| (key.to_owned(), value)));
    }

    #[test]
    fn an_error_has_its_line() {
        for (text, said) in [
            ("totem {\n", "line 2: the section totem is not closed"),
            ("\n}", "line 2: no section is open"),
            ("{", "line 1: a section has no name"),
            ("totem { x", "line 1: only a line break"),
            ("totem {\n version 2\n}", "line 2: this is no section"),
            ("totem {\n} }", "line 2: a closing brace stands alone"),
            (": 1", "line 1: a key has no name"),
            (
                "quorum {\n two_node: yes\n}",
                "line 2: quorum.two_node is yes, not a number from 0 to 255",
            ),
            ("quorum {\n two_node: 256\n}", "line 2: quorum.two_node is 256"),
            ("system {\n qb_ipc_type: tcp\n}", "line 2: system.qb_ipc_type is tcp, not one of"),
            ("uidgid {\n uid: nobody-here\n}", "line 2: no user nobody-here on this machine"),
            ("uidgid {\n uid: 1\n a {\n}\n}", "line 3: this section has no sections"),
            ("uidgid {\n pid: 1\n}", "line 2: uidgid has uid and gid"),
            (
                "logging {\n logger_subsys {\n debug: on\n}\n}",
                "line 4: the section logger_subsys has no subsys",
            ),
            ("totem {\n a b: 1\n}", "line 2: totem.a b cannot be a key"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        let nodes = "node {\n nodeid: 1\n}\n".repeat(MAX_NODES as usize);
        assert!(parsed(format!("nodelist {{\n{nodes}}}\n")).is_ok());
        let crowd = parsed(format!("nodelist {{\n{nodes}node {{\n}}\n}}\n")).unwrap_err();
        assert!(crowd.to_string().contains("line 1154: more than 384 nodes"), "{crowd}");
        let long = format!("a: {}", "x".repeat(MAX_LINE));
        assert!(parsed(&long).unwrap_err().to_string().contains("line 1: the line is too long"));
        let deep = "abcdefgh {\n".repeat(100);
        assert!(parsed(&deep).unwrap_err().to_string().contains("more than 255 bytes"));
    }
}
