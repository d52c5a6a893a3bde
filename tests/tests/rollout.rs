//! A new model at the target's place: no answer is ever of two models, and none needs a restart of the coordinator.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    cluster::{LONG, within},
    http::{self, Answer},
    processes::{Outrider, Process},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time};

const PROMPT: &str = "ROMEO:";
const OLD: &str = "embedded:target";
const NEW: &str = "embedded:draft";

fn body(max_tokens: u32) -> String {
    json!({ "prompt": PROMPT, "seed": 3, "temperature": 0.8, "max_tokens": max_tokens }).to_string()
}

/// What a model writes by itself.
async fn alone(model: &str, max_tokens: u32) -> Result<String> {
    let length = max_tokens.to_string();
    let args = ["generate", PROMPT, "--json", "--ar", "--seed", "3", "--max-tokens", &length, "--target-model", model];
    let outcome = Outrider::start(&args)?.finish().await?;
    ensure!(outcome.code == Some(0), "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout)?;
    Ok(report["text"].as_str().context("a text")?.to_owned())
}

async fn post(address: &str, max_tokens: u32) -> Answer {
    http::request(address, "POST", "/v1/completions", body(max_tokens)).await
}

/// The text of an answer that must succeed, and the model that it names.
async fn text(answer: Answer) -> Result<(String, String)> {
    let (status, body) = (answer.status, answer.text().await);
    ensure!(status == 200, "{status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    let of = |value: &Value| value.as_str().map(str::to_owned).context("a string");
    Ok((of(&answer["choices"][0]["text"])?, of(&answer["model"])?))
}

/// Asks until the model that answers is `model`; meanwhile every answer is whole and another model's, or refused.
async fn until_served(address: &str, model: &str) -> Result<String> {
    within(LONG, async {
        loop {
            let answer = post(address, 60).await;
            match answer.status {
                200 => {
                    let (text, served) = text(answer).await?;
                    if served == model {
                        return Ok(text);
                    }
                }
                503 => drop(answer),
                other => anyhow::bail!("{other}: {}", answer.text().await),
            }
            time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
}

/// The targets are replaced one by one, as a deployment does it, while answers are under way.
#[tokio::test]
async fn a_rollout_changes_the_model_between_answers_and_never_within_one() -> Result<()> {
    let grace = ["--grace", "60s"];
    let target = async |model| Process::start("target-svc", &["--model", model, "--grace", "60s"]).await;
    let (draft, old) = tokio::try_join!(Process::start("draft-svc", &grace), target(OLD))?;
    let new = target(NEW).await?;
    let targets = format!("{},{}", old.url(), new.url());
    let serve = Process::serve(&["--draft", &draft.url(), "--target", &targets]).await?;
    let address = serve.address().to_owned();

    // Both are there: the first is the measure, and the other gets nothing.
    let short = alone(OLD, 60).await?;
    for _ in 0..4 {
        assert_eq!(text(post(&address, 60).await).await?, (short.clone(), OLD.to_owned()));
    }

    // The old one is told to stop while it answers: that answer ends with its words.
    let asked = address.clone();
    let long = tokio::spawn(async move { text(post(&asked, 1500).await).await });
    time::sleep(Duration::from_millis(300)).await;
    let ended = tokio::spawn(old.terminate());
    let served = until_served(&address, NEW).await?;
    assert_eq!(served, alone(NEW, 60).await?);
    assert_eq!(long.await??, (alone(OLD, 1500).await?, OLD.to_owned()));
    let (status, log) = ended.await??;
    assert_eq!(status.code(), Some(0), "{log}");

    let (_, log) = serve.terminate().await?;
    assert!(log.contains("another model has taken the target's place"), "{log}");
    Ok(())
}

/// A target that is killed in the middle of an answer, and another model at its address at once: that answer fails, the
/// next one is the new model's.
#[tokio::test]
async fn an_answer_is_not_continued_by_another_model() -> Result<()> {
    let (draft, mut old) =
        tokio::try_join!(Process::start("draft-svc", &[]), Process::start("target-svc", &["--model", OLD]))?;
    let target = old.address().to_owned();
    let flags = ["--draft", &draft.url(), "--target", &old.url(), "--target-deadline", "3s"];
    let serve = Process::serve(&flags).await?;
    let asked = serve.address().to_owned();
    let long = tokio::spawn(async move {
        let answer = post(&asked, 2000).await;
        (answer.status, answer.text().await)
    });
    time::sleep(Duration::from_millis(300)).await;
    old.kill().await?;
    let new = Process::listening("target-svc", &target, &["--model", NEW]).await?;
    let (status, body) = long.await?;
    assert_eq!(status, 503, "{body}");
    assert_eq!(until_served(serve.address(), NEW).await?, alone(NEW, 60).await?);
    drop(new);
    Ok(())
}

/// A coordinator that is there first is not ready, waits, and says so; so does `outrider health` of a target.
#[tokio::test]
async fn a_coordinator_waits_for_its_services() -> Result<()> {
    let free = || async { anyhow::Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string()) };
    let (draft, target) = (free().await?, free().await?);
    let (to_draft, to_target) = (format!("http://{draft}"), format!("http://{target}"));
    let grpc = free().await?;
    let serve = ["serve", "--http", "127.0.0.1:0", "--grpc", &grpc, "--draft", &to_draft, "--target", &to_target];
    let serve = Process::launch("outrider", &serve).await?;
    assert_eq!(post(serve.address(), 10).await.status, 503);
    assert_eq!(http::get(serve.address(), "/healthz").await.status, 200);
    assert_eq!(http::get(serve.address(), "/readyz").await.status, 503);

    let to_serve = format!("http://{grpc}");
    let health = async |url: &str| Outrider::start(&["health", url])?.finish().await;
    let absent = health(&to_target).await?;
    assert_eq!(absent.code, Some(1));
    assert!(absent.stderr.contains(&to_target) && absent.stderr.contains("does not answer"), "{}", absent.stderr);

    let _draft = Process::listening("draft-svc", &draft, &[]).await?;
    time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(http::get(serve.address(), "/readyz").await.status, 503, "a draft alone is not enough");
    assert_eq!(health(&to_serve).await?.code, Some(1));
    let mut target = Process::listening("target-svc", &target, &[]).await?;
    assert_eq!(until_served(serve.address(), OLD).await?, alone(OLD, 60).await?);
    assert_eq!(http::get(serve.address(), "/readyz").await.status, 200);
    for url in [&to_target, &to_serve] {
        assert_eq!(health(url).await?.code, Some(0));
    }

    // Its health is its target's, as /readyz is.
    target.kill().await?;
    let lost = async {
        while health(&to_serve).await?.code == Some(0) {
            time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    };
    within(LONG, lost).await?;
    assert_eq!(http::get(serve.address(), "/readyz").await.status, 503);
    let (_, log) = serve.terminate().await?;
    assert!(log.contains("waiting for the services"), "{log}");
    Ok(())
}
