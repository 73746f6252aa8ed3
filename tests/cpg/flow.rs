//! Flow control: daemons that are stopped, overloaded or synchronizing.

use std::collections::HashSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::cpg::{Client, Confchg, Deliver, Event, Guarantee};
use corosync_ipc::{CsError, Error};
use testbed::{Host, Nodes, Setup};

use crate::support::{
    connect, group, has_fragments, join, next, next_change, next_message, own_options, pattern,
    send,
};

testbed::on_each_host! {
    a_stopped_daemon_takes_what_fits_and_loses_nothing;
    a_message_that_a_stopped_daemon_cuts_off_is_told;
    how_many_of_many_messages_a_stopped_daemon_takes_is_told;
    nothing_is_lost_on_the_way_when_many_send_more_than_the_ring_takes, Setup::new().nodes(2);
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Sends until there is no room; returns how many messages were taken.
fn fill(client: &Client, message: impl Fn(u32) -> Vec<u8>) -> u32 {
    for number in 0.. {
        match client.try_multicast(Guarantee::AGREED, &message(number)) {
            Ok(()) => {}
            Err(Error::Cs { error: CsError::TryAgain, .. }) => return number,
            Err(error) => panic!("after {number}: {error}"),
        }
    }
    unreachable!()
}

fn a_stopped_daemon_takes_what_fits_and_loses_nothing(host: &Host) {
    for size in [4, 50_000] {
        let client = join(&host.endpoint(), &group("stopped"));
        let message = |number: u32| {
            let mut message = number.to_ne_bytes().to_vec();
            message.resize(size, 0);
            message
        };
        let paused = host.pause();
        let taken = fill(&client, message);
        assert!(taken > 10, "{taken} messages of {size} bytes");

        // Waiting ends at the deadline, and takes next to no processor time until then.
        client.set_request_timeout(Duration::from_millis(500));
        let (began, used) = (Instant::now(), processor_time());
        let result = client.multicast(Guarantee::AGREED, &message(u32::MAX));
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        assert!(began.elapsed() >= Duration::from_millis(500));
        let used = processor_time() - used;
        assert!(used < Duration::from_millis(250), "{used:?} of processor time");

        // One that waits long enough is sent when the daemon goes on.
        client.set_request_timeout(Duration::from_secs(60));
        let waiting = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                waiting.store(true, Ordering::SeqCst);
                client.multicast(Guarantee::AGREED, &message(taken))
            });
            while !waiting.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            // Somebody else's turn is not waited for either.
            let result = client.try_multicast(Guarantee::AGREED, &message(u32::MAX));
            assert!(
                matches!(result, Err(Error::Cs { error: CsError::TryAgain, .. })),
                "{result:?}"
            );
            // Events can be looked for meanwhile.
            assert_eq!(client.poll_event().unwrap(), None);
            drop(paused);
            sender.join().unwrap().unwrap();
        });
        for number in 0..=taken {
            assert!(next_message(&client) == message(number), "{number} of {taken}");
        }
        send(&client, b"end");
        assert_eq!(next_message(&client), "end");
    }
}

fn how_many_of_many_messages_a_stopped_daemon_takes_is_told(host: &Host) {
    // More than there is room for.
    for (size, count) in [(4, 10_000_u32), (50_000, 400)] {
        let client = join(&host.endpoint(), &group("many"));
        let messages: Vec<_> = (0..count)
            .map(|number| {
                let mut message = number.to_ne_bytes().to_vec();
                message.resize(size, 0);
                message
            })
            .collect();
        let paused = host.pause();
        client.set_request_timeout(Duration::from_millis(500));
        let result = client.multicast_many(Guarantee::AGREED, &messages);
        let Err(Error::NotAllSent { sent, messages: all, source }) = result else {
            panic!("{result:?}")
        };
        assert!(sent > 10 && sent < all && all == messages.len(), "{sent} of {all}");
        assert!(matches!(*source, Error::TimedOut { .. }), "{source}");
        let rest = &messages[sent..];
        let result = client.try_multicast_many(Guarantee::AGREED, rest);
        assert!(matches!(result, Err(Error::Cs { error: CsError::TryAgain, .. })), "{result:?}");
        let result = client.multicast_many(Guarantee::AGREED, rest);
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
        drop(paused);
        client.set_request_timeout(Duration::from_secs(60));
        thread::scope(|scope| {
            let sender = scope.spawn(|| client.multicast_many(Guarantee::AGREED, rest));
            for (number, message) in messages.iter().enumerate() {
                assert!(next_message(&client) == *message, "{number} of {size} bytes");
            }
            sender.join().unwrap().unwrap();
        });
    }
}

fn a_message_that_a_stopped_daemon_cuts_off_is_told(host: &Host) {
    let endpoint = host.endpoint();
    if !has_fragments(&endpoint) {
        return;
    }
    let group = group("cut off");
    // Many fragments, so that the daemon is stopped between two of them.
    let endpoint = endpoint.ring_size(16 << 10);
    let client = Client::connect_with(&endpoint, own_options()).unwrap();
    client.join(&group).unwrap();
    let watcher = join(&host.endpoint(), &group);
    // Is told of a large message when its first fragment comes.
    let herald =
        Client::connect_with(&host.endpoint(), own_options().reassembly_limit(1 << 20)).unwrap();
    herald.join(&group).unwrap();
    assert_eq!(next_change(&watcher).members.len(), 3);
    client.set_request_timeout(Duration::from_secs(1));
    let message = vec![7; 100 << 20];
    let (result, paused) = thread::scope(|scope| {
        let sender = scope.spawn(|| client.multicast(Guarantee::AGREED, &message));
        while !matches!(next(&herald), Event::Discarded(_)) {}
        let paused = host.pause();
        (sender.join().unwrap(), paused)
    });
    drop(paused);
    let Err(Error::PartlySent { sent, length, source }) = result else { panic!("{result:?}") };
    assert!(sent > 0 && sent < length && length == message.len(), "{sent} of {length}");
    assert!(matches!(*source, Error::TimedOut { .. }), "{source}");
    // The next message is whole, and nothing of the one before comes.
    client.set_request_timeout(Duration::from_secs(60));
    send(&client, &pattern(2, 100_000));
    send(&client, b"end");
    assert!(next_message(&watcher) == pattern(2, 100_000));
    assert_eq!(next_message(&watcher), "end");
}

/// A daemon whose own queue is full drops a multicast and says so in its log only. Flow control
/// should prevent that; where it does not, nothing but those is missing.
fn nothing_is_lost_on_the_way_when_many_send_more_than_the_ring_takes(nodes: &Nodes) {
    const SENDERS: usize = 6;
    const LARGE: u64 = 8;
    const SMALL: u64 = 20;
    const END: &[u8] = b"this was the last";
    if !nodes.on(1, has_fragments) {
        // corosync 1.99 ends itself under this load.
        return;
    }
    let group = group("overload");
    let receiver = nodes.on(1, |endpoint| join(endpoint, &group));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            nodes.spawn(1 + (sender % 2) as u32, move |endpoint| {
                let client = connect(endpoint);
                client.set_request_timeout(Duration::from_secs(60));
                client.join(&group).unwrap();
                while !matches!(next(&client), Event::Confchg(Confchg { members, .. }) if members.len() == SENDERS + 1) {}
                let most = client.max_atomic_message_size();
                for number in 0..LARGE {
                    // The largest there are in one piece fill totem's queue fastest.
                    send(&client, &pattern(number, most));
                    (0..SMALL).for_each(|small| send(&client, &small.to_ne_bytes()));
                    while client.poll_event().unwrap().is_some() {}
                }
                // Until it is certain that it arrived.
                loop {
                    send(&client, END);
                    while let Some(event) = client.next_event(Duration::from_secs(5)).unwrap() {
                        if matches!(event, Event::Deliver(Deliver { pid, payload, .. }) if pid == client.pid() && payload == END)
                        {
                            return client;
                        }
                    }
                }
            })
        })
        .collect();
    let (mut arrived, mut ended) = (0, HashSet::new());
    while ended.len() < SENDERS {
        match next(&receiver) {
            Event::Deliver(Deliver { payload, pid, .. }) if payload == END => _ = ended.insert(pid),
            Event::Deliver(_) => arrived += 1,
            _ => {}
        }
    }
    for sender in senders {
        drop(sender.join().unwrap());
    }
    // Besides, corosync loses a large datagram for which the kernel has no memory.
    let losses = ["msg_process() (2:2", "event_send retuned -105"];
    let lost_by = |log: String| losses.map(|text| log.matches(text).count()).iter().sum::<usize>();
    let refused = match nodes {
        Nodes::Embedded(_) => 0,
        Nodes::Real(cluster) => cluster.nodes().iter().map(|node| lost_by(node.log())).sum(),
    };
    let sent = SENDERS * (LARGE * (1 + SMALL)) as usize;
    // An end marker may be among the refused.
    assert!(
        arrived <= sent && arrived + refused >= sent,
        "{arrived} of {sent} arrived, {refused} were refused"
    );
}
