//! Feeds any bytes in pieces to the client's handshake, and parses them as the name of a ring.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::handshake(data));
