//! `corosync-ipc metrics` and `corosync-ipc exporter`, against real daemons and embedded ones.

mod client;
mod daemon;
mod formats;
mod growth;
mod names;
mod prometheus;
mod server;

use std::path::{Path, PathBuf};

use client::{Answer, get};
use nix::sys::signal::Signal;
use serde_json::Value;
use testbed::{Host, NodeCommand, Output, Process, copy_for_all};

testbed::embedded_process!();

/// The command under test, where every node and user can run it.
fn program() -> PathBuf {
    copy_for_all(Path::new(env!("CARGO_BIN_EXE_corosync-ipc")))
}

/// A running exporter.
struct Exporter {
    process: Process,
    /// The address that it listens at.
    address: String,
}

impl Exporter {
    /// Starts one where a daemon is found, at a port that is free.
    #[track_caller]
    fn start(host: &Host, args: &[&str]) -> Self {
        let command = host.command(program()).args(["exporter", "--listen", "127.0.0.1:0"]);
        Self::spawn(command.args(args))
    }

    #[track_caller]
    fn spawn(command: NodeCommand) -> Self {
        let process = command.arg("--json").spawn();
        let line = process.wait_stdout("\n");
        let ready: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert_eq!(ready["event"], "listening", "{ready}");
        let address = ready["addresses"][0].as_str().expect("an address").to_owned();
        Self { process, address }
    }

    /// All addresses that it listens at.
    #[track_caller]
    fn addresses(&self) -> Vec<String> {
        let ready: Value = serde_json::from_str(&self.process.stdout()).expect("a line of JSON");
        serde_json::from_value(ready["addresses"].clone()).expect("addresses")
    }

    /// Its answer to a request.
    #[track_caller]
    fn get(&self, path: &str) -> Answer {
        get(&self.address, path, &[])
    }

    /// Its metrics in the Prometheus text format.
    #[track_caller]
    fn metrics(&self) -> Samples {
        let answer = self.get("/metrics");
        assert_eq!(answer.status, 200, "{answer:?}");
        Samples::of(&answer.body)
    }

    /// Ends it by a signal.
    #[track_caller]
    fn end(mut self) -> Output {
        self.process.signal(Signal::SIGTERM);
        self.process.wait()
    }
}

/// Samples of a page in either format, in its order.
#[derive(Clone, Debug)]
struct Samples(Vec<Sample>);

#[derive(Clone, Debug, PartialEq)]
struct Sample {
    name: String,
    /// Sorted by name.
    labels: Vec<(String, String)>,
    value: f64,
}

impl Samples {
    #[track_caller]
    fn of(page: &str) -> Self {
        Self(page.lines().filter(|line| !line.starts_with('#')).map(Sample::of).collect())
    }

    /// The value of the only sample with this name.
    #[track_caller]
    fn value(&self, name: &str) -> f64 {
        match self.find(name, &[]) {
            Some(value) => value,
            None => panic!("no {name}: {self:?}"),
        }
    }

    /// The value of the sample with this name that has these labels, and maybe others.
    #[track_caller]
    fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |sample: &&Sample| {
            let label = |(name, value): &(&str, &str)| {
                sample.labels.iter().any(|(n, v)| n == name && v == value)
            };
            sample.name == name && labels.iter().all(label)
        };
        let found: Vec<&Sample> = self.0.iter().filter(has).collect();
        assert!(found.len() <= 1, "{name} {labels:?}: {found:?}");
        found.first().map(|sample| sample.value)
    }

    /// The samples whose names begin so.
    fn beginning(&self, prefix: &str) -> Vec<&Sample> {
        self.0.iter().filter(|sample| sample.name.starts_with(prefix)).collect()
    }

    /// The values of a label of all samples with this name.
    fn label(&self, name: &str, label: &str) -> Vec<String> {
        let with_name = self.0.iter().filter(|sample| sample.name == name);
        let labels = with_name.flat_map(|sample| &sample.labels);
        labels.filter(|(name, _)| name == label).map(|(_, value)| value.clone()).collect()
    }
}

impl Sample {
    /// Reads a line: `name{label="value",...} number`.
    #[track_caller]
    fn of(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let (name, list) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = Vec::new();
        let mut rest = list.strip_suffix('}').unwrap_or_else(|| panic!("no labels: {line}"));
        while let Some((label, value)) = rest.split_once("=\"") {
            let mut text = String::new();
            let mut characters = value.char_indices();
            let end = loop {
                match characters.next().unwrap_or_else(|| panic!("no end of a label: {line}")) {
                    (end, '"') => break end,
                    (_, '\\') => match characters.next() {
                        Some((_, 'n')) => text.push('\n'),
                        Some((_, character)) => text.push(character),
                        None => panic!("no end of a label: {line}"),
                    },
                    (_, character) => text.push(character),
                }
            };
            labels.push((label.trim_start_matches(',').to_owned(), text));
            rest = &value[end + 1..];
        }
        labels.sort();
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        Self { name: name.to_owned(), labels, value }
    }
}
