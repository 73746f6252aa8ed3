//! All calls of the clients of all services, for daemons that answer with anything.

use std::ops::ControlFlow;
use std::time::Duration;

use crate::client::{Dispatch, ServiceClient};
use crate::endpoint::Endpoint;
use crate::error::Result;
use crate::wire::Service;
use crate::wire::values::{NodeId, RingId, TrackFlags};
use crate::{cfg, cmap, cpg, evs, quorum, votequorum};

/// Connects to a service and makes all its calls.
///
/// # Errors
/// As connecting has them. What becomes of the calls does not matter.
pub(crate) fn call(service: Service, endpoint: &Endpoint) -> Result<()> {
    match service {
        Service::Cmap => cmap::Client::connect_to(endpoint).map(|client| call_cmap(&client)),
        Service::Quorum => quorum::Client::connect_to(endpoint).map(|client| call_quorum(&client)),
        Service::Votequorum => {
            votequorum::Client::connect_to(endpoint).map(|client| call_votequorum(&client))
        }
        Service::Cfg => cfg::Client::connect_to(endpoint).map(|client| call_cfg(&client)),
        Service::Evs => evs::Client::connect_to(endpoint).map(|client| call_evs(&client)),
        Service::Cpg => cpg::Client::connect_to(endpoint).map(|client| call_cpg(&client)),
    }
}

/// Takes events in every way that does not wait for ever.
fn events<C: ServiceClient>(client: &C)
where
    C::Event: std::fmt::Debug,
{
    while let Ok(Some(event)) = client.poll_event() {
        drop(format!("{event:?}"));
    }
    let _ = client.dispatch(Dispatch::All, |_| ControlFlow::Continue(()));
    let _ = client.next_event(Duration::from_millis(1)).map(|event| format!("{event:?}"));
}

fn call_cmap(client: &cmap::Client) {
    let _ = client.get("some.key");
    let _ = client.set("some.key", 7_u32);
    let _ = client.increment("some.key");
    let tracker = client.track_add("some.", cmap::TrackEvents::ALL | cmap::TrackEvents::PREFIX);
    events(client);
    let _ = client.list("some.");
    let _ = client.iter("").map(|keys| keys.take(20).count());
    let _ = tracker.map(|tracker| client.track_delete(tracker));
    let _ = client.delete("some.key");
    events(client);
}

fn call_cpg(client: &cpg::Client) {
    let group = cpg::GroupName::new("group").unwrap();
    let _ = client.join(&group);
    let _ = client.multicast(cpg::Guarantee::AGREED, b"message");
    let _ = client.try_multicast(cpg::Guarantee::AGREED, b"message");
    events(client);
    let _ = client.multicast(cpg::Guarantee::AGREED, &vec![7; 2 << 20]);
    let _ = client.membership(&group);
    let _ = client.local_node_id();
    let _ = client.iter(cpg::Iteration::All).map(|entries| entries.take(20).count());
    events(client);
    let _ = client.leave(&group);
}

fn call_quorum(client: &quorum::Client) {
    let _ = client.is_quorate();
    let _ = client.track_start(TrackFlags::CURRENT | TrackFlags::CHANGES);
    events(client);
    let _ = client.track_stop();
}

fn call_votequorum(client: &votequorum::Client) {
    let _ = client.local_info();
    let _ = client.info(NodeId(2));
    let _ = client.set_expected(3);
    let _ = client.set_votes(NodeId(2), 1);
    let _ = client.track_start(1, TrackFlags::CHANGES);
    events(client);
    let _ = client.qdevice_register("device");
    let _ = client.qdevice_poll("device", true, RingId::default());
    let _ = client.qdevice_update("device", "other");
    let _ = client.qdevice_master_wins("device", true);
    let _ = client.qdevice_unregister("device");
    let _ = client.set_qdevice_extra_info(vec![1; 100]);
    let _ = client.qdevice_extra_info(NodeId(2));
    let _ = client.track_stop();
}

fn call_cfg(client: &cfg::Client) {
    let _ = client.local_node_id();
    let _ = client.ring_status();
    let _ = client.node_status(NodeId(2));
    let _ = client.node_addresses(NodeId(2));
    let _ = client.reload_config();
    let _ = client.reopen_log_files();
    let _ = client.kill_node(NodeId(2), "reason");
    let _ = client.track_start();
    events(client);
    // `try_shutdown` is left out: it waits for trackers' answers, longer than the request timeout.
    let _ = client.reply_to_shutdown(cfg::ShutdownAnswer::NO);
    let _ = client.track_stop();
}

fn call_evs(client: &evs::Client) {
    let groups = [evs::GroupName::new("group").unwrap()];
    let _ = client.join(&groups);
    let _ = client.multicast_joined(evs::Guarantee::AGREED, b"message");
    let _ = client.multicast_groups(evs::Guarantee::AGREED, &groups, b"message");
    events(client);
    let _ = client.membership();
    let _ = client.leave(&groups);
}
