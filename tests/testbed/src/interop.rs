//! Programs that use the C libraries next to ours.

use std::thread;
use std::time::Duration;

use corosync_ipc::Endpoint;
use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::cpg::{Client, Confchg, Deliver, Event, GroupName, Guarantee, Options};

use crate::{NodeCommand, Random, cc, copy_for_all, next};

/// The program over libcpg, or `None` where it cannot be had.
pub fn cpg_program() -> Option<std::path::PathBuf> {
    Some(copy_for_all(&cc(include_str!("interop.c"), &["cpg"])?))
}

/// The program over libcmap.
pub fn cmap_program() -> Option<std::path::PathBuf> {
    Some(copy_for_all(&cc(include_str!("tracker.c"), &["cmap"])?))
}

/// The program over libcmap that prints the statistics.
pub fn statistics_program() -> Option<std::path::PathBuf> {
    Some(copy_for_all(&cc(include_str!("stats.c"), &["cmap"])?))
}

/// The lengths of messages: mostly short, some long, a few in fragments.
fn length(random: &mut Random) -> usize {
    let kind = random.word() % 10_000;
    let limit: u64 = match kind {
        0..2 => 5 << 20,
        2..10 => 500_000,
        10..200 => 10_000,
        200..9_000 => 200,
        _ => 1,
    };
    (random.word() % limit) as usize
}

/// Takes messages in; equal for equal messages in equal order.
struct Hash(u64);

impl Hash {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }

    fn message(&mut self, node: u32, pid: u32, message: &[u8]) {
        self.word(u64::from(node));
        self.word(u64::from(pid));
        self.word(message.len() as u64);
        let words = message.chunks_exact(8);
        let rest = words.remainder();
        words.for_each(|word| self.word(u64::from_ne_bytes(word.try_into().unwrap())));
        rest.iter().for_each(|byte| self.word(u64::from(*byte)));
    }
}

fn fill(random: &mut Random, message: &mut [u8]) {
    message.chunks_mut(8).for_each(|word| {
        let bytes = random.word().to_ne_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A client with a pid that no process has, so that it can be told from those of the C program.
fn member(endpoint: &Endpoint, group: &GroupName, pid: u32) -> Client {
    let client = Client::connect_with(endpoint, Options::new().pid(0x4000_0000 + pid)).unwrap();
    client.join(group).unwrap();
    client
}

/// Ours, and a C program that need not be on the same node, send each other so many messages.
pub fn both_see_the_same_messages_in_the_same_order(
    client: &Client,
    c: NodeCommand,
    group: &GroupName,
    each: usize,
) {
    client.set_request_timeout(Duration::from_secs(60));
    let c = c.args(["exchange", &hex(group.as_bytes()), &each.to_string()]);
    let c = c.limit(Duration::from_secs(240)).spawn();
    // Both begin when both are members.
    while !matches!(next(client), Event::Confchg(Confchg { members, .. }) if members.len() == 2) {}

    let (hash, bytes, longest) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(4711);
            let mut message = Vec::new();
            for _ in 0..each {
                message.resize(length(&mut random), 0);
                fill(&mut random, &mut message);
                client.multicast(Guarantee::AGREED, &message).unwrap();
            }
        });
        let (mut hash, mut bytes) = (Hash(0), 0);
        // Of ours, and of the program's.
        let mut longest = [0; 2];
        let mut left = 2 * each;
        while left > 0 {
            match next(client) {
                Event::Deliver(Deliver { node_id, pid, payload, .. }) => {
                    hash.message(node_id.0, pid, &payload);
                    bytes += payload.len();
                    let from = &mut longest[usize::from(pid != client.pid())];
                    *from = payload.len().max(*from);
                    left -= 1;
                }
                Event::Confchg(Confchg { left: gone, .. }) => {
                    assert!(gone.is_empty(), "{gone:?}: {}{}", c.stdout(), c.stderr())
                }
                _ => {}
            }
        }
        (hash.0, bytes, longest)
    });
    let output = c.wait().success();
    assert!(
        bytes > 200 * each && longest.iter().all(|longest| *longest > 1 << 20),
        "{bytes} bytes, {longest:?}"
    );
    assert!(output.ends_with(&format!("hash {hash:016x}\n")), "{output}, and {hash:016x} here");
}

/// Ours and C programs join groups whose names a C string does not hold, and meet there.
pub fn both_mean_the_same_groups(endpoint: &Endpoint, c: impl Fn() -> NodeCommand) {
    for (number, name) in
        [&b"interop name\0"[..], b"interop name", &[0xfe; 128], b"\0"].into_iter().enumerate()
    {
        let group = GroupName::new(name).unwrap();
        let client = member(endpoint, &group, number as u32);
        let c = c().args(["once", &hex(name)]).spawn();
        let text = c.wait_stdout("delivered");
        // It sent its process id as text.
        let (mut pid, mut members) = (0, 0);
        while pid == 0 {
            match next(&client) {
                Event::Confchg(Confchg { group: seen, members: now, .. }) => {
                    assert_eq!(seen, group);
                    members = members.max(now.len());
                }
                Event::Deliver(Deliver { group: seen, pid: sender, payload, .. }) => {
                    assert_eq!((seen, &payload[..]), (group, sender.to_string().as_bytes()));
                    pid = sender;
                }
                _ => {}
            }
        }
        assert_eq!((pid, members), (c.pid(), 2));
        assert!(text.contains(&format!("delivered {} {pid}", hex(name))), "{text}");
        client.multicast_slices(Guarantee::AGREED, &[b"from ", b"ours"]).unwrap();
        let output = c.wait().success();
        assert!(output.contains(&format!("delivered {} from ours", hex(name))), "{output}");
    }
}

/// A change of a key as the C program prints it.
fn line(event: cmap::Event) -> String {
    let cmap::Event::Notification(event) = event else { panic!("not a change: {event:?}") };
    let value = |value: Option<Value>| match value {
        None => "-".to_owned(),
        Some(Value::U32(number)) => format!("u32:{number}"),
        Some(Value::String(text)) => format!("str:{text}"),
        Some(other) => panic!("{other:?}"),
    };
    let what = match event.event {
        TrackEvents::ADD => "add",
        TrackEvents::MODIFY => "modify",
        TrackEvents::DELETE => "delete",
        other => panic!("{other:?}"),
    };
    format!("{what} {} {} {}", event.key, value(event.new_value), value(event.old_value))
}

/// Both change keys under one prefix, and both are told of all changes, in the same order.
pub fn both_are_told_the_same_changes(endpoint: &Endpoint, c: NodeCommand) {
    const ROUNDS: u32 = 200;
    let map = cmap::Client::connect_to(endpoint).unwrap();
    map.track_add("tracked.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let c = c.args(["tracked.", &ROUNDS.to_string()]).spawn();
    c.wait_stdout("tracking\n");
    for round in 0..ROUNDS {
        map.set("tracked.ours", round).unwrap();
        map.set("tracked.both", format!("ours {round}")).unwrap();
        map.delete("tracked.ours").unwrap();
    }
    // The program ends when it is told of this, having made its own changes.
    c.wait_stdout("done\n");
    map.set("tracked.end", 0_u32).unwrap();
    let mut ours = Vec::new();
    while ours.last().is_none_or(|last: &String| !last.starts_with("add tracked.end")) {
        ours.push(line(next(&map)));
    }
    let output = c.wait().success();
    let theirs: Vec<&str> = output.lines().filter(|line| line.contains(" tracked.")).collect();
    assert_eq!(theirs, ours);
    let of =
        |key: &str| ours.iter().filter(|line| line.split(' ').nth(1) == Some(key)).count() as u32;
    assert_eq!(
        (of("tracked.ours"), of("tracked.theirs"), of("tracked.both")),
        (2 * ROUNDS, 2 * ROUNDS, 2 * ROUNDS)
    );
}
