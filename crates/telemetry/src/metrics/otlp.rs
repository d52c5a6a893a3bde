//! From prometheus-client's words to OTLP's.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::TraceId;
use opentelemetry_proto::{
    tonic::{
        collector::metrics::v1::ExportMetricsServiceRequest,
        common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
        metrics::v1::{
            AggregationTemporality, Exemplar, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
            ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data, number_data_point::Value,
        },
        resource::v1::Resource,
    },
    transform::common::tonic::ResourceAttributesWithSchema,
};
use prometheus_client::encoding::prometheus_protobuf::{self, prometheus_data_model as prometheus};

use super::Metrics;
use crate::names::metric::{self, Instrument};

/// Nanoseconds since 1970 of the process's start and of now.
#[derive(Clone, Copy)]
struct Times {
    start: u64,
    now: u64,
}

impl Metrics {
    /// All of them as an export request of the service that `resource` names.
    pub(super) fn request(&self, resource: &opentelemetry_sdk::Resource) -> ExportMetricsServiceRequest {
        let families = prometheus_protobuf::encode(&self.registry).expect("a list takes all that is written");
        let times = Times { start: nanoseconds(self.since), now: nanoseconds(SystemTime::now()) };
        let told = families.into_iter().filter_map(|family| {
            let definition = self.known.get(&family.name)?;
            Some(told(family, definition, times))
        });
        let scope = InstrumentationScope { name: "outrider".to_owned(), ..InstrumentationScope::default() };
        let of_scope = ScopeMetrics { scope: Some(scope), metrics: told.collect(), schema_url: String::new() };
        let attributes = ResourceAttributesWithSchema::from(resource).attributes.0;
        let resource = Resource { attributes, ..Resource::default() };
        let of_resource =
            ResourceMetrics { resource: Some(resource), scope_metrics: vec![of_scope], schema_url: String::new() };
        ExportMetricsServiceRequest { resource_metrics: vec![of_resource] }
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

fn told(family: prometheus::MetricFamily, definition: &metric::Metric, times: Times) -> Metric {
    let points = family.metric.into_iter();
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    let data = match definition.instrument {
        Instrument::Histogram => {
            let data_points = points.filter_map(|point| histogram(point, definition, times)).collect();
            Data::Histogram(Histogram { data_points, aggregation_temporality })
        }
        Instrument::Counter => {
            let data_points = points.filter_map(|point| number(point, definition, times)).collect();
            Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
        }
        Instrument::Gauge => {
            let data_points = points.filter_map(|point| number(point, definition, times)).collect();
            Data::Gauge(Gauge { data_points })
        }
    };
    Metric {
        name: definition.name.to_owned(),
        description: definition.brief.to_owned(),
        unit: definition.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    }
}

/// The labels under the attributes' own names, whose dots they have lost.
fn attributes(labels: Vec<prometheus::LabelPair>, definition: &metric::Metric) -> Vec<KeyValue> {
    let of_label = |prometheus::LabelPair { name, value }| {
        let key = definition.attributes.iter().find(|key| key.replace('.', "_") == name);
        let value = AnyValue { value: Some(any_value::Value::StringValue(value)) };
        KeyValue { key: key.map_or(name, |key| (*key).to_owned()), value: Some(value), ..KeyValue::default() }
    };
    // On /metrics an attribute that is not there has no value.
    labels.into_iter().filter(|label| !label.value.is_empty()).map(of_label).collect()
}

fn number(point: prometheus::Metric, definition: &metric::Metric, times: Times) -> Option<NumberDataPoint> {
    let (counter, gauge) = (point.counter.map(|counter| counter.value), point.gauge.map(|gauge| gauge.value));
    Some(NumberDataPoint {
        attributes: attributes(point.label, definition),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        value: Some(Value::AsDouble(counter.or(gauge)?)),
        ..NumberDataPoint::default()
    })
}

fn histogram(point: prometheus::Metric, definition: &metric::Metric, times: Times) -> Option<HistogramDataPoint> {
    let histogram = point.histogram?;
    let buckets = histogram.bucket;
    let up_to = [0].into_iter().chain(buckets.iter().map(|bucket| bucket.cumulative_count));
    let bucket_counts = buckets.iter().zip(up_to).map(|(bucket, before)| bucket.cumulative_count - before).collect();
    // The last bucket is for all beyond the last boundary.
    let bounded = &buckets[..buckets.len().saturating_sub(1)];
    Some(HistogramDataPoint {
        attributes: attributes(point.label, definition),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count: histogram.sample_count,
        sum: Some(histogram.sample_sum),
        bucket_counts,
        explicit_bounds: bounded.iter().map(|bucket| bucket.upper_bound).collect(),
        exemplars: buckets.into_iter().filter_map(|bucket| exemplar(bucket.exemplar?, times)).collect(),
        ..HistogramDataPoint::default()
    })
}

fn exemplar(exemplar: prometheus::Exemplar, times: Times) -> Option<Exemplar> {
    let trace_id = exemplar.label.into_iter().find(|label| label.name == "trace_id")?.value;
    let at = exemplar.timestamp.map_or(times.now, |at| at.seconds as u64 * 1_000_000_000 + at.nanos as u64);
    Some(Exemplar {
        time_unix_nano: at,
        trace_id: TraceId::from_hex(&trace_id).ok()?.to_bytes().to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
        ..Exemplar::default()
    })
}
