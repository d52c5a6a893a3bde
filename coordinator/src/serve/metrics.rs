//! What `/metrics` tells, in the OpenMetrics text format.
//!
//! Names are OpenTelemetry's (GenAI, spelt as its Prometheus exporter spells them), and vLLM's for speculation. Nothing of a
//! prompt or an output is in them.

mod distance;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64},
    },
    time::Duration,
};

use axum::response::IntoResponse;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family, gauge::Gauge},
};
use telemetry::{
    Tracer,
    metrics::{self, Exemplar, Histograms, observe},
    names::metric,
};

use self::distance::Distance;
use super::parse::Endpoint;
use crate::{AnticipationOutcome, Cycle, Run, cycle::Part, report::Anticipated};

/// The boundaries that the GenAI conventions advise, in seconds.
const TIME_TO_FIRST_TOKEN_S: [f64; 16] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const TIME_PER_OUTPUT_TOKEN_S: [f64; 13] = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const REQUEST_DURATION_S: [f64; 14] =
    [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];

/// Below the first of the conventions' boundaries a small model's tokens would all be one.
const FAST_TIME_PER_OUTPUT_TOKEN_S: [f64; 3] = [0.001, 0.0025, 0.005];

/// From a small pair's cycle to one whose target was lost.
const CYCLE_S: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

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

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Proposed {
    gamma: u32,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PartLabel {
    part: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ByOutcome {
    outcome: &'static str,
}

type Count = Counter<u64, AtomicU64>;

/// All that is counted.
#[derive(Debug)]
pub(super) struct Metrics {
    all: Arc<metrics::Metrics>,
    time_to_first_token: Histograms<Kind>,
    time_per_output_token: Histograms<Kind>,
    request_duration: Histograms<Outcome>,
    prompt_tokens: Count,
    cached_tokens: Count,
    generated_tokens: Count,
    drafts: Count,
    draft_tokens: Count,
    accepted_tokens: Count,
    accepted_per_position: Family<Position, Count>,
    cycles: Family<Proposed, Count>,
    cycle_duration: HistogramWithExemplars<Exemplar>,
    cycle_time: Family<PartLabel, Counter<f64, AtomicU64>>,
    draft_absent: Count,
    anticipation: Family<ByOutcome, Count>,
    anticipation_wasted_rows: Count,
    anticipation_saved: Counter<f64, AtomicU64>,
    failovers: Family<ByOutcome, Count>,
    running: Gauge<i64, AtomicI64>,
    responses: Family<Response, Count>,
    distance: Arc<Mutex<Distance>>,
}

/// A histogram with these boundaries, in seconds.
macro_rules! seconds {
    ($boundaries:expr) => {
        Histograms::new_with_constructor(|| HistogramWithExemplars::new($boundaries.into_iter()))
    };
}

impl Metrics {
    /// Of a coordinator that makes its spans with `tracer`, once it is there.
    pub(super) fn new(tracer: impl Fn() -> Option<Tracer> + Send + Sync + 'static) -> Self {
        let mut all = metrics::Metrics::default();
        let distance = Arc::<Mutex<Distance>>::default();
        let told = distance.clone();
        all.register_reading(&[&metric::BREAK_EVEN_RTT], move |reading| {
            let rtt_s = told.lock().unwrap_or_else(PoisonError::into_inner).break_even_rtt_s();
            rtt_s.map_or(Ok(()), |rtt_s| reading.tell(&metric::BREAK_EVEN_RTT, &[(&[], rtt_s)]))
        });
        all.register_spans(tracer);
        let mut told = Self {
            all: Arc::default(),
            time_to_first_token: seconds!(TIME_TO_FIRST_TOKEN_S),
            time_per_output_token: seconds!(
                FAST_TIME_PER_OUTPUT_TOKEN_S.into_iter().chain(TIME_PER_OUTPUT_TOKEN_S).collect::<Vec<_>>()
            ),
            request_duration: seconds!(REQUEST_DURATION_S),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            drafts: Counter::default(),
            draft_tokens: Counter::default(),
            accepted_tokens: Counter::default(),
            accepted_per_position: Family::default(),
            cycles: Family::default(),
            cycle_duration: HistogramWithExemplars::new(CYCLE_S.into_iter()),
            cycle_time: Family::default(),
            draft_absent: Counter::default(),
            anticipation: Family::default(),
            anticipation_wasted_rows: Counter::default(),
            anticipation_saved: Counter::default(),
            failovers: Family::default(),
            running: Gauge::default(),
            responses: Family::default(),
            distance,
        };
        // Counted from 0 on, so that the first one is seen to be one more.
        for outcome in ["continued", "failed"] {
            drop(told.failovers.get_or_create(&ByOutcome { outcome }));
        }
        for outcome in AnticipationOutcome::ALL {
            drop(told.anticipation.get_or_create(&ByOutcome { outcome: outcome.as_str() }));
        }
        told.register(&mut all);
        told.all = Arc::new(all);
        told
    }

    fn register(&self, all: &mut metrics::Metrics) {
        all.register(&metric::TIME_TO_FIRST_TOKEN, self.time_to_first_token.clone());
        all.register(&metric::TIME_PER_OUTPUT_TOKEN, self.time_per_output_token.clone());
        all.register(&metric::REQUEST_DURATION, self.request_duration.clone());
        all.register(&metric::PROMPT_TOKENS, self.prompt_tokens.clone());
        all.register(&metric::CACHED_TOKENS, self.cached_tokens.clone());
        all.register(&metric::GENERATED_TOKENS, self.generated_tokens.clone());
        all.register(&metric::NUM_DRAFTS, self.drafts.clone());
        all.register(&metric::NUM_DRAFT_TOKENS, self.draft_tokens.clone());
        all.register(&metric::NUM_ACCEPTED_TOKENS, self.accepted_tokens.clone());
        all.register(&metric::NUM_ACCEPTED_TOKENS_PER_POS, self.accepted_per_position.clone());
        all.register(&metric::CYCLES, self.cycles.clone());
        all.register(&metric::CYCLE_DURATION, self.cycle_duration.clone());
        all.register(&metric::CYCLE_TIME, self.cycle_time.clone());
        all.register(&metric::DRAFT_ABSENT_CYCLES, self.draft_absent.clone());
        all.register(&metric::ANTICIPATION, self.anticipation.clone());
        all.register(&metric::ANTICIPATION_WASTED_ROWS, self.anticipation_wasted_rows.clone());
        all.register(&metric::ANTICIPATION_SAVED, self.anticipation_saved.clone());
        all.register(&metric::FAILOVERS, self.failovers.clone());
        all.register(&metric::CHOICES_RUNNING, self.running.clone());
        all.register(&metric::HTTP_RESPONSES, self.responses.clone());
    }

    /// All of them, to be told.
    pub(super) fn all(&self) -> Arc<metrics::Metrics> {
        self.all.clone()
    }

    /// The answer to a request for them.
    pub(super) fn answer(&self) -> impl IntoResponse + use<> {
        self.all.answer()
    }

    /// A choice has begun; what is given back ends it when it is dropped.
    pub(super) fn running(&self) -> Running {
        self.running.inc();
        Running(self.running.clone())
    }

    /// A choice has ended with a run.
    pub(super) fn ran(&self, endpoint: Endpoint, model: &str, run: &Run) {
        let kind = Kind { gen_ai_operation_name: endpoint.operation(), gen_ai_request_model: model.to_owned() };
        let trace_id = run.trace_id.as_deref();
        if let Some(time) = run.time_to_first_token {
            observe(&self.time_to_first_token.get_or_create(&kind), time.as_secs_f64(), trace_id);
        }
        let decoding: Duration = run.cycles.iter().map(|cycle| cycle.wall).sum();
        if run.token_ids.len() > 1 {
            let per_token = decoding.as_secs_f64() / (run.token_ids.len() - 1) as f64;
            observe(&self.time_per_output_token.get_or_create(&kind), per_token, trace_id);
        }
        self.prompt_tokens.inc_by(run.prompt.len() as u64);
        self.cached_tokens.inc_by(run.cached_tokens as u64);
        self.generated_tokens.inc_by(run.token_ids.len() as u64);
        self.drafts.inc_by(run.acceptance.drafts());
        self.draft_tokens.inc_by(run.acceptance.proposed());
        self.accepted_tokens.inc_by(run.acceptance.accepted());
        for position in 0..run.most_gamma() {
            let reached = run.cycles.iter().filter(|cycle| cycle.accepted > position).count();
            let position = Position { position: position as u32 };
            self.accepted_per_position.get_or_create(&position).inc_by(reached as u64);
        }
        for cycle in &run.cycles {
            self.cycled(cycle, trace_id);
        }
        if let Some(Anticipated { wasted_rows, saved_s, .. }) = Anticipated::over(&run.cycles) {
            self.anticipation_wasted_rows.inc_by(wasted_rows);
            self.anticipation_saved.inc_by(saved_s);
        }
        if run.failovers > 0 {
            self.failovers.get_or_create(&ByOutcome { outcome: "continued" }).inc_by(run.failovers);
        }
        self.distance.lock().unwrap_or_else(PoisonError::into_inner).learn(run);
    }

    fn cycled(&self, cycle: &Cycle, trace_id: Option<&str>) {
        self.cycles.get_or_create(&Proposed { gamma: cycle.gamma as u32 }).inc();
        observe(&self.cycle_duration, cycle.wall.as_secs_f64(), trace_id);
        if cycle.lacks_draft() {
            self.draft_absent.inc();
        }
        if let Some(anticipation) = cycle.anticipation {
            self.anticipation.get_or_create(&ByOutcome { outcome: anticipation.outcome.as_str() }).inc();
        }
        for part in Part::ALL {
            let label = PartLabel { part: part.as_str() };
            self.cycle_time.get_or_create(&label).inc_by(cycle.part(part).as_secs_f64());
        }
    }

    /// A choice has failed because its target was lost.
    pub(super) fn lost(&self) {
        self.failovers.get_or_create(&ByOutcome { outcome: "failed" }).inc();
    }

    /// A request has ended.
    pub(super) fn ended(
        &self,
        endpoint: Endpoint,
        model: &str,
        took: Duration,
        error_type: Option<String>,
        trace_id: Option<&str>,
    ) {
        let (gen_ai_operation_name, gen_ai_request_model) = (endpoint.operation(), model.to_owned());
        let outcome = Outcome { gen_ai_operation_name, gen_ai_request_model, error_type };
        observe(&self.request_duration.get_or_create(&outcome), took.as_secs_f64(), trace_id);
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
