//! What the fuzz targets do with their bytes; unit tests do the same with damaged messages.

use std::path::Path;

use crate::libqb::handshake::{Handshake, RingName};
use crate::libqb::ring::heap;
use crate::wire::{cfg, cmap, cpg, evs, quorum, votequorum};

/// The services in the order in which [`message`] counts them: three kinds of messages each, as
/// [`Kind`](crate::codec::Kind) has them.
pub const SERVICES: [&str; 6] = ["cmap", "quorum", "votequorum", "cfg", "evs", "cpg"];

/// Takes bytes apart as any message of a service. What can be read can be written, and reads the
/// same again.
///
/// The first byte chooses service and kind, the rest is the message.
pub fn message(data: &[u8]) {
    macro_rules! round_trip {
        ($any:ty, $bytes:expr) => {
            if let Ok(message) = <$any>::decode($bytes) {
                let encoded = message.encode().expect("what was read can be written");
                let again =
                    <$any>::decode_shared(&encoded.into()).expect("what was written can be read");
                // Not compared as values: a float may be no number.
                assert_eq!(format!("{again:?}"), format!("{message:?}"));
            }
        };
    }
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 18 {
        0 => round_trip!(cmap::AnyRequest, bytes),
        1 => round_trip!(cmap::AnyResponse, bytes),
        2 => round_trip!(cmap::AnyEvent, bytes),
        3 => round_trip!(quorum::AnyRequest, bytes),
        4 => round_trip!(quorum::AnyResponse, bytes),
        5 => round_trip!(quorum::AnyEvent, bytes),
        6 => round_trip!(votequorum::AnyRequest, bytes),
        7 => round_trip!(votequorum::AnyResponse, bytes),
        8 => {
            round_trip!(votequorum::AnyEvent, bytes);
            let _ = votequorum::decode_event(bytes);
        }
        9 => round_trip!(cfg::AnyRequest, bytes),
        10 => round_trip!(cfg::AnyResponse, bytes),
        11 => round_trip!(cfg::AnyEvent, bytes),
        12 => round_trip!(evs::AnyRequest, bytes),
        13 => round_trip!(evs::AnyResponse, bytes),
        14 => round_trip!(evs::AnyEvent, bytes),
        15 => round_trip!(cpg::AnyRequest, bytes),
        16 => round_trip!(cpg::AnyResponse, bytes),
        _ => round_trip!(cpg::AnyEvent, bytes),
    }
}

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
            let parts = name.directories.iter().chain([&name.base]);
            assert!(parts.clone().all(|part| !part.is_empty() && part != "." && part != ".."));
        }
    }
}

/// Lays the bytes over a ring and uses it from both sides.
pub fn ring(data: &[u8]) {
    heap::use_hostile(data);
}
