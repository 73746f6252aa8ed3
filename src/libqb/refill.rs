//! A full event ring. Events that do not fit wait in the daemon, which looks for room only when its
//! loop turns for another reason.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

/// Decides when the daemon may hold back events that the ring had no room for. Any request makes
/// the daemon's loop turn, and the ring is refilled in the same turn. Without a request that takes
/// corosync up to 50 ms.
#[derive(Debug, Default)]
pub(crate) struct Refill {
    /// The size of the largest recent event, chunk header included. It decays with each event that
    /// follows.
    largest: usize,
    was_full: bool,
}

impl Refill {
    /// Notes that an event of `size` bytes was taken from a ring of `capacity` bytes, of which
    /// `left` bytes are still used. Returns `true` if the daemon must be made to refill the ring:
    /// when one that may have been full is nearly empty. So it is refilled while the rest is
    /// handled.
    pub(crate) fn event_taken(&mut self, size: usize, left: usize, capacity: usize) -> bool {
        let used = left + size;
        self.largest = size.max(self.largest - self.largest / 16);
        // The next event may be larger than those before, so a half full ring counts as full.
        self.was_full |= used > capacity / 2 || capacity.saturating_sub(used) <= self.largest;
        left <= capacity / 4 && std::mem::take(&mut self.was_full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes events of one size until none is left. Returns after how many events a refill was due.
    fn drain(refill: &mut Refill, size: usize, count: usize, capacity: usize) -> Vec<usize> {
        (1..=count)
            .filter(|taken| refill.event_taken(size, (count - taken) * size, capacity))
            .collect()
    }

    #[test]
    fn a_ring_that_was_full_is_refilled_once_before_it_is_empty() {
        let mut refill = Refill::default();
        assert_eq!(drain(&mut refill, 100, 40, 4096), [30]);
        assert_eq!(drain(&mut refill, 100, 40, 4096), [30]);
    }

    #[test]
    fn a_ring_that_was_never_full_needs_no_refill() {
        assert!(drain(&mut Refill::default(), 100, 20, 4096).is_empty());
    }

    #[test]
    fn a_ring_with_less_room_than_a_large_event_of_late_was_full() {
        let mut refill = Refill::default();
        assert_eq!(drain(&mut refill, 3500, 1, 4096), [1]);
        assert_eq!(drain(&mut refill, 900, 1, 4096), [1]);
        assert!(drain(&mut refill, 100, 15, 4096).len() < 15);
        assert!(drain(&mut refill, 100, 15, 4096).is_empty());
    }
}
