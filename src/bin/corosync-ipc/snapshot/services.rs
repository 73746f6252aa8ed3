//! The services of a daemon, and whether they answer.

use std::panic::resume_unwind;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use corosync_ipc::libqb::Transport;
use corosync_ipc::{
    Credentials, Endpoint, Error, ServiceClient, cfg, cmap, cpg, evs, quorum, votequorum, within,
};

use crate::failure::{Fault, Faults};

/// A service, and the smallest question that shows that it answers.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    /// What the probe shows, as text.
    pub(crate) asked: &'static str,
    /// Connects and asks.
    probe: fn(&Endpoint) -> Result<Answer, Error>,
}

/// The quorum provider that includes votequorum.
const VOTEQUORUM_PROVIDER: &str = "corosync_votequorum";

/// All services of a corosync.
static SERVICES: [Service; 6] = [
    Service {
        name: "cmap",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cmap::Client::connect_to(endpoint)?;
            client.get("totem.version")?;
            Ok(answer(&client))
        },
    },
    Service {
        name: "cpg",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cpg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(answer(&client))
        },
    },
    Service {
        name: "cfg",
        asked: "answered a request",
        probe: |endpoint| {
            let client = cfg::Client::connect_to(endpoint)?;
            client.local_node_id()?;
            Ok(answer(&client))
        },
    },
    Service {
        name: "quorum",
        asked: "answered a request",
        probe: |endpoint| {
            let client = quorum::Client::connect_to(endpoint)?;
            client.is_quorate()?;
            Ok(answer(&client))
        },
    },
    Service {
        name: "votequorum",
        asked: "answered a request",
        probe: |endpoint| {
            let client = votequorum::Client::connect_to(endpoint)?;
            client.local_info()?;
            Ok(answer(&client))
        },
    },
    Service {
        name: EVS,
        // It accepts no request while the partition is not quorate.
        asked: "took the connection",
        probe: |endpoint| Ok(answer(&evs::Client::connect_to(endpoint)?)),
    },
];

/// The service that corosync has up to 1.99.7.
const EVS: &str = "evs";

/// Who answered, and how.
#[derive(Debug)]
pub(crate) struct Answer {
    /// `None`: the process is in a pid namespace that is not visible here.
    pub(crate) pid: Option<i32>,
    pub(crate) uid: u32,
    pub(crate) transport: Transport,
}

fn answer(client: &impl ServiceClient) -> Answer {
    let Credentials { pid, uid, .. } = client.peer_credentials();
    Answer { pid: Some(pid).filter(|pid| *pid != 0), uid, transport: client.transport() }
}

/// How a service answered.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) service: &'static Service,
    pub(crate) result: Result<Answer, Error>,
}

impl Probe {
    /// Whether the service is absent by configuration, or because this corosync does not have it.
    ///
    /// `has_votequorum`: whether votequorum is configured; `None`: unknown, so its absence is a
    /// fault.
    pub(crate) fn is_absent(&self, has_votequorum: Option<bool>) -> bool {
        let optional = match self.service.name {
            "votequorum" => has_votequorum == Some(false),
            name => name == EVS,
        };
        optional && matches!(self.result, Err(Error::NoSocket { .. }))
    }

    /// Whether this is an absent service that most corosyncs do not have.
    pub(crate) fn is_obsolete(&self) -> bool {
        self.service.name == EVS && matches!(self.result, Err(Error::NoSocket { .. }))
    }
}

/// How messages travel. The daemon chooses, for all services alike.
pub(crate) fn transport(probes: &[Probe]) -> Option<Transport> {
    probes.iter().find_map(|probe| probe.result.as_ref().ok()).map(|answer| answer.transport)
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

/// The services that do not answer although they should.
pub(crate) fn faults(probes: &[Probe], has_votequorum: Option<bool>) -> Faults {
    let mut faults = Faults::default();
    for probe in probes.iter().filter(|probe| !probe.is_absent(has_votequorum)) {
        if let Err(error) = &probe.result {
            faults.add(probe.service.name, Fault::from(error));
        }
    }
    faults
}

/// Probes all services at once.
pub(crate) fn probe_all(endpoint: &Endpoint, deadline: Instant) -> Vec<Probe> {
    thread::scope(|scope| {
        let probes = SERVICES
            .each_ref()
            .map(|service| (service, ask(scope, deadline, || (service.probe)(endpoint))));
        probes.map(|(service, asked)| Probe { service, result: join(asked) }).into()
    })
}

/// Asks a question on a thread of its own, until the deadline, so that several questions take one
/// timeout.
pub(crate) fn ask<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    deadline: Instant,
    question: impl FnOnce() -> T + Send + 'scope,
) -> ScopedJoinHandle<'scope, T> {
    scope.spawn(move || within(deadline, question))
}

/// Waits for the answer.
pub(crate) fn join<T>(asked: ScopedJoinHandle<'_, T>) -> T {
    asked.join().unwrap_or_else(|panic| resume_unwind(panic))
}
