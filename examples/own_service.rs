//! A libqb service of one's own: a counter that every client may raise. Clients that watch it get
//! each new value as an event.
//!
//! `cargo run --example own_service -- counter` listens at the abstract address `@counter`, or in
//! libqb's socket directory on machines that force filesystem sockets. C programs connect with
//! `qb_ipcc_connect("counter", 8192)` and send a `struct qb_ipc_request_header` with one of the ids
//! below.

use std::error::Error;

use bytes::Bytes;
use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::server::{Conn, Connections, Handler, Listener, Peer, Refusal};

/// Raises the counter. The answer is the new value.
const RAISE: i32 = 0;
/// Watches the counter: from now on this client gets every new value.
const WATCH: i32 = 1;

/// Id of the events.
const CHANGED: i32 = 2;

struct Counter {
    value: u64,
}

/// The server's state of one client.
struct Session {
    watches: bool,
}

impl Handler for Counter {
    type Session = Session;

    fn authorize(&mut self, peer: &Peer<'_>) -> Result<Session, Refusal> {
        println!("process {} of user {} connects", peer.credentials.pid, peer.credentials.uid);
        Ok(Session { watches: false })
    }

    fn on_request(&mut self, conn: &mut Conn<'_, Session>, request: Bytes) {
        let id = Header::split(&request, Kind::Request).map(|(header, _)| header.id);
        match id {
            Ok(RAISE) => {
                self.value += 1;
                self.tell_watchers(conn.connections());
            }
            Ok(WATCH) => conn.session().watches = true,
            // Another id: this client speaks another protocol.
            _ => return conn.disconnect(),
        }
        if conn.reply(&message(Kind::Response, id.unwrap_or_default(), self.value)).is_err() {
            conn.disconnect();
        }
    }
}

impl Counter {
    fn tell_watchers(&self, connections: &mut Connections<Session>) {
        let event = message(Kind::Event, CHANGED, self.value);
        let watching: Vec<_> = connections
            .sessions()
            .filter(|(_, session)| session.watches)
            .map(|(id, _)| id)
            .collect();
        for id in watching {
            if let Some(mut conn) = connections.get(id) {
                // A client that does not read is disconnected when its queue is full: see
                // `Builder::event_queue`.
                let _ = conn.send_event(&event);
            }
        }
    }
}

/// A `struct qb_ipc_response_header` and the value. `encode` fills in the size.
fn message(kind: Kind, id: i32, value: u64) -> Vec<u8> {
    let header = Header { id, size: 0, error: 0 };
    header.encode(kind, &value.to_ne_bytes()).expect("a short message")
}

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "counter".to_owned());
    let listener = Listener::<Counter>::builder().service(&name).start(Counter { value: 0 })?;
    println!("listening as {name}; Enter ends");
    std::io::stdin().read_line(&mut String::new())?;
    let value = listener.stop().map_err(|_| "the service panicked")?.value;
    println!("the counter was {value}");
    Ok(())
}
