//! Metrics of corosync for Prometheus: what is asked, and how it is told.

mod cluster;
pub(crate) mod families;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod observer;
pub(crate) mod scrape;
mod stats;

use std::collections::BTreeMap;
use std::env;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, Map};
use corosync_ipc::cpg::{self, Iteration};
use corosync_ipc::snapshot::{Faults, Options, Snapshot, part};
use corosync_ipc::{Deadline, Endpoint, Error, within};

use self::families::Families;
use self::metrics::*;
use self::observer::Observer;
use self::stats::{End, largest};
use crate::failure::{Failure, judge, parts};

/// The most groups with a sample of their own.
const MOST_GROUPS: usize = 256;

/// The parts of a scrape besides those of a snapshot.
const STATS: &str = "stats";
const CPG: &str = "cpg";

/// What has to be known for the metrics of ha_cluster_exporter.
const HA_PARTS: [&str; 4] = [part::CMAP, part::QUORUM, part::VOTEQUORUM, part::LINKS];

/// The name of ha_cluster_exporter's collector for corosync.
const HA_COLLECTOR: &str = "corosync";

/// Scrapes a daemon.
#[derive(Debug)]
pub(crate) struct Scraper {
    endpoint: Endpoint,
    /// Whether to list the programs that are connected.
    clients: bool,
    /// `None`: there is one scrape only.
    observer: Option<Observer>,
    scrapes: AtomicU64,
}

/// What a scrape found.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) families: Families,
    /// The parts that could not be asked.
    faults: Faults,
    /// Whether any part was answered.
    answered: bool,
}

impl Scraper {
    pub(crate) fn new(endpoint: Endpoint, clients: bool, observer: Option<Observer>) -> Self {
        Self { endpoint, clients, observer, scrapes: AtomicU64::new(0) }
    }

    /// The most time that a scrape waits for the daemon.
    pub(crate) fn time(&self) -> Duration {
        self.endpoint.request_timeout_value()
    }

    /// Asks the daemon. Everything together has the endpoint's timeout.
    pub(crate) fn take(&self) -> Scrape {
        let started = Instant::now();
        let scrapes = self.scrapes.fetch_add(1, Ordering::Relaxed) + 1;
        let deadline = started.checked_add(self.time()).map_or(Deadline::NEVER, Deadline::from);
        let mut scrape = self.ask(deadline);
        scrape.judge();
        let Scrape { families, .. } = &mut scrape;
        families.add(&EXPORTER_INFO, [env!("CARGO_PKG_VERSION")], true);
        if let Some(observer) = &self.observer {
            observer.add(families);
            families.add(&EXPORTER_SCRAPES, [], scrapes);
        }
        families.add(&OMITTED_SAMPLES, [], families.omitted());
        let seconds = started.elapsed().as_secs_f64();
        families.add(&SCRAPE_DURATION, [], seconds);
        families.add(&HA_SCRAPE_DURATION, [HA_COLLECTOR], seconds);
        scrape
    }

    /// Asks for all parts at once.
    fn ask(&self, deadline: Deadline) -> Scrape {
        let endpoint = &self.endpoint;
        let mut scrape = Scrape::default();
        thread::scope(|scope| {
            let (tell, told) = channel();
            let stats = scope.spawn(move || within(deadline, || stats(endpoint, &told)));
            let groups = scope.spawn(move || within(deadline, || groups(endpoint)));
            // Connecting to each service would not tell more than the parts do.
            let options = Options::new().services(false);
            let snapshot = within(deadline, || Snapshot::take_with(endpoint, options));
            let ends = scrape.add_snapshot(snapshot);
            // Fails when there are no counters.
            let _ = tell.send(ends);
            for (name, part) in [(STATS, stats), (CPG, groups)] {
                scrape.add(name, part.join().unwrap_or_else(|panic| resume_unwind(panic)));
            }
        });
        // Alone, since corosync does not survive every connection that comes and goes meanwhile.
        if self.clients && scrape.answered {
            scrape.add(STATS, within(deadline, || clients(endpoint)));
        }
        scrape
    }
}

impl Scrape {
    /// The result of a command.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        judge(parts(&self.faults), self.answered)
    }

    /// Adds a part.
    fn add(&mut self, name: &str, part: Part) {
        let Part { families, result } = part;
        self.families.extend(families);
        match result {
            Ok(()) => self.answered = true,
            Err(error) => _ = self.faults.insert(name.to_owned(), error.into()),
        }
    }

    /// Adds what a snapshot says, and returns the links to other nodes.
    fn add_snapshot(&mut self, snapshot: Result<Snapshot, Error>) -> Vec<End> {
        match snapshot {
            Ok(snapshot) => {
                self.answered = true;
                let ends = cluster::add(&snapshot, &mut self.families);
                self.faults.extend(snapshot.errors);
                ends
            }
            Err(error) => {
                let fault = error.into();
                let missing = part::ALL.map(|part| (part.to_owned(), Clone::clone(&fault)));
                self.faults.extend(missing);
                Vec::new()
            }
        }
    }

    /// Adds which parts failed.
    fn judge(&mut self) {
        let Self { families, faults, answered } = self;
        // The other faults are those of links to a node.
        let parts = || part::ALL.into_iter().chain([STATS, CPG]);
        let has_other = faults.keys().any(|name| parts().all(|part| part != name));
        let failed = |part| faults.contains_key(part) || part == part::LINKS && has_other;
        families.add(&UP, [], *answered);
        for part in parts() {
            families.add(&PART_FAILED, [part], failed(part));
        }
        families.add(&HA_SCRAPE_SUCCESS, [HA_COLLECTOR], !HA_PARTS.into_iter().any(failed));
    }
}

/// A part of a scrape: what was answered before it failed, if it failed.
struct Part {
    families: Families,
    result: Result<(), Error>,
}

impl Part {
    fn of(ask: impl FnOnce(&mut Families) -> Result<(), Error>) -> Self {
        let mut families = Families::default();
        let result = match ask(&mut families) {
            // This corosync does not have it.
            Err(Error::Unsupported { .. }) => Ok(()),
            result => result,
        };
        Self { families, result }
    }
}

fn connect_stats(endpoint: &Endpoint) -> Result<cmap::Client, Error> {
    cmap::Client::connect_with(endpoint, cmap::Options::new().map(Map::Stats))
}

/// The programs that are connected.
fn clients(endpoint: &Endpoint) -> Part {
    Part::of(|families| stats::add_clients(&connect_stats(endpoint)?, families))
}

/// The counters of corosync. The links to other nodes are told when they are known.
fn stats(endpoint: &Endpoint, links: &Receiver<Vec<End>>) -> Part {
    Part::of(|families| {
        let stats = connect_stats(endpoint)?;
        stats::add_totem(&stats, families)?;
        stats::add_schedule_misses(&stats, families)?;
        stats::add_connections(&stats, families)?;
        stats::add_links(&stats, &links.recv().unwrap_or_default(), families)
    })
}

fn groups(endpoint: &Endpoint) -> Part {
    Part::of(|families| {
        let mut groups: BTreeMap<String, u64> = BTreeMap::new();
        for entry in cpg::Client::connect_to(endpoint)?.list(Iteration::All)? {
            *groups.entry(entry.group.to_string()).or_default() += 1;
        }
        families.add(&CPG_GROUPS, [], groups.len());
        let (shown, omitted) = largest(groups, MOST_GROUPS, |members| *members);
        for (group, members) in shown {
            families.add(&CPG_MEMBERS, [&group], members);
        }
        families.add(&CPG_OMITTED, [], omitted);
        Ok(())
    })
}
