//! Clients of datagrams that end before their daemon lets go.

use std::fs;
use std::thread;
use std::time::Duration;

use super::{private_endpoint, send_reply, set_up};
use crate::codec::{Header, Kind};
use crate::error::Error;
use crate::libqb::Client;
use crate::libqb::server::{Generation, Transport};
use crate::sys::wait::{Interest, wait_for};
use crate::sys::{serve, socket};

const SIZE: u32 = 8192;

fn request() -> Vec<u8> {
    Header { id: 7, size: 0, error: 0 }.encode(Kind::Request, b"what").unwrap()
}

fn answer() -> Vec<u8> {
    Header { id: 7, size: 0, error: 1 }.encode(Kind::Response, b"this").unwrap()
}

/// Whether somebody has a socket of this name.
fn is_bound(name: &str) -> bool {
    fs::read_to_string("/proc/net/unix").unwrap().contains(name)
}

#[test]
fn a_client_that_gave_up_is_there_until_the_daemon_let_go() {
    let generations = [Generation::Libqb104, Generation::Libqb015];
    for (generation, is_finalized) in
        generations.into_iter().flat_map(|it| [(it, false), (it, true)])
    {
        let (endpoint, directory) = private_endpoint();
        let address = endpoint.socket_address("cpg").path().unwrap().to_owned();
        let listener = serve::listen_stream(&socket::path_address(&address).unwrap()).unwrap();
        let root = directory.path().to_owned();
        let connect = || {
            thread::scope(|scope| {
                let daemon = scope.spawn(|| {
                    wait_for(&listener, Interest::Readable, None).unwrap();
                    let client = serve::accept_stream(&listener).unwrap();
                    let made = set_up(&client, &root, Transport::Socket, generation);
                    send_reply(&client, &made.1);
                    (client, made)
                });
                let client = Client::connect_to(&endpoint, "cpg", SIZE).unwrap();
                client.set_request_timeout(Duration::from_millis(20));
                (client, daemon.join().unwrap())
            })
        };
        let (client, (setup, (mut rings, reply))) = connect();
        let base = String::from_utf8(reply.response.to_vec()).unwrap();
        let own = format!("{base}-response");
        let late = client.request(&request());
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
        if is_finalized {
            client.finalize();
        }
        drop(client);
        // What the daemon says now reaches somebody.
        assert!(is_bound(&own));
        assert!(rings.response.try_send(&[&answer()]).unwrap());
        assert!(rings.event.try_send(&[&answer()]).unwrap());
        drop((setup, rings));
        // The next one may have the same names.
        let (client, (setup, (mut rings, reply))) = connect();
        assert_eq!(generation == Generation::Libqb015, reply.response == base);
        assert_eq!(generation == Generation::Libqb015, is_bound(&own));
        assert!(rings.response.try_send(&[&answer()]).unwrap());
        let late = client.request(&request());
        assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
        drop((setup, rings));
        drop(client);
        assert!(!is_bound(&own));
    }
}
