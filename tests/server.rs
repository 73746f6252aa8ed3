//! `libqb::server::Listener`: libqb's C clients, and clients that write to their rings by hand.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use corosync_ipc::codec::setup::{ConnectReply, ConnectRequest};
use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::libqb::server::{
    Builder, Conn, ConnectionId, Connections, FlowControl, Generation, Gone, Handler, Listener,
    Overflow, Peer, Refusal, RingAccess, SendError, Transport,
};
use corosync_ipc::{Credentials, Endpoint};
use nix::libc;
use testbed::{cc, eventually, shm_folder, watchdog};

/// Requests that are not just echoed.
const EVENTS: i32 = 1;
const LATE_REPLY: i32 = 2;

const C_CLIENT: &str = r#"
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include <qb/qbipcc.h>

struct request { struct qb_ipc_request_header header; int count; int size; } __attribute__((aligned(8)));
static char reply[1 << 21], data[1 << 21];

static void echo(qb_ipcc_connection_t *c, size_t size) {
    struct qb_ipc_request_header header = { .id = 0, .size = sizeof header + size };
    for (size_t i = 0; i < size; i++) data[i] = (char)(i * 31 + size);
    struct iovec iov[2] = { { &header, sizeof header }, { data, size } };
    ssize_t got = qb_ipcc_sendv_recv(c, iov, 2, reply, sizeof reply, -1);
    struct qb_ipc_response_header *answer = (void *)reply;
    if (got != (ssize_t)(sizeof *answer + size) || answer->error != 1 || memcmp(reply + sizeof *answer, data, size)) {
        printf("echo of %zu: got %zd\n", size, got);
        exit(1);
    }
}

int main(int argc, char **argv) {
    size_t max = atoi(argv[2]);
    qb_ipcc_connection_t *c = qb_ipcc_connect(argv[1], max);
    if (!c) {
        printf("refused %d\n", errno);
        return 2;
    }
    assert(qb_ipcc_is_connected(c));
    printf("buffer %d\n", (int)qb_ipcc_get_buffer_size(c));
    for (int i = 0; i < 300; i++) echo(c, i * 7 % (max / 2));
    echo(c, qb_ipcc_get_buffer_size(c) - sizeof(struct qb_ipc_response_header));

    /* As many events as wanted, some of them while the socket's buffer and the ring are full. */
    struct request request = { .header = { .id = 1, .size = sizeof request }, .count = atoi(argv[3]), .size = 100 };
    struct iovec iov = { &request, sizeof request };
    assert(qb_ipcc_sendv_recv(c, &iov, 1, reply, sizeof reply, -1) > 0);
    int fd, events = 0;
    assert(qb_ipcc_fd_get(c, &fd) == 0);
    while (events < request.count) {
        struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
        if (poll(&poll_fd, 1, 20000) != 1) { printf("not readable after %d\n", events); return 1; }
        ssize_t got = qb_ipcc_event_recv(c, reply, sizeof reply, 0);
        int number;
        memcpy(&number, reply + sizeof(struct qb_ipc_response_header), sizeof number);
        if (got != 100 || number != events) { printf("event %d: got %zd, number %d\n", events, got, number); return 1; }
        events++;
    }
    struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
    if (poll(&poll_fd, 1, 0) != 0) { printf("readable without an event\n"); return 1; }
    printf("events %d\n", events);
    if (argc > 4) { /* stay, to be killed or disconnected */
        printf("ready\n");
        fflush(stdout);
        if (!strcmp(argv[4], "die")) abort();
        while (qb_ipcc_is_connected(c)) {
            if (qb_ipcc_event_recv(c, reply, sizeof reply, 100) == -ENOTCONN) break;
        }
        printf("disconnected\n");
    }
    qb_ipcc_disconnect(c);
    printf("done\n");
    return 0;
}
"#;

/// Echoes requests, and sends numbered events when asked for.
#[derive(Default)]
struct Echo {
    connects: Vec<ConnectionId>,
    disconnects: Vec<ConnectionId>,
    refuse: Option<Refusal>,
    late: Vec<ConnectionId>,
    access: Option<RingAccess>,
}

fn response(id: i32, body: &[u8]) -> Vec<u8> {
    Header { id, size: 0, error: 1 }.encode(Kind::Response, body).unwrap()
}

fn number(message: &[u8], offset: usize) -> i32 {
    i32::from_ne_bytes(message[offset..offset + 4].try_into().unwrap())
}

impl Handler for Echo {
    type Session = u32;

    fn authorize(&mut self, peer: &Peer<'_>) -> Result<u32, Refusal> {
        assert_eq!(peer.credentials.uid, nix::unistd::geteuid().as_raw());
        self.refuse.map_or(Ok(0), Err)
    }

    fn ring_access(&mut self, peer: &Peer<'_>, _: &u32) -> RingAccess {
        let Credentials { uid, gid, .. } = peer.credentials;
        self.access.unwrap_or(RingAccess { uid, gid, mode: 0o600 })
    }

    fn on_connect(&mut self, conn: &mut Conn<'_, u32>) {
        self.connects.push(conn.id());
    }

    fn on_request(&mut self, conn: &mut Conn<'_, u32>, request: Bytes) {
        *conn.session() += 1;
        if request.len() < 16 {
            return conn.disconnect();
        }
        match number(&request, 0) {
            EVENTS => {
                let (count, size) = (number(&request, 16), number(&request, 20) as usize);
                for event in 0..count {
                    let mut body = vec![0; size - 24];
                    body[..4].copy_from_slice(&event.to_ne_bytes());
                    conn.send_event(&response(9, &body)).unwrap();
                }
                conn.reply(&response(EVENTS, &[])).unwrap();
            }
            LATE_REPLY => self.late.push(conn.id()),
            id => {
                // The header says how long the parts behind it are.
                let whole = response(id, &request[16..]);
                let (head, tail) = whole.split_at(24);
                conn.reply_slices(&[head, &[], tail]).unwrap();
            }
        }
    }

    fn on_disconnect(&mut self, _: &mut Connections<u32>, gone: Gone<u32>) {
        self.disconnects.push(gone.id);
    }
}

/// A name that no other test uses, and a place for the rings.
struct Place {
    name: String,
    shm: tempfile::TempDir,
    transport: Transport,
}

/// Runs a body over both transports.
fn over_each_transport(body: impl Fn(Transport)) {
    [Transport::Shm, Transport::Socket].into_iter().for_each(body);
}

impl Place {
    fn new() -> Self {
        Self::over(Transport::Shm)
    }

    fn over(transport: Transport) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { name, shm: shm_folder(), transport }
    }

    fn builder(&self) -> Builder {
        let endpoint = Endpoint::new().abstract_sockets().shm_root(self.shm.path());
        let builder = Listener::<Echo>::builder().endpoint(&endpoint).service(&self.name);
        builder.transport(self.transport)
    }

    fn echo(&self) -> Listener<Echo> {
        self.builder().start(Echo::default()).unwrap()
    }

    fn c_client(&self, program: &Path, max: u32, events: u32) -> Command {
        let mut command = Command::new(program);
        command.args([&self.name, &max.to_string(), &events.to_string()]);
        command
    }

    /// Files and directories left in the place of the rings.
    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.shm.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn connect(&self) -> UnixStream {
        // As libqb: the whole of sun_path.
        let mut padded = self.name.clone().into_bytes();
        padded.resize(107, 0);
        let stream =
            UnixStream::connect_addr(&SocketAddr::from_abstract_name(padded).unwrap()).unwrap();
        stream.set_read_timeout(Some(testbed::WATCHDOG)).unwrap();
        stream
    }

    /// Connects by hand.
    fn raw(&self) -> Raw {
        let mut socket = self.connect();
        socket.write_all(&ConnectRequest { max_msg_size: 8192 }.encode().unwrap()).unwrap();
        let mut reply = vec![0; 12328];
        socket.read_exact(&mut reply).unwrap();
        Raw { socket, reply: ConnectReply::decode(&reply).unwrap() }
    }
}

/// A client that writes to its rings whatever it likes, through the files: a shared mapping shows
/// the same bytes.
struct Raw {
    socket: UnixStream,
    reply: ConnectReply,
}

impl Raw {
    fn file(&self, ring: &Bytes, suffix: &str) -> fs::File {
        let path = format!("{}-{suffix}", std::str::from_utf8(ring).unwrap());
        fs::File::options().read(true).write(true).open(path).unwrap()
    }

    fn request_header(&self) -> fs::File {
        self.file(&self.reply.request, "header")
    }

    /// Puts a chunk in the request ring, without announcing it.
    fn chunk(&self, size: u32, magic: u32, payload: &[u8]) {
        let data = self.file(&self.reply.request, "data");
        data.write_all_at(&[&size.to_ne_bytes()[..], &magic.to_ne_bytes(), payload].concat(), 0)
            .unwrap();
    }

    fn announce(&mut self) {
        self.request_header().write_all_at(&1u64.to_ne_bytes(), 8208).unwrap();
        self.socket.write_all(&[0]).unwrap();
    }

    /// Whether the server has closed the connection.
    fn is_dropped(&mut self) -> bool {
        matches!(self.socket.read(&mut [0; 16]), Ok(0) | Err(_))
    }
}

#[test]
fn c_clients_are_served() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    watchdog(120, move || {
        over_each_transport(|transport| c_clients_are_served_over(&program, transport));
    });
}

fn c_clients_are_served_over(program: &Path, transport: Transport) {
    let place = Place::over(transport);
    let listener = place.echo();
    // What the system lets a datagram have.
    let most = if transport == Transport::Shm { 1 << 20 } else { 200_000 };
    for (max, events) in [(most, 100), (16384, 5000), (0, 1)] {
        // libqb's client asks for its own reply's size at least.
        let max_asked = max.max(12328);
        let output = place.c_client(program, max_asked, events).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text, format!("buffer {max_asked}\nevents {events}\ndone\n"), "{output:?}");
        eventually("client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
        assert_eq!(place.left(), Vec::<PathBuf>::new());
    }
    let echo = listener.stop().unwrap();
    assert_eq!((echo.connects.len(), &echo.disconnects), (3, &echo.connects));
}

#[test]
fn filesystem_sockets_are_made_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::new();
    let endpoint = Endpoint::new().socket_dir(directory.path()).shm_root(place.shm.path());
    let start =
        || Listener::<Echo>::builder().endpoint(&endpoint).service("echo").start(Echo::default());
    let path = directory.path().join("echo");
    let listener = start().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
    assert!(start().is_err(), "somebody listens there already");
    UnixStream::connect(&path).unwrap();
    drop(listener);
    assert!(!path.exists());

    // What a killed server leaves behind does not stop the next one.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(start().unwrap());
}

#[test]
fn refusals_reach_the_c_client() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let listener = place.echo();
        listener.with(|echo, _| echo.refuse = Some(Refusal::NOT_ALLOWED)).unwrap();
        let output = place.c_client(&program, 12328, 0).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "refused 13\n");
        assert_eq!(listener.with(|_, connections| connections.ids().len()).unwrap(), 0);
        assert!(place.left().is_empty());
    });
}

#[test]
fn a_client_that_dies_leaves_nothing() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let listener = place.echo();
        let output =
            place.c_client(&program, 12328, 10).arg("die").stdout(Stdio::piped()).output().unwrap();
        assert!(!output.status.success());
        eventually("the client is cleared away", || {
            listener.with(|echo, _| echo.disconnects.len() == 1).unwrap()
        });
        assert!(place.left().is_empty());
    });
}

#[test]
fn stopping_the_listener_disconnects_and_leaves_nothing() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let listener = place.echo();
        let mut child =
            place.c_client(&program, 12328, 10).arg("stay").stdout(Stdio::piped()).spawn().unwrap();
        // The client has its events: a listener that stops may drop some that were not read.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            assert_ne!(output.read_line(&mut said).unwrap(), 0, "{said}");
        }
        assert_eq!(place.left().len(), 1);
        let echo = listener.stop().unwrap();
        assert_eq!(echo.connects.len(), 1);
        output.read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert!(said.ends_with("disconnected\ndone\n"), "{said}");
        assert!(place.left().is_empty());
    });
}

/// The size of the data file of a ring for messages of 8192 bytes: whole pages.
fn data_size() -> u64 {
    // SAFETY: reads a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    (8192_u64 + 13).next_multiple_of(page.try_into().unwrap())
}

#[test]
fn rings_are_as_libqb_makes_them() {
    let place = Place::new();
    let _listener = place.echo();
    let raw = place.raw();
    assert_eq!(raw.reply.max_msg_size, 8192);
    let name = std::str::from_utf8(&raw.reply.request).unwrap();
    let below = name.strip_prefix(place.shm.path().to_str().unwrap()).unwrap();
    let (pid, (directory, file)) = (std::process::id(), below[1..].split_once('/').unwrap());
    assert!(directory.starts_with(&format!("qb-{pid}-{pid}-")), "{directory}");
    assert_eq!(file, format!("qb-request-{}", place.name));
    assert_eq!(fs::metadata(place.shm.path().join(directory)).unwrap().mode() & 0o7777, 0o770);
    for ring in [&raw.reply.request, &raw.reply.response, &raw.reply.event] {
        let ring_name = std::str::from_utf8(ring).unwrap();
        let header = fs::read(format!("{ring_name}-header")).unwrap();
        let metadata = fs::metadata(format!("{ring_name}-data")).unwrap();
        assert_eq!(
            (header.len(), metadata.len(), metadata.mode() & 0o7777),
            (8252, data_size(), 0o600)
        );
        let text = |offset: usize| {
            let end = header[offset..].iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(header[offset..offset + end].to_vec()).unwrap()
        };
        assert_eq!(
            (text(12), text(4108)),
            (format!("{ring_name}-header"), format!("{ring_name}-data"))
        );
        assert_eq!(
            (number(&header, 8), number(&header, 8204), number(&header, 8216)),
            (3072, 1, 0x80)
        );
    }
}

#[test]
fn the_handler_says_who_may_use_the_rings() {
    let place = Place::new();
    let root = nix::unistd::geteuid().is_root();
    // Only root gives files away.
    let (uid, gid) = if root {
        (1234, 4321)
    } else {
        (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
    };
    let echo = Echo { access: Some(RingAccess { uid, gid, mode: 0o7660 }), ..Echo::default() };
    let listener = place.builder().start(echo).unwrap();
    let raw = place.raw();
    let path = std::str::from_utf8(&raw.reply.request).unwrap();
    let seen = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
    };
    for suffix in ["header", "data"] {
        assert_eq!(seen(Path::new(&format!("{path}-{suffix}"))), (uid, gid, 0o660));
    }
    assert_eq!(seen(Path::new(path).parent().unwrap()), (uid, gid, 0o770));
    drop(raw);
    eventually("the client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
    assert_eq!(place.left(), Vec::<PathBuf>::new());
}

#[test]
fn what_a_client_puts_into_its_directory_goes_with_it() {
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let listener = place.echo();
        let elsewhere = tempfile::tempdir().unwrap();
        let kept = elsewhere.path().join("kept");
        fs::write(&kept, "kept").unwrap();
        let raw = place.raw();
        let directory = Path::new(std::str::from_utf8(&raw.reply.request).unwrap())
            .parent()
            .unwrap()
            .to_path_buf();
        fs::write(directory.join("file"), "rubbish").unwrap();
        fs::create_dir(directory.join("directory")).unwrap();
        let own = match transport {
            Transport::Socket => format!("qb-control-{}", place.name),
            _ => format!("qb-event-{}-data", place.name),
        };
        fs::remove_file(directory.join(own)).unwrap();
        for (name, target) in [
            ("link", kept.as_path()),
            ("directory link", elsewhere.path()),
            ("nowhere", Path::new("/no/such")),
        ] {
            std::os::unix::fs::symlink(target, directory.join(name)).unwrap();
        }
        drop(std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap());
        (0..1000).for_each(|number| fs::write(directory.join(format!("{number}")), "").unwrap());
        drop(raw);
        eventually("the client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
        assert_eq!(place.left(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");

        // What is not empty is not gone through.
        let raw = place.raw();
        let directory = Path::new(std::str::from_utf8(&raw.reply.request).unwrap())
            .parent()
            .unwrap()
            .to_path_buf();
        fs::create_dir_all(directory.join("one/two")).unwrap();
        drop(raw);
        eventually("the client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    });
}

#[test]
fn what_waits_for_all_clients_ends_the_one_that_has_most() {
    let place = Place::new();
    let builder = place.builder().event_queue(100_000, Overflow::Disconnect).event_memory(120_000);
    let listener = builder.start(Echo::default()).unwrap();
    let _clients: Vec<Raw> = (0..4).map(|_| place.raw()).collect();
    let results = listener
        .with(|_, all| {
            let ids = all.ids();
            let event = response(9, &[7; 1000]);
            let mut send = |client: usize, count: usize| -> Vec<_> {
                (0..count)
                    .filter_map(|_| all.get(ids[client]).map(|mut conn| conn.send_event(&event)))
                    .collect()
            };
            // The rings take some ten of them.
            let sent = [send(0, 40), send(1, 90), send(2, 60), send(3, 40)];
            (
                sent.map(|results| results.iter().all(Result::is_ok)),
                [0, 1, 2, 3].map(|at| all.get(ids[at]).is_some()),
            )
        })
        .unwrap();
    // The second has most when the third needs room; the last finds room.
    assert_eq!(results, ([true; 4], [true, false, true, true]));
}

#[test]
fn clients_are_told_the_directory_as_they_see_it() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let elsewhere = tempfile::tempdir().unwrap();
        // A mount, but for whoever is not root.
        let seen = elsewhere.path().join("seen");
        std::os::unix::fs::symlink(place.shm.path(), &seen).unwrap();
        let endpoint =
            Endpoint::new().abstract_sockets().shm_root(place.shm.path()).client_shm_root(&seen);
        let start = |endpoint: &Endpoint| {
            Listener::<Echo>::builder()
                .endpoint(endpoint)
                .service(&place.name)
                .start(Echo::default())
        };
        assert!(
            start(&endpoint.clone().client_shm_root("seen"))
                .unwrap_err()
                .to_string()
                .contains("absolute path")
        );
        let listener = start(&endpoint).unwrap();
        let raw = place.raw();
        for ring in [&raw.reply.request, &raw.reply.response, &raw.reply.event] {
            assert!(std::str::from_utf8(ring).unwrap().starts_with(seen.to_str().unwrap()));
            let header =
                fs::read(format!("{}-header", std::str::from_utf8(ring).unwrap())).unwrap();
            assert!(header[12..].starts_with(seen.to_str().unwrap().as_bytes()));
        }
        let output = place.c_client(&program, 12328, 100).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("done\n"), "{output:?}");
        drop(raw);
        eventually("all are gone", || {
            listener.with(|_, connections| connections.ids().is_empty()).unwrap()
        });
        assert_eq!(place.left(), Vec::<PathBuf>::new());
    });
}

#[test]
fn events_for_a_client_that_does_not_read_are_dropped_or_end_it() {
    let event = response(9, &[7; 1000]);
    let flood = move |all: &mut Connections<u32>, id: ConnectionId| {
        let mut results = Vec::new();
        for _ in 0..100 {
            results.extend(all.get(id).map(|mut conn| conn.send_event(&event)));
        }
        results
    };
    for (overflow, last) in [
        (Overflow::DropNewest, Some(Err(SendError::QueueFull))),
        (Overflow::Disconnect, Some(Err(SendError::Closed))),
        (Overflow::Block(Duration::from_millis(1)), Some(Err(SendError::Closed))),
    ] {
        let place = Place::new();
        let listener =
            place.builder().event_queue(20_000, overflow).start(Echo::default()).unwrap();
        let mut raw = place.raw();
        let flood = flood.clone();
        let results = listener
            .with(move |_, all| {
                let id = all.ids()[0];
                flood(all, id)
            })
            .unwrap();
        // 12 KiB of ring and 20000 bytes of queue.
        let sent = results.iter().filter(|result| result.is_ok()).count();
        assert!((25..=32).contains(&sent), "{overflow:?}: {sent}");
        assert_eq!(results.last().copied(), last, "{overflow:?}");
        let there = listener.with(|_, all| all.ids().len()).unwrap();
        if overflow == Overflow::DropNewest {
            assert_eq!((there, results.len()), (1, 100));
        } else {
            // One byte for each event that found room in the ring, then the end.
            assert_eq!(there, 0);
            let mut bytes = Vec::new();
            let _ = raw.socket.read_to_end(&mut bytes);
            assert!(raw.is_dropped());
        }
    }
}

#[test]
fn a_blocked_producer_goes_on_when_the_client_reads() {
    let Some(program) = cc(C_CLIENT, &["qb"]) else { return };
    over_each_transport(|transport| {
        let place = Place::over(transport);
        let overflow = Overflow::Block(testbed::WATCHDOG);
        let _listener = place.builder().event_queue(0, overflow).start(Echo::default()).unwrap();
        // The events come before the reply the client waits for, so only as many as the ring has
        // room for would do; the rest waits.
        let output = place.c_client(&program, 12328, 50).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "buffer 12328\nevents 50\ndone\n");
    });
}

#[test]
fn requests_under_flow_control_wait() {
    const LIVE: u32 = 0xA1A1_A1A1;
    let place = Place::new();
    let listener = place.echo();
    let mut raw = place.raw();
    let id = listener
        .with(|_, all| {
            let id = all.ids()[0];
            all.get(id).unwrap().set_flow_control(FlowControl::Requests);
            id
        })
        .unwrap();
    let mut word = [0; 4];
    raw.request_header().read_exact_at(&mut word, 8240).unwrap();
    assert_eq!(u32::from_ne_bytes(word), 1);
    // A client that does not care: nothing is taken until the flow goes on.
    raw.chunk(16, LIVE, &[&0i32.to_ne_bytes()[..], &[0; 12]].concat());
    raw.announce();
    let requests =
        |all: &mut Connections<u32>| all.sessions().map(|(_, count)| *count).sum::<u32>();
    for _ in 0..10 {
        assert_eq!(listener.with(move |_, all| requests(all)).unwrap(), 0);
    }
    listener.with(move |_, all| all.get(id).unwrap().set_flow_control(FlowControl::Off)).unwrap();
    eventually("the request is served", || {
        listener.with(move |_, all| requests(all) == 1).unwrap()
    });
}

#[test]
fn a_late_reply_is_sent_from_elsewhere() {
    const LIVE: u32 = 0xA1A1_A1A1;
    let place = Place::new();
    let listener = place.echo();
    let mut raw = place.raw();
    raw.chunk(16, LIVE, &[&LATE_REPLY.to_ne_bytes()[..], &[0; 12]].concat());
    raw.announce();
    eventually("the request is there", || listener.with(|echo, _| echo.late.len() == 1).unwrap());
    listener
        .with(|echo, all| {
            all.get(echo.late[0]).unwrap().reply(&response(LATE_REPLY, b"late")).unwrap()
        })
        .unwrap();
    let mut count = [0; 8];
    raw.file(&raw.reply.response, "header").read_exact_at(&mut count, 8208).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 1);
}

#[test]
fn socket_files_of_datagrams_are_the_clients_and_go_with_it() {
    let place = Place::over(Transport::Socket);
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::new().socket_dir(directory.path()).shm_root(place.shm.path());
    let gid = if nix::unistd::geteuid().is_root() { 4321 } else { nix::unistd::getegid().as_raw() };
    let uid = nix::unistd::geteuid().as_raw();
    let echo = Echo { access: Some(RingAccess { uid, gid, mode: 0o660 }), ..Echo::default() };
    let builder = Listener::<Echo>::builder().endpoint(&endpoint).service(&place.name);
    let builder = builder.transport(place.transport).generation(Generation::Libqb015);
    let listener = builder.start(echo).unwrap();
    let sockets = || {
        let names = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<_> = names.filter(|it| !it.ends_with(&place.name)).collect();
        names.sort();
        names
    };
    let connect = || {
        let mut socket = UnixStream::connect(directory.path().join(&place.name)).unwrap();
        socket.set_read_timeout(Some(testbed::WATCHDOG)).unwrap();
        socket.write_all(&ConnectRequest { max_msg_size: 8192 }.encode().unwrap()).unwrap();
        let mut reply = vec![0; 12328];
        socket.read_exact(&mut reply).unwrap();
        (socket, ConnectReply::decode(&reply).unwrap())
    };
    let (socket, reply) = connect();
    assert_eq!(reply.error, 0);
    let made = sockets();
    assert_eq!((made.len(), place.left().len()), (2, 1), "{made:?}");
    for path in &made {
        let metadata = fs::metadata(path).unwrap();
        assert_eq!((metadata.gid(), metadata.mode() & 0o777), (gid, 0o660), "{path:?}");
    }
    drop(socket);
    eventually("the client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
    assert_eq!((sockets().len(), place.left().len()), (0, 0));

    // What a killed server of the same process id left behind does not stop the next one, whichever
    // number its descriptor has.
    let (base, _) =
        made[0].to_str().unwrap().strip_suffix("-event-tx").unwrap().rsplit_once('-').unwrap();
    for fd in 0..2000 {
        drop(std::os::unix::net::UnixDatagram::bind(format!("{base}-{fd}-request")).unwrap());
    }
    let (socket, reply) = connect();
    assert_eq!((reply.error, sockets().len()), (0, 2001));
    drop(socket);
    eventually("its sockets are gone", || sockets().len() == 1999);
}

/// How long the server's thread has used the processor.
fn processor_time(listener: &Listener<Echo>) -> Duration {
    let read = || fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let text = listener.with(move |_, _| read()).unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn bytes_on_the_setup_socket_of_datagrams_do_not_make_the_server_spin() {
    const TIME: Duration = Duration::from_millis(300);
    let place = Place::over(Transport::Socket);
    let listener = place.echo();
    for state in [FlowControl::Off, FlowControl::Requests, FlowControl::Sync] {
        let mut raw = place.raw();
        let set = move |all: &mut Connections<u32>| {
            all.ids().into_iter().for_each(|id| all.get(id).unwrap().set_flow_control(state));
        };
        listener.with(move |_, all| set(all)).unwrap();
        raw.socket.write_all(&[0; 3]).unwrap();
        let before = processor_time(&listener);
        std::thread::sleep(TIME);
        let used = processor_time(&listener) - before;
        assert!(used < TIME / 4, "{state:?}: {used:?}");
        assert_eq!(listener.with(|_, all| all.ids().len()).unwrap(), 1);
        // The end of a client that goes on to read.
        raw.socket.shutdown(std::net::Shutdown::Write).unwrap();
        eventually("the client is gone", || listener.with(|_, all| all.ids().is_empty()).unwrap());
        assert_eq!(place.left(), Vec::<PathBuf>::new());
        // A flood ends the connection.
        let mut raw = place.raw();
        listener.with(move |_, all| set(all)).unwrap();
        let _ = raw.socket.write_all(&[0; 100_000]);
        assert!(raw.is_dropped());
    }
}
