//! Makes all calls of a client whose daemon says what the input has.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::client(data));
