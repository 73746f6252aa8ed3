//! Descriptors or address space that run out at each step.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::Duration;

use corosync_ipc::cmap::TrackEvents;
use corosync_ipc::supervise::{Notice, Supervised};
use corosync_ipc::{Dispatcher, Error, cmap};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testbed::{Host, next};

use crate::clients::{Clients, Connect, SERVICES, Taken, endpoint, leaves_nothing, refused};

testbed::on_each_host! {
    each_descriptor_that_lacks_is_told_and_nothing_leaks;
    each_mapping_that_lacks_is_told_and_nothing_leaks;
}

fn each_descriptor_that_lacks_is_told_and_nothing_leaks(host: &Host) {
    leaves_nothing(host, "lack::as_one_with_few_descriptors");
}

fn each_mapping_that_lacks_is_told_and_nothing_leaks(host: &Host) {
    leaves_nothing(host, "lack::as_one_with_little_address_space");
}

/// Runs a body with a lower limit.
pub(crate) fn limited<T>(resource: Resource, limit: u64, body: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(resource).unwrap();
    setrlimit(resource, limit, hard).unwrap();
    let result = body();
    setrlimit(resource, soft, hard).unwrap();
    result
}

/// The number of the next descriptor.
pub(crate) fn next_descriptor() -> u64 {
    File::open("/dev/null").unwrap().as_raw_fd().try_into().unwrap()
}

/// The size of this process's address space.
pub(crate) fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').next().unwrap().parse().unwrap();
    pages * 4096.max(page_size())
}

pub(crate) fn page_size() -> u64 {
    // SAFETY: reads a constant of the system.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.try_into().unwrap()
}

/// Connects with a limit that rises by steps until there is enough. Each failure says what lacks,
/// and takes nothing.
fn connect_with_more_and_more(
    (service, connect): (&str, Connect),
    resource: Resource,
    errno: i32,
    least: u64,
    step: u64,
) -> usize {
    let endpoint = endpoint();
    connect(&endpoint).unwrap();
    let before = Taken::here();
    let mut failures = 0;
    for limit in (least..).step_by(step.try_into().unwrap()) {
        let result = limited(resource, limit, || connect(&endpoint));
        assert_eq!(Taken::here(), before, "{service}, {failures} failures");
        match result {
            Ok(()) => break,
            Err(error) => {
                let (found, operation) = refused(&error).unwrap_or_else(|| panic!("{error:?}"));
                assert_eq!(found, errno, "{service}: {error:?}");
                assert!(!operation.is_empty() && error.stage().is_some(), "{error:?}");
            }
        }
        failures += 1;
        assert!(failures < 1000, "{service}: it is never enough");
        connect(&endpoint).unwrap();
    }
    failures
}

#[test]
#[ignore = "run by other tests"]
fn as_one_with_few_descriptors() {
    for service in SERVICES {
        let least = next_descriptor();
        let (resource, errno) = (Resource::RLIMIT_NOFILE, libc::EMFILE);
        // A socket, a directory and a file for one moment at least.
        assert!(connect_with_more_and_more(service, resource, errno, least, 1) >= 3);
    }
    let endpoint = endpoint();
    let without =
        |body: &mut dyn FnMut()| limited(Resource::RLIMIT_NOFILE, next_descriptor(), body);
    let lacks = |error: Error| {
        assert_eq!(refused(&error).map(|(errno, _)| errno), Some(libc::EMFILE), "{error:?}");
    };

    // A client that is connected goes on. Only what needs a descriptor fails, until there is one.
    let client = cmap::Client::connect_to(&endpoint).unwrap();
    client.track_add("lack.", TrackEvents::ALL | TrackEvents::PREFIX).unwrap();
    without(&mut || {
        client.set("lack.key", 1_u8).unwrap();
        let event = std::iter::repeat_with(|| client.poll_event().unwrap()).flatten().next();
        assert!(event.is_some());
        lacks(client.next_event(Duration::from_secs(1)).unwrap_err());
        lacks(client.waker().unwrap_err());
        lacks(Dispatcher::<()>::new().unwrap_err());
    });
    client.set("lack.key", 2_u8).unwrap();
    next(&client);

    // A supervised client tells, and tries again.
    let mut supervised = Supervised::new(move || cmap::Client::connect_to(&endpoint));
    without(&mut || lacks(supervised.next(Duration::from_secs(1)).unwrap_err()));
    supervised.waker().unwrap();
    without(&mut || match supervised.next(Duration::from_secs(1)).unwrap() {
        Some(Notice::Retry { error, .. }) => lacks(error),
        other => panic!("{other:?}"),
    });
    let notice = supervised.next(Duration::from_secs(30)).unwrap();
    assert!(matches!(notice, Some(Notice::Up(_))), "{notice:?}");
    Clients::connect(&crate::clients::endpoint()).unwrap().use_all("lack of descriptors").unwrap();
}

#[test]
#[ignore = "run by other tests"]
fn as_one_with_little_address_space() {
    let (resource, page) = (Resource::RLIMIT_AS, page_size());
    for service in SERVICES {
        let step = if service.0 == "cpg" { 16 * page } else { page };
        let failures =
            connect_with_more_and_more(service, resource, libc::ENOMEM, address_space(), step);
        assert!(failures >= 1, "{}: all fits in nothing", service.0);
    }
    Clients::connect(&endpoint()).unwrap().use_all("lack of memory").unwrap();
}
