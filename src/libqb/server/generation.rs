//! Differences between the generations of libqb.

use std::ffi::OsString;
use std::path::Path;

use crate::codec::setup;
use crate::libqb::handshake::RING_NAMES;
use crate::libqb::ring::{CHUNK_MARGIN, Format, HEADER_FILE_SIZE, REQUEST_HEADER_FILE_SIZE};
use crate::sys::file::page_size;
use crate::sys::socket::Credentials;

/// The libqb version whose protocol a server speaks. C clients connect only to servers of about
/// their own version; this crate's clients connect to all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Generation {
    /// 0.10 to 0.12, used by corosync 1.99.
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

impl Generation {
    /// Returns the layout of the connection reply.
    pub(crate) fn reply(self) -> setup::Generation {
        match self {
            Self::Libqb010 => setup::Generation::Libqb010,
            _ => setup::Generation::Libqb013,
        }
    }

    /// Returns the format of chunks.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Libqb010 | Self::Libqb013 => Format::LIBQB_010,
            _ => Format::LIBQB_014,
        }
    }

    /// Returns the size of a ring's data file: whole pages. C clients truncate the file to the size
    /// that they compute.
    pub(crate) fn data_size(self, max_msg_size: u32) -> usize {
        let more = match self {
            Self::Libqb010 | Self::Libqb013 | Self::Libqb014 => 0,
            _ => CHUNK_MARGIN + 1,
        };
        let page = page_size();
        (max_msg_size as usize).saturating_add(more).next_multiple_of(page).max(page)
    }

    /// Returns the size of a ring's header file.
    pub(crate) fn header_size(self, ring: &str) -> usize {
        match self {
            Self::Libqb010 | Self::Libqb013 if ring != "request" => HEADER_FILE_SIZE,
            _ => REQUEST_HEADER_FILE_SIZE,
        }
    }

    /// Returns the size of all files of a connection.
    pub(super) fn files_size(self, max_msg_size: u32) -> u64 {
        let headers: usize = RING_NAMES.into_iter().map(|ring| self.header_size(ring)).sum();
        (headers + RING_NAMES.len() * self.data_size(max_msg_size)) as u64
    }

    /// Returns the prefix of the name of a connection's directory, if connections have one.
    pub(crate) fn directory(self, server: u32, client: Credentials, fd: i32) -> Option<String> {
        (self == Self::Libqb104).then(|| format!("qb-{server}-{}-{fd}-", client.pid))
    }

    /// Returns the name of a ring's files, without the suffix.
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

    /// Returns the names of the control file and of the sockets of a connection of datagrams.
    pub(crate) fn datagram_names(
        self,
        service: &str,
        server: u32,
        client: Credentials,
        fd: i32,
    ) -> (OsString, OsString) {
        let client = client.pid;
        let (control, base) = match self {
            Self::Libqb104 => (format!("qb-control-{service}"), format!("qb-{service}")),
            _ => (
                format!("qb-{service}-control-{server}-{client}-{fd}"),
                format!("qb-{service}-{server}-{client}-{fd}"),
            ),
        };
        (control.into(), base.into())
    }

    /// Returns true if this libqb has the datagram transport.
    pub(crate) fn has_datagrams(self) -> bool {
        matches!(self, Self::Libqb015 | Self::Libqb104)
    }

    /// Returns the name of a ring in the connection reply.
    pub(crate) fn name_in_reply(self, directory: &Path, name: &str) -> OsString {
        match self {
            Self::Libqb104 => directory.join(name).into_os_string(),
            _ => name.strip_prefix("qb-").unwrap_or(name).into(),
        }
    }
}
