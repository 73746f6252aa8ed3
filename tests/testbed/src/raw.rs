//! The bytes of libqb's IPC by their offsets, for peers that lie.
//!
//! `proto/README.md` says where each field is. Nothing here uses the codecs of corosync-ipc, so a
//! wrong offset there shows in a test that stands on this. Nothing here checks what it is given.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};
use nix::libc;

/// Size of the connection request in bytes.
pub const SETUP_REQUEST: usize = 24;

/// Size of the connection reply in bytes, of libqb 0.13 and later.
pub const SETUP_REPLY: usize = 12328;

/// Size of the connection reply in bytes, of libqb 0.10 to 0.12.
pub const OLD_SETUP_REPLY: usize = 12336;

/// The id of both.
pub const AUTHENTICATE: i32 = -1;

/// The transport of datagrams.
pub const SOCKET: i32 = 0;

/// The transport of rings.
pub const SHM: i32 = 1;

/// Length of a name in the connection reply in bytes.
pub const NAME: usize = 4096;

/// Offsets in a ring's header file.
pub mod header {
    /// Index of the next chunk, in words.
    pub const WRITE_PT: usize = 0;
    /// Index of the oldest chunk, in words.
    pub const READ_PT: usize = 4;
    /// Number of words of the data file.
    pub const WORD_SIZE: usize = 8;
    /// Path of the header file.
    pub const HEADER_PATH: usize = 12;
    /// Path of the data file.
    pub const DATA_PATH: usize = 4108;
    /// Number of users.
    pub const REF_COUNT: usize = 8204;
    /// The semaphore: its value in the low half of 8 bytes, its waiters in the high half.
    pub const SEMAPHORE: usize = 8208;
    /// The semaphore's word that says whether processes share it.
    pub const SHARED: usize = 8216;
    /// The flow control word, in the request ring only.
    pub const FLOW_CONTROL: usize = 8240;
    /// Size of the file in bytes; with the flow control word it is 4 longer.
    pub const SIZE: usize = 8248;
}

/// Size of the control file of datagrams in bytes: for requests, responses and events the count of
/// datagrams under way and a flow control word.
pub const CONTROL: usize = 24;

/// Magic numbers of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Magic {
    /// It is complete.
    pub live: u32,
    /// It was consumed.
    pub dead: u32,
    /// It is being written.
    pub alloc: u32,
}

/// The magic numbers of libqb 0.14 and later.
pub const MAGIC: Magic = Magic { live: 0xa1a1_a1a1, dead: 0xd0d0_d0d0, alloc: 0xa110_ced0 };

/// The magic numbers of libqb 0.10 to 0.13.
pub const OLD_MAGIC: Magic = Magic { live: 0xaaaa_aaaa, dead: 0, alloc: 0xaaaa_aaaa };

/// Sets bytes at an offset. The message grows if it is too short.
pub fn put(message: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if message.len() < end {
        message.resize(end, 0);
    }
    message[offset..end].copy_from_slice(bytes);
}

/// Sets an `i32` at an offset. Also for a `u32`, cast.
pub fn put_i32(message: &mut Vec<u8>, offset: usize, value: i32) {
    put(message, offset, &value.to_ne_bytes());
}

/// Sets a `u64` at an offset.
pub fn put_u64(message: &mut Vec<u8>, offset: usize, value: u64) {
    put(message, offset, &value.to_ne_bytes());
}

/// Reads an `i32` at an offset; 0 behind the end.
pub fn i32_at(message: &[u8], offset: usize) -> i32 {
    let word = message.get(offset..offset + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, i32::from_ne_bytes)
}

/// Reads a `u64` at an offset; 0 behind the end.
pub fn u64_at(message: &[u8], offset: usize) -> u64 {
    let word = message.get(offset..offset + 8).and_then(|word| word.try_into().ok());
    word.map_or(0, u64::from_ne_bytes)
}

/// A request: its header says the right size.
pub fn request(id: i32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 16];
    message.extend_from_slice(body);
    put_i32(&mut message, 0, id);
    let size = message.len() as i32;
    put_i32(&mut message, 8, size);
    message
}

/// A response or an event: its header says the right size.
pub fn response(id: i32, error: i32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 24];
    message.extend_from_slice(body);
    put_i32(&mut message, 0, id);
    let size = message.len() as i32;
    put_i32(&mut message, 8, size);
    put_i32(&mut message, 16, error);
    message
}

/// A connection request.
pub fn setup_request(max_msg_size: u32) -> Vec<u8> {
    let mut request = request(AUTHENTICATE, &[0; 8]);
    put_i32(&mut request, 16, max_msg_size as i32);
    request
}

/// A connection reply, of which each field may be a lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetupReply {
    /// Whether it has the layout of libqb 0.10 to 0.12.
    pub is_old: bool,
    /// Header: id.
    pub id: i32,
    /// Header: size.
    pub size: i32,
    /// Header: 0 or a negative errno.
    pub error: i32,
    /// [`SHM`] or [`SOCKET`].
    pub transport: i32,
    /// The size that the server grants.
    pub max_msg_size: u32,
    /// A number without a meaning.
    pub cookie: u64,
    /// Names of the request, response and event ring. [`NAME`] bytes fill the field without a NUL.
    pub names: [Vec<u8>; 3],
}

impl SetupReply {
    /// An honest one.
    pub fn new(transport: i32, max_msg_size: u32, names: [Vec<u8>; 3]) -> Self {
        let (id, size) = (AUTHENTICATE, SETUP_REPLY as i32);
        Self { is_old: false, id, size, error: 0, transport, max_msg_size, cookie: 1, names }
    }

    /// In the layout of libqb 0.10 to 0.12.
    #[must_use]
    pub fn old(self) -> Self {
        Self { is_old: true, size: OLD_SETUP_REPLY as i32, ..self }
    }

    /// The bytes. Their number does not depend on `size`.
    pub fn bytes(&self) -> Vec<u8> {
        let (length, [max_msg_size, cookie, names]) = Self::layout(self.is_old);
        let mut bytes = vec![0; length];
        for (offset, value) in [
            (0, self.id),
            (8, self.size),
            (16, self.error),
            (24, self.transport),
            (max_msg_size, self.max_msg_size as i32),
        ] {
            put_i32(&mut bytes, offset, value);
        }
        put_u64(&mut bytes, cookie, self.cookie);
        for (number, name) in self.names.iter().enumerate() {
            put(&mut bytes, names + number * NAME, &name[..name.len().min(NAME)]);
        }
        bytes
    }

    /// Reads one; fields behind the end are 0.
    pub fn read(bytes: &[u8]) -> Self {
        let is_old = i32_at(bytes, 8) == OLD_SETUP_REPLY as i32;
        let (_, [max_msg_size, cookie, names]) = Self::layout(is_old);
        let name = |number: usize| {
            let field = bytes.get(names + number * NAME..).unwrap_or_default();
            field.iter().take(NAME).copied().take_while(|byte| *byte != 0).collect()
        };
        Self {
            is_old,
            id: i32_at(bytes, 0),
            size: i32_at(bytes, 8),
            error: i32_at(bytes, 16),
            transport: i32_at(bytes, 24),
            max_msg_size: i32_at(bytes, max_msg_size) as u32,
            cookie: u64_at(bytes, cookie),
            names: [name(0), name(1), name(2)],
        }
    }

    /// The length, and the offsets of the size, the cookie and the names.
    fn layout(is_old: bool) -> (usize, [usize; 3]) {
        if is_old { (OLD_SETUP_REPLY, [32, 40, 48]) } else { (SETUP_REPLY, [28, 32, 40]) }
    }
}

/// A file in shared memory, mapped. Each access panics outside of the mapping, and kills the
/// process where the file has been cut short.
#[derive(Debug)]
pub struct Shared {
    map: MmapRaw,
}

impl Shared {
    /// Maps the first bytes of a file.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub fn map(file: &File, size: usize) -> io::Result<Self> {
        Ok(Self { map: MmapOptions::new().len(size).map_raw(file)? })
    }

    /// Size of the mapping in bytes.
    pub fn size(&self) -> usize {
        self.map.len()
    }

    /// The word at an offset.
    pub fn word(&self, offset: usize) -> &AtomicU32 {
        let address = self.address(offset, 4);
        assert_eq!(offset % 4, 0, "words are aligned");
        // SAFETY: inside the mapping, which lives as long as `self`, and aligned, since mappings
        // begin at a page. Any value is valid.
        unsafe { AtomicU32::from_ptr(address.cast()) }
    }

    /// The double word at an offset.
    pub fn double_word(&self, offset: usize) -> &AtomicU64 {
        let address = self.address(offset, 8);
        assert_eq!(offset % 8, 0, "double words are aligned");
        // SAFETY: as in `word`.
        unsafe { AtomicU64::from_ptr(address.cast()) }
    }

    /// Reads a word.
    pub fn get(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::SeqCst)
    }

    /// Writes a word.
    pub fn set(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::SeqCst);
    }

    /// Writes bytes.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        let target = self.address(offset, bytes.len());
        // SAFETY: the mapping has room for them, and no reference into it exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    }

    /// Reads bytes.
    pub fn copy_out(&self, offset: usize, length: usize) -> Vec<u8> {
        let (source, mut bytes) = (self.address(offset, length), vec![0; length]);
        // SAFETY: both have that many bytes and do not overlap.
        unsafe { ptr::copy_nonoverlapping(source.cast_const(), bytes.as_mut_ptr(), length) };
        bytes
    }

    fn address(&self, offset: usize, length: usize) -> *mut u8 {
        assert!(offset + length <= self.map.len(), "{offset} + {length} of {}", self.map.len());
        self.map.as_mut_ptr().wrapping_add(offset)
    }
}

/// A ring: both its files, mapped, and either end's honest way to use it. What is not honest goes
/// through `header` and `data`.
#[derive(Debug)]
pub struct Ring {
    /// The header file.
    pub header: Shared,
    /// The data file.
    pub data: Shared,
    /// The path of both files without `-header` and `-data`.
    pub base: PathBuf,
    /// The magic numbers.
    pub magic: Magic,
}

impl Ring {
    /// Creates the files of a ring for messages of this size, as a server does.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(base: &Path, max_msg_size: u32, has_flow_control: bool) -> io::Result<Self> {
        let create = |suffix, size: usize| {
            let path = with_suffix(base, suffix);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
            file.set_len(size as u64)?;
            Shared::map(&file, size)
        };
        let header_size = header::SIZE + if has_flow_control { 4 } else { 0 };
        let data_size = (max_msg_size as usize + 13).next_multiple_of(page_size());
        let header = create("-header", header_size)?;
        let data = create("-data", data_size)?;
        header.set(header::WORD_SIZE, (data_size / 4) as u32);
        for (offset, suffix) in [(header::HEADER_PATH, "-header"), (header::DATA_PATH, "-data")] {
            header.copy_in(offset, with_suffix(base, suffix).as_os_str().as_encoded_bytes());
        }
        header.set(header::REF_COUNT, 1);
        header.set(header::SHARED, 0x80);
        data.set(0, 5);
        Ok(Self { header, data, base: base.to_owned(), magic: MAGIC })
    }

    /// Opens the files of a ring, as a client does. Does not count as its user.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(base: &Path) -> io::Result<Self> {
        let open = |suffix| {
            let file = OpenOptions::new().read(true).write(true).open(with_suffix(base, suffix))?;
            Shared::map(&file, file.metadata()?.len() as usize)
        };
        let (header, data) = (open("-header")?, open("-data")?);
        Ok(Self { header, data, base: base.to_owned(), magic: MAGIC })
    }

    /// The paths of both files.
    pub fn files(&self) -> [PathBuf; 2] {
        ["-header", "-data"].map(|suffix| with_suffix(&self.base, suffix))
    }

    /// The number of words of the data file.
    pub fn words(&self) -> u32 {
        (self.data.size() / 4) as u32
    }

    /// The word that is this far behind an index, where the ring wraps around.
    pub fn word(&self, index: u32, distance: u32) -> &AtomicU32 {
        self.data.word(((index + distance) % self.words()) as usize * 4)
    }

    /// Puts a chunk into the ring without a look at the room, and posts the semaphore. Returns the
    /// chunk's index.
    pub fn put(&self, payload: &[u8]) -> u32 {
        let index = self.header.get(header::WRITE_PT);
        self.write(index, payload);
        let step = 2 + (payload.len() as u32).div_ceil(4);
        self.header.set(header::WRITE_PT, (index + step) % self.words());
        self.word(index, 1).store(self.magic.live, Ordering::SeqCst);
        self.post();
        index
    }

    /// Writes a chunk's length and payload, and no more, at an index.
    pub fn write(&self, index: u32, payload: &[u8]) {
        self.word(index, 0).store(payload.len() as u32, Ordering::SeqCst);
        for (number, bytes) in payload.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            self.word(index, 2 + number as u32).store(u32::from_ne_bytes(word), Ordering::SeqCst);
        }
    }

    /// Whether a chunk of this length has room.
    pub fn has_room(&self, length: usize) -> bool {
        let [write, read] = [header::WRITE_PT, header::READ_PT].map(|it| self.header.get(it));
        let free = (read + self.words() - write - 1) % self.words();
        free as usize * 4 >= length + 12
    }

    /// Takes the oldest chunk, if there is one. It is no longer than the ring.
    pub fn take(&self) -> Option<Vec<u8>> {
        let index = self.header.get(header::READ_PT);
        if self.word(index, 1).load(Ordering::SeqCst) != self.magic.live {
            return None;
        }
        let length = self.word(index, 0).load(Ordering::SeqCst).min(self.data.size() as u32);
        let words = (0..length.div_ceil(4))
            .map(|number| self.word(index, 2 + number).load(Ordering::SeqCst).to_ne_bytes());
        let mut payload: Vec<u8> = words.flatten().collect();
        payload.truncate(length as usize);
        self.word(index, 0).store(0, Ordering::SeqCst);
        self.word(index, 1).store(self.magic.dead, Ordering::SeqCst);
        self.header.set(header::READ_PT, (index + 2 + length.div_ceil(4)) % self.words());
        // One that was not posted yet is not counted.
        let _ = self.semaphore().fetch_update(Ordering::SeqCst, Ordering::SeqCst, |semaphore| {
            (semaphore as u32 > 0).then(|| semaphore - 1)
        });
        Some(payload)
    }

    /// The semaphore: its value in the low half, its waiters in the high half.
    pub fn semaphore(&self) -> &AtomicU64 {
        self.header.double_word(header::SEMAPHORE)
    }

    /// Adds one to the semaphore and wakes whoever sleeps on it.
    pub fn post(&self) {
        self.semaphore().fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Wakes whoever sleeps on the semaphore.
    pub fn wake(&self) {
        let low = header::SEMAPHORE + if cfg!(target_endian = "little") { 0 } else { 4 };
        let address = self.header.address(low, 4);
        // SAFETY: FUTEX_WAKE reads no memory.
        unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, i32::MAX) };
    }
}

/// A path with more at the end of its name.
pub fn with_suffix(base: &Path, suffix: &str) -> PathBuf {
    let mut path = base.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// An abstract address as libqb has it: the name and NULs up to the whole of `sun_path`.
///
/// # Errors
/// The name is too long.
pub fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    let mut padded = name.to_vec();
    padded.truncate(106);
    padded.resize(107, 0);
    SocketAddr::from_abstract_name(padded)
}

/// A datagram socket bound to an abstract address.
///
/// # Errors
/// Those of bind(2).
pub fn bind_datagram(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&abstract_address(name.as_bytes())?)
}

/// The size of a page in bytes.
pub fn page_size() -> usize {
    // SAFETY: reads a constant of the system.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("pages have a size")
}
