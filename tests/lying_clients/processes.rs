//! Processes that share a connection, are killed, or are stopped.

use std::env;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::raw::{Ring, request};
use testbed::{Process, eventually};

use crate::liar::{Liar, OK, join, multicast, set, track};
use crate::stage::{BOTH, Case, RINGS, Served, Stage, case, helper};

/// A process that holds a connection, and does nothing with it.
struct Holder(Child);

impl Holder {
    fn of(setup: &UnixStream) -> Self {
        let socket = OwnedFd::from(setup.try_clone().unwrap());
        let child = Command::new("sleep").arg("600").stdin(Stdio::from(socket)).spawn();
        Self(child.unwrap())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client in a process of its own, which does as it is told.
fn client(stage: &Stage, does: &str) -> Process {
    let (folder, transport) = (stage.folder().to_str().unwrap(), stage.transport.to_string());
    let know = [("FOLDER", folder), ("TRANSPORT", &transport), ("DOES", does)];
    helper("processes::lies", &know).spawn()
}

pub(crate) fn cases() -> Vec<(Served, Vec<Case>)> {
    let cases = vec![
        case("a child that keeps the connection of its parent", BOTH, |stage| {
            let liar = stage.connect("cpg");
            liar.send(&join("shared", 7)).answers(0, OK);
            let (holder, directory) = (Holder::of(&liar.setup), liar.directory());
            drop(liar);
            stage.others_are_served();
            assert!(directory.exists(), "the child holds the connection");
            stage.hold(holder);
        }),
        case("a child that is killed with the connection of its parent", BOTH, |stage| {
            let liar = stage.connect("cpg");
            let holder = Holder::of(&liar.setup);
            kill(Pid::from_raw(holder.0.id() as i32), Signal::SIGKILL).unwrap();
            liar.works();
            stage.hold((liar, holder));
        }),
        case("a child that closes the connection of its parent", BOTH, |stage| {
            let liar = stage.connect("cpg");
            let holder = Holder::of(&liar.setup);
            liar.setup.shutdown(std::net::Shutdown::Both).unwrap();
            liar.cut();
            stage.hold(holder);
        }),
        case("a child that sends through the rings of its parent", RINGS, |stage| {
            let liar = stage.connect("cmap");
            liar.send(&track("shared.")).answers(7, OK);
            let socket = OwnedFd::from(liar.setup.try_clone().unwrap());
            let know = [("BASE", std::str::from_utf8(&liar.reply.names[0]).unwrap())];
            // Not by the testbed's command, whose programs have no standard input of ours.
            let mut child = Command::new(env::current_exe().unwrap())
                .args(["--exact", "processes::shares", "--ignored", "--nocapture"])
                .envs(know)
                .stdin(Stdio::from(socket))
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            for number in 0..500_u32 {
                if liar.is_cut() {
                    break;
                }
                liar.try_send(&set("shared.key", &number.to_ne_bytes()));
                while liar.try_reply().is_some() || liar.try_event().is_some() {}
            }
            eventually("the child has ended", || child.try_wait().unwrap().is_some());
            stage.hold(liar);
        }),
        case("processes that are killed while they ask", BOTH, |stage| {
            for does in ["ask", "ask", "multicast", "multicast"] {
                let process = client(stage, does);
                process.wait_stdout("ready");
                process.kill();
            }
        }),
        case("a process that is killed while it connects", BOTH, |stage| {
            for _ in 0..3 {
                let process = client(stage, "connect");
                process.wait_stdout("ready");
                process.kill();
            }
        }),
        case("a process that is stopped while it asks", BOTH, |stage| {
            let mut process = client(stage, "ask");
            process.wait_stdout("ready");
            process.signal(Signal::SIGSTOP);
            stage.others_are_served();
            stage.hold(process);
        }),
        case("a member that is stopped while it multicasts", BOTH, |stage| {
            let mut process = client(stage, "multicast");
            process.wait_stdout("ready");
            process.signal(Signal::SIGSTOP);
            stage.others_are_served();
            stage.hold(process);
        }),
    ];
    vec![(Served::Corosync, cases)]
}

#[test]
#[ignore = "run by other tests, as the client of a server"]
fn lies() {
    let know = |name| env::var(name).unwrap();
    let folder = know("FOLDER");
    let service = |name: &str| Path::new(&folder).join(name);
    match know("DOES").as_str() {
        "connect" => {
            let connect = || Liar::at(&service("cpg"), "cpg", 65536);
            drop(connect());
            println!("ready");
            loop {
                drop(connect());
            }
        }
        "multicast" => {
            let liar = Liar::at(&service("cpg"), "cpg", 65536);
            liar.send(&join("killed", std::process::id() as i32)).answers(0, OK);
            println!("ready");
            loop {
                liar.try_send(&multicast(&[7; 3000]));
                while liar.try_event().is_some() {}
            }
        }
        _ => {
            let liar = Liar::at(&service("cmap"), "cmap", 65536);
            liar.send(&track("killed.")).answers(7, OK);
            println!("ready");
            for number in 0_u32.. {
                liar.send(&set("killed.key", &number.to_ne_bytes())).answers(0, OK);
            }
        }
    }
}

/// Puts requests into the ring of another process, whose setup socket is the standard input.
#[test]
#[ignore = "run by other tests, as a child of a client"]
fn shares() {
    let ring = Ring::open(Path::new(&env::var("BASE").unwrap())).unwrap();
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned().unwrap();
    let mut setup = UnixStream::from(stdin);
    for number in 0..500_u32 {
        if ring.has_room(400) {
            ring.put(&set("shared.key", &number.to_ne_bytes()));
            ring.put(&request(99, &[]));
        }
        if setup.write_all(&[0, 0]).is_err() {
            break;
        }
    }
}
