//! Groups shared with programs that use libcpg.

use std::thread;
use std::time::Duration;

use corosync_ipc::Endpoint;
use corosync_ipc::cpg::{Client, Event, GroupName, Guarantee, Options};

use crate::harness::{Cluster, cc, copy_for_all, shared_one, skip};
use crate::support::{Random, connect, has_fragments, next, own_pid};

const PROGRAM: &str = include_str!("interop.c");

/// How many messages each side sends.
const EACH: usize = 50_000;

/// The lengths of messages: mostly short, some long, a few in fragments.
fn length(random: &mut Random) -> usize {
    let kind = random.next() % 10_000;
    let limit: u64 = match kind {
        0..2 => 5 << 20,
        2..10 => 500_000,
        10..200 => 10_000,
        200..9_000 => 200,
        _ => 1,
    };
    (random.next() % limit) as usize
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
        let bytes = random.next().to_ne_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_c_program_and_ours_see_the_same_messages_in_the_same_order() {
    if skip() {
        return;
    }
    let Some(program) = cc(PROGRAM, &["cpg"]) else {
        return;
    };
    let program = copy_for_all(&program);
    let cluster = Cluster::builder().nodes(2).start();
    if cluster.node(1).run(|| !has_fragments(&Endpoint::new())) {
        // Later C libraries do not understand corosync 1.99.
        return;
    }
    let group = GroupName::new(b"interop\0").unwrap();
    let client = cluster.node(1).run(|| {
        let client = connect(&Endpoint::new());
        client.join(&group).unwrap();
        client
    });
    client.set_request_timeout(Duration::from_secs(60));
    let c = cluster.node(2).command(&program);
    let c = c.args(["exchange", &hex(group.as_bytes()), &EACH.to_string()]);
    let c = c.limit(Duration::from_secs(240)).spawn();
    // Both begin when both are members.
    while !matches!(next(&client), Event::Confchg { members, .. } if members.len() == 2) {}

    let (hash, bytes) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random(4711);
            let mut message = Vec::new();
            for _ in 0..EACH {
                message.resize(length(&mut random), 0);
                fill(&mut random, &mut message);
                client.multicast(Guarantee::AGREED, &message).unwrap();
            }
        });
        let (mut hash, mut bytes) = (Hash(0), 0);
        let mut left = 2 * EACH;
        while left > 0 {
            match next(&client) {
                Event::Deliver { node_id, pid, payload, .. } => {
                    hash.message(node_id.0, pid, &payload);
                    bytes += payload.len();
                    left -= 1;
                }
                Event::Confchg { left: gone, .. } => assert!(gone.is_empty(), "{gone:?}: {}{}", c.stdout(), c.stderr()),
                _ => {}
            }
        }
        (hash.0, bytes)
    });
    let output = c.wait().success();
    assert!(bytes > 10_000_000, "{bytes} bytes");
    assert!(output.ends_with(&format!("hash {hash:016x}\n")), "{output}, and {hash:016x} here");
}

#[test]
fn c_programs_and_ours_mean_the_same_groups() {
    if skip() {
        return;
    }
    let Some(program) = cc(PROGRAM, &["cpg"]) else {
        return;
    };
    let program = copy_for_all(&program);
    let node = shared_one().node(1);
    if node.run(|| !has_fragments(&Endpoint::new())) {
        // As above.
        return;
    }
    let names = [&b"interop name\0"[..], b"interop name", &[0xfe; 128], b"\0"];
    for name in names {
        let group = GroupName::new(name).unwrap();
        let client = node.run(|| {
            let client = Client::connect_with(&Endpoint::new(), Options::new().pid(own_pid())).unwrap();
            client.join(&group).unwrap();
            client
        });
        let c = node.command(&program).args(["once", &hex(name)]).spawn();
        let text = c.wait_stdout("delivered");
        // It sent its process id as text.
        let (mut pid, mut members) = (0, 0);
        while pid == 0 {
            match next(&client) {
                Event::Confchg { group: seen, members: now, .. } => {
                    assert_eq!(seen, group);
                    members = members.max(now.len());
                }
                Event::Deliver { group: seen, pid: sender, payload, .. } => {
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
