//! Three embedded nodes against three real ones.

use corosync_ipc::server::{self, ClusterBuilder};
use corosync_ipc::{Endpoint, NodeId, cfg};

use crate::harness::{Cluster, Node, Transport, eventually};
use crate::{TOKEN, nothing_to_compare};

/// A node without a daemon, with the first of three embedded ones inside.
struct Embedded {
    // Ended before the namespaces are.
    _cluster: server::Cluster,
    namespaces: Cluster,
}

impl Embedded {
    /// Nodes at the harness's addresses.
    fn start(builder: ClusterBuilder) -> Self {
        let namespaces = Cluster::builder().create();
        let cluster = namespaces.node(1).run(|| {
            let builder = (1..=3).fold(builder, |builder, id| builder.node(id, format!("n{id}"), address(id), None));
            builder.real_time().endpoint(1, &Endpoint::new().abstract_sockets()).start().expect("it starts")
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
    let (real, embedded) = (real(), Embedded::start(server::Cluster::builder()));
    // knet finds the links, and the largest packet that each takes, after the nodes have found each other.
    eventually("knet has measured its links", || {
        let links = status(real.node(1)).iter().filter(|status| status.contains("mtu: 1446")).count();
        links == 2
    });
    assert_eq!(status(embedded.node()), status(real.node(1)));
}
