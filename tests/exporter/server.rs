//! The HTTP server.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use nix::sys::signal::Signal;
use testbed::{Host, NodeCommand, eventually};

use super::client::{answer, connect, get, request};
use super::{Exporter, program};

testbed::on_each_host! {
    pages_are_served;
    requests_at_the_same_time_share_a_scrape;
    a_signal_ends_it_whatever_is_under_way;
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

/// A client that sends half of a request holds its connection for some seconds only, and then
/// whoever waits behind it is served.
#[test]
fn slow_clients_are_cut_and_others_served() {
    let exporter = Exporter::spawn(embedded());
    // As many as it serves at a time, and more.
    let slow: Vec<_> = (0..80)
        .map(|number| {
            let mut stream = connect(&exporter.address);
            if number % 2 == 0 {
                stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(exporter.get("/healthz").status, 200);
    for mut stream in slow.into_iter().take(64) {
        let mut rest = Vec::new();
        // It may be told that it was too slow.
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408 "), "{rest}");
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
fn an_address_that_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = |args: &[&str]| NodeCommand::here(program()).arg("exporter").args(args).run();
    let output = run(&["--listen", &address]);
    assert_eq!((output.code(), output.stdout.as_str()), (1, ""), "{output:?}");
    assert!(output.stderr.contains(&address) && output.stderr.contains("--listen"), "{output:?}");
    for wrong in ["9664", "localhost", "127.0.0.1"] {
        assert_eq!(run(&["--listen", wrong]).code(), 2, "{wrong}");
    }
    assert_eq!(run(&["--web.systemd-socket"]).code(), 1);
    let json = NodeCommand::here(program()).args(["--json", "metrics"]).run();
    assert_eq!((json.code(), json.stdout.as_str()), (2, ""), "{json:?}");
}

#[test]
fn it_listens_at_several_addresses() {
    let exporter = Exporter::spawn(embedded().args(["--listen", "127.0.0.2:0"]));
    let ready: serde_json::Value = serde_json::from_str(&exporter.process.stdout()).unwrap();
    let addresses = ready["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 2, "{ready}");
    for address in addresses {
        assert_eq!(get(address.as_str().unwrap(), "/healthz", &[]).status, 200);
    }
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
    let ready: serde_json::Value = serde_json::from_str(&exporter.process.stdout()).unwrap();
    for number in 0..2 {
        let address = ready["addresses"][number].as_str().unwrap();
        assert!(get(address, "/metrics", &[]).body.contains("\ncorosync_up 0\n"));
    }
    exporter.end();
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
