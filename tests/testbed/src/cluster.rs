//! A cluster: nodes, the switch between them, and their life together.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use super::config::{Config, Transport};
use super::daemon::Daemon;
use super::exchanges_sockets;
use super::membership::Membership;
use super::namespaces::{Mounts, Namespaces, kill_all};
use super::node::Node;
use super::patience::WATCHDOG;
use super::poll::{poll, say};
use super::state::State;

/// A running cluster. Dropping it ends every process inside it and removes its files.
///
/// When it is dropped by a panic, the end of each daemon's log is printed.
pub struct Cluster {
    nodes: Vec<Node>,
    switch: Namespaces,
    folder: PathBuf,
}

impl Cluster {
    /// Describes a cluster: one node, udpu, a token timeout that no busy machine exceeds.
    pub fn builder() -> Builder {
        Builder {
            nodes: 1,
            config: Config::default(),
            shm_size: "1g".to_owned(),
            filesystem_sockets: exchanges_sockets(),
            wait: true,
            daemon: None,
            environment: Vec::new(),
        }
    }

    /// Starts one node.
    #[track_caller]
    pub fn one() -> Cluster {
        Cluster::builder().start()
    }

    /// A node by its id, counted from 1.
    #[track_caller]
    pub fn node(&self, id: u32) -> &Node {
        match self.nodes.iter().find(|node| node.id() == id) {
            Some(node) => node,
            None => panic!("no node {id} in this cluster"),
        }
    }

    /// All nodes, in the order of their ids.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Cuts the network into these groups; nodes not named form one more.
    #[track_caller]
    pub fn partition(&self, groups: &[&[u32]]) {
        let rest: Vec<u32> = self
            .nodes
            .iter()
            .map(Node::id)
            .filter(|id| !groups.iter().any(|group| group.contains(id)))
            .collect();
        // Every node has a bridge of its own number; a group meets at the one of its first node.
        let lines = groups.iter().copied().chain([rest.as_slice()]).flat_map(|group| {
            group
                .iter()
                .map(|&id| format!("link set p{} master br{}\n", self.node(id).id(), group[0]))
        });
        self.switch.ip(&lines.collect::<String>());
    }

    /// Undoes [`Cluster::partition`] and [`Cluster::unplug`].
    pub fn heal(&self) {
        let lines =
            self.nodes.iter().map(|node| format!("link set p{} master br1 up\n", node.id()));
        self.switch.ip(&lines.collect::<String>());
    }

    /// Takes away the carrier of a node's link.
    #[track_caller]
    pub fn unplug(&self, id: u32) {
        self.switch.ip(&format!("link set p{} down\n", self.node(id).id()));
    }

    /// Gives back the carrier of a node's link.
    #[track_caller]
    pub fn plug(&self, id: u32) {
        self.switch.ip(&format!("link set p{} up\n", self.node(id).id()));
    }

    /// Waits until each of these nodes sees this many members and all are on the same ring; returns
    /// what they see.
    #[track_caller]
    pub fn wait_members(&self, nodes: &[u32], count: usize) -> Membership {
        let mut seen = Vec::new();
        let agreed = poll(WATCHDOG, || {
            seen = nodes.iter().map(|&id| self.node(id).membership()).collect();
            let first = seen.first()?.clone()?;
            let all = seen.iter().all(|one| one.as_ref() == Some(&first));
            (all && first.members.len() == count).then_some(first)
        });
        match agreed {
            Some(membership) => membership,
            None => panic!("nodes {nodes:?} do not agree on {count} members: {seen:?}"),
        }
    }

    fn print_logs(&self) {
        for node in &self.nodes {
            let log = node.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- log of node {} ---\n{}", node.id(), tail.join("\n"));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_logs();
        }
        let spaces: Vec<&Namespaces> =
            self.nodes.iter().map(Node::spaces).chain([&self.switch]).collect();
        if !kill_all(&spaces) {
            say(&format!("processes in {:?} do not die", self.folder));
        }
        for node in &self.nodes {
            node.reap();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Configures a `Cluster`.
#[must_use]
#[derive(Clone)]
pub struct Builder {
    nodes: u32,
    config: Config,
    shm_size: String,
    filesystem_sockets: bool,
    wait: bool,
    daemon: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Builder {
    /// The number of nodes.
    pub fn nodes(mut self, count: u32) -> Self {
        assert!((1..=200).contains(&count), "{count} nodes do not fit into the subnet");
        self.nodes = count;
        self
    }

    /// The token timeout in milliseconds; the time it takes to notice a lost node.
    pub fn token(mut self, milliseconds: u32) -> Self {
        self.config.token = Some(milliseconds);
        self
    }

    /// Nodes are going to be lost, and the others are to notice it in a second or two.
    pub fn loses_nodes(self) -> Self {
        self.token(1000)
    }

    /// The transport between the nodes.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.config.transport = transport;
        self
    }

    /// `qb_ipc_type`: "shm", "socket" or "native".
    pub fn ipc_type(mut self, ipc_type: Option<&str>) -> Self {
        self.config.ipc_type = ipc_type.map(str::to_owned);
        self
    }

    /// `two_node` of votequorum, which implies `wait_for_all`.
    pub fn two_node(mut self, on: bool) -> Self {
        self.config.two_node = on;
        self
    }

    /// The votes of a node; others have one.
    pub fn node_votes(mut self, id: u32, votes: u32) -> Self {
        self.config.votes.push((id, votes));
        self
    }

    /// Leaves everything but the address out of these nodes' entries in the list; corosync makes
    /// their ids of their addresses, as [`Node::id_of_address`] does. Not with knet.
    pub fn bare_nodes(mut self, nodes: &[u32]) -> Self {
        self.config.bare.extend_from_slice(nodes);
        self
    }

    /// Sets `name: value` in the section totem, quorum, logging or system.
    pub fn setting(mut self, section: &str, line: &str) -> Self {
        self.config.settings.push((section.to_owned(), line.to_owned()));
        self
    }

    /// Appends text to corosync.conf. Every `}` is on a line of its own.
    pub fn extra_config(mut self, text: &str) -> Self {
        self.config.extra.push_str(text);
        self.config.extra.push('\n');
        self
    }

    /// The size of each node's /dev/shm, as tmpfs's `size` option takes it.
    pub fn shm_size(mut self, size: &str) -> Self {
        self.shm_size = size.to_owned();
        self
    }

    /// Makes libqb use sockets in its folder (/run or, as built by Debian, /tmp) instead of
    /// abstract ones. Each node then has a /tmp of its own, with links to what was in the real one
    /// at the start.
    pub fn filesystem_sockets(mut self, on: bool) -> Self {
        self.filesystem_sockets = on;
        self
    }

    /// Another daemon than the installed one; its tools lie next to it.
    pub fn daemon(mut self, program: impl Into<PathBuf>) -> Self {
        self.daemon = Some(program.into());
        self
    }

    /// An environment variable for the daemons and for programs inside the nodes.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Whether [`Builder::start`] waits until all nodes are members; they are started anyway.
    pub fn wait(mut self, on: bool) -> Self {
        self.wait = on;
        self
    }

    /// Starts the nodes, and waits until all of them are members.
    ///
    /// # Panics
    /// If that fails. What this needs is told by [`super::skip`] in advance.
    #[track_caller]
    pub fn start(self) -> Cluster {
        let cluster = self.create();
        for node in &cluster.nodes {
            node.start_unready();
        }
        if self.wait {
            for node in &cluster.nodes {
                node.wait_ready();
            }
            let ids: Vec<u32> = cluster.nodes.iter().map(Node::id).collect();
            cluster.wait_members(&ids, ids.len());
        }
        cluster
    }

    /// Creates the nodes without starting their daemons.
    pub fn create(&self) -> Cluster {
        let state = State::get();
        let name = format!("t{}-{}", std::process::id(), state.unique());
        let folder = state.folder.join(&name);
        fs::create_dir(&folder).expect("cannot create a folder");
        let mut cluster = Cluster {
            nodes: Vec::new(),
            switch: Namespaces::network("switch").expect("cannot create a namespace"),
            folder,
        };
        let mut daemon = match &self.daemon {
            Some(program) => Daemon::at(program.clone()),
            None => Daemon::find().expect("no corosync"),
        };
        daemon.environment.extend(self.environment.iter().cloned());
        let text = self.config.text(&name, self.nodes, daemon.dialect());
        let mut switch_lines = String::from("link set lo up\n");
        for id in 1..=self.nodes {
            let node = self.create_node(&cluster.folder, id, &daemon, &text);
            let peer = node.spaces().network_path();
            switch_lines += &format!(
                "link add br{id} type bridge stp_state 0 mcast_snooping 0\n\
                 link set br{id} up\n\
                 link add p{id} type veth peer name eth0 netns {peer}\n\
                 link set p{id} master br1 up\n"
            );
            cluster.nodes.push(node);
        }
        cluster.switch.ip(&switch_lines);
        for node in &cluster.nodes {
            let address = node.address();
            node.spaces()
                .ip(&format!("link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n"));
        }
        cluster
    }

    fn create_node(&self, cluster_folder: &Path, id: u32, daemon: &Daemon, config: &str) -> Node {
        let mounts = Mounts {
            shm_size: self.shm_size.clone(),
            filesystem_sockets: self.filesystem_sockets,
            private: daemon.state_folders(),
        };
        let spaces = Namespaces::node(&format!("n{id}"), &mounts).expect("cannot create a node");
        let folder = cluster_folder.join(format!("n{id}"));
        fs::create_dir(&folder).expect("cannot create a folder");
        let node = Node::new(id, spaces, &folder, daemon.clone());
        fs::write(node.config_path(), config).expect("cannot write corosync.conf");
        node
    }
}
