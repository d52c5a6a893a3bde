//! What goes out reaches its receiver over each transport, encrypted or not, with the headers that variables ask for.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use outrider_tests::{
    authority::Authority,
    otlp::{Receiver, Transport},
};
use telemetry::{names::metric, tls::Protocol};

use crate::{exporting, finish, report, tree};

const SECRET: &str = "Bearer s3cret";

/// Generates with the embedded pair and gives what the receiver has got.
async fn through(receiver: &Receiver, variables: &[(&str, &str)]) {
    let mut outrider = exporting("outrider", &receiver.endpoint());
    outrider.args(["generate", "ROMEO:", "--json", "--max-tokens", "24"]).envs(variables.iter().copied());
    outrider.env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret").env("RUST_LOG", "debug");
    let ended = finish(outrider).await.succeeded();
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    let report = report(&ended);
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    tree::assert_whole(&trace, &report);
    assert!(receiver.authorisations().iter().all(|value| value == SECRET), "{:?}", receiver.authorisations());
    assert_services(receiver);
}

/// Each service has sent its metrics once, when it ended: those of the model services.
fn assert_services(receiver: &Receiver) {
    for request in receiver.metrics() {
        for of_resource in request.resource_metrics {
            let told = of_resource.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            let told: Vec<_> = told.collect();
            let forwards = told.iter().find(|told| told.name == metric::FORWARDS.name).expect("forwards");
            assert!(matches!(&forwards.data, Some(Data::Sum(sum)) if !sum.data_points.is_empty()), "{forwards:?}");
            let names: BTreeSet<&str> = told.iter().map(|told| told.name.as_str()).collect();
            let expected = metric::MODEL_SERVICES.iter().chain(metric::EVERY_SERVICES).map(|metric| metric.name);
            assert_eq!(names, expected.collect::<BTreeSet<_>>());
        }
    }
    assert_eq!(receiver.metrics().len(), 2, "the draft's and the target's");
}

#[tokio::test]
async fn over_grpc_with_tls() {
    let authority = Authority::new().expect("an authority");
    let tls = authority.server(Protocol::Http2, None).expect("a certificate");
    let receiver = Receiver::over(Transport::Grpc(Some(tls), None)).await.expect("a receiver");
    let ca = authority.ca();
    through(&receiver, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().expect("UTF-8"))]).await;
}

#[tokio::test]
async fn over_http() {
    let receiver = Receiver::over(Transport::Http(None)).await.expect("a receiver");
    through(&receiver, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).await;
}

#[tokio::test]
async fn over_http_with_tls() {
    let authority = Authority::new().expect("an authority");
    let tls = authority.server(Protocol::Http1, None).expect("a certificate");
    let receiver = Receiver::over(Transport::Http(Some(tls))).await.expect("a receiver");
    let ca = authority.ca();
    let variables = [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.to_str().expect("UTF-8")),
    ];
    through(&receiver, &variables).await;
}

/// A receiver whose certificate is of another authority gets nothing, and somebody says so.
#[tokio::test]
async fn a_receiver_that_is_not_believed_gets_nothing() {
    let (authority, other) = (Authority::new().expect("an authority"), Authority::new().expect("another"));
    let tls = authority.server(Protocol::Http2, None).expect("a certificate");
    let receiver = Receiver::over(Transport::Grpc(Some(tls), None)).await.expect("a receiver");
    let mut outrider = exporting("outrider", &receiver.endpoint());
    outrider.args(["generate", "ROMEO:", "--json", "--max-tokens", "8"]);
    outrider.env("OTEL_EXPORTER_OTLP_CERTIFICATE", other.ca());
    let ended = finish(outrider).await.succeeded();
    assert!(ended.stderr.contains("spans were lost"), "{}", ended.stderr);
    assert_eq!(receiver.requests(), 0);
}

/// A line of the log that belongs to a request says which trace it is of.
#[tokio::test]
async fn logs_name_their_trace() {
    let receiver = Receiver::start().await.expect("a receiver");
    let mut outrider = exporting("outrider", &receiver.endpoint());
    // The draft is given no time, so that a cycle has something to say.
    let late = ["--draft-deadline", "1us", "--log-format", "json"];
    outrider
        .args(["generate", "ROMEO:", "--json", "--max-tokens", "24"])
        .args(late)
        .env("RUST_LOG", "coordinator=debug");
    let ended = finish(outrider).await.succeeded();
    let report = report(&ended);
    let lines = ended.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let late: Vec<_> = lines.filter(|line| line["message"] == "the draft missed its deadline").collect();
    assert!(!late.is_empty(), "{}", ended.stderr);
    assert!(late.iter().all(|line| line["span"]["trace_id"] == report["trace_id"]), "{late:?}");
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    let told =
        |stored: &&outrider_tests::otlp::Stored| stored.span.events.iter().any(|event| event.name == "draft.late");
    assert_eq!(trace.spans.iter().filter(told).count(), late.len(), "{trace}");
}

/// Of ten cycles' spans the first and then every third are there, with those of the services; the root tells of all.
#[tokio::test]
async fn cycles_can_be_sampled() {
    for (which, every) in [("sampled:3", Some(3)), ("off", None)] {
        let receiver = Receiver::start().await.expect("a receiver");
        let mut outrider = exporting("outrider", &receiver.endpoint());
        outrider.args(["generate", "ROMEO:", "--json", "--ar", "--max-tokens", "11", "--trace-cycles", which]);
        let report = report(&finish(outrider).await.succeeded());
        let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
        let cycles = trace.named(trace.root(), "cycle");
        let numbers: Vec<i64> = cycles.iter().map(|cycle| cycle.int("outrider.spec.cycle")).collect();
        assert_eq!(numbers, every.map_or(Vec::new(), |every| (1..=10).step_by(every).collect::<Vec<_>>()));
        assert_eq!(trace.root().int("outrider.spec.cycles"), 10);
        let verifies = trace.spans.iter().filter(|stored| stored.span.name == "verify").count();
        assert_eq!(verifies, numbers.len(), "{trace}");
    }
}
