//! Who receives the answers to requests that are under way, and who waits for them.

use std::time::Instant;

use super::turnstile::{Entered, Guard, Turnstile, lock};
use crate::libqb::pending::{PendingReplies, Room, Ticket, Whose, may_be_answered_again};
use crate::sync::{Mutex, MutexGuard, Thread, current, now};

/// Where answers come from.
pub(super) trait Source<R> {
    type Error;

    /// Waits for the next answer, which is written over what is in `reply`. Returns `false` if the
    /// deadline passes first.
    fn receive(
        &self,
        receiver: &mut R,
        deadline: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<bool, Self::Error>;

    /// As [`Source::receive`], without waiting.
    fn try_receive(&self, receiver: &mut R, reply: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// As [`Source::receive`], but waits only a moment: as long as the second answer takes.
    fn receive_second(&self, receiver: &mut R, reply: &mut Vec<u8>) -> Result<bool, Self::Error>;

    /// An answer came whose call had timed out.
    fn is_orphan(&self);
}

/// The answers that are owed, and the receiver that they come from.
///
/// Of the threads that wait for one, one has the turn to receive. It takes all answers that come,
/// and hands over those of other threads, until its own has come. Then the next thread has the turn.
/// `pending` is held for a few instructions only.
pub(super) struct Answers<R> {
    receiving: Turnstile<R>,
    pending: Mutex<PendingReplies<Thread>>,
    /// The room for all answers that are under way, in bytes.
    capacity: usize,
}

/// Requests under way. Those that are left when this is dropped are given up.
pub(super) struct Posted<'a, R> {
    answers: &'a Answers<R>,
    /// The one whose answer comes next, and how many are left.
    next: Ticket,
    left: usize,
    /// The turn to receive, unless another thread receives the answers.
    receiving: Option<Guard<'a, R>>,
    /// Another thread had that turn first, and may have received any of the answers.
    shared: bool,
    /// A second answer to an earlier request may come.
    again: bool,
}

impl<R> Answers<R> {
    pub(super) fn new(receiver: R, capacity: usize) -> Self {
        Self { receiving: Turnstile::new(receiver), pending: Mutex::default(), capacity }
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, PendingReplies<Thread>> {
        lock(&self.pending)
    }

    /// Takes the turn to receive if no other thread has it or waits for it.
    pub(super) fn try_enter(&self) -> Option<Guard<'_, R>> {
        self.receiving.try_enter()
    }

    /// Receives answers to earlier requests until a request may be sent. Returns `false` if the
    /// deadline passes first. Only for the thread that has the turn to send.
    pub(super) fn make_way<S: Source<R>>(
        &self,
        source: &S,
        room: Room,
        deadline: Instant,
        scratch: &mut Vec<u8>,
    ) -> Result<bool, S::Error> {
        let may_send = || self.pending().may_send(room, self.capacity);
        while !may_send() {
            let Some(mut receiver) = self.receiving.enter(deadline) else { return Ok(false) };
            // The thread that had the turn before may have received it.
            if !may_send()
                && self.receive_next(source, &mut receiver, None, deadline, scratch)?.is_none()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes that requests are sent: the first, and as many of the others as may join it. Returns
    /// how many. Only for the thread that has the turn to send.
    pub(super) fn post(&self, mut rooms: impl Iterator<Item = Room>) -> (Posted<'_, R>, usize) {
        let mut pending = self.pending();
        // If answers are owed, one of the threads that wait for them receives.
        let receiving = if pending.is_empty() { self.try_enter() } else { None };
        let shared = receiving.is_none();
        let again = !shared && pending.take_again();
        let waiter = || shared.then(current);
        let next = pending.sent(rooms.next().flatten(), waiter());
        let mut left = 1;
        for room in rooms.take_while(Option::is_some) {
            if !pending.may_send(room, self.capacity) {
                break;
            }
            pending.sent(room, waiter());
            left += 1;
        }
        (Posted { answers: self, next, left, receiving, shared, again }, left)
    }

    /// Waits for the next answer, and hands it over unless it is the `own` one. Returns `None` if
    /// the deadline passes first.
    fn receive_next<S: Source<R>>(
        &self,
        source: &S,
        receiver: &mut R,
        own: Option<Ticket>,
        deadline: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<Option<Whose<Thread>>, S::Error> {
        if !source.receive(receiver, deadline, reply)? {
            return Ok(None);
        }
        // If the daemon answers twice, the second answer counts.
        if may_be_answered_again(reply) && self.pending().next_is_alone() {
            let mut second = Vec::new();
            if source.receive_second(receiver, &mut second)? {
                *reply = second;
            }
        }
        let whose = self.pending().received(own, reply);
        match &whose {
            Whose::Kept(Some(thread)) => thread.unpark(),
            Whose::Orphan => source.is_orphan(),
            Whose::Own | Whose::Kept(None) | Whose::Nobody => {}
        }
        Ok(Some(whose))
    }
}

impl<R> Posted<'_, R> {
    /// How many requests are under way.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Discards what came in vain: second answers that came after their request was over. Only
    /// before the requests are sent.
    pub(super) fn discard_strays<S: Source<R>>(
        &mut self,
        source: &S,
        deadline: Instant,
        scratch: &mut Vec<u8>,
    ) -> Result<(), S::Error> {
        if let Some(receiver) = &mut self.receiving {
            if self.again {
                source.receive_second(receiver, scratch)?;
            }
            while source.try_receive(receiver, scratch)? && now() < deadline {}
        }
        Ok(())
    }

    /// Notes that the last `count` requests could not be sent.
    pub(super) fn not_sent(&mut self, count: usize) {
        self.answers.pending().not_sent(count);
        self.left -= count;
    }

    /// Waits for the next answer, which is written over what is in `reply`. Returns `false` if the
    /// deadline passes first.
    pub(super) fn wait<S: Source<R>>(
        &mut self,
        source: &S,
        deadline: Instant,
        reply: &mut Vec<u8>,
    ) -> Result<bool, S::Error> {
        let (answers, ticket) = (self.answers, self.next);
        let mut found = None;
        let mut arrived = || {
            found = answers.pending().take(ticket);
            found.is_some()
        };
        if self.shared && !arrived() && self.receiving.is_none() {
            match answers.receiving.enter_unless(deadline, &mut arrived) {
                Entered::Ready | Entered::TimedOut => {}
                Entered::Turn(receiver) => {
                    self.receiving = Some(receiver);
                    // It may have come before the turn.
                    arrived();
                }
            }
        }
        if let (None, Some(receiver)) = (&found, &mut self.receiving) {
            loop {
                match answers.receive_next(source, receiver, Some(ticket), deadline, reply)? {
                    Some(Whose::Own) => {
                        self.is_answered();
                        return Ok(true);
                    }
                    Some(_) => {}
                    None => break,
                }
            }
        }
        let Some(arrived) = found.or_else(|| answers.pending().give_up(ticket)) else {
            self.is_answered();
            return Ok(false);
        };
        *reply = arrived;
        self.is_answered();
        Ok(true)
    }

    fn is_answered(&mut self) {
        self.next = self.next.next();
        self.left -= 1;
    }
}

impl<R> Drop for Posted<'_, R> {
    fn drop(&mut self) {
        while self.left > 0 {
            self.answers.pending().give_up(self.next);
            self.is_answered();
        }
    }
}
