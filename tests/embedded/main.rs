//! `embedded::Corosync` against the real one: corosync's own tools print the same with both.

mod config_file;
mod interop;
mod three;
mod transcripts;

use std::env;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::embedded;
use corosync_ipc::embedded::{Builder, Corosync};
use corosync_ipc::libqb::server;
use corosync_ipc::{ENV_SHM_ROOT, ENV_SOCKET_DIR, Endpoint, Error, cmap, quorum, votequorum};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testbed::{Cluster, Node, Transport, WATCHDOG, eventually, nothing_to_compare};

/// A node without a daemon, with an embedded one inside.
struct Embedded {
    // Ended before the namespaces are.
    corosync: Corosync,
    cluster: Cluster,
}

impl Embedded {
    fn start(builder: Builder<Corosync>) -> Self {
        let cluster = Cluster::builder().create();
        let corosync = cluster.node(1).run(|| {
            let builder = builder.endpoint(&Endpoint::new().abstract_sockets());
            builder.start().expect("the embedded daemon starts")
        });
        Self { corosync, cluster }
    }

    fn node(&self) -> &Node {
        self.cluster.node(1)
    }
}

/// The token timeout, in milliseconds: so long that a busy machine does not make the real node form
/// another ring.
const TOKEN: u32 = 5000;

/// As the harness configures one node.
fn like_the_harness(cluster_name: &str) -> Builder<Corosync> {
    let mut builder = Corosync::builder()
        .cluster_name(cluster_name)
        .node(1, "n1", "10.77.0.1", None)
        .setting("totem.transport", "udpu")
        .setting("totem.token", TOKEN)
        .setting("totem.token_coefficient", 0_u32)
        .setting("totem.crypto_cipher", "none")
        .setting("totem.crypto_hash", "none")
        .setting("quorum.expected_votes", 1_u32);
    for (key, value) in [
        ("logging.debug", "off"),
        ("logging.timestamp", "hires"),
        ("logging.to_logfile", "no"),
        ("logging.to_stderr", "yes"),
        ("logging.to_syslog", "no"),
        ("system.allow_knet_handle_fallback", "yes"),
        ("system.move_to_root_cgroup", "no"),
        ("system.sched_rr", "no"),
    ] {
        builder = builder.setting(key, value);
    }
    builder
}

/// Runs a tool and returns what it printed, without what two runs of one daemon would not agree on
/// either.
fn print(node: &Node, tool: &str, args: &[&str]) -> String {
    let output = node.tool(tool, args);
    let lines = output.stdout.lines().filter(|line| !line.starts_with("Date:"));
    format!("{}\n{}\n{}", output.code(), lines.collect::<Vec<_>>().join("\n"), output.stderr)
}

/// Both daemons are asked the same, in this order; they print the same.
fn compare(real: &Node, embedded: &Node, commands: &[(&str, &[&str])]) {
    for (tool, args) in commands {
        assert_eq!(print(embedded, tool, args), print(real, tool, args), "{tool} {args:?}");
    }
}

#[test]
fn cmapctl_and_quorumtool_print_the_same() {
    if nothing_to_compare() {
        return;
    }
    for (transport, name) in
        [(server::Transport::Shm, None), (server::Transport::Socket, Some("socket"))]
    {
        print_the_same_over(transport, name);
    }
}

fn print_the_same_over(transport: server::Transport, ipc_type: Option<&str>) {
    let real = Cluster::builder().token(TOKEN).ipc_type(ipc_type).start();
    let name = real
        .node(1)
        .run(|| cmap::Client::connect().unwrap().get_as::<String>("totem.cluster_name").unwrap());
    let embedded = Embedded::start(like_the_harness(&name.unwrap()).transport(transport));
    compare(
        real.node(1),
        embedded.node(),
        &[
            ("corosync-cmapctl", &[]),
            ("corosync-cmapctl", &["-b", "totem.", "nodelist."]),
            ("corosync-cmapctl", &["-m", "stats", "stats.pg."]),
            ("corosync-cmapctl", &["-s", "test.a", "u8", "5"]),
            ("corosync-cmapctl", &["-s", "test.b", "str", "text"]),
            ("corosync-cmapctl", &["-s", "test.c", "dbl", "1.5"]),
            ("corosync-cmapctl", &["-s", "test.d", "i64", "-5"]),
            ("corosync-cmapctl", &["-s", "a", "u8", "5"]),
            ("corosync-cmapctl", &["-s", "test with space", "u8", "5"]),
            ("corosync-cmapctl", &["-s", "totem.cluster_name", "str", "other"]),
            ("corosync-cmapctl", &["-s", "runtime.services.cmap.0.rx", "u64", "1"]),
            ("corosync-cmapctl", &["-s", "quorum.wait_for_all", "u8", "1"]),
            ("corosync-cmapctl", &["-d", "nodelist.node.0.name"]),
            ("corosync-cmapctl", &["-g", "test.a"]),
            ("corosync-cmapctl", &["-g", "test.missing"]),
            ("corosync-cmapctl", &["-i", "test.a"]),
            ("corosync-cmapctl", &["-i", "test.b"]),
            ("corosync-cmapctl", &["-D", "test.c"]),
            ("corosync-cmapctl", &["-d", "test.c"]),
            ("corosync-cmapctl", &["test."]),
            ("corosync-cmapctl", &["-m", "stats", "-s", "stats.pg.msg_reserved", "u32", "1"]),
            ("corosync-cmapctl", &["-C", "totem"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-quorumtool", &["-l"]),
            ("corosync-quorumtool", &["-i"]),
            ("corosync-quorumtool", &["-V", "1"]),
            ("corosync-quorumtool", &["-n", "1", "-v", "3"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-quorumtool", &["-e", "1"]),
            ("corosync-quorumtool", &["-e", "4"]),
            ("corosync-quorumtool", &["-e", "9"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-quorumtool", &["-n", "7", "-v", "1"]),
            // Changed at run time, as an administrator would after a change of the nodelist.
            ("corosync-cmapctl", &["-s", "quorum.expected_votes", "u32", "3"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-cmapctl", &["-s", "quorum.two_node", "u8", "1"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-cmapctl", &["-s", "totem.config_version", "u64", "7"]),
            ("corosync-cmapctl", &["runtime."]),
            ("corosync-cfgtool", &["-s"]),
            ("corosync-cfgtool", &["-s", "-b"]),
            ("corosync-cfgtool", &["-n"]),
            ("corosync-cfgtool", &["-a", "1"]),
            ("corosync-cfgtool", &["-a", "5"]),
            ("corosync-cfgtool", &["-k", "5"]),
            ("corosync-cfgtool", &["-L"]),
            ("corosync-cfgtool", &["-R"]),
            ("corosync-cmapctl", &["config."]),
            ("corosync-cpgtool", &[]),
            ("corosync-cpgtool", &["-n"]),
            // The last: it ends both.
            ("corosync-cfgtool", &["-H"]),
        ],
    );
    eventually("both have ended", || !real.node(1).is_running() && !embedded.corosync.is_running());
    assert_eq!(
        print(embedded.node(), "corosync-cmapctl", &[]),
        print(real.node(1), "corosync-cmapctl", &[])
    );
}

/// What `corosync-cmapctl -m stats` lists when nobody else is connected: without a connection's
/// address and pid, and of what depends on how often and how fast something was done, the type
/// only.
fn statistics(node: &Node) -> Vec<String> {
    const RUNNING: [&str; 7] =
        ["closed", "requests", "responses", "retries", "stats.srp.", ".tx_data_", ".tx_total_"];
    let line = |line: &str| {
        let Some((key, value)) = line.split_once(" = ") else { return line.to_owned() };
        let mut parts: Vec<&str> = key.split('.').collect();
        if key.starts_with("stats.ipcs.service") {
            parts.drain(3..5);
        }
        let is_running =
            RUNNING.iter().any(|name| key.contains(name)) && !key.contains("_entered ");
        format!("{} = {}", parts.join("."), if is_running { "a number" } else { value })
    };
    eventually("the tool is alone", || {
        let listed = print(node, "corosync-cmapctl", &["-m", "stats"]);
        // What a busy machine did to the real one.
        let lines = listed.lines().filter(|line| !line.starts_with("stats.schedmiss."));
        let lines: Vec<String> = lines.map(line).collect();
        Some(lines).filter(|lines| lines.contains(&"stats.ipcs.global.active (u64) = 1".to_owned()))
    })
}

#[test]
fn the_statistics_are_alike() {
    if nothing_to_compare() {
        return;
    }
    let compare = |real: &Node, embedded: &Node| {
        assert_eq!(statistics(embedded), statistics(real));
        for clear in ["knet", "totem", "schedmiss"] {
            let args = ["-m", "stats", "-C", clear];
            assert_eq!(
                print(embedded, "corosync-cmapctl", &args),
                print(real, "corosync-cmapctl", &args),
                "{clear}"
            );
            assert_eq!(statistics(embedded), statistics(real), "{clear}");
        }
    };
    let real = Cluster::builder().token(TOKEN).start();
    compare(real.node(1), Embedded::start(like_the_harness("statistics")).node());
    let real = Cluster::builder().token(TOKEN).transport(Transport::Knet).start();
    let embedded = like_the_harness("statistics").setting("totem.transport", "knet");
    compare(real.node(1), Embedded::start(embedded).node());
}

#[test]
fn a_node_of_three_waits_alike() {
    if nothing_to_compare() {
        return;
    }
    let real = Cluster::builder().nodes(3).token(TOKEN).create();
    real.node(1).start();
    let builder =
        ["n1", "n2", "n3"].into_iter().zip(1..).fold(Corosync::builder(), |builder, (name, id)| {
            builder.node(id, name, format!("10.77.0.{id}"), None)
        });
    let embedded = Embedded::start(builder);
    compare(
        real.node(1),
        embedded.node(),
        &[
            ("corosync-quorumtool", &["-s"]),
            ("corosync-quorumtool", &["-e", "1"]),
            ("corosync-quorumtool", &["-s"]),
            ("corosync-cmapctl", &["runtime.votequorum."]),
        ],
    );
}

#[test]
fn a_private_daemon_serves_this_crates_clients_and_leaves_nothing() {
    let corosync = Corosync::start().unwrap();
    let map = cmap::Client::connect_to(corosync.endpoint()).unwrap();
    map.track_add("test.", cmap::TrackEvents::ALL | cmap::TrackEvents::PREFIX).unwrap();
    map.set("test.value", 1_u32).unwrap();
    assert_eq!(map.get_as::<u32>("test.value").unwrap(), Some(1));
    let event = testbed::next(&map);
    let cmap::Event::Notification(event) = event else { panic!("not told: {event:?}") };
    assert_eq!((event.key.as_str(), event.new_value), ("test.value", Some(cmap::Value::U32(1))));
    let keys: Vec<String> =
        map.iter("nodelist.").unwrap().map(|entry| entry.unwrap().key).collect();
    assert_eq!(keys.first().map(String::as_str), Some("nodelist.local_node_pos"));

    assert!(quorum::Client::connect_to(corosync.endpoint()).unwrap().is_quorate().unwrap());
    let votes = votequorum::Client::connect_to(corosync.endpoint()).unwrap();
    assert_eq!(votes.local_info().unwrap().total_votes, 1);
    assert_eq!(corosync.connections(), 2);
    let directory = corosync.endpoint().shm_root_path().to_owned();
    assert!(directory.starts_with("/dev/shm/") && directory.is_dir());
    drop(corosync);
    assert!(map.get("test.value").unwrap_err().is_unreachable());
    assert!(!directory.exists());
}

#[test]
fn a_nodes_descriptor_tells_whether_it_runs() {
    let cluster = embedded::Cluster::builder().nodes(3).down(3).start().unwrap();
    let ended = || -> Vec<bool> {
        let nodes = cluster.nodes().map(|node| (testbed::is_fd_readable(&node), node.is_running()));
        nodes
            .inspect(|(is_readable, is_running)| assert_eq!(*is_readable, !is_running))
            .map(|(is_readable, _)| is_readable)
            .collect()
    };
    assert_eq!(ended(), [false, false, true]);
    cluster.start_node(3).unwrap();
    cluster.kill(2).unwrap();
    assert_eq!(ended(), [false, true, false]);
}

#[test]
fn configurations_that_corosync_refuses_are_refused() {
    let refused = |builder: Builder<Corosync>| builder.start().unwrap_err().to_string();
    let device = Corosync::builder().setting("quorum.device.model", "net");
    assert!(
        refused(device.setting("quorum.two_node", 1_u8)).contains("two_node and quorum device")
    );
    assert!(refused(Corosync::builder().node_id(0)).contains("a node id must not be 0"));
    assert!(
        refused(Corosync::builder().node(2, "n2", "127.0.0.2", None))
            .contains("node 1 is not in the nodelist")
    );
}

/// Connects with one descriptor more each time, until it succeeds.
#[test]
#[ignore = "run by another test, in a process of its own"]
fn connect_with_few_descriptors() {
    let endpoint = Endpoint::from_env().unwrap();
    let next_free = u64::try_from(File::open("/dev/null").unwrap().as_raw_fd()).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    for limit in next_free.. {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        match cmap::Client::connect_to(&endpoint) {
            Ok(_) => {
                return assert!(limit > next_free + 2, "it takes a socket, a directory and files");
            }
            Err(Error::System { source, .. }) if source.raw_os_error() == Some(libc::EMFILE) => {}
            Err(error) => panic!("{}: {error}", limit - next_free),
        }
    }
}

#[test]
fn a_lack_of_descriptors_is_told_as_that_at_each_step_of_connecting() {
    let corosync = Corosync::start().unwrap();
    let path = corosync.endpoint().socket_address("cmap").path().unwrap().to_owned();
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "connect_with_few_descriptors", "--ignored", "--nocapture"]);
    command
        .env(ENV_SOCKET_DIR, path.parent().unwrap())
        .env(ENV_SHM_ROOT, corosync.endpoint().shm_root_path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What a member takes slowly piles up, and those who cause it wait for it: but not for ever.
#[test]
fn a_member_that_takes_events_slowly_keeps_nobody_waiting() {
    let corosync = Corosync::start().unwrap();
    let join = |group: &str, pid| {
        let options = cpg::Options::new().pid(pid);
        let client = cpg::Client::connect_with(corosync.endpoint(), options).unwrap();
        client.join(&GroupName::new(group).unwrap()).unwrap();
        client
    };
    let (slow, flooding, bystander) = (join("flooded", 1), join("flooded", 2), join("another", 3));
    let (held, done) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                slow.poll_event().unwrap();
                thread::sleep(Duration::from_millis(200));
            }
        });
        scope.spawn(|| {
            let mut refusals = 0;
            while !done.load(Ordering::SeqCst) {
                match flooding.try_multicast(Guarantee::AGREED, &[0; 10_000]) {
                    Ok(()) => refusals = 0,
                    Err(_) => {
                        refusals += 1;
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                // More than a ring that is full for a moment.
                held.fetch_or(refusals >= 100, Ordering::SeqCst);
                while flooding.poll_event().unwrap().is_some() {}
            }
        });
        eventually("the flood is held back", || held.load(Ordering::SeqCst));
        bystander.set_request_timeout(WATCHDOG);
        let told: Result<Vec<_>, _> = (0..20).map(|_| bystander.local_node_id()).collect();
        done.store(true, Ordering::SeqCst);
        assert_eq!(told.unwrap().len(), 20);
    });
}
