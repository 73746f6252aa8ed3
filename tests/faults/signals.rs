//! A storm of signals that interrupt every system call.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::codec::{Header, Kind};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::server::Transport;
use corosync_ipc::{Dispatcher, Endpoint, Error, Round, cmap, libqb};
use nix::libc::{self, c_int};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::{getpid, gettid};
use testbed::{Host, NodeCommand, Random, Scripted, private_endpoint};

use crate::clients::{Clients, LONG, SERVICES, endpoint, leaves_nothing};

testbed::on_each_host! {
    clients_survive_a_storm_of_signals;
}

fn clients_survive_a_storm_of_signals(host: &Host) {
    leaves_nothing(host, "signals::as_clients_in_a_storm");
}

static SIGNALS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Runs a body while each thread of the process gets a signal after 100 µs to `most`, again and
/// again. Its handler does not restart system calls.
fn in_a_storm<T>(most: Duration, body: impl FnOnce() -> T) -> T {
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(1);
            let mut threads: Vec<i32> = Vec::new();
            for round in 0_u64.. {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                if round % 32 == 0 {
                    let all = fs::read_dir("/proc/self/task").unwrap().flatten();
                    threads.clear();
                    threads
                        .extend(all.filter_map(|it| it.file_name().to_str()?.parse::<i32>().ok()));
                    threads.retain(|it| *it != gettid().as_raw());
                }
                for thread in &threads {
                    let (process, signal) = (getpid().as_raw(), Signal::SIGUSR1 as c_int);
                    // SAFETY: a system call with three numbers. A thread may have ended.
                    unsafe { libc::syscall(libc::SYS_tgkill, process, *thread, signal) };
                }
                let more = random.below(most.as_micros() as u64 - 99);
                thread::sleep(Duration::from_micros(100 + more));
            }
        });
        let result = body();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
#[ignore = "run by other tests"]
fn as_clients_in_a_storm() {
    in_a_storm(Duration::from_millis(1), || {
        let endpoint = endpoint();
        for _ in 0..10 {
            SERVICES.iter().for_each(|(_, connect)| connect(&endpoint).unwrap());
        }
        let clients = Clients::connect(&endpoint).unwrap();
        clients.use_all("storm").unwrap();
        for number in 0..200_u32 {
            clients.cmap.set("faults.storm", number).unwrap();
            assert_eq!(clients.cmap.get_as("faults.storm").unwrap(), Some(number));
        }
        waits_keep_their_deadlines(&clients.cmap);
    });
    assert!(SIGNALS.load(Ordering::Relaxed) > 100);
}

/// A wait that began anew with each signal would never end.
fn waits_keep_their_deadlines(client: &cmap::Client) {
    let pause = Duration::from_millis(150);
    let (begun, before) = (Instant::now(), SIGNALS.load(Ordering::Relaxed));
    assert!(client.next_event(pause).unwrap().is_none());
    assert!(begun.elapsed() >= pause);
    let mut dispatcher = Dispatcher::<()>::new().unwrap();
    let begun = Instant::now();
    assert_eq!(dispatcher.round(&mut (), pause).unwrap(), Round::TimedOut);
    assert!(begun.elapsed() >= pause);

    let (private, _folder) = private_endpoint();
    let _silent = Scripted::silent(&private, "silent");
    let silent = libqb::Client::connect_to(&private.timeout(LONG), "silent", 8192).unwrap();
    silent.set_request_timeout(pause);
    let request = Header { id: 0, size: 0, error: 0 }.encode(Kind::Request, &[]).unwrap();
    let begun = Instant::now();
    let error = silent.request(&request).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
    assert!(begun.elapsed() >= pause);
    assert!(SIGNALS.load(Ordering::Relaxed) > before);
}

#[test]
fn a_server_survives_a_storm_of_signals() {
    let this = NodeCommand::here(std::env::current_exe().unwrap());
    let args = ["--exact", "signals::as_a_server_in_a_storm", "--ignored", "--nocapture"];
    assert!(this.args(args).limit(LONG).run().success().contains("1 passed"));
}

#[test]
#[ignore = "run by other tests"]
fn as_a_server_in_a_storm() {
    in_a_storm(Duration::from_millis(1), || {
        for transport in [Transport::Shm, Transport::Socket] {
            let corosync = Corosync::builder().transport(transport).start().unwrap();
            let endpoint = corosync.endpoint().clone().timeout(LONG);
            let clients = Clients::connect(&endpoint).unwrap();
            clients.use_all("storm").unwrap();
        }
    });
    in_a_storm(Duration::from_micros(100), large_rings_are_made);
}

/// Their files take longer to make than two signals are apart.
fn large_rings_are_made() {
    let (private, _folder) = private_endpoint();
    let endpoint: Endpoint = private.timeout(LONG);
    let _silent = Scripted::silent(&endpoint, "silent");
    for _ in 0..3 {
        libqb::Client::connect_to(&endpoint, "silent", 16 << 20).unwrap();
    }
}
