//! `corosync-ipc completions` and `corosync-ipc man`: files for packages.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::cli;
use crate::failure::Failure;
use crate::output::print;

/// The name of this command.
const NAME: &str = "corosync-ipc";

/// Prints a completion script for a shell
///
/// To be put where the shell looks for it, or to be read by its start-up file.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc completions bash >/usr/share/bash-completion/completions/corosync-ipc
  source <(corosync-ipc completions zsh)")]
pub(crate) struct Completions {
    /// The shell.
    shell: Shell,
}

/// Prints the manual, or writes it as pages
///
/// One page for the command and one for each of its commands, as roff.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc man | man -l -
  corosync-ipc man --dir /usr/share/man/man1")]
pub(crate) struct Man {
    /// Write each page to a file in this directory: corosync-ipc.1, corosync-ipc-status.1 and so on.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completions {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli::command(), NAME, &mut script);
        // clap_complete (4.6.11) names the states of a bash function in two ways when the program's name has a hyphen.
        print(String::from_utf8_lossy(&script).replace("corosync__subcmd__ipc", "corosync__ipc"))
    }
}

impl Man {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut pages = Vec::new();
        collect(cli::command(), &mut pages).map_err(|error| Failure::refused(format!("making the manual: {error}")))?;
        match self.dir {
            None => pages.iter().try_for_each(|(_, page)| print(page)),
            Some(directory) => pages.iter().try_for_each(|(name, page)| {
                let path = directory.join(name);
                let failed = |error| Failure::refused(format!("writing {}: {error}", path.display()));
                fs::write(&path, page).map_err(failed)
            }),
        }
    }
}

/// The page of a command and those of its commands, each with its file's name.
fn collect(command: Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let below: Vec<Command> = command.get_subcommands().filter(|one| one.get_name() != "help").cloned().collect();
    let page = Page::new(command).source(concat!("corosync-ipc ", env!("CARGO_PKG_VERSION"))).manual("corosync-ipc");
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push((page.get_filename(), text));
    below.into_iter().try_for_each(|command| collect(command, pages))
}
