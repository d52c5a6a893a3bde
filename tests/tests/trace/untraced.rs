//! Where nothing is exported, nothing is on the wire; where something is lost, somebody says so.

use outrider_tests::{otlp::Receiver, processes::binary};
use proto::v1::Role;
use serde_json::Value;
use tonic::Status;

use crate::{
    exporting, finish, generate,
    process::{Ended, command},
    raw::{self, Wire},
    report,
};

/// Nothing listens at port 1, which is reserved.
const NOBODY: &str = "http://127.0.0.1:1";

/// An environment variable.
type Variable<'a> = (&'a str, &'a str);

/// Runs `outrider` against services that keep what they get, with `variables` set.
async fn on_the_wire(variables: &[Variable<'_>]) -> (Wire, Value) {
    let wire = Wire::default();
    let (draft, target) = (raw::start(Role::Draft, &wire).await, raw::start(Role::Target, &wire).await);
    let mut outrider = command(binary("outrider"));
    outrider.args(["generate", "ROMEO:", "--json", "--max-tokens", "24", "--draft", &draft, "--target", &target]);
    outrider.envs(variables.iter().copied());
    let ended = finish(outrider).await.succeeded();
    assert_eq!(ended.stderr, "");
    (wire, report(&ended))
}

fn assert_untraced(wire: &Wire, report: &Value) {
    assert!(report["trace_id"].is_null(), "{report}");
    let contexts = wire.contexts();
    assert!(contexts.len() > 8 && contexts.iter().all(Option::is_none), "{contexts:?}");
}

#[tokio::test]
async fn without_an_endpoint_no_trace_context_is_on_the_wire() {
    let (wire, report) = on_the_wire(&[]).await;
    assert_untraced(&wire, &report);
    let (wire, report) = on_the_wire(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]).await;
    assert_untraced(&wire, &report);
}

#[tokio::test]
async fn what_the_standard_variables_switch_off_is_off() {
    let receiver = Receiver::start().await.expect("a receiver");
    let endpoint = receiver.endpoint();
    for (variable, value) in
        [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_TRACES_SAMPLER", "always_off")]
    {
        let (wire, report) = on_the_wire(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), (variable, value)]).await;
        assert_untraced(&wire, &report);
    }
    assert_eq!(receiver.requests(), 0);
}

/// And with an endpoint, the wire carries the trace that the report names.
#[tokio::test]
async fn every_message_names_its_span_where_spans_are_exported() {
    let receiver = Receiver::start().await.expect("a receiver");
    let (wire, report) = on_the_wire(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &receiver.endpoint())]).await;
    let trace_id = report["trace_id"].as_str().expect("a trace");
    let spans = receiver.trace(trace_id).await.spans;
    let contexts = wire.contexts();
    assert!(contexts.len() > 8);
    for context in contexts {
        let context = context.expect("a trace context in every message");
        let fields: Vec<&str> = context.traceparent.split('-').collect();
        let ["00", of_trace, of_span, "01"] = fields[..] else { panic!("{context:?}") };
        assert_eq!(of_trace, trace_id);
        let id = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let parent = spans.iter().find(|stored| id(&stored.span.span_id) == of_span).expect("a span that was sent");
        assert!(["prefill", "cycle"].contains(&parent.span.name.as_str()), "{parent}");
    }
}

/// The run succeeds, and each of the three services says how many spans nobody will ever see.
fn assert_lost(ended: Ended) {
    let ended = ended.succeeded();
    let cycles = report(&ended)["cycles"].as_u64().expect("a number");
    let lost = |service: &str| -> u64 {
        let line = ended.stderr.lines().find(|line| line.contains("lost") && line.contains(service));
        let line = line.unwrap_or_else(|| panic!("{service} says nothing of its spans: {ended:?}"));
        let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        assert_eq!(field("lost="), field("ended="), "all of them: {line}");
        field("lost=").and_then(|count| count.parse().ok()).expect("a count")
    };
    assert_eq!(lost("outrider-coordinator"), cycles + 2, "root, prefill, cycles");
    assert_eq!(lost("outrider-target"), 3 * (cycles + 1), "message, queue, forward");
    assert!(lost("outrider-draft") > 3 * cycles, "message, queue, forwards");
}

#[tokio::test]
async fn a_receiver_that_is_not_there_costs_the_spans_which_are_counted() {
    let mut outrider = exporting("outrider", NOBODY);
    outrider.args(["generate", "ROMEO:", "--json", "--gamma", "4", "--max-tokens", "16"]);
    assert_lost(finish(outrider).await);
}

#[tokio::test]
async fn a_receiver_that_refuses_costs_the_spans_which_are_counted() {
    let receiver = Receiver::refusing(Status::permission_denied("not yours")).await.expect("a receiver");
    let ended = finish(generate(&receiver, &["--max-tokens", "16"])).await;
    assert!(ended.stderr.contains("PermissionDenied"), "the receiver's reason: {ended:?}");
    assert_lost(ended);
    assert!(receiver.requests() >= 3 && receiver.spans().is_empty());
}

#[tokio::test]
async fn an_export_that_cannot_work_is_an_error_that_says_so() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
    let cases: [(&[Variable], &[&str]); 7] = [
        (&[(ENDPOINT, NOBODY), (PROTOCOL, "http/json")], &[PROTOCOL, "http/json", "allowed: grpc or http/protobuf"]),
        (
            &[(ENDPOINT, NOBODY), ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http")],
            &["OTLP_TRACES_PROTOCOL is http,", "grpc"],
        ),
        (&[(ENDPOINT, "nonsense")], &["nonsense", "allowed: http://HOST:PORT"]),
        (&[(ENDPOINT, "localhost:4317")], &["localhost:4317", "allowed: http://HOST:PORT"]),
        (&[(ENDPOINT, "ftp://127.0.0.1:4317")], &["ftp://127.0.0.1:4317", "allowed: http://HOST:PORT"]),
        (&[(ENDPOINT, "http://127.0.0.1:99999")], &["http://127.0.0.1:99999", "port", "allowed: http://HOST:PORT"]),
        (&[(ENDPOINT, "::::")], &["::::", "allowed: http://HOST:PORT"]),
    ];
    for (variables, words) in cases {
        for (name, args) in [
            ("outrider", &["generate", "ROMEO:"][..]),
            ("draft-svc", &["--listen", "127.0.0.1:0"]),
            ("target-svc", &["--listen", "127.0.0.1:0"]),
        ] {
            let mut command = command(binary(name));
            command.args(args).envs(variables.iter().copied());
            finish(command).await.failed(1, words);
        }
    }
}
