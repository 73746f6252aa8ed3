//! What is printed on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use corosync_ipc::cpg::{self, GroupName};
use corosync_ipc::embedded::Corosync;
use nix::pty::{OpenptyResult, Winsize, openpty};

use super::{ok, program};

/// Standard output of a command that has a terminal of so many columns.
fn on_terminal(corosync: &Corosync, columns: u16, args: &[&str]) -> String {
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a terminal");
    let folder = corosync.endpoint().shm_root_path();
    let mut command = Command::new(program());
    command.env("COROSYNC_IPC_SOCKET_DIR", folder).env("COROSYNC_IPC_SHM_ROOT", folder);
    let mut child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(slave)
        .spawn()
        .expect("cannot run the command");
    // It keeps the other end open.
    drop(command);
    let text = read(master);
    assert!(child.wait().unwrap().success(), "{text}");
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
        for columns in [40, 32] {
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
