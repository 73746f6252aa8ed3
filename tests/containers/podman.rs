//! podman inside a node.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use testbed::{Node, NodeCommand, eventually, lacks, skip};

use crate::page::{IMAGE, Recipe, containerfile};

/// Debian's podman prefers another runtime. Without limits of its own it asks for more than a
/// sandboxed root may set.
const CONFIG: &str = r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"#;

/// Whether containers cannot be run here; prints why.
#[must_use]
#[track_caller]
pub(crate) fn skips() -> bool {
    skip() || ["podman", "runc", "catatonit"].into_iter().any(lacks)
}

/// A podman whose "host" is a node: its network, its /dev/shm and its daemon. Its images and
/// containers are its own, so several run at the same time.
pub(crate) struct Podman<'a> {
    node: &'a Node,
    folder: TempDir,
}

impl<'a> Podman<'a> {
    /// With the image of the page, which holds the command under test.
    #[track_caller]
    pub(crate) fn new(node: &'a Node) -> Self {
        // Not in /tmp, which a node may hide.
        let folder = tempfile::Builder::new()
            .prefix("podman-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let podman = Self { node, folder };
        fs::write(podman.file("containers.conf"), CONFIG).unwrap();
        let context = podman.file("context");
        fs::create_dir(&context).unwrap();
        fs::write(context.join("Containerfile"), containerfile()).unwrap();
        let program = env!("CARGO_BIN_EXE_corosync-ipc");
        if fs::hard_link(program, context.join("corosync-ipc")).is_err() {
            fs::copy(program, context.join("corosync-ipc")).unwrap();
        }
        podman.command(&["build", "--quiet", "--tag", IMAGE]).arg(&context).run().success();
        podman
    }

    /// A container as the page says, but with these arguments of the command.
    pub(crate) fn run(&self, recipe: &Recipe, args: &[&str]) -> NodeCommand {
        // With the mark of this test process the testbed ends a container that is left behind.
        self.command(&["run", "--rm", "--interactive", "--pull", "never"])
            .args(["--env", "COROSYNC_IPC_TEST_OWNER"])
            .args(&recipe.options)
            .arg(IMAGE)
            .args(args)
    }

    /// Starts a pod, waits until its container has printed this, and removes it.
    #[track_caller]
    pub(crate) fn play(&self, pod: &str, options: &[&str], expected: &str) {
        // The image is in no registry.
        let image = format!("image: {IMAGE}\n");
        assert!(pod.contains(&image), "{pod}");
        let pod = pod.replace(&image, &format!("{image}      imagePullPolicy: Never\n"));
        fs::write(self.file("pod.yaml"), &pod).unwrap();
        let play = self.command(&["play", "kube"]).args(options).arg(self.file("pod.yaml"));
        let played = play.run();
        assert!(played.is_success(), "{pod}\n{played:?}");
        let container = format!("{IMAGE}-{IMAGE}");
        eventually(&format!("the pod prints {expected}"), || {
            let logs = self.command(&["logs", &container]).run();
            assert!(logs.is_success(), "{pod}\n{logs:?}");
            logs.stdout.contains(expected)
        });
        self.command(&["pod", "rm", "--force", "--time", "0", IMAGE]).run().success();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> NodeCommand {
        // podman takes at most 50 characters for the second. A node has a /run of its own.
        let root = self.file("root");
        let run = Path::new("/run").join(self.folder.path().file_name().unwrap());
        self.node
            .command("podman")
            .args([Path::new("--root"), &root, Path::new("--runroot"), &run])
            .args([Path::new("--tmpdir"), &run])
            .env("CONTAINERS_CONF", self.file("containers.conf"))
            .args(args)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Those of a test that failed.
        for kind in [&["rm"][..], &["pod", "rm"]] {
            let _ = self.command(kind).args(["--all", "--force", "--time", "0"]).try_run();
        }
    }
}
