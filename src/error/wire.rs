//! Malformed messages.

/// How a message is malformed. Small and comparable, so that a test can assert it exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("{message}: {field} at offset {offset} needs {need} bytes, but {have} are left")]
    Truncated {
        /// C name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins, in bytes from the start of the message.
        offset: usize,
        /// Bytes the field needs.
        need: usize,
        /// Bytes left in the message.
        have: usize,
    },
    /// A size, count or length is larger than the protocol or the message allows.
    #[error("{message}: {field} at offset {offset} is {value}, more than {limit}")]
    TooLarge {
        /// C name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins, in bytes from the start of the message.
        offset: usize,
        /// The value, read or to be written.
        value: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// A field has an invalid value.
    #[error("{message}: {field} at offset {offset} has the invalid value {value}")]
    Invalid {
        /// C name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins, in bytes from the start of the message.
        offset: usize,
        /// The value.
        value: i64,
    },
    /// The message id is unknown.
    #[error("{message}: unknown message id {id}")]
    UnknownId {
        /// The kind of message.
        message: &'static str,
        /// The id.
        id: i32,
    },
}
