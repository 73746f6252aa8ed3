//! Changes of snapshots for tokio.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;

use futures_core::Stream;
use tokio::sync::mpsc::{Receiver, channel};

use super::{Change, Options, Watcher};
use crate::endpoint::{Deadline, Endpoint};
use crate::error::{Error, Result};
use crate::libqb::client::Waker;

/// The changes of a [`Watcher`] as a [`Stream`]. It ends with the error that the watcher cannot go on
/// after.
///
/// The watcher runs on a thread of its own until this is dropped. A change that is not taken keeps
/// it from looking for the next, so that a slow reader gets fewer of them, and the last one in any
/// case.
#[derive(Debug)]
pub struct Changes {
    changes: Receiver<Result<Change>>,
    waker: Waker,
}

impl Changes {
    /// As [`Watcher::with`].
    ///
    /// # Errors
    /// As there; [`Error::System`] when there is no thread.
    pub fn new(endpoint: &Endpoint, options: Options) -> Result<Self> {
        let mut watcher = Watcher::with(endpoint, options)?;
        let waker = watcher.waker();
        let (sender, changes) = channel(1);
        let watch = move || {
            while !sender.is_closed() {
                let Some(change) = watcher.next(Deadline::NEVER).transpose() else { continue };
                let is_over = change.is_err();
                if sender.blocking_send(change).is_err() || is_over {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("snapshots".to_owned())
            .spawn(watch)
            .map_err(|source| Error::system("starting a thread", source))?;
        Ok(Self { changes, waker })
    }
}

impl Stream for Changes {
    type Item = Result<Change>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.changes.poll_recv(context)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.changes.close();
        self.waker.wake();
    }
}
