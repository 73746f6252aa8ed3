//! The cpg client for tokio.

use super::{Address, Client, Entry, GroupName, Guarantee, Iteration, Options};
use crate::client::async_client;
use crate::error::Result;
use crate::wire::values::NodeId;

async_client! {
    /// The cpg client for tokio: every request can be awaited. What never waits, such as
    /// [`Client::try_multicast`] and [`Client::joined`], is called on the
    /// [`client`](crate::AsyncClient::client).
    pub struct AsyncClient(with Options);
    join(group: &GroupName) -> ();
    leave(group: &GroupName) -> ();
    close() -> ();
    membership(group: &GroupName) -> Vec<Address>;
    local_node_id() -> NodeId;
    list(iteration: Iteration) -> Vec<Entry>;
    multicast(guarantee: Guarantee, message: &[u8]) -> ();
}

impl AsyncClient {
    /// As [`Client::multicast_slices`].
    pub async fn multicast_slices(&self, guarantee: Guarantee, parts: &[&[u8]]) -> Result<()> {
        let message = parts.concat();
        self.call(move |client| client.multicast(guarantee, &message)).await
    }

    /// As [`Client::multicast_many`].
    pub async fn multicast_many<M: AsRef<[u8]>>(
        &self,
        guarantee: Guarantee,
        messages: &[M],
    ) -> Result<()> {
        let messages: Vec<_> = messages.iter().map(|message| message.as_ref().to_vec()).collect();
        self.call(move |client| client.multicast_many(guarantee, &messages)).await
    }
}
