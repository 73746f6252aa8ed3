//! The nodes and the network between them as one state machine without I/O.

use std::time::Instant;

use super::node::{ClientNumber, Config, Ending, Exec, Node, NodeOutput, SyncStep};
use super::totem::Totem;
use crate::wire::values::NodeId;

/// All nodes and the network between them. When a call returns, all its consequences have happened.
pub(crate) struct World {
    slots: Vec<Slot>,
    totem: Totem<Exec>,
    syncs: Vec<Sync>,
    /// The daemons that are about to end.
    ending: Vec<(usize, Ending)>,
    outputs: Vec<ClientOutput>,
}

/// A node of the cluster.
struct Slot {
    id: NodeId,
    config: Config,
    /// `None` while the daemon does not run.
    daemon: Option<Node>,
    is_paused: bool,
}

/// The synchronization of a ring. All members finish a step before the next one begins.
struct Sync {
    members: Vec<NodeId>,
    steps: std::slice::Iter<'static, SyncStep>,
    /// The step that all members have begun and not all have finished.
    current: Option<SyncStep>,
}

/// Output of all nodes to their clients.
#[derive(Debug, PartialEq)]
pub(crate) enum ClientOutput {
    /// Send a client a reply, followed by `zeros` zero bytes.
    Reply { client: ClientNumber, message: Vec<u8>, zeros: u64 },
    /// Send a client an event.
    Event { client: ClientNumber, message: Vec<u8> },
    /// The daemon of the node with this index has ended: disconnect its clients.
    Exit(usize),
}

impl World {
    /// Creates nodes that are down.
    pub(crate) fn new(nodes: Vec<(NodeId, Config)>, seed: u64) -> Self {
        let totem = Totem::new(nodes.iter().map(|(id, _)| *id), seed);
        let slot = |(id, config)| Slot { id, config, daemon: None, is_paused: false };
        let slots = nodes.into_iter().map(slot).collect();
        Self { slots, totem, syncs: Vec::new(), ending: Vec::new(), outputs: Vec::new() }
    }

    // --- state ---

    /// Returns the daemon of a node if it runs, paused or not.
    pub(crate) fn daemon(&self, index: usize) -> Option<&Node> {
        self.slots.get(index)?.daemon.as_ref()
    }

    pub(crate) fn is_paused(&self, index: usize) -> bool {
        self.slots.get(index).is_some_and(|slot| slot.is_paused)
    }

    /// Returns true while a node's ring is being synchronized.
    pub(crate) fn is_in_sync(&self, index: usize) -> bool {
        let id = self.slots.get(index).map(|slot| slot.id);
        self.syncs.iter().any(|sync| sync.members.iter().any(|member| Some(*member) == id))
    }

    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.slots
            .iter()
            .filter(|slot| !slot.is_paused)
            .filter_map(|slot| slot.daemon.as_ref()?.next_timer())
            .min()
    }

    // --- inputs ---
    //
    // Each returns the outputs that follow from it, in order.

    /// Runs `body` on a node.
    pub(crate) fn step(
        &mut self,
        now: Instant,
        index: usize,
        body: impl FnOnce(&mut Node),
    ) -> Vec<ClientOutput> {
        if let Some(node) = self.slots.get_mut(index).and_then(|slot| slot.daemon.as_mut()) {
            body(node);
        }
        self.settle(now)
    }

    /// Expires the timers that are due.
    pub(crate) fn timer(&mut self, now: Instant) -> Vec<ClientOutput> {
        for slot in self.slots.iter_mut().filter(|slot| !slot.is_paused) {
            slot.daemon.iter_mut().for_each(|node| node.timer(now));
        }
        self.settle(now)
    }

    /// Starts daemons that do not run, all at once.
    ///
    /// # Errors
    /// The daemon's error message for a configuration that it does not start with. Then no daemon
    /// was started.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        indices: &[usize],
    ) -> Result<Vec<ClientOutput>, &'static str> {
        let mut started = Vec::new();
        for index in indices {
            if let Some(slot) = self.slots.get(*index) {
                started.push((*index, Node::start(now, slot.id, slot.config.clone())?));
            }
        }
        for (index, node) in started {
            if let Some(slot) = self.slots.get_mut(index) {
                self.totem.start(slot.id);
                slot.daemon = Some(node);
            }
        }
        Ok(self.settle(now))
    }

    /// Ends a daemon.
    pub(crate) fn end(&mut self, now: Instant, index: usize, ending: Ending) -> Vec<ClientOutput> {
        self.ending.push((index, ending));
        self.settle(now)
    }

    /// Pauses or resumes a daemon.
    pub(crate) fn pause(
        &mut self,
        now: Instant,
        index: usize,
        is_paused: bool,
    ) -> Vec<ClientOutput> {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.is_paused = is_paused;
            self.totem.pause(slot.id, is_paused);
        }
        self.timer(now)
    }

    /// Partitions the network into `parts`. The nodes that are in none form one more part.
    pub(crate) fn partition(&mut self, now: Instant, parts: &[Vec<NodeId>]) -> Vec<ClientOutput> {
        self.totem.partition(parts);
        self.settle(now)
    }

    // --- consequences ---

    /// Processes messages, exits, synchronization and new rings until nothing is left to do.
    fn settle(&mut self, now: Instant) -> Vec<ClientOutput> {
        loop {
            self.exchange(now);
            let has_changed = self.end_daemons(now) || self.synchronize(now) || self.form(now);
            if !has_changed {
                return std::mem::take(&mut self.outputs);
            }
        }
    }

    fn with(&mut self, id: NodeId, body: impl FnOnce(&mut Node)) {
        let slot = self.slots.iter_mut().find(|slot| slot.id == id && !slot.is_paused);
        if let Some(node) = slot.and_then(|slot| slot.daemon.as_mut()) {
            body(node);
        }
    }

    /// Delivers messages until none is left.
    fn exchange(&mut self, now: Instant) {
        loop {
            for (index, slot) in self.slots.iter_mut().enumerate() {
                for output in slot.daemon.iter_mut().flat_map(Node::take_outputs) {
                    self.outputs.push(match output {
                        NodeOutput::Reply { client, message, zeros } => {
                            ClientOutput::Reply { client, message, zeros }
                        }
                        NodeOutput::Event { client, message } => {
                            ClientOutput::Event { client, message }
                        }
                        NodeOutput::Multicast(exec) => {
                            self.totem.multicast(slot.id, exec);
                            continue;
                        }
                        NodeOutput::Exit(ending) => {
                            self.ending.push((index, ending));
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

    /// Ends the daemons that are about to end. Returns true if there were any.
    fn end_daemons(&mut self, now: Instant) -> bool {
        if self.ending.is_empty() {
            return false;
        }
        let ending = std::mem::take(&mut self.ending);
        for (index, how) in &ending {
            let daemon = self.slots.get_mut(*index).and_then(|slot| slot.daemon.as_mut());
            if let (Some(node), Ending::Stopped) = (daemon, how) {
                node.unload(now);
            }
        }
        self.exchange(now);
        for (index, _) in ending {
            if let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.daemon.is_some()) {
                (slot.daemon, slot.is_paused) = (None, false);
                self.totem.end(slot.id);
                self.outputs.push(ClientOutput::Exit(index));
            }
        }
        true
    }

    /// Forms the rings that are due. Returns true if there were any.
    fn form(&mut self, now: Instant) -> bool {
        let formed = self.totem.form();
        for memberships in &formed {
            let members: Vec<NodeId> = memberships.iter().map(|(id, _)| *id).collect();
            // A new ring aborts the unfinished synchronization of its members' old rings.
            self.syncs.retain(|sync| !sync.members.iter().any(|id| members.contains(id)));
            for (id, membership) in memberships {
                self.with(*id, |node| node.configure(now, membership.clone()));
            }
            self.syncs.push(Sync { members, steps: SyncStep::ALL.iter(), current: None });
        }
        !formed.is_empty()
    }

    /// Advances each synchronization that waits for no member by one step. Returns true if one
    /// advanced.
    fn synchronize(&mut self, now: Instant) -> bool {
        let mut has_advanced = false;
        for mut sync in std::mem::take(&mut self.syncs) {
            let runs = |slot: &&Slot| {
                sync.members.contains(&slot.id) && slot.daemon.is_some() && !slot.is_paused
            };
            if self.slots.iter().filter(runs).count() < sync.members.len() {
                // A member is gone or paused: the others are about to form another ring.
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
            has_advanced = true;
            sync.current = sync.steps.next().copied();
            let Some(step) = sync.current else {
                self.totem.synchronized(&sync.members);
                continue;
            };
            sync.members.iter().for_each(|id| self.with(*id, |node| node.sync_process(now, step)));
            self.syncs.push(sync);
        }
        has_advanced
    }

    fn is_done(&self, members: &[NodeId], step: SyncStep) -> bool {
        let slots = self.slots.iter().filter(|slot| members.contains(&slot.id));
        slots.filter_map(|slot| slot.daemon.as_ref()).all(|node| node.is_sync_processed(step))
    }
}

#[cfg(test)]
mod tests;
