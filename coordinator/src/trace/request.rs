//! A request as its spans tell it.

use std::collections::HashMap;

use speculative::{
    Acceptance,
    roofline::{Roofs, Work},
};
use telemetry::names::{convention, event, roofline, span, spec};

use super::Span;
use crate::cycle::Part;

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its trace's id.
    pub trace_id: String,
    /// The target's model.
    pub model: String,
    /// Tokens that a cycle was to propose; 0 is AR. Where each cycle chose its own, the most that one proposed.
    pub gamma: usize,
    /// Whether each cycle chose its own.
    pub is_auto: bool,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Why it ended.
    pub finish_reason: String,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// When the first token had gone to the client.
    pub first_token_ns: Option<u64>,
    /// Begin and end of both prefills.
    pub prefill_ns: Option<(u64, u64)>,
    /// What each side's device could do at best, where it was measured.
    pub roofs: [Option<Roofs>; 2],
    /// Those that were traced.
    pub cycles: Vec<Cycle>,
    /// All there were.
    pub all_cycles: u64,
}

/// A cycle as its span tells it.
#[derive(Clone, Debug)]
pub struct Cycle {
    /// From 1.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Without what the client took to read.
    pub wall_ns: f64,
    /// Tokens that were proposed.
    pub gamma: usize,
    /// Tokens that were accepted.
    pub accepted: usize,
    /// The draft's part; `None` where it was not asked.
    pub draft: Option<Side>,
    /// The target's part.
    pub target: Side,
    /// The coordinator's own time.
    pub coordinator_ns: f64,
    /// What happened in it, but for commit and emit.
    pub happened: Vec<(u64, String)>,
}

/// One side's part of a cycle.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// Server time less queue.
    pub compute_ns: f64,
    /// Waiting for the model.
    pub queue_ns: f64,
    /// Round trip less server time.
    pub network_ns: f64,
    /// In forward passes.
    pub forward_ns: f64,
    /// Bytes of its messages, both ways.
    pub wire_bytes: u64,
    /// Their counted work.
    pub work: Work,
    /// Achieved over what the roofs allow.
    pub utilisation: Option<f64>,
    /// What limits it.
    pub bound: Option<String>,
    /// Rows of other sessions in its forward passes.
    pub others_rows: u64,
    /// Rows of other sessions' pass that it waited for.
    pub behind_rows: u64,
}

/// There is no request among the spans.
#[derive(Debug, thiserror::Error)]
pub enum NotThere {
    /// No span `generate`.
    #[error("no request is among the {spans} spans: none is named generate")]
    Request {
        /// How many there are.
        spans: usize,
    },
    /// None of that trace.
    #[error("no request of trace {trace_id} is among the spans, there are: {there}")]
    Trace {
        /// The trace that was asked for.
        trace_id: String,
        /// The traces that there are.
        there: String,
    },
}

impl Request {
    /// The requests among `spans`, by their beginnings.
    ///
    /// # Errors
    /// There is none.
    pub fn all(spans: &[Span]) -> Result<Vec<Self>, NotThere> {
        let mut children: HashMap<(&str, &str), Vec<&Span>> = HashMap::new();
        for span in spans {
            children.entry((&span.trace_id, &span.parent)).or_default().push(span);
        }
        let roots = spans.iter().filter(|span| span.name == span::GENERATE);
        let of = |root: &Span| Self::of(root, children.get(&(&*root.trace_id, &*root.id)).map_or(&[], Vec::as_slice));
        let mut requests: Vec<Self> = roots.map(of).collect();
        requests.sort_by_key(|request| request.start_ns);
        match requests.is_empty() {
            true => Err(NotThere::Request { spans: spans.len() }),
            false => Ok(requests),
        }
    }

    fn of(root: &Span, children: &[&Span]) -> Self {
        let cycles = children.iter().filter(|child| child.name == span::CYCLE);
        let mut cycles: Vec<Cycle> = cycles.map(|cycle| Cycle::of(cycle)).collect();
        cycles.sort_by_key(|cycle| cycle.number);
        let is_auto = root.text(spec::GAMMA_POLICY) == Some("auto");
        let most_proposed = cycles.iter().map(|cycle| cycle.gamma).max().unwrap_or(0);
        let whole = |key| root.number(key).unwrap_or_default() as u64;
        let reasons = root.attributes.get(convention::RESPONSE_FINISH_REASONS);
        // Stores that keep no lists have them as text.
        let reason = reasons.and_then(|reasons| reasons.get(0).unwrap_or(reasons).as_str());
        let roofs = |[flops, bytes, memory]: [&str; 3]| {
            Some(Roofs {
                flops_per_s: root.number(flops)?,
                bytes_per_s: root.number(bytes)?,
                memory_bytes_per_s: root.number(memory)?,
            })
        };
        let first = root.events.iter().find(|event| event.name == event::EMIT);
        let prefill = children.iter().find(|child| child.name == span::PREFILL);
        Self {
            trace_id: root.trace_id.clone(),
            model: root.text(convention::REQUEST_MODEL).unwrap_or("a model without a name").to_owned(),
            gamma: if is_auto { most_proposed } else { whole(spec::GAMMA) as usize },
            is_auto,
            prompt_tokens: whole(convention::USAGE_INPUT_TOKENS),
            output_tokens: whole(convention::USAGE_OUTPUT_TOKENS),
            finish_reason: reason.unwrap_or("unknown").to_owned(),
            start_ns: root.start_ns,
            end_ns: root.end_ns,
            first_token_ns: first.map(|event| event.at_ns),
            prefill_ns: prefill.map(|prefill| (prefill.start_ns, prefill.end_ns)),
            roofs: [roofs(DRAFT_ROOFS), roofs(TARGET_ROOFS)],
            all_cycles: root.number(spec::CYCLES).map_or(cycles.len() as u64, |all| all as u64),
            cycles,
        }
    }

    /// What became of its proposals, in the cycles that were traced.
    pub fn acceptance(&self) -> Acceptance {
        let mut acceptance = Acceptance::new();
        self.cycles.iter().for_each(|cycle| acceptance.record(cycle.gamma, cycle.accepted.min(cycle.gamma)));
        acceptance
    }
}

impl Cycle {
    fn of(cycle: &Span) -> Self {
        let number = |key| cycle.number(key).unwrap_or_default();
        let asked = cycle.number(spec::DRAFT_COMPUTE_NS).is_some();
        let told = [event::COMMIT, event::EMIT];
        let happened = cycle.events.iter().filter(|event| !told.contains(&event.name.as_str()));
        Self {
            number: number(spec::CYCLE) as u64,
            start_ns: cycle.start_ns,
            wall_ns: number(spec::WALL_NS),
            gamma: number(spec::GAMMA) as usize,
            accepted: number(spec::ACCEPTED) as usize,
            draft: asked.then(|| Side::of(cycle, DRAFT)),
            target: Side::of(cycle, TARGET),
            coordinator_ns: number(spec::COORDINATOR_NS),
            happened: happened.map(|event| (event.at_ns, event.name.clone())).collect(),
        }
    }

    /// How long a part took, in nanoseconds.
    pub fn part_ns(&self, part: Part) -> f64 {
        let draft = |of: fn(&Side) -> f64| self.draft.as_ref().map_or(0.0, of);
        match part {
            Part::DraftCompute => draft(|draft| draft.compute_ns),
            Part::DraftQueue => draft(|draft| draft.queue_ns),
            Part::DraftNetwork => draft(|draft| draft.network_ns),
            Part::TargetCompute => self.target.compute_ns,
            Part::TargetQueue => self.target.queue_ns,
            Part::TargetNetwork => self.target.network_ns,
            Part::Coordinator => self.coordinator_ns,
        }
    }
}

/// The keys of a side's roofs on the request's span.
const DRAFT_ROOFS: [&str; 3] = [roofline::DRAFT_ROOF_FLOPS, roofline::DRAFT_ROOF_BYTES, roofline::DRAFT_ROOF_MEMORY];
const TARGET_ROOFS: [&str; 3] =
    [roofline::TARGET_ROOF_FLOPS, roofline::TARGET_ROOF_BYTES, roofline::TARGET_ROOF_MEMORY];

/// The keys of a side's figures on a cycle's span.
const DRAFT: [&str; 11] = [
    spec::DRAFT_COMPUTE_NS,
    spec::DRAFT_QUEUE_NS,
    spec::DRAFT_NETWORK_NS,
    spec::DRAFT_FORWARD_NS,
    spec::DRAFT_WIRE_BYTES,
    spec::DRAFT_OTHERS_ROWS,
    spec::DRAFT_BEHIND_ROWS,
    roofline::DRAFT_FLOPS,
    roofline::DRAFT_BYTES,
    roofline::DRAFT_UTILISATION,
    roofline::DRAFT_BOUND,
];
const TARGET: [&str; 11] = [
    spec::TARGET_COMPUTE_NS,
    spec::TARGET_QUEUE_NS,
    spec::TARGET_NETWORK_NS,
    spec::TARGET_FORWARD_NS,
    spec::TARGET_WIRE_BYTES,
    spec::TARGET_OTHERS_ROWS,
    spec::TARGET_BEHIND_ROWS,
    roofline::TARGET_FLOPS,
    roofline::TARGET_BYTES,
    roofline::TARGET_UTILISATION,
    roofline::TARGET_BOUND,
];

impl Side {
    fn of(
        cycle: &Span,
        [compute, queue, network, forward, wire, others, behind, flops, bytes, utilisation, bound]: [&str; 11],
    ) -> Self {
        let number = |key| cycle.number(key).unwrap_or_default();
        Self {
            compute_ns: number(compute),
            queue_ns: number(queue),
            network_ns: number(network),
            forward_ns: number(forward),
            wire_bytes: number(wire) as u64,
            work: Work { flops: number(flops) as u64, bytes: number(bytes) as u64 },
            utilisation: cycle.number(utilisation),
            bound: cycle.text(bound).map(str::to_owned),
            others_rows: number(others) as u64,
            behind_rows: number(behind) as u64,
        }
    }
}
