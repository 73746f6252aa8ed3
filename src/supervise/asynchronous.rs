//! Supervised clients for tokio.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::{Attempt, NoticeOf, Plan, Supervise, SupervisedStats, attempt, loses_connection};
use crate::client::{AsyncClient, AsyncEvents, Blocking, stream_until_error};
use crate::error::{Error, Result};
use crate::supervise::Notice;

/// A client that connects again when it has to: [`Supervised`](super::Supervised) for tokio. Its
/// notices are a [`Stream`](futures_core::Stream), which ends with the error that the client cannot
/// go on after.
///
/// ```no_run
/// use corosync_ipc::cmap::{self, TrackEvents};
/// use corosync_ipc::supervise::{AsyncSupervised, CmapTracker, Notice};
///
/// # async fn example() -> corosync_ipc::Result<()> {
/// let mut cmap = AsyncSupervised::new(cmap::Client::connect);
/// cmap.set_up(CmapTracker::new("nodelist.", TrackEvents::ALL | TrackEvents::PREFIX)).await?;
/// loop {
///     match cmap.next().await? {
///         Notice::Event(event) => println!("{event:?}"),
///         // Changes may have been missed, so everything is read again.
///         Notice::Up(_) => println!("{:?}", cmap.client()?.list("nodelist.").await),
///         _ => {}
///     }
/// }
/// # }
/// ```
pub struct AsyncSupervised<C: Supervise> {
    pub(super) plan: Plan<C>,
    phase: Phase<C>,
    ended: bool,
}

enum Phase<C: Supervise> {
    /// There is none, and nothing is done about it yet.
    Down,
    /// The next attempt is waited for.
    Waiting(Pin<Box<Sleep>>),
    /// An attempt is under way.
    Connecting(Blocking<Attempt<C>>),
    Up {
        client: C::Async,
        events: AsyncEvents<C>,
        /// What made the client useless. The events it has left are handed over before.
        ending: Option<Error>,
    },
}

impl<C: Supervise> AsyncSupervised<C> {
    /// As [`Supervised::new`](super::Supervised::new). The function runs on a thread for blocking
    /// work.
    pub fn new(connect: impl Fn() -> Result<C> + Send + Sync + 'static) -> Self {
        Self { plan: Plan::new(connect), phase: Phase::Down, ended: false }
    }

    /// As [`Supervised::backoff`](super::Supervised::backoff).
    pub fn backoff(mut self, pause: impl Fn(u32) -> Duration + Send + Sync + 'static) -> Self {
        self.plan.pace.backoff = Some(Box::new(pause));
        self
    }

    /// Waits for the next notice. Nothing is lost when the future is dropped; an attempt under way
    /// goes on.
    ///
    /// # Errors
    /// As [`Supervised::next`](super::Supervised::next).
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and a timer.
    pub async fn next(&mut self) -> Result<NoticeOf<C>> {
        poll_fn(|cx| self.poll_notice(cx)).await
    }

    /// Takes the next notice, or has the task woken when it is there.
    ///
    /// # Errors
    /// As [`AsyncSupervised::next`].
    ///
    /// # Panics
    /// As there.
    pub fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<Result<NoticeOf<C>>> {
        loop {
            self.phase = match &mut self.phase {
                Phase::Down => match self.plan.pace.attempt_at {
                    Some(at) if at > Instant::now() => {
                        Phase::Waiting(Box::pin(sleep_until(at.into())))
                    }
                    _ => self.connect(),
                },
                Phase::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(cx));
                    self.connect()
                }
                Phase::Connecting(attempt) => {
                    let attempt = ready!(Pin::new(attempt).poll(cx));
                    let now = Instant::now();
                    let up = attempt.and_then(|(client, restored)| {
                        let client = AsyncClient::new(client);
                        Ok((client.events()?, C::Async::from(client), restored))
                    });
                    let (phase, notice) = match up {
                        Ok((events, client, restored)) => (
                            Phase::Up { client, events, ending: None },
                            Ok(Some(self.plan.up(restored, now))),
                        ),
                        Err(error) => (Phase::Down, self.plan.failed(error, now)),
                    };
                    if let Some(notice) = notice.transpose() {
                        self.phase = phase;
                        return Poll::Ready(notice);
                    }
                    phase
                }
                Phase::Up { events, ending, .. } => {
                    let next = match ending {
                        None => ready!(events.poll_event(cx)),
                        Some(_) => match events.client().poll_event() {
                            Ok(Some(event)) => Ok(event),
                            Err(Error::Finalized) => Err(Error::Finalized),
                            Ok(None) | Err(_) => Err(ending.take().unwrap_or(Error::Finalized)),
                        },
                    };
                    return Poll::Ready(match next {
                        Ok(event) => Ok(Notice::Event(event)),
                        Err(Error::Finalized) => Err(Error::Finalized),
                        Err(error) => {
                            self.plan.pace.lost(events.client().stats(), Instant::now());
                            self.phase = Phase::Down;
                            Ok(Notice::Lost { error })
                        }
                    });
                }
            }
        }
    }

    /// As [`Supervised::set_up`](super::Supervised::set_up). When the future is dropped, it is
    /// noted all the same.
    ///
    /// # Errors
    /// As there.
    pub async fn set_up(&mut self, setup: C::Setup) -> Result<()> {
        self.plan.note(&setup)?;
        match &mut self.phase {
            Phase::Down | Phase::Waiting(_) | Phase::Up { ending: Some(_), .. } => {}
            // The attempt under way does not have this setup, so its result is dropped.
            Phase::Connecting(_) => self.phase = Phase::Down,
            Phase::Up { client, ending, .. } => {
                let new = setup.clone();
                let result = client.call(move |client| C::set_up(client, &new)).await;
                *ending = self.plan.settle(&setup, result)?;
            }
        }
        Ok(())
    }

    /// As [`Supervised::take_down`](super::Supervised::take_down).
    ///
    /// # Errors
    /// As there.
    pub async fn take_down(&mut self, setup: &C::Setup) -> Result<()> {
        self.plan.forget(setup)?;
        match &mut self.phase {
            Phase::Down | Phase::Waiting(_) | Phase::Up { ending: Some(_), .. } => {}
            Phase::Connecting(_) => self.phase = Phase::Down,
            Phase::Up { client, ending, .. } => {
                let old = setup.clone();
                match client.call(move |client| C::take_down(client, &old)).await {
                    Err(error) if loses_connection(&error) => *ending = Some(error),
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// As [`Supervised::setups`](super::Supervised::setups).
    pub fn setups(&self) -> &[C::Setup] {
        &self.plan.setups
    }

    /// As [`Supervised::stats`](super::Supervised::stats).
    pub fn stats(&self) -> SupervisedStats {
        self.plan.pace.stats(match &self.phase {
            Phase::Up { events, .. } => Some(events.client().stats()),
            _ => None,
        })
    }

    /// The present client, for requests.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when there is none.
    pub fn client(&self) -> Result<&C::Async> {
        match &self.phase {
            Phase::Up { client, .. } => Ok(client),
            _ => Err(Error::NotConnected { service: C::SERVICE.into() }),
        }
    }

    /// The present client, unless the connection is lost already.
    #[cfg(feature = "serde")]
    pub(super) fn usable(&self) -> Option<&C::Async> {
        match &self.phase {
            Phase::Up { client, ending: None, .. } => Some(client),
            _ => None,
        }
    }

    /// Ends the connection, after the events it has left.
    #[cfg(feature = "serde")]
    pub(super) fn end(&mut self, error: Error) {
        if let Phase::Up { ending, .. } = &mut self.phase {
            *ending = Some(error);
        }
    }

    fn connect(&mut self) -> Phase<C> {
        self.plan.pace.begin(Instant::now());
        let (connect, setups) = (Arc::clone(&self.plan.connect), self.plan.setups.clone());
        Phase::Connecting(Blocking::start(move || attempt(&*connect, &setups)))
    }
}

stream_until_error!([C: Supervise] AsyncSupervised<C>, poll_notice: NoticeOf<C>);

// Nothing in it is pinned but what is in a box of its own.
impl<C: Supervise> Unpin for AsyncSupervised<C> {}

impl<C: Supervise> fmt::Debug for AsyncSupervised<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncSupervised")
            .field("client", &self.client().ok())
            .field("setups", &self.plan.setups)
            .finish_non_exhaustive()
    }
}
