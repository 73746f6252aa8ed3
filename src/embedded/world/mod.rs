//! The nodes and what joins them, as one state machine: whatever is done to it, all that follows
//! happens at once.

use std::time::Instant;

use super::node::{ClientId, Config, Ending, Exec, Node, Output, SyncStep};
use super::totem::Totem;
use crate::wire::values::NodeId;

/// All nodes and what joins them. After each call everything that follows from it has happened.
pub(crate) struct World {
    seats: Vec<WorldNode>,
    totem: Totem<Exec>,
    syncs: Vec<Sync>,
    /// Daemons that are about to end.
    ending: Vec<(usize, Ending)>,
    outputs: Vec<ClientOutput>,
}

/// Where a daemon runs, or does not.
struct WorldNode {
    id: NodeId,
    config: Config,
    daemon: Option<Node>,
    is_paused: bool,
}

/// The synchronization of a ring: each step on all members before the next.
struct Sync {
    members: Vec<NodeId>,
    steps: std::slice::Iter<'static, SyncStep>,
    /// The step that all have begun and not all have ended.
    current: Option<SyncStep>,
}

/// What is to be sent to a client.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientOutput {
    Reply {
        client: ClientId,
        message: Vec<u8>,
        zeros: u64,
    },
    Event {
        client: ClientId,
        message: Vec<u8>,
    },
    /// The daemon with this number ends, and its clients find it gone.
    Exit(usize),
}

impl World {
    /// Nodes that are down.
    pub(crate) fn new(nodes: Vec<(NodeId, Config)>, seed: u64) -> Self {
        let totem = Totem::new(nodes.iter().map(|(id, _)| *id), seed);
        let seat = |(id, config)| WorldNode { id, config, daemon: None, is_paused: false };
        let seats = nodes.into_iter().map(seat).collect();
        Self { seats, totem, syncs: Vec::new(), ending: Vec::new(), outputs: Vec::new() }
    }

    // --- what there is ---

    /// A daemon that runs, be it paused.
    pub(crate) fn daemon(&self, number: usize) -> Option<&Node> {
        self.seats.get(number)?.daemon.as_ref()
    }

    pub(crate) fn is_paused(&self, number: usize) -> bool {
        self.seats.get(number).is_some_and(|seat| seat.is_paused)
    }

    /// Whether a node's ring is not synchronized yet.
    pub(crate) fn is_in_sync(&self, number: usize) -> bool {
        let id = self.seats.get(number).map(|seat| seat.id);
        self.syncs.iter().any(|sync| sync.members.iter().any(|member| Some(*member) == id))
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.seats
            .iter()
            .filter(|seat| !seat.is_paused)
            .filter_map(|seat| seat.daemon.as_ref()?.next_timer())
            .min()
    }

    // --- what happens ---

    /// Lets a node do something. Returns what is to be sent to clients, in this order, as do all
    /// that follow.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        number: usize,
        body: impl FnOnce(&mut Node),
    ) -> Vec<ClientOutput> {
        if let Some(node) = self.seats.get_mut(number).and_then(|seat| seat.daemon.as_mut()) {
            body(node);
        }
        self.settle(now)
    }

    /// Lets happen what the time has come for.
    pub(crate) fn timer(&mut self, now: Instant) -> Vec<ClientOutput> {
        for seat in self.seats.iter_mut().filter(|seat| !seat.is_paused) {
            seat.daemon.iter_mut().for_each(|node| node.timer(now));
        }
        self.settle(now)
    }

    /// Starts daemons that do not run, all at once.
    ///
    /// # Errors
    /// A configuration with which the daemon does not start, in its words. Then none was started.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        numbers: &[usize],
    ) -> Result<Vec<ClientOutput>, &'static str> {
        let mut started = Vec::new();
        for number in numbers {
            if let Some(seat) = self.seats.get(*number) {
                started.push((*number, Node::start(now, seat.id, seat.config.clone())?));
            }
        }
        for (number, node) in started {
            if let Some(seat) = self.seats.get_mut(number) {
                self.totem.start(seat.id);
                seat.daemon = Some(node);
            }
        }
        Ok(self.settle(now))
    }

    /// Ends a daemon.
    pub(crate) fn end(&mut self, now: Instant, number: usize, ending: Ending) -> Vec<ClientOutput> {
        self.ending.push((number, ending));
        self.settle(now)
    }

    /// Stops a daemon, or lets it go on.
    pub(crate) fn pause(
        &mut self,
        now: Instant,
        number: usize,
        is_paused: bool,
    ) -> Vec<ClientOutput> {
        if let Some(seat) = self.seats.get_mut(number) {
            seat.is_paused = is_paused;
            self.totem.pause(seat.id, is_paused);
        }
        self.timer(now)
    }

    /// Cuts the network into these parts and one of the nodes that are in none.
    pub(crate) fn partition(&mut self, now: Instant, parts: &[Vec<NodeId>]) -> Vec<ClientOutput> {
        self.totem.partition(parts);
        self.settle(now)
    }

    /// Lets happen what is due.
    fn settle(&mut self, now: Instant) -> Vec<ClientOutput> {
        loop {
            self.exchange(now);
            let has_more = self.end_daemons(now) || self.synchronize(now) || self.form(now);
            if !has_more {
                return std::mem::take(&mut self.outputs);
            }
        }
    }

    fn with(&mut self, id: NodeId, body: impl FnOnce(&mut Node)) {
        let seat = self.seats.iter_mut().find(|seat| seat.id == id && !seat.is_paused);
        if let Some(node) = seat.and_then(|seat| seat.daemon.as_mut()) {
            body(node);
        }
    }

    /// Delivers messages until there are none.
    fn exchange(&mut self, now: Instant) {
        loop {
            for (number, seat) in self.seats.iter_mut().enumerate() {
                for output in seat.daemon.iter_mut().flat_map(Node::take_outputs) {
                    self.outputs.push(match output {
                        Output::Reply { client, message, zeros } => {
                            ClientOutput::Reply { client, message, zeros }
                        }
                        Output::Event { client, message } => {
                            ClientOutput::Event { client, message }
                        }
                        Output::Multicast(exec) => {
                            self.totem.multicast(seat.id, exec);
                            continue;
                        }
                        Output::Exit(ending) => {
                            self.ending.push((number, ending));
                            continue;
                        }
                    });
                }
            }
            let Some(sent) = self.totem.next() else {
                return;
            };
            for to in sent.to {
                self.with(to, |node| node.deliver(now, sent.from, sent.message.clone()));
            }
        }
    }

    /// Whether there was anything to do, as for the following.
    fn end_daemons(&mut self, now: Instant) -> bool {
        if self.ending.is_empty() {
            return false;
        }
        let ending = std::mem::take(&mut self.ending);
        for (number, how) in &ending {
            let daemon = self.seats.get_mut(*number).and_then(|seat| seat.daemon.as_mut());
            if let (Some(node), Ending::Stopped) = (daemon, how) {
                node.unload(now);
            }
        }
        self.exchange(now);
        for (number, _) in ending {
            if let Some(seat) = self.seats.get_mut(number).filter(|seat| seat.daemon.is_some()) {
                (seat.daemon, seat.is_paused) = (None, false);
                self.totem.end(seat.id);
                self.outputs.push(ClientOutput::Exit(number));
            }
        }
        true
    }

    fn form(&mut self, now: Instant) -> bool {
        let formed = self.totem.form();
        for told in &formed {
            let members: Vec<NodeId> = told.iter().map(|(id, _)| *id).collect();
            // What was not finished is not: its members are in other rings now.
            self.syncs.retain(|sync| !sync.members.iter().any(|id| members.contains(id)));
            for (id, membership) in told {
                self.with(*id, |node| node.configure(now, membership.clone()));
            }
            self.syncs.push(Sync { members, steps: SyncStep::ALL.iter(), current: None });
        }
        !formed.is_empty()
    }

    /// Takes each synchronization that does not wait a step further.
    fn synchronize(&mut self, now: Instant) -> bool {
        let mut has_moved = false;
        for mut sync in std::mem::take(&mut self.syncs) {
            let runs = |seat: &&WorldNode| {
                sync.members.contains(&seat.id) && seat.daemon.is_some() && !seat.is_paused
            };
            if self.seats.iter().filter(runs).count() < sync.members.len() {
                // The others are about to form another ring.
                continue;
            }
            match sync.current {
                Some(step) if !self.is_done(&sync.members, step) => {
                    self.syncs.push(sync);
                    continue;
                }
                Some(step) => sync
                    .members
                    .iter()
                    .for_each(|id| self.with(*id, |node| node.sync_activate(now, step))),
                None => {}
            }
            has_moved = true;
            sync.current = sync.steps.next().copied();
            let Some(step) = sync.current else {
                self.totem.synchronized(&sync.members);
                continue;
            };
            sync.members.iter().for_each(|id| self.with(*id, |node| node.sync_process(now, step)));
            self.syncs.push(sync);
        }
        has_moved
    }

    fn is_done(&self, members: &[NodeId], step: SyncStep) -> bool {
        let seats = self.seats.iter().filter(|seat| members.contains(&seat.id));
        seats.filter_map(|seat| seat.daemon.as_ref()).all(|node| node.is_sync_processed(step))
    }
}

#[cfg(test)]
mod tests;
