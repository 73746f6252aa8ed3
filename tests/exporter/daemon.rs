//! The exporter while its daemon ends, stops and starts.

use corosync_ipc::embedded::Corosync;
use corosync_ipc::libqb::server::Generation;
use testbed::{Cluster, GENERATIONS, Host, HostPaused, at_endpoint, eventually, skip};

use super::{Exporter, Samples, program};

/// nobody and nogroup, wherever corosync runs.
const NOBODY: u32 = 65534;

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
    assert_eq!(output.code(), 0, "{output:?}");
    // Standard error tells each change.
    let lines: Vec<&str> = output.stderr.lines().collect();
    let is_back = |line: &&&str| line.ends_with(": corosync answers in full again");
    assert!(lines[0].contains("CS_ERR_TIMEOUT"), "{lines:?}");
    assert_eq!(lines.iter().filter(is_back).count(), 3, "{lines:?}");
    assert!(lines.len() >= 6 && lines.last().is_some_and(|line| is_back(&line)), "{lines:?}");
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

/// It needs no root, and says so where it may not ask.
#[test]
fn an_ordinary_user_with_uidgid_is_enough() {
    if skip() {
        return;
    }
    let uidgid = format!("uidgid {{\n  uid: {NOBODY}\n}}\n");
    let allows = Cluster::builder().extra_config(&uidgid).start();
    let node = allows.node(1);
    let command = node.command(program()).user(NOBODY, NOBODY).args(["exporter", "--clients"]);
    let exporter = Exporter::spawn(command.args(["--listen", "127.0.0.1:0"]));
    let metrics = eventually("it observes the daemon", || {
        let metrics = node.run(|| exporter.metrics());
        (metrics.value("corosync_exporter_connected") == 1.0).then_some(metrics)
    });
    assert_there(&metrics);
    assert!(metrics.find("corosync_start_time_seconds", &[]).is_some());

    let refuses = Cluster::one();
    let output = refuses.node(1).command(program()).user(NOBODY, NOBODY).arg("metrics").run();
    assert_eq!(output.code(), 1, "{output:?}");
    assert!(output.stderr.contains("CS_ERR_ACCESS"), "{output:?}");
    assert_away(&Samples::of(&output.stdout));
}

/// What an old corosync does not have is missing, and no failure.
#[test]
fn every_generation_has_what_ha_cluster_exporter_tells() {
    for generation in GENERATIONS {
        let corosync = Corosync::builder().generation(generation).start().unwrap();
        let folder = corosync.endpoint().shm_root_path();
        let output = at_endpoint(folder, program()).args(["metrics", "--clients"]).run();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""), "{generation:?}");
        let metrics = Samples::of(&output.stdout);
        assert_there(&metrics);
        assert!(corosync.is_running(), "{generation:?}");
        let is_new = generation == Generation::Libqb104;
        let totem = metrics.beginning("corosync_totem_");
        assert_eq!(totem.is_empty(), !is_new, "{generation:?}: {totem:?}");
        let rings = metrics.label("ha_cluster_corosync_rings", "ring_id");
        let [ring] = &rings[..] else { panic!("{generation:?}: {rings:?}") };
        // What corosync-quorumtool 3.1, 2.4 and 1.99 print.
        let separators: String = ring.chars().filter(|c| !c.is_ascii_hexdigit()).collect();
        let expected = match generation {
            Generation::Libqb104 => ".",
            Generation::Libqb010 => "",
            _ => "/",
        };
        assert_eq!(separators, expected, "{generation:?}: {ring}");
    }
}
