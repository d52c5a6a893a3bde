//! Admission, the runs of a request, and an answer in one piece.

use std::{
    future::{self, Future},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use telemetry::TraceParent;
use tokio::{
    sync::OwnedSemaphorePermit,
    task::{self, JoinSet},
    time::{self, Instant},
};

use super::{
    App, Refusal, Served,
    openai::{Choice, Head, Metrics, Totals, Usage, json},
    parse::{self, Asked, Endpoint},
    stream,
};
use crate::{Pair, Run, StopReason, generate_paced, replicas::random, text::Piece};

/// A request that is let in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) app: Arc<App>,
    pub(super) pair: Served,
    pub(super) head: Head,
    pub(super) asked: Asked,
    arrival: Arrival,
    /// Choices that were generated to their end.
    ended: AtomicUsize,
    /// What the first choice that failed failed with.
    failed: OnceLock<StatusCode>,
    /// The trace of the first choice that ended.
    trace_id: OnceLock<String>,
    /// Given back when all of its choices have ended.
    _slots: OwnedSemaphorePermit,
}

/// When a request has come, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    at: Instant,
    limit: Duration,
}

impl Arrival {
    /// Now; the client waits for `patience` at most, where it says.
    pub(super) fn now(app: &App, patience: Option<Duration>) -> Self {
        let limit = app.config.request_timeout;
        Self { at: Instant::now(), limit: patience.map_or(limit, |patience| patience.min(limit)) }
    }

    fn deadline(&self) -> Instant {
        self.at + self.limit
    }
}

/// Answers a request for text.
pub(super) async fn answer(app: Arc<App>, endpoint: Endpoint, request: Request) -> Result<Response, Refusal> {
    app.pair()?;
    let arrival = Arrival::now(&app, None);
    let parent = parent(request.headers());
    let body = read(&app, request).await?;
    let parse = move |app: &App, pair: &Pair, random| parse::body(endpoint, &body, pair, &app.config, random);
    let job = Job::admit(app, endpoint, arrival, parent, parse).await?;
    match job.asked.stream {
        true => stream::respond(&job).await,
        false => whole(&job).await,
    }
}

async fn read(app: &App, request: Request) -> Result<Bytes, Refusal> {
    let limit = app.config.request_timeout;
    match time::timeout(limit, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) => match rejection.into_response().status() {
            StatusCode::PAYLOAD_TOO_LARGE => Err(Refusal::BodySize { most: app.config.max_body_bytes }),
            _ => Err(Refusal::Body("it does not come to its end".to_owned())),
        },
        Err(_) => Err(Refusal::SlowBody { limit }),
    }
}

/// The span of the client that a request belongs to.
pub(super) fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let header = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let tracestate = header("tracestate").unwrap_or_default();
    Some(TraceParent { traceparent: header("traceparent")?, tracestate })
}

impl Job {
    /// Lets a request in, where there is room for what `parse` makes of it.
    pub(super) async fn admit(
        app: Arc<App>,
        endpoint: Endpoint,
        arrival: Arrival,
        parent: Option<TraceParent>,
        parse: impl FnOnce(&App, &Pair, u64) -> Result<Asked, Refusal> + Send + 'static,
    ) -> Result<Arc<Self>, Refusal> {
        let pair = app.pair()?;
        let head = Head::new(endpoint, random(), &pair.0);
        let parsing = {
            let (app, pair) = (app.clone(), pair.clone());
            move || parse(&app, &pair.0, random())
        };
        // A long prompt takes milliseconds to become tokens, and a chat template is a program.
        let mut asked = task::spawn_blocking(parsing).await.map_err(|_| Refusal::Panicked)??;
        asked.request.parent = parent;
        asked.request.deadline = Some(arrival.deadline().into());
        asked.request.record_content = app.config.record_content;
        asked.request.trace_cycles = app.config.trace_cycles;
        let slots = app.slots.clone().try_acquire_many_owned(asked.choices as u32);
        let slots = slots.map_err(|_| Refusal::Busy { most: app.config.max_concurrent })?;
        let (ended, failed, trace_id) = (AtomicUsize::new(0), OnceLock::new(), OnceLock::new());
        Ok(Arc::new(Self { app, pair, head, asked, arrival, ended, failed, trace_id, _slots: slots }))
    }

    /// Generates a choice.
    pub(super) async fn run<E: Future<Output = ()>>(
        &self,
        index: usize,
        emit: impl FnMut(Piece) -> E,
        cancel: impl Future<Output = ()>,
    ) -> Result<Run, Refusal> {
        let _running = self.app.metrics.running();
        let outcome = self.generate(index, emit, cancel).await;
        match &outcome {
            Ok(run) => {
                self.app.metrics.ran(self.head.endpoint, &self.head.model, run);
                if let Some(trace_id) = &run.trace_id {
                    self.trace_id.get_or_init(|| trace_id.clone());
                }
                if run.stop_reason != StopReason::Cancelled {
                    self.ended.fetch_add(1, Relaxed);
                }
            }
            Err(refusal) => drop(self.failed.set(refusal.status())),
        }
        outcome
    }

    async fn generate<E: Future<Output = ()>>(
        &self,
        index: usize,
        emit: impl FnMut(Piece) -> E,
        cancel: impl Future<Output = ()>,
    ) -> Result<Run, Refusal> {
        let (pair, tracer) = &*self.pair;
        let mut request = self.asked.request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(index as u64);
        let generating = generate_paced(pair, request, self.app.config.deadlines, tracer, emit, cancel);
        let mut closing = self.app.closing.clone();
        tokio::select! {
            outcome = time::timeout_at(self.arrival.deadline(), generating) => match outcome {
                Ok(outcome) => outcome.map_err(|error| {
                    if error.is_replicas_own() {
                        self.app.metrics.lost();
                    }
                    Refusal::failed(error, self.asked.names)
                }),
                Err(_) => Err(Refusal::Timeout { limit: self.arrival.limit }),
            },
            () = closing.wait() => Err(Refusal::Stopping),
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let error = match self.failed.get() {
            Some(status) => Some(status.as_str().to_owned()),
            // Whoever asked has gone.
            None if *self.ended.get_mut() < self.asked.choices => Some("cancelled".to_owned()),
            None => None,
        };
        let (took, trace_id) = (self.arrival.at.elapsed(), self.trace_id.get().map(String::as_str));
        self.app.metrics.ended(self.head.endpoint, &self.head.model, took, error, trace_id);
    }
}

/// The answer in one piece. A client that goes away takes this future with it, and that the runs.
async fn whole(job: &Arc<Job>) -> Result<Response, Refusal> {
    let mut running = JoinSet::new();
    for index in 0..job.asked.choices {
        let job = job.clone();
        running.spawn(async move { (index, job.run(index, |_| future::ready(()), future::pending()).await) });
    }
    let mut runs = Vec::new();
    while let Some(ended) = running.join_next().await {
        let (index, run) = ended.map_err(|_| Refusal::Panicked)?;
        runs.push((index, run?));
    }
    runs.sort_by_key(|(index, _)| *index);
    let tokenizer = &job.pair.0.tokenizer;
    let choices = runs.iter().map(|(index, run)| Choice::whole(job.head.endpoint, *index, run, tokenizer)).collect();
    let runs: Vec<_> = runs.into_iter().map(|(_, run)| run).collect();
    let mut answer = job.head.answer(false, choices);
    let totals = Totals::of(&runs);
    answer.usage = Some(Some(Usage::of(&totals)));
    answer.metrics = Some(Metrics::of(totals, runs));
    Ok(json(StatusCode::OK, &answer))
}
