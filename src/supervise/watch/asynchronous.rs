//! A part of cmap that is read again whenever it changes, for tokio.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::time::{Sleep, sleep_until};

use super::{NoticeOfValue, Part, Read};
use crate::client::stream_until_error;
use crate::cmap::Client;
use crate::error::Result;
use crate::supervise::{AsyncSupervised, Notice};

/// [`Watch`](super::Watch) for tokio. Its notices are a [`Stream`](futures_core::Stream), which ends
/// with the error that the client cannot go on after.
///
/// ```no_run
/// use corosync_ipc::cmap;
/// use corosync_ipc::supervise::{AsyncWatch, Notice};
///
/// # async fn example() -> corosync_ipc::Result<()> {
/// let mut token = AsyncWatch::<Option<u32>>::new(cmap::Client::connect, "totem.token")?;
/// loop {
///     if let Notice::Event(value) = token.next().await? {
///         println!("the token timeout is {:?} ms", value?);
///     }
/// }
/// # }
/// ```
pub struct AsyncWatch<T> {
    client: AsyncSupervised<Client>,
    part: Part,
    /// The value that is being read.
    reading: Option<Reading<T>>,
    /// Until it is due.
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

type Reading<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl<T: DeserializeOwned + Send + 'static> AsyncWatch<T> {
    /// As [`Watch::new`](super::Watch::new). The function runs on a thread for blocking work.
    ///
    /// # Errors
    /// As there.
    pub fn new(
        connect: impl Fn() -> Result<Client> + Send + Sync + 'static,
        prefix: &str,
    ) -> Result<Self> {
        let part = Part::new(prefix)?;
        let mut client = AsyncSupervised::new(connect);
        client.plan.note(&part.tracker())?;
        Ok(Self { client, part, reading: None, pause: None, ended: false })
    }

    /// As [`Supervised::backoff`](crate::supervise::Supervised::backoff).
    pub fn backoff(mut self, pause: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.client = self.client.backoff(pause);
        self
    }

    /// Waits for the next notice. Nothing is lost when the future is dropped; an attempt to connect
    /// or to read goes on.
    ///
    /// # Errors
    /// As [`Watch::next`](super::Watch::next).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and a timer.
    pub async fn next(&mut self) -> Result<NoticeOfValue<T>> {
        poll_fn(|cx| self.poll_notice(cx)).await
    }

    /// Takes the next notice, or has the task woken when it is there.
    ///
    /// # Errors
    /// As [`AsyncWatch::next`].
    ///
    /// # Panics
    /// As there.
    pub fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Result<NoticeOfValue<T>>> {
        loop {
            if let Some(reading) = &mut self.reading {
                let value = ready!(reading.as_mut().poll(cx));
                self.reading = None;
                // It is the same one that was read from.
                if let Some(client) = self.client.usable() {
                    match self.part.end(client.client(), value) {
                        Read::Value(value) => return Poll::Ready(Ok(Notice::Event(value))),
                        Read::Again => {}
                        Read::Lost(error) => self.client.end(error),
                    }
                }
            }
            if let Some(client) = self.client.usable() {
                if self.part.begin(client.client()) {
                    let (client, prefix) = (client.clone(), self.part.prefix.clone());
                    self.reading = Some(Box::pin(async move {
                        client.call(move |client| client.read_patiently(&prefix)).await
                    }));
                    continue;
                }
            }
            if let Poll::Ready(notice) = self.client.poll_notice(cx) {
                if let Some(notice) = self.part.take(notice?) {
                    return Poll::Ready(Ok(notice));
                }
                continue;
            }
            let Some(due) = self.part.due else { return Poll::Pending };
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(due.into())));
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
    }

    /// The client inside, for its counters and for requests.
    pub fn supervised(&self) -> &AsyncSupervised<Client> {
        &self.client
    }
}

stream_until_error!(
    [T: DeserializeOwned + Send + 'static] AsyncWatch<T>,
    poll_notice: NoticeOfValue<T>
);

impl<T> fmt::Debug for AsyncWatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncWatch")
            .field("prefix", &self.part.prefix)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
