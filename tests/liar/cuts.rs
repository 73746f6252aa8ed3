//! Files that the daemon cuts short before, during and between calls. Whatever is cut, calls end the
//! connection and no process dies.

use std::fs::OpenOptions;
use std::ops::ControlFlow::Continue;

use corosync_ipc::{Dispatch, Error};
use testbed::raw::response;

use crate::calls::{Call, calls};
use crate::case::{Case, Try};
use crate::daemon::{Channels, Conn, Script, Transport};
use crate::honest::OK;

/// What is left of a file.
const CUTS: [u64; 3] = [0, 1, 4096];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for service in ["cmap", "cpg", "quorum", "votequorum", "cfg", "evs", "test"] {
        let calls = calls(service);
        // One request, to the service itself.
        let call = calls.iter().find(|call| call.requests == 1 && call.before <= 1).unwrap();
        if !call.name.ends_with("connect") {
            requests(&mut cases, call);
        }
    }
    let quorum = calls("quorum");
    let is_quorate = quorum.iter().find(|call| call.name == "quorum is_quorate").unwrap();
    requests(&mut cases, is_quorate);
    events(&mut cases);
    cases
}

fn cut(conn: &Conn<'_>, ring: usize, part: usize, length: u64) {
    let path = match conn.lair.transport {
        Transport::Rings => conn.rings()[ring].files()[part].clone(),
        Transport::Datagrams => conn.directory.join(format!("qb-control-{}", conn.service)),
    };
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

/// Forgets what is mapped: the daemon would die of what is missing.
fn forget(conn: &mut Conn<'_>) {
    match &mut conn.channels {
        Channels::Datagrams(sockets) => sockets.control = None,
        channels => *channels = Channels::Nothing,
    }
}

/// A call during which files are cut.
fn requests(cases: &mut Vec<Case>, call: &Call) {
    let (run, before) = (call.run, call.before);
    for (ring, part) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        for length in CUTS {
            let ring_name = ["request", "response", "event"][ring];
            let name = format!(
                "{}: {ring_name} {} is cut to {length} when the request is there",
                call.name,
                ["header", "data"][part]
            );
            let script = Script::honest().requested(move |conn, request, number| {
                if number < before {
                    return conn.answer_honestly(request);
                }
                if part == 1 {
                    // What lies behind the cut is there before it.
                    conn.rings()[ring].header.set(4, 0);
                }
                cut(conn, ring, part, length);
                if (ring, part) == (1, 1) {
                    // An answer is announced that is not there any more.
                    conn.rings()[1].post();
                }
                forget(conn);
            });
            // The client looks at its semaphore while it waits, and at nothing else.
            let end = match (ring, part, length) {
                (1, 0, _) | (1, 1, 0) => "cut: response",
                (1, 1, _) => "protocol: invalid chunk magic",
                (0, 0, 0) => "timed out | cut: request",
                _ => "timed out | cut: request | cut: event",
            };
            cases.push(Case::new(name, Transport::Rings, script, run, end));
        }
    }
    let name = format!("{}: the control file is cut when the request is there", call.name);
    let script = Script::honest().requested(move |conn, request, number| {
        if number < before {
            return conn.answer_honestly(request);
        }
        let answer = crate::honest::answer(conn, request).unwrap();
        cut(conn, 0, 0, 0);
        forget(conn);
        conn.send(1, &answer);
    });
    cases.push(Case::new(name, Transport::Datagrams, script, run, "cut: control"));
}

/// How a client takes events.
type Take = fn(&Try<'_>, &corosync_ipc::cpg::Client) -> Result<(), Error>;

const TAKES: [(&str, Take); 5] = [
    ("poll_event", |_, client| client.poll_event().map(drop)),
    ("next_event", |it, client| client.next_event(it.timeout()).map(drop)),
    ("events", |_, client| client.events().try_for_each(|event| event.map(drop))),
    ("dispatch", |_, client| client.dispatch(Dispatch::Blocking, |_| Continue(()))),
    ("request", |_, client| client.local_node_id().map(drop)),
];

/// Files that are cut between two calls, with an event and an answer in them.
fn events(cases: &mut Vec<Case>) {
    for (what, take) in TAKES {
        for (ring, part) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
            for length in CUTS {
                let ring_name = ["request", "response", "event"][ring];
                let part_name = ["header", "data"][part];
                let name = format!("{ring_name} {part_name} is cut to {length} before {what}");
                let script = Script::honest().told_at("cpg", move |conn| {
                    // An event that goes on where a cut leaves nothing.
                    conn.event(&response(99, OK, &[1; 9000]));
                    conn.answer(&response(99, OK, &[1; 9000]));
                    cut(conn, ring, part, length);
                    forget(conn);
                });
                let client = move |it: &Try<'_>| {
                    let client = it.cpg()?;
                    client.local_node_id()?;
                    it.tell();
                    take(it, &client)
                };
                let is_request = what == "request";
                let end = match (is_request, ring, part) {
                    (true, 0, 0) => "cut: request",
                    // The chunk fits in what is left.
                    (true, 0, 1) if length > 0 => "timed out",
                    (true, 0, 1) => "cut: request",
                    (true, 1, 0) => "cut: response",
                    (true, 1, 1) => "cut: response | protocol",
                    (false, 2, 0) => "cut: event",
                    (false, 2, 1) => "cut: event | protocol",
                    _ => "timed out | ok",
                };
                // What waits for ever is told to wait no longer.
                let waits = matches!(what, "events" | "dispatch") && ring != 2;
                if !waits {
                    cases.push(Case::new(name, Transport::Rings, script, client, end));
                }
            }
        }
        let script = Script::honest().told_at("cpg", |conn| {
            cut(conn, 0, 0, 0);
            forget(conn);
            conn.send(2, &response(99, OK, &[]));
        });
        let client = move |it: &Try<'_>| {
            let client = it.cpg()?;
            client.local_node_id()?;
            it.tell();
            take(it, &client)
        };
        let name = format!("the control file is cut before {what}");
        cases.push(Case::new(name, Transport::Datagrams, script, client, "cut: control"));
    }
}
