//! The services of a daemon, and whether they answer.

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

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
    /// exists only in corosync up to 1.99.7. Where not, it is not asked, since any user can listen
    /// in its place. `None` where cmap, which would tell, failed.
    pub configured: Option<bool>,
    /// How messages travel. This and the next two are `None` where the service does not answer.
    pub transport: Option<Transport>,
    /// The process that answered. `None` also in a pid namespace that is not visible here.
    pub pid: Option<u32>,
    /// Its user.
    pub uid: Option<u32>,
    /// Why it does not answer. `None` where it was not asked, and for evs where nothing listens.
    #[cfg_attr(feature = "serde", serde(flatten, with = "super::json::fault_or_null"))]
    pub error: Option<Fault>,
}

impl Service {
    fn new(service: &'static str, result: Result<Peer>) -> Self {
        let is_obsolete = service == EVS && matches!(result, Err(Error::NoSocket { .. }));
        let peer = result.as_ref().ok().copied();
        Self {
            transport: peer.map(|peer| peer.transport),
            pid: peer.and_then(|peer| peer.pid),
            uid: peer.map(|peer| peer.uid),
            error: result.err().filter(|_| !is_obsolete).map(Fault::from),
            reachable: peer.is_some(),
            ..Self::unasked(service, Some(!is_obsolete))
        }
    }

    fn unasked(service: &'static str, configured: Option<bool>) -> Self {
        Self {
            service: service.into(),
            reachable: false,
            configured,
            transport: None,
            pid: None,
            uid: None,
            error: None,
        }
    }

    /// votequorum that was asked before it was known whether it is configured.
    fn know(&mut self, has_votequorum: Option<bool>) {
        let source = self.error.as_ref().and_then(|fault| fault.source.as_deref());
        let is_missing = matches!(source, Some(Error::NoSocket { .. }));
        match has_votequorum {
            Some(false) => *self = Self::unasked(VOTEQUORUM, Some(false)),
            // It would be there if it did more than not exist.
            None if is_missing => self.configured = None,
            _ => {}
        }
    }

    /// Why it does not answer although it should.
    pub fn fault(&self) -> Option<&Fault> {
        self.error.as_ref().filter(|_| self.configured != Some(false))
    }
}

/// Connects to all services of a daemon at once, and sees which answer. Those that not every daemon
/// has are asked where cmap says that they are there.
///
/// What [`Snapshot::services`](super::Snapshot::services) has, and whether votequorum is configured,
/// or why cmap does not tell: [`Error::NotConnected`] where it does not answer. Services that do not
/// answer are no error: see [`Service::fault`].
pub fn services(endpoint: &Endpoint) -> (Vec<Service>, Result<bool>) {
    probe(endpoint, Call::request(endpoint, "services").deadline)
}

/// The smallest question that shows that a service answers.
type Probe = fn(&Endpoint) -> Result<Peer>;

/// As [`services`].
pub(super) fn probe(endpoint: &Endpoint, deadline: Instant) -> (Vec<Service>, Result<bool>) {
    let probes: [(&'static str, Probe); 3] = [
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
    ];
    let (tell_votequorum, is_votequorum_there) = mpsc::channel();
    let (tell_evs, is_evs_there) = mpsc::channel();
    thread::scope(|scope| {
        let cmap = ask(scope, deadline, move || ask_cmap(endpoint, tell_votequorum, tell_evs));
        let asked =
            probes.map(|(name, probe)| (name, ask(scope, deadline, move || probe(endpoint))));
        let votequorum = ask(scope, deadline, move || {
            (told_in_time(&is_votequorum_there, deadline) != Some(false)).then(|| {
                let client = votequorum::Client::connect_to(endpoint)?;
                client.local_info()?;
                Ok(Peer::of(&client))
            })
        });
        let evs = ask(scope, deadline, move || match is_evs_there.recv() {
            Ok(true) => {
                Service::new(EVS, evs::Client::connect_to(endpoint).map(|client| Peer::of(&client)))
            }
            told => Service::unasked(EVS, told.ok()),
        });
        let (cmap, has_votequorum) = join(cmap);
        let mut services = vec![Service::new("cmap", cmap)];
        services.extend(asked.map(|(name, asked)| Service::new(name, join(asked))));
        let mut votequorum = join(votequorum).map_or_else(
            || Service::unasked(VOTEQUORUM, Some(false)),
            |result| Service::new(VOTEQUORUM, result),
        );
        votequorum.know(has_votequorum.as_ref().ok().copied());
        services.extend([votequorum, join(evs)]);
        (services, has_votequorum)
    })
}

/// Asks cmap whether it answers, and which of the services are there that not every daemon has.
fn ask_cmap(
    endpoint: &Endpoint,
    votequorum: Sender<bool>,
    evs: Sender<bool>,
) -> (Result<Peer>, Result<bool>) {
    let connect = || {
        let client = cmap::Client::connect_to(endpoint)?;
        client.get("totem.version")?;
        Ok(client)
    };
    let client = match connect() {
        Ok(client) => client,
        Err(error) => return (Err(error), Err(Error::NotConnected { service: "cmap".into() })),
    };
    let has_votequorum = provider_is_votequorum(&client);
    if let Ok(has_votequorum) = has_votequorum {
        // It may wait no more.
        let _ = votequorum.send(has_votequorum);
    }
    drop(votequorum);
    if let Ok(key) = client.get(evs::SERVICE_ID) {
        let _ = evs.send(key.is_some());
    }
    (Ok(Peer::of(&client)), has_votequorum)
}

/// What was told until half of the time is over; the rest is for a service of which nobody knows
/// whether it is there.
pub(super) fn told_in_time(told: &Receiver<bool>, deadline: Instant) -> Option<bool> {
    told.recv_timeout(half_until(deadline)).ok()
}

fn half_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()) / 2
}

/// Whether this quorum provider is votequorum.
pub(super) fn is_votequorum(provider: Option<&str>) -> bool {
    provider == Some(VOTEQUORUM_PROVIDER)
}

/// Whether votequorum is configured: `quorum.provider`.
fn provider_is_votequorum(cmap: &cmap::Client) -> Result<bool> {
    Ok(is_votequorum(cmap.get_as::<String>("quorum.provider")?.as_deref()))
}

/// Connects to votequorum; `None` where it is not the configured provider. It is not asked then,
/// since any user can listen in its place.
///
/// # Errors
/// As [`votequorum::Client::connect`]; that of a missing socket also where cmap does not tell
/// whether it should exist.
pub fn connect_votequorum(endpoint: &Endpoint) -> Result<Option<votequorum::Client>> {
    let deadline = Call::connecting(endpoint).deadline;
    let is_there =
        || cmap::Client::connect_to(endpoint).and_then(|cmap| provider_is_votequorum(&cmap));
    within(deadline, || match within(half_until(deadline), is_there) {
        Ok(false) => Ok(None),
        _ => votequorum::Client::connect_to(endpoint).map(Some),
    })
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
