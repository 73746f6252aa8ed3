//! A client of the service in `own_service.rs`: raises its counter and waits to be told.
//!
//! `cargo run --example libqb_client -- counter` connects to `@counter` (or where libqb is told to
//! look for sockets). Any libqb service is spoken to in this way, whatever its messages are.

use std::error::Error;
use std::time::Duration;

use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::Client;

/// Raises the counter; the answer is its new value.
const RAISE: i32 = 0;
/// From now on this client is told every new value.
const WATCH: i32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "counter".to_owned());
    let client = Client::connect(&name, 8192)?;
    for id in [WATCH, RAISE] {
        let request = Header { id, size: 0, error: 0 }.encode(Kind::Request, &[])?;
        println!("answer {id}: {}", value(&client.request(&request)?)?);
    }
    let event = client.next_event(Duration::from_secs(10))?.ok_or("nobody was told")?;
    println!("event: {}", value(&event)?);
    Ok(())
}

/// What stands behind the header.
fn value(message: &[u8]) -> Result<u64, Box<dyn Error>> {
    let (_, body) = Header::split(message, Kind::Response)?;
    Ok(u64::from_ne_bytes(body.try_into()?))
}
