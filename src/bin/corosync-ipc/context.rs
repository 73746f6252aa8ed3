//! The settings that every command needs.

use std::time::{Duration, Instant};

use corosync_ipc::snapshot::{Options, Snapshot};
use corosync_ipc::{Endpoint, Error, within};

/// The global options.
#[derive(Debug)]
pub(crate) struct Context {
    /// The daemon's endpoint.
    pub(crate) endpoint: Endpoint,
    /// Whether to print JSON.
    pub(crate) json: bool,
    /// Whether the daemon is in this process and ends with it.
    pub(crate) is_embedded: bool,
    /// The deadline of a command that prints one answer, and of the start of one that runs on.
    pub(crate) deadline: Instant,
}

impl Context {
    pub(crate) fn new(endpoint: Endpoint, json: bool, is_embedded: bool) -> Self {
        let far = Duration::from_secs(100 * 365 * 24 * 3600);
        let deadline = Instant::now() + endpoint.request_timeout_value().min(far);
        Self { endpoint, json, is_embedded, deadline }
    }

    /// A snapshot within the deadline.
    pub(crate) fn snapshot(&self, options: Options) -> Result<Snapshot, Error> {
        within(self.deadline, || Snapshot::take_with(&self.endpoint, options))
    }
}
