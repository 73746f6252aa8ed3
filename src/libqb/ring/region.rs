//! Memory that another process may share.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

#[cfg(not(loom))]
use super::copy::copy;
use crate::sync::{AtomicU32, AtomicU64};
use crate::sys::fault::Guarded;

/// The memory of a ring: a shared mapping, or the heap in tests.
///
/// Offsets are in bytes. This crate computes them from sizes that were checked when the ring was
/// opened, and never takes an offset from the peer unchecked. A wrong offset is a bug here and
/// panics.
pub(crate) trait Region {
    /// Returns the size in bytes.
    fn size(&self) -> usize;

    /// Returns the word at an offset that is a multiple of 4.
    fn word(&self, offset: usize) -> &AtomicU32;

    /// Returns the double word at an offset that is a multiple of 8.
    fn double_word(&self, offset: usize) -> &AtomicU64;

    /// Appends `length` bytes at `offset` to `out`. The bytes are unspecified if the other end
    /// writes meanwhile.
    fn copy_out(&self, offset: usize, length: usize, out: &mut Vec<u8>);

    /// Copies bytes to `offset`.
    fn copy_in(&self, offset: usize, bytes: &[u8]);

    /// Whether the memory is gone, so that what was read cannot be trusted. Check it after reading
    /// and before use.
    fn is_lost(&self) -> bool;
}

/// A shared mapping of a file.
pub(crate) struct Mapping {
    // Dropped first: the handler must not take a later mapping at this address for a ring.
    guarded: Guarded,
    map: MmapRaw,
}

impl Mapping {
    /// Maps the first `size` bytes of a file, which must have them.
    pub(crate) fn new(file: &File, size: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(size).map_raw(file)?;
        Ok(Self { guarded: Guarded::new(map.as_mut_ptr(), map.len()), map })
    }

    /// Returns the address of `length` bytes at `offset`, after checking that the mapping has them.
    fn address(&self, offset: usize, length: usize) -> *mut u8 {
        let end = offset.checked_add(length);
        assert!(
            end.is_some_and(|end| end <= self.map.len()),
            "{offset} + {length} is outside a mapping of {}",
            self.map.len()
        );
        self.map.as_mut_ptr().wrapping_add(offset)
    }
}

/// Loom's atomics cannot lie in a mapping; its models run over the heap.
#[cfg(loom)]
impl Region for Mapping {
    fn size(&self) -> usize {
        self.map.len()
    }

    fn word(&self, _: usize) -> &AtomicU32 {
        unimplemented!("loom models run over the heap")
    }

    fn double_word(&self, _: usize) -> &AtomicU64 {
        unimplemented!("loom models run over the heap")
    }

    fn copy_out(&self, _: usize, _: usize, _: &mut Vec<u8>) {}

    fn copy_in(&self, _: usize, _: &[u8]) {}

    fn is_lost(&self) -> bool {
        self.guarded.is_lost()
    }
}

#[cfg(not(loom))]
impl Region for Mapping {
    fn size(&self) -> usize {
        self.map.len()
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert_eq!(offset % size_of::<u32>(), 0);
        let address = self.address(offset, size_of::<u32>()).cast();
        // SAFETY: the address is inside the mapping, which lives as long as `self`, and aligned,
        // since mappings begin at a page. This process touches the header and the chunk
        // headers through atomics only; the peer does the same or races with itself, which
        // can yield any value but no undefined behaviour here, for an atomic has no invalid value.
        unsafe { AtomicU32::from_ptr(address) }
    }

    fn double_word(&self, offset: usize) -> &AtomicU64 {
        assert_eq!(offset % size_of::<u64>(), 0);
        let address = self.address(offset, size_of::<u64>()).cast();
        // SAFETY: as in `word`. The semaphore is this process's only double word, and it is never
        // touched as single words.
        unsafe { AtomicU64::from_ptr(address) }
    }

    fn copy_out(&self, offset: usize, length: usize, out: &mut Vec<u8>) {
        let source = self.address(offset, length).cast_const();
        out.reserve(length);
        let target = out.spare_capacity_mut().as_mut_ptr().cast();
        // SAFETY: `source` has `length` readable bytes, `target` has room for them after `reserve`,
        // and a mapping never overlaps a Vec's buffer. No reference into the mapping
        // exists, and no thread of this process writes here: it is the only consumer. The peer owns
        // these bytes no longer once the chunk is committed; one that writes them all the same
        // changes what is copied, every value of which is checked later by the codecs.
        unsafe { copy(source, target, length) };
        let filled = out.len() + length;
        // SAFETY: the `length` bytes behind the old length have just been written.
        unsafe { out.set_len(filled) };
    }

    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let target = self.address(offset, bytes.len());
        // SAFETY: `target` has room for the bytes, and a slice never overlaps the mapping, of which
        // no reference exists. No thread of this process writes here: it is the only producer. The
        // peer does not read a chunk before its magic is set; one that does reads half a message,
        // which is its own harm.
        unsafe { copy(bytes.as_ptr(), target, bytes.len()) };
    }

    fn is_lost(&self) -> bool {
        self.guarded.is_lost()
    }
}
