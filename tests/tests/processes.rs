//! Three real processes: the same output, clean stops, and what a crash leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    cluster::{Embedded, request as asked, run, sampled},
    processes::{Outcome, Outrider, Process},
};
use proto::v1::{DescribeRequest, model_service_client::ModelServiceClient};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

const PROMPT: &str = "ROMEO:";

/// The report of a run that succeeded.
fn report(outcome: &Outcome) -> Value {
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    serde_json::from_str(&outcome.stdout).expect("one JSON object")
}

async fn outrider(args: &[&str]) -> Result<Outcome> {
    Outrider::start(args)?.finish().await
}

/// What the target alone writes, in one process with no draft.
async fn alone(args: &[&str]) -> Result<Value> {
    Ok(report(&outrider(&[&["generate", PROMPT, "--json", "--ar"], args].concat()).await?))
}

fn assert_same(ours: &Value, alone: &Value) {
    for key in ["token_ids", "text", "seed", "stop_reason", "tokens_emitted"] {
        assert!(!alone[key].is_null());
        assert_eq!(ours[key], alone[key], "{key}");
    }
}

/// Greedy and sampled, each γ from its own process.
#[tokio::test]
async fn three_processes_write_what_one_writes_alone() -> Result<()> {
    let (draft, target) = tokio::try_join!(Process::start("draft-svc", &[]), Process::start("target-svc", &[]))?;
    let (to_draft, to_target) = (draft.url(), target.url());
    let services = ["generate", PROMPT, "--json", "--draft", &to_draft, "--target", &to_target];
    for sampling in [
        ["--temperature", "0", "--seed", "1", "--max-tokens", "512"],
        ["--temperature", "0.8", "--seed", "7", "--max-tokens", "512"],
    ] {
        let alone = alone(&sampling).await?;
        for gamma in ["4", "16"] {
            let ours = report(&outrider(&[&services[..], &sampling, &["--gamma", gamma]].concat()).await?);
            assert_same(&ours, &alone);
            assert_eq!(ours["phase"], "decode-speculative");
            assert!(ours["acceptance_rate"].as_f64().is_some_and(|rate| rate > 0.1), "{}", ours["acceptance_rate"]);
        }
    }
    for process in [draft, target] {
        let (status, log) = process.terminate().await?;
        assert_eq!(status.code(), Some(0), "{log}");
    }
    Ok(())
}

/// SIGTERM in the middle of a run: the target lets it end, a draft that goes costs speed only, and both exit with 0.
#[tokio::test]
async fn services_that_are_told_to_stop_let_a_run_end() -> Result<()> {
    let (draft, target) = tokio::try_join!(
        Process::start("draft-svc", &["--grace", "100ms"]),
        Process::start("target-svc", &["--grace", "60s"])
    )?;
    let (to_draft, to_target) = (draft.url(), target.url());
    let length = ["--max-tokens", "1000"];
    let mut run =
        Outrider::start(&[&["generate", PROMPT, "--draft", &to_draft, "--target", &to_target], &length[..]].concat())?;
    let begin = run.read(50).await?;
    assert!(run.is_running()?);
    let begun = Instant::now();
    let (drafts_end, targets_end, outcome) = tokio::join!(draft.terminate(), target.terminate(), run.finish());
    for ended in [drafts_end, targets_end] {
        let (status, log) = ended?;
        assert_eq!(status.code(), Some(0), "{log}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "no need to wait for the grace");
    let outcome = outcome?;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let text = format!("{begin}{}", outcome.stdout);
    assert_eq!(text.strip_suffix('\n'), alone(&length).await?["text"].as_str());
    Ok(())
}

/// Ctrl-C: exit status 130, and what was written is the beginning of the whole text.
#[tokio::test]
async fn an_interrupted_run_ends_with_what_it_has() -> Result<()> {
    let length = ["--max-tokens", "1800"];
    let whole = alone(&length).await?;
    let mut run = Outrider::start(&[&["generate", PROMPT], &length[..]].concat())?;
    let begin = run.read(50).await?;
    let begun = Instant::now();
    run.interrupt().await?;
    let outcome = run.finish().await?;
    assert_eq!(outcome.code, Some(130), "{}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let text = begin + outcome.stdout.trim_end_matches('\n');
    let whole = whole["text"].as_str().expect("a text");
    assert!(text.len() < whole.len() && whole.starts_with(&text), "{text}");
    Ok(())
}

/// SIGKILL in the middle of a run, and a new draft on the same port: the text is that of the target alone.
#[tokio::test]
async fn a_draft_process_that_is_killed_and_restarted_changes_nothing() -> Result<()> {
    let target = Process::start("target-svc", &[]).await?;
    let mut draft = Process::start("draft-svc", &[]).await?;
    let (address, to_draft, to_target) = (draft.address().to_owned(), draft.url(), target.url());
    let length = ["--max-tokens", "1500"];
    let mut run =
        Outrider::start(&[&["generate", PROMPT, "--draft", &to_draft, "--target", &to_target], &length[..]].concat())?;
    let mut text = run.read(50).await?;
    draft.kill().await?;
    text += &run.read(50).await?;
    let draft = Process::listening("draft-svc", &address, &[]).await?;
    assert!(run.is_running()?, "the kill fell into the run");
    let outcome = run.finish().await?;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the draft is away"), "{}", outcome.stderr);
    text += &outcome.stdout;
    assert_eq!(text.strip_suffix('\n'), alone(&length).await?["text"].as_str());
    drop(draft);
    Ok(())
}

/// SIGKILL to one target in the middle of a run, then to the other, while the first comes back: the text has no gap and no
/// repetition.
#[tokio::test]
async fn targets_that_are_killed_one_after_the_other_change_nothing() -> Result<()> {
    let start = || Process::start("target-svc", &[]);
    let (draft, mut first, mut second) = tokio::try_join!(Process::start("draft-svc", &[]), start(), start())?;
    let (address, to_draft) = (first.address().to_owned(), draft.url());
    let to_targets = format!("{},{}", first.url(), second.url());
    let length = ["--max-tokens", "1800"];
    let services = ["--draft", &to_draft, "--target", &to_targets];
    let mut run = Outrider::start(&[&["generate", PROMPT], &services[..], &length].concat())?;
    let mut text = run.read(50).await?;
    first.kill().await?;
    text += &run.read(50).await?;
    let first = Process::listening("target-svc", &address, &[]).await?;
    second.kill().await?;
    assert!(run.is_running()?, "both kills fell into the run");
    let outcome = run.finish().await?;
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches("another replica of the target is looked for").count(), 2, "{}", outcome.stderr);
    text += &outcome.stdout;
    assert_eq!(text.strip_suffix('\n'), alone(&length).await?["text"].as_str());
    drop(first);
    Ok(())
}

/// SIGKILL to the only target: exit status 1, an error that says so, when its deadline is over.
#[tokio::test]
async fn a_target_process_that_is_killed_is_a_clear_error() -> Result<()> {
    let (draft, mut target) = tokio::try_join!(Process::start("draft-svc", &[]), Process::start("target-svc", &[]))?;
    let (to_draft, to_target) = (draft.url(), target.url());
    let services = ["--draft", &to_draft, "--target", &to_target, "--max-tokens", "1800", "--target-deadline", "2s"];
    let mut run = Outrider::start(&[&["generate", PROMPT], &services[..]].concat())?;
    run.read(50).await?;
    let begun = Instant::now();
    target.kill().await?;
    let outcome = run.finish().await?;
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: the target is lost after"), "{}", outcome.stderr);
    assert!(begun.elapsed() < Duration::from_secs(5));
    Ok(())
}

/// An answer over HTTP in one piece; `None` where the service does not take the request.
async fn ask(address: &str, body: &Value) -> Result<Option<Value>> {
    let body = body.to_string();
    let Ok(mut stream) = TcpStream::connect(address).await else { return Ok(None) };
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all((head + &body).as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    // A connection that is closed before it was read from is one that was not taken.
    if asked.await.is_err() || answer.is_empty() {
        return Ok(None);
    }
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(Some(serde_json::from_str(body)?))
}

/// SIGTERM while eight clients ask without a pause, to the coordinator alone or to all three at the same moment: whatever
/// was being answered is answered whole, and each process ends with status 0.
#[tokio::test]
async fn no_request_is_lost_by_a_stop_under_load() -> Result<()> {
    const CLIENTS: u64 = 8;
    let body = |seed: u64| json!({ "prompt": PROMPT, "seed": seed, "temperature": 0.8, "max_tokens": 120 });
    let embedded = Embedded::start().await;
    let mut expected = Vec::new();
    for seed in 0..CLIENTS {
        expected.push(run(&embedded.pair, &asked(PROMPT, sampled(0.8, seed), 120, 0)).await.text);
    }
    for all_at_once in [false, true] {
        let grace = ["--grace", "60s"];
        let (draft, target) =
            tokio::try_join!(Process::start("draft-svc", &grace), Process::start("target-svc", &grace))?;
        let (to_draft, to_target) = (draft.url(), target.url());
        let serve = Process::serve(&[&["--draft", &to_draft, "--target", &to_target], &grace[..]].concat()).await?;
        let address = serve.address().to_owned();
        let answered = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for (seed, expected) in (0..CLIENTS).zip(expected.clone()) {
            let (address, answered, body) = (address.clone(), answered.clone(), body(seed));
            clients.spawn(async move {
                let mut whole = 0;
                while let Some(answer) = ask(&address, &body).await? {
                    ensure!(answer["choices"][0]["text"] == expected, "{answer}");
                    answered.fetch_add(1, Ordering::Relaxed);
                    whole += 1;
                    // When all stop at once, what comes later finds a coordinator without a target.
                    if all_at_once {
                        break;
                    }
                }
                anyhow::Ok(whole)
            });
        }
        if all_at_once {
            // All of them have a session by then.
            let mut target = ModelServiceClient::connect(to_target).await?;
            loop {
                let load = target.describe(DescribeRequest::default()).await?.into_inner().load.unwrap_or_default();
                if u64::from(load.open_sessions) == CLIENTS {
                    break;
                }
                ensure!(answered.load(Ordering::Relaxed) == 0, "they were too fast to be caught together");
            }
        } else {
            while answered.load(Ordering::Relaxed) < 2 * CLIENTS as usize {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let stopped = match all_at_once {
            true => {
                let (serve, draft, target) = tokio::join!(serve.terminate(), draft.terminate(), target.terminate());
                [serve?, draft?, target?]
            }
            false => [serve.terminate().await?, draft.terminate().await?, target.terminate().await?],
        };
        for (status, log) in stopped {
            assert_eq!(status.code(), Some(0), "{log}");
            assert!(!log.contains("the grace period is over"), "{log}");
        }
        let mut whole = 0;
        while let Some(client) = clients.join_next().await {
            whole += client??;
        }
        assert!(whole >= CLIENTS as usize, "{whole} answers");
    }
    Ok(())
}
