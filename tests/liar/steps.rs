//! Daemons that stall, close, or close half of the socket at any step of any call.

use std::net::Shutdown;

use corosync_ipc::Error;
use testbed::raw::i32_at;

use crate::calls::{Call, calls};
use crate::case::{Case, Try};
use crate::daemon::{Conn, Script, TRANSPORTS, Transport};

/// What a daemon does instead of an answer.
type Act = fn(&mut Conn<'_>);

pub(crate) fn cases(services: &[&str]) -> Vec<Case> {
    let mut cases = Vec::new();
    for transport in TRANSPORTS {
        for call in services.iter().flat_map(|service| calls(service)) {
            let call = call.over(transport);
            cases.push(honest(&call, transport));
            for step in 0..call.requests {
                let closes: Act = |conn| conn.close();
                let is_awaited = call.unawaited != Some(step);
                let end = |end| match (is_awaited, call.name) {
                    (false, _) => "ok",
                    (true, "cpg multicast in fragments") if step > 0 => "partly sent",
                    (true, _) => end,
                };
                let stalls: Act = |_| {};
                let stalled = at(&call, transport, step, "stalls", stalls, end("timed out"));
                // The connection of a registration is kept: corosync may answer into it later.
                let is_kept = call.name.ends_with("_register") && step == 1;
                cases.push(if is_kept { stalled.keeps() } else { stalled });
                cases.push(at(&call, transport, step, "closes", closes, end("gone")));
            }
            let half: Act = |conn| conn.setup().shutdown(Shutdown::Write).unwrap();
            let end = if call.unawaited == Some(0) { "ok" } else { "gone | timed out" };
            cases.push(at(&call, transport, 0, "closes half", half, end));
        }
    }
    cases
}

/// Registrations that are never answered, until the daemon ends.
pub(crate) fn registrations() -> Vec<Case> {
    let case = |transport| {
        let script = Script::honest()
            .requested(|conn, request, _| {
                // The registration.
                if (conn.service, i32_at(request, 0)) != ("votequorum", 5) {
                    conn.answer_honestly(request);
                }
            })
            .told(|conns| conns.iter_mut().for_each(Conn::close));
        let client = |it: &Try<'_>| {
            let client = it.votequorum()?;
            for _ in 0..2 {
                let registered = client.qdevice_register("device");
                assert!(matches!(registered, Err(Error::TimedOut { .. })), "{registered:?}");
            }
            it.tell();
            client.local_info().map(drop)
        };
        let name = "registrations without an answer by a daemon that ends";
        Case::new(name, transport, script, client, "gone")
    };
    TRANSPORTS.map(case).into()
}

/// The call as it should be.
fn honest(call: &Call, transport: Transport) -> Case {
    let (run, requests) = (call.run, call.before + call.requests);
    let name = format!("{}: honest", call.name);
    let client = move |it: &Try<'_>| {
        let result = run(it);
        it.wait_until(|| it.lair.requests() == requests);
        result
    };
    Case::new(name, transport, Script::honest(), client, "ok")
}

fn at(
    call: &Call,
    transport: Transport,
    step: usize,
    what: &str,
    act: Act,
    end: &'static str,
) -> Case {
    let number = call.before + step;
    let script = Script::honest().requested(move |conn, request, requests| {
        if requests < number {
            conn.answer_honestly(request);
        } else if requests == number {
            act(conn);
        }
    });
    Case::new(format!("{}: {what} at request {step}", call.name), transport, script, call.run, end)
}
