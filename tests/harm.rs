//! What is not sent to a daemon that would not survive it, shown by servers that remember what they were asked.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use corosync_ipc::cmap::{Map, TrackEvents};
use corosync_ipc::server::{Conn, Handler, Listener, Peer, Refusal};
use corosync_ipc::wire::{Message, cmap as cmap_wire, encode_refusal};
use corosync_ipc::{CsError, Endpoint, Error, cmap};

/// Answers requests as `answer` says, and remembers their names.
struct Script<F> {
    asked: Arc<Mutex<Vec<i32>>>,
    answer: F,
}

impl<F: FnMut(&[u8]) -> Vec<u8> + Send + 'static> Handler for Script<F> {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        self.asked.lock().unwrap().push(i32::from_ne_bytes(request[..4].try_into().unwrap()));
        conn.reply(&(self.answer)(&request)).unwrap();
    }
}

/// Where servers listen and have their rings.
struct Place {
    endpoint: Endpoint,
    _directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let endpoint = Endpoint::new().socket_dir(directory.path()).shm_root(directory.path());
        Self { endpoint, _directory: directory }
    }

    /// Serves until the listener is dropped. The ids of the requests come in the list.
    fn serve<F>(&self, service: &str, answer: F) -> (Listener<Script<F>>, Arc<Mutex<Vec<i32>>>)
    where
        F: FnMut(&[u8]) -> Vec<u8> + Send + 'static,
    {
        let asked = Arc::default();
        let script = Script { asked: Arc::clone(&asked), answer };
        let builder = Listener::<Script<F>>::builder().endpoint(&self.endpoint).service(service);
        (builder.start(script).unwrap(), asked)
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
            let value = RawValue { value_type: cmap::ValueType::UINT8, data: Bytes::from_static(&[0]) };
            ok(GetReply { value_len: 1, value })
        }
        AnyRequest::Get(_) => refusal(2, CsError::NotExist),
        AnyRequest::SetCurrentMap(_) => ok(SetCurrentMapReply {}),
        AnyRequest::TrackAdd(_) => ok(TrackAddReply { track_handle: 1 }),
        request => panic!("{request:?}"),
    }
}

/// In corosync 2.99 to 3.0.3 the tracker of a key that goes is told a value that was never read, of any length.
#[test]
fn what_goes_in_the_stats_map_is_not_tracked_before_corosync_3_1() {
    const TRACK_ADD: i32 = 7;
    for (is_3_1, coming) in [(false, 0), (true, 3)] {
        let place = Place::new();
        let answer = move |request: &[u8]| answer_cmap(request, |key| is_3_1 && key == "runtime.services.cfg.4.rx");
        let (_listener, asked) = place.serve("cmap", answer);
        let client = cmap::Client::connect_map(&place.endpoint, Map::Stats).unwrap();
        let all = TrackEvents::ALL;
        for (key, events) in [
            ("stats.ipcs.", all | TrackEvents::PREFIX),
            ("stats.ipcs.global.active", all),
            ("stats.ipcs.global.active", TrackEvents::DELETE),
        ] {
            match client.track_add(key, events) {
                Ok(_) => assert!(is_3_1),
                Err(Error::Unsupported { since, .. }) => assert_eq!((is_3_1, since), (false, "3.1")),
                other => panic!("{other:?}"),
            }
        }
        client.track_add("stats.ipcs.global.active", TrackEvents::MODIFY).unwrap();
        let tracked = asked.lock().unwrap().iter().filter(|id| **id == TRACK_ADD).count();
        assert_eq!(tracked, coming + 1);
    }
}
