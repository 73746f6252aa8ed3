//! The examples, each as a process inside a node.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// An example's program. `cargo test` has built it together with the tests, but `cargo test --test
/// examples` has not.
fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let tests = env::current_exe().unwrap();
        // DIR/PROFILE, or DIR/TARGET/PROFILE if cargo was told a target.
        let profile = tests.ancestors().nth(2).unwrap();
        let folder = profile.parent().unwrap();
        let target = folder.file_name().unwrap().to_str().filter(|name| name.contains("-linux-"));
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--offline", "--examples", "--all-features"]);
        cargo.args(["--profile", if profile.ends_with("release") { "release" } else { "dev" }]);
        match target {
            Some(target) => {
                cargo.args(["--target", target, "--target-dir"]).arg(folder.parent().unwrap())
            }
            None => cargo.arg("--target-dir").arg(folder),
        };
        assert!(
            cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(),
            "{cargo:?}"
        );
        profile.join("examples")
    });
    folder.join(name)
}
use testbed::{Cluster, NodeCommand};

fn run(cluster: &Cluster, name: &str) -> NodeCommand {
    cluster.node(1).command(example(name))
}

fn set(cluster: &Cluster, key: &str, value: &str) {
    cluster.node(1).tool("corosync-cmapctl", ["-s", key, "str", value]).success();
}

#[test]
fn every_example_is_run_here() {
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/examples")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(include_str!("examples.rs").contains(&format!("\"{name}\"")), "{name} is not");
    }
}

#[test]
fn quorum_hook_runs_its_command_at_each_change_and_without_a_daemon() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let hook = ["--changes", "3", "sh", "-c", "echo quorate $QUORATE, members $MEMBERS"];
    let process = run(&cluster, "quorum_hook").args(hook).spawn();
    process.wait_stdout("quorate yes, members 1");
    cluster.node(1).kill();
    process.wait_stdout("quorate unknown, members");
    cluster.node(1).start();
    let output = process.wait().success();
    assert_eq!(output.lines().count(), 3, "{output}");
}

#[test]
fn follow_nodes_prints_the_nodes_and_again_when_the_daemon_is_back() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let process = run(&cluster, "follow_nodes").args(["2"]).spawn();
    let list = format!("1 nodes\n  1 n1 {}\n", cluster.node(1).address());
    process.wait_stdout(&list);
    cluster.node(1).restart();
    assert_eq!(process.wait().success(), list.repeat(2));
}

#[test]
fn cmap_follow_prints_changes_and_reads_again_after_a_gap() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let process = run(&cluster, "cmap_follow").args(["follow.", "3"]).spawn();
    process.wait_stdout("following 0 keys");
    set(&cluster, "follow.a", "one");
    process.wait_stdout("follow.a = one");
    cluster.node(1).restart();
    process.wait_stdout("read again after");
    set(&cluster, "follow.a", "two");
    cluster.node(1).tool("corosync-cmapctl", ["-d", "follow.a"]).success();
    let output = process.wait().success();
    assert!(output.contains("follow.a = two") && output.contains("follow.a is gone"), "{output}");
}

#[test]
fn poll_loop_serves_clients_and_standard_input() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let mut process = run(&cluster, "poll_loop").interactive().spawn();
    process.wait_stdout("quorate: true");
    process.write("typed.key a value\n");
    process.wait_stdout("typed.key");
    let seen = cluster.node(1).tool("corosync-cmapctl", ["-g", "typed.key"]).success();
    assert!(seen.contains("a value"), "{seen}");
    // Its standard input ends with it.
    assert!(process.wait().is_success());
}

#[test]
fn supervised_loop_goes_on_after_a_gap() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let process = run(&cluster, "supervised_loop").arg("2").spawn();
    process.wait_stdout("quorum: Notification");
    process.wait_stdout("cmap: up after None");
    cluster.node(1).restart();
    process.wait_stdout("cmap: up after Some");
    process.wait_stdout("quorum: up after Some");
    set(&cluster, "followed.key", "value");
    process.wait_stdout("followed.key");
    cluster.node(1).kill();
    let output = process.wait().success();
    assert!(output.contains("gaps: 2"), "{output}");
}

#[test]
fn mio_loop_sees_every_event() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let process = run(&cluster, "mio_loop").arg("40").spawn();
    process.wait_stdout("ready");
    for number in 0..40 {
        set(&cluster, "mio.key", &number.to_string());
    }
    let output = process.wait().success();
    assert!(output.contains("mio.key") && output.lines().count() >= 41, "{output}");
}

#[test]
fn cpg_chat_talks_across_nodes() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let [mut first, mut second] = [1, 2].map(|node| {
        cluster.node(node).command(example("cpg_chat")).arg("talk").interactive().spawn()
    });
    first.wait_stdout("* 2 here");
    second.wait_stdout("* 2 here");
    first.write("hello from one\n");
    second.wait_stdout("hello from one");
    second.write("and from two\n");
    first.wait_stdout("and from two");
    assert!(first.wait().is_success());
    second.wait_stdout("* 1 here");
    assert!(second.wait().is_success());
}

/// A client of the example's service, in C: watches, raises, and takes the event.
#[cfg(feature = "server")]
const COUNTER_CLIENT: &str = r#"
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/uio.h>
#include <qb/qbipcc.h>

struct answer { struct qb_ipc_response_header header; uint64_t value __attribute__((aligned(8))); };

int main(void) {
    qb_ipcc_connection_t *c = qb_ipcc_connect("counter", 8192);
    struct answer answer;
    assert(c);
    for (int id = 1; id >= 0; id--) {
        struct qb_ipc_request_header request = { .id = id, .size = sizeof request };
        struct iovec iov = { &request, sizeof request };
        assert(qb_ipcc_sendv_recv(c, &iov, 1, &answer, sizeof answer, -1) == sizeof answer);
        printf("answer %d: %d\n", (int)answer.header.id, (int)answer.value);
    }
    assert(qb_ipcc_event_recv(c, &answer, sizeof answer, -1) == sizeof answer);
    printf("event %d: %d\n", (int)answer.header.id, (int)answer.value);
    qb_ipcc_disconnect(c);
    return 0;
}
"#;

#[test]
#[cfg(feature = "server")]
fn own_service_serves_c_clients_and_ours() {
    if testbed::skip() {
        return;
    }
    let Some(client) = testbed::cc(COUNTER_CLIENT, &["qb"]) else { return };
    let cluster = Cluster::builder().create();
    let mut service = run(&cluster, "own_service").arg("counter").interactive().spawn();
    service.wait_stdout("listening as counter");
    let output = cluster.node(1).command(&client).run().success();
    assert_eq!(output, "answer 1: 0\nanswer 0: 1\nevent 2: 1\n");
    let output = run(&cluster, "libqb_client").arg("counter").run().success();
    assert_eq!(output, "answer 1: 1\nanswer 0: 2\nevent: 2\n");
    service.write("\n");
    let output = service.wait().success();
    assert!(
        output.contains("of user 0 connects") && output.ends_with("the counter was 2\n"),
        "{output}"
    );
}

/// Thousands of messages there and back, and a daemon that is killed meanwhile.
#[test]
#[cfg(feature = "tokio")]
fn tokio_service_goes_on_after_the_daemon_was_killed_and_tells_the_gap() {
    if testbed::skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    let process = run(&cluster, "tokio_service")
        .args(["service", "4000"])
        .limit(std::time::Duration::from_secs(300))
        .spawn();
    for service in ["cpg", "quorum", "cmap"] {
        process.wait_stdout(&format!("{service} up\n"));
    }
    node.kill();
    for service in ["cpg", "quorum", "cmap"] {
        process.wait_stdout(&format!("{service} lost: "));
    }
    node.start();
    for (service, missed) in [("cpg", "Messages"), ("quorum", "States"), ("cmap", "Changes")] {
        let output = process.wait_stdout(&format!("{service} up after a gap"));
        let line =
            output.lines().rfind(|line| line.starts_with(&format!("{service} up after"))).unwrap();
        assert!(line.contains(missed), "{line}");
    }
    let output = process.wait().success();
    assert!(output.ends_with("4000 round trips\n"), "{output}");
}
