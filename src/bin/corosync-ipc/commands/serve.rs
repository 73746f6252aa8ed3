//! `corosync-ipc serve`: the embedded corosync in the foreground.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Instant, SystemTime};

use clap::{Args, ValueEnum};
use corosync_ipc::embedded::{Builder, Cluster};
use corosync_ipc::libqb::server::{self, Generation};
use corosync_ipc::{Endpoint, Error};
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, TIMED_OUT};
use crate::output::{print, print_event, printable, words};
use crate::signals::{Signals, poll_any};

/// The longest name of a cluster, in bytes.
const MAX_CLUSTER_NAME: usize = 255;

/// The longest corosync.conf, in bytes. All the nodes there may be take some 50,000.
const MAX_CONFIG: u64 = 1 << 20;

/// Serves an embedded corosync, for tests and development
///
/// It is a test double, not a cluster engine: all nodes are in this process, nothing is fenced,
/// nothing is highly available. It answers as corosync 3.1.7 does, or as an older corosync with
/// --generation. This command, programs of this library and C programs with libqb 1.0 or later (or
/// the generation's libqb) can connect. --socket-dir or --abstract and --shm-root say where it
/// listens. It serves evs too. It needs no root and no configuration.
///
/// Prints one line when it is ready; with --json an object with "event": "ready", its cluster and
/// its addresses. Runs until SIGINT, SIGTERM or SIGHUP, or until a client shuts the daemon down or
/// kills its node; then removes its files and ends with 0.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc serve --abstract
  mkdir /tmp/fake
  corosync-ipc serve --socket-dir /tmp/fake --config /etc/corosync/corosync.conf
  corosync-ipc serve --socket-dir /tmp/fake --nodes 1,2,3 --node 2
  COROSYNC_IPC_SOCKET_DIR=/tmp/fake corosync-ipc status")]
pub(crate) struct Serve {
    /// The node that clients reach; the first of --nodes by default, or 1.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    node: Option<u32>,

    /// The nodes of the cluster, with one vote each. All run; clients reach --node only.
    #[arg(long, value_name = "ID,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    nodes: Vec<u32>,

    /// A corosync.conf with the nodes, their votes and all settings, as pcs and crmsh write it, with
    /// one link (ring0_addr) over knet. What the embedded corosync cannot do is an error with the
    /// number of its line. It has at most 1 MiB. It may be a pipe, which has to end within
    /// --timeout.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "cluster_name", "transport"])]
    config: Option<PathBuf>,

    /// The cluster's name [default: embedded].
    #[arg(long, value_name = "NAME", value_parser = parse_cluster_name)]
    cluster_name: Option<String>,

    /// The directory in which C programs in a container see the directory of --shm-root.
    #[arg(long, value_name = "DIR")]
    client_shm_root: Option<PathBuf>,

    /// The versions of libqb and corosync to imitate.
    #[arg(long, value_enum, value_name = "NAME", default_value_t)]
    generation: Age,

    /// The transport of messages [default: shm].
    #[arg(long, value_enum)]
    transport: Option<Transport>,
}

/// The values of `system { qb_ipc_type }`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// Rings in shared memory.
    #[default]
    Shm,
    /// Datagram sockets.
    Socket,
}

impl From<Transport> for server::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Shm => Self::Shm,
            Transport::Socket => Self::Socket,
        }
    }
}

/// A libqb and the corosync of its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Age {
    /// libqb 0.10 to 0.12 and corosync 1.99.9.
    #[value(name = "libqb-0.10")]
    Libqb010,
    /// libqb 0.13 and corosync 2.4.6, as the next two.
    #[value(name = "libqb-0.13")]
    Libqb013,
    /// libqb 0.14.
    #[value(name = "libqb-0.14")]
    Libqb014,
    /// libqb 0.15 to 1.0.3.
    #[value(name = "libqb-0.15")]
    Libqb015,
    /// libqb 1.0.4 and later and corosync 3.1.7.
    #[default]
    #[value(name = "libqb-1.0.4")]
    Libqb104,
}

impl From<Age> for Generation {
    fn from(age: Age) -> Self {
        match age {
            Age::Libqb010 => Self::Libqb010,
            Age::Libqb013 => Self::Libqb013,
            Age::Libqb014 => Self::Libqb014,
            Age::Libqb015 => Self::Libqb015,
            Age::Libqb104 => Self::Libqb104,
        }
    }
}

fn parse_cluster_name(name: &str) -> Result<String, String> {
    if name.is_empty() || name.len() > MAX_CLUSTER_NAME {
        return Err(format!(
            "a cluster name has 1 to {MAX_CLUSTER_NAME} bytes, not {}",
            name.len()
        ));
    }
    Ok(name.to_owned())
}

/// The nodes of the nodelist, and the one that clients reach.
#[derive(Debug, PartialEq)]
struct Nodes {
    all: Vec<u32>,
    served: u32,
}

impl Nodes {
    fn new(node: Option<u32>, nodes: Vec<u32>) -> Result<Self, Failure> {
        let served = node.or_else(|| nodes.first().copied()).unwrap_or(1);
        let all = if nodes.is_empty() { vec![served] } else { nodes };
        if !all.contains(&served) {
            return Err(Failure::usage(format!(
                "--node: {served} is not among the nodes {}; try --help",
                words(&all)
            )));
        }
        Ok(Self { all, served })
    }
}

impl Serve {
    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let (nodes, builder) = match &self.config {
            Some(file) => {
                let builder = configured(file, context.deadline)
                    .map_err(|failure| failure.while_at(&file.display().to_string()))?;
                let all = builder.node_ids().iter().map(|id| id.0).collect();
                (Nodes::new(self.node, all)?, builder)
            }
            None => {
                let nodes = Nodes::new(self.node, self.nodes)?;
                let transport = self.transport.unwrap_or_default();
                let name = self.cluster_name.as_deref().unwrap_or("embedded");
                let builder = builder(&nodes).cluster_name(name).transport(transport.into());
                (nodes, builder)
            }
        };
        // Before there are other threads.
        let signals = Signals::block()?;
        let endpoint = context.endpoint.clone();
        let endpoint = self.client_shm_root.into_iter().fold(endpoint, Endpoint::client_shm_root);
        let builder = builder.real_time().evs(true).endpoint(nodes.served, &endpoint);
        let cluster = start(builder.generation(self.generation.into()))?;
        announce(context, &nodes, &cluster)?;
        signals.wait(Some(cluster.node(nodes.served)?.as_fd())).map(drop)
    }
}

/// The nodes and settings of a corosync.conf.
fn configured(file: &Path, deadline: Instant) -> Result<Builder<Cluster>, Failure> {
    Ok(Cluster::builder().config_file(read(file, deadline)?)?)
}

/// Reads a file, or a pipe as shells make it of `<(pcs ...)`.
fn read(file: &Path, deadline: Instant) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::refused(error.to_string());
    // With it, opening does not wait until somebody writes to the pipe.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(file).map_err(failed)?;
    let mut text = Vec::new();
    loop {
        poll_any(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], "reading", Some(deadline))?;
        // As long as nobody has written to a pipe, reading says that it ends.
        if Instant::now() >= deadline {
            let text = "it does not end within --timeout".to_owned();
            return Err(Failure::Failed { status: TIMED_OUT, text, cs_error: None });
        }
        let room = (MAX_CONFIG + 1).saturating_sub(text.len() as u64);
        match (&file).take(room).read_to_end(&mut text) {
            Ok(_) if text.len() as u64 > MAX_CONFIG => {
                let text = format!("it has more than the {MAX_CONFIG} bytes of a corosync.conf");
                return Err(Failure::usage(text));
            }
            Ok(_) => return Ok(text),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

fn builder(nodes: &Nodes) -> Builder<Cluster> {
    let builder = Cluster::builder();
    // Addresses that no two nodes have: 127.0.0.1 and on.
    nodes.all.iter().zip(1..).fold(builder, |builder, (id, number)| {
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() | number);
        builder.node(*id, format!("n{id}"), address.to_string(), None)
    })
}

fn start(builder: Builder<Cluster>) -> Result<Cluster, Failure> {
    builder.start().map_err(|error| {
        let is_taken =
            matches!(&error, Error::System { source, .. } if source.kind() == ErrorKind::AddrInUse);
        let failure = Failure::from(error);
        if !is_taken {
            return failure;
        }
        failure
            .map_text(|text| format!("{text}: a corosync listens there; use another --socket-dir"))
    })
}

/// Prints that clients can connect.
fn announce(context: &Context, nodes: &Nodes, cluster: &Cluster) -> Result<(), Failure> {
    let cluster_name = cluster.name();
    let (endpoint, served) = (&context.endpoint, nodes.served);
    let shm_root = endpoint.shm_root_path();
    if context.json {
        let socket = endpoint.socket_address("cmap");
        let socket_dir = socket.path().and_then(Path::parent).map(Path::to_string_lossy);
        let members = json!({
            "cluster_name": cluster_name,
            "node_id": served,
            "nodes": nodes.all,
            "transport": cluster.transport().to_string(),
            "socket_dir": socket_dir,
            "shm_root": shm_root.to_string_lossy(),
            "pid": process::id(),
        });
        return print_event("ready", SystemTime::now(), members);
    }
    let text = format!(
        "serving node {served} of cluster {cluster_name} (a test double), cmap at {}, rings in {}, process {}",
        endpoint.socket_address("cmap"),
        shm_root.display(),
        process::id()
    );
    print(printable(&text) + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(node: Option<u32>, nodes: &[u32]) -> Result<(Vec<u32>, u32), String> {
        match Nodes::new(node, nodes.to_vec()) {
            Ok(nodes) => Ok((nodes.all, nodes.served)),
            Err(Failure::Failed { status: 2, text, .. }) => Err(text),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_node_is_one_of_the_nodes() {
        assert_eq!(nodes(None, &[]), Ok((vec![1], 1)));
        assert_eq!(nodes(Some(7), &[]), Ok((vec![7], 7)));
        assert_eq!(nodes(None, &[5, 3]), Ok((vec![5, 3], 5)));
        assert_eq!(nodes(Some(3), &[5, 3]), Ok((vec![5, 3], 3)));
        assert!(nodes(Some(4), &[5, 3]).unwrap_err().contains("4 is not among the nodes 5 3"));
    }
}
