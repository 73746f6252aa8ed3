//! Lies while a connection is set up, and bytes on its setup socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

use corosync_ipc::libqb::Transport;
use nix::sys::socket::{MsgFlags, send};
use testbed::raw::{put_i32, request, setup_request};
use testbed::{Random, eventually, is_fd_readable, is_fd_readable_within, patiently};

use crate::liar::{Liar, is_closed, send_with, setup, setup_reply};
use crate::stage::{BOTH, Case, RINGS, Served, Stage, case};

/// Matches `MAX_RING_SIZE`.
const MOST: u32 = 32 << 20;

/// How many bytes without a request the server bears.
const STRAY: usize = 1024;

/// The most descriptors that a message carries. Matches `SCM_MAX_FD`.
const MOST_DESCRIPTORS: usize = 253;

fn socket(stage: &Stage) -> UnixStream {
    setup(stage, stage.service())
}

/// A request whose header says something else.
fn with(offset: usize, value: i32) -> Vec<u8> {
    let mut request = setup_request(8192);
    put_i32(&mut request, offset, value);
    request
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let mut cases = vec![
        case("nothing is ever sent", BOTH, |stage| stage.hold(socket(stage))),
        case("the last byte never comes", BOTH, |stage| {
            let mut socket = socket(stage);
            socket.write_all(&setup_request(8192)[..23]).unwrap();
            stage.hold(socket);
        }),
        case("an end after each number of bytes", BOTH, |stage| {
            for length in 0..=24 {
                socket(stage).write_all(&setup_request(u32::MAX)[..length]).unwrap();
            }
        }),
        case("half an end after each number of bytes", BOTH, |stage| {
            for length in 0..=24 {
                let mut socket = socket(stage);
                socket.write_all(&setup_request(8192)[..length]).unwrap();
                socket.shutdown(Shutdown::Write).unwrap();
                is_closed(&socket);
            }
        }),
        case("byte by byte", BOTH, |stage| {
            let mut socket = socket(stage);
            for byte in setup_request(8192) {
                socket.write_all(&[byte]).unwrap();
                thread::yield_now();
            }
            assert_eq!(setup_reply(&socket).unwrap().error, 0);
            stage.hold(socket);
        }),
        case("in two pieces of each length", BOTH, |stage| {
            for length in 1..24 {
                let mut socket = socket(stage);
                let request = setup_request(8192);
                socket.write_all(&request[..length]).unwrap();
                // The server has read the first piece by now, or reads both at once.
                thread::yield_now();
                socket.write_all(&request[length..]).unwrap();
                assert_eq!(setup_reply(&socket).unwrap().error, 0, "{length}");
                stage.hold(socket);
            }
        }),
        case("the reading half is closed", BOTH, |stage| {
            let mut socket = socket(stage);
            socket.shutdown(Shutdown::Read).unwrap();
            socket.write_all(&setup_request(8192)).unwrap();
            eventually("the server closes", || (&socket).write(&[0]).is_err());
        }),
        case("an end before the reply is read", BOTH, |stage| {
            for _ in 0..20 {
                socket(stage).write_all(&setup_request(8192)).unwrap();
            }
        }),
        case("the request twice", BOTH, |stage| {
            let mut socket = socket(stage);
            socket.write_all(&[setup_request(8192), setup_request(0)].concat()).unwrap();
            assert_eq!(setup_reply(&socket).unwrap().max_msg_size, 8192);
            stage.hold(socket);
        }),
        case("as many bytes behind the request as are borne", BOTH, |stage| {
            let liar = stage.connect(stage.service());
            (&liar.setup).write_all(&[7; STRAY]).unwrap();
            liar.works();
            stage.hold(liar);
        }),
        case("more bytes behind the request than are borne", BOTH, |stage| {
            let liar = stage.connect(stage.service());
            let _ = (&liar.setup).write_all(&[7; 2 * STRAY]);
            liar.cut();
        }),
        case("a flood of bytes in place of the request", BOTH, |stage| {
            let mut socket = socket(stage);
            let _ = socket.write_all(&[0x55; 100_000]);
            is_closed(&socket);
        }),
        case("a flood of bytes behind the request", BOTH, |stage| {
            let mut socket = socket(stage);
            let _ = socket.write_all(&[setup_request(8192), vec![0; 100_000]].concat());
            is_closed(&socket);
        }),
        case("bytes that are borne between requests that are honest", BOTH, |stage| {
            let liar = stage.connect(stage.service());
            for _ in 0..5 {
                (&liar.setup).write_all(&[7; STRAY / 2]).unwrap();
                liar.works();
            }
            stage.hold(liar);
        }),
        case("urgent bytes in place of the request", BOTH, |stage| {
            let socket = socket(stage);
            if urgent(&socket) {
                // Whatever it is taken for, it is no request.
                stage.hold(socket);
            }
        }),
        case("an urgent byte in the middle of the request", BOTH, |stage| {
            let mut socket = socket(stage);
            let request = setup_request(8192);
            socket.write_all(&request[..10]).unwrap();
            urgent(&socket);
            let _ = socket.write_all(&request[10..]);
            stage.hold(socket);
        }),
        case("urgent bytes in place of wake bytes", BOTH, |stage| {
            let liar = stage.connect(stage.service());
            for _ in 0..10 {
                urgent(&liar.setup);
            }
            stage.hold(liar);
        }),
        case("random bytes", BOTH, |stage| {
            let mut random = Random::new(7);
            for _ in 0..50 {
                let mut socket = socket(stage);
                let bytes: Vec<u8> = (0..24).map(|_| random.below(256) as u8).collect();
                socket.write_all(&bytes).unwrap();
                is_closed(&socket);
            }
        }),
        case("more at once than may be without a request", BOTH, |stage| {
            let all: Vec<UnixStream> = (0..400).map(|_| socket(stage)).collect();
            // The oldest have to go.
            is_closed(&all[0]);
            stage.hold(all);
        }),
        case("more at once than may be, each with half a request", BOTH, |stage| {
            let all: Vec<UnixStream> = (0..400)
                .map(|_| {
                    let mut socket = socket(stage);
                    let _ = socket.write_all(&setup_request(8192)[..12]);
                    socket
                })
                .collect();
            stage.hold(all);
        }),
        case("a hundred connections whose reply nobody reads", BOTH, |stage| {
            for _ in 0..100 {
                let mut socket = socket(stage);
                socket.write_all(&setup_request(8192)).unwrap();
                stage.hold(socket);
            }
        }),
        case("five hundred that connect and go", BOTH, |stage| {
            (0..500).for_each(|_| drop(socket(stage)));
        }),
        case("a hundred connections that go at once", BOTH, |stage| {
            drop((0..100).map(|_| stage.connect(stage.service())).collect::<Vec<_>>());
        }),
        case("several that ask for the largest size at once", RINGS, |stage| {
            let liar = stage.connect(stage.service());
            // One that is connected is served between them: some still wait when it has its second
            // answer. This thread may be late to see that.
            eventually("others are served between them", || {
                let all: Vec<UnixStream> = (0..6).map(|_| socket(stage)).collect();
                all.iter().for_each(|mut it| it.write_all(&setup_request(u32::MAX)).unwrap());
                liar.works().works();
                let waits = |it: &UnixStream| !is_fd_readable(it);
                all.iter().any(waits)
            });
        }),
        case("the largest size again and again", BOTH, |stage| {
            for _ in 0..10 {
                drop(Liar::blind(stage, stage.service(), u32::MAX));
            }
        }),
    ];
    for id in [0, 1, -2, -3, i32::MAX, i32::MIN] {
        cases.push(case(format!("the id {id}"), BOTH, move |stage| {
            let mut socket = socket(stage);
            socket.write_all(&with(0, id)).unwrap();
            assert_eq!(setup_reply(&socket), None);
        }));
    }
    for size in [0, -1, 16, 23, 25, i32::MAX, i32::MIN] {
        // The whole request has come, whatever it says.
        cases.push(case(format!("a header that says {size} bytes"), BOTH, move |stage| {
            let mut socket = socket(stage);
            socket.write_all(&with(8, size)).unwrap();
            assert_eq!(setup_reply(&socket).unwrap().error, 0);
            stage.hold(socket);
        }));
    }
    for asked in [0, 1, 15, 16, 4096, MOST, MOST + 1, 1 << 31, u32::MAX] {
        cases.push(case(format!("messages of {asked} bytes"), BOTH, move |stage| {
            let liar = Liar::connect(stage, stage.service(), asked);
            assert_eq!(liar.reply.max_msg_size, asked.min(MOST));
            // Rings have at least a page. A datagram that is longer than agreed is not borne, and
            // an answer that is longer is lost.
            match (liar.transport(), asked) {
                (Transport::Socket, 0..16) => liar.send(&request(4, &[])).cut(),
                (Transport::Socket, 16..32) => _ = liar.send(&request(4, &[])),
                _ => _ = liar.works(),
            }
            stage.hold(liar);
        }));
    }
    type Carrier = fn(&Stage, &[RawFd]);
    let carriers: [(&str, Carrier); 4] = [
        ("in place of the request", |stage, descriptors| {
            let socket = socket(stage);
            send_with(&socket, &[0x55; 24], descriptors);
            is_closed(&socket);
        }),
        ("with the request", |stage, descriptors| {
            let socket = socket(stage);
            send_with(&socket, &setup_request(8192), descriptors);
            assert_eq!(setup_reply(&socket).unwrap().error, 0);
            stage.hold(socket);
        }),
        ("with each byte of the request", |stage, descriptors| {
            let socket = socket(stage);
            let one = &descriptors[..1];
            setup_request(8192).iter().for_each(|byte| send_with(&socket, &[*byte], one));
            assert_eq!(setup_reply(&socket).unwrap().error, 0);
            stage.hold(socket);
        }),
        ("with wake bytes", |stage, descriptors| {
            let liar = stage.connect(stage.service());
            (0..5).for_each(|_| send_with(&liar.setup, &[0], descriptors));
            liar.works();
            stage.hold(liar);
        }),
    ];
    for (when, carry) in carriers {
        for count in [1, MOST_DESCRIPTORS] {
            let name = format!("{count} descriptors {when}");
            cases.push(case(name, BOTH, move |stage| {
                let (mut read, write) = UnixStream::pair().unwrap();
                carry(stage, &vec![write.as_raw_fd(); count]);
                drop(write);
                // It ends once nobody has the other end any more.
                patiently(|limit| is_fd_readable_within(&read, limit).then_some(())).unwrap();
                assert_eq!(read.read(&mut [0]).unwrap(), 0);
            }));
        }
    }
    cases.push(case("the setup socket itself as a descriptor", BOTH, |stage| {
        let liar = stage.connect(stage.service());
        send_with(&liar.setup, &[0], &[liar.setup.as_raw_fd()]);
        liar.works();
    }));
    vec![(Served::Corosync, cases)]
}

/// Sends an urgent byte. Returns false if the kernel has none on such sockets.
fn urgent(socket: &UnixStream) -> bool {
    send(socket.as_raw_fd(), &[1], MsgFlags::MSG_OOB | MsgFlags::MSG_NOSIGNAL).is_ok()
}
