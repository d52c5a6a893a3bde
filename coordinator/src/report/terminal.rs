//! Reports for people: a few aligned lines, with the cycle as a bar.

use std::fmt::{self, Write};

use anstyle::{AnsiColor, Style};
use proto::v1::{DescribeResponse, Load, Roofs};
use speculative::{
    Coupling,
    policy::Gamma,
    roofline::{self, Placement, Work},
};

use super::{Anticipated, Breakdown, Link, Report, Roofline, Synthetic, Theory};
use crate::{Service, bench, pairing};

/// Cells of a cycle's bar.
const BAR: usize = 48;

/// How accepted tokens look on a terminal.
pub const ACCEPTED: Style = AnsiColor::Green.on_default();
/// How the target's own tokens look.
pub const OWN: Style = AnsiColor::Yellow.on_default().bold();
const DIM: Style = Style::new().dimmed();
const PLAIN: Style = Style::new();

/// A part of a cycle and the cell that draws it.
struct Part {
    name: &'static str,
    cell: char,
    seconds: fn(&Breakdown) -> Option<f64>,
}

const PARTS: [Part; 7] = [
    Part { name: "draft compute", cell: 'D', seconds: |parts| parts.draft_compute_s },
    Part { name: "draft queue", cell: 'q', seconds: |parts| parts.draft_queue_s },
    Part { name: "draft network", cell: '·', seconds: |parts| parts.draft_network_s },
    Part { name: "target compute", cell: 'T', seconds: |parts| parts.target_compute_s },
    Part { name: "target queue", cell: 'Q', seconds: |parts| parts.target_queue_s },
    Part { name: "target network", cell: '·', seconds: |parts| parts.target_network_s },
    Part { name: "coordinator", cell: 'c', seconds: |parts| parts.coordinator_s },
];

/// The summary of a run; `ar` is the same request decoded without a draft, where that was run too.
pub fn summary(report: &Report, ar: Option<(&Report, Option<&Theory>)>, colour: bool) -> String {
    let mut out = String::new();
    let paint = Paint { colour };
    write_summary(&mut out, &paint, report, ar).expect("a String takes all that is written");
    out
}

fn write_summary(
    out: &mut String,
    paint: &Paint,
    report: &Report,
    ar: Option<(&Report, Option<&Theory>)>,
) -> fmt::Result {
    writeln!(
        out,
        "{} tokens at {} tokens/s, first token after {}, seed {}, ended by {}",
        report.tokens_emitted,
        number(report.output_tokens_per_sec),
        time(report.time_to_first_token_s),
        report.seed,
        report.stop_reason,
    )?;
    if let Some(draft) = &report.models.draft {
        writeln!(out, "draft  {}, {} on {}", draft.name, draft.dtype, draft.device)?;
    }
    let target = &report.models.target;
    writeln!(out, "target {}, {} on {}", target.name, target.dtype, target.device)?;
    if let Some(emulated) = &report.emulated {
        writeln!(out, "{}", emulated.sentence())?;
    }
    synthetic(out, report.synthetic.as_ref())?;
    coupling(out, report.coupling)?;
    if let Some((ar, theory)) = ar {
        let speedup = report.output_tokens_per_sec.zip(ar.output_tokens_per_sec).map(|(fast, slow)| fast / slow);
        let same = match ar.token_ids == report.token_ids {
            true => "the same tokens",
            false if report.synthetic.is_some_and(|synthetic| synthetic.is_lossy()) => {
                "other tokens, as accepted by lot"
            }
            false if report.coupling == Coupling::Rejection => "other tokens, as coupled by rejection",
            false => "OTHER TOKENS",
        };
        let theory = theory.map(|theory| format!(", theory {:.2} ×", theory.speedup)).unwrap_or_default();
        writeln!(
            out,
            "the target alone: {} tokens/s, {same}; speed-up {} ×{theory} (one run each; `outrider bench` measures)",
            number(ar.output_tokens_per_sec),
            number(speedup),
        )?;
    }
    acceptance(out, report)?;
    if let Some(anticipation) = report.anticipation {
        let Anticipated { hits, late_hits, misses, rows, wasted_rows, saved_s, .. } = anticipation;
        writeln!(
            out,
            "drafted ahead: {hits} hits, {late_hits} late, {misses} misses; {wasted_rows} of {rows} rows in vain, {} of waiting saved",
            time(Some(saved_s)),
        )?;
    }
    cycle(out, paint, if report.draft_params.is_some() { "speculative" } else { "AR" }, &report.cycle.mean)?;
    if let Some((ar, _)) = ar {
        cycle(out, paint, "AR", &ar.cycle.mean)?;
    }
    legend(out, paint, &report.cycle.mean)?;
    roofline(out, "draft", report.roofline.draft.as_ref())?;
    roofline(out, "target", report.roofline.target.as_ref())?;
    if let Some(trace_id) = &report.trace_id {
        writeln!(out, "trace {trace_id}")?;
    }
    Ok(())
}

fn synthetic(out: &mut String, synthetic: Option<&Synthetic>) -> fmt::Result {
    synthetic.map_or_else(Vec::new, Synthetic::sentences).iter().try_for_each(|sentence| writeln!(out, "{sentence}"))
}

fn coupling(out: &mut String, coupling: Coupling) -> fmt::Result {
    match coupling {
        Coupling::Gumbel => Ok(()),
        Coupling::Rejection => writeln!(
            out,
            "coupling by rejection: the output is exact in distribution and depends on the draft, it is not that of AR"
        ),
    }
}

fn acceptance(out: &mut String, report: &Report) -> fmt::Result {
    let Some(survival) = report.acceptance_per_position.as_deref().filter(|survival| !survival.is_empty()) else {
        return Ok(());
    };
    let survival: Vec<String> = survival.iter().map(|share| format!("{share:.2}")).collect();
    writeln!(
        out,
        "{} cycles of γ {}: {} accepted per cycle, rate {}, conditional {}, by position {}",
        report.cycles,
        report.gamma,
        number(report.avg_accepted_per_cycle),
        number(report.acceptance_rate),
        number(report.conditional_acceptance),
        survival.join(" "),
    )
}

/// A cycle as a bar, its parts in proportion.
fn cycle(out: &mut String, paint: &Paint, name: &str, parts: &Breakdown) -> fmt::Result {
    let Some(wall) = parts.wall_s.filter(|wall| *wall > 0.0) else {
        return Ok(());
    };
    write!(out, "{name:>11} cycle {:>8} ▕", time(Some(wall)))?;
    let (mut drawn, mut until) = (0, 0.0);
    for Part { cell, seconds, .. } in PARTS {
        until += seconds(parts).unwrap_or(0.0);
        let end = (until / wall * BAR as f64).round() as usize;
        let cells: String = std::iter::repeat_n(cell, end.saturating_sub(drawn)).collect();
        paint.write(out, style(cell), &cells)?;
        drawn = drawn.max(end);
    }
    writeln!(out, "▏")
}

fn legend(out: &mut String, paint: &Paint, parts: &Breakdown) -> fmt::Result {
    write!(out, "{:>11}", "")?;
    for Part { name, cell, seconds } in PARTS {
        if let Some(seconds) = seconds(parts) {
            out.push(' ');
            paint.write(out, style(cell), &cell.to_string())?;
            write!(out, " {name} {}", time(Some(seconds)))?;
        }
    }
    writeln!(out)
}

fn style(cell: char) -> Style {
    match cell {
        'D' | 'q' => ACCEPTED,
        'T' | 'Q' => OWN,
        '·' => DIM,
        _ => PLAIN,
    }
}

fn roofline(out: &mut String, side: &str, roofline: Option<&Roofline>) -> fmt::Result {
    let Some(roofline) = roofline else { return Ok(()) };
    write!(
        out,
        "{side:>11} forward {:>8}: {:.1} FLOP/B, {:.1} GFLOP/s, {:.1} GB/s",
        time(Some(roofline.forward_s_per_cycle)),
        roofline.intensity_flops_per_byte,
        roofline.achieved_flops_per_s / 1e9,
        roofline.achieved_bytes_per_s / 1e9,
    )?;
    if let (Some(flops), Some(bytes), Some(utilisation), Some(bound)) =
        (roofline.roof_flops_per_s, roofline.roof_bytes_per_s, roofline.utilisation, roofline.bound)
    {
        let (flops, bytes) = (flops / 1e9, bytes / 1e9);
        write!(out, " of {flops:.0} GFLOP/s and {bytes:.0} GB/s: {:.0}% of the roof, {bound}", utilisation * 100.0)?;
    }
    writeln!(out, "\n{:>11} link    {}", "", link(&roofline.link))
}

/// The way to a side, in a few words.
pub(crate) fn link(link: &Link) -> String {
    let (best, mean) = (time(Some(link.roof_rtt_s)), time(Some(link.rtt_s)));
    format!("{mean:>8}: {best} at best, {:.0} bytes a cycle", link.bytes_per_cycle)
}

/// The table of a benchmark.
pub fn benchmark(outcome: &bench::Outcome, colour: bool) -> String {
    let mut out = String::new();
    write_benchmark(&mut out, &Paint { colour }, outcome).expect("a String takes all that is written");
    out
}

fn write_benchmark(out: &mut String, paint: &Paint, outcome: &bench::Outcome) -> fmt::Result {
    let ar = &outcome.ar;
    if let Some(workload) = outcome.workload {
        writeln!(out, "workload {workload}")?;
    }
    synthetic(out, outcome.synthetic.as_ref())?;
    if let Some(speculative) = outcome.runs.iter().find(|run| run.mode == "speculative") {
        coupling(out, speculative.report.coupling)?;
    }
    writeln!(
        out,
        "        tokens/s  speed-up [95% interval]  at target  theory   a     rate  verify/decode  same output"
    )?;
    writeln!(out, "AR    {:>10}  {:<23}", number(ar.output_tokens_per_sec), "1")?;
    for by in &outcome.by_gamma {
        let interval = by.speedup_interval.map(|[low, high]| format!("[{low:.2}, {high:.2}]")).unwrap_or_default();
        writeln!(
            out,
            "γ {:<4}{:>10}  {:<23}  {:<9}  {:<7}  {:<5} {:<5} {:<13}  {} of {}",
            by.gamma.to_string(),
            number(by.output_tokens_per_sec),
            format!("{} {interval}", number(by.speedup)),
            number(by.speedup_at_target),
            number(by.theory.map(|theory| theory.speedup)),
            number(by.conditional_acceptance),
            number(by.acceptance_rate),
            number(by.verify_over_decode),
            by.identical,
            by.pairs,
        )?;
    }
    let last = |mode: &str, is: &dyn Fn(&Report) -> bool| {
        let run = outcome.runs.iter().rev().find(|run| run.mode == mode && is(&run.report));
        run.map(|run| &run.report)
    };
    let first = outcome.by_gamma.first().map(|by| by.gamma);
    let of_first = |report: &Report| match first {
        Some(Gamma::Fixed(gamma)) => report.gamma_policy == "fixed" && report.gamma == gamma,
        Some(Gamma::Auto) => report.gamma_policy == "auto",
        None => false,
    };
    if let Some((ar, speculative)) = last("ar", &|_| true).zip(last("speculative", &of_first)) {
        let gamma = first.map(|gamma| gamma.to_string()).unwrap_or_default();
        writeln!(out, "the last pair of γ {gamma}, means over its cycles:")?;
        cycle(out, paint, "speculative", &speculative.cycle.mean)?;
        cycle(out, paint, "AR", &ar.cycle.mean)?;
        legend(out, paint, &speculative.cycle.mean)?;
        roofline(out, "draft", speculative.roofline.draft.as_ref())?;
        roofline(out, "target", speculative.roofline.target.as_ref())?;
    }
    write_baseline(out, ar)?;
    for by in &outcome.by_gamma {
        write_theory(out, by)?;
    }
    Ok(())
}

fn write_baseline(out: &mut String, ar: &bench::Baseline) -> fmt::Result {
    let giga = |rate: Option<f64>| number(rate.map(|rate| rate / 1e9));
    writeln!(
        out,
        "AR forward {}, reads {} GB/s, {} of the roof at that working set ({} GB/s)",
        time(ar.forward_s),
        giga(ar.read_bytes_per_s),
        number(ar.bandwidth_utilisation),
        giga(ar.roof_bytes_per_s),
    )
}

fn write_theory(out: &mut String, by: &bench::ByGamma) -> fmt::Result {
    let Some(theory) = by.theory else { return Ok(()) };
    writeln!(
        out,
        "γ {}: E {:.2} (constant a: {}), t_AR {}, t_draft {}, t_verify {}, RTTs {} + {}, coordinator {}; breaks even at a draft RTT of {}",
        by.gamma,
        theory.expected_tokens,
        number(theory.expected_tokens_constant_a),
        time(Some(theory.t_ar_s)),
        time(Some(theory.t_draft_s)),
        time(Some(theory.t_verify_s)),
        time(Some(theory.rtt_draft_s)),
        time(Some(theory.rtt_target_s)),
        time(Some(theory.overhead_s)),
        time(Some(theory.break_even_draft_rtt_s)),
    )?;
    if let Some(overhead) = by.overhead {
        writeln!(
            out,
            "     networks + coordinator {}, {:.2} × two bare echoes ({} + {})",
            time(Some(overhead.cycle_s)),
            overhead.ratio,
            time(Some(overhead.echo_propose_s)),
            time(Some(overhead.echo_verify_s)),
        )?;
    }
    Ok(())
}

/// What a service says of itself.
pub fn description(service: &Service) -> String {
    let DescribeResponse { roofs, limits, .. } = &service.description;
    let description = &service.description;
    let mut rows = vec![
        ("address", service.url.clone()),
        ("role", description.role().as_str_name().trim_start_matches("ROLE_").to_lowercase()),
        ("protocol", format!("outrider.v{}", description.protocol_version)),
        ("model", description.model.clone()),
        ("parameters", description.parameters.to_string()),
        ("weights", format!("{} bytes, {}", description.weight_bytes, description.dtype)),
        ("fingerprint", description.model_fingerprint.clone()),
        ("tokenizer", format!("{}, {} ids", pairing::tokenizer(description), description.tokenizer_size)),
        ("vocabulary", description.vocab_size.to_string()),
        ("context", format!("{} tokens", description.context_length)),
        ("device", description.device.clone()),
    ];
    if description.synthetic {
        rows.push(("synthetic", "its weights are made: what it says and accepts means nothing".to_owned()));
    }
    if let Some(rate) = description.synthetic_acceptance {
        rows.push(("acceptance", format!("{rate}, by lot: the output depends on the draft")));
    }
    if let Some(roofs) = roofs {
        let [flops, bytes, memory] = [roofs.flops_per_s, roofs.bytes_per_s, roofs.memory_bytes_per_s].map(|x| x / 1e9);
        rows.push((
            "roofs",
            format!("{flops:.0} GFLOP/s, {bytes:.1} GB/s at its weights, {memory:.1} GB/s from memory"),
        ));
    }
    if let Some(limits) = limits {
        rows.push(("sessions", format!("up to {}", limits.max_sessions)));
        rows.push(("prompt", format!("up to {} tokens", limits.max_prompt_tokens)));
        rows.push(("output", format!("up to {} tokens", limits.max_output_tokens)));
        rows.push(("gamma", format!("up to {}", limits.max_gamma)));
        rows.push(("queue", format!("up to {} sessions", limits.queue_depth)));
        rows.push(("caches", format!("up to {} bytes", limits.kv_bytes)));
        rows.push(("message", format!("up to {} bytes", limits.max_message_bytes)));
    }
    let load = description.load.unwrap_or_default();
    rows.push(("now", now(&load)));
    if load.forwards > 0 {
        rows.push(("since start", since(&Load::default(), &load, None, *roofs)));
    }
    rows.iter().map(|(name, value)| format!("{name:<12}{value}\n")).collect()
}

/// What a service does now, and what it has done since `before`, so many seconds ago.
pub fn live(service: &Service, before: &Load, seconds: f64) -> String {
    let load = service.description.load.unwrap_or_default();
    format!("{}; {}\n", now(&load), since(before, &load, Some(seconds), service.description.roofs))
}

fn now(load: &Load) -> String {
    let share = 100.0 * load.kv_reserved_bytes as f64 / (load.kv_limit_bytes as f64).max(1.0);
    format!(
        "{} sessions open, {} wait, {share:.0}% of the memory for caches",
        load.open_sessions, load.waiting_sessions
    )
}

/// The passes between two readings: how many, of how many rows, and where they stand under the roofs. `seconds` between them,
/// where they are known.
fn since(before: &Load, load: &Load, seconds: Option<f64>, roofs: Option<Roofs>) -> String {
    let forwards = load.forwards.saturating_sub(before.forwards);
    if forwards == 0 {
        return "no forward pass".to_owned();
    }
    let spent = load.forward_ns.saturating_sub(before.forward_ns) as f64 / 1e9;
    let rows = load.rows.saturating_sub(before.rows) as f64 / forwards as f64;
    let work = Work { flops: load.flops.saturating_sub(before.flops), bytes: load.bytes.saturating_sub(before.bytes) };
    let busy = seconds.map_or(String::new(), |seconds| format!(", {:.0}% of the time", 100.0 * spent / seconds));
    let placed = roofs.map_or(String::new(), |Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s }| {
        let roofs = roofline::Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s };
        let placement = Placement::of(work, spent, &roofs);
        format!(", {:.0}% of the roof, {}", 100.0 * placement.utilisation, placement.bound.as_str())
    });
    format!("{forwards} passes of {rows:.1} rows{busy}{placed}")
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

pub(crate) fn time(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds.abs() >= 1.0 => format!("{seconds:.2} s"),
        Some(seconds) if seconds.abs() >= 1e-3 => format!("{:.2} ms", seconds * 1e3),
        Some(seconds) => format!("{:.0} µs", seconds * 1e6),
    }
}

/// Colours, or none.
struct Paint {
    colour: bool,
}

impl Paint {
    fn write(&self, out: &mut String, style: Style, text: &str) -> fmt::Result {
        match self.colour && !text.is_empty() {
            true => write!(out, "{style}{text}{style:#}"),
            false => write!(out, "{text}"),
        }
    }
}
