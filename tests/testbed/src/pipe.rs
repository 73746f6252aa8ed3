//! Pipes that nobody reads.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A named pipe that takes no more, and its reader.
pub fn full_pipe(path: &Path) -> File {
    if !path.exists() {
        mkfifo(path, Mode::S_IRWXU).unwrap();
    }
    let mut pipe =
        OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(path).unwrap();
    fill(&mut pipe);
    pipe
}

/// Fills it again.
pub fn fill(pipe: &mut File) {
    while pipe.write(&[0; 4096]).is_ok() {}
}
