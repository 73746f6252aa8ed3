//! A daemon that says what a case wants. It stands on `testbed::raw` and uses none of the crate's
//! codecs.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testbed::raw::{
    self, Ring, SHM, SOCKET, SetupReply, Shared, abstract_address, bind_datagram, with_suffix,
};

use crate::honest;
use crate::ledger::{BYSTANDER, Listing, files};

/// The services that a daemon listens for. `test` is not corosync's.
const SERVICES: [&str; 7] = ["cmap", "cpg", "quorum", "votequorum", "cfg", "evs", "test"];

/// How messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Rings,
    Datagrams,
}

pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Rings, Transport::Datagrams];

/// Where a daemon lives, and what it shares with the case's client.
pub(crate) struct Lair {
    /// The directory of its sockets and of its connections' files.
    pub(crate) root: PathBuf,
    pub(crate) transport: Transport,
    /// How long the client waits.
    pub(crate) timeout: Duration,
    pub(crate) listeners: Vec<(&'static str, UnixListener)>,
    /// What was in `root` when the daemon did something there last.
    files: Mutex<Listing>,
    is_over: AtomicBool,
    /// How often the client wanted something, and how often it got it.
    wanted: AtomicUsize,
    done: AtomicUsize,
    /// Requests so far, of all connections.
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Lair {
    pub(crate) fn new(root: &Path, transport: Transport, timeout: Duration) -> Self {
        let bystander = root.join(BYSTANDER);
        fs::create_dir(&bystander).unwrap();
        for ring in ["request", "response", "event"] {
            for part in ["header", "data"] {
                fs::write(bystander.join(format!("qb-{ring}-cpg-{part}")), "mine").unwrap();
            }
        }
        fs::write(bystander.join("qb-control-cpg"), [b'm'; raw::CONTROL]).unwrap();
        let listen = |service| {
            let listener = UnixListener::bind(root.join(service)).unwrap();
            listener.set_nonblocking(true).unwrap();
            (service, listener)
        };
        let lair = Self {
            root: root.to_owned(),
            transport,
            timeout,
            listeners: SERVICES.into_iter().map(listen).collect(),
            files: Mutex::default(),
            is_over: AtomicBool::new(false),
            wanted: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        };
        lair.note_files();
        lair
    }

    /// Notes which files there are: the client must leave them as they are.
    pub(crate) fn note_files(&self) {
        *self.files.lock().unwrap() = files(&self.root);
    }

    pub(crate) fn noted_files(&self) -> Listing {
        mem::take(&mut self.files.lock().unwrap())
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    /// Has the daemon do what its script says it does when told, and waits until it has.
    pub(crate) fn tell(&self) {
        let number = self.wanted.fetch_add(1, Ordering::SeqCst) + 1;
        let end = Instant::now() + Duration::from_secs(30);
        while self.done.load(Ordering::SeqCst) < number {
            assert!(Instant::now() < end, "the daemon does not do it");
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// Says that what the client wanted is done, while the daemon goes on with it.
    pub(crate) fn has_done(&self) {
        self.done.store(self.wanted.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The listener of a service.
    pub(crate) fn listener(&self, service: &str) -> &UnixListener {
        &self.listeners.iter().find(|(name, _)| *name == service).unwrap().1
    }

    /// Accepts a connection, unless the case is over first.
    pub(crate) fn accept(&self, service: &'static str) -> Option<Conn<'_>> {
        while !self.is_over() {
            match self.listener(service).accept() {
                Ok((setup, _)) => return Some(Conn::new(self, service, setup)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_micros(500));
                }
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// Sleeps until the case is over.
    pub(crate) fn idle(&self) {
        while !self.is_over() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Serves all services as a script says, until the case is over.
    pub(crate) fn serve(&self, script: &Script) {
        let mut conns: Vec<Conn<'_>> = Vec::new();
        while !self.is_over() {
            let number = self.wanted.load(Ordering::SeqCst);
            if number > self.done.load(Ordering::SeqCst) {
                (script.told)(&mut conns);
                self.done.store(number, Ordering::SeqCst);
            }
            let listeners = self.listeners.iter().map(|(_, listener)| listener.as_fd());
            let waits: Vec<_> =
                listeners.chain(conns.iter().filter_map(Conn::descriptor)).collect();
            wait_readable(&waits, Duration::from_millis(1));
            for (service, listener) in &self.listeners {
                if let Ok((setup, _)) = listener.accept() {
                    let mut conn = Conn::new(self, service, setup);
                    if conn.read_request() {
                        (script.connected)(&mut conn);
                    }
                    conns.push(conn);
                }
            }
            // One that was closed is served no more, whichever end closed it.
            for conn in conns.iter_mut().filter(|conn| conn.setup.is_some()) {
                while let Some(request) = conn.next_request() {
                    conn.requests += 1;
                    (script.requested)(
                        conn,
                        &request,
                        self.requests.fetch_add(1, Ordering::SeqCst),
                    );
                }
            }
        }
    }
}

fn wait_readable(descriptors: &[BorrowedFd<'_>], timeout: Duration) {
    let mut fds: Vec<_> =
        descriptors.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let _ = poll(&mut fds, PollTimeout::try_from(timeout).unwrap());
}

type Connected = dyn Fn(&mut Conn<'_>) + Send + Sync;
type Requested = dyn Fn(&mut Conn<'_>, &[u8], usize) + Send + Sync;
type Told = dyn Fn(&mut Vec<Conn<'_>>) + Send + Sync;

/// What a daemon does.
pub(crate) struct Script {
    connected: Box<Connected>,
    requested: Box<Requested>,
    told: Box<Told>,
}

impl Script {
    /// Answers everything as it should be.
    pub(crate) fn honest() -> Self {
        Self {
            connected: Box::new(|conn| {
                conn.make();
                conn.greet();
            }),
            requested: Box::new(|conn, request, _| conn.answer_honestly(request)),
            told: Box::new(|_| {}),
        }
    }

    /// What it does with a client that has sent its connection request.
    pub(crate) fn connected(self, act: impl Fn(&mut Conn<'_>) + Send + Sync + 'static) -> Self {
        Self { connected: Box::new(act), ..self }
    }

    /// What it does with a request. The number counts requests of all connections.
    pub(crate) fn requested(
        self,
        act: impl Fn(&mut Conn<'_>, &[u8], usize) + Send + Sync + 'static,
    ) -> Self {
        Self { requested: Box::new(act), ..self }
    }

    /// What it does when the client says so.
    pub(crate) fn told(self, act: impl Fn(&mut Vec<Conn<'_>>) + Send + Sync + 'static) -> Self {
        Self { told: Box::new(act), ..self }
    }

    /// As [`Script::told`], with the first connection of a service.
    pub(crate) fn told_at(
        self,
        service: &'static str,
        act: impl Fn(&mut Conn<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.told(move |conns| {
            act(conns.iter_mut().find(|conn| conn.service == service).expect("connected"));
        })
    }
}

/// One client, as the daemon sees it.
pub(crate) struct Conn<'a> {
    pub(crate) lair: &'a Lair,
    pub(crate) service: &'static str,
    pub(crate) setup: Option<UnixStream>,
    /// The size that the client asked for.
    pub(crate) asked: u32,
    /// What [`Conn::greet`] sends.
    pub(crate) reply: SetupReply,
    /// The directory of the connection's files.
    pub(crate) directory: PathBuf,
    pub(crate) channels: Channels,
    /// Requests so far.
    pub(crate) requests: usize,
    /// How far an iteration has come.
    pub(crate) iterated: usize,
    /// Whether it reads nothing from the setup socket.
    pub(crate) is_deaf: bool,
}

/// What messages travel through.
pub(crate) enum Channels {
    Nothing,
    /// Of requests, responses and events.
    Rings([Ring; 3]),
    Datagrams(Sockets),
}

/// The sockets of a connection of datagrams.
pub(crate) struct Sockets {
    /// `None` once it has been cut short: the daemon would die of what is missing.
    pub(crate) control: Option<Shared>,
    pub(crate) request: UnixDatagram,
    pub(crate) event: UnixDatagram,
    pub(crate) base: String,
    /// The base of the addresses if they are paths.
    pub(crate) paths: Option<PathBuf>,
}

impl<'a> Conn<'a> {
    fn new(lair: &'a Lair, service: &'static str, setup: UnixStream) -> Self {
        setup.set_nonblocking(true).unwrap();
        let number = lair.connections.fetch_add(1, Ordering::SeqCst);
        let pid = process::id();
        Self {
            directory: lair.root.join(format!("qb-{pid}-{pid}-{number}-liar")),
            reply: SetupReply::new(SHM, 0, [Vec::new(), Vec::new(), Vec::new()]),
            channels: Channels::Nothing,
            setup: Some(setup),
            asked: 0,
            requests: 0,
            iterated: 0,
            is_deaf: false,
            lair,
            service,
        }
    }

    pub(crate) fn setup(&self) -> &UnixStream {
        self.setup.as_ref().expect("the setup socket is open")
    }

    /// Reads the connection request. Returns `false` if the client closes before.
    pub(crate) fn read_request(&mut self) -> bool {
        let mut request = [0; raw::SETUP_REQUEST];
        let mut length = 0;
        while length < request.len() && !self.lair.is_over() {
            match self.setup().read(&mut request[length..]) {
                Ok(0) => return false,
                Ok(count) => length += count,
                Err(_) => thread::sleep(Duration::from_micros(200)),
            }
        }
        assert_eq!(raw::i32_at(&request, 0), raw::AUTHENTICATE);
        assert_eq!(raw::i32_at(&request, 8), raw::SETUP_REQUEST as i32);
        self.asked = raw::i32_at(&request, 16) as u32;
        true
    }

    /// Makes the files and the reply for messages of the size that the client asked for.
    pub(crate) fn make(&mut self) {
        self.make_sized(self.asked);
    }

    pub(crate) fn make_sized(&mut self, size: u32) {
        fs::create_dir(&self.directory).unwrap();
        let path = |name: String| self.directory.join(name);
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        match self.lair.transport {
            Transport::Rings => {
                let rings = ["request", "response", "event"].map(|ring| {
                    let base = path(format!("qb-{ring}-{}", self.service));
                    Ring::create(&base, size, ring == "request").unwrap()
                });
                let names = rings.each_ref().map(|ring| bytes(&ring.base));
                self.reply = SetupReply::new(SHM, size, names);
                self.channels = Channels::Rings(rings);
            }
            Transport::Datagrams => {
                let control_path = path(format!("qb-control-{}", self.service));
                let mut options = fs::OpenOptions::new();
                let control =
                    options.read(true).write(true).create_new(true).open(&control_path).unwrap();
                control.set_len(raw::CONTROL as u64).unwrap();
                let control = Some(Shared::map(&control, raw::CONTROL).unwrap());
                let base = path(format!("qb-{}", self.service)).to_str().unwrap().to_owned();
                let [request, event] = ["-request", "-event-tx"].map(|suffix| {
                    let socket = bind_datagram(&format!("{base}{suffix}")).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    socket
                });
                let names = [bytes(&control_path), base.clone().into_bytes(), Vec::new()];
                self.reply = SetupReply::new(SOCKET, size, names);
                self.channels =
                    Channels::Datagrams(Sockets { control, request, event, base, paths: None });
            }
        }
    }

    /// Sends the reply.
    pub(crate) fn greet(&mut self) {
        let reply = self.reply.bytes();
        self.say(&reply);
    }

    /// Sends bytes over the setup socket, and notes which files there are.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.lair.note_files();
        self.send_setup(bytes);
    }

    /// Sends bytes over the setup socket, as long as the client reads them.
    pub(crate) fn send_setup(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lair.is_over() {
            match self.setup().write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_micros(200));
                }
                Err(_) => return,
            }
        }
    }

    pub(crate) fn close(&mut self) {
        self.setup = None;
    }

    pub(crate) fn rings(&self) -> &[Ring; 3] {
        let Channels::Rings(rings) = &self.channels else { panic!("no rings") };
        rings
    }

    pub(crate) fn sockets(&self) -> &Sockets {
        let Channels::Datagrams(sockets) = &self.channels else { panic!("no sockets") };
        sockets
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.channels {
            Channels::Datagrams(sockets) => Some(sockets.request.as_fd()),
            _ => self.setup.as_ref().map(AsFd::as_fd),
        }
    }

    /// Takes the next request, if there is one. Closes when the client has closed.
    pub(crate) fn next_request(&mut self) -> Option<Vec<u8>> {
        let mut byte = [0];
        let setup = self.setup.as_ref().filter(|_| !self.is_deaf);
        if setup.is_some_and(|setup| matches!((&*setup).read(&mut byte), Ok(0))) {
            self.setup = None;
        }
        match &self.channels {
            Channels::Nothing => None,
            Channels::Rings([request, ..]) => request.take(),
            Channels::Datagrams(Sockets { control, request, .. }) => {
                let mut message = vec![0; 64 << 10];
                let (length, _) = request.recv_from(&mut message).ok()?;
                if let Some(control) = control {
                    control.word(0).fetch_sub(1, Ordering::SeqCst);
                }
                message.truncate(length);
                Some(message)
            }
        }
    }

    /// Sends a reply, if there is room.
    pub(crate) fn answer(&self, message: &[u8]) -> bool {
        self.send(1, message)
    }

    /// Sends an event, if there is room.
    pub(crate) fn event(&mut self, message: &[u8]) -> bool {
        let is_sent = self.send(2, message);
        if is_sent && matches!(self.channels, Channels::Rings(_)) && self.setup.is_some() {
            // A full socket has enough of them.
            let _ = self.setup().write(&[0]);
        }
        is_sent
    }

    /// Sends an event, as soon as there is room.
    pub(crate) fn event_when_it_fits(&mut self, message: &[u8]) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.event(message) && !self.lair.is_over() && self.is_open() {
            assert!(Instant::now() < end, "nobody takes events");
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Whether the client has not closed.
    pub(crate) fn is_open(&self) -> bool {
        let mut fds = [PollFd::new(self.setup().as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 0
    }

    /// Sends a message through the channel of this number, if there is room.
    pub(crate) fn send(&self, channel: usize, message: &[u8]) -> bool {
        match &self.channels {
            Channels::Nothing => false,
            Channels::Rings(rings) => {
                let ring = &rings[channel];
                ring.has_room(message.len()) && {
                    ring.put(message);
                    true
                }
            }
            Channels::Datagrams(sockets) => {
                let (socket, suffix) =
                    [(&sockets.request, "-response"), (&sockets.event, "-event")][channel - 1];
                let address = match &sockets.paths {
                    Some(base) => SocketAddr::from_pathname(with_suffix(base, suffix)),
                    None => abstract_address(format!("{}{suffix}", sockets.base).as_bytes()),
                };
                let is_sent = socket.send_to_addr(message, &address.unwrap()).is_ok();
                if let Some(control) = sockets.control.as_ref().filter(|_| is_sent) {
                    control.word(channel * 8).fetch_add(1, Ordering::SeqCst);
                }
                is_sent
            }
        }
    }

    /// Answers a request as it should be.
    pub(crate) fn answer_honestly(&mut self, request: &[u8]) {
        if let Some(answer) = honest::answer(self, request) {
            self.answer(&answer);
        }
    }
}
