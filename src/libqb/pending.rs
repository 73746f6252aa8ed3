//! The answers that the daemon owes.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

use std::collections::VecDeque;
use std::mem;

use crate::codec::{Header, Kind, Reader};
use crate::error::CsError;

/// The answers that the daemon owes, in the order in which they come. `W` is a thread that waits for
/// one.
///
/// Answers carry no correlation id, but come in the order of the requests, with exceptions: some
/// requests are answered late, and daemons before 2.1 answer some twice. So a request is sent alone,
/// when nothing is owed, unless it is [joined](Room) by others like it. After a request timed out,
/// its late answer is still owed. It is discarded before another request is sent. The same goes for
/// the answers to requests that nobody waits for: nudges, and releases of iterators. Those are
/// answered exactly once. Other answers of old daemons may be followed by a second one, so only the
/// sender of the next request discards them.
#[derive(Debug)]
pub(crate) struct PendingReplies<W> {
    owed: VecDeque<Owed<W>>,
    /// How many of the owed answers other requests may not follow.
    alone: usize,
    /// How many of the owed answers nobody has waited for. All of those are also counted as alone.
    unawaited: usize,
    /// How much room of the response ring the answers to joined requests take at most, in bytes.
    reserved: usize,
    /// Answers that another thread received than the one that waits for it.
    arrived: Vec<(Ticket, Vec<u8>)>,
    next: Ticket,
    /// The last answer that nobody waited for may be followed by a second one, which is not
    /// counted.
    again: bool,
}

/// Names a request under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// The request that was sent next.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

/// Room that the answer takes of the ring, in bytes, to a request that the daemon surely answers at
/// once, and once. Such requests may be under way together, as far as all their answers fit: the daemon drops what
/// does not fit without a word. `None`: the request is sent alone.
pub(crate) type Room = Option<usize>;

#[derive(Debug)]
struct Owed<W> {
    ticket: Ticket,
    room: Room,
    waiter: Waiter<W>,
}

#[derive(Debug)]
enum Waiter<W> {
    /// It waits, or receives answers itself if there is no thread.
    Thread(Option<W>),
    /// The deadline of the call passed.
    GaveUp,
    /// There never was one.
    Nobody,
}

/// Whose answer it was that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Whose<W> {
    /// That of the thread that received it.
    Own,
    /// Kept for another thread, which must be woken if it sleeps.
    Kept(Option<W>),
    /// Discarded: its call timed out before.
    Orphan,
    /// Discarded: nobody waits for it, or it was not owed.
    Nobody,
}

/// How many nudges may be under way. The second one is for a ring that is refilled and emptied
/// again before the daemon answers the first.
const MOST_UNAWAITED: usize = 2;

impl<W> Default for PendingReplies<W> {
    fn default() -> Self {
        Self {
            owed: VecDeque::new(),
            alone: 0,
            unawaited: 0,
            reserved: 0,
            arrived: Vec::new(),
            next: Ticket::default(),
            again: false,
        }
    }
}

impl<W> PendingReplies<W> {
    /// Whether nothing is owed.
    pub(crate) fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether a request may be sent now. Otherwise answers must be received first. The largest
    /// answer has `capacity` bytes.
    pub(crate) fn may_send(&self, room: Room, capacity: usize) -> bool {
        let fits = |room: usize| {
            let need = self.reserved.saturating_add(room);
            self.alone == 0 && !self.again && need <= capacity
        };
        self.owed.is_empty() || room.is_some_and(fits)
    }

    /// Notes that a request is sent that `waiter` waits for.
    pub(crate) fn sent(&mut self, room: Room, waiter: Option<W>) -> Ticket {
        self.push(room, Waiter::Thread(waiter))
    }

    /// Notes that a request is sent whose answer nobody waits for.
    pub(crate) fn sent_unawaited(&mut self) {
        self.push(None, Waiter::Nobody);
    }

    fn push(&mut self, room: Room, waiter: Waiter<W>) -> Ticket {
        let ticket = self.next;
        self.next = ticket.next();
        let owed = Owed { ticket, room, waiter };
        self.count(&owed, |count, by| *count = count.saturating_add(by));
        self.owed.push_back(owed);
        ticket
    }

    /// Counts an answer that is owed from now on, or no more.
    fn count(&mut self, owed: &Owed<W>, change: impl Fn(&mut usize, usize)) {
        match owed.room {
            Some(room) => change(&mut self.reserved, room),
            None => change(&mut self.alone, 1),
        }
        if matches!(owed.waiter, Waiter::Nobody) {
            change(&mut self.unawaited, 1);
        }
    }

    /// Takes back the last `count` notes of [`PendingReplies::sent`]: those requests were not sent.
    pub(crate) fn not_sent(&mut self, count: usize) {
        for _ in 0..count {
            if let Some(owed) = self.owed.pop_back() {
                self.count(&owed, |count, by| *count = count.saturating_sub(by));
            }
        }
    }

    /// Notes that nobody waits for an answer any more. Until it came, every other request waits for
    /// it: the daemon may be in trouble. If it has come meanwhile, it is returned.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> Option<Vec<u8>> {
        if let Some(owed) = self.owed.iter_mut().find(|owed| owed.ticket == ticket) {
            owed.waiter = Waiter::GaveUp;
            if let Some(room) = owed.room.take() {
                self.reserved = self.reserved.saturating_sub(room);
                self.alone = self.alone.saturating_add(1);
            }
        }
        self.take(ticket)
    }

    /// Takes an answer that another thread has received.
    pub(crate) fn take(&mut self, ticket: Ticket) -> Option<Vec<u8>> {
        let at = self.arrived.iter().position(|(arrived, _)| *arrived == ticket)?;
        Some(self.arrived.remove(at).1)
    }

    /// Whether the next answer may be followed by a second one, as far as the request decides.
    pub(crate) fn next_is_alone(&self) -> bool {
        self.owed.front().is_none_or(|owed| owed.room.is_none())
    }

    /// Notes the next answer, which a thread received that waits for `own`. If it belongs to another
    /// thread, it is taken out of `reply` and kept.
    pub(crate) fn received(&mut self, own: Option<Ticket>, reply: &mut Vec<u8>) -> Whose<W> {
        let Some(owed) = self.owed.pop_front() else { return Whose::Nobody };
        self.count(&owed, |count, by| *count = count.saturating_sub(by));
        match owed.waiter {
            _ if own == Some(owed.ticket) => Whose::Own,
            Waiter::Thread(thread) => {
                self.arrived.push((owed.ticket, mem::take(reply)));
                Whose::Kept(thread)
            }
            Waiter::GaveUp => Whose::Orphan,
            Waiter::Nobody => Whose::Nobody,
        }
    }

    /// Whether nothing is owed but answers that nobody waits for. Those can be discarded as they
    /// come.
    pub(crate) fn owes_unawaited_only(&self) -> bool {
        self.owed.len() == self.unawaited
    }

    /// Whether a nudge may be sent. That is not so while a request is waited for, while too many
    /// nudges are under way, and while a second answer may come, which would be taken for the
    /// nudge's.
    pub(crate) fn may_nudge(&self) -> bool {
        self.owes_unawaited_only() && self.unawaited < MOST_UNAWAITED && !self.again
    }

    /// Notes an answer that nobody waits for.
    pub(crate) fn received_unawaited(&mut self, reply: &mut Vec<u8>) {
        if may_be_answered_again(reply) {
            self.received(None, reply);
            self.again = true;
        } else if !mem::take(&mut self.again) {
            self.received(None, reply);
        }
    }

    /// Whether a second answer may come. The caller waits for it, so the next call returns `false`.
    pub(crate) fn take_again(&mut self) -> bool {
        mem::take(&mut self.again)
    }
}

/// Whether a second answer to the same request may follow at once.
///
/// corosync before 2.1 refuses a request with a bare header when it is busy or the request is too
/// long. It then carries the request out all the same and answers again. The second answer counts.
pub(crate) fn may_be_answered_again(reply: &[u8]) -> bool {
    let mut reader = Reader::new("qb_ipc_response_header", reply);
    let refused = |header: Header| {
        header.id == 0
            && [CsError::TryAgain, CsError::InvalidParam]
                .iter()
                .any(|error| header.error == error.raw())
    };
    Header::read(&mut reader, Kind::Response).is_ok_and(refused) && reader.remaining() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode_refusal;

    /// Room for the answers of the tests' daemon.
    const CAPACITY: usize = 1000;

    fn received(
        pending: &mut PendingReplies<&'static str>,
        own: Option<Ticket>,
    ) -> Whose<&'static str> {
        pending.received(own, &mut vec![7])
    }

    #[test]
    fn bare_refusals_may_be_followed_by_an_answer() {
        let refused = |id, error| may_be_answered_again(&encode_refusal(id, error).unwrap());
        assert!(refused(0, CsError::TryAgain) && refused(0, CsError::InvalidParam));
        assert!(!refused(0, CsError::NotExist) && !refused(4, CsError::TryAgain));
        let mut with_body = encode_refusal(0, CsError::TryAgain).unwrap();
        with_body.push(0);
        assert!(!may_be_answered_again(&with_body) && !may_be_answered_again(&[0; 8]));
    }

    #[test]
    fn a_late_reply_is_received_before_the_next_request() {
        let mut pending = PendingReplies::default();
        for room in [None, Some(8)] {
            assert!(pending.may_send(room, CAPACITY));
            let ticket = pending.sent(room, Some("thread"));
            assert_eq!(pending.give_up(ticket), None);
            assert!(!pending.may_send(None, CAPACITY) && !pending.may_send(Some(8), CAPACITY));
            assert_eq!(received(&mut pending, None), Whose::Orphan);
        }
        assert!(pending.may_send(None, CAPACITY) && pending.may_send(Some(8), CAPACITY));
    }

    #[test]
    fn requests_join_each_other_as_far_as_their_answers_fit() {
        let mut pending = PendingReplies::default();
        let first = pending.sent(Some(300), Some("first"));
        assert!(pending.may_send(Some(300), CAPACITY) && !pending.may_send(None, CAPACITY));
        let second = pending.sent(Some(300), Some("second"));
        assert!(!pending.may_send(Some(CAPACITY - 599), CAPACITY));
        // The second thread receives both.
        assert_eq!(received(&mut pending, Some(second)), Whose::Kept(Some("first")));
        assert_eq!(received(&mut pending, Some(second)), Whose::Own);
        assert_eq!((pending.take(second), pending.take(first)), (None, Some(vec![7])));
        assert_eq!(pending.take(first), None);
        assert!(pending.may_send(None, CAPACITY));
    }

    #[test]
    fn nothing_joins_a_request_that_is_alone() {
        let mut pending = PendingReplies::default();
        pending.sent(None, None::<&str>);
        assert!(!pending.may_send(Some(8), CAPACITY));
        pending.not_sent(1);
        assert!(pending.may_send(Some(8), CAPACITY));
        // What does not fit is alone.
        assert!(pending.may_send(Some(2 * CAPACITY), CAPACITY));
        pending.sent(Some(2 * CAPACITY), None);
        assert!(!pending.may_send(Some(8), CAPACITY));
    }

    #[test]
    fn who_gives_up_may_have_the_answer_already() {
        let mut pending = PendingReplies::default();
        let first = pending.sent(Some(8), Some("first"));
        let second = pending.sent(Some(8), Some("second"));
        assert_eq!(received(&mut pending, Some(second)), Whose::Kept(Some("first")));
        assert_eq!(pending.give_up(first), Some(vec![7]));
        assert_eq!(pending.give_up(second), None);
        assert_eq!(received(&mut pending, None), Whose::Orphan);
        assert!(pending.is_empty() && pending.may_nudge());
    }

    #[test]
    fn answers_to_nudges_are_received_before_the_next_request() {
        let mut pending = PendingReplies::default();
        pending.sent_unawaited();
        assert!(pending.may_nudge());
        pending.sent_unawaited();
        assert!(!pending.may_nudge());
        assert_eq!(received(&mut pending, None), Whose::Nobody);
        assert!(!pending.may_send(None, CAPACITY) && !pending.may_send(Some(8), CAPACITY));
        assert_eq!(received(&mut pending, None), Whose::Nobody);
        assert!(pending.may_send(None, CAPACITY));
        // One that was not asked for.
        assert_eq!(received(&mut pending, None), Whose::Nobody);
    }

    /// evs, the first time it is asked in a partition that is not quorate.
    #[test]
    fn a_nudge_that_is_answered_twice_takes_no_answer_of_another_request() {
        let refused = encode_refusal(0, CsError::TryAgain).unwrap();
        let answer = encode_refusal(4, CsError::NotExist).unwrap();
        let mut pending = PendingReplies::<()>::default();
        pending.sent_unawaited();
        pending.received_unawaited(&mut refused.clone());
        assert!(pending.is_empty() && !pending.may_nudge());
        // Who sends the next request waits for it a moment, once.
        assert!(pending.take_again() && !pending.take_again() && pending.may_nudge());
        pending.sent_unawaited();
        pending.sent_unawaited();
        pending.received_unawaited(&mut refused.clone());
        pending.received_unawaited(&mut answer.clone());
        assert_eq!((pending.is_empty(), pending.may_nudge()), (false, true));
        pending.received_unawaited(&mut answer.clone());
        assert_eq!((pending.is_empty(), pending.take_again()), (true, false));
    }

    #[test]
    fn no_nudge_follows_a_request_that_is_under_way() {
        let mut pending = PendingReplies::default();
        let ticket = pending.sent(None, Some("thread"));
        assert!(!pending.may_nudge() && !pending.owes_unawaited_only());
        assert_eq!(received(&mut pending, Some(ticket)), Whose::Own);
        assert!(pending.may_nudge() && pending.owes_unawaited_only());
    }
}
