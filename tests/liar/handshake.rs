//! Lies in the answer to a connection request.

use std::io::IoSlice;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use corosync_ipc::Error;
use nix::libc;
use nix::sys::socket::{Backlog, ControlMessage, MsgFlags, listen, sendmsg};
use testbed::raw::{SETUP_REPLY, put_i32};

use crate::case::{Case, Try};
use crate::daemon::{Conn, Lair, Script, TRANSPORTS, Transport};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    silence(&mut cases);
    pieces(&mut cases);
    fields(&mut cases);
    names(&mut cases);
    controls(&mut cases);
    control_of_another(&mut cases);
    descriptors(&mut cases);
    cases
}

/// Connects and makes one request.
fn connect(it: &Try<'_>) -> Result<(), Error> {
    it.connect()?.local_node_id().map(drop)
}

/// A daemon that does this with a client that has sent its request.
fn reply(
    cases: &mut Vec<Case>,
    transport: Transport,
    name: &str,
    end: &str,
    act: impl Fn(&mut Conn<'_>) + Send + Sync + 'static,
) {
    let case = Case::new(name, transport, Script::honest().connected(act), connect, end);
    cases.push(if end == "ok" { case } else { case.refused() });
}

fn silence(cases: &mut Vec<Case>) {
    let mut daemon = |name: &str, end: &str, act: fn(&Lair)| {
        cases.push(Case::with_daemon(name, Transport::Rings, act, connect, end).refused());
    };
    daemon("never accepts", "timed out", Lair::idle);
    daemon("closes without reading", "gone", |lair| {
        drop(lair.accept("cpg"));
        lair.idle();
    });
    daemon("closes after reading", "gone", |lair| {
        lair.accept("cpg").map(|mut conn| conn.read_request());
        lair.idle();
    });
    daemon("reads nothing", "timed out", |lair| {
        let _conn = lair.accept("cpg");
        lair.idle();
    });
    daemon("says nothing", "timed out", |lair| {
        let mut conn = lair.accept("cpg");
        conn.iter_mut().for_each(|conn| assert!(conn.read_request()));
        lair.idle();
    });
    daemon("closes half and says nothing", "gone", |lair| {
        let conn = lair.accept("cpg");
        conn.iter().for_each(|conn| conn.setup().shutdown(Shutdown::Write).unwrap());
        lair.idle();
    });
    daemon("reads no more and says nothing", "timed out", |lair| {
        let conn = lair.accept("cpg");
        conn.iter().for_each(|conn| conn.setup().shutdown(Shutdown::Read).unwrap());
        lair.idle();
    });
    // The queue of the listener is full before the client comes.
    let full = |it: &Try<'_>| {
        let listener = it.lair.listener("cpg");
        listen(listener, Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(it.lair.root.join("cpg")).unwrap();
        it.start();
        connect(it)
    };
    let case =
        Case::with_daemon("has a full queue", Transport::Rings, Lair::idle, full, "timed out");
    cases.push(case.refused());
}

fn pieces(cases: &mut Vec<Case>) {
    for transport in TRANSPORTS {
        // How much of the reply comes, and whether the daemon closes then.
        for length in [1, 8, 16, 23, 24, 40, 4096, SETUP_REPLY - 1] {
            for closes in [false, true] {
                let name = format!("{length} bytes of a reply, closes: {closes}");
                let end = if closes { "gone" } else { "timed out" };
                reply(cases, transport, &name, end, move |conn| {
                    conn.make();
                    let bytes = conn.reply.bytes();
                    conn.say(&bytes[..length]);
                    if closes {
                        conn.close();
                    }
                });
            }
        }
        reply(cases, transport, "a reply byte after byte", "ok", |conn| {
            conn.make();
            conn.lair.note_files();
            let bytes = conn.reply.bytes();
            bytes.chunks(1).for_each(|byte| conn.send_setup(byte));
        });
        reply(cases, transport, "a reply that never ends", "timed out", |conn| {
            conn.make();
            conn.lair.note_files();
            for byte in conn.reply.bytes().chunks(1) {
                conn.send_setup(byte);
                if conn.lair.is_over() {
                    break;
                }
                thread::sleep(conn.lair.timeout / 50);
            }
        });
        for extra in [1, 64, 1024] {
            let name = format!("{extra} bytes behind the reply");
            reply(cases, transport, &name, "ok", move |conn| {
                conn.make();
                let mut bytes = conn.reply.bytes();
                bytes.resize(SETUP_REPLY + extra, 7);
                conn.say(&bytes);
            });
        }
        reply(cases, transport, "two replies", "ok", |conn| {
            conn.make();
            conn.greet();
            conn.greet();
        });
    }
}

fn fields(cases: &mut Vec<Case>) {
    for transport in TRANSPORTS {
        let mut field = |name: &str, end: &str, offset: usize, value: i32| {
            reply(cases, transport, &format!("{name} {value}"), end, move |conn| {
                conn.make();
                let mut bytes = conn.reply.bytes();
                put_i32(&mut bytes, offset, value);
                conn.say(&bytes);
            });
        };
        for id in [0, 1, -2, i32::MIN, i32::MAX] {
            field("id", "protocol: qb_ipc_connection_response: unknown message id", 0, id);
        }
        let size = SETUP_REPLY as i32;
        for size in [0, 24, -1, size - 1, size + 1, i32::MIN, i32::MAX] {
            field("size", "protocol: qb_ipc_connection_response: header.size at offset 8", 8, size);
        }
        // Eight bytes more, which never come.
        field("size", "timed out", 8, size + 8);
        for (error, end) in [
            (-libc::EAGAIN, "not ready"),
            (-libc::EACCES, "not allowed"),
            (-libc::ENOSPC, "full"),
            (-libc::ENOMEM, "refused"),
            (-libc::ENOSYS, "refused"),
            (-libc::EMFILE, "refused"),
            (-1, "refused"),
            (1, "refused"),
            (99999, "refused"),
            (i32::MIN, "refused"),
            (i32::MAX, "refused"),
        ] {
            field("error", end, 16, error);
        }
        for transport in [2, -1, 7, i32::MIN, i32::MAX] {
            field("transport", "protocol: unknown transport", 24, transport);
        }
        let (other, end) = match transport {
            Transport::Rings => (0, "protocol: the name of the datagram sockets does not belong"),
            Transport::Datagrams => (1, "protocol: the event ring has an invalid name"),
        };
        field("the other transport", end, 24, other);
        // The rings are what they are.
        let (large, small) = match transport {
            Transport::Rings => ("ok", "InvalidArgument"),
            Transport::Datagrams => ("protocol: the socket ring has", "InvalidArgument"),
        };
        field("max_msg_size", large, 28, -1);
        field("max_msg_size", large, 28, i32::MIN);
        field("max_msg_size", large, 28, 64 << 20);
        let mut field = |name: &str, value: i32| {
            let case = Case::new(
                format!("{name} {value}"),
                transport,
                Script::honest().connected(move |conn| {
                    conn.make();
                    conn.reply.max_msg_size = value as u32;
                    conn.greet();
                }),
                connect,
                small,
            );
            cases.push(case);
        };
        field("max_msg_size", 0);
        field("max_msg_size", 1);
        reply(cases, transport, "an error and no more than its header", "gone", |conn| {
            conn.reply.error = -libc::EACCES;
            let bytes = conn.reply.bytes();
            conn.say(&bytes[..24]);
            conn.close();
        });
    }
    reply(
        cases,
        Transport::Rings,
        "no names",
        "protocol: the request ring has an invalid",
        |conn| {
            conn.reply.transport = 1;
            conn.greet();
        },
    );
    let streams = "protocol: the daemon uses the stream sockets of libqb before 0.15";
    reply(cases, Transport::Datagrams, "no names", streams, |conn| {
        conn.reply.transport = 0;
        conn.greet();
    });
}

/// Names of rings.
fn names(cases: &mut Vec<Case>) {
    let invalid = "protocol: the request ring has an invalid name";
    let mut name = |what: &str, end: &str, number: usize, name: &[u8]| {
        let named = name.to_vec();
        reply(cases, Transport::Rings, what, end, move |conn| {
            conn.make();
            conn.reply.names[number] = placed(conn, &named);
            conn.greet();
        });
    };
    for (number, ring) in ["request", "response", "event"].into_iter().enumerate() {
        let invalid = format!("protocol: the {ring} ring has an invalid name");
        name(&format!("an empty name of the {ring} ring"), &invalid, number, b"");
    }
    for wrong in [
        ".",
        "..",
        "/",
        "../qb-request-cpg",
        "a/b",
        "/etc/passwd",
        "/etc/qb-1/qb-request-cpg",
        "/dev/shm",
        "/dev/shm/",
        "/dev/shm/..",
        "/dev/shm/../etc/qb-1/qb-request-cpg",
        "/dev/shm/qb-1-2-3-x/../../../etc/qb-1/qb-request-cpg",
        "ROOT",
        "ROOT/",
        "ROOT/../qb-1/qb-request-cpg",
        "ROOT//qb-request-cpg",
        "ROOT/./qb-1/qb-request-cpg",
        "ROOT/cpg",
        "OWN",
        "OWN/",
        "OWN/..",
        "OWN/../qb-1-2-3-bystander/qb-request-cpg",
        "OWN/request-cpg",
        "/proc/self/fd/0",
        "/dev/null",
    ] {
        name(&format!("the name {wrong}"), invalid, 0, wrong.as_bytes());
    }
    let elsewhere = "protocol: the response ring is in another directory";
    name("a ring of another connection", elsewhere, 1, b"ROOT/qb-1-2-3-bystander/qb-response-cpg");
    name("a ring directly in shared memory", elsewhere, 1, b"cpg-response");
    name("the same ring twice", "file: it is named twice", 1, b"OWN/qb-request-cpg");
    name("the same ring twice", "file: it is named twice", 2, b"OWN/qb-response-cpg");
    name("a ring that is not there", "not visible", 1, b"OWN/qb-nothing");
    name("a name that is no text", "not visible", 1, b"OWN/qb-\xff\xfe");
    let long = [b"OWN/qb-".to_vec(), vec![b'x'; 300]].concat();
    name("a name too long for a file", "not visible", 1, &long);
    let endless = vec![b'x'; 5000];
    name(
        "a name without a NUL",
        "protocol: the response ring is in another directory",
        0,
        &endless,
    );
    let deep = [b"ROOT".to_vec(), b"/qb-x".repeat(500)].concat();
    name("a name of 500 directories", elsewhere, 1, &deep);
    name("a name of control characters", "not visible", 1, b"OWN/qb-\x1b[2J\n\x07");
}

/// Names of the control file and the sockets of datagrams.
fn controls(cases: &mut Vec<Case>) {
    let mut name = |what: &str, end: &str, control: Option<&str>, base: Option<Vec<u8>>| {
        let control = control.map(|control| control.as_bytes().to_vec());
        reply(cases, Transport::Datagrams, what, end, move |conn| {
            conn.make();
            if let Some(control) = &control {
                conn.reply.names[0] = placed(conn, control);
            }
            if let Some(base) = &base {
                conn.reply.names[1] = placed(conn, base);
            }
            conn.greet();
        });
    };
    let invalid = "protocol: the control file has an invalid name";
    for control in [
        "",
        "qb-control-cpg",
        "/etc/qb-control-cpg",
        "/dev/shm/",
        "/dev/shm/../etc/qb-control-cpg",
        "ROOT/cpg",
        "ROOT/control-cpg",
        "ROOT/../qb-control-cpg",
        "OWN/..",
        "OWN/control-cpg",
        "OWN/../qb-1-2-3-bystander/qb-control-cpg",
    ] {
        name(&format!("the control file {control}"), invalid, Some(control), None);
    }
    let apart = "protocol: the name of the datagram sockets does not belong";
    for base in ["OWN/qb-cmap", "ROOT/qb-1-2-3-bystander/qb-cpg", "OWN/qb-control-cpg", "/"] {
        name(&format!("the sockets {base}"), apart, None, Some(base.into()));
    }
    let relative = Some(b"qb-cpg".to_vec());
    name("sockets in the directory of the services", "no sockets", None, relative);
    let another = "ROOT/qb-1-2-3-bystander/qb-control-cpg";
    name("the control file of another connection", apart, Some(another), None);
    let long = |it: &str| format!("OWN/{it}{}", "x".repeat(100));
    name("sockets with a long name", apart, Some(&long("qb-control-")), Some(long("qb-").into()));
    name("sockets whose name is no text", apart, None, Some(b"OWN/qb-\xff".to_vec()));
    name("a name without a NUL", apart, None, Some(vec![b'x'; 5000]));
    let sockets = Some("ROOT/qb-1-2-3-bystander/qb-cpg".into());
    name("both names of another connection", "no sockets", Some(another), sockets);
    name(
        "a control file that is not there",
        "not visible",
        Some("OWN/qb-control-x"),
        Some("OWN/qb-x".into()),
    );
}

/// A daemon that names the control file of another connection and closes. A client of root could
/// remove it.
fn control_of_another(cases: &mut Vec<Case>) {
    reply(cases, Transport::Datagrams, "names of another connection, and closes", "gone", |conn| {
        conn.make();
        conn.reply.names[0] = placed(conn, b"ROOT/qb-1-2-3-bystander/qb-control-cpg");
        conn.reply.names[1] = placed(conn, b"ROOT/qb-1-2-3-bystander/qb-cpg");
        conn.greet();
        conn.close();
    });
}

/// A name with directories in place of the words that stand for them.
fn placed(conn: &Conn<'_>, name: &[u8]) -> Vec<u8> {
    for (word, directory) in [(&b"ROOT"[..], &conn.lair.root), (b"OWN", &conn.directory)] {
        if let Some(rest) = name.strip_prefix(word) {
            return [directory.as_os_str().as_encoded_bytes(), rest].concat();
        }
    }
    name.to_vec()
}

/// Descriptors that come with a message which should have none.
fn descriptors(cases: &mut Vec<Case>) {
    for transport in TRANSPORTS {
        for count in [1, 2, 200] {
            let name = format!("a reply with {count} descriptors");
            let end = "protocol: a message carries file descriptors";
            let send = move |conn: &mut Conn<'_>| {
                conn.make();
                conn.lair.note_files();
                send_with_descriptors(conn.setup(), &conn.reply.bytes(), count);
            };
            let case = Case::new(&*name, transport, Script::honest().connected(send), connect, end);
            cases.push(case.refused());
        }
    }
}

/// Sends bytes together with descriptors.
pub(crate) fn send_with_descriptors(socket: &(impl AsFd + AsRawFd), bytes: &[u8], count: usize) {
    let descriptors = vec![socket.as_raw_fd(); count];
    let control = [ControlMessage::ScmRights(&descriptors)];
    let parts = [IoSlice::new(bytes)];
    let sent = sendmsg::<()>(socket.as_raw_fd(), &parts, &control, MsgFlags::MSG_NOSIGNAL, None);
    assert_eq!(sent, Ok(bytes.len()));
    thread::sleep(Duration::ZERO);
}
