//! The services a daemon has, and whether they answer.

use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use corosync_ipc::{Credentials, Endpoint, Error, cfg, cmap, cpg, evs, quorum, votequorum, within};

use crate::failure::{Fault, Faults};

/// A service, and the least that shows that it answers.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// What was asked, for people.
    pub(crate) asked: &'static str,
    /// Connects, asks, and tells whose process answered.
    probe: fn(&Endpoint) -> Result<Credentials, Error>,
}

/// The provider without which votequorum is not there.
const VOTEQUORUM_PROVIDER: &str = "corosync_votequorum";

/// All services of a corosync.
static SERVICES: [Service; 6] = [
    Service {
        name: "cmap",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cmap::Client::connect_to(endpoint)?;
            client.get("totem.version")?;
            Ok(client.peer_credentials())
        },
    },
    Service {
        name: "cpg",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cpg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(client.peer_credentials())
        },
    },
    Service {
        name: "cfg",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cfg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(client.peer_credentials())
        },
    },
    Service {
        name: "quorum",
        asked: "answered a request",
        probe: |endpoint| {
            let client = quorum::Client::connect_to(endpoint)?;
            client.is_quorate()?;
            Ok(client.peer_credentials())
        },
    },
    Service {
        name: "votequorum",
        asked: "answered a request",
        probe: |endpoint| {
            let client = votequorum::Client::connect_to(endpoint)?;
            client.local_info()?;
            Ok(client.peer_credentials())
        },
    },
    Service {
        name: EVS,
        // It takes no request while the partition is not quorate.
        asked: "took the connection",
        probe: |endpoint| Ok(evs::Client::connect_to(endpoint)?.peer_credentials()),
    },
];

/// The service that is there up to corosync 1.99.7 only.
const EVS: &str = "evs";

/// How a service answered.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) service: &'static Service,
    pub(crate) result: Result<Credentials, Error>,
}

impl Probe {
    /// Whether the service is not there because it need not be: it is not configured, or this
    /// corosync has none.
    ///
    /// `has_votequorum`: whether votequorum is configured. Where nobody tells, it is missed.
    pub(crate) fn is_absent(&self, has_votequorum: Option<bool>) -> bool {
        let optional = match self.service.name {
            "votequorum" => has_votequorum == Some(false),
            name => name == EVS,
        };
        optional && matches!(self.result, Err(Error::NoSocket { .. }))
    }

    /// Whether this is a service that nobody misses, and it is not there.
    pub(crate) fn is_needless(&self) -> bool {
        self.service.name == EVS && matches!(self.result, Err(Error::NoSocket { .. }))
    }
}

/// Whether this quorum provider is votequorum.
pub(crate) fn is_votequorum(provider: Option<&str>) -> bool {
    provider == Some(VOTEQUORUM_PROVIDER)
}

/// Whether votequorum is configured.
pub(crate) fn has_votequorum(endpoint: &Endpoint) -> Result<bool, Error> {
    let provider = cmap::Client::connect_to(endpoint)?.get_as::<String>("quorum.provider")?;
    Ok(is_votequorum(provider.as_deref()))
}

/// The services that should answer and do not.
pub(crate) fn faults(probes: &[Probe], has_votequorum: Option<bool>) -> Faults {
    let mut faults = Faults::default();
    for probe in probes.iter().filter(|probe| !probe.is_absent(has_votequorum)) {
        if let Err(error) = &probe.result {
            faults.add(probe.service.name, Fault::from(error));
        }
    }
    faults
}

/// Tries all services at once.
pub(crate) fn probe_all(endpoint: &Endpoint, deadline: Instant) -> Vec<Probe> {
    thread::scope(|scope| {
        let probes = SERVICES
            .each_ref()
            .map(|service| (service, ask(scope, deadline, || (service.probe)(endpoint))));
        probes.map(|(service, asked)| Probe { service, result: join(asked) }).into()
    })
}

/// Asks something on a thread of its own, until the deadline: several questions at once then take
/// one timeout.
pub(crate) fn ask<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    deadline: Instant,
    question: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    scope.spawn(move || within(deadline, question))
}

/// What was answered.
pub(crate) fn join<T>(asked: ScopedJoinHandle<'_, T>) -> T {
    asked.join().unwrap_or_else(|panic| resume_unwind(panic))
}
