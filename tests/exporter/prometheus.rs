//! Prometheus itself: its rules, and a server that scrapes the exporter.

use std::fs;
use std::path::Path;

use serde_json::Value;
use testbed::{Host, HostKind, NodeCommand, Process, Setup, eventually, lacks, skip};

use super::{Exporter, get};

/// The root of the project.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[track_caller]
fn promtool(args: &[&str]) {
    let output = NodeCommand::here("promtool").args(args).run();
    assert!(output.is_success(), "{args:?}: {}{}", output.stdout, output.stderr);
}

#[test]
fn alerts_are_rules_that_fire_when_they_should() {
    if lacks("promtool") {
        return;
    }
    promtool(&["check", "rules", &format!("{ROOT}/docs/alerts.yml")]);
    promtool(&["test", "rules", &format!("{ROOT}/tests/exporter/alerts.yml")]);
}

/// Its port. A node's network is its own.
const PORT: &str = "127.0.0.1:9090";

/// A Prometheus that scrapes an exporter each second.
struct Prometheus {
    _process: Process,
}

impl Prometheus {
    fn start(host: &Host, folder: &Path, exporter: &str) -> Self {
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             scrape_configs: [{{job_name: a, static_configs: [{{targets: ['{exporter}']}}]}}]\n\
             rule_files: ['{ROOT}/docs/alerts.yml']\n"
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let option = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let command = host.command(testbed::find_program("prometheus").expect("it is installed"));
        let process = command
            .arg(option("config.file", &file))
            .arg(option("storage.tsdb.path", &folder.join("data")))
            .arg(option("web.listen-address", Path::new(PORT)))
            .spawn();
        eventually("Prometheus is ready", || {
            std::net::TcpStream::connect(PORT).is_ok() && get(PORT, "/-/ready", CLOSE).status == 200
        });
        Self { _process: process }
    }

    #[track_caller]
    fn ask(&self, path: &str) -> Value {
        let answer = get(PORT, path, CLOSE);
        let body: Value = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{path}: {error}: {answer:?}"));
        assert_eq!(body["status"], "success", "{path}: {body}");
        body["data"].clone()
    }

    /// The values of an expression, as text.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<String> {
        let data = self.ask(&format!("/api/v1/query?query={expression}"));
        let results = data["result"].as_array().expect("a list").iter();
        results.map(|one| one["value"][1].as_str().expect("text").to_owned()).collect()
    }
}

const CLOSE: &[&str] = &["Connection: close"];

#[test]
fn prometheus_scrapes_it_and_knows_when_corosync_is_down() {
    if skip() || lacks("prometheus") {
        return;
    }
    testbed::host::run(HostKind::Real, scraped_by_prometheus, Setup::new());
}

fn scraped_by_prometheus(host: &Host) {
    let exporter = Exporter::start(host, &["--clients"]);
    let folder = testbed::folder();
    let prometheus = Prometheus::start(host, folder.path(), &exporter.address);
    eventually("it has scraped", || prometheus.query("up") == ["1"]);
    let target = &prometheus.ask("/api/v1/targets")["activeTargets"][0];
    assert_eq!((&target["health"], &target["lastError"]), (&"up".into(), &"".into()), "{target}");
    assert_eq!(prometheus.query("ha_cluster_corosync_quorate"), ["1"]);
    assert_eq!(prometheus.query("corosync_members"), ["1"]);
    // What only OpenMetrics tells.
    let units = prometheus.ask("/api/v1/metadata?metric=corosync_totem_token_age_seconds");
    assert_eq!(units["corosync_totem_token_age_seconds"][0]["unit"], "seconds", "{units}");
    // Each sample of a page is stored.
    let dropped = "scrape_samples_scraped-scrape_samples_post_metric_relabeling";
    assert_eq!(prometheus.query(dropped), ["0"]);
    assert!(prometheus.query("scrape_samples_scraped")[0].parse::<u32>().unwrap() > 40);

    host.kill();
    let alert = eventually("an alert is pending", || {
        let data = prometheus.ask("/api/v1/alerts");
        let alerts = data["alerts"].as_array().expect("a list").clone();
        alerts.into_iter().find(|alert| alert["labels"]["alertname"] == "CorosyncDown")
    });
    assert_eq!(alert["labels"]["severity"], "critical", "{alert}");
    // Nothing stale: Prometheus marks what a scrape does not have any more.
    eventually("the value is gone", || {
        prometheus.query("up") == ["1"]
            && prometheus.query("ha_cluster_corosync_quorate").is_empty()
    });
    host.start();
    eventually("it is back", || prometheus.query("ha_cluster_corosync_quorate") == ["1"]);
}
