//! Ways in for the fuzz targets to what is not public.

use std::path::Path;

use crate::engine::handshake::{Handshake, RingName};
use crate::shm::heap;

/// Feeds bytes to the handshake in pieces; each piece's length comes from the bytes too.
pub fn handshake(data: &[u8]) {
    let mut handshake = Handshake::default();
    let mut rest = data;
    while let (Ok(wants @ 1..), Some(first)) = (handshake.wants(), rest.first()) {
        let piece = wants.min(usize::from(*first) * 64 + 1).min(rest.len());
        let (now, later) = rest.split_at(piece);
        match handshake.feed(now) {
            Ok(None) => rest = later,
            _ => break,
        }
    }
    for root in ["/dev/shm", "/host/shm"] {
        if let Ok(name) = RingName::parse("request", data, Path::new(root)) {
            assert!(name.directories.len() <= 1 && !name.base.is_empty());
        }
    }
}

/// Lays the bytes over a ring and uses it from both sides.
pub fn ring(data: &[u8]) {
    heap::use_hostile(data);
}
