//! Every call of every client that makes a request.

use corosync_ipc::cmap::{Map, TrackEvents};
use corosync_ipc::cpg::{GroupName, Guarantee, Iteration};
use corosync_ipc::quorum::Model;
use corosync_ipc::{Error, NodeId, RingId, TrackFlags, cfg, cmap, cpg, evs, quorum, votequorum};
use testbed::raw;

use crate::case::Try;
use crate::daemon::Transport;

/// A call and what it takes.
pub(crate) struct Call {
    pub(crate) name: &'static str,
    /// How many requests a client makes to prepare the call.
    pub(crate) before: usize,
    /// How many requests the call makes.
    pub(crate) requests: usize,
    /// How many more it makes with rings: the first steps of an iteration are made at once, also
    /// those behind its end.
    more_with_rings: usize,
    /// The number of a request that is not waited for.
    pub(crate) unawaited: Option<usize>,
    pub(crate) run: fn(&Try<'_>) -> Result<(), Error>,
}

const fn call(name: &'static str, requests: usize, run: fn(&Try<'_>) -> Result<(), Error>) -> Call {
    Call { name, before: 0, requests, more_with_rings: 0, unawaited: None, run }
}

impl Call {
    const fn after(self, before: usize) -> Self {
        Self { before, ..self }
    }

    const fn unawaited(self, number: usize) -> Self {
        Self { unawaited: Some(number), ..self }
    }

    const fn more_with_rings(self, more_with_rings: usize) -> Self {
        Self { more_with_rings, ..self }
    }

    /// What it takes over a transport.
    pub(crate) fn over(self, transport: Transport) -> Self {
        let more = if transport == Transport::Rings { self.more_with_rings } else { 0 };
        let unawaited = self.unawaited.map(|number| number + more);
        Self { requests: self.requests + more, unawaited, ..self }
    }
}

pub(crate) fn group() -> GroupName {
    GroupName::new("group").unwrap()
}

/// A client that has joined a group, which takes six requests.
pub(crate) fn joined(it: &Try<'_>) -> Result<cpg::Client, Error> {
    it.connected(|endpoint| {
        let patient = cpg::Client::connect_to(&endpoint)?;
        patient.set_request_timeout(std::time::Duration::from_secs(30));
        patient.join(&group())?;
        patient.set_request_timeout(it.timeout());
        Ok(patient)
    })
}

/// How many requests [`joined`] makes: an iteration over the group's members and its end, the join,
/// and two to cmap.
pub(crate) const JOIN: usize = 5;

fn evs_groups() -> [evs::GroupName; 1] {
    [evs::GroupName::new("group").unwrap()]
}

/// The calls of a service.
pub(crate) fn calls(service: &str) -> Vec<Call> {
    match service {
        "cmap" => vec![
            call("cmap get", 1, |it| it.cmap()?.get("test.key").map(drop)),
            call("cmap get_as", 1, |it| it.cmap()?.get_as::<u32>("test.key").map(drop)),
            call("cmap set", 1, |it| it.cmap()?.set("test.key", 1_u8)),
            call("cmap delete", 1, |it| it.cmap()?.delete("test.key")),
            call("cmap increment", 1, |it| it.cmap()?.increment("test.key")),
            call("cmap iter", 5, |it| it.cmap()?.iter("test.").map(drop))
                .unawaited(4)
                .more_with_rings(5),
            call("cmap list", 7, |it| it.cmap()?.list("test.").map(drop)).more_with_rings(5),
            call("cmap nodelist", 5, |it| it.cmap()?.nodelist().map(drop))
                .unawaited(4)
                .more_with_rings(5),
            #[cfg(feature = "serde")]
            call("cmap read", 7, |it| {
                it.cmap()?
                    .read::<std::collections::BTreeMap<String, cmap::Value>>("test.")
                    .map(drop)
            })
            .more_with_rings(5),
            call("cmap track_add", 1, |it| {
                it.cmap()?.track_add("test.key", TrackEvents::ALL).map(drop)
            }),
            call("cmap track_delete", 1, |it| {
                let client = it.cmap()?;
                let tracker = client.track_add("test.key", TrackEvents::ALL)?;
                it.start();
                client.track_delete(tracker)
            })
            .after(1),
            call("cmap connect to stats", 3, |it| {
                let options = cmap::Options::new().map(Map::Stats);
                cmap::Client::connect_with(&it.endpoint(), options).map(drop)
            }),
        ],
        "cpg" => vec![
            call("cpg join", JOIN, |it| it.cpg()?.join(&group())).unawaited(4),
            call("cpg leave", 1, |it| joined(it)?.leave(&group())).after(JOIN),
            call("cpg membership", 3, |it| it.cpg()?.membership(&group()).map(drop)).unawaited(2),
            call("cpg local_node_id", 1, |it| it.cpg()?.local_node_id().map(drop)),
            call("cpg multicast in fragments", 3, |it| {
                joined(it)?.multicast(Guarantee::AGREED, &[7; 40_000])
            })
            .after(JOIN),
            call("cpg iter", 5, |it| {
                it.cpg()?.iter(Iteration::All)?.try_for_each(|entry| entry.map(drop))
            })
            .unawaited(4),
            call("cpg list", 5, |it| it.cpg()?.list(Iteration::Names).map(drop)).unawaited(4),
        ],
        "quorum" => vec![
            call("quorum connect", 1, |it| quorum::Client::connect_to(&it.endpoint()).map(drop)),
            call("quorum connect with model 1", 2, |it| {
                let options = quorum::Options::new().model(Model::V1);
                quorum::Client::connect_with(&it.endpoint(), options).map(drop)
            }),
            call("quorum is_quorate", 1, |it| it.quorum()?.is_quorate().map(drop)).after(1),
            call("quorum track_start", 1, |it| it.quorum()?.track_start(TrackFlags::CHANGES))
                .after(1),
            call("quorum track_stop", 1, |it| it.quorum()?.track_stop()).after(1),
        ],
        "votequorum" => vec![
            call("votequorum info", 1, |it| it.votequorum()?.info(NodeId(1)).map(drop)),
            call("votequorum set_expected", 1, |it| it.votequorum()?.set_expected(1)),
            call("votequorum set_votes", 2, |it| {
                it.votequorum()?.set_votes(votequorum::LOCAL_NODE, 1)
            }),
            call("votequorum track_start", 1, |it| {
                it.votequorum()?.track_start(1, TrackFlags::CHANGES)
            }),
            call("votequorum track_stop", 1, |it| it.votequorum()?.track_stop()),
            call("votequorum qdevice_register", 2, |it| {
                it.votequorum()?.qdevice_register("device")
            }),
            call("votequorum qdevice_unregister", 2, |it| {
                it.votequorum()?.qdevice_unregister("device")
            }),
            call("votequorum qdevice_update", 2, |it| {
                it.votequorum()?.qdevice_update("device", "other")
            }),
            call("votequorum qdevice_poll", 2, |it| {
                it.votequorum()?.qdevice_poll("device", true, RingId::default())
            }),
            call("votequorum qdevice_master_wins", 2, |it| {
                it.votequorum()?.qdevice_master_wins("device", true)
            }),
            call("votequorum set_qdevice_extra_info", 3, |it| {
                it.votequorum()?.set_qdevice_extra_info("info")
            }),
            call("votequorum qdevice_extra_info", 3, |it| {
                it.votequorum()?.qdevice_extra_info(NodeId(1)).map(drop)
            }),
        ],
        "cfg" => vec![
            call("cfg local_node_id", 1, |it| it.cfg()?.local_node_id().map(drop)),
            call("cfg node_addresses", 1, |it| it.cfg()?.node_addresses(NodeId(1)).map(drop)),
            call("cfg ring_status", 2, |it| it.cfg()?.ring_status().map(drop)),
            call("cfg ring_reenable", 1, |it| it.cfg()?.ring_reenable()),
            call("cfg node_status", 2, |it| it.cfg()?.node_status(NodeId(1)).map(drop)),
            call("cfg reload_config", 3, |it| it.cfg()?.reload_config()),
            call("cfg reopen_log_files", 2, |it| it.cfg()?.reopen_log_files()),
            call("cfg kill_node", 1, |it| it.cfg()?.kill_node(NodeId(9), "reason")),
            call("cfg try_shutdown", 1, |it| it.cfg()?.try_shutdown(cfg::ShutdownKind::IMMEDIATE)),
            call("cfg reply_to_shutdown", 1, |it| {
                it.cfg()?.reply_to_shutdown(cfg::ShutdownAnswer::NO)
            }),
            call("cfg track_start", 2, |it| it.cfg()?.track_start()),
            call("cfg track_stop", 2, |it| it.cfg()?.track_stop()),
        ],
        "evs" => vec![
            call("evs join", 1, |it| it.evs()?.join(&evs_groups())),
            call("evs leave", 1, |it| it.evs()?.leave(&evs_groups())),
            call("evs multicast_joined", 1, |it| {
                it.evs()?.multicast_joined(Guarantee::AGREED, b"message")
            }),
            call("evs multicast_groups", 1, |it| {
                it.evs()?.multicast_groups(Guarantee::AGREED, &evs_groups(), b"message")
            }),
            call("evs membership", 1, |it| it.evs()?.membership().map(drop)),
        ],
        _ => vec![call("test request", 1, |it| {
            it.test()?.request(&raw::request(7, b"what")).map(drop)
        })],
    }
}

#[cfg(feature = "tokio")]
pub(crate) fn awaited<C: corosync_ipc::ServiceClient, T: Send + 'static>(
    client: C,
    call: impl FnOnce(&C) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let client = corosync_ipc::AsyncClient::new(client);
    runtime.block_on(client.call(call))
}
