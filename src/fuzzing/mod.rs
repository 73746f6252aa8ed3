//! The bodies of the fuzz targets, and what benches need of the inside. A body takes any bytes and
//! panics where a promise is broken. Unit tests call them too, with what a fuzzer once found and
//! with captured messages.
//!
//! Not part of the public API.

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a panic is a finding")]

mod calls;
mod client;
mod cluster;
mod config;
mod mapped;
mod messages;
#[cfg(feature = "serde")]
mod read;
mod reassembly;
mod ring;
mod setup;

pub use client::{client, dispatcher};
pub use cluster::cluster;
pub use config::config_file;
pub use mapped::MappedRing;
pub use messages::{KINDS, choice, message};
#[cfg(feature = "serde")]
pub use read::read;
pub use reassembly::{reassembly, replies};
pub use ring::{changing_ring, ring};
pub use setup::{accept, handshake, names};

#[cfg(test)]
pub(crate) use calls::call;

/// Input as a list of operations and their values. At the end of the input every value is 0.
#[derive(Clone, Debug)]
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// Whether nothing is left.
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    fn word(&mut self) -> u32 {
        let mut word = [0; 4];
        let bytes = self.bytes(4);
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(word)
    }

    /// Returns `length` bytes, or those that are left.
    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns as many bytes as the next two say.
    fn counted(&mut self) -> &'a [u8] {
        let length = u16::from_le_bytes([self.byte(), self.byte()]);
        self.bytes(length.into())
    }
}
