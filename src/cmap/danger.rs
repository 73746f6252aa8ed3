//! Changes of the map that corosync accepts and that crash or hang it. Clients refuse them before
//! they send anything. `proto/README.md`, "Do no harm", has the effects and versions.

use super::{Value, ValueType};
use crate::error::{Error, Result};

/// The numbers that corosync uses without checking, with the least and the greatest safe value.
///
/// corosync logs that a timeout "may not be less" than 30 ms and uses it all the same: nodes then
/// keep losing the token. With the default of 4 retransmissions a token timeout of 126 ms gives 30
/// ms for the retransmission and 14 ms for hold; many retransmissions leave no time at all. A large
/// coefficient wraps around. The whole daemon sleeps for up to `send_join` when the membership
/// changes, and some larger values make it divide by zero.
const NUMBERS: [(&str, u32, u32); 10] = [
    ("totem.token", 126, u32::MAX),
    ("totem.token_retransmit", LEAST_TIMEOUT, u32::MAX),
    ("totem.hold", 14, u32::MAX),
    ("totem.join", LEAST_TIMEOUT, u32::MAX),
    ("totem.consensus", LEAST_TIMEOUT, u32::MAX),
    ("totem.merge", LEAST_TIMEOUT, u32::MAX),
    ("totem.max_network_delay", LEAST_TIMEOUT, u32::MAX),
    ("totem.send_join", 0, 1000),
    ("totem.token_coefficient", 0, 100_000),
    ("totem.token_retransmits_before_loss_const", 1, 30),
];
const LEAST_TIMEOUT: u32 = 30;

const CANCEL_WAIT_FOR_ALL: &str = "quorum.cancel_wait_for_all";

/// The sections whose last key must not be deleted: corosync then iterates over the section from
/// within the deletion, reaches the key that it is deleting, deletes it again, and recurses for
/// ever.
const KEPT_SECTIONS: [&str; 2] = ["logging.logger_subsys.", "nodelist.node."];

/// Refuses a value that crashes or hangs corosync.
pub(super) fn check_set(key: &str, value: &Value) -> Result<()> {
    let must_be = |value_type: ValueType| {
        (value.value_type() != value_type).then(|| format!("must have the type {value_type}"))
    };
    let problem = match (key, value) {
        ("runtime.force_gather", _) => must_be(ValueType::STRING),
        (CANCEL_WAIT_FOR_ALL, _) => must_be(ValueType::UINT8),
        ("pload.start", _) => Some("ends corosync on all nodes".to_owned()),
        (_, Value::U32(number)) => match NUMBERS.into_iter().find(|(name, ..)| *name == key) {
            Some((_, least, _)) if *number < least => Some(format!("must not be below {least}")),
            Some((.., most)) if *number > most => Some(format!("must not be above {most}")),
            _ => None,
        },
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(refused("value", key, &problem)))?;
    check_ring_number(key)
}

/// Refuses to adjust a number that [`check_set`] limits: the sum is not known here.
pub(super) fn check_adjust(key: &str) -> Result<()> {
    if NUMBERS.iter().any(|(name, ..)| *name == key) {
        return Err(refused("key", key, "must be set, not adjusted"));
    }
    Ok(())
}

/// Refuses to delete a key whose deletion crashes corosync.
pub(super) fn check_delete(key: &str) -> Result<()> {
    if key == CANCEL_WAIT_FOR_ALL {
        return Err(refused("key", key, "must not be deleted"));
    }
    check_ring_number(key)
}

/// Returns the section of a key if the section's last key must not be deleted.
pub(super) fn kept_section(key: &str) -> Option<&'static str> {
    KEPT_SECTIONS.into_iter().find(|section| key.starts_with(section))
}

/// The error for deleting any key of such a section from a daemon whose libqb is older than 0.14.3:
/// there the iteration reaches the key even if the section has others.
pub(super) fn error_in_kept_section(key: &str) -> Error {
    refused("key", key, "must not be deleted because the daemon's libqb is older than 0.14.3")
}

/// The error for deleting the last key of such a section.
pub(super) fn error_last_of_section(key: &str) -> Error {
    refused("key", key, "must not be deleted while it is the last of its section")
}

/// Refuses the addresses of rings beyond the first two. corosync up to 2.4 has two rings and uses
/// the number in the key without checking. Later versions make the nodelist read-only.
fn check_ring_number(key: &str) -> Result<()> {
    let ring = key
        .strip_prefix("nodelist.node.")
        .and_then(|rest| rest.split_once(".ring"))
        .and_then(|(_, rest)| rest.strip_suffix("_addr"));
    match ring {
        None | Some("0" | "1") => Ok(()),
        Some(_) => Err(refused(
            "key",
            key,
            "is beyond the two rings of a corosync with a writable nodelist",
        )),
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
        for key in [
            "nodelist.node.0.ring2_addr",
            "nodelist.node.7.ring-1_addr",
            "nodelist.node.0.ring99999_addr",
        ] {
            assert!(
                check_set(key, &"10.0.0.1".into()).is_err() && check_delete(key).is_err(),
                "{key}"
            );
        }
        for key in [
            "nodelist.node.0.ring0_addr",
            "nodelist.node.31.ring1_addr",
            "nodelist.node.0.ring",
            "nodelist.node.0.name",
        ] {
            assert!(
                check_set(key, &"10.0.0.1".into()).is_ok() && check_delete(key).is_ok(),
                "{key}"
            );
        }
    }

    #[test]
    fn numbers_that_leave_corosync_no_time_are_refused() {
        for (key, number) in [
            ("totem.token", 125),
            ("totem.send_join", 1001),
            ("totem.token_coefficient", u32::MAX - 998),
            ("totem.token_retransmits_before_loss_const", 100_000),
            ("totem.token_retransmits_before_loss_const", 0),
        ] {
            assert!(
                check_set(key, &Value::U32(number)).is_err() && check_adjust(key).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn values_that_can_be_used_are_taken() {
        for (key, value) in [
            ("totem.token", Value::U32(126)),
            ("totem.token_coefficient", Value::U32(650)),
            ("totem.token_retransmits_before_loss_const", Value::U32(4)),
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
