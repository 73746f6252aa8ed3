//! Lies in the files of a connection, and in the sockets of datagrams.

use std::ffi::c_int;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;

use corosync_ipc::{Error, cpg};
use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{geteuid, mkfifo};
use testbed::raw::{
    OLD_MAGIC, Ring, SHM, SetupReply, abstract_address, header, page_size, with_suffix,
};

use crate::case::{Case, Try};
use crate::daemon::{Channels, Conn, Script, Transport};

/// A user that neither serves nor connects.
const STRANGER: u32 = 12345;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    kinds(&mut cases);
    sizes(&mut cases);
    large(&mut cases);
    words(&mut cases);
    places(&mut cases);
    moments(&mut cases);
    sockets(&mut cases);
    cases
}

fn connect(it: &Try<'_>) -> Result<(), Error> {
    it.connect()?.local_node_id().map(drop)
}

fn lie(
    cases: &mut Vec<Case>,
    transport: Transport,
    name: String,
    end: &str,
    act: impl Fn(&mut Conn<'_>) + Send + Sync + 'static,
) {
    let script = Script::honest().connected(move |conn| {
        conn.make();
        act(conn);
        conn.greet();
    });
    let case = Case::new(name, transport, script, connect, end);
    cases.push(if end == "ok" { case } else { case.refused() });
}

/// A file of a connection.
#[derive(Clone, Copy)]
enum Which {
    Ring(usize, usize),
    Control,
}

const EACH: [Which; 7] = [
    Which::Ring(0, 0),
    Which::Ring(0, 1),
    Which::Ring(1, 0),
    Which::Ring(1, 1),
    Which::Ring(2, 0),
    Which::Ring(2, 1),
    Which::Control,
];

impl Which {
    fn transport(self) -> Transport {
        match self {
            Self::Ring(..) => Transport::Rings,
            Self::Control => Transport::Datagrams,
        }
    }

    fn path(self, conn: &Conn<'_>) -> PathBuf {
        match self {
            Self::Ring(ring, part) => conn.rings()[ring].files()[part].clone(),
            Self::Control => conn.directory.join("qb-control-cpg"),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Ring(ring, part) => {
                format!("{} {}", ["request", "response", "event"][ring], ["header", "data"][part])
            }
            Self::Control => "control file".to_owned(),
        }
    }
}

/// Something else in place of a file.
fn kinds(cases: &mut Vec<Case>) {
    let moved = |path: &Path| {
        let moved = path.with_extension("moved");
        fs::rename(path, &moved).unwrap();
        moved
    };
    let is_root = geteuid().is_root();
    for which in EACH {
        let mut each = |what: &str, end: &str, act: fn(&Path)| {
            lie(cases, which.transport(), format!("{}: {what}", which.name()), end, move |conn| {
                act(&which.path(conn));
            });
        };
        each("missing", "not visible", |path| fs::remove_file(path).unwrap());
        each("a directory", "file: it is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        });
        each("a link to nothing", "file: it is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            symlink("/dev/shm/qb-nothing", path).unwrap();
        });
        each("a link to itself", "file: it is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            symlink(path, path).unwrap();
        });
        each("a fifo", "file: it is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            mkfifo(path, Mode::S_IRWXU).unwrap();
        });
        each("a socket", "file: it is not a regular file", |path| {
            fs::remove_file(path).unwrap();
            drop(UnixListener::bind(path).unwrap());
        });
        each("a file with another name", "file: it has 2 hard links", |path| {
            fs::hard_link(path, path.with_extension("more")).unwrap();
        });
        // Root may open it all the same.
        each("a file without permissions", if is_root { "ok" } else { "not visible" }, |path| {
            fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
        });
        each("a file that is read-only", if is_root { "ok" } else { "not visible" }, |path| {
            fs::set_permissions(path, Permissions::from_mode(0o444)).unwrap();
        });
        if is_root {
            each("a file of another user", "file: it belongs neither to", |path| {
                chown(path, Some(STRANGER), None).unwrap();
            });
            if may_make_devices() {
                each("a device", "file: it is not a regular file", |path| {
                    fs::remove_file(path).unwrap();
                    mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3)).unwrap();
                });
            }
        }
        lie(
            cases,
            which.transport(),
            format!("{}: a link to the right one", which.name()),
            "file: it is not a regular file",
            move |conn| {
                let path = which.path(conn);
                symlink(moved(&path), path).unwrap();
            },
        );
    }
}

fn may_make_devices() -> bool {
    let folder = testbed::shm_folder();
    let made = mknod(&folder.path().join("null"), SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 3));
    made != Err(Errno::EPERM)
}

/// Files that are too short or too long.
fn sizes(cases: &mut Vec<Case>) {
    let mut size = |which: Which, size: u64, end: &str| {
        let name = format!("{}: {size} bytes", which.name());
        let is_refused = end != "ok";
        lie(cases, which.transport(), name, end, move |conn| {
            OpenOptions::new().write(true).open(which.path(conn)).unwrap().set_len(size).unwrap();
            if is_refused && conn.lair.transport == Transport::Rings {
                // The daemon would die of what is missing.
                conn.channels = Channels::Nothing;
            }
        });
    };
    for ring in 0..3 {
        let name = ["request", "response", "event"][ring];
        let small = format!("protocol: the {name} ring's header file has");
        for bytes in [0, 1, 4096, 8239] {
            size(Which::Ring(ring, 0), bytes, &small);
        }
        let small = format!("protocol: the {name} ring's data file has");
        for bytes in [0, 1, 4095, 4096, 16384] {
            size(Which::Ring(ring, 1), bytes, &small);
        }
        let large = format!("protocol: the {name} ring has");
        for bytes in [65 << 20, 1 << 40] {
            size(Which::Ring(ring, 1), bytes, &large);
        }
        size(Which::Ring(ring, 0), 1 << 40, "ok");
    }
    size(Which::Ring(0, 0), 8240, "protocol: the request ring's header file has");
    let small = "protocol: the socket ring's control file has";
    for (bytes, end) in [(0, small), (23, small), (4096, "ok"), (1 << 40, "ok")] {
        size(Which::Control, bytes, end);
    }
}

/// Rings and datagrams larger than the client asked for. A ring is a page larger than what it was
/// made for.
fn large(cases: &mut Vec<Case>) {
    let page = page_size() as u64;
    let large = 32 << 20;
    for (transport, size, end) in [
        (Transport::Rings, 32768, "ok".to_owned()),
        (Transport::Datagrams, 8192, "ok".to_owned()),
        (
            Transport::Rings,
            large,
            format!(
                "protocol: the request ring has {} bytes, more than 65536",
                u64::from(large) + page
            ),
        ),
        (
            Transport::Datagrams,
            large,
            format!("protocol: the socket ring has {large} bytes, more than 8192"),
        ),
    ] {
        let script = Script::honest().connected(move |conn| {
            conn.make_sized(size);
            conn.greet();
        });
        let client =
            |it: &Try<'_>| cpg::Client::connect_to(&it.endpoint().ring_size(8192)).map(drop);
        let case = Case::new(format!("messages of {size} bytes"), transport, script, client, &*end);
        cases.push(if end == "ok" { case } else { case.refused() });
    }
}

/// Words of the headers.
fn words(cases: &mut Vec<Case>) {
    let mut word = |ring: usize, what: &str, offset: usize, value: u32, end: &str| {
        let name = format!("{}: {what} {value}", ["request", "response", "event"][ring]);
        lie(cases, Transport::Rings, name, end, move |conn| {
            conn.rings()[ring].header.set(offset, value);
        });
    };
    for (ring, name) in ["request", "response", "event"].into_iter().enumerate() {
        let index = format!("protocol: an index of the {name} ring is");
        let small = format!("protocol: the {name} ring's data file has");
        for value in [0, 1, 1023] {
            word(ring, "words", header::WORD_SIZE, value, &index);
        }
        // The file has five pages of 1024 words.
        for value in [5121, 0x3fff_ffff, 0x4000_0000, 0x8000_0000, u32::MAX] {
            word(ring, "words", header::WORD_SIZE, value, &small);
        }
        let in_use = format!("protocol: the {name} ring is in use by another connection");
        for value in [0, 2, 3, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            word(ring, "users", header::REF_COUNT, value, &in_use);
        }
        // Each end reads its own index once.
        let own = if ring == 0 { header::WRITE_PT } else { header::READ_PT };
        for value in [5120, 0x8000_0000, u32::MAX] {
            word(ring, "own index", own, value, &index);
        }
    }
    // The paths in the header have no meaning.
    lie(cases, Transport::Rings, "paths of others".to_owned(), "ok", |conn| {
        for ring in conn.rings() {
            ring.header.copy_in(header::HEADER_PATH, &[b'/'; 8192]);
        }
    });
}

/// Directories.
fn places(cases: &mut Vec<Case>) {
    let link = "file: it is not a directory";
    let replaced = |what: &str| format!("the directory: {what}");
    for transport in crate::daemon::TRANSPORTS {
        lie(cases, transport, replaced("a link to the right one"), link, |conn| {
            let moved = conn.directory.with_extension("moved");
            fs::rename(&conn.directory, &moved).unwrap();
            symlink(moved, &conn.directory).unwrap();
        });
        lie(cases, transport, replaced("a file"), link, |conn| {
            fs::rename(&conn.directory, conn.directory.with_extension("moved")).unwrap();
            fs::write(&conn.directory, "").unwrap();
        });
        lie(cases, transport, replaced("missing"), "not visible", |conn| {
            fs::rename(&conn.directory, conn.directory.with_extension("moved")).unwrap();
        });
        lie(cases, transport, replaced("empty"), "not visible", |conn| {
            fs::rename(&conn.directory, conn.directory.with_extension("moved")).unwrap();
            fs::create_dir(&conn.directory).unwrap();
        });
    }
    let name = "names that would steer a terminal".to_owned();
    lie(cases, Transport::Rings, name, "not visible", |conn| {
        let path = format!("{}-\u{1b}[2J\u{9b}31m\u{202e}\n/qb-x", conn.directory.display());
        conn.reply.names.fill(path.into_bytes());
    });
    let name = "rings of another connection, in its directory".to_owned();
    lie(cases, Transport::Rings, name, "protocol: the request ring's header file has", |conn| {
        conn.reply.names = ["request", "response", "event"].map(|ring| {
            let other = conn.lair.root.join(format!("qb-1-2-3-bystander/qb-{ring}-cpg"));
            other.into_os_string().into_encoded_bytes()
        });
    });
    let name = "a data file that is also the header".to_owned();
    lie(cases, Transport::Rings, name, "file: it has 2 hard links", |conn| {
        let [header, data] = conn.rings()[0].files();
        fs::remove_file(&data).unwrap();
        fs::hard_link(header, data).unwrap();
    });
    // libqb 0.10 to 0.12: another reply, other names, other magic numbers.
    for (is_right, end) in [(true, "ok"), (false, "protocol: invalid chunk magic")] {
        let script = Script::honest().connected(move |conn| {
            make_old(conn);
            if !is_right {
                let Channels::Rings(rings) = &mut conn.channels else { panic!("no rings") };
                rings[1].magic = testbed::raw::MAGIC;
            }
            conn.greet();
        });
        let name = format!("an old libqb with its magic numbers: {is_right}");
        cases.push(Case::new(name, Transport::Rings, script, connect, end));
    }
}

fn make_old(conn: &mut Conn<'_>) {
    let names = ["request", "response", "event"].map(|ring| format!("cpg-{ring}-7-8"));
    let rings = names.each_ref().map(|name| {
        let base = conn.lair.root.join(format!("qb-{name}"));
        let ring = Ring::create(&base, conn.asked, name.contains("request")).unwrap();
        Ring { magic: OLD_MAGIC, ..ring }
    });
    conn.reply = SetupReply::new(SHM, conn.asked, names.map(String::into_bytes)).old();
    conn.channels = Channels::Rings(rings);
}

/// What changes while the client connects.
fn moments(cases: &mut Vec<Case>) {
    // Opening a file of which another process has a lease would wait for it.
    for which in [Which::Ring(0, 0), Which::Ring(2, 1), Which::Control] {
        let name = format!("{}: a lease", which.name());
        let script = Script::honest().connected(move |conn| {
            conn.make();
            let path = which.path(conn);
            // Whoever has a lease has the only descriptor.
            fs::remove_file(&path).unwrap();
            let file = File::create_new(&path).unwrap();
            file.set_len(20 << 10).unwrap();
            lease(&file);
            conn.greet();
            conn.lair.idle();
        });
        cases.push(Case::new(name, which.transport(), script, connect, "not visible").refused());
    }
    for which in [Which::Ring(1, 0), Which::Ring(1, 1), Which::Control] {
        let name = format!("{}: cut again and again", which.name());
        let script = Script::honest().connected(move |conn| {
            conn.make();
            let file = OpenOptions::new().write(true).open(which.path(conn)).unwrap();
            let length = file.metadata().unwrap().len();
            thread::scope(|scope| {
                let lair = conn.lair;
                let cutting = scope.spawn(move || {
                    while !lair.is_over() {
                        file.set_len(0).unwrap();
                        file.set_len(length).unwrap();
                    }
                });
                conn.greet();
                lair.idle();
                cutting.join().unwrap();
            });
        });
        let connect = |it: &Try<'_>| {
            it.start();
            it.connect().map(drop)
        };
        let end = "ok | protocol: | cut: | not visible";
        let case = Case::new(name, which.transport(), script, connect, end).busy();
        cases.push(case.forgets_files());
    }
}

/// Takes a lease, whose end a signal tells that is ignored by default.
fn lease(file: &File) {
    // `SIGIO`, which tells it otherwise, would kill the process.
    const F_SETSIG: c_int = 10;
    for (command, value) in [(F_SETSIG, libc::SIGURG), (libc::F_SETLEASE, libc::F_WRLCK)] {
        // SAFETY: takes numbers only.
        let result = unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
        assert_eq!(result, 0, "{}", Errno::last());
    }
}

fn nowhere() -> UnixDatagram {
    let socket = UnixDatagram::unbound().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The sockets of datagrams.
fn sockets(cases: &mut Vec<Case>) {
    let mut lie = |name: &str, end: &str, act: fn(&mut Conn<'_>)| {
        lie(cases, Transport::Datagrams, name.to_owned(), end, act);
    };
    lie("no socket for requests", "no sockets", |conn| {
        let Channels::Datagrams(sockets) = &mut conn.channels else { panic!("no sockets") };
        sockets.request = nowhere();
    });
    lie("no socket for events", "no sockets", |conn| {
        let Channels::Datagrams(sockets) = &mut conn.channels else { panic!("no sockets") };
        sockets.event = nowhere();
    });
    lie("a socket of streams for requests", "no sockets", |conn| {
        let Channels::Datagrams(sockets) = &mut conn.channels else { panic!("no sockets") };
        sockets.request = nowhere();
        let address = abstract_address(format!("{}-request", sockets.base).as_bytes()).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        // Kept as long as the connection.
        sockets.request = std::os::fd::OwnedFd::from(listener).into();
    });
    // As those of a daemon in another network namespace.
    let script = Script::honest().connected(|conn| {
        conn.make();
        let moved = conn.directory.with_extension("moved");
        fs::rename(&conn.directory, &moved).unwrap();
        let name = |name| moved.join(name).into_os_string().into_encoded_bytes();
        (conn.reply.names[0], conn.reply.names[1]) = (name("qb-control-cpg"), name("qb-cpg"));
        conn.greet();
    });
    let client = |it: &Try<'_>| {
        let result = connect(it);
        let Err(Error::SocketsNotVisible { address, .. }) = &result else { panic!("{result:?}") };
        assert!(address.to_string().ends_with(".moved/qb-cpg-request"), "{address}");
        result
    };
    let name = "sockets out of reach";
    let case = Case::new(name, Transport::Datagrams, script, client, "no sockets");
    cases.push(case.refused());
    let bound = |suffix: &'static str| {
        Script::honest().connected(move |conn| {
            conn.make();
            let _squatter =
                testbed::raw::bind_datagram(&format!("{}{suffix}", conn.sockets().base)).unwrap();
            conn.greet();
            conn.lair.idle();
        })
    };
    for suffix in ["-response", "-event"] {
        let name = format!("the address {suffix} of the client is taken");
        let script = bound(suffix);
        cases.push(Case::new(name, Transport::Datagrams, script, connect, "System").refused());
    }
    // An older libqb has sockets with paths.
    let script = Script::honest().connected(|conn| {
        conn.make();
        let control = conn.lair.root.join("qb-cpg-control-7-8-9");
        fs::rename(conn.directory.join("qb-control-cpg"), &control).unwrap();
        fs::remove_dir(&conn.directory).unwrap();
        let base = conn.lair.root.join("qb-cpg-7-8-9");
        let Channels::Datagrams(sockets) = &mut conn.channels else { panic!("no sockets") };
        let [request, event] = ["-request", "-event-tx"].map(|suffix| {
            let socket = UnixDatagram::bind(with_suffix(&base, suffix)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        (sockets.request, sockets.event) = (request, event);
        sockets.paths = Some(base);
        conn.reply.names[0] = control.into_os_string().into_encoded_bytes();
        conn.reply.names[1] = b"qb-cpg-7-8-9".to_vec();
        conn.greet();
    });
    // The client removes its own when the daemon is gone. Otherwise the daemon does.
    let script = script.told_at("cpg", |conn| conn.close());
    let client = |it: &Try<'_>| {
        let client = it.connect()?;
        client.local_node_id()?;
        it.tell();
        client.local_node_id().map(drop)
    };
    let case = Case::new("sockets with paths", Transport::Datagrams, script, client, "gone");
    cases.push(case.removes("qb-cpg-control-7-8-9"));
}
