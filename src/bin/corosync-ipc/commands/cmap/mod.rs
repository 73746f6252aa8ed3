//! `corosync-ipc cmap`: the map of configuration and state.

mod load;
pub(crate) mod value;

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use corosync_ipc::CsError;
use corosync_ipc::cmap::{
    Client, Event, MAX_KEY, Map, Notification, Options, TrackEvents, Tracker, Value,
};
use serde_json::{Value as Json, json};

use self::value::Type;
use crate::context::Context;
use crate::failure::{Explain, Failure};
use crate::output::{print, print_document, printable};
use crate::watch::{Line, Watch};

/// Reads, changes and watches the map of configuration and state
///
/// Keys are names with dots, values have types. Does what corosync-cmapctl does.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cmap {
    /// Which map: configuration and state, or statistics (corosync 2.99 and later).
    #[arg(long, global = true, value_name = "MAP", default_value = "icmap")]
    map: MapName,

    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MapName {
    /// Configuration and state.
    Icmap,
    /// Statistics. Nothing can be set but the keys stats.clear.*, which clear them.
    Stats,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints keys with their values
    ///
    /// All of them, or those that begin with PREFIX, in the order the daemon gives. Prints `key
    /// (type) = value` as corosync-cmapctl does, bytes in base64; with --json an array of
    /// {"key", "type", "value"}. No such key: prints nothing, or an empty array.
    #[command(after_long_help = "Examples:
  corosync-ipc cmap list
  corosync-ipc cmap list nodelist.
  corosync-ipc cmap list --map stats stats.ipcs
  corosync-ipc --json cmap list totem. | jq '.[] | select(.type == \"u32\")'")]
    List {
        /// How the keys begin, not necessarily at a dot.
        #[arg(default_value = "")]
        prefix: String,
    },

    /// Prints one value
    ///
    /// Makes one request (two for a value above 1 KiB). Prints the bare value, bytes in base64;
    /// with --json {"key", "type", "value"}. A string is printed as it is, whatever its bytes,
    /// but for those that would steer a terminal, on one. Ends with 1 when there is no such key.
    #[command(after_long_help = "Examples:
  corosync-ipc cmap get totem.cluster_name
  corosync-ipc --json cmap get runtime.config.totem.token")]
    Get {
        /// The key.
        key: String,
    },

    /// Sets a key to a value
    ///
    /// The key need not exist, and may have had another type. A value that does not fit its type is
    /// refused before anything is sent, with the range named. Prints nothing. Ends with 1 when
    /// the key is read-only.
    #[command(
        after_long_help = "VALUE of type bin is base64, or @FILE or - to have it read from a file or standard input.
A string that begins with a dash comes behind `--`.

Examples:
  corosync-ipc cmap set my.counter u32 17
  corosync-ipc cmap set my.text str 'two words'
  corosync-ipc cmap set my.bytes bin @/etc/hostname
  corosync-ipc cmap set my.option str -- --dash"
    )]
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

    /// Deletes a key
    ///
    /// Prints nothing. Ends with 1 when there is no such key or it is read-only.
    #[command(after_long_help = "Example:
  corosync-ipc cmap delete my.counter")]
    Delete {
        /// The key.
        key: String,
    },

    /// Adds 1 to an integer
    ///
    /// The daemon does it in one step, so that two who do it at once both count. The value wraps
    /// around at the end of its range. Prints nothing. Ends with 1 when there is no such key,
    /// it is no integer, or it is read-only.
    #[command(after_long_help = "Example:
  corosync-ipc cmap increment my.counter")]
    Increment {
        /// The key.
        key: String,
    },

    /// Subtracts 1 from an integer
    ///
    /// As increment. 0 becomes the largest value of an unsigned type.
    #[command(after_long_help = "Example:
  corosync-ipc cmap decrement my.counter")]
    Decrement {
        /// The key.
        key: String,
    },

    /// Sets and deletes the keys that a file names
    ///
    /// All lines are checked before the first is sent. The first that the daemon refuses ends it,
    /// and the error says how many were done; what was done stays. A key to delete that is not
    /// there is only complained about. Prints nothing; shows the progress on a terminal.
    #[command(after_long_help = "The file has lines as corosync-cmapctl -p takes them:

  # a comment
  KEY TYPE VALUE    sets a key; VALUE goes to the end of the line
  ^KEY              deletes a key
  ^^PREFIX          deletes all keys that begin so

or what `corosync-ipc --json cmap list` prints, or one such object a line.
Bytes are base64 or @FILE, where corosync-cmapctl takes a bare file name.

Examples:
  corosync-ipc cmap load settings.txt
  corosync-ipc --json cmap list my. | corosync-ipc cmap load -")]
    Load {
        /// The file; - is standard input.
        file: PathBuf,
    },

    /// Prints changes of keys as they happen
    ///
    /// Each change is one line: time, `set` (there was no such key), `modify` or `delete`, the key
    /// and its value; with --json an object with "event", "time", "key", "type", "value",
    /// "old_type" and "old_value". Goes on until it is interrupted; ends with 3 when the daemon
    /// ends.
    #[command(after_long_help = "KEY-OR-PREFIX is
  totem.token      this key, and all below it (totem.token.*)
  runtime.members. all below it
  totem.token*     all keys that begin so (totem.token_retransmit too)
  *                all keys

The old value is missing where the daemon counts in place (most of runtime.*) and in the map stats. There a
changed value is told of a key that is named, and looked for every few seconds; of all others only that they come and go.

Examples:
  corosync-ipc cmap watch runtime.members
  corosync-ipc --json cmap watch 'nodelist.*' quorum.expected_votes
  corosync-ipc cmap watch my.flag --count 1
  corosync-ipc cmap watch --map stats stats.srp.mcast_tx")]
    Watch {
        /// What to watch.
        #[arg(required = true, value_name = "KEY-OR-PREFIX")]
        patterns: Vec<String>,
        /// End after this many changes.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

impl Cmap {
    /// Whether it does more than give one answer, or first waits for what it is given.
    pub(crate) fn goes_on(&self) -> bool {
        match &self.command {
            Command::Load { .. } | Command::Watch { .. } => true,
            Command::Set { value, .. } => value == "-",
            _ => false,
        }
    }

    pub(crate) fn run(self, context: &Context) -> Result<(), Failure> {
        // Before connecting: what is wrong by itself needs no daemon.
        let command = match self.command {
            Command::Set { key, value_type, value } => {
                corosync_ipc::cmap::check_key(&key)?;
                let value = value_type.parse(&value).map_err(Failure::usage)?;
                return self.map.connect(context)?.set(&key, value).explain(hint(&key));
            }
            Command::Load { file } => {
                let steps = load::read(&file)?;
                return load::run(&self.map.connect(context)?, &steps);
            }
            command => command,
        };
        let client = self.map.connect(context)?;
        match command {
            Command::List { prefix } => list(&client, context, &prefix),
            Command::Get { key } => get(&client, context, &key),
            Command::Delete { key } => client.delete(&key).explain(hint(&key)),
            Command::Increment { key } => client.increment(&key).explain(hint(&key)),
            Command::Decrement { key } => client.decrement(&key).explain(hint(&key)),
            Command::Watch { patterns, count } => {
                watch_keys(client, self.map, context, &patterns, count)
            }
            Command::Set { .. } | Command::Load { .. } => Ok(()),
        }
    }
}

impl MapName {
    fn connect(self, context: &Context) -> Result<Client, Failure> {
        let map = match self {
            Self::Icmap => Map::Icmap,
            Self::Stats => Map::Stats,
        };
        Ok(Client::connect_with(&context.endpoint, Options::new().map(map))?)
    }
}

/// What an error of the daemon means for this key.
pub(crate) fn hint(key: &str) -> impl FnOnce(CsError) -> Option<String> {
    let key = key.to_owned();
    move |error| {
        Some(match error {
            CsError::Access => format!("{key} is read-only"),
            CsError::NotExist => format!("there is no key {key}"),
            CsError::InvalidParam => format!("the value of {key} is no integer"),
            CsError::NotSupported => {
                "only the keys stats.clear.* can be set in this map".to_owned()
            }
            CsError::NoSpace | CsError::NoMemory => format!("the daemon has no room for {key}"),
            _ => key,
        })
    }
}

fn list(client: &Client, context: &Context, prefix: &str) -> Result<(), Failure> {
    let entries = client.list(prefix)?;
    if context.json {
        return print_document(
            &entries.iter().map(|(key, value)| value::entry_json(key, value)).collect(),
        );
    }
    print(entries.iter().map(|(key, value)| value::line(key, value) + "\n").collect::<String>())
}

fn get(client: &Client, context: &Context, key: &str) -> Result<(), Failure> {
    let value = client.get(key)?;
    let value = value.ok_or_else(|| {
        Failure::refused(format!("cmap get: CS_ERR_NOT_EXIST: there is no key {key}"))
    })?;
    if context.json {
        return print_document(&value::entry_json(key, &value));
    }
    let mut line =
        if stdout().is_terminal() { value::text(&value).into_bytes() } else { value::bare(&value) };
    line.push(b'\n');
    print(line)
}

/// Which keys are watched: a key and all below it, or all that begin with some text.
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

    /// What the daemon is asked for: at least all keys that match.
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
            // A key itself is more than what is below it.
            Self::Prefix(text) => {
                self.matches(text) && !matches!(self, Self::Subtree(own) if own == text)
            }
        }
    }
}

/// Leaves out what another covers, so that no change is told twice: two patterns have all keys of
/// one in common, or none.
fn parse_patterns(texts: &[String]) -> Result<Vec<Pattern>, Failure> {
    let mut patterns: Vec<Pattern> = Vec::new();
    for text in texts {
        if text.is_empty() {
            return Err(Failure::usage("an empty KEY-OR-PREFIX: write '*' to watch all keys"));
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
    client: Client,
    map: MapName,
    context: &Context,
    texts: &[String],
    count: Option<u64>,
) -> Result<(), Failure> {
    let mut trackers: Vec<(Tracker, Pattern)> = Vec::new();
    for pattern in parse_patterns(texts)? {
        let mut track = |key: &str, events| -> Result<(), Failure> {
            trackers.push((client.track_add(key, events)?, pattern.clone()));
            Ok(())
        };
        match (map, &pattern) {
            // Trackers of a prefix are told there what comes and goes, and only those of a key what
            // changes.
            (MapName::Stats, Pattern::Subtree(key)) => {
                track(key, TrackEvents::ALL)?;
                if key.len() < MAX_KEY {
                    track(&format!("{key}."), TrackEvents::ALL | TrackEvents::PREFIX)?;
                }
            }
            _ => track(pattern.prefix(), TrackEvents::ALL | TrackEvents::PREFIX)?,
        }
        tracing::debug!("watching {pattern:?}");
    }
    let mut watch = Watch::new(context, count)?;
    watch.add(client, move |event| {
        let Event::Notify(notification) = event else { return Ok(None) };
        let tracked = trackers.iter().find(|(tracker, _)| *tracker == notification.tracker);
        let is_wanted = tracked.is_some_and(|(_, pattern)| pattern.matches(&notification.key));
        Ok(is_wanted.then(|| event_line(map, notification)))
    })?;
    watch.run()
}

fn event_line(map: MapName, notification: Notification) -> Line {
    let Notification { event, key, new_value, old_value, .. } = notification;
    // Of a change in the stats map corosync sends the new value twice.
    let is_new = matches!((map, event), (MapName::Stats, TrackEvents::MODIFY));
    let old_value = old_value.filter(|_| !is_new);
    let event = match event {
        TrackEvents::ADD => "set",
        TrackEvents::MODIFY => "modify",
        TrackEvents::DELETE => "delete",
        _ => "unknown",
    };
    let json = |value: &Option<Value>| value.as_ref().map_or(Json::Null, value::to_json);
    let type_json = |value: &Option<Value>| {
        value.as_ref().map_or(Json::Null, |value| value::type_json(value.value_type()))
    };
    let mut members = json!({
        "key": key,
        "type": type_json(&new_value),
        "value": json(&new_value),
        "old_type": type_json(&old_value),
        "old_value": json(&old_value),
    });
    for (name, value) in [("raw", &new_value), ("old_raw", &old_value)] {
        if let Some(raw) = value.as_ref().and_then(value::raw) {
            members[name] = raw;
        }
    }
    let text = match (&new_value, &old_value) {
        (Some(new), Some(old)) => format!("{} (was {})", value::line(&key, new), value::text(old)),
        (Some(value), None) | (None, Some(value)) => value::line(&key, value),
        (None, None) => printable(&key),
    };
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
