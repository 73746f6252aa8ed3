//! How values of a snapshot look when they are serialized.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Fault;

/// A fault as the two members `error` and `cs_error`, which are null without one. Flattened.
pub(super) mod fault_or_null {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Members {
        error: Option<String>,
        cs_error: Option<String>,
    }

    pub(crate) fn serialize<S: Serializer>(
        fault: &Option<Fault>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let error = fault.as_ref().map(|fault| fault.error.clone());
        let cs_error = fault.as_ref().and_then(|fault| fault.cs_error.clone());
        Members { error, cs_error }.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Fault>, D::Error> {
        let Members { error, cs_error } = Members::deserialize(from)?;
        Ok(error.map(|error| Fault { error, cs_error, source: None }))
    }
}

/// Addresses by link: `addresses` has the addresses, `links` their links. Flattened.
pub(super) mod addresses {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Members {
        addresses: Vec<String>,
        links: Vec<u8>,
    }

    pub(crate) fn serialize<S: Serializer>(
        addresses: &BTreeMap<u8, String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let links = addresses.keys().copied().collect();
        Members { addresses: addresses.values().cloned().collect(), links }.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<u8, String>, D::Error> {
        let Members { addresses, links } = Members::deserialize(from)?;
        Ok(links.into_iter().zip(addresses).collect())
    }
}

/// Flags as an array of their names in lower case. Unknown bits are left out.
pub(super) mod flags {
    use super::*;
    use crate::votequorum::InfoFlags;

    pub(crate) fn serialize<S: Serializer>(
        flags: &Option<InfoFlags>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        flags
            .map(|flags| flags.names().map(str::to_ascii_lowercase).collect::<Vec<_>>())
            .serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<InfoFlags>, D::Error> {
        let names = Option::<Vec<String>>::deserialize(from)?;
        let flag = |bit| InfoFlags::from_bits(1_u32 << bit);
        let is_named = |flag: &InfoFlags, names: &[String]| {
            flag.names().any(|known| names.iter().any(|name| name.eq_ignore_ascii_case(known)))
        };
        Ok(names.map(|names| {
            let flags = (0..u32::BITS).map(flag).filter(|flag| is_named(flag, &names));
            flags.fold(InfoFlags::empty(), |all, flag| all | flag)
        }))
    }
}

/// A state as its name, or as `unknown (NUMBER)`.
pub(super) mod state {
    use super::*;
    use crate::votequorum::NodeState;

    pub(crate) fn serialize<S: Serializer>(
        state: &Option<NodeState>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        state.map(|state| state.to_string()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<NodeState>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        let parse = |text: String| {
            let named = [NodeState::MEMBER, NodeState::DEAD, NodeState::LEAVING];
            let named = named.into_iter().find(|state| state.to_string() == text);
            let number = text.strip_prefix("unknown (").and_then(|rest| rest.strip_suffix(')'));
            named.or_else(|| number?.parse().ok().map(NodeState))
        };
        Ok(text.and_then(parse))
    }
}

/// A time as seconds since 1970, in UTC.
pub(super) mod seconds {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        since.map(|since| since.as_secs()).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        let since = Option::<u64>::deserialize(from)?.map(Duration::from_secs);
        Ok(since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)))
    }
}
