//! Counting votes and deciding on quorum.

use super::super::Context;
use super::super::quorum::Quorum;
use super::{Node, TieBreaker, Votequorum, flag};
use crate::votequorum::NodeState;
use crate::wire::values::NodeId;

impl Votequorum {
    pub(super) fn our_flags(&self) -> u32 {
        self.nodes.get(&self.us).map_or(0, |us| us.flags)
    }

    pub(super) fn change_our_flags(&mut self, change: impl FnOnce(u32) -> u32) {
        if let Some(us) = self.nodes.get_mut(&self.us) {
            us.flags = change(us.flags);
        }
    }

    /// Changes this node's flags, and multicasts them if they differ.
    pub(super) fn publish_our_flags(
        &mut self,
        context: &mut Context<'_>,
        change: impl FnOnce(u32) -> u32,
    ) {
        let old = self.our_flags();
        self.change_our_flags(change);
        if self.our_flags() != old {
            self.send_node_info(context, self.us);
        }
    }

    /// Returns this node's votes and expected votes.
    pub(super) fn our_votes(&self) -> (u32, u32) {
        self.nodes.get(&self.us).map_or((0, 0), |us| (us.votes, us.expected_votes))
    }

    pub(super) fn alive(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter().filter(|(_, node)| node.state == NodeState::MEMBER)
    }

    /// Returns the quorum and the total votes. Matches `calculate_quorum`.
    pub(super) fn calculate(&self, allow_decrease: bool, max_expected: u32) -> (u32, u32) {
        let mut max_expected = max_expected;
        if self.allow_downscale && allow_decrease && max_expected != 0 {
            max_expected = max_expected.max(self.expected_barrier);
        }
        let mut highest = self.alive().map(|(_, node)| node.expected_votes).max().unwrap_or(0);
        let mut total = self.alive().fold(0u32, |total, (_, node)| total.wrapping_add(node.votes));
        let mut count = self.alive().count();
        if self.our_flags() & flag::QDEVICE_CAST_VOTE != 0 {
            total = total.wrapping_add(self.qdevice_votes);
            count += 1;
        }
        if max_expected > 0 {
            highest = max_expected;
        }
        let half = |votes: u32| votes.wrapping_add(2) / 2;
        let mut quorum = half(highest).max(half(total));
        if !allow_decrease {
            quorum = quorum.max(self.quorum);
        }
        if self.two_node && count <= 2 {
            quorum = 1;
        }
        (quorum, total)
    }

    /// Matches `update_node_expected_votes`.
    pub(super) fn set_expected(&mut self, votes: u32) {
        if votes != 0 {
            for node in self.nodes.values_mut().filter(|node| node.state == NodeState::MEMBER) {
                node.expected_votes = votes;
            }
        }
    }

    /// Matches `recalculate_quorum`.
    pub(super) fn recalculate(
        &mut self,
        context: &mut Context<'_>,
        quorum: &mut Quorum,
        allow_decrease: bool,
        by_nodes: bool,
    ) {
        let mut total = self.alive().fold(0u32, |total, (_, node)| total.wrapping_add(node.votes));
        let mut count = self.alive().count() as u32;
        if self.qdevice_votes != 0 {
            total = total.wrapping_add(self.qdevice_votes);
            count += 1;
        }
        let count = if by_nodes { count } else { 0 };
        if total > self.our_votes().1 {
            if let Some(us) = self.nodes.get_mut(&self.us) {
                us.expected_votes = total;
            }
            self.notify_expected(context);
        }
        if self.expected_tracking && self.our_votes().1 > self.tracking_barrier {
            self.set_tracking_barrier(context, self.our_votes().1);
        }
        let (new_quorum, total) = self.calculate(allow_decrease, count);
        // The daemon keeps it in 8 bits.
        self.quorum = new_quorum & 0xff;
        self.set_expected(count);
        self.decide(context, quorum, total);
    }

    /// Matches `are_we_quorate`.
    fn decide(&mut self, context: &mut Context<'_>, quorum: &mut Quorum, total: u32) {
        let expected = self.our_votes().1;
        if self.wait_for_all && self.wait_for_all_status {
            if total != expected {
                return;
            }
            self.set_wait_for_all_status(context, false);
        }
        let mut is_quorate = self.quorum <= total;
        if is_quorate {
            self.lowest = self.alive().map(|(id, _)| *id).min().unwrap_or(self.us).min(self.us);
            self.highest = self.alive().map(|(id, _)| *id).max().unwrap_or(self.us).max(self.us);
            context.set("runtime.votequorum.lowest_node_id", self.lowest.0);
            context.set("runtime.votequorum.highest_node_id", self.highest.0);
        }
        let others = (self.previous_members.len() as i64) - (self.members.len() as i64);
        let is_split = total == expected / 2 && others < i64::from(self.quorum);
        is_quorate |= self.tie_breaker != TieBreaker::None && is_split && self.wins_tie();
        is_quorate |= self.qdevice_master_wins && self.has_master();
        let has_changed = is_quorate != self.is_quorate;
        self.is_quorate = is_quorate;
        self.change_our_flags(|flags| flag::set(flags, flag::QUORATE, is_quorate));
        if self.wait_for_all {
            self.set_wait_for_all_status(context, !is_quorate);
        }
        if has_changed && !self.in_sync {
            self.publish_quorum(context, quorum);
        }
    }

    /// Matches `check_auto_tie_breaker`.
    fn wins_tie(&self) -> bool {
        match &self.tie_breaker {
            TieBreaker::None => false,
            TieBreaker::Lowest => self.alive().any(|(id, _)| *id == self.lowest),
            TieBreaker::Highest => self.alive().any(|(id, _)| *id == self.highest),
            TieBreaker::List(list) => {
                let here = list.iter().position(|node| self.members.contains(node));
                here.is_some_and(|here| {
                    !list.iter().take(here).any(|node| self.previous_members.contains(node))
                })
            }
        }
    }

    /// Matches `check_qdevice_master`.
    fn has_master(&self) -> bool {
        let both = flag::QDEVICE_MASTER_WINS | flag::QDEVICE_CAST_VOTE;
        self.alive().any(|(_, node)| node.flags & both == both)
    }

    pub(super) fn publish_quorum(&self, context: &mut Context<'_>, quorum: &mut Quorum) {
        quorum.set_quorum(context, &self.members, self.is_quorate, self.ring_id);
        for tracker in self.trackers.iter().rev() {
            self.notify_quorum(context, tracker.client, tracker.context);
        }
    }
}
