//! corosync-ipc beside the C libraries: both in this process, against one real corosync, in turns
//! of short blocks. docs/performance.md says what is measured and how to read it.
//!
//! `cargo run --release -p compare` needs root, corosync, a C compiler and the headers of the C
//! libraries. It prints tables for each regime. What counts are the ratios, ours to C's: below 1 is
//! better than C.

mod floors;
mod health;
mod lines;
mod meter;
mod ours;
mod plots;
mod processes;
mod report;
mod results;
mod side;
mod targets;
mod theirs;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::{env, fs, io, thread};

use clap::{Parser, ValueEnum};
use corosync_ipc::{Error, cmap};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use floors::Floors;
use health::{Health, Signs};
use lines::{Block, Line, NOTHING, Regime};
use meter::{Cost, Meter};
use processes::{Part, Player};
use report::{Figures, Other, Row, keep_standard_output, print};
use results::Results;
use side::Side;

/// Compares corosync-ipc with the C libraries.
#[derive(Parser)]
struct Arguments {
    /// Only lines whose name has this text
    filter: Option<String>,
    /// Only this regime: idle, busy, "every 0.2 ms", "every 2 ms" or "every 20 ms"
    #[arg(long, value_parser = regime)]
    regime: Option<Regime>,
    /// How often each side takes its turn
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How messages travel
    #[arg(long, default_value = "shm")]
    ipc_type: IpcType,
    /// One JSON document instead of tables
    #[arg(long)]
    json: bool,
    /// Writes the tables into the places that this document has for them; can be repeated
    #[arg(long, conflicts_with = "filter")]
    markdown: Vec<PathBuf>,
    /// Writes how cost grows into this folder, as SVG
    #[arg(long)]
    plots: Option<PathBuf>,
    /// The command corosync-ipc, for the lines about it; by default the one beside this program
    #[arg(long)]
    command: Option<PathBuf>,
    /// What this program does when it starts itself
    #[arg(long, hide = true)]
    part: Option<Part>,
}

#[derive(Clone, Copy, ValueEnum)]
enum IpcType {
    /// Through rings in shared memory
    Shm,
    /// As datagrams
    Socket,
}

fn regime(name: &str) -> Result<Regime, String> {
    Regime::ALL
        .into_iter()
        .find(|regime| regime.name() == name)
        .ok_or_else(|| "no such regime".to_owned())
}

impl Arguments {
    fn wants(&self, line: &str) -> bool {
        self.filter.as_ref().is_none_or(|text| line.contains(text.as_str()))
    }

    fn regimes(&self) -> impl Iterator<Item = Regime> {
        let wanted = |regime: &Regime| self.regime.is_none_or(|only| only == *regime);
        Regime::ALL.into_iter().filter(wanted)
    }

    fn command(&self) -> PathBuf {
        let beside = || env::current_exe().expect("a program has a path").with_file_name(COMMAND);
        self.command.clone().unwrap_or_else(beside)
    }
}

const COMMAND: &str = "corosync-ipc";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(part) = arguments.part {
        processes::play(part);
    }
    if testbed::skip() {
        return ExitCode::FAILURE;
    }
    let command = arguments.command();
    if !command.exists() && ["command", "memory"].iter().any(|line| arguments.wants(line)) {
        eprintln!("{} does not exist: run `cargo build --release` first", command.display());
        return ExitCode::FAILURE;
    }
    keep_standard_output();
    let tracepoint = meter::tracepoint();
    allow_many_descriptors();
    let ipc_type = arguments.ipc_type.to_possible_value().expect("no type is skipped");
    // A thousand connections of the C libraries have three gigabytes in /dev/shm. The token's
    // timeout is that of a corosync.conf that says nothing of it.
    let cluster = testbed::Cluster::builder()
        .ipc_type(Some(ipc_type.get_name()))
        .token(3_000)
        .shm_size("6g")
        .start();
    let node = cluster.node(1);
    let pid = node.pid();
    let done = node.spawn(move || {
        let bench = Bench { meter: Meter::new(pid, tracepoint), daemon: pid, command, arguments };
        bench.run().and_then(|results| bench.write(&results))
    });
    match done.join().expect("all lines are measured") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A thousand connections have one each, and more while they are made.
fn allow_many_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("there is a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most)
        .expect("a process may have what its limit allows");
}

/// What runs inside the node.
struct Bench {
    arguments: Arguments,
    meter: Meter,
    daemon: u32,
    command: PathBuf,
}

impl Bench {
    /// Measures all lines that are asked for.
    fn run(&self) -> Result<Results, String> {
        let failed = |error: Error| error.to_string();
        cmap::Client::connect().and_then(|cmap| cmap.set("bench.number", 1_u32)).map_err(failed)?;
        let mut health = Health::watch().map_err(failed)?;
        let machine = self.machine().map_err(|error| error.to_string())?;
        let mut results = Results { machine, rows: Vec::new(), others: Vec::new() };
        self.say(&results.machine);
        for regime in self.arguments.regimes() {
            let load = (regime == Regime::Busy).then(Load::start);
            self.run_lines(regime, &mut health, &mut results.rows).map_err(failed)?;
            if regime.pause() == 0 {
                self.run_others(regime, &mut results.others);
                // The daemon was stopped for a while, which it counts.
                health.sign().map_err(failed)?;
            }
            drop(load);
        }
        Ok(results)
    }

    /// Where and how it is measured.
    fn machine(&self) -> io::Result<String> {
        let processors = fs::read_to_string("/proc/cpuinfo")?;
        let model = processors.lines().find(|line| line.starts_with("model name"));
        let model =
            model.and_then(|line| line.split_once(": ")).map_or("unknown", |(_, name)| name);
        let version = Command::new("corosync").arg("-v").output()?.stdout;
        let version = String::from_utf8_lossy(&version);
        let ipc_type = self.arguments.ipc_type.to_possible_value().expect("no type is skipped");
        Ok(format!(
            "{} processors ({model}), Linux {}; {}; `qb_ipc_type: {}`; {} rounds.",
            thread::available_parallelism()?,
            fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
            version.lines().next().unwrap_or("unknown corosync"),
            ipc_type.get_name(),
            self.arguments.rounds
        ))
    }

    /// What is not made of blocks.
    fn run_others(&self, regime: Regime, others: &mut Vec<Other>) {
        let wanted = |name: &str| self.arguments.wants(name);
        let measured = processes::measure(self.daemon, &self.command, wanted);
        let measured: Vec<Other> =
            measured.into_iter().map(|other| Other { regime, ..other }).collect();
        if !measured.is_empty() {
            self.say(&format!("\n{}", Other::head()));
            measured.iter().for_each(|other| self.say(&other.text()));
        }
        others.extend(measured);
    }

    fn run_lines(
        &self,
        regime: Regime,
        health: &mut Health,
        rows: &mut Vec<Row>,
    ) -> Result<(), Error> {
        let lines = Line::all().into_iter();
        let lines: Vec<Line> = lines
            .filter(|line| line.is_for(regime) && self.arguments.wants(&line.name()))
            .collect();
        if lines.is_empty() {
            return Ok(());
        }
        self.say(&format!("\n{}\n\n{}", regime.name(), Row::head()));
        let (floors, first) = (Floors::measure(regime), rows.len());
        for line in lines {
            let row = self.in_turns(&line, regime, &floors, health)?;
            self.say(&row.text());
            rows.push(row);
        }
        self.say(&format!("\n{}", report::health(&rows[first..].iter().collect::<Vec<_>>())));
        Ok(())
    }

    /// Lets both sides do the work of a line in turns, with new clients.
    fn in_turns(
        &self,
        line: &Line,
        regime: Regime,
        floors: &Floors,
        health: &mut Health,
    ) -> Result<Row, Error> {
        let mut sides = line.sides();
        let mut blocks = [Vec::new(), Vec::new()];
        let mut signs = [Signs::default(), Signs::default()];
        let mut system_calls = [None, None];
        for (side, system_calls) in sides.iter_mut().zip(&mut system_calls) {
            let side = side.as_mut();
            line.begin(side);
            // What only the first call does is no part of the figures.
            self.block(line, regime, side);
            *system_calls = self.system_calls(line, regime, side);
        }
        health.sign()?;
        for round in 0..self.arguments.rounds {
            // Neither is always the first.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            let pauses = self.pauses(line, regime, sides[order[0]].as_mut());
            for number in order {
                let mut block = self.block(line, regime, sides[number].as_mut());
                block.cost = block.cost.without(pauses);
                blocks[number].push(block);
                signs[number].push(health.sign()?);
            }
        }
        for side in &mut sides {
            line.end(side.as_mut());
        }
        let [ours, theirs] =
            [0, 1].map(|side: usize| Figures::of(line, &blocks[side], system_calls[side]));
        Ok(Row {
            line: line.name(),
            regime,
            is_a_request: line.is_a_request(),
            point: line.point(),
            floor: line.floor().map(|floor| floors.of(floor)),
            ours,
            theirs,
            signs,
        })
    }

    fn block(&self, line: &Line, regime: Regime, side: &mut dyn Side) -> Block {
        line.prepare(side);
        let (operations, mut nanos) = (line.operations(regime), room(line, regime));
        let cost = self.meter.measure(operations, || line.work(regime, side, &mut nanos));
        Block { cost, nanos }
    }

    fn system_calls(&self, line: &Line, regime: Regime, side: &mut dyn Side) -> Option<f64> {
        line.prepare(side);
        let (operations, mut nanos) = (line.operations(regime), room(line, regime));
        let count = self.meter.system_calls(operations, || line.work(regime, side, &mut nanos));
        // A pause is one.
        count.map(|count| if regime.pause() > 0 { count - 1.0 } else { count })
    }

    /// What the pauses of a block cost, which neither side is to blame for.
    fn pauses(&self, line: &Line, regime: Regime, side: &mut dyn Side) -> Cost {
        if regime.pause() == 0 {
            return Cost::default();
        }
        let (operations, mut nanos) = (line.operations(regime), room(line, regime));
        self.meter.measure(operations, || side.calls(NOTHING, regime.pause(), &mut nanos))
    }

    fn say(&self, text: &str) {
        if !self.arguments.json {
            print(text);
        }
    }

    /// Writes what is wanted besides the tables on standard output.
    fn write(&self, results: &Results) -> Result<(), String> {
        if self.arguments.json {
            print(&format!("{:#}", results.json()));
        } else {
            print(&format!("\n{}", targets::table_of_targets(results)));
        }
        if let Some(folder) = &self.arguments.plots {
            plots::write(folder, &results.rows).map_err(|error| error.to_string())?;
        }
        self.arguments.markdown.iter().try_for_each(|document| results.fill(document))
    }
}

/// Room for what each operation of a block takes, with its pages.
fn room(line: &Line, regime: Regime) -> Vec<u64> {
    if line.is_timed() { vec![1; line.operations(regime) as usize] } else { Vec::new() }
}

/// A process for each processor, which keeps it busy until this is dropped.
struct Load(#[expect(dead_code, reason = "kept until it is dropped")] Vec<Player>);

impl Load {
    fn start() -> Load {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Load((0..processors).map(|_| Player::start(Part::Spin)).collect())
    }
}
