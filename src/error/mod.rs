//! What can go wrong, and what to look at then.

mod escaped;
mod wire;

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use self::escaped::Escaped;
pub use self::wire::WireError;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Each variant says who caused it; the text says what to look at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller gave a value that the protocol or corosync has no room for. Nothing was sent.
    #[error("{argument}: {reason}")]
    InvalidArgument {
        /// Which argument.
        argument: &'static str,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },

    /// The value of a key of cmap has another type than was asked for.
    #[error("the value of {key} has the type {found}, not {asked}")]
    WrongType {
        /// The key.
        key: String,
        /// The type of its value, as [`ValueType`](crate::cmap::ValueType) prints it.
        found: Cow<'static, str>,
        /// The Rust type that was asked for.
        asked: &'static str,
    },

    /// Nobody listens at the service's socket.
    #[error("no {service} socket at {address}: {}", where_else(address))]
    NoSocket {
        /// The service.
        service: Cow<'static, str>,
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },

    /// The user who serves may not: it is neither root, nor this process's user, nor one that
    /// [`Endpoint::server_uids`](crate::Endpoint::server_uids) names. No request was sent and no
    /// file was opened.
    #[error(
        "{service} is served by uid {uid} (process {pid}), which is neither root nor this user: if it is to be trusted, \
         allow it with --server-uid {uid}, COROSYNC_IPC_SERVER_UID={uid} or Endpoint::server_uids{}",
        unmapped(*uid, *is_unmapped)
    )]
    UntrustedServer {
        /// The service.
        service: Cow<'static, str>,
        /// Who serves.
        uid: u32,
        /// The process; 0 when it is in a pid namespace this one cannot see.
        pid: i32,
        /// Whether this is the number that all users have whom this process's user namespace does
        /// not map, such as the host's root in a rootless container.
        is_unmapped: bool,
    },

    /// The daemon named a file for a ring that may belong to somebody else or to another
    /// connection. It was not used.
    #[error("the ring file {}{} of {service} is refused: {fault}", path.display(), owned(*owner))]
    RingFile {
        /// The service.
        service: Cow<'static, str>,
        /// The file, or a directory on the way to it.
        path: PathBuf,
        /// Whom it belongs to; `None`: not known.
        owner: Option<u32>,
        /// What is wrong with it.
        fault: RingFileFault,
    },

    /// The daemon is there but did not take connections until the deadline: it is starting, or out
    /// of file descriptors.
    #[error(
        "the daemon takes no {service} connections yet (CS_ERR_TRY_AGAIN): it is starting, or has no file descriptors left"
    )]
    NotReady {
        /// The service.
        service: Cow<'static, str>,
    },

    /// The daemon refuses this user.
    #[error(
        "uid {uid} gid {gid} may not use {service} (CS_ERR_ACCESS): only root and corosync's own user may, \
         unless corosync.conf or a file in uidgid.d has a uidgid section for this user"
    )]
    NotAllowed {
        /// The service.
        service: Cow<'static, str>,
        /// This process's effective user id.
        uid: u32,
        /// This process's effective group id.
        gid: u32,
    },

    /// The daemon answered, but the rings it made cannot be opened here.
    #[error(
        "the daemon's ring {} cannot be opened: is its /dev/shm visible here (container, private /dev/shm), \
         and is this the same user?", path.display()
    )]
    RingsNotVisible {
        /// The file looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// The daemon found no room for the rings in /dev/shm.
    #[error(
        "/dev/shm is full: the daemon has no room for the rings of {service}; a smaller ring size needs less"
    )]
    SharedMemoryFull {
        /// The service.
        service: Cow<'static, str>,
    },

    /// The daemon refused the connection for another reason.
    #[error("the daemon refused a connection to {service}: {source}")]
    Refused {
        /// The service.
        service: Cow<'static, str>,
        /// The errno the daemon sent.
        source: io::Error,
    },

    /// The peer does not follow the protocol.
    #[error("the protocol of {service} is not understood: {source}")]
    Protocol {
        /// The service.
        service: Cow<'static, str>,
        /// What was wrong with its bytes.
        source: ProtocolError,
    },

    /// The deadline passed. Whether a request was carried out is not known.
    #[error("{operation} timed out after {after:?}: the daemon is stopped or overloaded")]
    TimedOut {
        /// What was waited for.
        operation: Cow<'static, str>,
        /// How long it was waited for.
        after: Duration,
    },

    /// The daemon ended or closed the connection, or a file of its rings was cut short. It does not
    /// come back: connect again.
    #[error("the connection to {service} is gone: {}", why_gone(*truncated))]
    Disconnected {
        /// The service.
        service: Cow<'static, str>,
        /// The ring of which a file was cut short, where that is why. Noticed only after
        /// [`guard_against_truncation`](crate::guard_against_truncation).
        truncated: Option<&'static str>,
    },

    /// The client was finalized by [`Client::finalize`](crate::Client::finalize).
    #[error("the client was finalized (CS_ERR_BAD_HANDLE)")]
    Finalized,

    /// The daemon answered with an error of its own.
    #[error("{call}: {error}")]
    Cs {
        /// What was asked.
        call: Cow<'static, str>,
        /// What it answered.
        error: CsError,
    },

    /// The daemon answered with an error that this version does not know.
    #[error("{call}: unknown cs_error {code}")]
    UnknownCs {
        /// What was asked.
        call: Cow<'static, str>,
        /// The number it answered.
        code: i32,
    },

    /// A message that is sent in fragments could not be sent to its end. Members throw away what
    /// they have of it.
    ///
    /// Only when the source does not tell whether the daemon took a fragment ([`Error::TimedOut`],
    /// [`Error::Disconnected`]) and that was the last one, members may have got all of it.
    #[error(
        "only {sent} of {length} bytes of a message were sent, so no member gets any of it: {source}"
    )]
    PartlySent {
        /// Bytes the daemon took for certain.
        sent: usize,
        /// Bytes of the message.
        length: usize,
        /// Why the next fragment could not be sent.
        source: Box<Error>,
    },

    /// The daemon is too old for this call. Nothing was sent: old daemons die of ids they do not
    /// know.
    #[error("{feature} needs corosync {since} or later, which this daemon is not")]
    Unsupported {
        /// What was asked for.
        feature: &'static str,
        /// The first corosync that has it.
        since: &'static str,
    },

    /// The request would crash this daemon as it is configured now. Nothing was sent.
    #[error("{call} was not sent, since it would crash corosync: {reason}")]
    WouldCrash {
        /// What was asked.
        call: Cow<'static, str>,
        /// What it would crash of, and what to do instead.
        reason: Cow<'static, str>,
    },

    /// The system failed.
    #[error("{operation}: {source}")]
    System {
        /// What was tried.
        operation: Cow<'static, str>,
        /// What the system said.
        source: io::Error,
    },
}

/// What was wrong with a file that the daemon named for a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingFileFault {
    /// It belongs to a third user.
    #[error("it belongs neither to this user (uid {own}) nor to the server (uid {server})")]
    Owner {
        /// This process's effective user id.
        own: u32,
        /// The user who serves.
        server: u32,
    },
    /// It belongs to this user, and the server to none who could have given it away.
    #[error(
        "it belongs to this user (uid {own}), which the server (uid {server}) cannot have arranged: it may be of another connection"
    )]
    Ours {
        /// This process's effective user id.
        own: u32,
        /// The user who serves.
        server: u32,
    },
    /// It is a link, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is a link or a file where a directory should be.
    #[error("not a directory, or a symbolic link to one")]
    NotADirectory,
    /// The file has other names.
    #[error("it has {0} hard links")]
    Links(u64),
    /// The same file was named for another part of the rings.
    #[error("it is named twice")]
    Twice,
}

fn unmapped(uid: u32, is_unmapped: bool) -> String {
    if is_unmapped {
        format!(
            "; uid {uid} here stands for all users outside of this user namespace, such as the host's root"
        )
    } else {
        String::new()
    }
}

/// What the address of an abstract socket begins with in words.
pub(crate) const ABSTRACT: &str = "the abstract address @";

/// An abstract socket belongs to a network namespace, one in a directory to whoever sees the
/// directory.
fn where_else(address: &str) -> &'static str {
    if address.starts_with(ABSTRACT) {
        "is corosync running in this network namespace, and does it use abstract sockets, and not a directory?"
    } else {
        "is corosync running, and does it keep its sockets in this directory (a container's /run is another), and not at \
         abstract addresses?"
    }
}

fn why_gone(truncated: Option<&'static str>) -> String {
    match truncated {
        Some(ring) => format!(
            "a file of its {ring} ring was cut short, by the daemon or whoever else may write there"
        ),
        None => "the daemon ended or closed it".to_owned(),
    }
}

fn owned(owner: Option<u32>) -> String {
    owner.map_or_else(String::new, |uid| format!(" (owner: uid {uid})"))
}

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
        "the name of the {ring} ring leads out of the shared memory directory, or is no ring's name"
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
    /// The daemon chose the datagram transport.
    #[error(
        "the daemon uses the datagram transport (system.qb_ipc_type: socket), which this version does not speak"
    )]
    DatagramTransport,
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

impl Error {
    /// The number a C program would have seen, for those who come from there. See [`CsError`].
    pub fn cs_error(&self) -> Option<CsError> {
        Some(match self {
            Self::InvalidArgument { .. } | Self::WrongType { .. } => CsError::InvalidParam,
            Self::NotReady { .. } => CsError::TryAgain,
            Self::NotAllowed { .. } => CsError::Access,
            Self::UntrustedServer { .. } | Self::RingFile { .. } => CsError::Security,
            Self::SharedMemoryFull { .. } => CsError::NoSpace,
            Self::RingsNotVisible { source, .. }
            | Self::Refused { source, .. }
            | Self::NoSocket { source, .. } => {
                source.raw_os_error().map_or(CsError::Library, CsError::from_errno)
            }
            Self::TimedOut { .. } => CsError::Timeout,
            Self::Disconnected { .. } | Self::Protocol { .. } | Self::System { .. } => {
                CsError::Library
            }
            Self::Finalized => CsError::BadHandle,
            Self::Cs { error, .. } => *error,
            Self::PartlySent { source, .. } => return source.cs_error(),
            Self::UnknownCs { .. } => return None,
            Self::Unsupported { .. } | Self::WouldCrash { .. } => CsError::NotSupported,
        })
    }

    /// Whether the daemon cannot be reached at all, as against refusing or failing something.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NoSocket { .. }
                | Self::NotReady { .. }
                | Self::Disconnected { .. }
                | Self::RingsNotVisible { .. }
        )
    }

    pub(crate) fn invalid(argument: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidArgument { argument, reason: reason.into() }
    }

    /// The daemon ended or closed the connection.
    pub(crate) fn disconnected(service: impl Into<Cow<'static, str>>) -> Self {
        Self::Disconnected { service: service.into(), truncated: None }
    }

    pub(crate) fn system(
        operation: impl Into<Cow<'static, str>>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System { operation: operation.into(), source: source.into() }
    }

    pub(crate) fn from_status(call: &'static str, status: i32) -> Self {
        let call = Cow::Borrowed(call);
        match CsError::from_code(status) {
            Some(error) => Self::Cs { call, error },
            None => Self::UnknownCs { call, code: status },
        }
    }
}

macro_rules! cs_errors {
    ($($(#[$doc:meta])* $name:ident = $code:literal $c_name:literal,)*) => {
        /// corosync's own errors, with the numbers of `cs_error_t`. Prints the C name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum CsError { $($(#[$doc])* $name = $code,)* }

        impl CsError {
            /// Every error there is.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name C gives it.
            pub const fn c_name(self) -> &'static str {
                match self { $(Self::$name => $c_name,)* }
            }
        }
    };
}

cs_errors! {
    /// The library or the daemon failed; the connection is usually gone.
    Library = 2 "CS_ERR_LIBRARY",
    /// The two ends do not fit together.
    Version = 3 "CS_ERR_VERSION",
    /// Initialization failed.
    Init = 4 "CS_ERR_INIT",
    /// Time is over.
    Timeout = 5 "CS_ERR_TIMEOUT",
    /// The daemon is busy; the request was not carried out.
    TryAgain = 6 "CS_ERR_TRY_AGAIN",
    /// An argument is not valid, or the daemon does not know the request.
    InvalidParam = 7 "CS_ERR_INVALID_PARAM",
    /// The daemon has no memory.
    NoMemory = 8 "CS_ERR_NO_MEMORY",
    /// What the request names is not there (any more).
    BadHandle = 9 "CS_ERR_BAD_HANDLE",
    /// Something is in use.
    Busy = 10 "CS_ERR_BUSY",
    /// Not allowed; cmap: the key is read-only.
    Access = 11 "CS_ERR_ACCESS",
    /// There is no such thing.
    NotExist = 12 "CS_ERR_NOT_EXIST",
    /// A name is too long (cmap: or too short, or has a character that is not allowed).
    NameTooLong = 13 "CS_ERR_NAME_TOO_LONG",
    /// It exists already.
    Exist = 14 "CS_ERR_EXIST",
    /// No space left.
    NoSpace = 15 "CS_ERR_NO_SPACE",
    /// Interrupted.
    Interrupt = 16 "CS_ERR_INTERRUPT",
    /// No such name.
    NameNotFound = 17 "CS_ERR_NAME_NOT_FOUND",
    /// No resources.
    NoResources = 18 "CS_ERR_NO_RESOURCES",
    /// Not supported.
    NotSupported = 19 "CS_ERR_NOT_SUPPORTED",
    /// The operation does not fit.
    BadOperation = 20 "CS_ERR_BAD_OPERATION",
    /// The operation failed.
    FailedOperation = 21 "CS_ERR_FAILED_OPERATION",
    /// A message is wrong; votequorum: the poll is for another ring.
    MessageError = 22 "CS_ERR_MESSAGE_ERROR",
    /// A queue is full.
    QueueFull = 23 "CS_ERR_QUEUE_FULL",
    /// A queue is not there.
    QueueNotAvailable = 24 "CS_ERR_QUEUE_NOT_AVAILABLE",
    /// Flags are wrong.
    BadFlags = 25 "CS_ERR_BAD_FLAGS",
    /// Too big.
    TooBig = 26 "CS_ERR_TOO_BIG",
    /// Nothing left to iterate.
    NoSections = 27 "CS_ERR_NO_SECTIONS",
    /// No such context.
    ContextNotFound = 28 "CS_ERR_CONTEXT_NOT_FOUND",
    /// Too many groups.
    TooManyGroups = 30 "CS_ERR_TOO_MANY_GROUPS",
    /// Security.
    Security = 100 "CS_ERR_SECURITY",
}

impl CsError {
    /// The error with this number. `None` for 1, which is `CS_OK`, and for numbers not known.
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|error| i64::from(code) == i64::from(*error as u32))
    }

    /// What the C library makes of an errno. Matches `qb_to_cs_error`.
    pub fn from_errno(errno: i32) -> Self {
        use nix::libc;
        match errno {
            libc::EBADF => Self::BadHandle,
            libc::ENOMEM => Self::NoMemory,
            libc::ENOMSG | libc::ENOBUFS | libc::ETIMEDOUT | libc::EAGAIN => Self::TryAgain,
            libc::EBADE => Self::FailedOperation,
            libc::ETIME => Self::Timeout,
            libc::EINVAL => Self::InvalidParam,
            libc::EBUSY => Self::Busy,
            libc::EACCES => Self::Access,
            libc::EOVERFLOW => Self::NameTooLong,
            libc::EEXIST => Self::Exist,
            libc::ENOSPC => Self::NoSpace,
            libc::EINTR => Self::Interrupt,
            libc::ENOENT | libc::ENODEV => Self::NotExist,
            libc::ENOSYS | libc::ENOTSUP => Self::NotSupported,
            libc::EBADMSG => Self::MessageError,
            libc::EMSGSIZE | libc::E2BIG => Self::TooBig,
            _ => Self::Library,
        }
    }
}

impl fmt::Display for CsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.c_name())
    }
}

impl std::error::Error for CsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_of_c() {
        assert_eq!(CsError::TryAgain as u32, 6);
        assert_eq!(CsError::TryAgain.to_string(), "CS_ERR_TRY_AGAIN");
        assert_eq!(CsError::from_code(30), Some(CsError::TooManyGroups));
        assert_eq!(
            (CsError::from_code(1), CsError::from_code(29), CsError::from_code(-6)),
            (None, None, None)
        );
    }
}
