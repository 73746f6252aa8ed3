//! Groups shared with programs that use libcpg.

use corosync_ipc::Endpoint;
use corosync_ipc::cpg::GroupName;
use testbed::interop::{
    both_mean_the_same_groups, both_see_the_same_messages_in_the_same_order, cpg_program,
};
use testbed::{shared_one, skip};

use crate::support::{busy, connect, has_fragments};

/// How many messages each side sends.
const EACH: usize = 50_000;

#[test]
fn a_c_program_and_ours_see_the_same_messages_in_the_same_order() {
    if skip() {
        return;
    }
    let Some(program) = cpg_program() else { return };
    let cluster = busy(2).real().start();
    if cluster.node(1).run(|| !has_fragments(&Endpoint::new())) {
        // Later C libraries do not understand corosync 1.99.
        return;
    }
    let group = GroupName::new(b"interop\0").unwrap();
    let client = cluster.node(1).run(|| {
        let client = connect(&Endpoint::new());
        client.join(&group).unwrap();
        client
    });
    both_see_the_same_messages_in_the_same_order(
        &client,
        cluster.node(2).command(&program),
        &group,
        EACH,
    );
}

#[test]
fn c_programs_and_ours_mean_the_same_groups() {
    if skip() {
        return;
    }
    let Some(program) = cpg_program() else { return };
    let node = shared_one().node(1);
    if node.run(|| !has_fragments(&Endpoint::new())) {
        // As above.
        return;
    }
    node.run(|| both_mean_the_same_groups(&Endpoint::new(), || node.command(&program)));
}
