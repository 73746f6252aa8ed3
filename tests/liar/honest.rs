//! The answers of an honest corosync 3.1, by the offsets of `proto/`.

use testbed::raw::{i32_at, put, put_i32, put_u64, response};

use crate::daemon::Conn;

/// `CS_OK`.
pub(crate) const OK: i32 = 1;
/// `CS_ERR_TRY_AGAIN`.
pub(crate) const TRY_AGAIN: i32 = 6;
/// `CS_ERR_BUSY`.
pub(crate) const BUSY: i32 = 10;
/// `CS_ERR_NOT_EXIST`.
pub(crate) const NOT_EXIST: i32 = 12;
/// `CS_ERR_INTERRUPT`.
pub(crate) const INTERRUPT: i32 = 16;
/// `CS_ERR_NO_SECTIONS`.
pub(crate) const NO_SECTIONS: i32 = 27;

/// How many keys or members an iteration finds.
pub(crate) const FOUND: usize = 2;

/// What an honest daemon answers.
pub(crate) fn answer(conn: &mut Conn<'_>, request: &[u8]) -> Option<Vec<u8>> {
    let id = i32_at(request, 0);
    let plain = |id| Some(response(id, OK, &[]));
    let number = |id, value: i32| Some(response(id, OK, &u64::from(value as u32).to_ne_bytes()));
    match (conn.service, id) {
        ("cmap", 2) => Some(value(request)),
        ("cmap", 4) => {
            conn.iterated = 0;
            number(4, 1)
        }
        ("cmap", 5) => Some(key(conn, "test.")),
        ("cmap", 7 | 8) => number(id, 1),
        ("cmap", 9) => plain(10),
        ("cpg", 2) => None,
        ("cpg", 4) => number(7, 1),
        ("cpg", 5) => {
            // A group has no members.
            conn.iterated = if i32_at(request, 152) == 2 { FOUND } else { 0 };
            number(9, 1)
        }
        ("cpg", 6) => Some(member(conn)),
        ("cpg", 7) => plain(11),
        ("cpg", 12) => plain(18),
        ("quorum", 0) => number(0, 1),
        ("quorum", 3) => number(4, 1),
        ("quorum", 4) => number(5, 1),
        ("votequorum", 0) => Some(response(1, OK, &[0; 296])),
        ("votequorum", 11) => Some(response(6, OK, &[0; 4])),
        ("votequorum", _) => plain(0),
        ("cfg", 0) => Some(response(0, OK, &[0; 10248])),
        ("cfg", 2) => plain(8),
        ("cfg", 3) => plain(9),
        ("cfg", 4) => plain(13),
        ("cfg", 5) => Some(addresses(2, 1)),
        ("cfg", 6) => number(12, 1),
        ("cfg", 7 | 8) => plain(id + 7),
        ("cfg", 9) => Some(node_status()),
        ("cfg", 10 | 11) => plain(id - 8),
        ("evs", 4) => Some(response(6, OK, &[0; 1552])),
        ("evs", _) => plain(id + 2),
        _ => plain(id),
    }
}

/// The value of any key but those that tell an old corosync.
pub(crate) fn value(request: &[u8]) -> Vec<u8> {
    let length = request.get(16..18).map_or(0, |word| u16::from_ne_bytes([word[0], word[1]]));
    let key = request.get(24..24 + usize::from(length)).unwrap_or_default();
    let is_missing = key == b"..."
        || key == b"runtime.connections.active"
        || key == b"runtime.services.evs.0.rx";
    let mut value = response(2, if is_missing { NOT_EXIST } else { OK }, &[0; 20]);
    put_u64(&mut value, 24, 4);
    // A u32.
    value[32] = 6;
    put_i32(&mut value, 40, 7);
    value
}

/// The next key of an iteration.
pub(crate) fn key(conn: &mut Conn<'_>, prefix: &str) -> Vec<u8> {
    let mut found = response(5, OK, &[0; 280]);
    if conn.iterated == FOUND {
        put_i32(&mut found, 16, NO_SECTIONS);
    } else {
        conn.iterated += 1;
        set_key(&mut found, 24, &format!("{prefix}{:08}", conn.iterated));
        put_u64(&mut found, 288, 4);
        found[296] = 6;
    }
    found
}

/// Sets a cmap key at an offset.
pub(crate) fn set_key(message: &mut Vec<u8>, offset: usize, key: &str) {
    put(message, offset, &(key.len() as u16).to_ne_bytes());
    put(message, offset + 8, key.as_bytes());
}

/// The next member of an iteration.
pub(crate) fn member(conn: &mut Conn<'_>) -> Vec<u8> {
    let mut found = response(10, OK, &[0; 144]);
    if conn.iterated == FOUND {
        put_i32(&mut found, 16, NO_SECTIONS);
    } else {
        conn.iterated += 1;
        set_group(&mut found, 24, &conn.iterated.to_string());
        put_i32(&mut found, 160, 1);
        put_i32(&mut found, 164, conn.iterated as i32);
    }
    found
}

/// Sets a cpg group name at an offset.
pub(crate) fn set_group(message: &mut Vec<u8>, offset: usize, group: &str) {
    put_i32(message, offset, group.len() as i32);
    put(message, offset + 8, group.as_bytes());
}

/// The addresses of a node, which are zeros.
pub(crate) fn addresses(family: i32, count: i32) -> Vec<u8> {
    let mut addresses = response(11, OK, &vec![0; 8 + 28 * count as usize]);
    put_i32(&mut addresses, 24, family);
    put_i32(&mut addresses, 28, count);
    addresses
}

fn node_status() -> Vec<u8> {
    let mut status = response(16, OK, &[0; 4176]);
    put_i32(&mut status, 24, 1);
    put_i32(&mut status, 28, 1);
    status
}
