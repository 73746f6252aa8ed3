//! Metrics and their samples, and how they are written.
//!
//! `prometheus-client` writes both formats. It collects samples from objects that live as long as
//! the program; here each scrape brings samples of its own, so that nothing stale is told.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    CounterValueEncoder, DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric,
    GaugeValueEncoder, prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};

use crate::output::printable;

/// The most samples of one metric. A cluster has some thousand; a daemon that lies has no limit.
const MOST_SAMPLES: usize = 20_000;
/// The most bytes of a label's value.
const MOST_LABEL: usize = 1024;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Gauge,
    /// Its name ends with `_total`.
    Counter,
    /// Its labels say something, its value is 1. Its name ends with `_info`.
    Info,
}

/// A metric with `N` labels.
#[derive(Debug)]
pub(crate) struct Metric<const N: usize> {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: [&'static str; N],
    pub(crate) help: &'static str,
}

/// A metric, whatever labels it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Description {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

impl<const N: usize> Metric<N> {
    pub(crate) const fn describe(&'static self) -> Description {
        Description { name: self.name, kind: self.kind, labels: &self.labels, help: self.help }
    }
}

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Integer(u64),
    Float(f64),
}

impl EncodeGaugeValue for Number {
    fn encode(&self, encoder: &mut GaugeValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => EncodeGaugeValue::encode(number, encoder),
            Self::Float(number) => EncodeGaugeValue::encode(number, encoder),
        }
    }
}

impl EncodeCounterValue for Number {
    fn encode(&self, encoder: &mut CounterValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => EncodeCounterValue::encode(number, encoder),
            Self::Float(number) => EncodeCounterValue::encode(number, encoder),
        }
    }
}

impl From<bool> for Number {
    fn from(is: bool) -> Self {
        Self::Integer(is.into())
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self::Integer(number)
    }
}

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self::Integer(number as u64)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Self {
        Self::Float(number)
    }
}

/// The samples of one scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Families {
    by_name: BTreeMap<&'static str, Family>,
    omitted: u64,
}

#[derive(Clone, Debug)]
struct Family {
    description: Description,
    samples: BTreeMap<Vec<String>, Number>,
}

impl Families {
    /// Adds a sample, or replaces the one with the same labels.
    pub(crate) fn add<const N: usize>(
        &mut self,
        metric: &'static Metric<N>,
        labels: [&str; N],
        value: impl Into<Number>,
    ) {
        let description = metric.describe();
        let new = || Family { description, samples: BTreeMap::new() };
        let samples = &mut self.by_name.entry(metric.name).or_insert_with(new).samples;
        let has_room = samples.len() < MOST_SAMPLES;
        match samples.entry(labels.map(label_value).into()) {
            Entry::Occupied(mut sample) => _ = sample.insert(value.into()),
            Entry::Vacant(room) if has_room => _ = room.insert(value.into()),
            Entry::Vacant(_) => self.omitted += 1,
        }
    }

    /// How many samples had no room.
    pub(crate) fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Adds the samples of another scrape.
    pub(crate) fn extend(&mut self, other: Self) {
        self.by_name.extend(other.by_name);
        self.omitted += other.omitted;
    }

    /// Writes all samples.
    pub(crate) fn write(self, format: Format) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut written = String::new();
        let result = match format {
            Format::Prometheus => prometheus_text::encode(&mut written, &registry),
            Format::OpenMetrics => text::encode(&mut written, &registry),
        };
        result.expect("a String takes everything");
        written
    }
}

/// Text without characters that steer a terminal, where a label may end up.
fn label_value(text: &str) -> String {
    let mut text = printable(text);
    let cut = text.char_indices().map(|(index, _)| index).find(|index| *index > MOST_LABEL);
    if let Some(cut) = cut {
        text.truncate(cut);
    }
    text
}

/// How samples are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// The Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.by_name.values().try_for_each(|family| family.encode(&mut encoder))
    }
}

impl Family {
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Description { name, kind, labels, help } = self.description;
        // What the encoder adds again.
        let (metric_type, suffix) = match kind {
            Kind::Gauge => (MetricType::Gauge, ""),
            Kind::Counter => (MetricType::Counter, "_total"),
            Kind::Info => (MetricType::Info, "_info"),
        };
        let name = name.strip_suffix(suffix).unwrap_or(name);
        let units = [("_seconds", Unit::Seconds), ("_bytes", Unit::Bytes)];
        let unit =
            units.into_iter().find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, unit)));
        let (name, unit) = unit.map_or((name, None), |(name, unit)| (name, Some(unit)));
        let mut metric = encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
        for (values, number) in &self.samples {
            let labels: Vec<(&str, &str)> =
                labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            if kind == Kind::Info {
                metric.encode_info(&labels)?;
                continue;
            }
            let mut sample = metric.encode_family(&labels)?;
            match kind {
                Kind::Counter => ConstCounter::new(*number).encode(sample)?,
                Kind::Gauge | Kind::Info => sample.encode_gauge(number)?,
            }
        }
        Ok(())
    }
}
