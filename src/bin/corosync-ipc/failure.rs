//! How the command ends when something goes wrong: one line on standard error, and an exit status.

use std::error::Error as _;
use std::process::ExitCode;

use corosync_ipc::{CsError, Error};

use crate::output;

/// Why the command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody reads the output any more: nothing is wrong, and nothing is left to do.
    OutputClosed,
    /// Everything else was said; this exit status says the rest.
    Answer(u8),
    /// Something failed.
    Failed {
        /// The exit status.
        status: u8,
        /// The line for standard error.
        text: String,
    },
}

/// The daemon or a service refused or failed.
pub(crate) const REFUSED: u8 = 1;
/// The command was called wrongly.
pub(crate) const USAGE: u8 = 2;
/// No daemon can be reached.
pub(crate) const UNREACHABLE: u8 = 3;
/// The daemon did not answer in time.
pub(crate) const TIMED_OUT: u8 = 4;

impl Failure {
    /// The user asked for what makes no sense.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Failed { status: USAGE, text: text.into() }
    }

    /// The daemon, a service or the system refused or failed.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Failed { status: REFUSED, text: text.into() }
    }

    /// Puts in front what was being done.
    pub(crate) fn while_at(self, what: &str) -> Self {
        match self {
            Self::Failed { status, text } => Self::Failed { status, text: format!("{what}: {text}") },
            other => other,
        }
    }

    /// Ends the command.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::OutputClosed => ExitCode::SUCCESS,
            Self::Answer(status) => ExitCode::from(status),
            Self::Failed { status, text } => {
                output::complain(&text);
                ExitCode::from(status)
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed { status: status(&error), text: describe(&error) }
    }
}

/// The exit status for an error of the library.
pub(crate) fn status(error: &Error) -> u8 {
    match error {
        Error::InvalidArgument { .. } => USAGE,
        Error::TimedOut { .. } => TIMED_OUT,
        // The library repeats such a request until its deadline.
        Error::Cs { error: CsError::TryAgain, .. } => TIMED_OUT,
        error if error.is_unreachable() => UNREACHABLE,
        _ => REFUSED,
    }
}

/// One line: what failed, what the system said, and the cs_error where there is one.
pub(crate) fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut details = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            details.push(said);
        }
        source = cause.source();
    }
    // What the caller did wrong has a number too, but no daemon gave it.
    let cs_error = error.cs_error().filter(|_| !matches!(error, Error::InvalidArgument { .. }));
    if let Some(name) = cs_error.map(CsError::c_name).filter(|name| !text.contains(name)) {
        details.push(name.to_owned());
    }
    if !details.is_empty() {
        text += &format!(" ({})", details.join(", "));
    }
    text
}

/// Says what a cs_error of the daemon means for what was asked.
pub(crate) trait Explain<T> {
    /// The hint is added to the line; `None` leaves it as it is.
    fn explain(self, hint: impl FnOnce(CsError) -> Option<String>) -> Result<T, Failure>;
}

impl<T> Explain<T> for Result<T, Error> {
    fn explain(self, hint: impl FnOnce(CsError) -> Option<String>) -> Result<T, Failure> {
        self.map_err(|error| {
            let hint = match &error {
                Error::Cs { error, .. } => hint(*error),
                _ => None,
            };
            match (Failure::from(error), hint) {
                (Failure::Failed { status, text }, Some(hint)) => {
                    Failure::Failed { status, text: format!("{text}: {hint}") }
                }
                (failure, _) => failure,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_line_has_the_cause_and_the_cs_error_once() {
        let refused = io::Error::from_raw_os_error(111);
        let error = Error::NoSocket { service: "cmap".into(), address: "@cmap".into(), source: refused };
        let line = describe(&error);
        assert!(line.ends_with(" (Connection refused (os error 111), CS_ERR_LIBRARY)"), "{line}");
        assert_eq!(status(&error), UNREACHABLE);

        let error = Error::Cs { call: "cmap set".into(), error: CsError::Access };
        assert_eq!(describe(&error), "cmap set: CS_ERR_ACCESS");
        assert_eq!(status(&error), REFUSED);
    }

    #[test]
    fn a_hint_follows_the_error_of_the_daemon_only() {
        let line = |error: Error| match Err::<(), _>(error).explain(|_| Some("hint".to_owned())) {
            Err(Failure::Failed { text, .. }) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(line(Error::Cs { call: "x".into(), error: CsError::Busy }), "x: CS_ERR_BUSY: hint");
        assert_eq!(line(Error::Finalized), "the client was finalized (CS_ERR_BAD_HANDLE)");
    }
}
