//! The clients of a server, as its handler meets them.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use super::connection::Connection;
use super::listener::{Bound, ServiceAddress};
use super::{FlowControl, SendError};
use crate::codec::Header;
use crate::error::Result;
use crate::sys::serve::Seen;
use crate::sys::socket::Credentials;

/// Id of the request by which old clients say good-bye. Matches `QB_IPC_MSG_DISCONNECT`.
const DISCONNECT: i32 = -3;

/// Names a connection for as long as the server runs; ids are not used again.
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
    pub(super) timer: Option<Instant>,
    is_shut_down: bool,
    /// How many bytes of events wait for all clients, and at most; what was sent since it was
    /// counted is added.
    waiting: usize,
    event_memory: usize,
}

/// A service, by its place in the builder's list.
pub(super) struct Service {
    at: ServiceAddress,
    /// `None` while it is closed.
    pub(super) bound: Option<Bound>,
    pub(super) serving: Serving,
}

/// Which clients a service serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    All,
    /// New clients only; what the others send, their end included, waits.
    NewClients,
    /// Nothing, as a process that was stopped.
    Nothing,
}

pub(super) struct Client<S> {
    pub(super) connection: Connection,
    pub(super) session: S,
}

impl<S> Connections<S> {
    /// None yet, and services that are open.
    pub(super) fn new(services: Vec<(ServiceAddress, Bound)>, event_memory: usize) -> Self {
        let service = |(at, bound)| Service { at, bound: Some(bound), serving: Serving::All };
        let services = services.into_iter().map(service).collect();
        Self {
            all: BTreeMap::new(),
            services,
            next_id: 1,
            timer: None,
            is_shut_down: false,
            waiting: 0,
            event_memory,
        }
    }

    /// An id for a client to come.
    pub(super) fn next_id(&mut self) -> ConnectionId {
        let id = ConnectionId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Counts the bytes that wait, some of which have been sent.
    pub(super) fn count_waiting(&mut self) {
        self.waiting = self.all.values().map(|client| client.connection.event_bytes()).sum();
    }

    /// Ends the connection for which the most waits. Whether anything waited.
    fn end_the_longest_queue(&mut self) -> bool {
        let clients = self.all.values_mut().map(|client| &mut client.connection);
        let longest = clients
            .max_by_key(|connection| connection.event_bytes())
            .filter(|it| it.event_bytes() > 0);
        let is_some = longest.is_some();
        longest.into_iter().for_each(Connection::close);
        self.count_waiting();
        is_some
    }

    /// A client, if it is still there.
    pub fn get(&mut self, id: ConnectionId) -> Option<Conn<'_, S>> {
        // Not one that is only to be cleared away.
        self.all.get(&id).filter(|client| !client.connection.is_closed())?;
        Some(Conn { connections: self, id })
    }

    /// The ids of all clients, in the order in which they connected.
    pub fn ids(&self) -> Vec<ConnectionId> {
        self.all
            .iter()
            .filter(|(_, client)| !client.connection.is_closed())
            .map(|(id, _)| *id)
            .collect()
    }

    /// All clients, with what is kept of them, in the order in which they connected.
    pub fn sessions(&self) -> impl Iterator<Item = (ConnectionId, &S)> {
        let there = self.all.iter().filter(|(_, client)| !client.connection.is_closed());
        there.map(|(id, client)| (*id, &client.session))
    }

    /// Ends the service: nobody is listened to any more, and all clients are disconnected, once the
    /// handler returns.
    pub fn shut_down(&mut self) {
        self.is_shut_down = true;
    }

    /// Whether [`Connections::shut_down`] was called.
    pub fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// Closes a service: nobody is listened to any more, and its clients are disconnected, once the
    /// handler returns.
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
            (service.bound, service.serving) = (Some(service.at.bind()?), Serving::All);
        }
        Ok(())
    }

    pub(crate) fn set_serving(&mut self, index: usize, serving: Serving) {
        self.services.get_mut(index).into_iter().for_each(|service| service.serving = serving);
    }

    pub(super) fn serving(&self, index: usize) -> Serving {
        self.services.get(index).map_or(Serving::Nothing, |service| service.serving)
    }

    /// Takes a client's next request of a turn in which so many were taken already.
    pub(super) fn take_request(
        &mut self,
        id: ConnectionId,
        seen: Seen,
        taken: usize,
    ) -> Option<Bytes> {
        let connection = &mut self.all.get_mut(&id)?.connection;
        let request = connection.take_request(seen, taken)?;
        // As libqb, which takes a request without bytes for a good-bye.
        let farewell = request.is_empty() || Header::id_of(&request) == Some(DISCONNECT);
        if farewell {
            connection.close();
        }
        (!farewell).then_some(request)
    }

    /// When to call [`Handler::on_timer`](super::Handler::on_timer) next. It is called once.
    pub fn set_timer(&mut self, when: Option<Instant>) {
        self.timer = when;
    }
}

/// A client, to be answered, sent events, or disconnected.
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
        self.connections.services.get(self.service_index()).map_or("", |service| &service.at.name)
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

    /// Sends the answer to a request. Matches `qb_ipcs_response_send`, but waits for room where
    /// that fails.
    ///
    /// # Errors
    /// [`SendError::TooLarge`]: the client asked for small rings, and waits for an answer for ever;
    /// [`SendError::Closed`].
    pub fn reply(&mut self, message: &[u8]) -> Result<(), SendError> {
        self.client_mut().connection.reply(message)
    }

    /// Sends an event. When the client's ring is full it waits in the queue, see
    /// [`Builder::event_queue`](super::Builder::event_queue). Matches `qb_ipcs_event_send`.
    ///
    /// # Errors
    /// What happened instead.
    pub fn send_event(&mut self, message: &[u8]) -> Result<(), SendError> {
        loop {
            let memory = self.connections.event_memory.saturating_sub(self.connections.waiting);
            let connection = &mut self.client_mut().connection;
            let before = connection.event_bytes();
            let result = connection.send_event(message, memory);
            let (after, is_full) = (connection.event_bytes(), connection.ends_on_overflow());
            self.connections.waiting = (self.connections.waiting + after).saturating_sub(before);
            if result != Err(SendError::QueueFull)
                || !is_full
                || !self.connections.end_the_longest_queue()
            {
                return result;
            }
        }
    }

    /// Lets the client send requests, or not. Matches `qb_ipcs_request_rate_limit`, for one client.
    pub fn set_flow_control(&mut self, state: FlowControl) {
        self.client_mut().connection.set_flow_control(state);
    }

    /// Sends at most so many more of the bytes that announce events, at once where events wait for
    /// theirs; `None`, as at first: all.
    ///
    /// For tests of clients. libqb sends a byte long after its event when the socket is full, which
    /// is hard to bring about; with a limit of 0 an event is in the ring, and its byte comes
    /// when the limit says so.
    pub fn limit_wake_bytes(&mut self, limit: Option<usize>) {
        self.client_mut().connection.limit_notifications(limit);
    }

    /// How many events in the client's ring it was sent no byte for yet: because of a limit, or
    /// because its socket is full.
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
