//! The server's part of connection setup: collects the connection request.

#![forbid(unsafe_code)]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unreachable
)]

use crate::codec::setup::{CONNECT_REQUEST_SIZE, ConnectRequest};
use crate::error::WireError;

/// Collects the connection request. Feed it the bytes that arrive until it is whole. Never read
/// more than it wants: wake bytes follow.
#[derive(Debug, Default)]
pub(crate) struct Accept {
    received: Vec<u8>,
}

impl Accept {
    /// Returns how many bytes are wanted next. Not 0 before the request is whole.
    pub(crate) fn wants(&self) -> usize {
        CONNECT_REQUEST_SIZE.saturating_sub(self.received.len())
    }

    /// Takes bytes, at most as many as [`Accept::wants`]. Returns the request once it is whole.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<ConnectRequest>, WireError> {
        self.received.extend_from_slice(bytes);
        if self.wants() > 0 { Ok(None) } else { ConnectRequest::decode(&self.received).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_in_pieces_is_put_together() {
        let request = ConnectRequest { max_msg_size: 12345 };
        let bytes = request.encode().unwrap();
        let mut accept = Accept::default();
        for byte in &bytes[..bytes.len() - 1] {
            assert_eq!(accept.feed(&[*byte]), Ok(None));
        }
        assert_eq!(accept.wants(), 1);
        assert_eq!(accept.feed(&bytes[bytes.len() - 1..]), Ok(Some(request)));
    }

    #[test]
    fn another_protocol_is_refused() {
        let mut accept = Accept::default();
        assert!(matches!(
            accept.feed(&[7; CONNECT_REQUEST_SIZE]),
            Err(WireError::UnknownId { .. })
        ));
    }
}
