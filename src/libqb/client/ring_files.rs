//! The files of a connection's rings. The daemon names them, and may name another user's files, so
//! all are checked before one is opened.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::libc;
use nix::unistd::geteuid;

use super::connect::system;
use crate::endpoint::Endpoint;
use crate::error::{Error, Escaped, Result, RingFileFault, Stage};
use crate::libqb::handshake::{DATA_SUFFIX, HEADER_SUFFIX, RingName};
use crate::sys::file::{self, Found};

/// The two files of a ring.
pub(super) struct RingFiles {
    pub(super) header: SizedFile,
    pub(super) data: SizedFile,
}

/// A file, and how long it was when it was opened.
pub(super) struct SizedFile {
    pub(super) file: File,
    pub(super) size: u64,
}

/// Opens the files of the rings, which lie in one directory.
///
/// # Errors
/// [`Error::RingFile`] before a file is opened, unless files are replaced meanwhile;
/// [`Error::RingsNotVisible`]; [`Error::System`] for a limit.
pub(super) fn open(
    service: &str,
    endpoint: &Endpoint,
    server_uid: u32,
    names: &[RingName; 3],
) -> Result<[RingFiles; 3]> {
    open_all(service, endpoint, server_uid, names).map_err(or_limit)
}

/// Makes another error of a limit of this process or machine: the files are where they should be.
fn or_limit(error: Error) -> Error {
    match error {
        Error::RingsNotVisible { path, source }
            if matches!(
                source.raw_os_error(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM)
            ) =>
        {
            system(
                Stage::Rings,
                format!("opening {}", Escaped(path.as_os_str().as_bytes())),
                source,
            )
        }
        error => error,
    }
}

fn open_all(
    service: &str,
    endpoint: &Endpoint,
    server_uid: u32,
    names: &[RingName; 3],
) -> Result<[RingFiles; 3]> {
    let [request, response, event] = names;
    let opening = Opening::new(service, endpoint, server_uid, request)?;
    let mut seen = Vec::new();
    for name in names {
        for suffix in [HEADER_SUFFIX, DATA_SUFFIX] {
            opening.look_at(name, suffix, &mut seen)?;
        }
    }
    seen.clear();
    let mut open = |name| -> Result<RingFiles> {
        let header = opening.open(name, HEADER_SUFFIX, &mut seen)?;
        Ok(RingFiles { header, data: opening.open(name, DATA_SUFFIX, &mut seen)? })
    };
    Ok([open(request)?, open(response)?, open(event)?])
}

/// Opens the control file of a connection of datagrams.
///
/// # Errors
/// As [`open`].
pub(super) fn open_control(
    service: &str,
    endpoint: &Endpoint,
    server_uid: u32,
    name: &RingName,
) -> Result<SizedFile> {
    let open = || {
        let opening = Opening::new(service, endpoint, server_uid, name)?;
        opening.look_at(name, "", &mut Vec::new())?;
        opening.open(name, "", &mut Vec::new())
    };
    open().map_err(or_limit)
}

struct Opening<'a> {
    service: &'a str,
    endpoint: &'a Endpoint,
    server_uid: u32,
    directory: OwnedFd,
    path: PathBuf,
}

impl<'a> Opening<'a> {
    fn new(
        service: &'a str,
        endpoint: &'a Endpoint,
        server_uid: u32,
        name: &RingName,
    ) -> Result<Self> {
        let root = endpoint.shm_root_path();
        let path = root.join(name.directories.iter().collect::<PathBuf>());
        let directory = file::open_directory(root, name.directories.iter().map(AsRef::as_ref));
        let directory = directory.map_err(|source| match source.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => {
                let (service, path) = (service.to_owned().into(), path.clone());
                Error::RingFile { service, path, owner: None, fault: RingFileFault::NotADirectory }
            }
            _ => Error::RingsNotVisible { path: path.clone(), source },
        })?;
        Ok(Self { service, endpoint, server_uid, directory, path })
    }

    fn look_at(&self, name: &RingName, suffix: &str, seen: &mut Vec<(u64, u64)>) -> Result<()> {
        let name = name.file(suffix);
        let found = file::look_at(&self.directory, &name);
        let found = found.map_err(|source| self.not_visible(&name, source))?;
        self.check(&name, &found, seen)
    }

    fn open(&self, name: &RingName, suffix: &str, seen: &mut Vec<(u64, u64)>) -> Result<SizedFile> {
        let name = name.file(suffix);
        let opened = file::open_regular(&self.directory, &name);
        let (file, found) = opened.map_err(|source| self.not_visible(&name, source))?;
        self.check(&name, &found, seen)?;
        Ok(SizedFile { file, size: found.size })
    }

    fn not_visible(&self, name: &OsStr, source: io::Error) -> Error {
        Error::RingsNotVisible { path: self.path.join(name), source }
    }

    /// Refuses a file that may belong to another connection. The files of a connection are private
    /// to the client's user or the server's. A file of a third user belongs to another connection;
    /// a client of root could open it all the same. A file of this user was given away by root, so
    /// when the server is not root, it belongs to another connection too.
    fn check(&self, name: &OsStr, found: &Found, seen: &mut Vec<(u64, u64)>) -> Result<()> {
        let fault = if !found.is_regular {
            RingFileFault::NotAFile
        } else if !self.endpoint.may_own_rings(found.owner, self.server_uid) {
            let (own, server) = (geteuid().as_raw(), self.server_uid);
            if found.owner == own {
                RingFileFault::Ours { own, server }
            } else {
                RingFileFault::Owner { own, server }
            }
        } else if seen.contains(&found.identity) {
            RingFileFault::Twice
        } else if found.links != 1 {
            RingFileFault::Links(found.links)
        } else {
            seen.push(found.identity);
            return Ok(());
        };
        Err(Error::RingFile {
            service: self.service.to_owned().into(),
            path: self.path.join(name),
            owner: Some(found.owner),
            fault,
        })
    }
}
