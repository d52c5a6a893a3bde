//! A request as one HTML page that needs nothing else.

use serde_json::{Value, json};
use speculative::roofline::Roofs;

use super::{
    Judgement, Request,
    judge::time,
    request::{Cycle, Side},
};
use crate::cycle::Part;

const PAGE: &str = include_str!("page.html");

/// What stands in the page for the data.
const DATA: &str = "__DATA__";

/// The page of `request`, judged so.
pub fn page(request: &Request, judgement: &Judgement) -> String {
    // Within a script element nothing may look like the end of it.
    PAGE.replacen(DATA, &data(request, judgement).to_string().replace('<', "\\u003c"), 1)
}

fn data(request: &Request, judgement: &Judgement) -> Value {
    let since = |at_ns: u64| at_ns.saturating_sub(request.start_ns) as f64 / 1e6;
    let budget = judgement
        .budget
        .iter()
        .map(|share| json!({ "part": share.part, "mean_ms": share.mean_s * 1e3, "share": share.share }));
    let slowest = judgement
        .slowest
        .iter()
        .map(|slow| json!({ "cycle": slow.cycle, "wall_ms": slow.wall_s * 1e3, "sentence": slow.why }));
    let events = request.cycles.iter().flat_map(|cycle| {
        let told = |(at_ns, name): &(u64, String)| {
            json!({ "at_ms": since(*at_ns), "cycle": cycle.number, "name": name, "text": name.replace('.', " ") })
        };
        cycle.happened.iter().map(told).collect::<Vec<_>>()
    });
    let [traced, all] = judgement.cycles;
    let mut sentences = Vec::new();
    if traced < all {
        sentences.push(format!("{traced} of {all} cycles were traced; what is said here is of those."));
    }
    match judgement.t_ar_s {
        Some(t_ar_s) => sentences.push(format!("One step of plain decoding takes the target {}.", time(t_ar_s))),
        None => {
            sentences.push(
                "What a step of plain decoding takes is not known, so the speed-up is an upper bound.".to_owned(),
            );
        }
    }
    if judgement.shared > 0.0 {
        let shared = 100.0 * judgement.shared;
        sentences.push(format!("Other sessions' rows in the target's passes are {shared:.0}% of a cycle."));
    }
    json!({
        "trace_id": request.trace_id,
        "model": request.model,
        "gamma": request.gamma,
        "gamma_is_auto": request.is_auto,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "finish_reason": request.finish_reason,
        "started": humantime::format_rfc3339_seconds(
            std::time::UNIX_EPOCH + std::time::Duration::from_nanos(request.start_ns)
        ).to_string(),
        "duration_ms": since(request.end_ns),
        "time_to_first_token_ms": request.first_token_ns.map(since),
        "judgement": {
            "headline": judgement.headline(),
            "verdict": judgement.verdict,
            "sentences": sentences,
            "levers": judgement.levers,
            "speedup": judgement.speedup,
        },
        "budget": budget.collect::<Vec<_>>(),
        "acceptance": judgement.acceptance_per_position,
        "roofs": { "draft": roofs(request.roofs[0]), "target": roofs(request.roofs[1]) },
        "links": judgement.links,
        "prefill": request.prefill_ns.map(|(start, end)| json!({ "start_ms": since(start), "end_ms": since(end) })),
        "cycles": request.cycles.iter().map(|cycle| of_cycle(cycle, since(cycle.start_ns))).collect::<Vec<_>>(),
        "events": events.collect::<Vec<_>>(),
        "slowest": slowest.collect::<Vec<_>>(),
    })
}

fn roofs(roofs: Option<Roofs>) -> Value {
    roofs.map_or(Value::Null, |roofs| json!({ "flops_per_s": roofs.flops_per_s, "bytes_per_s": roofs.bytes_per_s }))
}

fn of_cycle(cycle: &Cycle, start_ms: f64) -> Value {
    json!({
        "number": cycle.number,
        "start_ms": start_ms,
        "wall_ms": cycle.wall_ns / 1e6,
        "gamma": cycle.gamma,
        "accepted": cycle.accepted,
        "segments": segments(cycle, start_ms),
        "draft": cycle.draft.as_ref().map(side),
        "target": side(&cycle.target),
    })
}

fn side(side: &Side) -> Value {
    json!({
        "flops": side.work.flops,
        "bytes": side.work.bytes,
        "forward_ms": side.forward_ns / 1e6,
        "utilisation": side.utilisation,
        "bound": side.bound,
    })
}

/// The parts one after the other, as the coordinator's clock has them: half of a round trip's network before the server's time,
/// half after it.
fn segments(cycle: &Cycle, start_ms: f64) -> Vec<Value> {
    let mut segments = Vec::new();
    let mut at = start_ms;
    let mut put = |lane: &str, part: Part, ns: f64| {
        if ns > 0.0 {
            let end = at + ns / 1e6;
            segments.push(json!({ "lane": lane, "part": part, "start_ms": at, "end_ms": end }));
            at = end;
        }
    };
    for (lane, [network, queue, compute]) in [
        ("draft", [Part::DraftNetwork, Part::DraftQueue, Part::DraftCompute]),
        ("target", [Part::TargetNetwork, Part::TargetQueue, Part::TargetCompute]),
    ] {
        put("network", network, cycle.part_ns(network) / 2.0);
        put(lane, queue, cycle.part_ns(queue));
        put(lane, compute, cycle.part_ns(compute));
        put("network", network, cycle.part_ns(network) / 2.0);
    }
    put("coordinator", Part::Coordinator, cycle.coordinator_ns);
    segments
}
