//! What shells complete: commands and options, and keys and groups of the daemon.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use corosync_ipc::embedded::Corosync;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use testbed::{NodeCommand, eventually, version};

use super::served::{Place, Served, against_both};
use super::{COMMANDS, assert_fails, command, outside, program};

against_both! {
    keys_and_groups_of_the_daemon_are_completed
}

/// Where no daemon is.
struct Nowhere(TempDir);

impl Place for Nowhere {
    fn at(&self, program: &Path) -> NodeCommand {
        NodeCommand::here(program).env("COROSYNC_IPC_SOCKET_DIR", self.0.path())
    }
}

fn nowhere() -> Nowhere {
    Nowhere(testbed::folder())
}

/// The command and its script for bash.
struct Bash(TempDir);

impl Bash {
    fn new() -> Self {
        let folder = testbed::folder();
        symlink(program(), folder.path().join("corosync-ipc")).unwrap();
        fs::write(folder.path().join("script"), outside(&["completions", "bash"]).stdout).unwrap();
        Self(folder)
    }

    /// What it would offer for the last of these words. It must not say anything.
    #[track_caller]
    fn completes(&self, place: &impl Place, words: &[&str]) -> Vec<String> {
        const SCRIPT: &str = r#"PATH=$0:$PATH; source "$0/script"
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); name=$(complete -p "$1"); name=${name#* -F }
            ${name%% *} "$1" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
            for word in "${COMPREPLY[@]}"; do printf '%s\n' "$word"; done"#;
        let bash = place.at(Path::new("bash")).args(["--norc", "--noprofile", "-c", SCRIPT]);
        let output = bash.arg(self.0.path()).arg("corosync-ipc").args(words).run();
        assert_eq!(output.stderr, "", "{words:?}");
        output.success().lines().map(str::to_owned).collect()
    }

    /// Waits until it offers these words, in any order. A daemon on a busy machine may be too slow
    /// for a shell.
    #[track_caller]
    fn comes_to_complete(&self, place: &impl Place, words: &[&str], expected: &[&str]) {
        let offered = || {
            let mut offered = self.completes(place, words);
            offered.sort();
            offered
        };
        let what = format!("{words:?} becomes {expected:?}, not {:?}", offered());
        eventually(&what, || offered() == expected);
    }
}

#[test]
fn bash_completes_every_word() {
    let (bash, nowhere) = (Bash::new(), nowhere());
    let completes = |words: &[&str]| bash.completes(&nowhere, words);
    for words in COMMANDS {
        let (last, before) = words.split_last().unwrap();
        let half = &last[..last.len() - 1];
        let half = [before, &[half]].concat();
        assert!(completes(&half).iter().any(|word| word == last), "{words:?}");
        let options = completes(&[words, &["--he"]].concat());
        assert_eq!(options, ["--help"], "{words:?}");
    }
    assert_eq!(completes(&["cmap", "list", "--map", "s"]), ["stats"]);
    assert_eq!(completes(&["cfg", "shutdown", "--reg"]), ["--regardless"]);
    assert_eq!(completes(&["completions", "el"]), ["elvish"]);
    // No daemon, no keys.
    assert_eq!(completes(&["cmap", "get", "totem."]), [""; 0]);
    assert_eq!(completes(&["cpg", "members", "a"]), [""; 0]);
}

#[test]
fn each_shell_has_a_script_and_gets_candidates() {
    let ask = |shell: &str, words: &[&str]| {
        let command = NodeCommand::here(program()).env("COROSYNC_IPC_COMPLETE", shell);
        let index = words.len().to_string();
        let command = command.env("_CLAP_COMPLETE_INDEX", index).args(["--", "corosync-ipc"]);
        command.args(words).run()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = outside(&["completions", shell]).success();
        assert!(script.contains("COROSYNC_IPC_COMPLETE") && script.contains(shell), "{script}");
        let status = ask(shell, &["stat"]).success();
        assert!(status.trim().starts_with("status"), "{shell}: {status}");
    }
    // Errors would stand in the middle of what a user types.
    let unknown = ask("nosuchshell", &["stat"]);
    assert_eq!((unknown.code(), &*unknown.stdout, &*unknown.stderr), (1, "", ""));
    // Not asked.
    assert_fails(&ask("", &["stat"]), 2, &["unrecognized subcommand"]);
}

fn keys_and_groups_of_the_daemon_are_completed(place: &impl Place) {
    let bash = Bash::new();
    let completes = |words: &[&str]| bash.completes(place, words);
    let name = "totem.cluster_name";
    for words in [
        &["cmap", "get"][..],
        &["cmap", "get", "totem.version"],
        &["cmap", "set"],
        &["cmap", "list"],
        &["cmap", "watch"],
    ] {
        bash.comes_to_complete(place, &[words, &["totem.cluster_n"]].concat(), &[name]);
    }
    eventually("all keys", || completes(&["cmap", "get", ""]).contains(&name.to_owned()));
    assert_eq!(completes(&["cmap", "set", name, "st"]), ["str"]);
    if version() >= [2, 99, 0, 0] {
        let words = ["cmap", "list", "--map", "stats", "stats.srp."];
        let stats =
            eventually("statistics", || Some(completes(&words)).filter(|stats| !stats.is_empty()));
        assert!(stats.iter().all(|key| key.starts_with("stats.srp.")), "{stats:?}");
        // corosync may not survive being asked for connections.
        let words = ["cmap", "get", "--map", "stats", "stats."];
        let stats =
            eventually("statistics", || Some(completes(&words)).filter(|stats| !stats.is_empty()));
        assert!(stats.contains(&"stats.ipcs.global.active".to_owned()), "{stats:?}");
        assert!(!stats.iter().any(|key| key.starts_with("stats.ipcs.service")), "{stats:?}");
        let words = ["cmap", "list", "--map=stats", "stats.ipcs."];
        let global = ["stats.ipcs.global.active", "stats.ipcs.global.closed"];
        bash.comes_to_complete(place, &words, &global);
    }

    // Of others, a shell would run or change some.
    let names = ["completed", r"completed\x00", "completed $(touch x)", "completed*", "-completed"];
    let joined = command(place, &[&["cpg", "join", "--"], &names[..]].concat()).interactive();
    let joined = joined.spawn();
    for group in names {
        joined.wait_stdout(&format!("confchg: {group} members"));
    }
    let with_nul = r"completed\\x00";
    for (words, groups) in [
        (&["cpg", "members", "comp"][..], &["completed", with_nul][..]),
        (&["cpg", "send", r"completed\\"], &[with_nul]),
        (&["cpg", "join", "completed", r"completed\"], &[with_nul]),
    ] {
        bash.comes_to_complete(place, words, groups);
    }
    // As bash reads it.
    let read = place.at(Path::new("bash")).args(["-c", r"printf %s completed\\x00"]);
    assert_eq!(read.run().stdout, r"completed\x00");
    joined.kill();
}

#[test]
fn the_daemon_that_the_line_names_is_asked() {
    let (bash, nowhere) = (Bash::new(), nowhere());
    let corosync = Corosync::start().unwrap();
    let folder = corosync.endpoint().shm_root_path().to_str().unwrap();
    let named = ["--socket-dir", folder, "--shm-root", folder];
    let before = [&named[..], &["cmap", "get", "totem.cluster_n"]].concat();
    bash.comes_to_complete(&nowhere, &before, &["totem.cluster_name"]);
    let behind = [&["cmap", "delete"], &named[..], &["totem.cluster_n"]].concat();
    bash.comes_to_complete(&nowhere, &behind, &["totem.cluster_name"]);
    // It would not have the keys of this one.
    let embedded = ["--embedded", "cmap", "get", "totem.cluster_n"];
    assert_eq!(bash.completes(corosync.endpoint(), &embedded), [""; 0]);
}

#[test]
fn a_daemon_that_is_stopped_does_not_hold_up_the_shell() {
    let bash = Bash::new();
    let mut served = Served::start();
    let key = ["cmap", "get", "totem.cluster_n"];
    bash.comes_to_complete(&served, &key, &["totem.cluster_name"]);
    served.process().signal(Signal::SIGSTOP);
    assert_eq!(bash.completes(&served, &key), [""; 0]);
    assert_eq!(bash.completes(&served, &["cpg", "members", "a"]), [""; 0]);
    assert_eq!(bash.completes(&served, &["cmap", "get", "--ti"]), ["--timeout"]);
    served.process().signal(Signal::SIGCONT);
}
