//! A client of the service in `own_service.rs`: watches its counter, raises it, and waits for the
//! event.
//!
//! `cargo run --example libqb_client -- counter` connects to `@counter`, or to the socket in
//! libqb's directory. A client of any other libqb service looks the same, with its own messages.

use std::error::Error;
use std::time::Duration;

use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::Client;

/// Raises the counter. The answer is the new value.
const RAISE: i32 = 0;
/// Watches the counter: from now on this client gets every new value.
const WATCH: i32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "counter".to_owned());
    let client = Client::connect(&name, 8192)?;
    for id in [WATCH, RAISE] {
        let request = Header { id, size: 0, error: 0 }.encode(Kind::Request, &[])?;
        println!("answer {id}: {}", value(&client.request(&request)?)?);
    }
    let event = client.next_event(Duration::from_secs(10))?.ok_or("no event came")?;
    println!("event: {}", value(&event)?);
    Ok(())
}

/// The value after the header, which is the same in answers and events.
fn value(message: &[u8]) -> Result<u64, Box<dyn Error>> {
    let (_, body) = Header::split(message, Kind::Response)?;
    Ok(u64::from_ne_bytes(body.try_into()?))
}
