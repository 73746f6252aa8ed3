//! Wrong input, and what stands between the command and the daemon.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use bytes::Bytes;
use corosync_ipc::codec::setup::{CONNECT_REQUEST_SIZE, ConnectReply, Generation, TransportType};
use nix::libc;
use serde_json::Value;
use testbed::{Cluster, lacks, shared_one, skip};

use super::served::{Place, Served, against_both, serve};
use super::{NOBODY, assert_fails, assert_one_line, command, json, ok, outside, program, run};

against_both! { wrong_input_is_one_line_and_changes_nothing }

fn wrong_input_is_one_line_and_changes_nothing(node: &impl Place) {
    ok(node, &["cmap", "set", "wrong.number", "u8", "1"]);
    ok(node, &["cmap", "set", "wrong.text", "str", "text"]);
    let ours = || json(node, &["cmap", "list", "wrong."]);
    let before = ours();
    let name = "k".repeat(256);
    for (args, status, words) in [
        (
            &["cmap", "get", "no.such.key"][..],
            1,
            &["CS_ERR_NOT_EXIST", "no such key: no.such.key"][..],
        ),
        (&["cmap", "delete", "no.such.key"], 1, &["CS_ERR_NOT_EXIST", "no.such.key"]),
        (&["cmap", "increment", "no.such.key"], 1, &["CS_ERR_NOT_EXIST", "no.such.key"]),
        (
            &["cmap", "increment", "wrong.text"],
            1,
            &["CS_ERR_INVALID_PARAM", "wrong.text is not an integer"],
        ),
        (
            &["cmap", "set", "totem.version", "u32", "3"],
            1,
            &["CS_ERR_ACCESS", "totem.version is read-only"],
        ),
        (&["cmap", "delete", "totem.version"], 1, &["CS_ERR_ACCESS", "totem.version is read-only"]),
        (&["cmap", "set", "wrong.number", "u99", "1"], 2, &["u99", "u32"]),
        (&["cmap", "set", "wrong.number", "u8", "300"], 2, &["300", "u8", "0 to 255"]),
        (&["cmap", "set", "wrong.number", "u8", "-1"], 2, &["-1", "u8", "0 to 255"]),
        (
            &["cmap", "set", "wrong.number", "u8", "text"],
            2,
            &["invalid u8 \"text\": not an integer"],
        ),
        (&["cmap", "set", "wrong.number", "flt", "1e99"], 2, &["out of the range of flt"]),
        (&["cmap", "set", "wrong.number", "bin", "no base64"], 2, &["invalid base64", "@FILE"]),
        (&["cmap", "set", "wrong.number", "u8"], 2, &["<VALUE>", "--help"]),
        (&["cmap", "set", &name, "u8", "1"], 2, &["key", "3 to 255", "256"]),
        (&["cmap", "get", &name], 2, &["key", "3 to 255", "256"]),
        (&["cmap", "list", &name], 2, &["prefix", "255"]),
        (&["cmap", "watch", &name], 2, &["prefix", "255"]),
        (&["cmap", "watch", ""], 2, &["'*'"]),
        (&["cmap", "get", "white space"], 2, &["' ' is not allowed in a key"]),
        (&["cmap", "get", "ab"], 2, &["3 to 255"]),
        (&["cmap", "get", "a\x01b"], 2, &[r"'\x01' is not allowed in a key"]),
        (
            &["cpg", "members", "a\x01\\b"],
            2,
            &[r"value 'a\x01\b' for", r#"invalid escape in "a\x01\b""#],
        ),
        (
            &["status", "--timeout", "1\x1b"],
            2,
            &[r"value '1\x1b' for", r#"invalid duration "1\x1b""#],
        ),
        (&["cmap", "frobnicate"], 2, &["frobnicate", "--help"]),
        (&["cmap", "get", "wrong.text", "--foo"], 2, &["'--foo' found; try --help"]),
        (&["cmap", "get", "wrong.text", "--reason"], 2, &["'--reason' found; try --help"]),
        (
            &["cmap", "get", "wrong.text", "--jsn"],
            2,
            &["'--jsn' found tip: ", "'--json'; try --help"],
        ),
        (&["cmap", "list", "--map", "attic"], 2, &["attic", "icmap"]),
        (&["status", "--timeout", "soon"], 2, &["soon", "500ms"]),
        (&["status", "--timeout", "0s"], 2, &["--timeout", "more than 0"]),
        (&["status", "--timeout", "20"], 2, &["--timeout", "5s"]),
        (
            &["status", "--timeout", "0.0000001ms", "--server-uid", "0"],
            2,
            &["--timeout", "below 1ns"],
        ),
        (
            &["status", "--server-uid", "nobody"],
            2,
            &["--server-uid", "not a user id: use a number"],
        ),
        (&["cmap", "set", "wrong.number", "u8", "\x1b[2J\u{85}"], 2, &[r"\x1b[2J\xc2\x85"]),
        (&["status", "--ring-size", "1"], 2, &["1", "4096"]),
        (&["status", "--abstract", "--socket-dir", "/run"], 2, &["--abstract", "--socket-dir"]),
        (&["quorum", "votes", "many"], 2, &["many"]),
    ] {
        assert_fails(&run(node, args), status, words);
    }
    let nonsense = command(node, &["status"]).env("COROSYNC_IPC_TIMEOUT", "soon").run();
    assert_fails(&nonsense, 2, &["COROSYNC_IPC_TIMEOUT", "soon"]);
    let none = command(node, &["status"]).env("COROSYNC_IPC_TIMEOUT", "0").run();
    assert_fails(&none, 2, &["COROSYNC_IPC_TIMEOUT", "more than 0"]);
    // Options win.
    let overridden =
        command(node, &["cmap", "get", "wrong.text", "--timeout", "60s", "--server-uid", "0"]);
    let overridden =
        overridden.env("COROSYNC_IPC_TIMEOUT", "soon").env("COROSYNC_IPC_SERVER_UID", "me").run();
    assert_eq!((overridden.stdout.as_str(), overridden.stderr.as_str()), ("text\n", ""));

    // Two mebibytes fit on no command line, so they come from a file or a pipe.
    let big = vec![b'x'; 2 << 20];
    let piped = command(node, &["cmap", "set", "wrong.big", "bin", "-"]).input(big.clone()).run();
    assert_fails(&piped, 2, &["standard input", "16384"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("big");
    fs::write(&file, &big).unwrap();
    let at_file = format!("@{}", file.display());
    assert_fails(&run(node, &["cmap", "set", "wrong.big", "bin", &at_file]), 2, &["big", "16384"]);
    let line = [&b"wrong.big str "[..], &big].concat();
    assert_fails(
        &command(node, &["cmap", "load", "-"]).input(line).run(),
        2,
        &["line 1", "2097152", "16384"],
    );

    assert_eq!(ours(), before);
}

#[test]
fn without_a_daemon_everything_ends_with_3() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    for args in [
        &["status"][..],
        &["cmap", "get", "totem.version"],
        &["cmap", "set", "my.key", "u8", "1"],
        &["cmap", "list", "--map", "stats"],
        &["cmap", "watch", "my.key"],
        &["quorum", "status", "--check"],
        &["quorum", "nodes"],
        &["quorum", "watch"],
        &["quorum", "expected", "3"],
        &["quorum", "votes", "3"],
    ] {
        let output = outside(&[args, &["--socket-dir", directory]].concat());
        assert_eq!((output.code(), output.stdout.len()), (3, 0), "{args:?}");
        assert_one_line(&output.stderr, &[directory, "No such file", "CS_ERR_NOT_EXIST"]);
    }
    let doctor = outside(&["--socket-dir", "/no/such", "doctor"]);
    let told = doctor.stdout;
    assert!(told.contains("no such directory: /no/such"), "{told}");
    assert!(!told.contains("namespace: `nsenter"), "{told}");
    let doctor = outside(&["--socket-dir", directory, "doctor"]);
    assert_eq!(doctor.code(), 3);
    let verbose = outside(&["-v", "--socket-dir", directory, "cmap", "get", "totem.version"]);
    let stderr = verbose.stderr;
    for word in ["connecting service=cmap", "cannot connect service=cmap", directory] {
        assert!(
            stderr.lines().any(|line| line.contains("Z DEBUG ") && line.contains(word)),
            "{stderr}"
        );
    }
    assert_one_line(&(stderr.lines().last().unwrap().to_owned() + "\n"), &["no cmap socket"]);
    let told = doctor.stdout;
    // What all have in common is told once.
    assert_eq!(told.matches("failed at the socket").count(), 1, "{told}");
    assert_eq!(told.matches("->").count(), 1, "{told}");
    assert!(told.contains("\n            so did cpg, cfg, quorum, votequorum\n"), "{told}");
    let line = doctor.stderr;
    assert!(!line.contains("corosync-ipc doctor"), "{line}");
    // The question is about what can be wrong.
    let line = outside(&["--socket-dir", directory, "cfg", "local"]).stderr;
    assert!(line.contains("in this directory") && !line.contains("network namespace"), "{line}");
    assert!(line.contains("`corosync-ipc doctor`") && line.contains("--embedded"), "{line}");
    // What is wrong by itself is so without a daemon.
    let wrong = outside(&["--socket-dir", directory, "cmap", "set", "my.key", "u8", "300"]);
    assert_eq!(wrong.code(), 2);
}

#[test]
fn other_users_are_refused_and_told_what_to_configure() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    for args in [&["cmap", "get", "totem.version"][..], &["status"], &["quorum", "watch"]] {
        let output = command(node, args).user(NOBODY, NOBODY).run();
        assert_fails(&output, 1, &["uid 65534", "CS_ERR_ACCESS", "uidgid"]);
    }
    let doctor = command(node, &["doctor"]).user(NOBODY, NOBODY).run();
    assert_eq!(doctor.code(), 1);
    assert!(
        doctor.stdout.contains("failed at the handshake") && doctor.stdout.contains("uidgid"),
        "{}",
        doctor.stdout
    );

    assert!(doctor.stdout.contains("; then `corosync-ipc cfg reload`"), "{}", doctor.stdout);
    // As root of a user namespace, whose numbers are nothing to the daemon.
    let inside =
        |program: &Path| node.command("unshare").args(["-U", "-r"]).arg(program).user(1000, 1001);
    if inside(Path::new("true")).run().is_success() {
        let doctor = inside(&program()).args(["--server-uid", "65534", "doctor"]).run();
        assert!(
            doctor.stdout.contains("outside of this user namespace 1000 and 1001\n"),
            "{doctor:?}"
        );
        assert!(doctor.stdout.contains("`uidgid { uid: 1000 }`"), "{doctor:?}");
        let local = inside(&program()).args(["--server-uid", "65534", "cfg", "local"]).run();
        assert_fails(&local, 1, &["uid 0", "in this user namespace root is another user"]);
        assert!(!local.stderr.contains("only root"), "{local:?}");
    }

    let allowed =
        Cluster::builder().extra_config(&format!("uidgid {{\n  uid: {NOBODY}\n}}")).start();
    let output =
        command(allowed.node(1), &["cmap", "get", "totem.version"]).user(NOBODY, NOBODY).run();
    assert_eq!(output.success(), "2\n");
}

/// A daemon that chooses another transport.
#[test]
fn the_doctor_knows_a_daemon_with_datagram_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("cmap")).unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            socket.read_exact(&mut [0; CONNECT_REQUEST_SIZE]).unwrap();
            let [request, response, event] =
                ["control", "", ""].map(|path| Bytes::from_static(path.as_bytes()));
            let (generation, transport) = (Generation::Libqb013, TransportType::SOCKET);
            let reply = ConnectReply {
                generation,
                error: 0,
                transport,
                max_msg_size: 8192,
                cookie: 1,
                request,
                response,
                event,
            };
            socket.write_all(&reply.encode().unwrap()).unwrap();
        }
    });
    let doctor = outside(&["--socket-dir", folder.path().to_str().unwrap(), "doctor"]);
    let told = doctor.stdout;
    assert!(told.contains("cmap        failed at the handshake: "), "{told}");
    assert!(
        told.contains("-> the daemon's corosync.conf has qb { ipc_type: socket }")
            && !told.contains("no corosync listens")
    );
}

#[test]
fn the_doctor_knows_rings_that_are_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let process = serve(folder.path()).spawn();
    process.wait_stdout("serving node 1");
    let root = tempfile::tempdir().unwrap();
    let root = root.path().to_str().unwrap();
    let run = |args: &[&str]| {
        let place = ["--socket-dir", folder.path().to_str().unwrap(), "--shm-root", root];
        outside(&[&place, args].concat())
    };
    let doctor = run(&["doctor"]);
    let told = &doctor.stdout;
    assert!(told.contains("cmap        failed at the rings: "), "{told}");
    assert!(told.contains("-> the daemon has its rings elsewhere than in "), "{told}");
    assert!(told.contains(root) && told.contains("--shm-root"), "{told}");
    assert!(!told.contains("no corosync listens"), "{told}");
    // As with rings that are not visible.
    assert_eq!(doctor.code(), 3, "{told}");
    let local = run(&["cfg", "local"]);
    assert_eq!(local.code(), 3, "{local:?}");
    assert_one_line(&local.stderr, &["--shm-root"]);
}

/// Not the daemon, but the command has too few file descriptors.
#[test]
fn the_doctor_knows_its_own_limit_of_open_files() {
    let served = Served::start();
    let script = "ulimit -n 4 && exec \"$0\" doctor";
    let doctor = served.at(Path::new("/bin/sh")).args(["-c", script]).arg(program()).run();
    assert_eq!(doctor.code(), 1, "{doctor:?}");
    // In the words of the libc that the command is linked with.
    let error = io::Error::from_raw_os_error(libc::EMFILE).to_string();
    assert!(doctor.stdout.contains(&error), "{doctor:?}");
    assert!(doctor.stdout.contains("-> this process, not the daemon, "), "{doctor:?}");
    assert!(doctor.stdout.contains("ulimit -n"), "{doctor:?}");
    assert!(!doctor.stdout.contains("the daemon's log"), "{doctor:?}");
}

#[test]
fn the_doctor_sees_where_it_is() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let program = program();
    let doctor = |script: &str| {
        let script = format!("{script} && exec \"$0\" doctor \"$@\"");
        node.command("unshare").args(["-m", "sh", "-c", &script]).arg(&program)
    };
    let read_only = doctor("mount -o remount,bind,ro /dev/shm").run();
    assert_eq!(read_only.code(), 3, "{read_only:?}");
    assert!(read_only.stdout.contains("KiB free, read-only\n"), "{read_only:?}");
    assert!(read_only.stdout.contains("-> mount /dev/shm for writing"), "{read_only:?}");
    assert_eq!(read_only.stdout.matches("->").count(), 1, "{read_only:?}");
    let get = "mount -o remount,bind,ro /dev/shm && exec \"$0\" cmap get totem.version";
    let read_only = node.command("unshare").args(["-m", "sh", "-c", get]).arg(&program).run();
    assert_fails(&read_only, 3, &["mounted read-only", "Read-only file system", "CS_ERR_LIBRARY"]);
    let without_proc = doctor("mount -t tmpfs none /proc").args(["--socket-dir", "/no/such"]).run();
    assert_eq!(without_proc.code(), 3, "{without_proc:?}");
    assert!(
        without_proc.stdout.contains("-> start corosync, unless it runs: "),
        "{without_proc:?}"
    );
    let only_one = run(node, &["doctor"]).success();
    assert_eq!(only_one.matches("Processes:").count(), 1, "{only_one}");
}

/// As SELinux and AppArmor deny: what user and permissions allow.
#[test]
fn the_doctor_shows_the_label_of_who_is_denied() {
    const LABEL: &str = "system_u:system_r:container_t:s0:c1,c2";
    if skip() || lacks("strace") {
        return;
    }
    let node = shared_one().node(1);
    let folder = tempfile::tempdir().unwrap();
    let label = folder.path().join("label");
    fs::write(&label, format!("{LABEL}\0")).unwrap();
    let doctor = |strace: &[&str], args: &[&str]| {
        let script = r#"mount --bind "$1" /proc/$$/attr/current && shift && exec "$0" doctor "$@""#;
        let strace = [&["-m", "strace", "-f", "-qq", "-o", "/dev/null"], strace].concat();
        let sh = node.command("unshare").args(strace).args(["sh", "-c", script]);
        sh.arg(program()).arg(&label).args(args).run()
    };
    let connect = ["-e", "trace=connect", "-e", "inject=connect:error=EACCES"];
    let services = ["cmap", "cpg", "cfg", "quorum", "votequorum"];
    let rings = services.map(|service| format!("qb-request-{service}-header"));
    let look = ["-e", "trace=newfstatat", "-e", "inject=newfstatat:error=EACCES"];
    let look: Vec<&str> = rings.iter().flat_map(|ring| ["-P", ring]).chain(look).collect();
    for (strace, args, status, stage, advice) in [
        (&connect[..], &[][..], 1, "socket", "abstract socket has no permissions"),
        (&connect, &["--socket-dir", "/run"], 1, "socket", "search the socket's directory"),
        (&look, &[], 3, "rings", "search /dev/shm"),
    ] {
        let doctor = doctor(strace, args);
        assert_eq!(doctor.code(), status, "{doctor:?}");
        let told = doctor.stdout;
        assert!(told.contains(&format!("\nLabel:            {LABEL}\n")), "{told}");
        assert!(told.contains(&format!("failed at the {stage}: ")), "{told}");
        assert!(told.contains(advice) && told.contains("SELinux or AppArmor"), "{told}");
        assert_eq!(told.matches("->").count(), 1, "{told}");
    }
    let undisturbed = ["-e", "trace=none"];
    assert!(!doctor(&undisturbed, &[]).success().contains("Label:"));
    let document: Value =
        serde_json::from_str(&doctor(&undisturbed, &["--json"]).success()).unwrap();
    assert_eq!(document["label"], LABEL);
    assert_eq!(document["pid_at_daemon"], document["pid"]);
}

#[test]
fn options_lead_to_the_daemon_and_win_over_the_environment() {
    if skip() {
        return;
    }
    let node = shared_one().node(1);
    let get = ["cmap", "get", "totem.version"];
    let with = |before: &[&str], after: &[&str]| run(node, &[before, &get, after].concat());
    for options in [
        &["--abstract"][..],
        &["--timeout", "20s"],
        &["--ring-size", "16384"],
        &["--shm-root", "/dev/shm"],
    ] {
        assert_eq!(with(options, &[]).success(), "2\n", "{options:?}");
        assert_eq!(with(&[], options).success(), "2\n", "{options:?}");
    }
    assert_fails(
        &with(&["--shm-root", "/proc"], &[]),
        3,
        &["/proc", "CS_ERR_NOT_EXIST", "/dev/shm visible"],
    );
    let misled = |args: &[&str]| {
        command(node, &get).args(args).env("COROSYNC_IPC_SOCKET_DIR", "/no/such").run()
    };
    assert_fails(&misled(&[]), 3, &["/no/such/cmap"]);
    assert_eq!(misled(&["--abstract"]).success(), "2\n");
    let misled = |args: &[&str]| {
        command(node, &get).args(args).env("COROSYNC_IPC_SHM_ROOT", "/no/such").run()
    };
    assert_fails(&misled(&[]), 3, &["/no/such"]);
    assert_eq!(misled(&["--shm-root", "/dev/shm"]).success(), "2\n");

    let verbose = with(&["-v"], &[]);
    assert!(verbose.stderr.contains("connected service=cmap"), "{verbose:?}");
    assert!(verbose.stderr.contains("generation=libqb 0."), "{verbose:?}");
    assert_eq!(verbose.success(), "2\n");
}

#[test]
fn sockets_in_a_directory_are_found() {
    if skip() {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    let node = cluster.node(1);
    let get = ["cmap", "get", "totem.version"];
    assert_eq!(ok(node, &get), "2\n");
    assert_fails(&run(node, &[&get[..], &["--abstract"]].concat()), 3, &["abstract address"]);
    let doctor = json(node, &["doctor"]);
    let file = doctor["sockets_seen"]["files"][0].as_str().expect("a socket in a usual directory");
    let directory = file.strip_suffix("/cmap").unwrap();
    assert_eq!(ok(node, &[&get[..], &["--socket-dir", directory]].concat()), "2\n");

    // Who looks in the wrong place is told of the right one.
    let lost = run(node, &["doctor", "--abstract"]);
    assert_eq!(lost.code(), 3);
    assert!(lost.stdout.contains(&format!("use --socket-dir {directory}\n")), "{}", lost.stdout);
}
