#![no_main]

use corosync_ipc::wire::cpg::AnyEvent;
use libfuzzer_sys::fuzz_target;

/// Yours: takes what a member of the group sent, as `command SP argument`.
fn on_message(message: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = message.iter().position(|byte| *byte == b' ')?;
    Some((&message[..space], &message[space + 1..]))
}

fuzz_target!(|data: &[u8]| {
    let Ok(AnyEvent::DeliverCallback(event)) = AnyEvent::decode(data) else { return };
    on_message(&event.message);
});
