//! Requests that are whole and do what no honest client does.

use testbed::raw::{i32_at, put, put_i32, request, u64_at};

use crate::liar::{
    BAD_HANDLE, BUSY, EXIST, INVALID, Liar, NAME_TOO_LONG, NO_MEMORY, NOT_EXIST, OK, fragment, get,
    grouped, join, keyed, multicast, set, sized, track,
};
use crate::stage::{BOTH, Case, Served, Stage, case};

/// `CS_ERR_ACCESS`.
const ACCESS: i32 = 11;
/// `CS_ERR_LIBRARY`.
const LIBRARY: i32 = 2;
/// `CS_ERR_NAME_NOT_FOUND`.
const NAME_NOT_FOUND: i32 = 17;
/// `CS_ERR_NO_SECTIONS`.
const NO_SECTIONS: i32 = 27;
/// `CS_ERR_TOO_MANY_GROUPS`.
const TOO_MANY_GROUPS: i32 = 30;

/// How many of something are asked for that has no end.
const MANY: usize = 6000;

/// A request with one number, at the offset 16.
fn numbered(id: i32, number: u64) -> Vec<u8> {
    request(id, &number.to_ne_bytes())
}

/// Sends a request again and again until it is refused, and returns how often it was not. All
/// answers have the same id.
fn until_refused(liar: &Liar, id: i32, error: i32, request: impl Fn(usize) -> Vec<u8>) -> usize {
    let mut refused = true;
    let count = liar.ask(MANY, request, |reply| {
        assert_eq!(i32_at(reply, 0), id);
        let is_taken = i32_at(reply, 16) == OK;
        refused &= is_taken || i32_at(reply, 16) == error;
        is_taken
    });
    assert!(refused && count < MANY, "{count} are taken");
    count
}

/// Groups of evs.
fn groups(id: i32, count: u64) -> Vec<u8> {
    let mut message = request(id, &[0; 16]);
    put(&mut message, 24, &count.to_ne_bytes());
    message.resize(32 + count as usize * 32, 7);
    sized(message)
}

fn cmap() -> Vec<Case> {
    let liar = |stage: &Stage| stage.connect("cmap");
    let mut cases = vec![
        case("iterators without end", BOTH, move |stage| {
            let liar = liar(stage);
            let count = until_refused(&liar, 4, NO_MEMORY, |_| keyed(4, ""));
            assert!(count > 100, "{count}");
            liar.works();
            stage.hold(liar);
        }),
        case("iterators without end that stand on a key", BOTH, move |stage| {
            let liar = liar(stage);
            let mut handles = Vec::new();
            liar.ask(
                500,
                |_| keyed(4, "totem."),
                |reply| {
                    handles.push(u64_at(reply, 24));
                    true
                },
            );
            let next = |number: usize| numbered(5, handles[number]);
            assert_eq!(liar.ask(500, next, |reply| i32_at(reply, 16) == OK), 500);
            stage.hold(liar);
        }),
        case("an iterator that is never asked again", BOTH, move |stage| {
            let liar = liar(stage);
            let reply = liar.send(&keyed(4, "")).answers(4, OK);
            let handle = u64_at(&reply, 24);
            while i32_at(&liar.send(&numbered(5, handle)).next_reply(), 16) == OK {}
            // At its end it stays there.
            liar.send(&numbered(5, handle)).answers(5, NO_SECTIONS);
            stage.hold(liar);
        }),
        case("an iterator that is finished twice", BOTH, move |stage| {
            let liar = liar(stage);
            let reply = liar.send(&keyed(4, "")).answers(4, OK);
            let handle = u64_at(&reply, 24);
            liar.send(&numbered(6, handle)).answers(6, OK);
            liar.send(&numbered(6, handle)).answers(6, BAD_HANDLE);
            liar.send(&numbered(5, handle)).answers(5, BAD_HANDLE);
        }),
        case("an iterator of another client", BOTH, move |stage| {
            let (one, other) = (liar(stage), liar(stage));
            let reply = one.send(&keyed(4, "totem.")).answers(4, OK);
            let handle = u64_at(&reply, 24);
            other.send(&numbered(5, handle)).answers(5, BAD_HANDLE);
            one.send(&numbered(5, handle)).answers(5, OK);
        }),
        case("a key that is deleted under its iterators", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&set("lie.deleted", b"value")).answers(0, OK);
            for _ in 0..3 {
                let reply = liar.send(&keyed(4, "lie.")).answers(4, OK);
                liar.send(&numbered(5, u64_at(&reply, 24))).answers(5, OK);
            }
            for _ in 0..4 {
                liar.send(&keyed(1, "lie.deleted")).answers(1, OK);
            }
            liar.send(&keyed(1, "lie.deleted")).answers(1, NOT_EXIST);
            stage.hold(liar);
        }),
        case("trackers without end", BOTH, move |stage| {
            let liar = liar(stage);
            let count = until_refused(&liar, 7, NO_MEMORY, |_| track("lie."));
            assert!(count > 100, "{count}");
            liar.works();
            // Each of them is told.
            liar.send(&set("lie.tracked", b"value")).answers(0, OK);
            (0..count).for_each(|_| drop(liar.next_event()));
            liar.send(&keyed(1, "lie.tracked")).answers(1, OK);
            stage.hold(liar);
        }),
        case("a tracker that is deleted twice", BOTH, move |stage| {
            let liar = liar(stage);
            let reply = liar.send(&track("lie.")).answers(7, OK);
            liar.send(&numbered(8, u64_at(&reply, 24))).answers(8, OK);
            liar.send(&numbered(8, u64_at(&reply, 24))).answers(8, BAD_HANDLE);
        }),
        case("a tracker of what there is not", BOTH, move |stage| {
            let liar = liar(stage);
            let mut message = track("lie.");
            put_i32(&mut message, 280, 16);
            liar.send(&message).answers(7, INVALID);
        }),
        case("keys without end", BOTH, move |stage| {
            let liar = Liar::connect(stage, "cmap", 1 << 20);
            stage.allows_memory(100 << 20);
            let key = |number: usize| set(&format!("lie.end.{number}"), &[7; 16384]);
            // Nothing else of this size is sent: what is refused is refused for its size.
            let count = until_refused(&liar, 0, NO_MEMORY, key);
            assert!(count > 1000, "{count}");
            liar.works();
            // A smaller one has room where a larger one was.
            liar.send(&set("lie.end.0", b"small")).answers(0, OK);
            let delete = |number: usize| keyed(1, &format!("lie.end.{number}"));
            assert_eq!(liar.ask(count, delete, |reply| i32_at(reply, 16) == OK), count);
            liar.send(&key(0)).answers(0, OK);
            liar.send(&keyed(1, "lie.end.0")).answers(1, OK);
        }),
        case("a value that is too long", BOTH, move |stage| {
            liar(stage).send(&set("lie.long", &[7; 16385])).answers(0, INVALID);
        }),
        case("a number that is too short", BOTH, move |stage| {
            let mut message = set("lie.number", &[7; 3]);
            message[288] = 6;
            liar(stage).send(&message).answers(0, INVALID);
        }),
        case("a value of no type", BOTH, move |stage| {
            for kind in [0, 13, 255] {
                let mut message = set("lie.type", &[7; 8]);
                message[288] = kind;
                liar(stage).send(&message).answers(0, INVALID);
            }
        }),
        case("names that are none", BOTH, move |stage| {
            let liar = liar(stage);
            for name in ["", "a", "ab", "a key", "a\nkey", "a\u{7f}key", "kéy"] {
                liar.send(&set(name, b"value")).answers(0, NAME_TOO_LONG);
            }
        }),
        case("a name without an end", BOTH, move |stage| {
            let liar = liar(stage);
            let mut message = set("lie", b"value");
            message[16..18].copy_from_slice(&256_u16.to_ne_bytes());
            message[24..280].fill(b'a');
            liar.send(&message).answers(0, NAME_TOO_LONG);
        }),
        case("a name longer than its field", BOTH, move |stage| {
            let liar = liar(stage);
            for length in [257_u16, 0x8000, 0xffff] {
                let mut message = set("lie", b"value");
                message[16..18].copy_from_slice(&length.to_ne_bytes());
                liar.send(&message).answers(0, INVALID);
            }
        }),
        case("a value longer than the message", BOTH, move |stage| {
            let liar = liar(stage);
            for length in [6, 16384, u64::from(u32::MAX), u64::MAX] {
                let mut message = set("lie.length", b"value");
                put(&mut message, 280, &length.to_ne_bytes());
                liar.send(&message).answers(0, INVALID);
            }
        }),
        case("a key that is the daemon's", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&set("totem.cluster_name", b"another")).answers(0, ACCESS);
        }),
        case("room for an answer without end", BOTH, move |stage| {
            let liar = liar(stage);
            for room in [u64::MAX, 1 << 63, (1 << 40) + 1] {
                liar.send(&get("totem.cluster_name", room)).answers(2, NO_MEMORY);
            }
        }),
        case("room for an answer that no ring has room for", BOTH, move |stage| {
            let liar = liar(stage);
            for room in [1 << 40, 1 << 32, 1 << 31, 1 << 20] {
                liar.send(&get("totem.cluster_name", room));
            }
            // They are lost, and the next one is answered.
            liar.works();
        }),
        case("maps that there are not", BOTH, move |stage| {
            let liar = liar(stage);
            for map in [2, 0x7fff_ffff, 0xffff_ffff] {
                liar.send(&numbered(9, map)).answers(10, NOT_EXIST);
            }
        }),
        case("another map while one is in use", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&keyed(4, "")).answers(4, OK);
            liar.send(&numbered(9, 1)).answers(10, BUSY);
        }),
        case("trackers of the statistics without end", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&numbered(9, 1)).answers(10, OK);
            let count = until_refused(&liar, 7, NO_MEMORY, |_| track("stats."));
            assert!(count > 100, "{count}");
            stage.hold(liar);
        }),
    ];
    cases.push(case("text that is added to", BOTH, move |stage| {
        let liar = liar(stage);
        liar.send(&set("lie.text", b"bytes")).answers(0, OK);
        let mut message = keyed(3, "lie.text");
        put_i32(&mut message, 280, 1);
        liar.send(&message).answers(3, INVALID);
        liar.send(&keyed(1, "lie.text")).answers(1, OK);
    }));
    cases
}

fn cpg() -> Vec<Case> {
    let liar = |stage: &Stage| stage.connect("cpg");
    vec![
        case("a second join of the same client", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            liar.send(&join("lie", 7)).answers(0, EXIST);
            liar.send(&join("another", 7)).answers(0, EXIST);
            stage.hold(liar);
        }),
        case("a join as another client", BOTH, move |stage| {
            let (one, other) = (liar(stage), liar(stage));
            one.send(&join("lie", 7)).answers(0, OK);
            other.send(&join("lie", 7)).answers(0, EXIST);
            stage.hold((one, other));
        }),
        case("a join with the process id of others", BOTH, move |stage| {
            for pid in [0, 1, -1, i32::MAX, i32::MIN] {
                let liar = liar(stage);
                liar.send(&join("lie", pid)).answers(0, OK);
                stage.hold(liar);
            }
        }),
        case("a join of a group without a name", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("", 7)).answers(0, OK);
            stage.hold(liar);
        }),
        case("a join of a group with a name that is too long", BOTH, move |stage| {
            let liar = liar(stage);
            for length in [129, 0x7fff_ffff, -1] {
                let mut message = join("lie", 7);
                put_i32(&mut message, 16, length);
                liar.send(&message).answers(0, INVALID);
            }
        }),
        case("a leave without a join", BOTH, move |stage| {
            let mut leave = grouped(1, "lie");
            put(&mut leave, 152, &[7, 0, 0, 0]);
            liar(stage).send(&leave).answers(1, NOT_EXIST);
        }),
        case("a second leave, and a join after it", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            let mut leave = grouped(1, "lie");
            put_i32(&mut leave, 152, 7);
            liar.send(&leave).answers(1, OK);
            liar.send(&leave).answers(1, NOT_EXIST);
            liar.send(&join("lie", 7)).answers(0, EXIST);
            liar.send(&join("another", 7)).answers(0, BUSY);
        }),
        case("messages to a group that was not joined", BOTH, move |stage| {
            let liar = liar(stage);
            for _ in 0..100 {
                liar.send(&multicast(b"nobody hears this"));
            }
            liar.works();
        }),
        case("a message that says it is longer", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            for length in [6, 1 << 20, -1, i32::MIN] {
                let mut message = multicast(b"short");
                put_i32(&mut message, 32, length);
                liar.send(&message);
            }
            liar.works();
            stage.hold(liar);
        }),
        case("a fragment without a join", BOTH, move |stage| {
            liar(stage).send(&fragment(10, 1, b"first")).answers(18, NOT_EXIST);
        }),
        case("fragments without end", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            liar.next_event();
            liar.send(&fragment(i32::MAX, 1, &[7; 5000]));
            for _ in 0..500 {
                liar.answers(18, OK);
                liar.next_event();
                liar.send(&fragment(i32::MAX, 2, &[7; 5000]));
            }
            liar.answers(18, OK);
            stage.hold(liar);
        }),
        case("fragments without a beginning", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            liar.next_event();
            for kind in [2, 3, 3, 0, 4, -1] {
                let reply = liar.send(&fragment(10, kind, b"later")).next_reply();
                assert_eq!(i32_at(&reply, 0), 18);
            }
            liar.works();
            stage.hold(liar);
        }),
        case("a fragment that says it is longer", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&join("lie", 7)).answers(0, OK);
            for length in [6, 1 << 20, -1, i32::MIN] {
                let mut message = fragment(1 << 20, 1, b"short");
                put_i32(&mut message, 40, length);
                liar.send(&message).answers(0, INVALID);
            }
        }),
        case("fragments of which the rest never comes", BOTH, move |stage| {
            for pid in 0..20 {
                let liar = liar(stage);
                liar.send(&join("lie", pid)).answers(0, OK);
                liar.send(&fragment(i32::MAX, 1, &[7; 10000])).next_reply();
            }
        }),
        case("iterations without end", BOTH, move |stage| {
            let liar = liar(stage);
            let mut all = grouped(5, "");
            put_i32(&mut all, 152, 3);
            let count = until_refused(&liar, 9, NO_MEMORY, |_| all.clone());
            assert!(count > 50, "{count}");
            liar.works();
            stage.hold(liar);
        }),
        case("iterations of a kind that there is not", BOTH, move |stage| {
            let liar = liar(stage);
            for kind in [0, 4, -1, i32::MIN] {
                let mut message = grouped(5, "lie");
                put_i32(&mut message, 152, kind);
                let reply = liar.send(&message).answers(9, OK);
                liar.send(&numbered(7, u64_at(&reply, 24))).answers(11, OK);
            }
        }),
        case("iterations that nobody began", BOTH, move |stage| {
            let liar = liar(stage);
            for handle in [0, 1, u64::MAX] {
                liar.send(&numbered(6, handle)).answers(10, LIBRARY);
                liar.send(&numbered(7, handle)).answers(11, LIBRARY);
            }
        }),
        case("requests after the last one", BOTH, move |stage| {
            let liar = liar(stage);
            liar.send(&request(8, &[])).answers(12, OK);
            liar.send(&join("lie", 7)).next_reply();
            liar.send(&multicast(b"still here"));
            liar.works();
            stage.hold(liar);
        }),
        case("an end in the middle of a join", BOTH, move |stage| {
            for _ in 0..20 {
                liar(stage).send(&join("lie", 7));
            }
        }),
        case("an end in the middle of many messages", BOTH, move |stage| {
            for pid in 0..5 {
                let liar = liar(stage);
                liar.send(&join("lie", pid)).answers(0, OK);
                while liar.try_send(&multicast(&[7; 3000])) {}
            }
        }),
        case("a hundred members that know the group by the same id", BOTH, move |stage| {
            let members: Vec<Liar> = (0..100).map(|_| liar(stage)).collect();
            members[0].send(&join("lie", 7)).answers(0, OK);
            members[1..].iter().for_each(|it| drop(it.send(&join("lie", 7)).answers(0, EXIST)));
            stage.hold(members);
        }),
    ]
}

fn others() -> Vec<Case> {
    vec![
        case("a tracker of quorum that starts twice", BOTH, |stage| {
            let liar = stage.connect("quorum");
            liar.send(&numbered(1, 3)).answers(1, OK);
            (0..100).for_each(|_| drop(liar.send(&numbered(1, 3)).answers(1, EXIST)));
            stage.hold(liar);
        }),
        case("trackers of quorum that read nothing", BOTH, |stage| {
            let liar = stage.connect("quorum");
            assert_eq!(liar.ask(3000, |_| numbered(1, 1), |reply| i32_at(reply, 0) == 1), 3000);
            stage.hold(liar);
        }),
        case("models of quorum that there are not", BOTH, |stage| {
            let liar = stage.connect("quorum");
            for model in [2, 1000, 0xffff_ffff] {
                liar.send(&numbered(4, model)).answers(5, INVALID);
            }
        }),
        case("a tracker of votequorum that starts twice", BOTH, |stage| {
            let liar = stage.connect("votequorum");
            let start = request(3, &[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
            liar.send(&start).answers(0, OK);
            (0..100).for_each(|_| drop(liar.send(&start).answers(0, EXIST)));
            liar.send(&request(4, &[])).answers(0, OK);
            liar.send(&request(4, &[])).answers(0, NOT_EXIST);
            stage.hold(liar);
        }),
        case("expected votes that no cluster has", BOTH, |stage| {
            let liar = stage.connect("votequorum");
            for votes in [0, 0x7fff_ffff, 0x8000_0000] {
                liar.send(&numbered(1, votes)).answers(0, INVALID);
            }
        }),
        case("votes of nodes that there are not", BOTH, |stage| {
            let liar = stage.connect("votequorum");
            for node in [2_u64, 1000, 0xffff_ffff] {
                liar.send(&numbered(2, node << 32 | 1)).answers(0, NAME_NOT_FOUND);
            }
        }),
        case("a quorum device that nobody registered", BOTH, |stage| {
            let liar = stage.connect("votequorum");
            for (id, size) in [(6, 256), (7, 512), (8, 280), (9, 264)] {
                let reply = liar.send(&request(id, &vec![b'a'; size])).next_reply();
                assert_ne!(i32_at(&reply, 16), OK, "{id}");
            }
        }),
        case("a tracker of shutdowns that starts twice", BOTH, |stage| {
            let liar = stage.connect("cfg");
            (0..100).for_each(|_| drop(liar.send(&numbered(10, 0)).answers(2, OK)));
            stage.hold(liar);
        }),
        case("an answer to a shutdown that nobody asks for", BOTH, |stage| {
            let liar = stage.connect("cfg");
            for answer in [0, 1, 2, 0xffff_ffff] {
                liar.send(&numbered(4, answer)).answers(13, ACCESS);
            }
        }),
        case("a shutdown that is asked for and not waited for", BOTH, |stage| {
            // It never answers, so nobody is shut down.
            let tracker = stage.connect("cfg");
            tracker.send(&numbered(10, 0)).answers(2, OK);
            for _ in 0..20 {
                stage.connect("cfg").send(&numbered(3, 0));
                tracker.next_event();
            }
            stage.hold(tracker);
        }),
        case("nodes that there are not", BOTH, |stage| {
            let liar = stage.connect("cfg");
            for node in [2, 1000, 0xffff_ffff] {
                liar.send(&numbered(5, node)).answers(11, NOT_EXIST);
                liar.send(&request(2, &[&node.to_ne_bytes()[..], &[0; 264]].concat()))
                    .answers(8, NOT_EXIST);
            }
        }),
        case("more groups of evs than a client may have", BOTH, |stage| {
            let liar = stage.connect("evs");
            liar.send(&groups(0, 51)).answers(2, TOO_MANY_GROUPS);
            let count = until_refused(&liar, 2, NO_MEMORY, |_| groups(0, 50));
            assert!(count > 1, "{count}");
            liar.works();
            stage.hold(liar);
        }),
        case("counts of groups of evs that lie", BOTH, |stage| {
            let liar = stage.connect("evs");
            for count in [2, 1 << 32, 1 << 58, 1 << 59, u64::MAX] {
                let mut message = groups(0, 1);
                put(&mut message, 24, &count.to_ne_bytes());
                liar.send(&message).answers(0, INVALID);
            }
        }),
        case("a leave of groups of evs that were not joined", BOTH, |stage| {
            stage.connect("evs").send(&groups(1, 5)).answers(3, NOT_EXIST);
        }),
        case("messages of evs to nobody that lie about their length", BOTH, |stage| {
            let liar = stage.connect("evs");
            for length in [6, 1 << 32, u64::MAX] {
                let mut message = request(2, &[0; 24]);
                put(&mut message, 32, &length.to_ne_bytes());
                put(&mut message, 40, b"short");
                liar.send(&sized(message)).answers(0, INVALID);
            }
            liar.works();
        }),
    ]
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    vec![(Served::Corosync, cmap().into_iter().chain(cpg()).chain(others()).collect())]
}
