//! `quorum watch --exec`: programs that are run when quorum changes.

use std::fs;
use std::path::{Path, PathBuf};

use corosync_ipc::embedded::Cluster as EmbeddedCluster;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::{Host, NodeCommand, Process, eventually, full_pipe};

use super::served::Place;
use super::{assert_fails, command, json, lines, outside, program};

testbed::on_each_host! {
    a_hook_is_told_what_quorum_is;
    a_hook_has_nothing_of_the_watch_but_what_it_is_told;
    a_hook_that_fails_is_told_and_ends_nothing;
    a_hook_that_is_late_is_ended_with_all_that_it_started;
    a_hook_ends_with_its_watch;
    a_hook_is_told_when_nobody_reads_the_lines;
    a_hook_does_not_wait_for_who_reads_the_lines;
}

/// A folder for the files of a hook.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(testbed::folder())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Waits until a file has so many lines.
    #[track_caller]
    fn wait_lines(&self, name: &str, count: usize) -> Vec<String> {
        eventually("the hook has run", || {
            let text = self.text(name);
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            assert!(lines.len() <= count, "{lines:?}");
            (lines.len() == count && text.ends_with('\n')).then_some(lines)
        })
    }

    /// A watch that runs a script in this folder.
    fn watch(&self, place: &impl Place, script: &str, args: &[&str]) -> NodeCommand {
        let script = format!("cd {} || exit\n{script}", self.0.path().display());
        let watch = command(place, &["--json", "quorum", "watch", "--exec", &script]);
        watch.args(args)
    }
}

/// Waits until no process of this group is left.
#[track_caller]
fn wait_gone(group: &str) {
    let group = Pid::from_raw(group.parse().unwrap());
    eventually("the group is gone", || killpg(group, None) == Err(Errno::ESRCH));
}

/// The children that a process has, zombies included.
fn children(process: &Process) -> Vec<String> {
    let tasks = fs::read_dir(Path::new("/proc").join(process.pid().to_string()).join("task"));
    let children = tasks
        .unwrap()
        .map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    children
        .flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn a_hook_is_told_what_quorum_is(host: &Host) {
    let files = Files::new();
    let script = "cat >>input; echo noise
        echo \"$COROSYNC_IPC_QUORATE,$COROSYNC_IPC_NODE_ID,$COROSYNC_IPC_MEMBERS,$COROSYNC_IPC_TOTAL_VOTES,$COROSYNC_IPC_RING_ID,$COROSYNC_IPC_DROPPED\" >>runs";
    let watch = files.watch(host, script, &["--reconnect"]).spawn();
    let first = files.wait_lines("runs", 1).remove(0);
    let mut status = json(host, &["quorum", "status"]);
    status["event"] = json!("quorum");
    let ring = format!("1.{:x}", status["ring_id"]["seq"].as_u64().unwrap());
    assert_eq!(first, format!("yes,1,1,1,{ring},0"));
    let input: Value = serde_json::from_str(files.text("input").trim()).unwrap();
    assert_eq!(input, status);

    host.kill();
    let unknown = files.wait_lines("runs", 2).remove(1);
    assert_eq!(unknown, "unknown,,,,,0");
    host.start();
    // A daemon that has just started may not be quorate for a moment.
    eventually("it is quorate again", || {
        files.text("runs").lines().last().is_some_and(|line| line.starts_with("yes,1,1,1,"))
    });
    for line in files.text("input").lines() {
        let document: Value = serde_json::from_str(line).unwrap();
        let is_known = document["quorate"].is_boolean();
        assert_eq!(is_known, document["errors"] == json!({}), "{document}");
    }
    // Its output is apart.
    assert!(!lines(&watch.stdout()).is_empty() && watch.stderr().contains("noise"));
    eventually("no child is left", || children(&watch).is_empty());
}

fn a_hook_has_nothing_of_the_watch_but_what_it_is_told(host: &Host) {
    let files = Files::new();
    let script = "read -r pid name state parent group rest </proc/$$/stat
        echo $$ $group >group; ls /proc/$$/fd >descriptors
        grep -E 'Sig(Blk|Ign)' /proc/self/status >signals; echo done >>runs";
    let watch = files.watch(host, script, &["--count", "1"]).env("KEPT", "yes").run();
    assert_eq!(watch.code(), 0, "{watch:?}");
    // The command has waited for it.
    assert_eq!(files.text("runs"), "done\n");
    let (pid, group) = files
        .text("group")
        .trim()
        .split_once(' ')
        .map(|(pid, group)| (pid.to_owned(), group.to_owned()))
        .unwrap();
    assert_eq!(pid, group);
    // The shell keeps some for redirections, and the test has given it others.
    let shell = host.command("/bin/sh").args(["-c", "ls /proc/$$/fd"]).run().success();
    let given: Vec<&str> = shell.lines().chain(["10", "11", "12"]).collect();
    let descriptors = files.text("descriptors");
    assert!(descriptors.lines().all(|name| given.contains(&name)), "{descriptors} {given:?}");
    let signals = files.text("signals");
    let mask = |name: &str| {
        let line = signals.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let bits = |all: &[Signal]| all.iter().fold(0, |mask, one| mask | 1 << (*one as u64 - 1));
    let ending = bits(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    assert_eq!(mask("SigBlk:") & ending, 0, "{signals}");
    assert_eq!(mask("SigIgn:") & bits(&[Signal::SIGPIPE]), 0, "{signals}");
}

fn a_hook_that_fails_is_told_and_ends_nothing(host: &Host) {
    let files = Files::new();
    let script =
        "echo $COROSYNC_IPC_QUORATE >>runs; [ $COROSYNC_IPC_QUORATE = yes ] || kill -9 $$; exit 3";
    let watch = files.watch(host, script, &["--reconnect"]).spawn();
    eventually("it is told", || watch.stderr().contains("corosync-ipc: hook: exit status 3\n"));
    host.kill();
    eventually("it is told", || watch.stderr().contains("corosync-ipc: hook: ended by SIGKILL\n"));
    host.start();
    eventually("it runs again", || {
        let text = files.text("runs");
        text.lines().count() >= 3 && text.ends_with("yes\n")
    });

    let none = ["quorum", "watch", "--count", "1", "--exec", "/no/such/hook"];
    let output = command(host, &none).run();
    assert_eq!(output.code(), 0, "{output:?}");
    assert!(output.stderr.contains("hook: cannot start /no/such/hook: "), "{output:?}");
    // Without a shell, and looked for as a shell looks for it.
    let output = command(host, &["quorum", "watch", "--count", "1", "--exec", "env"]).run();
    assert_eq!(output.code(), 0, "{output:?}");
    assert!(output.stderr.contains("COROSYNC_IPC_QUORATE=yes\n"), "{output:?}");
    assert!(!output.stderr.contains("hook: "), "{output:?}");
    // It is told the end too.
    let watch = files.watch(host, "echo last $COROSYNC_IPC_QUORATE >>lasts", &[]).spawn();
    files.wait_lines("lasts", 1);
    host.kill();
    assert_eq!(watch.wait().code(), 3);
    assert_eq!(files.text("lasts"), "last yes\nlast unknown\n");
}

fn a_hook_that_is_late_is_ended_with_all_that_it_started(host: &Host) {
    for (script, how) in [
        ("sleep 1000 & echo $$ >group; wait", "ended by SIGTERM"),
        ("trap '' TERM; sleep 1000 & echo $$ >group; wait", "ended by SIGKILL"),
        ("trap 'exit 4' TERM; sleep 1000 & echo $$ >group; wait", "exit status 4"),
    ] {
        // On a busy machine the script may need a while to begin.
        let late = ["1s", "5s", "25s"].into_iter().find_map(|limit| {
            let files = Files::new();
            let watch = files.watch(host, script, &["--exec-timeout", limit]).spawn();
            let told = format!("corosync-ipc: hook: still ran after {limit}: ");
            eventually("it is told", || watch.stderr().contains(&told));
            let group = files.text("group");
            group.ends_with('\n').then_some((watch, told, group))
        });
        let (watch, told, group) = late.expect("the script begins");
        eventually("how it ended", || watch.stderr().contains(&format!("{told}{how}\n")));
        wait_gone(group.trim());
        assert_eq!(children(&watch), [""; 0]);
    }
}

fn a_hook_ends_with_its_watch(host: &Host) {
    let files = Files::new();
    let mut watch = files.watch(host, "echo $$ >group; sleep 1000", &[]).spawn();
    files.wait_lines("group", 1);
    watch.signal(Signal::SIGTERM);
    let output = watch.wait();
    assert_eq!(output.code(), -(Signal::SIGTERM as i32), "{output:?}");
    assert!(output.stderr.contains("hook: was ended with this command: ended by SIGTERM\n"));
    wait_gone(files.text("group").trim());
}

fn a_hook_is_told_when_nobody_reads_the_lines(host: &Host) {
    for (index, watch) in ["quorum watch", "watch --events quorum"].into_iter().enumerate() {
        if index > 0 {
            host.start();
        }
        let files = Files::new();
        let hook = format!("echo $COROSYNC_IPC_QUORATE >>{}", files.path("runs").display());
        let script = format!("(\"$0\" {watch} --exec \"$1\"; echo ended $? >&2) | true");
        let shell = host.command("/bin/sh").args(["-c", &script]).arg(program()).arg(hook).spawn();
        // A daemon that has just started may not be quorate for a moment.
        eventually("the hook has run", || files.text("runs").ends_with("yes\n"));
        host.kill();
        let output = shell.wait();
        assert!(files.text("runs").ends_with("yes\nunknown\n"), "{}", files.text("runs"));
        let told = "corosync-ipc: nobody reads standard output any more; goes on for the hook\n";
        assert_eq!(output.stderr.matches(told).count(), 1, "{output:?}");
        assert!(output.stderr.ends_with("\nended 3\n"), "{output:?}");
    }
}

/// A pager, or a reader that is stopped.
fn a_hook_does_not_wait_for_who_reads_the_lines(host: &Host) {
    for (redirected, is_heard) in [("exec \"$@\" >\"$0\"", true), ("exec \"$@\" 2>\"$0\"", false)] {
        let files = Files::new();
        let pipe = files.path("pipe");
        let _full = full_pipe(&pipe);
        let hook = format!(
            "cd {} || exit; echo $COROSYNC_IPC_QUORATE >>runs
            [ $COROSYNC_IPC_QUORATE = unknown ] || exit 3; echo $$ >group; exec sleep 1000",
            files.0.path().display()
        );
        let command = host.command("/bin/sh").args(["-c", redirected]).arg(&pipe).arg(program());
        let mut watch = command.args(["quorum", "watch", "--reconnect", "--exec", &hook]).spawn();
        eventually("the hook has run", || files.text("runs").ends_with("yes\n"));
        host.kill();
        eventually("the hook has run", || files.text("runs").ends_with("yes\nunknown\n"));
        files.wait_lines("group", 1);
        watch.signal(Signal::SIGTERM);
        let output = watch.wait();
        assert_eq!(output.code(), -(Signal::SIGTERM as i32), "{output:?}");
        wait_gone(files.text("group").trim());
        for told in [
            "hook: exit status 3\n",
            "hook: was ended with this command: ended by SIGTERM\n",
            "corosync-ipc: standard output was not read: ",
        ] {
            assert_eq!(output.stderr.matches(told).count() > 0, is_heard, "{told} {output:?}");
        }
        host.start();
    }
}

#[test]
fn a_hook_is_a_program() {
    for watch in [&["quorum", "watch"][..], &["watch"]] {
        for none in ["", " \t"] {
            let output = outside(&[watch, &["--exec", none]].concat());
            assert_fails(&output, 2, &["--exec", "names no program"]);
        }
    }
}

#[test]
fn one_hook_runs_at_a_time_and_the_latest_state_wins() {
    let cluster = EmbeddedCluster::start(3).unwrap();
    let node = cluster.node(1).unwrap().endpoint().clone();
    let files = Files::new();
    let script = "echo $COROSYNC_IPC_QUORATE $COROSYNC_IPC_DROPPED >>runs
        while [ ! -e go ]; do sleep 0.05; done; echo end >>runs";
    let watch = files.watch(&node, script, &[]).spawn();
    assert_eq!(files.wait_lines("runs", 1), ["yes 0"]);
    let notified = |count: usize| {
        let quorum = |line: &&Value| line["event"] == json!("quorum");
        eventually("quorum is told", || {
            lines(&watch.stdout()).iter().filter(quorum).count() == count
        });
    };
    notified(1);
    for round in 0..2 {
        cluster.partition(&[&[1], &[2, 3]]).unwrap();
        notified(2 + 2 * round);
        if round == 0 {
            cluster.heal().unwrap();
            notified(3);
        }
    }
    fs::write(files.path("go"), "").unwrap();
    assert_eq!(files.wait_lines("runs", 4), ["yes 0", "end", "no 2", "end"]);
    assert!(watch.stderr().contains("corosync-ipc: hook: 2 states were dropped while it ran\n"));
    // Members come and go without a change of quorum.
    cluster.heal().unwrap();
    assert_eq!(files.wait_lines("runs", 6)[4..], ["yes 0", "end"]);
    cluster.partition(&[&[1, 2], &[3]]).unwrap();
    notified(6);
    cluster.partition(&[&[1], &[2], &[3]]).unwrap();
    assert_eq!(files.wait_lines("runs", 8)[6..], ["no 0", "end"]);
}
