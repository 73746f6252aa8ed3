//! A C program over libcpg and libcmap in one static file, linked against musl, alone in a root
//! directory.

use std::process::Command;

use testbed::{Cluster, copy_for_all, find_program, skip, skip_because};

use super::{capi, install};

/// Makes the root directory in a mount namespace of its own, with the program and the rings in it.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs empty /mnt
mkdir /mnt/rings
cp "$0" /mnt/program
mount --bind /dev/shm /mnt/rings
mount -o remount,ro /mnt
cd /mnt
exec env -i COROSYNC_IPC_SHM_ROOT=/rings "$(command -v chroot)" /mnt /program
"#;

#[test]
fn a_static_program_over_libcpg_runs_in_an_empty_root_directory() {
    if skip() {
        return;
    }
    if find_program("musl-gcc").is_none() {
        return skip_because("no musl-gcc");
    }
    let prefix = install(Some("x86_64-unknown-linux-musl"));
    let program = prefix.path().join("program");
    let run = Command::new("musl-gcc")
        .args(["-static", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(prefix.path().join("include"))
        .arg(capi().join("tests/capi/programs/static.c"))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(prefix.path().join("lib"))
        .args(["-lcpg", "-lcmap"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let headers = Command::new("readelf").arg("-ldW").arg(&program).output().unwrap();
    let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
    assert!(!headers.contains("INTERP") && !headers.contains("NEEDED"), "{headers}");

    let cluster = Cluster::builder().filesystem_sockets(false).start();
    let output = cluster
        .node(1)
        .command("unshare")
        .args(["--mount", "sh", "-c", SCRIPT])
        .arg(copy_for_all(&program))
        .run()
        .success();
    assert!(output.contains("delivered by node 1: hello"), "{output}");
}
