//! What a server that was killed leaves behind: told by a list from what belongs to others, and by
//! the lock on the list from what belongs to a server that runs. Processes' numbers tell neither:
//! the server may live in another pid namespace.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::error::{Error, Result};
use crate::sys::file;
use crate::sys::serve::{self, LockedFile};

/// What the names of markers begin and end with.
const PREFIX: &str = "corosync-ipc-";
const SUFFIX: &str = ".lock";

/// How much is looked at in a directory that anybody may fill.
const MAX_ENTRIES: usize = 1 << 16;

/// The marker of a directory, which is there while somebody has it.
#[derive(Debug)]
pub(crate) struct Marking {
    root: PathBuf,
    current: Mutex<Weak<Marker>>,
}

impl Marking {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf(), current: Mutex::default() }
    }

    /// The one that is there, or another.
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

/// The room of a directory's entry in a marker: name, device and inode as text, then zeros.
const ENTRY: usize = 128;

/// The most entries that are read: more than there can be connections.
const MAX_MARKS: usize = 1 << 16;

/// What the names of this crate's directories begin with.
const OWN: [&str; 2] = ["qb-", "corosync-ipc-"];

/// A file in a directory that is locked while its server runs. It lists the server's directories
/// there by name, device and inode: whoever is given a directory can neither write to the list nor
/// put anything else in the place of what it lists.
#[derive(Debug)]
pub(crate) struct Marker {
    root: OwnedFd,
    lock: LockedFile,
    /// Which entries are taken.
    taken: Mutex<Vec<bool>>,
}

/// An entry in a marker. Dropping it takes it off the list.
#[derive(Debug)]
pub(crate) struct Mark {
    marker: Arc<Marker>,
    at: usize,
}

impl Marker {
    /// Lists what this server makes in a directory, from which it removes first what servers of
    /// this user left there that were killed.
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

    /// Puts a directory on the list, before anybody else is given it.
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
        // The room is there already. What stays on the list by a failure is not there any more.
        let _ = self.marker.lock.write_at(&[0; ENTRY], self.at * ENTRY);
        self.marker.taken().get_mut(self.at).into_iter().for_each(|taken| *taken = false);
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.lock.remove(&self.root);
    }
}

/// Removes the directory of an entry, if it is that one still.
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
        // A node's own, which nobody else was given, has those of its connections in it.
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
