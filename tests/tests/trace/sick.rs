//! Made-up sicknesses of three real processes: `outrider explain` names the cause of each.

use std::{process::Command, time::Duration};

use coordinator::{Access, Pair};
use outrider_tests::{
    cluster::{self, sampled},
    otlp::Receiver,
    proxy::Proxy,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{exporting, finish, report, running::Running, seen::explained};

/// Sessions that keep a shared target busy with prefills.
const PREFILLS: usize = 7;

/// A draft and a target of which a sickness can be made.
struct Patient {
    receiver: Receiver,
    draft: Running,
    target: Running,
}

impl Patient {
    async fn with_draft(flags: &[&str]) -> Self {
        let receiver = Receiver::start().await.expect("a receiver");
        let service = |name, flags: &[&str]| {
            let mut command = exporting(name, &receiver.endpoint());
            Running::spawn(command.args(["--listen", "127.0.0.1:0", "--threads", "1"]).args(flags))
        };
        let (draft, target) = (service("draft-svc", flags), service("target-svc", &[]));
        tokio::join!(draft.describe(), target.describe());
        Self { receiver, draft, target }
    }

    fn outrider(&self, flags: &[&str]) -> Command {
        let mut outrider = exporting("outrider", &self.receiver.endpoint());
        outrider.args(["generate", "ROMEO:", "--json", "--max-tokens", "96", "--temperature", "0"]).args(flags);
        outrider
    }

    /// What `explain` says of a request with `draft`, which a plain one of `before` is held against.
    async fn explained(&self, draft: &str, before: &Value) -> Value {
        let outrider = self.outrider(&["--gamma", "4", "--draft", draft, "--target", &self.target.url()]);
        let run = report(&finish(outrider).await.succeeded());
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("spans.jsonl");
        let mut lines = String::new();
        for run in [before, &run] {
            let trace = self.receiver.trace(run["trace_id"].as_str().expect("a trace")).await;
            lines += &trace.to_json();
        }
        std::fs::write(&file, lines).expect("a file");
        let trace_id = run["trace_id"].as_str().expect("a trace");
        explained(&[file.to_str().expect("UTF-8"), "--trace-id", trace_id]).await
    }

    /// The report of a request that the target decodes alone.
    async fn alone(&self) -> Value {
        report(&finish(self.outrider(&["--ar", "--target", &self.target.url()])).await.succeeded())
    }
}

/// The target's own model is the draft: all is accepted, and it does not help.
#[tokio::test]
async fn a_draft_as_big_as_its_target_is_the_draft() {
    let patient = Patient::with_draft(&["--model", "embedded:target"]).await;
    let judgement = patient.explained(&patient.draft.url(), &patient.alone().await).await;
    assert_eq!(judgement["limit"], "draft", "{judgement:#}");
    assert!(judgement["speedup"].as_f64().is_some_and(|speedup| speedup < 2.0), "{judgement:#}");
}

#[tokio::test]
async fn a_draft_twenty_milliseconds_away_is_the_network() {
    let patient = Patient::with_draft(&[]).await;
    let address = patient.draft.url().trim_start_matches("http://").parse().expect("an address");
    let far = Proxy::start(address, Duration::from_millis(20)).await.expect("a proxy");
    let judgement = patient.explained(&far.url(), &patient.alone().await).await;
    assert_eq!(judgement["limit"], "network", "{judgement:#}");
    let link = &judgement["links"]["draft"];
    assert!(link["roof_rtt_s"].as_f64().is_some_and(|roof_s| (0.02..0.04).contains(&roof_s)), "{link}");
}

/// One prompt after the other, none of which begins as another does.
async fn prefills(pair: Pair, session: usize) {
    for turn in 0.. {
        let prompt = format!("{session} {turn} {}", "the king's own words to his son, ".repeat(40));
        cluster::run(&pair, &cluster::request(&prompt, sampled(0.0, 0), 1, 0)).await;
    }
}

#[tokio::test]
async fn a_target_shared_with_seven_prefills_is_the_queue() {
    let patient = Patient::with_draft(&[]).await;
    let alone = patient.alone().await;
    let pair = Pair::connect(None, &patient.target.url(), &Access::default()).await.expect("the target");
    let crowd: JoinSet<()> = (0..PREFILLS).map(|session| prefills(pair.clone(), session)).collect();
    let judgement = patient.explained(&patient.draft.url(), &alone).await;
    drop(crowd);
    assert_eq!(judgement["limit"], "queue", "{judgement:#}");
    let slowest = judgement["slowest"].as_array().expect("cycles");
    let told = slowest.iter().filter_map(|slow| slow["why"].as_str());
    let blames = |why: &str| why.contains("another session's prefill") || why.contains("rows of other sessions");
    assert!(told.clone().any(blames), "{:?}", told.collect::<Vec<_>>());
}
