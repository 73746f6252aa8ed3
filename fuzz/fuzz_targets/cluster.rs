//! Runs a cluster of embedded daemons by requests, partitions and time.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::cluster(data));
