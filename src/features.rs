//! Finds out which requests the daemon knows, without doing it harm.
//!
//! A corosync before 2.99 looks up a request's handler by the unchecked id, and an unknown id
//! crashes it. So a request that is newer than corosync 1.99 is sent only to a daemon that is known
//! to have it. Keys of the daemon's map are the evidence; asking for them is safe in every version.
//! Until 2.4 the map counts connections under a key that 2.99 moved elsewhere. Every version has a
//! counter for each message that nodes send each other, so the keys of these counters identify
//! newer versions of a service.

use std::fmt;

use crate::error::{CsError, Error, Result};

/// A feature that not every corosync has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    name: &'static str,
    since: &'static str,
    /// Keys of the map, and true if the key must exist, false if it must not.
    evidence: &'static [(&'static str, bool)],
}

/// A key of 1.99 to 2.4. Versions without it (2.99 and later) refuse unknown ids without harm.
const UNTIL_2_4: (&str, bool) = ("runtime.connections.active", false);

pub(crate) const STATS_MAP: Feature =
    Feature { name: "the stats map", since: "2.99", evidence: &[UNTIL_2_4] };
/// Before 3.0.4 the daemon crashes when a tracked key is deleted. The first later version that its
/// map identifies is 3.1.
pub(crate) const STATS_TRACKING: Feature = Feature {
    name: "tracking added and deleted keys of the stats map",
    since: "3.1",
    evidence: &[("runtime.services.cfg.4.rx", true)],
};
pub(crate) const QUORUM_MODEL_V1: Feature =
    Feature { name: "quorum model v1", since: "3.1", evidence: &[UNTIL_2_4] };
pub(crate) const CPG_FRAGMENTS: Feature = Feature {
    name: "a message larger than the largest atomic one",
    since: "2.3.5",
    evidence: &[("runtime.services.cpg.6.rx", true)],
};
pub(crate) const QDEVICE: Feature = Feature {
    name: "a quorum device",
    since: "2.1",
    evidence: &[("runtime.services.votequorum.2.rx", true)],
};
pub(crate) const QDEVICE_EXTRA_INFO: Feature = Feature {
    name: "quorum device extra info",
    since: "3.2",
    evidence: &[UNTIL_2_4, ("runtime.services.votequorum.4.rx", true)],
};

pub(crate) const RELOAD_CONFIG: Feature = Feature {
    name: "reloading the configuration",
    since: "2.3.2",
    // Up to 1.99.7 the counter and the request id belong to another message. Only these have evs.
    evidence: &[("runtime.services.cfg.3.rx", true), (UNTIL_1_99, false)],
};
pub(crate) const REOPEN_LOG_FILES: Feature =
    Feature { name: "reopening log files", since: "2.99.4", evidence: &[UNTIL_2_4] };
pub(crate) const NODE_STATUS: Feature =
    Feature { name: "the status of nodes", since: "3.1.1", evidence: &[UNTIL_2_4] };
pub(crate) const SHUTDOWN_TRACKING: Feature =
    Feature { name: "tracking shutdown", since: "3.1.1", evidence: &[UNTIL_2_4] };

/// A key of corosync up to 1.99.7, which has evs.
const UNTIL_1_99: &str = "runtime.services.evs.0.rx";

/// What the keys of the map say of the daemon's version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Generation {
    /// The oldest version that it can be, such as `3.1`.
    pub since: String,
    /// The first version that it cannot be any more. `None` for the newest that is known.
    pub before: Option<String>,
}

/// Versions that a key tells from the one before, from 2.0 and from 2.99 on.
const SINCE_2_0: [&Feature; 3] = [&QDEVICE, &RELOAD_CONFIG, &CPG_FRAGMENTS];
const SINCE_2_99: [&Feature; 2] = [&STATS_TRACKING, &QDEVICE_EXTRA_INFO];

impl Generation {
    /// Infers it. `has_key` returns true if the daemon's map has a key.
    ///
    /// # Errors
    /// As `has_key`.
    pub(crate) fn of(has_key: impl Fn(&str) -> Result<bool>) -> Result<Self> {
        let generation = |since: &str, before: Option<&str>| Self {
            since: since.to_owned(),
            before: before.map(str::to_owned),
        };
        if has_key(UNTIL_1_99)? {
            return Ok(generation("1.99", Some("2.0")));
        }
        let (first, steps, end) = if has_key(UNTIL_2_4.0)? {
            ("2.0", &SINCE_2_0[..], Some("2.99"))
        } else {
            ("2.99", &SINCE_2_99[..], None)
        };
        let mut since = first;
        for step in steps {
            match step.require(&has_key) {
                Ok(()) => since = step.since,
                Err(Error::Unsupported { .. }) => return Ok(generation(since, Some(step.since))),
                Err(error) => return Err(error),
            }
        }
        Ok(generation(since, end))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.before {
            Some(before) => f.pad(&format!("{} or later, before {before}", self.since)),
            None => f.pad(&format!("{} or later", self.since)),
        }
    }
}

impl Feature {
    /// Checks that the daemon knows the feature's requests, or at least refuses them without harm.
    /// `has_key` returns true if the daemon's map has a key.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the daemon does not; as `has_key`.
    pub(crate) fn require(&self, has_key: impl Fn(&str) -> Result<bool>) -> Result<()> {
        for (key, must_exist) in self.evidence {
            if has_key(key)? != *must_exist {
                return Err(self.unsupported());
            }
        }
        Ok(())
    }

    /// Turns the error with which corosync 2.99 and later refuse an unknown request into
    /// [`Error::Unsupported`].
    pub(crate) fn or_unsupported<T>(&self, reply: Result<T>) -> Result<T> {
        match reply {
            Err(Error::Cs { error: CsError::InvalidParam, .. }) => Err(self.unsupported()),
            reply => reply,
        }
    }

    pub(crate) fn unsupported(&self) -> Error {
        Error::Unsupported { feature: self.name, since: self.since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_map_tell_the_version_as_far_as_they_can() {
        let generation =
            |keys: &[&str]| Generation::of(|key| Ok(keys.contains(&key))).unwrap().to_string();
        let (old, cfg, qdevice) = (
            "runtime.connections.active",
            "runtime.services.cfg.3.rx",
            "runtime.services.votequorum.2.rx",
        );
        let fragments = "runtime.services.cpg.6.rx";
        for (keys, said) in [
            (&[old, cfg, "runtime.services.evs.0.rx"][..], "1.99 or later, before 2.0"),
            (&[old], "2.0 or later, before 2.1"),
            (&[old, qdevice], "2.1 or later, before 2.3.2"),
            (&[old, qdevice, cfg], "2.3.2 or later, before 2.3.5"),
            (&[old, qdevice, cfg, fragments], "2.3.5 or later, before 2.99"),
            (&[qdevice, cfg, fragments], "2.99 or later, before 3.1"),
            (&["runtime.services.cfg.4.rx"], "3.1 or later, before 3.2"),
            (&["runtime.services.cfg.4.rx", "runtime.services.votequorum.4.rx"], "3.2 or later"),
        ] {
            assert_eq!(generation(keys), said, "{keys:?}");
        }
    }
}
