//! Three nodes are parted, killed, stopped and brought together again: what quorum and votequorum
//! tell of it, compared with what corosync-quorumtool says.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use corosync_ipc::quorum::{self, Model, NodelistNotification};
use corosync_ipc::votequorum::{self, InfoFlags, NodeState};
use corosync_ipc::{Endpoint, Error, NodeId, RingId, ServiceClient, TrackFlags, cmap};
use testbed::{Cluster, Nodes, Patience, Setup, WATCHDOG, eventually, skip, version};

testbed::on_each_host! {
    members_quorum_and_rings_are_told_as_they_change, Setup::new().nodes(3).loses_nodes();
    a_node_that_pauses_is_missed_and_finds_out, Setup::new().nodes(3).loses_nodes();
}

type Members = BTreeSet<NodeId>;

fn set(ids: &[NodeId]) -> Members {
    ids.iter().copied().collect()
}

/// Trackers of one node, and what they were told last.
struct Watch<'a> {
    nodes: &'a Nodes,
    id: u32,
    v0: quorum::Client,
    v1: Option<quorum::Client>,
    votes: votequorum::Client,
    told: Told,
}

/// `None` until told of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Told {
    v0: Option<(bool, u64, Members)>,
    v1: Option<(bool, RingId, Members)>,
    nodelist: Option<(RingId, Members)>,
    votes: Option<(bool, Members)>,
    votes_nodelist: Option<(RingId, Members)>,
}

impl<'a> Watch<'a> {
    fn new(nodes: &'a Nodes, id: u32) -> Watch<'a> {
        nodes.on(id, |endpoint| {
            let v0 = quorum::Client::connect_to(endpoint).unwrap();
            let votes = votequorum::Client::connect_to(endpoint).unwrap();
            let v1 = (nodes.version() >= [3, 1, 0, 0]).then(|| {
                quorum::Client::connect_with(endpoint, quorum::Options::new().model(Model::V1))
                    .unwrap()
            });
            v0.track_start(TrackFlags::CHANGES).unwrap();
            votes.track_start(u64::from(id), TrackFlags::CHANGES).unwrap();
            if let Some(v1) = &v1 {
                v1.track_start(TrackFlags::CHANGES).unwrap();
            }
            Watch { nodes, id, v0, v1, votes, told: Told::default() }
        })
    }

    /// Takes every event that waits, and checks that each fits those before.
    fn look(&mut self) {
        while let Some(event) = self.v0.poll_event().unwrap() {
            let quorum::Event::Notification(told) = event else { panic!("{event:?}") };
            if let Some((_, seq, _)) = &self.told.v0 {
                assert!(told.ring_seq >= *seq, "{told:?} after {seq}");
            }
            self.told.v0 = Some((told.quorate, told.ring_seq, set(&told.members)));
        }
        while let Some(event) = self.v1.as_ref().and_then(|v1| v1.poll_event().unwrap()) {
            match event {
                quorum::Event::Quorum(told) => {
                    self.told.v1 = Some((told.quorate, told.ring_id, set(&told.members)));
                    if let Some(nodelist) = &told.nodelist {
                        self.told.nodelist = Some(self.changed(nodelist));
                    }
                }
                quorum::Event::Nodelist(told) => self.told.nodelist = Some(self.changed(&told)),
                other => panic!("{other:?}"),
            }
        }
        while let Some(event) = self.votes.poll_event().unwrap() {
            let expected = u64::from(self.id);
            match event {
                votequorum::Event::Quorum(votequorum::QuorumNotification {
                    context,
                    quorate,
                    nodes,
                }) => {
                    assert_eq!(context, expected);
                    let members = nodes.iter().filter(|node| node.state == NodeState::MEMBER);
                    self.told.votes = Some((quorate, members.map(|node| node.node_id).collect()));
                }
                votequorum::Event::Nodelist(votequorum::NodelistNotification {
                    context,
                    ring_id,
                    members,
                }) => {
                    assert_eq!(context, expected);
                    self.told.votes_nodelist = Some((ring_id, set(&members)));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// Who joined and who left is the difference to the members told before.
    fn changed(&self, told: &NodelistNotification) -> (RingId, Members) {
        let (members, joined, left) = (set(&told.members), set(&told.joined), set(&told.left));
        if let Some((ring_id, before)) = &self.told.nodelist {
            // corosync tells of the ring again when tracking began just before it did.
            assert!(told.ring_id.seq >= ring_id.seq, "{told:?} after {ring_id}");
            assert!(
                left.is_subset(before) && joined.is_subset(&members),
                "{told:?} after {before:?}"
            );
            let stayed: Members = before.difference(&left).copied().collect();
            assert_eq!(&stayed | &joined, members, "{told:?} after {before:?}");
        } else {
            assert!(joined.is_empty() && left.is_empty(), "{told:?}");
        }
        (told.ring_id, members)
    }

    /// Takes events until all trackers tell of these members, and compares the rest with the tool.
    #[track_caller]
    fn settle(&mut self, members: &[u32], quorate: bool) -> Told {
        let members: Members = members.iter().copied().map(NodeId).collect();
        let patience = Patience::new();
        loop {
            self.look();
            let ring = self.tools_ring(&members, quorate);
            let told = self.agrees(&members, quorate) && ring.is_some_and(|ring| self.is_on(ring));
            if told && self.answers(&members, quorate) {
                break;
            }
            assert!(!patience.is_over(), "not {members:?}, {ring:?}: {:?}", self.told);
            thread::yield_now();
        }
        self.told.clone()
    }

    /// Whether the answers to requests fit these members.
    fn answers(&self, members: &Members, quorate: bool) -> bool {
        let total = u32::try_from(members.len()).unwrap();
        let info = self.votes.local_info().unwrap();
        let nodes = [1, 2, 3].map(NodeId).map(|id| (id, self.votes.info(id).unwrap()));
        self.v0.is_quorate().unwrap() == quorate
            && (info.total_votes, info.quorum, info.highest_expected) == (total, 2, 3)
            && info.flags.contains(InfoFlags::QUORATE) == quorate
            && nodes.iter().all(|(id, info)| {
                let state = info
                    .state
                    .is_none_or(|state| (state == NodeState::MEMBER) == members.contains(id));
                state && (info.node_id, info.votes) == (*id, 1)
            })
    }

    fn agrees(&self, members: &Members, quorate: bool) -> bool {
        let Told { v0, v1, nodelist, votes, votes_nodelist } = &self.told;
        v0.as_ref().is_some_and(|(told, _, ids)| (*told, ids) == (quorate, members))
            && votes.as_ref().is_some_and(|(told, ids)| (*told, ids) == (quorate, members))
            && (self.nodes.version() < [2, 4, 0, 0]
                || votes_nodelist.as_ref().is_some_and(|(_, ids)| ids == members))
            && (self.v1.is_none()
                || v1.as_ref().is_some_and(|(told, _, ids)| (*told, ids) == (quorate, members))
                    && nodelist.as_ref().is_some_and(|(_, ids)| ids == members))
    }

    /// Whether all that was told last was of this ring.
    fn is_on(&self, ring: Option<(NodeId, u64)>) -> bool {
        let Some((node_id, seq)) = ring else { return true };
        let Told { v0, v1, nodelist, votes_nodelist, .. } = &self.told;
        let told = v1.iter().map(|(_, ring_id, _)| ring_id);
        let mut told =
            told.chain(nodelist.iter().chain(votes_nodelist).map(|(ring_id, _)| ring_id));
        v0.as_ref().is_some_and(|(_, told, _)| *told == seq)
            && told.all(|told| *told == RingId { node_id, seq })
    }

    /// The ring by corosync-quorumtool, once it agrees. `Some(None)` where it does not name the
    /// node.
    fn tools_ring(&self, members: &Members, quorate: bool) -> Option<Option<(NodeId, u64)>> {
        let Nodes::Real(cluster) = self.nodes else { return Some(None) };
        let tool = cluster.node(self.id).membership()?;
        let ids: Members = tool.members.iter().copied().map(NodeId).collect();
        if (tool.quorate, &ids) != (quorate, members) {
            return None;
        }
        // 3.x prints hexadecimal numbers with a dot between, 2.x decimal ones with a slash.
        Some(if let Some((node, seq)) = tool.ring.split_once('.') {
            Some((
                NodeId(u32::from_str_radix(node, 16).unwrap()),
                u64::from_str_radix(seq, 16).unwrap(),
            ))
        } else {
            tool.ring
                .split_once('/')
                .map(|(node, seq)| (NodeId(node.parse().unwrap()), seq.parse().unwrap()))
        })
    }

    /// All trackers say that the daemon is gone, after whatever it told before.
    #[track_caller]
    fn assert_disconnected(self) {
        ends(&self.v0);
        ends(&self.votes);
        self.v1.iter().for_each(ends);
    }
}

/// Settles several nodes on one ring, which nodes on a busy machine may do more than once.
#[track_caller]
fn settle_all(watches: &mut [&mut Watch<'_>], members: &[u32], quorate: bool) -> Told {
    let patience = Patience::new();
    loop {
        let told: Vec<Told> =
            watches.iter_mut().map(|watch| watch.settle(members, quorate)).collect();
        if told.iter().all(|one| *one == told[0]) {
            return told[0].clone();
        }
        assert!(!patience.is_over(), "no agreement: {told:?}");
    }
}

#[track_caller]
fn ends<C: ServiceClient>(client: &C) {
    let last = client.events().last();
    assert!(matches!(last, Some(Err(Error::Disconnected { .. }))));
}

fn members_quorum_and_rings_are_told_as_they_change(nodes: &Nodes) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Requests go through whatever happens: while the nodes agree anew, the daemon puts them
        // off.
        let requests = scope.spawn(|| nodes.on(1, |endpoint| requests_until(endpoint, &done)));
        let stop = Stop(&done);
        let [mut first, mut second, mut third] = [1, 2, 3].map(|id| Watch::new(nodes, id));
        settle_all(&mut [&mut first, &mut second, &mut third], &[1, 2, 3], true);

        nodes.partition(&[&[1, 2], &[3]]);
        let majority = settle_all(&mut [&mut first, &mut second], &[1, 2], true);
        assert_ne!(third.settle(&[3], false), majority);

        nodes.heal();
        settle_all(&mut [&mut first, &mut second, &mut third], &[1, 2, 3], true);

        // Killed, it is missed; its coming back is told too.
        nodes.kill(3);
        third.assert_disconnected();
        settle_all(&mut [&mut first, &mut second], &[1, 2], true);
        nodes.start(3);
        let mut third = Watch::new(nodes, 3);
        settle_all(&mut [&mut first, &mut second, &mut third], &[1, 2, 3], true);

        // Stopped in good order, one after the other, until the last is alone.
        nodes.stop(3);
        third.assert_disconnected();
        settle_all(&mut [&mut first, &mut second], &[1, 2], true);
        nodes.stop(2);
        second.assert_disconnected();
        first.settle(&[1], false);
        drop(stop);
        // The embedded cluster needs no time for any of this.
        let least = if matches!(nodes, Nodes::Real(_)) { 100 } else { 0 };
        assert!(requests.join().unwrap() > least);
    });
    assert!(nodes.is_running(1));
}

fn a_node_that_pauses_is_missed_and_finds_out(nodes: &Nodes) {
    let [mut first, mut third] = [1, 3].map(|id| Watch::new(nodes, id));
    settle_all(&mut [&mut first, &mut third], &[1, 2, 3], true);
    let paused = nodes.pause(3);
    first.settle(&[1, 2], true);
    third.look();
    drop(paused);
    settle_all(&mut [&mut first, &mut third], &[1, 2, 3], true);
}

/// corosync 3.1.7 answers a registration by a pointer to its connection, whether that is still
/// there or not.
#[test]
fn a_registration_of_a_quorum_device_that_is_given_up_harms_nobody() {
    if skip() || version() < [2, 1, 0, 0] {
        return;
    }
    // Long enough for a busy machine to send the request and give it up meanwhile.
    let cluster = Cluster::builder().nodes(2).token(5000).start();
    let one = cluster.node(1);
    let (pid, before) = (one.pid(), one.log().len());
    // The token stays with node 2, until node 1 goes on alone.
    let paused = cluster.node(2).pause();
    one.run(|| {
        let impatient = votequorum::Client::connect_to(&Endpoint::new().timeout(WATCHDOG)).unwrap();
        impatient.set_request_timeout(Duration::from_secs(2));
        let registered = impatient.qdevice_register("device");
        assert!(matches!(registered, Err(Error::TimedOut { .. })), "{registered:?}");
        drop(impatient);
        // Nobody connects before the daemon answers, and so takes the place of the connection that
        // is gone.
        one.wait_log_after(before, "Members[1]: 1");
        let client = votequorum::Client::connect().unwrap();
        eventually("the device is registered", || {
            client.local_info().unwrap().flags.contains(InfoFlags::QDEVICE_REGISTERED)
        });
    });
    drop(paused);
    assert!(one.is_running());
    assert_eq!(one.pid(), pid);
}

/// Tells the requesting thread to end, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asks all services again and again; how often.
fn requests_until(endpoint: &Endpoint, done: &AtomicBool) -> u32 {
    let endpoint = endpoint.clone().timeout(WATCHDOG);
    let cmap = cmap::Client::connect_to(&endpoint).unwrap();
    let quorum = quorum::Client::connect_to(&endpoint).unwrap();
    let votes = votequorum::Client::connect_to(&endpoint).unwrap();
    let mut count = 0;
    loop {
        count += 1;
        cmap.set("members.count", count).unwrap();
        assert_eq!(cmap.get_as("members.count").unwrap(), Some(count));
        quorum.is_quorate().unwrap();
        assert_eq!(votes.local_info().unwrap().node_id, NodeId(1));
        thread::yield_now();
        if done.load(Ordering::SeqCst) {
            return count;
        }
    }
}
