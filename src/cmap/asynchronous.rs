//! The cmap client for tokio.

use super::{Client, Entry, Nodelist, Options, TrackEvents, Tracker, Value};
use crate::client::async_client;
use crate::error::Result;

async_client! {
    /// The cmap client for tokio: every request can be awaited.
    ///
    /// ```no_run
    /// use corosync_ipc::cmap::{AsyncClient, TrackEvents};
    ///
    /// # async fn example() -> corosync_ipc::Result<()> {
    /// let cmap = AsyncClient::connect().await?;
    /// println!("{:?}", cmap.get("totem.cluster_name").await?);
    /// let mut events = cmap.events()?;
    /// cmap.track_add("nodelist.", TrackEvents::ALL | TrackEvents::PREFIX).await?;
    /// loop {
    ///     println!("{:?}", events.next_event().await?);
    /// }
    /// # }
    /// ```
    pub struct AsyncClient(with Options);
    get(key: &str) -> Option<Value>;
    set(key: &str, value: into Value) -> ();
    delete(key: &str) -> ();
    increment(key: &str) -> ();
    decrement(key: &str) -> ();
    adjust(key: &str, step: i32) -> ();
    list(prefix: &str) -> Vec<(String, Value)>;
    nodelist() -> Nodelist;
    track_add(key: &str, events: TrackEvents) -> Tracker;
    track_delete(tracker: Tracker) -> ();
}

impl AsyncClient {
    /// As [`Client::get_as`].
    pub async fn get_as<T>(&self, key: &str) -> Result<Option<T>>
    where
        T: TryFrom<Value, Error = Value> + Send + 'static,
    {
        let key = key.to_owned();
        self.call(move |client| client.get_as(&key)).await
    }

    /// As [`Client::read`].
    #[cfg(feature = "serde")]
    pub async fn read<T>(&self, prefix: &str) -> Result<T>
    where
        T: serde::de::DeserializeOwned + Send + 'static,
    {
        let prefix = prefix.to_owned();
        self.call(move |client| client.read(&prefix)).await
    }

    /// As [`Client::iter`], with all that it finds.
    pub async fn iter(&self, prefix: &str) -> Result<Vec<Entry>> {
        let prefix = prefix.to_owned();
        self.call(move |client| client.iter(&prefix)?.collect()).await
    }
}
