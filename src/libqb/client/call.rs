//! The description of a call: its name, its deadline, and when it waits for a busy daemon.

use std::cell::Cell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use crate::endpoint::{Deadline, Endpoint, later};
use crate::error::CsError;

/// When the daemon is too busy for a request. The values are what `qb_ipcc_fc_enable_max_set`
/// takes: the largest flow control word that refuses the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FlowControl {
    /// Refused while the daemon takes no requests at all: every request but a multicast.
    Request = 1,
    /// Refused also while totem's queue is full or the cluster synchronizes: multicasts.
    Multicast = 2,
}

/// How long to wait for room for a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) flow: FlowControl,
    pub(super) deadline: Instant,
    /// Whether to wait while the daemon is too busy for the message.
    pub(super) waits: bool,
}

/// A call of the user. It has one deadline, whatever requests it makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The name in errors and in the log.
    pub(crate) name: &'static str,
    /// The time from the beginning to the deadline, for errors.
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
    pub(super) flow: FlowControl,
    /// Whether to wait while the daemon is too busy for the request. See
    /// [`Endpoint::wait_while_busy`].
    pub(super) waits: bool,
    /// The answers that mean that the daemon was busy and did not carry the request out.
    busy: &'static [CsError],
}

thread_local! {
    static LIMIT: Cell<Option<Instant>> = const { Cell::new(None) };
}

impl Call {
    /// A call that begins now and ends after `timeout`, but not beyond the [`Limit`] of this
    /// thread.
    pub(super) fn new(name: &'static str, timeout: Duration, waits: bool) -> Self {
        let deadline = later(Instant::now(), timeout);
        let deadline = LIMIT.get().map_or(deadline, |limit| limit.min(deadline));
        let flow = FlowControl::Request;
        Self { name, timeout, deadline, flow, waits, busy: &[CsError::TryAgain] }
    }

    /// The call that connects, with the requests that it makes before there is a client.
    pub(crate) fn connecting(endpoint: &Endpoint) -> Self {
        Self::new("connecting", endpoint.connect_timeout_value(), endpoint.waits_while_busy())
    }

    /// A call that asks several services, with the time of one request.
    pub(crate) fn request(endpoint: &Endpoint, name: &'static str) -> Self {
        Self::new(name, endpoint.request_timeout_value(), endpoint.waits_while_busy())
    }

    /// A part of the call, which has a name of its own and the same deadline.
    pub(crate) fn step(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// The same call with other answers that mean that the daemon was busy. The default is
    /// `CS_ERR_TRY_AGAIN`.
    pub(crate) fn busy_when(self, answers: &'static [CsError]) -> Self {
        Self { busy: answers, ..self }
    }

    /// The same call as a multicast.
    pub(crate) fn multicast(self) -> Self {
        Self { flow: FlowControl::Multicast, ..self }
    }

    /// The same call, which waits while the daemon is too busy whatever the endpoint says.
    pub(crate) fn patient(self) -> Self {
        Self { waits: true, ..self }
    }

    pub(super) fn limits(self) -> Limits {
        Limits { flow: self.flow, deadline: self.deadline, waits: self.waits }
    }

    /// The same call without waiting: its deadline is now.
    pub(crate) fn at_once(self) -> Self {
        Self { deadline: Instant::now(), ..self }
    }

    /// Adds to the time.
    pub(crate) fn extend(&mut self, by: Duration) {
        self.timeout = self.timeout.saturating_add(by);
        self.deadline = self.deadline.checked_add(by).unwrap_or(self.deadline);
    }

    /// Restarts the timeout, after progress.
    pub(crate) fn renew(&mut self) {
        self.deadline = later(Instant::now(), self.timeout);
    }

    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }

    /// Whether to send the request again after an answer with this status.
    pub(super) fn is_busy(&self, status: i32) -> bool {
        let error = CsError::from_raw(status);
        self.busy.contains(&error) && (self.waits || error != CsError::TryAgain)
    }
}

/// Runs `calls` with one deadline for all client calls that it makes on this thread, connecting
/// included. A call ends at that deadline or after its own timeout, whichever comes first, with
/// [`Error::TimedOut`](crate::Error::TimedOut). A call that begins after the deadline sends
/// nothing. Inside another `within` the earlier deadline counts. Threads that are started inside
/// have no such deadline: call `within` there too.
///
/// Waits for events are not limited, since they have a deadline of their own. Two calls may go
/// beyond the deadline: a [multicast](crate::cpg::Client::multicast) in fragments while it makes
/// progress, and a [shutdown](crate::cfg::Client::try_shutdown) that the daemon asks other clients
/// about.
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

/// A deadline for all calls of this thread while this lives.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &'static str, timeout: Duration) -> Call {
        Call::new(name, timeout, true)
    }

    #[test]
    fn a_limit_holds_for_every_call_until_it_ends() {
        let hour = Duration::from_secs(3600);
        let soon = Instant::now() + Duration::from_secs(1);
        let limit = Limit::set(soon);
        assert_eq!(call("call", hour).deadline, soon);
        assert!(call("call", Duration::ZERO).deadline < soon);
        // A later deadline inside does not extend it.
        drop(Limit::set(soon + hour));
        assert_eq!(call("call", hour).deadline, soon);
        drop(limit);
        assert!(call("call", hour).deadline > soon);
    }

    #[test]
    fn a_part_has_what_is_left_of_the_whole() {
        let whole = call("list", Duration::from_secs(1));
        let part = whole.step("get");
        assert_eq!(
            (part.name, part.deadline, part.timeout),
            ("get", whole.deadline, whole.timeout)
        );
        let mut longer = whole;
        longer.extend(Duration::from_secs(5));
        assert_eq!(
            (longer.timeout, longer.deadline - whole.deadline),
            (Duration::from_secs(6), Duration::from_secs(5))
        );
    }

    #[test]
    fn busy_answers_are_waited_for_unless_the_endpoint_says_otherwise() {
        let busy = |call: Call, error: CsError| call.is_busy(error.raw());
        let patient = Call::new("call", Duration::ZERO, true);
        let hasty = Call::new("call", Duration::ZERO, false);
        assert!(busy(patient, CsError::TryAgain) && !busy(patient, CsError::Busy));
        assert!(!busy(hasty, CsError::TryAgain) && busy(hasty.patient(), CsError::TryAgain));
        const BOTH: &[CsError] = &[CsError::TryAgain, CsError::Busy];
        assert!(busy(patient.busy_when(BOTH), CsError::TryAgain));
        assert!(busy(hasty.busy_when(BOTH), CsError::Busy));
        assert!(!busy(hasty.busy_when(BOTH), CsError::TryAgain));
        assert!(!busy(patient.busy_when(&[]), CsError::TryAgain));
    }
}
