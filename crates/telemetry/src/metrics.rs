//! Metrics of one service, in the OpenMetrics text format and over OTLP.
//!
//! prometheus-client keeps them, because it keeps exemplars, which OpenTelemetry's SDK for Rust does not; what it holds is
//! put into OTLP's words when it is exported. Names are OpenTelemetry's (see [`crate::names::metric`]); on `/metrics` they
//! are spelt as its Prometheus exporters spell them.

mod export;
mod otlp;
mod serve;

use std::{collections::HashMap, fmt, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, exemplar::HistogramWithExemplars, family::Family, gauge::ConstGauge},
    registry::{self, Unit},
};

pub use export::Exporter;
pub use serve::serve;

use crate::{
    Tracer,
    names::metric::{self, Instrument, Metric},
};

/// All metrics of one service.
#[derive(Debug)]
pub struct Metrics {
    registry: registry::Registry,
    /// By the names that they are exposed under.
    known: HashMap<String, &'static Metric>,
    since: SystemTime,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: registry::Registry::default(), known: HashMap::new(), since: SystemTime::now() }
    }
}

impl Metrics {
    /// Tells `values` as `metric`.
    pub fn register(&mut self, metric: &'static Metric, values: impl registry::Metric) {
        let (name, unit) = spelling(metric);
        self.known.insert(metric.exposed(), metric);
        match unit {
            Some(unit) => self.registry.register_with_unit(name, metric.brief, unit, values),
            None => self.registry.register(name, metric.brief, values),
        }
    }

    /// Tells what `read` finds whenever the metrics are asked for.
    pub fn register_reading(
        &mut self,
        metrics: &[&'static Metric],
        read: impl Fn(&mut Reading<'_>) -> fmt::Result + Send + Sync + 'static,
    ) {
        self.known.extend(metrics.iter().map(|metric| (metric.exposed(), *metric)));
        self.registry.register_collector(Box::new(Reader(read)));
    }

    /// Tells how many spans a tracer has made, and how many of them have arrived.
    pub fn register_spans(&mut self, tracer: impl Fn() -> Option<Tracer> + Send + Sync + 'static) {
        let metrics = [&metric::SPANS_ENDED, &metric::SPANS_EXPORTED, &metric::SPAN_EXPORTS_FAILED];
        self.register_reading(&metrics, move |reading| {
            let counts = tracer().map(|tracer| tracer.counts()).unwrap_or_default();
            metrics.into_iter().zip(counts).try_for_each(|(metric, count)| reading.tell(metric, &[(&[], count as f64)]))
        });
    }

    /// All of them in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes all that is written");
        text
    }
}

/// The name and the unit as the registry takes them.
fn spelling(metric: &Metric) -> (String, Option<Unit>) {
    let (name, unit) = metric.registered();
    let unit = match unit {
        "_seconds" => Some(Unit::Seconds),
        "_bytes" => Some(Unit::Bytes),
        _ => None,
    };
    (name, unit)
}

/// Takes the values that are read when they are asked for.
#[derive(Debug)]
pub struct Reading<'a>(DescriptorEncoder<'a>);

/// Labels and their values.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Reading<'_> {
    /// The values of `metric`, a counter or a gauge, by their labels.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn tell(&mut self, metric: &Metric, values: &[(Labels<'_>, f64)]) -> fmt::Result {
        let (name, unit) = spelling(metric);
        let is_counter = metric.instrument == Instrument::Counter;
        let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
        // The registry ends what it is told of a metric with a full stop too.
        let brief = format!("{}.", metric.brief);
        let mut family = self.0.encode_descriptor(&name, &brief, unit.as_ref(), kind)?;
        let encode = |value: f64, encoder: MetricEncoder<'_>| match is_counter {
            true => ConstCounter::new(value).encode(encoder),
            false => ConstGauge::new(value).encode(encoder),
        };
        if let [([], value)] = values {
            return encode(*value, family);
        }
        values.iter().try_for_each(|(labels, value)| encode(*value, family.encode_family(&labels.to_vec())?))
    }
}

/// Reads values whenever the metrics are asked for.
struct Reader<F>(F);

impl<F> fmt::Debug for Reader<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reader")
    }
}

impl<F: Fn(&mut Reading<'_>) -> fmt::Result + Send + Sync + 'static> Collector for Reader<F> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        (self.0)(&mut Reading(encoder))
    }
}

/// A histogram that ties what it counts to traces.
pub type Histograms<L> = Family<L, HistogramWithExemplars<Exemplar>, fn() -> HistogramWithExemplars<Exemplar>>;

/// The trace that an observation is of.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct Exemplar {
    trace_id: String,
}

/// Counts an observation, and ties it to its trace where that is exported.
pub fn observe(histogram: &HistogramWithExemplars<Exemplar>, value: f64, trace_id: Option<&str>) {
    let exemplar = trace_id.map(|trace_id| Exemplar { trace_id: trace_id.to_owned() });
    let at = trace_id.map(|_| SystemTime::now());
    histogram.observe(value, exemplar, at);
}

#[cfg(test)]
mod tests;
