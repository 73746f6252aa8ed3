//! A server of the library alone, with limits that a case chooses. It runs in a process of its own.

use std::env;
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use corosync_ipc::libqb::server::{
    Conn, Generation, Handler, Listener, Overflow, Peer, Refusal, Transport,
};
use corosync_ipc::{Endpoint, guard_against_truncation};
use testbed::NodeCommand;
use testbed::raw::{i32_at, put_i32, request, response};

use crate::stage::helper;

pub(crate) const SERVICE: &str = "echo";

/// Is answered by itself.
pub(crate) const ECHO: i32 = 1;
/// Is answered by itself after as many events of such a size as it says.
pub(crate) const EVENTS: i32 = 2;
/// Is not answered.
pub(crate) const SILENCE: i32 = 3;

/// The id of events.
pub(crate) const EVENT: i32 = 9;

/// Asks for events of this size.
pub(crate) fn events(count: i32, size: i32) -> Vec<u8> {
    let mut message = request(EVENTS, &[]);
    put_i32(&mut message, 16, count);
    put_i32(&mut message, 20, size);
    message
}

/// The server's process. Settings are `name=number`, with commas between them.
pub(crate) fn command(folder: &str, transport: Transport, settings: &str) -> NodeCommand {
    let transport = transport.to_string();
    let know = [("FOLDER", folder), ("TRANSPORT", &transport), ("SETTINGS", settings)];
    helper("echo::serves", &know).interactive()
}

struct Echo;

impl Handler for Echo {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        if request.len() < 16 {
            return conn.disconnect();
        }
        let id = i32_at(&request, 0);
        if id == EVENTS {
            let (count, size) = (i32_at(&request, 16), i32_at(&request, 20));
            let event = response(EVENT, 1, &vec![7; size as usize - 24]);
            let is_sent = |_: &i32| conn.send_event(&event).is_ok();
            (0..count).take_while(is_sent).for_each(drop);
        }
        if id != SILENCE {
            // The liar may be gone by now, or ask for more than its ring has room for.
            let _ = conn.reply(&response(id, 1, &request[16..]));
        }
    }
}

#[test]
#[ignore = "run by other tests, as a server"]
fn serves() {
    let know = |name| env::var(name).unwrap();
    guard_against_truncation().unwrap();
    let folder = know("FOLDER");
    let endpoint = Endpoint::new().socket_dir(&folder).shm_root(&folder);
    let transport = if know("TRANSPORT") == "socket" { Transport::Socket } else { Transport::Shm };
    let builder = Listener::<Echo>::builder().endpoint(&endpoint).transport(transport);
    let settings = know("SETTINGS");
    let settings = settings.split(',').filter_map(|it| it.split_once('='));
    let builder = settings.fold(builder, |builder, (name, value)| {
        let number: usize = value.parse().unwrap();
        match name {
            "max_connections" => builder.max_connections(number),
            "max_message_size" => builder.max_message_size(number as u32),
            "shared_memory" => builder.shared_memory(number as u64),
            "event_memory" => builder.event_memory(number),
            "event_queue" => builder.event_queue(number, Overflow::Disconnect),
            "drop_newest" => builder.event_queue(number, Overflow::DropNewest),
            "block" => {
                builder.event_queue(0, Overflow::Block(Duration::from_millis(number as u64)))
            }
            "libqb" => builder.generation(match number {
                10 => Generation::Libqb010,
                13 => Generation::Libqb013,
                14 => Generation::Libqb014,
                15 => Generation::Libqb015,
                _ => Generation::Libqb104,
            }),
            _ => panic!("no setting {name}"),
        }
    });
    let listener = builder.service(SERVICE).start(Echo).unwrap();
    println!("ready");
    // In good order, so that files which are left count.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(listener);
}
