//! podman inside a node.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use testbed::{Node, NodeCommand, lacks, skip};

use crate::page::{IMAGE, Recipe, containerfile};

/// Whether containers cannot be run here; prints why.
#[must_use]
#[track_caller]
pub(crate) fn skips() -> bool {
    skip() || lacks("podman") || lacks("runc")
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
        let context = podman.folder.path().join("context");
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
        // Without limits of its own podman asks for more than a sandboxed root may set. With the
        // mark of this test process the testbed ends a container that is left behind.
        self.command(&["run", "--rm", "--interactive", "--pull", "never"])
            .args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"])
            .args(["--env", "COROSYNC_IPC_TEST_OWNER"])
            .args(&recipe.options)
            .arg(IMAGE)
            .args(args)
    }

    fn command(&self, args: &[&str]) -> NodeCommand {
        // podman takes at most 50 characters for the second. A node has a /run of its own.
        let root = self.folder.path().join("root");
        let run = Path::new("/run").join(self.folder.path().file_name().unwrap());
        self.node
            .command("podman")
            .args([Path::new("--root"), &root, Path::new("--runroot"), &run])
            .args([Path::new("--tmpdir"), &run])
            .args(["--runtime", "runc", "--cgroup-manager", "cgroupfs"])
            .args(args)
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Those of a test that failed.
        let _ = self.command(&["rm", "--all", "--force", "--time", "0"]).try_run();
    }
}
