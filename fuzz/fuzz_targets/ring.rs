//! Reads and writes a ring whose memory a hostile peer has filled.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::ring(data));
