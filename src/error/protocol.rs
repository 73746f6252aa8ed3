//! What a peer gets wrong.

use super::WireError;

/// What was wrong with the peer's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A message is not what it should be.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A ring is not what it should be.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// A ring's name in the connection reply is not one that libqb gives, or leads out of the
    /// shared memory directory.
    #[error(
        "the name of the {ring} ring leads out of the shared memory directory (see --shm-root), or is no ring's name"
    )]
    RingName {
        /// Which ring.
        ring: &'static str,
    },
    /// The rings do not lie in one directory.
    #[error("the {ring} ring lies in another directory than the request ring")]
    RingDirectory {
        /// Which ring.
        ring: &'static str,
    },
    /// The daemon chose the socket transport of libqb before 0.15, which is made of streams.
    #[error(
        "the daemon uses the stream sockets of libqb before 0.15, which this crate does not speak"
    )]
    StreamTransport,
    /// The control file's name in the connection reply is not one that libqb gives, or leads out of
    /// the shared memory directory.
    #[error(
        "the name of the control file leads out of the shared memory directory, or is not one of libqb's"
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
    /// The daemon chose a transport that is not known.
    #[error("unknown transport {0}")]
    Transport(i32),
    /// The daemon goes on without end.
    #[error("more than {limit} {what}")]
    Endless {
        /// What there is too much of.
        what: &'static str,
        /// How much is accepted.
        limit: u64,
    },
}

/// What was wrong with a ring in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A file of the ring is smaller than it must be.
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
    /// Somebody else uses the ring: it is of another connection.
    #[error("the {ring} ring is in use by another connection")]
    InUse {
        /// Which ring.
        ring: &'static str,
    },
    /// The ring is larger than any that is accepted.
    #[error("the {ring} ring has {have} bytes, more than {limit}")]
    TooLarge {
        /// Which ring.
        ring: &'static str,
        /// Bytes it has.
        have: u64,
        /// Bytes it may have.
        limit: u64,
    },
    /// An index points behind the end of the ring.
    #[error("an index of the {ring} ring is {index}, the ring has {words} words")]
    Index {
        /// Which ring.
        ring: &'static str,
        /// The index.
        index: u32,
        /// Words in the ring.
        words: u32,
    },
    /// The semaphore announced a chunk that is not there.
    #[error("the {ring} ring has magic {magic:#010x} where a chunk should begin")]
    Magic {
        /// Which ring.
        ring: &'static str,
        /// The word found.
        magic: u32,
    },
    /// A file of the ring was cut short, or its file system is full. Noticed only after
    /// [`guard_against_truncation`](crate::guard_against_truncation); without that, the process is
    /// killed.
    #[error("a file of the {ring} ring was cut short")]
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
