//! What a run was, with the keys of the MLPerf EDU `nanogpt-decode-spec` workload and what they leave out.

mod anticipation;
mod emulated;
mod link;
mod machine;
mod origin;
mod stats;
mod synthetic;
pub mod terminal;
mod theory;

use proto::v1;
use serde::{Deserialize, Serialize, Serializer};
use speculative::{
    Coupling, TokenId,
    roofline::{Placement, Roofs, Work},
};

pub use anticipation::Anticipated;
pub use emulated::{Emulated, EmulatedLink};
pub use link::Link;
pub use machine::Machine;
pub use origin::{Model, Models, Sampling};
pub use stats::{mean, median, median_interval};
pub use synthetic::Synthetic;
pub use theory::Theory;

use crate::{Cycle, Leg, Pair, PairRoofs, Run, Service};

/// The report of one run. Times are in seconds, rates per second; what was not drafted is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// `decode-speculative` or `decode`.
    pub phase: &'static str,
    /// Parameters of the draft.
    pub draft_params: Option<u64>,
    /// Parameters of the target.
    pub target_params: u64,
    /// Proposed tokens of a cycle; 0 is AR. Where each cycle chooses its own, their median.
    pub gamma: usize,
    /// `fixed` or `auto`.
    pub gamma_policy: &'static str,
    /// Tokens of the prompt.
    pub prefill_ctx: usize,
    /// Both prefills, `Open` to `Opened`.
    pub warm_time_s: f64,
    /// Emitted tokens, the first included.
    pub tokens_emitted: usize,
    /// Whole cycles.
    pub cycles: u64,
    /// Accepted tokens of a cycle.
    pub avg_accepted_per_cycle: Option<f64>,
    /// Accepted / proposed.
    pub acceptance_rate: Option<f64>,
    /// Median wall of a cycle.
    pub median_cycle_s: Option<f64>,
    /// (tokens_emitted - 1) / sum of the cycles' wall.
    pub output_tokens_per_sec: Option<f64>,
    /// The text, which ends before a stop string.
    pub text: String,
    /// The emitted tokens.
    pub token_ids: Vec<TokenId>,
    /// The seed that was used.
    pub seed: u64,
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<TokenId>,
    /// How tokens were chosen.
    pub sampling: Sampling,
    /// `gumbel` or `rejection`.
    #[serde(serialize_with = "coupling")]
    pub coupling: Coupling,
    /// What each cycle proposed and how much of it was accepted.
    pub windows: Vec<[usize; 2]>,
    /// What computed it, and where.
    pub models: Models,
    /// Distance that was added; `null` where none was.
    pub emulated: Option<Emulated>,
    /// `stop`, `length` or `cancelled`.
    pub stop_reason: &'static str,
    /// The trace, where one was exported.
    pub trace_id: Option<String>,
    /// Accepted / (accepted + rejections): Leviathan's α.
    pub conditional_acceptance: Option<f64>,
    /// survival(i): share of the cycles that proposed ≥ i whose i-th proposal was accepted.
    pub acceptance_per_position: Option<Vec<f64>>,
    /// Request to first token; `null` where it was cancelled before.
    pub time_to_first_token_s: Option<f64>,
    /// Where a cycle's time goes.
    pub cycle: Breakdowns,
    /// What drafting ahead brought; `null` where nothing was.
    pub anticipation: Option<Anticipated>,
    /// Where the forwards stand under the roofs.
    pub roofline: Rooflines,
    /// What was made for study; `null` where nothing was.
    pub synthetic: Option<Synthetic>,
}

/// The cycle's breakdown, over all cycles.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Breakdowns {
    /// The parts' means; they add up to the mean wall.
    pub mean: Breakdown,
    /// The parts' medians.
    pub median: Breakdown,
}

/// The parts of a cycle's critical path, in seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Breakdown {
    /// Draft: server time less queue.
    pub draft_compute_s: Option<f64>,
    /// Draft: waiting for the model.
    pub draft_queue_s: Option<f64>,
    /// Draft: round trip less server time.
    pub draft_network_s: Option<f64>,
    /// Draft: in forward passes, a part of compute.
    pub draft_forward_s: Option<f64>,
    /// Draft: choosing tokens, a part of compute; the rest is handing messages to the model and back.
    pub draft_select_s: Option<f64>,
    /// Target: server time less queue.
    pub target_compute_s: Option<f64>,
    /// Target: waiting for the model.
    pub target_queue_s: Option<f64>,
    /// Target: round trip less server time.
    pub target_network_s: Option<f64>,
    /// Target: in forward passes, a part of compute.
    pub target_forward_s: Option<f64>,
    /// Target: choosing tokens, a part of compute; the rest is handing messages to the model and back.
    pub target_select_s: Option<f64>,
    /// The coordinator's own.
    pub coordinator_s: Option<f64>,
    /// The whole cycle.
    pub wall_s: Option<f64>,
}

/// Both sides' rooflines.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rooflines {
    /// The draft's; `null` for AR.
    pub draft: Option<Roofline>,
    /// The target's.
    pub target: Option<Roofline>,
}

/// One side's forwards under its roofs, over the cycles of a run. Where the roofs are not known, what needs them is
/// `null`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Roofline {
    /// Floating-point operations of a cycle, mean.
    pub flops_per_cycle: f64,
    /// Bytes of a cycle, mean.
    pub bytes_per_cycle: f64,
    /// FLOP per byte.
    pub intensity_flops_per_byte: f64,
    /// Time in forward passes of a cycle, mean.
    pub forward_s_per_cycle: f64,
    /// FLOP/s in those passes.
    pub achieved_flops_per_s: f64,
    /// Bytes/s in those passes.
    pub achieved_bytes_per_s: f64,
    /// Roof: FLOP/s of matmul in the model's dtype.
    pub roof_flops_per_s: Option<f64>,
    /// Roof: bytes/s at the working set of the model's weights.
    pub roof_bytes_per_s: Option<f64>,
    /// Roof: bytes/s from memory.
    pub roof_memory_bytes_per_s: Option<f64>,
    /// FLOP per byte where the two roofs meet.
    pub ridge_flops_per_byte: Option<f64>,
    /// Achieved over what the roofs allow at this intensity.
    pub utilisation: Option<f64>,
    /// `bandwidth_bound`, `compute_bound`, `ridge` or `dispatch_bound`.
    pub bound: Option<&'static str>,
    /// The way to it, which is a roof of its own.
    pub link: Link,
}

impl Report {
    /// The report of `run`, generated by `pair`.
    pub fn new(run: Run, pair: &Pair, roofs: &PairRoofs) -> Self {
        let drafted = run.is_drafted();
        let drafted_only = |value: Option<f64>| value.filter(|_| drafted);
        let walls: Vec<f64> = run.cycles.iter().map(|cycle| cycle.wall.as_secs_f64()).collect();
        Self {
            phase: if drafted { "decode-speculative" } else { "decode" },
            draft_params: pair.draft.as_ref().filter(|_| drafted).map(|draft| draft.description.parameters),
            target_params: pair.target.description.parameters,
            gamma: run.gamma(),
            gamma_policy: run.policy.policy(),
            prefill_ctx: run.prompt.len(),
            warm_time_s: run.warm.as_secs_f64(),
            tokens_emitted: run.token_ids.len(),
            cycles: run.acceptance.cycles(),
            avg_accepted_per_cycle: drafted_only(run.acceptance.avg_accepted_per_cycle()),
            acceptance_rate: drafted_only(run.acceptance.acceptance_rate()),
            median_cycle_s: median(&walls),
            output_tokens_per_sec: run.output_tokens_per_s(),
            seed: run.sampling.seed,
            sampling: run.sampling.into(),
            coupling: run.coupling,
            windows: run.cycles.iter().map(|cycle| [cycle.gamma, cycle.accepted]).collect(),
            models: Models::of(pair, drafted),
            emulated: Emulated::of(pair, drafted),
            stop_reason: run.stop_reason.as_str(),
            trace_id: run.trace_id.clone(),
            conditional_acceptance: drafted_only(run.acceptance.conditional_acceptance()),
            acceptance_per_position: drafted.then(|| run.acceptance.survival()),
            time_to_first_token_s: run.time_to_first_token.map(|time| time.as_secs_f64()),
            cycle: Breakdowns::over(&run.cycles, drafted),
            anticipation: Anticipated::over(&run.cycles),
            roofline: Rooflines::over(&run.cycles.iter().collect::<Vec<_>>(), roofs),
            synthetic: Synthetic::of(pair),
            text: run.text,
            token_ids: run.token_ids,
            prompt_token_ids: run.prompt,
        }
    }
}

fn coupling<S: Serializer>(coupling: &Coupling, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(coupling.as_str())
}

impl Breakdowns {
    /// Of `cycles`; `null` for the draft where nothing was `drafted`.
    pub(crate) fn over(cycles: &[Cycle], drafted: bool) -> Self {
        Self { mean: Breakdown::over(cycles, drafted, mean), median: Breakdown::over(cycles, drafted, median) }
    }
}

impl Breakdown {
    /// The median of each part.
    pub(crate) fn median_of(all: &[Self]) -> Self {
        let part = |of: fn(&Self) -> Option<f64>| median(&all.iter().filter_map(of).collect::<Vec<_>>());
        Self {
            draft_compute_s: part(|one| one.draft_compute_s),
            draft_queue_s: part(|one| one.draft_queue_s),
            draft_network_s: part(|one| one.draft_network_s),
            draft_forward_s: part(|one| one.draft_forward_s),
            draft_select_s: part(|one| one.draft_select_s),
            target_compute_s: part(|one| one.target_compute_s),
            target_queue_s: part(|one| one.target_queue_s),
            target_network_s: part(|one| one.target_network_s),
            target_forward_s: part(|one| one.target_forward_s),
            target_select_s: part(|one| one.target_select_s),
            coordinator_s: part(|one| one.coordinator_s),
            wall_s: part(|one| one.wall_s),
        }
    }

    fn over(cycles: &[Cycle], drafted: bool, summary: impl Fn(&[f64]) -> Option<f64>) -> Self {
        let part = |of: &dyn Fn(&Cycle) -> f64| summary(&cycles.iter().map(of).collect::<Vec<_>>());
        // A cycle that was not drafted spent nothing on it: counted as 0, so that the means add up.
        let draft = |of: fn(&Leg) -> f64| part(&|cycle| cycle.draft.as_ref().map_or(0.0, of)).filter(|_| drafted);
        let target = |of: fn(&Leg) -> f64| part(&|cycle| of(&cycle.target));
        Self {
            draft_compute_s: draft(|leg| leg.compute.as_secs_f64()),
            draft_queue_s: draft(|leg| leg.queue.as_secs_f64()),
            draft_network_s: draft(|leg| leg.network.as_secs_f64()),
            draft_forward_s: draft(|leg| leg.forward.as_secs_f64()),
            draft_select_s: draft(|leg| leg.select.as_secs_f64()),
            target_compute_s: target(|leg| leg.compute.as_secs_f64()),
            target_queue_s: target(|leg| leg.queue.as_secs_f64()),
            target_network_s: target(|leg| leg.network.as_secs_f64()),
            target_forward_s: target(|leg| leg.forward.as_secs_f64()),
            target_select_s: target(|leg| leg.select.as_secs_f64()),
            coordinator_s: part(&|cycle| cycle.coordinator().as_secs_f64()),
            wall_s: part(&|cycle| cycle.wall.as_secs_f64()),
        }
    }
}

impl Rooflines {
    /// Of `cycles`, whose sides have these roofs.
    pub(crate) fn over(cycles: &[&Cycle], roofs: &PairRoofs) -> Self {
        Self {
            draft: Roofline::over(cycles.iter().filter_map(|cycle| cycle.draft), roofs.draft),
            target: Roofline::over(cycles.iter().map(|cycle| cycle.target), roofs.target),
        }
    }
}

impl Roofline {
    fn over(legs: impl Iterator<Item = Leg>, roofs: Option<Roofs>) -> Option<Self> {
        let legs: Vec<Leg> = legs.filter(|leg| leg.work.flops > 0).collect();
        let link = Link::over(legs.iter().map(|leg| (leg.network.as_secs_f64(), leg.wire_bytes)))?;
        let (mut work, mut seconds, cycles) = (Work::default(), 0.0, legs.len() as f64);
        for leg in legs {
            work += leg.work;
            seconds += leg.forward.as_secs_f64();
        }
        let placement = roofs.map(|roofs| Placement::of(work, seconds, &roofs));
        Some(Self {
            flops_per_cycle: work.flops as f64 / cycles,
            bytes_per_cycle: work.bytes as f64 / cycles,
            intensity_flops_per_byte: work.intensity(),
            forward_s_per_cycle: seconds / cycles,
            achieved_flops_per_s: work.flops as f64 / seconds,
            achieved_bytes_per_s: work.bytes as f64 / seconds,
            roof_flops_per_s: roofs.map(|roofs| roofs.flops_per_s),
            roof_bytes_per_s: roofs.map(|roofs| roofs.bytes_per_s),
            roof_memory_bytes_per_s: roofs.map(|roofs| roofs.memory_bytes_per_s),
            ridge_flops_per_byte: roofs.map(|roofs| roofs.ridge()),
            utilisation: placement.map(|placement| placement.utilisation),
            bound: placement.map(|placement| placement.bound.as_str()),
            link,
        })
    }
}

/// What a service says of itself, for `describe --json`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of DescribeResponse, explained there")]
pub struct ServiceReport {
    pub url: String,
    pub role: String,
    pub protocol_version: u32,
    pub model: String,
    pub model_fingerprint: String,
    pub tokenizer_name: String,
    pub tokenizer_fingerprint: String,
    pub tokenizer_size: u32,
    pub vocab_size: u32,
    pub context_length: u32,
    pub dtype: String,
    pub device: String,
    pub parameters: u64,
    pub weight_bytes: u64,
    pub roofs: Option<RoofsReport>,
    pub limits: LimitsReport,
    pub load: LoadReport,
    pub synthetic: bool,
    pub synthetic_acceptance: Option<f64>,
}

/// A service's roofs.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Roofs, explained there")]
pub struct RoofsReport {
    pub flops_per_s: f64,
    pub bytes_per_s: f64,
    pub memory_bytes_per_s: f64,
}

/// A service's limits.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Limits, explained there")]
pub struct LimitsReport {
    pub max_sessions: u32,
    pub max_prompt_tokens: u32,
    pub max_output_tokens: u32,
    pub max_gamma: u32,
    /// Branches that a session of a draft may have drafted ahead; 0 where it drafts none.
    pub max_branches: u32,
    pub queue_depth: u32,
    pub max_message_bytes: u32,
    pub kv_bytes: u64,
    /// Sessions open or waiting at once from one IP address.
    pub max_sessions_per_peer: u32,
}

/// What a service does now, and has done since it started.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of Load, explained there")]
pub struct LoadReport {
    pub open_sessions: u32,
    pub waiting_sessions: u32,
    pub kv_reserved_bytes: u64,
    pub kv_shared_bytes: u64,
    pub kv_limit_bytes: u64,
    pub forwards: u64,
    /// Time in them.
    pub forward_s: f64,
    pub rows: u64,
    pub flops: u64,
    pub bytes: u64,
    pub cached_tokens: u64,
    pub uncached_tokens: u64,
}

impl From<v1::Load> for LoadReport {
    fn from(load: v1::Load) -> Self {
        Self {
            open_sessions: load.open_sessions,
            waiting_sessions: load.waiting_sessions,
            kv_reserved_bytes: load.kv_reserved_bytes,
            kv_shared_bytes: load.kv_shared_bytes,
            kv_limit_bytes: load.kv_limit_bytes,
            forwards: load.forwards,
            forward_s: load.forward_ns as f64 / 1e9,
            rows: load.rows,
            flops: load.flops,
            bytes: load.bytes,
            cached_tokens: load.cached_tokens,
            uncached_tokens: load.uncached_tokens,
        }
    }
}

impl From<&Service> for ServiceReport {
    fn from(service: &Service) -> Self {
        let description = service.description.clone();
        let limits = description.limits.unwrap_or_default();
        Self {
            url: service.url.clone(),
            role: description.role().as_str_name().trim_start_matches("ROLE_").to_lowercase(),
            protocol_version: description.protocol_version,
            model: description.model,
            model_fingerprint: description.model_fingerprint,
            tokenizer_name: description.tokenizer_name,
            tokenizer_fingerprint: description.tokenizer_fingerprint,
            tokenizer_size: description.tokenizer_size,
            vocab_size: description.vocab_size,
            context_length: description.context_length,
            dtype: description.dtype,
            device: description.device,
            parameters: description.parameters,
            weight_bytes: description.weight_bytes,
            synthetic: description.synthetic,
            synthetic_acceptance: description.synthetic_acceptance,
            load: description.load.unwrap_or_default().into(),
            roofs: description.roofs.map(|roofs| RoofsReport {
                flops_per_s: roofs.flops_per_s,
                bytes_per_s: roofs.bytes_per_s,
                memory_bytes_per_s: roofs.memory_bytes_per_s,
            }),
            limits: LimitsReport {
                max_sessions: limits.max_sessions,
                max_prompt_tokens: limits.max_prompt_tokens,
                max_output_tokens: limits.max_output_tokens,
                max_gamma: limits.max_gamma,
                max_branches: limits.max_branches,
                queue_depth: limits.queue_depth,
                max_message_bytes: limits.max_message_bytes,
                kv_bytes: limits.kv_bytes,
                max_sessions_per_peer: limits.max_sessions_per_peer,
            },
        }
    }
}
