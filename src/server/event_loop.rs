//! The server's thread: it waits for all sockets at once, sets connections up, and takes turns with the clients.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use nix::libc;

use super::connection::{self, Connection, Turn};
use super::listener::{Bound, Gone, Handler, Peer, Settings};
use super::rings::{Request, Rings};
use super::{FlowControl, SendError};
use crate::engine::accept::Accept;
use crate::sys::event::Bell;
use crate::sys::serve::{self, Seen, Watch};
use crate::sys::socket;
use crate::types::Credentials;
use crate::wire::setup::{CONNECT_REQUEST_SIZE, ConnectReply, TransportType};

/// How long a client may take to say what it wants. libqb waits for ever.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How many clients may be about to say what they want. The oldest makes room for the next.
const MAX_HANDSHAKES: usize = 256;

/// How long to let clients wait when there are no descriptors left to take them.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long to wait before looking whether a client made room in its ring, at first and at most.
const ROOM_FIRST: Duration = Duration::from_millis(1);
const ROOM_MOST: Duration = Duration::from_millis(20);

/// Id of the request by which old clients say good-bye. Matches `QB_IPC_MSG_DISCONNECT`.
const DISCONNECT: i32 = -3;

/// Something to be done on the server's thread.
pub(super) enum Job<H: Handler> {
    Run(Body<H>),
    Stop,
}

type Body<H> = Box<dyn FnOnce(&mut H, &mut Connections<<H as Handler>::Session>) + Send>;

/// Names a connection for as long as the server runs; ids are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(super) fn number(self) -> u64 {
        self.0
    }

    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// All clients of a server.
pub struct Connections<S> {
    all: BTreeMap<ConnectionId, Client<S>>,
    services: Vec<String>,
    next_id: u64,
    timer: Option<Instant>,
    is_shut_down: bool,
}

struct Client<S> {
    connection: Connection,
    session: S,
}

impl<S> Connections<S> {
    /// A client, if it is still there.
    pub fn get(&mut self, id: ConnectionId) -> Option<Conn<'_, S>> {
        // Not one that is only to be cleared away.
        self.all.get(&id).filter(|client| !client.connection.is_closed())?;
        Some(Conn { connections: self, id })
    }

    /// The ids of all clients, in the order in which they connected.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.all.iter().filter(|(_, client)| !client.connection.is_closed()).map(|(id, _)| *id).collect()
    }

    /// All clients, with what is kept of them, in the order in which they connected.
    pub fn sessions(&self) -> impl Iterator<Item = (ConnectionId, &S)> {
        let there = self.all.iter().filter(|(_, client)| !client.connection.is_closed());
        there.map(|(id, client)| (*id, &client.session))
    }

    /// Ends the service: nobody is listened to any more, and all clients are disconnected, once the handler returns.
    pub fn shut_down(&mut self) {
        self.is_shut_down = true;
    }

    /// Whether [`Connections::shut_down`] was called.
    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// When to call [`Handler::on_timer`] next. It is called once.
    pub fn set_timer(&mut self, when: Option<Instant>) {
        self.timer = when;
    }
}

/// A client, to be answered, sent events, or disconnected.
pub struct Conn<'a, S> {
    connections: &'a mut Connections<S>,
    id: ConnectionId,
}

#[allow(clippy::expect_used, reason = "`Connections::get` and the event loop make it of clients that are there")]
impl<S> Conn<'_, S> {
    fn client(&self) -> &Client<S> {
        self.connections.all.get(&self.id).expect("the client is there")
    }

    fn client_mut(&mut self) -> &mut Client<S> {
        self.connections.all.get_mut(&self.id).expect("the client is there")
    }

    /// Its id.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Its process, as the kernel says.
    pub fn credentials(&self) -> Credentials {
        self.client().connection.credentials
    }

    /// The number of its service, in the order in which they were given to the builder.
    pub fn service_index(&self) -> usize {
        self.client().connection.service
    }

    /// The name of its service.
    pub fn service(&self) -> &str {
        self.connections.services.get(self.service_index()).map_or("", String::as_str)
    }

    /// The largest message it gets, in bytes.
    pub fn max_message_size(&self) -> u32 {
        self.client().connection.max_msg_size
    }

    /// How many events wait because its ring is full.
    pub fn queued_events(&self) -> usize {
        self.client().connection.queued_events()
    }

    /// What is kept of it.
    pub fn session(&mut self) -> &mut S {
        &mut self.client_mut().session
    }

    /// Sends the answer to a request. Matches `qb_ipcs_response_send`, but waits for room where that fails.
    ///
    /// # Errors
    /// [`SendError::TooLarge`]: the client asked for small rings, and waits for an answer for ever; [`SendError::Closed`].
    pub fn reply(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.client_mut().connection.reply(message)
    }

    /// Sends an event. When the client's ring is full it waits in the queue, see [`Builder::event_queue`](super::Builder::event_queue).
    /// Matches `qb_ipcs_event_send`.
    ///
    /// # Errors
    /// What happened instead.
    pub fn send_event(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.client_mut().connection.send_event(message)
    }

    /// Lets the client send requests, or not. Matches `qb_ipcs_request_rate_limit`, for one client.
    pub fn set_flow_control(&mut self, state: FlowControl) {
        self.client_mut().connection.set_flow_control(state);
    }

    /// Sends at most so many more of the bytes that announce events, at once where events wait for theirs; `None`, as at first: all.
    ///
    /// For tests of clients. libqb sends a byte long after its event when the socket is full, which is hard to bring about; with a
    /// limit of 0 an event is in the ring, and its byte comes when the limit says so.
    pub fn limit_wake_bytes(&mut self, limit: Option<usize>) {
        self.client_mut().connection.limit_notifications(limit);
    }

    /// How many events in the client's ring it was sent no byte for yet: because of a limit, or because its socket is full.
    pub fn unsent_wake_bytes(&self) -> usize {
        self.client().connection.unsent_notifications()
    }

    /// Disconnects the client, once the handler returns.
    pub fn disconnect(&mut self) {
        self.client_mut().connection.close();
    }

    /// All clients, this one among them.
    pub fn connections(&mut self) -> &mut Connections<S> {
        self.connections
    }
}

/// A client that has not yet said what it wants.
struct Handshaking {
    socket: OwnedFd,
    service: usize,
    accept: Accept,
    until: Instant,
}

pub(super) struct EventLoop<H: Handler> {
    handler: H,
    connections: Connections<H::Session>,
    services: Vec<Bound>,
    settings: Settings,
    handshaking: Vec<Handshaking>,
    bell: Arc<Bell>,
    inbox: Receiver<Job<H>>,
    accept_after: Option<Instant>,
    room_pause: Duration,
}

impl<H: Handler> EventLoop<H> {
    pub(super) fn new(
        handler: H,
        services: Vec<Bound>,
        settings: Settings,
        bell: Arc<Bell>,
        inbox: Receiver<Job<H>>,
    ) -> Self {
        let names = services.iter().map(|service| service.name.clone()).collect();
        Self {
            handler,
            connections: Connections {
                all: BTreeMap::new(),
                services: names,
                next_id: 1,
                timer: None,
                is_shut_down: false,
            },
            services,
            settings,
            handshaking: Vec::new(),
            bell,
            inbox,
            accept_after: None,
            room_pause: ROOM_FIRST,
        }
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) -> H {
        loop {
            let seen = match self.wait() {
                Ok(seen) => seen,
                // Without memory for the list of descriptors there is nothing to be done but to try again.
                Err(_) => continue,
            };
            if self.step(seen) {
                return self.handler;
            }
        }
    }

    /// Waits for something to do. What was seen is in the order: bell, services, handshakes, connections.
    fn wait(&mut self) -> io::Result<Vec<Seen>> {
        let now = Instant::now();
        if self.accept_after.is_some_and(|after| after <= now) {
            self.accept_after = None;
        }
        let read = Watch { readable: true, writable: false };
        let accept = Watch { readable: self.accept_after.is_none(), writable: false };
        let mut watched: Vec<(BorrowedFd<'_>, Watch)> = vec![(self.bell.as_fd(), read)];
        watched.extend(self.services.iter().map(|service| (service.socket.as_fd(), accept)));
        watched.extend(self.handshaking.iter().map(|client| (client.socket.as_fd(), read)));
        let connections = self.connections.all.values().map(|client| &client.connection);
        watched.extend(connections.clone().map(|connection| (connection.as_fd(), connection.watch())));
        let room = connections.clone().any(Connection::waits_for_room).then(|| now + self.room_pause);
        let deadlines = [self.connections.timer, self.accept_after, room];
        let handshakes = self.handshaking.iter().map(|client| client.until);
        let deadline = deadlines.into_iter().flatten().chain(handshakes).min();
        serve::wait_for_any(&watched, deadline)
    }

    /// Does what is to be done. Whether it was to stop.
    fn step(&mut self, seen: Vec<Seen>) -> bool {
        let mut seen = seen.into_iter();
        let rung = seen.next().is_some_and(|seen| seen.readable);
        let services: Vec<Seen> = seen.by_ref().take(self.services.len()).collect();
        let handshakes: Vec<Seen> = seen.by_ref().take(self.handshaking.len()).collect();
        let clients: Vec<(ConnectionId, Seen)> = self.connections.all.keys().copied().zip(seen).collect();

        if rung {
            self.bell.silence();
            while let Ok(job) = self.inbox.try_recv() {
                match job {
                    Job::Run(body) => body(&mut self.handler, &mut self.connections),
                    Job::Stop => return true,
                }
            }
        }
        if self.connections.timer.is_some_and(|timer| timer <= Instant::now()) {
            self.connections.timer = None;
            self.handler.on_timer(&mut self.connections);
        }
        self.flush();
        for (id, seen) in clients {
            self.serve(id, seen);
        }
        self.shake_hands(&handshakes);
        for (service, seen) in services.into_iter().enumerate() {
            if seen.readable {
                self.accept(service);
            }
        }
        self.clear_away();
        false
    }

    fn flush(&mut self) {
        let mut waiting = 0;
        let mut left = 0;
        for client in self.connections.all.values_mut() {
            let before = client.connection.waits_for_room();
            client.connection.flush();
            waiting += usize::from(before);
            left += usize::from(client.connection.waits_for_room());
        }
        self.room_pause = if left > 0 && left == waiting { (self.room_pause * 2).min(ROOM_MOST) } else { ROOM_FIRST };
    }

    /// Gives a client its turn.
    fn serve(&mut self, id: ConnectionId, seen: Seen) {
        if !(seen.readable || seen.hung_up) {
            return;
        }
        let mut taken = 0;
        while let Some(client) = self.connections.all.get_mut(&id) {
            let Turn::Request(request) = client.connection.take_request(seen, taken) else {
                break;
            };
            taken += 1;
            // As libqb, which takes a request without bytes for a good-bye.
            let farewell = request.is_empty() || request.get(..4) == Some(&DISCONNECT.to_ne_bytes());
            if farewell {
                client.connection.close();
                break;
            }
            self.handler.on_request(&mut Conn { connections: &mut self.connections, id }, request);
        }
        if seen.hung_up {
            // What the client sent before it closed was served above.
            if let Some(client) = self.connections.all.get_mut(&id) {
                client.connection.close();
            }
        }
    }

    /// Takes connections from a service's queue.
    fn accept(&mut self, service: usize) {
        let Some(bound) = self.services.get(service) else {
            return;
        };
        loop {
            match serve::accept_stream(&bound.socket) {
                Ok(socket) => {
                    if self.handshaking.len() >= MAX_HANDSHAKES {
                        self.handshaking.remove(0);
                    }
                    let until = Instant::now() + HANDSHAKE_TIME;
                    self.handshaking.push(Handshaking { socket, service, accept: Accept::default(), until });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(_) => {
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Goes on with the clients that are about to connect.
    fn shake_hands(&mut self, seen: &[Seen]) {
        let now = Instant::now();
        let mut seen = seen.iter();
        for mut client in std::mem::take(&mut self.handshaking) {
            let seen = seen.next().copied().unwrap_or_default();
            let request = if seen.readable || seen.hung_up { client.receive() } else { Ok(None) };
            match request {
                Ok(Some(max_msg_size)) => self.connect(client, max_msg_size),
                Ok(None) if client.until > now => self.handshaking.push(client),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Sets a connection up, or tells the client why not.
    fn connect(&mut self, client: Handshaking, max_msg_size: u32) {
        let Handshaking { socket, service, .. } = client;
        let Ok(credentials) = socket::peer_credentials(&socket) else {
            return;
        };
        let Some(bound) = self.services.get(service) else {
            return;
        };
        let max_msg_size = max_msg_size.min(self.settings.max_msg_size);
        let peer = Peer { service: &bound.name, service_index: service, credentials, max_message_size: max_msg_size };
        let session = match self.handler.authorize(&peer) {
            Ok(session) => session,
            Err(refusal) => return self.refuse(&socket, refusal.errno()),
        };
        let request = Request {
            generation: self.settings.generation,
            root: &bound.shm_root,
            service: &bound.name,
            client: credentials,
            fd: socket.as_raw_fd(),
            max_msg_size,
        };
        let id = ConnectionId(self.connections.next_id);
        let created = Rings::create(&request).and_then(|rings| {
            let [request, response, event] = rings.told.clone();
            let reply = ConnectReply {
                generation: self.settings.generation.reply(),
                error: 0,
                transport: TransportType::SHM,
                max_msg_size,
                cookie: id.0,
                request,
                response,
                event,
            };
            Ok((rings, reply.encode().map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?))
        });
        let (rings, reply) = match created {
            Ok(created) => created,
            Err(error) => return self.refuse(&socket, error.raw_os_error().unwrap_or(libc::EIO)),
        };
        self.connections.next_id += 1;
        let queue = (self.settings.event_queue, self.settings.overflow);
        let mut connection = Connection::new(socket, rings, credentials, service, max_msg_size, reply, queue);
        connection.flush();
        self.connections.all.insert(id, Client { connection, session });
        crate::log::debug!(pid = credentials.pid, "a client connected");
        self.handler.on_connect(&mut Conn { connections: &mut self.connections, id });
    }

    fn refuse(&self, socket: &OwnedFd, errno: i32) {
        let [request, response, event] = [const { bytes::Bytes::new() }; 3];
        let reply = ConnectReply {
            generation: self.settings.generation.reply(),
            error: -errno,
            transport: TransportType::SOCKET,
            max_msg_size: 0,
            cookie: 0,
            request,
            response,
            event,
        };
        // A client that does not even take this is not helped by trying again.
        let _ = reply.encode().map(|reply| connection::refuse(socket, &reply));
    }

    /// Clears away the clients that are gone. The handler may send more of them away.
    fn clear_away(&mut self) {
        if self.connections.is_shut_down {
            self.services.clear();
            self.handshaking.clear();
            self.connections.all.values_mut().for_each(|client| client.connection.close());
        }
        loop {
            let closed = self.connections.all.iter().find(|(_, client)| client.connection.is_closed());
            let Some(id) = closed.map(|(id, _)| *id) else {
                return;
            };
            if let Some(Client { connection, session }) = self.connections.all.remove(&id) {
                let Connection { credentials, service, .. } = connection;
                // The client must find its rings gone when it hears of anything the handler does now.
                drop(connection);
                crate::log::debug!(pid = credentials.pid, "a client disconnected");
                let gone = Gone { id, service_index: service, credentials, session };
                self.handler.on_disconnect(&mut self.connections, gone);
            }
        }
    }
}

impl Handshaking {
    /// Takes what has arrived. Returns the largest message the client wants, once it has said so.
    fn receive(&mut self) -> io::Result<Option<u32>> {
        let mut buffer = [0; CONNECT_REQUEST_SIZE];
        let room = buffer.get_mut(..self.accept.wants()).unwrap_or_default();
        match socket::receive_now(&self.socket, room) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                let request = self.accept.feed(room.get(..count).unwrap_or_default());
                Ok(request.map_err(io::Error::other)?.map(|request| request.max_msg_size))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}
