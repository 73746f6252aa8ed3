//! The same scripts on a real cluster of three nodes and on one in this process: every client is
//! told the same.

use corosync_ipc::embedded;

use crate::script::{Real, Step, run};

/// How often a script is run on a real cluster until its nodes form no rings but those that the
/// script asks for. They do when the machine is busy, and after a pause they do every other time:
/// it is chance whether a node that goes on reads first that it failed.
const ATTEMPTS: usize = 15;

#[track_caller]
fn compare(steps: &[Step]) {
    compare_with(&[], steps);
}

/// After a process of each node joined.
#[track_caller]
fn compare_joined(steps: &[Step]) {
    let joined = [
        Step::Connect("a", 1, 101),
        Step::Connect("b", 2, 102),
        Step::Connect("c", 3, 103),
        Step::Join("a", "one"),
        Step::Join("b", "one"),
        Step::Join("c", "one"),
    ];
    compare(&[joined.as_slice(), steps].concat());
}

/// With these features of votequorum.
#[track_caller]
fn compare_with(features: &[&str], steps: &[Step]) {
    let nodes = embedded::Cluster::builder();
    let nodes = features
        .iter()
        .fold(nodes, |nodes, feature| nodes.setting(format!("quorum.{feature}"), 1_u8));
    let nodes = (1..=3)
        .fold(nodes, |nodes, id| nodes.node(id, format!("n{id}"), format!("10.77.0.{id}"), None));
    let mut cluster = nodes.start().unwrap();
    let embedded = run(&mut cluster, steps, None);
    if testbed::nothing_to_compare() {
        return;
    }
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let real = run(&mut Real::start(features), steps, Some(&embedded));
        // A ring too many may have been the first.
        if !real.has_more_rings(&embedded) && real.keys[0] == embedded.keys[0] {
            for (client, told) in &real.told {
                assert_eq!(&embedded.told[client], told, "{client:?}");
            }
            assert_eq!(embedded.keys[1], real.keys[1]);
            return;
        }
        last = Some((real.keys, real.told));
    }
    panic!(
        "the real nodes form more rings than they are asked for: {last:#?}, not {:#?}",
        embedded.keys
    );
}

#[test]
fn partitions_and_deaths_are_told_as_by_a_real_cluster() {
    compare_joined(&[
        Step::Connect("d", 2, 104),
        Step::Join("d", "other"),
        Step::Send("a", "all are here"),
        Step::Send("c", "I hear you"),
        Step::Partition(&[&[1], &[2, 3]]),
        Step::Send("a", "alone"),
        Step::Send("b", "two of us"),
        // Who comes and goes on the other side.
        Step::Connect("e", 3, 105),
        Step::Join("e", "one"),
        Step::Leave("c", "one"),
        Step::Connect("f", 1, 106),
        Step::Join("f", "other"),
        Step::Heal,
        Step::Send("b", "together"),
        Step::Kill(3),
        Step::Send("a", "two are left"),
        Step::Start(3),
        Step::Connect("g", 3, 107),
        Step::Join("g", "one"),
        Step::Send("g", "back"),
        Step::Kill(1),
        Step::Kill(2),
        Step::Send("g", "last"),
    ]);
}

#[test]
fn stops_and_ends_of_processes_are_told_as_by_a_real_cluster() {
    compare_joined(&[
        Step::Connect("d", 1, 104),
        Step::Join("d", "one"),
        Step::Die("d"),
        Step::Leave("a", "one"),
        Step::Stop(2),
        Step::Start(2),
        Step::Connect("e", 2, 105),
        Step::Join("e", "one"),
        Step::Send("e", "again"),
        Step::Partition(&[&[1], &[2], &[3]]),
        Step::Send("e", "alone"),
        Step::Send("c", "so am I"),
    ]);
}

#[test]
fn a_pause_is_told_as_by_a_real_cluster() {
    compare_joined(&[
        Step::Pause(3),
        Step::Send("b", "without you"),
        Step::Leave("a", "one"),
        Step::Resume(3),
        Step::Send("c", "what was it?"),
    ]);
}

#[test]
fn a_pause_of_the_representative_is_told_as_by_a_real_cluster() {
    compare(&[
        Step::Connect("a", 1, 101),
        Step::Connect("b", 2, 102),
        Step::Join("a", "one"),
        Step::Join("b", "one"),
        Step::Pause(1),
        Step::Connect("c", 3, 103),
        Step::Join("c", "one"),
        Step::Resume(1),
        Step::Send("a", "hello"),
    ]);
}

#[test]
fn votes_are_told_as_by_a_real_cluster() {
    compare(&[
        Step::Connect("a", 1, 101),
        Step::Connect("b", 2, 102),
        Step::Connect("c", 3, 103),
        Step::SetExpected("a", 4),
        Step::SetVotes("b", 1, 3),
        Step::Partition(&[&[1], &[2, 3]]),
        Step::SetExpected("b", 2),
        Step::Heal,
        Step::SetVotes("c", 3, 0),
    ]);
}

#[test]
fn ties_are_told_as_by_a_real_cluster() {
    compare_with(
        &["wait_for_all", "auto_tie_breaker"],
        &[
            Step::Connect("a", 1, 101),
            Step::Connect("b", 2, 102),
            Step::Connect("c", 3, 103),
            Step::SetVotes("a", 3, 2),
            Step::Partition(&[&[1, 2], &[3]]),
            Step::Heal,
            Step::Kill(1),
        ],
    );
}
