//! Puts messages together that were sent in fragments.

use std::collections::HashMap;

use bytes::Bytes;

use crate::wire::cpg::{FragmentType, PartialDeliverCallback};
use crate::wire::values::NodeId;

/// What an unfinished message counts for besides its length, so that a great many short ones are bounded too.
const OVERHEAD: usize = 256;

/// What became of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to tell: more fragments must come, or it belongs to a message that is not put together.
    Nothing,
    /// It was the last, and this is the message.
    Whole(Bytes),
    /// It begins a message for which there is no room. The rest of it will be passed over.
    NoRoom,
    /// It does not fit the message that its sender began, which is dropped.
    Malformed,
}

/// The messages that are not complete yet, at most one of each sender.
///
/// Matches what `cpg_dispatch` does, but for its trust: there a message's length is allocated whatever it is, and copied into whatever
/// comes.
#[derive(Debug)]
pub(crate) struct Reassembly {
    limit: usize,
    /// What the unfinished messages count for together. Never more than `limit`.
    held: usize,
    unfinished: HashMap<(NodeId, u32), Unfinished>,
}

/// A message that is not complete yet.
#[derive(Debug)]
struct Unfinished {
    /// The length its sender announced. As much is reserved.
    length: usize,
    received: Vec<u8>,
}

impl Unfinished {
    fn cost(&self) -> usize {
        self.length + OVERHEAD
    }
}

impl Reassembly {
    /// Unfinished messages may take up to `limit` bytes together.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, held: 0, unfinished: HashMap::new() }
    }

    /// Takes the next fragment.
    pub(crate) fn feed(&mut self, fragment: &PartialDeliverCallback) -> Progress {
        let sender = (fragment.nodeid, fragment.pid);
        if fragment.fragment_type == FragmentType::FIRST {
            // What its sender began before was given up.
            self.drop_member(sender.0, sender.1);
            if !self.begin(sender, fragment.msglen) {
                return Progress::NoRoom;
            }
        }
        let Some(unfinished) = self.unfinished.get_mut(&sender) else {
            // It began before this process joined the group, or there was no room for it.
            return Progress::Nothing;
        };
        let room = unfinished.length.saturating_sub(unfinished.received.len());
        let complete = fragment.message.len() == room;
        let fits = match fragment.fragment_type {
            FragmentType::FIRST | FragmentType::CONTINUED => fragment.message.len() <= room,
            FragmentType::LAST => complete,
            _ => false,
        };
        if !fits {
            self.drop_member(sender.0, sender.1);
            return Progress::Malformed;
        }
        unfinished.received.extend_from_slice(&fragment.message);
        if fragment.fragment_type != FragmentType::LAST {
            return Progress::Nothing;
        }
        self.remove(sender).map_or(Progress::Nothing, |whole| Progress::Whole(whole.received.into()))
    }

    /// Forgets what a member began: it left the group.
    pub(crate) fn drop_member(&mut self, node_id: NodeId, pid: u32) {
        self.remove((node_id, pid));
    }

    /// Forgets what members on all other nodes began: they left the cluster.
    pub(crate) fn keep_nodes(&mut self, nodes: &[NodeId]) {
        let held = &mut self.held;
        self.unfinished.retain(|(node_id, _), unfinished| {
            let keep = nodes.contains(node_id);
            *held -= if keep { 0 } else { unfinished.cost() };
            keep
        });
    }

    /// Makes room for a message. Whether there is some.
    fn begin(&mut self, sender: (NodeId, u32), length: u32) -> bool {
        let Ok(length) = usize::try_from(length) else {
            return false;
        };
        let mut unfinished = Unfinished { length, received: Vec::new() };
        let room = self.limit.saturating_sub(self.held);
        let fits = length.checked_add(OVERHEAD).is_some_and(|cost| cost <= room);
        if !fits || unfinished.received.try_reserve_exact(length).is_err() {
            return false;
        }
        self.held += unfinished.cost();
        self.unfinished.insert(sender, unfinished);
        true
    }

    fn remove(&mut self, sender: (NodeId, u32)) -> Option<Unfinished> {
        let removed = self.unfinished.remove(&sender)?;
        self.held -= removed.cost();
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpg::GroupName;

    const NODE: NodeId = NodeId(1);

    fn fragment(pid: u32, fragment_type: FragmentType, msglen: u32, message: &[u8]) -> PartialDeliverCallback {
        let message = Bytes::copy_from_slice(message);
        PartialDeliverCallback { group_name: GroupName::default(), msglen, nodeid: NODE, pid, fragment_type, message }
    }

    /// The fragments of a message, cut at these places.
    fn fragments(pid: u32, message: &[u8], cuts: &[usize]) -> Vec<PartialDeliverCallback> {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (message.len() + 1)).collect();
        ends.sort_unstable();
        let last = ends.len();
        ends.push(message.len());
        let mut start = 0;
        let pieces = ends.into_iter().enumerate().map(|(number, end)| {
            let kind = match number {
                0 => FragmentType::FIRST,
                number if number == last => FragmentType::LAST,
                _ => FragmentType::CONTINUED,
            };
            let piece = fragment(pid, kind, u32::try_from(message.len()).unwrap(), &message[start..end]);
            start = end;
            piece
        });
        pieces.collect()
    }

    fn whole(message: &[u8]) -> Progress {
        Progress::Whole(Bytes::copy_from_slice(message))
    }

    impl Reassembly {
        fn reserved(&self) -> usize {
            self.unfinished.values().map(|unfinished| unfinished.received.capacity() + OVERHEAD).sum()
        }
    }

    #[test]
    fn a_sender_that_begins_anew_gives_up_what_it_began() {
        let mut reassembly = Reassembly::new(10_000);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, 6, b"old")), Progress::Nothing);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, 6, b"new")), Progress::Nothing);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 6, b"est")), whole(b"newest"));
        assert_eq!((reassembly.held, reassembly.unfinished.len()), (0, 0));
    }

    #[test]
    fn a_message_whose_beginning_was_not_seen_is_passed_over() {
        let mut reassembly = Reassembly::new(10_000);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::CONTINUED, 6, b"lo")), Progress::Nothing);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 6, b"st")), Progress::Nothing);
        assert_eq!(reassembly.held, 0);
    }

    #[test]
    fn a_message_is_never_longer_nor_shorter_than_announced() {
        let mut reassembly = Reassembly::new(10_000);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 4, b"abc"));
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::CONTINUED, 4, b"de")), Progress::Malformed);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 4, b"d")), Progress::Nothing);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 4, b"ab"));
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 4, b"c")), Progress::Malformed);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, 2, b"abc")), Progress::Malformed);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 4, b"ab"));
        assert_eq!(reassembly.feed(&fragment(1, FragmentType(9), 4, b"c")), Progress::Malformed);
        assert_eq!(reassembly.held, 0);
    }

    #[test]
    fn what_a_member_began_goes_with_it_and_with_its_node() {
        let mut reassembly = Reassembly::new(10_000);
        for pid in [1, 2] {
            reassembly.feed(&fragment(pid, FragmentType::FIRST, 4, b"ab"));
        }
        reassembly.drop_member(NODE, 1);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 4, b"cd")), Progress::Nothing);
        reassembly.keep_nodes(&[NODE, NodeId(2)]);
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::LAST, 4, b"cd")), whole(b"abcd"));
        reassembly.feed(&fragment(2, FragmentType::FIRST, 4, b"ab"));
        reassembly.keep_nodes(&[NodeId(2)]);
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::LAST, 4, b"cd")), Progress::Nothing);
        assert_eq!(reassembly.held, 0);
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_once_and_the_next_one_fits_again() {
        let mut reassembly = Reassembly::new(100 + OVERHEAD);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, 101, b"a")), Progress::NoRoom);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 101, &[0; 100])), Progress::Nothing);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, u32::MAX, b"a")), Progress::NoRoom);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 100, &[1; 50]));
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::FIRST, 0, b"")), Progress::NoRoom);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 100, &[1; 50])), whole(&[1; 100]));
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::FIRST, 0, b"")), Progress::Nothing);
    }

    proptest! {
        /// Messages of several senders, cut anywhere and interleaved in any order, come out as they were.
        #[test]
        fn any_interleaving_comes_out_as_it_was_sent(
            messages in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<usize>(), 1..6)), 1..6),
            order in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let mut reassembly = Reassembly::new(1 << 20);
            let mut senders: Vec<_> = (1u32..)
                .zip(&messages)
                .map(|(pid, (message, cuts))| (message, fragments(pid, message, cuts).into_iter().peekable()))
                .collect();
            let mut order = order.iter().cycle();
            let mut delivered = 0;
            while !senders.is_empty() {
                let index = order.next().unwrap().index(senders.len());
                let (message, pieces) = &mut senders[index];
                let progress = reassembly.feed(&pieces.next().unwrap());
                if pieces.peek().is_some() {
                    prop_assert_eq!(progress, Progress::Nothing);
                } else {
                    prop_assert_eq!(progress, whole(message));
                    delivered += 1;
                    drop(senders.remove(index));
                }
            }
            prop_assert_eq!((delivered, reassembly.held), (messages.len(), 0));
        }

        /// Whatever is announced and sent, no more than the limit is ever reserved, and what comes out is as long as announced.
        #[test]
        fn hostile_fragments_never_take_more_than_the_limit(
            limit in 0usize..5000,
            pieces in prop::collection::vec(
                (0u32..4, 0u32..4, 0u32..5, prop_oneof![0u32..3000, any::<u32>()], 0usize..2000), 0..200),
        ) {
            let mut reassembly = Reassembly::new(limit);
            for (node, pid, kind, msglen, length) in pieces {
                let mut piece = fragment(pid, FragmentType(kind), msglen, &vec![0; length]);
                piece.nodeid = NodeId(node);
                if let Progress::Whole(message) = reassembly.feed(&piece) {
                    prop_assert!(message.len() <= limit);
                }
                if pid == 3 {
                    reassembly.keep_nodes(&[NodeId(node)]);
                }
                prop_assert!(reassembly.held <= limit);
                prop_assert!(reassembly.reserved() <= reassembly.held);
            }
        }
    }
}
