//! The pointers that a C program passes: null, or valid for what corosync's man pages say of them.
//! Only calls from C make values of these types, so that what they promise is promised once, here.

use std::ffi::{CStr, c_char, c_void};
use std::ptr;

use corosync_ipc::CsError;
use nix::libc;

use crate::common::Code;

/// Where the program wants a value, or several.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub(crate) fn check(&self) -> Result<(), Code> {
        if self.is_null() { Err(CsError::InvalidParam.into()) } else { Ok(()) }
    }

    /// Writes the value.
    pub(crate) fn put(&self, value: T) -> Result<(), Code> {
        self.check()?;
        self.put_if_wanted(value);
        Ok(())
    }

    /// Writes the value unless the pointer is null.
    pub(crate) fn put_if_wanted(&self, value: T) {
        if !self.is_null() {
            // SAFETY: the program has room for a value.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    /// Writes values into an array that has room for them, as the man page of the caller says.
    pub(crate) fn put_all(&self, values: &[T]) -> Result<(), Code>
    where
        T: Copy,
    {
        self.check()?;
        // SAFETY: the program has room for so many values, which lie apart from ours. Bytes need no
        // alignment.
        unsafe {
            ptr::copy_nonoverlapping(
                values.as_ptr().cast::<u8>(),
                self.0.cast::<u8>(),
                size_of_val(values),
            );
        }
        Ok(())
    }

    /// The value that is there now.
    pub(crate) fn value(&self) -> Option<T>
    where
        T: Copy,
    {
        In(self.0.cast_const()).value()
    }

    /// As a pointer to another type, which another argument of the program names.
    pub(crate) fn of<U>(&self) -> Out<U> {
        Out(self.0.cast())
    }
}

impl Out<c_void> {
    /// Frees what libc's `malloc` gave.
    pub(crate) fn free(self) {
        // SAFETY: the program has it from a function that says so, and gives it back once.
        unsafe { libc::free(self.0) };
    }
}

/// A value of the program, or several.
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T> In<T> {
    pub(crate) fn value(&self) -> Option<T>
    where
        T: Copy,
    {
        // SAFETY: it is not null, and the program has a value there.
        (!self.0.is_null()).then(|| unsafe { self.0.read_unaligned() })
    }

    /// So many values, which stay as they are during the call.
    pub(crate) fn values(&self, count: usize) -> Result<&[T], Code> {
        if count == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        // SAFETY: the program has so many values there.
        Ok(unsafe { std::slice::from_raw_parts(self.0, count) })
    }

    pub(crate) fn is_null(&self) -> bool {
        self.0.is_null()
    }

    /// As a pointer to another type, which another argument of the program names.
    pub(crate) fn of<U>(&self) -> In<U> {
        In(self.0.cast())
    }
}

/// A string of the program.
pub(crate) type Text = In<c_char>;

impl Text {
    pub(crate) fn string(&self) -> Result<&CStr, Code> {
        if self.0.is_null() {
            return Err(CsError::InvalidParam.into());
        }
        // SAFETY: the bytes end with a NUL and stay as they are during the call.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// A piece of a message: `struct iovec`.
#[repr(C)]
pub struct Piece {
    base: In<u8>,
    length: usize,
}

impl Piece {
    pub(crate) fn new(base: In<c_void>, length: usize) -> Self {
        Self { base: base.of(), length }
    }

    pub(crate) fn bytes(&self) -> Result<&[u8], Code> {
        self.base.values(self.length)
    }
}

/// Fills an array of characters with text and zeros. The last one is a zero.
pub(crate) fn fill<const N: usize>(text: &[u8]) -> [c_char; N] {
    let mut filled = [0; N];
    let room = N.saturating_sub(1);
    for (to, from) in filled.iter_mut().take(room).zip(text) {
        *to = *from as c_char;
    }
    filled
}
