//! The `corosync-ipc` command: what corosync-cmapctl, -quorumtool, -cpgtool and -cfgtool do, and
//! JSON. See `corosync-ipc help`.
//!
//! It uses nothing but the public API of the library. `cli` reads the command line. Each file of
//! `commands` has a command's arguments, their help and what it does. `snapshot` asks several
//! services for what several commands show; `output` writes it.

mod cli;
mod commands;
mod context;
mod embedded;
mod failure;
mod log;
mod output;
mod report;
mod watch;

use std::process::ExitCode;

use crate::failure::Failure;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Answer(status)) => ExitCode::from(status),
        Err(Failure::Failed { status, text }) => {
            output::complain(&text);
            ExitCode::from(status)
        }
    }
}
