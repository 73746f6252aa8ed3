//! Clients of every service, and how to have the daemon send them events.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use corosync_ipc::cmap::{Cmap, TrackEvents};
use corosync_ipc::cpg::{Cpg, GroupName, Guarantee};
use corosync_ipc::quorum::Quorum;
use corosync_ipc::votequorum::Votequorum;
use corosync_ipc::{Client, Endpoint, Service, TrackFlags, cmap, cpg, quorum, votequorum};

use crate::harness::WATCHDOG;

/// A service whose daemon can be made to send an event.
pub(crate) trait Source: Service + Sized {
    /// A client to which no events come by themselves.
    fn client(endpoint: &Endpoint) -> Client<Self>;

    /// Has the daemon send events, which are there when this returns.
    fn cause(client: &Client<Self>);
}

impl Source for Cmap {
    fn client(endpoint: &Endpoint) -> cmap::Client {
        let client = cmap::Client::connect_to(endpoint).unwrap();
        client.track_add(&cause_key(&client), TrackEvents::ALL).unwrap();
        client
    }

    fn cause(client: &cmap::Client) {
        static VALUE: AtomicU32 = AtomicU32::new(0);
        client.set(&cause_key(client), VALUE.fetch_add(1, Ordering::Relaxed)).unwrap();
    }
}

/// A key of this client's own.
fn cause_key(client: &cmap::Client) -> String {
    use std::os::fd::{AsFd, AsRawFd};
    format!("cause.{}.{}", std::process::id(), client.as_fd().as_raw_fd())
}

impl Source for Quorum {
    fn client(endpoint: &Endpoint) -> quorum::Client {
        quorum::Client::connect_to(endpoint).unwrap()
    }

    fn cause(client: &quorum::Client) {
        client.track_start(TrackFlags::CURRENT).unwrap();
    }
}

impl Source for Votequorum {
    fn client(endpoint: &Endpoint) -> votequorum::Client {
        votequorum::Client::connect_to(endpoint).unwrap()
    }

    fn cause(client: &votequorum::Client) {
        client.track_start(7, TrackFlags::CURRENT).unwrap();
    }
}

impl Source for Cpg {
    fn client(endpoint: &Endpoint) -> cpg::Client {
        static MEMBERS: AtomicU32 = AtomicU32::new(1);
        let join = |group: &GroupName| {
            let pid = MEMBERS.fetch_add(1, Ordering::Relaxed);
            let client = cpg::Client::connect_with(&endpoint.clone().ring_size(1 << 16), cpg::Options::new().pid(pid));
            let client = client.unwrap();
            client.join(group).unwrap();
            client
        };
        let group = format!("events.{}.{}", std::process::id(), MEMBERS.load(Ordering::Relaxed));
        let group = GroupName::new(group).unwrap();
        let client = join(&group);
        let witness = join(&group);
        for (client, changes) in [(&client, 2), (&witness, 1)] {
            (0..changes).for_each(|_| assert!(client.next_event(WATCHDOG).unwrap().is_some()));
        }
        with_witnesses(|witnesses| witnesses.insert(group, Arc::new(witness)));
        client
    }

    fn cause(client: &cpg::Client) {
        let group = client.joined().unwrap();
        let witness = with_witnesses(|witnesses| Arc::clone(&witnesses[&group]));
        client.multicast(Guarantee::AGREED, b"cause").unwrap();
        // It comes back through totem. The daemon hands it to all members, then takes the next request.
        assert!(witness.next_event(WATCHDOG).unwrap().is_some());
        client.local_node_id().unwrap();
    }
}

/// Members of the groups of this process' clients that see when a message is delivered.
fn with_witnesses<T>(with: impl FnOnce(&mut HashMap<GroupName, Arc<cpg::Client>>) -> T) -> T {
    static WITNESSES: Mutex<Option<HashMap<GroupName, Arc<cpg::Client>>>> = Mutex::new(None);
    with(WITNESSES.lock().unwrap().get_or_insert_default())
}

/// Makes tests of bodies that are generic over the service and take an endpoint, each against a daemon they share.
macro_rules! for_each_service {
    ($($body:ident)*) => {
        for_each_service!(@ cmap corosync_ipc::cmap::Cmap, $($body)*);
        for_each_service!(@ cpg corosync_ipc::cpg::Cpg, $($body)*);
        for_each_service!(@ quorum corosync_ipc::quorum::Quorum, $($body)*);
        for_each_service!(@ votequorum corosync_ipc::votequorum::Votequorum, $($body)*);
    };
    (@ $module:ident $service:ty, $($body:ident)*) => {
        mod $module {
            $(
                #[test]
                fn $body() {
                    if !$crate::harness::skip() {
                        let node = $crate::harness::shared_one().node(1);
                        node.run(|| super::$body::<$service>(&corosync_ipc::Endpoint::new()));
                    }
                }
            )*
        }
    };
}
pub(crate) use for_each_service;

/// Takes every event that waits. How many there were.
pub(crate) fn drain<S: Service>(client: &Client<S>) -> usize {
    std::iter::from_fn(|| client.poll_event().unwrap()).count()
}
