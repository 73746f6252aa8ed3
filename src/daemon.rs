//! What the daemon can do, found out without harm.
//!
//! A corosync before 2.99 looks a request's handler up with the id unchecked, and dies of ids it does not have. So a request that came
//! later than corosync 1.99 is sent only to a daemon that was shown to know it, by keys of its map, which are safe to ask for
//! everywhere: until 2.4 there is a count of connections, which moved elsewhere in 2.99; and every version has counters for each
//! message that nodes send each other, so that a service's newer messages can be told by their counters' keys.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::client::{Client, Patience, Service};
use crate::cmap::{self, Map};
use crate::endpoint::Endpoint;
use crate::error::{CsError, Error, Result};
use crate::wire::Request;

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

pub(crate) const STATS_MAP: Feature = Feature { name: "the stats map", since: "2.99", evidence: &[UNTIL_2_4] };
/// Before 3.0.4 the daemon dies when what was tracked goes; 3.1 is the first to be told by its map.
pub(crate) const STATS_COMING_AND_GOING: Feature = Feature {
    name: "tracking what comes and goes in the stats map",
    since: "3.1",
    evidence: &[("runtime.services.cfg.4.rx", true)],
};
pub(crate) const QUORUM_MODEL_V1: Feature = Feature { name: "quorum model v1", since: "3.1", evidence: &[UNTIL_2_4] };
pub(crate) const CPG_FRAGMENTS: Feature = Feature {
    name: "a message larger than the largest atomic one",
    since: "2.3.5",
    evidence: &[("runtime.services.cpg.6.rx", true)],
};
pub(crate) const QDEVICE: Feature =
    Feature { name: "a quorum device", since: "2.1", evidence: &[("runtime.services.votequorum.2.rx", true)] };
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
pub(crate) const NODE_STATUS: Feature = Feature { name: "the status of nodes", since: "3.1.1", evidence: &[UNTIL_2_4] };
pub(crate) const SHUTDOWN_TRACKING: Feature =
    Feature { name: "tracking shutdown", since: "3.1.1", evidence: &[UNTIL_2_4] };

impl Feature {
    /// Makes sure that the daemon knows the feature's requests, or at least survives them.
    ///
    /// # Errors
    /// [`Error::Unsupported`]; whatever asking cmap fails with.
    pub(crate) fn require(&self, cmap: &cmap::Client, patience: &Patience) -> Result<()> {
        for (key, must_exist) in self.evidence {
            if cmap.get_within(key, patience)?.is_some() != *must_exist {
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

/// Asks the cmap of a client's daemon, once for each feature.
#[derive(Debug)]
pub(crate) struct Probe {
    endpoint: Endpoint,
    there: Mutex<Vec<&'static Feature>>,
}

/// In the stats map of a daemon whose transport is knet, and of no other.
const KNET_HANDLE: &str = "stats.knet.handle.tx_uncompressed_packets";

impl Probe {
    /// Asks at this endpoint.
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone().own_service_name(), there: Mutex::default() }
    }

    /// [`Feature::require`] over a connection of its own, unless the answer is known. The daemon behind a client never changes.
    pub(crate) fn require(&self, feature: &'static Feature, patience: &Patience) -> Result<()> {
        let there = || self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if !there().contains(&feature) {
            feature.require(&self.cmap(patience)?, patience)?;
            there().push(feature);
        }
        Ok(())
    }

    /// Whether the daemon has a status for each address a node can have: before 2.99, and with knet. With udp and udpu later ones have
    /// one.
    ///
    /// The stats map tells, since the transport never changes while a daemon runs. `totem.transport` does not: a reload of a file
    /// without that line deletes it.
    pub(crate) fn has_status_of_every_ring(&self, patience: &Patience) -> Result<bool> {
        match cmap::Client::connect_map_within(&self.endpoint, Map::Stats, patience) {
            Ok(stats) => Ok(stats.get_within(KNET_HANDLE, patience)?.is_some()),
            Err(Error::Unsupported { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A client's call that needs a feature, with one deadline for finding out and for the call.
    pub(crate) fn call<S: Service, R: Request>(
        &self,
        client: &Client<S>,
        feature: &'static Feature,
        call: &'static str,
        request: &R,
    ) -> Result<R::Reply> {
        let patience = client.patience(call);
        self.require(feature, &patience)?;
        client.call_within(&patience, call, request)
    }

    /// A connection to the daemon's map.
    pub(crate) fn cmap(&self, patience: &Patience) -> Result<cmap::Client> {
        cmap::Client::connect_within(&self.endpoint, patience)
    }
}
