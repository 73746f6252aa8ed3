//! `corosync-ipc cfg`, next to corosync-cfgtool.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use testbed::{Cluster, Node, Process, Transport, eventually, shared_one, skip, version};

use super::served::{Place, Served, against_both};
use super::{assert_fails, command, json, lines, ok, outside, run};

against_both! {
    links_and_nodes_are_shown_with_what_carries_them
}

/// First version with node status and shutdown tracking.
const NODE_STATUS: [u32; 4] = [3, 1, 1, 0];
/// First version with knet.
const KNET: [u32; 4] = [2, 99, 0, 0];

/// A link as `corosync-cfgtool -s` shows it: its address, and its status or who is connected.
type Shown = BTreeMap<String, Vec<String>>;

fn shown(text: &str) -> Shown {
    let mut links = Shown::new();
    let mut last = String::new();
    for line in text.lines().map(str::trim) {
        let value = || line.split_once('=').map_or(line, |(_, value)| value.trim()).to_owned();
        if let Some(rest) = line.strip_prefix("LINK ID ").or_else(|| line.strip_prefix("RING ID "))
        {
            last = rest.split_whitespace().next().unwrap().to_owned();
            links.insert(last.clone(), Vec::new());
        } else if line.starts_with("addr\t")
            || line.starts_with("id\t")
            || line.starts_with("status\t=")
        {
            links.get_mut(&last).unwrap().push(value());
        } else if let Some((node, state)) =
            line.strip_prefix("nodeid").and_then(|rest| rest.trim().split_once(":\t"))
        {
            if state != "localhost" {
                links
                    .get_mut(&last)
                    .unwrap()
                    .push(format!("{} {state}", node.trim().trim_start_matches(':').trim()));
            }
        }
    }
    links
}

/// The same of our document.
fn ours(links: &Value) -> Shown {
    let link = |(position, link): (usize, &Value)| {
        let mut said = vec![link["address"].as_str().unwrap().to_owned()];
        match link["nodes"].as_array() {
            Some(nodes) => said.extend(nodes.iter().map(|node| {
                let state =
                    if node["connected"] == json!(true) { "connected" } else { "disconnected" };
                format!("{} {state}", node["node_id"])
            })),
            None => said.push(link["status"].as_str().unwrap().to_owned()),
        }
        (link["link"].as_u64().unwrap_or(position as u64).to_string(), said)
    };
    links.as_array().unwrap().iter().enumerate().map(link).collect()
}

/// Waits until the tool shows what our command says, and both say so; links may still come up.
#[track_caller]
fn agreed(node: &Node, complete: impl Fn(&Shown) -> bool) -> Value {
    eventually("corosync-cfgtool shows the same links", || {
        let before = json(node, &["cfg", "links"]);
        let tool = shown(&node.tool("corosync-cfgtool", ["-s"]).stdout);
        (!tool.is_empty() && complete(&tool) && ours(&before) == tool).then_some(before)
    })
}

/// Three nodes with two links, of which the second is number 3, or one where there is no knet.
fn two_links() -> Cluster {
    let transport = if version() >= KNET { Transport::Knet } else { Transport::Udpu };
    let cluster = Cluster::builder().nodes(3).transport(transport).create();
    for node in cluster.nodes() {
        if version() >= KNET {
            let second = |id: u32| format!("10.78.0.{id}");
            let address = format!("{}/24", second(node.id()));
            node.tool("ip", ["addr", "add", &address, "dev", "eth0"]).success();
            let mut config = fs::read_to_string(node.config_path()).unwrap();
            for one in cluster.nodes() {
                let first = format!("ring0_addr: {}\n", one.address());
                assert!(config.contains(&first));
                config =
                    config.replace(&first, &format!("{first}ring3_addr: {}\n", second(one.id())));
            }
            fs::write(node.config_path(), config).unwrap();
        }
        node.start_unready();
    }
    cluster.wait_members(&[1, 2, 3], 3);
    cluster
}

#[test]
fn links_and_nodes_are_those_cfgtool_shows() {
    if skip() {
        return;
    }
    let cluster = two_links();
    let node = cluster.node(1);
    let none_is_missing =
        |tool: &Shown| !tool.values().flatten().any(|said| said.contains("disconnected"));
    let links = agreed(node, none_is_missing);
    let status = json(node, &["status"]);
    assert_eq!(ours(&status["links"]), ours(&links));
    // The mtu may still grow.
    let text = eventually("all show the same links", || {
        let text = ok(node, &["cfg", "links"]);
        let is_same = ok(node, &["cfg", "links", "--check"]) == text;
        (is_same && ok(node, &["status"]).contains(&text)).then_some(text)
    });
    assert!(text.starts_with("LINK  PROTOCOL  ADDRESS"), "{text}");
    if version() < KNET {
        assert_eq!(links[0]["nodes"], Value::Null);
        assert!(text.contains("no faults"), "{text}");
        assert_fails(&run(node, &["cfg", "nodes"]), 1, &["3.1.1", "CS_ERR_NOT_SUPPORTED"]);
        return;
    }
    let numbers: Vec<&Value> = links.as_array().unwrap().iter().map(|link| &link["link"]).collect();
    assert_eq!(numbers, [&json!(0), &json!(3)]);
    assert!(text.contains("3  knet/udp  10.78.0.1  "), "{text}");
    assert!(text.contains("  connected 2 3\n"), "{text}");
    assert_eq!(links[1]["nodes"][0]["name"], json!("n2"));

    if version() >= NODE_STATUS {
        let nodes = eventually("corosync-cfgtool shows the same nodes", || {
            let nodes = json(node, &["cfg", "nodes"]);
            let tool = node.tool("corosync-cfgtool", ["-n"]).success();
            same_nodes(&nodes, &tool).then_some(nodes)
        });
        let ids: Vec<Value> = nodes
            .as_array()
            .unwrap()
            .iter()
            .map(|one| json!([one["node_id"], one["name"], one["local"]]))
            .collect();
        assert_eq!(ids, [json!([1, "n1", true]), json!([2, "n2", false]), json!([3, "n3", false])]);
        let text = ok(node, &["cfg", "nodes"]);
        let mtu = |link: usize| nodes[1]["links"][link]["mtu"].to_string();
        for line in [
            format!(" 2  n2    reachable     0  connected  {:>4}  10.77.0.2\n", mtu(0)),
            format!(" 2  n2    reachable     3  connected  {:>4}  10.78.0.2\n", mtu(1)),
        ] {
            assert!(text.contains(&line), "{line}{text}");
        }
        assert!(text.contains(" 1  n1    local         -  -             -  -\n"), "{text}");
    }

    cluster.unplug(3);
    let links =
        agreed(node, |tool| tool.values().all(|said| said.contains(&"3 disconnected".to_owned())));
    let text = ok(node, &["cfg", "links"]);
    assert!(text.contains("connected 2, disconnected 3\n"), "{text}");
    let check = run(node, &["cfg", "links", "--check"]);
    assert_eq!((check.code(), check.stdout, check.stderr.as_str()), (5, text, ""));
    assert_eq!(links[0]["nodes"][1]["connected"], json!(false));
    if version() >= NODE_STATUS {
        assert_eq!(json(node, &["cfg", "nodes"])[2]["reachable"], json!(false));
        let tool = node.tool("corosync-cfgtool", ["-n"]).success();
        assert!(same_nodes(&json(node, &["cfg", "nodes"]), &tool), "{tool}");
    }
}

/// Whether each other node that can be reached, and none else, is in what `corosync-cfgtool -n`
/// shows, with its links.
fn same_nodes(nodes: &Value, tool: &str) -> bool {
    let reachable =
        |node: &&Value| node["reachable"] == json!(true) && node["local"] == json!(false);
    let expected: Vec<&Value> = nodes.as_array().unwrap().iter().filter(reachable).collect();
    let sections: Vec<&str> = tool.split("nodeid: ").skip(1).collect();
    sections.len() == expected.len()
        && expected.iter().zip(sections).all(|(node, section)| {
            let links = node["links"].as_array().unwrap();
            section.starts_with(&format!("{} reachable", node["node_id"]))
                && section.matches("LINK:").count() == links.len()
                && links.iter().all(|link| {
                    let text = |name: &str| link[name].as_str().unwrap().to_owned();
                    let connected =
                        if link["connected"] == json!(true) { " connected" } else { "" };
                    let (source, destination) = (text("source"), text("destination"));
                    let (number, mtu) = (&link["link"], &link["mtu"]);
                    section.contains(&format!(
                    "LINK: {number} udp ({source}->{destination}) enabled{connected} mtu: {mtu}\n"
                ))
                })
        })
}

#[test]
fn links_of_udpu_are_those_cfgtool_shows() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).loses_nodes().start();
    let node = cluster.node(1);
    // The tool shows the address of another node, so only what is said of it is compared.
    let said =
        |links: Shown| links.into_values().map(|said| said[1..].to_vec()).collect::<Vec<_>>();
    let links = eventually("corosync-cfgtool shows the same state", || {
        let links = json(node, &["cfg", "links"]);
        let tool = shown(&node.tool("corosync-cfgtool", ["-s"]).stdout);
        (said(ours(&links)) == said(tool)).then_some(links)
    });
    assert_eq!(links[0]["address"], json!(node.address()));
    let status = if version() >= KNET { "OK" } else { "ring 0 active with no faults" };
    assert_eq!(links[0]["status"], json!(status));
    if version() >= NODE_STATUS {
        assert_eq!(
            (&links[0]["nodes"][0]["node_id"], &links[0]["nodes"][0]["connected"]),
            (&json!(2), &json!(true))
        );
        let text = ok(node, &["cfg", "nodes"]);
        assert!(text.ends_with(&format!("  {}\n", cluster.node(2).address())), "{text}");
    }
    let text = ok(node, &["cfg", "links", "--check"]);
    let transport = if version() >= KNET { "0  udpu  " } else { "-  udpu  " };
    assert!(text.contains(transport), "{text}");

    cluster.node(2).kill();
    if version() >= NODE_STATUS {
        eventually("the link is down", || {
            let check = run(node, &["cfg", "links", "--check"]);
            (check.code() == 5).then(|| assert!(check.stdout.contains("  disconnected 2\n")))
        });
    }
}

#[test]
fn a_node_tells_its_id_and_addresses() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let node = cluster.node(2);
    assert_eq!(ok(node, &["cfg", "local"]), "2\n");
    assert_eq!(json(node, &["cfg", "local"]), json!({ "node_id": 2 }));
    for id in [1, 2] {
        let address = cluster.node(id).address();
        assert_eq!(ok(node, &["cfg", "addresses", &id.to_string()]), format!("{address}\n"));
        let tool = node.tool("corosync-cfgtool", ["-a", &id.to_string()]).success();
        assert_eq!(tool.trim(), address);
        let document = json(node, &["cfg", "addresses", &id.to_string()]);
        assert_eq!(document, json!({ "node_id": id, "addresses": [address] }));
    }
    assert_fails(
        &run(node, &["cfg", "addresses", "99"]),
        1,
        &["CS_ERR_NOT_EXIST", "no such node: 99"],
    );
    let doctor = json(node, &["doctor"]);
    for service in doctor["services"].as_array().unwrap() {
        assert_eq!(service["ok"], json!(true), "{service}");
    }
    let text = ok(node, &["doctor"]);
    for service in ["cpg", "cfg"] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(service) && line.ends_with("answered a request")),
            "{text}"
        );
    }
}

/// The daemon sends all of a node's addresses as those of one family: the first link's.
#[test]
fn addresses_of_both_families_are_told_as_they_are() {
    if skip() || version() < KNET {
        return;
    }
    for (first, second) in [("10.77.0", "fd78::"), ("fd78::", "10.77.0")] {
        let address = |net: &str, id: u32| {
            if net.contains(':') { format!("{net}{id}") } else { format!("{net}.{id}") }
        };
        let cluster = Cluster::builder().nodes(2).transport(Transport::Knet).create();
        for node in cluster.nodes() {
            let own = format!("{}/64", address("fd78::", node.id()));
            node.tool("ip", ["addr", "add", &own, "dev", "eth0", "nodad"]).success();
            let mut config = fs::read_to_string(node.config_path()).unwrap();
            for one in cluster.nodes() {
                let (first, second) = (address(first, one.id()), address(second, one.id()));
                let links = format!("ring0_addr: {first}\nring2_addr: {second}\n");
                config = config.replace(&format!("ring0_addr: {}\n", one.address()), &links);
            }
            fs::write(node.config_path(), config).unwrap();
            node.start_unready();
        }
        cluster.wait_members(&[1, 2], 2);
        for id in [1, 2] {
            let expected = json!([address(first, id), address(second, id)]);
            let document = json(cluster.node(1), &["cfg", "addresses", &id.to_string()]);
            assert_eq!(document, json!({ "node_id": id, "addresses": expected }));
        }
    }
}

/// The daemon keeps the id it started with, and the address, whatever the list says later.
#[test]
fn links_of_a_node_that_left_the_list_are_still_there() {
    if skip() || version() < NODE_STATUS {
        return;
    }
    for transport in [Transport::Udpu, Transport::Knet] {
        let cluster = Cluster::builder().nodes(2).transport(transport).start();
        let node = cluster.node(1);
        let address = node.address();
        let config = fs::read_to_string(node.config_path()).unwrap();
        let (before, behind) = config.split_once("nodeid: 1\n").unwrap();
        for changed in [
            // Another id at the same address.
            format!("{before}nodeid: 7\n{behind}"),
            // Not there.
            before.rsplit_once("node {").unwrap().0.to_owned()
                + behind.trim_start().strip_prefix("}").unwrap(),
        ] {
            fs::write(node.config_path(), changed).unwrap();
            ok(node, &["cfg", "reload"]);
            let links = json(node, &["cfg", "links"]);
            assert_eq!(links[0]["address"], json!(address), "{transport:?}: {links}");
            assert_eq!(links[0]["link"], json!(0));
            assert_eq!(ok(node, &["cfg", "addresses", "1"]), format!("{address}\n"));
        }
    }
}

#[test]
fn the_configuration_is_read_again_and_what_is_wrong_in_it_told() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    if version() < [2, 3, 2, 0] {
        assert_fails(&run(node, &["cfg", "reload"]), 1, &["2.3.2", "CS_ERR_NOT_SUPPORTED"]);
        return;
    }
    let config = fs::read_to_string(node.config_path()).unwrap();
    fs::write(node.config_path(), config.replace("token: 10000", "token: 7777")).unwrap();
    assert_eq!(ok(node, &["cfg", "reload"]), "");
    assert_eq!(ok(node, &["cmap", "get", "totem.token"]), "7777\n");
    fs::write(node.config_path(), config.replace("totem {", "nonsense")).unwrap();
    assert_fails(&run(node, &["cfg", "reload"]), 1, &["cfg reload config: CS_ERR_", ": "]);
    assert_eq!(ok(node, &["cmap", "get", "totem.token"]), "7777\n");
    let reopened = run(node, &["cfg", "reopen-logs"]);
    match reopened.code() {
        0 => assert_eq!((reopened.stdout.as_str(), reopened.stderr.as_str()), ("", "")),
        _ => assert_fails(&reopened, 1, &["CS_ERR_NOT_SUPPORTED"]),
    }
    assert!(node.is_running());
}

/// A corosync newer than 3.1.8 leaves this key when it cannot apply what it read, and answers as if
/// all were well.
#[test]
fn a_reload_that_could_not_be_applied_fails() {
    let served = Served::start();
    let reload = || run(&served, &["cfg", "reload"]);
    ok(
        &served,
        &["cmap", "set", "config.reload_error_message", "str", "Failed to set knet crypto"],
    );
    assert_fails(&reload(), 1, &["could not apply", "Failed to set knet crypto", "log"]);
    ok(&served, &["cmap", "delete", "config.reload_error_message"]);
    assert_eq!((reload().code(), reload().stdout.as_str()), (0, ""));
}

#[test]
fn a_killed_node_logs_all_words() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).loses_nodes().start();
    let node = cluster.node(1);
    let other = cluster.node(2);
    let long = "x".repeat(256);
    assert_fails(&run(node, &["cfg", "kill", "2", &long]), 2, &["256", "255"]);
    assert_fails(&run(node, &["cfg", "kill", "2"]), 2, &["<REASON>"]);
    assert_fails(
        &run(node, &["cfg", "kill", "2", "--reason", "twice", "broken"]),
        2,
        &["--reason", "cannot be used"],
    );
    assert_fails(&run(node, &["cfg", "kill", "0", "because"]), 2, &["0", "NODE"]);
    assert!(other.is_running());
    assert_eq!(ok(node, &["cfg", "kill", "2", "disk", "is  broken"]), "");
    other.wait_log("disk is  broken");
    eventually("corosync ends", || !other.is_running());
    cluster.wait_members(&[1], 1);
    if version() >= [3, 1, 0, 0] {
        assert_fails(
            &run(node, &["cfg", "kill", "2", "again"]),
            1,
            &["CS_ERR_NOT_EXIST", "node 2 is not a member"],
        );
    }
}

fn watch(node: &Node, args: &[&str]) -> Process {
    let watch = command(node, &["-v", "--json", "cfg", "watch"]).args(args).spawn();
    eventually("watching", || watch.stderr().contains("tracking"));
    watch
}

fn told(line: &Value) -> Value {
    assert!(line["time"].is_string(), "{line}");
    json!([line["event"], line["kind"], line["answer"]])
}

fn wait_ended(node: &Node) {
    eventually("corosync ends", || !node.is_running());
}

#[test]
fn a_shutdown_is_refused_agreed_to_and_forced() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(1).start();
    let node = cluster.node(1);
    if version() < NODE_STATUS {
        assert_fails(&run(node, &["cfg", "watch"]), 1, &["3.1.1", "CS_ERR_NOT_SUPPORTED"]);
        assert_eq!(ok(node, &["cfg", "shutdown"]), "");
        wait_ended(node);
        return;
    }
    let refuses = watch(node, &["--refuse", "--count", "2"]);
    for _ in 0..2 {
        assert_fails(
            &run(node, &["cfg", "shutdown"]),
            1,
            &["cfg try shutdown", "CS_ERR_BUSY", "--regardless"],
        );
    }
    let refuses = refuses.wait().success();
    let seen: Vec<Value> = lines(&refuses).iter().map(told).collect();
    assert_eq!(seen, vec![json!(["shutdown", "request", "no"]); 2]);

    let agrees = watch(node, &[]);
    assert_eq!(ok(node, &["cfg", "shutdown"]), "");
    wait_ended(node);
    let agrees = agrees.wait();
    assert_eq!(agrees.code(), 3);
    assert_eq!(
        lines(&agrees.stdout).iter().map(told).collect::<Vec<_>>(),
        [json!(["shutdown", "request", "yes"])]
    );

    node.start();
    let refuses = watch(node, &["--refuse"]);
    assert_eq!(ok(node, &["cfg", "shutdown", "--regardless"]), "");
    wait_ended(node);
    let refuses = lines(&refuses.wait().stdout);
    assert_eq!(
        refuses.iter().map(told).collect::<Vec<_>>(),
        [json!(["shutdown", "regardless", "no"])]
    );

    node.start();
    let refuses = watch(node, &["--refuse"]);
    assert_eq!(ok(node, &["cfg", "shutdown", "--immediate"]), "");
    wait_ended(node);
    assert_eq!(refuses.wait().stdout, "");
    assert_fails(
        &run(node, &["cfg", "shutdown", "--immediate", "--regardless"]),
        2,
        &["--immediate", "--regardless"],
    );
}

#[test]
fn a_shutdown_is_waited_for_as_long_as_the_daemon_waits() {
    if skip() || version() < NODE_STATUS {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    ok(node, &["cmap", "set", "cfg.shutdown_timeout", "u32", "1500"]);
    let silent = watch(node, &[]);
    let stopped = nix::unistd::Pid::from_raw(i32::try_from(silent.pid()).unwrap());
    nix::sys::signal::kill(stopped, nix::sys::signal::Signal::SIGSTOP).unwrap();
    // The timeout is for what else takes time.
    let output = run(node, &["cfg", "shutdown", "--timeout", "500ms"]);
    assert_fails(&output, 1, &["CS_ERR_BUSY", "did not answer in time"]);
    assert!(node.is_running());
}

#[test]
fn the_reason_to_kill_can_be_an_option() {
    let served = Served::with(&["--nodes", "1,2"]);
    let long = "x".repeat(256);
    assert_fails(&run(&served, &["cfg", "kill", "2", "--reason", &long]), 2, &["256", "255"]);
    assert_eq!(ok(&served, &["cfg", "kill", "2", "--reason", "disk is broken"]), "");
    eventually("the node is gone", || {
        json(&served, &["quorum", "status"])["members"].as_array().unwrap().len() == 1
    });
    assert_fails(
        &run(&served, &["cfg", "kill", "2", "again"]),
        1,
        &["CS_ERR_NOT_EXIST", "node 2 is not a member"],
    );
    let help = outside(&["cfg", "kill", "--help"]).stdout;
    let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("corosync before 3.1 does not check that"), "{help}");
}

/// What needs a daemon, and ends nobody.
const NEEDY: [&[&str]; 14] = [
    &["cpg", "groups"],
    &["cpg", "members", "g"],
    &["cpg", "join", "g"],
    &["cpg", "send", "g", "text"],
    &["cfg", "local"],
    &["cfg", "links"],
    &["cfg", "nodes"],
    &["cfg", "addresses", "1"],
    &["cfg", "reload"],
    &["cfg", "reopen-logs"],
    &["cfg", "kill", "1", "because"],
    &["cfg", "shutdown"],
    &["cfg", "watch"],
    &["evs", "members"],
];

#[test]
fn without_a_daemon_all_services_end_with_3() {
    let folder = tempfile::tempdir().unwrap();
    for args in NEEDY {
        let output = outside(&[args, &["--socket-dir", folder.path().to_str().unwrap()]].concat());
        assert_eq!((output.code(), output.stdout.len()), (3, 0), "{args:?}");
        let service = format!("no {} socket", args[0]);
        assert!(output.stderr.contains(&service), "{args:?}");
    }
}

#[test]
fn a_daemon_that_is_stopped_costs_all_services_one_timeout() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    let paused = node.pause();
    for args in NEEDY.into_iter().filter(|args| args[0] != "evs") {
        let output =
            command(node, args).args(["--timeout", "300ms"]).limit(Duration::from_secs(15)).run();
        assert_fails(&output, 4, &["timed out after 300ms", "CS_ERR_TIMEOUT"]);
    }
    drop(paused);
    assert_eq!(ok(shared_one().node(1), &["cfg", "local"]), "1\n");
}

fn links_and_nodes_are_shown_with_what_carries_them(node: &impl Place) {
    let link = json(node, &["cfg", "links"])[0].clone();
    let carrier = match link["transport"].as_str().unwrap() {
        "knet" => format!("knet/{}", link["protocol"].as_str().unwrap()),
        transport => transport.to_owned(),
    };
    let number = link["link"].as_u64().map_or("-".to_owned(), |number| number.to_string());
    let address = link["address"].as_str().unwrap();
    let is_row = |line: &str| {
        line.split_whitespace().take(3).eq([number.as_str(), carrier.as_str(), address])
    };
    let text = ok(node, &["cfg", "links", "--check"]);
    assert!(text.lines().any(is_row), "{link}\n{text}");

    let nodes = run(node, &["cfg", "nodes"]);
    if nodes.code() == 1 {
        assert_fails(&nodes, 1, &["3.1.1", "CS_ERR_NOT_SUPPORTED"]);
        return;
    }
    // This node has no link to itself.
    let local = json(node, &["cfg", "nodes"])[0].clone();
    let row = format!("{} {} local - - - -", local["node_id"], local["name"].as_str().unwrap());
    let text = nodes.success();
    assert!(text.lines().any(|line| line.split_whitespace().eq(row.split(' '))), "{text}");
}
