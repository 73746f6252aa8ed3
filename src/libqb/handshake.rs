//! The client's part of connection setup: collects the connection reply and checks the names of the
//! rings.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::codec::setup::{ConnectReply, Generation, REPLY_PREFIX_SIZE};
use crate::error::{ProtocolError, WireError};

/// Collects the connection reply. Put the bytes that arrive into its room until it is whole. Never
/// read more than it has room for: wake bytes follow.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    /// The bytes that have arrived, and room for more.
    bytes: Vec<u8>,
    received: usize,
}

impl Handshake {
    /// Returns the room for the bytes that are missing. Not empty before the reply is whole.
    pub(crate) fn room(&mut self) -> Result<&mut [u8], WireError> {
        let size = self.size()?;
        self.bytes.resize(size, 0);
        Ok(self.bytes.get_mut(self.received..).unwrap_or_default())
    }

    /// Takes the first `count` bytes of the room. Returns the reply once it is whole.
    pub(crate) fn filled(&mut self, count: usize) -> Result<Option<ConnectReply>, WireError> {
        self.received = self.received.saturating_add(count).min(self.bytes.len());
        if self.received < self.size()? {
            return Ok(None);
        }
        ConnectReply::decode(&self.bytes).map(Some)
    }

    /// The size of the reply. The smallest that there is, until the bytes that tell have arrived.
    fn size(&self) -> Result<usize, WireError> {
        match self.bytes.get(..self.received.min(REPLY_PREFIX_SIZE)) {
            Some(prefix) if prefix.len() == REPLY_PREFIX_SIZE => {
                Ok(ConnectReply::generation(prefix)?.reply_size())
            }
            _ => Ok(Generation::Libqb013.reply_size()),
        }
    }
}

/// The directory in which daemons make their rings.
const SHM: &[u8] = b"/dev/shm/";

/// The prefix of a ring's file name, which libqb before 1.0.4 does not send.
const RELATIVE_PREFIX: &str = "qb-";

/// Whether the rings have the magic numbers of libqb before 0.14. The reply of 0.13 has the layout
/// of later ones, so the ring names decide: those of 0.13 begin with the service, those of 0.14
/// with a process id, and later ones are absolute.
pub(crate) fn has_old_magic(reply: &ConnectReply) -> bool {
    let first = reply.request.first().copied().unwrap_or_default();
    reply.generation == Generation::Libqb010 || !(first == b'/' || first.is_ascii_digit())
}

/// The names of the rings, in the order in which the reply has them.
pub(crate) const RING_NAMES: [&str; 3] = ["request", "response", "event"];

/// The suffixes of the names of a ring's two files.
pub(crate) const HEADER_SUFFIX: &str = "-header";
pub(crate) const DATA_SUFFIX: &str = "-data";

/// Parses the names of all rings, which must lie in one directory.
///
/// # Errors
/// As [`RingName::parse`]; [`ProtocolError::RingDirectory`].
pub(crate) fn ring_names(
    reply: &ConnectReply,
    root: &Path,
) -> Result<[RingName; 3], ProtocolError> {
    let [request, response, event] = RING_NAMES;
    let first = RingName::parse(request, &reply.request, root)?;
    let beside = |ring, name: &[u8]| {
        let name = RingName::parse(ring, name, root)?;
        if name.directories == first.directories {
            Ok(name)
        } else {
            Err(ProtocolError::RingDirectory { ring })
        }
    };
    Ok([
        beside(request, &reply.request)?,
        beside(response, &reply.response)?,
        beside(event, &reply.event)?,
    ])
}

/// The files of a ring, below the shared memory directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RingName {
    /// The directories below the root, outermost first.
    pub(crate) directories: Vec<OsString>,
    /// Name of both files, without the suffix.
    pub(crate) base: OsString,
}

impl RingName {
    /// Parses the name from a connection reply. libqb since 1.0.4 sends absolute names, such as
    /// `/dev/shm/qb-1-2-3-XXXXXX/qb-request-cmap`. The files are found below `root`, in place of
    /// `/dev/shm`; the name may also begin with `root` itself, or with a directory below either.
    /// Older libqb sends relative names of files directly in `/dev/shm`.
    ///
    /// # Errors
    /// [`ProtocolError::RingName`] for a name that leads elsewhere. The daemon may be hostile, and
    /// this process writes to the file of that name.
    pub(crate) fn parse(
        ring: &'static str,
        name: &[u8],
        root: &Path,
    ) -> Result<Self, ProtocolError> {
        // The root first, since it may be a directory below /dev/shm.
        let below_root =
            name.strip_prefix(root.as_os_str().as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let outside = ProtocolError::RingName { ring };
        let (prefix, below) = match below_root.or_else(|| name.strip_prefix(SHM)) {
            Some(below) => ("", below),
            None if !name.contains(&b'/') => (RELATIVE_PREFIX, name),
            None => return Err(outside),
        };
        let mut parts: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        if parts.iter().any(|part| matches!(*part, b"" | b"." | b"..")) {
            return Err(outside);
        }
        let mut base = OsString::from(prefix);
        base.push(OsStr::from_bytes(parts.pop().ok_or(outside)?));
        // The connection's own directory and the file in it.
        let is_libqb = |part: &[u8]| part.starts_with(RELATIVE_PREFIX.as_bytes());
        let is_in_own = parts.last().is_some_and(|directory| is_libqb(directory));
        if prefix.is_empty() && !(is_in_own && is_libqb(base.as_bytes())) {
            return Err(outside);
        }
        Ok(Self {
            directories: parts.into_iter().map(|part| OsStr::from_bytes(part).to_owned()).collect(),
            base,
        })
    }

    /// Whether the name says that this process made the ring. The names of libqb before 0.14 do not
    /// say so, and a daemon that starts later uses the same names as a killed one.
    pub(crate) fn is_made_by(&self, pid: i32) -> bool {
        let own = self.directories.last().unwrap_or(&self.base);
        own.as_bytes().starts_with(format!("{RELATIVE_PREFIX}{pid}-").as_bytes())
    }

    /// The process id by which the daemon knows this client: it sees the client from its own pid
    /// namespace. `None` if the client is not visible there, and with libqb before 0.14, whose
    /// names do not say so.
    pub(crate) fn client_pid(&self) -> Option<u32> {
        let own = self.directories.last().unwrap_or(&self.base);
        let mut parts = own.to_str()?.strip_prefix(RELATIVE_PREFIX)?.split('-');
        parts.next()?.parse::<u32>().ok()?;
        parts.next()?.parse().ok().filter(|pid| *pid > 0)
    }

    /// Returns the name of one of the two files.
    pub(crate) fn file(&self, suffix: &str) -> OsString {
        let mut name = self.base.clone();
        name.push(suffix);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::setup::TransportType;

    fn parse(name: &str) -> Result<RingName, ProtocolError> {
        RingName::parse("request", name.as_bytes(), Path::new("/host/shm"))
    }

    fn reply() -> Vec<u8> {
        let reply = ConnectReply {
            generation: Generation::Libqb013,
            error: 0,
            transport: TransportType::SHM,
            max_msg_size: 8192,
            cookie: 1,
            request: "a".into(),
            response: "b".into(),
            event: "c".into(),
        };
        reply.encode().unwrap()
    }

    #[test]
    fn a_reply_in_pieces_is_put_together() {
        let bytes = reply();
        let (mut handshake, mut at, mut done) = (Handshake::default(), 0, None);
        while done.is_none() {
            let room = handshake.room().unwrap();
            assert!(!room.is_empty() && at + room.len() <= bytes.len());
            let piece = room.len().min(1000);
            room[..piece].copy_from_slice(&bytes[at..at + piece]);
            done = handshake.filled(piece).unwrap();
            at += piece;
        }
        assert_eq!((done.unwrap().max_msg_size, at), (8192, bytes.len()));
    }

    #[test]
    fn a_reply_is_read_at_once_and_no_further() {
        for generation in [Generation::Libqb010, Generation::Libqb013] {
            let reply = ConnectReply { generation, ..ConnectReply::decode(&reply()).unwrap() };
            let (bytes, mut handshake, mut at) = (reply.encode().unwrap(), Handshake::default(), 0);
            for piece in [Generation::Libqb013.reply_size(), 8] {
                let room = handshake.room().unwrap();
                assert_eq!(room.len(), piece);
                room.copy_from_slice(&bytes[at..at + piece]);
                at += piece;
                if let Some(whole) = handshake.filled(piece).unwrap() {
                    assert_eq!((whole, at), (reply, bytes.len()));
                    break;
                }
            }
            assert_eq!(at, generation.reply_size());
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_before_it_is_whole() {
        let mut handshake = Handshake::default();
        handshake.room().unwrap()[..REPLY_PREFIX_SIZE].fill(1);
        assert_eq!(handshake.filled(REPLY_PREFIX_SIZE - 1), Ok(None));
        let refused = handshake.filled(1);
        assert!(matches!(refused, Err(WireError::UnknownId { .. })), "{refused:?}");
    }

    #[test]
    fn names_of_all_generations_are_found() {
        let new = parse("/dev/shm/qb-10-20-30-abcdef/qb-request-cmap").unwrap();
        assert_eq!(
            (new.directories.len(), new.file(HEADER_SUFFIX)),
            (1, "qb-request-cmap-header".into())
        );
        let mapped = parse("/host/shm/qb-10-20-30-abcdef/qb-request-cmap").unwrap();
        assert_eq!(mapped, new);
        let below = RingName::parse(
            "request",
            b"/dev/shm/own/qb-1-2-3-abcdef/qb-x",
            Path::new("/dev/shm/own"),
        )
        .unwrap();
        assert_eq!(
            (below.directories, below.base),
            (vec!["qb-1-2-3-abcdef".into()], "qb-x".into())
        );
        let deep = parse("/dev/shm/a/b/qb-10-20-30-abcdef/qb-request-cmap").unwrap();
        assert_eq!(deep.directories, ["a", "b", "qb-10-20-30-abcdef"]);
        let old = parse("cmap-request-10-20-30").unwrap();
        assert_eq!(
            (old.directories.len(), old.file(DATA_SUFFIX)),
            (0, "qb-cmap-request-10-20-30-data".into())
        );
    }

    #[test]
    fn the_magic_follows_the_ring_names() {
        let old = |generation, name: &'static str| {
            has_old_magic(&ConnectReply {
                generation,
                request: name.into(),
                ..ConnectReply::decode(&reply()).unwrap()
            })
        };
        assert!(old(Generation::Libqb010, "cpg-request-20-30"));
        assert!(old(Generation::Libqb013, "cpg-request-20-30"));
        assert!(!old(Generation::Libqb013, "10-20-30-request-cpg"));
        assert!(!old(Generation::Libqb013, "/dev/shm/qb-10-20-30-abcdef/qb-request-cpg"));
    }

    #[test]
    fn a_ring_is_told_from_a_later_daemons_by_the_process_in_its_name() {
        let (new, deep) = (
            "/dev/shm/qb-10-20-30-abcdef/qb-request-cmap",
            "/dev/shm/qb-1-2/qb-10-20-30-abcdef/qb-request-cmap",
        );
        for name in [new, deep, "10-20-30-request-cpg"] {
            let ring = parse(name).unwrap();
            assert!(ring.is_made_by(10) && !ring.is_made_by(1) && !ring.is_made_by(20), "{name}");
        }
        for name in ["cmap-request-20-30", "/dev/shm/qb-other/qb-10-20"] {
            assert!(!parse(name).unwrap().is_made_by(10), "{name}");
        }
    }

    #[test]
    fn the_names_tell_as_which_process_the_daemon_knows_the_client() {
        for name in [
            "/dev/shm/qb-10-20-30-abcdef/qb-request-cmap",
            "/dev/shm/qb-1-2/qb-10-20-30-abcdef/qb-request-cmap",
            "10-20-30-request-cpg",
        ] {
            assert_eq!(parse(name).unwrap().client_pid(), Some(20), "{name}");
        }
        for name in [
            // The client is in a pid namespace that the daemon does not see.
            "/dev/shm/qb-10-0-30-abcdef/qb-request-cmap",
            "cmap-request-20-30",
            "/dev/shm/qb-other/qb-10-20",
            "/dev/shm/qb-10/qb-20",
            "/dev/shm/qb-10-4294967296-1/qb-20",
        ] {
            assert_eq!(parse(name).unwrap().client_pid(), None, "{name}");
        }
    }

    #[test]
    fn rings_lie_in_one_directory() {
        let names = |[request, response, event]: [&'static str; 3]| {
            let reply = ConnectReply::decode(&reply()).unwrap();
            let reply = ConnectReply {
                request: request.into(),
                response: response.into(),
                event: event.into(),
                ..reply
            };
            ring_names(&reply, Path::new("/dev/shm")).map(|names| names.map(|name| name.base))
        };
        let (request, response, event) =
            ("/dev/shm/qb-1/qb-request", "/dev/shm/qb-1/qb-response", "/dev/shm/qb-1/qb-event");
        assert_eq!(
            names([request, response, event]),
            Ok(["qb-request", "qb-response", "qb-event"].map(Into::into))
        );
        assert_eq!(names(["a", "b", "c"]), Ok(["qb-a", "qb-b", "qb-c"].map(Into::into)));
        let elsewhere = "/dev/shm/qb-2/qb-event";
        let apart = |ring| Err(ProtocolError::RingDirectory { ring });
        assert_eq!(names([request, response, elsewhere]), apart("event"));
        assert_eq!(names([request, elsewhere, event]), apart("response"));
        assert_eq!(names([elsewhere, response, event]), apart("response"));
        assert_eq!(names([request, response, "c"]), apart("event"));
        assert_eq!(names([request, response, "/dev/shm/x/qb-1/qb-event"]), apart("event"));
        assert_eq!(names([request, "", event]), Err(ProtocolError::RingName { ring: "response" }));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [
            "/etc/passwd",
            "/dev/shm/../etc/passwd",
            "/dev/shm//x",
            "/dev/shm/a/b/c",
            "/dev/shm/qb-1-2-3-abcdef/../qb-1-2-3-ghijkl/qb-request-cmap",
            "/dev/shm/qb-1-2-3-abcdef/qb-4-5/../qb-request-cmap",
            "/dev/shm/qb-request-cmap",
            "/dev/shm/other/qb-request-cmap",
            "/dev/shm/qb-1-2-3-abcdef/request-cmap",
            "a/b",
            "",
            "/dev/shm/",
            "/dev/shm/.",
            "/host/shmx/y",
        ] {
            let expected = Err(ProtocolError::RingName { ring: "request" });
            if name.is_empty() {
                assert_eq!(parse(name), expected);
            } else {
                assert_eq!(parse(name), expected, "{name}");
            }
        }
    }
}
