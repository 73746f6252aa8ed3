//! What the daemon can do, found out without harm.
//!
//! A corosync before 2.99 looks a request's handler up with the id unchecked, and dies of ids it
//! does not have. So a request that came later than corosync 1.99 is sent only to a daemon that was
//! shown to know it, by keys of its map, which are safe to ask for everywhere: until 2.4 there is a
//! count of connections, which moved elsewhere in 2.99; and every version has counters for each
//! message that nodes send each other, so that a service's newer messages can be told by their
//! counters' keys.

use crate::error::{CsError, Error, Result};

/// Something that not every corosync has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    name: &'static str,
    since: &'static str,
    /// Keys, and whether they must be there.
    evidence: &'static [(&'static str, bool)],
}

/// There in 1.99 to 2.4, and not in 2.99 and later, which refuse ids they do not know.
const UNTIL_2_4: (&str, bool) = ("runtime.connections.active", false);

pub(crate) const STATS_MAP: Feature =
    Feature { name: "the stats map", since: "2.99", evidence: &[UNTIL_2_4] };
/// Before 3.0.4 the daemon dies when what was tracked goes; 3.1 is the first to be told by its map.
pub(crate) const STATS_COMING_AND_GOING: Feature = Feature {
    name: "tracking what comes and goes in the stats map",
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
    // Up to 1.99.7, which alone have evs, this message is another one, and so is the request.
    evidence: &[("runtime.services.cfg.3.rx", true), ("runtime.services.evs.0.rx", false)],
};
pub(crate) const REOPEN_LOG_FILES: Feature =
    Feature { name: "reopening log files", since: "2.99.4", evidence: &[UNTIL_2_4] };
pub(crate) const NODE_STATUS: Feature =
    Feature { name: "the status of nodes", since: "3.1.1", evidence: &[UNTIL_2_4] };
pub(crate) const SHUTDOWN_TRACKING: Feature =
    Feature { name: "tracking shutdown", since: "3.1.1", evidence: &[UNTIL_2_4] };

impl Feature {
    /// Makes sure that the daemon knows the feature's requests, or at least survives them.
    /// `has_key` says whether a key is in its map.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; those of `has_key`.
    pub(crate) fn require(&self, has_key: impl Fn(&str) -> Result<bool>) -> Result<()> {
        for (key, must_exist) in self.evidence {
            if has_key(key)? != *must_exist {
                return Err(self.unsupported());
            }
        }
        Ok(())
    }

    /// Puts right what a daemon of 2.99 or later answers to a request that it does not know.
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
