//! The harness itself: what it starts forms clusters, and nothing of it stays behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use testbed::{Cluster, Node, Transport, cc, eventually, shared_one, skip, watchdog};

/// nobody and nogroup, wherever corosync runs.
const NOBODY: u32 = 65534;

/// Set for a process that shall hold a cluster.
const HOLD: &str = "COROSYNC_IPC_TEST_HOLD";

#[test]
fn three_nodes_form_split_and_heal() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).transport(Transport::Knet).loses_nodes().start();
    let formed = cluster.wait_members(&[1, 2, 3], 3);
    assert_eq!((formed.quorate, formed.members), (true, vec![1, 2, 3]));

    cluster.partition(&[&[1, 2], &[3]]);
    let majority = cluster.wait_members(&[1, 2], 2);
    let minority = cluster.wait_members(&[3], 1);
    assert_eq!((majority.quorate, minority.quorate), (true, false));
    assert_ne!(majority.ring, minority.ring);

    cluster.heal();
    assert!(cluster.wait_members(&[1, 2, 3], 3).quorate);

    cluster.unplug(1);
    cluster.wait_members(&[2, 3], 2);
    cluster.plug(1);
    cluster.wait_members(&[1, 2, 3], 3);
}

#[test]
fn nodes_can_be_killed_stopped_paused_and_started() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).loses_nodes().start();
    let (one, two) = (cluster.node(1), cluster.node(2));

    let old = one.pid();
    one.kill();
    assert!(!one.is_running() && !is_alive(old));
    assert_eq!(one.membership(), None);
    cluster.wait_members(&[2, 3], 2);
    one.start();
    cluster.wait_members(&[1, 2, 3], 3);
    assert_ne!(one.pid(), old);

    let before = two.log().len();
    two.restart();
    two.wait_log_after(before, "Service engine unloaded: corosync configuration map access");
    cluster.wait_members(&[1, 2, 3], 3);

    let paused = two.pause();
    cluster.wait_members(&[1, 3], 2);
    drop(paused);
    cluster.wait_members(&[1, 2, 3], 3);
}

#[test]
fn votes_settings_and_two_node_reach_the_daemon() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder()
        .nodes(2)
        .two_node(true)
        .node_votes(2, 1)
        .setting("quorum", "wait_for_all: 0")
        .setting("totem", "token: 700")
        .extra_config("uidgid {\n  uid: 4711\n}")
        .start();
    let get = |key: &str| cluster.node(1).tool("corosync-cmapctl", ["-g", key]).success();
    assert!(get("quorum.two_node").contains("= 1"));
    assert!(get("quorum.wait_for_all").contains("= 0"));
    assert!(get("runtime.config.totem.token").contains("= 700"));
    assert!(get("nodelist.node.1.quorum_votes").contains("= 1"));
    assert!(get("uidgid.config.uid.4711").contains("= 1"));
}

#[test]
fn closures_and_programs_are_inside_the_node() {
    if skip() {
        return;
    }
    let cluster = shared_one();
    let node = cluster.node(1);
    assert_eq!(node.tool("hostname", [""; 0]).success(), "n1\n");

    // Abstract sockets, files and the current folder, from a thread that borrows and from its
    // child.
    let here = std::env::current_dir().unwrap();
    let marker = Path::new("/dev/shm/marker");
    let inside = node.run(|| {
        fs::write(marker, "inside").unwrap();
        assert_eq!(std::env::current_dir().unwrap(), here);
        thread::spawn(net_inode).join().unwrap()
    });
    assert!(!marker.exists());
    assert_ne!(inside, net_inode());
    assert_eq!(node.spawn(net_inode).join().unwrap(), inside);
    assert_eq!(node.command("cat").arg(marker).run().success(), "inside");
    node.run(|| node.run(|| fs::remove_file(marker).unwrap()));

    let panicked = catch_unwind(AssertUnwindSafe(|| node.run(|| panic!("expected"))));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"expected"));
}

#[test]
fn programs_have_input_output_and_a_limit() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    assert_eq!(node.command("cat").input("bytes").run().success(), "bytes");
    assert_eq!(node.command("sh").args(["-c", "exit 3"]).run().code(), 3);

    let mut cat = node.command("cat").interactive().spawn();
    cat.write("a line\n");
    cat.wait_stdout("a line");
    cat.close_input();
    assert!(cat.wait().is_success());

    let endless = node.command("sleep").arg("1000").limit(Duration::from_millis(50)).spawn();
    let pid = endless.pid();
    assert!(endless.try_wait().is_none() && !is_alive(pid));

    let dropped = node.spawn_command("sleep", ["1000"]);
    let pid = dropped.pid();
    drop(dropped);
    assert!(!is_alive(pid));
    assert_eq!(node.spawn_command("sleep", ["1000"]).kill().code(), -9);
}

#[test]
fn other_users_are_other_users() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let id = node.command("id").arg("-u").user(NOBODY, NOBODY).run();
    assert_eq!(id.success(), format!("{NOBODY}\n"));
    assert!(node.tool("corosync-cmapctl", ["-g", "totem.version"]).is_success());
    let refused =
        node.command("corosync-cmapctl").args(["-g", "totem.version"]).user(NOBODY, NOBODY).run();
    assert!(!refused.is_success());

    let child = node.ignored_test("prints_its_user").user(NOBODY, NOBODY).run();
    assert!(child.success().contains(&format!("user {NOBODY}, host n1")));
}

#[test]
#[ignore = "run by other_users_are_other_users"]
fn prints_its_user() {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    println!("user {}, host {}", nix::unistd::geteuid(), host.trim());
}

#[test]
fn shared_memory_can_be_small_and_full() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().shm_size("64m").start();
    let node = cluster.node(1);
    let get = || node.tool("corosync-cmapctl", ["-g", "totem.version"]).is_success();
    assert!(get());
    let full = node.fill_shm(0);
    assert!(!get());
    drop(full);
    assert!(get());
    let roomy = node.fill_shm(16 << 20);
    assert!(get());
    drop(roomy);
}

#[test]
fn both_ipc_transports_and_filesystem_sockets_work() {
    if skip() {
        return;
    }
    let builder = Cluster::builder();
    let datagrams = builder.clone().ipc_type(Some("socket")).start();
    let rings = || fs::read_dir("/dev/shm").unwrap().flatten().any(|e| is_ring_folder(&e.path()));
    let hold = |node: &Node| {
        // Ends when its standard input does.
        let tool =
            node.command("corosync-cmapctl").args(["-t", "totem.version"]).interactive().spawn();
        eventually("a client is connected", || {
            let connections =
                node.tool("corosync-cmapctl", ["-m", "stats", "-g", "stats.ipcs.global.active"]);
            connections.stdout.trim_end().ends_with("= 2")
        });
        tool
    };
    let client = hold(datagrams.node(1));
    assert!(!datagrams.node(1).run(rings));
    drop(client);

    // Two nodes: each has to have its own sockets.
    let files = builder.nodes(2).filesystem_sockets(true).start();
    let client = hold(files.node(1));
    assert!(files.node(1).run(rings));
    let sockets =
        |node: &Node| node.run(|| ["/run/cmap", "/tmp/cmap"].map(|path| Path::new(path).exists()));
    assert!(sockets(files.node(1)).contains(&true));
    drop(client);
}

#[test]
fn c_programs_are_compiled_once() {
    if skip() {
        return;
    }
    let source = "#include <corosync/cmap.h>\n#include <stdio.h>\n\
        int main(void) { cmap_handle_t h; printf(\"%d\\n\", cmap_initialize(&h)); return 0; }\n";
    let Some(program) = cc(source, &["cmap"]) else {
        return;
    };
    assert_eq!(cc(source, &["cmap"]).as_ref(), Some(&program));
    assert_eq!(shared_one().node(1).command(&program).run().success(), "1\n");
}

#[test]
fn clusters_run_side_by_side() {
    if skip() {
        return;
    }
    let form = || {
        let cluster = Cluster::builder().nodes(2).start();
        let seen = cluster.wait_members(&[1, 2], 2);
        assert_eq!(seen.members, [1, 2]);
        cluster.node(1).run(net_inode)
    };
    let (one, other) = thread::scope(|scope| {
        let (one, other) = (scope.spawn(form), scope.spawn(form));
        (one.join().unwrap(), other.join().unwrap())
    });
    assert_ne!(one, other);
}

#[test]
fn a_daemon_that_cannot_start_is_reported_at_once() {
    if skip() {
        return;
    }
    let broken = Cluster::builder().setting("totem", "version: 3").create();
    let panicked = catch_unwind(AssertUnwindSafe(|| broken.node(1).start())).unwrap_err();
    let message = panicked.downcast_ref::<String>().unwrap();
    assert!(message.contains("can only parse version 2"), "{message}");
}

#[test]
fn a_dropped_cluster_leaves_nothing() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let traces = Traces::of(&cluster);
    assert!(traces.are_left());
    drop(cluster);
    assert!(!traces.are_left());
}

#[test]
fn a_panic_leaves_nothing() {
    if skip() {
        return;
    }
    let (sender, receiver) = channel();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let cluster = Cluster::one();
        sender.send(Traces::of(&cluster)).unwrap();
        let _paused = cluster.node(1).pause();
        cluster.node(1).run(|| panic!("expected"));
    }));
    assert!(panicked.is_err());
    assert!(!receiver.recv().unwrap().are_left());
}

#[test]
fn a_body_that_hangs_is_given_up() {
    assert_eq!(watchdog(60, || 5), 5);
    let (sender, receiver) = channel::<()>();
    let hung = catch_unwind(AssertUnwindSafe(|| watchdog(0, move || receiver.recv())));
    assert!(hung.is_err());
    drop(sender);
}

#[test]
fn the_cleaner_outlives_a_killed_test_process() {
    if skip() {
        return;
    }
    let mut holder = Holder::start();
    holder.process.kill().unwrap();
    holder.process.wait().unwrap();
    eventually("daemon, stray process and folder are gone", || !holder.has_left_anything());
}

#[test]
fn the_next_test_process_cleans_up_when_the_cleaner_was_killed() {
    if skip() {
        return;
    }
    let mut holder = Holder::start();
    kill_hard(holder.cleaner());
    holder.process.kill().unwrap();
    holder.process.wait().unwrap();
    assert!(holder.has_left_anything());
    let next = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "only_starts_the_harness", "--ignored"])
        .output()
        .unwrap();
    assert!(next.status.success());
    eventually("daemon, stray process and folder are gone", || !holder.has_left_anything());
}

#[test]
#[ignore = "run by the_next_test_process_cleans_up_when_the_cleaner_was_killed"]
fn only_starts_the_harness() {
    assert!(!skip());
    drop(Cluster::builder().create());
}

#[test]
#[ignore = "run by the tests of the cleaner"]
fn holds_a_cluster_until_killed() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    assert!(!skip());
    let cluster = Cluster::one();
    let node = cluster.node(1);
    // A process whose parent has ended.
    let stray = node.tool("sh", ["-c", "sleep 1000 >&- 2>&- & echo $!"]).success();
    println!("\nholding {} {} {}", node.pid(), stray.trim(), node.config_path().display());
    let (_sender, receiver) = channel::<()>();
    let _ = receiver.recv();
}

/// A process of its own that holds a cluster.
struct Holder {
    process: Child,
    daemon: u32,
    stray: u32,
    folder: PathBuf,
}

impl Holder {
    fn start() -> Holder {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "holds_a_cluster_until_killed", "--ignored", "--nocapture"])
            .env(HOLD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let line = lines.map_while(Result::ok).find(|line| line.starts_with("holding ")).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        // The process's folder / the cluster's / the node's / corosync.conf
        let folder = Path::new(words[3]).ancestors().nth(3).unwrap().to_owned();
        let holder = Holder {
            process,
            daemon: words[1].parse().unwrap(),
            stray: words[2].parse().unwrap(),
            folder,
        };
        assert!(is_alive(holder.daemon) && is_alive(holder.stray) && holder.folder.exists());
        holder
    }

    fn cleaner(&self) -> u32 {
        let id = self.process.id();
        let children =
            fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        let of_threads = fs::read_dir(format!("/proc/{id}/task"))
            .unwrap()
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let all = of_threads.fold(children, |all, more| all + " " + &more);
        let is_cleaner = |pid: &u32| {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains("corosync-ipc-test-cleaner")
        };
        all.split_whitespace().map(|pid| pid.parse().unwrap()).find(is_cleaner).unwrap()
    }

    fn has_left_anything(&self) -> bool {
        is_alive(self.daemon) || is_alive(self.stray) || self.folder.exists()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a cluster consists of.
struct Traces {
    networks: Vec<u64>,
    pids: Vec<u32>,
    folder: PathBuf,
}

impl Traces {
    fn of(cluster: &Cluster) -> Traces {
        let node = cluster.node(1);
        // A process whose parent has ended, next to the daemons.
        let stray = node.tool("sh", ["-c", "sleep 1000 >&- 2>&- & echo $!"]).success();
        let pids = cluster.nodes().iter().map(Node::pid).chain([stray.trim().parse().unwrap()]);
        let traces = Traces {
            networks: cluster.nodes().iter().map(|node| node.run(net_inode)).collect(),
            pids: pids.collect(),
            folder: node.config_path().ancestors().nth(2).unwrap().to_owned(),
        };
        assert!(traces.folder.exists() && traces.pids.iter().copied().all(is_alive));
        traces
    }

    fn are_left(&self) -> bool {
        // A namespace lives as long as a process, a descriptor or a mount refers to it.
        let names: Vec<String> =
            self.networks.iter().map(|inode| format!("net:[{inode}]")).collect();
        let held = |path: &Path| {
            let target = fs::read_link(path).unwrap_or_default();
            names.iter().any(|name| Path::new(name) == target)
        };
        let processes =
            fs::read_dir("/proc").unwrap().flatten().any(|e| held(&e.path().join("ns/net")));
        let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten().any(|e| held(&e.path()));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        processes
            || descriptors
            || names.iter().any(|name| mounts.contains(name))
            || self.pids.iter().copied().any(is_alive)
            || self.folder.exists()
    }
}

fn net_inode() -> u64 {
    // Also shows that the thread can use the network namespace it is in.
    UnixDatagram::unbound().unwrap();
    fs::metadata("/proc/thread-self/ns/net").unwrap().ino()
}

fn is_ring_folder(path: &Path) -> bool {
    path.is_dir()
        && fs::read_dir(path)
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().contains("-data"))
}

/// Whether a process exists and is not a zombie.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn kill_hard(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}
