//! Many clients at once on `outrider serve`: tokens per second, time to first token, time between pieces, and whether each
//! output is what the target alone writes.
//!
//! `cargo bench -p outrider-tests --bench load` starts the service in a process of its own, with the embedded pair. After
//! `--`: how many clients, and for how many seconds each number of them, for example `1,16 30`; then flags for the service.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    http::{Answer, request},
    processes::Process,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Tokens of each answer.
const TOKENS: u64 = 128;

const PROMPTS: [&str; 4] =
    ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, ", "JULIET:\nWhat "];

/// What one client has seen.
#[derive(Default)]
struct Seen {
    to_first_s: Vec<f64>,
    between_s: Vec<f64>,
    answers: Vec<(u64, String)>,
    failed: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
    let clients = args.next().unwrap_or_else(|| "1,4,16,64".to_owned());
    let clients =
        clients.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>().context("numbers of clients")?;
    let seconds = args.next().map_or(Ok(20), |seconds| seconds.parse()).context("seconds")?;
    let flags: Vec<String> = ["--max-concurrent", "256"].map(str::to_owned).into_iter().chain(args).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();

    let service = Process::serve(&flags).await?;
    let address = service.address().to_owned();
    println!("clients  tokens/s  × 1st   TTFT ms p50/p99   piece ms p50/p99   answers  failed  differ  resident MiB");
    let mut first = None;
    for clients in clients {
        let next = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let end = begun + Duration::from_secs(seconds);
        let mut running = JoinSet::new();
        for _ in 0..clients {
            running.spawn(client(address.clone(), next.clone(), end));
        }
        let mut seen = Seen::default();
        while let Some(one) = running.join_next().await {
            let one = one??;
            seen.to_first_s.extend(one.to_first_s);
            seen.between_s.extend(one.between_s);
            seen.answers.extend(one.answers);
            seen.failed += one.failed;
        }
        let tokens_per_s = (seen.answers.len() as u64 * TOKENS) as f64 / begun.elapsed().as_secs_f64();
        let resident = resident_mib(&service)?;
        let differ = differing(&address, &seen.answers).await?;
        let times = [&mut seen.to_first_s, &mut seen.between_s].map(|times| {
            times.sort_by(f64::total_cmp);
            [0.5, 0.99].map(|share| times.get((times.len() as f64 * share) as usize).map_or(f64::NAN, |s| s * 1e3))
        });
        println!(
            "{clients:>7}  {tokens_per_s:>8.0}  {:>5.2}  {:>8.1} /{:>7.1}  {:>9.2} /{:>7.2}  {:>7}  {:>6}  {differ:>6}  {resident:>12}",
            tokens_per_s / *first.get_or_insert(tokens_per_s),
            times[0][0],
            times[0][1],
            times[1][0],
            times[1][1],
            seen.answers.len(),
            seen.failed,
        );
    }
    let (status, log) = service.terminate().await?;
    ensure!(status.success(), "the service ended with {status}: {log}");
    Ok(())
}

fn body(number: u64, gamma: Option<u64>) -> Value {
    let prompt = PROMPTS[number as usize % PROMPTS.len()];
    let mut body = json!({ "prompt": prompt, "seed": number, "temperature": 0.8, "max_tokens": TOKENS });
    match gamma {
        Some(gamma) => body["gamma"] = gamma.into(),
        None => body["stream"] = true.into(),
    }
    body
}

/// One request after the other, until the time is over.
async fn client(address: String, next: Arc<AtomicU64>, end: Instant) -> Result<Seen> {
    let mut seen = Seen::default();
    while Instant::now() < end {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let sent = Instant::now();
        let answer = request(&address, "POST", "/v1/completions", body(number, None).to_string()).await;
        match streamed(answer, sent, &mut seen).await {
            Some(text) => seen.answers.push((number, text)),
            None => seen.failed += 1,
        }
    }
    Ok(seen)
}

/// The text of a stream; `None` where it has no proper end.
async fn streamed(mut answer: Answer, sent: Instant, seen: &mut Seen) -> Option<String> {
    if answer.status != 200 {
        return None;
    }
    let (mut stream, mut last) = (String::new(), None);
    while let Some(part) = answer.part().await {
        let now = Instant::now();
        match last.replace(now) {
            None => seen.to_first_s.push((now - sent).as_secs_f64()),
            Some(last) => seen.between_s.push((now - last).as_secs_f64()),
        }
        stream.push_str(&part);
    }
    let events = stream.strip_suffix("data: [DONE]\n\n")?;
    let events = events.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap_or_default());
    let events = events.map(|event| serde_json::from_str::<Value>(event).ok());
    events.map(|event| Some(event?["choices"][0]["text"].as_str()?.to_owned())).collect()
}

/// How many answers are not what the target alone writes.
async fn differing(address: &str, answers: &[(u64, String)]) -> Result<usize> {
    let mut differ = 0;
    for (number, text) in answers {
        let alone = request(address, "POST", "/v1/completions", body(*number, Some(0)).to_string()).await;
        let alone = alone.json().await;
        let alone = alone["choices"][0]["text"].as_str().context("an answer of the target alone")?;
        differ += usize::from(alone != text);
    }
    Ok(differ)
}

/// Memory that the service has resident.
fn resident_mib(service: &Process) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id().context("it has ended")?))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a resident size")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024)
}
