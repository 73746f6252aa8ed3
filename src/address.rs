//! The address that a service listens at.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::escaped::Escaped;

/// The address of a service's setup socket.
///
/// Prints as a path, or as `the abstract address @cmap`, [escaped](crate::Escaped): a daemon may have
/// chosen it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// An abstract socket with this name. Only its network namespace can reach it.
    Abstract(String),
    /// A socket file.
    Path(PathBuf),
}

impl SocketAddress {
    /// Returns the path of a socket file. `None` for an abstract address.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Abstract(_) => None,
            Self::Path(path) => Some(path),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Abstract(name) => {
                write!(f, "the abstract address @{}", Escaped(name.as_bytes()))
            }
            Self::Path(path) => Escaped(path.as_os_str().as_bytes()).fmt(f),
        }
    }
}
