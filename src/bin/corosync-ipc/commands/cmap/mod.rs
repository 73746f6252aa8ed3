//! `corosync-ipc cmap`: the map of configuration and state.

pub(crate) mod load;
pub(crate) mod statistics;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use corosync_ipc::cmap::{
    Client, Event, MAX_KEY, Map, Notification, Options, TrackEvents, Value, check_key,
};
use corosync_ipc::snapshot::{Fault, Faults};
use corosync_ipc::supervise::CmapTracker;
use corosync_ipc::{CsError, Deadline, Endpoint, Error, within};
use serde_json::{Value as Json, json};

use self::statistics::{CONNECTIONS, without_connections};
use self::value::Type;
use crate::context::Context;
use crate::failure::{Explain, Failure, judge, parts};
use crate::output::{complain, print, print_document, printable};
use crate::watch::{Clients, Line, Losing, Stay, Watch, Watcher};

/// Reads, changes and watches the map of configuration and state
///
/// A key is a name with dots, a value has a type. Does the same as corosync-cmapctl.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cmap {
    /// Which map: configuration and state, or statistics (corosync 2.99 and later).
    #[arg(long, global = true, value_name = "MAP", default_value = "icmap")]
    map: MapName,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(crate) enum MapName {
    /// Configuration and state.
    Icmap,
    /// Statistics. Only the keys stats.clear.* can be set; they clear statistics.
    Stats,
}

/// What can be cleared, with corosync-cmapctl's names.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Statistics {
    Knet,
    Ipc,
    Totem,
    Schedmiss,
    All,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints keys with their values
    ///
    /// Prints all keys, or for each PREFIX those that begin with it, in the daemon's order. A line
    /// is `key (type) = value`, as in corosync-cmapctl, with bytes in base64. With --json prints
    /// an array of {"key", "type", "value"}. Without a matching key prints nothing or an empty
    /// array.
    ///
    /// corosync may crash when it is asked for the statistics of connections while clients connect
    /// and disconnect. With --map stats those keys (stats.ipcs.service*) are left out, and standard
    /// error says so, unless PREFIX begins with stats.ipcs.
    #[command(after_long_help = "Examples:
  corosync-ipc cmap list
  corosync-ipc cmap list totem. nodelist.
  corosync-ipc cmap list --map stats stats.knet.
  corosync-ipc --json cmap list totem. | jq '.[] | select(.type == \"u32\")'")]
    List {
        /// The beginning of the keys. It need not end at a dot.
        #[arg(default_value = "", value_name = "PREFIX")]
        prefixes: Vec<String>,
    },

    /// Prints values
    ///
    /// Makes one request for a key (two for a value above 1 KiB). Of one key prints the bare value,
    /// with bytes in base64; with --json prints {"key", "type", "value"}. A string is printed
    /// byte for byte; on a terminal, control characters are escaped. Of several keys prints lines
    /// or an array as `cmap list` does, in the order of the keys. Ends with 1 when a key does not
    /// exist, after the others.
    #[command(after_long_help = "Examples:
  corosync-ipc cmap get totem.cluster_name
  corosync-ipc cmap get totem.token totem.consensus
  corosync-ipc --json cmap get runtime.config.totem.token")]
    Get {
        /// The keys.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },

    /// Sets a key to a value
    ///
    /// Creates the key if it does not exist, and changes its type if needed. Refuses a value out of
    /// the type's range before anything is sent. Prints nothing. Ends with 1 when the key is
    /// read-only.
    #[command(after_long_help = "A VALUE of type bin is base64, or @FILE, or - for standard input.
Write `--` before a string that begins with a dash.

Examples:
  corosync-ipc cmap set my.counter u32 17
  corosync-ipc cmap set my.text str 'two words'
  corosync-ipc cmap set my.bytes bin @/etc/hostname
  corosync-ipc cmap set my.option str -- --dash")]
    Set {
        /// The key: 3 to 255 letters, digits and . _ - / :
        key: String,
        /// The value's type.
        #[arg(value_name = "TYPE")]
        value_type: Type,
        /// The value.
        #[arg(allow_negative_numbers = true)]
        value: String,
    },

    /// Deletes keys
    ///
    /// Prints nothing. Ends with 1 when a key does not exist or is read-only, after it has deleted
    /// the others. No key with a prefix is no error.
    #[command(after_long_help = "Examples:
  corosync-ipc cmap delete my.counter
  corosync-ipc cmap delete --prefix my. your.")]
    Delete {
        /// The keys.
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
        /// Delete all keys that begin with one of KEY.
        #[arg(long)]
        prefix: bool,
    },

    /// Sets statistics back to 0 (corosync 2.99 and later)
    ///
    /// Sets the counters of the map stats to 0, whatever --map says: what knet has counted for
    /// links, what connections of clients did, what totem did, or the list of schedules that
    /// corosync missed (3.0.4 and later). Counters of totem go with those of knet. After `ipc` the
    /// daemon counts connections that were open as if they were not, so that
    /// stats.ipcs.global.active is too low, or near 2^64. Prints nothing.
    #[command(after_long_help = "Example:
  corosync-ipc cmap clear knet")]
    Clear {
        /// Which statistics.
        statistics: Statistics,
    },

    /// Adds 1 to an integer
    ///
    /// The daemon does it in one step, so concurrent increments all count. The value wraps around
    /// at the end of its range. Prints nothing. Ends with 1 when the key does not exist, is not
    /// an integer or is read-only.
    #[command(after_long_help = "Example:
  corosync-ipc cmap increment my.counter")]
    Increment {
        /// The key.
        key: String,
    },

    /// Subtracts 1 from an integer
    ///
    /// Like increment. In an unsigned type, 0 becomes the largest value.
    #[command(after_long_help = "Example:
  corosync-ipc cmap decrement my.counter")]
    Decrement {
        /// The key.
        key: String,
    },

    /// Sets and deletes the keys that a file names
    ///
    /// Checks all lines before it sends the first. Stops at the first change that the daemon
    /// refuses, and says how many are done; those stay. A key to delete that does not exist is only
    /// a warning. Prints nothing; shows progress on a terminal.
    #[command(after_long_help = "The file has lines in the format of corosync-cmapctl -p:

  # a comment
  KEY TYPE VALUE    sets a key; VALUE is the rest of the line
  ^KEY              deletes a key
  ^^PREFIX          deletes all keys that begin with PREFIX; one that stays does
                    not keep the others

or is the output of `corosync-ipc --json cmap list`, or has one such object a
line.
Bytes are base64 or @FILE; corosync-cmapctl takes a bare file name.

Examples:
  corosync-ipc cmap load settings.txt
  corosync-ipc --json cmap list my. | corosync-ipc cmap load -")]
    Load {
        /// The file; - is standard input.
        file: PathBuf,
    },

    /// Prints changes of keys as they happen
    ///
    /// Each change is one line: the time, `set` (the key is new), `modify` or `delete`, the key and
    /// its value; with --json an object with "event", "time", "key", "type", "value", "old_type",
    /// "old_value" and "missed". Runs until it is interrupted; ends with 3 when the daemon ends,
    /// unless --reconnect is given: then it compares the values after a gap with those before, and
    /// prints what differs as missed.
    #[command(after_long_help = "KEY-OR-PREFIX is
  totem.token      this key and all keys below it (totem.token.*)
  runtime.members. all keys below it
  totem.token*     all keys that begin with it (also totem.token_retransmit)
  *                all keys

The old value is missing for counters of the daemon (most of runtime.*) and in
the map stats. In the map stats the daemon checks every few seconds whether a
named key has changed; of other keys it reports only set and delete. After a gap
connections (stats.ipcs.service*) are not compared: corosync may crash when it
is asked for them while clients connect and disconnect.

Examples:
  corosync-ipc cmap watch runtime.members
  corosync-ipc --json cmap watch 'nodelist.*' quorum.expected_votes
  corosync-ipc cmap watch my.flag --count 1
  corosync-ipc cmap watch --map stats stats.srp.mcast_tx")]
    Watch {
        /// The keys to watch.
        #[arg(required = true, value_name = "KEY-OR-PREFIX")]
        patterns: Vec<String>,
        /// End after this many changes.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
        #[command(flatten)]
        stay: Stay,
    },
}

impl Cmap {
    /// Whether the command runs on, or reads standard input first.
    pub(crate) fn goes_on(&self) -> bool {
        match &self.command {
            Command::Load { .. } | Command::Watch { .. } => true,
            Command::Set { value, .. } => value == "-",
            _ => false,
        }
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        let connect = || self.map.connect(context);
        // Checked before connecting: wrong usage is wrong without a daemon too.
        match self.command {
            Command::List { prefixes } => list(&connect()?, self.map, context, &prefixes),
            Command::Get { keys } => {
                keys.iter().try_for_each(|key| check_key(key))?;
                get(&connect()?, context, &keys)
            }
            Command::Set { key, value_type, value } => {
                check_key(&key)?;
                let value = value_type.parse(&value).map_err(Failure::usage)?;
                connect()?.set(&key, value).explain(hint(&key))
            }
            Command::Delete { keys, prefix } => {
                let check = if prefix { load::check_prefix } else { check_key };
                keys.iter().try_for_each(|key| check(key))?;
                match prefix {
                    true => delete_prefixes(&connect()?, self.map, &keys),
                    false => delete(&connect()?, &keys),
                }
            }
            Command::Clear { statistics } => clear(&MapName::Stats.connect(context)?, statistics),
            Command::Increment { key } => connect()?.increment(&key).explain(hint(&key)),
            Command::Decrement { key } => connect()?.decrement(&key).explain(hint(&key)),
            Command::Load { file } => {
                let steps = load::read(&file)?;
                load::run(&connect()?, self.map, &steps)
            }
            Command::Watch { patterns, stay, count } => {
                watch_keys(self.map, context, &patterns, &stay, count)
            }
        }
    }
}

impl MapName {
    fn connect(self, context: &Context) -> Result<Client, Failure> {
        Ok(self.connect_to(&context.endpoint)?)
    }

    pub(crate) fn connect_to(self, endpoint: &Endpoint) -> Result<Client, Error> {
        let map = match self {
            Self::Icmap => Map::Icmap,
            Self::Stats => Map::Stats,
        };
        Client::connect_with(endpoint, Options::new().map(map))
    }
}

/// Explains the daemon's error for this key.
pub(crate) fn hint(key: &str) -> impl FnOnce(CsError) -> Option<String> {
    let key = key.to_owned();
    move |error| {
        Some(match error {
            CsError::Access => format!("{key} is read-only"),
            CsError::NotExist => format!("no such key: {key}"),
            CsError::InvalidParam => format!("the value of {key} is not an integer"),
            CsError::NotSupported => "only keys stats.clear.* can be set in this map".to_owned(),
            CsError::NoSpace | CsError::NoMemory => format!("the daemon has no memory for {key}"),
            _ => key,
        })
    }
}

fn list(
    client: &Client,
    map: MapName,
    context: &Context,
    prefixes: &[String],
) -> Result<(), Failure> {
    let (mut entries, mut leaves_out) = (Vec::new(), false);
    for prefix in prefixes {
        let (prefixes, without_connections) = statistics::named(map, prefix);
        leaves_out |= without_connections;
        for prefix in prefixes {
            entries.append(&mut client.list(&prefix)?);
        }
    }
    let entries = entries.iter();
    if context.json {
        print_document(&entries.map(|(key, value)| value::entry_json(key, value)).collect())?;
    } else {
        print(entries.map(|(key, value)| value::line(key, value) + "\n").collect::<String>())?;
    }
    if leaves_out {
        complain(
            "without the keys of connections: corosync may crash when it is asked for them while \
             clients connect and disconnect; the prefix stats.ipcs. lists them all the same",
        );
    }
    Ok(())
}

fn get(client: &Client, context: &Context, keys: &[String]) -> Result<(), Failure> {
    let [key] = keys else { return get_all(client, context, keys) };
    let value = client.get(key)?.ok_or_else(absent).explain(hint(key))?;
    if context.json {
        return print_document(&value::entry_json(key, &value));
    }
    let mut line =
        if stdout().is_terminal() { value::text(&value).into_bytes() } else { value::bare(&value) };
    line.push(b'\n');
    print(line)
}

/// Prints the keys that are read, and fails when one is not.
fn get_all(client: &Client, context: &Context, keys: &[String]) -> Result<(), Failure> {
    let mut faults = Faults::default();
    let (mut lines, mut entries) = (String::new(), Vec::new());
    let mut answered = false;
    for key in keys {
        let value = client.get(key);
        answered |= value.is_ok();
        match value.and_then(|value| value.ok_or_else(absent)) {
            Ok(value) => {
                lines += &(value::line(key, &value) + "\n");
                entries.push(value::entry_json(key, &value));
            }
            // After the end of the daemon or of the time, the others fail at once.
            Err(error) => {
                let fault = Fault::from(error);
                entries.push(json!({
                    "key": key,
                    "type": null,
                    "value": null,
                    "error": fault.error,
                    "cs_error": fault.cs_error,
                }));
                faults.insert(key.clone(), fault);
            }
        }
    }
    if answered && context.json {
        print_document(&Json::Array(entries))?;
    } else {
        print(lines)?;
    }
    judge(parts(&faults), answered)
}

/// The daemon's error for a key that does not exist.
fn absent() -> Error {
    Error::Cs { call: "cmap get".into(), error: CsError::NotExist }
}

fn delete(client: &Client, keys: &[String]) -> Result<(), Failure> {
    if let [key] = keys {
        return client.delete(key).explain(hint(key));
    }
    delete_all(client, keys, |_| false)
}

/// Deletes all keys that begin with one of the prefixes.
pub(crate) fn delete_prefixes(
    client: &Client,
    map: MapName,
    prefixes: &[String],
) -> Result<(), Failure> {
    // All names first: deleting moves what an iterator finds.
    let mut keys = Vec::new();
    for prefix in prefixes.iter().flat_map(|prefix| without_connections(map, prefix)) {
        for entry in client.iter(&prefix)? {
            keys.push(entry?.key);
        }
    }
    // Somebody else may delete a key first.
    delete_all(client, &keys, is_absent)
}

/// Goes on after a key that cannot be deleted, and fails at the end, unless the error is excused.
fn delete_all(
    client: &Client,
    keys: &[String],
    is_excused: fn(&Error) -> bool,
) -> Result<(), Failure> {
    let mut faults = Faults::default();
    for key in keys {
        match client.delete(key) {
            Err(error) if !is_excused(&error) => _ = faults.insert(key.clone(), error.into()),
            _ => {}
        }
    }
    judge(parts(&faults), true)
}

/// Whether there is no such key.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error, Error::Cs { error: CsError::NotExist, .. })
}

fn clear(client: &Client, statistics: Statistics) -> Result<(), Failure> {
    let name = statistics.to_possible_value().unwrap_or_default();
    let key = format!("stats.clear.{}", name.get_name());
    client.set(&key, Value::U32(1)).explain(|error| {
        (error == CsError::NotSupported).then(|| {
            format!("this corosync does not clear {}: schedmiss needs 3.0.4", name.get_name())
        })
    })
}

/// The keys to watch: a key and all below it, or all that begin with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Subtree(String),
    Prefix(String),
}

impl Pattern {
    fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None if text.ends_with('.') => Self::Prefix(text.to_owned()),
            None => Self::Subtree(text.to_owned()),
        }
    }

    /// The prefix that the daemon tracks. Covers at least all keys that match.
    fn prefix(&self) -> &str {
        match self {
            Self::Subtree(text) | Self::Prefix(text) => text,
        }
    }

    fn matches(&self, key: &str) -> bool {
        match (self, key.strip_prefix(self.prefix())) {
            (_, None) => false,
            (Self::Prefix(_), Some(_)) => true,
            (Self::Subtree(_), Some(rest)) => rest.is_empty() || rest.starts_with('.'),
        }
    }

    /// Whether every key that matches `other` matches this one.
    fn covers(&self, other: &Self) -> bool {
        match other {
            Self::Subtree(text) => self.matches(text),
            // A prefix covers the keys below it, but not the key itself.
            Self::Prefix(text) => {
                self.matches(text) && !matches!(self, Self::Subtree(own) if own == text)
            }
        }
    }
}

/// Drops a pattern that another covers, so that each change is printed once. Of two patterns, one
/// covers the other or they have no key in common.
fn parse_patterns(texts: &[String]) -> Result<Vec<Pattern>, Failure> {
    let mut patterns: Vec<Pattern> = Vec::new();
    for text in texts {
        if text.is_empty() {
            return Err(Failure::usage("KEY-OR-PREFIX is empty: use '*' to watch all keys"));
        }
        let pattern = Pattern::parse(text);
        if !patterns.iter().any(|other| other.covers(&pattern)) {
            patterns.retain(|other| !pattern.covers(other));
            patterns.push(pattern);
        }
    }
    Ok(patterns)
}

fn watch_keys(
    map: MapName,
    context: &Context,
    texts: &[String],
    stay: &Stay,
    count: Option<u64>,
) -> Result<(), Failure> {
    let patterns = parse_patterns(texts)?;
    let mut trackers: Vec<(CmapTracker, Pattern)> = Vec::new();
    for pattern in &patterns {
        let mut track = |key: &str, events| {
            trackers.push((CmapTracker::new(key, events), pattern.clone()));
        };
        match (map, pattern) {
            // In the stats map, a tracker of a prefix reports keys that come and go; only a tracker
            // of a key reports changes of its value.
            (MapName::Stats, Pattern::Subtree(key)) => {
                track(key, TrackEvents::ALL);
                if key.len() < MAX_KEY {
                    track(&format!("{key}."), TrackEvents::ALL | TrackEvents::PREFIX);
                }
            }
            _ => track(pattern.prefix(), TrackEvents::ALL | TrackEvents::PREFIX),
        }
    }
    let setups: Vec<_> = trackers.iter().map(|(tracker, _)| tracker.clone()).collect();
    let stays = stay.reconnects();
    let timeout = context.endpoint.request_timeout_value();
    let mut watch = Watch::new(context, stay, count)?;
    let connect = move |endpoint: &Endpoint| map.connect_to(endpoint);
    watch.add(connect, setups, Keys { map, patterns, trackers, known: None, stays, timeout })?;
    watch.run()
}

/// Prints changes of the keys that match.
struct Keys {
    map: MapName,
    patterns: Vec<Pattern>,
    trackers: Vec<(CmapTracker, Pattern)>,
    /// The values, by which changes in a gap are found. Not read where a gap ends the command.
    known: Option<BTreeMap<String, Value>>,
    stays: bool,
    timeout: Duration,
}

impl Losing for Keys {}

impl Watcher for Keys {
    type Client = Client;

    fn event(&mut self, _: &Client, event: Event) -> Result<Vec<Line>, Failure> {
        let Event::Notification(notification) = event else { return Ok(Vec::new()) };
        let mut trackers = self.trackers.iter();
        let tracked = trackers.find(|(tracker, _)| tracker.tracker() == notification.tracker);
        if !tracked.is_some_and(|(_, pattern)| pattern.matches(&notification.key)) {
            return Ok(Vec::new());
        }
        // Where values are read, connections are left out.
        let is_compared = self.map == MapName::Icmap || !notification.key.starts_with(CONNECTIONS);
        if let Some(known) = self.known.as_mut().filter(|_| is_compared) {
            match &notification.new_value {
                Some(value) => _ = known.insert(notification.key.clone(), value.clone()),
                None => _ = known.remove(&notification.key),
            }
        }
        let Notification { event, key, new_value, old_value, .. } = notification;
        // In the stats map, corosync sends the present value as the new and as the old one.
        let old_value = old_value.filter(|_| match self.map {
            MapName::Icmap => true,
            MapName::Stats => event == TrackEvents::DELETE,
        });
        let new_value = new_value.filter(|_| event != TrackEvents::DELETE);
        Ok(vec![change_line(&key, event, new_value.as_ref(), old_value.as_ref(), false)])
    }

    /// Compares the map with what was known before the gap: the daemon does not tell what changed.
    fn up(
        &mut self,
        client: &Arc<Client>,
        _: bool,
        _: &mut Clients<'_, '_>,
    ) -> Result<Vec<Line>, Failure> {
        for (_, pattern) in &self.trackers {
            tracing::debug!("watching {pattern:?}");
        }
        if !self.stays {
            return Ok(Vec::new());
        }
        let deadline = Instant::now().checked_add(self.timeout);
        let present = match within(deadline.map_or(Deadline::NEVER, Deadline::from), || {
            matching(client, self.map, &self.patterns)
        }) {
            // The end of this connection is told next. What is known is older then.
            Err(Error::Disconnected { .. }) => return Ok(Vec::new()),
            present => present?,
        };
        let lines = self.known.take().map(|before| differences(before, &present));
        self.known = Some(present);
        Ok(lines.unwrap_or_default())
    }

    fn name(&self, tracker: &CmapTracker) -> String {
        let more = if tracker.events().contains(TrackEvents::PREFIX) { "*" } else { "" };
        format!("{}{more}", tracker.key())
    }
}

/// The keys that match, with their values.
fn matching(
    client: &Client,
    map: MapName,
    patterns: &[Pattern],
) -> Result<BTreeMap<String, Value>, Error> {
    let mut found = BTreeMap::new();
    for pattern in patterns {
        for prefix in without_connections(map, pattern.prefix()) {
            let entries = client.list(&prefix)?;
            found.extend(entries.into_iter().filter(|(key, _)| pattern.matches(key)));
        }
    }
    Ok(found)
}

/// The changes between two readings of the map, in the order of the keys.
fn differences(
    mut before: BTreeMap<String, Value>,
    present: &BTreeMap<String, Value>,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for (key, value) in present {
        let old_value = before.remove(key);
        let event = if old_value.is_some() { TrackEvents::MODIFY } else { TrackEvents::ADD };
        if old_value.as_ref() != Some(value) {
            lines.push(change_line(key, event, Some(value), old_value.as_ref(), true));
        }
    }
    let gone = before.iter();
    lines.extend(
        gone.map(|(key, old)| change_line(key, TrackEvents::DELETE, None, Some(old), true)),
    );
    lines
}

/// The line of a change that was notified of, or `missed` in a gap and found afterwards.
fn change_line(
    key: &str,
    event: TrackEvents,
    new_value: Option<&Value>,
    old_value: Option<&Value>,
    missed: bool,
) -> Line {
    let event = match event {
        TrackEvents::ADD => "set",
        TrackEvents::MODIFY => "modify",
        TrackEvents::DELETE => "delete",
        _ => "unknown",
    };
    let json = |value: Option<&Value>| value.map_or(Json::Null, value::to_json);
    let type_json = |value: Option<&Value>| {
        value.map_or(Json::Null, |value| value::type_json(value.value_type()))
    };
    let mut members = json!({
        "key": key,
        "type": type_json(new_value),
        "value": json(new_value),
        "old_type": type_json(old_value),
        "old_value": json(old_value),
        "missed": missed,
    });
    for (name, value) in [("raw", new_value), ("old_raw", old_value)] {
        if let Some(raw) = value.and_then(value::raw) {
            members[name] = raw;
        }
    }
    let mut text = match (new_value, old_value) {
        (Some(new), Some(old)) => format!("{} (was {})", value::line(key, new), value::text(old)),
        (Some(value), None) | (None, Some(value)) => value::line(key, value),
        (None, None) => printable(key),
    };
    if missed {
        text.push_str(" (missed)");
    }
    Line { event, text, members }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_key_and_what_is_below_it() {
        let word = Pattern::parse("totem.token");
        assert!(word.matches("totem.token") && word.matches("totem.token.x"));
        assert!(!word.matches("totem.token_retransmit") && !word.matches("totem"));
        let below = Pattern::parse("totem.");
        assert!(below.matches("totem.token") && !below.matches("totem"));
        let prefix = Pattern::parse("totem.token*");
        assert!(prefix.matches("totem.token") && prefix.matches("totem.token_retransmit"));
        assert!(Pattern::parse("*").matches("anything"));
    }

    #[test]
    fn what_another_pattern_covers_is_left_out() {
        let kept = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
            parse_patterns(&texts).unwrap()
        };
        assert_eq!(kept(&["totem", "totem.token", "totem.", "totem"]), [Pattern::parse("totem")]);
        assert_eq!(kept(&["totem.token", "tot*"]), [Pattern::parse("tot*")]);
        assert_eq!(kept(&["totem.", "totem"]), [Pattern::parse("totem")]);
        assert_eq!(kept(&["totem", "totem*"]), [Pattern::parse("totem*")]);
        assert_eq!(kept(&["ab", "abc"]).len(), 2);
    }
}
