//! podman inside a node.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;
use testbed::{Node, NodeCommand, eventually, lacks, skip};

use crate::page::{IMAGE, Recipe, containerfile};

/// The mark of what the testbed started, by which it ends what is left behind.
const OWNER: &str = "COROSYNC_IPC_TEST_OWNER";

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
        let folder = testbed::folder();
        let podman = Self { node, folder };
        let owner = node.command("printenv").arg(OWNER).run().success();
        fs::write(podman.file("containers.conf"), config(owner.trim_end())).unwrap();
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
        self.command(&["run", "--rm", "--interactive", "--pull", "never"])
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
        // podman goes on in the background after a container has ended.
        let name = self.folder.path().file_name().unwrap().as_bytes();
        let is_in = |line: &[u8]| line.windows(name.len()).any(|part| part == name);
        let is_in_use = || {
            let mut processes = fs::read_dir("/proc").unwrap().flatten();
            processes.any(|process| {
                fs::read(process.path().join("cmdline")).is_ok_and(|line| is_in(&line))
            })
        };
        if !thread::panicking() {
            eventually("podman is done", || !is_in_use());
        }
    }
}

/// Debian's podman prefers another runtime, and asks for higher limits than a sandboxed root may
/// set. Containers, and conmon which looks after them, have only the environment that is given here.
fn config(owner: &str) -> String {
    format!(
        r#"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
env = ["{OWNER}={owner}"]
[engine]
cgroup_manager = "cgroupfs"
conmon_env_vars = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "{OWNER}={owner}"]
runtime = "runc"
"#
    )
}
