//! Three embedded nodes against three real ones.

use corosync_ipc::embedded;
use corosync_ipc::{Endpoint, NodeId, cfg};
use testbed::interop;
use testbed::{Cluster, Node, Transport, eventually};

use crate::{TOKEN, nothing_to_compare};

/// A node without a daemon, with the first of three embedded ones inside.
struct Embedded {
    // Ended before the namespaces are.
    _cluster: embedded::Cluster,
    namespaces: Cluster,
}

impl Embedded {
    /// Nodes at the harness's addresses.
    fn start(builder: embedded::Builder<embedded::Cluster>) -> Self {
        let namespaces = Cluster::builder().create();
        let cluster = namespaces.node(1).run(|| {
            let builder = (1..=3)
                .fold(builder, |builder, id| builder.node(id, format!("n{id}"), address(id), None));
            builder
                .real_time()
                .endpoint(1, &Endpoint::new().abstract_sockets())
                .start()
                .expect("it starts")
        });
        Self { _cluster: cluster, namespaces }
    }

    fn node(&self) -> &Node {
        self.namespaces.node(1)
    }
}

fn address(id: u32) -> String {
    format!("10.77.0.{id}")
}

/// Three real nodes over knet.
fn real() -> Cluster {
    Cluster::builder().nodes(3).token(TOKEN).transport(Transport::Knet).start()
}

#[test]
fn nodes_have_the_same_status() {
    if nothing_to_compare() {
        return;
    }
    let status = |node: &Node| {
        node.run(|| {
            let client = cfg::Client::connect().unwrap();
            let of = |id| format!("{:?}", client.node_status(NodeId(id)));
            (0..=4).map(of).chain([format!("{:?}", client.ring_status())]).collect::<Vec<_>>()
        })
    };
    let (real, embedded) = (real(), Embedded::start(embedded::Cluster::builder()));
    // knet finds the links, and the largest packet that each takes, after the nodes have found each
    // other.
    eventually("knet has measured its links", || {
        let links =
            status(real.node(1)).iter().filter(|status| status.contains("mtu: 1446")).count();
        links == 2
    });
    assert_eq!(status(embedded.node()), status(real.node(1)));
}

/// Without a connection's address and process.
fn without_process(line: &str) -> String {
    let part = |(at, part): (usize, &str)| {
        if (3..5).contains(&at) { "-".to_owned() } else { part.to_owned() }
    };
    match line.contains(" stats.ipcs.service") {
        true => line.splitn(6, '.').enumerate().map(part).collect::<Vec<_>>().join("."),
        false => line.to_owned(),
    }
}

#[test]
fn libcmap_finds_statistics_of_the_same_types_and_lengths() {
    let Some(program) = (if nothing_to_compare() { None } else { interop::statistics_program() })
    else {
        return;
    };
    let listed = |node: &Node| {
        let output = node.command(&program).run().success();
        let lines = output.lines().filter(|line| !line.contains(" stats.schedmiss."));
        lines.map(without_process).collect::<Vec<_>>()
    };
    let (real, embedded) = (real(), Embedded::start(embedded::Cluster::builder()));
    let alone = |node: &Node| {
        let lines = listed(node);
        // The harness's tools may not have gone when the members had come.
        let connections =
            lines.iter().filter(|line| line.starts_with("key ") && line.contains(".procname"));
        (connections.count() == 1).then_some(lines)
    };
    let theirs = eventually("the program is alone", || alone(real.node(1)));
    let ours = eventually("the program is alone", || alone(embedded.node()));
    assert!(
        theirs.iter().any(|line| line.starts_with("delete") && line.contains("procname 11:")),
        "{theirs:#?}"
    );
    assert_eq!(ours, theirs);
}
