//! A real corosync with each transport and each kind of setup socket, and clients around it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use testbed::{IpcType, Setup, nothing_to_compare};

use super::Outcome::{self, Absent, Reached, Wall};
use super::{HERE, Place, Row};

/// A user that corosync.conf allows, and one that it does not.
const ALLOWED: u32 = 1000;
const STRANGER: u32 = 1001;

/// A directory that only root may search, with a link to the directory of Debian's sockets.
const CLOSED: &str = "/run/closed";

const COLUMNS: [&str; 4] =
    ["rings, abstract", "rings, directory", "datagrams, abstract", "datagrams, directory"];

/// Of a file system without `/etc/libqb`, as most containers have.
const WITHOUT_ETC: &str = "{ [ ! -d /etc/libqb ] || mount -t tmpfs none /etc/libqb; }";

const fn no_abstract_socket(advice: &'static [&'static str]) -> Outcome {
    let says = &["no cmap socket at the abstract address @cmap", "in this network namespace"];
    Wall { error: "NoSocket", stage: "socket", says, advice }
}

const fn no_socket_file(advice: &'static [&'static str]) -> Outcome {
    let says = &["no cmap socket at /", "with its sockets in this directory"];
    Wall { error: "NoSocket", stage: "socket", says, advice }
}

/// With abstract setup sockets, and with sockets in a directory, whatever the transport.
const fn either(without: Outcome, directory: Outcome) -> [Outcome; 4] {
    [without, directory, without, directory]
}

const fn no_shm(says: &'static [&'static str], advice: &'static [&'static str]) -> [Outcome; 4] {
    [Wall { error: "RingsNotVisible", stage: "rings", says, advice }; 4]
}

const OTHER_NETWORK: Outcome =
    no_abstract_socket(&["nsenter -t", "let the daemon use filesystem sockets", "--socket-dir"]);

const NO_DATAGRAMS: Outcome = Wall {
    error: "SocketsNotVisible",
    stage: "rings",
    says: &[
        "datagram socket at the abstract address @/dev/shm/qb-",
        "the daemon's network namespace",
    ],
    advice: &["qb_ipc_type: socket", "share the network namespace, or let the daemon use shm"],
};

const STRANGERS: [Outcome; 4] = [Wall {
    error: "NotAllowed",
    stage: "handshake",
    says: &["may not use cmap", "uidgid section"],
    advice: &["`uidgid { uid: 1001 }` into corosync.conf"],
}; 4];

const ALLOWED_PLACE: Place = Place { user: ALLOWED, group: ALLOWED, ..HERE };
const STRANGERS_PLACE: Place = Place { user: STRANGER, group: STRANGER, ..HERE };

/// Of a container that shares what is in directories.
const SHARING: [Outcome; 4] = {
    let no_file = no_socket_file(&["share the host's network namespace, or"]);
    [no_file, Reached, no_file, NO_DATAGRAMS]
};

const TRUSTING: &[(&str, &str)] = &[("COROSYNC_IPC_SERVER_UID", "65534")];

const ROWS: &[Row<4>] = &[
    Row { client: "the daemon's namespaces", place: HERE, outcomes: [Reached; 4], remedy: "" },
    Row {
        client: "another pid namespace",
        place: Place { unshare: &["-p", "-f", "--mount-proc"], ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "other ipc, uts and cgroup namespaces",
        place: Place { unshare: &["-i", "-u", "-C"], ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "another network namespace",
        place: Place { unshare: &["-n"], ..HERE },
        outcomes: [OTHER_NETWORK, Reached, OTHER_NETWORK, NO_DATAGRAMS],
        remedy: "the host's network namespace; or rings, and sockets in a directory",
    },
    Row {
        client: "a file system without `/etc/libqb/force-filesystem-sockets`",
        place: Place { mounts: WITHOUT_ETC, ..HERE },
        outcomes: either(
            Reached,
            no_abstract_socket(&["corosync has a socket in /tmp: use --socket-dir /tmp"]),
        ),
        remedy: "`COROSYNC_IPC_SOCKET_DIR`",
    },
    Row {
        client: "the same, with `COROSYNC_IPC_SOCKET_DIR`",
        place: Place {
            mounts: WITHOUT_ETC,
            environment: &[("COROSYNC_IPC_SOCKET_DIR", "/tmp")],
            ..HERE
        },
        outcomes: either(
            no_socket_file(&["corosync has an abstract socket here: use --abstract"]),
            Reached,
        ),
        remedy: "the variable only where corosync has its sockets in a directory",
    },
    Row {
        client: "a private `/tmp`, which hides Debian's directory of sockets",
        place: Place { mounts: "mount -t tmpfs none /tmp", ..HERE },
        outcomes: either(
            Reached,
            no_socket_file(&[
                "its /tmp, which is another directory here: mount it",
                "--socket-dir",
            ]),
        ),
        remedy: "the host's `/tmp` at another path",
    },
    Row {
        client: "the same, with the host's `/tmp` at another path, read-only, and \
                 `COROSYNC_IPC_SOCKET_DIR`",
        place: Place {
            mounts: "mkdir -p /run/host && mount --bind /tmp /run/host &&
                mount -o remount,bind,ro /run/host && mount -t tmpfs none /tmp",
            environment: &[("COROSYNC_IPC_SOCKET_DIR", "/run/host")],
            ..HERE
        },
        outcomes: either(Absent, Reached),
        remedy: "",
    },
    Row {
        client: "a file system whose directory of sockets this user may not search",
        place: Place {
            environment: &[("COROSYNC_IPC_SOCKET_DIR", "/run/closed/sockets")],
            ..ALLOWED_PLACE
        },
        outcomes: either(Absent, CLOSED_DIRECTORY),
        remedy: "search permission",
    },
    Row {
        client: "a private `/dev/shm`",
        place: Place { mounts: "mount -t tmpfs none /dev/shm", ..HERE },
        outcomes: no_shm(
            &["the daemon's file /dev/shm/qb-", "is the daemon's /dev/shm visible here?"],
            &["the daemon has another /dev/shm: mount it here", "--shm-root"],
        ),
        remedy: "the host's `/dev/shm`, at any path",
    },
    Row {
        client: "the same, with the host's `/dev/shm` at another path and `COROSYNC_IPC_SHM_ROOT`",
        place: Place {
            mounts: "mkdir -p /run/host && mount --bind /dev/shm /run/host &&
                mount -t tmpfs none /dev/shm",
            environment: &[("COROSYNC_IPC_SHM_ROOT", "/run/host")],
            ..HERE
        },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "a read-only `/dev/shm`",
        place: Place { mounts: "mount -o remount,bind,ro /dev/shm", ..HERE },
        outcomes: no_shm(
            &["the daemon's file /dev/shm/qb-", "mounted read-only here"],
            &["mount /dev/shm for writing"],
        ),
        remedy: "a writable `/dev/shm`",
    },
    Row {
        client: "a read-only root file system",
        place: Place { mounts: "mount -o remount,bind,ro /", ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "a file system without `/proc`",
        place: Place { mounts: "mount -t tmpfs none /proc", ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "another user's session",
        place: STRANGERS_PLACE,
        outcomes: STRANGERS,
        remedy: "`uidgid` in corosync.conf",
    },
    Row {
        client: "another user's session, with the group 0",
        place: Place { user: STRANGER, ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "the session of a user whom `uidgid` allows",
        place: ALLOWED_PLACE,
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "a user namespace that maps root to the host's root",
        place: Place { unshare: &["-U", "-r"], ..HERE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "a user namespace that maps root to a user whom `uidgid` allows",
        place: Place { unshare: &["-U", "-r"], ..ALLOWED_PLACE },
        outcomes: [Wall {
            error: "UntrustedServer",
            stage: "credentials",
            says: &[
                "is served by uid 65534",
                "outside of this user namespace, such as the host's root",
            ],
            advice: &["this is a user namespace", "allow it with --server-uid 65534"],
        }; 4],
        remedy: "`COROSYNC_IPC_SERVER_UID=65534`",
    },
    Row {
        client: "the same, with `COROSYNC_IPC_SERVER_UID=65534`",
        place: Place { unshare: &["-U", "-r"], environment: TRUSTING, ..ALLOWED_PLACE },
        outcomes: [Reached; 4],
        remedy: "",
    },
    Row {
        client: "the same, but `uidgid` does not allow the user",
        place: Place { unshare: &["-U", "-r"], environment: TRUSTING, ..STRANGERS_PLACE },
        outcomes: STRANGERS,
        remedy: "`uidgid` with the user's number outside of the namespace",
    },
    Row {
        client: "a container that shares nothing",
        place: Place {
            unshare: &["-n", "-p", "-f", "-i", "-u", "--mount-proc"],
            mounts: NOTHING,
            ..HERE
        },
        outcomes: [no_abstract_socket(&[
            "share the host's network namespace, or",
            "mount the host's /dev/shm",
        ]); 4],
        remedy: "the rows above; the recipes below",
    },
    Row {
        client: "a container that shares `/dev/shm` and the directory of sockets",
        place: Place {
            unshare: &["-n", "-p", "-f", "-i", "-u", "--mount-proc"],
            mounts: WITHOUT_ETC,
            environment: &[("COROSYNC_IPC_SOCKET_DIR", "/tmp")],
            ..HERE
        },
        outcomes: SHARING,
        remedy: "the host's network namespace",
    },
    Row {
        client: "the same without root, of a user whom `uidgid` allows, with \
                 `COROSYNC_IPC_SERVER_UID=65534`",
        place: Place {
            unshare: &["-U", "-r", "-m", "-n", "-p", "-f", "-i", "-u", "--mount-proc"],
            mounts: WITHOUT_ETC,
            environment: &[
                ("COROSYNC_IPC_SOCKET_DIR", "/tmp"),
                ("COROSYNC_IPC_SERVER_UID", "65534"),
            ],
            ..ALLOWED_PLACE
        },
        outcomes: SHARING,
        remedy: "the host's network namespace",
    },
];

const CLOSED_DIRECTORY: Outcome = Wall {
    error: "System",
    stage: "socket",
    says: &["connecting to /run/closed/sockets/cmap", "Permission denied"],
    advice: &["let this user search the socket's directory", "SELinux or AppArmor"],
};

const NOTHING: &str = "{ [ ! -d /etc/libqb ] || mount -t tmpfs none /etc/libqb; } &&
    mount -t tmpfs none /tmp && mount -t tmpfs none /dev/shm";

pub(super) fn table() -> String {
    super::table("the client is in", COLUMNS, ROWS.iter().map(Row::cells))
}

#[test]
fn clients_reach_a_real_daemon_or_are_told_of_the_wall() {
    if nothing_to_compare() {
        return;
    }
    let kinds = [IpcType::Shm, IpcType::Socket]
        .map(|ipc_type| [false, true].map(|files| (ipc_type, files)));
    for (column, (ipc_type, files)) in kinds.into_iter().flatten().enumerate() {
        let builder = Setup::new().ipc_type(ipc_type).real().filesystem_sockets(files);
        let cluster = builder.extra_config(&format!("uidgid {{\n  uid: {ALLOWED}\n}}")).start();
        let node = cluster.node(1);
        node.run(|| {
            fs::create_dir(CLOSED).expect("a private /run");
            fs::set_permissions(CLOSED, Permissions::from_mode(0o700)).expect("it is ours");
            symlink("/tmp", format!("{CLOSED}/sockets")).expect("it is empty");
        });
        for row in ROWS {
            row.check(column, || node.command("unshare"), node.pid(), ipc_type);
        }
        assert!(node.is_running() && node.membership().is_some(), "{}", node.log());
    }
}
