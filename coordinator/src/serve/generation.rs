//! `outrider.v1.GenerationService`: what the HTTP API does, over gRPC.

use std::sync::Arc;

use proto::v1::{
    Ended, FinishReason, GenerateRequest, GenerateResponse, Piece, SpeculativeDecoding, Summary, TokenLogprobs,
    generate_request::Input, generate_response::Event as Said, generation_service_server::GenerationService,
};
use speculative::Logprobs;
use telemetry::server;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, metadata::MetadataValue};

use super::{
    App, Refusal,
    answer::{Arrival, Job, parent},
    openai::Totals,
    parse::{self, Endpoint},
    stream::{self, Event},
};
use crate::{Pair, Run, StopReason};

/// When a client that was turned away may come again, in milliseconds.
const RETRY_PUSHBACK: &str = "1000";

/// Answers over gRPC.
pub(super) struct Generation {
    pub(super) app: Arc<App>,
}

type Answers = ReceiverStream<Result<GenerateResponse, Status>>;

#[tonic::async_trait]
impl GenerationService for Generation {
    type GenerateStream = Answers;

    async fn generate(&self, request: Request<GenerateRequest>) -> Result<Response<Answers>, Status> {
        match self.answer(request).await {
            Ok(answers) => Ok(Response::new(answers)),
            Err(refusal) => Err(status(&refusal)),
        }
    }
}

impl Generation {
    async fn answer(&self, request: Request<GenerateRequest>) -> Result<Answers, Refusal> {
        let app = self.app.clone();
        if !app.keys.allow(request.metadata().as_ref()) {
            return Err(Refusal::Key);
        }
        let arrival = Arrival::now(&app, server::timeout(request.metadata()));
        let parent = parent(request.metadata().as_ref());
        let request = request.into_inner();
        let endpoint = match request.input {
            Some(Input::Conversation(_)) => Endpoint::Chat,
            _ => Endpoint::Completions,
        };
        let parse = move |app: &App, pair: &Pair, random| parse::message(request, pair, &app.config, random);
        let job = Job::admit(app, endpoint, arrival, parent, parse).await?;
        // A request that fails before it says anything fails as a call.
        let (first, events) = stream::events(&job).await?;
        let (outbox, answers) = mpsc::channel(1);
        tokio::spawn(write(job, first, events, outbox));
        Ok(ReceiverStream::new(answers))
    }
}

/// Writes what happens to the choices, until all have ended, one has failed, or nobody reads any more.
async fn write(
    job: Arc<Job>,
    first: Event,
    mut events: mpsc::Receiver<Event>,
    outbox: mpsc::Sender<Result<GenerateResponse, Status>>,
) {
    let (head, choices) = (job.head.clone(), job.asked.choices);
    drop(job);
    let (mut ended, mut event) = (Vec::new(), Some(first));
    while let Some(happened) = event {
        let said = match happened {
            Event::Piece { index, piece } => Ok(Said::Piece(Piece {
                index: index as u32,
                text: piece.text,
                accepted: piece.accepted,
                token_ids: piece.tokens,
                logprobs: piece.logprobs.into_iter().map(logprobs).collect(),
            })),
            Event::Ended { index, run } => {
                let end =
                    Ended { index: index as u32, finish_reason: finish_reason(&run).into(), seed: run.sampling.seed };
                ended.push(*run);
                Ok(Said::Ended(end))
            }
            Event::Failed(refusal) => Err(status(&refusal)),
        };
        let failed = said.is_err();
        if outbox.send(said.map(response)).await.is_err() || failed {
            return;
        }
        if ended.len() == choices {
            let summary = summary(&head.model, &head.system_fingerprint, &Totals::of(&ended));
            let _ = outbox.send(Ok(response(Said::Summary(summary)))).await;
            return;
        }
        event = tokio::select! {
            event = events.recv() => event,
            () = outbox.closed() => return,
        };
    }
}

fn response(said: Said) -> GenerateResponse {
    GenerateResponse { event: Some(said) }
}

fn logprobs(logprobs: Logprobs) -> TokenLogprobs {
    let (top_tokens, top_logprobs) = logprobs.top.into_iter().unzip();
    TokenLogprobs { logprob: logprobs.chosen, top_tokens, top_logprobs }
}

fn finish_reason(run: &Run) -> FinishReason {
    match run.stop_reason {
        StopReason::Stop | StopReason::Eos => FinishReason::Stop,
        StopReason::Length => FinishReason::Length,
        // Whoever has cancelled it reads no more.
        StopReason::Cancelled => FinishReason::Unspecified,
    }
}

fn summary(model: &str, model_fingerprint: &str, totals: &Totals) -> Summary {
    let acceptance = &totals.acceptance;
    Summary {
        model: model.to_owned(),
        model_fingerprint: model_fingerprint.to_owned(),
        prompt_tokens: totals.prompt_tokens as u32,
        completion_tokens: totals.completion_tokens as u32,
        cached_tokens: totals.cached_tokens as u32,
        time_to_first_token_s: totals.time_to_first_token.map(|time| time.as_secs_f64()),
        speculative_decoding: totals.drafted.then(|| SpeculativeDecoding {
            num_spec_tokens: totals.gamma as u32,
            num_spec_steps: acceptance.drafts(),
            num_draft_tokens: acceptance.proposed(),
            num_accepted_draft_tokens: acceptance.accepted(),
            mean_acceptance_length: acceptance.mean_acceptance_length(),
            draft_acceptance_rate: acceptance.acceptance_rate(),
            acceptance_histogram: totals.acceptance_histogram.clone(),
            acceptance_per_position: acceptance.survival(),
        }),
        inexact: !totals.exact,
    }
}

/// A refusal as gRPC tells it.
fn status(refusal: &Refusal) -> Status {
    refusal.log();
    let code = match refusal.status().as_u16() {
        400 | 413 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        404 => Code::NotFound,
        429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        504 | 408 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, refusal.to_string());
    if matches!(code, Code::ResourceExhausted | Code::Unavailable) {
        let pushback = MetadataValue::from_static(RETRY_PUSHBACK);
        status.metadata_mut().insert("grpc-retry-pushback-ms", pushback);
    }
    status
}
