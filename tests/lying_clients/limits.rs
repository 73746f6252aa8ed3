//! Limits of a server of the library alone.

use std::io::Write;
use std::os::unix::net::UnixStream;

use testbed::eventually;
use testbed::raw::{MAGIC, OLD_MAGIC, i32_at, request, setup_request};

use crate::echo::{self, events};
use crate::liar::{Liar, OK, setup, setup_reply};
use crate::stage::{BOTH, Case, RINGS, Served, Stage, case};

/// `EMFILE` and `ENOSPC`.
const TOO_MANY: i32 = -24;
const NO_SPACE: i32 = -28;

/// Connects. Returns the socket and the error of the reply.
fn ask(stage: &Stage, max_msg_size: u32) -> (UnixStream, i32) {
    let mut socket = setup(stage, echo::SERVICE);
    socket.write_all(&setup_request(max_msg_size)).unwrap();
    let error = setup_reply(&socket).unwrap().error;
    (socket, error)
}

/// Chunks of one generation of libqb, for a server of another.
fn magic_of_another(libqb: u32) -> Case {
    case(format!("magic numbers of another libqb than 0.{libqb}"), RINGS, move |stage| {
        let (own, other) = if libqb < 14 { (OLD_MAGIC, MAGIC) } else { (MAGIC, OLD_MAGIC) };
        let mut liar = Liar::blind(stage, echo::SERVICE, 65536);
        liar.open_with(own);
        liar.works();
        let mut liar = Liar::blind(stage, echo::SERVICE, 65536);
        liar.open_with(other);
        liar.put_at(0, &request(echo::ECHO, b"echo"));
        liar.cut();
    })
}

/// Asks for events and reads none.
fn unread(stage: &Stage, count: i32, size: i32) -> Liar {
    let liar = stage.connect(echo::SERVICE);
    liar.send(&events(count, size));
    liar
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    vec![
        (
            Served::Echo("max_connections=8"),
            vec![
                case("more connections than there may be", BOTH, |stage| {
                    // One is honest.
                    let mut all: Vec<Liar> = (0..7).map(|_| stage.connect(echo::SERVICE)).collect();
                    for _ in 0..20 {
                        assert_eq!(ask(stage, 8192).1, TOO_MANY);
                    }
                    stage.takes_nobody();
                    all.pop();
                    eventually("one has room again", || ask(stage, 8192).1 == 0);
                    stage.hold(all);
                }),
                case("half a request where there may be no more", BOTH, |stage| {
                    let all: Vec<Liar> = (0..7).map(|_| stage.connect(echo::SERVICE)).collect();
                    let half: Vec<_> = (0..300).map(|_| setup(stage, echo::SERVICE)).collect();
                    stage.takes_nobody();
                    stage.hold((all, half));
                }),
            ],
        ),
        (
            Served::Echo("shared_memory=2000000"),
            vec![case("more shared memory than there may be", BOTH, |stage| {
                assert_eq!(ask(stage, 1 << 20).1, NO_SPACE);
                assert_eq!(ask(stage, u32::MAX).1, NO_SPACE);
                let asked: Vec<_> = (0..20).map(|_| ask(stage, 65536)).collect();
                let all: Vec<_> = asked.into_iter().filter(|(_, error)| *error == 0).collect();
                assert!((4..10).contains(&all.len()), "{}", all.len());
                // Who asks for little has room.
                assert_eq!(ask(stage, 4096).1, 0);
                stage.takes_nobody();
                stage.hold(all);
            })],
        ),
        (
            Served::Echo("max_message_size=10000"),
            vec![
                case("a size that is not granted", BOTH, |stage| {
                    let liar = stage.connect(echo::SERVICE);
                    assert_eq!(liar.reply.max_msg_size, 10000);
                    liar.works();
                    stage.hold(liar);
                }),
                case("an answer that has no room", RINGS, |stage| {
                    let liar = stage.connect(echo::SERVICE);
                    // The answer is 8 bytes longer than the request, which just has room.
                    let length = liar.requests().words() as usize * 4 - 32;
                    liar.send(&request(echo::ECHO, &vec![7; length])).works();
                    stage.hold(liar);
                }),
                case("an event that has no room", BOTH, |stage| {
                    let liar = stage.connect(echo::SERVICE);
                    liar.send(&events(1, 10001)).answers(echo::EVENTS, OK);
                    assert!(liar.try_event().is_none());
                    liar.works();
                }),
            ],
        ),
        (
            Served::Echo("event_queue=1000000"),
            vec![
                case("more events than are queued", BOTH, |stage| {
                    unread(stage, 10_000, 1000).cut();
                }),
                case("as many events as are queued", BOTH, |stage| {
                    let liar = unread(stage, 900, 1000);
                    liar.answers(echo::EVENTS, OK);
                    stage.others_are_served();
                    for _ in 0..900 {
                        assert_eq!(i32_at(&liar.next_event(), 0), echo::EVENT);
                    }
                    liar.works();
                    stage.hold(liar);
                }),
                case("a hundred clients, each with a queue", BOTH, |stage| {
                    stage.allows_memory(200 << 20);
                    for _ in 0..100 {
                        let liar = unread(stage, 900, 1000);
                        liar.answers(echo::EVENTS, OK);
                        stage.hold(liar);
                    }
                }),
            ],
        ),
        (
            Served::Echo("event_queue=16777216"),
            vec![case("short events without end", BOTH, |stage| {
                // What is counted for an event is more than its bytes.
                stage.allows_memory(32 << 20);
                unread(stage, 10_000_000, 24).cut();
            })],
        ),
        (
            Served::Echo("drop_newest=1000000"),
            vec![case("more events than are kept", BOTH, |stage| {
                let liar = unread(stage, 10_000, 1000);
                liar.answers(echo::EVENTS, OK);
                stage.others_are_served();
                liar.works();
                stage.hold(liar);
            })],
        ),
        (
            Served::Echo("block=100"),
            vec![case("events that the server waits for", BOTH, |stage| {
                for _ in 0..3 {
                    unread(stage, 10_000, 1000).cut();
                }
            })],
        ),
        (
            Served::Echo("event_queue=4000000,event_memory=10000000"),
            vec![case("more events than are queued for all", BOTH, |stage| {
                let all: Vec<Liar> = (0..10).map(|_| unread(stage, 3000, 1000)).collect();
                stage.others_are_served();
                // Some had to go.
                eventually("the longest queues are gone", || all.iter().any(Liar::is_cut));
                stage.hold(all);
            })],
        ),
        (Served::Echo("libqb=10"), vec![magic_of_another(10)]),
        (Served::Echo("libqb=13"), vec![magic_of_another(13)]),
        (Served::Echo("libqb=14"), vec![magic_of_another(14)]),
        (Served::Echo("libqb=15"), vec![magic_of_another(15)]),
    ]
}
