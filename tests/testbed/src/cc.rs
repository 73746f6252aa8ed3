//! C programs, to compare with the C libraries.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use super::state::State;
use super::{find_program, skip_because};

/// Compiles a C program and links it with these libraries (`["cmap", "qb"]`). The same program is
/// compiled once in a test process.
///
/// Returns `None` after printing why if there is no compiler or if headers or libraries are
/// missing.
///
/// # Panics
/// Instead of returning `None` when `COROSYNC_IPC_REQUIRE_DAEMON=1`; and if the program is wrong.
#[track_caller]
pub fn cc(source: &str, libraries: &[&str]) -> Option<PathBuf> {
    // Held while compiling, so that nobody gets a program which is not complete.
    static COMPILED: Mutex<Option<HashMap<u64, PathBuf>>> = Mutex::new(None);
    let mut hasher = DefaultHasher::new();
    (source, libraries).hash(&mut hasher);
    let key = hasher.finish();

    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = compiled.get_or_insert_default();
    if let Some(program) = compiled.get(&key) {
        return Some(program.clone());
    }
    let Some(compiler) = find_program("cc") else {
        skip_because("no C compiler");
        return None;
    };
    let program = State::get().folder.join(format!("c-{key:x}"));
    let file = program.with_extension("c");
    fs::write(&file, source).expect("cannot write a C program");
    let run =
        |command: &mut Command| -> Output { command.output().expect("cannot run the C compiler") };

    let headers = run(Command::new(&compiler).arg("-E").arg(&file));
    if !headers.status.success() {
        skip_because(&format!(
            "C headers are missing: {}",
            String::from_utf8_lossy(&headers.stderr)
        ));
        return None;
    }
    let mut command = Command::new(&compiler);
    command.args(["-g", "-O1", "-Wall", "-pthread", "-o"]).arg(&program).arg(&file);
    let built = run(command.args(libraries.iter().map(|library| format!("-l{library}"))));
    let message = String::from_utf8_lossy(&built.stderr);
    if !built.status.success() && message.contains("cannot find -l") {
        skip_because(&format!("C libraries are missing: {message}"));
        return None;
    }
    assert!(built.status.success(), "the C program is wrong: {message}");
    compiled.insert(key, program.clone());
    Some(program)
}
