//! Floods: requests, answers and events that nobody reads, and clients that hold much at once.

use std::io::Write;

use corosync_ipc::libqb::Transport;
use testbed::raw::{header, i32_at, request};
use testbed::{Patience, eventually};

use crate::liar::{INVALID, Liar, OK, join, keyed, multicast, set, track};
use crate::stage::{BOTH, Case, RINGS, Served, Stage, case};

/// A request that has a short answer, whoever serves.
fn unknown() -> Vec<u8> {
    request(99, &[])
}

/// Sends requests until the server takes none for a while. Returns how many it was.
fn flood(liar: &Liar, message: &[u8]) -> usize {
    let mut sent = 0;
    let mut tries = 0;
    while tries < 20 {
        if liar.try_send(message) {
            (sent, tries) = (sent + 1, 0);
        } else {
            tries += 1;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    sent
}

/// Takes answers until there are as many.
fn read_all(liar: &Liar, count: usize) {
    let mut read = 0;
    eventually("all answers come", || {
        while let Some(reply) = liar.try_reply() {
            assert_eq!((i32_at(&reply, 0), i32_at(&reply, 16)), (0, INVALID));
            read += 1;
        }
        // Whoever reads the answers of a full ring asks for more.
        liar.is_cut();
        read >= count
    });
    assert_eq!(read, count);
}

/// A member of a group that has read how it joined, and nothing since.
fn member(stage: &Stage, group: &str, pid: i32) -> Liar {
    let liar = stage.connect("cpg");
    liar.send(&join(group, pid)).answers(0, OK);
    liar
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let cases = vec![
        case("requests whose answers nobody reads", BOTH, |stage| {
            let liar = stage.connect("cmap");
            let count = flood(&liar, &unknown());
            assert!(count > 10, "{count}");
            stage.hold(liar);
        }),
        case("requests whose answers are read in the end", BOTH, |stage| {
            let liar = stage.connect("cmap");
            let count = flood(&liar, &unknown());
            read_all(&liar, count);
            liar.works();
        }),
        case("an end with answers that nobody read", BOTH, |stage| {
            for _ in 0..5 {
                let liar = stage.connect("cmap");
                while liar.try_send(&unknown()) {}
            }
        }),
        case("half an end with answers that nobody read", BOTH, |stage| {
            let liar = stage.connect("cmap");
            flood(&liar, &unknown());
            liar.setup.shutdown(std::net::Shutdown::Write).unwrap();
            stage.hold(liar);
        }),
        case("many clients that read no answer", BOTH, |stage| {
            // Few enough for the server's descriptors.
            for _ in 0..if stage.transport == Transport::Shm { 250 } else { 150 } {
                let mut liar = Liar::blind(stage, "cmap", 4096);
                if stage.transport == Transport::Shm {
                    liar.open();
                    // It looks full.
                    liar.rings()[1].header.set(header::READ_PT, 1);
                    liar.send(&unknown());
                } else {
                    // It has no socket for it.
                    liar.send_blindly(&unknown());
                }
                stage.hold(liar);
            }
            stage.others_are_served();
        }),
        case("a hundred clients that read no event", BOTH, |stage| {
            let all: Vec<Liar> = (0..100).map(|_| Liar::connect(stage, "cmap", 16384)).collect();
            for liar in &all {
                liar.send(&track("flood.")).answers(7, OK);
            }
            let setter = stage.connect("cmap");
            for number in 0..100_u32 {
                setter.send(&set("flood.key", &[number as u8; 400])).answers(0, OK);
            }
            stage.hold(all);
        }),
        case("events that nobody reads, without end", BOTH, |stage| {
            // The queue of one client has 256 MiB.
            stage.allows_memory(400 << 20);
            let liar = stage.connect("cmap");
            (0..8).for_each(|_| _ = liar.send(&track("flood.")).answers(7, OK));
            let setter = stage.connect("cmap");
            let patience = Patience::new();
            for round in 0_u32.. {
                let value = |number: usize| {
                    let mut value = vec![7; 16384];
                    value[..4].copy_from_slice(&(round * 3 + number as u32).to_ne_bytes());
                    set("flood.key", &value)
                };
                assert_eq!(setter.ask(3, value, |reply| i32_at(reply, 16) == OK), 3);
                if round % 10 == 0 && liar.is_cut() {
                    break;
                }
                assert!(!patience.is_over(), "{round} rounds of events are queued");
            }
        }),
        case("a member that reads no message", BOTH, |stage| {
            let reader = member(stage, "flood", 7);
            let sender = stage.connect("cpg");
            sender.send(&join("flood", 8)).answers(0, OK);
            for _ in 0..2000 {
                sender.try_send(&multicast(&[7; 10_000]));
                while sender.try_event().is_some() {}
            }
            stage.others_are_served();
            stage.hold((reader, sender));
        }),
        case("a member that floods its group and reads nothing", BOTH, |stage| {
            let liar = member(stage, "flood", 7);
            for _ in 0..2000 {
                liar.try_send(&multicast(&[7; 10_000]));
            }
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("messages while flow control says no", RINGS, |stage| {
            let liar = member(stage, "flood", 7);
            let flow = header::FLOW_CONTROL;
            let mut sent = 0;
            // No look at the word, whatever it says.
            for _ in 0..3000 {
                sent += u32::from(liar.try_send(&multicast(&[7; 10_000])));
                if liar.requests().header.get(flow) != 0 {
                    break;
                }
            }
            (0..100).for_each(|_| sent += u32::from(liar.try_send(&multicast(b"more"))));
            assert!(sent > 0);
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("a full ring of requests and an end", RINGS, |stage| {
            let liar = Liar::connect(stage, "cmap", 8 << 20);
            // Each begins an iteration over the whole map, and none is announced before the end.
            let message = keyed(4, "");
            while liar.requests().has_room(message.len()) {
                liar.requests().put(&message);
            }
        }),
        case("full rings of messages to a group and an end", RINGS, |stage| {
            stage.allows_memory(120 << 20);
            let reader = member(stage, "flood", 7);
            for pid in 8..11 {
                let liar = Liar::connect(stage, "cpg", 8 << 20);
                liar.send(&join("flood", pid)).answers(0, OK);
                let message = multicast(&[7; 10]);
                while liar.requests().has_room(message.len()) {
                    liar.requests().put(&message);
                }
            }
            stage.others_are_served();
            stage.hold(reader);
        }),
        case("wake bytes that nobody reads", BOTH, |stage| {
            let liar = Liar::connect(stage, "cmap", 1 << 20);
            liar.send(&track("flood.")).answers(7, OK);
            // `answers` looks at the setup socket only when there is no answer yet.
            for number in 0..1000_u32 {
                liar.send(&set("flood.key", &number.to_ne_bytes()));
                eventually("an answer", || liar.try_reply());
            }
            for _ in 0..1000 {
                eventually("an event", || liar.try_event());
            }
            liar.works();
            stage.hold(liar);
        }),
        case("bytes on the setup socket as fast as they go", BOTH, |stage| {
            let liar = stage.connect("cmap");
            while (&liar.setup).write_all(&[0; 512]).is_ok() {}
            liar.cut();
        }),
        case("connections with everything open that end at once", BOTH, |stage| {
            for pid in 0..20 {
                let liar = stage.connect("cmap");
                liar.send(&keyed(4, "")).answers(4, OK);
                liar.send(&track("flood.")).answers(7, OK);
                liar.send(&set("flood.key", b"value")).answers(0, OK);
                let other = member(stage, "flood", pid);
                other.send(&multicast(b"last words"));
                liar.send(&keyed(1, "flood.key"));
            }
        }),
    ];
    vec![(Served::Corosync, cases)]
}
