//! Processes that are stopped for longer than their deadlines.

use std::thread;
use std::time::{Duration, Instant};

use corosync_ipc::Error;
use corosync_ipc::cmap::{self, TrackEvents, Value};
use corosync_ipc::cpg::{self, GroupName, Guarantee};
use nix::sys::signal::Signal;
use testbed::{Host, next_that, waiting};

use crate::clients::{LONG, endpoint};

testbed::on_each_host! {
    a_stopped_client_holds_up_nobody_and_goes_on;
    a_client_that_is_stopped_while_it_multicasts_holds_up_nobody;
    a_stopped_daemon_costs_a_call_its_deadline_and_no_more;
}

/// The timeout of calls that are stopped.
const SHORT: Duration = Duration::from_millis(200);

const VALUES: [&str; 3] = ["one", "two", "three"];

fn group() -> GroupName {
    GroupName::new("stopped").unwrap()
}

fn a_stopped_client_holds_up_nobody_and_goes_on(host: &Host) {
    let endpoint = host.endpoint().timeout(LONG);
    let setter = cmap::Client::connect_to(&endpoint).unwrap();
    VALUES.iter().for_each(|value| setter.set(&format!("stop.{value}"), *value).unwrap());
    setter.set("stop.number", 0_u32).unwrap();
    let mut stopped = host.ignored_test("stop::as_one_that_is_stopped").limit(LONG).spawn();
    stopped.wait_stdout("asking");
    for round in 1..=4 {
        stopped.signal(Signal::SIGSTOP);
        let begun = Instant::now();
        // As many events as its ring has room for, and then some.
        let member = cpg::Client::connect_to(&endpoint).unwrap();
        member.join(&group()).unwrap();
        for number in 0..100_u32 {
            setter.set("stop.number", round * 100 + number).unwrap();
            member.multicast(Guarantee::AGREED, &[7; 20_000]).unwrap();
            next_that(&member, |event| matches!(event, cpg::Event::Deliver(_)).then_some(()));
        }
        thread::sleep((2 * SHORT).saturating_sub(begun.elapsed()));
        stopped.signal(Signal::SIGCONT);
        stopped.wait_stdout(&format!("saw {round}"));
    }
    setter.set("stop.number", u32::MAX).unwrap();
    stopped.wait().success();
}

#[test]
#[ignore = "run by other tests"]
fn as_one_that_is_stopped() {
    let endpoint = endpoint();
    let client = cmap::Client::connect_to(&endpoint).unwrap();
    client.track_add("stop.number", TrackEvents::MODIFY).unwrap();
    let member = cpg::Client::connect_with(&endpoint, cpg::Options::new().pid(1 << 20)).unwrap();
    member.join(&group()).unwrap();
    client.set_request_timeout(SHORT);
    println!("asking");
    let (mut expected, mut seen, mut delivered) = (100, 0, 0);
    for value in VALUES.iter().cycle() {
        match client.get_as::<String>(&format!("stop.{value}")) {
            Ok(found) => assert_eq!(found.as_deref(), Some(*value), "another's answer"),
            Err(Error::TimedOut { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        for event in waiting(&member) {
            delivered += u32::from(matches!(event, cpg::Event::Deliver(_)));
        }
        for event in waiting(&client) {
            let cmap::Event::Notification(change) = event else { panic!("{event:?}") };
            if change.new_value == Some(Value::U32(u32::MAX)) {
                return;
            }
            // Nothing is lost.
            assert_eq!(change.new_value, Some(Value::U32(expected)));
            expected += 1;
            seen += 1;
        }
        if seen >= 100 && delivered >= 100 {
            println!("saw {}", expected / 100 - 1);
            (seen, delivered) = (seen - 100, delivered - 100);
        }
    }
}

/// Stops it at any of its steps. The daemon stands still for one that has announced messages and not
/// woken it yet, which no client can help; but that is between two instructions.
fn a_client_that_is_stopped_while_it_multicasts_holds_up_nobody(host: &Host) {
    const ROUNDS: u32 = 40;
    let endpoint = host.endpoint();
    let setter = cmap::Client::connect_to(&endpoint).unwrap();
    setter.set_request_timeout(Duration::from_secs(5));
    let mut stopped = host.ignored_test("stop::as_one_that_multicasts").limit(LONG).spawn();
    stopped.wait_stdout("sending");
    let mut held_up = 0;
    for round in 0..ROUNDS {
        thread::sleep(Duration::from_micros(u64::from(round) * 97 % 2000));
        stopped.signal(Signal::SIGSTOP);
        match setter.set("stop.round", round) {
            Ok(()) => {}
            Err(Error::TimedOut { .. }) => held_up += 1,
            Err(error) => panic!("{error:?}"),
        }
        stopped.signal(Signal::SIGCONT);
    }
    assert!(held_up <= 1, "{held_up} of {ROUNDS}");
    setter.set_request_timeout(LONG);
    setter.set("stop.round", u32::MAX).unwrap();
    stopped.wait().success();
}

#[test]
#[ignore = "run by other tests"]
fn as_one_that_multicasts() {
    let endpoint = endpoint().timeout(LONG);
    let client = cmap::Client::connect_to(&endpoint).unwrap();
    let member = cpg::Client::connect_with(&endpoint, cpg::Options::new().pid(1 << 20)).unwrap();
    member.join(&group()).unwrap();
    println!("sending");
    let messages = vec![vec![7; 60_000]; 12];
    while client.get_as::<u32>("stop.round").unwrap() != Some(u32::MAX) {
        member.multicast_many(Guarantee::AGREED, &messages).unwrap();
        let mut left = messages.len();
        while left > 0 {
            left -= next_that(&member, |event| {
                Some(usize::from(matches!(event, cpg::Event::Deliver(_))))
            });
        }
    }
}

fn a_stopped_daemon_costs_a_call_its_deadline_and_no_more(host: &Host) {
    let client = cmap::Client::connect_to(&host.endpoint().timeout(LONG)).unwrap();
    VALUES.iter().for_each(|value| client.set(&format!("stop.{value}"), *value).unwrap());
    for asked in VALUES {
        client.set_request_timeout(SHORT);
        let paused = host.pause();
        let begun = Instant::now();
        let error = client.get(&format!("stop.{asked}")).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(begun.elapsed() >= SHORT);
        drop(paused);
        client.set_request_timeout(LONG);
        for value in VALUES {
            let found = client.get_as::<String>(&format!("stop.{value}")).unwrap();
            assert_eq!(found.as_deref(), Some(value), "another's answer");
        }
    }
}
