//! An event ring that was full: the client has the daemon refill it by a request that changes
//! nothing.

use std::sync::mpsc::channel;
use std::thread;

use bytes::Bytes;
use corosync_ipc::libqb::server::{
    Conn, ConnectionId, Connections, Handler, Listener, Peer, Refusal,
};
use corosync_ipc::quorum::{Client, Event};
use corosync_ipc::wire::Message;
use corosync_ipc::wire::quorum::{
    AnyRequest, GetQuorateReply, GetTypeReply, Notification, TrackStartReply, TrackStopReply,
};
use corosync_ipc::{NodeId, TrackFlags};
use tempfile::TempDir;
use testbed::{eventually, next, private_endpoint};

/// How many events a start of tracking brings. A ring of the smallest size holds a tenth of them.
const EVENTS: u64 = 500;

/// A quorum service with a great deal to tell.
#[derive(Default)]
struct Daemon {
    /// How often it was asked whether it is quorate.
    asked: usize,
    /// Whether it keeps the answers to that to itself, and those it owes.
    keeps_answers: bool,
    owed: Vec<ConnectionId>,
    /// Whether it has not answered yet that tracking ended.
    keeps_end: Option<ConnectionId>,
}

impl Daemon {
    fn answer_all(&mut self, connections: &mut Connections<()>) {
        self.keeps_answers = false;
        for id in self.owed.drain(..) {
            answer(&mut connections.get(id).unwrap(), &GetQuorateReply { quorate: 1 });
        }
        if let Some(id) = self.keeps_end.take() {
            answer(&mut connections.get(id).unwrap(), &TrackStopReply {});
        }
    }
}

fn answer(conn: &mut Conn<'_, ()>, message: &impl Message) {
    conn.reply(&message.encode().unwrap()).unwrap();
}

impl Handler for Daemon {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        match AnyRequest::decode(&request).unwrap() {
            AnyRequest::GetType(_) => answer(conn, &GetTypeReply { quorum_type: 1 }),
            AnyRequest::TrackStart(_) => {
                for ring_seq in 0..EVENTS {
                    let event = Notification {
                        quorate: 1,
                        ring_seq,
                        view_list: vec![NodeId(1), NodeId(2)],
                    };
                    conn.send_event(&event.encode().unwrap()).unwrap();
                }
                answer(conn, &TrackStartReply {});
            }
            AnyRequest::GetQuorate(_) => {
                self.asked += 1;
                if self.keeps_answers {
                    self.owed.push(conn.id());
                } else {
                    answer(conn, &GetQuorateReply { quorate: 1 });
                }
            }
            AnyRequest::TrackStop(_) if self.keeps_answers => self.keeps_end = Some(conn.id()),
            AnyRequest::TrackStop(_) => answer(conn, &TrackStopReply {}),
            other => panic!("{other:?}"),
        }
    }
}

/// A daemon, and a client to which it sent more than the ring holds.
fn overwhelmed() -> (Listener<Daemon>, Client, TempDir) {
    let (endpoint, folder) = private_endpoint();
    let endpoint = endpoint.ring_size(4096);
    let builder = Listener::<Daemon>::builder().endpoint(&endpoint).service("quorum");
    let listener = builder.start(Daemon::default()).unwrap();
    let client = Client::connect_to(&endpoint).unwrap();
    client.track_start(TrackFlags::CURRENT).unwrap();
    (listener, client, folder)
}

fn take_all(client: &Client) {
    for expected in 0..EVENTS {
        let Event::Notification(event) = next(client) else { panic!("another event") };
        assert_eq!(event.ring_seq, expected);
    }
}

fn asked(listener: &Listener<Daemon>) -> usize {
    listener.with(|daemon, _| daemon.asked).unwrap()
}

#[test]
fn a_full_ring_is_refilled_by_a_request() {
    let (listener, client, _folder) = overwhelmed();
    take_all(&client);
    // Answered after all that was asked before.
    client.track_stop().unwrap();
    let times = asked(&listener);
    assert!((1..=20).contains(&times), "asked {times} times");
    assert!(client.is_quorate().unwrap());
    assert_eq!(asked(&listener), times + 1);
}

#[test]
fn a_ring_that_is_not_full_costs_no_request() {
    let (listener, client, _folder) = overwhelmed();
    take_all(&client);
    client.track_stop().unwrap();
    let times = asked(&listener);
    let one = |_: &mut Daemon, connections: &mut Connections<()>| {
        let event = Notification { quorate: 1, ring_seq: 0, view_list: Vec::new() };
        let id = connections.ids()[0];
        connections.get(id).unwrap().send_event(&event.encode().unwrap()).unwrap();
    };
    for _ in 0..100 {
        listener.with(one).unwrap();
        next(&client);
    }
    assert_eq!(asked(&listener), times);
}

#[test]
fn a_daemon_that_does_not_answer_is_not_asked_over_and_over() {
    let (listener, client, _folder) = overwhelmed();
    listener.with(|daemon, _| daemon.keeps_answers = true).unwrap();
    take_all(&client);
    let times = asked(&listener);
    assert!((1..=2).contains(&times), "asked {times} times");
    listener.with(Daemon::answer_all).unwrap();
    client.track_stop().unwrap();
    assert!(client.is_quorate().unwrap());
}

#[test]
fn nobody_is_asked_before_the_request_under_way_is_answered() {
    let (listener, client, _folder) = overwhelmed();
    listener.with(|daemon, _| daemon.keeps_answers = true).unwrap();
    thread::scope(|scope| {
        let (sender, receiver) = channel();
        let (client, listener) = (&client, &listener);
        scope.spawn(move || {
            client.track_stop().unwrap();
            sender.send(()).unwrap();
        });
        eventually("the request is under way", || {
            listener.with(|daemon, _| daemon.keeps_end.is_some()).unwrap()
        });
        take_all(client);
        assert_eq!(asked(listener), 0);
        listener.with(Daemon::answer_all).unwrap();
        receiver.recv().unwrap();
    });
    eventually("the daemon is asked", || asked(&listener) == 1);
}
