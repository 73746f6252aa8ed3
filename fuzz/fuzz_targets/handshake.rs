//! Feeds any bytes in pieces to the client's half of the connection setup.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::handshake(data));
