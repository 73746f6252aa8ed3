//! What a process has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is allocated and not yet given back.
struct Counting;

static BYTES: AtomicU64 = AtomicU64::new(0);
static BLOCKS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: each function hands its arguments on to the system's allocator, which keeps the promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the conditions of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        BLOCKS.fetch_sub(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the conditions of `dealloc`; the block is the system's.
        unsafe { System.dealloc(block, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        BLOCKS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the conditions of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        BYTES.fetch_add(size as u64, Ordering::Relaxed);
        BYTES.fetch_sub(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller keeps the conditions of `realloc`; the block is the system's.
        unsafe { System.realloc(block, layout, size) }
    }
}

/// What is the same in every rest.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Exact {
    pub(crate) descriptors: usize,
    /// Mappings of rings.
    pub(crate) rings: usize,
    /// Files and directories below the directory of rings.
    pub(crate) files: usize,
}

impl fmt::Debug for Exact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, rings, files } = self;
        write!(f, "{descriptors} descriptors, {rings} rings mapped, {files} files")
    }
}

/// What may go up and down.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Of this process: bytes and blocks allocated.
    pub(crate) heap: u64,
    pub(crate) blocks: u64,
    /// Bytes that are in memory and of no file.
    pub(crate) anonymous: u64,
    pub(crate) mappings: u64,
    pub(crate) threads: u64,
}

/// Counts what a process has, with the files in this directory.
pub(crate) fn exact(pid: u32, shm_root: &Path) -> Exact {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let rings = maps.lines().filter(|line| line.contains("qb-") && !is_black_box(line)).count();
    Exact { descriptors, rings, files: files(shm_root) }
}

/// Counts the memory of a process.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let value = |name: &str| -> u64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_end_matches("kB").trim().parse().unwrap()
    };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    Memory {
        heap: BYTES.load(Ordering::Relaxed),
        blocks: BLOCKS.load(Ordering::Relaxed),
        anonymous: value("RssAnon:") << 10,
        mappings: maps.lines().count() as u64,
        threads: value("Threads:"),
    }
}

/// The descriptors of a process, for a failed test.
pub(crate) fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    entries
        .filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string()))
        .collect()
}

/// The names in a directory of rings, for a failed test.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Counts files and directories. A daemon that was killed leaves its black box.
fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let below = |entry: fs::DirEntry| {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder { files(&entry.path()) + 1 } else { 1 }
    };
    entries
        .flatten()
        .filter(|entry| !is_black_box(&entry.path().to_string_lossy()))
        .map(below)
        .sum()
}

fn is_black_box(name: &str) -> bool {
    name.contains("blackbox")
}
