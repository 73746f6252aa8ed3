//! Snapshots, links and nodes for people, and nodes as JSON.

use corosync_ipc::NodeId;
use corosync_ipc::cfg::LinkStatus;
use corosync_ipc::snapshot::{
    Link, LinkNode, Node, NodeLinks, NodeQdevice, Qdevice, Ring, Service, Snapshot,
};
use corosync_ipc::votequorum::InfoFlags;
use serde_json::{Value as Json, json};

use crate::failure::fault_text;
use crate::output::{Column, printable, table, words};

pub(crate) fn ring_json(ring: impl Into<Ring>) -> Json {
    json!(ring.into())
}

/// What is known of the cluster, and the nodes.
pub(crate) fn text(snapshot: &Snapshot) -> String {
    let unknown = || "unknown".to_owned();
    // What is missing, or why it is.
    let missing = |part: &str, otherwise: &str| {
        snapshot.errors.get(part).map_or(otherwise.to_owned(), fault_text)
    };
    let node = match snapshot.node_id {
        Some(node) => node.to_string(),
        None => missing("cfg", "unknown"),
    };
    let name = snapshot.node_name.as_ref().map(|name| format!(" ({name})"));
    let quorate = snapshot.quorate.map(|quorate| if quorate { "yes" } else { "no" }.to_owned());
    let mut lines = vec![
        (
            "Cluster name",
            snapshot.cluster_name.clone().unwrap_or_else(|| missing("cmap", "unknown")),
        ),
        ("Node", node + &name.unwrap_or_default()),
        ("Ring ID", snapshot.ring_id.map_or_else(unknown, |ring| ring.to_string())),
        ("Quorate", quorate.unwrap_or_else(|| missing("quorum", "unknown"))),
        (
            "Quorum provider",
            snapshot.quorum_provider.clone().unwrap_or_else(|| missing("cmap", "not configured")),
        ),
    ];
    if let Some(version) = snapshot.config_version {
        lines.push(("Config version", version.to_string()));
    }
    if let Some(error) = &snapshot.reload_error {
        lines.push(("Last reload", format!("failed: {error}")));
    }
    if let Some(fault) = snapshot.errors.get("votequorum") {
        lines.push(("Votes", fault_text(fault)));
    }
    if let Some(flags) = snapshot.flags {
        let number = |number: Option<u32>| number.unwrap_or_default().to_string();
        let blocked = if flags.contains(InfoFlags::QUORATE) { "" } else { " (activity blocked)" };
        lines.extend([
            ("Expected votes", number(snapshot.expected_votes)),
            ("Highest expected", number(snapshot.highest_expected)),
            ("Total votes", number(snapshot.total_votes)),
            ("Quorum", number(snapshot.quorum) + blocked),
            ("Flags", words(flags.names().map(str::to_ascii_lowercase))),
        ]);
    }
    if let Some(Qdevice { name, votes, configured_votes, .. }) = &snapshot.qdevice {
        let later = if votes == configured_votes {
            String::new()
        } else {
            format!(" ({configured_votes} when it votes)")
        };
        lines.push(("Quorum device", format!("{name}, votes {votes}{later}")));
    }
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{:<18}{}\n", format!("{name}:"), printable(value)));
    let nodes = if snapshot.members.is_some() {
        nodes_text(snapshot)
    } else {
        "Members are not known.\n".to_owned()
    };
    format!("{}\n{nodes}", lines.collect::<String>())
}

/// A table of all nodes.
pub(crate) fn nodes_text(snapshot: &Snapshot) -> String {
    // The placeholder for a missing value, or why it is missing.
    let no = |part: &str| if snapshot.errors.contains_key(part) { "failed" } else { "-" };
    let has_votes = snapshot.flags.is_some() || snapshot.errors.contains_key("votequorum");
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
        let mut row = vec![node.node_id.to_string()];
        if has_votes {
            row.push(node.votes.map_or(no("votequorum").to_owned(), |votes| votes.to_string()));
        }
        let default_state = if node.member { "member" } else { "absent" };
        row.push(node.state.map_or(default_state.to_owned(), |state| state.to_string()));
        if has_devices {
            row.push(qdevice_text(node));
        }
        row.push(node.name.as_deref().unwrap_or(no("cmap")).to_owned());
        let local = if node.local { " (local)" } else { "" };
        row.push(words(node.addresses.values()) + local);
        row
    };
    table(&columns, &snapshot.nodes().map(row).collect::<Vec<_>>())
}

/// As corosync-quorumtool: alive, votes, master wins, each preceded by N if not; NR when no device
/// is registered.
fn qdevice_text(node: &Node) -> String {
    let Some(NodeQdevice { alive, cast_vote, master_wins, .. }) = node.qdevice else {
        // Nothing is known of a node that was never seen.
        return if node.votes.is_some() { "NR" } else { "-" }.to_owned();
    };
    let letter = |is, yes: &str| if is { yes.to_owned() } else { format!("N{yes}") };
    [letter(alive, "A"), letter(cast_vote, "V"), letter(master_wins, "MW")].join(",")
}

/// How messages travel, and which services answer.
pub(crate) fn services_text(services: &[Service]) -> String {
    let transport = services.iter().find_map(|service| service.transport);
    let transport = transport.map(|transport| format!(" (transport {transport})"));
    let mut text = format!("Services{}:\n", transport.unwrap_or_default());
    for service in services {
        let state = match &service.error {
            _ if service.reachable => "reachable".to_owned(),
            None => "none in this corosync".to_owned(),
            Some(_) if service.configured == Some(false) => "not configured".to_owned(),
            Some(fault) => printable(&fault_text(fault)),
        };
        text += &format!("  {:<12}{state}\n", service.service);
    }
    text
}

pub(crate) fn links_text(links: &[Link]) -> String {
    let row = |link: &Link| {
        let number = link.link.map_or("-".to_owned(), |number| number.to_string());
        vec![number, carrier(link), link.address.clone(), link_state(link)]
    };
    let columns = [
        Column::Number("LINK"),
        Column::Text("PROTOCOL"),
        Column::Text("ADDRESS"),
        Column::Text("STATUS"),
    ];
    table(&columns, &links.iter().map(row).collect::<Vec<_>>())
}

/// The transport, and what carries it where that is not the same: `knet/udp`.
fn carrier(link: &Link) -> String {
    match (link.transport.as_deref(), link.protocol.as_deref()) {
        (Some("knet"), Some(protocol)) => format!("knet/{protocol}"),
        (Some(transport), _) => transport.to_owned(),
        (None, _) if link.error.is_some() => "failed".to_owned(),
        (None, _) => "-".to_owned(),
    }
}

fn link_state(link: &Link) -> String {
    let Some(ends) = &link.nodes else {
        let failed = || link.error.as_ref().map(fault_text).unwrap_or_default();
        return link.status.clone().unwrap_or_else(failed);
    };
    if ends.is_empty() {
        return "no other node".to_owned();
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
            said.push(format!("{state} {}", words(nodes)));
        }
    }
    said.join(", ")
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
            (_, Some(fault)) => fault_text(fault),
            _ if node.local => "local".to_owned(),
            (None, _) => "unknown".to_owned(),
            (Some(status), _) if status.reachable => {
                let extra = [(status.remote, " remote"), (status.external, " external")];
                extra
                    .into_iter()
                    .filter(|(is, _)| *is)
                    .fold("reachable".to_owned(), |state, (_, word)| state + word)
            }
            (Some(_), _) => "unreachable".to_owned(),
        };
        let name = node.name.as_deref().unwrap_or("-").to_owned();
        let of_node = [node.node_id.to_string(), name, state];
        let links = node.status.iter().filter(|_| !node.local).flat_map(|status| &status.links);
        let mut links: Vec<_> = links.map(link_cells).collect();
        if links.is_empty() {
            links.push(["-"; 4].map(str::to_owned));
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

fn link_cells(link: &LinkStatus) -> [String; 4] {
    let status = match (link.enabled, link.connected) {
        (false, _) => "disabled",
        (_, true) => "connected",
        (_, false) => "disconnected",
    };
    // With udpu the source is the other node's.
    let address = [&link.destination, &link.source].into_iter().find(|it| !it.is_empty());
    [link.link.to_string(), status.to_owned(), link.mtu.to_string(), words(address)]
}
