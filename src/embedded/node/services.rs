//! A node: all services of a daemon and the map that they share.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;

use super::cfg::Cfg;
use super::cmap::Cmap;
use super::cpg::Cpg;
use super::evs::Evs;
use super::icmap::Icmap;
use super::quorum::Quorum;
use super::stats::Stats;
use super::trackers::{Notice, Watcher};
use super::votequorum::Votequorum;
use super::{ClientNumber, Config, Context, Ending, Exec, Membership, NodeOutput, Version};
use crate::codec::Header;
use crate::error::CsError;
use crate::sys::socket::Credentials;
use crate::wire::values::NodeId;
use crate::wire::{self, Message};

/// A service that clients can connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceId {
    Cmap,
    Cfg,
    Cpg,
    Quorum,
    Votequorum,
    Evs,
}

impl ServiceId {
    /// The services of corosync 3.
    const USUAL: [Self; 5] = [Self::Cmap, Self::Cfg, Self::Cpg, Self::Quorum, Self::Votequorum];
    const WITH_EVS: [Self; 6] =
        [Self::Cmap, Self::Cfg, Self::Cpg, Self::Quorum, Self::Votequorum, Self::Evs];

    pub(crate) fn all(with_evs: bool) -> &'static [Self] {
        if with_evs { &Self::WITH_EVS } else { &Self::USUAL }
    }

    /// Matches `CMAP_SERVICE` and its siblings.
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Cmap => 0,
            Self::Cfg => 1,
            Self::Cpg => 2,
            Self::Quorum => 3,
            Self::Votequorum => 5,
            // corosync 1.99 gives evs the number 0, which is cmap's here.
            Self::Evs => 8,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cmap => "cmap",
            Self::Cfg => "cfg",
            Self::Cpg => "cpg",
            Self::Quorum => "quorum",
            Self::Votequorum => "votequorum",
            Self::Evs => "evs",
        }
    }
}

/// The services that take part in synchronization, in the daemon's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncStep {
    Cmap,
    Cpg,
    Quorum,
    Votequorum,
}

impl SyncStep {
    pub(crate) const ALL: [Self; 4] = [Self::Cmap, Self::Cpg, Self::Quorum, Self::Votequorum];
}

pub(crate) struct Node {
    config: Config,
    icmap: Icmap,
    services: Services,
    membership: Membership,
    outputs: Vec<NodeOutput>,
    pending: VecDeque<Notice>,
}

struct Services {
    cmap: Cmap,
    cfg: Cfg,
    cpg: Cpg,
    quorum: Quorum,
    votequorum: Votequorum,
    evs: Evs,
    stats: Stats,
}

impl Node {
    /// Starts a daemon. It is in no ring yet.
    ///
    /// # Errors
    /// The daemon's error message for a configuration that it does not start with.
    pub(crate) fn start(now: Instant, id: NodeId, config: Config) -> Result<Self, &'static str> {
        let mut icmap = Icmap::default();
        config.fill(&mut icmap, id);
        let services = Services {
            cmap: Cmap::default(),
            cfg: Cfg::new(id, &config),
            cpg: Cpg::new(id, config.version),
            quorum: Quorum::default(),
            votequorum: Votequorum::new(id, config.version),
            evs: Evs::new(id),
            stats: Stats::new(now),
        };
        let mut node = Self {
            config,
            icmap,
            services,
            membership: Membership::default(),
            outputs: Vec::new(),
            pending: VecDeque::new(),
        };
        let started = node.step(now, |services, context| {
            Cmap::start(context);
            services.cfg.start(context);
            services.quorum.start(true);
            services.votequorum.start(context, &mut services.quorum)
        });
        let Services { cfg, stats, .. } = &mut node.services;
        if cfg.is_knet() {
            stats.add_links(node.config.nodes.iter().map(|node| (node.id, cfg.knet_mtu(node.id))));
        }
        node.config.fill_counters(&mut node.icmap);
        started.map(|()| node)
    }

    /// Takes the node's outputs, in order.
    pub(crate) fn take_outputs(&mut self) -> Vec<NodeOutput> {
        let stats = &mut self.services.stats;
        for output in &self.outputs {
            match output {
                NodeOutput::Multicast(_) => stats.count_sent(),
                NodeOutput::Reply { client, .. } => {
                    stats.count(*client, |counters| &mut counters.responses)
                }
                NodeOutput::Event { client, .. } => {
                    stats.count(*client, |counters| &mut counters.events)
                }
                NodeOutput::Exit(_) => {}
            }
        }
        std::mem::take(&mut self.outputs)
    }

    /// Returns true if a user may connect. Matches `cs_ipcs_connection_accept`.
    pub(crate) fn allows(&self, client: Credentials) -> bool {
        let is_set = |key: String| self.icmap.get_as::<u8>(&key) == Some(1);
        client.uid == 0
            || client.gid == 0
            || ["uidgid.", "uidgid.config."].into_iter().any(|section| {
                is_set(format!("{section}uid.{}", client.uid))
                    || is_set(format!("{section}gid.{}", client.gid))
            })
    }

    /// Adds a client. `pid` and `name` are those of its process, for the stats map.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        service: ServiceId,
        client: ClientNumber,
        pid: i32,
        name: String,
    ) {
        self.step(now, |services, context| {
            match service {
                ServiceId::Cmap => services.cmap.connect(client),
                ServiceId::Cpg => services.cpg.connect(client),
                ServiceId::Quorum => services.quorum.connect(client),
                ServiceId::Evs => services.evs.connect(context, client),
                ServiceId::Cfg | ServiceId::Votequorum => {}
            }
            context.notify(services.stats.connect(client, service.number(), pid, name));
        });
        self.count_connections(now);
    }

    pub(crate) fn disconnect(&mut self, now: Instant, service: ServiceId, client: ClientNumber) {
        self.step(now, |services, context| {
            match service {
                ServiceId::Cmap => services.cmap.disconnect(context, &mut services.stats, client),
                ServiceId::Cfg => services.cfg.disconnect(context, client),
                ServiceId::Cpg => services.cpg.disconnect(context, client),
                ServiceId::Quorum => services.quorum.disconnect(client),
                ServiceId::Votequorum => services.votequorum.disconnect(client),
                ServiceId::Evs => services.evs.disconnect(client),
            }
            context.notify(services.stats.disconnect(client));
        });
        self.count_connections(now);
    }

    /// Counts connections in the map, as corosync does until 2.4. Clients recognize by this key
    /// that later requests would crash the daemon.
    fn count_connections(&mut self, now: Instant) {
        if self.config.version < Version::V3_1 {
            self.step(now, |services, context| {
                context.set("runtime.connections.active", services.stats.connections());
            });
        }
    }

    /// Serves a request. A request that cannot be decoded gets the daemon's reply to an unknown id.
    /// The daemon itself does not check that a request has its full size.
    pub(crate) fn request(
        &mut self,
        now: Instant,
        service: ServiceId,
        client: ClientNumber,
        message: &Bytes,
    ) {
        self.services.stats.count(client, |counters| &mut counters.requests);
        if self.config.version.crashes_on(service, message) {
            self.outputs.push(NodeOutput::Exit(Ending::Killed));
            return;
        }
        self.step(now, |services, context| {
            let served = match service {
                ServiceId::Cmap => wire::cmap::AnyRequest::decode(message).map(|request| {
                    services.cmap.request(context, &mut services.stats, client, request)
                }),
                ServiceId::Cfg => wire::cfg::AnyRequest::decode(message)
                    .map(|request| services.cfg.request(context, client, request)),
                ServiceId::Cpg => wire::cpg::AnyRequest::decode(message)
                    .map(|request| services.cpg.request(context, client, request)),
                ServiceId::Quorum => wire::quorum::AnyRequest::decode(message)
                    .map(|request| services.quorum.request(context, client, request)),
                ServiceId::Votequorum => wire::votequorum::AnyRequest::decode(message)
                    .map(|request| services.votequorum.request(context, client, request)),
                ServiceId::Evs => wire::evs::AnyRequest::decode(message).map(|request| {
                    services.evs.request(context, client, request, services.quorum.is_quorate());
                }),
            };
            if served.is_err() {
                services.stats.count(client, |counters| &mut counters.invalid);
                refuse(context, service, client, message, CsError::InvalidParam);
            }
        });
    }

    /// Refuses a request as a busy daemon does.
    pub(crate) fn refuse(
        &mut self,
        now: Instant,
        service: ServiceId,
        client: ClientNumber,
        message: &Bytes,
    ) {
        self.services.stats.count(client, |counters| &mut counters.requests);
        self.services.stats.count(client, |counters| &mut counters.overload);
        self.step(now, |_, context| refuse(context, service, client, message, CsError::TryAgain));
    }

    /// Delivers a message of a member, in the agreed order.
    pub(crate) fn deliver(&mut self, now: Instant, from: NodeId, exec: Exec) {
        self.services.stats.count_delivered();
        let (service, number) = exec.counted_as();
        self.step(now, |_, context| context.count(service, number, "rx"));
        if let Exec::Cfg(super::cfg::Exec::Reload(_)) = exec {
            // One step for each change, since other services track these keys.
            for (key, value) in Cfg::RELOAD {
                self.step(now, |_, context| context.set(key, value));
            }
        }
        self.step(now, |services, context| match exec {
            Exec::ConfigVersion(version) => Cmap::deliver(context, from, version),
            Exec::Cfg(exec) => services.cfg.deliver(context, from, exec),
            Exec::Cpg(exec) => services.cpg.deliver(context, from, exec),
            Exec::Votequorum(exec) => {
                services.votequorum.deliver(context, &mut services.quorum, from, exec)
            }
            Exec::Evs(exec) => services.evs.deliver(context, from, exec),
        });
    }

    /// Changes the membership. Synchronization must follow, each step on all members before the
    /// next one.
    pub(crate) fn configure(&mut self, now: Instant, membership: Membership) {
        let addresses: Vec<_> = membership
            .joined
            .iter()
            .map(|id| (*id, format!("r(0) ip({}) ", self.config.address(*id))))
            .collect();
        self.membership = membership.clone();
        self.services.stats.count_ring(&membership.members);
        self.step(now, |services, context| {
            for node in &membership.left {
                context.set(&format!("runtime.members.{node}.status"), "left");
            }
            for (node, address) in addresses {
                let key = |name: &str| format!("runtime.members.{node}.{name}");
                let count: Option<u32> = context.icmap.get_as(&key("join_count"));
                if count.is_none() {
                    context.set(&key("ip"), address);
                }
                context.set(&key("join_count"), count.unwrap_or(0).wrapping_add(1));
                context.set(&key("status"), "joined");
            }
            services.cfg.configure(&membership.members);
            services.evs.configure(context, &membership);
            services.cpg.sync_init(&membership);
            services.quorum.sync_init(&membership);
            services.votequorum.sync_init(context, &membership);
        });
    }

    pub(crate) fn sync_process(&mut self, now: Instant, step: SyncStep) {
        let membership = self.membership.clone();
        self.step(now, |services, context| match step {
            SyncStep::Cmap => Cmap::sync_process(context, &membership),
            SyncStep::Cpg => services.cpg.sync_process(context),
            SyncStep::Quorum => {}
            SyncStep::Votequorum => services.votequorum.sync_process(context),
        });
    }

    pub(crate) fn sync_activate(&mut self, now: Instant, step: SyncStep) {
        self.step(now, |services, context| match step {
            SyncStep::Cmap => {}
            SyncStep::Cpg => services.cpg.sync_activate(context),
            SyncStep::Quorum => services.quorum.sync_activate(context),
            SyncStep::Votequorum => {
                services.votequorum.sync_activate(context, &mut services.quorum)
            }
        });
    }

    /// Returns true once this node has processed a step. When all members have, the step is
    /// activated.
    pub(crate) fn is_sync_processed(&self, step: SyncStep) -> bool {
        step != SyncStep::Votequorum || !self.services.votequorum.waits_for_device()
    }

    /// Unloads the services before the daemon ends in good order, the ones with the highest
    /// priority first.
    pub(crate) fn unload(&mut self, now: Instant) {
        self.step(now, |services, context| {
            services.votequorum.unload(context);
            services.cpg.unload(context);
        });
    }

    /// The time of the next call of [`Node::timer`].
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        let Services { votequorum, cfg, stats, .. } = &self.services;
        [votequorum.next_timer(), cfg.next_timer(), stats.next_timer()].into_iter().flatten().min()
    }

    pub(crate) fn timer(&mut self, now: Instant) {
        self.step(now, |services, context| {
            services.votequorum.timer(context, &mut services.quorum);
            services.cfg.timer(context);
            context.notify(services.stats.timer(context.now));
        });
    }

    /// Runs `body`, then delivers the pending notices of the changes it made to the map.
    fn step<T>(
        &mut self,
        now: Instant,
        body: impl FnOnce(&mut Services, &mut Context<'_>) -> T,
    ) -> T {
        let mut context = Context {
            now,
            icmap: &mut self.icmap,
            outputs: &mut self.outputs,
            pending: &mut self.pending,
        };
        let result = body(&mut self.services, &mut context);
        while let Some(notice) = context.pending.pop_front() {
            match notice.watcher {
                Watcher::Votequorum => self.services.votequorum.refresh(&mut context, &notice),
                Watcher::ConfigVersion | Watcher::Client { .. } => context.notify(vec![notice]),
            }
        }
        result
    }
}

/// Refuses a request. A multicast is dropped: its sender expects no reply.
fn refuse(
    context: &mut Context<'_>,
    service: ServiceId,
    client: ClientNumber,
    message: &Bytes,
    error: CsError,
) {
    if service != ServiceId::Cpg || Header::id_of(message) != Some(wire::cpg::Mcast::ID) {
        context.refuse(client, 0, error);
    }
}
