//! What every command needs to know.

use std::time::{Duration, Instant};

use corosync_ipc::Endpoint;

/// What the global options say.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where the daemon is.
    pub(crate) endpoint: Endpoint,
    /// Whether to answer in JSON.
    pub(crate) json: bool,
    /// Whether the daemon is in this process, where nobody else sees it, and ends with it.
    pub(crate) is_embedded: bool,
    /// When a command that gives one answer ends, and the start of one that goes on.
    pub(crate) deadline: Instant,
}

impl Context {
    pub(crate) fn new(endpoint: Endpoint, json: bool, is_embedded: bool) -> Self {
        let far = Duration::from_secs(100 * 365 * 24 * 3600);
        let deadline = Instant::now() + endpoint.request_timeout_value().min(far);
        Self { endpoint, json, is_embedded, deadline }
    }
}
