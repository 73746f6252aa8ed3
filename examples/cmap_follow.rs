//! Keeps a copy of a part of the configuration, and prints what changes.
//!
//! `cmap_follow [PREFIX] [N]` follows the keys that begin with PREFIX, by default all, and ends
//! after N changes.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;

use corosync_ipc::Deadline;
use corosync_ipc::cmap::{self, Event, TrackEvents};
use corosync_ipc::supervise::{CmapTracker, Notice, Supervised};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let prefix = arguments.next().unwrap_or_default();
    let mut left = arguments.next().map_or(Ok(u64::MAX), |number| number.parse())?;

    let mut client = Supervised::new(cmap::Client::connect);
    client.set_up(CmapTracker::new(&*prefix, TrackEvents::ALL | TrackEvents::PREFIX))?;
    let mut copy = BTreeMap::new();
    while left > 0 {
        let Some(notice) = client.next(Deadline::NEVER)? else { break };
        match notice {
            Notice::Event(Event::Notification(change)) => {
                // A change that came while the copy was made may be in the copy already.
                match change.new_value {
                    Some(value) if copy.get(&change.key) == Some(&value) => continue,
                    Some(value) => {
                        println!("{} = {value}", change.key);
                        copy.insert(change.key, value);
                    }
                    None if copy.remove(&change.key).is_none() => continue,
                    None => println!("{} is gone", change.key),
                }
                left = left.saturating_sub(1);
            }
            // The tracker is set up before the copy is made, so no change is missed in between.
            Notice::Up(up) => {
                match client.client()?.list(&prefix) {
                    Ok(keys) => copy = keys.into_iter().collect(),
                    Err(error) => {
                        // Most likely the connection is lost again. The next notice says so.
                        eprintln!("{error}");
                        continue;
                    }
                }
                match up.gap {
                    None => println!("following {} keys", copy.len()),
                    Some(gap) => println!(
                        "following {} keys, read again after {gap:?} without a daemon",
                        copy.len()
                    ),
                }
            }
            Notice::Lost { error } | Notice::Retry { error, .. } => eprintln!("{error}"),
            _ => {}
        }
    }
    Ok(())
}
