//! `/metrics` counts what happened, and nothing of what was said.

use std::collections::HashMap;

use model::Limits;
use outrider_tests::{
    cluster::{Embedded, Node, eventually, model, pair, spawn},
    http::{CONFIG, Serving, get},
    otlp::Receiver,
};
use serde_json::json;
use telemetry::{Tracer, names::metric};

use super::{COMPLETIONS, body, slow_target, with};

/// The samples by name and labels.
async fn samples(serving: &Serving) -> HashMap<String, f64> {
    let answer = get(&serving.address, "/metrics").await;
    assert_eq!(answer.status, 200);
    let kind = answer.headers["content-type"].to_str().expect("ASCII").to_owned();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    let text = answer.text().await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split(" # ").next().unwrap_or(line))
        .map(|line| line.rsplit_once(' ').expect("a value"))
        .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
        .collect()
}

#[tokio::test]
async fn they_are_what_the_answers_say() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let answers = [7, 8].map(|seed| with(body(0.8, seed, 150, 3), json!({ "n": 2 })));
    let mut blocks = Vec::new();
    for asked in &answers {
        blocks.push(serving.answered(COMPLETIONS, asked).await["metrics"]["speculative_decoding"].clone());
    }
    serving.post(COMPLETIONS, &json!({ "prompt": "O", "temperature": -1 })).await;
    get(&serving.address, "/nowhere/at-all").await;
    let samples = samples(&serving).await;
    let sum = |key: &str| blocks.iter().map(|block| block[key].as_f64().expect("a number")).sum::<f64>();
    for (name, key) in [
        ("outrider_spec_decode_num_drafts_total", "num_spec_steps"),
        ("outrider_spec_decode_num_draft_tokens_total", "num_draft_tokens"),
        ("outrider_spec_decode_num_accepted_tokens_total", "num_accepted_draft_tokens"),
    ] {
        assert_eq!(samples[name], sum(key), "{name}");
    }
    let positions = (0..3).map(|position| {
        samples[&format!("outrider_spec_decode_num_accepted_tokens_per_pos_total{{position=\"{position}\"}}")]
    });
    let positions: Vec<f64> = positions.collect();
    assert_eq!(positions.iter().sum::<f64>(), sum("num_accepted_draft_tokens"));
    assert!(positions.is_sorted_by(|a, b| a >= b), "{positions:?}");
    assert_eq!(samples["outrider_generated_tokens_total"], 600.0);
    assert_eq!(samples["outrider_choices_running"], 0.0);
    let model = &embedded.pair.target.description.model;
    let kind = format!("gen_ai_operation_name=\"text_completion\",gen_ai_request_model=\"{model}\"");
    assert_eq!(samples[&format!("gen_ai_server_time_to_first_token_seconds_count{{{kind}}}")], 4.0);
    assert_eq!(samples[&format!("gen_ai_server_time_per_output_token_seconds_count{{{kind}}}")], 4.0);
    let durations = samples.iter().filter(|(name, _)| name.starts_with("gen_ai_server_request_duration_seconds_count"));
    assert_eq!(durations.map(|(_, count)| count).sum::<f64>(), 2.0);
    for (route, status, count) in [(COMPLETIONS, 200, 2.0), (COMPLETIONS, 400, 1.0), ("other", 404, 1.0)] {
        let name = format!("outrider_http_responses_total{{route=\"{route}\",status=\"{status}\"}}");
        assert_eq!(samples[&name], count, "{name}");
    }
    assert!(samples.keys().all(|name| !name.contains("ROMEO") && !name.contains("nowhere")));
}

/// Every metric that a coordinator has is there after a request with proposals and one without, the parts of the cycles add up
/// to their wall, and an observation of a traced request names its trace.
#[tokio::test]
async fn none_is_missing() {
    let embedded = Embedded::start().await;
    let receiver = Receiver::start().await.expect("a receiver");
    let tracer = Tracer::exporting("outrider-coordinator", &receiver.endpoint()).expect("a tracer");
    let load = std::future::ready(Ok((embedded.pair.clone(), tracer)));
    let serving = Serving::loading(load, CONFIG).await;
    for gamma in [3, 0] {
        serving.answered(COMPLETIONS, &body(0.8, 7, 60, gamma)).await;
    }
    let text = get(&serving.address, "/metrics").await.text().await;
    for metric in metric::COORDINATORS.iter().chain(metric::EVERY_SERVICES) {
        let family = format!("# TYPE {} ", metric.exposed().trim_end_matches("_total"));
        assert!(text.contains(&family), "{} is not in\n{text}", metric.name);
    }
    let samples = samples(&serving).await;
    let parts: f64 =
        samples.iter().filter(|(name, _)| name.starts_with("outrider_cycle_time_seconds_total")).map(|(_, s)| s).sum();
    let wall = samples["outrider_cycle_duration_seconds_sum"];
    assert!((parts - wall).abs() < 1e-3 * wall, "{parts} s in the parts of {wall} s");
    let cycles: f64 =
        samples.iter().filter(|(name, _)| name.starts_with("outrider_cycles_total")).map(|(_, n)| n).sum();
    assert_eq!(cycles, samples["outrider_cycle_duration_seconds_count"]);
    let line =
        text.lines().find(|line| line.starts_with("outrider_cycle_duration_seconds_bucket") && line.contains("# {"));
    let (_, exemplar) = line.expect("an exemplar").split_once("trace_id=\"").expect("a trace");
    receiver.trace(&exemplar[..32]).await;
}

/// A client that goes away is counted as such, and its choice runs no more.
#[tokio::test]
async fn a_departure_is_counted() {
    let target = slow_target(20, 8);
    let node = Node::target(target.clone());
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, CONFIG).await;
    let mut stream = serving.post(COMPLETIONS, &with(body(0.8, 1, 2000, 0), json!({ "stream": true }))).await;
    assert!(stream.part().await.is_some());
    assert_eq!(samples(&serving).await["outrider_choices_running"], 1.0);
    drop(stream);
    eventually("the session is freed", || target.open_sessions() == 0).await;
    let cancelled = async {
        loop {
            let samples = samples(&serving).await;
            let ended =
                samples.iter().find(|(name, _)| name.contains("request_duration") && name.contains("cancelled"));
            if ended.is_some() && samples["outrider_choices_running"] == 0.0 {
                break;
            }
        }
    };
    outrider_tests::cluster::within(outrider_tests::cluster::LONG, cancelled).await;
}

/// A target that is gone is no success.
#[tokio::test]
async fn a_failure_is_counted_with_its_status() {
    let mut node = Node::target(spawn(model(model::EmbeddedModel::Target), Limits::default()));
    let pair = pair(None, &node).await;
    let deadlines = coordinator::Deadlines { target: std::time::Duration::from_millis(200), ..CONFIG.deadlines };
    let serving = Serving::start(&pair, coordinator::serve::Config { deadlines, ..CONFIG }).await;
    node.kill();
    let answer = serving.post(COMPLETIONS, &body(0.8, 1, 8, 0)).await;
    assert_eq!(answer.status, 503);
    let samples = samples(&serving).await;
    let failed = samples
        .iter()
        .find(|(name, _)| name.contains("request_duration_seconds_count") && name.contains("error_type=\"503\""));
    assert_eq!(failed.map(|(_, count)| *count), Some(1.0), "{samples:?}");
}
