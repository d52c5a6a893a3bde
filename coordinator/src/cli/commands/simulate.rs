//! `outrider simulate`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Context;
use serde_json::json;
use tokio::signal;

use super::{print_json, print_text, progress_bar};
use crate::{
    cli::{End, args::SimulateArgs},
    simulate::{self, Break, Fit, Prediction, Reach, Scale, Simulated},
    study::{self, Plan},
};

pub(in crate::cli) async fn simulate(args: SimulateArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", telemetry::logs::Format::Text);
    let shown = args.plan.display();
    let text = fs::read_to_string(&args.plan).with_context(|| format!("the plan {shown} cannot be read"))?;
    let plan = Plan::read(&text).with_context(|| format!("the plan {shown} cannot be used"))?;
    let (fit, measured) = Fit::read(&args.fit)?;
    let measured = measured.filter(|measured| Plan::read(&measured.plan).is_ok_and(|of| of.runs_like(&plan)));
    let stem = args.plan.with_extension("").display().to_string();
    let directory = args.output.clone().unwrap_or_else(|| format!("{stem}-simulated").into());
    fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;

    let scale = Scale { drafts: args.drafts, targets: args.targets };
    let Some(simulated) = run(plan, text, fit.clone(), scale).await? else { return Ok(End::Interrupted) };
    let page = study::write(&directory, &simulated.findings, &simulated.records)?;
    fit.write(&directory)?;
    let prediction = measured.map(|measured| Prediction::of(&simulated.findings, &measured));
    let prediction = prediction.filter(|prediction| !prediction.cells.is_empty());
    let Simulated { findings, breaks, .. } = &simulated;
    match args.json {
        true => print_json(&json!({ "findings": findings, "breaks": breaks, "prediction": prediction, "fit": fit }))?,
        false => print_text(&summary(breaks, prediction.as_ref()))?,
    }
    // Whoever reads standard error may have gone; the page is written.
    let _ = writeln!(io::stderr(), "{}", page.display());
    Ok(End::Done)
}

/// `None` after Ctrl-C.
async fn run(plan: Plan, text: String, fit: Fit, scale: Scale) -> anyhow::Result<Option<Simulated>> {
    let bar = progress_bar();
    let cancelled = Arc::new(AtomicBool::new(false));
    let working = tokio::task::spawn_blocking({
        let (bar, cancelled) = (bar.clone(), cancelled.clone());
        move || {
            let progress = |done: usize, total: usize| {
                bar.set_length(total as u64);
                bar.set_position(done as u64);
                if !io::stderr().is_terminal() && done.is_multiple_of(1 + total / 20) {
                    let _ = writeln!(io::stderr(), "{done}/{total} runs");
                }
            };
            simulate::simulate((&plan, &text), &fit, scale, &progress, &cancelled)
        }
    });
    let watching = tokio::spawn(async move {
        drop(signal::ctrl_c().await);
        cancelled.store(true, Relaxed);
    });
    let simulated = working.await?;
    watching.abort();
    bar.finish_and_clear();
    Ok(simulated?)
}

fn summary(breaks: &[Break], prediction: Option<&Prediction>) -> String {
    let mut lines: Vec<String> = breaks.iter().map(verdict).collect();
    if let Some(Prediction { cells, median_error, within_10_percent }) = prediction {
        lines.push("beside what was measured, simulated / measured tokens/s:".to_owned());
        lines.extend(cells.iter().map(|cell| {
            format!(
                "  {}, temperature {}, {}, RTT {}, sessions {}, {}, γ {}: {:.0} / {:.0} = {:.2}",
                cell.pair,
                cell.temperature,
                if cell.placement == study::Placement::CoLocated { "co-located" } else { "distributed" },
                cell.rtt,
                cell.sessions,
                cell.policy,
                cell.gamma,
                cell.simulated,
                cell.measured,
                cell.ratio
            )
        }));
        if let (Some(error), Some(within)) = (median_error, within_10_percent) {
            let (error, within) = (1e2 * error, 1e2 * within);
            lines.push(format!("  median error {error:.1}%, {within:.0}% of {} within 10%", cells.len()));
        }
    }
    lines.join("\n") + "\n"
}

/// Would co-located win?
fn verdict(of: &Break) -> String {
    let Break { pair, temperature, sessions, rtt, rtt_s, policy, gamma, tokens_per_s: [ar, near, far], wins, .. } = of;
    let reach = |reach: Reach, whom: &str| match reach {
        Reach::Never => format!("never beats {whom}"),
        Reach::UpToRttS(rtt_s) => format!("beats {whom} up to an RTT of {:.2} ms", 1e3 * rtt_s),
        Reach::Always => format!("beats {whom} at any distance"),
    };
    format!(
        "{pair}, temperature {temperature}, sessions {sessions}, RTT {rtt} ({:.2} ms), {policy}, γ {gamma}: {wins} wins with AR {ar:.0}, \
         co-located {near:.0} (γ {}), distributed {far:.0} tokens/s; it {} and {}",
        1e3 * rtt_s,
        of.colocated_gamma,
        reach(of.beats_ar, "AR"),
        reach(of.beats_colocated, "co-located")
    )
}
