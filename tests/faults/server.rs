//! A server that runs out of descriptors or address space.

use std::fs;
use std::io::{BufRead, stdin};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::server::Transport;
use corosync_ipc::{ENV_SHM_ROOT, ENV_SOCKET_DIR, Endpoint, Error, cmap};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use testbed::{NodeCommand, Patience, Process, shm_folder};

use crate::clients::{LONG, Taken};
use crate::lack::{address_space, next_descriptor, page_size};

/// A server in a process of its own, whose limits the test sets.
struct Server {
    process: Process,
    folder: TempDir,
    orders: usize,
}

impl Server {
    fn start(transport: &str) -> Self {
        let folder = shm_folder();
        let command = NodeCommand::here(std::env::current_exe().unwrap());
        let args = ["--exact", "server::as_a_server", "--ignored", "--nocapture"];
        let command = command.args(args).env(ENV_SOCKET_DIR, folder.path());
        let command = command.env(ENV_SHM_ROOT, folder.path()).env("TRANSPORT", transport);
        let process = command.interactive().limit(LONG).spawn();
        process.wait_stdout("serving");
        Self { process, folder, orders: 0 }
    }

    fn endpoint(&self) -> Endpoint {
        let folder = self.folder.path();
        Endpoint::new().socket_dir(folder).shm_root(folder).timeout(LONG)
    }

    /// Gives an order, and waits until it is done.
    fn order(&mut self, order: &str) {
        self.process.write(format!("{order}\n"));
        self.orders += 1;
        self.process.wait_stdout(&format!("done {}", self.orders));
    }

    fn taken(&self) -> Taken {
        Taken::by_process(self.process.pid(), self.folder.path())
    }

    /// Waits until it has no more than this.
    #[track_caller]
    fn has_again(&self, before: &Taken) {
        let patience = Patience::new();
        while self.taken() != *before {
            assert!(!patience.is_over(), "it had {before:?} and has {:?}", self.taken());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The processor's time, in clock ticks.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

#[test]
#[ignore = "run by other tests"]
fn as_a_server() {
    let socket = std::env::var("TRANSPORT").unwrap() == "socket";
    let transport = if socket { Transport::Socket } else { Transport::Shm };
    let endpoint = Endpoint::from_env().unwrap();
    let corosync = Corosync::builder().endpoint(&endpoint).transport(transport).start().unwrap();
    println!("serving");
    let unlimited =
        [Resource::RLIMIT_NOFILE, Resource::RLIMIT_AS].map(|it| (it, getrlimit(it).unwrap()));
    for (number, line) in stdin().lock().lines().enumerate() {
        let line = line.unwrap();
        let (order, more) = line.split_once(' ').unwrap();
        let more: u64 = more.parse().unwrap();
        let (_, hard) = unlimited[0].1;
        match order {
            "descriptors" => {
                setrlimit(Resource::RLIMIT_NOFILE, next_descriptor() + more, hard).unwrap();
            }
            "memory" => {
                let (_, hard) = unlimited[1].1;
                let limit = address_space() + more * page_size();
                setrlimit(Resource::RLIMIT_AS, limit, hard).unwrap();
            }
            _ => unlimited
                .iter()
                .for_each(|(resource, (soft, hard))| setrlimit(*resource, *soft, *hard).unwrap()),
        }
        println!("done {}", number + 1);
    }
    drop(corosync);
}

/// Connects while the server has little, then again while it has enough.
fn survives(transport: &str, order: &str, steps: impl Iterator<Item = u64>, errno: i32) {
    let mut server = Server::start(transport);
    let endpoint = server.endpoint();
    let hasty = endpoint.clone().connect_timeout(Duration::from_millis(100));
    let honest = cmap::Client::connect_to(&endpoint).unwrap();
    let before = server.taken();
    for (refusals, more) in steps.enumerate() {
        server.order(&format!("{order} {more}"));
        match cmap::Client::connect_to(&hasty) {
            Ok(_) => {
                assert!(refusals > 0, "it has enough at once");
                break;
            }
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(errno) => {}
            // It accepts nobody.
            Err(Error::TimedOut { .. }) => {}
            Err(error) => panic!("{transport}, {more} more: {error:?}"),
        }
        honest.set("server.key", more).unwrap();
        server.order("unlimited 0");
        cmap::Client::connect_to(&endpoint).unwrap();
        server.has_again(&before);
    }
    server.order("unlimited 0");
    assert!(honest.get_as::<u64>("server.key").unwrap().is_some());
    server.has_again(&before);
    server.process.close_input();
    server.process.wait().success();
}

#[test]
fn a_server_survives_a_lack_of_each_descriptor() {
    ["shm", "socket"].into_iter().for_each(|it| survives(it, "descriptors", 0..30, libc::EMFILE));
}

#[test]
fn a_server_survives_a_lack_of_each_mapping() {
    ["shm", "socket"].into_iter().for_each(|it| survives(it, "memory", 0..60, libc::ENOMEM));
}

#[test]
fn a_server_that_can_accept_nobody_does_not_spin_and_serves_again() {
    let mut server = Server::start("shm");
    let endpoint = server.endpoint();
    let honest = cmap::Client::connect_to(&endpoint).unwrap();
    server.order("descriptors 0");
    thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..20).map(|_| scope.spawn(|| cmap::Client::connect_to(&endpoint))).collect();
        let (begun, ticks) = (Instant::now(), server.ticks());
        while begun.elapsed() < Duration::from_secs(1) {
            honest.get("totem.version").unwrap();
            thread::sleep(Duration::from_millis(50));
        }
        let used = server.ticks() - ticks;
        // A tick is a hundredth of a second.
        let limit = begun.elapsed().as_millis() as u64 / 10 / 3;
        assert!(used < limit, "{used} ticks of a processor in {:?}", begun.elapsed());
        assert!(!waiting.iter().any(|it| it.is_finished()), "nobody was accepted");
        server.order("unlimited 0");
        for client in waiting {
            client.join().unwrap().unwrap().get("totem.version").unwrap();
        }
    });
}
