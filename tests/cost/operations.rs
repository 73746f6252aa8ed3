//! The operations that have limits.

use std::hint::black_box;
use std::ops::ControlFlow::{Break, Continue};

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{Event, GroupName, Guarantee};
use corosync_ipc::{Dispatch, Endpoint, cmap, cpg, quorum};

/// Keys and events come by so many.
const MANY: u32 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Set,
    Quorate,
    /// A key of a list of keys with values.
    KeyOfList,
    /// An event that waits.
    EventOfCmap,
    /// A message of 64 bytes that waits.
    EventOfCpg,
    /// Of 64 bytes.
    Multicast,
    /// One of many that are sent at once.
    MulticastOfMany,
    /// One of some in a row. A client looks at most once a millisecond whether the daemon lives.
    EmptyDispatch,
}

impl Operation {
    /// Whether it waits for answers.
    pub(crate) fn is_answered(self) -> bool {
        matches!(self, Self::Get | Self::Set | Self::Quorate | Self::KeyOfList)
    }
}

pub(crate) struct Operations {
    cmap: cmap::Client,
    tracker: cmap::Client,
    quorum: quorum::Client,
    sender: cpg::Client,
    /// Is in the sender's group. A message is delivered to both before the next one is.
    witness: cpg::Client,
    number: u32,
    /// How often both members were emptied.
    emptied: u32,
    key: String,
    tracked: String,
    listed: String,
}

impl Operations {
    /// Clients whose keys and group have this in their names.
    pub(crate) fn connect(endpoint: &Endpoint, name: &str) -> Self {
        let operations = Operations {
            cmap: cmap::Client::connect_to(endpoint).unwrap(),
            tracker: cmap::Client::connect_to(endpoint).unwrap(),
            quorum: quorum::Client::connect_to(endpoint).unwrap(),
            sender: cpg::Client::connect_to(endpoint).unwrap(),
            // A process can be in a group once.
            witness: cpg::Client::connect_with(endpoint, cpg::Options::new().pid(1)).unwrap(),
            number: 0,
            emptied: 0,
            key: format!("cost_{name}.number"),
            tracked: format!("cost_{name}.tracked"),
            listed: format!("cost_{name}.listed."),
        };
        operations.cmap.set(&operations.key, 0_u32).unwrap();
        operations.cmap.set(&operations.tracked, 0_u32).unwrap();
        for number in 0..MANY {
            operations.cmap.set(&format!("{}{number}", operations.listed), number).unwrap();
            operations.tracker.track_add(&operations.tracked, TrackEvents::MODIFY).unwrap();
        }
        let group = GroupName::new(format!("cost_{name}")).unwrap();
        operations.sender.join(&group).unwrap();
        operations.witness.join(&group).unwrap();
        operations
    }

    /// Makes what an operation needs.
    pub(crate) fn prepare(&mut self, operation: Operation) {
        match operation {
            Operation::EventOfCmap => {
                self.number += 1;
                // The answer comes after all trackers were told.
                self.cmap.set(&self.tracked, self.number).unwrap();
            }
            Operation::EventOfCpg => {
                self.empty();
                (0..=MANY).for_each(|_| self.multicast());
                // Whoever has the last one was given all the others before, as all members were.
                take_messages(&self.witness, MANY + 1);
            }
            Operation::MulticastOfMany => {
                // The daemon has taken all messages before.
                self.empty();
            }
            _ => {}
        }
    }

    /// Does an operation once, or as often as it was prepared. Returns how often.
    #[inline(never)] // Valgrind counts the instructions in it.
    pub(crate) fn run(&mut self, operation: Operation) -> u32 {
        match operation {
            Operation::Get => _ = black_box(self.cmap.get_as::<u32>(&self.key).unwrap()),
            Operation::Set => self.cmap.set(&self.key, 1_u32).unwrap(),
            Operation::Quorate => _ = black_box(self.quorum.is_quorate().unwrap()),
            Operation::KeyOfList => {
                assert_eq!(self.cmap.list(&self.listed).unwrap().len(), MANY as usize);
                return MANY;
            }
            Operation::EventOfCmap => {
                let mut left = MANY;
                let take = |_| {
                    left -= 1;
                    if left == 0 { Break(()) } else { Continue(()) }
                };
                self.tracker.dispatch(Dispatch::Blocking, take).unwrap();
                return MANY;
            }
            Operation::EventOfCpg => {
                take_messages(&self.sender, MANY);
                return MANY;
            }
            Operation::Multicast => self.multicast(),
            Operation::MulticastOfMany => {
                let messages = [[0; 64]; MANY as usize];
                self.sender.multicast_many(Guarantee::AGREED, &messages).unwrap();
                return MANY;
            }
            Operation::EmptyDispatch => {
                for _ in 0..MANY {
                    self.tracker.dispatch(Dispatch::All, |_| Continue(())).unwrap();
                }
                return MANY;
            }
        }
        1
    }

    fn multicast(&self) {
        self.sender.multicast(Guarantee::AGREED, &[0; 64]).unwrap();
    }

    /// Has both members take what waits, and everything that was sent before.
    fn empty(&mut self) {
        self.emptied += 1;
        let last = self.emptied.to_ne_bytes();
        self.sender.multicast(Guarantee::AGREED, &last).unwrap();
        for member in [&self.sender, &self.witness] {
            let take = |event| match event {
                Event::Deliver(message) if message.payload == last[..] => Break(()),
                _ => Continue(()),
            };
            member.dispatch(Dispatch::Blocking, take).unwrap();
        }
    }
}

fn take_messages(member: &cpg::Client, count: u32) {
    let mut left = count;
    let take = |event| {
        left -= u32::from(matches!(event, Event::Deliver(_)));
        if left == 0 { Break(()) } else { Continue(()) }
    };
    member.dispatch(Dispatch::Blocking, take).unwrap();
}
