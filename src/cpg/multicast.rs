//! Sending messages to the group.

use super::{Client, Cpg, Guarantee};
use crate::client::Service;
use crate::client::read_reply;
use crate::error::{CsError, Error, Result};
use crate::features;
use crate::libqb::client::Call;
use crate::wire::cpg::{FragmentType, Mcast, PartialMcast, PartialSendReply};

/// The largest request that the daemon can pass on to the other nodes, whatever the ring size.
/// Their daemons have a buffer of this size for a message. Matches `IPC_REQUEST_SIZE`.
pub(super) const LARGEST_REQUEST: usize = 1 << 20;

/// Room kept free in a request for headers, also for those between the nodes. As
/// `cpg_model_initialize`.
const HEADERS: usize = 1024;

/// More room kept free, for what follows the message in the same frame. corosync until 2.4 puts
/// both into [`LARGEST_REQUEST`] bytes without checking that they fit. Matches `FRAME_SIZE_MAX`.
const FRAME: usize = 10_000;

/// How often a message in fragments is sent again from the beginning at most, when changes of the
/// group's membership interrupt it. A group that changes faster than the message is sent would
/// never let it through.
const MOST_RESTARTS: usize = 16;

/// How many messages [`Client::multicast_many`] encodes at a time: no fewer than are ever sent at
/// once.
const BATCH: usize = 128;

const CALL: &str = "cpg multicast";

impl Client {
    /// Sends a message to all members of the group that was joined, this client included. Returns
    /// when the daemon has the message. It is delivered later, or never if the daemon dies before.
    /// Only the delivery to this client proves that it was sent: rarely, when several clients send
    /// large messages at once, a daemon's queue is full in spite of flow control. The daemon then
    /// drops a message in one piece, and only its log says so.
    ///
    /// Matches `cpg_mcast_joined`. Unlike in C, it waits up to the [request
    /// timeout](crate::Endpoint::request_timeout) until the ring has room and the daemon takes
    /// multicasts. With [`Endpoint::wait_while_busy`](crate::Endpoint::wait_while_busy) off it
    /// waits only for room in the socket that wakes the daemon, as C does.
    ///
    /// # Messages in fragments
    /// A message that is longer than [`Client::max_atomic_message_size`] is sent in fragments. The
    /// timeout then limits the time without progress: the daemon must take each fragment within the
    /// timeout. A daemon whose queue is full takes none for a while, longer on a busy machine or a
    /// slow network. So set a timeout that covers the longest such pause, not the length of the
    /// message. Other threads' requests wait until all fragments are sent.
    ///
    /// When the group's membership changes meanwhile, new members have missed the beginning. The
    /// message is then sent again from the beginning, up to 16 times.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::NotExist`] when no group is joined; [`Error::TimedOut`], or
    /// [`Error::Cs`] with [`CsError::TryAgain`], when the daemon takes no multicasts for that
    /// long: the message was not sent. [`Error::InvalidArgument`] when it has more than
    /// `u32::MAX` bytes; [`Error::Unsupported`] when it needs fragments and the daemon does not
    /// know them; [`Error::PartlySent`] when only some fragments were sent;
    /// [`Error::Disconnected`], [`Error::Finalized`].
    pub fn multicast(&self, guarantee: Guarantee, message: &[u8]) -> Result<()> {
        self.multicast_slices(guarantee, &[message])
    }

    /// As [`Client::multicast`], with a message in parts that follow each other.
    ///
    /// # Errors
    /// The same.
    pub fn multicast_slices(&self, guarantee: Guarantee, parts: &[&[u8]]) -> Result<()> {
        crate::log::in_span!("request", Cpg::NAME, CALL, || {
            let length = length(parts);
            let call = self.core.call(CALL).multicast();
            if length > self.max_atomic_message_size() {
                return self.multicast_fragments(guarantee, parts, length, call);
            }
            if self.multicast_in_one_piece(guarantee, parts, length, call, true)? {
                Ok(())
            } else if call.is_over() {
                Err(self.core.connection.timed_out(call))
            } else {
                Err(refused())
            }
        })
    }

    /// As [`Client::multicast`], but never waits: neither for room or flow control nor for other
    /// threads' requests.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::TryAgain`] when the message cannot be sent at once;
    /// [`Error::InvalidArgument`] when it is longer than [`Client::max_atomic_message_size`],
    /// since a message in fragments must wait; otherwise as [`Client::multicast`].
    pub fn try_multicast(&self, guarantee: Guarantee, message: &[u8]) -> Result<()> {
        self.try_multicast_slices(guarantee, &[message])
    }

    /// As [`Client::try_multicast`], with a message in parts that follow each other.
    ///
    /// # Errors
    /// The same.
    pub fn try_multicast_slices(&self, guarantee: Guarantee, parts: &[&[u8]]) -> Result<()> {
        let length = length(parts);
        self.check_length(length)?;
        let call = self.core.call(CALL).multicast();
        if self.multicast_in_one_piece(guarantee, parts, length, call, false)? {
            Ok(())
        } else {
            Err(refused())
        }
    }

    /// As [`Client::multicast`], with several messages, in their order. As many as the ring has room
    /// for are handed to the daemon at once, which saves most of what a short message costs. Members
    /// get each message as if it was sent alone. Messages of other threads may come in between.
    ///
    /// The daemon stops for a client that has announced messages and not woken it yet. So all
    /// messages of a batch are copied into the ring first, then announced, and the daemon is woken
    /// at once for all of them.
    ///
    /// All messages together have one [request timeout](crate::Endpoint::request_timeout), which
    /// begins anew after a message in fragments. C has no such call.
    ///
    /// # Errors
    /// As [`Client::multicast`] when no message was sent. [`Error::NotAllSent`] when only the first
    /// ones were; it says how many, and why the next one was not.
    pub fn multicast_many<M: AsRef<[u8]>>(
        &self,
        guarantee: Guarantee,
        messages: &[M],
    ) -> Result<()> {
        crate::log::in_span!("request", Cpg::NAME, CALL, || {
            let call = self.core.call(CALL).multicast();
            let mut sent = 0;
            let error = match self.send_many(guarantee, messages, call, &mut sent) {
                Ok(true) => return Ok(()),
                Ok(false) if call.is_over() => self.core.connection.timed_out(call),
                Ok(false) => refused(),
                Err(error) => error,
            };
            Err(not_all_sent(sent, messages.len(), error))
        })
    }

    /// As [`Client::multicast_many`], but never waits, as [`Client::try_multicast`]. Returns how many
    /// messages were sent: the first ones, and 0 only if there are none to send.
    ///
    /// # Errors
    /// [`Error::Cs`] with [`CsError::TryAgain`] when none can be sent at once;
    /// [`Error::InvalidArgument`] when one is longer than [`Client::max_atomic_message_size`], before
    /// any is sent; otherwise as [`Client::multicast_many`].
    pub fn try_multicast_many<M: AsRef<[u8]>>(
        &self,
        guarantee: Guarantee,
        messages: &[M],
    ) -> Result<usize> {
        let longest = messages.iter().map(|message| message.as_ref().len()).max();
        self.check_length(longest.unwrap_or_default())?;
        let call = self.core.call(CALL).multicast().at_once();
        let mut sent = 0;
        match self.send_many(guarantee, messages, call, &mut sent) {
            Ok(false) if sent == 0 => Err(refused()),
            Ok(_) => Ok(sent),
            Err(source) => Err(not_all_sent(sent, messages.len(), source)),
        }
    }

    /// The longest message that is sent in one piece, in bytes: 1037552, or 1 KiB less than a
    /// smaller [ring size](crate::Endpoint::ring_size).
    ///
    /// Matches `cpg_max_atomic_msgsize_get`, but is 10000 less: two messages of C's size, one after
    /// the other, crash corosync until 2.4.
    pub fn max_atomic_message_size(&self) -> usize {
        // No ring is that small. At least 1, so that cutting a message into pieces comes to an end.
        self.core
            .connection
            .max_request()
            .min(LARGEST_REQUEST - FRAME)
            .saturating_sub(HEADERS)
            .max(1)
    }

    /// Sends the message before the deadline, or at once unless it `waits`. `false`: it was not
    /// sent.
    fn multicast_in_one_piece(
        &self,
        guarantee: Guarantee,
        parts: &[&[u8]],
        length: usize,
        call: Call,
        waits: bool,
    ) -> Result<bool> {
        let call = if waits { call } else { call.at_once() };
        let head = Mcast::encode_head(guarantee, length).map_err(unencodable)?;
        let Some(mut turn) = self.core.connection.turn_before(call.deadline)? else {
            self.check_joined()?;
            return Ok(false);
        };
        // Again, with the turn held: a leave that starts from now on is sent after this message.
        self.check_joined()?;
        if waits && call.is_over() {
            return Ok(false);
        }
        match parts {
            [message] => turn.send(call, &[&head, message]),
            parts => turn.send(call, &behind(&head, parts.iter().copied())),
        }
    }

    /// Sends messages, and counts in `sent` how many. `false`: the next one was not sent before the
    /// deadline.
    fn send_many<M: AsRef<[u8]>>(
        &self,
        guarantee: Guarantee,
        messages: &[M],
        mut call: Call,
        sent: &mut usize,
    ) -> Result<bool> {
        self.check_joined()?;
        let most = self.max_atomic_message_size();
        let mut rest = messages.iter().map(AsRef::as_ref);
        let mut next = rest.next();
        while let Some(message) = next {
            if message.len() > most {
                self.multicast_fragments(guarantee, &[message], message.len(), call)?;
                call.renew();
                *sent += 1;
                next = rest.next();
                continue;
            }
            // No more than a ring has room for.
            let (mut batch, mut size) = (Vec::with_capacity(BATCH.min(1 + rest.len())), 0);
            // Messages of the same length have the same header.
            let (mut heads, mut length) = (Vec::new(), None);
            while let Some(message) = next.filter(|message| size + message.len() <= most) {
                if length != Some(message.len()) {
                    length = Some(message.len());
                    heads.push(Mcast::encode_head(guarantee, message.len()).map_err(unencodable)?);
                }
                batch.push((heads.len() - 1, message));
                size += message.len();
                next = if batch.len() < BATCH { rest.next() } else { None };
                if next.is_none() {
                    break;
                }
            }
            let head = |number: usize| heads.get(number).map_or(&[][..], Vec::as_slice);
            let parts: Vec<[&[u8]; 2]> =
                batch.into_iter().map(|(number, message)| [head(number), message]).collect();
            let batch: Vec<&[&[u8]]> = parts.iter().map(|parts| &parts[..]).collect();
            if !self.send_batch(&batch, call, sent)? {
                return Ok(false);
            }
            next = next.or_else(|| rest.next());
        }
        Ok(true)
    }

    /// As [`Client::send_many`], of messages that are each one piece, with their headers.
    fn send_batch(&self, mut batch: &[&[&[u8]]], call: Call, sent: &mut usize) -> Result<bool> {
        while !batch.is_empty() {
            let turn = self.core.connection.turn_before(call.deadline)?;
            // With the turn held, as in `multicast_in_one_piece`.
            self.check_joined()?;
            let count = match turn {
                Some(mut turn) => turn.send_many(call, batch)?,
                None => 0,
            };
            if count == 0 {
                return Ok(false);
            }
            *sent += count;
            batch = batch.get(count..).unwrap_or_default();
        }
        Ok(true)
    }

    fn check_length(&self, length: usize) -> Result<()> {
        let limit = self.max_atomic_message_size();
        if length > limit {
            let reason = format!("{length} bytes do not fit in one piece, {limit} do");
            return Err(Error::invalid("message", reason));
        }
        Ok(())
    }

    fn multicast_fragments(
        &self,
        guarantee: Guarantee,
        parts: &[&[u8]],
        length: usize,
        call: Call,
    ) -> Result<()> {
        let msglen = u32::try_from(length).map_err(|_| {
            Error::invalid("message", format!("{length} bytes are more than {}", u32::MAX))
        })?;
        self.check_joined()?;
        let mut call = call.patient();
        self.core.service.probe.require(&features::CPG_FRAGMENTS, call)?;
        let mut turn = self.core.connection.turn(call)?;
        self.check_joined()?;
        let most = self.max_atomic_message_size();
        let (mut sent, mut restarts, mut reply) = (0, 0, Vec::new());
        while sent < length {
            let size = most.min(length - sent);
            let kind = match sent {
                0 => FragmentType::FIRST,
                _ if sent + size == length => FragmentType::LAST,
                _ => FragmentType::CONTINUED,
            };
            let head =
                PartialMcast::encode_head(guarantee, msglen, kind, size).map_err(unencodable)?;
            let fragment = behind(&head, cut(parts, sent, size));
            let accepted = turn
                .request(call, &fragment, &mut reply)
                .and_then(|()| read_reply(call, &reply, |source| turn.refuse(source)));
            match accepted {
                Ok(PartialSendReply {}) => {
                    sent += size;
                    call.renew();
                }
                // The daemon did not send this fragment, and receivers forget the others at the
                // next first one.
                Err(Error::Cs { error: CsError::Interrupt, .. }) if restarts < MOST_RESTARTS => {
                    sent = 0;
                    restarts += 1;
                }
                Err(error) if sent == 0 => return Err(error),
                Err(source) => {
                    return Err(Error::PartlySent { sent, length, source: Box::new(source) });
                }
            }
        }
        Ok(())
    }

    fn check_joined(&self) -> Result<()> {
        match self.joined() {
            Some(_) => Ok(()),
            None => Err(Error::Cs {
                call: "cpg multicast: no group is joined".into(),
                error: CsError::NotExist,
            }),
        }
    }
}

fn refused() -> Error {
    Error::Cs { call: CALL.into(), error: CsError::TryAgain }
}

fn not_all_sent(sent: usize, messages: usize, source: Error) -> Error {
    if sent == 0 { source } else { Error::NotAllSent { sent, messages, source: Box::new(source) } }
}

fn unencodable(source: crate::error::WireError) -> Error {
    Error::Unencodable { call: CALL.into(), source }
}

/// The length of all parts. Saturates, since the same part may be given many times.
fn length(parts: &[&[u8]]) -> usize {
    parts.iter().fold(0, |length, part| length.saturating_add(part.len()))
}

/// A header and what follows.
fn behind<'a>(head: &'a [u8], parts: impl Iterator<Item = &'a [u8]>) -> Vec<&'a [u8]> {
    std::iter::once(head).chain(parts).collect()
}

/// Cuts `length` bytes out of the joined parts, beginning at `start`.
fn cut<'a>(parts: &[&'a [u8]], start: usize, length: usize) -> impl Iterator<Item = &'a [u8]> {
    let (mut skip, mut left) = (start, length);
    parts.iter().filter_map(move |part| {
        let piece = part.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(part.len());
        let piece = piece.get(..left).unwrap_or(piece);
        left -= piece.len();
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cut_is_what_lies_there(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8),
            start in any::<prop::sample::Index>(),
            length in any::<prop::sample::Index>(),
        ) {
            let whole = parts.concat();
            let start = start.index(whole.len() + 1);
            let length = length.index(whole.len() - start + 1);
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let found: Vec<u8> = cut(&slices, start, length).flatten().copied().collect();
            prop_assert_eq!(&found[..], &whole[start..start + length]);
        }
    }
}
