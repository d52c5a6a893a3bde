//! An answer as server-sent events, at the pace of its reader.

use std::{convert::Infallible, iter, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::Response,
};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use super::{
    Refusal,
    answer::Job,
    logprobs::{ChoiceLogprobs, Scribe},
    openai::{Choice, Head, Metrics, Totals, Usage},
};
use crate::{Run, text::Piece};

/// Pieces that wait for a slow client; then the cycle waits.
const OUTBOX: usize = 8;

/// What happens to a choice.
#[derive(Debug)]
pub(super) enum Event {
    Piece { index: usize, piece: Piece },
    Ended { index: usize, run: Box<Run> },
    Failed(Refusal),
}

/// The response, once there is something to say: until then a request can still fail with a status.
pub(super) async fn respond(job: &Arc<Job>) -> Result<Response, Refusal> {
    let (first, events) = events(job).await?;
    let mut writer = Writer::new(job);
    let events = tokio_stream::once(first).chain(ReceiverStream::new(events));
    let body = Body::from_stream(events.map_while(move |event| writer.write(event)).map(Ok::<_, Infallible>));
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Generates all choices; what happens to them, the first of it apart, so that a request can still fail as a whole.
pub(super) async fn events(job: &Arc<Job>) -> Result<(Event, mpsc::Receiver<Event>), Refusal> {
    let (outbox, mut events) = mpsc::channel(OUTBOX);
    for index in 0..job.asked.choices {
        tokio::spawn(run(job.clone(), index, outbox.clone()));
    }
    drop(outbox);
    match events.recv().await {
        Some(Event::Failed(refusal)) => Err(refusal),
        Some(event) => Ok((event, events)),
        None => Err(Refusal::Panicked),
    }
}
/// Generates a choice into `outbox`. Where nobody reads that any more, the run ends.
async fn run(job: Arc<Job>, index: usize, outbox: mpsc::Sender<Event>) {
    let emit = |piece| {
        let outbox = outbox.clone();
        // A reader that is gone is told of by `closed`.
        async move { drop(outbox.send(Event::Piece { index, piece }).await) }
    };
    let ended = match job.run(index, emit, outbox.closed()).await {
        Ok(run) => Event::Ended { index, run: Box::new(run) },
        Err(refusal) => Event::Failed(refusal),
    };
    drop(job);
    let _ = outbox.send(ended).await;
}

/// Turns events into the text of the stream.
struct Writer {
    head: Head,
    include_usage: bool,
    /// Whether a choice has said something.
    begun: Vec<bool>,
    /// For each choice's log-probabilities.
    scribes: Vec<Scribe>,
    ended: Vec<Run>,
    failed: bool,
}

impl Writer {
    fn new(job: &Job) -> Self {
        let tokenizer = &job.pair.0.tokenizer;
        let scribe = || Scribe::new(job.head.endpoint, tokenizer);
        Self {
            head: job.head.clone(),
            include_usage: job.asked.include_usage,
            begun: vec![false; job.asked.choices],
            scribes: iter::repeat_with(scribe).take(job.asked.choices).collect(),
            ended: Vec::new(),
            failed: false,
        }
    }

    /// What the client gets for `event`; `None` ends the stream.
    fn write(&mut self, event: Event) -> Option<Bytes> {
        if self.failed {
            return None;
        }
        let mut text = String::new();
        match event {
            Event::Piece { index, piece } => {
                let logprobs = self.scribes[index].spell(&piece.tokens, &piece.logprobs);
                self.piece(index, piece.text, logprobs, &mut text);
            }
            Event::Ended { index, run } => self.end(index, *run, &mut text),
            Event::Failed(refusal) => {
                refusal.log();
                // Without [DONE]: what has come is not the whole answer.
                message(&refusal.object(), &mut text);
                self.failed = true;
            }
        }
        Some(text.into())
    }

    fn piece(&mut self, index: usize, text: String, logprobs: Option<ChoiceLogprobs>, out: &mut String) {
        let first = !std::mem::replace(&mut self.begun[index], true);
        self.chunk(Choice::piece(self.head.endpoint, index, text, logprobs, first), out);
    }

    fn end(&mut self, index: usize, run: Run, out: &mut String) {
        if !self.begun[index] {
            self.piece(index, String::new(), None, out);
        }
        self.chunk(Choice::end(self.head.endpoint, index, &run), out);
        self.ended.push(run);
        if self.ended.len() == self.begun.len() {
            if self.include_usage {
                let runs = std::mem::take(&mut self.ended);
                let mut answer = self.head.answer(true, Vec::new());
                let totals = Totals::of(&runs);
                answer.usage = Some(Some(Usage::of(&totals)));
                answer.metrics = Some(Metrics::of(totals, runs));
                message(&answer, out);
            }
            out.push_str("data: [DONE]\n\n");
        }
    }

    fn chunk(&self, choice: Choice, out: &mut String) {
        let mut answer = self.head.answer(true, vec![choice]);
        answer.usage = self.include_usage.then_some(None);
        message(&answer, out);
    }
}

fn message(value: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(value).expect("strings and numbers are JSON"));
    out.push_str("\n\n");
}
