//! `corosync-ipc completions` and `corosync-ipc man`: files for a package.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Command, Subcommand};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use clap_mangen::Man as Page;
use clap_mangen::roff::{Roff, roman};
use corosync_ipc::cpg::{self, Iteration};
use corosync_ipc::{Endpoint, guard_against_truncation, within};

use crate::commands::cmap::MapName;
use crate::commands::cmap::statistics::without_connections;
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
            Self::Completions(completions) => completions.run(),
            Self::Man(man) => man.run(cli),
        }
    }
}

/// Prints a completion script for a shell
///
/// Put it where the shell looks for completions, or read it in the shell's start-up file. It runs
/// corosync-ipc for each completion, which completes commands, options, files, and the keys and
/// groups of the daemon that the command line and the environment name. The daemon has half a
/// second to answer.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  cd /usr/share/bash-completion/completions
  corosync-ipc completions bash >corosync-ipc
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
    fn run(self) -> Result<(), Failure> {
        let name = self.shell.to_string();
        let failed = |error| Failure::refused(format!("making the script: {error}"));
        let mut script = Vec::new();
        if let Some(shell) = Shells::builtins().completer(&name) {
            shell.write_registration(ASKS, NAME, NAME, NAME, &mut script).map_err(failed)?;
        }
        if self.shell == Shell::Zsh {
            // Loaded from a directory of fpath, zsh runs it in place of the first completion.
            script.extend_from_slice(ZSH_FIRST);
        }
        print(script)
    }
}

const ZSH_FIRST: &[u8] = b"
if [[ $funcstack[1] == _corosync-ipc ]]; then
    _clap_dynamic_completer_corosync_ipc \"$@\"
fi
";

/// The variable by which a script of `completions` asks for candidates: the name of its shell.
const ASKS: &str = "COROSYNC_IPC_COMPLETE";

/// How long the daemon may take: a shell waits.
const PATIENCE: Duration = Duration::from_millis(500);

/// Prints the candidates for a word, if a script of `completions` asks for them. `cli` is the whole
/// command line, `endpoint` the daemon that words of a command line name. Prints no errors: what
/// fails has no candidates.
pub(crate) fn complete(
    cli: fn() -> Command,
    endpoint: fn(&[OsString]) -> Option<Endpoint>,
) -> Option<Result<(), Failure>> {
    let shell = env::var_os(ASKS)?;
    // The words, of which some are still to come, follow on `--`.
    let words: Arc<[OsString]> = env::args_os().skip_while(|arg| arg != "--").skip(1).collect();
    let from = Arc::new(Source { words, endpoint, is_bash: shell == "bash" });
    let cli = || {
        let completer = |list: fn(&Source, &str) -> Option<Vec<String>>| {
            let from = Arc::clone(&from);
            ArgValueCompleter::new(move |current: &OsStr| from.candidates(list, current))
        };
        with_candidates(cli(), &completer(Source::keys), &completer(Source::groups))
    };
    let env = CompleteEnv::with_factory(cli).var(ASKS).bin(NAME).completer(NAME);
    match env.try_complete(env::args_os(), env::current_dir().ok().as_deref()) {
        // Not asked.
        Ok(false) => None,
        Ok(true) => Some(Ok(())),
        Err(_) => Some(Err(Failure::Answer(1))),
    }
}

/// Adds candidates to the arguments that are keys or groups, by their names.
fn with_candidates(
    command: Command,
    keys: &ArgValueCompleter,
    groups: &ArgValueCompleter,
) -> Command {
    let command = command.mut_args(|arg| {
        match arg.get_value_names().and_then(|names| names.first()).map(|name| &**name) {
            Some("KEY" | "PREFIX" | "KEY-OR-PREFIX") => arg.add(keys.clone()),
            Some("GROUP") => arg.add(groups.clone()),
            _ => arg,
        }
    });
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    // Nobody lists the groups of evs.
    names.into_iter().filter(|name| name != "evs").fold(command, |command, name| {
        command.mut_subcommand(name, |command| with_candidates(command, keys, groups))
    })
}

/// Where candidates come from.
struct Source {
    /// The command line so far.
    words: Arc<[OsString]>,
    endpoint: fn(&[OsString]) -> Option<Endpoint>,
    is_bash: bool,
}

impl Source {
    fn candidates(
        &self,
        list: fn(&Self, &str) -> Option<Vec<String>>,
        current: &OsStr,
    ) -> Vec<CompletionCandidate> {
        let Some(current) = current.to_str() else { return Vec::new() };
        let names = within(Instant::now() + PATIENCE, || list(self, current)).unwrap_or_default();
        names.iter().filter_map(|name| self.candidate(name, current)).collect()
    }

    /// A name as the shell reads it, if it begins like the word. Names that say something else to
    /// a shell are left out, since a daemon's clients choose them.
    fn candidate(&self, name: &str, current: &str) -> Option<CompletionCandidate> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:/@+,-\\".contains(c);
        if name.starts_with('-') || !name.chars().all(is_plain) {
            return None;
        }
        let quoted = name.replace('\\', r"\\");
        // The word is as it was typed.
        let begins = name.starts_with(current) || quoted.starts_with(current);
        // Other shells quote what they insert.
        begins.then(|| CompletionCandidate::new(if self.is_bash { &quoted } else { name }))
    }

    /// The daemon. A file in shared memory can be cut short at any time.
    fn endpoint(&self) -> Option<Endpoint> {
        guard_against_truncation().ok()?;
        (self.endpoint)(&self.words)
    }

    fn keys(&self, current: &str) -> Option<Vec<String>> {
        let is_stats = self.words.iter().any(|word| word == "--map=stats")
            || self.words.windows(2).any(|words| words == ["--map", "stats"]);
        let map = if is_stats { MapName::Stats } else { MapName::Icmap };
        let client = map.connect_to(&self.endpoint()?).ok()?;
        let mut keys = Vec::new();
        for prefix in without_connections(map, current) {
            keys.extend(client.iter(&prefix).ok()?.filter_map(|entry| Some(entry.ok()?.key)));
        }
        Some(keys)
    }

    fn groups(&self, _: &str) -> Option<Vec<String>> {
        let client = cpg::Client::connect_to(&self.endpoint()?).ok()?;
        let entries = client.list(Iteration::Names).ok()?;
        Some(entries.iter().map(|entry| entry.group.to_string()).collect())
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
