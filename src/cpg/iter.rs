//! Iterating over groups and their members.

use std::iter::FusedIterator;

use super::{Client, GroupName};
use crate::error::{CsError, Error, Result};
use crate::types::NodeId;
use crate::wire::cpg as wire;

/// What to iterate over. Matches `cpg_iteration_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Iteration {
    /// The groups, each once. `CPG_ITERATION_NAME_ONLY`
    Names,
    /// The members of one group. `CPG_ITERATION_ONE_GROUP`
    Group(GroupName),
    /// The members of all groups, one group after the other. `CPG_ITERATION_ALL`
    All,
}

/// What an iterator found. Matches `struct cpg_iteration_description_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Entry {
    /// The group.
    pub group: GroupName,
    /// The member's node; 0 with [`Iteration::Names`].
    pub node_id: NodeId,
    /// The member's process; 0 with [`Iteration::Names`].
    pub pid: u32,
}

impl Client {
    /// Iterates over groups or members, as they are now: what changes meanwhile does not change what is found.
    ///
    /// The daemon keeps a copy of the list for it, which is released at the end, or when the iterator is dropped before.
    ///
    /// Matches `cpg_iteration_initialize`, `cpg_iteration_next` and `cpg_iteration_finalize`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Finalized`]; [`Error::Cs`] with [`CsError::NoMemory`].
    pub fn iter(&self, iteration: Iteration) -> Result<Iter<'_>> {
        let (iteration_type, group_name) = match iteration {
            Iteration::Names => (1, GroupName::default()),
            Iteration::Group(group) => (2, group),
            Iteration::All => (3, GroupName::default()),
        };
        let request = wire::IterationInitialize { group_name, iteration_type };
        let reply = self.call("cpg iteration initialize", &request)?;
        Ok(Iter { client: self, handle: Some(reply.iteration_handle), names: iteration == Iteration::Names })
    }
}

/// Iterates over groups or members; made by [`Client::iter`].
#[derive(Debug)]
pub struct Iter<'a> {
    client: &'a Client,
    /// `None` once the daemon's copy is released.
    handle: Option<u64>,
    names: bool,
}

impl Iter<'_> {
    fn release(&mut self) {
        if let Some(iteration_handle) = self.handle.take() {
            // Nothing can be done about a failure; the daemon forgets its copies with the connection.
            let _ = self.client.call("cpg iteration finalize", &wire::IterationFinalize { iteration_handle });
        }
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Entry>;

    /// The next entry. After an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        let request = wire::IterationNext { iteration_handle: self.handle? };
        match self.client.call("cpg iteration next", &request) {
            Ok(wire::IterationNextReply { description: wire::Description { group, nodeid, pid } }) => {
                let (node_id, pid) = if self.names { Default::default() } else { (nodeid, pid) };
                Some(Ok(Entry { group, node_id, pid }))
            }
            Err(error) => {
                self.release();
                match error {
                    Error::Cs { error: CsError::NoSections, .. } => None,
                    error => Some(Err(error)),
                }
            }
        }
    }
}

impl FusedIterator for Iter<'_> {}

impl Drop for Iter<'_> {
    /// Releases the daemon's copy: one request, with the client's timeout.
    fn drop(&mut self) {
        self.release();
    }
}
