//! Units of a systemd that runs in a node, as clients of the node's corosync.

use std::env;
use std::fs;
use std::path::Path;

use testbed::{
    IpcType, Node, NodeCommand, Setup, copy_for_all, lacks, nothing_to_compare, skip_because,
};

use super::Outcome::{self, Absent, Reached, Wall};
use super::{CLIENT, TIMEOUT, document, program};

const COLUMNS: [&str; 2] = ["abstract sockets", "sockets in `/tmp`"];

/// A user that corosync.conf allows: Debian's `daemon`.
const ALLOWED: u32 = 1;

/// The lines of a service.
struct Service {
    /// Lines that semicolons separate. Those of the document's unit stand for [`RECIPE`].
    lines: &'static str,
    outcomes: [Outcome; 2],
    remedy: &'static str,
}

/// What the table calls the unit of the document.
const RECIPE: &str = "the unit above";

const ANYWHERE: [Outcome; 2] = [Reached; 2];

const NO_ABSTRACT: Outcome = Wall {
    error: "NoSocket",
    stage: "socket",
    says: &["no cmap socket at the abstract address @cmap", "in this network namespace"],
    advice: &["share the host's network namespace"],
};

const NO_FILE: Outcome = Wall {
    error: "NoSocket",
    stage: "socket",
    says: &["no cmap socket at /", "with its sockets in this directory"],
    advice: &["(/run, in Debian /tmp), mount that and name it with --socket-dir"],
};

const NOT_ALLOWED: Outcome = Wall {
    error: "NotAllowed",
    stage: "handshake",
    says: &["may not use cmap", "uidgid section"],
    advice: &["`uidgid { uid: "],
};

const fn no_rings(says: &'static [&'static str], advice: &'static [&'static str]) -> [Outcome; 2] {
    [Wall { error: "RingsNotVisible", stage: "rings", says, advice }; 2]
}

const SERVICES: &[Service] = &[
    Service { lines: RECIPE, outcomes: [Reached, NO_FILE], remedy: "as `PrivateTmp=yes`" },
    Service { lines: "ProtectSystem=strict", outcomes: ANYWHERE, remedy: "" },
    Service {
        lines: "ReadOnlyPaths=/",
        outcomes: no_rings(&["mounted read-only here"], &["mount /dev/shm for writing"]),
        remedy: "`ReadWritePaths=/dev/shm`",
    },
    Service { lines: "ReadOnlyPaths=/;ReadWritePaths=/dev/shm", outcomes: ANYWHERE, remedy: "" },
    Service {
        lines: "InaccessiblePaths=/dev/shm",
        outcomes: no_rings(&["is the daemon's /dev/shm visible here?"], &["mount it here"]),
        remedy: "no such line",
    },
    Service { lines: "PrivateDevices=yes", outcomes: ANYWHERE, remedy: "" },
    Service { lines: "PrivateIPC=yes", outcomes: ANYWHERE, remedy: "" },
    Service { lines: "PrivateTmp=yes", outcomes: [Reached, NO_FILE], remedy: "the next two lines" },
    Service {
        lines: "PrivateTmp=yes;BindReadOnlyPaths=/tmp:/run/host-tmp;\
                Environment=COROSYNC_IPC_SOCKET_DIR=/run/host-tmp",
        outcomes: [Absent, Reached],
        remedy: "",
    },
    Service {
        lines: "PrivateNetwork=yes",
        outcomes: [NO_ABSTRACT, Reached],
        remedy: "no such line, or rings, and sockets in a directory",
    },
    Service { lines: "PrivateUsers=yes", outcomes: ANYWHERE, remedy: "" },
    Service { lines: "ProtectProc=invisible;ProcSubset=pid", outcomes: ANYWHERE, remedy: "" },
    Service {
        lines: "User=games",
        outcomes: [NOT_ALLOWED; 2],
        remedy: "`uidgid` in corosync.conf, which here allows `daemon`",
    },
    Service { lines: "User=daemon", outcomes: ANYWHERE, remedy: "" },
    Service {
        lines: "DynamicUser=yes",
        outcomes: [NOT_ALLOWED, NO_FILE],
        remedy: "a user whom `uidgid` can name",
    },
    Service {
        lines: "RestrictAddressFamilies=AF_INET",
        outcomes: [Wall {
            error: "System",
            stage: "socket",
            says: &["Address family not supported"],
            advice: &["add AF_UNIX to the unit's RestrictAddressFamilies="],
        }; 2],
        remedy: "`RestrictAddressFamilies=AF_UNIX`",
    },
    Service { lines: "RestrictAddressFamilies=AF_UNIX", outcomes: ANYWHERE, remedy: "" },
];

pub(super) fn table() -> String {
    let rows = SERVICES.iter().map(|service| {
        let lines = match service.lines {
            RECIPE => RECIPE.to_owned(),
            lines => format!("`{}`", lines.replace(';', "`, `")),
        };
        (lines, &service.outcomes, service.remedy)
    });
    super::table("the unit has", COLUMNS, rows)
}

/// The unit of the document.
fn recipe() -> String {
    let document = document();
    let unit = document.split_once("```ini\n").and_then(|(_, rest)| rest.split_once("```"));
    unit.expect("a unit").0.to_owned()
}

#[test]
fn systemd_knows_every_line_of_the_unit() {
    if lacks("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("recipe.service");
    let installed = "/usr/local/bin/corosync-ipc";
    assert!(recipe().contains(installed));
    // Where the machine has neither.
    let here = recipe().replace(installed, "/bin/true").replace("corosync.service", "basic.target");
    fs::write(&unit, here).unwrap();
    let output = NodeCommand::here("systemd-analyze").arg("verify").arg(&unit).run();
    assert_eq!((output.stderr.as_str(), output.is_success()), ("", true));
}

#[test]
fn units_of_systemd_reach_the_daemon_or_are_told_of_the_wall() {
    if nothing_to_compare() || lacks("systemd-analyze") {
        return;
    }
    for (column, files) in [false, true].into_iter().enumerate() {
        let builder = Setup::new().real().filesystem_sockets(files);
        let cluster = builder.extra_config(&format!("uidgid {{\n  uid: {ALLOWED}\n}}")).start();
        let node = cluster.node(1);
        let groups = ["-m", "mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"];
        if !node.command("unshare").args(groups).run().is_success() {
            return skip_because("no second version of control groups");
        }
        for (service, output) in SERVICES.iter().zip(run_units(node)) {
            let what = format!("{}, column {column}", service.lines);
            service.outcomes[column].check(&what, [&output; 3], IpcType::Shm);
        }
    }
}

/// Boots a systemd that runs the programs of [`Outcome::check`] in a unit for each service, and
/// exits. Returns what they print.
fn run_units(node: &Node) -> Vec<String> {
    let recipe = recipe();
    let section = recipe.split_once("[Service]\n").and_then(|(_, rest)| rest.split_once("\n\n"));
    let (section, _) = section.expect("a section");
    let is_run_otherwise =
        |line: &&str| line.starts_with("ExecStart=") || line.starts_with("Restart=");
    let section: Vec<_> = section.lines().filter(|line| !is_run_otherwise(line)).collect();
    let client = CLIENT.join(" ");
    let unit = |(number, service): (usize, &Service)| {
        let lines = match service.lines {
            RECIPE => section.join("\n"),
            lines => lines.replace(';', "\n"),
        };
        let unit = format!(
            "[Unit]\nDefaultDependencies=no\n\n[Service]\nType=oneshot\n\
             StandardOutput=append:/run/out/{number}\n\
             Environment=COROSYNC_IPC_TIMEOUT={TIMEOUT}\n\
             ExecStart=-/run/client {client}\nExecStart=-/run/command status\n\
             ExecStart=-/run/command doctor\n{lines}\n"
        );
        (format!("{number}.service"), unit)
    };
    let mut units: Vec<_> = SERVICES.iter().enumerate().map(unit).collect();
    let names: Vec<_> = units.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(" ");
    let last = format!(
        "[Unit]\nDefaultDependencies=no\nWants={names}\nAfter={names}\n\
         SuccessAction=exit-force\n\n[Service]\nType=oneshot\n\
         StandardOutput=append:/run/out/states\n\
         ExecStart=-/bin/systemctl show -p Id,Result,ExecStart {names}\n"
    );
    units.push(("last.service".to_owned(), last));
    node.run(|| {
        for folder in ["/run/out", "/run/systemd/system"] {
            fs::create_dir_all(folder).expect("a private /run");
        }
        for (name, text) in &units {
            fs::write(Path::new("/run/systemd/system").join(name), text).expect("a private /run");
        }
    });
    let test = copy_for_all(&env::current_exe().expect("it is known"));
    let boot = node.command("unshare").args(["-m", "sh", "-c", BOOT]).arg(test).arg(program());
    let booted = boot.run();
    node.run(|| {
        let read = |name: &str| fs::read_to_string(Path::new("/run/out").join(name));
        let output = |number: usize| {
            read(&number.to_string()).unwrap_or_else(|error| {
                panic!("unit {number}: {error}: {booted:?} {}", read("states").unwrap_or_default())
            })
        };
        (0..SERVICES.len()).map(output).collect()
    })
}

/// Boots systemd in a container: with a cgroup, `/dev`, `/tmp` and processes of its own, and a root
/// that is read-only. What is left of the machine is read-only too.
const BOOT: &str = r#"
set -e
touch /run/client /run/command
mount --bind "$0" /run/client
mount --bind "$1" /run/command
# DynamicUser= follows no link to its lock. The testbed's private /etc has links.
[ ! -L /etc/.pwd.lock ] || rm /etc/.pwd.lock
mountpoint -q /tmp || mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=1777 none /var/tmp
mount -t tmpfs -o mode=755 none /mnt
for name in null zero full random urandom tty; do
    touch /mnt/$name
    mount --bind /dev/$name /mnt/$name
done
mkdir /mnt/shm /mnt/pts /mnt/mqueue
mount -t devpts -o newinstance,ptmxmode=666 none /mnt/pts
ln -s pts/ptmx /mnt/ptmx
touch /mnt/console
mount --bind /dev/null /mnt/console
mount --bind /dev/shm /mnt/shm
mount --rbind /mnt /dev

mount -t cgroup2 none /sys/fs/cgroup
cgroup=/sys/fs/cgroup$(sed -n s/^0:://p /proc/self/cgroup)/corosync-ipc-test-$$
mkdir $cgroup
(
    echo 0 >$cgroup/cgroup.procs
    exec unshare -m -p -f -C -i --kill-child sh -ec '
        mount -t proc none /proc
        mount --bind /proc/sys /proc/sys
        mount -o remount,bind,ro /proc/sys
        mount -o remount,bind,ro /
        mount -t sysfs -o ro none /sys
        mount -t cgroup2 none /sys/fs/cgroup
        exec env -i container=corosync-ipc-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
            /lib/systemd/systemd --unit=last.service --log-target=null --show-status=no'
) || echo "ended with $?"
find $cgroup -depth -type d -exec rmdir {} +
"#;
