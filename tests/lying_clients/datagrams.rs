//! Lies of clients whose messages are datagrams.

use std::env;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::str;

use testbed::raw::{CONTROL, Shared, abstract_address, bind_datagram, request};
use testbed::{Random, eventually, is_fd_readable_within, patiently, skip_because};

use crate::liar::{INVALID, Liar, OK, Racing, send_with, set, track};
use crate::stage::{Case, DATAGRAMS, Served, Stage, case, helper, is_root};

fn liar(stage: &Stage) -> Liar {
    stage.connect("cmap")
}

fn blind(stage: &Stage) -> Liar {
    Liar::blind(stage, "cmap", 65536)
}

fn address(liar: &Liar, suffix: &str) -> SocketAddr {
    abstract_address(format!("{}-{suffix}", liar.base()).as_bytes()).unwrap()
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let mut cases = vec![
        case("counts of any number", DATAGRAMS, |stage| {
            let liar = liar(stage);
            for value in [1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
                (0..CONTROL).step_by(4).for_each(|at| liar.datagrams().0.set(at, value));
                liar.works();
            }
            stage.hold(liar);
        }),
        case("counts that change all the time", DATAGRAMS, |stage| {
            let liar = liar(stage);
            let control = File::options().read(true).write(true).open(&liar.files()[0]).unwrap();
            let control = Shared::map(&control, CONTROL).unwrap();
            let mut random = Random::new(5);
            let racing = Racing::start(move || {
                control.set(random.below(6) as usize * 4, random.word() as u32);
            });
            (0..50).for_each(|_| _ = liar.works());
            drop(racing);
            stage.hold(liar);
        }),
        case("a datagram that is longer than agreed", DATAGRAMS, |stage| {
            for more in [1, 1000, 100_000] {
                let liar = liar(stage);
                liar.send(&request(2, &vec![0; 65536 - 16 + more])).cut();
            }
        }),
        case("an empty datagram", DATAGRAMS, |stage| liar(stage).send(&[]).cut()),
        case("a request with the id of an old good-bye", DATAGRAMS, |stage| {
            liar(stage).send(&request(-3, &[])).cut();
        }),
        case("descriptors with requests", DATAGRAMS, |stage| {
            let liar = liar(stage);
            let (mut read, write) = UnixStream::pair().unwrap();
            for count in [1, 2, 253] {
                let descriptors = vec![write.as_raw_fd(); count];
                send_with(liar.datagrams().1, &request(99, &[]), &descriptors);
            }
            drop(write);
            patiently(|limit| is_fd_readable_within(&read, limit).then_some(())).unwrap();
            assert_eq!(read.read(&mut [0]).unwrap(), 0);
            // They are taken no notice of, for nobody knows who sent them.
            liar.works();
            stage.hold(liar);
        }),
        case("a request from another socket of the user", DATAGRAMS, |stage| {
            let liar = liar(stage);
            liar.send_blindly(&request(99, &[]));
            liar.answers(0, INVALID);
            // Now the server's socket is connected.
            let elsewhere = UnixDatagram::unbound().unwrap();
            elsewhere.send_to_addr(&request(99, &[]), &address(&liar, "request")).unwrap_err();
            liar.works();
            stage.hold(liar);
        }),
        case("requests to the server's socket for events", DATAGRAMS, |stage| {
            let liar = liar(stage);
            let sender = UnixDatagram::unbound().unwrap();
            sender.set_nonblocking(true).unwrap();
            while sender.send_to_addr(&[7; 100], &address(&liar, "event-tx")).is_ok() {}
            liar.works();
            liar.send(&track("lie.")).answers(7, OK);
            liar.send(&set("lie.key", b"value")).answers(0, OK);
            liar.next_event();
            stage.hold(liar);
        }),
        case("a request and no socket for the answer", DATAGRAMS, |stage| {
            let liar = blind(stage);
            liar.send_blindly(&request(99, &[]));
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("a hundred requests and no socket for the answers", DATAGRAMS, |stage| {
            for _ in 0..20 {
                let liar = blind(stage);
                let sender = UnixDatagram::unbound().unwrap();
                sender.set_nonblocking(true).unwrap();
                for _ in 0..100 {
                    let _ = sender.send_to_addr(&request(99, &[]), &address(&liar, "request"));
                }
                stage.hold(liar);
            }
        }),
        case("a socket for the answer that comes late", DATAGRAMS, |stage| {
            let mut liar = blind(stage);
            liar.send_blindly(&request(99, &[]));
            stage.others_are_served();
            liar.open();
            liar.answers(0, INVALID);
            liar.works();
            stage.hold(liar);
        }),
        case("a socket for events that never comes", DATAGRAMS, |stage| {
            let liar = blind(stage);
            let response = bind_datagram(&format!("{}-response", liar.base())).unwrap();
            response.connect_addr(&address(&liar, "request")).unwrap();
            response.send(&track("lie.")).unwrap();
            for number in 0..50_u32 {
                let setter = stage.connect("cmap");
                setter.send(&set("lie.key", &number.to_ne_bytes())).answers(0, OK);
            }
            stage.hold((liar, response));
        }),
        case("a socket for answers that is gone", DATAGRAMS, |stage| {
            let liar = blind(stage);
            let response = bind_datagram(&format!("{}-response", liar.base())).unwrap();
            response.connect_addr(&address(&liar, "request")).unwrap();
            response.send(&request(99, &[])).unwrap();
            patiently(|limit| is_fd_readable_within(&response, limit).then_some(())).unwrap();
            response.recv(&mut [0; 100]).unwrap();
            // The server's socket is connected to it by now.
            response.send(&request(99, &[])).unwrap();
            drop(response);
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("a socket for answers that turns away", DATAGRAMS, |stage| {
            let liar = liar(stage);
            liar.works();
            let elsewhere = bind_datagram(&format!("{}-elsewhere", liar.base())).unwrap();
            liar.datagrams().1.connect_addr(&address(&liar, "elsewhere")).unwrap();
            stage.others_are_served();
            stage.hold((liar, elsewhere));
        }),
        case("a socket for events that turns away", DATAGRAMS, |stage| {
            let liar = liar(stage);
            liar.send(&track("lie.")).answers(7, OK);
            liar.send(&set("lie.key", b"one")).answers(0, OK);
            liar.next_event();
            let elsewhere = bind_datagram(&format!("{}-elsewhere", liar.base())).unwrap();
            liar.datagrams().2.connect_addr(&address(&liar, "elsewhere")).unwrap();
            liar.send(&set("lie.key", b"two"));
            liar.cut();
            stage.hold(elsewhere);
        }),
        case("a socket for events that talks to another", DATAGRAMS, |stage| {
            let liar = blind(stage);
            let [response, event, other] = ["response", "event", "other"]
                .map(|it| bind_datagram(&format!("{}-{it}", liar.base())).unwrap());
            event.connect_addr(&address(&liar, "other")).unwrap();
            response.connect_addr(&address(&liar, "request")).unwrap();
            for message in [track("lie."), set("lie.key", b"value")] {
                response.send(&message).unwrap();
            }
            // The kernel does not let the server connect to it.
            liar.cut();
            stage.hold((response, event, other));
        }),
        case("a stream where the socket for answers should be", DATAGRAMS, |stage| {
            let liar = blind(stage);
            // It has the name, and is no socket of datagrams.
            let stream = UnixListener::bind_addr(&address(&liar, "response")).unwrap();
            liar.send_blindly(&request(99, &[]));
            stage.others_are_served();
            stage.hold((liar, stream));
        }),
        case("answers to the server's own socket", DATAGRAMS, |stage| {
            // Both names of the liar belong to one socket, which talks to itself.
            let liar = blind(stage);
            let own = bind_datagram(&format!("{}-response", liar.base())).unwrap();
            own.connect_addr(&address(&liar, "response")).unwrap();
            liar.send_blindly(&request(99, &[]));
            liar.cut();
            stage.hold(own);
        }),
        case("answers that fill their socket", DATAGRAMS, |stage| {
            let liar = liar(stage);
            let mut sent = 0;
            while sent < 5000 && liar.try_send(&request(99, &[])) {
                sent += 1;
            }
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("a shutdown of the sockets and not of the connection", DATAGRAMS, |stage| {
            let liar = liar(stage);
            liar.works();
            liar.datagrams().1.shutdown(std::net::Shutdown::Both).unwrap();
            liar.datagrams().2.shutdown(std::net::Shutdown::Both).unwrap();
            stage.others_are_served();
            stage.hold(liar);
        }),
        case("requests to a connection that is gone", DATAGRAMS, |stage| {
            let gone = liar(stage);
            let address = address(&gone, "request");
            drop(gone);
            let sender = UnixDatagram::unbound().unwrap();
            eventually("its socket is gone", || {
                sender.send_to_addr(&request(99, &[]), &address).is_err()
            });
        }),
    ];
    for carried in [0, 1] {
        let name = format!("requests of another user with {carried} descriptors");
        cases.push(case(name, DATAGRAMS, move |stage| {
            if !is_root() {
                return skip_because("not root");
            }
            let liar = liar(stage);
            let carried = carried.to_string();
            let know = [("BASE", liar.base()), ("CARRIED", &carried)];
            let program = helper("datagrams::sends_as_another_user", &know);
            assert!(program.user(1234, 1234).run().success().contains("1 passed"));
            liar.works();
            stage.hold(liar);
        }));
    }
    vec![(Served::Corosync, cases)]
}

#[test]
#[ignore = "run by other tests, as another user"]
fn sends_as_another_user() {
    let (base, carried) = (env::var("BASE").unwrap(), env::var("CARRIED").unwrap());
    let socket = UnixDatagram::unbound().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect_addr(&abstract_address(format!("{base}-request").as_bytes()).unwrap()).unwrap();
    let (_read, write) = UnixStream::pair().unwrap();
    let descriptors = vec![write.as_raw_fd(); carried.parse().unwrap()];
    for message in [request(-3, &[]), Vec::new(), request(99, &[])] {
        send_with(&socket, &message, &descriptors);
    }
}
