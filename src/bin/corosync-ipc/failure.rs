//! Failures of the command: one line on standard error and an exit status.

use std::collections::HashSet;

use corosync_ipc::{CsError, Error};
use serde_json::{Value as Json, json};

/// Why the command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of the output is gone. Not an error.
    OutputClosed,
    /// The output is complete; this is the exit status.
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
const REFUSED: u8 = 1;
/// The command was called wrongly.
pub(crate) const USAGE: u8 = 2;
/// No daemon can be reached.
const UNREACHABLE: u8 = 3;
/// The daemon did not answer in time.
pub(crate) const TIMED_OUT: u8 = 4;
/// The state that `--check` asks for does not hold.
const NOT_SO: u8 = 5;

/// The result of `--check`.
pub(crate) fn check(is_so: bool) -> Result<(), Failure> {
    if is_so { Ok(()) } else { Err(Failure::Answer(NOT_SO)) }
}

impl Failure {
    /// The command was called wrongly.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self::Failed { status: USAGE, text: text.into() }
    }

    /// The daemon, a service or the system refused or failed.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Failed { status: REFUSED, text: text.into() }
    }

    /// Whether the daemon did not answer in time. Another call would time out too.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Failed { status: TIMED_OUT, .. })
    }

    /// Prefixes the text with what was being done.
    pub(crate) fn while_at(self, what: &str) -> Self {
        match self {
            Self::Failed { status, text } => {
                Self::Failed { status, text: format!("{what}: {text}") }
            }
            other => other,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed {
            status: status(&error),
            text: describe(&error) + hint(&error).unwrap_or_default(),
        }
    }
}

/// What to try when nobody listens, or when this process cannot reach what the daemon made for it.
fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::NoSocket { .. } => {
            Some("; `corosync-ipc doctor` finds the reason, --embedded needs no corosync")
        }
        Error::RingsNotVisible { .. } | Error::SocketsNotVisible { .. } => {
            Some("; `corosync-ipc doctor` says what to share")
        }
        _ => None,
    }
}

/// The exit status for an error of the library.
pub(crate) fn status(error: &Error) -> u8 {
    match error {
        Error::InvalidArgument { .. } | Error::Unencodable { .. } => USAGE,
        Error::TimedOut { .. } => TIMED_OUT,
        // The library repeats such a request until the deadline.
        Error::Cs { error: CsError::TryAgain, .. } => TIMED_OUT,
        Error::PartlySent { source, .. } => status(source),
        error if error.is_unreachable() => UNREACHABLE,
        _ => REFUSED,
    }
}

/// One line: the error, its sources and the cs_error.
pub(crate) fn describe(error: &Error) -> String {
    let text = error.with_sources().to_string();
    let error = match error {
        // The cause.
        Error::PartlySent { source, .. } => source,
        error => error,
    };
    match error {
        // The text has it already, or the caller is wrong and no daemon returned it.
        Error::Cs { .. } | Error::InvalidArgument { .. } | Error::Unencodable { .. } => text,
        error => format!("{text} ({})", error.cs_error()),
    }
}

/// Why one part of an answer is missing.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    status: u8,
    text: String,
    cs_error: Option<&'static str>,
    /// Added to the line on standard error.
    hint: Option<&'static str>,
}

impl Fault {
    /// The text that stands in the answer in place of the part.
    pub(crate) fn text(&self) -> String {
        format!("failed: {}", self.text)
    }

    /// The fault as JSON.
    pub(crate) fn json(&self) -> Json {
        json!({ "error": self.text, "cs_error": self.cs_error })
    }
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let cs_error = error.cs_error().c_name();
        Self { status: status(error), text: describe(error), cs_error, hint: hint(error) }
    }
}

/// The missing parts of an answer, by name, and why they are missing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Vec<(String, Fault)>);

impl Faults {
    pub(crate) fn add(&mut self, part: impl Into<String>, fault: Fault) {
        self.0.push((part.into(), fault));
    }

    /// Adds faults of further parts. A cause that is there already is not added again.
    pub(crate) fn extend(&mut self, faults: Self) {
        let known: HashSet<String> =
            self.0.iter().flat_map(|(part, fault)| [part, &fault.text]).cloned().collect();
        let new =
            |(part, fault): &(String, Fault)| !known.contains(part) && !known.contains(&fault.text);
        self.0.extend(faults.0.into_iter().filter(new));
    }

    pub(crate) fn get(&self, part: &str) -> Option<&Fault> {
        self.0.iter().find_map(|(name, fault)| (name == part).then_some(fault))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An object with a member for each part.
    pub(crate) fn json(&self) -> Json {
        Json::Object(self.0.iter().map(|(part, fault)| (part.clone(), fault.json())).collect())
    }

    /// Without hints, for a command that prints its own.
    pub(crate) fn without_hints(mut self) -> Self {
        self.0.iter_mut().for_each(|(_, fault)| fault.hint = None);
        self
    }

    /// The result of the command. `answered`: whether any part was answered.
    pub(crate) fn judge(&self, answered: bool) -> Result<(), Failure> {
        let statuses = || self.0.iter().map(|(_, fault)| fault.status);
        let status = if !answered && statuses().all(|status| status == UNREACHABLE) {
            UNREACHABLE
        } else if statuses().any(|status| status == TIMED_OUT) {
            TIMED_OUT
        } else {
            REFUSED
        };
        // The fault that decides the exit status.
        let Some((part, fault)) =
            self.0.iter().find(|(_, fault)| fault.status == status).or(self.0.first())
        else {
            return Ok(());
        };
        // Without any answer, the part does not matter.
        let part = if answered { format!("{part}: ") } else { String::new() };
        let more = if answered && self.0.len() > 1 {
            format!(" (and {} more)", self.0.len() - 1)
        } else {
            String::new()
        };
        let hint = fault.hint.filter(|_| !answered).unwrap_or_default();
        Err(Failure::Failed { status, text: format!("{part}{}{more}{hint}", fault.text) })
    }
}

impl<const N: usize> From<[(&str, Fault); N]> for Faults {
    fn from(faults: [(&str, Fault); N]) -> Self {
        Self(faults.map(|(part, fault)| (part.to_owned(), fault)).into())
    }
}

/// Explains a cs_error of the daemon.
pub(crate) trait Explain<T> {
    /// Adds the hint to the line, if there is one.
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
    use std::time::Duration;

    use corosync_ipc::SocketAddress;

    use super::*;

    #[test]
    fn a_line_has_the_cause_and_the_cs_error_once() {
        let refused = io::Error::from_raw_os_error(111);
        let address = SocketAddress::Abstract("cmap".to_owned());
        let error = Error::NoSocket { service: "cmap".into(), address, source: refused };
        let line = describe(&error);
        assert!(line.ends_with(": Connection refused (os error 111) (CS_ERR_LIBRARY)"), "{line}");
        assert_eq!(status(&error), UNREACHABLE);

        let error = Error::Cs { call: "cmap set".into(), error: CsError::Access };
        assert_eq!(describe(&error), "cmap set: CS_ERR_ACCESS");
        assert_eq!(status(&error), REFUSED);
    }

    #[test]
    fn parts_that_fail_decide_how_the_command_ends() {
        let gone = Error::Disconnected { service: "cfg".into(), truncated: None, stage: None };
        let late =
            Error::TimedOut { operation: "x".into(), after: Duration::from_secs(1), stage: None };
        let refused = Error::Cs { call: "x".into(), error: CsError::Access };
        let ends = |errors: &[&Error], answered| {
            let mut faults = Faults::default();
            errors
                .iter()
                .enumerate()
                .for_each(|(part, error)| faults.add(format!("part {part}"), Fault::from(*error)));
            match faults.judge(answered) {
                Ok(()) => (0, String::new()),
                Err(Failure::Failed { status, text }) => (status, text),
                Err(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(ends(&[], true).0, 0);
        assert_eq!(ends(&[&gone, &gone], false).0, UNREACHABLE);
        assert_eq!(ends(&[&gone, &gone], true).0, REFUSED);
        assert_eq!(ends(&[&gone, &refused], false).0, REFUSED);
        assert_eq!(ends(&[&refused, &late, &gone], true).0, TIMED_OUT);
        assert_eq!(ends(&[&gone, &late], false).0, TIMED_OUT);
        assert_eq!(ends(&[&refused], true).1, "part 0: x: CS_ERR_ACCESS");
        assert_eq!(ends(&[&refused], false).1, "x: CS_ERR_ACCESS");
        assert!(ends(&[&refused, &late], true).1.starts_with("part 1: x timed out"));
        assert!(ends(&[&refused, &late], true).1.ends_with("(and 1 more)"));
    }

    #[test]
    fn a_message_that_was_cut_off_ends_as_what_cut_it_off() {
        let late =
            Error::TimedOut { operation: "x".into(), after: Duration::from_secs(1), stage: None };
        assert_eq!(
            status(&Error::PartlySent { sent: 1, length: 2, source: Box::new(late) }),
            TIMED_OUT
        );
    }

    #[test]
    fn a_state_of_the_cluster_is_not_wrong_usage() {
        let full =
            Error::WouldCrash { call: "cpg join".into(), reason: "the group is full".into() };
        assert_eq!(status(&full), REFUSED);
        let invalid = Error::InvalidArgument { argument: "group", reason: "is empty".into() };
        assert_eq!(status(&invalid), USAGE);
    }

    #[test]
    fn a_hint_follows_the_error_of_the_daemon_only() {
        let line = |error: Error| match Err::<(), _>(error).explain(|_| Some("hint".to_owned())) {
            Err(Failure::Failed { text, .. }) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            line(Error::Cs { call: "x".into(), error: CsError::Busy }),
            "x: CS_ERR_BUSY: hint"
        );
        assert_eq!(line(Error::Finalized), "the client was finalized (CS_ERR_BAD_HANDLE)");
    }
}
