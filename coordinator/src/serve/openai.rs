//! What goes over the wire, with OpenAI's names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::Response,
};
use serde::Serialize;
use speculative::Acceptance;
use tokenizer::Tokenizer;

use super::{
    logprobs::{ChoiceLogprobs, Scribe},
    parse::Endpoint,
};
use crate::{Pair, Run, StopReason, report::Breakdowns};

/// A response of JSON.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("strings and numbers are JSON");
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The error object.
#[derive(Debug, Serialize)]
pub(super) struct Error {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl Error {
    pub(super) fn new(message: String, kind: &'static str, param: Option<String>, code: Option<&'static str>) -> Self {
        Self { error: ErrorBody { message, r#type: kind, param, code } }
    }
}

/// What all answers to one request have in common.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) endpoint: Endpoint,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) system_fingerprint: String,
}

impl Head {
    pub(super) fn new(endpoint: Endpoint, id: u64, pair: &Pair) -> Self {
        let target = &pair.target.description;
        let prefix = match endpoint {
            Endpoint::Completions => "cmpl",
            Endpoint::Chat => "chatcmpl",
        };
        Self {
            endpoint,
            id: format!("{prefix}-{id:016x}"),
            created: now(),
            model: target.model.clone(),
            system_fingerprint: target.model_fingerprint.clone(),
        }
    }

    /// An answer, or a chunk of one.
    pub(super) fn answer(&self, streamed: bool, choices: Vec<Choice>) -> Answer<'_> {
        let object = match (self.endpoint, streamed) {
            (Endpoint::Completions, _) => "text_completion",
            (Endpoint::Chat, false) => "chat.completion",
            (Endpoint::Chat, true) => "chat.completion.chunk",
        };
        let Self { id, created, model, system_fingerprint, .. } = self;
        Answer { id, object, created: *created, model, system_fingerprint, choices, usage: None, metrics: None }
    }
}

/// An answer, or a chunk of one.
#[derive(Debug, Serialize)]
pub(super) struct Answer<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    system_fingerprint: &'a str,
    choices: Vec<Choice>,
    /// The outer one is whether there is a field, the inner one whether it is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<Metrics>,
}

/// One of the answer's alternatives.
#[derive(Debug, Default, Serialize)]
pub(super) struct Choice {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Message>,
    logprobs: Option<ChoiceLogprobs>,
    finish_reason: Option<&'static str>,
    /// The seed that gives this choice again.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
}

/// What the assistant said, or the next piece of it.
#[derive(Debug, Default, Serialize)]
struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl Choice {
    /// A choice as a whole.
    pub(super) fn whole(endpoint: Endpoint, index: usize, run: &Run, tokenizer: &Tokenizer) -> Self {
        let text = run.text.clone();
        let logprobs = Scribe::new(endpoint, tokenizer).spell(&run.token_ids, &run.logprobs);
        let choice = Self { logprobs, ..Self::ended(index, run) };
        match endpoint {
            Endpoint::Completions => Self { text: Some(text), ..choice },
            Endpoint::Chat => {
                Self { message: Some(Message { role: Some("assistant"), content: Some(text) }), ..choice }
            }
        }
    }

    /// The next text of a choice; its `first` says who speaks.
    pub(super) fn piece(
        endpoint: Endpoint,
        index: usize,
        text: String,
        logprobs: Option<ChoiceLogprobs>,
        first: bool,
    ) -> Self {
        let choice = Self { index, logprobs, ..Self::default() };
        match endpoint {
            Endpoint::Completions => Self { text: Some(text), ..choice },
            Endpoint::Chat => {
                let role = first.then_some("assistant");
                Self { delta: Some(Message { role, content: Some(text) }), ..choice }
            }
        }
    }

    fn ended(index: usize, run: &Run) -> Self {
        Self { index, finish_reason: Some(finish_reason(run)), seed: Some(run.sampling.seed), ..Self::default() }
    }

    /// The end of a choice.
    pub(super) fn end(endpoint: Endpoint, index: usize, run: &Run) -> Self {
        let choice = Self::ended(index, run);
        match endpoint {
            Endpoint::Completions => Self { text: Some(String::new()), ..choice },
            Endpoint::Chat => Self { delta: Some(Message::default()), ..choice },
        }
    }
}

fn finish_reason(run: &Run) -> &'static str {
    match run.stop_reason {
        StopReason::Stop | StopReason::Eos => "stop",
        StopReason::Length => "length",
        StopReason::Cancelled => "cancelled",
    }
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

/// Of the prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize)]
struct PromptDetails {
    /// Were in the target's cache already.
    cached_tokens: usize,
}

/// What all choices of a request add up to; they share the prompt.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    /// Whether a draft was to propose, and the most that it was to.
    pub(super) drafted: bool,
    pub(super) gamma: usize,
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) cached_tokens: usize,
    /// From the request to the first token of any choice.
    pub(super) time_to_first_token: Option<Duration>,
    pub(super) acceptance: Acceptance,
    /// At k, the cycles that accepted k tokens of a proposal.
    pub(super) acceptance_histogram: Vec<u64>,
    /// Whether one arithmetic made all of it.
    pub(super) exact: bool,
}

impl Totals {
    pub(super) fn of(runs: &[Run]) -> Self {
        let drafted = runs.first().is_some_and(Run::is_drafted);
        let gamma = runs.iter().map(Run::most_gamma).max().unwrap_or(0);
        let mut acceptance = Acceptance::new();
        runs.iter().for_each(|run| acceptance.merge(&run.acceptance));
        let mut acceptance_histogram = vec![0; gamma + 1];
        for cycle in runs.iter().flat_map(|run| &run.cycles).filter(|cycle| cycle.gamma > 0) {
            acceptance_histogram[cycle.accepted] += 1;
        }
        Self {
            drafted,
            gamma,
            prompt_tokens: runs.first().map_or(0, |run| run.prompt.len()),
            completion_tokens: runs.iter().map(|run| run.token_ids.len()).sum(),
            cached_tokens: runs.iter().map(|run| run.cached_tokens).min().unwrap_or(0),
            time_to_first_token: runs.iter().filter_map(|run| run.time_to_first_token).min(),
            acceptance,
            acceptance_histogram,
            exact: runs.iter().all(|run| run.exact),
        }
    }
}

impl Usage {
    pub(super) fn of(totals: &Totals) -> Self {
        let Totals { prompt_tokens, completion_tokens, cached_tokens, .. } = *totals;
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptDetails { cached_tokens },
        }
    }
}

/// What the answer cost.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Metrics {
    /// `null` for AR.
    speculative_decoding: Option<SpeculativeDecoding>,
    /// Where a cycle's time went.
    cycle: Breakdowns,
    /// From the request to the first token of any choice, in seconds.
    time_to_first_token_s: Option<f64>,
    /// A target with another arithmetic has gone on with a choice: the text may not be what one target would have said.
    #[serde(skip_serializing_if = "is_false")]
    inexact_failover: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// vLLM's block of the same name, and the rate by position.
#[derive(Clone, Debug, Serialize)]
struct SpeculativeDecoding {
    mean_acceptance_length: Option<f64>,
    draft_acceptance_rate: Option<f64>,
    /// At k, the steps that accepted k tokens.
    acceptance_histogram: Vec<u64>,
    /// Cycles that proposed something.
    num_spec_steps: u64,
    num_accepted_draft_tokens: u64,
    num_draft_tokens: u64,
    /// γ.
    num_spec_tokens: usize,
    acceptance_per_position: Vec<f64>,
}

impl Metrics {
    /// Of all choices together.
    pub(super) fn of(totals: Totals, runs: Vec<Run>) -> Self {
        let Totals { drafted, gamma, acceptance, acceptance_histogram, time_to_first_token, exact, .. } = totals;
        let speculative_decoding = drafted.then(|| SpeculativeDecoding {
            mean_acceptance_length: acceptance.mean_acceptance_length(),
            draft_acceptance_rate: acceptance.acceptance_rate(),
            acceptance_histogram,
            num_spec_steps: acceptance.drafts(),
            num_accepted_draft_tokens: acceptance.accepted(),
            num_draft_tokens: acceptance.proposed(),
            num_spec_tokens: gamma,
            acceptance_per_position: acceptance.survival(),
        });
        let cycles: Vec<_> = runs.into_iter().flat_map(|run| run.cycles).collect();
        let cycle = Breakdowns::over(&cycles, drafted);
        let time_to_first_token_s = time_to_first_token.map(|time| time.as_secs_f64());
        Self { speculative_decoding, cycle, time_to_first_token_s, inexact_failover: !exact }
    }
}

/// What `/v1/models` lists.
#[derive(Debug, Serialize)]
pub(super) struct Models {
    object: &'static str,
    data: [Model; 1],
}

/// The target, by which the output is known.
#[derive(Debug, Serialize)]
pub(super) struct Model {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens of a prompt and its answer.
    max_model_len: u32,
}

impl Model {
    pub(super) fn of(pair: &Pair) -> Self {
        let target = &pair.target.description;
        // When a model was made is not known, and clients want a number.
        Self {
            id: target.model.clone(),
            object: "model",
            created: 0,
            owned_by: "outrider",
            max_model_len: target.context_length,
        }
    }
}

impl Models {
    pub(super) fn of(pair: &Pair) -> Self {
        Self { object: "list", data: [Model::of(pair)] }
    }
}
