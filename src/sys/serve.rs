//! System calls of servers: listening, waiting for many descriptors, creating directories and files
//! for rings.

use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, posix_fallocate};
use nix::libc;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, fchown, getegid, geteuid, unlinkat};

use super::file;
use super::socket::{connect_stream, retry};
use super::wait::{Interest, Ready, poll_until, wait_for};

/// Creates a non-blocking listener. Replaces a socket file that nobody listens at.
pub(crate) fn listen_stream(address: &UnixAddr) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match (bind(socket.as_raw_fd(), address), address.path()) {
        (Err(Errno::EADDRINUSE), Some(path)) if is_dead_socket(path, address) => {
            fs::remove_file(path)?;
            bind(socket.as_raw_fd(), address)?;
        }
        (result, _) => result?,
    }
    if let Some(path) = address.path() {
        // As qb_ipcs_us_publish. The server checks the credentials of each connection later.
        fs::set_permissions(path, Permissions::from_mode(0o777))?;
    }
    listen(&socket, Backlog::MAXCONN)?;
    Ok(UnixListener::from(socket))
}

/// Connecting without a request harms no daemon here: only libqb since 1.0.2 has socket files, and it
/// does not wait for the request.
fn is_dead_socket(path: &Path, address: &UnixAddr) -> bool {
    path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket())
        && connect_stream(address).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Accepts the next connection of a listener's queue.
pub(crate) fn accept_stream(listener: &UnixListener) -> io::Result<OwnedFd> {
    Ok(listener.accept()?.0.into())
}

/// Returns true if a connection waits in a listener's queue.
pub(crate) fn is_waited_at(listener: &UnixListener) -> bool {
    let ready = wait_for(listener, Interest::Readable, Some(Instant::now()));
    ready.is_ok_and(|ready| ready == Ready::Yes)
}

/// The events to wait for on a descriptor. A hang-up is always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The events seen on a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    pub(crate) hung_up: bool,
}

/// Waits until at least one descriptor has an event, or until `deadline`. Returns the events of
/// each descriptor, in order.
pub(crate) fn wait_for_any(
    watched: &[(BorrowedFd<'_>, Watch)],
    deadline: Option<Instant>,
) -> io::Result<Vec<Seen>> {
    let flags = |watch: &Watch| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, watch.readable);
        flags.set(PollFlags::POLLOUT, watch.writable);
        flags
    };
    let mut fds: Vec<PollFd<'_>> =
        watched.iter().map(|(fd, watch)| PollFd::new(*fd, flags(watch))).collect();
    poll_until(&mut fds, deadline)?;
    let seen = |fd: &PollFd<'_>| {
        // `None`: flags that nix does not know.
        let events = fd.revents().unwrap_or(PollFlags::POLLIN);
        Seen {
            readable: events.contains(PollFlags::POLLIN),
            writable: events.contains(PollFlags::POLLOUT),
            hung_up: events
                .intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
        }
    };
    Ok(fds.iter().map(seen).collect())
}

/// Yields random names: six characters between `prefix` and `suffix`. The number of names is
/// limited: only a process that takes names on purpose makes so many attempts fail.
fn names(prefix: &str, suffix: &str) -> impl Iterator<Item = OsString> {
    const CHARACTERS: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r',
        's', 't', 'u', 'v', 'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    const ATTEMPTS: usize = 100;

    (0..ATTEMPTS).map(move |_| {
        // A new value each time. A guess does no harm: existing files are not used.
        let random = RandomState::new().build_hasher().finish();
        let middle: String = (0..6)
            .filter_map(|at| CHARACTERS.get((random >> (at * 5)) as usize % CHARACTERS.len()))
            .collect();
        OsString::from(format!("{prefix}{middle}{suffix}"))
    })
}

/// Creates a directory with a new name: `prefix` and six characters. Its mode does not depend on
/// the umask.
pub(crate) fn create_directory(
    parent: &impl AsFd,
    prefix: &str,
    mode: u32,
) -> io::Result<(OsString, OwnedFd)> {
    for name in names(prefix, "") {
        match retry(|| mkdirat(parent, name.as_os_str(), Mode::S_IRWXU)) {
            Ok(()) => {
                let opened = open_subdirectory(parent, &name).and_then(|directory| {
                    retry(|| fchmod(&directory, Mode::from_bits_truncate(mode)))?;
                    Ok(directory)
                });
                if opened.is_err() {
                    file::remove_directory(parent, &name);
                }
                return opened.map(|directory| (name, directory));
            }
            Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Errno::EEXIST.into())
}

/// The most files that [`empty_directory`] removes. A client that creates more keeps the rest.
const MAX_LEFT: usize = 4096;

/// Empties a directory that was given to another user, who may have created anything in it. Removes
/// links without following them, and empty directories.
pub(crate) fn empty_directory(directory: &impl AsFd) {
    // Taking the directory back keeps others from adding files. Removing files then needs no
    // further privilege.
    let _ = fchown(directory, Some(geteuid()), Some(getegid()));
    let _ = fchmod(directory, Mode::S_IRWXU);
    let names = names_in(directory, MAX_LEFT).unwrap_or_default();
    for name in names {
        let is_gone = unlinkat(directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir).is_ok();
        let _ = is_gone || unlinkat(directory, name.as_os_str(), UnlinkatFlags::RemoveDir).is_ok();
    }
}

/// Opens a directory inside another. Fails for a link.
pub(crate) fn open_subdirectory(parent: &impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_RDONLY;
    Ok(retry(|| openat(parent, name, flags, Mode::empty()))?)
}

/// Returns a directory's device and inode, which identify it.
pub(crate) fn identity(directory: &OwnedFd) -> io::Result<(u64, u64)> {
    let found = File::from(directory.try_clone()?).metadata()?;
    Ok((found.dev(), found.ino()))
}

/// Returns true if a directory belongs to this process's user and nobody else has access.
pub(crate) fn is_private(directory: &OwnedFd) -> bool {
    let found = directory.try_clone().and_then(|directory| File::from(directory).metadata());
    found.is_ok_and(|it| it.uid() == geteuid().as_raw() && it.mode() & 0o077 == 0)
}

/// Returns true if the file is a regular one that belongs to this process's user.
pub(crate) fn is_own_file(directory: &impl AsFd, name: &OsStr) -> bool {
    file::look_at(directory, name)
        .is_ok_and(|found| found.is_regular && found.owner == geteuid().as_raw())
}

/// A locked file. The kernel drops the lock when the process ends in any way.
#[derive(Debug)]
pub(crate) struct LockedFile {
    name: OsString,
    lock: Flock<File>,
}

impl LockedFile {
    /// Opens and locks a file of this process's user. `None` if another process has locked it.
    pub(crate) fn open(directory: &impl AsFd, name: &OsStr) -> Option<Self> {
        let is_own = is_own_file(directory, name);
        let (file, _) = file::open_regular(directory, name).ok().filter(|_| is_own)?;
        Self::lock(file, name)
    }

    /// Creates and locks a file with a new name.
    pub(crate) fn create(directory: &impl AsFd, prefix: &str, suffix: &str) -> io::Result<Self> {
        for name in names(prefix, suffix) {
            match create_file(directory, &name, 0) {
                Ok(file) => {
                    // If the lock fails, another process takes the file for a stale one and is
                    // about to remove it: try another name.
                    if let Some(locked) = Self::lock(file, &name) {
                        return Ok(locked);
                    }
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(Errno::EEXIST.into())
    }

    fn lock(file: File, name: &OsStr) -> Option<Self> {
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()?;
        // Refuses a file that was removed meanwhile (no link) or that has a second name (two
        // links).
        let is_there = lock.metadata().is_ok_and(|file| file.nlink() == 1);
        is_there.then(|| Self { name: name.to_owned(), lock })
    }

    /// Reads the file, at most `limit` bytes.
    pub(crate) fn read(&self, limit: usize) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Read::take(&*self.lock, limit as u64).read_to_end(&mut content)?;
        Ok(content)
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: usize) -> io::Result<()> {
        self.lock.write_all_at(bytes, offset as u64)
    }

    pub(crate) fn remove(&self, directory: &impl AsFd) {
        file::remove_file(directory, &self.name);
    }
}

/// Returns the names of a directory's entries, at most `limit`.
pub(crate) fn names_in(directory: &impl AsFd, limit: usize) -> io::Result<Vec<OsString>> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut listed = Dir::from_fd(retry(|| openat(directory, ".", flags, Mode::empty()))?)?;
    let names = listed
        .iter()
        .filter_map(|entry| Some(OsStr::from_bytes(entry.ok()?.file_name().to_bytes()).to_owned()));
    Ok(names.filter(|name| name != "." && name != "..").take(limit).collect())
}

/// How much of a file's space is allocated at a time. When a signal comes, older kernels undo a whole
/// call on a tmpfs, and periodic signals would never let a long one end.
const PIECE: usize = 64 << 10;

/// Creates a file of zeros that only its owner may use. Allocates all of its space, so that later
/// writes cannot fail.
pub(crate) fn create_file(directory: &impl AsFd, name: &OsStr, size: usize) -> io::Result<File> {
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = File::from(retry(|| openat(directory, name, flags, mode))?);
    retry(|| fchmod(&file, mode))?;
    for start in (0..size).step_by(PIECE) {
        let length = PIECE.min(size - start);
        let offset = |bytes| libc::off_t::try_from(bytes).map_err(|_| Errno::EFBIG);
        let (start, length) = (offset(start)?, offset(length)?);
        retry(|| posix_fallocate(&file, start, length))?;
    }
    Ok(file)
}
