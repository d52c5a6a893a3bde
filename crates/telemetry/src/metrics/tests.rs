use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point::Value};
use opentelemetry_sdk::Resource;
use prometheus_client::metrics::{counter::Counter, exemplar::HistogramWithExemplars};

use super::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: &'static str,
}

/// A counter, a histogram with an exemplar, and gauges that are read.
fn some() -> Metrics {
    let mut metrics = Metrics::default();
    let counter = Counter::<u64>::default();
    counter.inc_by(7);
    metrics.register(&metric::GENERATED_TOKENS, counter);
    let times = Histograms::new_with_constructor(|| HistogramWithExemplars::new([0.1, 1.0].into_iter()));
    let kind = Kind { gen_ai_operation_name: "chat", gen_ai_request_model: "m" };
    observe(&times.get_or_create(&kind), 0.05, None);
    observe(&times.get_or_create(&kind), 0.5, Some(TRACE));
    observe(&times.get_or_create(&kind), 5.0, None);
    metrics.register(&metric::TIME_TO_FIRST_TOKEN, times);
    metrics.register_reading(&[&metric::SESSIONS, &metric::FORWARD_BYTES], |reading| {
        reading.tell(&metric::SESSIONS, &[(&[("state", "open")], 3.0), (&[("state", "waiting")], 1.0)])?;
        reading.tell(&metric::FORWARD_BYTES, &[(&[], 1e12)])
    });
    metrics
}

#[test]
fn the_text_has_prometheus_names_units_and_exemplars() {
    let text = some().text();
    for line in [
        "outrider_generated_tokens_total 7",
        "# UNIT gen_ai_server_time_to_first_token_seconds seconds",
        "outrider_sessions{state=\"waiting\"} 1.0",
        "outrider_forward_bytes_total 1000000000000.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let exemplar = format!("gen_ai_request_model=\"m\"}} 2 # {{trace_id=\"{TRACE}\"}} 0.5");
    assert!(text.contains(&exemplar), "{exemplar} is not in\n{text}");
}

#[test]
fn over_otlp_they_have_opentelemetrys_names_units_and_attributes() {
    let resource = Resource::builder_empty().with_service_name("outrider-target").build();
    let request = some().request(&resource);
    let of_resource = &request.resource_metrics[0];
    let service = &of_resource.resource.as_ref().expect("a resource").attributes[0];
    assert_eq!(service.key, "service.name");
    let told = &of_resource.scope_metrics[0].metrics;
    let named =
        |name: &str| told.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name}: {told:?}"));

    let Some(Data::Sum(sum)) = &named("outrider.generated_tokens").data else { panic!("{told:?}") };
    assert!(sum.is_monotonic && sum.data_points[0].start_time_unix_nano <= sum.data_points[0].time_unix_nano);
    assert_eq!(sum.data_points[0].value, Some(Value::AsDouble(7.0)));

    let times = named("gen_ai.server.time_to_first_token");
    assert_eq!(times.unit, "s");
    let Some(Data::Histogram(times)) = &times.data else { panic!("{told:?}") };
    let point = &times.data_points[0];
    let mut keys: Vec<&str> = point.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["gen_ai.operation.name", "gen_ai.request.model"]);
    assert_eq!(
        (point.count, &point.bucket_counts[..], &point.explicit_bounds[..]),
        (3, &[1, 1, 1][..], &[0.1, 1.0][..])
    );
    assert_eq!(
        opentelemetry::TraceId::from_bytes(point.exemplars[0].trace_id[..].try_into().expect("16 bytes")).to_string(),
        TRACE
    );

    let Some(Data::Gauge(sessions)) = &named("outrider.sessions").data else { panic!("{told:?}") };
    assert_eq!(sessions.data_points.len(), 2);
    assert_eq!(told.len(), 4, "{told:?}");
}
