//! The configuration of a node, and the keys that the map has at the daemon's start.

use super::ServiceId;
use super::cmap::preset;
use super::icmap::Icmap;
use crate::cmap::Value;
use crate::codec::Header;
use crate::wire::values::NodeId;

/// The corosync version whose messages a daemon speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// corosync 1.99.9.
    V1_99,
    /// corosync 2.4.6.
    V2_4,
    /// corosync 3.1.7.
    #[default]
    V3_1,
}

impl Version {
    /// The services that the daemon loads, indexed by service id: short name, and the number of
    /// kinds of messages that nodes send each other.
    fn services(self) -> [(&'static str, u32); 8] {
        let [cmap, cfg, cpg] = match self {
            Self::V1_99 => [0, 3, 6],
            Self::V2_4 => [1, 4, 7],
            Self::V3_1 => [1, 5, 7],
        };
        [
            ("cmap", cmap),
            ("cfg", cfg),
            ("cpg", cpg),
            ("quorum", 0),
            ("pload", 2),
            ("votequorum", 4),
            ("mon", 0),
            ("wd", 0),
        ]
    }

    /// Returns true if a request crashes the daemon. Before 2.99 each id that is not in the
    /// daemon's tables does.
    pub(super) fn crashes_on(self, service: ServiceId, message: &[u8]) -> bool {
        let known = match service {
            _ if self == Self::V3_1 => return false,
            ServiceId::Cmap => 9,
            ServiceId::Cfg if self == Self::V1_99 => 7,
            ServiceId::Cfg => 8,
            ServiceId::Cpg if self == Self::V1_99 => 12,
            ServiceId::Cpg => 13,
            ServiceId::Quorum => 4,
            ServiceId::Votequorum => 10,
            // evs has no newer requests.
            ServiceId::Evs => return false,
        };
        Header::id_of(message).is_some_and(|id| !(0..known).contains(&id))
    }
}

/// A node of the nodelist.
#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) id: NodeId,
    /// Empty: none is configured.
    pub(crate) name: String,
    pub(crate) address: String,
    /// `None`: not configured, which means one vote.
    pub(crate) votes: Option<u32>,
}

/// The content of corosync.conf, and the version of the corosync that reads it.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) version: Version,
    pub(crate) cluster_name: String,
    pub(crate) nodes: Vec<NodeConfig>,
    /// Further keys with the types that the daemon's parser gives them.
    pub(crate) settings: Vec<(String, Value)>,
}

/// The read-only keys: a key, and true if it is a prefix. Matches `set_icmap_ro_keys_flag`.
const READ_ONLY: [(&str, bool); 25] = [
    ("internal_configuration.", true),
    ("runtime.services.", true),
    ("runtime.config.", true),
    ("runtime.totem.", true),
    ("uidgid.config.", true),
    ("system.", true),
    ("nodelist.", true),
    ("totem.crypto_cipher", false),
    ("totem.crypto_hash", false),
    ("totem.crypto_model", false),
    ("totem.keyfile", false),
    ("totem.key", false),
    ("totem.secauth", false),
    ("totem.ip_version", false),
    ("totem.rrp_mode", false),
    ("totem.transport", false),
    ("totem.cluster_name", false),
    ("totem.netmtu", false),
    ("totem.threads", false),
    ("totem.version", false),
    ("totem.nodeid", false),
    ("totem.clear_node_high_bit", false),
    ("config.reload_in_progress", false),
    ("config.totemconfig_reload_in_progress", false),
    ("nodelist.local_node_pos", false),
];

/// The keys that have the same value in every daemon.
const CONSTANT: [(&str, Constant); 42] = [
    ("resources.system.load_15min.current", Constant::F64(0.0)),
    ("resources.system.load_15min.last_updated", Constant::U64(0)),
    ("resources.system.load_15min.poll_period", Constant::U64(3000)),
    ("resources.system.load_15min.state", Constant::Text("stopped")),
    ("resources.system.memory_used.current", Constant::I32(0)),
    ("resources.system.memory_used.last_updated", Constant::U64(0)),
    ("resources.system.memory_used.poll_period", Constant::U64(3000)),
    ("resources.system.memory_used.state", Constant::Text("stopped")),
    ("resources.watchdog_timeout", Constant::U32(6)),
    ("runtime.blackbox.dump_flight_data", Constant::Text("no")),
    ("runtime.blackbox.dump_state", Constant::Text("no")),
    ("runtime.config.totem.block_unlisted_ips", Constant::U32(1)),
    ("runtime.config.totem.cancel_token_hold_on_retransmit", Constant::U32(0)),
    ("runtime.config.totem.downcheck", Constant::U32(1000)),
    ("runtime.config.totem.fail_recv_const", Constant::U32(2500)),
    ("runtime.config.totem.heartbeat_failures_allowed", Constant::U32(0)),
    ("runtime.config.totem.join", Constant::U32(50)),
    ("runtime.config.totem.knet_compression_level", Constant::I32(0)),
    ("runtime.config.totem.knet_compression_model", Constant::Text("none")),
    ("runtime.config.totem.knet_compression_threshold", Constant::U32(0)),
    ("runtime.config.totem.knet_mtu", Constant::U32(0)),
    ("runtime.config.totem.knet_pmtud_interval", Constant::U32(30)),
    ("runtime.config.totem.max_messages", Constant::U32(17)),
    ("runtime.config.totem.max_network_delay", Constant::U32(50)),
    ("runtime.config.totem.merge", Constant::U32(200)),
    ("runtime.config.totem.miss_count_const", Constant::U32(5)),
    ("runtime.config.totem.send_join", Constant::U32(0)),
    ("runtime.config.totem.seqno_unchanged_const", Constant::U32(30)),
    ("runtime.config.totem.token_retransmits_before_loss_const", Constant::U32(RETRANSMITS)),
    ("runtime.config.totem.token_warning", Constant::U32(75)),
    ("runtime.config.totem.window_size", Constant::U32(50)),
    ("runtime.force_gather", Constant::Text("no")),
    ("runtime.services.cmap.service_id", Constant::U16(0)),
    ("runtime.services.cfg.service_id", Constant::U16(1)),
    ("runtime.services.cpg.service_id", Constant::U16(2)),
    ("runtime.services.quorum.service_id", Constant::U16(3)),
    ("runtime.services.pload.service_id", Constant::U16(4)),
    ("runtime.services.votequorum.service_id", Constant::U16(5)),
    ("runtime.services.mon.service_id", Constant::U16(6)),
    ("runtime.services.wd.service_id", Constant::U16(7)),
    ("totem.version", Constant::U32(2)),
    ("quorum.provider", Constant::Text("corosync_votequorum")),
];

const RETRANSMITS: u32 = 4;
const DEFAULT_TOKEN: u32 = 3000;
const DEFAULT_TOKEN_COEFFICIENT: u32 = 650;

enum Constant {
    I32(i32),
    U16(u16),
    U32(u32),
    U64(u64),
    F64(f64),
    Text(&'static str),
}

impl From<Constant> for Value {
    fn from(constant: Constant) -> Self {
        match constant {
            Constant::I32(value) => value.into(),
            Constant::U16(value) => value.into(),
            Constant::U32(value) => value.into(),
            Constant::U64(value) => value.into(),
            Constant::F64(value) => value.into(),
            Constant::Text(value) => value.into(),
        }
    }
}

impl Config {
    /// Fills a map with the keys that it has before the services start.
    pub(super) fn fill(&self, icmap: &mut Icmap, local: NodeId) {
        for (key, value) in CONSTANT {
            preset(icmap, key, value);
        }
        preset(icmap, "totem.cluster_name", self.cluster_name.as_str());
        preset(icmap, "totem.transport", "knet");
        for (number, node) in self.nodes.iter().enumerate() {
            let key = |name: &str| format!("nodelist.node.{number}.{name}");
            if !node.name.is_empty() {
                preset(icmap, &key("name"), node.name.as_str());
            }
            preset(icmap, &key("nodeid"), node.id.0);
            preset(icmap, &key("ring0_addr"), node.address.as_str());
            if let Some(votes) = node.votes {
                preset(icmap, &key("quorum_votes"), votes);
            }
            if node.id == local {
                preset(icmap, "nodelist.local_node_pos", number as u32);
                preset(icmap, "totem.interface.0.bindnetaddr", node.address.as_str());
            }
        }
        for (key, value) in &self.settings {
            preset(icmap, key, value.clone());
        }
        self.fill_timeouts(icmap);
        for (number, (name, _)) in self.version.services().into_iter().enumerate() {
            preset(
                icmap,
                &format!("internal_configuration.service.{number}.name"),
                format!("corosync_{name}"),
            );
            preset(icmap, &format!("internal_configuration.service.{number}.ver"), 0u32);
        }
        for (key, is_prefix) in READ_ONLY {
            icmap.protect(key, is_prefix);
        }
    }

    /// Adds the counters of messages. The daemon creates them after the services have started.
    pub(super) fn fill_counters(&self, icmap: &mut Icmap) {
        for (name, messages) in self.version.services() {
            for message in 0..messages {
                for direction in ["rx", "tx"] {
                    preset(icmap, &format!("runtime.services.{name}.{message}.{direction}"), 0u64);
                }
            }
        }
    }

    /// Adds the timeouts that totemconfig.c computes from the token timeout, in milliseconds.
    fn fill_timeouts(&self, icmap: &mut Icmap) {
        let token = icmap.get_as("totem.token").unwrap_or(DEFAULT_TOKEN);
        let coefficient: u32 =
            icmap.get_as("totem.token_coefficient").unwrap_or(DEFAULT_TOKEN_COEFFICIENT);
        let more_nodes = (self.nodes.len() as u32).saturating_sub(2);
        let token = token.saturating_add(coefficient.saturating_mul(more_nodes));
        let retransmit = (f64::from(token) / (f64::from(RETRANSMITS) + 0.2)) as u32;
        for (key, value) in [
            ("token", token),
            ("token_retransmit", retransmit),
            ("hold", (f64::from(retransmit) * 0.8 - 10.0) as u32),
            ("consensus", (f64::from(token) * 1.2) as u32),
            ("interface.0.knet_ping_interval", token / 4),
            ("interface.0.knet_ping_timeout", token / 2),
        ] {
            preset(icmap, &format!("runtime.config.totem.{key}"), value);
        }
    }

    pub(super) fn address(&self, id: NodeId) -> &str {
        self.nodes.iter().find(|node| node.id == id).map_or("", |node| &node.address)
    }
}

#[cfg(any(test, feature = "__fuzzing"))]
impl Config {
    /// The configuration of the nodes 1 to `count`, at 10.0.0.1 and the addresses that follow.
    pub(crate) fn with_nodes(count: u32) -> Self {
        let nodes = (1..=count).map(|id| NodeConfig {
            id: NodeId(id),
            name: format!("n{id}"),
            address: format!("10.0.0.{id}"),
            votes: None,
        });
        Self {
            version: Version::default(),
            cluster_name: "test".to_owned(),
            nodes: nodes.collect(),
            settings: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;

    use super::super::{ClientNumber, Ending, Node, NodeOutput};
    use super::*;
    use crate::cpg::GroupName;
    use crate::wire::{Message, cmap, cpg, votequorum};

    #[test]
    fn each_age_has_layouts_of_its_own_and_dies_of_later_requests() {
        for (version, info_size, membership_size) in
            [(Version::V1_99, 56, 152), (Version::V2_4, 320, 9248), (Version::V3_1, 320, 9248)]
        {
            let config = Config { version, ..Config::with_nodes(1) };
            let now = Instant::now();
            let mut node = Node::start(now, NodeId(1), config).unwrap();
            let mut send = |service, request: Bytes| {
                let client = ClientNumber(service as u64);
                node.connect(now, service, client, 1, String::new());
                node.request(now, service, client, &request);
                node.take_outputs().pop().unwrap()
            };
            // The length of the reply, and the size in its header.
            let mut reply = |service, request| match send(service, request) {
                NodeOutput::Reply { message, .. } => {
                    (message.len(), u32::from_ne_bytes(message[8..12].try_into().unwrap()))
                }
                other => panic!("{other:?}"),
            };
            let get_info = votequorum::GetInfo { nodeid: NodeId(1) };
            assert_eq!(
                reply(ServiceId::Votequorum, get_info.encode().unwrap().into()),
                (info_size, info_size as u32)
            );
            let members = cpg::MembershipGet { group_name: GroupName::default() };
            assert_eq!(
                reply(ServiceId::Cpg, members.encode().unwrap().into()),
                (9248, membership_size)
            );
            let map = Bytes::from(cmap::SetCurrentMap { map: 1 }.encode().unwrap());
            let crashes = matches!(send(ServiceId::Cmap, map), NodeOutput::Exit(Ending::Killed));
            assert_eq!(crashes, version != Version::V3_1);
        }
    }
}
