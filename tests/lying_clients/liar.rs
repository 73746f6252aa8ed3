//! A client whose every byte a case chooses. It stands on `testbed::raw` and on no codec.

use std::cell::RefCell;
use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::str;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use corosync_ipc::libqb::Transport;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, send, sendmsg};
use testbed::raw::{
    CONTROL, MAGIC, Magic, OLD_SETUP_REPLY, Ring, SETUP_REPLY, SHM, SetupReply, Shared,
    abstract_address, bind_datagram, header, i32_at, put, put_i32, request, setup_request,
    with_suffix,
};
use testbed::{WATCHDOG, eventually};

use crate::echo;
use crate::stage::Stage;

/// The most bytes of a datagram.
const LONGEST: usize = 1 << 21;

/// How many requests are sent before their answers are read.
const AT_A_TIME: usize = 50;

/// `cs_error_t`.
pub(crate) const OK: i32 = 1;
pub(crate) const NO_MEMORY: i32 = 8;
pub(crate) const BAD_HANDLE: i32 = 9;
pub(crate) const BUSY: i32 = 10;
pub(crate) const NOT_EXIST: i32 = 12;
pub(crate) const NAME_TOO_LONG: i32 = 13;
pub(crate) const EXIST: i32 = 14;
pub(crate) const INVALID: i32 = 7;

/// The setup socket before there is a connection.
pub(crate) fn setup(stage: &Stage, service: &str) -> UnixStream {
    setup_at(&stage.socket(service))
}

fn setup_at(path: &Path) -> UnixStream {
    let socket = UnixStream::connect(path).unwrap();
    socket.set_read_timeout(Some(WATCHDOG)).unwrap();
    socket
}

/// Reads the connection reply. `None`: the server has closed without one.
pub(crate) fn setup_reply(mut socket: &UnixStream) -> Option<SetupReply> {
    let mut bytes = vec![0; 24];
    let read = socket.read_exact(&mut bytes).and_then(|()| {
        let size = i32_at(&bytes, 8) as usize;
        assert!([SETUP_REPLY, OLD_SETUP_REPLY].contains(&size), "{size}");
        bytes.resize(size, 0);
        socket.read_exact(&mut bytes[24..])
    });
    match read {
        Ok(()) => Some(SetupReply::read(&bytes)),
        Err(error)
            if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) =>
        {
            None
        }
        Err(error) => panic!("neither a reply nor an end: {error}"),
    }
}

/// Waits until the server closes a socket from which nothing else is wanted.
#[track_caller]
pub(crate) fn is_closed(mut socket: &UnixStream) {
    let mut rest = [0; 4096];
    socket.set_nonblocking(true).unwrap();
    eventually("the server closes", || {
        loop {
            match socket.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    });
    socket.set_nonblocking(false).unwrap();
}

/// Sends bytes with descriptors.
pub(crate) fn send_with(socket: &impl AsRawFd, bytes: &[u8], descriptors: &[RawFd]) {
    let parts = [IoSlice::new(bytes)];
    let carried = [ControlMessage::ScmRights(descriptors)];
    let carried = if descriptors.is_empty() { &[][..] } else { &carried[..] };
    sendmsg::<()>(socket.as_raw_fd(), &parts, carried, MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

/// A connection.
pub(crate) struct Liar {
    pub(crate) setup: UnixStream,
    pub(crate) reply: SetupReply,
    service: String,
    /// The directory of sockets and rings.
    folder: PathBuf,
    ends: Ends,
    /// Room for a datagram.
    buffer: RefCell<Vec<u8>>,
}

enum Ends {
    Rings(Arc<[Ring; 3]>),
    Datagrams {
        control: Shared,
        response: UnixDatagram,
        event: UnixDatagram,
    },
    /// Not opened.
    None,
}

impl Liar {
    /// Connects as a client of libqb does.
    #[track_caller]
    pub(crate) fn connect(stage: &Stage, service: &str, max_msg_size: u32) -> Self {
        let mut liar = Self::blind(stage, service, max_msg_size);
        liar.open();
        liar
    }

    /// Connects and opens nothing of what the reply names.
    #[track_caller]
    pub(crate) fn blind(stage: &Stage, service: &str, max_msg_size: u32) -> Self {
        Self::blind_at(stage.socket(service), service, max_msg_size)
    }

    /// As [`Liar::connect`] in another process than the stage's.
    pub(crate) fn at(path: &Path, service: &str, max_msg_size: u32) -> Self {
        let mut liar = Self::blind_at(path.to_owned(), service, max_msg_size);
        liar.open();
        liar
    }

    #[track_caller]
    fn blind_at(path: PathBuf, service: &str, max_msg_size: u32) -> Self {
        let mut setup = setup_at(&path);
        setup.write_all(&setup_request(max_msg_size)).unwrap();
        let reply = setup_reply(&setup).expect("the server closed");
        assert_eq!(reply.error, 0);
        let (service, folder) = (service.to_owned(), path.parent().unwrap().to_owned());
        Self { setup, reply, service, folder, ends: Ends::None, buffer: RefCell::default() }
    }

    /// A name of the reply.
    fn name(&self, number: usize) -> &str {
        str::from_utf8(&self.reply.names[number]).unwrap()
    }

    /// What the names of a ring's files begin with.
    pub(crate) fn ring_path(&self, number: usize) -> PathBuf {
        // Without a directory the name comes from an old libqb.
        let name = self.name(number);
        if name.starts_with('/') { name.into() } else { self.folder.join(format!("qb-{name}")) }
    }

    /// Opens the rings or the sockets.
    pub(crate) fn open(&mut self) {
        self.open_with(MAGIC);
    }

    /// As [`Liar::open`], with other magic numbers for the rings.
    pub(crate) fn open_with(&mut self, magic: Magic) {
        let name = |number| self.name(number);
        self.ends = if self.reply.transport == SHM {
            let open = |number| {
                let mut ring = Ring::open(&self.ring_path(number)).unwrap();
                ring.magic = magic;
                ring.header.word(header::REF_COUNT).fetch_add(1, Ordering::SeqCst);
                ring
            };
            Ends::Rings(Arc::new([open(0), open(1), open(2)]))
        } else {
            let control = File::options().read(true).write(true).open(name(0)).unwrap();
            let control = Shared::map(&control, CONTROL).unwrap();
            let bind = |suffix| {
                let socket = bind_datagram(&format!("{}-{suffix}", name(1))).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            };
            let (response, event) = (bind("response"), bind("event"));
            let address =
                |suffix| abstract_address(format!("{}-{suffix}", name(1)).as_bytes()).unwrap();
            response.connect_addr(&address("request")).unwrap();
            event.connect_addr(&address("event-tx")).unwrap();
            Ends::Datagrams { control, response, event }
        };
    }

    pub(crate) fn transport(&self) -> Transport {
        if self.reply.transport == SHM { Transport::Shm } else { Transport::Socket }
    }

    /// The rings of requests, answers and events.
    pub(crate) fn rings(&self) -> &Arc<[Ring; 3]> {
        match &self.ends {
            Ends::Rings(rings) => rings,
            _ => panic!("it has no rings"),
        }
    }

    /// The request ring.
    pub(crate) fn requests(&self) -> &Ring {
        &self.rings()[0]
    }

    /// The control file and the sockets.
    pub(crate) fn datagrams(&self) -> (&Shared, &UnixDatagram, &UnixDatagram) {
        match &self.ends {
            Ends::Datagrams { control, response, event } => (control, response, event),
            _ => panic!("it has no datagrams"),
        }
    }

    /// The name that all its sockets of datagrams begin with.
    pub(crate) fn base(&self) -> &str {
        self.name(1)
    }

    /// The files that both ends share.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        if self.reply.transport == SHM {
            let ring =
                |at| ["-header", "-data"].map(|suffix| with_suffix(&self.ring_path(at), suffix));
            (0..3).flat_map(ring).collect()
        } else {
            vec![self.name(0).into()]
        }
    }

    /// The directory of its files.
    pub(crate) fn directory(&self) -> PathBuf {
        self.files()[0].parent().unwrap().to_owned()
    }

    /// Sends a wake byte, if there is room for one.
    pub(crate) fn wake(&self) {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let _ = send(self.setup.as_raw_fd(), &[0], flags);
    }

    /// Sends a message as an honest client does. Returns false if there is no room for it, or
    /// nobody to send it to.
    pub(crate) fn try_send(&self, message: &[u8]) -> bool {
        match &self.ends {
            Ends::Rings(rings) => {
                let has_room = rings[0].has_room(message.len()) && is_writable(&self.setup);
                if has_room {
                    rings[0].put(message);
                    self.wake();
                }
                has_room
            }
            Ends::Datagrams { control, response, .. } => {
                let is_sent = response.send(message).is_ok();
                if is_sent {
                    control.word(0).fetch_add(1, Ordering::SeqCst);
                }
                is_sent
            }
            Ends::None => panic!("it has opened nothing"),
        }
    }

    /// Puts a message into the request ring at an index, whatever the header says, and announces
    /// it. Returns the index behind it.
    pub(crate) fn put_at(&self, index: u32, message: &[u8]) -> u32 {
        let ring = self.requests();
        ring.write(index, message);
        ring.word(index, 1).store(ring.magic.live, Ordering::SeqCst);
        ring.post();
        self.wake();
        (index + 2 + (message.len() as u32).div_ceil(4)) % ring.words()
    }

    /// Sends a datagram from a socket that is not the connection's own.
    pub(crate) fn send_blindly(&self, message: &[u8]) {
        let address = abstract_address(format!("{}-request", self.base()).as_bytes()).unwrap();
        UnixDatagram::unbound().unwrap().send_to_addr(message, &address).unwrap();
    }

    /// Sends a message once there is room. A connection that was cut takes it too.
    pub(crate) fn send(&self, message: &[u8]) -> &Self {
        eventually("the request finds room", || self.try_send(message) || self.is_cut());
        self
    }

    /// Takes an answer, if there is one.
    pub(crate) fn try_reply(&self) -> Option<Vec<u8>> {
        self.take(1)
    }

    /// Takes an event, if there is one.
    pub(crate) fn try_event(&self) -> Option<Vec<u8>> {
        self.take(2)
    }

    fn take(&self, direction: usize) -> Option<Vec<u8>> {
        match &self.ends {
            Ends::Rings(rings) => rings[direction].take(),
            Ends::Datagrams { control, response, event } => {
                let socket = if direction == 1 { response } else { event };
                let mut buffer = self.buffer.borrow_mut();
                if buffer.is_empty() {
                    *buffer = vec![0; LONGEST];
                }
                let size = socket.recv(&mut buffer).ok()?;
                control.word(direction * 8).fetch_sub(1, Ordering::SeqCst);
                Some(buffer[..size].to_vec())
            }
            Ends::None => panic!("it has opened nothing"),
        }
    }

    /// Waits for the next answer.
    #[track_caller]
    pub(crate) fn next_reply(&self) -> Vec<u8> {
        let reply = eventually("an answer or an end", || {
            self.try_reply().map(Some).or_else(|| self.is_cut().then(|| self.try_reply()))
        });
        reply.expect("an answer before the end")
    }

    /// Waits for the next event.
    #[track_caller]
    pub(crate) fn next_event(&self) -> Vec<u8> {
        eventually("an event", || self.try_event())
    }

    /// Whether the server has ended the connection. Takes the wake bytes.
    pub(crate) fn is_cut(&self) -> bool {
        self.setup.set_nonblocking(true).unwrap();
        let mut bytes = [0; 4096];
        let is_cut = loop {
            match (&self.setup).read(&mut bytes) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(error) => break error.kind() != ErrorKind::WouldBlock,
            }
        };
        self.setup.set_nonblocking(false).unwrap();
        is_cut
    }

    /// The server ends the connection.
    #[track_caller]
    pub(crate) fn cut(&self) {
        eventually("the server cuts the connection", || self.is_cut());
    }

    /// Sends many requests, some at a time, until their answers do not please any more. Returns
    /// how many did.
    #[track_caller]
    pub(crate) fn ask(
        &self,
        count: usize,
        request: impl Fn(usize) -> Vec<u8>,
        mut pleases: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let mut pleased = 0;
        for first in (0..count).step_by(AT_A_TIME) {
            let some = first..count.min(first + AT_A_TIME);
            for number in some.clone() {
                self.send(&request(number));
            }
            let answers: Vec<_> = some.clone().map(|_| pleases(&self.next_reply())).collect();
            pleased += answers.iter().take_while(|it| **it).count();
            if pleased < some.end {
                break;
            }
        }
        pleased
    }

    /// The next answer has this id and this error.
    #[track_caller]
    pub(crate) fn answers(&self, id: i32, error: i32) -> Vec<u8> {
        let reply = self.next_reply();
        assert_eq!((i32_at(&reply, 0), i32_at(&reply, 16)), (id, error), "{} bytes", reply.len());
        reply
    }

    /// The server goes on to serve this connection: an honest request gets its own answer.
    #[track_caller]
    pub(crate) fn works(&self) -> &Self {
        let (message, id, error, size) = self.nudge();
        self.send(&message);
        let reply = self.answers(id, error);
        assert_eq!((reply.len(), i32_at(&reply, 8)), (size, size as i32));
        self
    }

    /// An honest request, and the id, error and size of its answer.
    fn nudge(&self) -> (Vec<u8>, i32, i32, usize) {
        match self.service.as_str() {
            "cmap" => (get("...", 16), 2, NOT_EXIST, 40),
            "cpg" => (request(4, &[]), 7, OK, 32),
            "quorum" => (request(0, &[]), 0, OK, 32),
            "votequorum" => (request(0, &[0xff; 8]), 1, NOT_EXIST, 320),
            "cfg" => (request(6, &[]), 12, OK, 32),
            "evs" => (request(4, &[]), 6, OK, 1576),
            _ => (request(echo::ECHO, b"echo"), echo::ECHO, OK, 28),
        }
    }
}

fn is_writable(socket: &UnixStream) -> bool {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

/// A cmap get.
pub(crate) fn get(key: &str, value_len: u64) -> Vec<u8> {
    let mut message = keyed(2, key);
    put(&mut message, 280, &value_len.to_ne_bytes());
    message
}

/// A cmap request that begins with a key.
pub(crate) fn keyed(id: i32, key: &str) -> Vec<u8> {
    let mut message = request(id, &[0; 264]);
    put(&mut message, 16, &(key.len() as u16).to_ne_bytes());
    put(&mut message, 24, key.as_bytes());
    message
}

/// A cmap set of bytes.
pub(crate) fn set(key: &str, value: &[u8]) -> Vec<u8> {
    let mut message = keyed(0, key);
    put(&mut message, 280, &(value.len() as u64).to_ne_bytes());
    put(&mut message, 288, &[12, 0, 0, 0, 0, 0, 0, 0]);
    put(&mut message, 296, value);
    sized(message)
}

/// A cmap tracker of all that happens below a prefix.
pub(crate) fn track(prefix: &str) -> Vec<u8> {
    let mut message = keyed(7, prefix);
    put_i32(&mut message, 280, 15);
    put(&mut message, 288, &[0; 8]);
    sized(message)
}

/// A cpg request that begins with a group.
pub(crate) fn grouped(id: i32, group: &str) -> Vec<u8> {
    let mut message = request(id, &[0; 136]);
    put_i32(&mut message, 16, group.len() as i32);
    put(&mut message, 24, group.as_bytes());
    message
}

/// A cpg join.
pub(crate) fn join(group: &str, pid: i32) -> Vec<u8> {
    let mut message = grouped(0, group);
    put_i32(&mut message, 152, pid);
    put(&mut message, 160, &[0; 8]);
    sized(message)
}

/// A cpg multicast.
pub(crate) fn multicast(message: &[u8]) -> Vec<u8> {
    let mut whole = request(2, &[0; 24]);
    put_i32(&mut whole, 24, 2);
    put_i32(&mut whole, 32, message.len() as i32);
    put(&mut whole, 40, message);
    sized(whole)
}

/// A cpg fragment of a message of such a length. Kind 1 is the first, 2 a later, 3 the last one.
pub(crate) fn fragment(msglen: i32, kind: i32, bytes: &[u8]) -> Vec<u8> {
    let mut whole = request(12, &[0; 40]);
    for (offset, value) in [(24, 2), (32, msglen), (40, bytes.len() as i32), (48, kind)] {
        put_i32(&mut whole, offset, value);
    }
    put(&mut whole, 56, bytes);
    sized(whole)
}

/// Puts the length into the header.
pub(crate) fn sized(mut message: Vec<u8>) -> Vec<u8> {
    let size = message.len() as i32;
    put_i32(&mut message, 8, size);
    message
}

/// A thread that does something again and again until it is dropped.
pub(crate) struct Racing {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Racing {
    pub(crate) fn start(mut step: impl FnMut() + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            while !until.load(Ordering::SeqCst) {
                // One processor may have to do for all.
                (0..64).for_each(|_| step());
                thread::yield_now();
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Racing {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.take().map(JoinHandle::join);
    }
}
