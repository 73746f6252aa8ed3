//! Whom a client lets serve it, and which files it takes for its rings.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use bytes::Bytes;
use corosync_ipc::cmap::Client;
use corosync_ipc::codec::setup::{
    CONNECT_REQUEST_SIZE, ConnectReply, ConnectRequest, Generation, TransportType,
};
use corosync_ipc::libqb::server::Listener;
use corosync_ipc::{Endpoint, Error, ProtocolError, RingError, RingFileFault};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use testbed::{Cluster, Scripted, copy_for_all, private_endpoint, skip};

/// nobody, wherever corosync runs.
const NOBODY: u32 = 65534;

/// A user that neither serves nor connects.
const STRANGER: u32 = 12345;

/// Where a ring's header has the number of its users.
const REF_COUNT: u64 = 8204;

/// Sees which files of a directory are opened from now on.
struct Opens(Inotify);

impl Opens {
    fn of(directory: &Path) -> Self {
        let opens = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        opens.add_watch(directory, AddWatchFlags::IN_OPEN).unwrap();
        Self(opens)
    }

    fn files(&self) -> Vec<OsString> {
        let events = self.0.read_events().unwrap_or_default();
        let files =
            events.into_iter().filter(|event| !event.mask.contains(AddWatchFlags::IN_ISDIR));
        files.filter_map(|event| event.name).collect()
    }
}

fn shared_memory_reply([request, response, event]: [Bytes; 3]) -> ConnectReply {
    ConnectReply {
        generation: Generation::Libqb013,
        error: 0,
        transport: TransportType::SHM,
        max_msg_size: 65536,
        cookie: 1,
        request,
        response,
        event,
    }
}

/// Listens as another user in a process of its own, or answers as another user where it was
/// listened before, which standard input then is. Everybody gets the reply in a file. Tells how
/// much it got.
#[test]
#[ignore = "run by other tests, as another user"]
fn squat() {
    let reply = fs::read(env::var_os("REPLY").unwrap()).unwrap();
    let listener = match env::var("SQUATTED") {
        Ok(name) => UnixListener::bind_addr(&abstract_address(&name)).unwrap(),
        Err(_) => std::io::stdin().as_fd().try_clone_to_owned().unwrap().into(),
    };
    println!("listening");
    for socket in listener.incoming() {
        let mut socket = socket.unwrap();
        let mut request = Vec::new();
        let first = (&socket).take(CONNECT_REQUEST_SIZE as u64).read_to_end(&mut request).unwrap();
        // The client may have closed.
        let _ = socket.write_all(&reply);
        request.clear();
        let _ = socket.read_to_end(&mut request);
        println!("received {first}, then {}", request.len());
    }
}

/// As libqb: the whole of sun_path.
fn abstract_address(name: &str) -> SocketAddr {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(107, 0);
    SocketAddr::from_abstract_name(padded).unwrap()
}

/// The names of the rings that a daemon made for this process, as its reply had them, and the file
/// of each header.
fn own_rings() -> [(Bytes, PathBuf); 3] {
    let entries =
        |directory: &Path| fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let own = format!("-{}-", std::process::id());
    let files: Vec<PathBuf> = entries(Path::new("/dev/shm"))
        .filter(|path| path.to_str().unwrap().contains(&own))
        .flat_map(|path| if path.is_dir() { entries(&path).collect() } else { vec![path] })
        .collect();
    ["request", "response", "event"].map(|ring| {
        let is_header = |path: &&PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.ends_with("-header") && name.contains(ring)
        };
        let header = files
            .iter()
            .find(is_header)
            .unwrap_or_else(|| panic!("no {ring} ring in {files:?}"))
            .clone();
        let told = header.to_str().unwrap().strip_suffix("-header").unwrap();
        let told =
            told.strip_prefix("/dev/shm/qb-").filter(|flat| !flat.contains('/')).unwrap_or(told);
        (Bytes::copy_from_slice(told.as_bytes()), header)
    })
}

#[test]
fn a_squatter_gets_no_request_and_leads_no_client_into_anothers_rings() {
    if skip() {
        return;
    }
    let cluster = Cluster::one();
    let node = cluster.node(1);
    let victim = node.run(|| Client::connect().unwrap());
    let rings = node.run(own_rings);
    let reply = shared_memory_reply(rings.clone().map(|(name, _)| name));
    let (_folder, file) = file_for_all(&reply);
    let command = node
        .ignored_test("squat")
        .user(NOBODY, NOBODY)
        .env("SQUATTED", "squatted")
        .env("REPLY", &file);
    let squatter = command.spawn();
    squatter.wait_stdout("listening");

    let squatted = Endpoint::new().service_name("squatted");
    node.run(|| {
        let headers = rings.map(|(_, header)| header);
        let users = || {
            headers.each_ref().map(|header| {
                let mut users = [0; 4];
                fs::File::open(header).unwrap().read_exact_at(&mut users, REF_COUNT).unwrap();
                u32::from_ne_bytes(users)
            })
        };
        assert_eq!(users(), [2; 3]);
        let opens = Opens::of(headers[0].parent().unwrap());
        let refused = Client::connect_to(&squatted);
        match &refused {
            Err(
                error @ Error::UntrustedServer { service, uid: NOBODY, pid, is_unmapped: false },
            ) => {
                assert_eq!(
                    (&**service, *pid),
                    ("squatted", i32::try_from(squatter.pid()).unwrap())
                );
                let text = error.to_string();
                for words in
                    ["--server-uid 65534", "COROSYNC_IPC_SERVER_UID=65534", "Endpoint::server_uids"]
                {
                    assert!(text.contains(words), "{text}");
                }
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(opens.files(), Vec::<OsString>::new());
        // The handshake's first message, which says how large the rings should be.
        squatter.wait_stdout("received 24, then 0\n");

        // Whoever allows it loses no more than this connection, nor who allows the files, too.
        let refused = Client::connect_to(&squatted.clone().server_uids([1, NOBODY]));
        let ours = RingFileFault::Ours { own: 0, server: NOBODY };
        assert!(
            matches!(&refused, Err(Error::RingFile { fault, .. }) if *fault == ours),
            "{refused:?}"
        );
        assert_eq!(opens.files(), Vec::<OsString>::new());
        let refused = Client::connect_to(&squatted.clone().server_uids([0, NOBODY]));
        let in_use = ProtocolError::Ring(RingError::InUse { ring: "request" });
        assert!(
            matches!(&refused, Err(Error::Protocol { source, .. }) if *source == in_use),
            "{refused:?}"
        );
        squatter.wait_stdout(&"received 24, then 0\n".repeat(3));
        assert_eq!(users(), [2; 3]);
        victim.set("trust.victim", 7_u8).unwrap();
        assert_eq!(victim.get_as::<u8>("trust.victim").unwrap(), Some(7));
    });
}

/// A reply in a file that every user can read.
fn file_for_all(reply: &ConnectReply) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let file = folder.path().join("reply");
    fs::write(&file, reply.encode().unwrap()).unwrap();
    (folder, file)
}

/// The rings of a connection that nobody uses yet, and a server that names them, or others.
struct Rings {
    root: tempfile::TempDir,
    reply: ConnectReply,
    _listener: Listener<Scripted>,
    _socket: UnixStream,
}

impl Rings {
    fn new() -> Self {
        let (endpoint, root) = private_endpoint();
        let listener = Scripted::silent(&endpoint, "maker");
        let mut socket = UnixStream::connect(root.path().join("maker")).unwrap();
        socket.write_all(&ConnectRequest { max_msg_size: 8192 }.encode().unwrap()).unwrap();
        let mut reply = vec![0; Generation::Libqb013.reply_size()];
        socket.read_exact(&mut reply).unwrap();
        let reply = ConnectReply::decode(&reply).unwrap();
        Self { root, reply, _listener: listener, _socket: socket }
    }

    /// The directory of the rings.
    fn directory(&self) -> PathBuf {
        Path::new(std::str::from_utf8(&self.reply.request).unwrap()).parent().unwrap().to_owned()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory().join(format!("qb-{name}"))
    }

    /// The six files.
    fn files(&self) -> Vec<PathBuf> {
        let rings = ["request", "response", "event"];
        let name = |ring| ["header", "data"].map(|part| self.file(&format!("{ring}-maker-{part}")));
        rings.into_iter().flat_map(name).collect()
    }

    /// Connects to a server that gives this reply.
    fn connect(&self, change: impl FnOnce(Endpoint) -> Endpoint) -> Result<Client, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let directory =
            self.root.path().join(format!("liar-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("cmap")).unwrap();
        let reply = self.reply.encode().unwrap();
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.read_exact(&mut [0; CONNECT_REQUEST_SIZE]).unwrap();
            socket.write_all(&reply).unwrap();
            // Until the client has closed.
            let _ = socket.read_to_end(&mut Vec::new());
        });
        Client::connect_to(&change(
            Endpoint::new().socket_dir(directory).shm_root(self.root.path()),
        ))
    }

    /// Why connecting fails, which opens no file of any ring.
    #[track_caller]
    fn refused(&self) -> Error {
        let opens =
            [self.root.path().to_owned(), self.directory()].map(|directory| Opens::of(&directory));
        let result = self.connect(|endpoint| endpoint);
        for opens in opens {
            let files = opens.files();
            assert!(
                !files.iter().any(|file| file.to_str().unwrap().starts_with("qb-")),
                "{files:?} {result:?}"
            );
        }
        match result {
            Err(error) => error,
            Ok(_) => panic!("connected"),
        }
    }

    /// Asserts that connecting fails because of a file.
    #[track_caller]
    fn assert_refused(&self, file: &Path, owner: Option<u32>, fault: RingFileFault) {
        let error = self.refused();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
        match error {
            Error::RingFile { path, owner: found, fault: why, .. } => {
                assert_eq!((path.as_path(), found, why), (file, owner, fault));
            }
            other => panic!("{other}"),
        }
    }
}

fn own() -> Option<u32> {
    Some(geteuid().as_raw())
}

#[test]
fn rings_that_nobody_uses_are_taken_once() {
    let rings = Rings::new();
    let first = rings.connect(|endpoint| endpoint).unwrap();
    let again = rings.connect(|endpoint| endpoint);
    assert!(matches!(
        again,
        Err(Error::Protocol { source: ProtocolError::Ring(RingError::InUse { .. }), .. })
    ));
    drop(first);
    rings.connect(|endpoint| endpoint).unwrap();
}

/// They may be of a connection that is being made: root gave them to this user, and an unprivileged
/// server could not.
#[test]
fn rings_of_this_user_are_refused_from_an_unprivileged_server() {
    if skip() {
        return;
    }
    let rings = Rings::new();
    let (_folder, reply) = file_for_all(&rings.reply);
    let name = format!("trust-{}", std::process::id());
    let mut command = Command::new(copy_for_all(&env::current_exe().unwrap()));
    let command =
        command.args(["--exact", "squat", "--ignored", "--nocapture"]).uid(NOBODY).gid(NOBODY);
    let mut squatter =
        command.env("REPLY", reply).env("SQUATTED", &name).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(squatter.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap() == "listening"));
    let endpoint =
        Endpoint::new().abstract_sockets().service_name(name).shm_root(rings.root.path());
    let opens = Opens::of(&rings.directory());
    let refused = Client::connect_to(&endpoint.clone().server_uids([NOBODY])).map(drop);
    let opened = opens.files();
    // In a user namespace whose root is that server this may be right.
    let allowed = Client::connect_to(&endpoint.server_uids([NOBODY, geteuid().as_raw()])).map(drop);
    squatter.kill().unwrap();
    squatter.wait().unwrap();
    let ours = RingFileFault::Ours { own: 0, server: NOBODY };
    assert!(
        matches!(&refused, Err(Error::RingFile { fault, .. }) if *fault == ours),
        "{refused:?}"
    );
    assert_eq!(opened, Vec::<OsString>::new());
    allowed.unwrap();
}

#[test]
fn whoever_answers_must_be_trusted_too() {
    if skip() {
        return;
    }
    let rings = Rings::new();
    let (_folder, reply) = file_for_all(&rings.reply);
    let endpoint = Endpoint::new().socket_dir(rings.root.path()).shm_root(rings.root.path());
    // Listened at by this user, answered at by another.
    let listener = UnixListener::bind(rings.root.path().join("cmap")).unwrap();
    let mut command = Command::new(copy_for_all(&env::current_exe().unwrap()));
    let command =
        command.args(["--exact", "squat", "--ignored"]).env("REPLY", reply).uid(NOBODY).gid(NOBODY);
    command.stdout(Stdio::null());
    let mut answering = command.stdin(OwnedFd::from(listener)).spawn().unwrap();
    let opens = Opens::of(&rings.directory());
    let refused = Client::connect_to(&endpoint).map(drop);
    let opened = opens.files();
    let allowed = Client::connect_to(&endpoint.server_uids([NOBODY]))
        .map(|client| client.peer_credentials().uid);
    answering.kill().unwrap();
    answering.wait().unwrap();
    assert!(matches!(refused, Err(Error::UntrustedServer { uid: NOBODY, .. })), "{refused:?}");
    assert_eq!(opened, Vec::<OsString>::new());
    assert_eq!(allowed.unwrap(), 0);
}

#[test]
fn ring_files_of_a_third_user_are_refused() {
    if skip() {
        return;
    }
    let rings = Rings::new();
    for file in rings.files() {
        chown(&file, Some(STRANGER), None).unwrap();
        let fault = RingFileFault::Owner { own: 0, server: 0 };
        rings.assert_refused(&file, Some(STRANGER), fault);
        let error = rings.refused().to_string();
        assert!(
            error.contains("(owner: uid 12345)") && error.contains("server (uid 0)"),
            "{error}"
        );
        drop(rings.connect(|endpoint| endpoint.server_uids([STRANGER])).unwrap());
        chown(&file, Some(0), None).unwrap();
    }
    rings.connect(|endpoint| endpoint).unwrap();
}

#[test]
fn a_file_that_is_named_twice_is_refused() {
    let mut rings = Rings::new();
    let [header, data] =
        ["request-maker-header", "request-maker-data"].map(|name| rings.file(name));
    let response = rings.reply.response.clone();
    rings.reply.response = rings.reply.request.clone();
    rings.assert_refused(&header, own(), RingFileFault::Twice);
    rings.reply.response = response;

    // The data of a ring as its header.
    fs::rename(&data, data.with_extension("kept")).unwrap();
    fs::hard_link(&header, &data).unwrap();
    rings.assert_refused(&header, own(), RingFileFault::Links(2));
    fs::rename(data.with_extension("kept"), &data).unwrap();
    rings.connect(|endpoint| endpoint).unwrap();
}

#[test]
fn a_file_with_another_name_elsewhere_is_refused() {
    let rings = Rings::new();
    for (number, file) in rings.files().into_iter().enumerate() {
        let elsewhere = rings.root.path().join(format!("elsewhere-{number}"));
        fs::hard_link(&file, &elsewhere).unwrap();
        rings.assert_refused(&file, own(), RingFileFault::Links(2));
        fs::remove_file(&elsewhere).unwrap();
    }
    rings.connect(|endpoint| endpoint).unwrap();
}

#[test]
fn what_is_no_file_is_refused() {
    let rings = Rings::new();
    for file in rings.files() {
        let kept = file.with_extension("kept");
        fs::rename(&file, &kept).unwrap();
        symlink(&kept, &file).unwrap();
        rings.assert_refused(&file, own(), RingFileFault::NotAFile);
        fs::remove_file(&file).unwrap();
        mkfifo(&file, Mode::S_IRWXU).unwrap();
        rings.assert_refused(&file, own(), RingFileFault::NotAFile);
        fs::rename(&kept, &file).unwrap();
    }
    rings.connect(|endpoint| endpoint).unwrap();
}

#[test]
fn a_directory_that_is_a_link_is_refused() {
    let mut rings = Rings::new();
    let (directory, link) = (rings.directory(), rings.root.path().join("qb-1-2-3-linked"));
    symlink(&directory, &link).unwrap();
    let linked = |name: &Bytes| {
        let name = Path::new(std::str::from_utf8(name).unwrap()).file_name().unwrap();
        Bytes::from(link.join(name).into_os_string().into_string().unwrap())
    };
    let names = [&rings.reply.request, &rings.reply.response, &rings.reply.event].map(linked);
    rings.reply = shared_memory_reply(names);
    rings.assert_refused(&link, None, RingFileFault::NotADirectory);
    // Also on the way.
    fs::remove_file(&link).unwrap();
    symlink(rings.root.path(), &link).unwrap();
    let through = |name: &str| {
        Bytes::from(format!(
            "{}/{directory}/qb-{name}-maker",
            link.display(),
            directory = directory.file_name().unwrap().to_str().unwrap()
        ))
    };
    rings.reply = shared_memory_reply(["request", "response", "event"].map(through));
    let fault = rings.refused();
    assert!(
        matches!(fault, Error::RingFile { fault: RingFileFault::NotADirectory, .. }),
        "{fault}"
    );
}

#[test]
fn rings_in_several_directories_are_refused() {
    let mut rings = Rings::new();
    let other = rings.root.path().join("qb-1-2-3-others");
    fs::create_dir(&other).unwrap();
    for name in ["qb-event-maker-header", "qb-event-maker-data"] {
        fs::rename(rings.directory().join(name), other.join(name)).unwrap();
    }
    let event = other.join("qb-event-maker").into_os_string().into_string().unwrap();
    rings.reply.event = Bytes::from(event);
    let error = rings.refused();
    let apart = ProtocolError::RingDirectory { ring: "event" };
    assert!(matches!(&error, Error::Protocol { source, .. } if *source == apart), "{error}");
}

#[test]
fn rings_lie_at_any_depth_or_directly_in_shared_memory() {
    let mut rings = Rings::new();
    let own = rings.directory();
    let deep = rings.root.path().join("a/b").join(own.file_name().unwrap());
    fs::create_dir_all(deep.parent().unwrap()).unwrap();
    fs::rename(&own, &deep).unwrap();
    let name = |ring: &str| Bytes::from(format!("{}/qb-{ring}-maker", deep.display()));
    rings.reply = shared_memory_reply(["request", "response", "event"].map(name));
    drop(rings.connect(|endpoint| endpoint).unwrap());

    // As libqb before 1.0.4.
    for entry in fs::read_dir(&deep).unwrap() {
        let entry = entry.unwrap();
        let flat = entry.file_name().to_str().unwrap().replace("qb-", "qb-1-2-3-");
        fs::rename(entry.path(), rings.root.path().join(flat)).unwrap();
    }
    rings.reply = shared_memory_reply(
        ["request", "response", "event"].map(|ring| format!("1-2-3-{ring}-maker").into()),
    );
    drop(rings.connect(|endpoint| endpoint).unwrap());
    let file = rings.root.path().join("qb-1-2-3-event-maker-data");
    assert_eq!(fs::metadata(&file).unwrap().nlink(), 1);
    fs::hard_link(&file, rings.root.path().join("again")).unwrap();
    let error = rings.connect(|endpoint| endpoint).err().unwrap();
    assert!(
        matches!(&error, Error::RingFile { path, fault: RingFileFault::Links(2), .. } if *path == file),
        "{error}"
    );
}
