//! Why a part of a snapshot is missing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::error::Error;

/// Why a part is missing.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Fault {
    /// What went wrong, on one line: [`Fault::describe`].
    pub error: String,
    /// The name of the cs_error in C, such as `CS_ERR_ACCESS`. `None` for a number without a name.
    pub cs_error: Option<String>,
    /// The error itself. `None` in a fault that was deserialized.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub source: Option<Arc<Error>>,
}

/// The parts that are missing, by name, and why they are.
pub type Faults = BTreeMap<String, Fault>;

impl Fault {
    /// An error on one line: the error, its sources and its cs_error.
    pub fn describe(error: &Error) -> String {
        let text = error.with_sources().to_string();
        let error = match error {
            // The cause.
            Error::PartlySent { source, .. } | Error::NotAllSent { source, .. } => source,
            error => error,
        };
        match error {
            // The text has it already, or the caller is wrong and no daemon returned it.
            Error::Cs { .. } | Error::InvalidArgument { .. } | Error::Unencodable { .. } => text,
            error => format!("{text} ({})", error.cs_error()),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self {
            error: Self::describe(&error),
            cs_error: error.cs_error().c_name().map(str::to_owned),
            source: Some(Arc::new(error)),
        }
    }
}

/// The line.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.error)
    }
}

/// Two faults are equal when they read the same.
impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        (&self.error, &self.cs_error) == (&other.error, &other.cs_error)
    }
}

/// Adds faults of further parts. A cause that is there already is not added again.
pub(super) fn add_new(faults: &mut Faults, more: Faults) {
    let known: Vec<String> = faults.values().map(|fault| fault.error.clone()).collect();
    for (part, fault) in more {
        if !known.contains(&fault.error) {
            faults.entry(part).or_insert(fault);
        }
    }
}
