//! Feeds any bytes, in pieces, to the client's half of the handshake, and any name to the parser of
//! ring names.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::handshake(data));
