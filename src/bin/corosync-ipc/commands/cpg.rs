//! `corosync-ipc cpg`: groups of processes and their messages.

use std::ffi::OsString;
use std::sync::Arc;

use clap::{Args, Subcommand};
use corosync_ipc::cpg::{
    Address, Client, Confchg, Deliver, Discard, Discarded, Entry, Event, GroupName, Guarantee,
    Iteration, Options, TotemConfchg,
};
use corosync_ipc::snapshot::{self, Faults};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, UnknownEvent, cmap};
use serde_json::{Value as Json, json};

use crate::commands::group::{self, Member, Present, add_name, end, parse_name};
use crate::context::Context;
use crate::failure::{Failure, judge, parts};
use crate::output::{self, Column, print, print_document, table, words};
use crate::report::ring_json;
use crate::watch::{Line, Stay, ids};

/// Shows groups of processes, joins them and sends messages to them
///
/// Groups are those of cpg, the closed process groups. Their names may hold any bytes: \x00 stands
/// for the byte 0 and so on, \\ for a backslash, here and in what is printed. Does the same
/// as corosync-cpgtool, and more.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cpg {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the groups of the cluster with their members
    ///
    /// Prints each member of each group with its node, pid, and the node's name and addresses; with
    /// --json an array of {"group", "members"}. Without cmap, names and addresses are `failed`; the
    /// exit status is 1 then, or 4 after a timeout.
    #[command(after_long_help = "Examples:
  corosync-ipc cpg groups
  corosync-ipc cpg groups --names
  corosync-ipc --json cpg groups |
    jq '.[] | {group, members: (.members | length)}'")]
    Groups {
        /// Print only the names, one a line; with --json an array of {"group"}.
        #[arg(long)]
        names: bool,
    },

    /// Prints the members of a group
    ///
    /// Prints each member as `cpg groups` does; with --json an array of objects. For a group that
    /// does not exist prints nothing or an empty array. If a group of the same name exists with or
    /// without a final byte 0, standard error says so: Pacemaker's names end with one, most
    /// others do not.
    #[command(after_long_help = "Examples:
  corosync-ipc cpg members my-group
  corosync-ipc cpg members 'crmd\\x00'")]
    Members {
        /// The group.
        #[arg(value_parser = parse_name)]
        group: GroupName,
    },

    /// Joins groups, prints their events and sends lines from standard input
    ///
    /// Prints each event as one line at once: messages, changes of the groups' membership and
    /// changes of the cluster's membership. Sends each line of standard input, without its line
    /// feed, as a message to every group it joined. Runs on at the end of standard input. When
    /// interrupted, leaves the groups and ends; ends with 3 when the daemon ends, unless --reconnect
    /// is given: then it joins again, and lines wait meanwhile. A line that was being sent when
    /// the daemon ended is not sent again.
    #[command(after_long_help = "Examples:
  corosync-ipc cpg join my-group
  corosync-ipc --json cpg join my-group other-group </dev/null |
    jq --unbuffered 'select(.event == \"deliver\") | .text'
  echo hello | corosync-ipc cpg join my-group --count 1")]
    Join {
        /// The groups.
        #[arg(required = true, value_name = "GROUP", value_parser = parse_name)]
        groups: Vec<GroupName>,
        /// Leave and end after this many delivered messages.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        /// Print the cluster's membership when joining, too, and not only its changes.
        #[arg(long)]
        initial_totem_confchg: bool,
        #[command(flatten)]
        process: Process,
        #[command(flatten)]
        stay: Stay,
    },

    /// Sends a message to a group
    ///
    /// Joins the group, sends the message, waits until it is delivered here too, and leaves. The
    /// message then has its place in the order that all members see. Prints nothing. Ends with 4
    /// when the message is not delivered within the timeout; a long message has it for each MiB or
    /// so.
    #[command(after_long_help = "Write `--` before a message that begins with a dash.

Examples:
  corosync-ipc cpg send my-group hello
  corosync-ipc cpg send my-group <file")]
    Send {
        /// The group.
        #[arg(value_parser = parse_name)]
        group: GroupName,
        /// The message; all of standard input by default.
        message: Option<OsString>,
        #[command(flatten)]
        process: Process,
    },
}

/// Who joins a group.
#[derive(Debug, Args)]
struct Process {
    /// The process id that members see; this process' own by default.
    ///
    /// A group has one member of a pid on each node. In containers several processes may have the
    /// same.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Members see the process id that the daemon sees.
    ///
    /// It differs from that of processes in other containers, if the daemon runs outside of them.
    #[arg(long, conflicts_with = "pid")]
    pid_at_daemon: bool,
}

impl Cpg {
    /// Whether the command runs on after one answer.
    pub(crate) fn goes_on(&self) -> bool {
        matches!(self.command, Command::Join { .. } | Command::Send { .. })
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Groups { names: true } => names(context),
            Command::Groups { names: false } => groups(context),
            Command::Members { group } => members(context, group),
            Command::Join { groups, count, initial_totem_confchg, process, stay } => {
                let options = process.options().initial_totem_confchg(initial_totem_confchg);
                join_all(context, &groups, &stay, count, &options)
            }
            Command::Send { group, message, process } => {
                send(context, group, message, process.options())
            }
        }
    }
}

impl Process {
    fn options(&self) -> Options {
        let options = Options::new();
        match self.pid {
            Some(pid) => options.pid(pid),
            None if self.pid_at_daemon => options.pid_at_daemon(),
            None => options,
        }
    }
}

fn names(context: &Context) -> Result<(), Failure> {
    let groups = Client::connect_to(&context.endpoint)?.list(Iteration::Names)?;
    if context.json {
        let object = |entry: &Entry| {
            let mut object = json!({});
            add_name(&mut object, &entry.group);
            object
        };
        return print_document(&groups.iter().map(object).collect());
    }
    print(groups.iter().map(|entry| format!("{}\n", entry.group)).collect::<String>())
}

fn groups(context: &Context) -> Result<(), Failure> {
    let client = Client::connect_to(&context.endpoint)?;
    let entries = client.list(Iteration::All)?;
    let nodes = Nodes::ask(&context.endpoint, &entries);
    if context.json {
        let mut groups: Vec<(GroupName, Vec<Json>)> = Vec::new();
        for entry in &entries {
            let member = nodes.member_json(entry);
            match groups.iter_mut().find(|(group, _)| *group == entry.group) {
                Some((_, members)) => members.push(member),
                None => groups.push((entry.group, vec![member])),
            }
        }
        let group = |(name, members): (GroupName, Vec<Json>)| {
            let mut object = json!({ "members": members });
            add_name(&mut object, &name);
            object
        };
        print_document(&groups.into_iter().map(group).collect())?;
    } else {
        let row = |entry: &Entry| {
            let mut row = nodes.member_row(entry);
            row.insert(0, entry.group.to_string());
            row
        };
        let mut columns = MEMBER_COLUMNS.to_vec();
        columns.insert(0, Column::Text("GROUP"));
        print(table(&columns, &entries.iter().map(row).collect::<Vec<_>>()))?;
    }
    judge(parts(&nodes.faults), true)
}

fn members(context: &Context, group: GroupName) -> Result<(), Failure> {
    let client = Client::connect_to(&context.endpoint)?;
    let members = client.list(Iteration::Group(group))?;
    let other = nul_toggled(&group).filter(|_| members.is_empty());
    if let Some(other) = other {
        if !client.list(Iteration::Group(other))?.is_empty() {
            output::complain(&format!("no such group: '{group}'; a group '{other}' exists"));
        }
    }
    let nodes = Nodes::ask(&context.endpoint, &members);
    if context.json {
        print_document(&members.iter().map(|entry| nodes.member_json(entry)).collect())?;
    } else if !members.is_empty() {
        let rows: Vec<_> = members.iter().map(|entry| nodes.member_row(entry)).collect();
        print(table(&MEMBER_COLUMNS, &rows))?;
    }
    judge(parts(&nodes.faults), true)
}

const MEMBER_COLUMNS: [Column; 4] =
    [Column::Number("NODE"), Column::Number("PID"), Column::Text("NAME"), Column::Text("ADDRESS")];

/// The nodes of members.
#[derive(Default)]
struct Nodes {
    /// As far as cmap and cfg know them.
    known: Vec<Node>,
    faults: Faults,
}

struct Node {
    id: NodeId,
    name: Option<String>,
    addresses: Vec<String>,
}

impl Nodes {
    /// Asks nobody where there is no member.
    fn ask(endpoint: &Endpoint, members: &[Entry]) -> Self {
        let mut nodes = Self::default();
        if members.is_empty() {
            return nodes;
        }
        let nodelist = cmap::Client::connect_to(endpoint).and_then(|cmap| cmap.nodelist());
        let nodelist = match nodelist {
            Ok(nodelist) => nodelist,
            Err(error) => {
                nodes.faults.insert("cmap".to_owned(), error.into());
                return nodes;
            }
        };
        for member in members {
            let id = member.node_id;
            if nodes.find(id).is_some() {
                continue;
            }
            let mut node = Node { id, name: None, addresses: Vec::new() };
            if let Some(configured) = nodelist.by_id(id) {
                node.name.clone_from(&configured.name);
                node.addresses.extend(configured.addresses.values().cloned());
            }
            if node.addresses.is_empty() {
                match snapshot::addresses(endpoint, id) {
                    Ok(found) => node.addresses.extend(found.iter().map(ToString::to_string)),
                    Err(Error::Cs { error: CsError::NotExist, .. }) => {}
                    Err(error) => _ = nodes.faults.insert(format!("node {id}"), error.into()),
                }
            }
            nodes.known.push(node);
        }
        nodes
    }

    fn find(&self, id: NodeId) -> Option<&Node> {
        self.known.iter().find(|node| node.id == id)
    }

    fn member_json(&self, member: &Entry) -> Json {
        let node = self.find(member.node_id);
        json!({
            "node_id": member.node_id.0,
            "pid": member.pid,
            "name": node.and_then(|node| node.name.as_deref()),
            "addresses": node.map_or(&[][..], |node| &node.addresses),
            "errors": self.faults,
        })
    }

    fn member_row(&self, member: &Entry) -> Vec<String> {
        let (name, addresses) = match self.find(member.node_id) {
            Some(node) => (node.name.as_deref().unwrap_or("-"), words(&node.addresses)),
            None => ("failed", "failed".to_owned()),
        };
        vec![member.node_id.to_string(), member.pid.to_string(), name.to_owned(), addresses]
    }
}

/// The name that a program has for this group which counts the NUL of C strings, or does not.
fn nul_toggled(group: &GroupName) -> Option<GroupName> {
    let name = match group.as_bytes() {
        [name @ .., 0] => GroupName::new(name),
        name => GroupName::new([name, &[0]].concat()),
    };
    name.ok().filter(|name| !name.is_empty())
}

fn join_all(
    context: &Context,
    names: &[GroupName],
    stay: &Stay,
    count: Option<u64>,
    options: &Options,
) -> Result<(), Failure> {
    let mut watch = group::watch(context, stay, count)?;
    let mut joined: Vec<(Present<Client>, GroupName)> = Vec::new();
    for group in names {
        // A group that is named twice is joined once.
        if joined.iter().any(|(_, joined)| joined == group) {
            continue;
        }
        let options = options.clone();
        let connect = move |endpoint: &Endpoint| Client::connect_with(endpoint, options.clone());
        let member = Member::new(*group, event_line, Failure::from);
        joined.push((member.present(), *group));
        watch.add(connect, [*group], member)?;
    }
    let groups = joined.iter().map(|(present, _)| present.clone()).collect();
    let multicast = |client: &Client, message: &[u8]| client.multicast(Guarantee::AGREED, message);
    let result = group::take_part(watch, stay, groups, multicast);
    end(result, || {
        for (present, group) in &joined {
            present.get().into_iter().for_each(|client| leave(&client, group));
        }
    })
}

/// Leaves, so that the members see a leave and not the end of the process.
fn leave(client: &Client, group: &GroupName) {
    // Not an error: the end of the connection leaves as well.
    if let Err(error) = client.leave(group) {
        tracing::debug!("leaving {group}: {error}");
    }
}

fn send(
    context: &Context,
    group: GroupName,
    message: Option<OsString>,
    options: Options,
) -> Result<(), Failure> {
    let message = group::message(message)?;
    let client = Arc::new(Client::connect_with(&context.endpoint, options)?);
    let member = Arc::clone(&client);
    let joining = group::leave_at_signals(context, move || leave(&member, &group))?;
    client.join(&group)?;
    drop(joining);
    end(deliver(&client, &message), || leave(&client, &group))
}

/// Sends a message to the joined group and waits until it is delivered here.
fn deliver(client: &Client, message: &[u8]) -> Result<(), Failure> {
    let me = (client.local_node_id()?, client.pid());
    client.multicast(Guarantee::AGREED, message)?;
    let whole =
        group::await_event(client, "cpg send: the message was sent, but not delivered", |event| {
            match event {
                Event::Deliver(Deliver { node_id, pid, .. }) => {
                    ((node_id, pid) == me).then_some(true)
                }
                Event::Discarded(Discarded { node_id, pid, .. }) => {
                    ((node_id, pid) == me).then_some(false)
                }
                _ => None,
            }
        })?;
    if whole {
        Ok(())
    } else {
        Err(Failure::refused("cpg send: the message was sent, but not delivered whole"))
    }
}

fn event_line(joined: GroupName, event: Event) -> Line {
    match event {
        Event::Deliver(Deliver { group, node_id, pid, payload }) => {
            let mut members = json!({ "node_id": node_id.0, "pid": pid });
            add_name(&mut members, &group);
            group::delivery(format_args!("{group} {node_id}/{pid}"), members, &payload)
        }
        Event::Confchg(Confchg { group, members, left, joined }) => {
            let plain = |member: &Address| format!("{}/{}", member.node_id, member.pid);
            let with_reason = |member: &Address| format!("{} ({})", plain(member), member.reason);
            let text = format!(
                "{group} members {}, left {}, joined {}",
                words(members.iter().map(plain)),
                words(left.iter().map(with_reason)),
                words(joined.iter().map(with_reason)),
            );
            let with_reason = |member: &Address| {
                let mut object = address_json(member);
                object["reason"] = json!(member.reason.to_string());
                object
            };
            let mut members = json!({
                "members": members.iter().map(address_json).collect::<Json>(),
                "left": left.iter().map(with_reason).collect::<Json>(),
                "joined": joined.iter().map(with_reason).collect::<Json>(),
            });
            add_name(&mut members, &group);
            Line { event: "confchg", text, members }
        }
        Event::TotemConfchg(TotemConfchg { ring_id, members: nodes }) => {
            let mut members = json!({ "ring_id": ring_json(ring_id), "members": ids(&nodes) });
            add_name(&mut members, &joined);
            let text = format!("{joined} ring {}, members {}", ring_id, words(&nodes));
            Line { event: "totem_confchg", text, members }
        }
        Event::Discarded(Discarded { group, node_id, pid, length, reason }) => {
            let reason = match reason {
                Discard::TooLong => "too_long",
                Discard::Malformed => "malformed",
                _ => "unknown",
            };
            let mut members =
                json!({ "node_id": node_id.0, "pid": pid, "length": length, "reason": reason });
            add_name(&mut members, &group);
            Line {
                event: "discarded",
                text: format!("{group} {node_id}/{pid}: {length} bytes, {reason}"),
                members,
            }
        }
        Event::Unknown(UnknownEvent { id, message }) => Line::unknown("cpg", id, &message),
        // Events that this command does not know yet.
        _ => Line::unknown("cpg", 0, &[]),
    }
}

fn address_json(member: &Address) -> Json {
    json!({ "node_id": member.node_id.0, "pid": member.pid })
}
