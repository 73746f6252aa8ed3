//! `corosync-ipc cfg`: nodes and links, reload, kill and shutdown.

use std::sync::Arc;

use clap::{Args, Subcommand};
use corosync_ipc::cfg::{
    Client, Event, MAX_REASON, Shutdown, ShutdownAnswer, ShutdownKind, ShutdownTimedOut,
};
use corosync_ipc::snapshot;
use corosync_ipc::supervise::CfgTracker;
use corosync_ipc::{CsError, Error, NodeId, UnknownEvent, cmap};
use serde_json::json;

use crate::commands::cmap::value;
use crate::context::Context;
use crate::failure::{self, Explain, Failure, judge, parts};
use crate::output::{print, print_document};
use crate::report;
use crate::watch::{Clients, Line, Losing, Stay, Watch, Watcher};

/// Shows links and nodes, reloads the configuration, ends daemons
///
/// Does the same as corosync-cfgtool, and takes part in decisions about shutdown.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cfg {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints this node's id
    ///
    /// With --json {"node_id"}.
    #[command(after_long_help = "Example:
  corosync-ipc cfg local")]
    Local,

    /// Prints this node's links and which nodes are connected by them
    ///
    /// Prints the same as corosync-cfgtool -s; with --json an array of objects. corosync before
    /// 2.99 reports one status for all nodes, as does corosync before 3.1.1 with another
    /// transport than knet. A node that the daemon does not know is `unknown`. A node whose
    /// state the daemon does not report is `failed`; the exit status is 1 then, or 4 after a
    /// timeout. Without cmap only the addresses are known.
    #[command(after_long_help = "Examples:
  corosync-ipc cfg links
  corosync-ipc cfg links --check >/dev/null || echo 'a link is down'
  corosync-ipc --json cfg links |
    jq '.[].nodes[]? | select(.connected == false)'")]
    Links {
        /// End with 5 when a node is disconnected on a link, or a link is faulty. An unknown node
        /// is neither.
        #[arg(long)]
        check: bool,
    },

    /// Prints whether each node can be reached, and by which links (corosync 3.1.1 and later)
    ///
    /// Prints the same as corosync-cfgtool -n, for all nodes, a row for each link to a node: its
    /// state, its MTU and the node's address; with --json an array of objects. A
    /// node that the daemon does not know is `unknown`. A node whose state the daemon does not
    /// report has the error as its state; the exit status is 1 then, or 4 after a timeout.
    /// Without cmap only the local node is known.
    #[command(after_long_help = "Examples:
  corosync-ipc cfg nodes
  corosync-ipc --json cfg nodes | jq '.[] | select(.reachable == false) | .name'")]
    Nodes,

    /// Prints a node's addresses
    ///
    /// Prints one address a line, in the order of the links; with --json {"node_id", "addresses"}.
    /// Ends with 1 when the node does not exist.
    #[command(after_long_help = "Example:
  corosync-ipc cfg addresses 2")]
    Addresses {
        /// The node's id.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
    },

    /// Makes all nodes read corosync.conf again
    ///
    /// Prints nothing. Ends with 1 when this node's file is invalid, and with corosync after 3.1.8
    /// also when this node cannot apply it. The logs of the other nodes say whether they could.
    #[command(after_long_help = "Example:
  corosync-ipc cfg reload")]
    Reload,

    /// Reopens the log files of this node's daemon (corosync 2.99.4 and later)
    ///
    /// Use it after the files were rotated. Prints nothing.
    #[command(after_long_help = "Example:
  corosync-ipc cfg reopen-logs")]
    ReopenLogs,

    /// Ends a node's corosync at once
    ///
    /// The node logs the reason. Nobody can refuse, unlike with `cfg shutdown`. Prints nothing.
    /// Ends with 1 when the node is not a member; corosync before 3.1 does not check that, so
    /// this ends with 0 there.
    #[command(override_usage = "corosync-ipc cfg kill [OPTIONS] <NODE> <REASON>...
       corosync-ipc cfg kill [OPTIONS] <NODE> --reason <REASON>")]
    #[command(after_long_help = "Examples:
  corosync-ipc cfg kill 3 disk is broken
  corosync-ipc cfg kill 3 --reason 'disk is broken'")]
    Kill {
        /// The node's id.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        /// The reason, in words. The node logs it.
        #[arg(value_name = "REASON", required_unless_present = "reason")]
        words: Vec<String>,
        /// The reason, as an option.
        #[arg(long, conflicts_with = "words")]
        reason: Option<String>,
    },

    /// Shuts this node's corosync down
    ///
    /// The daemon asks the programs that take part in the decision, and waits for their answers: 5
    /// seconds, or cfg.shutdown_timeout in the map. Prints nothing. Ends with 1 when one of them
    /// refuses or does not answer in time.
    #[command(after_long_help = "Examples:
  corosync-ipc cfg shutdown
  corosync-ipc cfg shutdown --regardless")]
    Shutdown {
        /// Tell the programs and wait for them, but let none refuse.
        #[arg(long, conflicts_with = "immediate")]
        regardless: bool,
        /// Do not ask any program.
        #[arg(long)]
        immediate: bool,
    },

    /// Takes part in decisions about shutdown, and prints them (corosync 3.1.1 and later)
    ///
    /// Answers yes to each shutdown of this node's corosync and prints a line, with --json an
    /// object with "event", "time", "kind" and "answer". Runs until it is interrupted; ends
    /// with 3 when the daemon ends, unless --reconnect is given.
    #[command(after_long_help = "Examples:
  corosync-ipc cfg watch
  # While this runs, only --regardless and --immediate end corosync.
  corosync-ipc cfg watch --refuse")]
    Watch {
        /// Answer no.
        #[arg(long)]
        refuse: bool,
        /// End after this many lines.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        #[command(flatten)]
        stay: Stay,
    },
}

impl Cfg {
    /// Whether the command runs on after one answer.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self.command, Command::Watch { .. })
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let connect = || Client::connect_to(&context.endpoint);
        match self.command {
            Command::Local => local(context),
            Command::Links { check } => {
                let (links, faults) = snapshot::links(&context.endpoint)?;
                if context.json {
                    print_document(&json!(links))?;
                } else {
                    print(report::links_text(&links))?;
                }
                judge(parts(&faults), true)?;
                failure::check(!check || !links.iter().any(|link| link.healthy == Some(false)))
            }
            Command::Nodes => {
                let (nodes, faults) = snapshot::node_links(&context.endpoint)?;
                if context.json {
                    print_document(&report::node_links_json(&nodes))?;
                } else {
                    print(report::node_links_text(&nodes))?;
                }
                judge(parts(&faults), true)
            }
            Command::Addresses { node } => addresses(context, NodeId(node)),
            Command::Reload => reload(context),
            Command::ReopenLogs => Ok(connect()?.reopen_log_files()?),
            Command::Kill { node, words, reason } => {
                kill(context, NodeId(node), &reason.unwrap_or_else(|| words.join(" ")))
            }
            Command::Shutdown { regardless, immediate } => {
                let kind = match (regardless, immediate) {
                    (true, _) => ShutdownKind::REGARDLESS,
                    (_, true) => ShutdownKind::IMMEDIATE,
                    _ => ShutdownKind::REQUEST,
                };
                shutdown(context, kind)
            }
            Command::Watch { refuse, count, stay } => {
                let answer = if refuse { ShutdownAnswer::NO } else { ShutdownAnswer::YES };
                let mut watch = Watch::new(context, &stay, count)?;
                watch.add(Client::connect_to, [CfgTracker], Answerer(answer))?;
                watch.run()
            }
        }
    }
}

fn local(context: &Context) -> Result<(), Failure> {
    let node = Client::connect_to(&context.endpoint)?.local_node_id()?;
    if context.json {
        print_document(&json!({ "node_id": node.0 }))
    } else {
        print(format!("{node}\n"))
    }
}

fn addresses(context: &Context, node: NodeId) -> Result<(), Failure> {
    let addresses = snapshot::addresses(&context.endpoint, node).explain(|error| {
        (error == CsError::NotExist)
            .then(|| format!("no such node: {node}, or its addresses are unknown"))
    })?;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    if context.json {
        return print_document(&json!({ "node_id": node.0, "addresses": addresses }));
    }
    print(addresses.iter().map(|address| format!("{address}\n")).collect::<String>())
}

/// As corosync-cfgtool, except when the reload fails: recent versions of the tool end with 0 then.
fn reload(context: &Context) -> Result<(), Failure> {
    Client::connect_to(&context.endpoint)?.reload_config().explain(|error| {
        let invalid = matches!(error, CsError::InvalidParam | CsError::Library);
        invalid.then(|| "corosync.conf is invalid: see the daemon's log".to_owned())
    })?;
    // Corosync after 3.1.8 deletes this key when a reload begins, and sets it before it answers
    // when it cannot apply what it read.
    let client = cmap::Client::connect_to(&context.endpoint);
    let said = client.and_then(|client| client.get("config.reload_error_message"));
    let said = said.map_err(|error| {
        Failure::from(error)
            .while_at("corosync.conf was read, but it is unknown whether it was applied")
    })?;
    said.map_or(Ok(()), |reason| {
        let reason = value::text(&reason);
        let what = "cfg reload: the daemon read corosync.conf but could not apply all of it";
        Err(Failure::refused(format!("{what}: {reason}: see its log")))
    })
}

fn kill(context: &Context, node: NodeId, reason: &str) -> Result<(), Failure> {
    // Before connecting: wrong usage is wrong without a daemon too.
    if reason.len() > MAX_REASON {
        return Err(Failure::usage(format!(
            "the reason has {} bytes, more than {MAX_REASON}",
            reason.len()
        )));
    }
    Client::connect_to(&context.endpoint)?.kill_node(node, reason).explain(|error| {
        (error == CsError::NotExist)
            .then(|| format!("node {node} is not a member: see quorum nodes"))
    })
}

fn shutdown(context: &Context, kind: ShutdownKind) -> Result<(), Failure> {
    Client::connect_to(&context.endpoint)?.try_shutdown(kind).explain(|error| match error {
        CsError::Busy => Some(
            "a program refused or did not answer in time: --regardless lets none refuse".to_owned(),
        ),
        CsError::Exist => Some("another shutdown is under way".to_owned()),
        _ => None,
    })
}

/// Answers each shutdown.
struct Answerer(ShutdownAnswer);

impl Losing for Answerer {}

impl Watcher for Answerer {
    type Client = Client;

    fn event(&mut self, client: &Client, event: Event) -> Result<Vec<Line>, Failure> {
        // Before printing: the daemon waits for the answer, and a reader of the output may be slow.
        if let Event::Shutdown(_) = event {
            match client.reply_to_shutdown(self.0) {
                // The decision was made already.
                Err(Error::Cs { error: CsError::Access, .. }) => {}
                // It is told next, and ends what was to be decided.
                Err(Error::Disconnected { .. }) => {}
                replied => replied?,
            }
        }
        Ok(vec![event_line(event, self.0)])
    }

    fn up(
        &mut self,
        _: &Arc<Client>,
        _: bool,
        _: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        tracing::debug!("tracking");
        Ok(Vec::new())
    }

    fn name(&self, _: &CfgTracker) -> String {
        "shutdowns".to_owned()
    }
}

fn event_line(event: Event, answer: ShutdownAnswer) -> Line {
    const SERVICE: &str = "cfg";
    match event {
        Event::Shutdown(Shutdown { kind }) => Line {
            event: "shutdown",
            text: format!("{kind}, answered {answer}"),
            members: json!({ "kind": kind.to_string(), "answer": answer.to_string() }),
        },
        Event::ShutdownTimedOut(ShutdownTimedOut { kind }) => Line {
            event: "shutdown_timed_out",
            text: kind.to_string(),
            members: json!({ "kind": kind.to_string() }),
        },
        Event::Unknown(UnknownEvent { id, message }) => Line::unknown(SERVICE, id, &message),
        // Events that this command does not know yet.
        _ => Line::unknown(SERVICE, 0, &[]),
    }
}
