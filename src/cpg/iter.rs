//! Iterating over groups and their members.

use std::iter::FusedIterator;

use super::{Client, GroupName};
use crate::error::{CsError, Error, ProtocolError, Result};
use crate::libqb::client::Call;
use crate::wire::cpg as wire;
use crate::wire::values::NodeId;

/// What to iterate over. Matches `cpg_iteration_type_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Iteration {
    /// The groups, each once. `CPG_ITERATION_NAME_ONLY`
    Names,
    /// The members of one group. `CPG_ITERATION_ONE_GROUP`
    Group(GroupName),
    /// The members of all groups, one group after the other. `CPG_ITERATION_ALL`
    All,
}

/// A group or a member that an iterator found. Matches `struct cpg_iteration_description_t`.
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

/// How many entries an iteration may find, so that a daemon whose list never ends cannot fill the
/// memory: 36 MiB of them. It is more than any cluster has: each member of a group is a
/// connection with rings of its own.
const MOST_ENTRIES: usize = 1 << 18;

impl Client {
    /// Iterates over groups or members, as they are now: what changes meanwhile does not change
    /// what is found.
    ///
    /// The daemon keeps a copy of the list for it, which is released at the end, or when the
    /// iterator is dropped before; neither waits for the daemon.
    ///
    /// Each step is a call of its own, with the whole [timeout](crate::Endpoint::request_timeout).
    /// [`Client::list`] has one for all.
    ///
    /// Matches `cpg_iteration_initialize`, `cpg_iteration_next` and `cpg_iteration_finalize`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::Disconnected`], [`Error::Finalized`]; [`Error::Cs`] with
    /// [`CsError::NoMemory`]. [`Error::Protocol`] when there is no end to the entries: more
    /// than 262,144.
    pub fn iter(&self, iteration: Iteration) -> Result<Iter<'_>> {
        self.iter_within(iteration, self.core.call("cpg iteration initialize"))
    }

    /// What [`Client::iter`] finds, as a list. This takes a request for each entry, and all of them
    /// together have one [timeout](crate::Endpoint::request_timeout).
    ///
    /// # Errors
    /// As [`Client::iter`].
    pub fn list(&self, iteration: Iteration) -> Result<Vec<Entry>> {
        self.list_within(iteration, self.core.call("cpg list"))
    }

    /// As [`Client::list`], as a part of another call.
    pub(super) fn list_within(&self, iteration: Iteration, call: Call) -> Result<Vec<Entry>> {
        let mut entries = self.iter_within(iteration, call)?;
        std::iter::from_fn(|| entries.step(call)).collect()
    }

    fn iter_within(&self, iteration: Iteration, call: Call) -> Result<Iter<'_>> {
        let (iteration_type, group_name) = match iteration {
            Iteration::Names => (1, GroupName::default()),
            Iteration::Group(group) => (2, group),
            Iteration::All => (3, GroupName::default()),
        };
        let request = wire::IterationInitialize { group_name, iteration_type };
        let reply = self.core.request(call.step("cpg iteration initialize"), &request)?;
        let names = iteration == Iteration::Names;
        Ok(Iter { client: self, handle: Some(reply.iteration_handle), names, left: MOST_ENTRIES })
    }
}

/// Iterates over groups or members; made by [`Client::iter`].
#[derive(Debug)]
pub struct Iter<'a> {
    client: &'a Client,
    /// `None` once the daemon's copy is released.
    handle: Option<u64>,
    names: bool,
    /// How many more entries are believed.
    left: usize,
}

impl Iter<'_> {
    fn release(&mut self) {
        if let Some(iteration_handle) = self.handle.take() {
            self.client.core.release(&wire::IterationFinalize { iteration_handle });
        }
    }

    /// The next entry, as a part of another call.
    fn step(&mut self, call: Call) -> Option<Result<Entry>> {
        let next = self.advance(call).transpose();
        if !matches!(next, Some(Ok(_))) {
            self.release();
        }
        next
    }

    fn advance(&mut self, call: Call) -> Result<Option<Entry>> {
        let Some(iteration_handle) = self.handle else {
            return Ok(None);
        };
        let request = wire::IterationNext { iteration_handle };
        let wire::Description { group, nodeid, pid } =
            match self.client.core.request(call.step("cpg iteration next"), &request) {
                Err(Error::Cs { error: CsError::NoSections, .. }) => return Ok(None),
                reply => reply?.description,
            };
        let Some(left) = self.left.checked_sub(1) else {
            let endless = ProtocolError::Endless {
                what: "entries of an iteration",
                limit: MOST_ENTRIES as u64,
            };
            return Err(self.client.core.connection.refuse(endless));
        };
        self.left = left;
        let (node_id, pid) = if self.names { Default::default() } else { (nodeid, pid) };
        Ok(Some(Entry { group, node_id, pid }))
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<Entry>;

    /// The next entry. After an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        let call = self.client.core.call("cpg iteration next");
        self.step(call)
    }
}

impl FusedIterator for Iter<'_> {}

impl Drop for Iter<'_> {
    /// Releases the daemon's copy, without waiting: at once, or before the next request if another
    /// one is under way.
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(all(test, feature = "server", not(loom)))]
mod tests {
    use super::*;
    use crate::doubles::Endless;

    #[test]
    fn an_iteration_without_end_is_noticed() {
        let (endpoint, _daemon) = Endless::start(0, crate::libqb::server::Transport::Shm);
        let client = Client::connect_to(&endpoint).unwrap();
        let mut iter = client.iter(Iteration::All).unwrap();
        // Waiting for as many as there may be would take long.
        iter.left = 100;
        assert_eq!(iter.by_ref().take_while(Result::is_ok).count(), 100);
        assert!(iter.next().is_none());
        let ended = client.iter(Iteration::All).unwrap_err();
        assert!(matches!(ended, Error::Disconnected { .. }), "{ended}");

        let client = Client::connect_to(&endpoint).unwrap();
        let mut iter = client.iter(Iteration::Names).unwrap();
        iter.left = 0;
        let error = iter.next().unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Protocol { source: ProtocolError::Endless { .. }, .. }),
            "{error}"
        );
    }
}
