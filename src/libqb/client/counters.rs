//! Counters of a connection.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a client did so far, and how full its rings are. It shows who is slow: a request ring that
/// stays full is not read by the daemon, an event ring that stays full is not read by this program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ClientStats {
    /// Messages put in the request ring: requests, retries, multicasts, fragments, nudges.
    pub requests: u64,
    /// How often a request was sent again because the daemon was too busy for it
    /// (`CS_ERR_TRY_AGAIN`).
    pub retries: u64,
    /// Requests that only make the daemon refill the event ring. The [`glossary`](crate::glossary)
    /// explains the word.
    pub nudges: u64,
    /// Calls that ended with [`Error::TimedOut`](crate::Error::TimedOut).
    pub timeouts: u64,
    /// Answers that came after their call had timed out, and were discarded.
    pub orphaned_replies: u64,
    /// Messages taken from the event ring. Most are an event, but several fragments make one.
    pub events: u64,
    /// Bytes that woke an event loop without an event.
    pub stray_wake_bytes: u64,
    /// The ring of requests, which the daemon empties.
    pub request_ring: RingFill,
    /// The ring of events, which this client empties.
    pub event_ring: RingFill,
}

/// How full a ring is, in bytes. With datagram sockets, which have no rings: in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RingFill {
    /// Used now. While a call waits for its answer, the value for the request ring may be that of
    /// when the request was sent.
    pub used: usize,
    /// The most that this client saw used.
    pub most_used: usize,
    /// The size of the ring, which messages fill to a few bytes less. `None` with datagram sockets,
    /// where the system decides.
    pub capacity: Option<usize>,
}

impl ClientStats {
    /// The counters of both. The rings are those of `self`, with the most that either has seen.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        self.requests += before.requests;
        self.retries += before.retries;
        self.nudges += before.nudges;
        self.timeouts += before.timeouts;
        self.orphaned_replies += before.orphaned_replies;
        self.events += before.events;
        self.stray_wake_bytes += before.stray_wake_bytes;
        for (ring, before) in [
            (&mut self.request_ring, &before.request_ring),
            (&mut self.event_ring, &before.event_ring),
        ] {
            ring.most_used = ring.most_used.max(before.most_used);
            ring.capacity = ring.capacity.or(before.capacity);
        }
        self
    }
}

/// A number that only grows. Relaxed everywhere: nothing depends on it.
#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The last fill of a ring that was noticed, and the most. Relaxed, as a [`Counter`].
#[derive(Default)]
pub(super) struct Fill {
    used: AtomicUsize,
    most_used: AtomicUsize,
}

impl Fill {
    pub(super) fn note(&self, used: usize) {
        self.used.store(used, Ordering::Relaxed);
        if used > self.most_used.load(Ordering::Relaxed) {
            self.most_used.fetch_max(used, Ordering::Relaxed);
        }
    }

    fn get(&self, capacity: Option<usize>) -> RingFill {
        let [used, most_used] =
            [&self.used, &self.most_used].map(|field| field.load(Ordering::Relaxed));
        RingFill { used, most_used, capacity }
    }
}

/// The counters behind [`ClientStats`], which every thread that uses the connection adds to.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) requests: Counter,
    pub(super) retries: Counter,
    pub(super) nudges: Counter,
    pub(super) timeouts: Counter,
    pub(super) orphaned_replies: Counter,
    pub(super) events: Counter,
    pub(super) stray_wake_bytes: Counter,
    pub(super) request_ring: Fill,
    pub(super) event_ring: Fill,
}

impl Counters {
    pub(super) fn stats(
        &self,
        request_capacity: Option<usize>,
        event_capacity: Option<usize>,
    ) -> ClientStats {
        ClientStats {
            requests: self.requests.get(),
            retries: self.retries.get(),
            nudges: self.nudges.get(),
            timeouts: self.timeouts.get(),
            orphaned_replies: self.orphaned_replies.get(),
            events: self.events.get(),
            stray_wake_bytes: self.stray_wake_bytes.get(),
            request_ring: self.request_ring.get(request_capacity),
            event_ring: self.event_ring.get(event_capacity),
        }
    }
}
