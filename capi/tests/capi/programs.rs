//! corosync's own programs, linked against its libraries, over ours.

use testbed::{Cluster, Node, NodeCommand, address, eventually, find_program, skip, skip_because};

use super::installed;

fn over_ours(node: &Node, program: &str) -> NodeCommand {
    node.command(program).env("LD_LIBRARY_PATH", installed().join("lib"))
}

/// What these print does not change between two calls.
#[test]
fn corosyncs_tools_print_the_same_over_ours() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let node = cluster.node(1);
    for line in [
        "corosync-cmapctl",
        "corosync-cmapctl -g totem.cluster_name",
        "corosync-cmapctl -b nodelist.",
        "corosync-cmapctl -s tools.test u32 7 && corosync-cmapctl -b tools. && corosync-cmapctl -d tools.test",
        "corosync-cmapctl -g tools.test",
        "corosync-quorumtool -si",
        "corosync-quorumtool -l",
        "corosync-quorumtool -e 2",
        "corosync-cfgtool -s",
        "corosync-cfgtool -n",
        "corosync-cfgtool -a 1",
        "corosync-cfgtool -i 0",
        "corosync-cfgtool -R",
        "corosync-cfgtool -L",
        "corosync-cpgtool",
        "corosync-cpgtool -e",
        "corosync-cpgtool -n",
    ] {
        let with_c = node.command("sh").args(["-c", line]).run();
        let with_ours = over_ours(node, "sh").args(["-c", line]).run();
        // The time of a change, and what each connection is.
        let lasting = |text: &str| {
            let lasts =
                |line: &&str| !line.starts_with("Date:") && !line.contains("runtime.connections");
            text.lines().filter(lasts).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(with_ours.code(), with_c.code(), "{line}: {with_ours:?}");
        assert_eq!(lasting(&with_ours.stdout), lasting(&with_c.stdout), "{line}");
        assert_eq!(with_ours.stderr, with_c.stderr, "{line}");
    }
}

#[test]
fn corosync_notifyd_reports_a_change_over_ours() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).loses_nodes().start();
    // It says what happens on its standard error.
    let notifyd =
        over_ours(cluster.node(1), "sh").args(["-c", "exec corosync-notifyd -f -o 2>&1"]).spawn();
    notifyd.wait_stdout("corosync-notify is now connected to corosync");
    cluster.node(2).kill();
    notifyd.wait_stdout("has lost quorum");
    notifyd.kill();
}

/// With the quorum device two nodes have three votes.
#[test]
fn corosync_qdevice_gives_its_vote_over_ours() {
    if skip() {
        return;
    }
    if find_program("corosync-qdevice").is_none() || find_program("corosync-qnetd").is_none() {
        return skip_because("no corosync-qdevice or no corosync-qnetd");
    }
    let device = format!(
        "device {{\nmodel: net\nvotes: 1\nnet {{\nhost: {}\ntls: off\nalgorithm: ffsplit\n}}\n}}",
        address(1)
    );
    let cluster = Cluster::builder().nodes(2).setting("quorum", &device).start();
    let qnetd = cluster
        .node(1)
        .command("sh")
        .args(["-c", "mkdir -p /run/corosync-qnetd && exec corosync-qnetd -f -s off"]);
    let qnetd = qnetd.spawn();
    let devices = cluster.nodes().iter().map(|node| {
        let script = "mkdir -p /run/corosync-qdevice && exec corosync-qdevice -f -d";
        over_ours(node, "sh").args(["-c", script]).spawn()
    });
    let devices: Vec<_> = devices.collect();
    eventually("the device votes", || {
        let status = over_ours(cluster.node(1), "corosync-quorumtool").arg("-s").run().stdout;
        let votes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':')).map(|(_, votes)| votes.trim().to_owned())
        };
        (votes("Total votes") == Some("3".to_owned()) && status.contains("A,V,NMW")).then_some(())
    });
    devices.into_iter().chain([qnetd]).for_each(|process| drop(process.kill()));
}

/// Without the kernel's DLM it ends, but before that it has joined the cluster over libcpg, libcmap,
/// libquorum and libcfg.
#[test]
fn dlm_controld_comes_as_far_over_ours_as_over_cs() {
    if skip() {
        return;
    }
    if find_program("dlm_controld").is_none() {
        return skip_because("no dlm_controld");
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    let args = ["-D", "--foreground", "1", "--enable_fencing", "0"];
    let end = |command: NodeCommand| {
        let output = command.args(args).run();
        // Behind the time.
        let said = |line: &str| line.split_once(' ').map_or(line, |(_, said)| said).to_owned();
        (output.code(), output.stderr.lines().map(said).collect::<Vec<_>>())
    };
    assert_eq!(end(over_ours(node, "dlm_controld")), end(node.command("dlm_controld")));
}
