//! What the commands do.

mod pair;

use std::{
    io::{self, IsTerminal, Read, Write},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use speculative::TokenId;
use tokio::signal;

use super::{
    End,
    args::{BenchArgs, DescribeArgs, GenerateArgs},
};
use crate::{
    Request, Run, Service, StopReason, bench as benchmark, cycle,
    report::{PairRoofs, Report, ServiceReport, Theory, terminal},
    text::{self, Piece},
};
use pair::{Connected, Place};

/// Prompts of a benchmark that is given none.
const PROMPTS: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, "];

pub(super) async fn generate(args: GenerateArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn");
    let gamma = if args.ar { 0 } else { args.gamma as usize };
    let place = Place::of(&args.services, gamma > 0);
    let prompt = match args.prompt.as_str() {
        "-" => read_prompt()?,
        prompt => prompt.to_owned(),
    };
    let Some(connected) = interruptible(Connected::new(place, gamma > 0)).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let outcome = match encode(&connected, &args, &prompt) {
        Ok(tokens) => {
            let request = Request {
                prompt: tokens,
                sampling: args.sampling.sampling(),
                max_tokens: args.max_tokens as usize,
                gamma,
                stop: args.stop,
            };
            let shown = if args.chat { prompt + "\n" } else { prompt };
            write_text(&connected, &args.services, request, shown, args.json).await
        }
        Err(error) => Err(error.into()),
    };
    connected.close().await;
    outcome
}

/// The prompt's tokens, or with `--chat` those of the conversation that it begins.
fn encode(connected: &Connected, args: &GenerateArgs, prompt: &str) -> Result<Vec<TokenId>, crate::Error> {
    let tokenizer = &connected.pair.tokenizer;
    match args.chat {
        true => text::encode(tokenizer, &text::chat(tokenizer, args.system.as_deref(), prompt)?),
        false => text::encode(tokenizer, prompt),
    }
}

/// Generates while a thread of its own writes, so that a slow terminal does not slow the cycle.
async fn write_text(
    connected: &Connected,
    services: &super::args::ServiceArgs,
    request: Request,
    prompt: String,
    json: bool,
) -> anyhow::Result<End> {
    let (pieces, written) = mpsc::channel::<Piece>();
    let writer = thread::spawn(move || write_pieces(&prompt, &written, json));
    let emit = move |piece| drop(pieces.send(piece));
    let run = run(connected, services, request.clone(), emit).await;
    writer.join().expect("the writer does not panic").context("the text cannot be written")?;
    let run = run?;

    let mut end = if run.stop_reason == StopReason::Cancelled { End::Interrupted } else { End::Done };
    // The embedded pair is the demonstration: its summary sets the target alone beside the run.
    let mut alone = None;
    if !json && connected.is_embedded() && request.gamma > 0 && end == End::Done {
        let run = self::run(connected, services, Request { gamma: 0, ..request }, |_| {}).await?;
        match run.stop_reason {
            StopReason::Cancelled => end = End::Interrupted,
            StopReason::Stop | StopReason::Eos | StopReason::Length => alone = Some(run),
        }
    }
    let pair = &connected.pair;
    let mut roofs = PairRoofs::default();
    if end == End::Done {
        match interruptible(PairRoofs::measure(pair)).await {
            Some(measured) => roofs = measured,
            None => end = End::Interrupted,
        }
    }
    let theory = alone.as_ref().and_then(|alone| Theory::of([alone], [&run]));
    let report = Report::new(run, pair, &roofs);
    if json {
        print_json(&report)?;
    } else {
        let alone = alone.map(|alone| Report::new(alone, &pair.without_draft(), &roofs));
        let alone = alone.as_ref().map(|alone| (alone, theory.as_ref()));
        let summary = terminal::summary(&report, alone, coloured(&io::stderr()));
        write!(io::stderr(), "\n{summary}").context("the summary cannot be written")?;
    }
    Ok(end)
}

async fn run(
    connected: &Connected,
    services: &super::args::ServiceArgs,
    request: Request,
    emit: impl FnMut(Piece),
) -> Result<Run, crate::Error> {
    let interrupt = async { drop(signal::ctrl_c().await) };
    cycle::generate(&connected.pair, request, services.deadlines(), &connected.tracer, emit, interrupt).await
}

fn write_pieces(prompt: &str, pieces: &mpsc::Receiver<Piece>, json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    let colour = coloured(&out);
    let mut written = colour && !json;
    if written {
        write!(out, "{prompt}")?;
        out.flush()?;
    }
    for Piece { text, accepted } in pieces {
        written = true;
        let style = if accepted { terminal::ACCEPTED } else { terminal::OWN };
        match (json, colour) {
            (true, _) => continue,
            (false, true) => write!(out, "{style}{text}{style:#}")?,
            (false, false) => write!(out, "{text}")?,
        }
        out.flush()?;
    }
    // A request that fails before its first token leaves standard output empty.
    if json || !written { Ok(()) } else { writeln!(out) }
}

pub(super) async fn bench(args: BenchArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn");
    let place = Place::of(&args.services, true);
    let Some(connected) = interruptible(Connected::new(place, true)).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let outcome = match plan(&connected, &args) {
        Ok(plan) => measure(&connected, &args, &plan).await,
        Err(error) => Err(error.into()),
    };
    connected.close().await;
    outcome
}

fn plan(connected: &Connected, args: &BenchArgs) -> Result<benchmark::Plan, crate::Error> {
    let given: Vec<&str> = args.prompt.as_deref().map_or(PROMPTS.into(), |prompt| vec![prompt]);
    Ok(benchmark::Plan {
        gammas: args.gamma.iter().map(|&gamma| gamma as usize).collect(),
        pairs: args.pairs as usize,
        prompts: given
            .iter()
            .map(|prompt| text::encode(&connected.pair.tokenizer, prompt))
            .collect::<Result<_, _>>()?,
        sampling: args.sampling.sampling(),
        max_tokens: args.max_tokens as usize,
    })
}

async fn measure(connected: &Connected, args: &BenchArgs, plan: &benchmark::Plan) -> anyhow::Result<End> {
    let bar = progress_bar();
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let (pair, deadlines) = (&connected.pair, args.services.deadlines());
    let bench = benchmark::Bench { pair, deadlines, tracer: &connected.tracer, progress: &progress };
    let outcome = benchmark::bench(bench, plan, async { drop(signal::ctrl_c().await) }).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    match args.json {
        true => print_json(&outcome)?,
        false => print_text(&terminal::benchmark(&outcome, coloured(&io::stdout())))?,
    }
    let whole = outcome.by_gamma.iter().all(|by| by.pairs == plan.pairs);
    let different: usize = outcome.by_gamma.iter().map(|by| by.pairs - by.identical).sum();
    anyhow::ensure!(
        different == 0,
        "{different} pairs differ in output: decoding with this draft is not lossless here"
    );
    Ok(if whole { End::Done } else { End::Interrupted })
}

pub(super) async fn describe(args: DescribeArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn");
    let service = interruptible(Service::connect("service", &args.url, true)).await.transpose()?;
    let Some(service) = service else {
        return Ok(End::Interrupted);
    };
    match args.json {
        true => print_json(&ServiceReport::from(&service))?,
        false => print_text(&terminal::description(&service))?,
    }
    Ok(End::Done)
}

/// `None` where Ctrl-C came first.
async fn interruptible<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = signal::ctrl_c() => None,
    }
}

fn read_prompt() -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "reading the prompt from the terminal, end it with Ctrl-D");
    }
    let mut prompt = Vec::new();
    io::stdin().read_to_end(&mut prompt).context("the prompt cannot be read from standard input")?;
    String::from_utf8(prompt).context("the prompt on standard input is not UTF-8, allowed: UTF-8 text")
}

fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_text(&(serde_json::to_string(value)? + "\n"))
}

/// Unlike `print!`, an error where whoever reads standard output has gone.
fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("the answer cannot be written to standard output")
}

fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
