//! This library, used as a program that wants to be fast uses it.

use std::hint::black_box;
use std::ops::ControlFlow;
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::cpg::{Event, GroupName, Guarantee};
use corosync_ipc::{
    CsError, Dispatch, Endpoint, Error, NodeId, TrackFlags, cfg, cmap, cpg, quorum, votequorum,
};

use crate::side::{Rival, Side};

pub(crate) struct Ours {
    cmap: cmap::Client,
    setter: cmap::Client,
    cpg: cpg::Client,
    quorum: quorum::Client,
    votequorum: votequorum::Client,
    cfg: cfg::Client,
    group: GroupName,
    node: NodeId,
    value: u32,
    connections: Vec<cmap::Client>,
    /// Whether one thread does what several do elsewhere.
    one_thread: bool,
}

type Call = fn(&mut Ours);

/// The calls, with the names that the C side has for them.
pub(crate) const CALLS: [(&str, Call); 33] = [
    ("nothing", |_| {}),
    ("cmap get, number", |ours| _ = black_box(ours.cmap.get_as::<u32>("bench.number").unwrap())),
    ("cmap get, text", |ours| {
        _ = black_box(ours.cmap.get_as::<String>("totem.cluster_name").unwrap())
    }),
    ("cmap set", |ours| {
        ours.value += 1;
        ours.cmap.set("bench.number", ours.value).unwrap();
    }),
    ("cmap increment", |ours| ours.cmap.increment("bench.number").unwrap()),
    ("cmap decrement", |ours| ours.cmap.decrement("bench.number").unwrap()),
    ("cmap set and delete", |ours| {
        ours.cmap.set("bench.deleted", 1_u32).unwrap();
        ours.cmap.delete("bench.deleted").unwrap();
    }),
    ("cmap track add and delete", |ours| {
        let tracker = ours.cmap.track_add("bench.nothing", TrackEvents::MODIFY).unwrap();
        ours.cmap.track_delete(tracker).unwrap();
    }),
    ("cmap iteration of all keys", |ours| {
        ours.cmap.iter("").unwrap().for_each(|key| _ = black_box(key.unwrap()));
    }),
    ("cmap list of all keys and values", |ours| _ = black_box(ours.cmap.list("").unwrap())),
    ("quorum getquorate", |ours| _ = black_box(ours.quorum.is_quorate().unwrap())),
    ("quorum trackstart and trackstop", |ours| {
        ours.quorum.track_start(TrackFlags::CHANGES).unwrap();
        ours.quorum.track_stop().unwrap();
        ours.quorum.dispatch(Dispatch::All, |_| ControlFlow::Continue(())).unwrap();
    }),
    ("votequorum getinfo", |ours| _ = black_box(ours.votequorum.info(ours.node).unwrap())),
    ("votequorum setexpected", |ours| ours.votequorum.set_expected(1).unwrap()),
    ("votequorum setvotes", |ours| ours.votequorum.set_votes(ours.node, 1).unwrap()),
    ("votequorum trackstart and trackstop", |ours| {
        ours.votequorum.track_start(0, TrackFlags::CHANGES).unwrap();
        ours.votequorum.track_stop().unwrap();
        ours.votequorum.dispatch(Dispatch::All, |_| ControlFlow::Continue(())).unwrap();
    }),
    ("cfg local_get", |ours| _ = black_box(ours.cfg.local_node_id().unwrap())),
    ("cfg get_node_addrs", |ours| _ = black_box(ours.cfg.node_addresses(ours.node).unwrap())),
    ("cfg ring_status_get", |ours| _ = black_box(ours.cfg.ring_status().unwrap())),
    ("cfg node_status_get", |ours| _ = black_box(ours.cfg.node_status(ours.node).unwrap())),
    ("cfg trackstart and trackstop", |ours| {
        ours.cfg.track_start().unwrap();
        ours.cfg.track_stop().unwrap();
    }),
    ("cpg local_get", |ours| _ = black_box(ours.cpg.local_node_id().unwrap())),
    ("cpg membership_get", |ours| _ = black_box(ours.cpg.membership(&ours.group).unwrap())),
    ("cpg iteration", |ours| {
        ours.cpg.iter(cpg::Iteration::All).unwrap().for_each(|member| {
            black_box(member.unwrap());
        })
    }),
    ("dispatch of nothing, cmap", |ours| {
        ours.cmap.dispatch(Dispatch::All, |_| ControlFlow::Continue(())).unwrap()
    }),
    ("dispatch of nothing, cpg", |ours| {
        ours.cpg.dispatch(Dispatch::All, |_| ControlFlow::Continue(())).unwrap()
    }),
    ("connect and disconnect, cmap", |_| _ = black_box(cmap::Client::connect().unwrap())),
    ("connect and disconnect, cmap, rings as in C", |_| {
        _ = black_box(cmap::Client::connect_to(&as_in_c()).unwrap())
    }),
    ("connect and disconnect, cpg", |_| _ = black_box(cpg::Client::connect().unwrap())),
    ("connect and disconnect, cpg, rings as in C", |_| {
        _ = black_box(cpg::Client::connect_to(&as_in_c()).unwrap())
    }),
    ("connect and disconnect, quorum", |_| _ = black_box(quorum::Client::connect().unwrap())),
    ("connect and disconnect, votequorum", |_| {
        _ = black_box(votequorum::Client::connect().unwrap())
    }),
    ("connect and disconnect, cfg", |_| _ = black_box(cfg::Client::connect().unwrap())),
];

/// The C libraries ask for rings of this size.
fn as_in_c() -> Endpoint {
    Endpoint::new().ring_size(1 << 20)
}

impl Ours {
    pub(crate) fn connect() -> Self {
        let cpg = cpg::Client::connect().unwrap();
        cpg.set_request_timeout(Duration::from_secs(60));
        Ours {
            cmap: cmap::Client::connect().unwrap(),
            setter: cmap::Client::connect().unwrap(),
            node: cpg.local_node_id().unwrap(),
            cpg,
            quorum: quorum::Client::connect().unwrap(),
            votequorum: votequorum::Client::connect().unwrap(),
            cfg: cfg::Client::connect().unwrap(),
            group: GroupName::new("bench_ours").unwrap(),
            value: 0,
            connections: Vec::new(),
            one_thread: false,
        }
    }

    /// One thread of this side does what several of the other side do.
    pub(crate) fn with_one_thread(self) -> Self {
        Ours { one_thread: true, ..self }
    }

    fn next_event(&self) -> Event {
        self.cpg.next_event(Duration::from_secs(60)).unwrap().expect("an event arrives")
    }

    /// Hands over what is there, and says how many messages arrived.
    fn take(&self) -> u32 {
        let mut messages = 0;
        let count = |event| {
            messages += u32::from(is_message(&event));
            ControlFlow::Continue(())
        };
        self.cpg.dispatch(Dispatch::All, count).unwrap();
        messages
    }

    /// As `take`, but waits at most so long for the first event.
    fn wait_and_take(&self, longest: Duration) -> u32 {
        let first = self.cpg.next_event(longest).unwrap();
        u32::from(first.as_ref().is_some_and(is_message)) + self.take()
    }
}

fn is_message(event: &Event) -> bool {
    matches!(event, Event::Deliver(_))
}

/// How many messages a program that has many hands over at once.
const AT_ONCE: usize = 32;

/// Multicasts as many as can be sent at once, and says how many.
fn multicast_some(client: &cpg::Client, messages: &[&[u8]]) -> u32 {
    if messages[0].len() > client.max_atomic_message_size() {
        return multicast(client, messages[0]).into();
    }
    match client.try_multicast_many(Guarantee::AGREED, messages) {
        Ok(sent) => sent as u32,
        Err(Error::Cs { error: CsError::TryAgain, .. }) => 0,
        Err(error) => panic!("{error}"),
    }
}

/// Multicasts once. A message longer than one request is cut into fragments, each of which waits, as in libcpg.
fn multicast(client: &cpg::Client, message: &[u8]) -> bool {
    let sent = if message.len() > client.max_atomic_message_size() {
        client.multicast(Guarantee::AGREED, message)
    } else {
        client.try_multicast(Guarantee::AGREED, message)
    };
    match sent {
        Ok(()) => true,
        Err(Error::Cs { error: CsError::TryAgain, .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Takes this many events that count.
fn take<E>(count: u32, counts: impl Fn(&E) -> bool) -> impl FnMut(E) -> ControlFlow<()> {
    let mut left = count;
    move |event| {
        left -= u32::from(counts(&event));
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Side for Ours {
    fn calls(&mut self, name: &str, pause: u64, nanos: &mut [u64]) {
        let (_, call) =
            CALLS.iter().find(|(call, _)| *call == name).expect("our side has this call");
        for nanos in nanos {
            if pause > 0 {
                thread::sleep(Duration::from_nanos(pause));
            }
            time_each(slice::from_mut(nanos), || call(self));
        }
    }

    fn track(&mut self, trackers: u32) {
        self.set_tracked(1);
        for _ in 0..trackers {
            self.cmap.track_add("bench.burst.ours", TrackEvents::MODIFY).unwrap();
        }
    }

    fn set_tracked(&mut self, count: u32) {
        for _ in 0..count {
            self.value += 1;
            self.setter.set("bench.burst.ours", self.value).unwrap();
        }
    }

    fn drain_cmap(&mut self, count: u32) {
        self.cmap.dispatch(Dispatch::Blocking, take(count, |_| true)).unwrap();
    }

    fn join(&mut self) {
        self.cpg.join(&self.group).unwrap();
    }

    fn leave(&mut self) {
        self.cpg.leave(&self.group).unwrap();
    }

    fn round_trips(&mut self, size: usize, nanos: &mut [u64]) {
        let message = vec![0; size];
        time_each(nanos, || {
            let mut received = 0;
            while !multicast(&self.cpg, &message) {
                received += self.wait_and_take(Duration::from_millis(1));
            }
            while received == 0 {
                received += u32::from(is_message(&self.next_event()));
            }
        });
    }

    fn stream(&mut self, count: u32, size: usize) {
        let message = vec![0; size];
        let messages = [&message[..]; AT_ONCE];
        let (mut sent, mut received) = (0, 0);
        while received < count {
            let mut refused = false;
            while sent < count && !refused {
                let left = messages.len().min((count - sent) as usize);
                let taken = multicast_some(&self.cpg, &messages[..left]);
                refused = taken == 0;
                sent += taken;
                received += self.take();
            }
            if received < count {
                let longest = if refused { 1 } else { 60_000 };
                received += self.wait_and_take(Duration::from_millis(longest));
            }
        }
    }

    fn stream_of_two(&mut self, count: u32, size: usize) {
        let cpg = &self.cpg;
        thread::scope(|scope| {
            scope.spawn(move || {
                let message = vec![0; size];
                let messages = [&message[..]; AT_ONCE];
                let mut left = count as usize;
                while left > 0 {
                    let some = &messages[..AT_ONCE.min(left)];
                    cpg.multicast_many(Guarantee::AGREED, some).unwrap();
                    left -= some.len();
                }
            });
            cpg.dispatch(Dispatch::Blocking, take(count, is_message)).unwrap();
        });
    }

    fn send(&mut self, count: u32, size: usize) {
        let message = vec![0; size];
        for _ in 0..count {
            self.cpg.multicast(Guarantee::AGREED, &message).unwrap();
        }
    }

    fn drain_cpg(&mut self, count: u32) {
        self.cpg.dispatch(Dispatch::Blocking, take(count, is_message)).unwrap();
    }

    fn open(&mut self, connections: u32) {
        self.connections = (0..connections).map(|_| cmap::Client::connect().unwrap()).collect();
    }

    fn close(&mut self) {
        self.connections.clear();
    }

    fn get_by_threads(&mut self, threads: u32, _: Rival, nanos: &mut [u64]) {
        let threads = if self.one_thread { 1 } else { threads };
        let client = &self.connections[0];
        thread::scope(|scope| {
            for share in nanos.chunks_mut(nanos.len() / threads as usize) {
                scope.spawn(move || time_each(share, || get(client)));
            }
        });
    }

    fn get_in_turn(&mut self, nanos: &mut [u64]) {
        let mut clients = self.connections.iter().cycle();
        time_each(nanos, || get(clients.next().expect("it has no end")));
    }
}

fn get(client: &cmap::Client) {
    black_box(client.get_as::<u32>("bench.number").unwrap());
}

/// Repeats something and says how many nanoseconds it took each time.
fn time_each(nanos: &mut [u64], mut work: impl FnMut()) {
    for nanos in nanos {
        let start = Instant::now();
        work();
        *nanos = start.elapsed().as_nanos() as u64;
    }
}
