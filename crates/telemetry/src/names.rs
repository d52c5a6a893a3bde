//! Names of spans and attributes: OpenTelemetry's where a convention exists, `outrider.*` for what none names.

pub mod metric;

/// Values of `service.name`.
pub mod service {
    /// The coordinator.
    pub const COORDINATOR: &str = "outrider-coordinator";
    /// The draft service.
    pub const DRAFT: &str = "outrider-draft";
    /// The target service.
    pub const TARGET: &str = "outrider-target";
}

/// Names of spans.
pub mod span {
    /// One request, from prompt to last token; the root.
    pub const GENERATE: &str = "generate";
    /// Opening both sessions; in the services, the prefill of one.
    pub const PREFILL: &str = "prefill";
    /// An attempt to have another replica of the target take over, or the same one started anew.
    pub const FAILOVER: &str = "failover";
    /// One cycle.
    pub const CYCLE: &str = "cycle";
    /// The draft's part of a cycle, message in to message out.
    pub const PROPOSE: &str = "propose";
    /// The target's part of a cycle, message in to message out.
    pub const VERIFY: &str = "verify";
    /// Waiting for the model's thread.
    pub const QUEUE: &str = "queue";
    /// One forward pass.
    pub const FORWARD: &str = "forward";
    /// Drafting ahead: branches that grew together, while their cycle's proposal was verified or after it.
    pub const ANTICIPATE: &str = "anticipate";
}

/// Attributes of OpenTelemetry's GenAI (status: development) and RPC (status: stable) conventions.
pub mod convention {
    /// `text_completion`.
    pub const OPERATION_NAME: &str = "gen_ai.operation.name";
    /// `outrider`.
    pub const PROVIDER_NAME: &str = "gen_ai.provider.name";
    /// The target model's name.
    pub const REQUEST_MODEL: &str = "gen_ai.request.model";
    /// Tokens asked for.
    pub const REQUEST_MAX_TOKENS: &str = "gen_ai.request.max_tokens";
    /// Temperature asked for.
    pub const REQUEST_TEMPERATURE: &str = "gen_ai.request.temperature";
    /// Top-k asked for.
    pub const REQUEST_TOP_K: &str = "gen_ai.request.top_k";
    /// Top-p asked for.
    pub const REQUEST_TOP_P: &str = "gen_ai.request.top_p";
    /// Presence penalty asked for.
    pub const REQUEST_PRESENCE_PENALTY: &str = "gen_ai.request.presence_penalty";
    /// Frequency penalty asked for.
    pub const REQUEST_FREQUENCY_PENALTY: &str = "gen_ai.request.frequency_penalty";
    /// The seed.
    pub const REQUEST_SEED: &str = "gen_ai.request.seed";
    /// The prompt, for those who opt in.
    pub const INPUT_MESSAGES: &str = "gen_ai.input.messages";
    /// What was generated, for those who opt in.
    pub const OUTPUT_MESSAGES: &str = "gen_ai.output.messages";
    /// Why generation stopped.
    pub const RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
    /// Prompt tokens.
    pub const USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
    /// Tokens emitted.
    pub const USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";
    /// Why something failed, as a code.
    pub const ERROR_TYPE: &str = "error.type";
    /// `grpc`.
    pub const RPC_SYSTEM: &str = "rpc.system.name";
    /// Service and method of the stream that carried the message.
    pub const RPC_METHOD: &str = "rpc.method";
}

/// Names of events: what happened within a span.
pub mod event {
    /// The verdict's tokens are final.
    pub const COMMIT: &str = "commit";
    /// What was certain of the text has gone to the client, which has taken it.
    pub const EMIT: &str = "emit";
    /// The draft missed its deadline; the cycle goes on without a proposal.
    pub const DRAFT_LATE: &str = "draft.late";
    /// The draft's stream is lost; it is opened again later.
    pub const DRAFT_LOST: &str = "draft.lost";
    /// The draft's stream is open again.
    pub const DRAFT_BACK: &str = "draft.back";
    /// The target is lost; another replica is looked for.
    pub const TARGET_LOST: &str = "target.lost";
}

/// Attributes of a cycle and of its parts.
pub mod spec {
    /// Number of the cycle, from 1.
    pub const CYCLE: &str = "outrider.spec.cycle";
    /// Tokens proposed.
    pub const GAMMA: &str = "outrider.spec.gamma";
    /// How γ is chosen: fixed or auto. With auto the γ of the request is the most that a cycle may propose.
    pub const GAMMA_POLICY: &str = "outrider.spec.gamma_policy";
    /// What became of what the draft had drafted ahead for the verdict before: hit, late_hit or miss.
    pub const ANTICIPATION: &str = "outrider.spec.anticipation";
    /// Rows that the draft forwarded for the branches that have come since the cycle before.
    pub const ANTICIPATED_ROWS: &str = "outrider.spec.anticipated_rows";
    /// What a branch saved of the wait for a proposal, as proposals have taken so far.
    pub const SAVED_NS: &str = "outrider.spec.saved_ns";
    /// Tokens accepted.
    pub const ACCEPTED: &str = "outrider.spec.accepted";
    /// Cycles of a request.
    pub const CYCLES: &str = "outrider.spec.cycles";
    /// Tokens proposed in all cycles of a request.
    pub const PROPOSED_TOKENS: &str = "outrider.spec.proposed_tokens";
    /// Tokens accepted in all cycles of a request.
    pub const ACCEPTED_TOKENS: &str = "outrider.spec.accepted_tokens";
    /// Tokens of a commit or of what was emitted.
    pub const TOKENS: &str = "outrider.spec.tokens";
    /// How long an answer was waited for, ns.
    pub const DEADLINE_NS: &str = "outrider.spec.deadline_ns";
    /// Committed tokens after the cycle.
    pub const BASE_LEN: &str = "outrider.spec.base_len";
    /// Repetition penalty asked for.
    pub const REPETITION_PENALTY: &str = "outrider.spec.repetition_penalty";
    /// Number of an attempt to go on with another replica, from 1.
    pub const ATTEMPT: &str = "outrider.spec.attempt";
    /// Whether a target with another arithmetic has gone on with the request.
    pub const INEXACT: &str = "outrider.spec.inexact";
    /// Why a message was refused.
    pub const REJECTED: &str = "outrider.spec.rejected";
    /// Whether the draft missed its deadline or was away.
    pub const DRAFT_ABSENT: &str = "outrider.spec.draft_absent";
    /// Draft: server time less queue, ns.
    pub const DRAFT_COMPUTE_NS: &str = "outrider.spec.draft_compute_ns";
    /// Draft: waiting for the model, ns.
    pub const DRAFT_QUEUE_NS: &str = "outrider.spec.draft_queue_ns";
    /// Draft: round trip less server time, ns.
    pub const DRAFT_NETWORK_NS: &str = "outrider.spec.draft_network_ns";
    /// Draft: in forward passes, a part of compute, ns.
    pub const DRAFT_FORWARD_NS: &str = "outrider.spec.draft_forward_ns";
    /// Draft: choosing tokens, a part of compute, ns. What is left of compute is handing messages to the model and back.
    pub const DRAFT_SELECT_NS: &str = "outrider.spec.draft_select_ns";
    /// Draft: bytes of its messages, both ways.
    pub const DRAFT_WIRE_BYTES: &str = "outrider.spec.draft_wire_bytes";
    /// Draft: rows of other sessions in its forward passes.
    pub const DRAFT_OTHERS_ROWS: &str = "outrider.spec.draft_others_rows";
    /// Draft: rows of other sessions' pass that was under way when it was asked, and had to be waited for.
    pub const DRAFT_BEHIND_ROWS: &str = "outrider.spec.draft_behind_rows";
    /// Target: server time less queue, ns.
    pub const TARGET_COMPUTE_NS: &str = "outrider.spec.target_compute_ns";
    /// Target: waiting for the model, ns.
    pub const TARGET_QUEUE_NS: &str = "outrider.spec.target_queue_ns";
    /// Target: round trip less server time, ns.
    pub const TARGET_NETWORK_NS: &str = "outrider.spec.target_network_ns";
    /// Target: in forward passes, a part of compute, ns.
    pub const TARGET_FORWARD_NS: &str = "outrider.spec.target_forward_ns";
    /// Target: choosing tokens, a part of compute, ns. What is left of compute is handing messages to the model and back.
    pub const TARGET_SELECT_NS: &str = "outrider.spec.target_select_ns";
    /// Target: bytes of its messages, both ways.
    pub const TARGET_WIRE_BYTES: &str = "outrider.spec.target_wire_bytes";
    /// Target: rows of other sessions in its forward passes.
    pub const TARGET_OTHERS_ROWS: &str = "outrider.spec.target_others_rows";
    /// Target: rows of other sessions' pass that was under way when it was asked, and had to be waited for.
    pub const TARGET_BEHIND_ROWS: &str = "outrider.spec.target_behind_rows";
    /// The coordinator's own time, ns.
    pub const COORDINATOR_NS: &str = "outrider.spec.coordinator_ns";
    /// The whole cycle, ns.
    pub const WALL_NS: &str = "outrider.spec.wall_ns";
    /// Rows that this session had in the forward.
    pub const ROWS: &str = "outrider.spec.rows";
    /// Rows of the forward's whole batch.
    pub const BATCH_ROWS: &str = "outrider.spec.batch_rows";
    /// Rows of other sessions' pass that was under way when this one began to wait.
    pub const BEHIND_ROWS: &str = "outrider.spec.behind_rows";
    /// The session's share of the forward, by rows.
    pub const SHARE: &str = "outrider.spec.share";
    /// Number of the forward on its service; equal where sessions shared it.
    pub const FORWARD_ID: &str = "outrider.spec.forward_id";
}

/// Attributes of the roofline.
pub mod roofline {
    /// Draft: floating-point operations.
    pub const DRAFT_FLOPS: &str = "outrider.roofline.draft.flops";
    /// Draft: bytes read and written.
    pub const DRAFT_BYTES: &str = "outrider.roofline.draft.bytes";
    /// Draft: FLOP per byte.
    pub const DRAFT_INTENSITY: &str = "outrider.roofline.draft.intensity";
    /// Draft: achieved over what its roofs allow at this intensity, in its forward passes.
    pub const DRAFT_UTILISATION: &str = "outrider.roofline.draft.utilisation";
    /// Draft: what limits it.
    pub const DRAFT_BOUND: &str = "outrider.roofline.draft.bound";
    /// Target: floating-point operations.
    pub const TARGET_FLOPS: &str = "outrider.roofline.target.flops";
    /// Target: bytes read and written.
    pub const TARGET_BYTES: &str = "outrider.roofline.target.bytes";
    /// Target: FLOP per byte.
    pub const TARGET_INTENSITY: &str = "outrider.roofline.target.intensity";
    /// Target: achieved over what its roofs allow at this intensity, in its forward passes.
    pub const TARGET_UTILISATION: &str = "outrider.roofline.target.utilisation";
    /// Target: what limits it.
    pub const TARGET_BOUND: &str = "outrider.roofline.target.bound";
    /// Draft: roof of matmul in its model's dtype, FLOP/s.
    pub const DRAFT_ROOF_FLOPS: &str = "outrider.roofline.draft.roof_flops_per_second";
    /// Draft: roof of reading at the working set of its weights, B/s.
    pub const DRAFT_ROOF_BYTES: &str = "outrider.roofline.draft.roof_bytes_per_second";
    /// Draft: roof of reading from memory, B/s.
    pub const DRAFT_ROOF_MEMORY: &str = "outrider.roofline.draft.roof_memory_bytes_per_second";
    /// Target: roof of matmul in its model's dtype, FLOP/s.
    pub const TARGET_ROOF_FLOPS: &str = "outrider.roofline.target.roof_flops_per_second";
    /// Target: roof of reading at the working set of its weights, B/s.
    pub const TARGET_ROOF_BYTES: &str = "outrider.roofline.target.roof_bytes_per_second";
    /// Target: roof of reading from memory, B/s.
    pub const TARGET_ROOF_MEMORY: &str = "outrider.roofline.target.roof_memory_bytes_per_second";
    /// One forward: floating-point operations.
    pub const FLOPS: &str = "outrider.roofline.flops";
    /// One forward: bytes read and written.
    pub const BYTES: &str = "outrider.roofline.bytes";
    /// One forward: FLOP per byte.
    pub const INTENSITY: &str = "outrider.roofline.intensity";
    /// One forward: achieved over what the roofs allow at this intensity.
    pub const UTILISATION: &str = "outrider.roofline.utilisation";
    /// One forward: `bandwidth_bound`, `compute_bound`, `ridge` or `dispatch_bound`.
    pub const BOUND: &str = "outrider.roofline.bound";
}
