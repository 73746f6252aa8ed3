//! Reads any bytes as a command line, as a file for `cmap load`, and as input of `decode`.

#![no_main]
#![allow(dead_code, reason = "the command is not run")]

#[path = "../../src/bin/corosync-ipc/cli.rs"]
mod cli;
#[path = "../../src/bin/corosync-ipc/commands/mod.rs"]
mod commands;
#[path = "../../src/bin/corosync-ipc/context.rs"]
mod context;
#[path = "../../src/bin/corosync-ipc/duration.rs"]
mod duration;
#[path = "../../src/bin/corosync-ipc/embedded.rs"]
mod embedded;
#[path = "../../src/bin/corosync-ipc/failure.rs"]
mod failure;
#[path = "../../src/bin/corosync-ipc/hook.rs"]
mod hook;
#[path = "../../src/bin/corosync-ipc/log.rs"]
mod log;
#[path = "../../src/bin/corosync-ipc/outlet.rs"]
mod outlet;
#[path = "../../src/bin/corosync-ipc/output.rs"]
mod output;
#[path = "../../src/bin/corosync-ipc/report.rs"]
mod report;
#[path = "../../src/bin/corosync-ipc/signals.rs"]
mod signals;
#[path = "../../src/bin/corosync-ipc/watch.rs"]
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((which, rest)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            let words = rest.split(|byte| *byte == 0);
            let words = words.map(|word| OsString::from_vec(word.to_vec()));
            let _ = cli::parse([OsString::from("corosync-ipc")].into_iter().chain(words));
        }
        1 => {
            let _ = std::str::from_utf8(rest).map(commands::cmap::load::parse);
        }
        _ => {
            let _ = commands::decode::from_hex(rest);
        }
    }
});
