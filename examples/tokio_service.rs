//! A service on tokio that uses cpg, quorum and cmap together, and goes on when the daemon
//! restarts.
//!
//! `tokio_service [GROUP] [N]` sends numbered messages to a group and waits for each to come back,
//! while this node is quorate and the configuration does not say `example.pause = 1`. It ends after
//! N round trips, or by Ctrl-C.

use std::env;
use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::supervise::{AsyncSupervised, CmapTracker, Notice, NoticeOf};
use corosync_ipc::{TrackFlags, quorum};
use tokio::time::sleep;

const PAUSE: &str = "example.pause";
const RETRY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Service {
    quorate: bool,
    paused: bool,
    /// The number of the next message. So many have come back.
    number: u64,
    /// Whether that message was sent and has not come back.
    sent: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let group = GroupName::new(arguments.next().unwrap_or_else(|| "service".to_owned()))?;
    let wanted: u64 = arguments.next().map_or(Ok(u64::MAX), |number| number.parse())?;

    let backoff = |attempts: u32| Duration::from_millis(50 * u64::from(attempts.min(20)));
    let mut cpg = AsyncSupervised::new(cpg::Client::connect).backoff(backoff);
    cpg.set_up(group).await?;
    let mut quorum = AsyncSupervised::new(quorum::Client::connect).backoff(backoff);
    quorum.set_up(TrackFlags::CHANGES).await?;
    let mut cmap = AsyncSupervised::new(cmap::Client::connect).backoff(backoff);
    cmap.set_up(CmapTracker::new(PAUSE, TrackEvents::ALL)).await?;

    let mut service = Service::default();
    while service.number < wanted {
        tokio::select! {
            notice = cpg.next() => service.cpg(notice?),
            notice = quorum.next() => service.quorum(notice?),
            notice = cmap.next() => {
                let notice = notice?;
                tell("cmap", &notice);
                match notice {
                    Notice::Event(cmap::Event::Notification(change)) => {
                        service.paused = change.new_value == Some(Value::U8(1));
                    }
                    // The tracker reports changes only, so read the present value.
                    Notice::Up(_) => service.paused = read_pause(cmap.client()?).await,
                    _ => {}
                }
            }
            // The last attempt to send failed: try again.
            _ = sleep(RETRY), if service.may_send() && cpg.client().is_ok() => {}
            _ = tokio::signal::ctrl_c() => break,
        }
        if let (true, Ok(client)) = (service.may_send(), cpg.client()) {
            let message = service.number.to_be_bytes();
            match client.multicast(Guarantee::AGREED, &message).await {
                Ok(()) => service.sent = true,
                Err(error) => println!("not sent: {error}"),
            }
        }
    }
    println!("{} round trips", service.number);
    Ok(())
}

impl Service {
    fn may_send(&self) -> bool {
        self.quorate && !self.paused && !self.sent
    }

    fn cpg(&mut self, notice: NoticeOf<cpg::Client>) {
        tell("cpg", &notice);
        match notice {
            Notice::Event(cpg::Event::Deliver(cpg::Deliver { payload, .. }))
                if payload == self.number.to_be_bytes()[..] =>
            {
                self.number += 1;
                self.sent = false;
            }
            // The message may have been delivered or not. Sending it again does no harm here, since
            // it carries its number.
            Notice::Lost { .. } => self.sent = false,
            _ => {}
        }
    }

    fn quorum(&mut self, notice: NoticeOf<quorum::Client>) {
        tell("quorum", &notice);
        match notice {
            Notice::Event(quorum::Event::Notification(now)) => self.quorate = now.quorate,
            // Without a daemon this node does not count as quorate.
            Notice::Lost { .. } => self.quorate = false,
            _ => {}
        }
    }
}

async fn read_pause(client: &cmap::AsyncClient) -> bool {
    matches!(client.get(PAUSE).await, Ok(Some(Value::U8(1))))
}

/// Prints losses and gaps.
fn tell<E, T: Debug>(service: &str, notice: &Notice<E, T>) {
    match notice {
        Notice::Lost { error } => println!("{service} lost: {error}"),
        Notice::Up(up) => match up.gap {
            None => println!("{service} up"),
            Some(gap) => {
                let missed: Vec<_> = up
                    .restored
                    .iter()
                    .map(|one| (&one.setup, one.missed, one.result.is_ok()))
                    .collect();
                println!("{service} up after a gap of {gap:?}: {missed:?}");
            }
        },
        _ => {}
    }
}
