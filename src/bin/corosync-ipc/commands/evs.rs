//! `corosync-ipc evs`: groups of the evs service, which corosync has up to 1.99.7.

use std::ffi::OsString;
use std::sync::Arc;

use clap::{Args, Subcommand};
use corosync_ipc::evs::{Client, Confchg, Deliver, Event, GroupName, Guarantee};
use corosync_ipc::{Endpoint, Error, UnknownEvent, cmap, cpg};
use serde_json::json;

use crate::commands::group::{self, Member, add_name, end};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{print, print_document, words};
use crate::watch::{Line, Stay, ids};

/// Joins groups of evs, sends messages (corosync 1.99.0 to 1.99.7)
///
/// Ends with 1 with a later corosync, which has no evs; use cpg there. A group's name has up to 32
/// bytes, written as for cpg.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Evs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Joins a group, prints events and sends lines from standard input
    ///
    /// Like `cpg join`: prints each event as one line, sends each line of standard input as a
    /// message, and runs on at the end of standard input.
    #[command(after_long_help = "Examples:
  corosync-ipc evs join my-group
  echo hello | corosync-ipc --json evs join my-group --count 1")]
    Join {
        /// The group.
        #[arg(value_parser = parse_name)]
        group: Name,
        /// End after this many delivered messages.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        #[command(flatten)]
        stay: Stay,
    },

    /// Sends a message to a group
    ///
    /// Like `cpg send`: waits until the message is delivered here too. Prints nothing.
    #[command(after_long_help = "Examples:
  corosync-ipc evs send my-group hello
  corosync-ipc evs send my-group <file")]
    Send {
        /// The group.
        #[arg(value_parser = parse_name)]
        group: Name,
        /// The message; all of standard input by default.
        message: Option<OsString>,
    },

    /// Prints the members of the cluster
    ///
    /// Prints the node ids of this node and of all members; with --json one object.
    #[command(after_long_help = "Example:
  corosync-ipc evs members")]
    Members,
}

/// A group's name, and the same as it is printed.
#[derive(Clone, Copy, Debug)]
struct Name {
    group: GroupName,
    printed: cpg::GroupName,
}

fn parse_name(text: &str) -> Result<Name, String> {
    let printed = group::parse_name(text)?;
    let group = GroupName::new(printed.as_bytes()).map_err(group::reason_of)?;
    Ok(Name { group, printed })
}

impl Evs {
    /// Whether the command runs on after one answer.
    pub(crate) fn goes_on(&self) -> bool {
        !matches!(self.command, Command::Members)
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        match self.command {
            Command::Join { group, count, stay } => join(context, group, &stay, count),
            Command::Send { group, message } => send(context, group, message),
            Command::Members => members(context),
        }
    }
}

/// Connects. The error distinguishes a missing daemon from one without evs.
fn connect(context: &Context) -> Result<Client, Failure> {
    Client::connect_to(&context.endpoint).map_err(|error| explained(error, &context.endpoint))
}

fn explained(error: Error, endpoint: &Endpoint) -> Failure {
    if matches!(error, Error::NoSocket { .. }) && cmap::Client::connect_to(endpoint).is_ok() {
        return Failure::refused(
            "evs (CS_ERR_NOT_SUPPORTED): only corosync 1.99.0 to 1.99.7 has this service; use cpg",
        );
    }
    error.into()
}

/// Leaves, so that the members see a leave and not the end of the process.
fn leave(client: &Client, group: GroupName) {
    // What was to be done is done, and the end of the connection leaves as well.
    if let Err(error) = client.leave(&[group]) {
        tracing::debug!("leaving: {error}");
    }
}

fn join(context: &Context, name: Name, stay: &Stay, count: Option<u64>) -> Result<(), Failure> {
    let mut watch = group::watch(context, stay, count)?;
    let endpoint = context.endpoint.clone();
    let failure = move |error| explained(error, &endpoint);
    let member = Member::new(name.printed, event_line, failure);
    let present = member.present();
    watch.add(Client::connect_to, [name.group], member)?;
    let multicast =
        |client: &Client, message: &[u8]| client.multicast_joined(Guarantee::AGREED, message);
    let result = group::take_part(watch, stay, vec![present.clone()], multicast);
    end(result, || present.get().into_iter().for_each(|client| leave(&client, name.group)))
}

fn send(context: &Context, name: Name, message: Option<OsString>) -> Result<(), Failure> {
    let message = group::message(message)?;
    let client = Arc::new(connect(context)?);
    let member = Arc::clone(&client);
    let joining = group::leave_at_signals(context, move || leave(&member, name.group))?;
    client.join(&[name.group])?;
    drop(joining);
    end(deliver(&client, &message), || leave(&client, name.group))
}

/// Sends a message to the joined group and waits until it is delivered here.
fn deliver(client: &Client, message: &[u8]) -> Result<(), Failure> {
    let me = client.membership()?.local_node_id;
    client.multicast_joined(Guarantee::AGREED, message)?;
    group::await_event(client, "evs send: the message was sent, but not delivered", |event| {
        match event {
            // The sending process is unknown. The same message from another process of this node
            // serves as well.
            Event::Deliver(Deliver { node_id, payload }) => {
                (node_id == me && payload == message).then_some(())
            }
            _ => None,
        }
    })
}

fn members(context: &Context) -> Result<(), Failure> {
    let membership = connect(context)?.membership()?;
    let (local, members) = (membership.local_node_id, membership.members);
    if context.json {
        return print_document(&json!({ "node_id": local.0, "members": ids(&members) }));
    }
    print(format!("Local node:  {local}\nMembers:     {}\n", words(&members)))
}

fn event_line(group: cpg::GroupName, event: Event) -> Line {
    match event {
        Event::Deliver(Deliver { node_id, payload }) => {
            let mut members = json!({ "node_id": node_id.0 });
            add_name(&mut members, &group);
            group::delivery(format_args!("{group} {node_id}"), members, &payload)
        }
        Event::Confchg(Confchg { members, left, joined }) => Line {
            event: "confchg",
            text: format!(
                "members {}, left {}, joined {}",
                words(&members),
                words(&left),
                words(&joined)
            ),
            members: json!({ "members": ids(&members), "left": ids(&left), "joined": ids(&joined) }),
        },
        Event::Unknown(UnknownEvent { id, message }) => Line::unknown("evs", id, &message),
        // Events that this command does not know yet.
        _ => Line::unknown("evs", 0, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_32_bytes_as_they_are_sent() {
        assert_eq!(parse_name(r"a\x00b").unwrap().group.trimmed(), b"a\0b");
        assert_eq!(parse_name(&r"\xff".repeat(32)).unwrap().group.as_bytes(), &[255; 32]);
        assert!(parse_name(&"x".repeat(33)).unwrap_err().contains("33"));
    }
}
