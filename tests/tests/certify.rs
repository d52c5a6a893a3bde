//! `outrider certify`: a target that keeps the law passes, and one whose rows depend on their neighbours is found out.

use std::fs;

use anyhow::{Context, Result};
use coordinator::{
    Pair,
    certify::{Certificate, Plan, certify},
};
use model::{Compute, Device, EmbeddedModel, Forward, Limits, Rows, Source};
use outrider_tests::{
    cluster::{
        Embedded, Node, PATIENT, alone, assert_same, decoders::Wrapped, model, pair, request, run, sampled, spawn,
        worker,
    },
    processes::Outrider,
};
use serde_json::{Value, json};
use speculative::{Sampling, roofline::Work};
use tempfile::TempDir;

const PROMPT: &str = "ROMEO:";
const TOKENS: usize = 100;

async fn examine(pair: &Pair, sampling: Sampling) -> Certificate {
    let plan = Plan { request: request(PROMPT, sampling, TOKENS, 0), windows: vec![2, 5, 17], sessions: 3 };
    certify(pair, plan, None, PATIENT, |_| {}).await.expect("a certificate")
}

/// The embedded target, but rows with others before them in their sequence's part are off by `off` each.
async fn neighbourly(off: f32) -> (Node, Pair) {
    let decoder = Wrapped::new(model(EmbeddedModel::Target), move |inner, batch| {
        let parts: Vec<usize> = batch.iter().map(|rows: &Rows<'_>| rows.tokens.len() - rows.logits_from).collect();
        let forward = model::Decoder::forward(inner, batch)?;
        let mut logits = Vec::new();
        for (sequence, rows) in parts.iter().enumerate() {
            for row in 0..*rows {
                let shifted =
                    |(token, logit): (usize, &f32)| if token % 2 == 0 { logit + row as f32 * off } else { *logit };
                logits.extend(forward.row(sequence, row).iter().enumerate().map(shifted));
            }
        }
        Ok(Forward::new(128, &parts, logits, Work::default()))
    });
    let node = Node::target(spawn(decoder, Limits::default()));
    let pair = pair(None, &node).await;
    (node, pair)
}

/// Our kernels: in windows, in prefills, and beside other sessions.
#[tokio::test]
async fn a_target_that_keeps_the_law_is_certified() {
    let embedded = Embedded::start().await;
    for sampling in [Sampling::greedy(), sampled(0.8, 5)] {
        let certificate = examine(&embedded.pair, sampling).await;
        assert!(certificate.holds() && certificate.is_invariant(), "{certificate:?}");
        let rows: Vec<_> =
            certificate.invariance.iter().map(|found| (found.kind, found.sessions, found.rows)).collect();
        let windows = ("windows", 1, TOKENS);
        assert_eq!(rows, [windows, windows, windows, ("sessions", 3, 3 * TOKENS), ("prefills", 1, 8)]);
    }
}

/// A little: the same tokens, other bits, and by how much.
#[tokio::test]
async fn rows_that_differ_a_little_are_measured() {
    let (_node, pair) = neighbourly(1e-5).await;
    let certificate = examine(&pair, sampled(0.8, 5)).await;
    assert!(certificate.holds() && !certificate.is_invariant(), "{certificate:?}");
    let [two, five, ..] = &certificate.invariance[..] else { panic!("windows of 2 and 5") };
    // Of each two rows the second is off, of each five four are.
    assert!((50..=51).contains(&two.identical_rows), "{two:?}");
    assert!((20..=22).contains(&five.identical_rows), "{five:?}");
    assert!(two.max_difference > 1e-6 && two.max_difference < five.max_difference, "{two:?} {five:?}");
    assert!(five.max_difference < 1e-4, "{five:?}");
    let prefills = certificate.invariance.last().expect("prefills");
    assert_eq!((prefills.kind, prefills.identical_rows), ("prefills", 8));
}

/// Much: the first token that changes, where, and that the gap there is less than what rows are off by.
#[tokio::test]
async fn the_first_token_that_depends_on_its_window_is_found() {
    let (_node, pair) = neighbourly(2.0).await;
    let certificate = examine(&pair, Sampling::greedy()).await;
    assert!(!certificate.holds());
    let windows = &certificate.invariance[2];
    let first = windows.first_difference.as_ref().expect("another token");
    let [rows, row] = first.rows.expect("its window");
    assert!(rows == 17 && row > 0 && row == (first.index - 1) % rows, "{first:?}");
    assert_eq!(first.position, PROMPT.len() + first.index);
    assert!(first.top2_gap.expect("a gap") <= 2.0 * row as f64, "{first:?}");
    assert!(windows.max_difference > 0.1 && windows.identical_rows < windows.rows);
}

/// The forward of a GPU, on candle's CPU, behind a draft on the CPU: speculation writes what AR writes there.
#[tokio::test]
async fn a_target_on_another_device_than_its_draft_keeps_its_own_bytes() {
    let compute = std::sync::Arc::new(Compute::new(std::num::NonZeroUsize::MIN));
    let target = Device::CandleCpu.load(&Source::Embedded(EmbeddedModel::Target), compute).expect("it loads");
    let target = Node::target(spawn(target, Limits::default()));
    let embedded = Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), target).await;
    for sampling in [Sampling::greedy(), sampled(0.8, 7)] {
        let request = request(PROMPT, sampling, 64, 4);
        let (ours, alone) = (run(&embedded.pair, &request).await, run(&embedded.pair, &alone(&request)).await);
        assert_same(&ours, &alone, "on candle's CPU");
        assert!(ours.acceptance.acceptance_rate().is_some_and(|rate| rate > 0.2), "{:?}", ours.acceptance);
    }
}

fn report(stdout: &str) -> Result<Value> {
    serde_json::from_str(stdout).context("one JSON object")
}

/// What `generate --json` prints is decoded again by a process: equal, then with a token that was changed.
#[tokio::test]
async fn a_recorded_run_is_replayed() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().join("run.json");
    let path_name = path.to_str().context("a UTF-8 path")?;
    let flags =
        ["--max-tokens", "80", "--temperature", "0.7", "--seed", "11", "--top-k", "20", "--repetition-penalty", "1.1"];
    let recorded = Outrider::start(&[&["generate", PROMPT, "--json"], &flags[..]].concat())?.finish().await?;
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    fs::write(&path, &recorded.stdout)?;
    let certify = ["certify", path_name, "--windows", "5", "--sessions", "1"];
    let same = Outrider::start(&[&certify[..], &["--json"]].concat())?.finish().await?;
    assert_eq!(same.code, Some(0), "{}", same.stderr);
    let replay = &report(&same.stdout)?["replay"];
    let expected = json!({ "tokens": 80, "same_model": true, "same_arithmetic": true, "first_difference": null });
    assert_eq!(replay, &expected);

    let mut forged = report(&recorded.stdout)?;
    let token = forged["token_ids"][30].as_u64().context("a token")?;
    forged["token_ids"][30] = json!((token + 1) % 128);
    forged["models"]["target"]["arithmetic_fingerprint"] = json!("another");
    fs::write(&path, forged.to_string())?;
    let other = Outrider::start(&[&certify[..], &["--json"]].concat())?.finish().await?;
    assert_eq!(other.code, Some(1), "{}", other.stderr);
    let replay = &report(&other.stdout)?["replay"];
    let first = &replay["first_difference"];
    assert_eq!(replay["same_arithmetic"], json!(false));
    assert_eq!((&first["index"], &first["position"], &first["token_alone"]), (&json!(30), &json!(36), &json!(token)));
    assert!(first["top2_gap"].as_f64().is_some_and(|gap| gap >= 0.0) && first["rows"][0].is_u64(), "{first}");
    let said = Outrider::start(&certify)?.finish().await?;
    assert!(said.stdout.contains("token 30 (position 36)"), "{}", said.stdout);
    assert!(said.stdout.contains("recorded with another arithmetic"), "{}", said.stdout);

    forged["coupling"] = json!("rejection");
    let by_rejection = forged.to_string();
    for (content, words) in [
        (&*by_rejection, "coupling rejection, allowed: gumbel"),
        ("{}", "prompt_token_ids"),
        ("no", "is no run"),
        (r#"{"token_ids": 1}"#, "allowed"),
    ] {
        fs::write(&path, content)?;
        let refused = Outrider::start(&certify)?.finish().await?;
        assert_eq!(refused.code, Some(1));
        assert!(refused.stderr.contains(words) && refused.stderr.contains("run.json"), "{}", refused.stderr);
    }
    Ok(())
}
