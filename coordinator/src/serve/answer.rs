//! Admission, the runs of a request, and an answer in one piece.

use std::{
    future::{self, Future},
    sync::Arc,
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
    App, Refusal,
    openai::{Choice, Head, Metrics, Usage, json},
    parse::{self, Asked, Endpoint},
    stream,
};
use crate::{Run, generate_paced, replicas::random, text::Piece};

/// A request that is let in.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) app: Arc<App>,
    pub(super) head: Head,
    pub(super) asked: Asked,
    deadline: Instant,
    /// Given back when all of its choices have ended.
    _slots: OwnedSemaphorePermit,
}

/// Answers a request for text.
pub(super) async fn answer(app: Arc<App>, endpoint: Endpoint, request: Request) -> Result<Response, Refusal> {
    let (pair, _) = app.pair()?;
    let deadline = Instant::now() + app.config.request_timeout;
    let parent = parent(request.headers());
    let body = read(&app, request).await?;
    let head = Head::new(endpoint, random(), pair);
    let parsing = {
        let app = app.clone();
        move || parse::parse(endpoint, &body, &app.pair()?.0, &app.config, random())
    };
    // A long prompt takes milliseconds to become tokens, and a chat template is a program.
    let mut asked = task::spawn_blocking(parsing).await.map_err(|_| Refusal::Panicked)??;
    asked.request.parent = parent;
    let slots = app.slots.clone().try_acquire_many_owned(asked.choices as u32);
    let slots = slots.map_err(|_| Refusal::Busy { most: app.config.max_concurrent })?;
    let job = Arc::new(Job { app, head, asked, deadline, _slots: slots });
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
fn parent(headers: &HeaderMap) -> Option<TraceParent> {
    let header = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let tracestate = header("tracestate").unwrap_or_default();
    Some(TraceParent { traceparent: header("traceparent")?, tracestate })
}

impl Job {
    /// Generates a choice.
    pub(super) async fn run<E: Future<Output = ()>>(
        &self,
        index: usize,
        emit: impl FnMut(Piece) -> E,
        cancel: impl Future<Output = ()>,
    ) -> Result<Run, Refusal> {
        let (pair, tracer) = self.app.pair()?;
        let mut request = self.asked.request.clone();
        request.sampling.seed = request.sampling.seed.wrapping_add(index as u64);
        let generating = generate_paced(pair, request, self.app.config.deadlines, tracer, emit, cancel);
        let mut closing = self.app.closing.clone();
        tokio::select! {
            outcome = time::timeout_at(self.deadline, generating) => match outcome {
                Ok(outcome) => outcome.map_err(|error| Refusal::failed(error, self.asked.names)),
                Err(_) => Err(Refusal::Timeout { limit: self.app.config.request_timeout }),
            },
            () = closing.wait() => Err(Refusal::Stopping),
        }
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
    let tokenizer = &job.app.pair()?.0.tokenizer;
    let choices = runs.iter().map(|(index, run)| Choice::whole(job.head.endpoint, *index, run, tokenizer)).collect();
    let runs: Vec<_> = runs.into_iter().map(|(_, run)| run).collect();
    let mut answer = job.head.answer(false, choices);
    answer.usage = Some(Some(Usage::of(&runs)));
    answer.metrics = Some(Metrics::of(runs));
    Ok(json(StatusCode::OK, &answer))
}
