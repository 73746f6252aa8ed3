//! What cpg and evs share: group names, messages, and joining a group with standard input and
//! output.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStringExt;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cpg::{DEFAULT_REASSEMBLY_LIMIT, GroupName};
use corosync_ipc::snapshot::Fault;
use corosync_ipc::supervise::Supervise;
use corosync_ipc::{Deadline, Error, ServiceClient};
use serde_json::{Value as Json, json};

use crate::context::Context;
use crate::failure::{Failure, TIMED_OUT};
use crate::output::{add_payload, complain, escaped};
use crate::signals;
use crate::watch::{Clients, Line, Losing, Stay, Watch, Watcher};

/// The longest message from standard input, in bytes. By default members do not reassemble longer
/// ones.
const MAX_MESSAGE: usize = DEFAULT_REASSEMBLY_LIMIT;

/// The event that `--count` counts.
const DELIVER: &str = "deliver";

/// Reads a name as it is printed: `\x00` is a byte, `\\` a backslash.
pub(crate) fn parse_name(text: &str) -> Result<GroupName, String> {
    match GroupName::from_escaped(text) {
        Ok(name) if name.is_empty() => Err("a group name has at least one byte".to_owned()),
        Ok(name) => Ok(name),
        Err(error) => Err(reason_of(error)),
    }
}

/// The reason without the argument, which the usage error names itself.
pub(crate) fn reason_of(error: Error) -> String {
    match error {
        Error::InvalidArgument { reason, .. } => reason.into_owned(),
        error => error.to_string(),
    }
}

/// Adds a group's name to an object, and its bytes if they differ from the printed name.
pub(crate) fn add_name(object: &mut Json, name: &GroupName) {
    let text = name.to_string();
    if text.as_bytes() != name.as_bytes() {
        object["group_bytes"] = json!(crate::output::base64(name.as_bytes()));
    }
    object["group"] = json!(text);
}

/// The message of the command line, or else all of standard input.
pub(crate) fn message(argument: Option<OsString>) -> Result<Vec<u8>, Failure> {
    if let Some(argument) = argument {
        return Ok(argument.into_vec());
    }
    let mut message = Vec::new();
    let limit = MAX_MESSAGE as u64;
    io::stdin()
        .lock()
        .take(limit + 1)
        .read_to_end(&mut message)
        .map_err(|error| unreadable(&error))?;
    if message.len() > MAX_MESSAGE { Err(too_long("the message")) } else { Ok(message) }
}

/// The line of a delivered message. `from` is the sender, as text.
pub(crate) fn delivery(from: impl Display, mut members: Json, payload: &[u8]) -> Line {
    add_payload(&mut members, payload);
    Line { event: DELIVER, text: format!("{from}: {}", escaped(payload)), members }
}

/// Waits for an event that `wanted` accepts, up to the request timeout.
pub(crate) fn await_event<C: ServiceClient, T>(
    client: &C,
    what: &str,
    mut wanted: impl FnMut(C::Event) -> Option<T>,
) -> Result<T, Failure> {
    let timeout = client.request_timeout();
    let deadline = Instant::now().checked_add(timeout);
    while let Some(event) = client.next_event(deadline.map_or(Deadline::NEVER, Deadline::from))? {
        if let Some(found) = wanted(event) {
            return Ok(found);
        }
        // Other members may send without a pause.
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
    }
    Err(Failure::Failed {
        status: TIMED_OUT,
        text: format!("{what} within {timeout:?} (CS_ERR_TIMEOUT)"),
        cs_error: Some("CS_ERR_TIMEOUT".to_owned()),
    })
}

/// Calls `leave` when a signal ends the process, so that the members see a leave and not the end of
/// the process.
///
/// Call it once, before joining. Drop the result when joining has succeeded or failed: a signal
/// waits for that, because a group can be left only once it is joined.
#[must_use = "a signal waits until it is dropped"]
pub(crate) fn leave_at_signals(
    context: &Context,
    leave: impl FnOnce() + Send + 'static,
) -> Result<Sender<Infallible>, Failure> {
    let (joining, joined) = channel();
    if !context.is_embedded {
        signals::at_first(move |_| {
            // Returns when the other end is dropped.
            let _ = joined.recv();
            leave();
        })?;
    }
    Ok(joining)
}

/// Leaves the group, whatever the result, unless the daemon has stopped answering.
pub(crate) fn end<T>(result: Result<T, Failure>, leave: impl FnOnce()) -> Result<T, Failure> {
    if !result.as_ref().is_err_and(Failure::is_timeout) {
        leave();
    }
    result
}

/// The present client of a group that was joined: there is none in a gap.
#[derive(Debug)]
pub(crate) struct Present<C>(Arc<(Mutex<Option<Arc<C>>>, Condvar)>);

impl<C> Clone for Present<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Default for Present<C> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C> Present<C> {
    fn set(&self, client: Option<Arc<C>>) {
        *self.lock() = client;
        self.0.1.notify_all();
    }

    pub(crate) fn get(&self) -> Option<Arc<C>> {
        self.lock().clone()
    }

    /// Waits for the end of a gap.
    fn wait(&self) -> Arc<C> {
        let mut held = self.lock();
        loop {
            if let Some(client) = &*held {
                return Arc::clone(client);
            }
            held = self.0.1.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<C>>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints the events of a group that is joined.
pub(crate) struct Member<C: ServiceClient> {
    group: GroupName,
    present: Present<C>,
    line: fn(GroupName, C::Event) -> Line,
    failure: Box<dyn Fn(Error) -> Failure + Send>,
}

impl<C: ServiceClient> Member<C> {
    /// `line` makes the line of an event, `failure` what an error ends the command with.
    pub(crate) fn new(
        group: GroupName,
        line: fn(GroupName, C::Event) -> Line,
        failure: impl Fn(Error) -> Failure + Send + 'static,
    ) -> Self {
        Self { group, present: Present::default(), line, failure: Box::new(failure) }
    }

    /// The client that has joined.
    pub(crate) fn present(&self) -> Present<C> {
        self.present.clone()
    }
}

impl<C: ServiceClient> Losing for Member<C> {
    fn lost(&mut self, _: &Json) {
        self.present.set(None);
    }

    fn failure(&self, error: Error) -> Failure {
        (self.failure)(error)
    }
}

impl<C: Supervise> Watcher for Member<C> {
    type Client = C;

    fn event(&mut self, _: &C, event: C::Event) -> Result<Vec<Line>, Failure> {
        Ok(vec![(self.line)(self.group, event)])
    }

    fn up(
        &mut self,
        client: &Arc<C>,
        _: bool,
        _: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        self.present.set(Some(Arc::clone(client)));
        Ok(Vec::new())
    }

    fn name(&self, _: &C::Setup) -> String {
        self.group.to_string()
    }
}

/// A watch of groups, which `count` messages end. A signal ends it, and leaving the groups too has
/// its time.
pub(crate) fn watch(context: &Context, stay: &Stay, count: Option<u64>) -> Result<Watch, Failure> {
    let watch = Watch::new(context, stay, count)?.counting(DELIVER);
    // Joining may be under way, and leaving follows.
    let call = context.endpoint.request_timeout_value();
    watch.end_at_signals(call.saturating_mul(2).saturating_add(Duration::from_secs(1)))?;
    Ok(watch)
}

/// Prints the clients' events and sends the lines of standard input, until the watch ends or
/// something fails. Runs on at the end of standard input.
///
/// In a gap lines wait for its end. A line that is lost with the connection is not sent again, since
/// it may have been delivered.
pub(crate) fn take_part<C, F>(
    watch: Watch,
    stay: &Stay,
    groups: Vec<Present<C>>,
    send: F,
) -> Result<(), Failure>
where
    C: ServiceClient,
    F: Fn(&C, &[u8]) -> Result<(), Error> + Send + 'static,
{
    let end = watch.ender();
    let reconnects = stay.reconnects();
    let send_to_all = move |line: &[u8]| {
        groups.iter().try_for_each(|group| match send(&*group.wait(), line) {
            Err(error @ Error::Disconnected { .. }) if reconnects => {
                complain(&format!("a line may not have been sent: {}", Fault::describe(&error)));
                Ok(())
            }
            sent => sent,
        })
    };
    // Not joined: it may read forever.
    thread::spawn(move || {
        if let Err(failure) = send_lines(io::stdin().lock(), send_to_all) {
            end(failure);
        }
    });
    watch.run()
}

/// Sends each line without its line feed; what comes behind the last one too, if there is
/// something.
fn send_lines(
    mut input: impl BufRead,
    send: impl Fn(&[u8]) -> Result<(), Error>,
) -> Result<(), Failure> {
    let limit = MAX_MESSAGE as u64;
    let mut line = Vec::new();
    loop {
        line.clear();
        // Room for the line feed.
        let read = input
            .by_ref()
            .take(limit + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| unreadable(&error))?;
        if read == 0 {
            return Ok(());
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.len() > MAX_MESSAGE {
            return Err(too_long("a line"));
        }
        send(&line)?;
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::refused(format!("reading standard input: {error}"))
}

fn too_long(what: &str) -> Failure {
    Failure::usage(format!("{what} on standard input has more than {MAX_MESSAGE} bytes"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn each_line_is_a_message_whatever_is_in_it() {
        let sent = RefCell::new(Vec::new());
        let send = |line: &[u8]| {
            sent.borrow_mut().push(line.to_vec());
            Ok(())
        };
        send_lines(&b"a\n\n\xff\0\r\nlast"[..], send).unwrap();
        assert_eq!(sent.into_inner(), [&b"a"[..], b"", b"\xff\0\r", b"last"]);
    }

    #[test]
    fn a_failure_to_send_ends_it() {
        let sent = RefCell::new(0);
        let failed = send_lines(&b"a\nb\n"[..], |_| {
            *sent.borrow_mut() += 1;
            Err(Error::Finalized)
        });
        assert!(failed.is_err());
        assert_eq!(sent.into_inner(), 1);
    }

    #[test]
    fn a_name_is_read_as_it_is_printed() {
        assert_eq!(parse_name(r"crmd\x00").unwrap().as_bytes(), b"crmd\0");
        assert!(parse_name("").unwrap_err().contains("at least one byte"));
        assert!(parse_name(&"x".repeat(129)).unwrap_err().contains("129"));
        assert!(parse_name(r"a\b").unwrap_err().contains("backslash"));
    }

    #[test]
    fn bytes_of_a_name_are_added_where_the_text_is_not_the_name() {
        let object = |name: &str| {
            let mut object = json!({});
            add_name(&mut object, &parse_name(name).unwrap());
            object
        };
        assert_eq!(object("plain é"), json!({ "group": "plain é" }));
        assert_eq!(object(r"crmd\x00"), json!({ "group": r"crmd\x00", "group_bytes": "Y3JtZAA=" }));
    }
}
