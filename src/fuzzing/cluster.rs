//! The embedded daemons as state machines: a cluster, by requests, partitions and time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Script;
use crate::codec::{CS_OK, Header, Kind};
use crate::embedded::node::{ClientNumber, Config, Ending, ServiceId};
use crate::embedded::world::{ClientOutput, World};
use crate::wire::values::NodeId;
use crate::wire::{Service, inspect};

const NODES: u32 = 3;

/// Longer input finds nothing that several short ones do not.
const MOST_STEPS: usize = 200;

/// A connection to a node.
struct Client {
    node: usize,
    service: ServiceId,
}

/// Runs a cluster. Checks that what a client gets are messages of its service, that nobody else gets
/// one, and that the same input has the same output.
pub fn cluster(data: &[u8]) {
    let start = Instant::now();
    let first = run(data, start);
    assert_eq!(first, run(data, start), "the same input had another output");
}

fn run(data: &[u8], mut now: Instant) -> Vec<ClientOutput> {
    let mut script = Script(data);
    let config = Config::with_nodes(NODES);
    let mut world = World::new(
        (1..=NODES).map(|id| (NodeId(id), config.clone())).collect(),
        script.word().into(),
    );
    let mut clients: BTreeMap<ClientNumber, Client> = BTreeMap::new();
    let mut all = world.start(now, &[0, 1, 2]).expect("the configuration is right");
    let mut next = 1;
    for _ in 0..MOST_STEPS {
        if script.is_empty() {
            break;
        }
        let operation = script.byte();
        let node = usize::from(operation >> 4) % NODES as usize;
        let outputs = match operation & 0xf {
            0 => {
                // As the host does it: nobody connects to a daemon that does not run.
                if world.daemon(node).is_none() || world.is_paused(node) {
                    continue;
                }
                let service = services()[usize::from(script.byte()) % services().len()];
                let client = ClientNumber(next);
                next += 1;
                clients.insert(client, Client { node, service });
                world.step(now, node, |node| {
                    node.connect(now, service, client, 100 + next as i32, "fuzz".to_owned());
                })
            }
            1 => {
                let number = usize::from(script.byte());
                let Some(client) = nth(&clients, number) else { continue };
                let Some(Client { node, service }) = clients.remove(&client) else { continue };
                world.step(now, node, |node| node.disconnect(now, service, client))
            }
            2 => {
                let parts = script.byte();
                let part = |number| {
                    let of = |id: &u32| u32::from(parts) >> (2 * id) & 3 == number;
                    (1..=NODES).filter(of).map(NodeId).collect::<Vec<_>>()
                };
                world.partition(now, &[part(0), part(1), part(2)])
            }
            3 => world.end(now, node, Ending::Killed),
            4 => world.end(now, node, Ending::Stopped),
            5 if world.daemon(node).is_none() => {
                world.start(now, &[node]).expect("the configuration is right")
            }
            6 => world.pause(now, node, true),
            7 => world.pause(now, node, false),
            8 => {
                now += Duration::from_millis(u64::from(script.byte()) * 100);
                world.timer(now)
            }
            _ => {
                let number = usize::from(script.byte());
                let Some(client) = nth(&clients, number) else { continue };
                let Client { node, service } = clients[&client];
                let request = request(&mut script);
                if world.daemon(node).is_none() || world.is_paused(node) {
                    continue;
                }
                world.step(now, node, |node| node.request(now, service, client, &request))
            }
        };
        for output in &outputs {
            check(output, &clients);
            if let ClientOutput::Exit(node) = output {
                clients.retain(|_, client| client.node != *node);
            }
        }
        all.extend(outputs);
    }
    all
}

fn services() -> &'static [ServiceId] {
    ServiceId::all(true)
}

fn nth(clients: &BTreeMap<ClientNumber, Client>, number: usize) -> Option<ClientNumber> {
    clients.keys().nth(number % clients.len().max(1)).copied()
}

/// A request with any id, whose header has the right size.
fn request(script: &mut Script<'_>) -> Bytes {
    let id = i32::from(script.byte() as i8);
    let body = script.counted();
    let header = Header { id, size: 0, error: 0 };
    header.encode(Kind::Request, body).expect("it is short").into()
}

fn check(output: &ClientOutput, clients: &BTreeMap<ClientNumber, Client>) {
    let (client, message, kind) = match output {
        ClientOutput::Reply { client, message, .. } => (client, message, Kind::Response),
        ClientOutput::Event { client, message } => (client, message, Kind::Event),
        ClientOutput::Exit(_) => return,
    };
    let client = clients.get(client).expect("nobody else gets messages");
    let service: Service = client.service.name().parse().expect("corosync's services have names");
    if kind == Kind::Response && Header::status_of(message).is_some_and(|status| status != CS_OK) {
        return;
    }
    let found = inspect(service, kind, message);
    assert_eq!(found.error, None, "{service} {kind:?}: {found:?}");
}
