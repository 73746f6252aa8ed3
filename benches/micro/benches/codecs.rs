//! Encoding and decoding of messages: `cargo bench -p micro --bench codecs`.

use std::hint::black_box;

use bytes::Bytes;
use corosync_ipc::wire::Message;
use corosync_ipc::wire::{cmap, cpg};
use criterion::Criterion;

fn encode<M: Message>(criterion: &mut Criterion, name: &str, message: M) {
    criterion.bench_function(&format!("encode {name}"), |bencher| {
        bencher.iter(|| black_box(&message).encode());
    });
}

/// As clients do: what the message has is a part of the bytes it came in, where it can be.
fn decode<M: Message, Decoded>(
    criterion: &mut Criterion,
    name: &str,
    message: M,
    decode: impl Fn(&Bytes) -> Decoded,
) {
    let bytes = Bytes::from(message.encode().expect("a message that can be encoded"));
    criterion.bench_function(&format!("decode {name}"), |bencher| {
        bencher.iter(|| decode(black_box(&bytes)));
    });
}

fn codecs(criterion: &mut Criterion) {
    encode(criterion, "a cmap get", micro::get());
    encode(criterion, "a multicast of 64 B", micro::multicast(64));
    decode(criterion, "the reply of a cmap get", micro::get_reply(), |bytes| {
        cmap::GetReply::decode(bytes)
    });
    decode(criterion, "a cmap notification", micro::notification(), |bytes| {
        cmap::AnyEvent::decode_shared(bytes)
    });
    for (name, size) in [("64 B", 64), ("64 KiB", 64 << 10)] {
        decode(criterion, &format!("a delivery of {name}"), micro::delivery(size), |bytes| {
            cpg::AnyEvent::decode_shared(bytes)
        });
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    codecs(&mut criterion);
    criterion.final_summary();
}
