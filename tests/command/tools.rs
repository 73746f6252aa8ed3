//! corosync's own tools print the same with `corosync-ipc serve --nodes 1,2,3` as with three real
//! nodes, line by line.

use nix::sys::signal::Signal;
use testbed::{Cluster, Node, Process, Transport, eventually, lacks, nothing_to_compare};

use super::{ok, program};

/// The token timeout of three nodes that are configured with none, in milliseconds.
const TOKEN: u32 = 3000 + 650;

/// Keys of the map that only the harness configures.
const OF_THE_HARNESS: [&str; 4] = ["logging.", "system.", "totem.crypto_", "totem.token"];

/// Keys whose numbers grow by what a network does, or did before the cluster was whole.
const COUNTED: [&str; 6] = [
    "runtime.services.",
    "runtime.members.",
    "stats.knet.",
    "stats.srp.",
    "stats.pg.",
    "stats.ipcs.global.closed",
];

/// Keys of these kinds that are no such numbers.
const NOT_COUNTED: [&str; 9] = [
    ".service_id ",
    ".config_version ",
    ".ip ",
    ".status ",
    ".mtu ",
    ".enabled ",
    ".connected ",
    "_crypt_",
    "_compress",
];

/// Two clusters that are asked the same, and what is to be left out of the answers: pids of
/// processes in them.
pub(super) struct Both {
    real: Cluster,
    /// Has the first of the served nodes, in a network of its own.
    namespaces: Cluster,
    pids: Vec<[u32; 2]>,
    differences: Vec<String>,
    _served: Process,
}

impl Both {
    pub(super) fn start() -> Self {
        let real = Cluster::builder().nodes(3).token(TOKEN).transport(Transport::Knet).start();
        let name = ok(real.node(1), &["cmap", "get", "totem.cluster_name"]);
        let namespaces = Cluster::builder().create();
        let served = namespaces.node(1).command(program());
        let served = served
            .args(["serve", "--abstract", "--nodes", "1,2,3", "--cluster-name", name.trim()])
            .spawn();
        served.wait_stdout("serving node 1");
        Self { real, namespaces, pids: Vec::new(), differences: Vec::new(), _served: served }
    }

    pub(super) fn nodes(&self) -> [&Node; 2] {
        [self.real.node(1), self.namespaces.node(1)]
    }

    /// Starts a program on both.
    pub(super) fn spawn(&mut self, spawn: impl Fn(&Node) -> Process) -> [Process; 2] {
        let processes = self.nodes().map(spawn);
        self.pids.push([processes[0].pid(), processes[1].pid()]);
        processes
    }

    /// What the tool prints on both, without what must differ.
    fn print(&self, tool: &str, args: &[&str]) -> [String; 2] {
        let mut at = 0;
        self.nodes().map(|node| {
            let output = node.tool(tool, args);
            let text = format!("exit {}\n{}{}", output.code(), output.stdout, output.stderr);
            at += 1;
            self.without_differences(at - 1, &text)
        })
    }

    fn without_differences(&self, at: usize, text: &str) -> String {
        // serve's nodes are at the loopback's addresses.
        let text = text.replace("127.0.0.", "10.77.0.");
        let pids = |text: String| match text.contains(" = ") {
            true => text,
            false => {
                self.pids.iter().fold(text, |text, pids| text.replace(&pids[at].to_string(), "PID"))
            }
        };
        text.lines().filter_map(line).map(pids).collect::<Vec<_>>().join("\n")
    }

    /// Has a tool print on both, and notes how they differ.
    fn compare(&mut self, tool: &str, args: &[&str]) {
        let [real, served] = self.print(tool, args);
        self.note(&format!("{tool} {args:?}"), &real, &served);
    }

    fn note(&mut self, what: &str, real: &str, served: &str) {
        if real != served {
            self.differences.push(format!("--- {what}\n+++ real\n{real}\n+++ served\n{served}\n"));
        }
    }
}

/// A line without what is not the same in two runs of one daemon.
fn line(line: &str) -> Option<String> {
    let is_left_out = line.starts_with("Date:")
        || line.starts_with("[debug]")
        || line.starts_with("stats.schedmiss.")
        // serve has evs, which such a corosync does not.
        || line.starts_with("runtime.services.evs.");
    if is_left_out || OF_THE_HARNESS.iter().any(|prefix| line.starts_with(prefix)) {
        return None;
    }
    if let Some((ring, _)) = line.split_once('.').filter(|_| line.starts_with("Ring ID:")) {
        return Some(ring.to_owned());
    }
    let (key, value) =
        line.split_once(" = ").map_or((line, None), |(key, value)| (key, Some(value)));
    // A connection's address, and its process.
    let parts: Vec<&str> = key.split('.').collect();
    let key = match parts.iter().position(|part| part.contains("0x")) {
        Some(at) if key.starts_with("stats.ipcs.") => {
            [&parts[..at - 1], &parts[at + 1..]].concat().join(".")
        }
        Some(at) => {
            let before = parts[at].split("0x").next().unwrap();
            [&[before], &parts[at + 2..]].concat().join(".")
        }
        None => key.to_owned(),
    };
    let is_counted = COUNTED.iter().any(|prefix| key.starts_with(prefix));
    let name = format!("{key} ");
    let is_counted = is_counted && !NOT_COUNTED.iter().any(|part| name.contains(part));
    Some(match value {
        Some(_) if is_counted => format!("{key} = a number"),
        Some(value) => format!("{key} = {value}"),
        None => key,
    })
}

#[test]
fn corosyncs_tools_print_the_same_as_with_three_real_nodes() {
    if nothing_to_compare() || lacks("corosync-notifyd") {
        return;
    }
    let mut both = Both::start();
    eventually("knet has measured its links", || {
        let [real, _] = both.print("corosync-cfgtool", &["-n"]);
        real.matches("mtu: 1446").count() == 2
    });
    let joined = both.spawn(|node| {
        let joined = node.command(program()).args(["cpg", "join", "tools"]).interactive().spawn();
        joined.wait_stdout("confchg");
        joined
    });
    for (tool, calls) in [
        (
            "corosync-cmapctl",
            &[
                &[][..],
                &["-b", "totem.", "nodelist."],
                &["-m", "stats"],
                &["-s", "test.a", "u8", "5"],
                &["-s", "test.text", "str", "text"],
                &["-s", "nodelist.node.1.name", "str", "other"],
                &["-i", "test.a"],
                &["test."],
                &["-g", "nodelist.node.2.ring0_addr"],
                &["-g", "test.missing"],
                &["-d", "test.a"],
                &["-C", "knet"],
            ][..],
        ),
        (
            "corosync-quorumtool",
            &[
                &["-s"],
                &["-l"],
                &["-l", "-o"],
                &["-l", "-i"],
                &["-p", "-s"],
                &["-V", "2"],
                &["-V", "9"],
                &["-n", "2", "-v", "3"],
                &["-s"],
                &["-n", "2", "-v", "1"],
                &["-e", "5"],
                &["-s"],
                &["-e", "3"],
                &["-e", "9"],
            ],
        ),
        (
            "corosync-cfgtool",
            &[
                &["-s"],
                &["-s", "-b"],
                &["-n"],
                &["-n", "-b"],
                &["-a", "1"],
                &["-a", "2"],
                &["-a", "9"],
                &["-L"],
                &["-R"],
                &["-k", "9"],
            ],
        ),
        ("corosync-cpgtool", &[&[], &["-n"], &["-d", ";"], &["-e"]]),
    ] {
        for args in calls {
            both.compare(tool, args);
        }
    }

    // What comes and goes is told, and then a node goes.
    let told = both.spawn(|node| {
        let told = node.command("corosync-notifyd").args(["-f", "-o", "-n"]).spawn();
        eventually("it has looked up its name", || told.stderr().contains("is now disconnected"));
        told
    });
    let count = |lines: &Process, text: &str| lines.stderr().matches(text).count();
    for (tool, args) in [
        ("corosync-cpgtool", &[][..]),
        ("corosync-quorumtool", &["-s"]),
        ("corosync-cfgtool", &["-k", "3"]),
    ] {
        both.compare(tool, args);
        eventually("its end is told", || {
            told.iter()
                .all(|told| count(told, " connected to") == count(told, "disconnected from") + 1)
        });
    }
    eventually("the end of a node is told", || {
        told.iter().all(|told| {
            count(told, " left\n") == 1 && count(told, "link 0 to node 3 is now disconnected") == 1
        })
    });
    let mut at = 0;
    let lines = told.map(|mut told| {
        told.signal(Signal::SIGTERM);
        let text = both.without_differences(at, &told.wait().stderr);
        at += 1;
        // The last two come as a token is lost, and as a link is found dead.
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    });
    let [real, served] = lines.map(|lines| lines.join("\n"));
    both.note("corosync-notifyd", &real, &served);
    for (tool, args) in [
        ("corosync-cfgtool", &["-s"][..]),
        ("corosync-cfgtool", &["-n"]),
        ("corosync-cfgtool", &["-a", "3"]),
        ("corosync-quorumtool", &["-s"]),
        ("corosync-quorumtool", &["-l"]),
        ("corosync-cmapctl", &["runtime.members."]),
        ("corosync-cmapctl", &["-m", "stats", "stats.knet.node3."]),
        ("corosync-cpgtool", &[]),
    ] {
        both.compare(tool, args);
    }
    drop(joined);
    assert!(both.differences.is_empty(), "{}", both.differences.concat());
}
