//! The C libraries of corosync over this project's client: libcpg, libcmap, libquorum,
//! libvotequorum, libcfg and libcorosync_common, with the functions, structures and return values
//! of corosync's headers. `install` makes the libraries out of this crate's static archive.
//!
//! A function of C has the same name here. What its arguments must be is what corosync's man pages
//! say: pointers that are valid for what they point to, strings that end with a NUL. A null pointer
//! is `CS_ERR_INVALID_PARAM` instead of a crash, unless the man page allows it.
//!
//! A call waits as long as C's, which is for ever, unless `COROSYNC_IPC_TIMEOUT` sets a deadline.
//! `docs/c.md` lists what differs from C.

pub mod cfg;
pub mod cmap;
pub mod common;
pub mod cpg;
mod handle;
mod pointer;
pub mod quorum;
mod service;
pub mod votequorum;
