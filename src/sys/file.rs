//! Ring files. They are opened through their directory's descriptor and never through a link.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use super::socket::retry;

/// Returns the system's page size, the unit of mappings: 4 KiB on most processors, up to 64 KiB on
/// arm64 and ppc64.
pub(crate) fn page_size() -> usize {
    // SAFETY: reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    size.try_into().unwrap_or(4096)
}

/// Opens the directory `root`, or the last of the directories `below` it, each inside the one before
/// it. Follows no link below `root`.
pub(crate) fn open_directory<'a>(
    root: &Path,
    below: impl IntoIterator<Item = &'a OsStr>,
) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let inner = flags | OFlag::O_NOFOLLOW;
    let mut below = below.into_iter();
    let mut directory = match below.next() {
        // O_NOFOLLOW is about the last name of a path.
        Some(first) => retry(|| openat(AT_FDCWD, &root.join(first), inner, Mode::empty()))?,
        None => retry(|| openat(AT_FDCWD, root, flags, Mode::empty()))?,
    };
    for name in below {
        directory = retry(|| openat(&directory, name, inner, Mode::empty()))?;
    }
    Ok(directory)
}

/// What a file is, and whose.
pub(crate) struct Found {
    pub(crate) is_regular: bool,
    pub(crate) owner: u32,
    /// How many names it has.
    pub(crate) links: u64,
    /// Its device, and its number there. No other file has both.
    pub(crate) identity: (u64, u64),
    /// In bytes.
    pub(crate) size: u64,
}

impl From<FileStat> for Found {
    fn from(found: FileStat) -> Self {
        // The types of the fields differ between processors.
        fn wide(number: impl Into<u64>) -> u64 {
            number.into()
        }
        Self {
            is_regular: SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG,
            owner: found.st_uid,
            links: wide(found.st_nlink),
            identity: (wide(found.st_dev), wide(found.st_ino)),
            size: found.st_size.try_into().unwrap_or_default(),
        }
    }
}

/// Looks at a file without opening it, so that no device or peer notices. For a link it finds the
/// link itself.
pub(crate) fn look_at(directory: &impl AsFd, name: &OsStr) -> io::Result<Found> {
    Ok(retry(|| fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW))?.into())
}

/// Opens a regular file for reading and writing. Fails for a link.
pub(crate) fn open_regular(directory: &impl AsFd, name: &OsStr) -> io::Result<(File, Found)> {
    // O_NONBLOCK: opening a fifo or a device must not block.
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(retry(|| openat(directory, name, flags, Mode::empty()))?);
    let found = Found::from(retry(|| fstat(&file))?);
    if !found.is_regular {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, found))
}

/// Returns true if a user id stands for all users that this process's user namespace does not map.
pub(crate) fn is_unmapped(uid: u32) -> bool {
    const DEFAULT_OVERFLOW_UID: u32 = 65534;
    let read = |path| std::fs::read_to_string(path).ok();
    let overflow = read("/proc/sys/kernel/overflowuid").and_then(|uid| uid.trim().parse().ok());
    // Outside of user namespaces all users are mapped: "0 0 4294967295".
    let maps_all = || {
        read("/proc/self/uid_map")
            .is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
    };
    uid == overflow.unwrap_or(DEFAULT_OVERFLOW_UID) && !maps_all()
}

/// Removes a file. For a link it removes the link, not the target.
pub(crate) fn remove_file(directory: &impl AsFd, name: &OsStr) {
    let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
}

/// Removes a file that is a socket.
pub(crate) fn remove_socket(path: &Path) {
    if path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket()) {
        let _ = std::fs::remove_file(path);
    }
}

/// Removes an empty directory. Returns true if it was removed.
pub(crate) fn remove_directory(parent: &impl AsFd, name: &OsStr) -> bool {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).is_ok()
}

/// Returns true if a process has certainly ended, or is ending and runs no code of its own any more.
/// Returns false for pid 0, which stands for a process of another pid namespace.
pub(crate) fn process_is_gone(pid: i32) -> bool {
    pid > 0 && (kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) || process_is_ending(pid))
}

/// Returns the name of a process. The kernel keeps 15 bytes of it.
#[cfg(feature = "server")]
pub(crate) fn process_name(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.0.split_once('(')?.1.to_owned())
}

/// Whether a process is a zombie or the kernel takes it down. In `/proc/PID/stat` the state and, as
/// the sixth field behind it, the flags follow the name in parentheses.
fn process_is_ending(pid: i32) -> bool {
    /// `PF_EXITING` in Linux's `sched.h`. It is set before the process's sockets are closed.
    const EXITING: u32 = 4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
    let mut fields = fields.split(' ');
    let is_zombie = fields.next().is_some_and(|state| matches!(state, "Z" | "X"));
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u32>().ok());
    is_zombie || flags.is_some_and(|flags| flags & EXITING != 0)
}
