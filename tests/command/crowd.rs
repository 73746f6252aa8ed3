//! Many clients of `corosync-ipc serve`, most of which are killed.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use corosync_ipc::Endpoint;
use corosync_ipc::cpg::{Client, Confchg, Event, GroupName, Guarantee, Options, Reason};
use nix::sys::signal::Signal;
use testbed::{Patience, Process, WATCHDOG, eventually, patiently_for};

use super::command;
use super::served::Served;

/// Clients in this process; half of them leave, the others' sockets are closed.
const THREADS: u32 = 60;
/// Clients that are processes; half of them leave, the others are killed.
const PROCESSES: usize = 40;
/// How long an answer may take while all of them run.
const MOST: Duration = WATCHDOG;

/// What the server has.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    descriptors: usize,
    /// Mappings of rings. Others come and go with the allocator.
    mappings: usize,
    files: Vec<String>,
}

impl Held {
    fn by(served: &mut Served) -> Held {
        let pid = served.process().pid();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        Held {
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
            mappings: maps.lines().filter(|line| line.contains("/qb-")).count(),
            files: served.rings(),
        }
    }
}

/// Memory of the server that is nobody else's, in KiB. That of rings is shared.
fn memory(served: &mut Served) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", served.process().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Who came and who went, and why, as a member sees it.
struct Watcher {
    client: Client,
    joined: BTreeMap<u32, Reason>,
    left: BTreeMap<u32, Reason>,
    members: usize,
}

impl Watcher {
    /// Takes changes until there are so many members.
    fn wait_members(&mut self, count: usize) {
        let patience = Patience::new();
        while self.members != count {
            match patiently_for(patience.left(), |limit| self.client.next_event(limit).unwrap()) {
                Some(Event::Confchg(Confchg { members, joined, left, .. })) => {
                    self.members = members.len();
                    for one in joined {
                        assert_eq!(
                            self.joined.insert(one.pid, one.reason),
                            None,
                            "{} came twice",
                            one.pid
                        );
                    }
                    for one in left {
                        assert_eq!(
                            self.left.insert(one.pid, one.reason),
                            None,
                            "{} went twice",
                            one.pid
                        );
                    }
                }
                Some(_) => {}
                None => panic!("{} members, not {count}", self.members),
            }
        }
    }
}

/// A hundred clients come and go. Returns what the server had with all of them.
fn crowd(served: &mut Served, endpoint: &Endpoint, group: &GroupName) -> Held {
    let connect = |pid| Client::connect_with(endpoint, Options::new().pid(pid)).unwrap();
    let watcher = connect(1);
    watcher.join(group).unwrap();
    let mut watcher =
        Watcher { client: watcher, joined: BTreeMap::new(), left: BTreeMap::new(), members: 0 };
    watcher.wait_members(1);

    // Above all pids that processes have.
    let clients: Vec<Client> = (0..THREADS).map(|number| connect(0x4000_0000 + number)).collect();
    clients.iter().for_each(|client| client.join(group).unwrap());
    let join = ["cpg", "join", "crowd", "--timeout", &format!("{}s", MOST.as_secs())];
    let process = |args: &[&str]| command(served, &join).args(args).interactive().spawn();
    let leaving: Vec<Process> = (0..PROCESSES / 2).map(|_| process(&["--count", "1"])).collect();
    let mut killed: Vec<Process> = (0..PROCESSES / 2).map(|_| process(&[])).collect();
    watcher.wait_members(1 + clients.len() + PROCESSES);
    let held = Held::by(served);

    let mut expected: BTreeMap<u32, Reason> = BTreeMap::new();
    // This ends the processes that count.
    watcher.client.multicast(Guarantee::AGREED, b"enough").unwrap();
    for (number, client) in clients.into_iter().enumerate() {
        let leaves = number % 2 == 0;
        if leaves {
            client.leave(group).unwrap();
        }
        expected.insert(client.pid(), if leaves { Reason::LEAVE } else { Reason::PROCDOWN });
    }
    for process in &mut killed {
        expected.insert(process.pid(), Reason::PROCDOWN);
        process.signal(Signal::SIGKILL);
    }
    for process in leaving {
        expected.insert(process.pid(), Reason::LEAVE);
        assert_eq!(process.wait().code(), 0);
    }
    watcher.wait_members(1);
    assert_eq!(watcher.left, expected);
    let mut came: BTreeMap<u32, Reason> = expected.keys().map(|pid| (*pid, Reason::JOIN)).collect();
    came.insert(1, Reason::JOIN);
    assert_eq!(watcher.joined, came);
    held
}

#[test]
fn a_hundred_clients_come_and_go_and_nothing_is_left() {
    for (transport, files) in [("shm", 6), ("socket", 1)] {
        come_and_go(transport, files);
    }
}

fn come_and_go(transport: &str, files: usize) {
    let mut served = Served::with(&["--transport", transport]);
    let endpoint =
        Endpoint::new().socket_dir(served.folder()).shm_root(served.folder()).timeout(MOST);
    let group = GroupName::new("crowd").unwrap();
    let empty = Held::by(&mut served);
    assert_eq!((empty.mappings, empty.files.len()), (0, 0));

    let mut after = Vec::new();
    for _ in 0..3 {
        let full = crowd(&mut served, &endpoint, &group);
        // Each has a socket, and three rings of two files each, or a control file, in a directory
        // of their own; some still have a second connection, to cmap.
        assert!(full.mappings >= 101 * files && full.files.len() >= 101, "{full:?}");
        assert!(full.descriptors >= empty.descriptors + 101, "{full:?}");
        eventually("the server let go", || Held::by(&mut served) == empty);
        after.push(memory(&mut served));
    }
    // What the allocator keeps after the first crowd does for the others.
    assert!(after[2] < after[0] + 2048, "KiB after each crowd: {after:?}");
}
