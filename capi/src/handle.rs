//! Handles: numbers that stand for what the libraries keep for a program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corosync_ipc::CsError;

use crate::common::Code;

/// What is open of one kind.
pub(crate) struct Handles<T> {
    table: Mutex<Table<T>>,
}

struct Table<T> {
    /// The number that was given last. No number is given twice, nor by two kinds.
    last: u64,
    open: BTreeMap<u64, Arc<T>>,
}

impl<T> Handles<T> {
    /// Handles of a kind begin with its number, so that one of another kind is not mistaken.
    pub(crate) const fn new(kind: u16) -> Self {
        Self { table: Mutex::new(Table { last: (kind as u64) << 48, open: BTreeMap::new() }) }
    }

    fn table(&self) -> MutexGuard<'_, Table<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, value: T) -> u64 {
        let mut table = self.table();
        table.last += 1;
        let handle = table.last;
        table.open.insert(handle, Arc::new(value));
        handle
    }

    /// Returns what the handle stands for, which stays until the last use of it ends.
    pub(crate) fn get(&self, handle: u64) -> Result<Arc<T>, Code> {
        self.table().open.get(&handle).cloned().ok_or(CsError::BadHandle.into())
    }

    pub(crate) fn remove(&self, handle: u64) -> Result<Arc<T>, Code> {
        self.table().open.remove(&handle).ok_or(CsError::BadHandle.into())
    }

    /// Removes what is not to be kept.
    pub(crate) fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.table().open.retain(|_, value| keep(value));
    }
}
