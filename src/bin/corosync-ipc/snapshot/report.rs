//! A snapshot for people and as JSON.

use corosync_ipc::votequorum::{Info, InfoFlags};
use serde_json::{Value as Json, json};

use crate::failure::Fault;
use crate::output::{Column, printable, table, words};
use crate::snapshot::{Node, Ring, Snapshot};

/// The whole snapshot.
pub(crate) fn json(snapshot: &Snapshot) -> Json {
    let votes = |field: fn(&Info) -> u32| snapshot.votes.as_ref().map(field);
    let view = snapshot.view.as_ref();
    let nodes = |nodes: &[Node], member| {
        nodes.iter().map(|node| node_json(snapshot, node, member)).collect::<Json>()
    };
    json!({
        "cluster_name": snapshot.cluster_name,
        "node_id": snapshot.node_id.map(|node| node.0),
        "node_name": snapshot.local().and_then(|node| node.name.as_deref()),
        "ring_id": view.and_then(|view| view.ring).map(ring_json),
        "quorate": view.map(|view| view.quorate),
        "quorum_provider": snapshot.provider,
        "expected_votes": votes(|info| info.expected_votes),
        "highest_expected": votes(|info| info.highest_expected),
        "total_votes": votes(|info| info.total_votes),
        "quorum": votes(|info| info.quorum),
        "flags": snapshot.votes.as_ref().map(|info| flag_names(info.flags)),
        "qdevice": qdevice_json(snapshot),
        "members": view.map(|_| nodes(&snapshot.members, true)),
        "absent": view.map(|_| nodes(&snapshot.absent, false)),
        "errors": snapshot.faults.json(),
    })
}

/// Members first, then who is absent.
pub(crate) fn nodes_json(snapshot: &Snapshot) -> Json {
    let members = snapshot.members.iter().map(|node| node_json(snapshot, node, true));
    members.chain(snapshot.absent.iter().map(|node| node_json(snapshot, node, false))).collect()
}

pub(crate) fn ring_json(ring: Ring) -> Json {
    json!({ "node_id": ring.node_id.map(|id| id.0), "seq": ring.seq })
}

fn node_json(snapshot: &Snapshot, node: &Node, member: bool) -> Json {
    let flag = |info: &Info, flag| info.flags.contains(flag);
    let registered = node.votes.as_ref().filter(|info| is_registered(info));
    json!({
        "node_id": node.node_id.0,
        "name": node.name,
        "addresses": node.addresses,
        "local": node.local,
        "member": member,
        "state": state(node),
        "votes": node.votes.as_ref().map(|info| info.votes),
        "qdevice": registered.map(|info| json!({
            "alive": flag(info, InfoFlags::QDEVICE_ALIVE),
            "cast_vote": flag(info, InfoFlags::QDEVICE_CAST_VOTE),
            "master_wins": flag(info, InfoFlags::QDEVICE_MASTER_WINS),
        })),
        "errors": snapshot.faults.json(),
    })
}

/// `None` if votequorum does not report it.
fn state(node: &Node) -> Option<String> {
    node.votes.as_ref().and_then(|info| info.state).map(|state| state.to_string())
}

fn qdevice_json(snapshot: &Snapshot) -> Option<Json> {
    let info = snapshot.votes.as_ref().filter(|_| snapshot.has_qdevice())?;
    Some(
        json!({ "name": info.qdevice_name, "votes": qdevice_votes(info), "configured_votes": info.qdevice_votes }),
    )
}

/// The votes of the quorum device that count.
fn qdevice_votes(info: &Info) -> u32 {
    if info.flags.contains(InfoFlags::QDEVICE_CAST_VOTE) { info.qdevice_votes } else { 0 }
}

fn flag_names(flags: InfoFlags) -> Vec<String> {
    flags.names().map(str::to_ascii_lowercase).collect()
}

/// What is known of the cluster, and the nodes.
pub(crate) fn text(snapshot: &Snapshot) -> String {
    let unknown = || "unknown".to_owned();
    // What is missing, or why it is.
    let missing = |part: &str, otherwise: &str| {
        snapshot.faults.get(part).map_or(otherwise.to_owned(), Fault::text)
    };
    let node = match snapshot.node_id {
        Some(node) => node.to_string(),
        None => missing("cfg", "unknown"),
    };
    let name =
        snapshot.local().and_then(|node| node.name.as_ref()).map(|name| format!(" ({name})"));
    let ring = snapshot.view.as_ref().and_then(|view| view.ring);
    let quorate =
        snapshot.view.as_ref().map(|view| if view.quorate { "yes" } else { "no" }.to_owned());
    let mut lines = vec![
        (
            "Cluster name",
            snapshot.cluster_name.clone().unwrap_or_else(|| missing("cmap", "unknown")),
        ),
        ("Node", node + &name.unwrap_or_default()),
        ("Ring ID", ring.map_or_else(unknown, ring_text)),
        ("Quorate", quorate.unwrap_or_else(|| missing("quorum", "unknown"))),
        (
            "Quorum provider",
            snapshot.provider.clone().unwrap_or_else(|| missing("cmap", "not configured")),
        ),
    ];
    if let Some(fault) = snapshot.faults.get("votequorum") {
        lines.push(("Votes", fault.text()));
    }
    if let Some(info) = &snapshot.votes {
        let blocked =
            if info.flags.contains(InfoFlags::QUORATE) { "" } else { " (activity blocked)" };
        lines.extend([
            ("Expected votes", info.expected_votes.to_string()),
            ("Highest expected", info.highest_expected.to_string()),
            ("Total votes", info.total_votes.to_string()),
            ("Quorum", format!("{}{blocked}", info.quorum)),
            ("Flags", words(flag_names(info.flags))),
        ]);
        if snapshot.has_qdevice() {
            let (votes, configured) = (qdevice_votes(info), info.qdevice_votes);
            let later = if votes == configured {
                String::new()
            } else {
                format!(" ({configured} when it votes)")
            };
            lines.push(("Quorum device", format!("{}, votes {votes}{later}", info.qdevice_name)));
        }
    }
    let lines = lines
        .iter()
        .map(|(name, value)| format!("{:<18}{}\n", format!("{name}:"), printable(value)));
    let nodes = if snapshot.view.is_some() {
        nodes_text(snapshot)
    } else {
        "Members are not known.\n".to_owned()
    };
    format!("{}\n{nodes}", lines.collect::<String>())
}

/// A table of all nodes.
pub(crate) fn nodes_text(snapshot: &Snapshot) -> String {
    // The placeholder for a missing value, or why it is missing.
    let no = |part: &str| if snapshot.faults.get(part).is_some() { "failed" } else { "-" };
    let has_votes = snapshot.votes.is_some() || snapshot.faults.get("votequorum").is_some();
    let has_device = |node: &Node| node.votes.as_ref().is_some_and(is_registered);
    let has_devices = snapshot.members.iter().any(has_device);
    let mut columns = vec![Column::Number("ID")];
    if has_votes {
        columns.push(Column::Number("VOTES"));
    }
    columns.push(Column::Text("STATE"));
    if has_devices {
        columns.push(Column::Text("QDEVICE"));
    }
    columns.extend([Column::Text("NAME"), Column::Text("ADDRESS")]);
    let mut rows = Vec::new();
    let members = snapshot.members.iter().map(|node| (node, "member"));
    for (node, default_state) in members.chain(snapshot.absent.iter().map(|node| (node, "absent")))
    {
        let mut row = vec![node.node_id.to_string()];
        if has_votes {
            row.push(
                node.votes
                    .as_ref()
                    .map_or(no("votequorum").to_owned(), |info| info.votes.to_string()),
            );
        }
        row.push(state(node).unwrap_or_else(|| default_state.to_owned()));
        if has_devices {
            row.push(node.votes.as_ref().map_or("-".to_owned(), qdevice_text));
        }
        row.push(node.name.as_deref().unwrap_or(no("cmap")).to_owned());
        let local = if node.local { " (local)" } else { "" };
        row.push(words(&node.addresses) + local);
        rows.push(row);
    }
    table(&columns, &rows)
}

fn is_registered(info: &Info) -> bool {
    info.flags.contains(InfoFlags::QDEVICE_REGISTERED)
}

/// As corosync-quorumtool: alive, votes, master wins, each preceded by N if not; NR when no device
/// is registered.
fn qdevice_text(info: &Info) -> String {
    if !is_registered(info) {
        return "NR".to_owned();
    }
    let letter = |flag, yes: &str| {
        if info.flags.contains(flag) { yes.to_owned() } else { format!("N{yes}") }
    };
    [
        letter(InfoFlags::QDEVICE_ALIVE, "A"),
        letter(InfoFlags::QDEVICE_CAST_VOTE, "V"),
        letter(InfoFlags::QDEVICE_MASTER_WINS, "MW"),
    ]
    .join(",")
}

pub(crate) fn ring_text(ring: Ring) -> String {
    let Ring { node_id, seq } = ring;
    // Both in hexadecimal, as corosync prints them.
    node_id.map_or_else(|| format!("?.{seq:x}"), |node_id| format!("{:x}.{seq:x}", node_id.0))
}
