//! What is printed on a terminal.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use corosync_ipc::Endpoint;
use corosync_ipc::cpg::{self, GroupName};
use corosync_ipc::embedded::{Cluster, Corosync};
use nix::pty::{OpenptyResult, Winsize, openpty};

use super::{assert_one_line, ok, program};

/// The command, whose environment says nothing about colours but that they are known.
fn client(endpoint: &Endpoint, args: &[&str]) -> Command {
    let folder = endpoint.shm_root_path();
    let mut command = Command::new(program());
    command.args(args).env("COROSYNC_IPC_SOCKET_DIR", folder).env("COROSYNC_IPC_SHM_ROOT", folder);
    for variable in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "CI"] {
        command.env_remove(variable);
    }
    command.env("TERM", "xterm").stdin(Stdio::null());
    command
}

/// A terminal of so many columns, and the end that programs have.
fn terminal(columns: u16) -> OpenptyResult {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    openpty(Some(&size), None).expect("a terminal")
}

/// What a command writes to a terminal, which is its standard output or its standard error, and
/// whether it succeeded.
fn written(
    mut command: Command,
    columns: u16,
    which: fn(&mut Command, Stdio) -> &mut Command,
) -> (String, bool) {
    let OpenptyResult { master, slave } = terminal(columns);
    let mut child = which(&mut command, slave.into()).spawn().expect("cannot run the command");
    // It keeps the other end open.
    drop(command);
    let text = read(master);
    (text, child.wait().unwrap().success())
}

/// Standard output of a command that has a terminal of so many columns, without colours.
fn on_terminal(corosync: &Corosync, columns: u16, args: &[&str]) -> String {
    let mut command = client(corosync.endpoint(), args);
    command.env("NO_COLOR", "1");
    let (text, succeeded) = written(command, columns, Command::stdout);
    assert!(succeeded, "{text}");
    text
}

/// A terminal whose other end was closed fails where a file ends.
fn read(master: OwnedFd) -> String {
    let mut bytes = Vec::new();
    let _ = File::from(master).read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap().replace("\r\n", "\n")
}

fn sorted(text: &str) -> Vec<&str> {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words
}

#[test]
fn tables_fit_the_terminal() {
    let corosync = Corosync::builder()
        .node(1, "n1", "fd00:1234:5678:9abc::1", None)
        .node(2, "a-node-with-a-name", "fd00:1234:5678:9abc::2", None)
        .start()
        .unwrap();
    let _members: Vec<cpg::Client> = (1..=9)
        .map(|pid| {
            let client =
                cpg::Client::connect_with(corosync.endpoint(), cpg::Options::new().pid(1000 + pid))
                    .unwrap();
            client.join(&GroupName::new("a-group").unwrap()).unwrap();
            client
        })
        .collect();
    for args in [["cpg", "groups"], ["quorum", "nodes"], ["cfg", "links"], ["cfg", "nodes"]] {
        let wide = ok(corosync.endpoint(), &args);
        assert_eq!(on_terminal(&corosync, 200, &args), wide);
        assert_eq!(on_terminal(&corosync, 0, &args), wide);
        for columns in [40, 33] {
            let narrow = on_terminal(&corosync, columns, &args);
            assert!(narrow.lines().all(|line| line.len() <= columns.into()), "{narrow}");
            // All is there, and no word is cut. The heads may be there several times.
            let (narrow, wide) = (sorted(&narrow), sorted(&wide));
            assert!(wide.iter().all(|word| narrow.contains(word)), "{narrow:?} {wide:?}");
            assert!(narrow.iter().all(|word| wide.contains(word)), "{narrow:?} {wide:?}");
        }
    }
    let groups = on_terminal(&corosync, 40, &["cpg", "groups"]);
    let expected = "\
GROUP    a-group
NODE     1
PID      1001
NAME     n1
ADDRESS  fd00:1234:5678:9abc::1
";
    assert!(groups.starts_with(expected), "{groups}");
    let nodes = on_terminal(&corosync, 40, &["quorum", "nodes"]);
    let expected = "\
ID       1
VOTES    1
STATE    member
NAME     n1
ADDRESS  fd00:1234:5678:9abc::1 (local)

ID       2
VOTES    -
STATE    absent
NAME     a-node-with-a-name
ADDRESS  fd00:1234:5678:9abc::2
";
    assert_eq!(nodes, expected);
}

#[test]
fn long_addresses_and_names_fit_a_narrow_terminal() {
    let address = "fd00:1234:5678:9abc:def0:1234:5678:9abc";
    let name = "node-1.a-name-of-39-letters.example.org";
    let corosync = Corosync::builder()
        .node(1, "n1", "127.0.0.1", None)
        .node(2, name, address, None)
        .start()
        .unwrap();
    for args in [&["cfg", "nodes"][..], &["quorum", "nodes"], &["cfg", "links"], &["status"]] {
        let wide = ok(corosync.endpoint(), args);
        let narrow = on_terminal(&corosync, 40, args);
        assert!(narrow.lines().all(|line| line.len() <= 40), "{narrow}");
        for word in [address, name] {
            assert_eq!(narrow.contains(word), wide.contains(word), "{narrow}");
        }
    }
    let doctor = on_terminal(&corosync, 60, &["doctor"]);
    assert!(doctor.lines().all(|line| line.len() <= 60), "{doctor}");
    let wide = ok(corosync.endpoint(), &["quorum", "nodes"]);
    assert!(wide.contains(address) && wide.contains(name), "{wide}");
}

/// Red, and what it ends with.
const RED: [&str; 2] = ["\x1b[31m", "\x1b[0m"];

fn without_colours(text: &str) -> String {
    RED.into_iter().fold(text.to_owned(), |text, code| text.replace(code, ""))
}

#[test]
fn what_is_wrong_is_red_on_a_terminal_only() {
    let cluster = Cluster::start(3).unwrap();
    cluster.partition(&[&[1, 2], &[3]]).unwrap();
    let endpoint = cluster.node(3).unwrap().endpoint().clone();
    for (args, wrong) in [
        (&["status"][..], &["no", "2 (activity blocked)", "dead", "disconnected 1 2"][..]),
        (&["quorum", "status"], &["no", "dead"]),
        (&["quorum", "nodes"], &["dead"]),
        (&["cfg", "links"], &["disconnected 1 2"]),
        (&["cfg", "nodes"], &["unreachable", "disconnected"]),
    ] {
        let plain = ok(&endpoint, args);
        assert!(!plain.contains('\x1b'), "{plain:?}");
        let (red, _) = written(client(&endpoint, args), 200, Command::stdout);
        assert_eq!(without_colours(&red), plain);
        for wrong in wrong {
            let [begin, end] = RED;
            assert!(red.contains(&format!("{begin}{wrong}{end}")), "{wrong}: {red:?}");
        }
        for (variable, value) in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            let mut command = client(&endpoint, args);
            command.env(variable, value);
            assert_eq!(written(command, 200, Command::stdout).0, plain, "{variable}");
        }
        let mut command = client(&endpoint, args);
        let forced = command.env("CLICOLOR_FORCE", "1").output().unwrap().stdout;
        assert_eq!(String::from_utf8(forced).unwrap(), red);
        let (json, _) =
            written(client(&endpoint, &[args, &["--json"]].concat()), 200, Command::stdout);
        assert!(!json.contains('\x1b'), "{json:?}");
    }
    let watch = ["quorum", "watch", "--count", "1"];
    let (line, _) = written(client(&endpoint, &watch), 200, Command::stdout);
    assert!(line.contains(&format!("{}, ring ", RED.join("not quorate"))), "{line:?}");
    // It takes no room.
    let (narrow, _) = written(client(&endpoint, &["status"]), 40, Command::stdout);
    let plain = without_colours(&narrow);
    assert!(plain.lines().all(|line| line.len() <= 40), "{plain}");
}

#[test]
fn an_error_begins_in_red_on_a_terminal_only() {
    let corosync = Corosync::start().unwrap();
    let command = || client(corosync.endpoint(), &["cmap", "get", "no.such.key"]);
    let plain = String::from_utf8(command().output().unwrap().stderr).unwrap();
    assert_one_line(&plain, &["no.such.key"]);
    let (red, succeeded) = written(command(), 200, Command::stderr);
    assert!(!succeeded);
    let [begin, end] = RED;
    assert!(red.starts_with(&format!("{begin}corosync-ipc:{end} ")), "{red:?}");
    assert_eq!(without_colours(&red), plain);
}

#[test]
fn a_long_load_shows_progress_on_a_terminal_only() {
    let corosync = Corosync::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.txt");
    let lines: String = (0..3000).map(|number| format!("my.key{number} u32 1\n")).collect();
    fs::write(&file, lines + "^my.missing\n").unwrap();
    let command = || client(corosync.endpoint(), &["cmap", "load", file.to_str().unwrap()]);

    let (shown, succeeded) = written(command(), 80, Command::stderr);
    assert!(succeeded, "{shown:?}");
    assert!(shown.contains("/3001"), "{shown:?}");
    // The bar is gone in the end, and the warning stands on a line of its own.
    let warning = shown.find("corosync-ipc:").expect("a warning");
    assert!(shown[warning..].contains("no such key: my.missing\n"), "{shown:?}");
    assert!(shown.trim_end_matches(['\r', '\n']).ends_with("\x1b[2K"), "{shown:?}");

    let output = command().output().unwrap();
    assert_one_line(&String::from_utf8(output.stderr).unwrap(), &["my.missing"]);
    assert_eq!(output.stdout, b"");
}
