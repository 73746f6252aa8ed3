//! A chat: each line of standard input goes to all members of a group, on all nodes.
//!
//! `cpg_chat [GROUP]` ends when standard input ends and its own last message has come back.
//!
//! One thread runs a dispatcher, which takes the events. Another one reads lines and lets the
//! dispatcher's thread send them.

use std::env;
use std::error::Error;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;

use corosync_ipc::Dispatcher;
use corosync_ipc::cpg::{Client, Confchg, Deliver, Event, GroupName, Guarantee};

/// The state of the dispatcher's thread.
#[derive(Default)]
struct Chat {
    /// How many own messages have not come back yet.
    sent: usize,
    /// Standard input has ended.
    ended: bool,
    failed: Option<corosync_ipc::Error>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let group = GroupName::new(env::args().nth(1).unwrap_or_else(|| "chat".to_owned()))?;
    let client = Arc::new(Client::connect()?);
    client.join(&group)?;
    let me = (client.local_node_id()?, client.pid());

    let mut dispatcher = Dispatcher::<Chat>::new()?;
    dispatcher.add(Arc::clone(&client), move |chat: &mut Chat, event, control| {
        match event {
            Ok(Event::Deliver(Deliver { node_id, pid, payload, .. })) => {
                println!("{node_id}/{pid}: {}", String::from_utf8_lossy(&payload));
                chat.sent -= usize::from((node_id, pid) == me);
                if chat.ended && chat.sent == 0 {
                    control.stop();
                }
            }
            Ok(Event::Confchg(Confchg { members, left, joined, .. })) => {
                for (them, how) in joined
                    .iter()
                    .map(|who| (who, "came"))
                    .chain(left.iter().map(|who| (who, "went")))
                {
                    println!("* {}/{} {how} ({})", them.node_id, them.pid, them.reason);
                }
                println!("* {} here", members.len());
            }
            Ok(_) => {}
            Err(error) => chat.failed = Some(error),
        }
        ControlFlow::Continue(())
    })?;

    let waker = dispatcher.waker();
    // Not joined: it may still wait for a line when the program ends.
    thread::spawn(move || {
        for line in io::stdin().lines().map_while(Result::ok) {
            let sender = Arc::clone(&client);
            let sent = waker.run(move |chat: &mut Chat, control| {
                match sender.multicast(Guarantee::AGREED, line.as_bytes()) {
                    Ok(()) => chat.sent += 1,
                    Err(error) => {
                        chat.failed = Some(error);
                        control.stop();
                    }
                }
            });
            if !sent {
                return;
            }
        }
        let _ = waker.run(|chat: &mut Chat, control| {
            chat.ended = true;
            if chat.sent == 0 {
                control.stop();
            }
        });
    });

    let mut chat = Chat::default();
    dispatcher.run(&mut chat)?;
    chat.failed.map_or(Ok(()), |error| Err(error.into()))
}
