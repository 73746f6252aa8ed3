//! Adds clients to a dispatcher, takes their events and removes them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::dispatcher(data));
