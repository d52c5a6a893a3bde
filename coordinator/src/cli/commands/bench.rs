//! `outrider bench`.

use std::{io, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use speculative::TokenId;
use tokio::signal;

use super::{
    super::{End, args::BenchArgs},
    coloured, interruptible,
    pair::{Connected, Place},
    print_json, print_text,
};
use crate::{
    bench::{self as benchmark, Outcome, Plan},
    report::terminal,
    sidecar::Sidecars,
    text,
};

/// Prompts of a benchmark that is given none.
const PROMPTS: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, "];

pub(in crate::cli) async fn bench(args: BenchArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn");
    let place = place(&args);
    let plan = plan(&args)?;
    let sidecars = args.sidecar.as_deref().map(Sidecars::open).transpose()?;
    let Some(connected) = interruptible(Connected::new(place)).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let bar = progress_bar();
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let (pair, deadlines) = (&connected.pair, args.services.deadlines());
    let bench = benchmark::Bench { pair, deadlines, tracer: &connected.tracer, progress: &progress };
    let outcome = benchmark::bench(bench, &plan, async { drop(signal::ctrl_c().await) }).await;
    bar.finish_and_clear();
    let (pair, here) = (connected.pair.clone(), connected.is_embedded());
    connected.close().await;

    let outcome = outcome?;
    match args.json {
        true => print_json(&outcome)?,
        false => print_text(&terminal::benchmark(&outcome, coloured(&io::stdout())))?,
    }
    if let Some(sidecars) = sidecars {
        sidecars.write(&outcome, &pair, here)?;
    }
    judge(&outcome, plan.pairs)
}

/// Whether all pairs were measured, and alike.
fn judge(outcome: &Outcome, pairs: usize) -> anyhow::Result<End> {
    let whole = outcome.by_gamma.iter().all(|by| by.pairs == pairs);
    let different: usize = outcome.by_gamma.iter().map(|by| by.pairs - by.identical).sum();
    anyhow::ensure!(
        different == 0 || outcome.synthetic.is_some_and(|synthetic| synthetic.is_lossy()),
        "{different} pairs differ in output: decoding with this draft is not lossless here"
    );
    Ok(if whole { End::Done } else { End::Interrupted })
}

fn place(args: &BenchArgs) -> Place<'_> {
    #[cfg(feature = "embedded")]
    if let Some(workload) = args.workload {
        let models = workload.models(args.services.models.synthetic_acceptance);
        return Place::Here { models, threads: args.services.threads };
    }
    Place::of(&args.services, true)
}

fn plan(args: &BenchArgs) -> anyhow::Result<Plan> {
    #[cfg(feature = "embedded")]
    let workload = args.workload.map(|workload| workload.name());
    #[cfg(not(feature = "embedded"))]
    let workload = None;
    Ok(Plan {
        gammas: args.gamma.iter().map(|&gamma| gamma as usize).collect(),
        pairs: args.pairs as usize,
        prompts: prompts(args)?,
        sampling: args.sampling.sampling(),
        max_tokens: args.max_tokens as usize,
        workload,
    })
}

fn prompts(args: &BenchArgs) -> anyhow::Result<Vec<Vec<TokenId>>> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![text::encode(prompt)?]);
    }
    #[cfg(feature = "embedded")]
    if let Some(workload) = args.workload {
        return Ok(workload.prompts()?);
    }
    Ok(PROMPTS.iter().map(|prompt| text::encode(prompt)).collect::<Result<_, _>>()?)
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
