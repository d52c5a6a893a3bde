//! What `/metrics` tells, in the OpenMetrics text format.
//!
//! Names are OpenTelemetry's (GenAI, spelt as its Prometheus exporter spells them), and vLLM's for speculation. Nothing of a
//! prompt or an output is in them.

use std::{
    sync::atomic::{AtomicI64, AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::parse::Endpoint;
use crate::Run;

/// The boundaries that the GenAI conventions advise, in seconds.
const TIME_TO_FIRST_TOKEN_S: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const TIME_PER_OUTPUT_TOKEN_S: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const REQUEST_DURATION_S: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// Below the first of the conventions' boundaries a small model's tokens would all be one.
const FAST_TIME_PER_OUTPUT_TOKEN_S: [f64; 3] = [0.001, 0.0025, 0.005];

/// Which requests.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Kind {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
}

/// Which requests, and why they failed where they did.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Outcome {
    gen_ai_operation_name: &'static str,
    gen_ai_request_model: String,
    error_type: Option<String>,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Position {
    position: u32,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Response {
    route: String,
    status: u16,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    time_to_first_token: Histograms<Kind>,
    time_per_output_token: Histograms<Kind>,
    request_duration: Histograms<Outcome>,
    prompt_tokens: Counter<u64, AtomicU64>,
    cached_tokens: Counter<u64, AtomicU64>,
    generated_tokens: Counter<u64, AtomicU64>,
    drafts: Counter<u64, AtomicU64>,
    draft_tokens: Counter<u64, AtomicU64>,
    accepted_tokens: Counter<u64, AtomicU64>,
    accepted_per_position: Family<Position, Counter<u64, AtomicU64>>,
    running: Gauge<i64, AtomicI64>,
    responses: Family<Response, Counter<u64, AtomicU64>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut all = Self {
            registry: Registry::default(),
            time_to_first_token: Family::new_with_constructor(|| Histogram::new(TIME_TO_FIRST_TOKEN_S)),
            time_per_output_token: Family::new_with_constructor(|| {
                Histogram::new(FAST_TIME_PER_OUTPUT_TOKEN_S.into_iter().chain(TIME_PER_OUTPUT_TOKEN_S))
            }),
            request_duration: Family::new_with_constructor(|| Histogram::new(REQUEST_DURATION_S)),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            drafts: Counter::default(),
            draft_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            accepted_per_position: Family::default(),
            running: Gauge::default(),
            responses: Family::default(),
        };
        all.register();
        all
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds = |name, help, registry: &mut Registry, family| {
            registry.register_with_unit(name, help, Unit::Seconds, family);
        };
        let help = "From the request to the first token of a choice";
        seconds("gen_ai_server_time_to_first_token", help, registry, self.time_to_first_token.clone());
        let help = "Between two tokens of a choice, the first one left out";
        seconds("gen_ai_server_time_per_output_token", help, registry, self.time_per_output_token.clone());
        let help = "From a request to the end of its answer";
        registry.register_with_unit(
            "gen_ai_server_request_duration",
            help,
            Unit::Seconds,
            self.request_duration.clone(),
        );
        for (name, help, counter) in [
            ("outrider_prompt_tokens", "Tokens of prompts, once for each choice", &self.prompt_tokens),
            ("outrider_cached_tokens", "Of these, those that the target had in its cache", &self.cached_tokens),
            ("outrider_generated_tokens", "Tokens of answers", &self.generated_tokens),
            ("outrider_spec_decode_num_drafts", "Cycles that proposed something", &self.drafts),
            ("outrider_spec_decode_num_draft_tokens", "Tokens that were proposed", &self.draft_tokens),
            ("outrider_spec_decode_num_accepted_tokens", "Proposed tokens that were accepted", &self.accepted_tokens),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "outrider_spec_decode_num_accepted_tokens_per_pos",
            "Cycles whose proposal at this position, from 0, was accepted",
            self.accepted_per_position.clone(),
        );
        registry.register("outrider_choices_running", "Choices that are generated now", self.running.clone());
        registry.register("outrider_http_responses", "Answers over HTTP, by their status", self.responses.clone());
    }

    /// The text of them all.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written");
        text
    }

    /// A choice has begun; what is given back ends it when it is dropped.
    pub(super) fn running(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// A choice has ended with a run.
    pub(super) fn ran(&self, endpoint: Endpoint, model: &str, run: &Run) {
        let kind = Kind { gen_ai_operation_name: endpoint.operation(), gen_ai_request_model: model.to_owned() };
        if let Some(time) = run.time_to_first_token {
            self.time_to_first_token.get_or_create(&kind).observe(time.as_secs_f64());
        }
        let decoding: Duration = run.cycles.iter().map(|cycle| cycle.wall).sum();
        if run.token_ids.len() > 1 {
            let per_token = decoding.as_secs_f64() / (run.token_ids.len() - 1) as f64;
            self.time_per_output_token.get_or_create(&kind).observe(per_token);
        }
        self.prompt_tokens.inc_by(run.prompt_tokens as u64);
        self.cached_tokens.inc_by(run.cached_tokens as u64);
        self.generated_tokens.inc_by(run.token_ids.len() as u64);
        self.drafts.inc_by(run.acceptance.drafts());
        self.draft_tokens.inc_by(run.acceptance.proposed());
        self.accepted_tokens.inc_by(run.acceptance.accepted());
        for position in 0..run.gamma {
            let reached = run.cycles.iter().filter(|cycle| cycle.accepted > position).count();
            let position = Position { position: position as u32 };
            self.accepted_per_position.get_or_create(&position).inc_by(reached as u64);
        }
    }

    /// A request has ended.
    pub(super) fn ended(&self, endpoint: Endpoint, model: &str, took: Duration, error_type: Option<String>) {
        let (gen_ai_operation_name, gen_ai_request_model) = (endpoint.operation(), model.to_owned());
        let outcome = Outcome { gen_ai_operation_name, gen_ai_request_model, error_type };
        self.request_duration.get_or_create(&outcome).observe(took.as_secs_f64());
    }

    /// An answer has begun with a status; `route` is one that is served.
    pub(super) fn responded(&self, route: &str, status: u16) {
        self.responses.get_or_create(&Response { route: route.to_owned(), status }).inc();
    }
}

/// A choice that is generated now.
#[derive(Debug)]
pub(super) struct Running(Gauge<i64, AtomicI64>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}
