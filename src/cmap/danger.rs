//! Changes of the map that corosync takes and does not survive. They are refused before anything is sent. What they do, and from
//! which version on, stands in `proto/README.md`, "Do no harm".

use super::{Value, ValueType};
use crate::error::{Error, Result};

/// The milliseconds that corosync says "may not be less", of which it uses less all the same: nodes then lose the token all the
/// time.
const LEAST_TIMEOUT: u32 = 30;
const LEAST_HOLD: u32 = 14;
const TIMEOUTS: [(&str, u32); 7] = [
    ("totem.token", LEAST_TIMEOUT),
    ("totem.token_retransmit", LEAST_TIMEOUT),
    ("totem.hold", LEAST_HOLD),
    ("totem.join", LEAST_TIMEOUT),
    ("totem.consensus", LEAST_TIMEOUT),
    ("totem.merge", LEAST_TIMEOUT),
    ("totem.max_network_delay", LEAST_TIMEOUT),
];

/// Up to this many milliseconds the whole daemon sleeps when nodes come or go. Some larger numbers make it divide by zero.
const SEND_JOIN: &str = "totem.send_join";
const MOST_SEND_JOIN: u32 = 1000;

const CANCEL_WAIT_FOR_ALL: &str = "quorum.cancel_wait_for_all";

/// Sections whose last key must stay: to learn what is left of the section, corosync iterates over the key that it is deleting,
/// which deletes it again, and so on.
const KEPT_SECTIONS: [&str; 2] = ["logging.logger_subsys.", "nodelist.node."];

/// Refuses a value that corosync does not survive.
pub(super) fn check_set(key: &str, value: &Value) -> Result<()> {
    let must_be =
        |value_type: ValueType| (value.value_type() != value_type).then(|| format!("must have the type {value_type}"));
    let problem = match (key, value) {
        ("runtime.force_gather", _) => must_be(ValueType::STRING),
        (CANCEL_WAIT_FOR_ALL, _) => must_be(ValueType::UINT8),
        ("pload.start", _) => Some("ends corosync on all nodes".to_owned()),
        (SEND_JOIN, Value::U32(time)) if *time > MOST_SEND_JOIN => {
            Some(format!("must not be above {MOST_SEND_JOIN} ms"))
        }
        (_, Value::U32(time)) => {
            let least = TIMEOUTS.iter().find(|(timeout, least)| *timeout == key && time < least);
            least.map(|(_, least)| format!("must not be below {least} ms"))
        }
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(refused("value", key, &problem)))?;
    check_ring_number(key)
}

/// Refuses to change a number by a step that may lead to a value that [`check_set`] refuses.
pub(super) fn check_adjust(key: &str) -> Result<()> {
    if key == SEND_JOIN || TIMEOUTS.iter().any(|(timeout, _)| *timeout == key) {
        return Err(refused("key", key, "must be set as a whole"));
    }
    Ok(())
}

/// Refuses to delete what corosync does not survive the end of.
pub(super) fn check_delete(key: &str) -> Result<()> {
    if key == CANCEL_WAIT_FOR_ALL {
        return Err(refused("key", key, "must not be deleted"));
    }
    check_ring_number(key)
}

/// The section a key is in, if that must keep its last key.
pub(super) fn kept_section(key: &str) -> Option<&'static str> {
    KEPT_SECTIONS.into_iter().find(|section| key.starts_with(section))
}

/// Refuses to delete the last key of a section.
pub(super) fn last_of_section(key: &str) -> Error {
    refused("key", key, "must not be deleted while it is the last of its section")
}

/// Refuses addresses of rings beyond the two there are until corosync 2.4, which uses the number in the key unchecked. Later
/// versions do not let anybody change the list of nodes.
fn check_ring_number(key: &str) -> Result<()> {
    let ring = key
        .strip_prefix("nodelist.node.")
        .and_then(|rest| rest.split_once(".ring"))
        .and_then(|(_, rest)| rest.strip_suffix("_addr"));
    match ring {
        None | Some("0" | "1") => Ok(()),
        Some(_) => Err(refused("key", key, "is no ring of a corosync whose list of nodes can be changed")),
    }
}

fn refused(argument: &'static str, key: &str, problem: &str) -> Error {
    Error::invalid(argument, format!("{key} {problem}: corosync would crash or hang"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_that_are_not_there_are_refused() {
        for key in ["nodelist.node.0.ring2_addr", "nodelist.node.7.ring-1_addr", "nodelist.node.0.ring99999_addr"] {
            assert!(check_set(key, &"10.0.0.1".into()).is_err() && check_delete(key).is_err(), "{key}");
        }
        for key in [
            "nodelist.node.0.ring0_addr",
            "nodelist.node.31.ring1_addr",
            "nodelist.node.0.ring",
            "nodelist.node.0.name",
        ] {
            assert!(check_set(key, &"10.0.0.1".into()).is_ok() && check_delete(key).is_ok(), "{key}");
        }
    }

    #[test]
    fn values_that_can_be_used_are_taken() {
        for (key, value) in [
            ("totem.token", Value::U32(30)),
            ("totem.token", Value::U8(1)),
            ("totem.hold", Value::U32(14)),
            ("totem.send_join", Value::U32(80)),
            ("totem.window_size", Value::U32(1)),
            ("runtime.force_gather", Value::from("yes")),
            ("quorum.cancel_wait_for_all", Value::U8(1)),
            ("pload.size", Value::U32(1)),
        ] {
            check_set(key, &value).unwrap();
        }
        check_adjust("totem.config_version").unwrap();
    }
}
