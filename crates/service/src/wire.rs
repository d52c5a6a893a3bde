//! From the wire's words to the model's and back.

use std::time::Duration;

use model::{BranchCost, Cost, Error, Open, OpenError, Reason, Refusal};
use proto::v1;
use speculative::{Coupling, DraftDistribution, Logprobs, Penalties, Sampling};
use telemetry::TraceParent;
use tonic::Status;

/// The model's words for an `Open`.
///
/// # Errors
/// `INVALID_ARGUMENT` where a message inside it is missing, or its coupling is none that is known.
pub fn open(open: v1::Open) -> Result<(Open, Option<TraceParent>), Status> {
    let sampling = open.sampling.ok_or_else(|| Status::invalid_argument("sampling is missing from open"))?;
    let sampling = Sampling {
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p.unwrap_or(1.0),
        min_p: sampling.min_p,
        seed: sampling.seed,
        penalties: Penalties {
            presence: sampling.presence_penalty,
            frequency: sampling.frequency_penalty,
            repetition: sampling.repetition_penalty.unwrap_or(1.0),
        },
    };
    let (prompt_len, max_tokens) = (open.prompt_len as usize, open.max_tokens as usize);
    let top_logprobs = open.top_logprobs.map(|top| top as usize);
    let branches = open.branches as usize;
    let coupling = match v1::Coupling::try_from(open.coupling) {
        Ok(v1::Coupling::Unspecified | v1::Coupling::Gumbel) => Coupling::Gumbel,
        Ok(v1::Coupling::Rejection) => Coupling::Rejection,
        Err(_) => {
            return Err(Status::invalid_argument(format!("coupling is {}, allowed: 0 to 2", open.coupling)));
        }
    };
    let opened = Open { tokens: open.tokens, prompt_len, sampling, max_tokens, top_logprobs, branches, coupling };
    Ok((opened, open.trace.map(trace_parent)))
}

/// The telemetry's words for a `TraceContext`.
pub fn trace_parent(trace: v1::TraceContext) -> TraceParent {
    TraceParent { traceparent: trace.traceparent, tracestate: trace.tracestate }
}

/// A model's cost on the wire, of a message that was at the service for so long.
pub fn cost(cost: &Cost, server: Duration) -> v1::Cost {
    let sum = |of: fn(&model::Pass) -> u64| cost.passes.iter().map(of).sum::<u64>();
    v1::Cost {
        queue_ns: cost.queue.as_nanos() as u64,
        forward_ns: cost.forward.as_nanos() as u64,
        select_ns: cost.select.as_nanos() as u64,
        server_ns: server.as_nanos() as u64,
        rows: sum(|pass| pass.rows as u64) as u32,
        batch_rows: sum(|pass| pass.batch_rows as u64) as u32,
        flops: sum(|pass| pass.work.flops),
        bytes: sum(|pass| pass.work.bytes),
        cached: cost.cached as u32,
        behind_rows: cost.behind_rows as u32,
    }
}

/// What a proposed token was sampled from, on the wire.
pub fn distribution(DraftDistribution { tokens, probabilities }: DraftDistribution) -> v1::DraftDistribution {
    v1::DraftDistribution { tokens, probabilities }
}

/// The model's words for it.
pub fn drafted(v1::DraftDistribution { tokens, probabilities }: v1::DraftDistribution) -> DraftDistribution {
    DraftDistribution { tokens, probabilities }
}

/// Log-probabilities on the wire.
pub fn logprobs(logprobs: Logprobs) -> v1::TokenLogprobs {
    let (top_tokens, top_logprobs) = logprobs.top.into_iter().unzip();
    v1::TokenLogprobs { logprob: logprobs.chosen, top_tokens, top_logprobs }
}

/// A refusal on the wire.
pub fn rejected(cycle: u64, refusal: Refusal) -> v1::Rejected {
    let reason = match refusal.reason {
        Reason::BaseLen => v1::RejectionReason::BaseLen,
        Reason::Gamma => v1::RejectionReason::Gamma,
        Reason::Token => v1::RejectionReason::Token,
        Reason::Context => v1::RejectionReason::Context,
        Reason::Output => v1::RejectionReason::Output,
        Reason::Distribution => v1::RejectionReason::Distribution,
    };
    v1::Rejected { cycle, reason: reason.into(), base_len: refusal.base_len as u32, detail: refusal.detail }
}

/// What branches cost that were drafted together.
pub fn branch_cost(cost: &BranchCost) -> v1::Cost {
    v1::Cost {
        forward_ns: cost.forward.as_nanos() as u64,
        server_ns: cost.server.as_nanos() as u64,
        rows: cost.rows as u32,
        batch_rows: cost.batch_rows as u32,
        ..v1::Cost::default()
    }
}

/// The status that ends a stream whose session did not open.
pub fn open_status(error: &OpenError) -> Status {
    let message = error.to_string();
    match error {
        OpenError::Field { .. } | OpenError::Sampling(_) => Status::invalid_argument(message),
        OpenError::Sessions { .. } | OpenError::Memory { .. } => Status::resource_exhausted(message),
        OpenError::Failed(failure) => failure_status(failure),
    }
}

/// The status that ends a stream whose model failed.
pub fn failure_status(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        Error::Stopped | Error::Device(_) => Status::unavailable(message),
        Error::CacheLost { .. }
        | Error::ForeignCache { .. }
        | Error::LogitsFrom { .. }
        | Error::Overflow { .. }
        | Error::Token { .. } => Status::internal(message),
    }
}
