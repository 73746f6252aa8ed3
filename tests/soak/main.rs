//! An hour of everything at once, after which nothing has grown.
//!
//! Four clusters of two nodes: real and embedded ones, with rings and with datagrams. On each node
//! clients come and go, threads share a client, messages travel whole and in fragments, and a
//! dispatcher watches everything through supervised clients. The daemon of each first node is
//! killed or stopped in every interval, and starts again. That of each second node lives on.
//!
//! Between two intervals all rest but the watchers. Then descriptors, mappings of rings and files
//! are exactly those of the beginning, of this process and of each daemon. [`flat`] says what is
//! asked of memory.

mod counts;
mod gate;
mod work;

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use corosync_ipc::embedded;
use testbed::{IpcType, Nodes, Patience, Setup, eventually, skip};

use self::counts::{Exact, Memory, descriptors, exact, memory, names};
use self::gate::Gate;
use self::work::{Activity, Site};

/// A leak of an object of this size by each connection fails the test.
const SMALLEST_LEAK: u64 = 16;

/// The same for a daemon, whose memory is counted in pages.
const SMALLEST_LEAK_OF_DAEMON: u64 = 64;

/// What corosync keeps whenever another node dies while messages are under way, also with clients of
/// the C libraries: 66 KiB, about one of totem's buffers.
const KEPT_FOR_A_DEATH: u64 = 72 << 10;

/// Makes glibc give back what daemons free. Otherwise its heap stays as large as it was when a busy
/// machine made them queue most events.
const MALLOC: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "32768"), ("MALLOC_TRIM_THRESHOLD_", "65536")];

/// How long the memory of daemons grows to what they need. What is measured until then is printed
/// and not compared.
const WARM_UP: Duration = Duration::from_secs(60);

/// What an allocator takes in pages and cannot give back.
const PAGES: u64 = 2 << 20;

/// A cluster of two nodes. The first one's daemon is restarted.
struct World {
    name: &'static str,
    nodes: Nodes,
    sites: [Arc<Site>; 2],
}

impl World {
    fn start(ipc_type: IpcType, is_real: bool) -> Self {
        let name = match (is_real, ipc_type) {
            (true, IpcType::Shm) => "real",
            (true, IpcType::Socket) => "real socket",
            (false, IpcType::Shm) => "embedded",
            (false, IpcType::Socket) => "embedded socket",
        };
        let nodes = if is_real {
            let setup = Setup::new().nodes(2).loses_nodes().ipc_type(ipc_type);
            let builder =
                MALLOC.into_iter().fold(setup.real(), |real, (name, value)| real.env(name, value));
            Nodes::Real(builder.start())
        } else {
            let builder = embedded::Cluster::builder().nodes(2).real_time().evs(true);
            Nodes::Embedded(builder.transport(ipc_type.into()).start().unwrap())
        };
        let has_datagrams = ipc_type == IpcType::Socket;
        let site = |id| Site::new(name, id, !is_real, has_datagrams);
        Self { name, nodes, sites: [1, 2].map(site) }
    }

    /// The daemon's process and its directory of rings.
    fn daemon(&self, id: u32) -> (u32, PathBuf) {
        match &self.nodes {
            Nodes::Embedded(cluster) => {
                let endpoint = cluster.node(id).unwrap().endpoint().clone();
                (std::process::id(), endpoint.shm_root_path().to_owned())
            }
            Nodes::Real(cluster) => {
                let pid = cluster.node(id).pid();
                (pid, format!("/proc/{pid}/root/dev/shm").into())
            }
        }
    }

    fn is_real(&self) -> bool {
        matches!(self.nodes, Nodes::Real(_))
    }

    /// Ends the first daemon, and starts it again.
    fn restart(&self, kills: bool) {
        if kills {
            let _nobody_comes = self.sites[0].comings.write().unwrap();
            // The daemon has seen the end of those that went.
            let mut last = 0;
            eventually("the daemon let go", || {
                thread::sleep(Duration::from_millis(200));
                let (pid, shm_root) = self.daemon(1);
                let before = std::mem::replace(&mut last, exact(pid, &shm_root).files);
                before == last
            });
            self.nodes.kill(1);
        } else {
            self.nodes.stop(1);
        }
        self.nodes.start(1);
        self.nodes.wait_members(&[1, 2], 2);
    }
}

/// All that is the same in every rest: of this process, then of each node's daemon.
fn all_exact(worlds: &[World]) -> Vec<(String, Exact)> {
    let mut all = vec![("this process".to_owned(), exact(std::process::id(), Path::new("/none")))];
    for world in worlds {
        for id in [1, 2] {
            let (pid, shm_root) = world.daemon(id);
            all.push((format!("{} {id}", world.name), exact(pid, &shm_root)));
        }
    }
    all
}

/// Waits until all is as it was.
#[track_caller]
fn is_as_before(worlds: &[World], before: &[(String, Exact)]) {
    let patience = Patience::new();
    loop {
        let now = all_exact(worlds);
        if now == before {
            return;
        }
        if patience.is_over() {
            for ((name, now), (_, before)) in now.iter().zip(before) {
                if now != before {
                    println!("{name} had {before:?}, and has {now:?}");
                }
            }
            println!("descriptors of this process: {:#?}", descriptors(std::process::id()));
            for world in worlds {
                let names = [1, 2].map(|id| names(&world.daemon(id).1));
                println!("files of {}: {names:#?}", world.name);
            }
            panic!("something was not given back");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// What was measured in a rest.
struct Row {
    ours: Memory,
    /// Of the real daemons.
    daemons: Vec<Memory>,
    /// How many connections there were so far, in all and of each real node.
    connects: u64,
    connects_of: Vec<u64>,
}

/// Panics with the message of a thread that has ended too early.
fn all_run(threads: &mut Vec<JoinHandle<()>>) {
    if let Some(position) = threads.iter().position(JoinHandle::is_finished) {
        let ended = threads.swap_remove(position).join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        panic!("a thread ended");
    }
}

#[test]
#[ignore = "takes an hour, or COROSYNC_IPC_SOAK_SECONDS"]
fn an_hour_of_everything_leaves_nothing_behind() {
    if skip() {
        return;
    }
    let seconds = env::var("COROSYNC_IPC_SOAK_SECONDS");
    let length = Duration::from_secs(seconds.map_or(3600, |seconds| seconds.parse().unwrap()));
    let interval = (length / 10).clamp(Duration::from_secs(12), Duration::from_secs(60));
    let worlds: Vec<World> = [(IpcType::Shm, true), (IpcType::Socket, true)]
        .into_iter()
        .chain([(IpcType::Shm, false), (IpcType::Socket, false)])
        .map(|(ipc_type, is_real)| World::start(ipc_type, is_real))
        .collect();
    let sites: Vec<&Arc<Site>> = worlds.iter().flat_map(|world| &world.sites).collect();
    let empty = all_exact(&worlds);

    let gate = Arc::new(Gate::new());
    let mut threads = Vec::new();
    for world in &worlds {
        for site in &world.sites {
            threads.extend(site.start(&world.nodes, &gate));
        }
    }
    let rest = |threads: &mut Vec<JoinHandle<()>>| {
        gate.close();
        sites.iter().for_each(|site| site.forget_shared());
        eventually("all watch", || {
            all_run(threads);
            sites.iter().all(|site| site.is_watching())
        });
    };
    rest(&mut threads);
    // The daemons let go a little later.
    let mut base = all_exact(&worlds);
    eventually("the daemons let go", || {
        let before = std::mem::replace(&mut base, all_exact(&worlds));
        before == base
    });
    for (name, exact) in &base {
        println!("{name}: {exact:?}");
    }
    print_head(&worlds);

    let mut rows: Vec<Row> = Vec::with_capacity(4096);
    let started = Instant::now();
    for round in 0.. {
        if started.elapsed() >= length + WARM_UP {
            break;
        }
        let before: Vec<_> = sites.iter().map(|site| site.counts()).collect();
        let began = Instant::now();
        gate.open();
        sleep_until(began + interval / 4, &mut threads);
        thread::scope(|scope| {
            for (number, world) in worlds.iter().enumerate() {
                let kills = (round + number) % 2 == 0;
                scope.spawn(move || world.restart(kills));
            }
        });
        sleep_until(began + interval, &mut threads);
        rest(&mut threads);
        is_as_before(&worlds, &base);
        let row = row(&worlds);
        print_row(&worlds, started.elapsed(), &row);
        if started.elapsed() > WARM_UP {
            rows.push(row);
        }
        for (site, before) in sites.iter().zip(before) {
            let now = site.counts();
            for (activity, name) in Activity::ALL {
                let number = activity as usize;
                assert!(
                    !site.does(activity) || now[number] > before[number],
                    "{}: in this interval the count of {name} stays at {}",
                    site.name,
                    before[number]
                );
            }
        }
    }
    gate.end();
    for thread in threads {
        thread.join().unwrap();
    }
    is_as_before(&worlds, &empty);
    flat(&worlds, &rows);
}

fn sleep_until(end: Instant, threads: &mut Vec<JoinHandle<()>>) {
    while Instant::now() < end {
        all_run(threads);
        thread::sleep(Duration::from_millis(50));
    }
}

fn row(worlds: &[World]) -> Row {
    let real = || worlds.iter().filter(|world| world.is_real());
    let connects = |site: &Arc<Site>| site.counts()[Activity::Connects as usize];
    Row {
        ours: memory(std::process::id()),
        daemons: real().flat_map(|world| [1, 2].map(|id| memory(world.daemon(id).0))).collect(),
        connects: worlds.iter().flat_map(|world| &world.sites).map(connects).sum(),
        connects_of: real().flat_map(|world| &world.sites).map(connects).collect(),
    }
}

/// Compares the medians of the first and the last fifth. In between
///
/// - the heap of this process, in which the embedded clusters are, has grown by less than 16 bytes
///   for each connection, and by less than a block for each fourth;
/// - other memory of this process has grown by less than that and 2 MiB, and that of a daemon which
///   lives on by less than 64 bytes for each of its connections, what it keeps for each death of
///   the other one, and 2 MiB;
/// - threads have become no more, and mappings no more than the allocators'.
///
/// Of a daemon that restarts nothing is left to grow.
fn flat(worlds: &[World], rows: &[Row]) {
    let fifth = (rows.len() / 5).max(1);
    let growth = |name: &str, limit: u64, value: &dyn Fn(&Row) -> u64| {
        let median = |rows: &[Row]| {
            let mut values: Vec<u64> = rows.iter().map(value).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (first, last) = (median(&rows[..fifth]), median(&rows[rows.len() - fifth..]));
        println!("{name}: {first} at first, {last} at last; limit {}", first + limit);
        (last > first + limit).then(|| name.to_owned())
    };
    let between = |value: &dyn Fn(&Row) -> u64| {
        value(&rows[rows.len() - 1 - fifth / 2]) - value(&rows[fifth / 2])
    };
    let connects = between(&|row| row.connects);
    println!("{connects} connections in between");
    let mut grown = vec![
        growth("bytes allocated", connects * SMALLEST_LEAK, &|row| row.ours.heap),
        growth("blocks allocated", connects / 4, &|row| row.ours.blocks),
        growth("anonymous memory", connects * SMALLEST_LEAK + PAGES, &|row| row.ours.anonymous),
        growth("threads", 0, &|row| row.ours.threads),
        growth("mappings", 16, &|row| row.ours.mappings),
    ];
    let real = worlds.iter().filter(|world| world.is_real());
    for (number, site) in real.flat_map(|world| &world.sites).enumerate() {
        if site.restarts {
            continue;
        }
        let connects = between(&|row| row.connects_of[number]);
        let deaths = rows.len().saturating_sub(fifth) as u64;
        let limit = connects * SMALLEST_LEAK_OF_DAEMON + deaths * KEPT_FOR_A_DEATH + PAGES;
        let name = format!("daemon {}", site.name);
        grown.push(growth(&format!("{name}: anonymous memory"), limit, &|row| {
            row.daemons[number].anonymous
        }));
        // A block of that size has a mapping of its own.
        let limit = 4 + deaths;
        grown
            .push(growth(&format!("{name}: mappings"), limit, &|row| row.daemons[number].mappings));
    }
    let grown: Vec<String> = grown.into_iter().flatten().collect();
    assert!(grown.is_empty(), "grown: {grown:?}");
}

fn print_head(worlds: &[World]) {
    print!("\n{:>7}", "seconds");
    for (_, name) in Activity::ALL {
        print!(" {:>9}", name.replace("votequorum", "votes").replace(" events", ""));
    }
    print!(" | {:>8} {:>6} {:>8} {:>7} {:>4}", "heap B", "blocks", "anon KiB", "threads", "maps");
    for world in worlds.iter().filter(|world| world.is_real()) {
        print!(" | {:>11} 1, 2: anon KiB, maps", world.name);
    }
    println!();
}

fn print_row(worlds: &[World], time: Duration, row: &Row) {
    let mut all = [0; Activity::ALL.len()];
    for site in worlds.iter().flat_map(|world| &world.sites) {
        for (sum, count) in all.iter_mut().zip(site.counts()) {
            *sum += count;
        }
    }
    print!("{:>7}", time.as_secs());
    all.iter().for_each(|count| print!(" {count:>9}"));
    let Memory { heap, blocks, anonymous, threads, mappings } = row.ours;
    print!(" | {heap:>8} {blocks:>6} {:>8} {threads:>7} {mappings:>4}", anonymous >> 10);
    for daemons in row.daemons.chunks(2) {
        print!(" |");
        for daemon in daemons {
            print!(" {:>10} {:>4}", daemon.anonymous >> 10, daemon.mappings);
        }
    }
    println!();
}
