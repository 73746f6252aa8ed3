//! What is written is what others read.

use std::collections::{BTreeMap, BTreeSet};

use corosync_ipc::cpg::{Client, GroupName};
use testbed::{Host, NodeCommand, cs, eventually, lacks};

use super::{Exporter, Sample, Samples, get, program};

testbed::on_each_host! {
    both_formats_are_what_their_readers_accept;
    the_largest_groups_have_samples;
}

/// Reads OpenMetrics with the parser of the format's authors and prints what it finds, in Debian's
/// package python3-prometheus-client.
const PARSER: &str = "import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    for sample in family.samples:
        print(family.type, sample.name, sorted(sample.labels.items()), float(sample.value))";

/// The program that has Debian's packages, even where another one comes first.
const PYTHON: &str = "/usr/bin/python3";

/// Groups of which no label may look different, and their labels.
const NAMES: [(&[u8], &str); 6] = [
    (b"plain", "plain"),
    (b"pacemaker\0", r"pacemaker\x00"),
    (b"no\xfftext", r"no\xfftext"),
    (b"a\"b\\c", r#"a"b\\c"#),
    (b"two\nlines", r"two\x0alines"),
    ("gr\u{f6}\u{df}e \u{1f600} {x=\"y\"} 1".as_bytes(), "gr\u{f6}\u{df}e \u{1f600} {x=\"y\"} 1"),
];

fn both_formats_are_what_their_readers_accept(host: &Host) {
    let clients: Vec<Client> = NAMES.iter().map(|(name, _)| join(host, name)).collect();
    let exporter = Exporter::start(host, &["--clients"]);
    let page = eventually("it observes the daemon", || {
        let page = exporter.get("/metrics");
        page.body.contains("\ncorosync_exporter_connected 1\n").then_some(page)
    });
    assert_eq!(page.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let samples = Samples::of(&page.body);
    let mut groups = samples.label("corosync_cpg_group_members", "group");
    groups.sort();
    let mut labels = NAMES.map(|(_, label)| label);
    labels.sort_unstable();
    assert_eq!(groups, labels);
    promtool(&page.body);

    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    let page = get(&exporter.address, "/metrics", &[accept]);
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(page.header("content-type"), openmetrics);
    assert!(page.body.ends_with("\n# EOF\n"), "{}", page.body);
    let page = page.body;
    parser(&page);
    // Both have the same series.
    assert_eq!(series(&Samples::of(&page)), series(&samples));

    // So has the command, but for what the exporter counts.
    for (args, check) in
        [(&["metrics"][..], promtool as fn(&str)), (&["metrics", "--openmetrics"], parser)]
    {
        let output = host.command(program()).args(args).arg("--clients").run();
        assert_eq!((output.code(), output.stderr.as_str()), (0, ""));
        check(&output.stdout);
        let counted = |name: &str| {
            name.starts_with("corosync_exporter_") && name != "corosync_exporter_build_info"
        };
        let expected: BTreeSet<Series> =
            series(&samples).into_iter().filter(|(name, _)| !counted(name)).collect();
        assert_eq!(series(&Samples::of(&output.stdout)), expected);
    }
    drop(clients);
}

type Series = (String, Vec<(String, String)>);

/// Names and labels. Which programs are connected changes all the time.
fn series(samples: &Samples) -> BTreeSet<Series> {
    let series = samples.0.iter().map(|Sample { name, labels, .. }| (name.clone(), labels.clone()));
    series.filter(|(name, _)| !name.starts_with("corosync_ipc_")).collect()
}

/// Prometheus' own check of the text format and of names and help.
fn promtool(page: &str) {
    if lacks("promtool") {
        return;
    }
    let output = NodeCommand::here("promtool").args(["check", "metrics"]).input(page).run();
    let said = output.stdout.clone() + &output.stderr;
    assert!(output.is_success() && said.is_empty(), "{said}\n{page}");
}

/// The parser finds just what is written.
fn parser(page: &str) {
    let modules = NodeCommand::here(PYTHON).args(["-c", "import prometheus_client"]);
    if lacks(PYTHON) || !modules.run().is_success() {
        return testbed::skip_because("no python3-prometheus-client");
    }
    let output = NodeCommand::here(PYTHON).args(["-c", PARSER]).env("PYTHONUTF8", "1").input(page);
    let found = output.run().success();
    assert_eq!(found.lines().count(), Samples::of(page).0.len(), "{found}\n{page}");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in found.lines() {
        *kinds.entry(line.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    assert_eq!(kinds.keys().copied().collect::<Vec<_>>(), ["counter", "gauge", "info"], "{found}");
}

/// A member of a group that takes little of the daemon's memory.
#[track_caller]
fn join(host: &Host, name: &[u8]) -> Client {
    let client = Client::connect_to(&host.endpoint().ring_size(8192)).expect("cpg is there");
    client.join(&GroupName::new(name).expect("a name")).expect("it joins");
    client
}

fn the_largest_groups_have_samples(host: &Host) {
    let mut clients: Vec<Client> =
        (0..260).map(|number| join(host, format!("small {number:03}").as_bytes())).collect();
    // A second member has to have another process id.
    let options = corosync_ipc::cpg::Options::new().pid(1);
    let second = Client::connect_with(&host.endpoint().ring_size(8192), options).unwrap();
    let large = GroupName::new("small 259").unwrap();
    second.join(&large).unwrap();
    assert_eq!(cs(second.join(&large)), corosync_ipc::CsError::Exist);
    let exporter = Exporter::start(host, &["--timeout", "30s"]);
    let metrics = exporter.metrics();
    let groups = metrics.label("corosync_cpg_group_members", "group");
    assert_eq!(groups.len(), 256);
    let members = |group| metrics.find("corosync_cpg_group_members", &[("group", group)]);
    assert_eq!((members("small 259"), members("small 254")), (Some(2.0), Some(1.0)));
    assert_eq!(members("small 255"), None);
    assert_eq!(metrics.value("corosync_cpg_groups"), 260.0);
    assert_eq!(metrics.value("corosync_cpg_omitted_groups"), 4.0);
    clients.truncate(3);
    drop(second);
    eventually("others have room again", || {
        let metrics = exporter.metrics();
        metrics.value("corosync_cpg_omitted_groups") == 0.0
            && metrics.label("corosync_cpg_group_members", "group").len() == 3
    });
}
