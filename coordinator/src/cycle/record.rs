//! What is kept of cycles and runs.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use speculative::{
    Acceptance, Coupling, Logprobs, Sampling, TokenId,
    policy::{Drafted, Gamma, Observed},
    roofline::{Placement, Roofs, Work},
};
use telemetry::{
    Span,
    names::{convention, event, roofline, spec},
};

use super::Request;
use crate::{
    Pair, PairRoofs,
    link::{Anticipation, AnticipationOutcome},
};

/// One side's part of a cycle, split so that `compute + queue + network` is its round trip.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leg {
    /// Server time less queue.
    pub compute: Duration,
    /// Waiting for the model.
    pub queue: Duration,
    /// Round trip less server time.
    pub network: Duration,
    /// In forward passes; a part of `compute`.
    pub forward: Duration,
    /// Choosing tokens; a part of `compute`.
    pub select: Duration,
    /// Counted work of the forward passes.
    pub work: Work,
    /// Bytes of the messages, both ways, as protobuf.
    pub wire_bytes: u64,
    /// Rows of other sessions in the forward passes.
    pub others_rows: u64,
    /// Rows of the pass of other sessions that it waited for.
    pub behind_rows: u64,
}

impl Leg {
    /// A wait since `sent` that brought nothing: the network's, as far as the coordinator can tell.
    pub(crate) fn waited(sent: Instant) -> Self {
        Self { network: sent.elapsed(), ..Self::default() }
    }

    /// Where its forward passes stand under `roofs`.
    pub fn placement(&self, roofs: Option<Roofs>) -> Option<Placement> {
        let roofs = roofs.filter(|_| !self.forward.is_zero())?;
        Some(Placement::of(self.work, self.forward.as_secs_f64(), &roofs))
    }

    /// The whole round trip.
    pub fn round_trip(&self) -> Duration {
        self.compute + self.queue + self.network
    }
}

/// The parts of a cycle, which add up to its wall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Part {
    /// Drafting.
    DraftCompute,
    /// Waiting for the draft's model.
    DraftQueue,
    /// On the way to the draft and back.
    DraftNetwork,
    /// Verifying.
    TargetCompute,
    /// Waiting for the target's model.
    TargetQueue,
    /// On the way to the target and back.
    TargetNetwork,
    /// The coordinator's own.
    Coordinator,
}

impl Part {
    /// All of them, in the order of the protocol.
    pub const ALL: [Self; 7] = [
        Self::DraftCompute,
        Self::DraftQueue,
        Self::DraftNetwork,
        Self::TargetCompute,
        Self::TargetQueue,
        Self::TargetNetwork,
        Self::Coordinator,
    ];

    /// As metrics and JSON spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DraftCompute => "draft_compute",
            Self::DraftQueue => "draft_queue",
            Self::DraftNetwork => "draft_network",
            Self::TargetCompute => "target_compute",
            Self::TargetQueue => "target_queue",
            Self::TargetNetwork => "target_network",
            Self::Coordinator => "coordinator",
        }
    }
}

impl From<Part> for &'static str {
    fn from(part: Part) -> Self {
        part.as_str()
    }
}

/// One cycle.
#[derive(Debug)]
pub struct Cycle {
    /// From 1.
    pub number: u64,
    /// Tokens that were wanted of the draft.
    pub wanted: usize,
    /// Sessions that chose it together, by what the cycles before had shown; 0 where it was fixed.
    pub sessions: usize,
    /// Tokens that were proposed.
    pub gamma: usize,
    /// Tokens that were accepted.
    pub accepted: usize,
    /// The draft's part; `None` where it was not asked.
    pub draft: Option<Leg>,
    /// What became of what was drafted ahead; `None` where nothing could be.
    pub anticipation: Option<Anticipation>,
    /// What that saved of the wait for a proposal, as proposals have taken so far.
    pub saved: Duration,
    /// The target's part.
    pub target: Leg,
    /// The whole cycle.
    pub wall: Duration,
    /// When it began.
    pub begun: Instant,
    pub(super) span: Span,
}

impl Cycle {
    pub(super) fn begin(number: u64, mut span: Span) -> Self {
        span.set(spec::CYCLE, number as i64);
        Self {
            number,
            wanted: 0,
            sessions: 0,
            gamma: 0,
            accepted: 0,
            draft: None,
            anticipation: None,
            saved: Duration::ZERO,
            target: Leg::default(),
            wall: Duration::ZERO,
            span,
            begun: Instant::now(),
        }
    }

    /// Whether the draft was asked in vain: it was away or late. One that answers that it is too unsure was not.
    pub fn lacks_draft(&self) -> bool {
        self.wanted > 0 && self.gamma == 0 && self.draft.is_none_or(|leg| leg.compute.is_zero())
    }

    /// How long a part took.
    pub fn part(&self, part: Part) -> Duration {
        let draft = self.draft.unwrap_or_default();
        match part {
            Part::DraftCompute => draft.compute,
            Part::DraftQueue => draft.queue,
            Part::DraftNetwork => draft.network,
            Part::TargetCompute => self.target.compute,
            Part::TargetQueue => self.target.queue,
            Part::TargetNetwork => self.target.network,
            Part::Coordinator => self.coordinator(),
        }
    }

    /// When it ended.
    pub fn ended(&self) -> Instant {
        self.begun + self.wall
    }

    /// What of the wall is neither side's round trip: the coordinator's own.
    pub fn coordinator(&self) -> Duration {
        let legs = self.draft.as_ref().map_or(Duration::ZERO, Leg::round_trip) + self.target.round_trip();
        self.wall.saturating_sub(legs)
    }

    /// What it shows of the times to come, after the session's cycle `before`. Where something is drafted `ahead`, it was not for
    /// this cycle if that one had asked for nothing.
    pub(super) fn observed(&self, before: Option<&Self>, ahead: bool) -> Observed {
        let drafted = |leg: Leg| Drafted {
            compute_s: leg.compute.as_secs_f64(),
            around_s: (leg.network + leg.queue).as_secs_f64(),
        };
        // A late hit tells nothing of what the draft takes.
        let answered = self.draft.filter(|leg| !leg.compute.is_zero());
        let has_changed = before.is_none_or(|before| before.wanted != self.wanted);
        let ended_early = self.gamma < self.wanted
            && match self.anticipation.map(|anticipation| anticipation.outcome) {
                // It may have been drafted when fewer were wanted.
                Some(AnticipationOutcome::Hit | AnticipationOutcome::LateHit) => !has_changed,
                _ => answered.is_some(),
            };
        let waited = self.draft.filter(|_| self.gamma > 0 || ended_early);
        Observed {
            sessions: self.sessions,
            wanted: self.wanted,
            gamma: self.gamma,
            ended_early,
            accepted: self.accepted,
            draft: answered.filter(|_| self.gamma > 0).map(drafted),
            waited_s: waited.map_or(0.0, |leg| leg.round_trip().as_secs_f64()),
            is_cold: ahead && before.is_none_or(|before| before.wanted == 0),
            has_changed,
            verdict_s: (self.target.round_trip() + self.coordinator()).as_secs_f64(),
        }
    }

    /// Ends the cycle.
    pub(super) fn end(&mut self, gamma: usize, accepted: usize) {
        (self.gamma, self.accepted) = (gamma, accepted);
        self.wall = self.begun.elapsed();
    }

    /// Gives its span, which tells all there is to tell of the cycle.
    pub(super) fn tell(&mut self, base_len: usize, roofs: &PairRoofs) -> Span {
        let mut span = std::mem::replace(&mut self.span, Span::off());
        if span.is_recording() {
            span.event(event::COMMIT, [(spec::TOKENS, (self.accepted as i64 + 1).into())]);
            self.describe(&mut span, base_len, roofs);
        }
        span
    }

    fn describe(&self, span: &mut Span, base_len: usize, roofs: &PairRoofs) {
        let ns = |duration: Duration| duration.as_nanos() as i64;
        span.set(spec::GAMMA, self.gamma as i64);
        span.set(spec::ACCEPTED, self.accepted as i64);
        span.set(spec::BASE_LEN, base_len as i64);
        if let Some(anticipation) = self.anticipation {
            span.set(spec::ANTICIPATION, anticipation.outcome.as_str());
            span.set(spec::ANTICIPATED_ROWS, anticipation.rows as i64);
            span.set(spec::SAVED_NS, ns(self.saved));
        }
        if let Some(draft) = &self.draft {
            span.set(spec::DRAFT_COMPUTE_NS, ns(draft.compute));
            span.set(spec::DRAFT_QUEUE_NS, ns(draft.queue));
            span.set(spec::DRAFT_NETWORK_NS, ns(draft.network));
            span.set(spec::DRAFT_FORWARD_NS, ns(draft.forward));
            span.set(spec::DRAFT_SELECT_NS, ns(draft.select));
            span.set(spec::DRAFT_WIRE_BYTES, draft.wire_bytes as i64);
            span.set(spec::DRAFT_OTHERS_ROWS, draft.others_rows as i64);
            span.set(spec::DRAFT_BEHIND_ROWS, draft.behind_rows as i64);
            span.set(roofline::DRAFT_FLOPS, draft.work.flops as i64);
            span.set(roofline::DRAFT_BYTES, draft.work.bytes as i64);
            span.set(roofline::DRAFT_INTENSITY, draft.work.intensity());
            if let Some(placement) = draft.placement(roofs.draft) {
                span.set(roofline::DRAFT_UTILISATION, placement.utilisation);
                span.set(roofline::DRAFT_BOUND, placement.bound.as_str());
            }
        }
        span.set(spec::TARGET_COMPUTE_NS, ns(self.target.compute));
        span.set(spec::TARGET_QUEUE_NS, ns(self.target.queue));
        span.set(spec::TARGET_NETWORK_NS, ns(self.target.network));
        span.set(spec::TARGET_FORWARD_NS, ns(self.target.forward));
        span.set(spec::TARGET_SELECT_NS, ns(self.target.select));
        span.set(spec::TARGET_WIRE_BYTES, self.target.wire_bytes as i64);
        span.set(spec::TARGET_OTHERS_ROWS, self.target.others_rows as i64);
        span.set(spec::TARGET_BEHIND_ROWS, self.target.behind_rows as i64);
        span.set(roofline::TARGET_FLOPS, self.target.work.flops as i64);
        span.set(roofline::TARGET_BYTES, self.target.work.bytes as i64);
        span.set(roofline::TARGET_INTENSITY, self.target.work.intensity());
        if let Some(placement) = self.target.placement(roofs.target) {
            span.set(roofline::TARGET_UTILISATION, placement.utilisation);
            span.set(roofline::TARGET_BOUND, placement.bound.as_str());
        }
        span.set(spec::COORDINATOR_NS, ns(self.coordinator()));
        span.set(spec::WALL_NS, ns(self.wall));
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A stop string.
    Stop,
    /// One of the tokenizer's end tokens.
    Eos,
    /// All tokens that were wanted, or a full context.
    Length,
    /// The client's wish.
    Cancelled,
}

impl StopReason {
    /// As reports and spans spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Eos => "eos",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A finished run.
#[derive(Debug)]
pub struct Run {
    /// Proposed tokens of a cycle, as asked for.
    pub policy: Gamma,
    /// The prompt's tokens.
    pub prompt: Vec<TokenId>,
    /// How tokens were chosen, the seed included.
    pub sampling: Sampling,
    /// How the draws of draft and target depended on each other.
    pub coupling: Coupling,
    /// The text, which ends before a stop string or an end token.
    pub text: String,
    /// The emitted tokens, the one that completed a stop string or ended the text included.
    pub token_ids: Vec<TokenId>,
    /// Of each of them, where the request asks for them.
    pub logprobs: Vec<Logprobs>,
    /// Whether one arithmetic made all of it; false only where another was allowed to go on.
    pub exact: bool,
    /// Why it ended.
    pub stop_reason: StopReason,
    /// The trace, where one was exported.
    pub trace_id: Option<String>,
    /// From opening the sessions until both had prefilled.
    pub warm: Duration,
    /// From the request until its first token; `None` where it was cancelled before.
    pub time_to_first_token: Option<Duration>,
    /// Tokens of the prompt that the target had in its cache already, because another prompt began alike.
    pub cached_tokens: usize,
    /// All whole cycles.
    pub cycles: Vec<Cycle>,
    /// What they add up to.
    pub acceptance: Acceptance,
    /// How often the target was lost and another went on.
    pub failovers: u64,
}

impl Run {
    /// Whether a draft was to propose.
    pub fn is_drafted(&self) -> bool {
        !self.policy.is_ar()
    }

    /// The γ that was asked for, and where each cycle chose its own the median of those.
    pub fn gamma(&self) -> usize {
        let Gamma::Auto = self.policy else { return self.policy.most() };
        let mut gammas: Vec<usize> = self.cycles.iter().map(|cycle| cycle.wanted).collect();
        gammas.sort_unstable();
        gammas.get(gammas.len() / 2).copied().unwrap_or(0)
    }

    /// The most that a cycle proposed, or was to.
    pub fn most_gamma(&self) -> usize {
        // A branch may be longer than what its cycle would have asked for.
        let wanted = self.cycles.iter().map(|cycle| cycle.wanted.max(cycle.gamma)).max().unwrap_or(0);
        if self.policy == Gamma::Auto { wanted } else { wanted.max(self.policy.most()) }
    }

    /// Tokens after the first over the sum of the cycles' wall; `None` without a whole cycle.
    pub fn output_tokens_per_s(&self) -> Option<f64> {
        self.rate(self.cycles.iter().map(|cycle| cycle.wall).sum())
    }

    /// The same with network and coordinator taken out; of an AR run, what the target alone would give.
    pub fn output_tokens_per_s_at_target(&self) -> Option<f64> {
        self.rate(self.cycles.iter().map(|cycle| cycle.target.compute + cycle.target.queue).sum())
    }

    fn rate(&self, time: Duration) -> Option<f64> {
        (!time.is_zero()).then(|| (self.token_ids.len() - 1) as f64 / time.as_secs_f64())
    }
}

/// The prompt and the output, as the GenAI conventions have it for those who opt in.
pub(super) fn record_content(span: &mut Span, request: &Request, pair: &Pair, output: &str, reason: StopReason) {
    let mut decoder = pair.tokenizer.decoder();
    let mut prompt: String = request.prompt.iter().map(|&token| decoder.push(token)).collect();
    prompt += &decoder.finish();
    let parts = |text: &str| json!([{ "type": "text", "content": text }]);
    let input = json!([{ "role": "user", "parts": parts(&prompt) }]);
    let output = json!([{ "role": "assistant", "parts": parts(output), "finish_reason": reason.as_str() }]);
    span.set(convention::INPUT_MESSAGES, input.to_string());
    span.set(convention::OUTPUT_MESSAGES, output.to_string());
}

/// OpenTelemetry's GenAI attributes of a request.
pub(super) fn describe_request(span: &mut Span, request: &Request, pair: &Pair, roofs: &PairRoofs) {
    span.set(convention::OPERATION_NAME, "text_completion");
    span.set(convention::PROVIDER_NAME, "outrider");
    span.set(convention::REQUEST_MODEL, pair.target.description.model.clone());
    span.set(convention::REQUEST_MAX_TOKENS, request.max_tokens as i64);
    span.set(convention::REQUEST_TEMPERATURE, request.sampling.temperature);
    span.set(convention::REQUEST_TOP_P, request.sampling.top_p);
    span.set(convention::REQUEST_TOP_K, i64::from(request.sampling.top_k));
    let penalties = request.sampling.penalties;
    if !penalties.are_off() {
        span.set(convention::REQUEST_PRESENCE_PENALTY, penalties.presence);
        span.set(convention::REQUEST_FREQUENCY_PENALTY, penalties.frequency);
        span.set(spec::REPETITION_PENALTY, penalties.repetition);
    }
    span.set(convention::REQUEST_SEED, request.sampling.seed as i64);
    span.set(convention::USAGE_INPUT_TOKENS, request.prompt.len() as i64);
    span.set(spec::GAMMA, request.gamma.most().min(pair.most_gamma()) as i64);
    span.set(spec::GAMMA_POLICY, request.gamma.policy());
    let keys = [roofline::DRAFT_ROOF_FLOPS, roofline::DRAFT_ROOF_BYTES, roofline::DRAFT_ROOF_MEMORY];
    describe_roofs(span, keys, roofs.draft.filter(|_| !request.gamma.is_ar()));
    let keys = [roofline::TARGET_ROOF_FLOPS, roofline::TARGET_ROOF_BYTES, roofline::TARGET_ROOF_MEMORY];
    describe_roofs(span, keys, roofs.target);
}

fn describe_roofs(span: &mut Span, [flops, bytes, memory]: [&'static str; 3], roofs: Option<Roofs>) {
    if let Some(roofs) = roofs {
        span.set(flops, roofs.flops_per_s);
        span.set(bytes, roofs.bytes_per_s);
        span.set(memory, roofs.memory_bytes_per_s);
    }
}
