//! The trace of a request, whole: every span, its parent, its service, its attributes, as a real OTLP receiver got them.

#[path = "../../crates/service/tests/cli/process.rs"]
mod process;
#[path = "../../crates/service/tests/cli/running.rs"]
mod running;

#[path = "trace/ahead.rs"]
mod ahead;
#[path = "trace/raw.rs"]
mod raw;
#[path = "trace/registry.rs"]
mod registry;
#[path = "trace/seen.rs"]
mod seen;
#[path = "trace/shared.rs"]
mod shared;
#[path = "trace/sick.rs"]
mod sick;
#[path = "trace/store.rs"]
mod store;
#[path = "trace/transport.rs"]
mod transport;
#[path = "trace/tree.rs"]
mod tree;
#[path = "trace/untraced.rs"]
mod untraced;

use std::process::Command;

use outrider_tests::{
    cluster::eventually,
    otlp::{Receiver, Trace},
    processes::binary,
};
use process::{Ended, command, end};
use running::Running;
use serde_json::Value;

/// A binary that exports to `endpoint` without waiting for long.
fn exporting(name: &str, endpoint: &str) -> Command {
    let mut command = command(binary(name));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint).env("OTEL_BSP_SCHEDULE_DELAY", "100");
    command
}

/// Runs a command to its end without holding up the services that live in this test's runtime.
async fn finish(mut command: Command) -> Ended {
    tokio::task::spawn_blocking(move || end(&mut command, b"")).await.expect("a command that does not panic")
}

async fn stop(service: Running) -> Ended {
    tokio::task::spawn_blocking(move || service.stop("TERM")).await.expect("a service that does not panic")
}

/// What `generate --json` printed.
fn report(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).expect("a report")
}

fn generate(receiver: &Receiver, flags: &[&str]) -> Command {
    let mut outrider = exporting("outrider", &receiver.endpoint());
    outrider.args(["generate", "ROMEO:", "--json", "--gamma", "4"]).args(flags);
    outrider
}

/// The trace of a run by three processes, which have all ended, and its report.
async fn through_three_processes(flags: &[&str]) -> (Trace, Value) {
    let receiver = Receiver::start().await.expect("a receiver");
    let service = |name| Running::spawn(exporting(name, &receiver.endpoint()).args(["--listen", "127.0.0.1:0"]));
    let (draft, target) = (service("draft-svc"), service("target-svc"));
    tokio::join!(draft.describe(), target.describe());
    let mut outrider = generate(&receiver, flags);
    outrider.args(["--draft", &draft.url(), "--target", &target.url()]);
    let outrider = finish(outrider).await.succeeded();
    assert_eq!(outrider.stderr, "", "no span is missed");

    // The services send their spans in time, before they stop.
    let report = report(&outrider);
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    for service in [draft, target] {
        let ended = stop(service).await.succeeded();
        assert!(!ended.stderr.contains("WARN"), "{}", ended.stderr);
    }
    assert_eq!(receiver.spans().len(), trace.spans.len(), "spans of another trace, or late ones");
    (trace, report)
}

#[tokio::test]
async fn a_request_through_three_processes_is_one_whole_tree() {
    let (trace, report) = through_three_processes(&["--max-tokens", "64"]).await;
    tree::assert_whole(&trace, &report);
}

/// A target that is killed in the middle of a run: the attempts to go on are in the trace, the last one with the session
/// that it opened.
#[tokio::test]
async fn a_failover_is_in_the_trace() {
    let receiver = Receiver::start().await.expect("a receiver");
    let service = || Running::spawn(exporting("target-svc", &receiver.endpoint()).args(["--listen", "127.0.0.1:0"]));
    let (first, second) = (service(), service());
    tokio::join!(first.describe(), second.describe());
    let mut outrider = exporting("outrider", &receiver.endpoint());
    let targets = format!("{},{}", first.url(), second.url());
    outrider.args(["generate", "ROMEO:", "--json", "--ar", "--max-tokens", "1800", "--target", &targets]);
    let running = tokio::spawn(finish(outrider));
    eventually("the run is under way", || !receiver.spans().is_empty()).await;
    drop(first);
    let report = report(&running.await.expect("a run").succeeded());
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    let root = trace.root();
    let attempts = trace.named(root, "failover");
    assert!(!attempts.is_empty(), "{trace}");
    let last = attempts.last().expect("an attempt");
    assert_eq!(trace.named(last, "prefill").len(), 1, "the session that was opened: {trace}");
    stop(second).await.succeeded();
}

/// Ends in cycles that want fewer tokens than γ, or none.
#[tokio::test]
async fn the_last_cycles_of_a_request_are_in_the_tree_too() {
    for max_tokens in ["1", "2", "3", "9"] {
        let (trace, report) = through_three_processes(&["--max-tokens", max_tokens, "--temperature", "0"]).await;
        tree::assert_whole(&trace, &report);
    }
}

#[tokio::test]
async fn decoding_with_the_target_alone_has_no_span_of_a_draft() {
    let receiver = Receiver::start().await.expect("a receiver");
    let mut outrider = exporting("outrider", &receiver.endpoint());
    outrider.args(["generate", "ROMEO:", "--json", "--ar", "--max-tokens", "12"]);
    let report = report(&finish(outrider).await.succeeded());
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    assert!(trace.spans.iter().all(|stored| stored.service != "outrider-draft"), "{trace}");
    tree::assert_whole(&trace, &report);
}

/// Three services in one process, each with its own name.
#[tokio::test]
async fn the_embedded_pair_makes_the_same_tree() {
    let receiver = Receiver::start().await.expect("a receiver");
    let ended = finish(generate(&receiver, &["--max-tokens", "64"])).await.succeeded();
    assert_eq!(ended.stderr, "", "no span is missed");
    let report = report(&ended);
    let trace = receiver.trace(report["trace_id"].as_str().expect("a trace")).await;
    assert_eq!(receiver.spans().len(), trace.spans.len(), "spans of another trace");
    tree::assert_whole(&trace, &report);
}
