//! Commands that answer in several parts, of which one fails.

use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use corosync_ipc::Endpoint;
use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::server::{Conn, Handler, Listener, Peer, Refusal};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Cluster, Node, NodeCommand, Output, eventually, skip, version};

use super::schema::assert_status;
use super::served::{Place, Served};
use super::{assert_fails, assert_one_line, command, json, lines, ok, run};

/// First version with node status.
const NODE_STATUS: [u32; 4] = [3, 1, 1, 0];

/// A timeout that no test waits for.
const LONG: Duration = Duration::from_secs(120);

/// `CS_ERR_ACCESS`.
const ACCESS: i32 = 11;

/// What a service answers that lies.
enum Answer {
    Reply(Vec<u8>),
    /// None, as from a daemon that is stopped.
    Silence,
    /// None, as from a daemon that dies.
    End,
}

/// A service that answers as the function says: request in, answer out.
struct Liar(Answers);

type Answers = Box<dyn FnMut(&[u8]) -> Answer + Send>;

impl Handler for Liar {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        match (self.0)(&request) {
            Answer::Reply(reply) => conn.reply(&reply).expect("the reply fits"),
            Answer::Silence => {}
            Answer::End => conn.disconnect(),
        }
    }
}

/// An embedded cluster of three nodes, of which node 1 is asked, and where one service is another
/// one or none.
struct Lying {
    served: Served,
    folder: TempDir,
    timeout: Duration,
    _liar: Option<Listener<Liar>>,
}

impl Lying {
    fn new(service: &str, answer: Option<fn(&[u8]) -> Answer>) -> Lying {
        let served = Served::with(&["--nodes", "1,2,3"]);
        Self::beside(served, service, answer.map(|answer| Box::new(answer) as _))
    }

    /// Whose service answers well, but each request so much later.
    fn late(service: &str, delay: Duration, answer: fn(&[u8]) -> Answer) -> Lying {
        let late = move |request: &[u8]| {
            thread::sleep(delay);
            answer(request)
        };
        Self::beside(Served::with(&["--nodes", "1,2,3"]), service, Some(Box::new(late)))
    }

    /// Whose service answers so many requests. With the next one the whole daemon stops; the number
    /// tells whether it did.
    fn stopping(
        service: &str,
        requests: usize,
        answer: fn(&[u8]) -> Answer,
    ) -> (Lying, Arc<AtomicUsize>) {
        let mut served = Served::with(&["--nodes", "1,2,3"]);
        let daemon = served.process().pid();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        let stop = move |request: &[u8]| {
            if counted.fetch_add(1, Ordering::SeqCst) < requests {
                return answer(request);
            }
            kill(Pid::from_raw(daemon.try_into().unwrap()), Signal::SIGSTOP).unwrap();
            Answer::Silence
        };
        (Self::beside(served, service, Some(Box::new(stop))), asked)
    }

    fn beside(served: Served, service: &str, answer: Option<Answers>) -> Lying {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cmap", "cpg", "cfg", "quorum", "votequorum", "evs"]
            .iter()
            .filter(|name| **name != service)
        {
            symlink(served.folder().join(name), folder.path().join(name)).unwrap();
        }
        let endpoint = Endpoint::new().socket_dir(folder.path()).shm_root(served.folder());
        let listener = Listener::<Liar>::builder().endpoint(&endpoint).service(service);
        let liar = answer.map(|answer| listener.start(Liar(answer)).unwrap());
        Lying { served, folder, timeout: LONG, _liar: liar }
    }

    /// With this timeout for each command.
    fn patient(self, timeout: Duration) -> Lying {
        Lying { timeout, ..self }
    }

    /// The exit status of a command, and how long it took.
    fn times(&self, args: &[&str]) -> (i32, Duration) {
        let begun = Instant::now();
        let code = self.run(args).code();
        (code, begun.elapsed())
    }

    fn run(&self, args: &[&str]) -> Output {
        command(self, args).args(["--timeout", &format!("{}ms", self.timeout.as_millis())]).run()
    }

    /// The document of a command that ends with this status, and one line with all of these words.
    #[track_caller]
    fn fails(&self, status: i32, args: &[&str], words: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert_eq!(output.code(), status, "{output:?}");
        assert_one_line(&output.stderr, words);
        let document = serde_json::from_str(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}"));
        if args == ["status"] {
            assert_status(&document);
        }
        document
    }

    /// What it prints for people, which has these lines in it.
    #[track_caller]
    fn prints(&self, status: i32, args: &[&str], wanted: &[&str]) {
        let output = self.run(args);
        assert_eq!(output.code(), status, "{output:?}");
        for wanted in wanted {
            assert!(output.stdout.contains(wanted), "no {wanted:?} in {}", output.stdout);
        }
    }
}

impl Place for Lying {
    fn at(&self, program: &Path) -> NodeCommand {
        self.served.at(program).env("COROSYNC_IPC_SOCKET_DIR", self.folder.path())
    }
}

/// A response: a header and what follows.
fn response(id: i32, error: i32, body: &[u8]) -> Answer {
    let header = Header { id, size: 0, error };
    Answer::Reply(header.encode(Kind::Response, body).unwrap())
}

fn number(request: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes(request[offset..offset + 4].try_into().unwrap())
}

/// cfg that knows who it is, and answers so for nodes: those before the node given are known and
/// well.
fn cfg(request: &[u8], node: u32, answer: Answer) -> Answer {
    const LOCAL_GET: u32 = 6;
    const NODE_STATUS_GET: u32 = 9;
    match number(request, 0) {
        LOCAL_GET => response(12, 1, &1_u32.to_ne_bytes()),
        NODE_STATUS_GET if number(request, 16) < node => node_status(number(request, 16), 1),
        NODE_STATUS_GET if number(request, 16) == node => answer,
        NODE_STATUS_GET => node_status(number(request, 16), 1),
        _ => response(0, 7, &[]),
    }
}

/// A node with one link, or with zeros.
fn node_status(node: u32, is_known: u8) -> Answer {
    let mut body = vec![0; 4176];
    body[0..4].copy_from_slice(&1_u32.to_ne_bytes());
    body[4..8].copy_from_slice(&node.to_ne_bytes());
    // Reachable; the first link is enabled and connected.
    body[8] = is_known;
    body[16..18].copy_from_slice(&[is_known; 2]);
    response(16, 1, &body)
}

/// The nodes of the link 0 of a document, as id, connected and cs_error.
fn ends(links: &Value) -> Vec<Value> {
    let nodes = links[0]["nodes"].as_array().unwrap();
    nodes.iter().map(|node| json!([node["node_id"], node["connected"], node["cs_error"]])).collect()
}

#[test]
fn a_node_the_daemon_does_not_know_is_unknown_and_not_down() {
    let lying = Lying::new("cfg", Some(|request| cfg(request, 2, node_status(2, 0))));
    let nodes = json(&lying, &["cfg", "nodes"]);
    let unknown = json!({
        "node_id": 2, "name": "n2", "local": false, "reachable": null, "remote": null, "external": null,
        "onwire": null, "links": null, "error": null, "cs_error": null,
    });
    assert_eq!(nodes[1], unknown);
    assert_eq!((&nodes[2]["reachable"], &nodes[2]["error"]), (&json!(true), &json!(null)));
    let text = ok(&lying, &["cfg", "nodes"]);
    assert!(text.contains(" 2  n2    unknown       -  -            -  -\n"), "{text}");
    let links = json(&lying, &["cfg", "links"]);
    assert_eq!(ends(&links), [json!([2, null, null]), json!([3, true, null])]);
    assert_eq!(links[0]["nodes"][0]["enabled"], json!(null));
    assert!(ok(&lying, &["cfg", "links"]).contains("connected 3, unknown 2\n"));
    assert_eq!(json(&lying, &["status"])["links"], links);
    assert!(ok(&lying, &["status"]).contains("connected 3, unknown 2\n"));
}

#[test]
fn a_node_that_cannot_be_asked_for_is_shown_with_the_error() {
    let lying = Lying::new("cfg", Some(|request| cfg(request, 2, response(16, ACCESS, &[]))));
    let nodes = lying.fails(1, &["cfg", "nodes"], &["node 2: cfg node status get: CS_ERR_ACCESS"]);
    assert_eq!(nodes[1]["cs_error"], json!("CS_ERR_ACCESS"));
    assert_eq!((&nodes[1]["reachable"], &nodes[2]["reachable"]), (&json!(null), &json!(true)));
    lying.prints(
        1,
        &["cfg", "nodes"],
        &["failed: cfg node status get: CS_ERR_ACCESS", "reachable"],
    );
    let links = lying.fails(1, &["cfg", "links"], &["node 2: ", "CS_ERR_ACCESS"]);
    assert_eq!(ends(&links), [json!([2, null, "CS_ERR_ACCESS"]), json!([3, true, null])]);
    lying.prints(1, &["cfg", "links"], &["connected 3, failed 2\n"]);
    let status = lying.fails(1, &["status"], &["node 2: ", "CS_ERR_ACCESS"]);
    assert_eq!(ends(&status["links"]), ends(&links));
    lying.prints(1, &["status"], &["connected 3, failed 2\n", "Quorate:          yes"]);
}

#[test]
fn a_daemon_that_dies_in_between_is_told() {
    let lying = Lying::new("cfg", Some(|request| cfg(request, 2, Answer::End)));
    // It is not asked for the third once it is gone.
    let gone = "the connection to cfg is gone";
    let nodes = lying.fails(1, &["cfg", "nodes"], &["node 2: ", gone, "(and 1 more)"]);
    assert_eq!(
        (&nodes[0]["reachable"], &nodes[2]["cs_error"]),
        (&json!(true), &json!("CS_ERR_LIBRARY"))
    );
    let status = lying.fails(1, &["status"], &["node 2: ", gone, "(and 1 more)"]);
    assert_eq!(status["links"][0]["nodes"][0]["cs_error"], json!("CS_ERR_LIBRARY"));
    lying.prints(1, &["status"], &["failed 2 3\n", "Services:         cmap cpg cfg "]);

    // Of all nodes.
    let lying = Lying::new("cfg", Some(|request| cfg(request, 1, Answer::End)));
    let status = lying.fails(1, &["status"], &["node 1: ", gone, "(and 2 more)"]);
    assert_eq!(ends(&status["links"]), [2, 3].map(|node| json!([node, null, "CS_ERR_LIBRARY"])));
}

#[test]
fn a_service_that_dies_of_a_request_is_told() {
    // As a cfg that knows nobody and ends with the first question.
    let lying = Lying::new("cfg", Some(|_| Answer::End));
    let status = lying.fails(
        1,
        &["status"],
        &["links: the connection to cfg is gone", "(CS_ERR_LIBRARY)\""],
    );
    assert_eq!(status["links"], json!(null));
    assert_eq!(status["errors"]["links"]["cs_error"], json!("CS_ERR_LIBRARY"));
    assert!(status["errors"]["links"]["error"].as_str().unwrap().contains("is gone"));
    assert_eq!((&status["quorate"], &status["node_id"]), (&json!(true), &json!(1)));
    assert_eq!(status["services"][2]["reachable"], json!(false));
    lying.prints(
        1,
        &["status"],
        &["Links:            failed: the connection to cfg is gone", " cfg failed: ", "Quorate:"],
    );
    let doctor = lying.fails(1, &["doctor"], &["cfg: the connection to cfg is gone"]);
    assert_eq!(
        (&doctor["ok"], &doctor["services"][2]["failed_at"]),
        (&json!(false), &json!("request"))
    );
    assert_fails(&lying.run(&["cfg", "links"]), 3, &["the connection to cfg is gone"]);
}

#[test]
fn a_service_that_is_silent_costs_one_timeout_and_is_told() {
    for (service, member) in [
        ("cfg", "links"),
        ("votequorum", "total_votes"),
        ("quorum", "quorate"),
        ("cmap", "cluster_name"),
    ] {
        with_some_timeout(|timeout| a_silent_service(service, member, timeout));
    }
}

fn a_silent_service(service: &str, member: &str, timeout: Duration) {
    let lying = Lying::new(service, Some(|_| Answer::Silence)).patient(timeout);
    let late = format!("timed out after {timeout:?}");
    let status = lying.fails(4, &["status"], &[&late, "CS_ERR_TIMEOUT"]);
    assert_eq!(status[member], json!(null), "{service}");
    let part = if service == "cfg" { "links" } else { service };
    assert_eq!(status["errors"][part]["cs_error"], json!("CS_ERR_TIMEOUT"), "{service}: {status}");
    // The others answer as ever.
    for (other, member, value) in [
        ("cmap", "cluster_name", json!("embedded")),
        ("votequorum", "total_votes", json!(3)),
        ("quorum", "quorate", json!(true)),
    ] {
        if other != service {
            assert_eq!(status[member], value, "{service}");
        }
    }
    lying.prints(4, &["status"], &["failed: ", &late]);
    let doctor = lying.fails(4, &["doctor"], &[&format!("{service}: "), &late]);
    assert_eq!(doctor["ok"], json!(false));
}

/// For what a busy machine delays, which counts less with longer ones. A fault shows each time.
const TIMEOUTS: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(16)];

/// Asserts what a machine that is too busy for a timeout makes fail.
fn with_some_timeout(assert: impl Fn(Duration)) {
    let [first @ .., last] = TIMEOUTS;
    if !first.into_iter().any(|timeout| catch_unwind(AssertUnwindSafe(|| assert(timeout))).is_ok())
    {
        assert(last);
    }
}

#[track_caller]
fn takes_one_timeout(what: &str, mut attempt: impl FnMut(Duration) -> (i32, Duration)) {
    let mut tried = Vec::new();
    for timeout in TIMEOUTS {
        let (status, took) = attempt(timeout);
        if status == 4 && took <= timeout.mul_f64(1.5) {
            return;
        }
        tried.push((timeout, status, took));
    }
    panic!("{what}: {tried:?}");
}

#[test]
fn an_answer_takes_one_timeout_when_the_daemon_stops_in_the_middle() {
    let cfg = |request: &[u8]| cfg(request, 4, Answer::End);
    let none = |_: &[u8]| -> Answer { unreachable!() };
    thread::scope(|scope| {
        for (service, requests, answer, args) in [
            ("cfg", 1, cfg as fn(&[u8]) -> Answer, &["status"][..]),
            ("cfg", 3, cfg, &["cfg", "links"]),
            ("cfg", 2, cfg, &["cfg", "nodes"]),
            ("cfg", 0, cfg, &["cfg", "addresses", "1"]),
            ("votequorum", 0, none, &["status"]),
            ("votequorum", 0, none, &["quorum", "status"]),
            ("votequorum", 0, none, &["quorum", "watch"]),
            ("quorum", 0, none, &["quorum", "nodes"]),
            ("cmap", 0, none, &["status"]),
            ("cmap", 0, none, &["doctor"]),
        ] {
            scope.spawn(move || {
                takes_one_timeout(&format!("{service} {requests} {args:?}"), |timeout| {
                    let (lying, asked) = Lying::stopping(service, requests, answer);
                    let mut lying = lying.patient(timeout);
                    let timed = lying.times(args);
                    // Some connections may be asked before.
                    assert!(
                        asked.load(Ordering::SeqCst) > requests,
                        "{service} {requests} {args:?}: not stopped"
                    );
                    lying.served.process().signal(Signal::SIGCONT);
                    timed
                });
            });
        }
    });
}

#[test]
fn an_answer_takes_one_timeout_when_each_request_takes_most_of_one() {
    let cfg = |request: &[u8]| cfg(request, 4, Answer::End);
    let quorum = |request: &[u8]| match number(request, 0) {
        // Whether there is a provider.
        3 => response(4, 1, &[0; 4]),
        4 => response(5, 1, &[0; 8]),
        id => response(i32::try_from(id).unwrap(), 1, &[]),
    };
    thread::scope(|scope| {
        for (service, answer, args) in [
            ("cfg", cfg as fn(&[u8]) -> Answer, &["status"][..]),
            ("cfg", cfg, &["cfg", "links"]),
            ("cfg", cfg, &["cfg", "nodes"]),
            ("quorum", quorum, &["quorum", "status"]),
            ("quorum", quorum, &["quorum", "watch"]),
        ] {
            scope.spawn(move || {
                takes_one_timeout(&format!("{service} {args:?}"), |timeout| {
                    Lying::late(service, timeout * 9 / 10, answer).patient(timeout).times(args)
                });
            });
        }
    });
}

#[test]
fn without_cmap_the_others_tell_what_they_know() {
    let lying = Lying::new("cmap", None);
    without_cmap(&lying, 1, "no cmap socket");
    // One cause, told once.
    let line = lying.run(&["status"]).stderr;
    assert!(!line.contains("more"), "{line}");
    with_some_timeout(|timeout| {
        let lying = Lying::new("cmap", Some(|_| Answer::Silence)).patient(timeout);
        without_cmap(&lying, 4, &format!("timed out after {timeout:?}"));
    });
}

fn without_cmap(lying: &Lying, status: i32, said: &str) {
    let document = lying.fails(status, &["status"], &["cmap: ", said]);
    let told = ["node_id", "quorate", "total_votes", "cluster_name", "quorum_provider"]
        .map(|name| &document[name]);
    assert_eq!(told, [&json!(1), &json!(true), &json!(3), &json!(null), &json!(null)]);
    assert_eq!(document["ring_id"]["node_id"], json!(1), "{document}");
    let members = document["members"].as_array().unwrap();
    let members: Vec<_> =
        members.iter().map(|member| [&member["node_id"], &member["votes"]]).collect();
    assert_eq!(
        members,
        [1, 2, 3].map(|node| [json!(node), json!(1)]).each_ref().map(|[a, b]| [a, b])
    );
    let errors: Vec<_> = document["errors"].as_object().unwrap().keys().collect();
    assert_eq!(errors, ["cmap"]);
    let links = lying.fails(status, &["cfg", "links"], &["cmap: ", said]);
    assert_eq!(document["links"], links);
    let [link] = links.as_array().unwrap().as_slice() else { panic!("{links}") };
    assert_eq!(link["address"], json(&lying.served, &["cfg", "addresses", "1"])["addresses"][0]);
    assert_eq!([&link["link"], &link["status"], &link["nodes"]], [&json!(null); 3]);
    assert!(link["error"].as_str().unwrap().contains(said), "{link}");
    lying.prints(status, &["cfg", "links"], &["  failed: ", said]);
    let nodes = lying.fails(status, &["cfg", "nodes"], &["cmap: ", said]);
    let [node] = nodes.as_array().unwrap().as_slice() else { panic!("{nodes}") };
    assert_eq!(
        [&node["node_id"], &node["local"], &node["reachable"]],
        [&json!(1), &json!(true), &json!(null)]
    );
    assert_eq!(node["error"], link["error"]);

    let joined = command(&lying.served, &["cpg", "join", "group"]).interactive().spawn();
    joined.wait_stdout("confchg");
    let groups = lying.fails(status, &["cpg", "groups"], &["cmap: ", said]);
    let member = &groups[0]["members"][0];
    assert_eq!(
        [&member["node_id"], &member["pid"], &member["name"], &member["addresses"]],
        [&json!(1), &json!(joined.pid()), &json!(null), &json!([])]
    );
    assert_eq!(member["errors"]["cmap"]["error"], link["error"]);
    lying.prints(status, &["cpg", "groups"], &["  failed  failed\n"]);
    lying.prints(status, &["cpg", "members", "group"], &["  failed  failed\n"]);
}

#[test]
fn votes_that_are_refused_leave_the_rest() {
    let lying = Lying::new("votequorum", Some(|_| response(0, ACCESS, &[])));
    let status = lying.fails(
        1,
        &["quorum", "status", "--check"],
        &["votequorum: votequorum getinfo: CS_ERR_ACCESS"],
    );
    assert_eq!(
        (&status["quorate"], &status["node_id"], &status["total_votes"]),
        (&json!(true), &json!(1), &json!(null))
    );
    assert_eq!(
        status["errors"],
        json!({
            "votequorum": { "error": "votequorum getinfo: CS_ERR_ACCESS", "cs_error": "CS_ERR_ACCESS" },
        })
    );
    assert_eq!(status["members"].as_array().unwrap().len(), 3);
    lying.prints(
        1,
        &["quorum", "status"],
        &[
            "Votes:            failed: votequorum getinfo: CS_ERR_ACCESS\n",
            "Quorate:          yes\n",
        ],
    );
    let nodes = lying.fails(1, &["quorum", "nodes"], &["votequorum: ", "CS_ERR_ACCESS"]);
    assert_eq!((&nodes[0]["votes"], &nodes[0]["errors"]), (&json!(null), &status["errors"]));
    lying.prints(1, &["quorum", "nodes"], &["failed  member  n2"]);
}

#[test]
fn quorum_that_is_refused_leaves_the_rest() {
    let lying = Lying::new("quorum", Some(|_| response(0, ACCESS, &[])));
    let status = lying.fails(1, &["quorum", "status", "--check"], &["quorum: ", "CS_ERR_ACCESS"]);
    for member in ["quorate", "ring_id", "members", "absent"] {
        assert_eq!(status[member], json!(null), "{member}");
    }
    assert_eq!((&status["total_votes"], &status["cluster_name"]), (&json!(3), &json!("embedded")));
    lying.prints(
        1,
        &["quorum", "status"],
        &["Quorate:          failed: ", "Total votes:      3\n", "Members are not known.\n"],
    );
    assert_fails(&lying.run(&["quorum", "nodes"]), 1, &["quorum: ", "CS_ERR_ACCESS"]);
}

#[test]
fn a_service_that_is_missing_though_it_should_be_there_is_told() {
    for (service, part) in
        [("cpg", "cpg"), ("cfg", "links"), ("votequorum", "votequorum"), ("quorum", "quorum")]
    {
        let lying = Lying::new(service, None);
        let status = lying.fails(
            1,
            &["status"],
            &[&format!("{part}: no {service} socket"), "CS_ERR_NOT_EXIST"],
        );
        let services = status["services"].as_array().unwrap();
        let missing: Vec<_> =
            services.iter().filter(|one| one["reachable"] == json!(false)).collect();
        assert_eq!(missing.len(), 1);
        assert_eq!(
            (&missing[0]["service"], &missing[0]["cs_error"]),
            (&json!(service), &json!("CS_ERR_NOT_EXIST"))
        );
        lying.prints(1, &["status"], &[&format!(" {service} failed: no {service} socket")]);
        lying.fails(1, &["doctor"], &[&format!("{service}: no {service} socket")]);
        // The others answer, so it is not at another place.
        let advice = if service == "votequorum" {
            "-> it needs provider: corosync_votequorum"
        } else {
            "-> this corosync runs without"
        };
        lying.prints(1, &["doctor"], &[advice]);
    }
    let lying = Lying::new("votequorum", None);
    assert_fails(&lying.run(&["quorum", "watch"]), 3, &["no votequorum socket"]);
    assert_fails(&lying.run(&["quorum", "expected", "3"]), 3, &["no votequorum socket"]);
    // One that no corosync since 1.99.8 has is an answer.
    let lying = Lying::new("evs", None);
    assert_eq!(json(&lying, &["status"])["errors"], json!({}));
    assert!(
        ok(&lying, &["status"]).ends_with("Services:         cmap cpg cfg quorum votequorum\n")
    );
}

/// Runs a command that must succeed, and asserts that the daemon lives.
#[track_caller]
fn lives(node: &Node, pid: u32, args: &[&str]) -> String {
    let text = ok(node, args);
    assert!(node.is_running() && node.pid() == pid, "{args:?}");
    text
}

#[test]
fn a_udpu_daemon_without_node_ids_lives_through_every_command_that_does_not_end_it() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().bare_nodes(&[1]).start();
    let node = cluster.node(1);
    let pid = node.pid();
    let (id, address) = (node.id_of_address(), node.address());
    let lives = |args: &[&str]| lives(node, pid, args);
    let document = |args: &[&str]| -> Value {
        serde_json::from_str(&lives(&[args, &["--json"]].concat())).unwrap()
    };

    let status = document(&["status"]);
    assert_eq!(
        (&status["node_id"], &status["quorate"], &status["errors"]),
        (&json!(id), &json!(true), &json!({}))
    );
    let members = status["members"].as_array().unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!((&members[0]["node_id"], &members[0]["addresses"]), (&json!(id), &json!([address])));
    assert_eq!(status["links"].as_array().unwrap().len(), 1);
    assert_eq!(status["links"][0]["address"], json!(address));
    let number = if version() >= [2, 99, 0, 0] { "0" } else { "-" };
    let text = lives(&["status"]);
    assert!(text.contains(&format!("{number}  udpu      {address}  ")), "{text}");
    assert_eq!(document(&["doctor"])["ok"], json!(true));
    lives(&["doctor"]);

    assert_eq!(lives(&["cfg", "local"]), format!("{id}\n"));
    assert_eq!(document(&["cfg", "links"]), status["links"]);
    lives(&["cfg", "links"]);
    assert_eq!(document(&["cfg", "addresses", &id.to_string()])["addresses"], json!([address]));
    if version() >= NODE_STATUS {
        let nodes = document(&["cfg", "nodes"]);
        assert_eq!(nodes.as_array().unwrap().len(), 1);
        assert_eq!(
            (&nodes[0]["node_id"], &nodes[0]["local"], &nodes[0]["error"]),
            (&json!(id), &json!(true), &json!(null))
        );
        lives(&["cfg", "nodes"]);
        lives(&["cfg", "reopen-logs"]);
        assert_fails(&run(node, &["cfg", "kill", "99", "nobody"]), 1, &["CS_ERR_NOT_EXIST"]);
        let mut watch = command(node, &["-v", "cfg", "watch"]).spawn();
        eventually("watching", || watch.stderr().contains("tracking"));
        assert!(watch.is_running());
    }

    assert_eq!(document(&["quorum", "status"])["total_votes"], json!(1));
    assert_eq!(document(&["quorum", "nodes"])[0]["node_id"], json!(id));
    for args in [
        &["quorum", "status", "--check"][..],
        &["quorum", "nodes"],
        &["quorum", "watch", "--count", "1"],
        &["quorum", "expected", "1"],
        &["quorum", "votes", "1"],
        &["quorum", "unregister-qdevice"],
        &["cmap", "list"],
        &["cmap", "set", "my.key", "u32", "1"],
        &["cmap", "increment", "my.key"],
        &["cmap", "decrement", "my.key"],
        &["cmap", "get", "my.key"],
        &["cpg", "groups"],
        &["cpg", "members", "g"],
        &["cpg", "send", "g", "text"],
    ] {
        lives(args);
    }
    let loaded = command(node, &["cmap", "load", "-"]).input("my.other u32 1\n").run();
    assert_eq!((loaded.code(), loaded.stderr.as_str()), (0, ""));
    let watch = command(node, &["-v", "--json", "cmap", "watch", "my.", "--count", "1"]).spawn();
    eventually("watching", || watch.stderr().contains("watching"));
    lives(&["cmap", "delete", "my.key"]);
    assert_eq!(lines(&watch.wait().success())[0]["event"], json!("delete"));
    if version() >= NODE_STATUS {
        lives(&["cmap", "list", "--map", "stats", "stats.ipcs.", "stats.pg.", "stats.srp."]);
    }
    let joined =
        command(node, &["--json", "cpg", "join", "g", "--count", "1"]).input("text\n").run();
    let joined = lines(&joined.success());
    let message = joined.iter().find(|line| line["event"] == json!("deliver")).unwrap();
    assert_eq!((&message["node_id"], &message["text"]), (&json!(id), &json!("text")));

    // The node is in the list without its id.
    let member = command(node, &["cpg", "join", "g"]).interactive().spawn();
    member.wait_stdout("confchg");
    let told = &document(&["cpg", "groups"])[0]["members"][0];
    assert_eq!((&told["name"], &told["addresses"]), (&json!(null), &json!([address])), "{told}");

    // The map changes with this, and so may what the daemon takes its addresses for.
    if version() >= NODE_STATUS {
        lives(&["cfg", "reload"]);
        assert_eq!(document(&["cfg", "links"]), status["links"]);
        lives(&["status"]);
        assert_eq!(document(&["doctor"])["ok"], json!(true));
    }
}
