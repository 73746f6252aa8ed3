//! The lines of the table: what is done, how often, and in which regimes.

use crate::meter::Cost;
use crate::ours::{CALLS, Ours};
use crate::side::{Rival, Side};
use crate::theirs::Theirs;

/// What the machine does besides, and how often the work comes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Regime {
    /// Nothing else runs, and one call follows the other.
    Idle,
    /// Nothing else runs, and a call comes after each pause of so many nanoseconds.
    Paced(u64),
    /// Every processor has a process that never sleeps.
    Busy,
}

impl Regime {
    pub(crate) const ALL: [Regime; 5] = [
        Regime::Idle,
        Regime::Paced(200_000),
        Regime::Paced(2_000_000),
        Regime::Paced(20_000_000),
        Regime::Busy,
    ];

    pub(crate) fn name(self) -> String {
        match self {
            Regime::Idle => "idle".to_owned(),
            Regime::Paced(nanos) => format!("every {} ms", nanos as f64 / 1e6),
            Regime::Busy => "busy".to_owned(),
        }
    }

    /// In nanoseconds.
    pub(crate) fn pause(self) -> u64 {
        if let Regime::Paced(nanos) = self { nanos } else { 0 }
    }
}

/// One block of one side.
pub(crate) struct Block {
    pub(crate) cost: Cost,
    /// What each operation took, where each is timed by itself.
    pub(crate) nanos: Vec<u64>,
}

pub(crate) enum Line {
    /// A call of the services.
    Call { name: &'static str, count: u32 },
    /// So many notifications of cmap, from the first set until the last was handed over.
    Burst { count: u32 },
    /// Taking so many notifications of cmap that wait.
    DrainCmap { count: u32 },
    /// Taking so many messages of cpg that wait.
    DrainCpg { count: u32 },
    /// Messages to oneself, one at a time.
    RoundTrips { count: u32, size: usize },
    /// Messages to oneself, as many as the daemon takes.
    Stream { count: u32, size: usize },
    /// Messages to oneself, with a thread that sends and one that takes.
    StreamOfTwo { count: u32, size: usize },
    /// Gets by so many threads.
    Threads { threads: u32, rival: Rival, count: u32 },
    /// Gets over so many connections in turn.
    Connections { connections: u32, count: u32 },
}

/// What no library can be faster than.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    /// Waking another process, and being woken by it.
    Wake,
    /// Copying a message into a ring and out of it.
    Copies(usize),
}

/// A plot of how cost grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plot {
    Burst,
    Size,
    SizeOfTwo,
    Threads,
    Connections,
}

/// Sizes of messages, with how many of them are sent.
pub(crate) const SIZES: [(usize, u32); 7] = [
    (0, 5_000),
    (64, 5_000),
    (1 << 10, 5_000),
    (8 << 10, 2_000),
    (64 << 10, 500),
    (1_000_000, 40),
    (5 << 20, 8),
];

/// How many trackers of one key send a burst. The daemon sends to each of them.
const TRACKERS: u32 = 1_000;

/// The calls of the paced regimes, one of each kind: what they cost more there is the way they wait.
const PACED: [&str; 9] = [
    "cmap get, number",
    "cmap set",
    "cmap list of all keys and values",
    "quorum getquorate",
    "votequorum getinfo",
    "cfg local_get",
    "cpg local_get",
    "dispatch of nothing, cmap",
    "dispatch of nothing, cpg",
];

impl Line {
    pub(crate) fn all() -> Vec<Line> {
        let calls = CALLS.iter().filter(|(name, _)| *name != NOTHING);
        let mut lines: Vec<Line> =
            calls.map(|(name, _)| Line::Call { name, count: count_of(name) }).collect();
        lines.extend([100, 1_000, 10_000].map(|count| Line::Burst { count }));
        lines.extend([Line::DrainCmap { count: 10_000 }, Line::DrainCpg { count: 10_000 }]);
        lines.extend(SIZES.map(|(size, count)| Line::RoundTrips { count: count / 4, size }));
        lines.extend(SIZES.map(|(size, count)| Line::Stream { count, size }));
        lines.extend(SIZES.map(|(size, count)| Line::StreamOfTwo { count, size }));
        for (threads, rivals) in [
            (1, &[Rival::HandleEach][..]),
            (2, &[Rival::HandleEach, Rival::OneHandle, Rival::OneThread]),
            (8, &[Rival::HandleEach, Rival::OneHandle, Rival::OneThread]),
        ] {
            let count = 4_000 / threads;
            lines.extend(rivals.iter().map(|&rival| Line::Threads { threads, rival, count }));
        }
        lines.extend(
            [1, 10, 100, 1_000].map(|connections| Line::Connections { connections, count: 2_000 }),
        );
        lines
    }

    pub(crate) fn name(&self) -> String {
        match *self {
            Line::Call { name, .. } => name.to_owned(),
            Line::Burst { count } => format!("burst of {count} notifications"),
            Line::DrainCmap { count } => format!("drain of {count} events, cmap"),
            Line::DrainCpg { count } => format!("drain of {count} events, cpg"),
            Line::RoundTrips { size, .. } => format!("cpg {}, one under way", bytes(size)),
            Line::Stream { size, .. } => format!("cpg {}, pipelined", bytes(size)),
            Line::StreamOfTwo { size, .. } => format!("cpg {}, two threads", bytes(size)),
            Line::Threads { threads, rival, .. } => {
                let rival = match rival {
                    Rival::HandleEach => "C with a handle each",
                    Rival::OneHandle => "C with one handle",
                    Rival::OneThread => "one thread of ours",
                };
                format!("get, {}, against {rival}", several(threads, "thread"))
            }
            Line::Connections { connections, .. } => {
                format!("get, {} in turn", several(connections, "connection"))
            }
        }
    }

    /// Where the line is in a plot of how cost grows.
    pub(crate) fn point(&self) -> Option<(Plot, f64)> {
        Some(match *self {
            Line::Burst { count } => (Plot::Burst, count.into()),
            Line::Stream { size, .. } if size > 0 => (Plot::Size, size as f64),
            Line::StreamOfTwo { size, .. } if size > 0 => (Plot::SizeOfTwo, size as f64),
            Line::Threads { threads, rival: Rival::HandleEach, .. } => {
                (Plot::Threads, threads.into())
            }
            Line::Connections { connections, .. } => (Plot::Connections, connections.into()),
            _ => return None,
        })
    }

    /// What limits it. A burst and a drain need no wake for each event, nor does a message among many.
    pub(crate) fn floor(&self) -> Option<Floor> {
        match *self {
            Line::Call { name, .. } => is_a_request(name).then_some(Floor::Wake),
            Line::Threads { .. } | Line::Connections { .. } | Line::RoundTrips { .. } => {
                Some(Floor::Wake)
            }
            Line::Stream { size, .. } | Line::StreamOfTwo { size, .. } => {
                (size > 0).then_some(Floor::Copies(size))
            }
            Line::Burst { .. } | Line::DrainCmap { .. } | Line::DrainCpg { .. } => None,
        }
    }

    /// Whether it is about one request and its answer.
    pub(crate) fn is_a_request(&self) -> bool {
        matches!(self, Line::Call { name, .. } if is_a_request(name))
    }

    /// Whether threads do the operations at the same time.
    pub(crate) fn is_of_threads(&self) -> bool {
        matches!(self, Line::Threads { .. })
    }

    /// The paced regimes are about calls, and all else is back to back.
    pub(crate) fn is_for(&self, regime: Regime) -> bool {
        match (self, regime) {
            (Line::Call { name, .. }, Regime::Paced(_)) => PACED.contains(name),
            (_, Regime::Paced(_)) => false,
            _ => true,
        }
    }

    /// Clients of both sides.
    pub(crate) fn sides(&self) -> [Box<dyn Side>; 2] {
        let other: Box<dyn Side> = match self {
            Line::Threads { rival: Rival::OneThread, .. } => {
                Box::new(Ours::connect().with_one_thread())
            }
            _ => Box::new(Theirs::connect()),
        };
        [Box::new(Ours::connect()), other]
    }

    /// What comes before the blocks of a side.
    pub(crate) fn begin(&self, side: &mut dyn Side) {
        match *self {
            Line::Burst { count } | Line::DrainCmap { count } => side.track(count.min(TRACKERS)),
            Line::DrainCpg { .. }
            | Line::RoundTrips { .. }
            | Line::Stream { .. }
            | Line::StreamOfTwo { .. } => side.join(),
            Line::Threads { threads, .. } => side.open(threads),
            Line::Connections { connections, .. } => side.open(connections),
            Line::Call { .. } => {}
        }
    }

    pub(crate) fn end(&self, side: &mut dyn Side) {
        match self {
            Line::DrainCpg { .. }
            | Line::RoundTrips { .. }
            | Line::Stream { .. }
            | Line::StreamOfTwo { .. } => side.leave(),
            Line::Threads { .. } | Line::Connections { .. } => side.close(),
            Line::Burst { .. } | Line::DrainCmap { .. } | Line::Call { .. } => {}
        }
    }

    /// What comes before each block and is no part of it.
    pub(crate) fn prepare(&self, side: &mut dyn Side) {
        match *self {
            Line::DrainCmap { count } => side.set_tracked(count / count.min(TRACKERS)),
            Line::DrainCpg { count } => side.send(count, 64),
            _ => {}
        }
    }

    /// How many operations a block has.
    pub(crate) fn operations(&self, regime: Regime) -> u32 {
        match *self {
            Line::Call { count, .. } => match regime.pause() {
                0 => count,
                // A block takes a fifth of a second, so that the sides take turns often.
                pause => count.min((200_000_000 / pause) as u32),
            },
            Line::Threads { threads, count, .. } => threads * count,
            Line::Burst { count }
            | Line::DrainCmap { count }
            | Line::DrainCpg { count }
            | Line::RoundTrips { count, .. }
            | Line::Stream { count, .. }
            | Line::StreamOfTwo { count, .. }
            | Line::Connections { count, .. } => count,
        }
    }

    /// Whether each operation is timed by itself.
    pub(crate) fn is_timed(&self) -> bool {
        match self {
            Line::Call { .. }
            | Line::RoundTrips { .. }
            | Line::Threads { .. }
            | Line::Connections { .. } => true,
            Line::Burst { .. }
            | Line::DrainCmap { .. }
            | Line::DrainCpg { .. }
            | Line::Stream { .. }
            | Line::StreamOfTwo { .. } => false,
        }
    }

    /// Does all operations of a block. Says what each took, where each is timed.
    pub(crate) fn work(&self, regime: Regime, side: &mut dyn Side, nanos: &mut [u64]) {
        match *self {
            Line::Call { name, .. } => side.calls(name, regime.pause(), nanos),
            Line::Burst { count } => {
                side.set_tracked(count / count.min(TRACKERS));
                side.drain_cmap(count);
            }
            Line::DrainCmap { count } => side.drain_cmap(count),
            Line::DrainCpg { count } => side.drain_cpg(count),
            Line::RoundTrips { size, .. } => side.round_trips(size, nanos),
            Line::Stream { count, size } => side.stream(count, size),
            Line::StreamOfTwo { count, size } => side.stream_of_two(count, size),
            Line::Threads { threads, rival, .. } => side.get_by_threads(threads, rival, nanos),
            Line::Connections { .. } => side.get_in_turn(nanos),
        }
    }
}

/// The call that does nothing, which shows what the pauses before the calls cost.
pub(crate) const NOTHING: &str = "nothing";

/// So many that a block takes some tens of milliseconds.
fn count_of(call: &str) -> u32 {
    match call {
        _ if call.starts_with("connect") => 20,
        "cmap list of all keys and values" | "cmap iteration of all keys" => 20,
        "votequorum setexpected" | "votequorum setvotes" => 100,
        _ => 1_000,
    }
}

fn is_a_request(call: &str) -> bool {
    // Those that are many requests, or none.
    let others = ["connect", "dispatch", "cmap list", "cmap iteration"];
    !others.iter().any(|other| call.starts_with(other))
}

fn several(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

pub(crate) fn bytes(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_000_000 => format!("{} KiB", size >> 10),
        1_000_000 => "1000 KB".to_owned(),
        _ => format!("{} MiB", size >> 20),
    }
}
