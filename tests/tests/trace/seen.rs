//! `outrider trace` and `outrider explain`: from a run's own file, and from what a store answers.

use axum::{Router, extract::Path, routing::get};
use outrider_tests::processes::binary;
use serde_json::Value;
use telemetry::{connections::Door, http};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::{
    finish,
    process::{Ended, command},
    report,
};

/// Runs `outrider` with these arguments.
async fn outrider(args: &[&str]) -> Ended {
    let mut outrider = command(binary("outrider"));
    outrider.args(args);
    finish(outrider).await
}

/// A run with its report, and the file of its spans.
async fn recorded(folder: &TempDir, flags: &[&str]) -> (String, Value) {
    let file = folder.path().join("run.jsonl").to_str().expect("UTF-8").to_owned();
    let args = ["generate", "ROMEO:", "--json", "--max-tokens", "48", "--trace-file", &file];
    let ended = outrider(&[&args[..], flags].concat()).await.succeeded();
    assert_eq!(ended.stderr, "");
    (file, report(&ended))
}

pub(crate) async fn explained(args: &[&str]) -> Value {
    let ended = outrider(&[&["explain", "--json"][..], args].concat()).await.succeeded();
    serde_json::from_str(&ended.stdout).expect("a judgement")
}

fn close(a: &Value, b: &Value) -> bool {
    let [a, b] = [a, b].map(|value| value.as_f64().expect("a number"));
    (a - b).abs() <= 1e-6 * a.abs().max(b.abs())
}

/// What it says of the run's parts and acceptance is what the run's report says.
#[tokio::test]
async fn a_runs_own_file_is_enough() {
    let folder = TempDir::new().expect("a folder");
    // Temperature 0 and a γ that divides nothing: the last cycles propose less, and all are in the report's means.
    let (file, report) = recorded(&folder, &["--gamma", "1"]).await;
    let judgement = explained(&[&file]).await;
    assert_eq!(judgement["trace_id"], report["trace_id"]);
    assert_eq!(judgement["cycles"][1], report["cycles"]);
    assert_eq!(judgement["acceptance_per_position"], report["acceptance_per_position"]);
    for side in ["draft", "target"] {
        for (figure, of_run) in report["roofline"][side]["link"].as_object().expect("a link") {
            assert!(close(&judgement["links"][side][figure], of_run), "{side} {figure}: {judgement}");
        }
    }
    let shares = judgement["budget"].as_array().expect("parts").iter();
    let wall: f64 = shares.map(|share| share["mean_s"].as_f64().expect("a number")).sum();
    assert!(wall > 0.0 && judgement["speedup"].as_f64().is_some_and(|speedup| speedup > 0.0), "{judgement}");
    assert_eq!(judgement["slowest"].as_array().map(Vec::len), Some(5));

    let text = outrider(&["explain", &file]).await.succeeded().stdout;
    for words in
        ["embedded:target, γ 1", "plain decoding", "target compute", "what would change it", "the slowest cycles"]
    {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    let page = folder.path().join("run.html").to_str().expect("UTF-8").to_owned();
    outrider(&["trace", &file, "--output", &page]).await.succeeded();
    let page = std::fs::read_to_string(page).expect("the page");
    let (_, data) = page.split_once("id=\"data\">").expect("the page's data");
    let (data, _) = data.split_once("</script>").expect("the end of it");
    let data: Value = serde_json::from_str(data).expect("JSON");
    assert_eq!(data["cycles"].as_array().map(|cycles| cycles.len() as u64), report["cycles"].as_u64());
    assert!(close(&data["judgement"]["speedup"], &judgement["speedup"]));
    assert!(data["roofs"]["target"]["flops_per_s"].as_f64() > Some(0.0), "{data}");
}

/// The store is one of those that answer in OTLP's JSON.
#[tokio::test]
async fn a_store_is_asked_for_a_trace() {
    let folder = TempDir::new().expect("a folder");
    let (file, report) = recorded(&folder, &[]).await;
    let lines = std::fs::read_to_string(&file).expect("spans");
    let documents = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let resources: Vec<Value> =
        documents.flat_map(|document| document["resourceSpans"].as_array().expect("spans").clone()).collect();
    let answer = serde_json::json!({ "batches": resources }).to_string();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let store = format!("http://{}", listener.local_addr().expect("an address"));
    let trace_id = report["trace_id"].as_str().expect("a trace").to_owned();
    let known = trace_id.clone();
    let answers = async move |Path(asked): Path<String>| match asked == known {
        true => Ok(answer),
        false => Err(axum::http::StatusCode::NOT_FOUND),
    };
    let routes = Router::new().route("/api/traces/{id}", get(answers));
    let serving = tokio::spawn(async move {
        let patience = std::time::Duration::from_secs(10);
        http::serve(listener, Door::default(), routes, patience, std::future::pending()).await;
    });
    assert_eq!(explained(&[&trace_id, "--store", &store]).await, explained(&[&file]).await);
    outrider(&["explain", "0af7", "--store", &store]).await.failed(1, &["/api/traces/0af7", "404"]);
    outrider(&["explain", "../secrets", "--store", &store]).await.failed(1, &["../secrets", "hexadecimal"]);
    serving.abort();
}

#[tokio::test]
async fn what_cannot_be_judged_is_an_error_that_says_so() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    outrider(&["explain", &path("nothing")]).await.failed(1, &["nothing", "No such file"]);
    std::fs::write(path("text"), "no spans").expect("a file");
    outrider(&["trace", &path("text")]).await.failed(1, &["text", "line 1 is no JSON"]);
    std::fs::write(path("empty"), r#"{"resourceSpans":[]}"#).expect("a file");
    outrider(&["trace", &path("empty")]).await.failed(1, &["none is named generate"]);
    let (file, report) = recorded(&folder, &["--trace-cycles", "off"]).await;
    let trace_id = report["trace_id"].as_str().expect("a trace");
    outrider(&["explain", &file]).await.failed(1, &[trace_id, "no cycle", "--trace-cycles off"]);
    outrider(&["explain", &file, "--trace-id", "0af7"]).await.failed(1, &["0af7", trace_id]);
}
