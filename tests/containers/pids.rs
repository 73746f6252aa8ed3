//! Members of a cpg group in different pid namespaces.

use testbed::{Cluster, Process};

use crate::page::Recipe;
use crate::podman::{Podman, skips};
use crate::recipes::{simplest, transports};

const HEADING: &str = "## cpg and pid namespaces";

#[test]
fn containers_whose_programs_have_the_same_pid_collide_unless_they_choose_another() {
    if skips() {
        return;
    }
    for &transport in transports() {
        let cluster = Cluster::builder().ipc_type(transport).start();
        let podman = Podman::new(cluster.node(1));
        let first = podman.run(&simplest(), &["cpg", "join", "g"]).interactive().spawn();
        first.wait_stdout("members 1/1,");

        let second = podman.run(&simplest(), &["cpg", "send", "g", "lost"]).run();
        assert_eq!((second.code(), &*second.stdout), (1, ""), "{second:?}");
        for word in ["process 1 of this node", "--pid-at-daemon", "CS_ERR_EXIST"] {
            assert!(second.stderr.contains(word), "no {word:?} in {second:?}");
        }
        let doctor = podman.run(&simplest(), &["doctor"]).run().success();
        assert!(doctor.contains("\nProcess:          1 here, "), "{doctor}");
        assert!(doctor.contains(" for the daemon, which is in another pid namespace"), "{doctor}");

        let recipes = Recipe::all_below(HEADING);
        for recipe in &recipes {
            let doctor = podman.run(recipe, &["doctor"]).run().success();
            assert_ne!(doctor.contains("\nProcess:"), recipe.has("--pid host"), "{doctor}");
        }
        // Those that choose join the same group, and stay.
        let others: Vec<Process> = recipes
            .iter()
            .map(|recipe| {
                let [cpg, join, group, options @ ..] = &recipe.args[..] else {
                    panic!("{recipe:?}")
                };
                assert_eq!([&**cpg, &**join, &**group], ["cpg", "join", "my-group"]);
                let options = options.iter().map(String::as_str);
                let args: Vec<&str> = ["cpg", "join", "g"].into_iter().chain(options).collect();
                let member = podman.run(recipe, &args).interactive().spawn();
                member.wait_stdout("members 1/1 ");
                member
            })
            .collect();
        let mut sender = others.into_iter().next().unwrap();
        sender.write("hello\n");
        first.wait_stdout(": hello\n");
        let seen = first.stdout();
        let last = seen.lines().rfind(|line| line.contains("confchg")).unwrap();
        assert_eq!(last.matches(" 1/").count(), 1 + recipes.len() + 1, "{last}");
    }
}

/// corosync in a container of its own does not see the processes of others.
#[test]
fn a_daemon_that_does_not_see_a_client_is_told_its_own_pid() {
    if skips() {
        return;
    }
    let cluster = Cluster::one();
    let podman = Podman::new(cluster.node(1));
    let shared = simplest().without("--network").with("--network none --ipc shareable");
    let daemon = podman.run(&shared.without("--volume").with("--name daemon"), &["serve"]).spawn();
    daemon.wait_stdout("serving node 1");
    let mut client = simplest().without("--volume").without("--network");
    client = client.with("--network container:daemon --ipc container:daemon");
    let doctor = podman.run(&client, &["doctor"]).run().success();
    assert!(doctor.contains("\nProcess:          1 here, not visible to the daemon"), "{doctor}");
    let args = ["cpg", "join", "g", "--count", "1", "--pid-at-daemon"];
    let alone = podman.run(&client, &args).input("hello\n").run();
    assert!(alone.stdout.contains("g 1/1: hello"), "{alone:?}");
    // In the daemon's pid namespace it is another process.
    let beside = podman.run(&client.with("--pid container:daemon"), &args).input("hello\n").run();
    assert!(beside.stdout.contains(": hello\n"), "{beside:?}");
    assert!(!beside.stdout.contains("g 1/1: "), "{beside:?}");
}
