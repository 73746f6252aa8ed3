//! The `corosync-ipc` command: what corosync-cmapctl, -quorumtool, -cpgtool and -cfgtool do, and JSON. See `corosync-ipc help`.
//!
//! It uses nothing but the public API of the library. A service is one file, with its arguments, their help and what they do; `cli`
//! lists them.

mod cfg;
mod cli;
mod cmap;
mod cpg;
mod doctor;
mod embedded;
mod evs;
mod failure;
mod generate;
mod group;
mod links;
mod load;
mod log;
mod output;
mod quorum;
mod quorum_watch;
mod report;
mod serve;
mod services;
mod snapshot;
mod status;
mod surroundings;
mod value;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
