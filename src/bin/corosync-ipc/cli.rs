//! The command line.

use std::env;
use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use corosync_ipc::{
    Deadline, ENV_SERVER_UID, ENV_TIMEOUT, Endpoint, MAX_RING_SIZE, MIN_RING_SIZE,
    guard_against_truncation, within,
};

#[cfg(feature = "decode")]
use crate::commands::decode;
#[cfg(feature = "exporter")]
use crate::commands::exporter::{Exporter, Metrics};
#[cfg(feature = "generate")]
use crate::commands::generate::{self, Generate};
use crate::commands::{cfg, cmap, cpg, doctor, evs, quorum, serve, status, watch};
use crate::context::Context;
use crate::duration;
use crate::embedded::Embedded;
use crate::failure::{Failure, USAGE};
use crate::log;
use crate::output::printable;
use crate::signals;

/// The end of every command's help.
const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  the daemon or a service refused or failed, at least for a part
  2  wrong usage; nothing was sent
  3  no daemon reachable
  4  timed out, at least for a part of the answer: the daemon is stopped or busy
  5  the state that --check asks for does not hold

An error is one line on standard error: what failed, the name of the cs_error,
what to check.";

const ABOUT: &str = "\
Shows and controls a corosync cluster

Speaks corosync's protocol itself: needs no C library and works with every corosync since 1.99.

Prints text for people on standard output; with --json one JSON document, or one JSON object a line from commands that watch.";

/// The commands by what they are for, as the help shows them.
const GROUPS: [(&str, &[&str]); 5] = [
    ("See and control the cluster", &["status", "quorum", "cfg", "cmap", "cpg", "evs"]),
    ("Monitor it", &["watch", "metrics", "exporter"]),
    ("Find out what is wrong", &["doctor", "decode"]),
    ("Test without a cluster", &["serve"]),
    ("Make files for a package", &["completions", "man"]),
];

const EXAMPLES: &str = "\
Examples:
  corosync-ipc status
  corosync-ipc cmap get totem.cluster_name
  corosync-ipc watch
  corosync-ipc --json quorum watch
  corosync-ipc quorum status --check && echo quorate
  corosync-ipc cpg join my-group
  corosync-ipc cfg links
  corosync-ipc doctor
  corosync-ipc --embedded status   # needs no corosync

";

const ENVIRONMENT: &str = "\
Environment:
  COROSYNC_IPC_SOCKET_DIR  like --socket-dir
  COROSYNC_IPC_SHM_ROOT    like --shm-root
  COROSYNC_IPC_TIMEOUT     like --timeout
  COROSYNC_IPC_SERVER_UID  like --server-uid, separated by commas
  Options override them.

";

/// The name of this program.
const PROGRAM: &str = "corosync-ipc";

#[derive(Debug, Parser)]
#[command(
    name = PROGRAM,
    version,
    about = "Shows and controls a corosync cluster",
    long_about = ABOUT,
    after_long_help = format!("{EXAMPLES}{ENVIRONMENT}{EXIT_STATUS}"),
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

/// The options of every command, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Start an embedded corosync in this process and run the command against it.
    ///
    /// It has one quorate node and ends with the command: a test double to try commands on a
    /// machine without corosync.
    #[arg(long, global = true)]
    embedded: bool,

    /// Connect to socket files in this directory.
    ///
    /// Use it for a daemon in another container whose /run is mounted here. The default is
    /// libqb's: abstract sockets, unless /etc/libqb/force-filesystem-sockets exists.
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    socket_dir: Option<PathBuf>,

    /// Connect to abstract sockets.
    #[arg(long = "abstract", global = true, conflicts_with = "socket_dir", hide_short_help = true)]
    abstract_sockets: bool,

    /// The directory that the daemon's /dev/shm is mounted at here.
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true)]
    shm_root: Option<PathBuf>,

    /// Trust a server of this user, besides root and the own user; can be given several times.
    ///
    /// Any user can take a service's name while corosync is down, so a server of another user is
    /// refused before any request is sent. In a user namespace, such as a rootless container's,
    /// the host's root is usually 65534, and so is every user who is not mapped.
    #[arg(long, global = true, value_name = "UID", value_delimiter = ',', value_parser = parse_uid,
          hide_short_help = true)]
    server_uid: Vec<u32>,

    /// The time limit of a command that prints one answer: 500ms, 5s, 2m [default: 5s].
    ///
    /// Parts of the answer that are missing by then have timed out. For a command that runs on
    /// (watch, join, send, load), the limit of its start and of each call to the daemon.
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration::parse)]
    timeout: Option<Duration>,

    /// The size of each of a connection's three rings in shared memory [default: 8179; cfg 12275;
    /// cmap 36864; cpg, evs 1048576].
    #[arg(long, global = true, value_name = "BYTES", hide_short_help = true,
          value_parser = clap::value_parser!(u32).range(i64::from(MIN_RING_SIZE)..=i64::from(MAX_RING_SIZE)))]
    ring_size: Option<u32>,

    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,

    /// Log to standard error.
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Status),
    Cmap(cmap::Cmap),
    Quorum(quorum::Quorum),
    Cpg(cpg::Cpg),
    Cfg(cfg::Cfg),
    Evs(evs::Evs),
    Watch(watch::Watch),
    Doctor(doctor::Doctor),
    #[cfg(feature = "exporter")]
    Metrics(Metrics),
    #[cfg(feature = "exporter")]
    Exporter(Exporter),
    Serve(serve::Serve),
    #[cfg(feature = "decode")]
    Decode(decode::Decode),
    #[cfg(feature = "generate")]
    #[command(flatten)]
    Generate(Generate),
}

/// Reads a command line, the program's name included.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(cli) = Named::parse(&args) {
        return Ok(cli);
    }
    let matches = command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

/// The arguments of one command. To build those of all commands takes longer than to be answered.
struct Named {
    name: &'static str,
    arguments: fn(clap::Command) -> clap::Command,
}

impl Named {
    /// The commands that ask a daemon.
    const ALL: &[Self] = &[
        Self::new::<status::Status>("status"),
        Self::new::<cmap::Cmap>("cmap"),
        Self::new::<quorum::Quorum>("quorum"),
        Self::new::<cpg::Cpg>("cpg"),
        Self::new::<cfg::Cfg>("cfg"),
        Self::new::<evs::Evs>("evs"),
        Self::new::<watch::Watch>("watch"),
        Self::new::<doctor::Doctor>("doctor"),
        #[cfg(feature = "exporter")]
        Self::new::<Metrics>("metrics"),
        #[cfg(feature = "exporter")]
        Self::new::<Exporter>("exporter"),
    ];

    const fn new<C: Args>(name: &'static str) -> Self {
        Self { name, arguments: C::augment_args }
    }

    fn find(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|named| named.name == name)
    }

    /// Reads a command line by the arguments of the first command that is named in it, and by those
    /// of the first one below that. `None` where the whole command line has to say what is wrong, or
    /// what else is asked for: what is right here is right there, and means the same.
    fn parse(args: &[OsString]) -> Option<Cli> {
        let mut words = args.iter().skip(1).filter_map(|arg| arg.to_str());
        let named = words.find_map(Self::find)?;
        let all = ManuallyDrop::new((named.arguments)(clap::Command::new(named.name)));
        let mut command = clap::Command::new(named.name).args(all.get_arguments());
        if all.has_subcommands() {
            command = command.subcommand(words.find_map(|word| all.find_subcommand(word))?);
        }
        let program = Global::augment_args(clap::Command::new(PROGRAM)).subcommand(command);
        let mut program = ManuallyDrop::new(program);
        let cli = Cli::from_arg_matches(&program.try_get_matches_from_mut(args).ok()?).ok()?;
        // To free their hundreds of parts takes as long as to make them. Who stays needs the room.
        if cli.command.goes_on() {
            drop((ManuallyDrop::into_inner(all), ManuallyDrop::into_inner(program)));
        }
        Some(cli)
    }
}

/// Runs the command that the command line asks for. Returns whether it asks for JSON, too.
pub(crate) fn run() -> (bool, Result<(), Failure>) {
    #[cfg(feature = "generate")]
    if let Some(result) = generate::complete(command, endpoint_of) {
        return (false, result);
    }
    match parse(env::args_os()) {
        Ok(cli) => (cli.global.json, run_parsed(cli)),
        Err(error) => (false, usage(error)),
    }
}

fn run_parsed(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    #[cfg(feature = "decode")]
    if let Command::Decode(command) = command {
        return command.run(global.json);
    }
    #[cfg(feature = "generate")]
    if let Command::Generate(generate) = command {
        return generate.run(self::command());
    }
    // Before anything is mapped: a server and a client can truncate the ring files.
    guard_against_truncation()?;
    let json = global.json;
    if global.verbose {
        log::start();
    }
    if !global.embedded {
        // The kernel drops a signal to process 1 of a container that does not take it.
        if process::id() == 1 && !command.takes_signals() {
            signals::at_first(|_| ())?;
        }
        return run_command(command, &Context::new(global.endpoint()?, json, false));
    }
    if let Command::Serve(_) = command {
        return Err(Failure::usage(
            "serve is the embedded corosync itself and does not take --embedded",
        ));
    }
    if global.socket_dir.is_some() || global.abstract_sockets || global.shm_root.is_some() {
        let text = "--embedded has an endpoint of its own and does not take --socket-dir, --abstract or --shm-root";
        return Err(Failure::usage(text));
    }
    let endpoint = global.endpoint()?;
    let embedded = Embedded::start()?;
    // Its sockets and its rings are in one directory.
    let directory = embedded.endpoint().shm_root_path();
    let endpoint = endpoint.socket_dir(directory).shm_root(directory);
    let result = run_command(command, &Context::new(endpoint, json, true));
    embedded.end();
    result
}

fn run_command(command: Command, context: &Context) -> Result<(), Failure> {
    let deadline = if command.goes_on() { Deadline::NEVER } else { context.deadline.into() };
    within(deadline, || match command {
        Command::Status(command) => command.run(context),
        Command::Cmap(command) => command.run(context),
        Command::Quorum(command) => command.run(context),
        Command::Cpg(command) => command.run(context),
        Command::Cfg(command) => command.run(context),
        Command::Evs(command) => command.run(context),
        Command::Watch(command) => command.run(context),
        Command::Doctor(command) => command.run(context),
        #[cfg(feature = "exporter")]
        Command::Metrics(command) => command.run(context),
        #[cfg(feature = "exporter")]
        Command::Exporter(command) => command.run(context),
        Command::Serve(command) => command.run(context),
        #[cfg(feature = "decode")]
        Command::Decode(_) => Ok(()),
        #[cfg(feature = "generate")]
        Command::Generate(_) => Ok(()),
    })
}

impl Command {
    /// Whether the command itself waits for signals.
    fn takes_signals(&self) -> bool {
        match self {
            Self::Serve(_) => true,
            #[cfg(feature = "exporter")]
            Self::Exporter(_) => true,
            _ => false,
        }
    }

    /// Whether the command runs on after one answer.
    fn goes_on(&self) -> bool {
        match self {
            Self::Cmap(command) => command.goes_on(),
            Self::Quorum(command) => command.goes_on(),
            Self::Cpg(command) => command.goes_on(),
            Self::Cfg(command) => command.goes_on(),
            Self::Evs(command) => command.goes_on(),
            Self::Watch(_) | Self::Serve(_) => true,
            #[cfg(feature = "exporter")]
            Self::Exporter(_) => true,
            #[cfg(feature = "exporter")]
            Self::Metrics(_) => false,
            Self::Status(command) => command.goes_on(),
            Self::Doctor(_) => false,
            #[cfg(feature = "generate")]
            Self::Generate(_) => false,
            #[cfg(feature = "decode")]
            Self::Decode(_) => false,
        }
    }
}

/// The daemon that a command line names, which may not be complete yet.
#[cfg(feature = "generate")]
fn endpoint_of(words: &[OsString]) -> Option<Endpoint> {
    let matches = command().ignore_errors(true).try_get_matches_from(words).ok()?;
    let global = Global::from_arg_matches(&matches).ok()?;
    if global.embedded { None } else { global.endpoint().ok() }
}

/// The whole command line, every command with the exit status in its help.
fn command() -> clap::Command {
    fn explained(command: clap::Command) -> clap::Command {
        let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
        let command = if help.contains(EXIT_STATUS) || command.get_name() == "help" {
            command
        } else {
            let gap = if help.is_empty() { "" } else { "\n\n" };
            command.after_long_help(format!("{help}{gap}{EXIT_STATUS}"))
        };
        let names: Vec<String> =
            command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, explained))
    }
    let mut command = explained(Cli::command());
    // Adds the global options to each command. These commands do not use them.
    command.build();
    let command = grouped(with_help(command));
    let used: [(&str, &[&str]); 3] = [("completions", &[]), ("man", &[]), ("decode", &["json"])];
    used.into_iter().fold(command, |command, (name, used)| {
        if command.find_subcommand(name).is_none() {
            return command;
        }
        command.mut_subcommand(name, |command| {
            command.mut_args(|arg| {
                let is_unused = arg.is_global_set() && !used.contains(&arg.get_id().as_str());
                if is_unused { arg.hide(true) } else { arg }
            })
        })
    })
}

/// Says in this project's words what each command `help` does.
fn with_help(command: clap::Command) -> clap::Command {
    let command = match command.get_name() {
        "help" => command.about("Prints this help, or that of a command"),
        _ => command,
    };
    let names: Vec<String> =
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_help))
}

/// Lists the commands in groups.
fn grouped(command: clap::Command) -> clap::Command {
    let (header, literal) = (command.get_styles().get_header(), command.get_styles().get_literal());
    let width = command.get_subcommands().map(|command| command.get_name().len()).max();
    let width = width.unwrap_or_default();
    let is_grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let others: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let others: Vec<&str> = others.into_iter().filter(|name| !is_grouped(name)).collect();
    let mut text = String::new();
    for (title, names) in GROUPS.into_iter().chain([("Other commands", &*others)]) {
        // A build may leave commands out.
        let found: Vec<_> = names.iter().filter_map(|name| command.find_subcommand(name)).collect();
        if found.is_empty() {
            continue;
        }
        text += &format!("{header}{title}:{header:#}\n");
        for one in found {
            let about = one.get_about().map(ToString::to_string).unwrap_or_default();
            let name = one.get_name();
            text += &format!("  {literal}{name:<width$}{literal:#}  {about}\n");
        }
        text.push('\n');
    }
    let usage = "{about-with-newline}\n{usage-heading} {usage}";
    let options = format!("{header}Options:{header:#}\n{{options}}{{after-help}}");
    command.help_template(format!("{usage}\n\n{text}{options}"))
}

fn parse_uid(text: &str) -> Result<u32, String> {
    // A name may be another user where the daemon runs.
    text.parse().map_err(|_| "not a user id: use a number, as `id -u` prints it".to_owned())
}

fn parse_timeout_variable(text: &OsStr) -> Result<Duration, Failure> {
    let text = text.to_string_lossy();
    duration::parse(&text).map_err(|error| Failure::usage(format!("{ENV_TIMEOUT}: {error}")))
}

impl Global {
    /// The endpoint of the environment, with the options over it.
    fn endpoint(self) -> Result<Endpoint, Failure> {
        let mut endpoint = Endpoint::from_variables(|name| {
            let is_overridden = match name {
                // Read as the option is.
                ENV_TIMEOUT => true,
                ENV_SERVER_UID => !self.server_uid.is_empty(),
                _ => false,
            };
            if is_overridden { None } else { env::var_os(name) }
        })?;
        if let Some(directory) = self.socket_dir {
            endpoint = endpoint.socket_dir(directory);
        }
        if self.abstract_sockets {
            endpoint = endpoint.abstract_sockets();
        }
        if let Some(directory) = self.shm_root {
            endpoint = endpoint.shm_root(directory);
        }
        if !self.server_uid.is_empty() {
            endpoint = endpoint.server_uids(self.server_uid);
        }
        let timeout = match (self.timeout, env::var_os(ENV_TIMEOUT)) {
            (Some(timeout), _) => Some(timeout),
            (None, Some(text)) if !text.is_empty() => Some(parse_timeout_variable(&text)?),
            (None, _) => None,
        };
        if let Some(timeout) = timeout {
            endpoint = endpoint.timeout(timeout);
        }
        if let Some(size) = self.ring_size {
            endpoint = endpoint.ring_size(size);
        }
        Ok(endpoint)
    }
}

/// Prints help, or returns the error as one line.
fn usage(mut error: clap::Error) -> Result<(), Failure> {
    // These two resemble nearly everything. The help of a command says where a value may begin with
    // a dash.
    let similar = error.get(ContextKind::SuggestedArg).map(ToString::to_string);
    if similar.is_some_and(|name| ["--help", "--version"].contains(&name.as_str())) {
        error.remove(ContextKind::SuggestedArg);
    }
    if error.kind() == ErrorKind::UnknownArgument {
        error.remove(ContextKind::Suggested);
    }
    // clap would leave control characters out.
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand]
    {
        if let Some(ContextValue::String(text)) = error.get(kind) {
            let text = printable(text);
            error.insert(kind, ContextValue::String(text));
        }
    }
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            Ok(())
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Err(Failure::Answer(USAGE))
        }
        _ => {
            let text = error.render().to_string();
            let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
            let said =
                lines.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
            let line = said.collect::<Vec<_>>().join(" ");
            Err(Failure::usage(format!(
                "{}; try --help",
                line.strip_prefix("error: ").unwrap_or(&line)
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    /// The line that the arguments of one command read, if they do.
    fn by_name(line: &str) -> Option<Cli> {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        Named::parse(&args)
    }

    #[test]
    fn the_arguments_of_every_command_that_asks_a_daemon_are_built_alone() {
        let others = ["serve", "help", "completions", "man", "decode"];
        for command in command().get_subcommands().filter(|it| !others.contains(&it.get_name())) {
            assert!(Named::find(command.get_name()).is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn a_line_means_the_same_by_the_arguments_of_one_command() {
        for line in [
            "status",
            "--json quorum status --check",
            "status --json --server-uid 1,2 --server-uid 3",
            "--timeout 3s cmap --timeout 2s --map stats get stats.srp0 --timeout 1s",
            "--socket-dir cmap cmap list totem.",
            "cmap set a u8 1 -v",
            "cmap get list set",
            "cmap --map=stats list --json",
            "cmap set a i8 -- -1",
            "--shm-root=quorum quorum status --sort name",
            "quorum votes 3 --node 2",
            "cpg join a b --count 2",
            "cpg send status quorum",
            "cfg kill 1 status",
            "--ring-size 65536 --abstract watch",
            "doctor",
        ] {
            let line = format!("corosync-ipc {line}");
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let matches = command().try_get_matches_from(args).unwrap();
            let whole = Cli::from_arg_matches(&matches).unwrap();
            let alone = by_name(&line).unwrap_or_else(|| panic!("{line}"));
            assert_eq!(format!("{alone:?}"), format!("{whole:?}"), "{line}");
        }
    }

    #[test]
    fn help_and_mistakes_are_for_the_whole_command_line() {
        for line in [
            "",
            "status --help",
            "status -V",
            "--version status",
            "help status",
            "-- status",
            "quorum",
            "quorum help",
            "quorum stat",
            "quorum nodes status",
            "quorum stat status",
            "quorum --sort status status",
            "quorum --check",
            "--timeout status",
            "--timeout x status",
            "--socket-dir status quorum status",
            "stat status",
            "status status",
            "serve status",
            "--abstract --socket-dir a status",
        ] {
            assert!(by_name(&format!("corosync-ipc {line}")).is_none(), "{line}");
        }
    }

    /// clap would break longer ones: examples, and tables of which it knows nothing.
    #[test]
    fn no_line_at_the_end_of_a_help_is_longer_than_80_columns() {
        fn look(command: &clap::Command) {
            let help = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{}: {line}", command.get_name());
            }
            command.get_subcommands().for_each(look);
        }
        look(&command());
    }
}
