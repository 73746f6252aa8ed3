//! The names in a connection reply: one of the control file, one that all sockets share.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::codec::setup::ConnectReply;
use crate::error::ProtocolError;
use crate::libqb::handshake::RingName;

/// What tells the control file's name from the sockets' base name.
const CONTROL: &[u8] = b"control-";

/// Where daemons make the control file.
const SHM: &[u8] = b"/dev/shm/";

/// The longest suffix of a socket's name.
const LONGEST_SUFFIX: &str = "-event-tx";

/// The most bytes in a base name: with a suffix it fits in an abstract address, behind which libqb
/// needs a NUL.
const MAX_BASE: usize = 106 - LONGEST_SUFFIX.len();

/// The names of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// The control file.
    pub(crate) control: RingName,
    /// What the names of all four sockets begin with.
    pub(crate) base: String,
}

impl Names {
    /// Takes apart the names of a connection reply. libqb since 1.0.4 gives
    /// `/dev/shm/qb-1-2-3-XXXXXX/qb-control-cmap` and `/dev/shm/qb-1-2-3-XXXXXX/qb-cmap`, older
    /// versions give `/dev/shm/qb-cmap-control-1-2-3` and `qb-cmap-1-2-3`. A server may have
    /// another directory than `/dev/shm`: `root`, which stands for it here.
    ///
    /// # Errors
    /// Names that lead elsewhere, or do not belong together.
    pub(crate) fn parse(reply: &ConnectReply, root: &Path) -> Result<Self, ProtocolError> {
        let (path, base) = (&*reply.request, &*reply.response);
        let below_root =
            path.strip_prefix(root.as_os_str().as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let below = below_root.or_else(|| path.strip_prefix(SHM));
        let mut parts: Vec<&[u8]> =
            below.ok_or(ProtocolError::ControlName)?.split(|byte| *byte == b'/').collect();
        let is_outside = |part: &&[u8]| matches!(*part, b"" | b"." | b"..");
        let control = match parts.pop() {
            Some(control) if !parts.iter().chain([&control]).any(is_outside) => control,
            _ => return Err(ProtocolError::ControlName),
        };
        let is_libqb = |part: &[u8]| part.starts_with(b"qb-");
        if !is_libqb(control) || !parts.last().is_none_or(|directory| is_libqb(directory)) {
            return Err(ProtocolError::ControlName);
        }
        let without = |name: &[u8]| {
            let at = name.windows(CONTROL.len()).rposition(|window| window == CONTROL)?;
            Some([name.get(..at)?, name.get(at + CONTROL.len()..)?].concat())
        };
        let belongs =
            [path, control].into_iter().any(|name| without(name).as_deref() == Some(base));
        if !belongs || base.len() > MAX_BASE {
            return Err(ProtocolError::SocketName);
        }
        let base = std::str::from_utf8(base).map_err(|_| ProtocolError::SocketName)?;
        let name = |part: &[u8]| OsStr::from_bytes(part).to_owned();
        Ok(Self {
            control: RingName {
                directories: parts.into_iter().map(name).collect(),
                base: name(control),
            },
            base: base.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::setup::{Generation, TransportType};

    fn parse(control: &str, base: &str) -> Result<Names, ProtocolError> {
        let reply = ConnectReply {
            generation: Generation::Libqb013,
            error: 0,
            transport: TransportType::SOCKET,
            max_msg_size: 8192,
            cookie: 1,
            request: control.to_owned().into(),
            response: base.to_owned().into(),
            event: "".into(),
        };
        Names::parse(&reply, Path::new("/host/shm"))
    }

    #[test]
    fn names_of_all_generations_are_found() {
        let names = |directories: &[&str], control: &str, base: &str| Names {
            control: RingName {
                directories: directories.iter().map(Into::into).collect(),
                base: control.into(),
            },
            base: base.to_owned(),
        };
        let new = "/dev/shm/qb-1-2-30-abcdef/qb-cmap";
        assert_eq!(
            parse("/dev/shm/qb-1-2-30-abcdef/qb-control-cmap", new),
            Ok(names(&["qb-1-2-30-abcdef"], "qb-control-cmap", new))
        );
        let mapped = "/host/shm/qb-1-2-30-abcdef/qb-cmap";
        assert_eq!(
            parse("/host/shm/qb-1-2-30-abcdef/qb-control-cmap", mapped),
            Ok(names(&["qb-1-2-30-abcdef"], "qb-control-cmap", mapped))
        );
        assert_eq!(
            parse("/dev/shm/qb-cmap-control-1-2-30", "qb-cmap-1-2-30"),
            Ok(names(&[], "qb-cmap-control-1-2-30", "qb-cmap-1-2-30"))
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let base = "/dev/shm/qb-1/qb-cmap";
        for control in [
            "",
            "qb-control-cmap",
            "/etc/qb-control-cmap",
            "/dev/shm/",
            "/dev/shm/control-cmap",
            "/dev/shm/../qb-control-cmap",
            "/dev/shm/qb-1/../qb-control-cmap",
            "/dev/shm/other/qb-control-cmap",
            "/dev/shm//qb-control-cmap",
            "/host/shmx/qb-1/qb-control-cmap",
        ] {
            assert_eq!(parse(control, base), Err(ProtocolError::ControlName), "{control:?}");
        }
    }

    #[test]
    fn sockets_have_the_name_of_the_control_file() {
        let control = "/dev/shm/qb-1/qb-control-cmap";
        for base in ["", "/dev/shm/qb-1/qb-cpg", "/dev/shm/qb-2/qb-cmap", "../qb-cmap"] {
            assert_eq!(parse(control, base), Err(ProtocolError::SocketName), "{base:?}");
        }
        let service = "x".repeat(100);
        let control = format!("/dev/shm/qb-1/qb-control-{service}");
        let base = format!("/dev/shm/qb-1/qb-{service}");
        assert_eq!(parse(&control, &base), Err(ProtocolError::SocketName));
    }
}
