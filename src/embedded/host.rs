//! The handler that connects the nodes' state machines to their clients.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Refuse;
use super::node::{ClientNumber, Node, ServiceId};
use super::world::{ClientOutput, World};
use crate::libqb::server::Serving;
use crate::libqb::server::{Conn, ConnectionId, Connections, Gone, Handler, Peer, Refusal};
use crate::sys::event::Wakeup;
use crate::sys::file;

/// Serves the clients of all nodes.
///
/// The listener numbers the services of all nodes: first those of node 0, then those of node 1 and
/// so on. `service_index` is such a number.
pub(crate) struct Host {
    world: World,
    clock: Clock,
    /// Service indices whose requests are held.
    held: BTreeSet<usize>,
    /// Refused requests by service index.
    refused: BTreeMap<usize, Refuse>,
    /// One wakeup per node, woken when the node's daemon ends.
    ended: Vec<Arc<Wakeup>>,
    /// The services of each node.
    services: &'static [ServiceId],
}

/// The clock of the nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// The system's monotonic clock.
    Real,
    /// The time of the start, and the time elapsed since. Only [`Host::advance`] moves it.
    Driven(Instant, Duration),
}

impl Clock {
    fn now(self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            // `Cluster::advance` has a limit, so this does not overflow.
            Self::Driven(started_at, elapsed) => {
                started_at.checked_add(elapsed).unwrap_or(started_at)
            }
        }
    }
}

impl Host {
    pub(crate) fn new(
        world: World,
        ended: Vec<Arc<Wakeup>>,
        clock: Clock,
        services: &'static [ServiceId],
    ) -> Self {
        Self { world, clock, held: BTreeSet::new(), refused: BTreeMap::new(), ended, services }
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    pub(crate) fn nodes(&self) -> usize {
        self.ended.len()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.clock
    }

    /// Runs `body` on the nodes and sends the outputs it returns to the clients.
    pub(crate) fn drive<T>(
        &mut self,
        connections: &mut Connections<()>,
        body: impl FnOnce(&mut World, Instant) -> (Vec<ClientOutput>, T),
    ) -> T {
        let (outputs, result) = body(&mut self.world, self.clock.now());
        self.send(connections, outputs);
        result
    }

    /// Advances a driven clock. Each timer that is due meanwhile expires at its time.
    pub(crate) fn advance(&mut self, connections: &mut Connections<()>, by: Duration) {
        let Clock::Driven(started_at, elapsed) = self.clock else {
            return;
        };
        let until = elapsed.saturating_add(by);
        while let Some(timer) = self.world.next_timer() {
            let due = timer.saturating_duration_since(started_at);
            if due > until {
                break;
            }
            self.clock = Clock::Driven(started_at, due.max(elapsed));
            let outputs = self.world.timer(self.clock.now());
            self.send(connections, outputs);
        }
        self.clock = Clock::Driven(started_at, until);
    }

    pub(crate) fn hold(
        &mut self,
        connections: &mut Connections<()>,
        service_index: usize,
        is_held: bool,
    ) {
        if is_held {
            self.held.insert(service_index);
        } else {
            self.held.remove(&service_index);
        }
        self.update_serving(connections);
    }

    pub(crate) fn release_all(&mut self, connections: &mut Connections<()>) {
        self.held.clear();
        self.update_serving(connections);
    }

    pub(crate) fn refuse(&mut self, service_index: usize, which: Refuse) {
        self.refused.insert(service_index, which);
    }

    pub(crate) fn service_index(&self, node: usize, service: ServiceId) -> Option<usize> {
        let offset = self.services.iter().position(|other| *other == service)?;
        Some(node * self.services.len() + offset)
    }

    /// The service indices of a node.
    pub(crate) fn services_of(&self, node: usize) -> Range<usize> {
        let count = self.services.len();
        node * count..(node + 1) * count
    }

    /// The node and the service of a service index.
    fn node_and_service(&self, service_index: usize) -> Option<(usize, ServiceId)> {
        let count = self.services.len();
        Some((service_index / count, *self.services.get(service_index % count)?))
    }

    fn step(
        &mut self,
        connections: &mut Connections<()>,
        service_index: usize,
        body: impl FnOnce(&mut Node, ServiceId, Instant),
    ) {
        if let Some((node, service)) = self.node_and_service(service_index) {
            self.drive(connections, |world, now| {
                (world.step(now, node, |node| body(node, service, now)), ())
            });
        }
    }

    fn send(&mut self, connections: &mut Connections<()>, outputs: Vec<ClientOutput>) {
        for output in outputs {
            // A message that does not fit in a client's ring is lost. corosync reports that to
            // nobody either, so errors are ignored here.
            match output {
                ClientOutput::Reply { client, mut message, zeros } => {
                    let Some(mut conn) = connections.get(ConnectionId::from_number(client.0))
                    else {
                        continue;
                    };
                    let room = u64::from(conn.max_message_size()) + 4096;
                    if zeros <= room {
                        message.resize(message.len() + zeros as usize, 0);
                        let _ = conn.reply(&message);
                    }
                }
                ClientOutput::Event { client, message } => {
                    if let Some(mut conn) = connections.get(ConnectionId::from_number(client.0)) {
                        let _ = conn.send_event(&message);
                    }
                }
                ClientOutput::Exit(node) => {
                    for service_index in self.services_of(node) {
                        connections.close_service(service_index);
                        self.held.remove(&service_index);
                        self.refused.remove(&service_index);
                    }
                    self.ended.get(node).into_iter().for_each(|ended| ended.wake());
                }
            }
        }
        if let Clock::Real = self.clock {
            connections.set_timer(self.world.next_timer());
        }
        self.update_serving(connections);
    }

    /// Updates which clients are served. While a ring synchronizes, the daemon reads only requests
    /// to votequorum.
    fn update_serving(&self, connections: &mut Connections<()>) {
        for node in 0..self.nodes() {
            let (is_paused, is_in_sync) = (self.world.is_paused(node), self.world.is_in_sync(node));
            let votequorum = self.service_index(node, ServiceId::Votequorum);
            for service_index in self.services_of(node) {
                let waits_for_sync = is_in_sync && votequorum != Some(service_index);
                let serving = if is_paused {
                    Serving::Nothing
                } else if waits_for_sync || self.held.contains(&service_index) {
                    Serving::NewClients
                } else {
                    Serving::All
                };
                connections.set_serving(service_index, serving);
            }
        }
    }

    /// Returns true if the next request to a service is to be refused, and counts it.
    fn take_refusal(&mut self, service_index: usize) -> bool {
        match self.refused.get_mut(&service_index) {
            Some(Refuse::All) => true,
            Some(Refuse::Next(count @ 1..)) => {
                *count -= 1;
                true
            }
            Some(Refuse::Next(0) | Refuse::None) | None => false,
        }
    }
}

impl Handler for Host {
    type Session = ();

    fn authorize(&mut self, peer: &Peer<'_>) -> Result<(), Refusal> {
        let node = self.node_and_service(peer.service_index);
        match node.and_then(|(node, _)| self.world.daemon(node)) {
            Some(node) if node.allows(peer.credentials) || is_same_user(peer) => Ok(()),
            Some(_) => Err(Refusal::NOT_ALLOWED),
            None => Err(Refusal::NO_SERVICE),
        }
    }

    fn on_connect(&mut self, conn: &mut Conn<'_, ()>) {
        let (service_index, client) = (conn.service_index(), client_number(conn.id()));
        let pid = conn.credentials().pid;
        let name = file::process_name(pid).unwrap_or_default();
        self.step(conn.connections(), service_index, |node, service, now| {
            node.connect(now, service, client, pid, name)
        });
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let (service_index, client) = (conn.service_index(), client_number(conn.id()));
        if self.take_refusal(service_index) {
            self.step(conn.connections(), service_index, |node, service, now| {
                node.refuse(now, service, client, &request)
            });
            return;
        }
        self.step(conn.connections(), service_index, |node, service, now| {
            node.request(now, service, client, &request)
        });
    }

    fn on_disconnect(&mut self, connections: &mut Connections<()>, gone: Gone<()>) {
        let client = client_number(gone.id);
        self.step(connections, gone.service_index, |node, service, now| {
            node.disconnect(now, service, client)
        });
    }

    fn on_timer(&mut self, connections: &mut Connections<()>) {
        self.drive(connections, |world, now| (world.timer(now), ()));
    }
}

fn client_number(id: ConnectionId) -> ClientNumber {
    ClientNumber(id.number())
}

/// Returns true if the peer is the user who runs this process. That user may use the embedded
/// daemon, as root may use corosync.
fn is_same_user(peer: &Peer<'_>) -> bool {
    peer.credentials.uid == nix::unistd::geteuid().as_raw()
}
