//! The setup of a connection: what each end reads, and the names of what both share.

use std::path::Path;

use bytes::Bytes;

use super::Script;
use crate::codec::setup::{ConnectReply, ConnectRequest, Generation, TransportType};
use crate::libqb::accept::Accept;
use crate::libqb::datagram::Names;
use crate::libqb::handshake::{Handshake, RingName, ring_names};

/// Where the rings of a daemon may be for a client.
const ROOTS: [&str; 2] = ["/dev/shm", "/host/shm"];

/// Feeds bytes to the client's handshake in pieces, whose lengths the first byte gives. Checks that
/// a reply that was read encodes to the same, and the names in it.
pub fn handshake(data: &[u8]) {
    let Some((piece, mut rest)) = data.split_first() else { return };
    let piece = usize::from(*piece) * 64 + 1;
    let mut handshake = Handshake::default();
    while let (Ok(room), false) = (handshake.room(), rest.is_empty()) {
        assert!(!room.is_empty(), "the reply is whole and nobody noticed");
        let (now, later) = rest.split_at(room.len().min(piece).min(rest.len()));
        room[..now.len()].copy_from_slice(now);
        rest = later;
        match handshake.filled(now.len()) {
            Ok(None) => {}
            Ok(Some(reply)) => return check(&reply),
            Err(_) => return,
        }
    }
}

fn check(reply: &ConnectReply) {
    let encoded = reply.encode().expect("a decoded reply encodes");
    assert_eq!(encoded.len(), reply.generation.reply_size());
    assert_eq!(ConnectReply::decode(&encoded).as_ref(), Ok(reply));
    for root in ROOTS.map(Path::new) {
        if let Ok(names) = ring_names(reply, root) {
            names.iter().for_each(stays_below);
        }
        check_datagrams(reply, root);
    }
}

/// Feeds bytes to the server's half of the setup, a few at a time. Checks that a request that was
/// read encodes to the same.
pub fn accept(data: &[u8]) {
    let mut script = Script(data);
    let mut accept = Accept::default();
    while !script.is_empty() {
        let piece = usize::from(script.byte() % 32) + 1;
        match accept.feed(script.bytes(piece.min(accept.wants()))) {
            Ok(None) => assert!(accept.wants() > 0, "the request is whole and nobody noticed"),
            Ok(Some(request)) => {
                let encoded = request.encode().expect("a decoded request encodes");
                assert_eq!(ConnectRequest::decode(&encoded), Ok(request));
                return;
            }
            Err(_) => return,
        }
    }
}

/// Parses bytes as the name of a ring, and as the names of datagram sockets: the base name behind a
/// NUL, or what belongs to the control file. Checks that a name stays below its root.
pub fn names(data: &[u8]) {
    let mut names = data.splitn(2, |byte| *byte == 0);
    let (control, base) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let text = String::from_utf8_lossy(control);
    let (before, after) = text.rsplit_once("control-").unwrap_or_default();
    let belonging = format!("{before}{after}");
    let file = control.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let short = String::from_utf8_lossy(file).replacen("control-", "", 1);
    for root in ROOTS.map(Path::new) {
        RingName::parse("request", data, root).iter().for_each(stays_below);
        for base in [base, belonging.as_bytes(), short.as_bytes()] {
            check_datagrams(&datagram_reply(control, base), root);
        }
    }
}

fn stays_below(name: &RingName) {
    let mut parts = name.directories.iter().chain([&name.base]);
    assert!(parts.all(|part| !part.is_empty() && part != "." && part != ".."), "{name:?}");
}

fn check_datagrams(reply: &ConnectReply, root: &Path) {
    if let Ok(names) = Names::parse(reply, root) {
        stays_below(&names.control);
        // A file beside the service's socket, or no file.
        assert!(names.base.starts_with('/') || !names.base.contains('/'), "{}", names.base);
        assert!(names.base.len() < 100, "{}", names.base);
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
