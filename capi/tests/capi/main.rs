//! The C libraries, as `install` makes them, beside corosync's own: the same C programs over both,
//! corosync's own programs, their symbols, and static programs.

mod differential;
mod embedded;
mod programs;
mod static_programs;
mod symbols;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;
use testbed::{copy_for_all, find_program, skip_because};

/// The libraries: name, and number of the ABI.
const LIBRARIES: [(&str, u32); 6] =
    [("cpg", 4), ("cmap", 4), ("quorum", 5), ("votequorum", 8), ("cfg", 7), ("corosync_common", 4)];

fn capi() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `install` for a target; `None` for this machine.
fn install(target: Option<&str>) -> TempDir {
    let prefix = tempfile::tempdir().expect("there is room");
    let run = Command::new(capi().join("install"))
        .arg(prefix.path())
        .args(target)
        .output()
        .expect("there is a shell");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    // Every user and every node reads it.
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(prefix.path()).status();
    assert!(open.is_ok_and(|status| status.success()));
    prefix
}

/// Where `install` put the libraries for this machine.
fn installed() -> PathBuf {
    static INSTALLED: OnceLock<TempDir> = OnceLock::new();
    INSTALLED.get_or_init(|| install(None)).path().to_owned()
}

/// Compiles one of the C programs with the installed headers and libraries; `None` without a
/// compiler.
fn compile(program: &str, libraries: &[&str]) -> Option<PathBuf> {
    if find_program("cc").is_none() {
        skip_because("no C compiler");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let compiled = folder.path().join(program);
    let run = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-pthread", "-I"])
        .arg(installed().join("include"))
        .arg(capi().join("tests/capi/programs").join(format!("{program}.c")))
        .arg("-o")
        .arg(&compiled)
        .arg("-L")
        .arg(installed().join("lib"))
        .args(libraries.iter().map(|library| format!("-l{library}")))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(copy_for_all(&compiled))
}
