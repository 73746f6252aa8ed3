//! The services of a daemon, and whether they answer.

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use super::part::VOTEQUORUM;
use super::{Fault, Peer};
use crate::cfg;
use crate::cmap;
use crate::cpg;
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::evs;
use crate::libqb::Transport;
use crate::libqb::client::{Call, within};
use crate::quorum;
use crate::votequorum;

/// The quorum provider that includes votequorum.
const VOTEQUORUM_PROVIDER: &str = "corosync_votequorum";

/// The service that corosync has up to 1.99.7.
const EVS: &str = "evs";

/// A service, and whether it answers.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Service {
    /// Its name here: cmap, cpg, cfg, quorum, votequorum or evs.
    pub service: Cow<'static, str>,
    /// Whether it answered a request. evs, which accepts none while the partition is not quorate,
    /// only has to take the connection.
    pub reachable: bool,
    /// Whether it should answer: votequorum is configured only as the quorum provider, and evs
    /// exists only in corosync up to 1.99.7. `None` where cmap, which would tell, failed.
    pub configured: Option<bool>,
    /// How messages travel. This and the next two are `None` where the service does not answer.
    pub transport: Option<Transport>,
    /// The process that answered. `None` also in a pid namespace that is not visible here.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Why it does not answer. `None` for evs where nothing listens.
    #[cfg_attr(feature = "serde", serde(flatten, with = "super::json::fault_or_null"))]
    pub error: Option<Fault>,
}

impl Service {
    fn new(service: &'static str, result: Result<Peer>) -> Self {
        let is_obsolete = service == EVS && matches!(result, Err(Error::NoSocket { .. }));
        let peer = result.as_ref().ok().copied();
        Self {
            service: service.into(),
            reachable: peer.is_some(),
            configured: Some(!is_obsolete),
            transport: peer.map(|peer| peer.transport),
            pid: peer.and_then(|peer| peer.pid),
            uid: peer.map(|peer| peer.uid),
            error: result.err().filter(|_| !is_obsolete).map(Fault::from),
        }
    }

    /// Takes note of whether votequorum is configured.
    pub(super) fn know(&mut self, has_votequorum: Option<bool>) {
        if self.service == VOTEQUORUM && !self.reachable {
            let source = self.error.as_ref().and_then(|fault| fault.source.as_deref());
            // It would be there if it did more than not exist.
            let is_missing = matches!(source, Some(Error::NoSocket { .. }));
            self.configured = if is_missing { has_votequorum } else { Some(true) };
        }
    }

    /// Why it does not answer although it should.
    pub fn fault(&self) -> Option<&Fault> {
        self.error.as_ref().filter(|_| self.configured != Some(false))
    }
}

/// Connects to all services of a daemon at once, and sees which answer.
///
/// What [`Snapshot::services`](super::Snapshot::services) has, and whether votequorum is configured,
/// or why cmap does not tell. Services that do not answer are no error: see [`Service::fault`].
pub fn services(endpoint: &Endpoint) -> (Vec<Service>, Result<bool>) {
    let deadline = Call::request(endpoint, "services").deadline;
    let (mut services, has_votequorum) = thread::scope(|scope| {
        let has_votequorum = ask(scope, deadline, || has_votequorum(endpoint));
        (probe(endpoint, deadline), join(has_votequorum))
    });
    for service in &mut services {
        service.know(has_votequorum.as_ref().ok().copied());
    }
    (services, has_votequorum)
}

/// The smallest question that shows that a service answers.
type Probe = fn(&Endpoint) -> Result<Peer>;

/// Connects to all services at once.
pub(super) fn probe(endpoint: &Endpoint, deadline: Instant) -> Vec<Service> {
    let probes: [(&'static str, Probe); 6] = [
        ("cmap", |endpoint| {
            let client = cmap::Client::connect_to(endpoint)?;
            client.get("totem.version")?;
            Ok(Peer::of(&client))
        }),
        ("cpg", |endpoint| {
            let client = cpg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(Peer::of(&client))
        }),
        ("cfg", |endpoint| {
            let client = cfg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(Peer::of(&client))
        }),
        ("quorum", |endpoint| {
            let client = quorum::Client::connect_to(endpoint)?;
            client.is_quorate()?;
            Ok(Peer::of(&client))
        }),
        (VOTEQUORUM, |endpoint| {
            let client = votequorum::Client::connect_to(endpoint)?;
            client.local_info()?;
            Ok(Peer::of(&client))
        }),
        (EVS, |endpoint| Ok(Peer::of(&evs::Client::connect_to(endpoint)?))),
    ];
    thread::scope(|scope| {
        let asked =
            probes.map(|(name, probe)| (name, ask(scope, deadline, move || probe(endpoint))));
        asked.into_iter().map(|(name, asked)| Service::new(name, join(asked))).collect()
    })
}

/// Whether this quorum provider is votequorum.
pub(super) fn is_votequorum(provider: Option<&str>) -> bool {
    provider == Some(VOTEQUORUM_PROVIDER)
}

/// Whether votequorum is configured: `quorum.provider`.
fn has_votequorum(endpoint: &Endpoint) -> Result<bool> {
    let provider = cmap::Client::connect_to(endpoint)?.get_as::<String>("quorum.provider")?;
    Ok(is_votequorum(provider.as_deref()))
}

/// Connects to votequorum; `None` where it is not the configured provider.
///
/// # Errors
/// As [`votequorum::Client::connect`]; that of a missing socket where cmap does not tell whether it
/// should exist.
pub fn connect_votequorum(endpoint: &Endpoint) -> Result<Option<votequorum::Client>> {
    match votequorum::Client::connect_to(endpoint) {
        Err(error @ Error::NoSocket { .. }) => match has_votequorum(endpoint) {
            Ok(false) => Ok(None),
            // It should exist, or it is unknown whether it should.
            _ => Err(error),
        },
        client => client.map(Some),
    }
}

/// Asks a question on a thread of its own, until the deadline, so that several questions take one
/// timeout.
pub(super) fn ask<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    deadline: Instant,
    question: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    scope.spawn(move || within(deadline, question))
}

/// Waits for the answer.
pub(super) fn join<T>(asked: ScopedJoinHandle<'_, T>) -> T {
    asked.join().unwrap_or_else(|panic| resume_unwind(panic))
}
