//! Each recipe of the page, over rings and over datagrams, and what fails without its options.

use testbed::{Cluster, version};

use crate::page::{Recipe, pods};
use crate::podman::{Podman, skips};

const HEADING: &str = "### podman or docker";

/// How the daemon's messages travel: the default, and `qb_ipc_type: socket`, which corosync has
/// since 2.1.1.
pub(crate) fn transports() -> &'static [Option<&'static str>] {
    if version() >= [2, 1, 1, 0] { &[None, Some("socket")] } else { &[None] }
}

/// Those of the page that are this.
#[track_caller]
fn recipes(is: impl Fn(&Recipe) -> bool) -> Vec<Recipe> {
    let recipes: Vec<_> = Recipe::all_below(HEADING).into_iter().filter(|one| is(one)).collect();
    assert!(!recipes.is_empty(), "the page has no such recipe");
    recipes
}

fn shares_network(recipe: &Recipe) -> bool {
    recipe.has("--network host")
}

fn is_other_user(recipe: &Recipe) -> bool {
    recipe.has("--user 1000:1000") || recipe.has("--uidmap 0:100000:65536")
}

/// The first recipe: the host's network and /dev/shm.
pub(crate) fn simplest() -> Recipe {
    Recipe::all_below(HEADING).swap_remove(0)
}

#[test]
fn recipes_that_share_the_network_reach_the_daemon() {
    if skips() {
        return;
    }
    for &transport in transports() {
        let cluster = Cluster::builder().ipc_type(transport).start();
        let podman = Podman::new(cluster.node(1));
        // Without SELinux this only shows that podman takes the option.
        let unlabelled = Recipe::all_below("### SELinux");
        let shared = recipes(|recipe| shares_network(recipe) && !is_other_user(recipe));
        for recipe in shared.into_iter().chain(unlabelled) {
            assert_reaches(&podman, &recipe, &format!("{transport:?}"));
        }
    }
}

#[test]
fn recipes_of_other_users_need_uidgid() {
    if skips() {
        return;
    }
    for &transport in transports() {
        let refuses = Cluster::builder().ipc_type(transport).start();
        let podman = Podman::new(refuses.node(1));
        let all = recipes(is_other_user);
        for recipe in &all {
            assert_fails(&podman, recipe, 1, &["CS_ERR_ACCESS", "uidgid"]);
            assert_doctor(&podman, recipe, 1, &["failed at the handshake", "uidgid {"]);
        }
        drop(podman);
        let uidgid = |uid: u32| format!("uidgid {{\n  uid: {uid}\n}}\n");
        let allows = Cluster::builder()
            .ipc_type(transport)
            .extra_config(&(uidgid(1000) + &uidgid(100_000)))
            .start();
        let podman = Podman::new(allows.node(1));
        for recipe in &all {
            assert_reaches(&podman, recipe, &format!("{transport:?}"));
        }
    }
}

#[test]
fn recipes_with_sockets_in_a_directory_need_no_network() {
    if skips() {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    let podman = Podman::new(cluster.node(1));
    for recipe in recipes(|recipe| !shares_network(recipe)) {
        assert_reaches(&podman, &here(recipe), "None");
    }
}

#[test]
fn what_is_not_shared_is_named() {
    if skips() {
        return;
    }
    let recipe = simplest();
    for &transport in transports() {
        let cluster = Cluster::builder().ipc_type(transport).start();
        let podman = Podman::new(cluster.node(1));
        // A datagram connection has a control file there.
        let private_shm = recipe.clone().without("--volume");
        assert_fails(&podman, &private_shm, 3, &["CS_ERR_NOT_EXIST", "has one of its own"]);
        assert_doctor(&podman, &private_shm, 3, &["failed at the rings", "mount it here"]);

        let private_network = recipe.clone().without("--network").with("--network none");
        assert_fails(&podman, &private_network, 3, &["abstract address", "network namespace"]);
        assert_doctor(&podman, &private_network, 3, &["failed at the socket", "share the host's"]);

        let read_only_shm =
            recipe.clone().without("--volume").with("--volume /dev/shm:/dev/shm:ro");
        assert_fails(&podman, &read_only_shm, 3, &["mounted read-only"]);
        assert_doctor(&podman, &read_only_shm, 3, &["failed at the rings", "for writing"]);
    }
}

#[test]
fn datagrams_need_the_network_although_sockets_are_in_a_directory() {
    if skips() {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).ipc_type(Some("socket")).start();
    let podman = Podman::new(cluster.node(1));
    for recipe in recipes(|recipe| !shares_network(recipe)) {
        let recipe = here(recipe);
        assert_fails(&podman, &recipe, 3, &["datagram socket", "network namespace"]);
        assert_doctor(&podman, &recipe, 3, &["failed at the rings", "qb_ipc_type: socket"]);
        let shared = recipe.without("--network").with("--network host");
        assert_reaches(&podman, &shared, "datagrams");
    }
}

#[test]
fn a_user_namespace_trusts_only_whom_it_is_told() {
    if skips() {
        return;
    }
    let cluster = Cluster::one();
    let podman = Podman::new(cluster.node(1));
    for recipe in recipes(|recipe| recipe.has("--uidmap 0:100000:65536")) {
        let untrusting = recipe.without("--env");
        assert_fails(&podman, &untrusting, 1, &["uid 65534", "CS_ERR_SECURITY"]);
        assert_doctor(&podman, &untrusting, 1, &["at the credentials", "--server-uid 65534"]);
    }
}

/// Without a group podman and docker take 0, which corosync lets in like root.
#[test]
fn a_user_of_group_0_needs_no_uidgid() {
    if skips() {
        return;
    }
    let cluster = Cluster::one();
    let podman = Podman::new(cluster.node(1));
    assert_reaches(&podman, &simplest().with("--user 1000"), "group 0");
}

#[test]
fn pods_reach_the_daemon() {
    const EVENT: &str = r#""event":"quorum","members":[1],"quorate":true"#;
    if skips() {
        return;
    }
    let [in_hosts_network, alone] = pods();
    for &transport in transports() {
        let cluster = Cluster::builder().ipc_type(transport).start();
        Podman::new(cluster.node(1)).play(&in_hosts_network, &[], EVENT);
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    assert!(alone.contains("path: /run\n"), "{alone}");
    let alone = alone.replace("path: /run\n", "path: /run/tmp\n");
    Podman::new(cluster.node(1)).play(&alone, &["--network", "none"], EVENT);
}

/// Debian's libqb has its sockets in /tmp, and a node has that at this path too.
fn here(mut recipe: Recipe) -> Recipe {
    for option in &mut recipe.options {
        if let Some(rest) = option.strip_prefix("/run:") {
            *option = format!("/run/tmp:{rest}");
        }
    }
    recipe
}

/// The command, a member of a group and the doctor in containers of a recipe.
#[track_caller]
fn assert_reaches(podman: &Podman<'_>, recipe: &Recipe, group: &str) {
    let what = recipe.options.join(" ");
    let status = podman.run(recipe, &["status"]).run();
    assert!(status.stdout.contains("\nQuorate:          yes\n"), "{what}: {status:?}");
    assert_eq!((status.code(), &*status.stderr), (0, ""), "{what}");
    let metrics = podman.run(recipe, &["metrics"]).run();
    assert!(metrics.stdout.contains("\nha_cluster_scrape_success{collector=\"corosync\"} 1\n"));
    assert_eq!((metrics.code(), &*metrics.stderr), (0, ""), "{what}");
    let join = podman.run(recipe, &["cpg", "join", group, "--count", "1"]).input("hello\n").run();
    assert!(join.stdout.contains(&format!(": {group} 1/1: hello\n")), "{what}: {join:?}");
    assert_eq!(join.code(), 0, "{what}: {join:?}");
    assert_doctor(podman, recipe, 0, &["cmap        ok: ", "cpg         ok: "]);
}

/// The command fails with this exit status and one line with these words.
#[track_caller]
fn assert_fails(podman: &Podman<'_>, recipe: &Recipe, status: i32, words: &[&str]) {
    let output = podman.run(recipe, &["status"]).run();
    assert_eq!((output.code(), &*output.stdout), (status, ""), "{recipe:?}: {output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{recipe:?}: no {word:?} in {output:?}");
    }
}

/// The doctor ends with this exit status and says these words.
#[track_caller]
fn assert_doctor(podman: &Podman<'_>, recipe: &Recipe, status: i32, words: &[&str]) {
    let doctor = podman.run(recipe, &["doctor"]).run();
    assert_eq!(doctor.code(), status, "{recipe:?}: {doctor:?}");
    for word in words {
        assert!(doctor.stdout.contains(word), "{recipe:?}: no {word:?} in {doctor:?}");
    }
}
