//! Lies in shared memory: indices, magic numbers, sizes, semaphores and counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use testbed::Random;
use testbed::raw::{MAGIC, OLD_MAGIC, Ring, header, request};

use crate::liar::{INVALID, Liar, NAME_TOO_LONG, Racing, multicast, set, track};
use crate::stage::{Case, RINGS, Served, Stage, case};

/// Offsets of single words in the header, by their names.
const WORDS: [(&str, usize); 4] = [
    ("write index", header::WRITE_PT),
    ("number of words", header::WORD_SIZE),
    ("number of users", header::REF_COUNT),
    ("word of sharing", header::SHARED),
];

const RING_NAMES: [&str; 3] = ["request", "response", "event"];

fn liar(stage: &Stage) -> Liar {
    stage.connect("cmap")
}

/// Puts a chunk whose header lies where the server reads next, and announces it.
fn announce(liar: &Liar, length: u32, magic: u32) {
    let ring = liar.requests();
    let index = ring.header.get(header::READ_PT);
    ring.word(index, 0).store(length, Ordering::SeqCst);
    ring.word(index, 1).store(magic, Ordering::SeqCst);
    ring.post();
    liar.wake();
}

/// Sends requests while `step` changes what it likes, until the server cuts or has had enough.
fn race(stage: &Stage, step: impl Fn(&[Ring; 3], &mut Random) + Send + 'static) {
    let liar = liar(stage);
    liar.send(&track("race."));
    let rings = Arc::clone(liar.rings());
    let mut random = Random::new(11);
    let racing = Racing::start(move || step(&rings, &mut random));
    for number in 0..300_u32 {
        if liar.is_cut() {
            break;
        }
        // The indices may be anything: put it in without a look at the room.
        let index = liar.requests().header.get(header::WRITE_PT) % liar.requests().words();
        liar.requests().header.set(header::WRITE_PT, index);
        liar.requests().put(&set("race.key", &number.to_ne_bytes()));
        liar.wake();
        std::thread::yield_now();
    }
    drop(racing);
    stage.hold(liar);
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let mut cases = Vec::new();
    // Whoever announces such a chunk is cut.
    for (name, length, magic) in [
        ("no magic number", 16, 0),
        ("the magic number of a chunk that is read", 16, MAGIC.dead),
        ("the magic number of a chunk that is written", 16, MAGIC.alloc),
        ("the magic number of an old libqb", 16, OLD_MAGIC.live),
        ("the magic number turned around", 16, MAGIC.live.swap_bytes() ^ 1),
        ("a length of 2^32 - 1", u32::MAX, MAGIC.live),
        ("a length of 2^31", 1 << 31, MAGIC.live),
        ("no length, which says good-bye", 0, MAGIC.live),
    ] {
        cases.push(case(format!("a chunk with {name}"), RINGS, move |stage| {
            let liar = liar(stage);
            announce(&liar, length, magic);
            liar.cut();
            stage.hold(liar);
        }));
    }
    for less in [0, 4, 8] {
        let name = format!("a chunk as long as the ring less {less} bytes");
        cases.push(case(name, RINGS, move |stage| {
            let liar = liar(stage);
            announce(&liar, liar.requests().words() * 4 - less, MAGIC.live);
            liar.cut();
        }));
    }
    cases.extend([
        case("the longest chunk that a ring has room for", RINGS, |stage| {
            let liar = liar(stage);
            // Its content is zeros: a set of a key without a name.
            announce(&liar, liar.requests().words() * 4 - 12, MAGIC.live);
            liar.answers(0, NAME_TOO_LONG);
            stage.hold(liar);
        }),
        case("a request with the id of an old good-bye", RINGS, |stage| {
            liar(stage).send(&request(-3, &[])).cut();
        }),
        case("an announcement without a chunk", RINGS, |stage| {
            let liar = liar(stage);
            liar.requests().post();
            liar.wake();
            liar.cut();
        }),
        case("an announcement of four billion chunks", RINGS, |stage| {
            let liar = liar(stage);
            liar.requests().semaphore().store(u32::MAX.into(), Ordering::SeqCst);
            liar.wake();
            liar.cut();
        }),
        case("four billion who wait for a request", RINGS, |stage| {
            let liar = liar(stage);
            liar.requests().semaphore().store(u64::from(u32::MAX) << 32, Ordering::SeqCst);
            liar.works();
            stage.hold(liar);
        }),
        case("a semaphore of answers that is full", RINGS, |stage| {
            let liar = liar(stage);
            liar.rings()[1].semaphore().store(u64::MAX, Ordering::SeqCst);
            liar.works().works();
            stage.hold(liar);
        }),
        case("a chunk that nobody announces", RINGS, |stage| {
            let liar = liar(stage);
            liar.requests().put(&request(99, &[]));
            stage.hold(liar);
        }),
        case("a wake byte before its chunk", RINGS, |stage| {
            let liar = liar(stage);
            liar.wake();
            std::thread::yield_now();
            // Its own byte follows, and the first one was for nothing.
            liar.works();
            stage.hold(liar);
        }),
        case("one wake byte for many requests", RINGS, |stage| {
            let liar = liar(stage);
            for _ in 0..100 {
                liar.requests().put(&request(99, &[]));
            }
            liar.wake();
            // They wait for more bytes, and those for requests that do not come.
            stage.hold(liar);
        }),
        case("an index of the request ring that moves back", RINGS, |stage| {
            let liar = liar(stage);
            liar.works().works();
            let ring = liar.requests();
            let [read, write] = [header::READ_PT, header::WRITE_PT].map(|at| ring.header.get(at));
            ring.header.set(header::READ_PT, 0);
            ring.header.set(header::WRITE_PT, write);
            liar.works();
            // The server keeps its own.
            assert!(ring.header.get(header::READ_PT) > read);
            stage.hold(liar);
        }),
        case("flow control that the client sets", RINGS, |stage| {
            let liar = liar(stage);
            for word in [1, 2, u32::MAX] {
                liar.requests().header.set(header::FLOW_CONTROL, word);
                liar.works();
            }
            stage.hold(liar);
        }),
        case("paths in the header that lead elsewhere", RINGS, |stage| {
            let liar = liar(stage);
            for ring in liar.rings().iter() {
                for at in [header::HEADER_PATH, header::DATA_PATH] {
                    ring.header.copy_in(at, b"/etc/passwd\0");
                }
            }
            liar.works();
            stage.hold(liar);
        }),
        case("a response ring that looks full", RINGS, |stage| {
            let liar = liar(stage);
            let ring = &liar.rings()[1];
            ring.header.set(header::READ_PT, ring.header.get(header::WRITE_PT) + 1);
            for _ in 0..50 {
                liar.try_send(&request(99, &[]));
            }
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("a response ring that looks full and is empty again", RINGS, |stage| {
            let liar = liar(stage);
            let ring = &liar.rings()[1];
            let read = ring.header.get(header::READ_PT);
            ring.header.set(header::READ_PT, ring.header.get(header::WRITE_PT) + 1);
            liar.send(&request(99, &[]));
            stage.others_are_served();
            ring.header.set(header::READ_PT, read);
            liar.answers(0, INVALID);
            liar.works();
        }),
        case("an event ring that looks full", RINGS, |stage| {
            let liar = liar(stage);
            liar.send(&track("full.")).answers(7, 1);
            let ring = &liar.rings()[2];
            ring.header.set(header::READ_PT, ring.header.get(header::WRITE_PT) + 1);
            for number in 0..50_u32 {
                liar.send(&set("full.key", &number.to_ne_bytes())).answers(0, 1);
            }
            stage.hold(liar);
        }),
        case("answers that are written over", RINGS, |stage| {
            let liar = liar(stage);
            let ring = &liar.rings()[1];
            (0..ring.words()).for_each(|word| ring.data.set(word as usize * 4, u32::MAX));
            liar.works();
            stage.hold(liar);
        }),
        case("a request that is written over while it is served", RINGS, |stage| {
            race(stage, |rings, random| {
                let index = rings[0].header.get(header::READ_PT) % rings[0].words();
                rings[0].word(index, 2 + random.below(80) as u32).store(u32::MAX, Ordering::SeqCst);
            });
        }),
        case("lengths that change while they are read", RINGS, |stage| {
            race(stage, |rings, random| {
                let index = rings[0].header.get(header::READ_PT) % rings[0].words();
                rings[0].word(index, 0).store(random.word() as u32, Ordering::SeqCst);
            });
        }),
        case("lengths that change between two that are right", RINGS, |stage| {
            race(stage, |rings, random| {
                let index = rings[0].header.get(header::READ_PT) % rings[0].words();
                let length = [300, 65536][random.below(2) as usize];
                rings[0].word(index, 0).store(length, Ordering::SeqCst);
            });
        }),
        case("magic numbers that change while they are read", RINGS, |stage| {
            race(stage, |rings, random| {
                let index = rings[0].header.get(header::READ_PT) % rings[0].words();
                let magic = [MAGIC.live, MAGIC.dead, MAGIC.alloc][random.below(3) as usize];
                rings[0].word(index, 1).store(magic, Ordering::SeqCst);
            });
        }),
        case("semaphores that change while they are used", RINGS, |stage| {
            race(stage, |rings, random| {
                let ring = &rings[random.below(3) as usize];
                ring.semaphore().store(random.word(), Ordering::SeqCst);
            });
        }),
        case("waiters that change while they are woken", RINGS, |stage| {
            race(stage, |rings, random| {
                rings[random.below(3) as usize]
                    .header
                    .set(header::SEMAPHORE + 4, random.word() as u32);
            });
        }),
        case("indices that change while they are used", RINGS, |stage| {
            race(stage, |rings, random| {
                let ring = &rings[random.below(3) as usize];
                let at = [header::READ_PT, header::WRITE_PT][random.below(2) as usize];
                ring.header.set(at, random.word() as u32 % ring.words());
            });
        }),
        case("headers that change all over", RINGS, |stage| {
            race(stage, |rings, random| {
                let header = &rings[random.below(3) as usize].header;
                header
                    .set(random.below(header.size() as u64 / 4) as usize * 4, random.word() as u32);
            });
        }),
        case("data that changes all over", RINGS, |stage| {
            race(stage, |rings, random| {
                let data = &rings[random.below(3) as usize].data;
                data.set(random.below(data.size() as u64 / 4) as usize * 4, random.word() as u32);
            });
        }),
        case("chunks of every length around the end of the ring", RINGS, |stage| {
            let liar = stage.connect("cpg");
            for length in (0..3000).step_by(7) {
                liar.send(&multicast(&vec![7; length]));
            }
            liar.works();
            stage.hold(liar);
        }),
    ]);
    for (number, name) in RING_NAMES.into_iter().enumerate() {
        for (word, offset) in WORDS {
            cases.push(case(format!("any {word} of the {name} ring"), RINGS, move |stage| {
                let liar = liar(stage);
                let mut index = 0;
                for value in [0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                    liar.rings()[number].header.set(offset, value);
                    index = liar.put_at(index, &request(99, &[]));
                    liar.answers(0, INVALID);
                }
                stage.hold(liar);
            }));
        }
    }
    for (number, name) in [(1, "response"), (2, "event")] {
        for beyond in ["the first word behind", "the last number"] {
            let name = format!("a read index of the {name} ring: {beyond}");
            cases.push(case(name, RINGS, move |stage| {
                let liar = liar(stage);
                liar.send(&track("index.")).answers(7, 1);
                let ring = &liar.rings()[number];
                let index = if beyond.starts_with("the last") { u32::MAX } else { ring.words() };
                ring.header.set(header::READ_PT, index);
                liar.send(&set("index.key", beyond.as_bytes())).cut();
                stage.hold(liar);
            }));
        }
    }
    vec![(Served::Corosync, cases)]
}
