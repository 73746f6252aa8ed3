//! What clients say when corosync dies, stops, is restarted, refuses them or has no room.

use std::fs;
use std::io::ErrorKind;
use std::ops::ControlFlow::Continue;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::{self, Client, TrackEvents, Value};
use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::server::{Generation, Transport};
use corosync_ipc::{
    CsError, Deadline, Dispatch, Endpoint, Error, SocketAddress, TrackFlags, cpg, quorum,
    votequorum,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use testbed::{
    Cluster, Host, cs, eventually, next, rings, skip, spawn_until_asleep, version, waiting,
};

testbed::on_each_host! {
    death_is_noticed_by_whoever_waits_and_its_rings_are_removed;
    an_answer_that_comes_late_is_not_taken_for_the_next;
    connecting_to_a_stopped_daemon_times_out;
    clients_that_gave_up_do_not_hold_the_daemon_up;
    after_a_restart_old_clients_are_gone_and_new_ones_connect;
    clients_that_connect_while_the_daemon_ends_and_starts_find_that;
}

testbed::embedded_process!();

/// nobody, wherever corosync runs.
const NOBODY: u32 = 65534;

/// A timeout that no test waits for.
const LONG: Duration = Duration::from_secs(120);

fn short(host: &Host) -> Endpoint {
    host.endpoint().timeout(Duration::from_millis(150))
}

#[track_caller]
fn assert_disconnected<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::Disconnected { .. })), "{result:?}");
}

#[track_caller]
fn assert_full<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::SharedMemoryFull { .. })), "{result:?}");
}

#[track_caller]
fn assert_timed_out<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
}

fn death_is_noticed_by_whoever_waits_and_its_rings_are_removed(host: &Host) {
    eventually("the tool that looked for the daemon is forgotten", || {
        rings(host.shm_root()).is_empty()
    });
    let endpoint = host.endpoint().timeout(LONG);
    let requester = Client::connect_to(&endpoint).unwrap();
    let votes = votequorum::Client::connect_to(&endpoint).unwrap();
    let dispatcher = Client::connect_to(&endpoint).unwrap();
    let one = Client::connect_to(&endpoint).unwrap();
    let idle = quorum::Client::connect_to(&endpoint).unwrap();
    let pending = Client::connect_to(&endpoint).unwrap();
    pending.track_add("death_is_noticed", TrackEvents::ALL).unwrap();
    (0..5_u8).for_each(|number| pending.set("death_is_noticed", number).unwrap());
    let paused = host.pause();
    let killed = thread::scope(|scope| {
        let get = spawn_until_asleep(scope, || requester.get("totem.version"));
        let queued = spawn_until_asleep(scope, || requester.get("totem.version"));
        let info = spawn_until_asleep(scope, || votes.local_info());
        let blocking =
            spawn_until_asleep(scope, || dispatcher.dispatch(Dispatch::Blocking, |_| Continue(())));
        let next = spawn_until_asleep(scope, || dispatcher.next_event(LONG));
        let one = spawn_until_asleep(scope, || one.dispatch(Dispatch::One, |_| Continue(())));
        assert!(!(get.is_finished() || queued.is_finished() || info.is_finished()));
        assert!(!(blocking.is_finished() || next.is_finished() || one.is_finished()));
        let killed = Instant::now();
        host.kill();
        for request in [get, queued] {
            assert_disconnected(request.join().unwrap());
        }
        assert_disconnected(info.join().unwrap());
        assert_disconnected(next.join().unwrap());
        for dispatch in [blocking, one] {
            assert_disconnected(dispatch.join().unwrap());
        }
        killed
    });
    drop(paused);

    // Events that the daemon left are handed over first.
    let mut handed = 0;
    assert_disconnected(pending.dispatch(Dispatch::All, |_| {
        handed += 1;
        Continue(())
    }));
    assert_eq!(handed, 5);
    // Whichever call comes first notices, and all that come later agree.
    assert_disconnected(requester.poll_event());
    assert_disconnected(requester.get("totem.version"));
    assert_disconnected(requester.iter("").map(drop));
    assert_disconnected(dispatcher.next_event(Deadline::NEVER));
    assert_disconnected(dispatcher.set("death_is_noticed", 1_u8));
    assert_disconnected(idle.is_quorate());
    assert!(testbed::is_readable(&idle), "who polls must see the end");
    assert!(killed.elapsed() < LONG);

    let refused = Client::connect_to(&host.endpoint());
    assert!(matches!(refused, Err(Error::NoSocket { .. })), "{refused:?}");

    assert!(!rings(host.shm_root()).is_empty());
    drop((requester, votes, dispatcher, one, idle, pending));
    // Names of 1.99 do not tell a killed daemon's rings from the next one's.
    assert_eq!(rings(host.shm_root()).is_empty(), host.version() >= [2, 0, 0, 0]);
}

fn an_answer_that_comes_late_is_not_taken_for_the_next(host: &Host) {
    let client = Client::connect_to(&host.endpoint()).unwrap();
    let (counter, prefix) = ("late.counter", "late.key");
    client.set(counter, 0_u32).unwrap();
    for number in 0..10_u32 {
        client.set(&format!("{prefix}{number}"), number).unwrap();
    }
    let tracker = client.track_add(counter, TrackEvents::ALL).unwrap();
    let mut sent = 0;
    for round in 0..6 {
        client.set_request_timeout(Duration::from_millis(400));
        let paused = host.pause();
        let begin = Instant::now();
        // One is sent; those after it find its answer missing and are not sent.
        if round % 2 == 0 {
            assert_timed_out(client.increment(counter));
            sent += 1;
        } else {
            assert_timed_out(client.get(&format!("{prefix}{}", (round + 5) % 10)));
        }
        assert!(begin.elapsed() >= Duration::from_millis(400));
        for _ in 0..round % 3 {
            assert_timed_out(client.increment(counter));
            assert_timed_out(client.list(prefix));
        }
        // Events are looked for all the same.
        assert!(client.next_event(Duration::from_millis(1)).unwrap().is_none());
        assert!(client.dispatch(Dispatch::All, |_| panic!("an event of a stopped daemon")).is_ok());
        assert_eq!(
            cs(client.dispatch(Dispatch::OneNonblocking, |_| Continue(()))),
            CsError::TryAgain
        );
        client.set_request_timeout(LONG);
        if round % 3 == 0 {
            // Asked before the daemon goes on.
            thread::scope(|scope| {
                let get =
                    spawn_until_asleep(scope, || client.get(&format!("{prefix}{round}")).unwrap());
                assert!(!get.is_finished());
                drop(paused);
                assert_eq!(get.join().unwrap(), Some(Value::U32(round)));
            });
        } else {
            drop(paused);
        }
        for number in (0..10_u32).rev() {
            assert_eq!(client.get(&format!("{prefix}{number}")).unwrap(), Some(Value::U32(number)));
        }
        assert_eq!(client.get("late.none").unwrap(), None);
        assert_eq!(client.get(counter).unwrap(), Some(Value::U32(sent)), "round {round}");
        assert_eq!(waiting(&client).len(), usize::from(round % 2 == 0));
    }
    client.track_delete(tracker).unwrap();
}

/// libqb looks for the sockets of a client that is not there for a second, and serves nobody
/// meanwhile.
fn clients_that_gave_up_do_not_hold_the_daemon_up(host: &Host) {
    let endpoint = host.endpoint().timeout(LONG);
    let other = Client::connect_to(&endpoint).unwrap();
    let clients: Vec<_> = (0..8).map(|_| Client::connect_to(&endpoint).unwrap()).collect();
    let paused = host.pause();
    for client in clients {
        client.set_request_timeout(Duration::from_millis(20));
        assert_timed_out(client.track_add("gave.up", TrackEvents::ALL));
    }
    drop(paused);
    let begun = Instant::now();
    other.set("gave.up", 1_u8).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

/// As the clients before, but their processes end, some while events for them are made.
#[test]
fn processes_that_gave_up_do_not_hold_the_daemon_up() {
    // 1.99 does not have datagrams.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().ipc_type(Some("socket")).start();
    let node = cluster.node(1);
    let other = node.run(|| Client::connect_to(&Endpoint::new().timeout(LONG)).unwrap());
    let spawn = |test: &str| {
        let process = node.ignored_test(test).interactive().spawn();
        process.wait_stdout("connected");
        process
    };
    let mut processes: Vec<_> = (0..6)
        .flat_map(|_| ["as_a_process_that_asks_and_ends", "as_a_process_that_tracks_and_ends"])
        .map(spawn)
        .collect();
    let paused = node.pause();
    thread::scope(|scope| {
        let set = spawn_until_asleep(scope, || other.set("gave.up", 1_u8).unwrap());
        processes.iter_mut().for_each(|process| process.write("\n"));
        processes.into_iter().for_each(|process| drop(process.wait().success()));
        let begun = Instant::now();
        drop(paused);
        set.join().unwrap();
        other.set("gave.up", 2_u8).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

fn connect_and_wait_for_a_line() -> Client {
    let client = Client::connect().unwrap();
    println!("connected");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    client.set_request_timeout(Duration::from_millis(20));
    client
}

#[test]
#[ignore = "run by processes_that_gave_up_do_not_hold_the_daemon_up"]
fn as_a_process_that_asks_and_ends() {
    let client = connect_and_wait_for_a_line();
    assert_timed_out(client.get("totem.version"));
}

#[test]
#[ignore = "run by processes_that_gave_up_do_not_hold_the_daemon_up"]
fn as_a_process_that_tracks_and_ends() {
    let client = Client::connect().unwrap();
    client.track_add("gave.up", TrackEvents::ALL).unwrap();
    drop(connect_and_wait_for_a_line());
}

fn connecting_to_a_stopped_daemon_times_out(host: &Host) {
    let timeout = Duration::from_millis(150);
    let attempt = || {
        let begin = Instant::now();
        let refused = Client::connect_to(&short(host));
        assert!(begin.elapsed() >= timeout);
        match refused {
            Err(Error::TimedOut { operation, after, .. }) => {
                assert_eq!((&*operation, after), ("connecting to cmap", timeout))
            }
            other => panic!("{other:?}"),
        }
    };
    let paused = host.pause();
    attempt();
    assert_timed_out(quorum::Client::connect_to(&short(host)));
    assert_timed_out(votequorum::Client::connect_to(&short(host)));
    if host.version() < [2, 0, 0, 0] {
        // Its libqb waits for ever for what a connection that was closed at once does not send.
        return;
    }
    // Until the daemon's queue of connections is full.
    let address = match host.endpoint().socket_address("cmap") {
        SocketAddress::Path(path) => UnixAddr::new(&path).unwrap(),
        SocketAddress::Abstract(name) => {
            let mut name = name.into_bytes();
            name.resize(107, 0);
            UnixAddr::new_abstract(&name).unwrap()
        }
    };
    let mut waiting: Vec<OwnedFd> = Vec::new();
    let full = loop {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => waiting.push(stream),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10_000);
    };
    assert_eq!(full, nix::errno::Errno::EAGAIN);
    attempt();
    // When there is room again, a connection that waited for it is made.
    thread::scope(|scope| {
        let connecting =
            spawn_until_asleep(scope, || Client::connect_to(&host.endpoint().timeout(LONG)));
        assert!(!connecting.is_finished());
        drop(waiting);
        drop(paused);
        let client = connecting.join().unwrap().unwrap();
        assert!(client.get("totem.version").unwrap().is_some());
    });
}

fn after_a_restart_old_clients_are_gone_and_new_ones_connect(host: &Host) {
    let old = Client::connect_to(&host.endpoint()).unwrap();
    let old_quorum = quorum::Client::connect_to(&host.endpoint()).unwrap();
    old_quorum.track_start(TrackFlags::CHANGES).unwrap();
    waiting(&old_quorum);
    old.set("before.the.restart", 1_u8).unwrap();
    let old_peer = old.peer_credentials();
    assert_eq!((old_peer.pid, old_peer.uid), (i32::try_from(host.pid()).unwrap(), 0));
    for stop in [true, false] {
        if stop {
            host.stop()
        } else {
            host.kill()
        }
        host.start();
        let new = Client::connect_to(&host.endpoint()).unwrap();
        assert_disconnected(old.get("totem.version"));
        assert_disconnected(old.poll_event());
        // A daemon that ends in good order may tell of the membership it leaves behind.
        let result = old_quorum.dispatch(Dispatch::Blocking, |_| Continue(()));
        assert_disconnected(result);
        assert_eq!(new.get("before.the.restart").unwrap(), None);
        assert_ne!(new.peer_credentials(), old_peer);
    }
    // What is removed with the old clients is not the new daemon's.
    let new = Client::connect_to(&host.endpoint()).unwrap();
    drop((old, old_quorum));
    assert!(!rings(host.shm_root()).is_empty());
    assert!(new.get("totem.version").unwrap().is_some());
    let newer = Client::connect_to(&host.endpoint()).unwrap();
    assert!(newer.get("totem.version").unwrap().is_some());
}

/// Clients connect and ask all the time, while the daemon is killed or ends, and starts again.
fn clients_that_connect_while_the_daemon_ends_and_starts_find_that(host: &Host) {
    const CLIENTS: usize = 3;
    const KILLED: usize = 4;
    let is_over = AtomicBool::new(false);
    let answers = [const { AtomicUsize::new(0) }; CLIENTS];
    let asks = |number: usize| {
        let endpoint = host.endpoint().timeout(LONG);
        while !is_over.load(Ordering::SeqCst) {
            let answer = match number {
                0 => Client::connect_to(&endpoint).and_then(|it| it.get("none").map(drop)),
                1 => quorum::Client::connect_to(&endpoint).and_then(|it| it.is_quorate().map(drop)),
                _ => cpg::Client::connect_to(&endpoint).and_then(|it| it.local_node_id().map(drop)),
            };
            match answer {
                Ok(()) => drop(answers[number].fetch_add(1, Ordering::SeqCst)),
                Err(Error::NoSocket { .. } | Error::Disconnected { .. }) => {}
                Err(error) => {
                    is_over.store(true, Ordering::SeqCst);
                    panic!("client {number}: {error:?}");
                }
            }
        }
    };
    let all_answer = || {
        let before = answers.each_ref().map(|it| it.load(Ordering::SeqCst));
        eventually("all clients are answered", || {
            let is_more = |(now, then): (&AtomicUsize, _)| now.load(Ordering::SeqCst) > then;
            is_over.load(Ordering::SeqCst) || answers.iter().zip(before).all(is_more)
        });
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|it| scope.spawn(move || asks(it))).collect();
        for round in 0..2 * KILLED {
            all_answer();
            if round % 2 == 0 {
                host.kill();
            } else {
                host.stop();
            }
            host.start();
            if is_over.load(Ordering::SeqCst) {
                break;
            }
        }
        all_answer();
        is_over.store(true, Ordering::SeqCst);
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    // libqb leaves directories of clients that it was not ready for. A daemon that is killed leaves
    // what it was making, and the files of clients that had just closed: nobody else removes them.
    if host.version() >= [2, 0, 0, 0] {
        let has_files = |name: &String| {
            let directory = host.shm_root().join(name);
            fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
        };
        let left = || rings(host.shm_root()).into_iter().filter(has_files).collect::<Vec<_>>();
        const MOST: usize = KILLED * (1 + 2 * CLIENTS);
        eventually("nothing else is left", || left().len() <= MOST);
    }
}

#[test]
fn other_users_are_refused_until_they_are_allowed() {
    if skip() {
        return;
    }
    for ipc_type in [None, Some("socket")] {
        // 1.99 does not have it.
        if ipc_type.is_none() || version() >= [2, 0, 0, 0] {
            other_users_are_refused_over(ipc_type);
        }
    }
}

fn other_users_are_refused_over(ipc_type: Option<&str>) {
    let cluster = Cluster::builder().ipc_type(ipc_type).start();
    let node = cluster.node(1);
    let pid = node.pid();
    let run = |test: &str| node.ignored_test(test).user(NOBODY, NOBODY).run().success();
    run("as_a_user_that_is_not_allowed");
    node.run(|| Client::connect().unwrap().set(&format!("uidgid.uid.{NOBODY}"), 1_u8).unwrap());
    run("as_a_user_that_is_allowed");
    node.run(|| Client::connect().unwrap().delete(&format!("uidgid.uid.{NOBODY}")).unwrap());
    run("as_a_user_that_is_not_allowed");
    node.run(|| Client::connect().unwrap().set(&format!("uidgid.gid.{NOBODY}"), 1_u8).unwrap());
    run("as_a_user_that_is_allowed");
    assert_eq!(node.pid(), pid);
}

#[test]
#[ignore = "run by other_users_are_refused_until_they_are_allowed"]
fn as_a_user_that_is_not_allowed() {
    let refused = [
        Client::connect().map(drop),
        quorum::Client::connect().map(drop),
        votequorum::Client::connect().map(drop),
    ];
    for refused in refused {
        match refused {
            Err(error @ Error::NotAllowed { uid: NOBODY, gid: NOBODY, .. }) => {
                assert!(error.to_string().contains("uid 65534 gid 65534"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[ignore = "run by other_users_are_refused_until_they_are_allowed"]
fn as_a_user_that_is_allowed() {
    let client = Client::connect().unwrap();
    assert!(client.get("totem.version").unwrap().is_some());
    client.set("as_a_user_that_is_allowed", 1_u8).unwrap();
    client.track_add("as_a_user", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    client.set("as_a_user_that_is_allowed", 2_u8).unwrap();
    assert!(matches!(next(&client), cmap::Event::Notification(_)));
    assert_eq!(client.get_as::<u8>("as_a_user_that_is_allowed").unwrap(), Some(2));
    assert!(quorum::Client::connect().unwrap().is_quorate().unwrap());
    assert!(votequorum::Client::connect().unwrap().local_info().is_ok());
}

#[test]
fn full_shared_memory_is_said_so() {
    // 1.99 dies of it, whoever connects.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().shm_size("64m").start();
    let node = cluster.node(1);
    let pid = node.pid();
    node.run(|| {
        let there = Client::connect().unwrap();
        let full = node.fill_shm(0);
        for _ in 0..3 {
            assert_full(Client::connect());
        }
        assert!(there.get("totem.version").unwrap().is_some());
        drop(full);
        // Room for small rings, but not for large ones.
        let tight = node.fill_shm(300 << 10);
        assert_full(Client::connect_to(&Endpoint::new().ring_size(1 << 20)));
        // The daemon gives back a little later what it had for those that it refused.
        let small = eventually("there is room", || {
            Client::connect_to(&Endpoint::new().ring_size(4096)).ok()
        });
        assert!(small.get("totem.version").unwrap().is_some());
        drop(tight);
        assert!(Client::connect().unwrap().get("totem.version").unwrap().is_some());
    });
    assert_eq!(node.pid(), pid);
}

#[test]
fn filesystem_sockets_are_found() {
    // 1.99 does not have it.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    cluster.node(1).run(|| {
        let folder = ["/run", "/tmp"]
            .into_iter()
            .find(|folder| fs::exists(format!("{folder}/cmap")).unwrap());
        let folder = folder.expect("corosync has its sockets elsewhere");
        for endpoint in [Endpoint::new(), Endpoint::new().socket_dir(folder)] {
            assert!(Client::connect_to(&endpoint).unwrap().get("totem.version").unwrap().is_some());
            assert!(quorum::Client::connect_to(&endpoint).unwrap().is_quorate().unwrap());
            assert!(votequorum::Client::connect_to(&endpoint).unwrap().local_info().is_ok());
        }
        for endpoint in
            [Endpoint::new().abstract_sockets(), Endpoint::new().socket_dir("/none/such")]
        {
            let refused = Client::connect_to(&endpoint);
            match refused {
                Err(Error::NoSocket { ref source, .. }) => {
                    assert!(matches!(
                        source.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::NotFound
                    ));
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Debian's libqb has its sockets in /tmp, others in /run. A socket that nobody listens at does not
/// keep a client from the other one.
#[test]
fn filesystem_sockets_are_looked_for_in_all_usual_directories() {
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().filesystem_sockets(true).start();
    let node = cluster.node(1);
    node.run(|| {
        let is_there = |folder: &&str| fs::exists(format!("{folder}/cmap")).unwrap();
        let (here, dead): (Vec<_>, Vec<_>) = ["/run", "/tmp"].into_iter().partition(is_there);
        assert_eq!(here.len(), 1);
        drop(UnixListener::bind(format!("{}/cmap", dead[0])).unwrap());
        assert!(Client::connect().unwrap().get("totem.version").unwrap().is_some());
    });
    node.stop();
    // Where the real one had its sockets, nobody listens any more.
    node.run(|| {
        let refused = Client::connect();
        assert!(matches!(refused, Err(Error::NoSocket { .. })), "{refused:?}");
        for (transport, generation) in [
            (Transport::Shm, Generation::Libqb104),
            (Transport::Socket, Generation::Libqb104),
            // Its names of sockets are files too.
            (Transport::Socket, Generation::Libqb015),
        ] {
            let embedded = Corosync::builder().endpoint(&Endpoint::new().socket_dir("/run"));
            let embedded = embedded.transport(transport).generation(generation).start().unwrap();
            let client = Client::connect().unwrap();
            client.track_add("in.run", TrackEvents::ALL).unwrap();
            client.set("in.run", 7_u8).unwrap();
            assert!(matches!(next(&client), cmap::Event::Notification(_)));
            let sockets = || -> Vec<_> {
                let names = fs::read_dir("/run").unwrap();
                let names = names.map(|it| it.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.starts_with("qb-")).collect()
            };
            let are_files = generation == Generation::Libqb015;
            assert_eq!(sockets().len(), if are_files { 4 } else { 0 }, "{:?}", sockets());
            drop(client);
            eventually("its sockets are gone", || sockets().is_empty());
            drop(embedded);
        }
    });
}

#[test]
fn clients_of_a_daemon_with_datagrams_leave_nothing_behind() {
    // 1.99 does not have them.
    if skip() || version() < [2, 0, 0, 0] {
        return;
    }
    let cluster = Cluster::builder().ipc_type(Some("socket")).start();
    let node = cluster.node(1);
    let pid = node.pid();
    node.run(|| {
        for _ in 0..3 {
            Client::connect().unwrap().get("totem.version").unwrap().unwrap();
        }
    });
    eventually("corosync answers", || node.membership());
    assert_eq!(node.pid(), pid);
    eventually("nothing is left", || node.run(|| rings(Path::new("/dev/shm"))).is_empty());
}

#[test]
fn a_service_that_is_not_there_is_named() {
    if skip() {
        return;
    }
    // Without a quorum provider there is no votequorum.
    let cluster = Cluster::builder().create();
    let node = cluster.node(1);
    let config = fs::read_to_string(node.config_path()).unwrap();
    fs::write(node.config_path(), config.replace("provider: corosync_votequorum", "")).unwrap();
    node.start_unready();
    node.run(|| {
        eventually("corosync listens", || Client::connect().is_ok());
        let refused = votequorum::Client::connect();
        assert!(matches!(refused, Err(Error::NoSocket { .. })), "{refused:?}");
        let client = quorum::Client::connect().unwrap();
        assert_eq!(client.quorum_type(), quorum::QuorumType::FREE);
        assert!(client.is_quorate().unwrap());
    });
    assert!(node.is_running());
}
