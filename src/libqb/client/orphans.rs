//! The rings that a killed daemon leaves behind.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::libqb::handshake::{DATA_SUFFIX, HEADER_SUFFIX, RingName};
use crate::sys::file;

/// How long to wait before checking again whether the daemon's process is gone.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// The files of a connection's rings, and the process that made them.
pub(super) struct RingOrigin {
    pub(super) names: [RingName; 3],
    pub(super) shm_root: PathBuf,
    pub(super) server_pid: i32,
}

impl RingOrigin {
    /// Removes the rings that a killed daemon left behind. Checks `looks` times whether the process
    /// is gone, as the C library does, since it may need a moment to end. Removes nothing unless
    /// the process is certainly gone.
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
