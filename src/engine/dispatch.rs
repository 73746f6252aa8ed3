//! What the four ways of dispatching do after each look at the events. One implementation for all services.

use crate::types::Dispatch;

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

    /// Whether a message counts that becomes no event: as in C, where `CS_DISPATCH_ONE` is done with a fragment.
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
