//! libcmap.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use corosync_ipc::cmap::{
    Client, Entry, Event, Map, Notification, Options, TrackEvents, Tracker, Value, ValueType,
    check_key,
};
use corosync_ipc::wire::cmap::RawValue;
use corosync_ipc::{CsError, Error};
use nix::libc;

use crate::common::{Code, status};
use crate::handle::Handles;
use crate::pointer::{In, Out, Text};
use crate::service::{Instance, Iterated, NOTHING, common_functions, endpoint, mode_or_blocking};

/// `CS_MAX_NAME_LENGTH`: a name with its NUL.
const MAX_NAME_LENGTH: usize = 256;

/// `struct cmap_notify_value`
#[repr(C)]
#[derive(Clone, Copy)]
pub struct NotifyValue {
    value_type: c_int,
    len: usize,
    data: *const c_void,
}

type NotifyFn = extern "C" fn(u64, u64, i32, *const c_char, NotifyValue, NotifyValue, *mut c_void);

/// What is tracked, and who wants to know.
#[derive(Clone, Copy)]
struct Tracked {
    /// `None` for a name that no key can have: it has no notifications.
    tracker: Option<Tracker>,
    notify: NotifyFn,
    user_data: *mut c_void,
}

// SAFETY: the pointer is the program's, which passes it between threads as it likes.
unsafe impl Send for Tracked {}

/// The trackers of a connection, by the handle that the program has.
#[derive(Default)]
struct Trackers {
    last: u64,
    by_handle: HashMap<u64, Tracked>,
}

static HANDLES: Handles<Instance<Client, Mutex<Trackers>>> = Handles::new(3);

static ITERATIONS: Handles<Iterated<Entry>> = Handles::new(4);

fn trackers(instance: &Instance<Client, Mutex<Trackers>>) -> MutexGuard<'_, Trackers> {
    instance.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a name, of a key or of a prefix.
fn name(from: &Text) -> Result<&str, Code> {
    let name = from.string()?;
    if name.count_bytes() >= MAX_NAME_LENGTH {
        return Err(CsError::NameTooLong.into());
    }
    // No key has such a name.
    name.to_str().map_err(|_| CsError::NotExist.into())
}

/// Reads the name of a key that exists, or else is not found.
fn present_key(from: &Text) -> Result<&str, Code> {
    let key = name(from)?;
    check_key(key).map(|()| key).map_err(|_| CsError::NotExist.into())
}

/// Reads the name of a key that may be new.
fn new_key(from: &Text) -> Result<&str, Code> {
    let key = name(from)?;
    // As the daemon says it of names that are too short or have other characters too.
    check_key(key).map(|()| key).map_err(|_| CsError::NameTooLong.into())
}

/// The bytes of a value as C has them: a string with its NUL.
fn bytes_of(value: Value) -> (ValueType, Bytes) {
    let is_text = matches!(value, Value::String(_));
    let RawValue { value_type, data } = value.into();
    if is_text { (value_type, [&data, &b"\0"[..]].concat().into()) } else { (value_type, data) }
}

/// Connects.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_initialize(handle: Out<u64>) -> c_int {
    status(|| initialize(handle, Map::Icmap))
}

/// Connects to a map.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_initialize_map(handle: Out<u64>, map: c_int) -> c_int {
    status(|| match map {
        0 => initialize(handle, Map::Icmap),
        1 => initialize(handle, Map::Stats),
        _ => Err(CsError::NotExist.into()),
    })
}

fn initialize(handle: Out<u64>, map: Map) -> Result<(), Code> {
    let client = Client::connect_with(&endpoint()?, Options::new().map(map))?;
    let opened = HANDLES.insert(Instance::new(client, Mutex::default(), NOTHING));
    handle.put(opened)
}

common_functions!(HANDLES: cmap_fd_get, context: cmap_context_get, cmap_context_set);

/// Ends the connection, its trackers and its iterations. A dispatch of another thread, which hangs
/// in C, returns `CS_ERR_BAD_HANDLE`.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_finalize(handle: u64) -> c_int {
    status(|| {
        HANDLES.remove(handle)?.finalize();
        ITERATIONS.retain(|iteration| iteration.owner != handle);
        Ok(())
    })
}

/// Hands notifications to the trackers' functions.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_dispatch(handle: u64, dispatch_types: c_int) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        instance.dispatch(mode_or_blocking(dispatch_types), |event| {
            let Event::Notification(notification) = event else {
                return Err(CsError::Library.into());
            };
            // The lock is not held during the call. Whoever adds a tracker holds it until the
            // tracker is known, however early its first notification comes.
            let found = trackers(&instance)
                .by_handle
                .iter()
                .find(|(_, tracked)| tracked.tracker == Some(notification.tracker))
                .map(|(tracker, tracked)| (*tracker, *tracked));
            if let Some((tracker, tracked)) = found {
                call(handle, tracker, tracked, notification);
            }
            Ok(())
        })
    })
}

fn call(handle: u64, tracker: u64, tracked: Tracked, notification: Notification) {
    let Notification { event, key, new_value, old_value, .. } = notification;
    let mut key = key.into_bytes();
    key.push(0);
    let [new, old] = [new_value, old_value].map(|value| value.map(bytes_of));
    let [new_value, old_value] = [&new, &old].map(|value| match value {
        Some((value_type, data)) => NotifyValue {
            value_type: value_type.0.into(),
            len: data.len(),
            data: data.as_ptr().cast(),
        },
        None => NotifyValue { value_type: 0, len: 0, data: ptr::null() },
    });
    (tracked.notify)(
        handle,
        tracker,
        event.bits(),
        key.as_ptr().cast(),
        new_value,
        old_value,
        tracked.user_data,
    );
}

/// Sets a key.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_set(
    handle: u64,
    key_name: Text,
    value: In<c_void>,
    value_len: usize,
    value_type: c_int,
) -> c_int {
    status(|| {
        if value.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        let value_type = u8::try_from(value_type).map_err(|_| CsError::InvalidParam)?;
        set(handle, &key_name, ValueType(value_type), value.of::<u8>().values(value_len)?)
    })
}

fn set(handle: u64, key_name: &Text, value_type: ValueType, data: &[u8]) -> Result<(), Code> {
    let value = RawValue { value_type, data: Bytes::copy_from_slice(data) };
    let key = new_key(key_name)?;
    Ok(HANDLES.get(handle)?.client.set(key, value)?)
}

/// Sets a key to a text.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_set_string(handle: u64, key_name: Text, value: Text) -> c_int {
    status(|| set(handle, &key_name, ValueType::STRING, value.string()?.to_bytes()))
}

/// Deletes a key.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_delete(handle: u64, key_name: Text) -> c_int {
    status(|| {
        let key = present_key(&key_name)?;
        Ok(HANDLES.get(handle)?.client.delete(key)?)
    })
}

/// Reads a value. Each of the three pointers may be null; without `value` only its length and type
/// are given.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_get(
    handle: u64,
    key_name: Text,
    value: Out<c_void>,
    value_len: Out<usize>,
    value_type: Out<c_int>,
) -> c_int {
    status(|| {
        if !value.is_null() && value_len.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        let (found_type, data) = get(handle, &key_name)?;
        // Without room only the length and the type are asked for.
        let room = if value.is_null() { 0 } else { value_len.value().unwrap_or_default() };
        if room != 0 {
            if room < data.len() {
                return Err(CsError::InvalidParam.into());
            }
            value.of::<u8>().put_all(&data)?;
        }
        value_len.put_if_wanted(data.len());
        value_type.put_if_wanted(found_type.0.into());
        Ok(())
    })
}

fn get(handle: u64, key_name: &Text) -> Result<(ValueType, Bytes), Code> {
    let key = present_key(key_name)?;
    let value = HANDLES.get(handle)?.client.get(key)?;
    Ok(bytes_of(value.ok_or(CsError::NotExist)?))
}

/// Reads a text into memory that the caller frees.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_get_string(handle: u64, key_name: Text, str: Out<*mut c_char>) -> c_int {
    status(|| {
        let (value_type, data) = get(handle, &key_name)?;
        if value_type != ValueType::STRING || str.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        // SAFETY: the data end with a NUL.
        let copy = unsafe { libc::strndup(data.as_ptr().cast(), data.len()) };
        if copy.is_null() {
            return Err(CsError::NoMemory.into());
        }
        str.put(copy)
    })
}

macro_rules! numbers {
    ($($get:ident $set:ident $type:ty = $value_type:ident;)*) => {$(
        /// Reads a number of this type.
        #[unsafe(no_mangle)]
        pub extern "C" fn $get(
            handle: u64,
            key_name: Text,
            value: Out<$type>,
        ) -> c_int {
            status(|| {
                let (value_type, data) = get(handle, &key_name)?;
                if value_type != ValueType::$value_type {
                    return Err(CsError::InvalidParam.into());
                }
                let bytes = <[u8; size_of::<$type>()]>::try_from(&*data);
                value.put(<$type>::from_ne_bytes(bytes.map_err(|_| CsError::InvalidParam)?))
            })
        }

        /// Sets a key to a number of this type.
        #[unsafe(no_mangle)]
        pub extern "C" fn $set(
            handle: u64,
            key_name: Text,
            value: $type,
        ) -> c_int {
            status(|| set(handle, &key_name, ValueType::$value_type, &value.to_ne_bytes()))
        }
    )*};
}

numbers! {
    cmap_get_int8 cmap_set_int8 i8 = INT8;
    cmap_get_uint8 cmap_set_uint8 u8 = UINT8;
    cmap_get_int16 cmap_set_int16 i16 = INT16;
    cmap_get_uint16 cmap_set_uint16 u16 = UINT16;
    cmap_get_int32 cmap_set_int32 i32 = INT32;
    cmap_get_uint32 cmap_set_uint32 u32 = UINT32;
    cmap_get_int64 cmap_set_int64 i64 = INT64;
    cmap_get_uint64 cmap_set_uint64 u64 = UINT64;
    cmap_get_float cmap_set_float f32 = FLOAT;
    cmap_get_double cmap_set_double f64 = DOUBLE;
}

/// Adds 1 to an integer.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_inc(handle: u64, key_name: Text) -> c_int {
    adjust(handle, &key_name, 1)
}

/// Subtracts 1 from an integer.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_dec(handle: u64, key_name: Text) -> c_int {
    adjust(handle, &key_name, -1)
}

fn adjust(handle: u64, key_name: &Text, step: i32) -> c_int {
    status(|| {
        let key = present_key(key_name)?;
        Ok(HANDLES.get(handle)?.client.adjust(key, step)?)
    })
}

/// Begins to iterate over the keys with a prefix, null for all, of which it takes a list at once.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_iter_init(handle: u64, prefix: Text, cmap_iter_handle: Out<u64>) -> c_int {
    status(|| {
        cmap_iter_handle.check()?;
        let instance = HANDLES.get(handle)?;
        let prefix = if prefix.is_null() { "" } else { name(&prefix)? };
        let entries = match instance.client.iter(prefix) {
            // No key begins like that, which C learns from the first `cmap_iter_next`.
            Err(Error::InvalidArgument { .. }) => Vec::new(),
            entries => entries?.collect::<Result<_, _>>()?,
        };
        cmap_iter_handle.put(ITERATIONS.insert(Iterated::new(handle, entries)))
    })
}

/// Gives the next key; `CS_ERR_NO_SECTIONS` after the last. The caller has room for 256 characters.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_iter_next(
    handle: u64,
    iter_handle: u64,
    key_name: Out<c_char>,
    value_len: Out<usize>,
    value_type: Out<c_int>,
) -> c_int {
    status(|| {
        key_name.check()?;
        HANDLES.get(handle)?;
        let iterated = ITERATIONS.get(iter_handle)?;
        if iterated.owner != handle {
            return Err(CsError::BadHandle.into());
        }
        let entry = iterated.next()?;
        let mut key = entry.key.clone().into_bytes();
        key.truncate(MAX_NAME_LENGTH - 1);
        key.push(0);
        key_name.of::<u8>().put_all(&key)?;
        value_len.put_if_wanted(usize::try_from(entry.value_len).unwrap_or(usize::MAX));
        value_type.put_if_wanted(entry.value_type.0.into());
        Ok(())
    })
}

/// Ends an iteration.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_iter_finalize(handle: u64, iter_handle: u64) -> c_int {
    status(|| {
        HANDLES.get(handle)?;
        if ITERATIONS.get(iter_handle)?.owner != handle {
            return Err(CsError::BadHandle.into());
        }
        ITERATIONS.remove(iter_handle).map(drop)
    })
}

/// Begins to track a key or prefix, null for all.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_track_add(
    handle: u64,
    key_name: Text,
    track_type: i32,
    notify_fn: Option<NotifyFn>,
    user_data: *mut c_void,
    cmap_track_handle: Out<u64>,
) -> c_int {
    status(|| {
        let (Some(notify), false) = (notify_fn, cmap_track_handle.is_null()) else {
            return Err(CsError::InvalidParam.into());
        };
        let instance = HANDLES.get(handle)?;
        let events = TrackEvents::from_bits(track_type);
        let key = if key_name.is_null() { "" } else { name(&key_name)? };
        let mut trackers = trackers(&instance);
        let tracker = match instance.client.track_add(key, events) {
            Err(Error::InvalidArgument { .. }) => None,
            tracker => Some(tracker?),
        };
        trackers.last += 1;
        let tracked = trackers.last;
        trackers.by_handle.insert(tracked, Tracked { tracker, notify, user_data });
        cmap_track_handle.put(tracked)
    })
}

/// Ends to track.
#[unsafe(no_mangle)]
pub extern "C" fn cmap_track_delete(handle: u64, track_handle: u64) -> c_int {
    status(|| {
        let instance = HANDLES.get(handle)?;
        let found = trackers(&instance).by_handle.get(&track_handle).copied();
        if let Some(tracker) = found.ok_or(CsError::BadHandle)?.tracker {
            instance.client.track_delete(tracker)?;
        }
        trackers(&instance).by_handle.remove(&track_handle);
        Ok(())
    })
}
