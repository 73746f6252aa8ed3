//! The exporter while its daemon ends, stops and starts.

use testbed::{Host, HostPaused, eventually};

use super::{Exporter, Samples, program};

testbed::on_each_host! {
    nothing_stale_is_told_while_the_daemon_is_away;
    the_command_tells_what_it_could_not_ask;
}

/// What is told although no daemon answers.
fn assert_away(metrics: &Samples) {
    assert_eq!(metrics.value("corosync_up"), 0.0);
    for sample in &metrics.0 {
        let name = sample.name.as_str();
        let own =
            ["corosync_up", "ha_cluster_scrape_success", "ha_cluster_scrape_duration_seconds"];
        assert!(
            own.contains(&name)
                || name.starts_with("corosync_exporter_")
                || name.starts_with("corosync_scrape_"),
            "{sample:?}"
        );
        if name == "corosync_scrape_part_failed" {
            assert_eq!(sample.value, 1.0, "{sample:?}");
        }
    }
    assert_eq!(metrics.value("ha_cluster_scrape_success"), 0.0);
}

fn assert_there(metrics: &Samples) {
    assert_eq!(metrics.value("corosync_up"), 1.0);
    assert_eq!(metrics.value("ha_cluster_corosync_quorate"), 1.0);
    assert_eq!(metrics.value("ha_cluster_scrape_success"), 1.0);
    let failed = metrics.beginning("corosync_scrape_part_failed");
    assert!(failed.len() > 4 && failed.iter().all(|part| part.value == 0.0), "{failed:?}");
}

fn nothing_stale_is_told_while_the_daemon_is_away(host: &Host) {
    let exporter = Exporter::start(host, &["--timeout", "2s"]);
    let connected = || {
        eventually("the standing connection is there", || {
            let metrics = exporter.metrics();
            (metrics.value("corosync_exporter_connected") == 1.0).then_some(metrics)
        })
    };
    let metrics = connected();
    assert_there(&metrics);
    assert_eq!(metrics.value("corosync_exporter_connection_gaps_total"), 0.0);
    let paused: HostPaused = host.pause();
    assert_away(&exporter.metrics());
    drop(paused);
    eventually("the daemon answers again", || exporter.metrics().value("corosync_up") == 1.0);
    for round in 1..=2 {
        host.kill();
        let metrics = eventually("the gap is noticed", || {
            let metrics = exporter.metrics();
            (metrics.value("corosync_exporter_connected") == 0.0).then_some(metrics)
        });
        assert_away(&metrics);
        assert_eq!(metrics.value("corosync_exporter_connection_gaps_total"), f64::from(round));
        assert_eq!(exporter.get("/healthz").status, 200);
        host.start();
        assert_there(&connected());
    }
    let output = exporter.end();
    assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{output:?}");
}

fn the_command_tells_what_it_could_not_ask(host: &Host) {
    let metrics = |args: &[&str]| host.command(program()).arg("metrics").args(args).run();
    let output = metrics(&[]);
    assert_eq!(output.code(), 0, "{output:?}");
    assert_there(&Samples::of(&output.stdout));
    let paused = host.pause();
    let output = metrics(&["--timeout", "500ms"]);
    assert_eq!(output.code(), 4, "{output:?}");
    assert_away(&Samples::of(&output.stdout));
    assert!(output.stderr.contains("CS_ERR_TIMEOUT"), "{output:?}");
    drop(paused);
    host.stop();
    let output = metrics(&[]);
    assert_eq!(output.code(), 3, "{output:?}");
    assert_away(&Samples::of(&output.stdout));
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    host.start();
}
