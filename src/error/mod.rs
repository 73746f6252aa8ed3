//! What can go wrong, and what to look at then.

mod cs;
mod protocol;
mod wire;

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::cs::CsError;
pub use self::protocol::{ProtocolError, RingError};
pub use self::wire::WireError;
use crate::address::SocketAddress;
pub use crate::escaped::Escaped;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Every error of this crate. A variant says who caused it, its text what to look at.
///
/// An error prints itself and not its [source](std::error::Error::source).
/// [`Error::with_sources`] prints both. A `main` that returns an error prints its fields instead
/// (`Debug`), without advice: programs for people print `with_sources`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller passed an argument that the protocol or corosync does not allow. Nothing was
    /// sent.
    #[error("{argument}: {reason}")]
    InvalidArgument {
        /// The argument.
        argument: &'static str,
        /// What is wrong with it.
        reason: Cow<'static, str>,
    },

    /// The caller passed a value that does not fit into the request. Nothing was sent.
    #[error("{call}: the request cannot be encoded")]
    Unencodable {
        /// The call.
        call: Cow<'static, str>,
        /// The field that does not fit.
        source: WireError,
    },

    /// The value of a cmap key has another type than the caller asked for.
    #[error("the value of {} has the type {found}, not {asked}", named(key))]
    WrongType {
        /// The key.
        key: String,
        /// The type of its value, as [`ValueType`](crate::cmap::ValueType) prints it.
        found: Cow<'static, str>,
        /// The Rust type that the caller asked for.
        asked: &'static str,
    },

    /// A key of cmap, or what is below it, cannot be read into the type that the caller asked for:
    /// the type asks for something else, or the map has it otherwise than it should.
    #[error("{} cannot be read: {}", named(key), Escaped(reason.as_bytes()))]
    Unreadable {
        /// The key. Empty for the map as a whole.
        key: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Nobody listens at the service's socket.
    #[error("no {service} socket at {address} ({})", why_no_socket(address))]
    NoSocket {
        /// The service.
        service: Cow<'static, str>,
        /// The address that connecting tried.
        address: SocketAddress,
        /// The system's error.
        source: io::Error,
    },

    /// The server's user is not trusted: it is neither root, nor this process's user, nor in
    /// [`Endpoint::server_uids`](crate::Endpoint::server_uids). No request was sent and no file was
    /// opened.
    #[error(
        "{service} is served by uid {uid} (process {pid}), which is neither root nor this user; to trust it, \
         use --server-uid {uid}, COROSYNC_IPC_SERVER_UID={uid} or Endpoint::server_uids{}",
        unmapped(*uid, *is_unmapped)
    )]
    UntrustedServer {
        /// The service.
        service: Cow<'static, str>,
        /// The server's user id.
        uid: u32,
        /// The server's process id; 0 when its pid namespace is not visible here.
        pid: i32,
        /// Whether `uid` stands for every user that this process's user namespace does not map,
        /// such as the host's root in a rootless container.
        is_unmapped: bool,
    },

    /// The daemon named a ring file that may belong to another user or to another connection. It
    /// was not used.
    #[error("the ring file {}{} of {service} is refused: {fault}", escaped(path), owned(*owner))]
    RingFile {
        /// The service.
        service: Cow<'static, str>,
        /// The file, or a directory on the way to it.
        path: PathBuf,
        /// The file's owner, if known.
        owner: Option<u32>,
        /// What is wrong with it.
        fault: RingFileFault,
    },

    /// The daemon refused connections until the deadline, because it is starting or has no file
    /// descriptors left.
    #[error(
        "the daemon does not accept {service} connections yet: it is starting, or has no file descriptors left"
    )]
    NotReady {
        /// The service.
        service: Cow<'static, str>,
    },

    /// The daemon does not allow this user.
    #[error("uid {uid} gid {gid} may not use {service}: {}", who_may(*uid))]
    NotAllowed {
        /// The service.
        service: Cow<'static, str>,
        /// This process's effective user id.
        uid: u32,
        /// This process's effective group id.
        gid: u32,
    },

    /// The daemon accepted the connection, but its rings, or the control file of its datagrams,
    /// cannot be opened here.
    #[error("the daemon's file {} cannot be opened ({})", escaped(path), why_not_visible(source))]
    RingsNotVisible {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },

    /// The daemon accepted the connection, but the datagram sockets that it made for it cannot be
    /// reached from here. They are abstract, even if setup sockets are in a directory, so a client
    /// in another network namespace reaches the one and not the other.
    #[error(
        "the daemon's datagram socket at {address} cannot be reached ({})",
        why_no_datagrams(address)
    )]
    SocketsNotVisible {
        /// The address.
        address: SocketAddress,
        /// The system's error.
        source: io::Error,
    },

    /// The daemon's /dev/shm is too full for the rings, or the server has reached its limit of
    /// shared memory.
    #[error(
        "the daemon's /dev/shm is full (ENOSPC): {service} needs three rings of {ring_size} bytes; enlarge it, or use \
         a smaller ring size (--ring-size, Endpoint::ring_size)"
    )]
    SharedMemoryFull {
        /// The service.
        service: Cow<'static, str>,
        /// The ring size that this client asked for, in bytes. See
        /// [`Endpoint::ring_size`](crate::Endpoint::ring_size).
        ring_size: u32,
    },

    /// The daemon refused the connection for another reason.
    #[error("the daemon refused a connection to {service}")]
    Refused {
        /// The service.
        service: Cow<'static, str>,
        /// The errno that the daemon sent.
        source: io::Error,
    },

    /// The peer does not follow the protocol.
    #[error("{service} does not follow the protocol")]
    Protocol {
        /// The service.
        service: Cow<'static, str>,
        /// What violates the protocol.
        source: ProtocolError,
        /// The stage of connecting, or `None` once connected.
        stage: Option<Stage>,
    },

    /// The deadline passed. The daemon may have carried out the request or not.
    #[error("{operation} timed out after {after:?}: the daemon is stopped or overloaded")]
    TimedOut {
        /// What timed out.
        operation: Cow<'static, str>,
        /// The timeout.
        after: Duration,
        /// The stage of connecting, or `None` for any other call.
        stage: Option<Stage>,
    },

    /// The daemon ended, it closed the connection, or somebody truncated a ring file. The client
    /// cannot be used any more: connect again.
    #[error("the connection to {service} is gone: {}", why_gone(*truncated))]
    Disconnected {
        /// The service.
        service: Cow<'static, str>,
        /// The ring whose file was truncated, if that is the cause. Detected only after
        /// [`guard_against_truncation`](crate::guard_against_truncation).
        truncated: Option<&'static str>,
        /// The stage of connecting, or `None` once connected.
        stage: Option<Stage>,
    },

    /// A supervised client has no connection: it did not connect yet, or it waits for its next
    /// attempt.
    #[error("not connected to {service}: the client connects in the course of `next`")]
    NotConnected {
        /// The service.
        service: Cow<'static, str>,
    },

    /// The client belongs to another process, of which this one is a fork. Only with
    /// [`Endpoint::refuse_forks`](crate::Endpoint::refuse_forks).
    #[error("the client of {service} belongs to process {pid}: a forked process connects anew")]
    ForeignProcess {
        /// The service.
        service: Cow<'static, str>,
        /// The process that connected.
        pid: u32,
    },

    /// The client was finalized by [`Client::finalize`](crate::ServiceClient::finalize).
    #[error("the client was finalized")]
    Finalized,

    /// The daemon answered with an error.
    #[error("{call}: {error}")]
    Cs {
        /// The call.
        call: Cow<'static, str>,
        /// The daemon's answer.
        error: CsError,
    },

    /// A client of the same process id on this node is in the group, or left it and is still
    /// connected. corosync tells the members of a node apart by their process ids, and programs in
    /// containers often have the same one, such as 1. Choose another:
    /// [`cpg::Options::pid_at_daemon`](crate::cpg::Options::pid_at_daemon) or
    /// [`cpg::Options::pid`](crate::cpg::Options::pid).
    #[error(
        "cpg join: a process {pid} of this node is in the group {group} already; processes in containers may have \
         the same id: choose another with cpg::Options::pid_at_daemon, --pid-at-daemon or --pid"
    )]
    PidTaken {
        /// The group.
        group: String,
        /// The process id that the client would have had.
        pid: u32,
    },

    /// Not all fragments of a message were sent. Members discard those they received.
    ///
    /// When the last fragment failed with [`Error::TimedOut`] or [`Error::Disconnected`], the
    /// daemon may have taken it, and members may have the whole message.
    #[error("only {sent} of {length} bytes of a message were sent, so no member gets any of it")]
    PartlySent {
        /// Bytes that the daemon surely took.
        sent: usize,
        /// Length of the message in bytes.
        length: usize,
        /// Why the next fragment failed.
        source: Box<Error>,
    },

    /// Only the first of several messages were sent, and those as a whole.
    #[error("only the first {sent} of {messages} messages were sent")]
    NotAllSent {
        /// How many messages were sent.
        sent: usize,
        /// How many there were.
        messages: usize,
        /// Why the next one was not sent, or only a part of it, which no member gets.
        source: Box<Error>,
    },

    /// The daemon is too old for this call. Nothing was sent, because an unknown request crashes
    /// old daemons.
    #[error("{feature} needs corosync {since} or later; this daemon is older")]
    Unsupported {
        /// What the call needs.
        feature: &'static str,
        /// The first corosync that has it.
        since: &'static str,
    },

    /// The request would crash this daemon in its present state. Nothing was sent.
    #[error("{call} refused, because it would crash corosync: {reason}")]
    WouldCrash {
        /// The call.
        call: Cow<'static, str>,
        /// Why it would crash, and what to do instead.
        reason: Cow<'static, str>,
    },

    /// A system call failed.
    #[error("{operation}")]
    System {
        /// What the call was for.
        operation: Cow<'static, str>,
        /// The system's error.
        source: io::Error,
        /// The stage of connecting, or `None` for any other call.
        stage: Option<Stage>,
    },
}

/// The steps of connecting to a service. An error says in which one connecting failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Reaching the service's setup socket.
    Socket,
    /// Checking the server's credentials.
    Credentials,
    /// Asking the daemon for a connection.
    Handshake,
    /// Opening the rings or datagram sockets that the daemon made.
    Rings,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Socket => "socket",
            Self::Credentials => "credentials",
            Self::Handshake => "handshake",
            Self::Rings => "rings",
        })
    }
}

/// Why a ring file is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingFileFault {
    /// It belongs to a third user.
    #[error("it belongs neither to this user (uid {own}) nor to the server (uid {server})")]
    Owner {
        /// This process's effective user id.
        own: u32,
        /// The server's user id.
        server: u32,
    },
    /// It belongs to this user, and the server's user may not change owners.
    #[error(
        "it belongs to this user (uid {own}), and the server (uid {server}) cannot give files away: it may be another connection's"
    )]
    Ours {
        /// This process's effective user id.
        own: u32,
        /// The server's user id.
        server: u32,
    },
    /// It is a link, a device or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is a link or a file in place of a directory.
    #[error("it is not a directory, or is a symbolic link to one")]
    NotADirectory,
    /// The file has other names.
    #[error("it has {0} hard links")]
    Links(u64),
    /// The daemon named the same file twice.
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

/// A question that leads to the cause. An abstract socket belongs to a network namespace; a socket
/// file is seen by whoever sees its directory.
fn why_no_socket(address: &SocketAddress) -> &'static str {
    match address {
        SocketAddress::Abstract(_) => {
            "is corosync running in this network namespace? Does it use abstract sockets?"
        }
        SocketAddress::Path(_) => {
            "is corosync running, with its sockets in this directory? A container has a /run of its own"
        }
    }
}

fn who_may(uid: u32) -> &'static str {
    if uid == 0 {
        "in this user namespace root is another user, who needs a uidgid section in corosync.conf or in uidgid.d"
    } else {
        "only root and the group 0 may; others need a uidgid section in corosync.conf or in uidgid.d"
    }
}

fn why_not_visible(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "its file system is mounted read-only here, but both ends write to a ring"
        }
        io::ErrorKind::PermissionDenied => {
            "it is there, but this user may not open it, or SELinux or AppArmor forbids it"
        }
        _ => "is the daemon's /dev/shm visible here? A container has one of its own",
    }
}

fn why_no_datagrams(address: &SocketAddress) -> &'static str {
    match address {
        SocketAddress::Abstract(_) => {
            "is this the daemon's network namespace? With qb_ipc_type: socket each connection needs it"
        }
        SocketAddress::Path(_) => "is its directory the daemon's?",
    }
}

fn why_gone(truncated: Option<&'static str>) -> String {
    match truncated {
        Some(ring) => format!(
            "a file of its {ring} ring was truncated, by the daemon or by another user who may write there"
        ),
        None => "the daemon ended or closed it".to_owned(),
    }
}

/// A key that the daemon may have chosen.
fn named(key: &str) -> String {
    if key.is_empty() { "the map".to_owned() } else { Escaped(key.as_bytes()).to_string() }
}

/// A path that the daemon may have chosen.
fn escaped(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_bytes())
}

fn owned(owner: Option<u32>) -> String {
    owner.map_or_else(String::new, |uid| format!(" (owner: uid {uid})"))
}

impl Error {
    /// The error that the C library would return.
    pub fn cs_error(&self) -> CsError {
        match self {
            Self::InvalidArgument { .. }
            | Self::Unencodable { .. }
            | Self::WrongType { .. }
            | Self::Unreadable { .. } => CsError::InvalidParam,
            Self::NotReady { .. } => CsError::TryAgain,
            Self::NotAllowed { .. } => CsError::Access,
            Self::UntrustedServer { .. } | Self::RingFile { .. } => CsError::Security,
            Self::SharedMemoryFull { .. } => CsError::NoSpace,
            Self::RingsNotVisible { source, .. }
            | Self::SocketsNotVisible { source, .. }
            | Self::Refused { source, .. }
            | Self::NoSocket { source, .. } => {
                source.raw_os_error().map_or(CsError::Library, CsError::from_errno)
            }
            Self::TimedOut { .. } => CsError::Timeout,
            Self::Disconnected { .. }
            | Self::NotConnected { .. }
            | Self::Protocol { .. }
            | Self::System { .. } => CsError::Library,
            Self::Finalized | Self::ForeignProcess { .. } => CsError::BadHandle,
            Self::PidTaken { .. } => CsError::Exist,
            Self::Cs { error, .. } => *error,
            Self::PartlySent { source, .. } | Self::NotAllSent { source, .. } => source.cs_error(),
            Self::Unsupported { .. } | Self::WouldCrash { .. } => CsError::NotSupported,
        }
    }

    /// The stage in which connecting failed. `None` for an error of a connected client and for a
    /// mistake of the caller.
    pub fn stage(&self) -> Option<Stage> {
        match self {
            Self::NoSocket { .. } => Some(Stage::Socket),
            Self::UntrustedServer { .. } => Some(Stage::Credentials),
            Self::NotReady { .. }
            | Self::NotAllowed { .. }
            | Self::SharedMemoryFull { .. }
            | Self::Refused { .. } => Some(Stage::Handshake),
            Self::RingFile { .. }
            | Self::RingsNotVisible { .. }
            | Self::SocketsNotVisible { .. } => Some(Stage::Rings),
            Self::Protocol { stage, .. }
            | Self::TimedOut { stage, .. }
            | Self::Disconnected { stage, .. }
            | Self::System { stage, .. } => *stage,
            Self::InvalidArgument { .. }
            | Self::Unencodable { .. }
            | Self::WrongType { .. }
            | Self::Unreadable { .. }
            | Self::NotConnected { .. }
            | Self::ForeignProcess { .. }
            | Self::Finalized
            | Self::Cs { .. }
            | Self::PidTaken { .. }
            | Self::PartlySent { .. }
            | Self::NotAllSent { .. }
            | Self::Unsupported { .. }
            | Self::WouldCrash { .. } => None,
        }
    }

    /// Prints the error and its sources on one line, separated by colons.
    pub fn with_sources(&self) -> impl fmt::Display {
        WithSources(self)
    }

    /// Whether no daemon could be reached, in contrast to a daemon that refused or failed.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::NoSocket { .. }
                | Self::NotReady { .. }
                | Self::Disconnected { .. }
                | Self::NotConnected { .. }
                | Self::RingsNotVisible { .. }
                | Self::SocketsNotVisible { .. }
                | Self::Protocol {
                    source: ProtocolError::RingName { .. } | ProtocolError::ControlName,
                    ..
                }
        )
    }

    pub(crate) fn invalid(argument: &'static str, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::InvalidArgument { argument, reason: reason.into() }
    }

    /// The daemon ended or closed the connection.
    #[cfg(test)]
    pub(crate) fn disconnected(service: impl Into<Cow<'static, str>>) -> Self {
        Self::Disconnected { service: service.into(), truncated: None, stage: None }
    }

    pub(crate) fn system(
        operation: impl Into<Cow<'static, str>>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::System { operation: operation.into(), source: source.into(), stage: None }
    }

    /// A connected service violated the protocol.
    pub(crate) fn protocol(
        service: impl Into<Cow<'static, str>>,
        source: impl Into<ProtocolError>,
    ) -> Self {
        Self::Protocol { service: service.into(), source: source.into(), stage: None }
    }

    pub(crate) fn from_status(call: &'static str, status: i32) -> Self {
        Self::Cs { call: Cow::Borrowed(call), error: CsError::from_raw(status) }
    }
}

struct WithSources<'a>(&'a Error);

impl fmt::Display for WithSources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn names_that_a_daemon_chose_cannot_steer_a_terminal() {
        let path = || PathBuf::from("/dev/shm/qb-1-2-3-\u{1b}[2J\u{9b}31m\u{202e}/qb-x");
        let source = || io::ErrorKind::NotFound.into();
        let service = || Cow::Borrowed("cmap");
        let text = || "a.\u{1b}[2J".to_owned();
        let address = || SocketAddress::Abstract("qb-\u{1b}]0;x\u{7}\n".to_owned());
        for error in [
            Error::RingFile {
                service: service(),
                path: path(),
                owner: None,
                fault: RingFileFault::NotAFile,
            },
            Error::RingsNotVisible { path: path(), source: source() },
            Error::SocketsNotVisible { address: address(), source: source() },
            Error::NoSocket {
                service: service(),
                address: SocketAddress::Path(path()),
                source: source(),
            },
            Error::WrongType { key: text(), found: "u8".into(), asked: "text" },
            Error::Unreadable { key: "test.key".to_owned(), reason: text() },
        ] {
            let text = error.with_sources().to_string();
            assert!(text.contains("\\x1b"), "{text:?}");
            assert_eq!(Escaped(text.as_bytes()).to_string(), text);
        }
    }

    /// One of each, with what it may be of.
    fn all() -> Vec<Error> {
        let service = || Cow::Borrowed("cmap");
        let refused = || io::Error::from_raw_os_error(111);
        let (uid, gid) = (1000, 1000);
        let wires = [
            WireError::Truncated { message: "m", field: "f", offset: 8, need: 4, have: 1 },
            WireError::TooLarge { message: "m", field: "f", offset: 8, value: 9, limit: 8 },
            WireError::Invalid { message: "m", field: "f", offset: 8, value: -1 },
            WireError::UnknownId { message: "m", id: 77 },
        ];
        let ring = "event";
        let rings = [
            RingError::TooSmall { ring, file: "header", have: 1, need: 2 },
            RingError::InUse { ring },
            RingError::TooLarge { ring, have: 2, limit: 1 },
            RingError::Index { ring, index: 9, words: 8 },
            RingError::Magic { ring, magic: 0xdead },
            RingError::Truncated { ring },
            RingError::ChunkSize { ring, size: 9, limit: 8 },
        ];
        let protocols =
            wires.map(ProtocolError::Wire).into_iter().chain(rings.map(ProtocolError::Ring)).chain(
                [
                    ProtocolError::RingName { ring },
                    ProtocolError::RingDirectory { ring },
                    ProtocolError::StreamTransport,
                    ProtocolError::ControlName,
                    ProtocolError::SocketName,
                    ProtocolError::DatagramSize { direction: "event", size: 9, limit: 8 },
                    ProtocolError::Transport(7),
                    ProtocolError::Endless { what: "keys", limit: 1 },
                ],
            );
        let faults = [
            RingFileFault::Owner { own: uid, server: 33 },
            RingFileFault::Ours { own: uid, server: 33 },
            RingFileFault::NotAFile,
            RingFileFault::NotADirectory,
            RingFileFault::Links(2),
            RingFileFault::Twice,
        ];
        let addresses =
            [SocketAddress::Abstract("cmap".to_owned()), SocketAddress::Path("/run/cmap".into())];
        let mut all = vec![
            Error::invalid("key", "is empty"),
            Error::WrongType { key: "k".to_owned(), found: "u8".into(), asked: "String" },
            Error::Unreadable { key: "k".to_owned(), reason: "there is no such key".to_owned() },
            Error::UntrustedServer { service: service(), uid, pid: 1, is_unmapped: true },
            Error::NotReady { service: service() },
            Error::NotAllowed { service: service(), uid, gid },
            Error::RingsNotVisible { path: Path::new("/dev/shm/x").into(), source: refused() },
            Error::SharedMemoryFull { service: service(), ring_size: 8192 },
            Error::Refused { service: service(), source: refused() },
            Error::TimedOut { operation: "get".into(), after: Duration::ZERO, stage: None },
            Error::disconnected("cmap"),
            Error::NotConnected { service: service() },
            Error::ForeignProcess { service: service(), pid: 1 },
            Error::Finalized,
            Error::from_status("get", 12),
            Error::from_status("get", 29),
            Error::PidTaken { group: "g".to_owned(), pid: 1 },
            Error::PartlySent {
                sent: 1,
                length: 2,
                source: Box::new(Error::system("x", refused())),
            },
            Error::NotAllSent {
                sent: 1,
                messages: 2,
                source: Box::new(Error::system("x", refused())),
            },
            Error::Unsupported { feature: "f", since: "3.1" },
            Error::WouldCrash { call: "track".into(), reason: "a name".into() },
            Error::system("opening a file", refused()),
        ];
        all.extend(addresses.clone().map(|address| Error::NoSocket {
            service: service(),
            address,
            source: refused(),
        }));
        all.extend(
            addresses.map(|address| Error::SocketsNotVisible { address, source: refused() }),
        );
        all.extend(faults.map(|fault| Error::RingFile {
            service: service(),
            path: "/dev/shm/x".into(),
            owner: Some(uid),
            fault,
        }));
        all.extend(wires.map(|source| Error::Unencodable { call: "set".into(), source }));
        all.extend(protocols.map(|source| Error::protocol("cmap", source)));
        all
    }

    #[test]
    fn every_source_is_returned_and_none_is_printed_twice() {
        for error in all() {
            let mut parts: Vec<String> = Vec::new();
            let mut next: Option<&dyn std::error::Error> = Some(&error);
            while let Some(one) = next {
                parts.push(one.to_string());
                next = one.source();
            }
            assert_eq!(error.with_sources().to_string(), parts.join(": "), "{error:?}");
            for (at, part) in parts.iter().enumerate() {
                assert!(!part.is_empty(), "{error:?}");
                let others = parts.iter().enumerate().filter(|(other, _)| *other != at);
                for (_, other) in others {
                    assert!(!other.contains(part.as_str()), "{error:?}: {parts:?}");
                }
            }
            // Where there is a source the chain goes on to it.
            let has_source = format!("{error:?}").contains("source: ");
            assert_eq!(parts.len() > 1, has_source, "{error:?}: {parts:?}");
        }
    }

    #[test]
    fn connecting_fails_in_a_stage() {
        let stages = |stage| {
            let refused = io::Error::from_raw_os_error(111);
            let source = WireError::UnknownId { message: "m", id: 1 }.into();
            [
                Error::System { operation: "x".into(), source: refused, stage },
                Error::TimedOut { operation: "x".into(), after: Duration::ZERO, stage },
                Error::Disconnected { service: "cmap".into(), truncated: None, stage },
                Error::Protocol { service: "cmap".into(), source, stage },
            ]
            .map(|error| error.stage())
        };
        for stage in [None, Some(Stage::Handshake)] {
            assert_eq!(stages(stage), [stage; 4]);
        }
        assert_eq!(Error::NotReady { service: "cmap".into() }.stage(), Some(Stage::Handshake));
        assert_eq!(Error::from_status("get", 12).stage(), None);
    }

    #[test]
    fn a_file_system_that_is_read_only_is_told() {
        let of = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            Error::RingsNotVisible { path: "/dev/shm/x".into(), source }.to_string()
        };
        assert!(of(nix::libc::EROFS).contains("mounted read-only"));
        assert!(of(nix::libc::ENOENT).contains("/dev/shm visible here"));
        assert!(of(nix::libc::EACCES).contains("SELinux or AppArmor"));
    }

    #[test]
    fn root_is_not_allowed_in_a_user_namespace_only() {
        let of = |uid| Error::NotAllowed { service: "cmap".into(), uid, gid: 5 }.to_string();
        assert!(of(0).contains("in this user namespace") && !of(0).contains("only root"));
        assert!(of(7).contains("only root") && !of(7).contains("namespace"));
    }
}
