//! libqb's IPC: the transport of corosync, Pacemaker and others. It knows bytes and their headers,
//! but none of corosync's services.
//!
//! [`Client`] connects to any service; [`server`] is the other end.
//!
//! A message is bytes that begin with a [`codec::Header`](crate::codec::Header).

#[cfg(feature = "server")]
pub(crate) mod accept;
pub(crate) mod buffer;
pub(crate) mod channel;
pub(crate) mod client;
pub(crate) mod datagram;
pub(crate) mod handshake;
pub(crate) mod pending;
pub(crate) mod refill;
pub(crate) mod ring;
#[cfg(feature = "server")]
pub mod server;
pub(crate) mod wake;

use std::fmt;

pub use client::Client;

/// How the messages of a connection travel. The server chooses, its clients follow. Matches
/// `qb_ipc_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(rename_all = "lowercase")
)]
#[non_exhaustive]
pub enum Transport {
    /// Through rings in shared memory. `QB_IPC_SHM`
    #[default]
    Shm,
    /// As datagrams. What corosync does with `system { qb_ipc_type: socket }`. libqb has it since
    /// 0.15. corosync loses a large event without a word to its client when the kernel has no
    /// memory for the datagram; its log says `event_send retuned -105`. `QB_IPC_SOCKET`
    Socket,
}

/// As `qb_ipc_type` of corosync.conf names it.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Shm => "shm",
            Self::Socket => "socket",
        })
    }
}
