//! Parses any bytes as the names of ring files and datagram sockets.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::names(data));
