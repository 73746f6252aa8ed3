//! One thread for the events of many clients.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::ServiceClient;
use crate::endpoint::Deadline;
use crate::error::{Error, Result};
use crate::libqb::client::Look;
use crate::sys::event::{Poller, Wakeup};

/// A client gets its next turn after so many events, when others have events too.
pub(crate) const EVENTS_PER_TURN: usize = 16;

/// The wakeup's number in the poller. Clients are numbered from 1.
const WAKEUP: u64 = 0;

/// Hands over the events of any number of clients, of any services, on one thread. Each client has
/// a handler, and all handlers are given the same `&mut S`.
///
/// ```no_run
/// use std::ops::ControlFlow;
/// use corosync_ipc::{Dispatcher, TrackFlags, cmap, quorum};
///
/// #[derive(Default)]
/// struct State { changes: u64 }
///
/// let cmap = cmap::Client::connect()?;
/// cmap.track_add("nodelist.", cmap::TrackEvents::ALL | cmap::TrackEvents::PREFIX)?;
/// let quorum = quorum::Client::connect()?;
/// quorum.track_start(TrackFlags::CHANGES)?;
///
/// let mut dispatcher = Dispatcher::new()?;
/// dispatcher.add(cmap, |state: &mut State, event, _control| {
///     state.changes += 1;
///     if event.is_err() { eprintln!("the daemon is gone") }
///     ControlFlow::Continue(())
/// })?;
/// dispatcher.add(quorum, |_state, event, control| {
///     match event {
///         Ok(event) => println!("{event:?}"),
///         Err(_) => control.stop(),
///     }
///     ControlFlow::Continue(())
/// })?;
/// dispatcher.run(&mut State::default())?;
/// # Ok::<(), corosync_ipc::Error>(())
/// ```
///
/// Clients are served in turn, a few events each, so that a busy one delays the others little. A
/// client can be used by other threads and by its own handler meanwhile; pass an `Arc` to keep it
/// at hand. Events taken elsewhere are not handed over here.
///
/// The dispatcher's own descriptor, by [`AsFd`], polls readable while there is something to do, so
/// that one can be put into another event loop, which then calls [`Dispatcher::round`] with a
/// deadline in the past.
pub struct Dispatcher<S> {
    registry: Registry<S>,
    queue: Arc<Queue<S>>,
    /// Kept for its capacity.
    ready: Vec<u64>,
}

/// Names a client in a [`Dispatcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(u64);

/// The result of a [`Dispatcher::round`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Something was there to do, and was done. There may be more.
    Busy,
    /// The deadline passed first.
    TimedOut,
    /// [`Control::stop`] or [`DispatcherWaker::stop`] was called.
    Stopped,
}

/// The dispatcher as its handlers see it.
pub struct Control<'a, S> {
    registry: &'a mut Registry<S>,
    queue: &'a Queue<S>,
}

/// A handler of [`Dispatcher::add`]: any closure of this shape.
pub trait EventHandler<S, C: ServiceClient>:
    FnMut(&mut S, Result<C::Event>, &mut Control<'_, S>) -> ControlFlow<()> + Send + 'static
{
}

impl<S, C, F> EventHandler<S, C> for F
where
    C: ServiceClient,
    F: FnMut(&mut S, Result<C::Event>, &mut Control<'_, S>) -> ControlFlow<()> + Send + 'static,
{
}

impl<S> Dispatcher<S> {
    /// A dispatcher without clients.
    ///
    /// # Errors
    /// [`Error::System`] when there are no file descriptors left; it takes two.
    pub fn new() -> Result<Self> {
        let failed = |source| Error::system("making a dispatcher", source);
        let poller = Poller::new().map_err(failed)?;
        let wakeup = Wakeup::new().map_err(failed)?;
        poller.add(&wakeup, WAKEUP).map_err(failed)?;
        let registry = Registry { poller, entries: HashMap::new(), last: WAKEUP };
        let queue = Queue { tasks: Mutex::default(), stop: AtomicBool::new(false), wakeup };
        Ok(Self { registry, queue: Arc::new(queue), ready: Vec::new() })
    }

    /// Adds a client. `handler` is called with every event, and at last with the error that ended
    /// the connection; then the client is removed. It is removed too when the handler breaks.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a client that is in this dispatcher already;
    /// [`Error::System`].
    pub fn add<C, F>(&mut self, client: C, handler: F) -> Result<ClientId>
    where
        C: ServiceClient,
        F: EventHandler<S, C>,
    {
        self.registry.add(client, handler)
    }

    /// The dispatcher as its handlers see it, for a function that adds clients before it runs and
    /// from a handler.
    pub fn control(&mut self) -> Control<'_, S> {
        Control { registry: &mut self.registry, queue: &self.queue }
    }

    /// Removes a client and drops its handler. `false`: it had been removed before.
    pub fn remove(&mut self, client: ClientId) -> bool {
        self.registry.remove(client.0)
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.registry.entries.len()
    }

    /// Whether there is no client.
    pub fn is_empty(&self) -> bool {
        self.registry.entries.is_empty()
    }

    /// What stops the dispatcher, or runs something on its thread, from any other thread.
    pub fn waker(&self) -> DispatcherWaker<S> {
        DispatcherWaker { queue: Arc::clone(&self.queue) }
    }

    /// Hands over events until it is stopped or no client is left. A signal does not end it.
    ///
    /// # Errors
    /// [`Error::System`]. The error that ends a connection goes to its handler.
    pub fn run(&mut self, state: &mut S) -> Result<()> {
        loop {
            // Without clients there is nothing to wait for, but what was sent to this thread is run
            // all the same.
            let deadline = if self.is_empty() { Duration::ZERO.into() } else { Deadline::NEVER };
            match self.round(state, deadline)? {
                Round::Busy => {}
                Round::TimedOut | Round::Stopped => return Ok(()),
            }
        }
    }

    /// Waits until there is something to do or the deadline passes, and hands over what waits, a
    /// few events of each client.
    ///
    /// # Errors
    /// As [`Dispatcher::run`].
    pub fn round(&mut self, state: &mut S, deadline: impl Into<Deadline>) -> Result<Round> {
        if self.queue.take_stop() {
            return Ok(Round::Stopped);
        }
        let mut ready = mem::take(&mut self.ready);
        ready.clear();
        let waited = self.registry.poller.wait(&mut ready, deadline.into().instant());
        waited.map_err(|source| Error::system("waiting for events", source))?;
        for number in &ready {
            if self.queue.is_stopped() {
                break;
            }
            if *number == WAKEUP { self.run_tasks(state) } else { self.serve(*number, state) }
        }
        let round = if ready.is_empty() { Round::TimedOut } else { Round::Busy };
        self.ready = ready;
        Ok(if self.queue.take_stop() { Round::Stopped } else { round })
    }

    fn run_tasks(&mut self, state: &mut S) {
        self.queue.wakeup.clear();
        let tasks = mem::take(&mut self.queue.tasks().list);
        for task in tasks {
            task(state, &mut Control { registry: &mut self.registry, queue: &self.queue });
        }
    }

    /// Gives a client its turn.
    fn serve(&mut self, number: u64, state: &mut S) {
        let Some(entry) = self.registry.entries.get_mut(&number) else {
            // Removed in this round.
            return;
        };
        // Taken out, since the handler may change the registry. If it panics it stays out, and the
        // client is removed the next time.
        let pump = entry.pump.take();
        let mut control = Control { registry: &mut self.registry, queue: &self.queue };
        let goes_on = pump.and_then(|mut pump| {
            pump.pump(number, state, &mut control).is_continue().then_some(pump)
        });
        match (goes_on, self.registry.entries.get_mut(&number)) {
            (Some(pump), Some(entry)) => entry.pump = Some(pump),
            (None, Some(_)) => _ = self.registry.remove(number),
            (_, None) => {}
        }
    }
}

impl<S> AsFd for Dispatcher<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.registry.poller.as_fd()
    }
}

impl<S> fmt::Debug for Dispatcher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dispatcher").field("clients", &self.len()).finish_non_exhaustive()
    }
}

impl<S> Drop for Dispatcher<S> {
    fn drop(&mut self) {
        // Dropped after the lock: a closure may own a waker of this dispatcher, or anything else.
        let _tasks = {
            let mut tasks = self.queue.tasks();
            tasks.closed = true;
            mem::take(&mut tasks.list)
        };
    }
}

impl<S> Control<'_, S> {
    /// As [`Dispatcher::add`].
    ///
    /// # Errors
    /// As there.
    pub fn add<C, F>(&mut self, client: C, handler: F) -> Result<ClientId>
    where
        C: ServiceClient,
        F: EventHandler<S, C>,
    {
        self.registry.add(client, handler)
    }

    /// As [`Dispatcher::remove`]; also the client whose handler this is.
    pub fn remove(&mut self, client: ClientId) -> bool {
        self.registry.remove(client.0)
    }

    /// Stops the dispatcher: no handler is called after this one.
    pub fn stop(&mut self) {
        self.queue.stop.store(true, Ordering::Release);
    }

    /// Adds what hands over something else than a client's events, whenever the descriptor is
    /// readable.
    pub(crate) fn add_pump(
        &mut self,
        descriptor: impl AsFd + Send + Sync + 'static,
        pump: impl Pump<S> + 'static,
    ) -> Result<ClientId> {
        self.registry.add_pump(Arc::new(descriptor), Box::new(pump))
    }

    /// Whether a pump may go on: it was neither stopped nor removed.
    pub(crate) fn goes_on(&self, number: u64) -> bool {
        !self.queue.is_stopped() && self.registry.entries.contains_key(&number)
    }
}

impl<S> fmt::Debug for Control<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("clients", &self.registry.entries.len())
            .finish_non_exhaustive()
    }
}

struct Registry<S> {
    poller: Poller,
    entries: HashMap<u64, Entry<S>>,
    last: u64,
}

struct Entry<S> {
    /// Keeps the descriptor open for as long as the poller knows it.
    descriptor: Arc<dyn AsFd + Send + Sync>,
    /// `None` while its handler runs.
    pump: Option<Box<dyn Pump<S>>>,
}

impl<S> Registry<S> {
    fn add<C, F>(&mut self, client: C, handler: F) -> Result<ClientId>
    where
        C: ServiceClient,
        F: EventHandler<S, C>,
    {
        let client = Arc::new(client);
        let pump = ClientPump { client: Arc::clone(&client), handler };
        self.add_pump(client, Box::new(pump))
    }

    fn add_pump(
        &mut self,
        descriptor: Arc<dyn AsFd + Send + Sync>,
        pump: Box<dyn Pump<S>>,
    ) -> Result<ClientId> {
        let number = self.last + 1;
        self.poller.add(&descriptor, number).map_err(|source| match source.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::invalid("client", "it is in this dispatcher already")
            }
            _ => Error::system("adding a client to a dispatcher", source),
        })?;
        self.last = number;
        self.entries.insert(number, Entry { descriptor, pump: Some(pump) });
        Ok(ClientId(number))
    }

    fn remove(&mut self, number: u64) -> bool {
        let entry = self.entries.remove(&number);
        entry.is_some_and(|entry| {
            self.poller.remove(&entry.descriptor);
            true
        })
    }
}

/// A client and its handler, whatever their types.
pub(crate) trait Pump<S>: Send {
    /// Hands over a few events. Breaks to have the client removed.
    fn pump(&mut self, number: u64, state: &mut S, control: &mut Control<'_, S>)
    -> ControlFlow<()>;
}

struct ClientPump<C: ServiceClient, F> {
    client: Arc<C>,
    handler: F,
}

impl<S, C, F> Pump<S> for ClientPump<C, F>
where
    C: ServiceClient,
    F: EventHandler<S, C>,
{
    fn pump(
        &mut self,
        number: u64,
        state: &mut S,
        control: &mut Control<'_, S>,
    ) -> ControlFlow<()> {
        // The descriptor is readable: if that is for no event, the reason must go, or it is
        // readable for ever. After an event a glance is enough, since it is looked at again
        // while it is readable.
        let mut look = Look::RingAndSocket;
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) =
                self.client.core().look(mem::replace(&mut look, Look::Ring), None).transpose()
            else {
                break;
            };
            let ended = event.is_err();
            (self.handler)(state, event, control)?;
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

type Task<S> = Box<dyn FnOnce(&mut S, &mut Control<'_, S>) + Send>;

/// What other threads ask of the dispatcher.
///
/// Locking rules: `tasks` is held for a few instructions only; tasks are run and dropped outside of
/// it.
struct Queue<S> {
    tasks: Mutex<Tasks<S>>,
    /// Stored with Release and taken with Acquire: what was done before a stop is seen after it.
    stop: AtomicBool,
    wakeup: Wakeup,
}

struct Tasks<S> {
    list: Vec<Task<S>>,
    closed: bool,
}

impl<S> Default for Tasks<S> {
    fn default() -> Self {
        Self { list: Vec::new(), closed: false }
    }
}

impl<S> Queue<S> {
    fn tasks(&self) -> MutexGuard<'_, Tasks<S>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn take_stop(&self) -> bool {
        self.is_stopped() && self.stop.swap(false, Ordering::Acquire)
    }
}

/// Stops a [`Dispatcher`] or runs something on its thread, from any thread; made by
/// [`Dispatcher::waker`].
pub struct DispatcherWaker<S> {
    queue: Arc<Queue<S>>,
}

impl<S> DispatcherWaker<S> {
    /// Makes the dispatcher stop after the handler that runs now. If it does not run, the next
    /// [`Dispatcher::run`] or [`Dispatcher::round`] returns at once.
    pub fn stop(&self) {
        self.queue.stop.store(true, Ordering::Release);
        self.queue.wakeup.wake();
    }

    /// Runs `task` on the dispatcher's thread, between two handlers. Tasks run in the order they
    /// came. `false`: the dispatcher is gone, and the task was dropped, as are those that it
    /// did not get round to.
    #[must_use = "the task does not run when the dispatcher is gone"]
    pub fn run(&self, task: impl FnOnce(&mut S, &mut Control<'_, S>) + Send + 'static) -> bool {
        let task: Task<S> = Box::new(task);
        {
            let mut tasks = self.queue.tasks();
            if tasks.closed {
                return false;
            }
            tasks.list.push(task);
        }
        self.queue.wakeup.wake();
        true
    }
}

impl<S> Clone for DispatcherWaker<S> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue) }
    }
}

impl<S> fmt::Debug for DispatcherWaker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DispatcherWaker").finish_non_exhaustive()
    }
}
