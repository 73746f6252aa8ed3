//! The same C programs over corosync's libraries and over ours, against the same daemon. Each prints
//! its calls, their results, and the callbacks that came. Both must print the same.

use corosync_ipc::cpg::{self, Iteration};
use testbed::{Cluster, cc, copy_for_all, eventually, skip};

use super::installed;

/// The beginnings of lines that differ, and why.
const DIFFERENCES: [(&str, &str); 1] =
    [("SO_PEERCRED", "with datagrams the descriptor is one of epoll, which is no socket")];

/// Runs a program over both libraries, on a node of two, over each transport. Prints how many lines
/// were compared.
fn compare(library: &str, source: &str) {
    if skip() {
        return;
    }
    let source = source.replace("#include \"say.h\"", include_str!("programs/say.h"));
    let Some(program) = cc(&source, &[library]) else { return };
    let program = copy_for_all(&program);
    for ipc_type in [None, Some("socket")] {
        let cluster = Cluster::builder().nodes(2).ipc_type(ipc_type).start();
        let command = || cluster.node(1).command(&program);
        let with_c = command().run().success();
        // What corosync tells of its end must not come after the second program has begun.
        cluster.node(1).run(|| {
            let cpg = cpg::Client::connect().unwrap();
            eventually("the first program has left its groups", || {
                cpg.list(Iteration::All).unwrap().is_empty()
            });
        });
        let with_ours = command().env("LD_LIBRARY_PATH", installed().join("lib")).run().success();
        let lines: Vec<&str> = with_c.lines().collect();
        for (number, (ours, c)) in with_ours.lines().zip(&lines).enumerate() {
            let differs = |(line, _): &(&str, &str)| ours.starts_with(line);
            if ipc_type.is_some() && DIFFERENCES.iter().any(differs) {
                continue;
            }
            let before = lines[number.saturating_sub(6)..number].join("\n");
            assert_eq!(
                ours, *c,
                "of lib{library}, {ipc_type:?}, line {number}, after\n{before}\nOURS\n{with_ours}\nTHEIRS\n{with_c}\nEND"
            );
        }
        assert_eq!(with_ours.lines().count(), lines.len(), "{with_ours}");
        println!("lib{library}, {ipc_type:?}: {} lines are the same", lines.len());
    }
}

#[test]
fn libcorosync_common_does_what_corosyncs_does() {
    compare("corosync_common", include_str!("programs/common.c"));
}

#[test]
fn libcmap_does_what_corosyncs_does() {
    compare("cmap", include_str!("programs/cmap.c"));
}

#[test]
fn libcpg_does_what_corosyncs_does() {
    compare("cpg", include_str!("programs/cpg.c"));
}

#[test]
fn libquorum_does_what_corosyncs_does() {
    compare("quorum", include_str!("programs/quorum.c"));
}

#[test]
fn libvotequorum_does_what_corosyncs_does() {
    compare("votequorum", include_str!("programs/votequorum.c"));
}

#[test]
fn libcfg_does_what_corosyncs_does() {
    compare("cfg", include_str!("programs/cfg.c"));
}
