//! A request through three processes, read back from a real trace store's own API:
//!
//! `OTELITE=path/to/otelite cargo test -p outrider-tests --test trace store -- --ignored`
//!
//! Otelite (`cargo install otelite`) is a store of its own making, with gRPC, SQLite and an API; building it takes minutes, so the
//! gate leaves this out. It keeps everything but links.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    process::Stdio,
    time::Duration,
};

use outrider_tests::http::get;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    time,
};

use crate::{exporting, finish, report, running::Running, seen::explained};

/// How long the store may take to have it all.
const PATIENCE: Duration = Duration::from_secs(20);

/// The store, killed when dropped.
struct Store {
    address: String,
    otlp: String,
    _process: Child,
    _folder: TempDir,
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").port()
}

impl Store {
    async fn start() -> Self {
        let binary = env::var_os("OTELITE").expect("OTELITE names otelite's binary");
        let (api, grpc, http) = (free_port().await, free_port().await, free_port().await);
        let folder = TempDir::new().expect("a folder");
        let process = Command::new(binary)
            .args(["serve", "--addr", &format!("127.0.0.1:{api}"), "--storage-path"])
            .arg(folder.path())
            .env("OTELITE_OTLP_GRPC_PORT", grpc.to_string())
            .env("OTELITE_OTLP_HTTP_PORT", http.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("otelite starts");
        let store = Self {
            address: format!("127.0.0.1:{api}"),
            otlp: format!("http://127.0.0.1:{grpc}"),
            _process: process,
            _folder: folder,
        };
        let ready = async {
            while TcpStream::connect(&store.address).await.is_err() {
                time::sleep(Duration::from_millis(50)).await;
            }
        };
        time::timeout(PATIENCE, ready).await.expect("otelite listens");
        store
    }

    /// The spans of a trace, as soon as there are so many.
    async fn spans(&self, trace_id: &str, count: usize) -> Vec<Value> {
        let path = format!("/api/traces/{trace_id}");
        let asked = async {
            loop {
                let answer = get(&self.address, &path).await;
                if answer.status == 200 {
                    let spans = answer.json().await["spans"].as_array().expect("spans").clone();
                    if spans.len() >= count {
                        return spans;
                    }
                }
                time::sleep(Duration::from_millis(200)).await;
            }
        };
        time::timeout(PATIENCE, asked).await.expect("the store has the whole trace")
    }
}

fn text<'a>(span: &'a Value, key: &str) -> &'a str {
    span[key].as_str().unwrap_or_default()
}

fn service_of(span: &Value) -> &str {
    text(&span["resource"]["attributes"], "service.name")
}

/// What a run with three processes tells the store, whole: each span with its service, kind, parent and attributes.
#[tokio::test]
#[ignore = "needs otelite, named by OTELITE"]
async fn a_request_is_read_back_whole() {
    let store = Store::start().await;
    let service = |name| Running::spawn(exporting(name, &store.otlp).args(["--listen", "127.0.0.1:0"]));
    let (draft, target) = (service("draft-svc"), service("target-svc"));
    tokio::join!(draft.describe(), target.describe());
    let mut outrider = exporting("outrider", &store.otlp);
    outrider.args(["generate", "ROMEO:", "--json", "--gamma", "4", "--max-tokens", "64"]);
    outrider.args(["--draft", &draft.url(), "--target", &target.url()]);
    let report = report(&finish(outrider).await.succeeded());
    let (trace_id, cycles) = (text(&report, "trace_id"), report["cycles"].as_u64().expect("cycles") as usize);

    // The last cycles propose less than γ tokens, so there are no more forwards than this; at least each cycle's verify has one.
    let spans = store.spans(trace_id, 7 + cycles * 5).await;
    time::sleep(Duration::from_secs(1)).await;
    let spans = store.spans(trace_id, spans.len()).await;
    let by_id: BTreeMap<&str, &Value> = spans.iter().map(|span| (text(span, "span_id"), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "each span once");
    let mut counts: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
    for span in &spans {
        let parent = by_id.get(text(span, "parent_span_id"));
        let above = parent.map_or("", |parent| text(parent, "name"));
        assert_eq!(
            parent.is_none(),
            text(span, "name") == "generate",
            "{span} has a parent in the trace, or is its root"
        );
        *counts.entry((above, text(span, "name"), service_of(span), text(span, "kind"))).or_default() += 1;
    }
    let kinds: BTreeSet<_> = counts.keys().copied().collect();
    let (own, draft_svc, target_svc) = ("outrider-coordinator", "outrider-draft", "outrider-target");
    let expected = [
        ("", "generate", own, "Client"),
        ("generate", "prefill", own, "Internal"),
        ("generate", "cycle", own, "Internal"),
        ("prefill", "prefill", draft_svc, "Server"),
        ("prefill", "prefill", target_svc, "Server"),
        ("prefill", "queue", draft_svc, "Internal"),
        ("prefill", "queue", target_svc, "Internal"),
        ("prefill", "forward", draft_svc, "Internal"),
        ("prefill", "forward", target_svc, "Internal"),
        ("cycle", "propose", draft_svc, "Server"),
        ("cycle", "verify", target_svc, "Server"),
        ("propose", "queue", draft_svc, "Internal"),
        ("propose", "forward", draft_svc, "Internal"),
        ("verify", "queue", target_svc, "Internal"),
        ("verify", "forward", target_svc, "Internal"),
    ];
    assert_eq!(kinds, expected.into(), "{counts:#?}");
    assert_eq!(counts[&("generate", "cycle", own, "Internal")], cycles);
    assert_eq!(counts[&("cycle", "verify", target_svc, "Server")], cycles);
    assert_eq!(counts[&("verify", "forward", target_svc, "Internal")], cycles);
    for cycle in spans.iter().filter(|span| text(span, "name") == "cycle") {
        let events: Vec<&str> = cycle["events"].as_array().expect("events").iter().map(|e| text(e, "name")).collect();
        assert_eq!(events, ["commit", "emit"], "{cycle}");
        let number = |key: &str| text(&cycle["attributes"], key).parse::<u64>().unwrap_or_default();
        let parts = ["draft", "target"].iter().flat_map(|side| {
            ["compute", "queue", "network"].map(|part| number(&format!("outrider.spec.{side}_{part}_ns")))
        });
        let sum = parts.sum::<u64>() + number("outrider.spec.coordinator_ns");
        assert_eq!(sum, number("outrider.spec.wall_ns"), "the parts and the wall of {cycle}");
    }

    // What is judged from the store's answer is judged from the report's own figures.
    let judgement = explained(&[trace_id, "--store", &format!("http://{}", store.address)]).await;
    assert_eq!(judgement["cycles"][0], report["cycles"]);
    assert_eq!(judgement["acceptance_per_position"], report["acceptance_per_position"]);
}
