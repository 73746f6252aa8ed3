//! The server's thread. It polls all sockets, sets connections up, and serves the clients in turn.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use nix::libc;

use super::connection::Connection;
use super::connections::{Client, Conn, ConnectionId, Connections, Serving};
use super::listener::{Bound, Gone, Handler, Peer, ServiceAddress, Settings};
use super::random::Random;
use super::rings::{Request, Rings};
use crate::codec::setup::{CONNECT_REQUEST_SIZE, ConnectReply, TransportType};
use crate::libqb::accept::Accept;
use crate::sys::event::Wakeup;
use crate::sys::serve::{self, Seen, Watch};
use crate::sys::socket::{self, Credentials};

/// How long a client may take to send its connection request. libqb waits for ever.
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// How many connections may be without a connection request. With more, or without descriptors for
/// more, the oldest one of the user with the most of them is closed, so that no user keeps others
/// out.
const MAX_HANDSHAKES: usize = 256;

/// How many connections are accepted at a time before connected clients are served.
const ACCEPTS_A_TURN: usize = 64;

/// How much shared memory is made for new connections, in bytes, before connected clients are
/// served. The largest connection has 96 MiB, which takes tens of milliseconds.
const MEMORY_A_TURN: u64 = 16 << 20;

/// How long to stop accepting when there are no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long to wait before the next look for ring space; no descriptor signals it. The time doubles
/// while clients make no room. libqb looks every 50 ms.
const ROOM_INTERVAL: Duration = Duration::from_millis(1);
const MOST_ROOM_INTERVAL: Duration = Duration::from_millis(50);

/// How many requests are served at most before a job, since a client may never stop sending.
const MAX_CATCH_UP: usize = 1 << 18;

/// A job for the server's thread.
pub(super) enum Job<H: Handler> {
    Run(Body<H>),
    /// As `Run`, but after every request that clients have sent before. The sender is dropped when
    /// the consequences of the job have been handled.
    Drive(Body<H>, SyncSender<()>),
    Stop,
}

type Body<H> = Box<dyn FnOnce(&mut H, &mut Connections<<H as Handler>::Session>) + Send>;

/// The result of polling all descriptors.
struct Polled {
    woken: bool,
    services: Vec<(usize, Seen)>,
    handshakes: Vec<Seen>,
    clients: Vec<(ConnectionId, Seen)>,
}

/// A client whose connection request has not arrived.
struct Handshaking {
    socket: OwnedFd,
    credentials: Credentials,
    service: usize,
    accept: Accept,
    until: Instant,
}

pub(super) struct EventLoop<H: Handler> {
    handler: H,
    connections: Connections<H::Session>,
    settings: Settings,
    handshaking: Vec<Handshaking>,
    wakeup: Arc<Wakeup>,
    inbox: Receiver<Job<H>>,
    accept_after: Option<Instant>,
    room_interval: Duration,
    /// How much shared memory was made in this turn.
    made: u64,
    /// How many jobs of [`Job::Drive`] were done.
    drives: u64,
    /// Whether the clients of paced services wait for one that is behind.
    paced_wait: bool,
}

impl<H: Handler> EventLoop<H> {
    pub(super) fn new(
        handler: H,
        services: Vec<(ServiceAddress, Bound)>,
        settings: Settings,
        wakeup: Arc<Wakeup>,
        inbox: Receiver<Job<H>>,
    ) -> Self {
        Self {
            handler,
            connections: Connections::new(services, settings.event_memory),
            settings,
            handshaking: Vec::new(),
            wakeup,
            inbox,
            accept_after: None,
            room_interval: ROOM_INTERVAL,
            made: 0,
            drives: 0,
            paced_wait: false,
        }
    }

    /// Serves until asked to stop.
    pub(super) fn run(mut self) -> H {
        loop {
            let seen = match self.wait() {
                Ok(seen) => seen,
                // There is no memory for the list of descriptors: try again.
                Err(_) => continue,
            };
            if self.step(seen) {
                return self.handler;
            }
        }
    }

    /// Polls until something happens or the next deadline passes.
    fn wait(&mut self) -> io::Result<Polled> {
        let now = Instant::now();
        if self.accept_after.is_some_and(|after| after <= now) {
            self.accept_after = None;
        }
        let connections = self.connections.all.values().map(|client| &client.connection);
        let room =
            connections.clone().any(Connection::waits_for_room).then(|| now + self.room_interval);
        let deadlines = [self.connections.timer, self.accept_after, room];
        let handshakes = self.handshaking.iter().map(|client| client.until);
        self.poll(deadlines.into_iter().flatten().chain(handshakes).min())
    }

    /// Polls all descriptors until the deadline.
    fn poll(&self, deadline: Option<Instant>) -> io::Result<Polled> {
        let read = Watch { readable: true, writable: false };
        let accept = Watch { readable: self.accept_after.is_none(), writable: false };
        let services =
            self.connections.services.iter().enumerate().filter_map(|(index, service)| {
                let bound =
                    service.bound.as_ref().filter(|_| service.serving != Serving::Nothing)?;
                Some((index, bound.socket.as_fd()))
            });
        let services: Vec<_> = services.collect();
        let clients =
            self.connections.all.iter().map(|(id, client)| (*id, &client.connection)).filter(
                |(_, it)| {
                    // A client that is not served still gets its events.
                    self.connections.serving(it.service) == Serving::All
                        || it.has_something_to_send()
                },
            );
        // A client of datagrams has two sockets. Each is looked at by itself.
        let clients: Vec<_> = clients
            .flat_map(|(id, it)| it.watches().into_iter().flatten().map(move |watch| (id, watch)))
            .collect();
        let mut watched: Vec<(BorrowedFd<'_>, Watch)> = vec![(self.wakeup.as_fd(), read)];
        watched.extend(services.iter().map(|(_, socket)| (*socket, accept)));
        watched.extend(self.handshaking.iter().map(|client| (client.socket.as_fd(), read)));
        watched.extend(clients.iter().map(|(_, watch)| *watch));
        let mut seen = serve::wait_for_any(&watched, deadline)?.into_iter();
        Ok(Polled {
            woken: seen.next().is_some_and(|seen| seen.readable),
            services: services.iter().map(|(index, _)| *index).zip(seen.by_ref()).collect(),
            handshakes: seen.by_ref().take(self.handshaking.len()).collect(),
            clients: clients.iter().map(|(id, _)| *id).zip(seen).collect(),
        })
    }

    /// Handles one round. Returns true when asked to stop.
    fn step(&mut self, mut polled: Polled) -> bool {
        if polled.woken {
            self.wakeup.clear();
            while let Ok(job) = self.inbox.try_recv() {
                match job {
                    Job::Run(body) => body(&mut self.handler, &mut self.connections),
                    Job::Drive(body, _done) => {
                        // Requests that were sent before come first, even of paused clients.
                        self.pause(false);
                        self.catch_up();
                        body(&mut self.handler, &mut self.connections);
                        self.remove_closed();
                        // The job may have changed which clients are served.
                        self.catch_up();
                        // What was polled is served. Do not take a byte for it: the byte of another
                        // request may have come.
                        polled.clients.clear();
                    }
                    Job::Stop => return true,
                }
            }
        }
        if self.connections.timer.is_some_and(|timer| timer <= Instant::now()) {
            self.connections.timer = None;
            self.handler.on_timer(&mut self.connections);
        }
        self.flush();
        self.made = 0;
        for (id, seen) in polled.clients {
            self.serve(id, seen);
        }
        self.shake_hands(&polled.handshakes);
        for (service, seen) in polled.services {
            if seen.readable {
                self.accept(service);
            }
        }
        self.remove_closed();
        self.pace();
        false
    }

    /// Makes the clients of paced services wait while one of them is behind.
    fn pace(&mut self) {
        if self.settings.paced.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut clients = self.connections.all.values().map(|client| &client.connection);
        let wait = clients.any(|it| {
            self.settings.paced.contains(&it.service) && it.is_behind(now, self.paced_wait)
        });
        self.pause(wait);
    }

    fn pause(&mut self, wait: bool) {
        self.paced_wait = wait;
        let clients = self.connections.all.values_mut().map(|client| &mut client.connection);
        clients
            .filter(|it| self.settings.paced.contains(&it.service))
            .for_each(|it| it.pause(wait));
    }

    /// Serves all requests that clients have sent, and the end of those that closed, in an order
    /// that the seed decides.
    fn catch_up(&mut self) {
        self.drives += 1;
        // A new sequence each time, so that the order does not depend on what happened before.
        let mut random = Random::new(self.settings.seed.wrapping_add(self.drives));
        for _ in 0..MAX_CATCH_UP {
            let Ok(Polled { clients, .. }) = self.poll(Some(Instant::now())) else {
                return;
            };
            // Wake bytes do not count: they may be late.
            let waits = |id: &ConnectionId| {
                self.connections.all.get(id).is_some_and(|it| it.connection.has_request())
            };
            let clients = clients.into_iter().filter(|(id, _)| self.is_served(*id));
            let mut clients: Vec<_> =
                clients.filter(|(id, seen)| seen.hung_up || waits(id)).collect();
            let Some((id, seen)) = random.take(&mut clients) else {
                return;
            };
            let seen = Seen { readable: false, ..seen };
            if !self.serve_one(id, seen, 0) {
                self.hang_up(id, seen);
            }
            self.remove_closed();
        }
    }

    fn flush(&mut self) {
        let (mut has_sent, mut waits) = (false, false);
        for Client { connection, .. } in self.connections.all.values_mut() {
            has_sent |= connection.flush();
            waits |= connection.waits_for_room();
        }
        self.room_interval = if has_sent || !waits {
            ROOM_INTERVAL
        } else {
            (self.room_interval * 2).min(MOST_ROOM_INTERVAL)
        };
        self.connections.count_queued();
    }

    /// Serves a client's requests of one turn.
    fn serve(&mut self, id: ConnectionId, seen: Seen) {
        if !(seen.readable || seen.hung_up) {
            return;
        }
        let mut taken = 0;
        while self.serve_one(id, seen, taken) {
            taken += 1;
        }
        self.hang_up(id, seen);
    }

    /// Serves a request, after `taken` others in this turn. Returns `false` if there is none.
    fn serve_one(&mut self, id: ConnectionId, seen: Seen, taken: usize) -> bool {
        // The handler may have stopped serving it meanwhile.
        let request =
            if self.is_served(id) { self.connections.take_request(id, seen, taken) } else { None };
        let is_some = request.is_some();
        if let Some(request) = request {
            self.handler.on_request(&mut Conn { connections: &mut self.connections, id }, request);
        }
        is_some
    }

    /// Ends the connection of a client that closed it and whose requests are all served.
    fn hang_up(&mut self, id: ConnectionId, seen: Seen) {
        if seen.hung_up && self.is_served(id) {
            self.connections
                .all
                .get_mut(&id)
                .into_iter()
                .for_each(|client| client.connection.close());
        }
    }

    fn is_served(&self, id: ConnectionId) -> bool {
        let client = self.connections.all.get(&id);
        client.is_some_and(|it| self.connections.serving(it.connection.service) == Serving::All)
    }

    /// Accepts connections of a service.
    fn accept(&mut self, service: usize) {
        for _ in 0..ACCEPTS_A_TURN {
            if self.made >= MEMORY_A_TURN {
                return;
            }
            let Some(bound) =
                self.connections.services.get(service).and_then(|service| service.bound.as_ref())
            else {
                return;
            };
            match serve::accept_stream(&bound.socket) {
                Ok(socket) => {
                    let Ok(credentials) = socket::peer_credentials(&socket) else {
                        continue;
                    };
                    if self.handshaking.len() >= MAX_HANDSHAKES {
                        close_oldest_handshake(&mut self.handshaking);
                    }
                    let until = Instant::now() + HANDSHAKE_TIME;
                    let client = Handshaking {
                        socket,
                        credentials,
                        service,
                        accept: Accept::default(),
                        until,
                    };
                    // Most have sent their request already. They need not wait behind clients that
                    // never send one.
                    self.read_request(client);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // Told before the queue is looked at: nobody may wait.
                Err(error)
                    if is_out_of_descriptors(&error) && !serve::is_waited_at(&bound.socket) =>
                {
                    return;
                }
                Err(error)
                    if is_out_of_descriptors(&error)
                        && close_oldest_handshake(&mut self.handshaking) => {}
                Err(_) => {
                    self.accept_after = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Reads from the clients whose connection request has not arrived.
    fn shake_hands(&mut self, seen: &[Seen]) {
        let now = Instant::now();
        let mut seen = seen.iter();
        for client in std::mem::take(&mut self.handshaking) {
            let seen = seen.next().copied().unwrap_or_default();
            let is_ready = seen.readable || seen.hung_up;
            if is_ready && self.made < MEMORY_A_TURN {
                self.read_request(client);
            } else if is_ready || client.until > now {
                self.handshaking.push(client);
            }
        }
    }

    /// Reads from a client whose connection request has not arrived.
    fn read_request(&mut self, mut client: Handshaking) {
        match client.receive() {
            Ok(Some(max_msg_size)) => self.connect(client, max_msg_size),
            Ok(None) => self.handshaking.push(client),
            Err(_) => {}
        }
    }

    /// Sets a connection up, or sends a refusal.
    fn connect(&mut self, client: Handshaking, max_msg_size: u32) {
        let Handshaking { socket, credentials, service, .. } = client;
        let id = self.connections.next_id();
        let entry = self.connections.services.get(service);
        let Some(bound) = entry.and_then(|entry| entry.bound.as_ref()) else { return };
        let max_msg_size = max_msg_size.min(self.settings.max_msg_size);
        let size = self.settings.generation.files_size(max_msg_size);
        let connections = self.connections.all.values().map(|client| &client.connection);
        let used: u64 =
            connections.map(|it| self.settings.generation.files_size(it.max_msg_size)).sum();
        if self.connections.all.len() >= self.settings.max_connections {
            return self.refuse(&socket, libc::EMFILE);
        }
        if used.saturating_add(size) > self.settings.shared_memory {
            return self.refuse(&socket, libc::ENOSPC);
        }
        let peer = Peer {
            service: &bound.name,
            service_index: service,
            credentials,
            max_message_size: max_msg_size,
        };
        let session = match self.handler.authorize(&peer) {
            Ok(session) => session,
            Err(refusal) => return self.refuse(&socket, refusal.errno()),
        };
        let access = self.handler.ring_access(&peer, &session);
        let request = Request {
            transport: self.settings.transport,
            address: &bound.address,
            generation: self.settings.generation,
            root: &bound.shm_root,
            client_root: &bound.client_root,
            marker: bound.marker.as_ref(),
            service: &bound.name,
            client: credentials,
            access,
            fd: socket.as_raw_fd(),
            max_msg_size,
        };
        self.made += size;
        let mut created = Rings::create(&request);
        while created.as_ref().is_err_and(is_out_of_descriptors)
            && close_oldest_handshake(&mut self.handshaking)
        {
            created = Rings::create(&request);
        }
        let created = created.and_then(|rings| {
            let [request, response, event] = rings.names.clone();
            let reply = ConnectReply {
                generation: self.settings.generation.reply(),
                error: 0,
                transport: rings.transport,
                max_msg_size,
                cookie: id.number(),
                request,
                response,
                event,
            };
            Ok((
                rings,
                reply.encode().map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?,
            ))
        });
        let (rings, reply) = match created {
            Ok(created) => created,
            Err(error) => return self.refuse(&socket, error.raw_os_error().unwrap_or(libc::EIO)),
        };
        let queue = (self.settings.event_queue, self.settings.overflow);
        let mut connection =
            Connection::new(socket, rings, credentials, service, max_msg_size, reply, queue);
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
        // The socket is closed then, so a reply that does not fit now is lost.
        let _ = reply.encode().map(|reply| socket::send_now(socket, &reply));
    }

    /// Removes closed clients. The handler may disconnect more meanwhile.
    fn remove_closed(&mut self) {
        if self.connections.is_shut_down() {
            (0..self.connections.services.len())
                .for_each(|index| self.connections.close_service(index));
        }
        let services = &self.connections.services;
        self.handshaking
            .retain(|it| services.get(it.service).is_some_and(|service| service.bound.is_some()));
        loop {
            let closed =
                self.connections.all.iter().find(|(_, client)| client.connection.is_closed());
            let Some(id) = closed.map(|(id, _)| *id) else {
                return;
            };
            if let Some(Client { connection, session }) = self.connections.all.remove(&id) {
                let Connection { credentials, service, .. } = connection;
                // The client must find its rings gone before it notices what the handler does now.
                drop(connection);
                crate::log::debug!(pid = credentials.pid, "a client disconnected");
                let gone = Gone { id, service_index: service, credentials, session };
                self.handler.on_disconnect(&mut self.connections, gone);
            }
        }
    }
}

/// Closes the oldest handshake of the user with the most of them. Returns `false` if there is none.
fn close_oldest_handshake(handshaking: &mut Vec<Handshaking>) -> bool {
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    handshaking.iter().for_each(|client| *counts.entry(client.credentials.uid).or_default() += 1);
    let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(uid, _)| uid);
    let oldest = handshaking.iter().position(|client| Some(client.credentials.uid) == most);
    oldest.map(|at| handshaking.remove(at)).is_some()
}

/// Whether the process or the system can open no more files.
fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

impl Handshaking {
    /// Takes the bytes that have arrived. Returns the size of the largest message that the client
    /// asks for, once the request is whole.
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
