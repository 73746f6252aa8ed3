//! How long a call may take, with everything it does.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::endpoint::{Deadline, Endpoint};

/// How long a call of the user may take, and what is said if it takes longer. A call has one,
/// whatever requests it makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) call: &'static str,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

thread_local! {
    static LIMIT: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl Patience {
    /// From now on, but not beyond the [`Limit`] of this thread.
    pub(crate) fn new(call: &'static str, timeout: Duration) -> Self {
        let deadline = deadline_after(timeout);
        Self { call, timeout, deadline: LIMIT.get().map_or(deadline, |limit| limit.min(deadline)) }
    }

    /// For connecting, and for all that a service is asked before there is a client.
    pub(crate) fn connecting(endpoint: &Endpoint) -> Self {
        Self::new("connecting", endpoint.connect_timeout_value())
    }

    /// The same time for a part of the call, which has a name of its own.
    pub(crate) fn step(self, call: &'static str) -> Self {
        Self { call, ..self }
    }

    /// Adds to the time.
    pub(crate) fn extend(&mut self, by: Duration) {
        self.timeout = self.timeout.saturating_add(by);
        self.deadline = self.deadline.checked_add(by).unwrap_or(self.deadline);
    }

    /// Begins anew, after progress.
    pub(crate) fn renew(&mut self) {
        self.deadline = deadline_after(self.timeout);
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// Runs `calls` with one deadline for all calls to clients that it makes on this thread, connecting
/// included. A call then ends at that deadline or after its own time, whichever comes first, with
/// [`Error::TimedOut`](crate::Error::TimedOut); one that begins later sends nothing. Inside of
/// another `within` the earlier deadline counts. Threads that are started inside have none: begin
/// with `within` there, too.
///
/// Waiting for events is not limited, since it is given a deadline of its own. What takes longer by
/// nature does here too: a [multicast](crate::cpg::Client::multicast) in fragments while it makes
/// progress, and a [shutdown](crate::cfg::Client::try_shutdown) that others are asked about.
///
/// ```no_run
/// use std::time::Duration;
/// use corosync_ipc::{cmap, quorum, within};
///
/// // Both, or an error, in two seconds.
/// let (name, quorate) = within(Duration::from_secs(2), || {
///     let name = cmap::Client::connect()?.get_as::<String>("totem.cluster_name")?;
///     Ok::<_, corosync_ipc::Error>((name, quorum::Client::connect()?.is_quorate()?))
/// })?;
/// # let _ = (name, quorate);
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
pub fn within<T>(deadline: impl Into<Deadline>, calls: impl FnOnce() -> T) -> T {
    let _limit = deadline.into().instant().map(Limit::set);
    calls()
}

/// A deadline that all calls of this thread have in common while this lives.
pub(crate) struct Limit {
    before: Option<Instant>,
    _of_this_thread: PhantomData<*const ()>,
}

impl Limit {
    pub(crate) fn set(deadline: Instant) -> Self {
        let before = LIMIT.get();
        LIMIT.set(Some(before.map_or(deadline, |before| before.min(deadline))));
        Self { before, _of_this_thread: PhantomData }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        LIMIT.set(self.before);
    }
}

fn deadline_after(timeout: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now().checked_add(timeout.min(FAR)).unwrap_or_else(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_holds_for_every_call_until_it_ends() {
        let hour = Duration::from_secs(3600);
        let soon = Instant::now() + Duration::from_secs(1);
        let limit = Limit::set(soon);
        assert_eq!(Patience::new("call", hour).deadline, soon);
        assert!(Patience::new("call", Duration::ZERO).deadline < soon);
        // A later one inside does not put it off.
        drop(Limit::set(soon + hour));
        assert_eq!(Patience::new("call", hour).deadline, soon);
        drop(limit);
        assert!(Patience::new("call", hour).deadline > soon);
    }

    #[test]
    fn a_part_has_what_is_left_of_the_whole() {
        let whole = Patience::new("list", Duration::from_secs(1));
        let part = whole.step("get");
        assert_eq!(
            (part.call, part.deadline, part.timeout),
            ("get", whole.deadline, whole.timeout)
        );
        let mut longer = whole;
        longer.extend(Duration::from_secs(5));
        assert_eq!(
            (longer.timeout, longer.deadline - whole.deadline),
            (Duration::from_secs(6), Duration::from_secs(5))
        );
    }
}
