//! Lies in the rings: indices, magic numbers, lengths, semaphores, users and flow control, set while
//! the client waits, or changed again and again by another thread.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use corosync_ipc::cpg::Guarantee;
use corosync_ipc::{Error, cpg};
use testbed::Random;
use testbed::raw::{Ring, header, response};

use crate::calls::joined;
use crate::case::{Case, Try};
use crate::daemon::{Channels, Conn, Script, Transport};
use crate::honest::{self, OK};

const NAMES: [&str; 3] = ["request", "response", "event"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    answers(&mut cases);
    events(&mut cases);
    requests(&mut cases);
    semaphores(&mut cases);
    cases
}

fn request(it: &Try<'_>) -> Result<(), Error> {
    it.cpg()?.local_node_id().map(drop)
}

/// A request, and then another one.
fn requests_twice(it: &Try<'_>) -> Result<(), Error> {
    let client = it.cpg()?;
    client.local_node_id()?;
    client.local_node_id().map(drop)
}

/// An event that comes after the daemon was told.
fn event(it: &Try<'_>) -> Result<(), Error> {
    let client = it.cpg()?;
    it.tell();
    client.next_event(it.timeout()).map(drop)
}

/// What is wrong with a chunk: its length and its magic number.
const CHUNKS: [(&str, Option<u32>, Option<u32>); 12] = [
    ("no magic", None, Some(0)),
    ("the magic of a consumed chunk", None, Some(0xd0d0_d0d0)),
    ("the magic of an unfinished chunk", None, Some(0xa110_ced0)),
    ("the magic of an old libqb", None, Some(0xaaaa_aaaa)),
    ("a wrong magic", None, Some(u32::MAX)),
    ("length 0", Some(0), None),
    ("length 1", Some(1), None),
    ("a length of all but a byte too much", Some(20 * 1024 - 11), None),
    ("the length of the ring", Some(20 * 1024), None),
    ("a length of 2^31", Some(1 << 31), None),
    ("a length of 2^32 - 4", Some(u32::MAX - 3), None),
    ("a length of 2^32 - 1", Some(u32::MAX), None),
];

/// Puts a chunk with a lie in its head.
fn put(ring: &Ring, message: &[u8], length: Option<u32>, magic: Option<u32>) {
    let index = ring.header.get(header::WRITE_PT);
    ring.write(index, message);
    if let Some(length) = length {
        ring.word(index, 0).store(length, Ordering::SeqCst);
    }
    ring.word(index, 1).store(magic.unwrap_or(ring.magic.live), Ordering::SeqCst);
    ring.post();
}

fn chunk_end(ring: &str, length: Option<u32>) -> String {
    match length {
        None => "protocol: invalid chunk magic".to_owned(),
        Some(length) if length > 20 * 1024 - 12 => {
            format!("protocol: a chunk of the {ring} ring has {length} bytes")
        }
        Some(_) => "protocol: ".to_owned(),
    }
}

/// Answers whose chunks lie, and words that change before an answer.
fn answers(cases: &mut Vec<Case>) {
    for (what, length, magic) in CHUNKS {
        let script = Script::honest().requested(move |conn, request, _| {
            let answer = honest::answer(conn, request).unwrap();
            put(&conn.rings()[1], &answer, length, magic);
        });
        let name = format!("an answer with {what}");
        let end = chunk_end("response", length);
        cases.push(Case::new(name, Transport::Rings, script, request, end));
    }
    // Words that the client does not believe after it connected, or never.
    for (ring, offset, what) in [
        (1, header::WRITE_PT, "its write index"),
        (1, header::READ_PT, "its read index"),
        (1, header::WORD_SIZE, "its size"),
        (1, header::REF_COUNT, "its users"),
        (0, header::WRITE_PT, "its write index"),
        (0, header::WORD_SIZE, "its size"),
        (2, header::WRITE_PT, "its write index"),
        (2, header::READ_PT, "its read index"),
        (2, header::WORD_SIZE, "its size"),
        (2, header::REF_COUNT, "its users"),
        (2, header::SEMAPHORE + 4, "its waiters"),
        (1, header::SEMAPHORE + 4, "its waiters"),
        (0, header::SEMAPHORE + 4, "its waiters"),
        (1, header::SHARED, "its layout"),
    ] {
        for value in [0, 5119, 5120, 0x8000_0000, u32::MAX] {
            let script = Script::honest().requested(move |conn, request, _| {
                conn.answer_honestly(request);
                if let Channels::Rings(rings) = &conn.channels {
                    // The answer to the next request is put where it belongs all the same.
                    let words = [header::WRITE_PT, header::READ_PT];
                    let before = rings[ring].header.get(offset);
                    rings[ring].header.set(offset, value);
                    if words.contains(&offset) {
                        thread::sleep(Duration::from_millis(2));
                        rings[ring].header.set(offset, before);
                    }
                }
            });
            let name = format!("{} ring: {what} becomes {value}", NAMES[ring]);
            // The waiters have no meaning where nobody waits.
            cases.push(Case::new(name, Transport::Rings, script, requests_twice, "ok"));
        }
    }
}

/// Events whose chunks lie.
fn events(cases: &mut Vec<Case>) {
    for (what, length, magic) in CHUNKS {
        let script = Script::honest().told_at("cpg", move |conn| {
            put(&conn.rings()[2], &response(99, OK, &[]), length, magic);
            conn.send_setup(&[0]);
        });
        let name = format!("an event with {what}");
        let end = chunk_end("event", length);
        cases.push(Case::new(name, Transport::Rings, script, event, end));
    }
    // A chunk in the ring that nobody announces.
    let script = Script::honest().told_at("cpg", |conn| {
        put(&conn.rings()[2], &response(99, OK, &[]), None, None);
        conn.rings()[2].semaphore().store(0, Ordering::SeqCst);
        conn.send_setup(&[0]);
    });
    cases.push(Case::new("an event without a post", Transport::Rings, script, event, "ok"));
}

/// The request ring, of which the daemon writes the read index, the users and the flow control word.
fn requests(cases: &mut Vec<Case>) {
    let mut word = |what: &str, offset: usize, value: u32, client: fn(&Try<'_>) -> _, end: &str| {
        let name = format!("request ring: {what} {value}");
        let script = Script::honest().told_at("cpg", move |conn| {
            conn.rings()[0].header.set(offset, value);
            // Serves no more.
            conn.channels = Channels::Nothing;
        });
        cases.push(Case::new(name, Transport::Rings, script, client, end));
    };
    let request: fn(&Try<'_>) -> Result<(), Error> = |it| {
        let client = it.cpg()?;
        it.tell();
        client.local_node_id().map(drop)
    };
    let multicast: fn(&Try<'_>) -> Result<(), Error> = |it| {
        let client = joined(it)?;
        it.tell();
        client.multicast(Guarantee::AGREED, b"message")
    };
    let try_multicast: fn(&Try<'_>) -> Result<(), Error> = |it| {
        let client = joined(it)?;
        it.tell();
        client.try_multicast(Guarantee::AGREED, b"message")
    };
    let fragments: fn(&Try<'_>) -> Result<(), Error> = |it| {
        let client = joined(it)?;
        it.tell();
        client.multicast(Guarantee::AGREED, &[7; 40_000])
    };
    for index in [5120, 5121, 0x8000_0000, u32::MAX] {
        let end = "protocol: an index of the request ring is";
        word("read index", header::READ_PT, index, request, end);
        word("read index", header::READ_PT, index, multicast, end);
    }
    // Right behind the write index: the ring is full.
    word("read index", header::READ_PT, 1, request, "timed out");
    for users in [0, 1, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        word("users", header::REF_COUNT, users, request, "gone");
        word("users", header::REF_COUNT, users, multicast, "gone");
    }
    for (client, ends) in [
        (request, ["timed out"; 5]),
        (multicast, ["timed out", "timed out", "ok", "ok", "ok"]),
        (try_multicast, ["cs 6", "cs 6", "ok", "ok", "ok"]),
        (fragments, ["timed out"; 5]),
    ] {
        for (value, end) in [1, 2, 3, 0x8000_0000, u32::MAX].into_iter().zip(ends) {
            word("flow control", header::FLOW_CONTROL, value, client, end);
        }
    }
    // As many requests in the ring as there are bytes for.
    for posts in [128, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        word("semaphore", header::SEMAPHORE, posts, request, "timed out");
        word("semaphore", header::SEMAPHORE, posts, multicast, "timed out");
    }
}

/// Semaphores of the rings that the client reads.
fn semaphores(cases: &mut Vec<Case>) {
    for (ring, name) in [(1, "response"), (2, "event")] {
        for value in [1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let script = Script::honest().told_at("cpg", move |conn| {
                conn.rings()[ring].header.set(header::SEMAPHORE, value);
                conn.rings()[ring].wake();
            });
            let client = move |it: &Try<'_>| {
                let client = it.cpg()?;
                it.tell();
                if ring == 1 {
                    client.local_node_id().map(drop)
                } else {
                    client.next_event(it.timeout()).map(drop)
                }
            };
            let name = format!("{name} ring: {value} posts and no chunk");
            let end = "protocol: invalid chunk magic";
            cases.push(Case::new(name, Transport::Rings, script, client, end));
        }
        let script = Script::honest().told_at("cpg", move |conn| {
            conn.rings()[ring].header.copy_in(header::SEMAPHORE, &[0xff; 32]);
        });
        let client = move |it: &Try<'_>| {
            let client = it.cpg()?;
            it.tell();
            let event = client.poll_event().map(drop);
            if ring == 1 { client.local_node_id().map(drop) } else { event }
        };
        let name = format!("{name} ring: a semaphore of ones");
        let end = "protocol: invalid chunk magic";
        cases.push(Case::new(name, Transport::Rings, script, client, end));
    }
    // While the client sleeps.
    for value in [0, 1, 0x8000_0000, u32::MAX] {
        let script = Script::honest().requested(move |conn, _, _| {
            thread::sleep(Duration::from_millis(30));
            conn.rings()[1].semaphore().store(u64::from(value), Ordering::SeqCst);
            conn.rings()[1].wake();
        });
        let name = format!("the semaphore becomes {value} while the client sleeps");
        let end = if value == 0 { "timed out" } else { "protocol: invalid chunk magic" };
        cases.push(Case::new(name, Transport::Rings, script, request, end));
    }
    let script = Script::honest().requested(|conn, request, _| {
        let answer = honest::answer(conn, request).unwrap();
        thread::sleep(Duration::from_millis(30));
        put(&conn.rings()[1], &answer, None, None);
        conn.rings()[1].semaphore().store(0, Ordering::SeqCst);
    });
    let name = "an answer without a post";
    cases.push(Case::new(name, Transport::Rings, script, request, "timed out"));
    let script = Script::honest().requested(|conn, request, _| {
        let answer = honest::answer(conn, request).unwrap();
        thread::sleep(Duration::from_millis(30));
        let ring = &conn.rings()[1];
        let index = ring.header.get(header::WRITE_PT);
        ring.write(index, &answer);
        ring.word(index, 1).store(ring.magic.live, Ordering::SeqCst);
        ring.semaphore().fetch_add(1, Ordering::SeqCst);
    });
    let name = "an answer with a post that wakes nobody";
    cases.push(Case::new(name, Transport::Rings, script, request, "ok"));
}

/// Words that another thread changes all the time, while the client makes requests or takes events.
pub(crate) fn races() -> Vec<Case> {
    let mut cases = Vec::new();
    let header_words = [
        ("write index", header::WRITE_PT),
        ("read index", header::READ_PT),
        ("size", header::WORD_SIZE),
        ("users", header::REF_COUNT),
        ("semaphore", header::SEMAPHORE),
        ("waiters", header::SEMAPHORE + 4),
        ("layout of the semaphore", header::SHARED),
        ("flow control", header::FLOW_CONTROL),
    ];
    for (ring, ring_name) in NAMES.into_iter().enumerate() {
        for (word, offset) in header_words {
            if ring > 0 && offset == header::FLOW_CONTROL {
                continue;
            }
            let name = format!("{ring_name} ring: {word} changes");
            race(&mut cases, &name, move |random, rings| {
                rings[ring].header.set(offset, extreme(random));
            });
        }
        let name = format!("{ring_name} ring: all words of the header change");
        race(&mut cases, &name, move |random, rings| {
            const WORDS: [usize; 7] = [0, 4, 8, 8204, 8208, 8212, 8216];
            rings[ring].header.set(WORDS[random.below(7) as usize], extreme(random));
        });
        let name = format!("{ring_name} ring: lengths and magic numbers change");
        race(&mut cases, &name, move |random, rings| {
            let index = random.below(200) as u32;
            let magic = [0xa1a1_a1a1, 0xd0d0_d0d0, 0xa110_ced0, extreme(random)];
            rings[ring].word(index, 0).store(magic[random.below(4) as usize], Ordering::Relaxed);
        });
        let name = format!("{ring_name} ring: all chunks change");
        race(&mut cases, &name, move |random, rings| {
            let index = random.below(u64::from(rings[ring].words())) as u32;
            rings[ring].word(index, 0).store(extreme(random), Ordering::Relaxed);
        });
    }
    cases
}

fn extreme(random: &mut Random) -> u32 {
    const EXTREMES: [u32; 12] =
        [0, 1, 2, 3, 24, 1023, 5119, 5120, 0x7fff_ffff, 0x8000_0000, 0xffff_fffc, u32::MAX];
    EXTREMES[random.below(EXTREMES.len() as u64) as usize]
}

/// A race while requests are made, and one while events are taken.
fn race(
    cases: &mut Vec<Case>,
    name: &str,
    change: impl Fn(&mut Random, &[Ring; 3]) + Copy + Send + Sync + 'static,
) {
    type Client = fn(&Try<'_>, &cpg::Client) -> Result<(), Error>;
    let clients: [(&str, Client); 2] = [
        ("during requests", |it, client| it.for_a_while(|| client.local_node_id().map(drop))),
        ("during events", |it, client| {
            let pause = Duration::from_millis(1);
            it.for_a_while(|| client.next_event(pause).map(drop))
        }),
    ];
    for (when, client) in clients {
        let script = Script::honest().told_at("cpg", move |conn| serve_and(conn, change));
        let call = move |it: &Try<'_>| {
            let client_of_cpg = it.cpg()?;
            it.tell();
            let result = client(it, &client_of_cpg);
            let _ = client_of_cpg.poll_event();
            let _ = client_of_cpg.stats();
            result
        };
        // Nothing happens, an answer does not come, or the client finds out.
        let end = "ok | timed out | gone | protocol: ";
        let case = Case::new(format!("{name} {when}"), Transport::Rings, script, call, end);
        cases.push(case.busy().periods(2));
    }
}

/// Serves a connection until the case is over, while another thread changes its rings.
fn serve_and(conn: &mut Conn<'_>, change: impl Fn(&mut Random, &[Ring; 3]) + Send + Sync) {
    let (lair, rings) = (conn.lair, conn.rings());
    lair.has_done();
    thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut random = Random::new(7);
            while !lair.is_over() {
                change(&mut random, rings);
            }
        });
        // Indices that nobody else changes.
        let [mut read, mut answered, mut told] =
            [(0, header::READ_PT), (1, header::WRITE_PT), (2, header::WRITE_PT)]
                .map(|(ring, word)| rings[ring].header.get(word) % rings[ring].words());
        let send = |ring: &Ring, index: &mut u32, message: &[u8]| {
            ring.write(*index, message);
            ring.word(*index, 1).store(ring.magic.live, Ordering::SeqCst);
            *index = (*index + 2 + (message.len() as u32).div_ceil(4)) % ring.words();
            ring.header.set(header::WRITE_PT, *index);
            ring.post();
        };
        while !lair.is_over() {
            if rings[0].word(read, 1).load(Ordering::SeqCst) == rings[0].magic.live {
                rings[0].word(read, 1).store(rings[0].magic.dead, Ordering::SeqCst);
                // All requests are headers.
                read = (read + 6) % rings[0].words();
                rings[0].header.set(header::READ_PT, read);
                send(&rings[1], &mut answered, &response(7, OK, &[0; 8]));
                send(&rings[2], &mut told, &response(99, OK, &[]));
                let _ = (&mut conn.setup.as_ref().unwrap()).write(&[0]);
            }
            let _ = (&mut conn.setup.as_ref().unwrap()).read(&mut [0; 64]);
            thread::sleep(Duration::from_micros(100));
        }
        changing.join().unwrap();
    });
}
