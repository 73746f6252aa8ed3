//! Runs a command whenever this node gains or loses quorum, and goes on when the daemon restarts.
//!
//! `quorum_hook [--changes N] COMMAND [ARGUMENT]...` runs the command with `QUORATE` set to `yes`,
//! `no` or, while there is no daemon, `unknown`, and `MEMBERS` to the ids of the members. With
//! `--changes` it ends after N changes.

use std::env;
use std::error::Error;
use std::process::Command;

use corosync_ipc::quorum::{self, Event};
use corosync_ipc::supervise::{Notice, Supervised};
use corosync_ipc::{Deadline, TrackFlags};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let mut left = u64::MAX;
    if arguments.first().is_some_and(|argument| argument == "--changes") {
        left = arguments.get(1).ok_or("--changes needs a number")?.parse()?;
        arguments.drain(..2);
    }
    let (program, arguments) =
        arguments.split_first().ok_or("usage: quorum_hook [--changes N] COMMAND [ARGUMENT]...")?;

    let mut client = Supervised::new(quorum::Client::connect);
    client.set_up(TrackFlags::CHANGES)?;
    let mut known = String::new();
    while left > 0 {
        let Some(notice) = client.next(Deadline::NEVER)? else { break };
        let (quorate, members) = match notice {
            Notice::Event(Event::Notification(now)) => {
                (if now.quorate { "yes" } else { "no" }, now.members)
            }
            // Without a daemon this node does not know whether it is quorate.
            Notice::Lost { error } => {
                eprintln!("{error}");
                ("unknown", Vec::new())
            }
            Notice::Retry { error, pause, .. } => {
                eprintln!("{error}; trying again in {pause:?}");
                continue;
            }
            _ => continue,
        };
        // A change of membership alone makes an event too.
        if quorate == known {
            continue;
        }
        known = quorate.to_owned();
        let members = members.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let status = Command::new(program)
            .args(arguments)
            .env("QUORATE", quorate)
            .env("MEMBERS", members)
            .status()?;
        if !status.success() {
            eprintln!("{program}: {status}");
        }
        left -= 1;
    }
    Ok(())
}
