//! The four modes of dispatching: the next step after each look at the events. All services share
//! one implementation.

/// How [`dispatch`](crate::ServiceClient::dispatch) goes about the events that wait. Matches
/// `cs_dispatch_flags_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Dispatch {
    /// Hands over one event, and waits for it. `CS_DISPATCH_ONE`
    One = 1,
    /// Hands over every event that waits and does not wait for any. `CS_DISPATCH_ALL`
    All = 2,
    /// Hands over events until the handler breaks or the connection ends. `CS_DISPATCH_BLOCKING`
    Blocking = 3,
    /// Hands over at most one event; when none waits the result is
    /// [`CsError::TryAgain`](crate::CsError::TryAgain). `CS_DISPATCH_ONE_NONBLOCKING`
    OneNonblocking = 4,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look for an event; wait for one if there is none.
    Wait,
    /// Look for an event, but do not wait.
    Look,
    /// Return, all is well.
    Done,
    /// Return `CS_ERR_TRY_AGAIN`.
    TryAgain,
}

impl Dispatch {
    /// How to begin.
    pub(crate) fn start(self) -> Next {
        match self {
            Self::One | Self::Blocking => Next::Wait,
            Self::All | Self::OneNonblocking => Next::Look,
        }
    }

    /// Whether a message counts that becomes no event: as in C, where `CS_DISPATCH_ONE` is done
    /// with a fragment.
    pub(crate) fn counts_messages(self) -> bool {
        matches!(self, Self::One | Self::OneNonblocking)
    }

    /// An event was handed over, or a message that counts was taken.
    pub(crate) fn taken(self) -> Next {
        match self {
            Self::One | Self::OneNonblocking => Next::Done,
            Self::All => Next::Look,
            Self::Blocking => Next::Wait,
        }
    }

    /// No event waits.
    pub(crate) fn nothing_waits(self) -> Next {
        match self {
            Self::One | Self::Blocking => Next::Wait,
            Self::All => Next::Done,
            Self::OneNonblocking => Next::TryAgain,
        }
    }
}
