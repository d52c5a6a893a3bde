//! `outrider bench`.

use std::io;

use speculative::TokenId;
use tokenizer::Tokenizer;
use tokio::signal;

use super::{
    super::{End, args::BenchArgs},
    coloured, interruptible,
    pair::{self, Connected, Place, Setup},
    print_json, print_text, progress_bar,
};
use crate::{
    bench::{self as benchmark, Outcome, Plan},
    report::terminal,
    sidecar::Sidecars,
    text,
};

pub(in crate::cli) async fn bench(args: BenchArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", args.services.log_format);
    pair::check(&args.coupling);
    let place = place(&args);
    let sidecars = args.sidecar.as_deref().map(Sidecars::open).transpose()?;
    let Some(connected) = interruptible(Connected::new(place, Setup::default())).await.transpose()? else {
        return Ok(End::Interrupted);
    };
    let (pair, here) = (connected.pair.clone(), connected.is_embedded());
    let measured = match plan(&args, &connected) {
        Ok(plan) => measure(&connected, &args, &plan).await.map_err(Into::into),
        Err(error) => Err(error),
    };
    connected.close().await;

    let outcome = measured?;
    match args.json {
        true => print_json(&outcome)?,
        false => print_text(&terminal::benchmark(&outcome, coloured(&io::stdout())))?,
    }
    if let Some(sidecars) = sidecars {
        sidecars.write(&outcome, &pair, here)?;
    }
    judge(&outcome, args.pairs as usize)
}

async fn measure(connected: &Connected, args: &BenchArgs, plan: &Plan) -> Result<Outcome, crate::Error> {
    let bar = progress_bar();
    let progress = |done: usize, total: usize| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    let (pair, deadlines) = (&connected.pair, args.services.deadlines());
    let bench = benchmark::Bench { pair, deadlines, tracer: &connected.tracer, progress: &progress };
    let outcome = benchmark::bench(bench, plan, async { drop(signal::ctrl_c().await) }).await;
    bar.finish_and_clear();
    outcome
}

/// Whether all pairs were measured, and alike where they ought to be.
fn judge(outcome: &Outcome, pairs: usize) -> anyhow::Result<End> {
    let whole = outcome.by_gamma.iter().all(|by| by.pairs == pairs);
    let different: usize = outcome.by_gamma.iter().map(|by| by.pairs - by.identical).sum();
    anyhow::ensure!(
        different == 0 || !outcome.is_held_to_ar(),
        "{different} pairs differ in output: decoding with this draft is not lossless here"
    );
    Ok(if whole { End::Done } else { End::Interrupted })
}

fn place(args: &BenchArgs) -> Place<'_> {
    #[cfg(feature = "embedded")]
    if let Some(workload) = args.workload {
        let models = workload.models(&args.services.models);
        return Place::Here { models, services: &args.services };
    }
    Place::of(&args.services, true)
}

fn plan(args: &BenchArgs, connected: &Connected) -> anyhow::Result<Plan> {
    #[cfg(feature = "embedded")]
    let workload = args.workload.map(super::super::args::Workload::name);
    #[cfg(not(feature = "embedded"))]
    let workload = None;
    Ok(Plan {
        gammas: args.gamma.clone(),
        branches: args.coupling.proposals.branches(connected.is_embedded()),
        min_confidence: args.coupling.proposals.min_confidence,
        coupling: args.coupling.coupling,
        pairs: args.pairs as usize,
        prompts: prompts(args, &connected.pair.tokenizer)?,
        sampling: args.sampling.sampling(),
        max_tokens: args.max_tokens as usize,
        trace_cycles: args.services.trace_cycles,
        workload,
    })
}

fn prompts(args: &BenchArgs, tokenizer: &Tokenizer) -> anyhow::Result<Vec<Vec<TokenId>>> {
    if let Some(prompt) = &args.prompt {
        return Ok(vec![text::encode(tokenizer, prompt)?]);
    }
    #[cfg(feature = "embedded")]
    if let Some(workload) = args.workload {
        return Ok(workload.prompts(tokenizer)?);
    }
    Ok(benchmark::usual_prompts(tokenizer)?)
}
