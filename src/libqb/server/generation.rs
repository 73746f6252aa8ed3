//! What the generations of libqb do differently.

use std::ffi::OsString;
use std::path::Path;

use super::rings::RING_NAMES;
use crate::codec::setup;
use crate::libqb::ring::{CHUNK_MARGIN, Format, HEADER_FILE_SIZE, REQUEST_HEADER_FILE_SIZE};
use crate::sys::socket::Credentials;

/// Which libqb a server speaks as. C clients speak with servers of about their own age only; this
/// crate's with all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Generation {
    /// 0.10 to 0.12, of corosync 1.99.
    Libqb010,
    /// 0.13.
    Libqb013,
    /// 0.14.
    Libqb014,
    /// 0.15 to 1.0.3.
    Libqb015,
    /// 1.0.4 and later.
    #[default]
    Libqb104,
}

/// The page size that ring sizes are rounded up to. libqb uses the system's; every machine this
/// crate runs on has rings of these pages.
const PAGE: usize = 4096;

impl Generation {
    /// Layout of the connection reply.
    pub(crate) fn reply(self) -> setup::Generation {
        match self {
            Self::Libqb010 => setup::Generation::Libqb010,
            _ => setup::Generation::Libqb013,
        }
    }

    /// What chunks look like.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Libqb010 | Self::Libqb013 => Format::LIBQB_010,
            _ => Format::LIBQB_014,
        }
    }

    /// Size of a ring's data file. C clients cut the file to the size they compute.
    pub(crate) fn data_size(self, max_msg_size: u32) -> usize {
        let more = match self {
            Self::Libqb010 | Self::Libqb013 | Self::Libqb014 => 0,
            _ => CHUNK_MARGIN + 1,
        };
        (max_msg_size as usize).saturating_add(more).next_multiple_of(PAGE).max(PAGE)
    }

    /// Size of a ring's header file.
    pub(crate) fn header_size(self, ring: &str) -> usize {
        match self {
            Self::Libqb010 | Self::Libqb013 if ring != "request" => HEADER_FILE_SIZE,
            _ => REQUEST_HEADER_FILE_SIZE,
        }
    }

    /// Size of all files of a connection.
    pub(super) fn files_size(self, max_msg_size: u32) -> u64 {
        let headers: usize = RING_NAMES.into_iter().map(|ring| self.header_size(ring)).sum();
        (headers + RING_NAMES.len() * self.data_size(max_msg_size)) as u64
    }

    /// What the name of a connection's directory begins with, if connections have one.
    pub(crate) fn directory(self, server: u32, client: Credentials, fd: i32) -> Option<String> {
        (self == Self::Libqb104).then(|| format!("qb-{server}-{}-{fd}-", client.pid))
    }

    /// Name of a ring's files, without `-header` or `-data`.
    pub(crate) fn ring_name(
        self,
        ring: &str,
        service: &str,
        server: u32,
        client: Credentials,
        fd: i32,
    ) -> String {
        let client = client.pid;
        match self {
            Self::Libqb010 | Self::Libqb013 => format!("qb-{service}-{ring}-{client}-{fd}"),
            Self::Libqb014 | Self::Libqb015 => {
                format!("qb-{server}-{client}-{fd}-{ring}-{service}")
            }
            Self::Libqb104 => format!("qb-{ring}-{service}"),
        }
    }

    /// The name of a ring as the connection reply tells it.
    pub(crate) fn told_name(self, directory: &Path, name: &str) -> OsString {
        match self {
            Self::Libqb104 => directory.join(name).into_os_string(),
            _ => name.strip_prefix("qb-").unwrap_or(name).into(),
        }
    }
}
