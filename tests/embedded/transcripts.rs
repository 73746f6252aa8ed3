//! The same calls to the real daemon and to the embedded one, with everything they answer and tell,
//! written down and compared.

use std::fmt::Debug;
use std::thread;
use std::time::Duration;

use corosync_ipc::cfg::{self, ShutdownAnswer, ShutdownKind};
use corosync_ipc::cmap::{self, TrackEvents};
use corosync_ipc::cpg::{self, GroupName, Guarantee, Iteration};
use corosync_ipc::{
    Endpoint, Error, NodeId, Result, ServiceClient, TrackFlags, quorum, votequorum,
};
use testbed::{Cluster, eventually, next};

use crate::{Embedded, TOKEN, like_the_harness, nothing_to_compare};

/// What was called and what came of it, line by line.
#[derive(Default)]
struct Transcript(Vec<String>);

impl Transcript {
    fn call<T: Debug>(&mut self, what: &str, result: Result<T>) -> Option<T> {
        self.0.push(match &result {
            Ok(value) => format!("{what}: {value:?}"),
            Err(Error::Cs { error, .. }) => format!("{what}: {error}"),
            Err(error) => format!("{what}: {error:?}"),
        });
        result.ok()
    }

    /// So many events, and no more.
    fn events<C: ServiceClient>(&mut self, who: &str, client: &C, count: usize)
    where
        C::Event: Debug,
    {
        for _ in 0..count {
            self.0.push(format!("{who} is told {:?}", next(client)));
        }
        // A request has its answer only after the events that were sent before it.
        let more = client.poll_event().unwrap();
        assert!(more.is_none(), "{who} is told {more:?} too, after {:#?}", self.0);
    }
}

/// Runs a script against both, and compares what was written down.
fn compare(script: fn(&Endpoint) -> Transcript) {
    if nothing_to_compare() {
        return;
    }
    let real = Cluster::builder().token(TOKEN).start();
    let embedded = Embedded::start(like_the_harness("same"));
    let theirs = real.node(1).run(|| script(&Endpoint::new())).0;
    let ours = embedded.node().run(|| script(&Endpoint::new())).0;
    assert!(theirs.len() > 10);
    for (number, (theirs, ours)) in theirs.iter().zip(&ours).enumerate() {
        assert_eq!(ours, theirs, "line {number}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn of_cmap() {
    compare(|endpoint| {
        let mut transcript = Transcript::default();
        let told = cmap::Client::connect_to(endpoint).unwrap();
        let client = cmap::Client::connect_to(endpoint).unwrap();
        let all = TrackEvents::ALL;
        for (key, events) in [
            ("", all | TrackEvents::PREFIX),
            ("t.", all | TrackEvents::PREFIX),
            ("t.key", all),
            ("t.key", TrackEvents::DELETE),
            ("t.key", all | TrackEvents::PREFIX),
            ("t.key", all | TrackEvents::PREFIX),
            ("t.k", TrackEvents::MODIFY | TrackEvents::PREFIX),
        ] {
            transcript.call(key, told.track_add(key, events).map(|_| ()));
        }
        transcript.call("set", client.set("t.key", 1_u32));
        transcript.events("told", &told, 5);
        transcript.call("set the same", client.set("t.key", 1_u32));
        transcript.call("set another type", client.set("t.key", "text"));
        transcript.events("told", &told, 6);
        transcript.call("increment text", client.increment("t.key"));
        transcript.call("delete", client.delete("t.key"));
        transcript.events("told", &told, 6);
        transcript.call("delete", client.delete("t.key"));
        transcript.call("key of one byte", client.set("t.", 1_u8));
        transcript.call("a space", client.set("a b.c", 1_u8));
        for key in [
            "runtime.config.totem.token",
            "totem.version",
            "quorum.wait_for_all",
            "nodelist.local_node_pos",
        ] {
            transcript.call(key, client.set(key, 1_u8));
            transcript.call(key, client.delete(key));
            transcript.call(key, client.increment(key));
        }
        // An iterator took its keys before: what is deleted goes at once.
        for key in ["t.1", "t.2", "t.3"] {
            transcript.call(key, client.set(key, 0_u8));
            transcript.events("told", &told, 2);
        }
        let mut iter = client.iter("t.").unwrap();
        transcript.call("first", iter.next().transpose());
        transcript.call("second", iter.next().transpose());
        transcript.call("delete", client.delete("t.2"));
        transcript.events("told", &told, 2);
        transcript.call("gone", client.get("t.2"));
        transcript.call("third", iter.next().transpose());
        transcript.call("delete", client.delete("t.3"));
        transcript.events("told", &told, 2);
        transcript.call("the daemon's counters", client.get("runtime.services.votequorum.0.rx"));
        transcript.call("config version", client.set("totem.config_version", 3_u64));
        let mut keys = Vec::new();
        while keys.len() < 4 {
            let cmap::Event::Notification(event) = next(&told) else {
                panic!("not a notification")
            };
            keys.push(format!("{} {:?} {:?}", event.key, event.old_value, event.new_value));
        }
        transcript.0.extend(keys);
        transcript
    });
}

#[test]
fn of_votes() {
    compare(|endpoint| {
        let mut transcript = Transcript::default();
        let every = TrackFlags::CURRENT | TrackFlags::CHANGES;
        let old =
            quorum::Client::connect_with(endpoint, quorum::Options::new().model(quorum::Model::V0))
                .unwrap();
        let new =
            quorum::Client::connect_with(endpoint, quorum::Options::new().model(quorum::Model::V1))
                .unwrap();
        let votes = votequorum::Client::connect_to(endpoint).unwrap();
        transcript.call("v0", old.track_start(every));
        transcript.call("v1", new.track_start(every));
        transcript.call("votes", votes.track_start(7, every));
        transcript.call("twice", votes.track_start(8, TrackFlags::CHANGES_ONLY));
        transcript.events("v0", &old, 1);
        transcript.events("v1", &new, 1);
        transcript.events("votes", &votes, 2);
        // Two would be more than there are, none less; three votes more than were expected.
        for (expected, told) in [(2, 0), (0, 0), (1, 1)] {
            transcript.call("expected", votes.set_expected(expected));
            transcript.events("votes", &votes, told);
            transcript.call("info", votes.local_info());
        }
        for (count, told) in [(3, 1), (0, 0), (1, 0)] {
            transcript.call("votes", votes.set_votes(NodeId(1), count));
            transcript.events("votes", &votes, told);
            transcript.call("info", votes.local_info());
        }
        transcript.call("unknown", votes.set_votes(NodeId(9), 1));
        transcript.call("unknown", votes.info(NodeId(9)));
        transcript.call("no device", votes.qdevice_unregister("device"));
        transcript
            .call("no device", votes.qdevice_poll("device", true, corosync_ipc::RingId::default()));
        transcript.call("register", votes.qdevice_register("device"));
        transcript.call("again", votes.qdevice_register("device"));
        transcript.call("another", votes.qdevice_register("other"));
        transcript.call(
            "wrong ring",
            votes.qdevice_poll("device", true, corosync_ipc::RingId::default()),
        );
        transcript.call("master wins", votes.qdevice_master_wins("device", true));
        transcript.call("rename", votes.qdevice_update("device", "other"));
        // The daemon renames it when its own message has come round.
        eventually("renamed", || votes.local_info().unwrap().qdevice_name == "other");
        transcript.call("info", votes.local_info());
        transcript.call("old name", votes.qdevice_unregister("device"));
        transcript.call("unregister", votes.qdevice_unregister("other"));
        transcript.call("stop", votes.track_stop());
        transcript.call("stop", votes.track_stop());
        transcript.call("stop", old.track_stop());
        transcript.call("stop", old.track_stop());
        transcript
    });
}

#[test]
fn of_cpg() {
    compare(|endpoint| {
        let mut transcript = Transcript::default();
        let group = GroupName::new("group").unwrap();
        let other = GroupName::new("other").unwrap();
        let client = |pid, initial| {
            let options = cpg::Options::new().pid(pid).initial_totem_confchg(initial);
            cpg::Client::connect_with(endpoint, options).unwrap()
        };
        let (one, two, three) = (client(11, true), client(22, false), client(33, false));
        transcript.call("not joined", one.leave(&group));
        transcript.call("join", one.join(&group));
        transcript.events("one", &one, 2);
        transcript.call("join again", one.join(&group));
        transcript.call("join another", one.join(&other));
        transcript.call("join", two.join(&group));
        transcript.events("one", &one, 1);
        transcript.events("two", &two, 1);
        transcript.call("join", three.join(&other));
        transcript.events("three", &three, 1);
        let same_pid = client(22, false);
        transcript.call("the same pid", same_pid.join(&group));
        transcript.call("the same pid elsewhere", same_pid.join(&other));
        transcript.events("same pid", &same_pid, 1);
        transcript.events("three", &three, 1);
        transcript.call("send", two.multicast(Guarantee::AGREED, b"hello"));
        transcript.events("one", &one, 1);
        transcript.events("two", &two, 1);
        for iteration in [Iteration::Names, Iteration::All, Iteration::Group(other)] {
            let found: Result<Vec<_>> = one.iter(iteration).unwrap().collect();
            transcript.call("iteration", found);
        }
        transcript.call("membership", one.membership(&group));
        transcript.call("membership", one.membership(&GroupName::new("nobody").unwrap()));
        transcript.call("leave", two.leave(&group));
        transcript.events("one", &one, 1);
        transcript.events("two", &two, 1);
        transcript.call("leave again", two.leave(&group));
        drop(same_pid);
        transcript.events("three", &three, 1);
        drop(two);
        drop(three);
        let again = client(22, false);
        transcript.call("join", again.join(&group));
        transcript.events("one", &one, 1);
        transcript.events("again", &again, 1);
        transcript
    });
}

#[test]
fn of_cfg() {
    compare(|endpoint| {
        let mut transcript = Transcript::default();
        let connect = || cfg::Client::connect_to(endpoint).unwrap();
        let (client, one, two) = (connect(), connect(), connect());
        transcript.call("local", client.local_node_id());
        for node in [0, 1, 5].map(NodeId) {
            transcript.call("addresses", client.node_addresses(node));
            transcript.call("status", client.node_status(node));
        }
        transcript.call("rings", client.ring_status());
        transcript.call("reenable", client.ring_reenable());
        transcript.call("kill nobody", client.kill_node(NodeId(5), "test"));
        transcript.call("reload", client.reload_config());
        transcript.call("reopen", client.reopen_log_files());
        transcript.call("answer", one.reply_to_shutdown(ShutdownAnswer::YES));
        transcript.call("track", one.track_start());
        transcript.call("track", one.track_start());
        transcript.call("track", two.track_start());

        // One says no, another yes; while they are asked nobody else may ask.
        thread::scope(|scope| {
            let asked = scope.spawn(|| client.try_shutdown(ShutdownKind::REQUEST));
            transcript.events("one", &one, 1);
            transcript.events("two", &two, 1);
            transcript.call("ask too", connect().try_shutdown(ShutdownKind::REGARDLESS));
            transcript.call("answer", one.reply_to_shutdown(ShutdownAnswer::YES));
            transcript.call("answer", two.reply_to_shutdown(ShutdownAnswer::NO));
            transcript.call("ask", asked.join().unwrap());
        });
        // One does not answer.
        let map = cmap::Client::connect_to(endpoint).unwrap();
        transcript.call("time", map.set("cfg.shutdown_timeout", 300_u32));
        thread::scope(|scope| {
            let asked = scope.spawn(|| {
                client.set_request_timeout(Duration::from_secs(30));
                client.try_shutdown(ShutdownKind::REQUEST)
            });
            transcript.events("one", &one, 1);
            transcript.events("two", &two, 1);
            transcript.call("answer", one.reply_to_shutdown(ShutdownAnswer::YES));
            transcript.call("ask", asked.join().unwrap());
        });
        // Who goes says yes; then nobody is against it.
        thread::scope(|scope| {
            let asked = scope.spawn(|| client.try_shutdown(ShutdownKind::REQUEST));
            transcript.events("one", &one, 1);
            transcript.events("two", &two, 1);
            transcript.call("answer", one.reply_to_shutdown(ShutdownAnswer::YES));
            transcript.call("stop", two.track_stop());
            transcript.call("ask", asked.join().unwrap());
        });
        let ended = testbed::next_or_error(&one).map(Some);
        transcript.0.push(format!("{:?}", ended.map_err(|error| error.is_unreachable())));
        transcript
    });
}
