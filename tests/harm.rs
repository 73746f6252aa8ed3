//! What is not sent to a daemon that would not survive it, shown by servers that remember what they
//! were asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use corosync_ipc::cmap::{Map, TrackEvents};
use corosync_ipc::codec::encode_refusal;
use corosync_ipc::cpg::{GroupName, Guarantee, MAX_MEMBERS};
use corosync_ipc::libqb::server::{Conn, Connections, Gone, Handler, Listener, Peer, Refusal};
use corosync_ipc::wire::{Message, cmap as cmap_wire, cpg as cpg_wire};
use corosync_ipc::{CsError, Endpoint, Error, NodeId, cmap, cpg, votequorum};
use tempfile::TempDir;
use testbed::{Scripted, eventually, private_endpoint};

/// Where servers listen and have their rings.
struct Place {
    endpoint: Endpoint,
    _directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let (endpoint, directory) = private_endpoint();
        Self { endpoint, _directory: directory }
    }

    /// Serves until the listener is dropped. The list gets the ids of the requests.
    fn serve(
        &self,
        service: &str,
        mut answer: impl FnMut(&[u8]) -> Vec<u8> + Send + 'static,
    ) -> (Listener<Scripted>, Arc<Mutex<Vec<i32>>>) {
        let asked = Arc::<Mutex<Vec<i32>>>::default();
        let list = Arc::clone(&asked);
        let listener = Scripted::serve(&self.endpoint, service, move |conn, request| {
            list.lock().unwrap().push(i32::from_ne_bytes(request[..4].try_into().unwrap()));
            conn.reply(&answer(&request)).unwrap();
        });
        (listener, asked)
    }
}

fn ok(reply: impl Message) -> Vec<u8> {
    reply.encode().unwrap()
}

fn refusal(id: i32, error: CsError) -> Vec<u8> {
    encode_refusal(id, error).unwrap()
}

/// A map with the keys that `has` says, whose values do not matter.
fn answer_cmap(request: &[u8], has: impl Fn(&str) -> bool) -> Vec<u8> {
    use cmap_wire::{AnyRequest, GetReply, RawValue, SetCurrentMapReply, TrackAddReply};
    match AnyRequest::decode(request).unwrap() {
        AnyRequest::Get(get) if has(std::str::from_utf8(&get.key_name).unwrap()) => {
            let value =
                RawValue { value_type: cmap::ValueType::UINT8, data: Bytes::from_static(&[0]) };
            ok(GetReply { value_len: 1, value })
        }
        AnyRequest::Get(_) => refusal(2, CsError::NotExist),
        AnyRequest::SetCurrentMap(_) => ok(SetCurrentMapReply {}),
        AnyRequest::TrackAdd(_) => ok(TrackAddReply { track_handle: 1 }),
        request => panic!("{request:?}"),
    }
}

/// In corosync 2.99 to 3.0.3 the tracker of a key that goes is told a value that was never read, of
/// any length.
#[test]
fn what_goes_in_the_stats_map_is_not_tracked_before_corosync_3_1() {
    const TRACK_ADD: i32 = 7;
    for (is_3_1, coming) in [(false, 0), (true, 3)] {
        let place = Place::new();
        let answer = move |request: &[u8]| {
            answer_cmap(request, |key| is_3_1 && key == "runtime.services.cfg.4.rx")
        };
        let (_listener, asked) = place.serve("cmap", answer);
        let client =
            cmap::Client::connect_with(&place.endpoint, cmap::Options::new().map(Map::Stats))
                .unwrap();
        let all = TrackEvents::ALL;
        for (key, events) in [
            ("stats.ipcs.", all | TrackEvents::PREFIX),
            ("stats.ipcs.global.active", all),
            ("stats.ipcs.global.active", TrackEvents::DELETE),
        ] {
            match client.track_add(key, events) {
                Ok(_) => assert!(is_3_1),
                Err(Error::Unsupported { since, .. }) => {
                    assert_eq!((is_3_1, since), (false, "3.1"))
                }
                other => panic!("{other:?}"),
            }
        }
        client.track_add("stats.ipcs.global.active", TrackEvents::MODIFY).unwrap();
        let tracked = asked.lock().unwrap().iter().filter(|id| **id == TRACK_ADD).count();
        assert_eq!(tracked, coming + 1);
    }
}

/// The stats map writes a string whatever room there is: up to the 32 bytes that the daemon keeps
/// of a process's name.
#[test]
fn strings_of_the_stats_map_are_asked_for_with_room_for_them() {
    use cmap_wire::{
        AnyRequest, GetReply, IterFinalizeReply, IterInitReply, IterNextReply, RawValue,
    };
    const KEY: &str = "stats.ipcs.service0.1.0x1.procname";
    let place = Place::new();
    let mut left = 1;
    let answer = move |request: &[u8]| match AnyRequest::decode(request).unwrap() {
        AnyRequest::IterInit(_) => ok(IterInitReply { iter_handle: 1 }),
        AnyRequest::IterNext(_) if left == 1 => {
            left = 0;
            ok(IterNextReply {
                key_name: KEY.into(),
                value_len: 0,
                value_type: cmap::ValueType::STRING,
            })
        }
        AnyRequest::IterNext(_) => refusal(5, CsError::NoSections),
        AnyRequest::IterFinalize(_) => ok(IterFinalizeReply {}),
        AnyRequest::Get(get) if get.key_name == KEY => {
            let data = if get.value_len < 32 { "overflow\0" } else { "name\0" };
            let value = RawValue { value_type: cmap::ValueType::STRING, data: data.into() };
            ok(GetReply { value_len: data.len() as u64, value })
        }
        _ => answer_cmap(request, |_| false),
    };
    let (_listener, _) = place.serve("cmap", answer);
    let client =
        cmap::Client::connect_with(&place.endpoint, cmap::Options::new().map(Map::Stats)).unwrap();
    assert_eq!(client.list("stats.").unwrap(), [(KEY.to_owned(), "name".into())]);
}

/// A group with as many members. Joining works.
fn answer_cpg(members: usize) -> impl FnMut(&[u8]) -> Vec<u8> + Send + 'static {
    use cpg_wire::{
        AnyRequest, Description, IterationFinalizeReply, IterationInitializeReply,
        IterationNextReply, JoinReply,
    };
    let mut left = 0;
    move |request| match AnyRequest::decode(request).unwrap() {
        AnyRequest::IterationInitialize(_) => {
            left = members;
            ok(IterationInitializeReply { iteration_handle: 1 })
        }
        AnyRequest::IterationNext(_) if left == 0 => refusal(10, CsError::NoSections),
        AnyRequest::IterationNext(_) => {
            left -= 1;
            let group = GroupName::new("group").unwrap();
            ok(IterationNextReply {
                description: Description { group, nodeid: NodeId(1), pid: left as u32 },
            })
        }
        AnyRequest::IterationFinalize(_) => ok(IterationFinalizeReply {}),
        AnyRequest::Join(_) => ok(JoinReply {}),
        request => panic!("{request:?}"),
    }
}

/// corosync has room for 384 members in an answer, and for 128 that leave with their nodes.
#[test]
fn groups_larger_than_corosync_survives_are_not_joined_and_not_asked_for_as_c_does() {
    const JOIN: i32 = 0;
    const MEMBERSHIP: i32 = 3;
    let group = GroupName::new("group").unwrap();
    for members in [MAX_MEMBERS - 1, MAX_MEMBERS, 1000] {
        let place = Place::new();
        let (_listener, asked) = place.serve("cpg", answer_cpg(members));
        let client = cpg::Client::connect_to(&place.endpoint).unwrap();
        let found = client.membership(&group).unwrap();
        assert_eq!(found.len(), members);
        assert!(found.is_sorted_by_key(|member| (member.node_id, member.pid)));
        match client.join(&group) {
            Ok(()) => assert!(members < MAX_MEMBERS),
            Err(Error::WouldCrash { call, .. }) => {
                assert_eq!((members >= MAX_MEMBERS, &*call), (true, "cpg join"));
            }
            other => panic!("{other:?}"),
        }
        let asked = asked.lock().unwrap();
        assert_eq!(
            (asked.contains(&JOIN), asked.contains(&MEMBERSHIP)),
            (members < MAX_MEMBERS, false)
        );
    }
}

/// corosync until 2.4 puts together in 1 MiB what it receives, with up to a frame of 10000 bytes
/// behind it.
#[test]
fn a_message_in_one_piece_leaves_room_for_what_comes_behind_it() {
    let place = Place::new();
    let (_listener, asked) = place.serve("cpg", answer_cpg(0));
    let client = cpg::Client::connect_to(&place.endpoint.clone().ring_size(4 << 20)).unwrap();
    let most = client.max_atomic_message_size();
    assert!(most + 1024 + 10_000 <= 1 << 20);
    client.join(&GroupName::new("group").unwrap()).unwrap();
    let too_long = vec![0; most + 1];
    // There is no map that would tell that the daemon knows fragments.
    assert!(client.multicast(Guarantee::AGREED, &too_long).is_err());
    assert!(matches!(
        client.try_multicast(Guarantee::AGREED, &too_long),
        Err(Error::InvalidArgument { .. })
    ));
    assert!(!asked.lock().unwrap().contains(&2));
}

/// A value is judged by its type and bytes, whatever it is called.
#[test]
fn numbers_are_refused_under_any_name() {
    let place = Place::new();
    let (_listener, asked) = place.serve("cmap", |_| ok(cmap_wire::SetReply {}));
    let client = cmap::Client::connect_to(&place.endpoint).unwrap();
    let data = Bytes::copy_from_slice(&1_u32.to_ne_bytes());
    let number = cmap::Value::Other { value_type: cmap::ValueType::UINT32, data };
    assert!(matches!(
        client.set("totem.token", number).unwrap_err(),
        Error::InvalidArgument { argument: "value", .. }
    ));
    assert!(asked.lock().unwrap().is_empty());
}

/// A registration that is given up keeps its connection, since corosync still answers there. The
/// next one uses it again.
#[test]
fn registrations_that_are_given_up_take_one_connection() {
    let place = Place::new();
    let (_map, _) = place
        .serve("cmap", |request| answer_cmap(request, |key| key != "runtime.connections.active"));
    let [connects, ends]: [Arc<Mutex<usize>>; 2] = Default::default();
    let silent = Silent { connects: Arc::clone(&connects), ends: Arc::clone(&ends) };
    let _votes = Listener::<Silent>::builder()
        .endpoint(&place.endpoint)
        .service("votequorum")
        .start(silent)
        .unwrap();
    let client = votequorum::Client::connect_to(&place.endpoint).unwrap();
    let register =
        || assert!(matches!(client.qdevice_register("device"), Err(Error::TimedOut { .. })));
    register();
    client.set_request_timeout(Duration::from_millis(20));
    (0..10).for_each(|_| register());
    assert_eq!(*connects.lock().unwrap(), 2);

    // It stays open without its client.
    drop(client);
    eventually("the client's own connection ends", || *ends.lock().unwrap() == 1);
    votequorum::Client::connect_to(&place.endpoint).unwrap().finalize();
    eventually("the next one ends", || *ends.lock().unwrap() == 2);
    assert_eq!(*connects.lock().unwrap(), 3);
}

/// Takes connections and answers nothing.
struct Silent {
    connects: Arc<Mutex<usize>>,
    ends: Arc<Mutex<usize>>,
}

impl Handler for Silent {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        *self.connects.lock().unwrap() += 1;
        Ok(())
    }

    fn on_request(&mut self, _: &mut Conn<'_, ()>, _: Bytes) {}

    fn on_disconnect(&mut self, _: &mut Connections<()>, _: Gone<()>) {
        *self.ends.lock().unwrap() += 1;
    }
}
