//! Supervised clients in a dispatcher.

use std::ops::ControlFlow;
use std::time::Duration;

use super::{NoticeOf, Supervise, Supervised};
use crate::client::{ClientId, Control, Dispatcher, EVENTS_PER_TURN, Pump};
use crate::error::Result;

/// A handler of [`Dispatcher::add_supervised`]: any closure of this shape.
pub trait NoticeHandler<S, C: Supervise>:
    FnMut(&mut S, Result<NoticeOf<C>>, &mut Supervised<C>, &mut Control<'_, S>) -> ControlFlow<()>
    + Send
    + 'static
{
}

impl<S, C, F> NoticeHandler<S, C> for F
where
    C: Supervise,
    F: FnMut(
            &mut S,
            Result<NoticeOf<C>>,
            &mut Supervised<C>,
            &mut Control<'_, S>,
        ) -> ControlFlow<()>
        + Send
        + 'static,
{
}

impl<S> Dispatcher<S> {
    /// Adds a client that connects again. `handler` is called with every [notice](super::Notice)
    /// and the client that has it; at last with the error that the client cannot go on after,
    /// and then the client is removed. It is removed too when the handler breaks.
    ///
    /// The client connects on the dispatcher's thread. With a daemon that is stopped that takes the
    /// endpoint's [connect timeout](crate::Endpoint::connect_timeout), during which no other
    /// handler runs: set a short one.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System) when there are no file descriptors left.
    pub fn add_supervised<C, F>(&mut self, client: Supervised<C>, handler: F) -> Result<ClientId>
    where
        C: Supervise,
        F: NoticeHandler<S, C>,
    {
        self.control().add_supervised(client, handler)
    }
}

impl<S> Control<'_, S> {
    /// As [`Dispatcher::add_supervised`].
    ///
    /// # Errors
    /// As there.
    pub fn add_supervised<C, F>(
        &mut self,
        mut client: Supervised<C>,
        handler: F,
    ) -> Result<ClientId>
    where
        C: Supervise,
        F: NoticeHandler<S, C>,
    {
        self.add_pump(client.descriptor()?, SupervisedPump { client, handler })
    }
}

struct SupervisedPump<C: Supervise, F> {
    client: Supervised<C>,
    handler: F,
}

impl<S, C, F> Pump<S> for SupervisedPump<C, F>
where
    C: Supervise,
    F: NoticeHandler<S, C>,
{
    fn pump(
        &mut self,
        number: u64,
        state: &mut S,
        control: &mut Control<'_, S>,
    ) -> ControlFlow<()> {
        for _ in 0..EVENTS_PER_TURN {
            let Some(notice) = self.client.next(Duration::ZERO).transpose() else { break };
            let ended = notice.is_err();
            (self.handler)(state, notice, &mut self.client, control)?;
            if ended {
                return ControlFlow::Break(());
            }
            if !control.goes_on(number) {
                break;
            }
        }
        ControlFlow::Continue(())
    }
}
