//! Reads any bytes as a corosync.conf.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::config_file(data));
