//! `corosync-ipc watch`: what corosync-notifyd tells, and who joins which group.

use std::collections::{BTreeMap, BTreeSet};
use std::process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use corosync_ipc::cmap::{self, ConfiguredNode, Map, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Iteration};
use corosync_ipc::quorum::{self, QuorumType};
use corosync_ipc::snapshot::Fault;
use corosync_ipc::supervise::CmapTracker;
use corosync_ipc::{CsError, Endpoint, Error, NodeId, TrackFlags};
use serde_json::{Value as Json, json};

use crate::commands::cmap::statistics::CONNECTIONS;
use crate::commands::group::add_name;
use crate::commands::quorum::hook::{Hooks, QuorumHook};
use crate::commands::quorum::watch::{quorate, quorum_lines};
use crate::context::Context;
use crate::duration;
use crate::failure::Failure;
use crate::hook::{Exec, Teller};
use crate::output::{Cell, complain, printable, rfc3339, words};
use crate::watch::{self, Clients, Line, Losing, Poster, Stay, Watcher};

/// Prints what happens: quorum, nodes, links, clients, groups
///
/// Tells the same as corosync-notifyd, and who joins and leaves groups of cpg. Prints the present
/// state first, then what changes, one line each; with --json an object with "event", "time" and
/// "change", which is false in the lines of the present state. After a gap (--reconnect) it prints
/// what differs from the state before. Runs until it is interrupted; ends with 3 when the daemon
/// ends, unless --reconnect is given.
#[derive(Debug, Args)]
#[command(after_long_help = "The events are
  quorum  whether this node is quorate, the ring and its members
  node    a node joins or leaves
  link    a link of knet to another node is connected or disconnected; corosync
          looks every few seconds
  client  a program connects to a service of this node's corosync, or
          disconnects, from now on; so does every command that asks corosync
  group   a process of any node joins or leaves a group of cpg; no notification
          tells that, so it is looked for every --interval, and a process that
          stays for less is not seen
Links and clients need corosync 2.99 or later.

With --exec the program runs for the present state of quorum, then for each
change, of clients only if --events names them: then it must not ask corosync,
since it would be a client too and run itself again and again. Its standard
input is the line as JSON, for quorum with the members of `quorum status`. Its
environment has the same, such as COROSYNC_IPC_EVENT, COROSYNC_IPC_QUORATE and
COROSYNC_IPC_NODE_ID.

Examples:
  corosync-ipc watch
  corosync-ipc watch --events quorum,nodes,links,groups   # all but clients
  corosync-ipc --json watch --events quorum,nodes,links --wait --reconnect
  corosync-ipc watch --events links \\
    --exec 'logger \"link $COROSYNC_IPC_LINK up: $COROSYNC_IPC_CONNECTED\"'")]
pub(crate) struct Watch {
    /// What to watch, separated by commas [default: all; with --exec all but clients].
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    events: Vec<Kind>,
    /// How often to look who is in which group, 100ms or more.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// End after this many lines.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    #[command(flatten)]
    stay: Stay,
    #[command(flatten)]
    exec: Exec,
}

/// Reads how often corosync is asked, which it must not be without a pause.
fn interval(text: &str) -> Result<Duration, String> {
    let interval = duration::parse(text)?;
    if interval < LEAST_INTERVAL {
        return Err(format!("it has to be {LEAST_INTERVAL:?} or more"));
    }
    Ok(interval)
}

const LEAST_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Quorum,
    Nodes,
    Links,
    Clients,
    Groups,
}

impl Watch {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        // A hook that asks corosync would be told of itself, without end.
        let has_hook = self.exec.is_given();
        let wants = |kind| match &self.events[..] {
            [] => !(has_hook && kind == Kind::Clients),
            events => events.contains(&kind),
        };
        let mut watch = watch::Watch::new(context, &self.stay, self.count)?;
        let hooks = Hooks::start(self.exec, &mut watch, context)?;
        let hook = || hooks.as_ref().map(Hooks::teller);
        let nodes = Nodes::new(&context.endpoint);
        // Also tells that there is a gap, so it is always there.
        let members = Members {
            nodes: nodes.clone(),
            prints_quorum: wants(Kind::Quorum),
            prints_nodes: wants(Kind::Nodes),
            quorate: None,
            members: None,
            quorum_hook: hooks.as_ref().filter(|_| wants(Kind::Quorum)).map(Hooks::quorum),
            hook: hook(),
        };
        watch.add(quorum::Client::connect_newest, [TrackFlags::CHANGES], members)?;
        let prefixes = [(Kind::Clients, CONNECTIONS), (Kind::Links, LINKS)];
        let prefixes: Vec<_> = prefixes
            .into_iter()
            .filter(|(kind, _)| wants(*kind))
            .map(|(_, prefix)| prefix)
            .collect();
        if !prefixes.is_empty() {
            let events = TrackEvents::ADD | TrackEvents::DELETE | TrackEvents::PREFIX;
            let setups: Vec<_> =
                prefixes.iter().map(|prefix| CmapTracker::new(*prefix, events)).collect();
            let connect = |endpoint: &Endpoint| {
                cmap::Client::connect_with(endpoint, cmap::Options::new().map(Map::Stats))
            };
            let statistics =
                Statistics { nodes, prefixes, known: None, daemon: None, hook: hook() };
            watch.add(connect, setups, statistics)?;
        }
        if wants(Kind::Groups) {
            // No event comes on this connection.
            let endpoint = context.endpoint.clone().ring_size(64 << 10);
            let (poster, hook, interval) = (watch.poster(), hook(), self.interval);
            thread::spawn(move || post_groups(&endpoint, interval, &poster, hook.as_ref()));
        }
        Hooks::end(hooks, watch.run())
    }
}

/// The line of a state, which is a `change` or was so before. Tells the hook a change of `subject`.
fn line(
    event: &'static str,
    change: bool,
    text: String,
    mut members: Json,
    hook: Option<&Teller>,
    subject: &str,
) -> Line {
    members["change"] = json!(change);
    if let Some(hook) = hook.filter(|_| change) {
        let mut document = members.clone();
        document["event"] = json!(event);
        document["time"] = json!(rfc3339(SystemTime::now()));
        hook.tell(format!("{event} {subject}"), move || document);
    }
    Line { event, text, members }
}

/// What happened to a member, or how it is at the beginning.
fn membership(joined: bool, change: bool) -> &'static str {
    match (change, joined) {
        (true, true) => "joined",
        (true, false) => "left",
        (false, true) => "is a member",
        (false, false) => "is no member",
    }
}

/// Prints quorum and who the members are.
struct Members {
    nodes: Nodes,
    prints_quorum: bool,
    prints_nodes: bool,
    quorate: Option<bool>,
    members: Option<BTreeSet<NodeId>>,
    quorum_hook: Option<QuorumHook>,
    hook: Option<Teller>,
}

impl Losing for Members {
    fn lost(&mut self, why: &Json) {
        if let Some(hook) = &self.quorum_hook {
            hook.lost(why.clone());
        }
    }
}

impl Watcher for Members {
    type Client = quorum::Client;

    fn event(
        &mut self,
        client: &quorum::Client,
        event: quorum::Event,
    ) -> Result<Vec<Line>, Failure> {
        let members = members(client, &event).map(|members| members.iter().copied().collect());
        let mut lines = Vec::new();
        if let Some(quorate) = quorate(&event) {
            let change = self.quorate.replace(quorate).is_some_and(|before| before != quorate);
            if let Some(hook) = &self.quorum_hook {
                hook.tell(quorate);
            }
            if self.prints_quorum {
                lines.extend(quorum_lines(event).take(1).map(|mut line| {
                    line.members["change"] = json!(change);
                    line
                }));
            }
        }
        if let Some(members) = members {
            lines.extend(self.node_lines(members));
        }
        Ok(lines)
    }

    fn up(
        &mut self,
        _: &Arc<quorum::Client>,
        _: bool,
        _: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        self.nodes.read();
        Ok(Vec::new())
    }

    fn name(&self, _: &TrackFlags) -> String {
        "quorum".to_owned()
    }
}

/// The members, if the event tells them.
fn members<'a>(client: &quorum::Client, event: &'a quorum::Event) -> Option<&'a [NodeId]> {
    // Without a provider the notification of quorum itself has none.
    let has_provider = client.quorum_type() != QuorumType::FREE;
    match event {
        quorum::Event::Nodelist(event) => Some(&event.members),
        quorum::Event::Quorum(event) => match &event.nodelist {
            Some(nodelist) => Some(&nodelist.members),
            None => Some(&*event.members).filter(|_| has_provider),
        },
        quorum::Event::Notification(event) => Some(&*event.members).filter(|_| has_provider),
        _ => None,
    }
}

impl Members {
    fn node_lines(&mut self, members: BTreeSet<NodeId>) -> Vec<Line> {
        let before = self.members.replace(members.clone());
        if !self.prints_nodes || before.as_ref() == Some(&members) {
            return Vec::new();
        }
        if members.iter().any(|member| self.nodes.get(*member).is_none()) {
            self.nodes.read();
        }
        let (all, change): (Vec<NodeId>, bool) = match before {
            Some(before) => (before.symmetric_difference(&members).copied().collect(), true),
            None => {
                let all: BTreeSet<_> = members.iter().copied().chain(self.nodes.ids()).collect();
                (all.into_iter().collect(), false)
            }
        };
        all.into_iter().map(|node| self.line(node, members.contains(&node), change)).collect()
    }

    fn line(&self, node: NodeId, joined: bool, change: bool) -> Line {
        let (name, addresses) = self.nodes.get(node).unwrap_or_default();
        let text = format!(
            "{} {}, addresses {}",
            named(node, name.as_deref()),
            membership(joined, change),
            printable(&words(&addresses)),
        );
        let members = json!({
            "node_id": node.0, "name": name, "addresses": addresses, "joined": joined,
        });
        line("node", change, text, members, self.hook.as_ref(), &node.to_string())
    }
}

/// The nodes that are configured, with names and addresses.
#[derive(Clone)]
struct Nodes {
    endpoint: Endpoint,
    known: Arc<Mutex<Known>>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<NodeId, ConfiguredAs>,
    local: Option<NodeId>,
}

/// A node's name and addresses.
type ConfiguredAs = (Option<String>, Vec<String>);

impl Nodes {
    fn new(endpoint: &Endpoint) -> Self {
        Self { endpoint: endpoint.clone(), known: Arc::default() }
    }

    /// Reads the list again.
    fn read(&self) {
        let connected = cmap::Client::connect_to(&self.endpoint);
        match connected.and_then(|client| client.nodelist()) {
            Ok(nodelist) => {
                let node = |node: ConfiguredNode| {
                    Some((node.node_id?, (node.name, node.addresses.into_values().collect())))
                };
                let local = nodelist.local().and_then(|node| node.node_id);
                let nodes = nodelist.nodes.into_iter().filter_map(node).collect();
                *self.known() = Known { nodes, local };
            }
            // The end of the daemon is told by itself.
            Err(Error::Disconnected { .. } | Error::NoSocket { .. }) => {}
            Err(error) => complain(&format!("names of nodes: {}", Fault::describe(&error))),
        }
    }

    fn get(&self, node: NodeId) -> Option<ConfiguredAs> {
        self.known().nodes.get(&node).cloned()
    }

    fn ids(&self) -> Vec<NodeId> {
        self.known().nodes.keys().copied().collect()
    }

    fn is_local(&self, node: NodeId) -> bool {
        self.known().local == Some(node)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(node: NodeId, name: Option<&str>) -> String {
    name.map_or_else(|| node.to_string(), |name| format!("{node} ({})", printable(name)))
}

/// What the keys of links begin with.
const LINKS: &str = "stats.knet.node";

/// A thing that has a key in the map of statistics.
#[derive(Clone, Debug, PartialEq)]
enum Thing {
    /// A connection of a client to this node's corosync.
    Connection { service: String, pid: u32, id: String },
    /// A link to a node.
    Link { node: NodeId, link: u8 },
}

/// Prints which clients connect and disconnect, and which links do.
struct Statistics {
    nodes: Nodes,
    prefixes: Vec<&'static str>,
    /// The values, by key: names of clients, and whether links are connected.
    known: Option<BTreeMap<String, (Thing, Value)>>,
    /// The daemon's process.
    daemon: Option<i32>,
    hook: Option<Teller>,
}

impl Losing for Statistics {
    fn is_absent(&self, error: &Error) -> bool {
        let is_absent = matches!(error, Error::Unsupported { .. });
        if is_absent {
            complain(&format!("clients and links: {}", Fault::describe(error)));
        }
        is_absent
    }
}

impl Watcher for Statistics {
    type Client = cmap::Client;

    fn event(&mut self, client: &cmap::Client, event: cmap::Event) -> Result<Vec<Line>, Failure> {
        let cmap::Event::Notification(notification) = event else { return Ok(Vec::new()) };
        let key = notification.key;
        let Some(thing) = self.thing(&key) else { return Ok(Vec::new()) };
        let value = notification.new_value.or(notification.old_value);
        let last = value.clone();
        let value = match (notification.event, &thing) {
            (TrackEvents::DELETE, _) => None,
            (TrackEvents::ADD, Thing::Link { .. }) => follow(client, &key)?,
            _ => value,
        };
        let known = self.known.get_or_insert_default();
        // It may have been found when the map was read, just before.
        let before = match &value {
            Some(value) => known.insert(key, (thing.clone(), value.clone())),
            None => known.remove(&key),
        };
        let before = before.map(|(_, value)| value);
        // Who was connected before the watch began is not known.
        let is_connection = matches!(thing, Thing::Connection { .. });
        let before = before.or(last.filter(|_| is_connection && value.is_none()));
        Ok(if before == value {
            Vec::new()
        } else {
            vec![self.line(&thing, before.as_ref(), value.as_ref(), true)]
        })
    }

    fn up(
        &mut self,
        client: &Arc<cmap::Client>,
        _: bool,
        _: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        let found = match self.read(client) {
            // The end of this connection is told next. What is known is older then.
            Err(Error::Disconnected { .. }) => return Ok(Vec::new()),
            found => found?,
        };
        let change = self.known.is_some();
        let mut before = self.known.take().unwrap_or_default();
        let daemon = client.peer_credentials().pid;
        if self.daemon.replace(daemon) == Some(daemon) && daemon != 0 {
            // Nobody knows who stayed. If the daemon ended, nobody did.
            before.retain(|_, (thing, _)| matches!(thing, Thing::Link { .. }));
        }
        let mut lines = Vec::new();
        for (key, (thing, value)) in &found {
            let was = before.remove(key).filter(|(was, _)| was == thing).map(|(_, value)| value);
            if was.as_ref() != Some(value) {
                lines.push(self.line(thing, was.as_ref(), Some(value), change));
            }
        }
        let gone = before.values();
        lines.extend(gone.map(|(thing, value)| self.line(thing, Some(value), None, change)));
        self.known = Some(found);
        Ok(lines)
    }

    fn name(&self, tracker: &CmapTracker) -> String {
        if tracker.key() == LINKS { "links" } else { "clients" }.to_owned()
    }
}

impl Statistics {
    /// What a key tells of, unless it is this node's link to itself.
    fn thing(&self, key: &str) -> Option<Thing> {
        Thing::of(key).filter(
            |thing| !matches!(thing, Thing::Link { node, .. } if self.nodes.is_local(*node)),
        )
    }

    /// Reads which links there are, and has them tracked. Connections are not looked for: corosync
    /// does not survive that while others connect and disconnect.
    fn read(&self, client: &cmap::Client) -> Result<BTreeMap<String, (Thing, Value)>, Error> {
        let mut found = BTreeMap::new();
        if !self.prefixes.contains(&LINKS) {
            return Ok(found);
        }
        for entry in client.iter(LINKS)? {
            let key = entry?.key;
            let Some(thing) = self.thing(&key) else { continue };
            if let Some(value) = follow(client, &key)? {
                found.insert(key, (thing, value));
            }
        }
        Ok(found)
    }

    /// `None` is the value of what is not there.
    fn line(
        &self,
        thing: &Thing,
        before: Option<&Value>,
        value: Option<&Value>,
        change: bool,
    ) -> Line {
        let hook = self.hook.as_ref();
        match thing {
            Thing::Connection { service, pid, id } => {
                let process = match value.or(before) {
                    Some(Value::String(name)) => Some(name),
                    _ => None,
                };
                let connected = value.is_some();
                let text = format!(
                    "{} (process {pid}) {} {service}",
                    process.map_or_else(|| "-".to_owned(), |name| printable(name)),
                    if connected { "connected to" } else { "disconnected from" },
                );
                let members = json!({
                    "service": service, "process": process, "pid": pid, "connection": id,
                    "connected": connected,
                });
                line("client", change, text, members, hook, &format!("{service} {pid} {id}"))
            }
            Thing::Link { node, link } => {
                let (name, _) = self.nodes.get(*node).unwrap_or_default();
                let connected = value.map(|value| *value != Value::U8(0));
                let state = match connected {
                    Some(true) => "connected".into(),
                    Some(false) => Cell::wrong("disconnected"),
                    None => "gone".into(),
                };
                let is = if change { "" } else { "is " };
                let text = format!("{link} to node {} {is}{state}", named(*node, name.as_deref()));
                let members = json!({
                    "link": link, "node_id": node.0, "name": name, "connected": connected,
                });
                line("link", change, text, members, hook, &format!("{link} {node}"))
            }
        }
    }
}

impl Thing {
    /// What this key tells of: `stats.ipcs.serviceNUMBER.PID.ID.procname` of a connection that is
    /// not of this process, or `stats.knet.nodeID.linkNUMBER.connected` of a link.
    fn of(key: &str) -> Option<Self> {
        if let Some(rest) = key.strip_prefix(LINKS) {
            let (node, rest) = rest.split_once(".link")?;
            let link = rest.strip_suffix(".connected")?;
            return Some(Self::Link { node: NodeId(node.parse().ok()?), link: link.parse().ok()? });
        }
        let mut parts = key.strip_prefix(CONNECTIONS)?.split('.');
        let (number, pid, id) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
        if parts.next()? != "procname" || parts.next().is_some() || pid == process::id() {
            return None;
        }
        // The numbers that corosync gives its services.
        let service = match number {
            "0" => "cmap",
            "1" => "cfg",
            "2" => "cpg",
            "3" => "quorum",
            "5" => "votequorum",
            other => other,
        };
        Some(Self::Connection { service: service.to_owned(), pid, id: id.to_owned() })
    }
}

/// Has the key of a link tracked, and returns its value unless it is gone again: in the map of
/// statistics only a tracker of the key itself is told that its value changes.
fn follow(client: &cmap::Client, key: &str) -> Result<Option<Value>, Error> {
    match client.track_add(key, TrackEvents::MODIFY) {
        Err(Error::Cs { error: CsError::NotExist, .. }) => Ok(None),
        // It changed before it was tracked, or not.
        tracked => tracked.and_then(|_| client.get(key)),
    }
}

/// A member of a group: its name, node and process.
type Member = (Vec<u8>, u32, u32);

/// Posts who joins and leaves groups, as far as it can be seen.
fn post_groups(endpoint: &Endpoint, interval: Duration, poster: &Poster, hook: Option<&Teller>) {
    let mut client: Option<cpg::Client> = None;
    let mut known: Option<BTreeMap<Member, GroupName>> = None;
    let mut told = String::new();
    loop {
        let connected = client.take().map_or_else(|| cpg::Client::connect_to(endpoint), Ok);
        let listed = connected.and_then(|client| {
            let members = client.list(Iteration::All)?;
            Ok((client, members))
        });
        match listed {
            Ok((connected, members)) => {
                client = Some(connected);
                told.clear();
                let member = |one: cpg::Entry| {
                    ((one.group.as_bytes().to_vec(), one.node_id.0, one.pid), one.group)
                };
                let found: BTreeMap<Member, GroupName> = members.into_iter().map(member).collect();
                let change = known.is_some();
                let before = known.replace(found.clone()).unwrap_or_default();
                let left = before.iter().filter(|(member, _)| !found.contains_key(*member));
                let left = left.map(|one| (one, false));
                let joined = found.iter().filter(|(member, _)| !before.contains_key(*member));
                let all = left.chain(joined.map(|one| (one, true)));
                let lines = all.map(|(((_, node, pid), group), joined)| {
                    group_line(group, *node, *pid, joined, change, hook)
                });
                poster.print(lines.collect());
            }
            // The end of the daemon is told by itself.
            Err(Error::Disconnected { .. } | Error::NoSocket { .. }) => {}
            Err(error) => {
                let text = format!("groups: {}", Fault::describe(&error));
                if text != told {
                    complain(&text);
                    told = text;
                }
            }
        }
        thread::sleep(interval);
    }
}

fn group_line(
    group: &GroupName,
    node: u32,
    pid: u32,
    joined: bool,
    change: bool,
    hook: Option<&Teller>,
) -> Line {
    let text = format!("{group} {node}/{pid} {}", membership(joined, change));
    let mut members = json!({ "node_id": node, "pid": pid, "joined": joined });
    add_name(&mut members, group);
    line("group", change, text, members, hook, &format!("{group} {node}/{pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_links_are_known_by_their_keys() {
        assert_eq!(
            Thing::of("stats.ipcs.service2.4711.0x560d.procname"),
            Some(Thing::Connection {
                service: "cpg".to_owned(),
                pid: 4711,
                id: "0x560d".to_owned()
            })
        );
        assert_eq!(
            Thing::of("stats.knet.node12.link7.connected"),
            Some(Thing::Link { node: NodeId(12), link: 7 })
        );
        let own = format!("stats.ipcs.service2.{}.0x560d.procname", process::id());
        for key in [
            own.as_str(),
            "stats.ipcs.service2.4711.0x560d.sent",
            "stats.ipcs.service2.4711.0x560d.procname.more",
            "stats.ipcs.service2.x.0x560d.procname",
            "stats.ipcs.global.active",
            "stats.knet.node12.link7.enabled",
            "stats.knet.node12.link700.connected",
            "stats.knet.handle.rx_crypt_packets",
        ] {
            assert_eq!(Thing::of(key), None, "{key}");
        }
    }
}
