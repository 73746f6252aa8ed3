//! `--exec`: a program that is run on changes.

use std::collections::VecDeque;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use serde_json::Value as Json;

use crate::duration;
use crate::failure::Failure;
use crate::output::{complain, never_wait_for_standard_error};
use crate::signals;

/// The beginning of the names of the variables.
const PREFIX: &str = "COROSYNC_IPC_";

/// How long a hook may go on after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How many things whose state has changed wait for the hook. The oldest are dropped.
const MOST: usize = 1000;

/// What is run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Exec {
    /// Run this program on each change, with the state in its environment and standard input.
    ///
    /// A word that means nothing special to a shell is a program, anything else is given to
    /// `/bin/sh -c`. One runs at a time. If the state changes meanwhile, the program runs again
    /// with the latest state, and states in between are dropped. What it prints goes to standard
    /// error. That it fails is told there too, and ends nothing. The command goes on for it when
    /// nobody reads its own standard output any more, and leaves lines out where it would have to
    /// wait for that.
    #[arg(long, value_name = "CMD", value_parser = program())]
    exec: Option<OsString>,
    /// How long the program may run before SIGTERM ends it, and SIGKILL 5 seconds later.
    #[arg(long, value_name = "DURATION", default_value = "30s", requires = "exec", value_parser = duration::parse)]
    exec_timeout: Duration,
}

impl Exec {
    /// Whether anything is to be run.
    pub(crate) fn is_given(&self) -> bool {
        self.exec.is_some()
    }
}

fn program() -> impl TypedValueParser<Value = OsString> {
    OsStringValueParser::new().try_map(|text| {
        let is_blank = text.as_bytes().trim_ascii().is_empty();
        if is_blank { Err("it names no program") } else { Ok(text) }
    })
}

/// A hook that a thread runs whenever there is something new.
pub(crate) struct Hook {
    shared: Arc<Shared>,
    runner: JoinHandle<()>,
}

/// The end of a hook.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// It runs for what is there, then no more.
    Finish,
    /// It is ended now.
    Kill,
}

/// A state to be told.
struct Job {
    /// Whose state it is. A later one of the same takes its place.
    subject: String,
    /// Makes the document. Called when the hook is about to run.
    document: Box<dyn FnOnce() -> Json + Send>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// How many states were dropped since the hook was started last.
    dropped: u64,
    /// Whether the hook that was started last has ended. It is not reaped yet.
    has_ended: bool,
    end: Option<End>,
}

impl Hook {
    /// `None` where nothing is to be run. Call it when the signals are blocked.
    pub(crate) fn new(exec: Exec) -> Option<Self> {
        let command = exec.exec?;
        // It would keep the hook waiting.
        never_wait_for_standard_error();
        let shared = Arc::new(Shared::default());
        let runner = Runner {
            words: words(&command),
            timeout: exec.exec_timeout,
            shared: Arc::clone(&shared),
            mask: signals::of_a_child(),
        };
        Some(Self { shared, runner: thread::spawn(move || runner.run()) })
    }

    /// What tells states.
    pub(crate) fn teller(&self) -> Teller {
        Teller(Arc::clone(&self.shared))
    }

    /// Ends it with the command: lets it run for the last state, or ends it now if a signal ends
    /// the command.
    pub(crate) fn end(self, result: &Result<(), Failure>) {
        let is_signal = matches!(result, Err(Failure::Signal(_)));
        self.shared.lock().end = Some(if is_signal { End::Kill } else { End::Finish });
        self.shared.changed.notify_all();
        let _ = self.runner.join();
    }
}

/// Tells states to a hook.
#[derive(Clone)]
pub(crate) struct Teller(Arc<Shared>);

impl Teller {
    /// The state of `subject` is a new one.
    pub(crate) fn tell(
        &self,
        subject: impl Into<String>,
        document: impl FnOnce() -> Json + Send + 'static,
    ) {
        let job = Job { subject: subject.into(), document: Box::new(document) };
        let mut state = self.0.lock();
        if let Some(older) = state.jobs.iter_mut().find(|older| older.subject == job.subject) {
            *older = job;
            state.dropped += 1;
        } else {
            if state.jobs.len() >= MOST {
                state.jobs.pop_front();
                state.dropped += 1;
            }
            state.jobs.push_back(job);
        }
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the condition holds. `false`: until the deadline.
    fn wait(&self, deadline: Option<Instant>, mut holds: impl FnMut(&State) -> bool) -> bool {
        let mut state = self.lock();
        while !holds(&state) {
            state = match deadline {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }
}

/// What runs the hook.
struct Runner {
    words: Vec<CString>,
    timeout: Duration,
    shared: Arc<Shared>,
    mask: SigSet,
}

impl Runner {
    fn run(self) {
        loop {
            self.shared.wait(None, |state| !state.jobs.is_empty() || state.end.is_some());
            let mut state = self.shared.lock();
            let job = match state.end {
                Some(End::Kill) => None,
                _ => state.jobs.pop_front(),
            };
            let Some(job) = job else { return };
            state.has_ended = false;
            drop(state);
            let document = (job.document)();
            // Those that the making of the document has outrun are dropped for this one too.
            let dropped = mem::take(&mut self.shared.lock().dropped);
            if dropped > 0 {
                complain(&format!("hook: {dropped} states were dropped while it ran"));
            }
            match self.start(&document, dropped) {
                Ok(pid) => self.attend(pid),
                Err(error) => {
                    let name = self.words.first().map(|word| word.to_string_lossy());
                    complain(&format!("hook: cannot start {}: {error}", name.unwrap_or_default()));
                }
            }
        }
    }

    /// Starts the hook in a process group of its own, with three descriptors and no blocked signal.
    fn start(&self, document: &Json, dropped: u64) -> io::Result<Pid> {
        // A file ends, however much of it is read and whenever.
        let mut input = File::from(memfd_create(c"hook", MFdFlags::MFD_CLOEXEC)?);
        writeln!(input, "{document}")?;
        input.rewind()?;
        let mut actions = PosixSpawnFileActions::init()?;
        actions.add_dup2(input.as_raw_fd(), 0)?;
        // Standard output is for the lines of this program.
        actions.add_dup2(io::stderr().as_raw_fd(), 1)?;
        let mut attributes = PosixSpawnAttr::init()?;
        attributes.set_flags(
            PosixSpawnFlags::POSIX_SPAWN_SETPGROUP
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK
                | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
        )?;
        attributes.set_pgroup(Pid::from_raw(0))?;
        attributes.set_sigmask(&self.mask)?;
        // Rust's runtime ignores it.
        attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
        let program = self.words.first().ok_or(Errno::ENOENT)?;
        let environment = environment(document, dropped);
        Ok(posix_spawnp(program, &actions, &attributes, &self.words, &environment)?)
    }

    /// Waits for the hook's end, and brings it about when it is due. Reaps it.
    fn attend(&self, pid: Pid) {
        let shared = Arc::clone(&self.shared);
        let waiter = thread::spawn(move || {
            // It is not reaped here, so that until then its number is nobody else's.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            while waitid(Id::Pid(pid), flags) == Err(Errno::EINTR) {}
            shared.lock().has_ended = true;
            shared.changed.notify_all();
        });
        let in_time = self.shared.wait(Instant::now().checked_add(self.timeout), |state| {
            state.has_ended || state.end == Some(End::Kill)
        });
        let by_itself = self.shared.lock().has_ended;
        if !by_itself {
            let _ = killpg(pid, Signal::SIGTERM);
            self.shared.wait(Instant::now().checked_add(GRACE), |state| state.has_ended);
            // Also those that it has started and that still run.
            let _ = killpg(pid, Signal::SIGKILL);
        }
        let _ = waiter.join();
        let status = loop {
            match waitpid(pid, None) {
                Err(Errno::EINTR) => {}
                status => break status,
            }
        };
        let how = match status {
            Ok(WaitStatus::Exited(_, 0)) if by_itself => return,
            Ok(WaitStatus::Exited(_, code)) => format!("exit status {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("ended by {signal}"),
            other => format!("{other:?}"),
        };
        if by_itself {
            complain(&format!("hook: {how}"));
        } else if in_time {
            complain(&format!("hook: was ended with this command: {how}"));
        } else {
            complain(&format!("hook: still ran after {:?}: {how}", self.timeout));
        }
    }
}

/// The program with its arguments.
fn words(command: &OsStr) -> Vec<CString> {
    let bytes = command.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_./+:@%,-".contains(byte);
    let words: &[&[u8]] =
        if bytes.iter().all(is_plain) { &[bytes] } else { &[b"/bin/sh", b"-c", bytes] };
    words.iter().map(|word| c_string(word)).collect()
}

/// This program's environment, and the document's values.
fn environment(document: &Json, dropped: u64) -> Vec<CString> {
    let mut own: Vec<(String, String)> =
        document.as_object().into_iter().flatten().filter_map(variable).collect();
    own.push((format!("{PREFIX}DROPPED"), dropped.to_string()));
    let inherited =
        env::vars_os().filter(|(name, _)| !own.iter().any(|(own, _)| OsStr::new(own) == name));
    let inherited = inherited.map(|(name, value)| [name.as_bytes(), value.as_bytes()].join(&b'='));
    let own = own.iter().map(|(name, value)| format!("{name}={value}").into_bytes());
    inherited.chain(own).map(|variable| c_string(&variable)).collect()
}

/// A member as a variable: `quorate` is `COROSYNC_IPC_QUORATE`. Objects have none, except ring ids,
/// which are written as corosync writes them.
fn variable((name, value): (&String, &Json)) -> Option<(String, String)> {
    let text = match value {
        Json::Null if name == "quorate" => "unknown".to_owned(),
        Json::Null => String::new(),
        Json::Bool(is_so) => if *is_so { "yes" } else { "no" }.to_owned(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => text.clone(),
        Json::Array(list) => {
            let word = |value: &Json| {
                let node = value.get("node_id").unwrap_or(value);
                node.as_str().map_or_else(|| node.to_string(), str::to_owned)
            };
            list.iter().map(word).collect::<Vec<_>>().join(" ")
        }
        Json::Object(object) => object.get("text")?.as_str()?.to_owned(),
    };
    Some((format!("{PREFIX}{}", name.to_ascii_uppercase()), text))
}

/// The bytes, without those that a C string cannot have.
fn c_string(bytes: &[u8]) -> CString {
    let bytes: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(words: &[CString]) -> Vec<&str> {
        words.iter().map(|word| word.to_str().unwrap()).collect()
    }

    #[test]
    fn a_shell_reads_what_is_more_than_a_word() {
        assert_eq!(texts(&words(OsStr::new("/usr/bin/hook-1.sh"))), ["/usr/bin/hook-1.sh"]);
        for text in ["a b", "a;b", "$A", "~/a", "a>b", "A=1"] {
            assert_eq!(texts(&words(OsStr::new(text))), ["/bin/sh", "-c", text]);
        }
    }

    #[test]
    fn members_of_the_document_are_variables() {
        let document = json!({
            "quorate": true, "node_id": 2, "node_name": null, "cluster_name": "a\0b",
            "ring_id": { "seq": 709, "text": "a.2c5" }, "members": [{ "node_id": 1 }, { "node_id": 2 }],
            "joined": [3, 4], "flags": ["two_node", "quorate"], "errors": {},
        });
        let found = environment(&document, 3);
        let found = texts(&found);
        for variable in [
            "QUORATE=yes",
            "NODE_ID=2",
            "NODE_NAME=",
            "CLUSTER_NAME=ab",
            "RING_ID=a.2c5",
            "MEMBERS=1 2",
            "JOINED=3 4",
            "FLAGS=two_node quorate",
            "DROPPED=3",
        ] {
            let variable = format!("{PREFIX}{variable}");
            assert!(found.contains(&variable.as_str()), "{variable} {found:?}");
        }
        assert!(!found.iter().any(|variable| variable.starts_with("COROSYNC_IPC_ERRORS")));
        let unknown = environment(&json!({ "quorate": null }), 0);
        assert!(texts(&unknown).contains(&"COROSYNC_IPC_QUORATE=unknown"));
    }

    #[test]
    fn the_latest_state_of_a_thing_waits_and_the_others_are_counted() {
        let teller = Teller(Arc::default());
        for subject in ["one", "two", "one", "one"] {
            teller.tell(subject, || Json::Null);
        }
        let state = teller.0.lock();
        let subjects: Vec<_> = state.jobs.iter().map(|job| job.subject.as_str()).collect();
        assert_eq!((subjects, state.dropped), (vec!["one", "two"], 2));
        drop(state);
        (0..MOST).for_each(|number| teller.tell(number.to_string(), || Json::Null));
        let state = teller.0.lock();
        assert_eq!((state.jobs.len(), state.dropped), (MOST, 4));
    }
}
