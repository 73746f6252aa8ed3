//! Failures of the command: one line on standard error and an exit status.

use std::mem;

use corosync_ipc::snapshot::{Fault, Faults, Service, Snapshot};
use corosync_ipc::{CsError, Error};
use nix::sys::signal::Signal;

/// Why the command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The reader of the output is gone. Not an error.
    OutputClosed,
    /// The output is complete; this is the exit status.
    Answer(u8),
    /// A signal ended it, which the process then dies of.
    Signal(Signal),
    /// Something failed.
    Failed {
        /// The exit status.
        status: u8,
        /// The line for standard error.
        text: String,
        /// The name of the cs_error in C, if there is one.
        cs_error: Option<String>,
    },
}

/// The daemon or a service refused or failed.
const REFUSED: u8 = 1;
/// The command was called wrongly.
pub(crate) const USAGE: u8 = 2;
/// No daemon can be reached.
pub(crate) const UNREACHABLE: u8 = 3;
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
        Self::Failed { status: USAGE, text: text.into(), cs_error: None }
    }

    /// The daemon, a service or the system refused or failed.
    pub(crate) fn refused(text: impl Into<String>) -> Self {
        Self::Failed { status: REFUSED, text: text.into(), cs_error: None }
    }

    /// Whether the daemon did not answer in time. Another call would time out too.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Failed { status: TIMED_OUT, .. })
    }

    /// Prefixes the text with what was being done.
    pub(crate) fn while_at(self, what: &str) -> Self {
        self.map_text(|text| format!("{what}: {text}"))
    }

    /// Changes the text.
    pub(crate) fn map_text(mut self, change: impl FnOnce(String) -> String) -> Self {
        if let Self::Failed { text, .. } = &mut self {
            *text = change(mem::take(text));
        }
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed {
            status: status(&error),
            text: Fault::describe(&error) + hint(&error).unwrap_or_default(),
            cs_error: error.cs_error().c_name().map(str::to_owned),
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
        Error::PartlySent { source, .. } | Error::NotAllSent { source, .. } => status(source),
        error if error.is_unreachable() => UNREACHABLE,
        _ => REFUSED,
    }
}

/// The exit status for a part that is missing.
fn fault_status(fault: &Fault) -> u8 {
    fault.source.as_deref().map_or(REFUSED, status)
}

/// The text that stands in the answer in place of the part.
pub(crate) fn fault_text(fault: &Fault) -> String {
    format!("failed: {fault}")
}

/// The result of a command of several parts. `answered`: whether any part was answered.
pub(crate) fn judge<'a>(
    faults: impl IntoIterator<Item = (&'a str, &'a Fault)>,
    answered: bool,
) -> Result<(), Failure> {
    let faults: Vec<_> = faults.into_iter().collect();
    let statuses = || faults.iter().map(|(_, fault)| fault_status(fault));
    let status = if !answered && statuses().all(|status| status == UNREACHABLE) {
        UNREACHABLE
    } else if statuses().any(|status| status == TIMED_OUT) {
        TIMED_OUT
    } else {
        REFUSED
    };
    // The fault that decides the exit status.
    let decides = |(_, fault): &&(&str, &Fault)| fault_status(fault) == status;
    let Some((part, fault)) = faults.iter().find(decides).or(faults.first()) else {
        return Ok(());
    };
    // Without any answer, the part does not matter.
    let part = if answered { format!("{part}: ") } else { String::new() };
    let more = if answered && faults.len() > 1 {
        format!(" (and {} more)", faults.len() - 1)
    } else {
        String::new()
    };
    let text = format!("{part}{fault}{more}");
    Err(Failure::Failed { status, text, cs_error: fault.cs_error.clone() })
}

/// The faults of a snapshot and of its services, for [`judge`]. A service whose fault explains a
/// missing part is not told again.
pub(crate) fn faults(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &Fault)> {
    let is_new = |fault: &Fault| snapshot.errors.values().all(|known| known != fault);
    let services = service_faults(&snapshot.services);
    parts(&snapshot.errors).chain(services.filter(move |(_, fault)| is_new(fault)))
}

/// Missing parts, for [`judge`].
pub(crate) fn parts(faults: &Faults) -> impl Iterator<Item = (&str, &Fault)> {
    faults.iter().map(|(part, fault)| (part.as_str(), fault))
}

/// The services that do not answer although they should, for [`judge`].
pub(crate) fn service_faults(services: &[Service]) -> impl Iterator<Item = (&str, &Fault)> {
    services.iter().filter_map(|service| Some((&*service.service, service.fault()?)))
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
            let failure = Failure::from(error);
            match hint {
                Some(hint) => failure.map_text(|text| format!("{text}: {hint}")),
                None => failure,
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
        let line = Fault::describe(&error);
        assert!(line.ends_with(": Connection refused (os error 111) (CS_ERR_LIBRARY)"), "{line}");
        assert_eq!(status(&error), UNREACHABLE);

        let error = Error::Cs { call: "cmap set".into(), error: CsError::Access };
        assert_eq!(Fault::describe(&error), "cmap set: CS_ERR_ACCESS");
        assert_eq!(status(&error), REFUSED);
    }

    #[test]
    fn parts_that_fail_decide_how_the_command_ends() {
        let gone =
            || Error::Disconnected { service: "cfg".into(), truncated: None, stage: None }.into();
        let late = || {
            let after = Duration::from_secs(1);
            Error::TimedOut { operation: "x".into(), after, stage: None }.into()
        };
        let refused = || Error::Cs { call: "x".into(), error: CsError::Access }.into();
        let ends = |faults: &[Fault], answered| {
            let parts = ["part 0", "part 1", "part 2"].into_iter().zip(faults);
            match judge(parts, answered) {
                Ok(()) => (0, String::new()),
                Err(Failure::Failed { status, text, .. }) => (status, text),
                Err(other) => panic!("{other:?}"),
            }
        };
        assert_eq!(ends(&[], true).0, 0);
        assert_eq!(ends(&[gone(), gone()], false).0, UNREACHABLE);
        assert_eq!(ends(&[gone(), gone()], true).0, REFUSED);
        assert_eq!(ends(&[gone(), refused()], false).0, REFUSED);
        assert_eq!(ends(&[refused(), late(), gone()], true).0, TIMED_OUT);
        assert_eq!(ends(&[gone(), late()], false).0, TIMED_OUT);
        assert_eq!(ends(&[refused()], true).1, "part 0: x: CS_ERR_ACCESS");
        assert_eq!(ends(&[refused()], false).1, "x: CS_ERR_ACCESS");
        assert!(ends(&[refused(), late()], true).1.starts_with("part 1: x timed out"));
        assert!(ends(&[refused(), late()], true).1.ends_with("(and 1 more)"));
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
