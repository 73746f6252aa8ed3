//! A chunk into a ring in shared memory, and out of it: `cargo bench -p micro --bench ring`.

use std::hint::black_box;

use corosync_ipc::fuzzing::MappedRing;
use criterion::{BenchmarkId, Criterion, Throughput};

const SIZES: [(&str, usize); 7] = [
    ("16 B", 16),
    ("64 B", 64),
    ("1 KiB", 1 << 10),
    ("8 KiB", 8 << 10),
    ("64 KiB", 64 << 10),
    ("256 KiB", 256 << 10),
    ("1 MiB", 1 << 20),
];

/// A chunk fits twice, so that it often goes over the end of the ring.
const RING: usize = 2 << 20;

fn ring(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder can be made");
    let mut ring = MappedRing::create(folder.path(), RING).expect("a ring can be made");
    let mut group = criterion.benchmark_group("put and take");
    let mut taken = Vec::new();
    for (name, size) in SIZES {
        let chunk = vec![1; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_with_input(BenchmarkId::from_parameter(name), &chunk, |bencher, chunk| {
            bencher.iter(|| {
                ring.put(black_box(chunk));
                ring.take(&mut taken);
                assert_eq!(taken.len(), chunk.len());
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    ring(&mut criterion);
    criterion.final_summary();
}
