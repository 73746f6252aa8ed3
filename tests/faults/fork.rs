//! A fork with clients that are connected.

use std::io::{Read, Write};
use std::ops::ControlFlow::Continue;
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;
use std::time::Duration;

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{GroupName, Guarantee};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::supervise::Supervised;
use corosync_ipc::{Dispatcher, Endpoint, Error, Result, cmap};
use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use testbed::{Host, next};

use crate::clients::{Clients, endpoint, leaves_nothing};

testbed::on_each_host! {
    a_child_goes_on_with_all_clients;
    a_child_goes_on_after_its_parent_has_ended;
    a_parent_goes_on_after_a_child_that_uses_nothing;
    a_parent_that_drops_a_client_ends_it_for_the_child;
    a_client_refuses_a_child_if_asked_to;
}

fn a_child_goes_on_with_all_clients(host: &Host) {
    leaves_nothing(host, "fork::as_a_parent_that_waits");
}

fn a_child_goes_on_after_its_parent_has_ended(host: &Host) {
    leaves_nothing(host, "fork::as_a_parent_that_ends");
}

fn a_parent_goes_on_after_a_child_that_uses_nothing(host: &Host) {
    leaves_nothing(host, "fork::as_a_parent_that_goes_on");
}

fn a_parent_that_drops_a_client_ends_it_for_the_child(host: &Host) {
    leaves_nothing(host, "fork::as_a_parent_that_drops");
}

fn a_client_refuses_a_child_if_asked_to(host: &Host) {
    leaves_nothing(host, "fork::as_an_owner");
}

/// Runs a body in a child, which then ends without destructors but the body's.
fn in_a_child(body: impl FnOnce()) -> nix::unistd::Pid {
    // SAFETY: the other threads of this process wait for this test, and hold no lock that the child
    // needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let result = catch_unwind(AssertUnwindSafe(body));
            end(result.is_err().into());
        }
    }
}

/// Ends this process without any destructor.
fn end(status: i32) -> ! {
    // SAFETY: nothing is left to be done in this process.
    unsafe { libc::_exit(status) }
}

#[track_caller]
fn succeeds(child: nix::unistd::Pid) {
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
}

#[test]
#[ignore = "run by other tests"]
fn as_a_parent_that_waits() {
    let clients = Clients::connect(&endpoint()).unwrap();
    // Made by the parent, for the child.
    clients.cmap.track_add("fork.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    clients.cmap.waker().unwrap();
    let clients = Some(clients);
    let child = in_a_child(|| {
        let clients = clients.as_ref().unwrap();
        clients.cmap.set("fork.key", 1_u8).unwrap();
        next(&clients.cmap);
        clients.use_all("fork").unwrap();
        let mut dispatcher = Dispatcher::new().unwrap();
        // By a duplicate, since the parent drops its own.
        let other = cmap::Client::connect_to(&endpoint()).unwrap();
        dispatcher
            .add(other, |_: &mut (), _, control| {
                control.stop();
                Continue(())
            })
            .unwrap();
        dispatcher.round(&mut (), Duration::ZERO).unwrap();
    });
    succeeds(child);
}

#[test]
#[ignore = "run by other tests"]
fn as_a_parent_that_ends() {
    let (mut reader, writer) = UnixStream::pair().unwrap();
    let parent = in_a_child(|| as_a_parent_of(writer));
    succeeds(parent);
    let mut result = String::new();
    // Until the grandchild ends.
    reader.read_to_string(&mut result).unwrap();
    assert_eq!(result, "all is well");
}

/// Connects, leaves the clients to a child, and ends.
fn as_a_parent_of(mut writer: UnixStream) {
    let parent = std::process::id();
    let clients = Clients::connect(&endpoint()).unwrap();
    // Borrows: what it owned would be dropped here.
    in_a_child(|| {
        while parent_id() == parent {
            thread::sleep(Duration::from_millis(1));
        }
        clients.use_all("fork").unwrap();
        writer.write_all(b"all is well").unwrap();
    });
    end(0);
}

#[test]
#[ignore = "run by other tests"]
fn as_a_parent_that_goes_on() {
    let clients = Clients::connect(&endpoint()).unwrap();
    succeeds(in_a_child(|| {}));
    clients.use_all("fork").unwrap();
}

#[test]
#[ignore = "run by other tests"]
fn as_a_parent_that_drops() {
    let clients = Clients::connect(&endpoint()).unwrap();
    let (mut reader, dropped) = UnixStream::pair().unwrap();
    let mut clients = Some(clients);
    let child = in_a_child(|| {
        // Its own copy of the pipe's end has another owner: wait for the parent's byte.
        reader.read_exact(&mut [0]).unwrap();
        let clients = clients.as_ref().unwrap();
        let error = clients.cmap.get("totem.version").unwrap_err();
        assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    });
    clients = None;
    (&dropped).write_all(&[0]).unwrap();
    succeeds(child);
    drop(clients);
}

#[test]
#[ignore = "run by other tests"]
fn as_an_owner() {
    let endpoint = endpoint().refuse_forks(true);
    let clients = Clients::connect(&endpoint).unwrap();
    clients.cmap.track_add("fork.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    let mut clients = Some(clients);
    let pid = std::process::id();
    let child = in_a_child(|| {
        let Clients { cmap, cpg, quorum, votes, cfg } = clients.take().unwrap();
        let refused = |result: Result<()>| {
            let error = result.unwrap_err();
            let is_owner =
                |it: &Error| matches!(it, Error::ForeignProcess { pid: it, .. } if *it == pid);
            assert!(is_owner(&error), "{error:?}");
        };
        refused(cmap.get("totem.version").map(drop));
        refused(cmap.iter("totem.").map(drop));
        refused(cmap.poll_event().map(drop));
        refused(cmap.next_event(Duration::ZERO).map(drop));
        refused(cpg.join(&GroupName::new("fork").unwrap()));
        refused(cpg.try_multicast(Guarantee::AGREED, b"message"));
        refused(quorum.is_quorate().map(drop));
        refused(votes.local_info().map(drop));
        refused(cfg.local_node_id().map(drop));
        // None of this ends a connection.
        cpg.stats();
        quorum.finalize();
        drop((cmap, cpg, quorum, votes, cfg));
        // A client of its own works.
        let own = cmap::Client::connect_to(&endpoint).unwrap();
        own.set("fork.key", 1_u8).unwrap();
        // A supervised one connects again.
        let mut supervised = Supervised::new(move || cmap::Client::connect_to(&endpoint));
        supervised.next(Duration::from_secs(30)).unwrap().unwrap();
        let parent = std::process::id();
        succeeds(in_a_child(|| {
            let mut notices = Vec::new();
            while !supervised.client().is_ok_and(|it| it.get("totem.version").is_ok()) {
                notices.push(supervised.next(Duration::from_secs(30)).unwrap().unwrap());
            }
            assert_eq!(notices.len(), 2, "lost and up: {notices:?}, {parent}");
        }));
        supervised.client().unwrap().get("totem.version").unwrap();
    });
    succeeds(child);
    let clients = clients.unwrap();
    next(&clients.cmap);
    clients.use_all("fork").unwrap();
}

/// What a program that this process starts inherits.
fn inherited() -> Vec<String> {
    // ls has a descriptor for the directory itself.
    let output = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn a_program_inherits_no_descriptor() {
    let before = inherited();
    for transport in [
        corosync_ipc::libqb::server::Transport::Shm,
        corosync_ipc::libqb::server::Transport::Socket,
    ] {
        let corosync = Corosync::builder().transport(transport).start().unwrap();
        let endpoint: Endpoint = corosync.endpoint().clone();
        let clients = Clients::connect(&endpoint).unwrap();
        let waker = clients.cmap.waker().unwrap();
        let mut dispatcher = Dispatcher::<()>::new().unwrap();
        let mut supervised = Supervised::new(move || cmap::Client::connect_to(&endpoint));
        let descriptor = supervised.descriptor().unwrap();
        supervised.next(Duration::from_secs(30)).unwrap().unwrap();
        dispatcher.add(clients.cfg, |_: &mut (), _, _| Continue(())).unwrap();
        assert_eq!(inherited(), before, "{transport:?}");
        drop((waker, dispatcher, descriptor));
    }
}
