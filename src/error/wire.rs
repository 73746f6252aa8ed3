//! What is wrong with a message.

/// Why bytes are not the message they should be. Small and comparable, so that a test can assert it
/// exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end inside a field.
    #[error("{message}: {field} at offset {offset} needs {need} bytes, {have} are there")]
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
    /// A size, count or length is beyond what the protocol or the message allows.
    #[error("{message}: {field} at offset {offset} is {value}, more than {limit}")]
    TooLarge {
        /// C name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins, in bytes from the start of the message.
        offset: usize,
        /// The value found, or asked to be encoded.
        value: u64,
        /// The largest value allowed.
        limit: u64,
    },
    /// A field holds a value that has no meaning there.
    #[error("{message}: {field} at offset {offset} holds {value}, which is not valid there")]
    Invalid {
        /// C name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins, in bytes from the start of the message.
        offset: usize,
        /// The value found.
        value: i64,
    },
    /// A message id no table lists.
    #[error("{message}: unknown message id {id}")]
    UnknownId {
        /// Which kind of message it should have been.
        message: &'static str,
        /// The id found.
        id: i32,
    },
}
