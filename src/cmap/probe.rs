//! What a client's daemon has, asked of its map.

use std::sync::{Mutex, PoisonError};

use crate::client::{Core, Service};
use crate::cmap::{self, Map};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::features::Feature;
use crate::libqb::client::Call;
use crate::wire::Request;

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

    /// [`Feature::require`] over a connection of its own, unless the answer is known. The daemon
    /// behind a client never changes.
    pub(crate) fn require(&self, feature: &'static Feature, call: Call) -> Result<()> {
        let there = || self.there.lock().unwrap_or_else(PoisonError::into_inner);
        if !there().contains(&feature) {
            self.cmap(call)?.require(feature, call)?;
            there().push(feature);
        }
        Ok(())
    }

    /// Whether the daemon has a status for each address a node can have: before 2.99, and with
    /// knet. With udp and udpu later ones have one.
    ///
    /// The stats map tells, since the transport never changes while a daemon runs.
    /// `totem.transport` does not: a reload of a file without that line deletes it.
    pub(crate) fn has_status_of_every_ring(&self, call: Call) -> Result<bool> {
        match cmap::Client::connect_within(&self.endpoint, Map::Stats, call) {
            Ok(stats) => Ok(stats.get_within(KNET_HANDLE, call)?.is_some()),
            Err(Error::Unsupported { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// A client's request that needs a feature, with one deadline for finding out and for the
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

    /// A connection to the daemon's map.
    pub(crate) fn cmap(&self, call: Call) -> Result<cmap::Client> {
        cmap::Client::connect_within(&self.endpoint, Map::Icmap, call)
    }
}
