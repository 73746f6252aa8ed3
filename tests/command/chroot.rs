//! The static file alone in a root directory, with the daemon's sockets and rings and nothing else:
//! no `/proc`, `/sys`, `/etc` or `/dev`, and nothing that can be written to but the rings.

#![cfg(target_env = "musl")]

use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use testbed::{Cluster, NodeCommand, skip};

use super::served::{Place, Served};
use super::{json, lines, program};

/// Makes the root directory in a mount namespace of its own: `sh -c SCRIPT PROGRAM SOCKETS RINGS
/// ARGUMENT...` runs the program in it.
const SCRIPT: &str = r#"
set -e
program=$0 sockets=$1 rings=$2
shift 2
mount -t tmpfs empty /mnt
mkdir /mnt/sockets /mnt/rings
cp "$program" /mnt/corosync-ipc
mount --bind "$sockets" /mnt/sockets
mount --bind "$rings" /mnt/rings
mount -o remount,ro /mnt
test "$(ls -A /mnt)" = "corosync-ipc
rings
sockets"
cd /mnt
exec chroot /mnt /corosync-ipc --socket-dir /sockets --shm-root /rings "$@"
"#;

/// A daemon whose sockets and rings are in these directories.
struct Shared<'a, P> {
    place: &'a P,
    sockets: &'a str,
    rings: &'a str,
}

impl<P: Place> Shared<'_, P> {
    /// The command in the root directory.
    fn command(&self, args: &[&str]) -> NodeCommand {
        let command = self.place.at(Path::new("unshare")).args(["--mount", "sh", "-c", SCRIPT]);
        command.arg(program()).args([self.sockets, self.rings]).args(args)
    }
}

#[test]
fn in_an_empty_root_directory_it_speaks_with_corosync() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    let node = cluster.node(1);
    // Debian's libqb has its sockets in /tmp, others have them in /run.
    let doctor = json(node, &["doctor"]);
    let file = doctor["sockets_seen"]["files"][0].as_str().expect("a socket in a usual directory");
    let sockets = file.strip_suffix("/cmap").unwrap();
    it_speaks(&Shared { place: node, sockets, rings: "/dev/shm" });
}

#[test]
fn in_an_empty_root_directory_it_speaks_with_serve() {
    if skip() {
        return;
    }
    let served = Served::with(&["--client-shm-root", "/rings"]);
    let folder = served.folder().to_str().unwrap();
    it_speaks(&Shared { place: &served, sockets: folder, rings: folder });
}

fn it_speaks<P: Place>(shared: &Shared<'_, P>) {
    let run = |args: &[&str]| {
        let output = shared.command(args).run();
        assert_eq!(output.stderr, "", "{args:?}");
        output.success()
    };
    let status: Value = serde_json::from_str(&run(&["--json", "status"])).unwrap();
    assert_eq!((&status["quorate"], &status["node_id"]), (&json!(true), &json!(1)), "{status}");

    let mut member = shared.command(&["--json", "cpg", "join", "chroot"]).interactive().spawn();
    member.wait_stdout("confchg");
    member.write("from itself\n");
    member.wait_stdout("from itself");
    run(&["cpg", "send", "chroot", "from another"]);
    member.wait_stdout("from another");
    member.signal(Signal::SIGINT);
    let output = member.wait().stdout;
    let lines = lines(&output);
    let delivered =
        lines.iter().filter(|line| line["event"] == "deliver").map(|line| &line["text"]);
    assert_eq!(delivered.collect::<Vec<_>>(), ["from itself", "from another"], "{output}");

    let doctor: Value = serde_json::from_str(&run(&["--json", "doctor"])).unwrap();
    let unseen = doctor["errors"]["processes"]["error"].as_str().expect("no process is visible");
    assert!(unseen.starts_with("/proc: "), "{doctor}");
    let services = doctor["services"].as_array().unwrap();
    let configured = services.iter().filter(|service| service["configured"] == true);
    assert!(configured.clone().all(|service| service["ok"] == true), "{doctor}");
    assert!(configured.count() >= 5, "{doctor}");
}
