//! What the commands do.

mod bench;
mod certify;
mod health;
mod pair;
mod serve;
mod simulate;
mod study;
mod trace;

use std::{
    io::{self, IsTerminal, Read, Write},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use speculative::{TokenId, policy::Gamma};
use telemetry::{TraceFile, logs};
use tokio::{signal, time};

use super::{
    End,
    args::{DescribeArgs, GenerateArgs},
};
use crate::{
    Access, PairRoofs, Request, Run, Service, StopReason, cycle,
    report::{Report, ServiceReport, Theory, terminal},
    text::{self, Piece},
};
use pair::{Connected, Place, Setup};

pub(super) use bench::bench;
pub(super) use certify::certify;
pub(super) use health::health;
pub(super) use serve::serve;
pub(super) use simulate::simulate;
pub(super) use study::study;
pub(super) use trace::{explain, trace};

pub(super) async fn generate(args: GenerateArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", args.services.log_format);
    let gamma = if args.ar { Gamma::Fixed(0) } else { args.gamma };
    pair::check(&args.coupling);
    let place = Place::of(&args.services, !gamma.is_ar());
    let prompt = match args.prompt.as_str() {
        "-" => read_prompt()?,
        prompt => prompt.to_owned(),
    };
    let file = args.trace_file.clone().map(|path| {
        let shown = path.display().to_string();
        TraceFile::create(path).with_context(|| format!("the trace file {shown} cannot be written"))
    });
    let setup = Setup { trace_file: file.transpose()?, measure_roofs: false, patient: false };
    let Some(connected) = interruptible(Connected::new(place, setup)).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let outcome = match encode(&connected, &args, &prompt) {
        Ok(tokens) => {
            let request = Request {
                max_tokens: args.max_tokens as usize,
                gamma,
                branches: args.coupling.proposals.branches(connected.is_embedded()),
                min_confidence: args.coupling.proposals.min_confidence,
                coupling: args.coupling.coupling,
                stop: args.stop,
                record_content: args.services.record_content,
                trace_cycles: args.services.trace_cycles,
                ..Request::new(tokens, args.sampling.sampling())
            };
            let request = if gamma.is_ar() { request.alone() } else { request };
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
    // A pair in this process is the demonstration: its summary sets the target alone beside the run.
    let mut alone = None;
    if !json && connected.is_embedded() && !request.gamma.is_ar() && end == End::Done {
        let run = self::run(connected, services, request.alone(), |_| {}).await?;
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
    for Piece { text, accepted, .. } in pieces {
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

pub(super) async fn describe(args: DescribeArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", logs::Format::Text);
    let access = Access { tls: args.trust.tls()?, ..Access::default() };
    let service = interruptible(Service::connect("service", &args.url, &access, true)).await.transpose()?;
    let Some(service) = service else {
        return Ok(End::Interrupted);
    };
    match args.json {
        true => print_json(&ServiceReport::from(&service))?,
        false => print_text(&terminal::description(&service))?,
    }
    if !args.watch {
        return Ok(End::Done);
    }
    watch(service, args.json).await
}

/// Tells each second what the service does, until Ctrl-C.
async fn watch(mut service: Service, json: bool) -> anyhow::Result<End> {
    loop {
        let (before, at) = (service.description.load.unwrap_or_default(), Instant::now());
        let next = async {
            time::sleep(Duration::from_secs(1)).await;
            service.describe_again(false).await
        };
        if interruptible(next).await.transpose()?.is_none() {
            return Ok(End::Interrupted);
        }
        match json {
            true => print_json(&ServiceReport::from(&service))?,
            false => print_text(&terminal::live(&service, &before, at.elapsed().as_secs_f64()))?,
        }
    }
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

/// How many runs are done, how long the others will take, and what is under way.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left  {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn coloured(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
