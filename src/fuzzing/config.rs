//! A corosync.conf for the embedded cluster.

use crate::cmap::check_key;
use crate::embedded::Cluster;
use crate::embedded::config_file;
use crate::error::Error;

/// Reads bytes as a corosync.conf: what it says comes into the map, or the line that it does not
/// understand is named, or what is missing.
pub fn config_file(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    let has_a_line = |error: Error| {
        let Error::InvalidArgument { reason, .. } = error else { panic!("{error:?}") };
        if reason.starts_with("no quorum.provider: ") || reason.starts_with("no node: ") {
            return;
        }
        let rest = reason.strip_prefix("line ").expect("a line");
        let (line, _) = rest.split_once(':').expect("a colon");
        let line: usize = line.parse().expect("a number");
        assert!((1..=lines).contains(&line), "{reason}");
    };
    let keys = match config_file::read(data, &|_, _| None) {
        Ok(keys) => keys,
        Err(error) => return has_a_line(error),
    };
    for key in &keys {
        assert!(check_key(&key.name).is_ok(), "{key:?}");
        assert!((1..=lines).contains(&key.line), "{key:?}");
    }
    if let Err(error) = Cluster::builder().config_file(data) {
        has_a_line(error);
    }
}
