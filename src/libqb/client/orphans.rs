//! The rings that a killed daemon leaves behind.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::libqb::handshake::{DATA_SUFFIX, HEADER_SUFFIX, RingName};
use crate::sys::file;

/// How long to wait before looking again whether the daemon's process is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Where a connection's rings are, and which process made them.
pub(super) struct RingOrigin {
    pub(super) names: [RingName; 3],
    pub(super) shm_root: PathBuf,
    pub(super) server_pid: i32,
}

impl RingOrigin {
    /// Removes the rings of a daemon that was killed and so left them behind. As the C library, it
    /// gives the process a moment to be gone, by looking so many times, and leaves everything alone
    /// when it is not certainly so.
    pub(super) fn remove_orphans(&self, looks: u32) {
        if !self.names.iter().all(|ring| ring.is_made_by(self.server_pid)) {
            return;
        }
        let gone = (0..looks).any(|look| {
            if look > 0 {
                thread::sleep(LOOK_PAUSE);
            }
            file::process_is_gone(self.server_pid)
        });
        if !gone {
            return;
        }
        for ring in &self.names {
            let Ok(directory) =
                file::open_directory(&self.shm_root, ring.directories.iter().map(AsRef::as_ref))
            else {
                continue;
            };
            file::remove_file(&directory, &ring.file(HEADER_SUFFIX));
            file::remove_file(&directory, &ring.file(DATA_SUFFIX));
        }
        if let Some((own, above)) =
            self.names.first().and_then(|ring| ring.directories.split_last())
        {
            if let Ok(parent) =
                file::open_directory(&self.shm_root, above.iter().map(AsRef::as_ref))
            {
                file::remove_directory(&parent, own);
            }
        }
    }
}
