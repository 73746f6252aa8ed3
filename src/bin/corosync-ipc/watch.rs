//! The loop of all commands that print events.

use std::convert::Infallible;
use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use corosync_ipc::snapshot::Fault;
use corosync_ipc::supervise::{Missed, Notice, NoticeHandler, Supervise, Supervised, Up};
use corosync_ipc::{
    Control, Deadline, Dispatcher, DispatcherWaker, Endpoint, Error, NodeId, ServiceClient, within,
};
use nix::poll::{PollFd, PollFlags};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::duration;
use crate::failure::{Failure, TIMED_OUT, UNREACHABLE};
use crate::outlet::Outlet;
use crate::output::{base64, complain, event_line, print, rfc3339};
use crate::signals::{self, poll_any};

/// The event of a line that says that others may be missing.
const GAP: &str = "gap";

/// How long a signal waits for the loop, which may be connecting to a daemon that is stopped.
const GRACE: Duration = Duration::from_secs(1);

/// Whether a command that watches stays when there is no daemon.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stay {
    /// Go on when the daemon ends: connect again.
    ///
    /// Prints a line `gap` when the connection is lost, and another one when there is one again,
    /// with what may have been missed, followed by the present state.
    #[arg(long)]
    reconnect: bool,
    /// Wait for a daemon that is not there yet.
    ///
    /// For ever, or for this long: 500ms, 5s, 2m. Ends with 3 when it is over.
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = duration::parse)]
    wait: Option<Option<Duration>>,
}

impl Stay {
    /// Whether any of it was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.reconnect || self.wait.is_some()
    }

    /// Whether to go on when the daemon ends.
    pub(crate) fn reconnects(&self) -> bool {
        self.reconnect
    }
}

/// An event as text and as JSON.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) event: &'static str,
    /// For people.
    pub(crate) text: String,
    /// The members of the JSON object beside `event` and `time`.
    pub(crate) members: Json,
}

impl Line {
    /// An event that the library does not know.
    pub(crate) fn unknown(service: &str, id: i32, message: &[u8]) -> Self {
        Self {
            event: "unknown",
            text: format!("{service} message {id}, {} bytes", message.len()),
            members: json!({ "service": service, "message_id": id, "payload": base64(message) }),
        }
    }

    fn into_text(self, time: SystemTime, json: bool) -> String {
        if json {
            event_line(self.event, time, self.members)
        } else {
            // Several lines begin on a line of their own.
            let gap = if self.text.starts_with('\n') { "" } else { " " };
            format!("{} {}:{gap}{}\n", rfc3339(time), self.event, self.text)
        }
    }
}

/// Node ids for JSON.
pub(crate) fn ids(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|node| node.0).collect()
}

/// What a command does when there is no connection, whatever the service.
pub(crate) trait Losing {
    /// There is no connection any more, or none yet, because of this error.
    fn lost(&mut self, _why: &Json) {}

    /// Whether the service does not exist after all, so that nothing is to be watched.
    fn is_absent(&self, _error: &Error) -> bool {
        false
    }

    /// The failure that an error ends the command with.
    fn failure(&self, error: Error) -> Failure {
        error.into()
    }
}

/// What a command makes of the notices of a client.
pub(crate) trait Watcher: Losing + Send + 'static {
    type Client: Supervise;

    /// Turns an event into lines.
    fn event(
        &mut self,
        client: &Self::Client,
        event: <Self::Client as ServiceClient>::Event,
    ) -> Result<Vec<Line>, Failure>;

    /// There is a connection with everything set up, for the first time or `again`.
    fn up(
        &mut self,
        _client: &Arc<Self::Client>,
        _again: bool,
        _clients: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        Ok(Vec::new())
    }

    /// The name of what is set up.
    fn name(&self, setup: &<Self::Client as Supervise>::Setup) -> String;
}

/// Prints the events of clients until `count` lines are printed, or a client fails that is not to
/// connect again, or a signal comes.
pub(crate) struct Watch {
    dispatcher: Dispatcher<Printer>,
    printer: Printer,
}

/// Prints lines of another thread.
pub(crate) struct Poster(DispatcherWaker<Printer>);

/// The clients of a [`Watch`], to which more can be added.
pub(crate) struct Clients<'a, 'b> {
    printer: &'a mut Printer,
    control: &'a mut Control<'b, Printer>,
}

pub(crate) struct Printer {
    json: bool,
    /// The number of lines to print, or `None` for no limit.
    left: Option<u64>,
    /// The event whose lines count, or `None` for all but gaps.
    counted: Option<&'static str>,
    end: Option<Result<(), Failure>>,
    endpoint: Endpoint,
    reconnect: bool,
    /// Whether to wait for a daemon, and for how long.
    wait: Option<Option<Duration>>,
    /// When all clients must have been connected.
    start: Option<Instant>,
    /// How many clients have not been connected yet, and why the last of them was not: the text and
    /// the name of the cs_error.
    waiting: usize,
    obstacle: Option<(String, Option<String>)>,
    /// Lines that wait until all clients are connected, so that a command that does not start
    /// prints nothing.
    held: Vec<(SystemTime, Line)>,
    output: Output,
}

/// What becomes of lines.
#[derive(Debug)]
enum Output {
    /// They are all that the command is for: it waits until they are read, and ends when nobody
    /// reads them any more.
    Needed,
    /// A hook is told too, whether they are read or not.
    Beside(Outlet),
    /// Nobody reads them any more.
    Gone,
}

/// How many lines wait at most.
const MOST_HELD: usize = 1000;

/// Why and since when there is no connection.
pub(crate) struct Gap {
    since: SystemTime,
    begun: Instant,
    why: Fault,
}

impl Watch {
    /// Ends after `count` lines.
    pub(crate) fn new(context: &Context, stay: &Stay, count: Option<u64>) -> Result<Self, Failure> {
        let start = match stay.wait {
            None => Some(context.deadline),
            Some(None) => None,
            Some(Some(wait)) => Instant::now().checked_add(wait),
        };
        let printer = Printer {
            json: context.json,
            left: count,
            counted: None,
            end: None,
            endpoint: context.endpoint.clone(),
            reconnect: stay.reconnect,
            wait: stay.wait,
            start,
            waiting: 0,
            obstacle: None,
            held: Vec::new(),
            output: Output::Needed,
        };
        let watch = Self { dispatcher: Dispatcher::new()?, printer };
        watch.end_at_signals(GRACE)?;
        Ok(watch)
    }

    /// Counts only the lines of this event.
    pub(crate) fn counting(mut self, event: &'static str) -> Self {
        self.printer.counted = Some(event);
        self
    }

    /// Goes on when nobody reads standard output any more, and never waits for that. Call it when
    /// the signals are blocked.
    pub(crate) fn put_hook_before_output(&mut self) {
        self.printer.output = Output::Beside(Outlet::new());
    }

    /// Ends the loop at a signal. Dies of the signal when the loop does not end within `grace`.
    pub(crate) fn end_at_signals(&self, grace: Duration) -> Result<(), Failure> {
        let waker = self.dispatcher.waker();
        signals::at_first(move |signal| {
            // The loop may have ended by itself, and what follows takes time too.
            let _ = waker.run(move |printer, _| printer.end = Some(Err(Failure::Signal(signal))));
            thread::sleep(grace);
        })
    }

    /// Adds a client, which `connect` makes, with what is set up in it.
    pub(crate) fn add<W: Watcher>(
        &mut self,
        connect: impl Fn(&Endpoint) -> Result<W::Client, Error> + Send + Sync + 'static,
        setups: impl IntoIterator<Item = <W::Client as Supervise>::Setup>,
        watcher: W,
    ) -> Result<(), Failure> {
        let mut control = self.dispatcher.control();
        Clients { printer: &mut self.printer, control: &mut control }.add(connect, setups, watcher)
    }

    /// What another thread prints by.
    pub(crate) fn poster(&self) -> Poster {
        Poster(self.dispatcher.waker())
    }

    /// As [`Watch::poster`], for a thread that has a connection of its own. The watch waits for
    /// it to call [`Printer::meet`].
    pub(crate) fn expect(&mut self) -> Poster {
        self.printer.waiting += 1;
        self.poster()
    }

    /// Returns a function that ends the loop from another thread.
    pub(crate) fn ender(&self) -> impl FnOnce(Failure) + Send + use<> {
        let waker = self.dispatcher.waker();
        move |failure| {
            // Fails when the loop has ended already.
            let _ = waker.run(|printer, _| _ = printer.end.get_or_insert(Err(failure)));
        }
    }

    /// Prints events as they arrive. Ends also when nobody reads standard output any more, unless a
    /// hook is told.
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        let result = self.rounds();
        match self.printer.output {
            Output::Beside(outlet) => result.and(outlet.end()),
            Output::Needed | Output::Gone => result,
        }
    }

    fn rounds(&mut self) -> Result<(), Failure> {
        let stdout = io::stdout();
        loop {
            // poll always reports the end of standard output; no event needs to be requested.
            let mut watched = [
                PollFd::new(self.dispatcher.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            let until = self.printer.start.filter(|_| self.printer.waits());
            // Its end is there for ever.
            let count = if matches!(self.printer.output, Output::Gone) { 1 } else { 2 };
            poll_any(&mut watched[..count], "waiting for events", until)?;
            if count == 2 && watched[1].any() == Some(true) {
                self.printer.lose_output(Failure::OutputClosed)?;
            }
            within(self.printer.deadline(), || {
                self.dispatcher.round(&mut self.printer, Duration::ZERO)
            })?;
            if let Some(end) = self.printer.end.take() {
                return end;
            }
            if until.is_some_and(|until| Instant::now() >= until) && self.printer.waits() {
                return Err(self.printer.waited());
            }
        }
    }
}

impl Poster {
    /// Calls a function on the thread of the loop, and waits for that, so that nothing piles up
    /// while nobody reads the output. What it fails with ends the loop.
    pub(crate) fn run(
        &self,
        what: impl FnOnce(&mut Printer) -> Result<(), Failure> + Send + 'static,
    ) {
        let (done, wait) = channel::<Infallible>();
        // Fails when the loop has ended already.
        let _ = self.0.run(move |printer, control| {
            let result = what(printer);
            printer.conclude(result, control);
            drop(done);
        });
        // Returns when the other end is dropped.
        let _ = wait.recv();
    }

    /// Prints these lines.
    pub(crate) fn print(&self, lines: Vec<Line>) {
        if !lines.is_empty() {
            self.run(|printer| printer.print(lines));
        }
    }
}

impl Clients<'_, '_> {
    /// As [`Watch::add`].
    pub(crate) fn add<W: Watcher>(
        &mut self,
        connect: impl Fn(&Endpoint) -> Result<W::Client, Error> + Send + Sync + 'static,
        setups: impl IntoIterator<Item = <W::Client as Supervise>::Setup>,
        watcher: W,
    ) -> Result<(), Failure> {
        let endpoint = self.printer.endpoint.clone();
        let mut client = Supervised::new(move || connect(&endpoint));
        setups.into_iter().try_for_each(|setup| client.set_up(setup))?;
        self.printer.waiting += 1;
        self.control.add_supervised(client, handler(watcher))?;
        Ok(())
    }
}

fn handler<W: Watcher>(mut watcher: W) -> impl NoticeHandler<Printer, W::Client> {
    let mut course = Course::new(W::Client::SERVICE);
    move |printer: &mut Printer, notice, client, control| {
        let mut flow = ControlFlow::Continue(());
        let result = match notice {
            Ok(Notice::Event(event)) => client
                .client()
                .map_err(Failure::from)
                .and_then(|client| watcher.event(client, event))
                .and_then(|lines| printer.print(lines)),
            Ok(Notice::Lost { error }) => course.lost(printer, &mut watcher, error),
            Ok(Notice::Retry { error, .. }) => {
                if watcher.is_absent(&error) {
                    flow = ControlFlow::Break(());
                    course.ends(printer)
                } else {
                    course.retry(printer, &mut watcher, error)
                }
            }
            Ok(Notice::Up(Up { restored, .. })) => {
                let missed =
                    restored.iter().map(|one| (watcher.name(&one.setup), one.missed)).collect();
                let refused = restored.into_iter().find_map(|one| one.result.err());
                let result = match (refused, client.client()) {
                    (Some(error), _) | (None, Err(error)) => Err(watcher.failure(error)),
                    (None, Ok(client)) => course.up(printer, missed).and_then(|again| {
                        let mut clients = Clients { printer, control };
                        let lines = watcher.up(client, again, &mut clients)?;
                        clients.printer.print(lines)
                    }),
                };
                // Now its lines of the present state are there.
                printer.meet(&mut course.met);
                result
            }
            Ok(_) => Ok(()),
            Err(error) => Err(watcher.failure(error)),
        };
        printer.conclude(result, control);
        flow
    }
}

/// What has become of a client's connections.
struct Course {
    service: &'static str,
    /// Whether it was connected once, or will never be.
    met: bool,
    gap: Option<Gap>,
    /// What was told of attempts that failed, which is not repeated.
    told: String,
}

impl Course {
    fn new(service: &'static str) -> Self {
        Self { service, met: false, gap: None, told: String::new() }
    }

    /// The connection is lost.
    fn lost(
        &mut self,
        printer: &mut Printer,
        watcher: &mut dyn Losing,
        error: Error,
    ) -> Result<(), Failure> {
        if !printer.reconnect {
            return Err(watcher.failure(error));
        }
        let gap = self.gap.insert(Gap::new(error));
        watcher.lost(&json!(gap.why));
        printer.print([gap.begins(self.service)])
    }

    /// An attempt to connect has failed.
    fn retry(
        &mut self,
        printer: &mut Printer,
        watcher: &mut dyn Losing,
        error: Error,
    ) -> Result<(), Failure> {
        let in_gap = self.gap.is_some();
        // The line of the gap says already that nobody is there.
        let expected = in_gap && matches!(error, Error::NoSocket { .. });
        let why = json!({
            "error": Fault::describe(&error),
            "cs_error": error.cs_error().c_name(),
        });
        printer.retry(watcher.failure(error), in_gap, expected, &mut self.told)?;
        watcher.lost(&why);
        Ok(())
    }

    /// There is a connection. Returns whether it is one after a gap.
    fn up(
        &mut self,
        printer: &mut Printer,
        missed: Vec<(String, Missed)>,
    ) -> Result<bool, Failure> {
        self.told.clear();
        let ends = self.gap.take().map(|gap| gap.ends(self.service, &missed));
        let again = ends.is_some();
        printer.print(ends)?;
        Ok(again)
    }

    /// There will be no connection. If there was one, the daemon that came back is another one.
    fn ends(&mut self, printer: &mut Printer) -> Result<(), Failure> {
        printer.meet(&mut self.met);
        printer.print(self.gap.take().map(|gap| gap.ends(self.service, &[])))
    }
}

impl Gap {
    /// It begins now.
    pub(crate) fn new(error: Error) -> Self {
        Self { since: SystemTime::now(), begun: Instant::now(), why: error.into() }
    }

    pub(crate) fn begins(&self, service: &str) -> Line {
        let text = format!("{service}: {}; from now on events may be missing", self.why);
        Line { event: GAP, text, members: self.json(service, None, Json::Null) }
    }

    pub(crate) fn ends(self, service: &str, missed: &[(String, Missed)]) -> Line {
        // What is noticed takes some, so that there is at least one.
        let seconds = (self.begun.elapsed().as_secs_f64() * 1e3).ceil() / 1e3;
        let missed: Vec<_> = missed.iter().map(|(name, missed)| (name, word(*missed))).collect();
        let list: Vec<_> =
            missed.iter().map(|(name, missed)| format!("{missed} of {name}")).collect();
        let text = format!(
            "{service}: over after {seconds:.3}s; what may be missing: {}",
            if list.is_empty() { "nothing".to_owned() } else { list.join(", ") }
        );
        let missed =
            missed.iter().map(|(name, missed)| json!({ "name": name, "missed": missed })).collect();
        Line { event: GAP, text, members: self.json(service, Some(seconds), missed) }
    }

    fn json(&self, service: &str, seconds: Option<f64>, missed: Json) -> Json {
        json!({
            "service": service,
            "over": seconds.is_some(),
            "since": rfc3339(self.since),
            "error": self.why.error,
            "cs_error": self.why.cs_error,
            "seconds": seconds,
            "missed": missed,
        })
    }
}

fn word(missed: Missed) -> &'static str {
    match missed {
        Missed::Nothing => "nothing",
        Missed::States => "states",
        Missed::Messages => "messages",
        // What this command does not know may be anything.
        _ => "changes",
    }
}

impl Printer {
    /// The client is connected, or will not be.
    pub(crate) fn meet(&mut self, met: &mut bool) {
        if !mem::replace(met, true) {
            self.waiting = self.waiting.saturating_sub(1);
        }
    }

    /// Whether a daemon is waited for.
    fn waits(&self) -> bool {
        self.waiting > 0 && self.wait.is_some()
    }

    /// When what the loop does next must be done: connecting and requests have one timeout, as in
    /// commands that print one answer.
    fn deadline(&self) -> Deadline {
        let call = Instant::now().checked_add(self.endpoint.request_timeout_value());
        let start = self.start.filter(|_| self.waiting > 0);
        call.into_iter().chain(start).min().map_or(Deadline::NEVER, Deadline::from)
    }

    /// An attempt to connect has failed. Goes on in a gap, and while a daemon is waited for.
    pub(crate) fn retry(
        &mut self,
        failure: Failure,
        in_gap: bool,
        expected: bool,
        told: &mut String,
    ) -> Result<(), Failure> {
        let Failure::Failed { status, text, cs_error } = &failure else { return Err(failure) };
        let is_missing = [UNREACHABLE, TIMED_OUT].contains(status);
        let waits = is_missing && self.wait.is_some();
        if !in_gap && !waits {
            return Err(failure);
        }
        let is_over = self.start.is_some_and(|start| Instant::now() >= start);
        if !in_gap && *status == TIMED_OUT && is_over {
            // The attempt was cut short, and the loop ends.
            return Ok(());
        }
        self.obstacle = Some((text.clone(), cs_error.clone()));
        if !expected && text != told {
            complain(&format!("{text}; trying again"));
            told.clone_from(text);
        }
        Ok(())
    }

    /// The time to wait for a daemon is over.
    fn waited(&self) -> Failure {
        let wait = self.wait.flatten().unwrap_or_default();
        let (why, cs_error) =
            self.obstacle.clone().unwrap_or_else(|| ("it does not answer".to_owned(), None));
        let text = format!("no daemon within {wait:?}: {why}");
        Failure::Failed { status: UNREACHABLE, text, cs_error }
    }

    pub(crate) fn print(&mut self, lines: impl IntoIterator<Item = Line>) -> Result<(), Failure> {
        let time = SystemTime::now();
        self.held.extend(lines.into_iter().map(|line| (time, line)));
        self.release()
    }

    /// Ends the loop with the failure of a handler.
    fn conclude(&mut self, result: Result<(), Failure>, control: &mut Control<'_, Self>) {
        if let Err(failure) = result.and_then(|()| self.release()) {
            _ = self.end.get_or_insert(Err(failure));
        }
        if self.end.is_some() {
            control.stop();
        }
    }

    /// Nobody reads standard output any more, or else this is another failure.
    fn lose_output(&mut self, failure: Failure) -> Result<(), Failure> {
        if !matches!((&failure, &self.output), (Failure::OutputClosed, Output::Beside(_))) {
            return Err(failure);
        }
        self.output = Output::Gone;
        complain("nobody reads standard output any more; goes on for the hook");
        Ok(())
    }

    /// Writes the lines that were held, when nothing keeps them any more.
    fn release(&mut self) -> Result<(), Failure> {
        if self.waiting > 0 && self.held.len() < MOST_HELD {
            return Ok(());
        }
        for (time, line) in mem::take(&mut self.held) {
            if self.end.is_some() {
                break;
            }
            let is_counted =
                line.event != GAP && self.counted.is_none_or(|event| event == line.event);
            let printed = match &mut self.output {
                Output::Needed => print(line.into_text(time, self.json)),
                Output::Beside(outlet) => outlet.print(line.into_text(time, self.json)),
                Output::Gone => Ok(()),
            };
            printed.or_else(|failure| self.lose_output(failure))?;
            if let Some(left) = self.left.as_mut().filter(|_| is_counted) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.end = Some(Ok(()));
                }
            }
        }
        Ok(())
    }
}
