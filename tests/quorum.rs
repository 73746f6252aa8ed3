//! quorum and votequorum against a real corosync of one node.

use corosync_ipc::quorum::{Client, Model};
use corosync_ipc::{Endpoint, Error, votequorum};
use testbed::bodies::{quorum as body, votequorum as votes};
use testbed::{Builder, Cluster, Node, against_corosync, shared_one, version};

against_corosync! { shared_one().node(1);
    body::the_node_is_quorate as the_node_is_quorate;
    body::the_present_state_comes_as_the_flags_say as the_present_state_comes_as_the_flags_say;
    model_v1_or_a_refusal as model_v1_tells_rings_or_is_refused;
    votes::the_node_tells_its_votes as the_node_tells_its_votes;
    votes_present_state as votequorums_present_state_comes_as_the_flags_say;
    votes::wrong_names_of_quorum_devices_are_refused as wrong_names_of_quorum_devices_are_refused;
    same_ring as the_ring_is_the_tools_ring;
}

against_corosync! { &a_node_of_its_own(Cluster::builder());
    votes_are_changed as votes_are_changed_and_told;
}

against_corosync! { &a_node_of_its_own(device());
    a_quorum_device as a_quorum_device_decides_or_is_refused;
    extra_info as extra_info_is_published_or_refused;
}

/// A node that one test has for itself; it lives until the end of the process.
fn a_node_of_its_own(builder: Builder) -> Node {
    let cluster: &'static Cluster = Box::leak(Box::new(builder.start()));
    cluster.node(1).clone()
}

/// One vote of the node, one of the quorum device, and quorum is two.
fn device() -> Builder {
    let device = "quorum {\ndevice {\nmodel: net\nvotes: 1\n}\n}";
    Cluster::builder().setting("quorum", "expected_votes: 3").extra_config(device)
}

fn votes_present_state(endpoint: &Endpoint) {
    votes::the_present_state_comes_as_the_flags_say(endpoint, version() >= [2, 4, 0, 0]);
}

fn model_v1_or_a_refusal(endpoint: &Endpoint) {
    if version() >= [3, 1, 0, 0] {
        body::model_v1_tells_rings(endpoint);
    } else {
        let refused = Client::connect_model(endpoint, Model::V1);
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
}

fn same_ring(endpoint: &Endpoint) {
    if version() >= [3, 1, 0, 0] {
        let theirs = shared_one().node(1).membership().unwrap();
        assert_eq!(body::ring(endpoint).to_string(), theirs.ring);
    }
}

fn a_quorum_device(endpoint: &Endpoint) {
    if version() >= [2, 4, 0, 0] {
        votes::a_quorum_device_decides(endpoint);
    } else {
        let client = votequorum::Client::connect_to(endpoint).unwrap();
        let refused = client.qdevice_register("device");
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
}

/// The first releases take other changes for sensible.
fn votes_are_changed(endpoint: &Endpoint) {
    if version() >= [2, 0, 0, 0] {
        votes::votes_are_changed_and_told(endpoint);
    }
}

fn extra_info(endpoint: &Endpoint) {
    if version() > [3, 1, 10, 0] {
        votes::extra_info_is_published(endpoint);
    } else {
        votes::extra_info_is_unsupported(endpoint);
    }
}
