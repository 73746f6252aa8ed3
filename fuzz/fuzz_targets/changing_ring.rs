//! Uses a ring whose other end changes it before every access.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::changing_ring(data));
