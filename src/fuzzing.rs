//! The bodies of the fuzz targets. Unit tests call them with damaged messages.

use std::path::Path;

use bytes::Bytes;

use crate::codec::Kind;
use crate::codec::setup::{ConnectReply, Generation, TransportType};
use crate::libqb::datagram::Names;
use crate::libqb::handshake::{Handshake, RingName};
use crate::libqb::ring::heap;
use crate::wire::{Service, cfg, cmap, cpg, evs, inspect, quorum, votequorum, with_any_message};

/// The kinds of messages, in the order of [`message`]'s first byte.
pub const KINDS: [Kind; 3] = [Kind::Request, Kind::Response, Kind::Event];

/// Returns the first byte for [`message`] that chooses a service and a kind.
pub fn choice(service: Service, kind: Kind) -> u8 {
    (service as u8) * 3 + kind as u8
}

/// Decodes bytes as a message of any service. Checks that a decoded message encodes, that the
/// result decodes to the same message, and that an inspection finds the same.
///
/// The first byte chooses service and kind. The rest is the message.
pub fn message(data: &[u8]) {
    let Some((choice, bytes)) = data.split_first() else { return };
    let (service, kind) = (usize::from(choice / 3) % Service::ALL.len(), usize::from(choice % 3));
    let (service, kind) = (Service::ALL[service], KINDS[kind]);
    macro_rules! round_trip {
        ($service:ident $any:ident) => {
            match $service::$any::decode(bytes) {
                Ok(message) => {
                    let encoded = message.encode().expect("a decoded message encodes");
                    let again = $service::$any::decode_shared(&encoded.into())
                        .expect("an encoded message decodes");
                    // Compared as text, since a NaN does not equal itself.
                    assert_eq!(format!("{again:?}"), format!("{message:?}"));
                    true
                }
                Err(_) => false,
            }
        };
    }
    let decodes = with_any_message!(service, kind, round_trip);
    let found = inspect(service, kind, bytes);
    assert!(!decodes || found.error.is_none(), "{found:?}");
    assert!(found.end <= bytes.len(), "{found:?}");
    for (before, field) in found.fields.iter().zip(found.fields.iter().skip(1)) {
        assert!(before.offset + before.size <= field.offset, "{found:?}");
    }
    if (service, kind) == (Service::Votequorum, Kind::Event) {
        assert_eq!(votequorum::decode_event(bytes).is_ok(), found.error.is_none(), "{found:?}");
    }
}

/// Feeds bytes to the client's handshake in pieces whose lengths come from the bytes, and parses
/// them as the name of a ring, and as the names of datagram sockets: the base name behind a NUL, or
/// what belongs to the control file. Checks that a parsed name stays below the root.
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
    let stays_below = |name: &RingName| {
        let mut parts = name.directories.iter().chain([&name.base]);
        assert!(parts.all(|part| !part.is_empty() && part != "." && part != ".."));
    };
    let mut names = data.splitn(2, |byte| *byte == 0);
    let (control, base) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let text = String::from_utf8_lossy(control);
    let (before, after) = text.rsplit_once("control-").unwrap_or_default();
    let belonging = format!("{before}{after}");
    let file = control.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let short = String::from_utf8_lossy(file).replacen("control-", "", 1);
    for root in ["/dev/shm", "/host/shm"].map(Path::new) {
        RingName::parse("request", data, root).iter().for_each(stays_below);
        for base in [base, belonging.as_bytes(), short.as_bytes()] {
            if let Ok(names) = Names::parse(&datagram_reply(control, base), root) {
                stays_below(&names.control);
                // A file beside the service's socket, or no file.
                assert!(names.base.starts_with('/') || !names.base.contains('/'));
                assert!(names.base.len() < 100);
            }
        }
    }
}

fn datagram_reply(control: &[u8], base: &[u8]) -> ConnectReply {
    ConnectReply {
        generation: Generation::Libqb013,
        error: 0,
        transport: TransportType::SOCKET,
        max_msg_size: 0,
        cookie: 0,
        request: Bytes::copy_from_slice(control),
        response: Bytes::copy_from_slice(base),
        event: Bytes::new(),
    }
}

/// Uses the bytes as the memory of a ring, as its producer and as its consumer.
pub fn ring(data: &[u8]) {
    heap::use_hostile(data);
}
