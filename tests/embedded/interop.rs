//! Programs over libcpg and libcmap meet ours at the embedded daemon. Against the real one `cpg`
//! has the same.

use std::path::Path;

use corosync_ipc::Endpoint;
use corosync_ipc::cpg::{Client, GroupName, Options};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::server::Transport;
use testbed::interop;
use testbed::{Cluster, skip};

use crate::{Embedded, nothing_to_compare};

const TRANSPORTS: [Transport; 2] = [Transport::Shm, Transport::Socket];

/// How many messages each side sends; among so many are some of more than 1 MiB.
const EACH: usize = 20_000;

#[test]
fn a_c_program_and_ours_see_the_same_messages_in_the_same_order() {
    let Some(program) = (if skip() { None } else { interop::cpg_program() }) else { return };
    for transport in TRANSPORTS {
        see_the_same_messages(&program, transport);
    }
}

fn see_the_same_messages(program: &Path, transport: Transport) {
    let embedded = Embedded::start(Corosync::builder().transport(transport));
    let group = GroupName::new(b"interop\0").unwrap();
    let client = embedded.node().run(|| {
        let client =
            Client::connect_with(&Endpoint::new(), Options::new().pid(0x4000_0000)).unwrap();
        client.join(&group).unwrap();
        client
    });
    let c = embedded.node().command(program);
    interop::both_see_the_same_messages_in_the_same_order(&client, c, &group, EACH);
}

#[test]
fn c_programs_and_ours_mean_the_same_groups() {
    let Some(program) = (if skip() { None } else { interop::cpg_program() }) else { return };
    for transport in TRANSPORTS {
        let embedded = Embedded::start(Corosync::builder().transport(transport));
        let node = embedded.node();
        let c = || node.command(&program);
        node.run(|| interop::both_mean_the_same_groups(&Endpoint::new(), c));
    }
}

#[test]
fn a_c_program_and_ours_are_told_the_same_changes() {
    let Some(program) = (if nothing_to_compare() { None } else { interop::cmap_program() }) else {
        return;
    };
    let real = Cluster::one();
    let embedded =
        TRANSPORTS.map(|transport| Embedded::start(Corosync::builder().transport(transport)));
    for node in [real.node(1)].into_iter().chain(embedded.iter().map(Embedded::node)) {
        node.run(|| {
            interop::both_are_told_the_same_changes(&Endpoint::new(), node.command(&program))
        });
    }
}
