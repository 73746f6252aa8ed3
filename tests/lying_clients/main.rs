//! Clients that lie: to `corosync-ipc serve` and to a server of the library alone.
//!
//! Each case is a liar beside honest clients. It says what the server does with the liar: answers,
//! ends the connection, or takes no notice. [`stage::run`] asserts the rest after each case: the
//! honest clients are served in time, new ones connect, the server uses less than a tenth of a
//! processor while the liar holds what it has, and afterwards it has no descriptor, mapping, file
//! or memory more than before. Servers are processes of their own, so that all they have counts.
//!
//! The liars stand on `testbed::raw`, and `proto/` describes what they send. No codec of the crate
//! is used, so a wrong offset there shows here.

mod datagrams;
mod echo;
mod files;
mod floods;
mod liar;
mod limits;
mod messages;
mod processes;
mod rings;
mod services;
mod setup;
mod stage;

use std::collections::BTreeSet;

use corosync_ipc::libqb::Transport;

use stage::{Case, Served, run};

/// The fewest cases there are.
const FEWEST: usize = 150;

/// The cases of a topic with their server.
type Topic = fn() -> Vec<(Served, Vec<Case>)>;

macro_rules! topics {
    ($(mod $module:ident over $transport:ident: $($topic:ident),*;)*) => {
        $(
            /// Tests of each topic over a transport.
            mod $module {
                $(#[test] fn $topic() { super::over(super::$topic::cases, super::Transport::$transport); })*
            }
        )*
    };
}
topics! {
    mod over_rings over Shm:
        setup, rings, files, messages, services, floods, processes, limits;
    mod over_datagrams over Socket:
        setup, files, messages, services, floods, datagrams, processes, limits;
}

const TOPICS: [(&str, Topic); 9] = [
    ("setup", setup::cases),
    ("rings", rings::cases),
    ("files", files::cases),
    ("messages", messages::cases),
    ("services", services::cases),
    ("floods", floods::cases),
    ("datagrams", datagrams::cases),
    ("processes", processes::cases),
    ("limits", limits::cases),
];

fn over(topic: Topic, transport: Transport) {
    for (served, cases) in topic() {
        if cases.iter().any(|case| case.over.contains(&transport)) {
            run(served, transport, &cases);
        }
    }
}

#[test]
fn there_are_many_cases() {
    let mut names = BTreeSet::new();
    let mut runs = 0;
    for (topic, cases) in TOPICS {
        let cases: Vec<Case> = cases().into_iter().flat_map(|(_, cases)| cases).collect();
        println!("{topic}: {} cases", cases.len());
        for case in cases {
            runs += case.over.len();
            let name = format!("{topic}: {}", case.name);
            assert!(names.insert(name.clone()), "{name} is there twice");
        }
    }
    println!("{} cases, {runs} with both transports", names.len());
    assert!(names.len() >= FEWEST, "{} cases", names.len());
}
