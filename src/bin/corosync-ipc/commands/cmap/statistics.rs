//! The map of statistics without the keys that corosync may not survive being asked for.

use super::MapName;

/// What the keys of clients' connections begin with. corosync adds and deletes them as clients come
/// and go, and an iterator that stands on one of them may go on from freed memory: `proto/README.md`
/// has the conditions.
pub(crate) const CONNECTIONS: &str = "stats.ipcs.service";

/// The section that they are in, and what it has besides.
const SECTION: &str = "stats.ipcs";
const COUNTERS: &str = "stats.ipcs.global.";

/// What all keys begin with. A lower-case letter follows.
const ALL: &str = "stats.";

/// The prefixes to iterate over in place of `prefix`, and whether they leave connections out: those
/// are met only where the prefix names their section.
pub(super) fn named(map: MapName, prefix: &str) -> (Vec<String>, bool) {
    if prefix.starts_with(SECTION) {
        return (vec![prefix.to_owned()], false);
    }
    let leaves_out = map == MapName::Stats && CONNECTIONS.starts_with(prefix);
    (without_connections(map, prefix), leaves_out)
}

/// As [`named`], without connections whatever the prefix is.
pub(crate) fn without_connections(map: MapName, prefix: &str) -> Vec<String> {
    if map == MapName::Icmap {
        return vec![prefix.to_owned()];
    }
    if prefix.starts_with(CONNECTIONS) {
        return Vec::new();
    }
    if !CONNECTIONS.starts_with(prefix) {
        return vec![prefix.to_owned()];
    }
    // Whatever sections there are. In the daemon's order, which is that of the bytes.
    let sections = ('a'..='z').map(|letter| match letter {
        'i' => COUNTERS.to_owned(),
        letter => format!("{ALL}{letter}"),
    });
    sections.filter(|section| section.starts_with(prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_reaches_a_connection() {
        for end in 0..=CONNECTIONS.len() {
            let prefix = &CONNECTIONS[..end];
            let found = without_connections(MapName::Stats, prefix);
            assert!(found.iter().all(|one| one.starts_with(prefix)), "{prefix}: {found:?}");
            assert!(!found.iter().any(|one| CONNECTIONS.starts_with(one.as_str())), "{found:?}");
            assert_eq!(found.contains(&COUNTERS.to_owned()), COUNTERS.starts_with(prefix));
            let sections = ["stats.srp", "stats.knet.", "stats.pg.msg", "stats.schedmiss.0"];
            for section in sections {
                let is_found = found.iter().any(|one| section.starts_with(one.as_str()));
                assert_eq!(is_found, section.starts_with(prefix), "{prefix}: {section}");
            }
        }
        for prefix in ["stats.ipcs.service2.", "stats.ipcs.service"] {
            assert_eq!(without_connections(MapName::Stats, prefix), [""; 0]);
        }
        for prefix in ["stats.ipcs.g", "stats.ipcs.global.active", "stats.srp", "other"] {
            assert_eq!(without_connections(MapName::Stats, prefix), [prefix]);
        }
        assert_eq!(without_connections(MapName::Icmap, ""), [""]);
    }

    #[test]
    fn connections_are_met_where_their_section_is_named() {
        for prefix in ["stats.ipcs", "stats.ipcs.", "stats.ipcs.service2."] {
            assert_eq!(named(MapName::Stats, prefix), (vec![prefix.to_owned()], false));
        }
        for prefix in ["", "stats.", "stats.i"] {
            assert!(named(MapName::Stats, prefix).1, "{prefix}");
            assert_eq!(named(MapName::Icmap, prefix), (vec![prefix.to_owned()], false));
        }
        assert!(!named(MapName::Stats, "stats.srp.").1);
    }
}
