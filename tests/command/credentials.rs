//! Servers of other users than root.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use corosync_ipc::{Endpoint, Error, cmap};
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{NodeCommand, Process, skip};

use super::served::{Served, serve};
use super::{NOBODY, assert_fails, outside, program};

/// A user who is nobody else.
const USER: u32 = 12345;

/// A server that nobody runs, the user.
struct Nobodys {
    folder: TempDir,
    process: Process,
}

impl Nobodys {
    fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("corosync-ipc-nobody-").tempdir_in("/dev/shm").unwrap();
        chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        let process = serve(folder.path()).user(NOBODY, NOBODY).spawn();
        process.wait_stdout("\n");
        Self { folder, process }
    }

    fn command(&self, args: &[&str]) -> NodeCommand {
        at(NodeCommand::here(program()), self.folder.path()).args(args)
    }
}

fn at(command: NodeCommand, folder: &Path) -> NodeCommand {
    command.env("COROSYNC_IPC_SOCKET_DIR", folder).env("COROSYNC_IPC_SHM_ROOT", folder)
}

#[test]
fn a_server_of_another_user_is_refused_until_it_is_allowed() {
    if skip() {
        return;
    }
    let served = Nobodys::start();
    let pid = served.process.pid();
    let refusal =
        format!("is served by uid 65534 (process {pid}), which is neither root nor this user");
    let words =
        [&refusal, "--server-uid 65534", "COROSYNC_IPC_SERVER_UID=65534", "CS_ERR_SECURITY"];
    for args in [
        &["cfg", "local"][..],
        &["status"],
        &["cpg", "join", "g"],
        &["cmap", "list"],
        &["quorum", "watch"],
    ] {
        assert_fails(&served.command(args).run(), 1, &words);
    }
    let local = &["cfg", "local"];
    assert_fails(&served.command(local).env("COROSYNC_IPC_SERVER_UID", "1").run(), 1, &words);
    assert_fails(&served.command(local).args(["--server-uid", "1"]).run(), 1, &words);

    assert_eq!(served.command(local).args(["--server-uid", "65534"]).run().success(), "1\n");
    assert_eq!(
        served
            .command(&["--server-uid", "1", "--server-uid", "65534", "cfg", "local"])
            .run()
            .success(),
        "1\n"
    );
    assert_eq!(
        served.command(local).env("COROSYNC_IPC_SERVER_UID", "65534").run().success(),
        "1\n"
    );
    assert_eq!(
        served.command(local).env("COROSYNC_IPC_SERVER_UID", "1, 65534").run().success(),
        "1\n"
    );
    let endpoint = Endpoint::new().socket_dir(served.folder.path()).shm_root(served.folder.path());
    let refused = cmap::Client::connect_to(&endpoint).map(drop);
    assert!(matches!(refused, Err(Error::UntrustedServer { uid: NOBODY, .. })), "{refused:?}");
    let client = cmap::Client::connect_to(&endpoint.server_uids([NOBODY])).unwrap();
    assert_eq!(client.peer_credentials().uid, NOBODY);
    client.set("credentials.test", 1_u8).unwrap();

    // The option wins.
    let command = served.command(local).env("COROSYNC_IPC_SERVER_UID", "65534");
    assert_fails(&command.args(["--server-uid", "1"]).run(), 1, &words);
    // Its own user needs none.
    assert_eq!(served.command(local).user(NOBODY, NOBODY).run().success(), "1\n");
}

#[test]
fn the_doctor_says_who_serves_and_how_to_allow_it() {
    if skip() {
        return;
    }
    let served = Nobodys::start();
    let output = served.command(&["doctor"]).run();
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(
        output
            .stdout
            .contains("cmap        failed at the credentials: cmap is served by uid 65534"),
        "{output:?}"
    );
    let advice = format!("-> end process {} and start corosync, or", served.process.pid());
    assert!(
        output.stdout.contains(&advice) && output.stdout.contains("--server-uid 65534"),
        "{output:?}"
    );

    let output = served.command(&["doctor", "--json"]).run();
    let document: Value = serde_json::from_str(&output.stdout).unwrap();
    let cmap = &document["services"][0];
    assert_eq!(
        (&cmap["failed_at"], &cmap["cs_error"]),
        (&json!("credentials"), &json!("CS_ERR_SECURITY"))
    );
    let output =
        served.command(&["doctor", "--json"]).env("COROSYNC_IPC_SERVER_UID", "65534").run();
    let document: Value = serde_json::from_str(&output.success()).unwrap();
    assert_eq!(document["environment"]["COROSYNC_IPC_SERVER_UID"], json!("65534"));
    assert_eq!(document["services"][0]["uid"], json!(NOBODY));
}

#[test]
fn users_are_numbers() {
    for uid in ["hacluster", "-1", "", "1,,2"] {
        let output = outside(&["cfg", "local", &format!("--server-uid={uid}")]);
        assert_eq!(output.code(), 2, "{uid}: {output:?}");
    }
    let output = NodeCommand::here(program())
        .args(["cfg", "local"])
        .env("COROSYNC_IPC_SERVER_UID", "root")
        .run();
    assert_fails(&output, 2, &["COROSYNC_IPC_SERVER_UID: \"root\" is not a user id"]);
}

#[test]
fn in_a_user_namespace_root_outside_is_refused_and_can_be_allowed() {
    if skip() {
        return;
    }
    // As in a rootless container: a user of the host is root, and the host's root is nobody.
    let inside =
        |program: &Path| NodeCommand::here("unshare").args(["-U", "-r"]).arg(program).user(USER, 0);
    let probe = inside(Path::new("true")).run();
    if !probe.is_success() {
        println!(
            "in_a_user_namespace_root_outside_is_refused_and_can_be_allowed: skipped: {probe:?}"
        );
        return;
    }
    let served = Served::start();
    fs::set_permissions(served.folder(), Permissions::from_mode(0o755)).unwrap();
    let command = |args: &[&str]| at(inside(&program()), served.folder()).args(args);
    let stands_for = "uid 65534 here stands for all users outside of this user namespace, such as the host's root";
    let words = ["is served by uid 65534", "--server-uid 65534", stands_for];
    assert_fails(&command(&["cfg", "local"]).run(), 1, &words);
    let output = command(&["doctor"]).run();
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stdout.contains(
        "-> this is a user namespace: if the server is the host's root, allow it with --server-uid"
    ));

    assert_eq!(command(&["--server-uid", "65534", "cfg", "local"]).run().success(), "1\n");
    // Outside, the same user needs no option.
    let outside =
        at(NodeCommand::here(program()), served.folder()).args(["cfg", "local"]).user(USER, 0);
    assert_eq!(outside.run().success(), "1\n");
}
