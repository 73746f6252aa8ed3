//! What a snapshot of the cluster says, as metrics.

use std::collections::BTreeMap;
use std::time::SystemTime;

use corosync_ipc::NodeId;
use corosync_ipc::quorum::Ring;
use corosync_ipc::snapshot::{Link, Node, Snapshot};
use corosync_ipc::votequorum::InfoFlags;

use super::families::Families;
use super::metrics::*;
use super::stats::End;

/// The name that corosync-qdevice registers with.
const QDEVICE: &str = "Qdevice";

/// Adds everything that a snapshot says, and returns this node's links to others.
pub(super) fn add(snapshot: &Snapshot, families: &mut Families) -> Vec<End> {
    let names: BTreeMap<NodeId, String> =
        snapshot.nodes().map(|node| (node.node_id, name(node))).collect();
    add_as_ha_cluster_exporter(snapshot, families);
    add_cluster(snapshot, families);
    add_nodes(snapshot, families);
    add_links(snapshot.links.as_deref().unwrap_or_default(), &names, families)
}

/// The name of a node, or what else tells it from others.
fn name(node: &Node) -> String {
    let address = || node.addresses.values().next().cloned();
    node.name.clone().or_else(address).unwrap_or_else(|| node.node_id.to_string())
}

/// Adds the samples that ha_cluster_exporter makes of the text of corosync-quorumtool and
/// corosync-cfgtool.
fn add_as_ha_cluster_exporter(snapshot: &Snapshot, families: &mut Families) {
    if let Some(quorate) = snapshot.quorate {
        families.add(&HA_QUORATE, [], quorate);
    }
    for (kind, votes) in [
        ("expected_votes", snapshot.expected_votes),
        ("highest_expected", snapshot.highest_expected),
        ("total_votes", snapshot.total_votes),
        ("quorum", snapshot.quorum),
    ] {
        if let Some(votes) = votes {
            families.add(&HA_QUORUM_VOTES, [kind], votes);
        }
    }
    for node in snapshot.members.iter().flatten() {
        if let Some(votes) = node.votes {
            let local = if node.local { "true" } else { "false" };
            families.add(&HA_MEMBER_VOTES, [&node.node_id.to_string(), &name(node), local], votes);
        }
    }
    // As corosync-quorumtool: a line for the device where any member has one, with its votes if it
    // casts them here.
    if has_qdevice(snapshot) {
        let (name, votes) = match &snapshot.qdevice {
            Some(device) => (device.name.as_str(), device.votes),
            None => (QDEVICE, 0),
        };
        families.add(&HA_MEMBER_VOTES, ["0", name, "false"], votes);
    }
    if let Some(links) = &snapshot.links {
        let generation = snapshot.daemon.as_ref().and_then(|daemon| daemon.generation.as_ref());
        let versions = generation.map(|one| (one.since.as_str(), one.before.as_deref()));
        let ring = snapshot.ring_id.map_or_else(String::new, |ring| printed(ring, versions));
        let node_id = snapshot.node_id.map_or_else(String::new, |node| node.to_string());
        for (position, link) in (0_u8..).zip(links) {
            let number = link.link.unwrap_or(position).to_string();
            if let Some(healthy) = link.healthy {
                families.add(&HA_RINGS, [&ring, &node_id, &number, &link.address], healthy);
            }
        }
        let errors = links.iter().filter(|link| link.healthy == Some(false)).count();
        families.add(&HA_RING_ERRORS, [], errors);
    }
}

/// Whether any member has a quorum device.
fn has_qdevice(snapshot: &Snapshot) -> bool {
    snapshot.members.iter().flatten().any(|node| node.qdevice.is_some())
}

/// A ring's id as the corosync-quorumtool of a daemon prints it. `versions` says what is known of
/// the daemon's: since and before. corosync 3.0.0 to 3.0.2, which no key tells from 3.0.3, print it
/// as 2.4 does.
fn printed(ring: Ring, versions: Option<(&str, Option<&str>)>) -> String {
    let Some((since, Some("2.0" | "2.1" | "2.3.2" | "2.3.5" | "2.99"))) = versions else {
        return ring.to_string();
    };
    match ring.node_id {
        // The newest that a key tells from older ones is 2.3.5.
        Some(node_id) if since == "2.3.5" => format!("{node_id}/{}", ring.seq),
        _ => ring.seq.to_string(),
    }
}

fn add_cluster(snapshot: &Snapshot, families: &mut Families) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let transport = snapshot.links.iter().flatten().find_map(|link| link.transport.clone());
    let provider = text(&snapshot.quorum_provider);
    families.add(
        &CLUSTER_INFO,
        [&text(&snapshot.cluster_name), &text(&transport), &provider],
        true,
    );
    if let Some(node_id) = snapshot.node_id {
        let name = snapshot.local().map(name).unwrap_or_default();
        let transport = snapshot.daemon.as_ref().map(|daemon| daemon.transport.to_string());
        let labels = [&node_id.to_string(), &name, &text(&transport)];
        families.add(&LOCAL_NODE_INFO, labels.map(String::as_str), true);
    }
    let started = snapshot.daemon.as_ref().and_then(|daemon| daemon.started);
    if let Some(Ok(started)) = started.map(|time| time.duration_since(SystemTime::UNIX_EPOCH)) {
        families.add(&START_TIME, [], started.as_secs_f64());
    }
    if let Some(version) = snapshot.config_version {
        families.add(&CONFIG_VERSION, [], version);
        families.add(&RELOAD_FAILED, [], snapshot.reload_error.is_some());
    }
    if let Some(ring) = snapshot.ring_id {
        families.add(&RING_SEQUENCE, [], ring.seq);
    }
    if let Some(flags) = snapshot.flags {
        for (name, flag) in [
            ("two_node", InfoFlags::TWO_NODE),
            ("wait_for_all", InfoFlags::WAIT_FOR_ALL),
            ("last_man_standing", InfoFlags::LAST_MAN_STANDING),
            ("auto_tie_breaker", InfoFlags::AUTO_TIE_BREAKER),
            ("allow_downscale", InfoFlags::ALLOW_DOWNSCALE),
        ] {
            families.add(&VOTEQUORUM_FLAG, [name], flags.contains(flag));
        }
    }
    if let Some(device) = &snapshot.qdevice {
        families.add(&QDEVICE_VOTES, [], device.configured_votes);
    }
}

fn add_nodes(snapshot: &Snapshot, families: &mut Families) {
    if let Some(members) = &snapshot.members {
        families.add(&MEMBERS, [], members.len());
    }
    let has_qdevice = has_qdevice(snapshot);
    for node in snapshot.nodes() {
        let (node_id, name) = (node.node_id.to_string(), name(node));
        families.add(&NODE_MEMBER, [&node_id, &name], node.member);
        if !node.member || !has_qdevice {
            continue;
        }
        let device = node.qdevice;
        for (state, is) in [
            ("registered", device.is_some()),
            ("alive", device.is_some_and(|device| device.alive)),
            ("casts_vote", device.is_some_and(|device| device.cast_vote)),
            ("master_wins", device.is_some_and(|device| device.master_wins)),
        ] {
            families.add(&QDEVICE_STATE, [&node_id, &name, state], is);
        }
    }
}

fn add_links(
    links: &[Link],
    names: &BTreeMap<NodeId, String>,
    families: &mut Families,
) -> Vec<End> {
    let mut ends = Vec::new();
    for link in links {
        let Some(number) = link.link else { continue };
        for other in link.nodes.iter().flatten() {
            let name = names.get(&other.node_id).cloned();
            let node = name.or_else(|| other.name.clone()).unwrap_or_default();
            let end = End { link: number, node_id: other.node_id, node };
            if let Some(connected) = other.connected {
                end.add(families, &LINK_CONNECTED, connected);
            }
            if let Some(enabled) = other.enabled {
                end.add(families, &LINK_ENABLED, enabled);
            }
            if let Some(mtu) = other.mtu {
                end.add(families, &LINK_MTU, mtu);
            }
            ends.push(end);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_id_reads_as_the_tool_of_its_time_prints_it() {
        let ring = Ring { node_id: Some(NodeId(1_084_780_051)), seq: 709 };
        let without = Ring { node_id: None, seq: 709 };
        for (ring, versions, text) in [
            (ring, Some(("3.1", Some("3.2"))), "40a86e13.2c5"),
            (ring, Some(("3.2", None)), "40a86e13.2c5"),
            (ring, Some(("2.99", Some("3.1"))), "40a86e13.2c5"),
            (ring, Some(("2.3.5", Some("2.99"))), "1084780051/709"),
            (without, Some(("2.3.5", Some("2.99"))), "709"),
            (ring, Some(("2.0", Some("2.1"))), "709"),
            (without, Some(("1.99", Some("2.0"))), "709"),
            (ring, None, "40a86e13.2c5"),
        ] {
            assert_eq!(printed(ring, versions), text, "{versions:?}");
        }
    }
}
