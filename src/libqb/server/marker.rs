//! Removes what a killed server left behind. A list names the directories that the server made, so
//! that no others are removed. A lock on the list shows that its server still runs. Process ids
//! would show neither, since the server may be in another pid namespace.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::sys::file;
use crate::sys::serve::{self, LockedFile};

/// The prefix and the suffix of the names of markers.
const PREFIX: &str = "corosync-ipc-";
const SUFFIX: &str = ".lock";

/// How many entries are read of a directory that anybody may fill.
const MAX_ENTRIES: usize = 1 << 16;

/// The marker of a directory. It exists while a connection or a service uses it.
#[derive(Debug)]
pub(crate) struct Marking {
    root: PathBuf,
    current: Mutex<Weak<Marker>>,
}

impl Marking {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), current: Mutex::default() }
    }

    /// Returns the marker, and makes it if there is none.
    pub(crate) fn get(&self) -> Result<Arc<Marker>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(marker) = current.upgrade() {
            return Ok(marker);
        }
        let failed =
            |source| Error::system(format!("making a file in {}", self.root.display()), source);
        let marker = Arc::new(Marker::create(&self.root).map_err(failed)?);
        *current = Arc::downgrade(&marker);
        Ok(marker)
    }
}

/// The size of a directory's entry in a marker: name, device and inode as text, then zeros.
const ENTRY: usize = 128;

/// How many entries of a marker are read: more than there can be connections.
const MAX_MARKS: usize = 1 << 16;

/// The prefixes of the names of this crate's directories.
const OWN: [&str; 2] = ["qb-", "corosync-ipc-"];

/// A file that is locked while its server runs. It lists the server's directories beside it by
/// name, device and inode. The user to whom a directory is given cannot write to the list, and
/// cannot replace what it lists.
#[derive(Debug)]
pub(crate) struct Marker {
    root: OwnedFd,
    lock: LockedFile,
    /// For each entry, whether it is in use.
    taken: Mutex<Vec<bool>>,
}

/// An entry in a marker. Dropping it clears the entry.
#[derive(Debug)]
pub(crate) struct Mark {
    marker: Arc<Marker>,
    at: usize,
}

impl Marker {
    /// Makes a marker in a directory. First removes what killed servers of this user left there.
    fn create(root: &Path) -> io::Result<Self> {
        let root = file::open_directory(root, [])?;
        let names = serve::names_in(&root, MAX_ENTRIES)?;
        let is_marker = |name: &&OsString| {
            name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        };
        for name in names.iter().filter(is_marker) {
            if let Some(lock) = LockedFile::open(&root, name) {
                for entry in lock.read(MAX_MARKS * ENTRY).unwrap_or_default().chunks_exact(ENTRY) {
                    remove_listed(&root, entry);
                }
                lock.remove(&root);
            }
        }
        let lock = LockedFile::create(&root, PREFIX, SUFFIX)?;
        Ok(Self { root, lock, taken: Mutex::default() })
    }

    /// Adds a directory to the list. Call it before the directory is given to another user.
    pub(crate) fn mark(self: &Arc<Self>, name: &OsStr, directory: &OwnedFd) -> io::Result<Mark> {
        let (device, inode) = serve::identity(directory)?;
        let name = name.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        let mut entry = format!("{name}\n{device}\n{inode}\n").into_bytes();
        if entry.len() > ENTRY {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        entry.resize(ENTRY, 0);
        let at = {
            let mut taken = self.taken();
            let free = taken.iter().position(|taken| !taken).unwrap_or(taken.len());
            if free == taken.len() {
                taken.push(false);
            }
            taken.get_mut(free).into_iter().for_each(|taken| *taken = true);
            free
        };
        let mark = Mark { marker: Arc::clone(self), at };
        self.lock.write_at(&entry, at * ENTRY)?;
        Ok(mark)
    }

    fn taken(&self) -> MutexGuard<'_, Vec<bool>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // The file has that size already. An entry that stays after an error names a directory that
        // is gone.
        let _ = self.marker.lock.write_at(&[0; ENTRY], self.at * ENTRY);
        self.marker.taken().get_mut(self.at).into_iter().for_each(|taken| *taken = false);
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.lock.remove(&self.root);
    }
}

/// Removes the directory of an entry, if it is still the same directory.
fn remove_listed(root: &OwnedFd, entry: &[u8]) {
    let text = str::from_utf8(entry).unwrap_or_default();
    let mut fields = text.split('\n');
    let (Some(name), Some(device), Some(inode)) = (fields.next(), fields.next(), fields.next())
    else {
        return;
    };
    if !OWN.iter().any(|own| name.starts_with(own)) || name.contains('/') {
        return;
    }
    let name = OsStr::new(name);
    let Ok(directory) = serve::open_subdirectory(root, name) else { return };
    let identity = (device.parse().ok(), inode.parse().ok());
    if serve::identity(&directory)
        .is_ok_and(|(device, inode)| identity == (Some(device), Some(inode)))
    {
        // A private directory is that of a node. It holds the directories of connections.
        if serve::is_private(&directory) {
            for name in serve::names_in(&directory, MAX_ENTRIES).unwrap_or_default() {
                if let Ok(inner) = serve::open_subdirectory(&directory, &name) {
                    serve::empty_directory(&inner);
                }
            }
        }
        serve::empty_directory(&directory);
        file::remove_directory(root, name);
    }
}
