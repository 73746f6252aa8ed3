//! The main commands, and C programs, against `corosync-ipc serve` of each generation of libqb, over
//! each of its transports.

use corosync_ipc::Endpoint;
use serde_json::json;
use testbed::{Cluster, eventually, interop, skip};

use super::served::{Served, serve};
use super::{assert_fails, command, json, lines, ok, program};

/// What `serve --generation` takes, and whether that libqb has datagrams.
const GENERATIONS: [(&str, bool); 5] = [
    ("libqb-0.10", false),
    ("libqb-0.13", false),
    ("libqb-0.14", false),
    ("libqb-0.15", true),
    ("libqb-1.0.4", true),
];

/// Calls a test with each generation and each transport that it has.
fn each(test: impl Fn(&str, &str)) {
    for (generation, has_datagrams) in GENERATIONS {
        test(generation, "shm");
        if has_datagrams {
            test(generation, "socket");
        }
    }
}

#[test]
fn the_main_commands_speak_with_each_generation_over_each_transport() {
    each(|generation, transport| {
        let what = format!("{generation} {transport}");
        let arguments = ["--nodes", "1,2", "--generation", generation, "--transport", transport];
        let mut served = Served::with(&arguments);
        let status = json(&served, &["status"]);
        assert_eq!((&status["quorate"], &status["node_id"]), (&json!(true), &json!(1)), "{what}");
        assert_eq!(json(&served, &["quorum", "nodes"]).as_array().unwrap().len(), 2, "{what}");
        assert_eq!(ok(&served, &["cfg", "local"]), "1\n", "{what}");
        assert!(ok(&served, &["cfg", "addresses", "2"]).contains("127.0.0.2"), "{what}");

        // Values up to the largest, whose notification has two of them.
        let watched =
            command(&served, &["-v", "--json", "cmap", "watch", "the.", "--count", "2"]).spawn();
        let large = "x".repeat(16_000);
        let key = |value: &str| {
            assert_eq!(ok(&served, &["cmap", "set", "the.key", "str", value]), "", "{what}");
        };
        eventually("watching", || watched.stderr().contains("watching"));
        key("small");
        key(&large);
        assert_eq!(ok(&served, &["cmap", "get", "the.key"]), format!("{large}\n"), "{what}");
        assert_eq!(json(&served, &["cmap", "list", "the."]).as_array().unwrap().len(), 1, "{what}");
        let changes = lines(&watched.wait().success());
        assert_eq!(changes.last().unwrap()["value"], json!(large), "{what}");

        // A message in one piece, and one that is longer than a ring.
        let joined =
            command(&served, &["cpg", "join", "group", "--count", "2"]).interactive().spawn();
        joined.wait_stdout("confchg");
        let send = |message: String| {
            command(&served, &["cpg", "send", "group"]).input(message).run().success();
        };
        send("short\n".to_owned());
        // corosync 1.99 has no fragments.
        let long = "y".repeat(if generation == "libqb-0.10" { 1 << 19 } else { 1 << 21 });
        send(format!("{long}\n"));
        let heard = joined.wait().success();
        assert!(heard.contains("short") && heard.contains(&long), "{what}");
        assert!(served.process().is_running(), "{what}");
    });
}

#[test]
fn a_generation_without_datagrams_serves_none() {
    for (generation, has_datagrams) in GENERATIONS {
        let folder = testbed::shm_folder();
        let arguments = ["--generation", generation, "--transport", "socket"];
        if !has_datagrams {
            let refused = serve(folder.path()).args(arguments).run();
            assert_fails(&refused, 2, &["libqb has datagrams since 0.15"]);
        }
    }
}

/// C clients compute the sizes of rings as their own libqb does, so that one of 1.0 and later speaks
/// with 0.15 and later.
#[test]
fn c_programs_speak_with_each_generation_that_has_their_rings() {
    let Some(c) = (if skip() { None } else { interop::cpg_program() }) else { return };
    for (generation, transport) in
        ["libqb-0.15", "libqb-1.0.4"].into_iter().flat_map(|it| [(it, "shm"), (it, "socket")])
    {
        let namespaces = Cluster::builder().create();
        let node = namespaces.node(1);
        let served = node.command(program()).args(["serve", "--abstract"]);
        let mut served =
            served.args(["--generation", generation, "--transport", transport]).spawn();
        served.wait_stdout("serving node 1");
        node.run(|| interop::both_mean_the_same_groups(&Endpoint::new(), || node.command(&c)));
        assert!(served.is_running(), "{generation} {transport}");
    }
}
