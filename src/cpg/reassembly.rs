//! Puts messages together that were sent in fragments.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::wire::cpg::{FragmentType, PartialDeliverCallback};
use crate::wire::values::NodeId;

/// What an unfinished message counts for besides what came of it, so that a great many short ones
/// are bounded too.
const OVERHEAD: usize = 256;

/// What became of a fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to tell: more fragments must come, or it belongs to a message that is not put
    /// together.
    Nothing,
    /// It was the last, and this is the message.
    Whole(Bytes),
    /// There is no room for its message. The rest of that will be passed over.
    NoRoom,
    /// It does not fit the message that its sender began, which is dropped.
    Malformed,
}

/// The messages that are not complete yet, at most one of each sender.
///
/// Memory is taken as fragments come, whatever length was announced. When there is too little, the
/// message goes of which most has come: so a sender that never comes to an end loses its own, not
/// those of others.
///
/// Matches what `cpg_dispatch` does, but for its trust: there a message's length is allocated
/// whatever it is, and copied into whatever comes.
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
    /// The length its sender announced.
    length: usize,
    received: Vec<u8>,
    /// Another message got its room. Its sender's next fragment tells.
    gave_way: bool,
}

impl Unfinished {
    fn cost(&self) -> usize {
        self.received.capacity() + OVERHEAD
    }
}

impl Reassembly {
    /// Unfinished messages may take up to `limit` bytes together.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, held: 0, unfinished: HashMap::new() }
    }

    /// Returns how many bytes the unfinished messages count for.
    #[cfg(any(test, feature = "__fuzzing"))]
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes the next fragment.
    pub(crate) fn feed(&mut self, fragment: &PartialDeliverCallback) -> Progress {
        let sender = (fragment.nodeid, fragment.pid);
        if fragment.fragment_type == FragmentType::FIRST {
            // What its sender began before was given up.
            self.remove(sender);
            if !self.begin(sender, fragment.msglen) {
                return Progress::NoRoom;
            }
        }
        let Some(unfinished) = self.unfinished.get(&sender) else {
            // It began before this process joined the group, or there was no room for it.
            return Progress::Nothing;
        };
        if unfinished.gave_way {
            self.remove(sender);
            return Progress::NoRoom;
        }
        let room = unfinished.length.saturating_sub(unfinished.received.len());
        let fits = match fragment.fragment_type {
            FragmentType::FIRST | FragmentType::CONTINUED => fragment.message.len() <= room,
            FragmentType::LAST => fragment.message.len() == room,
            _ => false,
        };
        if !fits {
            self.remove(sender);
            return Progress::Malformed;
        }
        if !self.append(sender, &fragment.message) {
            self.remove(sender);
            return Progress::NoRoom;
        }
        if fragment.fragment_type != FragmentType::LAST {
            return Progress::Nothing;
        }
        self.remove(sender)
            .map_or(Progress::Nothing, |whole| Progress::Whole(whole.received.into()))
    }

    /// Forgets what a member began: it left the group.
    pub(crate) fn drop_member(&mut self, node_id: NodeId, pid: u32) {
        self.remove((node_id, pid));
    }

    /// Forgets what members on all other nodes began: they left the cluster.
    pub(crate) fn keep_nodes(&mut self, nodes: &[NodeId]) {
        // A lying daemon may list as many nodes as there are senders.
        let nodes: HashSet<NodeId> = nodes.iter().copied().collect();
        let held = &mut self.held;
        self.unfinished.retain(|(node_id, _), unfinished| {
            let keep = nodes.contains(node_id);
            *held -= if keep { 0 } else { unfinished.cost() };
            keep
        });
    }

    /// Begins a message, unless it could never be held.
    fn begin(&mut self, sender: (NodeId, u32), length: u32) -> bool {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let fits = length.checked_add(OVERHEAD).is_some_and(|cost| cost <= self.limit);
        if !fits || !self.make_room(OVERHEAD, 0) {
            return false;
        }
        self.held += OVERHEAD;
        self.unfinished
            .insert(sender, Unfinished { length, received: Vec::new(), gave_way: false });
        true
    }

    /// Adds to a message what came of it. `false`: there is no room.
    fn append(&mut self, sender: (NodeId, u32), piece: &[u8]) -> bool {
        let Some(Unfinished { length, received, .. }) = self.unfinished.get(&sender) else {
            return false;
        };
        let (have, need) = (received.capacity(), received.len() + piece.len());
        if need > have {
            // More than is needed, so that a message in many pieces is not copied for each.
            let wanted = (2 * have).clamp(need, *length);
            let capacity = if wanted - have <= self.limit - self.held { wanted } else { need };
            if !self.make_room(capacity - have, need) {
                return false;
            }
            let Some(unfinished) = self.unfinished.get_mut(&sender) else { return false };
            let more = capacity - unfinished.received.len();
            if unfinished.received.try_reserve_exact(more).is_err() {
                return false;
            }
            self.held += unfinished.received.capacity() - have;
        }
        self.unfinished.get_mut(&sender).is_some_and(|unfinished| {
            unfinished.received.extend_from_slice(piece);
            true
        })
    }

    /// Makes room for `more` bytes by dropping what came of messages of which more than `than`
    /// bytes came, those with most first. Whether there is room now.
    fn make_room(&mut self, more: usize, than: usize) -> bool {
        while more > self.limit - self.held {
            let largest =
                self.unfinished.values_mut().max_by_key(|unfinished| unfinished.received.len());
            let Some(largest) = largest.filter(|largest| largest.received.len() > than) else {
                return false;
            };
            self.held -= largest.received.capacity();
            largest.received = Vec::new();
            largest.gave_way = true;
        }
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
    use nix::time::ClockId;
    use proptest::prelude::*;

    use super::*;
    use crate::cpg::GroupName;

    const NODE: NodeId = NodeId(1);

    fn fragment(
        pid: u32,
        fragment_type: FragmentType,
        msglen: u32,
        message: &[u8],
    ) -> PartialDeliverCallback {
        let message = Bytes::copy_from_slice(message);
        PartialDeliverCallback {
            group_name: GroupName::default(),
            msglen,
            nodeid: NODE,
            pid,
            fragment_type,
            message,
        }
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
            let piece =
                fragment(pid, kind, u32::try_from(message.len()).unwrap(), &message[start..end]);
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
            self.unfinished
                .values()
                .map(|unfinished| unfinished.received.capacity() + OVERHEAD)
                .sum()
        }
    }

    #[test]
    fn a_sender_that_begins_anew_gives_up_what_it_began() {
        let mut reassembly = Reassembly::new(10_000);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 6, b"old")),
            Progress::Nothing
        );
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 6, b"new")),
            Progress::Nothing
        );
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 6, b"est")), whole(b"newest"));
        assert_eq!((reassembly.held, reassembly.unfinished.len()), (0, 0));
    }

    #[test]
    fn a_message_whose_beginning_was_not_seen_is_passed_over() {
        let mut reassembly = Reassembly::new(10_000);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::CONTINUED, 6, b"lo")),
            Progress::Nothing
        );
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 6, b"st")), Progress::Nothing);
        assert_eq!(reassembly.held, 0);
    }

    #[test]
    fn a_message_is_never_longer_nor_shorter_than_announced() {
        let mut reassembly = Reassembly::new(10_000);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 4, b"abc"));
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::CONTINUED, 4, b"de")),
            Progress::Malformed
        );
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 4, b"d")), Progress::Nothing);
        reassembly.feed(&fragment(1, FragmentType::FIRST, 4, b"ab"));
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::LAST, 4, b"c")), Progress::Malformed);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 2, b"abc")),
            Progress::Malformed
        );
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
    fn nodes_and_senders_without_number_are_compared_in_no_time() {
        const MANY: u32 = 1 << 18;
        let mut reassembly = Reassembly::new(MANY as usize * OVERHEAD);
        for pid in 0..MANY {
            let first = fragment(pid, FragmentType::FIRST, 4, b"");
            reassembly.feed(&PartialDeliverCallback { nodeid: NodeId(pid), ..first });
        }
        // Each against each would take minutes.
        let used = || std::time::Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now().unwrap());
        let before = used();
        reassembly.keep_nodes(&(MANY..2 * MANY).map(NodeId).collect::<Vec<_>>());
        assert!(used() - before < std::time::Duration::from_secs(20));
        assert_eq!(reassembly.held, 0);
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_once_and_the_next_one_fits_again() {
        let mut reassembly = Reassembly::new(100 + OVERHEAD);
        assert_eq!(reassembly.feed(&fragment(1, FragmentType::FIRST, 101, b"a")), Progress::NoRoom);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::LAST, 101, &[0; 100])),
            Progress::Nothing
        );
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, u32::MAX, b"a")),
            Progress::NoRoom
        );
        reassembly.feed(&fragment(1, FragmentType::FIRST, 100, b""));
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::FIRST, 0, b"")), Progress::NoRoom);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::LAST, 100, &[1; 100])),
            whole(&[1; 100])
        );
        assert_eq!(reassembly.feed(&fragment(2, FragmentType::FIRST, 0, b"")), Progress::Nothing);
    }

    #[test]
    fn what_is_announced_takes_no_room_from_others() {
        let mut reassembly = Reassembly::new(10_000);
        for hostile in 10..20 {
            let announced = 10_000 - u32::try_from(OVERHEAD).unwrap();
            assert_eq!(
                reassembly.feed(&fragment(hostile, FragmentType::FIRST, announced, b"x")),
                Progress::Nothing
            );
        }
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 6000, &[1; 3000])),
            Progress::Nothing
        );
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::LAST, 6000, &[1; 3000])),
            whole(&[1; 6000])
        );
    }

    #[test]
    fn a_sender_that_comes_to_no_end_loses_its_own_message_and_not_those_of_others() {
        let mut reassembly = Reassembly::new(10_000);
        let hostile = |kind, length| fragment(9, kind, 9000, &vec![9; length]);
        assert_eq!(reassembly.feed(&hostile(FragmentType::FIRST, 8000)), Progress::Nothing);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 4000, &[1; 2000])),
            Progress::Nothing
        );
        assert_eq!(
            reassembly.feed(&fragment(2, FragmentType::FIRST, 4000, &[2; 2000])),
            Progress::Nothing
        );
        assert_eq!(reassembly.feed(&hostile(FragmentType::CONTINUED, 10)), Progress::NoRoom);
        assert_eq!(reassembly.feed(&hostile(FragmentType::CONTINUED, 10)), Progress::Nothing);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::LAST, 4000, &[1; 2000])),
            whole(&[1; 4000])
        );
        assert_eq!(
            reassembly.feed(&fragment(2, FragmentType::LAST, 4000, &[2; 2000])),
            whole(&[2; 4000])
        );
        // One that would be the longest does not drive away shorter ones.
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::FIRST, 5000, &[1; 4000])),
            Progress::Nothing
        );
        assert_eq!(reassembly.feed(&hostile(FragmentType::FIRST, 3000)), Progress::Nothing);
        assert_eq!(reassembly.feed(&hostile(FragmentType::CONTINUED, 3000)), Progress::NoRoom);
        assert_eq!(
            reassembly.feed(&fragment(1, FragmentType::LAST, 5000, &[1; 1000])),
            whole(&[1; 5000])
        );
        assert_eq!((reassembly.held, reassembly.unfinished.len()), (0, 0));
    }

    proptest! {
        /// Messages of several senders, cut anywhere and interleaved in any order, come out as they
        /// were.
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

        /// Whatever is announced and sent, no more than the limit is ever reserved, and what comes
        /// out is as long as announced.
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
