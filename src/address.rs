//! Where a service listens.

use std::fmt;
use std::path::{Path, PathBuf};

/// The address of a service's setup socket.
///
/// Prints as a path, or as `the abstract address @cmap`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// An abstract socket with this name. It belongs to a network namespace.
    Abstract(String),
    /// A socket that is a file.
    Path(PathBuf),
}

impl SocketAddress {
    /// The file that the socket is; `None` for an abstract address.
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
            Self::Abstract(name) => write!(f, "the abstract address @{name}"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}
