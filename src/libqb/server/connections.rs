//! The clients of a server, as its handler uses them.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::connection::Connection;
use super::listener::{Bound, ServiceAddress};
use super::{FlowControl, SendError};
use crate::codec::Header;
use crate::error::Result;
use crate::libqb::buffer::Buffer;
use crate::sys::serve::Seen;
use crate::sys::socket::Credentials;

/// Id of the request by which old clients disconnect. Matches `QB_IPC_MSG_DISCONNECT`.
const DISCONNECT: i32 = -3;

/// Identifies a connection. A server never uses an id again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// All clients of a server.
pub struct Connections<S> {
    pub(super) all: BTreeMap<ConnectionId, Client<S>>,
    pub(super) services: Vec<Service>,
    next_id: u64,
    /// For the requests of all clients.
    buffer: Buffer,
    pub(super) timer: Option<Instant>,
    is_shut_down: bool,
    /// How many bytes of events are queued for all clients, at most: events that left a queue since
    /// the last count are included.
    queued: usize,
    event_memory: usize,
}

/// A service. Its index is that in the builder's list.
pub(super) struct Service {
    pub(super) address: ServiceAddress,
    /// `None` while it is closed.
    pub(super) bound: Option<Bound>,
    pub(super) serving: Serving,
}

/// Which clients a service serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    All,
    /// New clients only. Requests of the others wait, and so does their end.
    NewClients,
    /// Nobody, as a stopped process.
    Nothing,
}

pub(super) struct Client<S> {
    pub(super) connection: Connection,
    pub(super) session: S,
}

impl<S> Connections<S> {
    /// No clients, and services that are open.
    pub(super) fn new(services: Vec<(ServiceAddress, Bound)>, event_memory: usize) -> Self {
        let service =
            |(address, bound)| Service { address, bound: Some(bound), serving: Serving::All };
        let services = services.into_iter().map(service).collect();
        Self {
            all: BTreeMap::new(),
            services,
            next_id: 1,
            buffer: Buffer::default(),
            timer: None,
            is_shut_down: false,
            queued: 0,
            event_memory,
        }
    }

    /// Returns the id for the next client.
    pub(super) fn next_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Counts the queued bytes again.
    pub(super) fn count_queued(&mut self) {
        self.queued = self.all.values().map(|client| client.connection.event_bytes()).sum();
    }

    /// Ends the connection with the longest queue. Returns `false` if nothing is queued.
    fn close_longest_queue(&mut self) -> bool {
        let clients = self.all.values_mut().map(|client| &mut client.connection);
        let longest = clients
            .max_by_key(|connection| connection.event_bytes())
            .filter(|it| it.event_bytes() > 0);
        let is_some = longest.is_some();
        longest.into_iter().for_each(Connection::close);
        self.count_queued();
        is_some
    }

    /// Returns a client that is still connected.
    pub fn get(&mut self, id: ConnectionId) -> Option<Conn<'_, S>> {
        // A closed one is only waiting to be removed.
        self.all.get(&id).filter(|client| !client.connection.is_closed())?;
        Some(Conn { connections: self, id })
    }

    /// Returns the ids of all clients, in the order in which they connected.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.all
            .iter()
            .filter(|(_, client)| !client.connection.is_closed())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Iterates over the sessions of all clients, in the order in which they connected.
    pub fn sessions(&self) -> impl Iterator<Item = (ConnectionId, &S)> {
        let there = self.all.iter().filter(|(_, client)| !client.connection.is_closed());
        there.map(|(id, client)| (*id, &client.session))
    }

    /// Closes all services and disconnects all clients when the handler returns.
    pub fn shut_down(&mut self) {
        self.is_shut_down = true;
    }

    /// Whether [`Connections::shut_down`] was called.
    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// Closes a service and disconnects its clients when the handler returns.
    pub(crate) fn close_service(&mut self, index: usize) {
        if let Some(service) = self.services.get_mut(index) {
            service.bound = None;
        }
        let clients = self.all.values_mut().map(|client| &mut client.connection);
        clients.filter(|connection| connection.service == index).for_each(Connection::close);
    }

    /// Opens a service that was closed.
    pub(crate) fn open_service(&mut self, index: usize) -> Result<()> {
        if let Some(service) = self.services.get_mut(index) {
            (service.bound, service.serving) = (Some(service.address.bind()?), Serving::All);
        }
        Ok(())
    }

    pub(crate) fn set_serving(&mut self, index: usize, serving: Serving) {
        self.services.get_mut(index).into_iter().for_each(|service| service.serving = serving);
    }

    pub(super) fn serving(&self, index: usize) -> Serving {
        self.services.get(index).map_or(Serving::Nothing, |service| service.serving)
    }

    /// Takes a client's next request, after `taken` others in this turn.
    pub(super) fn take_request(
        &mut self,
        id: ConnectionId,
        seen: Seen,
        taken: usize,
    ) -> Option<Bytes> {
        let connection = &mut self.all.get_mut(&id)?.connection;
        let request = connection.take_request(seen, taken, &mut self.buffer)?;
        // As in libqb, a request without bytes disconnects too.
        let disconnects = request.is_empty() || Header::id_of(&request) == Some(DISCONNECT);
        if disconnects {
            connection.close();
        }
        (!disconnects).then_some(request)
    }

    /// Sets when [`Handler::on_timer`](super::Handler::on_timer) is called next. It is called once.
    pub fn set_timer(&mut self, when: Option<Instant>) {
        self.timer = when;
    }
}

/// A connected client, for its handler.
pub struct Conn<'a, S> {
    pub(super) connections: &'a mut Connections<S>,
    pub(super) id: ConnectionId,
}

#[allow(
    clippy::expect_used,
    reason = "`Connections::get` and the event loop make it of clients that are there"
)]
impl<S> Conn<'_, S> {
    fn client(&self) -> &Client<S> {
        self.connections.all.get(&self.id).expect("the client is there")
    }

    fn client_mut(&mut self) -> &mut Client<S> {
        self.connections.all.get_mut(&self.id).expect("the client is there")
    }

    /// Returns the connection's id.
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Returns the credentials of the client's process, as the kernel recorded them.
    pub fn credentials(&self) -> Credentials {
        self.client().connection.credentials
    }

    /// Returns the index of its service, in the order in which they were given to the builder.
    pub fn service_index(&self) -> usize {
        self.client().connection.service
    }

    /// Returns the name of its service.
    pub fn service(&self) -> &str {
        self.connections
            .services
            .get(self.service_index())
            .map_or("", |service| &service.address.name)
    }

    /// Returns the size of the largest message that it gets, in bytes.
    pub fn max_message_size(&self) -> u32 {
        self.client().connection.max_msg_size
    }

    /// Returns how many events are queued because its ring is full.
    pub fn queued_events(&self) -> usize {
        self.client().connection.queued_events()
    }

    /// Returns its session.
    pub fn session(&mut self) -> &mut S {
        &mut self.client_mut().session
    }

    /// Sends the answer to a request. While the response ring is full, the answer is queued.
    ///
    /// Matches `qb_ipcs_response_send`, which fails when the ring is full.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] when the client's rings are too small; a C client then waits for the
    /// answer for ever. [`SendError::Closed`].
    pub fn reply(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.reply_slices(&[message])
    }

    /// As [`Conn::reply`], with an answer in parts that follow each other: a header, and bytes that
    /// need not be copied behind it.
    ///
    /// Matches `qb_ipcs_response_sendv`.
    ///
    /// # Errors
    /// The same.
    pub fn reply_slices(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        self.client_mut().connection.reply(parts)
    }

    /// Sends an event. While the client's ring is full, the event is queued: see
    /// [`Builder::event_queue`](super::Builder::event_queue). Matches `qb_ipcs_event_send`.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] when the client's rings are too small; [`SendError::QueueFull`] and
    /// [`SendError::Closed`] when the queue is full, by its [`Overflow`](super::Overflow).
    pub fn send_event(&mut self, message: &[u8]) -> Result<(), SendError> {
        loop {
            let memory = self.connections.event_memory.saturating_sub(self.connections.queued);
            let connection = &mut self.client_mut().connection;
            let before = connection.event_bytes();
            let result = connection.send_event(message, memory);
            let (after, is_full) = (connection.event_bytes(), connection.ends_on_overflow());
            self.connections.queued = (self.connections.queued + after).saturating_sub(before);
            if result != Err(SendError::QueueFull)
                || !is_full
                || !self.connections.close_longest_queue()
            {
                return result;
            }
        }
    }

    /// Sets which requests the client may send. Matches `qb_ipcs_request_rate_limit`, for one
    /// client.
    pub fn set_flow_control(&mut self, state: FlowControl) {
        self.client_mut().connection.set_flow_control(state);
    }

    /// Limits how many more wake bytes are sent. Bytes that are owed are sent at once, up to the
    /// limit. `None` removes the limit.
    ///
    /// This is for tests of clients. libqb sends a byte long after its event when the socket is
    /// full, which is hard to provoke. With a limit of 0 an event is in the ring, and its byte
    /// comes when the limit is raised.
    pub fn limit_wake_bytes(&mut self, limit: Option<usize>) {
        self.client_mut().connection.limit_wake_bytes(limit);
    }

    /// Returns for how many events no wake byte was sent yet, because of a limit or because the
    /// socket is full.
    pub fn unsent_wake_bytes(&self) -> usize {
        self.client().connection.unsent_wake_bytes()
    }

    /// Disconnects the client when the handler returns.
    pub fn disconnect(&mut self) {
        self.client_mut().connection.close();
    }

    /// Returns all clients, including this one.
    pub fn connections(&mut self) -> &mut Connections<S> {
        self.connections
    }
}
