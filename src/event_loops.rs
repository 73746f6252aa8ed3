//! Documentation only: how events reach a program, and how to wait for them beside other things.
//!
//! # Which way to choose
//! | the program | takes events by |
//! | --- | --- |
//! | waits for one client and does nothing else | [`Client::events`](crate::ServiceClient::events), or [`dispatch`](crate::ServiceClient::dispatch) with `Blocking` |
//! | has several clients on one thread | [`Dispatcher`](crate::Dispatcher) |
//! | has an event loop of its own: poll(2), epoll, mio, glib | the descriptor and [`Client::poll_event`](crate::ServiceClient::poll_event) |
//! | is built on tokio | `AsyncClient`, with the feature `tokio` |
//! | goes on when the daemon restarts | [`Supervised`](crate::supervise::Supervised), in a `Dispatcher` by [`add_supervised`](crate::Dispatcher::add_supervised), in a loop of its own by the [`descriptor`](crate::supervise::Supervised::descriptor); or `AsyncSupervised` |
//!
//! All of them stand on `poll_event`, which takes the next event if one waits and never blocks. The
//! directory `examples` has a whole program for most of them.
//!
//! # What dispatch returns
//! The table holds for the clients of all services. The events that the daemon left before it ended
//! are always handed over first.
//!
//! | | `One` | `All` | `Blocking` | `OneNonblocking` |
//! | --- | --- | --- | --- | --- |
//! | nothing waits | waits | `Ok` | waits | `Cs(TryAgain)` |
//! | an event waits | `Ok` after it | `Ok` after all | waits for more | `Ok` after it |
//! | the daemon is gone | `Disconnected` | `Disconnected` ¹ | `Disconnected` | `Disconnected` ¹ |
//! | the daemon is stopped | waits | `Ok` | waits | `Cs(TryAgain)` |
//! | a signal | goes on | goes on | goes on | goes on |
//! | a message waits that is no event ³ | `Ok` | goes on | goes on | `Ok` |
//! | the handler breaks | `Ok` | `Ok` | `Ok` | `Ok` |
//! | the handler finalizes the client | `Ok` | `Finalized` | `Finalized` | `Ok` |
//! | finalized before, or by another thread | `Finalized` | `Finalized` | `Finalized` | `Finalized` |
//! | the [`Waker`](crate::Waker) was used | `Ok` | ² | `Ok` | ² |
//!
//! ¹ At the latest a millisecond after it went: these modes make no system call when nothing waits,
//! but for one about every millisecond.
//!
//! ² These modes do not wait, so there is nothing to end. The wake stays for the next wait.
//!
//! ³ A piece of a cpg message that is not complete yet, or a notification of a cmap tracker that
//! was deleted meanwhile. The C libraries count it too.
//!
//! # Readiness is not availability
//! Events travel through a ring in shared memory, which nothing can poll. For each event the daemon
//! also sends one byte through the socket, mostly at once, sometimes later. The client takes the
//! bytes later, many at a time. So the descriptor and the ring can disagree for a while:
//!
//! - The descriptor is readable and there is no event: its byte came after the event had been
//!   taken. `poll_event` returns `None` and takes the byte. A loop must not treat that as an error,
//!   or as the end.
//! - There is an event and the descriptor is not readable yet: the byte is on its way. `poll_event`
//!   finds the event before poll(2) signals it.
//!
//! This always holds: while an event waits, the descriptor is readable, or becomes so when the
//! event's byte comes. So a loop that polls, and then calls `poll_event` at least once, misses
//! nothing. Bytes that come after their events do not pile up: a `poll_event` that finds no event
//! takes up to 64 of them. No libqb sends bytes without events: 1024 of them between two events end
//! the connection with [`Error::Protocol`](crate::Error::Protocol).
//!
//! A daemon that uses datagram sockets (`qb_ipc_type: socket`) sends no bytes. The descriptor then
//! is an epoll instance of two sockets: that of the events, and the setup socket, which shows that
//! the daemon is gone. All of the above holds there too.
//!
//! # Draining
//! With level-triggered readiness (poll(2), epoll by default, glib) one call of `poll_event` for
//! each wake-up is enough. Taking a few is cheaper, because they share one system call.
//! Set a limit: a loop that takes all events serves nobody else while the cluster is busy.
//!
//! With edge-triggered readiness (mio, `AsyncFd`, `EPOLLET`) events must be taken until
//! `poll_event` returns `None`. It then has looked at the socket too, so the next event, or the end
//! of the connection, makes a new edge. `dispatch` with `All` does not: it may find the ring empty
//! without a look at the socket.
//!
//! A hang-up (`POLLHUP`) is no reason to stop reading: take events until `poll_event` fails with
//! [`Error::Disconnected`](crate::Error::Disconnected). With datagrams the descriptor becomes
//! readable instead. Watch the descriptor for reading only, and never read from it.
//!
//! A request on the same client does not disturb any of this: replies come by another ring. But
//! events come while a request waits, so look for events after requests as well if the loop is
//! level-triggered by a condition of its own.
//!
//! # Threads
//! A client is `Send + Sync`, and every method takes `&self`: put it in an `Arc`. Requests of
//! several threads are sent in the order they came, each with its own timeout, which includes the wait
//! for those before it. Short ones that surely are answered in order, such as those that read, do not
//! wait for the answers to each other. Events are independent of requests: a
//! thread that waits for events delays nobody. When several threads take events from one client,
//! each event goes to one of them; services whose events have an order, cpg above all, want one
//! taker.
//!
//! No lock is held while a handler runs. It may make requests on its own client, dispatch, open
//! other clients, and drop any. A handler that takes long delays only the events behind it; the
//! daemon keeps them in its memory.
//!
//! To end a wait in another thread use [`Client::waker`](crate::ServiceClient::waker), which ends
//! this wait and leaves the client as it is, or
//! [`Client::finalize`](crate::ServiceClient::finalize), which ends the client for all threads.
//! Either takes as long as waking a thread does, some 20 µs. The death of the daemon ends every
//! wait too, as soon as the kernel has closed its sockets: after a few milliseconds. What runs on
//! the thread of a `Dispatcher` is reached by its [`DispatcherWaker`](crate::DispatcherWaker).
//!
//! # Async
//! Events fit into any runtime that can wait for a descriptor: register a clone of it and call
//! `poll_event` until it returns `None`.
//!
//! Requests do not: the answer is announced by a futex in shared memory, which no runtime can wait
//! for. They take microseconds when the daemon is well, and up to the request timeout when it is
//! not, so a runtime's thread must not make them. `AsyncClient` makes them on tokio's threads for
//! blocking work, one at a time; other runtimes have the like (`blocking::unblock`). Dropping the
//! future of a request does not take the request back. Its answer is received and thrown away, so
//! that the next request gets its own.
//!
//! # Signals
//! No call returns early for a signal: what a signal interrupts is called again with the time that
//! is left. To end a wait by a signal, have its handler do what a handler may, and something else
//! use the waker: a thread that waits in `sigwait`, a `signalfd` in a poll(2) loop, or tokio's
//! `signal`. [`Waker::wake`](crate::Waker::wake) itself is one store and one write(2), so a handler
//! may call it. Writing to a daemon that is gone raises no `SIGPIPE`.
//!
//! # Fork
//! A client belongs to the process that opened it. After fork(2) both processes have the same rings
//! and the same socket, and two that take from one ring corrupt it. The child must neither use the
//! client nor drop it: dropping shuts the socket down for the parent too. A child that calls
//! exec(3) at once is safe, as every descriptor is closed then; so is `std::process::Command`. A
//! program that forks and goes on, such as a daemon, forks first and connects afterwards. One that
//! connects first, to tell errors before it forks, may go on with the client in the child if the
//! parent ends by `_exit` without using or dropping it. cpg knows a member by its pid, which is
//! that of the process that joins.
