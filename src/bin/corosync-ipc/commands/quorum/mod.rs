//! `corosync-ipc quorum`: quorum and votes.

pub(crate) mod hook;
pub(crate) mod watch;

use std::mem;
use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use corosync_ipc::snapshot::{Node, Options, Snapshot, connect_votequorum};
use corosync_ipc::votequorum::{self, InfoFlags, LOCAL_NODE};
use corosync_ipc::{CsError, NodeId};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{self, Explain, Failure, faults, judge};
use crate::hook::Exec;
use crate::output::{print, print_document};
use crate::report;
use crate::watch::Stay;

/// Shows and watches quorum, nodes and votes, and changes votes
///
/// Does the same as corosync-quorumtool.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Quorum {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints quorum, votes and nodes
    ///
    /// Prints the same as corosync-quorumtool -s; with --json the document of `status` without
    /// "services" and "links". Ends with 0 when not quorate, unless --check is given. QDEVICE, shown
    /// where there is a quorum device, is A alive, V votes, MW master wins, each with N if not, or NR
    /// not registered.
    #[command(after_long_help = "Examples:
  corosync-ipc quorum status
  corosync-ipc quorum status --check >/dev/null || echo 'no quorum'
  corosync-ipc --json quorum status | jq .quorate")]
    Status {
        /// End with 5 when this node is not quorate.
        #[arg(long)]
        check: bool,
        #[command(flatten)]
        order: Order,
    },

    /// Prints the nodes: the members, then the absent ones
    ///
    /// Prints node id, votes, state, name and addresses of each; with --json an array of objects.
    #[command(after_long_help = "Examples:
  corosync-ipc quorum nodes
  corosync-ipc quorum nodes --sort name
  corosync-ipc --json quorum nodes | jq '.[] | select(.member | not) | .name'")]
    Nodes {
        #[command(flatten)]
        order: Order,
    },

    /// Prints the present state, then notifications as they arrive
    ///
    /// Prints the notifications of the quorum service, and of votequorum where it is configured.
    /// Each is one line, written at once; with --json an object with "event", "time", "service" and
    /// the notification's content. Runs until it is interrupted; ends with 3 when the daemon ends,
    /// unless --reconnect is given. With --exec it also runs a program when quorum changes.
    #[command(after_long_help = "Examples:
  corosync-ipc quorum watch
  corosync-ipc quorum watch --wait --reconnect --exec /usr/local/sbin/on-quorum
  corosync-ipc --json quorum watch |
    jq --unbuffered 'select(.event == \"quorum\") | .quorate'")]
    Watch {
        /// End after this many notifications.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        #[command(flatten)]
        stay: Stay,
        #[command(flatten)]
        exec: Exec,
    },

    /// Sets the expected votes of the whole cluster
    ///
    /// The value lasts until the cluster restarts. Prints nothing. Ends with 1 when the daemon
    /// refuses a value below the votes present, or one that would make a quorate cluster inquorate.
    #[command(after_long_help = "Example:
  corosync-ipc quorum expected 3")]
    Expected {
        /// The expected votes.
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        votes: u32,
    },

    /// Sets the votes of a node
    ///
    /// The value lasts until the node restarts. Prints nothing. Ends with 1 when the node does not
    /// exist, or when quorum would be out of reach.
    #[command(after_long_help = "Examples:
  corosync-ipc quorum votes 2
  corosync-ipc quorum votes 0 --node 3")]
    Votes {
        /// The votes.
        votes: u32,
        /// The node; this one by default.
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
        node: Option<u32>,
    },

    /// Removes this node's quorum device, as a last resort
    ///
    /// Its votes are gone at once, and with them perhaps the node's quorum. A corosync-qdevice that
    /// still runs gets an error when it next votes. Does nothing when no device is registered.
    /// Prints nothing.
    #[command(after_long_help = "Example:
  corosync-ipc quorum unregister-qdevice")]
    UnregisterQdevice,
}

/// The order of nodes.
#[derive(Clone, Copy, Debug, Args)]
struct Order {
    /// Sort the members, and the absent nodes behind them; the order of members is the daemon's by
    /// default.
    #[arg(long, value_name = "BY")]
    sort: Option<Key>,
}

/// What nodes are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Key {
    Id,
    Name,
    /// The address of the lowest link; numbers before host names.
    Address,
}

impl Order {
    fn apply(self, nodes: &mut Option<Vec<Node>>) {
        let (Some(key), Some(nodes)) = (self.sort, nodes) else { return };
        let is_behind = |a: &Node, b: &Node| match key {
            Key::Id => a.node_id > b.node_id,
            Key::Name => a.name > b.name,
            Key::Address => first_address(a) > first_address(b),
        };
        // Keeps the order of those that are equal.
        for node in mem::take(nodes) {
            let at = nodes.iter().rposition(|other| !is_behind(other, &node));
            nodes.insert(at.map_or(0, |at| at + 1), node);
        }
    }
}

/// Of the lowest link: a number, or else a host name. Numbers are compared as numbers.
fn first_address(node: &Node) -> Option<Result<IpAddr, &str>> {
    node.addresses.values().next().map(|text| text.parse().map_err(|_| text.as_str()))
}

impl Quorum {
    /// Whether the command runs on after one answer.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self.command, Command::Watch { .. })
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Status { check, order } => status(context, check, order),
            Command::Nodes { order } => nodes(context, order),
            Command::Watch { count, stay, exec } => watch::run(context, &stay, exec, count),
            Command::Expected { votes } => expected(context, votes),
            Command::Votes { votes, node } => set_votes(context, votes, node),
            Command::UnregisterQdevice => unregister_qdevice(context),
        }
    }
}

/// A snapshot of quorum, votes and nodes.
fn take(context: &Context, order: Order) -> Result<Snapshot, Failure> {
    let mut snapshot = context.snapshot(Options::new().links(false).services(false))?;
    order.apply(&mut snapshot.members);
    order.apply(&mut snapshot.absent);
    Ok(snapshot)
}

/// A snapshot without what is not asked for.
fn document(snapshot: &Snapshot) -> Json {
    let mut document = json!(snapshot);
    if let Some(document) = document.as_object_mut() {
        document.retain(|member, _| !["links", "services"].contains(&member.as_str()));
    }
    document
}

fn status(context: &Context, check: bool, order: Order) -> Result<(), Failure> {
    let snapshot = take(context, order)?;
    if context.json {
        print_document(&document(&snapshot))?;
    } else {
        print(report::text(&snapshot))?;
    }
    judge(faults(&snapshot), true)?;
    failure::check(!check || snapshot.quorate == Some(true))
}

fn nodes(context: &Context, order: Order) -> Result<(), Failure> {
    let snapshot = take(context, order)?;
    if snapshot.members.is_none() {
        // There is nothing to print without members.
        return judge(faults(&snapshot), true);
    }
    if context.json {
        print_document(&snapshot.nodes().map(|node| json!(node)).collect())?;
    } else {
        print(report::nodes_text(&snapshot))?;
    }
    judge(faults(&snapshot), true)
}

fn expected(context: &Context, votes: u32) -> Result<(), Failure> {
    connect(context)?.set_expected(votes).explain(|error| {
        (error == CsError::InvalidParam)
            .then(|| format!("{votes} is below the votes present, or the cluster would lose quorum: see quorum status"))
    })
}

fn set_votes(context: &Context, votes: u32, node: Option<u32>) -> Result<(), Failure> {
    let name = node.map_or_else(|| "this node".to_owned(), |node| format!("node {node}"));
    connect(context)?.set_votes(node.map_or(LOCAL_NODE, NodeId), votes).explain(|error| match error
    {
        CsError::NameNotFound => Some(format!("unknown {name}: see quorum nodes")),
        CsError::InvalidParam => {
            Some(format!("with {votes} votes for {name} quorum would be out of reach"))
        }
        _ => None,
    })
}

fn unregister_qdevice(context: &Context) -> Result<(), Failure> {
    let client = connect(context)?;
    let info = client.local_info()?;
    if info.flags.contains(InfoFlags::QDEVICE_REGISTERED) {
        client.qdevice_unregister(&info.qdevice_name)?;
    }
    Ok(())
}

/// Connects to votequorum. The error distinguishes a missing daemon from a missing provider.
fn connect(context: &Context) -> Result<votequorum::Client, Failure> {
    connect_votequorum(&context.endpoint)?.ok_or_else(|| {
        Failure::refused(
            "votequorum (CS_ERR_NOT_SUPPORTED): this corosync runs without it, \
             since quorum.provider is not corosync_votequorum",
        )
    })
}
