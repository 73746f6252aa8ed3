//! Wake bytes. The sender of a chunk sends one byte on the setup socket for it, at once or later.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

/// How many bytes are taken from the socket at a time at most.
pub(crate) const BATCH: usize = 64;

/// How many bytes without an event may come between two events. libqb sends none. Each one wakes an
/// event loop for nothing.
pub(crate) const MOST_STRAY: usize = 1024;

/// Decides when to take wake bytes. The descriptor must poll readable while an event waits, so no
/// more bytes are taken than events. Bytes are left in the socket while more events wait, so that
/// one system call takes the bytes of many events.
#[derive(Debug, Default)]
pub(crate) struct WakeBytes {
    /// The number of events taken minus the number of bytes taken.
    owed: isize,
    /// How many bytes without an event came since the last event.
    stray: usize,
}

impl WakeBytes {
    /// Notes that an event was taken from the ring, which has `more` or is empty. Returns how many
    /// bytes to take now.
    pub(crate) fn event_taken(&mut self, more: bool) -> usize {
        self.owed += 1;
        self.stray = 0;
        if more && self.wanted() < BATCH { 0 } else { self.wanted() }
    }

    /// Returns how many bytes to take when no event waits.
    pub(crate) fn wanted(&self) -> usize {
        usize::try_from(self.owed).unwrap_or(0).min(BATCH)
    }

    /// Notes that `count` bytes were taken. That may be one more than [`wanted`](Self::wanted) if
    /// the ring is read again next: the daemon puts an event in the ring before it sends the byte.
    pub(crate) fn bytes_taken(&mut self, count: usize) {
        self.owed -= isize::try_from(count).unwrap_or(isize::MAX);
    }

    /// Returns how many bytes were taken that have no event yet.
    pub(crate) fn extra(&self) -> usize {
        usize::try_from(-self.owed).unwrap_or(0)
    }

    /// Notes that the ring was read again and is empty, so an extra byte had no event. Returns
    /// `false` if there were too many of those.
    #[must_use]
    pub(crate) fn forget_stray(&mut self) -> bool {
        self.stray += self.extra();
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
