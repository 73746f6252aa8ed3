//! Tests of all clients against daemons that are slow, that end, or that answer at random. Those that
//! lie are in `tests/liar/`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod datagrams;
mod deadlines;
mod ending;
mod hostile;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;

use crate::address::SocketAddress;
use crate::codec::setup::{CONNECT_REQUEST_SIZE, ConnectReply, ConnectRequest};
use crate::codec::{Header, Kind, Reader, encode_refusal};
use crate::embedded::host::{Clock, Host};
use crate::embedded::node::{Config, ServiceId};
use crate::embedded::world::World;
use crate::endpoint::Endpoint;
use crate::error::CsError;
use crate::libqb::server::rings::{Request, Rings};
use crate::libqb::server::{
    Conn, Connections, Generation, Gone, Handler, Listener, Peer, Refusal, RingAccess, Transport,
};
use crate::sys::event::Wakeup;
use crate::sys::socket;
use crate::sys::socket::Credentials;
use crate::sys::wait::{Interest, Ready, wait_for};
use crate::wire::values::NodeId;
use crate::wire::{Message, cmap, cpg};

/// An embedded corosync that delays each request and each connection.
pub(crate) struct SlowDaemon {
    delay: Arc<AtomicU64>,
    endpoint: Endpoint,
    // Declared before the directory, so that it removes its files first.
    _listener: Listener<Slow>,
    _directory: TempDir,
}

impl SlowDaemon {
    /// Starts the daemon without a delay.
    pub(crate) fn start(transport: Transport) -> Self {
        let mut world = World::new(vec![(NodeId(1), Config::with_nodes(1))], 0);
        world.start(Instant::now(), &[0]).unwrap();
        let services = ServiceId::all(true);
        let delay = Arc::new(AtomicU64::new(0));
        let daemon =
            Host::new(world, vec![Arc::new(Wakeup::new().unwrap())], Clock::Real, services);
        let slow = Slow { daemon, delay: Arc::clone(&delay) };
        let (endpoint, directory) = private_endpoint();
        let builder = Listener::<Slow>::builder().endpoint(&endpoint).transport(transport);
        let builder =
            services.iter().fold(builder, |builder, service| builder.service(service.name()));
        Self { delay, endpoint, _listener: builder.start(slow).unwrap(), _directory: directory }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sets the delay of each later request and connection.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

struct Slow {
    daemon: Host,
    delay: Arc<AtomicU64>,
}

impl Slow {
    fn wait(&self) {
        thread::sleep(Duration::from_nanos(self.delay.load(Ordering::SeqCst)));
    }
}

impl Handler for Slow {
    type Session = ();

    fn authorize(&mut self, peer: &Peer<'_>) -> Result<(), Refusal> {
        self.wait();
        self.daemon.authorize(peer)
    }

    fn on_connect(&mut self, conn: &mut Conn<'_, ()>) {
        self.daemon.on_connect(conn);
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        self.wait();
        self.daemon.on_request(conn, request);
    }

    fn on_disconnect(&mut self, connections: &mut Connections<()>, gone: Gone<()>) {
        self.daemon.on_disconnect(connections, gone);
    }

    fn on_timer(&mut self, connections: &mut Connections<()>) {
        self.daemon.on_timer(connections);
    }
}

/// A daemon whose iterators have no end. Those of cmap return keys like `key.00000001` with values
/// of `value_len` bytes, those of cpg return members. Only a cpg iterator of one group ends: the
/// group has no members. Each fragment is refused because the group's membership has changed.
pub(crate) struct Endless {
    pub(crate) value_len: u64,
    /// The number of requests so far.
    requests: u64,
    /// The cpg iterator is for one group.
    one_group: bool,
}

impl Endless {
    pub(crate) fn start(value_len: u64, transport: Transport) -> (Endpoint, impl Sized) {
        let (endpoint, directory) = private_endpoint();
        let builder = Listener::<Self>::builder().endpoint(&endpoint).transport(transport);
        let builder = builder.service("cmap").service("cpg");
        let listener = builder.start(Self { value_len, requests: 0, one_group: false }).unwrap();
        (endpoint, (listener, directory))
    }
}

impl Handler for Endless {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        self.requests += 1;
        let id = Header::read(&mut Reader::new("request", &request), Kind::Request).unwrap().id;
        let answer = match (conn.service_index(), id) {
            (0, cmap::IterNext::ID) => {
                let key_name = format!("key.{:08}", self.requests).into();
                cmap::IterNextReply {
                    key_name,
                    value_len: self.value_len,
                    value_type: crate::cmap::ValueType::BINARY,
                }
                .encode()
            }
            (0, cmap::Get::ID) => {
                let data = vec![7; usize::try_from(self.value_len).unwrap()].into();
                let value = cmap::RawValue { value_type: crate::cmap::ValueType::BINARY, data };
                cmap::GetReply { value_len: self.value_len, value }.encode()
            }
            (0, _) => cmap::IterInitReply { iter_handle: 1 }.encode(),
            (_, cpg::IterationInitialize::ID) => {
                let request = cpg::IterationInitialize::decode(&request).unwrap();
                self.one_group = request.iteration_type == 2;
                cpg::IterationInitializeReply { iteration_handle: 1 }.encode()
            }
            (_, cpg::IterationNext::ID) if self.one_group => {
                encode_refusal(cpg::IterationNextReply::ID, CsError::NoSections)
            }
            (_, cpg::IterationNext::ID) => {
                let group = crate::cpg::GroupName::new(self.requests.to_ne_bytes()).unwrap();
                cpg::IterationNextReply {
                    description: cpg::Description { group, nodeid: NodeId(1), pid: 1 },
                }
                .encode()
            }
            (_, cpg::PartialMcast::ID) => {
                encode_refusal(cpg::PartialSendReply::ID, CsError::Interrupt)
            }
            (..) => cpg::JoinReply {}.encode(),
        };
        conn.reply(&answer.unwrap()).unwrap();
    }
}

/// Takes a client's request and makes what it gets. Returns the reply too, which is not sent.
fn set_up(
    client: &OwnedFd,
    root: &Path,
    transport: Transport,
    generation: Generation,
) -> (Rings, ConnectReply) {
    let mut request = [0; CONNECT_REQUEST_SIZE];
    assert_eq!(wait_for(client, Interest::Readable, None).unwrap(), Ready::Yes);
    assert_eq!(socket::receive_now(client, &mut request).unwrap(), request.len());
    let ConnectRequest { max_msg_size } = ConnectRequest::decode(&request).unwrap();
    let credentials: Credentials = socket::peer_credentials(client).unwrap();
    let access = RingAccess { uid: credentials.uid, gid: credentials.gid, mode: 0o600 };
    let address = SocketAddress::Path(root.join("cpg"));
    let rings = Request {
        transport,
        address: &address,
        generation,
        root,
        client_root: root,
        marker: None,
        service: "cpg",
        client: credentials,
        access,
        fd: 1,
        max_msg_size,
    };
    let rings = Rings::create(&rings).unwrap();
    let [request, response, event] = rings.names.clone();
    let reply = ConnectReply {
        generation: generation.reply(),
        error: 0,
        transport: rings.transport,
        max_msg_size,
        cookie: 1,
        request,
        response,
        event,
    };
    (rings, reply)
}

fn send_reply(client: &OwnedFd, reply: &ConnectReply) {
    let reply = reply.encode().unwrap();
    assert_eq!(socket::send_now(client, &reply).unwrap(), reply.len());
}

/// Both transports, which every test here is about.
pub(crate) const TRANSPORTS: [Transport; 2] = [Transport::Shm, Transport::Socket];

fn private_endpoint() -> (Endpoint, TempDir) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    (Endpoint::new().socket_dir(directory.path()).shm_root(directory.path()), directory)
}
