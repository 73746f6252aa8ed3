//! `status`, `quorum` and `doctor`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::Duration;

use corosync_ipc::cmap::Value as MapValue;
use corosync_ipc::embedded::{Cluster as EmbeddedCluster, Corosync};
use corosync_ipc::{CsError, NodeId, RingId, votequorum};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use testbed::{Cluster, IpcType, Node, Process, eventually, shared_one, skip, version};

use super::served::Place;
use super::tool::{comparable, quorumtool};
use super::{assert_fails, assert_one_line, command, json, lines, ok, program, run};

/// Both answer for the same moment: the ring is the same before and after.
#[track_caller]
fn assert_agrees_with_quorumtool(node: &Node, args: &[&str]) -> Value {
    eventually("two answers on one ring", || {
        let document = json(node, args);
        let (expected, again) = (quorumtool(node), json(node, args));
        (document == again).then(|| {
            let ours = comparable(&document);
            for (name, value) in expected {
                // 1.99 does not show who the local node is, and shows half of the ring's id.
                if name == "members" && !value.to_string().contains("true") {
                    assert_eq!(value.as_array().map(Vec::len), ours[name].as_array().map(Vec::len));
                } else if name == "ring_id" && value["node_id"].is_null() {
                    assert_eq!(value["seq"], ours[name]["seq"]);
                } else {
                    assert_eq!(value, ours[name], "{name} of node {}", node.id());
                }
            }
            document
        })
    })
}

#[test]
fn status_agrees_with_corosync_quorumtool() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder()
        .nodes(3)
        .loses_nodes()
        .node_votes(2, 3)
        .setting("quorum", "wait_for_all: 1")
        .start();
    for node in cluster.nodes() {
        let status = assert_agrees_with_quorumtool(node, &["status"]);
        assert_eq!(status["node_name"], json!(format!("n{}", node.id())));
        assert_eq!(status["absent"], json!([]));
        assert_eq!(status["members"][0]["addresses"], json!([cluster.node(1).address()]));
        assert_eq!(status["members"][1]["votes"], json!(3));
        let services = status["services"].as_array().unwrap();
        let names: Vec<_> =
            services.iter().map(|service| service["service"].as_str().unwrap()).collect();
        assert_eq!(names, ["cmap", "cpg", "cfg", "quorum", "votequorum", "evs"]);
        assert!(
            services[..5].iter().all(|service| service["reachable"] == json!(true)),
            "{services:?}"
        );
    }

    cluster.partition(&[&[2, 3], &[1]]);
    cluster.wait_members(&[2, 3], 2);
    cluster.wait_members(&[1], 1);
    for node in cluster.nodes() {
        let status = assert_agrees_with_quorumtool(node, &["quorum", "status"]);
        let absent: Value = status["absent"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["node_id"].clone())
            .collect();
        assert_eq!(absent, if node.id() == 1 { json!([2, 3]) } else { json!([1]) });
        assert!(status["absent"][0]["member"] == json!(false) && status.get("services").is_none());
        let nodes = json(node, &["quorum", "nodes"]);
        let both = [&status["members"], &status["absent"]]
            .map(|list| list.as_array().unwrap().clone())
            .concat();
        assert_eq!(nodes, Value::Array(both));
    }

    for (order, sort) in [("n", "name"), ("i", "id")] {
        let node = cluster.node(2);
        let tool = node.tool("corosync-quorumtool", ["-l", "-o", order]).stdout;
        let ids = tool.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok());
        let ids: Vec<u64> = ids.collect();
        let members = json(node, &["quorum", "status", "--sort", sort])["members"].clone();
        let members = members.as_array().unwrap().iter();
        let ours = members.map(|node| node["node_id"].as_u64().unwrap());
        assert_eq!(ours.collect::<Vec<_>>(), ids, "{tool}");
    }

    // Not being quorate is an answer, unless asked for.
    let (minority, majority) = (cluster.node(1), cluster.node(2));
    assert!(ok(minority, &["quorum", "status"]).contains("Quorate:          no"));
    let check = run(minority, &["quorum", "status", "--check"]);
    assert_eq!((check.code(), check.stderr.as_str()), (5, ""));
    assert!(check.stdout.contains("activity blocked"), "{}", check.stdout);
    assert!(ok(majority, &["quorum", "status", "--check"]).contains("Quorate:          yes"));
    assert!(
        ok(majority, &["quorum", "nodes"])
            .lines()
            .any(|line| line.contains("n3") && line.contains("member"))
    );
}

#[test]
fn nodes_are_sorted_as_asked() {
    let builder = Corosync::builder()
        .node(1, "zebra", "10.0.0.9", None)
        .node(2, "ant", "host.example", None)
        .node(3, "bee", "10.0.0.10", None)
        .node(4, "cow", "9.0.0.1", None);
    let corosync = builder.start().unwrap();
    for (sort, order) in [
        (&[][..], [1, 2, 3, 4]),
        (&["--sort", "id"], [1, 2, 3, 4]),
        // The only member comes first.
        (&["--sort", "name"], [1, 2, 3, 4]),
        (&["--sort", "address"], [1, 4, 3, 2]),
    ] {
        let nodes = json(corosync.endpoint(), &[&["quorum", "nodes"], sort].concat());
        let ids = |nodes: &Value| -> Vec<u64> {
            nodes.as_array().unwrap().iter().map(|node| node["node_id"].as_u64().unwrap()).collect()
        };
        assert_eq!(ids(&nodes), order, "{sort:?}");
        let status = json(corosync.endpoint(), &[&["quorum", "status"], sort].concat());
        assert_eq!(
            (ids(&status["members"]), ids(&status["absent"])),
            (vec![1], order[1..].to_vec())
        );
    }
    let unknown = run(corosync.endpoint(), &["quorum", "nodes", "--sort", "votes"]);
    assert_fails(&unknown, 2, &["votes", "id, name, address"]);
}

/// One vote of the node, one of the quorum device, and quorum is two.
fn with_device(transport: IpcType) -> Cluster {
    let device = "quorum {\ndevice {\nmodel: net\nvotes: 1\n}\n}";
    let builder = Cluster::builder().setting("quorum", "expected_votes: 3").extra_config(device);
    builder.ipc_type(transport.name()).start()
}

#[test]
fn votes_of_a_device_are_those_quorumtool_shows() {
    if skip() {
        return;
    }
    device_is_shown_as_quorumtool_shows_it(IpcType::Shm);
    // corosync has datagrams since 2.1.1.
    if version() >= [2, 1, 1, 0] {
        device_is_shown_as_quorumtool_shows_it(IpcType::Socket);
    }
}

fn device_is_shown_as_quorumtool_shows_it(transport: IpcType) {
    let cluster = with_device(transport);
    let node = cluster.node(1);
    // What the tool shows of the device, as [node, votes, ...].
    let tool = || {
        let text = node.tool("corosync-quorumtool", ["-s"]).stdout;
        let row = text.lines().find(|line| line.split_whitespace().next() == Some("0"));
        row.unwrap_or_else(|| panic!("{text}"))
            .split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let client = node.run(|| {
        let client = votequorum::Client::connect().unwrap();
        client.qdevice_register("device").unwrap();
        client
    });
    votes_of_a_device_count_while_it_votes(node, &client, |votes| {
        let shown = tool();
        assert_eq!((shown[1].parse(), shown[2].as_str()), (Ok(votes), "device"), "{shown:?}");
    });
}

#[test]
fn votes_of_a_device_count_while_it_votes_at_the_embedded_corosync() {
    let device = [
        ("quorum.expected_votes", MapValue::from(3_u32)),
        ("quorum.device.votes", MapValue::from(1_u32)),
    ];
    for transport in [IpcType::Shm, IpcType::Socket] {
        let builder = Corosync::builder().setting("quorum.device.model", "net");
        let corosync = device
            .iter()
            .fold(builder, |builder, (key, value)| builder.setting(*key, value.clone()))
            .transport(transport.into())
            .start()
            .unwrap();
        let client = votequorum::Client::connect_to(corosync.endpoint()).unwrap();
        assert_eq!(json(corosync.endpoint(), &["quorum", "status"])["qdevice"], json!(null));
        client.qdevice_register("device").unwrap();
        votes_of_a_device_count_while_it_votes(corosync.endpoint(), &client, |_| ());
    }
}

/// As corosync-quorumtool: wherever it is registered, and of this node whether it is.
#[test]
fn the_device_of_another_node_is_shown() {
    let builder = EmbeddedCluster::builder().nodes(2).setting("quorum.device.model", "net");
    let cluster = builder.setting("quorum.device.votes", 1_u32).start().unwrap();
    let [one, two] = [1, 2].map(|id| cluster.node(id).unwrap().endpoint().clone());
    let client = votequorum::Client::connect_to(&two).unwrap();
    client.qdevice_register("device").unwrap();
    eventually("the device is shown", || {
        json(&one, &["quorum", "nodes"])[1]["qdevice"]["alive"] == json!(false)
    });
    let text = ok(&one, &["quorum", "nodes"]);
    let states: Vec<_> = text.lines().map(|line| line.split_whitespace().nth(3).unwrap()).collect();
    assert_eq!(states, ["QDEVICE", "NR", "NA,NV,NMW"], "{text}");
    assert_eq!(json(&one, &["quorum", "status"])["qdevice"], json!(null));
}

/// The client has registered the device. `compare` is told how many votes the device has now.
fn votes_of_a_device_count_while_it_votes(
    place: &impl Place,
    client: &votequorum::Client,
    compare: impl Fn(u32),
) {
    let status = || json(place, &["quorum", "status"]);
    let shows = |votes: u32| {
        let document = eventually("the device is shown", || {
            let document = status();
            (document["qdevice"]["votes"] == json!(votes)).then_some(document)
        });
        assert_eq!(
            document["qdevice"],
            json!({ "name": "device", "votes": votes, "configured_votes": 1 })
        );
        assert_eq!(document["total_votes"], json!(1 + votes));
        compare(votes);
        document
    };
    let ring = shows(0)["ring_id"].clone();
    let text = ok(place, &["quorum", "status"]);
    assert!(text.contains("Quorum device:    device, votes 0 (1 when it votes)\n"), "{text}");

    // The daemon keeps no state of the device.
    let watch = command(place, &["quorum", "watch"]).spawn();
    watch.wait_stdout("votequorum: not quorate, nodes 1=member qdevice\n");
    let watch = command(place, &["--json", "quorum", "watch"]).spawn();
    watch.wait_stdout("{\"node_id\":0,\"state\":null}");

    let ring_id = RingId { node_id: NodeId(1), seq: ring["seq"].as_u64().unwrap() };
    client.qdevice_poll("device", true, ring_id).unwrap();
    shows(1);
    let text = ok(place, &["quorum", "status"]);
    assert!(text.contains("Quorum device:    device, votes 1\n"), "{text}");

    // The second time there is none any more.
    for _ in 0..2 {
        assert_eq!(ok(place, &["quorum", "unregister-qdevice"]), "");
        let document = eventually("the device is gone", || {
            let document = status();
            document["qdevice"].is_null().then_some(document)
        });
        assert_eq!(document["total_votes"], json!(1), "{document}");
    }
    let vote = client.qdevice_poll("device", true, ring_id).map_err(|error| error.cs_error());
    assert_eq!(vote, Err(CsError::NotExist));
}

/// A node without a quorum provider: every partition is quorate, and there is no votequorum.
fn without_provider() -> Cluster {
    let cluster = Cluster::builder().create();
    let node = cluster.node(1);
    let config = fs::read_to_string(node.config_path()).unwrap();
    let lines: Vec<&str> = config.lines().filter(|line| !line.contains("provider:")).collect();
    fs::write(node.config_path(), lines.join("\n")).unwrap();
    // corosync-quorumtool fails without a provider, so that nothing is ready for it.
    node.start_unready();
    cluster
}

#[test]
fn status_works_without_votequorum() {
    if skip() {
        return;
    }
    let cluster = without_provider();
    let node = cluster.node(1);
    // Any user can. Nobody asks there.
    let _silent = node.run(|| {
        let mut name = [0; 107];
        name[..10].copy_from_slice(b"votequorum");
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
    });
    // Until the first membership is formed nobody is in it.
    let status = eventually("a membership", || {
        let status: Value = serde_json::from_str(&run(node, &["--json", "status"]).stdout).ok()?;
        (status["members"] != json!([]) && status["errors"] == json!({})).then_some(status)
    });
    assert_eq!(status["node_id"], json!(1));
    assert_eq!(status["quorate"], json!(true));
    assert_eq!(status["members"][0]["name"], json!("n1"));
    if !status["ring_id"].is_null() {
        let ring = &status["ring_id"];
        let ring = format!(
            "({:x}.{:x})",
            ring["node_id"].as_u64().unwrap(),
            ring["seq"].as_u64().unwrap()
        );
        assert!(node.log().contains(&format!("A new membership {ring} was formed")), "{ring}");
    }
    assert_eq!(status["members"][0]["votes"], json!(null));
    for name in ["quorum_provider", "expected_votes", "total_votes", "quorum", "flags"] {
        assert_eq!(status[name], json!(null), "{name}");
    }
    assert_eq!(status["services"][4]["service"], json!("votequorum"));
    assert_eq!(status["services"][4]["reachable"], json!(false));
    assert!(ok(node, &["status"]).contains("votequorum is not configured\n"));
    assert_eq!(lines(&ok(node, &["--json", "quorum", "watch", "--count", "1"])).len(), 1);
    assert_eq!(json(node, &["doctor"])["ok"], json!(true));
    for args in [
        &["quorum", "expected", "3"][..],
        &["quorum", "votes", "2"],
        &["quorum", "unregister-qdevice"],
    ] {
        assert_fails(
            &run(node, args),
            1,
            &["votequorum", "CS_ERR_NOT_SUPPORTED", "quorum.provider"],
        );
    }
}

#[test]
fn votes_and_expected_votes_can_be_set() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).two_node(false).start();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let watch = command(two, &["--json", "quorum", "watch"]).spawn();
    watch.wait_stdout("\"votequorum\"");
    assert_eq!(ok(one, &["quorum", "expected", "3"]), "");
    eventually("the expected votes", || {
        json(two, &["quorum", "status"])["expected_votes"] == json!(3)
    });
    watch.wait_stdout("\"expected_votes\":3");
    assert_eq!(ok(one, &["quorum", "votes", "2"]), "");
    assert_eq!(ok(one, &["quorum", "votes", "3", "--node", "2"]), "");
    eventually("the votes", || {
        let nodes = json(two, &["quorum", "nodes"]);
        nodes[0]["votes"] == json!(2) && nodes[1]["votes"] == json!(3)
    });
    assert_agrees_with_quorumtool(two, &["status"]);

    let before = json(one, &["quorum", "status"]);
    assert_fails(
        &run(one, &["quorum", "expected", "1"]),
        1,
        &["CS_ERR_INVALID_PARAM", "votes present"],
    );
    assert_fails(&run(one, &["quorum", "expected", "4000"]), 1, &["CS_ERR_INVALID_PARAM"]);
    assert_fails(
        &run(one, &["quorum", "votes", "1", "--node", "77"]),
        1,
        &["CS_ERR_NAME_NOT_FOUND", "77"],
    );
    assert_fails(&run(one, &["quorum", "votes", "1", "--node", "0"]), 2, &["0 is not in 1.."]);
    assert_fails(&run(one, &["quorum", "expected", "0"]), 2, &["0 is not in 1.."]);
    assert_eq!(json(one, &["quorum", "status"]), before);
}

/// When an event came or a line was logged, in seconds of the day.
fn seconds(clock: &str) -> f64 {
    let mut parts = clock.split(':').map(|part| part.parse::<f64>().expect("a time"));
    let mut part = || parts.next().expect("a time");
    part() * 3600.0 + part() * 60.0 + part()
}

/// Waits for the event of this membership; how long after corosync logged it did it come?
#[track_caller]
fn delay(watch: &Process, node: &Node, skip: usize, seen: usize, members: &[u32]) -> f64 {
    let words: Vec<String> = members.iter().map(u32::to_string).collect();
    let logged =
        node.wait_log_after(skip, &format!("Members[{}]: {}", members.len(), words.join(" ")));
    let event = eventually("the event", || {
        let events = lines(watch.stdout().get(seen..)?);
        events
            .into_iter()
            .find(|event| event["event"] == json!("quorum") && event["members"] == json!(members))
    });
    let time = event["time"].as_str().unwrap();
    let came =
        time.strip_suffix('Z').and_then(|time| time.split_once('T')).expect("RFC 3339 in UTC").1;
    // Nov 21 08:46:20.698 notice ...
    let day = 24.0 * 3600.0;
    let delay = seconds(came) - seconds(logged.split_whitespace().nth(2).unwrap());
    (delay + day / 2.0).rem_euclid(day) - day / 2.0
}

#[test]
fn watching_quorum_tells_partition_and_heal_within_a_second() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).loses_nodes().env("TZ", "UTC0").start();
    let node = cluster.node(1);
    let mut watch = command(node, &["--json", "quorum", "watch"]).spawn();
    watch.wait_stdout("\"votequorum\"");
    let first = lines(&watch.stdout());
    let quorum = first.iter().find(|event| event["event"] == json!("quorum")).unwrap();
    assert_eq!((&quorum["quorate"], &quorum["members"]), (&json!(true), &json!([1, 2, 3])));

    // Logs without milliseconds count only whole seconds.
    let hires = node
        .log()
        .lines()
        .last()
        .is_some_and(|line| line.split_whitespace().nth(2).unwrap().contains('.'));
    let early = if hires { -1.0 } else { -2.0 };
    for (members, change) in
        [(&[1][..], true), (&[1, 2, 3], false), (&[1, 2], true), (&[1, 2, 3], false)]
    {
        let (skip, seen) = (node.log().len(), watch.stdout().len());
        if change {
            cluster.partition(&[members])
        } else {
            cluster.heal()
        }
        let delay = delay(&watch, node, skip, seen, members);
        assert!((early..=1.0).contains(&delay), "{delay} s for {members:?}");
    }
    let events = lines(&watch.stdout());
    assert!(events.iter().all(|event| event["service"].is_string() && event["time"].is_string()));
    let lost =
        |event: &&Value| event["event"] == json!("votequorum") && event["quorate"] == json!(false);
    assert!(events.iter().any(|event| lost(&event)), "{events:?}");

    watch.signal(Signal::SIGINT);
    let output = watch.wait();
    assert_eq!((output.code(), output.stderr.as_str()), (-(Signal::SIGINT as i32), ""));
}

#[test]
fn a_daemon_that_is_killed_ends_watching() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    let quorum = command(node, &["quorum", "watch"]).spawn();
    let cmap = command(node, &["-v", "cmap", "watch", "my.key"]).spawn();
    quorum.wait_stdout("votequorum");
    eventually("watching", || cmap.stderr().contains("watching"));
    node.kill();
    let (quorum, cmap) = (quorum.wait(), cmap.wait());
    assert_eq!((quorum.code(), cmap.code()), (3, 3));
    assert_one_line(&quorum.stderr, &["quorum", "gone", "CS_ERR_LIBRARY"]);
    assert_one_line(
        cmap.stderr.lines().last().map(|line| line.to_owned() + "\n").as_deref().unwrap(),
        &["cmap", "gone"],
    );
    for args in
        [&["status"][..], &["cmap", "list"], &["quorum", "watch"], &["quorum", "expected", "3"]]
    {
        assert_fails(&run(node, args), 3, &["socket", "is corosync running"]);
    }
    let doctor = run(node, &["doctor"]);
    assert_eq!(doctor.code(), 3);
    assert_one_line(&doctor.stderr, &["no cmap socket"]);
    assert!(doctor.stdout.contains("failed at the socket"), "{}", doctor.stdout);

    node.start();
    assert_eq!(ok(node, &["cmap", "get", "totem.version"]), "2\n");
}

#[test]
fn a_watcher_that_is_process_1_of_a_container_ends_at_a_signal() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let unshare = cluster.node(1).at(Path::new("/usr/bin/unshare")).args(["--pid", "--fork"]);
    let unshare = unshare.arg(program()).args(["quorum", "watch"]).spawn();
    unshare.wait_stdout("quorate");
    let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
    let watcher: i32 = fs::read_to_string(children).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(watcher), Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait().code(), 128 + Signal::SIGTERM as i32);
}

#[test]
fn a_daemon_that_is_stopped_costs_one_timeout() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    ok(node, &["cmap", "set", "my.key", "u8", "1"]);
    let paused = node.pause();
    for args in [
        &["status"][..],
        &["cmap", "get", "totem.version"],
        &["cmap", "list"],
        &["cmap", "set", "my.key", "u8", "2"],
        &["cmap", "watch", "my.key"],
        &["quorum", "status"],
        &["quorum", "watch"],
        &["quorum", "votes", "2"],
    ] {
        let output =
            command(node, args).args(["--timeout", "300ms"]).limit(Duration::from_secs(15)).run();
        assert_fails(&output, 4, &["timed out after 300ms", "CS_ERR_TIMEOUT"]);
    }
    let output = command(node, &["doctor", "--json"])
        .env("COROSYNC_IPC_TIMEOUT", "300ms")
        .limit(Duration::from_secs(15))
        .run();
    assert_eq!(output.code(), 4);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    let stopped = document["processes"].as_array().unwrap().iter();
    assert!(
        stopped.clone().any(|one| one["pid"] == json!(node.pid()) && one["stopped"] == json!(true))
    );
    for service in document["services"].as_array().unwrap() {
        assert_eq!((&service["ok"], &service["failed_at"]), (&json!(false), &json!("handshake")));
        assert!(service["advice"].as_str().unwrap().contains("kill -CONT"), "{service}");
    }
    drop(paused);
    assert_eq!(ok(node, &["cmap", "get", "my.key"]), "1\n");
    assert!(ok(node, &["doctor"]).contains("votequorum  ok"));
}

#[test]
fn doctor_tells_what_it_sees() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let doctor = json(node, &["doctor"]);
    assert_eq!(doctor["ok"], json!(true));
    assert_eq!(doctor["uid"], json!(0));
    assert_eq!(doctor["shared_memory"]["root"], json!("/dev/shm"));
    assert!(doctor["shared_memory"]["free"].as_u64() > Some(0));
    assert_eq!(doctor["sockets_seen"]["abstract"], json!(true));
    assert_eq!(doctor["environment"], json!({}));
    for service in doctor["services"].as_array().unwrap() {
        assert_eq!(
            (&service["ok"], &service["pid"]),
            (&json!(true), &json!(node.pid())),
            "{service}"
        );
    }
    for document in [&doctor, &json(node, &["status"])] {
        assert_eq!(document["services"][0]["transport"], json!("shm"), "{document}");
    }
    let stats_map = run(node, &["cmap", "list", "--map", "stats"]).is_success();
    assert_eq!(doctor["daemon_is_2_99_or_later"], json!(stats_map));

    // The other wall: the daemon's rings are not here.
    let output = command(node, &["--json", "doctor"]).env("COROSYNC_IPC_SHM_ROOT", "/proc").run();
    assert_eq!(output.code(), 3);
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(document["environment"], json!({ "COROSYNC_IPC_SHM_ROOT": "/proc" }));
    assert!(
        document["services"]
            .as_array()
            .unwrap()
            .iter()
            .all(|service| service["failed_at"] == json!("rings"))
    );
}
