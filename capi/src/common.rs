//! libcorosync_common, and `cs_error_t`.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int};
use std::sync::LazyLock;

use corosync_ipc::{CsError, Error};
use nix::libc;

/// `CS_OK`
pub const CS_OK: c_int = 1;

/// A `cs_error_t` that is not `CS_OK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(c_int);

impl From<CsError> for Code {
    fn from(error: CsError) -> Self {
        Self(error.raw())
    }
}

impl From<Error> for Code {
    fn from(error: Error) -> Self {
        error.cs_error().into()
    }
}

/// Runs the body of a function. Returns its `cs_error_t`.
pub(crate) fn status(body: impl FnOnce() -> Result<(), Code>) -> c_int {
    body().map_or_else(|Code(code)| code, |()| CS_OK)
}

/// Turns an errno of libqb, which is negative, into a `cs_error_t`. Other results are `CS_OK`.
#[unsafe(no_mangle)]
pub extern "C" fn qb_to_cs_error(result: c_int) -> c_int {
    if result >= 0 { CS_OK } else { CsError::from_errno(result.wrapping_neg()).raw() }
}

/// Turns a result of libqb's handle database into a `cs_error_t`.
#[unsafe(no_mangle)]
pub extern "C" fn hdb_error_to_cs(res: c_int) -> c_int {
    let error = match res.checked_neg() {
        Some(0) => return CS_OK,
        Some(libc::EBADF) => CsError::BadHandle,
        Some(libc::ENOMEM) => CsError::NoMemory,
        Some(libc::EMFILE) => CsError::NoResources,
        Some(libc::EACCES) => CsError::Access,
        _ => CsError::Library,
    };
    error.raw()
}

/// Returns the name of an error, such as "CS_ERR_ACCESS".
#[unsafe(no_mangle)]
pub extern "C" fn cs_strerror(err: c_int) -> *const c_char {
    static NAMES: LazyLock<BTreeMap<c_int, CString>> = LazyLock::new(|| {
        let named = CsError::ALL
            .iter()
            .filter_map(|error| Some((error.raw(), CString::new(error.c_name()?).ok()?)));
        named.chain([(CS_OK, c"success".to_owned())]).collect()
    });
    NAMES.get(&err).map_or(c"unknown error", CString::as_c_str).as_ptr()
}
