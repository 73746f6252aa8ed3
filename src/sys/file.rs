//! Files of rings: opened through their directory's handle, never through a link.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, UnlinkatFlags, unlinkat};

use super::socket::retry;

/// Opens the directory at `root`, then one directory after the other below it.
pub(crate) fn open_directory<'a>(
    root: &Path,
    below: impl IntoIterator<Item = &'a OsStr>,
) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let mut directory = retry(|| open(root, flags, Mode::empty()))?;
    for name in below {
        directory = retry(|| openat(&directory, name, flags | OFlag::O_NOFOLLOW, Mode::empty()))?;
    }
    Ok(directory)
}

/// Opens a regular file for reading and writing.
pub(crate) fn open_regular(directory: &impl AsFd, name: &OsStr) -> io::Result<File> {
    // O_NONBLOCK: should it be a fifo or a device, the open must not hang.
    let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(retry(|| openat(directory, name, flags, Mode::empty()))?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file)
}

/// Looks at a file without opening it, so that neither its user nor a device notices. A link is
/// looked at itself.
pub(crate) fn look_at(directory: &impl AsFd, name: &OsStr) -> io::Result<Metadata> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    File::from(retry(|| openat(directory, name, flags, Mode::empty()))?).metadata()
}

/// Whether a user id is the one that stands for all users whom this process's user namespace does
/// not map.
pub(crate) fn is_unmapped(uid: u32) -> bool {
    const DEFAULT_OVERFLOW_UID: u32 = 65534;
    let read = |path| std::fs::read_to_string(path).ok();
    let overflow = read("/proc/sys/kernel/overflowuid").and_then(|uid| uid.trim().parse().ok());
    // Outside of user namespaces all are mapped: 0 0 4294967295.
    let maps_all = || {
        read("/proc/self/uid_map")
            .is_some_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]))
    };
    uid == overflow.unwrap_or(DEFAULT_OVERFLOW_UID) && !maps_all()
}

/// Removes a file; a link is removed itself, not what it points to.
pub(crate) fn remove_file(directory: &impl AsFd, name: &OsStr) {
    let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir);
}

/// Removes an empty directory. Whether it was removed.
pub(crate) fn remove_directory(parent: &impl AsFd, name: &OsStr) -> bool {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir).is_ok()
}

/// Whether the process has certainly ended, waited for by its parent or not. Unknown processes (pid
/// 0: another pid namespace) have not.
pub(crate) fn process_is_gone(pid: i32) -> bool {
    pid > 0
        && (kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH)
            || process_state(pid).is_some_and(|state| "ZX".contains(state)))
}

/// The name of a process, of which the system keeps 15 bytes.
#[cfg(feature = "server")]
pub(crate) fn process_name(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.0.split_once('(')?.1.to_owned())
}

/// The state letter of a process, which in `/proc/PID/stat` stands behind its name in parentheses.
fn process_state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
