//! What is aimed at, beside what was measured.

use crate::lines::Regime;
use crate::report::{Figures, Other, Row, median, ratio, seconds};
use crate::results::{Results, table};

/// A figure to reach, and where it comes from.
struct Target {
    line: &'static str,
    goal: Goal,
    /// The regimes that it is about.
    regimes: fn(Regime) -> bool,
    value: fn(&Results, Regime) -> Option<f64>,
}

#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
    /// In KiB.
    Kibibytes(f64),
    /// As small as is safe.
    Small,
}

impl Goal {
    fn text(self) -> String {
        match self {
            Goal::AtMost(limit) => format!("<= {limit:.2}"),
            Goal::AtLeast(limit) => format!(">= {limit:.2}"),
            Goal::Kibibytes(limit) => format!("<= {limit} KiB"),
            Goal::Small => "as small as is safe".to_owned(),
        }
    }

    fn show(self, value: f64) -> String {
        // As it is shown.
        let value = (value * 100.0).round() / 100.0;
        let (met, text) = match self {
            Goal::AtMost(limit) => (value <= limit, format!("{value:.2}")),
            Goal::AtLeast(limit) => (value >= limit, format!("{value:.2}")),
            Goal::Kibibytes(limit) => {
                (value <= limit * 1024.0, format!("{:.0} KiB", value / 1024.0))
            }
            Goal::Small => (true, format!("{:.0} KiB", value / 1024.0)),
        };
        if met { text } else { format!("**{text}**") }
    }
}

fn paced_or_busy(regime: Regime) -> bool {
    regime != Regime::Idle
}

fn back_to_back(regime: Regime) -> bool {
    regime.pause() == 0
}

fn busy(regime: Regime) -> bool {
    regime == Regime::Busy
}

const TARGETS: &[Target] = &[
    Target {
        line: "requests: CPU, median of all kinds",
        goal: Goal::AtMost(0.95),
        regimes: paced_or_busy,
        value: |results, regime| of_requests(results, regime, |figures| figures.own),
    },
    Target {
        line: "requests: p99, median of all kinds",
        goal: Goal::AtMost(1.0),
        regimes: busy,
        value: |results, regime| of_requests(results, regime, |figures| figures.p99),
    },
    Target {
        line: "cmap get: allocations",
        goal: Goal::AtMost(1.0),
        regimes: |_| true,
        value: |results, regime| {
            results.row("cmap get, number", regime).map(|row| row.ours.allocations)
        },
    },
    Target {
        line: "list of all keys: time",
        goal: Goal::AtMost(0.4),
        regimes: busy,
        value: |results, regime| time(results, regime, "cmap list of all keys and values"),
    },
    Target {
        line: "2 threads share a client: gets/s, against one thread of ours",
        goal: Goal::AtLeast(1.0),
        regimes: back_to_back,
        value: |results, regime| {
            speed(results, regime, "get, 2 threads, against one thread of ours")
        },
    },
    Target {
        line: "8 threads share a client: gets/s, against one thread of ours",
        goal: Goal::AtLeast(1.0),
        regimes: back_to_back,
        value: |results, regime| {
            speed(results, regime, "get, 8 threads, against one thread of ours")
        },
    },
    Target {
        line: "drain of 10,000 events, cmap: events/s",
        goal: Goal::AtLeast(2.0),
        regimes: back_to_back,
        value: |results, regime| speed(results, regime, DRAIN_CMAP),
    },
    Target {
        line: "drain, cmap: system calls of an event",
        goal: Goal::AtMost(0.05),
        regimes: back_to_back,
        value: |results, regime| results.row(DRAIN_CMAP, regime)?.ours.system_calls,
    },
    Target {
        line: "drain, cmap: allocations of an event",
        goal: Goal::AtMost(1.0),
        regimes: back_to_back,
        value: |results, regime| results.row(DRAIN_CMAP, regime).map(|row| row.ours.allocations),
    },
    Target {
        line: "drain of 10,000 events, cpg: events/s",
        goal: Goal::AtLeast(2.0),
        regimes: back_to_back,
        value: |results, regime| speed(results, regime, DRAIN_CPG),
    },
    Target {
        line: "drain, cpg: system calls of an event",
        goal: Goal::AtMost(0.05),
        regimes: back_to_back,
        value: |results, regime| results.row(DRAIN_CPG, regime)?.ours.system_calls,
    },
    Target {
        line: "drain, cpg: allocations of an event",
        goal: Goal::AtMost(1.0),
        regimes: back_to_back,
        value: |results, regime| results.row(DRAIN_CPG, regime).map(|row| row.ours.allocations),
    },
    Target {
        line: "cpg 64 B, pipelined: CPU",
        goal: Goal::AtMost(0.45),
        regimes: back_to_back,
        value: |results, regime| own(results, regime, "cpg 64 B, pipelined"),
    },
    Target {
        line: "cpg 64 KiB, a thread sends and one takes: messages/s",
        goal: Goal::AtLeast(1.1),
        regimes: back_to_back,
        value: |results, regime| speed(results, regime, "cpg 64 KiB, two threads"),
    },
    Target {
        line: "cpg 1000 KB, a thread sends and one takes: messages/s",
        goal: Goal::AtLeast(1.1),
        regimes: back_to_back,
        value: |results, regime| speed(results, regime, "cpg 1000 KB, two threads"),
    },
    Target {
        line: "cpg 1000 KB, pipelined: CPU",
        goal: Goal::AtMost(0.85),
        regimes: back_to_back,
        value: |results, regime| own(results, regime, "cpg 1000 KB, pipelined"),
    },
    Target {
        line: "cpg 5 MiB, one thread: messages/s",
        goal: Goal::AtLeast(2.0),
        regimes: back_to_back,
        value: |results, regime| speed(results, regime, "cpg 5 MiB, pipelined"),
    },
    Target {
        line: "connect to cmap, rings as in C: time",
        goal: Goal::AtMost(0.7),
        regimes: back_to_back,
        value: |results, regime| {
            time(results, regime, "connect and disconnect, cmap, rings as in C")
        },
    },
    Target {
        line: "connect to cpg, rings as in C: time",
        goal: Goal::AtMost(0.7),
        regimes: back_to_back,
        value: |results, regime| {
            time(results, regime, "connect and disconnect, cpg, rings as in C")
        },
    },
    Target {
        line: "request answered after 3 s: CPU",
        goal: Goal::AtMost(1.5),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "late answer: CPU of 3 seconds"),
    },
    Target {
        line: "command: start to answer",
        goal: Goal::AtMost(0.45),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "command: time"),
    },
    Target {
        line: "command: CPU",
        goal: Goal::AtMost(0.6),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "command: CPU"),
    },
    Target {
        line: "peak memory: monitor of five services",
        goal: Goal::AtMost(0.5),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "memory: monitor of five services"),
    },
    Target {
        line: "peak memory: `cmap watch`",
        goal: Goal::AtMost(1.0),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "memory: command that watches a key"),
    },
    Target {
        line: "server: echo of 1 MB, CPU",
        goal: Goal::AtMost(1.0),
        regimes: back_to_back,
        value: |results, regime| other(results, regime, "server: echo of 1000 KB, its CPU"),
    },
    Target {
        line: "/dev/shm of a connection: quorum",
        goal: Goal::Kibibytes(80.0),
        regimes: |regime| regime == Regime::Idle,
        value: |results, regime| shared_memory(results, regime, "quorum"),
    },
    Target {
        line: "/dev/shm of a connection: votequorum",
        goal: Goal::Kibibytes(80.0),
        regimes: |regime| regime == Regime::Idle,
        value: |results, regime| shared_memory(results, regime, "votequorum"),
    },
    Target {
        line: "/dev/shm of a connection: cfg",
        goal: Goal::Kibibytes(80.0),
        regimes: |regime| regime == Regime::Idle,
        value: |results, regime| shared_memory(results, regime, "cfg"),
    },
    Target {
        line: "/dev/shm of a connection: cmap",
        goal: Goal::Small,
        regimes: |regime| regime == Regime::Idle,
        value: |results, regime| shared_memory(results, regime, "cmap"),
    },
    Target {
        line: "/dev/shm of a connection: cpg",
        goal: Goal::Small,
        regimes: |regime| regime == Regime::Idle,
        value: |results, regime| shared_memory(results, regime, "cpg"),
    },
];

const DRAIN_CMAP: &str = "drain of 10000 events, cmap";
const DRAIN_CPG: &str = "drain of 10000 events, cpg";

/// The median of the ratios of all kinds of requests.
fn of_requests(results: &Results, regime: Regime, value: fn(&Figures) -> f64) -> Option<f64> {
    let rows = results.rows.iter().filter(|row| row.is_a_request && row.regime == regime);
    let ratios: Vec<f64> = rows.map(|row| value(&row.ours) / value(&row.theirs)).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

fn time(results: &Results, regime: Regime, line: &str) -> Option<f64> {
    results.row(line, regime).map(|row| row.ours.time / row.theirs.time)
}

fn speed(results: &Results, regime: Regime, line: &str) -> Option<f64> {
    time(results, regime, line).map(|ratio| 1.0 / ratio)
}

fn own(results: &Results, regime: Regime, line: &str) -> Option<f64> {
    results.row(line, regime).map(|row| row.ours.own / row.theirs.own)
}

fn other(results: &Results, regime: Regime, line: &str) -> Option<f64> {
    results.other(line, regime).map(|other| other.ours / other.theirs)
}

fn shared_memory(results: &Results, regime: Regime, service: &str) -> Option<f64> {
    let line = format!("/dev/shm of a connection, {service}");
    results.other(&line, regime).map(|other| other.ours)
}

/// All targets that have figures. What misses its target is bold.
pub(crate) fn table_of_targets(results: &Results) -> String {
    let regimes = results.regimes();
    let names: Vec<String> = regimes.iter().map(|regime| regime.name()).collect();
    let head = format!(
        "| ours / C | target | {} |\n| --- | --- |{}",
        names.join(" | "),
        " --: |".repeat(names.len())
    );
    let rows = TARGETS.iter().filter_map(|target| {
        let value =
            |regime| (target.regimes)(regime).then(|| (target.value)(results, regime)).flatten();
        let values: Vec<Option<f64>> = regimes.iter().copied().map(value).collect();
        values.iter().any(Option::is_some).then(|| {
            let show = |value: Option<f64>| value.map_or(String::new(), |it| target.goal.show(it));
            let cells: Vec<String> = values.into_iter().map(show).collect();
            format!("| {} | {} | {} |", target.line, target.goal.text(), cells.join(" | "))
        })
    });
    table(head, rows)
}

/// A few lines for those who want no more.
const EXTRACT: [&str; 12] = [
    "cmap get, number",
    "cmap set",
    "quorum getquorate",
    "cmap list of all keys and values",
    "connect and disconnect, cmap",
    "burst of 10000 notifications",
    DRAIN_CPG,
    "cpg 64 B, one under way",
    "cpg 64 B, pipelined",
    "cpg 1000 KB, pipelined",
    "get, 8 threads, against C with a handle each",
    "dispatch of nothing, cmap",
];

const EXTRACT_OF_OTHERS: [&str; 3] =
    ["command: time", "memory: monitor of five services", "/dev/shm of a connection, cmap"];

pub(crate) fn extract(results: &Results) -> String {
    let regimes: Vec<Regime> =
        results.regimes().into_iter().filter(|regime| regime.pause() == 0).collect();
    let heads: Vec<String> =
        regimes.iter().map(|it| format!("{} | C | ratio | ratio of CPU", it.name())).collect();
    let head = format!(
        "| | {} |\n| --- |{}",
        heads.join(" | "),
        " --: | --: | --: | --: |".repeat(heads.len())
    );
    let cells = |row: &Row| {
        let (ours, theirs) = (&row.ours, &row.theirs);
        format!(
            "{} | {} | {} | {}",
            seconds(ours.time),
            seconds(theirs.time),
            ratio(ours.time, theirs.time),
            ratio(ours.own, theirs.own)
        )
    };
    let rows = EXTRACT.iter().filter_map(|line| {
        let rows = regimes.iter().map(|regime| results.row(line, *regime).map(cells));
        Some(format!("| {line} | {} |", rows.collect::<Option<Vec<_>>>()?.join(" | ")))
    });
    let others = EXTRACT_OF_OTHERS.iter().filter_map(|line| results.other(line, Regime::Idle));
    [table(head, rows), table(Other::head(), others.map(Other::text))].join("\n\n")
}
