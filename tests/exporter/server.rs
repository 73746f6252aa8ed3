//! The HTTP server.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process;
use std::thread;

use nix::sys::signal::Signal;
use testbed::{Host, NodeCommand, Process, eventually, fill, folder, full_pipe};

use super::client::{answer, connect, get, request};
use super::{Exporter, program};

testbed::on_each_host! {
    pages_are_served;
    requests_at_the_same_time_share_a_scrape;
    a_signal_ends_it_whatever_is_under_way;
    a_second_signal_ends_it_at_once;
    clients_leave_a_scrape_its_descriptors;
    nobody_has_to_read_what_it_says;
}

fn pages_are_served(host: &Host) {
    let exporter = Exporter::start(host, &[]);
    let health = exporter.get("/healthz");
    assert_eq!((health.status, health.body.as_str()), (200, "ok\n"));
    let index = exporter.get("/");
    assert!(index.status == 200 && index.body.contains("/metrics"), "{index:?}");
    assert_eq!(exporter.get("/nothing").status, 404);
    let metrics = exporter.get("/metrics?x=1");
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(metrics.header("cache-control"), "no-store");
    let head = request(&exporter.address, "HEAD", "/metrics", &[]);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 1000);
    for method in ["POST", "DELETE", "OPTIONS"] {
        let refused = request(&exporter.address, method, "/metrics", &[]);
        assert_eq!((refused.status, refused.header("allow")), (405, "get, head"), "{method}");
    }
}

/// A stopped daemon lets each scrape take the whole time-out, so that requests meet.
fn requests_at_the_same_time_share_a_scrape(host: &Host) {
    let exporter = Exporter::start(host, &["--timeout", "2s"]);
    let scrapes = || exporter.metrics().value("corosync_exporter_scrapes_total");
    assert_eq!((scrapes(), scrapes()), (1.0, 2.0));
    let paused = host.pause();
    // Sent before any of them is answered.
    let streams: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = connect(&exporter.address);
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for stream in streams {
        let page = answer(stream);
        assert!(page.body.contains("\ncorosync_up 0\n"), "{page:?}");
    }
    drop(paused);
    let scrapes = scrapes();
    assert!((4.0..12.0).contains(&scrapes), "{scrapes} scrapes for 23 requests");
}

fn a_signal_ends_it_whatever_is_under_way(host: &Host) {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut exporter = Exporter::start(host, &["--timeout", "2s"]);
        // One that has sent nothing, one that has sent a half, and one that waits for an answer.
        let mut idle = connect(&exporter.address);
        let mut half = connect(&exporter.address);
        half.write_all(b"GET /metrics HT").unwrap();
        let mut whole = connect(&exporter.address);
        let paused = host.pause();
        whole.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // Served before the next one, so the others are being served, too.
        assert_eq!(exporter.get("/healthz").status, 200);
        exporter.process.signal(signal);
        assert!(answer(whole).body.contains("corosync_up 0"));
        assert_eq!(idle.read(&mut [0]).ok(), Some(0));
        let output = exporter.process.wait();
        assert_eq!(output.code(), 0, "{output:?}");
        drop(paused);
    }
}

fn a_second_signal_ends_it_at_once(host: &Host) {
    let mut exporter = Exporter::start(host, &["--timeout", "60m"]);
    let paused = host.pause();
    let mut whole = connect(&exporter.address);
    whole.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Served before the next one, so it is being served, too.
    assert_eq!(exporter.get("/healthz").status, 200);
    exporter.process.signal(Signal::SIGTERM);
    eventually("it takes no clients any more", || TcpStream::connect(&exporter.address).is_err());
    exporter.process.signal(Signal::SIGINT);
    let output = exporter.process.wait();
    assert_eq!(output.code(), -(Signal::SIGINT as i32), "{output:?}");
    drop(paused);
}

/// More clients than the process may have descriptors, and they stay.
fn clients_leave_a_scrape_its_descriptors(host: &Host) {
    let command = host.command("sh").args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]);
    let command = command.arg(program()).args(["exporter", "--listen", "127.0.0.1:0"]);
    let exporter = Exporter::spawn(command);
    eventually("it observes the daemon", || {
        exporter.metrics().value("corosync_exporter_connected") == 1.0
    });
    let clients: Vec<TcpStream> = (0..80).map(|_| connect(&exporter.address)).collect();
    for _ in 0..3 {
        let metrics = exporter.metrics();
        assert_eq!(metrics.value("corosync_up"), 1.0);
        for part in metrics.beginning("corosync_scrape_part_failed") {
            assert_eq!(part.value, 0.0, "{part:?}");
        }
    }
    drop(clients);
    exporter.end();
}

/// Its log is a pipe that is full.
fn nobody_has_to_read_what_it_says(host: &Host) {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    for verbose in [&[][..], &["-v"]] {
        let mut reader = full_pipe(&pipe);
        let command = host.command("sh").args(["-c", "exec \"$@\" 2>\"$0\""]).arg(&pipe);
        let command = command.arg(program()).args(["exporter", "--listen", "127.0.0.1:0"]);
        let exporter = Exporter::spawn(command.args(["--timeout", "1s"]).args(verbose));
        let paused = host.pause();
        for _ in 0..3 {
            assert_eq!(exporter.metrics().value("corosync_up"), 0.0);
        }
        let mut text = Vec::new();
        let _ = reader.read_to_end(&mut text);
        // It was not lost, but told late.
        assert_eq!(exporter.metrics().value("corosync_up"), 0.0);
        drop(paused);
        eventually("the daemon answers again", || exporter.metrics().value("corosync_up") == 1.0);
        text.clear();
        let _ = reader.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = |end: &str| text.lines().any(|line| line.contains(end));
        assert!(line("CS_ERR_TIMEOUT") && line(": corosync answers in full again"), "{text}");
        assert_eq!(line("lines of the log are missing here"), !verbose.is_empty(), "{text}");
        fill(&mut reader);
        let output = exporter.end();
        assert_eq!(output.code(), 0, "{output:?}");
    }
}

/// Whoever sends no request makes room when others come, the oldest first.
#[test]
fn clients_without_a_request_make_room() {
    let exporter = Exporter::spawn(embedded());
    // On a slow machine the others may have been dropped, too, as slow clients are.
    eventually("the oldest make room and the others stay", || {
        // More than it serves at a time. Each second one sends half of a request.
        let mut clients: Vec<TcpStream> =
            (0..70).map(|number| idle(&exporter.address, number % 2 == 0)).collect();
        assert_eq!(exporter.get("/healthz").status, 200);
        let mut late = clients.swap_remove(31);
        let _ = late.write_all(b"GET /healthz HTTP/1.1\r\n\r\n");
        let mut answer = String::new();
        let _ = late.read_to_string(&mut answer);
        let dropped = clients.first_mut().is_some_and(|oldest| rest_of(oldest).is_empty());
        dropped && answer.starts_with("HTTP/1.1 200 ")
    });
    exporter.end();
}

/// A client that sends half of a request holds its connection for some seconds only.
#[test]
fn slow_clients_are_cut() {
    let exporter = Exporter::spawn(embedded());
    let clients = [true, false].map(|has_begun| idle(&exporter.address, has_begun));
    for mut client in clients {
        assert_eq!(rest_of(&mut client), "");
    }
    exporter.end();
}

/// A client that sends no whole request.
fn idle(address: &str, has_begun: bool) -> TcpStream {
    let mut stream = connect(address);
    if has_begun {
        stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    }
    stream
}

/// What comes until the other side closes the connection.
#[track_caller]
fn rest_of(stream: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        // Closed with bytes unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        result => _ = result.expect("it is closed"),
    }
    String::from_utf8_lossy(&rest).into_owned()
}

/// As `nc -N` does.
#[test]
fn a_client_may_close_its_half() {
    let exporter = Exporter::spawn(embedded());
    let send = |bytes: &[u8]| {
        let mut stream = connect(&exporter.address);
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest_of(&mut stream)
    };
    for _ in 0..20 {
        let metrics = send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(metrics.contains("\ncorosync_up 1\n"), "{metrics}");
    }
    for nothing in [&b""[..], b"GET /met", b"GET /metrics HTTP/1.1\r\n"] {
        assert_eq!(send(nothing), "");
    }
    exporter.end();
}

#[test]
fn what_is_no_request_is_refused() {
    let exporter = Exporter::spawn(embedded());
    let send = |bytes: &[u8]| {
        let mut stream = connect(&exporter.address);
        // It may close before it has read everything.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    for garbage in [&b"\r\n\r\n\x00\xff\r\n\r\n"[..], b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"] {
        let answer = send(garbage);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage:?}: {answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for head in [long, many] {
        // It closes with bytes unread, so the answer may be lost.
        let answer = send(head.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert_eq!(exporter.get("/healthz").status, 200);
    exporter.end();
}

#[test]
fn an_address_that_cannot_be_had_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let run = |args: &[&str]| NodeCommand::here(program()).arg("exporter").args(args).run();
    let others = [&format!("127.0.0.1:{port}"), &format!(":{port}"), "a..b:9664", "192.0.2.1:0"];
    for address in others {
        let output = run(&["--listen", address]);
        assert_eq!((output.code(), output.stdout.as_str()), (1, ""), "{address}: {output:?}");
        let named = format!("--listen {address}: ");
        assert!(output.stderr.contains(&named), "{address}: {output:?}");
    }
    let wrong =
        ["9664", "localhost", "127.0.0.1", "::1:9664", "[::1]", "[a]:1", ":", ":x", "a:65536", ""];
    for wrong in wrong {
        let output = run(&["--listen", wrong]);
        assert_eq!(output.code(), 2, "{wrong}: {output:?}");
        assert!(output.stderr.contains("'--listen <ADDRESS>'"), "{wrong}: {output:?}");
    }
    assert_eq!(run(&["--web.systemd-socket"]).code(), 1);
    let json = NodeCommand::here(program()).args(["--json", "metrics"]).run();
    assert_eq!((json.code(), json.stdout.as_str()), (2, ""), "{json:?}");
}

#[test]
fn it_listens_at_several_addresses() {
    let exporter = Exporter::spawn(embedded().args(["--listen", "127.0.0.2:0"]));
    let addresses = exporter.addresses();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in addresses {
        assert_eq!(get(&address, "/healthz", &[]).status, 200);
    }
}

/// As other exporters do.
#[test]
fn it_listens_at_all_addresses_and_at_those_of_a_name() {
    let command = NodeCommand::here(program()).args(["--embedded", "exporter"]);
    let command = command.args(["--web.listen-address", ":0", "--listen", "localhost:0"]);
    let exporter = Exporter::spawn(command);
    let [all, localhost] = &exporter.addresses()[..] else { panic!("{:?}", exporter.addresses()) };
    assert!(localhost.starts_with("127.0.0.1:"), "{localhost}");
    assert_eq!(get(localhost, "/healthz", &[]).status, 200);
    let port = all.rsplit_once(':').unwrap().1;
    let mut own = vec!["127.0.0.1", "127.0.0.2"];
    if TcpListener::bind("[::1]:0").is_ok() {
        own.push("[::1]");
    }
    for address in own {
        assert_eq!(get(&format!("{address}:{port}"), "/healthz", &[]).status, 200);
    }
    exporter.end();
}

/// Standard output may be closed, or a pipe that is full.
#[test]
fn nobody_has_to_read_its_first_line() {
    let folder = folder();
    let pipe = folder.path().join("pipe");
    let full = full_pipe(&pipe);
    // Nobody else has this one.
    let [.., high, low] = process::id().to_be_bytes();
    let address = format!("127.92.{high}.{low}:9664");
    let closed = "exec 3<>\"$0\" 1>\"$0\" 3>&-; exec \"$@\"";
    let start = |script: &str| {
        let command = NodeCommand::here("sh").args(["-c", script]).arg(&pipe).arg(program());
        command.args(["exporter", "--listen", &address]).spawn()
    };
    let serves = |mut exporter: Process| {
        eventually("it serves", || {
            assert!(exporter.is_running(), "{}", exporter.stderr());
            TcpStream::connect(&address).is_ok()
        });
        assert_eq!(get(&address, "/healthz", &[]).status, 200);
        exporter.signal(Signal::SIGTERM);
        let output = exporter.wait();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{output:?}");
    };
    serves(start("exec \"$@\" >\"$0\""));
    drop(full);
    serves(start(closed));
}

/// As systemd's socket unit starts it.
#[test]
fn it_serves_at_the_sockets_of_systemd() {
    const START: &str = "import os, socket, sys
taken = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
for number, one in enumerate(taken): os.dup2(one.fileno(), 103 + number)
for number in range(2): os.dup2(103 + number, 3 + number)
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])";
    if testbed::lacks("python3") {
        return;
    }
    let command = NodeCommand::here("python3").args(["-c", START]).arg(program());
    let exporter = Exporter::spawn(command.args(["exporter", "--web.systemd-socket"]));
    let addresses = exporter.addresses();
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    for address in addresses {
        assert!(get(&address, "/metrics", &[]).body.contains("\ncorosync_up 0\n"));
    }
    exporter.end();
}

/// As a socket unit for a program that takes one connection starts it, and another that is wrong.
#[test]
fn sockets_that_take_no_connections_are_refused() {
    const START: &str = "import os, socket, sys
server = socket.create_server(('127.0.0.1', 0))
bound = socket.socket()
bound.bind(('127.0.0.1', 0))
given = {'connected': socket.create_connection(server.getsockname()),
    'bound': bound, 'unbound': socket.socket()}[sys.argv[1]]
os.dup2(given.fileno(), 103)
os.dup2(103, 3)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])";
    if testbed::lacks("python3") {
        return;
    }
    for given in ["connected", "bound", "unbound"] {
        let command = NodeCommand::here("python3").args(["-c", START, given]).arg(program());
        let output = command.args(["exporter", "--web.systemd-socket"]).run();
        assert_eq!((output.code(), output.stdout.as_str()), (1, ""), "{output:?}");
        assert!(output.stderr.contains("Accept=no"), "{output:?}");
    }
}

/// An exporter with a daemon of its own, at a port that is free.
fn embedded() -> NodeCommand {
    let command = NodeCommand::here(program()).args(["--embedded", "exporter"]);
    command.args(["--listen", "127.0.0.1:0"])
}

#[test]
fn an_embedded_daemon_ends_with_it() {
    let exporter = Exporter::spawn(embedded());
    eventually("it observes its daemon", || {
        exporter.metrics().value("corosync_exporter_connected") == 1.0
    });
    let output = exporter.end();
    assert_eq!(output.code(), -(Signal::SIGTERM as i32), "{output:?}");
}

/// Many threads at once, each with one request after the other.
#[test]
fn many_clients_are_served_at_once() {
    let exporter = Exporter::spawn(embedded());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert_eq!(exporter.metrics().value("corosync_up"), 1.0);
                }
            });
        }
    });
    assert!(exporter.metrics().value("corosync_exporter_scrapes_total") < 16.0 * 20.0);
}
