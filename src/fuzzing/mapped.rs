//! A ring in shared memory with both its ends in one process, for benches.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::libqb::ring::{Consumer, Format, HEADER_FILE_SIZE, Mapping, Producer, Ring};

/// Both ends of a ring.
pub struct MappedRing {
    producer: Producer<Mapping>,
    consumer: Consumer<Mapping>,
}

impl MappedRing {
    /// Makes the files of a ring of this size, a multiple of the page size, in a folder.
    ///
    /// # Errors
    /// What the system says.
    ///
    /// # Panics
    /// When the size is no size of a ring.
    pub fn create(folder: &Path, size: usize) -> io::Result<Self> {
        let map = |name: &str, size: usize| {
            let path = folder.join(name);
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            file.set_len(size as u64)?;
            Mapping::new(&file, size)
        };
        let both = || Ok::<_, io::Error>((map("header", HEADER_FILE_SIZE)?, map("data", size)?));
        let ((header, data), (other_header, other_data)) = (both()?, both()?);
        let format = Format::LIBQB_014;
        let ring = Ring::create("bench", format, header, data, [b"", b""]).expect("a new ring");
        let other = Ring::open("bench", format, other_header, other_data).expect("a new ring");
        Ok(Self {
            producer: ring.producer().expect("a new ring"),
            consumer: other.consumer().expect("a new ring"),
        })
    }

    /// # Panics
    /// When the ring is full.
    pub fn put(&mut self, chunk: &[u8]) {
        assert!(self.producer.try_send(&[chunk]).expect("nobody else writes"), "the ring is full");
    }

    /// Takes a chunk, which replaces what `chunk` has.
    ///
    /// # Panics
    /// When the ring is empty.
    pub fn take(&mut self, chunk: &mut Vec<u8>) {
        let taken = self.consumer.try_receive_into(chunk).expect("nobody else writes");
        assert!(taken, "the ring is empty");
    }
}
