//! What every command needs to know.

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
}
