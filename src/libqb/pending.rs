//! Counts the answers that the daemon owes.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

use std::mem;

use crate::codec::{Header, Kind, Reader};
use crate::error::CsError;

/// What a client does before it sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// Nothing.
    Send,
    /// Receive and discard an answer that nobody waits for any more.
    Drain,
}

/// Counts the answers the daemon still owes.
///
/// Replies carry no correlation id, but come in the order of the requests, and one request is under
/// way at a time. After a request timed out, its late answer is the next to arrive. It must be
/// discarded before another request is sent. The same goes for the answers to requests that nobody
/// waits for: nudges, and releases of iterators. Those are answered exactly once. Other answers may
/// be followed by a second one, so only the sender of the next request discards them.
#[derive(Debug, Default)]
pub(crate) struct PendingReplies {
    owed: u32,
    /// How many of the owed answers nobody waits for. It is all of them or none: a request that is
    /// waited for is sent only when nothing is owed.
    unawaited: u32,
    /// The last answer that nobody waited for may be followed by a second one, which is not
    /// counted.
    again: bool,
}

/// How many nudges may be under way. The second one is for a ring that is refilled and emptied
/// again before the daemon answers the first.
const MOST_UNAWAITED: u32 = 2;

impl PendingReplies {
    /// Returns what to do before the next request.
    pub(crate) fn before(&self) -> Before {
        if self.owed > 0 { Before::Drain } else { Before::Send }
    }

    /// Notes that a request was sent that will be answered.
    pub(crate) fn sent(&mut self) {
        self.owed += 1;
    }

    /// Whether nothing is owed but answers that nobody waits for. Those can be discarded as they
    /// come.
    pub(crate) fn owes_unawaited_only(&self) -> bool {
        self.owed == self.unawaited
    }

    /// Whether a nudge may be sent. That is not so while a request is waited for, while too many
    /// nudges are under way, and while a second answer may come, which would be taken for the
    /// nudge's.
    pub(crate) fn may_nudge(&self) -> bool {
        self.owes_unawaited_only() && self.unawaited < MOST_UNAWAITED && !self.again
    }

    /// Notes an answer that nobody waits for.
    pub(crate) fn received_unawaited(&mut self, reply: &[u8]) {
        if may_be_answered_again(reply) {
            self.received();
            self.again = true;
        } else if !mem::take(&mut self.again) {
            self.received();
        }
    }

    /// Whether a second answer may come. The caller waits for it, so the next call returns `false`.
    pub(crate) fn take_again(&mut self) -> bool {
        mem::take(&mut self.again)
    }

    /// Notes that a request was sent whose answer nobody waits for.
    pub(crate) fn sent_unawaited(&mut self) {
        self.owed += 1;
        self.unawaited += 1;
    }

    /// Notes an answer.
    pub(crate) fn received(&mut self) {
        self.owed = self.owed.saturating_sub(1);
        self.unawaited = self.unawaited.saturating_sub(1);
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
    fn a_late_reply_is_drained_before_the_next_request() {
        let mut pending = PendingReplies::default();
        assert_eq!(pending.before(), Before::Send);
        pending.sent();
        // The deadline passed here.
        assert_eq!(pending.before(), Before::Drain);
        pending.received();
        assert_eq!(pending.before(), Before::Send);
    }

    #[test]
    fn answers_to_nudges_are_drained_before_the_next_request() {
        let mut pending = PendingReplies::default();
        pending.sent_unawaited();
        assert!(pending.may_nudge());
        pending.sent_unawaited();
        assert!(!pending.may_nudge());
        pending.received();
        assert_eq!(pending.before(), Before::Drain);
        pending.received();
        assert_eq!(pending.before(), Before::Send);
    }

    /// evs, the first time it is asked in a partition that is not quorate.
    #[test]
    fn a_nudge_that_is_answered_twice_takes_no_answer_of_another_request() {
        let refused = encode_refusal(0, CsError::TryAgain).unwrap();
        let answer = encode_refusal(4, CsError::NotExist).unwrap();
        let mut pending = PendingReplies::default();
        pending.sent_unawaited();
        pending.received_unawaited(&refused);
        assert_eq!(pending.before(), Before::Send);
        assert!(!pending.may_nudge());
        // Who sends the next request waits for it a moment, once.
        assert!(pending.take_again() && !pending.take_again() && pending.may_nudge());
        pending.sent_unawaited();
        pending.sent_unawaited();
        pending.received_unawaited(&refused);
        pending.received_unawaited(&answer);
        assert_eq!((pending.before(), pending.may_nudge()), (Before::Drain, true));
        pending.received_unawaited(&answer);
        assert_eq!((pending.before(), pending.take_again()), (Before::Send, false));
    }

    #[test]
    fn no_nudge_follows_a_request_that_is_under_way() {
        let mut pending = PendingReplies::default();
        pending.sent();
        assert!(!pending.may_nudge() && !pending.owes_unawaited_only());
        pending.received();
        assert!(pending.may_nudge() && pending.owes_unawaited_only());
    }
}
