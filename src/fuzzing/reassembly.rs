//! State machines of the client, by sequences of operations: messages in fragments, and the answers
//! that a daemon owes.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::Script;
use crate::codec::encode_refusal;
use crate::cpg::reassembly::{Progress, Reassembly};
use crate::error::CsError;
use crate::libqb::pending::{PendingReplies, Whose};
use crate::libqb::refill::Refill;
use crate::libqb::wake::{BATCH, WakeBytes};
use crate::wire::cpg::{FragmentType, GroupName, PartialDeliverCallback};
use crate::wire::values::NodeId;

/// Feeds fragments of several senders. Checks that a whole message is what its sender sent, that
/// the memory stays below the limit, and that nothing stays when all senders are gone.
pub fn reassembly(data: &[u8]) {
    let mut script = Script(data);
    let limit = script.word() as usize % (1 << 20);
    let mut reassembly = Reassembly::new(limit);
    let mut sent: HashMap<(NodeId, u32), (usize, Vec<u8>)> = HashMap::new();
    while !script.is_empty() {
        let operation = script.byte();
        let sender = (NodeId(u32::from(operation >> 6)), u32::from(operation >> 4 & 3));
        match operation & 0xf {
            0 => {
                reassembly.drop_member(sender.0, sender.1);
                sent.remove(&sender);
            }
            1 => {
                reassembly.keep_nodes(&[sender.0]);
                sent.retain(|(node_id, _), _| *node_id == sender.0);
            }
            kind => {
                let msglen = script.word() % (1 << (kind * 2));
                let fragment = PartialDeliverCallback {
                    group_name: GroupName::default(),
                    msglen,
                    nodeid: sender.0,
                    pid: sender.1,
                    fragment_type: FragmentType(u32::from(kind & 3)),
                    message: Bytes::copy_from_slice(script.counted()),
                };
                if fragment.fragment_type == FragmentType::FIRST {
                    sent.insert(sender, (msglen as usize, Vec::new()));
                }
                if let Some((_, message)) = sent.get_mut(&sender) {
                    message.extend_from_slice(&fragment.message);
                }
                match reassembly.feed(&fragment) {
                    Progress::Nothing => {}
                    Progress::Whole(whole) => {
                        let expected = sent.remove(&sender).expect("its beginning was sent");
                        assert_eq!(expected, (whole.len(), whole.to_vec()));
                    }
                    Progress::NoRoom | Progress::Malformed => drop(sent.remove(&sender)),
                }
            }
        }
        assert!(reassembly.held() <= limit, "{} are held of {limit}", reassembly.held());
    }
    reassembly.keep_nodes(&[]);
    assert_eq!(reassembly.held(), 0);
}

/// Room for answers.
const CAPACITY: usize = 500;

/// Sends and receives in any order. Checks what is counted: answers that are owed, wake bytes that
/// are to be taken, and when a ring is refilled.
pub fn replies(data: &[u8]) {
    let mut script = Script(data);
    let (mut pending, mut wake, mut refill) =
        (PendingReplies::default(), WakeBytes::default(), Refill::default());
    let refusals = [CsError::TryAgain, CsError::NotExist]
        .map(|error| encode_refusal(0, error).expect("a refusal encodes"));
    // The tickets of the requests whose answers are waited for, in their order.
    let mut waiting = VecDeque::new();
    while !script.is_empty() {
        match script.byte() % 9 {
            0 => {
                let room = [None, Some(usize::from(script.byte()))][usize::from(script.byte() % 2)];
                if pending.may_send(room, CAPACITY) {
                    assert!(waiting.is_empty() || room.is_some(), "a request is not alone");
                    waiting.push_back((pending.sent(room, Some(())), room));
                    let rooms = waiting.iter().filter_map(|(_, room)| *room).sum::<usize>();
                    assert!(waiting.len() == 1 || rooms <= CAPACITY, "answers do not fit");
                    assert!(!pending.may_nudge(), "a nudge may follow a request that waits");
                }
            }
            1 if pending.may_nudge() => {
                pending.sent_unawaited();
                assert!(!pending.may_send(Some(0), CAPACITY));
            }
            2 => {
                // The last thread receives for all.
                let own = waiting.back().map(|(ticket, _)| *ticket);
                match pending.received(own, &mut vec![1]) {
                    Whose::Own => assert_eq!(waiting.pop_front().map(|(ticket, _)| ticket), own),
                    Whose::Kept(_) => {
                        let (ticket, _) = waiting.pop_front().expect("somebody waits");
                        assert_eq!(pending.take(ticket), Some(vec![1]));
                    }
                    Whose::Orphan | Whose::Nobody => {}
                }
            }
            3 if waiting.is_empty() && pending.owes_unawaited_only() => {
                let refusal = &refusals[usize::from(script.byte() % 2)];
                pending.received_unawaited(&mut refusal.clone());
            }
            4 => {
                let again = pending.take_again();
                assert!(!(again && pending.take_again()), "a second answer is awaited twice");
            }
            5 => assert!(wake.event_taken(script.byte() % 2 == 0) <= BATCH),
            6 => {
                // The socket may have a byte more than what is wanted.
                let count = usize::from(script.byte()) % (wake.wanted() + 2);
                wake.bytes_taken(count);
                assert!(wake.extra() <= 1 + BATCH, "{}", wake.extra());
                let _ = wake.forget_stray();
                assert_eq!(wake.extra(), 0);
            }
            7 => {
                let capacity = script.word() as usize;
                let (size, left) = (script.word() as usize, script.word() as usize);
                let _ = refill.event_taken(size, left, capacity);
            }
            8 => {
                if let Some((ticket, _)) = waiting.pop_back() {
                    assert_eq!(pending.give_up(ticket), None);
                    assert!(!pending.may_send(Some(0), CAPACITY), "a late answer is not received");
                }
            }
            _ => {}
        }
    }
}
