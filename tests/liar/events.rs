//! Events that lie: malformed, of trackers that are not there, fragments that do not fit together,
//! floods of events and of wake bytes.

use std::io::Write;
use std::net::Shutdown;
use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{self, Discard, Discarded, Event, Guarantee};
use corosync_ipc::{CsError, Deadline, Dispatch, Dispatcher, Error, ServiceClient, cmap, quorum};
use nix::sys::socket::{MsgFlags, send};
use testbed::raw::{put_i32, put_u64, request, response};

use crate::calls::joined;
use crate::case::{Case, Try, both};
use crate::daemon::{Channels, Conn, Script, TRANSPORTS, Transport};
use crate::handshake::send_with_descriptors;
use crate::honest::{OK, set_group, set_key};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    messages(&mut cases);
    ways(&mut cases);
    trackers(&mut cases);
    fragments(&mut cases);
    cases
}

pub(crate) fn too_many() -> Vec<Case> {
    let mut cases = Vec::new();
    floods(&mut cases);
    cases
}

pub(crate) fn sockets() -> Vec<Case> {
    let mut cases = Vec::new();
    wake_bytes(&mut cases);
    datagrams(&mut cases);
    halves(&mut cases);
    cases
}

/// An honest event of a service with this id.
fn event(service: &str, id: i32) -> Vec<u8> {
    let size = match (service, id) {
        ("cmap", _) => 312,
        ("cpg", 17) => 176,
        ("cpg", 13) => 20,
        ("cpg", _) => 160,
        ("quorum", 3) => 20,
        ("quorum", 6) => 28,
        ("quorum", _) => 36,
        ("votequorum", 4) => 16,
        ("votequorum", 5) => 32,
        ("votequorum", _) => 24,
        ("evs", 0) => 16,
        ("evs", _) => 4632,
        _ => 8,
    };
    response(id, OK, &vec![0; size])
}

/// Takes one event, by any client.
fn take<C: ServiceClient>(it: &Try<'_>, client: Result<C, Error>) -> Result<(), Error> {
    let client = client?;
    it.tell();
    client.next_event(it.timeout()).map(drop)
}

/// Takes one event of a service.
fn take_of(service: &str) -> fn(&Try<'_>) -> Result<(), Error> {
    match service {
        "cmap" => |it| take(it, it.cmap()),
        "cpg" => |it| take(it, it.cpg()),
        "quorum" => |it| take(it, it.quorum()),
        "votequorum" => |it| take(it, it.votequorum()),
        "cfg" => |it| take(it, it.cfg()),
        _ => |it| take(it, it.evs()),
    }
}

/// Malformed events of all services.
fn messages(cases: &mut Vec<Case>) {
    let mut lie = |service: &'static str, what: String, message: Vec<u8>, end: &str| {
        for transport in TRANSPORTS {
            let message = message.clone();
            let script = Script::honest().told_at(service, move |conn| {
                assert!(conn.event(&message));
            });
            let name = format!("an event of {service}: {what}");
            cases.push(Case::new(name, transport, script, take_of(service), end));
        }
    };
    for (service, id) in
        [("cmap", 9), ("cpg", 5), ("quorum", 3), ("votequorum", 5), ("cfg", 10), ("evs", 1)]
    {
        let honest = event(service, id);
        lie(service, "honest".to_owned(), honest.clone(), "ok");
        for length in [0, 8, 23, 24, honest.len() - 8] {
            let message = honest[..length].to_vec();
            lie(service, format!("{length} bytes"), message, "protocol: ");
        }
        for unknown in [77, -1, i32::MIN, i32::MAX] {
            let mut message = honest.clone();
            put_i32(&mut message, 0, unknown);
            lie(service, format!("id {unknown}"), message, "ok");
        }
        for size in [1, -1, i32::MIN, i32::MAX] {
            let mut message = honest.clone();
            put_i32(&mut message, 8, size);
            lie(service, format!("size {size}"), message, "ok | protocol: ");
        }
    }
    // Counts of lists, and lengths.
    for (service, id, offset) in [
        ("cpg", 4, 24),
        ("cpg", 4, 160),
        ("cpg", 4, 168),
        ("cpg", 4, 176),
        ("cpg", 5, 24),
        ("cpg", 5, 160),
        ("cpg", 13, 40),
        ("cpg", 17, 168),
        ("quorum", 3, 40),
        ("quorum", 6, 48),
        ("quorum", 7, 40),
        ("quorum", 7, 48),
        ("quorum", 7, 56),
        ("votequorum", 3, 40),
        ("votequorum", 5, 48),
        ("votequorum", 7, 40),
        ("evs", 0, 32),
        ("evs", 1, 24),
        ("evs", 1, 32),
        ("evs", 1, 40),
        ("cmap", 9, 320),
        ("cmap", 9, 328),
    ] {
        for count in [1 << 20, i32::MAX, -1] {
            let mut message = event(service, id);
            put_i32(&mut message, offset, count);
            lie(service, format!("{id}: count {count} at {offset}"), message, "protocol: ");
        }
    }
    let mut key = event("cmap", 9);
    put_i32(&mut key, 32, 0xffff);
    lie("cmap", "a key of 65535 bytes".to_owned(), key, "protocol: ");
}

type Way = fn(&Try<'_>, cpg::Client) -> Result<(), Error>;

/// The ways to wait for events until the connection ends.
const WAYS: [(&str, Way); 5] = [
    ("next_event", |_, client| {
        loop {
            client.next_event(Deadline::NEVER)?;
        }
    }),
    ("events", |_, client| client.events().try_for_each(|event| event.map(drop))),
    ("dispatch one", |_, client| {
        loop {
            client.dispatch(Dispatch::One, |_| Continue(()))?;
        }
    }),
    ("dispatch blocking", |_, client| client.dispatch(Dispatch::Blocking, |_| Continue(()))),
    ("a dispatcher", |_, client| {
        let mut dispatcher = Dispatcher::new()?;
        let mut end = Ok(());
        dispatcher.add(client, |end: &mut Result<(), Error>, event, _| {
            *end = event.map(drop);
            Continue(())
        })?;
        dispatcher.run(&mut end)?;
        end
    }),
];

/// The same wrong event, taken in every way.
fn ways(cases: &mut Vec<Case>) {
    let polls: [(&str, Way); 2] = [
        ("poll_event", |it, client| it.for_a_while(|| client.poll_event().map(drop))),
        ("dispatch all", |it, client| {
            it.for_a_while(|| client.dispatch(Dispatch::All, |_| Continue(())))
        }),
    ];
    let ways = WAYS.into_iter().map(|way| (way, false)).chain(polls.map(|way| (way, true)));
    type Lie = fn(&mut Conn<'_>);
    let lies: [(&str, Lie, &str); 4] = [
        ("a short event", |conn| assert!(conn.event(&[0; 10])), "protocol: "),
        ("an event of no bytes", |conn| assert!(conn.event(&[])), "protocol: "),
        ("the end", |conn| conn.close(), "gone"),
        ("half the end", |conn| conn.setup().shutdown(Shutdown::Write).unwrap(), "gone"),
    ];
    for (lie_name, lie, end) in lies {
        for ((way_name, way), polls) in ways.clone() {
            for transport in TRANSPORTS {
                let script = Script::honest().told_at("cpg", lie);
                let client = move |it: &Try<'_>| {
                    let client = it.cpg()?;
                    it.tell();
                    way(it, client)
                };
                let name = format!("{lie_name}, taken by {way_name}");
                // Polling is work.
                let case = Case::new(name, transport, script, client, end);
                cases.push(if polls { case.busy() } else { case });
            }
        }
    }
    // A dispatch of one takes the event, whatever it is.
    both(
        cases,
        "an event of an unknown id, dispatched",
        || {
            Script::honest()
                .told_at("cpg", |conn| assert!(conn.event(&response(99, 77, &[1; 100]))))
        },
        |it| {
            let client = it.cpg()?;
            it.tell();
            let mut seen = None;
            client.dispatch(Dispatch::One, |event| {
                seen = Some(event);
                Continue(())
            })?;
            let Some(Event::Unknown(unknown)) = seen else { panic!("{seen:?}") };
            assert_eq!((unknown.id, unknown.message.len()), (99, 124));
            Ok(())
        },
        "ok",
    );
}

/// A notification of a tracker.
fn notification(tracker: u64) -> Vec<u8> {
    let mut message = event("cmap", 9);
    put_u64(&mut message, 24, tracker);
    set_key(&mut message, 32, "test.key");
    put_i32(&mut message, 296, 2);
    message
}

/// Notifications of trackers that are not there, and lists that come without being asked for.
fn trackers(cases: &mut Vec<Case>) {
    both(
        cases,
        "notifications without a tracker",
        || {
            Script::honest().told_at("cmap", |conn| {
                for tracker in [0, 1, 2, u64::MAX] {
                    conn.event_when_it_fits(&notification(tracker));
                }
            })
        },
        |it| {
            let client = it.cmap()?;
            it.tell();
            assert_eq!(client.next_event(it.timeout())?, None);
            Ok(())
        },
        "ok",
    );
    both(
        cases,
        "notifications of a tracker that was deleted",
        || {
            Script::honest().told_at("cmap", |conn| {
                conn.event_when_it_fits(&notification(1));
            })
        },
        |it| {
            let client = it.cmap()?;
            let tracker = client.track_add("test.key", TrackEvents::ALL)?;
            it.tell();
            let event = client.next_event(it.timeout())?;
            let Some(cmap::Event::Notification(notification)) = event else { panic!("{event:?}") };
            assert_eq!(notification.tracker, tracker);
            client.track_delete(tracker)?;
            it.tell();
            assert_eq!(client.next_event(it.timeout())?, None);
            Ok(())
        },
        "ok",
    );
    both(
        cases,
        "a tracked key of every event and type",
        || {
            Script::honest().told_at("cmap", |conn| {
                for number in 0..200_i32 {
                    let mut message = notification(1);
                    put_i32(&mut message, 296, number << 24 | number);
                    (message[304], message[312]) = (number as u8, 255 - number as u8);
                    conn.event_when_it_fits(&message);
                }
            })
        },
        |it| {
            let client = it.cmap()?;
            client.track_add("test.key", TrackEvents::ALL)?;
            let lair = it.lair;
            std::thread::scope(|scope| {
                let telling = scope.spawn(|| lair.tell());
                for _ in 0..200 {
                    assert!(client.next_event(Duration::from_secs(30))?.is_some());
                }
                telling.join().unwrap();
                it.start();
                Ok(())
            })
        },
        "ok",
    );
    // The lists of the present state, which belong to a quorum notification that never comes.
    let client = |it: &Try<'_>| {
        let options = quorum::Options::new().model(quorum::Model::V1);
        let client = it.connected(|endpoint| quorum::Client::connect_with(&endpoint, options))?;
        client.track_start(corosync_ipc::TrackFlags::CURRENT)?;
        it.tell();
        let mut count = 0;
        while client.next_event(it.timeout() / 4)?.is_some() {
            count += 1;
        }
        assert_eq!(count, 99);
        Ok(())
    };
    let script = || {
        Script::honest().told_at("quorum", |conn| {
            (0..100).for_each(|_| conn.event_when_it_fits(&event("quorum", 7)));
        })
    };
    both(cases, "lists of nodes without a notification", script, client, "ok");
}

/// A fragment of a message.
fn fragment(pid: i32, kind: i32, total: i32, length: i32, payload: usize) -> Vec<u8> {
    let mut message = event("cpg", 17);
    set_group(&mut message, 24, "group");
    for (offset, value) in [(160, total), (168, length), (176, 1), (184, pid), (192, kind)] {
        put_i32(&mut message, offset, value);
    }
    message.resize(message.len() + payload, pid as u8);
    message
}

const FIRST: i32 = 1;
const CONTINUED: i32 = 2;
const LAST: i32 = 3;

/// Fragments that do not fit together.
fn fragments(cases: &mut Vec<Case>) {
    /// What a client gets.
    fn outcomes(it: &Try<'_>, client: &cpg::Client) -> Result<Vec<String>, Error> {
        let mut found = Vec::new();
        while let Some(event) = client.next_event(it.timeout() / 4)? {
            found.push(match event {
                Event::Deliver(message) => format!("{} bytes", message.payload.len()),
                Event::Discarded(Discarded { reason: Discard::Malformed, .. }) => "bad".to_owned(),
                Event::Discarded(Discarded { reason: Discard::TooLong, .. }) => "long".to_owned(),
                event => panic!("{event:?}"),
            });
        }
        Ok(found)
    }
    /// The pid, kind, total, length and number of bytes of each fragment.
    type Pieces = &'static [(i32, i32, i32, i32, usize)];
    let rows: [(&str, Pieces, &str, &str); 22] = [
        ("a message", &[(1, FIRST, 6, 3, 3), (1, LAST, 6, 3, 3)], "6 bytes", "ok"),
        ("a last one alone", &[(1, LAST, 6, 3, 3)], "", "ok"),
        ("one in the middle alone", &[(1, CONTINUED, 6, 3, 3)], "", "ok"),
        ("no kind", &[(1, 0, 6, 3, 3)], "", "ok"),
        ("an unknown kind", &[(1, FIRST, 6, 3, 3), (1, 77, 6, 3, 3)], "bad", "ok"),
        ("a negative kind", &[(1, FIRST, 6, 3, 3), (1, -1, 6, 3, 3)], "bad", "ok"),
        ("too little", &[(1, FIRST, 6, 3, 3), (1, LAST, 6, 2, 2)], "bad", "ok"),
        ("too much at last", &[(1, FIRST, 6, 3, 3), (1, LAST, 6, 4, 4)], "bad", "ok"),
        ("too much at first", &[(1, FIRST, 2, 3, 3), (1, LAST, 2, 0, 0)], "bad", "ok"),
        ("too much in between", &[(1, FIRST, 4, 3, 3), (1, CONTINUED, 4, 3, 3)], "bad", "ok"),
        ("another total later", &[(1, FIRST, 6, 3, 3), (1, LAST, 99, 3, 3)], "6 bytes", "ok"),
        ("nothing at all", &[(1, FIRST, 0, 0, 0), (1, LAST, 0, 0, 0)], "0 bytes", "ok"),
        ("a total of 2^32 - 1", &[(1, FIRST, -1, 3, 3), (1, LAST, -1, 3, 3)], "long", "ok"),
        ("a total of 2^31", &[(1, FIRST, i32::MIN, 3, 3)], "long", "ok"),
        (
            "two firsts",
            &[(1, FIRST, 9, 3, 3), (1, FIRST, 6, 3, 3), (1, LAST, 6, 3, 3)],
            "6 bytes",
            "ok",
        ),
        (
            "two senders",
            &[(1, FIRST, 6, 3, 3), (2, FIRST, 4, 2, 2), (1, LAST, 6, 3, 3), (2, LAST, 4, 2, 2)],
            "6 bytes, 4 bytes",
            "ok",
        ),
        (
            "the end of another sender",
            &[(1, FIRST, 6, 3, 3), (2, LAST, 6, 3, 3), (1, LAST, 6, 3, 3)],
            "6 bytes",
            "ok",
        ),
        (
            "a last one twice",
            &[(1, FIRST, 6, 3, 3), (1, LAST, 6, 3, 3), (1, LAST, 6, 3, 3)],
            "6 bytes",
            "ok",
        ),
        ("a longer length than bytes", &[(1, FIRST, 60, 30, 3)], "", "protocol: "),
        ("a length of 2^32 - 1", &[(1, FIRST, 6, -1, 3)], "", "protocol: "),
        ("a length of 2^31", &[(1, FIRST, 6, i32::MIN, 3)], "", "protocol: "),
        (
            "more bytes than the length",
            &[(1, FIRST, 6, 3, 50), (1, LAST, 6, 3, 50)],
            "6 bytes",
            "ok",
        ),
    ];
    for (what, pieces, expected, end) in rows {
        for transport in TRANSPORTS {
            let script = Script::honest().told_at("cpg", move |conn| {
                for &(pid, kind, total, length, payload) in pieces {
                    assert!(conn.event(&fragment(pid, kind, total, length, payload)));
                }
            });
            let client = move |it: &Try<'_>| {
                let client = it.cpg()?;
                it.tell();
                assert_eq!(outcomes(it, &client)?.join(", "), expected);
                Ok(())
            };
            let name = format!("fragments: {what}");
            cases.push(Case::new(name, transport, script, client, end));
        }
    }
    // Messages that never end take no more than the limit.
    type Endless = fn(i32) -> Vec<u8>;
    let endless: [(&str, Endless); 4] = [
        ("one message", |n| {
            fragment(1, if n == 0 { FIRST } else { CONTINUED }, 1 << 30, 9000, 9000)
        }),
        ("first fragments", |_| fragment(1, FIRST, 1 << 19, 9000, 9000)),
        ("first fragments of many senders", |n| fragment(n, FIRST, 1 << 19, 9000, 9000)),
        ("first fragments without bytes", |n| fragment(n, FIRST, 1 << 19, 0, 0)),
    ];
    for (what, piece) in endless {
        for transport in TRANSPORTS {
            let script = Script::honest().told_at("cpg", move |conn| {
                conn.lair.has_done();
                let mut number = 0;
                while !conn.lair.is_over() && conn.is_open() {
                    conn.event_when_it_fits(&piece(number));
                    number += 1;
                }
            });
            let client = |it: &Try<'_>| {
                let options = cpg::Options::new().reassembly_limit(1 << 20);
                let client =
                    it.connected(|endpoint| cpg::Client::connect_with(&endpoint, options))?;
                it.tell();
                it.for_a_while(|| client.next_event(it.timeout() / 8).map(drop))
            };
            let name = format!("fragments without end: {what}");
            let case = Case::new(name, transport, script, client, "ok").busy().periods(2);
            // As much again while a message is enlarged.
            cases.push(case.peak(4 << 20));
        }
    }
}

/// More events than anybody can take.
fn floods(cases: &mut Vec<Case>) {
    type Flood = fn() -> Vec<u8>;
    let floods: [(&str, Flood); 4] = [
        ("unknown events", || response(99, OK, &[])),
        ("large events", || response(99, OK, &[7; 12_000])),
        ("messages", || event("cpg", 5)),
        ("fragments of nothing", || fragment(1, CONTINUED, 6, 3, 3)),
    ];
    type Client = fn(&Try<'_>, &cpg::Client) -> Result<(), Error>;
    let clients: [(&str, Client); 4] = [
        ("taken one by one", |it, client| {
            it.for_a_while(|| client.next_event(it.timeout() / 8).map(drop))
        }),
        ("dispatched", |it, client| {
            it.for_a_while(|| client.dispatch(Dispatch::All, |_| Break(())))
        }),
        ("beside requests", |it, client| {
            it.for_a_while(|| client.local_node_id().map(drop))?;
            client.next_event(it.timeout() / 8).map(drop)
        }),
        ("not taken", |it, client| it.for_a_while(|| client.local_node_id().map(drop))),
    ];
    for (what, flood) in floods {
        for (how, client) in clients {
            for transport in TRANSPORTS {
                let script = Script::honest().told_at("cpg", move |conn| {
                    conn.lair.has_done();
                    let message = flood();
                    while !conn.lair.is_over() {
                        while conn.event(&message) {}
                        while let Some(request) = conn.next_request() {
                            conn.answer_honestly(&request);
                        }
                        if conn.setup.is_none() {
                            break;
                        }
                        std::thread::sleep(Duration::from_micros(50));
                    }
                });
                let call = move |it: &Try<'_>| {
                    let cpg = it.cpg()?;
                    it.tell();
                    client(it, &cpg)
                };
                let name = format!("a flood of {what} that are {how}");
                cases.push(Case::new(name, transport, script, call, "ok").busy().periods(2));
            }
        }
    }
}

/// Bytes on the setup socket that announce nothing.
fn wake_bytes(cases: &mut Vec<Case>) {
    let client = |it: &Try<'_>| {
        let client = it.cpg()?;
        it.tell();
        client.next_event(it.timeout() * 4).map(drop)
    };
    for transport in TRANSPORTS {
        let flood = || {
            Script::honest().told_at("cpg", |conn| {
                conn.lair.has_done();
                while !conn.lair.is_over() {
                    if conn.setup().write(&[0; 64]).is_err() {
                        std::thread::sleep(Duration::from_micros(100));
                    }
                }
            })
        };
        for (how, way) in WAYS {
            let client = move |it: &Try<'_>| {
                let client = it.cpg()?;
                it.tell();
                way(it, client)
            };
            let name = format!("a flood of wake bytes, with {how}");
            let end = "protocol: more than 1024 wake bytes without an event";
            let case = Case::new(name, transport, flood(), client, end);
            cases.push(case.busy().periods(200));
        }
        // So few that each one could keep the client busy until the next.
        for (how, way) in WAYS {
            let script = Script::honest().told_at("cpg", |conn| {
                conn.lair.has_done();
                for _ in 0..900 {
                    conn.send_setup(&[0]);
                    std::thread::sleep(Duration::from_micros(500));
                }
                conn.close();
            });
            let client = move |it: &Try<'_>| {
                let client = it.cpg()?;
                it.tell();
                way(it, client)
            };
            let name = format!("a wake byte now and then, with {how}");
            cases.push(Case::new(name, transport, script, client, "gone").periods(8));
        }
        // Requests do not look at them.
        let request = |it: &Try<'_>| {
            let client = it.cpg()?;
            it.tell();
            client.local_node_id().map(drop)
        };
        let name = "a flood of wake bytes during a request";
        cases.push(Case::new(name, transport, flood(), request, "timed out"));
        let one = Script::honest().told_at("cpg", |conn| conn.send_setup(&[7]));
        cases.push(
            Case::new("a wake byte without an event", transport, one, client, "ok").periods(4),
        );
        let few = Script::honest().told_at("cpg", |conn| conn.send_setup(&[7; 100]));
        let case = Case::new("100 wake bytes without events", transport, few, client, "ok");
        cases.push(case.periods(4).busy());
        // Out of band, which no read finds.
        let urgent = Script::honest().told_at("cpg", |conn| {
            let sent = send(conn.setup().as_raw_fd(), b"u", MsgFlags::MSG_OOB);
            assert!(sent.is_ok() || sent == Err(nix::errno::Errno::EOPNOTSUPP), "{sent:?}");
        });
        let name = "a byte out of band";
        cases.push(Case::new(name, transport, urgent, client, "ok").periods(4));
        let urgent = Script::honest().told_at("cpg", |conn| {
            for _ in 0..3 {
                conn.send_setup(&[0; 2]);
                let _ = send(conn.setup().as_raw_fd(), b"u", MsgFlags::MSG_OOB);
            }
        });
        let name = "bytes in and out of band";
        cases.push(Case::new(name, transport, urgent, client, "ok").periods(4));
        let carrying = Script::honest().told_at("cpg", |conn| {
            (0..5).for_each(|_| send_with_descriptors(conn.setup(), &[0], 50));
        });
        let name = "wake bytes with descriptors";
        cases.push(Case::new(name, transport, carrying, client, "ok").periods(4));
        let half = Script::honest().told_at("cpg", |conn| {
            conn.setup().shutdown(Shutdown::Read).unwrap();
        });
        let name = "a daemon that reads no more";
        cases.push(Case::new(name, transport, half, client, "ok | gone").periods(4));
    }
    // An event of which the byte never comes is there all the same when somebody looks.
    let quiet = Script::honest().told_at("cpg", |conn| {
        assert!(conn.send(2, &response(99, OK, &[])));
    });
    let look = |it: &Try<'_>| {
        let client = it.cpg()?;
        it.tell();
        assert!(client.poll_event()?.is_some());
        Ok(())
    };
    cases.push(Case::new("an event without a byte", Transport::Rings, quiet, look, "ok"));
}

/// What only datagrams can be.
fn datagrams(cases: &mut Vec<Case>) {
    for (what, channel) in [("an answer", 1), ("an event", 2)] {
        for (length, end) in [
            (0, "protocol: "),
            (16 << 10, "ok | protocol: "),
            ((16 << 10) + 1, "protocol: a datagram of the"),
            (100_000, "protocol: a datagram of the"),
        ] {
            let script = Script::honest().requested(move |conn, _, _| {
                let mut message = response(99, OK, &[]);
                message.resize(length, 0);
                conn.send(channel, &message);
                if channel == 2 {
                    conn.answer(&response(7, OK, &[0; 8]));
                }
            });
            let client = |it: &Try<'_>| {
                let client = it.cpg()?;
                client.local_node_id()?;
                client.next_event(it.timeout() / 4).map(drop)
            };
            let name = format!("{what} of {length} bytes");
            cases.push(Case::new(name, Transport::Datagrams, script, client, end));
        }
        let script = Script::honest().requested(move |conn, request, _| {
            let address =
                format!("{}{}", conn.sockets().base, ["-response", "-event"][channel - 1]);
            let address = testbed::raw::abstract_address(address.as_bytes()).unwrap();
            let own = [&conn.sockets().request, &conn.sockets().event][channel - 1];
            let before = own.try_clone().unwrap();
            // Connected, so that a message can be sent with descriptors.
            before.connect_addr(&address).unwrap();
            send_with_descriptors(&before, &response(99, OK, &[0; 8]), 50);
            if channel == 2 {
                conn.answer_honestly(request);
            }
        });
        let client = |it: &Try<'_>| {
            let client = it.cpg()?;
            client.local_node_id()?;
            client.next_event(it.timeout() / 4).map(drop)
        };
        let name = format!("{what} with descriptors");
        let end = "protocol: a message carries file descriptors";
        cases.push(Case::new(name, Transport::Datagrams, script, client, end));
    }
    // The words of the control file.
    for word in 0..6 {
        for value in [0, 1, 2, 10, 128, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let script = Script::honest().told_at("cpg", move |conn| {
                conn.sockets().control.as_ref().unwrap().set(word * 4, value);
            });
            let client = |it: &Try<'_>| {
                let client = it.cpg()?;
                it.tell();
                let _ = client.stats();
                client.local_node_id()?;
                client.next_event(it.timeout() / 4).map(drop)
            };
            // The word of flow control.
            let end = if (word, value) == (1, 1) { "timed out" } else { "ok" };
            let name = format!("word {word} of the control file becomes {value}");
            cases.push(Case::new(name, Transport::Datagrams, script, client, end));
        }
    }
    // Datagrams of others do not come through.
    let script = Script::honest().requested(|conn, request, _| {
        let stranger = std::os::unix::net::UnixDatagram::unbound().unwrap();
        for suffix in ["-response", "-event"] {
            let address = format!("{}{suffix}", conn.sockets().base);
            let address = testbed::raw::abstract_address(address.as_bytes()).unwrap();
            let sent = stranger.send_to_addr(&response(99, OK, &[0; 8]), &address);
            assert!(sent.is_err());
        }
        conn.answer_honestly(request);
    });
    let client = |it: &Try<'_>| {
        let client = it.cpg()?;
        client.local_node_id()?;
        assert_eq!(client.next_event(it.timeout() / 4)?, None);
        Ok(())
    };
    let name = "datagrams of a stranger";
    cases.push(Case::new(name, Transport::Datagrams, script, client, "ok"));
    // A client that takes any bytes takes those of any length that was agreed on.
    for length in [0, 1, 23, 24, 16 << 10] {
        let script = Script::honest().requested(move |conn, _, _| {
            assert!(conn.send(2, &vec![0; length]));
            assert!(conn.send(1, &vec![7; length]));
        });
        let client = move |it: &Try<'_>| {
            let client = it.test()?;
            assert_eq!(client.request(&request(7, b"what"))?, vec![7; length]);
            assert_eq!(client.next_event(it.timeout())?.unwrap(), vec![0; length]);
            Ok(())
        };
        let name = format!("an answer and an event of {length} bytes, whatever they are");
        cases.push(Case::new(name, Transport::Datagrams, script, client, "ok"));
    }
}

/// A daemon that dies in part, or does nothing any more: a request, an event, and requests without
/// answers.
fn halves(cases: &mut Vec<Case>) {
    type Act = fn(&mut Conn<'_>);
    let gone: Act = |conn| conn.channels = Channels::Nothing;
    let closed: Act = |conn| conn.close();
    let stopped: Act = |conn| {
        conn.lair.has_done();
        conn.lair.idle();
    };
    for transport in TRANSPORTS {
        let without_channels = if transport == Transport::Datagrams { "gone" } else { "timed out" };
        for (what, act, end) in [
            ("closes all but its setup socket", gone, without_channels),
            ("closes its setup socket only", closed, "gone"),
            ("stops", stopped, "timed out"),
        ] {
            for before in [true, false] {
                let client = move |it: &Try<'_>| {
                    let client = it.test()?;
                    if before {
                        client.request(&request(7, b"what"))?;
                    }
                    it.tell();
                    let begun = Instant::now();
                    let answer = client.request(&request(7, b"what")).map(drop);
                    let left = it.timeout().saturating_sub(begun.elapsed());
                    let event = client.next_event(left.max(it.timeout() / 10));
                    match (&answer, &event) {
                        (Err(Error::TimedOut { .. }), Ok(None)) => {}
                        (Err(Error::Disconnected { .. }), Err(Error::Disconnected { .. })) => {}
                        ends => panic!("{ends:?}"),
                    }
                    answer
                };
                let name = format!("a daemon that {what}, after a request: {before}");
                let script = Script::honest().told_at("test", act);
                cases.push(Case::new(name, transport, script, client, end));
            }
        }
        let script = Script::honest().told_at("test", stopped);
        let client = |it: &Try<'_>| {
            let client = it.test()?;
            it.tell();
            let sent = (0..100_000).take_while(|_| client.send(&request(7, b"what")).is_ok());
            let sent = sent.count();
            assert!((1..100_000).contains(&sent), "{sent}");
            client.send(&request(7, b"what"))
        };
        let name = "a daemon that takes no requests";
        let case = Case::new(name, transport, script, client, "timed out");
        cases.push(case.periods(2));
    }
    // It takes requests, but never the bytes that announce them.
    let script = Script::honest().connected(|conn| {
        conn.make();
        conn.greet();
        conn.is_deaf = true;
    });
    let client = |it: &Try<'_>| {
        let client = joined(it)?;
        let (mut sent, mut refused) = (0, 0);
        // Meanwhile the daemon frees space in the ring, but none in the socket.
        while refused < 200 {
            match client.try_multicast(Guarantee::AGREED, b"message") {
                Ok(()) => sent += 1,
                Err(Error::Cs { error: CsError::TryAgain, .. }) => {
                    refused += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error),
            }
        }
        assert!(sent > 32, "{sent}");
        it.start();
        let waited = client.multicast(Guarantee::AGREED, b"message");
        assert!(matches!(waited, Err(Error::TimedOut { .. })), "{waited:?}");
        client.local_node_id().map(drop)
    };
    let name = "a daemon that reads no wake bytes";
    let case = Case::new(name, Transport::Rings, script, client, "timed out");
    cases.push(case.periods(2));
}
