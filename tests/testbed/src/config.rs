//! corosync.conf.

use std::fmt::Write;

use super::daemon::Dialect;
use super::node::address;

/// The transport between the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP unicast: known to every version, and forms a cluster in a quarter of the time.
    Udpu,
    /// UDP multicast.
    Udp,
    /// The default of corosync 3.
    Knet,
}

/// How messages travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpcType {
    /// Through rings in shared memory.
    #[default]
    Shm,
    /// As datagrams: `qb_ipc_type: socket`.
    Socket,
}

impl IpcType {
    /// As corosync.conf names it; `None` is the default.
    pub fn name(self) -> Option<&'static str> {
        match self {
            IpcType::Shm => None,
            IpcType::Socket => Some("socket"),
        }
    }
}

/// A configuration without the number of nodes.
#[derive(Clone)]
pub(super) struct Config {
    pub(super) transport: Transport,
    /// In milliseconds.
    pub(super) token: Option<u32>,
    pub(super) ipc_type: Option<String>,
    pub(super) two_node: bool,
    pub(super) votes: Vec<(u32, u32)>,
    /// Nodes whose entries in the list have nothing but the address.
    pub(super) bare: Vec<u32>,
    pub(super) settings: Vec<(String, String)>,
    pub(super) extra: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            transport: Transport::Udpu,
            token: None,
            ipc_type: None,
            two_node: false,
            votes: Vec::new(),
            bare: Vec::new(),
            settings: Vec::new(),
            extra: String::new(),
        }
    }
}

impl Config {
    /// The file for a cluster of this size. The parser wants every brace on a line of its own.
    pub(super) fn text(&self, cluster_name: &str, nodes: u32, dialect: Dialect) -> String {
        let mut file = String::new();
        let transport = match self.transport {
            Transport::Knet => "knet",
            Transport::Udpu => "udpu",
            Transport::Udp => "udp",
        };
        // So long that a busy machine does not make nodes form rings that no test wants. knet's
        // links come up after some part of it.
        let token =
            self.token.unwrap_or(if self.transport == Transport::Knet { 2000 } else { 10_000 });
        let mut totem = vec![
            "version: 2".to_owned(),
            format!("cluster_name: {cluster_name}"),
            format!("transport: {transport}"),
            format!("token: {token}"),
            "token_coefficient: 0".to_owned(),
        ];
        if dialect.is_1_99() {
            totem.push("secauth: off".to_owned());
            totem.push(format!(
                "interface {{\nringnumber: 0\nbindnetaddr: {}\nmcastport: 5405\n}}",
                address(0)
            ));
        } else {
            totem.extend(["crypto_cipher: none", "crypto_hash: none"].map(str::to_owned));
        }
        let mut quorum = vec!["provider: corosync_votequorum".to_owned()];
        if nodes == 1 {
            quorum.push("expected_votes: 1".to_owned());
        }
        if self.two_node {
            quorum.push("two_node: 1".to_owned());
        }
        let mut logging: Vec<String> =
            ["to_stderr: yes", "to_syslog: no", "to_logfile: no", "debug: off"]
                .map(str::to_owned)
                .into();
        logging.push(format!("timestamp: {}", dialect.timestamp()));
        let mut system: Vec<String> =
            ["sched_rr: no", "move_to_root_cgroup: no", "allow_knet_handle_fallback: yes"]
                .map(str::to_owned)
                .into();
        match &self.ipc_type {
            Some(ipc_type) if dialect.has_ipc_type_in_system() => {
                system.push(format!("qb_ipc_type: {ipc_type}"))
            }
            Some(ipc_type) => push_section(&mut file, "qb", &[format!("ipc_type: {ipc_type}")]),
            None => {}
        }
        for (section, line) in &self.settings {
            let lines = match section.as_str() {
                "totem" => &mut totem,
                "quorum" => &mut quorum,
                "logging" => &mut logging,
                "system" => &mut system,
                _ => panic!("section {section:?} belongs into extra_config"),
            };
            // A setting replaces the line of the same name.
            let name = line.split(':').next();
            lines.retain(|present| present.split(':').next() != name);
            lines.push(line.clone());
        }
        for (section, lines) in
            [("totem", totem), ("quorum", quorum), ("logging", logging), ("system", system)]
        {
            push_section(&mut file, section, &lines);
        }
        file.push_str("nodelist {\n");
        for id in 1..=nodes {
            let mut node = vec![format!("ring0_addr: {}", address(id))];
            if !self.bare.contains(&id) {
                node.extend([format!("name: n{id}"), format!("nodeid: {id}")]);
            }
            if let Some((_, votes)) = self.votes.iter().find(|(node, _)| *node == id) {
                node.push(format!("quorum_votes: {votes}"));
            }
            push_section(&mut file, "node", &node);
        }
        file.push_str("}\n");
        file.push_str(&self.extra);
        file.push('\n');
        file
    }
}

fn push_section(file: &mut String, name: &str, lines: &[String]) {
    let _ = writeln!(file, "{name} {{\n{}\n}}", lines.join("\n"));
}
