//! The files that a killed daemon leaves behind.

use std::ffi::OsString;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::libqb::handshake::RingName;
use crate::sys::file;

/// How long to wait before checking again whether the daemon's process is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The files of a connection, and the process that made them.
pub(super) struct Origin {
    shm_root: PathBuf,
    /// Directories below the root, in the last of which the files lie.
    directories: Vec<OsString>,
    files: Vec<OsString>,
    /// `None`: the names do not tell who made the files.
    server_pid: Option<i32>,
    client_pid: Option<u32>,
    /// Whether the client removes the files in any case.
    is_shared: bool,
}

impl Origin {
    /// The files of a connection to the process `server_pid`, which lie where `name` says.
    pub(super) fn new(
        endpoint: &Endpoint,
        name: &RingName,
        files: Vec<OsString>,
        server_pid: i32,
    ) -> Self {
        Self {
            shm_root: endpoint.shm_root_path().to_path_buf(),
            server_pid: name.is_made_by(server_pid).then_some(server_pid),
            client_pid: name.client_pid(),
            directories: name.directories.clone(),
            files,
            is_shared: false,
        }
    }

    /// As [`RingName::client_pid`].
    pub(super) fn client_pid(&self) -> Option<u32> {
        self.client_pid
    }

    /// The client removes the files in any case, so it must have checked whose they are. Matches
    /// `qb_ipcc_us_disconnect`, which removes the control file too: a daemon that ends leaves it.
    pub(super) fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// Removes the files that a killed daemon left behind, or those that either end removes. Checks
    /// `looks` times whether the process is gone, as the C library does, since it may need a moment
    /// to end. Removes nothing that is the daemon's unless the process is certainly gone.
    pub(super) fn remove_orphans(&self, looks: u32) {
        if !self.is_shared && !self.is_left_behind(looks) {
            return;
        }
        let open = |directories: &[OsString]| {
            file::open_directory(&self.shm_root, directories.iter().map(AsRef::as_ref))
        };
        if let Ok(directory) = open(&self.directories) {
            self.files.iter().for_each(|name| file::remove_file(&directory, name));
        }
        if let Some((own, above)) = self.directories.split_last() {
            if let Ok(parent) = open(above) {
                file::remove_directory(&parent, own);
            }
        }
    }

    fn is_left_behind(&self, looks: u32) -> bool {
        let Some(server_pid) = self.server_pid else { return false };
        (0..looks).any(|look| {
            if look > 0 {
                thread::sleep(LOOK_PAUSE);
            }
            file::process_is_gone(server_pid)
        })
    }
}
