//! `corosync-ipc completions` and `corosync-ipc man`: files for a package.

use std::fs;
use std::io;
use std::mem;
use std::path::PathBuf;

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};

use crate::failure::Failure;
use crate::output::print;

/// The name of this command.
const NAME: &str = "corosync-ipc";

/// The commands that write files for a package.
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    Completions(Completions),
    Man(Man),
}

impl Generate {
    /// `cli` is the whole command line.
    pub(crate) fn run(self, cli: Command) -> Result<(), Failure> {
        match self {
            Self::Completions(completions) => completions.run(cli),
            Self::Man(man) => man.run(cli),
        }
    }
}

/// Prints a completion script for a shell
///
/// Put it where the shell looks for completions, or read it in the shell's start-up file.
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
/// Prints a page in roff for the command and one for each of its subcommands.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  corosync-ipc man | man -l -
  corosync-ipc man --dir /usr/share/man/man1")]
pub(crate) struct Man {
    /// Write each page to a file in this directory: corosync-ipc.1, corosync-ipc-status.1 and so
    /// on.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Completions {
    fn run(self, mut cli: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut cli, NAME, &mut script);
        // clap_complete (4.6.11) names the states of a bash function in two ways when the program's
        // name has a hyphen.
        print(String::from_utf8_lossy(&script).replace("corosync__subcmd__ipc", "corosync__ipc"))
    }
}

impl Man {
    fn run(self, cli: Command) -> Result<(), Failure> {
        let mut pages = Vec::new();
        collect(cli, &mut pages)
            .map_err(|error| Failure::refused(format!("making the manual: {error}")))?;
        match self.dir {
            None => pages.iter().try_for_each(|(_, page)| print(page)),
            Some(directory) => pages.iter().try_for_each(|(name, page)| {
                let path = directory.join(name);
                let failed =
                    |error| Failure::refused(format!("writing {}: {error}", path.display()));
                fs::write(&path, page).map_err(failed)
            }),
        }
    }
}

/// The page of a command and those of its commands, each with its file's name.
fn collect(command: Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let below: Vec<Command> =
        command.get_subcommands().filter(|one| one.get_name() != "help").cloned().collect();
    let sections =
        sections(&command.get_after_long_help().map(ToString::to_string).unwrap_or_default());
    let has_options = command.get_arguments().next().is_some();
    let page =
        Page::new(command).source(concat!("corosync-ipc ", env!("CARGO_PKG_VERSION"))).manual(NAME);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    if has_options {
        page.render_options_section(&mut text)?;
    }
    if !below.is_empty() {
        page.render_subcommands_section(&mut text)?;
    }
    sections.to_writer(&mut text)?;
    page.render_version_section(&mut text)?;
    pages.push((page.get_filename(), text));
    below.into_iter().try_for_each(|command| collect(command, pages))
}

/// What stands at the end of a help: a section for each of the headings it has, line by line. What
/// comes before them is notes.
fn sections(help: &str) -> Roff {
    const HEADINGS: [(&str, &str); 4] = [
        ("Example:", "EXAMPLES"),
        ("Examples:", "EXAMPLES"),
        ("Environment:", "ENVIRONMENT"),
        ("Exit status:", "EXIT STATUS"),
    ];
    let mut roff = Roff::new();
    let mut heading = "NOTES";
    let mut lines = Vec::new();
    let mut finish = |heading: &str, lines: &mut Vec<&str>| {
        let text = mem::take(lines).join("\n");
        if !text.trim().is_empty() {
            roff.control("SH", [heading])
                .control("nf", [])
                .text([roman(text.trim_matches('\n'))])
                .control("fi", []);
        }
    };
    for line in help.lines() {
        if let Some((_, name)) = HEADINGS.iter().find(|(found, _)| *found == line) {
            finish(heading, &mut lines);
            heading = name;
        } else {
            lines.push(line);
        }
    }
    finish(heading, &mut lines);
    roff
}
