//! The `corosync-ipc` command: what corosync-cmapctl, -quorumtool, -cpgtool and -cfgtool do, and
//! JSON. See `corosync-ipc help`.
//!
//! It uses nothing but the public API of the library. `cli` reads the command line. Each file of
//! `commands` has a command's arguments, their help and what it does. `report` turns snapshots into
//! text; `output` writes it.

mod cli;
mod commands;
mod context;
mod duration;
mod embedded;
#[cfg(feature = "exporter")]
mod exporter;
mod failure;
mod hook;
mod log;
mod outlet;
mod output;
mod report;
mod signals;
mod watch;

use std::process::ExitCode;

use crate::failure::Failure;

fn main() -> ExitCode {
    let (json, result) = cli::run();
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Answer(status)) => ExitCode::from(status),
        Err(Failure::Signal(signal)) => signals::die_of(signal),
        Err(Failure::Failed { status, text, cs_error }) => {
            if json {
                output::complain_json(&text, cs_error.as_deref(), status);
            } else {
                output::complain(&text);
            }
            ExitCode::from(status)
        }
    }
}
