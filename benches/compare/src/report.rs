//! What the blocks of both sides say together.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use nix::unistd::{dup, dup2_stdout};
use serde_json::{Value, json};

use crate::health::Signs;
use crate::lines::{Block, Line, Plot, Regime};

/// Standard output as it was at first.
static OUTPUT: OnceLock<File> = OnceLock::new();

/// Keeps standard output for [`print`]. Libraries write to it too, which nobody wants to read.
pub(crate) fn keep_standard_output() {
    let output = dup(std::io::stdout()).expect("standard output is open");
    let nothing = OpenOptions::new().write(true).open("/dev/null").expect("it always exists");
    dup2_stdout(nothing).expect("there are descriptors");
    OUTPUT.set(output.into()).expect("it is kept once");
}

/// Writes a line to standard output.
pub(crate) fn print(line: &str) {
    let mut output = OUTPUT.get().expect("standard output is kept");
    output.write_all(format!("{line}\n").as_bytes()).expect("somebody reads the figures");
}

/// One side of a line: medians over its blocks, or over its operations where each is timed.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Seconds that an operation takes. Where threads work together, seconds for each operation of
    /// all.
    pub(crate) time: f64,
    /// One of a hundred operations, or blocks, takes longer. Of few it is the slowest.
    pub(crate) p99: f64,
    /// Processor seconds of this process for an operation.
    pub(crate) own: f64,
    /// Processor seconds of the daemon for an operation.
    pub(crate) daemon: f64,
    pub(crate) system_calls: Option<f64>,
    pub(crate) allocations: f64,
    pub(crate) faults: f64,
}

impl Figures {
    pub(crate) fn of(line: &Line, blocks: &[Block], system_calls: Option<f64>) -> Figures {
        let all = |value: fn(&Block) -> f64| -> Vec<f64> { blocks.iter().map(value).collect() };
        let walls = all(|block| block.cost.wall);
        let timed = blocks.iter().flat_map(|block| &block.nanos);
        let mut times: Vec<f64> = timed.map(|nanos| *nanos as f64 / 1e9).collect();
        if times.is_empty() {
            times = walls.clone();
        }
        Figures {
            time: median(if line.is_of_threads() { walls } else { times.clone() }),
            p99: quantile(times, 0.99),
            own: median(all(|block| block.cost.own)),
            daemon: median(all(|block| block.cost.other)),
            system_calls,
            allocations: median(all(|block| block.cost.allocations)),
            faults: median(all(|block| block.cost.faults)),
        }
    }

    fn json(&self, signs: &Signs) -> Value {
        json!({
            "seconds": self.time,
            "p99_seconds": self.p99,
            "own_cpu_seconds": self.own,
            "daemon_cpu_seconds": self.daemon,
            "system_calls": self.system_calls,
            "allocations": self.allocations,
            "page_faults": self.faults,
            "daemon": signs.json(),
        })
    }
}

/// The one in the middle.
pub(crate) fn median(values: Vec<f64>) -> f64 {
    quantile(values, 0.5)
}

fn quantile(mut values: Vec<f64>, part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

/// A line of a regime's table.
pub(crate) struct Row {
    pub(crate) line: String,
    pub(crate) regime: Regime,
    pub(crate) is_a_request: bool,
    /// Where it is in a plot.
    pub(crate) point: Option<(Plot, f64)>,
    /// Seconds that no library can be faster than.
    pub(crate) floor: Option<f64>,
    pub(crate) ours: Figures,
    pub(crate) theirs: Figures,
    pub(crate) signs: [Signs; 2],
}

impl Row {
    pub(crate) fn json(&self) -> Value {
        json!({
            "line": self.line,
            "regime": self.regime.name(),
            "floor_seconds": self.floor,
            "ours": self.ours.json(&self.signs[0]),
            "c": self.theirs.json(&self.signs[1]),
        })
    }

    /// The head of the table. Ratios are ours to C's: below 1 is better than C.
    pub(crate) fn head() -> String {
        "| | time | C | ratio | p99 | C | ratio | CPU | C | ratio | daemon's CPU, ratio \
         | system calls, ours / C | allocations, ours / C | page faults, ours / C | floor |\n\
         | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
            .to_owned()
    }

    pub(crate) fn text(&self) -> String {
        let (ours, theirs) = (&self.ours, &self.theirs);
        let three = |value: fn(&Figures) -> f64| {
            let (ours, theirs) = (value(ours), value(theirs));
            format!("{} | {} | {}", seconds(ours), seconds(theirs), ratio(ours, theirs))
        };
        let both = |ours: f64, theirs: f64| format!("{} / {}", short(ours), short(theirs));
        let calls = ours.system_calls.zip(theirs.system_calls);
        format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            self.line,
            three(|figures| figures.time),
            three(|figures| figures.p99),
            three(|figures| figures.own),
            ratio(ours.daemon, theirs.daemon),
            calls.map_or("-".to_owned(), |(ours, theirs)| both(ours, theirs)),
            both(ours.allocations, theirs.allocations),
            both(ours.faults, theirs.faults),
            self.floor.map_or("-".to_owned(), seconds),
        )
    }
}

/// How the daemon fared during the rows of a regime.
pub(crate) fn health(rows: &[&Row]) -> String {
    let [ours, theirs] = [0, 1].map(|side: usize| {
        let signs = || rows.iter().map(|row| &row.signs[side]);
        let tokens: Vec<(f64, f64)> = signs().filter_map(Signs::token).collect();
        let late: usize = signs().map(Signs::late).sum();
        let token = if tokens.is_empty() {
            "unknown".to_owned()
        } else {
            let most = tokens.iter().map(|(_, most)| *most).fold(0.0, f64::max);
            format!("{} ms, at most {most} ms", median(tokens.iter().map(|(m, _)| *m).collect()))
        };
        (late, token)
    });
    format!(
        "| daemon | beside ours | beside C |\n| --- | --: | --: |\n\
         | `stats.schedmiss`: late so often | {} | {} |\n\
         | `stats.srp.mtt_rx_token`: mean time to the token | {} | {} |",
        ours.0, theirs.0, ours.1, theirs.1
    )
}

pub(crate) fn ratio(ours: f64, theirs: f64) -> String {
    if ours > 0.0 && theirs > 0.0 { format!("{:.2}", ours / theirs) } else { "-".to_owned() }
}

/// A number with the digits that count.
fn short(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        1.0.. => format!("{seconds:.2} s"),
        1e-3.. => format!("{:.2} ms", seconds * 1e3),
        1e-6.. => format!("{:.2} µs", seconds * 1e6),
        _ => format!("{:.0} ns", seconds * 1e9),
    }
}

/// What a number counts.
#[derive(Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    Bytes,
}

/// A figure that has no blocks.
pub(crate) struct Other {
    pub(crate) line: String,
    pub(crate) regime: Regime,
    pub(crate) unit: Unit,
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
}

impl Other {
    pub(crate) fn new(line: &str, unit: Unit, ours: f64, theirs: f64) -> Other {
        Other { line: line.to_owned(), regime: Regime::Idle, unit, ours, theirs }
    }

    pub(crate) fn head() -> String {
        "| | ours | C | ratio |\n| --- | --: | --: | --: |".to_owned()
    }

    pub(crate) fn text(&self) -> String {
        let show = |value| match self.unit {
            Unit::Seconds => seconds(value),
            Unit::Bytes => format!("{:.0} KiB", value / 1024.0),
        };
        let (ours, theirs) = (self.ours, self.theirs);
        format!("| {} | {} | {} | {} |", self.line, show(ours), show(theirs), ratio(ours, theirs))
    }

    pub(crate) fn json(&self) -> Value {
        let unit = match self.unit {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
        };
        json!({
            "line": self.line,
            "regime": self.regime.name(),
            "unit": unit,
            "ours": self.ours,
            "c": self.theirs,
        })
    }
}
