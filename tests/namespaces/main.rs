//! Who reaches whom: clients that are not where the daemon is. Each place is reached, or an error
//! says which wall stands there and `doctor` says what to mount or share.
//!
//! These tests print their tables. docs/containers.md must have the same.

#![cfg(feature = "cli")]

mod real;
mod serve;
mod systemd;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corosync_ipc::{Endpoint, Error, cmap, cpg};
use testbed::{IpcType, NodeCommand, Output, copy_for_all};

use self::Outcome::{Absent, Reached, Wall};

/// A place for a client, and what it meets there with daemons of `N` kinds.
struct Row<const N: usize> {
    /// Where the client is, as the table says it.
    client: &'static str,
    place: Place,
    outcomes: [Outcome; N],
    /// What helps, as the table says it.
    remedy: &'static str,
}

/// What a client meets.
#[derive(Clone, Copy)]
enum Outcome {
    /// cmap answers, and a multicast to oneself arrives.
    Reached,
    /// An error of the library, and what `doctor` says about it.
    Wall {
        /// The variant of [`Error`].
        error: &'static str,
        /// Its stage.
        stage: &'static str,
        /// Words of its text.
        says: &'static [&'static str],
        /// Words of the advice.
        advice: &'static [&'static str],
    },
    /// There is no such place.
    Absent,
}

/// The way from the daemon to the client.
#[derive(Clone, Copy)]
struct Place {
    /// The options of unshare(1).
    unshare: &'static [&'static str],
    /// Commands of the shell that run in the new namespaces.
    mounts: &'static str,
    user: u32,
    group: u32,
    environment: &'static [(&'static str, &'static str)],
}

/// Where the daemon is.
const HERE: Place = Place { unshare: &[], mounts: ":", user: 0, group: 0, environment: &[] };

impl Place {
    /// A program at this place. Of all daemons `doctor` sees only `daemon`, if the place may hide
    /// others. The place may hide the program too. `starter` is an unshare(1) where the daemon is.
    fn command(&self, starter: NodeCommand, daemon: u32, program: &Path) -> NodeCommand {
        let script = format!(
            r#"for process in /proc/[0-9]*; do
                   [ $process != /proc/{daemon} ] && read -r name <$process/comm &&
                       [ "$name" = corosync ] && mount -t tmpfs none $process
               done 2>/dev/null
               program=$0
               exec 3<"$program" && {} || exit 99
               [ -e "$program" ] || program=/proc/self/fd/3
               exec "$program" "$@""#,
            self.mounts
        );
        // Whoever is not root cannot hide processes, and cannot see where they are.
        let own_mounts: &[&str] = if self.user == 0 { &["-m"] } else { &[] };
        let command = starter.args(self.unshare).args(own_mounts).args(["sh", "-c", &script]);
        let command = self
            .environment
            .iter()
            .fold(command, |command, (name, value)| command.env(name, value));
        let command = command.env("COROSYNC_IPC_TIMEOUT", TIMEOUT).arg(program);
        if self.user == 0 { command } else { command.user(self.user, self.group) }
    }
}

impl<const N: usize> Row<N> {
    /// Asserts what a client meets here with the daemon of this column. As [`Place::command`].
    #[track_caller]
    fn check(
        &self,
        column: usize,
        starter: impl Fn() -> NodeCommand,
        daemon: u32,
        ipc_type: IpcType,
    ) {
        if matches!(self.outcomes[column], Absent) {
            return;
        }
        let run = |program: &Path, args: &[&str]| {
            let Output { stdout, stderr, .. } =
                self.place.command(starter(), daemon, program).args(args).run();
            stdout + &stderr
        };
        let test = copy_for_all(&env::current_exe().expect("it is known"));
        let command = program();
        let outputs = [run(&test, &CLIENT), run(&command, &["status"]), run(&command, &["doctor"])];
        let what = format!("{}, column {column}", self.client);
        self.outcomes[column].check(&what, outputs.each_ref(), ipc_type);
    }

    /// For [`table`].
    fn cells(&self) -> (String, &[Outcome; N], &'static str) {
        (self.client.to_owned(), &self.outcomes, self.remedy)
    }
}

impl Outcome {
    /// Asserts that this is what [`client`], `status` and `doctor` print.
    #[track_caller]
    fn check(self, what: &str, outputs: [&String; 3], ipc_type: IpcType) {
        let [library, status, doctor] = outputs;
        let met = || {
            let met = library.lines().find_map(|line| line.strip_prefix(MET));
            met.unwrap_or_else(|| panic!("{what}: {library}"))
        };
        match self {
            Reached => {
                assert_eq!(met(), "reached", "{what}");
                let transport = match ipc_type {
                    IpcType::Shm => "shm",
                    IpcType::Socket => "socket",
                };
                let of = |text: &str, line: String| assert!(text.contains(&line), "{what}: {text}");
                of(status, format!("\nTransport:        {transport}\nServices:         cmap "));
                of(doctor, format!("\nTransport:        {transport}\n"));
                assert!(!doctor.contains(" failed at the "), "{what}: {doctor}");
            }
            Wall { error, stage, says, advice } => {
                assert!(
                    met().starts_with(&format!("{error} at the {stage}: ")),
                    "{what}: {}",
                    met()
                );
                for text in [met(), status, doctor] {
                    for words in says {
                        assert!(text.contains(words), "{what}: no {words:?} in {text}");
                    }
                }
                let failed = format!("\ncmap        failed at the {stage}: ");
                assert!(doctor.contains(&failed), "{what}: {doctor}");
                // All services fail for the same reason.
                let advised: Vec<_> =
                    doctor.lines().filter_map(|line| line.split_once("-> ")).collect();
                let [(_, advised)] = advised[..] else { panic!("{what}: {doctor}") };
                for words in advice {
                    assert!(advised.contains(words), "{what}: no {words:?} in {advised}");
                }
            }
            Absent => {}
        }
    }
}

/// A table of Markdown: what a row is about, what a client meets, and what helps.
fn table<'a, const N: usize>(
    about: &str,
    columns: [&str; N],
    rows: impl Iterator<Item = (String, &'a [Outcome; N], &'a str)>,
) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let own = |cell: &str| cell.to_owned();
    let head = [about].into_iter().chain(columns).chain(["what helps"]);
    let lines = rows.map(|(about, outcomes, remedy)| {
        let outcomes = outcomes.iter().map(|outcome| match outcome {
            Reached => own("yes"),
            Wall { error, .. } => format!("`{error}`"),
            Absent => own(""),
        });
        line([about].into_iter().chain(outcomes).chain([own(remedy)]).collect())
    });
    line(head.map(own).collect()) + &line(vec![own("---"); N + 2]) + &lines.collect::<String>()
}

fn document() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/containers.md");
    fs::read_to_string(file).expect("a document")
}

#[test]
fn the_document_has_the_tables() {
    let document = document();
    let tables = [real::table(), serve::table(), systemd::table()];
    println!("\n{}", tables.join("\n"));
    for table in tables {
        assert!(
            document.contains(&table),
            "docs/containers.md does not have the tables printed above"
        );
    }
}

/// The command under test.
fn program() -> PathBuf {
    copy_for_all(Path::new(env!("CARGO_BIN_EXE_corosync-ipc")))
}

/// Longer than any answer takes on a busy machine.
const TIMEOUT: &str = "60s";

/// The arguments with which the test binary runs [`client`].
const CLIENT: [&str; 4] = ["--exact", "client", "--ignored", "--nocapture"];

/// What stands before the line of [`client`].
const MET: &str = "met: ";

#[test]
#[ignore = "run by other tests, at another place"]
fn client() {
    match reach() {
        Ok(()) => println!("\n{MET}reached"),
        Err(error) => {
            let name = format!("{error:?}");
            let (name, _) = name.split_once([' ', '(']).unwrap_or((&name, ""));
            let stage =
                error.stage().map_or_else(|| "request".to_owned(), |stage| stage.to_string());
            println!("\n{MET}{name} at the {stage}: {}", error.with_sources());
        }
    }
}

/// Sends requests and waits for an event.
fn reach() -> Result<(), Error> {
    let endpoint = Endpoint::from_env()?;
    let cmap = cmap::Client::connect_to(&endpoint)?;
    assert_eq!(cmap.get_as::<u32>("totem.version")?, Some(2));
    let cpg = cpg::Client::connect_to(&endpoint)?;
    cpg.join(&cpg::GroupName::new("namespaces")?)?;
    cpg.multicast(cpg::Guarantee::AGREED, b"hello")?;
    while let Some(event) = cpg.next_event(Duration::from_secs(60))? {
        if let cpg::Event::Deliver(deliver) = event {
            assert_eq!(&deliver.payload[..], b"hello");
            return Ok(());
        }
    }
    panic!("the message does not come back");
}
