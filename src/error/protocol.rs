//! Violations of the protocol.

use super::WireError;

/// How the peer violates the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A message is malformed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A ring is malformed.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A ring's name in the connection reply is not one of libqb's, or is outside of the shared
    /// memory directory.
    #[error(
        "the {ring} ring has an invalid name, or is outside of the shared memory directory (see --shm-root)"
    )]
    RingName {
        /// Which ring.
        ring: &'static str,
    },
    /// The rings are in different directories.
    #[error("the {ring} ring is in another directory than the request ring")]
    RingDirectory {
        /// Which ring.
        ring: &'static str,
    },
    /// The daemon chose the socket transport of libqb before 0.15, which is made of streams.
    #[error(
        "the daemon uses the stream sockets of libqb before 0.15, which this crate does not support"
    )]
    StreamTransport,
    /// The control file's name in the connection reply is not one of libqb's, or is outside of the
    /// shared memory directory.
    #[error(
        "the control file has an invalid name, or is outside of the shared memory directory (see --shm-root)"
    )]
    ControlName,
    /// The name of the datagram sockets in the connection reply does not belong to the control
    /// file, or does not fit in a socket's address.
    #[error("the name of the datagram sockets does not belong to the control file, or is too long")]
    SocketName,
    /// A datagram is longer than the connection's messages.
    #[error("a datagram of the {direction} socket has {size} bytes, more than {limit}")]
    DatagramSize {
        /// Which direction.
        direction: &'static str,
        /// Its size.
        size: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// A message of a socket carries file descriptors, which no message does.
    #[error("a message carries file descriptors")]
    Descriptors,
    /// The daemon chose an unknown transport.
    #[error("unknown transport {0}")]
    Transport(i32),
    /// The daemon sends more than is accepted.
    #[error("more than {limit} {what}")]
    Endless {
        /// What it sends too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// How a ring in shared memory is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A file of the ring is too small.
    #[error("the {ring} ring's {file} file has {have} bytes, needs {need}")]
    TooSmall {
        /// Which ring.
        ring: &'static str,
        /// Which of its two files.
        file: &'static str,
        /// Bytes it has.
        have: u64,
        /// Bytes it needs.
        need: u64,
    },
    /// Another connection uses the ring.
    #[error("the {ring} ring is in use by another connection")]
    InUse {
        /// Which ring.
        ring: &'static str,
    },
    /// The ring is larger than accepted.
    #[error("the {ring} ring has {have} bytes, more than {limit}")]
    TooLarge {
        /// Which ring.
        ring: &'static str,
        /// Bytes it has.
        have: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// An index points past the end of the ring.
    #[error("an index of the {ring} ring is {index}, but the ring has {words} words")]
    Index {
        /// Which ring.
        ring: &'static str,
        /// The index.
        index: u32,
        /// Words in the ring.
        words: u32,
    },
    /// The semaphore announced a chunk, but there is none.
    #[error("invalid chunk magic {magic:#010x} in the {ring} ring")]
    Magic {
        /// Which ring.
        ring: &'static str,
        /// The word found.
        magic: u32,
    },
    /// A file of the ring was truncated, or its file system is full. Detected only after
    /// [`guard_against_truncation`](crate::guard_against_truncation); without it the process is
    /// killed.
    #[error("a file of the {ring} ring was truncated")]
    Truncated {
        /// Which ring.
        ring: &'static str,
    },
    /// A chunk is larger than the ring.
    #[error("a chunk of the {ring} ring has {size} bytes, more than {limit}")]
    ChunkSize {
        /// Which ring.
        ring: &'static str,
        /// Its size.
        size: u32,
        /// The largest possible.
        limit: u32,
    },
}
