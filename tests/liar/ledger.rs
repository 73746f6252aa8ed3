//! What a case must leave as it was: descriptors, mappings, memory and files.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicIsize, Ordering};

/// Counts what is allocated.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated, and the most of them since [`Ledger::open`].
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn count(bytes: isize) {
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: all work is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count(layout.size() as isize);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(block, layout) };
        count(-(layout.size() as isize));
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            count(layout.size() as isize);
        }
        block
    }
}

/// What the process has. Nothing else may run in it.
pub(crate) struct Ledger {
    descriptors: BTreeMap<String, String>,
    mappings: Vec<String>,
    live: isize,
}

impl Ledger {
    pub(crate) fn open() -> Self {
        let (descriptors, mappings) = (descriptors(), shared_mappings());
        let live = LIVE.load(Ordering::Relaxed);
        PEAK.store(live, Ordering::Relaxed);
        Self { descriptors, mappings, live }
    }

    /// The most memory that was allocated at a time since, in bytes.
    pub(crate) fn peak(&self) -> usize {
        usize::try_from(PEAK.load(Ordering::Relaxed) - self.live).unwrap_or(0)
    }

    /// What is there now that was not, and the other way round.
    pub(crate) fn difference(&self) -> Option<String> {
        let live = LIVE.load(Ordering::Relaxed) - self.live;
        let (descriptors, mappings) = (descriptors(), shared_mappings());
        if descriptors != self.descriptors {
            return Some(format!("descriptors {:?} became {descriptors:?}", self.descriptors));
        }
        if mappings != self.mappings {
            return Some(format!("mappings {:?} became {mappings:?}", self.mappings));
        }
        (live != 0).then(|| format!("{live} bytes were not freed"))
    }
}

/// The open descriptors, and what each is.
fn descriptors() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    // The descriptor of this directory is gone by now.
    let links = entries.filter_map(|path| Some((path.clone(), fs::read_link(path).ok()?)));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    links
        .map(|(path, link)| (text(&path), text(&link)))
        .filter(|(_, link)| !link.ends_with("/fd"))
        .collect()
}

/// The mappings of files in shared memory.
fn shared_mappings() -> Vec<String> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/dev/shm/")).map(str::to_owned).collect()
}

/// The private writable memory of the process in bytes, if it can be told.
pub(crate) fn anonymous_memory() -> Option<usize> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let size = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let [start, end] = [start, end].map(|number| usize::from_str_radix(number, 16));
        Some(end.ok()? - start.ok()?)
    };
    let is_anonymous = |line: &&str| line.contains(" rw-p ") && line.contains(" 00:00 0");
    let total = maps.lines().filter(is_anonymous).filter_map(size).sum();
    // A sanitizer has terabytes of it.
    (total < 1 << 40).then_some(total)
}

/// The files below a directory: kind, owner, mode and number of names, and the content of those in
/// directories that no connection uses.
pub(crate) type Listing = BTreeMap<PathBuf, String>;

pub(crate) fn files(root: &Path) -> Listing {
    let mut found = Listing::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        // A directory that only root may list.
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let Ok(metadata) = path.symlink_metadata() else { continue };
            let mut text = describe(&metadata);
            if metadata.is_file() && path.components().any(|part| part.as_os_str() == BYSTANDER) {
                text += &String::from_utf8_lossy(&fs::read(&path).unwrap());
            }
            if metadata.is_dir() {
                left.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().to_owned(), text);
        }
    }
    found
}

/// A directory of another connection.
pub(crate) const BYSTANDER: &str = "qb-1-2-3-bystander";

fn describe(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let kind = if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "link"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_file() {
        "file"
    } else {
        "special"
    };
    let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    // Directories count their subdirectories.
    let names = if metadata.is_dir() { 1 } else { metadata.nlink() };
    format!("{kind} of {uid}, mode {mode:o}, {names} names ")
}
