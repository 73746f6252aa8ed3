//! Wake bytes: the daemon sends one on the setup socket for every event it puts in the ring, at
//! once or later.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

/// At most this many bytes are taken from the socket in one go.
pub(crate) const BATCH: usize = 64;

/// How many bytes may come for no event between two events. libqb sends none; each costs a look and
/// wakes an event loop.
pub(crate) const MOST_STRAY: usize = 1024;

/// Keeps the descriptor honest: it must poll readable while an event waits. So no more bytes are
/// taken than events were, and taking them is put off while events still wait, which costs one
/// system call for many events.
#[derive(Debug, Default)]
pub(crate) struct WakeBytes {
    /// Events taken less bytes taken.
    owed: isize,
    /// Bytes that came for no event since the last event.
    stray: usize,
}

impl WakeBytes {
    /// An event was taken from the ring, in which there are `more`, or not. Returns how many bytes
    /// to take now.
    pub(crate) fn event_taken(&mut self, more: bool) -> usize {
        self.owed += 1;
        self.stray = 0;
        if more && self.wanted() < BATCH { 0 } else { self.wanted() }
    }

    /// How many bytes to take when no event waits.
    pub(crate) fn wanted(&self) -> usize {
        usize::try_from(self.owed).unwrap_or(0).min(BATCH)
    }

    /// So many bytes were taken. One more than [`wanted`](Self::wanted) may be, if the ring is
    /// looked at again before anything else: the daemon puts an event in the ring before it
    /// sends the byte.
    pub(crate) fn bytes_taken(&mut self, count: usize) {
        self.owed -= isize::try_from(count).unwrap_or(isize::MAX);
    }

    /// The ring was looked at again and is empty: a byte taken too many never had an event.
    /// `false`: there were too many of those.
    #[must_use]
    pub(crate) fn forget_stray(&mut self) -> bool {
        self.stray += usize::try_from(-self.owed).unwrap_or(0);
        self.owed = self.owed.max(0);
        self.stray <= MOST_STRAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_taken_in_batches_while_events_wait() {
        let mut wake = WakeBytes::default();
        assert_eq!(
            (wake.event_taken(true), wake.event_taken(true), wake.event_taken(false)),
            (0, 0, 3)
        );
        wake.bytes_taken(2);
        assert_eq!(wake.wanted(), 1);
        wake.bytes_taken(1);
        assert_eq!(wake.wanted(), 0);
    }

    #[test]
    fn a_byte_taken_before_its_event_is_not_taken_twice() {
        let mut wake = WakeBytes::default();
        wake.bytes_taken(1);
        assert_eq!(wake.event_taken(false), 0);
        assert_eq!(wake.event_taken(false), 1);
    }

    #[test]
    fn a_byte_without_an_event_is_forgotten() {
        let mut wake = WakeBytes::default();
        wake.bytes_taken(1);
        assert!(wake.forget_stray());
        assert_eq!(wake.event_taken(false), 1);
    }

    #[test]
    fn bytes_without_an_event_are_borne_until_there_are_too_many_in_a_row() {
        let mut wake = WakeBytes::default();
        let strays = |wake: &mut WakeBytes, count| {
            let stray = |_: &usize| {
                wake.bytes_taken(1);
                wake.forget_stray()
            };
            (0..count).take_while(stray).count()
        };
        assert_eq!(strays(&mut wake, MOST_STRAY), MOST_STRAY);
        let wanted = wake.event_taken(false);
        wake.bytes_taken(wanted);
        assert_eq!(strays(&mut wake, 2 * MOST_STRAY), MOST_STRAY);
    }
}
