//! Takes any bytes apart as any message of any service. What can be read can be written, and reads the same again.
//!
//! The first byte chooses service and kind, the rest is the message.

#![no_main]

use corosync_ipc::wire::{cfg, cmap, evs, quorum, votequorum};
use libfuzzer_sys::fuzz_target;

macro_rules! round_trip {
    ($any:ty, $bytes:expr) => {
        if let Ok(message) = <$any>::decode($bytes) {
            let encoded = message.encode().expect("what was read can be written");
            let again = <$any>::decode(&encoded).expect("what was written can be read");
            // Not compared as values: a float may be no number.
            assert_eq!(format!("{again:?}"), format!("{message:?}"));
        }
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    match choice % 15 {
        0 => round_trip!(cmap::AnyRequest, bytes),
        1 => round_trip!(cmap::AnyResponse, bytes),
        2 => round_trip!(cmap::AnyEvent, bytes),
        3 => round_trip!(quorum::AnyRequest, bytes),
        4 => round_trip!(quorum::AnyResponse, bytes),
        5 => round_trip!(quorum::AnyEvent, bytes),
        6 => round_trip!(votequorum::AnyRequest, bytes),
        7 => round_trip!(votequorum::AnyResponse, bytes),
        8 => {
            round_trip!(votequorum::AnyEvent, bytes);
            let _ = votequorum::decode_event(bytes);
        }
        9 => round_trip!(cfg::AnyRequest, bytes),
        10 => round_trip!(cfg::AnyResponse, bytes),
        11 => round_trip!(cfg::AnyEvent, bytes),
        12 => round_trip!(evs::AnyRequest, bytes),
        13 => round_trip!(evs::AnyResponse, bytes),
        _ => round_trip!(evs::AnyEvent, bytes),
    }
});
