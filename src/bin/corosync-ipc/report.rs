//! Snapshots, links and nodes for people, and nodes as JSON.

use corosync_ipc::NodeId;
use corosync_ipc::cfg::LinkStatus;
use corosync_ipc::snapshot::{
    Daemon, Link, LinkNode, Node, NodeLinks, NodeQdevice, Qdevice, Ring, Service, Snapshot, part,
};
use corosync_ipc::votequorum::InfoFlags;
use humantime::format_rfc3339_seconds;
use serde_json::{Value as Json, json};

use crate::failure::fault_text;
use crate::output::{Cell, Column, Field, fields, table, words};

pub(crate) fn ring_json(ring: impl Into<Ring>) -> Json {
    json!(ring.into())
}

/// What is known of the cluster, and the nodes.
pub(crate) fn text(snapshot: &Snapshot) -> String {
    format!("{}\n{}", fields(cluster(snapshot)), nodes_text(snapshot))
}

/// What is known of the cluster.
pub(crate) fn cluster(snapshot: &Snapshot) -> Vec<Field> {
    // What is missing, or why it is.
    let missing = |part: &str, otherwise: &str| {
        snapshot.errors.get(part).map_or(otherwise.into(), Cell::failed)
    };
    let known = |value: &Option<String>| value.as_deref().map(Cell::from);
    let node = snapshot.node_id.map_or_else(
        || missing(part::CFG, "unknown"),
        |node| match &snapshot.node_name {
            Some(name) => format!("{node} ({name})").into(),
            None => node.to_string().into(),
        },
    );
    let quorate =
        snapshot.quorate.map(|quorate| if quorate { "yes".into() } else { Cell::wrong("no") });
    let mut lines: Vec<Field> = vec![
        (
            "Cluster name",
            known(&snapshot.cluster_name).unwrap_or_else(|| missing(part::CMAP, "unknown")),
        ),
        ("Node", node),
        ("Ring ID", snapshot.ring_id.map_or("unknown".into(), |ring| ring.to_string().into())),
        ("Quorate", quorate.unwrap_or_else(|| missing(part::QUORUM, "unknown"))),
        (
            "Quorum provider",
            known(&snapshot.quorum_provider)
                .unwrap_or_else(|| missing(part::CMAP, "not configured")),
        ),
    ];
    if let Some(version) = snapshot.config_version {
        lines.push(("Config version", version.to_string().into()));
    }
    if let Some(error) = &snapshot.reload_error {
        lines.push(("Last reload", Cell::wrong(format!("failed: {error}"))));
    }
    if let Some(fault) = snapshot.errors.get(part::VOTEQUORUM) {
        lines.push(("Votes", Cell::failed(fault)));
    }
    if let Some(flags) = snapshot.flags {
        let number = |number: Option<u32>| number.unwrap_or_default().to_string();
        let is_blocked = !flags.contains(InfoFlags::QUORATE);
        let blocked = if is_blocked { " (activity blocked)" } else { "" };
        lines.extend([
            ("Expected votes", number(snapshot.expected_votes).into()),
            ("Highest expected", number(snapshot.highest_expected).into()),
            ("Total votes", number(snapshot.total_votes).into()),
            ("Quorum", Cell::wrong_if(is_blocked, number(snapshot.quorum) + blocked)),
            ("Flags", words(flags.names().map(str::to_ascii_lowercase)).into()),
        ]);
    }
    if let Some(Qdevice { name, votes, configured_votes, .. }) = &snapshot.qdevice {
        let is_silent = votes != configured_votes;
        let later =
            if is_silent { format!(" ({configured_votes} when it votes)") } else { String::new() };
        let device = format!("{name}, votes {votes}{later}");
        lines.push(("Quorum device", Cell::wrong_if(is_silent, device)));
    }
    lines
}

/// What is known of the daemon, and which services answer.
pub(crate) fn daemon(snapshot: &Snapshot) -> Vec<Field> {
    let mut lines = Vec::new();
    if let Some(Daemon { generation, pid, uid, transport, started, .. }) = &snapshot.daemon {
        let version = generation.as_ref().map(|generation| generation.to_string().into());
        let fault = || snapshot.errors.get(part::CMAP).map_or("unknown".into(), Cell::failed);
        let started = started.map(|time| format!(", started {}", format_rfc3339_seconds(time)));
        lines.extend([
            ("Daemon", (process(*pid, *uid) + &started.unwrap_or_default()).into()),
            ("Version", version.unwrap_or_else(fault)),
            ("Transport", transport.to_string().into()),
        ]);
    }
    let reachable = snapshot.services.iter().filter(|service| service.reachable);
    lines.push(("Services", words(reachable.map(|service| &service.service)).into()));
    for service in &snapshot.services {
        let said = match service.fault() {
            Some(fault) => Cell::wrong(format!("{} {}", service.service, fault_text(fault))),
            None if is_unconfigured(service) => {
                format!("{} is not configured", service.service).into()
            }
            None => continue,
        };
        lines.push(("", said));
    }
    lines
}

/// Whether corosync would have this service if it was configured, unlike evs.
pub(crate) fn is_unconfigured(service: &Service) -> bool {
    service.service == part::VOTEQUORUM && service.configured == Some(false)
}

/// A process that answers.
pub(crate) fn process(pid: Option<u32>, uid: u32) -> String {
    match pid {
        Some(pid) => format!("process {pid} (uid {uid})"),
        None => format!("a process of another pid namespace (uid {uid})"),
    }
}

/// A table of all nodes.
pub(crate) fn nodes_text(snapshot: &Snapshot) -> String {
    if snapshot.members.is_none() {
        return format!("{}\n", Cell::wrong("Members are not known."));
    }
    // The placeholder for a missing value, or why it is missing.
    let no = |part: &str| match snapshot.errors.contains_key(part) {
        true => Cell::wrong("failed"),
        false => "-".into(),
    };
    let has_votes = snapshot.flags.is_some() || snapshot.errors.contains_key(part::VOTEQUORUM);
    let has_devices = snapshot.members.iter().flatten().any(|node| node.qdevice.is_some());
    let mut columns = vec![Column::Number("ID")];
    if has_votes {
        columns.push(Column::Number("VOTES"));
    }
    columns.push(Column::Text("STATE"));
    if has_devices {
        columns.push(Column::Text("QDEVICE"));
    }
    columns.extend([Column::Text("NAME"), Column::Text("ADDRESS")]);
    let row = |node: &Node| {
        let mut row: Vec<Cell> = vec![node.node_id.to_string().into()];
        if has_votes {
            row.push(
                node.votes.map_or_else(|| no(part::VOTEQUORUM), |votes| votes.to_string().into()),
            );
        }
        let default_state = if node.member { "member" } else { "absent" };
        let state = node.state.map_or(default_state.to_owned(), |state| state.to_string());
        row.push(Cell::wrong_if(!node.member, state));
        if has_devices {
            row.push(qdevice_text(node));
        }
        row.push(node.name.as_deref().map_or_else(|| no(part::CMAP), Cell::from));
        let local = if node.local { " (local)" } else { "" };
        row.push((words(node.addresses.values()) + local).into());
        row
    };
    table(&columns, &snapshot.nodes().map(row).collect::<Vec<_>>())
}

/// As corosync-quorumtool: alive, votes, master wins, each preceded by N if not; NR when no device
/// is registered.
fn qdevice_text(node: &Node) -> Cell {
    let Some(NodeQdevice { alive, cast_vote, master_wins, .. }) = node.qdevice else {
        // Nothing is known of a node that was never seen.
        return if node.votes.is_some() { "NR" } else { "-" }.into();
    };
    let letter = |is, yes: &str| if is { yes.to_owned() } else { format!("N{yes}") };
    let letters = [letter(alive, "A"), letter(cast_vote, "V"), letter(master_wins, "MW")];
    Cell::wrong_if(!alive || !cast_vote, letters.join(","))
}

pub(crate) fn links_text(links: &[Link]) -> String {
    let row = |link: &Link| {
        let number = link.link.map_or("-".into(), |number| number.to_string().into());
        let mtu = link.mtu.map_or("-".into(), |mtu| mtu.to_string().into());
        vec![number, carrier(link), link.address.as_str().into(), mtu, link_state(link)]
    };
    let columns = [
        Column::Number("LINK"),
        Column::Text("PROTOCOL"),
        Column::Text("ADDRESS"),
        Column::Number("MTU"),
        Column::Text("STATUS"),
    ];
    table(&columns, &links.iter().map(row).collect::<Vec<_>>())
}

/// The transport, and what carries it where that is not the same: `knet/udp`.
fn carrier(link: &Link) -> Cell {
    match (link.transport.as_deref(), link.protocol.as_deref()) {
        (Some("knet"), Some(protocol)) => format!("knet/{protocol}").into(),
        (Some(transport), _) => transport.into(),
        (None, _) if link.error.is_some() => Cell::wrong("failed"),
        (None, _) => "-".into(),
    }
}

fn link_state(link: &Link) -> Cell {
    let Some(ends) = &link.nodes else {
        let failed = || link.error.as_ref().map(Cell::failed).unwrap_or_default();
        let status = |status: &String| Cell::wrong_if(link.healthy == Some(false), status.as_str());
        return link.status.as_ref().map_or_else(failed, status);
    };
    if ends.is_empty() {
        return "no other node".into();
    }
    let word = |end: &LinkNode| match (end.connected, &end.error) {
        (Some(true), _) => "connected",
        (Some(false), _) => "disconnected",
        (None, None) => "unknown",
        (None, Some(_)) => "failed",
    };
    let mut said = Vec::new();
    for state in ["connected", "disconnected", "unknown", "failed"] {
        let nodes: Vec<NodeId> =
            ends.iter().filter(|end| word(end) == state).map(|end| end.node_id).collect();
        if !nodes.is_empty() {
            let is_wrong = ["disconnected", "failed"].contains(&state);
            said.push(Cell::wrong_if(is_wrong, format!("{state} {}", words(nodes))));
        }
    }
    Cell::join(said, ", ")
}

/// An array of nodes with their links.
pub(crate) fn node_links_json(nodes: &[NodeLinks]) -> Json {
    let node = |node: &NodeLinks| {
        let status = node.status.as_ref();
        let onwire = status.filter(|status| status.onwire_max != 0);
        let mut node_json = json!({
            "node_id": node.node_id,
            "name": node.name,
            "local": node.local,
            "reachable": status.map(|status| status.reachable),
            "remote": status.map(|status| status.remote),
            "external": status.map(|status| status.external),
            "onwire": onwire.map(|status| json!({
                "min": status.onwire_min,
                "max": status.onwire_max,
                "version": status.onwire_version,
            })),
            "links": status.map(|status| &status.links),
            "error": null,
            "cs_error": null,
        });
        if let Some(fault) = &node.error {
            node_json["error"] = json!(fault.error);
            node_json["cs_error"] = json!(fault.cs_error);
        }
        node_json
    };
    nodes.iter().map(node).collect()
}

/// A table of nodes, with a row for each link to a node.
pub(crate) fn node_links_text(nodes: &[NodeLinks]) -> String {
    let mut rows = Vec::new();
    for node in nodes {
        let state = match (&node.status, &node.error) {
            (_, Some(fault)) => Cell::failed(fault),
            _ if node.local => "local".into(),
            (None, _) => "unknown".into(),
            (Some(status), _) if status.reachable => {
                let extra = [(status.remote, " remote"), (status.external, " external")];
                extra
                    .into_iter()
                    .filter(|(is, _)| *is)
                    .fold("reachable".to_owned(), |state, (_, word)| state + word)
                    .into()
            }
            (Some(_), _) => Cell::wrong("unreachable"),
        };
        let name = node.name.as_deref().unwrap_or("-");
        let of_node = [node.node_id.to_string().into(), name.into(), state];
        let links = node.status.iter().filter(|_| !node.local).flat_map(|status| &status.links);
        let mut links: Vec<_> = links.map(link_cells).collect();
        if links.is_empty() {
            links.push(["-"; 4].map(Cell::from));
        }
        rows.extend(links.iter().map(|link| [&of_node[..], link].concat()));
    }
    let columns = [
        Column::Number("ID"),
        Column::Text("NAME"),
        Column::Text("STATE"),
        Column::Number("LINK"),
        Column::Text("STATUS"),
        Column::Number("MTU"),
        Column::Text("ADDRESS"),
    ];
    table(&columns, &rows)
}

fn link_cells(link: &LinkStatus) -> [Cell; 4] {
    let status = match (link.enabled, link.connected) {
        (false, _) => Cell::wrong("disabled"),
        (_, true) => "connected".into(),
        (_, false) => Cell::wrong("disconnected"),
    };
    // With udpu the source is the other node's.
    let address = [&link.destination, &link.source].into_iter().find(|it| !it.is_empty());
    [link.link.to_string().into(), status, link.mtu.to_string().into(), words(address).into()]
}
