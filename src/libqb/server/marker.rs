//! What a server that was killed leaves behind: told by a marker from what belongs to others, and
//! by the marker's lock from what belongs to a server that runs. Processes' numbers tell neither:
//! the server may live in another pid namespace.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

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

/// A file in a directory that is locked while its server runs. The server's directories there have
/// one of the same name in them.
#[derive(Debug)]
pub(crate) struct Marker {
    root: OwnedFd,
    lock: LockedFile,
}

impl Marker {
    /// Marks what this server makes in a directory, from which it removes first what servers of
    /// this user left there that were killed.
    fn create(root: &Path) -> io::Result<Self> {
        let root = file::open_directory(root, [])?;
        let names = serve::names_in(&root, MAX_ENTRIES)?;
        let is_marker = |name: &&OsString| {
            name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        };
        for name in names.iter().filter(is_marker) {
            if let Some(lock) = LockedFile::open(&root, name) {
                remove_marked(&root, &names, name);
                lock.remove(&root);
            }
        }
        let lock = LockedFile::create(&root, PREFIX, SUFFIX)?;
        Ok(Self { root, lock })
    }

    /// Marks a directory.
    pub(crate) fn mark(&self, directory: &impl AsFd) -> io::Result<()> {
        serve::create_file(directory, self.name(), 0).map(drop)
    }

    /// The name of the marks.
    pub(crate) fn name(&self) -> &OsStr {
        self.lock.name()
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        self.lock.remove(&self.root);
    }
}

/// Removes the directories that have this mark in them.
fn remove_marked(root: &OwnedFd, names: &[OsString], mark: &OsStr) {
    for name in names {
        let Ok(directory) = serve::open_subdirectory(root, name) else {
            continue;
        };
        if serve::is_own_file(&directory, mark) {
            // A node's own has those of its connections in it. The mark is the last to go.
            for name in serve::names_in(&directory, MAX_ENTRIES).unwrap_or_default() {
                if let Ok(inner) = serve::open_subdirectory(&directory, &name) {
                    serve::empty_directory(&inner);
                }
            }
            serve::empty_directory(&directory);
            file::remove_directory(root, name);
        }
    }
}
