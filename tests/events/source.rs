//! Clients of every service, and how to have the daemon send them events.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use corosync_ipc::cfg::{self, ShutdownAnswer, ShutdownKind};
use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use corosync_ipc::{CsError, Endpoint, ServiceClient, TrackFlags, evs, quorum, votequorum};
use testbed::{Setup, Version, cs, next};

/// A service whose daemon can be made to send an event.
pub(crate) trait Source: ServiceClient {
    /// A client to which no events come by themselves.
    fn quiet(endpoint: &Endpoint) -> Self;

    /// Has the daemon send events, which are there when this returns.
    fn cause(client: &Self);

    /// What a daemon needs to have the service and its events.
    fn setup() -> Setup {
        Setup::new()
    }
}

impl Source for cmap::Client {
    fn quiet(endpoint: &Endpoint) -> cmap::Client {
        let client = cmap::Client::connect_to(endpoint).unwrap();
        client.track_add(&cause_key(&client), TrackEvents::ALL).unwrap();
        client
    }

    fn cause(client: &cmap::Client) {
        client.set(&cause_key(client), number()).unwrap();
    }
}

/// A key of this client's own.
fn cause_key(client: &cmap::Client) -> String {
    format!("cause.{}.{}", std::process::id(), descriptor(client))
}

fn descriptor<C: ServiceClient>(client: &C) -> RawFd {
    client.as_fd().as_raw_fd()
}

/// A number that nothing else in this process has.
fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Source for quorum::Client {
    fn quiet(endpoint: &Endpoint) -> quorum::Client {
        quorum::Client::connect_to(endpoint).unwrap()
    }

    fn cause(client: &quorum::Client) {
        client.track_start(TrackFlags::CURRENT).unwrap();
    }
}

impl Source for votequorum::Client {
    fn quiet(endpoint: &Endpoint) -> votequorum::Client {
        votequorum::Client::connect_to(endpoint).unwrap()
    }

    fn cause(client: &votequorum::Client) {
        client.track_start(7, TrackFlags::CURRENT).unwrap();
    }
}

/// Other members of the groups of this process' clients, which see when a message is delivered.
static WITNESSES: Mutex<Vec<(GroupName, Arc<cpg::Client>)>> = Mutex::new(Vec::new());

impl Source for cpg::Client {
    fn quiet(endpoint: &Endpoint) -> cpg::Client {
        let group = GroupName::new(format!("events.{}.{}", std::process::id(), number())).unwrap();
        let [client, witness] = [(); 2].map(|()| {
            let endpoint = endpoint.clone().ring_size(1 << 16);
            let client =
                cpg::Client::connect_with(&endpoint, cpg::Options::new().pid(number())).unwrap();
            client.join(&group).unwrap();
            client
        });
        for (client, changes) in [(&client, 2), (&witness, 1)] {
            (0..changes).for_each(|_| _ = next(client));
        }
        WITNESSES.lock().unwrap().push((group, Arc::new(witness)));
        client
    }

    fn cause(client: &cpg::Client) {
        let group = client.joined().unwrap();
        let witness =
            WITNESSES.lock().unwrap().iter().find(|(of, _)| *of == group).unwrap().1.clone();
        client.multicast(Guarantee::AGREED, b"cause").unwrap();
        // It comes back through totem. The daemon hands it to all members, then takes the next
        // request.
        next(&witness);
        client.local_node_id().unwrap();
    }
}

/// The first corosync that asks trackers before it shuts down.
pub(crate) const ASKS: Version = [3, 1, 1, 0];

/// Held while a body asks for a shutdown: all who track are asked.
pub(crate) static SHUTDOWN: Mutex<()> = Mutex::new(());

/// Where the clients of cfg found their daemon, by their descriptors.
static ENDPOINTS: Mutex<Option<HashMap<RawFd, Endpoint>>> = Mutex::new(None);

/// Notes where a client that tracks, or will, found its daemon.
pub(crate) fn remember(client: &cfg::Client, endpoint: &Endpoint) {
    ENDPOINTS.lock().unwrap().get_or_insert_default().insert(descriptor(client), endpoint.clone());
}

impl Source for cfg::Client {
    fn quiet(endpoint: &Endpoint) -> cfg::Client {
        let client = cfg::Client::connect_to(endpoint).unwrap();
        client.track_start().unwrap();
        remember(&client, endpoint);
        client
    }

    /// Somebody asks for a shutdown, which another one refuses in the name of all.
    fn cause(client: &cfg::Client) {
        let endpoint = ENDPOINTS.lock().unwrap().as_ref().unwrap()[&descriptor(client)].clone();
        // One by one: the thread's stack may be small.
        let asking = cfg::Client::connect_to(&endpoint).unwrap();
        let refusing = cfg::Client::connect_to(&endpoint).unwrap();
        refusing.track_start().unwrap();
        thread::scope(|scope| {
            let asking = scope.spawn(|| asking.try_shutdown(ShutdownKind::REQUEST));
            next(&refusing);
            // The daemon counts answers, not those who give them.
            let mut answers =
                std::iter::repeat_with(|| refusing.reply_to_shutdown(ShutdownAnswer::NO));
            let decided = answers.find(Result::is_err).unwrap();
            assert_eq!((cs(decided), cs(asking.join().unwrap())), (CsError::Access, CsError::Busy));
        });
    }

    fn setup() -> Setup {
        Setup::new().since(ASKS).alone(&SHUTDOWN)
    }
}

impl Source for evs::Client {
    fn quiet(endpoint: &Endpoint) -> evs::Client {
        let client = evs::Client::connect_to(endpoint).unwrap();
        client.join(&[evs::GroupName::new(format!("events.{}", number())).unwrap()]).unwrap();
        // The membership that comes first.
        next(&client);
        client
    }

    fn cause(client: &evs::Client) {
        client.multicast_joined(Guarantee::AGREED, b"cause").unwrap();
        // Who is alone in a cluster has it delivered before the next request is served.
        client.membership().unwrap();
    }

    fn setup() -> Setup {
        Setup::new().evs()
    }
}

/// As [`on_each_host!`](testbed::on_each_host), with bodies that are generic over the service.
macro_rules! for_each_service {
    ($($body:ident;)*) => {
        /// Not to clash with names of those who use this.
        mod each {
            use $crate::source::for_each_service;

            for_each_service!(@ cmap $($body)*);
            for_each_service!(@ cpg $($body)*);
            for_each_service!(@ quorum $($body)*);
            for_each_service!(@ votequorum $($body)*);
            for_each_service!(@ cfg $($body)*);
            for_each_service!(@ evs $($body)*);
        }
    };
    (@ $module:ident $($body:ident)*) => {
        mod $module {
            use corosync_ipc::$module::Client;
            use $crate::source::Source;

            testbed::on_each_host! {
                $($body = super::super::super::$body::<Client>, Client::setup();)*
            }
        }
    };
}
pub(crate) use for_each_service;

/// Takes every event that waits. How many there were.
pub(crate) fn drain<C: ServiceClient>(client: &C) -> usize {
    std::iter::from_fn(|| client.poll_event().unwrap()).count()
}
