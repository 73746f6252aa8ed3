//! The `corosync-ipc` command, against real daemons, next to corosync's own tools, and against the
//! corosync in itself.

#![cfg(feature = "generate")]

mod cfg;
mod chroot;
mod cmap;
mod completions;
mod cpg;
mod credentials;
mod crowd;
#[cfg(feature = "decode")]
mod decode;
mod embedded;
mod everything;
mod failures;
mod flood;
mod from_c_tools;
mod generations;
mod handshakes;
mod hooks;
mod parts;
mod quorum;
mod schema;
mod serve;
mod served;
mod terminal;
mod tool;
mod tools;
mod watchers;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use served::Place;
use testbed::{NodeCommand, Output, copy_for_all};

testbed::embedded_process!();

/// nobody and nogroup, wherever corosync runs.
const NOBODY: u32 = 65534;

/// The command under test, where every node and user can run it.
fn program() -> PathBuf {
    copy_for_all(Path::new(env!("CARGO_BIN_EXE_corosync-ipc")))
}

/// The command inside a node, or wherever else there is a daemon.
fn command(place: &impl Place, args: &[&str]) -> NodeCommand {
    place.at(&program()).args(args)
}

fn run(place: &impl Place, args: &[&str]) -> Output {
    command(place, args).run()
}

/// Standard output of a command that must succeed, and say nothing on standard error.
#[track_caller]
fn ok(place: &impl Place, args: &[&str]) -> String {
    let output = run(place, args);
    assert_eq!(output.stderr, "", "{args:?}");
    output.success()
}

/// The document of a command that must succeed.
#[track_caller]
fn json(place: &impl Place, args: &[&str]) -> Value {
    let text = command(place, args).arg("--json").run().success();
    let document =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
    if args == ["status"] {
        schema::assert_status(&document);
    }
    document
}

/// The objects in the lines written so far; one that is not complete yet is left out.
fn lines(text: &str) -> Vec<Value> {
    let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
    complete
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Fails with this exit status and one line, with all of these words in it, on standard error and
/// nothing on standard output.
#[track_caller]
fn assert_fails(output: &Output, status: i32, words: &[&str]) {
    assert_eq!(output.code(), status, "{output:?}");
    assert_eq!(output.stdout, "", "{output:?}");
    assert_one_line(&output.stderr, words);
}

#[track_caller]
fn assert_one_line(stderr: &str, words: &[&str]) {
    assert!(stderr.ends_with('\n'), "{stderr:?}");
    assert_eq!(stderr.lines().count(), 1, "{stderr:?}");
    if !stderr.starts_with("corosync-ipc: ") {
        // With --json.
        let error: Value = serde_json::from_str(stderr).unwrap();
        assert!(error["error"].is_string() && error["exit_status"].is_u64(), "{stderr}");
        assert!(error.get("cs_error").is_some(), "{stderr}");
    }
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in {stderr:?}");
    }
}

/// The command outside of all nodes.
#[track_caller]
fn outside(args: &[&str]) -> Output {
    NodeCommand::here(program()).args(args).run()
}

/// Every command there is, as its words.
const COMMANDS: [&[&str]; 45] = [
    &["status"],
    &["cmap"],
    &["cmap", "list"],
    &["cmap", "get"],
    &["cmap", "set"],
    &["cmap", "delete"],
    &["cmap", "clear"],
    &["cmap", "increment"],
    &["cmap", "decrement"],
    &["cmap", "load"],
    &["cmap", "watch"],
    &["quorum"],
    &["quorum", "status"],
    &["quorum", "nodes"],
    &["quorum", "watch"],
    &["quorum", "expected"],
    &["quorum", "votes"],
    &["quorum", "unregister-qdevice"],
    &["cpg"],
    &["cpg", "groups"],
    &["cpg", "members"],
    &["cpg", "join"],
    &["cpg", "send"],
    &["cfg"],
    &["cfg", "local"],
    &["cfg", "links"],
    &["cfg", "nodes"],
    &["cfg", "addresses"],
    &["cfg", "reload"],
    &["cfg", "reopen-logs"],
    &["cfg", "kill"],
    &["cfg", "shutdown"],
    &["cfg", "watch"],
    &["evs"],
    &["evs", "join"],
    &["evs", "send"],
    &["evs", "members"],
    &["watch"],
    &["doctor"],
    &["metrics"],
    &["exporter"],
    &["serve"],
    &["decode"],
    &["completions"],
    &["man"],
];

#[test]
fn every_command_explains_itself_with_an_example_and_exit_status() {
    for words in COMMANDS {
        let output = outside(&[words, &["--help"]].concat());
        let help = output.stdout;
        assert!(output.status.success() && output.stderr.is_empty(), "{words:?}");
        assert!(help.contains("Exit status:\n  0  done\n"), "{words:?}: {help}");
        let is_service =
            ["cmap", "quorum", "cpg", "cfg", "evs"].iter().any(|service| words == [*service]);
        assert!(is_service || help.contains("Example"), "{words:?}: {help}");
        let by_name = outside(&[&["help"], words].concat());
        assert_eq!(by_name.stdout, help, "{words:?}");
    }
    let nothing = outside(&[]);
    assert_eq!((nothing.code(), nothing.stdout.len()), (2, 0));
}

#[test]
fn help_begins_with_what_the_command_does() {
    let first = |args: &[&str]| {
        let help = outside(args).stdout;
        help.lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(first(&["--help"]), "Shows and controls a corosync cluster");
    assert_eq!(first(&["-h"]), first(&["help"]));
    for words in COMMANDS {
        let says = first(&[words, &["--help"]].concat());
        // "Prints", "Sets".
        assert!(
            says.split(' ').next().is_some_and(|verb| verb.trim_end_matches(',').ends_with('s')),
            "{words:?}: {says}"
        );
        assert_eq!(first(&[words, &["-h"]].concat()), says, "{words:?}");
        // The list of commands says the same, perhaps on two lines.
        let (name, above) = words.split_last().unwrap();
        let list = outside(&[above, &["--help"]].concat()).stdout;
        let list = list.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(list.contains(&format!(" {name} {says}")), "{words:?}: {list}");
    }
}

/// A shell cannot read an example that is broken where it need not be.
#[test]
fn help_fits_the_terminal_with_whole_examples() {
    let top: &[&str] = &[];
    for words in COMMANDS.into_iter().chain([top]) {
        let help = |columns: &str| {
            let command = NodeCommand::here(program()).args(words).arg("--help");
            command.env("COLUMNS", columns).run().success()
        };
        let examples = |help: &str| {
            let lines = help.lines().skip_while(|line| !line.starts_with("Example"));
            lines.take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        };
        let [narrow, wide] = ["80", "100"].map(help);
        for (help, columns) in [(&narrow, 80), (&wide, 100)] {
            assert!(help.lines().all(|line| line.chars().count() <= columns), "{words:?}: {help}");
        }
        assert_eq!(examples(&narrow), examples(&help("120")), "{words:?}");
        assert_eq!(examples(&narrow), examples(&wide), "{words:?}");
    }
}

/// What is not known is neither up nor down.
#[test]
fn examples_of_queries_know_that_null_is_not_false() {
    for words in COMMANDS {
        let help = outside(&[words, &["--help"]].concat()).stdout;
        for line in help.lines().filter(|line| line.contains("jq ")) {
            let nullable = ["connected", "reachable", "quorate", "enabled"]
                .iter()
                .any(|name| line.contains(&format!(".{name} |")));
            assert!(!nullable || !line.contains("| not"), "{words:?}: {line}");
        }
    }
}

#[test]
fn the_manual_names_every_command() {
    let manual = outside(&["man"]).stdout;
    let folder = tempfile::tempdir().unwrap();
    assert!(outside(&["man", "--dir", folder.path().to_str().unwrap()]).status.success());
    for words in COMMANDS {
        let name = format!("corosync-ipc-{}", words.join("-"));
        assert!(manual.contains(&format!(".TH {name} 1")), "{name}");
        let page = fs::read_to_string(folder.path().join(format!("{name}.1"))).unwrap();
        assert!(manual.contains(&page) && page.contains(".SH \"EXIT STATUS\"\n.nf\n"), "{name}");
        let help = outside(&[words, &["--help"]].concat()).stdout;
        let example = help.lines().skip_while(|line| !line.starts_with("Example")).nth(1);
        assert_eq!(page.contains(".SH EXAMPLES\n.nf\n"), example.is_some(), "{name}");
        // As it is written in roff.
        let example = example.map(|line| {
            line.trim_start().replace('\\', "\\\\").replace('-', "\\-").replace('\'', "\\*(Aq")
        });
        assert!(example.is_none_or(|example| page.contains(&example)), "{name}");
    }
    for section in [".SH ENVIRONMENT", ".SH \"GLOBAL OPTIONS\""] {
        assert!(manual.contains(section), "{section}");
    }
    assert!(!manual.contains(".SH EXTRA"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), COMMANDS.len() + 1);

    let missing = outside(&["man", "--dir", "/no/such/directory"]);
    assert_eq!(missing.code(), 1);
    assert_one_line(&missing.stderr, &["/no/such/directory"]);
}

#[test]
fn no_c_library_of_the_cluster_is_linked() {
    let linked = Command::new("ldd")
        .arg(env!("CARGO_BIN_EXE_corosync-ipc"))
        .output()
        .expect("cannot run ldd");
    let linked =
        String::from_utf8(linked.stdout).unwrap() + &String::from_utf8(linked.stderr).unwrap();
    assert!(
        linked.contains("libc.")
            || linked.contains("statically linked")
            || linked.contains("not a dynamic")
    );
    for library in
        ["libqb", "libcmap", "libcpg", "libcfg", "libquorum", "libvotequorum", "libcorosync"]
    {
        assert!(!linked.contains(library), "{linked}");
    }
}
