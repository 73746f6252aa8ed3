//! `corosync-ipc status`: a summary of the cluster.

use std::fmt::Write;
use std::thread;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{Failure, Fault, Faults, describe};
use crate::output::{print, print_document, printable};
use crate::snapshot::Snapshot;
use crate::snapshot::links::{self, Link};
use crate::snapshot::report;
use crate::snapshot::services::{self, Probe, ask, join};

/// Prints one snapshot of the cluster as this node sees it
///
/// Prints the local node, the ring id, whether the node is quorate, votes, all nodes with their
/// names and addresses, links, and which services answer. With --json prints the document that
/// docs/json.md describes. Ends with 0 when not quorate: see `quorum status --check`. Where a
/// service fails, its part says so; the exit status is 1 then, or 4 after a timeout.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc status
  corosync-ipc --json status | jq '.members[].name'")]
pub(crate) struct Status {}

impl Status {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let Context { endpoint, deadline, .. } = context;
        let (snapshot, probes, links) = thread::scope(|scope| {
            let probes = scope.spawn(|| services::probe_all(endpoint, *deadline));
            let links = ask(scope, *deadline, || links::links(endpoint));
            (Snapshot::take(endpoint, *deadline), join(probes), join(links))
        });
        let snapshot = snapshot?;
        let mut faults = snapshot.faults.clone();
        let links = links.map_err(|error| Fault::from(&error)).map(|(links, missing)| {
            faults.extend(missing);
            links
        });
        if let Err(fault) = &links {
            faults.extend(Faults::from([("links", fault.clone())]));
        }
        faults.extend(services::faults(&probes, snapshot.has_votequorum()));
        if context.json {
            let mut document = report::json(&snapshot);
            document["links"] = json!(links.as_deref().ok().map(links::links_json));
            if let Err(fault) = &links {
                document["errors"]["links"] = fault.json();
            }
            document["services"] = probes.iter().map(service_json).collect();
            print_document(&document)?;
        } else {
            print(text(&snapshot, &links, &probes))?;
        }
        // There is a snapshot, so a service answered.
        faults.judge(true)
    }
}

fn text(snapshot: &Snapshot, links: &Result<Vec<Link>, Fault>, probes: &[Probe]) -> String {
    let mut text = report::text(snapshot);
    let _ = match links {
        Ok(links) => write!(text, "\n{}", links::links_text(links)),
        Err(fault) => writeln!(text, "\nLinks:\n  {}", printable(&fault.text())),
    };
    let _ = match services::transport(probes) {
        Some(transport) => writeln!(text, "\nServices (transport {transport}):"),
        None => writeln!(text, "\nServices:"),
    };
    for probe in probes {
        let state = match &probe.result {
            Ok(_) => "reachable".to_owned(),
            Err(_) if probe.is_obsolete() => "none in this corosync".to_owned(),
            Err(_) if probe.is_absent(snapshot.has_votequorum()) => "not configured".to_owned(),
            Err(error) => printable(&Fault::from(error).text()),
        };
        let _ = writeln!(text, "  {:<12}{state}", probe.service.name);
    }
    text
}

fn service_json(probe: &Probe) -> Json {
    let error = probe.result.as_ref().err().filter(|_| !probe.is_obsolete());
    json!({
        "service": probe.service.name,
        "reachable": probe.result.is_ok(),
        "transport": probe.result.as_ref().ok().map(|answer| answer.transport.to_string()),
        "error": error.map(describe),
        "cs_error": error.and_then(|error| error.cs_error().c_name()),
    })
}
