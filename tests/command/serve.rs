//! `corosync-ipc serve`, the process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use serde_json::{Value, json};
use testbed::{Cluster, Node, NodeCommand, eventually, skip, version};

use super::served::{Served, serve};
use super::{assert_fails, command, json, lines, ok, outside, program, run};

#[test]
fn it_says_when_it_is_ready_and_where() {
    let mut served =
        Served::with(&["--node", "2", "--nodes", "3,2,1", "--cluster-name", "my cluster"]);
    let mut ready = served.ready();
    let time = ready["time"].take();
    assert!(time.as_str().is_some_and(|time| time.len() == 27 && time.ends_with('Z')), "{time}");
    let folder = served.folder().to_str().unwrap();
    let expected = json!({
        "event": "ready", "time": null, "cluster_name": "my cluster", "node_id": 2, "nodes": [3, 2, 1],
        "transport": "shm", "socket_dir": folder, "shm_root": folder, "pid": served.ready()["pid"],
    });
    assert_eq!(ready, expected);
    assert_eq!(ready["pid"], json!(served.process().pid()));
    let datagrams = Served::with(&["--transport", "socket"]);
    assert_eq!(datagrams.ready()["transport"], json!("socket"));
    assert_eq!(ok(&datagrams, &["cfg", "local"]), "1\n");

    let status = json(&served, &["quorum", "status"]);
    assert_eq!((&status["cluster_name"], &status["node_id"]), (&json!("my cluster"), &json!(2)));
    assert_eq!((&status["quorate"], &status["total_votes"]), (&json!(true), &json!(3)));
    let all = json(&served, &["quorum", "nodes"]);
    let mut nodes: Vec<(u64, &str)> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["node_id"].as_u64().unwrap(), node["name"].as_str().unwrap()))
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [(1, "n1"), (2, "n2"), (3, "n3")]);
    assert_eq!(json(&served, &["evs", "members"]), json!({ "node_id": 2, "members": [1, 2, 3] }));
    let addresses = json(&served, &["cmap", "list", "nodelist.node."]);
    let addresses = addresses
        .as_array()
        .unwrap()
        .iter()
        .filter(|entry| entry["key"].as_str().unwrap().ends_with("addr"));
    let addresses: Vec<&Value> = addresses.map(|entry| &entry["value"]).collect();
    assert_eq!(addresses, [&json!("127.0.0.1"), &json!("127.0.0.2"), &json!("127.0.0.3")]);

    let folder = tempfile::tempdir().unwrap();
    let process = serve(folder.path()).spawn();
    let line = process.wait_stdout("\n");
    assert!(
        line.starts_with("serving node 1 of cluster embedded (a test double), cmap at "),
        "{line}"
    );
    assert!(line.contains(&format!("{}/cmap", folder.path().display())), "{line}");
}

#[test]
fn signals_end_it_with_0_and_nothing_is_left() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut served = Served::start();
        let mut joined = command(&served, &["cpg", "join", "g"]).interactive().spawn();
        joined.wait_stdout("confchg");
        assert!(joined.is_running() && !served.rings().is_empty());
        served.process().signal(signal);
        let output = served.ended();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{signal}");
        assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
        // Its clients see it go.
        assert_eq!(joined.wait().code(), 3);
    }
}

#[test]
fn it_ends_with_0_when_a_client_ends_the_node() {
    for end in [
        &["cfg", "shutdown"][..],
        &["cfg", "shutdown", "--immediate"],
        &["cfg", "kill", "1", "because"],
    ] {
        let served = Served::start();
        let mut watching = command(&served, &["quorum", "watch"]).spawn();
        watching.wait_stdout("quorum");
        assert!(watching.is_running());
        assert_eq!(ok(&served, end), "", "{end:?}");
        let output = served.ended();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{end:?}");
        assert_eq!(watching.wait().code(), 3);
    }
    // Another node may end; the one that is served goes on.
    let served = Served::with(&["--nodes", "1,2,3"]);
    assert_eq!(ok(&served, &["cfg", "kill", "3", "because"]), "");
    assert_eq!(json(&served, &["evs", "members"]), json!({ "node_id": 1, "members": [1, 2] }));
    assert_eq!(ok(&served, &["cfg", "shutdown"]), "");
    assert_eq!(served.ended().code(), 0);
    // Who refuses is heard.
    let mut served = Served::start();
    let refuses =
        command(&served, &["-v", "--json", "cfg", "watch", "--refuse", "--count", "1"]).spawn();
    eventually("watching", || refuses.stderr().contains("tracking"));
    assert_fails(&run(&served, &["cfg", "shutdown"]), 1, &["CS_ERR_BUSY"]);
    assert_eq!(lines(&refuses.wait().success())[0]["answer"], json!("no"));
    assert!(served.process().is_running());
}

#[test]
fn a_place_that_cannot_be_used_is_said_so() {
    let served = Served::start();
    let folder = served.folder().to_str().unwrap().to_owned();
    let again = serve(served.folder()).run();
    // In the words of the libc that the command is linked with.
    let in_use = io::Error::from_raw_os_error(libc::EADDRINUSE).to_string();
    assert_fails(&again, 1, &[&format!("listening at {folder}/cmap"), &in_use, "--socket-dir"]);
    // The first is not harmed.
    assert_eq!(ok(&served, &["cfg", "local"]), "1\n");

    // What one that was killed left behind is in nobody's way.
    let mut killed = served;
    killed.process().signal(Signal::SIGKILL);
    eventually("it is gone", || !killed.process().is_running());
    assert!(killed.folder().join("cmap").exists());
    let process = serve(killed.folder()).spawn();
    process.wait_stdout("serving node 1");
    assert_eq!(ok(&killed, &["cfg", "local"]), "1\n");

    for (args, status, words) in [
        (&["--socket-dir", "/no/such"][..], 1, &["listening at /no/such/cmap", "No such file"][..]),
        (&["--shm-root", "/no/such"], 1, &["opening /no/such", "No such file"]),
        (&["--shm-root", "relative"], 2, &["absolute path"]),
        (&["--node", "0"], 2, &["--node", "0"]),
        (&["--nodes", "0,1"], 2, &["--nodes", "0"]),
        (&["--nodes", "1,2,"], 2, &["--nodes"]),
        (&["--nodes", "2,1,2"], 2, &["nodes", "2 is listed twice"]),
        (&["--nodes", "2,3", "--node", "1"], 2, &["1 is not among the nodes 2 3"]),
        (&["--cluster-name", ""], 2, &["--cluster-name", "1 to 255"]),
        (&["--generation", "libqb-9"], 2, &["libqb-9", "libqb-0.10"]),
        (&["--transport", "pigeon"], 2, &["pigeon", "shm", "socket"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let output = run_serve(folder.path().to_str().unwrap(), args);
        assert_fails(&output, status, words);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_server_that_may_only_give_files_away_takes_them_back() {
    if skip() {
        return;
    }
    let starter = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+chown,+fowner",
        "--ambient-caps=-all,+chown,+fowner",
    ];
    let served = Served::by(&starter, &[]);
    // It gives us files that are ours, as only root does otherwise.
    let mut joined =
        command(&served, &["cpg", "join", "g", "--server-uid", "65534,0"]).interactive().spawn();
    joined.wait_stdout("confchg");
    assert!(joined.is_running());
    for name in served.rings() {
        assert_eq!(fs::metadata(served.folder().join(name)).unwrap().uid(), 0);
    }
    joined.signal(Signal::SIGKILL);
    eventually("its rings are gone", || served.rings().is_empty());
    // Nor is anything left of one that is there at the end.
    let joined =
        command(&served, &["cpg", "join", "g", "--server-uid", "65534,0"]).interactive().spawn();
    joined.wait_stdout("confchg");
    let mut served = served;
    served.process().signal(Signal::SIGTERM);
    assert_eq!(served.ended().code(), 0);
}

#[test]
fn handshakes_that_go_no_further_keep_nobody_out() {
    let served = Served::by(&["prlimit", "--nofile=64"], &[]);
    let path = served.folder().join("cmap");
    let half: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(ok(&served, &["cfg", "local"]), "1\n");
    assert_eq!(ok(&served, &["cmap", "get", "totem.cluster_name"]), "embedded\n");
    drop(half);
}

#[test]
fn what_one_that_was_killed_left_is_removed_and_nothing_else() {
    ["shm", "socket"].into_iter().for_each(what_a_killed_one_left_is_removed);
}

fn what_a_killed_one_left_is_removed(transport: &str) {
    let names = |folder: &Path| -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    // Another that runs has its rings in the same directory.
    let running = Served::start();
    let sockets = tempfile::tempdir().unwrap();
    let args = [
        "serve",
        "--socket-dir",
        sockets.path().to_str().unwrap(),
        "--shm-root",
        running.folder().to_str().unwrap(),
        "--transport",
        transport,
    ];
    let start = || {
        let process = NodeCommand::here(program()).args(args).args(["--nodes", "1,2,3"]).spawn();
        process.wait_stdout("serving node 1");
        process
    };
    let rings = || names(running.folder()).iter().filter(|name| name.starts_with("qb-")).count();
    let join = |folder: &Path| {
        let before = rings();
        let joined = NodeCommand::here(program())
            .args(["cpg", "join", "g"])
            .env("COROSYNC_IPC_SOCKET_DIR", folder);
        let joined = joined.env("COROSYNC_IPC_SHM_ROOT", running.folder()).interactive().spawn();
        joined.wait_stdout("confchg");
        // It asked cmap, too, over a connection that the server may not have closed yet.
        eventually("one connection is left", || rings() == before + 1);
        joined
    };
    // Not those of a process of long ago that had the same number.
    let old = names(Path::new("/dev/shm"));
    let private = |pid: u32| -> Vec<String> {
        names(Path::new("/dev/shm"))
            .into_iter()
            .filter(|name| name.starts_with(&format!("corosync-ipc-{pid}-")) && !old.contains(name))
            .collect()
    };
    let _others = join(running.folder());
    // What looks like it, and what another left.
    fs::create_dir(running.folder().join("qb-1-2-3-abcdef")).unwrap();
    fs::write(running.folder().join("qb-1-2-3-abcdef/qb-request-cpg-data"), "").unwrap();
    let foreign =
        tempfile::Builder::new().prefix("corosync-ipc-1-").tempdir_in("/dev/shm").unwrap();
    // A list that somebody else put together, and a directory that is not the one it was.
    let shared = running.folder().join("qb-shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "").unwrap();
    fs::write(shared.join("corosync-ipc-forged.lock"), "").unwrap();
    let found = fs::metadata(&shared).unwrap();
    let mut list = format!("qb-shared\n{}\n{}\n", found.dev(), found.ino() + 1).into_bytes();
    list.resize(128, 0);
    let forged = running.folder().join("corosync-ipc-forged.lock");
    let before = names(running.folder());
    fs::write(&forged, &list).unwrap();

    let mut killed = start();
    let pid = killed.pid();
    let mut joined = join(sockets.path());
    assert_eq!(private(pid).len(), 2);
    let during = names(running.folder());
    assert!(during.len() >= before.len() + 2, "{before:?}, then {during:?}");
    killed.signal(Signal::SIGSTOP);
    joined.signal(Signal::SIGKILL);
    killed.signal(Signal::SIGKILL);
    eventually("it is gone", || !killed.is_running());
    assert_eq!(names(running.folder()), during);

    let mut again = start();
    assert_eq!(private(pid), Vec::<String>::new());
    assert!(names(running.folder()).is_superset(&before));
    assert!(shared.join("file").exists() && !forged.exists());
    assert!(foreign.path().exists() && again.is_running());
    again.signal(Signal::SIGTERM);
    assert_eq!(again.wait().code(), 0);
    assert_eq!(names(running.folder()), before);
    fs::remove_dir_all(running.folder().join("qb-1-2-3-abcdef")).unwrap();
}

#[test]
fn an_old_one_is_old_in_all_it_says() {
    for (generation, is_old) in [("libqb-0.10", true), ("libqb-0.14", true), ("libqb-1.0.4", false)]
    {
        let served = Served::with(&["--nodes", "1,2,3", "--generation", generation]);
        let status = json(&served, &["quorum", "status"]);
        assert_eq!(
            (&status["quorate"], &status["total_votes"]),
            (&json!(true), &json!(3)),
            "{generation}"
        );
        let watched =
            command(&served, &["--json", "quorum", "watch", "--count", "1"]).run().success();
        assert_eq!(lines(&watched).len(), 1, "{generation}");
        let stats = run(&served, &["cmap", "list", "--map", "stats"]);
        let counted = run(&served, &["cmap", "get", "runtime.connections.active"]);
        assert_eq!(
            (stats.code() == 0, counted.code() == 0),
            (!is_old, is_old),
            "{generation}: {stats:?} {counted:?}"
        );
        // Nothing killed it.
        assert_eq!(ok(&served, &["cfg", "local"]), "1\n");
    }
}

/// Cuts files of the rings of cpg between a process and the server to nothing. Their directory has
/// both pids in its name. The process may end other connections meanwhile.
fn cut_rings(served: &Served, pid: u32, ring: &str, part: &str) {
    let is_of = |name: &String| name.split('-').nth(2) == Some(&pid.to_string());
    let directories =
        served.rings().into_iter().filter(is_of).map(|name| served.folder().join(name));
    let files = directories.map(|path| path.join(format!("qb-{ring}-cpg-{part}")));
    let files: Vec<_> = files.filter(|path| path.exists()).collect();
    assert!(!files.is_empty(), "no {part} of a {ring} ring of {pid}");
    files.iter().for_each(|path| {
        fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap()
    });
}

#[test]
fn rings_that_are_cut_short_end_one_client_and_no_process() {
    let mut served = Served::with(&["-v"]);
    let mut bystander = command(&served, &["cpg", "join", "g"]).interactive().spawn();
    bystander.wait_stdout("confchg");
    for (ring, part) in ["request", "response", "event"]
        .into_iter()
        .flat_map(|ring| [(ring, "header"), (ring, "data")])
    {
        let mut joined = command(&served, &["cpg", "join", "g"]).interactive().spawn();
        joined.wait_stdout("confchg");
        cut_rings(&served, joined.pid(), ring, part);
        joined.write("a line\n");
        if ring != "response" {
            // The client, or the server, or both touch what is missing.
            eventually("it is disconnected", || {
                ok(&served, &["cpg", "send", "g", "a message"]);
                !joined.is_running()
            });
            assert_eq!(joined.wait().code(), 3, "{ring} {part}");
        } else {
            // The server finds it when it has something to answer, or that the client is gone.
            joined.signal(Signal::SIGTERM);
            assert_ne!(joined.wait().code(), -(Signal::SIGBUS as i32), "{ring} {part}");
        }
        // Cut and gone before anybody looks.
        let mut killed = command(&served, &["cpg", "join", "g"]).interactive().spawn();
        killed.wait_stdout("confchg");
        killed.signal(Signal::SIGSTOP);
        cut_rings(&served, killed.pid(), ring, part);
        killed.signal(Signal::SIGKILL);
        drop(killed);
        eventually("the others are told", || {
            json(&served, &["cpg", "members", "g"])
                .as_array()
                .is_some_and(|members| members.len() == 1)
        });
    }
    assert!(bystander.is_running() && served.process().is_running());
    let log = served.process().stderr();
    assert!(
        log.contains("a client broke the protocol") && log.contains("ring was truncated"),
        "{log}"
    );
    bystander.write("still here\n");
    bystander.wait_stdout("still here");
}

/// In the directory, unless the arguments lead elsewhere.
fn run_serve(folder: &str, args: &[&str]) -> super::Output {
    let command = super::NodeCommand::here(program()).arg("serve").args(args);
    command.env("COROSYNC_IPC_SOCKET_DIR", folder).env("COROSYNC_IPC_SHM_ROOT", folder).run()
}

#[test]
fn help_says_that_it_is_a_test_double() {
    let help = outside(&["serve", "--help"]).stdout;
    let text: String = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("It is a test double, not a cluster engine"), "{help}");
}

/// A tool must succeed, and print each of these.
#[track_caller]
fn assert_prints(node: &Node, tool: &str, args: &[&str], wanted: &[&str]) {
    let text = node.tool(tool, args).success();
    for line in wanted {
        assert!(text.contains(line), "{tool} {args:?}: no {line:?} in {text}");
    }
}

/// That they print what they print with the real one is shown in `embedded`, against the same
/// daemon as a library.
#[test]
fn corosyncs_own_tools_work_with_it() {
    // libqb 0.10, whose clients the tools of 1.99 are, expects the names of the rings 8 bytes
    // further on.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().create();
    let node = cluster.node(1);
    let served = node
        .command(program())
        .args(["serve", "--abstract", "--cluster-name", "tools", "--node", "7"])
        .spawn();
    served.wait_stdout("serving node 7");
    ok(node, &["cmap", "set", "ours.key", "u32", "5"]);
    let mut joined = command(node, &["cpg", "join", "tools"]).interactive().spawn();
    joined.wait_stdout("confchg");
    assert!(joined.is_running());
    let pid = joined.pid().to_string();

    assert_prints(
        node,
        "corosync-cmapctl",
        &["-g", "totem.cluster_name"],
        &["totem.cluster_name (str) = tools\n"],
    );
    assert_prints(
        node,
        "corosync-cmapctl",
        &[],
        &["ours.key (u32) = 5\n", "runtime.votequorum.this_node_id (u32) = 7\n"],
    );
    let ring = if version() >= [3, 0, 0, 0] { "7.5" } else { "7/5" };
    assert_prints(
        node,
        "corosync-quorumtool",
        &["-s"],
        &["Quorate:          Yes\n", &format!("Ring ID:          {ring}\n")],
    );
    assert_prints(node, "corosync-cpgtool", &["-d", ";"], &[&format!("tools;{pid};7\n")]);
    assert_prints(node, "corosync-cfgtool", &["-s"], &["Local node ID 7"]);
    assert_prints(node, "corosync-cmapctl", &["-s", "theirs.key", "str", "text"], &[]);
    assert_eq!(ok(node, &["cmap", "get", "theirs.key"]), "text\n");
    let tracked = node.command("corosync-cmapctl").args(["-T", "theirs."]).interactive().spawn();
    eventually("the tool is told", || {
        ok(node, &["cmap", "increment", "ours.key"]);
        ok(node, &["cmap", "set", "theirs.key", "str", "new"]);
        ok(node, &["cmap", "set", "theirs.key", "str", "old"]);
        tracked.stdout().contains("theirs.key (str) = new")
    });
    assert_prints(node, "corosync-cfgtool", &["-H"], &[]);
    assert_eq!(served.wait().code(), 0);
    assert_eq!(joined.wait().code(), 3);
}

#[test]
fn a_corosync_conf_says_what_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("corosync.conf");
    let text = "totem {\n version: 2\n cluster_name: filed\n config_version: 3\n}\n\
        quorum {\n provider: corosync_votequorum\n}\nnodelist {\n\
        node {\n ring0_addr: 10.0.0.7\n nodeid: 7\n name: seven\n quorum_votes: 2\n }\n\
        node {\n ring0_addr: 10.0.0.5\n nodeid: 5\n }\n}\n";
    fs::write(&file, text).unwrap();
    let config = file.to_str().unwrap();
    let served = Served::with(&["--config", config, "--node", "5"]);
    let ready = served.ready();
    assert_eq!((&ready["cluster_name"], &ready["nodes"]), (&json!("filed"), &json!([7, 5])));
    let status = json(&served, &["status"]);
    assert_eq!((&status["node_id"], &status["total_votes"]), (&json!(5), &json!(3)));
    assert_eq!((&status["node_name"], &status["config_version"]), (&json!(null), &json!(3)));
    let nodes = &status["members"];
    assert_eq!(
        (&nodes[1]["name"], &nodes[1]["addresses"]),
        (&json!("seven"), &json!(["10.0.0.7"]))
    );

    let place = testbed::shm_folder();
    let place = place.path().to_str().unwrap();
    fs::write(&file, text.replace("version: 2\n cl", "version: 2\n}\n}\ncl")).unwrap();
    assert_fails(
        &run_serve(place, &["--config", config]),
        2,
        &[config, "line 4: no section is open"],
    );
    fs::write(&file, text.replace("provider:", "#")).unwrap();
    assert_fails(
        &run_serve(place, &["--config", config]),
        2,
        &[
            config,
            "no quorum.provider: write `provider: corosync_votequorum` in the section quorum",
        ],
    );
    let node = |id| format!("node {{\n ring0_addr: 10.0.0.1\n nodeid: {id}\n }}\n");
    let crowd: String = (1..=20_000).map(node).collect();
    fs::write(&file, format!("nodelist {{\n{crowd}}}\n")).unwrap();
    // The node in front of this line is the last that there may be.
    let line = format!("line {}: more than 384 nodes", 2 + 384 * 4);
    assert_fails(&run_serve(place, &["--config", config]), 2, &[config, &line]);
    assert_fails(&run_serve(place, &["--config", "/no/such"]), 1, &["/no/such", "No such file"]);
    assert_fails(
        &run_serve(place, &["--config", config, "--nodes", "1"]),
        2,
        &["--config", "--nodes"],
    );
}

/// A shell makes pipes of `<(pcs ...)`.
#[test]
fn a_corosync_conf_comes_through_a_pipe_too_and_ends() {
    let text = "quorum {\n provider: corosync_votequorum\n}\nnodelist {\n node {\n \
        ring0_addr: 10.0.0.7\n nodeid: 7\n }\n}\n";
    let place = testbed::shm_folder();
    let pipe = place.path().join("pipe");
    nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let place = place.path().to_str().unwrap();
    let config = ["--config", pipe.to_str().unwrap(), "--timeout"];

    let nobody_writes = run_serve(place, &[&config[..], &["300ms"]].concat());
    assert_fails(&nobody_writes, 4, &[config[1], "does not end within --timeout"]);
    let mut process = serve(Path::new(place)).args(config).arg("1h").arg("--json").spawn();
    // Opening waits for the reader.
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    let (begin, end) = text.split_at(20);
    writer.write_all(begin.as_bytes()).unwrap();
    writer.write_all(end.as_bytes()).unwrap();
    drop(writer);
    assert_eq!(lines(&process.wait_stdout("\n")).remove(0)["nodes"], json!([7]));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().code(), 0);

    let input = serve(Path::new(place)).args(["--config", "/dev/stdin", "--json"]).input(text);
    let mut process = input.spawn();
    assert_eq!(lines(&process.wait_stdout("\n")).remove(0)["nodes"], json!([7]));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait().code(), 0);
    assert_fails(&run_serve(place, &["--config", "/dev/zero"]), 2, &["/dev/zero", "1048576 bytes"]);
    assert_fails(&run_serve(place, &["--config", place]), 1, &[place, "Is a directory"]);
}
