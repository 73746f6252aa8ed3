//! `corosync-ipc status`: the cluster at one glance.

use std::fmt::Write;

use clap::Args;
use serde_json::{Value as Json, json};

use crate::cli::Context;
use crate::failure::{Failure, describe};
use crate::links;
use crate::output::{print, print_document};
use crate::report;
use crate::services::{self, Probe};
use crate::snapshot::Snapshot;

/// Prints one snapshot of the cluster as this node sees it
///
/// The local node, ring id, whether it is quorate, votes, all nodes with their names and addresses, links, and which services answer. With --json
/// one document, described in docs/json.md. Not being quorate is an answer: see `quorum status --check`.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc status
  corosync-ipc --json status | jq '.members[].name'")]
pub(crate) struct Status {}

impl Status {
    #[allow(clippy::unused_self, reason = "as all commands")]
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let snapshot = Snapshot::take(&context.endpoint)?;
        let probes = services::probe_all(&context.endpoint);
        // What is wrong with cfg, the services tell.
        let has_cfg = probes.iter().any(|probe| probe.service.name == "cfg" && probe.result.is_ok());
        let links = has_cfg.then(|| links::links(&context.endpoint).ok()).flatten();
        if context.json {
            let mut document = report::json(&snapshot);
            document["links"] = json!(links.as_deref().map(links::links_json));
            document["services"] = probes.iter().map(service_json).collect();
            return print_document(&document);
        }
        let mut text = report::text(&snapshot);
        if let Some(links) = &links {
            let _ = write!(text, "\n{}", links::links_text(links));
        }
        text += "\nServices:\n";
        for probe in &probes {
            let state = match &probe.result {
                Ok(_) => "reachable".to_owned(),
                Err(_) if probe.is_needless() => "none in this corosync".to_owned(),
                Err(_) if probe.is_absent(snapshot.provider.as_deref()) => "not configured".to_owned(),
                Err(error) => describe(error),
            };
            let _ = writeln!(text, "  {:<12}{state}", probe.service.name);
        }
        print(text)
    }
}

fn service_json(probe: &Probe) -> Json {
    let error = probe.result.as_ref().err().filter(|_| !probe.is_needless());
    json!({
        "service": probe.service.name,
        "reachable": probe.result.is_ok(),
        "error": error.map(describe),
        "cs_error": error.and_then(corosync_ipc::Error::cs_error).map(corosync_ipc::CsError::c_name),
    })
}
