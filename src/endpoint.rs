//! Where the daemon is and how long to wait for it.

use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use crate::address::SocketAddress;
use crate::error::Escaped;
use crate::error::{Error, Result};
use crate::sys::file::is_unmapped;

/// Overrides [`Endpoint::socket_dir`].
pub const ENV_SOCKET_DIR: &str = "COROSYNC_IPC_SOCKET_DIR";
/// Overrides [`Endpoint::shm_root`].
pub const ENV_SHM_ROOT: &str = "COROSYNC_IPC_SHM_ROOT";
/// Overrides [`Endpoint::timeout`].
pub const ENV_TIMEOUT: &str = "COROSYNC_IPC_TIMEOUT";
/// Overrides [`Endpoint::server_uids`].
pub const ENV_SERVER_UID: &str = "COROSYNC_IPC_SERVER_UID";

/// Where libqb keeps its filesystem sockets on Linux.
const DEFAULT_SOCKET_DIR: &str = "/var/run";

/// Where Debian's libqb keeps them.
const DEBIAN_SOCKET_DIR: &str = "/tmp";

/// Whoever creates this file makes every libqb program on the machine use filesystem sockets.
const FORCE_FILESYSTEM_SOCKETS: &str = "/etc/libqb/force-filesystem-sockets";

/// Where daemons make their rings.
const DEFAULT_SHM_ROOT: &str = "/dev/shm";

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The smallest ring that can be asked for, in bytes: replies of fixed size fit in it.
pub const MIN_RING_SIZE: u32 = 4096;

/// The largest ring that can be asked for, in bytes.
pub const MAX_RING_SIZE: u32 = 32 << 20;

/// Where the daemon is and how long to wait for it. The default is what the C libraries use, with
/// deadlines.
///
/// ```
/// use std::time::Duration;
/// use corosync_ipc::Endpoint;
///
/// // The daemon of the host, seen from a container that has the host's directories mounted.
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
    told_shm_root: Option<PathBuf>,
    server_uids: Vec<u32>,
    service_name: Option<Cow<'static, str>>,
    ring_size: Option<u32>,
    connect_timeout: Duration,
    request_timeout: Duration,
    wait_while_busy: bool,
}

/// Which kind of socket the daemon listens at.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sockets {
    /// As libqb decides: abstract, unless a file on the machine says otherwise.
    Default,
    Abstract,
    Directory(PathBuf),
}

impl Default for Endpoint {
    fn default() -> Self {
        Self::new()
    }
}

impl Endpoint {
    /// The daemon that the C libraries would talk to, with 5 seconds to connect and 5 seconds for
    /// each call.
    pub fn new() -> Self {
        Self {
            sockets: Sockets::Default,
            shm_root: PathBuf::from(DEFAULT_SHM_ROOT),
            told_shm_root: None,
            server_uids: Vec::new(),
            service_name: None,
            ring_size: None,
            connect_timeout: DEFAULT_TIMEOUT,
            request_timeout: DEFAULT_TIMEOUT,
            wait_while_busy: true,
        }
    }

    /// [`Endpoint::new`], changed by the environment variables `COROSYNC_IPC_SOCKET_DIR`,
    /// `COROSYNC_IPC_SHM_ROOT`, `COROSYNC_IPC_TIMEOUT` (such as `500ms`, `5s` or `2m`) and
    /// `COROSYNC_IPC_SERVER_UID` (numbers, with commas between them). What `connect()` without
    /// an endpoint uses.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names a variable with a value that makes no sense.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// [`Endpoint::from_env`] with another source of the variables. A program whose options win
    /// over them leaves out those that do not count, so that these may make no sense.
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

    /// The services listen at abstract addresses, whatever the machine's libqb is told.
    pub fn abstract_sockets(mut self) -> Self {
        self.sockets = Sockets::Abstract;
        self
    }

    /// The services listen at sockets in this directory.
    pub fn socket_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.sockets = Sockets::Directory(directory.into());
        self
    }

    /// The daemon's `/dev/shm` is seen here as this directory. Default: `/dev/shm`.
    pub fn shm_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.shm_root = directory.into();
        self
    }

    /// A server's clients see [`Endpoint::shm_root`] as this directory, in whose terms they are
    /// told where their rings are. Default: the same. For C programs in containers that have
    /// the directory mounted elsewhere. Clients of this crate take `/dev/shm`, if told so, for
    /// their own [`Endpoint::shm_root`].
    pub fn told_shm_root(mut self, directory: impl Into<PathBuf>) -> Self {
        self.told_shm_root = Some(directory.into());
        self
    }

    /// Which users may serve besides root and this process's own (its effective uid). Default: no
    /// others. Replaces those named before.
    ///
    /// Any user can take a service's abstract name while its daemon is down. So a client asks the
    /// kernel who listens, and who answers, before it opens a file or sends a request, and
    /// refuses other users with [`Error::UntrustedServer`](crate::Error::UntrustedServer). corosync
    /// runs as root; name the users of other daemons, such as Pacemaker's `hacluster`. Trust a
    /// user named here with all that is sent to the service.
    ///
    /// The files of the rings must belong to the one who serves, to one named here, or to this
    /// process's user; to the last only when root serves, or one who may be root of another
    /// user namespace, since nobody else can give files away. So a server that is not root cannot
    /// lead its client to files that another daemon made for a connection of the same user. Root
    /// could, and needs no such help; so could, where 65534 is allowed, every user that is not
    /// mapped, until that connection has taken its files into use.
    ///
    /// In a user namespace (a rootless container), users of the host have other numbers than there,
    /// and all those that the namespace does not map have one number, 65534 as a rule. The
    /// host's root is usually one of them: a client in such a container needs
    /// `server_uids([65534])` to reach the host's corosync, and thereby trusts all users that are
    /// not mapped. A client that has that number itself is served by root only, until then. A
    /// client on the host sees a daemon in such a container as the user that its root is mapped
    /// to, and may find its ring files with another such user.
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

    /// The service goes by another name than its own.
    pub fn service_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Room in each of the three rings, in bytes, from [`MIN_RING_SIZE`] to [`MAX_RING_SIZE`]. A
    /// connection takes a bit more than three times that in `/dev/shm`.
    ///
    /// Without it each service has a default that every message fits in: 16 KiB for quorum,
    /// votequorum and cfg, 256 KiB for cmap, 1 MiB for cpg and evs. An event that does not fit
    /// would wait in the daemon for ever, so only make rings smaller when the events are known
    /// to be small: a notification of cmap can have 33 KiB. The C libraries always ask for 1 MiB.
    pub fn ring_size(mut self, bytes: u32) -> Self {
        self.ring_size = Some(bytes);
        self
    }

    /// How long connecting may take and how long each call may. [`within`](crate::within) gives
    /// several calls one deadline.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.connect_timeout(timeout).request_timeout(timeout)
    }

    /// How long connecting may take, with all that belongs to it: the socket, the daemon's answer,
    /// the rings, and what a service is asked before there is a client.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a call may take, whatever requests it makes, to this service or to others, and
    /// waiting for other threads' requests included. Two calls may take longer: a
    /// [multicast](crate::cpg::Client::multicast) in fragments, which may take this long for each,
    /// and a [shutdown](crate::cfg::Client::try_shutdown) that others are asked about.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Whether a call goes on trying when the daemon is too busy for it, which it is while the
    /// cluster's nodes synchronize, or while a queue is full. Default: yes, until the [request
    /// timeout](Endpoint::request_timeout), with pauses of 1 to 50 ms; only the last refusal is
    /// told, as [`Error::Cs`](crate::Error::Cs) with
    /// [`CsError::TryAgain`](crate::CsError::TryAgain). With `false` the first refusal is told
    /// at once, as the C libraries do, and whoever calls decides when to call again. In either case
    /// a call that was refused was not carried out by corosync 2.1 or later.
    ///
    /// Calls of several requests, such as [`cmap::Client::list`](crate::cmap::Client::list), end
    /// with the first of them that is refused. Some things wait all the same: a
    /// [multicast](crate::cpg::Client::multicast) in fragments, and a cpg join or leave for the
    /// leave or join before it ([`CsError::Busy`](crate::CsError::Busy)), as in C; and
    /// connecting, unlike in C, for a daemon that is starting. Other multicasts of cpg wait by
    /// name: [`multicast`](crate::cpg::Client::multicast) does,
    /// [`try_multicast`](crate::cpg::Client::try_multicast) does not.
    pub fn wait_while_busy(mut self, wait: bool) -> Self {
        self.wait_while_busy = wait;
        self
    }

    /// Where the socket of a service is looked for.
    pub fn socket_address(&self, service: &str) -> SocketAddress {
        let name = self.name(service);
        match &self.sockets {
            Sockets::Directory(directory) => SocketAddress::Path(directory.join(name)),
            Sockets::Default if Path::new(FORCE_FILESYSTEM_SOCKETS).exists() => {
                SocketAddress::Path(self.default_socket_path(name))
            }
            Sockets::Default | Sockets::Abstract => SocketAddress::Abstract(name.to_owned()),
        }
    }

    /// Where libqb was built to keep filesystem sockets, found by looking. In Debian's directory
    /// anybody can make one, so there it must belong to a user that may serve.
    fn default_socket_path(&self, name: &str) -> PathBuf {
        let usual = Path::new(DEFAULT_SOCKET_DIR).join(name);
        let debian = Path::new(DEBIAN_SOCKET_DIR).join(name);
        let trusted =
            |path: &Path| path.symlink_metadata().is_ok_and(|file| self.may_serve(file.uid()));
        if !usual.exists() && trusted(&debian) { debian } else { usual }
    }

    /// Whether this user may serve; see [`Endpoint::server_uids`].
    pub(crate) fn may_serve(&self, uid: u32) -> bool {
        uid == 0 || is_own(uid) || self.server_uids.contains(&uid)
    }

    /// Whether ring files of this user may be used with a server of another; see
    /// [`Endpoint::server_uids`].
    pub(crate) fn may_own_rings(&self, uid: u32, server_uid: u32) -> bool {
        let could_give = server_uid == 0 || is_own(server_uid) || is_unmapped(server_uid);
        uid == server_uid || (is_own(uid) && could_give) || self.server_uids.contains(&uid)
    }

    pub(crate) fn name<'a>(&'a self, service: &'a str) -> &'a str {
        self.service_name.as_deref().unwrap_or(service)
    }

    /// The same without another name for the service, for a second connection, to another service.
    pub(crate) fn own_service_name(mut self) -> Self {
        self.service_name = None;
        self
    }

    /// Where the rings are looked for; see [`Endpoint::shm_root`].
    pub fn shm_root_path(&self) -> &Path {
        &self.shm_root
    }

    /// Where a server tells its clients that their rings are.
    #[cfg(feature = "server")]
    pub(crate) fn told_shm_root_path(&self) -> &Path {
        self.told_shm_root.as_deref().unwrap_or(&self.shm_root)
    }

    pub(crate) fn ring_size_or(&self, default: u32) -> Result<u32> {
        match self.ring_size {
            None => Ok(default),
            Some(size) if (MIN_RING_SIZE..=MAX_RING_SIZE).contains(&size) => Ok(size),
            Some(size) => Err(Error::invalid(
                "ring size",
                format!("{size} bytes is not between {MIN_RING_SIZE} and {MAX_RING_SIZE}"),
            )),
        }
    }

    pub(crate) fn connect_timeout_value(&self) -> Duration {
        self.connect_timeout
    }

    /// How long a call may take: see [`Endpoint::request_timeout`].
    pub fn request_timeout_value(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn waits_while_busy(&self) -> bool {
        self.wait_while_busy
    }
}

/// Reads a duration that is not 0: a number and `ms`, `s` or `m`. The command reads more forms.
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

/// Whether a user id surely is this process's user. In a user namespace the number of all users
/// that it does not map is nobody's own.
fn is_own(uid: u32) -> bool {
    uid == geteuid().as_raw() && !is_unmapped(uid)
}

/// Reads user ids with commas between them.
fn parse_uids(text: &str) -> std::result::Result<Vec<u32>, String> {
    let parse = |uid: &str| {
        uid.trim().parse().map_err(|_| format!("\"{}\" is not a user id", Escaped(uid.as_bytes())))
    };
    text.split(',').map(parse).collect()
}

/// When waiting ends: a point in time, or never. Made from a [`Duration`] from now, an [`Instant`],
/// or [`Deadline::NEVER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Wait for ever.
    pub const NEVER: Self = Self(None);

    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }
}

impl From<Duration> for Deadline {
    fn from(timeout: Duration) -> Self {
        // A timeout beyond what the clock can express is as good as none.
        Self(Instant::now().checked_add(timeout))
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(Some(instant))
    }
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
        assert_eq!(error.to_string(), "ring size: 100 bytes is not between 4096 and 33554432");
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
