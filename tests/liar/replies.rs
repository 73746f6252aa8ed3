//! Answers that lie: of another request, late, double, too short or too long, with counts and errors
//! that make no sense.

use std::thread;
use std::time::Duration;

use corosync_ipc::cmap;
use corosync_ipc::cpg::{Guarantee, Iteration};
use corosync_ipc::{Error, NodeId};
use testbed::raw::{i32_at, put, put_i32, put_u64, response};

use crate::calls::{Call, JOIN, calls, group, joined};
use crate::case::{Case, Try, both};
use crate::daemon::{Conn, Script, TRANSPORTS, Transport};
use crate::honest::{self, BUSY, INTERRUPT, OK, TRY_AGAIN, set_group, set_key};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    every_service(&mut cases);
    order(&mut cases);
    statuses(&mut cases);
    fields(&mut cases);
    iterations(&mut cases);
    awaited(&mut cases);
    cases
}

/// Changes an honest answer.
type Change = fn(&mut Vec<u8>);

/// Lies about the last answer of a call.
fn changed(call: &Call, change: Change) -> Script {
    let last = call.before + call.requests - 1;
    Script::honest().requested(move |conn, request, number| {
        let Some(mut answer) = honest::answer(conn, request) else { return };
        if number == last {
            change(&mut answer);
        }
        conn.answer(&answer);
    })
}

/// Lies that any answer can have.
fn every_service(cases: &mut Vec<Case>) {
    let lies: [(&str, Change, &str); 11] = [
        ("no bytes", |answer| answer.clear(), "protocol: "),
        ("8 bytes", |answer| answer.truncate(8), "protocol: "),
        ("23 bytes", |answer| answer.truncate(23), "ok | protocol: "),
        // The ids of answers differ between versions, so only their order counts.
        ("another id", |answer| put_i32(answer, 0, 77), "ok"),
        ("a negative id", |answer| put_i32(answer, 0, i32::MIN), "ok"),
        ("size 0", |answer| put_i32(answer, 8, 0), "ok | protocol: "),
        ("a negative size", |answer| put_i32(answer, 8, i32::MIN), "ok | protocol: "),
        ("a huge size", |answer| put_i32(answer, 8, i32::MAX), "ok | protocol: "),
        ("9000 bytes more", |answer| answer.resize(answer.len() + 5000, 0xa5), "ok | protocol: "),
        ("an unknown error", |answer| put_i32(answer, 16, 9999), "cs 9999"),
        ("a negative error", |answer| put_i32(answer, 16, i32::MIN), "cs -2147483648"),
    ];
    for service in ["cmap", "cpg", "quorum", "votequorum", "cfg", "evs"] {
        let calls = calls(service);
        let call = calls.iter().find(|call| call.unawaited.is_none()).unwrap();
        for (what, change, end) in lies {
            for transport in TRANSPORTS {
                let name = format!("{}: an answer with {what}", call.name);
                cases.push(Case::new(name, transport, changed(call, change), call.run, end));
            }
        }
    }
}

/// The answer to `cpg local get`.
fn node(id: i32) -> Vec<u8> {
    response(7, OK, &u64::from(id as u32).to_ne_bytes())
}

/// Answers that are late, double, or nobody asked for.
fn order(cases: &mut Vec<Case>) {
    both(
        cases,
        "two answers to the first request",
        || {
            Script::honest()
                .requested(|conn, _, number| {
                    conn.answer(&node(number as i32 + 1));
                })
                .told_at("cpg", |conn| {
                    conn.answer(&node(9));
                })
        },
        |it| {
            let client = it.cpg()?;
            client.local_node_id()?;
            it.tell();
            assert_eq!(client.local_node_id()?, NodeId(2));
            Ok(())
        },
        "ok",
    );
    both(
        cases,
        "an answer before the first request",
        || {
            Script::honest()
                .told_at("cpg", |conn| {
                    conn.answer(&node(9));
                })
                .requested(|conn, _, _| {
                    conn.answer(&node(1));
                })
        },
        |it| {
            let client = it.cpg()?;
            it.tell();
            assert_eq!(client.local_node_id()?, NodeId(1));
            Ok(())
        },
        "ok",
    );
    both(
        cases,
        "a late answer before the next one",
        || {
            Script::honest().requested(|conn, _, number| {
                if number == 1 {
                    conn.answer(&node(9));
                    conn.answer(&node(2));
                }
            })
        },
        |it| {
            let client = it.cpg()?;
            let late = client.local_node_id();
            assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
            // The late answer comes when the daemon has the next request, which waits for it.
            it.start();
            client.local_node_id().map(drop)
        },
        "timed out",
    );
    both(
        cases,
        "a late answer at last",
        || {
            Script::honest()
                .requested(|conn, _, number| {
                    if number == 1 {
                        conn.answer(&node(2));
                    }
                })
                .told_at("cpg", |conn| {
                    conn.answer(&node(9));
                })
        },
        |it| {
            let client = it.cpg()?;
            let late = client.local_node_id();
            assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
            it.tell();
            assert_eq!(client.local_node_id()?, NodeId(2));
            Ok(())
        },
        "ok",
    );
    for transport in TRANSPORTS {
        // Each answer says for which key it is.
        let number = |key: &[u8]| key.iter().fold(0, |sum, digit| sum * 10 + i32::from(digit - 48));
        let script = Script::honest().requested(move |conn, request, count| {
            let mut answer = honest::value(request);
            put_i32(&mut answer, 40, number(&request[28..31]));
            thread::sleep(Duration::from_millis(count as u64 * 7 % 25));
            conn.answer(&answer);
        });
        let client = |it: &Try<'_>| {
            let endpoint = it.endpoint().request_timeout(Duration::from_millis(12));
            let client = cmap::Client::connect_to(&endpoint)?;
            it.start();
            let (mut answered, mut late) = (0, 0);
            while answered < 10 || late < 10 {
                let number = answered + late;
                match client.get_as::<u32>(&format!("key.{number:03}")) {
                    Ok(value) => {
                        assert_eq!(value, Some(number));
                        answered += 1;
                    }
                    Err(Error::TimedOut { .. }) => late += 1,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        let case = Case::new("answers around the deadline", transport, script, client, "ok");
        cases.push(case.periods(20));
    }
    both(
        cases,
        "bare refusals without end",
        || {
            Script::honest().requested(|conn, _, _| {
                (0..50).for_each(|_| assert!(conn.answer(&response(0, TRY_AGAIN, &[]))));
            })
        },
        |it| it.cpg()?.local_node_id().map(drop),
        "cs 6",
    );
    // Only daemons that are older than such rings answer twice.
    let script = Script::honest().requested(|conn, _, _| {
        conn.answer(&response(0, TRY_AGAIN, &[]));
        conn.answer(&node(2));
    });
    let client = |it: &Try<'_>| {
        assert_eq!(it.cpg()?.local_node_id()?, NodeId(2));
        Ok(())
    };
    let name = "a bare refusal and then an answer";
    cases.push(Case::new(name, Transport::Datagrams, script, client, "ok"));
    // More answers than requests, as fast as they fit.
    for transport in TRANSPORTS {
        let script = Script::honest().requested(|conn, _, number| {
            if number == 0 {
                conn.answer(&node(1));
                return;
            }
            conn.lair.has_done();
            while !conn.lair.is_over() {
                conn.answer(&node(3));
            }
        });
        let client = |it: &Try<'_>| {
            let client = it.cpg()?;
            client.local_node_id()?;
            client.local_node_id()?;
            it.start();
            client.local_node_id().map(drop)
        };
        let end = "ok | timed out";
        cases.push(Case::new("a flood of answers", transport, script, client, end));
    }
    // An answer of one service to a client of another.
    both(
        cases,
        "the answer of another service",
        || {
            Script::honest().requested(|conn, _, _| {
                conn.answer(&response(1, OK, &[0; 296]));
            })
        },
        |it| it.cpg()?.local_node_id().map(drop),
        "ok",
    );
    both(
        cases,
        "the answer to another request",
        || {
            Script::honest().requested(|conn, _, _| {
                conn.answer(&response(9, OK, &[0; 8]));
            })
        },
        |it| it.cpg()?.local_node_id().map(drop),
        "ok",
    );
}

/// Errors that never end.
fn statuses(cases: &mut Vec<Case>) {
    let always = |error: i32| {
        move || {
            Script::honest().requested(move |conn, request, _| {
                let Some(mut answer) = honest::answer(conn, request) else { return };
                put_i32(&mut answer, 16, error);
                conn.answer(&answer);
            })
        }
    };
    both(cases, "busy for ever: cmap", always(TRY_AGAIN), |it| it.cmap()?.set("a.b", 1_u8), "cs 6");
    both(
        cases,
        "busy for ever: connecting to quorum",
        always(TRY_AGAIN),
        |it| corosync_ipc::quorum::Client::connect_to(&it.endpoint()).map(drop),
        "cs 6",
    );
    both(cases, "busy for ever: cfg", always(TRY_AGAIN), |it| it.cfg()?.track_start(), "cs 6");
    both(
        cases,
        "busy for ever and not waited for",
        always(TRY_AGAIN),
        |it| {
            let client = it
                .connected(|endpoint| cmap::Client::connect_to(&endpoint.wait_while_busy(false)))?;
            client.set("a.b", 1_u8)
        },
        "cs 6",
    );
    // The join itself, behind the iteration over the members.
    for error in [TRY_AGAIN, BUSY] {
        both(
            cases,
            &format!("a join is busy for ever with {error}"),
            move || {
                Script::honest().requested(move |conn, request, _| {
                    let Some(mut answer) = honest::answer(conn, request) else { return };
                    if i32_at(request, 0) == 0 {
                        put_i32(&mut answer, 16, error);
                    }
                    conn.answer(&answer);
                })
            },
            |it| it.cpg()?.join(&group()),
            &format!("cs {error}"),
        );
    }
    for error in [TRY_AGAIN, INTERRUPT] {
        both(
            cases,
            &format!("fragments end with {error} for ever"),
            move || {
                Script::honest().requested(move |conn, request, number| {
                    let Some(mut answer) = honest::answer(conn, request) else { return };
                    if number >= JOIN {
                        put_i32(&mut answer, 16, error);
                    }
                    conn.answer(&answer);
                })
            },
            |it| joined(it)?.multicast(Guarantee::AGREED, &[7; 40_000]),
            &format!("cs {error}"),
        );
    }
}

/// Counts, lengths and types in answers.
fn fields(cases: &mut Vec<Case>) {
    type Row = (&'static str, &'static str, i32, Change, &'static str);
    let rows: [Row; 31] = [
        ("a value of 2^64 - 1 bytes", "cmap get", 2, |it| put_u64(it, 24, u64::MAX), "protocol: "),
        ("a value of 2^32 bytes", "cmap get", 2, |it| put_u64(it, 24, 1 << 32), "protocol: "),
        ("a value of 5 bytes, of 4", "cmap get", 2, |it| put_u64(it, 24, 5), "protocol: | ok"),
        ("a u32 of no bytes", "cmap get", 2, |it| put_u64(it, 24, 0), "protocol: | ok"),
        ("a value of type 0", "cmap get", 2, |it| it[32] = 0, "protocol: | ok"),
        ("a value of type 255", "cmap get", 2, |it| it[32] = 255, "ok"),
        ("a text that is none", "cmap get", 2, |it| it[32] = 11, "ok"),
        ("a tracker of 2^64 - 1", "cmap track_add", 7, |it| put_u64(it, 24, u64::MAX), "ok"),
        ("an iterator of 2^64 - 1", "cmap iter", 4, |it| put_u64(it, 24, u64::MAX), "ok"),
        ("a key of 65535 bytes", "cmap list", 5, |it| put(it, 24, &[255; 2]), "protocol: "),
        (
            "a key of 257 bytes",
            "cmap list",
            5,
            |it| put(it, 24, &257_u16.to_ne_bytes()),
            "protocol: ",
        ),
        ("an empty key", "cmap list", 5, |it| put(it, 24, &[0; 2]), "ok"),
        (
            "a key that is no text",
            "cmap list",
            5,
            |it| put(it, 32, b"test.\xff\xfe"),
            "InvalidArg | ok | cs",
        ),
        ("a key without the prefix", "cmap list", 5, |it| put(it, 32, b"other"), "ok"),
        ("a value_len of 2^64 - 1", "cmap list", 5, |it| put_u64(it, 288, u64::MAX), "ok"),
        ("a group of 2^32 - 1 bytes", "cpg list", 10, |it| put_i32(it, 24, -1), "protocol: "),
        ("a group of 129 bytes", "cpg list", 10, |it| put_i32(it, 24, 129), "protocol: "),
        ("an iterator of 2^64 - 1", "cpg list", 9, |it| put_u64(it, 24, u64::MAX), "ok"),
        ("2^32 - 1 addresses", "cfg node_addresses", 11, |it| put_i32(it, 28, -1), "protocol: "),
        ("2^28 addresses", "cfg node_addresses", 11, |it| put_i32(it, 28, 1 << 28), "protocol: "),
        ("an unknown family", "cfg node_addresses", 11, |it| put_i32(it, 24, 77), "protocol: "),
        ("2^32 - 1 interfaces", "cfg ring_status", 0, |it| put_i32(it, 24, -1), "protocol: "),
        ("17 interfaces", "cfg ring_status", 0, |it| put_i32(it, 24, 17), "protocol: "),
        ("two addresses", "cfg ring_status", 11, |it| *it = honest::addresses(2, 2), "ok"),
        ("an unknown version", "cfg node_status", 16, |it| put_i32(it, 24, 9), "protocol: "),
        ("2^64 - 1 members", "evs membership", 6, |it| put_u64(it, 1568, u64::MAX), "protocol: "),
        ("385 members", "evs membership", 6, |it| put_u64(it, 1568, 385), "protocol: "),
        (
            "2^32 - 1 bytes",
            "votequorum qdevice_extra_info",
            6,
            |it| put_i32(it, 24, -1),
            "protocol: ",
        ),
        (
            "a name of 255 bytes",
            "votequorum info",
            1,
            |it| put(it, 60, &[b'x'; 255]),
            "ok | protocol: ",
        ),
        ("an unknown state", "votequorum info", 1, |it| put_i32(it, 28, -1), "ok"),
        ("56 bytes", "votequorum info", 1, |it| it.truncate(56), "ok"),
    ];
    for (what, name, id, change, end) in rows {
        let service = name.split(' ').next().unwrap();
        let calls = calls(service);
        let call = calls.iter().find(|call| call.name == name).unwrap();
        for transport in TRANSPORTS {
            let script = Script::honest().requested(move |conn, request, _| {
                let Some(mut answer) = honest::answer(conn, request) else { return };
                let is_it = conn.service == service && i32_at(&answer, 0) == id;
                if is_it && i32_at(&answer, 16) == OK {
                    change(&mut answer);
                }
                conn.answer(&answer);
            });
            cases.push(Case::new(format!("{name}: {what}"), transport, script, call.run, end));
        }
    }
}

/// Iterations without end.
fn iterations(cases: &mut Vec<Case>) {
    /// Answers with a key or member that is never the last.
    fn endless(conn: &mut Conn<'_>, request: &[u8], prefix: &str, length: u64) {
        conn.iterated += 1;
        let number = conn.iterated;
        let answer = match (conn.service, i32_at(request, 0)) {
            ("cmap", 5) => {
                let mut key = response(5, OK, &[0; 280]);
                set_key(&mut key, 24, &format!("{prefix}{number:08}"));
                put_u64(&mut key, 288, length);
                key[296] = 12;
                key
            }
            ("cmap", 2) => {
                let mut value = response(2, OK, &vec![7; 16 + length as usize]);
                put_u64(&mut value, 24, length);
                value[32] = 12;
                value
            }
            ("cpg", 6) => {
                let mut member = response(10, OK, &[0; 144]);
                set_group(&mut member, 24, &number.to_string());
                put_i32(&mut member, 160, number as i32);
                put_i32(&mut member, 164, number as i32);
                member
            }
            _ => return conn.answer_honestly(request),
        };
        conn.answer(&answer);
    }
    let script = |prefix: &'static str, length: u64| {
        move || {
            Script::honest()
                .requested(move |conn, request, _| endless(conn, request, prefix, length))
        }
    };
    type Row = (&'static str, &'static str, fn(&Try<'_>) -> Result<(), Error>);
    let rows: &[Row] = &[
        ("keys", "test.", |it| it.cmap()?.iter("test.").map(drop)),
        ("keys that are not asked for", "other.", |it| it.cmap()?.iter("test.").map(drop)),
        ("keys, listed", "test.", |it| it.cmap()?.list("test.").map(drop)),
        #[cfg(feature = "serde")]
        ("keys, read", "test.", |it| it.cmap()?.read::<Vec<u32>>("test.").map(drop)),
        ("keys of the section of a key that is deleted", "logging.logger_subsys.", |it| {
            it.cmap()?.delete("logging.logger_subsys.X.debug")
        }),
        ("members", "", |it| it.cpg()?.list(Iteration::All).map(drop)),
        ("members of a group", "", |it| it.cpg()?.membership(&group()).map(drop)),
        ("members of a group that is joined", "", |it| it.cpg()?.join(&group())),
        ("groups", "", |it| it.cpg()?.list(Iteration::Names).map(drop)),
    ];
    for &(what, prefix, client) in rows {
        for transport in TRANSPORTS {
            let name = format!("{what} without end");
            let case = Case::new(name, transport, script(prefix, 4)(), client, "timed out");
            cases.push(case.busy().peak(8 << 20));
        }
    }
    // The same key again and again.
    for transport in TRANSPORTS {
        let script = Script::honest().requested(|conn, request, _| {
            conn.iterated = 0;
            conn.answer_honestly(request);
        });
        let client = |it: &Try<'_>| it.cmap()?.iter("test.").map(drop);
        let case = Case::new("one key without end", transport, script, client, "timed out");
        cases.push(case.busy());
    }
    // Each value has the length that was told, and all together are too many bytes.
    let client = |it: &Try<'_>| {
        let client =
            it.connected(|endpoint| cmap::Client::connect_to(&endpoint.ring_size(64 << 10)))?;
        client.set_request_timeout(Duration::from_secs(60));
        client.list("test.").map(drop)
    };
    for transport in TRANSPORTS {
        let script = script("test.", 16 << 10)();
        let end = "protocol: more than 67108864 bytes of keys and values";
        let case = Case::new("values of more than 64 MiB", transport, script, client, end);
        cases.push(case.busy().periods(200).peak(80 << 20));
    }
    let client = |it: &Try<'_>| {
        let client = it.cmap()?;
        client.set_request_timeout(Duration::from_secs(60));
        client.nodelist().map(drop)
    };
    for transport in TRANSPORTS {
        let script = script("nodelist.node.0.", 4)();
        let end = "protocol: more than 16384 keys of an iteration";
        let case = Case::new("a nodelist without end", transport, script, client, end);
        cases.push(case.busy().periods(200).peak(8 << 20));
    }
    // A client goes on after a list that took too long.
    let client = |it: &Try<'_>| {
        let client = it.cmap()?;
        let listed = client.list("test.");
        assert!(matches!(listed, Err(Error::TimedOut { .. })), "{listed:?}");
        it.start();
        client.list("test.").map(drop)
    };
    for transport in TRANSPORTS {
        let script = script("test.", 4)();
        let case = Case::new("keys, listed twice", transport, script, client, "timed out");
        cases.push(case.busy().peak(8 << 20));
    }
}

/// Calls that are awaited.
#[cfg(feature = "tokio")]
fn awaited(cases: &mut Vec<Case>) {
    use crate::calls::awaited;

    let stalls = || Script::honest().requested(|_, _, _| {});
    let closes = || Script::honest().requested(|conn, _, _| conn.close());
    let wrong = || {
        Script::honest().requested(|conn, _, _| {
            conn.answer(&response(2, OK, &[]));
        })
    };
    let get = |it: &Try<'_>| awaited(it.cmap()?, |client| client.get("test.key").map(drop));
    both(cases, "awaited: stalls", stalls, get, "timed out");
    both(cases, "awaited: closes", closes, get, "gone");
    both(cases, "awaited: too short", wrong, get, "protocol: ");
    both(cases, "awaited: honest", Script::honest, get, "ok");
}

#[cfg(not(feature = "tokio"))]
fn awaited(_: &mut Vec<Case>) {}
