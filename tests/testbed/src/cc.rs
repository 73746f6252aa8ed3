//! C programs, to compare with the C libraries.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use super::state::State;
use super::{find_program, skip_because};

/// Compiles a C program and links it with these libraries (`["cmap", "qb"]`). The same program is
/// compiled once in a test process. `CC` chooses the compiler and its options, as for make(1): on
/// another processor than the machine's, one that makes programs for it.
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
    let chosen = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut options = chosen.split_whitespace();
    let Some(compiler) = options.next().and_then(find_program) else {
        skip_because("no C compiler");
        return None;
    };
    let compiler = || {
        let mut command = Command::new(&compiler);
        command.args(options.clone());
        command
    };
    let program = State::get().folder.join(format!("c-{key:x}"));
    let file = program.with_extension("c");
    fs::write(&file, source).expect("cannot write a C program");
    let run =
        |command: &mut Command| -> Output { command.output().expect("cannot run the C compiler") };

    let headers = run(compiler().arg("-E").arg(&file));
    if !headers.status.success() {
        skip_because(&format!(
            "C headers are missing: {}",
            String::from_utf8_lossy(&headers.stderr)
        ));
        return None;
    }
    let mut command = compiler();
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
