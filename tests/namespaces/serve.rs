//! `corosync-ipc serve` with its rings in other directories than corosync's, and clients that see
//! these at other paths.

use std::fs;

use nix::sys::signal::Signal;
use tempfile::tempdir;
use testbed::{IpcType, NodeCommand, shm_folder, skip};

use super::Outcome::{self, Reached, Wall};
use super::{HERE, Place, Row, program};

const COLUMNS: [&str; 2] = ["rings", "datagrams"];

/// The daemon of some rows.
struct Served {
    /// Whether its rings are below `/dev/shm`.
    is_shm: bool,
    options: &'static [&'static str],
    rows: &'static [Row<2>],
}

const ELSEWHERE: [Outcome; 2] = [Wall {
    error: "Protocol",
    stage: "rings",
    says: &["is outside of the shared memory directory (see --shm-root)"],
    advice: &[
        "the daemon has its rings elsewhere than in ",
        "name it with --shm-root",
        "--client-shm-root",
    ],
}; 2];

/// `$ROOT` is the directory of the rings.
const SERVED: &[Served] = &[
    Served {
        is_shm: true,
        options: &[],
        rows: &[
            Row {
                client: "the daemon's namespaces; rings in directories below `/dev/shm`",
                place: HERE,
                outcomes: [Reached; 2],
                remedy: "",
            },
            Row {
                client: "the same, with the daemon's `/dev/shm` at another path and \
                         `COROSYNC_IPC_SHM_ROOT`",
                place: Place {
                    mounts: "mount --bind /dev/shm /mnt && mount -t tmpfs none /dev/shm",
                    environment: &[("COROSYNC_IPC_SHM_ROOT", "/mnt")],
                    ..HERE
                },
                outcomes: [Reached; 2],
                remedy: "",
            },
        ],
    },
    Served {
        is_shm: true,
        options: &["--generation", "libqb-0.15"],
        rows: &[Row {
            client: "another network namespace; served with `--generation libqb-0.15`",
            place: Place { unshare: &["-n"], ..THERE },
            outcomes: [Reached; 2],
            remedy: "",
        }],
    },
    Served {
        is_shm: false,
        options: &[],
        rows: &[
            Row {
                client: "the daemon's namespaces; rings not below `/dev/shm`",
                place: HERE,
                outcomes: ELSEWHERE,
                remedy: "`COROSYNC_IPC_SHM_ROOT`",
            },
            Row {
                client: "the same, with `COROSYNC_IPC_SHM_ROOT`",
                place: THERE,
                outcomes: [Reached; 2],
                remedy: "",
            },
            Row {
                client: "the same, with the directory at another path and `COROSYNC_IPC_SHM_ROOT`",
                place: MOVED,
                outcomes: ELSEWHERE,
                remedy: "`serve --client-shm-root /dev/shm`",
            },
        ],
    },
    Served {
        is_shm: false,
        options: &["--client-shm-root", "/dev/shm"],
        rows: &[
            Row {
                client: "the same, served with `--client-shm-root /dev/shm`",
                place: MOVED,
                outcomes: [Reached; 2],
                remedy: "",
            },
            Row {
                client: "the same, with the directory at `/dev/shm`",
                place: Place { mounts: "mount --bind \"$ROOT\" /dev/shm", ..HERE },
                outcomes: [Reached; 2],
                remedy: "",
            },
        ],
    },
];

/// Where the daemon is, with the variable that names the directory of its rings.
const THERE: Place = Place { mounts: "export COROSYNC_IPC_SHM_ROOT=\"$ROOT\"", ..HERE };

/// The directory of the rings is at another path.
const MOVED: Place = Place {
    mounts: "mount --bind \"$ROOT\" /mnt",
    environment: &[("COROSYNC_IPC_SHM_ROOT", "/mnt")],
    ..HERE
};

fn rows() -> impl Iterator<Item = &'static Row<2>> {
    SERVED.iter().flat_map(|served| served.rows)
}

pub(super) fn table() -> String {
    super::table("the client is in", COLUMNS, rows().map(Row::cells))
}

#[test]
fn clients_reach_rings_in_any_directory_or_are_told_of_the_wall() {
    if skip() {
        return;
    }
    for (column, (ipc_type, transport)) in
        [(IpcType::Shm, "shm"), (IpcType::Socket, "socket")].into_iter().enumerate()
    {
        for Served { is_shm, options, rows } in SERVED {
            let [sockets, disk, shm] = [tempdir().unwrap(), tempdir().unwrap(), shm_folder()];
            let root = if *is_shm { shm.path().join("a/b") } else { disk.path().join("a/b") };
            fs::create_dir_all(&root).unwrap();
            let serve = NodeCommand::here(program())
                .args(["serve", "--transport", transport])
                .args(*options)
                .arg("--socket-dir")
                .arg(sockets.path())
                .arg("--shm-root")
                .arg(&root);
            let mut process = serve.spawn();
            process.wait_stdout("\n");
            for row in *rows {
                let starter = || {
                    let unshare = NodeCommand::here("unshare");
                    unshare.env("COROSYNC_IPC_SOCKET_DIR", sockets.path()).env("ROOT", &root)
                };
                row.check(column, starter, process.pid(), ipc_type);
            }
            process.signal(Signal::SIGTERM);
            process.wait().success();
        }
    }
}
