//! `outrider study`.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Context;
use tokio::signal;

use super::{print_json, print_text, progress_bar};
use crate::{
    Access,
    cli::{End, args::StudyArgs},
    study::{self, Findings, Journal, Plan, Records, Winner},
};

pub(in crate::cli) async fn study(args: StudyArgs) -> anyhow::Result<End> {
    telemetry::logs::init("warn", args.log_format);
    let shown = args.plan.display();
    let text = fs::read_to_string(&args.plan).with_context(|| format!("the plan {shown} cannot be read"))?;
    let plan = Plan::read(&text).with_context(|| format!("the plan {shown} cannot be used"))?;
    let directory = args.output.clone().unwrap_or_else(|| args.plan.with_extension(""));
    let (records, whole) = match args.draw_only {
        true => (Records::of_plan(&directory, &text)?, true),
        false => {
            let mut journal = Journal::open(&directory, &text)?;
            let access = Access { tls: args.trust.tls()?, ..Access::default() };
            let whole = measure(&plan, &mut journal, &access).await?;
            (journal.into_records(), whole)
        }
    };
    let findings = Findings::of(&plan, &records);
    let page = study::write(&directory, &findings, &records)?;
    match args.json {
        true => print_json(&findings)?,
        false => print_text(&summary(&findings))?,
    }
    // Whoever reads standard error may have gone; the page is written.
    let _ = writeln!(io::stderr(), "{}: {} of {} rounds", page.display(), findings.rounds[0], findings.rounds[1]);
    let different = findings.different();
    anyhow::ensure!(
        different == 0,
        "{different} runs differ in output from AR: decoding with these drafts is not lossless here"
    );
    match whole {
        true => Ok(End::Done),
        false => {
            let _ = writeln!(io::stderr(), "broken off; the same command goes on");
            Ok(End::Interrupted)
        }
    }
}

async fn measure(plan: &Plan, journal: &mut Journal, access: &Access) -> Result<bool, study::StudyError> {
    let bar = progress_bar();
    bar.set_length(plan.runs() as u64);
    let is_terminal = io::stderr().is_terminal();
    let progress = |done: usize, total: usize, what: &str| {
        bar.set_position(done as u64);
        bar.set_message(what.to_owned());
        if !is_terminal {
            let left = humantime::format_duration(Duration::from_secs(bar.eta().as_secs()));
            let _ = writeln!(io::stderr(), "{done}/{total} runs, {left} left  {what}");
        }
    };
    let whole = study::run(plan, journal, access, &progress, async { drop(signal::ctrl_c().await) }).await;
    bar.finish_and_clear();
    whole
}

/// Who wins where, a line each.
fn summary(findings: &Findings) -> String {
    let mut lines = vec![findings.title.clone()];
    for winner in &findings.winners {
        let Winner { pair, temperature, rtt, rtt_s, sessions, colocated, distributed, wins, is_clear } = winner;
        let clear = if *is_clear { "" } else { " (intervals overlap)" };
        let best = |best: &Option<study::Best>| match best {
            Some(best) => format!("{:.2} × ({}, γ {})", best.speedup, best.policy, best.gamma),
            None => "none".to_owned(),
        };
        lines.push(format!(
            "{pair}, temperature {temperature}, sessions {sessions}, RTT {rtt} ({:.2} ms): co-located {}, distributed {}: {wins}{clear}",
            1e3 * rtt_s,
            best(colocated),
            best(distributed)
        ));
    }
    lines.join("\n") + "\n"
}
