//! `corosync-ipc cpg` and `evs`, next to corosync-cpgtool.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::{Cluster, Node, Process, eventually, skip, version};

use super::served::{Place, Served, against_both};
use super::{assert_fails, assert_one_line, command, json, lines, ok, program, run};

against_both! {
    several_groups_are_joined_at_once_and_lines_go_to_all
    a_reader_that_goes_ends_it_quietly
    wrong_groups_are_told_before_anything_is_sent
    a_name_that_only_lacks_its_nul_is_told
    members_are_shown_with_the_name_and_the_addresses_of_their_node
}

/// First version that takes messages larger than the largest atomic one.
const FRAGMENTS: [u32; 4] = [2, 3, 5, 0];
/// First version without evs.
const NO_EVS: [u32; 4] = [1, 99, 8, 0];

/// Bytes without any order, the same in every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Starts `cpg join --json` and waits until it sees so many members.
fn join(node: &impl Place, args: &[&str]) -> Process {
    command(node, &["cpg", "join", "--json"]).args(args).interactive().spawn()
}

fn wait_members(process: &Process, count: usize) {
    eventually("all are members", || {
        let seen = lines(&process.stdout());
        let confchg = seen.iter().rfind(|line| line["event"] == json!("confchg"));
        confchg.is_some_and(|line| {
            line["members"].as_array().is_some_and(|members| members.len() == count)
        })
    });
}

fn deliveries(process: &Process) -> Vec<Value> {
    lines(&process.stdout()).into_iter().filter(|line| line["event"] == json!("deliver")).collect()
}

/// A delivery without when it came.
fn told(delivery: &Value) -> Value {
    let mut delivery = delivery.clone();
    let time = delivery.as_object_mut().unwrap().remove("time").unwrap();
    assert!(time.as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')), "{time}");
    delivery
}

fn payload(delivery: &Value) -> Vec<u8> {
    let bytes = STANDARD.decode(delivery["payload"].as_str().unwrap()).unwrap();
    assert_eq!(delivery.get("text").and_then(Value::as_str), std::str::from_utf8(&bytes).ok());
    bytes
}

#[test]
fn all_members_see_every_message_once_in_the_same_order_whatever_is_in_it() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).start();
    let mut members: Vec<Process> = cluster.nodes().iter().map(|node| join(node, &["g"])).collect();
    members.iter().for_each(|member| wait_members(member, 3));

    let mut sent: BTreeSet<Vec<u8>> = BTreeSet::new();
    for round in 0..20 {
        for (number, member) in members.iter_mut().enumerate() {
            let mut line = noise(round * 3 + number as u64, 100);
            line.retain(|byte| *byte != b'\n');
            member.write([&line[..], b"\n"].concat());
            sent.insert(line);
        }
    }
    let node = cluster.node(1);
    assert_eq!(ok(node, &["cpg", "send", "g", "hello"]), "");
    sent.insert(b"hello".to_vec());
    let mut piped = vec![Vec::new(), (0..=255).collect::<Vec<u8>>(), noise(99, 100_000)];
    if version() >= FRAGMENTS {
        piped.push(noise(100, 3 << 20));
    }
    for message in piped {
        let output = command(node, &["cpg", "send", "g"]).input(message.clone()).run();
        assert_eq!((output.stderr.as_str(), output.code()), ("", 0));
        sent.insert(message);
    }
    let seen: Vec<Vec<Value>> = members
        .iter()
        .map(|member| {
            eventually("all messages are delivered", || deliveries(member).len() >= sent.len());
            deliveries(member).iter().map(told).collect()
        })
        .collect();
    assert!(seen[0] == seen[1] && seen[0] == seen[2], "not all see the same");
    assert_eq!(seen[0].len(), sent.len());
    assert_eq!(seen[0].iter().map(payload).collect::<BTreeSet<_>>(), sent);
    for (number, member) in members.iter().enumerate() {
        let me = json!([number + 1, member.pid()]);
        let mine = seen[0].iter().filter(|line| json!([line["node_id"], line["pid"]]) == me);
        assert_eq!(mine.count(), 20, "node {}", number + 1);
    }
    assert!(
        seen[0].iter().all(|line| line["group"] == json!("g") && line.get("group_bytes").is_none())
    );
}

#[test]
fn members_come_and_go_for_a_reason_and_the_ring_is_told() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(3).loses_nodes().start();
    let stays = join(cluster.node(1), &["g", "--initial-totem-confchg"]);
    wait_members(&stays, 1);
    let address = |node: u32, process: &Process| json!({ "node_id": node, "pid": process.pid() });
    let with = |mut address: Value, reason: &str| {
        address["reason"] = json!(reason);
        address
    };
    let last = || {
        lines(&stays.stdout()).into_iter().rfind(|line| line["event"] == json!("confchg")).unwrap()
    };

    let mut counts = join(cluster.node(2), &["g", "--count", "2"]);
    wait_members(&stays, 2);
    let joined = last();
    assert_eq!(joined["joined"], json!([with(address(2, &counts), "join")]));
    assert_eq!((joined["left"].clone(), joined["group"].clone()), (json!([]), json!("g")));
    let pid = counts.pid();
    counts.write("one\n");
    counts.close_input();
    // The end of its input is not its end: it is still there for what comes from elsewhere.
    eventually("the first comes back", || deliveries(&counts).len() == 1);
    assert!(counts.is_running());
    ok(cluster.node(3), &["cpg", "send", "g", "--pid", "4711", "--", "-two"]);
    let counts = counts.wait();
    assert_eq!((counts.code(), counts.stderr.as_str()), (0, ""));
    let texts: Vec<Value> =
        lines(&counts.stdout).iter().filter_map(|line| line.get("text").cloned()).collect();
    assert_eq!(texts, [json!("one"), json!("-two")]);
    let ours = json!({ "node_id": 2, "pid": pid });
    let sender = json!({ "node_id": 3, "pid": 4711 });
    for gone in [ours, sender] {
        let gone = with(gone, "leave");
        eventually("who is done leaves", || {
            lines(&stays.stdout()).iter().any(|line| line.get("left") == Some(&json!([gone])))
        });
    }

    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut interrupted = join(cluster.node(2), &["g"]);
        wait_members(&stays, 2);
        let gone = with(address(2, &interrupted), "leave");
        interrupted.signal(signal);
        eventually("it leaves", || last()["left"] == json!([gone]));
        let interrupted = interrupted.wait();
        assert_eq!((interrupted.code(), interrupted.stderr.as_str()), (-(signal as i32), ""));
    }
    // A reader that goes.
    let seen = stays.stdout().len();
    let script = format!("{} cpg join g | head -n 1", program().display());
    let output = cluster.node(2).at(Path::new("/bin/sh")).args(["-c", &script]).interactive().run();
    assert_eq!(output.code(), 0);
    let left = || {
        lines(&stays.stdout()[seen..])
            .iter()
            .find_map(|line| line["left"].as_array()?.first().cloned())
    };
    assert_eq!(eventually("it leaves", left)["reason"], json!("leave"));

    let mut killed = join(cluster.node(2), &["g"]);
    wait_members(&stays, 2);
    let gone = address(2, &killed);
    killed.signal(Signal::SIGKILL);
    eventually("its end is told", || last()["left"] == json!([with(gone.clone(), "procdown")]));

    let lost = join(cluster.node(3), &["g"]);
    wait_members(&stays, 2);
    let gone = with(address(3, &lost), "nodedown");
    cluster.node(3).kill();
    eventually("the node's end is told", || last()["left"] == json!([gone]));
    let rings = || -> Vec<Value> {
        let lines = lines(&stays.stdout());
        lines
            .iter()
            .filter(|line| line["event"] == json!("totem_confchg"))
            .map(|line| line["members"].clone())
            .collect()
    };
    // The ring comes behind the groups' changes that follow from it.
    eventually("the ring is told", || rings().last() == Some(&json!([1, 2])));
    assert_eq!(rings().first(), Some(&json!([1, 2, 3])));
    let lost = lost.wait();
    assert_eq!(lost.code(), 3);
    assert_one_line(&lost.stderr, &["cpg", "gone", "CS_ERR_LIBRARY"]);
}

/// The second of two signals ends the command while the first one's leaving waits for a daemon that
/// is stopped.
#[test]
fn a_second_signal_does_not_wait_for_the_daemon() {
    let mut served = Served::start();
    for service in ["cpg", "evs"] {
        let mut joined =
            command(&served, &[service, "join", "g", "--timeout", "60m"]).interactive().spawn();
        joined.wait_stdout("confchg");
        served.process().signal(Signal::SIGSTOP);
        let both = [Signal::SIGINT, Signal::SIGTERM];
        both.into_iter().for_each(|signal| joined.signal(signal));
        let output = joined.wait();
        served.process().signal(Signal::SIGCONT);
        assert!(both.iter().any(|signal| output.code() == -(*signal as i32)), "{output:?}");
    }
}

fn several_groups_are_joined_at_once_and_lines_go_to_all(node: &impl Place) {
    let output =
        command(node, &["cpg", "join", "several-1", "several-2", "several-1", "--count", "2"])
            .arg("--json")
            .input("to all")
            .run();
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
    let groups = |event: &str| {
        let lines = lines(&output.stdout);
        let found = lines.iter().filter(|line| line["event"] == json!(event));
        found.map(|line| line["group"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for event in ["confchg", "deliver"] {
        let mut found = groups(event);
        found.sort_unstable();
        assert_eq!(found, ["several-1", "several-2"], "{event}");
    }
    // For people.
    let text = command(node, &["cpg", "join", "several-1", "--count", "1"])
        .input(&b"caf\xc3\xa9 \xff\x1b[2J\n"[..]);
    let text = text.run().success();
    let last = text.lines().last().unwrap();
    assert!(
        last.contains("Z deliver: several-1 1/") && last.ends_with(r": café \xff\x1b[2J"),
        "{text}"
    );
    assert!(
        text.contains("Z confchg: several-1 members 1/") && text.contains("(join)\n"),
        "{text}"
    );
    assert_eq!(json(node, &["cpg", "members", "several-1"]), json!([]));
}

fn a_reader_that_goes_ends_it_quietly(node: &impl Place) {
    let script = format!("{{ {} cpg join reader; echo $? >&2; }} | head -n 1", program().display());
    let output = node.at(Path::new("/bin/sh")).args(["-c", &script]).interactive().run();
    assert_eq!((output.code(), output.stderr.as_str()), (0, "0\n"));
    assert!(output.stdout.contains("confchg: reader"), "{output:?}");
}

/// What `corosync-cpgtool` shows: group, node and pid of each member.
fn cpgtool(node: &Node) -> BTreeSet<(String, u64, u64)> {
    let text = node.tool("corosync-cpgtool", ["-d", ";"]).success();
    let row = |line: &str| {
        let [group, pid, node] = line.split(';').collect::<Vec<_>>()[..] else { panic!("{line}") };
        (group.to_owned(), node.parse().unwrap(), pid.parse().unwrap())
    };
    text.lines().skip(1).map(row).collect()
}

#[test]
fn groups_and_members_are_those_cpgtool_shows() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let (one, two) = (cluster.node(1), cluster.node(2));
    assert_eq!(json(one, &["cpg", "groups"]), json!([]));
    let longest = "x".repeat(128);
    let names = ["plain", r"nul\x00", r"back\\slash", r"t\x09ab", "two words", &longest];
    let all = join(one, &names);
    let some = join(two, &names[..2]);
    let expected: BTreeSet<(String, u64, u64)> = [(1, &all, &names[..]), (2, &some, &names[..2])]
        .into_iter()
        .flat_map(|(node, process, names)| {
            names.iter().map(move |name| ((*name).to_owned(), node, u64::from(process.pid())))
        })
        .collect();
    eventually("all are members", || cpgtool(one) == expected && cpgtool(two) == expected);
    for node in [one, two] {
        let groups = json(node, &["cpg", "groups"]);
        let ours = groups.as_array().unwrap().iter().flat_map(|group| {
            let name = group["group"].as_str().unwrap();
            let bytes = group
                .get("group_bytes")
                .map(|bytes| STANDARD.decode(bytes.as_str().unwrap()).unwrap());
            match name {
                r"nul\x00" => assert_eq!(bytes.unwrap(), b"nul\0"),
                r"back\\slash" => assert_eq!(bytes.unwrap(), br"back\slash"),
                r"t\x09ab" => assert_eq!(bytes.unwrap(), b"t\tab"),
                _ => assert_eq!(bytes, None, "{name}"),
            }
            let members = group["members"].as_array().unwrap().iter();
            members.map(|member| {
                (
                    name.to_owned(),
                    member["node_id"].as_u64().unwrap(),
                    member["pid"].as_u64().unwrap(),
                )
            })
        });
        assert_eq!(ours.collect::<BTreeSet<_>>(), expected);
        let mut members = json(node, &["cpg", "members", names[1]]);
        members.as_array_mut().unwrap().sort_by_key(|member| member["node_id"].as_u64());
        let member = |node: u32, process: &Process| {
            json!({
                "node_id": node, "pid": process.pid(), "name": format!("n{node}"),
                "addresses": [cluster.node(node).address()], "errors": {},
            })
        };
        assert_eq!(members, json!([member(1, &all), member(2, &some)]));
    }
    let text = ok(one, &["cpg", "groups"]);
    assert!(text.starts_with("GROUP "), "{text}");
    assert!(text.lines().any(|line| line.starts_with(r"nul\x00 ")
        && line.ends_with(&format!("   2  {}  n2    {}", some.pid(), two.address()))));
    let pid = all.pid().to_string();
    assert_eq!(
        ok(one, &["cpg", "members", "two words"]),
        format!(
            "NODE  {:>1$}  NAME  ADDRESS\n   1  {pid}  n1    {2}\n",
            "PID",
            pid.len(),
            one.address()
        )
    );
    let names = ok(one, &["cpg", "groups", "--names"]);
    assert_eq!(names, one.tool("corosync-cpgtool", ["-n"]).success());
    let objects = json(one, &["cpg", "groups", "--names"]);
    let named = |object: &Value| object["group"].as_str().unwrap().to_owned();
    let named: Vec<String> = objects.as_array().unwrap().iter().map(named).collect();
    assert_eq!(named, names.lines().collect::<Vec<_>>());
    assert!(
        objects
            .as_array()
            .unwrap()
            .contains(&json!({ "group": r"nul\x00", "group_bytes": "bnVsAA==" }))
    );
    assert_eq!(ok(one, &["cpg", "members", "nobody"]), "");
}

fn wrong_groups_are_told_before_anything_is_sent(node: &impl Place) {
    let long = "x".repeat(129);
    for args in
        [&["cpg", "join", &long][..], &["cpg", "send", &long, "text"], &["cpg", "members", &long]]
    {
        assert_fails(&run(node, args), 2, &["GROUP", "at most 128 bytes, this one 129"]);
    }
    assert_fails(&run(node, &["cpg", "join", ""]), 2, &["at least one byte"]);
    assert_fails(&run(node, &["cpg", "join", r"a\b"]), 2, &["backslash"]);
    assert_fails(&run(node, &["cpg", "join"]), 2, &["<GROUP>"]);
    assert_fails(&run(node, &["cpg", "join", "g", "--count", "0"]), 2, &["0"]);
    assert_fails(
        &run(node, &["evs", "join", &long[..33]]),
        2,
        &["GROUP", "33 bytes are more than 32"],
    );

    let first = join(node, &["taken", "--pid", "77"]);
    wait_members(&first, 1);
    let second = run(node, &["cpg", "send", "taken", "text", "--pid", "77"]);
    assert_fails(&second, 1, &["cpg join", "CS_ERR_EXIST", "--pid"]);
    assert!(deliveries(&first).is_empty());
}

/// Pacemaker counts the NUL behind a name as part of it.
fn a_name_that_only_lacks_its_nul_is_told(node: &impl Place) {
    let members = |group: &str, options: &[&str]| {
        command(node, &["cpg", "members", group]).args(options).run()
    };
    let with = join(node, &[r"pacemaker\x00"]);
    let without = join(node, &["other"]);
    [&with, &without].into_iter().for_each(|member| wait_members(member, 1));
    for (asked, there) in [("pacemaker", r"pacemaker\x00"), (r"other\x00", "other")] {
        for (options, nothing) in [(&[][..], ""), (&["--json"], "[]\n")] {
            let output = members(asked, options);
            assert_eq!((output.code(), output.stdout.as_str()), (0, nothing), "{asked}");
            assert_one_line(&output.stderr, &["no such group", there]);
        }
        let output = members(there, &[]);
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
        assert_eq!(output.stdout.lines().count(), 2, "{}", output.stdout);
    }
    let longest = "x".repeat(128);
    for nobody in ["nobody", &longest] {
        assert_eq!(ok(node, &["cpg", "members", nobody]), "");
    }
}

#[test]
fn evs_is_there_or_said_not_to_be() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().nodes(2).start();
    let (one, two) = (cluster.node(1), cluster.node(2));
    let evs = |node: &Node| {
        let status = json(node, &["status"]);
        status["services"]
            .as_array()
            .unwrap()
            .iter()
            .find(|service| service["service"] == json!("evs"))
            .cloned()
    };
    let evs = evs(one).unwrap();
    assert_eq!(evs["error"], Value::Null, "{evs}");
    let has_evs = version() < NO_EVS;
    assert_eq!(evs["reachable"], json!(has_evs));
    let doctor = json(one, &["doctor"]);
    let seen = doctor["services"]
        .as_array()
        .unwrap()
        .iter()
        .any(|service| service["service"] == json!("evs"));
    assert_eq!((seen, &doctor["ok"]), (has_evs, &json!(true)));
    if !has_evs {
        for args in [&["evs", "join", "g"][..], &["evs", "send", "g", "text"], &["evs", "members"]]
        {
            assert_fails(&run(one, args), 1, &["evs", "CS_ERR_NOT_SUPPORTED", "1.99.7", "cpg"]);
        }
        return;
    }
    assert_eq!(json(one, &["evs", "members"]), json!({ "node_id": 1, "members": [1, 2] }));
    take_part_in_evs(one, two, [1, 2]);
}

#[test]
fn evs_is_served() {
    let served = Served::start();
    assert_eq!(json(&served, &["evs", "members"]), json!({ "node_id": 1, "members": [1] }));
    take_part_in_evs(&served, &served, [1, 1]);
}

/// Two processes, of nodes with these ids.
fn take_part_in_evs(one: &impl Place, two: &impl Place, [first, second]: [u32; 2]) {
    let joined =
        command(one, &["evs", "join", "g", "--json", "--count", "2"]).interactive().spawn();
    joined.wait_stdout("confchg");
    let mut joined = joined;
    joined.write("from one\n");
    joined.wait_stdout("from one");
    let bytes = noise(1, 10_000);
    assert_eq!(command(two, &["evs", "send", "g"]).input(bytes.clone()).run().success(), "");
    let output = joined.wait().success();
    let found: Vec<(Value, Vec<u8>)> = lines(&output)
        .iter()
        .filter(|line| line["event"] == json!("deliver"))
        .map(|line| (json!([line["group"], line["node_id"]]), payload(line)))
        .collect();
    assert_eq!(found, [(json!(["g", first]), b"from one".to_vec()), (json!(["g", second]), bytes)]);
}

fn members_are_shown_with_the_name_and_the_addresses_of_their_node(node: &impl Place) {
    let joined = join(node, &["shown"]);
    wait_members(&joined, 1);
    let known = json(node, &["quorum", "nodes"])[0].clone();
    let member = json!({
        "node_id": known["node_id"], "pid": joined.pid(), "name": known["name"],
        "addresses": known["addresses"], "errors": {},
    });
    assert!(member["name"].is_string() && member["addresses"][0].is_string(), "{member}");
    assert_eq!(json(node, &["cpg", "members", "shown"]), json!([member]));
    let groups = json(node, &["cpg", "groups"]);
    let group = json!({ "group": "shown", "members": [member] });
    assert!(groups.as_array().unwrap().contains(&group), "{groups}");
    let text = ok(node, &["cpg", "groups"]);
    let words = format!(
        "shown {} {} {} {}",
        known["node_id"],
        joined.pid(),
        known["name"],
        known["addresses"][0]
    );
    let words = words.replace('"', "");
    let is_row = |line: &str| line.split_whitespace().eq(words.split(' '));
    assert!(text.lines().any(is_row), "{words}\n{text}");
    assert!(ok(node, &["cpg", "groups", "--names"]).lines().any(|line| line == "shown"));
    let names = json(node, &["cpg", "groups", "--names"]);
    assert!(names.as_array().unwrap().contains(&json!({ "group": "shown" })), "{names}");
}
