//! Real processes that are killed, held still and started anew, and links that are cut and delayed, while many clients
//! generate: every answer is what the target alone writes, and afterwards everything is as it was before.
//!
//! The faults are the same on every run. `OUTRIDER_CHAOS_SECONDS` makes it last longer.

#![cfg(target_os = "linux")]

use std::{
    env, fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use model::EmbeddedModel;
use outrider_tests::{
    cluster::{LONG, Node, pair, request as asked, run, sampled, within, worker},
    http::request,
    processes::Process,
    proxy::Proxy,
};
use proto::v1::{DescribeRequest, Load, model_service_client::ModelServiceClient};
use serde_json::{Value, json};
use speculative::philox::philox4x32_10;
use tokio::{task::JoinSet, time};

const CLIENTS: usize = 16;
const TOKENS: usize = 150;
const PROMPTS: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "JULIET:\nWhat "];

/// A service behind a link.
struct Place {
    name: &'static str,
    process: Process,
    link: Proxy,
}

impl Place {
    async fn start(name: &'static str) -> Result<Self> {
        let process = Process::start(name, &["--max-sessions", "64"]).await?;
        let link = Proxy::start(process.address().parse()?, Duration::ZERO).await?;
        Ok(Self { name, process, link })
    }

    /// One fault, from its beginning to its end.
    async fn suffer(&mut self, fault: u32, length: Duration) -> Result<()> {
        match fault % 4 {
            0 => {
                let address = self.process.address().to_owned();
                self.process.kill().await?;
                time::sleep(length).await;
                self.process = Process::listening(self.name, &address, &["--max-sessions", "64"]).await?;
            }
            1 => {
                self.process.pause().await?;
                time::sleep(length).await;
                self.process.resume().await?;
            }
            2 => {
                self.link.cut();
                time::sleep(length).await;
                self.link.restore();
            }
            _ => {
                self.link.set_delay(Duration::from_millis(40));
                time::sleep(length).await;
                self.link.set_delay(Duration::ZERO);
            }
        }
        Ok(())
    }

    async fn load(&self) -> Result<Load> {
        let mut client = ModelServiceClient::connect(self.process.url()).await?;
        client.describe(DescribeRequest::default()).await?.into_inner().load.context("a load")
    }
}

/// One after the other, at drawn times, until the time is over; one place of a side suffers at a time.
async fn torment(mut places: [Place; 2], seed: u32, end: Instant) -> Result<([Place; 2], usize)> {
    let mut faults = 0;
    while Instant::now() < end {
        let [who, what, pause, length] = philox4x32_10([faults, 0, 0, 0], [seed, 0]);
        time::sleep(Duration::from_millis(u64::from(pause % 400))).await;
        let length = Duration::from_millis(100 + u64::from(length % 900));
        places[who as usize % 2].suffer(what, length).await?;
        faults += 1;
    }
    Ok((places, faults as usize))
}

/// Requests one after the other, until `over`: number and text of each.
async fn client(address: String, next: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Result<Vec<(u64, String)>> {
    let mut answers = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let prompt = PROMPTS[number as usize % PROMPTS.len()];
        let body = json!({
            "prompt": prompt, "seed": number, "temperature": 0.8, "max_tokens": TOKENS, "stream": number.is_multiple_of(2),
        });
        let answer = request(&address, "POST", "/v1/completions", body.to_string()).await;
        let (status, text) = (answer.status, answer.text().await);
        ensure!(status == 200, "request {number}: {status}: {text}");
        let answer = if number.is_multiple_of(2) { joined(&text) } else { whole(&text) };
        answers.push((number, answer.with_context(|| format!("request {number} has no proper end: {text}"))?));
    }
    Ok(answers)
}

fn whole(body: &str) -> Option<String> {
    let value: Value = serde_json::from_str(body).ok()?;
    Some(value["choices"][0]["text"].as_str()?.to_owned())
}

fn joined(stream: &str) -> Option<String> {
    let events = stream.strip_suffix("data: [DONE]\n\n")?.split_terminator("\n\n");
    events.map(|event| whole(event.strip_prefix("data: ")?)).collect()
}

fn open_files(process: &Process) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", process.id().context("it has ended")?))?.count())
}

async fn idle(places: &[Place]) -> Result<()> {
    let idle = async {
        for place in places {
            loop {
                let Load { open_sessions, waiting_sessions, kv_reserved_bytes, .. } = place.load().await?;
                if (open_sessions, waiting_sessions, kv_reserved_bytes) == (0, 0, 0) {
                    break;
                }
                time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    time::timeout(LONG, idle).await.context("sessions are left")?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_answer_survives_every_fault() -> Result<()> {
    let seconds = env::var("OUTRIDER_CHAOS_SECONDS").map_or(Ok(15), |seconds| seconds.parse())?;
    let drafts = [Place::start("draft-svc").await?, Place::start("draft-svc").await?];
    let targets = [Place::start("target-svc").await?, Place::start("target-svc").await?];
    let urls = |places: &[Place; 2]| format!("{},{}", places[0].link.url(), places[1].link.url());
    let flags = ["--draft", &urls(&drafts), "--target", &urls(&targets), "--anticipate", "8"];
    let patience = ["--draft-deadline", "200ms", "--target-deadline", "30s", "--max-concurrent", "64"];
    let service = Process::serve(&[&flags[..], &patience].concat()).await?;
    let files = open_files(&service)?;

    let (next, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(client(service.address().to_owned(), next.clone(), over.clone()));
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let (drafts, targets) = tokio::try_join!(torment(drafts, 1, end), torment(targets, 2, end))?;
    over.store(true, Ordering::Relaxed);
    let (mut answers, mut failed) = (Vec::new(), Ok(()));
    while let Some(client) = within(LONG, clients.join_next()).await {
        match client? {
            Ok(answered) => answers.extend(answered),
            Err(error) => failed = Err(error),
        }
    }
    if let Err(error) = failed {
        let (_, log) = service.terminate().await?;
        return Err(error.context(log));
    }
    let ((drafts, on_drafts), (targets, on_targets)) = (drafts, targets);
    println!("{} answers through {on_drafts} faults of drafts and {on_targets} of targets", answers.len());
    ensure!(on_targets >= 5 && answers.len() >= CLIENTS, "too little happened");

    idle(&drafts).await?;
    idle(&targets).await?;
    let settled = time::timeout(LONG, async {
        // Connections that replicas or clients have left are closed in their time.
        while open_files(&service)? > files + 4 {
            time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, anyhow::Error>(())
    });
    settled.await.with_context(|| format!("files: {files} at the start, {:?} at the end", open_files(&service)))??;

    let calm = Node::target(worker(EmbeddedModel::Target));
    let calm = pair(None, &calm).await;
    let mut checking = JoinSet::new();
    for (number, text) in answers {
        if checking.len() >= CLIENTS {
            checking.join_next().await.context("a check")??;
        }
        let calm = calm.clone();
        checking.spawn(async move {
            let prompt = PROMPTS[number as usize % PROMPTS.len()];
            let alone = run(&calm, &asked(prompt, sampled(0.8, number), TOKENS, 0)).await;
            assert_eq!(text, alone.text, "request {number}");
        });
    }
    while let Some(checked) = checking.join_next().await {
        checked?;
    }
    let (status, log) = service.terminate().await?;
    ensure!(status.success() && !log.contains("panicked"), "{status}: {log}");
    Ok(())
}
