//! Feeds any bytes in pieces to the server's half of the connection setup.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| corosync_ipc::fuzzing::accept(data));
