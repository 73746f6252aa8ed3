//! Asks the map of a client's daemon which features the daemon has.

use std::sync::{Mutex, PoisonError};

use crate::client::{Core, Service};
use crate::cmap::{self, Map};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::libqb::client::Call;
use crate::wire::Request;

/// Asks the cmap of a client's daemon, at most once for each feature it has.
#[derive(Debug)]
pub(crate) struct Probe {
    endpoint: Endpoint,
    /// The features that the daemon is known to have.
    known: Mutex<Vec<&'static Feature>>,
}

/// A key of the stats map that only a daemon with knet has.
const KNET_HANDLE: &str = "stats.knet.handle.tx_uncompressed_packets";

impl Probe {
    /// Creates a probe of the daemon at this endpoint. It does not connect yet.
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone().own_service_name(), known: Mutex::default() }
    }

    /// [`Feature::require`] over a new connection, unless the feature is known already. The daemon
    /// behind a client never changes.
    pub(crate) fn require(&self, feature: &'static Feature, call: Call) -> Result<()> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known().contains(&feature) {
            self.cmap(call)?.require(feature, call)?;
            known().push(feature);
        }
        Ok(())
    }

    /// Returns true if the daemon reports a status for each address that a node can have: before
    /// 2.99 always, later only with knet. With udp and udpu later versions report one status
    /// per node.
    ///
    /// The stats map is the evidence, since the transport never changes while a daemon runs. The
    /// key `totem.transport` is none: reloading a file without that line deletes it.
    pub(crate) fn has_status_of_every_ring(&self, call: Call) -> Result<bool> {
        match cmap::Client::connect_within(&self.endpoint, Map::Stats, call) {
            Ok(stats) => Ok(stats.get_within(KNET_HANDLE, call)?.is_some()),
            Err(Error::Unsupported { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Sends a client's request that needs a feature. One deadline covers the probe and the
    /// request.
    pub(crate) fn request<S: Service, R: Request>(
        &self,
        client: &Core<S>,
        feature: &'static Feature,
        name: &'static str,
        request: &R,
    ) -> Result<R::Reply> {
        let call = client.call(name);
        self.require(feature, call)?;
        client.request(call, request)
    }

    /// Connects to the daemon's cmap.
    pub(crate) fn cmap(&self, call: Call) -> Result<cmap::Client> {
        cmap::Client::connect_within(&self.endpoint, Map::Icmap, call)
    }
}
