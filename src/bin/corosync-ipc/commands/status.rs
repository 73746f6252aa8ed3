//! `corosync-ipc status`: a summary of the cluster.

use std::mem;
use std::thread;

use clap::Args;
use corosync_ipc::Deadline;
use corosync_ipc::snapshot::{Change, Options, Snapshot, Watcher, part};
use corosync_ipc::supervise::Missed;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, faults, judge};
use crate::output::{Cell, fields, print, print_document};
use crate::report;
use crate::watch::{Gap, Line, Poster, Stay, Watch};

/// Prints one snapshot of the cluster as this node sees it
///
/// Prints the local node, the ring id, whether the node is quorate, votes, all nodes with their
/// names and addresses, links, and which services answer. With --json prints the document that
/// docs/json.md describes. Ends with 0 when not quorate: see `quorum status --check`. Where a
/// service fails, its part says so; the exit status is 1 then, or 4 after a timeout.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc status
  corosync-ipc status --watch --reconnect
  corosync-ipc --json status | jq '.members[].name'")]
pub(crate) struct Status {
    /// Print it again whenever anything in it changes.
    ///
    /// With --json one object a line, with "event" and "time". Runs until it is interrupted; ends
    /// with 3 when the daemon ends, unless --reconnect is given.
    #[arg(long)]
    watch: bool,
    /// With --watch: end after this many times.
    #[arg(long, value_name = "N", requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    stay: Stay,
}

/// The event of a status, and what is missing in a gap.
const STATUS: &str = "status";

impl Status {
    /// Whether the command runs on after one answer.
    pub(crate) fn goes_on(&self) -> bool {
        self.watch
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.watch {
            return self.watch(context);
        }
        if self.stay.is_given() {
            return Err(Failure::usage(
                "--reconnect and --wait are for status --watch; try --help",
            ));
        }
        let snapshot = context.snapshot(Options::new())?;
        if context.json {
            print_document(&json!(snapshot))?;
        } else {
            print(text(&snapshot))?;
        }
        // There is a snapshot, so a service answered.
        judge(faults(&snapshot), true)
    }

    fn watch(self, context: &Context) -> Result<(), Failure> {
        let watcher = Watcher::new(&context.endpoint)?;
        let mut watch = Watch::new(context, &self.stay, self.count)?;
        let (poster, reconnects) = (watch.expect(), self.stay.reconnects());
        // A snapshot of a daemon that is stopped takes its time.
        thread::spawn(move || post(watcher, &poster, reconnects));
        watch.run()
    }
}

/// Posts a status whenever anything changes.
fn post(mut watcher: Watcher, poster: &Poster, reconnects: bool) {
    let mut is_first = true;
    let mut gap: Option<Gap> = None;
    loop {
        match watcher.next(Deadline::NEVER) {
            Ok(Some(Change::Snapshot(snapshot))) => {
                let ends =
                    gap.take().map(|gap| gap.ends(STATUS, &[(STATUS.to_owned(), Missed::States)]));
                let line = Line {
                    event: STATUS,
                    text: format!("\n{}", text(&snapshot).trim_end()),
                    members: json!(snapshot),
                };
                let mut met = !mem::take(&mut is_first);
                poster.run(move |printer| {
                    printer.meet(&mut met);
                    printer.print(ends.into_iter().chain([line]))
                });
            }
            Ok(Some(Change::Lost { error })) if is_first => {
                poster.run(|printer| printer.retry(error.into(), false, false, &mut String::new()));
            }
            Ok(Some(Change::Lost { error })) if reconnects => {
                poster.print(vec![gap.insert(Gap::new(error)).begins(STATUS)]);
            }
            Ok(Some(Change::Lost { error })) | Err(error) => {
                return poster.run(|_| Err(error.into()));
            }
            Ok(_) => {}
        }
    }
}

fn text(snapshot: &Snapshot) -> String {
    let links = match (&snapshot.links, snapshot.errors.get(part::LINKS)) {
        (Some(links), _) => report::links_text(links),
        (None, Some(fault)) => fields([("Links", Cell::failed(fault))]),
        (None, None) => String::new(),
    };
    let daemon = fields(report::daemon(snapshot));
    format!("{}\n{links}\n{daemon}", report::text(snapshot))
}
