//! The configuration of connections: where the daemon is and how long to wait for it.

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::UnixAddr;
use nix::unistd::geteuid;

use crate::address::SocketAddress;
use crate::error::{Error, Escaped, Result};
use crate::sys::file::is_unmapped;
use crate::sys::socket;

/// Overrides [`Endpoint::socket_dir`].
pub const ENV_SOCKET_DIR: &str = "COROSYNC_IPC_SOCKET_DIR";
/// Overrides [`Endpoint::shm_root`].
pub const ENV_SHM_ROOT: &str = "COROSYNC_IPC_SHM_ROOT";
/// Overrides [`Endpoint::timeout`].
pub const ENV_TIMEOUT: &str = "COROSYNC_IPC_TIMEOUT";
/// Overrides [`Endpoint::server_uids`].
pub const ENV_SERVER_UID: &str = "COROSYNC_IPC_SERVER_UID";

/// Where libqb's filesystem sockets may be on Linux. Its build decides: upstream has the first, a
/// container may have only the second, and Debian has the third. Any user can create a file in that
/// one.
const SOCKET_DIRS: [&str; 3] = ["/var/run", "/run", PUBLIC_SOCKET_DIR];
const PUBLIC_SOCKET_DIR: &str = "/tmp";

/// If this file exists, all libqb programs on the machine use filesystem sockets.
const FORCE_FILESYSTEM_SOCKETS: &str = "/etc/libqb/force-filesystem-sockets";

/// The directory in which daemons create rings.
const DEFAULT_SHM_ROOT: &str = "/dev/shm";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The smallest [`Endpoint::ring_size`] in bytes. Replies of fixed size fit in it.
pub const MIN_RING_SIZE: u32 = 4096;

/// The largest [`Endpoint::ring_size`] in bytes.
pub const MAX_RING_SIZE: u32 = 32 << 20;

/// Configures connections: where the daemon's sockets and rings are, which users may serve, and how
/// long to wait.
///
/// Every client is made from one. The default reaches the daemon that the C libraries reach, and
/// waits at most 5 seconds to connect and 5 seconds for each call. The C libraries wait without a
/// limit.
///
/// A [`Listener`](crate::libqb::server::Listener) and the [embedded corosync](crate::embedded) use
/// an endpoint as the place where they serve.
///
/// ```
/// use std::time::Duration;
/// use corosync_ipc::Endpoint;
///
/// // The host's daemon, from a container with the host's directories mounted.
/// let endpoint = Endpoint::new()
///     .socket_dir("/host/run")
///     .shm_root("/host/dev/shm")
///     .timeout(Duration::from_secs(2));
/// # let _ = endpoint;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    sockets: Sockets,
    shm_root: PathBuf,
    client_shm_root: Option<PathBuf>,
    server_uids: Vec<u32>,
    service_name: Option<Cow<'static, str>>,
    ring_size: Option<u32>,
    connect_timeout: Duration,
    request_timeout: Duration,
    wait_while_busy: bool,
    refuse_forks: bool,
}

/// The kind of sockets that the services listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sockets {
    /// As libqb: abstract, unless the machine has [`FORCE_FILESYSTEM_SOCKETS`].
    Default,
    Abstract,
    Directory(PathBuf),
}

/// Converts an address to the kernel's form.
///
/// # Errors
/// [`Error::InvalidArgument`] when the address is too long.
pub(crate) fn resolve(address: &SocketAddress) -> Result<UnixAddr> {
    let resolved = match address {
        SocketAddress::Abstract(name) => socket::abstract_address(name),
        SocketAddress::Path(path) => socket::path_address(path),
    };
    resolved.map_err(|_| {
        Error::invalid("endpoint", format!("{address} is too long for a socket's address"))
    })
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::new()
    }
}

impl Endpoint {
    /// Returns the default: the daemon that the C libraries reach, with 5 seconds to connect and
    /// 5 seconds for each call.
    pub fn new() -> Self {
        Self {
            sockets: Sockets::Default,
            shm_root: PathBuf::from(DEFAULT_SHM_ROOT),
            client_shm_root: None,
            server_uids: Vec::new(),
            service_name: None,
            ring_size: None,
            connect_timeout: DEFAULT_TIMEOUT,
            request_timeout: DEFAULT_TIMEOUT,
            wait_while_busy: true,
            refuse_forks: false,
        }
    }

    /// Returns [`Endpoint::new`] with the settings of the environment variables
    /// `COROSYNC_IPC_SOCKET_DIR`, `COROSYNC_IPC_SHM_ROOT`, `COROSYNC_IPC_TIMEOUT` (such as
    /// `500ms`, `5s` or `2m`) and `COROSYNC_IPC_SERVER_UID` (user ids separated by commas). The
    /// `connect()` of each client uses this endpoint. An empty variable counts as unset.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] with the name of a variable that has an invalid value.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// As [`Endpoint::from_env`], with another source of the variables. A program whose options
    /// override a variable hides it here, so that an invalid value does not matter.
    ///
    /// # Errors
    /// As [`Endpoint::from_env`].
    pub fn from_variables(mut variable: impl FnMut(&str) -> Option<OsString>) -> Result<Self> {
        let mut variable = |name| variable(name).filter(|value| !value.is_empty());
        let mut endpoint = Self::new();
        if let Some(directory) = variable(ENV_SOCKET_DIR) {
            endpoint = endpoint.socket_dir(directory);
        }
        if let Some(root) = variable(ENV_SHM_ROOT) {
            endpoint = endpoint.shm_root(root);
        }
        if let Some(timeout) = variable(ENV_TIMEOUT) {
            let timeout = parse_duration(&timeout.to_string_lossy())
                .map_err(|reason| Error::invalid(ENV_TIMEOUT, reason))?;
            endpoint = endpoint.timeout(timeout);
        }
        if let Some(uids) = variable(ENV_SERVER_UID) {
            let uids = parse_uids(&uids.to_string_lossy())
                .map_err(|reason| Error::invalid(ENV_SERVER_UID, reason))?;
            endpoint = endpoint.server_uids(uids);
        }
        Ok(endpoint)
    }

    /// Uses abstract sockets, even if the machine's libqb is configured for filesystem sockets.
    pub fn abstract_sockets(mut self) -> Self {
        self.sockets = Sockets::Abstract;
        self
    }

    /// Uses socket files in this directory, named as the services.
    pub fn socket_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.sockets = Sockets::Directory(directory.into());
        self
    }

    /// Sets the directory in which this process sees the daemon's `/dev/shm`. Default: `/dev/shm`.
    pub fn shm_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.shm_root = directory.into();
        self
    }

    /// Sets the directory in which a server's clients see [`Endpoint::shm_root`]. The server sends
    /// them the paths of their rings below this directory. Default: the same directory. For C
    /// programs in containers that have the directory mounted elsewhere. A client of this crate
    /// replaces `/dev/shm` in such a path by its own [`Endpoint::shm_root`].
    pub fn client_shm_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.client_shm_root = Some(directory.into());
        self
    }

    /// Sets the users that may serve besides root and this process's own user (its effective uid).
    /// Default: none. Replaces the users of an earlier call.
    ///
    /// Any user can take a service's abstract name while its daemon is down. So before a client
    /// opens a file or sends a request, it asks the kernel which user listens and which user
    /// answers. It refuses other users with
    /// [`Error::UntrustedServer`](crate::Error::UntrustedServer). corosync runs as root; name the
    /// users of other daemons, such as Pacemaker's `hacluster`. A user named here receives all that
    /// the client sends to the service.
    ///
    /// Ring files must belong to the user that serves, to a user named here, or to this process's
    /// user. The last is allowed only if root serves, or a user that may be root of another user
    /// namespace, since nobody else can give files away. So a server that is not root cannot make
    /// its client use files that another daemon created for a connection of the same user. Root
    /// could, but root can do worse anyway. If 65534 is named here, each unmapped user could too,
    /// until that connection has opened its files.
    ///
    /// In a user namespace (a rootless container) the host's users have other ids than on the host.
    /// All users that the namespace does not map share one id, usually 65534. The host's root is
    /// usually one of them: a client in such a container needs `server_uids([65534])` to reach the
    /// host's corosync, and thereby trusts all unmapped users. A client whose own id is the
    /// unmapped one trusts only root by default. A client on the host sees a daemon in such a
    /// container as the user that the container's root is mapped to. Its ring files may belong
    /// to another user of the container.
    ///
    /// ```
    /// use corosync_ipc::Endpoint;
    ///
    /// let endpoint = Endpoint::new().server_uids([65534]);
    /// # let _ = endpoint;
    /// ```
    pub fn server_uids(mut self, uids: impl IntoIterator<Item = u32>) -> Self {
        self.server_uids = uids.into_iter().collect();
        self
    }

    /// Sets the name of the service's socket. Default: the name of the service.
    pub fn service_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Sets the size of each of the connection's three rings in bytes, from [`MIN_RING_SIZE`] to
    /// [`MAX_RING_SIZE`]. Each service has a default in which every message fits. The C libraries
    /// always ask for 1 MiB.
    ///
    /// | service | default size of a ring | `/dev/shm` for a connection |
    /// | --- | --- | --- |
    /// | quorum, votequorum | 8 KiB less 13 bytes | 60 KiB |
    /// | cfg | 12 KiB less 13 bytes | 72 KiB |
    /// | cmap | 36 KiB | 156 KiB |
    /// | cpg, evs | 1 MiB | 3120 KiB |
    ///
    /// For each ring the daemon makes a file of this size and 13 bytes more, and one of 8248 bytes,
    /// both rounded up to a page. Their memory is taken at once, whether messages come or not. A
    /// connection of datagrams takes one page of `/dev/shm`, whatever the size. When the daemon's
    /// `/dev/shm` is full, connecting fails with
    /// [`Error::SharedMemoryFull`](crate::Error::SharedMemoryFull), and those who are connected go
    /// on.
    ///
    /// The smallest rings make any connection take 60 KiB, and rings of 64 KiB 240 KiB. Larger ones
    /// gain nothing but speed in large bursts of events. An event that does not fit in the ring
    /// waits in the daemon for ever, so make rings smaller only if all events are small: a
    /// notification of cmap can have 33 KiB, and a message of cpg nearly 1 MiB, whoever sends it.
    pub fn ring_size(mut self, bytes: u32) -> Self {
        self.ring_size = Some(bytes);
        self
    }

    /// Sets both [`Endpoint::connect_timeout`] and [`Endpoint::request_timeout`].
    /// [`within`](crate::within) gives several calls one deadline.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.connect_timeout(timeout).request_timeout(timeout)
    }

    /// Sets how long connecting may take: the socket, the daemon's answer, the rings, and the
    /// requests that set up the client. Default: 5 seconds.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a call may take. Default: 5 seconds. The time covers all requests that the
    /// call makes, to this service or to others, and the wait for other threads' requests. Two
    /// calls may take longer: a [multicast](crate::cpg::Client::multicast) in fragments, which
    /// may take this long for each fragment, and a [shutdown](crate::cfg::Client::try_shutdown)
    /// that trackers must agree to.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets whether a call retries a request that the daemon is too busy for. The daemon is busy
    /// while the cluster's nodes synchronize, and while a queue is full. Default: true.
    ///
    /// With `true` a call retries until the [request timeout](Endpoint::request_timeout), with
    /// pauses of 1 to 50 ms. Then it returns the last refusal, [`Error::Cs`](crate::Error::Cs)
    /// with [`CsError::TryAgain`](crate::CsError::TryAgain). With `false` it returns the first
    /// refusal at once, as the C libraries do, and the caller decides when to call again. In
    /// either case corosync 2.1 and later have not carried out a refused request.
    ///
    /// With `false` a call of several requests, such as
    /// [`cmap::Client::list`](crate::cmap::Client::list), ends with the first refusal. Some calls
    /// wait all the same. As in C, a [multicast](crate::cpg::Client::multicast) in fragments waits,
    /// and one in one piece waits for a daemon that has not yet taken some hundred wake bytes of
    /// messages before; a cpg join or leave waits for the leave or join before it
    /// ([`CsError::Busy`](crate::CsError::Busy)). Unlike in C, connecting waits for a daemon that
    /// is starting. [`try_multicast`](crate::cpg::Client::try_multicast) never waits.
    pub fn wait_while_busy(mut self, wait: bool) -> Self {
        self.wait_while_busy = wait;
        self
    }

    /// Sets whether a client works only in the process that connected. Default: false.
    ///
    /// With `false` a client works on in a child that is forked without exec, as in C, if the
    /// parent does not use it any more: the two have one connection. Both would take each other's
    /// answers and events, and one that drops or finalizes the client ends the connection for both.
    ///
    /// With `true` every call in a child fails with
    /// [`Error::ForeignProcess`](crate::Error::ForeignProcess), and a child that drops the client
    /// leaves the connection alone. Each call then asks the system for the process id. For programs
    /// that fork without knowing what their libraries hold.
    ///
    /// In either case a [`Dispatcher`](crate::Dispatcher), and a
    /// [supervised](crate::supervise::Supervised::descriptor) client's descriptor, are for one of
    /// the processes only: what they watch is the same for both.
    pub fn refuse_forks(mut self, refuse: bool) -> Self {
        self.refuse_forks = refuse;
        self
    }

    /// Returns the address at which a client looks for a service. If the machine's libqb uses
    /// filesystem sockets, that is the first of `/var/run`, `/run` and, as in Debian, `/tmp` that
    /// has the socket. When nobody listens there, a client tries the others.
    pub fn socket_address(&self, service: &str) -> SocketAddress {
        let (first, _) = self.socket_addresses(service);
        first
    }

    /// Returns the address at which a client looks first, and those that it tries when nobody
    /// listens there.
    pub(crate) fn socket_addresses(&self, service: &str) -> (SocketAddress, Vec<SocketAddress>) {
        let name = self.name(service);
        let only = |address| (address, Vec::new());
        match &self.sockets {
            Sockets::Directory(directory) => only(SocketAddress::Path(directory.join(name))),
            Sockets::Default if Path::new(FORCE_FILESYSTEM_SOCKETS).exists() => {
                self.default_socket_paths(SOCKET_DIRS, name)
            }
            Sockets::Default | Sockets::Abstract => only(SocketAddress::Abstract(name.to_owned())),
        }
    }

    /// Returns the address of a connection's own datagram socket, for a service at `address`. libqb
    /// uses an abstract address for a name that begins with a slash, even if services have socket
    /// files.
    pub(crate) fn connection_address(address: &SocketAddress, name: &str) -> SocketAddress {
        match address.path() {
            Some(path) if !name.starts_with('/') => SocketAddress::Path(path.with_file_name(name)),
            _ => SocketAddress::Abstract(name.to_owned()),
        }
    }

    /// Returns the paths of a filesystem socket in those of the directories that have it, or in the
    /// first. A socket in a directory of all users must belong to a user that may serve. A user that
    /// is not mapped may be the host's root: the client is refused with a hint when it connects.
    fn default_socket_paths(
        &self,
        directories: [&str; 3],
        name: &str,
    ) -> (SocketAddress, Vec<SocketAddress>) {
        let [usual, ..] = directories;
        let path = |directory: &str| Path::new(directory).join(name);
        let may_be_at = |directory: &&str| {
            let owner = path(directory).symlink_metadata().map(|file| file.uid());
            let is_trusted = |uid| self.may_serve(uid) || is_unmapped(uid);
            owner.is_ok_and(|uid| *directory != PUBLIC_SOCKET_DIR || is_trusted(uid))
        };
        let mut found =
            directories.into_iter().filter(may_be_at).map(|it| SocketAddress::Path(path(it)));
        let first = found.next().unwrap_or_else(|| SocketAddress::Path(path(usual)));
        (first, found.collect())
    }

    /// Returns true if this user may serve: see [`Endpoint::server_uids`].
    pub(crate) fn may_serve(&self, uid: u32) -> bool {
        uid == 0 || is_own_uid(uid) || self.server_uids.contains(&uid)
    }

    /// Returns true if ring files of the user `uid` may be used with a server of `server_uid`: see
    /// [`Endpoint::server_uids`].
    pub(crate) fn may_own_rings(&self, uid: u32, server_uid: u32) -> bool {
        let can_give = server_uid == 0 || is_own_uid(server_uid) || is_unmapped(server_uid);
        uid == server_uid || (is_own_uid(uid) && can_give) || self.server_uids.contains(&uid)
    }

    pub(crate) fn name<'a>(&'a self, service: &'a str) -> &'a str {
        self.service_name.as_deref().unwrap_or(service)
    }

    /// Resets [`Endpoint::service_name`], for a second connection to another service.
    pub(crate) fn own_service_name(mut self) -> Self {
        self.service_name = None;
        self
    }

    /// Returns the directory of the rings: see [`Endpoint::shm_root`].
    pub fn shm_root_path(&self) -> &Path {
        &self.shm_root
    }

    /// Returns the directory of the rings that a server sends its clients.
    #[cfg(feature = "server")]
    pub(crate) fn client_shm_root_path(&self) -> &Path {
        self.client_shm_root.as_deref().unwrap_or(&self.shm_root)
    }

    pub(crate) fn ring_size_or(&self, default: u32) -> Result<u32> {
        match self.ring_size {
            None => Ok(default),
            Some(size) if (MIN_RING_SIZE..=MAX_RING_SIZE).contains(&size) => Ok(size),
            Some(size) => Err(Error::invalid(
                "ring size",
                format!("{size} bytes are not between {MIN_RING_SIZE} and {MAX_RING_SIZE}"),
            )),
        }
    }

    pub(crate) fn connect_timeout_value(&self) -> Duration {
        self.connect_timeout
    }

    /// Returns how long a call may take: see [`Endpoint::request_timeout`].
    pub fn request_timeout_value(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn refuses_forks(&self) -> bool {
        self.refuse_forks
    }

    pub(crate) fn waits_while_busy(&self) -> bool {
        self.wait_while_busy
    }
}

/// Parses a duration greater than 0: a number and `ms`, `s` or `m`. The command accepts more forms.
fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let invalid = || {
        format!("invalid duration \"{}\": write it like 500ms, 5s or 2m", Escaped(text.as_bytes()))
    };
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(invalid()),
    };
    let number: f64 = number.parse().map_err(|_| invalid())?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        _ => Err(invalid()),
    }
}

/// Returns true if a user id is certainly this process's user. The id that all unmapped users of a
/// user namespace share is not.
fn is_own_uid(uid: u32) -> bool {
    uid == geteuid().as_raw() && !is_unmapped(uid)
}

/// Parses user ids that commas separate.
fn parse_uids(text: &str) -> std::result::Result<Vec<u32>, String> {
    let parse = |uid: &str| {
        uid.trim().parse().map_err(|_| format!("\"{}\" is not a user id", Escaped(uid.as_bytes())))
    };
    text.split(',').map(parse).collect()
}

/// The end of a wait: a point in time, or never. Made from a [`Duration`] from now, an [`Instant`]
/// or [`Deadline::NEVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits for ever.
    pub const NEVER: Self = Self(None);

    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }
}

impl From<Duration> for Deadline {
    fn from(timeout: Duration) -> Self {
        // A timeout that the clock cannot express never expires.
        Self(Instant::now().checked_add(timeout))
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(Some(instant))
    }
}

/// Returns the time after a duration: as late as it can matter when the duration is longer than the
/// clock can express.
pub(crate) fn later(from: Instant, by: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    from.checked_add(by.min(FAR)).unwrap_or(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_and_without_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2.5s"), Ok(Duration::from_millis(2500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["", "s", "5 parsecs", "-1s", "1e3", "1..2s", "0", "0.0000001ms"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn variables_that_do_not_count_may_make_no_sense() {
        let nonsense = |name: &str| (name != ENV_SERVER_UID).then(|| OsString::from("soon"));
        let error = Endpoint::from_variables(nonsense).unwrap_err();
        assert!(error.to_string().contains(ENV_TIMEOUT), "{error}");
        let endpoint =
            Endpoint::from_variables(|name| nonsense(name).filter(|_| name != ENV_TIMEOUT))
                .unwrap();
        assert_eq!(endpoint, Endpoint::new().socket_dir("soon").shm_root("soon"));
    }

    #[test]
    fn user_ids_are_separated_by_commas() {
        assert_eq!(parse_uids("65534"), Ok(vec![65534]));
        assert_eq!(parse_uids("0, 109"), Ok(vec![0, 109]));
        for text in ["", "1,", "hacluster", "-1", "4294967296"] {
            assert!(parse_uids(text).is_err(), "{text}");
        }
    }

    #[test]
    fn root_and_the_own_user_may_serve_and_others_by_name() {
        let own = geteuid().as_raw();
        let endpoint = Endpoint::new();
        assert!(endpoint.may_serve(0) && endpoint.may_serve(own) && !endpoint.may_serve(own + 1));
        assert!(endpoint.server_uids([own + 1]).may_serve(own + 1));
    }

    #[test]
    fn ring_files_belong_to_either_end_or_to_who_may_serve() {
        let own = geteuid().as_raw();
        let endpoint = Endpoint::new().server_uids([own + 1]);
        // Only root gives files to this user.
        for (owner, server, is_fine) in
            [(0, 2, false), (1, 2, true), (2, 2, true), (3, 2, false), (2, 0, false)]
        {
            assert_eq!(
                endpoint.may_own_rings(own + owner, own + server),
                is_fine,
                "{owner} {server}"
            );
        }
        assert!(endpoint.may_own_rings(own, 0) && endpoint.may_own_rings(own, own));
        assert!(endpoint.server_uids([own]).may_own_rings(own, own + 2));
    }

    #[test]
    fn ring_sizes_out_of_range_are_named() {
        let error = Endpoint::new().ring_size(100).ring_size_or(1).unwrap_err();
        assert_eq!(error.to_string(), "ring size: 100 bytes are not between 4096 and 33554432");
        assert_eq!(Endpoint::new().ring_size_or(65536).unwrap(), 65536);
    }

    #[test]
    fn addresses_follow_the_kind_of_socket() {
        let address =
            Endpoint::new().socket_dir("/run/x").service_name("other").socket_address("cmap");
        assert_eq!(address, SocketAddress::Path("/run/x/other".into()));
        assert_eq!(
            Endpoint::new().socket_dir("/run/x").socket_address("cmap").path(),
            Some(Path::new("/run/x/cmap"))
        );
        let address = Endpoint::new().abstract_sockets().socket_address("cmap");
        assert_eq!(address.path(), None);
        assert_eq!(address, SocketAddress::Abstract("cmap".into()));
    }
}
