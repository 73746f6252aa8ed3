//! The state machines' way to their clients.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Refuse;
use super::node::{ClientId, Node, ServiceId};
use super::world::{ClientOutput, World};
use crate::libqb::server::Serving;
use crate::libqb::server::{Conn, ConnectionId, Connections, Gone, Handler, Peer, Refusal};
use crate::sys::event::Wakeup;
use crate::sys::file;

/// Serves the nodes' clients. The services of a node follow each other, and the nodes.
pub(crate) struct Daemon {
    world: World,
    clock: Clock,
    /// Services whose requests wait.
    held: BTreeSet<usize>,
    /// Which requests to a service are refused.
    refused: BTreeMap<usize, Refuse>,
    /// Of each node; rung when it ends.
    ended: Vec<Arc<Wakeup>>,
    /// What each node serves.
    services: &'static [ServiceId],
}

/// What time it is for the nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Clock {
    /// What it is for everybody.
    Real,
    /// So much after the beginning.
    Driven(Instant, Duration),
}

impl Clock {
    fn now(self) -> Instant {
        match self {
            Self::Real => Instant::now(),
            // The builder's limit keeps it from overflowing.
            Self::Driven(beginning, passed) => beginning.checked_add(passed).unwrap_or(beginning),
        }
    }
}

impl Daemon {
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

    /// Does something to the nodes and sends clients what follows.
    pub(crate) fn drive<T>(
        &mut self,
        connections: &mut Connections<()>,
        body: impl FnOnce(&mut World, Instant) -> (Vec<ClientOutput>, T),
    ) -> T {
        let (outputs, result) = body(&mut self.world, self.clock.now());
        self.send(connections, outputs);
        result
    }

    /// Lets time pass, up to which whatever is due happens in its time.
    pub(crate) fn advance(&mut self, connections: &mut Connections<()>, by: Duration) {
        let Clock::Driven(beginning, passed) = self.clock else {
            return;
        };
        let until = passed.saturating_add(by);
        while let Some(timer) = self.world.next_timer() {
            let due = timer.saturating_duration_since(beginning);
            if due > until {
                break;
            }
            self.clock = Clock::Driven(beginning, due.max(passed));
            let outputs = self.world.timer(self.clock.now());
            self.send(connections, outputs);
        }
        self.clock = Clock::Driven(beginning, until);
    }

    pub(crate) fn hold(
        &mut self,
        connections: &mut Connections<()>,
        service: usize,
        is_held: bool,
    ) {
        if is_held {
            self.held.insert(service);
        } else {
            self.held.remove(&service);
        }
        self.update_serving(connections);
    }

    pub(crate) fn release_all(&mut self, connections: &mut Connections<()>) {
        self.held.clear();
        self.update_serving(connections);
    }

    pub(crate) fn refuse(&mut self, service: usize, which: Refuse) {
        self.refused.insert(service, which);
    }

    /// The place of a node's service among those of all nodes.
    pub(crate) fn place(&self, node: usize, service: ServiceId) -> Option<usize> {
        let index = self.services.iter().position(|other| *other == service)?;
        Some(node * self.services.len() + index)
    }

    /// The services of a node.
    pub(crate) fn places(&self, node: usize) -> Range<usize> {
        let count = self.services.len();
        node * count..(node + 1) * count
    }

    fn at(&self, place: usize) -> Option<(usize, ServiceId)> {
        let count = self.services.len();
        Some((place / count, *self.services.get(place % count)?))
    }

    fn step(
        &mut self,
        connections: &mut Connections<()>,
        place: usize,
        body: impl FnOnce(&mut Node, ServiceId, Instant),
    ) {
        if let Some((node, service)) = self.at(place) {
            self.drive(connections, |world, now| {
                (world.step(now, node, |node| body(node, service, now)), ())
            });
        }
    }

    fn send(&mut self, connections: &mut Connections<()>, outputs: Vec<ClientOutput>) {
        for output in outputs {
            // What does not fit in a client's ring is lost, and the daemon tells nobody either.
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
                    for place in self.places(node) {
                        connections.close_service(place);
                        self.held.remove(&place);
                        self.refused.remove(&place);
                    }
                    self.ended.get(node).into_iter().for_each(|wakeup| wakeup.wake());
                }
            }
        }
        if let Clock::Real = self.clock {
            connections.set_timer(self.world.next_timer());
        }
        self.update_serving(connections);
    }

    /// Updates which clients are served. While a ring synchronizes, the daemon reads votequorum's
    /// requests only.
    fn update_serving(&self, connections: &mut Connections<()>) {
        for node in 0..self.nodes() {
            let (is_paused, is_in_sync) = (self.world.is_paused(node), self.world.is_in_sync(node));
            for place in self.places(node) {
                let waits = is_in_sync && self.place(node, ServiceId::Votequorum) != Some(place);
                connections.set_serving(
                    place,
                    match () {
                        () if is_paused => Serving::Nothing,
                        () if waits || self.held.contains(&place) => Serving::NewClients,
                        () => Serving::All,
                    },
                );
            }
        }
    }

    /// Whether a request to a service is refused.
    fn refuses(&mut self, place: usize) -> bool {
        match self.refused.get_mut(&place) {
            Some(Refuse::All) => true,
            Some(Refuse::Next(count @ 1..)) => {
                *count -= 1;
                true
            }
            Some(Refuse::Next(0) | Refuse::None) | None => false,
        }
    }
}

impl Handler for Daemon {
    type Session = ();

    fn authorize(&mut self, peer: &Peer<'_>) -> Result<(), Refusal> {
        let node = self.at(peer.service_index).and_then(|(node, _)| self.world.daemon(node));
        match node {
            Some(node) if node.allows(peer.credentials) || is_own(peer) => Ok(()),
            Some(_) => Err(Refusal::NOT_ALLOWED),
            None => Err(Refusal::NO_SERVICE),
        }
    }

    fn on_connect(&mut self, conn: &mut Conn<'_, ()>) {
        let (place, client) = (conn.service_index(), client_id(conn.id()));
        let pid = conn.credentials().pid;
        let name = file::process_name(pid).unwrap_or_default();
        self.step(conn.connections(), place, |node, service, now| {
            node.connect(now, service, client, pid, name)
        });
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        let (place, client) = (conn.service_index(), client_id(conn.id()));
        if self.refuses(place) {
            self.step(conn.connections(), place, |node, service, now| {
                node.refuse(now, service, client, &request)
            });
            return;
        }
        self.step(conn.connections(), place, |node, service, now| {
            node.request(now, service, client, &request)
        });
    }

    fn on_disconnect(&mut self, connections: &mut Connections<()>, gone: Gone<()>) {
        let client = client_id(gone.id);
        self.step(connections, gone.service_index, |node, service, now| {
            node.disconnect(now, service, client)
        });
    }

    fn on_timer(&mut self, connections: &mut Connections<()>) {
        self.drive(connections, |world, now| (world.timer(now), ()));
    }
}

fn client_id(id: ConnectionId) -> ClientId {
    ClientId(id.number())
}

/// The user who runs the embedded daemon may use it, as root may use root's.
fn is_own(peer: &Peer<'_>) -> bool {
    peer.credentials.uid == nix::unistd::geteuid().as_raw()
}
