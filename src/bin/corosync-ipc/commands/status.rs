//! `corosync-ipc status`: a summary of the cluster.

use clap::Args;
use corosync_ipc::snapshot::{Options, Snapshot};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, faults, judge};
use crate::output::{Cell, fields, print, print_document};
use crate::report;

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
        let snapshot = context.snapshot(Options::new())?;
        if context.json {
            print_document(&json!(snapshot))?;
        } else {
            print(text(&snapshot))?;
        }
        // There is a snapshot, so a service answered.
        judge(faults(&snapshot), true)
    }
}

fn text(snapshot: &Snapshot) -> String {
    let links = match (&snapshot.links, snapshot.errors.get("links")) {
        (Some(links), _) => report::links_text(links),
        (None, Some(fault)) => fields([("Links", Cell::failed(fault))]),
        (None, None) => String::new(),
    };
    let daemon = fields(report::daemon(snapshot));
    format!("{}\n{links}\n{daemon}", report::text(snapshot))
}
