//! Scrapes leave nothing behind.

use std::fs;

use testbed::{Host, eventually, rings};

use super::Exporter;

testbed::on_each_host! {
    scrapes_leave_nothing_behind;
}

/// What the exporter and the daemon have.
#[derive(Debug, PartialEq)]
struct Counts {
    descriptors: usize,
    rings: usize,
    daemon_descriptors: usize,
}

impl Counts {
    fn of(host: &Host, exporter: &Exporter) -> Self {
        let pid = exporter.process.pid();
        let count = |path: String| fs::read_dir(path).expect("it runs").count();
        Self {
            descriptors: count(format!("/proc/{pid}/fd")),
            rings: rings(host.shm_root()).len(),
            daemon_descriptors: count(format!("/proc/{}/fd", host.pid())),
        }
    }

    /// The counts when nothing is under way any more.
    fn at_rest(host: &Host, exporter: &Exporter) -> Self {
        let (mut last, mut same) = (Self::of(host, exporter), 0);
        eventually("the counts stay the same", || {
            let now = Self::of(host, exporter);
            same = if now == last { same + 1 } else { 0 };
            last = now;
            same == 10
        });
        last
    }

    /// The bytes that the exporter has in memory and that belong to no file.
    fn memory(exporter: &Exporter) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", exporter.process.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a size");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }
}

fn scrapes_leave_nothing_behind(host: &Host) {
    scrape(host, 300);
}

/// Nor do they harm corosync, although they iterate over its connections. As many as two days of a scrape every 15 seconds.
#[test]
#[ignore = "takes minutes"]
fn ten_thousand_scrapes_leave_nothing_behind() {
    if testbed::skip() {
        return;
    }
    testbed::host::run(
        testbed::HostKind::Real,
        |host: &Host| scrape(host, 10_000),
        testbed::Setup::new(),
    );
}

/// Scrapes so often, with a daemon that is killed after each quarter.
fn scrape(host: &Host, scrapes: u32) {
    let exporter = Exporter::start(host, &["--clients"]);
    let ready = || {
        eventually("the standing connection is there", || {
            exporter.metrics().value("corosync_exporter_connected") == 1.0
        });
    };
    let some = |count: u32| {
        for number in 0..count {
            let accept = ["Accept: application/openmetrics-text", "Accept: text/plain"];
            let accept = accept[number as usize % 2];
            let page = super::get(&exporter.address, "/metrics", &[accept]).body;
            assert!(page.contains("\ncorosync_up 1\n"), "scrape {number}: {page}");
            assert!(page.contains("\ncorosync_ipc_omitted_clients 0\n"), "{page}");
        }
    };
    ready();
    // Caches fill, threads start.
    some(scrapes / 10);
    let before = Counts::at_rest(host, &exporter);
    let memory = Counts::memory(&exporter);
    for _ in 0..4 {
        some(scrapes / 4);
        // corosync that is killed leaves the rings that it was about to remove.
        assert_eq!(Counts::at_rest(host, &exporter), before);
        host.kill();
        eventually("the daemon is away", || exporter.metrics().value("corosync_up") == 0.0);
        host.start();
        ready();
    }
    assert_eq!(Counts::at_rest(host, &exporter), before);
    let grown = Counts::memory(&exporter).saturating_sub(memory);
    // An allocator keeps some; a leak of a hundred bytes a scrape would be found in 10,000.
    assert!(grown < 1 << 20, "{grown} bytes more after {scrapes} scrapes, before {memory}");
    exporter.end();
}
