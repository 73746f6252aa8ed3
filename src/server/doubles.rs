//! Daemons that try a client's patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;

use super::daemon::{Clock, Daemon};
use super::services::{Config, NodeConfig, ServiceId};
use super::world::World;
use super::{Conn, Connections, Gone, Handler, Listener, Peer, Refusal};
use crate::endpoint::Endpoint;
use crate::sys::event::Bell;
use crate::types::NodeId;
use crate::wire::{Header, Kind, Message, Reader, cmap, cpg};

/// An embedded corosync that takes its time for each request and for each connection.
pub(crate) struct SlowDaemon {
    delay: Arc<AtomicU64>,
    endpoint: Endpoint,
    // Before the directory: its files go first.
    _listener: Listener<Slow>,
    _directory: TempDir,
}

impl SlowDaemon {
    /// One that is not slow yet.
    pub(crate) fn start() -> Self {
        let node = NodeConfig { id: NodeId(1), name: "n1".into(), address: "127.0.0.1".into(), votes: None };
        let config = Config { cluster_name: "slow".into(), nodes: vec![node], settings: Vec::new() };
        let mut world = World::new(vec![(NodeId(1), config)], 0);
        world.start(Instant::now(), &[0]).unwrap();
        let services = ServiceId::all(true);
        let delay = Arc::new(AtomicU64::new(0));
        let daemon = Daemon::new(world, vec![Arc::new(Bell::new().unwrap())], Clock::Real, services);
        let slow = Slow { daemon, delay: Arc::clone(&delay) };
        let (endpoint, directory) = private_endpoint();
        let builder = Listener::<Slow>::builder().endpoint(&endpoint);
        let builder = services.iter().fold(builder, |builder, service| builder.service(service.name()));
        Self { delay, endpoint, _listener: builder.start(slow).unwrap(), _directory: directory }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How long each request takes that comes from now on.
    pub(crate) fn set_delay(&self, delay: Duration) {
        self.delay.store(u64::try_from(delay.as_nanos()).unwrap(), Ordering::SeqCst);
    }
}

struct Slow {
    daemon: Daemon,
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

/// What a daemon's iterators of cmap and cpg find for ever: keys like `key.00000001` with values of this many bytes, and entries.
pub(crate) struct Endless {
    pub(crate) value_len: u64,
    given: u64,
}

impl Endless {
    pub(crate) fn start(value_len: u64) -> (Endpoint, impl Sized) {
        let (endpoint, directory) = private_endpoint();
        let builder = Listener::<Self>::builder().endpoint(&endpoint).service("cmap").service("cpg");
        let listener = builder.start(Self { value_len, given: 0 }).unwrap();
        (endpoint, (listener, directory))
    }
}

impl Handler for Endless {
    type Session = ();

    fn authorize(&mut self, _: &Peer<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn on_request(&mut self, conn: &mut Conn<'_, ()>, request: Bytes) {
        self.given += 1;
        let id = Header::read(&mut Reader::new("request", &request), Kind::Request).unwrap().id;
        let answer = match (conn.service_index(), id) {
            (0, cmap::IterNext::ID) => {
                let key_name = format!("key.{:08}", self.given).into();
                cmap::IterNextReply { key_name, value_len: self.value_len, value_type: crate::cmap::ValueType::BINARY }
                    .encode()
            }
            (0, cmap::Get::ID) => {
                let data = vec![7; usize::try_from(self.value_len).unwrap()].into();
                let value = cmap::RawValue { value_type: crate::cmap::ValueType::BINARY, data };
                cmap::GetReply { value_len: self.value_len, value }.encode()
            }
            (0, _) => cmap::IterInitReply { iter_handle: 1 }.encode(),
            (_, cpg::IterationNext::ID) => {
                let group = crate::cpg::GroupName::new(self.given.to_ne_bytes()).unwrap();
                cpg::IterationNextReply { description: cpg::Description { group, nodeid: NodeId(1), pid: 1 } }.encode()
            }
            (..) => cpg::IterationInitializeReply { iteration_handle: 1 }.encode(),
        };
        conn.reply(&answer.unwrap()).unwrap();
    }
}

fn private_endpoint() -> (Endpoint, TempDir) {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    (Endpoint::new().socket_dir(directory.path()).shm_root(directory.path()), directory)
}
