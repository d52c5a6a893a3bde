//! A study's directory: the page, the findings as JSON, every run as CSV.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    findings::Findings,
    journal::{Records, UnusableJournal},
    page::page,
};

/// Writes `study.html`, `study.json`, `runs.csv` and `plan.toml` into `directory`; gives the page's path.
///
/// # Errors
/// A file that cannot be written.
pub fn write(directory: &Path, findings: &Findings, records: &Records) -> Result<PathBuf, UnusableJournal> {
    let put = |name: &str, content: io::Result<Vec<u8>>| {
        let path = directory.join(name);
        match content.and_then(|content| fs::write(&path, content)) {
            Ok(()) => Ok(path),
            Err(error) => Err(UnusableJournal::Io { path, error }),
        }
    };
    put("plan.toml", Ok(findings.plan.clone().into_bytes()))?;
    put("study.json", serde_json::to_vec_pretty(findings).map_err(Into::into))?;
    put("runs.csv", runs(records))?;
    put("study.html", page(findings).map(String::into_bytes).map_err(io::Error::other))
}

/// A line for each run.
fn runs(records: &Records) -> io::Result<Vec<u8>> {
    let mut table = csv::Writer::from_writer(Vec::new());
    table.write_record([
        "pair",
        "placement",
        "temperature",
        "rtt",
        "rtt_s",
        "sessions",
        "repetition",
        "policy",
        "gamma",
        "tokens",
        "seconds",
        "tokens_per_s",
        "speedup",
        "cycles",
        "proposed",
        "accepted",
        "rejections",
        "median_gamma",
        "hits",
        "late_hits",
        "misses",
        "draft_compute_s",
        "draft_queue_s",
        "draft_network_s",
        "target_compute_s",
        "target_queue_s",
        "target_network_s",
        "coordinator_s",
        "wall_s",
        "identical",
    ])?;
    for round in &records.rounds {
        let placement = serde_json::to_value(round.placement)?;
        for run in &round.runs {
            let ar = round.runs.first().map_or(0.0, |run| run.tokens_per_s);
            let ahead = |of: fn(&crate::report::Anticipated) -> u64| run.anticipation.as_ref().map(of);
            let cycle = &run.cycle;
            table.serialize((
                (
                    &round.pair,
                    placement.as_str(),
                    round.temperature,
                    &round.rtt,
                    round.rtt_s,
                    round.sessions,
                    round.repetition,
                ),
                (
                    &run.policy,
                    &run.gamma,
                    run.tokens,
                    run.seconds,
                    run.tokens_per_s,
                    (ar > 0.0).then(|| run.tokens_per_s / ar),
                ),
                (run.cycles, run.proposed, run.accepted, run.rejections, run.median_gamma),
                (ahead(|all| all.hits), ahead(|all| all.late_hits), ahead(|all| all.misses)),
                (cycle.draft_compute_s, cycle.draft_queue_s, cycle.draft_network_s),
                (
                    cycle.target_compute_s,
                    cycle.target_queue_s,
                    cycle.target_network_s,
                    cycle.coordinator_s,
                    cycle.wall_s,
                ),
                run.identical,
            ))?;
        }
    }
    table.into_inner().map_err(|error| io::Error::other(error.to_string()))
}
